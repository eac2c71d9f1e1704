"""A guard pages somebody if a block fails, and changes nothing else of it."""

import asyncio
import builtins
import contextlib
import functools
import inspect
import json
import logging
import sys
import threading
import types
import warnings

import pytest

import pdpyras
from tests import wire
from tests.support import KEY, Clock, case


class Incomparable:
    """As an array of numpy is."""

    def __eq__(self, other):
        raise ValueError("which element?")

    __hash__ = None


class OopsError(Exception):
    """What the blocks below fail with."""


@pytest.fixture(autouse=True)
def answers(server, naps):
    server.handler = lambda request: wire.Answer(
        202, json={"dedup_key": request.json["dedup_key"]}
    )


@pytest.fixture
def sent(server):
    """What was sent so far: a function."""
    return lambda: [request.json for request in server.requests]


def actions(sent):
    return [event["event_action"] for event in sent()]


def test_an_exception_triggers_and_passes_on(events, sent):
    error = OopsError("no\nspace")
    with pytest.raises(OopsError) as caught:
        with events.guard("Backup failed", "db1", severity="warning"):
            secret = "local" + "-value"
            raise error
    assert caught.value is error and secret
    (event,) = sent()
    payload = event["payload"]
    assert payload["summary"].startswith("Backup failed: ")
    assert "OopsError: no" in payload["summary"]
    assert payload["source"] == "db1" and payload["severity"] == "warning"
    details = payload["custom_details"]
    assert details["exception"] == "OopsError"
    assert details["traceback"].startswith("Traceback (most recent call")
    assert "raise error" in details["traceback"]
    assert details["traceback"].rstrip().endswith("space")
    assert "local-value" not in str(event)


def test_success_resolves_the_same_alert(events, sent):
    with pytest.raises(OopsError):
        with events.guard("Backup failed", "db1"):
            raise OopsError
    with events.guard("Backup failed", "db1") as guard:
        pass
    first, last = sent()
    assert (first["event_action"], last["event_action"]) == (
        "trigger",
        "resolve",
    )
    assert first["dedup_key"] == last["dedup_key"] == guard.dedup_key
    other = events.guard("Backup failed", "db2")
    assert other.dedup_key != guard.dedup_key


def test_success_sends_nothing_of_the_alert_but_its_key(events, sent, caplog):
    more = {"payload": {"class": "c"}, "custom_details": {"run": 7}}
    more.update(component="disk", severity="info", timestamp="2026-11-27")
    more.update(group="g", class_="c", client="cron", client_url="https://x")
    more.update(images=[{"src": "https://x"}], links=[{"href": "https://x"}])
    with events.guard("s", "s", dedup_key="k", **more):
        pass
    assert caplog.records == []
    (event,) = sent()
    assert event == {
        "routing_key": KEY,
        "event_action": "resolve",
        "dedup_key": "k",
    }


def test_a_deadline_of_the_guard_is_for_success_too(events, server):
    end = threading.Event()

    def late(request):
        end.wait(20)
        return wire.Answer(503)

    server.handler = late
    clock = Clock(1)
    with events.guard("s", "s", deadline=1):
        pass
    clock.check()
    end.set()


def test_a_dedup_key_of_ones_own_and_no_resolve(events, sent):
    with events.guard("s", "s", dedup_key="k", resolve=False):
        pass
    assert sent() == []
    with pytest.raises(OopsError):
        with events.guard("s", "s", dedup_key="k", resolve=False):
            raise OopsError
    assert sent()[0]["dedup_key"] == "k"


@pytest.mark.parametrize(
    "error, expected",
    [
        (KeyboardInterrupt(), []),
        (GeneratorExit(), []),
        (SystemExit(), ["resolve"]),
        (SystemExit(0), ["resolve"]),
        (SystemExit(1), ["trigger"]),
        (SystemExit("text"), ["trigger"]),
        (SystemExit(0.0), ["trigger"]),
        (SystemExit(Incomparable()), ["trigger"]),
        (OopsError(), ["trigger"]),
    ],
    ids=case,
)
def test_what_pages_and_what_does_not(error, expected, events, sent):
    with pytest.raises(type(error)) as caught:
        with events.guard("s", "s"):
            raise error
    assert caught.value is error
    assert actions(sent) == expected


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("fails", [True, False])
def test_a_pagerduty_that_fails_changes_nothing(
    fails, status, events, server, caplog
):
    server.handler = lambda request: wire.Answer(status)
    done = []
    try:
        with events.guard("s", "s"):
            done.append(1)
            if fails:
                raise OopsError
    except OopsError:
        done.append(2)
    assert done == ([1, 2] if fails else [1])
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    what = "triggered" if fails else "resolved"
    assert f"s: the alert could not be {what}: " in errors[-1].getMessage()
    assert str(status) in errors[-1].getMessage()


def test_a_pagerduty_that_is_away_changes_nothing(events, server):
    server.fault("refuse", stage="connect")
    with pytest.raises(OopsError):
        with events.guard("s", "s"):
            raise OopsError


def test_a_pagerduty_that_asks_to_wait_for_ever(events, server, naps, sent):
    server.handler = lambda request: wire.Answer(
        429, headers={"Retry-After": "20"}
    )
    with events.guard("s", "s"):
        pass
    assert sum(naps) <= pdpyras._MAX_GUARD_TIME
    server.handler = lambda request: wire.Answer(202, json={"dedup_key": "k"})
    events.trigger("s", "s")  # A call of its own has no such deadline.
    assert pdpyras._guarding.deadline is None


def test_a_guard_within_the_sending_of_another(events, server, naps):
    class Busy(pdpyras.EventsAPISession):
        def resolve(self, *args, **options):
            with events.guard("inner", "s"):
                pass
            return super().resolve(*args, **options)

    def enough():
        assert sum(naps) < 10 * pdpyras._MAX_GUARD_TIME

    naps.during = enough
    server.reply(202, json={"dedup_key": "k"})
    server.handler = lambda request: wire.Answer(
        429, headers={"Retry-After": "20"}
    )
    with Busy(KEY, url=server.url).guard("outer", "s"):
        pass
    assert 0 < sum(naps) <= pdpyras._MAX_GUARD_TIME


def test_with_an_outbox_what_fails_is_kept(events, server, tmp_path):
    events.outbox = str(tmp_path / "alerts.db")
    server.handler = lambda request: wire.Answer(503)
    with pytest.raises(OopsError):
        with events.guard("Backup failed", "db1"):
            raise OopsError("x")
    (waiting,) = events.outbox.waiting()
    assert waiting["event_action"] == "trigger"
    assert "OopsError: x" in waiting["summary"]


def test_warnings_that_are_errors_change_nothing(events, tmp_path, sent):
    events.outbox = str(tmp_path / "none" / "alerts.db")
    with pytest.raises(OopsError):  # And no PDWarning.
        with events.guard("s", "s"):
            raise OopsError
    assert actions(sent) == ["trigger"]


def test_a_long_exception_is_cut(events, sent):
    with pytest.raises(OopsError):
        with events.guard("s", "s"):
            raise OopsError("x" * 5000 + "\n" + "y" * 20000)
    payload = sent()[0]["payload"]
    assert len(payload["summary"]) == 1024
    trace = payload["custom_details"]["traceback"]
    assert len(trace) == pdpyras._MAX_TRACEBACK_LENGTH
    assert trace.rstrip().endswith("y")


def test_the_key_is_not_in_the_event(events, sent):
    with pytest.raises(OopsError):
        with events.guard("s", "s"):
            raise OopsError(f"bad key {KEY}")
    event = dict(sent()[0], routing_key=None)
    assert KEY not in str(event)


def test_an_exception_that_cannot_be_shown(events, sent):
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError("no")

    with pytest.raises(MuteError):
        with events.guard("s", "s"):
            raise MuteError
    assert "MuteError" in sent()[0]["payload"]["summary"]


def test_a_syntax_error_is_named_and_not_where_it_stands(events, sent):
    with pytest.raises(SyntaxError):
        with events.guard("Backup failed", "db1"):
            compile("a b", "backup.py", "exec")
    summary = sent()[0]["payload"]["summary"]
    assert summary.startswith("Backup failed: SyntaxError: ")


def test_custom_details_of_ones_own_are_added(events, sent):
    given = {"run": 7}
    with pytest.raises(OopsError):
        with events.guard("s", "s", custom_details=given):
            raise OopsError
    assert sent()[0]["payload"]["custom_details"]["run"] == 7
    assert given == {"run": 7}


@pytest.mark.parametrize(
    "arguments, error",
    [
        (("", "s"), ValueError),
        (("s", ""), ValueError),
        (("s", "s", "k" * 256), ValueError),
    ],
)
def test_arguments_are_checked_before_the_block(arguments, error, events):
    with pytest.raises(error):
        events.guard(*arguments)


def test_properties_are_checked_before_the_block(events):
    with pytest.raises(ValueError, match="severity"):
        events.guard("s", "s", severity="bad")
    with pytest.raises(TypeError, match="colour"):
        events.guard("s", "s", colour="red")
    with pytest.raises(ValueError, match="^custom_details must be"):
        events.guard("s", "s", custom_details="text")
    with pytest.raises(ValueError, match="payload must be"):
        events.guard("s", "s", payload="text")
    with pytest.raises(ValueError, match="severity"):
        events.guard("s", "s", payload={"severity": "bad"})


def test_it_decorates_functions(events, sent):
    @events.guard("Backup failed", "db1")
    def backup(fails, times=1):
        """Make a backup."""
        if fails:
            raise OopsError
        return times

    assert backup.__name__ == "backup"
    assert backup.__doc__ == "Make a backup."
    assert list(inspect.signature(backup).parameters) == ["fails", "times"]
    assert backup(False, times=3) == 3
    with pytest.raises(OopsError):
        backup(True)
    assert actions(sent) == ["resolve", "trigger"]


def test_it_decorates_generators(events, sent):
    @events.guard("s", "s")
    def numbers(count):
        for number in range(count):
            yield number
            if number == 2:
                raise OopsError

    assert inspect.isgeneratorfunction(numbers)
    assert numbers.__name__ == "numbers"
    assert list(inspect.signature(numbers).parameters) == ["count"]
    assert list(numbers(2)) == [0, 1]
    assert actions(sent) == ["resolve"]
    with pytest.raises(OopsError):
        list(numbers(4))
    assert actions(sent) == ["resolve", "trigger"]
    unfinished = numbers(2)
    next(unfinished)
    unfinished.close()
    assert actions(sent) == ["resolve", "trigger"]


def test_it_refuses_asynchronous_functions(events):
    async def work():
        await asyncio.sleep(0)

    async def items():
        yield 1

    class Job:
        async def __call__(self):
            await work()

    for function in (work, items, Job()):
        with pytest.raises(TypeError, match="asynchronous"):
            events.guard("s", "s")(function)


def test_a_wrapper_of_an_asynchronous_function_is_a_failure(events, sent):
    async def work():
        await asyncio.sleep(0)

    @functools.wraps(work)
    def wrapper():
        return work()

    with pytest.raises(TypeError, match="asynchronous"):
        events.guard("s", "s")(wrapper)()
    assert actions(sent) == ["trigger"]


def test_a_wrapper_of_a_generator_function_is_guarded_while_it_runs(
    events, sent
):
    def numbers():
        yield 1
        raise OopsError

    @functools.wraps(numbers)
    def wrapper():
        return numbers()

    guarded = events.guard("s", "s")(wrapper)
    generator = guarded()
    assert next(generator) == 1 and actions(sent) == []
    with pytest.raises(OopsError):
        next(generator)
    assert actions(sent) == ["trigger"]


def items_of_async():
    async def items():
        yield 1

    return items()


@contextlib.contextmanager
def block():
    yield


class Awaitable:
    def __await__(self):
        yield


@pytest.mark.parametrize(
    "function, text",
    [
        (items_of_async, "asynchronous"),
        (Awaitable, "asynchronous"),
        (block, "context manager"),
    ],
)
def test_what_has_not_run_yet_is_no_success(function, text, events, sent):
    @functools.wraps(function)
    def wrapper():
        return function()

    with pytest.raises(TypeError, match=text):
        events.guard("s", "s")(wrapper)()
    assert actions(sent) == ["trigger"]


def test_it_stands_below_classmethod(events, sent):
    with pytest.raises(TypeError, match="below @classmethod"):

        class Job:
            @events.guard("s", "s")
            @classmethod
            def work(cls):
                pass


def chained(count):
    last = None
    for number in range(count):
        try:
            raise OSError(number) from last
        except OSError as error:
            last = error
    raise OopsError from last


def test_a_long_chain_of_exceptions_is_an_alert(events, sent):
    """Before 3.9, Python cannot print it."""
    with pytest.raises(OopsError), events.guard("s", "s"):
        chained(3000)
    (body,) = sent()
    details = body["payload"]["custom_details"]
    assert details["exception"] == "OopsError"
    assert body["payload"]["summary"].startswith("s: ")
    assert "in chained" in details["traceback"]


class CauselessError(Exception):
    @property
    def __cause__(self):
        raise RuntimeError("no cause")


def no_position():
    error = SyntaxError("bad")
    error.filename, error.lineno, error.text = "f", 1, b"text"
    error.offset = "3"
    return error


@pytest.mark.parametrize("make", [CauselessError, no_position])
def test_what_python_cannot_print_is_an_alert(make, events, sent):
    with pytest.raises(make if isinstance(make, type) else SyntaxError):
        with events.guard("s", "s"):
            raise make()
    (event,) = sent()
    assert event["event_action"] == "trigger"
    assert (
        "tests/test_guard" in event["payload"]["custom_details"]["traceback"]
    )


class Group(BaseException):
    """As that of the package ``exceptiongroup``, before Python 3.11."""

    def __init__(self, message, exceptions):
        super().__init__(message)
        self.exceptions = tuple(exceptions)


@pytest.fixture
def group(monkeypatch):
    if sys.version_info >= (3, 11):
        return builtins.BaseExceptionGroup
    package = types.ModuleType("exceptiongroup")
    package.BaseExceptionGroup = Group
    monkeypatch.setitem(sys.modules, "exceptiongroup", package)
    return Group


@pytest.mark.parametrize(
    "parts, action",
    [
        ([KeyboardInterrupt()], []),
        ([KeyboardInterrupt(), SystemExit(0)], []),
        ([SystemExit(0), SystemExit(None)], ["resolve"]),
        ([KeyboardInterrupt(), OopsError()], ["trigger"]),
        ([SystemExit(1)], ["trigger"]),
    ],
)
def test_a_group_pages_somebody_if_one_of_it_does(
    parts, action, group, events, sent
):
    """Trio and anyio put Ctrl-C into one."""
    with pytest.raises(group), events.guard("s", "s"):
        raise group("outer", [group("inner", parts)])
    assert actions(sent) == action


def test_a_warning_that_is_an_error_says_only_itself(events, sent, caplog):
    with warnings.catch_warnings(), pytest.raises(OopsError):
        warnings.simplefilter("error", pdpyras.PDWarning)
        with events.guard("s", "s", links=[{"text": "no href"}]):
            raise OopsError
    assert actions(sent) == ["trigger"]
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert "href" in record.message and "could not" not in record.message


def test_the_key_is_hidden_in_every_spelling(events, sent):
    spelled = "".join(f"%{ord(character):02x}" for character in KEY)
    with pytest.raises(OopsError), events.guard("s", "s"):
        raise OopsError(f"GET /?key={spelled}")
    (event,) = sent()
    assert spelled not in json.dumps(event)
    assert f"*{KEY[-4:]}" in event["payload"]["summary"]


@pytest.mark.parametrize("deadline", [0, -1, "5", float("nan")])
def test_a_deadline_that_is_none_is_refused_before_the_block(deadline, events):
    with pytest.raises(ValueError, match="deadline must be"):
        events.guard("s", "s", deadline=deadline)


def test_the_summary_names_the_exception_though_it_has_a_note(events, sent):
    error = OopsError("disk full")
    error.__notes__ = ["page 7"]
    with pytest.raises(OopsError), events.guard("Backup failed", "s"):
        raise error
    (event,) = sent()
    assert event["payload"]["summary"].endswith("OopsError: disk full")
