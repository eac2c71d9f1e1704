"""Reading ahead: whoever iterates cannot tell, except by the clock.

The heart of it is a differential test. It makes collections at random, with
short pages, caps, rate limits, broken answers and totals that lie, iterates
over each with ``prefetch`` 0, 1 and 8, and compares all that a caller can
see: the records, the calls of ``item_hook``, the warnings, the error, and the
order in which these come. Some hundred collections are tried; another number
can be given in the environment as PREFETCH_CASES (`make differential`: 2000).
"""

import gc
import itertools
import logging
import os
import pickle
import random
import re
import threading
import time
import warnings
from collections import Counter

import pytest

import pdpyras
from tests import wire
from tests.support import FEW_CASES, KEY, told

BLOCKS = 10
CASES = int(os.environ.get("PREFETCH_CASES") or (60 if FEW_CASES else 200))
PATIENCE = 20  # seconds, until a test gives up waiting


# -- Collections of all kinds -------------------------------------------------


class Collection:
    """A handler that answers for a collection, in a way settled by a seed.

    Records are numbered from 0. What is odd about the collection sits at
    certain records: a page that would hold such a record ends before it, and
    one that begins there shows the oddity. So it does not depend on how the
    collection is cut into pages where an iteration meets it. Only rate
    limits and lost connections strike any page that holds the record: they
    are to leave no trace.
    """

    def __init__(self, seed):
        dice = random.Random(seed)
        self.size = dice.choice([0, 1, dice.randint(2, 30)] + [None] * 5)
        if self.size is None:
            self.size = dice.randint(2, 400)
        self.page_size = dice.choice([1, 7, dice.randint(2, 60), 100])
        if self.size / self.page_size > 60:
            self.page_size = max(2, self.size // 30)
        self.cap = dice.choice([100] * 3 + [dice.randint(1, 100)])
        self.cap = max(self.cap, self.page_size // 4)
        self.growth = dice.choice([0] * 6 + [dice.randint(1, 50)])
        self.offset = dice.choice([0] * 5 + [dice.randint(0, self.size + 2)])
        self.limit = dice.choice([10000.0] * 5 + [float(self.size // 2 + 1)])
        self.asks_total = dice.random() < 0.25
        self.is_complete = dice.random() < 0.7
        self.is_slow = dice.random() < 0.1
        self.totals = dice.choice(
            ["honest"] * 6
            + ["absent", "null", "text", "true", "negative"]
            + ["small", "great", "random"]
        )
        self.lie = dice.randint(0, self.size * 2)
        self.short = self._places(dice, 0.3, 12, lambda: "short")
        self.ends = self._places(dice, 0.35, 1, lambda: dice.choice(ENDS))
        self.limits = self._places(dice, 0.2, 3, lambda: dice.randint(1, 2))
        self.losses = self._places(dice, 0.15, 1, lambda: dice.randint(1, 3))
        self.seed = seed
        self.restart()

    def _places(self, dice, share, most, what):
        if dice.random() > share or not self.size:
            return {}
        return {
            dice.randrange(self.size): what()
            for _ in range(dice.randint(1, most))
        }

    def restart(self):
        """Be as if nothing had been asked for yet."""
        self.lock = threading.Lock()
        self.dice = random.Random(self.seed)
        self.has_grown = False
        self.trouble = {"limits": dict(self.limits)}
        self.trouble["losses"] = dict(self.losses)

    @property
    def is_regular(self):
        """Are the pages of all iterations cut at the same records?"""
        is_cut = self.short or self.ends or self.cap < self.page_size
        return self.totals == "honest" and not is_cut

    def __repr__(self):
        return "\n".join(f"{k}: {v!r}" for k, v in sorted(vars(self).items()))

    def __call__(self, request):
        with self.lock:
            query = dict(request.query)
            offset, limit = int(query["offset"]), int(query["limit"])
            delay = self.dice.random() / 250 if self.is_slow else 0
            answer = self._answer(offset, limit, query)
        if delay:
            threading.Event().wait(delay)
        return answer

    def _answer(self, offset, limit, query):
        size = self.size + (self.growth if self.has_grown else 0)
        end = min(offset + min(limit, self.cap), size)
        for place in list(self.short) + list(self.ends):
            if offset < place < end:
                end = place
        trouble = self._trouble(offset, max(end, offset + 1))
        if trouble is not None:
            return trouble
        odd = self.ends.get(offset)
        if odd is not None and odd not in ("last", "unpaginated"):
            return ODDITIES[odd]
        body = {
            "users": [{"id": n} for n in range(offset, end)],
            "limit": limit,
            "offset": offset,
            "more": end < self.size + self.growth,
        }
        self._steer(body, end, size, "total" in query)
        self.has_grown = True
        return wire.Answer(json=body)

    def _trouble(self, offset, end):
        for place, times in self.trouble["limits"].items():
            if offset <= place < end and times:
                self.trouble["limits"][place] -= 1
                return wire.Answer(429, headers={"ratelimit-reset": "1"})
        for place, times in self.trouble["losses"].items():
            if offset <= place < end and times:
                self.trouble["losses"][place] -= 1
                return wire.Answer(raw=b"")
        return None

    def _steer(self, body, end, size, is_asked):
        ending = self.ends.get(end)
        if ending == "last":
            body["more"] = False
        if ending == "unpaginated":
            del body["more"]
        total = {
            "honest": size,
            "null": None,
            "text": str(size),
            "true": True,
            "negative": -size,
            "small": size // 2,
            "great": size * 2 + 7,
            "random": self.lie,
        }.get(self.totals)
        if self.totals != "absent":
            body["total"] = total if is_asked else None


ODDITIES = {
    "empty": wire.Answer(json={"users": [], "more": True}),
    "error": wire.Answer(500, json={"error": {"message": "no", "code": 2000}}),
    "denied": wire.Answer(403, body=b"no"),
    "unauthorized": wire.Answer(401, json={}),
    "broken": wire.Answer(body=b'{"users": [{"id"'),
    "nothing": wire.Answer(body=b""),
    "no array": wire.Answer(json={"users": {"id": 1}, "more": True}),
    "no wrapper": wire.Answer(json={"teams": [], "more": True}),
    "lost": wire.Answer(raw=b""),
    "garbage": wire.Answer(raw=wire.GARBAGE),
}
ENDS = ["last", "unpaginated"] + sorted(ODDITIES)


class Story(logging.Handler):
    """All that a caller sees of an iteration, in its order."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.events = []
        self.retries = []
        self.thread = threading.current_thread()

    def emit(self, record):
        text = without_page(record.getMessage())
        # About a request, from whichever thread sends it.
        assert "Retry" in text or record.levelno > logging.WARNING, text
        self.retries.append(text.partition(" after ")[0])

    def warn(self, message, category, filename, *rest):
        """Stand in for warnings.showwarning."""
        assert threading.current_thread() is self.thread
        assert filename == __file__, message
        text = without_page(str(message))
        self.events.append(("warning", category.__name__, text))

    def hook(self, record, number, total):
        assert threading.current_thread() is self.thread
        self.events.append(("hook", record["id"], number, total))

    def of(self, records):
        """Listen to the end, even if it is a bad one."""
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = self.warn
            try:
                for record in records:
                    self.events.append(("record", record["id"]))
            except (pdpyras.PDClientError, pdpyras.URLError) as error:
                status = getattr(error.response, "status_code", None)
                name, text = type(error).__name__, without_page(str(error))
                self.events.append(("error", name, status, text))
        return self.events


def without_page(text):
    """A message without what the size of a page puts into it."""
    text = re.sub(r"total=true&|&total=true", "", text)
    return re.sub(r"limit=\d+", "limit=?", text)


def offsets(requests):
    """The places from which pages were asked for."""
    return [int(dict(request.query)["offset"]) for request in requests]


def tell(collection, prefetch, server, session):
    """Iterate over a collection; what was seen, and what was asked for."""
    collection.restart()
    server.handler = collection
    del server.requests[:]
    story = Story()
    session.log.addHandler(story)
    try:
        options = {"offset": collection.offset} if collection.offset else None
        events = story.of(
            session.iter_all(
                "users",
                params=options,
                page_size=collection.page_size,
                item_hook=story.hook,
                total=collection.asks_total,
                prefetch=prefetch,
            )
        )
    finally:
        session.log.removeHandler(story)
    return events, Counter(story.retries), list(server.requests)


def without_waits(retries):
    texts = (text.rpartition(" in ")[0] for text in retries.elements())
    return Counter(texts)


@pytest.mark.no_cover
@pytest.mark.oldest
@pytest.mark.parametrize("block", range(BLOCKS))
def test_prefetch_makes_no_difference(
    block, server, session, naps, monkeypatch
):
    session.max_network_attempts = 3
    session.timeout = PATIENCE
    for seed in range(block, CASES, BLOCKS):
        collection = Collection(seed)
        monkeypatch.setattr(pdpyras, "ITERATION_LIMIT", collection.limit)
        session.require_complete_results = collection.is_complete
        expected, retries, serial = tell(collection, 0, server, session)
        for prefetch in (1, 8):
            seen, repeated, asked = tell(collection, prefetch, server, session)
            about = f"prefetch={prefetch}, seed={seed}\n{collection!r}"
            assert seen == expected, about
            assert len(asked) >= len(serial) or prefetch == 8, about
            if collection.is_regular:
                # Whether there is a pause depends on the connection's age.
                assert without_waits(repeated) == without_waits(retries), about
                assert sorted(offsets(asked)) == sorted(offsets(serial)), about
            if prefetch == 1:
                assert offsets(asked)[: len(serial)] == offsets(serial), about
                assert len(asked) <= len(serial) + 1, about
            if collection.totals == "honest":
                last = max(collection.size + collection.growth, 1)
                first = collection.offset
                assert max(offsets(asked), default=0) < max(last, first + 1)


def test_the_collections_are_of_all_kinds():
    """...so that the test above is worth its name."""
    collections = [Collection(seed) for seed in range(200)]
    ends = {end for c in collections for end in c.ends.values()}
    assert ends == set(ENDS)
    assert len({c.totals for c in collections}) == 9
    assert sum(c.is_regular for c in collections) > 20
    assert sum(bool(c.limits) for c in collections) > 20
    assert sum(bool(c.losses) for c in collections) > 20
    assert sum(bool(c.short) for c in collections) > 20
    assert sum(bool(c.growth) for c in collections) > 10
    assert sum(c.size > 5 * c.page_size for c in collections) > 50


class Chain:
    """A handler for pages of which each names the next, in any style."""

    def __init__(self, style, seed):
        dice = random.Random(seed)
        self.style = style
        count = dice.randint(1, 12)
        self.pages = [
            [
                {"id": n}
                for n in range(page * 10, page * 10 + dice.randint(0, 9))
            ]
            for page in range(count)
        ]
        if style == "starting_after":  # An empty page is the end of these.
            self.pages = [page or [{"id": -1}] for page in self.pages]
        self.limited = {
            dice.randrange(count) for _ in range(dice.randint(0, 2))
        }
        self.failing = dice.choice([None] * 3 + [dice.randrange(count)])
        self.odd = dice.choice([*self.answers()])
        self.sticks = dice.choice([None] * 3 + [dice.randrange(count)])
        self.restart()

    @staticmethod
    def answers():
        return [name for name in ODDITIES if name not in ("empty", "lost")]

    def restart(self):
        """Be as if nothing had been asked for yet."""
        self.limits = set(self.limited)

    def __call__(self, request):
        if self.style == "starting_after":
            name = request.json.get("starting_after", "c0")
        else:
            name = dict(request.query).get(self.style, "c0")
        number = int(name[1:])
        if number in self.limits:
            self.limits.remove(number)
            return wire.Answer(429)
        if number == self.failing:
            return ODDITIES[self.odd]
        following = None if number + 1 == len(self.pages) else number + 1
        if number == self.sticks:
            following = number
        name = None if following is None else f"c{following}"
        if self.style == "starting_after":
            body = {"data": self.pages[number], "last": name}
            body["more"] = following is not None
        elif self.style == "after":
            body = {"alert_grouping_settings": self.pages[number]}
            body["after"] = name
        else:
            body = {"records": self.pages[number], "next_cursor": name}
        return wire.Answer(json=body)


STYLES = {
    "cursor": ("audit/records", {}),
    "after": ("alert_grouping_settings", {}),
    "starting_after": ("analytics/raw/incidents", {"json": {"filters": {}}}),
}


@pytest.mark.oldest
@pytest.mark.parametrize("style", sorted(STYLES))
def test_prefetch_makes_no_difference_with_cursors(
    style, server, session, naps
):
    session.max_network_attempts = 1
    url, options = STYLES[style]
    for seed in range(max(20, CASES // 20)):
        chain = Chain(style, seed)
        server.handler = chain
        stories = []
        for prefetch in (0, 1, 8):
            chain.restart()
            del server.requests[:]
            story = Story()
            session.log.addHandler(story)
            events = story.of(
                session.iter_all(
                    url, item_hook=story.hook, prefetch=prefetch, **options
                )
            )
            session.log.removeHandler(story)
            asked = [(r.target, r.body) for r in server.requests]
            stories.append((events, story.retries, asked))
        assert stories[1] == stories[0], seed
        assert stories[2] == stories[0], seed


# -- What is asked for, and when ---------------------------------------------


class Pages:
    """A handler for an honest collection, whose answers can be held back.

    The first page is answered at once, the others when ``gate`` is open.
    """

    def __init__(self, size):
        self.size = size
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)
        self.lock = threading.Lock()
        self.waiting = self.most_waiting = 0

    def __call__(self, request):
        query = dict(request.query)
        offset, limit = int(query["offset"]), int(query["limit"])
        with self.lock:
            self.waiting += 1
            self.most_waiting = max(self.waiting, self.most_waiting)
        if offset:
            self.arrived.release()
            self.gate.wait(PATIENCE)
        answer = self.answer(offset, limit, "total" in query)
        with self.lock:
            self.waiting -= 1
        return answer

    def answer(self, offset, limit, total):
        end = min(offset + limit, self.size)
        return wire.Answer(
            json={
                "users": [{"id": n} for n in range(offset, end)],
                "more": end < self.size,
                "total": self.size if total else None,
            }
        )

    def arrive(self, count):
        """Wait until so many more requests have arrived."""
        for _ in range(count):
            assert self.arrived.acquire(timeout=PATIENCE)
        assert not self.arrived.acquire(timeout=0.02)


def is_of_pdpyras(thread):
    """Does it run a function of the library?"""
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", None) == pdpyras.__name__


@pytest.fixture
def threads():
    """See that no thread of ours is there in the end."""
    before = set(threading.enumerate())

    def readers():
        return [
            thread
            for thread in set(threading.enumerate()) - before
            if is_of_pdpyras(thread)
        ]

    yield readers
    if readers():
        gc.collect()  # One may hang on a cycle. (It is slow, in a suite.)
    assert_ends(readers)


def assert_ends(readers, within=PATIENCE):
    """Wait for threads to end."""
    end = time.monotonic() + within
    while readers() and time.monotonic() < end:
        threading.Event().wait(0.005)
    assert readers() == []


def ids(records):
    return [record["id"] for record in records]


@pytest.mark.parametrize("prefetch", [0, 1, 2, 16])
@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 19, 20, 21, 100, 205])
def test_prefetch_requests_nothing_beyond_the_last_page(
    size, prefetch, server, session, threads
):
    server.handler = Pages(size)
    records = session.iter_all("users", page_size=10, prefetch=prefetch)
    assert ids(records) == list(range(size))
    expected = list(range(0, max(size, 1), 10))
    assert sorted(offsets(server.requests)) == expected
    asking = ["total" in dict(r.query) for r in server.requests]
    assert asking == [prefetch > 1] + [False] * (len(expected) - 1)
    assert threads() == []


def test_without_prefetch_a_page_is_asked_for_when_needed(
    server, session, threads
):
    server.handler = pages = Pages(30)
    assert session.prefetch == pdpyras.APISession.prefetch == 0
    records = session.iter_all("users", page_size=10)
    assert server.requests == []
    for number in range(30):
        assert next(records)["id"] == number
        assert len(server.requests) == number // 10 + 1
        assert threads() == []
    assert pages.most_waiting == 1


@pytest.mark.parametrize("prefetch", [1, 2, 8])
def test_prefetch_asks_for_nothing_before_the_first_record(
    prefetch, server, session, threads
):
    records = session.iter_all("users", prefetch=prefetch)
    threading.Event().wait(0.02)
    assert server.requests == []
    assert threads() == []
    records.close()


def test_a_prefetch_of_1_is_one_page_ahead(server, session, threads):
    server.handler = pages = Pages(45)
    records = session.iter_all("users", page_size=10, prefetch=1)
    for page in range(4):
        assert next(records)["id"] == page * 10
        pages.arrive(1)
        assert offsets(server.requests)[-1] == page * 10 + 10
        assert ids(itertools.islice(records, 9)) == list(
            range(page * 10 + 1, page * 10 + 10)
        )
    assert ids(records) == list(range(40, 45))
    assert len(server.requests) == 5
    assert pages.most_waiting == 1


@pytest.mark.parametrize("style", sorted(STYLES))
@pytest.mark.parametrize("prefetch", [1, 8])
def test_prefetch_is_one_page_ahead_with_cursors(
    style, prefetch, server, session, threads
):
    url, options = STYLES[style]
    seed = next(n for n in range(99) if len(Chain(style, n).pages) > 4)
    chain = Chain(style, seed)
    chain.failing = chain.sticks = None
    chain.pages = [[{"id": 1}]] * len(chain.pages)
    chain.limits.clear()
    server.handler = chain
    records = session.iter_all(url, prefetch=prefetch, **options)
    assert len(threads()) == 0
    for number in range(1, len(chain.pages)):
        next(records)
        end = time.monotonic() + PATIENCE
        while len(server.requests) <= number and time.monotonic() < end:
            threading.Event().wait(0.001)
        assert len(server.requests) == number + 1
    assert len(list(records)) == 1


@pytest.mark.parametrize("prefetch", [2, 3, 8, 16])
def test_prefetch_asks_for_so_many_pages_at_once(
    prefetch, server, session, threads
):
    server.handler = pages = Pages(400)
    pages.gate.clear()
    records = session.iter_all("users", page_size=10, prefetch=prefetch)
    assert next(records) == {"id": 0}
    pages.arrive(prefetch)
    assert len(server.requests) == prefetch + 1
    pages.gate.set()
    assert ids(records) == list(range(1, 400))
    assert pages.most_waiting <= prefetch
    assert len(server.requests) == 40


def test_no_more_pages_in_flight_than_prefetch_allows(
    server, session, threads
):
    """...when a short page has to be filled, too."""
    pages = Pages(400)

    class Short(Pages):
        def answer(self, offset, limit, total):
            threading.Event().wait(0.002)
            limit -= 3 if offset in (20, 50, 110, 200) else 0
            return super().answer(offset, limit, total)

    server.handler = pages = Short(400)
    records = session.iter_all("users", page_size=10, prefetch=3)
    assert ids(records) == list(range(400))
    assert pages.most_waiting <= 3
    assert max(Counter(offsets(server.requests)).values()) == 1


def test_a_short_page_is_filled_before_moving_on(server, session, threads):
    class Short(Pages):
        def answer(self, offset, limit, total):
            return super().answer(
                offset, limit - 3 if offset == 20 else limit, total
            )

    server.handler = Short(60)
    records = session.iter_all("users", page_size=10, prefetch=4)
    assert ids(records) == list(range(60))
    asked = [dict(request.query) for request in server.requests]
    pairs = sorted((int(q["offset"]), int(q["limit"])) for q in asked)
    others = [(n, 10) for n in range(0, 60, 10)]
    assert pairs == sorted(others + [(27, 3)])


def test_without_a_total_prefetch_is_one_page_ahead(server, session, threads):
    class Silent(Pages):
        def answer(self, offset, limit, total):
            return super().answer(offset, limit, False)

    server.handler = pages = Silent(40)
    records = session.iter_all("users", page_size=10, prefetch=8)
    assert next(records) == {"id": 0}
    pages.arrive(1)
    assert ids(records) == list(range(1, 40))
    assert offsets(server.requests) == [0, 10, 20, 30]
    assert pages.most_waiting == 1


def test_prefetch_stays_within_the_first_ten_thousand(
    server, session, threads
):
    server.handler = Pages(10250)
    end = "no records beyond the first 10000"
    records = session.iter_all("users", prefetch=16)
    with told(pdpyras.PDIncompleteWarning, end):
        assert ids(records) == list(range(10000))
    assert sorted(offsets(server.requests)) == list(range(0, 10000, 100))
    del server.requests[:]
    options = {"params": {"offset": 9950}, "prefetch": 8}
    with told(pdpyras.PDIncompleteWarning, end):
        assert session.list_all("users", **options) == []
    assert server.requests == []


def test_with_paginate_false_prefetch_is_one_page(server, session, threads):
    server.handler = pages = Pages(400)
    with pytest.warns(DeprecationWarning):
        records = session.iter_all(
            "users", page_size=10, prefetch=8, paginate=False
        )
    assert ids(records) == list(range(10))
    assert len(server.requests) == 1
    assert pages.most_waiting == 1


def test_a_rate_limit_slows_all_prefetch_down(server, session, threads, naps):
    class Limited(Pages):
        limited = 1

        def answer(self, offset, limit, total):
            if offset == 10 and self.limited:
                self.limited = 0
                return wire.Answer(429, headers={"ratelimit-reset": "7"})
            if offset == 20:  # The 429 is there first.
                threading.Event().wait(0.05)
            return super().answer(offset, limit, total)

    server.handler = pages = Limited(60)
    pages.gate.clear()
    seen = []

    def during():
        threading.Event().wait(0.1)
        seen.append(sorted(offsets(server.requests)))

    naps.during = during
    records = session.iter_all("users", page_size=10, prefetch=2)
    next(records)
    pages.arrive(2)
    pages.gate.set()
    assert ids(records) == list(range(1, 60))
    assert naps == [7]
    assert seen == [[0, 10, 20]]
    assert len(server.requests) == 7


# -- Leaving early -----------------------------------------------------------


class LeavingError(Exception):
    pass


@pytest.mark.parametrize("prefetch", [1, 2, 8])
def test_closing_an_iteration_cancels_what_is_queued(
    prefetch, server, session, threads
):
    server.handler = pages = Pages(1000)
    pages.gate.clear()
    records = session.iter_all("users", page_size=10, prefetch=prefetch)
    assert next(records) == {"id": 0}
    pages.arrive(prefetch)
    assert len(threads()) <= prefetch
    ending = threading.Timer(0.1, pages.gate.set)
    ending.start()
    records.close()
    ending.join()
    assert_ends(threads)
    assert len(server.requests) == 1 + prefetch
    assert list(records) == []
    session.close()


@pytest.mark.oldest
@pytest.mark.parametrize("prefetch", [1, 8])
def test_dropping_an_iteration_closes_it(prefetch, server, session, threads):
    server.handler = Pages(1000)
    for _ in session.iter_all("users", page_size=10, prefetch=prefetch):
        break
    gc.collect()
    assert_ends(threads)
    assert len(server.requests) <= 1 + 2 * prefetch
    records = session.iter_all("users", page_size=10, prefetch=prefetch)
    ring = [records]
    ring.append(ring)
    next(records)
    del records, ring
    gc.collect()
    assert_ends(threads)


def test_closing_waits_for_a_moment_only(server, session):
    server.handler = pages = Pages(1000)
    pages.gate.clear()
    records = session.iter_all("users", page_size=10, prefetch=8)
    next(records)
    pages.arrive(8)
    began = time.monotonic()
    records.close()
    assert time.monotonic() - began < PATIENCE / 2
    pages.gate.set()
    assert len(server.requests) == 9


def test_closing_ends_those_that_wait_for_the_limit(
    server, session, naps, threads
):
    """Who was parked behind a rate limit sends nothing for nobody."""
    pages, limited, over = Pages(1000), threading.Event(), threading.Event()
    limit = wire.Answer(429, headers={"ratelimit-reset": "60"})
    first = threading.Thread(target=lambda: session.get("users/P1"))

    def pause():
        limited.set()
        assert over.wait(PATIENCE)

    def answer(request):
        if request.path == "/users/P1":
            return wire.Answer(json={}) if over.is_set() else limit
        first.start()
        assert limited.wait(PATIENCE)
        return pages(request)

    naps.during = pause
    server.handler = answer
    records = session.iter_all("users", page_size=10, prefetch=1)
    assert next(records) == {"id": 0}
    assert len(threads()) == 1
    records.close()
    over.set()
    first.join(PATIENCE)
    assert_ends(threads)
    asked = ["/users", "/users/P1", "/users/P1"]
    assert [r.path for r in server.requests] == asked and naps == [60]


@pytest.mark.parametrize("prefetch", [1, 8])
def test_closing_ends_retries(prefetch, server, session, threads):
    """A rate limit without end does not outlive the iteration."""
    pages = Pages(1000)
    answer = pages.answer

    def limited(offset, limit, total):
        return wire.Answer(429) if offset else answer(offset, limit, total)

    pages.answer = limited
    server.handler = pages
    session.sleep_timer = 0.01
    session.sleep_timer_base = 1
    records = session.iter_all("users", page_size=10, prefetch=prefetch)
    next(records)
    assert pages.arrived.acquire(timeout=PATIENCE)
    records.close()
    try:
        assert_ends(threads, within=2)
        asked = len(server.requests)
        threading.Event().wait(0.05)
        assert len(server.requests) == asked
    finally:
        pages.answer = answer


@pytest.mark.parametrize("prefetch", [1, 8])
def test_an_error_of_the_consumer(prefetch, server, session, threads):
    server.handler = Pages(1000)

    def hook(record, number, total):
        if number == 15:
            raise LeavingError

    options = {"page_size": 10, "prefetch": prefetch}
    with pytest.raises(LeavingError):
        for _ in session.iter_all("users", item_hook=hook, **options):
            pass
    gc.collect()
    assert_ends(threads)
    records = session.iter_all("users", **options)
    next(records)
    with pytest.raises(LeavingError):
        records.throw(LeavingError())
    assert_ends(threads)


@pytest.mark.parametrize("prefetch", [1, 8])
def test_an_error_ends_the_threads(prefetch, server, session, threads):
    class Failing(Pages):
        def answer(self, offset, limit, total):
            if offset == 50:
                return wire.Answer(500, json={})
            return super().answer(offset, limit, total)

    server.handler = Failing(1000)
    records = session.iter_all("users", page_size=10, prefetch=prefetch)
    assert ids(itertools.islice(records, 50)) == list(range(50))
    with pytest.raises(pdpyras.PDServerError):
        next(records)
    assert_ends(threads)
    assert max(offsets(server.requests)) <= 50 + 10 * prefetch


def test_a_session_goes_on_after_an_iteration_was_left(
    server, session, threads
):
    server.handler = Pages(200)
    for _ in range(5):
        for _ in session.iter_all("users", page_size=10, prefetch=8):
            break
        assert len(session.list_all("users", prefetch=8)) == 200


def test_iterations_within_each_other(server, session, threads):
    server.handler = Pages(30)
    options = {"page_size": 10, "prefetch": 3}
    pairs = [
        (one["id"], other["id"])
        for one in session.iter_all("users", **options)
        for other in session.iter_all("users", **options)
    ]
    assert pairs == list(itertools.product(range(30), range(30)))


# -- How it is asked for -----------------------------------------------------


@pytest.mark.parametrize(
    "prefetch", [-1, 17, 1000, 2.5, "many", [], True, float("nan")]
)
def test_what_prefetch_may_not_be(prefetch, server, session):
    for method in (session.iter_all, session.list_all, session.dict_all):
        with pytest.raises(ValueError, match="prefetch"):
            method("users", prefetch=prefetch)
    for method in (session.iter_all, session.iter_cursor):
        with pytest.raises(ValueError, match="prefetch"):
            method("audit/records", prefetch=prefetch)
    with pytest.raises(ValueError, match="prefetch"):
        session.find("users", "x", prefetch=prefetch)
    session.prefetch = prefetch
    with pytest.raises(ValueError, match="prefetch"):
        session.iter_all("users")
    assert server.requests == []


@pytest.mark.parametrize("as_attribute", [True, False])
def test_where_prefetch_may_be_given(as_attribute, server, session, threads):
    server.handler = pages = Pages(60)
    session.default_page_size = 10
    options = {} if as_attribute else {"prefetch": 4}
    session.prefetch = 4 if as_attribute else 0
    records = [{"id": number} for number in range(60)]
    calls = [
        (lambda: list(session.iter_all("users", **options)), records),
        (lambda: session.list_all("users", **options), records),
        (
            lambda: session.dict_all("users", **options),
            dict(enumerate(records)),
        ),
        (
            lambda: session.find("users", 59, attribute="id", **options),
            records[59],
        ),
    ]
    for call, expected in calls:
        del server.requests[:]
        pages.gate.clear()
        opening = threading.Thread(target=open_when, args=(pages, 4))
        opening.start()
        assert call() == expected
        opening.join()
        assert len(server.requests) == 6
    session.prefetch = 4
    del server.requests[:]
    records = session.iter_all("users", prefetch=0)
    next(records)
    assert "total" not in server.requests[0].target


def open_when(pages, count):
    """Open the gate once so many requests wait at it together."""
    for _ in range(count):
        assert pages.arrived.acquire(timeout=PATIENCE)
    pages.gate.set()
    while pages.arrived.acquire(timeout=0.05):
        pass


def test_a_cursor_may_be_read_ahead_too(server, session, threads):
    server.handler = Chain("cursor", 1)
    server.handler.failing = server.handler.sticks = None
    expected = ids(session.iter_cursor("audit/records"))
    found = session.iter_cursor("audit/records", prefetch=1)
    assert ids(found) == expected


def test_find_with_prefetch_stops_at_the_match(server, session, threads):
    server.handler = Pages(1000)
    found = session.find("users", 15, attribute="id", prefetch=4)
    assert found == {"id": 15}
    assert_ends(threads)
    assert len(server.requests) < 15


def test_prefetch_is_pickled_with_the_session(session):
    session.prefetch = 3
    assert pickle.loads(pickle.dumps(session)).prefetch == 3


def test_a_subclass_states_its_own_prefetch(server, threads):
    class Session(pdpyras.APISession):
        prefetch = 2

    server.handler = Pages(30)
    with Session(KEY) as session:
        session.url = server.url
        assert len(session.list_all("users", page_size=10)) == 30
    assert "total=true" in server.requests[0].target
