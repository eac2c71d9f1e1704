"""Complete histories: each record of a period once, oldest first, or an error.

What the API means by the ends of a period is not documented, so nearly all
is tried with every meaning that the sandbox has. The limit of 10 000 is
mostly a lower one, for the library and the sandbox alike.
"""

import itertools
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from datetime import date, datetime, timedelta, timezone
from functools import partial

import pytest

import pdpyras
from pdpyras_sandbox import Sandbox
from tests import wire
from tests.support import FEW_CASES, KEY, ROOT, may_fork, needs_fork

pytestmark = pytest.mark.oldest

LIMIT = 200  # in place of the 10 000
SECOND = 10**6
START = 1772323200 * SECOND  # 2026-03-01T00:00:00Z
POSITION_TIME = "2026-03-01T00:00:00Z"
POSITION = {
    "url": "/incidents",
    "count": 1,
    "since": POSITION_TIME,
    "until": "2026-03-02T00:00:00Z",
}
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

#: How many random cases; `make histories` takes many more.
CASES = int(os.environ.get("HISTORY_CASES") or (6 if FEW_CASES else 22))

ALL_MEANINGS = [
    {"since": since, "until": until, "resolution": resolution}
    for since, until, resolution in itertools.product(
        ("inclusive", "exclusive"),
        ("inclusive", "exclusive"),
        ("seconds", "milliseconds"),
    )
]
MEANINGS = ALL_MEANINGS[::3] if FEW_CASES else ALL_MEANINGS
each_meaning = pytest.mark.parametrize(
    "meaning", MEANINGS, ids=["-".join(m.values()) for m in MEANINGS]
)
PREFETCHES = (0, 1, 8, 16)

#: Each kind of historical list: path, time of its records, their id.
LISTS = [
    ("incidents", "created_at", "id"),
    ("log_entries", "created_at", "id"),
    ("incidents/P1/log_entries", "created_at", "id"),
    ("notifications", "started_at", "id"),
    ("change_events", "timestamp", "id"),
    ("services/P1/change_events", "timestamp", "id"),
    ("audit/records", "execution_time", "id"),
    ("users/P1/audit/records", "execution_time", "id"),
    ("v3/schedules/P1/audit/records", "execution_time", "id"),
    ("analytics/raw/incidents", "created_at", "id"),
    (
        "analytics/raw/responders/P1/incidents",
        "incident_created_at",
        "incident_id",
    ),
]


def spell(instant):
    """A time as the API takes it, with microseconds if it has some."""
    moment = datetime(1970, 1, 1) + timedelta(microseconds=instant)
    return moment.isoformat() + "Z"


def instant(text):
    """The instant of a time as the API gives it; not as pdpyras reads it."""
    text = text.rstrip("Z")
    form = "%Y-%m-%dT%H:%M:%S" + (".%f" if "." in text else "")
    moment = datetime.strptime(text, form).replace(tzinfo=timezone.utc)
    return (moment - EPOCH) // timedelta(microseconds=1)


@pytest.fixture(autouse=True)
def limit(monkeypatch, request):
    if "real_limit" not in request.fixturenames:
        monkeypatch.setattr(pdpyras, "ITERATION_LIMIT", LIMIT)


@pytest.fixture
def real_limit():
    assert pdpyras.ITERATION_LIMIT == 10000


def session_on(box, kind=pdpyras.APISession):
    session = kind(KEY)
    session.url = box.url
    session.default_page_size = 20
    return session


def furnish(box):
    for collection in ("incidents", "services", "users"):
        box.add(collection, id="P1", created_at="2000-01-01T00:00:00Z")
    box.add("v3/schedules", id="P1")


def fill(box, path, field, instants):
    """Add a record of each instant; the copies that come back."""
    return box.add(path, [{field: spell(i)} for i in instants])


def expected(records, since, until, field="created_at", name="id"):
    """(time, id) of the records of a period, in their order."""
    keys = [(instant(r[field]), r[name]) for r in records]
    return sorted(key for key in keys if since <= key[0] < until)


def keys_of(records, field="created_at", name="id"):
    return [(instant(r[field]), r[name]) for r in records]


def history(session, since, until, path="log_entries", **options):
    return session.iter_history(path, spell(since), spell(until), **options)


def telling(totals):
    """A hook that notes which totals it is told."""
    return lambda record, number, total: totals.append(total)


def random_instants(rnd, most=300):
    """Times of records: some spread, some in bursts, some the same."""
    instants = []
    for _ in range(rnd.randrange(1, 5)):
        start = START + rnd.randrange(100 * SECOND)
        spread = rnd.choice([1, 1000, SECOND, 2 * SECOND, 100 * SECOND])
        for _ in range(rnd.choice([1, 10, most // 3, most])):
            instants.append(start + rnd.randrange(spread))
    rnd.shuffle(instants)
    return instants


def random_period(rnd):
    since = START + rnd.randrange(60) * SECOND
    since += rnd.choice([0, 0, 250000])
    length = rnd.choice([1, 3 * SECOND, 200 * SECOND, 999000])
    return since, since + length + rnd.randrange(20 * SECOND)


def densest(instants, unit, since, until):
    """The most records that any unit of time near a period has."""
    counts = {}
    for when in instants:
        if since - 2 * SECOND <= when < until + 2 * SECOND:
            counts[when // unit] = counts.get(when // unit, 0) + 1
    return max(counts.values(), default=0)


# -- Random collections, with every meaning of a period -----------------------


@each_meaning
@pytest.mark.parametrize("seed", range(6))
def test_a_history_is_exact_or_an_error(meaning, seed):
    rnd = random.Random(seed)
    instants = random_instants(rnd)
    since, until = random_period(rnd)
    order = rnd.choice(["added", "oldest", "newest"])
    with Sandbox(order=order, **meaning) as box:
        records = fill(box, "log_entries", "created_at", instants)
        wanted = expected(records, since, until)
        with session_on(box) as session:
            for prefetch in PREFETCHES:
                given, error = [], None
                try:
                    for record in history(
                        session, since, until, prefetch=prefetch
                    ):
                        given.append(record)
                except pdpyras.PDIncompleteError as exc:
                    error = exc
                given = keys_of(given)
                if error is None:
                    assert given == wanted
                    continue
                # A second is named, or a millisecond holds too many.
                assert given == wanted[: len(given)]
                unit = SECOND
                if meaning["resolution"] == "milliseconds":
                    unit //= 1000
                assert densest(instants, unit, since, until) > LIMIT
                assert "cannot be divided" in str(error)


@pytest.mark.parametrize("seed", range(CASES))
def test_every_style_is_exact_however_far_it_is_read_ahead(seed):
    """Of a random list, with a random meaning, by a page of random size."""
    rnd = random.Random(seed)
    path, field, name = LISTS[seed % len(LISTS)]
    meaning = rnd.choice(ALL_MEANINGS)
    instants = random_instants(rnd, 150)
    if "analytics" in path or rnd.random() < 0.5:
        instants = [i // SECOND * SECOND for i in instants]
    since, until = random_period(rnd)
    if rnd.random() < 0.5:  # It ends where records are.
        since, until = sorted(rnd.choice(instants) for _ in range(2))
    size = rnd.choice([7, 20, 100])
    order = rnd.choice(["added", "oldest", "newest"])
    outcomes = []
    with Sandbox(order=order, **meaning) as box, session_on(box) as session:
        furnish(box)
        records = fill(box, path, field, instants)
        wanted = expected(records, since, until, field, name)
        for prefetch in PREFETCHES:
            given = []
            history_of = partial(history, session, since, until, path)
            try:
                for record in history_of(prefetch=prefetch, page_size=size):
                    given.append(record)
            except pdpyras.PDIncompleteError as error:
                assert "cannot be divided" in str(error)
                assert densest(instants, SECOND, since, until) > LIMIT
                assert "audit" not in path and "analytics" not in path
                outcomes.append(len(given))
            else:
                assert len(given) == len(wanted)
                outcomes.append("whole")
            given = keys_of(given, field, name)
            assert given == wanted[: len(given)]
    assert len(set(outcomes)) == 1, outcomes


@pytest.mark.no_cover
@each_meaning
@pytest.mark.parametrize("path, field, name", LISTS)
def test_every_historical_list(meaning, path, field, name):
    with Sandbox(**meaning) as box:
        furnish(box)
        rnd = random.Random(path)
        instants = [START + rnd.randrange(300) * SECOND for _ in range(500)]
        records = fill(box, path, field, instants)
        if path == "incidents":
            records += fill(box, path, field, [START + 5 * SECOND])
        since, until = START + 50 * SECOND, START + 250 * SECOND
        wanted = expected(records, since, until, field, name)
        assert len(wanted) > LIMIT
        with session_on(box) as session:
            for prefetch in (0, 8):
                given = history(session, since, until, path, prefetch=prefetch)
                assert keys_of(given, field, name) == wanted


@pytest.mark.parametrize("path, field, name", LISTS)
def test_a_long_period_is_cut_to_what_the_api_takes(path, field, name):
    day = 86400 * SECOND
    with Sandbox() as box:
        furnish(box)
        instants = [START - n * 10 * day for n in range(80)]
        records = fill(box, path, field, instants)
        since, until = START - 700 * day, START + day
        wanted = expected(records, since, until, field, name)
        with session_on(box) as session:
            given = history(session, since, until, path)
            assert keys_of(given, field, name) == wanted
            assert len(wanted) == 71


@pytest.mark.no_cover
@pytest.mark.once
@each_meaning
def test_30_000_records_at_the_real_limit(real_limit, meaning):
    rnd = random.Random(7)
    instants = [START + rnd.randrange(3600 * SECOND) for _ in range(24000)]
    instants += [START + 60 * SECOND + rnd.randrange(SECOND)] * 3000
    instants += [START + 61 * SECOND + rnd.randrange(SECOND)] * 3000
    with Sandbox(order="newest", **meaning) as box:
        records = fill(box, "log_entries", "created_at", instants)
        wanted = expected(records, START, START + 3600 * SECOND)
        with session_on(box) as session:
            given = session.iter_history(
                "log_entries",
                spell(START),
                spell(START + 3600 * SECOND),
                page_size=100,
                prefetch=8,
            )
            assert keys_of(given) == wanted


def burst(box, second, count, spread=SECOND, path="log_entries"):
    start = START + second * SECOND
    instants = [start + n * spread // count for n in range(count)]
    field = "timestamp" if "change" in path else "created_at"
    return fill(box, path, field, instants)


@each_meaning
def test_bursts_in_seconds_side_by_side(meaning):
    with Sandbox(**meaning) as box:
        records = [
            record
            for second in range(5)
            for record in burst(box, second, LIMIT * 6 // 10)
        ]
        wanted = expected(records, START + SECOND, START + 4 * SECOND)
        with session_on(box) as session:
            given = history(session, START + SECOND, START + 4 * SECOND)
            assert keys_of(given) == wanted


@each_meaning
def test_a_second_with_more_than_the_limit(meaning):
    with Sandbox(**meaning) as box:
        records = burst(box, 5, LIMIT * 2) + burst(box, 3, 20)
        wanted = expected(records, START, START + 10 * SECOND)
        with session_on(box) as session:
            given = history(session, START, START + 10 * SECOND)
            if meaning["resolution"] == "milliseconds":
                assert keys_of(given) == wanted
                return
            iterator = iter(given)
            before = list(itertools.islice(iterator, 20))
            assert keys_of(before) == wanted[:20]
            with pytest.raises(pdpyras.PDIncompleteError) as caught:
                next(iterator)
        assert "2026-03-01T00:00:05Z to 2026-03-01T00:00:06Z" in str(
            caught.value
        )
        assert str(LIMIT * 2) in str(caught.value)


@each_meaning
def test_a_burst_beside_the_period_is_no_hindrance(meaning):
    with Sandbox(**meaning) as box:
        records = burst(box, 5, LIMIT * 2) + burst(box, 6, 20)
        records += burst(box, 4, 30)
        with session_on(box) as session:
            for second in (4, 6):
                since = START + second * SECOND
                told = []
                given = history(
                    session,
                    since,
                    since + SECOND,
                    item_hook=telling(told),
                )
                wanted = expected(records, since, since + SECOND)
                assert keys_of(given) == wanted
                assert set(told) == {len(wanted)}


@each_meaning
def test_incidents_of_one_second_from_both_ends(meaning):
    """They can be sorted, so that twice the limit can be read."""
    with Sandbox(**meaning) as box:
        records = burst(box, 5, LIMIT * 3 // 2, 1000, "incidents")
        with session_on(box) as session:
            given = history(session, START, START + 10 * SECOND, "incidents")
            assert keys_of(given) == expected(
                records, START, START + 10 * SECOND
            )
        burst(box, 5, LIMIT, 1000, "incidents")
        with session_on(box) as session:
            given = history(session, START, START + 10 * SECOND, "incidents")
            with pytest.raises(pdpyras.PDIncompleteError):
                next(given)


def test_change_events_are_asked_for_by_whole_seconds():
    with Sandbox(resolution="milliseconds") as box:
        burst(box, 5, LIMIT + 1, SECOND, "change_events")
        with session_on(box) as session:
            since, until = START + SECOND // 2, START + 10 * SECOND
            given = history(session, since, until, "change_events")
            with pytest.raises(pdpyras.PDIncompleteError, match="00:00:05Z"):
                next(given)
        for request in box.requests:
            assert request.endpoint == "/change_events"
            query = dict(request.query)
            for name in ("since", "until"):
                assert len(query[name]) == len("2026-03-01T00:00:00Z")


@pytest.mark.parametrize("hook", [None, telling([])])
def test_a_burst_beside_whole_seconds_loses_nothing(hook):
    """A query of a second may have records of two."""
    meaning = {"since": "inclusive", "until": "inclusive"}
    with Sandbox(resolution="milliseconds", **meaning) as box:
        burst(box, 0, 33, path="change_events")
        burst(box, 1, LIMIT + 1, 1, path="change_events")
        with session_on(box) as session:
            given = history(
                session,
                START,
                START + SECOND,
                "change_events",
                item_hook=hook,
            )
            with pytest.raises(pdpyras.PDIncompleteError, match="00:00:00Z"):
                next(given)


# -- A list that changes while it is read -------------------------------------


class Changing(pdpyras.APISession):
    """Calls ``change`` with the number of each request, before it is sent."""

    change = staticmethod(lambda number: None)
    number = 0

    def get(self, url, **options):
        self.number += 1
        self.change(self.number)
        return super().get(url, **options)


@pytest.mark.no_cover
@each_meaning
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("comes", [True, False])
def test_records_that_come_or_go_while_being_read(meaning, seed, comes):
    """Those that are there all the time are given once, or it is an error."""
    rnd = random.Random(seed)
    instants = [START + rnd.randrange(60 * SECOND) for _ in range(500)]
    with Sandbox(order="newest", **meaning) as box:
        records = fill(box, "log_entries", "created_at", instants)
        lasting = {r["id"] for r in records}
        late = set()
        plain = pdpyras.APISession(KEY)
        plain.url = box.url

        def change(number):
            if rnd.random() < 0.15:
                if comes:
                    when = START + rnd.randrange(60 * SECOND)
                    added = fill(box, "log_entries", "created_at", [when])
                    late.add(added[0]["id"])
                else:
                    gone = rnd.choice(sorted(lasting))
                    lasting.discard(gone)
                    box._store.collection("/log_entries").remove(gone)

        everything = {r["id"] for r in records}
        with session_on(box, Changing) as session:
            session.change = change
            try:
                given = list(history(session, START, START + 60 * SECOND))
            except pdpyras.PDIncompleteError as error:
                assert "changed" in str(error) or "halves" in str(error)
                return
        ids = [r["id"] for r in given]
        assert len(ids) == len(set(ids))
        assert lasting <= set(ids) <= everything | late
        assert keys_of(given) == sorted(keys_of(given))


@pytest.mark.parametrize("seed", range(CASES))
def test_records_that_come_or_go_while_they_are_read_ahead(seed):
    rnd = random.Random(seed)
    path, field, _ = LISTS[(1, 6, 0)[seed % 3]]
    # Nothing is ever deleted from an audit.
    comes = rnd.random() < 0.5 or "audit" in path
    instants = [START + rnd.randrange(60 * SECOND) for _ in range(400)]
    order = rnd.choice(["oldest", "newest"])
    with Sandbox(order=order, **rnd.choice(ALL_MEANINGS)) as box:
        records = fill(box, path, field, instants)
        lasting = {r["id"] for r in records}
        everything = set(lasting)

        def change(number):
            with box._lock:  # Several requests are under way at once.
                if rnd.random() > 0.1:
                    return
                if comes:
                    when = START + rnd.randrange(60 * SECOND)
                    added = fill(box, path, field, [when])
                    everything.add(added[0]["id"])
                else:
                    gone = rnd.choice(sorted(lasting))
                    lasting.discard(gone)
                    box._store.collection(f"/{path}").remove(gone)

        with session_on(box, Changing) as session:
            session.change = change
            given = history(
                *(session, START, START + 60 * SECOND, path),
                prefetch=rnd.choice(PREFETCHES[1:]),
            )
            try:
                given = list(given)
            except pdpyras.PDIncompleteError as error:
                assert "changed" in str(error) or "halves" in str(error)
                return
        ids = [r["id"] for r in given]
        assert len(ids) == len(set(ids))
        assert lasting <= set(ids) <= everything
        given = keys_of(given, field)
        assert given == sorted(given)


def test_a_list_that_never_rests_is_an_error():
    with Sandbox() as box:
        records = fill(
            box, "log_entries", "created_at", [START + SECOND] * 100
        )
        with session_on(box, Changing) as session:
            gone = iter(records)

            def change(number):
                box._store.collection("/log_entries").remove(next(gone)["id"])

            session.change = change
            given = history(session, START, START + 60 * SECOND)
            with pytest.raises(pdpyras.PDIncompleteError, match="changed"):
                next(given)
            # Once, and then again three times: five pages, the last short.
            assert session.number == 4 * 6


def test_a_window_is_read_again_when_it_has_changed():
    with Sandbox() as box:
        records = fill(
            box, "log_entries", "created_at", [START + SECOND] * 100
        )
        with session_on(box, Changing) as session:

            def change(number):
                if number == 3:
                    box._store.collection("/log_entries").remove(
                        records[0]["id"]
                    )

            session.change = change
            given = history(session, START, START + 60 * SECOND)
            ids = [record["id"] for record in given]
        assert sorted(ids) == sorted(r["id"] for r in records[1:])


def test_a_page_that_has_aged_is_asked_for_again():
    """One left the list, and one came: the total is the same."""
    instants = [START + n * SECOND // 8 for n in range(1200)]
    with Sandbox() as box:
        records = fill(box, "log_entries", "created_at", instants)
        with session_on(box) as session:
            given = history(session, START, START + 150 * SECOND)
            some = [next(given) for _ in range(10)]
            # The first page of the second window has been received already,
            # to prove that nothing is lost between it and the first window.
            gone = records[150]["id"]
            box._store.collection("/log_entries").remove(gone)
            late = fill(
                box, "log_entries", "created_at", [START + 30 * SECOND]
            )
            ids = {r["id"] for r in some} | {r["id"] for r in given}
        assert ids == {r["id"] for r in records + late} - {gone}


def test_a_split_that_loses_records_is_not_believed():
    """The totals of halves must add up to that of the whole."""
    with Sandbox() as box:
        burst(box, 5, 150), burst(box, 50, 150)

        class Losing(pdpyras.APISession):
            def get(self, url, **options):
                params = dict(options["params"])
                if params["until"] < spell(START + 59 * SECOND):
                    # Of the first half, it says that it is empty.
                    params["since"] = params["until"]
                return super().get(url, params=params)

        with session_on(box, Losing) as session:
            given = history(session, START, START + 60 * SECOND)
            with pytest.raises(pdpyras.PDIncompleteError, match="halves"):
                next(given)


@pytest.mark.parametrize("total", [150, LIMIT])
def test_a_total_that_is_too_small_is_an_error(total):
    with Sandbox() as box:
        burst(box, 5, LIMIT, 50 * SECOND)
        burst(box, 30, LIMIT // 2, 1)

        class Capped(pdpyras.APISession):
            def get(self, url, **options):
                response = super().get(url, **options)
                body = response.json()
                body["total"] = min(body["total"], total)
                response._content = json.dumps(body).encode("utf-8")
                return response

        with session_on(box, Capped) as session:
            given = history(session, START, START + 60 * SECOND)
            with pytest.raises(pdpyras.PDIncompleteError, match="its total"):
                next(given)


def test_an_empty_posted_page_with_more_is_an_error(server, session):
    session.url = server.url
    record = {"id": "P1", "created_at": "2026-03-01T00:00:00"}
    server.reply(json={"data": [record], "last": "1", "more": True})
    server.reply(json={"data": [], "last": "2", "more": True})
    given = session.iter_history("analytics/raw/incidents", spell(START))
    with pytest.raises(pdpyras.PDIncompleteError, match="an empty page"):
        next(given)


def test_windows_keep_the_body_that_was_given():
    with Sandbox() as box, session_on(box) as session:
        body, windows = {"filters": {}}, []
        for urgency in ("high", "low"):
            body["filters"]["urgency"] = urgency
            windows += session.plan_history(
                "analytics/raw/incidents",
                spell(START),
                spell(START + SECOND),
                json=body,
            )
        given = [window.json["filters"]["urgency"] for window in windows]
        assert given == ["high", "low"]
        records = session.iter_history(windows[0])
        windows[0].json["filters"]["urgency"] = "none"
        assert list(records) == []
        asked = box.requests[-1].json["filters"]
        assert asked["urgency"] == "high"


def test_an_api_that_does_not_keep_to_the_period_is_an_error():
    """Records that it gives elsewhere might be missing here."""
    with Sandbox() as box:
        burst(box, 5, 10)

        class Careless(pdpyras.APISession):
            def get(self, url, **options):
                params = dict(options["params"])
                params["since"] = "2000-01-01T00:00:00Z"
                return super().get(url, params=params)

        with session_on(box, Careless) as session:
            given = history(session, START + 10 * SECOND, START + 20 * SECOND)
            with pytest.raises(pdpyras.PDIncompleteError, match="keep to"):
                next(given)


def test_parameters_that_can_be_read_once_filter_each_window():
    """In a year there are three windows of incidents, at least."""
    since, until = "2026-01-01T00:00:00Z", "2026-12-01T00:00:00Z"
    given = {"team_ids": ["PTEAM01", "PTEAM02"]}

    def queries(box):
        lists = [r for r in box.requests if r.path == "/incidents"]
        return [dict(r.query)["team_ids[]"] for r in lists]

    with Sandbox() as box, session_on(box) as session:
        params = {"team_ids": iter(given["team_ids"])}
        assert (
            list(session.iter_history("incidents", since, until, params)) == []
        )
        windows = session.plan_history(
            "incidents", since, until, iter(given.items())
        )
        assert len(windows) > 1
        assert all(dict(w.params) == given for w in windows)
        assert len(queries(box)) > 2
        assert set(queries(box)) == {"PTEAM02"}


# -- What cannot be read whole ------------------------------------------------


def test_the_name_of_4_x_for_whether_it_may_be_incomplete():
    class Old(pdpyras.APISession):
        raise_if_http_error = False

    with Sandbox() as box:
        burst(box, 5, LIMIT * 2, 1)
        with session_on(box, Old) as session:
            given = history(session, START, START + 10 * SECOND)
            with pytest.warns(pdpyras.PDIncompleteWarning):
                assert len(list(given)) == LIMIT


def test_an_incomplete_result_may_be_wanted():
    with Sandbox() as box:
        records = burst(box, 5, LIMIT * 2, 1) + burst(box, 7, 5)
        with session_on(box) as session:
            session.require_complete_results = False
            given = history(session, START, START + 10 * SECOND)
            with pytest.warns(pdpyras.PDIncompleteWarning) as caught:
                ids = [record["id"] for record in given]
        assert caught[0].filename == __file__
        text = str(caught[0].message)
        assert "2026-03-01T00:00:05Z" in text and str(LIMIT * 2) in text
        assert len(caught) == 1
        assert len(ids) == len(set(ids)) == LIMIT + 5
        assert set(ids) <= {record["id"] for record in records}


def test_an_error_status_ends_it():
    with Sandbox() as box:
        burst(box, 5, 10)
        with session_on(box) as session:
            box.fail(403)
            with pytest.raises(pdpyras.PDHTTPError):
                list(history(session, START, START + 10 * SECOND))
            session.require_complete_results = False
            box.fail(403)
            with pytest.warns(pdpyras.PDIncompleteWarning, match="403"):
                assert not list(history(session, START, START + 10 * SECOND))


def test_what_a_hook_raises_is_raised():
    with Sandbox() as box:
        burst(box, 5, 10)
        with session_on(box) as session:
            session.require_complete_results = False

            def hook(record, n, total):
                session.rget("/users/P404")

            given = history(
                session, START, START + 10 * SECOND, item_hook=hook
            )
            with pytest.raises(pdpyras.PDHTTPError):
                next(given)
            assert given.position["count"] == 0


@pytest.mark.parametrize(
    "url, fault",
    [
        ("log_entries", {}),
        ("log_entries", {"created_at": "yesterday"}),
        ("log_entries", {"created_at": None}),
        ("log_entries", {"created_at": spell(START), "id": None}),
        ("log_entries", "no object"),
    ],
)
def test_a_record_without_its_time_is_an_error(server, session, url, fault):
    record = fault
    if isinstance(fault, dict):
        record = {"id": "P1", **fault}
        if fault.get("id", "") is None:
            del record["id"]
    body = {url: [record], "total": 1, "more": False, "offset": 0}
    server.reply(200, body)
    with pytest.raises(pdpyras.PDServerError, match="created_at"):
        next(history(session, START, START + SECOND, url))


def test_a_list_without_its_total_is_an_error(server, session):
    body = {"log_entries": [], "total": None, "more": False, "offset": 0}
    server.reply(200, body)
    with pytest.raises(pdpyras.PDServerError, match="total"):
        next(history(session, START, START + SECOND))


# -- Arguments ----------------------------------------------------------------


@pytest.mark.parametrize(
    "since, until",
    [
        (datetime(2026, 1, 1), None),
        ("2026-01-01T00:00:00", None),
        ("2026-01-01T00:00:00Z", datetime(2026, 2, 1)),
        ("2026-01-01T00:00:00Z", "2026-02-01 00:00"),
        ("yesterday", None),
        (1767225600, None),
        ("2026-02-30T00:00:00Z", None),
        ("2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z"),
    ],
)
def test_a_period_that_is_none(session, since, until):
    with pytest.raises(ValueError):
        session.iter_history("log_entries", since, until)
    with pytest.raises(ValueError):
        session.plan_history("log_entries", since, until)


@pytest.mark.parametrize(
    "since",
    [
        "2026-03-01T00:00:00Z",
        "2026-03-01 01:00:00+01:00",
        "2026-02-28T19:00-0500",
        "2026-03-01",
        date(2026, 3, 1),
        datetime(2026, 3, 1, tzinfo=timezone.utc),
        datetime(2026, 3, 1, 2, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_spellings_of_a_time(since):
    with Sandbox() as box:
        records = fill(
            box, "log_entries", "created_at", [START - SECOND, START]
        )
        with session_on(box) as session:
            given = session.iter_history("log_entries", since)
            assert [r["id"] for r in given] == [records[1]["id"]]


def test_a_fraction_of_a_second_counts():
    with Sandbox() as box:
        furnish(box)
        path, field = "audit/records", "execution_time"
        instants = [START + n * SECOND // 4 for n in range(12)]
        records = fill(box, path, field, instants)
        with session_on(box) as session:
            since, until = START + SECOND // 2, START + SECOND * 7 // 4
            given = keys_of(history(session, since, until, path), field)
            assert given == expected(records, since, until, field)
            assert len(given) == 5


@pytest.mark.parametrize(
    "path",
    ["users", "incidents/P1/alerts", "schedules", "oncalls/P1", "abilities"],
)
def test_a_list_without_history_names_iter_all(session, path):
    for method in (session.iter_history, session.plan_history):
        with pytest.raises(pdpyras.URLError, match="iter_all|known"):
            method(path, "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "path, options",
    [
        ("incidents", {"params": {"date_range": "all"}}),
        ("incidents?since=2026-01-01", {}),
        ("incidents", {"params": {"sort_by": "created_at"}}),
        ("incidents", {"json": {}}),
        ("analytics/raw/incidents", {"json": []}),
        ("analytics/raw/incidents", {"json": {"order": "asc"}}),
        ("analytics/raw/incidents", {"json": {"time_zone": "Etc/UTC"}}),
        (
            "analytics/raw/incidents",
            {"json": {"filters": {"created_at_end": "2026-01-01"}}},
        ),
        ("incidents", {"prefetch": 17}),
        ("incidents", {"page_size": 0}),
        ("incidents", {"deadline": 0}),
        ("incidents", {"resume": {}}),
        ("incidents", {"resume": "P1"}),
        ("incidents", {"resume": {**POSITION, "after": [POSITION_TIME, 5]}}),
        ("incidents", {"resume": {**POSITION, "after": [None, None]}}),
        (
            "incidents",
            {
                "resume": {
                    "url": "/log_entries",
                    "until": "2026-01-01T00:00:00Z",
                    "count": 0,
                }
            },
        ),
    ],
)
def test_arguments_that_cannot_be_meant(session, path, options):
    with pytest.raises(ValueError):
        session.iter_history(path, "2026-01-01T00:00:00Z", **options)


@pytest.mark.parametrize("url", ["log_entries", "/log_entries/?a=b"])
def test_a_position_is_one_in_its_own_list(session, url):
    iterator = session.iter_history(url, "2026-01-01T00:00:00Z")
    position = iterator.position
    assert position["url"] == "/log_entries"
    options = {"since": None, "resume": position}
    assert session.iter_history("/log_entries", **options).position
    with pytest.raises(ValueError, match="position in /log_entries"):
        session.iter_history("incidents", **options)


@pytest.mark.parametrize(
    "since, until",
    [
        (datetime.min.replace(tzinfo=timezone.utc), None),
        ("2026-01-01", datetime.max.replace(tzinfo=timezone.utc)),
        ("2026-01-01", "9999-12-31T23:59:59-23:00"),
        ("0001-01-01T00:00:00+23:00", None),
    ],
)
def test_a_period_that_nobody_can_compute_with(session, since, until):
    with pytest.raises(ValueError, match="must be in the years"):
        session.iter_history("log_entries", since, until)


def test_a_position_is_one_in_its_own_window():
    with Sandbox() as box:
        fill(box, "log_entries", "created_at", [START + n for n in range(90)])
        with session_on(box) as session:
            windows = session.plan_history(
                "log_entries", spell(START), spell(START + 90 * 86400 * SECOND)
            )
            window = windows[0]
            half = window.since + (window.until - window.since) / 2
            early = window._replace(until=half)
            late = window._replace(since=half)
            iterator = session.iter_history(early)
            next(iterator)
            position = iterator.position
            assert list(session.iter_history(early, resume=position))
            for other in (late, window):
                with pytest.raises(ValueError, match="another window"):
                    session.iter_history(other, resume=position)


def test_a_position_is_one_in_a_period_that_began_no_later():
    """Else what is before it would be missing, and nobody told."""
    with Sandbox() as box:
        fill(box, "log_entries", "created_at", [START + n for n in range(9)])
        with session_on(box) as session:
            given = history(session, START, START + 60 * SECOND)
            next(given)
            position = given.position
            with pytest.raises(ValueError, match="would be missing"):
                session.iter_history(
                    "log_entries", spell(START - SECOND), resume=position
                )
            again = session.iter_history(
                "log_entries", spell(START + SECOND), resume=position
            )
            assert len(list(again)) == 8


def test_filters_are_sent():
    with Sandbox() as box:
        box.add("services", id="P1")
        path, data = "analytics/raw/incidents", []
        for urgency in ("high", "low"):
            data += box.add(path, created_at=spell(START), urgency=urgency)
            box.add("incidents", created_at=spell(START), urgency=urgency)
        with session_on(box) as session:
            until = START + SECOND
            given = history(
                session, START, until, "incidents?urgencies[]=high"
            )
            assert [r["urgency"] for r in given] == ["high"]
            given = history(
                session,
                START,
                until,
                "incidents",
                params={"urgencies": ["low"]},
            )
            assert [r["urgency"] for r in given] == ["low"]
            body = {"filters": {"urgency": "high"}}
            list(history(session, START, until, path, json=body))
            assert box.requests[-1].json["filters"]["urgency"] == "high"
            assert body == {"filters": {"urgency": "high"}}


def test_since_none_is_from_the_first_record():
    with Sandbox() as box:
        furnish(box)
        old = START - 4000 * 86400 * SECOND
        for path in ("log_entries", "incidents"):
            box.add(path, [{"created_at": spell(i)} for i in (old, START)])
            with session_on(box) as session:
                given = keys_of(session.iter_history(path, None, "2026-04-01"))
                assert [k[0] for k in given][-2:] == [old, START]


def test_since_none_of_an_empty_list():
    with Sandbox() as box, session_on(box) as session:
        given = session.iter_history("incidents", None)
        assert list(given) == []
        assert given.position["count"] == 0
        assert session.plan_history("incidents", None) == []


def test_until_none_is_the_moment_of_the_call():
    with Sandbox() as box:
        now = datetime.now(timezone.utc)
        later = [(now + timedelta(days=n)).isoformat() for n in (-1, 1)]
        records = box.add("log_entries", [{"created_at": t} for t in later])
        with session_on(box) as session:
            given = session.iter_history(
                "log_entries", now.date().replace(year=now.year - 1, day=1)
            )
            assert [r["id"] for r in given] == [records[0]["id"]]


# -- On-call shifts -----------------------------------------------------------


def shifts(rnd, count):
    found = []
    for n in range(count):
        start = START + rnd.randrange(-50, 350) * SECOND
        end = start + rnd.randrange(1, 200) * SECOND
        found.append(
            {
                "user": {"id": f"P{n}"},
                "schedule": None,
                "escalation_policy": {"id": "P1"},
                "escalation_level": n % 3,
                "start": None if n % 40 == 0 else spell(start),
                "end": None if n % 40 == 0 else spell(end),
            }
        )
    rnd.shuffle(found)
    return found


def overlapping(found, since, until):
    """The users of the shifts that overlap a period, by their starts."""
    wanted = [
        (-1 if s["start"] is None else instant(s["start"]), s["user"]["id"])
        for s in found
        if s["start"] is None
        or (instant(s["start"]) < until and instant(s["end"]) > since)
    ]
    return sorted(wanted)


def shift_keys(given):
    return [
        (-1 if s["start"] is None else instant(s["start"]), s["user"]["id"])
        for s in given
    ]


@pytest.mark.no_cover
@each_meaning
def test_shifts_that_overlap_a_period(meaning):
    rnd = random.Random(3)
    found = shifts(rnd, 500)
    since, until = START + 50 * SECOND, START + 250 * SECOND
    wanted = overlapping(found, since, until)
    assert len(wanted) > LIMIT and wanted[0][0] == -1
    with Sandbox(**meaning) as box:
        box.add("oncalls", found)
        with session_on(box) as session:
            for prefetch in (0, 8):
                told = []
                given = shift_keys(
                    history(
                        session,
                        since,
                        until,
                        "oncalls",
                        prefetch=prefetch,
                        item_hook=telling(told),
                    )
                )
                assert given == wanted
                assert set(told) == {len(wanted)}
            windows = session.plan_history(
                "oncalls", spell(since), spell(until)
            )
            assert len(windows) > 1
            windows = pickle.loads(pickle.dumps(windows))
            given = [s for w in windows for s in session.iter_history(w)]
            assert shift_keys(given) == wanted
            for place in (0, 5, 30, 150, len(wanted) - 1):
                iterator = history(session, since, until, "oncalls")
                before = list(itertools.islice(iterator, place))
                position = json.loads(json.dumps(iterator.position))
                iterator.close()
                after = history(
                    session, since, until, "oncalls", resume=position
                )
                assert shift_keys(before + list(after)) == wanted


@pytest.mark.parametrize("hook", [None, telling([])])
@pytest.mark.parametrize("takes_empty", [True, False])
@pytest.mark.parametrize("begin", [-5000, 600])
def test_too_many_shifts_at_once_are_an_error(begin, takes_empty, hook):
    """They cannot be told apart by any shorter query."""

    class Strict(pdpyras.APISession):
        def get(self, url, **options):
            params = dict(options["params"])
            if not takes_empty and params["since"] == params["until"]:
                params["since"] = "2030-01-01T00:00:00Z"  # This is a 400.
            return super().get(url, params=params)

    later = START + 5000 * SECOND
    with Sandbox() as box:
        box.add(
            "oncalls",
            [
                {
                    "user": {"id": f"P{n}"},
                    "escalation_level": 1,
                    "start": spell(START + begin * SECOND),
                    "end": spell(later),
                }
                for n in range(LIMIT + 5)
            ],
        )
        with session_on(box, Strict) as session:
            until = START + 1200 * SECOND
            given = history(session, START, until, "oncalls", item_hook=hook)
            with pytest.raises(pdpyras.PDIncompleteError, match="oncalls"):
                next(given)
        assert len(box.requests) < 60


# -- Resuming -----------------------------------------------------------------


@pytest.mark.parametrize("path, field, name", LISTS)
def test_resumed_wherever_it_was_ended(path, field, name):
    rnd = random.Random(path)
    with Sandbox(until="exclusive") as box:
        furnish(box)
        instants = [START + rnd.randrange(90) * SECOND for _ in range(300)]
        records = fill(box, path, field, instants)
        since, until = START + 10 * SECOND, START + 80 * SECOND
        wanted = expected(records, since, until, field, name)
        with session_on(box) as session:
            given, position = [], None
            while True:
                iterator = history(
                    session,
                    since,
                    until,
                    path,
                    resume=position,
                    prefetch=rnd.choice([0, 4]),
                )
                some = list(itertools.islice(iterator, rnd.randrange(1, 60)))
                given += some
                assert len(given) <= len(wanted)
                position = json.loads(json.dumps(iterator.position))
                assert position["count"] == len(given)
                assert len(json.dumps(position)) < 300
                iterator.close()
                if not some:
                    break
        assert keys_of(given, field, name) == wanted


def test_until_of_the_first_call_holds_for_those_that_resume_it():
    with Sandbox() as box:
        now = datetime.now(timezone.utc)
        box.add("log_entries", 3, created_at=now.isoformat()[:19] + "Z")
        with session_on(box) as session:
            since = now - timedelta(hours=1)
            iterator = session.iter_history("log_entries", since)
            position = iterator.position
            position["until"] = "2020-01-01T00:00:00Z"
            resumed = session.iter_history(
                "log_entries", since, resume=position
            )
            assert list(resumed) == []


WRITER = """
import json, sys, time
import pdpyras
pdpyras.ITERATION_LIMIT = 200
session = pdpyras.APISession("any-key")
session.url, path, since, until, prefetch, stop, resume, output = sys.argv[1:]
records = session.iter_history(
    path,
    since,
    until,
    page_size=20,
    prefetch=int(prefetch),
    resume=json.loads(resume),
)
with open(output, "a") as file:
    for number, record in enumerate(records, 1):
        line = json.dumps({"record": record, "position": records.position})
        print(line, file=file, flush=True)
        if number == int(stop):
            time.sleep(600)
    print("end", file=file)
"""


def lines_of(output):
    """What was written, without a line that was cut off."""
    lines = output.read_text().split("\n") if output.exists() else [""]
    return lines[:-1]


@pytest.mark.parametrize("seed", range(max(CASES // 10, 2)))
def test_killed_and_resumed_in_another_process(seed, tmp_path):
    """By SIGKILL, however far it is: at a record, or in the middle of one."""
    rnd = random.Random(seed)
    path, field, name = LISTS[(1, 6, 9, 0)[seed % 4]]
    instants = [START + rnd.randrange(90) * SECOND for _ in range(400)]
    since, until = START + 5 * SECOND, START + 80 * SECOND
    given, position = [], None
    with Sandbox(latency=0.001, **rnd.choice(ALL_MEANINGS)) as box:
        furnish(box)
        records = fill(box, path, field, instants)
        for number in itertools.count():
            output = tmp_path / str(number)
            # It is killed between these two, be the machine fast or slow.
            end = rnd.randrange(1, 80) if number < 3 else 10**6
            stop = end + rnd.randrange(20)
            arguments = [box.url, path, spell(since), spell(until)]
            arguments += [str(rnd.choice(PREFETCHES)), str(stop)]
            arguments += [json.dumps(position), str(output)]
            process = subprocess.Popen(
                [sys.executable, "-c", WRITER, *arguments], cwd=ROOT
            )
            while len(lines_of(output)) < end and process.poll() is None:
                pdpyras.time.sleep(0.002)
            process.kill()
            process.wait()
            lines = lines_of(output)
            is_done = lines[-1:] == ["end"]
            written = list(map(json.loads, lines[:-1] if is_done else lines))
            given += [line["record"] for line in written]
            position = written[-1]["position"] if written else position
            if is_done:
                break
            assert process.returncode == -signal.SIGKILL
    wanted = expected(records, since, until, field, name)
    assert keys_of(given, field, name) == wanted
    assert number == 3


# -- Plans --------------------------------------------------------------------


@each_meaning
def test_the_windows_of_a_plan_have_each_record_once(meaning):
    rnd = random.Random(11)
    instants = random_instants(rnd, 150)
    instants += [START + rnd.randrange(100 * SECOND) for _ in range(600)]
    with Sandbox(**meaning) as box:
        records = fill(box, "log_entries", "created_at", instants)
        since, until = START + SECOND // 2, START + 90 * SECOND
        with session_on(box) as session:
            windows = session.plan_history(
                "log_entries", spell(since), spell(until)
            )
            assert windows[0].since == EPOCH + timedelta(microseconds=since)
            assert windows[-1].until == EPOCH + timedelta(microseconds=until)
            for one, other in zip(windows, windows[1:]):
                assert one.until == other.since < other.until
            for window in windows:
                assert isinstance(window, pdpyras.HistoryWindow)
                assert window.url == "log_entries"
                assert 0 <= window.count <= LIMIT
            given = []
            copies = pickle.loads(pickle.dumps(windows))
            assert copies == windows
            for window in copies:
                some = list(session.iter_history(window))
                assert len(some) <= window.count
                given += some
            assert keys_of(given) == expected(records, since, until)
            for window in windows[:1]:
                with pytest.raises(ValueError, match="window"):
                    session.iter_history(window, "2026-01-01T00:00:00Z")


def test_a_plan_of_a_list_with_cursors_has_no_counts():
    with Sandbox() as box:
        with session_on(box) as session:
            windows = session.plan_history(
                "audit/records", "2026-01-01", "2026-04-01"
            )
            assert [w.count for w in windows] == [None] * 3
            for window in windows:
                length = window.until - window.since
                assert length <= timedelta(days=31)
            assert not box.requests


# -- Totals -------------------------------------------------------------------


@pytest.mark.no_cover
@each_meaning
@pytest.mark.parametrize("seed", range(4))
def test_a_hook_is_told_the_exact_total(meaning, seed):
    rnd = random.Random(seed)
    instants = [START + rnd.randrange(60) * SECOND for _ in range(500)]
    instants += [START + 20 * SECOND] * 120 + [START + 39 * SECOND] * 120
    with Sandbox(**meaning) as box:
        records = fill(box, "log_entries", "created_at", instants)
        since = START + rnd.choice([0, 19, 20, 21]) * SECOND
        until = START + rnd.choice([38, 39, 40, 50]) * SECOND - seed % 2
        wanted = expected(records, since, until)
        told = []
        with session_on(box) as session:
            given = history(
                session,
                since,
                until,
                item_hook=lambda *arguments: told.append(arguments),
            )
            given = list(given)
        count = len(wanted)
        assert told == [(r, n, count) for n, r in enumerate(given, 1)]
        assert count == len(given)


def test_a_resumed_iteration_goes_on_counting():
    with Sandbox() as box:
        burst(box, 5, 100)
        told = []

        def hook(record, n, total):
            told.append((n, total))

        with session_on(box) as session:
            period = START, START + 10 * SECOND
            one = history(session, *period, item_hook=hook)
            list(itertools.islice(one, 30))
            other = history(
                session, *period, item_hook=hook, resume=one.position
            )
            list(other)
        assert told == [(n, 100) for n in range(1, 101)]


def test_a_list_with_cursors_has_no_total():
    with Sandbox() as box:
        box.add("audit/records", 3, execution_time=spell(START))
        told = []
        with session_on(box) as session:
            list(
                history(
                    session,
                    START,
                    START + SECOND,
                    "audit/records",
                    item_hook=lambda r, n, total: told.append((n, total)),
                )
            )
        assert told == [(1, "?"), (2, "?"), (3, "?")]


# -- Requests under way -------------------------------------------------------


class Counting(pdpyras.APISession):
    """Counts the requests that are under way at once."""

    __attrs__ = pdpyras.APISession.__attrs__

    def __init__(self, key):
        super().__init__(key)
        self.lock = threading.Lock()
        self.now = self.most = 0

    def get(self, url, **options):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return super().get(url, **options)
        finally:
            with self.lock:
                self.now -= 1


@pytest.mark.parametrize("prefetch", PREFETCHES)
def test_no_more_requests_are_under_way_than_prefetch_says(prefetch):
    rnd = random.Random(5)
    instants = [START + rnd.randrange(90) * SECOND for _ in range(600)]
    with Sandbox(latency=0.02) as box:
        fill(box, "log_entries", "created_at", instants)
        with session_on(box, Counting) as session:
            until = START + 90 * SECOND
            given = history(session, START, until, prefetch=prefetch)
            assert len(list(given)) == 600
            # All of them are busy most of the time; at some time, all are.
            # How many of them are under way at once is for the machine.
            assert 1 <= session.most <= max(prefetch, 1)
            assert session.most > 1 or prefetch < 2


def test_the_next_window_is_read_while_one_is_given():
    instants = [START + n * SECOND // 8 for n in range(800)]
    with Sandbox() as box:
        fill(box, "log_entries", "created_at", instants)
        with session_on(box) as session:
            until = START + 100 * SECOND
            given = history(session, START, until, prefetch=16)
            next(given)
            for _ in range(1000):
                asked = [dict(request.query) for request in box.requests]
                windows = [(query["since"], query["until"]) for query in asked]
                read = {w for w in windows if windows.count(w) > 1}
                if len(read) > 1:
                    break
                pdpyras.time.sleep(0.01)
            # A window has about 110 records here, so that it may be several.
            assert 2 <= len(read) <= 4
            assert asked[0]["total"] == "true"
            given.close()


class Record(dict):
    """A record whose class counts how many of them there are, and were."""

    live = most = 0
    lock = threading.RLock()  # It may be freed while another one is made.

    def __init__(self, content):
        super().__init__(content)
        with Record.lock:
            Record.live += 1
            Record.most = max(Record.most, Record.live)

    def __del__(self):
        with Record.lock:
            Record.live -= 1


class OfCountedRecords(pdpyras.APISession):
    def get(self, url, **options):
        response = super().get(url, **options)

        def count(content):
            return Record(content) if "id" in content else content

        # It must not hold the response, whose end the counting waits for.
        response.json = partial(json.loads, response.text, object_hook=count)
        return response


def pages_of(path, instants, pause):
    """A handler that answers with records of these times, after a pause."""
    wrapper, field = {
        "log_entries": ("log_entries", "created_at"),
        "audit/records": ("records", "execution_time"),
    }[path]

    def handle(request):
        query = dict(request.query)
        since, until = instant(query["since"]), instant(query["until"])
        found = [n for n, when in enumerate(instants) if since <= when < until]
        start = int(query.get("cursor", query.get("offset", 0)))
        end = start + int(query["limit"])
        page = [
            {"id": f"P{n:06}", field: spell(instants[n])}
            for n in found[start:end]
        ]
        more = end < len(found)
        pause()
        answer = {"limit": 20, "next_cursor": str(end) if more else None}
        if wrapper == "log_entries":
            answer = {"more": more, "total": len(found)}
        return wire.Answer(json=dict(answer, **{wrapper: page}))

    return handle


@pytest.mark.parametrize(
    "path, prefetch, is_resumed, rate",
    [
        ("log_entries", 0, False, 8),
        ("log_entries", 1, True, 8),
        ("log_entries", 16, False, 8),
        ("log_entries", 16, True, 8),
        # Two windows of 28 s have nearly as many as may be in memory.
        ("log_entries", 16, False, 6.7),
        ("log_entries", 16, True, 7.2),
        ("audit/records", 0, True, 8),
        ("audit/records", 16, False, 8),
    ],
)
def test_no_more_than_two_windows_are_in_memory(
    server, path, prefetch, is_resumed, rate
):
    """Consumer and server are slow by turns; at no moment there are more."""
    rnd = random.Random(3)
    size = int(112.5 * rate)
    instants = [START + int(n * SECOND / rate) for n in range(size)]
    pauses = [0, 0, 0, 0.001, 0.01]
    server.handler = pages_of(
        path, instants, lambda: pdpyras.time.sleep(rnd.choice(pauses))
    )
    with session_on(server, OfCountedRecords) as session:
        asked = START, START + 120 * SECOND, path
        if is_resumed:
            beginning = history(session, *asked)
            list(itertools.islice(beginning, 30))
            position = beginning.position
            beginning.close()
            del beginning
        else:
            position = None
        assert Record.live == 0
        Record.most = 0
        given = history(session, *asked, prefetch=prefetch, resume=position)
        count = 0
        for count, _ in enumerate(given, 1):
            if count % 70 == 1:
                wait_for_quiet(server)
        assert count == size - 30 * is_resumed
        del given, _
    # Beyond them: the record in the consumer's hands, and of a list with
    # cursors the page that shows that there are too many.
    has_cursors = path == "audit/records"
    assert Record.most <= 2 * LIMIT + 1 + 20 * has_cursors
    assert Record.most > LIMIT or not prefetch
    assert Record.live == 0


def wait_for_quiet(server):
    """Until no request has come for a while: all that will, have been."""
    before = -1
    while before != len(server.requests):
        before = len(server.requests)
        pdpyras.time.sleep(0.02)


def test_closing_ends_the_requests():
    instants = [START + n * SECOND // 8 for n in range(800)]
    with Sandbox() as box:
        fill(box, "log_entries", "created_at", instants)
        with session_on(box) as session:
            until = START + 100 * SECOND
            given = history(session, START, until, prefetch=8)
            first = next(given)
            given.close()
            assert list(given) == []
            assert given.position["count"] == 1
            assert given.position["after"][1] == first["id"]
            requests = len(box.requests)
            pdpyras.time.sleep(0.1)
            assert len(box.requests) == requests
            workers = [
                thread
                for thread in threading.enumerate()
                if getattr(thread, "_target", None) is pdpyras._work
            ]
            assert workers == []


def test_a_hook_may_close_the_iteration():
    """It ends behind the record that the hook was told of."""
    instants = [START + n * SECOND // 8 for n in range(80)]
    with Sandbox() as box, session_on(box) as session:
        records = fill(box, "log_entries", "created_at", instants)

        def hook(record, n, total):
            if n == 3:
                given.close()

        until = START + 10 * SECOND
        given = history(session, START, until, item_hook=hook, prefetch=2)
        assert keys_of(given) == expected(records, START, until)[:3]
        rest = history(session, START, until, resume=given.position)
        assert keys_of(rest) == expected(records, START, until)[3:]


@pytest.mark.parametrize("error", [KeyboardInterrupt, KeyError])
def test_what_was_broken_off_is_not_at_its_end(error):
    """Whoever catches the error must not take the rest for read."""
    instants = [START + n * SECOND // 8 for n in range(80)]
    with Sandbox() as box, session_on(box) as session:
        records = fill(box, "log_entries", "created_at", instants)

        def hook(record, n, total):
            if n == 3:
                raise error

        until = START + 10 * SECOND
        given = history(session, START, until, item_hook=hook, prefetch=2)
        taken = [next(given), next(given)]
        with pytest.raises(error):
            next(given)
        for _ in range(2):
            with pytest.raises(pdpyras.PDIncompleteError, match="resume"):
                next(given)
        rest = history(session, START, until, resume=given.position)
        assert keys_of([*taken, *rest]) == expected(records, START, until)
        given.close()
        assert list(given) == []


def test_an_error_of_the_api_is_not_the_end_of_a_history():
    with Sandbox() as box, session_on(box) as session:
        fill(box, "log_entries", "created_at", [START])
        box.fail(403)
        given = history(session, START, START + SECOND)
        with pytest.raises(pdpyras.PDHTTPError):
            next(given)
        with pytest.raises(pdpyras.PDIncompleteError, match="PDHTTPError"):
            list(given)


def test_another_thread_may_close_what_is_awaited():
    instants = [START + n * SECOND // 8 for n in range(80)]
    with Sandbox(latency=0.3) as box, session_on(box) as session:
        records = fill(box, "log_entries", "created_at", instants)
        until = START + 10 * SECOND
        given = history(session, START, until, prefetch=2)
        taken = []
        thread = threading.Thread(target=lambda: taken.extend(given))
        thread.start()
        while not box.requests:
            threading.Event().wait(0.01)
        given.close()
        thread.join()
        assert keys_of(taken) == expected(records, START, until)[:1]
        rest = history(session, START, until, resume=given.position)
        assert keys_of(rest) == expected(records, START, until)[1:]


def test_nothing_is_asked_before_the_first_record_is():
    with Sandbox() as box, session_on(box) as session:
        history(session, START, START + SECOND, prefetch=16)
        assert not box.requests


@needs_fork
@may_fork
def test_a_fork_in_mid_iteration():
    instants = [START + n * SECOND // 8 for n in range(800)]
    with Sandbox() as box:
        records = fill(box, "log_entries", "created_at", instants)
        until = START + 100 * SECOND
        with session_on(box) as session:
            given = history(session, START, until, prefetch=8)
            list(itertools.islice(given, 150))
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                signal.alarm(60)  # Without its own threads it would wait.
                status = 1
                try:
                    rest = keys_of(given)
                    status = int(rest != expected(records, START, until)[150:])
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            os.close(reader), os.close(writer)
            assert len(list(given)) == 650


@needs_fork
@may_fork
def test_a_fork_may_close_a_history_that_it_has_inherited():
    """Even if a worker, which stayed behind, was at the queue just then."""
    instants = [START + n * SECOND // 8 for n in range(800)]
    with Sandbox() as box, session_on(box) as session:
        fill(box, "log_entries", "created_at", instants)
        given = history(session, START, START + 100 * SECOND, prefetch=8)
        next(given)
        reader = given._records.gi_frame.f_locals["reader"]
        with reader._workers._tasks.mutex:
            child = os.fork()
            if not child:
                signal.alarm(30)
                try:
                    given.close()
                finally:
                    os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert len(list(given)) == 799


def test_a_deadline_for_the_whole():
    instants = [START + n * SECOND // 8 for n in range(800)]
    with Sandbox(latency=0.05) as box:
        fill(box, "log_entries", "created_at", instants)
        with session_on(box) as session:
            given = history(session, START, START + 100 * SECOND, deadline=1)
            with pytest.raises(pdpyras.PDDeadlineError, match="1 s"):
                list(given)
            assert len(box.requests) < 30


MEASURE = """
import itertools, sys, time, tracemalloc
import pdpyras
pdpyras.ITERATION_LIMIT = 1000
session = pdpyras.APISession("any-key")
session.url, since, until = sys.argv[1:]
tracemalloc.start()
history = session.iter_history
count = 0
for record in history("log_entries", since, until, page_size=20, prefetch=8):
    count += 1
    if count == 1500:
        tracemalloc.clear_traces()
    if count == 2500:
        time.sleep(1)  # for whoever reads further than he should
print(count, tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.no_cover
@pytest.mark.once
def test_memory_does_not_grow_with_the_period(monkeypatch):
    monkeypatch.setattr(pdpyras, "ITERATION_LIMIT", 1000)
    with Sandbox() as box:
        text = "x" * 1000
        box.add(
            "log_entries",
            (
                {"created_at": spell(START + n * SECOND), "text": text}
                for n in range(16000)
            ),
        )
        peaks = []
        for count in (4000, 16000):
            done = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    MEASURE,
                    box.url,
                    spell(START),
                    spell(START + count * SECOND),
                ],
                stdout=subprocess.PIPE,
                cwd=ROOT,
                check=True,
            )
            found, peak = map(int, done.stdout.split())
            assert found == count
            peaks.append(peak)
        # Two windows of 1000 records and some first pages are about 5 MB,
        # and all of the records 36 MB.
        assert max(peaks) < 9000000, peaks


def test_what_the_api_tells_a_hook_ends_no_history():
    """A part of a list would else pass for its whole, with a warning."""
    with Sandbox() as box:
        burst(box, 5, 150)
        with session_on(box) as session:

            def hook(response, **options):
                if "PNONE" not in response.url:
                    session.rget("users/PNONE")

            session.require_complete_results = False
            session.hooks["response"].append(hook)
            given = history(session, START, START + 60 * SECOND)
            with pytest.raises(pdpyras.PDHTTPError, match="PNONE"):
                list(given)


@pytest.mark.parametrize("prefetch", [0, 4])
@pytest.mark.parametrize("at", [2, 3])
def test_a_swap_while_pages_are_read_loses_nobody(
    at, prefetch, real_limit, server, session
):
    """One record leaves, and another comes: the total stays the same."""
    box = {"open": set(range(300)) - {280}}

    def answer(request):
        if len(server.requests) == at:
            box["open"] = set(range(300)) - {5}
        query = dict(request.query)
        start, limit = int(query["offset"]), int(query["limit"])
        found = [
            {"id": f"P{n:03}", "created_at": spell(START + n * 60 * SECOND)}
            for n in sorted(box["open"])
        ]
        page = {"incidents": found[start : start + limit]}
        page.update(more=start + limit < len(found), total=len(found))
        return wire.Answer(json=page)

    server.handler = answer
    until = START + 24 * 3600 * SECOND
    given = history(session, START, until, "incidents", prefetch=prefetch)
    names = {record["id"] for record in given}
    assert {f"P{n:03}" for n in range(300)} - {"P005", "P280"} <= names
