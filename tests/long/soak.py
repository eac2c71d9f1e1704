#!/usr/bin/env python3
"""Does memory stay flat? 200 000 requests, and 1 000 000 iterated records.

    python3 tests/long/soak.py                       # both, in some minutes
    python3 tests/long/soak.py --requests 20000 --records 100000
    python3 tests/long/soak.py --serve               # only its server

The server is a process of its own, on loopback, so that what is measured is
the client's memory alone. ``--serve`` prints its URL and serves until its
standard input ends.

Exit status: 0 if memory stayed flat, 1 if it grew by more than ``ALLOWED``.
"""

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List
from urllib.parse import parse_qs

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import pdpyras  # noqa: E402

ALLOWED = 4 * 1024 * 1024  # bytes; one page and the allocator's caprices
WARM_UP = 0.1  # share of the work after which growth is measured
SAMPLES = 20
PAGE_SIZE = 100  # records


# ---------------------------------------------------------------------------
# The server
# ---------------------------------------------------------------------------


def answer(target: str, last: int) -> Any:
    """One user, or a page of records that are paginated by cursor."""
    path, _, query = target.partition("?")
    if not path.endswith("/records"):
        return {"user": {"id": path.rpartition("/")[2]}}
    cursor = int(parse_qs(query).get("cursor", ["0"])[0])
    records = [{"id": n} for n in range(cursor, cursor + PAGE_SIZE)]
    following = cursor + PAGE_SIZE
    return {
        "records": records,
        "next_cursor": str(following) if following < last else None,
    }


def serve_connection(connection: socket.socket, last: int) -> None:
    """Answer the requests of one connection; none of them has a body."""
    buffer = b""
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            while b"\r\n\r\n" not in buffer:
                data = connection.recv(65536)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode("ascii")
            body = json.dumps(answer(target, last)).encode("ascii")
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )


def serve(last: int) -> None:
    """Serve until standard input ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        threading.Thread(
            target=_accept, args=(listener, last), daemon=True
        ).start()
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        sys.stdin.read()


def _accept(listener: socket.socket, last: int) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(
            target=serve_connection, args=(connection, last), daemon=True
        ).start()


# ---------------------------------------------------------------------------
# The client
# ---------------------------------------------------------------------------


def memory() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    try:
        with open("/proc/self/statm") as stream:
            pages = int(stream.read().split()[1])
        return pages * int(os.sysconf("SC_PAGE_SIZE"))
    except OSError:
        import resource

        # The most that it has ever been: good enough to see it grow.
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def requests_made(session: pdpyras.APISession, count: int) -> Iterator[int]:
    """Make requests of many paths; yield their number after each."""
    for number in range(count):
        found = session.rget(f"users/P{number}", params={"include": ["a"]})
        if found != {"id": f"P{number}"}:
            raise AssertionError(f"the wrong answer: {found!r}")
        yield number + 1


def records_read(session: pdpyras.APISession, count: int) -> Iterator[int]:
    """Iterate; yield the number of records after each."""
    for number, record in enumerate(session.iter_all("audit/records")):
        if record != {"id": number}:
            raise AssertionError(f"the wrong record: {record!r}")
        yield number + 1
        if number + 1 == count:
            return


def growth(
    name: str,
    session: pdpyras.APISession,
    count: int,
    work: Callable[[pdpyras.APISession, int], Iterator[int]],
) -> int:
    """Work; return by how many bytes memory grew after the warm-up."""
    began = time.monotonic()
    warm, step = int(count * WARM_UP), max(1, count // SAMPLES)
    samples: List[int] = []
    done = 0
    for done in work(session, count):
        if done >= warm and done % step == 0:
            samples.append(memory())
    if done != count:
        raise AssertionError(f"{done} {name}, not {count}")
    seconds = time.monotonic() - began
    grown = samples[-1] - samples[0]
    print(
        f"{count} {name} in {seconds:.0f} s: from {samples[0] >> 10} KiB to "
        f"{samples[-1] >> 10} KiB, {grown / 1024:+.0f} KiB",
        flush=True,
    )
    return grown


def main() -> int:
    """Soak; return the exit status."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--requests", type=int, default=200000, metavar="N")
    parser.add_argument("--records", type=int, default=1000000, metavar="N")
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    if options.serve:
        serve(options.records)
        return 0
    command = [sys.executable, __file__, "--serve"]
    command += ["--records", str(options.records)]
    server = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    assert server.stdin is not None and server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        with pdpyras.APISession("not-a-real-key") as session:
            session.url = url
            session.trust_env = False
            grown = [
                growth("requests", session, options.requests, requests_made),
                growth("records", session, options.records, records_read),
            ]
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()
    is_flat = max(grown) <= ALLOWED
    print("Memory stayed flat." if is_flat else "Memory grew.")
    return 0 if is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
