#!/usr/bin/env python3
"""What a session makes of every way in which a connection can fail.

    python3 tests/long/faults.py          # run the matrix, print a table
    python3 tests/long/faults.py --quick  # the same, with fewer attempts
    python3 tests/long/faults.py --limit 60  # no longer than that (seconds)

The matrix is the product of ``STAGES``, ``FAULTS`` and ``METHODS``, each
once with a fault that strikes a single time, and once with a fault that
lasts. ``impossible`` says of which pairs there are none, and why;
``promise`` says what must come of the others. Each cell has a server and a
session of its own, on loopback.

Exit status: 0 if all promises were kept, 1 if one was not; each of those is
printed in full. It is 1 as well if the matrix has not ended by itself after
``--limit`` seconds: then the stacks of all threads are printed.
"""

import argparse
import concurrent.futures
import gzip
import math
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    List,
    NamedTuple,
    Optional,
    Tuple,
)

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import pdpyras  # noqa: E402
from tests import wire  # noqa: E402

CHUNKS = 3
STAGES = (
    "connect",
    "tls",
    "request",  # its head was read, its body not
    "sent",  # the request was read, nothing is answered
    "status line",
    "headers",
    "body",  # under a Content-Length
    *(f"chunk {n}" for n in range(1, CHUNKS + 1)),
    "idle",  # between two requests on one connection
)
FAULTS = (
    "refuse",
    "reset",
    "close",
    "stall",
    "garbage",
    "drip",
    "gzip-truncated",
    "wrong-length",
)
METHODS = ("GET", "POST", "PUT", "DELETE", "iteration")

USER = {"id": "P1", "type": "user", "name": "n" * 200}
PAGE_SIZE, RECORDS = 2, 6
LIMIT = 600  # seconds for the whole matrix
PATIENCE = 20  # seconds, where no stall is expected
SLACK = 10  # seconds that a busy machine may add to what a cell may take


class Cell(NamedTuple):
    """One experiment."""

    stage: str
    fault: str
    method: str
    lasting: bool


class Settings(NamedTuple):
    """How patient the sessions are."""

    max_network_attempts: int = 3
    timeout: float = 0.5  # seconds, where there is a stall
    deadline: float = 1.0  # seconds, where an answer drips


class Outcome(NamedTuple):
    """What came of it.

    :ivar result: ``answer`` if it was the right one, else the exception's
        name, or what was wrong
    :ivar attempts: requests that were sent, or tried to be
    :ivar seconds: that it took
    :ivar usable: whether the session gave right answers afterwards
    """

    result: str
    attempts: int
    seconds: float
    usable: bool


QUICK = Settings(max_network_attempts=1, timeout=0.3)


# ---------------------------------------------------------------------------
# What is promised
# ---------------------------------------------------------------------------


def impossible(stage: str, fault: str) -> str:
    """Why a fault cannot be at a stage; empty if it can."""
    if fault == "refuse" and stage not in ("connect", "idle"):
        return "only what is not connected can be refused"
    has_body = stage == "body" or stage.startswith("chunk")
    if fault in ("gzip-truncated", "wrong-length") and not has_body:
        return "it is a fault of bodies"
    is_answer = has_body or stage in ("sent", "status line", "headers")
    if fault == "drip" and not is_answer:
        return "only an answer can drip"
    return ""


def cells() -> List[Cell]:
    """The whole matrix."""
    return [
        Cell(stage, fault, method, lasting)
        for stage in STAGES
        for fault in FAULTS
        if not impossible(stage, fault)
        for method in METHODS
        for lasting in (False, True)
    ]


def looks_whole(cell: Cell) -> bool:
    """Does what arrives look like a whole answer, with a senseless body?

    It is then for the status to say whether the request succeeded, and to
    send it again would be wrong.
    """
    return (cell.stage, cell.fault) in (
        ("headers", "garbage"),
        ("body", "garbage"),
        ("body", "wrong-length"),
    )


def promise(
    cell: Cell, settings: Settings
) -> Tuple[FrozenSet[str], range, float]:
    """What must come of a cell.

    :returns: results that are right; how many attempts are; and seconds
        within which it must be over
    """
    needed = _needed(cell)
    most = 1 + settings.max_network_attempts
    bound = float(SLACK)
    if cell.fault == "stall":
        # Connecting, and then each read, may take as long as the timeout.
        bound += (most + needed) * 2 * settings.timeout
    if cell.fault == "drip":
        # No time limit but the deadline ends it, and nothing is left then.
        bound += settings.deadline
        return frozenset(["PDDeadlineError"]), range(1, 2), bound
    if (cell.stage, cell.fault) == ("tls", "garbage"):
        # It cannot be told from a port that does not speak TLS at all.
        return frozenset(["PDClientError"]), range(1, 2), bound
    if cell.stage == "idle":
        return frozenset(["answer"]), range(needed, 2 * needed + 1), bound
    if looks_whole(cell):
        results = frozenset(["answer", "PDServerError"])
        return results, range(1, most + needed), bound
    if cell.lasting:
        return frozenset(["PDClientError"]), range(most, most + 1), bound
    return frozenset(["answer"]), range(needed + 1, needed + 2), bound


def broken_promises(
    cell: Cell, outcome: Outcome, settings: Settings
) -> List[str]:
    """What was wrong, in words; nothing if all was right."""
    results, attempts, bound = promise(cell, settings)
    wrong = []
    if outcome.result not in results:
        wrong.append(f"{outcome.result}, not {' or '.join(sorted(results))}")
    if outcome.attempts not in attempts:
        wrong.append(
            f"{outcome.attempts} attempts, not {attempts[0]} to {attempts[-1]}"
        )
    if outcome.seconds > bound:
        wrong.append(f"{outcome.seconds:.1f} s, not within {bound:.1f} s")
    if not outcome.usable:
        wrong.append("the session was no longer usable")
    return wrong


# ---------------------------------------------------------------------------
# One cell
# ---------------------------------------------------------------------------


class CountingSession(pdpyras.APISession):
    """A session that counts what it tries to send."""

    attempts = 0
    before: Optional[Callable[[int], None]] = None

    def send(self, request: Any, **kwargs: Any) -> Any:
        self.attempts += 1
        if self.before is not None:
            self.before(self.attempts)
        return super().send(request, **kwargs)


def _timeout(cell: Cell, settings: Settings) -> float:
    return settings.timeout if cell.fault == "stall" else PATIENCE


def right_answer(request: wire.Request, chunks: int = 0) -> wire.Answer:
    """What the API would answer: a user, or a page of users."""
    query = dict(request.query)
    if "offset" not in query:
        return wire.Answer(json={"user": USER}, chunks=chunks)
    return _page(int(query["offset"]), chunks)


def _page(offset: int, chunks: int) -> wire.Answer:
    numbers = range(offset, min(offset + PAGE_SIZE, RECORDS))
    users = [{"id": n, "name": "n" * 80} for n in numbers]
    more = offset + PAGE_SIZE < RECORDS
    return wire.Answer(json={"users": users, "more": more}, chunks=chunks)


def plan(server: wire.Server, cell: Cell) -> None:
    """Let the fault strike the next request."""
    times = math.inf if cell.lasting else 1
    chunks = CHUNKS if cell.stage.startswith("chunk") else 0
    server.handler = lambda request: right_answer(request, chunks)
    if cell.fault == "refuse":
        server.refuse()
    elif chunks:
        _plan_in_chunk(server, cell, times)
    else:
        stage, at = {
            "sent": ("status", 0),
            "status line": ("status", 8),
        }.get(cell.stage, (cell.stage, None))
        server.fault(cell.fault, stage, times=times, at=at)


def _plan_in_chunk(server: wire.Server, cell: Cell, times: float) -> None:
    number = int(cell.stage.split()[1])
    answer = (
        _page(PAGE_SIZE, CHUNKS)
        if cell.method == "iteration"
        else wire.Answer(json={"user": USER}, chunks=CHUNKS)
    )
    status, headers, body = answer.parts("GET")
    start, end, size = _chunk(body, number)
    if cell.fault == "gzip-truncated":
        packed = gzip.compress(answer.content())
        server.reply(
            body=packed[: len(packed) * number // (CHUNKS + 1)],
            headers={
                "Content-Encoding": "gzip",
                "Content-Type": "application/json",
            },
            chunks=CHUNKS,
            times=times,
        )
    elif cell.fault == "wrong-length":
        wrong = b"%x" % (size + 7) + body[body.index(b"\r\n", start) :]
        server.reply(raw=status + headers + body[:start] + wrong, times=times)
    else:
        server.fault(
            cell.fault,
            "body",
            times=times,
            at=(start + end) // 2,
            answer=answer,
        )


def _chunk(body: bytes, number: int) -> Tuple[int, int, int]:
    """Where the n-th chunk begins and ends, and how much it holds."""
    start = end = size = 0
    for _ in range(number):
        start = end
        line_end = body.index(b"\r\n", start)
        size = int(body[start:line_end], 16)
        end = line_end + 2 + size + 2
    return start, end, size


def perform(session: CountingSession, method: str) -> str:
    """Make the request; tell whether the answer is right."""
    if method == "GET":
        found = session.rget("users/P1")
    elif method == "POST":
        found = session.rpost("users", json=USER)
    elif method == "PUT":
        found = session.rput("users/P1", json=USER)
    else:
        return "answer" if session.rdelete("users/P1").ok else "no success"
    return "answer" if found == USER else f"the wrong answer {found!r}"


def iterate(session: CountingSession, begun: Callable[[], None]) -> str:
    """Iterate; call ``begun`` after the first record."""
    records = session.iter_all("users", page_size=PAGE_SIZE)
    numbers = [next(records)["id"]]
    begun()
    numbers += [record["id"] for record in records]
    if numbers == list(range(RECORDS)):
        return "answer"
    return f"the wrong records {numbers}"


def run(
    cell: Cell, settings: Settings, trust: Optional[wire.Certificates]
) -> Outcome:
    """Carry out one cell.

    :param trust: certificates, for the stage ``tls``
    """
    tls = trust if cell.stage == "tls" else None
    with wire.Server(tls=tls) as server, CountingSession(
        "fake-key"
    ) as session:
        session.url = server.url
        session.log.disabled = True
        session.max_network_attempts = settings.max_network_attempts
        session.sleep_timer = 0
        session.trust_env = False
        session.timeout = PATIENCE
        if tls is not None:
            session.verify = tls.ca_file
        if cell.fault == "drip":
            session.deadline = settings.deadline
        result, seconds = _strike(cell, settings, server, session)
        attempts = session.attempts
        server.script.clear()
        server.listen()
        return Outcome(result, attempts, seconds, _is_usable(session))


def _strike(
    cell: Cell,
    settings: Settings,
    server: wire.Server,
    session: CountingSession,
) -> Tuple[str, float]:
    """Let the fault strike while a request is made."""
    started = time.monotonic()

    def begin() -> None:
        nonlocal started
        if cell.stage != "idle" or cell.fault == "refuse":
            plan(server, cell)
        if cell.stage in ("connect", "tls"):
            session.close()  # so that the next request has to connect
        if cell.fault == "refuse" and not cell.lasting or cell.stage == "idle":
            session.before = lambda n: n == 2 and server.listen()  # type: ignore
        session.timeout = _timeout(cell, settings)
        session.attempts = 0
        started = time.monotonic()

    server.handler = right_answer
    if cell.stage == "idle" and cell.fault != "refuse":
        plan(server, cell)
    try:
        if cell.method == "iteration":
            result = iterate(session, begin)
        else:
            session.rget("users/P1")
            begin()
            result = perform(session, cell.method)
    except Exception as error:
        result = type(error).__name__
    return result, time.monotonic() - started


def _is_usable(session: CountingSession) -> bool:
    session.deadline = None
    try:
        return all(
            session.rget("users/P1") == USER
            and session.rput("users/P1", json=USER) == USER
            for _ in range(2)
        )
    except pdpyras.PDClientError:
        return False


# ---------------------------------------------------------------------------
# The matrix
# ---------------------------------------------------------------------------


def run_all(settings: Settings, workers: int = 24) -> "Dict[Cell, Outcome]":
    """Run the whole matrix, several cells at a time."""
    # Those that wait begin, and the others fill the gaps.
    todo = sorted(cells(), key=lambda cell: cell.fault != "stall")
    with wire.certificates() as trust:
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            outcomes = pool.map(lambda cell: run(cell, settings, trust), todo)
            return dict(zip(todo, outcomes))


def table(outcomes: "Dict[Cell, Outcome]", lasting: bool) -> str:
    """Stage by fault, with result and number of retries."""
    rows = [["", *FAULTS]]
    for stage in STAGES:
        row = [stage]
        for fault in FAULTS:
            found = {
                _words(cell, outcomes[cell])
                for cell in outcomes
                if cell[:2] == (stage, fault) and cell.lasting == lasting
            }
            row.append(" / ".join(sorted(found)) or "-")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def _words(cell: Cell, outcome: Outcome) -> str:
    short = {
        "PDClientError": "error",
        "PDDeadlineError": "deadline",
        "PDServerError": "server error",
    }
    result = short.get(outcome.result, outcome.result)
    done = _needed(cell) if outcome.result == "answer" else 1
    return f"{result} {outcome.attempts - done}"


def _needed(cell: Cell) -> int:
    """Requests that are needed while the fault may strike."""
    return RECORDS // PAGE_SIZE - 1 if cell.method == "iteration" else 1


def end_with_stacks() -> None:
    """Print where each thread is, and end at once."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        print(f"\nThread {names.get(ident)}:", file=sys.stderr)
        traceback.print_stack(frame)
    print("Timeout: the time limit has passed.", file=sys.stderr, flush=True)
    os._exit(1)


def main() -> int:
    """Print the matrix; return the exit status."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--limit", type=float, default=LIMIT)
    options = parser.parse_args()
    settings = QUICK if options.quick else Settings()
    limit = threading.Timer(options.limit, end_with_stacks)
    limit.daemon = True
    limit.start()
    started = time.monotonic()
    outcomes = run_all(settings)
    limit.cancel()
    seconds = time.monotonic() - started
    print(
        "Stage by fault: what came of it, and after how many retries, with "
        f"max_network_attempts={settings.max_network_attempts}.\n"
        f"Several entries: it differs between {', '.join(METHODS)}."
    )
    for lasting in (False, True):
        print(f"\nThe fault {'lasts' if lasting else 'strikes once'}:\n")
        print(table(outcomes, lasting))
    wrong = [
        f"{cell}: {problem}"
        for cell, outcome in outcomes.items()
        for problem in broken_promises(cell, outcome, settings)
    ]
    slowest = max(outcome.seconds for outcome in outcomes.values())
    print(
        f"\n{len(outcomes)} cells in {seconds:.0f} s, the slowest in "
        f"{slowest:.1f} s, {threading.active_count()} thread left; "
        f"{len(wrong)} promises broken."
    )
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
