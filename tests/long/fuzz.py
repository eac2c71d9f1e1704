#!/usr/bin/env python3
"""Answers that no server should give, by the hundred thousand.

    python3 tests/long/fuzz.py                     # 100 000 answers
    python3 tests/long/fuzz.py --answers 1000000 --seed 7
    python3 tests/long/fuzz.py --only 48123        # one case once more

Each case is made of the seed and its number alone, so that it can be
repeated. It is a call of a session and the answers that it gets: plausible
ones, of which bytes are then flipped, cut, doubled or spliced, and headers,
chunks and JSON that merely look right. The outcome must be a value or a
documented exception, after a bounded number of requests, and the session
must be usable afterwards.

Exit status: 0 if all was well, 1 if not; what was not is printed.
"""

import argparse
import collections
import gzip
import json
import multiprocessing
import os
import pickle
import random
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import requests  # noqa: E402

import pdpyras  # noqa: E402
from tests import wire  # noqa: E402

KEY = "not-a-real-key"
DOCUMENTED = (pdpyras.PDClientError, pdpyras.URLError)
MOST_REQUESTS = 600  # of one call, however the answers entice it
MOST_RECORDS = 300
WHOLE = wire.Answer(json={"user": {"id": "P1"}})


# ---------------------------------------------------------------------------
# Making answers
# ---------------------------------------------------------------------------

WORDS = (
    *("user", "users", "records", "error", "errors", "message", "code"),
    *("more", "offset", "limit", "total", "next_cursor", "after", "last"),
    *("dedup_key", "status", "id", "self", "html_url", "data", "name"),
)
HEADERS = (
    *("Content-Type", "Content-Encoding", "Content-Length", "Connection"),
    *("Transfer-Encoding", "Retry-After", "ratelimit-reset", "Location"),
    *("ratelimit-limit", "ratelimit-remaining", "x-request-id", "Date"),
    *("Set-Cookie", "WWW-Authenticate", "Link", "Trailer", "Upgrade"),
)
VALUES = (
    *("", "0", "1", "-1", "5", "1e9", "nan", "inf", "9" * 30, "None", "\xff"),
    *("application/json", "text/html; charset=idna", "text/x; charset=\x00"),
    *("gzip", "deflate", "br", "identity", "gzip, gzip", "chunked", "close"),
    *("keep-alive", "/users/P2", "/", "//", "http://[::1", "?", "foo:bar"),
    *("a=b; Path=/; Max-Age=-1", "a=b; expires=no", "=", ";", "a=\x01"),
    *("Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 1999 23:59:59 -0000"),
)
STATUSES = (
    *(200, 200, 200, 200, 201, 202, 204, 206, 301, 303, 304, 307, 400),
    *(401, 402, 403, 404, 408, 409, 418, 429, 500, 502, 503, 599, 100, 999),
)


def some_json(chance: random.Random, depth: int = 0) -> Any:
    """A value, rather like those of the API."""
    kind = chance.randrange(10 if depth < 4 else 6)
    if kind < 2:
        return chance.choice((None, True, False, 0, 1, -1, 10**30, 0.5, 1e308))
    if kind < 4:
        return chance.choice(WORDS)
    if kind < 6:
        return chance.choice(("", "x" * 2000, "\ud800", "\u2028", "\x00", "1"))
    if kind < 8:
        size = chance.randrange(4)
        return [some_json(chance, depth + 1) for _ in range(size)]
    names = chance.sample(WORDS, chance.randrange(6))
    return {name: some_json(chance, depth + 1) for name in names}


def some_page(chance: random.Random) -> Dict[str, Any]:
    """What an iteration may well go on from."""
    page: Dict[str, Any] = {
        name: [some_json(chance, 3) for _ in range(chance.randrange(4))]
        for name in ("users", "records", "data")
    }
    page["more"] = chance.choice((True, False, True, None, "yes", []))
    for name in ("next_cursor", "after", "last"):
        page[name] = chance.choice((None, "", "a", "b", 5, [], {"a": 1}))
    page["total"] = chance.choice((None, 0, 7, -1, 10**9, "7", 2.5, True))
    if chance.random() < 0.3:
        page[chance.choice(list(page))] = some_json(chance)
    return page


def some_body(chance: random.Random) -> bytes:
    kind = chance.randrange(8)
    if kind < 3:
        value: Any = some_page(chance)
    elif kind < 4:
        value = {"error": some_json(chance)}
    elif kind < 6:
        value = some_json(chance)
    else:
        return bytes(bytearray(chance.choices(range(256), k=kind * 9)))
    encoding = chance.choice(("ascii", "ascii", "utf-16", "utf-32"))
    return json.dumps(value).encode(encoding)


def some_chunks(chance: random.Random, body: bytes) -> bytes:
    """The chunked coding, with sizes and ends as they should be, or not."""
    coded = wire.chunked(body, chance.randrange(1, 6))
    if chance.random() < 0.4:
        ends = (b"", b"0\r\n", b"0\r\nTrailer: x\r\n\r\n", b"-1\r\n\r\n", b"g")
        coded = coded[: -len(b"0\r\n\r\n")] + chance.choice(ends)
    return coded


def some_answer(chance: random.Random) -> bytes:
    """An answer, byte by byte as it is sent."""
    status = chance.choice(STATUSES)
    version = chance.choice(("HTTP/1.1",) * 9 + ("HTTP/1.0", "HTTP/2", "X"))
    body = some_body(chance)
    lines = [f"{version} {status} {chance.choice(('OK', '', 'x' * 99))}"]
    for _ in range(chance.randrange(4)):
        lines.append(f"{chance.choice(HEADERS)}: {chance.choice(VALUES)}")
    if chance.random() < 0.2:
        body = gzip.compress(body)
        lines.append("Content-Encoding: gzip")
    if chance.random() < 0.2:
        body = some_chunks(chance, body)
        lines.append("Transfer-Encoding: chunked")
    elif chance.random() < 0.8:
        error = chance.choice((0, 0, 0, 0, 1, -1, 50))
        lines.append(f"Content-Length: {max(0, len(body) + error)}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    whole = head + body
    for _ in range(chance.choice((0, 0, 1, 1, 2, 4))):
        whole = damaged(chance, whole)
    return whole


def damaged(chance: random.Random, data: bytes) -> bytes:
    """The bytes with one thing wrong."""
    if not data:
        return data
    at = chance.randrange(len(data))
    to = min(len(data), at + chance.choice((1, 1, 2, 8, 64)))
    kind = chance.randrange(5)
    if kind == 0:
        flipped = bytes([data[at] ^ (1 << chance.randrange(8))])
        return data[:at] + flipped + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + data[to:]
    if kind == 3:
        return data[:to] + data[at:to] * chance.choice((1, 3)) + data[to:]
    foreign = chance.choice((b"\r\n", b"\n", b"\x00", b"\xff\xfe", b"{", b'"'))
    return data[:at] + foreign + data[at:]


# ---------------------------------------------------------------------------
# One case
# ---------------------------------------------------------------------------


class Answers:
    """Gives the answers of a case, and counts them; then whole ones."""

    def __init__(self) -> None:
        self.chance = random.Random(0)
        self.asked = self.given = self.most = 0

    def begin(self, chance: random.Random) -> None:
        self.chance = chance
        self.asked, self.most = 0, chance.randrange(1, 40)

    def end(self) -> None:
        self.most = 0

    def __call__(self, request: wire.Request) -> wire.Answer:
        self.asked += 1
        if self.most == 0:
            return WHOLE
        if self.asked > self.most:
            return wire.Answer(404, json={})
        self.given += 1
        return wire.Answer(raw=some_answer(self.chance))


class Nowhere(requests.adapters.HTTPAdapter):
    """Refuses to go wherever a random redirect may lead."""

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        raise requests.exceptions.ConnectionError(f"not to {request.url}")


class Bench(NamedTuple):
    """What the cases of one process share."""

    server: wire.Server
    answers: Answers
    session: pdpyras.APISession
    events: pdpyras.EventsAPISession


def first(records: Any) -> List[Any]:
    return [record for record, _ in zip(records, range(MOST_RECORDS))]


CALLS: Dict[str, Callable[[Bench], Any]] = {
    "get": lambda b: b.session.get("users/P1"),
    "rget": lambda b: b.session.rget("users/P1"),
    "rget unknown": lambda b: b.session.rget("brand/new"),
    "jpost": lambda b: b.session.jpost("users", json={"name": "J"}),
    "rput": lambda b: b.session.rput("users/P1", json={"name": "J"}),
    "rpatch": lambda b: b.session.rpatch("users/P1", json={"name": "J"}),
    "rdelete": lambda b: b.session.rdelete("users/P1"),
    "iter_all": lambda b: first(b.session.iter_all("users", page_size=2)),
    "total": lambda b: first(b.session.iter_all("users", total=True)),
    "ahead": lambda b: first(b.session.iter_all("users", prefetch=3)),
    "cursor": lambda b: first(b.session.iter_all("audit/records")),
    "cursor ahead": lambda b: first(
        b.session.iter_all("audit/records", prefetch=1)
    ),
    "after": lambda b: first(b.session.iter_all("alert_grouping_settings")),
    "posted": lambda b: first(
        b.session.iter_all("analytics/raw/incidents", json={})
    ),
    "find": lambda b: b.session.find("users", "id"),
    "persist": lambda b: b.session.persist("users", "name", {"name": "J"}),
    "subdomain": lambda b: b.session.subdomain,
    "access": lambda b: b.session.api_key_access,
    "trigger": lambda b: b.events.trigger("Disk is full", "db1"),
    "resolve": lambda b: b.events.resolve("key"),
}


def check(error: Exception) -> None:
    """All of a documented exception can be used."""
    if KEY in str(error) or KEY in repr(error):
        raise AssertionError("the key is shown")
    if isinstance(error, pdpyras.PDHTTPError) and not error.response:
        raise AssertionError("an HTTP error without a response")
    again = pickle.loads(pickle.dumps(error))
    if str(again) != str(error):
        raise AssertionError("a pickle says something else")


def run(bench: Bench, seed: int, number: int) -> Optional[str]:
    """Run one case; return what was wrong, or None."""
    chance = random.Random(f"{seed}/{number}")
    name = chance.choice(sorted(CALLS))
    bench.answers.begin(chance)
    bench.session._subdomain = bench.session._api_key_access = None
    complaint = None
    try:
        CALLS[name](bench)
    except DOCUMENTED as error:
        try:
            check(error)
        except Exception:
            complaint = traceback.format_exc()
    except Exception:
        complaint = traceback.format_exc()
    if bench.answers.asked > MOST_REQUESTS:
        complaint = f"{bench.answers.asked} requests"
    bench.answers.end()
    bench.session.cookies.clear()
    bench.events.cookies.clear()
    bench.server.requests.clear()
    return complaint and f"case {number} ({name}): {complaint}"


def is_usable(bench: Bench) -> bool:
    return bool(bench.session.rget("users/P1") == {"id": "P1"})


def run_some(job: Any) -> Any:
    """Run cases until so many answers were given; in a process of its own.

    :returns: the cases, the answers, and what was wrong
    """
    seed, start, stride, wanted, only = job
    setattr(pdpyras.time, "sleep", lambda seconds: None)  # noqa: B010
    warnings.simplefilter("ignore")  # cookiejar's, about odd cookies
    cases, wrong = 0, []
    answers = Answers()
    with wire.Server() as server:
        server.handler = answers
        bench = Bench(
            server,
            answers,
            pdpyras.APISession(KEY),
            pdpyras.EventsAPISession(KEY),
        )
        for session in (bench.session, bench.events):
            session.url = server.url
            session.trust_env = False
            session.timeout = 5
            session.max_network_attempts = 1
            session.log.disabled = True
            session.mount(f"{server.url}/", session.get_adapter("http://"))
            session.mount("http://", Nowhere())
            session.mount("https://", Nowhere())
        number = start if only is None else only
        while answers.given < wanted:
            complaint = run(bench, seed, number)
            if complaint is None and cases % 50 == 0 and not is_usable(bench):
                complaint = f"case {number}: not usable afterwards"
            if complaint:
                wrong.append(complaint)
            cases += 1
            if only is not None:
                break
            number += stride
        bench.session.close()
        bench.events.close()
    return cases, answers.given, wrong


def main() -> int:
    """Fuzz; return the exit status."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--answers", type=int, default=100000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--only", type=int, metavar="CASE")
    options = parser.parse_args()
    began = time.monotonic()
    workers = 1 if options.only is not None else max(2, os.cpu_count() or 2)
    share = -(-options.answers // workers)
    jobs = [
        (options.seed, start, workers, share, options.only)
        for start in range(workers)
    ]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        results = pool.map(run_some, jobs)
    cases = sum(result[0] for result in results)
    answers = sum(result[1] for result in results)
    wrong = [complaint for result in results for complaint in result[2]]
    print(*wrong[:20], sep="\n")
    kinds = collections.Counter(
        complaint.strip().splitlines()[-1][:100] for complaint in wrong
    )
    for kind, count in kinds.most_common():
        print(f"{count} times: {kind}")
    print(
        f"{cases} calls, {answers} answers, seed {options.seed}, "
        f"{time.monotonic() - began:.0f} s: {len(wrong)} wrong."
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
