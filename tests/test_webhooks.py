"""Webhooks: verified, signed and received.

The receiver is tested over sockets: within this process under wsgiref, whose
validator checks that it keeps to WSGI, and in processes of their own under
wsgiref, waitress and gunicorn.
"""

import base64
import concurrent.futures
import contextlib
import functools
import hashlib
import hmac
import http.client
import importlib.util
import inspect
import json
import logging
import os
import pickle
import queue
import re
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import wsgiref.simple_server
import wsgiref.validate
from collections import OrderedDict
from datetime import timedelta
from email.message import Message
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
import requests
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import pdpyras
import pdpyras_sandbox
import pdpyras_webhooks
from pdpyras_sandbox import Sandbox
from pdpyras_webhooks import (
    MAX_BODY,
    Seen,
    WebhookError,
    receiver,
    sign_webhook,
    verify_webhook,
    webhook_event,
)
from tests.support import case
from tests.test_docs import samples_of

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GUIDE = os.path.join(ROOT, "sphinx", "source", "guide", "webhooks.rst")
TIMEOUT = 30
SECRET = "sandbox-secret-1"
OLD_SECRET = "sandbox-secret-0"
BODY = (
    '{"event":{"id":"01EXAMPLE","event_type":"incident.triggered",'
    '"resource_type":"incident","occurred_at":"2026-01-01T00:00:00.000Z",'
    '"agent":null,"client":null,"data":{"id":"PABC123","type":"incident",'
    '"title":"Größe 100 %"}}}'
).encode()
NEW = "6712ac072e2e5b7712d1d2e97e9b07fefe0292b7cf4712c042187216e36589b8"
OLD = "e7e2be5d1830e277bd6d77b6dde18405b38e674fcd0bbc96694330fcad2b5ae9"
EVENT = json.loads(BODY.decode())["event"]
NAME = "X-PagerDuty-Signature"
HOUR = 3600


def body_of(number: Any = 1, **properties: Any) -> bytes:
    """A body with an event of this id."""
    event = dict(EVENT, id=f"01EVENT{number}", **properties)
    return json.dumps({"event": event}).encode()


def signed(body: bytes, secret: Any = SECRET) -> Dict[str, str]:
    """The headers that PagerDuty sends with a body."""
    return {NAME: sign_webhook(body, secret)}


def refusal(*arguments: Any, **options: Any) -> WebhookError:
    """How webhook_event refuses these arguments."""
    with pytest.raises(WebhookError) as caught:
        webhook_event(*arguments, **options)
    return caught.value


# ---------------------------------------------------------------------------
# Signatures
# ---------------------------------------------------------------------------


def test_the_test_vector() -> None:
    assert len(BODY) == 223
    assert sign_webhook(BODY, SECRET) == "v1=" + NEW
    assert sign_webhook(BODY, OLD_SECRET) == "v1=" + OLD
    assert verify_webhook(BODY, "v1=" + NEW, SECRET) is True
    assert verify_webhook(BODY, "v1=" + OLD, SECRET) is False
    assert verify_webhook(BODY + b"\n", "v1=" + NEW, SECRET) is False
    assert webhook_event(BODY, {NAME: "v1=" + NEW}, SECRET) == EVENT


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("encode", [str, str.encode], ids=["str", "bytes"])
def test_kinds_of_body_signature_and_secret(kind: Any, encode: Any) -> None:
    body, secret = kind(BODY), encode(SECRET)
    assert sign_webhook(body, secret) == "v1=" + NEW
    assert verify_webhook(body, encode("v1=" + NEW), secret)
    assert webhook_event(body, {NAME: encode("v1=" + NEW)}, secret) == EVENT


def test_a_memoryview_is_measured_in_bytes() -> None:
    words = memoryview(bytearray(MAX_BODY + 4)).cast("I")
    assert len(words) < MAX_BODY
    assert refusal(words, {NAME: "v1=" + NEW}, SECRET).status == 413


@pytest.mark.parametrize(
    "secret",
    [
        [SECRET, OLD_SECRET],
        (OLD_SECRET.encode(), SECRET),
        {SECRET, OLD_SECRET},
        iter([OLD_SECRET, SECRET]),
        (text for text in [SECRET, OLD_SECRET]),
    ],
    ids=["list", "tuple", "set", "iterator", "generator"],
)
def test_several_secrets_while_rotating(secret: Any) -> None:
    secrets = list(secret)
    assert verify_webhook(BODY, "v1=" + NEW, iter(secrets))
    assert verify_webhook(BODY, "v1=" + OLD, iter(secrets))
    assert not verify_webhook(BODY, "v1=" + "0" * 64, iter(secrets))


def test_a_secret_that_is_no_unicode() -> None:
    """As os.environ holds bytes that are not UTF-8."""
    secret = "secret-\udcff"
    signature = sign_webhook(BODY, secret)
    assert verify_webhook(BODY, signature, secret)
    assert not verify_webhook(BODY, signature, "secret-")


def test_several_secrets_make_several_signatures() -> None:
    both = sign_webhook(BODY, [SECRET, OLD_SECRET])
    assert both == f"v1={NEW},v1={OLD}"
    assert verify_webhook(BODY, both, SECRET)
    assert verify_webhook(BODY, both, OLD_SECRET)
    assert not verify_webhook(BODY, both, "another")


WRONG = "v1=" + "0" * 64


@pytest.mark.parametrize(
    "signature",
    [
        f"v1={NEW}",
        f"  v1={NEW}\t",
        f"{WRONG},v1={NEW}",
        f"{WRONG} , v1={NEW}",
        f"v1={NEW},{WRONG}",
        f"v2=whatever,v1={NEW}",
        f"v1,=,,v1=,v1={NEW},v0={NEW}",
        f"v1={NEW.upper()}",
        f"v1=ü{NEW[1:]},v1={NEW}",
    ],
)
def test_valid_signatures(signature: str) -> None:
    assert verify_webhook(BODY, signature, SECRET)
    assert webhook_event(BODY, {NAME: signature}, SECRET) == EVENT


@pytest.mark.parametrize(
    "signature",
    [
        "",
        ",",
        "v1=",
        NEW,
        f"v0={NEW}",
        f"v2={NEW}",
        f"v11={NEW}",
        f"V1={NEW}",
        f"v1:{NEW}",
        f"v1 ={NEW}",
        f"v1= {NEW}",
        f"v1={NEW}\n",
        f"v1={NEW[:-1]}",
        f"v1={NEW}0",
        f"v1={NEW} v1={NEW}",
        f"v1={NEW};v1={NEW}",
        f"v1={NEW[:-1]}g",
        f"v1={NEW[:-1]}\uff18",  # a full-width 8, the last digit
        f"v1={NEW[:-1]}\ud800",
        WRONG,
    ],
)
def test_invalid_signatures(signature: str) -> None:
    assert verify_webhook(BODY, signature, SECRET) is False
    assert refusal(BODY, {NAME: signature}, SECRET).status == 401


def test_no_signature() -> None:
    assert verify_webhook(BODY, None, SECRET) is False
    assert verify_webhook(BODY, b"", SECRET) is False
    error = refusal(BODY, {"Content-Type": "application/json"}, SECRET)
    assert error.status == 401
    assert str(error) == "there is no header X-PagerDuty-Signature"


@pytest.mark.parametrize("signature", [5, [b"v1=" + NEW.encode()], True])
def test_a_signature_that_is_no_text(signature: Any) -> None:
    with pytest.raises(TypeError, match="signature must be str or bytes"):
        verify_webhook(BODY, signature, SECRET)


def test_signatures_are_compared_in_constant_time() -> None:
    """By compare_digest, which is in C, and only what can be a digest."""
    called: List[str] = []

    def profile(frame: Any, event: str, function: Any) -> None:
        if event == "c_call":
            called.append(function.__name__)

    sys.setprofile(profile)
    try:
        odd = f"v1={NEW[:-1]},v1={NEW}0,v1={NEW[:-1]}g,v0={NEW}"
        assert verify_webhook(BODY, f"{odd},{WRONG},v1={NEW}", SECRET)
    finally:
        sys.setprofile(None)
    compared = [name for name in called if name.endswith("compare_digest")]
    assert len(compared) == 2


@pytest.mark.parametrize(
    "secret",
    [
        *("", b"", [], (), set(), {}, [""], [b""], [SECRET, ""], None),
        *(" ", "\n", SECRET + "\n", " " + SECRET, [SECRET, b"\t"], [None]),
        *([SECRET, None], 5, 5.0, True, {SECRET: SECRET}, [[SECRET]]),
        *(bytearray(b"secret"), memoryview(b"secret"), [bytearray(b"x")]),
    ],
    ids=case,
)
def test_secrets_that_are_none(secret: Any) -> None:
    """Nothing is accepted, and no WebhookError, that is no 4xx, raised."""
    calls: List[Callable[[], Any]] = [
        lambda: sign_webhook(BODY, secret),
        lambda: verify_webhook(BODY, "v1=" + NEW, secret),
        lambda: verify_webhook(BODY, None, secret),
        lambda: webhook_event(BODY, {NAME: "v1=" + NEW}, secret),
        lambda: webhook_event(BODY, {}, secret),
        lambda: receiver(print, secret),
    ]
    for call in calls:
        with pytest.raises((ValueError, TypeError), match="secret") as caught:
            call()
        assert not isinstance(caught.value, WebhookError)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("body", [BODY.decode(), {"event": {}}, None, [1]])
def test_a_body_that_is_no_bytes(body: Any) -> None:
    calls: List[Callable[[], Any]] = [
        lambda: sign_webhook(body, SECRET),
        lambda: verify_webhook(body, "v1=" + NEW, SECRET),
        lambda: webhook_event(body, {NAME: "v1=" + NEW}, SECRET),
    ]
    for call in calls:
        with pytest.raises(TypeError) as caught:
            call()
        text = str(caught.value)
        assert f"not {type(body).__name__}." in text
        for hint in (
            *("Flask: request.get_data()", "Django: request.body"),
            *('WSGI: environ["wsgi.input"].read(', "AWS Lambda: base64"),
        ):
            assert hint in text


def test_the_hint_for_lambda_holds() -> None:
    hint = pdpyras_webhooks._RAW_BYTES.partition("AWS Lambda: ")[2]
    for is_encoded in (True, False):
        text = base64.b64encode(BODY) if is_encoded else BODY
        event = {"body": text.decode(), "isBase64Encoded": is_encoded}
        assert eval(hint, {"base64": base64, "event": event}) == BODY


def test_the_largest_body() -> None:
    """2 MB are taken, and not a byte more."""
    limit = 2 * 1024 * 1024
    assert limit == MAX_BODY
    filling = limit - len(body_of(details=""))
    body = body_of(details="x" * filling)
    assert len(body) == limit
    assert verify_webhook(body, sign_webhook(body, SECRET), SECRET)
    assert webhook_event(body, signed(body), SECRET)["id"] == "01EVENT1"

    larger = body + b" "
    right = hmac.new(SECRET.encode(), larger, hashlib.sha256).hexdigest()
    assert verify_webhook(larger, "v1=" + right, SECRET) is False
    assert refusal(larger, {NAME: "v1=" + right}, SECRET).status == 413
    with pytest.raises(WebhookError, match="more than 2097152 bytes"):
        sign_webhook(larger, SECRET)


# ---------------------------------------------------------------------------
# Headers
# ---------------------------------------------------------------------------


def message() -> Message:
    kept = Message()
    kept["Content-Type"] = "application/json"
    kept["X-PAGERDUTY-SIGNATURE"] = "v1=" + NEW
    return kept


@pytest.mark.parametrize(
    "headers",
    [
        {"X-PagerDuty-Signature": "v1=" + NEW},
        {"x-pagerduty-signature": "v1=" + NEW, "host": "example.com"},
        {"X-PAGERDUTY-SIGNATURE": b"v1=" + NEW.encode()},
        OrderedDict([("Host", "a"), (NAME, "v1=" + NEW)]),
        requests.structures.CaseInsensitiveDict({NAME: "v1=" + NEW}),
        [("Host", "example.com"), ("x-pagerduty-Signature", "v1=" + NEW)],
        ([name, "v1=" + NEW] for name in ("Host", NAME)),
        [(b"host", b"a"), (b"x-pagerduty-signature", b"v1=" + NEW.encode())],
        {
            "wsgi.input": object(),
            "wsgi.version": (1, 0),
            "HTTP_X_PAGERDUTY_SIGNATURE": "v1=" + NEW,
        },
        {"x-pagerduty-signature": [WRONG, "v1=" + NEW]},
        [(NAME, WRONG), (NAME, "v1=" + NEW)],
        message(),
        {5: "", None: "", NAME: "v1=" + NEW},
    ],
)
def test_headers_however_they_are_kept(headers: Any) -> None:
    assert webhook_event(BODY, headers, SECRET) == EVENT


@pytest.mark.parametrize(
    "headers",
    [
        *(None, 5, "v1=" + NEW, b"v1=" + NEW.encode(), ["v1=" + NEW]),
        *([(NAME, "v1=" + NEW, "x")], [5], object()),
        *({NAME: 5}, {NAME: None}, {NAME: [5]}, [(NAME, {})]),
    ],
    ids=case,
)
def test_headers_that_are_none(headers: Any) -> None:
    with pytest.raises(TypeError, match="headers must be|signature must be"):
        webhook_event(BODY, headers, SECRET)


@pytest.mark.parametrize(
    "headers",
    [
        *({}, [], (), {"Signature": "v1=" + NEW}),
        {"X-PagerDuty-Signature-2": "v1=" + NEW},
        {"HTTP_HTTP_X_PAGERDUTY_SIGNATURE": "v1=" + NEW},
    ],
    ids=repr,
)
def test_headers_without_a_signature(headers: Any) -> None:
    error = refusal(BODY, headers, SECRET)
    assert error.status == 401 and "no header" in str(error)


# ---------------------------------------------------------------------------
# Events
# ---------------------------------------------------------------------------

NO_EVENTS = [
    *(b"", b"{", b"no JSON", b"[]", b"5", b"null", b'"event"', b"{}"),
    *(b'{"event": null}', b'{"event": []}', b'{"event": "triggered"}'),
    *(b'{"events": {}}', b'[{"event": {}}]', b'{"event": {}} {}'),
    *(b'{"event": {"title": "\xff"}}', b"\xef\xbb\xbf" + BODY),
    *(BODY.decode().encode("utf-16"), b'{"event": {"n": ' + b"9" * 5000),
    *(b"[" * 200000, b'{"event":' * 100000),
]


@pytest.mark.parametrize("body", NO_EVENTS, ids=lambda body: repr(body[:20]))
def test_a_signed_body_without_an_event(
    body: bytes, no_collector: None
) -> None:
    error = refusal(body, signed(body), SECRET)
    assert error.status == 400
    assert str(error) == "the body is not JSON, or holds no event"


@pytest.mark.parametrize("body", NO_EVENTS, ids=lambda body: repr(body[:20]))
def test_an_unsigned_body_is_not_even_decoded(body: bytes) -> None:
    assert refusal(body, {NAME: WRONG}, SECRET).status == 401


def test_unknown_types_of_events_pass() -> None:
    body = b'{"event": {"event_type": "tea.ready", "new": [1]}, "more": 1}'
    assert webhook_event(body, signed(body), SECRET) == {
        "event_type": "tea.ready",
        "new": [1],
    }


def test_there_is_no_limit_of_age_by_default() -> None:
    for moment in ("1999-01-01T00:00:00.000Z", "soon", None, 5):
        body = body_of(occurred_at=moment)
        event = webhook_event(body, signed(body), SECRET)
        assert event["occurred_at"] == moment


def ago(seconds: float, form: str = "%Y-%m-%dT%H:%M:%S.000Z") -> str:
    """A moment before now, as PagerDuty writes it."""
    return time.strftime(form, time.gmtime(time.time() - seconds))


@pytest.fixture(params=["UTC", "Asia/Tokyo", "America/New_York"])
def zone(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The time zone of this machine."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="needs tzset()")
@pytest.mark.parametrize(
    "form",
    [
        *("%Y-%m-%dT%H:%M:%S.000Z", "%Y-%m-%dT%H:%M:%SZ"),
        *("%Y-%m-%dT%H:%M:%S.123456789Z", "%Y-%m-%dT%H:%M:%S+00:00"),
    ],
)
def test_max_age(zone: None, form: str) -> None:
    body = body_of(occurred_at=ago(10 * HOUR, form))
    for max_age in (11 * HOUR, 48 * HOUR, float("inf")):
        assert webhook_event(body, signed(body), SECRET, max_age)
    for max_age in (9 * HOUR, 0, -5, float("nan")):
        error = refusal(body, signed(body), SECRET, max_age=max_age)
        # Genuine: an error would come to switch off the subscription.
        assert error.status == 202
        assert f"within the last {max_age} seconds" in str(error)
    # What is not genuine is refused as such, however old.
    assert refusal(body, {NAME: WRONG}, SECRET, max_age=1).status == 401


def test_max_age_may_be_a_timedelta() -> None:
    body = body_of(occurred_at=ago(10 * HOUR))
    headers = signed(body)
    assert webhook_event(body, headers, SECRET, timedelta(hours=11))
    error = refusal(body, headers, SECRET, timedelta(hours=9))
    assert error.status == 202
    assert "within the last 32400 seconds" in str(error)


class Unread(bytes):
    """Of a body that nobody may read."""

    def __bytes__(self) -> bytes:
        raise AssertionError


@pytest.mark.parametrize(
    "max_age",
    ["60", b"60", [60], {}, 60j, 10**400],
    ids=lambda age: type(age).__name__,
)
@pytest.mark.parametrize(
    "signature",
    ["v1=" + NEW, WRONG, None],
    ids=["genuine", "wrong", "missing"],
)
def test_a_max_age_that_is_none(max_age: Any, signature: Any) -> None:
    """At once, and not only when a genuine event comes."""
    headers = {NAME: signature} if signature else {}
    with pytest.raises(ValueError, match="max_age must be a num") as caught:
        webhook_event(Unread(BODY), headers, SECRET, max_age)
    assert not isinstance(caught.value, WebhookError)


@pytest.mark.parametrize(
    "moment",
    [
        *(None, 5, "", "yesterday", "2999-01-01", "2999-13-01T00:00:00Z"),
        *("2999-01-01T00:00:00", "2999-01-01T00:00:00+01:00", {}),
        "\u0662\u0669\u0669\u0669-01-01T00:00:00Z",
    ],
)
def test_max_age_of_an_event_without_a_time(moment: Any) -> None:
    body = body_of(occurred_at=moment)
    assert refusal(body, signed(body), SECRET, max_age=1e300).status == 202


# ---------------------------------------------------------------------------
# What errors do not show
# ---------------------------------------------------------------------------

MARK = "do-not-show-this"
HIDDEN_SECRET = "secret-" + MARK


def marked(text: str = MARK) -> bytes:
    return body_of(title=text)


ERRORS: Dict[str, Callable[[], Any]] = {
    "wrong": lambda: webhook_event(marked(), {NAME: WRONG}, HIDDEN_SECRET),
    "missing": lambda: webhook_event(marked(), {}, HIDDEN_SECRET),
    "json": lambda: webhook_event(
        marked()[:-1], signed(marked()[:-1], HIDDEN_SECRET), HIDDEN_SECRET
    ),
    "utf-8": lambda: webhook_event(
        marked() + b"\xff", signed(marked() + b"\xff", "s"), ["s", MARK]
    ),
    "event": lambda: webhook_event(
        b'{"event": "%s"}' % MARK.encode(),
        signed(b'{"event": "%s"}' % MARK.encode(), HIDDEN_SECRET),
        HIDDEN_SECRET,
    ),
    "old": lambda: webhook_event(
        marked(), signed(marked(), HIDDEN_SECRET), HIDDEN_SECRET, max_age=1
    ),
    "max_age": lambda: webhook_event(
        marked(),
        signed(marked(), HIDDEN_SECRET),
        HIDDEN_SECRET,
        max_age="1",  # type: ignore
    ),
    "size": lambda: webhook_event(
        (MARK * MAX_BODY).encode(), {}, HIDDEN_SECRET
    ),
    "size signed": lambda: sign_webhook(
        (MARK * MAX_BODY).encode(), HIDDEN_SECRET
    ),
    "str": lambda: webhook_event(MARK, {}, HIDDEN_SECRET),  # type: ignore
    "dict": lambda: verify_webhook({MARK: 1}, "", HIDDEN_SECRET),  # type: ignore
    "headers": lambda: webhook_event(marked(), 5, HIDDEN_SECRET),
    "signature": lambda: verify_webhook(marked(), 5, [MARK]),  # type: ignore
    "secrets": lambda: sign_webhook(marked(), [MARK, ""]),
    "secret": lambda: verify_webhook(marked(), "", MARK + "\n"),
    "secret of bytes": lambda: receiver(print, [MARK.encode(), b" "]),
    "secret in a dict": lambda: receiver(print, {MARK: MARK}),
    "handler": lambda: receiver(5, MARK),  # type: ignore
    "seen": lambda: receiver(print, MARK, seen=5),  # type: ignore
}


@pytest.mark.parametrize("name", ERRORS)
def test_neither_body_nor_secret_is_in_an_error(name: str) -> None:
    """Neither text nor attributes, nor contexts, nor local variables."""
    with pytest.raises((ValueError, TypeError)) as caught:
        ERRORS[name]()
    error: Any = caught.value
    seen = 0
    while error is not None:
        for shown in (str(error), repr(error.args), repr(vars(error))):
            assert MARK not in shown
        for attribute in ("doc", "object"):
            assert not hasattr(error, attribute)
        trace = error.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            if frame.f_code.co_filename == pdpyras_webhooks.__file__:
                seen += 1
                for variable, value in frame.f_locals.items():
                    assert MARK not in repr(value), variable
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    assert seen


def test_the_receiver_hides_its_secret() -> None:
    application = receiver(print, [HIDDEN_SECRET, "another"])
    assert MARK not in repr(application)
    assert MARK not in repr(vars(application))
    for hidden in vars(application)["_secrets"]:
        assert not hasattr(hidden, "__dict__")


def test_a_webhook_error() -> None:
    error = pickle.loads(pickle.dumps(WebhookError("no", 413)))
    assert isinstance(error, ValueError)
    assert (str(error), error.status) == ("no", 413)
    assert WebhookError("no").status == 400


# ---------------------------------------------------------------------------
# Properties
# ---------------------------------------------------------------------------

SECRETS = st.one_of(
    st.text(min_size=1).filter(lambda text: text == text.strip()),
    st.binary(min_size=1).filter(lambda text: text == text.strip()),
)
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats()),
    *(st.text(), st.binary(), st.just(NAME), st.just(NAME.encode())),
)
GARBAGE = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(st.tuples(inner, inner)),
        st.lists(st.tuples(st.just(NAME), inner), min_size=1),
        st.dictionaries(st.one_of(st.text(), st.just(NAME)), inner),
    ),
    max_leaves=8,
)
EXAMPLES = settings(deadline=None)


@EXAMPLES
@given(st.binary(max_size=2000), st.lists(SECRETS, min_size=1, max_size=3))
def test_any_body_that_is_signed_verifies(
    body: bytes, secrets: List[Any]
) -> None:
    signature = sign_webhook(body, secrets)
    for secret in secrets:
        assert verify_webhook(body, signature, secret)
        assert verify_webhook(body, sign_webhook(body, secret), secrets)


@EXAMPLES
@given(st.binary(min_size=1, max_size=500), st.data(), SECRETS)
def test_no_body_verifies_with_a_byte_flipped(
    body: bytes, data: Any, secret: Any
) -> None:
    signature = sign_webhook(body, secret)
    place = data.draw(st.integers(0, len(body) - 1))
    flipped = bytearray(body)
    flipped[place] ^= data.draw(st.integers(1, 255))
    assert not verify_webhook(flipped, signature, secret)
    digit = data.draw(st.integers(3, len(signature) - 1))
    other = data.draw(st.sampled_from("0123456789abcdef"))
    assume(other != signature[digit])
    wrong = signature[:digit] + other + signature[digit + 1 :]
    assert not verify_webhook(body, wrong, secret)


@pytest.mark.oldest
@EXAMPLES
@given(GARBAGE, GARBAGE, st.one_of(st.none(), st.floats(), st.integers()))
def test_garbage_is_refused_by_documented_errors(
    body: Any, headers: Any, max_age: Any
) -> None:
    for content in (body, BODY):
        with pytest.raises((WebhookError, TypeError)):
            webhook_event(content, headers, SECRET, max_age)


@EXAMPLES
@given(GARBAGE)
def test_a_garbage_signature_never_verifies(signature: Any) -> None:
    try:
        assert verify_webhook(BODY, signature, SECRET) is False
    except TypeError:
        assert not isinstance(signature, (str, bytes, type(None)))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner),
        st.dictionaries(st.text(), inner),
        st.fixed_dictionaries({"event": inner}),
    ),
    max_leaves=10,
)


@EXAMPLES
@given(st.one_of(st.binary(), JSON.map(lambda v: json.dumps(v).encode())))
def test_any_signed_body_is_an_event_or_an_error(body: bytes) -> None:
    try:
        content = json.loads(body.decode())
    except ValueError:
        content = None
    event = content.get("event") if isinstance(content, dict) else None
    if isinstance(event, dict):
        assert webhook_event(body, signed(body), SECRET) == event
    else:
        assert refusal(body, signed(body), SECRET).status == 400


# ---------------------------------------------------------------------------
# A receiver in this process, under wsgiref
# ---------------------------------------------------------------------------


class QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


class ThreadingServer(
    socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer
):
    daemon_threads = True
    request_queue_size = 64


class Client:
    """Sends webhooks to a receiver that listens at a port of loopback."""

    def __init__(self, port: int) -> None:
        self.port = port

    def post(
        self,
        body: bytes = BODY,
        delivery: Optional[str] = None,
        headers: Optional[Dict[str, str]] = None,
        method: str = "POST",
    ) -> int:
        """The status of the answer."""
        fields = dict(signed(body) if headers is None else headers)
        if delivery is not None:
            fields["X-Webhook-Id"] = delivery
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=TIMEOUT
        )
        with contextlib.closing(connection):
            connection.request(method, "/", body, fields)
            with connection.getresponse() as response:
                response.read()
                return response.status

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT)

    def head(
        self, *fields: str, body: bytes = BODY, method: str = "POST"
    ) -> bytes:
        """The first part of a request, without a body."""
        lines = [
            *(f"{method} / HTTP/1.1", "Host: localhost", "Connection: close"),
            *(f"{name}: {value}" for name, value in signed(body).items()),
            *(*fields, "", ""),
        ]
        return "\r\n".join(lines).encode()

    def exchange(self, *parts: bytes, end: bool = False) -> Tuple[int, bytes]:
        """Send these bytes, and read status and rest of the answer."""
        with self.connect() as link:
            for part in parts:
                link.sendall(part)
            if end:
                link.shutdown(socket.SHUT_WR)
            return read_answer(link)


def read_answer(link: socket.socket) -> Tuple[int, bytes]:
    """Status of an answer, and all that comes after it."""
    answer = b""
    while True:
        data = link.recv(65536)
        if not data:
            break
        answer += data
    status, _, rest = answer.partition(b"\r\n")
    return int(status.split()[1]), rest


@contextlib.contextmanager
def serve(application: Any, is_checked: bool = True) -> Iterator[Client]:
    """Serve an application under wsgiref, whose validator watches it.

    The validator stumbles over broken lengths and unusual methods.
    """
    if is_checked:
        application = wsgiref.validate.validator(application)
    server = wsgiref.simple_server.make_server(
        "127.0.0.1",
        0,
        application,
        ThreadingServer,
        QuietHandler,
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield Client(server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler:
    """Keeps events; raises the exceptions of ``failures`` first."""

    def __init__(self, *failures: Optional[BaseException]) -> None:
        self.failures = list(failures)
        self.events: List[Dict[str, Any]] = []
        self.calls = 0

    def __call__(self, event: Dict[str, Any]) -> None:
        self.calls += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        self.events.append(event)


def test_an_event_arrives() -> None:
    handler = Handler()
    with serve(receiver(handler, SECRET)) as client:
        assert client.post() == 202
        assert handler.events == [EVENT]
        status, rest = client.exchange(
            client.head(f"Content-Length: {len(BODY)}"), BODY
        )
    assert status == 202
    head, _, text = rest.partition(b"\r\n\r\n")
    assert text == b"Accepted\n"
    assert b"\r\nContent-Length: 9" in head


def test_the_answer_comes_after_the_handler() -> None:
    is_called, may_return = threading.Event(), threading.Event()

    def handler(event: Any) -> None:
        is_called.set()
        assert may_return.wait(TIMEOUT)

    with serve(receiver(handler, SECRET)) as client, client.connect() as link:
        link.sendall(client.head(f"Content-Length: {len(BODY)}") + BODY)
        assert is_called.wait(TIMEOUT)
        link.settimeout(0.2)
        with pytest.raises(OSError):
            link.recv(1)
        may_return.set()
        link.settimeout(TIMEOUT)
        assert read_answer(link)[0] == 202


@pytest.mark.parametrize("headers", [{}, {NAME: WRONG}, {NAME: "v0=" + NEW}])
def test_a_wrong_or_missing_signature_is_401(
    headers: Dict[str, str], caplog: Any
) -> None:
    handler = Handler()
    with serve(receiver(handler, SECRET)) as client:
        assert client.post(headers=headers) == 401
    assert handler.calls == 0
    (record,) = caplog.records
    assert record.name == "pdpyras.webhooks"
    assert record.levelno == logging.WARNING
    assert "(401)" in record.getMessage()


def test_a_receiver_takes_several_secrets() -> None:
    handler = Handler()
    secrets = iter([SECRET, OLD_SECRET])
    with serve(receiver(handler, secrets)) as client:
        for secret in (SECRET, OLD_SECRET, SECRET):
            assert client.post(headers=signed(BODY, secret)) == 202
        assert client.post(headers=signed(BODY, "another")) == 401
    assert handler.calls == 3


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b"{}", b'{"event": 1}'])
def test_what_is_no_event_is_400(body: bytes) -> None:
    handler = Handler()
    with serve(receiver(handler, SECRET)) as client:
        assert client.post(body) == 400
    assert handler.calls == 0


@pytest.mark.parametrize(
    "length", ["x", "-1", "+223", "2 23", "223, 223", "1e2", "0x10", "223.0"]
)
def test_a_broken_content_length_is_400(length: str) -> None:
    handler = Handler()
    with serve(receiver(handler, SECRET), is_checked=False) as client:
        head = client.head(f"Content-Length: {length}")
        assert client.exchange(head)[0] == 400
    assert handler.calls == 0


def test_a_content_length_with_leading_zeros() -> None:
    handler = Handler()
    with serve(receiver(handler, SECRET), is_checked=False) as client:
        head = client.head("Content-Length: " + "0" * 5000 + "223")
        assert client.exchange(head, BODY)[0] == 202
    assert handler.events == [EVENT]


def test_without_a_length_there_is_no_body() -> None:
    with serve(receiver(Handler(), SECRET)) as client:
        assert client.exchange(client.head())[0] == 401
        assert client.exchange(client.head(body=b""))[0] == 400


def test_a_body_cut_short_is_400() -> None:
    """After whichever part of it."""
    handler = Handler()
    with serve(receiver(handler, SECRET)) as client:
        head = client.head(f"Content-Length: {len(BODY)}")
        for size in (0, 1, 100, len(BODY) - 1):
            assert client.exchange(head, BODY[:size], end=True)[0] == 400
    assert handler.calls == 0


def test_a_connection_reset_within_the_body_is_503(caplog: Any) -> None:
    """Nobody receives this answer; the server must not report a crash."""
    handler, statuses = Handler(), []
    has_begun, is_answered = threading.Event(), threading.Event()
    plain = receiver(handler, SECRET)

    def application(environ: Dict[str, Any], start_response: Any) -> Any:
        has_begun.set()
        answer = plain(environ, lambda *head: statuses.append(head[0]))
        is_answered.set()
        start_response(statuses[0], [("Content-Type", "text/plain")])
        return answer

    with serve(application, is_checked=False) as client:
        with client.connect() as link:
            head = client.head(f"Content-Length: {len(BODY)}")
            link.sendall(head + BODY[:100])
            assert has_begun.wait(TIMEOUT)
            reset = struct.pack("ii", 1, 0)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        assert is_answered.wait(TIMEOUT)
    assert statuses == ["503 Service Unavailable"]
    assert "the body could not be read" in caplog.text
    assert handler.calls == 0


def test_bytes_after_the_body_are_not_its() -> None:
    handler = Handler()
    with serve(receiver(handler, SECRET)) as client:
        head = client.head(f"Content-Length: {len(BODY)}")
        with client.connect() as link:
            link.sendall(head + BODY + b"more")
            assert link.recv(65536).split()[1] == b"202"
    assert handler.events == [EVENT]


@pytest.mark.parametrize(
    "length",
    [str(MAX_BODY + 1), "9" * 8, "1" + "0" * 30, "1" + "0" * 5000],
    ids=len,
)
def test_more_than_2_mb_is_413_before_it_is_sent(length: str) -> None:
    with serve(receiver(Handler(), SECRET), is_checked=False) as client:
        head = client.head(f"Content-Length: {length}")
        assert client.exchange(head)[0] == 413


def test_2_mb_are_taken() -> None:
    handler = Handler()
    body = body_of(details="x" * (MAX_BODY - len(body_of(details=""))))
    with serve(receiver(handler, SECRET)) as client:
        assert len(body) == MAX_BODY
        assert client.post(body) == 202
    assert len(handler.events) == 1


METHODS = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "post"]


@pytest.mark.parametrize("method", METHODS)
def test_other_methods_are_405(method: str) -> None:
    handler = Handler()
    with serve(receiver(handler, SECRET), is_checked=False) as client:
        head = client.head("Content-Length: 0", method=method)
        status, rest = client.exchange(head)
    assert status == 405
    assert b"\r\nAllow: POST\r\n" in rest
    text = b"" if method == "HEAD" else b"Method Not Allowed\n"
    assert rest.endswith(b"\r\n\r\n" + text)
    assert handler.calls == 0


def test_a_chunked_body_that_nobody_decodes_is_501(caplog: Any) -> None:
    """wsgiref does not; a 4xx would make PagerDuty drop the event."""
    handler = Handler()
    with serve(receiver(handler, SECRET)) as client:
        head = client.head("Transfer-Encoding: chunked")
        assert client.exchange(head)[0] == 501
    assert handler.calls == 0
    assert "does not decode chunked bodies" in caplog.text


def test_a_slow_client_holds_up_no_other() -> None:
    handler = Handler()
    with serve(receiver(handler, SECRET)) as client, client.connect() as link:
        link.sendall(client.head(f"Content-Length: {len(BODY)}") + BODY[:9])
        assert client.post(body_of(2)) == 202
        for place in range(9, len(BODY)):
            link.sendall(BODY[place : place + 1])
        assert read_answer(link)[0] == 202
    assert [event["id"] for event in handler.events] == [
        *("01EVENT2", "01EXAMPLE"),
    ]


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    """One server for all examples of a property."""
    with serve(receiver(Handler(), SECRET)) as client:
        yield client


HEADERS = st.lists(
    st.tuples(st.sampled_from([NAME, "X-Webhook-Id", "x"]), st.text()),
    max_size=3,
)


@EXAMPLES
@given(HEADERS)
def test_any_headers_are_401(
    shared: Client, pairs: List[Tuple[str, str]]
) -> None:
    fields = [
        f"{name}: {''.join(text.split())}".encode() for name, text in pairs
    ]
    request = b"\r\n".join(
        [b"POST / HTTP/1.0", b"Content-Length: 223", *fields, b"", BODY]
    )
    assert shared.exchange(request)[0] == 401


# ---------------------------------------------------------------------------
# Handlers that fail
# ---------------------------------------------------------------------------


def test_a_handler_that_raises_is_500_and_comes_again(caplog: Any) -> None:
    handler = Handler(KeyError("Größe 100 %"), RuntimeError(BODY))
    with serve(receiver(handler, SECRET, Seen())) as client:
        statuses = [client.post(delivery="d-1") for _ in range(4)]
    assert statuses == [500, 500, 202, 202]
    assert handler.calls == 3
    assert handler.events == [EVENT]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    for record, name in zip(caplog.records, ["KeyError", "RuntimeError"]):
        assert record.name == "pdpyras.webhooks"
        assert record.exc_info is None
        text = record.getMessage()
        assert text.startswith(f"Failed to handle a webhook: {name}\n")
        assert os.path.basename(__file__) in text and "raise failure" in text
        for hidden in ("Größe", "Gr\\xf6", "01EXAMPLE", SECRET):
            assert hidden not in text


def test_an_error_of_a_handler_that_looks_like_ours_is_500() -> None:
    """A 4xx would make PagerDuty drop the event."""
    handler = Handler(WebhookError("mine", 401), ValueError(), OSError())
    with serve(receiver(handler, SECRET)) as client:
        assert [client.post() for _ in range(4)] == [500, 500, 500, 202]


def test_an_attempt_while_another_is_handled_is_503() -> None:
    is_called, may_return = threading.Event(), threading.Event()
    calls = []

    def handler(event: Any) -> None:
        calls.append(event)
        is_called.set()
        assert may_return.wait(TIMEOUT)
        if len(calls) == 1:
            raise RuntimeError

    with serve(receiver(handler, SECRET, Seen())) as client:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.post, BODY, "d-1")
            assert is_called.wait(TIMEOUT)
            # Neither confirmed, since the first fails, nor handled.
            assert client.post(delivery="d-1") == 503
            assert len(calls) == 1
            may_return.set()
            assert first.result(TIMEOUT) == 500
            assert client.post(delivery="d-1") == 202
            assert client.post(delivery="d-1") == 202
    assert len(calls) == 2


def test_deliveries_without_an_id_do_not_wait_for_each_other() -> None:
    is_called, may_return = threading.Event(), threading.Event()
    handled = []

    def handler(event: Any) -> None:
        if event["id"] == "01EXAMPLE":
            is_called.set()
            assert may_return.wait(TIMEOUT)
        handled.append(event["id"])

    with serve(receiver(handler, SECRET, Seen())) as client:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.post, BODY)
            assert is_called.wait(TIMEOUT)
            assert client.post(body_of(2)) == 202
            may_return.set()
            assert first.result(TIMEOUT) == 202
    assert handled == ["01EVENT2", "01EXAMPLE"]


# ---------------------------------------------------------------------------
# Repeated deliveries
# ---------------------------------------------------------------------------


def test_repeated_deliveries_are_left_out() -> None:
    handler = Handler()
    with serve(receiver(handler, SECRET, Seen())) as client:
        for delivery in ("d-1", "d-2", "d-1", "d-2", "d-1", "d-3"):
            assert client.post(delivery=delivery) == 202
    assert handler.calls == 3


def test_without_seen_or_id_all_are_handled() -> None:
    for seen, delivery in ((None, "d-1"), (Seen(), None), (Seen(), "")):
        handler = Handler()
        with serve(receiver(handler, SECRET, seen)) as client:
            for _ in range(3):
                assert client.post(delivery=delivery) == 202
        assert handler.calls == 3


def test_unsigned_deliveries_are_neither_asked_about_nor_added() -> None:
    asked: List[str] = []
    with serve(receiver(Handler(), SECRET, asked.append)) as client:
        assert client.post(headers={NAME: WRONG}, delivery="d-1") == 401
        assert client.post(b"{}", delivery="d-1") == 400
    assert asked == []


def test_seen_is_asked_before_and_told_after_the_handler() -> None:
    steps: List[Any] = []

    class Memory:
        def __call__(self, delivery_id: str) -> bool:
            steps.append(("asked", delivery_id))
            return delivery_id == "known"

        def add(self, delivery_id: str) -> None:
            steps.append(("added", delivery_id))

    def handler(event: Any) -> None:
        steps.append("handled")
        if steps.count("handled") == 1:
            raise RuntimeError

    with serve(receiver(handler, SECRET, Memory())) as client:
        assert client.post(delivery="known") == 202
        assert steps == [("asked", "known")]
        del steps[:]
        assert client.post(delivery="new") == 500
        assert steps == [("asked", "new"), "handled"]
        assert client.post(delivery="new") == 202
        assert steps[2:] == [("asked", "new"), "handled", ("added", "new")]


def test_a_function_that_adds_when_asked_loses_no_failure() -> None:
    """The usual mistake: ``not redis.set(delivery_id, 1, nx=True)``."""
    added = set()

    def seen(delivery_id: str) -> bool:
        is_old = delivery_id in added
        added.add(delivery_id)
        return is_old

    handler = Handler(RuntimeError(), None)
    with serve(receiver(handler, SECRET, seen)) as client:
        statuses = [client.post(delivery="d-1") for _ in range(4)]
    assert statuses == [500, 202, 202, 202]
    assert handler.calls == 2


def test_a_seen_that_raises_is_500(caplog: Any) -> None:
    """Nobody knows whether it was handled: it must come again."""
    handler = Handler()
    answers = [ValueError(BODY), False]

    def seen(delivery_id: str) -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with serve(receiver(handler, SECRET, seen)) as client:
        assert client.post(delivery="d-1") == 500
        assert handler.calls == 0
        assert client.post(delivery="d-1") == 202
    assert handler.calls == 1 and answers == []
    assert "01EXAMPLE" not in caplog.text


def test_what_was_handled_is_202_even_if_it_cannot_be_added(
    caplog: Any,
) -> None:
    class Broken(Seen):
        def add(self, delivery_id: str) -> None:
            raise OSError("disk full")

    handler = Handler()
    with serve(receiver(handler, SECRET, Broken())) as client:
        assert client.post(delivery="d-1") == 202
    assert handler.calls == 1
    assert "Failed to remember a webhook: OSError" in caplog.text


def test_seen() -> None:
    seen = Seen(max_deliveries=3)
    assert not seen("1") and not seen("1")
    for number in ("1", "2", "3", "1", "4"):
        seen.add(number)
    assert [seen(n) for n in "1234"] == [True, False, True, True]
    seen.discard("4")
    seen.discard("unknown")
    assert not seen("4")
    seen.add("5")
    assert [seen(n) for n in "135"] == [True, True, True]
    assert Seen().max_deliveries == 10000


def test_seen_serves_many_threads() -> None:
    seen = Seen(max_deliveries=50)

    def work(start: int) -> None:
        for number in range(2000):
            seen.add(str(start + number % 100))
            seen(str(number))
            seen.discard(str(start + number % 7))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(0, 800, 100)))
    assert len(seen._ids) <= 50


@pytest.mark.parametrize("handler", [None, 5, "print"])
def test_a_handler_must_be_callable(handler: Any) -> None:
    with pytest.raises(TypeError, match="handler must be a function"):
        receiver(handler, SECRET)


def test_a_handler_must_not_be_async() -> None:
    """Calling it would do nothing, and the event would be confirmed."""

    async def handler(event: Any) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="not async"):
        receiver(handler, SECRET)


async def waits(argument: Any) -> None:
    raise AssertionError


async def yields(argument: Any) -> Any:
    yield argument


def generates(argument: Any) -> Any:
    yield argument


class Waiting:
    """Callable, and async; its methods are, too."""

    async def __call__(self, argument: Any) -> None:
        raise AssertionError

    async def method(self, argument: Any) -> None:
        raise AssertionError


class Keyed:
    """Made, not awaited: the call of a class with an async method."""

    def __init__(self, argument: Any) -> None:
        pass

    async def __call__(self) -> None:
        raise AssertionError


ASYNC = {
    "function": waits,
    "asynchronous generator": yields,
    "generator": generates,
    "object": Waiting(),
    "method": Waiting().method,
    "partial": functools.partial(functools.partial(waits)),
    "partial of an object": functools.partial(Waiting()),
}


@pytest.mark.parametrize("name", ASYNC)
def test_neither_handler_nor_seen_may_be_async(name: str) -> None:
    function: Any = ASYNC[name]
    with pytest.raises(TypeError, match="handler must .* not async"):
        receiver(function, SECRET)
    with pytest.raises(TypeError, match="seen must .* not async"):
        receiver(print, SECRET, function)


def test_a_class_with_an_async_method_is_no_async_handler() -> None:
    with serve(receiver(Keyed, SECRET)) as client:
        assert client.post() == 202


def test_a_handler_that_returns_a_coroutine_is_500(caplog: Any) -> None:
    """It has not run. That it is closed shows in that nothing warns."""
    made: List[Any] = []

    def handler(event: Any) -> Any:
        made.append(waits(event))
        return made[-1]

    with serve(receiver(handler, SECRET, Seen())) as client:
        statuses = [client.post(delivery="d-1") for _ in range(2)]
    assert statuses == [500, 500]
    assert len(made) == 2
    for coroutine in made:
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    for record in caplog.records:
        text = record.getMessage()
        assert text.startswith("Failed to handle a webhook: _CoroutineReturn")
        assert "01EXAMPLE" not in text
    assert len(caplog.records) == 2


def test_a_handler_that_returns_a_generator_is_500() -> None:
    def handler(event: Any) -> Any:
        return generates(event)

    with serve(receiver(handler, SECRET)) as client:
        assert client.post() == 500


class SeenElsewhere(Seen):
    def add(self, delivery_id: str) -> Any:
        return waits(delivery_id)


def test_a_seen_that_returns_a_coroutine_loses_no_event(caplog: Any) -> None:
    """A coroutine is true, as the answer for what was handled."""
    handler = Handler()

    def seen(delivery_id: str) -> Any:
        return waits(delivery_id)

    with serve(receiver(handler, SECRET, seen)) as client:
        assert client.post(delivery="d-1") == 500
    assert handler.calls == 0
    with serve(receiver(handler, SECRET, SeenElsewhere())) as client:
        assert client.post(delivery="d-1") == 202
    assert handler.calls == 1
    messages = [record.getMessage() for record in caplog.records]
    assert [text.split(":")[0] for text in messages] == [
        "Failed to handle a webhook",
        "Failed to remember a webhook",
    ]


@pytest.mark.parametrize("seen", [set(), 5, "d-1"])
def test_seen_must_be_callable(seen: Any) -> None:
    with pytest.raises(TypeError, match="seen must be callable"):
        receiver(print, SECRET, seen)


# ---------------------------------------------------------------------------
# Under real servers
# ---------------------------------------------------------------------------

APPLICATION = """
import os
import socketserver
import sys
import threading
from wsgiref.simple_server import WSGIServer, make_server

from pdpyras_webhooks import Seen, receiver

lock = threading.Lock()


def handler(event):
    with lock, open("handled.txt", "a") as file:
        file.write(event["id"] + "\\n")
    if event["data"].get("title") == "Fails at first":
        event["fails"] = True
    marker = event["id"] + ".failed"
    if event.get("fails") and not os.path.exists(marker):
        open(marker, "w").close()
        raise RuntimeError(event)
    with lock, open("told.txt", "a") as file:
        print(event["data"].get("number"), event["event_type"], file=file)


application = receiver(handler, "sandbox-secret-1", Seen())


class ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    with make_server("127.0.0.1", 0, application, ThreadingServer) as server:
        print("http://127.0.0.1:%d" % server.server_port, file=sys.stderr)
        server.serve_forever()
"""

SERVERS = {
    "wsgiref": ["hook.py"],
    "waitress": [
        *("-m", "waitress", "--listen=127.0.0.1:0", "--threads=8"),
        "hook:application",
    ],
    "gunicorn": [
        *("-m", "gunicorn", "--bind=127.0.0.1:0", "--threads=8"),
        *("--workers=1", "hook:application"),
    ],
}


class ServerProcess(Client):
    """A server in a process of its own."""

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self.directory = directory
        with open(os.path.join(directory, "hook.py"), "w") as file:
            file.write(APPLICATION)
        self.log = os.path.join(directory, "log.txt")
        path = os.pathsep.join([directory, ROOT])
        with open(self.log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *SERVERS[name]],
                cwd=directory,
                env=dict(os.environ, PYTHONPATH=path),
                stdout=file,
                stderr=file,
            )
        super().__init__(0)

    def wait(self) -> None:
        """Until it has said at which port it listens."""
        deadline = time.monotonic() + TIMEOUT
        while not self.port:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", self.logged())
            self.port = int(found.group(1)) if found else 0
            assert self.process.poll() is None, self.logged()
            assert time.monotonic() < deadline, self.logged()
            time.sleep(0.02)

    def logged(self) -> str:
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def handled(self) -> List[str]:
        """The ids of the events that the handler was called with."""
        return self.lines("handled.txt")

    def lines(self, name: str) -> List[str]:
        """The lines of a file that the application has written."""
        path = os.path.join(self.directory, name)
        if not os.path.exists(path):
            return []
        with open(path) as file:
            return file.read().splitlines()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(TIMEOUT)


@pytest.fixture(scope="module", params=SERVERS)
def running(request: Any, tmp_path_factory: Any) -> Iterator[ServerProcess]:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    directory = str(tmp_path_factory.mktemp(request.param))
    process = ServerProcess(request.param, directory)
    try:
        process.wait()
        yield process
    finally:
        process.stop()


@pytest.mark.oldest
def test_servers_deliver(running: ServerProcess) -> None:
    assert running.post(body_of("plain"), "d-plain") == 202
    assert running.handled().count("01EVENTplain") == 1
    secret = signed(BODY, OLD_SECRET)
    assert running.post(headers=secret) == 401
    assert running.post(headers={}) == 401
    assert running.post(b"no JSON") == 400
    assert "01EXAMPLE" not in running.handled()


def test_servers_and_other_methods(running: ServerProcess) -> None:
    for method in ("GET", "HEAD", "PUT"):
        head = running.head("Content-Length: 0", method=method)
        status, rest = running.exchange(head)
        assert status == 405
        assert "allow: post" in rest.decode().lower().split("\r\n")


def test_servers_and_more_than_2_mb(running: ServerProcess) -> None:
    head = running.head(f"Content-Length: {MAX_BODY + 1}")
    # waitress hands over what it has received as a whole.
    sent = b"x" * (MAX_BODY + 1) if running.name == "waitress" else b""
    assert running.exchange(head, sent)[0] == 413


def test_servers_and_chunked_bodies(running: ServerProcess) -> None:
    body = body_of("chunked")
    parts = [body[:100], body[100:], b""]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts)
    head = running.head("Transfer-Encoding: chunked", body=body)
    if running.name == "wsgiref":
        assert running.exchange(head)[0] == 501
    else:
        assert running.exchange(head, chunks)[0] == 202
        assert running.handled().count("01EVENTchunked") == 1
        large = b"%x\r\n%b\r\n0\r\n\r\n" % (
            *(MAX_BODY + 1, b"x" * (MAX_BODY + 1)),
        )
        assert running.exchange(head, large)[0] == 413


def test_servers_and_failures_and_duplicates(running: ServerProcess) -> None:
    body = body_of("failing", fails=True)
    statuses = [running.post(body, "d-failing") for _ in range(4)]
    assert statuses == [500, 202, 202, 202]
    assert running.handled().count("01EVENTfailing") == 2
    assert "Failed to handle a webhook: RuntimeError" in running.logged()
    for hidden in (SECRET, "PABC123", "Traceback"):
        assert hidden not in running.logged()


def test_servers_and_many_at_once(running: ServerProcess) -> None:
    """Each of 60 deliveries comes three times, and is handled once."""
    numbers = [number for number in range(60) for _ in range(3)]

    def deliver(number: int) -> int:
        status = 503
        while status == 503:  # the other attempt is still being handled
            status = running.post(body_of(f"m{number}"), f"d-m{number}")
        return status

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(deliver, numbers))
    assert set(statuses) == {202}
    many = [i for i in running.handled() if i.startswith("01EVENTm")]
    assert sorted(many) == sorted(f"01EVENTm{n}" for n in range(60))


def test_servers_and_a_slow_client(running: ServerProcess) -> None:
    body = body_of("slow")
    head = running.head(f"Content-Length: {len(body)}", body=body)
    with running.connect() as link:
        link.sendall(head + body[:50])
        assert running.post(body_of("quick")) == 202
        assert "01EVENTslow" not in running.handled()
        link.sendall(body[50:])
        assert read_answer(link)[0] == 202
    assert running.handled().count("01EVENTslow") == 1


def test_servers_and_a_body_cut_short(running: ServerProcess) -> None:
    body = body_of("cut")
    head = running.head(f"Content-Length: {len(body)}", body=body)
    with running.connect() as link:
        link.sendall(head + body[:50])
        link.shutdown(socket.SHUT_WR)
        answer = link.recv(65536)
    # waitress asks no application about it.
    assert answer.split()[1:2] in ([b"400"], [])
    assert answer or running.name == "waitress"
    assert "01EVENTcut" not in running.handled()
    assert running.post(body_of("after cut")) == 202


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox whose attempts follow each other sooner."""
    monkeypatch.setattr(pdpyras_sandbox, "WEBHOOK_PAUSES", (0.02, 0.04))
    with Sandbox(users=1) as running:
        yield running


@pytest.fixture
def url(running: ServerProcess) -> str:
    path = os.path.join(running.directory, "told.txt")
    if os.path.exists(path):
        os.unlink(path)
    return f"http://127.0.0.1:{running.port}/"


def test_servers_get_the_webhooks_of_the_sandbox(
    running: ServerProcess, url: str, box: Sandbox
) -> None:
    """Every event is handled once, and those of an incident in order,
    although each is delivered twice and some fail at first."""
    hook = box.webhook(url, SECRET, twice=True)
    with pdpyras.EventsAPISession("any-key") as events:
        events.url = box.url
        keys = [
            events.trigger("Fails at first" if n % 3 == 0 else "Is down", "a")
            for n in range(9)
        ]
        for change in (events.acknowledge, events.resolve):
            for key in keys:
                change(key)
    assert hook.wait(TIMEOUT)
    told = [line.split() for line in running.lines("told.txt")]
    for number in range(1, 10):
        assert [kind for n, kind in told if n == str(number)] == [
            *("incident.triggered", "incident.acknowledged"),
            "incident.resolved",
        ]
    assert len(told) == 27
    # Of what failed at first, the first attempt and the repetition.
    attempts = [attempt.status for attempt in hook.deliveries]
    assert attempts.count(500) == 9
    assert attempts.count(202) == 54
    assert len(attempts) == 63
    assert len({attempt.id for attempt in hook.deliveries}) == 27


def test_servers_and_a_changed_secret(
    running: ServerProcess, url: str, box: Sandbox
) -> None:
    """The receiver knows one of the two with which deliveries are signed; a
    delivery without it is refused, and does not come again."""
    hook = box.webhook(url, OLD_SECRET)
    with pdpyras.APISession("any-key") as session:
        session.url = box.url
        path = f"webhook_subscriptions/{hook.id}/ping"
        session.rpost(path)
        assert hook.wait(TIMEOUT)
        hook.rotate(SECRET)
        session.rpost(path)
        assert hook.wait(TIMEOUT)
        hook.rotate()
        session.rpost(path)
        assert hook.wait(TIMEOUT)
    assert [d.status for d in hook.deliveries] == [401, 202, 202]
    assert running.lines("told.txt") == ["None pagey.ping"] * 2


def test_under_asgi() -> None:
    """By a2wsgi, with and without a length."""
    a2wsgi = pytest.importorskip("a2wsgi")
    import asyncio

    handler = Handler()
    application = a2wsgi.WSGIMiddleware(receiver(handler, SECRET))

    async def post(*fields: Tuple[bytes, bytes]) -> int:
        pieces = [(BODY[:9], True), (BODY[9:], False)]
        sent: List[Dict[str, Any]] = []

        async def receive() -> Dict[str, Any]:
            body, more_body = pieces.pop(0)
            return {
                "type": "http.request",
                "body": body,
                "more_body": more_body,
            }

        async def send(message: Dict[str, Any]) -> None:
            sent.append(message)

        signature = (b"x-pagerduty-signature", b"v1=" + NEW.encode())
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/",
            "query_string": b"",
            "headers": [signature, *fields],
        }
        await application(scope, receive, send)
        return int(sent[0]["status"])

    assert asyncio.run(post((b"content-length", b"223"))) == 202
    assert asyncio.run(post((b"transfer-encoding", b"chunked"))) == 202
    assert handler.events == [EVENT, EVENT]


def test_the_sample_for_plain_asgi() -> None:
    """The test of the page defines the application only; here it is run."""
    with open(GUIDE, encoding="utf-8") as file:
        samples = [s.code for s in samples_of(file.read())]
    (code,) = [code for code in samples if "async def" in code]
    work: queue.Queue[Any] = queue.Queue()
    names = {
        "webhook_event": webhook_event,
        "WebhookError": WebhookError,
        "secret": SECRET,
        "work": work,
    }
    exec(code, names)
    application: Any = names["plain_asgi"]

    def post(signature: str, *pieces: bytes) -> int:
        coming = list(pieces)
        sent: List[Dict[str, Any]] = []

        async def receive() -> Dict[str, Any]:
            piece = coming.pop(0)
            return {"body": piece, "more_body": bool(coming)}

        async def send(message: Dict[str, Any]) -> None:
            sent.append(message)

        pair = (b"x-pagerduty-signature", signature.encode())
        with pytest.raises(StopIteration):  # It never has to wait.
            application({"headers": [pair]}, receive, send).send(None)
        assert [message["type"] for message in sent] == [
            *("http.response.start", "http.response.body"),
        ]
        return int(sent[0]["status"])

    assert post("v1=" + NEW, BODY[:9], BODY[9:]) == 202
    assert work.get_nowait() == EVENT
    assert post(WRONG, BODY) == 401
    assert post("v1=" + NEW, *[b"x" * MAX_BODY] * 2, b"") == 413
    assert work.empty()


# A Django project of one view, and what it answers.
DJANGO = """
import os, queue

from django.conf import settings

settings.configure()
from django.test import RequestFactory
from pdpyras_webhooks import WebhookError, webhook_event

secret, work = "sandbox-secret-1", queue.Queue()

{sample}

def status(method, signature):
    request = RequestFactory().generic(
        method, "/", BODY, HTTP_X_PAGERDUTY_SIGNATURE=signature
    )
    return pagerduty_view(request).status_code

print(status("GET", RIGHT), status("POST", WRONG), status("POST", RIGHT))
print(work.get_nowait()["id"], work.empty())
"""


def test_the_sample_for_django() -> None:
    """The test of the page defines the view only; here it is called."""
    pytest.importorskip("django")
    with open(GUIDE, encoding="utf-8") as file:
        samples = list(samples_of(file.read()))
    (code,) = [s.code for s in samples if "django" in s.imports]
    given = f"BODY, RIGHT, WRONG = {BODY!r}, {'v1=' + NEW!r}, {WRONG!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", given + DJANGO.format(sample=code)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
    )
    assert done.stdout.split() == [
        b"405",
        b"401",
        b"202",
        b"01EXAMPLE",
        b"True",
    ]


# ---------------------------------------------------------------------------
# The module
# ---------------------------------------------------------------------------


def test_it_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys, pdpyras_webhooks; "
        "print(sorted({'pdpyras', 'requests', 'urllib3'} & set(sys.modules)))"
    )
    printed = subprocess.check_output(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT
    )
    assert printed.split() == [b"[]"]


@pytest.mark.oldest
def test_all_of_the_webhooks_is_sorted_and_true() -> None:
    names = pdpyras_webhooks.__all__
    assert names == sorted(names)
    public = {
        name
        for name, value in vars(pdpyras_webhooks).items()
        if getattr(value, "__module__", "") == "pdpyras_webhooks"
        and not name.startswith("_")
    }
    assert public == set(names)
