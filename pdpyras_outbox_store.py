"""Where an outbox keeps its events: one SQLite file, for many processes.

It is a part of ``pdpyras_outbox``, which sends what is kept here; no program
need import it. It knows locks, forks, full disks and damaged files, and
nothing of sessions or of PagerDuty.

SQLite's own documents say on what it rests: "Write-Ahead Logging", "How To
Corrupt An SQLite Database File", and "Result and Error Codes".
"""

import atexit
import contextlib
import errno
import hashlib
import json
import os
import sqlite3
import tempfile
import threading
import time
import weakref
from datetime import datetime, timezone
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
    TypeVar,
    cast,
)

import pdpyras
from pdpyras import PDInputError

try:
    import fcntl
except ImportError:  # Not a Unix.
    fcntl = None  # type: ignore[assignment]

__all__: List[str] = []

_Result = TypeVar("_Result")

# What a file that cannot be used raises.
FILE_ERRORS = (sqlite3.Error, OSError, PDInputError)


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# Seconds to wait for the other processes that use the file; and those for
# what must be noted, although the deadline of the call has passed.
LOCK_TIME = 30.0
MIN_LOCK_TIME = 0.3
POLL_TIME = 0.02

# Times that a damaged file is replaced in one operation.
MAX_REPLACEMENTS = 3

# Bytes on disk that are freed when it is full: to delete takes room, too.
BALLAST_SIZE = 256 * 1024
MIN_BALLAST_SIZE = 64 * 1024

# Bytes of a sender's lock file: what it has delivered, but cannot take out.
DELIVERED_SIZE = 4096

# File systems that share files between machines, but not SQLite's locks.
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "afs", "fuse.sshfs", "9p.nfs")

TABLE = "pdpyras_outbox"
_NEWTABLE = (
    f"CREATE TABLE {TABLE} ("
    "id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL, "
    "owner TEXT NOT NULL, dedup_key TEXT, path TEXT NOT NULL, "
    "body TEXT NOT NULL, made_at REAL NOT NULL, check_sum TEXT NOT NULL, "
    "waits_since REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, "
    "next_attempt_at REAL NOT NULL DEFAULT 0, error TEXT, "
    "refused INTEGER NOT NULL DEFAULT 0)"
)
# Each index ends with the id, of itself: the first gives a queue in its order.
_NEW_INDEXES = (
    f"CREATE INDEX {TABLE}_queue ON {TABLE} (refused, owner, next_attempt_at)",
    f"CREATE INDEX {TABLE}_key ON {TABLE} (owner, dedup_key, refused)",
)


# ---------------------------------------------------------------------------
# Events
# ---------------------------------------------------------------------------


class Event(NamedTuple):
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


_SELECT = f"SELECT {', '.join(Event._fields)} FROM {TABLE} AS e"

# An index may be damaged, so a row is found by its id; in another file, which
# has taken the place of its own, another event may have that.
_THIS = "WHERE id = ? AND token = ?"


class Written(NamedTuple):
    """An event, and the identity of the file that it was written to."""

    event: Event
    file: Any


def new_event(
    owner: str, dedup_key: Optional[str], path: str, content: Any
) -> Event:
    """An event that is to be written."""
    body = json.dumps(content, allow_nan=False)
    token = os.urandom(8).hex()
    values = (token, owner, dedup_key, path, body, float(time.time()))
    return Event(0, *values, _check_sum(*values))


def _iso(moment: Any) -> Optional[str]:
    if not isinstance(moment, (int, float)) or not 0 < moment < 1e11:
        return None
    utc = datetime.fromtimestamp(moment, timezone.utc).replace(tzinfo=None)
    return utc.isoformat(timespec="milliseconds") + "Z"


def _check_sum(*values: Any) -> str:
    # The repr() of a text depends on what Unicode this Python knows.
    return hashlib.sha256(json.dumps(values).encode("ascii")).hexdigest()


# ---------------------------------------------------------------------------
# Locks between processes, and forks
# ---------------------------------------------------------------------------
#
# The kernel frees a lock when its holder dies. Within the process, all
# transactions are behind one lock, which a fork waits for, and before which
# the connections are closed: a child that inherited an open one would hold
# file locks in SQLite's bookkeeping that the kernel does not know of. Python
# 3.6 cannot tell of a fork. There the child closes what it has inherited; and
# if another thread was at a file, it does without SQLite: to wait for the
# locks of a thread that is not there would take for ever.


class _Process:
    """What belongs to this process, and not to one forked from it."""

    def __init__(self) -> None:
        self.id = os.getpid()
        self.is_usable = True
        self.lock = threading.RLock()
        self.blocks = threading.local()
        self.fork: Any = None
        self.files: Any = weakref.WeakSet()
        # What the garbage collector has found, with a connection to close.
        self.orphans: List[File] = []
        self.locks: Any = weakref.WeakSet()  # The files that hold them.
        # Could a fork's child inherit a connection?
        self.has_leak = False

    def before_fork(self) -> None:
        mark = self.begin()
        self.lock.acquire()
        self.fork = mark  # Only now: other threads may fork as well.
        self.close()

    def after_fork_in_parent(self) -> None:
        self.fork = None
        self.lock.release()

    def after_fork_in_child(self) -> None:
        self.fork = None
        self.id = os.getpid()
        self.lock = threading.RLock()
        for file in list(self.locks):
            file.close()  # The lock stays with the parent.
        self.locks.clear()
        files, self.orphans = [*self.files, *self.orphans], []
        if self.has_leak or any(file.has_begun for file in files):
            # The thread is not here that was within SQLite, and may have
            # held locks of SQLite itself.
            self.is_usable = False
        for file in files:
            file.after_fork()

    def check(self) -> None:
        if self.id != os.getpid():  # Before Python 3.7.
            self.after_fork_in_child()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other threads, and forks, from the files.

        :raises sqlite3.OperationalError: another thread takes too long
        """
        self.check()
        mark = self.begin()
        lock, is_held = self.lock, False
        try:
            is_held = lock.acquire(timeout=_patience.left())
            if not is_held:
                raise sqlite3.OperationalError("another thread is at the file")
            yield
        finally:
            if is_held:
                lock.release()
            del mark

    def begin(self) -> Any:
        """What lives as long as any such block of this thread.

        If none does, an exception of a signal handler may have ended the last
        one just before it freed the lock; then that is done here.
        """
        mark: Any = getattr(self.blocks, "mark", set)()
        if not mark:
            mark = {1}  # There are weak references to a set.
            self.blocks.mark = weakref.ref(mark)
            with contextlib.suppress(RuntimeError):  # It is not ours any more.
                while True:
                    self.lock.release()
        return mark

    def close(self) -> None:
        self.check()
        mark = self.begin()
        end = pdpyras._Deadline(LOCK_TIME)  # For all of them together.
        with self.lock:
            for file in [*self.files, *self.orphans]:
                if not (file.close(end) or file.is_busy):
                    file.abandon()
                    self.has_leak = True
            # What a signal handler interrupts is still among them.
            self.orphans[:] = [f for f in self.orphans if f.is_open]
        del mark

    def close_orphans(self) -> None:
        """Close what nobody uses any more; what is in use, another time."""
        with patience(pdpyras._Deadline(0)):
            for file in list(self.orphans):
                with contextlib.suppress(*FILE_ERRORS):
                    file.forget_delivered()
                if not file.delivered and file.close(_patience.deadline):
                    self.orphans.remove(file)

    def end(self) -> None:
        """Take with it nothing that others ought to know."""
        for file in [*self.files, *self.orphans]:
            with contextlib.suppress(*FILE_ERRORS):
                file.forget_delivered()
        self.close()


class _Patience(threading.local):
    """How long this thread waits for others that use the file."""

    deadline: Optional[pdpyras._Deadline] = None

    def left(self) -> float:
        """Seconds, from now on."""
        if self.deadline is None:
            return LOCK_TIME
        return min(max(self.deadline.left(), 0.0), LOCK_TIME)


_process = _Process()
_patience = _Patience()
# Of all files. The garbage collector thus never meets a connection before the
# file that is to close it; it would warn (ResourceWarning, Python 3.13).
_open_connections: Set[sqlite3.Connection] = set()
atexit.register(_process.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_process.before_fork,
        after_in_parent=_process.after_fork_in_parent,
        after_in_child=_process.after_fork_in_child,
    )


@contextlib.contextmanager
def patience(deadline: Any) -> Iterator[None]:
    """Wait for nobody within the block when the deadline has passed."""
    before = _patience.deadline
    try:
        _patience.deadline = deadline
        yield
    finally:
        _patience.deadline = before


def at_least_a_moment() -> Any:
    """For a block that notes what must not be forgotten: some patience."""
    seconds = max(_patience.left(), MIN_LOCK_TIME)
    return patience(pdpyras._Deadline(seconds))


def half_the_patience() -> Any:
    """For a block whose failure must leave the time for another way."""
    end = _patience.deadline
    return patience(end and pdpyras._Deadline(end.left() / 2))


def _abandon(connection: sqlite3.Connection) -> None:
    """Never close a connection, whose closing would delete another's file."""
    try:
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    except (ImportError, AttributeError):
        pass  # Then it is closed when the interpreter ends.


def wait(seconds: float) -> None:
    """Let another process get on; a real pause, whatever time.sleep is."""
    threading.Event().wait(seconds)


@contextlib.contextmanager
def file_lock(path: str, seconds: float = 0) -> Iterator[bool]:
    """Hold the lock of a file, if it is to be had within so many seconds.

    Wherever a signal handler that raises may interrupt it: the lock ends with
    the file, and this with its last reference.

    :raises OSError: the file cannot be opened, or the file system has no locks
    """
    end = time.monotonic() + seconds
    _process.check()
    with _opened(path) as file:
        _process.locks.add(file)
        is_held = False
        try:
            while not is_held:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_held = True
                except BlockingIOError:
                    if time.monotonic() >= end:
                        break
                    wait(POLL_TIME)
            yield is_held
        finally:
            _process.check()
            if is_held and not file.closed:  # It is in a fork's child.
                fcntl.flock(file, fcntl.LOCK_UN)


def check_lock(path: str) -> None:
    """Could the lock of a file be had?

    :raises OSError: the file cannot be opened
    """
    with _opened(path) as file:
        if not os.fstat(file.fileno()).st_size:
            with contextlib.suppress(OSError):  # For File.save_delivered.
                file.write(b" " * DELIVERED_SIZE)


def _opened(path: str) -> Any:
    """A small file beside the outbox, for its owner only; made if need be."""
    return open(path, "r+b", buffering=0, opener=_open_private)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o600)


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


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def _check_place(path: str) -> None:
    """May there be a file where the outbox is to be, and file locks?

    :raises PDInputError: there may not
    """
    problem = ""
    if os.path.isdir(path):
        raise PDInputError(f"An outbox cannot be at {path}: a directory.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise PDInputError(f"An outbox cannot be at {path}: no regular file.")
    directory = os.path.dirname(path)
    kind = _file_system(directory)
    if fcntl is None:
        problem = "this system has no file locks (fcntl)"
    elif kind.startswith(NETWORK_FILE_SYSTEMS):
        problem = f"{directory} is on a network file system ({kind})"
    elif os.access(directory, os.W_OK):
        # Not in a file that stays: whoever uses the outbox may be another
        # user than this one, as behind a server that gives up its rights.
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Of anything else, such as a full disk, events tell; they are
            # sent directly then.
            if error.errno in _NO_LOCKS:
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


class BusyError(sqlite3.OperationalError):
    """A signal handler has interrupted a transaction of its own thread."""


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


class _ReplacedError(Exception):
    """While a transaction went on, another process set the file aside."""


def _is_damage(error: Exception) -> bool:
    text = str(error)
    return (
        # It is the text of the error that cannot be decoded.
        isinstance(error, UnicodeDecodeError)
        or type(error) in (sqlite3.DatabaseError, sqlite3.IntegrityError)
        or "malformed" in text
        or "unsupported file format" in text
        or "not a database" in text
        or "no such " in text
    )


class File:
    """The SQLite file: a connection a process, a transaction at a time.

    The file itself is never opened but by SQLite: closing it would take away
    the locks of all connections of this process.

    :param path: of the file
    :raises PDInputError: there are no file locks at this path
    :ivar delivered: the ids of events that are done with, but not yet out
        of the file, by their tokens
    :ivar notes: what the user ought to be told
    :ivar is_busy: there is a transaction
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.identity: Any = None
        self.delivered: Dict[str, int] = {}
        self.notes: List[str] = []
        self._connection: Optional[sqlite3.Connection] = None
        # What a transaction has among its variables: it ends with them,
        # wherever a signal handler that raises has ended it.
        self._transaction: Any = None
        _check_place(path)
        _process.files.add(self)

    @property
    def is_busy(self) -> bool:
        return self._transaction is not None and bool(self._transaction())

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    @property
    def has_begun(self) -> bool:
        """Was it busy, as far as a fork's child without that thread knows?"""
        return self._transaction is not None

    def __del__(self) -> None:
        # The garbage collector may run within any call, and must not wait.
        # The next transaction closes the connection.
        if self.is_open:
            _process.orphans.append(self)

    # -- Transactions -------------------------------------------------------

    def read(self, sql: str, values: Any = ()) -> List[Any]:
        """The rows of a SELECT."""
        return self.transact(
            lambda c: c.execute(sql, values).fetchall(),
            "DEFERRED",  # Whoever writes holds up no reader.
        )

    def write(self, sql: str, values: Any = ()) -> int:
        """Change rows; return how many."""
        return self.transact(lambda c: c.execute(sql, values).rowcount)

    def transact(
        self,
        work: Callable[[sqlite3.Connection], _Result],
        kind: str = "IMMEDIATE",
    ) -> _Result:
        """Do work in a transaction: in a new file, if this one is damaged.

        :raises sqlite3.Error: it could not be done
        :raises OSError: the same
        :raises PDInputError: the file is somebody else's database
        """
        for _ in range(MAX_REPLACEMENTS):
            try:
                with self.transaction(kind) as connection:
                    return work(connection)
            except _ReplacedError:
                continue
            except (sqlite3.Error, UnicodeDecodeError) as error:
                if not _is_damage(error):
                    raise
                self.set_aside(error)
        raise sqlite3.OperationalError("the file is damaged again and again")

    @contextlib.contextmanager
    def transaction(
        self, kind: str = "IMMEDIATE"
    ) -> Iterator[sqlite3.Connection]:
        """A transaction, which is on disk when the block has ended.

        :raises sqlite3.Error: it is not
        """
        with _process.held():
            if self.is_busy:  # This is a signal handler.
                raise BusyError("a transaction is going on")
            if self not in _process.orphans:  # Nor is it to be closed itself.
                _process.close_orphans()
            mark = {1}  # There are weak references to a set.
            try:
                self._transaction = weakref.ref(mark)
                connection = self._connected()
                milliseconds = int(_patience.left() * 1000)
                connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
                try:
                    connection.execute(f"BEGIN {kind}")
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    _roll_back(connection)
                    raise
                if self.identity != self._identity_now():
                    raise _ReplacedError
            finally:
                self._transaction = None

    # -- The connection -----------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from opening, closing, replacing the file.

        :raises sqlite3.OperationalError: one of them takes too long
        """
        with file_lock(self.path + "-lock", _patience.left()) as is_held:
            if not is_held:
                raise sqlite3.OperationalError("another process has its lock")
            yield

    def _identity_now(self) -> Any:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _connected(self) -> sqlite3.Connection:
        if not _process.is_usable:
            raise sqlite3.OperationalError(
                "this process was forked while an outbox was in use"
            )
        if self._connection and self.identity != self._identity_now():
            self.abandon()
        if self._connection is not None:
            # A signal handler that raised may have left one.
            _roll_back(self._connection)
        if self._connection is None:
            with self._locked():
                try:
                    self._open()
                except (sqlite3.OperationalError, OSError) as error:
                    # On a full disk there is no room for SQLite's log.
                    if "locked" in str(error) or not self._free_ballast():
                        raise
                    self._open()
        return cast(sqlite3.Connection, self._connection)

    def _open(self) -> None:
        mode = None
        if not os.path.exists(self.path):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            os.close(os.open(self.path, flags, 0o600))
            self._sync_directory()
        elif os.stat(self.path).st_mode & 0o077:
            mode = os.stat(self.path).st_mode & 0o7777
            os.chmod(self.path, 0o600)
        self.identity = self._identity_now()
        try:
            connection = sqlite3.connect(
                self.path,
                timeout=_patience.left(),
                isolation_level=None,
                check_same_thread=False,
            )
        except UnicodeEncodeError as error:  # Python 3.6 wants UTF-8.
            raise OSError(
                f"the locale does not know its path: {error}"
            ) from error
        try:
            self._prepare(connection)
            _open_connections.add(connection)
            self._connection = connection
        except BaseException:
            connection.close()
            _open_connections.discard(connection)
            if mode is not None:
                os.chmod(self.path, mode)  # It may be somebody else's.
            raise
        self._hold_ballast()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = partial(
            str, encoding="utf-8", errors="replace"
        )
        found = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        )
        tables = {name for (name,) in found}
        if tables and TABLE not in tables:
            raise PDInputError(
                f"{self.path} is a database, but not an outbox."
            )
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(f"no WAL here, but {mode}")
        connection.execute("PRAGMA synchronous = FULL")
        if tables:
            # Else an index could give rows that are not there, or hide some.
            check = "PRAGMA integrity_check(1)"
            (found_out,) = connection.execute(check).fetchone()
            if found_out != "ok":
                raise sqlite3.DatabaseError(found_out)
        else:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_NEWTABLE)
            for statement in _NEW_INDEXES:
                connection.execute(statement)
            connection.execute("COMMIT")

    def _sync_directory(self) -> None:
        descriptor = os.open(os.path.dirname(self.path), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, deadline: Any = None) -> bool:
        """Close the connection, unless that would harm another file.

        SQLite deletes the log of the last connection by name, although a new
        file may have the name by then.

        :param deadline: of the waits for others; usually with all patience,
            because a fork must not take the connection along
        :returns: False: it is in use, or those who use the file take too long
        """
        if self._connection is None:
            return True
        if self.is_busy:
            return False
        try:
            with patience(deadline), _process.held(), self._locked():
                connection, self._connection = self._connection, None
                if self.identity == self._identity_now():
                    _open_connections.discard(connection)
                    connection.close()
                else:
                    _abandon(connection)
        except (OSError, sqlite3.Error):
            return False
        return True

    def abandon(self) -> None:
        """Go on without the connection, and leave it as it is."""
        if self._connection is not None:
            _abandon(self._connection)
            self._connection = None

    def after_fork(self) -> None:
        """Give up, in the child, what is the parent's."""
        self._transaction = None
        if not (_process.is_usable and self.close()):
            self.abandon()

    # -- Damage, and full disks ---------------------------------------------

    def set_aside(self, error: Exception) -> None:
        """Give a damaged file another name, unless another process did."""
        damaged = self.identity
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        name = f"{self.path}.damaged-{stamp}-{os.urandom(3).hex()}"
        with _process.held(), self._locked():
            self.abandon()
            if damaged is None or damaged != self._identity_now():
                return
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path + suffix, name + suffix)
        self.notes.append(
            f"The outbox {self.path} is damaged ({error}). It is now called "
            f"{name}; a new one was begun. Events that waited in it are not "
            "sent; the command .recover of sqlite3 may find them."
        )

    def _hold_ballast(self) -> None:
        """Keep room on the disk; without it there is none to be freed."""
        try:
            disk = os.statvfs(self.path)
            size = min(BALLAST_SIZE, disk.f_bavail * disk.f_frsize // 2)
            if size < MIN_BALLAST_SIZE:
                return
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            descriptor = os.open(self.path + "-ballast", flags, 0o600)
        except OSError:
            return
        try:
            os.write(descriptor, os.urandom(size))
        except OSError:
            self._free_ballast()
        finally:
            os.close(descriptor)

    def _free_ballast(self) -> bool:
        """Give back the room that was kept, if there is any."""
        with contextlib.suppress(OSError):
            os.remove(self.path + "-ballast")
            return True
        return False

    # -- What senders tell each other ---------------------------------------

    def noted(self) -> Any:
        """What the sender before has noted; None if that cannot be read.

        :raises ValueError: it is damaged
        """
        try:
            with open(self.path + "-sender", "rb") as file:
                return json.loads(file.read(1000) or b"null")
        except (OSError, RecursionError):
            return None

    def note(self, value: Any) -> None:
        """Note something for all senders, of whatever routing key.

        It need not survive: neither is it synced, nor need there be room.
        """
        text = json.dumps(value).encode("ascii")
        with contextlib.suppress(OSError):
            with _opened(self.path + "-sender") as file:
                file.truncate(0)
                file.write(text)

    def load_delivered(self, path: str) -> bool:
        """Learn what was delivered, and is still in the file; is anything?

        :param path: of the sender's lock, which is held
        """
        found = False
        with contextlib.suppress(OSError, ValueError):
            with open(path, "rb") as file:
                words = file.read(DELIVERED_SIZE).decode("ascii").split()
            for token, row in zip(words[::2], words[1::2]):
                found = True
                if int(row) < 2**63:  # No other can be in the file.
                    self.delivered.setdefault(token, int(row))
        return found

    def save_delivered(self, path: str) -> None:
        """Note what was delivered, for the next sender, in another process.

        It is written over what is there already, so that it takes no room.
        """
        delivered = list(self.delivered.items())
        lines = [f"{token} {row}" for token, row in delivered]
        while len("\n".join(lines)) > DELIVERED_SIZE:
            del lines[0]
        text = "\n".join(lines).ljust(DELIVERED_SIZE)
        with contextlib.suppress(OSError):
            with _opened(path) as file:
                file.write(text.encode("ascii"))
                os.fsync(file.fileno())

    # -- Events -------------------------------------------------------------

    def add(
        self, event: Event, most: Optional[float] = None
    ) -> Optional[Written]:
        """Write an event, unless there are too many.

        :param most: how many may wait; None: any number
        :returns: the event with its id, and its file; None: there are too
            many
        """

        def insert(connection: sqlite3.Connection) -> Optional[Written]:
            (count,) = connection.execute(
                f"SELECT COUNT(*) FROM {TABLE} WHERE refused = 0"
            ).fetchone()
            if most is not None and count >= most:
                return None
            done = connection.execute(
                f"INSERT INTO {TABLE} (token, owner, dedup_key, path, body, "
                "made_at, check_sum, waits_since) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*event[1:8], event.made_at),
            )
            row = event._replace(id=int(done.lastrowid or 0))
            return Written(row, self.identity)

        return self.transact(insert)

    def was_set_aside(self, written: Written) -> bool:
        """Is an event gone with the file that it was written to?

        That it is no longer in its file does not tell: others send what they
        find there, and take it out.
        """
        return bool(written.file != self._identity_now())

    def has_waiting(self, owner: str, dedup_key: Optional[str]) -> bool:
        """Does an event of this key wait? For who has interrupted this file.

        :raises sqlite3.Error: that cannot be read
        """
        sql = (
            f"SELECT 1 FROM {TABLE} WHERE refused = 0 AND owner = ? "
            "AND dedup_key = ?"
        )
        with contextlib.closing(sqlite3.connect(self.path)) as other:
            return (
                other.execute(sql, (owner, dedup_key)).fetchone() is not None
            )

    def events(self, where: str, values: Any) -> List[Event]:
        """The events for which a condition holds, oldest first.

        :param where: the condition, in SQL, of a row ``e`` of the table
        """
        rows = self.read(f"{_SELECT} WHERE {where} ORDER BY id", values)
        return [Event(*row) for row in rows]

    def first(
        self,
        where: str,
        values: Any,
        is_skipped: Callable[[str], bool] = lambda token: False,
        order: str = "id",
    ) -> Optional[Event]:
        """The first of these events that is not to be passed over.

        :param is_skipped: told the token of an event; SQL could not hold as
            many
        """
        sql = f"{_SELECT} WHERE {where} ORDER BY {order}"

        def find(connection: sqlite3.Connection) -> Optional[Event]:
            with contextlib.closing(connection.execute(sql, values)) as rows:
                events = (Event(*row) for row in rows)
                return next(
                    (e for e in events if not is_skipped(e.token)), None
                )

        return self.transact(find, "DEFERRED")

    def note_failure(
        self, event: Event, error: str, next_attempt_at: Optional[float]
    ) -> None:
        """Note what came of an attempt.

        :param next_attempt_at: when the next one is due; None: never
        """
        is_refused = next_attempt_at is None
        self.write(
            f"UPDATE {TABLE} SET attempts = attempts + 1, error = ?, "
            f"next_attempt_at = ?, refused = ? {_THIS}",
            (error, next_attempt_at or 0, is_refused, event.id, event.token),
        )

    def forget_delivered(self) -> None:
        """Take out of the file what the API has taken.

        :raises sqlite3.Error: even with the reserve the disk is too full
        """
        for token, row in list(self.delivered.items()):
            delete = (f"DELETE FROM {TABLE} {_THIS}", (row, token))
            try:
                self.write(*delete)
            except (sqlite3.Error, OSError) as error:
                if "locked" in str(error):
                    raise
                self._free_ballast()
                self.write(*delete)
            self.delivered.pop(token, None)
