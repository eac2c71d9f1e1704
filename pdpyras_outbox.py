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

The module needs the standard library and ``pdpyras``; and a Unix, for its
file locks.
"""

import atexit
import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import time
import warnings
import weakref
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    TypeVar,
    Union,
)

import pdpyras
from pdpyras import PDClientError, PDHTTPError, PDInputError, PDWarning

try:
    import fcntl
except ImportError:  # Not a Unix.
    fcntl = None  # type: ignore[assignment]

__all__ = ["Outbox", "Report"]

_Result = TypeVar("_Result")


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# Seconds for which a call tries to send its own event, and what it spends on
# others.
OWN_TIME = 10.0
OTHERS_TIME = 1.0

# Seconds of one attempt of flush().
ATTEMPT_TIME = 15.0

# Seconds between attempts: the first pause, doubled each time up to the last.
MIN_PAUSE = 2.0
MAX_PAUSE = 60.0

# Failures in a row, of the API, after which others are not tried.
MAX_FAILURES = 3

# Times in a row that a flush waits out status 429.
MAX_THROTTLED = 6

# Seconds to wait for the other processes that use the file.
LOCK_TIME = 30.0
POLL_TIME = 0.02

# Bytes on disk that are freed when it is full: to delete takes room, too.
BALLAST_SIZE = 256 * 1024

# File systems that share files between machines, but not SQLite's locks.
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "afs", "fuse.sshfs", "9p.nfs")

_TABLE = "pdpyras_outbox"
_COLUMNS = (
    "id, token, owner, dedup_key, path, body, made_at, check_sum, attempts, "
    "next_attempt_at, error"
)
_NEW_TABLE = (
    f"CREATE TABLE {_TABLE} ("
    "id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL, "
    "owner TEXT NOT NULL, dedup_key TEXT, path TEXT NOT NULL, "
    "body TEXT NOT NULL, made_at REAL NOT NULL, check_sum TEXT NOT NULL, "
    "waits_since REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, "
    "next_attempt_at REAL NOT NULL DEFAULT 0, error TEXT, "
    "refused INTEGER NOT NULL DEFAULT 0)"
)
# Each index ends with the id, of itself: the first gives a queue in its order.
_NEW_INDEXES = (
    f"CREATE INDEX {_TABLE}_queue ON {_TABLE} (refused, owner)",
    f"CREATE INDEX {_TABLE}_key ON {_TABLE} (owner, dedup_key, refused)",
    f"CREATE INDEX {_TABLE}_token ON {_TABLE} (token)",
)
# Is a row the first of its alert that waits? Change events have no key, and
# so no order.
_FIRST = (
    f"NOT EXISTS (SELECT 1 FROM {_TABLE} AS older WHERE older.refused = 0 "
    "AND older.owner = e.owner AND older.dedup_key = e.dedup_key "
    "AND older.id < e.id)"
)
# Is an attempt due? After the clock was set back, too.
_DUE = "(next_attempt_at <= :now OR next_attempt_at > :now + :longest)"


# ---------------------------------------------------------------------------
# Locks between processes, and forks
# ---------------------------------------------------------------------------
#
# The kernel frees a lock when its holder dies. Within the process, all
# transactions are behind one lock, which a fork waits for, and before which
# the connections are closed: a child that inherited an open one would hold
# file locks in SQLite's bookkeeping that the kernel does not know of. Python
# 3.6 cannot tell of a fork. There the child closes what it has inherited,
# unless another thread was writing, which it cannot undo.


class _Process:
    """What belongs to this process, and not to one forked from it."""

    def __init__(self) -> None:
        self.id = os.getpid()
        self.lock = threading.RLock()
        self.files: Any = weakref.WeakSet()
        self.descriptors: Set[int] = set()

    def before_fork(self) -> None:
        self.lock.acquire()
        self.close()

    def after_fork_in_parent(self) -> None:
        self.lock.release()

    def after_fork_in_child(self) -> None:
        self.id = os.getpid()
        self.lock = threading.RLock()
        for descriptor in self.descriptors:
            os.close(descriptor)  # The lock stays with the parent.
        self.descriptors.clear()
        for file in list(self.files):
            file.after_fork()

    def check(self) -> None:
        if self.id != os.getpid():  # Before Python 3.7.
            self.after_fork_in_child()

    def close(self) -> None:
        self.check()
        with self.lock:
            for file in list(self.files):
                file.close()


_process = _Process()
_abandoned: List[sqlite3.Connection] = []
atexit.register(_process.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_process.before_fork,
        after_in_parent=_process.after_fork_in_parent,
        after_in_child=_process.after_fork_in_child,
    )


def _abandon(connection: sqlite3.Connection) -> None:
    """Never close a connection, whose closing would delete another's file."""
    _abandoned.append(connection)
    try:
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    except (ImportError, AttributeError):
        pass  # Then it is closed when the interpreter ends.


def _wait(seconds: float) -> None:
    """Let another process get on; a real pause, whatever time.sleep is."""
    threading.Event().wait(seconds)


@contextlib.contextmanager
def _file_lock(path: str, seconds: float) -> Iterator[bool]:
    """Hold the lock of a file, if it is to be had within so many seconds.

    :raises OSError: this file system has no locks
    """
    end = time.monotonic() + seconds
    _process.check()
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    _process.descriptors.add(descriptor)
    is_held = False
    try:
        while not is_held:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_held = True
            except BlockingIOError:
                if time.monotonic() >= end:
                    break
                _wait(POLL_TIME)
        yield is_held
    finally:
        _process.check()
        if descriptor in _process.descriptors:  # Else this is a fork's child.
            _process.descriptors.discard(descriptor)
            if is_held:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _file_system(directory: str, mounts: str = "/proc/self/mounts") -> str:
    """The type of the file system of a directory; "" if it is not known."""
    best, kind = "", ""
    try:
        with open(mounts, encoding="utf-8", errors="replace") as file:
            entries = [line.split(" ") for line in file]
    except OSError:
        return ""
    for entry in entries:
        point = entry[1].replace("\\040", " ").rstrip("/")
        inside = directory == point or directory.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, entry[2]
    return kind


def _check_place(path: str) -> None:
    """Are there file locks where the outbox is to be?

    :raises PDInputError: there are none
    """
    problem = ""
    directory = os.path.dirname(os.path.realpath(path))
    kind = _file_system(directory)
    if fcntl is None:
        problem = "this system has no file locks (fcntl)"
    elif kind.startswith(NETWORK_FILE_SYSTEMS):
        problem = f"{directory} is on a network file system ({kind})"
    elif os.access(directory, os.W_OK):
        try:
            with _file_lock(path + "-sender", 0):
                pass
        except BlockingIOError:
            pass
        except OSError as error:
            problem = f"{directory} has no file locks ({error.strerror})"
    if problem:
        raise PDInputError(
            f"An outbox cannot be at {path}: {problem}. Without them two "
            "processes could send the same event. Take a directory on a "
            "local disk."
        )


# ---------------------------------------------------------------------------
# The file
# ---------------------------------------------------------------------------


class _ReplacedError(Exception):
    """While a transaction went on, another process set the file aside."""


def _is_damage(error: Exception) -> bool:
    text = str(error)
    return (
        type(error) in (sqlite3.DatabaseError, sqlite3.IntegrityError)
        or "malformed" in text
        or "not a database" in text
        or "no such " in text
    )


class _File:
    """The SQLite file: a connection a process, a transaction at a time.

    The file itself is never opened but by SQLite: closing it would take away
    the locks of all connections of this process.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.identity: Any = None
        self._connection: Optional[sqlite3.Connection] = None
        self._is_busy = self._is_inherited = False
        _process.files.add(self)

    def __del__(self) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction, which is on disk when the block has ended.

        :raises sqlite3.Error: it is not
        """
        _process.check()
        with _process.lock:
            if self._is_busy:  # This is a signal handler.
                raise sqlite3.OperationalError("a transaction is going on")
            self._is_busy = True
            try:
                connection = self._connected()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                if self.identity != self._identity_now():
                    raise _ReplacedError
            finally:
                self._is_busy = False

    def _identity_now(self) -> Any:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _connected(self) -> sqlite3.Connection:
        if self._is_inherited:
            raise sqlite3.OperationalError(
                "this process was forked while the outbox was in use"
            )
        if self._connection and self.identity != self._identity_now():
            self.abandon()
        if self._connection is None:
            with _file_lock(self.path + "-lock", LOCK_TIME):
                self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        if not os.path.exists(self.path):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            os.close(os.open(self.path, flags, 0o600))
            self._sync_directory()
        elif os.stat(self.path).st_mode & 0o077:
            os.chmod(self.path, 0o600)
        self.identity = self._identity_now()
        connection = sqlite3.connect(
            self.path,
            timeout=LOCK_TIME,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self.hold_ballast()
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = partial(
            str, encoding="utf-8", errors="replace"
        )
        found = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        )
        tables = {name for (name,) in found}
        if tables and _TABLE not in tables:
            raise PDInputError(
                f"{self.path} is a database, but not an outbox."
            )
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(f"no WAL here, but {mode}")
        connection.execute("PRAGMA synchronous = FULL")
        if not tables:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_NEW_TABLE)
            for statement in _NEW_INDEXES:
                connection.execute(statement)
            connection.execute("COMMIT")

    def _sync_directory(self) -> None:
        descriptor = os.open(os.path.dirname(self.path), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the connection, unless that would harm another file.

        SQLite deletes the log of the last connection by name, although a new
        file may have the name by then.
        """
        if self._connection is None or self._is_busy:
            return
        try:
            with _file_lock(self.path + "-lock", LOCK_TIME) as is_held:
                connection, self._connection = self._connection, None
                if is_held and self.identity == self._identity_now():
                    connection.close()
                else:
                    _abandon(connection)
        except (OSError, sqlite3.Error):
            self.abandon()

    def abandon(self) -> None:
        """Go on without the connection, and leave it as it is."""
        if self._connection is not None:
            _abandon(self._connection)
            self._connection = None

    def after_fork(self) -> None:
        """Give up, in the child, what is the parent's."""
        if self._is_busy:
            self._is_inherited = self._connection is not None
            self.abandon()
        self._is_busy = False
        self.close()

    def set_aside(self, error: Exception) -> str:
        """Give a damaged file another name.

        :returns: what there is to say about it; "" if another process did it
        """
        damaged = self.identity
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        name = f"{self.path}.damaged-{stamp}-{os.urandom(3).hex()}"
        with _process.lock, _file_lock(self.path + "-lock", LOCK_TIME):
            self.abandon()
            if damaged is None or damaged != self._identity_now():
                return ""
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path + suffix, name + suffix)
        return (
            f"The outbox {self.path} is damaged ({error}). It is now called "
            f"{name}; a new one was begun. Events that waited in it are not "
            "sent; the command .recover of sqlite3 may find them."
        )

    def hold_ballast(self) -> None:
        """Keep room on the disk; without it there is none to be freed."""
        path = self.path + "-ballast"
        try:
            disk = os.statvfs(self.path)
            if disk.f_bavail * disk.f_frsize < 8 * BALLAST_SIZE:
                return
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            descriptor = os.open(path, flags, 0o600)
        except OSError:
            return
        try:
            os.write(descriptor, os.urandom(BALLAST_SIZE))
        except OSError:
            self.free_ballast()
        finally:
            os.close(descriptor)

    def free_ballast(self) -> None:
        """Give back the room that was kept."""
        with contextlib.suppress(OSError):
            os.remove(self.path + "-ballast")


# ---------------------------------------------------------------------------
# Events
# ---------------------------------------------------------------------------


class _Event(NamedTuple):
    """A row of the file."""

    id: int
    token: str
    owner: str
    dedup_key: Optional[str]
    path: str
    body: str
    made_at: float
    check_sum: str
    attempts: int = 0
    next_attempt_at: float = 0
    error: Optional[str] = None

    @property
    def is_whole(self) -> bool:
        """Is it what was written?"""
        return self.check_sum == _check_sum(*self[1:7])

    def as_dict(self) -> Dict[str, Any]:
        """What the user is told about it."""
        try:
            body = json.loads(self.body)
            action = body.get("event_action", "change")
            summary = (body.get("payload") or {}).get("summary")
        except (ValueError, AttributeError):
            action = summary = None
        return {
            "id": self.id,
            "dedup_key": self.dedup_key,
            "event_action": action,
            "summary": summary,
            "made_at": _iso(self.made_at),
            "attempts": self.attempts,
            "next_attempt_at": _iso(self.next_attempt_at),
            "error": self.error,
        }


def _iso(moment: Any) -> Optional[str]:
    if not isinstance(moment, (int, float)) or not 0 < moment < 1e11:
        return None
    utc = datetime.fromtimestamp(moment, timezone.utc).replace(tzinfo=None)
    return utc.isoformat(timespec="milliseconds") + "Z"


def _check_sum(*values: Any) -> str:
    return hashlib.sha256(repr(values).encode("utf-8")).hexdigest()


def _owner(session: Any) -> str:
    """Whose event it is: a digest of the routing key, from which it cannot
    be told."""
    text = "pdpyras outbox " + session.api_key
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _new_event(session: Any, path: str, event: Dict[str, Any]) -> _Event:
    content = {k: v for k, v in event.items() if k != "routing_key"}
    key = content.get("dedup_key") if path == "/v2/enqueue" else None
    values = (
        os.urandom(8).hex(),
        _owner(session),
        key,
        path,
        json.dumps(content, allow_nan=False),
        time.time(),
    )
    return _Event(0, *values, _check_sum(*values))


def _post(session: Any, event: _Event, seconds: float) -> Optional[Exception]:
    """Send an event; return what was wrong, if anything was."""
    if not event.is_whole:
        return ValueError("The event was damaged in the file.")
    if session.deadline is not None:
        seconds = min(seconds, session.deadline)
    try:
        response = session._deliver(
            event.path, json.loads(event.body), deadline=seconds
        )
        if event.path == "/v2/enqueue":
            pdpyras._alert_key(response)
        else:
            pdpyras._answer_object(response)
    except Exception as error:
        return error
    return None


def _status(error: Exception) -> int:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else 0


def _is_final(event: _Event, error: Exception) -> bool:
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


class _Step(NamedTuple):
    """What one step of sending has come to."""

    outcome: str
    event: Optional[_Event] = None
    error: Optional[Exception] = None

    @property
    def is_done(self) -> bool:
        return self.outcome in ("delivered", "refused")

    @property
    def weight(self) -> int:
        """How much it speaks against trying others: MAX_FAILURES is all."""
        if self.outcome != "failed":
            return 0
        is_theirs = self.error is not None and _status(self.error) >= 500
        return 1 if is_theirs else MAX_FAILURES


class _Choice(NamedTuple):
    """Which of the events that are due is to be sent."""

    now: float
    skip: Set[str]  # Tokens of events that are not to be tried.
    own: Optional[_Event] = None  # This one, or what it has to wait for.
    mark: Optional[int] = None  # Up to this id; or, if `is_open`, beyond it.
    is_open: bool = False

    def where(self) -> Tuple[str, Dict[str, Any]]:
        """Condition and parameters of a SELECT."""
        values: Dict[str, Any] = {"now": self.now, "longest": MAX_PAUSE}
        values.update({f"t{n}": token for n, token in enumerate(self.skip)})
        names = ", ".join(f":t{n}" for n in range(len(self.skip)))
        where = f"{_DUE} AND token NOT IN ({names})"
        if self.own is not None:
            values.update(own=self.own.id, key=self.own.dedup_key)
            where += " AND (e.id = :own OR dedup_key = :key AND e.id < :own)"
        elif self.mark is not None:
            values["mark"] = self.mark
            where += f" AND e.id {'>' if self.is_open else '<='} :mark"
        return where, values


class _Clock:
    """The time that a flush has; a pause that a test skips has passed."""

    def __init__(self, deadline: Optional[float]) -> None:
        seconds = float("inf")
        if deadline is not None:
            seconds = pdpyras._new_deadline(deadline).seconds
        self._end, self._skipped = time.monotonic() + seconds, 0.0

    def now(self) -> float:
        return time.time() + self._skipped

    def left(self) -> float:
        return self._end - time.monotonic() - self._skipped

    def sleep(self, seconds: float) -> None:
        start = time.monotonic()
        time.sleep(seconds)
        self._skipped += max(seconds - (time.monotonic() - start), 0)


class Outbox:
    """A durable queue of events in one SQLite file, for many processes.

    Beside the file lie others with its name and an ending: SQLite's log, two
    locks, and a reserve of disk space. All are readable by their owner only.
    There is no routing key in them. A pickle holds the path.

    :param path: of the file, which need not exist, on a local disk
    :param max_age: seconds (or a ``timedelta``) after which an event that
        still waits is set aside; None: never
    :param max_events: events that may wait; beyond them, a call raises
        :exc:`pdpyras.PDClientError`
    :raises PDInputError: there are no file locks at this path; or an argument
        is out of range
    """

    def __init__(
        self,
        path: Union[str, bytes, "os.PathLike[Any]"],
        max_age: Union[None, float, timedelta] = None,
        max_events: int = 10000,
    ) -> None:
        name = os.fsdecode(path)
        if not name:
            raise PDInputError("The path of an outbox must not be empty.")
        age = max_age
        if isinstance(age, timedelta):
            age = age.total_seconds()
        for value in (max_events, 1 if age is None else age):
            if not isinstance(value, (int, float)) or not value > 0:
                raise PDInputError(
                    "max_age and max_events must be positive numbers, not "
                    f"{max_age!r} and {max_events!r}."
                )
        self.path: str = os.path.realpath(name)
        self.max_age: Optional[float] = age
        self.max_events = max_events
        _check_place(self.path)
        self._file = _File(self.path)
        # Tokens of events that are done with, but not yet out of the file.
        self._done: Set[str] = set()
        self._notes: List[str] = []

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.max_age, self.max_events)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    # -- What the user sees -------------------------------------------------

    def __len__(self) -> int:
        """How many events wait."""
        with self._usable():
            rows = self._look("SELECT COUNT(*) FROM {} WHERE refused = 0")
        return int(rows[0][0])

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

    def retry(self, id: int) -> None:
        """Let an event that was set aside wait again, in its old place.

        :param id: as :meth:`refused` tells it
        :raises PDInputError: there is no such event
        :raises PDClientError: the file cannot be written
        """
        self._change(
            id,
            "UPDATE {} SET refused = 0, attempts = 0, next_attempt_at = 0, "
            "error = NULL, waits_since = :now WHERE refused = 1 AND id = :id",
        )

    def drop(self, id: int) -> None:
        """Forget an event, whether it waits or was set aside.

        :param id: as :meth:`waiting` or :meth:`refused` tells it
        :raises PDInputError: there is no such event
        :raises PDClientError: the file cannot be written
        """
        self._change(id, "DELETE FROM {} WHERE id = :id")

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
        clock = _Clock(deadline)
        with self._usable():
            flush = _Flush(self, session, clock)
            flush.run()
            if not flush.is_hopeless:
                self._send_others(session, min(OTHERS_TIME, clock.left()))
            self._issue_notes(session)
        counts = flush.counts
        return Report(counts["delivered"], len(self), counts["refused"])

    # -- Putting events in --------------------------------------------------

    def put(self, session: Any, path: str, event: Dict[str, Any]) -> Any:
        """Keep an event, and try to send it; called by the sessions.

        :param session: that sends it
        :param path: where the API takes it
        :param event: complete, and of a size that the API takes
        :returns: None once the event is on disk; the API's response, if it
            cannot be kept and was sent directly
        :raises PDClientError: neither is possible; or the outbox is full
        """
        row = _new_event(session, path, event)
        try:
            row = self._store(session, row)
        except (sqlite3.Error, OSError, PDInputError) as error:
            return self._send_directly(session, row, error)
        try:
            if not self._send_own(session, row):
                self._keep_through_damage(row)
        except (sqlite3.Error, OSError) as error:
            session.log.warning("%r: it is not sent now: %s", self, error)
        self._issue_notes(session)
        return None

    def _store(self, session: Any, row: _Event) -> _Event:
        stored = self._transact(partial(self._insert, row))
        if stored is None:
            self._send_others(session, OTHERS_TIME)
            stored = self._transact(partial(self._insert, row))
        if stored is None:
            raise PDClientError(
                f"{self!r} holds {self.max_events} events, as many as its "
                "max_events; this one is not kept. Is the API out of reach?"
            )
        return stored

    def _insert(
        self, row: _Event, connection: sqlite3.Connection
    ) -> Optional[_Event]:
        (count,) = connection.execute(
            f"SELECT COUNT(*) FROM {_TABLE} WHERE refused = 0"
        ).fetchone()
        if count >= self.max_events:
            return None
        done = connection.execute(
            f"INSERT INTO {_TABLE} (token, owner, dedup_key, path, body, "
            "made_at, check_sum, waits_since) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*row[1:8], row.made_at),
        )
        return row._replace(id=int(done.lastrowid or 0))

    def _keep_through_damage(self, row: _Event) -> None:
        """Write an event again, if its file was found damaged since."""
        found = self._look("SELECT 1 FROM {} WHERE token = ?", (row.token,))
        if not found and row.token not in self._done:
            self._transact(partial(self._insert, row))

    def _send_directly(
        self, session: Any, row: _Event, reason: Exception
    ) -> Any:
        """Send an event that cannot be kept.

        :raises PDClientError: it cannot be sent either
        """
        session.log.warning(
            "%r cannot keep an event, which is sent directly: %s", self, reason
        )
        self._clear_the_way(session, row)
        response = session._deliver(row.path, json.loads(row.body))
        self._notes.append(
            f"{self!r} cannot keep events, which are sent directly: {reason}"
        )
        self._issue_notes(session)
        return response

    def _clear_the_way(self, session: Any, row: _Event) -> None:
        """Send first what waits of the same key."""
        end = time.monotonic() + OWN_TIME
        last = row._replace(id=2**62)
        choice = _Choice(2e11, self._done, last)
        while True:
            try:
                if self._pick(row.owner, choice) is None:
                    return
                step = self._step(
                    session, choice, lambda _: end - time.monotonic()
                )
            except (sqlite3.Error, OSError, PDInputError):
                return  # What cannot be read cannot be sent first.
            if step.outcome == "busy" and time.monotonic() < end:
                _wait(POLL_TIME)
            elif step.outcome in ("busy", "failed"):
                raise PDClientError(
                    f"{self!r} cannot keep the event, and what waits of the "
                    f"same dedup_key cannot be sent: {step.error or 'busy'}"
                )

    # -- Sending ------------------------------------------------------------

    def _send_own(self, session: Any, row: _Event) -> bool:
        """Try to send an event, after what waits of its key; then others.

        :returns: it is done with
        """
        others, is_done = OTHERS_TIME, False

        def limit(event: _Event) -> float:
            if event.token == row.token:
                return OWN_TIME
            return OTHERS_TIME if others > 0 else 0

        while not is_done:
            start = time.monotonic()
            choice = _Choice(time.time(), self._done, row)
            step = self._step(session, choice, limit)
            if step.outcome == "busy" or step.weight >= MAX_FAILURES:
                return False
            if not step.is_done or step.event is None:
                break
            is_done = step.event.token == row.token
            if not is_done:
                others -= time.monotonic() - start
        self._send_others(session, others)
        return is_done

    def _send_others(self, session: Any, seconds: float) -> None:
        """Spend so many seconds on what waits."""
        end = time.monotonic() + seconds
        skip: Set[str] = set()
        weight = 0
        while weight < MAX_FAILURES and time.monotonic() < end:
            choice = _Choice(time.time(), skip | self._done)
            # An attempt that was cut short could have arrived.
            step = self._step(session, choice, lambda _: OTHERS_TIME)
            weight = weight + step.weight if step.weight else 0
            if step.outcome == "failed" and step.event is not None:
                skip.add(step.event.token)
            # Who found the sender's lock held relies on this second look.
            if step.outcome == "busy" or (
                step.outcome == "nothing"
                and self._pick(_owner(session), choice) is None
            ):
                break

    def _step(
        self, session: Any, choice: _Choice, limit: Callable[[_Event], float]
    ) -> _Step:
        """Send one event, unless another process or thread is sending.

        :param limit: seconds that an attempt for this event may take
        """
        with _file_lock(self.path + "-sender", 0) as is_held:
            if not is_held:
                return _Step("busy")
            with contextlib.suppress(sqlite3.Error, OSError):
                self._forget_done()
                self._expire(session)
            event = self._pick(_owner(session), choice)
            seconds = 0.0 if event is None else limit(event)
            if event is None or seconds <= 0:
                return _Step("nothing")
            error = _post(session, event, seconds)
            return self._settle(session, event, error)

    def _pick(self, owner: str, choice: _Choice) -> Optional[_Event]:
        where, values = choice.where()
        rows = self._look(
            f"SELECT {_COLUMNS} FROM {{}} AS e WHERE refused = 0 AND "
            f"owner = :owner AND {where} AND {_FIRST} ORDER BY id LIMIT 1",
            dict(values, owner=owner),
        )
        return _Event(*rows[0]) if rows else None

    def _settle(
        self, session: Any, event: _Event, error: Optional[Exception]
    ) -> _Step:
        """Note in the file what has come of an attempt."""
        if error is None:
            self._done.add(event.token)
            try:
                self._forget_done()
            except (sqlite3.Error, OSError) as problem:
                session.log.warning(
                    "%r: an event was delivered, and cannot be taken out of "
                    "the file now: %s",
                    self,
                    problem,
                )
            return _Step("delivered", event)
        is_final = _is_final(event, error)
        try:
            if is_final:
                self._set_aside(session, event, str(error))
            else:
                self._postpone(session, event, error)
        except (sqlite3.Error, OSError) as problem:
            session.log.warning("%r cannot note it: %s", self, problem)
            is_final = False
        return _Step("refused" if is_final else "failed", event, error)

    def _postpone(self, session: Any, event: _Event, error: Exception) -> None:
        session.log.warning("%r: event %d waits: %s", self, event.id, error)
        next_attempt = time.time() + _pause(event.attempts + 1, error)
        self._execute(
            "UPDATE {} SET attempts = attempts + 1, error = ?, "
            "next_attempt_at = ? WHERE token = ?",
            (str(error), next_attempt, event.token),
        )

    def _set_aside(self, session: Any, event: _Event, reason: str) -> None:
        session.log.error(
            "%r: event %d is set aside: %s", self, event.id, reason
        )
        self._execute(
            "UPDATE {} SET refused = 1, attempts = attempts + 1, error = ? "
            "WHERE token = ?",
            (reason, event.token),
        )

    def _forget_done(self) -> None:
        """Take out of the file what the API has taken.

        :raises sqlite3.Error: even with the reserve the disk is too full
        """
        for token in list(self._done):
            delete = ("DELETE FROM {} WHERE token = ?", (token,))
            try:
                self._execute(*delete)
            except (sqlite3.Error, OSError):
                self._file.free_ballast()
                self._execute(*delete)
            self._done.discard(token)

    def _expire(self, session: Any) -> int:
        """Set aside what is older than max_age; return how many."""
        if self.max_age is None:
            return 0
        rows = self._look(
            f"SELECT {_COLUMNS} FROM {{}} WHERE refused = 0 AND "
            "waits_since < ?",
            (time.time() - self.max_age,),
        )
        for row in rows:
            reason = f"It has waited for more than {self.max_age:g} s."
            self._set_aside(session, _Event(*row), reason)
        return len(rows)

    # -- The file -----------------------------------------------------------

    def _transact(
        self, work: Callable[[sqlite3.Connection], _Result]
    ) -> _Result:
        """Do work in a transaction: in a new file, if this one is damaged.

        :raises sqlite3.Error: it could not be done
        """
        for _ in range(MAX_FAILURES):
            try:
                with self._file.transaction() as connection:
                    return work(connection)
            except _ReplacedError:
                continue
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                note = self._file.set_aside(error)
                if note:
                    self._notes.append(note)
        raise sqlite3.OperationalError("the file is damaged again and again")

    def _look(self, sql: str, values: Any = ()) -> List[Any]:
        return self._transact(
            lambda c: c.execute(sql.format(_TABLE), values).fetchall()
        )

    def _execute(self, sql: str, values: Any) -> int:
        return self._transact(
            lambda c: c.execute(sql.format(_TABLE), values).rowcount
        )

    def _listed(self, refused: int) -> List[Dict[str, Any]]:
        sql = f"SELECT {_COLUMNS} FROM {{}} WHERE refused = ? ORDER BY id"
        with self._usable():
            rows = self._look(sql, (refused,))
        return [
            event.as_dict()
            for event in (_Event(*row) for row in rows)
            if event.token not in self._done
        ]

    def _change(self, id: int, sql: str) -> None:
        with self._usable():
            count = self._execute(sql, {"id": id, "now": time.time()})
        if not count:
            raise PDInputError(f"{self!r} has no such event: {id!r}.")

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise PDClientError(
                f"{self!r} cannot be used: {error}. Is the disk full, and is "
                "the file yours?"
            ) from error

    def _issue_notes(self, session: Any) -> None:
        """Warn of what has come to pass, now that the event is safe."""
        notes, self._notes = self._notes, []
        for note in notes:
            session.log.info("%s", note)
            warnings.warn(
                note, PDWarning, stacklevel=pdpyras._callers_level(3)
            )


class _Flush:
    """One flush: what it has sent, and what it leaves alone."""

    def __init__(self, outbox: Outbox, session: Any, clock: _Clock) -> None:
        self._outbox, self._session, self._clock = outbox, session, clock
        self._goes_on = clock.left() < float("inf")
        self._mark = outbox._look("SELECT COALESCE(MAX(id), 0) FROM {}")[0][0]
        self._skip: Set[str] = set()
        self._weight = self._throttled = 0
        self.is_hopeless = False
        self._busy_until = time.monotonic() + ATTEMPT_TIME
        self.counts = {"delivered": 0, "refused": outbox._expire(session)}

    def run(self) -> None:
        """Send, until what waited at the beginning is done with."""
        is_open = False
        while self._clock.left() > 0:
            choice = _Choice(
                self._clock.now(),
                self._skip | self._outbox._done,
                mark=self._mark,
                is_open=is_open,
            )
            step = self._outbox._step(
                self._session,
                choice,
                lambda _: min(ATTEMPT_TIME, self._clock.left()),
            )
            if not self._continues(step, choice):
                return
            is_open = not is_open

    def _continues(self, step: _Step, choice: _Choice) -> bool:
        if step.is_done:
            self.counts[step.outcome] += 1
            self._weight = self._throttled = 0
            return True
        if step.event is not None and step.error is not None:
            return self._after_failure(step, step.event, step.error)
        if step.outcome == "busy":
            _wait(POLL_TIME)
            return self._goes_on or time.monotonic() < self._busy_until
        return choice.is_open or self._wait_until_due(choice)

    def _after_failure(
        self, step: _Step, event: _Event, error: Exception
    ) -> bool:
        self._weight += step.weight
        is_throttled = _status(error) == 429
        self._throttled = self._throttled + 1 if is_throttled else 0
        waits = self._goes_on or 0 < self._throttled < MAX_THROTTLED
        if not waits:
            self._skip.add(event.token)
        if self._weight < MAX_FAILURES:
            return True
        self._weight = 0
        if waits and self._sleep(_pause(event.attempts + 1, error)):
            return True
        self.is_hopeless = True
        return False

    def _wait_until_due(self, choice: _Choice) -> bool:
        """Wait for the first pause that ends; False: there is none."""
        where, values = choice._replace(now=2e11).where()
        values["owner"] = _owner(self._session)
        due = self._outbox._look(
            "SELECT MIN(next_attempt_at) FROM {} AS e WHERE refused = 0 AND "
            f"owner = :owner AND {where} AND {_FIRST}",
            values,
        )[0][0]
        return due is not None and self._sleep(due - self._clock.now())

    def _sleep(self, seconds: float) -> bool:
        if seconds >= self._clock.left():
            return False
        self._clock.sleep(max(seconds, POLL_TIME))
        return True
