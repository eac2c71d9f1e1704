"""Behind what really stands between a client and an API.

nginx and HAProxy, as processes of their own, before the sandbox or before a
server whose answers the test decides; and a proxy that wants to know who one
is. Where a program is missing its tests are skipped, and say so.
"""

import concurrent.futures
import os
import pickle
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

import pdpyras
from pdpyras_sandbox import Sandbox
from tests import wire
from tests.support import KEY, ROUTING_KEY

pytestmark = pytest.mark.oldest

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
SECONDS = 20  # How long anything may take to come about.

NGINX = """
daemon off; pid nginx.pid; worker_processes 1; {user}
error_log errors.log warn; worker_shutdown_timeout 10s;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy;
    fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port}{listen};
        location / {{
            proxy_pass http://{backend};
            proxy_http_version 1.1;
            proxy_set_header Host {backend};
            proxy_set_header Connection "";
            proxy_set_header X-Port $remote_port;
            add_header X-Worker $pid always;
        }}
        {settings}
    }}
}}
"""
HAPROXY = """
global
    hard-stop-after 10s
    maxconn 500
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    {settings}
frontend front
    bind 127.0.0.1:{port}
    {front}
    http-request set-header X-Port %[src_port]
    default_backend back
backend back
    http-request set-header Host {backend}
    server only {backend}
"""


class Program:
    """A server before a backend; gone when the ``with`` block ends.

    :param backend: URL of what it stands before
    :param settings: of its own configuration
    """

    name = ""

    def __init__(self, directory, backend, **settings):
        self.program = shutil.which(self.name, path=PATH)
        if self.program is None:
            pytest.skip(f"{self.name} is missing")
        self.directory = str(directory)
        self.port = free_port()
        self.scheme = "http"
        self.configuration = os.path.join(self.directory, "configuration")
        with open(self.configuration, "w") as file:
            file.write(self.text(backend.rpartition("/")[2], **settings))

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def command(self):
        raise NotImplementedError

    def __enter__(self):
        self.log = os.path.join(self.directory, "log.txt")
        with open(self.log, "w") as file:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        try:
            until(self.is_ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info):
        # wait() with a time limit would sleep, and tests look at each pause.
        killer = threading.Timer(SECONDS, self.process.kill)
        killer.start()
        self.process.terminate()
        self.process.wait()
        killer.cancel()

    def logged(self):
        with open(self.log) as file:
            return file.read()

    def is_ready(self):
        assert self.process.poll() is None, self.logged()
        with socket.socket() as sock:
            sock.settimeout(1)
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


class Nginx(Program):
    name = "nginx"

    def text(self, backend, settings="", listen=""):
        if "ssl" in listen:
            self.scheme = "https"
        return NGINX.format(
            port=self.port,
            backend=backend,
            settings=settings,
            listen=listen,
            # Else the workers of root's nginx may not write to its files.
            user="user root;" if os.getuid() == 0 else "",
        )

    @property
    def command(self):
        return [
            *(self.program, "-p", self.directory, "-e", "errors.log"),
            *("-c", self.configuration),
        ]

    def reload(self):
        subprocess.check_call([*self.command, "-s", "reload"])


class HAProxy(Program):
    name = "haproxy"

    def text(self, backend, settings="", front=""):
        return HAPROXY.format(
            port=self.port, backend=backend, settings=settings, front=front
        )

    @property
    def command(self):
        return [self.program, "-W", "-db", "-f", self.configuration]

    def is_ready(self):
        return super().is_ready() and self.loaded()

    def loaded(self):
        """How many times it has read its configuration."""
        return self.logged().count("Loading success")

    def reload(self):
        """Start a new process, which takes the sockets over."""
        before = self.loaded()
        while self.loaded() == before:
            # While it begins it passes over signals.
            self.process.send_signal(signal.SIGUSR2)
            wait_until(lambda: self.loaded() > before, 2)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_until(condition, seconds):
    """Wait for what other processes bring about; tell whether they did."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.02)
    return True


def until(condition):
    assert wait_until(condition, SECONDS), "it does not come about"


every_program = pytest.mark.parametrize("program", [Nginx, HAProxy])


@pytest.fixture
def box():
    with Sandbox() as sandbox:
        sandbox.add("users", 120)
        yield sandbox


@pytest.fixture
def api():
    with pdpyras.APISession(KEY) as session:
        session.default_from = "user1@example.com"
        yield session


@pytest.fixture
def events():
    with pdpyras.EventsAPISession(ROUTING_KEY) as session:
        yield session


def ports(requests):
    """Whence came those requests: of a connection, the client's port."""
    return [request.headers["X-Port"] for request in requests]


# ---------------------------------------------------------------------------
# Interim answers
# ---------------------------------------------------------------------------

HINT = 'http-request early-hint Link "</style.css>; rel=preload"'


def hints_in(url):
    """How many interim answers come before an answer, over a bare socket."""
    host, _, port = url.rpartition("/")[2].partition(":")
    with socket.create_connection((host, int(port)), SECONDS) as sock:
        sock.sendall(
            b"GET /users HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
        )
        return b"".join(iter(lambda: sock.recv(65536), b"")).count(
            b"HTTP/1.1 103"
        )


@pytest.mark.parametrize("hints", [1, 3])
def test_early_hints_by_haproxy(hints, box, api, events, tmp_path):
    """Each request gets its own answer, on one connection."""
    front = "\n    ".join([HINT] * hints)
    with HAProxy(tmp_path, box.url, front=front) as haproxy:
        assert hints_in(haproxy.url) >= 1
        box.clear()
        api.url = events.url = haproxy.url
        ids = [user["id"] for user in api.iter_all("users", page_size=50)]
        assert len(set(ids)) == 120
        for user_id in ids[:5]:
            assert api.rget(f"users/{user_id}")["id"] == user_id
        for n in range(5):
            assert events.trigger("Down", "db1", dedup_key=f"K{n}") == f"K{n}"
            assert events.resolve(f"K{n}") == f"K{n}"
        new = {"type": "team", "name": "New"}
        team = api.rpost("teams", json=new)
        assert team["name"] == "New"
        assert api.rdelete(f"teams/{team['id']}").status_code == 204
    made = [r for r in box.requests if r.headers["X-Port"]]
    assert len(set(ports(made))) == 2


# ---------------------------------------------------------------------------
# Answers that a gateway loses, after the effect
# ---------------------------------------------------------------------------


class Ledger:
    """Carries out what is asked for; its answer comes when it is let go."""

    def __init__(self):
        self.done = []
        self.let_go = threading.Event()

    def __call__(self, request):
        self.done.append((request.method, request.path))
        assert self.let_go.wait(SECONDS)
        key = {"dedup_key": "K1"}
        return wire.Answer(202, json=dict(key, user={"id": "P1"}))


@pytest.fixture
def ledger(server):
    server.handler = ledger = Ledger()
    yield ledger
    ledger.let_go.set()


def impatient(program, directory, server):
    """A gateway that waits for 0.3 s only."""
    wait = "proxy_read_timeout 300ms;"
    settings = wait if program is Nginx else "timeout server 300ms"
    return program(directory, server.url, settings=settings)


UNKNOWN = "The API may or may not have carried the request out."


@every_program
def test_a_gateway_timeout_with_retry_ambiguous_writes_false(
    program, server, ledger, api, events, tmp_path, naps
):
    """One alert, and an error that says what is not known."""
    with impatient(program, tmp_path, server) as gateway:
        for session in (api, events):
            session.url = gateway.url
            session.retry[504] = 3
            session.retry_ambiguous_writes = False
        with pytest.raises(pdpyras.PDServerError) as caught:
            events.trigger("Down", "db1")
        assert ledger.done == [("POST", "/v2/enqueue")]
        assert caught.value.status_code == 504
        assert UNKNOWN in str(caught.value)
        for call in (api.rpost, api.rpatch):
            ledger.done.clear()
            with pytest.raises(pdpyras.PDServerError) as caught:
                call("users/P1", json={"type": "user"})
            assert len(ledger.done) == 1
            assert UNKNOWN in str(caught.value)
        assert naps == []


@every_program
def test_after_a_gateway_timeout_what_is_idempotent_is_sent_again(
    program, server, ledger, api, events, tmp_path, naps
):
    """A PUT, and an event whose dedup_key makes it the same alert."""
    with impatient(program, tmp_path, server) as gateway:
        for session in (api, events):
            session.url = gateway.url
            session.retry[504] = 3
            session.retry_ambiguous_writes = False
        naps.during = ledger.let_go.set
        assert events.trigger("Down", "db1", dedup_key="K1") == "K1"
        assert ledger.done == [("POST", "/v2/enqueue")] * 2
        sent = [request.json for request in server.requests]
        assert sent[0] == sent[1] and sent[0]["dedup_key"] == "K1"
        ledger.let_go.clear()
        user = {"type": "user"}
        assert api.rput("users/P1", json=user) == {"id": "P1"}
        assert ledger.done[2:] == [("PUT", "/users/P1")] * 2
    assert len(naps) == 2


@every_program
def test_a_bad_gateway_with_retry_ambiguous_writes_false(
    program, server, events, tmp_path, naps
):
    """The backend has taken the event, and ends before it says so."""
    with program(tmp_path, server.url) as gateway:
        events.url = gateway.url
        events.retry[502] = 3
        events.retry_ambiguous_writes = False
        server.fault("close", "status")
        with pytest.raises(pdpyras.PDServerError) as caught:
            events.trigger("Down", "db1")
        assert len(server.requests) == 1
        assert caught.value.status_code == 502
        assert UNKNOWN in str(caught.value)
        assert naps == []


# ---------------------------------------------------------------------------
# Reloads, and connections that end
# ---------------------------------------------------------------------------


class Log(list):
    """What a backend has done, by the names that the client gave."""

    def __call__(self, request):
        self.append((request.method, request.path))
        if request.path != "/users":
            user = {"user": {"id": request.path[7:]}}
            return wire.Answer(json=user)
        query = dict(request.query)
        offset, limit = int(query["offset"]), int(query["limit"])
        end = min(offset + limit, 90)
        users = [{"id": n} for n in range(offset, end)]
        body = {"users": users, "more": end < 90, "total": 90}
        return wire.Answer(json=body)


@pytest.mark.once
@pytest.mark.skipif(
    not os.path.exists(f"/proc/self/task/{os.getpid()}/children"),
    reason="the system does not tell of a process's children",
)
@pytest.mark.parametrize(
    "program, tls", [(Nginx, False), (Nginx, True), (HAProxy, False)]
)
def test_a_reload_while_requests_are_under_way(
    program, tls, server, api, trust, tmp_path, naps
):
    """Nothing is lost, and nothing is done twice."""
    server.handler = log = Log()
    options = {}
    if tls:
        options["listen"] = f" ssl; ssl_certificate {trust.server_file};"
        options["listen"] += f" ssl_certificate_key {trust.server_file}"
    stop = threading.Event()

    def work(thread):
        names = []
        while not stop.is_set():
            name = f"T{thread}N{len(names)}"
            assert api.rget(f"users/{name}") == {"id": name}
            user = api.rpost(f"users/W{name}", json={"name": name})
            assert user == {"id": f"W{name}"}
            found = api.list_all("users", page_size=20, prefetch=thread % 3)
            assert [user["id"] for user in found] == list(range(90))
            names.append(name)
        return names

    with program(tmp_path, server.url, **options) as gateway:
        api.url = gateway.url
        api.verify = trust.ca_file

        def workers():
            pid = gateway.process.pid
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                return set(file.read().split())

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(work, n) for n in range(4)]
            try:
                for _ in range(3):
                    before, done = workers(), len(log)
                    gateway.reload()
                    until(lambda known=before: workers() - known)
                    until(lambda known=done: len(log) > known + 20)
            finally:
                stop.set()
            names = [name for job in jobs for name in job.result()]
    assert len(names) >= 4
    posts = [path[8:] for method, path in log if method == "POST"]
    assert sorted(posts) == sorted(names)
    assert naps == []


@every_program
def test_connections_that_end_between_requests(
    program, server, api, tmp_path, naps
):
    """Also just when the next request is sent; nobody pauses for that."""
    server.handler = log = Log()
    settings = "timeout http-keep-alive 10ms"
    if program is Nginx:
        settings = "keepalive_timeout 10ms;"
    with program(tmp_path, server.url, settings=settings) as gateway:
        api.url = gateway.url
        for n in range(60):
            threading.Event().wait(0.007 + n / 10000)
            assert api.rget(f"users/P{n}") == {"id": f"P{n}"}
            user = api.rpost(f"users/W{n}", json={})
            assert user == {"id": f"W{n}"}
    posts = [path for method, path in log if method == "POST"]
    assert posts == [f"/users/W{n}" for n in range(60)]
    assert len(set(ports(server.requests))) > 1
    assert naps == []


def test_connections_that_end_after_so_many_requests(
    server, api, tmp_path, naps
):
    server.handler = log = Log()
    settings = "keepalive_requests 3;"
    with Nginx(tmp_path, server.url, settings=settings) as nginx:
        api.url = nginx.url
        for n in range(20):
            assert api.rget(f"users/P{n}") == {"id": f"P{n}"}
    assert len(log) == 20
    assert len(set(ports(server.requests))) == 7
    assert naps == []


# ---------------------------------------------------------------------------
# What a gateway makes of bodies and headers
# ---------------------------------------------------------------------------

GZIP = """
    gzip on; gzip_proxied any; gzip_min_length 1;
    gzip_types application/json; gzip_http_version 1.1;
"""


def test_answers_that_nginx_compresses(box, api, tmp_path):
    """In chunks, as it does not know how long they become."""
    with Nginx(tmp_path, box.url, settings=GZIP) as nginx:
        api.url = nginx.url
        answer = api.get("users", params={"limit": 100})
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["Transfer-Encoding"] == "chunked"
        users = api.list_all("users", page_size=50)
        assert len({user["id"] for user in users}) == 120
        assert answer.json()["users"] == users[:100]
        team = api.rpost("teams", json={"type": "team", "name": "é" * 100})
        assert team["name"] == "é" * 100
        path = f"teams/{team['id']}"
        assert api.rdelete(path).status_code == 204
        with pytest.raises(pdpyras.PDHTTPError) as caught:
            api.rget(path)
        assert caught.value.status_code == 404
        assert caught.value.response.headers["Content-Encoding"] == "gzip"
        assert caught.value.code == 2100
    assert len({r.headers["X-Port"] for r in box.requests}) == 1


@every_program
def test_answers_and_bodies_in_chunks(program, server, api, tmp_path):
    users = [{"id": f"P{n}", "name": "n" * n} for n in range(100)]
    answer = {"users": users, "more": False}
    server.reply(json=answer, chunks=40)
    server.reply(201, json={"user": users[0]}, chunks=3)
    server.reply(json={"user": users[1]})
    with program(tmp_path, server.url) as gateway:
        api.url = gateway.url
        assert api.list_all("users") == users
        body = (b'{"user":', b' {"id": "P0"}', b"}")
        assert api.post("users", data=iter(body)).json()["user"] == users[0]
        assert api.rget("users/P1") == users[1]
    assert server.requests[1].json == {"user": {"id": "P0"}}
    assert len(set(ports(server.requests))) == 1


@every_program
def test_large_headers(program, server, api, tmp_path, naps):
    """They arrive, or are an error that says so and does not quote them."""
    settings = (
        "proxy_buffer_size 64k; proxy_buffers 4 64k;"
        "proxy_busy_buffers_size 64k;"
        if program is Nginx
        else ""
    )
    large = {"X-Large": "x" * 12000}
    server.handler = lambda request: wire.Answer(
        json={"user": {"id": "P1"}}, headers=large
    )
    with program(tmp_path, server.url, settings=settings) as gateway:
        api.url = gateway.url
        answer = api.get("users/P1", headers={"X-Mine": "m" * 6000})
        assert answer.headers["X-Large"] == "x" * 12000
        assert server.requests[0].headers["X-Mine"] == "m" * 6000
        with pytest.raises(pdpyras.PDHTTPError) as caught:
            api.rget("users/P1", headers={"X-Mine": "m" * 60000})
        assert caught.value.status_code in (400, 414, 431)
        assert "m" * 200 not in str(caught.value) and KEY not in repr(
            caught.value
        )
        assert api.rget("users/P2") == {"id": "P1"}
    assert len(server.requests) == 2
    assert naps == []


# ---------------------------------------------------------------------------
# TLS that ends at nginx
# ---------------------------------------------------------------------------


def test_nginx_terminates_tls(box, api, trust, tmp_path, naps):
    listen = (
        f" ssl http2; ssl_certificate {trust.server_file};"
        f" ssl_certificate_key {trust.server_file}"
    )
    with Nginx(tmp_path, box.url, settings=GZIP, listen=listen) as nginx:
        api.url = nginx.url
        with pytest.raises(pdpyras.PDClientError) as caught:
            api.list_all("users")
        assert "certificate" in str(caught.value)
        with pytest.raises(pdpyras.PDClientError) as caught:
            plain = nginx.url.replace("https", "http")
            with pdpyras.APISession(KEY) as other:
                other.url = plain
                other.rget("users")
        assert caught.value.response.status_code == 400  # nginx says so.
        assert box.requests == [] and naps == []
        api.verify = trust.ca_file
        for prefetch in (0, 4):
            found = api.list_all("users", prefetch=prefetch, page_size=30)
            assert len({user["id"] for user in found}) == 120
    assert len(set(ports(box.requests))) <= 5


# ---------------------------------------------------------------------------
# A proxy that demands credentials
# ---------------------------------------------------------------------------


@pytest.fixture
def guarded():
    """Lets in who shows a user name and a password."""
    with wire.Proxy(credentials="me:pass-word") as proxy:
        yield proxy


@pytest.mark.parametrize("who", ["", "me:wrong-word@", "you:pass-word@"])
def test_a_proxy_that_refuses_credentials(
    who, guarded, api, trust, naps, monkeypatch
):
    """An error at once, which does not show the password."""
    with wire.Server(tls=trust) as server:
        api.url, api.verify = server.url, trust.ca_file
        address = guarded.url.replace("http://", "")
        monkeypatch.setenv("https_proxy", f"http://{who}{address}")
        for call in (api.rget, api.rpost):
            with pytest.raises(pdpyras.PDClientError) as caught:
                call("users")
            text = str(caught.value)
            assert "407 Proxy Authentication" in text
            assert "word" not in text and KEY not in text
        assert server.requests == []
    assert len(guarded.requests) == 2
    assert naps == []


def test_a_proxy_that_takes_the_credentials(
    guarded, api, trust, naps, monkeypatch
):
    """They are for the proxy alone, and the key is for the API alone."""
    with wire.Server(tls=trust) as server:
        server.handler = Log()
        api.url, api.verify = server.url, trust.ca_file
        address = guarded.url.replace("http://", "")
        monkeypatch.setenv("https_proxy", f"http://me:pass-word@{address}")
        assert api.rget("users/P1") == {"id": "P1"}
        found = api.list_all("users", page_size=20, prefetch=2)
        assert len(found) == 90
        sent = server.requests
    assert len(sent) >= 6
    assert not [r for r in sent if "Proxy-Authorization" in r.headers]
    assert {r.headers["Authorization"] for r in sent} == {f"Token token={KEY}"}
    assert {r.method for r in guarded.requests} == {"CONNECT"}
    assert not [r for r in guarded.requests if "Authorization" in r.headers]
    assert len(guarded.requests) <= 3
    assert naps == []


def test_a_plain_request_through_a_proxy_that_demands_credentials(
    guarded, server, api, naps, monkeypatch
):
    server.handler = Log()
    api.url = server.url
    monkeypatch.setenv("http_proxy", guarded.url)
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        api.rget("users/P1")
    assert caught.value.status_code == 407
    where = f"{guarded.url} (environment variable http_proxy)"
    assert f"The proxy {where} wants credentials." in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert "The proxy wants credentials." in str(again)
    assert server.requests == []
    address = guarded.url.replace("http://", "")
    monkeypatch.setenv("http_proxy", f"http://me:pass-word@{address}")
    assert api.rget("users/P1") == {"id": "P1"}
    assert "Proxy-Authorization" not in server.requests[0].headers
    assert naps == []
