"""OAuth tokens: kept, shared between threads and processes, and renewed.

It is a part of pdpyras_oauth, which see, and knows nothing of how tokens are
asked for. ``TokenCache`` keeps them in a file; ``RenewedToken`` renews one in
time, once for all who need it.
"""

import contextlib
import json
import logging
import os
import re
import stat
import sys
import tempfile
import threading
import time
from collections import deque
from typing import (
    Any,
    ContextManager,
    Deque,
    Dict,
    Iterator,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

import pdpyras
from pdpyras import PDClientError, PDDeadlineError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = [
    "MAX_RENEWAL_TIME",
    "PAUSE_AFTER_FAILURE",
    "RenewedToken",
    "TokenCache",
    "Tokens",
    "UnsavedError",
    "masked",
    "tokens_from",
]

_log = logging.getLogger("pdpyras.oauth")


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# What is left of a token's life when it is renewed: a share of the life, and
# seconds at most.
RENEWAL_SHARE = 0.1
MAX_RENEWAL_MARGIN = 300

# Seconds of life where the answer does not tell.
DEFAULT_LIFE = 3600

# Seconds for which another process is waited for that holds the cache's lock,
# and between two looks at it.
MAX_LOCK_WAIT = 60
LOCK_POLL_INTERVAL = 0.05

# Seconds until the next try, when a renewal fails while the token lives.
PAUSE_AFTER_FAILURE = 30

# Seconds that a renewal may take.
MAX_RENEWAL_TIME = 300

# The same, and the wait for the cache's lock, while the token lives: nothing
# has to wait for them then. They may take this share of what is left of the
# call's deadline, which has work of its own to do.
MAX_EARLY_TIME = 10
EARLY_SHARE = 0.5

# Seconds of life, and seconds since 1970, that a token can have. NaN is not
# below them either.
MAX_LIFE = 1e10
MAX_EXPIRES_AT = 1e12


# ---------------------------------------------------------------------------
# Tokens
# ---------------------------------------------------------------------------


class Tokens(NamedTuple):
    """What the token endpoint grants.

    :ivar scope: the granted scopes; None where the answer does not tell
    :ivar life: seconds
    :ivar expires_at: seconds since 1970: a clock that goes on while the
        computer sleeps, and that other processes share. Where it is set
        wrongly, the API's 401 tells.
    """

    access: str
    refresh: str
    scope: Optional[str]
    life: float
    expires_at: float

    def is_due(self, now: float) -> bool:
        """Is so little of its life left that it should be renewed?"""
        margin = min(self.life * RENEWAL_SHARE, MAX_RENEWAL_MARGIN)
        return self.expires_at - now < margin

    def is_well_formed(self) -> bool:
        """Can they be used? They came from outside."""
        return (
            isinstance(self.access, str)
            and re.fullmatch(r"[\x21-\x7e]+", self.access) is not None
            and isinstance(self.refresh, str)
            and isinstance(self.scope, (str, type(None)))
            and _is_number_below(self.life, MAX_LIFE)
            and _is_number_below(self.expires_at, MAX_EXPIRES_AT)
        )


def _is_number_below(value: Any, bound: float) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < bound


def tokens_from(answer: Dict[str, Any], now: float) -> Optional[Tokens]:
    """The tokens of an answer; None if it is not as it should be."""
    life = answer.get("expires_in", DEFAULT_LIFE)
    refresh = answer.get("refresh_token")
    kind = str(answer.get("token_type", "bearer")).lower()
    if kind != "bearer" or not _is_number_below(life, MAX_LIFE):
        return None
    tokens = Tokens(
        pdpyras._masked(answer.get("access_token")),
        pdpyras._Secret() if refresh is None else pdpyras._masked(refresh),
        answer.get("scope"),
        life,
        now + life,
    )
    return tokens if tokens.is_well_formed() else None


# ---------------------------------------------------------------------------
# The cache
# ---------------------------------------------------------------------------


class TokenCache:
    """Tokens in a file, for the processes of one user.

    The file has the mode 0600, is replaced as a whole and locked between
    processes; beside it there are a lock file and, while it is written, a
    temporary one. It never holds a client secret.

    :param path: of the file, which is made when it is needed
    :raises ValueError: it begins with ``~``, and there is no home directory
    """

    def __init__(self, path: Union[str, "os.PathLike[str]"]) -> None:
        path = os.path.expanduser(os.fspath(path))
        if path.startswith("~" + os.sep) or path == "~":
            raise ValueError(
                f"A token cache cannot be at {path}: this user has no home "
                "directory. Name another place, with a full path."
            )
        self.path: str = os.path.abspath(path)
        self._holder: Optional[Tuple[int, int]] = None

    def __repr__(self) -> str:
        return f"TokenCache({self.path!r})"

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.path,)

    def load(self, key: str) -> Optional[Dict[str, Any]]:
        """The entry of this key, or None.

        :param key: see :meth:`OAuthApp.cache_key`
        :raises PDClientError: others can read the file, or it is no cache
        """
        return self._read().get(key)

    def store(self, key: str, entry: Optional[Dict[str, Any]]) -> None:
        """Set the entry of this key; None removes it.

        Entries that are of no use any more are removed, too.

        :raises PDClientError: others can read the file, it is no cache, it
            cannot be locked within a minute, or cannot be written
        """
        entry = masked(entry or {})
        with self.locked():
            entries = self._read()
            entries[key] = entry
            for other in [k for k, e in entries.items() if _is_void(e)]:
                del entries[other]
            self._write(entries)

    @contextlib.contextmanager
    def locked(self, seconds: float = MAX_LOCK_WAIT) -> Iterator[None]:
        """Keep other processes, and threads, out of the file meanwhile.

        :param seconds: for which the lock is waited for
        :raises PDClientError: it cannot be had
        """
        me = (os.getpid(), threading.get_ident())
        if self._holder == me:
            yield
            return
        # Of the file itself, which other processes may have another name for.
        path = os.path.realpath(self.path)
        with self._errors():
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            file = os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            end = time.monotonic() + seconds
            # Not by a call that blocks: that would stop all of gevent's
            # greenlets, and could not be given up.
            while not self._try_lock(file):
                if time.monotonic() >= end:
                    raise PDClientError(
                        f"The token cache {self.path} has been locked by "
                        f"another process or thread for {seconds:g} s."
                    )
                time.sleep(LOCK_POLL_INTERVAL)
            self._holder = me
            try:
                yield
            finally:
                self._holder = None
                _unlock(file)
        finally:
            os.close(file)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PDClientError(
                f"The token cache {self.path} cannot be used: {error}"
            ) from error

    def _try_lock(self, file: int) -> bool:
        with self._errors():
            try:
                if sys.platform == "win32":
                    msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
                else:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                return False
            return True

    def _read(self) -> Dict[str, Dict[str, Any]]:
        if not os.path.exists(self.path):
            return {}
        with self._errors():
            with open(self.path, encoding="utf-8") as file:
                mode = os.fstat(file.fileno()).st_mode
                if os.name != "nt" and stat.S_IMODE(mode) & 0o077:
                    raise PDClientError(
                        f"Others can read the token cache {self.path}. It is "
                        f"not used. Take that away (chmod 600 {self.path}), "
                        "and revoke the tokens if others have had a look."
                    )
                entries = _entries_of(file)
        if entries is None:
            raise PDClientError(
                f"{self.path} is not a token cache. Name another file or, if "
                "it was one, delete it."
            )
        return entries

    def _write(self, entries: Dict[str, Any]) -> None:
        path = os.path.realpath(self.path)
        directory, name = os.path.split(path)
        with self._errors():
            # Its mode is 0600 from the beginning.
            file, temporary = tempfile.mkstemp(".tmp", name + ".", directory)
            try:
                with open(file, "w", encoding="utf-8") as stream:
                    stream.write(json.dumps({"tokens": entries}))
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise


def _entries_of(file: Any) -> Optional[Dict[str, Dict[str, Any]]]:
    """The entries in a file; None if there are none of this kind."""
    try:
        return {
            key: masked(entry)
            for key, entry in json.load(file)["tokens"].items()
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # The error would show what the file holds.
    except RecursionError:
        return None


def masked(texts: Dict[str, Any]) -> Dict[str, Any]:
    """The same, with texts that reprs hide."""
    return {name: pdpyras._masked(text) for name, text in texts.items()}


def _is_void(entry: Dict[str, Any]) -> bool:
    """Is it a token that has ended, and that nothing can renew?"""
    ends = entry.get("expires_at")
    is_alive = isinstance(ends, (int, float)) and ends > time.time()
    return not is_alive and not entry.get("refresh")


def _unlock(file: int) -> None:
    # Closing is not enough: a child that was forked meanwhile has it open.
    if sys.platform == "win32":
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_UN)


# ---------------------------------------------------------------------------
# Renewal
# ---------------------------------------------------------------------------


class UnsavedError(PDClientError):
    """New tokens could be saved nowhere."""


class _Renewal:
    """A renewal that is under way, and who waits for it.

    As in the gate of pdpyras there is no lock that a signal handler or a
    forked process could meet held.
    """

    def __init__(self) -> None:
        self.process, self.thread = os.getpid(), threading.get_ident()
        self.access: Optional[str] = None
        self.problem = ""
        self._is_over = False
        self._waiters: Deque[Any] = deque()

    def wait(self, seconds: float) -> bool:
        """Wait for its end.

        :returns: has it ended?
        """
        # Made where it is used: it is gevent's, if that has patched threads.
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        # Whoever ended it before this look did not know of the waiter.
        if not self._is_over and seconds > 0:
            waiter.acquire(timeout=seconds)
        return self._is_over

    def end(self) -> None:
        self._is_over = True
        while True:
            try:
                self._waiters.popleft().release()
            except IndexError:
                return


class RenewedToken:
    """A token that is renewed in time, by one thread of those that need it.

    pdpyras asks for it before each attempt.

    :param cache: where other processes find the token, or None
    :param key: of the entry in the cache, or None
    """

    # May two renewals be under way, if need be?
    _may_overlap = True

    def __init__(
        self, cache: Optional[TokenCache], key: Optional[str]
    ) -> None:
        self._cache = cache if key is not None else None
        self._key = key if cache is not None else None
        self._tokens: Optional[Tokens] = None
        self._reset_transient_state()

    def _reset_transient_state(self) -> None:
        # The token after which the API has answered 401, or which is not what
        # was asked for.
        self._refused = ""
        self._next_try = 0.0
        self._unsaved: Optional[Tokens] = None
        # At most one, by the only key: two operations on a dict cannot be
        # under way at once.
        self._renewals: Dict[str, _Renewal] = {}
        # Of the calls under way, by thread.
        self._deadlines: Dict[int, Any] = {}

    def __getstate__(self) -> Dict[str, Any]:
        # Two owners of one refresh token would make it void.
        alive = self._alive(self._tokens)
        tokens = alive and alive._replace(refresh="")
        kept = {"_cache": self._cache, "_key": self._key}
        return {**kept, "_tokens": tokens}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset_transient_state()

    @contextlib.contextmanager
    def within(self, seconds: Any) -> Iterator[None]:
        """What is done meanwhile, in this thread, is to end in time."""
        thread = threading.get_ident()
        end = None if seconds is None else pdpyras._new_deadline(seconds)
        # Of a call that a signal has interrupted.
        before = self._deadlines.get(thread)
        self._deadlines[thread] = end
        try:
            yield
        finally:
            self._deadlines.pop(thread, None)
            if before is not None:
                self._deadlines[thread] = before

    def token(self) -> str:
        """A token that is good now.

        :raises PDClientError: there is none to be had
        """
        while True:
            alive = self._alive(self._tokens)
            if alive is not None and not self._is_due(alive):
                return alive.access
            mine = _Renewal()
            try:
                renewal = self._renewals.setdefault("", mine)
                if renewal is mine:
                    return self._renew(mine)
            finally:
                if self._renewals.get("") is mine:
                    self._renewals.pop("", None)
                mine.end()
            if alive is not None:
                return alive.access
            access = self._token_of(renewal)
            if access is not None:
                return access

    def renew(self, refused: str) -> None:
        """Put another token in the place of the one that was refused.

        :raises PDClientError: there is none to be had
        """
        if self._tokens is not None and self._tokens.access == refused:
            self._refused = pdpyras._Secret(refused)
        self.token()

    def _alive(self, tokens: Optional[Tokens]) -> Optional[Tokens]:
        """The tokens, if they can be used; None if not."""
        is_alive = (
            tokens is not None
            and time.time() < tokens.expires_at
            and tokens.access != self._refused
        )
        return tokens if is_alive else None

    def _good(self, tokens: Optional[Tokens]) -> Optional[Tokens]:
        """The same for tokens that others may have obtained."""
        alive = self._alive(tokens)
        if alive is not None:
            try:
                self._check(alive)
            except PDClientError:
                return None
        return alive

    def _is_due(self, tokens: Tokens) -> bool:
        now = time.time()
        return now >= self._next_try and tokens.is_due(now)

    def _token_of(self, renewal: _Renewal) -> Optional[str]:
        """The token that another thread is asking for; None: look again."""
        if renewal.process != os.getpid():
            # Forked from the process whose thread that is.
            if self._renewals.get("") is renewal:
                self._renewals.pop("", None)
            return None
        if renewal.thread == threading.get_ident():
            # A signal handler, within a renewal of the same thread: that one
            # cannot go on before this one has.
            if not self._may_overlap:
                raise PDClientError(
                    "The token is being renewed by the very thread that asks "
                    "for it, which a signal or on_renew has interrupted."
                )
            tokens = self._obtain(False)
            self._check(tokens)
            return tokens.access
        bound = MAX_RENEWAL_TIME + MAX_LOCK_WAIT
        if not renewal.wait(self._seconds_left(bound)):
            self._seconds_left(bound)  # Raises once the deadline has passed.
            raise PDClientError(
                f"The renewal of the token by another thread has not ended "
                f"within {bound} s."
            )
        if renewal.problem:
            raise PDClientError(renewal.problem)
        return renewal.access

    def _seconds_left(self, bound: float) -> float:
        deadline = self._deadlines.get(threading.get_ident())
        if deadline is None:
            return bound
        if deadline.left() <= 0:
            raise PDDeadlineError(
                f"The deadline of {deadline.seconds:g} s has passed while the "
                "token was renewed."
            )
        return float(min(bound, deadline.left()))

    def _time_for(self, bound: float, is_early: bool) -> float:
        """Seconds that a part of a renewal may take.

        :param is_early: do the old tokens live?
        """
        left = self._seconds_left(bound)
        return min(left * EARLY_SHARE, MAX_EARLY_TIME) if is_early else left

    def _renew(self, renewal: _Renewal) -> str:
        """Let a renewal take place, and tell those who wait for it."""
        # It may have been renewed between the look at it and this moment.
        tokens = self._alive(self._tokens)
        if tokens is None or self._is_due(tokens):
            try:
                tokens = self._renewed(tokens)
            except PDDeadlineError:
                raise  # It is about this thread alone.
            except PDClientError as error:
                renewal.problem = str(error)
                raise
        renewal.access = tokens.access
        return tokens.access

    def _renewed(self, alive: Optional[Tokens]) -> Tokens:
        """New tokens or, if the old ones live, those with a warning."""
        with contextlib.ExitStack() as stack:
            try:
                self._lock(stack, alive is not None)
                stack.enter_context(self._uninterrupted())
                cached = self._good(self._load())
                if self._unsaved is not None:
                    tokens = self._unsaved
                elif cached is not None and not cached.is_due(time.time()):
                    self._tokens = cached
                    return cached
                else:
                    tokens = self._obtain(alive is not None)
            except PDClientError as error:
                return self._made_do_with(alive, error)
            try:
                return self._settle(tokens)
            except UnsavedError as error:
                return self._made_do_with(alive, error)

    def _lock(self, stack: contextlib.ExitStack, is_early: bool) -> None:
        """Lock the cache, if there is one, until the stack unwinds.

        :raises PDClientError: it cannot be locked, and has to be
        """
        if self._cache is None:
            return
        wait = self._time_for(MAX_LOCK_WAIT, is_early)
        try:
            stack.enter_context(self._cache.locked(wait))
        except PDClientError as error:
            # A disk that cannot be written to: the worst that renewals at
            # once do is to ask for two tokens, if both of them may be had.
            is_of_file = isinstance(error.__cause__, OSError)
            if not (is_of_file and self._may_overlap):
                raise

    def _uninterrupted(self) -> ContextManager[Any]:
        """What surrounds the asking for tokens, and their keeping."""
        return contextlib.ExitStack()

    def _made_do_with(
        self, alive: Optional[Tokens], error: PDClientError
    ) -> Tokens:
        """The old tokens, with a warning, if they live.

        :raises PDClientError: they do not
        """
        if alive is None:
            raise error
        self._next_try = time.time() + PAUSE_AFTER_FAILURE
        pdpyras._warn(
            _log,
            "The token could not be renewed. The old one is used as long as "
            f"it lives. {error}",
        )
        return alive

    def _load(self) -> Optional[Tokens]:
        """The tokens in the cache, which may be newer than those here.

        :raises PDClientError: the cache cannot be used
        """
        if self._cache is None or self._key is None:
            return None
        entry = self._cache.load(self._key)
        if entry is None or set(entry) != set(Tokens._fields):
            return None
        tokens = Tokens(**entry)
        if tokens.is_well_formed():
            return tokens
        del entry, tokens  # A token that is no text is in their reprs.
        raise PDClientError(
            f"The token cache {self._cache.path} cannot be used: the tokens "
            "in it are damaged. Delete the file. Users have to authorise "
            "again then."
        )

    def _store(self, tokens: Tokens) -> None:
        if self._cache is not None and self._key is not None:
            self._cache.store(self._key, dict(tokens._asdict()))

    def _obtain(self, is_early: bool) -> Tokens:
        """Ask for tokens.

        :param is_early: do the old ones live? Then nothing has to wait.
        :raises PDClientError: there are none to be had
        """
        raise NotImplementedError

    def _check(self, tokens: Tokens) -> None:
        """Refuse tokens that are not what was asked for.

        :raises PDClientError: they are not
        """
        raise NotImplementedError

    def _settle(self, tokens: Tokens) -> Tokens:
        """Check and keep tokens, before they are used."""
        self._check(tokens)
        self._tokens = tokens
        try:
            self._store(tokens)
        except PDClientError as error:
            pdpyras._warn(_log, f"The token is kept in memory only. {error}")
        return tokens
