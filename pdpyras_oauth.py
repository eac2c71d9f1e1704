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
6749, RFC 7636 and RFC 8252. Who copies single files needs pdpyras_tokens.py
as well.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import re
import secrets
import sys
import threading
import time
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterable,
    Optional,
    Tuple,
)
from urllib.parse import parse_qs, urlencode, urlsplit

import pdpyras
from pdpyras import APISession, PDClientError, PDDeadlineError
from pdpyras_tokens import (
    MAX_RENEWAL_TIME,
    PAUSE_AFTER_FAILURE,
    RenewedToken,
    TokenCache,
    Tokens,
    UnsavedError,
    masked,
    tokens_from,
)

__all__ = ["Authorization", "OAuthApp", "OAuthSession", "TokenCache"]

_log = logging.getLogger("pdpyras.oauth")


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# Seconds of a call's deadline without which a user's token that lives is not
# renewed, and the share of them that the renewal may take: if it is cut off,
# the refresh token may be lost.
_MIN_REFRESH_TIME = 5
_REFRESH_SHARE = 0.75

# Characters of `error` and `error_description` that are quoted.
_MAX_REASON_LENGTH = 300

# Bytes of an answer of the token endpoint.
_MAX_ANSWER_SIZE = 1024 * 1024

# Retries at the token endpoint, by status, and after network trouble. What
# is not listed is never sent again.
_NO_RETRY = {401: 0, 408: 0, 429: 0}
_RETRY_RATE_LIMIT = {401: 0, 408: 0, 429: 5}
_RETRY_ALL = {**_RETRY_RATE_LIMIT, 500: 3, 502: 3, 503: 3, 504: 3}
_NETWORK_RETRIES = 3

_REGIONS = ("us", "eu")
_FORM = {
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept": "application/json",
}

_AUTHORISE_AGAIN = "Let the user authorise again."


# ---------------------------------------------------------------------------
# Consent
# ---------------------------------------------------------------------------


def _challenge(verifier: str) -> str:
    """What proves, before the code is given, who will redeem it."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")


def _reason(answer: Dict[str, Any], hidden: Iterable[str]) -> str:
    """`error` and `error_description` of an answer, and nothing else of it."""
    names = ("error", "error_description")
    texts = [answer[n][:] for n in names if isinstance(answer.get(n), str)]
    reason = pdpyras._one_paragraph(": ".join(texts))
    for text in hidden:
        if isinstance(text, pdpyras._Secret):
            reason = pdpyras._secret_pattern(text).sub("***", reason)
    return reason[:_MAX_REASON_LENGTH] or "no reason is given"


class Authorization:
    """A user's consent that is asked for, made by `OAuthApp.authorization`.

    A web application keeps the three parts in the user's session, and makes
    it again from them when the user comes back: ``Authorization(*parts)``.

    :ivar url: where to send the user's browser
    :ivar state: which comes back with the user; it tells this consent from
        one that somebody else has started
    :ivar code_verifier: secret, which only who has asked can redeem the code
        with
    :raises ValueError: one of them is no str
    """

    def __init__(self, url: str, state: str, code_verifier: str) -> None:
        if not all(isinstance(t, str) for t in (url, state, code_verifier)):
            raise ValueError(
                "url, state and code_verifier must each be a str."
            )
        self.url = url
        self._state: str = pdpyras._masked(state)
        self._code_verifier: str = pdpyras._masked(code_verifier)
        # If tokens could not be saved. The code is good for once only.
        self._tokens: Optional[Tokens] = None
        self._redeemed_code = ""

    def __repr__(self) -> str:
        return f"<Authorization at {self.url.partition('?')[0]}>"

    # Who stores them gets each as a plain str, which any way of saving takes.

    @property
    def state(self) -> str:
        """What comes back with the user."""
        return self._state[:]

    @property
    def code_verifier(self) -> str:
        """The secret with which the code is redeemed."""
        return self._code_verifier[:]

    def _code(self, redirected_url: str) -> str:
        """The code that the user has brought back.

        :raises PDClientError: there is none, or it is not of this consent
        """
        answer = _query_of(redirected_url)
        if answer is None:
            raise PDClientError(
                "The redirect is not a URL. It must be the whole URL that the "
                "user came back to, as a str."
            )
        state = answer.get("state", pdpyras._Secret())
        texts = [t.encode("utf-8", "replace") for t in (state, self._state)]
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

    def _tokens_of(self, code: str) -> Optional[Tokens]:
        """The tokens that this code was redeemed for; None before that.

        :raises PDClientError: another code was redeemed: its tokens may be
            those of another user
        """
        if self._tokens is not None and code != self._redeemed_code:
            raise PDClientError(
                "Another code was redeemed for this authorization. Begin a "
                "new one with OAuthApp.authorization."
            )
        return self._tokens

    def _redirect_uri(self) -> str:
        return parse_qs(urlsplit(self.url).query)["redirect_uri"][0]


def _query_of(url: Any) -> Optional[Dict[str, str]]:
    """The parameters of a URL; None if it is none.

    Nothing is raised here: the error of the parser has the URL in its frames.
    """
    if not isinstance(url, str):
        return None
    try:
        query = urlsplit(url).query
    except ValueError:
        return None
    return {
        name: pdpyras._Secret(values[0])
        for name, values in parse_qs(query).items()
    }


# ---------------------------------------------------------------------------
# The token endpoint
# ---------------------------------------------------------------------------


class _LostAnswerError(PDClientError):
    """The token endpoint may have granted tokens, which did not arrive."""


class _VoidGrantError(PDClientError):
    """The refresh token, or the code, is good for nothing any more."""


class _TokenEndpoint(pdpyras.PDSession):
    """Asks for tokens, for one renewal.

    :param client_id: of the app
    :param client_secret: of the app
    :param url: of the authorization server
    """

    permitted_methods = ("POST",)
    max_response_size = _MAX_ANSWER_SIZE
    max_network_attempts = 0
    retry = _RETRY_RATE_LIMIT

    def __init__(self, client_id: str, client_secret: str, url: str) -> None:
        super().__init__(client_id, url=url)
        self._client = {"client_id": client_id, "client_secret": client_secret}

    def tokens(self, fields: Dict[str, str]) -> Tokens:
        """The tokens that the token endpoint grants.

        :raises _LostAnswerError: there is no answer, or not to be read
        :raises PDClientError: it is refused
        """
        form = {**fields, **self._client}
        handled = sys.exc_info()[1]
        problem: Optional[PDClientError] = None
        try:
            response = self.request(
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
            kind, hint = PDClientError, ""
            if response.status_code >= 500:
                kind = _LostAnswerError
            elif answer.get("error") == "invalid_grant":
                kind, hint = _VoidGrantError, f" {_AUTHORISE_AGAIN}"
            reason = _reason(answer, form.values())
            raise kind(
                f"{where}: status {response.status_code}, {reason}.{hint}"
            )
        now = time.time() - response.elapsed.total_seconds()
        tokens = tokens_from(answer, now)
        if tokens is None:
            raise PDClientError(
                f"{where}: the answer is not that of a token endpoint."
            )
        return tokens


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
    return masked(body)


# ---------------------------------------------------------------------------
# Credentials
# ---------------------------------------------------------------------------


class _Credential(RenewedToken):
    """The token of an app."""

    def __init__(self, app: "OAuthApp", key: Optional[str]) -> None:
        super().__init__(app.cache, key)
        self._app = app

    def __getstate__(self) -> Dict[str, Any]:
        return {**super().__getstate__(), "_app": self._app}

    def _check(self, tokens: Tokens) -> None:
        self._app._check_scopes(tokens)

    def _obtain(self, is_early: bool) -> Tokens:
        """Ask the token endpoint."""
        app = self._app
        fields = {
            "grant_type": "client_credentials",
            "scope": " ".join((app.account_scope, *app.scopes)),
        }
        with app._endpoint() as endpoint:
            endpoint.retry = _NO_RETRY if is_early else _RETRY_ALL
            endpoint.max_network_attempts = 0 if is_early else _NETWORK_RETRIES
            endpoint.deadline = self._time_for(MAX_RENEWAL_TIME, is_early)
            return endpoint.tokens(fields)


class _UserCredential(_Credential):
    """The tokens of a user.

    :param on_renew: called with each new refresh token, or None
    """

    _may_overlap = False

    def __init__(
        self,
        app: "OAuthApp",
        key: Optional[str],
        tokens: Tokens,
        on_renew: Optional[Callable[[str], Any]],
    ) -> None:
        super().__init__(app, key)
        self._tokens = tokens
        self._on_renew = on_renew

    def _reset_transient_state(self) -> None:
        super()._reset_transient_state()
        self._on_renew = None
        # A refresh token of the caller's, for when that of the cache is void.
        self._given = ""
        self._unstored: Optional[Tokens] = None
        # The refresh token that the cache holds instead; None: not known.
        self._outdated: Optional[str] = None
        # The access token that was granted with too few scopes, what is said
        # about it, and until when that is not asked for again.
        self._shortage: Optional[Tuple[str, str, float]] = None

    def _is_due(self, tokens: Tokens) -> bool:
        # To keep what was granted takes no request.
        if self._unstored is not None or self._unsaved is not None:
            return time.time() >= self._next_try
        can_renew = tokens.refresh or self._key is not None
        if not can_renew or not super()._is_due(tokens):
            return False
        deadline = self._deadlines.get(threading.get_ident())
        return deadline is None or deadline.left() >= _MIN_REFRESH_TIME

    def _uninterrupted(self) -> ContextManager[Any]:
        context: ContextManager[Any] = self._app._uninterrupted()
        return context

    def _obtain(self, is_early: bool) -> Tokens:
        self._check_shortage()
        tokens = self._load() or self._tokens
        found = "" if tokens is None else tokens.refresh
        # The cache's is mostly newer than one that a program was started with.
        refresh_tokens = [t for t in (found, self._given) if t]
        if not refresh_tokens:
            raise PDClientError(
                "The access token has ended, and there is no refresh token: "
                "none was granted, or this is the copy of a session in "
                f"another process. {_AUTHORISE_AGAIN}"
            )
        first, last = refresh_tokens[0], refresh_tokens[-1]
        if first != last:
            with contextlib.suppress(_VoidGrantError):
                return self._refreshed(first, is_early)
            _log.info("The refresh token in the cache is void.")
        new = self._refreshed(last, is_early)
        self._given = ""  # It is used up.
        return new

    def _check_shortage(self) -> None:
        """Do not ask at each call for scopes that were just not granted.

        :raises PDClientError: they lack still
        """
        if self._shortage is None or self._tokens is None:
            return
        access, problem, end = self._shortage
        if self._tokens.access == access and time.time() < end:
            raise PDClientError(problem)

    def _refreshed(self, token: str, is_early: bool) -> Tokens:
        """New tokens for a refresh token."""
        fields = {"grant_type": "refresh_token", "refresh_token": token}
        new = self._refresh(fields, is_early)
        return new if new.refresh else new._replace(refresh=token)

    def _refresh(self, fields: Dict[str, str], is_early: bool) -> Tokens:
        """Ask once, and once more if the answer is lost."""
        # The wait for the cache's lock may have taken the time.
        left = self._seconds_left(MAX_RENEWAL_TIME)
        if is_early and left < _MIN_REFRESH_TIME:
            raise PDClientError(
                "The deadline of the call leaves too little time for it."
            )
        problem = ""
        with self._app._endpoint() as endpoint:
            if is_early:
                endpoint.retry = _NO_RETRY
            for _ in range(2):
                if problem:
                    _log.warning("%s It is tried once more.", problem)
                    time.sleep(self._seconds_left(endpoint.sleep_timer))
                left = self._seconds_left(MAX_RENEWAL_TIME)
                endpoint.deadline = left * (_REFRESH_SHARE if is_early else 1)
                try:
                    return endpoint.tokens(fields)
                except _LostAnswerError as error:
                    problem = str(error)
        raise PDClientError(
            f"{problem} The refresh token may be used up by now. If this goes "
            "on, let the user authorise again."
        )

    def _load(self) -> Optional[Tokens]:
        """The newest tokens, of which the cache may have to be told yet."""
        cached, unstored = super()._load(), self._unstored
        if unstored is None:
            return cached
        if cached is not None and self._is_of_new_sign_in(cached, unstored):
            self._unstored = self._unsaved = None
            return cached
        if self._keep(unstored) is not None:
            self._next_try = time.time() + PAUSE_AFTER_FAILURE
        return unstored

    def _is_of_new_sign_in(self, cached: Tokens, unstored: Tokens) -> bool:
        """Has the user signed in after the tokens that are not stored?"""
        if self._outdated is None:
            return cached.expires_at > unstored.expires_at
        return cached.refresh not in (self._outdated, unstored.refresh)

    def _keep(self, tokens: Tokens) -> Optional[PDClientError]:
        """Store tokens, or else do so later.

        :returns: what was in the way
        """
        if self._unstored is None:
            self._outdated = None
            with contextlib.suppress(PDClientError):
                cached = super()._load()
                self._outdated = "" if cached is None else cached.refresh
        self._unstored = tokens
        try:
            self._store(tokens)
        except PDClientError as error:
            return error
        self._unstored = None
        return None

    def _settle(self, tokens: Tokens) -> Tokens:
        """Save tokens before they are used.

        If that fails they are kept, and the next call saves them first. The
        cache may fail if on_renew takes them.
        """
        self._unsaved = tokens
        problem = self._keep(tokens)
        if self._on_renew is not None and tokens.refresh:
            self._on_renew(tokens.refresh[:])  # A plain str, to be stored.
        elif problem is not None:
            raise UnsavedError(str(problem)) from problem
        self._take(tokens)
        self._unsaved = None
        if problem is not None:
            self._next_try = time.time() + PAUSE_AFTER_FAILURE
            pdpyras._warn(
                _log,
                "The new refresh token was given to on_renew, but the cache "
                "does not hold it. What other processes find there may be "
                f"void. It is tried again later. {problem}",
            )
        try:
            self._check(tokens)
        except PDClientError as error:
            end = time.time() + PAUSE_AFTER_FAILURE
            self._shortage = (tokens.access, str(error), end)
            raise
        return tokens

    def _take(self, tokens: Tokens) -> None:
        """Use tokens from now on.

        If they are not what was asked for, only to renew them: each call says
        what they lack, and asks once more after a pause.
        """
        if self._good(tokens) is None:
            self._refused = tokens.access
        self._tokens = tokens


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
    # Makes what surrounds the renewal of a user's tokens. The command line
    # lets signals wait there.
    _uninterrupted: Any = contextlib.ExitStack

    def __init__(
        self,
        client_id: str,
        client_secret: str,
        scopes: Iterable[str] = (),
        region: pdpyras._Region = "us",
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
        self.scopes: Tuple[str, ...] = tuple(dict.fromkeys(scopes))
        self.region = region
        self.subdomain = subdomain
        self.cache = cache
        self.url: str = _checked_url(url)
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
            if it is called once more with the same authorization and redirect.
        :param user: keep the tokens in the app's cache, too, under this name
        :param session_arguments: for :class:`pdpyras.APISession`
        :raises PDClientError: the user, or PagerDuty, has refused; the
            redirect is not the answer to this authorization, or brings
            another code than the one that was redeemed for it; or fewer
            scopes are granted than were asked for
        """
        redirected_url = pdpyras._masked(redirected_url)
        code = authorization._code(redirected_url)
        tokens = authorization._tokens_of(code)
        if tokens is None:
            tokens = self._redeem(authorization, code)
            self._check_scopes(tokens)
            authorization._redeemed_code = code
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
        :param user: see there. Tokens that the cache holds under this name
            are used first, for they are mostly newer; ``token`` is, and
            replaces them, when they are void.
        :param session_arguments: for :class:`pdpyras.APISession`
        :raises ValueError: that cannot be a token

        A request raises PDClientError if the token is refused.
        """
        token = pdpyras._masked(token)
        if not isinstance(token, str) or not token.strip():
            raise ValueError("The refresh token must be a non-empty str.")
        tokens = Tokens(pdpyras._Secret(), token, None, 0, 0)
        credential = _UserCredential(self, self._key(user), tokens, on_renew)
        credential._given = token
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
        none = Tokens(pdpyras._Secret(), pdpyras._Secret(), None, 0, 0)
        credential = _UserCredential(self, self._key(user), none, on_renew)
        tokens = credential._load()
        if tokens is None:
            raise PDClientError(
                f"The token cache holds nothing of {user!r} for these scopes. "
                f"{_AUTHORISE_AGAIN}"
            )
        credential._take(tokens)
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

    def _redeem(self, authorization: Authorization, code: str) -> Tokens:
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": authorization._redirect_uri(),
            "code_verifier": authorization._code_verifier,
        }
        with self._endpoint() as endpoint:
            endpoint.deadline = MAX_RENEWAL_TIME
            # A code that comes twice may make void what it has granted.
            endpoint.max_network_attempts = 1
            endpoint.retry_ambiguous_writes = False
            try:
                return endpoint.tokens(fields)
            except _LostAnswerError as error:
                problem = f"{error} {_AUTHORISE_AGAIN}"
        raise PDClientError(problem)

    def _check_scopes(self, tokens: Tokens) -> None:
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
        endpoint = _TokenEndpoint(
            self.client_id, self._client_secret, self.url
        )
        endpoint.timeout = self.timeout
        endpoint.verify = self.verify
        endpoint.proxies = dict(self.proxies)
        return endpoint


def _checked_url(url: str) -> str:
    """The URL without a slash at its end.

    :raises ValueError: secrets must not be sent there
    """
    try:
        base, (scheme, _, _), _ = pdpyras._base(url)
    except pdpyras.URLError as error:
        raise ValueError(str(error)) from None
    if scheme != "https" and not pdpyras._is_on_this_machine(base):
        raise ValueError(
            f"The URL of the authorization server must be https, not {base}."
        )
    return base
