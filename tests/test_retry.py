"""What is tried again, how often, and after which pause.

``_Attempts`` decides and neither sends nor sleeps: its rules come first, and
without a network. Then the same over the wire; trouble of the network itself
is in ``test_network.py``.
"""

import itertools
import logging
import math
import pickle
import socket
import threading
import time
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from email.utils import format_datetime

import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pdpyras
from tests import wire
from tests.support import KEY, examples

URL = "https://api.pagerduty.com/users"


@pytest.fixture
def client():
    """A session whose pauses are 2, 4, 8 ... seconds; it sends nothing."""
    with pdpyras.APISession(KEY) as session:
        session.sleep_timer = 1
        yield session


def answer(status, **headers):
    """A response as the policy sees it; ``_`` in names stands for ``-``."""
    response = requests.Response()
    response.status_code = status
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


def pauses(client, statuses, **headers):
    """The pause after each of these answers, up to one without."""
    attempts = pdpyras._Attempts(client, "GET", URL)
    found = []
    for status in statuses:
        pause = attempts.after_response(answer(status, **headers))
        if pause is None:
            return found
        found.append(pause)
    raise AssertionError(f"no end after {found}")


def first_pause(client, status=429, **headers):
    attempts = pdpyras._Attempts(client, "GET", URL)
    return attempts.after_response(answer(status, **headers))


def forever(status):
    return itertools.repeat(status)


def in_seconds(seconds):
    """An HTTP date, so many seconds from now."""
    moment = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    return format_datetime(moment, usegmt=True)


# ---------------------------------------------------------------------------
# How often
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "max_http_attempts, expected",
    [(4, [2, 4, 8, 16]), (6, [2, 4, 8, 16, 32])],
    ids=["30 seconds", "62 seconds"],
)
def test_the_worked_examples_of_the_guide(max_http_attempts, expected, client):
    client.retry[404] = 5
    client.max_http_attempts = max_http_attempts
    client.sleep_timer = 1
    client.sleep_timer_base = 2
    assert pauses(client, forever(404)) == expected


@pytest.mark.parametrize("status", [200, 201, 204, 302, 400, 404, 500, 503])
def test_without_an_entry_in_retry_nothing_is_tried_again(status, client):
    assert first_pause(client, status) is None


@pytest.mark.parametrize("status", [200, 201, 204])
@pytest.mark.parametrize("limit", [3, -1])
def test_a_success_in_retry_is_ignored(status, limit, client):
    client.retry[status] = limit
    assert first_pause(client, status) is None


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_retry_of_minus_one_is_without_limit(status, client):
    client.retry[status] = -1
    client.max_http_attempts = 3
    attempts = pdpyras._Attempts(client, "GET", URL)
    for _ in range(2000):
        assert attempts.after_response(answer(status))


@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_a_retry_of_zero_is_no_retry_and_no_exception(status, client, caplog):
    client.retry[status] = 0
    assert first_pause(client, status) is None
    assert caplog.records == []


@pytest.mark.parametrize("status", [401, 404, 429, 500])
@pytest.mark.parametrize("limit", [1, 3])
def test_retry_says_how_often_a_status_is_tried_again(status, limit, client):
    client.retry[status] = limit
    assert len(pauses(client, forever(status))) == limit


def test_retry_counts_each_status_by_itself(client):
    client.retry.update({500: 2, 502: 1})
    assert len(pauses(client, [500, 502, 500, 502])) == 3
    assert len(pauses(client, [502, 500, 500, 500])) == 3
    assert len(pauses(client, [500, 404])) == 1


def test_max_http_attempts_limits_all_statuses_together(client):
    client.retry.update({500: 9, 502: 9})
    client.max_http_attempts = 3
    assert pauses(client, [500, 502, 500, 502]) == [2, 4, 8]
    client.max_http_attempts = 0
    assert first_pause(client, 500) is None


def test_unlimited_retries_do_not_count_for_max_http_attempts(client):
    client.retry[500] = 2
    client.max_http_attempts = 2
    statuses = [429] * 20 + [500, 429, 500, 500]
    assert len(pauses(client, statuses)) == 23


def test_the_default_settings_of_retrying():
    assert pdpyras.PDSession.max_http_attempts == 10
    assert pdpyras.PDSession.max_network_attempts == 3
    assert pdpyras.PDSession.sleep_timer == 1.5
    assert pdpyras.PDSession.sleep_timer_base == 2
    assert pdpyras.PDSession.sleep_timer_max == 60
    assert pdpyras.PDSession.stagger_cooldown.fget is not None
    assert pdpyras.APISession(KEY).stagger_cooldown == 0
    assert pdpyras.APISession(KEY).retry == {}
    for kind in (pdpyras.EventsAPISession, pdpyras.ChangeEventsAPISession):
        assert kind(KEY).retry == {500: 2, 502: 4, 503: 6, 504: 6}


def test_each_session_has_its_own_retry_and_stagger_cooldown():
    for kind in (pdpyras.APISession, pdpyras.EventsAPISession):
        one, other = kind(KEY), kind(KEY)
        one.retry[500] = 99
        one.stagger_cooldown = 1
        assert other.retry.get(500) != 99
        assert other.stagger_cooldown == 0
    assert pdpyras.PDSession.retry == {}


def test_a_subclass_may_state_its_own_retry():
    class Mine(pdpyras.APISession):
        retry = {502: 3}

    mine = Mine(KEY)
    mine.retry[500] = 1
    assert mine.retry == {502: 3, 500: 1}
    assert Mine.retry == {502: 3}


# ---------------------------------------------------------------------------
# After which pause
# ---------------------------------------------------------------------------


def test_pauses_grow_by_sleep_timer_base(client):
    client.retry[500] = 4
    client.sleep_timer = 0.5
    client.sleep_timer_base = 3
    assert pauses(client, forever(500)) == [1.5, 4.5, 13.5, 40.5]
    assert client.sleep_timer == 0.5


def test_cooldown_factor_may_be_overridden():
    class Patient(pdpyras.APISession):
        def cooldown_factor(self):
            return 10

    patient = Patient(KEY)
    patient.retry[500] = 2
    patient.sleep_timer_max = 1000
    assert pauses(patient, forever(500)) == [15, 150]


def test_stagger_cooldown_varies_the_factor_at_random(client):
    assert {client.cooldown_factor() for _ in range(9)} == {2}
    client.stagger_cooldown = 0.5
    factors = [client.cooldown_factor() for _ in range(300)]
    assert all(2 <= factor <= 3 for factor in factors)
    assert max(factors) - min(factors) > 0.8


def test_stagger_cooldown_varies_each_pause_by_itself(client):
    client.retry[500] = 9
    client.sleep_timer_max = 1e9
    client.stagger_cooldown = 1
    found = [1] + pauses(client, forever(500))
    factors = [after / before for before, after in zip(found, found[1:])]
    assert all(1.999 < factor < 4.001 for factor in factors)
    assert len(set(factors)) > 1


@pytest.mark.parametrize("share", [0, 0.0, 0.1, 1, 20])
def test_what_stagger_cooldown_may_be(share, client):
    client.stagger_cooldown = share
    assert client.stagger_cooldown == share


@pytest.mark.parametrize(
    "share", [-1, -0.1, "1", None, True, [], float("nan"), float("inf")]
)
def test_what_stagger_cooldown_may_not_be(share, client):
    client.stagger_cooldown = 0.25
    with pytest.raises(ValueError, match="stagger_cooldown"):
        client.stagger_cooldown = share
    assert client.stagger_cooldown == 0.25


@pytest.mark.parametrize("status", [429, 503])
def test_sleep_timer_max_caps_the_pauses_after_429_and_503(status, client):
    client.retry[503] = -1
    attempts = pdpyras._Attempts(client, "GET", URL)
    found = [attempts.after_response(answer(status)) for _ in range(8)]
    assert found == [2, 4, 8, 16, 32, 60, 60, 60]
    client.sleep_timer_max = 3
    attempts = pdpyras._Attempts(client, "GET", URL)
    found = [attempts.after_response(answer(status)) for _ in range(3)]
    assert found == [2, 3, 3]


@pytest.mark.parametrize("status", [404, 500, 502, 504])
def test_sleep_timer_max_caps_every_pause_of_the_formula(status, client):
    client.retry[status] = 7
    assert pauses(client, forever(status)) == [2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "headers, expected",
    [
        ({"ratelimit_reset": "7", "ratelimit_remaining": "0"}, 7),
        ({"Ratelimit_Reset": "37.5", "ratelimit_remaining": "0"}, 37.5),
        ({"Retry_After": "7"}, 7),
        ({"retry_after": " 90 "}, 90),
        ({"Retry_After": "3600"}, 3600),
        ({"Retry_After": "0.1"}, 0.1),
        ({"ratelimit_reset": "1", "ratelimit_remaining": "0"}, 1),
        # Of both, the longer one; of one, the usable one.
        ({"ratelimit_reset": "7", "Retry_After": "9"}, 9),
        (
            {
                "ratelimit_reset": "9",
                "ratelimit_remaining": "0",
                "Retry_After": "7",
            },
            9,
        ),
        ({"ratelimit_reset": "soon", "Retry_After": "7"}, 7),
        (
            {
                "ratelimit_reset": "7",
                "ratelimit_remaining": "0",
                "Retry_After": "3601",
            },
            7,
        ),
        ({"ratelimit_reset": "0", "Retry_After": "7"}, 7),
        # Nothing that can be used: the formula.
        ({}, 2),
        ({"ratelimit_reset": "0"}, 2),
        ({"Retry_After": "0"}, 2),
        ({"ratelimit_reset": "0", "Retry_After": "0"}, 2),
        ({"ratelimit_reset": "0.001"}, 2),
        ({"ratelimit_reset": "-1"}, 2),
        ({"Retry_After": "3601"}, 2),
        ({"Retry_After": "1e999"}, 2),
        ({"Retry_After": "nan"}, 2),
        ({"Retry_After": ""}, 2),
        ({"Retry_After": "soon"}, 2),
        ({"Retry_After": "Fri, 31 Nov 2020 25:61:61 GMT"}, 2),
        ({"Retry_After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 2),
        ({"Retry_After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 2),
        ({"Retry_After": "Fri, 31 Dec 1999 23:59:59 -0000"}, 2),
        ({"Retry_After": "Fri, " + "9" * 20 + " Nov 2020 1:1:1 GMT"}, 2),
    ],
    ids=repr,
)
def test_the_wait_that_ratelimit_reset_or_retry_after_asks_for(
    status, headers, expected, client
):
    client.retry[503] = 1
    assert first_pause(client, status, **headers) == expected


@pytest.mark.parametrize("remaining", [{}, {"ratelimit_remaining": "900"}])
def test_ratelimit_reset_beside_a_503_counts_if_nothing_remains(
    remaining, client
):
    client.retry[503] = 1
    headers = dict(remaining, ratelimit_reset="55")
    assert first_pause(client, 503, **headers) == 2
    assert first_pause(client, 429, **headers) == 55


@pytest.fixture
def in_tokyo():
    """The process has a time zone of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_a_retry_after_that_is_a_date(zone, client, in_tokyo):
    date = in_seconds(600).replace("GMT", zone)
    assert 560 < first_pause(client, 429, Retry_After=date) <= 600


def test_a_retry_after_that_is_a_date_of_another_zone(client):
    date = in_seconds(3600 + 600).replace("GMT", "+0100")
    assert 560 < first_pause(client, 429, Retry_After=date) <= 600


def test_a_retry_after_that_is_past_or_far_is_not_believed(client):
    assert first_pause(client, 429, Retry_After=in_seconds(-600)) == 2
    assert first_pause(client, 429, Retry_After=in_seconds(4000)) == 2


@pytest.mark.parametrize("status", [404, 500, 502])
def test_retry_after_counts_with_429_and_503_only(status, client):
    client.retry[status] = 1
    assert first_pause(client, status, Retry_After="30") == 2


def test_ratelimit_reset_may_exceed_sleep_timer_max(client):
    client.sleep_timer_max = 5
    assert first_pause(client, 429, ratelimit_reset="100") == 100


def test_stagger_cooldown_shortens_no_ratelimit_reset(client):
    client.stagger_cooldown = 0.5
    found = [
        first_pause(client, 429, ratelimit_reset="10") for _ in range(300)
    ]
    assert all(10 <= pause <= 15 for pause in found)
    assert max(found) - min(found) > 4


@settings(
    deadline=None, database=None, derandomize=True, max_examples=examples(200)
)
@given(st.text(max_size=30), st.text(max_size=30))
@example("0.0", "-0.0")
@example("inf", "-inf")
@example("Mon, 01 Jan 0001 00:00:00 +2359", "Mon, 01 Jan 1 0:0:0 -2359")
@example("Fri, 9999999999 Nov 2020 1:1:1 GMT", "1 Nov 99999999999 1:1:1 GMT")
def test_no_header_makes_a_hot_loop_or_an_endless_wait(reset, retry_after):
    client = pdpyras.APISession(KEY)
    pause = first_pause(
        client, 429, ratelimit_reset=reset, Retry_After=retry_after
    )
    assert 0 < pause <= 3600


# ---------------------------------------------------------------------------
# A wait longer than allowed
# ---------------------------------------------------------------------------


def as_it_is(error):
    return error


def through_pickle(error):
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("passed_on", [as_it_is, through_pickle])
def test_a_wait_beyond_max_rate_wait_is_an_error(passed_on, client):
    client.max_rate_wait = 30
    assert first_pause(client, 429, ratelimit_reset="30") == 30
    with pytest.raises(pdpyras.PDRateLimitError) as caught:
        first_pause(client, 429, ratelimit_reset="31")
    error = passed_on(caught.value)
    assert isinstance(error, pdpyras.PDHTTPError)
    assert error.retry_after == 31
    assert error.response.status_code == 429
    assert "31 s" in str(error)
    assert "max_rate_wait" in str(error)


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("longest", [0, 1])
def test_max_rate_wait_does_not_bound_other_pauses(longest, status, client):
    client.max_rate_wait = longest
    client.retry[status] = 1
    assert first_pause(client, status) == 2


# ---------------------------------------------------------------------------
# The key is not accepted
# ---------------------------------------------------------------------------


def test_a_401_is_an_error_at_once(client):
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        first_pause(client, 401)
    assert not isinstance(caught.value, pdpyras.PDServerError)
    text = str(caught.value)
    assert f"GET {URL}" in text
    assert "*-key" in text
    assert KEY not in text
    assert "service region" in text
    assert client.url in text


def test_a_401_in_retry_is_like_any_other_status(client):
    client.retry[401] = 2
    assert pauses(client, forever(401)) == [2, 4]


# ---------------------------------------------------------------------------
# Trouble on the way
# ---------------------------------------------------------------------------


def test_max_network_attempts_bounds_the_retries_after_trouble(client):
    error = requests.exceptions.ConnectionError("reset")
    attempts = pdpyras._Attempts(client, "GET", URL)
    assert [attempts.after_network_error(error) for _ in range(3)] == [2, 4, 8]
    with pytest.raises(pdpyras.PDClientError) as caught:
        attempts.after_network_error(error)
    assert caught.value.__cause__ is error
    assert caught.value.response is None
    assert type(caught.value) is pdpyras.PDClientError
    assert "4 attempts" in str(caught.value)
    assert f"GET {URL}" in str(caught.value)


def test_max_network_attempts_of_zero_is_no_retry(client):
    client.max_network_attempts = 0
    attempts = pdpyras._Attempts(client, "GET", URL)
    with pytest.raises(pdpyras.PDClientError, match="1 attempt "):
        attempts.after_network_error(requests.exceptions.Timeout())


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.InvalidURL("no host"),
        requests.exceptions.InvalidHeader("newline"),
        requests.exceptions.TooManyRedirects("30"),
        requests.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED"),
        requests.exceptions.SSLError("CertificateError: other host"),
        TypeError("not serializable"),
        ValueError("out of range"),
    ],
    ids=repr,
)
def test_what_no_retry_can_cure(error, client):
    attempts = pdpyras._Attempts(client, "GET", URL)
    with pytest.raises(pdpyras.PDClientError) as caught:
        attempts.after_network_error(error)
    assert caught.value.__cause__ is error
    assert str(error) in str(caught.value)


def test_max_http_attempts_and_max_network_attempts_count_apart(client):
    client.retry[500] = 2
    client.max_http_attempts = 2
    client.max_network_attempts = 1
    attempts = pdpyras._Attempts(client, "GET", URL)
    trouble = requests.exceptions.ConnectionError()
    assert attempts.after_response(answer(500)) == 2
    assert attempts.after_network_error(trouble) == 4
    assert attempts.after_response(answer(500)) == 8
    assert attempts.after_response(answer(500)) is None
    with pytest.raises(pdpyras.PDClientError):
        attempts.after_network_error(trouble)


@pytest.mark.parametrize(
    "error, timeout, expected",
    [
        (requests.exceptions.ConnectTimeout(), 5, "No connection within 5 s"),
        (requests.exceptions.ReadTimeout(), 0.5, "No answer within 0.5 s"),
        (requests.exceptions.ConnectTimeout(), (3, 9), "within 3 s"),
        (requests.exceptions.ReadTimeout(), (3, 9), "within 9 s"),
        (requests.exceptions.ReadTimeout(), None, "the timeout (None)"),
        (
            requests.exceptions.ConnectionError(OSError("cable cut")),
            5,
            "OSError: cable cut",
        ),
        (socket.timeout("slow"), 5, "slow"),
    ],
    ids=repr,
)
def test_the_reason_for_giving_up_is_said_in_words(
    error, timeout, expected, client
):
    client.max_network_attempts = 0
    attempts = pdpyras._Attempts(client, "GET", URL, {"timeout": timeout})
    with pytest.raises(pdpyras.PDClientError) as caught:
        attempts.after_network_error(error)
    assert expected in str(caught.value)


def test_errors_that_hold_each_other_are_no_trap(client):
    error = requests.exceptions.ConnectionError("outer")
    error.reason = error
    attempts = pdpyras._Attempts(client, "GET", URL)
    assert attempts.after_network_error(error) == 2


def test_errors_that_cause_each_other_are_no_trap(client):
    one, other = requests.exceptions.Timeout(), OSError("other")
    one.__cause__, other.__cause__ = other, one
    attempts = pdpyras._Attempts(client, "GET", URL)
    assert attempts.after_network_error(one) == 2


def test_an_error_that_has_nothing_to_do_with_what_is_handled(client):
    error = requests.exceptions.Timeout()
    try:
        raise KeyError("of the caller")
    except KeyError:
        attempts = pdpyras._Attempts(client, "GET", URL)
        assert attempts.after_network_error(error) == 2


# ---------------------------------------------------------------------------
# What is logged
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, level",
    [
        (404, logging.WARNING),
        (429, logging.DEBUG),
        (500, logging.WARNING),
    ],
)
def test_each_retry_after_an_answer_is_logged(status, level, client, caplog):
    client.retry.update({404: 1, 500: 1})
    with caplog.at_level(logging.DEBUG, logger="pdpyras"):
        first_pause(client, status)
    (record,) = caplog.records
    assert record.levelno == level
    assert f"GET {URL}" in record.getMessage()
    assert f"status {status}" in record.getMessage()
    assert "2 s" in record.getMessage()


@pytest.mark.parametrize(
    "seconds, level",
    [("9.9", logging.DEBUG), ("10", logging.WARNING), ("60", logging.WARNING)],
)
def test_a_long_wait_for_the_limit_is_a_warning(
    seconds, level, client, caplog
):
    with caplog.at_level(logging.DEBUG, logger="pdpyras"):
        first_pause(client, 429, Retry_After=seconds)
    (record,) = caplog.records
    assert record.levelno == level
    assert f"in {seconds} s" in record.getMessage()


def test_each_retry_after_trouble_is_logged(client, caplog):
    attempts = pdpyras._Attempts(client, "GET", URL)
    attempts.after_network_error(requests.exceptions.ConnectionError("reset"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"GET {URL}" in record.getMessage()
    assert "reset" in record.getMessage()
    assert "2 s" in record.getMessage()


def test_giving_up_is_logged(client, caplog):
    client.retry[500] = 1
    pauses(client, forever(500))
    record = caplog.records[-1]
    assert record.levelno == logging.ERROR
    assert "retry[500]=1" in record.getMessage()
    assert record.getMessage() == (
        f"GET {URL}: status 500 remains after 1 retries (retry[500]=1, "
        "max_http_attempts=10)."
    )


def test_giving_up_names_what_sets_the_limit(client, caplog):
    pauses(client, forever(408))
    text = caplog.records[-1].getMessage()
    assert "after 3 retries (max_network_attempts=3, " in text
    client.retry_reads = True
    pauses(client, forever(503))
    text = caplog.records[-1].getMessage()
    assert "after 3 retries (retry_reads, " in text


def test_a_status_that_is_none_is_not_kept(client):
    before = dict(client.retry)
    with pytest.raises((TypeError, ValueError)):
        client.retry.setdefault("some", 3)
    assert dict(client.retry) == before
    assert client.retry.setdefault("502", 3) == client.retry[502] == 3


def test_retries_are_logged_by_the_log_of_the_session(client, caplog):
    mine = logging.Logger("mine")  # noqa: LOG001
    mine.addHandler(caplog.handler)
    client.log = mine
    first_pause(client, 429)
    assert [record.name for record in caplog.records] == ["mine"]


# ---------------------------------------------------------------------------
# Over the wire
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "max_http_attempts, expected",
    [(4, [2, 4, 8, 16]), (6, [2, 4, 8, 16, 32])],
    ids=["30 seconds", "62 seconds"],
)
def test_the_worked_examples_over_the_wire(
    max_http_attempts, expected, server, session, naps
):
    server.handler = lambda request: wire.Answer(404)
    session.max_http_attempts = max_http_attempts
    session.retry[404] = 5
    session.sleep_timer = 1
    session.sleep_timer_base = 2
    response = session.get("/users/PNOEXST")
    assert response.status_code == 404
    assert naps == expected
    assert len(server.requests) == len(expected) + 1


def test_the_default_pauses(server, session, naps):
    server.reply(429, times=3)
    assert session.get("users").status_code == 200
    assert naps == [3, 6, 12]


def test_ratelimit_reset_and_retry_after_over_the_wire(server, session, naps):
    server.reply(429, headers={"ratelimit-reset": "7"})
    server.reply(429, headers={"Retry-After": "11"})
    server.reply(429, headers={"ratelimit-reset": "0"})
    server.reply(json={"user": {"id": "P1"}})
    assert session.rget("users/P1") == {"id": "P1"}
    assert naps == [7, 11, 12]


def test_retry_after_of_a_503_over_the_wire(server, session, naps):
    session.retry[503] = 2
    server.reply(503, headers={"Retry-After": "21"})
    server.reply(503, headers={"Retry-After": "never"})
    assert session.get("users").status_code == 200
    assert naps == [21, 6]


def test_a_503_that_is_not_in_retry_is_an_error(server, session, naps):
    server.reply(503, headers={"Retry-After": "21"})
    with pytest.raises(pdpyras.PDServerError):
        session.rget("users")
    assert naps == []


def test_a_401_over_the_wire(server, session, naps):
    server.reply(401, json={"error": {"message": "No.", "code": 2006}})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.get("users")
    assert caught.value.code == 2006
    assert "No." in str(caught.value)
    assert len(server.requests) == 1
    assert naps == []


def test_a_401_may_be_the_callers_to_have(server, session, naps):
    session.retry[401] = 0
    server.reply(401)
    assert session.get("users").status_code == 401


def test_the_last_response_is_returned(server, session, naps):
    session.retry[500] = 1
    server.reply(500, body=b"first")
    server.reply(500, body=b"last")
    assert session.get("users").text == "last"
    server.reply(500, body=b"first")
    server.reply(404, body=b"another status")
    assert session.get("users").text == "another status"


def test_every_call_starts_afresh(server, session, naps):
    server.handler = lambda request: wire.Answer(500)
    session.retry[500] = 2
    session.get("users")
    session.get("users")
    assert naps == [3, 6, 3, 6]
    assert session.sleep_timer == 1.5
    assert len(server.requests) == 6


def test_every_call_starts_afresh_after_trouble(server, session, naps):
    for _ in range(3):
        server.fault("close", "status", times=3)
        server.reply(json={"user": {"id": "P1"}})
        assert session.rget("users/P1") == {"id": "P1"}
        session.close()  # A connection kept alive is another matter.
    assert naps == [3, 6, 12] * 3


class Failing:
    """A stand-in for what is behind a session; it fails as it is told."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    def request(self, method, url, **options):
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def answered(session):
    """An answer for ``Failing`` to give."""
    answer = requests.Response()
    answer.status_code = 200
    answer.request = requests.Request("GET", session.url).prepare()
    answer.elapsed = timedelta(seconds=1)
    return answer


def test_errors_of_no_known_kind_are_retried(session, naps):
    answer = answered(session)
    session.parent = Failing(
        pdpyras.HTTPError(),
        pdpyras.PoolError(None, "of a pool"),
        pdpyras.RequestException(),
        answer,
    )
    assert session.get("/users") is answer
    assert naps == [3, 6, 12]


def test_errors_of_the_operating_system_about_connections_are_retried(
    session, naps
):
    answer = answered(session)
    session.parent = Failing(
        *(ConnectionResetError("reset"), BrokenPipeError("broken")),
        *(socket.timeout("slow"), answer),
    )
    assert session.get("/users") is answer
    assert naps == [3, 6, 12]


def test_errors_of_the_operating_system_about_files_are_not(session, naps):
    session.parent = Failing(FileNotFoundError("certificate"))
    with pytest.raises(pdpyras.PDClientError, match="certificate"):
        session.get("/users")
    assert naps == []


def test_errors_of_no_known_kind_end_in_one_of_ours(session, naps):
    session.parent = Failing(*[pdpyras.HTTPError("no.") for _ in range(4)])
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.get("/users")
    assert str(caught.value).endswith(": no.")
    assert caught.value.response is None
    assert naps == [3, 6, 12]


def test_waiting_for_the_limit_makes_no_later_pause_endless(
    server, session, naps
):
    server.reply(429, headers={"ratelimit-reset": "5"}, times=15)
    server.fault("reset", "status")
    session.get("users/P1")
    assert naps == [5] * 15  # The connection was kept alive.


def test_an_error_that_a_hook_raises_is_the_callers(server, session, naps):
    def check(response, **_):
        response.raise_for_status()

    session.hooks["response"] = [check]
    server.reply(404)
    with pytest.raises(requests.HTTPError, match="404"):
        session.get("users/P1")
    assert naps == [] and len(server.requests) == 1


def test_an_error_that_a_hook_raises_behind_a_redirect_is_the_callers(
    server, session, naps
):
    def check(response, **_):
        if response.status_code == 200:
            raise ValueError("mine")

    session.hooks["response"] = [check]
    server.reply(302, headers={"Location": "/users/P2"})
    with pytest.raises(ValueError, match="mine"):
        session.get("users/P1")
    assert naps == [] and len(server.requests) == 2


def test_an_answer_that_is_not_wanted_gives_its_connection_back(
    server, session, naps
):
    """With a pool of one that blocks, nothing else could be sent."""
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=1, pool_block=True)
    session.mount("http://", adapter)
    server.reply(429, json={}, body=b"x" * 100)
    server.reply(json={"user": {}})
    done = []
    thread = threading.Thread(
        target=lambda: done.append(session.get("users/P1", stream=True)),
        daemon=True,
    )
    thread.start()
    thread.join(10)
    assert [response.status_code for response in done] == [200]
    done[0].close()


def test_a_word_in_the_url_makes_no_trouble_lasting(session, naps):
    session.url = f"http://127.0.0.1:{wire.closed_port()}"
    for word in ("CertificateError", "CERTIFICATE_VERIFY_FAILED"):
        with pytest.raises(pdpyras.PDClientError):
            session.get("incidents", params={"q": word})
    assert len(naps) == 6


def test_a_stream_asked_for_by_the_session_is_left_alone(
    server, session, naps
):
    server.handler = lambda request: wire.Answer(body=b"x" * 100000)
    session.stream = True
    response = session.get("users", stream=None)
    assert len(response.content) == 100000 and naps == []


def test_pauses_of_exact_numbers(client):
    client.retry[500] = 2
    client.sleep_timer_base = Decimal(2)
    client.sleep_timer_max = Decimal("0.5")
    assert pauses(client, forever(500)) == [0.5, 0.5]


def test_network_retries_without_a_limit(session, server, naps, caplog):
    session.max_network_attempts = math.inf
    server.fault("close", "status", times=2)
    server.reply(json={"users": []})
    assert session.rget("users") == []
    assert any("of inf in" in text for text in caplog.messages)
