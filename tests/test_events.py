"""Alerts and change events: what is sent, and what the answers mean."""

import copy
import decimal
import pathlib
import re
import sys
import uuid
import warnings
from datetime import datetime, timedelta, timezone

import pytest
import requests

import pdpyras
from tests import wire
from tests.support import KEY, told

SUMMARY, SOURCE = "Server is on fire", "dusty.old.server.net"
LINKS = [{"href": "https://example.com/run", "text": "How to put it out"}]
IMAGES = [{"src": "https://example.com/fire.png", "alt": "A fire"}]


@pytest.fixture(autouse=True)
def accepted(server):
    """The server accepts every event, as the API does."""

    def answer(request):
        body = {"status": "success", "message": "Event processed"}
        if request.path == "/v2/enqueue":
            body["dedup_key"] = request.json.get("dedup_key", "made-by-api")
        return wire.Answer(202, json=body)

    server.handler = answer


def sent(server):
    """The body of the only request."""
    (request,) = server.requests
    return request.json


BOTH = pytest.mark.parametrize("kind", ["events", "changes"])


@pytest.fixture
def either(kind, request):
    """One of the two sessions, and a call that sends an event with it."""
    session = request.getfixturevalue(kind)
    if kind == "events":
        return session, lambda: session.trigger(SUMMARY, SOURCE)
    return session, lambda: session.submit(SUMMARY, SOURCE)


# -- What both have in common ----------------------------------------------


@pytest.mark.parametrize(
    "kind", [pdpyras.EventsAPISession, pdpyras.ChangeEventsAPISession]
)
def test_defaults(kind):
    session = kind(KEY)
    assert session.url == "https://events.pagerduty.com"
    assert session.permitted_methods == ("POST",)
    assert session.retry == {500: 2, 502: 4, 503: 6, 504: 6}
    assert session.api_key == KEY and session.trunc_key == "*-key"
    session.retry[500] = 0
    assert kind(KEY).retry[500] == 2
    assert pdpyras.PDSession.retry == {}


@BOTH
def test_the_headers(either, server):
    _, send = either
    send()
    (request,) = server.requests
    assert request.method == "POST" and request.raw_query == ""
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"].startswith("pdpyras/")
    assert "Authorization" not in request.headers
    assert "From" not in request.headers
    assert KEY not in str(request.headers)


@BOTH
def test_the_routing_key_is_added_and_the_body_left_alone(either, server):
    session, _ = either
    body = {"payload": {"summary": SUMMARY}, "links": LINKS}
    before = copy.deepcopy(body)
    response = session.post("/v2/elsewhere", json=body)
    assert response.status_code == 202
    assert sent(server) == dict(before, routing_key=KEY)
    assert body == before


def test_a_routing_key_of_another_service_is_not_dropped_silently(
    events, server
):
    with pytest.warns(pdpyras.PDWarning, match="routing_key .* is not used"):
        events.send_event("resolve", "x", routing_key="another-fake-key")
    assert sent(server)["routing_key"] == KEY
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        events.send_event("resolve", "x", routing_key=KEY)


@BOTH
def test_the_routing_key_is_that_of_the_moment(either, server):
    session, send = either
    send()
    session.api_key = "another-fake-key"
    send()
    keys = [request.json["routing_key"] for request in server.requests]
    assert keys == [KEY, "another-fake-key"]


@BOTH
def test_other_bodies_are_sent_as_they_are(either, server):
    session, _ = either
    session.post("/v2/elsewhere", json=[1, 2])
    session.post("/v2/elsewhere", data=b"plain")
    assert [r.body for r in server.requests] == [b"[1, 2]", b"plain"]


@BOTH
def test_only_post_is_permitted(either, server):
    session, _ = either
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS"):
        with pytest.raises(pdpyras.PDClientError) as caught:
            session.request(method, "/v2/enqueue", json={})
        assert type(caught.value) is pdpyras.PDClientError
    with pytest.raises(pdpyras.PDClientError, match="GET"):
        session.get("/v2/enqueue")
    assert server.requests == []


@BOTH
@pytest.mark.parametrize(
    "status, pauses",
    [
        (500, [3, 6]),
        (502, [3, 6, 12, 24]),
        (503, [3, 6, 12, 24, 48, 60]),
        (504, [3, 6, 12, 24, 48, 60]),
    ],
)
def test_server_errors_are_retried(status, pauses, kind, either, server, naps):
    _, send = either
    server.reply(status, times=len(pauses))
    assert send() == ("made-by-api" if kind == "events" else None)
    assert naps == pauses
    bodies = [request.body for request in server.requests]
    assert bodies == bodies[:1] * (1 + len(pauses))
    del naps[:], server.requests[:]
    server.reply(status, times=99)
    with pytest.raises(pdpyras.PDServerError) as caught:
        send()
    assert caught.value.response.status_code == status
    assert naps == pauses
    assert len(server.requests) == 1 + len(pauses)


@BOTH
def test_a_rate_limit_of_events_is_waited_out(either, server, naps):
    _, send = either
    server.reply(429, times=12)
    send()
    assert len(naps) == 12 and max(naps) == 60


@BOTH
def test_a_lost_connection_is_retried(either, server, naps):
    _, send = either
    server.fault("reset", "status", times=3)
    send()
    assert naps == [3, 6, 12]


@BOTH
def test_other_errors_are_not_retried(either, server, naps):
    _, send = either
    server.reply(
        400,
        json={
            "status": "invalid event",
            "message": "Event object is invalid",
            "errors": ["Length of 'routing_key' is incorrect", "And more"],
        },
    )
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        send()
    error = caught.value
    assert type(error) is pdpyras.PDHTTPError
    assert error.status_code == 400
    assert error.errors == ["Length of 'routing_key' is incorrect", "And more"]
    assert "And more" in str(error) and "event" in str(error)
    assert KEY not in str(error)
    assert naps == []


@BOTH
@pytest.mark.parametrize("body", [b"[]", b'"ok"', b"", b"<html>", b"null"])
def test_an_answer_that_is_no_object(body, either, server):
    _, send = either
    server.reply(202, body=body)
    with pytest.raises(pdpyras.PDServerError) as caught:
        send()
    assert caught.value.response.status_code == 202
    assert len(server.requests) == 1


@BOTH
def test_what_json_cannot_say_is_an_error_at_once(either, server, naps):
    session, _ = either
    with pytest.raises(pdpyras.PDClientError, match="not JSON serializable"):
        session.post("/v2/enqueue", json={"payload": object()})
    assert server.requests == naps == []


# -- Alerts ----------------------------------------------------------------


def test_triggering(events, server):
    assert events.trigger(SUMMARY, SOURCE) == "made-by-api"
    assert sent(server) == {
        "routing_key": KEY,
        "event_action": "trigger",
        "payload": {
            "summary": SUMMARY,
            "source": SOURCE,
            "severity": "critical",
        },
    }
    assert server.requests[0].target == "/v2/enqueue"


def test_triggering_with_everything(events, server):
    arguments = {
        "dedup_key": "abc123",
        "severity": "info",
        "payload": {"component": "roof", "group": "barn", "class": "fire"},
        "custom_details": {"degrees": 451, "nested": {"list": [1]}},
        "images": IMAGES,
        "links": LINKS,
    }
    before = copy.deepcopy(arguments)
    assert events.trigger(SUMMARY, SOURCE, **arguments) == "abc123"
    assert sent(server) == {
        "routing_key": KEY,
        "event_action": "trigger",
        "dedup_key": "abc123",
        "payload": {
            "summary": SUMMARY,
            "source": SOURCE,
            "severity": "info",
            "component": "roof",
            "group": "barn",
            "class": "fire",
            "custom_details": {"degrees": 451, "nested": {"list": [1]}},
        },
        "images": IMAGES,
        "links": LINKS,
    }
    assert arguments == before


def test_the_arguments_of_trigger_in_their_order(events, server):
    events.trigger("s", "o", "key", "error", {"a": 1}, {"b": 2}, IMAGES, LINKS)
    body = sent(server)
    assert (body["dedup_key"], body["images"], body["links"]) == (
        "key",
        IMAGES,
        LINKS,
    )
    assert body["payload"] == {
        "summary": "s",
        "source": "o",
        "severity": "error",
        "a": 1,
        "custom_details": {"b": 2},
    }


def test_details_in_the_payload_and_beside_it(events, server):
    payload = {"severity": "warning", "custom_details": {"a": 1, "b": 1}}
    before = copy.deepcopy(payload)
    details = {"b": 2}
    events.trigger(SUMMARY, SOURCE, payload=payload, custom_details=details)
    assert sent(server)["payload"] == {
        "summary": SUMMARY,
        "source": SOURCE,
        "severity": "warning",
        "custom_details": {"a": 1, "b": 2},
    }
    assert payload == before and details == {"b": 2}


def test_acknowledging_and_resolving(events, server):
    assert events.acknowledge("abc123") == "abc123"
    assert events.resolve("abc123") == "abc123"
    assert [request.target for request in server.requests] == [
        "/v2/enqueue",
        "/v2/enqueue",
    ]
    assert [request.json for request in server.requests] == [
        {
            "routing_key": KEY,
            "event_action": action,
            "dedup_key": "abc123",
        }
        for action in ("acknowledge", "resolve")
    ]


@pytest.mark.parametrize("action", ["trigger", "acknowledge", "resolve"])
def test_sending_an_event(action, events, server):
    payload = {"summary": SUMMARY, "source": SOURCE, "severity": "info"}
    before = copy.deepcopy(payload)
    dedup_key = events.send_event(
        action, dedup_key="abc123", payload=payload, client="Barn watch"
    )
    assert dedup_key == "abc123"
    assert sent(server) == {
        "routing_key": KEY,
        "event_action": action,
        "dedup_key": "abc123",
        "payload": before,
        "client": "Barn watch",
    }
    assert payload == before


def test_the_dedup_key_is_that_of_the_answer(events, server):
    server.reply(202, json={"status": "success", "dedup_key": "rewritten"})
    assert events.trigger(SUMMARY, SOURCE, dedup_key="mine") == "rewritten"


@pytest.mark.parametrize(
    "send",
    [
        lambda events: events.send_event("triggered", dedup_key="x"),
        lambda events: events.send_event("", dedup_key="x"),
        lambda events: events.send_event(None, dedup_key="x"),
        lambda events: events.send_event("Resolve", dedup_key="x"),
        lambda events: events.send_event("acknowledge"),
        lambda events: events.send_event("resolve", dedup_key=""),
        lambda events: events.acknowledge(None),
        lambda events: events.acknowledge(""),
        lambda events: events.resolve(None),
        lambda events: events.resolve({"dedup_key": "x"}),
        lambda events: events.trigger(SUMMARY, SOURCE, payload="text"),
        lambda events: events.trigger(SUMMARY, SOURCE, payload=[]),
        lambda events: events.trigger(SUMMARY, SOURCE, payload=0),
        lambda events: events.trigger(SUMMARY, SOURCE, custom_details="x"),
        lambda events: events.trigger(SUMMARY, SOURCE, custom_details=[]),
        lambda events: events.trigger(SUMMARY, SOURCE, custom_details=0),
        lambda events: events.trigger(
            SUMMARY, SOURCE, payload={"custom_details": "x"}
        ),
        lambda events: events.send_event("trigger", payload=["x"]),
        lambda events: events.send_event(
            "trigger", payload={"custom_details": "x"}
        ),
    ],
)
def test_an_event_that_is_none(send, events, server, naps):
    with pytest.raises(pdpyras.PDInputError):
        send(events)
    assert server.requests == naps == []


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"status": "success", "message": "Event processed"},
        {"status": "success", "dedup_key": None},
        {"status": "success", "dedup_key": ""},
        {"status": "success", "dedup_key": 5},
    ],
)
@pytest.mark.parametrize("action", ["trigger", "acknowledge", "resolve"])
def test_an_answer_without_the_dedup_key(action, answer, events, server):
    server.reply(202, json=answer)
    with pytest.raises(pdpyras.PDServerError, match="dedup_key") as caught:
        events.send_event(action, dedup_key="abc123")
    assert caught.value.response.status_code == 202


# -- Changes ---------------------------------------------------------------


def test_the_sample_of_the_guide_for_change_events(changes, server):
    changes.submit("new build finished at latest HEAD", source="automation")
    body = sent(server)
    timestamp = body["payload"].pop("timestamp")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", timestamp)
    assert body == {
        "routing_key": KEY,
        "payload": {
            "summary": "new build finished at latest HEAD",
            "source": "automation",
        },
    }
    assert server.requests[0].target == "/v2/change/enqueue"


def test_submitting_everything(changes, server):
    arguments = {
        "source": SOURCE,
        "custom_details": {"build": 7, "nested": {"list": [1]}},
        "links": LINKS,
        "timestamp": "2023-05-01T12:00:00Z",
    }
    before = copy.deepcopy(arguments)
    changes.submit(SUMMARY, **arguments)
    assert sent(server) == {
        "routing_key": KEY,
        "payload": {
            "summary": SUMMARY,
            "source": SOURCE,
            "timestamp": "2023-05-01T12:00:00Z",
            "custom_details": {"build": 7, "nested": {"list": [1]}},
        },
        "links": LINKS,
    }
    assert arguments == before


def test_the_arguments_of_submit_in_their_order(changes, server):
    changes.submit("s", "o", {"a": 1}, LINKS, "2023-05-01T12:00:00Z")
    body = sent(server)
    assert body["links"] == LINKS
    assert body["payload"] == {
        "summary": "s",
        "source": "o",
        "custom_details": {"a": 1},
        "timestamp": "2023-05-01T12:00:00Z",
    }


def test_submitting_a_mere_summary(changes, server):
    changes.submit(SUMMARY)
    body = sent(server)
    assert sorted(body) == ["payload", "routing_key"]
    assert sorted(body["payload"]) == ["summary", "timestamp"]


def test_sending_a_change_event(changes, server):
    payload = {"summary": SUMMARY, "timestamp": "2023-05-01T12:00:00Z"}
    before = copy.deepcopy(payload)
    changes.send_change_event(payload=payload, links=LINKS, images=IMAGES)
    assert sent(server) == {
        "routing_key": KEY,
        "payload": before,
        "links": LINKS,
        "images": IMAGES,
    }
    assert payload == before


def test_the_id_of_a_change_event_if_the_api_tells(changes, server):
    assert changes.submit(SUMMARY) is None
    server.reply(202, json={"status": "success", "id": "C1"})
    assert changes.submit(SUMMARY) == "C1"


@pytest.mark.parametrize(
    "send",
    [
        lambda changes: changes.submit(SUMMARY, custom_details="x"),
        lambda changes: changes.submit(SUMMARY, custom_details=[]),
        lambda changes: changes.submit(SUMMARY, custom_details=0),
        lambda changes: changes.send_change_event(payload="x"),
        lambda changes: changes.send_change_event(
            payload={"summary": "x", "custom_details": "x"}
        ),
    ],
)
def test_a_change_event_that_is_none(send, changes, server, naps):
    with pytest.raises(pdpyras.PDInputError):
        send(changes)
    assert server.requests == naps == []


def test_the_timestamp(changes):
    before = datetime.now(timezone.utc)
    text = changes.event_timestamp
    after = datetime.now(timezone.utc)
    assert text.endswith("Z")
    written = "%Y-%m-%dT%H:%M:%S" + (".%f" if "." in text else "")
    moment = datetime.strptime(text[:-1], written)
    moment = moment.replace(tzinfo=timezone.utc)
    assert before - timedelta(seconds=1) <= moment <= after


@pytest.mark.parametrize("sent", [None, "GET"])
def test_a_stand_in_for_what_sends(sent, events):
    """As the tests of users put it there: nothing but status and body."""
    response = requests.Response()
    response.status_code = 202
    response._content = b'{"dedup_key": "k1"}'
    if sent:
        response.request = requests.Request(sent, "https://test").prepare()

    class StandIn:
        def request(self, method, url, **kwargs):
            return response

    events.parent = StandIn()
    assert events.trigger("Disk is full", "db1") == "k1"


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_another_sender_follows_is_an_error(
    status, changes, server
):
    """Plain requests makes a GET of the POST, which loses the event."""
    server.reply(status, headers={"Location": "/elsewhere"})
    server.reply(202, json={"status": "success"})
    changes.parent = requests.Session()
    with pytest.raises(pdpyras.PDServerError, match="redirected the event"):
        changes.submit("Deployed")
    assert [r.method for r in server.requests] == ["POST", "GET"]


# ---------------------------------------------------------------------------
# Any value will do
# ---------------------------------------------------------------------------


class Silent:
    """An object whose text is an error."""

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


LOCAL = datetime(2024, 5, 1, 12, 30)
UTC = timezone.utc


@pytest.mark.parametrize(
    "value, text",
    [
        (LOCAL.replace(tzinfo=UTC), "2024-05-01T12:30:00+00:00"),
        (LOCAL, LOCAL.astimezone().isoformat()),
        (LOCAL.date(), "2024-05-01"),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (pathlib.PurePosixPath("/var/log"), "/var/log"),
        ({5}, "{5}"),
        (b"caf\xc3\xa9", "caf\u00e9"),
        (b"\xff", "\\xff"),
        (bytearray(b"x"), "x"),
        (OSError("disk"), "OSError: disk"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (1j, "1j"),
        (Silent(), "<Silent that has no text>"),
        (10**5000, hex(10**5000)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_alert_is_lost_for_a_value(value, text, events, changes, server):
    if isinstance(value, int) and not hasattr(sys, "set_int_max_str_digits"):
        text = value  # This Python can print it.
    details = {"a": value, "b": [{"c": (value,)}], "n": 1}
    before = dict(details)
    events.trigger(SUMMARY, SOURCE, custom_details=details)
    changes.submit(SUMMARY, custom_details=details)
    assert details == before
    for request in server.requests:
        found = request.json["payload"]["custom_details"]
        assert found == {"a": text, "b": [{"c": [text]}], "n": 1}


def test_names_that_are_no_texts_become_some(events, server):
    details = {5: 1, None: 2, LOCAL.date(): 3, (1, 2): 4, True: 5}
    events.trigger(SUMMARY, SOURCE, custom_details=details)
    (request,) = server.requests
    found = request.json["payload"]["custom_details"]
    # Numbers and the like as JSON has them, whatever is beside them.
    assert found == {
        "5": 1,
        "null": 2,
        "true": 5,
        "2024-05-01": 3,
        "(1, 2)": 4,
    }


def test_details_within_themselves_are_sent(events, server):
    details = {"n": 1}
    details.update(one=details, two=[details])
    events.trigger(SUMMARY, SOURCE, custom_details=details)
    (request,) = server.requests
    found = request.json["payload"]["custom_details"]
    again = {
        "n": 1,
        "one": "<within itself>",
        "two": ["<within itself>"],
    }
    assert found["n"] == 1 and found["one"] == again
    assert found["two"] == [{**again, "two": "<within itself>"}]


@pytest.mark.parametrize("severity", ["CRITICAL", "Critical", "critical"])
def test_a_severity_in_any_case(severity, events, server):
    events.trigger(SUMMARY, SOURCE, severity=severity)
    events.trigger(SUMMARY, SOURCE, payload={"severity": severity})
    for request in server.requests:
        assert request.json["payload"]["severity"] == "critical"


@pytest.mark.parametrize("kind", ["links", "images"])
def test_images_and_links_may_be_any_iterable(kind, events, server):
    name = {"links": "href", "images": "src"}[kind]
    one = {name: "https://x.example"}
    for given in ([one], (one,), iter([one]), one, (e for e in [one])):
        events.trigger(SUMMARY, SOURCE, **{kind: given})
    for request in server.requests:
        assert request.json[kind] == [one]
    for wrong in ("https://x.example", 5):
        with told(pdpyras.PDWarning, "left out"):
            events.trigger(SUMMARY, SOURCE, **{kind: wrong})
        assert server.requests[-1].json[kind] == []


def test_a_large_image_does_not_cost_the_details(events, server):
    details = {"traceback": "x" * 50000, "host": "db1"}
    image = {"src": "data:image/png;base64," + "A" * 600000}
    with told(pdpyras.PDWarning, "links and images are left out"):
        events.trigger(SUMMARY, SOURCE, custom_details=details, images=[image])
    sent = server.requests[0].json
    assert sent["payload"]["custom_details"] == details
    assert "images" not in sent


def test_details_are_cut_by_no_more_than_links_leave(events, server):
    details = {"traceback": "x" * 600000}
    image = {"src": "data:image/png;base64," + "A" * 600000}
    with told(pdpyras.PDWarning, "links and images are left out"):
        events.trigger(SUMMARY, SOURCE, custom_details=details, images=[image])
    assert 500000 < len(server.requests[0].body) <= 512000


def test_a_severity_in_any_case_in_an_event_of_the_callers(events, server):
    payload = {"summary": SUMMARY, "source": SOURCE, "severity": "CRITICAL"}
    events.send_event("trigger", payload=payload)
    assert server.requests[0].json["payload"]["severity"] == "critical"
    assert payload["severity"] == "CRITICAL"


class Moment(datetime):
    """As that of pandas: it is a datetime, but cannot do all of it."""

    def astimezone(self, tz=None):
        raise TypeError("Cannot convert tz-naive Timestamp, use tz_localize")


class Shaky(dict):
    """What another thread changes meanwhile."""

    def items(self):
        raise RuntimeError("dictionary changed size during iteration")


def test_no_alert_is_lost_for_a_value_that_breaks(events, server):
    details = {"at": Moment(2026, 1, 1, 10), "of": {"it": Shaky(a=1)}}
    events.trigger(SUMMARY, SOURCE, custom_details=details)
    found = server.requests[0].json["payload"]["custom_details"]
    assert found["at"] == "2026-01-01T10:00:00"
    assert "a" in str(found["of"]["it"])


@pytest.mark.parametrize("key", [0, 5, False, b"k", ["k"]])
@pytest.mark.parametrize("action", ["trigger", "acknowledge", "resolve"])
def test_a_dedup_key_that_is_no_text_is_never_dropped(
    key, action, events, server
):
    events.client_dedup_keys = True
    with pytest.raises(pdpyras.PDInputError, match="dedup_key"):
        events.send_event(action, dedup_key=key)
    assert server.requests == []


@pytest.mark.parametrize("kind", [list, tuple])
def test_images_and_links_without_an_address_are_left_out(
    kind, events, changes, server
):
    images = kind([{"src": "https://x.example/a.png"}, {"alt": "b"}, None])
    links = kind([{"text": "a"}, {"href": "https://x.example", "text": "b"}])
    with told(pdpyras.PDWarning, "left out", times=2) as texts:
        events.trigger(SUMMARY, SOURCE, images=images, links=links)
    assert "2 of the images" in texts[0] and "1 of the links" in texts[1]
    with told(pdpyras.PDWarning, "1 of the links"):
        changes.submit(SUMMARY, links=links)
    for request in server.requests:
        assert request.json["links"] == [links[1]]
    assert server.requests[0].json["images"] == [images[0]]
    assert len(images) == 3 and len(links) == 2


# -- Warnings -----------------------------------------------------------------


@pytest.mark.filterwarnings("error::pdpyras.PDWarning")
def test_a_warning_that_is_an_error_loses_no_alert(events, server):
    """As with ``python -W error``."""
    server.reply(202, json={"dedup_key": "k"})
    with pytest.raises(pdpyras.PDWarning, match="shortened"):
        events.trigger("x" * 2000, "source")
    assert len(server.requests[0].json["payload"]["summary"]) == 1024
    server.reply(400, json={"errors": ["said so"]})
    with pytest.raises(pdpyras.PDHTTPError, match="said so"):
        events.trigger("x" * 2000, "source")
