"""The test server itself does what its users rely on."""

import gzip
import math
import socket
import threading
import time

import pytest
import requests

from tests import wire


def get(server, path="/", **options):
    options.setdefault("timeout", 5)
    return requests.get(server.url + path, **options)


def test_a_request_is_recorded_as_it_was_sent(server):
    requests.post(
        server.url + "/a%2Fb?q=x+y&q=&z=%C3%A4",
        json={"k": "ü"},
        headers={"X-One": "1"},
    )
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/a%2Fb")
    assert request.target == "/a%2Fb?q=x+y&q=&z=%C3%A4"
    assert request.raw_query == "q=x+y&q=&z=%C3%A4"
    assert request.query == [("q", "x y"), ("q", ""), ("z", "ä")]
    assert request.headers["x-ONE"] == "1"
    assert request.headers["absent"] is None
    assert request.json == {"k": "ü"}
    assert request.connection == 1


def test_replies_come_in_order_then_the_handler_answers(server):
    server.reply(201, json=[1], times=2)
    server.reply(404, body=b"no", headers=[("A", "1"), ("A", "2")])
    server.handler = lambda request: wire.Answer(json=request.path)
    answers = [get(server, f"/{n}") for n in range(4)]
    assert [a.status_code for a in answers] == [201, 201, 404, 200]
    assert answers[0].json() == [1]
    assert answers[2].headers["A"] == "1, 2"
    assert answers[3].json() == "/3"
    assert not server.script


def test_one_connection_serves_many_requests(server):
    with requests.Session() as client:
        for body in (b"whole", iter((b"in", b" chunks"))):
            client.put(server.url, data=body)
            client.head(server.url)
    assert [r.body for r in server.requests] == [
        b"whole",
        b"",
        b"in chunks",
        b"",
    ]
    assert {r.connection for r in server.requests} == {1}
    assert server.connections == 1


@pytest.mark.parametrize(
    "options", [{}, {"gzip": True}, {"chunks": 3}, {"gzip": True, "chunks": 3}]
)
def test_a_body_arrives_in_every_coding(server, options):
    server.reply(json=list(range(100)), times=2, **options)
    with requests.Session() as client:
        for _ in range(2):
            assert client.get(server.url).json() == list(range(100))
    assert server.connections == 1


@pytest.mark.parametrize("stage", ["connect", "request", "status"])
@pytest.mark.parametrize("kind", ["reset", "close", "garbage"])
def test_a_fault_before_the_answer_is_a_connection_error(server, kind, stage):
    server.fault(kind, stage)
    with pytest.raises(requests.ConnectionError):
        requests.post(server.url, data=b"x", timeout=5)
    assert get(server).json() == {}
    assert server.connections == 2


def test_a_fault_at_connect_strikes_a_client_that_is_connected(server):
    with requests.Session() as client:
        client.get(server.url)
        server.fault("reset", "connect")
        with pytest.raises(requests.ConnectionError):
            client.get(server.url)
        server.reply()
        server.fault("reset", "connect")
        client.get(server.url)
        with pytest.raises(requests.ConnectionError):
            client.get(server.url)


def test_a_fault_after_so_many_bytes_of_the_request(server):
    server.fault("reset", "request", at=10)
    with pytest.raises(requests.ConnectionError):
        get(server)
    assert server.requests == []


@pytest.mark.parametrize("kind", ["reset", "truncate", "wrong-length"])
def test_a_fault_in_the_body_leaves_half_of_it(server, kind):
    server.fault(kind, "body", answer=wire.Answer(body=b"0123456789"))
    with socket.create_connection(server.address, timeout=5) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        received = b""
        while not received.endswith(b"01234"):
            received += raw.recv(1)
    announced = 5 if kind == "wrong-length" else 10
    assert b"Content-Length: %d\r\n" % announced in received


def test_half_a_gzip_stream_is_whole_as_http(server):
    server.fault("gzip-truncated", "body", answer=wire.Answer(json="x" * 99))
    answer = get(server, stream=True)
    half = answer.raw.read(decode_content=False)
    assert len(half) == int(answer.headers["content-length"])
    with pytest.raises(EOFError):
        gzip.decompress(half)


@pytest.mark.parametrize("stage", wire.STAGES[2:])
def test_a_stall_ends_with_the_client_or_the_server(stage):
    with wire.Server() as server:
        server.fault("stall", stage, times=math.inf)
        if stage == "idle":
            get(server)
        else:
            with pytest.raises(requests.RequestException):
                get(server, timeout=0.05)
        held = socket.create_connection(server.address)
        held.sendall(b"GET / HTTP/1.1\r\n\r\n")
        begun = time.monotonic()
    held.close()
    assert time.monotonic() - begun < 2
    assert not any(t.is_alive() for t in server._threads)


def test_an_idle_connection_ends_after_its_answer(server):
    server.fault("close", "idle")
    with socket.create_connection(server.address, timeout=5) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with raw.makefile("rb") as stream:
            assert stream.read().endswith(b"\r\n\r\n{}")
    assert get(server).json() == {}
    assert server.connections == 2


def test_refused_until_it_listens_again(server):
    server.fault("refuse", "connect")
    for url in (server.url, f"http://127.0.0.1:{wire.closed_port()}"):
        with pytest.raises(requests.ConnectionError, match="refused"):
            requests.get(url)
    server.listen()
    assert get(server).ok


def test_faults_that_do_not_exist_are_refused(server):
    for kind, stage in (
        ("explode", "body"),
        ("reset", "lunch"),
        ("drip", "connect"),
    ):
        with pytest.raises(ValueError):
            server.fault(kind, stage)


@pytest.mark.parametrize("stage", ["status", "headers", "body"])
def test_a_drip_comes_byte_by_byte(stage, server):
    server.fault("drip", stage, answer=wire.Answer(body=b"0123456789"))
    with socket.create_connection(server.address, timeout=5) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        mark = {"status": b"HTTP/1.", "headers": b"Length: "}.get(
            stage, b"789"
        )
        received, pieces = b"", []
        while mark not in received:
            pieces.append(raw.recv(100))
            received += pieces[-1]
    assert [len(piece) for piece in pieces[-3:]] == [1, 1, 1]


def test_a_drip_at_the_request_is_read_in_sips(server):
    server.fault("drip", "request")
    with socket.create_connection(server.address, timeout=0.2) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n")
        with pytest.raises(socket.timeout):
            raw.sendall(b"x" * 99999999)


def test_a_deaf_server_reads_nothing(server):
    server.fault("deaf", "connect")
    with socket.create_connection(server.address, timeout=0.2) as raw:
        with pytest.raises(socket.timeout):
            raw.sendall(b"x" * 99999999)


def test_interim_answers_come_before_the_answer(server):
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    server.reply(body=b"late", before=[early] * 2)
    with socket.create_connection(server.address, timeout=5) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        with raw.makefile("rb") as stream:
            received = stream.read()
    assert received.startswith(early * 2 + b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"\r\n\r\nlate")


def test_a_body_may_end_with_the_stream(server):
    server.reply(body=b"all", until_close=True)
    answer = get(server)
    assert answer.content == b"all"
    assert "Content-Length" not in answer.headers


@pytest.mark.parametrize("kind", ["stall", "drip"])
def test_a_proxy_that_opens_its_tunnel_slowly(kind, trust):
    with wire.Proxy() as proxy:
        proxy.fault = kind
        with pytest.raises(requests.RequestException):
            requests.get(
                "https://127.0.0.1:1/",
                proxies={"https": proxy.url},
                timeout=0.01,
            )
    assert [r.method for r in proxy.requests] == ["CONNECT"]


def test_a_proxy_that_refuses_a_tunnel():
    with wire.Proxy() as proxy:
        proxy.refusal = wire.Answer(407)
        with pytest.raises(requests.ConnectionError, match="407"):
            requests.get("https://127.0.0.1:1/", proxies={"https": proxy.url})


def test_an_error_in_the_handler_fails_the_test():
    with pytest.raises(ZeroDivisionError):
        with wire.Server() as server:
            server.handler = lambda request: 1 // 0
            with pytest.raises(requests.ConnectionError):
                get(server)


def test_tls_is_trusted_by_its_authority_alone(trust):
    with wire.Server(tls=trust) as server:
        assert get(server, verify=trust.ca_file).json() == {}
        with pytest.raises(requests.exceptions.SSLError):
            get(server)
        for kind in ("reset", "close", "garbage"):
            server.fault(kind, "tls")
            with pytest.raises(requests.ConnectionError):
                get(server, verify=trust.ca_file)
        assert len(server.requests) == 1


def test_the_proxy_forwards_tunnels_and_keeps_to_loopback(server, trust):
    with wire.Server(tls=trust) as other, wire.Proxy(
        {"api.invalid:80": server.address}
    ) as proxy:
        through = {
            "proxies": {"http": proxy.url, "https": proxy.url},
            "verify": trust.ca_file,
            "timeout": 5,
        }
        requests.post(server.url + "/a?b=c", data=b"x", **through)
        get(other, **through)
        requests.get("http://api.invalid/named", **through)
        assert requests.get("http://no.invalid/", **through).status_code == 502
        assert [r.method for r in proxy.requests] == [
            "POST",
            "CONNECT",
            "GET",
            "GET",
        ]
    first, named = server.requests
    assert (first.target, first.body) == ("/a?b=c", b"x")
    assert named.headers["Host"] == "api.invalid"


def test_many_threads_are_served_at_once(server):
    barrier = threading.Barrier(8)

    def meet(request):
        barrier.wait(5)
        return wire.Answer(json=request.path)

    server.handler = meet
    seen = []
    threads = [
        threading.Thread(
            target=lambda n=n: seen.append(get(server, f"/{n}").json())
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [f"/{n}" for n in range(8)]
