"""A real HTTP/1.1 server whose answers, and failures, a test decides.

    with wire.Server() as server:
        server.reply(json={'users': []})               # the next answer
        server.fault('reset', stage='body')            # the one after it
        server.handler = lambda request: wire.Answer(404)  # all others
        ...
        server.requests[0].headers['authorization']

Replies and faults wait in one queue, ``server.script``; once it is empty
the handler answers. Everything runs in threads on real loopback sockets,
and all of it is gone when the ``with`` block ends.

Stages, in the order in which an exchange meets them:

``connect``  the connection was accepted, nothing was read
``tls``      the client began the TLS handshake
``request``  the head of the request was read, its body not
``status``   the request was read, nothing was answered
``headers``  in the middle of the answer's headers
``body``     in the middle of the answer's body
``idle``     after the next answer, which is whole

Faults: ``refuse`` (nothing listens until ``server.listen()``), ``reset``
(TCP RST), ``close`` and its other name ``truncate`` (an orderly end of the
stream), ``stall`` (silence until the client gives up), ``garbage`` (bytes
that mean nothing), ``drip`` (a byte at a time, with a pause after each; at
stage ``request`` it is the server that reads in small sips), ``deaf`` (nothing
is read, and nothing answered), and, of the body only, ``gzip-truncated`` (half
a gzip stream under a Content-Length that is right) and ``wrong-length`` (more
bytes than Content-Length announces).
"""

import atexit
import base64
import collections
import functools
import gzip
import http.client
import io
import json as json_module
import os
import re
import select
import selectors
import socket
import ssl
import struct
import tempfile
import threading
import warnings
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Set,
    Tuple,
    Union,
)
from urllib.parse import parse_qsl, urlsplit

Address = Tuple[str, int]
UNSET: Any = object()
STAGES = ("connect", "tls", "request", "status", "headers", "body", "idle")
FAULTS = (
    "refuse",
    "reset",
    "close",
    "truncate",
    "stall",
    "garbage",
    "drip",
    "deaf",
    "gzip-truncated",
    "wrong-length",
)
GARBAGE = b"\x00\xff\xfe no such protocol \x80\r\n\r\n"
JOIN_SECONDS = 5
DRIP_SECONDS = 0.05
SIP_SIZE = 32768


class Request:
    """One request as it came over the wire."""

    def __init__(self, head: bytes, connection: int) -> None:
        line, _, rest = head.partition(b"\r\n")
        self.method, self.target = line.decode("latin-1").split(" ")[:2]
        parts = urlsplit(self.target)
        self.path = parts.path
        self.raw_query = parts.query
        self.query: List[Tuple[str, str]] = parse_qsl(
            parts.query, keep_blank_values=True
        )
        self.headers = http.client.parse_headers(io.BytesIO(rest))
        self.body = b""
        self.is_whole = True  # False: the stream ended within the body.
        self.connection = connection

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json_module.loads(self.body.decode("utf-8"))

    def __repr__(self) -> str:
        return f"<{self.method} {self.target} on {self.connection}>"


class Answer:
    """An answer to send; ``json`` beats ``body``, ``raw`` beats both.

    ``headers`` may be a list of pairs, to repeat a name. ``gzip`` encodes
    the body. ``chunks`` sends it in so many chunks instead of under a
    Content-Length. ``raw`` is sent as it stands, then the stream ends.
    ``before`` are bytes to send before all that, one after the other: interim
    answers, without end if the iterable has none. With ``until_close`` the
    body has no length: the end of the stream is its end.
    """

    def __init__(
        self,
        status: int = 200,
        json: Any = UNSET,
        body: bytes = b"",
        headers: Any = None,
        gzip: bool = False,
        chunks: int = 0,
        raw: Optional[bytes] = None,
        before: Iterable[bytes] = (),
        until_close: bool = False,
    ) -> None:
        self.status = status
        self.json = json
        self.body = body
        self.headers = headers or {}
        self.gzip = gzip
        self.chunks = chunks
        self.raw = raw
        self.before = before
        self.until_close = until_close

    def content(self) -> bytes:
        """The body before it is chunked."""
        body = self.body
        if self.json is not UNSET:
            body = json_module.dumps(self.json).encode("utf-8")
        return gzip.compress(body) if self.gzip else body

    def parts(
        self, method: str, length: Optional[int] = None, close: bool = False
    ) -> Tuple[bytes, bytes, bytes]:
        """Status line, headers and body as they go over the wire."""
        reason = http.client.responses.get(self.status, "Unknown")
        body = self.content()
        fields = self._fields(body, length, close)
        if method == "HEAD" or self.status in (204, 304):
            body = b""
        elif self.chunks:
            body = chunked(body, self.chunks)
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return (
            f"HTTP/1.1 {self.status} {reason}\r\n".encode("ascii"),
            f"{head}\r\n".encode("latin-1"),
            body,
        )

    def _fields(
        self, body: bytes, length: Optional[int], close: bool
    ) -> List[Tuple[str, str]]:
        given = (
            list(self.headers.items())
            if isinstance(self.headers, Mapping)
            else list(self.headers)
        )
        fields = []
        if self.json is not UNSET:
            fields.append(("Content-Type", "application/json"))
        if self.gzip:
            fields.append(("Content-Encoding", "gzip"))
        if close:
            fields.append(("Connection", "close"))
        if self.chunks:
            fields.append(("Transfer-Encoding", "chunked"))
        elif self.status != 204 and not self.until_close:
            size = len(body) if length is None else length
            fields.append(("Content-Length", str(size)))
        overridden = {name.lower() for name, _ in given}
        return given + [
            field for field in fields if field[0].lower() not in overridden
        ]


class Fault:
    """What goes wrong, and where. ``at``: after so many bytes of the part
    that the stage names (of the whole request, at stage ``request``)."""

    def __init__(
        self,
        kind: str,
        stage: str,
        at: Optional[int] = None,
        answer: Optional[Answer] = None,
    ) -> None:
        stages = STAGES
        if kind == "drip":
            stages = ("request", "status", "headers", "body")
        if kind not in FAULTS or stage not in stages:
            raise ValueError(f"no such fault: {kind!r} at {stage!r}")
        self.kind = kind
        self.stage = stage
        self.at = at
        self.answer = answer

    def __repr__(self) -> str:
        return f"<{self.kind} at {self.stage}>"


class Step:
    """An entry of the script: what to do, and how many times."""

    def __init__(self, what: Union[Answer, Fault], times: float) -> None:
        self.what = what
        self.times = times

    def __repr__(self) -> str:
        return f"{self.times} x {self.what!r}"


def chunked(body: bytes, chunks: int) -> bytes:
    """``body`` in the chunked transfer coding, in about so many chunks."""
    size = max(1, -(-len(body) // chunks))
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return (
        b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        + b"0\r\n\r\n"
    )


class Link:
    """One accepted connection, with a buffer for what was received."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.buffer = b""
        self.ended = threading.Event()

    def more(self) -> bool:
        """Wait for bytes; False at the end of the stream."""
        data = self.sock.recv(65536)
        self.buffer += data
        return bool(data)

    def take(self, size: int) -> bytes:
        """``size`` bytes, fewer at the end of the stream."""
        while len(self.buffer) < size and self.more():
            pass
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def until(self, end: bytes) -> bytes:
        """Bytes up to and with ``end``; all that came if it does not."""
        while end not in self.buffer and self.more():
            pass
        data, mark, self.buffer = self.buffer.partition(end)
        return data + mark

    def head(self) -> Optional[Request]:
        """The request without its body; None if the stream ends in it."""
        head = self.until(b"\r\n\r\n")
        if not head.endswith(b"\r\n\r\n"):
            return None
        return Request(head, self.number)

    def body(self, request: Request) -> bytes:
        """The body of ``request``."""
        if "chunked" not in request.headers.get("Transfer-Encoding", ""):
            size = int(request.headers.get("Content-Length", 0))
            body = self.take(size)
            request.is_whole = len(body) == size
            return body
        body = b""
        while True:
            line = self.until(b"\r\n")
            request.is_whole = bool(line)
            size = int(line or b"0", 16)
            body += self.take(size + 2)[:size]
            if not size:
                return body

    # The plain socket's methods work under TLS too, in mid-handshake even.

    def wake(self) -> None:
        """End both directions, so that no thread waits for this one."""
        self.ended.set()
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError:
            pass

    def hang_up(self) -> None:
        """An orderly end: ours first, then wait for the other side's."""
        socket.socket.shutdown(self.sock, socket.SHUT_WR)
        self.drain()

    def close_tls(self) -> None:
        """Say by TLS that all has been sent (a close_notify alert)."""
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.settimeout(0)  # Nobody waits for the other side's.
            try:
                self.sock.unwrap()
            except OSError:
                pass
            self.sock.settimeout(None)

    def drain(self) -> None:
        """Ignore what comes until the client leaves or the server ends."""
        while socket.socket.recv(self.sock, 65536):
            pass

    def drip(self, data: bytes) -> None:
        """Send a byte at a time, until the client leaves."""
        for start in range(len(data)):
            self.sock.sendall(data[start : start + 1])
            if select.select([self.sock], [], [], DRIP_SECONDS)[0]:
                return

    def sip(self) -> None:
        """Read a little at a time, until the client leaves."""
        while not self.ended.wait(DRIP_SECONDS):
            if not self.sock.recv(SIP_SIZE):
                return

    def reset(self) -> None:
        """Drop the connection with a TCP RST."""
        self.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.sock.close()

    def strike(self, kind: str) -> None:
        """Let the connection end in the way of this fault."""
        if kind == "reset":
            return self.reset()
        if kind == "drip":
            return self.sip()
        if kind == "deaf":
            self.ended.wait()
            return None
        if kind == "garbage":
            socket.socket.sendall(self.sock, GARBAGE)
        if kind != "stall":
            self.hang_up()
        return self.drain()


class Listener:
    """Accepts connections on loopback, one thread for each."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.connections = 0
        self.errors: List[BaseException] = []
        self.lock = threading.RLock()
        self._links: Set[Link] = set()
        self._threads: List[threading.Thread] = []
        self._accepting: Optional[threading.Thread] = None
        self._bind(port)
        self.listen()

    def _bind(self, port: int) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((self.host, port))
        self.port: int = self._socket.getsockname()[1]

    @property
    def address(self) -> Address:
        """Host and port."""
        return self.host, self.port

    def listen(self) -> None:
        """Accept connections (again, after ``refuse``)."""
        if self._accepting is not None:
            return
        self._socket.listen(128)
        self._wake, waker = socket.socketpair()
        self._accepting = threading.Thread(
            target=self._accept, args=(self._socket, waker), daemon=True
        )
        self._accepting.start()

    def refuse(self) -> None:
        """Refuse connections, on the same port, until ``listen``; those
        that are open end."""
        self._stop_accepting()
        self._bind(self.port)

    def _stop_accepting(self) -> None:
        if self._accepting is not None:
            self._wake.close()
            self._accepting.join(JOIN_SECONDS)
            self._accepting = None
        self._socket.close()
        self.hang_up()

    def hang_up(self) -> None:
        """End every open connection."""
        with self.lock:
            links = list(self._links)
        for link in links:
            link.wake()

    def stop(self) -> None:
        """End the server, every connection and every thread."""
        self._stop_accepting()
        with self.lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(JOIN_SECONDS)
            assert not thread.is_alive(), f"{thread} does not end"

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self.stop()
        if self.errors and kind is None:
            raise self.errors[0]

    def _accept(self, listener: socket.socket, waker: socket.socket) -> None:
        with waker, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(waker, selectors.EVENT_READ)
            while True:
                if any(key.fileobj is waker for key, _ in selector.select()):
                    return
                self._start(listener.accept()[0])

    def _start(self, sock: socket.socket) -> None:
        with self.lock:
            self.connections += 1
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link = Link(self._wrap(sock), self.connections)
            except OSError:  # The client has left already.
                return sock.close()
            thread = threading.Thread(
                target=self._run, args=(link,), daemon=True
            )
            self._links.add(link)
            self._threads = [t for t in self._threads if t.is_alive()]
            self._threads.append(thread)
            thread.start()
        return None

    def _wrap(self, sock: socket.socket) -> socket.socket:
        return sock

    def _run(self, link: Link) -> None:
        try:
            self._serve(link)
        except OSError:
            pass  # The client left, which is the client's right.
        except Exception as error:
            self.errors.append(error)
        finally:
            with self.lock:
                self._links.discard(link)
                link.sock.close()

    def _serve(self, link: Link) -> None:
        raise NotImplementedError


class Server(Listener):
    """The scriptable server; ``tls`` takes ``certificates()``."""

    def __init__(
        self,
        tls: Optional["Certificates"] = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.tls = tls
        self.requests: List[Request] = []
        self.script: Deque[Step] = collections.deque()
        self.handler: Callable[[Request], Answer] = lambda request: Answer(
            json={}
        )
        super().__init__(host, port)

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{self.host}:{self.port}"

    def reply(
        self,
        status: int = 200,
        json: Any = UNSET,
        body: bytes = b"",
        headers: Any = None,
        times: float = 1,
        **options: Any,
    ) -> None:
        """Queue an answer; ``options`` are those of ``Answer``."""
        answer = Answer(status, json, body, headers, **options)
        with self.lock:
            self.script.append(Step(answer, times))

    def fault(
        self,
        kind: str,
        stage: str = "status",
        times: float = 1,
        at: Optional[int] = None,
        answer: Optional[Answer] = None,
    ) -> None:
        """Queue a fault; ``times=math.inf`` makes it the last of them.

        A fault that strikes the answer damages ``answer``; without one,
        what the handler says to the request.
        """
        fault = Fault(kind, stage, at, answer)
        if kind == "refuse":
            return self.refuse()
        with self.lock:
            self.script.append(Step(fault, times))
            if self._next_meets("connect", "tls"):
                self.hang_up()  # Strikes new connections only.
        return None

    def _next_meets(self, *stages: str) -> bool:
        step = self.script[0].what if self.script else None
        return isinstance(step, Fault) and step.stage in stages

    def _pop(self) -> Any:
        step = self.script[0]
        step.times -= 1
        if step.times <= 0:
            self.script.popleft()
        return step.what

    def _fault_at(self, *stages: str) -> Optional[Fault]:
        with self.lock:
            if not self._next_meets(*stages):
                return None
            fault: Fault = self._pop()
            return fault

    def _wrap(self, sock: socket.socket) -> socket.socket:
        if self.tls is None:
            return sock
        return self.tls.context.wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False
        )

    def _serve(self, link: Link) -> None:
        fault = self._fault_at("connect")
        if fault is None and isinstance(link.sock, ssl.SSLSocket):
            socket.socket.recv(link.sock, 1, socket.MSG_PEEK)
            fault = self._fault_at("tls")
            if fault is None:
                link.sock.do_handshake()
        if fault is not None:
            return link.strike(fault.kind)
        while self._exchange(link):
            pass
        return None

    def _exchange(self, link: Link) -> bool:
        """One request and its answer; True if the connection goes on."""
        if not link.buffer and not link.more():
            return False
        fault = self._fault_at("request")
        if fault is not None:
            self._interrupt(link, fault)
            return False
        request = link.head()
        if request is None:
            return False
        request.body = link.body(request)
        with self.lock:
            self.requests.append(request)
            what = self._answer_step()
        if isinstance(what, Fault):
            return self._damage(link, request, what)
        return self._answer(link, request, what or self.handler(request))

    def _answer_step(self) -> Union[Answer, Fault, None]:
        if not self.script or self._next_meets("connect", "tls", "idle"):
            return None
        step: Union[Answer, Fault] = self._pop()
        return step

    def _answer(self, link: Link, request: Request, answer: Answer) -> bool:
        for interim in answer.before:
            link.sock.sendall(interim)
        if answer.raw is not None:
            link.sock.sendall(answer.raw)
            link.hang_up()
            return False
        closing = (
            request.headers.get("Connection", "").lower() == "close"
            or answer.until_close
            or self._next_meets("connect", "tls")
        )
        link.sock.sendall(
            b"".join(answer.parts(request.method, close=closing))
        )
        fault = self._fault_at("idle")
        if fault is not None:
            link.strike(fault.kind)
        elif closing:
            link.close_tls()
            link.hang_up()
        return fault is None and not closing

    def _interrupt(self, link: Link, fault: Fault) -> None:
        if fault.at is None:
            request = link.head()
            if request is not None:
                self.requests.append(request)
        else:
            link.take(fault.at)
        link.strike(fault.kind)

    def _damage(self, link: Link, request: Request, fault: Fault) -> bool:
        answer = fault.answer or self.handler(request)
        content = answer.content()
        if fault.kind == "wrong-length":
            parts = answer.parts(request.method, len(content) // 2)
            link.sock.sendall(b"".join(parts))
            return True
        if fault.kind == "gzip-truncated":
            packed = gzip.compress(content)
            headers = {
                "Content-Encoding": "gzip",
                "Content-Type": "application/json",
            }
            return self._answer(
                link,
                request,
                Answer(
                    answer.status,
                    body=packed[: len(packed) // 2],
                    headers=headers,
                ),
            )
        parts = answer.parts(request.method)
        index = STAGES.index(fault.stage) - STAGES.index("status")
        at = fault.at
        if at is None:
            at = len(parts[index]) // 2 if index else 0
        link.sock.sendall(b"".join(parts[:index]) + parts[index][:at])
        if fault.kind == "garbage":
            link.sock.sendall(GARBAGE * (1 + len(parts[index]) // 10))
            link.hang_up()
        elif fault.kind == "drip":
            link.drip(parts[index][at:] + b"".join(parts[index + 1 :]))
            link.hang_up()
        else:
            link.strike(fault.kind)
        return False


class Proxy(Listener):
    """A forwarding proxy: absolute URLs, and tunnels through CONNECT.

    ``requests`` holds what passed (of a tunnel: the CONNECT). ``routes``
    maps ``'host:port'`` to the address that stands in for it. Whatever is
    neither there nor on loopback is answered 502: nothing leaves. Who does
    not show the ``credentials``, ``'user:password'``, is answered 407.
    ``fault``: how it fails those that want a tunnel, ``"stall"`` or
    ``"drip"``; ``refusal``: the answer that it gives them instead.
    ``delay``: seconds before it opens one; ``before``: bytes that it sends
    before it says that one is open.
    """

    def __init__(
        self,
        routes: Optional[Dict[str, Address]] = None,
        credentials: Optional[str] = None,
    ) -> None:
        self.requests: List[Request] = []
        self.routes = routes or {}
        self.credentials = credentials
        self.fault = ""
        self.refusal: Optional[Answer] = None
        self.delay, self.before = 0.0, b""
        super().__init__()

    @property
    def url(self) -> str:
        """What a proxy variable of the environment should say."""
        return f"http://{self.host}:{self.port}"

    def _serve(self, link: Link) -> None:
        request = link.head()
        if request is None:
            return
        self.requests.append(request)
        if request.method == "CONNECT" and (self.fault or self.refusal):
            return self._fail(link)
        if request.method == "CONNECT":
            target, first = request.target, b""
        else:
            request.body = link.body(request)
            target = urlsplit(request.target).netloc.rpartition("@")[2]
            target += "" if ":" in target else ":80"
            first = self._forwarded(request)
        if not self._admits(request):
            headers = {"Proxy-Authenticate": 'Basic realm="proxy"'}
            answer = Answer(407, body=b"Who are you?", headers=headers)
            link.sock.sendall(b"".join(answer.parts("GET", close=True)))
            return link.hang_up()
        address = self._address(target)
        if address is None:
            link.sock.sendall(b"".join(Answer(502).parts("GET", close=True)))
            return link.hang_up()
        with socket.create_connection(address, timeout=10) as upstream:
            if first:
                upstream.sendall(first)
            else:
                threading.Event().wait(self.delay)  # Not time.sleep: see naps.
                opened = b"HTTP/1.1 200 Connected\r\n\r\n"
                link.sock.sendall(self.before + opened)
            self._relay(link.sock, upstream)

    def _fail(self, link: Link) -> None:
        answer = self.refusal or Answer(200, body=b"x" * 100)
        head = b"".join(answer.parts("GET", close=True))
        if self.fault == "drip":
            link.drip(head)
        elif self.fault != "stall":
            link.sock.sendall(head)
            link.hang_up()
        link.drain()

    def _admits(self, request: Request) -> bool:
        if self.credentials is None:
            return True
        shown = base64.b64encode(self.credentials.encode()).decode()
        given = request.headers.get("Proxy-Authorization")
        return bool(given == f"Basic {shown}")

    def _address(self, target: str) -> Optional[Address]:
        if target in self.routes:
            return self.routes[target]
        host, _, port = target.partition(":")
        if re.fullmatch(r"localhost|127(\.\d+){3}", host):
            return host, int(port)
        return None

    @staticmethod
    def _forwarded(request: Request) -> bytes:
        parts = urlsplit(request.target)
        query = f"?{parts.query}" if parts.query else ""
        lines = [f"{request.method} {parts.path or '/'}{query} HTTP/1.1"]
        lines += [
            f"{name}: {value}"
            for name, value in request.headers.items()
            if name.lower()
            not in ("connection", "proxy-connection", "proxy-authorization")
        ]
        head = "\r\n".join(lines + ["Connection: close", "", ""])
        return head.encode("latin-1") + request.body

    @staticmethod
    def _relay(client: socket.socket, upstream: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([client, upstream], [], [], 30)
            if not ready:
                return
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                (upstream if source is client else client).sendall(data)


class SocksProxy(Proxy):
    """A SOCKS 5 proxy, which knows addresses and names of loopback only.

    ``requests`` holds the hosts and ports that were asked for; ``fault`` may
    be ``"stall"``.
    """

    @property
    def url(self) -> str:
        return f"socks5h://{self.host}:{self.port}"

    def _serve(self, link: Link) -> None:
        methods = link.take(2)[1]
        link.take(methods)
        if self.fault:
            return link.drain()
        link.sock.sendall(b"\x05\x00")  # Without authentication.
        kind = link.take(4)[3]
        if kind == 3:
            host = link.take(link.take(1)[0]).decode("ascii")
        else:
            host = socket.inet_ntoa(link.take(4))
        target = f"{host}:{struct.unpack('>H', link.take(2))[0]}"
        self.requests.append(target)  # type: ignore[arg-type]
        address = self._address(target)
        if address is None:
            link.sock.sendall(b"\x05\x02\x00\x01" + bytes(6))
            return link.hang_up()
        with socket.create_connection(address, timeout=10) as upstream:
            link.sock.sendall(b"\x05\x00\x00\x01" + bytes(6))
            self._relay(link.sock, upstream)
        return None


class Certificates:
    """A certificate authority of its own, and a server's certificate.

    ``ca_file``: path of the authority's certificate, for ``verify`` or
    ``REQUESTS_CA_BUNDLE``; ``server_file``: of the server's key and
    certificates. They go when the ``with`` block ends.
    """

    def __init__(self, *names: str) -> None:
        with warnings.catch_warnings():
            # What trustme stands on warns of old Pythons.
            warnings.simplefilter("ignore")
            import trustme

        authority = trustme.CA()
        certificate = authority.issue_cert(
            *(names or ("127.0.0.1", "localhost"))
        )
        self._directory = tempfile.TemporaryDirectory()
        self.ca_file = os.path.join(self._directory.name, "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        self.server_file = os.path.join(self._directory.name, "server.pem")
        certificate.private_key_and_cert_chain_pem.write_to_path(
            self.server_file
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)

    def __enter__(self) -> "Certificates":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._directory.cleanup()


def certificates(*names: str) -> Certificates:
    """New certificates for these host names (default: 127.0.0.1 and
    localhost); ImportError without the package ``trustme``."""
    return Certificates(*names)


@functools.lru_cache(maxsize=None)
def closed_port() -> int:
    """A port of 127.0.0.1 that refuses connections.

    It is bound for as long as the process lives, so that nobody else can
    come to listen on it.
    """
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    atexit.register(sock.close)
    port: int = sock.getsockname()[1]
    return port
