"""Sessions in other processes, and by many threads of one.

That a pickle is whole is in ``test_trust.py``. Here sessions travel to
workers of every sort, and are inherited by a fork in the midst of their work.
"""

import concurrent.futures
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import pytest

import pdpyras
from tests import wire
from tests.support import KEY, ROOT, may_fork, needs_fork

every_method = pytest.mark.parametrize(
    "method",
    [
        "spawn",
        pytest.param("fork", marks=needs_fork),
        pytest.param("forkserver", marks=needs_fork),
    ],
)


@pytest.fixture(autouse=True)
def answers(server):
    """Users by their path, and alerts by their dedup_key."""

    def handler(request):
        if request.path == "/v2/enqueue":
            key = request.json.get("dedup_key", "made-by-api")
            return wire.Answer(202, json={"dedup_key": key})
        name = request.path.rpartition("/")[2]
        if name == "missing":
            error = {"message": "Not Found", "code": 2100, "errors": ["No."]}
            return wire.Answer(404, json={"error": error})
        return wire.Answer(json={"user": {"id": name}})

    server.handler = handler


WITHOUT_THREADS = """
import resource, sys, threading, pdpyras
with open("/proc/self/statm") as file:
    size = int(file.read().split()[0]) * resource.getpagesize()
threading.stack_size(1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 28),) * 2)
session = pdpyras.APISession("not-a-real-key", url=sys.argv[1])
print(len(session.list_all("users", prefetch=4)))
"""


@pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="there is no /proc"
)
def test_prefetch_where_there_can_be_no_thread(server):
    def handler(request):
        offset = dict(request.query)["offset"]
        return wire.Answer(
            json={"users": [{"id": offset}], "more": offset == "0"}
        )

    server.handler = handler
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_THREADS, server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )
    assert result.stderr == "" and result.stdout == "2\n"


# ---------------------------------------------------------------------------
# Workers
# ---------------------------------------------------------------------------


def fetch(session, name):
    """Runs in a worker: the user, and how often the worker's session asked."""
    return session.rget(f"users/{name}"), session.total_call_count


def page(events, key):
    """Runs in a worker."""
    return events.trigger("Disk is full", "db1", dedup_key=key)


def executor(method):
    """A pool of two processes; before Python 3.7 it starts as it likes."""
    if sys.version_info < (3, 7):
        return concurrent.futures.ProcessPoolExecutor(2)
    context = multiprocessing.get_context(method)
    return concurrent.futures.ProcessPoolExecutor(2, mp_context=context)


@may_fork
@every_method
def test_sessions_work_in_a_process_pool(method, session, events, server):
    session.rget("users/here")  # The pool of connections is open.
    events.client_dedup_keys = True
    with executor(method) as pool:
        users = [pool.submit(fetch, session, f"P{n}") for n in range(6)]
        alerts = [pool.submit(page, events, f"key-{n}") for n in range(3)]
        found = [future.result(60) for future in users]
        keys = [future.result(60) for future in alerts]
        failing = pool.submit(fetch, session, "missing")
        error = failing.exception(60)
    assert found == [({"id": f"P{n}"}, 2) for n in range(6)]
    assert keys == ["key-0", "key-1", "key-2"]
    assert session.total_call_count == 1
    # What goes wrong there arrives here, whole and without the key.
    assert type(error) is pdpyras.PDHTTPError
    assert (error.status_code, error.code) == (404, 2100)
    assert error.errors == ["No."] and error.response.json()
    assert KEY not in str(error) and KEY.encode() not in pickle.dumps(error)
    sent = [r for r in server.requests if r.path != "/v2/enqueue"]
    assert {r.headers["Authorization"] for r in sent} == {f"Token token={KEY}"}
    here = {r.connection for r in sent if r.path == "/users/here"}
    there = {r.connection for r in sent if r.path != "/users/here"}
    assert here.isdisjoint(there)


@may_fork
def test_a_script_that_spawns_by_itself(server, tmp_path):
    """Without pytest around it, as users run it."""
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, sys, pdpyras\n"
        "def work(job):\n"
        "    session, name = job\n"
        "    return session.rget('users/' + name)['id']\n"
        "if __name__ == '__main__':\n"
        "    session = pdpyras.APISession('not-a-real-key')\n"
        "    session.url = sys.argv[1]\n"
        "    session.rget('users/P0')\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        "        jobs = [(session, 'P%d' % n) for n in range(4)]\n"
        "        print(pool.map(work, jobs))\n"
    )
    result = subprocess.run(
        [sys.executable, str(script), server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )
    assert result.stderr == ""
    assert result.stdout == "['P0', 'P1', 'P2', 'P3']\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sessions_work_in_dask(session, server):
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        jobs = client.map(lambda n: fetch(session, f"P{n}")[0], range(4))
        assert client.gather(jobs) == [{"id": f"P{n}"} for n in range(4)]


# ---------------------------------------------------------------------------
# Forks
# ---------------------------------------------------------------------------


def child(work):
    """Run it in a fork; return what it returned."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:  # pragma: no cover
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as stream:
                pickle.dump(work(), stream)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    watch = threading.Timer(30, os.kill, (pid, 9))
    watch.start()
    with os.fdopen(reading, "rb") as stream:
        data = stream.read()
    _, status = os.waitpid(pid, 0)
    watch.cancel()
    assert status == 0, f"the child ended with {status}"
    return pickle.loads(data)


@needs_fork
@may_fork
def test_a_fork_with_an_open_pool_shares_no_socket(session, server):
    """By turns, so that a shared socket would mix up the answers."""
    session.rget("users/P0")
    for n in range(1, 4):
        assert child(lambda n=n: session.rget(f"users/C{n}")) == {
            "id": f"C{n}"
        }
        assert session.rget(f"users/P{n}") == {"id": f"P{n}"}
    connections = {r.path[7:]: r.connection for r in server.requests}
    parents = {connections[name] for name in ("P0", "P1", "P2", "P3")}
    assert parents == {1}
    children = [connections[name] for name in ("C1", "C2", "C3")]
    assert len({1, *children}) == 4


@needs_fork
@may_fork
def test_a_fork_with_an_open_pool_shares_no_tls_connection(trust, session):
    """Closing the child's copy must not end the parent's connection."""
    with wire.Server(tls=trust) as server:
        server.handler = lambda request: wire.Answer(
            json={"user": {"id": request.path[7:]}}
        )
        session.url = server.url
        session.verify = trust.ca_file
        session.max_network_attempts = 0
        assert session.rget("users/P1") == {"id": "P1"}
        assert child(lambda: session.rget("users/C1")) == {"id": "C1"}
        assert session.rget("users/P2") == {"id": "P2"}
        connections = [r.connection for r in server.requests]
    assert connections == [1, 2, 1]


@needs_fork
@may_fork
@pytest.mark.parametrize("size", [10, 200])
def test_a_fork_of_a_fork(size, session, server):
    server.handler = lambda request: wire.Answer(
        json={"user": {"id": request.path[7:], "name": "n" * size}}
    )

    def grandchild():
        first = session.rget("users/C1")["id"]
        second = child(lambda: session.rget("users/G1")["id"])
        return first, second, session.rget("users/C2")["id"]

    session.rget("users/P1")
    assert child(grandchild) == ("C1", "G1", "C2")
    session.rget("users/P2")
    connections = [r.connection for r in server.requests]
    assert connections == [1, 2, 3, 2, 1]


@needs_fork
@may_fork
def test_a_fork_in_the_middle_of_a_request(session, server):
    """The child inherits no gate that only the parent would open."""
    under_way, go_on = threading.Event(), threading.Event()
    limits = {"ratelimit-limit": "9", "ratelimit-remaining": "1"}

    def handler(request):
        if request.path == "/users/slow":
            under_way.set()
            assert go_on.wait(30)
        return wire.Answer(
            json={"user": {"id": request.path[7:]}}, headers=limits
        )

    server.handler = handler
    session.rget("users/P1")
    thread = threading.Thread(target=session.rget, args=("users/slow",))
    thread.start()
    assert under_way.wait(30)
    assert child(lambda: session.rget("users/C1")) == {"id": "C1"}
    go_on.set()
    thread.join(30)
    assert session.rget("users/P2") == {"id": "P2"}


class Interrupted(dict):
    """Counters during whose keeping a fork can be made."""

    counting = None

    def __setitem__(self, key, value):
        if self.counting is not None:
            self.counting()
        super().__setitem__(key, value)


@needs_fork
@may_fork
def test_a_fork_in_the_middle_of_counting(session, server):
    """A lock that another thread holds is not free in the child, ever."""
    session.api_call_counts = counts = Interrupted()
    session.rget("users/P1")
    held, release = threading.Event(), threading.Event()

    def hold():
        if threading.current_thread() is thread:
            held.set()
            release.wait(30)

    counts.counting = hold
    thread = threading.Thread(target=session.rget, args=("users/P2",))
    thread.start()
    assert held.wait(30)
    try:
        counted = child(
            lambda: session.rget("users/C1") and session.total_call_count
        )
    finally:
        release.set()
        thread.join()
    assert counted == 2
    assert session.total_call_count == 2


@needs_fork
@may_fork
def test_an_iteration_goes_on_in_a_fork(session, server):
    def handler(request):
        offset = int(dict(request.query)["offset"])
        users = [{"id": n} for n in range(offset, offset + 2)]
        return wire.Answer(json={"users": users, "more": offset < 6})

    server.handler = handler
    records = session.iter_all("users", page_size=2)
    assert [next(records)["id"] for _ in range(3)] == [0, 1, 2]
    rest = [3, 4, 5, 6, 7]
    assert child(lambda: [r["id"] for r in records]) == rest
    assert [r["id"] for r in records] == rest


@needs_fork
@may_fork
def test_read_ahead_goes_on_in_a_fork(session, server):
    """What was asked for ahead stays behind; the pages stay as large."""

    def handler(request):
        query = dict(request.query)
        offset, limit = int(query["offset"]), int(query["limit"])
        assert limit <= 2
        end = min(offset + limit, 40)
        users = [{"id": n} for n in range(offset, end)]
        body = {"users": users, "more": end < 40, "total": 40}
        return wire.Answer(json=body)

    server.handler = handler
    records = session.iter_all("users", page_size=2, prefetch=4)
    assert [next(records)["id"] for _ in range(3)] == [0, 1, 2]
    rest = list(range(3, 40))
    assert child(lambda: [r["id"] for r in records]) == rest
    assert [r["id"] for r in records] == rest


# ---------------------------------------------------------------------------
# Threads
# ---------------------------------------------------------------------------


@pytest.mark.no_cover
@pytest.mark.oldest
def test_32_threads_make_200_requests_each():
    """All answers are right, and belong to their request; all are counted.

    The server is a process of its own, to leave this one to the threads.
    """
    threads, calls = 32, 200
    command = [sys.executable, os.path.join(ROOT, "tests", "long", "soak.py")]
    server = subprocess.Popen(
        [*command, "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    try:
        with pdpyras.APISession(KEY) as session:
            session.url = server.stdout.readline().strip()
            wrong = []
            barrier = threading.Barrier(threads)

            def work(thread):
                barrier.wait(30)
                for call in range(calls):
                    name = f"T{thread}C{call}"
                    try:
                        user = session.rget(f"users/{name}")
                    except Exception as error:
                        user = error
                    if user != {"id": name}:
                        wrong.append((name, user))

            workers = [
                threading.Thread(target=work, args=(n,))
                for n in range(threads)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            counts = session.api_call_counts
            assert session.total_call_count == threads * calls
            assert session.total_call_time > 0
            assert session.total_call_time == pytest.approx(
                sum(session.api_time.values())
            )
    finally:
        server.stdin.close()
        server.stdout.close()
        server.wait(30)
    assert wrong == []
    assert counts == {"GET /users/{id}": threads * calls}


class Hesitant(dict):
    """A dict whose reader is overtaken by others before it can write."""

    def __getitem__(self, key):
        value = super().__getitem__(key)
        threading.Event().wait(0.001)
        return value

    def get(self, key, default=None):
        value = super().get(key, default)
        threading.Event().wait(0.001)
        return value


def test_counters_lose_nothing_to_a_race(server, session):
    session.timeout = 30
    session.api_call_counts = Hesitant()
    session.api_time = Hesitant()
    workers = [
        threading.Thread(
            target=lambda: [session.get("/users/P1") for _ in range(10)]
        )
        for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert dict(session.api_call_counts) == {"GET /users/{id}": 80}
