"""The deadline of a call: it ends in time, whatever happens.

What takes no time here is waited for with pauses that are none (``naps``).
Elsewhere a call may end half a second late, and as much later as a busy
machine was seen to be late meanwhile in waking up a thread.
"""

import contextlib
import copy
import gc
import inspect
import io
import itertools
import math
import pickle
import socket
import threading
import time
import warnings

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

import pdpyras
from tests import wire
from tests.support import KEY, Clock

DEADLINE = 0.5
USER = {"id": "P1", "type": "user", "name": "x" * 400}
BODY = {"user": USER}
INCIDENT = {"incident": {"type": "incident", "title": "Disk is full"}}


@pytest.fixture
def clock():
    return Clock(DEADLINE)


def page(*numbers, more=False, **properties):
    """A page of users."""
    users = [{"id": n, "name": f"user {n}"} for n in numbers]
    return {"users": users, "more": more, **properties}


def late(seconds=4):
    """A refusal that asks for a pause."""
    return wire.Answer(429, headers={"ratelimit-reset": str(seconds)})


def refuse_first(server, answer, seconds=4):
    """Let each request be refused once, and then answered."""
    answers = itertools.cycle([late(seconds), None])
    server.handler = lambda request: next(answers) or answer(request)


# -- What a server can do ---------------------------------------------------


@pytest.mark.parametrize(
    "stage, at",
    [("status", 2), ("headers", 3), ("headers", 30), ("body", 10)],
)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_deadline_bounds_an_answer_that_drips(
    stage, at, tls, method, request
):
    certificates = request.getfixturevalue("trust") if tls else None
    with wire.Server(tls=certificates) as server:
        server.fault("drip", stage, at=at, answer=wire.Answer(json=BODY))
        with pdpyras.APISession("fake-key") as session:
            session.url = server.url
            session.timeout = 0.3  # Never is there silence for so long.
            if tls:
                session.verify = certificates.ca_file
            clock = Clock()
            with pytest.raises(pdpyras.PDDeadlineError):
                session.request(method, "/users", json=BODY, deadline=DEADLINE)
            clock.check()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer, at",
    [
        (wire.Answer(json=BODY, chunks=3), 1),
        (wire.Answer(json=BODY, chunks=3), 20),
        (wire.Answer(json=BODY, chunks=400), 0),
        (wire.Answer(json=BODY, until_close=True), 10),
        (wire.Answer(json=BODY, gzip=True), 15),
        (wire.Answer(500, json=BODY), 10),
    ],
    ids=["size", "chunk", "many chunks", "no length", "gzip", "error"],
)
def test_the_deadline_bounds_a_body_that_drips(
    answer, at, server, session, clock
):
    server.fault("drip", "body", at=at, answer=answer)
    with pytest.raises(pdpyras.PDDeadlineError):
        session.get("/users/P1", deadline=DEADLINE)
    clock.check()


def test_a_streamed_answer_that_a_method_decodes_is_late_not_broken(
    server, session, clock
):
    server.fault("drip", "body", at=1, answer=wire.Answer(json=BODY))
    with pytest.raises(pdpyras.PDDeadlineError, match=r"0\.5 s"):
        session.jget("/users/P1", stream=True, deadline=0.5)
    clock.check()


def test_the_deadline_bounds_digest_authentication(server, session, clock):
    """Which sends a request by itself, when it has been asked to."""
    digest = 'Digest realm="r", nonce="n", qop="auth"'
    server.reply(401, headers={"WWW-Authenticate": digest})
    server.fault("drip", "body", at=10, answer=wire.Answer(json=BODY))
    with pytest.raises(pdpyras.PDDeadlineError):
        session.get(
            "/users/P1",
            auth=requests.auth.HTTPDigestAuth("user", "password"),
            deadline=DEADLINE,
        )
    clock.check()


@pytest.mark.parametrize(
    "timeout",
    [
        urllib3.Timeout(connect=5, read=5),
        urllib3.Timeout(total=5),
        urllib3.Timeout(5, read=4),
        urllib3.Timeout(),
    ],
    ids=["each", "total", "total and read", "default"],
)
def test_the_deadline_bounds_a_timeout_of_urllib3(
    timeout, server, session, clock
):
    server.fault("drip", "body", at=10, answer=wire.Answer(json=BODY))
    with pytest.raises(pdpyras.PDDeadlineError):
        session.get("/users/P1", timeout=timeout, deadline=DEADLINE)
    clock.check()


@pytest.mark.parametrize(
    "timeout",
    [
        urllib3.Timeout(connect=5, read=DEADLINE),
        urllib3.Timeout(total=DEADLINE),
        urllib3.Timeout(DEADLINE, connect=5, read=5),
        (5, DEADLINE),
    ],
    ids=["each", "total", "all", "pair"],
)
def test_a_timeout_of_urllib3_is_kept(timeout, server, session, clock):
    session.max_network_attempts = 0
    server.fault("stall", "status")
    with pytest.raises(pdpyras.PDClientError, match="No answer within"):
        session.get("/users/P1", timeout=timeout, deadline=9)
    clock.check()


@pytest.mark.oldest
@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Y: z\r\n\r\n",
    ],
)
def test_the_deadline_bounds_interim_answers_without_end(
    interim, server, session, clock
):
    server.reply(before=itertools.repeat(interim))
    with pytest.raises(pdpyras.PDDeadlineError):
        session.post("/users", json=BODY, deadline=DEADLINE)
    clock.check()


@pytest.mark.parametrize("stage", ["connect", "request", "status"])
def test_the_deadline_bounds_silence(stage, server, session, clock):
    server.fault("stall", stage)
    with pytest.raises(pdpyras.PDDeadlineError):
        session.get("/users/P1", deadline=DEADLINE)
    clock.check()


@pytest.mark.parametrize("kind", ["stall", "deaf"])
def test_the_deadline_bounds_a_tls_handshake(kind, trust, clock):
    with wire.Server(tls=trust) as server:
        server.fault(kind, "tls", times=math.inf)
        with pdpyras.APISession("fake-key") as session:
            session.url, session.verify = server.url, trust.ca_file
            with pytest.raises(pdpyras.PDDeadlineError):
                session.get("/users/P1", deadline=DEADLINE)
            clock.check()


@pytest.fixture
def tunnel(trust, session):
    """A server by HTTPS, and the proxy by which the session reaches it."""
    with wire.Server(tls=trust) as server, wire.Proxy() as proxy:
        session.url, session.verify = server.url, trust.ca_file
        session.proxies = {"https": proxy.url}
        yield server, proxy


@pytest.mark.parametrize("kind", ["stall", "drip"])
def test_the_deadline_bounds_a_proxy_that_opens_its_tunnel(
    kind, tunnel, session, clock
):
    server, proxy = tunnel
    proxy.fault = kind
    session.timeout = 0.3 if kind == "drip" else 60
    with pytest.raises(pdpyras.PDDeadlineError):
        session.get("/users/P1", deadline=DEADLINE)
    clock.check()
    assert server.connections == 0


def test_the_deadline_bounds_the_handshake_behind_a_slow_tunnel(
    tunnel, session
):
    """What the proxy took is not given to the handshake once more."""
    server, proxy = tunnel
    server.fault("stall", "tls")
    proxy.delay = 1.5  # More than a call may be late, or that would hide it.
    clock = Clock(2)
    with pytest.raises(pdpyras.PDDeadlineError):
        session.get("/users/P1", deadline=2)
    clock.check()


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    "body, charset",
    [
        (b"\\" * 8000000, "utf-8"),
        (b"\xe9\\" * 4000000, None),
        (b'{"errors": "' + b"\\\\" * 2000000 + b'"}', "utf-8"),
        (b'{"errors": [' + b'"\\\\", ' * 500000 + b"1]}", "utf-8"),
        (b'{"errors": {"a": [' + b"1," * 1000000 + b"1]}}", "utf-8"),
        (b'{"errors": [' + b"1," * 30000000 + b"1]}", "utf-8"),
    ],
    ids=["text", "unknown", "JSON", "reasons", "numbers", "huge"],
)
def test_the_deadline_bounds_the_error_about_a_large_answer(
    body, charset, status, server, session
):
    """The key is hidden in what the error shows, which takes its time."""
    if status == 200:
        body = body[:-1]  # No JSON.
    kind = "application/json" + (f"; charset={charset}" if charset else "")
    server.reply(status, body=body, headers={"Content-Type": kind})
    response = session.get("/users/P1")
    clock = Clock(DEADLINE)  # What came before was the network's.
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        pdpyras.try_decoding(pdpyras.successful_response(response))
    clock.check(earliest=0)
    assert len(str(caught.value)) < 11000


def test_the_last_answer_is_with_what_the_deadline_ends(server, session, naps):
    session.retry[503] = 3
    server.reply(503)
    server.fault("stall", "status", times=9)
    with pytest.raises(pdpyras.PDDeadlineError) as caught:
        session.get("users", deadline=9)
    assert caught.value.response.status_code == 503


def test_the_deadline_bounds_an_answer_that_drips_through_a_proxy(
    tunnel, session, clock
):
    server, proxy = tunnel
    server.fault("drip", "headers")
    with pytest.raises(pdpyras.PDDeadlineError):
        session.get("/users/P1", deadline=DEADLINE)
    clock.check()
    assert [r.method for r in proxy.requests] == ["CONNECT"]


@pytest.fixture
def dead_host(monkeypatch):
    """A host with four addresses, none of which answers: their queues of
    connections that wait to be accepted are full."""
    addresses = [f"127.0.0.{n}" for n in range(2, 6)]
    listeners, clients = [], []
    port = 0
    for address in addresses:
        listener = socket.socket()
        try:
            listener.bind((address, port))
        except OSError:
            pytest.skip(f"no address {address} on this machine")
        listener.listen(0)
        port = listener.getsockname()[1]
        listeners.append(listener)
        clients += [_knock(address, port) for _ in range(4)]
    resolve = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        if host != "dead.test":
            return resolve(host, *args, **kwargs)
        found = [resolve(a, *args, **kwargs) for a in addresses]
        return list(itertools.chain(*found))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield f"http://dead.test:{port}"
    for open_socket in listeners + clients:
        open_socket.close()


def _knock(address, port):
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex((address, port))
    return client


@pytest.mark.filterwarnings("ignore:.*is not encrypted")
def test_the_deadline_bounds_four_addresses_that_do_not_answer(
    dead_host, session, clock
):
    session.url = dead_host
    with pytest.raises(pdpyras.PDDeadlineError) as caught:
        session.get("/users/P1", deadline=DEADLINE)
    clock.check()
    assert "No connection within that time" in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*is not encrypted")
def test_under_a_deadline_the_second_address_is_tried(
    server, session, monkeypatch
):
    """Of a host that is reached by its last address only."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        if host != "half.test":
            return resolve(host, *args, **kwargs)
        return resolve("127.0.0.9", *args, **kwargs) + resolve(
            "127.0.0.1", *args, **kwargs
        )

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    server.reply(json=BODY)
    session.url = f"http://half.test:{server.port}"
    session.max_network_attempts = 0
    assert session.rget("/users/P1", deadline=20) == USER
    assert server.requests[0].headers["Host"] == f"half.test:{server.port}"


@pytest.mark.parametrize("host", ["nowhere.test", "a" * 70 + ".test"])
@pytest.mark.parametrize("deadline", [None, 20])
def test_a_host_without_an_address_is_no_other_error_under_a_deadline(
    host, deadline, session, monkeypatch
):
    def getaddrinfo(name, *args, **kwargs):
        name.encode("idna")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    session.url = f"https://{host}"
    session.max_network_attempts = 0
    with pytest.raises(pdpyras.PDClientError, match="service not|too long"):
        session.get("/users", deadline=deadline)


@pytest.mark.parametrize("kind", ["deaf", "drip"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    "make", [bytes, io.BytesIO, lambda data: iter([data])]
)
def test_the_deadline_bounds_an_upload_that_is_not_read(
    kind, tls, make, request
):
    certificates = request.getfixturevalue("trust") if tls else None
    with wire.Server(tls=certificates) as server:
        server.fault(kind, "request", times=math.inf)
        with pdpyras.APISession("fake-key") as session:
            session.url = server.url
            if tls:
                session.verify = certificates.ca_file
            body = make(bytes(30_000_000))
            clock = Clock()
            with pytest.raises(pdpyras.PDDeadlineError):
                session.post("/users", data=body, deadline=DEADLINE)
            clock.check()


def test_a_deadline_may_hold_several_attempts(server, session, naps, clock):
    server.fault("stall", "status", times=math.inf)
    session.timeout, session.sleep_timer = 0.15, 0
    session.max_network_attempts = 1000
    with pytest.raises(pdpyras.PDDeadlineError):
        session.get("/users/P1", deadline=DEADLINE)
    clock.check()
    assert len(server.requests) > 1


def test_a_deadline_leaves_nothing_behind_on_the_connection(server, session):
    ready = threading.Event()

    def answer(request):
        if request.path == "/slow":
            ready.wait(0.6)
        return wire.Answer(json=BODY)

    server.handler = answer
    session.max_network_attempts = 0
    assert session.get("/users/P1", deadline=0.5).ok
    assert session.get("/slow").ok
    assert session.get("/slow", deadline=20).ok
    assert server.connections == 1


def test_within_its_deadline_a_call_is_like_any_other(
    server, session, trust, naps
):
    server.fault("reset", "status")
    server.reply(json=BODY, gzip=True, chunks=5)
    assert session.rget("/users/P1", deadline=20) == USER
    with wire.Server(tls=trust) as secure, wire.Proxy() as proxy:
        session.url, session.verify = secure.url, trust.ca_file
        session.proxies = {"https": proxy.url}
        secure.reply(json=BODY)
        data = b"x" * 100_000
        response = session.post("/users", data=data, deadline=20)
        assert response.json() == BODY
        assert secure.requests[0].body == data


# -- Other threads ----------------------------------------------------------


def test_the_deadline_bounds_the_wait_of_another_thread(server, session, naps):
    asleep, awake = threading.Event(), threading.Event()

    def sleep():
        asleep.set()
        awake.wait(20)

    naps.during = sleep
    server.reply(429, headers={"ratelimit-reset": "30"})
    other = threading.Thread(target=session.get, args=("/users/P1",))
    other.start()
    assert asleep.wait(20)
    clock = Clock()
    with pytest.raises(pdpyras.PDDeadlineError) as caught:
        session.get("/users/P2", deadline=DEADLINE)
    clock.check()
    awake.set()
    other.join()
    assert "rate limit" in str(caught.value)
    assert [r.path for r in server.requests] == ["/users/P1"] * 2
    assert session.get("/users/P3").ok  # It left no place in the queue.


def test_the_deadline_bounds_the_wait_for_what_remains(server, session):
    reached, answered = threading.Event(), threading.Event()

    def answer(request):
        if request.path == "/users/P1":
            reached.set()
            answered.wait(20)
        headers = {"ratelimit-remaining": "1", "ratelimit-reset": "50"}
        return wire.Answer(json=BODY, headers=headers)

    server.handler = answer
    session.get("/users/P0")
    other = threading.Thread(target=session.get, args=("/users/P1",))
    other.start()
    assert reached.wait(20)
    clock = Clock()
    with pytest.raises(pdpyras.PDDeadlineError):
        session.get("/users/P2", deadline=DEADLINE)
    clock.check()
    answered.set()
    other.join()
    assert [r.path for r in server.requests] == ["/users/P0", "/users/P1"]


# -- Pauses -----------------------------------------------------------------


@pytest.mark.parametrize(
    "headers, expected",
    [({"ratelimit-reset": "5"}, [5] * 5), ({}, [3, 6, 12])],
)
def test_no_pause_is_begun_that_would_end_after_the_deadline(
    headers, expected, server, session, naps
):
    server.reply(429, headers=headers, times=math.inf)
    with pytest.raises(pdpyras.PDDeadlineError) as caught:
        session.get("/users/P1", deadline=30)
    assert naps == expected
    assert caught.value.response.status_code == 429
    text = str(caught.value)
    assert "GET" in text and "/users/P1" in text
    assert "Status 429" in text
    assert "deadline of 30 s" in text


def test_pauses_after_server_errors_end_with_the_deadline(
    server, session, naps
):
    session.retry[500] = -1
    server.reply(500, times=math.inf)
    with pytest.raises(pdpyras.PDDeadlineError, match="Status 500") as caught:
        session.get("/users/P1", deadline=30)
    assert naps == [3, 6, 12]
    assert caught.value.response.status_code == 500


def test_pauses_after_network_trouble_end_with_the_deadline(
    server, session, naps
):
    session.max_network_attempts = 1000
    server.fault("reset", "status", times=math.inf)
    with pytest.raises(pdpyras.PDDeadlineError) as caught:
        session.get("/users/P1", deadline=30)
    assert naps == [3, 6, 12]
    assert caught.value.response is None
    assert caught.value.__cause__ is not None
    assert "eset" in str(caught.value)  # The reason.


def test_after_the_deadline_a_write_may_have_been_done(server, session):
    server.fault("stall", "status", times=math.inf)
    with pytest.raises(pdpyras.PDDeadlineError, match="may or may not"):
        session.post("/users", json=BODY, deadline=0.3)
    with pytest.raises(pdpyras.PDDeadlineError) as caught:
        session.put("/users/P1", json=BODY, deadline=0.3)
    assert "may or may not" not in str(caught.value)


@pytest.mark.parametrize("trouble", ["lost", "504", "lost, then refused"])
def test_before_the_deadline_a_write_may_have_been_done(
    trouble, server, session, naps
):
    """The pause is refused that would end too late, whatever came before."""
    server.fault("reset", "status")
    with pytest.raises(pdpyras.PDDeadlineError) as caught:
        session.put("/users/P1", json=BODY, deadline=2)
    assert "may or may not" not in str(caught.value)
    session.retry[504] = 5
    session.client_incident_keys = True
    if trouble == "504":
        server.reply(504, times=math.inf)
    else:
        server.fault("reset", "status")
    deadline = 2
    if trouble == "lost, then refused":
        server.reply(503, headers={"Retry-After": "60"})
        session.retry[503] = 5
        deadline = 10
    with pytest.raises(
        pdpyras.PDDeadlineError, match="would be due"
    ) as caught:
        session.post("/incidents", json=INCIDENT, deadline=deadline)
    key = server.requests[1].json["incident"]["incident_key"]
    assert "may or may not" in str(caught.value)
    assert key in str(caught.value)


def test_the_deadline_bounds_the_wait_in_a_pool_that_blocks(server, session):
    """Another answer, which nobody reads, has its only connection."""
    session.mount("http://", HTTPAdapter(pool_maxsize=1, pool_block=True))
    server.reply(body=b"x" * 100_000)
    with session.get("/users", stream=True):
        began = time.monotonic()
        with pytest.raises(pdpyras.PDDeadlineError) as caught:
            session.post("/users", json=BODY, deadline=0.3)
        assert time.monotonic() - began < 0.8
    assert "may or may not" not in str(caught.value)
    assert session.get("/users/P1", deadline=5).ok


# -- How it is given --------------------------------------------------------

METHODS = [
    *("get", "post", "put", "patch", "delete"),
    *("jget", "jpost", "jput", "jpatch"),
    *("rget", "rpost", "rput", "rpatch", "rdelete"),
]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_a_deadline(name, server, session, naps):
    server.handler = lambda request: late(3000)
    method = getattr(session, name)
    with pytest.raises(pdpyras.PDDeadlineError, match="deadline of 7 s"):
        method("/users/P1", deadline=7)
    assert naps == []


def test_the_deadline_of_a_session_and_of_a_call(server, session, naps):
    session.deadline = 7
    server.reply(429, headers={"ratelimit-reset": "10"}, times=4)
    with pytest.raises(pdpyras.PDDeadlineError, match="deadline of 7 s"):
        session.get("/users/P1")
    with pytest.raises(pdpyras.PDDeadlineError, match="deadline of 9 s"):
        session.get("/users/P1", deadline=9)
    assert naps == []
    assert session.get("/users/P1", deadline=25).ok
    server.reply(429, headers={"ratelimit-reset": "10"})
    assert session.get("/users/P1", deadline=None).ok
    assert naps == [10, 10, 10]


@pytest.mark.parametrize("kind", [pdpyras.APISession, pdpyras.PDSession])
def test_a_pickled_session_keeps_its_deadline(kind):
    assert kind.deadline is None
    with kind("fake-key") as session:
        session.deadline = 7
        with pickle.loads(pickle.dumps(session)) as other:
            assert other.deadline == 7


WRONG = [0, -1, True, False, math.inf, math.nan, 10**400, "1", [], (1, 2)]


@pytest.mark.parametrize("deadline", WRONG, ids=lambda value: str(value)[:9])
def test_what_a_deadline_may_not_be(
    deadline, server, session, events, changes
):
    calls = [
        lambda options: session.get("/users", **options),
        lambda options: session.rpost("/users", json={}, **options),
        lambda options: session.iter_all("users", **options),
        lambda options: session.iter_cursor("audit/records", **options),
        lambda options: session.find("users", "x", **options),
        lambda options: session.persist(
            "users", "name", {"name": "x"}, **options
        ),
        lambda options: events.trigger("s", "s", **options),
        lambda options: changes.submit("s", **options),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="deadline must be a positive"):
            call({"deadline": deadline})
    session.deadline = deadline
    for call in calls[:6]:
        with pytest.raises(ValueError, match="deadline must be a positive"):
            call({})
    assert server.requests == []


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_deadline_error_survives_pickling(protocol, server, session, naps):
    server.handler = lambda request: late(3000)
    with pytest.raises(pdpyras.PDDeadlineError) as caught:
        session.get("/users", deadline=7)
    error = caught.value
    for other in (
        pickle.loads(pickle.dumps(error, protocol)),
        copy.copy(error),
    ):
        assert type(other) is pdpyras.PDDeadlineError
        assert isinstance(other, pdpyras.PDClientError)
        assert str(other) == str(error)
        assert other.response.status_code == 429


# -- Iterations -------------------------------------------------------------


def offset_of(request):
    return int(dict(request.query).get("offset", 0))


def test_each_page_gets_what_is_left_of_the_deadline(server, session, naps):
    refuse_first(
        server,
        lambda request: wire.Answer(
            json=page(offset_of(request) + 1, more=True)
        ),
    )
    found = []
    with pytest.raises(pdpyras.PDDeadlineError) as caught:
        for user in session.iter_all("users", page_size=1, deadline=10):
            found.append(user["id"])
    assert naps == [4, 4]
    assert found == [1, 2]
    assert "deadline of 10 s" in str(caught.value)
    assert caught.value.response.status_code == 429


@pytest.mark.parametrize(
    "read",
    [
        lambda s, **o: list(s.iter_all("users", **o)),
        lambda s, **o: s.list_all("users", **o),
        lambda s, **o: s.dict_all("users", **o),
        lambda s, **o: s.find("users", "nobody", **o),
        lambda s, **o: s.persist("users", "name", {"name": "n"}, **o),
    ],
    ids=["iter_all", "list_all", "dict_all", "find", "persist"],
)
@pytest.mark.parametrize("of_session", [False, True])
def test_the_deadline_of_a_whole_iteration(
    read, of_session, server, session, naps
):
    refuse_first(
        server,
        lambda request: wire.Answer(
            json=page(offset_of(request) + 1, more=True)
        ),
    )
    session.default_page_size = 1
    options = {"deadline": 10}
    if of_session:
        session.deadline, options = 10, {}
    with pytest.raises(pdpyras.PDDeadlineError, match="deadline of 10 s"):
        read(session, **options)
    assert naps == [4, 4]


def test_the_deadline_of_an_iteration_with_cursors(server, session, naps):
    numbers = itertools.count()
    refuse_first(
        server,
        lambda request: wire.Answer(
            json={"records": [{}], "next_cursor": f"c{next(numbers)}"}
        ),
    )
    for method in (session.iter_cursor, session.iter_all):
        del naps[:]
        with pytest.raises(pdpyras.PDDeadlineError, match="of 10 s"):
            list(method("audit/records", deadline=10))
        assert naps == [4, 4]


def test_no_deadline_of_an_iteration_in_place_of_the_sessions(
    server, session, naps
):
    refuse_first(
        server,
        lambda request: wire.Answer(
            json=page(offset_of(request) + 1, more=offset_of(request) < 3)
        ),
    )
    session.deadline = 10
    assert len(session.list_all("users", page_size=1, deadline=None)) == 4
    assert naps == [4] * 4


def test_persist_has_one_deadline_for_search_and_write(server, session, naps):
    refuse_first(
        server, lambda request: wire.Answer(json={**page(), "user": USER})
    )
    options = {"values": {"name": "new"}, "deadline": 6}
    with pytest.raises(pdpyras.PDDeadlineError, match="deadline of 6 s"):
        session.persist("users", "name", **options)
    assert naps == [4]
    assert server.requests[-1].method == "POST"


def test_between_two_pages_the_deadline_passes(server, session):
    server.handler = lambda request: wire.Answer(
        json=page(offset_of(request), offset_of(request) + 1, more=True)
    )
    users = session.iter_all("users", page_size=2, deadline=DEADLINE)
    threading.Event().wait(DEADLINE)  # It begins with the first record.
    assert next(users)["id"] == 0
    threading.Event().wait(DEADLINE)
    assert next(users)["id"] == 1  # That one was there already.
    with pytest.raises(pdpyras.PDDeadlineError) as caught:
        next(users)
    assert "2 records were given" in str(caught.value)
    assert "deadline of 0.5 s" in str(caught.value)
    assert caught.value.response.status_code == 200
    assert len(server.requests) == 1


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_the_deadline_of_an_iteration_that_reads_ahead(
    prefetch, server, session
):
    released = threading.Event()

    def answer(request):
        offset = offset_of(request)
        if offset >= 2:
            released.wait(20)
        return wire.Answer(json=page(offset, more=offset < 9, total=10))

    server.handler = answer
    users = session.iter_all(
        "users", page_size=1, prefetch=prefetch, deadline=DEADLINE
    )
    clock = Clock()
    found = []
    with pytest.raises(pdpyras.PDDeadlineError):
        for user in users:
            found.append(user["id"])
    clock.check()
    released.set()
    assert found == [0, 1]


def test_without_a_deadline_stand_ins_need_not_know_it(session):
    """A user's test may replace ``get`` by what knows less."""

    class Answered:
        status_code = 200
        text = '{"users": []}'

        def json(self):
            return {"users": [], "more": False}

    session.get = lambda url, params=None: Answered()
    assert session.list_all("users") == []
    assert session.find("users", "x") is None


# -- Events -----------------------------------------------------------------


@pytest.mark.parametrize(
    "send",
    [
        lambda e, **o: e.trigger("summary", "source", **o),
        lambda e, **o: e.acknowledge("key", **o),
        lambda e, **o: e.resolve("key", **o),
        lambda e, **o: e.send_event("resolve", "key", **o),
    ],
    ids=["trigger", "acknowledge", "resolve", "send_event"],
)
def test_the_deadline_of_an_event(send, server, events, naps):
    server.reply(429, headers={"ratelimit-reset": "10"}, times=2)
    with pytest.raises(pdpyras.PDDeadlineError, match="deadline of 7 s"):
        send(events, deadline=7)
    events.deadline = 8
    with pytest.raises(pdpyras.PDDeadlineError, match="deadline of 8 s"):
        send(events)
    assert naps == []
    server.handler = lambda request: wire.Answer(202, json={"dedup_key": "k"})
    assert send(events, deadline=None) == "k"
    assert "deadline" not in server.requests[-1].json


@pytest.mark.parametrize(
    "send",
    [
        lambda c, **o: c.submit("summary", **o),
        lambda c, **o: c.send_change_event(payload={"summary": "s"}, **o),
    ],
    ids=["submit", "send_change_event"],
)
def test_the_deadline_of_a_change_event(send, server, changes, naps):
    server.reply(429, headers={"ratelimit-reset": "10"}, times=2)
    with pytest.raises(pdpyras.PDDeadlineError, match="deadline of 7 s"):
        send(changes, deadline=7)
    changes.deadline = 8
    with pytest.raises(pdpyras.PDDeadlineError, match="deadline of 8 s"):
        send(changes)
    assert naps == []
    server.handler = lambda request: wire.Answer(202, json={"id": "k"})
    assert send(changes, deadline=None) == "k"
    assert "deadline" not in server.requests[-1].json


def test_the_deadline_bounds_an_event_that_gets_no_answer(
    server, events, clock
):
    server.fault(
        "drip", "body", answer=wire.Answer(json={"dedup_key": "k" * 99})
    )
    with pytest.raises(pdpyras.PDDeadlineError):
        events.trigger("summary", "source", deadline=DEADLINE)
    clock.check()


def test_the_signatures_say_what_the_default_is():
    for method in (
        pdpyras.APISession.iter_all,
        pdpyras.EventsAPISession.trigger,
        pdpyras.ChangeEventsAPISession.submit,
    ):
        parameter = inspect.signature(method).parameters["deadline"]
        assert repr(parameter.default) == "session.deadline"


def test_a_deadline_leaves_no_socket_open(trust):
    """Neither one that was connected just as it passed."""
    with wire.Server(tls=trust) as server:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            for number in range(300):
                with pdpyras.APISession(KEY) as session:
                    session.url, session.verify = server.url, trust.ca_file
                    # From a tenth of a millisecond to three of them.
                    with contextlib.suppress(pdpyras.PDDeadlineError):
                        session.get(
                            "/users", deadline=10 ** (number / 200 - 4)
                        )
                del session
            gc.collect()
    unclosed = [w for w in caught if "socket" in str(w.message)]
    assert [str(w.message) for w in unclosed] == []
