"""When the network fails: retries, bounds, and nothing lost or doubled."""

import itertools
import math
import threading

import pytest
import requests
from urllib3.exceptions import HTTPError as Urllib3Error

import pdpyras
from tests import wire

GOOD = {"user": {"id": "P1", "name": "x" * 200}}
USER = GOOD["user"]

#: What a connection can do to a request or an answer, and a retry cures.
TRANSIENT = [
    ("reset", "connect"),
    ("close", "connect"),
    ("garbage", "connect"),
    ("reset", "request"),
    ("close", "request"),
    ("garbage", "request"),
    ("reset", "status"),
    ("close", "status"),
    ("garbage", "status"),
    ("stall", "status"),
    ("reset", "headers"),
    ("close", "headers"),
    ("stall", "headers"),
    ("reset", "body"),
    ("truncate", "body"),
    ("stall", "body"),
    ("gzip-truncated", "body"),
]


@pytest.fixture(autouse=True)
def answers(server):
    """The server's right answer to everything."""
    server.handler = lambda request: wire.Answer(json=GOOD)


@pytest.fixture(autouse=True)
def quick(request, naps):
    """No stall is waited for longer than this, and no pause is taken."""
    if "session" in request.fixturenames:
        parameters = getattr(request.node, "callspec", None)
        kind = parameters and parameters.params.get("kind")
        # Others are soon over by themselves, however slow this machine is.
        stalls = kind in (None, "stall")
        request.getfixturevalue("session").timeout = 0.2 if stalls else 20


def attempts(server, stage):
    """How often the server was called, as far as it can know."""
    if stage in ("connect", "request"):
        return server.connections
    return len(server.requests)


@pytest.mark.parametrize("kind, stage", TRANSIENT)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_retry_cures_a_transient_fault(
    method, kind, stage, server, session, naps
):
    server.fault(kind, stage, times=2)
    response = session.request(method, "/users/P1")
    assert response.json() == GOOD
    assert naps == [3, 6]
    assert attempts(server, stage) == 3


@pytest.mark.parametrize("kind, stage", TRANSIENT)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_lasting_fault_is_an_error_in_the_end(
    method, kind, stage, server, session, naps
):
    server.fault(kind, stage, times=math.inf)
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.request(method, "/users/P1")
    assert type(caught.value) is pdpyras.PDClientError
    assert caught.value.response is None
    assert isinstance(
        caught.value.__cause__,
        (requests.RequestException, Urllib3Error, OSError),
    )
    assert naps == [3, 6, 12]
    assert attempts(server, stage) == 1 + session.max_network_attempts
    server.script.clear()
    session.timeout = 20
    assert session.get("/users/P1").json() == GOOD
    assert session.get("/users/P1").json() == GOOD
    assert len(naps) == 3


def test_a_refused_connection_is_tried_again(server, session, naps):
    session.get("/users/P1")
    server.refuse()
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.get("/users/P1")
    assert isinstance(caught.value.__cause__, requests.ConnectionError)
    assert naps == [3, 6, 12]
    naps.during = lambda: len(naps) == 5 and server.listen()
    assert session.rget("/users/P1") == USER
    assert naps == [3, 6, 12, 3, 6]


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["reset", "truncate", "garbage"])
def test_a_chunked_body_that_breaks_off(
    kind, packed, chunks, server, session, naps
):
    answer = wire.Answer(json=GOOD, gzip=packed, chunks=chunks)
    server.fault(kind, "body", answer=answer)
    assert session.rget("/users/P1") == USER
    assert naps == [3]


def test_a_chunked_body_that_breaks_off_between_chunks(server, session, naps):
    answer = wire.Answer(json=GOOD, chunks=3)
    body = answer.parts("GET")[2]
    size = body.index(b"\r\n") + 4 + int(body[: body.index(b"\r\n")], 16)
    for at in (0, size, 2 * size, len(body) - 5):
        server.fault("truncate", "body", at=at, answer=answer)
    session.max_network_attempts = 4
    assert session.rget("/users/P1") == USER
    assert naps == [3, 6, 12, 24]


def test_an_answer_cut_after_any_byte_is_not_taken_for_whole(
    server, session, naps
):
    session.max_network_attempts = 1
    for part, name in enumerate(("status", "headers", "body")):
        length = len(wire.Answer(json=GOOD).parts("GET")[part])
        for at in range(0, length, 1 if name != "body" else 40):
            server.fault("close", name, at=at)
            assert session.rget("/users/P1") == USER, (name, at)


def test_half_a_gzip_stream_of_any_length(server, session, naps):
    whole = wire.Answer(json=GOOD, gzip=True).content()
    session.max_network_attempts = 1
    for size in range(1, len(whole)):
        server.reply(
            body=whole[:size],
            headers={
                "Content-Encoding": "gzip",
                "Content-Type": "application/json",
            },
        )
        assert session.rget("/users/P1") == USER, size
    server.reply(json=GOOD, gzip=True)
    server.reply(204, headers={"Content-Encoding": "gzip"})
    server.reply(200, headers={"Content-Encoding": "gzip"})
    count = len(naps)
    assert session.rget("/users/P1") == USER
    assert session.get("/users/P1").content == b""
    assert session.get("/users/P1").content == b""
    assert len(naps) == count


def test_a_body_longer_than_announced_spoils_no_other_answer(
    server, session, naps
):
    server.fault("wrong-length", "body")
    with pytest.raises(pdpyras.PDClientError):
        session.rget("/users/P1")
    assert session.rget("/users/P1") == USER


def test_garbage_in_a_body_is_the_servers_error(server, session):
    server.fault("garbage", "body")
    with pytest.raises(pdpyras.PDServerError):
        session.rget("/users/P1")
    assert session.rget("/users/P1") == USER


@pytest.mark.parametrize("kind", ["reset", "close", "garbage"])
def test_a_pooled_connection_that_has_ended(kind, server, session, naps):
    for _ in range(3):
        server.fault(kind, "idle")
        assert session.rget("/users/P1") == USER
        assert session.rput("/users/P1", json=USER) == USER
    assert len(server.requests) == 6
    assert len(naps) <= 3


@pytest.mark.parametrize("timeout", [0.05, (3, 0.05)])
def test_a_timeout_is_an_error_in_the_end(timeout, server, session, naps):
    session.timeout = timeout
    server.fault("stall", "status", times=math.inf)
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.get("/users/P1")
    assert isinstance(caught.value.__cause__, requests.Timeout)
    assert naps == [3, 6, 12]


@pytest.mark.parametrize(
    "timeout", [30, (30, 30), None, math.inf, (1e10, 1e300)]
)
def test_a_timeout_of_one_call(timeout, server, session, naps):
    session.timeout = 0.3
    late = threading.Event()

    def handler(request):
        late.wait(0.6)
        return wire.Answer(json=GOOD)

    server.handler = handler
    assert session.get("/users/P1", timeout=timeout).json() == GOOD
    assert naps == []
    assert session.timeout == 0.3
    naps.during = late.set
    assert session.get("/users/P1").json() == GOOD
    assert naps == [3]


def test_max_network_attempts_is_the_number_of_retries(server, session, naps):
    for limit in (0, 1, 5):
        session.max_network_attempts = limit
        server.requests.clear()
        naps.clear()
        server.fault("close", "status", times=limit + 1)
        with pytest.raises(pdpyras.PDClientError):
            session.get("/users/P1")
        assert len(server.requests) == 1 + limit
        assert naps == [3 * 2**n for n in range(limit)]


def test_waits_grow_through_trouble_of_all_kinds(server, session, naps):
    session.retry[500] = 2
    server.fault("close", "status")
    server.reply(500)
    server.fault("reset", "status")
    server.reply(500)
    assert session.rget("/users/P1") == USER
    # The reset strikes a connection that was kept alive: no pause.
    assert naps == [3, 6, 12]


def test_each_retry_is_logged_with_endpoint_reason_and_wait(
    server, session, naps, caplog
):
    server.fault("close", "status", times=2)
    session.get("/users/P1")
    records = [r for r in caplog.records if r.name.startswith("pdpyras")]
    assert [r.levelname for r in records] == ["WARNING"] * 2
    for record, wait in zip(records, ("3", "6")):
        text = record.getMessage()
        assert "/users/P1" in text and "GET" in text
        assert wait in text


def test_an_interrupted_iteration_loses_and_repeats_nothing(
    server, session, naps
):
    def page(request):
        query = dict(request.query)
        first, size = int(query["offset"]), int(query["limit"])
        users = [{"id": n} for n in range(first, min(first + size, 95))]
        return wire.Answer(json={"users": users, "more": first + size < 95})

    server.handler = page
    for kind, stage in TRANSIENT:
        server.fault(kind, stage)
    session.max_network_attempts = len(TRANSIENT)
    found = [user["id"] for user in session.iter_all("users", page_size=10)]
    assert found == list(range(95))
    assert len(naps) == len(TRANSIENT)


# What no retry can cure


def hopeless(session, naps, *args, **options):
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.request(*args, **options)
    assert naps == []
    return caught.value


@pytest.mark.parametrize(
    "headers",
    [
        {"X-One": "a\nb"},
        {"X-One": "a\r\nX-Two: b"},
        {"X-One": 5},
        {"X\nOne": "a"},
        {" X-One": "a"},
    ],
)
def test_an_invalid_header(headers, server, session, naps):
    hopeless(session, naps, "GET", "/users", headers=headers)
    assert server.requests == []


def test_an_invalid_sender(server, session, naps):
    session.default_from = "user@example.com\nX-Two: b"
    hopeless(session, naps, "GET", "/users")
    assert server.requests == []


@pytest.mark.parametrize(
    "base",
    [
        "http://",
        "http://[::1",
        "nonsense://127.0.0.1",
        "http://127.0.0.1:99999999",
    ],
)
def test_an_invalid_url(base, session, naps):
    session.url = base
    with pytest.raises(pdpyras.URLError):
        session.get("/users")
    assert naps == []


@pytest.mark.parametrize(
    "base", ["https://*", "https://" + "x" * 64 + ".invalid"]
)
def test_an_invalid_name_of_a_host(base, session, naps):
    session.url = base
    hopeless(session, naps, "GET", "/users")


def test_an_invalid_json_body(server, session, naps):
    error = hopeless(session, naps, "POST", "/users", json={"n": float("nan")})
    assert isinstance(error.__cause__, (ValueError, requests.RequestException))
    error = hopeless(session, naps, "POST", "/users", json={"n": object()})
    assert isinstance(error.__cause__, TypeError)
    assert server.requests == []


def test_a_certificate_that_does_not_verify(trust, session, naps):
    with wire.Server(tls=trust) as server:
        session.url = server.url
        error = hopeless(session, naps, "GET", "/users")
        assert isinstance(error.__cause__, requests.exceptions.SSLError)
        assert server.connections == 1
        assert server.requests == []
        assert session.get("/users", verify=trust.ca_file).ok


def test_a_session_closes_whatever_it_was_verified_by(trust):
    """requests before 2.32 has an adapter for each, which was its own twin."""
    with wire.Server(tls=trust) as server:
        with pdpyras.APISession("key", url=server.url) as session:
            for _ in range(2):
                session.get("/users", verify=trust.ca_file)
            assert server.connections == 1


def test_a_certificate_for_another_host(session, naps):
    pytest.importorskip("trustme")
    with wire.certificates("other.invalid") as trust:
        with wire.Server(tls=trust) as server:
            session.url = server.url
            session.verify = trust.ca_file
            hopeless(session, naps, "GET", "/users")
            assert server.connections == 1


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_a_broken_tls_handshake_is_worth_a_retry(kind, trust, session, naps):
    with wire.Server(tls=trust) as server:
        session.url = server.url
        session.verify = trust.ca_file
        session.timeout = 5
        server.fault(kind, "tls", times=2)
        assert session.get("/users").ok
        assert naps == [3, 6]
        assert server.connections == 3


def test_a_redirect_loop(server, session, naps):
    session.max_redirects = 5
    server.handler = lambda request: wire.Answer(
        302, headers={"Location": "/users"}
    )
    error = hopeless(session, naps, "GET", "/users")
    assert isinstance(error.__cause__, requests.TooManyRedirects)
    assert len(server.requests) == 6


# Connections


def test_one_connection_serves_all_calls(server, session, naps):
    session.timeout = 5
    server.reply(429, json={}, times=2)
    server.reply(404, json={})
    server.reply(500, json={})
    server.reply(204)
    for n in itertools.count():
        session.request(("GET", "POST", "DELETE")[n % 3], "/users/P1")
        if len(server.requests) >= 20:
            break
    assert server.connections == 1
