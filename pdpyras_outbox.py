"""Events that survive: a durable queue of events in one SQLite file.

With an outbox, a session of the Events API writes each event to a file, and
syncs that, before it sends the first byte. The event is taken out when the
API has taken it. So it outlives an outage, a crash, and the process itself:

.. code-block:: python

    import pdpyras

    events = pdpyras.EventsAPISession(ROUTING_KEY, outbox="alerts.db")
    events.trigger("Disk is full", "db1.example.com")  # safe from here on
    print(len(events.outbox), "events wait")

What waits is sent by the calls that follow, and by ``Outbox.flush``: in the
order in which it was made, as far as it belongs to the same alert. Any number
of processes and threads may share a file. There is no daemon and no thread.

PagerDuty's part of it is in the documents of the Events API v2: an event with
the dedup_key of an open alert opens no other one, status 429 and 5xx ask for
a repetition, and every other 4xx is a refusal.

The module needs the standard library, ``pdpyras`` and
``pdpyras_outbox_store``, which knows the file; and a Unix, for its file locks.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import time
import warnings
from datetime import timedelta
from functools import partial
from typing import (
    AbstractSet,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    Union,
)

import pdpyras
from pdpyras import (
    PDClientError,
    PDDeadlineError,
    PDHTTPError,
    PDInputError,
    PDWarning,
)
from pdpyras_outbox_store import (
    FILE_ERRORS,
    POLL_TIME,
    TABLE,
    BusyError,
    Event,
    File,
    Written,
    at_least_a_moment,
    check_lock,
    file_lock,
    half_the_patience,
    new_event,
    patience,
    wait,
)

__all__ = ["Outbox", "Report"]


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# Seconds of one attempt of a call; and those in which it begins to send
# others, which an attempt has, too, while the API is out of reach.
OWN_TIME = 10.0
OTHERS_TIME = 1.0

# Seconds after which one who sends an event is said to be stopped: more than
# an attempt of flush() takes.
STALL_TIME = 120.0

# Events that a call may send, however long the API takes for each: with one,
# what waits would never become less.
MIN_EVENTS = 2

# Seconds of one attempt of flush().
ATTEMPT_TIME = 15.0

# Seconds between attempts: the first pause, doubled each time up to the last.
MIN_PAUSE = 2.0
MAX_PAUSE = 60.0

# Failures in a row, of the API, after which others are not tried.
MAX_FAILURES = 3

# Times in a row that a flush waits out status 429.
MAX_THROTTLED = 6

# A moment after all that can be in a file.
_NEVER = 2e11

# Whose attempt has failed is the last one to be tried again: what fails always
# holds up nobody.
_ORDER = "next_attempt_at, id"


# ---------------------------------------------------------------------------
# Attempts
# ---------------------------------------------------------------------------


def _owner(session: Any) -> str:
    """Whose event it is: a digest of the routing key, from which it cannot
    be told."""
    text = "pdpyras outbox " + session.api_key
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _row(session: Any, path: str, event: Dict[str, Any]) -> Event:
    """What is to be kept of an event: all but the routing key."""
    content = {k: v for k, v in event.items() if k != "routing_key"}
    key = content.get("dedup_key") if path == "/v2/enqueue" else None
    return new_event(_owner(session), key, path, content)


def _post(session: Any, event: Event, deadline: Any) -> Optional[Exception]:
    """Send an event; return what was wrong, if anything was."""
    if not event.is_whole:
        return ValueError("The event was damaged in the file.")
    answers: List[Any] = []
    options = {"deadline": deadline}
    hooks = list(session.hooks.get("response") or ())
    if hooks:
        options["hooks"] = {"response": [partial(_keep, answers), *hooks]}
    try:
        response = session._deliver(
            event.path, json.loads(event.body), **options
        )
        if event.path == "/v2/enqueue":
            pdpyras._alert_key(response)
        else:
            pdpyras._answer_object(response)
    except Exception as error:
        if not answers or isinstance(error, PDClientError):
            return error
        return _of_hook(session, error, answers[-1])
    return None


def _keep(answers: List[Any], response: Any, **_: Any) -> None:
    answers.append(response)


def _of_hook(
    session: Any, error: Exception, response: Any
) -> Optional[Exception]:
    """What an answer says, after which a hook of the caller has raised."""
    session.log.error("A response hook raised %r.", error)
    if response.status_code // 100 == 2:
        return None
    return PDHTTPError(f"A response hook raised {error!r}.", response)


def _status(error: Optional[Exception]) -> int:
    """The status that the API answered; 0: none."""
    return pdpyras._status_of(getattr(error, "response", None)) or 0


def _is_final(event: Event, error: Exception) -> bool:
    """Has the API refused the event, so that it need not be repeated?"""
    if not event.is_whole:
        return True
    status = _status(error)
    is_refusal = isinstance(error, PDHTTPError) and 400 <= status < 500
    return is_refusal and status not in (408, 429)


def _pause(attempts: int, error: Exception) -> float:
    """Seconds until the next attempt, after so many have failed."""
    asked = 0.0
    with contextlib.suppress(Exception):
        response: Any = getattr(error, "response", None)
        asked = float(pdpyras._retry_after(response) or 0)
    pause: float = MIN_PAUSE * 2 ** min(attempts - 1, 16)
    return min(max(pause, asked), MAX_PAUSE)


class _Step(NamedTuple):
    """What one step of sending has come to.

    :ivar outcome: ``delivered``, ``refused``, ``failed``; ``nothing`` is to
        be sent; or another is sending, and all is ``busy``
    """

    outcome: str
    event: Optional[Event] = None
    error: Optional[Exception] = None

    @property
    def is_done(self) -> bool:
        return self.outcome in ("delivered", "refused")

    @property
    def weight(self) -> int:
        """How much it speaks against trying others: MAX_FAILURES is all."""
        if self.outcome != "failed":
            return 0
        return 1 if _status(self.error) >= 500 else MAX_FAILURES


class _Limit(NamedTuple):
    """Seconds that an attempt may take, and each pause within it."""

    seconds: float
    pause: float = float("inf")


class _Reach(NamedTuple):
    """Whether the API is in reach, as the senders before have found.

    What takes longer than OTHERS_TIME to answer, and is given up then, cannot
    be told from what never answers. So an attempt may take its full time even
    while the API is out of reach: if one was given up, once a minute.

    :ivar is_out: it is out of reach, or answers with errors
    :ivar is_silent: the last attempt was given up, without an answer
    :ivar waits_from: when an attempt may next take its full time
    """

    is_out: bool = False
    is_silent: bool = False
    waits_from: float = 0.0

    def is_patient(self) -> bool:
        """May an attempt again take its full time?"""
        now = time.time()  # It may have been set back.
        return not now < self.waits_from <= now + MAX_PAUSE

    def after_success(self) -> "_Reach":
        return self._replace(is_out=False, is_silent=False)

    def after_failure(self, seconds: float, is_cut_off: bool) -> "_Reach":
        """What is known after an attempt that could take so many seconds."""
        if is_cut_off and seconds <= OTHERS_TIME:
            return self._replace(is_silent=self.is_out)  # It may be but slow.
        waits_from = self.waits_from
        if seconds > OTHERS_TIME and (is_cut_off or self.is_out):
            waits_from = time.time() + MAX_PAUSE
        return _Reach(True, is_cut_off, waits_from)


class _Choice(NamedTuple):
    """Which of the events that are due is to be sent."""

    now: float
    skip: AbstractSet[str] = (
        frozenset()
    )  # Tokens of events that are not to be tried.
    own: Optional[Event] = None  # This one, or what it has to wait for.
    mark: Optional[int] = None  # Up to this id; or, if `is_open`, beyond it.
    is_open: bool = False

    def where(self, owner: str) -> Tuple[str, Dict[str, Any]]:
        """Condition and parameters of a SELECT.

        An event is due after its pause, and if the clock was set back. It
        must be the first of its alert that waits. (Change events have no key,
        and so no order.)
        """
        values: Dict[str, Any] = {"owner": owner, "now": self.now}
        where = (
            "refused = 0 AND owner = :owner AND "
            # By the sign the index is kept for the order.
            "(+next_attempt_at <= :now OR "
            "+next_attempt_at > :now + :longest) "
            f"AND NOT EXISTS (SELECT 1 FROM {TABLE} AS older WHERE "
            "older.refused = 0 AND older.owner = e.owner AND "
            "older.dedup_key = e.dedup_key AND older.id < e.id)"
        )
        values["longest"] = MAX_PAUSE
        if self.own is not None:
            values.update(own=self.own.id, key=self.own.dedup_key)
            where += " AND (e.id = :own OR dedup_key = :key AND e.id < :own)"
        elif self.mark is not None:
            values["mark"] = self.mark
            where += f" AND e.id {'>' if self.is_open else '<='} :mark"
        return where, values


# ---------------------------------------------------------------------------
# Sending
# ---------------------------------------------------------------------------


class _Sender:
    """What one call sends, of its session's routing key.

    :ivar counts: of the events that were ``delivered`` and ``refused``
    """

    def __init__(
        self, outbox: "Outbox", session: Any, deadline: Any = None
    ) -> None:
        self.counts = {"delivered": 0, "refused": 0}
        self._deadline: Optional[pdpyras._Deadline] = deadline
        self._outbox, self._session = outbox, session
        self._file, self.log = outbox._file, session.log
        self._owner = _owner(session)
        # Of each routing key one sends; another may have a slow API's time.
        self._lock = f"{self._file.path}-sender-{self._owner[:8]}"
        # Tokens of events that it has tried; and of those that it is done
        # with, which a damaged file could show again.
        self._skip: Set[str] = set()
        self._done: Set[str] = set()
        self._order = _ORDER
        # Has it been said that another process does not get on?
        self._is_told = False
        # Seconds that the API took for its last answer, if there was one.
        self._took: Optional[float] = None
        # Seconds that the call has left for other events than its own.
        self._others = OTHERS_TIME

    def is_done_with(self, event: Event) -> bool:
        """Has this call delivered it, or set it aside?"""
        return event.token in self._done

    def check_lock(self) -> None:
        """Could the events be sent, once they are kept?

        :raises OSError: they could not
        """
        check_lock(self._lock)

    def left(self) -> float:
        """Seconds that the call has."""
        return float("inf") if not self._deadline else self._deadline.left()

    # -- One event ----------------------------------------------------------

    def step(self, choice: _Choice, limit: Callable[[Event], _Limit]) -> _Step:
        """Send one event, unless another process or thread is sending.

        :param limit: what an attempt for this event may take
        """
        with file_lock(self._lock) as is_held:
            if not is_held:
                self._tell_of_a_stalled_sender()
                return _Step("busy")
            with contextlib.suppress(sqlite3.Error, OSError):
                os.utime(self._lock)
                was_saved = self._file.load_delivered(self._lock)
                self._file.forget_delivered()
                if was_saved:
                    self._file.save_delivered(self._lock)  # There are none.
                self.expire()
            event = self.pick(choice)
            start = time.monotonic()
            most = limit(event) if event else _Limit(0)
            seconds = min(most.seconds, self.left())
            if event is None or seconds <= 0:
                return _Step("nothing")
            error = _post(self._session, event, self._end(most, seconds))
            self._learn(event, error, seconds, time.monotonic() - start)
            with at_least_a_moment():
                return self._settle(event, error)

    def _tell_of_a_stalled_sender(self) -> None:
        """Say that who sends seems to be stopped, as by Ctrl-Z."""
        if self._is_told or self._held_for() <= STALL_TIME:
            return
        wait(POLL_TIME)  # Who has just got the lock has not marked it yet.
        held = self._held_for()
        with file_lock(self._lock) as is_free:
            if is_free or held <= STALL_TIME:
                return
        self._is_told = True
        self._file.notes.append(
            f"{self._outbox!r}: another process has been sending one event "
            f"for {held:.0f} s; what is kept waits for it. Is it stopped?"
        )

    def _held_for(self) -> float:
        """Seconds since somebody began to send an event."""
        return time.time() - os.stat(self._lock).st_mtime

    def _end(self, limit: _Limit, seconds: float) -> Any:
        """The deadline of an attempt."""
        if limit.pause < seconds:
            return pdpyras._Deadline(seconds, limit.pause)
        return seconds if seconds == limit.seconds else self._deadline

    def _learn(
        self,
        event: Event,
        error: Optional[Exception],
        seconds: float,
        took: float,
    ) -> None:
        """Note for the next attempts whether the API is in reach."""
        before = reach = self._reach()
        if error is None or (_status(error) and _is_final(event, error)):
            self._took = took
            reach = reach.after_success()
        elif event.is_whole:
            is_cut_off = (
                isinstance(error, PDDeadlineError)
                and error.response is None
                and took >= seconds
            )
            if self._took is None:
                reach = reach.after_failure(seconds, is_cut_off)
            elif is_cut_off and seconds >= OWN_TIME:
                # It answers others: this event alone is in the way.
                reach = reach._replace(waits_from=time.time() + MAX_PAUSE)
        if reach != before:
            self._file.note(reach)

    def _reach(self) -> _Reach:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            is_out, is_silent, waits_from = self._file.noted()
            return _Reach(bool(is_out), bool(is_silent), float(waits_from))
        return _Reach()

    def pick(self, choice: _Choice) -> Optional[Event]:
        """The event that is to be sent next."""
        delivered = self._file.delivered

        def is_skipped(token: str) -> bool:
            return any(
                token in tokens
                for tokens in (choice.skip, self._done, delivered)
            )

        return self._file.first(
            *choice.where(self._owner), is_skipped, self._order
        )

    def _settle(self, event: Event, error: Optional[Exception]) -> _Step:
        """Note in the file what has come of an attempt."""
        outcome = "delivered" if error is None else "failed"
        try:
            if error is None:
                self._done.add(event.token)
                self.counts["delivered"] += 1
                self._file.delivered[event.token] = event.id
                self._file.forget_delivered()
            elif _is_final(event, error):
                self._refuse(event, str(error))
                outcome = "refused"
            else:
                self._postpone(event, error)
        except (sqlite3.Error, OSError) as problem:
            self.log.warning(
                "%r: what came of event %d is not in the file: %s",
                self._outbox,
                event.id,
                problem,
            )
            if error is None:
                self._file.save_delivered(self._lock)
        return _Step(outcome, event, error)

    def _postpone(self, event: Event, error: Exception) -> None:
        self.log.warning(
            "%r: event %d waits: %s", self._outbox, event.id, error
        )
        until = time.time() + _pause(event.attempts + 1, error)
        self._file.note_failure(event, str(error), until)

    def _refuse(self, event: Event, reason: str) -> None:
        self.log.error(
            "%r: event %d is set aside: %s", self._outbox, event.id, reason
        )
        self._done.add(event.token)
        self._file.note_failure(event, reason, None)
        self.counts["refused"] += 1

    def expire(self) -> None:
        """Set aside what has waited for longer than ``max_age``."""
        age = self._outbox.max_age
        if age is None:
            return
        where = "refused = 0 AND waits_since < ?"
        for event in self._file.events(where, (time.time() - age,)):
            if event.token not in self._done:
                self._refuse(event, f"It has waited for more than {age:g} s.")

    # -- The events of a call -----------------------------------------------

    def send_own(self, row: Event) -> None:
        """Try to send an event, after what waits of its key; then others."""
        # What has made room for it, counts.
        count = 0 if self._others > 0 else 1

        def limit(event: Event) -> _Limit:
            if self._others <= 0 and count >= MIN_EVENTS:
                return _Limit(0)
            if event.token == row.token:
                return _Limit(self._full_time())
            return self._others_limit()

        is_done = False
        while not is_done:
            start = time.monotonic()
            choice = _Choice(time.time(), own=row)
            step = self.step(choice, limit)
            if step.outcome == "busy" or step.weight >= MAX_FAILURES:
                return
            if not step.is_done or step.event is None:
                break
            is_done = step.event.token == row.token
            count += 1
            if not is_done:
                self._others -= time.monotonic() - start
        self.send_others()

    def _full_time(self) -> float:
        """Seconds of an attempt for the event of this call.

        In an outage each call would else take its ten seconds.
        """
        reach, most = self._reach(), max(OWN_TIME, OTHERS_TIME)
        if not reach.is_out:
            return most
        is_test = reach.is_silent and reach.is_patient()
        return most if is_test else OTHERS_TIME

    def _others_limit(self) -> _Limit:
        """What an attempt for another event may take.

        While the API answers, however slowly, it is not cut short: it could
        have arrived, and would be repeated.
        """
        if self._reach().is_patient():
            return _Limit(self._full_time(), OTHERS_TIME)
        return _Limit(OTHERS_TIME)

    def send_others(self) -> None:
        """Spend on what waits what the call has left for it."""
        start, weight = time.monotonic(), 0
        end = start + min(self._others, self.left())
        while weight < MAX_FAILURES and time.monotonic() < end:
            if (self._took or 0) > min(
                self._others_limit().seconds, self.left()
            ):
                break
            choice = _Choice(time.time(), skip=self._skip)
            step = self.step(choice, lambda _: self._others_limit())
            weight = weight + step.weight if step.weight else 0
            if step.outcome == "failed" and step.event is not None:
                self._skip.add(step.event.token)
            # Who found the sender's lock held relies on this second look.
            if step.outcome == "busy" or (
                step.outcome == "nothing" and self.pick(choice) is None
            ):
                break
        self._others -= time.monotonic() - start

    def send_directly(self, row: Event, reason: Exception) -> Any:
        """Send an event that cannot be kept; return the API's response.

        :raises PDClientError: it cannot be sent either
        """
        self.log.warning(
            "%r cannot keep an event, which is sent directly: %s",
            self._outbox,
            reason,
        )
        if isinstance(reason, BusyError):
            self._check_order(row)
        else:
            self._clear_the_way(row)
        response = self._session._deliver(
            row.path, json.loads(row.body), deadline=self._deadline
        )
        self._file.notes.append(
            f"{self._outbox!r} cannot keep events, which are sent directly: "
            f"{reason}"
        )
        return response

    def _clear_the_way(self, row: Event) -> None:
        """Send first what waits of the same key."""
        end = time.monotonic() + min(OWN_TIME, self.left())
        last = row._replace(id=2**62)
        choice = _Choice(_NEVER, own=last)
        while True:
            try:
                if self.pick(choice) is None:
                    return
                with half_the_patience():  # To note what was delivered.
                    step = self.step(
                        choice, lambda _: _Limit(end - time.monotonic())
                    )
            except FILE_ERRORS:
                return  # What cannot be read cannot be sent first.
            if step.outcome == "busy" and time.monotonic() < end:
                wait(POLL_TIME)
            elif step.outcome in ("busy", "failed"):
                raise PDClientError(
                    f"{self._outbox!r} cannot keep the event, and what waits "
                    "of the same dedup_key cannot be sent: "
                    f"{step.error or 'busy'}"
                )

    def _check_order(self, row: Event) -> None:
        """See that the event of a signal handler overtakes none of its key.

        It has interrupted a transaction, and so cannot send those first.
        """
        if row.dedup_key is None:
            return
        with contextlib.suppress(sqlite3.Error):
            if not self._file.has_waiting(row.owner, row.dedup_key):
                return
        raise PDClientError(
            f"{self._outbox!r} cannot keep the event of a signal handler "
            "that has interrupted it, and events of the same dedup_key wait. "
            "Send it again when the handler has returned."
        )


class _Flush(_Sender):
    """A flush: it waits for pauses, and goes on to its deadline if it has one.

    :ivar is_hopeless: it has ended because the API is out of reach
    """

    def __init__(self, outbox: "Outbox", session: Any, deadline: Any) -> None:
        super().__init__(outbox, session, deadline)
        self.is_hopeless = False
        newest = self._file.read(f"SELECT MAX(id) FROM {TABLE}")
        self._mark = newest[0][0] or 0
        self._weight = self._pauses = self._throttled = 0
        # Until when it looks whether another is still sending, if one is.
        self._busy_until: Optional[float] = None
        self._skipped = 0.0  # Seconds of pauses that took no time.
        self.expire()

    def run(self) -> None:
        """Send, until what waited at the beginning is done with."""
        is_open = False
        while self.left() > 0:
            choice = _Choice(
                time.time() + self._skipped,
                skip=self._skip,
                mark=self._mark,
                is_open=is_open,
            )
            step = self.step(choice, self._attempt_time)
            if not self._continues(step, choice):
                return
            is_open = not is_open

    def _attempt_time(self, event: Event) -> _Limit:
        seconds = self._session.deadline
        return _Limit(
            ATTEMPT_TIME if seconds is None else min(ATTEMPT_TIME, seconds)
        )

    def _continues(self, step: _Step, choice: _Choice) -> bool:
        if step.outcome == "busy":
            return self._waits_for_sender()
        self._busy_until = None
        if step.is_done:
            self._weight = self._pauses = self._throttled = 0
            self._order = _ORDER
            return True
        if step.event is not None and step.error is not None:
            return self._after_failure(step, step.event, step.error)
        return choice.is_open or self._wait_until_due(choice)

    def _waits_for_sender(self) -> bool:
        """Wait a moment for another, which has time for one attempt."""
        now = time.monotonic()
        if self._busy_until is None:
            self._busy_until = now + ATTEMPT_TIME
        wait(POLL_TIME)
        return self._deadline is not None or now < self._busy_until

    def _after_failure(
        self, step: _Step, event: Event, error: Exception
    ) -> bool:
        self._weight += step.weight
        is_throttled = _status(error) == 429
        # A limit says nothing against the event, which keeps its place.
        first = f"e.id <> {event.id}, " if is_throttled else ""
        self._order = first + _ORDER
        self._throttled = self._throttled + 1 if is_throttled else 0
        waits = bool(self._deadline) or 0 < self._throttled < MAX_THROTTLED
        if not waits:
            self._skip.add(event.token)
        if self._weight < MAX_FAILURES:
            return True
        self._weight = 0
        self._pauses += 1
        # The pauses of this event may be long already, and others be due.
        if waits and self._sleep(_pause(self._pauses, error)):
            return True
        self.is_hopeless = True
        return False

    def _wait_until_due(self, choice: _Choice) -> bool:
        """Wait for the first pause that ends; False: there is none."""
        self._order = _ORDER
        event = self.pick(choice._replace(now=_NEVER))
        now = time.time() + self._skipped
        return event is not None and self._sleep(event.next_attempt_at - now)

    def _sleep(self, seconds: float) -> bool:
        if seconds >= self.left():
            return False
        seconds, start = max(seconds, POLL_TIME), time.monotonic()
        time.sleep(seconds)
        skipped = max(seconds - (time.monotonic() - start), 0)
        self._skipped += skipped
        if self._deadline:
            self._deadline.charge(skipped)
        return True


# ---------------------------------------------------------------------------
# The outbox
# ---------------------------------------------------------------------------


class Report(NamedTuple):
    """What a flush has come to.

    :ivar delivered: events that it has sent
    :ivar waiting: events that wait now, those of other routing keys too
    :ivar refused: events that the API refused, or that were too old
    """

    delivered: int
    waiting: int
    refused: int


class Outbox:
    """A durable queue of events in one SQLite file, for many processes.

    Beside the file lie others with its name and an ending: SQLite's log, what
    senders tell each other, locks (one for each routing key), and a reserve of
    disk space. All are readable by their owner only. No routing key is written
    to them, but where an event's own texts have it. A pickle holds the path.

    :param path: of the file, which need not exist, on a local disk; a ``~`` at
        its beginning stands for the home directory
    :param max_age: seconds (or a ``timedelta``) after which an event that
        still waits is set aside; None: never
    :param max_events: events that may wait; beyond them, a call raises
        :exc:`pdpyras.PDClientError`; None: any number
    :raises PDInputError: there are no file locks at this path; or an argument
        is out of range
    """

    def __init__(
        self,
        path: Union[str, bytes, "os.PathLike[Any]"],
        max_age: Union[None, float, timedelta] = None,
        max_events: Optional[int] = 10000,
    ) -> None:
        try:
            name = os.fsdecode(path)
        except TypeError:
            raise PDInputError(
                f"The path of an outbox must be a path, not {path!r}."
            ) from None
        if not name:
            raise PDInputError("The path of an outbox must not be empty.")
        age = max_age
        if isinstance(age, timedelta):
            age = age.total_seconds()
        for value in (max_events, age):
            is_number = isinstance(value, (int, float)) and value > 0
            if value is not None and not is_number:
                raise PDInputError(
                    "max_age and max_events must be positive numbers, or "
                    f"None, not {max_age!r} and {max_events!r}."
                )
        self.path: str = os.path.realpath(os.path.expanduser(name))
        self.max_age: Optional[float] = age
        self.max_events = max_events
        self._file = File(self.path)

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.max_age, self.max_events)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def __len__(self) -> int:
        """How many events wait."""
        with self._usable():
            (row,) = self._file.read(
                f"SELECT COUNT(*) FROM {TABLE} WHERE refused = 0"
            )
        self._issue_notes()
        return int(row[0])

    def __bool__(self) -> bool:
        """True, although it may be empty."""
        return True

    def waiting(self) -> List[Dict[str, Any]]:
        """The events that wait, oldest first.

        :returns: dicts with ``id``, ``dedup_key``, ``event_action``
            (``change`` of a change event), ``summary``, ``made_at``,
            ``attempts``, ``next_attempt_at`` and ``error`` (of the last
            attempt); times are ISO 8601 in UTC
        :raises PDClientError: the file cannot be read
        """
        return self._listed(0)

    def refused(self) -> List[Dict[str, Any]]:
        """The events that were set aside, oldest first, as ``waiting`` does.

        :raises PDClientError: the file cannot be read
        """
        return self._listed(1)

    def _listed(self, refused: int) -> List[Dict[str, Any]]:
        with self._usable():
            events = self._file.events("refused = ?", (refused,))
        self._issue_notes()
        return [
            event.as_dict()
            for event in events
            if event.token not in self._file.delivered
        ]

    def retry(self, id: int) -> None:
        """Let an event that was set aside wait again, in its old place.

        :param id: as :meth:`refused` tells it
        :raises PDInputError: there is no such event
        :raises PDClientError: the file cannot be written
        """
        self._change(
            id,
            f"UPDATE {TABLE} SET refused = 0, attempts = 0, error = NULL, "
            "next_attempt_at = 0, waits_since = :now "
            "WHERE refused = 1 AND id = :id",
        )

    def drop(self, id: int) -> None:
        """Forget an event, whether it waits or was set aside.

        :param id: as :meth:`waiting` or :meth:`refused` tells it
        :raises PDInputError: there is no such event
        :raises PDClientError: the file cannot be written
        """
        self._change(id, f"DELETE FROM {TABLE} WHERE id = :id")

    def _change(self, id: int, sql: str) -> None:
        count = 0
        with self._usable(), contextlib.suppress(OverflowError, UnicodeError):
            count = self._file.write(sql, {"id": id, "now": time.time()})
        self._issue_notes()
        if not count:
            raise PDInputError(f"{self!r} has no such event: {id!r}.")

    def flush(self, session: Any, deadline: Optional[float] = None) -> Report:
        """Send what waits of a session's routing key.

        Without a deadline each event is tried once, after what is left of its
        pause; and none after the network has failed. With a deadline it goes
        on until nothing waits or the time is over. What is written meanwhile
        is sent too, but does not keep it from ending.

        :param session: an Events or Change Events session
        :param deadline: seconds; None: see above
        :raises PDClientError: the file cannot be used
        :raises ValueError: the deadline is no positive number
        """
        end = None if deadline is None else pdpyras._new_deadline(deadline)
        with self._usable(), patience(end):
            flush = _Flush(self, session, end)
            flush.run()
            if not flush.is_hopeless:
                flush.send_others()
        self._issue_notes(session)
        return Report(waiting=len(self), **flush.counts)

    def put(
        self,
        session: Any,
        path: str,
        event: Dict[str, Any],
        deadline: Optional[float] = None,
    ) -> Any:
        """Keep an event, and try to send it; called by the sessions.

        :param session: that sends it
        :param path: where the API takes it
        :param event: complete, and of a size that the API takes
        :param deadline: seconds in which the call ends; None: about a second
            more than its own event takes, which gets ten, or one while the
            API is out of reach; with a slow API, the last one of others that
            was begun gets ten, too, and the call takes at most about 20 s
        :returns: None once the event is on disk; the API's response, if it
            cannot be kept and was sent directly
        :raises PDClientError: neither is possible; or the outbox is full
        :raises PDDeadlineError: neither was possible in time
        """
        end = None if deadline is None else pdpyras._new_deadline(deadline)
        with patience(end):
            sender = _Sender(self, session, end)
            response = self._kept_or_sent(sender, _row(session, path, event))
        self._issue_notes(session)
        return response

    def _kept_or_sent(self, sender: _Sender, row: Event) -> Any:
        try:
            sender.check_lock()
            kept = self._kept(sender, row)
        except FILE_ERRORS as error:
            return sender.send_directly(row, error)
        try:
            sender.send_own(kept.event)
        except FILE_ERRORS as error:
            sender.log.warning("%r: it is not sent now: %s", self, error)
        if sender.is_done_with(row) or not self._file.was_set_aside(kept):
            return None  # Else it waits, or somebody else has sent it.
        try:
            self._add(row)
        except FILE_ERRORS as error:
            return sender.send_directly(row, error)
        return None

    def _add(self, row: Event, *most: Optional[int]) -> Optional[Written]:
        """Write an event, in a time that leaves some to send it directly."""
        with half_the_patience():
            return self._file.add(row, *most)

    def _kept(self, sender: _Sender, row: Event) -> Written:
        kept = self._add(row, self.max_events)
        if kept is None:
            sender.send_others()
            kept = self._add(row, self.max_events)
        if kept is None:
            raise PDClientError(
                f"{self!r} holds {self.max_events} events, as many as its "
                "max_events; this one is not kept. Is the API out of reach?"
            )
        return kept

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise PDClientError(
                f"{self!r} cannot be used: {error}. Is there such a "
                "directory, is it yours, and is the disk not full?"
            ) from error

    def _issue_notes(self, session: Any = None) -> None:
        """Warn of what has come to pass, now that the event is safe."""
        notes, self._file.notes = self._file.notes, []
        for note in notes:
            if session is not None:
                pdpyras._note(session.log, "%s", note)
            warnings.warn(
                note, PDWarning, stacklevel=pdpyras._callers_level(3)
            )
