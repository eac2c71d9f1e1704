"""Webhooks of PagerDuty (version 3): verify, receive and sign them.

PagerDuty sends a POST for each event of a webhook subscription, and signs its
body with the secret that the answer to the subscription's creation held. In a
view of any web framework, ``webhook_event`` checks the signature and returns
the event; ``receiver`` is a whole application for any WSGI server:

.. code-block:: python

    from pdpyras_webhooks import Seen, receiver

    def handler(event):
        print(event["event_type"], event["data"]["id"])

    application = receiver(handler, "the subscription's secret", Seen())

The rules are those of PagerDuty's pages "Webhooks Overview", "Verifying
Signatures" and "Webhook Behavior": an answer is due within 5 seconds; without
one, and after 429 and 5xx, a delivery comes again for up to 48 hours. Any
other 4xx drops it, and three dropped in a row switch the subscription off.

The module needs the standard library alone.
"""

import calendar
import contextlib
import functools
import hashlib
import hmac
import inspect
import json
import logging
import re
import threading
import time
import traceback
from collections import OrderedDict, abc
from datetime import timedelta
from http import HTTPStatus
from numbers import Real
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Optional,
    Set,
    Tuple,
    Union,
)

__all__ = [
    "Seen",
    "WebhookError",
    "receiver",
    "sign_webhook",
    "verify_webhook",
    "webhook_event",
]

Event = Dict[str, Any]
Body = Union[bytes, bytearray, memoryview]
Secret = Union[str, bytes, Iterable[Union[str, bytes]]]
Application = Callable[[Dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_log = logging.getLogger("pdpyras.webhooks")


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

#: Bytes of a body. PagerDuty itself gives up at 256 KB; its Go client reads
#: this much.
MAX_BODY = 2 * 1024 * 1024

# Bytes that are read at a time.
CHUNK_SIZE = 64 * 1024

_SIGNATURE_HEADERS = ("x-pagerduty-signature", "http-x-pagerduty-signature")
_SIGNATURE = re.compile(rb"v1=([0-9a-fA-F]{64})")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(?:Z|\+00:00)", re.ASCII
)
_RAW_BYTES = (
    "Flask: request.get_data(); Django: request.body; WSGI: "
    'environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])); AWS Lambda: '
    'base64.b64decode(event["body"]) if event["isBase64Encoded"] else '
    'event["body"].encode()'
)


# ---------------------------------------------------------------------------
# Errors, and what they must not show
# ---------------------------------------------------------------------------


class WebhookError(ValueError):
    """What came is no webhook of this subscription, or not to be handled.

    Neither the body nor the secret is in it.

    :ivar status: the HTTP status to answer with: 401 without a valid
        signature, 413 over 2 MB, 400 if the body is not an event. It is 202
        for a genuine event that is older than ``max_age``: by an error,
        PagerDuty would come to switch off the subscription.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class _Hidden:
    """Holds what crash reporters must not find among the local variables.

    Functions below that raise have secrets and bodies in this form only. It
    is no subclass of bytes, since some reporters cut a piece off those.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "<hidden>"


def _raw(body: _Hidden) -> _Hidden:
    """The body as bytes."""
    if not isinstance(body.value, (bytes, bytearray, memoryview)):
        raise TypeError(
            "body must be the bytes of the request as they were received, "
            f"not {type(body.value).__name__}. {_RAW_BYTES}"
        )
    return _Hidden(bytes(body.value))


def _secrets(secret: _Hidden) -> Tuple[_Hidden, ...]:
    """The secrets as bytes, at least one.

    Wrong ones are no WebhookError: that would be answered by a 4xx, which
    makes PagerDuty drop genuine events.
    """
    given: Tuple[_Hidden, ...] = (secret,)
    # Of a mapping, the keys would be taken for secrets.
    if isinstance(secret.value, abc.Iterable) and not isinstance(
        secret.value, (str, bytes, abc.Mapping)
    ):
        given = tuple(map(_Hidden, secret.value))
    if not given:
        raise ValueError("secret must not be empty")
    return tuple(map(_secret_bytes, given))


def _secret_bytes(secret: _Hidden) -> _Hidden:
    """One secret as bytes."""
    if not isinstance(secret.value, (str, bytes)):
        raise TypeError(
            "secret must be str or bytes, or several of these, not "
            + type(secret.value).__name__
        )
    if not secret.value or secret.value != secret.value.strip():
        raise ValueError(
            "secret must not be empty, nor begin or end with white space "
            "(such as the line end of a file)"
        )
    if isinstance(secret.value, bytes):
        return secret
    return _Hidden(secret.value.encode("utf-8", "surrogatepass"))


# ---------------------------------------------------------------------------
# Signatures
# ---------------------------------------------------------------------------


def sign_webhook(body: Body, secret: Secret) -> str:
    """Sign a body as PagerDuty does, to test a receiver.

    :param body: at most 2 MB
    :param secret: one or several; each makes a signature
    :returns: a value for the header ``X-PagerDuty-Signature``
    :raises WebhookError: the body is too large
    :raises TypeError: ``body`` is not bytes, ``secret`` neither text nor bytes
    :raises ValueError: ``secret`` is empty
    """
    hidden_body, hidden_secret = _Hidden(body), _Hidden(secret)
    del body, secret
    raw, secrets = _raw(hidden_body), _secrets(hidden_secret)
    _check_size(len(raw.value))
    return ",".join("v1=" + digest for digest in _digests(raw, secrets))


def verify_webhook(
    body: Body, signature: Union[str, bytes, None], secret: Secret
) -> bool:
    """Is a signature that of the body?

    :param body: the request's body as it was received
    :param signature: the header ``X-PagerDuty-Signature``: one signature or
        several, separated by commas, of which one has to match. Versions
        other than ``v1`` are skipped. None is never valid.
    :param secret: the subscription's; both, the new and the old one, while it
        is being changed
    :returns: also False for a body of more than 2 MB
    :raises TypeError: an argument is of none of these types
    :raises ValueError: ``secret`` is empty
    """
    hidden_body, hidden_secret = _Hidden(body), _Hidden(secret)
    del body, secret
    raw, secrets = _raw(hidden_body), _secrets(hidden_secret)
    if signature is None or len(raw.value) > MAX_BODY:
        return False
    return _matches(raw, [_signature_bytes(signature)], secrets)


def webhook_event(
    body: Body,
    headers: Any,
    secret: Secret,
    max_age: Union[None, float, timedelta] = None,
) -> Event:
    """Check a webhook's signature, and return its event.

    :param body: the request's body as it was received
    :param headers: its headers: a mapping (names in any case, values also as
        lists), pairs of name and value, or a WSGI environ
    :param secret: the subscription's; both, the new and the old one, while it
        is being changed
    :param max_age: seconds (or a ``timedelta``) since the event's
        ``occurred_at`` after which it is refused. There is no other time in a
        webhook, and a delivery may rightly come 48 hours late: by default
        there is no limit.
    :returns: ``id``, ``event_type``, ``resource_type``, ``occurred_at``,
        ``agent``, ``client`` and ``data``, as PagerDuty sent them
    :raises WebhookError: with the ``status`` to answer with
    :raises TypeError: an argument is of none of these types
    :raises ValueError: ``secret`` is empty, or ``max_age`` is neither a number
        nor a ``timedelta``
    """
    hidden_body, hidden_secret = _Hidden(body), _Hidden(secret)
    del body, secret
    seconds = None if max_age is None else _seconds(max_age)
    raw, secrets = _raw(hidden_body), _secrets(hidden_secret)
    event = _checked_event(raw, headers, secrets)
    if seconds is None or _age(event) <= seconds:
        return event
    del event
    raise WebhookError(
        f"the event did not occur within the last {seconds:.15g} seconds", 202
    )


def _seconds(max_age: Any) -> float:
    """The seconds of a ``max_age``.

    A wrong one is an error at once: later it would be one for genuine events
    only, and show them.
    """
    if isinstance(max_age, timedelta):
        return max_age.total_seconds()
    if isinstance(max_age, Real):
        with contextlib.suppress(OverflowError):
            return float(max_age)
    raise ValueError(
        "max_age must be a number of seconds within the range of a float, a "
        f"timedelta or None, not {type(max_age).__name__}"
    )


def _checked_event(
    raw: _Hidden, headers: Any, secrets: Tuple[_Hidden, ...]
) -> Event:
    """The event of a body that is signed."""
    _check_size(len(raw.value))
    signatures = _signatures_in(headers)
    if not signatures:
        raise WebhookError("there is no header X-PagerDuty-Signature", 401)
    if not _matches(raw, signatures, secrets):
        raise WebhookError("no signature matches body and secret", 401)
    event = _decoded(raw)
    if event is None:
        raise WebhookError("the body is not JSON, or holds no event")
    return event


def _check_size(size: int) -> None:
    if size > MAX_BODY:
        raise WebhookError(f"the body has more than {MAX_BODY} bytes", 413)


def _signatures_in(headers: Any) -> List[bytes]:
    """The values of the signature's header, however headers are kept."""
    items = getattr(headers, "items", None)
    try:
        pairs = list(items() if callable(items) else headers)
        values = [value for name, value in pairs if _is_signature(name)]
    except (TypeError, ValueError):
        raise TypeError(
            "headers must be a mapping, pairs of name and value, or a WSGI "
            f"environ, not {type(headers).__name__}"
        ) from None
    found: List[bytes] = []
    for value in values:
        several = isinstance(value, (list, tuple))
        found += map(_signature_bytes, value if several else [value])
    return found


def _is_signature(name: Any) -> bool:
    """Is it the name of the signature's header?"""
    if isinstance(name, bytes):  # of an ASGI scope
        name = name.decode("latin-1")
    return (
        isinstance(name, str)
        and name.lower().replace("_", "-") in _SIGNATURE_HEADERS
    )


def _signature_bytes(signature: Any) -> bytes:
    """As bytes: texts cannot be compared unless they are ASCII."""
    if isinstance(signature, str):
        return signature.encode("ascii", "replace")
    if not isinstance(signature, bytes):
        raise TypeError(
            f"signature must be str or bytes, not {type(signature).__name__}"
        )
    return signature


def _digests(raw: _Hidden, secrets: Tuple[_Hidden, ...]) -> List[str]:
    """The signatures that a body should have, without their version."""
    return [
        hmac.new(secret.value, raw.value, hashlib.sha256).hexdigest()
        for secret in secrets
    ]


def _matches(
    raw: _Hidden, signatures: List[bytes], secrets: Tuple[_Hidden, ...]
) -> bool:
    """Is one of the signatures that of one of the secrets?"""
    parts = (part.strip(b" \t") for part in b",".join(signatures).split(b","))
    offered = [found[1] for found in map(_SIGNATURE.fullmatch, parts) if found]
    return any(
        hmac.compare_digest(digest.encode("ascii"), hexadecimal.lower())
        for digest in _digests(raw, secrets)
        for hexadecimal in offered
    )


def _decoded(raw: _Hidden) -> Optional[Event]:
    """The event that a body holds.

    Nothing is raised while the error of the decoder is handled: that would
    be the context of the new one, and it holds the whole body.
    """
    try:
        content = json.loads(raw.value.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    event = content.get("event") if isinstance(content, dict) else None
    return event if isinstance(event, dict) else None


def _age(event: Event) -> float:
    """Seconds since the event occurred; NaN if it does not say when."""
    text = event.get("occurred_at")
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    try:
        whole, fraction = match.groups("0") if match else ("", "0")
        moment = time.strptime(whole, "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return float("nan")
    return time.time() - calendar.timegm(moment) - float(fraction)


# ---------------------------------------------------------------------------
# Receiving
# ---------------------------------------------------------------------------


class Seen:
    """Remembers the latest deliveries, for ``receiver(…, seen=Seen())``.

    It lives in one process. Where several serve the same URL, write a class
    with these two methods on top of what they share, such as a database; it
    has to keep what was added for 48 hours.

    :param max_deliveries: the oldest beyond so many are forgotten
    """

    def __init__(self, max_deliveries: int = 10000) -> None:
        self.max_deliveries = max_deliveries
        self._lock = threading.Lock()
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __call__(self, delivery_id: str) -> bool:
        """Has this delivery been handled? Asking changes nothing."""
        with self._lock:
            return delivery_id in self._ids

    def add(self, delivery_id: str) -> None:
        """This delivery has been handled."""
        with self._lock:
            self._ids[delivery_id] = None
            self._ids.move_to_end(delivery_id)
            while len(self._ids) > self.max_deliveries:
                self._ids.popitem(last=False)

    def discard(self, delivery_id: str) -> None:
        """Forget a delivery, if it was remembered."""
        with self._lock:
            self._ids.pop(delivery_id, None)


def receiver(
    handler: Callable[[Event], Any],
    secret: Secret,
    seen: Optional[Callable[[str], bool]] = None,
) -> Application:
    """Make a WSGI application that receives webhooks, for any server.

    It answers as PagerDuty's delivery rules want: 202 once the handler has
    returned; 500 if it raises, or returns a coroutine or generator, so that
    the delivery comes again; 401 without a valid signature; 400 for what is
    no event; 413 over 2 MB; 405 for methods other than POST; 503 while the
    same delivery is being handled, and if the body cannot be read; 501 for a
    chunked body under a server that does not decode it.

    :param handler: called with each event, by as many threads as the server
        has. PagerDuty waits for 5 seconds: longer work belongs elsewhere. An
        exception is logged by its type and place, not by its text, which may
        quote the event.
    :param secret: the subscription's; both, the new and the old one, while it
        is being changed
    :param seen: leaves out repeated deliveries. ``seen(delivery_id)``, with
        the header ``X-Webhook-Id``, is asked before the handler is called; if
        it is true, the answer is 202. ``seen.add(delivery_id)`` is called
        after the handler has returned. Asking must not add, or an event whose
        handler failed would be taken for handled when it comes again. For
        functions, which have no ``add`` and often do, the receiver remembers
        this, but only in its own process. See :class:`Seen`.
    :raises TypeError: an argument is of none of these types, or ``handler``
        or ``seen`` is ``async`` or a generator function
    :raises ValueError: ``secret`` is empty
    """
    hidden_secret = _Hidden(secret)
    del secret
    if not callable(handler) or _runs_later(handler):
        raise TypeError(
            "handler must be a function, and not async, nor a generator"
        )
    if seen is not None and not callable(seen):
        raise TypeError(
            f"seen must be callable, such as Seen(), not {type(seen).__name__}"
        )
    if _runs_later(seen):
        raise TypeError(
            "seen must be callable, such as Seen(), and not async, nor a "
            "generator"
        )
    if seen is not None and not hasattr(seen, "add"):
        seen = _Asked(seen)
    return _Receiver(handler, _secrets(hidden_secret), seen)


def _runs_later(function: Any) -> bool:
    """Would a call of it only make something to be awaited or iterated?"""
    while isinstance(function, functools.partial):
        function = function.func
    return any(
        inspect.iscoroutinefunction(called)
        or inspect.isasyncgenfunction(called)
        or inspect.isgeneratorfunction(called)
        for called in (function, type(function).__call__)
    )


class _CoroutineReturnedError(TypeError):
    """What was called has not done anything: it is async, or a generator."""


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    """Call a function that must not run later, though it may not look so.

    :raises _CoroutineReturnedError: it is
    """
    result = function(argument)
    if isinstance(result, (abc.Coroutine, abc.Generator)):
        result.close()  # Or Python warns that it was never awaited.
        raise _CoroutineReturnedError
    return result


class _Asked:
    """Gives the method ``add`` to a function that has none.

    It may itself add what it is asked about. So it is not asked again before
    the handler has returned.
    """

    def __init__(self, seen: Callable[[str], bool]) -> None:
        self._seen = seen
        self._unhandled = Seen()

    def __call__(self, delivery_id: str) -> bool:
        is_unhandled = self._unhandled(delivery_id)
        if not is_unhandled and _call(self._seen, delivery_id):
            return True
        self._unhandled.add(delivery_id)
        return False

    def add(self, delivery_id: str) -> None:
        self._unhandled.discard(delivery_id)


class _Receiver:
    """The application that ``receiver`` makes."""

    def __init__(
        self,
        handler: Callable[[Event], Any],
        secrets: Tuple[_Hidden, ...],
        seen: Any,
    ) -> None:
        self._handler = handler
        self._secrets = secrets
        self._seen = seen
        self._lock = threading.Lock()
        self._under_way: Set[str] = set()

    def __call__(
        self, environ: Dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""
        status = HTTPStatus(self._answer(environ))
        is_head = environ["REQUEST_METHOD"] == "HEAD"
        text = b"" if is_head else f"{status.phrase}\n".encode("ascii")
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(text))),
        ]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "POST"))
        start_response(f"{status.value} {status.phrase}", headers)
        return [text]

    def _answer(self, environ: Dict[str, Any]) -> int:
        """Do what a request asks for; return the status of the answer."""
        if environ["REQUEST_METHOD"] != "POST":
            return 405
        try:
            raw = _read_body(environ)
            event = _checked_event(raw, environ, self._secrets)
        except WebhookError as error:
            _log.warning("Refused a webhook (%d): %s", error.status, error)
            return error.status
        delivery_id = environ.get("HTTP_X_WEBHOOK_ID")
        if self._seen is None or not delivery_id:
            return self._handle(event, None)
        with self._lock:
            # PagerDuty waited no longer for its last attempt. That may still
            # fail, so that this one must not be confirmed.
            if delivery_id in self._under_way:
                return 503
            self._under_way.add(delivery_id)
        try:
            return self._handle(event, delivery_id)
        finally:
            with self._lock:
                self._under_way.remove(delivery_id)

    def _handle(self, event: Event, delivery_id: Optional[str]) -> int:
        """Call the handler, unless it has handled this delivery."""
        try:
            if delivery_id and _call(self._seen, delivery_id):
                return 202
            _call(self._handler, event)
        except Exception as error:
            _log_exception("handle", error)
            return 500
        try:
            if delivery_id:
                _call(self._seen.add, delivery_id)
        except Exception as error:
            _log_exception("remember", error)
        return 202


def _log_exception(action: str, error: Exception) -> None:
    """Log type and place of an exception; its text may quote the event."""
    _log.error(
        "Failed to %s a webhook: %s\n%s",
        action,
        type(error).__name__,
        "".join(traceback.format_tb(error.__traceback__)),
    )


def _read_body(environ: Dict[str, Any]) -> _Hidden:
    """The body of a request, without reading one that is too large."""
    length = environ.get("CONTENT_LENGTH") or ""
    is_chunked = "HTTP_TRANSFER_ENCODING" in environ
    # a2wsgi does not say that the stream of an ASGI server ends.
    ends = environ.get("wsgi.input_terminated") or "asgi.scope" in environ
    if ends and (is_chunked or not length):
        return _Hidden(_read(environ["wsgi.input"], MAX_BODY + 1))
    if is_chunked:
        # No 4xx: PagerDuty would drop what may be genuine.
        raise WebhookError("this server does not decode chunked bodies", 501)
    if not re.fullmatch("[0-9]*", length):
        raise WebhookError("the header Content-Length is not a number")
    # Eight digits are enough to see that it is too large.
    size = int(length.lstrip("0")[:8] or "0")
    _check_size(size)
    raw = _Hidden(_read(environ["wsgi.input"], size))
    if len(raw.value) < size:
        raise WebhookError("the body is shorter than its Content-Length")
    return raw


def _read(stream: Any, size: int) -> bytes:
    """So many bytes, or fewer if the stream ends before."""
    pieces: List[bytes] = []
    try:
        while size > 0:
            pieces.append(stream.read(min(size, CHUNK_SIZE)))
            if not pieces[-1]:
                break
            size -= len(pieces[-1])
    except OSError:
        # No 4xx: PagerDuty would drop what may be genuine.
        raise WebhookError("the body could not be read", 503) from None
    return b"".join(pieces)
