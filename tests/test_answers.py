"""Answers: each the right one, whole, once, and no larger than allowed."""

import copy
import gzip
import http.client
import io
import itertools
import json
import logging
import math
import pickle
import shutil
import socket
import ssl
import sys
import threading
import tracemalloc
import zlib

import pytest
import requests
import urllib3
from urllib3.response import HTTPResponse
from urllib3.util.request import ACCEPT_ENCODING

import pdpyras
from tests import wire
from tests.support import KEY, Clock

BODY = {"user": {"id": "P1", "name": "x" * 300}}
CONTENT = json.dumps(BODY).encode("ascii")
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


def named(request):
    """An answer that says what was asked for."""
    return wire.Answer(json={"user": request.path})


def early(interim, answer=named):
    """A handler that sends interim answers first."""

    def handler(request):
        found = answer(request)
        found.before = interim
        return found

    return handler


# -- Interim answers --------------------------------------------------------

INTERIM = {
    "102": [b"HTTP/1.1 102 Processing\r\n\r\n"],
    "103": [EARLY],
    "100 and 103": [b"HTTP/1.1 100 Continue\r\n\r\n", EARLY],
    "103 and 100": [EARLY, b"HTTP/1.1 100 Continue\r\n\r\n"],
    "several": [b"HTTP/1.1 102 Processing\r\n\r\n", EARLY, EARLY],
    "many": [EARLY] * 500,
    "unknown": [b"HTTP/1.1 199 Whatever\r\nX: y\r\n\r\n"],
    "many headers": [
        b"HTTP/1.1 103 Early Hints\r\n"
        + b"".join(b"Link: </%d>\r\n" % n for n in range(90))
        + b"\r\n"
    ],
    "headers of others": [
        b"\r\n".join(
            [
                b"HTTP/1.1 103 Early Hints",
                b"Content-Length: 5",
                b"Transfer-Encoding: chunked",
                b"Content-Encoding: gzip",
                b"Connection: close",
                b"Retry-After: 99",
                b"\r\n",
            ]
        )
    ],
}


@pytest.mark.parametrize("chunks", [0, 3])
@pytest.mark.parametrize("interim", INTERIM.values(), ids=INTERIM)
def test_interim_answers_are_read_away(interim, chunks, server, session, naps):
    def answer(request):
        return wire.Answer(json={"user": request.path}, chunks=chunks)

    server.handler = early(interim, answer)
    for number in range(3):
        path = f"/users/P{number}"
        assert session.rget(path) == path
        assert session.rput(path, json={}) == path
    assert server.connections == 1 and naps == []


@pytest.mark.parametrize("interim", INTERIM.values(), ids=INTERIM)
def test_interim_answers_do_not_mix_up_events(interim, server, events, naps):
    server.handler = early(
        interim,
        lambda request: wire.Answer(
            202, json={"dedup_key": request.json["payload"]["summary"] + "!"}
        ),
    )
    for summary in ("first", "second", "third"):
        assert events.trigger(summary, "source") == summary + "!"
    assert server.connections == 1 and naps == []


def test_interim_answers_behind_a_redirect(server, session, naps):
    def answer(request):
        if request.path == "/old":
            return wire.Answer(302, headers={"Location": "/users/P1"})
        return named(request)

    server.handler = early([EARLY, EARLY], answer)
    assert session.get("/old").json() == {"user": "/users/P1"}
    assert session.rget("/users/P2") == "/users/P2"


@pytest.mark.parametrize("interim", INTERIM.values(), ids=INTERIM)
def test_interim_answers_of_a_proxy_that_opens_a_tunnel(
    interim, trust, session, naps
):
    with wire.Server(tls=trust) as server, wire.Proxy() as proxy:
        server.handler = named
        proxy.before = b"".join(interim)
        session.url, session.verify = server.url, trust.ca_file
        session.proxies = {"https": proxy.url}
        assert session.rget("/users/P1") == "/users/P1"
    assert len(proxy.requests) == 1 and naps == []


@pytest.fixture(params=["http", "https"])
def behind_socks(request, trust, session):
    """A server and a SOCKS proxy, through which the session reaches it."""
    pytest.importorskip("socks", reason="PySocks is missing")
    tls = trust if request.param == "https" else None
    with wire.Server(tls=tls) as server, wire.SocksProxy() as proxy:
        server.handler = named
        session.url, session.verify = server.url, trust.ca_file
        session.proxies = {"http": proxy.url, "https": proxy.url}
        yield server, proxy


def test_interim_answers_through_a_socks_proxy(behind_socks, session, naps):
    server, proxy = behind_socks
    server.handler = early([EARLY, EARLY])
    for number in range(3):
        path = f"/users/P{number}"
        assert session.rget(path) == path
    assert len(server.requests) == 3
    assert proxy.requests == [f"127.0.0.1:{server.port}"]
    assert naps == []


def test_a_broken_answer_through_a_socks_proxy(behind_socks, session, naps):
    server, _ = behind_socks
    server.fault("gzip-truncated", "body")
    assert session.rget("/users/P1") == "/users/P1"
    assert naps == [3]


@pytest.mark.parametrize("where", ["proxy", "answer"])
def test_a_deadline_holds_behind_a_socks_proxy(
    where, behind_socks, session, naps
):
    server, proxy = behind_socks
    if where == "proxy":
        proxy.fault = "stall"
    else:
        server.fault("drip", "body", times=math.inf)
    session.timeout = 10
    clock = Clock(0.5)
    with pytest.raises(pdpyras.PDDeadlineError):
        session.get("/users/P1", deadline=0.5)
    clock.check()


def test_an_error_behind_a_socks_proxy_can_be_pickled(
    behind_socks, session, naps
):
    server, proxy = behind_socks
    session.max_network_attempts = 0
    server.refuse()
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.get("/users/P1")
    assert str(pickled(caught.value)) == str(caught.value)


def test_a_body_without_length_goes_through_a_tunnel(trust, session, naps):
    """Old requests wrote it, with the key, to the proxy."""
    with wire.Server(tls=trust) as server, wire.Proxy() as proxy:
        server.handler = named
        session.url, session.verify = server.url, trust.ca_file
        session.proxies = {"https": proxy.url}
        for _ in range(2):
            response = session.post("/users", data=iter([b"[1,", b"2]"]))
            assert response.json() == {"user": "/users"}
        assert [r.body for r in server.requests] == [b"[1,2]"] * 2
        (request,) = proxy.requests
        assert (request.method, request.body) == ("CONNECT", b"")


@pytest.mark.parametrize("stream", [False, True])
def test_a_body_without_length_wants_a_whole_answer(
    stream, server, session, naps
):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    for raw in (head[:20], b"garbage\r\n\r\n", head + b"[1,"):
        server.reply(raw=raw)
        with pytest.raises((pdpyras.PDClientError, requests.RequestException)):
            _ = session.post(
                "/users", data=iter([b"[]"]), stream=stream
            ).content


def test_an_end_behind_an_interim_answer_is_network_trouble(
    server, session, naps
):
    server.reply(raw=EARLY)
    server.handler = named
    assert session.rget("/users/P1") == "/users/P1"
    assert naps == [3]


# -- Hooks ------------------------------------------------------------------


class Interruption(BaseException):
    """What only the caller knows."""


HOOK_ERRORS = [
    requests.exceptions.RequestException("of a hook"),
    requests.exceptions.ConnectionError("of a hook"),
    requests.exceptions.ReadTimeout("of a hook"),
    requests.exceptions.HTTPError("of a hook"),
    requests.exceptions.ChunkedEncodingError("of a hook"),
    requests.exceptions.InvalidHeader("of a hook"),
    urllib3.exceptions.ProtocolError("of a hook"),
    pdpyras.PoolError(None, "of a hook"),
    BrokenPipeError("of a hook"),
    ConnectionResetError("of a hook"),
    socket.timeout("of a hook"),
    TimeoutError("of a hook"),
    OSError("of a hook"),
    ValueError("of a hook"),
    RuntimeError("of a hook"),
    UnicodeError("of a hook"),
    pdpyras.PDClientError("of a hook"),
    KeyboardInterrupt("of a hook"),
    SystemExit("of a hook"),
    Interruption("of a hook"),
]


@pytest.mark.parametrize("error", HOOK_ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("of_session", [False, True], ids=["call", "session"])
@pytest.mark.parametrize("with_deadline", [False, True])
def test_what_a_hook_raises_repeats_nothing(
    with_deadline, of_session, error, server, session, naps
):
    def hook(response, *args, **kwargs):
        assert response.json() == BODY
        raise error

    server.reply(json=BODY)
    options = {"deadline": 20} if with_deadline else {}
    if of_session:
        session.hooks["response"].append(hook)
    else:
        options["hooks"] = {"response": hook}
    with pytest.raises(type(error)) as caught:
        session.post("/users", json=BODY, **options)
    assert caught.value is error
    assert len(server.requests) == 1 and naps == []


def test_what_a_hook_raises_about_an_event_repeats_nothing(
    server, events, naps
):
    error = BrokenPipeError("the pipe of my log")

    def hook(response, *args, **kwargs):
        raise error

    events.hooks["response"].append(hook)
    server.reply(202, json={"dedup_key": "k"})
    with pytest.raises(BrokenPipeError) as caught:
        events.trigger("summary", "source")
    assert caught.value is error
    assert len(server.requests) == 1 and naps == []


def test_what_a_hook_raises_from_network_trouble_is_its_own(
    server, session, naps
):
    """It has asked somebody else, who did not answer."""

    def hook(response, *args, **kwargs):
        requests.get(f"http://127.0.0.1:{wire.closed_port()}/", timeout=5)

    server.reply(json=BODY)
    with pytest.raises(requests.ConnectionError):
        session.post("/users", json=BODY, hooks={"response": [hook]})
    assert len(server.requests) == 1 and naps == []


@pytest.mark.skipif(
    sys.version_info < (3, 7), reason="it ends the generator, silently"
)
def test_what_a_hook_raises_behind_a_redirect_repeats_nothing(
    server, session, naps
):
    """Even if it is what ends a generator, as requests follows them in."""

    def hook(response, *args, **kwargs):
        if response.status_code == 201:
            next(iter(()))

    server.reply(307, headers={"Location": "/users/2"})
    server.reply(201, json=BODY)
    with pytest.raises(RuntimeError, match="StopIteration"):
        session.post("/users", json=BODY, hooks={"response": hook})
    assert len(server.requests) == 2 and naps == []


def digest():
    return requests.auth.HTTPDigestAuth("user", "password")


def ask_for_digest(server):
    value = 'Digest realm="r", nonce="n", qop="auth"'
    server.reply(401, headers={"WWW-Authenticate": value})


def test_half_an_answer_to_digest_authentication(server, session, naps):
    """Its second request is sent by a hook, but not by one of the caller's."""
    seen = []
    options = {"hooks": {"response": lambda r, **kwargs: seen.append(r)}}
    ask_for_digest(server)
    server.fault("truncate", "body", answer=wire.Answer(json=BODY))
    server.reply(201, json=BODY)
    auth = digest()
    assert session.post("/users", auth=auth, json={}, **options).ok
    assert [r.headers["Authorization"][:6] for r in server.requests[1:]] == [
        *("Digest", "Digest")
    ]
    assert [answer.status_code for answer in seen] == [201]
    assert naps == [3]
    session.retry_ambiguous_writes = False
    ask_for_digest(server)
    server.fault("truncate", "body", answer=wire.Answer(json=BODY))
    with pytest.raises(pdpyras.PDClientError, match="may or may not"):
        session.post("/users", auth=digest(), json={})
    assert naps == [3]


def test_max_response_size_holds_for_digest_authentication(server, session):
    session.max_response_size = 100
    ask_for_digest(server)
    server.reply(json=BODY)
    with pytest.raises(pdpyras.PDClientError, match="max_response_size"):
        session.get("/users", auth=digest())


def test_a_protocol_that_nobody_asked_for_is_network_trouble(
    server, session, naps
):
    """Else the answer that follows would be the next request's."""
    late = wire.Answer(json={"user": {"id": "A"}})
    server.reply(before=[b"HTTP/1.1 101 Switching Protocols\r\n\r\n"])
    server.handler = lambda request: late
    assert session.rget("users/A") == {"id": "A"}
    late.json = {"user": {"id": "B"}}
    assert session.rget("users/B") == {"id": "B"}
    assert len(naps) == 1


def test_a_hook_is_not_called_with_a_broken_body(server, session, naps):
    seen = []

    def hook(response, *args, **kwargs):
        seen.append(response.content)

    session.hooks["response"].append(hook)
    server.fault("truncate", "body", answer=wire.Answer(json=BODY))
    server.reply(json=BODY)
    assert session.post("/users", json=BODY).json() == BODY
    assert seen == [CONTENT]
    assert len(server.requests) == 2 and naps == [3]


# -- Whole answers, and broken ones -----------------------------------------


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 6\r\n",
        b"Content-Length: 6\r\nX: y\r\ncontent-length: 5\r\n",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_two_different_lengths_are_network_trouble(
    method, lengths, server, session, naps
):
    raw = b"HTTP/1.1 200 OK\r\n" + lengths + b"\r\n[1,2]\n"
    server.reply(raw=raw, times=2)
    server.handler = named
    response = session.request(method, "/users", json=BODY)
    assert response.json() == {"user": "/users"}
    assert naps == [3, 6]


def test_two_different_lengths_of_an_answer_to_a_write(server, session, naps):
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n[1,2]\n"
    server.reply(raw=raw, times=math.inf)
    with pytest.raises(pdpyras.PDClientError, match="may or may not"):
        session.post("/users", json=BODY)
    assert naps == [3, 6, 12]
    session.retry_ambiguous_writes = False
    with pytest.raises(pdpyras.PDClientError, match="may or may not"):
        session.post("/users", json=BODY)
    assert len(naps) == 3


def test_the_same_length_twice_is_whole(server, session, naps):
    lengths = b"Content-Length: 5\r\nContent-Length: 5\r\n"
    server.reply(raw=b"HTTP/1.1 200 OK\r\n" + lengths + b"\r\n[1,2]")
    assert session.get("/users").json() == [1, 2]
    assert naps == []


@pytest.mark.parametrize("length", [b"5, 5", b"5,5 ,\t5"])
def test_the_same_length_twice_in_one_field_is_whole(
    length, server, session, naps
):
    """RFC 9112, 6.3; what is behind the length is none of its body."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n"
    server.reply(raw=head + b"[1,2]no more")
    assert session.get("/users").json() == [1, 2]
    assert naps == []


@pytest.mark.parametrize(
    "length",
    [b"-5", b"five", b"5x", b"5,", b"", b"+5", b"5_0", b"9" * 5000],
)
def test_a_length_that_is_none_is_network_trouble(
    length, server, session, naps
):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n"
    server.reply(raw=head + b"[1,2]")
    server.handler = named
    assert session.get("/users").json() == {"user": "/users"}
    assert naps == [3]


@pytest.mark.parametrize("size", [b"-2", b"-1", b"two", b""])
def test_a_chunk_size_that_is_none_is_network_trouble(
    size, server, session, naps
):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.reply(raw=head + size + b"\r\n[]\r\n0\r\n\r\n")
    server.handler = named
    assert session.get("/users").json() == {"user": "/users"}
    assert naps == [3]


@pytest.mark.parametrize(
    "coding",
    [
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked \t",
        b"Transfer-Encoding: identity, chunked",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    ],
)
def test_a_chunk_size_that_breaks_off_is_network_trouble(
    coding, server, session, naps
):
    """Behind leading zeros, what is left looks like the last chunk's size."""
    head = b"HTTP/1.1 200 OK\r\n" + coding + b"\r\n\r\n"
    chunks = b"0003\r\n[1,\r\n" + b"0002\r\n2]\r\n" + b"0000\r\n"
    cuts = range(1, len(chunks))
    for cut in cuts:
        server.reply(raw=head + chunks[:cut])
        server.reply(raw=head + chunks + b"\r\n")
        assert session.get("/users").json() == [1, 2], cut
    assert naps == [3] * len(cuts)


def deflate_raw(data):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def brotli(data):
    module = pytest.importorskip("brotli")
    if "br" not in ACCEPT_ENCODING:
        pytest.skip("this urllib3 does not know brotli")
    return module.compress(data)


def zstd(data):
    if "zstd" not in ACCEPT_ENCODING:
        pytest.skip("this urllib3 does not know zstd, or has no package")
    try:
        from backports import zstd as module

        return module.compress(data)
    except ImportError:
        module = pytest.importorskip("zstandard")
        return module.ZstdCompressor().compress(data)


def two_members(data):
    return gzip.compress(data[:50]) + gzip.compress(data[50:])


#: The value of Content-Encoding, and what makes it so.
CODINGS = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "two members": ("gzip", two_members),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", deflate_raw),
    "br": ("br", brotli),
    "zstd": ("zstd", zstd),
    "gzip, gzip": ("gzip, gzip", lambda d: gzip.compress(gzip.compress(d))),
    "deflate, gzip": (
        "deflate, gzip",
        lambda d: gzip.compress(zlib.compress(d)),
    ),
    "gzip, br": ("gzip, br", lambda d: brotli(gzip.compress(d))),
    "br, gzip": ("br, gzip", lambda d: gzip.compress(brotli(d))),
    "gzip, zstd": ("gzip, zstd", lambda d: zstd(gzip.compress(d))),
}


def incompressible(size=400):
    """JSON that stays about as long as it is."""
    number = 1
    digits = []
    for _ in range(size):
        number = number * 48271 % 2147483647
        digits.append(chr(35 + number % 55))
    return {"user": "".join(digits)}


def encoded(coding):
    encoding, pack = CODINGS[coding]
    if coding == "x-gzip" and coding not in HTTPResponse.CONTENT_DECODERS:
        pytest.skip("this urllib3 does not know x-gzip")
    content = json.dumps(incompressible()).encode("ascii")
    return {"Content-Encoding": encoding}, pack(content)


@pytest.mark.oldest
@pytest.mark.parametrize("chunks", [0, 4])
@pytest.mark.parametrize("coding", CODINGS)
def test_half_a_compressed_body_is_network_trouble(
    coding, chunks, server, session, naps
):
    headers, body = encoded(coding)
    whole = wire.Answer(body=body, headers=headers, chunks=chunks)
    server.handler = lambda request: whole
    cuts = sorted({1, 2, 9, 11, *range(20, len(body), 37), len(body) - 1})
    for cut in cuts:
        server.reply(body=body[:cut], headers=headers, chunks=chunks)
        assert session.get("/users/P1").json() == incompressible(), cut
    assert naps == [3] * len(cuts)


def test_a_broken_end_of_the_first_of_two_codings(server, session, naps):
    """The outer one is whole; the inner one is not."""
    content = json.dumps(incompressible()).encode("ascii")
    inner = gzip.compress(content)
    headers = {"Content-Encoding": "gzip, gzip"}
    for cut in (1, len(inner) // 2, len(inner) - 1):
        server.reply(body=gzip.compress(inner[:cut]), headers=headers)
    server.reply(body=gzip.compress(inner), headers=headers)
    assert session.get("/users/P1").json() == incompressible()
    assert naps == [3, 6, 12]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_damage_in_a_compressed_body_is_network_trouble(
    coding, server, session, naps
):
    headers, body = encoded(coding)
    server.reply(body=b"\xee" * 40 + body[40:], headers=headers)
    server.reply(body=body, headers=headers)
    assert session.get("/users/P1").json() == incompressible()
    assert naps == [3]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("hop, stream", [(0, False), (0, True), (1, False)])
def test_half_a_compressed_body_around_a_redirect(
    hop, stream, coding, server, session, naps
):
    headers, body = encoded(coding)
    moved = {"Location": "/users/P1", **headers}
    half = body[: len(body) // 2]
    server.reply(302, body=body if hop else half, headers=moved)
    if hop:
        server.reply(body=half, headers=headers)
    server.reply(302, body=body, headers=moved)
    server.reply(body=body, headers=headers)
    answer = session.get("/old", stream=stream)
    assert answer.json() == incompressible()
    assert naps == [3]


def copied(answer):
    """As requests' users copy an answer into a file."""
    answer.raw.decode_content = True
    copy = io.BytesIO()
    shutil.copyfileobj(answer.raw, copy)
    return copy.getvalue()


#: How whoever streams an answer reads it, as one text.
READERS = {
    "content": lambda answer: answer.content,
    "pieces": lambda answer: b"".join(answer.iter_content(49)),
    "all that is there": lambda answer: b"".join(answer.iter_content(None)),
    "lines": lambda answer: b"".join(answer.iter_lines()),
    "raw": lambda answer: b"".join(answer.raw.stream(9, decode_content=True)),
    "raw at once": lambda answer: answer.raw.read(decode_content=True),
    "raw copied": copied,
}
BROKEN = (
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.HTTPError,
)


@pytest.mark.oldest
@pytest.mark.parametrize("chunks", [0, 4])
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_half_a_compressed_body_is_never_streamed_to_its_end(
    read, coding, chunks, server, session, naps
):
    headers, body = encoded(coding)
    content = json.dumps(incompressible()).encode("ascii")
    for cut in (1, 11, len(body) // 2, len(body) - 1):
        server.reply(body=body[:cut], headers=headers, chunks=chunks)
        answer = session.get("/users/P1", stream=True)
        with pytest.raises(BROKEN):
            read(answer)
        answer.close()
        server.reply(body=body, headers=headers, chunks=chunks)
        answer = session.get("/users/P1", stream=True)
        assert read(answer) == content, cut
    assert naps == []


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_stream_of_compressed_bytes_as_they_are(coding, server, session):
    """Whoever reads them decompresses them himself, or not all of them."""
    headers, body = encoded(coding)
    server.reply(body=body, headers=headers, times=3)
    with session.get("/users/P1", stream=True) as answer:
        assert b"".join(answer.raw.stream(50)) == body
    with session.get("/users/P1", stream=True) as answer:
        assert answer.raw.read() == body
    with session.get("/users/P1", stream=True) as answer:
        assert len(next(answer.iter_content(9))) > 0


def test_half_a_compressed_body_of_a_write(server, session, naps):
    headers, body = encoded("gzip")
    session.retry_ambiguous_writes = False
    server.reply(body=body[:-9], headers=headers)
    with pytest.raises(pdpyras.PDClientError, match="may or may not"):
        session.post("/users", json=BODY)
    assert len(server.requests) == 1 and naps == []


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("status", [200, 202, 204])
@pytest.mark.parametrize("chunks", [0, 1])
def test_an_empty_body_labelled_as_compressed_is_whole(
    chunks, status, coding, server, session, naps
):
    headers, _ = encoded(coding)
    server.reply(status, headers=headers, chunks=chunks, times=2)
    for stream in (False, True):
        response = session.post("/users", json=BODY, stream=stream)
        assert response.status_code == status and response.content == b""
    assert len(server.requests) == 2 and naps == []


def test_an_empty_answer_behind_a_redirect_with_a_body(server, session, naps):
    moved = {"Location": "/users/P1"}
    server.reply(302, body=b"elsewhere", headers=moved, chunks=2)
    server.reply(headers={"Content-Encoding": "gzip"})
    assert session.get("/old").content == b""
    assert len(server.requests) == 2 and naps == []


#: What may follow a gzip stream, as other clients see it, too.
HARMLESS_ENDS = [b"\n", b"\0", b"\x8b", b"\r\n", b"\0" * 20, b"garbage"]


@pytest.mark.oldest
@pytest.mark.parametrize("chunks", [0, 4])
@pytest.mark.parametrize("end", HARMLESS_ENDS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_harmless_end_of_a_gzip_stream_repeats_no_write(
    stream, end, chunks, server, session, naps
):
    body = gzip.compress(CONTENT) + end
    headers = {"Content-Encoding": "gzip"}
    server.reply(201, body=body, headers=headers, chunks=chunks)
    answer = session.post("/users", json=BODY, stream=stream)
    assert answer.json() == BODY
    assert len(server.requests) == 1 and naps == []


@pytest.mark.oldest
@pytest.mark.parametrize("chunks", [0, 4])
@pytest.mark.parametrize("sizes", [(10240, 9), (20480, 9), (10240, 10240, 9)])
def test_a_member_of_a_gzip_stream_that_fills_a_piece(
    sizes, chunks, server, session, naps
):
    """Behind it, urllib3 2.6 and later lost the others, or doubled them."""
    content = b"".join(b"%d" % (n % 10) * n for n in sizes)
    body = b"".join(gzip.compress(b"%d" % (n % 10) * n) for n in sizes)
    headers = {"Content-Encoding": "gzip"}
    server.reply(body=body, headers=headers, chunks=chunks, times=2)
    assert session.get("/users").content == content
    with session.get("/users", stream=True) as answer:
        assert b"".join(answer.iter_content(1024)) == content


def test_half_a_second_member_of_any_length(server, session, naps):
    """Any of which may go on; only what cannot is no member."""
    first, second = gzip.compress(CONTENT), gzip.compress(b" " * 3)
    headers = {"Content-Encoding": "gzip"}
    for cut in range(1, len(second)):
        server.reply(body=first + second[:cut], headers=headers)
        server.reply(body=first + second, headers=headers)
        assert session.get("/users/P1").json() == BODY, cut
    assert naps == [3] * (len(second) - 1)


@pytest.mark.oldest
@pytest.mark.parametrize(
    "value",
    [
        *("gzip,", ",gzip", "gzip, ", ", ,gzip", "gzip, identity"),
        *("identity,GZIP", "Identity, gzip,,"),
    ],
)
def test_codings_that_say_nothing_repeat_no_write(
    value, server, session, naps
):
    headers = {"Content-Encoding": value}
    server.reply(201, body=gzip.compress(CONTENT), headers=headers, times=2)
    server.reply(201, body=gzip.compress(CONTENT)[:-9], headers=headers)
    assert session.post("/users", json=BODY).json() == BODY
    assert session.post("/users", json=BODY, stream=True).json() == BODY
    assert len(server.requests) == 2 and naps == []
    with pytest.raises(BROKEN):
        _ = session.post("/users", json=BODY, stream=True).content


@pytest.mark.parametrize("value", [",", "identity, ", "identity,identity"])
def test_no_codings_that_are_named(value, server, session, naps):
    server.reply(body=CONTENT, headers={"Content-Encoding": value})
    assert session.get("/users").json() == BODY
    assert naps == []


@pytest.mark.parametrize("chunks", [0, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_more_codings_than_urllib3_undoes(
    stream, chunks, server, session, naps
):
    """What it refuses is not an answer without a body."""
    session.max_network_attempts = 0
    body = CONTENT
    for _ in range(6):
        body = gzip.compress(body)
    headers = {"Content-Encoding": ", ".join(["gzip"] * 6)}
    server.reply(body=body, headers=headers, chunks=chunks)
    try:
        answer = session.get("/users", stream=stream)
        assert answer.json() == BODY  # Old urllib3 undoes any number.
    except (pdpyras.PDClientError, requests.exceptions.RequestException) as e:
        assert "Too many content encodings" in str(e)
    server.reply(headers=headers, chunks=chunks)
    assert session.get("/users", stream=stream).content == b""


def test_an_answer_to_head_is_whole(server, session, naps):
    session.permitted_methods = ("HEAD", "GET")
    for options in ({"gzip": True}, {"chunks": 3}, {}):
        server.reply(json=BODY, **options)
        response = session.head("/users")
        assert response.ok and response.content == b""
    assert server.connections == 1 and naps == []
    server.handler = named
    assert session.rget("/users/P1") == "/users/P1"


@pytest.mark.parametrize("answer", [(202, 0), (202, 1), (204, 0)])
def test_an_empty_answer_behind_a_chunked_redirect_is_whole(
    answer, server, session, naps
):
    """What came before, in chunks, was not of this answer."""
    status, chunks = answer
    server.reply(307, headers={"Location": "/new"}, body=b"{}", chunks=1)
    gzipped = {"Content-Encoding": "gzip"}
    server.reply(status, headers=gzipped, chunks=chunks)
    response = session.post("/users", json=BODY)
    assert (response.status_code, response.content) == (status, b"")
    assert [r.path for r in server.requests] == ["/users", "/new"]
    assert naps == []


@pytest.mark.parametrize("coding", [None, "gzip", "br", "zstd"])
def test_an_empty_answer_may_end_with_the_connection(
    coding, server, session, naps
):
    headers = encoded(coding)[0] if coding else {}
    server.reply(202, headers=headers, until_close=True)
    assert session.post("/users", json=BODY).content == b""
    assert len(server.requests) == 1 and naps == []


def test_a_body_without_length_ends_with_the_connection(server, session, naps):
    server.reply(json=BODY, until_close=True)
    assert session.get("/users/P1").json() == BODY
    assert naps == []


def test_a_body_without_length_ends_with_tls(trust, session, naps):
    """Where TLS has not ended, nobody knows whether all has come."""
    ignored = 0x80  # SSL_OP_IGNORE_UNEXPECTED_EOF, which Python 3.10 names.
    if ssl.create_default_context().options & ignored:
        pytest.skip("this Python ignores how TLS ends")
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    with wire.Server(tls=trust) as server:
        session.url, session.verify = server.url, trust.ca_file
        server.reply(raw=head + CONTENT[:50])
        server.reply(json=BODY, until_close=True)
        assert session.get("/users/P1").json() == BODY
        assert naps == [3]
        session.max_network_attempts = 0
        server.reply(raw=head + CONTENT[:50])
        with pytest.raises(pdpyras.PDClientError, match="(?i)eof"):
            session.get("/users/P1")


def test_http_client_prints_what_it_is_asked_to(
    server, session, monkeypatch, capsys
):
    """Many debug with this switch of the standard library."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    server.reply(json=BODY, headers={"X-Sent": "yes"})
    session.get("/users/P1")
    printed = capsys.readouterr().out
    assert "reply: 'HTTP/1.1 200 OK" in printed
    assert "header: X-Sent: yes\n" in printed


def test_answers_are_read_although_http_client_has_other_names(
    server, session, monkeypatch, naps
):
    """What ours adds is lost then, but no plain answer is."""
    monkeypatch.setattr(pdpyras, "_HAS_HEAD_NAMES", False)
    server.handler = named
    for number in range(3):
        path = f"/users/P{number}"
        assert session.rget(path) == path
        assert session.rput(path, json={}) == path
    assert server.connections == 1 and naps == []


def test_as_many_headers_as_http_client_allows(
    server, session, monkeypatch, naps
):
    def headers(number):
        lines = b"".join(b"X-%d: y\r\n" % n for n in range(number))
        return b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n"

    session.max_network_attempts = 0
    server.reply(raw=headers(99))
    assert len(session.get("/users/P1").headers) == 99
    for raw in (headers(101), b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000):
        server.reply(raw=raw)
        with pytest.raises(pdpyras.PDClientError, match="got more than"):
            session.get("/users/P1")
    # What scripts do about servers that send more.
    monkeypatch.setattr(http.client, "_MAXHEADERS", 1000)
    server.reply(raw=headers(500))
    assert len(session.get("/users/P1").headers) == 500


@pytest.mark.parametrize(
    "lines",
    [
        b"No header\r\nContent-Length: 5\r\n",
        b": nameless\r\nContent-Length: 5\r\n",
        b"Content-Length : 5\r\n",
        b"Content-Length\t:5\r\n",
        b"Content-Length:\r\n 5\r\n",
        b"\xc3\x84: x\r\nContent-Length: 5\r\n",
        b"X: a\rb\r\nContent-Length: 5\r\n",
        b"X: y\nContent-Length: 5\n",
        b" folded: at the beginning\r\nContent-Length: 5\r\n",
    ],
)
def test_a_length_is_read_whatever_stands_before_it(
    lines, server, session, naps
):
    """Without it, what comes before the connection breaks off is the body."""
    head = b"HTTP/1.1 200 OK\r\nX-Before: 1\r\n" + lines
    for raw in (head + b"X-Behind: 2\r\n\r\n[1,", head + b"\r\n[1,2]"):
        server.reply(raw=raw)
    response = session.get("/users")
    assert response.json() == [1, 2]
    assert response.headers["Content-Length"] == "5"
    assert response.headers["X-Before"][0] == "1"
    assert naps == [3]


def test_what_stands_in_strange_headers_is_kept(server, session, naps):
    head = (
        b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n\t b\n  c\r\nX-Blank : d\r\n"
        b"X-Return: e\rf\r\nX-Empty:\r\nno header\r\nX-Empty: g:h\r\n"
    )
    server.reply(raw=head + b"Content-Length: 0\r\n\r\n")
    headers = session.get("/users").headers
    assert headers["X-Folded"] == "a b c"
    assert headers["X-Blank"] == "d"
    assert headers["X-Return"] == "e f"
    assert headers["X-Empty"] == ", g:h"
    assert len(headers) == 5


def test_an_end_within_the_headers_is_network_trouble(server, session, naps):
    head = b"HTTP/1.1 202 Accepted\r\nContent-Type: text/plain\r\n"
    cuts = [9, 12, len(head) - 12, len(head) - 1, len(head)]
    for cut in cuts:
        server.reply(raw=head[:cut])
        server.reply(202, body=b"ok")
        assert session.post("/users", json=BODY).content == b"ok", cut
    assert naps == [3] * len(cuts)


# -- Connections ------------------------------------------------------------


class KeptOpen(wire.Answer):
    """Bytes that are sent as they are, at once."""

    def __init__(self, sent):
        super().__init__()
        self.sent = sent

    def parts(self, *args, **kwargs):
        return b"", b"", self.sent


SMUGGLED = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


@pytest.mark.parametrize("status", [200, 204])
def test_what_follows_an_answer_by_tls_is_no_answer(
    status, trust, session, naps
):
    """It is decrypted already, so that the operating system does not know."""
    with wire.Server(tls=trust) as server:
        session.url, session.verify = server.url, trust.ca_file
        head = f"HTTP/1.1 {status} OK\r\nContent-Length: 2\r\n\r\n".encode()
        answer = head + b"[]" + b" " * (8190 - len(head)) + SMUGGLED
        server.script.append(wire.Step(KeptOpen(answer), 1))
        server.handler = named
        assert session.get("/users").status_code == status
        for number in range(3):
            assert session.rget(f"/users/P{number}") == f"/users/P{number}"
        assert server.connections == 2


@pytest.mark.parametrize(
    "fields",
    [{"Content-Length": "2"}, {"Transfer-Encoding": "chunked"}],
)
def test_a_late_body_behind_a_204_meets_no_other_request(
    fields, server, session, naps
):
    server.reply(204, headers=fields)
    server.handler = named
    assert session.delete("/users/P1").status_code == 204
    assert session.post("/users", json={}).json() == {"user": "/users"}
    assert [r.connection for r in server.requests] == [1, 2]


@pytest.mark.parametrize("length", [None, "0"])
def test_a_connection_is_kept_behind_a_204(length, server, session, naps):
    fields = {} if length is None else {"Content-Length": length}
    server.reply(204, headers=fields)
    server.handler = named
    session.delete("/users/P1")
    assert session.rget("/users/P2") == "/users/P2"
    assert server.connections == 1


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("ambiguous", [True, False])
def test_a_408_is_repeated_on_a_new_connection(
    ambiguous, method, server, session, naps
):
    session.retry_ambiguous_writes = ambiguous
    server.reply(json=BODY)
    server.reply(408, json={"error": "time"}, times=2)
    server.handler = named
    session.get("/users/P1")
    response = session.request(method, "/users/P1", json=BODY)
    assert response.json() == {"user": "/users/P1"}
    assert [r.connection for r in server.requests] == [1, 1, 2, 3]
    assert naps == [3, 6]


@pytest.mark.parametrize("attempts", [0, 1, 3, 5])
def test_a_408_counts_for_max_network_attempts(
    attempts, server, session, events, naps
):
    server.reply(408, times=math.inf)
    session.max_network_attempts = events.max_network_attempts = attempts
    assert session.get("/users/P1").status_code == 408
    assert len(server.requests) == attempts + 1
    with pytest.raises(pdpyras.PDHTTPError):
        events.trigger("summary", "source")
    assert len(server.requests) == 2 * (attempts + 1)


def test_retry_says_what_to_do_about_a_408(server, session, naps):
    session.retry[408] = 1
    server.reply(408, times=math.inf)
    assert session.get("/users/P1").status_code == 408
    assert naps == [3]


def test_a_408_whose_body_cannot_be_sent_again(server, session, naps):
    server.reply(408, times=2)
    response = session.post("/users", data=iter([b"once"]))
    assert response.status_code == 408 and naps == []


def open_connections(server, session, number):
    """So many connections of a session that are idle now."""
    everybody = threading.Barrier(number)

    def answer(request):
        everybody.wait(20)
        return named(request)

    handler, server.handler = server.handler, answer
    threads = [
        threading.Thread(target=session.get, args=("/users/P1",))
        for _ in range(number)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.handler = handler


def idle(session):
    """The idle connections of a session, of the one pool that it has."""
    pools = session.get_adapter(session.url).poolmanager.pools
    (pool,) = map(pools.get, pools.keys())
    return list(pool.pool._connections)


STALE = [("close", "request"), ("reset", "request"), ("close", "status")]


@pytest.mark.parametrize("kind, stage", STALE)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_a_stale_connection_is_replaced_at_once(
    method, kind, stage, server, session, naps, caplog
):
    server.handler = named
    open_connections(server, session, 3)
    assert server.connections == 3
    server.fault(kind, stage)
    with caplog.at_level(logging.WARNING):
        response = session.request(method, "/users/P1", json=BODY)
    assert response.json() == {"user": "/users/P1"}
    assert naps == []
    # The others may have ended as well, so it is none of them.
    assert server.requests[-1].connection == 4
    assert "Retry 1 of 3 in 0 s" in caplog.text


class Hasty(wire.Server):
    """Answers before the body has come, and does not wait for it."""

    def _exchange(self, link):
        request = link.head()
        if request is not None:
            self.requests.append(request)
            answer = wire.Answer(413)
            link.sock.sendall(b"".join(answer.parts("PUT", close=True)))
            pdpyras.time.sleep(0.1)
        return False


@pytest.mark.parametrize("is_secure", [False, True])
def test_an_answer_before_the_body_was_read(is_secure, session, trust):
    """What breaks then is the pipe, and not the answer."""
    body = {"incidents": [{"id": "P1", "title": "x" * 8_000_000}]}
    with Hasty(tls=trust if is_secure else None) as server:
        session.url = server.url
        session.verify = trust.ca_file
        assert session.put("/incidents", json=body).status_code == 413
        assert len(server.requests) == 1


def test_a_stale_connection_behind_a_redirect(server, session, naps):
    """What ended it ends that of the second attempt as well, if it can."""
    server.handler = named
    server.reply(302, headers={"Location": "/users/P2"})
    server.fault("close", "request")
    server.reply(302, headers={"Location": "/users/P2"})
    assert session.rget("/users/P1") == "/users/P2"
    assert naps == []
    assert [r.connection for r in server.requests] == [1, 1, 2, 3]


def test_a_redirect_to_what_is_refused_was_not_done(server, session, naps):
    headers = {"Location": "/users/P2", "Connection": "close"}
    server.reply(307, headers=headers)
    session.hooks["response"] = [lambda response, **_: server.refuse()]
    session.max_network_attempts = 0
    with pytest.raises(pdpyras.PDClientError, match="efused") as caught:
        session.post("/users/P1", json=BODY)
    assert "may or may not" not in str(caught.value)


def test_a_stale_connection_is_met_once_in_a_call(server, session, naps):
    server.handler = named
    session.get("/users/P1")
    server.fault("close", "request", times=3)
    assert session.rget("/users/P1") == "/users/P1"
    assert naps == [3, 6]  # The first one cost no pause.


def test_a_stale_connection_counts_as_a_retry(server, session, naps):
    server.handler = named
    session.max_network_attempts = 0
    session.get("/users/P1")
    server.fault("close", "request")
    with pytest.raises(pdpyras.PDClientError, match="gave up after 1 attempt"):
        session.get("/users/P1")
    assert naps == []


@pytest.mark.parametrize("stage, at", [("status", 5), ("headers", None)])
def test_a_connection_that_ends_within_an_answer_is_not_stale(
    stage, at, server, session, naps
):
    server.handler = named
    session.get("/users/P1")
    server.fault("close", stage, at=at)
    assert session.rpost("/users", json={}) == "/users"
    assert naps == [3]


def test_a_write_on_a_stale_connection_may_have_been_done(
    server, session, naps
):
    server.handler = named
    session.retry_ambiguous_writes = False
    session.get("/users/P1")
    server.fault("close", "request")
    with pytest.raises(pdpyras.PDClientError, match="may or may not"):
        session.post("/users", json=BODY)
    assert naps == [] and len(server.requests) == 2


@pytest.mark.parametrize("seconds, connections", [(49, 1), (51, 2)])
def test_a_connection_that_was_idle_for_50_s_is_not_used_again(
    seconds, connections, server, session
):
    server.handler = named
    session.get("/users/P1")
    (connection,) = idle(session)
    connection.last_used -= seconds
    session.post("/users", json=BODY)
    assert server.connections == connections
    session.get("/users/P1")
    assert server.connections == connections


def test_a_connection_is_idle_from_its_last_answer_on(server, session):
    server.handler = named
    session.get("/users/P1")
    (connection,) = idle(session)
    connection.last_used -= 40
    session.get("/users/P1")
    connection.last_used -= 40
    session.get("/users/P1")
    assert server.connections == 1


def test_as_many_connections_are_kept_as_threads_use(server, session, caplog):
    server.handler = named
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            open_connections(server, session, 24)
    assert server.connections == 24
    assert len(idle(session)) == 24
    assert [
        record
        for record in caplog.records
        if record.name.startswith("urllib3")
        and record.levelno >= logging.WARNING
    ] == []


# -- Statuses ---------------------------------------------------------------


@pytest.mark.parametrize("status", [502, 504])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_a_gateway_says_of_an_ambiguous_write(
    method, status, server, session, naps
):
    session.retry = {status: 3}
    session.retry_ambiguous_writes = False
    server.reply(status, times=3)
    assert session.request(method, "/users", json=BODY).status_code == status
    with pytest.raises(pdpyras.PDServerError, match="may or may not"):
        getattr(session, "r" + method.lower())("/users", json=BODY)
    assert len(server.requests) == 2 and naps == []
    session.retry_ambiguous_writes = True
    assert session.request(method, "/users", json=BODY).ok
    assert naps == [3]


@pytest.mark.parametrize(
    "method, status",
    [
        *itertools.product(["POST", "PATCH"], [429, 500, 503]),
        *itertools.product(["GET", "PUT", "DELETE"], [502, 504]),
    ],
)
def test_other_statuses_are_repeated_as_configured(
    method, status, server, session, naps
):
    session.retry = {500: 2, 502: 2, 503: 2, 504: 2}
    session.retry_ambiguous_writes = False
    server.reply(status, times=2)
    assert session.request(method, "/users", json=BODY).ok
    assert naps == [3, 6]


@pytest.mark.parametrize("status", [502, 504])
def test_an_error_says_what_may_have_happened(status, server, session):
    server.reply(status, times=3)
    with pytest.raises(pdpyras.PDServerError, match="may or may not"):
        session.rpost("/users", json=BODY)
    for read in (
        lambda: session.rget("/users/P1"),
        lambda: session.rput("/users/P1", json=BODY),
    ):
        with pytest.raises(pdpyras.PDServerError) as caught:
            read()
        assert "may or may not" not in str(caught.value)


def accepted(request):
    return wire.Answer(202, json={"dedup_key": "k", "id": "i"})


TROUBLE = [502, 504, ("reset", "status"), ("close", "body")]


def befall(server, trouble):
    if isinstance(trouble, int):
        server.reply(trouble)
    else:
        server.fault(*trouble, answer=accepted(None))


@pytest.mark.parametrize("trouble", TROUBLE, ids=str)
@pytest.mark.parametrize(
    "send",
    [
        lambda e: e.trigger("summary", "source", dedup_key="k"),
        lambda e: e.acknowledge("k"),
        lambda e: e.resolve("k"),
        lambda e: e.post(
            "/v2/enqueue", json={"event_action": "resolve", "dedup_key": "k"}
        ),
    ],
    ids=["trigger", "acknowledge", "resolve", "post"],
)
def test_an_event_with_a_dedup_key_is_repeated_all_the_same(
    send, trouble, server, events, naps
):
    events.retry_ambiguous_writes = False
    server.handler = accepted
    befall(server, trouble)
    send(events)
    assert len(server.requests) == 2 and naps == [3]
    assert server.requests[0].body == server.requests[1].body


@pytest.mark.parametrize("trouble", TROUBLE, ids=str)
def test_an_event_with_a_dedup_key_of_the_client_is_repeated(
    trouble, server, events, naps
):
    events.retry_ambiguous_writes, events.client_dedup_keys = False, True
    server.handler = accepted
    befall(server, trouble)
    events.trigger("summary", "source")
    first, second = [r.json["dedup_key"] for r in server.requests]
    assert first == second != ""


@pytest.mark.parametrize("trouble", TROUBLE, ids=str)
@pytest.mark.parametrize(
    "kind, send",
    [
        ("events", lambda e: e.trigger("summary", "source")),
        ("events", lambda e: e.trigger("summary", "source", dedup_key="")),
        ("changes", lambda e: e.submit("summary")),
        ("changes", lambda e: e.send_change_event(dedup_key="k")),
        ("session", lambda e: e.rpost("/users", json={"dedup_key": "k"})),
    ],
)
def test_a_write_without_a_dedup_key_is_not_repeated(
    kind, send, trouble, server, naps, request
):
    session = request.getfixturevalue(kind)
    session.retry_ambiguous_writes = False
    server.handler = accepted
    befall(server, trouble)
    with pytest.raises(pdpyras.PDClientError, match="may or may not"):
        send(session)
    assert len(server.requests) == 1 and naps == []


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_retry_reads(status, server, session, naps):
    server.reply(status, times=2)
    assert pdpyras.PDSession.retry_reads is False
    assert session.get("/users/P1").status_code == status
    assert naps == []
    session.retry_reads = True
    server.reply(status, times=2)  # One is left of those above.
    assert session.get("/users/P1").ok
    assert naps == [3, 6, 12]
    server.reply(status, times=4)
    assert session.get("/users/P1").status_code == status
    assert naps == [3, 6, 12] * 2


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_retry_reads_concerns_no_write(method, server, session, naps):
    session.retry_reads = True
    server.reply(503)
    response = session.request(method, "/users/P1", json=BODY)
    assert response.status_code == 503
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 404, 501, 505])
def test_retry_reads_concerns_no_other_status(status, server, session, naps):
    session.retry_reads = True
    server.reply(status)
    assert session.get("/users/P1").status_code == status


@pytest.mark.parametrize("limit", [0, 1])
def test_retry_counts_for_more_than_retry_reads(limit, server, session, naps):
    session.retry_reads = True
    session.retry[502] = limit
    server.reply(502, times=math.inf)
    assert session.get("/users/P1").status_code == 502
    assert len(server.requests) == limit + 1


def test_retry_reads_is_bounded_by_max_http_attempts(server, session, naps):
    session.retry_reads = True
    session.max_http_attempts = 2
    server.reply(502, times=math.inf)
    assert session.get("/users/P1").status_code == 502
    assert len(server.requests) == 3


def test_retry_reads_holds_for_iterations(server, session, naps):
    session.retry_reads = True
    server.reply(503)
    server.reply(json={"users": [1, 2], "more": False})
    assert session.list_all("users") == [1, 2]
    assert naps == [3]


def test_a_retry_after_is_counted_from_the_date_of_the_answer(
    server, session, naps
):
    """Whatever the clock of this machine says."""
    for year in ("2001", "2060"):
        server.reply(
            429,
            headers={
                "Date": f"Thu, 01 Feb {year} 10:00:00 GMT",
                "Retry-After": f"Thu, 01 Feb {year} 10:00:07 GMT",
            },
        )
    assert session.get("/users/P1").ok
    assert naps == [7, 7]


@pytest.mark.parametrize(
    "status, headers, due",
    [
        (503, {"Retry-After": "3600"}, 3600),
        (503, {"Retry-After": "11"}, 11),
        (503, {"ratelimit-reset": "50", "ratelimit-remaining": "0"}, 50),
        (429, {"ratelimit-reset": "11"}, 11),
        (429, {"ratelimit-reset": "86400"}, 86400),
        (429, {"Retry-After": "86400"}, 86400),
        (503, {"Retry-After": "86400"}, 86400),
        (429, {"Retry-After": "9" * 20}, 1e20),
        (429, {"Retry-After": "9" * 400}, sys.float_info.max),
    ],
)
def test_max_rate_wait_applies_to_every_wait_that_is_asked_for(
    status, headers, due, server, session, naps
):
    session.retry[503] = 6
    session.max_rate_wait = 10
    server.reply(status, headers=headers)
    with pytest.raises(pdpyras.PDRateLimitError) as caught:
        session.get("/users/P1")
    assert caught.value.retry_after == due
    assert caught.value.status_code == status
    assert naps == [] and len(server.requests) == 1


def test_max_rate_wait_leaves_the_formula_of_a_503_alone(
    server, session, naps
):
    session.retry[503] = 6
    session.max_rate_wait = 1
    headers = {"ratelimit-reset": "55", "ratelimit-remaining": "900"}
    server.reply(503, headers=headers)
    assert session.get("/users/P1").ok
    assert naps == [3]


def test_sleep_timer_max_caps_the_pauses_after_network_trouble(
    server, session, naps
):
    session.max_network_attempts = 8
    server.fault("reset", "status", times=8)
    assert session.get("/users/P1").ok
    assert naps == [3, 6, 12, 24, 48, 60, 60, 60]
    session.sleep_timer_max = 5
    server.fault("reset", "status", times=4)
    del naps[:]
    session.close()
    assert session.get("/users/P1").ok
    assert naps == [3, 5, 5, 5]


@pytest.mark.parametrize("asked", [1, 30, 3500, 3600])
def test_stagger_cooldown_keeps_between_what_was_asked_and_3600(
    asked, server, session, naps
):
    session.stagger_cooldown = 1
    server.reply(429, headers={"ratelimit-reset": str(asked)}, times=40)
    assert session.get("/users/P1").ok
    assert all(asked <= nap <= min(2 * asked, 3600) for nap in naps)
    assert len(naps) == 40
    assert asked > 30 or len(set(naps)) > 1


# -- Bodies -----------------------------------------------------------------

UPLOADS = {
    "list of files": lambda f: [("f", f)],
    "list of pairs": lambda f: [("f", ("a.txt", f))],
    "list of triples": lambda f: [("f", ("a.txt", f, "text/plain"))],
    "list of four": lambda f: [("f", ("a.txt", f, "text/plain", {"X": "y"}))],
    "list of lists": lambda f: [["f", ["a.txt", f]]],
    "dict of files": lambda f: {"f": f},
    "dict of pairs": lambda f: {"f": ("a.txt", f)},
    "dict of lists": lambda f: {"f": ["a.txt", f]},
    "tuple of pairs": lambda f: (("f", ("a.txt", f)), ("g", b"bytes")),
}


@pytest.mark.parametrize("files", UPLOADS.values(), ids=UPLOADS)
@pytest.mark.parametrize("trouble", [503, ("reset", "status")], ids=str)
def test_a_file_deep_in_files_is_sent_again_whole(
    trouble, files, server, session, naps, tmp_path
):
    session.retry[503] = 3
    path = tmp_path / "a.txt"
    path.write_bytes(b"content of the file")
    befall(server, trouble)
    befall(server, trouble)
    with open(str(path), "rb") as file:
        assert session.post("/users", files=files(file)).ok
    assert len(server.requests) == 3
    for request in server.requests:
        assert request.body.count(b"content of the file") == 1


class Pipe(io.RawIOBase):
    """A file that can be read once."""

    name = "pipe"

    def __init__(self):
        super().__init__()
        self._data = b"read once"

    def readable(self):
        return True

    def read(self, size=-1):
        data, self._data = self._data, b""
        return data


@pytest.mark.parametrize("files", UPLOADS.values(), ids=UPLOADS)
def test_a_pipe_deep_in_files_is_not_sent_again(files, server, session, naps):
    session.retry[503] = 3
    server.reply(503)
    assert session.post("/users", files=files(Pipe())).status_code == 503
    server.fault("reset", "status")
    with pytest.raises(pdpyras.PDClientError):
        session.post("/users", files=files(Pipe()))
    assert len(server.requests) == 2 and naps == []


@pytest.mark.parametrize(
    "body",
    [
        lambda: zip("ab", "cd"),
        {"a": "b"}.items,
        lambda: iter([1, 2]),
        lambda: (piece for piece in ["a", "\ud800"]),
        lambda: iter([b"whole", object()]),
    ],
)
def test_a_body_of_what_cannot_be_sent_is_an_error_at_once(
    body, server, session, naps
):
    secret = {"token": "a-secret-in-the-query"}
    with pytest.raises(pdpyras.PDClientError, match="body cannot") as caught:
        session.post("/users", data=body(), params=secret)
    assert secret["token"] not in str(caught.value)
    server.handler = named
    assert session.rget("/users/P1") == "/users/P1"
    posts = [r for r in server.requests if r.method == "POST"]
    assert naps == [] and len(posts) <= 1


def test_half_an_answer_to_a_body_without_a_length(server, session, naps):
    """Which old requests sends in a way of its own."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    server.reply(raw=head + b"[1]")
    with pytest.raises(pdpyras.PDClientError, match="IncompleteRead|broke"):
        session.post("/users", data=iter([b"a"]))


def test_what_a_body_raises_is_the_callers(server, session, naps):
    def body():
        yield b"piece"
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        session.post("/users", data=body())


@pytest.mark.parametrize("text", ["é", "日本語" * 50, "a\U0001f600b"])
def test_text_as_data_is_utf_8(text, server, session, naps):
    server.reply(429)
    assert session.post("/users", data=text).ok
    for request in server.requests:
        assert request.body == text.encode("utf-8")
    assert len(server.requests) == 2


# -- Sizes ------------------------------------------------------------------


def bomb(size):
    """Zeros, packed a thousand to one."""
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    zeros = bytes(1_000_000)
    pieces = [packer.compress(zeros) for _ in range(size // 1_000_000)]
    return b"".join(pieces) + packer.flush()


def brotli_zeros(size):
    """The same, a few bytes for each block of 16 MiB."""
    brotli(b"")  # It skips the test where that cannot be.
    packer = sys.modules["brotli"].Compressor(quality=5)
    zeros = bytes(1_000_000)
    pieces = [packer.process(zeros) for _ in range(size // 1_000_000)]
    return b"".join(pieces) + packer.finish()


def peak_of_refusal(session):
    """Bytes that it takes at most to find an answer too large."""
    tracemalloc.start()
    try:
        with pytest.raises(pdpyras.PDClientError, match="max_response_size"):
            session.get("/users/P1")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.oldest
@pytest.mark.parametrize("chunks", [0, 5])
@pytest.mark.parametrize("limit", [1_000_000, 20_000_000])
def test_a_bomb_costs_no_more_memory_than_max_response_size(
    limit, chunks, server, session, naps
):
    body = bomb(80_000_000)
    assert len(body) < 80_000
    headers = {"Content-Encoding": "gzip"}
    server.reply(body=body, headers=headers, chunks=chunks, times=2)
    session.max_response_size = limit
    assert peak_of_refusal(session) < 1.5 * limit + 2_000_000
    assert len(server.requests) == 1 and naps == []


@pytest.mark.oldest
@pytest.mark.parametrize(
    "coding, size, limit",
    [
        ("br", 200_000_000, 1_000_000),
        ("gzip, br", 200_000_000, 1_000_000),
        ("br, gzip", 1_000_000_000, 64_000_000),
    ],
)
def test_a_bomb_of_brotli_costs_few_blocks_of_it(
    coding, size, limit, server, session, naps
):
    """A block has 16 MiB, however little is read."""
    body = bomb(size) if coding == "gzip, br" else brotli_zeros(size)
    if coding == "gzip, br":
        body = brotli(body)
    elif coding == "br, gzip":
        body = gzip.compress(body)
    server.reply(body=body, headers={"Content-Encoding": coding})
    session.max_response_size = limit
    assert peak_of_refusal(session) < 2 * limit + 3 * 2**24
    assert len(server.requests) == 1 and naps == []


@pytest.mark.oldest
def test_no_coding_is_asked_for_that_cannot_be_bounded(server, session):
    """Unless the caller does."""
    is_bounded = hasattr(urllib3.response.GzipDecoder, "has_unconsumed_tail")
    for name in ("br", "zstd"):
        session.get("/users")
        codings = server.requests[-1].headers["Accept-Encoding"]
        assert "gzip" in codings and "deflate" in codings
        asked = name in codings
        assert asked == (is_bounded and name in ACCEPT_ENCODING)
        session.get("/users", headers={"Accept-Encoding": name})
        assert server.requests[-1].headers["Accept-Encoding"] == name
    session.headers["Accept-Encoding"] = "br"
    session.get("/users")
    assert server.requests[-1].headers["Accept-Encoding"] == "br"


@pytest.mark.oldest
@pytest.mark.parametrize(
    "chunked",
    [
        (b"2;" + b"a" * 1_000_000, b"\r\n{}\r\n0\r\n\r\n"),
        (b"2\r\n{}\r\n0\r\nX: " + b"a" * 1_000_000, b"\r\n\r\n"),
        (b"0" * 1_000_000, b"2\r\n{}\r\n0\r\n\r\n"),
    ],
    ids=["extension", "trailer", "zeros"],
)
def test_a_line_of_a_chunked_body_has_a_limit(chunked, server, session, naps):
    session.max_network_attempts = 0
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.reply(raw=head + b"".join(chunked))
    with pytest.raises(pdpyras.PDClientError, match="(?i)more than|exceeded"):
        session.get("/users/P1")


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": 7}, {"gzip": True}, {"gzip": True, "chunks": 3}],
    ids=str,
)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("status", [200, 500])
def test_max_response_size_to_the_byte(
    status, method, options, server, session, naps
):
    size = len(CONTENT)
    server.handler = lambda request: wire.Answer(status, json=BODY, **options)
    session.max_response_size = size
    assert session.request(method, "/users").content == CONTENT
    session.max_response_size = size - 1
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.request(method, "/users")
    assert type(caught.value) is pdpyras.PDClientError
    assert str(size - 1) in str(caught.value)
    assert f"{method} {server.url}/users" in str(caught.value)
    assert caught.value.response.status_code == status
    assert len(server.requests) == 2 and naps == []
    session.max_response_size = size
    assert session.request(method, "/users").content == CONTENT


def test_a_compressed_answer_counts_as_what_it_is(server, session):
    """Packed it may be larger."""
    packed = gzip.compress(b"{}")
    session.max_response_size = 2
    headers = {"Content-Encoding": "gzip"}
    server.reply(body=packed, headers=headers, times=2)
    assert len(packed) > 2
    assert session.get("/users").content == b"{}"
    session.max_response_size = 1
    with pytest.raises(pdpyras.PDClientError, match="max_response_size"):
        session.get("/users")


def test_a_length_over_max_response_size_is_refused_unread(
    server, session, naps
):
    """No byte of the body comes, and none is waited for."""
    session.max_response_size = 1000
    answer = wire.Answer(body=b"x" * 1001)
    server.fault("stall", "body", at=0, answer=answer)
    with pytest.raises(pdpyras.PDClientError, match="max_response_size"):
        session.get("/users", timeout=20)
    assert naps == []


def test_without_max_response_size_any_size_is_read(server, session):
    assert pdpyras.PDSession.max_response_size == 64 * 1024 * 1024
    server.reply(body=bytes(70_000_000), times=2)
    with pytest.raises(pdpyras.PDClientError, match="67108864 bytes"):
        session.get("/users")
    session.max_response_size = None
    assert len(session.get("/users").content) == 70_000_000


def test_max_response_size_does_not_concern_a_stream(server, session):
    session.max_response_size = 10
    server.reply(json=BODY)
    with session.get("/users", stream=True) as response:
        assert response.content == CONTENT


@pytest.mark.parametrize("follow", [True, False])
def test_max_response_size_concerns_redirects_to_a_stream(
    follow, server, session, naps
):
    """Nobody but requests reads these."""
    session.max_response_size = 100
    headers = {"Location": "/users/P1", "Content-Encoding": "gzip"}
    server.reply(302, body=gzip.compress(b"x" * 101), headers=headers)
    with pytest.raises(pdpyras.PDClientError, match="max_response_size"):
        session.get("/old", stream=True, allow_redirects=follow)
    server.reply(302, body=gzip.compress(b"x" * 100), headers=headers)
    server.reply(json=BODY)
    answer = session.get("/old", stream=True, allow_redirects=follow)
    assert answer.content == (CONTENT if follow else b"x" * 100)
    assert naps == []


def test_max_response_size_holds_for_events_pages_and_redirects(
    server, session, events
):
    session.max_response_size = events.max_response_size = 100
    server.reply(202, json={"dedup_key": "k" * 100})
    with pytest.raises(pdpyras.PDClientError, match="max_response_size"):
        events.trigger("summary", "source")
    server.reply(json={"users": ["u" * 100], "more": False})
    with pytest.raises(pdpyras.PDClientError, match="max_response_size"):
        session.list_all("users")
    server.reply(302, body=b"x" * 101, headers={"Location": "/users/P1"})
    with pytest.raises(pdpyras.PDClientError, match="max_response_size"):
        session.get("/old")
    assert len(server.requests) == 3


@pytest.mark.parametrize("again", [copy.deepcopy, pickled])
@pytest.mark.parametrize("options", [{}, {"deadline": 60}])
def test_an_answer_can_be_copied_and_pickled(options, again, session, server):
    server.reply(302, headers={"Location": "/users/P1"})
    server.reply(json=BODY)
    answer = session.get("users", **options)
    twin = again(answer)
    assert twin.json() == BODY
    assert twin.request.url == f"{server.url}/users/P1"
    assert [past.status_code for past in twin.history] == [302]


def test_pickled_sessions_keep_the_settings_of_answers(session):
    session.max_response_size, session.retry_reads = 17, True
    with pickle.loads(pickle.dumps(session)) as other:
        assert (other.max_response_size, other.retry_reads) == (17, True)
        assert other.api_key == KEY
