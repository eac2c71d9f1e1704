"""OAuth apps of PagerDuty, whose sessions renew their tokens by themselves.

An app that is registered in the account acts for itself:

.. code-block:: python

    from pdpyras_oauth import OAuthApp

    app = OAuthApp(
        "the-client-id",
        "the-client-secret",
        scopes=["incidents.read"],
        subdomain="acme",
    )
    session = app.session()  # an APISession like any other

For a user who has consented in the browser, see ``OAuthApp.authorization``.

A token is renewed when less than a tenth of its life, at most five minutes,
is left, and once when the API answers 401. Of the threads that need it one
asks for it. Secrets, codes and tokens are in no repr, log, error or local
variable.

The rules are those of PagerDuty's pages "OAuth Functionality", "Obtaining an
App OAuth Token" and "Obtaining a User OAuth Token via Code Grant", and of RFC
6749, RFC 7636 and RFC 8252.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import sys
import tempfile
import threading
import time
from collections import deque
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Iterable,
    Iterator,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)
from urllib.parse import parse_qs, urlencode, urlsplit

import pdpyras
from pdpyras import APISession, PDClientError, PDDeadlineError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["Authorization", "OAuthApp", "OAuthSession", "TokenCache"]

_log = logging.getLogger("pdpyras.oauth")


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# What is left of a token's life when it is renewed: a share of the life, and
# seconds at most.
_RENEWAL_SHARE = 0.1
_MAX_RENEWAL_MARGIN = 300

# Seconds of life where the answer does not tell.
_DEFAULT_LIFE = 3600

# Seconds until the next try, when a renewal fails while the token lives.
_PAUSE_AFTER_FAILURE = 30

# Seconds that a renewal may take, and those that it may take while the token
# still lives: then nothing has to wait for it.
_MAX_RENEWAL_TIME = 300
_MAX_EARLY_RENEWAL_TIME = 10

# Seconds for which another process is waited for that holds the cache's lock,
# and between two looks at it.
_MAX_LOCK_WAIT = 60
_LOCK_POLL_INTERVAL = 0.05

# Characters of `error` and `error_description` that are quoted.
_MAX_REASON_LENGTH = 300

# Bytes of an answer of the token endpoint.
_MAX_ANSWER_SIZE = 1024 * 1024

_REGIONS = ("us", "eu")
_FORM = {
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept": "application/json",
}

# Retries at the token endpoint, by status, and after network trouble. What
# is not listed is never sent again.
_NO_RETRY = {401: 0, 408: 0, 429: 0}
_RETRY_RATE_LIMIT = {401: 0, 408: 0, 429: 5}
_RETRY_ALL = {**_RETRY_RATE_LIMIT, 500: 3, 502: 3, 503: 3, 504: 3}
_NETWORK_RETRIES = 3

_AUTHORISE_AGAIN = "Let the user authorise again."


# ---------------------------------------------------------------------------
# Tokens
# ---------------------------------------------------------------------------


class _Tokens(NamedTuple):
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
        margin = min(self.life * _RENEWAL_SHARE, _MAX_RENEWAL_MARGIN)
        return self.expires_at - now < margin


def _tokens_from(answer: Dict[str, Any], now: float) -> Optional[_Tokens]:
    """The tokens of an answer; None if it is not as it should be."""
    access, refresh = answer.get("access_token"), answer.get("refresh_token")
    scope, life = answer.get("scope"), answer.get("expires_in", _DEFAULT_LIFE)
    is_well_formed = (
        isinstance(access, str)
        and re.fullmatch(r"[\x21-\x7e]+", access) is not None
        and str(answer.get("token_type", "bearer")).lower() == "bearer"
        and isinstance(refresh, (str, type(None)))
        and isinstance(scope, (str, type(None)))
        and isinstance(life, (int, float))
        and 0 <= life < 1e10
    )
    if not is_well_formed:
        return None
    return _Tokens(
        pdpyras._Secret(access),
        pdpyras._Secret(refresh or ""),
        scope,
        life,
        now + life,
    )


def _challenge(verifier: str) -> str:
    """What proves, before the code is given, who will redeem it."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")


class Authorization:
    """A user's consent that is asked for, made by `OAuthApp.authorization`.

    A web application keeps the three parts in the user's session, and makes
    it again from them when the user comes back: ``Authorization(*parts)``.

    :ivar url: where to send the user's browser
    :ivar state: which comes back with the user; it tells this consent from
        one that somebody else has started
    :ivar code_verifier: secret, which only who has asked can redeem the code
        with
    """

    def __init__(self, url: str, state: str, code_verifier: str) -> None:
        self.url = url
        self.state = pdpyras._masked(state)
        self.code_verifier = pdpyras._masked(code_verifier)
        # If tokens could not be saved. The code is good for once only.
        self._tokens: Optional[_Tokens] = None

    def __repr__(self) -> str:
        return f"<Authorization at {self.url.partition('?')[0]}>"

    def _code(self, redirected_url: str) -> str:
        """The code that the user has brought back.

        :raises PDClientError: there is none, or it is not of this consent
        """
        answer = {
            name: pdpyras._Secret(values[0])
            for name, values in parse_qs(
                urlsplit(redirected_url).query
            ).items()
        }
        state = answer.get("state", pdpyras._Secret())
        texts = [t.encode("utf-8", "replace") for t in (state, self.state)]
        if not state or not hmac.compare_digest(*texts):
            raise PDClientError(
                "The state in the redirect is not that of this authorization: "
                "it was begun by somebody else, or in another session."
            )
        if "error" in answer:
            raise PDClientError(
                f"The authorization was refused: {_reason(answer, [])}"
            )
        if "code" not in answer:
            raise PDClientError("There is no code in the redirect.")
        return answer["code"]

    def _redirect_uri(self) -> str:
        return parse_qs(urlsplit(self.url).query)["redirect_uri"][0]


def _reason(answer: Dict[str, Any], hidden: Iterable[str]) -> str:
    """`error` and `error_description` of an answer, and nothing else of it."""
    names = ("error", "error_description")
    texts = [answer[n][:] for n in names if isinstance(answer.get(n), str)]
    reason = pdpyras._one_paragraph(": ".join(texts))
    for text in hidden:
        if isinstance(text, pdpyras._Secret):
            reason = reason.replace(text, "***")
    return reason[:_MAX_REASON_LENGTH] or "no reason is given"


# ---------------------------------------------------------------------------
# The cache
# ---------------------------------------------------------------------------


class TokenCache:
    """Tokens in a file, for the processes of one user.

    The file has the mode 0600, is replaced as a whole and locked between
    processes; beside it there are a lock file and, while it is written, a
    temporary one. It never holds a client secret.

    :param path: of the file, which is made when it is needed
    """

    def __init__(self, path: Union[str, "os.PathLike[str]"]) -> None:
        self.path = os.path.abspath(os.path.expanduser(os.fspath(path)))
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
        entry = _masked(entry or {})
        with self.locked():
            entries = self._read()
            entries[key] = entry
            for other in [k for k, e in entries.items() if _is_void(e)]:
                del entries[other]
            self._write(entries)

    @contextlib.contextmanager
    def locked(self, seconds: float = _MAX_LOCK_WAIT) -> Iterator[None]:
        """Keep other processes, and threads, out of the file meanwhile.

        :param seconds: for which the lock is waited for
        :raises PDClientError: it cannot be had
        """
        me = (os.getpid(), threading.get_ident())
        if self._holder == me:
            yield
            return
        with self._errors():
            os.makedirs(os.path.dirname(self.path), 0o700, exist_ok=True)
            file = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
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
                time.sleep(_LOCK_POLL_INTERVAL)
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
            key: _masked(entry)
            for key, entry in json.load(file)["tokens"].items()
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # The error would show what the file holds.
    except RecursionError:
        return None


def _masked(texts: Dict[str, Any]) -> Dict[str, Any]:
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
# Credentials
# ---------------------------------------------------------------------------


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


class _Credential:
    """The token of an app; pdpyras asks for it before each attempt.

    :param app: whose token it is
    :param key: of the entry in the app's cache, or None
    """

    # May two renewals be under way, if need be?
    _may_overlap = True

    def __init__(self, app: "OAuthApp", key: Optional[str]) -> None:
        self._app = app
        self._key = key if app.cache is not None else None
        self._tokens: Optional[_Tokens] = None
        self._reset_transient_state()

    def _reset_transient_state(self) -> None:
        self._refused = ""  # The token after which the API has answered 401.
        self._next_try = 0.0
        self._unsaved: Optional[_Tokens] = None
        # At most one, by the only key: two operations on a dict cannot be
        # under way at once.
        self._renewals: Dict[str, _Renewal] = {}
        # Of the calls under way, by thread.
        self._deadlines: Dict[int, Any] = {}

    def __getstate__(self) -> Dict[str, Any]:
        # Two owners of one refresh token would make it void.
        tokens = self._tokens and self._tokens._replace(refresh="")
        return {"_app": self._app, "_key": self._key, "_tokens": tokens}

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

    def _alive(self, tokens: Optional[_Tokens]) -> Optional[_Tokens]:
        """The tokens, if they can be used; None if not."""
        is_alive = (
            tokens is not None
            and time.time() < tokens.expires_at
            and tokens.access != self._refused
        )
        return tokens if is_alive else None

    def _is_due(self, tokens: _Tokens) -> bool:
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
            self._app._check_scopes(tokens)
            return tokens.access
        bound = _MAX_RENEWAL_TIME + _MAX_LOCK_WAIT
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

    def _renewed(self, alive: Optional[_Tokens]) -> _Tokens:
        """New tokens or, if the old ones live, those with a warning."""
        with contextlib.ExitStack() as stack:
            try:
                if self._key is not None:
                    wait = self._seconds_left(_MAX_LOCK_WAIT)
                    stack.enter_context(self._cache.locked(wait))
                cached = self._alive(self._load())
                if self._unsaved is not None:
                    tokens = self._unsaved
                elif cached is not None and not cached.is_due(time.time()):
                    self._tokens = cached
                    return cached
                else:
                    tokens = self._obtain(alive is not None)
            except PDClientError as error:
                if alive is None:
                    raise
                self._next_try = time.time() + _PAUSE_AFTER_FAILURE
                pdpyras._warn(
                    _log,
                    "The token could not be renewed. The old one is used as "
                    f"long as it lives. {error}",
                )
                return alive
            return self._settle(tokens)

    @property
    def _cache(self) -> TokenCache:
        cache = self._app.cache
        assert cache is not None, "there is a key"
        return cache

    def _load(self) -> Optional[_Tokens]:
        """The tokens in the cache, which may be newer than those here."""
        entry = self._cache.load(self._key) if self._key is not None else None
        if entry is None or set(entry) != set(_Tokens._fields):
            return None
        return _Tokens(**entry)

    def _store(self, tokens: _Tokens) -> None:
        if self._key is not None:
            self._cache.store(self._key, dict(tokens._asdict()))

    def _obtain(self, is_early: bool) -> _Tokens:
        """Ask the token endpoint."""
        app = self._app
        fields = {
            "grant_type": "client_credentials",
            "scope": " ".join((app.account_scope, *app.scopes)),
        }
        with app._endpoint() as endpoint:
            endpoint.retry = _NO_RETRY if is_early else _RETRY_ALL
            endpoint.max_network_attempts = 0 if is_early else _NETWORK_RETRIES
            bound = _MAX_EARLY_RENEWAL_TIME if is_early else _MAX_RENEWAL_TIME
            endpoint.deadline = self._seconds_left(bound)
            return app._ask(endpoint, fields)

    def _settle(self, tokens: _Tokens) -> _Tokens:
        """Check and keep tokens, before they are used."""
        self._app._check_scopes(tokens)
        self._tokens = tokens
        try:
            self._store(tokens)
        except PDClientError as error:
            pdpyras._warn(_log, f"The token is kept in memory only. {error}")
        return tokens


class _UserCredential(_Credential):
    """The tokens of a user.

    :param on_renew: called with each new refresh token, or None
    """

    _may_overlap = False

    def __init__(
        self,
        app: "OAuthApp",
        key: Optional[str],
        tokens: _Tokens,
        on_renew: Optional[Callable[[str], Any]],
    ) -> None:
        super().__init__(app, key)
        self._tokens = tokens
        self._on_renew = on_renew

    def _reset_transient_state(self) -> None:
        super()._reset_transient_state()
        self._on_renew = None

    def _is_due(self, tokens: _Tokens) -> bool:
        can_renew = tokens.refresh or self._key is not None
        return bool(can_renew) and super()._is_due(tokens)

    def _obtain(self, is_early: bool) -> _Tokens:
        tokens = self._load() or self._tokens
        if tokens is None or not tokens.refresh:
            raise PDClientError(
                "The access token has ended, and there is no refresh token: "
                "none was granted, or this is the copy of a session in "
                f"another process. {_AUTHORISE_AGAIN}"
            )
        fields = {
            "grant_type": "refresh_token",
            "refresh_token": tokens.refresh,
        }
        new = self._refresh(fields, is_early)
        return new if new.refresh else new._replace(refresh=tokens.refresh)

    def _refresh(self, fields: Dict[str, str], is_early: bool) -> _Tokens:
        """Ask once, and once more if the answer is lost."""
        problem = ""
        with self._app._endpoint() as endpoint:
            if is_early:
                endpoint.retry = _NO_RETRY
            for _ in range(2):
                if problem:
                    _log.warning("%s It is tried once more.", problem)
                    time.sleep(self._seconds_left(endpoint.sleep_timer))
                endpoint.deadline = self._seconds_left(_MAX_RENEWAL_TIME)
                try:
                    return self._app._ask(endpoint, fields)
                except _LostAnswerError as error:
                    problem = str(error)
        raise PDClientError(
            f"{problem} The refresh token may be used up by now. If this goes "
            "on, let the user authorise again."
        )

    def _settle(self, tokens: _Tokens) -> _Tokens:
        """Save tokens before they are used.

        If that fails they are kept, and the next call saves them first.
        """
        self._unsaved = tokens
        self._store(tokens)
        if self._on_renew is not None and tokens.refresh:
            self._on_renew(tokens.refresh)
        self._tokens, self._unsaved = tokens, None
        self._app._check_scopes(tokens)
        return tokens


# ---------------------------------------------------------------------------
# The app
# ---------------------------------------------------------------------------


class OAuthSession(APISession):
    """An APISession whose token is renewed within the call's deadline."""

    def request(  # type: ignore[override]
        self, method: str, url: str, *args: Any, **kwargs: Any
    ) -> Any:
        """See :meth:`pdpyras.PDSession.request`."""
        if not isinstance(self._credential, _Credential):
            return super().request(method, url, *args, **kwargs)
        with self._credential.within(kwargs.get("deadline", self.deadline)):
            return super().request(method, url, *args, **kwargs)


class _LostAnswerError(PDClientError):
    """The token endpoint may have granted tokens, which did not arrive."""


class _TokenEndpoint(pdpyras.PDSession):
    """Carries requests to the token endpoint, for one renewal."""

    permitted_methods = ("POST",)
    max_response_size = _MAX_ANSWER_SIZE
    max_network_attempts = 0
    retry = _RETRY_RATE_LIMIT


class OAuthApp:
    """An app that is registered in PagerDuty (Integrations, App Registration).

    A pickle of it contains the client secret.

    The attributes `timeout`, `proxies` and `verify` are for the token
    endpoint, and mean what they mean in requests; they may be set.

    :param client_id: of the app
    :param client_secret: of the app
    :param scopes: such as ``incidents.read``; they may not be more than the
        app has. For Classic User OAuth ``read`` or ``write``.
    :param region: service region of the account, ``us`` or ``eu``
    :param subdomain: of the account, the first part of its web address;
        needed for :meth:`session`
    :param cache: a :class:`TokenCache`, in which other processes find the
        token; None: in memory only
    :param url: of the authorization server, which serves both regions
    :raises ValueError: one of them cannot be what it is to be; the URL is
        not https, nor that of this computer
    """

    timeout: Any = pdpyras.TIMEOUT
    verify: Any = True

    def __init__(
        self,
        client_id: str,
        client_secret: str,
        scopes: Iterable[str] = (),
        region: str = "us",
        subdomain: Optional[str] = None,
        cache: Optional[TokenCache] = None,
        url: str = "https://identity.pagerduty.com",
    ) -> None:
        client_secret = pdpyras._masked(client_secret)
        for name, value in (("id", client_id), ("secret", client_secret)):
            if not isinstance(value, str) or not re.fullmatch(
                r"[\x21-\x7e]+", value
            ):
                raise ValueError(
                    f"The client {name} must be a non-empty str without white "
                    "space."
                )
        if region not in _REGIONS:
            raise ValueError(f"region must be 'us' or 'eu', not {region!r}.")
        scopes = scopes.split() if isinstance(scopes, str) else scopes
        self.client_id = client_id
        self._client_secret = client_secret
        self.scopes = tuple(dict.fromkeys(scopes))
        self.region = region
        self.subdomain = subdomain
        self.cache = cache
        self.url = _checked_url(url)
        self.proxies: Dict[str, str] = {}
        self._credential = _Credential(self, self.cache_key())

    def __repr__(self) -> str:
        return f"<OAuthApp {self.client_id} at {self.url}>"

    @property
    def account_scope(self) -> str:
        """The scope that names the account."""
        return f"as_account-{self.region}.{self.subdomain}"

    def cache_key(self, user: Optional[str] = None) -> str:
        """Key under which the cache keeps tokens.

        :param user: any name for the user whose tokens they are; None: the
            app's own token
        """
        account = [self.region, self.subdomain]
        where = [f"{self.url}/oauth/token", self.client_id, account]
        return json.dumps([*where, sorted(self.scopes), user])

    def session(self, **session_arguments: Any) -> APISession:
        """A session that acts as the app. The first request gets the token.

        :param session_arguments: for :class:`pdpyras.APISession`
        :raises ValueError: the app has no subdomain

        A request raises PDClientError if the token is refused or has fewer
        scopes than the app has asked for.
        """
        if not self.subdomain:
            raise ValueError(
                "A session of the app itself needs its subdomain, as in "
                "https://SUBDOMAIN.pagerduty.com."
            )
        return self._session(self._credential, session_arguments)

    def authorization(self, redirect_uri: str) -> Authorization:
        """Begin to ask a user for consent.

        :param redirect_uri: to which the user is to come back; one of those
            that are registered with the app
        """
        state = pdpyras._Secret(secrets.token_urlsafe(32))
        verifier = pdpyras._Secret(secrets.token_urlsafe(32))
        query = {
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "response_type": "code",
            "scope": " ".join(self.scopes),
            "state": state,
            "code_challenge": _challenge(verifier),
            "code_challenge_method": "S256",
        }
        url = f"{self.url}/oauth/authorize?{urlencode(query)}"
        return Authorization(url, state, verifier)

    def session_from_redirect(
        self,
        authorization: Authorization,
        redirected_url: str,
        on_renew: Optional[Callable[[str], Any]] = None,
        user: Optional[str] = None,
        **session_arguments: Any,
    ) -> APISession:
        """A session of the user who has come back from PagerDuty.

        The code in the URL is good for 30 seconds, and for one time.

        :param authorization: the one to which the user was sent
        :param redirected_url: at which the user came back, with the query
        :param on_renew: called with the refresh token, a str, now and each
            time before a new access token is used; the token before is void
            then. What it raises reaches the caller. The tokens are kept: the
            next call of the session saves them first, and so does this one,
            if it is called once more with the same authorization.
        :param user: keep the tokens in the app's cache, too, under this name
        :param session_arguments: for :class:`pdpyras.APISession`
        :raises PDClientError: the user, or PagerDuty, has refused; the
            redirect is not the answer to this authorization; or fewer scopes
            are granted than were asked for
        """
        redirected_url = pdpyras._masked(redirected_url)
        tokens = authorization._tokens
        if tokens is None:
            tokens = self._redeem(authorization, redirected_url)
            self._check_scopes(tokens)
            authorization._tokens = tokens
        credential = _UserCredential(self, self._key(user), tokens, on_renew)
        session = self._session(credential, session_arguments)
        credential._settle(tokens)
        return session

    def session_from_refresh_token(
        self,
        token: str,
        on_renew: Optional[Callable[[str], Any]] = None,
        user: Optional[str] = None,
        **session_arguments: Any,
    ) -> APISession:
        """A session of a user. The first request asks for the access token.

        :param token: the newest refresh token; only one session may have it
        :param on_renew: see :meth:`session_from_redirect`
        :param user: see there
        :param session_arguments: for :class:`pdpyras.APISession`
        :raises ValueError: that cannot be a token

        A request raises PDClientError if the token is refused.
        """
        token = pdpyras._masked(token)
        if not isinstance(token, str) or not token.strip():
            raise ValueError("The refresh token must be a non-empty str.")
        tokens = _Tokens(pdpyras._Secret(), token, None, 0, 0)
        credential = _UserCredential(self, self._key(user), tokens, on_renew)
        return self._session(credential, session_arguments)

    def session_from_cache(
        self,
        user: str,
        on_renew: Optional[Callable[[str], Any]] = None,
        **session_arguments: Any,
    ) -> APISession:
        """A session of a user whose tokens are in the app's cache.

        Any number of processes may have one.

        :param user: name under which they were kept
        :raises PDClientError: there are none
        """
        none = _Tokens(pdpyras._Secret(), pdpyras._Secret(), None, 0, 0)
        credential = _UserCredential(self, self._key(user), none, on_renew)
        tokens = credential._load()
        if tokens is None:
            raise PDClientError(
                f"The token cache holds nothing of {user!r} for these scopes. "
                f"{_AUTHORISE_AGAIN}"
            )
        credential._tokens = tokens
        return self._session(credential, session_arguments)

    def _key(self, user: Optional[str]) -> Optional[str]:
        if user is not None and self.cache is None:
            raise ValueError("The app has no cache to keep tokens in.")
        return None if user is None else self.cache_key(user)

    def _session(
        self, credential: _Credential, arguments: Dict[str, Any]
    ) -> APISession:
        arguments = {"auth_type": "bearer", **arguments}
        if arguments.get("url") is None:
            arguments.setdefault("region", self.region)
        return OAuthSession(credential, **arguments)

    def _redeem(
        self, authorization: Authorization, redirected_url: str
    ) -> _Tokens:
        fields = {
            "grant_type": "authorization_code",
            "code": authorization._code(redirected_url),
            "redirect_uri": authorization._redirect_uri(),
            "code_verifier": authorization.code_verifier,
        }
        with self._endpoint() as endpoint:
            endpoint.deadline = _MAX_RENEWAL_TIME
            # A code that comes twice may make void what it has granted.
            endpoint.max_network_attempts = 1
            endpoint.retry_ambiguous_writes = False
            try:
                return self._ask(endpoint, fields)
            except _LostAnswerError as error:
                problem = f"{error} {_AUTHORISE_AGAIN}"
        raise PDClientError(problem)

    def _check_scopes(self, tokens: _Tokens) -> None:
        """Say now what would be a 403 later."""
        if tokens.scope is None:
            return
        granted = tokens.scope.split()
        lacking = [scope for scope in self.scopes if scope not in granted]
        if lacking:
            raise PDClientError(
                "PagerDuty has granted fewer scopes than were asked for. "
                f"These are missing: {', '.join(lacking)}. Does the app have "
                "them (Integrations, App Registration), and the user?"
            )

    def _endpoint(self) -> _TokenEndpoint:
        endpoint = _TokenEndpoint(self.client_id, url=self.url)
        endpoint.timeout = self.timeout
        endpoint.verify = self.verify
        endpoint.proxies = dict(self.proxies)
        return endpoint

    def _ask(
        self, endpoint: _TokenEndpoint, fields: Dict[str, str]
    ) -> _Tokens:
        """The tokens that the token endpoint grants.

        :raises _LostAnswerError: there is no answer, or not to be read
        :raises PDClientError: it is refused
        """
        form = {**fields, "client_id": self.client_id}
        form["client_secret"] = self._client_secret
        handled = sys.exc_info()[1]
        problem: Optional[PDClientError] = None
        try:
            response = endpoint.request(
                "POST",
                "/oauth/token",
                data=form,
                headers=_FORM,
                allow_redirects=False,
            )
        except PDDeadlineError as error:
            problem = PDDeadlineError(str(error))
        except PDClientError as error:
            problem = _LostAnswerError(str(error))
        except BaseException as error:
            _forget_frames(error, handled)
            raise error
        if problem is not None:
            raise problem  # Without the frames and the request of the other.
        answer = _json_of(response)
        where = f"POST {self.url}/oauth/token"
        if response.status_code != 200:
            kind = PDClientError
            if response.status_code >= 500:
                kind = _LostAnswerError
            reason = _reason(answer, form.values())
            hint = ""
            if answer.get("error") == "invalid_grant":
                hint = f" {_AUTHORISE_AGAIN}"
            raise kind(
                f"{where}: status {response.status_code}, {reason}.{hint}"
            )
        now = time.time() - response.elapsed.total_seconds()
        tokens = _tokens_from(answer, now)
        if tokens is None:
            raise PDClientError(
                f"{where}: the answer is not that of a token endpoint."
            )
        return tokens


def _checked_url(url: str) -> str:
    """The URL without a slash at its end.

    :raises ValueError: secrets must not be sent there
    """
    try:
        base, (scheme, host, _), _ = pdpyras._base(url)
    except pdpyras.URLError as error:
        raise ValueError(str(error)) from None
    is_loopback = host in ("localhost", "[::1]") or (
        host.startswith("127.") and host.replace(".", "").isdigit()
    )
    if scheme != "https" and not is_loopback:
        raise ValueError(
            f"The URL of the authorization server must be https, not {base}."
        )
    return base


def _forget_frames(
    error: BaseException, handled: Optional[BaseException]
) -> None:
    """Drop the frames of other libraries, which hold the request's body.

    :param handled: an exception that is the caller's
    """
    link: Optional[BaseException] = error
    while link is not None and link is not handled:
        link.__traceback__ = None
        link = link.__context__


def _json_of(response: Any) -> Dict[str, Any]:
    """The decoded body; {} if it is not a JSON object."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return {}
    if not isinstance(body, dict):
        return {}
    return _masked(body)
