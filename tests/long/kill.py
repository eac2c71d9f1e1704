#!/usr/bin/env python3
"""Kills processes that share an outbox, and looks what came of their alerts.

    python3 tests/long/kill.py             # 1 000 kills at random
    python3 tests/long/kill.py --kills 50
    python3 tests/long/kill.py --calls     # and before every system call
    python3 tests/long/kill.py --calls --every 5  # before every fifth

Workers trigger, acknowledge and resolve alerts of their own through one
outbox, in several threads, against an API that answers as it likes: it takes
an event and drops the connection, or says 500, 429 or 502, or nothing. What
each call has accepted is noted in a journal. At random moments a worker is
killed by SIGKILL, and replaced. In the end all that waits is flushed, and the
books are compared, alert by alert:

* lost: a call has accepted an event that the API never got;
* doubled: one alert was opened twice;
* disordered: an event of an alert was taken before the one it follows, or
  once more after the one that follows it;
* repeated: an event was sent again although its sender had read the API's
  answer and gone on; or more often than processes were killed between the
  answer and the deletion.

So an event may come twice if the answer to it was lost, or its sender killed
before it could take the event out of the file; and nothing of its alert may
come in between.

With ``--calls`` (which needs strace) one process is killed before each system
call that touches the outbox's files, those of a new outbox too, and each that
talks to the API.

The one gap is excluded by construction: nobody but the outbox resolves an
alert, and the API handles what has arrived in the order of its arrival, so
that a request of a dead process is not held back.

Exit status: 0 if there was nothing of all this, else 1.
"""

import argparse
import json
import os
import random
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

ACTIONS = ("trigger", "acknowledge", "resolve")
PROBLEMS = ("lost", "doubled", "disordered", "repeated")
WORKERS = 4
THREADS = 2
MAX_EVENTS = 300  # So that writing is no faster than sending.
KEY = "not-a-real-routing-key"


# ---------------------------------------------------------------------------
# The API
# ---------------------------------------------------------------------------


class Api(threading.Thread):
    """An API of one thread, that keeps account and has many moods."""

    def __init__(self, seed: int) -> None:
        super().__init__(daemon=True)
        self.random = random.Random(seed)
        self.is_flaky = True
        self.taken: Dict[str, List[str]] = defaultdict(list)
        self.opened: Dict[str, int] = defaultdict(int)
        self.open: Set[str] = set()
        self.moods: Dict[str, int] = defaultdict(int)
        # Events whose senders have read that they are done with, and gone on;
        # those that were sent all the same; and the last one of a connection.
        self.settled: Set[Tuple[str, str]] = set()
        self.repeated: List[Tuple[str, str]] = []
        self._answered: Set[Tuple[str, str]] = set()
        self._done: Dict[Any, Tuple[str, str]] = {}
        self.unread = 0  # Repetitions whose sender may not have read that.
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._buffers: Dict[Any, bytes] = {}
        self._ends = False
        port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def run(self) -> None:
        while not self._ends:
            for key, _ in self._selector.select(0.2):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.fileobj)

    def __enter__(self) -> "Api":
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ends = True
        self.join()
        for sock in [self._listener, *self._buffers]:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setblocking(False)
            self._buffers[sock] = b""
            self._selector.register(sock, selectors.EVENT_READ)
            self._read(sock)

    def _read(self, sock: Any) -> None:
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            return self._drop(sock)
        buffer = self._buffers[sock] + data
        head, end, body = buffer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.I)
        if end and length and len(body) >= int(length.group(1)):
            self._buffers[sock] = b""
            return self._answer(sock, json.loads(body.decode()))
        self._buffers[sock] = buffer

    def _drop(self, sock: Any) -> None:
        self._selector.unregister(sock)
        self._done.pop(sock, None)
        del self._buffers[sock]
        sock.close()

    def _answer(self, sock: Any, event: Dict[str, Any]) -> None:
        self._check_repetition(sock, event)
        mood = "takes"
        if self.is_flaky:
            mood = self.random.choices(
                ["takes", "500", "429", "502", "drops", "ignores", "mute"],
                [64, 8, 6, 6, 6, 6, 4],
            )[0]
        if (event.get("payload") or {}).get("class") == "poison":
            mood = "400"
        self.moods[mood] += 1
        if mood in ("takes", "502", "drops", "mute"):
            self._take(event)
        if mood in ("drops", "ignores"):
            return self._drop(sock)
        if mood == "mute":
            return None
        status = 202 if mood == "takes" else int(mood)
        body = json.dumps({"dedup_key": event["dedup_key"]}).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            sock.sendall(head.encode() + body)
        except OSError:
            return self._drop(sock)
        if status in (202, 400):
            self._done[sock] = (event["dedup_key"], event["event_action"])
            self._answered.add(self._done[sock])

    def _check_repetition(self, sock: Any, event: Dict[str, Any]) -> None:
        if sock in self._done:  # Who asks again has read the answer.
            self.settled.add(self._done.pop(sock))
        name = (event["dedup_key"], event["event_action"])
        if name in self.settled:
            self.repeated.append(name)
        elif name in self._answered:
            self.unread += 1

    def _take(self, event: Dict[str, Any]) -> None:
        key, action = event["dedup_key"], event["event_action"]
        self.taken[key].append(action)
        if action == "trigger" and key not in self.open:
            self.opened[key] += 1
            self.open.add(key)
        if action == "resolve":
            self.open.discard(key)


# ---------------------------------------------------------------------------
# The workers
# ---------------------------------------------------------------------------


def session(url: str, path: str) -> Any:
    """A session with an outbox, in a world where pauses are short."""
    import pdpyras
    import pdpyras_outbox

    pdpyras_outbox.MIN_PAUSE, pdpyras_outbox.MAX_PAUSE = 0.01, 0.05
    outbox = pdpyras_outbox.Outbox(path, max_events=MAX_EVENTS)
    events = pdpyras.EventsAPISession(KEY, outbox=outbox)
    events.url, events.timeout = url, 0.3
    events.sleep_timer, events.sleep_timer_max = 0.01, 0.05
    events.log.setLevel("CRITICAL")
    return events


def work(url: str, path: str, journal: str) -> None:
    """Trigger, acknowledge and resolve alerts, until killed."""
    events = session(url, path)
    threads = [
        threading.Thread(target=raise_alerts, args=(events, journal))
        for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()


def raise_alerts(
    events: Any, journal: str, times: Optional[int] = None
) -> None:
    descriptor = os.open(journal, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    while times is None or times > 0:
        times = None if times is None else times - 1
        key = os.urandom(8).hex()
        kind = "poison" if os.urandom(1) < b"\x06" else "alert"
        for action in ACTIONS:
            properties = {}
            if action == "trigger":
                properties["payload"] = {
                    "summary": "It is down",
                    "source": "kill.py",
                    "severity": "critical",
                    "class": kind,
                }
            while not is_accepted(events, action, key, properties):
                time.sleep(0.01)
            line = f"{kind} {key} {action}\n"
            os.write(descriptor, line.encode())
            if kind == "poison":
                break
    os.close(descriptor)


def is_accepted(events: Any, action: str, key: str, properties: Any) -> bool:
    """Send an event; False: the outbox is full."""
    import pdpyras

    try:
        events.send_event(action, key, **properties)
    except pdpyras.PDClientError as error:
        if "max_events" not in str(error):
            raise
        return False
    return True


def nurse(url: str, path: str, journal: str) -> None:
    """Fork a worker, that need not import anything, for each line read."""
    import pdpyras_outbox  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            work(url, path, journal)
            return
        print(pid, flush=True)
    os.killpg(0, signal.SIGKILL)  # Whoever started it has ended.


class Nursery:
    """The process that forks the workers, none of which outlives it."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, __file__, "--nurse", *arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: Any) -> None:
        kill_group(self._process)

    def birth(self) -> int:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def kill_group(process: Any) -> None:
    """End a process that leads a group, and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


# ---------------------------------------------------------------------------
# The books
# ---------------------------------------------------------------------------


def flush(url: str, path: str) -> Set[str]:
    """Send what waits; return the keys of what was refused."""
    events = session(url, path)
    end = time.monotonic() + 600
    while len(events.outbox):
        events.outbox.flush(events, deadline=30)
        assert time.monotonic() < end, events.outbox.waiting()[:3]
    events.close()
    return {event["dedup_key"] for event in events.outbox.refused()}


def problems(
    api: Api, journal: str, refused: Set[str], kills: int
) -> Dict[str, Any]:
    """What was lost, doubled, repeated, or taken in the wrong order."""
    found: Dict[str, Any] = {name: [] for name in PROBLEMS}
    found["repeated"] += api.repeated
    if api.unread > kills:
        found["repeated"].append((api.unread, "by", kills, "kills"))
    with open(journal, encoding="ascii") as file:
        lines = [line.split() for line in file if line.endswith("\n")]
    for kind, key, action in lines:
        is_taken = action in api.taken.get(key, ())
        if not (key in refused if kind == "poison" else is_taken):
            found["lost"].append((kind, key, action))
    for key, actions in api.taken.items():
        if api.opened[key] != 1:
            found["doubled"].append((key, actions))
        order = sorted(set(actions), key=ACTIONS.index)
        in_order = sorted(actions, key=ACTIONS.index)
        if actions != in_order or order != list(ACTIONS[: len(order)]):
            found["disordered"].append((key, actions))
    found["accepted"] = len(lines)
    return found


def report(title: str, api: Api, found: Dict[str, Any]) -> bool:
    """Print it; return whether all is well."""
    repeated = sum(
        len(actions) - len(set(actions)) for actions in api.taken.values()
    )
    print(
        f"{title}: {found['accepted']} events accepted, "
        f"{len(api.taken)} alerts, {repeated} repetitions, {api.unread} of "
        "them after an answer that was not read; answers: "
        + ", ".join(f"{k} {v}" for k, v in sorted(api.moods.items()))
    )
    print("  " + ", ".join(f"{name}: {len(found[name])}" for name in PROBLEMS))
    for name in PROBLEMS:
        for item in found[name][:10]:
            print(f"  {name}: {item}")
    return not any(found[name] for name in PROBLEMS)


# ---------------------------------------------------------------------------
# The kills
# ---------------------------------------------------------------------------


def kill_at_random(directory: str, kills: int, seed: int) -> bool:
    """Kill workers at random moments."""
    chance = random.Random(seed)
    path = os.path.join(directory, "random.db")
    journal = os.path.join(directory, "random.journal")
    with Api(seed) as api:
        with Nursery(api.url, path, journal) as nursery:
            workers = [nursery.birth() for _ in range(WORKERS)]
            for _ in range(kills):
                pause = chance.choice([0.002, 0.02, 0.1]) * chance.random()
                time.sleep(pause * 2)
                index = chance.randrange(WORKERS)
                os.kill(workers[index], signal.SIGKILL)
                workers[index] = nursery.birth()
        api.is_flaky = False
        refused = flush(api.url, path)
        found = problems(api, journal, refused, kills + WORKERS)
        return report(f"{kills} kills at random", api, found)


def kill_at_calls(directory: str, every: int = 1) -> bool:
    """Kill a process before each system call that matters."""
    journal = os.path.join(directory, "calls.journal")
    on_files = ("-e", "inject=all:signal=KILL:when={}")
    on_network = ("-e", "inject=connect,sendto,recvfrom:signal=KILL:when={}")
    kills, refused = 0, set()
    with Api(0) as api:
        api.is_flaky = False
        for name in ("old", "new", "network"):
            number, was_killed = 0, True
            while was_killed:
                number += every
                file = f"new-{number}.db" if name == "new" else "calls.db"
                path = os.path.join(directory, file)
                if name != "new":
                    flush(api.url, path)
                options = on_network if name == "network" else on_files
                command = [option.format(number) for option in options]
                if name != "network":
                    command += files_of(path)
                was_killed = run_until_killed(command, api.url, path, journal)
                kills += was_killed
                refused |= flush(api.url, path)
        found = problems(api, journal, refused, kills)
        return report(f"{kills} kills before a system call", api, found)


def files_of(path: str) -> List[str]:
    """Options of strace: the calls that concern these files."""
    import pdpyras
    import pdpyras_outbox

    suffixes = ["", "-wal", "-shm", "-lock", "-sender", "-ballast"]
    events = pdpyras.EventsAPISession(KEY)
    suffixes.append("-sender-" + pdpyras_outbox._owner(events)[:8])
    return [part for end in suffixes for part in ("-P", path + end)]


def run_until_killed(options: List[str], *arguments: str) -> bool:
    """Run a worker's one alert under strace; was it killed?"""
    command = ["strace", "-f", "-qq", "-o", os.devnull, *options]
    command += [sys.executable, __file__, "--once", *arguments]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status = process.wait(timeout=120)
    finally:
        kill_group(process)
    was_killed = status in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert was_killed or status == 0, (status, command)
    return was_killed


def once(url: str, path: str, journal: str) -> None:
    """One alert, from beginning to end."""
    raise_alerts(session(url, path), journal, times=1)


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", action="store_true")
    parser.add_argument("--every", type=int, default=1, metavar="N")
    parser.add_argument("--nurse", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.nurse or options.once:
        (nurse if options.nurse else once)(*(options.nurse or options.once))
        return 0
    # So that what it has started is ended by it, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    here = os.getcwd()  # On a disk, where /tmp may be memory.
    directory = tempfile.mkdtemp(prefix="outbox-", dir=here)
    try:
        ok = kill_at_random(directory, options.kills, options.seed)
        if options.calls and not shutil.which("strace"):
            print("kills before a system call: skipped, there is no strace")
        elif options.calls:
            ok = kill_at_calls(directory, options.every) and ok
    finally:
        shutil.rmtree(directory)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
