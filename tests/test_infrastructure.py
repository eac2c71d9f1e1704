"""Behind what really stands between a client and an API.

nginx and HAProxy, as processes of their own, before the sandbox or before a
server whose answers the test decides; and a proxy that wants to know who one
is. Where a program is missing its tests are skipped, and say so.
"""

import concurrent.futures
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import warnings

import pytest

import pdpyras
from pdpyras_sandbox import Sandbox
from tests import wire
from tests.support import KEY, ROUTING_KEY

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
        self.log = open(os.path.join(self.directory, "log.txt"), "w+")
        self.process = subprocess.Popen(
            self.command,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        try:
            until(self._listens)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(SECONDS)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.log.close()

    def _listens(self):
        if self.process.poll() is not None:
            self.log.seek(0)
            raise AssertionError(self.log.read())
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
        subprocess.run(
            [*self.command, "-s", "reload"], check=True, timeout=SECONDS
        )


class HAProxy(Program):
    name = "haproxy"

    def text(self, backend, settings="", front=""):
        return HAPROXY.format(
            port=self.port, backend=backend, settings=settings, front=front
        )

    @property
    def command(self):
        return [self.program, "-W", "-db", "-f", self.configuration]

    def reload(self):
        """Start a new process, which takes the sockets over."""
        self.process.send_signal(signal.SIGUSR2)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def until(condition):
    """Wait for what other processes bring about."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it does not come about"
        threading.Event().wait(0.02)


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
