"""Requests that may have been carried out although no answer came.

By default they are sent again, as documented. ``retry_ambiguous_writes``
and ``client_dedup_keys`` are for those who would rather not, or who want
every alert once.
"""

import re
import socket
import sys
import threading

import pytest
import requests

import pdpyras
from tests import wire
from tests.support import KEY

#: Where a connection ends without telling whether the request got through.
AMBIGUOUS = [
    ("reset", "request"),
    ("close", "request"),
    ("reset", "status"),
    ("close", "status"),
    ("stall", "status"),
    ("garbage", "status"),
    ("close", "headers"),
    ("stall", "headers"),
    ("reset", "body"),
    ("truncate", "body"),
    ("gzip-truncated", "body"),
]


@pytest.fixture
def careful(session, server):
    """A session that repeats nothing that may have happened."""
    session.retry_ambiguous_writes = False
    session.timeout = 20
    server.handler = lambda request: wire.Answer(json={"user": {"id": "P1"}})
    return session


# ---------------------------------------------------------------------------
# Not repeated
# ---------------------------------------------------------------------------


def test_retry_ambiguous_writes_is_on_by_default(
    session, events, changes, server, naps
):
    assert pdpyras.PDSession.retry_ambiguous_writes is True
    for each in (session, events, changes):
        assert each.retry_ambiguous_writes is True
        server.fault("reset", "status")
        assert each.post("anything", json={}).ok
    assert naps == [3] * 3
    assert len(server.requests) == 6


@pytest.mark.parametrize("kind, stage", AMBIGUOUS)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_without_retry_ambiguous_writes_a_loss_is_an_error(
    method, kind, stage, careful, server, naps
):
    server.fault(kind, stage)
    careful.timeout = 0.1 if kind == "stall" else 20
    with pytest.raises(pdpyras.PDClientError) as caught:
        careful.request(method, "users", json={"name": "J"})
    error = caught.value
    assert type(error) is pdpyras.PDClientError
    assert error.response is None and error.__cause__ is not None
    assert "retry_ambiguous_writes" in str(error)
    assert "may or may not have carried" in str(error)
    assert f"{method} {server.url}/users" in str(error)
    assert naps == []
    careful.timeout = 20
    assert careful.request(method, "users", json={"name": "J"}).ok


@pytest.mark.parametrize("kind, stage", AMBIGUOUS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_without_retry_ambiguous_writes_idempotent_methods_are_repeated(
    method, kind, stage, careful, server, naps
):
    server.fault(kind, stage)
    careful.timeout = 0.2 if kind == "stall" else 20
    assert careful.request(method, "users/P1").ok
    assert naps == [3]


def test_an_error_that_the_caller_is_handling_does_not_count(
    events, server, naps
):
    """A refused connection elsewhere says nothing about this event."""
    events.retry_ambiguous_writes = False
    events.timeout = 0.2
    server.fault("stall", "status", times=3)
    nowhere = f"http://127.0.0.1:{wire.closed_port()}"
    try:
        requests.get(nowhere, timeout=20)
        raise AssertionError("it answered")
    except requests.ConnectionError:
        with pytest.raises(pdpyras.PDClientError) as caught:
            events.trigger("The site is down", "www")
    assert "No answer within 0.2 s" in str(caught.value)
    assert naps == [] and len(server.requests) == 1


def test_a_dead_pooled_connection_is_ambiguous_too(careful, server, naps):
    careful.get("users/P1")
    server.fault("reset", "request")
    with pytest.raises(pdpyras.PDClientError, match="retry_ambiguous_writes"):
        careful.post("users", json={})
    assert naps == []


def test_an_iteration_by_post_is_an_ambiguous_write(careful, server, naps):
    server.fault("reset", "status")
    with pytest.raises(pdpyras.PDClientError, match="retry_ambiguous_writes"):
        careful.list_all("analytics/raw/incidents", json={})
    assert naps == []


@pytest.mark.parametrize("kind", ["events", "changes"])
def test_events_are_ambiguous_writes(kind, request, server, naps):
    session = request.getfixturevalue(kind)
    session.retry_ambiguous_writes = False
    server.fault("reset", "status")
    with pytest.raises(pdpyras.PDClientError, match="retry_ambiguous_writes"):
        if kind == "events":
            session.trigger("Disk is full", "db1")
        else:
            session.submit("Build 7 is out")
    assert naps == [] and len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500])
def test_an_answer_that_asks_for_a_retry_is_not_ambiguous(
    status, careful, server, naps
):
    careful.retry[500] = 1
    server.reply(status, headers={"ratelimit-reset": "7"})
    assert careful.post("users", json={}).ok
    assert len(naps) == 1 and len(server.requests) == 2


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_lose_a_write_is_an_error(
    status, careful, server, naps
):
    """A write that was not confirmed is never reported as done."""
    target = f"{server.url}/users/P1"
    server.reply(status, headers={"Location": target})
    for write in (careful.post, careful.put, careful.patch, careful.delete):
        server.reply(status, headers={"Location": "/users/P1"})
        with pytest.raises(pdpyras.PDClientError) as caught:
            write("users/P2")
        assert f"{server.url}/users/P2" in str(caught.value)
        assert target in str(caught.value)
    assert len(server.requests) == 4 and naps == []


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_repeats_a_write_is_followed(status, careful, server):
    server.reply(status, headers={"Location": "/users/P1"})
    assert careful.put("users/P2", json={"a": 1}).ok
    first, second = server.requests
    assert (second.method, second.path) == ("PUT", "/users/P1")
    assert second.body == first.body


def test_retry_ambiguous_writes_is_set_on_a_session_or_a_class():
    class Careful(pdpyras.APISession):
        retry_ambiguous_writes = False

    assert Careful(KEY).retry_ambiguous_writes is False
    assert pdpyras.APISession(KEY).retry_ambiguous_writes is True


# ---------------------------------------------------------------------------
# What certainly did not arrive is sent again
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["users", "users?a=b", "users/P1"])
def test_a_write_to_a_refused_connection_is_sent_again(
    path, careful, server, naps
):
    server.refuse()
    naps.during = lambda: len(naps) == 2 and server.listen()
    assert careful.rpost(path, json={"name": "J"}) == {"id": "P1"}
    assert naps == [3, 6]
    assert len(server.requests) == 1


def test_a_refused_connection_after_one_that_was_open(careful, server, naps):
    careful.get("users/P1")
    careful.close()
    server.refuse()
    naps.during = server.listen
    assert careful.post("users", json={}).ok
    assert naps == [3]


def test_a_connection_that_is_always_refused(careful, server, naps):
    server.refuse()
    with pytest.raises(pdpyras.PDClientError, match="4 attempts") as caught:
        careful.post("users", json={})
    assert "retry_ambiguous_writes" not in str(caught.value)
    assert naps == [3, 6, 12]


def test_a_name_that_does_not_resolve(careful, server, naps, monkeypatch):
    """The resolver is asked for a name that nobody has, by its RFC."""
    careful.url = f"http://nobody.invalid:{server.port}"
    found = []

    def resolver(host, *args, **kwargs):
        if host == "nobody.invalid" and not naps:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        found.append(host)
        return original("127.0.0.1", *args, **kwargs)

    original = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    with pytest.warns(UserWarning, match="not encrypted"):
        assert careful.post("users", json={}).ok
    assert naps == [3] and found
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["reset", "close", "stall"])
def test_a_tls_handshake_that_fails(kind, trust, careful, naps):
    with wire.Server(tls=trust) as server:
        careful.url = server.url
        careful.verify = trust.ca_file
        careful.timeout = 1 if kind == "stall" else 20
        server.fault(kind, "tls")
        assert careful.post("users", json={}).ok
        assert naps == [3]
        assert len(server.requests) == 1


def test_a_tls_handshake_with_what_speaks_no_tls(trust, careful, naps):
    """A plain port answers the same again, so that it is an error at once."""
    with wire.Server(tls=trust) as server:
        careful.url = server.url
        careful.verify = trust.ca_file
        server.fault("garbage", "tls")
        with pytest.raises(pdpyras.PDClientError) as caught:
            careful.post("users", json={})
        assert "may or may not" not in str(caught.value)
        assert naps == [] and server.requests == []


def test_a_certificate_that_does_not_verify_is_no_retry(trust, careful, naps):
    with wire.Server(tls=trust) as server:
        careful.url = server.url
        with pytest.raises(pdpyras.PDClientError) as caught:
            careful.post("users", json={})
        assert "retry_ambiguous_writes" not in str(caught.value)
        assert naps == [] and server.requests == []


class Alerting(wire.Listener):
    """Ends each handshake with this alert of TLS."""

    def __init__(self, code):
        self.alert = b"\x15\x03\x01\x00\x02\x02%c" % code
        super().__init__()

    def _serve(self, link):
        link.sock.recv(5)
        link.sock.sendall(self.alert)
        link.hang_up()


@pytest.mark.parametrize(
    "code, is_final",
    [
        *((code, True) for code in (42, 43, 44, 45, 46, 48, 49)),
        (70, True),
        # Before Python 3.8 it has no name.
        (116, sys.version_info >= (3, 8)),
        (40, False),
    ],
)
def test_which_tls_alerts_are_not_retried(code, is_final, careful, naps):
    """A certificate of the client is refused or missing; an old TLS."""
    with Alerting(code) as server:
        careful.url = f"https://127.0.0.1:{server.port}"
        with pytest.raises(pdpyras.PDClientError, match="SSL"):
            careful.get("users")
        assert server.connections == (1 if is_final else 4)
    assert bool(naps) is not is_final


class Tunnel(wire.Proxy):
    """A proxy that fails to open the first tunnels."""

    def __init__(self, failures):
        self.failures = failures
        super().__init__()

    def _address(self, target):
        self.failures -= 1
        return None if self.failures >= 0 else super()._address(target)


def test_a_proxy_that_opens_no_tunnel(trust, careful, naps, monkeypatch):
    with wire.Server(tls=trust) as server, Tunnel(2) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        careful.url = server.url
        careful.verify = trust.ca_file
        careful.timeout = 10
        assert careful.post("users", json={}).ok
        assert naps == [3, 6]
        assert [r.method for r in proxy.requests] == ["CONNECT"] * 3
        assert len(server.requests) == 1


def test_a_proxy_that_cannot_be_reached(careful, server, naps, monkeypatch):
    port = wire.closed_port()
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    naps.during = lambda: monkeypatch.delenv("HTTP_PROXY")
    assert careful.post("users", json={}).ok
    assert naps == [3]
    assert len(server.requests) == 1


# ---------------------------------------------------------------------------
# Every alert once
# ---------------------------------------------------------------------------


class Alerts:
    """The Events API, as far as it tells alerts apart."""

    def __init__(self):
        self.keys = []

    def __call__(self, request):
        event = request.json
        key = event.get("dedup_key") or f"made-by-api-{len(self.keys)}"
        if key not in self.keys:
            self.keys.append(key)
        return wire.Answer(202, json={"status": "success", "dedup_key": key})


@pytest.fixture
def alerts(server):
    """The alerts that there are."""
    server.handler = Alerts()
    return server.handler


def test_without_client_dedup_keys_the_api_makes_the_key(
    events, server, alerts
):
    assert pdpyras.EventsAPISession.client_dedup_keys is False
    assert events.trigger("Disk is full", "db1") == "made-by-api-0"
    assert "dedup_key" not in server.requests[0].json


def test_without_client_dedup_keys_a_lost_answer_pages_twice(
    events, server, alerts, naps
):
    """The reason for the setting: this is the default, as documented."""
    server.fault("reset", "status")
    events.trigger("Disk is full", "db1")
    assert len(alerts.keys) == 2


@pytest.mark.parametrize(
    "send",
    [
        lambda events: events.trigger("Disk is full", "db1"),
        lambda events: events.trigger("Disk is full", "db1", dedup_key=""),
        lambda events: events.send_event("trigger", payload={"summary": "x"}),
    ],
)
def test_client_dedup_keys_are_made_before_the_first_send(
    send, events, server, alerts, naps
):
    events.client_dedup_keys = True
    server.fault("reset", "status")
    server.reply(500)
    server.fault("truncate", "body")
    key = send(events)
    assert len({request.body for request in server.requests}) == 1
    assert len(server.requests) == 4
    assert alerts.keys == [key] == [server.requests[0].json["dedup_key"]]
    assert re.fullmatch("[0-9a-f]{32}", key)


def test_client_dedup_keys_are_all_different(events, alerts):
    events.client_dedup_keys = True
    keys = {events.trigger("Disk is full", "db1") for _ in range(20)}
    assert len(keys) == len(alerts.keys) == 20


def test_a_dedup_key_that_is_given_stays(events, server, alerts):
    events.client_dedup_keys = True
    assert events.trigger("Disk is full", "db1", dedup_key="mine") == "mine"
    events.resolve("mine")
    assert alerts.keys == ["mine"]


def test_client_dedup_keys_are_for_trigger_only(events, server):
    events.client_dedup_keys = True
    for action in ("acknowledge", "resolve"):
        with pytest.raises(ValueError, match="dedup_key"):
            events.send_event(action)
    assert server.requests == []


def test_client_dedup_keys_leave_the_callers_payload_alone(events, alerts):
    events.client_dedup_keys = True
    payload = {"summary": "Disk is full", "source": "db1"}
    events.send_event("trigger", payload=payload)
    assert payload == {"summary": "Disk is full", "source": "db1"}


@pytest.fixture
def exchange(server, events, alerts):
    """A request as it is sent, and the parts of its answer."""
    events.client_dedup_keys = True
    events.sleep_timer = 0
    events.max_network_attempts = 1
    events.trigger("Disk is full", "db1")
    (request,) = server.requests
    line = f"{request.method} {request.target} HTTP/1.1\r\n"
    fields = "".join(f"{k}: {v}\r\n" for k, v in request.headers.items())
    size = len(line) + len(fields) + 2 + len(request.body)
    answer = alerts(request).parts("POST")
    del alerts.keys[:]
    return size, answer


def killed(events, server, alerts, kind, stage, at):
    """Trigger an alert, on a connection that is killed there."""
    del alerts.keys[:]
    requests = len(server.requests)
    server.fault(kind, stage, at=at)
    key = events.trigger("Disk is full", "db1")
    assert alerts.keys == [key], (stage, at)
    assert not server.script, (stage, at)
    return len(server.requests) - requests


@pytest.mark.oldest
@pytest.mark.parametrize("kind", ["reset", "close"])
def test_killed_at_any_byte_of_the_request_there_is_one_alert(
    kind, exchange, events, server, alerts, naps
):
    size, _ = exchange
    for at in range(size + 1):
        assert killed(events, server, alerts, kind, "request", at) == 1
    assert naps == []  # The connection was kept alive, and nothing came.


@pytest.fixture
def answered(events, monkeypatch):
    """Of each attempt that failed: has something of an answer come?"""
    found = []
    original = events._attempt

    def attempt(method, url, options, progress, unwanted):
        try:
            return original(method, url, options, progress, unwanted)
        except Exception:
            found.append(progress.is_answered)
            raise

    monkeypatch.setattr(events, "_attempt", attempt)
    return found


@pytest.mark.oldest
@pytest.mark.parametrize("kind", ["reset", "close"])
def test_killed_at_any_byte_of_the_answer_there_is_one_alert(
    kind, exchange, events, server, alerts, naps, answered
):
    _, answer = exchange
    for stage, part in zip(("status", "headers", "body"), answer):
        for at in range(len(part)):
            sent = killed(events, server, alerts, kind, stage, at)
            assert sent == 2, (stage, at)
    # A pause, unless nothing came on a connection that was kept alive.
    size = sum(map(len, answer))
    assert len(answered) == size
    assert len(naps) == answered.count(True)
    assert answered[0] is False
    if kind == "close":  # A reset loses what came before it, at times.
        assert all(answered[1:])


def test_with_client_dedup_keys_many_threads_page_once_each(
    events, server, alerts, naps
):
    events.client_dedup_keys = True
    events.max_network_attempts = 40
    for _ in range(12):
        server.fault("reset", "status")
        server.fault("truncate", "body")
    keys = []
    threads = [
        threading.Thread(
            target=lambda: keys.append(events.trigger("Disk is full", "db1"))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(keys) == sorted(alerts.keys)
    assert len(keys) == 8
