"""Events that survive: whatever fails, none is lost, doubled or overtaken.

What kills processes at random, and before each system call, is in
``tests/long/kill.py``, of which a short run is here.
"""

import contextlib
import enum
import functools
import gc
import hashlib
import json
import logging
import os
import pickle
import random
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from copy import copy
from datetime import timedelta
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pdpyras
import pdpyras_outbox
import pdpyras_outbox_store
from pdpyras_outbox import Outbox
from tests import wire
from tests.support import (
    KEY,
    ROOT,
    ROUTING_KEY,
    Clock,
    examples,
    may_fork,
    needs_fork,
    paused_thread,
)
from tests.test_processes import child

LOCK = "-sender-" + pdpyras_outbox._owner(pdpyras.EventsAPISession(KEY))[:8]
ENDINGS = ("", "-wal", "-shm", "-lock", "-sender", LOCK, "-ballast")


class Api:
    """Remembers what it took; answers what it is told to."""

    def __init__(self, server):
        self.url = server.url
        self.server = server
        self.answers = {}  # A status by dedup_key, or by None for all.
        self.taken = []
        server.handler = self.answer

    def answer(self, request):
        if not request.body:  # A deadline has cut it off.
            return wire.Answer(400)
        event = request.json
        key = event.get("dedup_key")
        status = self.answers.get(key, self.answers.get(None, 202))
        if status != 202:
            return wire.Answer(status, json={"errors": ["said so"]})
        self.taken.append((event.get("event_action"), key))
        key = key or "made-by-api"
        return wire.Answer(202, json={"dedup_key": key, "id": "change"})

    @property
    def bodies(self):
        return [request.json for request in self.server.requests]


@pytest.fixture
def api(server):
    return Api(server)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "alerts.db")


@pytest.fixture
def alerts(api, path, naps):
    """An events session with an outbox."""
    with session(api, path) as events:
        yield events


def session(api, path, key=KEY, kind="EventsAPISession", **settings):
    events = getattr(pdpyras, kind)(key, outbox=path)
    events.url = api.url
    for name, value in settings.items():
        setattr(events, name, value)
    return events


def trigger(events, key=None, **properties):
    return events.trigger("Disk is full", "db1", dedup_key=key, **properties)


def all_bytes(path):
    contents = b""
    folder = os.path.dirname(path)
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            contents += file.read()
    return contents


def end_pauses(events):
    """As if the pauses were over, one after the other."""
    events.outbox._file.write(
        "UPDATE pdpyras_outbox SET next_attempt_at = next_attempt_at - 100 "
        "WHERE next_attempt_at > 100",
        (),
    )


def forget_pauses(events):
    """As if all the pauses were over."""
    events.outbox._file.write(
        "UPDATE pdpyras_outbox SET next_attempt_at = ?", (0,)
    )


# ---------------------------------------------------------------------------
# What a call does
# ---------------------------------------------------------------------------


def test_an_event_is_synced_before_the_first_byte_is_sent(
    alerts, api, path, server
):
    seen = []

    def answer(request):
        with sqlite3.connect(path) as other:
            seen.extend(other.execute("SELECT body FROM pdpyras_outbox"))
        other.close()
        return wire.Answer(202, json={"dedup_key": "k"})

    server.handler = answer
    assert trigger(alerts, "k") == "k"
    (body,) = [json.loads(row[0]) for row in seen]
    sent = dict(server.requests[0].json)
    assert sent.pop("routing_key") == KEY
    assert body == sent
    assert len(alerts.outbox) == 0


def test_the_file_is_synced_in_full_and_has_a_log(alerts, path):
    with alerts.outbox._file.transaction() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_all_files_are_for_their_owner_only(alerts, api, path):
    before = os.umask(0)
    api.answers[None] = 503
    try:
        trigger(alerts)
    finally:
        os.umask(before)
    for ending in ENDINGS:
        mode = stat.S_IMODE(os.stat(path + ending).st_mode)
        assert mode == 0o600, ending


def test_a_file_that_others_can_read_is_closed_to_them(api, path, naps):
    with session(api, path) as events:
        trigger(events)
    pdpyras_outbox_store._process.close()
    os.chmod(path, 0o644)
    with session(api, path) as events:
        trigger(events)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_call_returns_the_dedup_key_although_nothing_is_delivered(
    status, alerts, api
):
    api.answers[None] = status
    key = trigger(alerts)
    assert key and len(alerts.outbox) == 1
    (waiting,) = alerts.outbox.waiting()
    assert str(status) in waiting.pop("error")
    assert waiting.pop("made_at") < waiting.pop("next_attempt_at")
    assert waiting == {
        "id": 1,
        "dedup_key": key,
        "event_action": "trigger",
        "summary": "Disk is full",
        "attempts": 1,
    }
    api.answers[None] = 202
    assert alerts.outbox.flush(alerts) == (1, 0, 0)
    assert api.taken == [("trigger", key)]


def test_a_call_returns_the_dedup_key_without_a_network(alerts, api, server):
    server.fault("refuse", stage="connect")
    key = trigger(alerts, "k")
    assert [e["dedup_key"] for e in alerts.outbox.waiting()] == [key]
    server.listen()
    assert alerts.outbox.flush(alerts).delivered == 1


def test_acknowledge_resolve_and_send_event_wait_too(alerts, api):
    api.answers[None] = 503
    trigger(alerts, "k")
    assert alerts.acknowledge("k") == "k"
    assert alerts.resolve("k") == "k"
    payload = {"summary": "s", "source": "s", "severity": "info"}
    assert alerts.send_event("trigger", "other", payload=payload) == "other"
    api.answers[None] = 202
    forget_pauses(alerts)
    assert alerts.outbox.flush(alerts).delivered == 4
    mine = [action for action, key in api.taken if key == "k"]
    assert mine == ["trigger", "acknowledge", "resolve"]


def test_change_events_wait_too(api, path, naps):
    with session(api, path, kind="ChangeEventsAPISession") as changes:
        api.answers[None] = 503
        assert changes.submit("Version 2") is None
        (waiting,) = changes.outbox.waiting()
        assert waiting["event_action"] == "change"
        assert waiting["summary"] == "Version 2"
        changes.send_change_event(payload={"summary": "Version 3"})
        api.answers[None] = 202
        forget_pauses(changes)
        assert changes.outbox.flush(changes).delivered == 2
    last = api.bodies[-1]["payload"]
    assert last["summary"] == "Version 3" and last["timestamp"]
    assert {r.path for r in api.server.requests} == {"/v2/change/enqueue"}


def test_an_event_keeps_its_time_and_its_dedup_key(alerts, api):
    api.answers[None] = 503
    key = trigger(alerts)
    api.answers[None] = 202
    alerts.outbox.flush(alerts)
    first, last = api.bodies[0], api.bodies[-1]
    assert first == last
    assert last["dedup_key"] == key
    assert last["payload"]["timestamp"].endswith("Z")


def test_a_time_that_is_given_is_kept(alerts, api):
    trigger(alerts, timestamp="2026-01-05T09:00:00Z")
    assert api.bodies[0]["payload"]["timestamp"] == "2026-01-05T09:00:00Z"


def test_time_and_key_are_there_before_an_event_is_cut_to_size(alerts, api):
    details = {"log": "x" * 600000}
    with pytest.warns(pdpyras.PDWarning, match="shortened"):
        trigger(alerts, custom_details=details)
    body = api.bodies[0]
    assert len(json.dumps(body)) <= pdpyras._MAX_EVENT_SIZE
    assert body["payload"]["timestamp"] and body["dedup_key"]


@pytest.mark.parametrize(
    "properties",
    [
        {"payload": {"source": "s", "severity": "info"}},
        {"payload": {"summary": "s", "severity": "info"}},
        {"payload": {"summary": "s", "source": "s", "severity": "bad"}},
        {},
    ],
)
def test_what_the_api_would_refuse_the_call_refuses(properties, alerts, api):
    with pytest.raises(ValueError):
        alerts.send_event("trigger", **properties)
    assert len(alerts.outbox) == 0 and api.bodies == []


def test_a_change_event_without_summary_is_refused(api, path):
    with session(api, path, kind="ChangeEventsAPISession") as changes:
        with pytest.raises(pdpyras.PDInputError, match="summary"):
            changes.send_change_event(payload={})
        assert len(changes.outbox) == 0


def test_without_an_outbox_everything_is_as_before(events, api, naps):
    assert events.outbox is None
    assert trigger(events, "k") == "k"
    assert "timestamp" not in api.bodies[0]["payload"]
    assert events.send_event("trigger") == "made-by-api"
    assert "dedup_key" not in api.bodies[-1]
    api.answers[None] = 400
    with pytest.raises(pdpyras.PDHTTPError):
        trigger(events)


def test_a_captive_portal_takes_no_event(alerts, server):
    server.handler = lambda request: wire.Answer(200, body=b"<html>Log in")
    trigger(alerts, "k")
    assert len(alerts.outbox) == 1


# ---------------------------------------------------------------------------
# Order
# ---------------------------------------------------------------------------


def test_a_resolve_never_overtakes_its_trigger(alerts, api):
    api.answers["k"] = 503
    trigger(alerts, "k")
    api.answers.clear()
    asked = len(api.bodies)
    alerts.resolve("k")  # The trigger's pause is not over.
    assert len(api.bodies) == asked
    forget_pauses(alerts)
    trigger(alerts, "another")
    assert api.taken == [
        ("trigger", "another"),
        ("trigger", "k"),
        ("resolve", "k"),
    ]


def test_other_keys_are_not_held_up(alerts, api):
    api.answers["k"] = 503
    trigger(alerts, "k")
    trigger(alerts, "other")
    assert api.taken == [("trigger", "other")]
    assert [e["dedup_key"] for e in alerts.outbox.waiting()] == ["k"]


POISON = "DROP TABLE x"


@pytest.fixture(params=[500, "closed"])
def poisoned(request, alerts, api, server):
    """Three events that always fail, and six others, wait for the network."""
    alerts.retry, alerts.max_network_attempts = {}, 0
    is_away, accept = [True], server.handler

    def answer(received):
        if not is_away and POISON not in received.body.decode():
            return accept(received)
        if request.param == "closed":
            return wire.Answer(raw=b"")
        return wire.Answer(500)

    server.handler = answer
    for number in range(3):
        details = {"query": POISON}
        trigger(alerts, f"poison{number}", custom_details=details)
    for number in range(3):
        trigger(alerts, f"k{number}")
        alerts.resolve(f"k{number}")
    is_away.clear()
    end_pauses(alerts)


GOOD = [(what, f"k{n}") for n in range(3) for what in ("trigger", "resolve")]


def test_what_always_fails_holds_up_no_flush(alerts, api, poisoned):
    for _ in range(4):
        alerts.outbox.flush(alerts)
        end_pauses(alerts)
    assert sorted(api.taken) == sorted(GOOD)
    waiting = [event["dedup_key"] for event in alerts.outbox.waiting()]
    assert waiting == ["poison0", "poison1", "poison2"]


def test_what_always_fails_holds_up_no_call(alerts, api, poisoned, naps):
    alerts.retry, alerts.max_network_attempts = {500: 2}, 3
    for number in range(4):
        trigger(alerts, f"next{number}")
        end_pauses(alerts)
    assert set(api.taken) >= set(GOOD)
    assert naps == []  # Others are not worth a pause.


def test_the_pauses_of_one_event_end_no_flush(alerts, api, poisoned):
    alerts.outbox._file.write(
        "UPDATE pdpyras_outbox SET attempts = 9, next_attempt_at = id", ()
    )
    alerts.outbox.flush(alerts, deadline=30)
    assert sorted(api.taken) == sorted(GOOD)


def test_one_key_of_two_routing_keys_is_two_alerts(alerts, api, path):
    api.answers[None] = 503
    trigger(alerts, "k")
    api.answers.clear()
    with session(api, path, key=ROUTING_KEY) as other:
        other.resolve("k")
        assert api.taken == [("resolve", "k")]
        assert api.bodies[-1]["routing_key"] == ROUTING_KEY
        assert other.outbox.flush(other) == (0, 1, 0)  # Not of its key.
    forget_pauses(alerts)
    assert alerts.outbox.flush(alerts) == (1, 0, 0)
    assert api.bodies[-1]["routing_key"] == KEY


# ---------------------------------------------------------------------------
# Pauses and refusals
# ---------------------------------------------------------------------------


def test_pauses_are_in_the_file_so_that_a_restart_does_not_hammer(
    alerts, api, path
):
    api.answers["k"] = 503
    trigger(alerts, "k")
    asked = len(api.bodies)
    with session(api, path) as restarted:
        for n in range(3):
            trigger(restarted, f"other {n}")
    assert len(api.bodies) == asked + 3
    (waiting,) = alerts.outbox.waiting()
    assert waiting["next_attempt_at"] > waiting["made_at"]


def test_a_flush_waits_for_what_is_left_of_a_pause(alerts, api, naps):
    api.answers["k"] = 503
    trigger(alerts, "k")
    api.answers.clear()
    del naps[:]
    assert alerts.outbox.flush(alerts).delivered == 1
    assert 0 < sum(naps) <= pdpyras_outbox.MIN_PAUSE


def test_pauses_grow_up_to_their_cap():
    pauses = [pdpyras_outbox._pause(n, ValueError()) for n in range(1, 40)]
    assert pauses[:3] == [2, 4, 8]
    assert pauses[-1] == max(pauses) == pdpyras_outbox.MAX_PAUSE


def test_in_an_outage_the_first_call_alone_is_slow(alerts, api, naps):
    api.answers[None] = 503
    trigger(alerts, "a")
    assert naps == [3, 6]
    for key in "bcd":
        trigger(alerts, key)
    assert naps == [3, 6]
    assert [body["dedup_key"] for body in api.bodies] == list("aaabcd")
    del api.answers[None]
    trigger(alerts, "e")
    assert api.taken == [("trigger", "e")]  # The others wait for their pause.
    assert alerts.outbox.flush(alerts, deadline=20).waiting == 0
    trigger(alerts, "f")
    assert sorted(key for _, key in api.taken) == list("abcdef")


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_is_at_least_what_the_api_asks_for(status, alerts, api, naps):
    headers = {"ratelimit-reset": "30", "ratelimit-remaining": "0"}
    api.server.handler = lambda request: wire.Answer(status, headers=headers)
    before = time.time()
    trigger(alerts, "k")
    ((due,),) = alerts.outbox._file.read(
        "SELECT next_attempt_at FROM pdpyras_outbox"
    )
    assert 30 <= due - before < 40


def test_a_clock_that_was_set_back_holds_up_nothing(alerts, api):
    api.answers["k"] = 503
    trigger(alerts, "k")
    api.answers.clear()
    far = time.time() + 1e6
    alerts.outbox._file.write(
        "UPDATE pdpyras_outbox SET next_attempt_at = ?", (far,)
    )
    trigger(alerts, "other")
    assert ("trigger", "k") in api.taken


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_what_is_refused_is_set_aside_and_logged(status, alerts, api, caplog):
    api.answers["bad"] = status
    assert trigger(alerts, "bad") == "bad"
    alerts.resolve("bad") if status == 400 else None
    assert len(alerts.outbox) == 0
    refused = alerts.outbox.refused()[0]
    assert refused["dedup_key"] == "bad"
    assert str(status) in refused["error"]
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert errors and str(status) in errors[0].getMessage()
    trigger(alerts, "other")
    assert api.taken[-1] == ("trigger", "other")


def test_what_was_refused_can_be_retried_or_dropped(alerts, api):
    api.answers["bad"] = api.answers["worse"] = 400
    trigger(alerts, "bad")
    trigger(alerts, "worse")
    api.answers.clear()
    first, second = alerts.outbox.refused()
    assert "said so" in first["error"]
    alerts.outbox.retry(first["id"])
    assert len(alerts.outbox) == 1
    alerts.outbox.flush(alerts)
    assert api.taken == [("trigger", "bad")]
    alerts.outbox.drop(second["id"])
    assert alerts.outbox.refused() == []
    for method in (alerts.outbox.retry, alerts.outbox.drop):
        with pytest.raises(pdpyras.PDInputError, match="no such event"):
            method(second["id"])


def test_what_waits_can_be_dropped(alerts, api):
    api.answers[None] = 503
    trigger(alerts, "k")
    alerts.outbox.drop(alerts.outbox.waiting()[0]["id"])
    assert len(alerts.outbox) == 0


def test_max_age_sets_aside(alerts, api, path, caplog):
    api.answers["old"] = 503
    trigger(alerts, "old")
    alerts.outbox.max_age = 3600
    assert len(alerts.outbox.waiting()) == 1
    past = time.time() - 3601
    alerts.outbox._file.write(
        "UPDATE pdpyras_outbox SET waits_since = ?", (past,)
    )
    assert alerts.outbox.flush(alerts) == (0, 0, 1)
    (refused,) = alerts.outbox.refused()
    assert "3600 s" in refused["error"]
    assert any(r.levelno == logging.ERROR for r in caplog.records)
    alerts.outbox.retry(refused["id"])
    assert len(alerts.outbox) == 1
    api.answers.clear()
    assert alerts.outbox.flush(alerts) == (1, 0, 0)


def test_max_events_raises_once_nothing_can_be_sent(api, path, naps):
    outbox = Outbox(path, max_events=2)
    with session(api, outbox) as alerts:
        api.answers[None] = 503
        trigger(alerts, "one")
        trigger(alerts, "two")
        with pytest.raises(pdpyras.PDClientError, match="max_events"):
            trigger(alerts, "three")
        api.answers.clear()
        forget_pauses(alerts)
        trigger(alerts, "three")
        assert len(alerts.outbox) == 0


def test_max_age_and_max_events_of_none_set_no_limit(api, path, naps):
    outbox = Outbox(path, max_age=None, max_events=None)
    api.answers[None] = 503
    with session(api, outbox) as alerts:
        fill(alerts, 10001, made_at=1)
        trigger(alerts, "one more")
        assert len(outbox) == 10002
        assert outbox.refused() == []


def test_by_default_ten_thousand_events_may_wait_for_any_time(api, path):
    outbox = Outbox(path)
    assert (outbox.max_age, outbox.max_events) == (None, 10000)
    half_an_hour = Outbox(path, max_age=timedelta(minutes=30))
    assert half_an_hour.max_age == 1800


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_age": 0},
        {"max_age": "1"},
        {"max_events": 0},
        {"max_events": "1"},
    ],
)
def test_arguments_out_of_range(arguments, path):
    with pytest.raises(ValueError, match="positive numbers"):
        Outbox(path, **arguments)


def test_an_empty_path(path):
    with pytest.raises(ValueError, match="empty"):
        Outbox("")


# ---------------------------------------------------------------------------
# What a call, and a flush, spend
# ---------------------------------------------------------------------------


def fill(alerts, count, **properties):
    """Let so many triggers wait."""
    with alerts.outbox._file.transaction() as connection:
        for number in range(count):
            event = {"event_action": "trigger", "dedup_key": f"k{number}"}
            row = pdpyras_outbox._row(
                alerts, "/v2/enqueue", dict(event, **properties)
            )
            connection.execute(
                "INSERT INTO pdpyras_outbox (token, owner, dedup_key, path, "
                "body, made_at, check_sum, waits_since) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*row[1:8], row.made_at),
            )


def test_a_call_spends_about_a_second_on_others(alerts, api, server):
    trigger(alerts, "first")
    fill(alerts, 40)
    answer = server.handler

    def slowly(request):
        threading.Event().wait(0.1)
        return answer(request)

    server.handler = slowly
    start = time.monotonic()
    trigger(alerts, "own")
    assert time.monotonic() - start < 3
    assert api.taken[1] == ("trigger", "own")
    assert 1 < len(api.taken) - 2 < 20
    assert len(alerts.outbox) > 20


@pytest.mark.oldest
def test_a_call_beside_a_busy_writer_returns(alerts, api):
    stop = threading.Event()

    def write():
        while not stop.is_set():
            event = {"dedup_key": os.urandom(4).hex()}
            row = pdpyras_outbox._row(alerts, "/v2/enqueue", event)
            alerts.outbox._file.add(row)

    trigger(alerts)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        start = time.monotonic()
        alerts.outbox.flush(alerts)
        trigger(alerts, "own")
        assert time.monotonic() - start < 20
    finally:
        stop.set()
        writer.join()


def test_nobody_waits_for_the_sender(alerts, api, server, path):
    arrived, go_on = threading.Event(), threading.Event()
    answer = server.handler

    def block(request):
        if request.json["dedup_key"] == "slow":
            arrived.set()
            go_on.wait(20)
        return answer(request)

    server.handler = block
    sender = threading.Thread(target=trigger, args=(alerts, "slow"))
    sender.start()
    assert arrived.wait(10)
    with session(api, path) as other:
        trigger(other, "k")  # Returns, although nobody can send it now.
        assert api.taken == []
        assert len(other.outbox) == 2
    go_on.set()
    sender.join()
    assert api.taken == [("trigger", "slow"), ("trigger", "k")]


def test_the_check_sum_is_the_same_in_every_python():
    """repr() writes a character as it is, or not, by Python's Unicode."""
    text = b'["t", "o", "\\ud83e\\udee0", "/p", "{}", 1700000000.0]'
    values = ("t", "o", "\U0001fae0", "/p", "{}", 1700000000.0)
    found = pdpyras_outbox_store._check_sum(*values)
    assert found == hashlib.sha256(text).hexdigest()


def test_a_time_that_is_an_integer(alerts, api, monkeypatch):
    """As those who test with the library have it."""
    monkeypatch.setattr(time, "time", lambda: 1700000000)
    assert trigger(alerts, "k") == "k"
    assert api.taken == [("trigger", "k")] and len(alerts.outbox) == 0


def test_another_routing_key_is_not_held_up_by_a_sender(alerts, api, path):
    """Nobody would send it later: who sends looks at its own key only."""
    with session(api, path, KEY + "-of-others") as others:
        with pdpyras_outbox_store.file_lock(path + LOCK) as is_held:
            assert is_held
            assert trigger(alerts, "waits") == "waits"
            assert trigger(others, "k") == "k"
            assert api.taken == [("trigger", "k")]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root can be another user",
)
@needs_fork
@may_fork
@pytest.mark.parametrize("can_write", [True, False])
def test_a_process_that_gives_up_its_rights_sends(can_write, api, naps):
    """As a server's worker that was forked after the session was made."""
    with tempfile.TemporaryDirectory(prefix="pdpyras-") as place:
        os.chmod(place, 0o777)
        path = os.path.join(place, "alerts.db")
        with session(api, path) as alerts:
            assert os.listdir(place) == []
            if not can_write:
                with open(path + LOCK, "w"):
                    os.chmod(path + LOCK, 0o600)
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    os.setuid(65534)
                    with warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always")
                        trigger(alerts, "k")
                    assert len(caught) == (0 if can_write else 1)
                    status = 0
                finally:
                    os._exit(status)
            assert wait_for(pid) == 0
        assert api.taken == [("trigger", "k")]


@needs_fork
@may_fork
def test_the_senders_lock_is_free_when_its_holder_dies(alerts, api, path):
    ready, is_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with pdpyras_outbox_store.file_lock(path + LOCK):
                os.write(is_ready, b"x")
                signal.pause()
        finally:
            os._exit(1)
    os.read(ready, 1)
    trigger(alerts, "k")
    assert api.taken == [] and len(alerts.outbox) == 1
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    trigger(alerts, "other")
    assert sorted(api.taken) == [("trigger", "k"), ("trigger", "other")]
    os.close(ready)
    os.close(is_ready)


@needs_fork
@may_fork
def test_no_thread_and_no_process_is_started(alerts, server):
    server.fault("refuse", stage="connect")

    def threads():
        trigger(alerts)
        alerts.outbox.flush(alerts)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return threading.active_count()

    # In a process of its own: other tests may have left threads and children.
    assert child(threads) == 1
    server.listen()


def test_who_writes_holds_up_no_reader(alerts, api, path):
    fill(alerts, 1)
    with writing(path), within(0):
        assert len(alerts.outbox) == 1
        assert [e["dedup_key"] for e in alerts.outbox.waiting()] == ["k0"]


@pytest.mark.filterwarnings("ignore::pdpyras.PDWarning")
def test_a_writer_that_does_not_end_lets_nothing_overtake(
    alerts, api, path, monkeypatch
):
    fill(alerts, 1)
    monkeypatch.setattr(pdpyras_outbox_store, "LOCK_TIME", 0.1)
    with writing(path), within(0.5):
        assert alerts.resolve("k0") == "k0"
    assert api.taken == [("trigger", "k0"), ("resolve", "k0")]
    assert os.path.exists(path + "-ballast")  # The disk is not full.
    alerts.outbox.flush(alerts)
    assert len(alerts.outbox) == 0
    assert len(api.taken) == 2


def test_an_attempt_is_bounded_by_a_deadline(alerts, api, monkeypatch):
    seconds = []
    original = pdpyras.EventsAPISession.post

    def post(self, url, **options):
        seconds.append(options["deadline"])
        return original(self, url, **options)

    monkeypatch.setattr(pdpyras.EventsAPISession, "post", post)
    trigger(alerts)
    assert seconds == [pdpyras_outbox.OWN_TIME]


# -- A slow API, and a silent one ---------------------------------------------


@pytest.fixture
def slow(alerts, server, monkeypatch):
    """The API takes longer than what is spent on others, but it works."""
    monkeypatch.setattr(pdpyras_outbox, "OTHERS_TIME", 0.1)
    monkeypatch.setattr(pdpyras_outbox, "OWN_TIME", 2)
    trigger(alerts, "first")
    answer = server.handler

    def slowly(request):
        threading.Event().wait(0.25)
        return answer(request)

    server.handler = slowly


def test_calls_empty_the_outbox_of_a_slow_api(alerts, api, slow):
    fill(alerts, 3)
    for number in range(2):
        trigger(alerts, f"own{number}")
        alerts.resolve(f"own{number}")
    assert len(alerts.outbox) == 0
    assert len(api.taken) == len(set(api.taken)) == 8


def test_calls_of_one_alert_empty_the_outbox_of_a_slow_api(alerts, api, slow):
    fill(alerts, 1)
    for action in ("acknowledge", "resolve"):
        event = {"event_action": action, "dedup_key": "k0"}
        row = pdpyras_outbox._row(alerts, "/v2/enqueue", event)
        alerts.outbox._file.add(row)
    trigger(alerts, "k0")
    alerts.acknowledge("k0")
    alerts.resolve("k0")
    assert len(alerts.outbox) == 0
    actions = ["trigger", "acknowledge", "resolve"]
    assert api.taken[1:] == [(action, "k0") for action in actions * 2]


def test_a_slow_api_that_has_failed_once_is_found_to_work(alerts, api, slow):
    api.answers["k"] = 503
    trigger(alerts, "k")
    api.answers.clear()
    for number in range(4):
        forget_pauses(alerts)
        trigger(alerts, f"own{number}")
    assert len(alerts.outbox) == 0
    # After the failure one call had little time.
    assert len(api.taken) == len(set(api.taken)) + 1


def test_that_one_event_fails_is_no_outage(alerts, api, slow):
    api.answers["k"] = 503
    trigger(alerts, "k")
    for number in range(5):
        end_pauses(alerts)
        trigger(alerts, f"own{number}")
    assert [e["dedup_key"] for e in alerts.outbox.waiting()] == ["k"]
    # When it was the last to be tried, one call had little time.
    assert len(api.taken) == len(set(api.taken)) + 1


def test_a_full_outbox_of_a_slow_api_takes_events_again(alerts, api, slow):
    fill(alerts, 2)
    alerts.outbox.max_events = 2
    trigger(alerts, "own")
    assert len(api.taken) == len(set(api.taken))
    assert ("trigger", "own") in api.taken


def fill_key(events, key, count):
    """Let events of one alert wait, none of which was tried."""
    for _ in range(count):
        event = {"event_action": "acknowledge", "dedup_key": key}
        row = pdpyras_outbox._row(events, "/v2/enqueue", event)
        events.outbox._file.add(row)


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("older", [0, 1, 2])
def test_a_call_of_a_slow_api_sends_two_events(
    older, is_full, alerts, api, slow
):
    fill(alerts, 4)
    fill_key(alerts, "own", older)
    if is_full:
        alerts.outbox.max_events = 4 + older
    trigger(alerts, "own")
    assert len(api.taken) - 1 == pdpyras_outbox.MIN_EVENTS
    assert len(alerts.outbox) == 4 + older + 1 - pdpyras_outbox.MIN_EVENTS


def test_nothing_is_begun_for_which_the_time_is_too_short(alerts, api, slow):
    fill(alerts, 1)
    trigger(alerts, "own", deadline=0.45)
    assert [event["attempts"] for event in alerts.outbox.waiting()] == [0]
    assert api.taken[1:] == [("trigger", "own")]


@pytest.fixture
def waits_long(alerts, monkeypatch):
    """Tells of so many calls whether each waits as for its own event."""
    monkeypatch.setattr(pdpyras_outbox, "OTHERS_TIME", 0.1)
    monkeypatch.setattr(pdpyras_outbox, "OWN_TIME", 0.7)

    def call(count, **options):
        taken = []
        for _ in range(count):
            end_pauses(alerts)
            start = time.monotonic()
            trigger(alerts, **options)
            taken.append(time.monotonic() - start)
        return [seconds > 0.6 for seconds in taken]

    return call


def test_of_a_silent_api_one_call_a_minute_waits_for_long(
    alerts, silent, waits_long
):
    assert waits_long(5) == [True, False, False, False, False]
    _, _, waits_from = alerts.outbox._file.noted()
    assert 50 < waits_from - time.time() <= pdpyras_outbox.MAX_PAUSE
    alerts.outbox._file.note([True, True, time.time() - 1])
    # It may have a deadline: perhaps all of them have.
    assert waits_long(3, deadline=0.65) == [True, False, False]
    assert waits_long(2) == [False, False]


def test_calls_with_a_deadline_find_a_slow_api_to_work(alerts, api, slow):
    api.answers["k"] = 503
    trigger(alerts, "k", deadline=1)
    api.answers.clear()
    for number in range(3):
        forget_pauses(alerts)
        trigger(alerts, f"own{number}", deadline=1)
    assert len(alerts.outbox) == 0


def test_for_others_one_call_a_minute_waits_for_long(
    alerts, api, server, waits_long
):
    trigger(alerts, "first")
    fill(alerts, 5)
    answer, ends = server.handler, threading.Event()

    def hang(request):
        if request.json["dedup_key"].startswith("k"):
            ends.wait(20)
        return answer(request)

    server.handler = hang
    assert waits_long(4) == [True, False, False, False]
    ends.set()
    assert len(api.taken) == 5


def test_one_event_that_hangs_is_no_outage(alerts, api, slow, server):
    """Neither for the others, nor for change events, which it would double."""
    answer, ends, changed = server.handler, threading.Event(), []

    def hang(request):
        if request.json.get("dedup_key") == "k0":
            ends.wait(20)
        elif request.path == "/v2/change/enqueue":
            changed.append(request.json["payload"]["summary"])
        return answer(request)

    server.handler = hang
    fill(alerts, 1)
    trigger(alerts, "own")
    with session(api, alerts.outbox, kind="ChangeEventsAPISession") as changes:
        for number in range(3):
            changes.submit(f"Version {number}")
            trigger(alerts, f"own{number}")
    ends.set()
    assert [e["dedup_key"] for e in alerts.outbox.waiting()] == ["k0"]
    assert changed == ["Version 0", "Version 1", "Version 2"]


@pytest.mark.parametrize(
    "note",
    [b"", b"\xff", b"{", b"[]", b'[1, 1, "x"]', b"[1, 1, 1%s]" % (b"0" * 400)],
)
def test_what_the_last_sender_has_noted_may_be_damaged(
    note, alerts, api, path, monkeypatch
):
    api.answers[None] = 503
    trigger(alerts)
    with open(path + "-sender", "r+b") as file:
        assert json.loads(file.read())[0] is True
        file.truncate(0)
        file.seek(0)
        file.write(note)
    api.answers.clear()
    assert trigger(alerts, "k") == "k"
    assert api.taken == [("trigger", "k")]


class Silent:
    """A server that says nothing, for longer than any deadline here."""

    def __init__(self, server):
        self.ends = threading.Event()
        server.handler = self

    def __call__(self, request):
        self.ends.wait(20)
        return wire.Answer(503)


@pytest.fixture
def silent(api, server):
    silence = Silent(server)
    yield silence
    silence.ends.set()


@contextlib.contextmanager
def within(seconds):
    """What runs within takes so many seconds at most."""
    clock = Clock()
    yield
    clock.check(seconds, earliest=0)


CALLS = {
    "trigger": lambda alerts, **kw: trigger(alerts, "k", **kw),
    "acknowledge": lambda alerts, **kw: alerts.acknowledge("k", **kw),
    "resolve": lambda alerts, **kw: alerts.resolve("k", **kw),
    "send_event": lambda alerts, **kw: alerts.send_event("resolve", "k", **kw),
}


# A busy machine, too, has begun an attempt by then.
@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_deadline_of_a_call_bounds_its_attempt(name, alerts, silent):
    with within(1):
        assert CALLS[name](alerts, deadline=1) == "k"
    (waiting,) = alerts.outbox.waiting()
    assert "deadline of 1 s" in waiting["error"]


@pytest.mark.parametrize("name", ["submit", "send_change_event"])
def test_the_deadline_of_a_change_event_bounds_its_attempt(
    name, api, path, silent
):
    with session(api, path, kind="ChangeEventsAPISession") as changes:
        payload = {"summary": "Version 2"}
        with within(1):
            if name == "submit":
                changes.submit("Version 2", deadline=1)
            else:
                changes.send_change_event(payload=payload, deadline=1)
        (waiting,) = changes.outbox.waiting()
    assert "deadline of 1 s" in waiting["error"]


def test_the_deadline_of_a_session_bounds_a_call(alerts, silent):
    alerts.deadline = 1
    with within(1):
        trigger(alerts, "k")
    assert "deadline of 1 s" in alerts.outbox.waiting()[0]["error"]


def test_a_deadline_of_none_beats_that_of_the_session(alerts, api, naps):
    alerts.deadline = 0.2
    api.answers[None] = 503
    trigger(alerts, "k", deadline=None)
    error = alerts.outbox.waiting()[0]["error"]
    assert f"deadline of {pdpyras_outbox.OWN_TIME:g} s" in error
    with pytest.raises(ValueError, match="deadline"):
        trigger(alerts, "other", deadline=0)
    assert len(alerts.outbox) == 1


def test_the_deadline_bounds_what_is_spent_on_others(alerts, api, server):
    trigger(alerts, "first")
    fill(alerts, 60)
    answer = server.handler

    def slowly(request):
        threading.Event().wait(0.05)
        return answer(request)

    server.handler = slowly
    with within(1):
        trigger(alerts, "own", deadline=1)
    assert ("trigger", "own") in api.taken
    assert len(alerts.outbox) > 30


def test_the_deadline_bounds_what_goes_before_of_the_same_key(
    alerts, api, silent
):
    fill(alerts, 1)
    with within(0.2):
        alerts.resolve("k0", deadline=0.2)
    assert len(alerts.outbox) == 2


@contextlib.contextmanager
def writing(path):
    """Another program is in a transaction, and does not end it."""
    other = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False
    )
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


def test_the_deadline_bounds_the_wait_for_another_writer(alerts, api, path):
    trigger(alerts, "first")
    api.answers["k"] = 503
    with writing(path), within(0.4):
        with pytest.raises(pdpyras.PDDeadlineError, match=r"0\.4 s"):
            trigger(alerts, "k", deadline=0.4)
    assert len(alerts.outbox) == 0  # It was not accepted.


def test_a_locked_outbox_leaves_time_to_send_directly(alerts, api, path):
    trigger(alerts, "first")
    with writing(path), pytest.warns(pdpyras.PDWarning, match="directly"):
        assert trigger(alerts, "k", deadline=2) == "k"
    assert api.taken == [("trigger", "first"), ("trigger", "k")]


def test_a_sender_that_is_stopped_is_told_of(alerts, api, path):
    trigger(alerts, "first")
    alerts.outbox.flush(alerts)
    with pdpyras_outbox_store.file_lock(path + LOCK) as is_held:
        assert is_held
        trigger(alerts, "a")  # It has just begun, as far as one can see.
        os.utime(path + LOCK, (time.time() - 500,) * 2)
        with pytest.warns(pdpyras.PDWarning, match="stopped"):
            trigger(alerts, "b")
    trigger(alerts, "c")  # Each attempt begins anew.
    assert sorted(key for _, key in api.taken) == ["a", "b", "c", "first"]


def write(alerts, pause):
    """Pause within a transaction."""
    with alerts.outbox._file.transaction():
        pause()


def test_the_deadline_bounds_the_wait_for_another_thread(alerts, api):
    trigger(alerts, "first")
    with paused_thread(functools.partial(write, alerts)):
        with within(0.2), pytest.raises(pdpyras.PDDeadlineError):
            trigger(alerts, "k", deadline=0.2)
    assert api.taken == [("trigger", "first")]


@pytest.mark.filterwarnings("ignore::pdpyras.PDWarning")
def test_a_deadline_is_shared_with_what_must_be_sent_first(alerts, api, path):
    """Another process is stopped while it writes."""
    api.answers["k"] = 503
    trigger(alerts, "k", deadline=0.5)
    api.answers.clear()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with within(3.5):
            alerts.resolve("k", deadline=3)
        other.rollback()
    with session(api, path) as another:  # Its process has ended meanwhile.
        another.outbox.flush(another)
        assert len(another.outbox) == 0
        another.outbox.flush(another)
    assert api.taken == [("trigger", "k"), ("resolve", "k")]


@pytest.mark.parametrize(
    "notes",
    [
        b"",
        b"x" * 9000,
        b"\xff" * 4096,
        b"token none",
        b"a 1 b",
        b"a 9" * 3,
        b"a " + b"9" * 20,
    ],
)
def test_notes_of_what_was_delivered_may_be_damaged(notes, alerts, api, path):
    fill(alerts, 2)
    with open(path + LOCK, "wb") as file:
        file.write(notes)
    with session(api, path) as another:
        another.outbox.flush(another)
        assert len(another.outbox) == 0
    assert api.taken == [("trigger", "k0"), ("trigger", "k1")]


def test_notes_of_what_was_delivered_take_no_room(alerts, path):
    """There may be more than the room for them; then the newest are there."""
    trigger(alerts, "k")
    file = alerts.outbox._file
    file.delivered.update((f"{n:016x}", n) for n in range(500))
    file.save_delivered(path + LOCK)
    assert os.path.getsize(path + LOCK) == 4096
    another = Outbox(path)._file
    assert another.load_delivered(path + LOCK)
    assert f"{499:016x}" in another.delivered
    assert set(another.delivered.items()) < set(file.delivered.items())
    file.delivered.clear()
    file.save_delivered(path + LOCK)
    assert not Outbox(path)._file.load_delivered(path + LOCK)


def test_an_outbox_that_is_dropped_waits_for_nobody(alerts, api, tmp_path):
    """The garbage collector may meet it within any call."""
    trigger(alerts, "first")
    with session(api, str(tmp_path / "other.db")) as others:
        trigger(others, "second")
        file = others.outbox._file
        dropped, others.outbox = weakref.ref(file), None
        with paused_thread(functools.partial(write, alerts)):
            with within(0.5):
                del file
                gc.collect()
        trigger(alerts, "third")
        assert dropped() is None


def test_a_dropped_outbox_warns_of_no_connection(path, recwarn):
    """Whichever of the two the garbage collector meets first (from 3.13)."""
    file = Outbox(path)._file
    file.read("SELECT 1")
    file.cycle = file
    held = [file, file._connection]  # A list is traversed from its end.
    del file
    gc.collect()
    held.clear()
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("name", ["-lock", LOCK])
def test_the_deadline_bounds_the_wait_for_the_lock_of_a_file(
    name, alerts, api, path
):
    with pdpyras_outbox_store.file_lock(path + name), within(0.2):
        try:
            trigger(alerts, "k", deadline=0.2)
        except pdpyras.PDDeadlineError:
            assert name == "-lock"
    assert api.taken == []


def test_what_was_taken_is_noted_after_the_deadline(alerts, api, path, server):
    """It is done with, although another program has kept it in the file."""
    accept, other = server.handler, contextlib.ExitStack()

    def hold(request):
        other.enter_context(writing(path))
        threading.Event().wait(0.2)
        return accept(request)

    server.handler = hold
    with within(1):
        assert trigger(alerts, "k", deadline=1) == "k"
    other.close()
    assert alerts.outbox.waiting() == []
    assert len(Outbox(path).waiting()) == 1  # As other processes see it.
    pdpyras_outbox_store._process.end()
    assert Outbox(path).waiting() == []
    assert alerts.outbox.flush(alerts) == (0, 0, 0)
    assert api.taken == [("trigger", "k")]


@pytest.mark.oldest
def test_a_process_that_ends_takes_out_what_was_delivered(alerts, path):
    fill(alerts, 2)
    pdpyras_outbox_store._process.close()
    script = (
        "import sys, pdpyras_outbox\n"
        "file = pdpyras_outbox.Outbox(sys.argv[1])._file\n"
        "event = file.events('refused = 0', ())[0]\n"
        "file.delivered[event.token] = event.id\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, path],
        env=dict(os.environ, PYTHONPATH=ROOT),
        check=True,
    )
    assert [e["dedup_key"] for e in alerts.outbox.waiting()] == ["k1"]


def test_after_the_deadline_there_is_a_moment_to_note_what_was_taken(path):
    ended = pdpyras._new_deadline(1e-9)
    file = pdpyras_outbox_store.File(path)
    seconds = "PRAGMA busy_timeout"
    with pdpyras_outbox_store.patience(ended):
        with pytest.raises(sqlite3.OperationalError):
            with pdpyras_outbox_store.file_lock(path + "-lock"):
                file.read("SELECT 1")
        assert file.read(seconds) == [(0,)]
        with pdpyras_outbox_store.at_least_a_moment():
            ((milliseconds,),) = file.read(seconds)
            assert 200 < milliseconds <= 300
        assert file.read(seconds) == [(0,)]
    assert file.read(seconds) == [(30000,)]


def test_the_deadline_bounds_what_is_sent_directly(
    alerts, tmp_path, server, silent
):
    alerts.outbox = str(tmp_path / "none" / "alerts.db")
    with within(0.2):
        with pytest.raises(pdpyras.PDDeadlineError, match=r"0\.2 s"):
            trigger(alerts, "k", deadline=0.2)


def test_a_guard_gives_its_event_a_minute(alerts, api, naps, monkeypatch):
    monkeypatch.setattr(pdpyras, "_MAX_GUARD_TIME", 5)
    api.answers[None] = 503
    with alerts.guard("s", "s"):
        pass
    assert "deadline of 5 s" in alerts.outbox.waiting()[0]["error"]


def test_the_deadline_of_a_flush_bounds_an_attempt(alerts, api, silent):
    fill(alerts, 2)
    with within(0.2):
        report = alerts.outbox.flush(alerts, deadline=0.2)
    assert report == (0, 2, 0)


def test_a_flush_that_takes_long_waits_for_another_sender(
    alerts, api, path, server, monkeypatch
):
    monkeypatch.setattr(pdpyras_outbox, "ATTEMPT_TIME", 0.5)
    fill(alerts, 12)
    answer, step = server.handler, pdpyras_outbox._Sender.step
    outcomes = []

    def answer_slowly(request):
        threading.Event().wait(0.2)
        return answer(request)

    def step_beside_another(self, choice, limit):
        with contextlib.ExitStack() as other:
            if len(outcomes) == 6:
                other.enter_context(
                    pdpyras_outbox_store.file_lock(path + LOCK)
                )
            done = step(self, choice, limit)
        outcomes.append(done.outcome)
        return done

    server.handler = answer_slowly
    monkeypatch.setattr(pdpyras_outbox._Sender, "step", step_beside_another)
    assert alerts.outbox.flush(alerts) == (12, 0, 0)
    assert outcomes.count("busy") == 1


def test_the_deadline_of_a_session_bounds_each_attempt_of_a_flush(
    alerts, api, silent
):
    fill(alerts, 1)
    alerts.deadline = 0.2
    with within(0.2):
        assert alerts.outbox.flush(alerts, deadline=None) == (0, 1, 0)


def test_a_flush_keeps_to_its_deadline(alerts, api, naps):
    api.answers[None] = 503
    trigger(alerts, "k")
    start = time.monotonic()
    assert alerts.outbox.flush(alerts, deadline=5) == (0, 1, 0)
    assert time.monotonic() - start < 6
    with pytest.raises(ValueError, match="deadline"):
        alerts.outbox.flush(alerts, deadline=0)


def test_a_flush_without_deadline_tries_each_once(alerts, api, server):
    trigger(alerts)
    fill(alerts, 2)
    api.answers[None] = 500
    alerts.retry = {}
    assert alerts.outbox.flush(alerts) == (0, 2, 0)
    keys = [body["dedup_key"] for body in api.bodies[1:]]
    assert keys == ["k0", "k1"]


def test_a_flush_without_deadline_tries_none_twice(
    alerts, api, naps, monkeypatch
):
    monkeypatch.setattr(pdpyras_outbox, "MIN_PAUSE", 0)  # Due again at once.
    fill(alerts, 2)
    api.answers[None] = 500
    assert alerts.outbox.flush(alerts) == (0, 2, 0)
    assert [event["attempts"] for event in alerts.outbox.waiting()] == [1, 1]


def test_more_can_be_passed_over_than_sqlite_takes_parameters(alerts):
    fill(alerts, 1)
    tried = {f"token {number}" for number in range(40000)}
    is_tried = tried.__contains__
    event = alerts.outbox._file.first("refused = 0", {}, is_tried)
    assert event.dedup_key == "k0"
    tried.add(event.token)
    assert alerts.outbox._file.first("refused = 0", {}, is_tried) is None


def test_a_report_counts_what_was_written_meanwhile(alerts, api, server):
    """Up to the last: who wrote it has found the sender's lock held."""
    actions = ["trigger", "acknowledge", "resolve"]
    fill(alerts, 1)
    accept = server.handler

    def answer(request):
        following = actions.index(request.json["event_action"]) + 1
        for action in actions[following : following + 1]:
            event = {"event_action": action, "dedup_key": "k0"}
            row = pdpyras_outbox._row(alerts, "/v2/enqueue", event)
            alerts.outbox._file.add(row)
        return accept(request)

    server.handler = answer
    assert alerts.outbox.flush(alerts) == (3, 0, 0)
    assert api.taken == [(action, "k0") for action in actions]


def test_a_flush_stops_when_the_network_is_away(alerts, api, server):
    trigger(alerts)
    fill(alerts, 5)
    alerts.close()
    server.fault("refuse", stage="connect")
    assert alerts.outbox.flush(alerts).waiting == 5
    attempts = [event["attempts"] for event in alerts.outbox.waiting()]
    assert attempts == [1, 0, 0, 0, 0]
    server.listen()


@pytest.mark.once
def test_thousands_wait_for_a_limit_of_120_a_minute(alerts, api, server):
    """The time is that of the pauses, none of which takes any."""
    count = int(os.environ.get("OUTBOX_EVENTS", "300"))
    fill(alerts, count)
    slept = pdpyras.time.sleep
    window, refusals = [], [0]
    accept = server.handler

    def answer(request):
        now = sum(slept)
        while window and window[0] <= now - 60:
            window.pop(0)
        if len(window) >= 120:
            refusals[0] += 1
            return wire.Answer(429)
        window.append(now)
        return accept(request)

    server.handler = answer
    report = alerts.outbox.flush(alerts)
    assert report == (count, 0, 0)
    assert api.taken == [("trigger", f"k{number}") for number in range(count)]
    minutes = sum(slept) / 60
    assert minutes < 2 * count / 120
    assert refusals[0] < count / 10


# ---------------------------------------------------------------------------
# Many processes and threads
# ---------------------------------------------------------------------------


def test_many_threads_share_an_outbox(alerts, api, monkeypatch):
    # An attempt that is cut short could have arrived, and is repeated.
    monkeypatch.setattr(pdpyras_outbox, "OTHERS_TIME", 60)

    def work(number):
        for action in ("trigger", "acknowledge", "resolve"):
            alerts.send_event(
                action,
                f"k{number}",
                payload={"summary": "s", "source": "s", "severity": "info"},
            )

    threads = [
        threading.Thread(target=work, args=(number,)) for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alerts.outbox.flush(alerts, deadline=60)
    check_order(api, 12)


def test_another_sends_it_before_this_one_looks_again(
    alerts, api, path, monkeypatch
):
    """What has left the file was sent, and is not to be written again."""
    send_own = pdpyras_outbox._Sender.send_own
    second = session(api, path)

    def while_another_sends(self, row):
        with pdpyras_outbox_store.file_lock(path + LOCK):
            send_own(self, row)
        second.outbox.flush(second)

    monkeypatch.setattr(
        pdpyras_outbox._Sender, "send_own", while_another_sends
    )
    trigger(alerts, "k")
    assert len(alerts.outbox) == 0
    alerts.outbox.flush(alerts)
    assert api.taken == [("trigger", "k")]
    second.close()


@pytest.mark.filterwarnings("ignore::pdpyras.PDWarning")
def test_what_was_sent_is_not_written_to_a_new_file(alerts, api, monkeypatch):
    """While others are sent, the file is damaged, and no new one is made."""

    def fail(self, seconds=1):
        self._file.set_aside(ValueError("so it seems"))
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(pdpyras_outbox._Sender, "send_others", fail)
    trigger(alerts, "k")
    assert api.taken == [("trigger", "k")]
    assert len(alerts.outbox) == 0


def check_order(api, count):
    actions = ["trigger", "acknowledge", "resolve"]
    for number in range(count):
        mine = [a for a, key in api.taken if key == f"k{number}"]
        assert mine == actions, number


# It forks before it has a session: to start sixteen programs takes too long.
PROCESSES = """
import os, sys, pdpyras, pdpyras_outbox
url, path, count = sys.argv[1:]
pdpyras_outbox.OTHERS_TIME = 60
pids = []
for number in range(int(count)):
    pids.append(os.fork())
    if not pids[-1]:
        events = pdpyras.EventsAPISession("not-a-real-key", outbox=path)
        events.url = url
        events.trigger("s", "s", dedup_key="k%d" % number)
        events.acknowledge("k%d" % number)
        events.resolve("k%d" % number)
        os._exit(0)
statuses = [os.waitpid(pid, 0)[1] for pid in pids]
assert statuses == [0] * int(count), statuses
"""


@pytest.mark.oldest
@needs_fork
def test_sixteen_processes_share_an_outbox(alerts, api, path):
    arguments = [api.url, path, "16"]
    done = subprocess.run(
        [sys.executable, "-c", PROCESSES, *arguments],
        env=dict(os.environ, PYTHONPATH=ROOT),
        timeout=120,
    )
    assert done.returncode == 0
    alerts.outbox.flush(alerts, deadline=60)
    check_order(api, 16)


def wait_for(pid):
    """The exit status of a child."""
    _, status = os.waitpid(pid, 0)
    return status


@may_fork
@needs_fork
def test_forks_while_threads_write(alerts, api, monkeypatch):
    """Python 3.6 tells nobody of a fork, so that its child may have to do
    without an outbox: it sends directly, with a warning."""
    # An attempt that is cut short could have arrived, and is repeated.
    monkeypatch.setattr(pdpyras_outbox, "OTHERS_TIME", 60)
    may_keep = sys.version_info >= (3, 7)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            trigger(alerts)

    trigger(alerts)
    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        for number in range(8):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    signal.alarm(60)
                    if not may_keep:
                        warnings.simplefilter("ignore", pdpyras.PDWarning)
                    trigger(alerts, f"child {number}")
                    assert not may_keep or len(alerts.outbox) >= 0
                    status = 0
                finally:
                    os._exit(status)
            assert wait_for(pid) == 0
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    alerts.outbox.flush(alerts, deadline=60)
    assert len(alerts.outbox) == 0
    keys = {key for _, key in api.taken}
    assert keys >= {f"child {number}" for number in range(8)}
    assert len(api.taken) == len(keys)
    with alerts.outbox._file.transaction() as connection:
        (found,) = connection.execute("PRAGMA integrity_check").fetchone()
    assert found == "ok"


@may_fork
@needs_fork
def test_several_threads_fork_while_one_writes(alerts, api):
    """What fails about a fork is told on stderr only: an error here."""
    statuses = []

    def fork():
        for _ in range(40):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            statuses.append(wait_for(pid))

    trigger(alerts, "first")
    forking = [threading.Thread(target=fork) for _ in range(3)]
    for thread in forking:
        thread.start()
    number = 0
    while any(thread.is_alive() for thread in forking):
        number += 1
        trigger(alerts, str(number))
    for thread in forking:
        thread.join()
    assert statuses == [0] * 120
    alerts.outbox.flush(alerts, deadline=60)
    assert len({key for _, key in api.taken}) == number + 1


def descriptors(path):
    """How many of this process lead to a file."""
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # It was that of the directory.
            count += os.readlink(f"/proc/self/fd/{number}") == path
    return count


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
def test_a_session_for_each_event_leaves_no_file_open(api, path):
    """It is let go of while another process has the lock of the file."""
    for number in range(20):
        events = session(api, path)
        trigger(events, str(number))
        with pdpyras_outbox_store.file_lock(path + "-lock") as is_held:
            assert is_held
            del events
            gc.collect()
    assert descriptors(os.path.realpath(path)) <= 2
    assert len(api.taken) == 20


def test_who_lets_go_of_an_outbox_holds_up_no_other(alerts, api, tmp_path):
    """Its file is in use, and it has delivered what it could not take out."""
    other = str(tmp_path / "other.db")
    events = session(api, other)
    trigger(events, "first")
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        events.outbox._file.delivered["token"] = 1
        del events
        gc.collect()
        with within(0.5):
            assert len(alerts.outbox) == 0
            trigger(alerts, "second")
    trigger(alerts, "third")
    assert pdpyras_outbox_store._process.orphans == []


@may_fork
@needs_fork
def test_a_childs_inherited_lock_holds_up_nobody(alerts, api, server):
    """A child that lives on frees what its parent's sender holds."""
    inside, go_on = threading.Event(), threading.Event()
    accept = server.handler

    def block(request):
        inside.set()
        go_on.wait(20)
        return accept(request)

    server.handler = block
    sender = threading.Thread(target=trigger, args=(alerts, "k"))
    sender.start()
    assert inside.wait(10)
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        pdpyras_outbox_store._process.check()
        os.read(ready, 1)
        os._exit(0)
    go_on.set()
    sender.join()
    with pdpyras_outbox_store.file_lock(
        alerts.outbox.path + LOCK, 5
    ) as is_held:
        os.write(done, b"x")
        assert is_held
    assert wait_for(pid) == 0
    os.close(ready)
    os.close(done)


def test_an_outbox_pickles_by_its_path(alerts, api, path):
    outbox = Outbox(path, max_age=60, max_events=7)
    with outbox._file.transaction():
        other = pickle.loads(pickle.dumps(outbox))
    assert (other.path, other.max_age, other.max_events) == (path, 60, 7)
    with session(api, other) as events:
        trigger(events, "k")
    assert api.taken == [("trigger", "k")]


def test_a_session_keeps_its_outbox_when_copied_and_pickled(alerts, api):
    trigger(alerts)
    assert copy(alerts).outbox is alerts.outbox
    other = pickle.loads(pickle.dumps(alerts))
    assert other.outbox.path == alerts.outbox.path
    trigger(other, "k")
    assert api.taken[-1] == ("trigger", "k")


def test_an_outbox_may_be_set_later_by_object_or_path(events, path, tmp_path):
    events.outbox = Outbox(path)
    assert events.outbox.path == path
    events.outbox = tmp_path / "other.db"
    assert events.outbox.path == str(tmp_path / "other.db")
    events.outbox = os.fsencode(path)
    assert events.outbox.path == path
    assert events.outbox and len(events.outbox) == 0
    events.outbox = None
    assert events.outbox is None


@pytest.mark.parametrize(
    "kind", ["EventsAPISession", "ChangeEventsAPISession"]
)
def test_pagerduty_outbox_names_the_file(kind, path, monkeypatch):
    monkeypatch.setenv("PAGERDUTY_ROUTING_KEY", KEY)
    monkeypatch.setenv("PAGERDUTY_OUTBOX", path)
    with getattr(pdpyras, kind).from_env() as events:
        assert events.outbox.path == path
    with getattr(pdpyras, kind).from_env(outbox=path + "2") as events:
        assert events.outbox.path == path + "2"
    monkeypatch.setenv("PAGERDUTY_OUTBOX", "")
    with getattr(pdpyras, kind).from_env() as events:
        assert events.outbox is None


def test_a_signal_handler_that_triggers_loses_nothing(alerts, api):
    """It comes in the middle of a transaction, whose lock is held."""
    trigger(alerts, "first")
    alerts.log.setLevel(logging.CRITICAL)
    with pytest.warns(pdpyras.PDWarning, match="sent directly"):
        with alerts.outbox._file.transaction():
            assert trigger(alerts, "k") == "k"
    assert api.taken[-1] == ("trigger", "k")


# ---------------------------------------------------------------------------
# Disks
# ---------------------------------------------------------------------------


@pytest.fixture
def full_disk(alerts, path):
    """A function after which the files of the process may not grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))

    yield fill_up
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def restores_the_disk(test):
    """End the limit with the test itself: pytest writes to a file, too."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            return test(*args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return run


@restores_the_disk
def test_a_full_disk_at_the_first_event(alerts, api, full_disk, recwarn):
    full_disk()
    assert trigger(alerts, "k") == "k"
    assert api.taken == [("trigger", "k")]
    (warning,) = [w for w in recwarn if w.category is pdpyras.PDWarning]
    assert "sent directly" in str(warning.message)
    assert warning.filename == __file__


@restores_the_disk
def test_a_full_disk_and_no_network_raise(alerts, api, full_disk):
    full_disk()
    api.answers[None] = 503
    with pytest.raises(pdpyras.PDServerError):
        trigger(alerts, "k")
    api.answers[None] = 400
    with pytest.raises(pdpyras.PDHTTPError):
        trigger(alerts, "k")


@pytest.mark.filterwarnings("ignore::pdpyras.PDWarning")
@restores_the_disk
def test_a_full_disk_lets_nothing_overtake_what_waits(alerts, api, full_disk):
    api.answers["k"] = 503
    trigger(alerts, "k")
    full_disk()
    with pytest.raises(pdpyras.PDClientError, match="same dedup_key"):
        alerts.resolve("k")
    api.answers.clear()
    alerts.resolve("k")
    assert api.taken == [("trigger", "k"), ("resolve", "k")]


@pytest.mark.filterwarnings("ignore::pdpyras.PDWarning")
@restores_the_disk
def test_what_was_delivered_is_remembered_while_the_disk_is_full(
    alerts, api, full_disk
):
    api.answers["k"] = 503
    trigger(alerts, "k")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    full_disk()
    api.answers.clear()
    forget = "UPDATE pdpyras_outbox SET next_attempt_at = 0"
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit[1], limit[1]))
    alerts.outbox._file.write(forget, ())
    full_disk()
    for _ in range(3):
        pdpyras_outbox._Sender(alerts.outbox, alerts).send_others()
        assert api.taken == [("trigger", "k")]
    assert not os.path.exists(alerts.outbox.path + "-ballast")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit[1], limit[1]))
    assert alerts.outbox.waiting() == []
    alerts.outbox.flush(alerts)
    assert len(alerts.outbox) == 0
    assert api.taken == [("trigger", "k")]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of four megabytes; it takes a superuser to have one."""
    point = tmp_path / "small"
    point.mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m", "none", str(point)]
    try:
        done = subprocess.run(["mount", *options], stderr=subprocess.PIPE)
    except OSError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip("may not mount a small disk")
    yield point
    pdpyras_outbox_store._process.close()
    subprocess.run(["umount", "-l", str(point)], check=True)


def test_an_outbox_in_the_home_directory(tmp_path, monkeypatch):
    """What starts a program without a shell leaves the ~ as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = os.path.join(os.path.realpath(str(tmp_path)), "alerts.db")
    assert Outbox("~/alerts.db").path == path


def test_a_path_that_the_locale_does_not_know(api, tmp_path):
    """The outbox is used, or the event is sent directly (Python 3.6)."""
    folder = os.path.join(os.fsencode(str(tmp_path)), b"\xc3\x9cberwachung")
    os.mkdir(folder)
    script = (
        "import sys, pdpyras; "
        "events = pdpyras.EventsAPISession('k', outbox='alerts.db'); "
        "events.url = sys.argv[1]; events.trigger('s', 's', 'k')"
    )
    env = dict(os.environ, LC_ALL="C", PYTHONPATH=ROOT, PYTHONUTF8="0")
    env["PYTHONCOERCECLOCALE"] = "0"
    command = [sys.executable, "-W", "ignore", "-c", script, api.url]
    subprocess.run(command, cwd=folder, env=env, check=True)
    assert api.taken == [("trigger", "k")]


@pytest.mark.parametrize("left", [1500, 200])
def test_a_reserve_on_a_disk_that_is_nearly_full(left, small_disk, api):
    """That is where an alert of a full disk is kept."""
    with open(str(small_disk / "log"), "wb") as log:
        log.write(b"x" * (4096 - left) * 1024)
    with session(api, str(small_disk / "alerts.db")) as alerts:
        trigger(alerts, "k")
        assert os.path.getsize(alerts.outbox.path + "-ballast") > 60_000


@pytest.mark.filterwarnings("ignore::pdpyras.PDWarning")
def test_a_disk_that_fills_up(small_disk, api, naps):
    with session(api, str(small_disk / "alerts.db")) as alerts:
        trigger(alerts, "first")
        assert os.path.exists(alerts.outbox.path + "-ballast")
        api.answers[None] = 503
        trigger(alerts, "waits")
        with open(str(small_disk / "log"), "wb", buffering=0) as log:
            with pytest.raises(OSError):
                while log.write(b"x" * 1024):
                    pass
        api.answers.clear()
        details = {"log": "y" * 100000}
        for number in range(3):
            trigger(alerts, f"big {number}", custom_details=details)
        forget = alerts.outbox._file.delivered
        alerts.outbox.flush(alerts)
        assert len(alerts.outbox) == 0 and not forget
    assert len(api.taken) == len(set(api.taken)) == 5


def test_a_full_disk_as_the_next_process_finds_it(small_disk, api, naps):
    """It has no room for SQLite's log, unless it takes what was kept."""
    path = str(small_disk / "alerts.db")
    api.answers[None] = 503
    with session(api, path) as alerts:
        trigger(alerts, "k")
    pdpyras_outbox_store._process.close()
    with open(str(small_disk / "log"), "wb", buffering=0) as log:
        for size in (1024, 1):
            with pytest.raises(OSError):
                while log.write(b"x" * size):
                    pass
    api.answers.clear()
    with session(api, path) as alerts:
        alerts.resolve("k")
        alerts.outbox.flush(alerts)
        assert len(alerts.outbox) == 0
    assert api.taken == [("trigger", "k"), ("resolve", "k")]


def test_a_directory_that_is_not_there(api, tmp_path, naps):
    with session(api, str(tmp_path / "none" / "alerts.db")) as alerts:
        with pytest.warns(pdpyras.PDWarning, match="sent directly"):
            assert trigger(alerts, "k") == "k"
        with pytest.raises(pdpyras.PDClientError, match="cannot be used"):
            len(alerts.outbox)
        with pytest.raises(pdpyras.PDClientError, match="cannot be used"):
            alerts.outbox.flush(alerts)
    assert api.taken == [("trigger", "k")]


def test_a_database_of_somebody_else_is_left_alone(api, path, naps):
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (a)")
    other.commit()
    other.close()
    os.chmod(path, 0o664)
    with session(api, path) as alerts:
        with pytest.warns(pdpyras.PDWarning, match="not an outbox"):
            trigger(alerts, "k")
    assert api.taken == [("trigger", "k")]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o664
    other = sqlite3.connect(path)
    names = other.execute("SELECT name FROM sqlite_master").fetchall()
    other.close()
    assert names == [("theirs",)]


def test_a_network_file_system_is_refused(path, tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"none / ext4 rw 0 0\nhost:/x {tmp_path} nfs4 rw 0 0\n")
    original = pdpyras_outbox_store._file_system
    assert original(str(tmp_path), str(mounts)) == "nfs4"
    assert original(str(tmp_path / "below"), str(mounts)) == "nfs4"
    assert original(str(tmp_path) + "2", str(mounts)) == "ext4"
    assert original("/", str(mounts)) == "ext4"
    monkeypatch.setattr(
        pdpyras_outbox_store,
        "_file_system",
        lambda directory: original(directory, str(mounts)),
    )
    with pytest.raises(pdpyras.PDInputError, match=r"nfs4.*local disk"):
        Outbox(path)


def test_a_file_system_without_locks_is_refused(path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(pdpyras_outbox_store.fcntl, "flock", flock)
    with pytest.raises(pdpyras.PDInputError, match="No locks available"):
        Outbox(path)


def test_a_system_without_file_locks_is_refused(path, monkeypatch):
    monkeypatch.setattr(pdpyras_outbox_store, "fcntl", None)
    with pytest.raises(pdpyras.PDInputError, match="fcntl"):
        Outbox(path)


# ---------------------------------------------------------------------------
# Damage
# ---------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_set_aside(api, path, naps):
    with open(path, "w") as file:
        file.write("This is no database. " * 100)
    with session(api, path) as alerts:
        with pytest.warns(pdpyras.PDWarning, match="is damaged") as caught:
            assert trigger(alerts, "k") == "k"
        assert caught[0].filename == __file__
        assert len(alerts.outbox) == 0
    assert api.taken == [("trigger", "k")]
    folder = os.path.dirname(path)
    (aside,) = [n for n in os.listdir(folder) if "damaged" in n]
    with open(os.path.join(folder, aside)) as file:
        assert file.read().startswith("This is no database.")


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory):
    """The bytes of an outbox in which twenty events wait."""
    path = str(tmp_path_factory.mktemp("whole") / "alerts.db")
    with pdpyras.EventsAPISession(KEY, outbox=path) as alerts:
        fill(alerts, 20, payload={"summary": "b" * 3000})
    pdpyras_outbox_store._process.close()
    with open(path, "rb") as file:
        return file.read()


def damaged(contents, seed):
    """These bytes, some of which are others."""
    chance, contents = random.Random(seed), bytearray(contents)
    for _ in range(chance.choice([1, 30, 3000])):
        contents[chance.randrange(len(contents))] = chance.randrange(256)
    return bytes(contents)


@pytest.mark.parametrize("seed", range(80))
def test_damage_loses_not_the_event_at_hand(
    seed, api, path, naps, recwarn, whole_file
):
    with open(path, "wb") as file:
        file.write(damaged(whole_file, seed))
    with session(api, path) as alerts:
        alerts.retry = {}
        assert trigger(alerts, "at hand") == "at hand"
        api.answers.clear()
        try:
            alerts.outbox.flush(alerts, deadline=200)
        except pdpyras.PDClientError:
            pass
    assert api.taken.count(("trigger", "at hand")) == 1
    assert len(api.taken) == len(set(api.taken))
    assert all(key in ALERTS_BEFORE for _, key in api.taken)


def make_index_stale(path):
    """Let an index say that an event waits, also when it was set aside."""
    name = "pdpyras_outbox_queue"

    def run(*statements):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA writable_schema = ON")
        rows = [connection.execute(*s).fetchall() for s in statements]
        connection.close()
        return rows

    (index,), ((version,),) = run(
        ("SELECT * FROM sqlite_master WHERE name = ?", (name,)),
        ("PRAGMA schema_version",),
    )
    run(
        ("DELETE FROM sqlite_master WHERE name = ?", (name,)),
        (f"PRAGMA schema_version = {version + 1}",),
    )
    (row,), _ = run(
        ("SELECT * FROM pdpyras_outbox WHERE id = 1",),
        ("DELETE FROM pdpyras_outbox WHERE id = 1",),
    )
    run(
        ("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", index),
        (f"PRAGMA schema_version = {version + 2}",),
    )
    values = ", ".join("?" * len(row))
    run((f"INSERT INTO pdpyras_outbox VALUES ({values})", (*row[:-1], 1)))


def test_an_index_that_is_damaged_in_use_repeats_nothing(
    alerts, api, path, recwarn
):
    """Before it is noticed, it gives the same row again and again."""
    fill(alerts, 3)
    make_index_stale(path)
    api.answers["k0"] = 400
    start = time.monotonic()
    alerts.outbox.flush(alerts, deadline=20)
    assert time.monotonic() - start < 15
    assert len(api.bodies) == len({b["dedup_key"] for b in api.bodies})
    assert trigger(alerts, "new") == "new"
    assert api.taken[-1] == ("trigger", "new")


def test_an_index_that_is_damaged_in_use_refuses_once(
    alerts, api, path, caplog
):
    fill(alerts, 3)
    make_index_stale(path)
    sql = "UPDATE pdpyras_outbox SET waits_since = 5 WHERE id = ?"
    alerts.outbox._file.write(sql, (1,))
    alerts.outbox.max_age = 60
    assert alerts.outbox.flush(alerts).refused == 1
    assert caplog.text.count("has waited for more than 60 s") == 1


def test_damage_is_found_when_a_file_is_opened(alerts, api, path):
    fill(alerts, 3)
    make_index_stale(path)
    pdpyras_outbox_store._process.close()
    with pytest.warns(pdpyras.PDWarning, match="damaged.*recover"):
        assert trigger(alerts, "new") == "new"
    assert api.taken == [("trigger", "new")]
    assert len(alerts.outbox) == 0


ALERTS_BEFORE = {"at hand", *(f"k{number}" for number in range(20))}


def test_another_process_has_the_file_open_that_is_set_aside(
    alerts, api, path
):
    """Neither does it write to the old one, nor does it harm the new one."""
    api.answers[None] = 503
    trigger(alerts, "old")
    other = Outbox(path)
    with other._file.transaction():
        pass
    alerts.outbox._file.set_aside(ValueError("so it seems"))
    with pytest.warns(pdpyras.PDWarning, match="so it seems"):
        trigger(alerts, "new")
    with session(api, other) as second:
        trigger(second, "newest")
        keys = [event["dedup_key"] for event in alerts.outbox.waiting()]
        assert keys == ["new", "newest"]
    other._file.close()
    alerts.outbox._file.abandon()
    keys = [event["dedup_key"] for event in alerts.outbox.waiting()]
    assert keys == ["new", "newest"]


def test_a_row_that_is_not_what_was_written_is_set_aside(alerts, api):
    api.answers[None] = 503
    trigger(alerts, "k")
    api.answers.clear()
    forget_pauses(alerts)
    alerts.outbox._file.write(
        "UPDATE pdpyras_outbox SET body = replace(body, 'Disk', 'Desk')", ()
    )
    assert alerts.outbox.flush(alerts) == (0, 0, 1)
    assert api.taken == []
    assert "damaged" in alerts.outbox.refused()[0]["error"]


# ---------------------------------------------------------------------------
# Secrets, and the cost
# ---------------------------------------------------------------------------


def test_no_routing_key_is_in_any_file(api, path, naps):
    api.answers[None] = 503
    key = "R0UT1NGKEYR0UT1NGKEYR0UT1NGKEY12"
    with session(api, path, key=key) as alerts:
        trigger(alerts, "k")
        assert key not in repr(alerts.outbox.waiting())
        assert key not in repr(alerts.outbox)
    assert b"Disk is full" in all_bytes(path)
    assert key.encode() not in all_bytes(path)


def test_an_event_costs_two_transactions_that_write(alerts, api, monkeypatch):
    """Each is a sync of the disk, and syncs are what an event costs."""
    trigger(alerts, "first")
    kinds = []
    original = alerts.outbox._file.transaction

    def transaction(kind="IMMEDIATE"):
        kinds.append(kind)
        return original(kind)

    monkeypatch.setattr(alerts.outbox._file, "transaction", transaction)
    trigger(alerts, "k")
    assert kinds.count("IMMEDIATE") == 2
    assert len(kinds) <= 6
    assert len(api.taken) == 2


# ---------------------------------------------------------------------------
# Kills
# ---------------------------------------------------------------------------


class Killed(BaseException):
    """The process is dead from here on."""


KILL = ("killed", None)  # Among the events that were taken.


def killing_outbox(path, countdown):
    """An outbox whose process dies at its n-th statement or request."""
    outbox = Outbox(path)
    original = outbox._file.transaction

    def tick(*_):
        countdown[0] -= 1
        if countdown[0] == 0:
            raise Killed

    def transaction(*kind):
        tick()
        return original(*kind)

    outbox._file.transaction = transaction
    return outbox, tick


@settings(max_examples=examples(10), deadline=None)
@example(steps=[4, 7], statuses=[])  # The same event, twice.
@given(
    steps=st.lists(st.integers(1, 30), max_size=6),
    statuses=st.lists(st.sampled_from([202, 202, 202, 500, 429]), max_size=8),
)
def test_killed_at_any_step(tmp_path_factory, steps, statuses):
    path = str(tmp_path_factory.mktemp("killed") / "alerts.db")
    accepted, remaining = [], list(statuses)
    with wire.Server() as server, contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(pdpyras.time, "sleep"))
        # An attempt that is cut short could have arrived, and is repeated.
        patches.enter_context(
            mock.patch.object(pdpyras_outbox, "OTHERS_TIME", 60)
        )
        api = Api(server)
        answer = server.handler

        def moody(request):
            status = remaining.pop() if remaining else 202
            if status != 202:
                return wire.Answer(status)
            return answer(request)

        server.handler = moody
        for number, step in enumerate([*steps, 10**9]):
            outbox, tick = killing_outbox(path, [step])
            with session(api, outbox) as alerts:
                alerts.retry = {429: 0}
                alerts.hooks["response"] = [
                    lambda response, *_, tick=tick, **__: tick()
                ]
                try:
                    for action in ("trigger", "resolve"):
                        key = f"k{number}"
                        alerts.send_event(
                            action,
                            key,
                            payload={
                                "summary": "s",
                                "source": "s",
                                "severity": "info",
                            },
                        )
                        accepted.append((action, key))
                except Killed:
                    api.taken.append(KILL)
                    continue
        outbox._file.write("UPDATE pdpyras_outbox SET next_attempt_at = 0", ())
        with session(api, path) as alerts:
            alerts.outbox.flush(alerts, deadline=60)
            assert len(alerts.outbox) == 0
    assert set(accepted) <= set(api.taken)
    check_repetitions(api.taken)
    for number in range(len(steps) + 1):
        mine = [a for a, key in api.taken if key == f"k{number}"]
        assert mine in (["trigger", "resolve"], ["trigger"], [])


def check_repetitions(taken):
    """Take away what was repeated, as it may be: after a kill, and at once.

    The process that is killed between the answer and the deletion leaves one
    event to repeat, the last that was taken.
    """
    for number in reversed(range(len(taken))):
        if taken[number] == KILL:
            del taken[number]
            following = [event for event in taken[number:] if event != KILL]
            if number and taken[number - 1] in following:
                del taken[number - 1]
    assert len(taken) == len(set(taken))


@pytest.mark.once
def test_a_short_run_of_make_kill(tmp_path):
    script = os.path.join(ROOT, "tests", "long", "kill.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", "25"],
        cwd=str(tmp_path),
        stdout=subprocess.PIPE,
        timeout=300,
    )
    output = done.stdout.decode()
    assert done.returncode == 0, output
    assert "lost: 0, doubled: 0, disordered: 0" in output


# -- What may come from the caller --------------------------------------------


class Interruption(BaseException):
    """As a signal handler raises it."""


def interrupted_at(number, call):
    """Make a call, which ends at the line of this number of the outbox.

    :returns: False: it has fewer lines
    """
    names = (pdpyras_outbox.__file__, pdpyras_outbox_store.__file__)
    lines = 0

    def trace(frame, what, value):
        nonlocal lines
        if frame.f_code.co_filename not in names:
            return None
        lines += what == "line"
        if what == "line" and lines == number:
            raise Interruption
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interruption:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.no_cover
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_at_any_line_leaves_no_lock_behind(alerts, api, path):
    trigger(alerts, "first")
    number = 1
    while interrupted_at(number, functools.partial(trigger, alerts)):
        for ending in (LOCK, "-lock"):
            with pdpyras_outbox_store.file_lock(path + ending) as is_held:
                assert is_held, number
        assert len(alerts.outbox) <= 1, number
        with contextlib.closing(sqlite3.connect(path, timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")
        alerts.outbox.flush(alerts)
        with paused_thread(functools.partial(write, alerts), deadline=1):
            pass  # Another thread may use it, too.
        number += 1 if number < 40 else 3
    assert number > 50
    gc.collect()  # Of connections that were just being made, it warns.


def test_a_signal_handler_overtakes_no_event_of_its_key(alerts, api):
    api.answers["waits"] = 503
    trigger(alerts, "waits")
    api.answers.clear()

    def handler(connection):
        with pytest.raises(pdpyras.PDClientError, match="signal handler"):
            alerts.resolve("waits")
        assert trigger(alerts, "other") == "other"

    with pytest.warns(pdpyras.PDWarning, match="directly"):
        alerts.outbox._file.transact(handler)
        len(alerts.outbox)
    assert api.taken == [("trigger", "other")]
    alerts.resolve("waits")
    alerts.outbox.flush(alerts, deadline=60)
    assert api.taken[1:] == [("trigger", "waits"), ("resolve", "waits")]


class Kind(str, enum.Enum):
    DISK = "disk"


class Markup(str):
    def __repr__(self):
        return f"Markup({super().__repr__()})"


@pytest.mark.parametrize(
    "key, sent",
    [
        (Kind.DISK, "disk"),
        (Markup("m"), "m"),
        (os.fsdecode(b"caf\xe9"), "caf\\udce9"),
    ],
)
def test_a_key_of_another_kind_of_text_is_kept(key, sent, alerts, api):
    assert trigger(alerts, key) == sent
    assert alerts.resolve(key) == sent
    assert api.taken == [("trigger", sent), ("resolve", sent)]
    assert len(alerts.outbox) == len(alerts.outbox.refused()) == 0


@pytest.mark.parametrize("status", [202, 400, 503])
def test_what_a_hook_raises_does_not_change_the_answer(
    status, alerts, api, caplog
):
    def hook(response, **options):
        response.raise_for_status()
        raise KeyError("of the hook")

    alerts.hooks["response"].append(hook)
    api.answers[None] = status
    trigger(alerts, "k")
    assert len(api.bodies) == 1
    assert len(alerts.outbox) == (status == 503)
    assert len(alerts.outbox.refused()) == (status == 400)
    assert "A response hook raised" in caplog.text


def test_a_directory_is_no_place_for_an_outbox(tmp_path):
    mode = os.stat(str(tmp_path)).st_mode
    with pytest.raises(pdpyras.PDInputError, match="directory"):
        Outbox(str(tmp_path))
    assert os.stat(str(tmp_path)).st_mode == mode


def test_what_is_no_regular_file_is_no_place_for_an_outbox(tmp_path):
    path = str(tmp_path / "fifo")
    os.mkfifo(path, 0o644)
    mode = os.stat(path).st_mode
    with pytest.raises(pdpyras.PDInputError, match="no regular file"):
        Outbox(path)
    assert os.stat(path).st_mode == mode
    assert os.listdir(str(tmp_path)) == ["fifo"]


@pytest.mark.parametrize("outbox", [5, True, object()])
def test_what_is_no_outbox_is_refused_when_it_is_set(outbox):
    with pytest.raises(pdpyras.PDInputError):
        pdpyras.EventsAPISession(KEY, outbox=outbox)
    with pytest.raises(pdpyras.PDInputError):
        Outbox(outbox)


@pytest.mark.parametrize("id", [2**63, -(2**70), "\ud800", None])
def test_ids_that_no_event_has(id, alerts):
    for change in (alerts.outbox.retry, alerts.outbox.drop):
        with pytest.raises(pdpyras.PDInputError, match="no such event"):
            change(id)


def test_in_an_outage_only_the_first_call_is_slow(
    alerts, api, server, monkeypatch
):
    """However far apart the calls are."""
    api.answers["first"] = 503
    trigger(alerts, "first")
    api.answers.clear()
    forget_pauses(alerts)
    limits, deliver = [], alerts._deliver

    def note(path, event, deadline=None, **options):
        limits.append(deadline)
        raise pdpyras.PDClientError("out of reach")

    alerts._deliver = note
    trigger(alerts, "second")
    assert max(limits) <= 1
    alerts._deliver = deliver


def test_a_damaged_version_in_the_file_is_damage(alerts, api, path):
    fill(alerts, 1)
    alerts.outbox._file.close()
    with open(path, "r+b") as file:
        file.seek(47)
        file.write(b"\x09")
    with pytest.warns(pdpyras.PDWarning, match="is damaged"):
        trigger(alerts, "k")
    assert api.taken[-1] == ("trigger", "k")
