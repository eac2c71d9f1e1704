"""A PagerDuty-like API on loopback, to try and to test without an account.

::

    import pdpyras
    from pdpyras_sandbox import Sandbox

    with Sandbox() as box:
        box.add("users", 250)
        session = pdpyras.APISession("any-key")
        session.url = box.url
        box.fail(429, reset=2, times=3)  # the next three requests
        print(len(session.list_all("users")), len(box.requests))

Any key is good. One that begins with ``account`` is an account's: it has no
``/users/me``, and has to say in the header ``From`` who acts. All others are
keys of the first user.

It serves the endpoints that the tables of pdpyras list: what is created can
be read, listed, filtered, updated and deleted, everywhere in the same way.
Beyond that, incidents have a status, and events make incidents. Nothing
outlives the process.

Lists of what has happened, and on-call shifts, are restricted to a period as
the API does it: times are compared as instants, a period that the API does
not take is refused, and so is an offset beyond 10 000. What PagerDuty does not
document about periods is a setting of :class:`Sandbox`, so that an export can
be tried with each meaning.

SCIM users are records of their own, and their pages have a cap, as
:class:`Sandbox` is told. The paths of Jira, Slack and Microsoft Teams are
served as well, those of ``app.pagerduty.com`` too.

It is an authorization server as well: under ``/oauth/authorize``, where every
user consents at once, and ``/oauth/token``, for any client. Access tokens that
have ended are answered 401 by the REST API.

What happens to incidents and services goes to webhooks: see
:meth:`Sandbox.webhook`.

It listens on 127.0.0.1 only, and serves no page of a browser: a request with
the header ``Origin``, or for another ``Host``, is refused.

From a shell, ``python -m pdpyras_sandbox`` serves until Ctrl-C.
"""

import argparse
import base64
import bisect
import calendar
import collections
import functools
import hashlib
import heapq
import hmac
import itertools
import json
import marshal
import math
import os
import re
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
import traceback
import uuid
from datetime import datetime, timedelta, timezone
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPMessage,
    HTTPSConnection,
)
from http.client import responses as reasons
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Union,
    cast,
)
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import pdpyras

__all__ = ["Delivery", "Request", "Sandbox", "Webhook"]

Record = Dict[str, Any]
Answer = Tuple[int, Any]  # status, and content of the body; None: no body

DEFAULT_LIMIT = 25  # records a page, unless the client says
SCIM_PAGE_SIZE = 100  # users a page, unless the sandbox is told
MULTI_UPDATE_LIMIT = 250  # records
EVENT_SIZE_LIMIT = 512000  # bytes
SUMMARY_LIMIT = 1024  # characters
DEDUP_KEY_LIMIT = 255  # characters
USUAL_RATE_LIMIT = 960  # requests a minute
TOKEN_LIFE = 86400  # seconds, of an OAuth access token
CODE_LIFE = 30  # seconds, of an OAuth code
BODY_SIZE_LIMIT = 1024 * 1024  # bytes
HEAD_LINE_LIMIT = 65536  # bytes
FIELD_LIMIT = 100  # headers of a request
REQUESTS_KEPT = 10000
WEBHOOK_TIMEOUT = 5.0  # seconds, within which a receiver has to answer
WEBHOOK_PAUSES = (0.5, 1.0)  # seconds between the attempts of a delivery
DELIVERIES_KEPT = 10000  # of each webhook
WEB_URL = "https://pdpyras-sandbox.pagerduty.com"

# Where the paths of the other APIs begin.
_SCIM = "/scim/v2/"
_SLACK = "/integration-slack/"
_TEAMS = "/integration-ms-teams/"
_JIRA_SERVER = "/integration-jira-service/"
_URN = "urn:ietf:params:scim:"
_SIGNATURE = "x-pagerduty-jira-signature"


# ---------------------------------------------------------------------------
# Requests and answers
# ---------------------------------------------------------------------------


class Request:
    """One request, as it was received.

    :ivar method: in capitals
    :ivar path: without the query, percent-encoding undone
    :ivar endpoint: canonical path, such as ``/users/{id}``, or None
    :ivar query: pairs of name and value, in their order
    :ivar headers: mapping that ignores case; None for what was not sent
    :ivar body: bytes
    """

    def __init__(
        self, method: str, target: str, headers: Any, body: bytes
    ) -> None:
        parts = urlsplit(target)
        self.method = method
        self.path: str = "/" + unquote(parts.path).strip("/")
        self.query: List[Tuple[str, str]] = parse_qsl(
            parts.query, keep_blank_values=True
        )
        self.headers = headers
        self.body = body
        self.endpoint: Optional[str] = None

    @property
    def json(self) -> Any:
        """The decoded body; None if there is none.

        :raises ValueError: it is no JSON
        """
        return json.loads(self.body.decode("utf-8")) if self.body else None


class _ApiError(Exception):
    """Ends the handling of a request, with an answer."""

    def __init__(self, status: int, content: Any) -> None:
        super().__init__(status, content)
        self.answer = (status, content)
        self.headers: Dict[str, Any] = {}


def _error(
    status: int,
    *errors: str,
    code: Optional[int] = None,
    message: Optional[str] = None,
) -> _ApiError:
    """PagerDuty's error body, with its own codes."""
    usual = {400: 2001, 401: 2006, 404: 2100, 429: 2020}.get(status, 2000)
    error: Record = {"message": message or reasons.get(status, "Unknown")}
    error["code"] = code or usual
    if errors:
        error["errors"] = errors
    return _ApiError(status, {"error": error})


def _invalid(error: str, code: int = 2001) -> _ApiError:
    """What the API says of parameters that it cannot use."""
    return _error(400, error, code=code, message="Invalid Input Provided")


def _unfit(error: str) -> _ApiError:
    """What the API says of a request that it understands and refuses."""
    return _error(400, error, code=2002, message="Arguments Caused Error")


def _key(request: Request) -> str:
    """The API key."""
    header = request.headers["authorization"] or ""
    pattern = r'(?:Token +token=|Bearer +)"?([^\s"]+)"?'
    match = re.fullmatch(pattern, header, re.IGNORECASE)
    if match is None:
        raise _error(401, "Expected Authorization: Token token=KEY")
    return match.group(1)


def _encoded(answer: Answer, headers: Dict[str, Any]) -> bytes:
    """Head and body."""
    status, content = answer
    lines = [f"HTTP/1.1 {status} {reasons.get(status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(f"x-request-id: {uuid.uuid4()}")
    body = b""
    if content is not None:
        body = json.dumps(content).encode("utf-8")
        if "content-type" not in headers:
            lines.append("content-type: application/json; charset=utf-8")
    if status != 204:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


# ---------------------------------------------------------------------------
# Times
# ---------------------------------------------------------------------------
#
# An instant is a whole number: microseconds since 1970 began in UTC. Numbers
# compare faster than datetimes, and are never without a zone.

_SECOND = 1000000
_HOUR = 3600 * _SECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_FIRST = -62135596800 * _SECOND  # the year 1 begins
_LAST = 253402300799 * _SECOND  # the year 9999 ends

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?"
    r"(?:Z|([+-])(\d\d):?(\d\d)?)?)?",
    re.ASCII,
)
_UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def _now() -> int:
    return (datetime.now(timezone.utc) - _EPOCH) // _MICROSECOND


def _instant(text: Any) -> int:
    """The instant of a time in ISO 8601; without a zone it is UTC.

    :raises ValueError: it is no time
    """
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is no time")
    *fields, fraction, sign, hours, minutes = match.groups("0")
    year, month, day, hour, minute, second = map(int, fields)
    micro = int(fraction.ljust(6, "0")[:6])
    utc = timezone.utc
    time = datetime(year, month, day, hour, minute, second, micro, utc)
    instant = (time - _EPOCH) // _MICROSECOND
    if sign != "0":
        if int(hours) > 23 or int(minutes) > 59:
            raise ValueError(f"{text!r} has no possible zone")
        ahead = (int(hours) * 60 + int(minutes)) * 60 * _SECOND
        instant += ahead if sign == "-" else -ahead
    if not _FIRST <= instant <= _LAST:
        raise ValueError(f"{text!r} is out of all years")
    return instant


def _spelled(instant: int, spelling: str) -> str:
    """A time as the API spells it: ``seconds``, ``milliseconds``, or
    ``local``, in seconds and without a zone."""
    time = (_EPOCH + instant * _MICROSECOND).replace(tzinfo=None)
    if spelling == "milliseconds":
        return time.isoformat(timespec="milliseconds") + "Z"
    return time.isoformat(timespec="seconds") + "Z"[spelling == "local" :]


def _plus_months(instant: int, months: int) -> int:
    """The same day of another month, or the last that this one has."""
    time = _EPOCH + instant * _MICROSECOND
    year, month = divmod(time.year * 12 + time.month - 1 + months, 12)
    if not 1 <= year <= 9999:
        return _FIRST if year < 1 else _LAST
    day = min(time.day, calendar.monthrange(year, month + 1)[1])
    time = time.replace(year=year, month=month + 1, day=day)
    return (time - _EPOCH) // _MICROSECOND


# ---------------------------------------------------------------------------
# Periods
# ---------------------------------------------------------------------------

# Two ends of a period, each an instant, or None where it is open.
Period = Tuple[Optional[int], Optional[int]]


def _incident_period(since: Optional[int], until: Optional[int]) -> Period:
    """Six months at most; where an end is missing, one month."""
    if since is None:
        since = _plus_months(_now() if until is None else until, -1)
    elif until is None:
        until = _plus_months(since, 1)
    if until is not None and until > _plus_months(since, 6):
        raise _invalid(" is invalid.")  # The API says no more than that.
    return since, until


def _notification_period(since: Optional[int], until: Optional[int]) -> Period:
    since, until = _whole_period(since, until)
    if until >= _plus_months(since, 3):
        raise _invalid("The period must be less than 3 months", 2005)
    return since, until


def _whole_period(
    since: Optional[int], until: Optional[int]
) -> Tuple[int, int]:
    if since is None or until is None:
        raise _invalid("Since and until cannot be empty")
    return since, until


def _audit_period(since: Optional[int], until: Optional[int]) -> Period:
    """31 days at most; the last 24 hours where nothing else is said."""
    since = _now() - 24 * _HOUR if since is None else since
    if (_now() if until is None else until) > since + 31 * 24 * _HOUR:
        raise _invalid("The period must be at most 31 days", 2005)
    return since, until


def _oncall_period(since: Optional[int], until: Optional[int]) -> Period:
    now = _now()
    since = now if since is None else since
    return since, now if until is None else until


class _History(NamedTuple):
    """What a list knows of time.

    ``field`` is the time of its records, or where ``end`` names another, the
    beginning of what they last. ``period`` completes the period that a query
    asks for, or refuses it; None: it is taken as it is. ``utc_only``: the
    list takes times with ``Z`` and without a fraction, and no others.
    ``identity``: the field that tells its records apart; empty: there is none.
    """

    field: str = "created_at"
    end: str = ""
    spelling: str = "seconds"
    period: Optional[Callable[[Optional[int], Optional[int]], Period]] = None
    utc_only: bool = False
    identity: str = "id"


_CHANGES = _History("timestamp", utc_only=True)
_SHIFTS = _History("start_time", "end_time", period=_whole_period)

_HISTORIES: Dict[str, _History] = {
    "/incidents": _History(period=_incident_period),
    "/log_entries": _History(),
    "/incidents/{id}/log_entries": _History(),
    "/notifications": _History("started_at", period=_notification_period),
    "/change_events": _CHANGES,
    "/services/{id}/change_events": _CHANGES,
    "/oncalls": _History("start", "end", period=_oncall_period, identity=""),
    "/schedules/{id}/overrides": _SHIFTS._replace(field="start", end="end"),
    "/v3/schedules/{id}/overrides": _SHIFTS,
    "/v3/schedules/{id}/custom_shifts": _SHIFTS,
    # The bodies of these say of which period, instead of the query.
    "/analytics/raw/incidents": _History(spelling="local"),
    "/analytics/raw/responders/{responder_id}/incidents": _History(
        "incident_created_at",
        spelling="local",
        identity="incident_id",
    ),
}
_AUDIT = _History("execution_time", "", "milliseconds", _audit_period)
_HISTORIES.update(
    (path, _AUDIT)
    for path in pdpyras.CANONICAL_PATHS
    if path.endswith("/audit/records")
)


def _asked_period(history: _History, asked: Dict[str, str]) -> Period:
    """The period of a query.

    :raises _ApiError: there is none, or the API does not take it
    """
    ends: List[Optional[int]] = []
    for name in ("since", "until"):
        text = asked.get(name)
        try:
            if text and history.utc_only and not _UTC_TIME.fullmatch(text):
                raise ValueError("not UTC, in whole seconds, with Z")
            ends.append(None if text is None else _instant(text))
        except ValueError:
            raise _invalid(f"{name} is no valid time", 2004) from None
    since, until = history.period(*ends) if history.period else ends
    if since is not None and until is not None and until < since:
        raise _invalid("until is before since", 2005)
    return since, until


# ---------------------------------------------------------------------------
# Records
# ---------------------------------------------------------------------------

_FIRST_NAMES = """Alice Bob Carol Dan Dave David Erin Frank Grace Heidi Ivan
    Jane Karim Lena Mallory Niaj Olivia Peggy Rupert Sybil
    """.split()  # noqa: SIM905
_LAST_NAMES = """Abara Berg Castillo Doe Eriksen Fontaine Gupta Haas Ito
    Jansen Lopez Moreau Novak Okafor Patel Quinn Rossi Schmidt Tanaka
    """.split()  # noqa: SIM905

# What a record has unless it is said otherwise. Records share these lists,
# which are replaced and never changed.
_DEFAULTS: Dict[str, Record] = {
    "user": {"role": "user", "time_zone": "UTC", "teams": []},
    "service": {"status": "active", "teams": [], "integrations": []},
    "incident": {"status": "triggered", "urgency": "high", "teams": []},
    "escalation_policy": {"escalation_rules": [], "teams": []},
    "schedule": {"schedule_layers": [], "users": [], "teams": []},
    "subscriber": {"result": "success"},
}


def _named(kind: str, n: int) -> Record:
    """What the n-th record of a kind is called."""
    if kind == "user":
        firsts = len(_FIRST_NAMES)
        series, n = divmod(n, firsts * len(_LAST_NAMES))
        first, last = _FIRST_NAMES[n % firsts], _LAST_NAMES[n // firsts]
        email = f"{first}.{last}{series or ''}@example.com".lower()
        return {"name": f"{first} {last}", "email": email}
    if kind == "User":  # of SCIM
        user = _named("user", n)
        return {"displayName": user["name"], "userName": user["email"]}
    if kind == "oncall":
        return {"escalation_level": n + 1}
    field = {"incident": "title", "tag": "label"}.get(kind, "name")
    return {field: f"{kind.replace('_', ' ').capitalize()} {n + 1}"}


def _kind(path: str) -> str:
    """The type of the records of a collection."""
    return pdpyras.singular_name(path.rpartition("/")[2])


def _summary(record: Record) -> Any:
    if "incident_number" in record:
        return f"[#{record['incident_number']}] {record['title']}"
    names = ("name", "title", "label", "summary", "type")
    return next(record[name] for name in names if record.get(name))


def _reference(record: Record) -> Record:
    reference = {"type": f"{record['type']}_reference"}
    for name in ("id", "summary", "self", "html_url"):
        reference[name] = record[name]
    return reference


def _id_of(reference: Any) -> Any:
    return reference.get("id") if isinstance(reference, dict) else None


def _copied(value: Any) -> Any:
    return json.loads(json.dumps(value))


_STATUS_OF_ACTION = {
    "trigger": "triggered",
    "acknowledge": "acknowledged",
    "resolve": "resolved",
}
# What follows from an incident's status, unless it is said otherwise.
_STATE = (
    "last_status_change_at",
    "last_status_change_by",
    "acknowledgements",
    "resolved_at",
)


def _check_status(status: Any) -> None:
    if status not in _STATUS_OF_ACTION.values():
        raise _error(400, f"Status {status!r} is none of an incident")


# Since when, and until when where it lasts.
_Times = Tuple[int, Optional[int]]


def _lasting(history: _History, record: Record) -> _Times:
    """The times of what lasts; without a beginning or end, always."""
    start, end = record.get(history.field), record.get(history.end)
    return (
        _FIRST if start is None else _instant(start),
        _LAST if end is None else _instant(end),
    )


def _timed(
    history: Optional[_History], record: Record, given: Record, now: int
) -> _Times:
    """The times of a new record, in which they get the API's spelling.

    What is rendered in whole seconds may be known more exactly.
    """
    if history is None:
        return 0, None
    if history.end:
        return _lasting(history, record)
    field = history.field
    instant = _instant(given[field]) if field in given else now
    if field not in given or history.spelling == "local":
        record[field] = _spelled(instant, history.spelling)
    elif history.spelling == "seconds":
        record[field] = re.sub(r"\.\d+", "", record[field])
    if history.spelling == "local":
        record.setdefault("updated_at", record[field])
    return instant, None


# Instant, number and content of a record. Numbers count up as records are
# added, so that entries sort by time and then by number, and never further.
_Entry = Tuple[int, int, Record]


def _anonymize(record: Record, identity: str) -> None:
    """Take away what some records lack, and say whose they are instead."""
    record_id = record["id"]
    for name in ("id", "type", "self", "html_url", "summary", "created_at"):
        del record[name]
    if identity:
        record.setdefault(identity, record_id)


def _as_in_scim(record: Record, kind: str) -> None:
    """Give a record the form that it has in SCIM."""
    for name in ("type", "self", "html_url", "summary", "created_at"):
        del record[name]
    record.setdefault("schemas", [f"{_URN}schemas:core:2.0:{kind}"])
    record["meta"] = {"resourceType": kind}
    if kind == "User":
        role = {"type": "base", "primary": True, "value": "user"}
        record.setdefault("roles", [role])
        record.setdefault("active", True)


class _Collection:
    """The records of a path: by id, and by time.

    Each change makes another ``version``.
    """

    def __init__(self, history: Optional[_History]) -> None:
        self.history = history
        self.version = 0
        # Of what lasts: number -> instant.
        self.ends: Dict[int, int] = {}
        self.count = 0  # of all that were ever added
        self._by_id: Dict[str, _Entry] = {}
        self._entries: List[_Entry] = []
        self._is_sorted = True
        # Were all records added in the order of their times?
        self.in_order = True

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._by_id

    def __getitem__(self, record_id: str) -> Record:
        return self._by_id[record_id][2]

    def nth(self, n: int) -> Record:
        return self.entries()[n][2]

    def all(self) -> List[Record]:
        """In the order in which they were added."""
        return [entry[2] for entry in self._by_id.values()]

    def entries(self) -> List[_Entry]:
        """In the order of their times. Not to be changed."""
        if not self._is_sorted:
            self._entries.sort()
            self._is_sorted = True
        return self._entries

    def put(self, record_id: str, record: Record, times: _Times) -> None:
        """Add a record, or put it in the place of the one with this id."""
        number, (start, end) = self.count, times
        if record_id in self._by_id:
            number = self._by_id[record_id][1]
            self._remove(record_id)
        else:
            self.count += 1
        entry = (start, number, record)
        if self._entries:
            last = self._entries[-1]
            self._is_sorted = self._is_sorted and last[:2] < entry[:2]
            is_later = start >= last[0] and number > last[1]
            self.in_order = self.in_order and is_later
        self._entries.append(entry)
        self._by_id[record_id] = entry
        if end is not None:
            self.ends[number] = end
        self.version += 1

    def clear(self) -> None:
        self._by_id.clear()
        self._entries.clear()
        self.ends.clear()
        self.in_order = True
        self.version += 1

    def _remove(self, record_id: str) -> None:
        entries, entry = self.entries(), self._by_id[record_id]
        del entries[bisect.bisect_left(entries, entry[:2])]

    def remove(self, record_id: str) -> None:
        self._remove(record_id)
        del self._by_id[record_id]
        self.version += 1


class _Store:
    """All records: path of the collection -> collection."""

    def __init__(self) -> None:
        self.url = ""
        self.collections: Dict[str, _Collection] = {}
        # What was last sent to a path that is no collection.
        self.sent: Dict[str, Any] = {}
        self._ids = 0

    def collection(self, path: str) -> _Collection:
        if path not in self.collections:
            endpoint = pdpyras.canonical_path(self.url, path)
            history = _HISTORIES.get(endpoint)
            self.collections[path] = _Collection(history)
        return self.collections[path]

    def all(self, path: str) -> List[Record]:
        return self.collection(path).all()

    def find(self, path: str) -> Record:
        """The record at a path such as ``/users/PABC123``."""
        path, _, record_id = path.rpartition("/")
        collection = self.collections.get(path)
        if collection is None or record_id not in collection:
            raise _error(404)
        return collection[record_id]

    def first(self, path: str) -> Record:
        """The first record of a collection; made if there is none."""
        if not len(self.collection(path)):
            self.add(path, _named(_kind(path), 0))
        return self.collection(path).nth(0)

    def user(self, email: Any) -> Optional[Record]:
        """The user with this e-mail."""
        for user in self.all("/users"):
            if user["email"].lower() == str(email).lower():
                return user
        return None

    def open_incident(self, key: Any, service: Any) -> Optional[Record]:
        """The incident of a service that holds this key."""
        wanted = (key, _id_of(service))
        for incident in self.all("/incidents") if key else ():
            is_open = incident["status"] != "resolved"
            owner = _id_of(incident["service"])
            if is_open and (incident["incident_key"], owner) == wanted:
                return incident
        return None

    def changed(self, path: str, record: Record, content: Record) -> None:
        """Note that a record of this collection has new content."""
        collection = self.collection(path)
        collection.version += 1
        history = collection.history
        if history and (history.field in content or history.end in content):
            times = _timed(history, record, content, _now())
            collection.put(record["id"], record, times)

    def add(self, path: str, content: Record) -> Record:
        """Complete ``content`` to a record, and keep it."""
        return self.add_all(path, [content])[0]

    def add_all(self, path: str, contents: Iterable[Record]) -> List[Record]:
        """The same, of several that come into being at the same time.

        :raises ValueError: the time of one is none
        """
        collection, kind, now = self.collection(path), _kind(path), _now()
        history = collection.history
        usual = {"created_at": _spelled(now, "seconds")}
        usual.update(_DEFAULTS.get(kind, {}))
        added: List[Record] = []
        for content in contents:
            record_id = content.get("id") or self.new_id(path)
            record = {
                "id": record_id,
                "type": kind,
                "self": f"{self.url}{path}/{record_id}",
                "html_url": f"{WEB_URL}{path}/{record_id}",
                **usual,
                **content,
            }
            times = _timed(history, record, content, now)
            if path == "/incidents":
                self._complete_incident(record, collection.count)
                record.update((n, content[n]) for n in _STATE if n in content)
            record["summary"] = _summary(record)
            if history and history.identity != "id":
                _anonymize(record, history.identity)
            if path.startswith(_SCIM):
                _as_in_scim(record, kind)
            collection.put(record_id, record, times)
            added.append(record)
        return added

    def new_id(self, path: str) -> str:
        """An id that nothing has yet."""
        self._ids += 1  # the factor is odd, so that no id comes twice
        new_id = f"P{self._ids * 7654321 % 16**6:06X}"
        return new_id.rjust(26, "A") if path.startswith(_SCIM) else new_id

    def _complete_incident(self, incident: Record, number: int) -> None:
        incident["incident_number"] = number + 1
        incident.setdefault("incident_key", uuid.uuid4().hex)
        incident.setdefault("service", _reference(self.first("/services")))
        users = self.collection("/users")
        if len(users):
            assignee = _reference(users.nth(number % len(users)))
            incident.setdefault("assignments", [{"assignee": assignee}])
        created_at = incident["created_at"]
        self.set_status(incident, incident["status"], None, created_at)

    def set_status(
        self,
        incident: Record,
        status: Any,
        actor: Any,
        now: Optional[str] = None,
    ) -> None:
        """Change the status of an incident, and what follows from it."""
        _check_status(status)
        now = now or _spelled(_now(), "seconds")
        incident["status"] = status
        incident["last_status_change_at"] = now
        incident["last_status_change_by"] = actor
        incident["acknowledgements"] = []
        incident["resolved_at"] = None
        if status == "acknowledged":
            acknowledgement = {"at": now, "acknowledger": actor}
            incident["acknowledgements"].append(acknowledgement)
        if status == "resolved":
            incident["resolved_at"] = now
            alerts = self.collections.get(
                f"/incidents/{incident['id']}/alerts"
            )
            if alerts is not None:
                alerts.version += 1
                for alert in alerts.all():
                    alert["status"] = status
        self.collection("/incidents").version += 1


# ---------------------------------------------------------------------------
# Filters, order and pages
# ---------------------------------------------------------------------------

# Who acknowledged an incident is not thereby one that it is assigned to.
_BYLINES = ("last_status_change_by", "acknowledgements")

# Parameters that say something else than which records are wanted.
_NO_FILTERS = {"limit", "offset", "total", "cursor", "after", "sort_by"}
_NO_FILTERS.update(["since", "until", "date_range", "time_zone", "include[]"])
_NO_FILTERS.add("updated_after")  # of analytics' bodies, not of a query
# Their lists have no filter of these names: it is ``statuses[]``.
_NO_FILTERS_OF = {"/incidents": {"status", "urgency"}}

# The lists that take a ``query``; others give all that they have.
_SEARCHED = {
    *("/escalation_policies", "/extensions", "/incident_workflows"),
    *("/maintenance_windows", "/schedules", "/services", "/tags", "/teams"),
    *("/templates", "/users", "/v3/schedules"),
}

_SORTABLE = {
    "/incidents": ("incident_number", "created_at", "resolved_at", "urgency"),
    "/incidents/{id}/alerts": ("created_at", "resolved_at"),
}


def _mentions(value: Any, ids: List[str]) -> bool:
    """Does it hold one of these ids, at any depth?"""
    if isinstance(value, list):
        return any(_mentions(item, ids) for item in value)
    if isinstance(value, dict):
        rest = [value[name] for name in value if name not in _BYLINES]
        return value.get("id") in ids or _mentions(rest, ids)
    return False


def _passes(record: Record, name: str, values: List[Any]) -> bool:
    """Does a record pass the filter that a query parameter is?"""
    if name == "query":
        text = f"{record.get('summary')}\n{record.get('email')}"
        return values[-1].lower() in text.lower()
    if name == "updated_after":
        return bool(_instant(record["updated_at"]) > values[-1])
    if name.endswith("_ids[]"):
        return _mentions(record, values)
    if name.endswith("[]"):
        name = pdpyras.singular_name(name[:-2])
    if name not in record:  # no filter
        return True
    return str(record[name]).lower() in [value.lower() for value in values]


def _sort_value(entry: _Entry, name: str) -> Any:
    """By what an entry is sorted; what is not there yet comes first."""
    instant, _, record = entry
    value = record.get(name)
    if name == "created_at":
        # Only histories know their records' instants.
        return instant or _instant(value)
    if name == "resolved_at":
        return _FIRST if value is None else _instant(value)
    if name == "urgency":
        return str(value) != "low"
    return value or 0


def _sort_order(endpoint: str, sort_by: str) -> "_Order":
    """What ``sort_by`` asks for."""
    names = _SORTABLE[endpoint]
    pattern = rf"(?:{'|'.join(names)})(?::asc|:desc)?"
    fields = sort_by.split(",")
    if len(fields) > 2 or not all(re.fullmatch(pattern, f) for f in fields):
        raise _invalid(f"sort_by must be one or two of {', '.join(names)}")
    return tuple((f.partition(":")[0], f.endswith(":desc")) for f in fields)


# "added", "oldest", "newest", or pairs: the name of a field, and whether it
# descends.
_Order = Union[str, Tuple[Tuple[str, bool], ...]]
# Pairs of a parameter and its values.
_Filters = Tuple[Tuple[str, Tuple[Any, ...]], ...]


def _order_key(order: _Order) -> Callable[[_Entry], Any]:
    """By what entries are in this order. Fields come on top of it."""
    if order == "newest":
        return lambda entry: (-entry[0], entry[1])
    if order == "oldest":
        return lambda entry: entry[:2]
    return lambda entry: entry[1]


def _sort(entries: List[_Entry], order: _Order) -> None:
    entries.sort(key=_order_key(order))
    if not isinstance(order, str):
        for name, descends in reversed(order):
            value = functools.partial(_sort_value, name=name)
            entries.sort(key=value, reverse=descends)


class _Meaning(NamedTuple):
    """What the API's documents leave open: see :class:`Sandbox`."""

    since: str
    until: str
    resolution: str
    order: str


_MEANINGS = {
    "since": ("inclusive", "exclusive"),
    "until": ("inclusive", "exclusive"),
    "resolution": ("seconds", "milliseconds"),
    "order": ("added", "oldest", "newest"),
}


class _Selection:
    """The entries that are asked for, in their order: a stretch of a list."""

    def __init__(
        self, entries: List[_Entry], start: int, end: int, order: _Order
    ) -> None:
        self._entries, self._start, self._end = entries, start, end
        self._key = _order_key(order)
        self._keys: List[Any] = []
        self._places: Dict[Any, int] = {}

    def __len__(self) -> int:
        return self._end - self._start

    def page(self, start: int, end: int) -> List[_Entry]:
        end = min(self._start + end, self._end)
        return self._entries[self._start + start : end]

    def behind(self, cursor: str) -> int:
        """How many records are up to the one of a cursor, gone or not."""
        if not re.fullmatch(r"-?\d{1,18}\.\d{1,18}", cursor):
            raise _invalid(f"cursor {cursor!r} is not of this API")
        instant, number = map(int, cursor.split("."))
        if not self._keys:
            self._keys = [self._key(e) for e in self.page(0, len(self))]
        return bisect.bisect_right(
            self._keys, self._key((instant, number, {}))
        )

    def place_behind(self, identity: str, last: Any) -> int:
        """How many records are up to the one that is called so."""
        if not self._places:
            for place, entry in enumerate(self.page(0, len(self)), 1):
                self._places[entry[2].get(identity)] = place
        if not isinstance(last, str) or last not in self._places:
            raise _invalid(f"starting_after {last!r} is none of the records")
        return self._places[last]


class _Lists:
    """Answers with pages of collections.

    Selections are kept for the requests of the pages that follow, as long as
    nothing changes.
    """

    kept = 32  # selections: sixteen lists may be read at once

    def __init__(self, meaning: _Meaning) -> None:
        for name, value in meaning._asdict().items():
            if value not in _MEANINGS[name]:
                choice = " or ".join(map(repr, _MEANINGS[name]))
                raise ValueError(f"{name} must be {choice}, not {value!r}")
        self.meaning = meaning
        self._unit = _SECOND
        if meaning.resolution == "milliseconds":
            self._unit //= 1000
        # By what was asked: version of the collection, and selection.
        self._selections: Any = collections.OrderedDict()

    def page(
        self, collection: _Collection, request: Request, operation: Any
    ) -> Record:
        """The body with the records that a query asks for."""
        asked = dict(request.query)
        style, name = operation.pagination, operation.response
        usual = 50 if request.path.startswith(_SLACK) else DEFAULT_LIMIT
        limit = max(1, _number(asked, "limit", usual))
        limit = min(limit, operation.max_limit)
        start = _number(asked, "offset", 0) if style == "offset" else 0
        if start + limit > pdpyras.ITERATION_LIMIT:
            raise _unfit(_TOO_FAR)
        chosen = self._asked(collection, request, asked)
        if not style:
            return {name: _contents(chosen.page(0, len(chosen)))}
        if style != "offset" and asked.get(style):
            start = chosen.behind(asked[style])
        entries = chosen.page(start, start + limit)
        more = start + len(entries) < len(chosen)
        page: Record = {name: _contents(entries), "limit": limit}
        if style == "offset":
            total = len(chosen) if asked.get("total") == "true" else None
            return {**page, "offset": start, "more": more, "total": total}
        following = "next_cursor" if style == "cursor" else style
        page[following] = "{}.{}".format(*entries[-1]) if more else None
        return page

    def _asked(
        self, collection: _Collection, request: Request, asked: Dict[str, str]
    ) -> _Selection:
        endpoint, history = str(request.endpoint), collection.history
        period: Period = (None, None)
        is_all = endpoint == "/incidents" and asked.get("date_range") == "all"
        if history and not is_all:
            period = _asked_period(history, asked)
        order: _Order = self.meaning.order if history else "added"
        if history is _AUDIT:
            order = "newest"
        if endpoint in _SORTABLE and "sort_by" in asked:
            order = _sort_order(endpoint, asked["sort_by"])
        ignored = _NO_FILTERS | _NO_FILTERS_OF.get(endpoint, set())
        if endpoint not in _SEARCHED:
            ignored = ignored | {"query"}
        filters = tuple(
            (name, tuple(v for other, v in request.query if other == name))
            for name in asked
            if name not in ignored
        )
        bounds = self._bounds(period)
        return self._select(collection, bounds, filters, order)

    def _bounds(self, period: Period) -> Period:
        """The instants from which, and before which, records are meant."""
        (since, until), unit = period, self._unit
        if since is not None:
            since = since // unit * unit
            since += unit * (self.meaning.since == "exclusive")
        if until is not None:
            until = until // unit * unit
            until += unit * (self.meaning.until == "inclusive")
        return since, until

    def _select(
        self,
        collection: _Collection,
        bounds: Period,
        filters: _Filters,
        order: _Order,
    ) -> _Selection:
        """What is within the bounds and passes the filters. What lasts has
        to end behind the first bound, and to begin before the other."""
        lasts = collection.history is not None and collection.history.end
        entries, (since, until) = collection.entries(), bounds
        start, end = 0, len(entries)
        if since is not None and not lasts:
            start = bisect.bisect_left(entries, (since,))
        if until is not None:
            end = max(start, bisect.bisect_left(entries, (until,)))
        least = since if lasts else None
        key = (id(collection), start, end, least, filters, order)
        version, selection = self._selections.pop(key, (None, None))
        if version != collection.version:
            selection = _selection(collection, *key[1:])
        self._selections[key] = collection.version, selection
        if len(self._selections) > self.kept:
            self._selections.popitem(last=False)
        return cast(_Selection, selection)

    def page_after(
        self, collection: _Collection, asked: Record, operation: Any
    ) -> Record:
        """The same, where the request's body says what is wanted."""
        history = collection.history or _History()
        filters = asked.get("filters") or {}
        if not isinstance(filters, dict):
            raise _invalid("filters must be an object")
        limit = asked.get("limit", 100)
        if not isinstance(limit, int) or not 1 <= limit <= operation.max_limit:
            raise _invalid(f"limit must be 1 to {operation.max_limit}")
        bounds, conditions = _asked_in_body(history, filters)
        order = _order_in_body(history, asked)
        chosen = self._select(collection, bounds, conditions, order)
        last, start = asked.get("starting_after"), 0
        if last is not None:
            start = chosen.place_behind(history.identity, last)
        data = _contents(chosen.page(start, start + limit))
        return {
            "data": data,
            "first": data[0][history.identity] if data else None,
            "last": data[-1][history.identity] if data else None,
            "more": start + len(data) < len(chosen),
        }


def _selection(
    collection: _Collection,
    start: int,
    end: int,
    least: Optional[int],
    filters: _Filters,
    order: _Order,
) -> _Selection:
    """A stretch of a collection, or what of it is meant, sorted."""
    entries = collection.entries()
    is_sorted = order == "oldest" or order == "added" and collection.in_order
    if is_sorted and not filters and least is None:
        return _Selection(entries, start, end, order)
    entries = entries[start:end]
    if least is not None:
        entries = [e for e in entries if collection.ends[e[1]] > least]
    for name, values in filters:
        entries = [e for e in entries if _passes(e[2], name, [*values])]
    _sort(entries, order)
    return _Selection(entries, 0, len(entries), order)


def _contents(entries: List[_Entry]) -> List[Record]:
    return [entry[2] for entry in entries]


def _number(asked: Dict[str, str], name: str, default: int) -> int:
    value = asked.get(name) or str(default)
    if not re.fullmatch(r"\d{1,18}", value):
        raise _error(400, f"{name} {value!r} is no number")
    return int(value)


_TOO_FAR = (
    "Offset+limit exceeds maximum allowed value of 10000. Please try to "
    "refine your search to reduce the returned set of records below this "
    "number, like adding a date range."
)


def _asked_in_body(
    history: _History, filters: Record
) -> Tuple[Period, _Filters]:
    """The bounds of analytics, from which and before which, and the rest."""
    ends: List[Optional[int]] = []
    for name in ("created_at_start", "created_at_end", "updated_after"):
        value = filters.get(name)
        try:
            ends.append(None if value is None else _instant(value))
        except ValueError:
            raise _invalid(f"{name} is no valid time") from None
    since, until, updated = ends
    if since is not None and history.identity != "id":
        since += 1  # Of a responder's, the document says "greater than".
    conditions = () if updated is None else (("updated_after", (updated,)),)
    return (since, until), conditions


def _order_in_body(history: _History, asked: Record) -> _Order:
    order, field = asked.get("order"), asked.get("order_by")
    if order not in (None, "asc", "desc"):
        raise _invalid("order must be asc or desc")
    if field not in (None, "created_at", "seconds_to_resolve"):
        raise _invalid("order_by must be created_at or seconds_to_resolve")
    return ((field or "created_at", order != "asc"),)


# ---------------------------------------------------------------------------
# Webhooks
# ---------------------------------------------------------------------------

_SUBSCRIPTIONS = "/webhook_subscriptions"

# Types of events, by the incident's status before and after.
_EVENT_OF_STATUS = {
    "acknowledged": "incident.acknowledged",
    "resolved": "incident.resolved",
}
_EVENT_OF_TRIGGERED = {
    "acknowledged": "incident.unacknowledged",
    "resolved": "incident.reopened",
}
# The same, by the property that an update changes.
_EVENT_OF_PROPERTY = {
    "assignments": "incident.reassigned",
    "escalation_policy": "incident.delegated",
    "escalation_level": "incident.escalated",
    "priority": "incident.priority_updated",
    "service": "incident.service_updated",
    "incident_type": "incident.incident_type.changed",
    "conference_bridge": "incident.conference_bridge.updated",
}
# By what is sent for an incident; and of which type the event's data are.
_EVENT_OF_REQUEST = {
    "POST /incidents/{id}/notes": ("incident.annotated", "incident_note"),
    "POST /incidents/{id}/responder_requests": (
        "incident.responder.added",
        "incident_responder",
    ),
    "POST /incidents/{id}/status_updates": (
        "incident.status_update_published",
        "incident_status_update",
    ),
    "PUT /incidents/{id}/custom_fields/values": (
        "incident.custom_field_values.updated",
        "incident_field_values",
    ),
}
_EVENTS = sorted(
    {
        "incident.triggered",
        *_EVENT_OF_STATUS.values(),
        *_EVENT_OF_TRIGGERED.values(),
        *_EVENT_OF_PROPERTY.values(),
        *(event for event, _ in _EVENT_OF_REQUEST.values()),
        *(f"service.{what}" for what in ("created", "updated", "deleted")),
    }
)


# What webhooks render of a record as it is.
_EVENT_PROPERTIES = {
    "incident": "id type self html_url status incident_key created_at title "
    "service escalation_policy teams priority urgency conference_bridge "
    "resolve_reason",
    "service": "id type self html_url summary created_at status teams",
}


def _event_data(record: Record) -> Record:
    """An incident or a service, as webhooks render it."""
    names = _EVENT_PROPERTIES[record["type"]].split()
    data = {name: record.get(name) for name in names}
    if record["type"] == "service":
        return data
    data["number"] = record["incident_number"]
    assignments = record.get("assignments") or ()
    data["assignees"] = [a.get("assignee") for a in assignments]
    return data


def _monotonic(clock: Callable[[], float] = time.monotonic) -> float:
    """Seconds, which pass.

    The clock is the one that was there at the import: freezegun stops that
    of the ``time`` module, and not for all threads alike.
    """
    return clock()


class Delivery(NamedTuple):
    """An attempt to deliver an event to a webhook.

    :ivar id: the header ``X-Webhook-Id``, the same at every attempt
    :ivar event_type: such as ``incident.triggered``
    :ivar status: HTTP status of the answer; 0: there was none in time
    """

    id: str
    event_type: str
    status: int


class _Waiting:
    """What is to be delivered, and how often that was tried."""

    def __init__(
        self, delivery_id: str, url: str, event: Record, subject: str
    ) -> None:
        self.id, self.url, self.subject = delivery_id, url, subject
        self.event_type = str(event["event_type"])
        # Compact, and not in ASCII: who signs what was decoded and encoded
        # again gets another signature.
        content = {"event": event}
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        self.body = text.encode("utf-8", "replace")
        self.attempts = 0


class Webhook:
    """A webhook subscription, and what becomes of its deliveries.

    :ivar id: of the subscription: the header ``X-Webhook-Subscription``
    :ivar secrets: each makes a signature, the newest first
    :ivar custom_headers: headers that are sent with each delivery
    :ivar twice: is each event delivered twice?
    :ivar is_local: is nothing sent to other computers than this one?
    """

    def __init__(
        self,
        webhook_id: str,
        secrets: Tuple[str, ...],
        twice: bool = False,
        is_local: bool = True,
    ) -> None:
        self.id = webhook_id
        self.secrets = secrets
        self.custom_headers: Dict[str, str] = {}
        self.twice = twice
        self.is_local = is_local
        self._changed = threading.Condition()
        self._deliveries: Deque[Delivery] = collections.deque(
            maxlen=DELIVERIES_KEPT
        )
        # Of each incident: its deliveries, of which the first is due. When,
        # tells the heap: instant, number, incident.
        self._waiting: Dict[str, Deque[_Waiting]] = {}
        self._due: List[Tuple[float, int, str]] = []
        self._numbers = itertools.count()
        self._thread: Optional[threading.Thread] = None
        self._connection: Optional[HTTPConnection] = None

    @property
    def deliveries(self) -> List[Delivery]:
        """All attempts that have ended, the last 10 000 in their order."""
        with self._changed:
            return list(self._deliveries)

    def rotate(self, secret: Optional[str] = None) -> None:
        """Change the secret. Deliveries have two signatures from then on.

        :param secret: the new one; None: end the change, so that only the
            newest secret signs
        :raises ValueError: it is empty
        """
        old = self.secrets[:1]
        new = () if secret is None else _checked_secrets(secret)
        self.secrets = (*new, *old)

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until nothing is to be delivered.

        :param timeout: seconds
        :returns: False if something still is
        """
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting, timeout=timeout
            )

    # -- What the sandbox calls ---------------------------------------------

    def put(self, url: str, event: Record, subject: str) -> None:
        """Deliver an event, after those of the same subject."""
        if self.is_local and not _is_on_loopback(url):
            return
        delivery_id = str(uuid.uuid4())
        with self._changed:
            if subject not in self._waiting:
                self._waiting[subject] = collections.deque()
                self._schedule(subject, 0)
            for _ in range(1 + self.twice):
                one = _Waiting(delivery_id, url, event, subject)
                self._waiting[subject].append(one)
            if self._thread is None:
                self._thread = _started(self._run)
                self._thread.name = f"webhook {self.id}"
            self._changed.notify_all()

    def stop(self) -> None:
        """Throw away what is not delivered, and end the thread."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._waiting.clear()
            self._due.clear()
            self._changed.notify_all()
        # A name that is being looked up is not waited for.
        end = _monotonic() + 1
        while thread and thread.is_alive() and _monotonic() < end:
            connection = self._connection
            try:
                if connection is not None and connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)
            except (OSError, AttributeError):
                pass  # it has ended by itself
            thread.join(0.02)

    # -- The thread ---------------------------------------------------------

    def _schedule(self, subject: str, pause: float) -> None:
        instant = _monotonic() + pause
        heapq.heappush(self._due, (instant, next(self._numbers), subject))

    def _run(self) -> None:
        while True:
            waiting = self._next()
            if waiting is None:
                return
            status = self._send(waiting)
            with self._changed:
                if self._is_current():
                    self._settle(waiting, status)

    def _is_current(self) -> bool:
        return self._thread is threading.current_thread()

    def _next(self) -> Optional[_Waiting]:
        """What is due, once something is; None: there will be nothing."""
        with self._changed:
            while self._is_current():
                pause = None
                if self._due:
                    pause = self._due[0][0] - _monotonic()
                    if pause <= 0:
                        subject = heapq.heappop(self._due)[2]
                        return self._waiting[subject][0]
                self._changed.wait(pause)
        return None

    def _settle(self, waiting: _Waiting, status: int) -> None:
        """Note an attempt; plan the next one, or what comes behind it."""
        attempt = Delivery(waiting.id, waiting.event_type, status)
        self._deliveries.append(attempt)
        subject, queue = waiting.subject, self._waiting[waiting.subject]
        is_again = status >= 500 or status in (0, 429)
        if is_again and waiting.attempts < len(WEBHOOK_PAUSES):
            self._schedule(subject, WEBHOOK_PAUSES[waiting.attempts])
            waiting.attempts += 1
            return
        queue.popleft()
        if queue:
            self._schedule(subject, 0)
        else:
            del self._waiting[subject]
            self._changed.notify_all()

    def _send(self, waiting: _Waiting) -> int:
        """The status of the receiver's answer; 0: there is none."""
        parts = urlsplit(waiting.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        target = (parts.path or "/") + (parts.query and f"?{parts.query}")
        end = _monotonic() + WEBHOOK_TIMEOUT
        connection = kind(parts.netloc, timeout=WEBHOOK_TIMEOUT)
        self._connection = connection
        try:
            headers = self._headers(waiting)
            connection.request("POST", target, waiting.body, headers)
            left = max(0.001, end - _monotonic())
            connection.sock.settimeout(left)
            return connection.getresponse().status
        except (OSError, HTTPException, ValueError):
            return 0  # ValueError: the name is none that can be looked up
        finally:
            self._connection = None
            connection.close()

    def _headers(self, waiting: _Waiting) -> Dict[str, str]:
        signatures = [
            "v1=" + hmac.new(s.encode(), waiting.body, "sha256").hexdigest()
            for s in self.secrets
        ]
        return {
            **self.custom_headers,
            "Content-Type": "application/json",
            "User-Agent": "PagerDuty-Webhook/V3.0",
            "X-PagerDuty-Signature": ",".join(signatures),
            "X-Webhook-Id": waiting.id,
            "X-Webhook-Subscription": self.id,
            "Connection": "close",
        }


def _webhook_url(url: Any) -> str:
    """The URL, if something can be delivered there.

    :raises ValueError: it is none of HTTP
    """
    pattern = r"https?://[^/?#@\s]+([/?#][!-~]*)?"
    if not isinstance(url, str) or not re.fullmatch(pattern, url, re.ASCII):
        raise ValueError(f"{url!r} is no URL that webhooks can be sent to")
    parts = urlsplit(url)
    if not parts.hostname or parts.port == 0:  # A port may be none, and raise.
        raise ValueError(f"{url!r} names no host, or no port")
    return url


def _checked_secrets(secret: Union[str, Iterable[str]]) -> Tuple[str, ...]:
    """The secrets, one or several.

    :raises ValueError: there is none, or one is empty
    """
    secrets = (secret,) if isinstance(secret, str) else tuple(secret)
    if not secrets or not all(s.encode("utf-8") for s in secrets):
        raise ValueError("secret must not be empty")
    return secrets


def _is_on_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    is_number = re.fullmatch(r"127\.\d+\.\d+\.\d+", host, re.ASCII)
    return host in ("localhost", "::1") or is_number is not None


class _Webhooks:
    """Tells the webhooks what has happened."""

    def __init__(self, store: _Store) -> None:
        self.store = store
        self.webhooks: Dict[str, Webhook] = {}

    def subscribe(
        self, content: Record, secrets: Tuple[str, ...], **options: bool
    ) -> Webhook:
        """Make a subscription, and the record of it."""
        record = self.store.add(_SUBSCRIPTIONS, {"active": True, **content})
        webhook = Webhook(record["id"], secrets, **options)
        self.webhooks[webhook.id] = webhook
        self.settle(record)
        return webhook

    def settle(self, record: Record) -> None:
        """Take out of a record what no answer is to show."""
        method = {**record["delivery_method"], "temporarily_disabled": False}
        headers = method.get("custom_headers") or []
        method["custom_headers"] = [
            {**h, "value": "<redacted>"} for h in headers
        ]
        method.pop("secret", None)
        record["delivery_method"] = method
        webhook = self.webhooks[record["id"]]
        webhook.custom_headers = {h["name"]: h["value"] for h in headers}

    def tell(
        self, event_type: str, data: Record, owner: Record, agent: Any = None
    ) -> None:
        """Deliver an event to all who want it.

        :param data: its data
        :param owner: the incident or service that it is about
        :param agent: a reference to who has done it, or None
        """
        if not self.webhooks:
            return
        event = self._event(event_type, data, agent)
        for record in self.store.all(_SUBSCRIPTIONS):
            webhook = self.webhooks.get(record["id"])
            if webhook is not None and _is_wanted(record, event_type, owner):
                url = record["delivery_method"]["url"]
                webhook.put(url, event, owner["id"])

    def ping(self, record: Record, agent: Any) -> None:
        """Deliver an event on trial."""
        webhook = self.webhooks.get(record["id"])
        if webhook is not None:
            data = {"message": "Hello from your friend Pagey!", "type": "ping"}
            event = self._event("pagey.ping", data, agent)
            url = record["delivery_method"]["url"]
            webhook.put(url, event, "")

    def _event(self, event_type: str, data: Record, agent: Any) -> Record:
        return {
            "id": f"01{uuid.uuid4().hex[:24].upper()}",
            "event_type": event_type,
            "resource_type": event_type.partition(".")[0],
            "occurred_at": _spelled(_now(), "milliseconds"),
            "agent": agent,
            "client": None,
            "data": data,
        }

    def created(self, record: Record, agent: Any = None) -> None:
        event = {
            "incident": "incident.triggered",
            "service": "service.created",
        }.get(record.get("type", ""))
        if event is not None:
            self.tell(event, _event_data(record), record, agent)

    def updated(self, record: Record, before: Record, agent: Any) -> None:
        """Tell what an update has changed."""
        if record["type"] == "service":
            self.tell("service.updated", _event_data(record), record, agent)
        if record["type"] != "incident":
            return
        self.status_changed(record, before["status"], agent)
        for name, event in _EVENT_OF_PROPERTY.items():
            if record.get(name) != before.get(name):
                self.tell(event, _event_data(record), record, agent)

    def status_changed(
        self, incident: Record, before: str, agent: Any = None
    ) -> None:
        """Tell that an incident has another status, if it has."""
        status = incident["status"]
        if status != before:
            event = _EVENT_OF_STATUS.get(status) or _EVENT_OF_TRIGGERED[before]
            self.tell(event, _event_data(incident), incident, agent)

    def deleted(self, record: Record, agent: Any) -> None:
        if record.get("type") == "service":
            self.tell("service.deleted", _event_data(record), record, agent)

    def sent(self, request: Request, content: Any, agent: Any) -> None:
        """Tell what was sent for an incident, such as a note."""
        operation = f"{request.method} {request.endpoint}"
        if not self.webhooks or operation not in _EVENT_OF_REQUEST:
            return
        event, kind = _EVENT_OF_REQUEST[operation]
        incident = self.store.find("/".join(request.path.split("/")[:3]))
        if isinstance(content, list):
            content = {"custom_fields": content}
        data = {**content, "incident": _reference(incident), "type": kind}
        if kind == "incident_note":
            names = ("id", "content", "incident", "type")
            data = {name: data.get(name) for name in names}
            data["trimmed"] = False
        self.tell(event, data, incident, agent)

    def stop(self) -> None:
        for webhook in self.webhooks.values():
            webhook.stop()


def _is_wanted(record: Record, event_type: str, owner: Record) -> bool:
    """Is an event one that a subscription is about?"""
    if not record.get("active") or event_type not in record["events"]:
        return False
    wanted = record.get("filter") or {}
    kind = wanted.get("type", "account_reference")
    if kind == "service_reference":
        service = owner.get("service", owner)
        return bool(_id_of(service) == wanted.get("id"))
    if kind == "team_reference":
        teams = owner.get("teams") or ()
        return wanted.get("id") in [_id_of(team) for team in teams]
    return True


# ---------------------------------------------------------------------------
# The REST API
# ---------------------------------------------------------------------------

# What a record cannot be created without.
_REQUIRED = {
    "/users": ("name", "email"),
    "/services": ("name",),
    "/escalation_policies": ("name",),
    "/incidents": ("title", "service"),
}
# What a client cannot set.
_FIXED = {"id", "self", "html_url", "summary", "created_at", "resolved_at"}
_FIXED.update(_BYLINES, ["last_status_change_at"])
# Of answers without a body.
_BARE_STATUS = {f"POST {_SUBSCRIPTIONS}/{{id}}/ping": 202}


def _place(endpoint: str) -> str:
    """What there is: a collection, a record of one, or something else."""
    collection, _, node = endpoint.rpartition("/")
    if pdpyras.is_path_param(node) and collection in pdpyras.CANONICAL_PATHS:
        return "record"
    reading = pdpyras._operation("GET", endpoint)
    if reading and pdpyras._is_collection(endpoint, reading):
        return "collection"
    return "other"


def _content(request: Request, wrapper: Optional[str]) -> Any:
    """What the body's wrapper holds: an object, or a list of objects."""
    try:
        content = request.json
    except ValueError:
        raise _error(400, "The body is no JSON") from None
    if wrapper is None:
        content = content or {}
    else:
        content = content.get(wrapper) if isinstance(content, dict) else None
    if not all(isinstance(item, dict) for item in _listed(content)):
        raise _error(400, f"{wrapper!r} must hold an object or a list of them")
    return content


def _listed(content: Any) -> List[Any]:
    return content if isinstance(content, list) else [content]


def _check_times(history: Optional[_History], content: Record) -> None:
    """Refuse what has a time that is none."""
    for name in (history.field, history.end) if history else ():
        if content.get(name) is not None:
            _instant(content[name])


def _ends_after_its_start(override: Record) -> bool:
    try:
        return _instant(override.get("start")) < _instant(override.get("end"))
    except ValueError:
        return False


def _writable(content: Record) -> Record:
    """The properties that a client may set."""
    writable = {n: v for n, v in content.items() if n not in _FIXED}
    if str(content.get("type")).endswith("_reference"):
        del writable["type"]
    return writable


def _check_subscription(content: Record) -> None:
    """Refuse a webhook subscription that nothing could be delivered to."""
    method = content.get("delivery_method")
    method = method if isinstance(method, dict) else {}
    headers = method.get("custom_headers") or []
    try:
        _webhook_url(method.get("url"))
    except ValueError as error:
        raise _error(400, f"Delivery method: {error}") from None
    if not isinstance(headers, list) or not all(map(_is_header, headers)):
        raise _error(400, "Custom headers must be pairs of name and value")
    if not isinstance(content.get("events"), list):
        raise _error(400, "Events must be a list")
    if not isinstance(content.get("filter") or {}, dict):
        raise _error(400, "Filter must be an object")


def _is_header(header: Any) -> bool:
    """Is it a custom header that can be sent?"""
    if not isinstance(header, dict):
        return False
    field = f"{header.get('name')}: {header.get('value')}"
    return isinstance(header.get("value"), str) and bool(
        _FIELD.fullmatch(field) and re.fullmatch("[ -~]*", field)
    )


class _RestAPI:
    """Serves collections and their records, and a few endpoints that are
    like no others."""

    def __init__(
        self, store: _Store, lists: _Lists, webhooks: _Webhooks
    ) -> None:
        self.store, self.lists, self.webhooks = store, lists, webhooks
        # By method and endpoint, or else by method and what there is.
        self.routes: Dict[str, Callable[[Request, Any], Any]] = {
            "GET /users/me": self.me,
            "GET /abilities/{id}": self.test,
            "PUT /incidents": self.update,
            "PUT /incidents/{id}/alerts": self.update,
            "POST /schedules/{id}/overrides": self.override,
            f"POST {_SUBSCRIPTIONS}": self.subscribe,
            f"PUT {_SUBSCRIPTIONS}/{{id}}": self.resubscribe,
            f"POST {_SUBSCRIPTIONS}/{{id}}/enable": self.enable,
            f"POST {_SUBSCRIPTIONS}/{{id}}/ping": self.ping,
            "POST collection": self.create,
            "DELETE collection": self.clear,
            "GET record": self.read,
            "PUT record": self.update,
            "PATCH record": self.update,
            "DELETE record": self.delete,
            "GET other": self.recall,
            "DELETE other": self.clear,
        }

    def answer(self, request: Request) -> Answer:
        method, endpoint = request.method, str(request.endpoint)
        operation = self._operation(request, endpoint)
        self._check_parents(request, endpoint)
        place = _place(endpoint)
        if f"{method} {place}" == "GET collection":
            collection = self.store.collection(request.path)
            return 200, self.lists.page(collection, request, operation)
        content = None
        if method in ("POST", "PUT", "PATCH"):
            content = _content(request, operation.request)
        serve = self.routes.get(f"{method} {place}", self.act)
        serve = self.routes.get(f"{method} {endpoint}", serve)
        content = serve(request, content)
        self.webhooks.sent(request, content, self._agent(request))
        if content is None:
            return _BARE_STATUS.get(f"{method} {endpoint}", 204), None
        status = 201 if f"{method} {place}" == "POST collection" else 200
        name = operation.response
        return status, content if name is None else {name: content}

    def _operation(self, request: Request, endpoint: str) -> Any:
        """What the tables know of it, if the client may have it."""
        if request.endpoint is None:
            raise _error(404)
        operation = pdpyras._operation(request.method, endpoint)
        if operation is None:
            raise _error(405)
        if (
            operation.from_required
            and _key(request).startswith("account")
            and self.store.user(request.headers["from"]) is None
        ):
            raise _error(400, "From must be the e-mail of a user")
        return operation

    def _check_parents(self, request: Request, endpoint: str) -> None:
        """Nothing is under a record that is not there."""
        nodes, names = request.path.split("/"), endpoint.split("/")
        for end in range(3, len(nodes)):
            if _place("/".join(names[:end])) == "record":
                self.store.find("/".join(nodes[:end]))

    # -- Collections, and their records -------------------------------------

    def create(self, request: Request, content: Any) -> Any:
        created = [self._create(request.path, c) for c in _listed(content)]
        for record in created:
            self.webhooks.created(record, self._agent(request))
        return created if isinstance(content, list) else created[0]

    def _create(self, path: str, content: Record) -> Record:
        self._check(path, content, {})
        return self.store.add(path, _writable(content))

    def _check(self, path: str, content: Record, record: Record) -> None:
        """Refuse content that would make no record of this collection."""
        content = {**record, **content}
        errors = [
            f"{name.capitalize()} cannot be empty"
            for name in _REQUIRED.get(path, ())
            if not content.get(name)
        ]
        if path == "/users":
            owner = self.store.user(content.get("email"))
            if owner not in (None, record):
                errors.append("Email has already been taken")
        if path == "/incidents":
            _check_status(content.get("status", "triggered"))
        try:
            _check_times(self.store.collection(path).history, content)
        except ValueError as error:
            errors.append(str(error))
        if errors:
            raise _error(400, *errors)
        if path == "/incidents" and not record:
            self._check_key(content)

    def _check_key(self, content: Record) -> None:
        """Refuse a second open incident with the same key."""
        key, service = content.get("incident_key"), content["service"]
        if self.store.open_incident(key, service):
            raise _unfit(
                "Open incident with matching dedup key already exists on "
                "this service"
            )

    def read(self, request: Request, content: None) -> Record:
        return self.store.find(request.path)

    def test(self, request: Request, content: None) -> None:
        """Say that there is such a record, and no more."""
        self.store.find(request.path)

    def update(self, request: Request, content: Any) -> Any:
        """A record, or several of a collection: all of them or none."""
        if not isinstance(content, list):
            record = self.store.find(request.path)
            path = request.path.rpartition("/")[0]
            self._check(path, content, record)
            return self._update(request, path, record, content)
        if len(content) > MULTI_UPDATE_LIMIT:
            raise _error(413, f"At most {MULTI_UPDATE_LIMIT} at a time")
        path = request.path
        records = [self.store.find(f"{path}/{c.get('id')}") for c in content]
        pairs = list(zip(records, content))
        for record, item in pairs:
            self._check(path, item, record)
        return [self._update(request, path, *pair) for pair in pairs]

    def _update(
        self, request: Request, path: str, record: Record, content: Record
    ) -> Record:
        content, before = _writable(content), {**record}
        status = content.get("status", record.get("status"))
        if record["type"] == "incident" and status != record["status"]:
            self.store.set_status(record, status, self._actor(request))
        record.update(content)
        record["summary"] = _summary(record)
        self.store.changed(path, record, content)
        self.webhooks.updated(record, before, self._agent(request))
        return record

    def _actor(self, request: Request) -> Record:
        """Who has sent a request."""
        user = self.store.user(request.headers["from"])
        return _reference(user or self.store.first("/users"))

    def _agent(self, request: Request) -> Optional[Record]:
        """The same for webhooks, for which no user is made."""
        if not self.webhooks.webhooks or not self.store.all("/users"):
            return None
        return self._actor(request)

    def delete(self, request: Request, content: None) -> None:
        record = self.store.find(request.path)
        self.webhooks.deleted(record, self._agent(request))
        path, _, record_id = request.path.rpartition("/")
        self.store.collection(path).remove(record_id)

    def clear(self, request: Request, content: None) -> None:
        self.store.collection(request.path).clear()
        self.store.sent.pop(request.path, None)

    # -- Webhook subscriptions ----------------------------------------------

    def subscribe(self, request: Request, content: Any) -> Record:
        """Make one. No answer but this holds its secret."""
        self._check(request.path, content, {})
        _check_subscription(content)
        secret = uuid.uuid4().hex
        webhook = self.webhooks.subscribe(_writable(content), (secret,))
        record = self.store.find(f"{request.path}/{webhook.id}")
        method = {**record["delivery_method"], "secret": secret}
        return {**record, "delivery_method": method}

    def resubscribe(self, request: Request, content: Any) -> Any:
        record = self.store.find(request.path)
        _check_subscription({**record, **content})
        self.update(request, content)
        webhook = self.webhooks.webhooks.get(record["id"])
        if webhook is not None and "delivery_method" in content:
            self.webhooks.settle(record)
            webhook.is_local = True
        return record

    def enable(self, request: Request, content: Any) -> Record:
        record = self.store.find(request.path.rpartition("/")[0])
        record["active"] = True
        return record

    def ping(self, request: Request, content: Any) -> None:
        record = self.store.find(request.path.rpartition("/")[0])
        self.webhooks.ping(record, self._agent(request))

    # -- Everything else ----------------------------------------------------

    def recall(self, request: Request, content: None) -> Any:
        """What was last sent there."""
        return self.store.sent.get(request.path, {})

    def act(self, request: Request, content: Any) -> Any:
        """Answer with the record that is acted on, as ``/incidents/{id}``
        is by ``/incidents/{id}/merge``, or else with what was sent."""
        endpoint = str(request.endpoint)
        wrapper = pdpyras.entity_wrappers(request.method, endpoint)[1]
        owner = pdpyras._operation("GET", endpoint.rpartition("/")[0])
        if owner and owner.response == wrapper:
            return self.store.find(request.path.rpartition("/")[0])
        if endpoint.startswith("/analytics/raw/"):
            collection = self.store.collection(request.path)
            operation = pdpyras._operation(request.method, endpoint)
            page = self.lists.page_after(collection, content, operation)
            return {**content, **page}
        if endpoint.startswith("/analytics/"):
            return {**content, "data": self.store.all(request.path)}
        self.store.sent[request.path] = content
        return content

    def me(self, request: Request, content: None) -> Record:
        if _key(request).startswith("account"):
            message = "There is no user of an account-level access token."
            raise _ApiError(400, {"error": message})
        return self.store.first("/users")

    def override(self, request: Request, content: Any) -> List[Record]:
        """Judge each by itself."""
        results: List[Record] = []
        for item in _listed(content):
            if _ends_after_its_start(item):
                override = self._create(request.path, item)
                results.append({"status": 201, "override": override})
            else:
                errors = ["Override must end after its start"]
                result = {"status": 400, "errors": errors, "override": item}
                results.append(result)
        return results


# ---------------------------------------------------------------------------
# Jira, Slack and Microsoft Teams
# ---------------------------------------------------------------------------


def _demand_all(content: Record, *names: str) -> None:
    missing = [name for name in names if not content.get(name)]
    if missing:
        raise _error(400, *(f"{name} is missing" for name in missing))


def _channel(content: Record) -> Record:
    """What there is to say of a Slack channel."""
    team, channel = content["slack_team_id"], content["id"]
    return {
        "name": "notification",
        **content,
        "link": f"https://slack.com/app_redirect?channel={channel}&team={team}",
        "deep_link": f"slack://channel?team={team}&id={channel}",
    }


class _IntegrationsAPI(_RestAPI):
    """Collections as in the REST API, and what belongs to an incident."""

    def __init__(
        self, store: _Store, lists: _Lists, webhooks: _Webhooks
    ) -> None:
        super().__init__(store, lists, webhooks)
        slack = _SLACK + "incidents/{incident_id}/"
        teams = _TEAMS + "incidents/{incident_id}/"
        self.routes.update(
            {
                f"POST {slack}dedicated_channel": self.open_channel,
                f"GET {slack}dedicated_channel": self.recall,
                f"DELETE {slack}dedicated_channel": self.close,
                f"POST {slack}notification_channels": self.link,
                f"PUT {slack}notification_channels": self.link_others,
                f"POST {teams}meeting": self.meet,
                f"POST {teams}dedicated_chat": self.open_chat,
                f"GET {teams}dedicated_chat": self.recall,
                f"DELETE {teams}dedicated_chat": self.close,
            }
        )

    def answer(self, request: Request) -> Answer:
        if "/incidents/" in request.path:
            self.store.find("/".join(["", *request.path.split("/")[2:4]]))
        is_jira_server = request.path.startswith(_JIRA_SERVER)
        if is_jira_server and not request.headers[_SIGNATURE]:
            raise _error(403, message="Authorization error")
        status, content = super().answer(request)
        if request.method == "POST":
            status = 200 if is_jira_server else 201
        return status, content

    def recall(self, request: Request, content: None) -> Any:
        """What is open."""
        if request.path not in self.store.sent:
            raise _error(404)
        return self.store.sent[request.path]

    def close(self, request: Request, content: None) -> None:
        self.recall(request, None)
        del self.store.sent[request.path]

    def open_channel(self, request: Request, content: Record) -> Record:
        _demand_all(content, "name", "slack_team_id")
        channel = _channel({**content, "id": self.store.new_id(_SLACK)})
        channel.pop("privacy", None)
        self.store.sent[request.path] = channel
        return {"channel": channel, "warnings": []}

    def link(self, request: Request, content: Record) -> Record:
        _demand_all(content, "id", "slack_team_id")
        channel = self.store.add(request.path, _channel(content))
        return {"channel": channel, "warnings": []}

    def link_others(self, request: Request, content: Any) -> Record:
        """Link these channels, and no others."""
        for channel in _listed(content):
            _demand_all(channel, "id", "slack_team_id")
        self.store.collection(request.path).clear()
        linked = [
            self.store.add(request.path, _channel(channel))
            for channel in _listed(content)
        ]
        return {"channels": linked, "warnings": []}

    def meet(self, request: Request, content: Record) -> Record:
        _demand_all(content, "mst_team_id")
        name = (content.get("meeting") or {}).get("name", "Incident")
        return {"name": name, "url": self._link("meetup-join")}

    def open_chat(self, request: Request, content: Record) -> Record:
        _demand_all(content, "mst_tenant_id")
        name = (content.get("chat") or {}).get("name", "Incident")
        chat = {"name": name, "url": self._link("chat")}
        self.store.sent[request.path] = {
            "chat": chat,
            "tenant_id": content["mst_tenant_id"],
        }
        return chat

    def _link(self, kind: str) -> str:
        return f"https://teams.example.com/l/{kind}/{self.store.new_id('')}"


# ---------------------------------------------------------------------------
# SCIM
# ---------------------------------------------------------------------------

# What a client may set of a user.
_SCIM_ATTRIBUTES = {"active", "displayName", "entitlements", "externalId"}
_SCIM_ATTRIBUTES.update(["roles", "schemas", "timezone", "title", "userName"])
_SCIM_REQUIRED = ("userName", "displayName")
# Of what the API says about itself, all that clients look for.
_SCIM_ITSELF: Dict[str, Record] = {
    "Schemas": {
        "schemas": [f"{_URN}schemas:core:2.0:Schema"],
        "id": f"{_URN}schemas:core:2.0:User",
        "name": "User",
        "description": "User Account",
        "meta": {"resourceType": "Schema"},
        "attributes": [
            {"name": name, "required": name in _SCIM_REQUIRED}
            for name in sorted(_SCIM_ATTRIBUTES)
        ],
    },
    "ResourceTypes": {
        "schemas": [f"{_URN}schemas:core:2.0:ResourceType"],
        "id": "User",
        "name": "User",
        "endpoint": "/Users",
        "schema": f"{_URN}schemas:core:2.0:User",
        "meta": {"resourceType": "ResourceType"},
    },
    "ServiceProviderConfig": {
        "schemas": [f"{_URN}schemas:core:2.0:ServiceProviderConfig"],
        "patch": {"supported": True},
        "bulk": {"supported": False, "maxOperations": 0, "maxPayloadSize": 0},
        "filter": {"supported": True, "maxResults": 100},
        "changePassword": {"supported": False},
        "sort": {"supported": False},
        "etag": {"supported": False},
        "authenticationSchemes": [
            {
                "type": "oauthbearertoken",
                "name": "Bearer token",
                "description": "An API key or an OAuth token",
            }
        ],
        "meta": {"resourceType": "ServiceProviderConfig"},
    },
}


def _scim_error(status: int, detail: str, kind: str = "") -> _ApiError:
    error = {
        "schemas": [f"{_URN}api:messages:2.0:Error"],
        "status": str(status),
        "detail": detail,
    }
    return _ApiError(status, dict(error, scimType=kind) if kind else error)


def _restyled(path: str, answer: Answer) -> Answer:
    """An error as the API of this path spells it, whoever made it."""
    status, content = answer
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict):
        return answer
    reasons_ = [str(reason) for reason in error.get("errors", ())]
    if path.startswith(_SCIM):
        detail = "; ".join(reasons_) or error["message"]
        return _scim_error(status, detail).answer
    if path.startswith((_SLACK, _TEAMS, _JIRA_SERVER)):
        message = "; ".join([error["message"], *reasons_])
        return status, {"error": {"message": message}}
    return answer


class _ScimAPI:
    """Serves SCIM users, in pages that hold no more than is said."""

    def __init__(self, store: _Store, page_size: int) -> None:
        self.store, self.page_size = store, page_size
        user = _SCIM + "Users/{id}"
        self.routes: Dict[str, Callable[[Request], Answer]] = {
            f"GET {_SCIM}Users": self.users,
            f"POST {_SCIM}Users": self.create,
            f"GET {user}": self.read,
            f"PUT {user}": self.replace,
            f"PATCH {user}": self.patch,
            f"DELETE {user}": self.delete,
            f"GET {_SCIM}Schemas": self.describe,
            f"GET {_SCIM}Schemas/{{id}}": self.schema,
            f"GET {_SCIM}ResourceTypes": self.describe,
            f"GET {_SCIM}ServiceProviderConfig": self.config,
        }

    def answer(self, request: Request) -> Answer:
        if request.endpoint is None:
            raise _error(404)
        serve = self.routes.get(f"{request.method} {request.endpoint}")
        if serve is None:
            raise _error(405)
        return serve(request)

    # -- Lists --------------------------------------------------------------

    def users(self, request: Request) -> Answer:
        found = self.store.all(request.path)
        asked = dict(request.query)
        if asked.get("filter"):
            name, value = self._condition(asked["filter"])
            found = [
                user
                for user in found
                if str(user.get(name)).lower() == value.lower()
            ]
        return 200, self._page(asked, found)

    def _condition(self, text: str) -> Tuple[str, str]:
        match = re.fullmatch(
            r'\s*(userName|externalId)\s+eq\s+("(?:[^"\\]|\\.)*")\s*',
            text,
            re.IGNORECASE,
        )
        if match is None:
            detail = "A filter is userName eq TEXT, or externalId eq TEXT"
            raise _scim_error(400, detail, "invalidFilter")
        names = {"username": "userName", "externalid": "externalId"}
        return names[match.group(1).lower()], json.loads(match.group(2))

    def _page(self, asked: Dict[str, str], found: List[Record]) -> Record:
        start = max(1, self._number(asked, "startIndex", 1))
        count = max(0, self._number(asked, "count", self.page_size))
        page = found[start - 1 :][: min(count, self.page_size)]
        return self._listing(page, start, len(found))

    def _listing(self, page: List[Record], start: int, total: int) -> Record:
        return {
            "schemas": [f"{_URN}api:messages:2.0:ListResponse"],
            "totalResults": total,
            "startIndex": start,
            "itemsPerPage": len(page),
            "Resources": page,
        }

    def _number(self, asked: Dict[str, str], name: str, usual: int) -> int:
        text = asked.get(name, str(usual))
        if not re.fullmatch(r"-?\d{1,18}", text):
            raise _scim_error(400, f"{name} is no number", "invalidValue")
        return int(text)

    def describe(self, request: Request) -> Answer:
        found = self._described(request.path)
        return 200, self._listing(found, 1, len(found))

    def _described(self, path: str) -> List[Record]:
        return self.store.all(path) or [_SCIM_ITSELF[path[len(_SCIM) :]]]

    def schema(self, request: Request) -> Answer:
        path, _, schema_id = request.path.rpartition("/")
        for schema in self._described(path):
            if schema["id"] == schema_id:
                return 200, schema
        raise _error(404)

    def config(self, request: Request) -> Answer:
        return 200, _SCIM_ITSELF["ServiceProviderConfig"]

    # -- Users --------------------------------------------------------------

    def read(self, request: Request) -> Answer:
        return 200, self.store.find(request.path)

    def create(self, request: Request) -> Answer:
        content = self._attributes(self._body(request))
        self._check(content, None)
        if content.get("active") is False:
            detail = "A user cannot be created inactive"
            raise _scim_error(400, detail, "invalidValue")
        return 201, self.store.add(request.path, content)

    def replace(self, request: Request) -> Answer:
        user = self.store.find(request.path)
        content = self._attributes(self._body(request))
        return self._changed(request, user, content)

    def patch(self, request: Request) -> Answer:
        user = self.store.find(request.path)
        operations = self._body(request).get("Operations")
        if not isinstance(operations, list) or not operations:
            raise _scim_error(400, "Operations are missing", "invalidSyntax")
        content = self._attributes(_copied(user))
        for operation in operations:
            self._apply(operation, content)
        return self._changed(request, user, content)

    def _apply(self, operation: Any, content: Record) -> None:
        """Carry out an operation of a PATCH."""
        if not isinstance(operation, dict):
            raise _scim_error(
                400, "An operation is an object", "invalidSyntax"
            )
        kind = str(operation.get("op")).lower()
        path, value = operation.get("path"), operation.get("value")
        if path is not None and path not in _SCIM_ATTRIBUTES:
            raise _scim_error(400, f"{path!r} is no attribute", "invalidPath")
        if kind == "remove" and path is not None:
            content.pop(path, None)
        elif kind not in ("add", "replace"):
            raise _scim_error(400, "op or path cannot be used", "noTarget")
        elif path is not None:
            content[path] = value
        elif isinstance(value, dict):
            content.update(self._attributes(value))
        else:
            raise _scim_error(400, "value is no object", "invalidValue")

    def delete(self, request: Request) -> Answer:
        self.store.find(request.path)
        path, _, user_id = request.path.rpartition("/")
        self.store.collection(path).remove(user_id)
        return 204, None

    def _body(self, request: Request) -> Record:
        try:
            body = request.json
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise _scim_error(400, "The body is no object", "invalidSyntax")
        return body

    def _attributes(self, content: Record) -> Record:
        return {k: v for k, v in content.items() if k in _SCIM_ATTRIBUTES}

    def _check(self, content: Record, user: Optional[Record]) -> None:
        missing = [name for name in _SCIM_REQUIRED if not content.get(name)]
        if missing:
            detail = f"{' and '.join(missing)} cannot be empty"
            raise _scim_error(400, detail, "invalidValue")
        name = str(content["userName"]).lower()
        for other in self.store.all(f"{_SCIM}Users"):
            if other is not user and other["userName"].lower() == name:
                detail = "userName has already been taken"
                raise _scim_error(400, detail, "uniqueness")

    def _changed(
        self, request: Request, user: Record, content: Record
    ) -> Answer:
        """Put this in the place of a user. Whom that deactivates is gone."""
        if content.get("active") is False:
            return self.delete(request)
        self._check(content, user)
        for name in _SCIM_ATTRIBUTES.intersection(user) - set(content):
            if name not in ("schemas", "active"):
                del user[name]
        user.update(content)
        path = request.path.rpartition("/")[0]
        self.store.changed(path, user, content)
        return 200, user


# ---------------------------------------------------------------------------
# The Events API
# ---------------------------------------------------------------------------

_SEVERITIES = ("critical", "error", "warning", "info")


def _demand(condition: Any, complaint: str) -> None:
    """Refuse the event unless the condition holds."""
    if not condition:
        body = {"status": "invalid event", "errors": [complaint]}
        raise _ApiError(400, {**body, "message": "Event object is invalid"})


def _all_have(event: Record, name: str, required: str) -> bool:
    """Has each item of a list what it must have?"""
    items = event.get(name) or []
    return isinstance(items, list) and all(
        isinstance(item, dict) and item.get(required) for item in items
    )


def _payload(event: Record, *required: str) -> Record:
    """The payload, checked."""
    payload: Any = event.get("payload")
    _demand(payload and isinstance(payload, dict), "'payload' is missing")
    for name in required:
        _demand(payload.get(name), f"'payload.{name}' is missing or blank")
    length = len(str(payload["summary"]))
    _demand(length <= SUMMARY_LIMIT, "'payload.summary' is too long")
    severity = payload.get("severity", "info")
    _demand(severity in _SEVERITIES, "'payload.severity' is unknown")
    return dict(payload)


class _EventsAPI:
    """Makes incidents of the first service out of events."""

    def __init__(self, store: _Store, webhooks: _Webhooks) -> None:
        self.store, self.webhooks = store, webhooks
        self.routes = {
            "/v2/enqueue": self.alert,
            "/v2/change/enqueue": self.change,
        }
        # By routing key and deduplication key.
        self.incidents: Dict[Tuple[str, str], Record] = {}

    def answer(self, request: Request) -> Answer:
        if request.method != "POST":
            raise _error(405)
        _demand(len(request.body) <= EVENT_SIZE_LIMIT, "Event is over 512 KB")
        try:
            event = request.json
        except (ValueError, RecursionError):
            event = None
        _demand(isinstance(event, dict), "JSON parse error")
        _demand(event.get("routing_key"), "'routing_key' is missing or blank")
        return 202, {"status": "success", **self.routes[request.path](event)}

    def alert(self, event: Record) -> Record:
        action, dedup_key = event.get("event_action"), event.get("dedup_key")
        _demand(action in [*_STATUS_OF_ACTION], "'event_action' is unknown")
        if action == "trigger":
            _payload(event, "summary", "source", "severity")
            dedup_key = dedup_key or uuid.uuid4().hex
        _demand(dedup_key, "'dedup_key' is missing or blank")
        is_short = len(str(dedup_key)) <= DEDUP_KEY_LIMIT
        _demand(is_short, "'dedup_key' is too long")
        _demand(_all_have(event, "links", "href"), "'links.href' is missing")
        _demand(_all_have(event, "images", "src"), "'images.src' is missing")
        key = (str(event["routing_key"]), str(dedup_key))
        incident = self.incidents.get(key, {"status": "resolved"})
        is_open = incident["status"] != "resolved"
        if action == "trigger" and not is_open:
            self.incidents[key] = self._open(key[1], event["payload"])
        if action != "trigger" and is_open:
            before = incident["status"]
            status = _STATUS_OF_ACTION[str(action)]
            self.store.set_status(incident, status, None)
            self.webhooks.status_changed(incident, before)
        return {"message": "Event processed", "dedup_key": dedup_key}

    def _open(self, dedup_key: str, payload: Record) -> Record:
        """Make an incident with an alert."""
        summary, severity = payload["summary"], payload["severity"]
        urgency = "low" if severity in ("warning", "info") else "high"
        incident = {"title": summary, "urgency": urgency}
        incident["incident_key"] = dedup_key
        incident = self.store.add("/incidents", incident)
        alert = {"summary": summary, "severity": severity}
        alert.update(status="triggered", alert_key=dedup_key)
        alert["body"] = {"type": "alert_body", "details": payload}
        self.store.add(f"/incidents/{incident['id']}/alerts", alert)
        self.webhooks.created(incident)
        return incident

    def change(self, event: Record) -> Record:
        services = [_reference(self.store.first("/services"))]
        change = {"links": event.get("links", []), "services": services}
        payload = _payload(event, "summary")
        try:
            self.store.add("/change_events", {**payload, **change})
        except ValueError:
            _demand(False, "'payload.timestamp' is no time")
        return {"message": "Change event processed"}


# ---------------------------------------------------------------------------
# OAuth
# ---------------------------------------------------------------------------


def _oauth_error(error: str, description: str, status: int = 400) -> _ApiError:
    """What an authorization server says (RFC 6749, 5.2)."""
    content = {"error": error, "error_description": description}
    return _ApiError(status, content)


class _OAuth:
    """Gives out tokens. Any client is good, and every user consents."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.life: float = TOKEN_LIFE
        self.granted: Optional[Iterable[str]] = None
        self.routes = {
            "/oauth/authorize": ("GET", self.authorize),
            "/oauth/token": ("POST", self.token),
        }
        self._numbers = itertools.count(1)
        # When access tokens end; what codes and refresh tokens are for.
        self._ends: Dict[str, float] = {}
        self._codes: Dict[str, Tuple[float, Dict[str, str]]] = {}
        self._consents: Dict[str, Dict[str, str]] = {}

    def answer(self, request: Request) -> Answer:
        method, serve = self.routes[request.path]
        if request.method != method:
            raise _error(405)
        pairs = request.query
        if method == "POST":
            pairs = parse_qsl(request.body.decode("latin-1"))
        asked = dict(pairs)
        if not asked.get("client_id"):
            raise _oauth_error("invalid_client", "client_id is missing", 401)
        return 200, serve(asked)

    def check(self, key: str) -> None:
        """Refuse an access token that has ended."""
        if key in self._ends and self.clock() >= self._ends[key]:
            raise _error(401, "The access token has ended or was revoked")

    def revoke(self) -> None:
        self._ends = dict.fromkeys(self._ends, -math.inf)

    def _new(self, kind: str) -> str:
        return f"sandbox+{kind}_{next(self._numbers)}"

    def authorize(self, asked: Dict[str, str]) -> None:
        """Send the browser back, with a code."""
        is_right = (
            asked.get("response_type") == "code"
            and asked.get("redirect_uri")
            and asked.get("code_challenge_method") == "S256"
            and asked.get("code_challenge")
        )
        if not is_right:
            raise _oauth_error("invalid_request", "A parameter is missing")
        code = self._new("code")
        self._codes[code] = (self.clock() + CODE_LIFE, asked)
        query = {"code": code, "state": asked.get("state", "")}
        there = _ApiError(302, {})
        there.headers["location"] = (
            f"{asked['redirect_uri']}?{urlencode(query)}"
        )
        raise there

    def token(self, asked: Dict[str, str]) -> Record:
        if not asked.get("client_secret"):
            raise _oauth_error("invalid_client", "A secret is missing", 401)
        grants = {
            "client_credentials": self._app,
            "authorization_code": self._redeem,
            "refresh_token": self._refresh,
        }
        grant = grants.get(asked.get("grant_type", ""))
        if grant is None:
            raise _oauth_error("unsupported_grant_type", "It is unknown")
        return grant(asked)

    def _app(self, asked: Dict[str, str]) -> Record:
        scope = asked.get("scope", "")
        if not re.match(r"as_account-(us|eu)\.[\w-]+( |\Z)", scope):
            raise _oauth_error("invalid_request", "Invalid scope")
        return self._access(scope)

    def _redeem(self, asked: Dict[str, str]) -> Record:
        end, consent = self._codes.pop(asked.get("code", ""), (-math.inf, {}))
        verifier = asked.get("code_verifier", "").encode("ascii", "replace")
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier).digest())
        names = ("client_id", "redirect_uri")
        if (
            self.clock() >= end
            or digest.decode("ascii").rstrip("=") != consent["code_challenge"]
            or [asked.get(n) for n in names] != [consent[n] for n in names]
        ):
            raise _oauth_error("invalid_grant", "The code is not good")
        return self._user(consent)

    def _refresh(self, asked: Dict[str, str]) -> Record:
        consent = self._consents.pop(asked.get("refresh_token", ""), {})
        if consent.get("client_id") != asked["client_id"]:
            raise _oauth_error("invalid_grant", "It is used up or unknown")
        return self._user(consent)

    def _user(self, consent: Dict[str, str]) -> Record:
        """Tokens of a user; the refresh token is a new one each time."""
        refresh = self._new("refresh")
        self._consents[refresh] = consent
        access = self._access(consent.get("scope", ""))
        return {**access, "refresh_token": refresh}

    def _access(self, scope: str) -> Record:
        access = self._new("access")
        self._ends[access] = self.clock() + self.life
        if self.granted is not None:
            granted = set(self.granted)
            scope = " ".join(
                s
                for s in scope.split()
                if s in granted or s.startswith("as_account-")
            )
        return {
            "access_token": access,
            "token_type": "bearer",
            "scope": scope,
            "expires_in": self.life,
        }


# ---------------------------------------------------------------------------
# The sandbox
# ---------------------------------------------------------------------------


class Sandbox:
    """A PagerDuty-like API, for as long as the ``with`` block lasts.

    Without ``with``, call :meth:`start` and :meth:`stop`. Any thread may
    call anything.

    :param port: TCP port on 127.0.0.1; 0: a free one
    :param users: how many users there are from the start
    :param latency: seconds before each answer
    :param rate_limit: requests of a key in a minute, beyond which the REST
        API answers 429; None: no limit
    :param clock: tells the seconds of the rate limit's minutes, and of the
        life of tokens
    :param since: ``"inclusive"`` or ``"exclusive"``: is a record whose time
        is that of ``since`` in the period?
    :param until: the same for ``until``. Where records last, as on-call
        shifts do, it is about their beginning.
    :param resolution: ``"seconds"`` or ``"milliseconds"``: how exactly times
        are compared. Both ends are rounded down to it, and so are the times
        of records, which are known more exactly than most are rendered.
    :param scim_page_size: users that a page of SCIM holds at most, however
        many are asked for
    :param order: of the historical lists, where the request does not say
        it: ``"added"``, the order in which records were added, ``"oldest"``
        or ``"newest"`` first. Audit records come newest first in any case.
    :raises ValueError: a setting is impossible

    PagerDuty does not document what ``since``, ``until``, ``resolution`` and
    ``order`` are about. A program that
    relies on none of it has the same results with all of them.
    """

    def __init__(
        self,
        port: int = 0,
        users: int = 0,
        latency: float = 0.0,
        rate_limit: Optional[int] = None,
        clock: Callable[[], float] = time.monotonic,
        since: str = "inclusive",
        until: str = "inclusive",
        resolution: str = "seconds",
        order: str = "added",
        scim_page_size: int = SCIM_PAGE_SIZE,
    ) -> None:
        least = 1 if rate_limit is None else rate_limit
        if min(port, users, latency) < 0 or min(least, scim_page_size) < 1:
            raise ValueError("No number may be negative, nor a limit 0.")
        self.port = port
        self.latency = latency
        self.rate_limit = rate_limit
        self._users = users
        self._clock = clock
        self._lock = threading.RLock()
        self._store = _Store()
        lists = _Lists(_Meaning(since, until, resolution, order))
        self._webhooks = _Webhooks(self._store)
        self._rest = _RestAPI(self._store, lists, self._webhooks)
        self._scim = _ScimAPI(self._store, scim_page_size)
        self._integrations = _IntegrationsAPI(
            self._store, lists, self._webhooks
        )
        self._events = _EventsAPI(self._store, self._webhooks)
        self._oauth = _OAuth(clock)
        # "drop" or an error, and the path of the requests that it strikes.
        self._faults: List[Tuple[Any, Optional[str]]] = []
        self._requests: Any = collections.deque(maxlen=REQUESTS_KEPT)
        self._stopping = threading.Event()
        self._server: Optional[_Server] = None
        # Of each key: when its minute began, its requests since then.
        self._minutes: Dict[str, Tuple[float, int]] = {}

    def start(self) -> "Sandbox":
        """Serve, in threads of the background.

        :raises OSError: the port is taken
        """
        self._stopping.clear()
        self._server = _Server(self.port, self._respond)
        self.port = self._server.server_address[1]
        self._store.url = self.url
        self.add("users", self._users)
        self._users = 0  # They are still there if it is started again.
        return self

    def stop(self) -> None:
        """End all connections and threads, if there are any.

        In a fork they are the parent's, and go on.
        """
        server = self._server
        if server is not None and server.process != os.getpid():
            # The threads are not here, a lock that one of them held at the
            # fork would never be released, and to end a connection would end
            # that of the parent.
            server.server_close()
            return
        self._stopping.set()
        if server is not None:
            server.stop()
        self._webhooks.stop()

    __enter__ = start

    def __exit__(self, *exc_info: Any) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Base URL of both APIs.

        :raises RuntimeError: there is none before the start
        """
        if not self.port:
            raise RuntimeError("The sandbox has not been started.")
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> List[Request]:
        """The requests that were received: the last 10 000."""
        with self._lock:
            return list(self._requests)

    def clear(self) -> None:
        """Forget requests and faults. Records stay."""
        with self._lock:
            self._requests.clear()
            self._faults.clear()

    def add(
        self,
        collection: str,
        count: Union[int, Iterable[Record]] = 1,
        **properties: Any,
    ) -> List[Record]:
        """Add plausible records.

        The time of a record may be given, in ISO 8601 and with fractions of
        a second, in the field by which its list knows it: ``created_at``,
        in ``/notifications`` ``started_at``, in ``/change_events``
        ``timestamp``, in ``/audit/records`` ``execution_time``. Otherwise
        it is now.

        :param collection: such as ``users`` or ``users/PABC123/sessions``
        :param count: how many; or an iterable of their own properties, which
            is read little by little, while requests are answered
        :param properties: JSON values that each of them is to have
        :returns: copies of the records
        :raises URLError: the API has no such path
        :raises ValueError: the time of a record is none
        """
        path, added = "/" + collection.strip("/"), []
        kind = _kind(path)
        pdpyras.canonical_path(self.url, path)
        common = _copied(properties)
        own = itertools.repeat({}, count) if isinstance(count, int) else count
        source = iter(own)
        while True:
            some = _copied(list(itertools.islice(source, 1000)))
            with self._lock:
                first = len(self._store.collection(path))
                contents = [
                    {**_named(kind, n), **common, **properties}
                    for n, properties in enumerate(some, first)
                ]
                # Records are JSON, which marshal copies the fastest.
                records = self._store.add_all(path, contents)
                added += marshal.loads(marshal.dumps(records, 2))
            if not some:
                return added

    def fail(
        self,
        status: int,
        reset: Optional[float] = None,
        times: int = 1,
        path: Optional[str] = None,
    ) -> None:
        """Let requests fail, without effect.

        :param status: HTTP status of the answers
        :param reset: seconds for the header ``ratelimit-reset``
        :param times: how many of the next requests
        :param path: only those of this path or endpoint, such as
            ``/users/{id}``
        """
        error = _error(status)
        if reset is not None:
            error.headers["ratelimit-reset"] = reset
        self._plan(error, times, path)

    def drop(self, times: int = 1, path: Optional[str] = None) -> None:
        """Let connections break in mid-answer, after the effect.

        :param times: how many of the next requests
        :param path: only those of this path or endpoint
        """
        self._plan("drop", times, path)

    def grant(
        self,
        life: float = TOKEN_LIFE,
        scopes: Optional[Iterable[str]] = None,
    ) -> None:
        """Say what the next OAuth tokens are like.

        :param life: seconds, of access tokens
        :param scopes: those that are granted at most; None: all asked for
        """
        with self._lock:
            self._oauth.life = life
            self._oauth.granted = None if scopes is None else tuple(scopes)

    def revoke_tokens(self) -> None:
        """Let all OAuth access tokens end now. Refresh tokens stay good."""
        with self._lock:
            self._oauth.revoke()

    def webhook(
        self,
        url: str,
        secret: Union[str, Iterable[str]],
        twice: bool = False,
    ) -> Webhook:
        """Deliver what happens to incidents and services from now on.

        A change by the REST API or by an event is delivered, signed, to the
        URL; records that :meth:`add` makes are not. What is about the same
        incident is delivered in its order. An answer is due within 5
        seconds. Without one, and after 429 and 5xx, a delivery is tried
        again: three times within 12 seconds in all. After any other answer
        it is not.

        ``POST /webhook_subscriptions`` makes webhooks, too. These are sent
        to this computer only, whatever their URL is.

        :param url: of the receiver, http or https
        :param secret: one or, as while it is being changed, several, of
            which each signs
        :param twice: deliver each event twice, as may happen: a receiver
            has to tell by ``X-Webhook-Id``
        :raises ValueError: the URL is none, or there is no secret
        :raises RuntimeError: the sandbox has not been started
        """
        secrets = _checked_secrets(secret)
        content: Record = {
            "delivery_method": {
                "type": "http_delivery_method",
                "url": _webhook_url(url),
            },
            "events": _EVENTS,
            "filter": {"type": "account_reference"},
        }
        with self._lock:
            self._store.url = self.url
            return self._webhooks.subscribe(
                content, secrets, twice=twice, is_local=False
            )

    @property
    def webhooks(self) -> List[Webhook]:
        """All webhooks, those of the REST API as well."""
        with self._lock:
            return list(self._webhooks.webhooks.values())

    def _plan(self, fault: Any, times: int, path: Optional[str]) -> None:
        path = path and "/" + path.strip("/")
        with self._lock:
            self._faults += [(fault, path)] * times

    # -- Answering ----------------------------------------------------------

    def _respond(self, request: Request) -> Tuple[bytes, bool]:
        """What to send, and whether to break the connection in it."""
        self._stopping.wait(self.latency)
        try:
            request.endpoint = pdpyras.canonical_path(self.url, request.path)
        except pdpyras.URLError:
            pass  # there is nothing, or it is of the Events API
        with self._lock:
            self._requests.append(request)
            fault = self._next_fault(request)
            headers: Dict[str, Any] = {}
            try:
                if isinstance(fault, _ApiError):
                    # Not raised: its traceback would grow each time.
                    answer = fault.answer
                    headers.update(fault.headers)
                elif request.path in self._events.routes:
                    answer = self._events.answer(request)
                elif request.path in self._oauth.routes:
                    answer = self._oauth.answer(request)
                else:
                    self._oauth.check(_key(request))
                    self._count(_key(request), headers)
                    answer = self._api_of(request.path).answer(request)
            except _ApiError as error:
                answer = error.answer
                headers.update(error.headers)
            except Exception as mistake:  # of this module
                traceback.print_exc()
                answer = _error(500, repr(mistake)).answer
            if request.path.startswith(_SCIM) and answer[1] is not None:
                headers["content-type"] = "application/scim+json"
            answer = _restyled(request.path, answer)
            return _encoded(answer, headers), fault == "drop"

    def _api_of(self, path: str) -> Union[_RestAPI, _ScimAPI]:
        """Who serves the requests that need a key."""
        if path.startswith(_SCIM):
            return self._scim
        if path.startswith("/integration-"):
            return self._integrations
        return self._rest

    def _next_fault(self, request: Request) -> Any:
        for number, (fault, path) in enumerate(self._faults):
            if path in (None, request.path, request.endpoint):
                del self._faults[number]
                return fault
        return None

    def _count(self, key: str, headers: Dict[str, Any]) -> None:
        """Count a request of this key, and tell so in the headers."""
        now = self._clock()
        start, used = self._minutes.get(key, (now, 0))
        if now - start >= 60:
            start, used = now, 0
        limit, used = self.rate_limit, used + 1
        self._minutes[key] = (start, used)
        if limit is None:
            limit, used = USUAL_RATE_LIMIT, 0
        headers["ratelimit-limit"] = limit
        headers["ratelimit-remaining"] = max(0, limit - used)
        # The difference of floats may be a little more than 60.
        headers["ratelimit-reset"] = min(
            60, max(0, math.ceil(start + 60 - now))
        )
        if used > limit:
            raise _error(429)


# ---------------------------------------------------------------------------
# HTTP
# ---------------------------------------------------------------------------

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_REQUEST_LINE = re.compile(r"([!-~]+) ([!-~\x80-\xff]+) HTTP/1\.([01])")
_FIELD = re.compile(r"([\w!#$%&'*+.^`|~-]+):[ \t]*([^\r\n\0]*)", re.ASCII)


def _read_line(rfile: Any) -> str:
    """A line of a request's head, without its end; empty: the head's end.

    :raises ConnectionError: the client has left
    """
    line: bytes = rfile.readline(HEAD_LINE_LIMIT + 1)
    if len(line) > HEAD_LINE_LIMIT:
        raise _error(431)
    if not line.endswith(b"\n"):
        raise ConnectionError("The client has left.")
    return re.sub(r"\r?\n\Z", "", line.decode("latin-1"))


def _read_fields(rfile: Any) -> HTTPMessage:
    """The fields of a request's head.

    A field that is malformed refuses the request, as somebody in between may
    have read a length in it (RFC 9112, sections 5 and 11.2).
    """
    fields = HTTPMessage()
    for line in iter(lambda: _read_line(rfile), ""):
        match = _FIELD.fullmatch(line)
        if match is None:
            raise _error(400, "A header is malformed")
        if len(fields) == FIELD_LIMIT:
            raise _error(431)
        fields[match.group(1)] = match.group(2).rstrip(" \t")
    return fields


def _body_size(fields: HTTPMessage) -> int:
    """How many bytes of body follow."""
    sizes = fields.get_all("content-length", [])
    if "transfer-encoding" in fields:
        raise _error(400 if sizes else 411, "Content-Length must say it all")
    if not sizes:
        return 0
    if len(sizes) > 1 or not re.fullmatch("[0-9]{1,18}", sizes[0]):
        raise _error(400, "Content-Length must be one number")
    if int(sizes[0]) > BODY_SIZE_LIMIT:
        raise _error(413, f"At most {BODY_SIZE_LIMIT} bytes")
    return int(sizes[0])


def _check_origin(target: str, fields: HTTPMessage, port: int) -> None:
    """Refuse what a page in a browser could send, be it by a name of its
    own that it lets point to this machine ("DNS rebinding")."""
    own = {f"127.0.0.1:{port}", f"localhost:{port}"}
    own.update(("127.0.0.1", "localhost") if port == 80 else ())
    hosts = fields.get_all("host", [])
    if len(hosts) != 1:
        raise _error(400, "There must be one Host")
    named = urlsplit(target).netloc or hosts[0]
    if not {named.lower(), hosts[0].lower()} <= own:
        raise _error(421, f"Host must be {' or '.join(sorted(own))}")
    if "origin" in fields:
        raise _error(403, "No page of a browser is served")


class _Handler(socketserver.StreamRequestHandler):
    """One connection."""

    server: "_Server"

    def handle(self) -> None:
        try:
            while self._exchange():
                pass
        except OSError:
            pass  # the client has left, or the sandbox stops

    def _exchange(self) -> bool:
        """Receive a request, and answer it. May another one follow?"""
        try:
            request, may_follow = self._receive()
        except _ApiError as error:
            self._refuse(error)
            return False
        data, is_broken = self.server.respond(request)
        if is_broken:
            self._break(data)
            return False
        self.connection.sendall(data)
        return may_follow

    def _receive(self) -> Tuple[Request, bool]:
        """A request, and whether another one may follow.

        :raises _ApiError: it is none. Where it ends is then unknown: what
            comes behind it must not be taken for the next one.
        """
        line = _read_line(self.rfile) or _read_line(self.rfile)
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise _error(400, "This is no request of HTTP/1.1")
        method, target, version = match.groups()
        fields = _read_fields(self.rfile)
        size = _body_size(fields)
        try:
            _check_origin(target, fields, self.server.server_address[1])
            request = Request(method, target, fields, b"")
        except ValueError:
            raise _error(400, "The target is no URL") from None
        if method not in _METHODS:
            raise _error(501)
        if size and (fields["expect"] or "").lower() == "100-continue":
            self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.body = self.rfile.read(size)
        if len(request.body) < size:
            raise ConnectionError("The client has left in mid-request.")
        options = (fields["connection"] or "").lower()
        return request, "close" not in options and (
            version == "1" or "keep-alive" in options
        )

    def _refuse(self, error: _ApiError) -> None:
        """Answer, and end the connection."""
        headers = {**error.headers, "connection": "close"}
        self.connection.sendall(_encoded(error.answer, headers))
        self.connection.shutdown(socket.SHUT_WR)
        # What still comes is thrown away for a while. If it were not, the
        # kernel would reset the connection, and the answer might be lost.
        self.connection.settimeout(1)
        end = _monotonic() + 5
        while self.connection.recv(65536) and _monotonic() < end:
            pass

    def _break(self, data: bytes) -> None:
        """Reset the connection. An orderly end would not do: some clients
        take it for the end of the answer."""
        self.connection.sendall(data[: len(data) // 2])
        no_linger = (socket.SOL_SOCKET, socket.SO_LINGER)
        self.connection.setsockopt(*no_linger, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Accepts connections, and gives each a thread."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, respond: Callable[[Request], Any]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.respond = respond
        self.process = os.getpid()
        self.connections: Dict[threading.Thread, Any] = {}
        # It looks every 20 milliseconds whether it is to end.
        self.acceptor = _started(self.serve_forever, 0.02)

    def process_request(self, request: Any, client_address: Any) -> None:
        threads = [t for t in self.connections if t.is_alive()]
        self.connections = {t: self.connections[t] for t in threads}
        thread = _started(self.process_request_thread, request, client_address)
        self.connections[thread] = request

    def stop(self) -> None:
        self.shutdown()
        self.acceptor.join()
        self.server_close()
        for thread, connection in self.connections.items():
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended already
            thread.join()


def _started(function: Callable[..., None], *args: Any) -> threading.Thread:
    """A new thread, which does not outlive the program."""
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


# ---------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------


def main(arguments: Optional[List[str]] = None) -> int:
    """Serve until Ctrl-C.

    :param arguments: those of the command line
    :returns: exit status
    """
    parser = argparse.ArgumentParser(
        prog="python -m pdpyras_sandbox",
        description="A PagerDuty-like API on loopback. Any key is good.",
    )
    parser.add_argument("--port", type=int, default=0, metavar="N")
    parser.add_argument("--users", type=int, default=50, metavar="N")
    parser.add_argument("--latency", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--rate-limit", type=int, metavar="PER_MINUTE")
    parser.add_argument(
        "--scim-page-size", type=int, default=SCIM_PAGE_SIZE, metavar="N"
    )
    for name, choice in _MEANINGS.items():
        parser.add_argument(f"--{name}", choices=choice, default=choice[0])
    options = vars(parser.parse_args(arguments))
    try:
        box = Sandbox(**options)
    except ValueError as error:
        parser.error(str(error))
    end = threading.Event()
    signal.signal(signal.SIGINT, lambda *args: end.set())
    try:
        box.start()
    except (OSError, OverflowError) as error:
        parser.exit(1, f"Port {box.port} cannot be had: {error}\n")
    print(f"REST API:   {box.url}\nEvents API: {box.url}")
    print("\nTo paste into Python:\n")
    print("import pdpyras; session = pdpyras.APISession('any-key')")
    print(f"session.url = '{box.url}'")
    print("\nCtrl-C ends it.", flush=True)
    while not end.wait(1):  # without a timeout, deaf to Ctrl-C on Windows
        pass
    box.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
