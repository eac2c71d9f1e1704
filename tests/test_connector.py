"""What api_toolkit.connector promises, over the wire."""

import contextlib
import copy
import email.utils
import importlib
import io
import math
import os
import pickle
import subprocess
import sys
import time

import pytest
import requests
import urllib3.util.retry
from requests.adapters import BaseAdapter, HTTPAdapter

import api_toolkit
from api_toolkit.connector import APIConnector
from tests import wire

DEFAULTS = {
    "max_retries": 0,
    "backoff_factor": 1,
    "status_forcelist": [408, 413, 429, 500, 502, 503, 504, 521, 522, 524],
    "allowed_methods": [
        "HEAD",
        "GET",
        "PUT",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "POST",
        "PATCH",
    ],
    "raise_on_status": False,
}
OTHERS = {
    "max_retries": 3,
    "backoff_factor": 0.5,
    "status_forcelist": [500],
    "allowed_methods": ["GET"],
    "raise_on_status": True,
}


@pytest.fixture
def pauses(monkeypatch):
    """The seconds that urllib3 slept, in order."""
    slept = []
    monkeypatch.setattr(urllib3.util.retry.time, "sleep", slept.append)
    return slept


@pytest.fixture
def connect():
    """Makes connectors whose connections end with the test."""
    with contextlib.ExitStack() as stack:

        def new(*args, **kwargs):
            connector = APIConnector(*args, **kwargs)
            stack.callback(connector.session.close)
            return connector

        yield new


# -- Settings ---------------------------------------------------------------


def test_defaults_and_their_order(connect):
    settings = connect().get_retry_settings()
    assert settings == DEFAULTS
    assert list(settings) == list(DEFAULTS)
    assert type(settings["backoff_factor"]) is int


def test_settings_are_given_to_the_constructor_and_read_back(connect):
    connector = connect(**OTHERS)
    assert connector.get_retry_settings() == OTHERS
    assert {name: getattr(connector, name) for name in OTHERS} == OTHERS


def test_arguments_of_a_subclass_are_left_to_it(connect):
    assert connect(colour="red").get_retry_settings() == DEFAULTS

    class Custom(APIConnector):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.colour = kwargs["colour"]

    custom = Custom(colour="red", max_retries=2)
    assert (custom.colour, custom.max_retries) == ("red", 2)
    assert not hasattr(connect(colour="red"), "colour")


def test_some_settings_or_all_in_one_call(connect):
    connector = connect()
    connector.set_retry_settings(max_retries=2)
    assert connector.get_retry_settings() == dict(DEFAULTS, max_retries=2)
    connector.set_retry_settings(**OTHERS)
    assert connector.get_retry_settings() == OTHERS
    connector.set_retry_settings()
    assert connector.get_retry_settings() == OTHERS


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_each_setting_is_an_attribute(connect, name):
    connector = connect()
    setattr(connector, name, OTHERS[name])
    assert connector.get_retry_settings() == {**DEFAULTS, name: OTHERS[name]}


@pytest.mark.parametrize("name", ["status_forcelist", "allowed_methods"])
def test_lists_are_copies(connect, name):
    mine = list(OTHERS[name])
    first, second = connect(), connect(**{name: mine})
    getattr(first, name).clear()
    first.get_retry_settings()[name].clear()
    mine.clear()
    assert getattr(first, name) == DEFAULTS[name]
    assert getattr(connect(), name) == DEFAULTS[name]
    assert getattr(second, name) == OTHERS[name]


def test_other_collections_become_lists(connect):
    connector = connect(
        status_forcelist=(n for n in (500, 503)),
        allowed_methods=("get", "Put"),
    )
    assert connector.status_forcelist == [500, 503]
    assert connector.allowed_methods == ["GET", "PUT"]


def test_an_unknown_setting_is_named_and_nothing_changes(connect):
    connector = connect()
    with pytest.raises(TypeError, match="no such retry setting: max_retry "):
        connector.set_retry_settings(max_retries=5, max_retry=5)
    assert connector.get_retry_settings() == DEFAULTS


@pytest.mark.parametrize(
    "name, value, error",
    [
        ("max_retries", "3", TypeError),
        ("max_retries", 3.0, TypeError),
        ("max_retries", True, TypeError),
        ("max_retries", None, TypeError),
        ("max_retries", -1, ValueError),
        ("backoff_factor", "1", TypeError),
        ("backoff_factor", False, TypeError),
        ("backoff_factor", -0.5, ValueError),
        ("backoff_factor", math.nan, ValueError),
        ("backoff_factor", math.inf, ValueError),
        ("backoff_factor", 10**400, ValueError),
        ("status_forcelist", 500, TypeError),
        ("status_forcelist", "500", TypeError),
        ("status_forcelist", None, TypeError),
        ("status_forcelist", [500, "503"], TypeError),
        ("status_forcelist", [True], TypeError),
        ("status_forcelist", [50], ValueError),
        ("status_forcelist", [5000], ValueError),
        ("allowed_methods", "GET", TypeError),
        ("allowed_methods", None, TypeError),
        ("allowed_methods", ["GET", 1], TypeError),
        ("allowed_methods", ["GET", ""], ValueError),
        ("allowed_methods", ["GET\n"], ValueError),
        ("raise_on_status", "false", TypeError),
        ("raise_on_status", 1, TypeError),
    ],
)
def test_a_bad_value_is_refused_at_once(connect, name, value, error):
    connector = connect(max_retries=1)
    before = connector.get_retry_settings()
    with pytest.raises(error, match=name):
        setattr(connector, name, value)
    others = {"backoff_factor": 7, name: value}
    with pytest.raises(error, match=name):
        connector.set_retry_settings(**others)
    assert connector.get_retry_settings() == before
    with pytest.raises(error, match=name):
        APIConnector(**{name: value})


# -- Retrying ---------------------------------------------------------------


def test_without_retries_a_failure_is_returned(server, connect, pauses):
    server.reply(500)
    assert connect().session.get(server.url).status_code == 500
    assert (len(server.requests), pauses) == (1, [])


def test_the_pauses_of_the_document(server, connect, pauses):
    server.reply(503, times=5)
    connector = connect(max_retries=5, backoff_factor=2)
    assert connector.session.get(server.url).status_code == 200
    assert pauses == [1, 2, 4, 8, 16]
    assert len(server.requests) == 6


def test_every_request_starts_afresh(server, connect, pauses):
    connector = connect(max_retries=2)
    for _ in range(2):
        server.reply(500, times=2)
        assert connector.session.get(server.url).status_code == 200
    assert pauses == [0.5, 1, 0.5, 1]


def test_no_pause_with_a_backoff_factor_of_zero(server, connect, pauses):
    server.reply(500, times=3)
    connector = connect(max_retries=3, backoff_factor=0)
    assert connector.session.get(server.url).status_code == 200
    assert pauses == []


def test_a_pause_lasts_an_hour_at_most(server, connect, pauses):
    server.reply(500, times=math.inf)
    connector = connect(max_retries=40, backoff_factor=1)
    assert connector.session.get(server.url).status_code == 500
    assert pauses[:13] == [2.0**n for n in range(-1, 12)]
    assert pauses[13:] == [3600] * 27


def test_the_formula_does_not_overflow(connect):
    # Sending that many requests would meet the limit of recursion first.
    retry = connect(max_retries=9999).session.adapters["http://"].max_retries
    failure = urllib3.util.retry.RequestHistory("GET", "/", None, 500, None)
    later = retry.new(history=(failure,) * 5000)
    assert later.get_backoff_time() == 3600


@pytest.mark.parametrize("status", DEFAULTS["status_forcelist"])
def test_statuses_retried_by_default(server, connect, pauses, status):
    server.reply(status)
    response = connect(max_retries=1).session.get(server.url)
    assert (response.status_code, len(pauses)) == (200, 1)


@pytest.mark.parametrize("method", DEFAULTS["allowed_methods"])
def test_methods_retried_by_default(server, connect, pauses, method):
    server.reply(500)
    response = connect(max_retries=1).session.request(
        method, server.url, data=b"once more"
    )
    assert response.status_code == 200
    assert [(r.method, r.body) for r in server.requests] == [
        (method, b"once more")
    ] * 2


@pytest.mark.parametrize("status", [400, 401, 404, 409, 501])
def test_other_statuses_are_not_retried_by_default(
    server, connect, pauses, status
):
    server.reply(status)
    connector = connect(max_retries=1, raise_on_status=True)
    assert connector.session.get(server.url).status_code == status
    assert pauses == []


@pytest.mark.parametrize("statuses", [[], [500]])
def test_a_status_that_is_not_listed_is_not_retried(
    server, connect, pauses, statuses
):
    server.reply(503, headers={"Retry-After": "5"})
    connector = connect(max_retries=1, status_forcelist=statuses)
    assert connector.session.get(server.url).status_code == 503
    assert pauses == []


@pytest.mark.parametrize("methods", [[], ["PUT"]])
def test_a_method_that_is_not_listed_is_not_retried(
    server, connect, pauses, methods
):
    server.reply(500, headers={"Retry-After": "5"})
    connector = connect(max_retries=1, allowed_methods=methods)
    assert connector.session.get(server.url).status_code == 500
    assert pauses == []


def test_exhausted_retries_return_the_last_response(server, connect, pauses):
    for body in (b"first", b"second", b"last"):
        server.reply(502, body=body)
    response = connect(max_retries=2).session.get(server.url)
    assert (response.status_code, response.content) == (502, b"last")
    assert len(server.requests) == 3


@pytest.mark.parametrize("retries", [0, 2])
def test_exhausted_retries_raise_if_asked_to(server, connect, pauses, retries):
    server.reply(502, times=math.inf)
    connector = connect(max_retries=retries, raise_on_status=True)
    with pytest.raises(requests.exceptions.RetryError, match="502"):
        connector.session.get(server.url)
    assert len(server.requests) == retries + 1


def test_different_failures_share_one_count(server, connect, pauses):
    server.fault("reset")
    server.reply(500)
    server.fault("reset", "headers")
    server.reply(429)
    server.reply(503, body=b"last")
    response = connect(max_retries=4).session.get(server.url)
    assert response.content == b"last"
    assert pauses == [0.5, 1, 2, 4]


@pytest.mark.parametrize(
    "body", [lambda: "text", lambda: b"text", lambda: io.BytesIO(b"text")]
)
def test_a_body_is_sent_anew(server, connect, pauses, body):
    server.reply(500, times=2)
    assert connect(max_retries=2).session.post(server.url, data=body()).ok
    assert [request.body for request in server.requests] == [b"text"] * 3


def pipe():
    """The end of a pipe that ``text`` comes out of."""
    out, into = os.pipe()
    os.write(into, b"text")
    os.close(into)
    return os.fdopen(out, "rb")


@pytest.mark.parametrize("body", [lambda: iter([b"te", b"xt"]), pipe])
def test_a_body_that_cannot_be_sent_anew_is_sent_once(
    server, connect, pauses, body
):
    server.handler = lambda request: wire.Answer(500)
    connector = connect(max_retries=2)
    with contextlib.ExitStack() as stack:
        data = body()
        if hasattr(data, "close"):
            stack.callback(data.close)
        response = connector.session.post(server.url, data=data)
    assert response.status_code == 500
    assert [request.body for request in server.requests] == [b"text"]
    # The connector has not unlearned to retry.
    connector.session.post(server.url, data=b"text")
    assert len(server.requests) == 4
    assert server.connections <= 2


# -- Retry-After ------------------------------------------------------------


def test_retry_after_in_seconds(server, connect, pauses):
    server.reply(429, headers={"Retry-After": "17"})
    server.reply(500)
    assert connect(max_retries=2).session.get(server.url).ok
    assert pauses == [17, 1]


def test_retry_after_as_a_date(server, connect, pauses):
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    server.reply(503, headers={"Retry-After": date})
    assert connect(max_retries=1).session.get(server.url).ok
    assert 0 < pauses[0] <= 100


@pytest.mark.parametrize(
    "header",
    [
        "0",
        "-5",
        "soon",
        "",
        "Mon, 01 Jan 2001 00:00:00 GMT",
        "Fri, 31 Dec 99999999999999999999 23:59:59 GMT",
    ],
)
def test_an_unusable_retry_after_harms_nobody(server, connect, pauses, header):
    server.reply(503, headers={"Retry-After": header})
    assert connect(max_retries=1).session.get(server.url).ok
    assert pauses == [0.5]


@pytest.mark.parametrize(
    "header", ["99999999999", "Fri, 31 Dec 9999 23:59:59 GMT"]
)
def test_retry_after_has_a_limit(server, connect, pauses, header):
    server.reply(503, headers={"Retry-After": header})
    assert connect(max_retries=1).session.get(server.url).ok
    assert pauses == [21600]


def test_a_number_too_long_for_python_harms_nobody(server, connect, pauses):
    server.reply(503, headers={"Retry-After": "9" * 5000})
    assert connect(max_retries=1).session.get(server.url).ok
    # To a Python that limits the digits of integers this is no number.
    is_limited = hasattr(sys, "get_int_max_str_digits")
    assert pauses == [0.5 if is_limited else 21600]


# -- The network ------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, stage",
    [
        ("reset", "status"),
        ("reset", "headers"),
        ("close", "status"),
        ("close", "connect"),
        ("garbage", "status"),
    ],
)
def test_a_broken_connection_is_retried(server, connect, pauses, kind, stage):
    server.fault(kind, stage)
    assert connect(max_retries=1).session.get(server.url).ok
    assert pauses == [0.5]


@pytest.mark.parametrize("retries", [0, 2])
def test_refused_connections_end_as_in_requests(connect, pauses, retries):
    url = f"http://127.0.0.1:{wire.closed_port()}"
    connector = connect(max_retries=retries)
    with pytest.raises(requests.ConnectionError):
        connector.session.get(url)
    assert pauses == [0.5, 1][:retries]


@pytest.mark.parametrize("retries", [0, 1])
def test_timeouts_end_as_in_requests(server, connect, pauses, retries):
    server.fault("stall", times=math.inf)
    connector = connect(max_retries=retries)
    with pytest.raises(requests.exceptions.ReadTimeout):
        connector.session.get(server.url, timeout=0.2)
    assert len(server.requests) == retries + 1


def test_a_method_that_is_not_listed_meets_the_network_once(connect, pauses):
    connector = connect(max_retries=3, allowed_methods=["GET"])
    with pytest.raises(requests.ConnectionError):
        connector.session.post(f"http://127.0.0.1:{wire.closed_port()}")
    assert pauses == []


def test_a_method_that_is_not_listed_is_not_sent_again_either(
    server, connect, pauses
):
    server.fault("reset")
    connector = connect(max_retries=3, allowed_methods=["GET"])
    with pytest.raises(requests.ConnectionError):
        connector.session.post(server.url)
    assert (len(server.requests), pauses) == (1, [])


def test_retries_over_tls(trust, connect, pauses):
    with wire.Server(trust) as server:
        server.reply(500)
        connector = connect(max_retries=1)
        assert connector.session.get(server.url, verify=trust.ca_file).ok
        connector.session.close()
    assert pauses == [0.5]


# -- Changes take effect on the next request --------------------------------


@pytest.mark.parametrize(
    "name, value, count",
    [
        ("max_retries", 0, 1),
        ("backoff_factor", 8, 3),
        ("status_forcelist", [503], 1),
        ("allowed_methods", ["PUT"], 1),
    ],
)
def test_a_changed_attribute_counts(
    server, connect, pauses, name, value, count
):
    server.handler = lambda request: wire.Answer(500)
    connector = connect(max_retries=2)
    connector.session.get(server.url)
    assert (len(server.requests), pauses) == (3, [0.5, 1])
    setattr(connector, name, value)
    connector.session.get(server.url)
    assert len(server.requests) == 3 + count
    assert pauses[2:] == [4, 8][: count - 1]


def test_raise_on_status_switched_on(server, connect, pauses):
    server.handler = lambda request: wire.Answer(500)
    connector = connect()
    assert connector.session.get(server.url).status_code == 500
    connector.raise_on_status = True
    with pytest.raises(requests.exceptions.RetryError):
        connector.session.get(server.url)


def test_a_change_keeps_connections_open(server, connect):
    connector = connect()
    connector.session.get(server.url)
    connector.max_retries = 4
    connector.session.get(server.url)
    assert server.connections == 1


def test_connectors_are_independent(server, connect, pauses):
    server.handler = lambda request: wire.Answer(500)
    patient, hasty = connect(max_retries=2), connect()
    hasty.session.get(server.url)
    assert pauses == []
    patient.session.get(server.url)
    assert pauses == [0.5, 1]


# -- Sessions of the user's own ---------------------------------------------


class Adapter(HTTPAdapter):
    """An adapter that a user might write."""


def test_a_session_of_the_users_own_retries(server, connect, pauses):
    with requests.Session() as session:
        session.headers["X-Mine"] = "yes"
        adapter = Adapter()
        session.mount("http://", adapter)
        connector = connect(max_retries=1)
        connector.session = session
        assert connector.session is session
        assert session.get_adapter(server.url) is adapter
        server.reply(500)
        assert session.get(server.url).ok
        connector.max_retries = 2
        server.reply(500, times=2)
        assert session.get(server.url).ok
    assert pauses == [0.5, 0.5, 1]
    assert server.requests[-1].headers["X-Mine"] == "yes"


def test_adapters_that_cannot_retry_stay_as_they_are(connect):
    class Canned(BaseAdapter):
        def close(self):
            """Nothing is open."""

    with requests.Session() as session:
        session.mount("http://", Canned())
        own = HTTPAdapter(max_retries=7)
        session.mount("https://example.com/", own)
        connector = connect()
        connector.session = session
        connector.max_retries = 3
        assert not hasattr(session.adapters["http://"], "max_retries")
        assert session.adapters["https://"].max_retries.total == 3
        assert own.max_retries.total == 7


def test_a_stand_in_for_the_session(connect):
    stand_in = object()
    connector = connect()
    connector.session = stand_in
    connector.max_retries = 2
    assert connector.session is stand_in


# -- Copies -----------------------------------------------------------------


@pytest.mark.parametrize(
    "reproduce",
    [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))],
)
def test_a_copy_retries_by_itself(server, connect, pauses, reproduce):
    original = connect(**OTHERS)
    original.session.headers["X-Mine"] = "yes"
    twin = reproduce(original)
    original.max_retries = 0
    assert twin.get_retry_settings() == OTHERS
    server.reply(500)
    assert twin.session.get(server.url).ok
    assert server.requests[-1].headers["X-Mine"] == "yes"
    assert pauses == [0.25]
    twin.allowed_methods = []
    server.reply(500)
    assert reproduce(twin).session.get(server.url).status_code == 500
    twin.session.close()


# -- The package ------------------------------------------------------------


def test_connection_is_another_name_of_the_module():
    connector = importlib.import_module("api_toolkit.connector")
    connection = importlib.import_module("api_toolkit.connection")
    assert connection is connector
    assert api_toolkit.connection is connector
    assert connector.APIConnector is APIConnector is api_toolkit.APIConnector


@pytest.mark.parametrize(
    "statement",
    [
        "from api_toolkit.connection import APIConnector",
        "import api_toolkit.connection as alias; alias.APIConnector",
        "from api_toolkit import connection; connection.APIConnector",
    ],
)
def test_importing_is_silent_and_needs_no_pdpyras(statement):
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error:::api_toolkit",
            "-c",
            f'{statement}; import sys; assert "pdpyras" not in sys.modules',
        ],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    )
    assert (done.returncode, done.stdout) == (0, b"")
