"""Clients for PagerDuty's REST, Events and Change Events APIs.

One module on top of Requests_: put it beside a script, or ``pip install``
it. Each session class is a :class:`requests.Session` that knows the base URL
and the credentials, waits out rate limits, retries what is worth retrying,
wraps and unwraps entities, and turns pages into one stream of records:

.. code-block:: python

    import pdpyras

    session = pdpyras.APISession(API_KEY, default_from="me@example.com")
    for user in session.iter_all("users", params={"query": "Dav"}):
        print(user["id"], user["email"])
    incident = session.rget("/incidents/PT4KHLK")
    session.rput(incident, json={"type": "incident", "status": "resolved"})
    events = pdpyras.EventsAPISession(ROUTING_KEY)
    dedup_key = events.trigger("Disk is full", "db1.example.com")

What goes wrong is raised as one of these::

    URLError             the URL names nothing that this client may ask for
    PDClientError        the request failed, here or at the API
     +-- PDInputError       an event is not what the API takes
     +-- PDDeadlineError    the call's deadline has passed
     +-- PDIncompleteError  a list is not whole
     +-- PDHTTPError        the API answered with an error status
          +-- PDRateLimitError  the wait is longer than allowed
          +-- PDServerError     5xx, or an answer against its own schema

What is no error, but must not be missed, is a :class:`PDWarning`; if a result
is not the whole, a :class:`PDIncompleteWarning`.

In scripts of 4.x and 5.x, ``from pdpyras import *`` still provides
``logging``, ``sys``, ``warnings``, ``datetime`` and others. A new script
should import these itself.

The API's behaviour is taken from PagerDuty's published documents: the
OpenAPI documents of the REST API and of the Events API v2, and the pages on
rate limits, pagination, errors and wrapped entities.

.. _Requests: https://requests.readthedocs.io/
"""

import base64
import builtins
import codecs
import contextlib
import hashlib
import http.client
import io
import json
import logging
import os
import queue
import re
import socket
import ssl
import sys
import threading
import time
import traceback
import unicodedata
import warnings
import weakref
import zlib
from collections import abc, deque
from copy import copy, deepcopy
from datetime import date, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial, wraps
from json import JSONDecodeError
from operator import itemgetter
from random import random
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Collection,
    Deque,
    Dict,
    FrozenSet,
    Generator,
    Iterable,
    Iterator,
    List,
    Mapping,
    Match,
    Optional,
    Pattern,
    Sequence,
    Set,
    Tuple,
    Type,
    TypeVar,
    Union,
    cast,
)
from urllib.parse import (
    parse_qsl,
    unquote,
    unquote_plus,
    urljoin,
    urlsplit,
)
from warnings import warn

import requests
from requests import Response, Session
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPDigestAuth
from requests.cookies import RequestsCookieJar
from requests.exceptions import (
    ChunkedEncodingError,
    InvalidURL,
    RequestException,
)
from requests.structures import CaseInsensitiveDict
from requests.utils import (
    default_user_agent,
    select_proxy,
)
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    EmptyPoolError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
    PoolError,
    ProxyError,
    UnrewindableBodyError,
)
from urllib3.response import GzipDecoder
from urllib3.util import Timeout, ssl_

if TYPE_CHECKING:  # Old Pythons have none of these.
    from typing_extensions import (
        Literal,
        Protocol,
        TypeAlias,
        TypedDict,
        Unpack,
    )

__version__ = "6.0.0"

# What this module merely imports is in it for scripts of 4.x and 5.x, to which
# `from pdpyras import *` brought it.
__all__ = [
    "APISession",
    "CANONICAL_PATHS",
    "CURSOR_BASED_PAGINATION_PATHS",
    "ChangeEventsAPISession",
    "ENTITY_WRAPPER_CONFIG",
    "EventsAPISession",
    "HTTPError",
    "HistoryIterator",
    "HistoryWindow",
    "ITERATION_LIMIT",
    "Iterator",
    "JSONDecodeError",
    "PDClientError",
    "PDDeadlineError",
    "PDHTTPError",
    "PDIncompleteError",
    "PDIncompleteWarning",
    "PDInputError",
    "PDRateLimitError",
    "PDServerError",
    "PDSession",
    "PDWarning",
    "PoolError",
    "REQUESTS_VERSION",
    "RateLimit",
    "RequestException",
    "Response",
    "Session",
    "TEXT_LEN_LIMIT",
    "TIMEOUT",
    "URLError",
    "Union",
    "auto_json",
    "canonical_path",
    "datetime",
    "deepcopy",
    "deprecated_kwarg",
    "endpoint_matches",
    "entity_wrappers",
    "http_error_message",
    "infer_entity_wrapper",
    "is_path_param",
    "last_4",
    "logging",
    "normalize_url",
    "object_type",
    "plural_name",
    "raise_on_error",
    "random",
    "requests",
    "requires_success",
    "resource_envelope",
    "resource_name",
    "resource_path",
    "resource_url",
    "singular_name",
    "successful_response",
    "sys",
    "time",
    "tokenize_url_path",
    "truncate_text",
    "try_decoding",
    "unwrap",
    "warn",
    "warnings",
    "wrapped_entities",
]

# It has no handler: where a script configures no logging, Python's handler of
# last resort shows warnings on stderr.
_log = logging.getLogger("pdpyras")

# Tests of scripts put a mock in the place of pdpyras.time, for its sleep().
_clock = time


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

#: Seconds that a new session waits for a connection, or for the next bytes
#: of an answer, before it counts the attempt as failed.
TIMEOUT = 60

#: Records up to which classic pagination reaches: ``offset`` plus ``limit``
#: may not exceed it (REST API v2, "Pagination").
ITERATION_LIMIT = 1e4

#: Characters of a body that are quoted inside the text of an exception.
TEXT_LEN_LIMIT = 100

# Characters of the reasons that an exception's text may hold.
_MAX_REASONS_LENGTH = 10000

# Reasons that an exception keeps, and characters of them all. A server may
# give no end of them, and it takes time to hide the key in each.
_MAX_REASONS = 1000
_MAX_KEPT_LENGTH = 100000

# Bytes of a body in which reasons are looked for, and from which on only its
# beginning is decoded to be quoted.
_MAX_ERROR_SIZE = 8 * 1024 * 1024
_MAX_QUOTED_SIZE = 256 * 1024

# Upper bound for the average number of characters that spell one character of
# a secret, where a text is cut.
_MAX_SPELLING = 64

# Seconds for which the API's rate limit counts requests.
_RATE_LIMIT_WINDOW = 60

# Seconds between which a wait that the API asks for is believed.
_MIN_RETRY_AFTER = 0.1
_MAX_RETRY_AFTER = 3600

# Seconds from which on a wait is worth a warning.
_LONG_WAIT = 10

# Statuses after which a GET may be repeated (see `retry_reads`).
_GATEWAY_STATUSES = (500, 502, 503, 504)

# How often a cursor comes again before it is taken for a circle.
_MAX_CURSOR_REPEATS = 3

# Pages that may be asked for at once, at most.
_MAX_PREFETCH = 16

# How often a part of a history is read again that changes while it is read.
_MAX_REREADS = 3

# Seconds that closing an iterator waits for requests that are under way, so
# that, as a rule, the caller finds no thread at work behind its back.
_CLOSE_TIMEOUT = 1.0

# Seconds for which an idle connection is trusted to be open still. Load
# balancers close theirs after 60 seconds, without waiting for a request that
# is on its way.
_MAX_IDLE_TIME = 50

# Seconds that stand for "no time limit" at a socket: what poll() can count.
_MAX_SOCKET_TIMEOUT = 2**31 // 1000 - 1

# Bytes that are read from an answer at once, before decompression.
_READ_SIZE = 10240

_SEVERITIES = ("critical", "error", "warning", "info")
_MAX_SUMMARY_LENGTH = 1024  # characters
_MAX_TRACEBACK_LENGTH = 8000  # characters, of a guard's event
_MAX_GUARD_TIME = 60  # seconds for which a guard tries to send its event
_MAX_DEDUP_KEY_LENGTH = 255  # characters
# The API takes "512 KB". The larger reading, 524 288, costs the alert if it is
# the wrong one.
_MAX_EVENT_SIZE = 512000  # bytes, as sent
_MIN_CUT_SIZE = 200  # bytes of a shortened value; its marker takes up to 60

_WRITES_JSON = ("POST", "PUT", "PATCH")

# Sending these twice is the same as sending them once (RFC 9110, 9.2.2).
_IDEMPOTENT_METHODS = ("GET", "PUT", "DELETE")
_AMBIGUOUS = ("POST", "PATCH")

# What the REST API answers with.
_ACCEPT = "application/vnd.pagerduty+json;version=2"

# Hosts that serve the same API in different service regions, a row for each
# API. A ``self`` link may name any of its row (PagerDuty, "Service Regions").
_REST_HOSTS = frozenset(("api.pagerduty.com", "api.eu.pagerduty.com"))
_SERVICE_REGIONS = (
    _REST_HOSTS,
    frozenset(("events.pagerduty.com", "events.eu.pagerduty.com")),
)

# Properties of a body that steer pagination and bear no content.
_PAGINATION_PROPERTIES = frozenset(
    (
        *("limit", "offset", "more", "total"),
        *("cursor", "next_cursor", "after", "before"),
        *("starting_after", "first", "last"),
        *("startIndex", "itemsPerPage", "totalResults"),
    )
)

# Where Python asks the operating system for proxies, not the environment
# alone, it cannot be seen whether the answer has changed.
_HAS_SYSTEM_PROXIES = sys.platform in ("win32", "darwin")

#: Version of requests, which scripts of 5.x have from here.
REQUESTS_VERSION: str = requests.__version__

_USER_AGENT = "pdpyras/{} {} Python/{}.{}".format(
    __version__, default_user_agent(), *sys.version_info[:2]
)

# Modules of the libraries by which urllib3 decompresses.
_DECODER_LIBRARIES = (
    *("zlib", "brotli", "_brotli", "brotlicffi", "zstandard", "_zstd"),
    *("backports", "compression"),
)


# ---------------------------------------------------------------------------
# Secrets
# ---------------------------------------------------------------------------
#
# What hides them in texts. Exceptions are cleaned by _strip_error, see
# Retrying; what is given with a call is masked in Headers.


def last_4(secret: str) -> str:
    """Tell secrets apart without giving them away: ``*1234``."""
    return "*" + secret[-4:]


def truncate_text(text: str) -> str:
    """Shorten a text to at most :data:`TEXT_LEN_LIMIT` characters."""
    if len(text) <= TEXT_LEN_LIMIT:
        return text
    ellipsis = "..."[:TEXT_LEN_LIMIT]
    return text[: TEXT_LEN_LIMIT - len(ellipsis)] + ellipsis


def _one_paragraph(text: str) -> str:
    """Without line breaks and control characters, which may be a server's."""
    if text.isprintable():
        return text
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())


class _Secret(str):
    """A text that debuggers and crash reports, which print reprs, hide."""

    def __repr__(self) -> str:
        return repr(last_4(self))


class _SecretBytes(bytes):
    """The same for bytes."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    __str__ = __repr__


_MASKED = (_Secret, _SecretBytes)


def _masked(value: Any) -> Any:
    """The same value, hidden from crash reports if it is a text."""
    if isinstance(value, str):
        return _Secret(value)
    is_binary = isinstance(value, (bytes, bytearray))
    return _SecretBytes(value) if is_binary else value


# A run of backslashes, and the beginning of one. More than these within a
# secret are not worth the time that they would take.
_ESCAPE = r"\\{1,64}"
_FIRST_ESCAPE = r"\\(?<!\\\\)\\*"


def _html_entities() -> "Dict[str, str]":
    """The characters that HTML has names for, by these."""
    try:
        import html.entities  # Takes a while, and is rarely needed.
    except OSError:  # No more files may be opened: that is being reported.
        return {}
    return html.entities.html5


def _spellings(character: str, escape: str = _ESCAPE) -> str:
    """A pattern of all ways in which an answer may spell a character.

    As it is, percent-encoded, escaped in JSON or JavaScript, as an HTML
    entity; the characters that introduce these may be encoded themselves.

    Each way begins with a character, so that Python passes quickly over texts
    in which there is none of them.
    """
    code = ord(character)
    plain = re.escape(character)
    names = [
        name.rstrip(";")
        for name, text in _html_entities().items()
        if text == character
    ]
    references = "|".join([f"#0*{code}", f"#x0*{code:x}", *names])
    entity = f"(?:amp;)*(?:{references});?"
    octets = character.encode("utf-8", "surrogatepass")
    quoted = "%(?:25)*".join(f"{octet:02x}" for octet in octets)
    escaped = [
        rf"u(?:0000)?{code:04x}",
        rf"u\{{0*{code:x}\}}",
        rf"x{code:02x}" if code < 256 else "",
        f"0?{code:o}" if code < 256 else "",
        rf"u0026{entity}",
    ]
    numbers = "|".join(filter(None, escaped))
    # \\66 is a 6 by its octal number. If it could be an escaped 6 before a
    # plain one, too, many of them would take for ever.
    last = "(?!6)" if character == "6" else ""
    ways = [
        plain,
        rf"%(?i:(?:25)*(?:{quoted}|u{code:04x}|26{entity}))",
        rf"{escape}(?:(?i:{numbers})|{plain}{last})",
        rf"&(?i:{entity})",
    ]
    return f"(?:{'|'.join(ways)})"


@lru_cache(maxsize=64)
def _secret_pattern(secret: str) -> "Pattern[str]":
    # A long run of backslashes before it is looked through once, not from
    # each of them; unless another secret may have ended in it.
    is_clear = not secret.endswith("\\")
    first = _spellings(secret[0], _FIRST_ESCAPE if is_clear else _ESCAPE)
    # Zeros lie between the bytes of wider encodings.
    return re.compile("\x00*".join([first, *map(_spellings, secret[1:])]))


def _hide(
    text: str, secrets: "Collection[str]", length: "Optional[int]" = None
) -> str:
    """The text, in which the secrets are unreadable, however spelled.

    :param length: characters of it that are wanted at most; it takes no more
        time then if the text is longer
    """
    if length is not None:
        text = text[: _end_for(length, text, secrets)]
    for secret in secrets:
        shown = last_4(secret).replace("\\", r"\\")
        text = _secret_pattern(secret).sub(shown, text)
    return text[:length]


def _end_for(length: int, text: str, secrets: "Collection[str]") -> int:
    """Where a text may be cut without leaving a part of a secret."""
    longest = _MAX_SPELLING * max(map(len, secrets), default=0)
    end = length + longest  # It will be shorter when they are hidden.
    for secret in secrets:
        for match in _secret_pattern(secret).finditer(text, 0, end + longest):
            if match.start() < end < match.end():
                end = match.start()
    return end


def _quoted(text: str, response: Any) -> str:
    """The beginning of a server's text, without secrets of the request."""
    secrets = _secrets(getattr(response, "request", None))
    return truncate_text(_hide(text, secrets, TEXT_LEN_LIMIT + 1))


def _presentable(text: str, response: Any) -> str:
    """A text of a server for logs and terminals.

    It is without secrets, line breaks and control characters.
    """
    return _shown(text, _secrets(getattr(response, "request", None)))


def _shown(
    text: str, secrets: "Collection[str]", length: "Optional[int]" = None
) -> str:
    # Control characters could lie within a secret, or be what remains of it.
    return _hide(_one_paragraph(_hide(text, secrets, length)), secrets)


# A routing key in a body, as JSON spells it or a form does.
_KEY_IN_JSON = r'"routing_key"\s*:\s*("(?:[^"\\]|\\.)*")'
_KEY_IN_FORM = r"(?:^|&)routing_key=([^&]*)"


def _credentials_in(header: str) -> "List[str]":
    """The credential at the end of a header, if there is any."""
    return [text.replace("token=", "", 1) for text in header.split()[-1:]]


def _secrets(request: Any) -> "Collection[str]":
    """The credentials that a request carried, to the API or to a proxy."""
    if not isinstance(request, requests.PreparedRequest):
        return ()
    found: List[str] = []
    headers: Mapping[str, Any] = request.headers or {}
    for name in ("Authorization", "Proxy-Authorization"):
        value = headers.get(name) or ""
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        found += _credentials_in(value)
    body = request.body
    if isinstance(body, (bytes, bytearray)):
        body = bytes(body).decode("utf-8", "replace")
    if isinstance(body, str) and "routing_key" in body:
        for text in re.findall(_KEY_IN_JSON, body):
            with contextlib.suppress(ValueError):
                found.append(json.loads(text))
        found += map(unquote_plus, re.findall(_KEY_IN_FORM, body))
    progress = getattr(request, "_pdpyras_progress", None)
    if progress is not None:
        found += [str(progress.key), *progress.proxy_secrets]
    return _hideable(found)


def _proxy_secrets(proxies: Any) -> "Collection[str]":
    """The passwords of proxies, and what becomes of them in a header."""
    found = []
    for url in (proxies or {}).values():
        userinfo = str(url or "").rpartition("@")[0].rpartition("//")[2]
        user, colon, password = userinfo.partition(":")
        plain = f"{unquote(user)}:{unquote(password)}".encode()
        encoded = base64.b64encode(plain).decode("ascii")
        if colon:
            # A parser may quote a part of one in which / ? or # stand.
            parts = re.split(r"[/?#\\]", password)
            found += [password, unquote(password), encoded, *parts]
    return [_Secret(secret) for secret in _hideable(found)]


def _is_sendable(url: Any, proxies: Any) -> bool:
    """Can the header be made that tells a proxy user and password?"""
    proxy = str(select_proxy(str(url), proxies) or "")
    if proxy[:5].lower() == "socks":  # It is told without a header.
        return True
    try:
        unquote(proxy.rpartition("@")[0]).encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _strip_proxy_credentials(
    request: requests.PreparedRequest, proxies: Any
) -> None:
    """Take a proxy's password off a request that no proxy would read.

    The proxy of a tunnel does not: it is told when the tunnel is opened.
    """
    url = str(request.url)
    is_tunnel = url[:6].lower() == "https:"
    if is_tunnel or not select_proxy(url, proxies):
        del request.headers["Proxy-Authorization"]


def _hideable(secrets: "Iterable[str]") -> "Collection[str]":
    # Of a shorter one, last_4 shows everything. The longest one first: it
    # may contain another.
    return sorted({s for s in secrets if len(s) > 4}, key=len, reverse=True)


_HARMLESS_REQUEST_HEADERS = frozenset(
    (
        *("accept", "accept-encoding", "content-length", "content-type"),
        *("from", "user-agent", "x-early-access"),
    )
)
_HARMLESS_RESPONSE_HEADERS = frozenset(
    (
        *("content-encoding", "content-length", "content-type", "date"),
        *("location", "retry-after", "x-request-id"),
        *("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
    )
)


def _without_userinfo(url: Any) -> Any:
    """A URL without the user and password that it may hold."""
    if not isinstance(url, str):
        return url
    return re.sub(r"^([^/?#]*//)[^/?#]*@", r"\1", url)


def _bare_request(
    request: requests.PreparedRequest,
) -> requests.PreparedRequest:
    """What was asked for: method and URL, with the harmless headers."""
    bare = requests.PreparedRequest()
    bare.method = request.method
    url = str(_without_userinfo(request.url))
    bare.url = _hide(url, _secrets(request))
    bare.headers = CaseInsensitiveDict(
        {
            name: value
            for name, value in (request.headers or {}).items()
            if str(name).lower() in _HARMLESS_REQUEST_HEADERS
        }
    )
    return bare


# ---------------------------------------------------------------------------
# Exceptions
# ---------------------------------------------------------------------------


class _ReceivedResponse(Response):
    """A response as exceptions hold it: true because it was received.

    ``bool(requests.Response)`` is False for a 404, so that the documented
    ``if e.response:`` would take the branch for "no response" without this.
    """

    def __bool__(self) -> bool:
        return True

    def __getstate__(self) -> "Dict[str, Any]":
        # An exception may travel to another process, or into a log: with the
        # answer, but without what was sent to get it, for that holds the key
        # and may be a file that cannot be pickled.
        try:
            _ = self.content
        except (RequestException, RuntimeError):
            # It broke off: of a redirect that was followed all the same, or
            # of an answer that was to be read by the caller.
            self._content, self._content_consumed = b"", True
        state: Dict[str, Any] = super().__getstate__()  # type: ignore
        # Those on the way have a history each, of which this is the longest.
        state["history"] = [_received(past, []) for past in state["history"]]
        request = state["request"]
        secrets = _secrets(request)
        if isinstance(request, requests.PreparedRequest):
            state["request"] = _bare_request(request)
        state["headers"] = CaseInsensitiveDict(
            {
                name: _without_userinfo(_hide(value, secrets))
                for name, value in (state["headers"] or {}).items()
                if name.lower() in _HARMLESS_RESPONSE_HEADERS
            }
        )
        state["cookies"] = RequestsCookieJar()
        for name in ("url", "reason"):
            if isinstance(state[name], str):
                text = _without_userinfo(state[name])
                state[name] = _hide(text, secrets)
        if state["_content"] and secrets:
            content = state["_content"].decode("latin-1")
            state["_content"] = _hide(content, secrets).encode("latin-1")
        return state


def _received(response: Any, history: "Optional[List[Any]]" = None) -> Any:
    """The same response, but true; anything else as it is.

    With a history of its own it is a copy.
    """
    if not isinstance(response, Response):
        return response
    if isinstance(response, _ReceivedResponse) and history is None:
        return response
    received = _ReceivedResponse()
    received.__dict__ = response.__dict__
    if history is not None:
        received.__dict__ = dict(response.__dict__, history=history)
    return received


def _header(response: Any, name: str) -> "Optional[str]":
    headers = getattr(response, "headers", None)
    if not isinstance(headers, abc.Mapping):
        return None
    return cast(Optional[str], headers.get(name))


def _error_details(response: Any) -> "Tuple[Optional[int], List[str]]":
    """PagerDuty's error code and reasons, from any shape of error body.

    The shapes: ``{"error": {"message", "code", "errors": [...]}}``, the same
    with ``errors`` a str or an object or ``error`` a str, the Events API's
    ``{"status", "message", "errors"}``, OAuth's ``error`` with
    ``error_description``, and SCIM's ``detail``. ``required_scopes`` stands
    beside a 403.
    """
    try:
        is_received = isinstance(response, Response)
        if is_received and len(response.content or b"") > _MAX_ERROR_SIZE:
            return None, []
        return _details_of(response.json())
    except (
        # RuntimeError: also one that is nested too deeply.
        *(ValueError, TypeError, AttributeError, RuntimeError),
        RequestException,
    ):
        return None, []


def _details_of(body: Any) -> "Tuple[Optional[int], List[str]]":
    if not isinstance(body, dict):
        return None, []
    error = body.get("error")
    if error is None:
        error = body
    if not isinstance(error, dict):
        # A few endpoints put the details beside a plain ``error`` text.
        error = {**body, "message": error}
    code = error.get("code")
    left = iter(range(_MAX_REASONS))
    reasons = _reason_texts(error.get("errors"), left)
    if not reasons:
        reasons = _reason_texts(error.get("message"), left)
    for name in ("error_description", "detail"):
        reasons += _reason_texts(body.get(name), left)
    scopes = body.get("required_scopes", error.get("required_scopes"))
    scopes = _reason_texts(scopes, left)
    reasons += [f"required scopes: {text}" for text in scopes]
    is_code = isinstance(code, int) and not isinstance(code, bool)
    return (code if is_code else None), reasons


def _reason_texts(reasons: Any, left: "Iterator[int]") -> "List[str]":
    """The reasons as texts, be they one, a list, or an object by field.

    :param left: has an item for each that may still be taken
    """
    if reasons is None or reasons == "":
        return []
    if isinstance(reasons, dict):
        return [
            f"{field}: {', '.join(_reason_texts(texts, left))}"
            for (field, texts), _ in zip(reasons.items(), left)
        ]
    if not isinstance(reasons, list):
        reasons = [reasons]
    return [
        r if isinstance(r, str) else json.dumps(r)
        for r, _ in zip(reasons, left)
    ]


class URLError(Exception):
    """The URL, path or resource names nothing that may be asked for."""


class PDClientError(Exception):
    """The request came to nothing: on this side, on the way, or at the API.

    :ivar msg: what happened (str)
    :ivar response: the :class:`requests.Response`, or None where nothing was
        received. It is true whenever there is one, whatever its status; what
        the status means is for ``response.status_code`` to say.
    """

    msg: str
    response: Any

    # Has a response hook raised it? It is not about what the hook hangs on.
    _is_of_hook: bool = False

    def __init__(self, message: str, response: "Optional[Any]" = None) -> None:
        message = _presentable(str(message), response)
        super().__init__(message)
        self.msg = message
        self.response = _received(response)

    def __reduce__(self) -> "Tuple[Any, ...]":
        return type(self), (self.msg, self.response), dict(self.__dict__)

    def _add(self, sentence: str) -> None:
        """Append what only the caller of the request knows."""
        self.msg = f"{self.msg} {sentence}"
        self.args = (self.msg, *self.args[1:])

    def __str__(self) -> str:
        return _one_paragraph(self.msg)


# Each says what the user can do about a refusal, or nothing ("").
_HINTS: "List[Callable[[Any], str]]" = []  # of the exception


def _status_of(response: Any) -> "Optional[int]":
    """The status of a response; None: it is a stand-in that has none."""
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


class PDHTTPError(PDClientError):
    """The API answered with an error status; ``response`` is always there.

    ``str()`` says one readable thing; ``msg`` has the form of 5.x.

    :ivar status_code: HTTP status (int)
    :ivar request_id: the ``x-request-id`` that PagerDuty's support asks for
        (str), or None
    :ivar code: PagerDuty's own error code (int), or None
    :ivar errors: all reasons that the API gave (list of str), up to 1000 of
        them and 100 000 characters
    """

    status_code: int
    request_id: "Optional[str]"
    code: "Optional[int]"
    errors: "List[str]"
    response: Response

    # What was asked for and the status, where the message is no more than
    # that and the beginning of the body.
    _headline: str = ""
    # The sentence that `_add` has appended.
    _added: str = ""

    def __init__(self, message: str, response: Any) -> None:
        super().__init__(message, response)
        self.status_code = cast(int, _status_of(response))
        request_id = _header(response, "x-request-id")
        secrets = _secrets(getattr(response, "request", None))
        if request_id is not None:
            request_id = _shown(str(request_id), secrets, _MAX_REASONS_LENGTH)
        self.request_id = request_id
        self.code, errors = _error_details(response)
        self.errors = []
        left = _MAX_KEPT_LENGTH
        for text in errors:
            if left > 0:
                self.errors.append(_shown(text, secrets, left))
                left -= len(self.errors[-1])

    def _add(self, sentence: str) -> None:
        super()._add(sentence)
        self._added = sentence

    def __str__(self) -> str:
        """What was asked for, the status, the reasons, and what helps."""
        reasons = self.errors
        text = self.msg
        if self._headline and reasons:
            text = f"{self._headline}: "
        else:
            reasons = [reason for reason in reasons if reason not in text]
            text += " " if reasons else ""
        text += "; ".join(reasons)[:_MAX_REASONS_LENGTH]
        details = []
        if self.code is not None and str(self.code) not in text:
            details.append(f"code {self.code}")
        if self.request_id and self.request_id not in text:
            details.append(f"x-request-id {self.request_id}")
        if details:
            text += f" ({', '.join(details)})"
        hints = list(filter(None, [hint(self) for hint in _HINTS]))
        if self._added and self._added not in text:
            hints.insert(0, self._added)
        if hints and not text.endswith("."):
            text += "."
        return _one_paragraph(" ".join([text, *hints]))


class PDServerError(PDHTTPError):
    """A 5xx status, or an answer that breaks the API's own schema."""


class PDRateLimitError(PDHTTPError):
    """The API asks for a longer wait than ``max_rate_wait`` allows.

    :ivar retry_after: seconds to wait before the next attempt (float)
    """

    def __init__(
        self, message: str, response: Any, retry_after: float = 0
    ) -> None:
        super().__init__(message, response)
        self.retry_after = retry_after

    def __reduce__(self) -> "Tuple[Any, ...]":
        arguments = (self.msg, self.response, self.retry_after)
        return type(self), arguments, dict(self.__dict__)


class PDInputError(PDClientError, ValueError):
    """An event, or an argument for one, is not what the API takes.

    ``response`` is None: nothing was sent.
    """


class PDIncompleteError(PDClientError):
    """A question cannot be answered, because a list is not whole."""


class PDDeadlineError(PDClientError):
    """The ``deadline`` of a call has passed, or would pass in the next pause.

    ``response`` is the last answer, or None where none was received.
    """


class PDWarning(UserWarning):
    """Something that a script must be told, although it can go on."""


class PDIncompleteWarning(PDWarning):
    """A result is not the whole."""


def _heed_warning_options(options: "Sequence[str]") -> None:
    """Apply those of Python's options ``-W`` that name warnings of ours.

    Python reads them too early to import this module: it says "invalid
    module name", and ignores them.
    """
    ours = {
        f"pdpyras.{c.__name__}": c for c in (PDWarning, PDIncompleteWarning)
    }
    actions: Sequence[Any] = (
        *("default", "always", "ignore", "module", "once", "error"),
    )
    for option in options:
        parts = [part.strip() for part in option.split(":")] + [""] * 5
        action, message, name, module, line = parts[:5]
        if action == "all":
            action = "always"
        matches = [a for a in actions if action and a.startswith(action)]
        if name not in ours or not matches or not (line or "0").isdecimal():
            continue
        warnings.filterwarnings(
            matches[0],
            message=re.escape(message),
            category=ours[name],
            module=re.escape(module) + r"\Z" if module else "",
            lineno=int(line or 0),
        )


_heed_warning_options(sys.warnoptions)


# Modules that stand between a caller's line and a warning about it.
_PASSED_OVER = (
    *("requests.", "contextlib", "pdpyras_cli", "pdpyras_oauth"),
    *("pdpyras_outbox", "pdpyras_tokens", "pdpyras_webhooks"),
)


def _callers_level(minimum: int) -> int:
    """The stacklevel of a warning that is about the caller's line.

    Frames of this module and of those that it uses are passed over.

    :param minimum: the stacklevel to use if the caller of the function that
        warns is outside this module
    """
    level, frame = minimum, sys._getframe(minimum - 1).f_back
    while frame is not None and (
        frame.f_globals is globals()
        or str(frame.f_globals.get("__name__")).startswith(_PASSED_OVER)
    ):
        level, frame = level + 1, frame.f_back
    return level


def _warn(
    log: Any, message: str, category: "Type[Warning]" = PDWarning
) -> None:
    """Tell a script what it must not miss, at the caller's line.

    It is noted on the session's log as well, at INFO, so that nobody sees it
    twice.
    """
    warnings.warn(message, category, stacklevel=_callers_level(3))
    _note(log, "%s", message)


def _note(log: Any, message: str, *args: Any) -> None:
    """Log at INFO; to a stand-in that has no ``info``, at DEBUG."""
    getattr(log, "info", log.debug)(message, *args)


# ---------------------------------------------------------------------------
# Endpoints
# ---------------------------------------------------------------------------

# One row a path: its operations, and of each what departs from convention.
#
#   row        operation, separated by spaces
#   operation  METHOD[=wrappers][,note]...
#   wrappers   name            of request and response body alike
#              request:response    where they differ; "-" is "not wrapped"
#              -               neither is wrapped
#              ...?            the wrapper of the response may be missing
#              (left out: the name that infer_entity_wrapper gives)
#   note       offset          paginated by limit and offset
#              cursor          paginated by cursor and next_cursor
#              after           paginated by after, a cursor in the query
#              starting_after  paginated by starting_after, in the POST body
#              scim            paginated by count and startIndex
#              maxN            a page holds at most N records, not 100
#              history:TIME    by period, and by this property of a record
#              history:TIME:ID the same, where a record's id is called so
#              lasts:END       its records last until then, and have no ids
#              daysN           a period has at most N days
#              seconds         its ends are whole seconds
#              bulkN           it changes a list of at most N records
#              sorted          it may be sorted by sort_by
#              plain:NAME      a list parameter that is spelled without []
#              comma:NAME      the same, its values joined by commas
#              early:VALUE     wants the header X-EARLY-ACCESS: VALUE
#              from            wants the header From
#              accept:TYPE     answers with this media type
#              host:NAME       is served by this host, not by the REST API's
#
# ``tools/endpoints.py --write`` makes the table from PagerDuty's OpenAPI
# documents. Where these leave something open, the decision and the reason for
# it stand in that script, and only there. So does what is behind it: the query
# parameters that PagerDuty spells with ``[]`` wherever they occur. Without the
# brackets the API ignores them, and everything comes back.

# fmt: off
_ENDPOINTS: "Dict[str, str]" = {
    "/abilities": "GET",
    "/abilities/{id}": "GET=-",
    "/addons": "GET,offset POST",
    "/addons/{id}": "GET PUT DELETE",
    "/alert_grouping_settings": "GET,after POST",
    "/alert_grouping_settings/{id}": "GET PUT DELETE",
    "/analytics/metrics/incidents/all": "POST=-",
    "/analytics/metrics/incidents/escalation_policies": "POST=-",
    "/analytics/metrics/incidents/escalation_policies/all": "POST=-",
    "/analytics/metrics/incidents/services": "POST=-",
    "/analytics/metrics/incidents/services/all": "POST=-",
    "/analytics/metrics/incidents/teams": "POST=-",
    "/analytics/metrics/incidents/teams/all": "POST=-",
    "/analytics/metrics/pd_advance_usage/features": "POST=-",
    "/analytics/metrics/responders/all": "POST=-",
    "/analytics/metrics/responders/teams": "POST=-",
    "/analytics/metrics/users/all": "POST=-",
    "/analytics/raw/incidents":
        "POST=-,starting_after,max1000,history:created_at",
    "/analytics/raw/incidents/{id}": "GET=-",
    "/analytics/raw/incidents/{id}/responses": "GET=-",
    "/analytics/raw/responders/{responder_id}/incidents":
        "POST=-,starting_after,max1000,history:incident_created_at:incident_id",
    "/analytics/raw/users": "POST=-,starting_after,max1000",
    "/audit/records": "GET,cursor,history:execution_time,days31",
    "/automation_actions/actions": "GET,cursor POST",
    "/automation_actions/actions/{id}": "GET PUT DELETE",
    "/automation_actions/actions/{id}/invocations": "POST",
    "/automation_actions/actions/{id}/services": "GET POST",
    "/automation_actions/actions/{id}/services/{service_id}": "GET DELETE",
    "/automation_actions/actions/{id}/teams": "GET POST",
    "/automation_actions/actions/{id}/teams/{team_id}": "GET DELETE",
    "/automation_actions/invocations": "GET",
    "/automation_actions/invocations/{id}": "GET",
    "/automation_actions/runners": "GET,cursor POST",
    "/automation_actions/runners/{id}": "GET PUT DELETE",
    "/automation_actions/runners/{id}/teams": "GET POST",
    "/automation_actions/runners/{id}/teams/{team_id}": "GET DELETE",
    "/business_services": "GET,offset POST",
    "/business_services/impactors": "GET",
    "/business_services/impacts": "GET=services",
    "/business_services/priority_thresholds":
        "GET=- PUT=global_threshold:- DELETE",
    "/business_services/{id}": "GET PUT DELETE",
    "/business_services/{id}/account_subscription": "POST=- DELETE",
    "/business_services/{id}/subscribers":
        "GET,offset POST=subscribers:subscriptions",
    "/business_services/{id}/supporting_services/impacts": "GET=services",
    "/business_services/{id}/unsubscribe": "POST=subscribers:-",
    "/change_events": "GET,offset,history:timestamp,seconds POST=-",
    "/change_events/{id}": "GET PUT",
    "/customfields/fields": "GET,offset POST",
    "/customfields/fields/{field_id}": "GET PUT DELETE",
    "/customfields/fields/{field_id}/field_options": "GET POST",
    "/customfields/fields/{field_id}/field_options/{field_option_id}":
        "GET PUT DELETE",
    "/customfields/fields/{field_id}/schemas": "GET,offset",
    "/customfields/schema_assignments": "GET,offset POST",
    "/customfields/schema_assignments/{id}": "DELETE",
    "/customfields/schemas": "GET,offset POST",
    "/customfields/schemas/{schema_id}": "GET PUT DELETE",
    "/customfields/schemas/{schema_id}/field_configurations": "GET POST",
    ("/customfields/schemas/{schema_id}/field_configurations"
     "/{field_configuration_id}"):
        "GET PUT DELETE",
    "/enrichment/event_enrichments": "GET,offset POST",
    "/enrichment/event_enrichments/default": "GET PUT=default:-",
    "/enrichment/event_enrichments/{id}": "GET PUT DELETE",
    "/enrichment/event_enrichments/{id}/associations":
        "GET,offset POST=associations:- DELETE=associations:-",
    "/enrichment/event_enrichments/{id}/rules":
        "GET=orchestration_path PUT=orchestration_path",
    "/enrichment/integrations/servicenow":
        "GET=integrations POST=-:integration",
    "/enrichment/integrations/servicenow/credentials": "POST=credentials",
    "/enrichment/integrations/servicenow/credentials/{credentials_id}":
        "GET=credentials PUT=credentials DELETE",
    "/enrichment/integrations/servicenow/{integration_id}":
        "GET=integration DELETE",
    "/enrichment/integrations/servicenow/{integration_id}/tables":
        "POST=cmdb_table",
    "/enrichment/integrations/servicenow/{integration_id}/tables/{table_id}":
        "PUT=cmdb_table DELETE",
    ("/enrichment/integrations/servicenow/{integration_id}/tables"
     "/{table_id}/enable"):
        "POST=-",
    ("/enrichment/integrations/servicenow/{integration_id}/tables"
     "/{table_id}/test"):
        "GET=enrichment_data",
    "/enrichment/query": "POST=-:records",
    "/enrichment/schemas": "GET POST=-:schema",
    "/enrichment/schemas/{schema_id}": "GET PUT DELETE",
    "/enrichment/schemas/{schema_id}/records": "GET,cursor POST=-",
    "/enrichment/schemas/{schema_id}/records/{record_id}": "DELETE",
    "/escalation_policies": "GET,offset POST",
    "/escalation_policies/{id}": "GET PUT DELETE",
    "/escalation_policies/{id}/audit/records":
        "GET,cursor,history:execution_time,days31",
    "/event_orchestrations": "GET=orchestrations,offset POST=orchestration",
    "/event_orchestrations/services/{service_id}":
        "GET=orchestration_path PUT=orchestration_path",
    "/event_orchestrations/services/{service_id}/active": "GET=- PUT=-",
    "/event_orchestrations/services/{service_id}/cache_variables": "GET POST",
    ("/event_orchestrations/services/{service_id}/cache_variables"
     "/{cache_variable_id}"):
        "GET PUT DELETE",
    ("/event_orchestrations/services/{service_id}/cache_variables"
     "/{cache_variable_id}/data"):
        "GET=- PUT=- DELETE",
    "/event_orchestrations/{id}": "GET=orchestration PUT=orchestration DELETE",
    "/event_orchestrations/{id}/cache_variables": "GET POST",
    "/event_orchestrations/{id}/cache_variables/{cache_variable_id}":
        "GET PUT DELETE",
    "/event_orchestrations/{id}/cache_variables/{cache_variable_id}/data":
        "GET=- PUT=- DELETE",
    "/event_orchestrations/{id}/enablements": "GET",
    "/event_orchestrations/{id}/enablements/{feature_name}": "PUT",
    "/event_orchestrations/{id}/global":
        "GET=orchestration_path PUT=orchestration_path",
    "/event_orchestrations/{id}/integrations": "GET POST",
    "/event_orchestrations/{id}/integrations/migration": "POST=-",
    "/event_orchestrations/{id}/integrations/{integration_id}":
        "GET PUT DELETE",
    "/event_orchestrations/{id}/router":
        "GET=orchestration_path PUT=orchestration_path",
    "/event_orchestrations/{id}/unrouted":
        "GET=orchestration_path PUT=orchestration_path",
    "/extension_schemas": "GET,offset",
    "/extension_schemas/{id}": "GET",
    "/extensions": "GET,offset POST",
    "/extensions/{id}": "GET PUT DELETE",
    "/extensions/{id}/enable": "POST=-:extension",
    "/incident_workflows": "GET,offset POST",
    "/incident_workflows/actions": "GET,cursor",
    "/incident_workflows/actions/{id}": "GET",
    "/incident_workflows/triggers": "GET,cursor POST",
    "/incident_workflows/triggers/{id}": "GET PUT DELETE",
    "/incident_workflows/triggers/{id}/services": "POST=service:trigger",
    "/incident_workflows/triggers/{trigger_id}/services/{service_id}":
        "DELETE=trigger",
    "/incident_workflows/{id}": "GET PUT DELETE",
    "/incident_workflows/{id}/instances": "POST=incident_workflow_instance",
    "/incidents":
        ("GET,offset,history:created_at,days180,sorted,comma:sort_by "
         "POST,from PUT,from,bulk250"),
    "/incidents/count": "GET=-",
    "/incidents/custom_fields": "GET=fields POST=field",
    "/incidents/custom_fields/{field_id}": "GET=field PUT=field DELETE",
    "/incidents/custom_fields/{field_id}/field_options": "GET POST",
    "/incidents/custom_fields/{field_id}/field_options/{field_option_id}":
        "PUT DELETE",
    "/incidents/reviews": "GET=incident_reviews,cursor",
    "/incidents/reviews/action_items": "GET,cursor",
    "/incidents/types": "GET=incident_types POST=incident_type",
    "/incidents/types/{type_id_or_name}":
        "GET=incident_type PUT=incident_type",
    "/incidents/types/{type_id_or_name}/custom_fields":
        "GET=fields POST=field",
    "/incidents/types/{type_id_or_name}/custom_fields/{field_id}":
        "GET=field PUT=field DELETE",
    ("/incidents/types/{type_id_or_name}/custom_fields/{field_id}"
     "/field_options"):
        "GET POST",
    ("/incidents/types/{type_id_or_name}/custom_fields/{field_id}"
     "/field_options/{field_option_id}"):
        "GET PUT DELETE",
    "/incidents/{id}": "GET PUT,from",
    "/incidents/{id}/alerts": "GET,offset PUT,from,bulk250",
    "/incidents/{id}/alerts/{alert_id}": "GET PUT,from",
    "/incidents/{id}/business_services/impacts": "GET=services,cursor",
    "/incidents/{id}/business_services/{business_service_id}/impacts": "PUT=-",
    "/incidents/{id}/custom_fields/values":
        "GET=custom_fields PUT=custom_fields",
    "/incidents/{id}/field_values": "GET=custom_fields PUT=custom_fields",
    "/incidents/{id}/field_values/schema": "GET",
    "/incidents/{id}/log_entries": "GET,offset,history:created_at",
    "/incidents/{id}/merge": "PUT=source_incidents:incident,from",
    "/incidents/{id}/notes": "GET POST,from",
    "/incidents/{id}/notes/{note_id}": "PUT,from DELETE",
    "/incidents/{id}/outlier_incident": "GET",
    "/incidents/{id}/past_incidents": "GET",
    "/incidents/{id}/related_change_events": "GET=change_events",
    "/incidents/{id}/related_incidents": "GET",
    "/incidents/{id}/responder_requests": "POST=-:responder_request",
    "/incidents/{id}/responder_requests/cancel":
        "PUT=-:responder_request_targets",
    "/incidents/{id}/review":
        "GET=incident_review POST=-:incident_review PUT=-:incident_review",
    "/incidents/{id}/review/action_items": "GET,cursor",
    "/incidents/{id}/review/markers": "POST=-:marker",
    "/incidents/{id}/scribe_transcripts": "GET",
    "/incidents/{id}/snooze": "POST=-:incident,from",
    "/incidents/{id}/status_updates": "POST=-:status_update,from",
    "/incidents/{id}/status_updates/subscribers":
        "GET,offset POST=subscribers:subscriptions",
    "/incidents/{id}/status_updates/unsubscribe": "POST=subscribers:-",
    "/integration-jira-cloud/accounts_mappings": "GET,offset",
    "/integration-jira-cloud/accounts_mappings/{id}": "GET=-",
    "/integration-jira-cloud/accounts_mappings/{id}/rules":
        "GET,offset POST=-",
    "/integration-jira-cloud/accounts_mappings/{id}/rules/{rule_id}":
        "GET=- PUT=- DELETE",
    "/integration-jira-service/rules":
        "GET,offset,host:app.pagerduty.com POST,host:app.pagerduty.com",
    "/integration-jira-service/rules/{id}":
        ("GET,host:app.pagerduty.com PUT,host:app.pagerduty.com "
         "DELETE,host:app.pagerduty.com"),
    "/integration-ms-teams/incidents/{incident_id}/dedicated_chat":
        "GET=- POST=-:chat DELETE",
    "/integration-ms-teams/incidents/{incident_id}/meeting": "POST=-:meeting",
    "/integration-slack/incidents/{incident_id}/dedicated_channel":
        "GET=channel POST=channel:- DELETE",
    "/integration-slack/incidents/{incident_id}/notification_channels":
        "GET=channels POST=channel:- PUT=channels:-",
    ("/integration-slack/incidents/{incident_id}/notification_channels"
     "/{channel_id}"):
        "DELETE",
    "/integration-slack/workspaces/{slack_team_id}/connections":
        ("GET=slack_connections,offset,host:app.pagerduty.com "
         "POST=slack_connection,host:app.pagerduty.com"),
    ("/integration-slack/workspaces/{slack_team_id}/connections"
     "/{connection_id}"):
        ("GET=slack_connection,host:app.pagerduty.com "
         "PUT=slack_connection,host:app.pagerduty.com "
         "DELETE,host:app.pagerduty.com"),
    "/ip_allow_lists": "GET,early:ip-allow-lists POST,early:ip-allow-lists",
    "/ip_allow_lists/{id}":
        ("GET,early:ip-allow-lists PUT,early:ip-allow-lists "
         "DELETE,early:ip-allow-lists"),
    "/ip_allow_lists/{id}/audit/records":
        "GET,cursor,history:execution_time,days31,early:ip-allow-lists",
    "/license_allocations": "GET,offset",
    "/licenses": "GET",
    "/log_entries": "GET,offset,history:created_at",
    "/log_entries/{id}": "GET",
    "/log_entries/{id}/channel": "PUT=channel:-,from",
    "/maintenance_windows": "GET,offset POST,from",
    "/maintenance_windows/{id}": "GET PUT DELETE",
    "/notifications": "GET,offset,history:started_at,days88",
    "/oauth_delegations": "DELETE=-",
    "/oauth_delegations/revocation_requests/status": "GET=-",
    "/oncalls": "GET,offset,history:start,lasts:end",
    "/paused_incident_reports/alerts": "GET=paused_incident_reporting_counts?",
    "/paused_incident_reports/counts": "GET=paused_incident_reporting_counts",
    "/priorities": "GET,offset PUT,bulk250",
    "/recommendations/event_orchestrations/rules":
        "GET=recommended_rules,cursor,max50",
    ("/recommendations/event_orchestrations/services/{service_id}"
     "/accepted_rules/{rule_id}"):
        "DELETE=-",
    ("/recommendations/event_orchestrations/services/{service_id}/rules"
     "/{recommendation_id}/accept"):
        "POST=-",
    ("/recommendations/event_orchestrations/services/{service_id}/rules"
     "/{recommendation_id}/dismiss"):
        "POST=decision:-",
    "/response_plays": "GET POST",
    "/response_plays/{id}": "GET PUT DELETE",
    "/response_plays/{response_play_id}/run": "POST=-",
    "/rulesets": "GET,offset POST=ruleset?",
    "/rulesets/{id}": "GET PUT=ruleset? DELETE",
    "/rulesets/{id}/rules": "GET,offset POST=rule?",
    "/rulesets/{id}/rules/{rule_id}": "GET PUT DELETE",
    "/schedules": "GET,offset POST",
    "/schedules/preview": "POST=schedule",
    "/schedules/{id}": "GET PUT DELETE",
    "/schedules/{id}/audit/records":
        "GET,cursor,history:execution_time,days31",
    "/schedules/{id}/overrides": "GET POST=overrides:-",
    "/schedules/{id}/overrides/{override_id}": "DELETE",
    "/schedules/{id}/users": "GET",
    "/scim/v2/ResourceTypes":
        "GET=Resources,scim,accept:application/scim+json",
    "/scim/v2/Schemas": "GET=Resources,scim,accept:application/scim+json",
    "/scim/v2/Schemas/{id}": "GET=-,accept:application/scim+json",
    "/scim/v2/ServiceProviderConfig": "GET=-,accept:application/scim+json",
    "/scim/v2/Users":
        ("GET=Resources,scim,accept:application/scim+json "
         "POST=-,accept:application/scim+json"),
    "/scim/v2/Users/{id}":
        ("GET=-,accept:application/scim+json "
         "PUT=-,accept:application/scim+json "
         "PATCH=-,accept:application/scim+json "
         "DELETE,accept:application/scim+json"),
    "/service_dependencies/associate": "POST=relationships",
    "/service_dependencies/business_services/{id}": "GET=relationships",
    "/service_dependencies/disassociate": "POST=relationships",
    "/service_dependencies/technical_services/{id}": "GET=relationships",
    "/services": "GET,offset POST",
    "/services/custom_fields": "GET=fields POST=field",
    "/services/custom_fields/{field_id}": "GET=field PUT=field DELETE",
    "/services/custom_fields/{field_id}/field_options": "GET POST",
    "/services/custom_fields/{field_id}/field_options/{field_option_id}":
        "GET PUT DELETE",
    "/services/{id}": "GET PUT DELETE",
    "/services/{id}/audit/records": "GET,cursor,history:execution_time,days31",
    "/services/{id}/change_events": "GET,offset,history:timestamp,seconds",
    "/services/{id}/custom_fields/values":
        "GET=custom_fields PUT=custom_fields",
    "/services/{id}/enablements": "GET",
    "/services/{id}/enablements/{feature_name}": "PUT",
    "/services/{id}/integrations": "POST",
    "/services/{id}/integrations/{integration_id}": "GET PUT",
    "/services/{id}/rules": "GET,offset POST=rule?",
    "/services/{id}/rules/convert": "POST=-",
    "/services/{id}/rules/{rule_id}": "GET PUT DELETE",
    "/session_configurations":
        "GET PUT=session_configuration:session_configurations DELETE",
    "/sre_agent/memories": "GET",
    "/sre_agent/memories/{id}": "PUT DELETE",
    "/standards": "GET",
    "/standards/scores/{resource_type}": "GET=resources,plain:ids",
    "/standards/scores/{resource_type}/{id}": "GET=-",
    "/standards/{id}": "PUT=-",
    "/status_dashboards": "GET,cursor",
    "/status_dashboards/url_slugs/{url_slug}": "GET=status_dashboard",
    "/status_dashboards/url_slugs/{url_slug}/service_impacts": "GET=services",
    "/status_dashboards/{id}": "GET",
    "/status_dashboards/{id}/service_impacts": "GET=services",
    "/status_pages": "GET,offset",
    "/status_pages/{id}/impacts": "GET,offset",
    "/status_pages/{id}/impacts/{impact_id}": "GET",
    "/status_pages/{id}/posts": "GET,offset POST",
    "/status_pages/{id}/posts/{post_id}": "GET PUT DELETE",
    "/status_pages/{id}/posts/{post_id}/post_updates": "GET,offset POST",
    "/status_pages/{id}/posts/{post_id}/post_updates/{post_update_id}":
        "GET PUT DELETE",
    "/status_pages/{id}/posts/{post_id}/postmortem": "GET PUT DELETE",
    "/status_pages/{id}/services": "GET,offset",
    "/status_pages/{id}/services/{service_id}": "GET",
    "/status_pages/{id}/severities": "GET,offset",
    "/status_pages/{id}/severities/{severity_id}": "GET",
    "/status_pages/{id}/statuses": "GET,offset",
    "/status_pages/{id}/statuses/{status_id}": "GET",
    "/status_pages/{id}/subscriptions": "GET,offset POST",
    "/status_pages/{id}/subscriptions/{subscription_id}": "GET DELETE",
    "/tags": "GET,offset POST",
    "/tags/{id}": "GET DELETE",
    "/tags/{id}/escalation_policies": "GET,offset",
    "/tags/{id}/teams": "GET,offset",
    "/tags/{id}/users": "GET,offset",
    "/teams": "GET,offset POST",
    "/teams/{id}": "GET PUT DELETE",
    "/teams/{id}/audit/records": "GET,cursor,history:execution_time,days31",
    "/teams/{id}/escalation_policies/{escalation_policy_id}": "PUT=- DELETE",
    "/teams/{id}/members": "GET,offset",
    "/teams/{id}/notification_subscriptions":
        "GET=subscriptions,offset POST=subscribables:subscriptions",
    "/teams/{id}/notification_subscriptions/unsubscribe":
        "POST=subscribables:-",
    "/teams/{id}/users/{user_id}": "PUT=- DELETE",
    "/templates": "GET,offset POST",
    "/templates/fields": "GET",
    "/templates/{id}": "GET PUT DELETE",
    "/templates/{id}/render": "POST=-",
    "/users": "GET,offset POST,from",
    "/users/me": "GET=user",
    "/users/{id}": "GET PUT DELETE",
    "/users/{id}/audit/records": "GET,cursor,history:execution_time,days31",
    "/users/{id}/contact_methods": "GET POST",
    "/users/{id}/contact_methods/{contact_method_id}": "GET PUT DELETE",
    "/users/{id}/license": "GET",
    "/users/{id}/notification_rules": "GET POST",
    "/users/{id}/notification_rules/{notification_rule_id}": "GET PUT DELETE",
    "/users/{id}/notification_subscriptions":
        "GET=subscriptions,offset POST=subscribables:subscriptions",
    "/users/{id}/notification_subscriptions/unsubscribe":
        "POST=subscribables:-",
    "/users/{id}/oauth_delegations": "GET,cursor",
    "/users/{id}/oauth_delegations/{delegation_id}": "GET=oauth_delegation?",
    "/users/{id}/oncall_handoff_notification_rules": "GET POST",
    ("/users/{id}/oncall_handoff_notification_rules"
     "/{oncall_handoff_notification_rule_id}"):
        "GET PUT DELETE",
    "/users/{id}/regenerate_private_url_key": "POST=-",
    "/users/{id}/sessions": "GET=user_sessions DELETE",
    "/users/{id}/sessions/{type}/{session_id}": "GET=user_session DELETE",
    "/users/{id}/status_update_notification_rules": "GET POST",
    ("/users/{id}/status_update_notification_rules"
     "/{status_update_notification_rule_id}"):
        "GET=notification_rule PUT=status_update_notification_rule? DELETE",
    "/v3/schedules": "GET,offset,max1000 POST",
    "/v3/schedules/{id}": "GET PUT DELETE",
    "/v3/schedules/{id}/audit/records":
        "GET,cursor,history:execution_time,days31",
    "/v3/schedules/{id}/custom_shifts": "GET,offset POST=custom_shifts",
    "/v3/schedules/{id}/custom_shifts/{custom_shift_id}": "GET PUT DELETE",
    "/v3/schedules/{id}/overrides": "GET,offset POST=overrides",
    "/v3/schedules/{id}/overrides/{override_id}": "GET PUT DELETE",
    "/v3/schedules/{id}/rotations": "GET,offset POST=-:rotation",
    "/v3/schedules/{id}/rotations/{rotation_id}": "GET DELETE",
    "/v3/schedules/{id}/rotations/{rotation_id}/events": "GET,offset POST",
    "/v3/schedules/{id}/rotations/{rotation_id}/events/{event_id}":
        "GET PUT DELETE",
    "/vendors": "GET,offset",
    "/vendors/{id}": "GET",
    "/webhook_subscriptions": "GET,offset POST",
    "/webhook_subscriptions/oauth_clients": "GET POST",
    "/webhook_subscriptions/oauth_clients/{id}": "GET PUT DELETE",
    "/webhook_subscriptions/{id}": "GET PUT DELETE",
    "/webhook_subscriptions/{id}/enable": "POST=-:webhook_subscription",
    "/webhook_subscriptions/{id}/ping": "POST=-",
    "/workflows/integrations": "GET,cursor",
    "/workflows/integrations/connections": "GET,cursor",
    "/workflows/integrations/{id}": "GET=integration?",
    "/workflows/integrations/{integration_id}/connections":
        "GET,cursor POST=-:connection?",
    "/workflows/integrations/{integration_id}/connections/{id}":
        "GET=connection? PATCH=-:connection? DELETE",
    "/{entity_type}/{id}/change_tags": "POST=-",
    "/{entity_type}/{id}/tags": "GET,offset",
}
# fmt: on

# fmt: off
_LIST_PARAMS: "FrozenSet[str]" = frozenset((
    "actions",
    "additional_details",
    "additional_fields",
    "escalation_policy_ids",
    "ids",
    "include",
    "integration_ids",
    "root_resource_types",
    "schedule_ids",
    "service_ids",
    "statuses",
    "team_ids",
    "urgencies",
    "user_ids",
))
# fmt: on


# ---------------------------------------------------------------------------
# Operations
# ---------------------------------------------------------------------------


if TYPE_CHECKING:
    _Values = Tuple[Any, ...]
    _Tuple = TypeVar("_Tuple", bound="_NamedTuple")
else:
    _Values = tuple


class _NamedTuple(_Values):
    """What all named tuples have in common.

    The standard library writes the code of each and has Python compile it.
    For two of them that takes a fifteenth of the import of this module.
    """

    __slots__ = ()
    _fields: Any = ()
    _field_defaults: Any = {}

    @classmethod
    def _make(cls: "Type[_Tuple]", values: "Iterable[Any]") -> "_Tuple":
        """One of these values."""
        return cls(*values)

    def __repr__(self) -> str:
        fields = ", ".join(map("{}={!r}".format, self._fields, self))
        return f"{type(self).__name__}({fields})"

    def __getnewargs__(self) -> "Tuple[Any, ...]":
        return tuple(self)

    def _asdict(self) -> "Dict[str, Any]":
        """The values by their names."""
        return dict(zip(self._fields, self))

    def _replace(self: "_Tuple", **changes: Any) -> "_Tuple":
        """The same, with other values under these names."""
        unknown = sorted(set(changes).difference(self._fields))
        if unknown:
            raise ValueError(f"Got unexpected field names: {unknown!r}")
        return type(self)(**dict(self._asdict(), **changes))

    def __replace__(self: "_Tuple", **changes: Any) -> "_Tuple":
        return self._replace(**changes)  # For copy.replace of Python 3.13.


def _field(number: int) -> Any:
    return property(itemgetter(number))


class _Operation:
    """What the endpoint table knows of one method on one path.

    It is no named tuple: to make such a class takes longer than all else that
    the table costs at the import.
    """

    #: Name of the wrapper of the request's body.
    request: "Optional[str]" = None
    #: Name of the wrapper of the response's body.
    response: "Optional[str]" = None
    #: ``offset``, ``cursor``, ``after``, ``starting_after``, ``scim``, or
    #: empty.
    pagination: str = ""
    #: Records that a page holds at most.
    max_limit: int = 100
    #: List parameters that are spelled without ``[]``.
    plain_params: "FrozenSet[str]" = frozenset()
    #: The same, with their values joined by commas.
    comma_params: "FrozenSet[str]" = frozenset()
    #: What the header ``X-EARLY-ACCESS`` has to say, or empty.
    early_access: str = ""
    #: Is the header ``From`` required?
    from_required: bool = False
    #: May the response's wrapper be missing?
    is_optional: bool = False
    #: The time of a record, where the list comes by period, or empty.
    time_field: str = ""
    #: What tells records of one time apart.
    id_field: str = "id"
    #: Until when a record lasts, or empty.
    end_field: str = ""
    #: Days that a period has at most, or 0.
    max_days: int = 0
    #: Are the ends of a period whole seconds?
    whole_seconds: bool = False
    #: Does it take ``sort_by``?
    is_sortable: bool = False
    #: Media type of the answers, where it is not the usual one, or empty.
    media_type: str = ""
    #: The host, where it is not that of the REST API, or empty.
    host: str = ""
    #: Records that one request changes at most; 0: it takes no list.
    max_bulk: int = 0

    def __init__(self, **notes: Any) -> None:
        vars(self).update(notes)

    def but(self, **notes: Any) -> "_Operation":
        """The same, with other notes."""
        return _Operation(**dict(vars(self), **notes))


_Wrapper: "TypeAlias" = "Optional[str]"

_WrapperEntry: "TypeAlias" = "Union[None, str, Tuple[_Wrapper, _Wrapper]]"

_PAGINATION_STYLES = ("offset", "cursor", "after", "starting_after", "scim")

# What notes without a value say, ...
_FLAGS: "Dict[str, Dict[str, Any]]" = {
    **{style: {"pagination": style} for style in _PAGINATION_STYLES},
    "from": {"from_required": True},
    "seconds": {"whole_seconds": True},
    "sorted": {"is_sortable": True},
}
# ... of which fields the values of others are, ...
_FIELDS = {
    "accept": ("media_type",),
    "early": ("early_access",),
    "history": ("time_field", "id_field"),
    "host": ("host",),
    "lasts": ("end_field",),
}
# ... and the number behind a third kind.
_NUMBERS = {"max": "max_limit", "days": "max_days", "bulk": "max_bulk"}


@lru_cache(maxsize=None)  # An import reads no more than it has to.
def _operation_of_table(endpoint: str) -> "Optional[_Operation]":
    """What the table says of ``METHOD path``; None: it has none such."""
    method, _, path = endpoint.partition(" ")
    for text in _ENDPOINTS.get(path, "").split():
        head, *notes = text.split(",")
        if head.partition("=")[0] == method:
            return _Operation(
                is_optional=head.endswith("?"), **_parse_notes(notes, text)
            )
    return None


def _parse_notes(rest: "List[str]", text: str) -> "Dict[str, Any]":
    notes: Dict[str, Any] = {}
    for note in rest:
        name, *values = note.split(":")
        kind = name.rstrip("0123456789")
        if name in _FLAGS:
            notes.update(_FLAGS[name])
        elif name in _FIELDS:
            notes.update(zip(_FIELDS[name], values))
        elif name in ("plain", "comma"):
            field = f"{name}_params"
            notes[field] = notes.get(field, frozenset()).union(values)
        elif kind in _NUMBERS and kind != note:
            notes[_NUMBERS[kind]] = int(note[len(kind) :])
        else:
            raise ValueError(f"unknown note {note!r} in {text!r}")
    return notes


def _wrapper_entry(wrappers: str) -> "_WrapperEntry":
    """Turn the table's notation into that of ``ENTITY_WRAPPER_CONFIG``."""
    if wrappers == "-":
        return None
    request, _, response = wrappers.rstrip("?").partition(":")
    if request == wrappers:
        return request
    return (
        None if request == "-" else request,
        None if response == "-" else response or request,
    )


def _operations_with(sign: str) -> "Iterator[Tuple[str, str]]":
    """The operations whose texts hold a sign: ``METHOD path``, wrappers."""
    for path, row in _ENDPOINTS.items():
        if sign in row:
            for text in row.split():
                if sign in text:
                    head = text.partition(",")[0]
                    method, _, wrappers = head.partition("=")
                    yield f"{method} {path}", wrappers


# A path that a caller has added: how long its pages may be is not known.
_ADDED_OPERATION = _Operation(max_limit=sys.maxsize)

#: Every path that this client knows of the REST API, of SCIM, and of the
#: integrations with Jira, Slack and Microsoft Teams, in the notation of
#: PagerDuty's reference. A path appended at run time is known at once.
CANONICAL_PATHS: "List[str]" = list(_ENDPOINTS)

#: Paths whose GET is paginated by cursor. May be extended at run time.
CURSOR_BASED_PAGINATION_PATHS: "List[str]" = [
    path for path, row in _ENDPOINTS.items() if ",cursor" in row
]

#: Wrapper names that cannot be inferred from the path. The key is
#: ``"METHOD path"`` or ``"* path"``; the value is the name of the wrapper of
#: both bodies, a pair (request, response), or None where nothing is wrapped.
#: May be extended at run time.
ENTITY_WRAPPER_CONFIG: "Dict[str, _WrapperEntry]" = {
    endpoint: _wrapper_entry(wrappers)
    for endpoint, wrappers in _operations_with("=")
}

# The entries of wrappers that may be missing. Any other entry, of a caller's,
# is taken at its word.
_OPTIONAL_WRAPPERS: "Dict[str, _WrapperEntry]" = {
    endpoint: ENTITY_WRAPPER_CONFIG[endpoint]
    for endpoint, _ in _operations_with("?")
}


# Beginnings of paths of which some answer with a media type of their own.
_PREFIXES_WITH_MEDIA_TYPE = tuple(
    {
        "/{1}/".format(*path.split("/"))
        for path, row in _ENDPOINTS.items()
        if ",accept:" in row
    }
)


def _needs_endpoint(session: Any, url: str) -> bool:
    """May a request want a media type, or a key, of its own?"""
    if getattr(session, "client_incident_keys", False):
        return True
    # Most have none, and need not be looked up for that.
    for prefix in _PREFIXES_WITH_MEDIA_TYPE:  # noqa: SIM110 (it is faster)
        if prefix in url:
            return True
    return False


def is_path_param(node: str) -> bool:
    """Tell whether a node of a canonical path stands for a value.

    :param node: the text between two slashes, e.g. ``{id}``
    """
    return node.startswith("{") and node.endswith("}")


def endpoint_matches(pattern: str, method: str, path: str) -> bool:
    """Tell whether a key of ``ENTITY_WRAPPER_CONFIG`` is about this endpoint.

    :param pattern: ``"GET /users"``, or ``"* /users"`` for any method
    :param method: HTTP method, in any case
    :param path: canonical path
    """
    return pattern in (f"{method.upper()} {path}", f"* {path}")


# Singular words that end in "s", and the plurals in "es" of such words.
_SINGULAR_ENDINGS = ("ss", "us", "is", "sms")

_PLURAL_TAKES_ES = ("ss", "us", "x", "ch", "sh")

_PLURALS_IN_ES = ("sses", "uses", "xes", "ches", "shes")


def singular_name(r_name: str) -> str:
    """Name of one of the resources: ``policy`` for ``policies``.

    A word that is no plural comes back untouched.

    :param r_name: name of a collection, as it is in paths
    """
    if r_name.endswith("ies"):
        return r_name[:-3] + "y"
    if r_name.endswith(_PLURALS_IN_ES) and not r_name.endswith("causes"):
        return r_name[:-2]
    if r_name.endswith("s") and not r_name.endswith(_SINGULAR_ENDINGS):
        return r_name[:-1]
    return r_name


def plural_name(obj_type: str) -> str:
    """Name of the collection: ``users`` for ``user`` or ``user_reference``.

    :param obj_type: the ``type`` of a resource or of a reference to one
    """
    if obj_type.endswith("_reference"):
        obj_type = obj_type[: -len("_reference")]
    if obj_type.endswith("y") and obj_type[-2:-1] not in tuple("aeiou"):
        return obj_type[:-1] + "ies"
    if obj_type.endswith(_PLURAL_TAKES_ES):
        return obj_type + "es"
    return obj_type + "s"


def infer_entity_wrapper(method: str, path: str) -> str:
    """Name that convention gives to the wrapper at an endpoint.

    :param method: HTTP method, in any case
    :param path: canonical path
    :returns: the singular for one resource and for POST; else the last node
    """
    nodes = path.split("/")
    if is_path_param(nodes[-1]):
        return singular_name(nodes[-2])
    if method.upper() == "POST":
        return singular_name(nodes[-1])
    return nodes[-1]


def entity_wrappers(method: str, path: str) -> "Tuple[_Wrapper, _Wrapper]":
    """Wrapper names of the request's and of the response's body.

    :param method: HTTP method, in any case
    :param path: canonical path
    :returns: (request, response), None where the body is not wrapped
    :raises ValueError: the entry of :data:`ENTITY_WRAPPER_CONFIG` is
        malformed
    """
    method = method.upper()
    for endpoint in (f"{method} {path}", f"* {path}"):
        if endpoint in ENTITY_WRAPPER_CONFIG:
            return _checked_wrappers(endpoint)
    wrapper = infer_entity_wrapper(method, path)
    return wrapper, wrapper


def _checked_wrappers(endpoint: str) -> "Tuple[_Wrapper, _Wrapper]":
    entry = ENTITY_WRAPPER_CONFIG[endpoint]
    if entry is None or isinstance(entry, str):
        return entry, entry
    if (
        isinstance(entry, tuple)
        and len(entry) == 2
        and all(name is None or isinstance(name, str) for name in entry)
    ):
        return entry
    raise ValueError(
        f"ENTITY_WRAPPER_CONFIG[{endpoint!r}] must be None, a str, or a "
        f"tuple (request, response) of these; it is {entry!r}."
    )


def _is_optional(method: str, path: str) -> bool:
    """May the wrapper of the response be missing?"""
    endpoint = f"{method} {path}"
    entry = _OPTIONAL_WRAPPERS.get(endpoint)
    return entry is not None and ENTITY_WRAPPER_CONFIG.get(endpoint) is entry


def _operation(method: str, path: str) -> "Optional[_Operation]":
    """All that is known of a method on a canonical path.

    :param method: HTTP method in capitals
    :param path: canonical path
    :returns: the operation with its wrappers; None: there is none such
    """
    endpoint = f"{method} {path}"
    operation = _operation_of_table(endpoint)
    if operation is None:
        is_added = path not in _ENDPOINTS or endpoint in ENTITY_WRAPPER_CONFIG
        if not is_added or path not in CANONICAL_PATHS:
            return None
        operation = _ADDED_OPERATION
    request, response = entity_wrappers(method, path)
    return operation.but(
        request=request,
        response=response,
        is_optional=_is_optional(method, path),
    )


def _is_collection(path: str, operation: _Operation) -> bool:
    """Does a GET of this path give an array of records in a wrapper?"""
    wrapper = operation.response
    if wrapper is None or operation.pagination:
        return wrapper is not None
    name = singular_name(wrapper)
    if is_path_param(path.split("/")[-1]):
        # One resource, unless what is in the wrapper are several others.
        return name not in (wrapper, infer_entity_wrapper("GET", path))
    return path not in _ENDPOINTS or name != wrapper


# ---------------------------------------------------------------------------
# URLs
# ---------------------------------------------------------------------------

# The patterns of this module are texts: re compiles each when it is needed
# first, and an import need not wait for that.
_FULL_URL = r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)"

_HOST_AND_PORT = r"(\[[0-9a-f:.]+\]|[^\s@:%\\\[\]]+)(?::(\d{0,5}))?"

_DEFAULT_PORTS = {"http": "80", "https": "443"}

_Origin: "TypeAlias" = "Tuple[str, str, str]"


@lru_cache(maxsize=256)
def _origin(scheme: str, authority: str) -> "Optional[_Origin]":
    """Scheme, host and port in comparable form; None for a dubious one.

    Anything but host and port is dubious: ``user@host``, a backslash, white
    space and percent-encoding are read differently by different parsers, and
    that is how look-alike URLs are made.
    """
    scheme = scheme.lower()
    match = re.fullmatch(_HOST_AND_PORT, authority.lower())
    if scheme not in _DEFAULT_PORTS or match is None:
        return None
    host, port = match.groups()
    if port and int(port) > 65535:
        return None
    return scheme, host, str(int(port)) if port else _DEFAULT_PORTS[scheme]


@lru_cache(maxsize=64)
def _base(base_url: str) -> "Tuple[str, _Origin, str]":
    """Base URL without trailing slash, its origin, and its path."""
    base = str(base_url).rstrip("/")
    match = re.fullmatch(_FULL_URL, base)
    origin = _origin(match.group(1), match.group(2)) if match else None
    if match is None or origin is None or {"?", "#"} & set(match.group(3)):
        raise URLError(
            f"The base URL {base_url!r} is not of the form https://host or "
            "http://host, perhaps with a path; set the attribute `url` of the "
            "session."
        )
    return base, origin, match.group(3)


def normalize_url(base_url: str, url: str) -> str:
    """Complete a path to a full URL, or check that a full URL is inside.

    What comes back always begins with the base URL, literally. The ``self``
    link of an object of another service region is understood: its path is
    taken, and asked for from the base URL.

    :param base_url: scheme and host, perhaps port and path, of the API
    :param url: path, with or without leading slash, or full URL
    :raises URLError: the URL is outside the base URL, or is no URL
    """
    if not isinstance(url, str):
        raise URLError(
            f"Expected a URL or path (str), got {type(url).__name__}."
        )
    base, base_origin, base_path = _base(base_url)
    if not url.isprintable() and any(c < " " or c == "\x7f" for c in url):
        raise URLError(f"The URL {url!r} contains a control character.")
    is_suspect = "/." in url or "%" in url or "\\" in url or " " in url
    is_suspect |= url[:1] == "."
    is_suspect |= len(url) < len(url.encode("utf-8", "surrogatepass"))
    if is_suspect and _has_dot_segments(url):
        raise URLError(
            f"The URL {url!r} has dots (. or ..) in place of a name, which is "
            "not allowed."
        )
    if url.startswith(base) and url[len(base) : len(base) + 1] in "/?#":
        return url
    match = re.fullmatch(_FULL_URL, url) if "://" in url else None
    if match is None:
        return f"{base}/{url.lstrip('/')}"
    scheme, authority, rest = match.groups()
    origin = _origin(scheme, authority)
    if origin == base_origin:
        if _is_below(rest, base_path):
            return base + rest[len(base_path) :]
    elif origin is not None and _is_other_region(origin, base_origin):
        return base + rest
    raise URLError(
        f"The URL {url!r} is outside the API at {base}."
        f"{_web_address_hint(origin, rest)}"
    )


def _web_address_hint(origin: "Optional[_Origin]", rest: str) -> str:
    host = origin[1] if origin else ""
    is_api = any(host in row for row in _SERVICE_REGIONS)
    if is_api or not host.endswith(".pagerduty.com"):
        return ""
    path = rest.partition("#")[0].partition("?")[0]
    return (
        " It is an address of PagerDuty's web interface (html_url). The API "
        f"has its own: pass the path, {path or '/'}, or the resource's self."
    )


def _is_inside(base_url: str, full_url: str) -> bool:
    """Does a URL lead to the base URL itself, and not to another region?

    :param full_url: spelled as the base URL is, or as requests spells that
    """
    base_url = str(base_url)
    return _is_below_base(base_url, full_url) or _is_below_base(
        _as_requested(base_url), full_url
    )


def _is_below_base(base_url: str, full_url: str) -> bool:
    try:
        _, base_origin, base_path = _base(base_url)
    except URLError:
        return False
    match = re.fullmatch(_FULL_URL, full_url)
    return (
        match is not None
        and _origin(match.group(1), match.group(2)) == base_origin
        and _is_below(match.group(3), base_path)
    )


@lru_cache(maxsize=64)
def _as_requested(base_url: str) -> str:
    """A base URL in ASCII, percent-encoded, as its host gets to see it."""
    prepared = requests.PreparedRequest()
    try:
        prepared.prepare_url(base_url, None)
    except (RequestException, ValueError):
        return base_url
    return str(prepared.url)


def _is_inside_or_upgraded(base_url: str, full_url: str) -> bool:
    """The same; or to its host, by https instead of http, at its port?"""
    if _is_inside(base_url, full_url):
        return True
    try:
        _, (scheme, host, port), path = _base(base_url)
    except URLError:
        return False
    is_upgradable = (scheme, port) == ("http", "80")
    return is_upgradable and _is_inside(f"https://{host}{path}", full_url)


def _is_below(path: str, base_path: str) -> bool:
    following = path[len(base_path) :][:1]
    return path.startswith(base_path) and following in ("", *"/?#")


# A character of ASCII in more octets of UTF-8 than it needs, which some
# decode: its first bit, and an octet that ends with the other six.
_OVERLONG = (
    r"(?i)%(?:c|e0%8|f0%80%8|f8%80%80%8|fc%80%80%80%8)([01])%([0-9a-f]{2})"
)


def _of_overlong(match: "Match[str]") -> str:
    first, rest = int(match.group(1)), int(match.group(2), 16)
    return f"%{first << 6 | rest & 0x3F:02x}"


def _of_code_point(match: "Match[str]") -> str:
    return chr(int(match.group(1), 16))


# Where some end a node of a path, and what some leave out of it.
_NODE_END, _BLANKS = r"[;?#\0]", r"[\s\x00-\x1f\x7f]"


def _has_dot_segments(url: str) -> bool:
    """Is there a ``.`` or ``..`` among the nodes, in any spelling?

    Servers and proxies differ in what they take for a slash, in how often
    they decode a path, and in what they cut off a node or leave out of it.
    """
    path = url.partition("#")[0].partition("?")[0]
    while True:
        # Some take a wide dot, or two dots in one character, for dots.
        plain = unicodedata.normalize("NFKC", path).replace("\\", "/")
        for node in plain.split("/"):
            for part in (node, re.split(_NODE_END, node)[0]):
                if re.sub(_BLANKS, "", part) in (".", ".."):
                    return True
        decoded = re.sub(_OVERLONG, _of_overlong, path)
        decoded = re.sub("(?i)%u([0-9a-f]{4})", _of_code_point, decoded)
        decoded = unquote(decoded, errors="replace")
        if decoded == path:
            return False
        path = decoded


def _is_on_this_machine(url: str) -> bool:
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
    except ValueError:
        return False
    return host in ("localhost", "::1") or (
        host.startswith("127.") and host.replace(".", "").isdigit()
    )


def _is_unusable_proxy(proxy: str) -> bool:
    """Is a proxy's URL ended by a sign in its password, within the port?

    Then it is refused, and nobody reads anything.
    """
    user, port, rest = r"[^:/?#@\[]*", r"(?![0-9]*[/?#])[^/?#@]*", r"[/?#].*@"
    return bool(re.match(rf"(?:[^/?#]*//)?{user}:{port}{rest}", proxy))


def _is_other_region(origin: "_Origin", base_origin: "_Origin") -> bool:
    """Does another region's host serve the very API that base_url serves?

    A base URL that is none of PagerDuty's own is a gateway in front of it,
    whose answers contain links to the API itself.
    """
    scheme, host, port = origin
    if (scheme, port) != ("https", "443"):
        return False
    base_host = base_origin[1]
    is_gateway = not any(base_host in row for row in _SERVICE_REGIONS)
    return any(
        host in row and (is_gateway or base_host in row)
        for row in _SERVICE_REGIONS
    )


def _has_userinfo(url: Any) -> bool:
    return "@" in str(url) and "@" in urlsplit(str(url)).netloc


class _Node:
    """A place in the index of paths.

    :ivar literals: what follows, by the text of the next node
    :ivar parameter: what follows a node of any text, or None
    :ivar path: the canonical path that ends here, or None
    """

    __slots__ = ("literals", "parameter", "path")

    def __init__(self) -> None:
        self.literals: Dict[str, _Node] = {}
        self.parameter: Optional[_Node] = None
        self.path: Optional[str] = None

    def add(self, path: str) -> None:
        """Add a canonical path; of two with the same form the first wins."""
        place = self
        for text in path.strip("/").split("/"):
            if is_path_param(text):
                place.parameter = place.parameter or _Node()
                place = place.parameter
            else:
                place = place.literals.setdefault(text, _Node())
        place.path = place.path or path

    def find(self, nodes: "List[str]", depth: int = 0) -> "Optional[str]":
        """The canonical path of a path, cut into its nodes.

        At each level a literal node outranks a parameter, from left to
        right; where it leads nowhere, the parameter is tried.
        """
        if depth == len(nodes):
            return self.path
        text = nodes[depth]
        found = None
        following = self.literals.get(text)
        if following is not None:
            found = following.find(nodes, depth + 1)
        if found is None and text and self.parameter is not None:
            found = self.parameter.find(nodes, depth + 1)
        return found


# The index of CANONICAL_PATHS; and how many these were, and the last of them.
_path_index, _indexed = _Node(), (0, "")


def _find_path(nodes: "List[str]") -> "Optional[str]":
    """Canonical path of the nodes of a path; None: no table knows it."""
    global _path_index, _indexed
    paths = CANONICAL_PATHS
    present = (len(paths), paths[-1] if paths else "")
    if present != _indexed:
        index = _Node()
        for path in paths:
            index.add(path)
        _path_index, _indexed = index, present
    return _path_index.find(nodes)


class _LocatedURL(str):
    """A URL as the caller wrote it, and where it leads.

    It is equal to what the caller wrote, for methods that a subclass or a
    test has replaced; those of this module need not normalise it again.

    :ivar base_url: what it was located in
    :ivar full_url: what :func:`normalize_url` made of it
    :ivar path: canonical path, or None where no table knows it
    :ivar unwanted: set when nobody waits for the answer any more
    """

    base_url: str
    full_url: str
    path: "Optional[str]"
    unwanted: "Optional[threading.Event]" = None


def _locate(base_url: str, url: str) -> _LocatedURL:
    """Find out once, for all that follows, where a URL leads.

    :raises URLError: the URL is outside the base URL, or is no URL
    """
    full_url = normalize_url(base_url, url)
    located = _LocatedURL(url)
    located.base_url = base_url
    located.full_url = full_url
    located.path = _known_path(base_url, full_url)
    return located


def _requested_path(base_url: str, url: str) -> str:
    """Canonical path of a URL that was requested, or else its own path."""
    base = _base(base_url)[0]
    is_inside = url.startswith(base) and url[len(base) : len(base) + 1] == "/"
    if not is_inside:
        try:
            url = normalize_url(base_url, url)
        except URLError:
            return url.partition("?")[0]
    return _known_path(base_url, url) or _plain_path(base_url, url)


def _known_path(base_url: str, full_url: str) -> "Optional[str]":
    """Canonical path of a URL that normalize_url returned; None: unknown."""
    return _find_path(_plain_path(base_url, full_url).split("/")[1:])


def _plain_path(base_url: str, full_url: str) -> str:
    """The path behind the base URL, without query and trailing slash."""
    path = full_url[len(base_url.rstrip("/")) :]
    if "?" in path or "#" in path:
        path = path.partition("#")[0].partition("?")[0]
    return path.rstrip("/") if path.endswith("/") else path


def canonical_path(base_url: str, url: str) -> str:
    """Name the endpoint of a URL: ``/users/{id}`` for ``users/PABC123``.

    Literal nodes beat parameters, from left to right, so that ``/users/me``
    is itself. The query string does not matter.

    :param base_url: base URL of the API
    :param url: path or full URL
    :returns: an entry of :data:`CANONICAL_PATHS`
    :raises URLError: no such endpoint is known, or the URL is outside
    """
    full_url = normalize_url(base_url, url)
    path = _known_path(base_url, full_url)
    if path is None:
        plain_path = _plain_path(base_url, full_url)
        hint = _did_you_mean(plain_path)
        raise URLError(
            f"{plain_path or '/'} is no known endpoint. "
            f"{hint}{' ' if hint else ''}If the API has it, append its path "
            "to pdpyras.CANONICAL_PATHS, with a parameter like {id} for each "
            "variable node."
        )
    return path


def _did_you_mean(path: str) -> str:
    """Suggest the known path that is nearest to one that is not."""
    # Only who has mistyped a path needs it.
    from difflib import get_close_matches

    nodes = path.split("/")
    candidates: Dict[str, str] = {}
    for known in CANONICAL_PATHS:
        parts = known.split("/")
        if len(parts) == len(nodes):
            filled = [
                given if given and is_path_param(node) else node
                for node, given in zip(parts, nodes)
            ]
            candidates.setdefault("/".join(filled), known)
    near = get_close_matches(path, candidates, n=1, cutoff=0.75)
    return f"Did you mean {near[0]}?" if near else ""


def _url_of(resource: Any) -> str:
    if isinstance(resource, str):
        return resource
    if not isinstance(resource, abc.Mapping):
        raise URLError(
            "A URL, a path, or a resource (dict) with its URL at 'self' is "
            f"wanted, not {type(resource).__name__}."
        )
    url = resource.get("self")
    if not isinstance(url, str) or not url:
        raise URLError(
            f"The resource {resource.get('id', '')!r} (type "
            f"{resource.get('type', '')!r}) has no URL at 'self'; pass its "
            "path instead."
        )
    return url


def _tokens(url: str, base_url: str) -> "Tuple[str, ...]":
    full_url = normalize_url(base_url, url)
    nodes = _plain_path(base_url, full_url).split("/")[1:]
    if not nodes or "" in nodes:
        raise URLError(f"The URL {url!r} has no path, or one with gaps.")
    tokens = [nodes[0]]
    if len(nodes) > 2:
        tokens += ["{id}", nodes[2]]
    tokens.append("{index}" if len(nodes) % 2 else "{id}")
    return tuple(tokens)


# ---------------------------------------------------------------------------
# Query parameters
# ---------------------------------------------------------------------------
#
# Lists get ``[]`` at their names, and so do the names in _LIST_PARAMS, which
# stands behind the table of endpoints; see _spell_param and _unbracket.


def _as_pairs(params: Any) -> "List[Tuple[str, Any]]":
    if params is None:
        return []
    items = params.items() if isinstance(params, abc.Mapping) else params
    with contextlib.suppress(TypeError, ValueError):
        items = list(items)
        # A text of two characters would pass for a pair.
        if not any(isinstance(item, (str, bytes)) for item in items):
            return [(name, value) for name, value in items]
    raise ValueError(
        "params must be a dict, or pairs (name, value); it is "
        f"{truncate_text(repr(params))}."
    )


def _as_params(pairs: "List[Tuple[str, Any]]") -> Any:
    """A dict, which can be merged, unless a name occurs twice."""
    params = dict(pairs)
    return params if len(params) == len(pairs) else pairs


def _split_query(url: str, params: Any) -> "Tuple[str, List[Tuple[str, Any]]]":
    """The URL without its query, and all parameters in their order."""
    endpoint, _, query = url.partition("#")[0].partition("?")
    pairs: List[Tuple[str, Any]] = list(
        parse_qsl(query, keep_blank_values=True)
    )
    return endpoint, pairs + _as_pairs(params)


def _pop(pairs: "List[Tuple[str, Any]]", name: str) -> Any:
    """Take a parameter out; of several of its name the last one counts."""
    values = [value for key, value in pairs if key == name]
    pairs[:] = [pair for pair in pairs if pair[0] != name]
    return values[-1] if values else None


def _as_lists(pairs: "List[Tuple[str, Any]]") -> "List[Tuple[str, Any]]":
    """The parameters with lists in place of any other iterables."""
    listed = []
    for name, value in pairs:
        is_scalar = isinstance(value, (str, bytes, abc.Mapping))
        if not is_scalar and hasattr(value, "__iter__"):
            value = [item for item in value if item is not None]
        listed.append((name, value))
    return listed


def _is_empty_list(value: Any) -> bool:
    return isinstance(value, list) and not value


def _spell_param(name: Any, value: Any) -> "Tuple[Any, Any]":
    subject = f"The query parameter {name!r}"
    is_list = isinstance(value, list)
    if is_list:
        value = [_spell_query_value(subject, item) for item in value]
    else:
        value = _spell_query_value(subject, value)
    if not isinstance(name, str) or name.endswith("[]") or value is None:
        return name, value
    return f"{name}[]" if is_list or name in _LIST_PARAMS else name, value


def _spell_query_value(subject: str, value: Any) -> Any:
    if value is True or value is False:
        return str(value).lower()
    if isinstance(value, abc.Mapping):
        raise ValueError(
            f"{subject} is a dict, for which a query has no spelling. Give "
            "its parts as parameters of their own."
        )
    return _spell_time(subject, value)


def _spell_time(subject: str, value: Any) -> Any:
    """ISO 8601 for a date or a time; any other value as it is.

    Times are UTC with ``Z``, the one spelling that every endpoint takes.

    :raises ValueError: the time might be any of several
    """
    if not isinstance(value, datetime):
        return value.isoformat() if isinstance(value, date) else value
    if value.utcoffset() is None:
        raise ValueError(
            f"{subject} is {value!r}, a datetime without a time zone, which "
            "the API would read in the time zone of the account. Give it "
            "one: value.astimezone() if it is local time, "
            "value.replace(tzinfo=timezone.utc) if it is UTC."
        )
    try:
        value = value.astimezone(timezone.utc)
    except OverflowError as error:
        raise ValueError(f"{subject} is {value!r}: {error}.") from None
    return str(value.replace(tzinfo=None).isoformat()) + "Z"


def _as_sent(subject: str, value: Any) -> str:
    """The text that is sent of a value; it may be an Enum's member."""
    if isinstance(value, str):
        return str.__str__(value)
    return str(_spell_time(subject, value))


def _spell_times(body: Any, name: Any = None) -> Any:
    """A body for JSON with its dates and times as text.

    What is without any is returned itself; the caller's is not changed.

    :param name: of the property that holds it, for the exception's text
    :raises ValueError: one of the times might be any of several
    """
    if isinstance(body, dict):
        changes = {}
        for key, value in body.items():
            if value.__class__ is not str:  # Most are; this must be fast.
                spelled = _spell_times(value, key)
                if spelled is not value:
                    changes[key] = spelled
        return {**body, **changes} if changes else body
    if isinstance(body, (list, tuple)):
        items = [_spell_times(item, name) for item in body]
        is_changed = any(new is not old for new, old in zip(items, body))
        return items if is_changed else body
    if isinstance(body, date):
        return _spell_time(f"The value of {name!r} in the body", body)
    return body


def _unbracket(given: Any, params: Any, operation: _Operation) -> Any:
    """Undo ``[]`` where the endpoint spells a list parameter without."""
    if not isinstance(params, (dict, list)):
        return params
    own = {name for name, _ in _as_pairs(given)}
    pairs = []
    for name, value in _as_pairs(params):
        plain_name = name[:-2] if name not in own else name
        if plain_name in operation.plain_params:
            name = plain_name
        elif plain_name in operation.comma_params:
            name = plain_name
            if isinstance(value, (list, tuple)):
                value = ",".join(map(str, value))
        pairs.append((name, value))
    return _as_params(pairs)


def _whole_number(name: str, value: Any, least: int) -> int:
    try:
        number = int(value)
        is_whole = number == float(value) and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        number, is_whole = least, False
    if number < least or not is_whole:
        raise ValueError(
            f"{name} must be a whole number from {least}, not {value!r}."
        )
    return number


def _without_none(**values: Any) -> "Dict[str, Any]":
    return {k: v for k, v in values.items() if v is not None}


# ---------------------------------------------------------------------------
# Headers
# ---------------------------------------------------------------------------
#
# How they are merged, checked and masked. Which ones a request gets is decided
# in PDSession.prepare_headers. One is added in _own_headers of the session's
# class, or in its __init__ if it is always the same; if it is for some
# endpoints only, in APISession._fit_to_endpoint.


def _as_str(text: Any) -> str:
    """A str or bytes as str; for anything else what no header can be."""
    if isinstance(text, bytes):
        return text.decode("latin-1")
    return text if isinstance(text, str) else "\n"


class _CompleteHeaders(dict):  # type: ignore[type-arg]
    """The headers of one request, merged and checked.

    requests merges the session's headers into those of every request, and
    checks them all. With these, which no one else makes, it need not.

    :ivar progress: of the attempt that they are for (see ``_Progress``)
    :ivar has_own_token: does the token come from the session's credential?
    :ivar incident_key: made by this client, for what the request creates
    """

    progress: Any = None
    has_own_token = False
    incident_key: "Optional[str]" = None


# Keyword arguments in which callers may pass credentials, and the names of
# headers that hold some.
_CONFIDENTIAL = frozenset(("headers", "proxies"))
_CONFIDENTIAL_IN_BODY = _CONFIDENTIAL | {"data", "json"}
_CONFIDENTIAL_NAME = r"(?i).*(auth|cookie|key|password|secret|signature|token)"


def _masked_options(
    options: "Dict[str, Any]", names: "FrozenSet[str]"
) -> "Dict[str, Any]":
    """Keyword arguments of a request, in which some of them are hidden.

    Crash reporters send the local variables of each function on the way.
    """
    options = dict(options)
    for name in names.intersection(options):
        options[name] = _MASKS[name](options[name])
    return options


def _masked_headers(headers: Any) -> Any:
    if type(headers) is _CompleteHeaders or not isinstance(
        headers, abc.Mapping
    ):
        return headers
    return {
        name: (
            _masked(value)
            if re.match(_CONFIDENTIAL_NAME, _as_str(name))
            else value
        )
        for name, value in headers.items()
    }


def _masked_json(body: Any) -> Any:
    if isinstance(body, str):
        return _masked(body)
    if isinstance(body, abc.Mapping) and "routing_key" in body:
        return dict(body, routing_key=_masked(body["routing_key"]))
    return body


def _masked_pairs(form: Any) -> Any:
    """A form as a list of pairs, in which a routing key is hidden."""
    if not isinstance(form, (list, tuple)):
        return form
    return [
        ("routing_key", _masked(field[1]))
        if isinstance(field, (list, tuple))
        and len(field) == 2
        and field[0] == "routing_key"
        else field
        for field in form
    ]


def _masked_proxies(proxies: Any) -> Any:
    if not isinstance(proxies, abc.Mapping) or not any(
        "@" in str(url) for url in proxies.values()
    ):
        return proxies
    return {
        scheme: _masked(url) if "@" in str(url) else url
        for scheme, url in proxies.items()
    }


_MASKS: "Dict[str, Callable[[Any], Any]]" = {
    "data": lambda data: _masked_pairs(_masked_json(_masked(data))),
    "headers": _masked_headers,
    "json": _masked_json,
    "proxies": _masked_proxies,
}


_HEADER_NAME = r"[!-9;-~]+"

_HEADER_VALUE = r"(?!\s)[\x00-\x09\x0b\x0c\x0e-\xff]*"


class _Headers(dict):  # type: ignore[type-arg]
    """Headers that are found by their names in any case, as in 5.x.

    A CaseInsensitiveDict of requests takes ten times as long to make.
    """

    def _spelled(self, name: Any) -> Any:
        """The name as it is written here; one that is not here as it is."""
        if not dict.__contains__(self, name) and isinstance(
            name, (str, bytes)
        ):
            lower = _as_str(name).lower()
            for own in self:
                if _as_str(own).lower() == lower:
                    return own
        return name

    def __missing__(self, name: Any) -> Any:
        own = self._spelled(name)
        if not dict.__contains__(self, own):
            raise KeyError(name)
        return self[own]

    def __contains__(self, name: Any) -> bool:
        return super().__contains__(self._spelled(name))

    def __setitem__(self, name: Any, value: Any) -> None:
        own = self._spelled(name)
        if own != name:
            super().pop(own, None)
        super().__setitem__(name, value)

    def __delitem__(self, name: Any) -> None:
        super().__delitem__(self._spelled(name))

    def pop(self, name: Any, *default: Any) -> Any:
        return super().pop(self._spelled(name), *default)

    get = abc.MutableMapping.get  # type: ignore[assignment]
    setdefault = abc.MutableMapping.setdefault
    update = abc.MutableMapping.update

    def copy(self) -> "_Headers":
        return _Headers(self)

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def __or__(self, other: Any) -> Any:
        both = self.copy()
        both.update(other)
        return both


def _merge_headers(
    headers: "Mapping[str, Any]", more: "Optional[Mapping[str, Any]]"
) -> "Dict[str, Any]":
    """Both together; the second wins, whatever the case of the names."""
    if not more:
        return _Headers(headers)
    if not isinstance(more, abc.Mapping):
        raise ValueError(f"headers must be a dict, not {type(more).__name__}.")
    names = {str(name).lower() for name in more}
    merged = {k: v for k, v in headers.items() if k.lower() not in names}
    merged.update(more)
    return _Headers(merged)


def _complete_headers(headers: "Mapping[Any, Any]") -> _CompleteHeaders:
    """Refuse what cannot be sent, without showing it: it may be a secret.

    :raises PDClientError: one of the headers cannot be sent
    """
    for name, value in headers.items():
        if not re.fullmatch(_HEADER_NAME, _as_str(name)):
            raise PDClientError(
                f"{name!r} cannot be the name of a header. Nothing was sent."
            )
        if value is not None and not re.fullmatch(
            _HEADER_VALUE, _as_str(value)
        ):
            raise PDClientError(
                f"The value of the header {name!r} must be a str of Latin-1 "
                "characters that has no line break and no white space at "
                "its beginning. Nothing was sent."
            )
    return _CompleteHeaders(headers)


def _names_authorization(headers: "Mapping[Any, Any]") -> bool:
    return any(_as_str(name).lower() == "authorization" for name in headers)


# ---------------------------------------------------------------------------
# Entity wrapping
# ---------------------------------------------------------------------------
#
# The wrapper is put on and taken off. Its name is found by entity_wrappers,
# see Operations; wrapped_entities, a decorator, does it to requests.


def _wrap(body: Any, wrapper: _Wrapper) -> Any:
    """The body inside its wrapper, unless it already is."""
    if wrapper is None:
        return body
    if isinstance(body, dict) and (
        isinstance(body.get(wrapper), (dict, list, tuple))
        or body == {wrapper: None}
    ):
        return body
    return {wrapper: body}


def unwrap(response: Any, wrapper: "Optional[str]") -> Any:
    """Decode the body of a response, and take its content out of a wrapper.

    :param response: a response with a success status
    :param wrapper: name of the property that holds the content, or None for
        the whole body
    :returns: the content; None for status 204
    :raises PDServerError: the body is no JSON, no object, or lacks the key
    """
    body = try_decoding(response)
    if isinstance(body, dict) and wrapper in body:
        return body[wrapper]
    is_bodyless = body is None and _status_of(response) == 204
    if wrapper is None or is_bodyless:
        return body
    found = type(body).__name__
    if isinstance(body, dict):
        found = "an object with " + (
            ", ".join(map(repr, body)) or "no properties"
        )
        found = _quoted(found, response)
    # Crash reporters send local variables; the body may quote the key.
    del body
    expected = f"an object with the property {wrapper!r}"
    raise _schema_error(response, expected, found)


def _unwrap_if_wrapped(response: Any, wrapper: _Wrapper) -> Any:
    """The content of a wrapper; where there is none, the body as it is."""
    body = try_decoding(response)
    is_wrapped = isinstance(body, dict) and wrapper in body
    return body[wrapper] if is_wrapped else body


def _unwrap_by_content(response: Any) -> Any:
    """Unwrap a body whose wrapper no table knows.

    A body is taken for wrapped if it has exactly one property that bears
    content, pagination aside, and this holds an object or an array.
    """
    body = try_decoding(response)
    if isinstance(body, dict):
        names = [key for key in body if key not in _PAGINATION_PROPERTIES]
        if len(names) == 1 and isinstance(body[names[0]], (dict, list)):
            return body[names[0]]
    return body


# ---------------------------------------------------------------------------
# Responses
# ---------------------------------------------------------------------------


def _request_line(response: Any) -> str:
    request = getattr(response, "request", None)
    method = getattr(request, "method", "request")
    return _presentable(f"{method} {getattr(request, 'url', '')}", response)


def _text(response: Any) -> str:
    """The body as text, even if its charset is none that decodes.

    Of a large one it is the beginning, from the first thing that is there.
    """
    try:
        content = getattr(response, "content", b"")
        if isinstance(content, bytes) and len(content) > _MAX_QUOTED_SIZE:
            # requests would look through the whole to find out its charset.
            content = content.lstrip()[:_MAX_QUOTED_SIZE]
            return _decoded(content, getattr(response, "encoding", None))
        text = getattr(response, "text", "")
        return text if isinstance(text, str) else ""  # A stand-in's.
    except ValueError:
        return cast(str, response.content.decode("utf-8", "replace"))
    except RequestException:  # With stream=True it is read only here.
        return ""


def _decoded(content: bytes, charset: Any) -> str:
    if isinstance(charset, str):
        with contextlib.suppress(LookupError, ValueError):
            return content.decode(charset, "replace")
    return content.decode("utf-8", "replace")


def http_error_message(r: Any, context: "Optional[str]" = None) -> str:
    """Describe an error response in one line, without any credentials.

    :param r: the response
    :param context: what was being attempted, in words
    """
    status = getattr(r, "status_code", None)
    is_server = (_status_of(r) or 0) // 100 == 5
    side = "server" if is_server else "client"
    place = f" in {context}" if context else ""
    return (
        f"{_request_line(r)}: API responded with {side} error "
        f"(status {status}){place}: "
        f"{_quoted(_text(r), r)}"
    )


def successful_response(r: Any, context: "Optional[str]" = None) -> Any:
    """Pass a response on if its status is 2xx; raise if it is not.

    :param r: the response
    :param context: what was being attempted, for the exception's text
    :returns: the response
    :raises PDServerError: the status is 5xx
    :raises PDHTTPError: the status is any other that is no success
    :raises PDClientError: there is no status
    """
    status = getattr(r, "status_code", None)
    is_stand_in = not isinstance(r, Response) and hasattr(r, "ok")
    if is_stand_in and not isinstance(status, int):
        # A stand-in of a test, which says no more than that.
        if r.ok:
            return r
        raise PDHTTPError(http_error_message(r, context), r)
    if not status:
        place = f" in {context}" if context else ""
        raise PDClientError(f"The answer has no HTTP status{place}.", r)
    if status // 100 == 2:
        return r
    raise _status_error(r, context)


def _headline(response: Any, context: "Optional[str]") -> str:
    """What was asked for, and with which status it was answered."""
    request = getattr(response, "request", None)
    method = getattr(request, "method", "request")
    path = urlsplit(str(getattr(request, "url", ""))).path
    status = _status_of(response)
    reason = getattr(response, "reason", None) or ""
    place = f" in {context}" if context else ""
    return f"{method} {path}: {status} {reason}".rstrip() + place


def try_decoding(r: Any) -> Any:
    """Decode the body of a response.

    :returns: what the JSON stands for; None for an empty body
    :raises PDServerError: the body is neither JSON nor empty
    """
    try:
        return r.json()
    except (ValueError, RecursionError):
        pass  # This error quotes the whole document, which may name keys.
    except RequestException as error:
        request = getattr(r, "request", None)
        progress = getattr(request, "_pdpyras_progress", None)
        deadline = progress and progress.deadline
        if deadline and deadline.left() <= 0:
            raise PDDeadlineError(
                f"{_request_line(r)}: the deadline of {deadline.seconds:g} s "
                "has passed while the answer was read.",
                r,
            ) from error
        raise PDServerError(
            f"{_request_line(r)}: the API's answer (status {_status_of(r)}) "
            f"broke off while it was read.",
            r,
        ) from error
    if not _text(r).strip():
        return None
    raise PDServerError(
        f"{_request_line(r)}: the API's answer (status {_status_of(r)}) "
        f"is not JSON: {_quoted(_text(r), r)}",
        r,
    )


def _schema_error(response: Any, expected: str, got: str) -> PDServerError:
    """The error for an answer that breaks the API's own schema."""
    return PDServerError(
        f"{_request_line(response)}: expected {expected} in the API's answer "
        f"(status {_status_of(response)}), got {got}.",
        response,
    )


def _status_error(r: Any, context: "Optional[str]" = None) -> PDHTTPError:
    """The error about a response whose status is no success."""
    kind = PDServerError if r.status_code // 100 == 5 else PDHTTPError
    error = kind(http_error_message(r, context), r)
    error._headline = _presentable(_headline(r, context), r)
    return error


def _path_behind_base(request: Any) -> str:
    """The path of a request, as the tables have it.

    The base URL may have a path itself, as that of a gateway.
    """
    path = urlsplit(str(request.url)).path.rstrip("/")
    progress = getattr(request, "_pdpyras_progress", None)
    base = urlsplit(getattr(progress, "base_url", "")).path.rstrip("/")
    return path[len(base) :] if path.startswith(f"{base}/") else path


def _endpoint_hint(error: PDHTTPError) -> str:
    """What the endpoint table knows that may explain a refusal."""
    response = error.response
    request = getattr(response, "request", None)
    if not isinstance(request, requests.PreparedRequest):
        return ""
    if response.status_code not in (400, 401, 403, 404):
        return ""
    nodes = _path_behind_base(request).split("/")[1:]
    operation = _operation_of_table(f"{request.method} {_find_path(nodes)}")
    if operation is None:
        return ""
    headers = request.headers
    if operation.host and urlsplit(str(request.url)).hostname in _REST_HOSTS:
        return (
            f"This endpoint is served by https://{operation.host}: make a "
            f"session with url='https://{operation.host}'."
        )
    if operation.early_access and "X-EARLY-ACCESS" not in headers:
        return (
            f"This endpoint is in early access. If the account takes part, "
            f"set session.early_access = {{{operation.early_access!r}}}."
        )
    is_incomplete = operation.from_required and response.status_code == 400
    if is_incomplete and "From" not in headers:
        reasons = " ".join(error.errors)
        if re.search(r"\b(from|requester)\b", reasons, re.IGNORECASE):
            return (
                "This endpoint wants the header From: set default_from to "
                "the e-mail address of a user of the account."
            )
    return ""


def _unknown_path_hint(error: PDHTTPError) -> str:
    """The nearest known path, if it is the path that was not found."""
    request = getattr(error.response, "request", None)
    if error.status_code != 404 or request is None:
        return ""
    path = _path_behind_base(request)
    if _find_path(path.split("/")[1:]) is not None:
        return ""
    return _did_you_mean(path)


_MAY_BE_DONE = "The API may or may not have carried the request out."


def _ambiguity_hint(error: PDHTTPError) -> str:
    """What a gateway's answer to a write leaves open."""
    response = error.response
    method = getattr(getattr(response, "request", None), "method", None)
    if error.status_code not in (502, 504) or method not in _AMBIGUOUS:
        return ""
    return _MAY_BE_DONE


def _proxy_hint(error: PDHTTPError) -> str:
    """Whose answer a 407 is: never the API's."""
    if error.status_code != 407:
        return ""
    request = getattr(error.response, "request", None)
    progress = getattr(request, "_pdpyras_progress", None)
    proxy = getattr(progress, "proxy", "")  # Not of a pickled error.
    return f"The proxy{proxy and ' '}{proxy} wants credentials."


_HINTS += [_endpoint_hint, _unknown_path_hint, _ambiguity_hint, _proxy_hint]


def _close(response: Any) -> None:
    """Give its connection back, which the next attempt may need."""
    close = getattr(response, "close", None)
    if close is not None:  # It may be a stand-in.
        close()


# ---------------------------------------------------------------------------
# Decorators
# ---------------------------------------------------------------------------

# They decorate methods that take a URL and keyword arguments, and return a
# response. Of the object they need nothing but its ``url``. The HTTP method
# is the name of the decorated function without its first letter.
if TYPE_CHECKING:
    _Session = TypeVar("_Session", bound="PDSession")
    _Method = TypeVar("_Method", bound=Callable[..., Any])
else:
    _Session, _Method = "PDSession", Callable

_NO_URL = object()  # None is one that somebody gave.


def deprecated_kwarg(name: str, details: "Optional[str]" = None) -> None:
    """Warn that a keyword argument is deprecated.

    :param name: name of the argument
    :param details: what to use instead
    """
    message = f"The keyword argument {name!r} is deprecated."
    if details:
        message += f" {details}"
    warnings.warn(message, DeprecationWarning, stacklevel=_callers_level(3))


def _url_by_old_name(method: str, kwargs: "Dict[str, Any]") -> Any:
    """Take out the URL that was given under its name of 5.x or 4.x.

    :raises TypeError: none was
    """
    if "resource" in kwargs:
        deprecated_kwarg("resource", "Call it `url`.")
        return kwargs.pop("resource")
    if "path" in kwargs:
        deprecated_kwarg("path", "Call it `url`.")
        return kwargs.pop("path")
    raise TypeError(f"{method}() needs a URL, which is its first argument.")


def resource_url(method: _Method) -> _Method:
    """Let a method take a resource, a dict with ``self``, as its URL.

    :raises URLError: the dict has no usable ``self``, or is no dict or str
    """

    @wraps(method)
    def call(self: Any, url: Any = _NO_URL, **kwargs: Any) -> Any:
        if not _CONFIDENTIAL.isdisjoint(kwargs):
            kwargs = _masked_options(kwargs, _CONFIDENTIAL)
        if not isinstance(url, str):
            if url is _NO_URL:
                url = _url_by_old_name(method.__name__, kwargs)
            url = _url_of(url)
        return method(self, url, **kwargs)

    return cast(_Method, call)


def requires_success(method: _Method) -> _Method:
    """Make a method raise on an error status.

    :raises PDHTTPError: the status is no success
    """

    @wraps(method)
    def call(self: Any, url: str, **kwargs: Any) -> Any:
        return successful_response(method(self, url, **kwargs))

    return cast(_Method, call)


def auto_json(method: _Method) -> _Method:
    """Make a method return the decoded body, or raise on an error status.

    :raises PDHTTPError: the status is no success
    """

    @wraps(method)
    def call(self: Any, url: str, **kwargs: Any) -> Any:
        kwargs = _str_as_it_stands(kwargs)
        return try_decoding(successful_response(method(self, url, **kwargs)))

    return cast(_Method, call)


def wrapped_entities(method: _Method) -> _Method:
    """Make a method take and return entities without their wrappers.

    :raises PDHTTPError: the status is no success
    :raises PDServerError: the answer lacks the wrapper
    :raises URLError: the URL is outside the API
    """
    http_method = method.__name__[1:].upper()

    @wraps(method)
    def call(self: Any, url: str, **kwargs: Any) -> Any:
        located, kwargs, unwrapping = _wrapped_request(
            self, http_method, url, kwargs
        )
        response = method(self, located, **kwargs)
        return unwrapping(successful_response(response))

    return cast(_Method, call)


def _signature(function: Any) -> Any:
    import inspect  # It takes longer than all the rest of this module.

    return inspect.signature(function)


def _explains_unknown_arguments(method: _Method) -> _Method:
    """Make a method say more of a keyword argument that it does not know.

    :raises TypeError: there is one
    """
    code = method.__code__
    names = code.co_varnames[1 : code.co_argcount]

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not set(names).issuperset(kwargs):
            has_url = len(args) > 1 or names[0] in kwargs
            if not has_url and names[0] == "url":
                kwargs["url"] = _url_by_old_name(method.__name__, kwargs)
            if not set(names).issuperset(kwargs):
                raise _unknown_argument(f"{method.__name__}()", kwargs, names)
        return method(*args, **kwargs)

    return cast(_Method, call)


def _unknown_argument(
    called: str, given: "Iterable[str]", known: "Sequence[str]"
) -> TypeError:
    """What to raise for a keyword argument that is not known."""
    import difflib  # Rarely needed.

    name = next(name for name in given if name not in known)
    text = f"{called} got an unexpected keyword argument {name!r}"
    similar = difflib.get_close_matches(name.lower(), known, 1, cutoff=0.7)
    if similar:
        return TypeError(f"{text}: did you mean `{similar[0]}`?")
    if "params" not in known:
        return TypeError(f"{text}. It takes {', '.join(known)}.")
    body = "; a body goes into `json`" if "json" in known else ""
    return TypeError(
        f"{text}. Query parameters go into `params`: "
        f"params={{{name!r}: ...}}{body}."
    )


def _wrapped_request(
    session: Any, http_method: str, url: Any, kwargs: Any
) -> "Tuple[_LocatedURL, Dict[str, Any], Callable[[Any], Any]]":
    """Wrap the body of a request, if the endpoint wants that.

    :returns: the URL; the keyword arguments with the wrapped body; and what
        unwraps the response
    """
    kwargs = _str_as_it_stands(kwargs)
    located = _locate(session.url, url)
    if located.path is None:
        _note(
            getattr(session, "log", _log),
            "%s %s is not in the tables; its wrapping is guessed.",
            http_method,
            _plain_path(session.url, located.full_url),
        )
        return located, kwargs, _unwrap_by_content
    is_optional = _is_optional(http_method, located.path)
    wrappers = entity_wrappers(http_method, located.path)
    if kwargs.get("json") is not None:
        wrapped = _wrap(kwargs["json"], wrappers[0])
        kwargs = dict(kwargs, json=wrapped)
    unwrapping = _unwrap_if_wrapped if is_optional else unwrap
    return located, kwargs, partial(unwrapping, wrapper=wrappers[1])


def _str_as_it_stands(kwargs: "Dict[str, Any]") -> "Dict[str, Any]":
    """Send a body that is already JSON text as that text."""
    if isinstance(kwargs.get("json"), str):
        kwargs = dict(kwargs)
        try:
            kwargs["data"] = kwargs.pop("json").encode("utf-8")
        except UnicodeEncodeError as error:
            raise PDClientError(
                f"The body cannot be sent as UTF-8: {error.reason}."
            ) from None
    return kwargs


def _deprecated(
    since: str, details: str, hides: bool = False
) -> "Callable[[_Method], _Method]":
    """Mark a function or method as deprecated, with what to use instead.

    :param hides: its arguments are secrets
    """

    def decorate(method: _Method) -> _Method:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if hides:
                args = tuple(map(_masked, args))
                kwargs = {name: _masked(kwargs[name]) for name in kwargs}
            # What the decorator of the library does; but it is imported only
            # by those who need it, for that takes as long as this module.
            import deprecation

            warning = deprecation.DeprecatedWarning(
                method.__name__, since, None, details
            )
            warnings.warn(
                warning, DeprecationWarning, stacklevel=_callers_level(2)
            )
            return method(*args, **kwargs)

        call.__doc__ = f"{method.__doc__}\n\n.. deprecated:: {since} {details}"
        return cast(_Method, call)

    return decorate


# ---------------------------------------------------------------------------
# Deadlines
# ---------------------------------------------------------------------------
#
# When a call ends, and how each operation of a socket is kept within that. It
# is put on the sockets in Connections, by _Answer and _PlainConnection.


class _Deadline:
    """The moment at which a call ends, whatever happens.

    :param seconds: from now on
    :param longest_pause: between attempts, in seconds
    """

    def __init__(
        self, seconds: float, longest_pause: float = sys.float_info.max
    ) -> None:
        self.seconds = seconds
        self.longest_pause = longest_pause
        self._end = _clock.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left; negative once it has passed."""
        return self._end - _clock.monotonic()

    def charge(self, seconds: float) -> None:
        """Count time that did not pass: of a pause that a test skips."""
        self._end -= max(seconds, 0)


def _new_deadline(seconds: Any) -> _Deadline:
    if isinstance(seconds, _Deadline):
        return seconds  # Of a call that this one is a part of.
    is_number = isinstance(seconds, (int, float)) and seconds is not True
    if not is_number or not 0 < seconds <= sys.float_info.max:
        raise ValueError(
            f"deadline must be a positive number of seconds, or None, not "
            f"{seconds!r}."
        )
    return _Deadline(seconds)


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket, for no longer than to a deadline.

    However few bytes come at a time: each wait is for what is left.
    """

    def __init__(self, raw: Any, sock: Any, deadline: _Deadline) -> None:
        super().__init__()
        self._raw, self._sock, self._deadline = raw, sock, deadline
        self._timeout = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        _limit_socket(self._sock, self._timeout, self._deadline)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(OSError):  # It may be closed already.
                self._sock.settimeout(self._timeout)  # For the next request.
            self._raw.close()
        super().close()


def _limit_socket(sock: Any, timeout: Any, deadline: _Deadline) -> None:
    """Let the next operation of a socket end before a deadline.

    :raises socket.timeout: it has passed
    """
    left = deadline.left()
    if left <= 0:
        raise socket.timeout("the deadline has passed")
    sock.settimeout(left if timeout is None else min(timeout, left))


def _parts_of_timeout(timeout: Any) -> "Tuple[Any, Any, Optional[float]]":
    """Seconds for connecting, for waiting, and for both together, or None.

    :param timeout: a pair, or urllib3's Timeout
    :raises ValueError: it is not a pair, but a longer or shorter one
    """
    if isinstance(timeout, tuple):
        if len(timeout) != 2:
            raise ValueError(
                "timeout must be a number of seconds, a pair (connect, read),"
                f" or None, not {timeout!r}."
            )
        return (*timeout, None)
    timeout = timeout.clone()
    timeout.start_connect()  # Only then can both be asked for.
    default = socket.getdefaulttimeout()  # An object stands for it.
    connect, read = (
        part if part is None or isinstance(part, (int, float)) else default
        for part in (timeout.connect_timeout, timeout.read_timeout)
    )
    return connect, read, timeout.total


def _addresses(host: str, port: Any) -> "List[str]":
    """The addresses of a host, or itself where they are not to be had."""
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, 0, socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        return [host]  # So that urllib3 says what is wrong.
    return list(dict.fromkeys(str(entry[4][0]) for entry in found)) or [host]


# ---------------------------------------------------------------------------
# Incident keys
# ---------------------------------------------------------------------------
#
# The API refuses a second open incident with the same key on a service. With
# a key that nobody else knows, a request to create one can be repeated.

_CREATION = ("POST", "/incidents")


def _keyed_incident(body: Any) -> "Tuple[Any, Optional[str]]":
    """The body that creates an incident, with a key if it has none.

    :returns: the body, and the key that was made
    """
    incident = body.get("incident") if isinstance(body, dict) else None
    if not isinstance(incident, dict) or incident.get("incident_key"):
        return body, None
    key = os.urandom(16).hex()
    return dict(body, incident=dict(incident, incident_key=key)), key


# Options of the POST that also apply to the GETs that look the incident up.
_LOOKUP_OPTIONS = ("timeout", "auth", "cookies", "proxies", "verify", "cert")


def _answer_or_incident(
    session: Any,
    response: Any,
    key: str,
    deadline: "Optional[_Deadline]",
    creation: "Dict[str, Any]",
) -> Response:
    """The last answer; or the incident that exists, if it is why that refuses.

    It was created by an earlier attempt of these.

    :param creation: keyword arguments of the request that creates it
    :raises PDClientError: whether it exists, or what it is, cannot be read
    """
    if _status_of(response) != 400:
        return cast(Response, response)
    options = {n: creation[n] for n in _LOOKUP_OPTIONS if n in creation}
    options["headers"] = _headers_to_look(creation["headers"])
    if deadline is not None:
        options["deadline"] = deadline
    query = {"incident_key": key, "date_range": "all"}
    known = f"It may have been created, with the incident_key {key}."
    try:
        found = session.get("/incidents", params=query, **options)
        for incident in unwrap(successful_response(found), "incidents"):
            if incident.get("incident_key") == key:
                known = f"The incident was created: it is {incident['id']}."
                place = f"/incidents/{incident['id']}"
                found = session.get(place, **options)
                return cast(Response, successful_response(found))
    except PDClientError as error:
        if error._is_of_hook:
            raise
        failure = error
        if isinstance(error, PDHTTPError) and error.status_code != 200:
            # The caller has asked for the creation, and not for this.
            failure = _status_error(response)
        failure._add(known)
        raise failure from error.__cause__
    return cast(Response, response)


def _headers_to_look(headers: Any) -> "Dict[str, Any]":
    """Headers of a POST that hold for a GET, too."""
    needless = {"content-type", "content-length"}
    if headers.has_own_token:
        needless.add("authorization")  # The session has a current one.
    return {k: v for k, v in headers.items() if k.lower() not in needless}


# ---------------------------------------------------------------------------
# Bodies
# ---------------------------------------------------------------------------
#
# What is announced of the body of a request, how it is read, and whether it
# can be read once more. A body of JSON is bytes, and needs nothing of this.


def _is_one_shot(body: Any) -> bool:
    """Is it an iterator, or a file, which is at its end after one reading?"""
    return hasattr(body, "__next__") or hasattr(body, "read")


_TEXT_FILES = (
    *(io.TextIOBase, codecs.StreamReader, codecs.StreamReaderWriter),
)


def _as_bytes(body: Any, endpoint: str) -> Any:
    """A body as bytes, if it is all there; others as they are.

    Of those, ``len()`` would be announced, which may count characters, parts
    or numbers.

    :param endpoint: for messages
    :raises PDClientError: a part of it is no bytes
    """
    if isinstance(body, (bytes, list, tuple, abc.Mapping)):
        return body  # Of all but bytes, requests makes a form.
    if isinstance(getattr(body, "file", body), _TEXT_FILES):
        body = body.read()  # Those of tempfile have it in a wrapper.
    if _is_one_shot(body):
        return body
    try:
        return _piece(body)
    except TypeError:
        if not isinstance(body, abc.Collection):
            return body
    try:
        return b"".join(map(_piece, body))
    except (TypeError, UnicodeError) as error:
        raise _unsendable(endpoint, error) from error


def _piece(part: Any) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, str):
        return part.encode("utf-8")
    return memoryview(part).tobytes()  # Its len() may count numbers.


def _unsendable(endpoint: str, error: Exception) -> PDClientError:
    endpoint = endpoint.partition("?")[0]
    return PDClientError(
        f"{endpoint}: the body cannot be sent; it must be str, bytes, an open "
        f"file, or an iterable of bytes. {type(error).__name__}: {error}"
    )


def _set_length_headers(request: requests.PreparedRequest) -> None:
    """Announce of a body what is true, whatever was announced by hand.

    With two announcements that differ, a part of it could count as the whole,
    and the rest as the next request (RFC 9112, 6.1).
    """
    body, headers = request.body, request.headers
    if body is None:
        _frame_nothing(request)
        return
    if not isinstance(body, str) or len(body) != len(body.encode("utf-8")):
        endpoint = f"{request.method} {request.url}"
        body = request.body = _as_bytes(body, endpoint)
    length = _length(body, headers)
    headers.pop("Transfer-Encoding", None)
    if length is None:
        headers.pop("Content-Length", None)
        headers["Transfer-Encoding"] = "chunked"
    else:
        headers["Content-Length"] = str(length)


def _frame_nothing(request: requests.PreparedRequest) -> None:
    headers = request.headers
    headers.pop("Transfer-Encoding", None)
    if request.method in ("GET", "HEAD"):
        headers.pop("Content-Length", None)
    elif _as_str(headers.get("Content-Length", "")).strip("0"):
        headers["Content-Length"] = "0"


def _length(body: Any, headers: "Mapping[str, Any]") -> Any:
    """The bytes of a body; None: as many as come."""
    if isinstance(body, (str, bytes)):
        return len(body)
    if not hasattr(body, "read"):
        return None
    announced = headers.get("Content-Length")
    if announced is not None and "Transfer-Encoding" in headers:
        # One is of requests, which has found the length, or has not.
        return requests.utils.super_len(body) or None  # type: ignore
    return announced


_NOT_SENT_AGAIN = (
    "body was an iterator, which cannot be sent again; pass bytes or an open "
    "file instead."
)


class _Pieces:
    """A body in pieces of bytes, together as many as were announced.

    So every urllib3 reads each body in the same way, and sends neither more
    than the server takes for this request, nor less.

    :param endpoint: for messages
    :param headers: of the request
    :param progress: of the attempt, or None
    """

    def __init__(
        self, body: Any, endpoint: str, headers: Any, progress: Any
    ) -> None:
        # Of a form, which is a str, each character would be sent by itself.
        self._body = [body] if isinstance(body, str) else body
        self._endpoint = endpoint.partition("?")[0]
        self._progress = progress
        self._announced: Optional[int] = None
        for name, value in headers.items():
            if _as_str(name).lower() == "content-length":
                number = _as_str(value).strip()
                self._announced = int(number) if number.isdigit() else None

    def __iter__(self) -> "Iterator[bytes]":
        sent, announced = 0, self._announced
        for part in self._parts():
            try:
                piece = _piece(part)
            except (TypeError, UnicodeError) as error:
                raise _unsendable(self._endpoint, error) from error
            sent += len(piece)
            if announced is not None and sent > announced:
                raise self._broken_off("is longer than")
            if piece:  # One without bytes would end a chunked body.
                yield piece
        if announced is not None and sent < announced:
            raise self._broken_off(f"ended after {sent} of")

    def _parts(self) -> "Iterator[Any]":
        """Read the body, however that is done.

        :raises PDClientError: it cannot be read, or not once more
        """
        try:
            if hasattr(self._body, "read"):
                block = self._body.read(_READ_SIZE)
                while block:
                    yield block
                    block = self._body.read(_READ_SIZE)
            else:
                yield from self._iterator()
        except ConnectionError as error:
            # urllib3 would take it for one of its own, and pass over it.
            raise PDClientError(
                f"{self._endpoint}: the body cannot be read. "
                f"{type(error).__name__}: {error}"
            ) from error

    def _iterator(self) -> "Iterator[Any]":
        progress = self._progress
        try:
            iterator: Iterator[Any] = iter(self._body)
        except TypeError as error:
            raise _unsendable(self._endpoint, error) from error
        if progress is not None:
            count = _count(iterator)
            if progress.has_read and (
                count is None or count != progress.parts
            ):
                raise PDClientError(f"{self._endpoint}: the {_NOT_SENT_AGAIN}")
            progress.has_read, progress.parts = True, count
        return iterator

    def _broken_off(self, problem: str) -> PDClientError:
        return PDClientError(
            f"{self._endpoint}: the body {problem} the {self._announced} bytes"
            " that were announced for it, as that of a file that changes "
            "while it is sent. The request was broken off, so that no part of "
            "the body counts as the whole."
        )


def _count(iterator: Any) -> Any:
    """The parts that an iterator will give; None: it does not know.

    One of a list or of another container knows; a generator does not.
    """
    hint = getattr(iterator, "__length_hint__", None)
    return None if hint is None else hint()


def _begins_anew(body: Any, progress: "_Progress") -> bool:
    """Will iterating over it give all the parts that it gave before?"""
    parts = progress.parts
    return parts is not None and _count(iter(body)) == parts


def _is_stream(body: Any) -> bool:
    """Can it be read only once, as far as its type tells?

    What merely can be iterated over may have a generator that it passes on.
    """
    if _is_one_shot(body):
        return True
    return hasattr(body, "__iter__") and not isinstance(body, abc.Collection)


def _is_buffer(body: Any) -> bool:
    try:
        memoryview(body)
    except TypeError:
        return False
    return True


def _is_used_up(request: Any, body: Any) -> bool:
    """Is nothing left of a body that was sent once?

    Not if requests has noted where it began, and so will go back there.
    """
    if not _is_stream(body):
        return False
    if _is_one_shot(body):
        position = getattr(request, "_body_position", None)
        return not isinstance(position, int)
    progress = getattr(request, "_pdpyras_progress", None)
    return progress is None or not _begins_anew(body, progress)


def _with_lists(form: Any) -> Any:
    """A form whose fields can be sent again, though some were iterators."""
    fields = list(form.items()) if isinstance(form, abc.Mapping) else form
    if isinstance(fields, (list, tuple)):
        with contextlib.suppress(TypeError, ValueError):  # It is no form.
            if any(_is_iterator(value) for _, value in fields):
                return _as_lists(list(fields))
    return form


def _is_iterator(value: Any) -> bool:
    # What can be read only is a text to requests.
    return hasattr(value, "__iter__") and _is_stream(value)


class _Body:
    """The body of a request, to be sent once more from where it began.

    Open files are noted with their position; iterators cannot be replayed.
    """

    def __init__(self, options: "Dict[str, Any]") -> None:
        self._files: List[Tuple[Any, int]] = []
        self._is_stream = False
        self._iterable: Any = None
        if options.get("data") is not None:
            data = options["data"] = _with_lists(options["data"])
            self._note(data)
            if not _is_one_shot(data):
                self._iterable = data
        if options.get("files"):
            self._note_parts(options["files"])

    def _note_parts(self, parts: Any) -> None:
        """Note all files, however deep they lie in dicts and tuples."""
        if isinstance(parts, abc.Mapping):
            parts = list(parts.values())
        # A buffer may have no end of bytes, or numbers.
        is_one = isinstance(parts, str) or _is_one_shot(parts)
        is_one = is_one or _is_buffer(parts)
        if isinstance(parts, abc.Collection) and not is_one:
            for part in parts:
                self._note_parts(part)
        else:
            self._note(parts)

    def _note(self, data: Any) -> None:
        if data is None or isinstance(data, (str, bytes, dict, list, tuple)):
            return
        try:
            position = data.tell()
            data.seek(position)
            self._files.append((data, position))
        except (AttributeError, OSError, ValueError):
            self._is_stream |= _is_stream(data)

    def is_replayable(self, progress: "_Progress") -> bool:
        """Can it be sent again after this attempt?"""
        if not self._is_stream:
            return True
        if self._iterable is None:
            return False
        is_unread = progress.is_noted and not progress.has_read
        return is_unread or _begins_anew(self._iterable, progress)

    def rewind(self) -> None:
        for file, position in self._files:
            file.seek(position)


_NO_BODY = _Body({})


# ---------------------------------------------------------------------------
# Retrying
# ---------------------------------------------------------------------------
#
# What follows an attempt. How long the API asks to wait (Retry-After) is read
# in Rate limit; PDSession.request sends and sleeps; a session's _is_idempotent
# knows of writes that may be repeated.

# What parent.request may raise.
_REQUEST_ERRORS = (HTTPError, OSError)

# Of these, the errors that a retry would only meet again.
_PERMANENT_ERRORS = (
    requests.exceptions.InvalidHeader,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.RetryError,
    requests.exceptions.TooManyRedirects,
    requests.exceptions.UnrewindableBodyError,
    requests.exceptions.URLRequired,
    requests.exceptions.InvalidJSONError,
    LocationValueError,
    UnrewindableBodyError,
)


# Permanent errors that only their text tells: a certificate that does not
# verify, or is missing, a file that holds none, an old version of TLS, TLS
# spoken to a plain port, a proxy that refuses.
_PERMANENT_CAUSES = (
    r"CERTIFICATE_VERIFY_FAILED|CertificateError"
    r"|\[X509|\[PEM|\[ASN1|PEM lib"
    r"|ALERT_((BAD_|UNSUPPORTED_)?CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)"
    r"|ALERT_PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL"
    r"|WRONG_VERSION_NUMBER|UNKNOWN_PROTOCOL|HTTP_REQUEST"
    r"|Tunnel connection failed: (403|407)\b"
)


def _root_cause(error: BaseException) -> str:
    """What lies at the bottom of a chain of wrapped errors, in words."""
    seen = []
    found: Optional[BaseException] = error
    while found is not None and found not in seen:
        seen.append(found)
        inner = [
            part
            for part in (getattr(found, "reason", None),) + found.args[::-1]
            if isinstance(part, BaseException)
        ]
        found = inner[0] if inner else None
    root = seen[-1]
    return f"{type(root).__name__}: {root}"


def _is_transient(error: BaseException) -> bool:
    """May the same request succeed when it is simply sent again?"""
    if isinstance(error, _PERMANENT_ERRORS):
        return False
    if not isinstance(error, (RequestException, HTTPError)):
        # From the operating system: about the connection, or about a file.
        return isinstance(error, (ConnectionError, socket.timeout))
    return not re.search(_PERMANENT_CAUSES, _root_cause(error))


# A connection that was never made: nothing of the request can have arrived.
_NOT_CONNECTED = (NewConnectionError, ConnectTimeoutError, EmptyPoolError)


class _SessionDeadline:
    """Stands for a ``deadline`` that was not given: the session's counts."""

    def __repr__(self) -> str:
        return "session.deadline"


_SESSION_DEADLINE: Any = _SessionDeadline()


def _passed_on(deadline: Any) -> "Dict[str, Any]":
    """The keyword argument for the next method, if it was given."""
    is_given = deadline is not _SESSION_DEADLINE
    return {"deadline": deadline} if is_given else {}


class _Progress:
    """How far an attempt has come. The transport notes it.

    :ivar deadline: of the call, or None
    :ivar max_size: bytes that the answer may have, or None
    :ivar needs_new_connection: the last one was found dead
    :ivar met_stale_connection: one of this call had ended before it was used
    :ivar is_reused: the connection had served another request
    :ivar is_noted: a connection of ours was used, so that `is_sent` is true
        to the facts
    :ivar is_sent: something of the request may have left
    :ivar has_read: a body was begun that can be iterated over
    :ivar parts: that it had, if its iterator knew
    :ivar is_answered: something of an answer has come
    :ivar has_chunk: a part of a chunked body has come
    :ivar route: the URL and the proxies with which it was last sent
    :ivar proxy_secrets: passwords of proxies, which a proxy's answer may quote
    :ivar is_in_hook: a hook is called, which may send a request itself
    :ivar hook_error: what a hook of the caller has raised
    :ivar signal_error: what a signal handler has raised
    :ivar key: of the session, which may be anywhere in the request
    :ivar base_url: of the session
    :ivar leave: to be called with the answer, before hooks see it
    """

    deadline: "Optional[_Deadline]" = None
    max_size: "Optional[int]" = None
    needs_new_connection = met_stale_connection = False
    is_reused = False
    is_noted = False
    is_sent = False
    has_read = False
    parts: Any = None
    is_answered = False
    has_chunk = False
    route: "Tuple[Any, Any]" = ("", None)
    proxy_secrets: "Collection[str]" = ()
    key = base_url = ""
    is_in_hook = False
    hook_error: "Optional[BaseException]" = None
    signal_error: "Optional[BaseException]" = None
    leave: "Optional[Callable[[Any], None]]" = None

    def begin(self) -> None:
        """Forget the attempt before."""
        self.begin_exchange()
        self.is_noted = False
        self.has_read, self.parts = False, None
        self.hook_error = self.signal_error = None

    def begin_exchange(self) -> None:
        """Forget the request before, which was answered by a redirect."""
        self.is_reused = False
        self.is_sent = self.is_answered = self.has_chunk = False

    @property
    def proxy(self) -> str:
        """By which it goes and where that is set, in words; "": by none."""
        return _proxy_in_words(*self.route)

    def __reduce__(self) -> "Tuple[Any, ...]":
        return _Progress, ()  # A pickled answer needs nothing of it.


def _chain(
    error: BaseException, end: "Optional[BaseException]" = None
) -> "Iterator[BaseException]":
    """An error, and those in whose handling it was raised, up to an end."""
    seen: List[Optional[BaseException]] = [end]
    link: Optional[BaseException] = error
    while link is not None and link not in seen:
        seen.append(link)
        yield link
        link = link.__cause__ or link.__context__


def _of_signal_handler(
    error: BaseException, end: "Optional[BaseException]"
) -> "Optional[BaseException]":
    """The exception of a signal handler that is behind an error, if one is.

    Many a script has an alarm whose handler raises TimeoutError, which is
    what a socket raises, too. It loses its traceback, whose frames lead to
    those of other libraries.
    """
    signal = sys.modules.get("signal")
    if signal is None:  # Then nobody has set a handler.
        return None
    numbers = range(1, signal.NSIG)
    handlers = set(map(_code_of, map(signal.getsignal, numbers)))
    found = None
    for link in _chain(error, end):
        trace, interrupted = link.__traceback__, None
        while trace is not None:
            frame = trace.tb_frame
            if interrupted is not None and (
                frame.f_code in handlers or _receives_frame(interrupted, frame)
            ):
                found = link  # Of several, the first one raised.
                break
            trace, interrupted = trace.tb_next, frame
    if found is not None:
        found.__traceback__ = None
    return found


def _code_of(handler: Any) -> Any:
    """The code of a signal handler; None: it is not of Python."""
    function = getattr(handler, "func", handler)  # Of a partial.
    function = getattr(function, "__func__", function)
    if not hasattr(function, "__code__"):
        function = vars(type(function)).get("__call__")
    return getattr(function, "__code__", None)


def _receives_frame(interrupted: Any, frame: Any) -> bool:
    """Is a frame an argument of this one, as only signal handlers get it?"""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    has_rest = bool(code.co_flags & 0x04)  # *args: inspect.CO_VARARGS
    names = code.co_varnames[: count + has_rest]
    values = [frame.f_locals.get(name) for name in names]
    if has_rest and type(values[-1]) is tuple:
        values += values.pop()
    return any(value is interrupted for value in values)


def _strip_error(
    error: BaseException,
    end: "Optional[BaseException]",
    secrets: "Collection[str]",
    callers: "Optional[BaseException]" = None,
) -> None:
    """Take the credentials off an error of other libraries.

    Their frames go, because crash reporters send the local variables of
    these. What they quote of an answer, or of a proxy's URL, is made
    presentable.

    :param end: an exception that was being handled already when the call
        began; it and what led to it are the caller's
    :param callers: another one that is the caller's
    """
    pending = [error]
    seen: List[Optional[BaseException]] = [None, end, callers]
    while pending:
        link = pending.pop()
        if link not in seen:
            seen.append(link)
            link.__traceback__ = None
            is_callers = not isinstance(link, _LIBRARY_ERRORS)
            strip = partial(_stripped, is_callers, secrets)
            link.args = tuple(map(strip, link.args))
            vars(link).update({k: strip(v) for k, v in vars(link).items()})
            others = (link.__cause__, link.__context__, *link.args)
            others += (getattr(link, "reason", None),)
            pending += [o for o in others if isinstance(o, BaseException)]


_LIBRARY_ERRORS = (HTTPError, OSError, http.client.HTTPException)


def _stripped(is_callers: bool, secrets: "Collection[str]", value: Any) -> Any:
    if isinstance(value, str):
        text = _hide(value, secrets)
        return text if is_callers else _hide(_one_paragraph(text), secrets)
    if isinstance(value, requests.PreparedRequest):
        return _bare_request(value)  # Some pickle the causes of an error, too.
    return value if is_callers else _masked(value)


def _proxy_in_words(url: Any, proxies: Any) -> str:
    """The proxy for a URL without its password, and where it was set."""
    proxy = select_proxy(url, proxies) if proxies else None
    if not proxy:
        return ""
    # Whoever writes / ? or # into a password hides it from URL parsers.
    shown = re.sub(r"//.*@", "//", str(proxy))
    for name in os.environ:
        if name.lower().endswith("_proxy") and os.environ[name] == proxy:
            return f"{shown} (environment variable {name})"
    return shown


class _Attempts:
    """Counts the attempts of one call, and decides what follows each.

    It lives as long as the call, and neither sends nor sleeps.

    :param session: whose settings apply
    :param method: HTTP method in capitals
    :param url: for messages
    :param options: keyword arguments of the request
    :param deadline: of the call, or None
    """

    def __init__(
        self,
        session: "PDSession",
        method: str,
        url: str,
        options: "Optional[Dict[str, Any]]" = None,
        deadline: "Optional[_Deadline]" = None,
    ) -> None:
        options = options or {}
        self._session = session
        self._method, self._url = method, url
        self._options = options
        has_body = "data" in options or "files" in options
        self._body = _Body(options) if has_body else _NO_BODY
        self._handled = sys.exc_info()[1]
        self._pause = float(session.sleep_timer)
        self._network_retries = 0
        self._http_retries = 0
        self._retries_of_status: Dict[int, int] = {}
        # Sending it twice is the same as sending it once.
        self._is_idempotent = (
            method in _IDEMPOTENT_METHODS or session._is_idempotent(options)
        )
        self._may_be_done = False  # An attempt may have been carried out.
        self._last_response: Any = None
        self._has_renewed = False
        self._headers = options.get("headers") or {}
        # With it, the API refuses to do what is done already.
        self.incident_key = getattr(self._headers, "incident_key", None)
        self._repeats_writes = (
            session.retry_ambiguous_writes or self.incident_key is not None
        )
        self.is_immediate = False  # No pause before the next attempt.
        self.is_repeated = False  # This is not the first one.
        self._deadline = deadline
        self.progress = _Progress()
        self.progress.key = session._api_key
        self.progress.base_url = session.url
        self.progress.deadline = deadline
        self.progress.max_size = session.max_response_size

    def begin_again(self) -> None:
        """Prepare for the next attempt: the body is sent once more."""
        self.is_immediate = False
        self.is_repeated = True
        self.progress.begin()
        self._body.rewind()

    def raise_callers(self, error: BaseException) -> None:
        """Raise what a hook or a signal handler raised, if it is behind this.

        :raises BaseException: whatever that was
        """
        progress = self.progress
        own = progress.signal_error
        if error is progress.hook_error:
            own = error
        progress.hook_error = progress.signal_error = None  # Let go of them.
        own = own or _of_signal_handler(error, self._handled)
        if own is None:
            return
        context, is_suppressed = own.__context__, own.__suppress_context__
        try:
            raise own
        finally:
            own.__context__ = context
            own.__suppress_context__ = is_suppressed
            del own, error, context  # They would name each other.

    def after_network_error(self, error: BaseException) -> float:
        """Decide what follows an attempt that brought no answer.

        :returns: seconds to wait before the next attempt
        :raises PDClientError: if the request must not be retried
        """
        is_late = self._deadline is not None and self._deadline.left() <= 0
        is_ambiguous = self._is_sent(error) and not self._is_idempotent
        self._may_be_done |= is_ambiguous
        # Not api_key, which would ask a credential for another one.
        key = _hideable([self._session._api_key])
        _strip_error(error, self._handled, key)
        reason = self._reason(error, is_late)
        if is_late:
            text = self._past_deadline(reason)
            raise PDDeadlineError(text, self._last_response) from error
        if not _is_transient(error):
            received = getattr(error, "response", None)
            raise PDClientError(
                f"{self._endpoint}: {reason}", received
            ) from error
        if is_ambiguous and not self._repeats_writes:
            raise PDClientError(
                f"{self._endpoint}: {reason} {_MAY_BE_DONE} It is not "
                "repeated, because retry_ambiguous_writes is False."
            ) from error
        limit = self._session.max_network_attempts
        if not self._body.is_replayable(self.progress):
            raise PDClientError(
                f"{self._endpoint}: {reason} The {_NOT_SENT_AGAIN}"
            ) from error
        if self._network_retries >= limit:
            raise PDClientError(self._gave_up(reason, limit)) from error
        self._network_retries += 1
        wait = self._pause_after_network_error()
        self._check_deadline(wait, reason, error)
        self._session.log.warning(
            "%s: %s Retry %d of %s in %g s.",
            self._endpoint,
            reason,
            self._network_retries,
            limit,
            wait,
        )
        return wait

    def _pause_after_network_error(self) -> float:
        """Seconds to wait; 0 if it was only a connection that had ended.

        A server closes an idle connection without a word, so that the
        request that meets its end says nothing about the network. With a new
        connection that cannot happen again.
        """
        progress = self.progress
        is_stale = progress.is_reused and not progress.is_answered
        if is_stale and not progress.met_stale_connection:
            progress.met_stale_connection = self.is_immediate = True
            progress.needs_new_connection = True
            return 0
        return self._cooldown()

    def _gave_up(self, reason: str, limit: int) -> str:
        return (
            f"{self._endpoint}: gave up after {limit + 1} "
            f"{'attempts' if limit else 'attempt'} "
            f"(max_network_attempts={limit}). {reason}{self._doubt}"
        )

    @property
    def _doubt(self) -> str:
        """What is to be said where an attempt may have been carried out."""
        if not self._may_be_done:
            return ""
        key = self.incident_key
        return f" {_MAY_BE_DONE}" + (
            f" The incident_key is {key}." if key else ""
        )

    def after_response(self, response: Any) -> "Optional[float]":
        """Decide what follows an answer.

        :returns: seconds to wait before the next attempt, or None if the
            response is the caller's to have
        :raises PDHTTPError: the status is 401, and no entry of ``retry``
            says otherwise
        :raises PDRateLimitError: the wait is longer than ``max_rate_wait``
        :raises PDDeadlineError: the wait would end after the deadline
        """
        status = getattr(response, "status_code", None)
        if not isinstance(status, int) or status // 100 == 2:
            return None
        self._last_response = response
        self._may_be_done |= status in (502, 504) and not self._is_idempotent
        if status == 401 and self._renews_credential():
            return 0
        if status == 401 and status not in self._session.retry:
            raise PDHTTPError(self._unauthorized(response), response)
        if not self._may_retry(status):
            return None
        if not self._body.is_replayable(self.progress):
            self._session.log.error(
                "%s: status %d, but the body was an iterator, which cannot "
                "be sent again.",
                self._endpoint,
                status,
            )
            return None
        wait = self._wait_after(response)
        self._check_deadline(wait, f"Status {status}.")
        is_quiet = status == 429 and wait < _LONG_WAIT
        log = self._session.log
        (log.debug if is_quiet else log.warning)(
            "%s: status %d. Retrying in %g s.", self._endpoint, status, wait
        )
        return wait

    @property
    def _endpoint(self) -> str:
        """What is asked for, for messages; a `self` may quote the key."""
        secrets = _credentials_in(str(self._headers.get("Authorization", "")))
        secrets.append(str(self._session._api_key))
        return _shown(f"{self._method} {self._url}", _hideable(secrets))

    def outcome(self, response: Any) -> Response:
        """What the caller gets for the last answer."""
        key = self.incident_key
        if key is None or not self.is_repeated:
            return cast(Response, response)
        return _answer_or_incident(
            self._session, response, key, self._deadline, self._options
        )

    def _renews_credential(self) -> bool:
        """Let a credential renew its token, once in a call."""
        credential = self._session._credential
        is_own = getattr(self._headers, "has_own_token", False)
        if credential is None or not is_own or self._has_renewed:
            return False
        if not self._body.is_replayable(self.progress):
            return False
        self._has_renewed = self.is_immediate = True
        sent = _masked(str(self._headers.get("Authorization", "")))
        token = sent.rpartition(" ")[2].replace("token=", "", 1)
        sent, token = None, _masked(token)  # Crash reporters send locals.
        credential.renew(token)
        self._session.log.info(
            "%s: status 401. The credential is renewed; retrying at once.",
            self._endpoint,
        )
        return True

    def _may_retry(self, status: int) -> bool:
        session = self._session
        if status in session.retry:
            is_ambiguous = status in (502, 504) and not self._is_idempotent
            if is_ambiguous and not self._repeats_writes:
                return False
            return self._may_retry_status(status, session.retry[status])
        if status == 408:  # The server did not take the request.
            most = session.max_network_attempts
            setting = f"max_network_attempts={most}"
            return self._may_retry_status(status, most, setting)
        if status in _GATEWAY_STATUSES and self._method == "GET":
            return session.retry_reads and self._may_retry_status(
                status, 3, "retry_reads"
            )
        if status in (502, 504) and self.incident_key is not None:
            return self._may_retry_status(status, 3, "client_incident_keys")
        return status == 429

    def _is_sent(self, error: BaseException) -> bool:
        """May something of the request have arrived?"""
        if self.progress.is_noted:
            return self.progress.is_sent
        # Another transport than ours has sent it. Then only types can tell.
        return not any(
            isinstance(link, _NOT_CONNECTED)
            for link in _chain(error, self._handled)
        )

    def _past_deadline(self, reason: str) -> str:
        seconds = cast(_Deadline, self._deadline).seconds
        text = f"{self._endpoint}: the deadline of {seconds:g} s has passed."
        return f"{text} {reason}{self._doubt}"

    def _check_deadline(
        self,
        wait: float,
        reason: str,
        error: "Optional[BaseException]" = None,
    ) -> None:
        """Refuse to begin a pause that would end too late."""
        deadline = self._deadline
        if deadline is None:
            return
        if wait < min(deadline.left(), deadline.longest_pause):
            return
        seconds = min(deadline.seconds, deadline.longest_pause)
        raise PDDeadlineError(
            f"{self._endpoint}: {reason} The next attempt would be due in "
            f"{wait:g} s, after the deadline of {seconds:g} s.{self._doubt}",
            self._last_response,
        ) from error

    def _may_retry_status(
        self, status: int, limit: int, setting: str = ""
    ) -> bool:
        """May this status be retried once more?

        :param setting: that allows so many, for messages; by default its
            entry of `retry`
        """
        if limit == -1:
            return True
        done = self._retries_of_status.get(status, 0)
        most = self._session.max_http_attempts
        if done < limit and self._http_retries < most:
            self._retries_of_status[status] = done + 1
            self._http_retries += 1
            return True
        if limit:
            self._session.log.error(
                "%s: status %d remains after %d retries (%s, "
                "max_http_attempts=%d).",
                self._endpoint,
                status,
                self._http_retries,
                setting or f"retry[{status}]={limit}",
                most,
            )
        return False

    def _cooldown(self) -> float:
        """The next pause of the documented formula, in seconds.

        A later pause grows from this one, after it was capped.
        """
        pause = self._pause * self._session.cooldown_factor()
        self._pause = min(pause, float(self._session.sleep_timer_max))
        return self._pause

    def _wait_after(self, response: Any) -> float:
        wait = self._cooldown()
        if response.status_code not in (429, 503):
            return wait
        asked = _retry_after(response)
        longest = self._session.max_rate_wait
        if longest is not None:
            is_rate_limit = response.status_code == 429
            due = wait if asked is None and is_rate_limit else asked or 0
            if due > longest:
                raise PDRateLimitError(
                    f"{self._endpoint}: status {response.status_code}; the "
                    f"next attempt is due in {due:g} s, which is longer than "
                    f"max_rate_wait ({longest:g} s).",
                    response,
                    due,
                )
        if asked is None or asked > _MAX_RETRY_AFTER:
            return wait
        wait = asked * (1 + self._session.stagger_cooldown * random())
        if longest is not None:
            wait = min(wait, longest)
        return min(wait, _MAX_RETRY_AFTER)

    def _reason(self, error: BaseException, is_late: bool) -> str:
        """What happened, in words.

        :param is_late: it was the deadline, not the timeout, that passed
        """
        if isinstance(error, requests.exceptions.Timeout):
            timed_out = isinstance(error, requests.exceptions.ConnectTimeout)
            if timed_out or not self._is_sent(error):
                return f"No connection within {self._seconds(0, is_late)}."
            return f"No answer within {self._seconds(1, is_late)}."
        cause = _root_cause(error).rstrip(".")
        if self._is_of_proxy(error):
            return f"The proxy {self.progress.proxy} failed: {cause}."
        if "CERTIFICATE_VERIFY_FAILED" in cause:
            cause += (
                "; if the certificate is of a company's own authority, name "
                "its bundle in session.verify or REQUESTS_CA_BUNDLE"
            )
        return f"{cause}."

    def _is_of_proxy(self, error: BaseException) -> bool:
        """Was it the proxy that could not be reached, or refused?"""
        return bool(self.progress.proxy) and any(
            isinstance(link, (ProxyError, NewConnectionError))
            or "Tunnel connection" in str(link)
            for link in _chain(error, self._handled)
        )

    def _seconds(self, part: int, is_late: bool) -> str:
        """The timeout in words: of connecting (0), or of reading (1)."""
        if is_late:
            return "that time"
        timeout = self._options.get("timeout")
        if isinstance(timeout, tuple) and len(timeout) == 2:
            timeout = timeout[part]
        if isinstance(timeout, (int, float)):
            return f"{timeout:g} s"
        return f"the timeout ({timeout})"

    def _unauthorized(self, response: Any) -> str:
        return (
            f"{self._endpoint}: status 401; the API does not accept the key "
            f"{self._session.trunc_key}. Check that it is valid, and that "
            f"{self._session.url} belongs to the service region of the "
            "account: outside the US, set the attribute `url` of the session."
        )


# ---------------------------------------------------------------------------
# Rate limit
# ---------------------------------------------------------------------------
#
# What the API says of its limit, and the gate of a session's threads. How long
# a pause is, _Attempts decides.


class RateLimit(_NamedTuple):
    """The API's rate limit, as its last answer reported it."""

    __slots__ = ()
    _fields = __match_args__ = ("limit", "remaining", "reset")
    #: Requests that a window of time allows.
    limit: "Optional[int]" = _field(0)
    #: Requests that are left in the present window.
    remaining: "Optional[int]" = _field(1)
    #: Seconds to the end of the window.
    reset: "Optional[float]" = _field(2)

    def __new__(
        cls,
        limit: "Optional[int]",
        remaining: "Optional[int]",
        reset: "Optional[float]",
    ) -> "RateLimit":
        return tuple.__new__(cls, (limit, remaining, reset))


def _reported_rate(response: Any) -> "Optional[RateLimit]":
    headers = getattr(response, "headers", None)
    if not isinstance(headers, abc.Mapping):
        return None  # It is a stand-in.
    remaining = headers.get("ratelimit-remaining")
    limit = headers.get("ratelimit-limit")
    if remaining is None and limit is None:
        return None
    left, most = _number(remaining), _number(limit)
    return RateLimit(
        None if most is None else int(most),
        None if left is None else int(left),
        _number(headers.get("ratelimit-reset")),
    )


def _retry_after(response: Any) -> "Optional[float]":
    """Seconds that a response asks its client to wait; None: it does not.

    Of several usable headers the longest wait counts. ``ratelimit-reset``
    (PagerDuty, "REST API Rate Limits") is the number of seconds left; beside
    a 503 it is about the rate limit only if nothing remains of that.
    """
    values = [_header(response, "Retry-After")]
    is_used_up = _header(response, "ratelimit-remaining") == "0"
    if response.status_code == 429 or is_used_up:
        values.append(_header(response, "ratelimit-reset"))
    now = _header(response, "Date")
    waits = [_seconds_until(value, now) for value in values if value]
    waits = [wait for wait in waits if wait >= _MIN_RETRY_AFTER]
    credible = [wait for wait in waits if wait <= _MAX_RETRY_AFTER]
    return max(credible or waits, default=None)


def _seconds_until(value: str, now: "Optional[str]") -> float:
    """A delay in seconds, or an HTTP date; -1 for what is neither.

    :param now: the date of the answer itself, by the clock of the server
    """
    number = _number(value)
    if number is not None:
        return number
    moment = _moment(value)
    if moment is None:
        return -1.0
    return moment - (_moment(now) or _clock.time())


def _moment(value: "Optional[str]") -> "Optional[float]":
    """The Unix time of an HTTP date; None if it is none."""
    try:
        moment = parsedate_to_datetime(value or "")
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _number(text: "Optional[str]") -> "Optional[float]":
    try:
        number = float(text or "")
    except ValueError:
        return None
    if (text or "").isdigit():  # However many, it is a number.
        number = min(number, sys.float_info.max)
    return number if 0 <= number < float("inf") else None


class _WindowWait:
    """How long a thread waits for others, or for the next window."""

    def __init__(self, session: Any) -> None:
        self._begun = _clock.monotonic()
        self._log, self._most = session.log, session.max_rate_wait
        self._is_told = False

    def longest(self) -> float:
        """Seconds that it may wait now, if any; warns once it is long."""
        waited = _clock.monotonic() - self._begun
        if waited >= _LONG_WAIT and not self._is_told:
            self._is_told = True
            self._log.warning(
                "The rate limit is used up: a thread has waited for %.0f s "
                "for others of this session, or for the next window.",
                waited,
            )
        left = float("inf") if self._most is None else self._most - waited
        return left if self._is_told else min(left, _LONG_WAIT - waited)


class _RateGate:
    """Lets the threads of a session through to the API, or makes them wait.

    While one thread waits because the API told it to, the others wait as
    well. And when fewer requests are left in the window than are under way,
    no more are sent until an answer arrives: otherwise each thread would be
    answered 429 at the end of each window. A thread that is alone is never
    made to wait here.

    There is no lock: a signal handler or a fork could meet one that is held.
    All that is done to the dicts and the deque are single operations, which
    no other thread can divide.
    """

    def __init__(self) -> None:
        self.rate: Optional[RateLimit] = None
        self._window_ends = 0.0
        # Those under way and, behind them, those that wait, in the order in
        # which they came; of each, its thread.
        self._queue: Dict[object, int] = {}
        self._closed_until: Dict[object, float] = {}
        self._waiters: Deque[Any] = deque()

    def enter(
        self,
        ticket: object,
        deadline: "Optional[_Deadline]",
        session: Any,
    ) -> None:
        """Wait for one's turn.

        For the window it is waited no longer than the ``max_rate_wait`` of
        the session: the API may have room after all.

        :param ticket: of one attempt; :meth:`leave` is to be called with it,
            whatever happens
        :raises TimeoutError: the deadline has passed
        """
        self._queue[ticket] = threading.get_ident()
        waits: Optional[_WindowWait] = None
        while self._wait(ticket) > 0:
            # A lock of its own for each wait, made where it is used: that of
            # gevent, if it has patched threads meanwhile.
            waiter = threading.Lock()
            waiter.acquire()
            self._waiters.append(waiter)
            # Whoever left before this look did not know of the waiter.
            wait = self._wait(ticket)
            if not self._closed_until:  # Else who sleeps has said so.
                waits = waits or _WindowWait(session)
                longest = waits.longest()
                if longest <= 0:
                    return
                wait = min(wait, longest)
            if deadline is not None:
                wait = min(wait, deadline.left())
            if wait > 0:
                waiter.acquire(timeout=wait)
            elif deadline is not None and deadline.left() <= 0:
                raise TimeoutError("waiting for the rate limit")

    def _wait(self, ticket: object) -> float:
        """Seconds to wait before looking again."""
        if len(self._queue) > 1 or self._closed_until:
            return self._wait_in_company(ticket)
        return 0

    def _wait_in_company(self, ticket: object) -> float:
        now = _clock.monotonic()
        for end in list(self._closed_until.values()):
            if end > now:
                return end - now
        queue = list(self._queue.copy().items())
        ahead = queue[: queue.index((ticket, self._queue[ticket]))]
        remaining = self.rate.remaining if self.rate else None
        if not ahead or remaining is None or len(ahead) < remaining:
            return 0
        thread = threading.get_ident()
        if any(other == thread for _, other in ahead):
            # A signal handler, within a request of the same thread: that one
            # cannot go on before this one has.
            return 0
        return max(self._window_ends - now, 0)

    def leave(self, ticket: object, response: Any) -> None:
        """Take note that an attempt is over, and of its answer, if any.

        Only the first time counts for one ticket.
        """
        if self._queue.pop(ticket, None) is None:
            return
        rate = None if response is None else _reported_rate(response)
        if rate is not None:
            self._note(rate)
        self._wake_all()

    def _note(self, rate: RateLimit) -> None:
        now = _clock.monotonic()
        known = self.rate
        if (
            known is not None
            and now < self._window_ends
            and known.limit == rate.limit
            and None not in (known.remaining, rate.remaining)
            and cast(int, known.remaining) < cast(int, rate.remaining)
            and (rate.reset or 0) > 0
            and self._is_same_window(rate, now)
        ):
            # It was sent before what is known already, and came after it.
            rate = rate._replace(remaining=known.remaining)
        reset = _RATE_LIMIT_WINDOW if rate.reset is None else rate.reset
        self.rate = rate
        self._window_ends = now + min(reset, _MAX_RETRY_AFTER)

    def _is_same_window(self, rate: RateLimit, now: float) -> bool:
        """Does a window end when the known one does, by whole seconds?"""
        return now + (rate.reset or 0) < self._window_ends + 1.5

    def _wake_all(self) -> None:
        while True:
            try:
                waiter = self._waiters.popleft()
            except IndexError:
                return
            waiter.release()

    def sleep(self, seconds: float) -> None:
        """Sleep, and let no thread of this session pass meanwhile."""
        key = object()
        try:
            self._closed_until[key] = _clock.monotonic() + seconds
            time.sleep(seconds)
        finally:
            self._closed_until.pop(key, None)
            self._wake_all()


# ---------------------------------------------------------------------------
# Pagination
# ---------------------------------------------------------------------------
#
# Positions of pages, and what the next one is. The pages are asked for in
# _Collections._fetch_page, or ahead of their need, see below.

_ItemHook: "TypeAlias" = "Callable[[Any, int, Union[int, str]], Any]"


class _Page:
    """One answer, read: its records, and what steers the pagination."""

    def __init__(
        self, response: Any, records: "List[Any]", steering: "Dict[str, Any]"
    ) -> None:
        self.response = response
        self.records = records
        self.steering = steering

    @property
    def total(self) -> "Union[int, str]":
        """The total of the collection; "?" where the API does not tell."""
        total = self.steering.get("total", self.steering.get("totalResults"))
        is_number = isinstance(total, int) and not isinstance(total, bool)
        return cast(int, total) if is_number else "?"


def _is_empty_list_of_scim(body: Any) -> bool:
    """Are there none, so that they may be missing (RFC 7644, 3.4.2)?"""
    is_missing = isinstance(body, dict) and "Resources" not in body
    return is_missing and repr(body.get("totalResults")) == "0"


def _read_page(response: Any, wrapper: str) -> _Page:
    """The records of a page, and the properties that steer pagination."""
    body = try_decoding(response)
    records = body.get(wrapper) if isinstance(body, dict) else None
    if records is None and _is_empty_list_of_scim(body):
        records = []
    if not isinstance(records, list):
        body = records = None  # As in unwrap.
        got = type(unwrap(response, wrapper)).__name__
        raise _schema_error(response, f"an array at {wrapper!r}", got)
    steering = {k: body[k] for k in _PAGINATION_PROPERTIES if k in body}
    return _Page(response, records, steering)


if TYPE_CHECKING:
    _Position = TypeVar("_Position", bound="_PagePosition")


class _Shortfalls(threading.local):
    """What is missing, in words, of the lists that this thread reads.

    It is told by thread, not by iterator: a subclass may hand on what ours
    gives.
    """

    def __init__(self) -> None:
        self.readers: List[List[str]] = []

    @contextlib.contextmanager
    def noted(self) -> "Iterator[List[str]]":
        """What turns out to be missing from here on."""
        found: List[str] = []
        self.readers.append(found)
        try:
            yield found
        finally:
            # The same list, not an equal one.
            self.readers[:] = [r for r in self.readers if r is not found]

    def note(self, shortfall: str) -> None:
        for found in self.readers:
            found.append(shortfall)


_shortfalls = _Shortfalls()


class _PagePosition:
    """The place of one page in a collection. It is never changed.

    A subclass for each style of pagination; see ``_PAGE_POSITIONS``. It
    sends nothing, and logs nothing.

    :param path: canonical path of the collection, for messages
    :param params: query parameters; those that steer are taken out of them
    :param limit: records to ask for with each page
    :param total: whether to ask the API for the total
    :param json: body of the requests, where they are POSTs
    """

    def __init__(
        self,
        path: str,
        params: "List[Tuple[str, Any]]",
        limit: int,
        total: bool = False,
        json: Any = None,
    ) -> None:
        self.path = path
        self.params = params
        self.limit = limit
        self.json = json
        self._take_steering(total)

    def _take_steering(self, total: bool) -> None:
        """Take what steers the pagination out of the parameters."""

    @property
    def key(self) -> Any:
        """What tells this page from the others of its collection."""
        raise NotImplementedError

    @property
    def query(self) -> "List[Tuple[str, Any]]":
        """Query parameters of the request, in their order."""
        return self.params + [("limit", self.limit)]

    @property
    def body(self) -> Any:
        """JSON body of the request; None for a GET."""
        return None

    #: Name of the query parameter for the size of a page.
    limit_name = "limit"

    @property
    def refusal(self) -> str:
        """Why this page cannot be asked for; "" if it can."""
        return ""

    def next_page(self, page: _Page) -> "Optional[_PagePosition]":
        """The position of the page after this one; None if there is none.

        :param page: the API's answer for this position
        :raises PDServerError: what the answer says cannot be followed
        """
        raise NotImplementedError

    def shortfall(self, page: _Page) -> str:
        """Why records may be missing behind a last page; "" if none are."""
        return ""

    def _moved(self: "_Position", **changes: Any) -> "_Position":
        moved = copy(self)
        vars(moved).update(changes)
        return moved


def _new_cursor(page: _Page, name: str, last: Any) -> Any:
    """The cursor that an answer gives, which must not be the last one.

    :raises PDServerError: it is, or it is no cursor
    """
    cursor = page.steering.get(name)
    if not isinstance(cursor, (str, int)):
        problem = f"the API gives no usable cursor ({name}={cursor!r})."
    elif cursor == last:
        problem = f"the API names the same page again ({name}={cursor!r})."
    else:
        return cursor
    raise _pagination_error(page, problem)


def _pagination_error(page: _Page, problem: str) -> PDServerError:
    line = _request_line(page.response)
    return PDServerError(f"{line}: {problem}", page.response)


class _OffsetPosition(_PagePosition):
    """Classic pagination: ``limit`` and ``offset`` up to a limit."""

    def _take_steering(self, total: bool) -> None:
        offset = _pop(self.params, "offset") or 0
        self.offset = _whole_number("offset", offset, 0)
        if total:
            self.params.append(("total", True))

    @property
    def key(self) -> int:
        return self.offset

    @property
    def query(self) -> "List[Tuple[str, Any]]":
        return self.query_of(self.offset, self.limit)

    def query_of(self, offset: int, limit: int) -> "List[Tuple[str, Any]]":
        """Query parameters of any page."""
        limit = min(limit, int(ITERATION_LIMIT) - offset)
        return self.params + [("limit", limit), ("offset", offset)]

    #: Does the API tell the total without being asked?
    tells_total = False

    def end(self, total: int) -> int:
        """Offset of the end of what can be had of so many records."""
        return min(total, int(ITERATION_LIMIT))

    @property
    def refusal(self) -> str:
        return self._beyond_limit(self.offset + self.limit)

    def next_page(self, page: _Page) -> "Optional[_OffsetPosition]":
        if self.shortfall(page) or not page.steering.get("more"):
            return None
        return self._moved(offset=self.offset + len(page.records))

    def shortfall(self, page: _Page) -> str:
        if "more" not in page.steering:
            return (
                f"GET {self.path} does not tell whether there is more than "
                "this page; it seems to have no pagination."
            )
        if not page.steering["more"]:
            return ""
        if not page.records:
            return (
                f"GET {self.path}: an empty page, although there is said to "
                "be more; the iteration ends here."
            )
        return self._beyond_limit(self.offset + len(page.records) + 1)

    def _beyond_limit(self, end: float) -> str:
        if end <= ITERATION_LIMIT:
            return ""
        operation = _operation("GET", self.path)
        if operation is not None and operation.time_field:
            way = "iter_history gives all records of a period."
        else:
            way = "narrow the query (by status, team ...) to get the others."
        return (
            f"GET {self.path}: the API gives no records beyond the first "
            f"{ITERATION_LIMIT:.0f} (offset plus limit), and {end} would be "
            f"reached; {way}"
        )


class _UnpagedPosition(_OffsetPosition):
    """The only page of a list that is known to have no others.

    If the API says that there are others, they are asked for all the same.
    """

    tells_total = True  # There is none to ask for.

    def shortfall(self, page: _Page) -> str:
        return super().shortfall(page) if "more" in page.steering else ""


class _ScimPosition(_OffsetPosition):
    """Pagination by ``startIndex`` and ``count`` (RFC 7644, 3.4.2.4).

    A server may give fewer records than it was asked for, on any page. What
    it gave is what counts, and the total of that page, which may change.
    """

    limit_name = "count"
    tells_total = True
    refusal = ""

    #: What the page before this one began with.
    first_of_last_page: Any = None
    #: The total that the page before this one told.
    last_total = 0
    #: A total, and the smaller one of the page behind it.
    fallen_total: "Optional[Tuple[int, int]]" = None

    def _take_steering(self, total: bool) -> None:
        start = _pop(self.params, "startIndex")
        # What is below 1 stands for 1 (RFC 7644).
        self.offset = _whole_number("startIndex", start or 1, 1) - 1

    def query_of(self, offset: int, limit: int) -> "List[Tuple[str, Any]]":
        return self.params + [("startIndex", offset + 1), ("count", limit)]

    def end(self, total: int) -> int:
        return total

    def next_page(self, page: _Page) -> "Optional[_ScimPosition]":
        self._refuse_repetition(page)
        if not page.records or not self._has_more(page):
            return None
        is_told = page.total != "?"
        return self._moved(
            offset=self.offset + len(page.records),
            first_of_last_page=page.records[0],
            last_total=int(page.total) if is_told else self.last_total,
            fallen_total=self._fallen_total(page),
        )

    def shortfall(self, page: _Page) -> str:
        has_more = self._has_more(page)
        if page.records and has_more:
            return ""
        if has_more and page.total != "?":
            return (
                f"GET {self.path}: an empty page, although of {page.total} "
                f"records there were only {self.offset}; the iteration ends "
                "here."
            )
        fall = self._fallen_total(page)
        if fall is None:
            return ""
        return (
            f"GET {self.path}: the list changed while it was read. Its total "
            f"was {fall[0]}, and then {fall[1]}: the records moved, and some "
            "may have been passed over. Read it again."
        )

    def _has_more(self, page: _Page) -> bool:
        """Is there more behind a page, as far as its total tells?"""
        end = self.offset + len(page.records)
        return page.total == "?" or end < int(page.total)

    def _fallen_total(self, page: _Page) -> "Optional[Tuple[int, int]]":
        if page.total != "?" and int(page.total) < self.last_total:
            return self.last_total, int(page.total)
        return self.fallen_total

    def _refuse_repetition(self, page: _Page) -> None:
        """See that it is not the page before this one once more.

        That a page begins with the same record may be chance: the records
        may have moved. If it is not the page that was asked for, it is none.
        """
        begin = page.steering.get("startIndex")
        if begin == self.offset + 1 or not page.records:
            return
        if page.records[0] == self.first_of_last_page:
            raise _pagination_error(
                page,
                f"the API gives the same page again (startIndex={begin!r}, "
                f"not {self.offset + 1}).",
            )


class _CursorPosition(_PagePosition):
    """Pagination by a cursor that each answer gives for the next page.

    A cycle of pages is found by comparing each cursor with a landmark, which
    is taken anew after 1, 2, 4 ... pages (Brent's algorithm). That the
    landmark comes again once may be chance.
    """

    sent_as = "cursor"
    received_as = "next_cursor"

    landmark: Any = None
    repeats = 0
    steps = 0
    steps_to_landmark = 1

    def _take_steering(self, total: bool) -> None:
        self.cursor = _pop(self.params, self.sent_as)

    @property
    def key(self) -> Any:
        return self.cursor

    @property
    def query(self) -> "List[Tuple[str, Any]]":
        query = super().query
        if self.cursor:
            query.append((self.sent_as, self.cursor))
        return query

    def next_page(self, page: _Page) -> "Optional[_CursorPosition]":
        if not page.steering.get(self.received_as):
            return None
        cursor = _new_cursor(page, self.received_as, self.cursor)
        repeats = self.repeats + (cursor == self.landmark)
        if repeats == _MAX_CURSOR_REPEATS:
            raise _pagination_error(
                page,
                f"the API leads in a circle of pages ({cursor!r} comes again "
                "and again).",
            )
        if self.steps + 1 == self.steps_to_landmark:
            return self._moved(
                cursor=cursor,
                landmark=cursor,
                repeats=0,
                steps=0,
                steps_to_landmark=2 * self.steps_to_landmark,
            )
        return self._moved(
            cursor=cursor, repeats=repeats, steps=self.steps + 1
        )


class _AfterPosition(_CursorPosition):
    """The same, with a cursor that is named ``after`` on both ways."""

    sent_as = received_as = "after"


def _take_limit(pairs: "List[Tuple[str, Any]]", body: Any) -> None:
    """Add the size of a page that the body of a POST names."""
    if body is not None and not isinstance(body, abc.Mapping):
        raise ValueError(f"json must be a dict, not {type(body).__name__}.")
    if body and "limit" in body:
        pairs.append(("limit", body["limit"]))


class _PostedPosition(_PagePosition):
    """Pagination by ``starting_after`` in the body of a POST."""

    @property
    def key(self) -> Any:
        return self.json.get("starting_after")

    @property
    def query(self) -> "List[Tuple[str, Any]]":
        return self.params

    @property
    def body(self) -> Any:
        return dict(self.json, limit=self.limit)

    def next_page(self, page: _Page) -> "Optional[_PostedPosition]":
        last = page.steering.get("last")
        if not page.records or not page.steering.get("more", last):
            return None
        if not last:
            raise _pagination_error(
                page,
                "the API says that there is more, but not after what (last).",
            )
        cursor = _new_cursor(page, "last", self.key)
        return self._moved(json=dict(self.json, starting_after=cursor))

    def shortfall(self, page: _Page) -> str:
        if page.records or not page.steering.get("more"):
            return ""
        return (
            f"POST {self.path}: an empty page, although there is said to be "
            "more; the iteration ends here."
        )


# By the note in the endpoint table; "" where there is none.
_PAGE_POSITIONS: "Dict[str, Type[_PagePosition]]" = {
    "": _UnpagedPosition,
    "offset": _OffsetPosition,
    "cursor": _CursorPosition,
    "after": _AfterPosition,
    "starting_after": _PostedPosition,
    "scim": _ScimPosition,
}


# ---------------------------------------------------------------------------
# Reading ahead
# ---------------------------------------------------------------------------
#
# Threads that ask for pages before these are needed. What is done with an
# answer, and in which order, is decided by the consumer's thread alone.


class _Task:
    """A call that is made, or was made, in another thread.

    It is made in a copy of the context of whoever asks for it here, so that
    traces and the like know to what it belongs.
    """

    def __init__(self, call: "Callable[[], Any]") -> None:
        self._call = call
        with contextlib.suppress(ImportError):  # Python 3.6 has none.
            from contextvars import copy_context  # It takes a while.

            self._call = partial(copy_context().run, call)
        self._done = threading.Event()
        self._result: Any = None
        self._error: Optional[BaseException] = None

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error
        finally:
            del self._call
            self._done.set()

    def raise_interrupt(self) -> None:
        """Raise what has ended the call, unless it is an error of its own."""
        if self._error is not None and not isinstance(self._error, Exception):
            raise self._error

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    def result(self) -> Any:
        """Wait for the call; return its result, or raise its error."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


class _Workers:
    """Threads that make calls, in the order in which they were put in.

    They end when the work is closed: at once if they are idle, else after
    the call that they are in.
    """

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._threads: List[threading.Thread] = []
        self._tasks: queue.Queue[Optional[_Task]] = queue.Queue()

    def put(self, call: "Callable[[], Any]") -> _Task:
        """Queue a call for a worker thread; return its task."""
        task = _Task(call)
        self._tasks.put(task)
        if len(self._threads) < self._max_threads:
            thread = threading.Thread(
                target=_work, args=(self._tasks,), daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # There can be no more threads.
                if not self._threads:
                    self._tasks.get_nowait()
                    task.run()
                    task.raise_interrupt()
            else:
                self._threads.append(thread)
        return task

    def close(self) -> None:
        """Forget what is not begun, and wait a moment for what is."""
        try:
            while True:
                self._tasks.get_nowait()
        except queue.Empty:
            pass
        for _ in self._threads:
            self._tasks.put(None)
        end = _clock.monotonic() + _CLOSE_TIMEOUT
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0, end - _clock.monotonic()))


def _work(tasks: "queue.Queue[Optional[_Task]]") -> None:
    for task in iter(tasks.get, None):
        task.run()
        del task


_Fetch: "TypeAlias" = "Callable[[List[Tuple[str, Any]], Any], _Page]"


def _requests_ahead(session: Any, prefetch: "Optional[int]") -> int:
    """The number that ``prefetch`` says, or else that of the session."""
    ahead = _whole_number(
        "prefetch", session.prefetch if prefetch is None else prefetch, 0
    )
    if ahead > _MAX_PREFETCH:
        raise ValueError(
            f"prefetch must be at most {_MAX_PREFETCH}, not {ahead}."
        )
    return ahead


class _PagesOnDemand:
    """Gives each page when it is asked for, and not before.

    :param fetch: asks the API for a page, by its query and its body
    """

    def __init__(self, fetch: "_Fetch") -> None:
        self._fetch = fetch

    def page(self, position: _PagePosition) -> _Page:
        """The page at a position."""
        return self._fetch(position.query, position.body)

    def consuming(self, position: _PagePosition, page: _Page) -> None:
        """Called before the records of a page are handed out."""

    def close(self) -> None:
        """Called when no more pages will be asked for."""


class _PagesAhead(_PagesOnDemand):
    """Asks for pages while those before them are consumed.

    With one request at a time it is the next page. With more, the first page
    of a collection with classic pagination is asked for the total as well,
    which tells where the others begin. They are used if the pagination
    arrives just there; behind a short page, what it lacks is asked for first.

    :param max_requests: requests that may be under way at once
    :param closed: set when nobody waits for the pages any more
    """

    def __init__(
        self, fetch: "_Fetch", max_requests: int, closed: threading.Event
    ) -> None:
        super().__init__(fetch)
        self._max_requests = max_requests
        self._closed = closed
        self._begin()
        self._is_first = True
        self._page_size = 0  # Records that each planned page asks for.
        self._end = 0  # Offset of the end of the collection, if it is known.

    def _begin(self) -> None:
        self._process = os.getpid()
        self._free = threading.Semaphore(self._max_requests)
        self._workers = _Workers(self._max_requests)
        self._ahead: Dict[Any, _Task] = {}
        self._planned = 0  # Offset up to which pages were asked for.

    def _fetch_in_turn(self, query: Any, body: Any) -> _Page:
        """Ask for a page when few enough others are under way."""
        with self._free:
            return self._fetch(query, body)

    def page(self, position: _PagePosition) -> _Page:
        if self._process != os.getpid():
            self._begin()  # The threads are in the process that forked.
        is_first, self._is_first = self._is_first, False
        task = self._ahead.pop(position.key, None)
        if task is not None:
            return cast(_Page, task.result())
        if not isinstance(position, _OffsetPosition):
            return super().page(position)
        if self._max_requests == 1:
            return super().page(position)
        if is_first:
            return self._first_page(position)
        return self._page_before_those_ahead(position)

    def _first_page(self, position: _OffsetPosition) -> _Page:
        names = [name for name, _ in position.params]
        is_told = position.tells_total or "total" in names
        if is_told:
            page = super().page(position)
        else:
            page = self._fetch([("total", True)] + position.query, None)
        received = len(page.records)
        if page.total != "?":
            # A page that is short from the start shows what the API allows.
            self._page_size = max(received, position.limit // 2, 1)
            self._planned = position.offset + received
            self._end = position.end(int(page.total))
        if not is_told:
            page.steering.pop("total", None)
        return page

    def _page_before_those_ahead(self, position: _OffsetPosition) -> _Page:
        """What a short page left out, up to where the next one begins."""
        offset = position.offset
        starts = [start for start in self._ahead if start > offset]
        end = min([offset + position.limit, *starts])
        query = position.query_of(offset, end - offset)
        return self._fetch_in_turn(query, None)

    def consuming(self, position: _PagePosition, page: _Page) -> None:
        try:
            following = position.next_page(page)
        except PDServerError:
            return  # It is raised when the consumer comes there.
        if following is None:
            return
        if isinstance(following, _OffsetPosition):
            self._plan(following)
            if following.offset < self._end:
                return
        if following.key not in self._ahead:
            self._ask(following.key, following.query, following.body)

    def _plan(self, following: _OffsetPosition) -> None:
        """Ask for as many of the pages from here on as may be under way."""
        # A page that was longer than asked for leaves some behind.
        for start in [p for p in self._ahead if p < following.offset]:
            del self._ahead[start]
        self._planned = max(self._planned, following.offset)
        while (
            self._planned < self._end and len(self._ahead) < self._max_requests
        ):
            query = following.query_of(self._planned, self._page_size)
            self._ask(self._planned, query, None)
            self._planned += self._page_size

    def _ask(self, key: Any, query: Any, body: Any) -> None:
        call = partial(self._fetch_in_turn, query, body)
        self._ahead[key] = self._workers.put(call)

    def close(self) -> None:
        self._closed.set()
        self._ahead.clear()
        if self._process == os.getpid():
            # Elsewhere there are no threads, and nobody who would let go of
            # the lock of their queue.
            self._workers.close()


# ---------------------------------------------------------------------------
# Windows of a history
# ---------------------------------------------------------------------------
#
# All records of a period, oldest first. The period is cut into windows, and
# these are split until the API gives all that is in one. It is not documented
# whether the ends of a query are within it, nor how exactly times are
# compared. Therefore a window is asked for from a second before it on, and
# the records' own times tell which of them belong to it: so windows are
# independent of each other.
#
# Two queries over the parts of a third either overlap, or leave a gap. If
# their totals add up to at least that of the third, the gap is empty.
#
# A time is an instant: microseconds since 1970 began, in UTC.

_SECOND = 1000000
_MILLISECOND = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
# Between these there is room for what is added to a time.
_EARLIEST, _LATEST = (
    (datetime(year, 1, 1, tzinfo=timezone.utc) - _EPOCH) // _MICROSECOND
    for year in (2, 9999)
)

# Of a shift that has no beginning.
_ALWAYS = -(10**18)

# Since when there are records, where a list takes short periods only:
# PagerDuty was founded in 2009, and audits its users since December 2020.
_FIRST_YEAR = "2009-01-01"
_FIRST_AUDIT = "2020-12-02"

# What iter_history says itself, in the query and in the body.
_HISTORY_PARAMS = {"since", "until", "date_range", "total", "sort_by"}
_HISTORY_PARAMS |= {"cursor", "offset"}
_HISTORY_FILTERS = {"created_at_start", "created_at_end"}
_HISTORY_BODY = {"starting_after", "ending_before", "order", "order_by"}
_HISTORY_BODY |= {"time_zone"}

_TIME = (
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?"
    r"(?:(Z)|([+-])(\d\d):?(\d\d)?)?)?"
)

# Time of a record, and what tells it apart: its id, or of a shift several.
_RecordKey: "TypeAlias" = "Tuple[int, Any]"


class HistoryWindow(_NamedTuple):
    """A part of a period, to be read by :meth:`APISession.iter_history`.

    It can be pickled. All windows of a plan together have each record once.
    """

    __slots__ = ()
    _fields = __match_args__ = (
        *("url", "since", "until", "count", "params", "json"),
    )
    #: Path or URL of the list.
    url: str = _field(0)
    #: The time from which on records belong to it, in UTC.
    since: datetime = _field(1)
    #: The time before which they do.
    until: datetime = _field(2)
    #: Records as the API counts them, some of the adjoining seconds among
    #: them; None where it does not tell.
    count: "Optional[int]" = _field(3)  # type: ignore[assignment]
    #: Query parameters.
    params: Any = _field(4)
    #: Body, at endpoints that are paginated by POST.
    json: Any = _field(5)

    def __new__(
        cls,
        url: str,
        since: datetime,
        until: datetime,
        count: "Optional[int]",
        params: Any,
        json: Any,
    ) -> "HistoryWindow":
        values = (url, since, until, count, params, json)
        return tuple.__new__(cls, values)


class _LaterWindow(HistoryWindow):
    """A window of shifts, without those that began before it."""

    __slots__ = ()


def _instant(text: Any, needs_zone: bool = True) -> int:
    """The instant of a time in ISO 8601.

    :raises ValueError: it is none
    """
    match = re.fullmatch(_TIME, text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is no time in ISO 8601")
    year, month, day, hour, minute, second = map(int, match.groups("0")[:6])
    fraction, utc, sign, hours, minutes = match.groups("0")[6:]
    if needs_zone and match.group(4) and utc == sign == "0":
        raise ValueError(f"{text!r} has no time zone: add Z, or an offset")
    moment = datetime(year, month, day, hour, minute, second, 0, timezone.utc)
    instant = (moment - _EPOCH) // _MICROSECOND + int(f"{fraction:0<6}"[:6])
    ahead = (int(hours) * 60 + int(minutes)) * 60 * _SECOND
    return instant + (ahead if sign == "-" else -ahead)


def _instant_of(name: str, value: Any) -> int:
    """The instant that an argument stands for.

    :raises ValueError: it is no time, or one without a zone
    """
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(*value.timetuple()[:6], tzinfo=timezone.utc)
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{name} has no time zone: {value!r}")
        return (value - _EPOCH) // _MICROSECOND
    try:
        return _instant(value)
    except ValueError as error:
        raise ValueError(
            f"{name} must be an aware datetime, a date, or a time in ISO "
            f"8601 with its zone: {error}."
        ) from None


def _moment_of(instant: int) -> datetime:
    return _EPOCH + timedelta(microseconds=instant)


def _spell_instant(instant: int) -> str:
    spelling = "microseconds"
    if instant % _SECOND == 0:
        spelling = "seconds"
    elif instant % _MILLISECOND == 0:
        spelling = "milliseconds"
    moment = _moment_of(instant).replace(tzinfo=None)
    return moment.isoformat(timespec=spelling) + "Z"


def _second_of(instant: int) -> int:
    return instant // _SECOND * _SECOND


def _next_second(instant: int) -> int:
    """The instant, rounded up."""
    return -(-instant // _SECOND) * _SECOND


class _Records:
    """What was received: records with their keys, and the total.

    :ivar has_more: does the API say that there are more behind them?
    :ivar before: the key of the record before them, where that came, too
    """

    before: "Optional[_RecordKey]" = None

    def __init__(
        self,
        total: int,
        items: "List[Tuple[_RecordKey, Any]]",
        has_more: bool = False,
    ) -> None:
        self.total, self.items, self.has_more = total, items, has_more


class _HistoryList:
    """A list that comes by period, and how it is asked for.

    :param fetch: asks the API for a page, by its query and its body
    """

    def __init__(
        self,
        path: str,
        operation: _Operation,
        pairs: "List[Tuple[str, Any]]",
        json: Any,
        limit: int,
        fetch: "_Fetch",
    ) -> None:
        self.path = path
        self.operation = operation
        self.has_total = operation.pagination in ("", "offset")
        self._pairs, self._json, self.page_size = pairs, json, limit
        self._fetch = fetch

    def query(self, since: int, until: int, sort_by: str) -> _PagePosition:
        """The first page of a query."""
        begin, end = _spell_instant(since), _spell_instant(until)
        pairs, body = list(self._pairs), self._json
        if self.operation.pagination == "starting_after":
            filters = dict(body.get("filters") or {})
            filters.update(created_at_start=begin, created_at_end=end)
            body = dict(body, filters=filters, order="asc")
            body.update(order_by="created_at", time_zone="Etc/UTC")
        else:
            pairs += [("since", begin), ("until", end)]
            pairs += [("sort_by", sort_by)] if sort_by else []
        kind = _PAGE_POSITIONS[self.operation.pagination]
        return kind(self.path, pairs, self.page_size, self.has_total, body)

    def first_time(self) -> "Optional[int]":
        """Since when there are records; None: there is none at all."""
        if self.operation.is_sortable:
            order = [("sort_by", "created_at:asc"), ("limit", 1)]
            query = [*self._pairs, ("date_range", "all"), *order]
            page = self._fetch(query, None)
            keys = [self._key(record, page) for record in page.records]
            return min(keys)[0] if keys else None
        if not self.operation.max_days:
            return 0
        return _instant(_FIRST_YEAR if self.has_total else _FIRST_AUDIT)

    def first_page(self, query: _PagePosition) -> _Records:
        return self._records(self._fetch(query.query, None))

    def stretch(self, query: _OffsetPosition, start: int, end: int) -> Any:
        """The pages from an offset to another, however short they are."""
        pages = []
        while start < end:
            # From the record before on: it shows whether the list has moved.
            limit = min(max(query.limit, 2), end - start + 1)
            asked = query.query_of(start - 1, limit)
            page = self._records(self._fetch(asked, None))
            pages.append(page)
            if page.items:
                page.before = page.items.pop(0)[0]
            if not page.items:
                break
            start += len(page.items)
        return pages

    def follow(self, query: _PagePosition, most: int) -> _Records:
        """All pages of a query with cursors, unless there are too many."""
        position: Optional[_PagePosition] = query
        items: List[Tuple[_RecordKey, Any]] = []
        while position is not None:
            page = self._fetch(position.query, position.body)
            items += self._records(page).items
            if len(items) > most:
                return _Records(sys.maxsize, [])
            shortfall = position.shortfall(page)
            if shortfall:
                raise PDIncompleteError(shortfall)
            position = position.next_page(page)
        return _Records(len(items), items)

    def _records(self, page: _Page) -> _Records:
        total: Any = page.total
        if self.has_total and total == "?":
            raise _schema_error(page.response, "a total", repr(total))
        keys = [self._key(record, page) for record in page.records]
        items = list(zip(keys, page.records))
        has_more = bool(page.steering.get("more"))
        return _Records(total if self.has_total else 0, items, has_more)

    def _key(self, record: Any, page: _Page) -> "_RecordKey":
        operation = self.operation
        try:
            when = record.get(operation.time_field)
            if operation.end_field:
                return self.end_of(when, _ALWAYS), self._name_of_shift(record)
            return _instant(when, False), str(record[operation.id_field])
        except (AttributeError, LookupError, TypeError, ValueError):
            names = (operation.time_field, operation.id_field)
            raise _schema_error(
                page.response,
                f"records with a time at {names[0]!r} and {names[1]!r}",
                truncate_text(repr(record)),
            ) from None

    def _name_of_shift(self, shift: Any) -> "Tuple[str, ...]":
        parts = ("user", "schedule", "escalation_policy")
        fields = ("escalation_level", "start", "end")
        return (
            *(str((shift.get(part) or {}).get("id")) for part in parts),
            *(str(shift.get(field)) for field in fields),
        )

    def end_of(self, when: Any, default: int) -> int:
        return default if when is None else _instant(when, False)


class _Reading:
    """A query, and what was received of it so far.

    :param put: has a call made in a worker
    :param most: of a query with cursors: records, beyond which it is ended
    """

    def __init__(
        self,
        source: _HistoryList,
        put: "Callable[[Callable[[], Any]], _Task]",
        ends: "Tuple[int, int]",
        most: int = 0,
        sort_by: str = "",
        number: int = 0,
    ) -> None:
        self.since, self.until = ends
        self.number = number  # of the windows that were given before
        self._source, self._put = source, put
        self._query: Any = source.query(*ends, sort_by)
        if source.has_total:
            self.first = put(partial(source.first_page, self._query))
        else:
            self.first = put(partial(source.follow, self._query, most))
        self.rest: Optional[List[_Task]] = None

    @property
    def total(self) -> int:
        """Records in it, as the API counts them. Waits for the answer."""
        return cast(int, self.first.result().total)

    def ask_rest(self) -> None:
        """Ask for what the first page has not."""
        if self.rest is not None:
            return
        self.rest = []
        begin = len(self.first.result().items)
        end = min(self.total, int(ITERATION_LIMIT))
        stride = max(begin - 1, 1)
        for start in range(begin, end, stride) if begin else ():
            stop = min(start + stride, end)
            call = partial(self._source.stretch, self._query, start, stop)
            self.rest.append(self._put(call))

    def records(self) -> "Optional[Dict[Any, Tuple[_RecordKey, Any]]]":
        """All records by what tells them apart. Waits for the answers.

        None: they are not all there, because the list changed meanwhile.
        """
        self.ask_rest()
        first = self.first.result()
        parts = [first]
        for task in self.rest or ():
            parts += task.result()
        found = {item[0][1]: item for part in parts for item in part.items}
        if not self._source.has_total:
            return found
        count = len(found)
        if self._source.operation.end_field:
            # Without ids, two may be alike.
            count = sum(len(part.items) for part in parts)
        is_steady = all(part.total == first.total for part in parts) and all(
            part.items and part.items[-1][0] == after.before
            for part, after in zip(parts, parts[1:])
        )
        is_whole = count == min(first.total, int(ITERATION_LIMIT))
        if first.total <= ITERATION_LIMIT:
            is_whole &= not parts[-1].has_more
        return found if is_steady and is_whole else None


class _Window:
    """A part of the period, and its place among the others.

    :param is_first: has it those shifts that began before, too?
    :param splits: the splits by which it came about, the earliest first
    """

    def __init__(
        self,
        since: int,
        until: int,
        is_first: bool,
        splits: "Tuple[_Split, ...]" = (),
    ) -> None:
        self.since, self.until, self.is_first = since, until, is_first
        self.splits = splits
        self.attempts = 0
        self.total: Optional[int] = None  # when it was first asked for
        self.reading: Optional[_Reading] = None

    @property
    def ends(self) -> "Tuple[int, int]":
        """The ends of the query."""
        return _second_of(self.since) - _SECOND, _next_second(self.until)

    @property
    def seconds(self) -> int:
        return (self.ends[1] - self.ends[0]) // _SECOND - 1

    def parts(self, middle: int) -> "List[_Window]":
        return [
            _Window(self.since, middle, self.is_first, self.splits),
            _Window(middle, self.until, False, self.splits),
        ]


class _Split:
    """A window that was split, and the two that came of it."""

    def __init__(self, whole: _Window, total: int) -> None:
        self.whole, self.total = whole, total
        self.is_proved = False
        middle = (whole.ends[0] + whole.ends[1] + _SECOND) // 2
        self.parts = whole.parts(_second_of(middle))
        for part in self.parts:
            part.splits += (self,)


# ---------------------------------------------------------------------------
# Reading a history
# ---------------------------------------------------------------------------
#
# The reader splits windows, and reads several at once. It gives their records
# in order, and none before it is proved that all of them are there. Whether a
# record belongs to a window is checked in _HistoryReader._has.


class _LateTask(_Task):
    """A call that is made when its result is needed."""

    def result(self) -> Any:
        if not self.is_done:
            self.run()
        return super().result()


class _HistoryReader:
    """Reads the windows of a period in their order, some of them ahead.

    :param ahead: requests that may be under way at once; 0: each is made
        when its answer is needed
    """

    def __init__(self, source: _HistoryList, session: Any, ahead: int) -> None:
        self.source = source
        self.closed = threading.Event()  # when nobody waits any more
        self.start_clock: Callable[[], Any] = dict  # of the deadline
        self._session = session
        self._ahead = ahead
        self._process = os.getpid()
        self._workers = _Workers(ahead) if ahead else None
        self._windows: List[_Window] = []  # that are still to be given
        self._given = 0  # windows
        # What is still to be given of the window before them.
        self._rest: List[Tuple[_RecordKey, Any]] = []

    # -- Requests -----------------------------------------------------------

    def _put(self, call: "Callable[[], Any]") -> _Task:
        if self._workers is None:
            return _LateTask(call)
        return self._workers.put(call)

    def _after_fork(self) -> None:
        """Ask anew: the threads are in the process that forked."""
        self._process = os.getpid()
        self._workers = _Workers(self._ahead)
        for window in self._windows:
            window.reading = None

    def _read(
        self, ends: "Tuple[int, int]", most: int = 0, sort_by: str = ""
    ) -> _Reading:
        return _Reading(
            self.source, self._put, ends, most, sort_by, self._given
        )

    def close(self) -> None:
        self.closed.set()
        for window in self._windows:
            window.reading = None  # Splits and windows name each other.
        self._windows.clear()
        self._rest.clear()
        if self._workers is not None and self._process == os.getpid():
            # Elsewhere there are no threads (see _PagesAhead.close).
            self._workers.close()

    # -- Windows ------------------------------------------------------------

    def begin(self, since: int, until: int, is_first: bool) -> None:
        """Set the period, cut into windows that the API takes."""
        self._windows = []
        longest = self.source.operation.max_days * 86400 * _SECOND
        while since < until:
            end = until
            if longest:
                end = min(until, _second_of(since) + longest - _SECOND)
            self._windows.append(_Window(since, end, is_first))
            since, is_first = end, False

    def plan(self) -> "Iterator[_Window]":
        """The windows, with their totals and unread."""
        if not self.source.has_total:
            yield from self._windows
            return
        while self._windows:
            window = self._next_window()
            if window is not None:
                self._take(window)
                yield window

    def read(self) -> "Iterator[List[Tuple[_RecordKey, Any]]]":
        """The records of the windows: lists, each with its last one first.

        Whoever gets a list takes the records out of it.
        """
        while self._windows:
            window = self._next_window()
            if window is None:
                continue
            records = self._own_records(window)
            if records is None:
                self._again(
                    window,
                    "it changed each time while it was read, or has more than "
                    "its total",
                )
                continue
            self._take(window)
            records.sort(key=itemgetter(0), reverse=True)
            self._rest = records
            self.look_ahead()
            if records:
                yield records

    def _take(self, window: _Window) -> None:
        del self._windows[0]
        window.reading = None
        self._given += 1

    def _ask(self, window: _Window) -> _Reading:
        """The reading of a window, begun unless it is."""
        reading = window.reading
        if reading is not None and self._is_old(reading):
            reading = None
        if reading is None:
            limit = int(ITERATION_LIMIT)
            most = limit if window.seconds > 1 else sys.maxsize
            reading = window.reading = self._read(window.ends, most)
        return reading

    def _is_old(self, reading: _Reading) -> bool:
        """Was a first page received long before the others are asked for?

        A record may have left the list since then, and another come.
        """
        first = reading.first
        return (
            self.source.has_total
            and reading.rest is None
            and reading.number < self._given - bool(self._ahead)
            and first.is_done
            and not first.has_failed
            and reading.total > len(first.result().items)
        )

    def _total(self, window: _Window) -> int:
        total = self._ask(window).total
        if window.total is None:
            window.total = total
        return total

    def _next_window(self) -> "Optional[_Window]":
        """The first window, split as far as it has to be, and proved.

        None: look again.
        """
        self.look_ahead()
        window = self._windows[0]
        self._total(window)
        if self._is_too_large(window):
            self._split(0)
            return None
        for split in window.splits:
            if not (split.is_proved or self._prove(split)):
                return None
        return window

    def _is_too_large(self, window: _Window) -> bool:
        """Must a window be split? That of a second cannot be."""
        first = self._ask(window).first
        return (
            window.seconds > 1
            and not first.has_failed
            and (first.result().total > ITERATION_LIMIT)
        )

    def _split(self, index: int) -> None:
        window = self._windows[index]
        self._total(window)
        split = _Split(window, self._ask(window).total)
        self._windows[index : index + 1] = split.parts
        window.reading = None

    def _prove(self, split: _Split) -> bool:
        """Are all records of the whole in one of the parts?

        If not, the whole takes the place of what came of it.
        """
        if self.source.has_total:
            for part in split.parts:
                if part.total is None:
                    self._total(part)
            found = sum(cast(int, part.total) for part in split.parts)
            if found < split.total:
                whole = split.whole
                self._windows = [
                    w for w in self._windows if split not in w.splits
                ]
                self._windows.insert(0, whole)
                self._again(whole, f"its halves have {found} of these")
                return False
        split.is_proved = True
        return True

    def _again(self, window: _Window, problem: str) -> None:
        """Let a window be read again, unless that is hopeless."""
        window.attempts += 1
        if window.attempts > _MAX_REREADS:
            raise PDIncompleteError(
                f"{self._named(window)}, {window.total} records: {problem}."
            )
        window.reading = window.total = None

    def _named(self, window: _Window) -> str:
        since, until = _spell_instant(window.since), window.until
        return f"{self.source.path} {since} to {_spell_instant(until)}"

    def look_ahead(self) -> None:
        """Ask for what comes next, as far as two windows of records go."""
        if not self._ahead:
            return
        if self._process != os.getpid():
            self._after_fork()
        limit, room = int(ITERATION_LIMIT), self._room()
        index = unanswered = 0
        while index < min(len(self._windows), 2 * self._ahead):
            window = self._windows[index]
            if window.reading is None and not self._has_room_for_first(room):
                return
            room += self._size(window.reading)
            reading = self._ask(window)
            if not reading.first.is_done:
                unanswered += 1
                if unanswered >= self._ahead:
                    return
            elif self._is_too_large(window):
                self._split(index)
                del reading  # Let go of it before others are asked for.
                continue
            elif reading.first.has_failed or reading.total > min(room, limit):
                return  # until it is needed, or there is room for it
            elif not unanswered:
                reading.ask_rest()
            room -= self._size(reading)
            index += 1

    def _room(self) -> int:
        """Records that may be asked for beside those that are."""
        readings = [window.reading for window in self._windows]
        held = len(self._rest) + sum(map(self._size, readings))
        # With each page that is on its way comes the record before it.
        return 2 * int(ITERATION_LIMIT) - held - self._ahead

    def _size(self, reading: "Optional[_Reading]") -> int:
        """Records that a reading holds, or will hold."""
        if reading is None:
            return 0
        if not self.source.has_total and not reading.first.is_done:
            return int(ITERATION_LIMIT)  # All may be on their way.
        if self.source.has_total and reading.rest is None:
            return self.source.page_size
        return 0 if reading.first.has_failed else reading.total

    def _has_room_for_first(self, room: int) -> bool:
        """May one more window be asked for?

        The first pages of windows that are not read yet must leave room for
        the window that is given next.
        """
        limit = int(ITERATION_LIMIT)
        if not self.source.has_total:
            return room >= limit
        first_pages = self.source.page_size * sum(
            window.reading is not None and window.reading.rest is None
            for window in self._windows
        )
        return self.source.page_size <= min(room, limit - first_pages)

    # -- Records ------------------------------------------------------------

    def _own_records(
        self, window: _Window
    ) -> "Optional[List[Tuple[_RecordKey, Any]]]":
        """The records that belong to a window; None: it has changed."""
        reading = self._ask(window)
        if reading.total > ITERATION_LIMIT and self.source.has_total:
            found = self._read_second(window, reading)
        else:
            found = reading.records()
        if found is None:
            return None
        return [item for item in found.values() if self._has(window, item)]

    def _has(self, window: _Window, item: "Tuple[_RecordKey, Any]") -> bool:
        (when, _), record = item
        end_field = self.source.operation.end_field
        if end_field and window.is_first:
            end = self.source.end_of(record.get(end_field), sys.maxsize)
            return when < window.until and end > window.since
        near = 2 * _SECOND
        if not end_field and not (
            window.since - near <= when < window.until + near
        ):
            raise PDIncompleteError(
                f"{self._named(window)}: the API answered with a record of "
                f"{_spell_instant(when)}; it does not keep to the period."
            )
        return window.since <= when < window.until

    def _read_second(
        self, window: _Window, whole: _Reading
    ) -> "Optional[Dict[Any, Tuple[_RecordKey, Any]]]":
        """The records of a second in which there are too many for a query."""
        found: Dict[Any, Tuple[_RecordKey, Any]] = {}
        second = _second_of(window.since)
        parts = self._parts(whole, second)
        for part in {(p.since, p.until): p for p in parts}.values():
            if part.total <= ITERATION_LIMIT:
                records = part.records()
            elif self._is_beside(part, second):
                continue
            else:
                records = self._from_both_ends(part)
                if records is None and window.attempts:
                    self._refuse(window, part)
                    records = part.records()
            if records is None:
                return None
            found.update(records)
        return found

    def _parts(self, whole: _Reading, second: int) -> "List[_Reading]":
        """Queries with all records of a second that a query has.

        A query whose end lies before the second has none of it, whatever its
        ends mean; nor has one that begins behind it.
        """
        if whole.until < second or whole.since >= second + _SECOND:
            return []
        if whole.total <= ITERATION_LIMIT:
            return [whole]
        for pairs in self._divisions(whole.since, whole.until):
            parts = [self._read(ends) for ends in pairs]
            try:
                totals = [part.total for part in parts]
            except PDHTTPError as error:
                if error.status_code != 400 or error._is_of_hook:
                    raise
                continue  # Of fractions of a second it does not know.
            if self.source.operation.end_field and whole.total in totals:
                break  # All are there all the time; no part has fewer.
            if sum(totals) >= whole.total:
                return [p for part in parts for p in self._parts(part, second)]
        return [whole]

    def _is_beside(self, part: _Reading, second: int) -> bool:
        """Is what cannot be divided of another second than this one?

        A query of a millisecond has records of one instant only, be it that
        of its beginning or that of its end. Its first page tells which. Of a
        whole second that is not so, nor of shifts, which began before.
        """
        if self.source.operation.end_field:
            return False
        is_short = part.until - part.since == _MILLISECOND
        times = {key[0] for key, _ in part.first.result().items}
        return is_short and not any(
            second <= when < second + _SECOND for when in times
        )

    @property
    def _units(self) -> "Tuple[int, ...]":
        """How exactly the list may compare times."""
        is_coarse = self.source.operation.whole_seconds
        return (_SECOND,) if is_coarse else (_SECOND, _MILLISECOND)

    def _divisions(
        self, since: int, until: int
    ) -> "Iterator[Tuple[Tuple[int, int], Tuple[int, int]]]":
        """Two queries each, which may have all that one query has.

        Which of them do, depends on what the ends mean.
        """
        for unit in self._units:
            if since % unit or until % unit:
                continue
            length = (until - since) // unit
            if length == 1:
                yield (since, since), (until, until)
            elif length > 1:
                middle = since + length // 2 * unit
                for begin in (middle, middle + unit, middle - unit):
                    if since < begin <= until:
                        yield (since, middle), (begin, until)

    def _from_both_ends(
        self, whole: _Reading
    ) -> "Optional[Dict[Any, Tuple[_RecordKey, Any]]]":
        """The records of a query, in two orders; None: that is not all."""
        is_possible = self.source.operation.is_sortable
        if not is_possible or whole.total > 2 * ITERATION_LIMIT:
            return None
        found: Dict[Any, Tuple[_RecordKey, Any]] = {}
        ends = whole.since, whole.until
        for order in ("asc", "desc"):
            sort_by = f"created_at:{order},incident_number:{order}"
            reading = self._read(ends, 0, sort_by)
            records = reading.records()
            if records is None or reading.total != whole.total:
                return None
            found.update(records)
        return found if len(found) == whole.total else None

    def _refuse(self, window: _Window, part: _Reading) -> None:
        """Say that a window cannot be read whole."""
        limit = int(ITERATION_LIMIT)
        text = (
            f"{self._named(window)}: there are {part.total} records, which "
            f"cannot be divided further, and the API gives {limit} of these. "
            "Narrow the query down (by service, team ...)."
        )
        if self._session._requires_all():
            raise PDIncompleteError(text)
        _warn(self._session.log, text, PDIncompleteWarning)

    # -- Counting -----------------------------------------------------------

    def count(self) -> "Union[int, str]":
        """The number of records in all windows; "?": it cannot be told."""
        if not self.source.has_total:
            return "?"
        return sum(map(self._count, self._windows))

    def _count(self, window: _Window) -> int:
        """Records of a window: its total, but for those around it.

        They are in a short query that begins where that of the window does,
        or ends there. If there are too many in it, a second is split off.
        """
        since, until = window.since, window.until
        if window.seconds == 1:
            return self._count_second(window)
        total = self._total(window)
        begin, end = window.ends
        before = self._read((begin, _next_second(since)))
        if before.total > ITERATION_LIMIT:
            if self.source.operation.end_field:
                self._refuse(window, before)
                return total
            return self._count_parts(window, begin + 2 * _SECOND)
        after = self._read((_second_of(until) - _SECOND, end))
        if after.total > ITERATION_LIMIT:
            if self.source.operation.end_field:
                self._refuse(window, after)
                return total
            return self._count_parts(window, end - _SECOND)
        foreign = {}
        for reading in (before, after):
            found = reading.records()
            if found is None:
                self._again(window, "it changed each time it was counted")
                return self._count(window)
            foreign.update(found)
        return total - sum(
            not self._has(window, item) for item in foreign.values()
        )

    def _count_parts(self, window: _Window, middle: int) -> int:
        return sum(map(self._count, window.parts(middle)))

    def _count_second(self, window: _Window) -> int:
        records = self._own_records(window)
        while records is None:
            self._again(window, "it changed each time it was counted")
            records = self._own_records(window)
        return len(records)


# ---------------------------------------------------------------------------
# History
# ---------------------------------------------------------------------------
#
# iter_history and plan_history, what their callers hold, and how they go on
# from a position.


class _Place:
    """How far an iteration has come.

    :param since: None: from the first record on, whose time is not known yet
    :param key: of the last record that was given; None: none was
    """

    def __init__(
        self,
        path: str,
        since: "Optional[int]",
        until: int,
        is_first: bool = True,
    ) -> None:
        self.path = path
        self.since, self.until, self.is_first = since, until, is_first
        self.count = 0
        self.key: Optional[_RecordKey] = None

    def position(self) -> "Dict[str, Any]":
        position: Dict[str, Any] = {"url": self.path, "count": self.count}
        if self.since is not None:
            position["since"] = _spell_instant(self.since)
        position["until"] = _spell_instant(self.until)
        if self.key is not None:
            when, name = self.key
            position["after"] = [
                None if when == _ALWAYS else _spell_instant(when),
                list(name) if isinstance(name, tuple) else name,
            ]
        return position

    def resume(self, position: Any, has_until: bool) -> None:
        """Go on where another iteration was.

        :param has_until: the caller has said where the period ends
        :raises ValueError: it is no position in this list, or in a period
            that began later
        """
        asked = self.since
        try:
            path, self.count = position["url"], position["count"] + 0
            until = _instant(position["until"])
            if "since" in position:
                self.since = _instant(position["since"])
            if "after" in position:
                when, name = position["after"]
                name = tuple(name) if isinstance(name, list) else name
                if not isinstance(name, (str, tuple)):
                    raise TypeError
                self.key = (
                    _ALWAYS if when is None else _instant(when),
                    name,
                )
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                "resume must be the position of an iteration over a "
                f"history, not {truncate_text(repr(position))}."
            ) from None
        if path != self.path:
            raise ValueError(
                f"resume is a position in {path}, not in {self.path}."
            )
        if asked is not None and asked < cast(int, self.since):
            raise ValueError(
                "resume is a position in a period that began at "
                f"{position['since']}: records from {_spell_instant(asked)} "
                "on would be missing. Give the same since, or no resume."
            )
        if not has_until:
            self.until = until

    def rest(self) -> "Tuple[int, bool]":
        """Where to go on, and whether those that began before are wanted."""
        since = cast(int, self.since)
        if self.key is None or self.key[0] < since:
            return since, self.is_first
        return _second_of(self.key[0]), False


class HistoryIterator:
    """Gives the records of :meth:`APISession.iter_history`."""

    def __init__(
        self, records: "Generator[Any, None, None]", place: _Place
    ) -> None:
        self._records = records
        self._place = place
        self._is_closed = False
        self._broken_by = ""

    def __iter__(self) -> "HistoryIterator":
        return self

    def __next__(self) -> Any:
        if self._is_closed:
            self._close()
            raise StopIteration
        if self._broken_by:
            # A generator would say that it is at its end.
            raise PDIncompleteError(
                f"The history was broken off by a {self._broken_by}. To go "
                "on, call iter_history again, with its position as resume."
            )
        try:
            return next(self._records)
        except StopIteration:
            raise
        except BaseException as error:
            is_over = cast(Any, self._records).gi_frame is None
            if is_over:  # Else another thread is reading.
                self._broken_by = type(error).__name__
            raise

    @property
    def position(self) -> "Dict[str, Any]":
        """Where the iteration is: behind the last record that it gave.

        A small dict that JSON can hold. With it as ``resume``, another
        iteration goes on there, also in another process.
        """
        return self._place.position()

    def close(self) -> None:
        """End the iteration, and the requests that are under way for it.

        If another thread waits for a record just then, or from an
        ``item_hook``, it ends behind that record.
        """
        self._is_closed = True
        self._close()

    def _close(self) -> None:
        # It is what a generator raises that runs just then.
        with contextlib.suppress(ValueError):
            self._records.close()


def _history_records(
    session: Any,
    reader: _HistoryReader,
    place: _Place,
    item_hook: "Optional[_ItemHook]",
) -> "Generator[Any, None, None]":
    """The records behind a place, which is moved along."""
    lists = _lists_behind(reader, place, item_hook is not None)
    total: Union[int, str] = "?"
    try:
        while True:
            try:
                total, records = next(lists)
            except StopIteration:
                return
            except PDHTTPError as error:
                if not session._may_end_with(error):
                    raise
                text = f"The history ends here: {error}"
                _warn(session.log, text, PDIncompleteWarning)
                return
            while records:
                key, record = records.pop()
                if item_hook is not None:
                    item_hook(record, place.count + 1, total)
                place.key, place.count = key, place.count + 1
                yield record
                if place.count % 100 == 0:
                    reader.look_ahead()
    finally:
        lists.close()
        reader.close()


def _lists_behind(
    reader: _HistoryReader, place: _Place, needs_total: bool
) -> "Generator[Tuple[Union[int, str], List[Any]], None, None]":
    """The total, and the records of a window that are still to be given."""
    total: Union[int, str] = "?"
    _begin_history(reader, place)
    if needs_total:
        total = reader.count()
    since, is_first = place.rest()
    last = place.key
    if last is not None:
        reader.begin(since, place.until, is_first)
    for records in reader.read():
        if last is not None:
            records[:] = [item for item in records if item[0] > last]
        yield total, records


def _begin_history(reader: _HistoryReader, place: _Place) -> None:
    """Set the whole period, from the first record on if that is wanted."""
    reader.start_clock()
    if place.since is None:
        first = reader.source.first_time()
        place.since = place.until if first is None else first
    reader.begin(place.since, place.until, place.is_first)


def _history_period(since: Any, until: Any) -> "Tuple[Optional[int], int]":
    begin = None if since is None else _instant_of("since", since)
    now = datetime.now(timezone.utc)
    end = _instant_of("until", now if until is None else until)
    for name, instant in (("since", begin), ("until", end)):
        if instant is not None and not _EARLIEST <= instant < _LATEST:
            raise ValueError(f"{name} must be in the years 2 to 9998.")
    if begin is not None and begin > end:
        raise ValueError("since must not be later than until.")
    return begin, end


def _history_operation(path: str, json: Any) -> _Operation:
    """How a list is asked for by period.

    :raises URLError: it has no history
    :raises ValueError: it takes no body
    """
    for method in ("GET", "POST"):
        operation = _operation(method, path)
        if operation is not None and operation.time_field:
            break
    else:
        raise URLError(
            f"{path} is no list that the API gives by period. Use iter_all, "
            "or in a shell pdpyras list."
        )
    if method == "POST":
        return operation.but(response=operation.response or "data")
    if json is not None:
        raise ValueError(f"{path} is asked for by GET, without json.")
    return operation


def _check_history_params(pairs: "List[Tuple[str, Any]]", json: Any) -> None:
    """Refuse what would say otherwise than iter_history does."""
    names = {name for name, _ in pairs} & _HISTORY_PARAMS
    if json is not None:
        filters = json.get("filters") or {}
        names |= set(json) & _HISTORY_BODY | set(filters) & _HISTORY_FILTERS
    if names:
        raise ValueError(
            f"iter_history sets {', '.join(sorted(names))} itself: a period "
            "is given by since and until, and comes oldest first."
        )


def _new_history(
    session: Any,
    asked: "Tuple[Any, Any, Any, Any, Any]",
    page_size: "Optional[int]" = None,
    prefetch: "Optional[int]" = 0,
    deadline: Any = _SESSION_DEADLINE,
) -> "Tuple[_HistoryReader, _Place]":
    """Check what is asked for; nothing is sent yet.

    :param asked: URL, since, until, params and json, or a window alone
    """
    if isinstance(asked[0], HistoryWindow):
        if asked[1:] != (None, None, None, None):
            raise ValueError("A window says itself what is in it.")
        window = asked[0]
        asked = (window.url, *window[1:3], window.params, window.json)
        new = _new_history(session, asked, page_size, prefetch, deadline)
        new[1].is_first = not isinstance(window, _LaterWindow)
        return new
    url, since, until, params, json = asked
    url = _url_of(url)
    path = session.canonical_path(url)
    operation = _history_operation(path, json)
    endpoint, pairs = _split_query(url, params)
    if operation.pagination == "starting_after":
        # Each window has the filters that it had when they were given.
        json = {} if json is None else deepcopy(json)
        page_size = operation.max_limit if page_size is None else page_size
    _take_limit(pairs, json)
    _check_history_params(pairs, json)
    limit = session._page_limit(pairs, page_size, operation)
    pairs = session._filled_params(pairs)  # Once, and not with each window.
    located = _locate(session.url, endpoint)
    located.unwanted = threading.Event()
    session._begin_deadline(deadline)  # So that a wrong one is said at once.
    options: Dict[str, Any] = {}
    fetch = partial(session._fetch_page, located, operation.response, options)
    source = _HistoryList(path, operation, pairs, json, limit, fetch)
    reader = _HistoryReader(
        source, session, _requests_ahead(session, prefetch)
    )
    reader.closed = located.unwanted
    reader.start_clock = lambda: options.update(
        session._shared_deadline(deadline)
    )
    period = _history_period(since, until)
    path = _plain_path(session.url, located.full_url)
    return reader, _Place(path, *period)


class _HistoryMethods:
    """The methods of :class:`APISession` that read histories."""

    @_explains_unknown_arguments
    def iter_history(
        self: Any,
        url: "Union[str, HistoryWindow]",
        since: Any = None,
        until: Any = None,
        params: Any = None,
        page_size: "Optional[int]" = None,
        item_hook: "Optional[_ItemHook]" = None,
        prefetch: "Optional[int]" = None,
        deadline: "Optional[float]" = _SESSION_DEADLINE,
        resume: "Optional[Mapping[str, Any]]" = None,
        json: Any = None,
    ) -> HistoryIterator:
        """Iterate over all records of a period, however many they are.

        Each comes once, oldest first and then by id, if ``since <= time <
        until`` by its own time. On-call shifts are those that overlap the
        period.

        :param url: path or URL of the list; or a window that
            :meth:`plan_history` gave, alone
        :param since: aware datetime, date (midnight in UTC), or a time in
            ISO 8601 with its zone; None: from the first record on
        :param until: the same; None: the moment of this call
        :param params: more query parameters
        :param page_size: records to ask for with each page
        :param item_hook: called with each record, its number from 1, and
            the exact total, or ``"?"`` where the list has cursors
        :param prefetch: requests that may be under way, in place of
            :attr:`~APISession.prefetch`
        :param deadline: seconds in which the whole iteration ends, in place
            of :attr:`~PDSession.deadline`
        :param resume: ``position`` of an earlier iteration with the same
            arguments; this one goes on behind its last record
        :param json: body, at endpoints that are paginated by POST
        :returns: iterator with ``close()`` and ``position``
        :raises URLError: the API does not give the list by period
        :raises ValueError: an argument, such as a time without a zone
        :raises PDIncompleteError: a window cannot be read whole; see also
            :attr:`~APISession.require_complete_results`
        :raises PDHTTPError: a page has an error status
        :raises PDServerError: a record has no time
        :raises PDDeadlineError: the deadline has passed
        """
        asked = (url, since, until, params, json)
        reader, place = _new_history(
            self, asked, page_size, prefetch, deadline
        )
        if resume is not None:
            is_window = isinstance(url, HistoryWindow)
            asked_period = place.since, place.until
            place.resume(resume, until is not None)
            if is_window and asked_period != (place.since, place.until):
                raise ValueError("resume is a position in another window.")
        records = _history_records(self, reader, place, item_hook)
        return HistoryIterator(records, place)

    @_explains_unknown_arguments
    def plan_history(
        self: Any,
        url: str,
        since: Any,
        until: Any = None,
        params: Any = None,
        json: Any = None,
    ) -> "List[HistoryWindow]":
        """Cut a period into windows that can be read independently.

        They are for workers, each of which gives its window to
        :meth:`iter_history`. Together they have each record of the period
        once.

        :param url: path or URL of the list
        :param since: as for :meth:`iter_history`
        :param until: the same
        :param params: more query parameters
        :param json: body, at endpoints that are paginated by POST
        :returns: the windows, the earliest first
        :raises PDClientError: as :meth:`iter_history` does
        """
        if params is not None:
            # Each window has them, and not what is left of an iterator.
            params = _as_params(_as_lists(_as_pairs(params)))
        json = deepcopy(json)
        asked = (url, since, until, params, json)
        reader, place = _new_history(self, asked)
        _begin_history(reader, place)
        windows = []
        for window in reader.plan():
            kind = HistoryWindow if window.is_first else _LaterWindow
            since, until = map(_moment_of, (window.since, window.until))
            rest = (window.total, params, json)
            windows.append(kind(_url_of(url), since, until, *rest))
        return windows


# ---------------------------------------------------------------------------
# TLS
# ---------------------------------------------------------------------------


def _is_ssl_replaced() -> bool:
    """Has gevent put a class of its own in the place of urllib3's?

    The settings of the former one recurse for ever then, in Python's ssl.
    """
    known = getattr(ssl_, "SSLContext", None)
    return (
        isinstance(known, type)
        and known is not ssl.SSLContext
        and issubclass(ssl.SSLContext, known)
    )


def _new_ssl_context(cert_reqs: Any) -> ssl.SSLContext:
    """A context as urllib3 makes it, which trusts nobody yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.version_info >= (3, 7):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    if sys.version_info >= (3, 13):
        context.verify_flags |= (
            ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
        )
    # urllib3 compares the names by itself then, whatever its version.
    context.check_hostname = False
    context.verify_mode = ssl_.resolve_cert_reqs(cert_reqs)
    return context


# ---------------------------------------------------------------------------
# Answers
# ---------------------------------------------------------------------------
#
# How the head of an answer is read, where its body ends, and whether that has
# come. Private names of http.client: _read_status, _check_close, _safe_read,
# _MAXLINE, _MAXHEADERS, and of urllib3: _decoder, _decoders. Where one is
# renamed, what rests on it is lost, and nothing else.


_PLAIN_HEADERS = r"([!-9;-~]+:[^\r\n]*\r\n)*"


def _read_headers(stream: Any) -> Any:
    """Read headers, and the empty line behind them.

    It takes a third of the time that ``email.parser`` takes, for which one
    line that is no header is the end of them: a length behind it was lost.

    :raises http.client.HTTPException: they are too long, or broke off
    """
    max_line = getattr(http.client, "_MAXLINE", 65536)
    max_lines = getattr(http.client, "_MAXHEADERS", 100)
    lines: List[bytes] = []
    while not lines or lines[-1] not in (b"\r\n", b"\n"):
        lines.append(stream.readline(max_line + 1))
        if len(lines[-1]) > max_line:
            raise http.client.LineTooLong("header line")
        if len(lines) > max_lines + 1:
            raise http.client.HTTPException(
                f"got more than {max_lines} headers"
            )
        if lines[-1][-1:] != b"\n":
            raise http.client.IncompleteRead(b"")
    text = b"".join(lines[:-1]).decode("latin-1")
    if not re.fullmatch(_PLAIN_HEADERS, text):
        text = _plain_headers(text)
    headers = http.client.HTTPMessage()
    for line in text.split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        headers.set_raw(name, value.lstrip(" \t"))
    return headers


def _plain_headers(text: str) -> str:
    """Lines of headers as they should be, without those that are none.

    A line that goes on in the next becomes one (RFC 9112, 5.2), and blanks
    before the colon go (5.1).
    """
    text = re.sub(r"\r?\n[ \t]+", " ", text)
    lines = re.findall(r"(?m)^([!-9;-~]+)[ \t]*:(.*?)\r?$", text)
    # A carriage return of its own is a blank (2.2).
    return "".join(
        "{}:{}\r\n".format(name, value.replace("\r", " "))
        for name, value in lines
    )


class _WholeLines:
    """A stream whose last line is not one that has broken off."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def readline(self, limit: int = -1) -> bytes:
        # urllib3 1.26 takes the size of a chunk, and what is behind the last
        # one, however long a line is.
        longest = getattr(http.client, "_MAXLINE", 65536)
        line: bytes = self._stream.readline(limit if limit >= 0 else longest)
        if limit < 0 and len(line) == longest:
            raise http.client.LineTooLong("line of a chunked body")
        if line and line[-1:] != b"\n" and len(line) != limit:
            raise http.client.IncompleteRead(line)
        return line


class _Answer(http.client.HTTPResponse):
    """An answer as HTTP says, where http.client says otherwise.

    Interim answers are read away, whatever their number (RFC 9110, 15.2);
    http.client passes over status 100 only, and takes the others for the
    answer, so that the real one goes to the next request. And it takes the
    end of the connection for the end of the headers.
    """

    fp: Any = None  # If it is interrupted while it is made.

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        self._progress: Optional[_Progress] = kwargs.pop("progress")
        self._is_of_head = kwargs.get("method") == "HEAD"
        super().__init__(sock, *args, **kwargs)
        self._socket = sock
        progress = self._progress
        if progress is not None and progress.deadline is not None:
            raw = self.fp.detach()
            reader = _DeadlineReader(raw, sock, progress.deadline)
            self.fp = io.BufferedReader(reader)

    def begin(self) -> None:
        if self.headers is not None:
            return
        sock, self._socket = self._socket, None
        if not _HAS_HEAD_NAMES:
            super().begin()
            return
        peek = getattr(self.fp, "peek", None)  # Stand-ins may have none.
        if self._progress is not None and (peek is None or peek(1)):
            self._progress.is_answered = True
        version, status, reason = self._read_status()
        if status == 101:  # Nobody has asked for that.
            raise http.client.BadStatusLine("101")
        self.headers = _read_headers(self.fp)
        self.code = self.status = status
        self.reason, self.msg = reason.strip(), self.headers
        if not version.startswith(("HTTP/1.", "HTTP/0.9")):
            raise http.client.UnknownProtocol(version)
        self.version = 10 if version in ("HTTP/1.0", "HTTP/0.9") else 11
        if self.debuglevel > 0:
            for name, value in self.headers.items():
                print("header:", name + ":", value)  # As http.client does.
        self._find_end()
        if self.chunked:
            # A size that broke off behind leading zeros looks like the last.
            self.fp = _WholeLines(self.fp)
        elif self.length is None and hasattr(sock, "suppress_ragged_eofs"):
            # Nothing but the end of TLS tells it apart from a part (RFC 9112,
            # 9.8).
            sock.suppress_ragged_eofs = False

    def _read_status(self) -> "Tuple[str, int, str]":
        # http.client itself reads by this what a proxy answers to CONNECT.
        while True:
            version, status, reason = super()._read_status()  # type: ignore
            if status == 101 or status >= 200:
                return version, status, reason
            _read_headers(self.fp)

    def _find_end(self) -> None:
        """Find out where the body ends, and whether the connection does.

        :raises http.client.IncompleteRead: the headers do not say
        """
        # urllib3 finds it among other codings, too.
        codings = ",".join(self.headers.get_all("Transfer-Encoding") or ())
        names = [name.strip() for name in codings.lower().split(",")]
        self.chunked, self.chunk_left = "chunked" in names, None
        self.length, has_more = None, False
        if self.status in (204, 304):
            # They have no body, whatever they say (RFC 9112, 6.3). If one
            # comes all the same, the next request must not meet it.
            size = self.headers.get("Content-Length", "0").strip()
            has_more = self.status == 204 and (self.chunked or size != "0")
            self.chunked, self.length = False, 0
            del self.headers["Transfer-Encoding"]
        elif self._is_of_head:
            self.length = 0
        elif not self.chunked:
            self.length = self._announced_length()
        self.will_close = (
            self._check_close()  # type: ignore[attr-defined]
            or self.status == 408  # So that it is not asked once more.
            or (self.length is None and not self.chunked)
            or has_more
        )

    def _announced_length(self) -> "Optional[int]":
        """The length; it may be said several times (RFC 9112, 6.3)."""
        field = self.headers.get("Content-Length")
        if field is None:
            return None
        number = r"([0-9]{1,30})([ \t]*,[ \t]*\1)*"
        same = re.fullmatch(number, field.strip())
        if same is None:  # Where the answer ends is not known.
            raise http.client.IncompleteRead(b"")
        return int(same.group(1))

    def note_chunks(self, progress: _Progress) -> None:
        """Note in this progress whether a chunk has come."""
        self._progress = progress

    def _safe_read(self, amt: int) -> bytes:
        # urllib3 reads the chunks of a body by this.
        if amt < 0:  # int() reads that, but no chunk has so many bytes.
            raise http.client.IncompleteRead(b"")
        if self._progress is not None:
            self._progress.has_chunk = True
        return super()._safe_read(amt)  # type: ignore


_HAS_HEAD_NAMES = all(
    hasattr(http.client.HTTPResponse, name)
    for name in ("_read_status", "_check_close")
)


def _read_codings(raw: HTTPResponse) -> None:
    """Leave out codings that say nothing (RFC 9110, 5.6.1 and 12.5.3).

    urllib3 takes them for deflate.
    """
    codings = raw.headers.get("Content-Encoding")
    if codings and "," in codings:
        names = [name.strip() for name in codings.split(",")]
        names = [name for name in names if name.lower() not in _NO_CODINGS]
        raw.headers["Content-Encoding"] = ", ".join(names) or "identity"


_NO_CODINGS = ("", "identity")


def _whole_stream(
    raw: HTTPResponse,
    stream: Any,
    progress: _Progress,
    *args: Any,
    **kwargs: Any,
) -> "Generator[bytes, None, None]":
    """The pieces of an answer, and an error behind the last if one is missing.

    :raises ChunkedEncodingError: it broke off
    """
    _read_codings(raw)
    try:
        for piece in stream(*args, **kwargs):
            _begin_member(getattr(raw, "_decoder", None))
            yield piece
    except DecodeError:
        # To urllib3 an empty body is half a zstd stream.
        if not _is_empty(raw, progress):
            raise
    except Exception as error:
        # urllib3 does not know all errors of the libraries that it uses.
        if type(error).__module__.partition(".")[0] in _DECODER_LIBRARIES:
            raise ChunkedEncodingError(
                f"The compressed answer broke off: {error}"
            ) from error
        raise
    else:
        _check_whole(raw, progress)


def _begin_member(decoder: Any) -> None:
    """Let urllib3 go on with the next member of a gzip stream.

    If it has given out all of a member, and no more was asked for, it goes on
    with the decoder that is at its end, and loses the rest.
    """
    if getattr(decoder, "_unconsumed_tail", b"") and decoder._obj.eof:
        decoder._obj = zlib.decompressobj(16 + zlib.MAX_WBITS)
        decoder._state = 1


class _CarefulResponse(HTTPResponse):
    """An answer that is not read here; half of it is an error all the same."""

    progress: _Progress

    def read(
        self,
        amt: "Optional[int]" = None,
        decode_content: Any = None,
        cache_content: bool = False,
    ) -> bytes:
        data = super().read(amt, decode_content, cache_content)
        is_last = amt is None or (amt > 0 and not data)
        if is_last and self.closed and self._decodes(decode_content):
            _check_whole(self, self.progress)
        return data

    def stream(
        self, amt: "Optional[int]" = 65536, decode_content: Any = None
    ) -> "Generator[bytes, None, None]":
        stream = super().stream
        if not self._decodes(decode_content):
            return stream(amt, decode_content)
        return _whole_stream(self, stream, self.progress, amt, decode_content)

    def _decodes(self, decode_content: Any) -> bool:
        is_usual = decode_content is None
        return bool(self.decode_content if is_usual else decode_content)


def _check_when_read(raw: Any, progress: "Optional[_Progress]" = None) -> None:
    """Have an answer checked when somebody else reads it."""
    if type(raw) is not HTTPResponse:  # It is a stand-in's.
        return
    if progress is None:
        progress = _Progress()
        original = getattr(raw, "_original_response", None)
        if isinstance(original, _Answer):
            original.note_chunks(progress)
    raw.__class__ = _CarefulResponse
    cast(_CarefulResponse, raw).progress = progress


def _end_is_missing(raw: HTTPResponse) -> Exception:
    """The error about an answer that is shorter than it said.

    urllib3 1.26 takes that for complete, where it was not told otherwise, as
    old requests do not tell it.
    """
    return ChunkedEncodingError(
        f"The answer broke off {raw.length_remaining} bytes before its end."
    )


def _check_whole(raw: HTTPResponse, progress: _Progress) -> None:
    """Refuse an answer that broke off, where nothing below does.

    :raises ChunkedEncodingError: it did, as far as can be seen
    """
    if raw.length_remaining:
        raise _end_is_missing(raw)
    # urllib3 takes half a compressed body for a whole one. An empty one is
    # whole: the length, or the chunks, have said so.
    decoder = getattr(raw, "_decoder", None)
    if decoder is None or not _has_body(raw, progress):
        return
    for part in getattr(decoder, "_decoders", [decoder]):
        if not _is_at_end(part):
            raise ChunkedEncodingError("The compressed answer broke off.")


def _has_body(raw: HTTPResponse, progress: _Progress) -> bool:
    """Has anything come behind the headers?"""
    return bool(raw.tell() or progress.has_chunk)


def _is_empty(raw: HTTPResponse, progress: _Progress) -> bool:
    """Has an answer, which cannot be decompressed, no body at all?"""
    if _has_body(raw, progress):
        return False
    if getattr(raw, "_decoder", raw) is not None:
        return True
    # There are so many codings that urllib3 has read nothing.
    raw.headers["Content-Encoding"] = "identity"
    return not any(HTTPResponse.stream(raw, 1, decode_content=False))


def _is_at_end(decoder: Any) -> bool:
    """Has a decoder of urllib3 seen the end of its stream?"""
    stream = getattr(decoder, "_obj", None)
    is_finished = getattr(stream, "is_finished", None)  # Of brotli.
    if is_finished is not None:
        return bool(is_finished())
    if getattr(stream, "eof", True):
        return True
    # A gzip stream may have several parts; what is none is passed over. Of a
    # single byte urllib3 does not know that yet.
    state = getattr(decoder, "_state", 0)
    return state == 2 or (state == 1 and not _can_go_on(stream))


def _can_go_on(stream: Any) -> bool:
    """Is there any byte that may follow what zlib has decompressed?"""
    for number in range(256):
        try:
            stream.copy().decompress(bytes([number]))
        except zlib.error:
            continue
        return True
    return False


# ---------------------------------------------------------------------------
# Adapters of requests before 2.32
# ---------------------------------------------------------------------------
#
# What they lack, beside those of today.


_HAS_TLS_CONTEXT = hasattr(HTTPAdapter, "get_connection_with_tls_context")


# What _OldRequests tells a pool in place of the length of a body.
_NO_LENGTH = "chunked"


def _for_attempt(pool: Any, progress: "Optional[_Progress]") -> Any:
    """A pool, whose old connections must not be used if one was dead."""
    if progress is not None and progress.needs_new_connection:
        progress.needs_new_connection = False
        pool.stale_before = _clock.monotonic()
    return pool


class _OldRequests(HTTPAdapter):
    """Lets requests before 2.32 send as later ones do."""

    # For requests before 2.32, whose pools do not know how their connections
    # were verified: an adapter for each way.
    _twins: "Optional[Dict[Any, _OldRequests]]" = None

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        self._twins = None
        super().init_poolmanager(*args, **kwargs)

    def close(self) -> None:
        super().close()
        for twin in (self._twins or {}).values():
            if twin is not self:  # Of those, it is its own.
                twin.close()

    def _send_old(
        self, request: requests.PreparedRequest, **options: Any
    ) -> Response:
        """Send by the right adapter; a body without a length by its pool.

        For such a body, old requests take a connection from the pool and
        write to it themselves: past the proxy, to which TLS and the key went,
        and past the limits of the attempt.
        """
        sender = self._twin(options["verify"], options["cert"])
        pool = sender.get_connection(str(request.url), options["proxies"])
        _for_attempt(pool, getattr(request, "_pdpyras_progress", None))
        has_length = "Content-Length" in request.headers
        knows_chunked = getattr(pool, "may_lack_length", False)
        if has_length or request.body is None or not knows_chunked:
            return super(_OldRequests, sender).send(request, **options)
        request.headers["Content-Length"] = _NO_LENGTH
        try:
            return super(_OldRequests, sender).send(request, **options)
        finally:
            del request.headers["Content-Length"]

    def _twin(self, verify: Any, cert: Any) -> "_OldRequests":
        if verify is True and cert is None:
            return self
        if self._twins is None:
            self._twins = {}
        key = (verify, cert)
        if key not in self._twins:
            twin = object.__new__(type(self))
            twin.__setstate__(self.__getstate__())  # type: ignore
            twin._twins = {key: twin}
            self._twins[key] = twin
        return self._twins[key]


# ---------------------------------------------------------------------------
# Connections
# ---------------------------------------------------------------------------
#
# The adapter of requests, and what is below it: what urllib3 and http.client
# do not do right, or do not bound. Private names of theirs: _new_conn and
# _get_conn of urllib3, _tunnel of http.client. Where one is renamed, what
# rests on it is lost, and nothing else.


class _Seconds(float):
    """A timeout that knows which attempt it is for.

    It is what reaches a connection of urllib3 from the request.
    """

    progress: _Progress


class _AttemptTimeout(Timeout):
    """A timeout of urllib3 that gives its attempt away to the connection."""

    progress: _Progress
    limits: "Tuple[Any, Any]"
    #: What connecting and waiting may take together; None: as the limits say.
    both: "Optional[float]" = None

    def clone(self) -> "_AttemptTimeout":
        twin = object.__new__(_AttemptTimeout)
        twin.__dict__.update(self.__dict__)  # copy.copy takes five times that.
        return twin

    def _limit(self, seconds: Any) -> _Seconds:
        if seconds is None or seconds > _MAX_SOCKET_TIMEOUT:
            seconds = _MAX_SOCKET_TIMEOUT
        limit = _Seconds(seconds)
        limit.progress = self.progress
        return limit

    @property
    def connect_timeout(self) -> Any:
        return self._limit(self.limits[0])

    @property
    def read_timeout(self) -> Any:
        limit = self.limits[1]
        if self.both is not None:
            left = max(self.both - self.get_connect_duration(), 0)
            limit = left if limit is None else min(limit, left)
        return self._limit(limit)


def _attempt_timeout(limits: Any, progress: _Progress) -> _AttemptTimeout:
    """A timeout as requests makes it of a number, a pair, None, or its like.

    :raises ValueError: it is none of these
    """
    connect, read, both = limits, limits, None
    if isinstance(limits, (tuple, Timeout)):
        connect, read, both = _parts_of_timeout(limits)
    timeout = _AttemptTimeout(connect, read)
    timeout.progress, timeout.limits = progress, (connect, read)
    timeout.both = both
    return timeout


class _PlainConnection(HTTPConnection):
    """A connection by HTTP that keeps to the deadline of an attempt."""

    answers = 0
    last_used = 0.0
    _is_connecting = False

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"  # So urllib3's errors name it.

    @property
    def _progress(self) -> "Optional[_Progress]":
        return getattr(self.timeout, "progress", None)

    def _answer_class(self) -> Any:
        return partial(_Answer, progress=self._progress)

    def _limit_socket(self, sock: Any) -> None:
        progress = self._progress
        if progress is not None and progress.deadline is not None:
            _limit_socket(sock, self.timeout, progress.deadline)

    def connect(self) -> None:
        self.answers, self._is_connecting = 0, True
        if self._progress is not None:
            self._progress.is_noted = True
        self.response_class = self._answer_class()  # For a proxy's answer.
        try:
            super().connect()
        finally:
            self._is_connecting = False
            self.last_used = _clock.monotonic()

    def _new_conn(self) -> Any:
        progress = self._progress
        if progress is None or progress.deadline is None:
            return super()._new_conn()
        sock = self._connect_before(progress.deadline)
        try:
            self._limit_socket(sock)  # For the handshake that follows.
        except BaseException:
            sock.close()
            raise
        return sock

    def _tunnel(self) -> None:
        super()._tunnel()
        self._limit_socket(self.sock)  # Again, for the handshake.

    def _addresses(self) -> "List[str]":
        return _addresses(self.host, self.port)

    def _connect_before(self, deadline: _Deadline) -> Any:
        """Try the addresses of a host, none after the deadline."""
        host, timeout = self.host, cast(_Seconds, self.timeout)
        addresses = self._addresses()
        try:
            for number, address in enumerate(addresses, 1):
                self.host = address
                left = _Seconds(max(min(timeout, deadline.left()), 0))
                left.progress = timeout.progress
                self.timeout = left
                try:
                    return super()._new_conn()
                except (OSError, HTTPError) as error:
                    is_last = number == len(addresses) or deadline.left() <= 0
                    if is_last or _of_signal_handler(error, None):
                        raise
        finally:
            self.host, self.timeout = host, timeout
        raise AssertionError("a host without an address")

    def _note_use(self) -> None:
        progress = self._progress
        if progress is not None:
            progress.is_noted = True
            progress.is_reused = bool(self.sock and self.answers)

    def request(self, *args: Any, **kwargs: Any) -> Any:
        self._note_use()
        if not isinstance(kwargs.get("body"), (bytes, type(None))):
            self._cut_body(args, kwargs)
        return super().request(*args, **kwargs)

    def request_chunked(self, *args: Any, **kwargs: Any) -> Any:
        # urllib3 1.26 sends by this what has no length.
        self._note_use()
        self._cut_body(args, kwargs)
        return super().request_chunked(*args, **kwargs)

    def _cut_body(self, place: Any, options: "Dict[str, Any]") -> None:
        body, headers = options.get("body"), options.get("headers") or {}
        if not isinstance(body, (bytes, type(None), _Pieces)):
            endpoint = " ".join(map(str, place[:2]))
            pieces = _Pieces(body, endpoint, headers, self._progress)
            options["body"] = pieces

    def send(self, data: Any) -> None:
        if self._is_connecting:  # It is for a proxy.
            super().send(data)
            return
        if self.sock is None and self.auto_open:
            self.connect()
        progress = self._progress
        if progress is not None:
            progress.is_sent = True
        if progress is not None and progress.deadline is not None:
            self._limit_socket(self.sock)
        try:
            super().send(data)
        except (ConnectionResetError, ssl.SSLEOFError) as error:
            # A pipe that is broken, by other names; the second one is that of
            # Python 3.11 and 3.12. urllib3 knows, of a BrokenPipeError, that
            # there may be an answer already.
            raise BrokenPipeError(str(error)) from error

    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        self.response_class = self._answer_class()
        if self._progress is not None:
            self._progress.has_chunk = False
        answer = super().getresponse(*args, **kwargs)
        self.answers += 1
        self.last_used = _clock.monotonic()
        return answer


class _SecureConnection(_PlainConnection, HTTPSConnection):
    """The same by HTTPS."""

    def connect(self) -> None:
        # Before 2.32.5, requests had a context for all, with its own bundle.
        shared = getattr(requests.adapters, "_preloaded_ssl_context", None)
        if self.ssl_context in (None, shared) and _is_ssl_replaced():
            context = _new_ssl_context(self.cert_reqs)
            if self.ssl_context is not None:
                path = requests.utils.DEFAULT_CA_BUNDLE_PATH
                context.load_verify_locations(
                    requests.utils.extract_zipped_paths(path)  # type: ignore
                )
            self.ssl_context = context
        super().connect()


class _IdleConnections:
    """The queue in which a pool keeps its connections.

    It holds as many as threads used at once, and has no lock, which a signal
    handler that sends an event could find held. The places that urllib3
    reserves in advance (None) are not needed.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self._connections: Deque[Any] = deque()

    def get(self, block: bool = True, timeout: Any = None) -> Any:
        """The connection that was used last; raises queue.Empty."""
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, item: Any, block: bool = True, timeout: Any = None) -> None:
        """Take a connection back, for the next request."""
        if item is not None:
            self._connections.append(item)

    def qsize(self) -> int:
        return len(self._connections)

    def empty(self) -> bool:  # For older releases of vcrpy.
        return not self._connections


class _CarefulPool:
    """Gives no connection away that the server may have closed already."""

    QueueCls: Any = _IdleConnections
    stale_before = 0.0
    may_lack_length = True  # See _NO_LENGTH.

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("block"):  # As many as there are places, and no more.
            self.QueueCls = queue.LifoQueue
        super().__init__(*args, **kwargs)

    def __reduce__(self) -> Any:
        # Of a pool to which a pickled error leads, nothing but its place.
        is_secure = isinstance(self, _SecurePool)
        kind: Any = _SecurePool if is_secure else _PlainPool
        return kind, (self.host, self.port)  # type: ignore[attr-defined]

    def urlopen(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request, whose headers must be plain from here on.

        Recorders of connections do not know how to write masked ones. And
        urllib3 1.26 takes less than was announced for complete, unless told.
        """
        kwargs.setdefault("enforce_content_length", True)
        progress = getattr(kwargs.get("timeout"), "progress", None)
        if progress is not None and progress.deadline is not None:
            # For a pool that blocks; others never wait.
            kwargs["pool_timeout"] = max(progress.deadline.left(), 0)
        headers = kwargs.get("headers")
        if headers:
            kwargs["headers"] = {
                name: value[:] if isinstance(value, _MASKED) else value
                for name, value in headers.items()
            }
            if headers.get("Content-Length") == _NO_LENGTH:
                del kwargs["headers"]["Content-Length"]
                kwargs["chunked"] = True
        answer = super().urlopen(*args, **kwargs)  # type: ignore[misc]
        if not isinstance(kwargs.get("timeout"), _AttemptTimeout):
            _check_when_read(answer)  # An adapter of somebody else's reads it.
        return answer

    def _get_conn(self, timeout: Any = None) -> Any:
        connection = super()._get_conn(timeout)  # type: ignore[misc]
        sock = getattr(connection, "sock", None)
        oldest = max(self.stale_before, _clock.monotonic() - _MAX_IDLE_TIME)
        last_used = getattr(connection, "last_used", 0)
        if sock and (last_used < oldest or _has_remains(sock)):
            connection.close()  # It is opened anew when it is used.
        return connection


def _has_remains(sock: Any) -> bool:
    """Has something come by TLS that no answer was made of?

    urllib3 asks the operating system, which knows of nothing that is
    decrypted already.
    """
    pending = getattr(sock, "pending", None)
    return pending is not None and pending() > 0


def _connection_class(pool: Any, original: Any, ours: Any) -> Any:
    """Our class of connections, unless a recorder has put in its own."""
    return property(
        lambda self: (
            ours if pool.ConnectionCls is original else pool.ConnectionCls
        )
    )


class _PlainPool(_CarefulPool, HTTPConnectionPool):
    ConnectionCls: Any = _connection_class(
        HTTPConnectionPool, HTTPConnection, _PlainConnection
    )


class _SecurePool(_CarefulPool, HTTPSConnectionPool):
    ConnectionCls: Any = _connection_class(
        HTTPSConnectionPool, HTTPSConnection, _SecureConnection
    )


def _adopt(adapter: Any, kind: Any) -> None:
    """Let an adapter that is mounted do what ours does, as far as it can.

    A plain ``HTTPAdapter`` carries only settings, so it becomes one of ours.
    Any other sends in its own way, but with connections of ours.

    :param kind: the class of our adapters
    """
    if type(adapter) is HTTPAdapter:
        adapter.__class__ = kind
    if isinstance(adapter, HTTPAdapter):
        _use_own_pools(getattr(adapter, "poolmanager", None))


def _use_own_pools(manager: Any) -> None:
    """Let a pool manager of urllib3 make pools and connections of ours.

    Those of a library that patches urllib3 are left as they are.
    """
    classes = getattr(manager, "pool_classes_by_scheme", None)
    socks = sys.modules.get("urllib3.contrib.socks")
    own = None
    if classes == _POOL_CLASSES:
        own = _OWN_POOL_CLASSES
    elif socks and classes == socks.SOCKSProxyManager.pool_classes_by_scheme:
        own = {scheme: _socks_pool(classes[scheme]) for scheme in classes}
    if own is not None:
        manager.clear()
        manager.pool_classes_by_scheme = own


_POOL_CLASSES = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
_OWN_POOL_CLASSES = {"http": _PlainPool, "https": _SecurePool}


def _socks_pool(theirs: Any) -> Any:
    """A pool of ours whose connections lead through a SOCKS proxy."""
    is_secure = issubclass(theirs, HTTPSConnectionPool)
    pool: Any = _SecurePool if is_secure else _PlainPool
    connection: Any = _SecureConnection if is_secure else _PlainConnection
    # Where the host is looked up, the settings of the proxy say.
    names = {"_addresses": lambda self: [self.host]}
    bases = (connection, theirs.ConnectionCls)
    kind = type(connection.__name__, bases, names)
    return type(pool.__name__, (pool, theirs), {"ConnectionCls": kind})


class _Adapter(_OldRequests):
    """Sends as HTTP says, within the bounds of the call.

    See ``_Answer``, ``_PlainConnection`` and ``_CarefulPool``.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _use_own_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        _use_own_pools(manager)
        return manager

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: Any,
        proxies: Any = None,
        cert: Any = None,
    ) -> Any:
        # Called by requests >= 2.32.2.
        pool = super().get_connection_with_tls_context(
            request, verify, proxies=proxies, cert=cert
        )
        return _for_attempt(pool, _progress_of(request))

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Send a request; unless it is to be streamed, read the answer.

        :raises RequestException: no whole answer came
        :raises PDClientError: the answer is too large, or the proxy cannot be
            told its password
        """
        if proxies:
            _check_proxy(request, proxies)
        options: Dict[str, Any] = {
            "stream": stream,
            "timeout": timeout,
            "verify": verify,
            "cert": cert,
            "proxies": proxies,
        }
        if "Proxy-Authorization" in request.headers:
            _strip_proxy_credentials(request, proxies)
        progress = _progress_of(request)
        if progress is None:  # Prepared by hand.
            progress = _Progress()
            _set_length_headers(request)
        progress.route = request.url, proxies
        progress.proxy_secrets = _proxy_secrets(proxies) if proxies else ()
        options["timeout"] = _attempt_timeout(timeout, progress)
        handled = sys.exc_info()[1]
        try:
            if _HAS_TLS_CONTEXT or _is_simple(request, options):
                response = super().send(request, **options)
            else:
                response = self._send_old(request, **options)
            # Of a redirect, the body is read by requests, and by nobody else.
            if not stream or response.is_redirect:
                _read_whole(response, progress)
            else:
                _check_when_read(response.raw, progress)
        except BaseException as error:
            own = _of_signal_handler(error, handled)
            if isinstance(error, _REQUEST_ERRORS):
                progress.signal_error = own
            translated = _translated(error, request)
            _strip_error(error, handled, _secrets(request), own)
            del own
            if translated is not None:
                raise translated from error
            # A bare `raise` restores the traceback up to Python 3.10.
            raise error
        if progress.leave is not None:
            progress.leave(response)
            progress.leave = None
        return response


def _is_simple(
    request: requests.PreparedRequest, options: "Dict[str, Any]"
) -> bool:
    """May old requests send it as they do? See ``_OldRequests``."""
    progress = _progress_of(request)
    return (
        (options["verify"], options["cert"]) == (True, None)
        and (request.body is None or "Content-Length" in request.headers)
        and (progress is None or not progress.needs_new_connection)
    )


def _check_proxy(request: requests.PreparedRequest, proxies: Any) -> None:
    """See that the proxy can be told its user and password.

    :raises PDClientError: it cannot
    """
    if not _is_sendable(request.url, proxies):
        url = str(request.url).partition("?")[0]
        raise PDClientError(
            f"{request.method} {url}: the proxy "
            f"{_proxy_in_words(request.url, proxies)} cannot be used: the "
            "user or the password in its URL has a character outside Latin-1, "
            "which no header can hold."
        )


def _raised_in(error: BaseException) -> str:
    """The name of the module that has raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__")) if frames else ""


def _translated(error: BaseException, request: Any) -> "Optional[Exception]":
    """What an error of another library is called here; None: the same."""
    if isinstance(error, requests.exceptions.InvalidHeader):
        # Ours were checked before they were sent.
        return ChunkedEncodingError(
            f"The headers of the answer contradict each other: {error}"
        )
    is_text = isinstance(request.body, (str, bytes, type(None)))
    kinds = (AttributeError, TypeError, UnicodeError)
    if is_text or not isinstance(error, kinds):
        return None
    place = _raised_in(error).partition(".")[0]
    if place not in ("http", "requests", "socket", "ssl", "urllib3"):
        return None  # It is of an iterator of the caller's.
    return _unsendable(f"{request.method} {request.url}", error)


def _progress_of(request: Any) -> "Optional[_Progress]":
    progress = getattr(request, "_pdpyras_progress", None)
    if progress is None:
        # A hook sends a copy, such as that of digest authentication. It has
        # the same hooks.
        hooks = (getattr(request, "hooks", None) or {}).get("response")
        for hook in hooks if isinstance(hooks, list) else ():
            options = hook.keywords if isinstance(hook, partial) else {}
            attempt = options.get("progress")
            if isinstance(attempt, _Progress) and attempt.is_in_hook:
                return attempt
    return progress


def _read_whole(response: Any, progress: _Progress) -> None:
    """Read an answer to its end, which must be the one that it announced.

    :raises ChunkedEncodingError: it broke off
    :raises PDClientError: it is larger than allowed
    """
    raw, max_size = response.raw, progress.max_size
    if not isinstance(raw, HTTPResponse):
        _ = response.content  # It is a stand-in's.
        return
    stream: Any = raw.stream
    is_encoded = "Content-Encoding" in raw.headers
    if max_size is not None:
        if not is_encoded:
            _check_size(response, raw.length_remaining or 0, max_size)
        stream = partial(_limited_stream, response, stream, max_size)
    if is_encoded:
        stream = partial(_whole_stream, raw, stream, progress)
    setattr(raw, "stream", stream)  # noqa: B010
    try:
        _ = response.content
    finally:
        vars(raw).pop("stream", None)
    if raw.length_remaining and not is_encoded:
        raise _end_is_missing(raw)


def _limited_stream(
    response: Any, stream: Any, max_size: int, amount: int, **kwargs: Any
) -> "Iterator[bytes]":
    encoding = response.raw.headers.get("Content-Encoding")
    if encoding and not _HAS_BOUNDED_DECODERS:
        # So little at once that, a thousand times as long after each
        # coding, it is a quarter of what is allowed.
        codings = [name.strip() for name in encoding.lower().split(",")]
        amount = max(min(amount, max_size // 4 // 1000 ** len(codings)), 1)
        if not _UNBOUNDED_CODINGS.isdisjoint(codings):
            # In so few bytes, no more than one block of brotli ends, and each
            # has 16 MiB at most.
            amount = min(amount, 8)
            _bound_decoders(response, max_size, amount)
    size = 0
    for piece in stream(amount, **kwargs):
        size += len(piece)
        _check_size(response, size, max_size)
        yield piece


# urllib3 2.6 and later decompresses no more at once than was asked for.
_HAS_BOUNDED_DECODERS = hasattr(GzipDecoder, "has_unconsumed_tail")

# Of others, these codings are not asked for: a few bytes may hold any number.
_UNBOUNDED_CODINGS = frozenset(() if _HAS_BOUNDED_DECODERS else ("br", "zstd"))


def _bound_decoders(response: Any, max_size: int, step: int) -> None:
    """Let each of several codings stop when it gives the next one too much."""
    response.raw._init_decoder()
    for decoder in getattr(response.raw._decoder, "_decoders", ()):
        decoder.decompress = partial(
            _decompress_in_steps, decoder.decompress, response, max_size, step
        )


def _decompress_in_steps(
    decompress: Any, response: Any, max_size: int, step: int, data: bytes
) -> bytes:
    pieces = []
    size = 0
    for start in range(0, len(data), step):
        pieces.append(decompress(data[start : start + step]))
        size += len(pieces[-1])
        # What is packed twice may be larger in between.
        if size > max_size + _READ_SIZE:
            _check_size(response, size, max_size)
    return b"".join(pieces)


def _check_size(response: Any, size: int, max_size: int) -> None:
    if size > max_size:
        response.close()
        raise PDClientError(
            f"{_request_line(response)}: the answer has more than {max_size} "
            "bytes (max_response_size).",
            response,
        )


class _FastAdapter(_Adapter):
    """Remembers the pool that was used last.

    Finding the pool of a URL takes requests as long as it takes to build the
    URL, for the same answer each time. (Before requests 2.32.2 it asks in
    another way, and all is as it was.)
    """

    _recent: "Optional[Tuple[str, Any, Any, Any]]" = None

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        self._recent = None
        super().init_poolmanager(*args, **kwargs)

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: Any,
        proxies: Any = None,
        cert: Any = None,
    ) -> Any:
        find = super().get_connection_with_tls_context
        progress = _progress_of(request)
        if proxies or (progress is not None and progress.needs_new_connection):
            return find(request, verify, proxies=proxies, cert=cert)
        url = str(request.url)
        recent = self._recent
        if recent is not None:
            place, same_verify, same_cert, reference = recent
            pool = reference()
            if (
                pool is not None  # It was not thrown away meanwhile,
                and pool.pool is not None  # nor closed.
                and url.startswith(place)
                and verify == same_verify
                and cert == same_cert
            ):
                return pool
        pool = find(request, verify, proxies=proxies, cert=cert)
        place = url[: url.find("/", 8) + 1]
        if place:
            # A reference that does not keep the pool open: urllib3 2 closes
            # a pool when nothing refers to it any more.
            self._recent = (place, verify, cert, weakref.ref(pool))
        return pool

    def build_response(
        self, req: requests.PreparedRequest, resp: Any
    ) -> Response:
        """Make a response, and look for cookies only if there are some."""
        if type(resp) is not HTTPResponse or "Set-Cookie" in resp.headers:
            return super().build_response(req, resp)
        # Where there is no original response, requests does not look. The
        # search takes longer than all the rest here.
        original, resp._original_response = resp._original_response, None
        try:
            return super().build_response(req, resp)
        finally:
            resp._original_response = original

    def request_url(
        self, request: requests.PreparedRequest, proxies: Any
    ) -> Any:
        url = str(request.url)
        start = url.find("/", 8)
        if (
            proxies
            or start < 0
            or "#" in url
            or "?" in url[:start]
            or url.startswith("//", start)
        ):
            return super().request_url(request, proxies)
        return url[start:]


# ---------------------------------------------------------------------------
# Transport
# ---------------------------------------------------------------------------
#
# What requests does not do right is mended in _Transport, such as which
# redirects are followed (_check_redirect). What is merely faster stands in
# _FastTransport, and can be left out: PDSession works without it. Private
# names of other libraries stand here and above, nowhere else.

# The parameters of requests.Session.request after method and URL, for
# callers who give them by position.
_REQUEST_PARAMETERS = (
    *("params", "data", "headers", "cookies", "files", "auth", "timeout"),
    *("allow_redirects", "proxies", "hooks", "stream", "verify", "cert"),
    "json",
)
_REQUEST_NAMES = frozenset(_REQUEST_PARAMETERS)


def _name_arguments(args: "List[Any]", kwargs: Any) -> None:
    """Turn arguments given by position into keyword arguments.

    :raises TypeError: there are too many, or one is given twice; then all
        are gone, so that no crash report shows them
    """
    names = _REQUEST_PARAMETERS[: len(args)]
    is_clear = len(names) == len(args) and kwargs.keys().isdisjoint(names)
    kwargs.update(zip(names, args))
    args.clear()
    if not is_clear:
        kwargs.clear()
        raise TypeError("Too many arguments, or one that is given twice.")


def _check_arguments(
    method: str, full_url: str, options: "Iterable[str]", send: Any
) -> None:
    """See that a session of requests takes these keyword arguments.

    :param send: its method ``request``; a stand-in may take more than usual
    :raises TypeError: it does not take one of them
    """
    taken = _signature(send).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    known = [*_REQUEST_PARAMETERS, "deadline", *taken]
    if not takes_any and not set(known).issuperset(options):
        raise _unknown_argument(f"{method} {full_url}", options, known)


class _KeepAuthorization(AuthBase):
    """Authentication that adds nothing: the header is there already.

    Without any, requests would look for credentials in ``.netrc``, and put
    them in place of the API key.
    """

    def __call__(
        self, r: requests.PreparedRequest
    ) -> requests.PreparedRequest:
        return r


_KEEP_AUTHORIZATION = _KeepAuthorization()


class _Transport(requests.Session):
    """A session of requests that sends a key to the configured API only."""

    url: str

    _adapter_class = _Adapter

    def __init__(self) -> None:
        super().__init__()
        if _UNBOUNDED_CODINGS:
            self.headers["Accept-Encoding"] = "gzip, deflate"
        self.mount("https://", self._adapter_class())
        self.mount("http://", self._adapter_class())

    def mount(self, prefix: "Union[str, bytes]", adapter: Any) -> None:
        """Send what goes to a place by an adapter, as requests does.

        An ``HTTPAdapter``, with settings of yours, becomes one of those that
        this library has, which keep its promises.
        """
        _adopt(adapter, self._adapter_class)
        super().mount(prefix, adapter)

    def prepare_request(
        self, request: requests.Request
    ) -> requests.PreparedRequest:
        """Prepare a request as requests does, but without ``.netrc``.

        :raises PDClientError: no request can be made of the arguments
        """
        try:
            return self._prepare(request)
        except RequestException:
            raise
        except (TypeError, ValueError, RecursionError) as error:
            raise PDClientError(
                f"{request.method} {request.url}: no request can be made of "
                f"these arguments. {type(error).__name__}: {error}"
            ) from error

    def _prepare(self, request: requests.Request) -> requests.PreparedRequest:
        request = copy(request)
        endpoint = f"{request.method} {request.url}"
        if not isinstance(request.data, bytes):
            request.data = _masked(_as_bytes(request.data, endpoint))
        if not (request.auth or self.auth or _has_userinfo(request.url)):
            request.auth = _KEEP_AUTHORIZATION
        prepared = super().prepare_request(request)
        if isinstance(prepared.body, _SecretBytes):
            prepared.body = bytes(prepared.body)
        _set_length_headers(prepared)
        self._strip_credentials(prepared)
        progress = getattr(request.headers, "progress", None)
        if progress is not None:
            _note_progress(prepared, progress)
        return prepared

    def _strip_credentials(self, prepared: requests.PreparedRequest) -> None:
        """Take the session's credential off a request to somebody else.

        It is there only if the request was made by hand: ``request`` gives
        the headers itself, after it has seen to it where they go.
        """
        url = str(prepared.url)
        if not _is_inside(self.url, url) or _has_dot_segments(url):
            for name, value in list(prepared.headers.items()):
                if isinstance(value, _Secret):
                    del prepared.headers[name]

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """Find proxies and CA bundle as requests does.

        But a bundle that the session names is not replaced by one that the
        environment names.
        """
        if verify in (None, True) and not isinstance(self.verify, bool):
            verify = self.verify
        settings = super().merge_environment_settings(
            url, proxies, stream, verify, cert
        )
        proxies = _masked_proxies(settings["proxies"])
        if proxies:
            self._warn_of_plain_proxy(str(url), proxies)
        return dict(settings, proxies=proxies)

    def _warn_of_plain_proxy(self, url: str, proxies: Any) -> None:
        """Called before a request that may go by one of these proxies."""

    def rebuild_proxies(
        self, prepared_request: requests.PreparedRequest, proxies: Any
    ) -> Any:
        """Find the proxies for the target of a redirect."""
        proxies = super().rebuild_proxies(  # type: ignore
            prepared_request, proxies
        )
        # requests has put the password of the proxy into the headers.
        prepared_request.headers.update(
            _masked_headers(prepared_request.headers)
        )
        return _masked_proxies(proxies)

    def get_redirect_target(self, resp: Response) -> "Optional[str]":
        """Where a response redirects to; None if it does not.

        :raises PDClientError: it must not be followed there
        :raises InvalidURL: that is no URL
        """
        try:
            target = super().get_redirect_target(resp)
            if target is not None:
                target = urljoin(str(resp.url), target)
                _ = urlsplit(target).port  # requests asks for it unguarded.
        except ValueError as error:
            resp.close()
            raise InvalidURL(
                f"The redirect cannot be followed: {error}", response=resp
            ) from error
        is_ours = _progress_of(resp.request) is not None
        if target is not None and (
            is_ours or _is_inside_or_upgraded(self.url, str(resp.url))
        ):
            target = _Secret(target)  # It may quote the key.
            self._check_redirect(resp, target)
        return target

    def _check_redirect(self, response: Response, target: str) -> None:
        """Follow no redirect to somebody else, nor one that loses a write.

        :raises PDClientError: this is one
        """
        method, body = response.request.method, response.request.body
        is_write = method not in ("GET", "HEAD")
        keeps_body = response.status_code in (307, 308)
        is_inside = _is_inside_or_upgraded(self.url, target)
        if not is_inside or _has_dot_segments(target):
            problem = "which is outside the API"
        elif is_write and not keeps_body:
            problem = f"which would lose the {method}"
        elif keeps_body and _is_used_up(response.request, body):
            problem = "but the body was an iterator, which is used up"
        else:
            return
        response.close()
        raise PDClientError(
            f"{_request_line(response)}: the answer (status "
            f"{response.status_code}) redirects to {target}, {problem}. It is "
            "not followed.",
            response,
        )

    def resolve_redirects(
        self, resp: Response, *args: Any, **kwargs: Any
    ) -> Any:
        """Follow redirects; raise a RequestException where one cannot be."""
        if not resp.is_redirect:
            return
        try:
            yield from super().resolve_redirects(resp, *args, **kwargs)
        except RequestException:
            raise
        except PDClientError:
            if not kwargs.get("yield_requests"):  # Is it only looked at?
                raise
        except (ValueError, RuntimeError) as error:
            progress = _progress_of(resp.request)
            hook_error = None if progress is None else progress.hook_error
            # A StopIteration of a hook is made a RuntimeError on the way.
            is_hooks = hook_error is error or hook_error is error.__cause__
            if hook_error is not None and is_hooks:
                raise
            raise ChunkedEncodingError(
                f"The redirect cannot be followed: {error}"
            ) from error

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: Response
    ) -> None:
        """Follow a redirect without the key, if it leads to another host.

        Credentials from ``.netrc`` are not looked for.
        """
        progress = _progress_of(response.request)
        if progress is not None:
            prepared_request._pdpyras_progress = progress  # type: ignore
            progress.begin_exchange()
            # What ended one connection ends that of the redirect as well.
            progress.needs_new_connection = progress.met_stale_connection
        asked, target = response.request.url, prepared_request.url
        if self.should_strip_auth(asked, target):  # type: ignore
            prepared_request.headers.pop("Authorization", None)


def _note_progress(
    prepared: requests.PreparedRequest, progress: _Progress
) -> None:
    """Tell the adapter of an attempt; note errors that hooks raise."""
    prepared._pdpyras_progress = progress  # type: ignore
    hooks = prepared.hooks.get("response")
    if hooks:
        prepared.hooks["response"] = [
            partial(_call_hook, hook, progress=progress) for hook in hooks
        ]


def _call_hook(
    hook: "Callable[..., Any]",
    *args: Any,
    progress: _Progress,
    **kwargs: Any,
) -> Any:
    progress.is_in_hook = True
    try:
        return hook(*args, **kwargs)
    except BaseException as error:
        # Digest authentication sends the request again, for the caller.
        if not isinstance(getattr(hook, "__self__", None), HTTPDigestAuth):
            progress.hook_error = error
            if isinstance(error, PDClientError):
                error._is_of_hook = True
        raise
    finally:
        progress.is_in_hook = False


# The names of requests that _FastTransport uses although they are private.
# Where one is missing, requests does the work.
_HAS_PRIVATE_NAMES = hasattr(
    requests.PreparedRequest, "_encode_params"
) and hasattr(requests.PreparedRequest(), "_cookies")

# A URL that requests would leave as it is.
_PLAIN_URL = (
    r"https?://[a-z0-9][a-z0-9.-]*"
    r"(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}))?"
    r"(/([A-Za-z0-9_~-][A-Za-z0-9._~-]*)?)+\Z"
)


class _Environment:
    """What requests took from the environment, and what that rests on.

    It is never a local variable as a dict: the environment has many secrets,
    and crash reporters send local variables.
    """

    def __init__(self, session: requests.Session, origin: str) -> None:
        self.origin = origin
        self.trust_env = session.trust_env
        self.variables = dict(_variables())
        self.session_proxies = dict(session.proxies)
        self.proxies: Dict[str, str] = {}
        self.bundle: Optional[str] = None
        if self.trust_env:
            self.bundle = os.environ.get(
                "REQUESTS_CA_BUNDLE"
            ) or os.environ.get("CURL_CA_BUNDLE")

    def names_a_proxy(self) -> bool:
        """Is there any variable among which requests looks for proxies?"""
        return bool(self.session_proxies) or any(
            os.fsdecode(name).lower().endswith("_proxy")
            for name in self.variables
        )

    def is_current(self, session: requests.Session, origin: str) -> bool:
        return (
            self.origin == origin
            and self.trust_env == session.trust_env
            and self.variables == _variables()
            and self.session_proxies == session.proxies
        )


def _variables() -> Any:
    """The variables as they are stored, to be compared in one step."""
    return getattr(os.environ, "_data", None)


class _FastTransport(_Transport):
    """Does what requests does in a third of the time, where it is simple."""

    _adapter_class = _FastAdapter
    _environment: "Optional[_Environment]" = None

    def _prepare(self, request: requests.Request) -> requests.PreparedRequest:
        if self._is_plain(request):
            return self._prepare_plain(request)
        return super()._prepare(request)

    def _is_plain(self, request: requests.Request) -> bool:
        """Is nothing about it but method, URL, query, headers and JSON?"""
        return _HAS_PRIVATE_NAMES and not (
            type(request.headers) is not _CompleteHeaders
            or request.auth
            or request.cookies
            or request.data
            or request.files
            or self.auth
            or self.cookies
            or self.params
            or any(request.hooks.values())
            or any(self.hooks.values())
            or isinstance(request.params, (str, bytes))
            or not re.match(_PLAIN_URL, str(request.url))
        )

    def _prepare_plain(
        self, request: requests.Request
    ) -> requests.PreparedRequest:
        prepared = requests.PreparedRequest()
        method: Any = request.method
        prepared.method = str(method)
        prepared.url = str(request.url)
        if request.params:
            query: Any = prepared._encode_params(request.params)  # type: ignore
            if query:
                prepared.url += "?" + query.replace("%7E", "~")
        prepared._pdpyras_progress = request.headers.progress  # type: ignore
        headers = prepared.headers = CaseInsensitiveDict()
        for name, value in request.headers.items():
            if value is not None:
                name = name if isinstance(name, str) else _as_str(name)
                headers[name] = value
        prepared._cookies = RequestsCookieJar()  # type: ignore
        prepared.hooks = {"response": []}
        if request.json is not None:
            prepared.prepare_body(None, None, request.json)
        elif prepared.method not in ("GET", "HEAD"):
            headers.setdefault("Content-Length", "0")
            _set_length_headers(prepared)
        elif "Content-Length" in headers:
            del headers["Content-Length"]
        if "Transfer-Encoding" in headers:  # It says something else.
            del headers["Transfer-Encoding"]
        return prepared

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """Find proxies and CA bundle as requests does.

        Reading the environment takes requests a third of the time of a
        request. It is read again only when it has changed.
        """
        is_plain = (
            not proxies
            and verify is None
            and cert is None
            and isinstance(self.verify, bool)
        )
        if _variables() is None or not is_plain or _HAS_SYSTEM_PROXIES:
            return super().merge_environment_settings(
                url, proxies, stream, verify, cert
            )
        origin = str(url)[: str(url).find("/", 8)]
        known = self._environment
        if known is None or not known.is_current(self, origin):
            known = _Environment(self, origin)
            if known.names_a_proxy():
                known.proxies = super().merge_environment_settings(
                    url, {}, None, None, None
                )["proxies"]
            self._environment = known
        return {
            "proxies": dict(known.proxies),
            "stream": self.stream if stream is None else stream,
            "verify": known.bundle or self.verify,
            "cert": self.cert,
        }


# ---------------------------------------------------------------------------
# Parts of a session
# ---------------------------------------------------------------------------


def _forget_connections(adapter: HTTPAdapter) -> None:
    """Begin with new pools of the same settings, as unpickling does."""
    adapter.__setstate__(adapter.__getstate__())  # type: ignore
    _adopt(adapter, type(adapter))


if TYPE_CHECKING:
    _AuthType = Literal["token", "bearer", "oauth2"]
    _Region = Literal["us", "eu"]
    _AnyRegion = Optional[_Region]
    _Severity = Literal["critical", "error", "warning", "info"]
    _Timeout = Union[None, float, Tuple[Optional[float], Optional[float]]]

    class _Credential(Protocol):
        def token(self) -> str: ...

        def renew(self, refused: str) -> None: ...

    class _BodylessOptions(TypedDict, total=False):
        params: Any
        headers: Optional[Mapping[str, Any]]
        timeout: _Timeout
        deadline: Optional[float]
        cookies: Any
        files: Any
        auth: Any
        allow_redirects: bool
        proxies: Any
        hooks: Any
        stream: Optional[bool]
        verify: Union[None, bool, str]
        cert: Union[None, str, Tuple[str, str]]

    class _JSONOptions(_BodylessOptions, total=False):
        json: Any

    class _Options(_JSONOptions, total=False):
        data: Any

    class _IterationOptions(TypedDict, total=False):
        params: Any
        page_size: Optional[int]
        item_hook: Optional[_ItemHook]
        total: bool
        json: Any
        prefetch: Optional[int]
        paginate: Optional[bool]
        deadline: Optional[float]

    class _EventOptions(TypedDict, total=False):
        severity: _Severity
        payload: Optional[Mapping[str, Any]]
        custom_details: Optional[Mapping[str, Any]]
        images: Optional[Sequence[Mapping[str, Any]]]
        links: Optional[Sequence[Mapping[str, Any]]]
        component: Optional[str]
        group: Optional[str]
        class_: Optional[str]
        client: Optional[str]
        client_url: Optional[str]
        timestamp: Union[None, str, datetime]
        deadline: Optional[float]

else:
    _AuthType = _Region = _Severity = str
    _AnyRegion = Optional[str]
    _BodylessOptions = _JSONOptions = _Options = Any
    _IterationOptions = _EventOptions = _Timeout = Any
    Unpack = {Any: Any}  # What it is given.


# Settings that nothing is compared with before something has gone wrong, and
# whether they may be None.
_NUMERIC_SETTINGS = {
    "max_http_attempts": False,
    "max_network_attempts": False,
    "max_rate_wait": True,
    "max_response_size": True,
    "sleep_timer": False,
    "sleep_timer_base": False,
    "sleep_timer_max": False,
}


def _check_number(name: str, value: Any) -> None:
    may_be_none = _NUMERIC_SETTINGS[name]
    if value is None and may_be_none:
        return
    is_number = hasattr(value, "__float__") and not isinstance(value, bool)
    if not is_number or not value >= 0:
        or_none = ", or None" if may_be_none else ""
        raise ValueError(
            f"{name} must be a number from 0{or_none}, not {value!r}."
        )


def _copied_jar(cookies: Any) -> Any:
    """The same cookies, with a lock of their own."""
    if hasattr(cookies, "copy"):
        return cookies.copy()
    # A jar of the standard library, which cannot be copied.
    if hasattr(cookies, "_cookies_lock"):
        cookies._cookies_lock = threading.RLock()
    return cookies


def _copied_state(state: "Dict[str, Any]") -> "Dict[str, Any]":
    """The state of a session for its copy: copy.copy gives the original's."""
    state = {
        name: copy(value) if isinstance(value, dict) else value
        for name, value in state.items()
    }
    state["headers"] = state["headers"].copy()
    hooks = state["hooks"].items()
    state["hooks"] = {event: list(called) for event, called in hooks}
    if hasattr(state["cookies"], "copy"):
        state["cookies"] = state["cookies"].copy()
    return state


class _SessionLogger(logging.Logger):
    """A logger of one session, child of the module's and in no registry.

    Loggers cache which levels are enabled, and are told through the registry
    when that changes. This one never hears of it, so it must not cache.
    """

    def __init__(self) -> None:
        super().__init__(_log.name)
        self.parent = _log

    def filter(self, record: Any) -> Any:
        """Let those of the module's logger decide, too."""
        return super().filter(record) and _log.filter(record)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        return (
            not (self.disabled or _log.disabled)
            and self.manager.disable < level
            and level >= self.getEffectiveLevel()
        )


class _Logging:
    """The log of a session."""

    _log: Any

    @property
    def log(self) -> Any:
        """The session's own logger, unconfigured, child of ``pdpyras``."""
        return self._log

    @log.setter
    def log(self, log: Any) -> None:
        is_on, self.print_debug = self.print_debug, False
        self._log = log
        self.print_debug = is_on

    @log.deleter
    def log(self) -> None:
        self.log = _SessionLogger()

    @property
    def print_debug(self) -> bool:
        """Whether the log of this session is printed to stderr."""
        return hasattr(self, "_debugHandler")

    @print_debug.setter
    def print_debug(self, on: bool) -> None:
        if on and not self.print_debug:
            self._debugHandler = logging.StreamHandler()
            self._level_before = self.log.level
            self.log.addHandler(self._debugHandler)
            self.log.setLevel(logging.DEBUG)
        elif not on and self.print_debug:
            self.log.removeHandler(self._debugHandler)
            del self._debugHandler
            self.log.setLevel(self._level_before)

    #: The name that ``print_debug`` had in version 4.6.
    debug = print_debug


class _RetryLimits(dict):  # type: ignore[type-arg]
    """Retries by HTTP status, checked when they are set."""

    def __init__(self, limits: Any = ()) -> None:
        super().__init__()
        self.update(limits)

    def __setitem__(self, status: Any, limit: Any) -> None:
        number = int(status) if _is_digits(status) else status
        if not _is_int(number) or not _is_int(limit) or limit < -1:
            raise ValueError(
                "retry must map HTTP statuses (int) to numbers of retries "
                f"(int from -1), not {status!r} to {limit!r}."
            )
        super().__setitem__(number, limit)

    def update(self, *args: Any, **kwargs: Any) -> None:
        try:
            limits = dict(*args, **kwargs)
        except (TypeError, ValueError):
            raise ValueError(
                "retry must be a dict of numbers of retries by HTTP status, "
                f"not {args!r}."
            ) from None
        for status, limit in limits.items():
            self[status] = limit

    setdefault = abc.MutableMapping.setdefault


def _is_digits(text: Any) -> bool:
    return isinstance(text, str) and text.isdigit()


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _key_problem(key: Any) -> str:
    """Why a key cannot be a credential, and what to do; it is not shown."""
    if key is None:
        return "it is None. Is the variable set from which it was read?"
    if isinstance(key, (bytes, bytearray)):
        return "it is bytes. Decode it: key.decode()"
    if not isinstance(key, str):
        return f"it is of the type {type(key).__name__}."
    if not key.strip():
        return "it is empty. Is the variable set from which it was read?"
    if re.match("(?i)token token=|(token|bearer) ", key):
        return (
            "it begins like a header. Leave out `Token token=` or `Bearer`, "
            "which the client adds."
        )
    if key[0] in "'\"" and key[-1] == key[0]:
        return "it has quotation marks around it. Leave them out."
    return (
        "it has white space, control characters, or characters outside ASCII "
        "in it. Was it read from a file together with its newline?"
    )


# Of each set, an argument that is given leaves no room for the others.
_ALTERNATIVE_ARGUMENTS = (
    frozenset(("url", "region")),
    frozenset(("default_from", "default_sender")),
)


# ---------------------------------------------------------------------------
# PDSession
# ---------------------------------------------------------------------------


class PDSession(_FastTransport, _Transport, _Logging):
    """What all the clients share; not meant to be used by itself.

    A subclass states its ``url``, ``permitted_methods`` and headers. The
    attributes below may be set on the class or on each session.

    A pickle of a session contains its key. The log does not travel with it.

    :param api_key: credential of the API: a non-empty str without white
        space, control characters, or characters outside ASCII; or an object
        with ``token() -> str``, which is called before each attempt, and
        ``renew(refused: str) -> None``, which is called once in a call that
        was answered 401, before it is repeated
    :param debug: True prints the log of this session to stderr
    :param name: deprecated, and ignored
    :param url: base URL of the API, as the attribute
    :param region: service region, ``us`` or ``eu``, in place of the URL
    :raises ValueError: the key cannot be a credential; the region is none of
        these; or both URL and region are given
    :raises URLError: the URL is none
    """

    #: Early-access programs that the account takes part in, as the API
    #: reference names them: ``{"ip-allow-lists"}``.
    early_access: "Collection[str]" = frozenset()
    #: Seconds in which a call ends, whatever happens: connecting, retries,
    #: pauses and all. Later it is a :class:`PDDeadlineError`. None is without
    #: limit. Most methods that send take a ``deadline`` of their own.
    deadline: "Optional[float]" = None
    #: Retries (not counting those of unlimited statuses) in one call.
    max_http_attempts: int = 10
    #: Retries after network trouble in one call.
    max_network_attempts: int = 3
    #: Bytes that an answer may have, after decompression; a larger one is a
    #: :class:`PDClientError`. None is without limit, and so is
    #: ``stream=True``.
    max_response_size: "Optional[int]" = 64 * 1024 * 1024
    #: HTTP methods that the API takes.
    permitted_methods: "Sequence[str]" = ()
    #: Longest wait in seconds that the API may ask for, by a 429 or 503; a
    #: longer one raises :class:`PDRateLimitError`. None is without limit.
    max_rate_wait: "Optional[float]" = None
    #: Retries by HTTP status; -1 retries without limit, 0 never.
    retry: "Dict[int, int]" = {}
    #: False: a POST or PATCH whose answer was lost on the way, or for which a
    #: gateway answered 502 or 504, is not repeated, because the API may have
    #: carried it out.
    retry_ambiguous_writes: bool = True
    #: True: a GET that is answered 500, 502, 503 or 504 is retried three
    #: times, where :attr:`retry` does not say otherwise.
    retry_reads: bool = False
    #: Seconds, from which the pauses between attempts grow.
    sleep_timer: float = 1.5
    #: Factor by which each pause is longer than the one before.
    sleep_timer_base: float = 2
    #: Longest pause in seconds between attempts, where the API does not say
    #: how long to wait.
    sleep_timer_max: float = 60
    #: Seconds without an answer after which an attempt has failed; a pair is
    #: (for the connection, for the answer); None is without limit.
    timeout: Any = TIMEOUT
    #: Base URL of the API. Credentials go to this scheme, host and port only.
    url: str = ""

    __attrs__ = requests.Session.__attrs__ + [
        "_api_key",
        "_credential",
        "_stagger_cooldown",
        "_warned_of",
        "deadline",
        "early_access",
        "max_http_attempts",
        "max_network_attempts",
        "max_rate_wait",
        "max_response_size",
        "permitted_methods",
        "print_debug",
        "retry",
        "retry_ambiguous_writes",
        "retry_reads",
        "sleep_timer",
        "sleep_timer_base",
        "sleep_timer_max",
        "timeout",
        "url",
    ]

    _api_key: str = ""
    _confidential: "FrozenSet[str]" = _CONFIDENTIAL
    _credential: Any = None
    _key_variable = "PAGERDUTY_API_KEY"
    _url_variable = "PAGERDUTY_URL"
    _regions: "Mapping[str, str]" = {}
    _parent: Any = None
    _stagger_cooldown: float = 0
    _warned_of: str = ""
    _warned_of_proxy: str = ""

    def __init__(
        self,
        api_key: "Union[str, _Credential]",
        debug: bool = False,
        name: "Optional[str]" = None,
        url: Any = None,
        region: _AnyRegion = None,
    ) -> None:
        api_key = _masked(api_key)
        if name is not None:
            deprecated_kwarg("name", "It has no effect.")
        super().__init__()
        self._choose_url(url, region)
        self._check_class()
        self._reset_transient_state()
        self.retry = dict(type(self).retry)
        self.headers["User-Agent"] = self.user_agent
        self.api_key = api_key
        self.print_debug = debug

    def _check_class(self) -> None:
        """See that what a subclass has set is what an instance would take.

        :raises ValueError: it is not
        """
        for name in _NUMERIC_SETTINGS:
            value = getattr(type(self), name)
            if value is not getattr(PDSession, name) and not hasattr(
                value, "__get__"
            ):
                _check_number(name, value)

    @classmethod
    def from_env(cls: "Type[_Session]", **overrides: Any) -> _Session:
        """A session with the settings that the environment names.

        The key is in ``PAGERDUTY_API_KEY``, or for events in
        ``PAGERDUTY_ROUTING_KEY``; ``PAGERDUTY_FROM``, ``PAGERDUTY_REGION`` and
        ``PAGERDUTY_URL`` (for events ``PAGERDUTY_EVENTS_URL``) are respected.

        :param overrides: arguments of the class, which win
        :raises ValueError: there is no key
        """
        if "api_key" in overrides:
            overrides["api_key"] = _masked(overrides["api_key"])
        arguments = cls._arguments_from(os.environ)
        for names in _ALTERNATIVE_ARGUMENTS:
            if not names.isdisjoint(overrides):
                for name in names:
                    arguments.pop(name, None)
        arguments.update(overrides)
        if arguments.get("api_key") is None:
            raise ValueError(
                "There is no key: set the environment variable "
                f"{cls._key_variable}."
            )
        return cls(**arguments)

    @classmethod
    def _arguments_from(cls, environ: "Mapping[str, str]") -> "Dict[str, Any]":
        arguments = {
            "api_key": _masked(environ.get(cls._key_variable) or None),
            "region": environ.get("PAGERDUTY_REGION") or None,
            "url": environ.get(cls._url_variable) or None,
        }
        return _without_none(**arguments)

    def _choose_url(self, url: Any, region: "Optional[str]") -> None:
        if url is not None and region is not None:
            raise ValueError(
                "Give a url or a region, not both. They may be in the "
                f"environment: {self._url_variable}, PAGERDUTY_REGION."
            )
        if url is not None:
            _base(str(url))
            self.url = url
        elif region is not None:
            if region not in self._regions:
                known = ", ".join(map(repr, self._regions)) or "none"
                raise ValueError(
                    f"region must be one of {known}, not {region!r}."
                )
            self.url = self._regions[region]

    if not TYPE_CHECKING:  # Checkers would accept any attribute.

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "retry":
                value = _RetryLimits(value)
            elif name == "api_key":
                value = _masked(value)  # Crash reporters send locals.
            elif name == "url" and not isinstance(value, str):
                value = str(value)
            elif name in _NUMERIC_SETTINGS:
                _check_number(name, value)
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.trunc_key} at {self.url}>"

    @_deprecated("5.0.0", "Set the attribute `api_key` instead.", hides=True)
    def set_api_key(self, api_key: str) -> None:
        """Set the key.

        :param api_key: credential of the API
        """
        api_key = _masked(api_key)
        self.api_key = api_key

    @property
    @_deprecated("5.0.0", "Use `require_complete_results` instead.")
    def raise_if_http_error(self) -> bool:
        """The old name of :attr:`APISession.require_complete_results`."""
        return getattr(self, "require_complete_results", True)

    @raise_if_http_error.setter
    @_deprecated("5.0.0", "Use `require_complete_results` instead.")
    def raise_if_http_error(self, require: bool) -> None:
        # To checkers, it would be an attribute of all sessions.
        setattr(self, "require_complete_results", require)  # noqa: B010

    def _reset_transient_state(self) -> None:
        """Set up what is never pickled."""
        self._log: Any = _SessionLogger()
        self._gate = _RateGate()
        self._environment = None
        self._process = os.getpid()

    def __setstate__(self, state: "Dict[str, Any]") -> None:
        self._reset_transient_state()
        state = _copied_state(state)
        super().__setstate__(state)  # type: ignore
        for adapter in self.adapters.values():
            _adopt(adapter, self._adapter_class)

    # -- Credentials --------------------------------------------------------

    @property
    def api_key(self) -> str:
        """The credential of the API; of an object that renews it, its token.

        :raises PDClientError: as the object does
        """
        if self._credential is not None:
            self._api_key = _Secret(self._credential.token())
        return str(self._api_key)

    @api_key.setter
    def api_key(self, api_key: "Union[str, _Credential]") -> None:
        api_key = _masked(api_key)
        if hasattr(api_key, "token") and hasattr(api_key, "renew"):
            self._api_key, self._credential = _Secret(), api_key
            for name in [
                n for n, v in self.headers.items() if isinstance(v, _MASKED)
            ]:
                del self.headers[name]
        elif isinstance(api_key, str) and re.fullmatch(
            r"(?!(?i:token|bearer)\s)(?!['\"])[\x21-\x7e]+", api_key
        ):
            self._api_key, self._credential = api_key, None
            self._update_headers()
        else:
            raise ValueError(
                "The API key must be a non-empty str without white space; "
                f"{_key_problem(api_key)} (It is not shown here, for it is a "
                "secret.)"
            )
        self.after_set_api_key()

    def after_set_api_key(self) -> None:
        """Hook for subclasses: drop what was cached for the old key."""

    @property
    def auth_header(self) -> "Dict[str, str]":
        """Headers that hold the credential, which ``repr`` does not show."""
        return {}

    def _update_headers(self) -> None:
        """Show the credential in ``headers`` too, where 5.x had it."""
        if self._credential is None:
            for name, value in self.auth_header.items():
                self.headers[name] = _Secret(value)

    @property
    def trunc_key(self) -> str:
        """The key as it may be shown: ``*`` and its last 4 characters."""
        return last_4(self._api_key)

    # -- What a request is made of ------------------------------------------

    @property
    def parent(self) -> Any:
        """The :class:`requests.Session` behind this one, that sends."""
        return super() if self._parent is None else self._parent

    @parent.setter
    def parent(self, parent: Any) -> None:
        self._parent = parent

    @parent.deleter
    def parent(self) -> None:
        self._parent = None  # So that mock.patch.object can take it back.

    @property
    def user_agent(self) -> str:
        """Versions of this module, of requests, and of Python."""
        return _USER_AGENT

    def normalize_url(self, url: str) -> str:
        """Full URL of a path or URL; see :func:`normalize_url`."""
        if isinstance(url, _LocatedURL) and url.base_url == self.url:
            return url.full_url
        return normalize_url(self.url, url)

    def canonical_path(self, url: str) -> str:
        """Endpoint of a path or URL; see :func:`canonical_path`."""
        return canonical_path(self.url, url)

    def normalize_params(self, params: Any) -> Any:
        """Spell query parameters as the API wants them.

        The name of a list gets ``[]`` at its end, and so does a name that
        PagerDuty's document spells so wherever it occurs (``statuses``,
        ``include`` and others). Booleans are ``true`` and ``false``, dates
        ISO 8601, and points in time are so, too, in UTC. An empty list is
        left out with a :exc:`PDWarning`. A str or bytes, which is a query
        already, comes back as it is.

        :param params: dict, or pairs (name, value); it is not changed
        :returns: a dict, or a list of pairs, for requests to encode
        :raises ValueError: it is neither; or a value is a dict, or a
            datetime without a time zone
        """
        if params is None or isinstance(params, (str, bytes)):
            return params
        filled = self._filled_params(_as_pairs(params))
        pairs = [_spell_param(*pair) for pair in filled]
        return _as_params(pairs) if isinstance(params, abc.Mapping) else pairs

    def _filled_params(
        self, pairs: "List[Tuple[str, Any]]"
    ) -> "List[Tuple[str, Any]]":
        """The parameters without empty lists, each of which is warned of."""
        pairs = _as_lists(pairs)
        for name, value in pairs:
            if _is_empty_list(value):
                _warn(
                    self.log,
                    f"The query parameter {name!r} is empty and is left out: "
                    "it filters nothing. Skip the request if nothing is what "
                    "you want; None leaves a parameter out silently.",
                )
        return [pair for pair in pairs if not _is_empty_list(pair[1])]

    def prepare_headers(
        self, method: str, user_headers: "Optional[Mapping[str, Any]]" = None
    ) -> "Dict[str, Any]":
        """Complete the headers of one request.

        What the client needs is overridden by the session's ``headers``, and
        these by the headers given with the call, whatever the case of their
        names.

        :param method: HTTP method in capitals
        :param user_headers: the headers given with the call
        """
        own = self._own_headers()
        if method in _WRITES_JSON:
            own["Content-Type"] = "application/json"
        # In the order of requests: the session's, then those of this client.
        # Of the session's the credential may be an old one.
        names = {name.lower(): name for name in own}
        headers: Dict[str, Any] = {}
        for name, value in self.headers.items():
            lower_name = name.lower()
            ours = own.pop(names.get(lower_name, ""), None)
            if isinstance(value, _Secret):
                value = ours
            elif lower_name == "authorization":  # Set by hand.
                value = _masked(value)
            if value is not None or ours is None:
                headers[name] = value
        headers.update(own)
        return _merge_headers(headers, user_headers)

    def _own_headers(self) -> "Dict[str, Any]":
        """Headers that tell who asks."""
        return self._credential_headers()

    def _credential_headers(self) -> "Dict[str, Any]":
        return {k: _Secret(v) for k, v in self.auth_header.items()}

    def _request_options(
        self, method: str, full_url: str, options: "Dict[str, Any]"
    ) -> "Dict[str, Any]":
        """Keyword arguments for requests, from those of the caller.

        :raises TypeError: requests would not take one of them
        """
        if not _REQUEST_NAMES.issuperset(options):
            _check_arguments(method, full_url, options, self.parent.request)
        user_headers = options.get("headers") or {}
        headers = self.prepare_headers(method, user_headers=user_headers)
        if options.get("files") and "content-type" not in {
            str(name).lower() for name in user_headers
        }:
            # requests knows the boundary of the parts that it makes.
            headers.pop("Content-Type", None)
        options["headers"] = _complete_headers(headers)
        if self._credential is not None:
            foreign = {**self.headers, **user_headers}
            is_own = not _names_authorization(foreign)
            options["headers"].has_own_token = is_own
        options.setdefault("stream", False)
        options.setdefault("timeout", self.timeout)
        given = options.get("params")
        if given:
            options["params"] = self.normalize_params(given)
        if isinstance(options.get("json"), (dict, list, tuple)):
            options["json"] = self._spell_body(options["json"])
        if given or self.early_access or _needs_endpoint(self, full_url):
            self._fit_to_endpoint(method, full_url, options, given)
        return options

    def _spell_body(self, body: Any) -> Any:
        """A body with what JSON does not know as the API wants it."""
        with contextlib.suppress(
            RecursionError
        ):  # Encoding it will say what is wrong.
            return _spell_times(body)
        return body

    def _fit_to_endpoint(
        self, method: str, full_url: str, options: "Dict[str, Any]", given: Any
    ) -> None:
        """Change what one endpoint wants otherwise than the others.

        :param given: query parameters as the caller gave them
        """

    # -- Retry settings -----------------------------------------------------

    @property
    def stagger_cooldown(self) -> float:
        """How much the pauses vary at random: up to this share of each."""
        return self._stagger_cooldown

    @stagger_cooldown.setter
    def stagger_cooldown(self, share: float) -> None:
        is_number = isinstance(share, (int, float)) and share is not True
        if not is_number or not 0 <= share < float("inf"):
            raise ValueError(
                f"stagger_cooldown must be a number from 0, not {share!r}."
            )
        self._stagger_cooldown = share

    def cooldown_factor(self) -> float:
        """Factor from one pause to the next."""
        base = float(self.sleep_timer_base)  # It may be a Decimal.
        return base * (1 + self.stagger_cooldown * random())

    # -- Sending ------------------------------------------------------------

    def request(  # type: ignore[override]
        self, method: str, url: str, *args: Any, **kwargs: Unpack[_Options]
    ) -> Response:
        """Make a request, and repeat it as the settings say.

        It takes all that :meth:`requests.Session.request` does.

        :param method: HTTP method, in any case
        :param url: path or full URL
        :param deadline: seconds in which the call ends, whatever happens, in
            place of :attr:`deadline`; None is without limit
        :returns: the response, which may have an error status
        :raises PDClientError: the method is not permitted; no answer was
            received, or a too large one; or the arguments are unusable
        :raises PDDeadlineError: the deadline has passed, or would
        :raises PDHTTPError: status 401, unless ``retry`` has an entry for it
        :raises PDRateLimitError: the API asks for a longer wait than
            :attr:`max_rate_wait`
        :raises URLError: the URL is outside the API
        :raises ValueError: an argument has an unusable type
        """
        if args:
            positional, args = list(args), ()
            _name_arguments(positional, kwargs)
        given = self._mask(kwargs)
        method = self._permitted(method)
        full_url = self.normalize_url(url)
        self._warn_of_plain_http(full_url)
        seconds = given.pop("deadline", _SESSION_DEADLINE)
        deadline = self._begin_deadline(seconds)
        options = self._request_options(method, full_url, given)
        attempts = _Attempts(self, method, full_url, options, deadline)
        options["headers"].progress = attempts.progress
        unwanted = getattr(url, "unwanted", None)
        while True:
            sleep: Callable[[float], None] = time.sleep
            try:
                response = self._attempt(
                    method, full_url, options, attempts.progress, unwanted
                )
            except requests.exceptions.HTTPError:
                raise  # Of a hook: requests itself raises it on request only.
            except _REQUEST_ERRORS as error:
                attempts.raise_callers(error)
                wait = attempts.after_network_error(error)
            else:
                self.postprocess(response)
                pause = attempts.after_response(response)
                if pause is None:
                    return attempts.outcome(response)
                wait = pause
                if response.status_code == 429:
                    sleep = self._gate.sleep
                _close(response)
            if not attempts.is_immediate:
                self._pause(sleep, wait, deadline)
            attempts.begin_again()
            self._renew_headers(options["headers"])

    def _begin_deadline(self, seconds: Any) -> "Optional[_Deadline]":
        """The deadline of a call that begins now.

        :param seconds: as given with the call
        :raises ValueError: it is neither a positive number nor None
        """
        if seconds is _SESSION_DEADLINE:
            seconds = self.deadline
        return None if seconds is None else _new_deadline(seconds)

    # What is given with a call must be masked in every function on the way.

    def _mask(self, options: Any) -> "Dict[str, Any]":
        """The same keyword arguments of a request, some of them hidden."""
        given: Dict[str, Any] = options
        if not self._confidential.isdisjoint(given):
            given.update(_masked_options(given, self._confidential))
        return given

    def get(self, url: Any, **kwargs: Unpack[_Options]) -> Response:
        """As :meth:`request`, with the method GET."""
        return super().get(url, **self._mask(kwargs))

    def options(self, url: Any, **kwargs: Unpack[_Options]) -> Response:
        """As :meth:`request`, with the method OPTIONS."""
        return super().options(url, **self._mask(kwargs))

    def head(self, url: Any, **kwargs: Unpack[_Options]) -> Response:
        """As :meth:`request`, with the method HEAD."""
        return super().head(url, **self._mask(kwargs))

    def post(
        self,
        url: Any,
        data: Any = None,
        json: Any = None,
        **kwargs: Unpack[_BodylessOptions],
    ) -> Response:
        """As :meth:`request`, with the method POST."""
        kwargs.update(data=data, json=json)  # type: ignore[call-arg]
        data = json = None
        return super().post(url, **self._mask(kwargs))

    def put(
        self, url: Any, data: Any = None, **kwargs: Unpack[_JSONOptions]
    ) -> Response:
        """As :meth:`request`, with the method PUT."""
        kwargs.update(data=data)  # type: ignore[call-arg]
        data = None
        return super().put(url, **self._mask(kwargs))

    def patch(
        self, url: Any, data: Any = None, **kwargs: Unpack[_JSONOptions]
    ) -> Response:
        """As :meth:`request`, with the method PATCH."""
        kwargs.update(data=data)  # type: ignore[call-arg]
        data = None
        return super().patch(url, **self._mask(kwargs))

    def delete(self, url: Any, **kwargs: Unpack[_Options]) -> Response:
        """As :meth:`request`, with the method DELETE."""
        return super().delete(url, **self._mask(kwargs))

    def _attempt(
        self,
        method: str,
        full_url: str,
        options: "Dict[str, Any]",
        progress: _Progress,
        unwanted: "Optional[threading.Event]",
    ) -> Any:
        """Send the request once, when its turn has come."""
        if self._process != os.getpid():
            self._after_fork()
            self._process = os.getpid()
        response = None
        gate, ticket = self._gate, object()
        progress.leave = partial(gate.leave, ticket)
        try:
            gate.enter(ticket, progress.deadline, self)
            if unwanted is not None and unwanted.is_set():
                raise PDClientError(
                    f"{method} {full_url}: the iteration that asked for this "
                    "page has ended."
                )
            response = self.parent.request(method, full_url, **options)
            return response
        finally:
            if progress.leave is not None:
                progress.leave(response)
                progress.leave = None

    def _renew_headers(self, headers: _CompleteHeaders) -> None:
        """Put the present token into the headers of the next attempt."""
        if headers.has_own_token:
            headers.update(_complete_headers(self._credential_headers()))

    def _pause(
        self,
        sleep: "Callable[[float], None]",
        seconds: float,
        deadline: "Optional[_Deadline]",
    ) -> None:
        left = 0.0 if deadline is None else deadline.left()
        sleep(seconds)
        if deadline is not None:
            deadline.charge(seconds - (left - deadline.left()))

    def _is_idempotent(self, options: "Dict[str, Any]") -> bool:
        """Is a request the same when sent twice, although it is a write?"""
        return False

    def _after_fork(self) -> None:
        """Begin anew with what cannot be shared with the parent process.

        That is the connections in the pools, and the locks of requests, which
        another thread of the parent may have held. Two threads may do it at
        once: both have new ones then.
        """
        self._gate = _RateGate()
        self.cookies = _copied_jar(self.cookies)
        for adapter in self.adapters.values():
            if isinstance(adapter, HTTPAdapter):
                _forget_connections(adapter)

    @property
    def rate(self) -> "Optional[RateLimit]":
        """The rate limit as last reported; None before the first report."""
        return self._gate.rate

    def postprocess(self, response: Response) -> None:
        """Called with each response, before it is decided what follows."""

    def _permitted(self, method: str) -> str:
        if isinstance(method, bytes):
            method = method.decode("latin-1")
        name = str(method) if not isinstance(method, str) else method.upper()
        name = name.strip()
        if name in self.permitted_methods:
            return name
        raise PDClientError(
            f"The method {name} is not permitted by this API, which "
            f"takes {', '.join(self.permitted_methods) or 'none'}."
        )

    def _warn_of_plain_http(self, full_url: str) -> None:
        """Say once that whoever is on the way can read the key."""
        if full_url[:5].lower() != "http:" or self._warned_of == self.url:
            return
        if not _is_on_this_machine(self.url):
            self._say_not_encrypted()
        self._warned_of = self.url

    def _warn_of_plain_proxy(self, url: str, proxies: Any) -> None:
        """Say once that a proxy elsewhere can read the key."""
        if url[:5].lower() != "http:" or self._warned_of_proxy == self.url:
            return
        proxy = select_proxy(url, proxies)
        # If the API is elsewhere, that was said.
        if not proxy or not _is_on_this_machine(self.url):
            return
        if not (_is_on_this_machine(proxy) or _is_unusable_proxy(proxy)):
            self._say_not_encrypted()
            self._warned_of_proxy = self.url

    def _say_not_encrypted(self) -> None:
        _warn(
            self.log,
            f"{self.url} is not encrypted: anybody on the way can read and "
            "use the API key. Set the attribute `url` to https://.",
        )


# ---------------------------------------------------------------------------
# Collections
# ---------------------------------------------------------------------------


def _check_time_left(
    deadline: "Optional[_Deadline]", response: Any, count: int
) -> None:
    """Ask for no page after the deadline of an iteration.

    :param response: the last page
    :param count: records that were given
    """
    if deadline is not None and deadline.left() <= 0:
        raise PDDeadlineError(
            f"{_request_line(response)}: the deadline of {deadline.seconds:g} "
            f"s has passed. {count} records were given; the next page is not "
            "asked for.",
            response,
        )


def _key_of_value(record: "Mapping[str, Any]", wanted: str) -> str:
    """The first attribute of a record that has a value, case aside."""
    for name, value in record.items():
        if isinstance(value, str) and value.lower() == wanted:
            return name
    return ""


class _Collections(PDSession):
    """What an APISession does with lists of records."""

    #: Records that are asked for with each page.
    default_page_size: int = 100
    #: Pages that an iteration asks for ahead. 0: each when its first record
    #: is needed. 1: the next one while one is consumed. 2 to 16: so many at
    #: once, where the API tells the total of a collection. (The total is then
    #: asked for; an item_hook is told only if ``total`` was set.)
    prefetch: int = 0
    #: False ends an iteration at an error status, instead of raising it.
    require_complete_results: bool = True

    @_explains_unknown_arguments
    def iter_all(
        self,
        url: str,
        params: Any = None,
        page_size: "Optional[int]" = None,
        item_hook: "Optional[_ItemHook]" = None,
        total: bool = False,
        json: Any = None,
        prefetch: "Optional[int]" = None,
        paginate: "Optional[bool]" = None,
        deadline: "Optional[float]" = _SESSION_DEADLINE,
    ) -> "Iterator[Any]":
        """Iterate over the records of a collection, page after page.

        A page is asked for when its first record is needed. Of a collection
        with classic pagination the API gives the first 10 000 records; that
        there are more is a :class:`PDIncompleteWarning`. So is that a list of
        the SCIM API became shorter while it was read.

        :param url: path or URL of the collection
        :param params: query parameters
        :param page_size: records to ask for with each page
        :param item_hook: called with each record, its number from 1, and
            the total (int), or ``"?"`` where the API does not tell
        :param total: ask the API for the total
        :param json: body, at endpoints that are paginated by POST
        :param prefetch: pages to ask for ahead; see :attr:`prefetch`
        :param paginate: deprecated; False gives the first page only
        :param deadline: seconds for the whole iteration, from when its first
            record is asked for; None is without limit
        :raises URLError: it is no collection that this client knows
        :raises ValueError: page size or deadline are no positive number
        :raises PDDeadlineError: the deadline has passed
        :raises PDHTTPError: a page has an error status; see also
            :attr:`require_complete_results`
        :raises PDServerError: a page is not as the API promises
        """
        if paginate is not None:
            deprecated_kwarg("paginate", "For one page, use rget instead.")
        url = _url_of(url)
        path = self.canonical_path(url)
        has_cursors = path in CURSOR_BASED_PAGINATION_PATHS
        if has_cursors and json is None and paginate is not False:
            options = _without_none(prefetch=prefetch)
            options.update(_passed_on(deadline))
            options.update(self._page_size_for_cursors(page_size, params))
            return self.iter_cursor(url, item_hook=item_hook, **options)
        return self._iterate(
            url,
            path,
            self._collection("GET" if json is None else "POST", path),
            params,
            page_size,
            item_hook,
            prefetch,
            total=total,
            json=json,
            only_first=paginate is False,
            deadline=deadline,
        )

    def _page_size_for_cursors(
        self, page_size: "Optional[int]", params: Any
    ) -> "Dict[str, Any]":
        """Arguments for iter_cursor, to which a subclass may have given the
        signature of 5.x."""
        parameters = _signature(self.iter_cursor).parameters.values()
        takes_page_size = any(
            parameter.name == "page_size"
            or parameter.kind is parameter.VAR_KEYWORD
            for parameter in parameters
        )
        if takes_page_size:
            return {"params": params, "page_size": page_size}
        if page_size is not None:
            params = [*_as_pairs(params), ("limit", page_size)]
        return {"params": params}

    @_explains_unknown_arguments
    def iter_cursor(
        self,
        url: str,
        params: Any = None,
        page_size: Any = None,
        item_hook: "Optional[_ItemHook]" = None,
        prefetch: "Optional[int]" = None,
        attribute: "Optional[str]" = None,
        deadline: "Optional[float]" = _SESSION_DEADLINE,
    ) -> "Iterator[Any]":
        """Iterate over the records of a collection with cursors.

        :param url: path or URL of the collection
        :param params: query parameters
        :param page_size: records to ask for with each page
        :param item_hook: called with each record, its number from 1, and
            ``"?"``
        :param prefetch: pages to ask for ahead, in place of
            :attr:`prefetch`; with cursors, one at most is possible
        :param attribute: deprecated; name of the property with the records
        :param deadline: seconds for the whole iteration; see
            :meth:`iter_all`
        :raises URLError: it is no collection that is paginated by cursor
        :raises ValueError: the page size is no positive int, or the deadline
            no positive number
        :raises PDDeadlineError: the deadline has passed
        :raises PDHTTPError: a page has an error status; see also
            :attr:`require_complete_results`
        :raises PDServerError: a page is not as the API promises
        """
        if attribute is not None:
            deprecated_kwarg("attribute", "The tables know the wrapper.")
        if callable(page_size) and item_hook is None:
            page_size, item_hook = None, page_size  # The order of 5.x.
        url = _url_of(url)
        path = self.canonical_path(url)
        if path not in CURSOR_BASED_PAGINATION_PATHS:
            raise URLError(
                f"{path} is not paginated by cursor. If the API says that "
                "it is, append it to pdpyras.CURSOR_BASED_PAGINATION_PATHS."
            )
        operation = self._collection("GET", path)
        if attribute:
            operation = operation.but(response=attribute)
        return self._iterate(
            url,
            path,
            operation,
            params,
            page_size,
            item_hook,
            prefetch,
            deadline=deadline,
        )

    iter_history = _HistoryMethods.iter_history
    plan_history = _HistoryMethods.plan_history

    @resource_url
    def list_all(
        self, url: str, **kwargs: Unpack[_IterationOptions]
    ) -> "List[Any]":
        """All records of a collection.

        :param url: path or URL of the collection
        :param kwargs: as for :meth:`iter_all`
        :returns: the records, in the order of the API
        :raises PDClientError: as :meth:`iter_all` does; the records before
            the error are lost then
        """
        return list(self.iter_all(url, **kwargs))

    def dict_all(
        self,
        path: str,
        by: str = "id",
        **kwargs: Unpack[_IterationOptions],
    ) -> "Dict[Any, Any]":
        """All records of a collection, by the value of an attribute.

        :param path: path or URL of the collection
        :param by: name of the attribute; of equal values the last one wins
        :param kwargs: as for :meth:`iter_all`
        :returns: the records by that value
        :raises KeyError: a record lacks the attribute
        :raises PDClientError: as :meth:`iter_all` does
        """
        return {item[by]: item for item in self.iter_all(path, **kwargs)}

    @_explains_unknown_arguments
    def find(
        self,
        resource: str,
        query: Any,
        attribute: str = "name",
        params: Any = None,
        prefetch: "Optional[int]" = None,
        deadline: "Optional[float]" = _SESSION_DEADLINE,
    ) -> "Optional[Any]":
        """The first record whose attribute is the query, case aside.

        :param resource: path of the collection
        :param query: the whole value; also sent as ``query``, by which the
            API narrows the records down (SCIM has no such parameter; there,
            give a ``filter`` with ``params`` if you want one)
        :param attribute: name of the attribute; records without it are
            passed over
        :param params: more query parameters
        :param prefetch: pages to ask for ahead, in place of
            :attr:`prefetch`
        :param deadline: seconds for the whole search, in place of
            :attr:`deadline`; None is without limit
        :returns: the record, or None
        :raises PDIncompleteError: it was not found, but not all records were
            seen (see also :attr:`require_complete_results`)
        :raises PDClientError: as :meth:`iter_all` does
        :raises ValueError: the query is None, which no attribute is
        """
        if query is None:
            raise ValueError(
                f"The query must be the {attribute!r} to look for, not None. "
                "Is the variable set from which it was read?"
            )
        wanted = _as_sent("The query", query).lower()
        pairs = [(k, v) for k, v in _as_pairs(params) if k != "query"]
        if not self._is_scim(resource):
            pairs.append(("query", query))
        options = {**_without_none(prefetch=prefetch), **_passed_on(deadline)}
        params = _as_params(pairs)
        other = ""  # An attribute that has the value instead.
        with _shortfalls.noted() as shortfalls:
            for item in self.iter_all(resource, params=params, **options):
                values = item if isinstance(item, dict) else {}
                value = values.get(attribute)
                if value is not None and str(value).lower() == wanted:
                    return item
                other = other or _key_of_value(values, wanted)
        if shortfalls and self._requires_all():
            raise PDIncompleteError(
                f"What is asked for may be in {resource}, but not all of that "
                f"was seen. {shortfalls[0]}"
            )
        if other and other != attribute:
            _warn(
                self.log,
                f"No {attribute!r} in {resource} is {query!r}, but there is "
                f"an {other!r} that is: pass attribute={other!r}.",
            )
        return None

    def _is_scim(self, resource: Any) -> bool:
        """Does a list come from the SCIM API?"""
        try:
            path = self.canonical_path(_url_of(resource))
        except URLError:
            return False  # iter_all says what is wrong with it.
        operation = _operation("GET", path)
        return operation is not None and operation.pagination == "scim"

    def _shared_deadline(self, seconds: Any) -> "Dict[str, Any]":
        """The keyword argument for several requests that end together.

        Where there is nothing to say it is left out: a method that a
        subclass or a test has put in need not know it.
        """
        if seconds is _SESSION_DEADLINE and self.deadline is None:
            return {}
        return {"deadline": self._begin_deadline(seconds)}

    def _collection(self, method: str, path: str) -> _Operation:
        """How a collection's records, named by the wrapper, are asked for.

        :raises URLError: it is no collection
        """
        operation = _operation(method, path) or _Operation()
        if operation.pagination == "starting_after" and method == "POST":
            # 5.x gave the whole body to rpost, and so do we; its records
            # are at the same place at all these endpoints.
            return operation.but(response=operation.response or "data")
        if method == "POST" or not _is_collection(path, operation):
            raise URLError(
                f"{method} {path} gives no collection that this client could "
                "iterate over. Use rget; or pass json= where a collection is "
                "asked for by POST."
            )
        if path in CURSOR_BASED_PAGINATION_PATHS:
            return operation.but(pagination="cursor")
        return operation

    def _page_limit(
        self,
        pairs: "List[Tuple[str, Any]]",
        page_size: "Optional[int]",
        operation: _Operation,
    ) -> int:
        """Records to ask for with each page, as the endpoint allows."""
        if page_size is None:
            page_size = self.default_page_size
        wanted = _whole_number("page_size", page_size, 1)
        name = _PAGE_POSITIONS[operation.pagination].limit_name
        limit = _pop(pairs, name)
        if limit is not None:
            wanted = _whole_number(name, limit, 1)
        return min(wanted, operation.max_limit)

    def _iterate(
        self,
        url: str,
        path: str,
        operation: _Operation,
        params: Any,
        page_size: "Optional[int]",
        item_hook: "Optional[_ItemHook]",
        prefetch: "Optional[int]",
        total: bool = False,
        json: Any = None,
        only_first: bool = False,
        deadline: Any = _SESSION_DEADLINE,
    ) -> "Iterator[Any]":
        """Check what is asked for, and iterate over the records."""
        endpoint, pairs = _split_query(url, params)
        _take_limit(pairs, json)
        limit = self._page_limit(pairs, page_size, operation)
        pairs = self._filled_params(pairs)  # Once, and not with each page.
        json = deepcopy(json)
        position = _PAGE_POSITIONS[operation.pagination](
            path, pairs, limit, total, json
        )
        ahead = _requests_ahead(self, prefetch)
        self._begin_deadline(deadline)  # So that a wrong one is said at once.
        located = _locate(self.url, endpoint)
        open_source = partial(
            self._open_source,
            located,
            operation.response,
            0 if only_first else ahead,
        )
        return self._records(
            position, open_source, item_hook, only_first, deadline
        )

    def _open_source(
        self, url: _LocatedURL, wrapper: Any, ahead: int, options: Any
    ) -> _PagesOnDemand:
        """Where the pages of an iteration come from.

        :param ahead: pages to ask for ahead
        :param options: keyword arguments of the requests
        """
        fetch = partial(self._fetch_page, url, wrapper, options)
        if not ahead:
            return _PagesOnDemand(fetch)
        url.unwanted = threading.Event()
        return _PagesAhead(fetch, ahead, url.unwanted)

    def _records(
        self,
        position: "Optional[_PagePosition]",
        open_source: "Callable[[Dict[str, Any]], _PagesOnDemand]",
        item_hook: "Optional[_ItemHook]",
        only_first: bool,
        deadline: Any,
    ) -> "Iterator[Any]":
        """The records of all pages, from a position on."""
        count = 0
        if position is not None and position.refusal:
            self._note_shortfall(position.refusal)
            return
        options = self._shared_deadline(deadline)
        source = open_source(options)
        try:
            while position is not None:
                page = self._page_or_end(source, position)
                if page is None:
                    return
                source.consuming(position, page)
                total = page.total
                for record in page.records:
                    count += 1
                    if item_hook is not None:
                        item_hook(record, count, total)
                    yield record
                record = None  # Else crash reports would send it.
                if only_first:
                    return
                shortfall = position.shortfall(page)
                if shortfall:
                    self._note_shortfall(shortfall)
                position = position.next_page(page)
                if position is not None and options:
                    _check_time_left(options["deadline"], page.response, count)
                del page  # Let go of this page before the next one is read.
        finally:
            source.close()

    def _note_shortfall(self, shortfall: str) -> None:
        _shortfalls.note(shortfall)
        _warn(self.log, shortfall, PDIncompleteWarning)

    def _page_or_end(
        self, source: _PagesOnDemand, position: _PagePosition
    ) -> "Optional[_Page]":
        """The page; None: an error status ends the iteration."""
        try:
            return source.page(position)
        except PDHTTPError as error:
            if not self._may_end_with(error):
                raise
            self._note_shortfall(f"The results are incomplete: {error}")
            return None

    def _may_end_with(self, error: PDHTTPError) -> bool:
        """May an iteration end here, as require_complete_results says?"""
        is_status = (error.status_code or 0) // 100 != 2
        is_own = is_status and not error._is_of_hook
        return is_own and not self._requires_all()

    def _requires_all(self) -> bool:
        # A class may have the 4.x name set to a value, in place of ours.
        of_class = getattr(type(self), "raise_if_http_error", None)
        if of_class is None or isinstance(of_class, property):
            return self.require_complete_results
        return bool(self.raise_if_http_error)

    def _fetch_page(
        self,
        url: str,
        wrapper: Any,
        options: "Dict[str, Any]",
        query: Any,
        body: Any,
    ) -> _Page:
        params = _as_params(query)
        if isinstance(params, list):  # requests would leave ours out.
            params = self._with_params_of_session(params)
        if body is None:
            response = self.get(url, params=params, **options)
        else:
            response = self.post(url, json=body, params=params, **options)
        return _read_page(successful_response(response), wrapper)

    def _with_params_of_session(
        self, pairs: "List[Tuple[str, Any]]"
    ) -> "List[Tuple[str, Any]]":
        given = {name for name, _ in pairs}
        return [
            (name, value)
            for name, value in _as_pairs(self.params)
            if value is not None and name not in given
        ] + pairs


# ---------------------------------------------------------------------------
# Bulk updates
# ---------------------------------------------------------------------------


# An item, the record that it became, and the exception of its batch.
_Update: "TypeAlias" = "Tuple[Any, Any, Optional[Exception]]"


def _id_of_item(item: Any) -> "Optional[str]":
    name = item.get("id") if isinstance(item, abc.Mapping) else None
    return str(name) if name else None


def _batches(items: "Iterator[Any]", size: int) -> "Iterator[List[Any]]":
    """The items in their order, as many at a time as a request may have.

    No batch has an id twice: what becomes of such a record is not documented.
    An item without an id is alone.
    """
    batch: List[Any] = []
    names: Set[Optional[str]] = {None}
    for item in items:
        name = _id_of_item(item)
        if batch and name in names:
            yield batch
            batch, names = [], {None}
        batch.append(item)
        names.add(name)
        if name is None or len(batch) == size:
            yield batch
            batch, names = [], {None}
    if batch:
        yield batch


def _updates(
    put: "Callable[[List[Any]], Tuple[Any, Any]]",
    batches: "Iterator[List[Any]]",
) -> "Iterator[_Update]":
    """The results of all batches; an exception of a hook is their end."""
    for batch in batches:
        yield from _update_batch(put, batch)


def _update_batch(
    put: "Callable[[List[Any]], Tuple[Any, Any]]", batch: "List[Any]"
) -> "Iterator[_Update]":
    """Send a batch; in halves, if the API finds it too large."""
    if _id_of_item(batch[0]) is None:
        shown = truncate_text(repr(batch[0]))
        text = f"An update must be a dict with an id, not {shown}."
        yield batch[0], None, ValueError(text)
        return
    found: Dict[Optional[str], Any] = {}
    failure: Optional[Exception] = None
    response = None
    try:
        response, records = put(batch)
        found = {_id_of_item(record): record for record in records}
    except PDClientError as error:
        if error._is_of_hook:
            raise
        is_too_large = isinstance(error, PDHTTPError) and (
            error.status_code == 413
        )
        if is_too_large and len(batch) > 1:
            middle = (len(batch) + 1) // 2
            yield from _update_batch(put, batch[:middle])
            yield from _update_batch(put, batch[middle:])
            return
        failure = error
    for item in batch:
        name = _id_of_item(item)
        if failure is None and name not in found:
            missing = f"the updated record {name}"
            yield item, None, _schema_error(response, missing, "none")
        else:
            yield item, found.get(name), failure


# ---------------------------------------------------------------------------
# APISession
# ---------------------------------------------------------------------------


def _is_within(part: Any, whole: Any) -> bool:
    """Would setting the part change nothing of the whole?"""
    if isinstance(part, abc.Mapping) and isinstance(whole, abc.Mapping):
        return all(
            key in whole and _is_within(value, whole[key])
            for key, value in part.items()
        )
    if isinstance(part, (list, tuple)) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(_is_within, part, whole))
    return bool(part == whole)


# A URL or path, or a resource with its URL at `self`.
_Resource: "TypeAlias" = "Union[str, Mapping[str, Any]]"


class APISession(_Collections):
    """Client of the REST API v2.

    ``get``, ``post``, ``put``, ``patch``, ``delete`` and ``request`` return
    a :class:`requests.Response`, whatever its status. The others raise on an
    error status: those that begin with ``j`` return the decoded body, and
    those that begin with ``r`` the entity out of its wrapper (and they wrap
    the entity of the request).

    :param api_key: API key, or OAuth access token
    :param default_from: e-mail address of the user on whose behalf requests
        are made with an account-level key; sent as the header ``From``
    :param auth_type: ``token``, or for access tokens ``bearer`` or
        ``oauth2``
    :param debug: True prints the log of this session to stderr
    :param name: deprecated, and ignored
    :param default_sender: another name of ``default_from``
    :param url: base URL of the API, as the attribute
    :param region: service region, ``us`` or ``eu``, in place of the URL
    :raises ValueError: the key cannot be a credential; the region is none of
        these; or both URL and region are given
    :raises URLError: the URL is none
    :raises AttributeError: the ``auth_type`` is none of the above
    """

    permitted_methods: "Sequence[str]" = (
        "GET",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
    )
    url = "https://api.pagerduty.com"

    #: E-mail address that is sent as ``From``, or None.
    default_from: "Optional[str]" = None
    #: True gives a new incident an ``incident_key``, unless it has one or is
    #: given as text. If the API's answer is lost, it is asked again, and the
    #: incident that exists is returned.
    client_incident_keys: bool = False
    #: Requests made, by ``METHOD path``.
    api_call_counts: "Dict[str, int]"
    #: Seconds spent waiting for answers, by ``METHOD path``.
    api_time: "Dict[str, float]"

    __attrs__ = PDSession.__attrs__ + [
        "_api_key_access",
        "_auth_type",
        "_subdomain",
        "api_call_counts",
        "api_time",
        "client_incident_keys",
        "default_from",
        "default_page_size",
        "prefetch",
        "require_complete_results",
    ]

    _regions = {
        "us": "https://api.pagerduty.com",
        "eu": "https://api.eu.pagerduty.com",
    }

    _auth_type: _AuthType = "token"
    _api_key_access: "Optional[str]" = None
    _subdomain: "Optional[str]" = None

    def __init__(
        self,
        api_key: "Union[str, _Credential]",
        default_from: "Optional[str]" = None,
        auth_type: _AuthType = "token",
        debug: bool = False,
        name: "Optional[str]" = None,
        default_sender: "Optional[str]" = None,
        url: Any = None,
        region: _AnyRegion = None,
    ) -> None:
        api_key = _masked(api_key)
        self.api_call_counts = {}
        self.api_time = {}
        self.auth_type = auth_type
        if default_from or default_sender:
            self.default_from = default_from or default_sender
        super().__init__(api_key, debug, name, url, region)
        self.headers["Accept"] = _ACCEPT

    def _reset_transient_state(self) -> None:
        super()._reset_transient_state()
        # Held while counting, and never waited for; see `_count`.
        self._uncounted: Deque[Tuple[str, float]] = deque()
        self._counting = threading.Lock()

    def _after_fork(self) -> None:
        self._counting = threading.Lock()
        super()._after_fork()

    # -- Credentials --------------------------------------------------------

    @property
    def auth_type(self) -> _AuthType:
        """Kind of the key: ``token``, ``bearer`` or ``oauth2``."""
        return self._auth_type

    @auth_type.setter
    def auth_type(self, auth_type: _AuthType) -> None:
        if auth_type not in ("token", "bearer", "oauth2"):
            raise AttributeError(
                "auth_type must be 'token', 'bearer' or 'oauth2', not "
                f"{auth_type!r}."
            )
        self._auth_type = auth_type
        if self._api_key:
            self._update_headers()

    @property
    def auth_header(self) -> "Dict[str, str]":
        """The header ``Authorization``."""
        scheme = "Token token=" if self._auth_type == "token" else "Bearer "
        key = self._api_key if self._credential is None else self.api_key
        return {"Authorization": _Secret(scheme + key)}

    @classmethod
    def _arguments_from(cls, environ: "Mapping[str, str]") -> "Dict[str, Any]":
        sender = environ.get("PAGERDUTY_FROM") or None
        return dict(
            super()._arguments_from(environ),
            **_without_none(default_from=sender),
        )

    @property
    def trunc_token(self) -> str:
        """The same as :attr:`trunc_key`."""
        return self.trunc_key

    @property
    def default_sender(self) -> "Optional[str]":
        """The same as :attr:`default_from`."""
        return self.default_from

    @default_sender.setter
    def default_sender(self, address: "Optional[str]") -> None:
        self.default_from = address

    def after_set_api_key(self) -> None:
        """Forget what was learnt about the owner of the old key."""
        self._subdomain = None
        self._api_key_access = None

    @property
    def api_key_access(self) -> str:
        """``user`` or ``account``: whose key it is. Asks the API once.

        :raises PDHTTPError: the API does not tell
        """
        access = self._api_key_access
        if access is None:
            response = self.get("/users/me")
            reasons = " ".join(_error_details(response)[1])
            if _status_of(response) == 400 and "account-level" in reasons:
                access = "account"
            else:
                successful_response(response, "asking for the key's owner")
                try_decoding(response)  # Not the page of some gateway?
                access = "user"
            self._api_key_access = access
        return access

    @property
    def subdomain(self) -> str:
        """Subdomain of the account. Asks the API once.

        :raises PDHTTPError: the API does not tell
        """
        subdomain = self._subdomain
        if subdomain is None:
            users = self.rget("/users", params={"limit": 1})
            try:
                host = users[0]["html_url"].split("/")[2]
            except (LookupError, TypeError, AttributeError):
                raise PDClientError(
                    "The account has no user with an html_url from which to "
                    "take the subdomain."
                ) from None
            subdomain = str(host).split(".")[0]
            self._subdomain = subdomain
        return subdomain

    def _own_headers(self) -> "Dict[str, Any]":
        headers: Dict[str, Any] = {}
        for name, value in self.auth_header.items():
            headers[name] = _Secret(value)
        if self.default_from:
            headers["From"] = self.default_from
        return headers

    def _fit_to_endpoint(
        self, method: str, full_url: str, options: "Dict[str, Any]", given: Any
    ) -> None:
        path = _known_path(self.url, full_url)
        operation = _operation_of_table(f"{method} {path}")
        if operation is None:
            return
        headers = options["headers"]
        program = operation.early_access
        if program and program in self.early_access:
            names = {_as_str(name).lower() for name in headers}
            if "x-early-access" not in names:
                headers["X-EARLY-ACCESS"] = program
        if operation.media_type and headers.get("Accept") == _ACCEPT:
            headers["Accept"] = operation.media_type
        if given and (operation.plain_params or operation.comma_params):
            options["params"] = _unbracket(given, options["params"], operation)
        if self.client_incident_keys and (method, path) == _CREATION:
            options["json"], key = _keyed_incident(options.get("json"))
            headers.incident_key = key

    # -- Profiling ----------------------------------------------------------

    @_deprecated(
        "5.0.0", "Counters are kept by method and canonical path instead."
    )
    def profiler_key(
        self, method: str, path: str, suffix: "Optional[str]" = None
    ) -> str:
        """Key under which version 4 counted the requests to an endpoint.

        :param method: HTTP method
        :param path: path or URL
        :param suffix: what to tell requests to the same endpoint apart by
        """
        nodes = _tokens(path, self.url)
        key = f"{method.lower()}:{'/'.join(nodes)}"
        return key if suffix is None else f"{key}:{suffix}"

    @property
    def total_call_count(self) -> int:
        """Number of requests that this session has made."""
        return sum(self.api_call_counts.values())

    @property
    def total_call_time(self) -> float:
        """Seconds that this session has spent waiting for answers."""
        return sum(self.api_time.values())

    def postprocess(
        self, response: Response, *args: Any, **kwargs: Any
    ) -> None:
        """Count a response, and log it.

        :param response: the response
        :param args: ignored, and so are keyword arguments: with 4.x and 5.x,
            there was a ``suffix``, which subclasses hand on
        """
        if getattr(response, "request", None) is None:
            return  # It is one that a test has made by hand.
        method = str(response.request.method).upper()
        path = _requested_path(self.url, str(response.request.url))
        endpoint = f"{method} {path}"
        seconds = response.elapsed.total_seconds()
        self._uncounted.append((endpoint, seconds))
        self._count()
        self._log_response(response, seconds)

    def _log_response(self, response: Response, seconds: float) -> None:
        log, is_error = self.log, response.status_code >= 500
        is_enabled = getattr(log, "isEnabledFor", None)
        if not is_error and is_enabled and not is_enabled(logging.DEBUG):
            return
        (log.error if is_error else log.debug)(
            "%s: status %d after %g s (x-request-id: %s, date: %s)",
            _request_line(response),
            response.status_code,
            seconds,
            _presentable(str(_header(response, "x-request-id")), response),
            _presentable(str(_header(response, "date")), response),
        )

    def _count(self) -> None:
        """Count what is not counted yet, unless another thread does so.

        Nobody waits for the lock: a signal handler could do so within the
        very thread that holds it. Whoever holds it looks again afterwards.
        """
        while self._uncounted and self._counting.acquire(False):
            try:
                counts, times = self.api_call_counts, self.api_time
                while self._uncounted:
                    endpoint, seconds = self._uncounted.popleft()
                    counts[endpoint] = counts.get(endpoint, 0) + 1
                    times[endpoint] = times.get(endpoint, 0.0) + seconds
            finally:
                self._counting.release()

    # -- One resource, or one page ------------------------------------------

    @resource_url
    @auto_json
    def jget(self, url: _Resource, **kwargs: Unpack[_Options]) -> Any:
        """GET; return the decoded body. See :meth:`rget` for the rest."""
        return self.get(url, **kwargs)

    @resource_url
    @auto_json
    def jpost(self, url: _Resource, **kwargs: Unpack[_Options]) -> Any:
        """POST; return the decoded body. See :meth:`rget` for the rest."""
        return self.post(url, **kwargs)

    @resource_url
    @auto_json
    def jput(self, url: _Resource, **kwargs: Unpack[_Options]) -> Any:
        """PUT; return the decoded body. See :meth:`rget` for the rest."""
        return self.put(url, **kwargs)

    @resource_url
    @auto_json
    def jpatch(self, url: _Resource, **kwargs: Unpack[_Options]) -> Any:
        """PATCH; return the decoded body. See :meth:`rget` for the rest."""
        return self.patch(url, **kwargs)

    @resource_url
    @wrapped_entities
    def rget(self, url: _Resource, **kwargs: Unpack[_Options]) -> Any:
        """GET; return the entity, or one page of a collection, unwrapped.

        :param url: path, URL, or resource with ``self``
        :param kwargs: as for :meth:`requests.Session.get`
        :raises PDHTTPError: the status is no success
        :raises PDServerError: the answer lacks the wrapper
        """
        return self.get(url, **kwargs)

    @resource_url
    @wrapped_entities
    def rpost(self, url: _Resource, **kwargs: Unpack[_Options]) -> Any:
        """POST an entity. See :meth:`rput`."""
        return self.post(url, **kwargs)

    @resource_url
    @wrapped_entities
    def rput(self, url: _Resource, **kwargs: Unpack[_Options]) -> Any:
        """PUT an entity, or a list of them where the API updates many.

        :param url: path, URL, or resource with ``self``
        :param kwargs: as for :meth:`requests.Session.put`; ``json`` with or
            without the wrapper
        :returns: the content of the answer, unwrapped
        :raises PDHTTPError: the status is no success
        :raises PDServerError: the answer lacks the wrapper
        """
        return self.put(url, **kwargs)

    @resource_url
    @wrapped_entities
    def rpatch(self, url: _Resource, **kwargs: Unpack[_Options]) -> Any:
        """PATCH an entity. See :meth:`rput`."""
        return self.patch(url, **kwargs)

    @resource_url
    @requires_success
    def rdelete(self, url: _Resource, **kwargs: Unpack[_Options]) -> Response:
        """DELETE a resource.

        :param url: path, URL, or resource with ``self``
        :param kwargs: as for :meth:`requests.Session.delete`; ``json`` with
            or without the wrapper, where the API takes a body
        :returns: the response
        :raises PDHTTPError: the status is no success
        """
        located, options, _ = _wrapped_request(self, "DELETE", url, kwargs)
        return self.delete(located, **options)

    @_explains_unknown_arguments
    def update_all(
        self, url: str, items: "Iterable[Any]", batch_size: int = 250
    ) -> "Iterator[_Update]":
        """Update any number of records, many with each request.

        It is for the endpoints that take a list: ``incidents``,
        ``incidents/{id}/alerts`` and ``priorities``. A request is made when
        its first result is asked for. A batch that the API finds too large
        is sent in halves; one that fails does not stop the others. A
        :attr:`deadline` of the session is for each request.

        :param url: path or URL of the records
        :param items: what to change of each: dicts with ``id``
        :param batch_size: records to send with each request; of more than
            the endpoint takes, as many are sent as it does
        :returns: iterator over each item in order, with the record that it
            became (or None), and the exception of its batch (or None)
        :raises URLError: the endpoint takes no list
        :raises ValueError: the batch size is no positive int
        """
        url = _url_of(url)
        path = self.canonical_path(url)
        operation = _operation("PUT", path)
        if operation is None or not operation.max_bulk:
            raise URLError(
                f"PUT {path} takes no list of records. Use rput for each."
            )
        size = _whole_number("batch_size", batch_size, 1)
        put = partial(self._put_list, url, operation)
        batches = _batches(iter(items), min(size, operation.max_bulk))
        return _updates(put, batches)

    def _put_list(
        self, url: str, operation: _Operation, batch: "List[Any]"
    ) -> "Tuple[Response, List[Any]]":
        body: Any = {operation.request: batch} if operation.request else batch
        try:
            body = self._spell_body(body)
        except ValueError as error:
            raise PDInputError(str(error)) from error
        response = self.put(url, json=body)
        records = unwrap(successful_response(response), operation.response)
        if not isinstance(records, list):
            kind = type(records).__name__
            raise _schema_error(response, "a list of records", kind)
        return response, records

    @_explains_unknown_arguments
    def persist(
        self,
        resource: str,
        attr: str,
        values: "Mapping[str, Any]",
        update: bool = False,
        deadline: "Optional[float]" = _SESSION_DEADLINE,
    ) -> Any:
        """Create a resource unless there is one with the same attribute.

        :param resource: path of the collection
        :param attr: name of the attribute by which resources are compared
        :param values: the resource as it should be
        :param update: if there is one that differs, update it
        :param deadline: seconds for the search and the write together, in
            place of :attr:`deadline`; None is without limit
        :returns: the resource as it is then
        :raises ValueError: the values lack the attribute
        :raises PDIncompleteError: as :meth:`find` does
        :raises PDHTTPError: the API refuses what is asked of it
        """
        if attr not in values:
            raise ValueError(
                f"The values must contain {attr!r}, by which an existing "
                "resource is looked for."
            )
        values = _spell_times(dict(values))
        options = self._shared_deadline(deadline)
        existing = self.find(resource, values[attr], attribute=attr, **options)
        if existing is None:
            return self.rpost(resource, json=values, **options)
        if update and not _is_within(values, existing):
            changed = {**existing, **values}
            target = changed if changed.get("self") else existing
            return self.rput(target, json=changed, **options)
        return existing


# ---------------------------------------------------------------------------
# Events that fit
# ---------------------------------------------------------------------------
#
# The Events API refuses an event that is too large, and then nobody is paged.


# Deeper than this, a value is sent as text.
_MAX_DEPTH = 100


def _jsonable(event: "Dict[str, Any]") -> "Dict[str, Any]":
    """An event that JSON can say; values that it cannot become texts.

    An alert must not be lost for a value that nobody can send.
    """
    try:
        json.dumps(event, allow_nan=False)
        return event
    except Exception:  # Also of values that are odd, or change meanwhile.
        return cast(Dict[str, Any], _as_json(event))


def _as_json(value: Any, within: "Tuple[int, ...]" = ()) -> Any:
    """A value as JSON can say it; ``within``: ids of what it is part of."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)) and _is_number(value):
        return value
    if id(value) in within:
        return "<within itself>"
    if len(within) < _MAX_DEPTH:
        inside = (*within, id(value))
        with contextlib.suppress(Exception):  # It may change meanwhile.
            if isinstance(value, abc.Mapping):
                return {
                    _as_name(name): _as_json(item, inside)
                    for name, item in value.items()
                }
            if isinstance(value, (list, tuple)):
                return [_as_json(item, inside) for item in value]
    return _as_text(value)


def _as_name(value: Any) -> str:
    """The name of a member of an object, as JSON or else as text."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, (int, float)) and _is_number(value):
        return json.dumps(value)
    return _as_text(value)


def _is_number(value: "Union[int, float]") -> bool:
    """Is it one that JSON has, and that Python can print?"""
    try:
        return bool(json.dumps(value, allow_nan=False))
    except (ValueError, TypeError):
        return False


def _as_text(value: Any) -> str:
    """Any value as a text that says most of it."""
    try:
        if isinstance(value, datetime) and value.tzinfo is None:
            with contextlib.suppress(Exception):  # That of pandas cannot.
                value = value.astimezone()  # It is local time.
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, (bytes, bytearray)):
            return bytes(value).decode("utf-8", "backslashreplace")
        if isinstance(value, BaseException):
            return f"{type(value).__name__}: {value}"
        if isinstance(value, int):
            return hex(value)
        return str(value)
    except Exception:
        return f"<{type(value).__name__} that has no text>"


# What an alert can do without.
_EXTRAS = ("links", "images")


def _fit_event(
    event: "Dict[str, Any]",
) -> "Tuple[Dict[str, Any], List[str]]":
    """Make an event fit the limits of the API.

    :returns: the event, or a shortened copy; and what was cut, in words
    :raises PDInputError: it cannot be shortened so far
    """
    payload = event.get("payload")
    if not isinstance(payload, abc.Mapping):
        payload = {}
    payload = dict(payload)
    cuts = []
    summary = payload.get("summary")
    if isinstance(summary, str) and len(summary) > _MAX_SUMMARY_LENGTH:
        payload["summary"] = _cut_summary(summary)
        cuts.append(
            f"the summary has {len(summary)} characters; the limit is "
            f"{_MAX_SUMMARY_LENGTH}"
        )
        event = dict(event, payload=payload)
    size = _size(event)
    if size > _MAX_EVENT_SIZE:
        cut = f"it has {size} bytes; the limit is {_MAX_EVENT_SIZE}, so that "
        event, how = _fit_size(event, payload)
        cuts.append(cut + how)
    return event, cuts


def _fit_size(
    event: "Dict[str, Any]", payload: "Dict[str, Any]"
) -> "Tuple[Dict[str, Any], str]":
    """What an event that is too large becomes, and what was cut, in words.

    :param payload: of the event, a copy
    """
    details = payload.get("custom_details")
    excess = _size(event) - _MAX_EVENT_SIZE
    before, without = "", ", and links and images are left out"
    has_extras = not set(_EXTRAS).isdisjoint(event)
    if details and has_extras and _size(details) - excess < _MIN_CUT_SIZE:
        # Nothing would be left of them, for what is not worth as much.
        event = {k: v for k, v in event.items() if k not in _EXTRAS}
        excess = _size(event) - _MAX_EVENT_SIZE
        if excess <= 0:
            return event, "links and images are left out"
        before, without = "links and images are left out, and ", ""
    if details:
        room = _size(details) - excess
        payload["custom_details"] = _shorten_details(details, room)
        event = dict(event, payload=payload)
    how = f"{before}the largest custom_details are cut"
    if _size(event) > _MAX_EVENT_SIZE:
        event = _without_extras(event)
        how += f", other texts too{without}"
    return event, how


def _without_extras(event: "Dict[str, Any]") -> "Dict[str, Any]":
    """What is left of an event that is too large but for its details.

    :raises PDInputError: that does not fit either
    """
    identity = ("routing_key", "event_action", "dedup_key")
    kept = {name: event[name] for name in identity if name in event}
    others = {
        name: value
        for name, value in event.items()
        if name not in (*identity, *_EXTRAS)
    }
    # Two bytes for what joins them.
    room = _MAX_EVENT_SIZE - _size(kept) - 2
    shortened = others if _size(others) <= room else _level_texts(others, room)
    if shortened is None:
        raise PDInputError(
            f"The event has {_size(event)} bytes, and cannot be shortened to "
            f"the {_MAX_EVENT_SIZE} that the API takes."
        )
    return {**kept, **shortened}


def _size(value: Any) -> int:
    """Bytes that a value takes in the body of a request."""
    return len(json.dumps(value))


def _shorten_details(details: "Mapping[str, Any]", room: int) -> Any:
    """Cut the largest texts in the details so that all fit into the room."""
    try:
        shortened = _level_texts(details, room)
    except RecursionError:
        shortened = None
    if shortened is not None:
        return shortened
    # It is not the texts that are so large, or they are nested too deeply:
    # keep the beginning of it all.
    cut = _cut_text(json.dumps(details), max(room - 32, _MIN_CUT_SIZE))
    return {"custom_details": cut}


def _level_texts(details: "Mapping[str, Any]", room: int) -> Any:
    """Cut as many of the largest texts as it takes; None: that is no help."""
    sizes = sorted(_text_sizes(details), reverse=True)
    excess = _size(details) - room
    total = 0
    for count, size in enumerate(sizes, 1):
        # Level the largest `count` texts down, so that each gets as much.
        rest = sizes[count] if count < len(sizes) else 0
        total += size
        share = (total - excess) // count
        if share >= max(rest, _MIN_CUT_SIZE):
            return _cut_texts(details, min(share, size))
    return None


def _text_sizes(value: Any) -> "Iterator[int]":
    if isinstance(value, str):
        yield _size(value)
    elif isinstance(value, (abc.Mapping, list, tuple)):
        items = value.values() if isinstance(value, abc.Mapping) else value
        for item in items:
            yield from _text_sizes(item)


def _cut_texts(value: Any, size: int) -> Any:
    """A copy in which no text takes more than so many bytes."""
    if isinstance(value, str):
        return value if _size(value) <= size else _cut_text(value, size)
    if isinstance(value, abc.Mapping):
        return {key: _cut_texts(item, size) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cut_texts(item, size) for item in value]
    return value


def _cut_text(text: str, size: int) -> str:
    """The beginning of a text, with a marker that says what is missing."""
    room = size - _size(f"\u2026 [{len(text)} of {len(text)} characters cut]")
    low, high = 0, min(len(text), size)
    while low < high:
        middle = (low + high + 1) // 2
        if _size(text[:middle]) - 2 <= room:
            low = middle
        else:
            high = middle - 1
    end = _character_end(text, low)
    missing = len(text) - end
    return f"{text[:end]}\u2026 [{missing} of {len(text)} characters cut]"


def _cut_summary(text: str) -> str:
    """A summary that the API takes, marked where it is cut."""
    if len(text) <= _MAX_SUMMARY_LENGTH:
        return text
    return text[: _character_end(text, _MAX_SUMMARY_LENGTH - 1)] + "\u2026"


def _character_end(text: str, end: int) -> int:
    """The last place up to `end` before which no character is cut in two.

    That is one with combining marks, or one of two surrogates, which JSON
    could not tell the receiver when they are apart.
    """
    start = end
    while 0 < end < len(text) and (
        unicodedata.category(text[end]).startswith("M")
        or re.fullmatch(
            "[\ud800-\udbff][\udc00-\udfff]", text[end - 1 : end + 1]
        )
    ):
        end -= 1
    return end or start


def _checked_dict(name: str, value: Any) -> "Dict[str, Any]":
    if value is None:
        return {}
    if not isinstance(value, abc.Mapping):
        raise PDInputError(
            f"{name} must be a dict, not {type(value).__name__}."
        )
    return dict(value)


def _trigger_payload(
    content: "Dict[str, Any]", payload: Any, custom_details: Any
) -> "Dict[str, Any]":
    """The payload of a trigger, from its arguments and what wins over them."""
    content.update(_checked_dict("payload", payload))
    _check_required(content)
    if custom_details is not None:
        details = content.get("custom_details")
        content["custom_details"] = {
            **_checked_dict("custom_details", details),
            **_checked_dict("custom_details", custom_details),
        }
    return content


def _check_required(payload: "Dict[str, Any]") -> None:
    """See that a payload has what the API refuses to do without."""
    for name in ("summary", "source"):
        value = payload.get(name)
        if not isinstance(value, str) or not value:
            raise PDInputError(
                f"The {name} must be a non-empty str, not {value!r}."
            )
    severity = _severity_of(payload)
    if severity is None:
        raise PDInputError(
            f"The severity must be one of {', '.join(_SEVERITIES)}, not "
            f"{payload.get('severity')!r}."
        )
    payload["severity"] = severity


def _severity_of(payload: "Mapping[str, Any]") -> "Optional[str]":
    """The severity as the API spells it; None: it is none."""
    given = payload.get("severity")
    text = _plain_str(given) if isinstance(given, str) else str(given)
    return text.lower() if text.lower() in _SEVERITIES else None


def _with_listed_links(event: "Dict[str, Any]") -> "Dict[str, Any]":
    """An event whose images and links are lists, as the API wants them."""
    for kind in ("images", "links"):
        entries: Any = event.get(kind)
        is_one = isinstance(entries, (str, bytes, abc.Mapping))
        if is_one or hasattr(entries, "__iter__"):
            listed = [entries] if is_one else list(entries)
            event = dict(event, **{kind: listed})
    return event


def _without_empty_links(
    event: "Dict[str, Any]",
) -> "Tuple[Dict[str, Any], List[str]]":
    """An event without the images and links that the API would refuse.

    :returns: the event, or a copy; and what was left out, in words
    """
    problems = []
    for kind, wanted in (("images", "src"), ("links", "href")):
        entries = event.get(kind)
        if entries is None:
            continue
        entries = entries if isinstance(entries, list) else [entries]
        good = [e for e in entries if isinstance(e, dict) and e.get(wanted)]
        if len(good) < len(entries):
            event = dict(event, **{kind: good})
            problems.append(
                f"{len(entries) - len(good)} of the {kind} of the event have "
                f"no {wanted!r}, and are left out."
            )
    return event, problems


def _check_payload(event: "Mapping[str, Any]") -> None:
    payload = _checked_dict("payload", event.get("payload"))
    _checked_dict("custom_details", payload.get("custom_details"))


_LONE_SURROGATE = (
    r"[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]"
)


def _without_lone_surrogates(text: str) -> str:
    """A text that can be stored anywhere: half a pair is escaped.

    The names of files have some, where these are not UTF-8.
    """
    return re.sub(
        _LONE_SURROGATE, lambda match: f"\\u{ord(match.group()):04x}", text
    )


def _plain_str(text: str) -> str:
    """A text of a subclass of str as it is, whatever ``str()`` says."""
    return str.__str__(text)


def _checked_dedup_key(dedup_key: Any) -> str:
    if not isinstance(dedup_key, str):
        raise PDInputError(
            f"The dedup_key must be a str, not {type(dedup_key).__name__}."
        )
    key = _without_lone_surrogates(_plain_str(dedup_key))
    if len(key) > _MAX_DEDUP_KEY_LENGTH:
        # Two identities that are cut at the same place would become one.
        raise PDInputError(
            f"The dedup_key has {len(key)} characters; the API takes "
            f"{_MAX_DEDUP_KEY_LENGTH}. Use a digest of it instead."
        )
    return key


def _complete_event(event: "Dict[str, Any]") -> "Dict[str, Any]":
    """The event, with what must not change while it waits: its time.

    :raises PDInputError: it lacks what the API refuses to do without
    """
    action = event.get("event_action", "change")
    if action not in ("trigger", "change"):
        return event
    payload = _checked_dict("payload", event.get("payload"))
    if action == "trigger":
        _check_required(payload)
    elif not isinstance(payload.get("summary"), str):
        raise PDInputError(
            "The summary of a change event must be a str, not "
            f"{payload.get('summary')!r}."
        )
    if payload.get("timestamp") is None:
        payload["timestamp"] = _timestamp()
    return dict(event, payload=payload)


def _timestamp() -> str:
    """The present moment: UTC, ISO 8601, with ``Z``."""
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    return now.isoformat() + "Z"


def _alert_key(response: Any) -> str:
    """The dedup_key in the API's answer to an event.

    :raises PDServerError: there is none
    """
    key = unwrap(response, "dedup_key")
    if isinstance(key, str) and key:
        return key
    got = _quoted(repr(key), response)
    del key  # As in unwrap.
    raise _schema_error(response, "a str at 'dedup_key'", got)


def _answer_object(response: Any) -> "Dict[str, Any]":
    """The API's answer to a change event.

    :raises PDServerError: it is no object
    """
    body = try_decoding(response)
    if isinstance(body, dict):
        return body
    found = type(body).__name__
    del body  # Crash reporters send local variables; it may quote the key.
    raise _schema_error(response, "an object", found)


# Of the present thread: seconds in which a guard's event is to be sent.
_guarding = threading.local()


# ---------------------------------------------------------------------------
# Events
# ---------------------------------------------------------------------------


def _as_outbox(outbox: Any) -> Any:
    """An outbox, or that of a path.

    :raises PDInputError: it is neither, nor None
    """
    if isinstance(outbox, (str, bytes, os.PathLike)):
        from pdpyras_outbox import Outbox

        outbox = Outbox(outbox)
    if outbox is not None and not hasattr(outbox, "put"):
        raise PDInputError(
            f"The outbox must be an Outbox, or a path, not {outbox!r}."
        )
    return outbox


class _EventsSession(PDSession):
    """What the clients of the Events API v2 share.

    Server errors are retried: status 500 twice, 502 four times, 503 and 504
    six times.
    """

    permitted_methods: "Sequence[str]" = ("POST",)
    url = "https://events.pagerduty.com"

    _key_variable = "PAGERDUTY_ROUTING_KEY"
    _url_variable = "PAGERDUTY_EVENTS_URL"
    _regions = {
        "us": "https://events.pagerduty.com",
        "eu": "https://events.eu.pagerduty.com",
    }

    retry: "Dict[int, int]" = {500: 2, 502: 4, 503: 6, 504: 6}

    #: True: an event that is too large for the API is a
    #: :class:`PDInputError`. False: it is shortened, with a warning.
    strict_events: bool = False

    #: Where events wait until the API has taken them; None: nowhere. A
    #: :class:`pdpyras_outbox.Outbox`, or the path of one.
    outbox: Any = None

    __attrs__ = PDSession.__attrs__ + ["outbox", "strict_events"]

    _confidential = _CONFIDENTIAL_IN_BODY

    def __init__(
        self,
        api_key: "Union[str, _Credential]",
        debug: bool = False,
        name: "Optional[str]" = None,
        url: Any = None,
        region: _AnyRegion = None,
        outbox: Any = None,
    ) -> None:
        api_key = _masked(api_key)
        super().__init__(api_key, debug, name, url, region)
        # None may be the argument's default; the class may have an outbox.
        self.outbox = self.outbox if outbox is None else outbox

    @classmethod
    def _arguments_from(cls, environ: "Mapping[str, str]") -> "Dict[str, Any]":
        outbox = environ.get("PAGERDUTY_OUTBOX") or None
        return dict(
            super()._arguments_from(environ), **_without_none(outbox=outbox)
        )

    if not TYPE_CHECKING:  # Checkers would accept any attribute.

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "outbox":
                value = _as_outbox(value)
            super().__setattr__(name, value)

    def _request_options(
        self, method: str, full_url: str, options: "Dict[str, Any]"
    ) -> "Dict[str, Any]":
        options = super()._request_options(method, full_url, options)
        if isinstance(options.get("json"), abc.Mapping):
            key = _Secret(self.api_key)
            options["json"] = dict(options["json"], routing_key=key)
        # The credential is in the body, and no other one is put in there.
        options["headers"].has_own_token = False
        return options

    def _submit(
        self, path: str, event: "Dict[str, Any]", deadline: Any
    ) -> Any:
        """Send an event, shortened if need be; return the response.

        With an outbox it is None once the event is safe there.

        :param deadline: as given with the call
        """
        if deadline is _SESSION_DEADLINE and self.deadline is None:
            guarding = getattr(_guarding, "deadline", None)
            deadline = guarding or _SESSION_DEADLINE
        if self.outbox is None:
            event, notes = self._fitted(event)
            send = partial(self._deliver, path, event, **_passed_on(deadline))
        else:
            deadline = self._begin_deadline(deadline)
            event, notes = self._fitted(_complete_event(event))
            send = partial(self.outbox.put, self, path, event, deadline)
        try:
            response = send()
        except Exception:
            with contextlib.suppress(PDWarning):
                self._tell(notes)
            raise
        self._tell(notes)  # Only now: who makes them errors loses no alert.
        return response

    def _tell(self, notes: "List[str]") -> None:
        for note in notes:
            _warn(self.log, note)

    def _deliver(
        self, path: str, event: "Dict[str, Any]", **options: Any
    ) -> Any:
        """Send an event that fits; return the response."""
        response = successful_response(
            self.post(path, json=event, **options), "sending an event"
        )
        method = getattr(response.request, "method", None)
        if getattr(response, "history", None) and method == "GET":
            raise PDServerError(
                f"{_request_line(response)}: the API redirected the event to "
                "where it cannot have been received.",
                response,
            )
        return response

    def _fitted(
        self, event: "Dict[str, Any]"
    ) -> "Tuple[Dict[str, Any], List[str]]":
        """The event as the API takes it: shortened if need be.

        :returns: the event; and what its sender ought to be told
        :raises PDInputError: it is too large, and may not or cannot be
            shortened
        """
        event = dict(event, routing_key=_Secret(self.api_key))
        _check_payload(event)
        event = _jsonable(_with_listed_links(event))
        event, left_out = _without_empty_links(event)
        fitted, cuts = _fit_event(event)
        if cuts and self.strict_events:
            raise PDInputError(
                f"The API would refuse this event: {'; '.join(cuts)}. It is "
                "not shortened, because strict_events is True."
            )
        shortened = [f"The event is shortened: {cut}." for cut in cuts]
        return fitted, left_out + shortened


def _is_success(code: Any) -> bool:
    """Is the exit status 0? It is 1 for whatever is no int."""
    return code is None or (isinstance(code, int) and code == 0)


_NOT_ASYNCHRONOUS = (
    "guard() cannot decorate an asynchronous function: sending the event "
    "would block the event loop. Decorate the function that runs the loop."
)


def _refuse_what_is_to_run(result: Any) -> None:
    """See that a function has run, and is not merely about to.

    :raises TypeError: it is, as that of a wrapper of an async one
    """
    import inspect

    if inspect.isawaitable(result) or inspect.isasyncgen(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(_NOT_ASYNCHRONOUS)
    if isinstance(result, contextlib.ContextDecorator):
        raise TypeError(
            "guard() cannot decorate what returns a context manager, whose "
            "block is yet to run: guard that block."
        )


def _told(error: BaseException) -> "Tuple[str, str]":
    """The last line that Python prints of an exception, and all of them."""
    try:
        told = traceback.TracebackException(type(error), error, None)
        told.__notes__ = None  # They come last.
        reason = list(told.format_exception_only())[-1].strip()
        lines = traceback.format_exception(
            type(error), error, error.__traceback__
        )
    except Exception:  # As of a long chain, before Python 3.9.
        reason = type(error).__name__
        with contextlib.suppress(Exception):
            reason += f": {error}"
        lines = [*traceback.format_tb(error.__traceback__), reason]
    return reason, "".join(lines)


def _parts_of(error: Any) -> "Iterator[BaseException]":
    """The exceptions of a group, and of the groups in it; or this one."""
    # Before Python 3.11 there is a package of that name.
    home = sys.modules.get("exceptiongroup", builtins)
    groups: Any = getattr(home, "BaseExceptionGroup", ())
    if isinstance(error, groups):
        for part in error.exceptions:
            yield from _parts_of(part)
    else:
        yield error


def _is_failure(error: BaseException) -> bool:
    return not (isinstance(error, SystemExit) and _is_success(error.code))


class _Guard:
    """Pages somebody if a block fails: see ``EventsAPISession.guard``."""

    def __init__(
        self,
        events: Any,
        alert: "Tuple[str, str, Optional[str]]",
        resolve: bool,
        event: Any,
    ) -> None:
        summary, source, dedup_key = alert
        _signature(events.trigger).bind(summary, source, dedup_key, **event)
        if event.get("deadline") is not None:
            _new_deadline(event["deadline"])
        severity = event.get("severity", "critical")
        payload = {"summary": summary, "source": source, "severity": severity}
        payload.update(_checked_dict("payload", event.get("payload")))
        _check_required(payload)
        _checked_dict("custom_details", event.get("custom_details"))
        if not dedup_key:
            text = json.dumps([summary, source])
            dedup_key = hashlib.sha256(text.encode("utf-8")).hexdigest()
        #: Identity of the alert.
        self.dedup_key: str = _checked_dedup_key(dedup_key)
        self._events, self._resolve, self._event = events, resolve, event
        self._summary, self._source = summary, source

    def __enter__(self) -> "_Guard":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        parts = [] if error is None else _parts_of(error)
        failures = list(filter(_is_failure, parts))
        ended = (KeyboardInterrupt, GeneratorExit)
        if failures and all(isinstance(part, ended) for part in failures):
            return
        if not failures:
            error = None
        if error is None and not self._resolve:
            return
        send = self._resolved if error is None else self._triggered
        before = getattr(_guarding, "deadline", None)
        _guarding.deadline = _MAX_GUARD_TIME
        try:
            send(error)
        except PDWarning as warning:  # An error, by the user's filter.
            self._events.log.error("%s", warning)
        except Exception as failure:
            self._events.log.error(
                "%s: the alert could not be %s: %s",
                _one_paragraph(self._summary),
                "resolved" if error is None else "triggered",
                failure,
            )
        finally:
            _guarding.deadline = before

    def _resolved(self, error: None) -> None:
        within = {k: v for k, v in self._event.items() if k == "deadline"}
        self._events.resolve(self.dedup_key, **within)

    def _triggered(self, error: BaseException) -> None:
        name = type(error).__name__
        reason, trace = _told(error)
        summary = _cut_summary(self._shown(f"{self._summary}: {reason}"))
        text = self._shown(trace)
        start = max(len(text) - _MAX_TRACEBACK_LENGTH, 0)
        details = {"exception": name, "traceback": text[start:]}
        details.update(self._event.get("custom_details") or {})
        event = dict(self._event, custom_details=details)
        self._events.trigger(summary, self._source, self.dedup_key, **event)

    def _shown(self, text: str) -> str:
        """A text without the key of the session."""
        return _hide(text, _hideable([self._events.api_key]))

    def __call__(self, function: "Callable[..., Any]") -> "Callable[..., Any]":
        """Decorate a function, or a generator function."""
        import inspect  # As in _signature.

        if not callable(function):
            raise TypeError(
                "guard() decorates functions; it stands below @classmethod, "
                "@staticmethod and @property."
            )
        if any(
            inspect.iscoroutinefunction(called)
            or inspect.isasyncgenfunction(called)
            for called in (function, type(function).__call__)
        ):
            raise TypeError(_NOT_ASYNCHRONOUS)
        if inspect.isgeneratorfunction(function):

            @wraps(function)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return (yield from function(*args, **kwargs))

        else:

            @wraps(function)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                try:
                    result = function(*args, **kwargs)
                    _refuse_what_is_to_run(result)
                except BaseException:
                    self.__exit__(*sys.exc_info())
                    raise
                if inspect.isgenerator(result):  # Of a wrapper of a function.
                    return self._driven(result)
                with self:
                    return result

        return guarded

    def _driven(self, generator: "Iterator[Any]") -> "Iterator[Any]":
        with self:
            return (yield from generator)


class EventsAPISession(_EventsSession):
    """Client of the Events API v2: triggers, acknowledges, resolves alerts.

    Server errors are retried: status 500 twice, 502 four times, 503 and 504
    six times. An event that the API would refuse for its size is shortened;
    see :attr:`strict_events`.

    :param api_key: routing key of an integration (also "integration key")
    :param debug: True prints the log of this session to stderr
    :param outbox: a :class:`pdpyras_outbox.Outbox`, or its path: where events
        wait until the API has taken them
    :raises ValueError: the key cannot be a credential
    """

    #: True: a trigger without dedup_key gets one from this client, so that
    #: a retry whose first attempt did arrive cannot raise a second alert.
    #: False: the API makes the key.
    client_dedup_keys: bool = False

    __attrs__ = _EventsSession.__attrs__ + ["client_dedup_keys"]

    def trigger(
        self,
        summary: str,
        source: str,
        dedup_key: "Optional[str]" = None,
        severity: _Severity = "critical",
        payload: "Optional[Mapping[str, Any]]" = None,
        custom_details: "Optional[Mapping[str, Any]]" = None,
        images: "Optional[Sequence[Mapping[str, Any]]]" = None,
        links: "Optional[Sequence[Mapping[str, Any]]]" = None,
        component: "Optional[str]" = None,
        group: "Optional[str]" = None,
        class_: "Optional[str]" = None,
        client: "Optional[str]" = None,
        client_url: "Optional[str]" = None,
        timestamp: "Union[None, str, datetime]" = None,
        deadline: "Optional[float]" = _SESSION_DEADLINE,
    ) -> str:
        """Trigger an alert, or add to the one with the same dedup_key.

        :param summary: what is wrong, in at most 1024 characters
        :param source: what it is wrong with, e.g. a host name
        :param dedup_key: identity of the alert; None: the API makes one
        :param severity: ``critical``, ``error``, ``warning`` or ``info``
        :param payload: more properties of the event's payload, which win
            over the arguments above
        :param custom_details: anything else worth knowing
        :param images: images to show (dicts with ``src``)
        :param links: links to show (dicts with ``href``)
        :param component: part of the source that is concerned
        :param group: of components that belong together
        :param class_: sort of the event
        :param client: name of the monitoring system
        :param client_url: its URL
        :param timestamp: when it was noticed (ISO 8601); None: now
        :param deadline: seconds in which the call ends, whatever happens, in
            place of :attr:`deadline`; None is without limit
        :returns: the dedup_key of the alert
        :raises PDInputError: summary or source is no non-empty str; the
            severity is none of these; payload or custom_details is no dict;
            or the event is larger than the API takes, and cannot be shortened
        :raises PDHTTPError: the API refuses the event
        :raises PDDeadlineError: the deadline has passed, or would
        """
        content = {"summary": summary, "source": source, "severity": severity}
        more = _without_none(
            component=component,
            group=group,
            timestamp=timestamp,
            **{"class": class_},
        )
        content = _trigger_payload(
            {**content, **more}, payload, custom_details
        )
        properties = _without_none(
            images=images, links=links, client=client, client_url=client_url
        )
        properties.update(_passed_on(deadline))
        return self.send_event(
            "trigger", dedup_key=dedup_key, payload=content, **properties
        )

    def acknowledge(
        self,
        dedup_key: str,
        deadline: "Optional[float]" = _SESSION_DEADLINE,
    ) -> str:
        """Acknowledge an alert.

        :param dedup_key: identity of the alert, as ``trigger`` returned it
        :param deadline: seconds in which the call ends, whatever happens, in
            place of :attr:`deadline`; None is without limit
        :returns: the same
        :raises PDInputError: the dedup_key is empty
        :raises PDHTTPError: the API refuses the event
        :raises PDDeadlineError: the deadline has passed, or would
        """
        options = _passed_on(deadline)
        return self.send_event("acknowledge", dedup_key=dedup_key, **options)

    def resolve(
        self,
        dedup_key: str,
        deadline: "Optional[float]" = _SESSION_DEADLINE,
    ) -> str:
        """Resolve an alert.

        :param dedup_key: identity of the alert, as ``trigger`` returned it
        :param deadline: seconds in which the call ends, whatever happens, in
            place of :attr:`deadline`; None is without limit
        :returns: the same
        :raises PDInputError: the dedup_key is empty
        :raises PDHTTPError: the API refuses the event
        :raises PDDeadlineError: the deadline has passed, or would
        """
        options = _passed_on(deadline)
        return self.send_event("resolve", dedup_key=dedup_key, **options)

    def send_event(
        self,
        action: str,
        dedup_key: "Optional[str]" = None,
        *,
        deadline: "Optional[float]" = _SESSION_DEADLINE,
        **properties: Any,
    ) -> str:
        """Send an event of any kind.

        :param action: ``trigger``, ``acknowledge`` or ``resolve``
        :param dedup_key: identity of the alert; only ``trigger`` may do
            without
        :param deadline: seconds in which the call ends, whatever happens, in
            place of :attr:`deadline`; None is without limit
        :param properties: the other properties of the event
        :returns: the dedup_key of the alert
        :raises PDInputError: the action is none of these; the dedup_key is
            missing or over 255 characters; payload or custom_details is no
            dict; or the event is too large, and cannot be shortened
        :raises PDHTTPError: the API refuses the event
        :raises PDDeadlineError: the deadline has passed, or would
        """
        properties = _masked_json(properties)
        actions = ("trigger", "acknowledge", "resolve")
        if action not in actions:
            raise PDInputError(
                f"The action must be one of {', '.join(actions)}; it is "
                f"{action!r}."
            )
        given_key = properties.get("routing_key")
        if given_key is not None and given_key != self.api_key:
            _warn(
                self.log,
                "The routing_key given with the event is not used, but the "
                f"session's, {self.trunc_key}. Make a session for each key.",
            )
        event = dict(properties, event_action=action)
        payload = event.get("payload")
        if isinstance(payload, abc.Mapping):
            severity = _severity_of(payload)
            if severity is not None:
                event["payload"] = dict(payload, severity=severity)
        makes_key = self.client_dedup_keys or self.outbox is not None
        is_missing = dedup_key is None or dedup_key == ""
        if is_missing and action == "trigger" and makes_key:
            dedup_key, is_missing = os.urandom(16).hex(), False
        if not is_missing:
            event["dedup_key"] = _checked_dedup_key(dedup_key)
        elif action != "trigger":
            raise PDInputError(
                f"To {action} an alert, its dedup_key (a non-empty str) is "
                f"needed; it is {dedup_key!r}."
            )
        response = self._submit("/v2/enqueue", event, deadline)
        if response is None:
            return str(event["dedup_key"])
        return _alert_key(response)

    def _is_idempotent(self, options: "Dict[str, Any]") -> bool:
        # Events with the same dedup_key are about the same alert.
        event = options.get("json")
        return isinstance(event, abc.Mapping) and bool(event.get("dedup_key"))

    def guard(
        self,
        summary: str,
        source: str,
        dedup_key: "Optional[str]" = None,
        resolve: bool = True,
        **event: Unpack[_EventOptions],
    ) -> _Guard:
        """Page somebody if a block of code, or a function, fails.

        For ``with``, or as a decorator of a function. An exception triggers
        an alert and passes on; success resolves it. ``KeyboardInterrupt`` and
        ``GeneratorExit`` do neither; ``SystemExit`` is a success with status
        0, and a failure with any other. Whatever the API does, the outcome of
        the block stays the same: what cannot be sent is logged, and kept if
        there is an ``outbox``.

        :param summary: what has failed; type and text of the exception are
            added
        :param source: where, e.g. a host name
        :param dedup_key: identity of the alert; None: made of summary and
            source, so that the next success resolves it
        :param resolve: False: success sends nothing
        :param event: further arguments of :meth:`trigger`
        :returns: the guard, whose ``dedup_key`` is that of the alert
        :raises ValueError: :meth:`trigger` would not take these arguments
        :raises TypeError: the same; or an asynchronous function is decorated,
            whose loop the sending would block
        """
        return _Guard(self, (summary, source, dedup_key), resolve, event)


class ChangeEventsAPISession(_EventsSession):
    """Client of the Change Events API, a part of the Events API v2.

    :param api_key: routing key of an integration (also "integration key")
    :param debug: True prints the log of this session to stderr
    :param outbox: a :class:`pdpyras_outbox.Outbox`, or its path: where events
        wait until the API has taken them
    :raises ValueError: the key cannot be a credential
    """

    @property
    def event_timestamp(self) -> str:
        """The present moment: UTC, ISO 8601, with ``Z``."""
        return _timestamp()

    def submit(
        self,
        summary: str,
        source: "Optional[str]" = None,
        custom_details: "Optional[Mapping[str, Any]]" = None,
        links: "Optional[Sequence[Mapping[str, Any]]]" = None,
        timestamp: "Union[None, str, datetime]" = None,
        deadline: "Optional[float]" = _SESSION_DEADLINE,
    ) -> "Optional[str]":
        """Submit a change event.

        :param summary: what has changed
        :param source: where it has changed
        :param custom_details: anything else worth knowing
        :param links: links to show (dicts with ``href``)
        :param timestamp: when it changed (ISO 8601); None is now
        :param deadline: seconds in which the call ends, whatever happens, in
            place of :attr:`deadline`; None is without limit
        :returns: the id of the event, if the API tells
        :raises PDInputError: custom_details is no dict
        :raises PDHTTPError: the API refuses the event
        :raises PDDeadlineError: the deadline has passed, or would
        """
        payload = {
            "summary": summary,
            "timestamp": timestamp or self.event_timestamp,
        }
        payload.update(
            _without_none(source=source, custom_details=custom_details)
        )
        return self.send_change_event(
            payload=payload,
            **_without_none(links=links),
            **_passed_on(deadline),
        )

    def send_change_event(
        self,
        *,
        deadline: "Optional[float]" = _SESSION_DEADLINE,
        **properties: Any,
    ) -> "Optional[str]":
        """Send a change event of any content.

        :param deadline: seconds in which the call ends, whatever happens, in
            place of :attr:`deadline`; None is without limit
        :param properties: the properties of the event
        :returns: the id of the event, if the API tells
        :raises PDInputError: payload or custom_details is no dict
        :raises PDHTTPError: the API refuses the event
        :raises PDDeadlineError: the deadline has passed, or would
        :raises PDServerError: the answer is no object
        """
        properties = _masked_json(properties)
        response = self._submit("/v2/change/enqueue", properties, deadline)
        return None if response is None else _answer_object(response).get("id")


# ---------------------------------------------------------------------------
# Names kept for 4.x scripts
# ---------------------------------------------------------------------------


# The functions. The methods stand in their classes, marked with _deprecated;
# so do the keyword arguments, with deprecated_kwarg.
@_deprecated("5.0.0", "Use `successful_response` instead.")
def raise_on_error(r: Any) -> Any:
    """Pass a response on if it is a success; raise if it is not."""
    return successful_response(r)


@_deprecated("5.0.0", "Use `wrapped_entities` instead.")
def resource_envelope(method: _Method) -> _Method:
    """Make a method take and return entities without their wrappers."""
    return wrapped_entities(method)


@_deprecated("5.0.0", "Use `resource_url` instead.")
def resource_path(method: _Method) -> _Method:
    """Let a method take a resource, a dict with ``self``, as its URL."""
    return resource_url(method)


@_deprecated("5.0.0", "Use `plural_name` instead.")
def resource_name(obj_type: str) -> str:
    """Name of the collection: ``users`` for ``user``."""
    return plural_name(obj_type)


@_deprecated("5.0.0", "Use `singular_name` instead.")
def object_type(r_name: str) -> str:
    """Name of one of the resources: ``user`` for ``users``."""
    return singular_name(r_name)


@_deprecated("5.0.0", "Use `canonical_path` instead.")
def tokenize_url_path(
    url: str, baseurl: str = "https://api.pagerduty.com"
) -> "Tuple[str, ...]":
    """Classify a URL: ``("users", "{id}")`` for one user.

    :param url: path or full URL
    :param baseurl: base URL of the API
    :returns: the resource, ``{id}`` and the sub-resource if there is one,
        and ``{id}`` or ``{index}`` for one resource or a collection
    :raises URLError: the path has empty nodes
    """
    return _tokens(url, baseurl)


# ---------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------


def _main(arguments: "Optional[Sequence[str]]" = None) -> int:
    """Run the command line, which is in a module beside this one."""
    try:
        from pdpyras_cli import main
    except ImportError as error:
        print(
            f"The command line is not beside {__file__}: {error}. It comes "
            "with the distribution: pip install 'pdpyras>=6'",
            file=sys.stderr,
        )
        return 2
    return main(arguments)


if __name__ == "__main__":
    sys.exit(_main())
