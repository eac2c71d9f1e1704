"""One session in many hands: threads, hooks, signals, forks, greenlets.

What must be at an exact moment is arranged with events; where every moment
counts, a script of its own is interrupted at many of them, under a time limit
that a deadlock would meet.
"""

import concurrent.futures
import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import warnings
from http.cookiejar import LWPCookieJar, MozillaCookieJar

import pytest
import requests
import urllib3

import pdpyras
from tests import wire
from tests.support import ROOT, may_fork, needs_fork
from tests.test_processes import child

SECONDS = 40  # How long a script may take before it hangs.


def limits(remaining, reset=60, limit=960):
    return {
        "ratelimit-limit": str(limit),
        "ratelimit-remaining": str(remaining),
        "ratelimit-reset": str(reset),
    }


def begun(call, *args):
    thread = threading.Thread(target=call, args=args, daemon=True)
    thread.start()
    return thread


def users(request, headers=None):
    """A collection of 400 users, and each of any name."""
    if request.path == "/v2/enqueue":
        key = request.json["dedup_key"]
        return wire.Answer(202, json={"dedup_key": key}, headers=headers)
    if request.path != "/users":
        body = {"user": {"id": request.path[7:]}}
        return wire.Answer(json=body, headers=headers)
    query = dict(request.query)
    offset, limit = int(query["offset"]), int(query["limit"])
    end = min(offset + limit, 400)
    body = {
        "users": [{"id": f"P{n}"} for n in range(offset, end)],
        "more": end < 400,
        "total": 400,
    }
    return wire.Answer(json=body, headers=headers)


@pytest.fixture(autouse=True)
def answers(server):
    server.handler = users


def run(tmp_path, source, *arguments, python=sys.executable):
    """Run a script; return what it prints. It must not hang."""
    script = tmp_path / "script.py"
    script.write_text(
        "import faulthandler\n"
        f"faulthandler.dump_traceback_later({SECONDS}, exit=True)\n"
        + textwrap.dedent(source)
    )
    output, errors = tmp_path / "output", tmp_path / "errors"
    with output.open("w") as out, errors.open("w") as err:
        done = subprocess.run(
            [python, str(script), *arguments],
            stdout=out,
            stderr=err,
            timeout=SECONDS + 20,
            cwd=str(tmp_path),
            env=dict(os.environ, PYTHONPATH=ROOT),
        )
    assert done.returncode == 0, output.read_text() + errors.read_text()
    assert errors.read_text() == ""
    return output.read_text()


# ---------------------------------------------------------------------------
# The caller's context
# ---------------------------------------------------------------------------


@pytest.mark.skipif(
    sys.version_info < (3, 7), reason="contextvars came with Python 3.7"
)
@pytest.mark.parametrize("prefetch", [1, 4])
def test_prefetch_workers_run_in_the_callers_context(
    prefetch, session, server
):
    """So that a span of a trace has its parent."""
    import contextvars

    span = contextvars.ContextVar("span", default="none")
    seen = []

    def note(response, **kwargs):
        seen.append((span.get(), threading.current_thread()))

    session.hooks["response"].append(note)
    for name in ("first", "second"):
        span.set(name)
        records = session.list_all("users", prefetch=prefetch, page_size=50)
        assert len(records) == 400
        assert [value for value, _ in seen] == [name] * 8
        assert len({thread for _, thread in seen}) > 1
        seen.clear()


@pytest.mark.skipif(
    sys.version_info < (3, 7), reason="contextvars came with Python 3.7"
)
def test_a_prefetch_worker_keeps_nothing_of_a_context(session, server):
    """Each page has a copy: what a hook sets there, no other page sees."""
    import contextvars

    span = contextvars.ContextVar("span", default="none")
    seen = []

    def note(response, **kwargs):
        if threading.current_thread() is not threading.main_thread():
            seen.append(span.get())
            span.set("of a worker")

    session.hooks["response"].append(note)
    span.set("callers")
    session.list_all("users", prefetch=1, page_size=50)
    assert seen == ["callers"] * len(seen) and len(seen) >= 5


# ---------------------------------------------------------------------------
# Hooks
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("remaining", [0, 1])
def test_a_hook_may_wait_for_another_thread(remaining, session, server):
    """Its answer has come: nobody waits for that request any more."""
    server.handler = lambda request: users(request, limits(remaining))
    found = []

    def wait(response, **kwargs):
        if response.url.endswith("/P1"):
            thread = begun(lambda: found.append(session.rget("users/P2")))
            thread.join(20)
            found.append(thread.is_alive())

    session.hooks["response"].append(wait)
    session.rget("users/P0")
    assert session.rget("users/P1") == {"id": "P1"}
    assert found == [{"id": "P2"}, False]


def test_a_hook_in_a_prefetch_worker_may_wait_for_another_thread(
    session, server
):
    server.handler = lambda request: users(request, limits(0))
    names = []

    def wait(response, **kwargs):
        if "offset" in response.url:
            thread = begun(lambda: names.append(session.rget("users/P2")))
            thread.join(20)
            assert not thread.is_alive()

    session.hooks["response"].append(wait)
    assert len(session.list_all("users", prefetch=2)) == 400
    assert names == [{"id": "P2"}] * 4


def test_an_item_hook_may_wait_for_another_thread(session, server):
    server.handler = lambda request: users(request, limits(0))

    def wait(item, n, total):
        if n in (1, 150):
            thread = begun(session.rget, "users/P2")
            thread.join(20)
            assert not thread.is_alive()

    found = session.list_all("users", prefetch=4, item_hook=wait)
    assert len(found) == 400


def test_closing_an_iteration_ends_no_request_of_another_session(
    session, server
):
    """One that a hook, called in a worker of the iteration, is in."""
    inside, closed, found = threading.Event(), threading.Event(), []
    with pdpyras.APISession("another-fake-key") as other:
        other.url = server.url

        def note(response, **kwargs):
            if "offset=100&" in response.url + "&":
                inside.set()
                assert closed.wait(20)
                found.append(other.rget("users/P1"))
                found.append(session.rget("users/P2"))
                found.append(len(other.list_all("users", prefetch=2)))

        session.hooks["response"].append(note)
        records = session.iter_all("users", prefetch=1)
        next(records)
        assert inside.wait(20)
        threading.Timer(0.1, closed.set).start()
        records.close()  # It waits for the worker, if only a moment.
        for _ in range(200):
            if len(found) == 3:
                break
            threading.Event().wait(0.05)
    assert found == [{"id": "P1"}, {"id": "P2"}, 400]


# ---------------------------------------------------------------------------
# The rate limit
# ---------------------------------------------------------------------------


@pytest.mark.oldest
@pytest.mark.parametrize("remaining", [1, 3])
def test_many_threads_never_have_more_under_way_than_remain(
    remaining, session, server
):
    session.timeout = 30
    lock, under_way, most = threading.Lock(), [0], [0]

    def handler(request):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        threading.Event().wait(0.002)
        with lock:
            under_way[0] -= 1
        return users(request, limits(remaining))

    server.handler = handler
    session.rget("users/P0")
    threads = [
        begun(lambda n=n: [session.rget(f"users/T{n}C{c}") for c in range(10)])
        for n in range(20)
    ]
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert most[0] <= remaining
    assert session.total_call_count == len(server.requests) == 201


def test_of_answers_out_of_order_the_smaller_remaining_counts(session, server):
    """An answer that was overtaken tells of an earlier state."""
    session.timeout = 30
    overtaken, go_on = threading.Event(), threading.Event()

    def handler(request):
        if request.path == "/users/slow":
            overtaken.set()
            assert go_on.wait(20)
            return users(request, limits(5, 30))
        return users(request, limits(4, 30))

    server.handler = handler
    slow = begun(session.rget, "users/slow")
    assert overtaken.wait(20)
    session.rget("users/fast")
    assert session.rate.remaining == 4
    go_on.set()
    slow.join(20)
    assert session.rate.remaining == 4
    for rate, remaining in [
        (limits(4, 30), 4),
        (limits(0, 30), 0),
        (limits(959, 60), 959),  # A new window.
        (limits(7, 60), 7),
        (limits(90, 60, 100), 90),  # A new limit.
        (limits(95, 62, 100), 95),  # A window that ends later.
        (limits(96, 0, 100), 96),  # One that has ended.
        (limits(1, 60, 100), 1),
        (limits(97, "soon", 100), 97),  # It cannot be told which.
    ]:
        server.handler = lambda request, rate=rate: users(request, rate)
        session.rget("users/P1")
        assert session.rate.remaining == remaining


@pytest.mark.parametrize("max_rate_wait", [None, 0.2])
def test_a_long_wait_for_other_threads_is_told_and_bounded(
    max_rate_wait, server, session, caplog, monkeypatch
):
    monkeypatch.setattr(pdpyras, "_LONG_WAIT", 0.3)
    session.timeout = 30
    asked, go_on = threading.Event(), threading.Event()

    def handler(request):
        if request.path == "/users/slow":
            asked.set()
            assert go_on.wait(20)
        return users(request, limits(0, 40))

    server.handler = handler
    session.rget("users/P1")
    session.max_rate_wait = max_rate_wait
    slow = begun(session.rget, "users/slow")
    assert asked.wait(20)
    other = begun(session.rget, "users/P2")
    other.join(1 if max_rate_wait is None else 20)
    assert other.is_alive() is (max_rate_wait is None)
    go_on.set()
    for thread in (slow, other):
        thread.join(20)
        assert not thread.is_alive()
    told = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert len(told) == (1 if max_rate_wait is None else 0)
    assert all("rate limit" in text for text in told)


class Unlucky(pdpyras._RateGate):
    """An interruption arrives just when a request has its turn."""

    def enter(self, *args):
        super().enter(*args)
        raise KeyboardInterrupt


def test_an_interruption_leaves_no_request_under_way(session, server):
    server.handler = lambda request: users(request, limits(1))
    session.rget("users/P0")
    rate = session.rate
    session._gate = Unlucky()
    session._gate._note(rate)
    with pytest.raises(KeyboardInterrupt):
        session.rget("users/P1")
    session._gate.__class__ = pdpyras._RateGate
    waiting = begun(session.rget, "users/P2")
    waiting.join(20)
    assert not waiting.is_alive()


class Alarm:
    """Handlers of a signal, in the ways in which scripts write them."""

    def __init__(self, error):
        self.error = error

    def method(self, number, frame):
        raise self.error

    def deeper(self, *given):
        self.method(*given)

    def around(self, number, frame=None):
        try:
            raise KeyError("of the handler")
        except KeyError as error:
            raise self.error from error

    def idiom(self, number, frame):
        del number, frame
        raise self.error

    def walk(self, number, frame):
        while frame is not None:
            frame = frame.f_back
        raise self.error

    def __call__(self, *_):
        raise self.error


class Derived(requests.adapters.HTTPAdapter):
    """It stays what it is when it is mounted."""


ALARM_ERRORS = [
    TimeoutError,
    socket.timeout,
    ConnectionResetError,
    OSError,
    requests.exceptions.ConnectionError,
    requests.exceptions.HTTPError,
    urllib3.exceptions.ProtocolError,
    ArithmeticError,
]


ALARMS = [("ours", "method", kind) for kind in ALARM_ERRORS] + [
    (adapter, how, kind)
    for adapter in ("ours", "requests")
    for how in ("deeper", "around", "__call__", "idiom", "walk")
    for kind in (TimeoutError, ConnectionResetError)
]


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no such signal")
@pytest.mark.parametrize("within", ["status", "body"])
@pytest.mark.parametrize("adapter, how, kind", ALARMS)
def test_what_a_signal_handler_raises_repeats_nothing(
    adapter, how, kind, within, server, session, naps
):
    """It is the caller's, of whatever type it is."""
    if adapter == "requests":
        session.mount("http://", Derived())
    text = "mine,\n    on two lines"
    session.timeout, error = 20, kind(text)
    # Not before the request has arrived: urllib3 goes on by itself where it
    # is still connecting.
    alarm = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGALRM))

    def handler(request):
        alarm.start()
        return users(request)

    server.handler = handler
    server.fault("stall", within, times=2)
    before = signal.signal(signal.SIGALRM, getattr(Alarm(error), how))
    try:
        with pytest.raises(kind) as caught:
            session.post("/users/P1", json={})
    finally:
        alarm.join(20)
        signal.signal(signal.SIGALRM, before)
    assert caught.value is error and error.args == (text,)
    assert naps == [] and len(server.requests) <= 1


def test_a_frame_that_knows_its_caller_is_no_signal_handler(
    server, session, naps, monkeypatch
):
    """Such as those of tracers."""
    original = requests.Session.send

    def send(*args, **options):
        caller = sys._getframe(1)
        assert caller is not None
        return original(*args, **options)

    monkeypatch.setattr(requests.Session, "send", send)
    server.fault("close", "status")
    server.handler = users
    assert session.rget("/users/P1") == {"id": "P1"}
    assert naps == [3]


# ---------------------------------------------------------------------------
# Connections
# ---------------------------------------------------------------------------


def test_any_number_of_threads_keeps_as_many_connections(
    session, server, caplog
):
    """None of them is thrown away, and urllib3 does not warn of that."""
    session.timeout = 30
    threads = 64
    barrier = threading.Barrier(threads)

    def handler(request):
        if request.path == "/users/all":
            barrier.wait(30)
        return users(request)

    server.handler = handler
    with warnings.catch_warnings(), caplog.at_level("DEBUG", "urllib3"):
        warnings.simplefilter("error")
        for _ in range(3):
            workers = [
                begun(session.rget, "users/all") for _ in range(threads)
            ]
            for worker in workers:
                worker.join(30)
                assert not worker.is_alive()
    assert len(server.requests) == 3 * threads
    assert len({r.connection for r in server.requests}) == threads
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) > threads
    assert not [text for text in texts if "pool is full" in text]


# ---------------------------------------------------------------------------
# Signals
# ---------------------------------------------------------------------------

#: What the scripts below begin with.
BEGINNING = """
import os, pickle, random, signal, sys, threading
import pdpyras

session = pdpyras.APISession("not-a-real-key")
events = pdpyras.EventsAPISession("not-a-real-routing-key")
session.url = events.url = sys.argv[1]
session.max_network_attempts = events.max_network_attempts = 0
made = []

def rest(name):
    made.append(name)
    assert session.rget("users/" + name) == {"id": name}

def event(name):
    assert events.trigger("Down", "db1", dedup_key=name) == name

def handle(number, frame):
    handled.append(frame)
    rest("H%d" % len(handled))
    event("H%d" % len(handled))

handled = []
rest("first")
event("first")
"""
#: And end with: nothing was lost, and nothing was counted twice.
END = """
assert session.api_call_counts == {"GET /users/{id}": len(made)}
print(len(handled))
"""
posix = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="there are no such signals"
)


@posix
@pytest.mark.parametrize("call", ["rest", "event"])
def test_a_signal_handler_may_use_a_session_that_is_in_use(
    call, server, tmp_path
):
    """At any line, of requests, urllib3 and the standard library, too.

    While a request is made, a signal arrives at every 41st line of it; with
    the next request it is some lines later.
    """
    server.handler = lambda request: users(request, limits(1))
    source = f"""
def trace(frame, what, value):
    global lines
    if what == "line":
        lines += 1
        if lines % 41 == 0:
            os.kill(os.getpid(), signal.SIGTERM)
    return trace

signal.signal(signal.SIGTERM, handle)
for lines in range(0, 41, 4):
    name = "M%d" % lines
    sys.settrace(trace)
    {call}(name)
    sys.settrace(None)
"""
    handled = int(run(tmp_path, BEGINNING + source + END, server.url))
    assert handled > 150
    events = [r for r in server.requests if r.path == "/v2/enqueue"]
    assert len({r.json["dedup_key"] for r in events}) == len(events)
    assert len({r.path for r in server.requests} - {"/v2/enqueue"}) > handled


@posix
def test_a_signal_handler_may_use_a_session_beside_threads(server, tmp_path):
    """Also while it waits for its turn, or for an answer."""
    server.handler = lambda request: users(request, limits(2))
    source = """
def others(thread):
    for n in range(100):
        rest("T%dC%d" % (thread, n))

def alarm(number, frame):
    handle(number, frame)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.004))

signal.signal(signal.SIGALRM, alarm)
signal.setitimer(signal.ITIMER_REAL, 0.001)
threads = [threading.Thread(target=others, args=(n,)) for n in range(3)]
for thread in threads:
    thread.start()
while len(handled) < 100:
    rest("M%d" % len(made))
    event("M%d" % len(made))
signal.signal(signal.SIGALRM, signal.SIG_IGN)
for thread in threads:
    thread.join()
"""
    run(tmp_path, BEGINNING + source + END, server.url)


# ---------------------------------------------------------------------------
# Forks
# ---------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("jar", [None, "LWPCookieJar"])
def test_a_fork_at_any_moment(jar, server, tmp_path):
    """Of a process whose threads are in the midst of requests."""
    cookie = {"Set-Cookie": "balancer=1; Path=/", **limits(50)}
    server.handler = lambda request: users(request, cookie)
    source = """
import http.cookiejar, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
if sys.argv[2] != "None":
    session.cookies = getattr(http.cookiejar, sys.argv[2])("jar")

def others(thread):
    while not stop.is_set():
        rest("T%dC%d" % (thread, len(made)))

def ahead():
    while not stop.is_set():
        assert len(session.list_all("users", prefetch=4, page_size=50)) == 400

def child():
    assert session.rget("users/C1") == {"id": "C1"}
    assert len(session.list_all("users", prefetch=2)) == 400
    assert list(records)[-1] == {"id": "P399"}
    left.close()

stop = threading.Event()
threads = [threading.Thread(target=others, args=(n,)) for n in range(2)]
threads.append(threading.Thread(target=ahead))
for thread in threads:
    thread.start()
for n in range(8):
    records = session.iter_all("users", prefetch=2, page_size=50)
    left = session.iter_all("users", prefetch=8, page_size=20)
    next(records), next(left)
    time.sleep(random.uniform(0, 0.005))
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        child()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    records.close(), left.close()
stop.set()
for thread in threads:
    thread.join()
assert session.api_call_counts["GET /users/{id}"] == len(made)
"""
    run(tmp_path, BEGINNING + source, server.url, str(jar))


@needs_fork
@may_fork
@pytest.mark.parametrize("jar", [LWPCookieJar, MozillaCookieJar])
def test_a_fork_while_another_thread_holds_the_cookies(jar, session, server):
    session.cookies = jar()
    held, release = threading.Event(), threading.Event()

    def hold():
        with session.cookies._cookies_lock:
            held.set()
            release.wait(30)

    thread = begun(hold)
    assert held.wait(20)
    cookie = {"Set-Cookie": "balancer=1; Path=/"}
    server.handler = lambda request: users(request, cookie)

    def work():
        session.rget("users/C1")
        return session.rget("users/C2"), [c.name for c in session.cookies]

    try:
        assert child(work) == ({"id": "C2"}, ["balancer"])
    finally:
        release.set()
        thread.join()
    assert server.requests[-1].headers["Cookie"] == "balancer=1"
    assert type(session.cookies) is jar


@needs_fork
@may_fork
def test_a_fork_may_close_an_iteration_that_it_has_inherited(session, server):
    """Even if a worker, which stayed behind, was at the queue just then."""
    records = session.iter_all("users", prefetch=4, page_size=20)
    next(records)
    with records.gi_frame.f_locals["source"]._workers._tasks.mutex:
        assert child(records.close) is None
    assert len(list(records)) == 399


# ---------------------------------------------------------------------------
# Greenlets
# ---------------------------------------------------------------------------

needs_gevent = pytest.mark.skipif(
    importlib.util.find_spec("gevent") is None, reason="gevent is missing"
)


@pytest.mark.oldest
@needs_gevent
@pytest.mark.parametrize(
    "tls, when",
    [
        (False, "used"),
        *[(True, when) for when in ("before", "between", "unused", "used")],
    ],
)
def test_gevent_may_patch_after_the_import(tls, when, trust, tmp_path):
    """With a session that exists already, and may have been used, too."""
    source = """
import sys, warnings
from gevent import monkey

def patch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns of ssl, already imported.
        monkey.patch_all()

url, when, bundle, other_url, other_bundle = sys.argv[1:]
if when == "before":
    patch()
import requests
if when == "between":
    patch()
import pdpyras
session = pdpyras.APISession("not-a-real-key")
session.url, session.verify = url, bundle
if when == "used":
    assert len(session.list_all("users", prefetch=2)) == 400
if when in ("used", "unused"):
    patch()

import gevent, time
assert len(session.list_all("users", prefetch=2)) == 400
def user(n):
    return session.rget("users/P%d" % n)["id"]
def everybody():
    return len(session.list_all("users", prefetch=4, page_size=50))
jobs = [gevent.spawn(user, n) for n in range(20)]
jobs += [gevent.spawn(everybody) for n in range(3)]
ticks = []
def tick():
    while True:
        gevent.sleep(0.001)
        ticks.append(1)
ticker = gevent.spawn(tick)
gevent.joinall(jobs, raise_error=True)
assert [job.value for job in jobs[:20]] == ["P%d" % n for n in range(20)]
assert [job.value for job in jobs[20:]] == [400] * 3
assert len(ticks) > 5, "the others were not let in"
ticker.kill()
records = session.iter_all("users", prefetch=2)
next(records)
records.close()
session.rget("users/P1")
session.verify = False
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    assert session.rget("users/P1") == {"id": "P1"}
session.max_network_attempts = 0
session.verify = True
try:
    session.rget("users/P2")
except pdpyras.PDClientError as error:
    print(error)
session.url, session.verify = other_url, other_bundle
try:
    session.rget("users/P3")
except pdpyras.PDClientError as error:
    print(error)
"""
    under_way, most, lock = [0], [0], threading.Lock()

    def handler(request):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        threading.Event().wait(0.02)
        with lock:
            under_way[0] -= 1
        return users(request)

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(wire.Server(tls=trust if tls else None))
        server.handler = handler
        wrong = stack.enter_context(wire.certificates("other.example"))
        other = stack.enter_context(wire.Server(tls=wrong))
        options = [server.url, when, trust.ca_file, other.url, wrong.ca_file]
        output = run(tmp_path, source, *options)
        assert other.requests == []
    assert most[0] > 5
    # Neither a certificate of an unknown authority, nor one of another host.
    assert ("certificate verify failed" in output) == tls
    assert "127.0.0.1" in output.splitlines()[-1]
    assert "doesn't match" in output or "not valid for" in output


APPLICATION = """
import json, os, threading
import pdpyras

session = pdpyras.APISession("not-a-real-key")
session.url, session.verify = os.environ["API"], os.environ["BUNDLE"]
session.rget("users/before")
assert len(session.list_all("users", prefetch=2)) == 400

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    name = environ["PATH_INFO"][1:]
    user = session.rget("users/" + name)["id"]
    count = len(session.list_all("users", prefetch=2))
    is_patched = "gevent" in type(threading.Lock()).__module__
    return [json.dumps([user, count, is_patched]).encode()]
"""


@pytest.mark.oldest
@needs_gevent
@pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None, reason="gunicorn is missing"
)
def test_a_session_made_before_gunicorn_forks_and_patches(trust, tmp_path):
    """As ``gunicorn --preload -k gevent`` does it."""
    (tmp_path / "application.py").write_text(APPLICATION)
    log = tmp_path / "log.txt"
    with wire.Server(tls=trust) as server, log.open("w") as file:
        server.handler = users
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--preload", "-kgevent"),
                *("--bind=127.0.0.1:0", "--workers=2"),
                *("--graceful-timeout=5", "application"),
            ],
            cwd=str(tmp_path),
            env=dict(
                os.environ,
                PYTHONPATH=ROOT,
                API=server.url,
                BUNDLE=trust.ca_file,
            ),
            stdout=file,
            stderr=file,
        )
        try:
            url = listening(process, log)

            def ask(n):
                return requests.get(f"{url}/P{n}", timeout=30).json()

            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(ask, range(24)))
        finally:
            process.terminate()
            process.wait(60)
        before = {r.connection for r in server.requests if "before" in r.path}
        later = {r.connection for r in server.requests if "/P" in r.path}
    assert answers == [[f"P{n}", 400, True] for n in range(24)]
    assert before and before.isdisjoint(later)


def listening(process, log):
    """The URL at which a server says that it listens."""
    for _ in range(600):
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found:
            return found.group()
        assert process.poll() is None, log.read_text()
        threading.Event().wait(0.05)
    raise AssertionError(log.read_text())
