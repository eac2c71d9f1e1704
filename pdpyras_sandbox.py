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

It listens on 127.0.0.1 only, and serves no page of a browser: a request with
the header ``Origin``, or for another ``Host``, is refused.

From a shell, ``python -m pdpyras_sandbox`` serves until Ctrl-C.
"""

import argparse
import collections
import json
import math
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
from datetime import datetime, timezone
from http.client import HTTPMessage
from http.client import responses as reasons
from typing import Any, Callable, DefaultDict, Dict, List, Optional, Tuple
from urllib.parse import parse_qsl, unquote, urlsplit

import pdpyras

__all__ = ["Request", "Sandbox"]

Record = Dict[str, Any]
Answer = Tuple[int, Any]  # status, and content of the body; None: no body

DEFAULT_LIMIT = 25  # records a page, unless the client says
MULTI_UPDATE_LIMIT = 250  # records
EVENT_SIZE_LIMIT = 512 * 1024  # bytes
SUMMARY_LIMIT = 1024  # characters
USUAL_RATE_LIMIT = 960  # requests a minute
BODY_SIZE_LIMIT = 1024 * 1024  # bytes
HEAD_LINE_LIMIT = 65536  # bytes
FIELD_LIMIT = 100  # headers of a request
REQUESTS_KEPT = 10000
WEB_URL = "https://pdpyras-sandbox.pagerduty.com"


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
        self.path = "/" + unquote(parts.path).strip("/")
        self.query = parse_qsl(parts.query, keep_blank_values=True)
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


def _error(status: int, *errors: str) -> _ApiError:
    """PagerDuty's error body, with its own codes."""
    code = {400: 2001, 401: 2006, 404: 2100, 429: 2020}.get(status, 2000)
    error: Record = {"message": reasons.get(status, "Unknown"), "code": code}
    if errors:
        error["errors"] = errors
    return _ApiError(status, {"error": error})


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
        lines.append("content-type: application/json; charset=utf-8")
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


# ---------------------------------------------------------------------------
# Records
# ---------------------------------------------------------------------------

_FIRST = """Alice Bob Carol Dan Dave David Erin Frank Grace Heidi Ivan Jane
    Karim Lena Mallory Niaj Olivia Peggy Rupert Sybil""".split()  # noqa: SIM905
_LAST = """Abara Berg Castillo Doe Eriksen Fontaine Gupta Haas Ito Jansen
    Lopez Moreau Novak Okafor Patel Quinn Rossi Schmidt Tanaka""".split()  # noqa: SIM905

# What a record has unless it is said otherwise.
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
        series, n = divmod(n, len(_FIRST) * len(_LAST))
        first, last = _FIRST[n % len(_FIRST)], _LAST[n // len(_FIRST)]
        email = f"{first}.{last}{series or ''}@example.com".lower()
        return {"name": f"{first} {last}", "email": email}
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


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _copied(value: Any) -> Any:
    return json.loads(json.dumps(value))


_STATUS_OF_ACTION = {
    "trigger": "triggered",
    "acknowledge": "acknowledged",
    "resolve": "resolved",
}


def _check_status(status: Any) -> None:
    if status not in _STATUS_OF_ACTION.values():
        raise _error(400, f"Status {status!r} is none of an incident")


class _Store:
    """All records: path of the collection -> id -> record."""

    def __init__(self) -> None:
        self.url = ""
        self.collections: DefaultDict[str, Dict[str, Record]]
        self.collections = collections.defaultdict(dict)
        self._ids = 0

    def all(self, path: str) -> List[Record]:
        return list(self.collections[path].values())

    def find(self, path: str) -> Record:
        """The record at a path such as ``/users/PABC123``."""
        collection, _, record_id = path.rpartition("/")
        if record_id not in self.collections[collection]:
            raise _error(404)
        return self.collections[collection][record_id]

    def first(self, path: str) -> Record:
        """The first record of a collection; made if there is none."""
        return (self.all(path) or [self.add(path, _named(_kind(path), 0))])[0]

    def user(self, email: Any) -> Optional[Record]:
        """The user with this e-mail."""
        for user in self.all("/users"):
            if user["email"].lower() == str(email).lower():
                return user
        return None

    def add(self, path: str, content: Record) -> Record:
        """Complete ``content`` to a record, and keep it."""
        self._ids += 1  # the factor is odd, so that no id comes twice
        new_id = f"P{self._ids * 7654321 % 16**6:06X}"
        record_id = content.get("id", new_id)
        record = {
            "id": record_id,
            "type": _kind(path),
            "self": f"{self.url}{path}/{record_id}",
            "html_url": f"{WEB_URL}{path}/{record_id}",
            "created_at": _now(),
            **_copied(_DEFAULTS.get(_kind(path), {})),
            **content,
        }
        if path == "/incidents":
            self._complete_incident(record)
        record["summary"] = _summary(record)
        self.collections[path][record_id] = record
        return record

    def _complete_incident(self, incident: Record) -> None:
        number = len(self.collections["/incidents"])
        incident["incident_number"] = number + 1
        incident.setdefault("incident_key", uuid.uuid4().hex)
        incident.setdefault("service", _reference(self.first("/services")))
        users = self.all("/users")
        if users:
            assignee = _reference(users[number % len(users)])
            incident.setdefault("assignments", [{"assignee": assignee}])
        self.set_status(incident, incident["status"], None)

    def set_status(self, incident: Record, status: Any, actor: Any) -> None:
        """Change the status of an incident, and what follows from it."""
        _check_status(status)
        incident["status"] = status
        incident["last_status_change_at"] = _now()
        incident["last_status_change_by"] = actor
        incident["acknowledgements"] = []
        incident["resolved_at"] = None
        if status == "acknowledged":
            acknowledgement = {"at": _now(), "acknowledger": actor}
            incident["acknowledgements"].append(acknowledgement)
        if status == "resolved":
            incident["resolved_at"] = _now()
            for alert in self.all(f"/incidents/{incident['id']}/alerts"):
                alert["status"] = status


# ---------------------------------------------------------------------------
# Filters and pages
# ---------------------------------------------------------------------------

# Who acknowledged an incident is not thereby one that it is assigned to.
_BYLINES = ("last_status_change_by", "acknowledgements")


def _mentions(value: Any, ids: List[str]) -> bool:
    """Does it hold one of these ids, at any depth?"""
    if isinstance(value, list):
        return any(_mentions(item, ids) for item in value)
    if isinstance(value, dict):
        rest = [value[name] for name in value if name not in _BYLINES]
        return value.get("id") in ids or _mentions(rest, ids)
    return False


def _passes(record: Record, name: str, values: List[str]) -> bool:
    """Does a record pass the filter that a query parameter is?"""
    if name == "query":
        text = f"{record['summary']}\n{record.get('email')}"
        return values[-1].lower() in text.lower()
    if name.endswith("_ids[]"):
        return _mentions(record, values)
    if name in ("since", "until") and record["type"] == "incident":
        created_at = str(record.get("created_at", values[-1]))
        is_later = created_at >= values[-1]
        return is_later if name == "since" else not is_later
    if name.endswith("[]"):
        name = pdpyras.singular_name(name[:-2])
    if name not in record or name == "time_zone":  # no filter
        return True
    return str(record[name]).lower() in [value.lower() for value in values]


def _number(asked: Dict[str, str], name: str, default: int) -> int:
    value = asked.get(name) or str(default)
    if not re.fullmatch(r"\d+", value):
        raise _error(400, f"{name} {value!r} is no number")
    return int(value)


def _page(records: List[Record], request: Request, operation: Any) -> Record:
    """The body with the records that are asked for."""
    asked = dict(request.query)
    for name in asked:
        values = [value for other, value in request.query if other == name]
        records = [r for r in records if _passes(r, name, values)]
    style = operation.pagination
    if not style:
        return {operation.response: records}
    limit = max(1, _number(asked, "limit", DEFAULT_LIMIT))
    limit = min(limit, operation.max_limit)
    start = _number(asked, style, 0)  # a cursor is an offset in disguise
    end = start + limit
    more = end < len(records)
    page = {operation.response: records[start:end], "limit": limit}
    if style != "offset":
        following = "next_cursor" if style == "cursor" else style
        return {**page, following: str(end) if more else None}
    if end > pdpyras.ITERATION_LIMIT:
        raise _error(400, "offset + limit must not exceed 10000")
    total = len(records) if asked.get("total") == "true" else None
    return {**page, "offset": start, "more": more, "total": total}


def _page_after(records: List[Record], asked: Record) -> Record:
    """The same, where the request's body says behind which record."""
    ids = [record["id"] for record in records]
    last = asked.get("starting_after")
    start = ids.index(last) + 1 if last in ids else 0
    end = start + int(asked.get("limit", 100))
    data = records[start:end]
    return {
        "data": data,
        "first": data[0]["id"] if data else None,
        "last": data[-1]["id"] if data else None,
        "more": end < len(records),
    }


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


def _writable(content: Record) -> Record:
    """The properties that a client may set."""
    writable = {n: v for n, v in content.items() if n not in _FIXED}
    if str(content.get("type")).endswith("_reference"):
        del writable["type"]
    return writable


class _RestAPI:
    """Serves collections and their records, and a few endpoints that are
    like no others."""

    def __init__(self, store: _Store) -> None:
        self.store = store
        # By method and endpoint, or else by method and what there is.
        self.routes: Dict[str, Callable[[Request, Any], Any]] = {
            "GET /users/me": self.me,
            "PUT /incidents": self.update,
            "PUT /incidents/{id}/alerts": self.update,
            "POST /schedules/{id}/overrides": self.override,
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
            records = self.store.all(request.path)
            return 200, _page(records, request, operation)
        content = None
        if method in ("POST", "PUT", "PATCH"):
            content = _content(request, operation.request)
        serve = self.routes.get(f"{method} {place}", self.act)
        serve = self.routes.get(f"{method} {endpoint}", serve)
        content = serve(request, content)
        if method == "DELETE":
            return 204, None
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
        if errors:
            raise _error(400, *errors)

    def read(self, request: Request, content: None) -> Record:
        return self.store.find(request.path)

    def update(self, request: Request, content: Any) -> Any:
        """A record, or several of a collection: all of them or none."""
        if not isinstance(content, list):
            record = self.store.find(request.path)
            self._check(request.path.rpartition("/")[0], content, record)
            return self._update(request, record, content)
        if len(content) > MULTI_UPDATE_LIMIT:
            raise _error(413, f"At most {MULTI_UPDATE_LIMIT} at a time")
        paths = [f"{request.path}/{item.get('id')}" for item in content]
        pairs = list(zip([self.store.find(path) for path in paths], content))
        for record, item in pairs:
            self._check(request.path, item, record)
        return [self._update(request, record, item) for record, item in pairs]

    def _update(
        self, request: Request, record: Record, content: Record
    ) -> Record:
        content = _writable(content)
        status = content.get("status", record.get("status"))
        if record["type"] == "incident" and status != record["status"]:
            user = self.store.user(request.headers["from"])
            actor = _reference(user or self.store.first("/users"))
            self.store.set_status(record, status, actor)
        record.update(content)
        record["summary"] = _summary(record)
        return record

    def delete(self, request: Request, content: None) -> None:
        record = self.store.find(request.path)
        collection = request.path.rpartition("/")[0]
        del self.store.collections[collection][record["id"]]

    def clear(self, request: Request, content: None) -> None:
        self.store.collections[request.path].clear()

    # -- Everything else ----------------------------------------------------

    def recall(self, request: Request, content: None) -> Any:
        """What was last sent there."""
        return self.store.collections[request.path].get("", {})

    def act(self, request: Request, content: Any) -> Any:
        """Answer with the record that is acted on, as ``/incidents/{id}``
        is by ``/incidents/{id}/merge``, or else with what was sent."""
        endpoint = str(request.endpoint)
        wrapper = pdpyras.entity_wrappers(request.method, endpoint)[1]
        owner = pdpyras._operation("GET", endpoint.rpartition("/")[0])
        if owner and owner.response == wrapper:
            return self.store.find(request.path.rpartition("/")[0])
        if endpoint.startswith("/analytics/raw/"):
            records = self.store.all(request.path)
            return {**content, **_page_after(records, content)}
        if endpoint.startswith("/analytics/"):
            return {**content, "data": self.store.all(request.path)}
        self.store.collections[request.path][""] = content
        return content

    def me(self, request: Request, content: None) -> Record:
        if _key(request).startswith("account"):
            message = "There is no user of an account-level access token."
            raise _ApiError(400, {"error": message})
        return self.store.first("/users")

    def override(self, request: Request, content: Any) -> List[Record]:
        """Judge each by itself. Times are compared as texts, which is right
        within one time zone."""
        results: List[Record] = []
        for item in _listed(content):
            if str(item.get("start")) < str(item.get("end")):
                override = self._create(request.path, item)
                results.append({"status": 201, "override": override})
            else:
                errors = ["Override must end after its start"]
                result = {"status": 400, "errors": errors, "override": item}
                results.append(result)
        return results


# ---------------------------------------------------------------------------
# The Events API
# ---------------------------------------------------------------------------

_SEVERITIES = ("critical", "error", "warning", "info")


def _demand(condition: Any, complaint: str) -> None:
    """Refuse the event unless the condition holds."""
    if not condition:
        body = {"status": "invalid event", "errors": [complaint]}
        raise _ApiError(400, {**body, "message": "Event object is invalid"})


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

    def __init__(self, store: _Store) -> None:
        self.store = store
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
        except ValueError:
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
        key = (str(event["routing_key"]), str(dedup_key))
        incident = self.incidents.get(key, {"status": "resolved"})
        is_open = incident["status"] != "resolved"
        if action == "trigger" and not is_open:
            self.incidents[key] = self._open(key[1], event["payload"])
        if action != "trigger" and is_open:
            status = _STATUS_OF_ACTION[str(action)]
            self.store.set_status(incident, status, None)
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
        return incident

    def change(self, event: Record) -> Record:
        services = [_reference(self.store.first("/services"))]
        change = {"links": event.get("links", []), "services": services}
        payload = _payload(event, "summary")
        self.store.add("/change_events", {**payload, **change})
        return {"message": "Change event processed"}


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
    :param clock: tells the seconds of the rate limit's minutes
    """

    def __init__(
        self,
        port: int = 0,
        users: int = 0,
        latency: float = 0.0,
        rate_limit: Optional[int] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        least = 1 if rate_limit is None else rate_limit
        if min(port, users, latency) < 0 or least < 1:
            raise ValueError("No number may be negative, nor the limit 0.")
        self.port = port
        self.latency = latency
        self.rate_limit = rate_limit
        self._users = users
        self._clock = clock
        self._lock = threading.RLock()
        self._store = _Store()
        self._rest = _RestAPI(self._store)
        self._events = _EventsAPI(self._store)
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
        """End all connections and threads, if there are any."""
        self._stopping.set()
        if self._server is not None:
            self._server.stop()

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
        self, collection: str, count: int = 1, **properties: Any
    ) -> List[Record]:
        """Add plausible records.

        :param collection: such as ``users`` or ``users/PABC123/sessions``
        :param count: how many
        :param properties: JSON values that each of them is to have
        :returns: copies of the records
        :raises URLError: the API has no such path
        """
        path, added = "/" + collection.strip("/"), []
        pdpyras.canonical_path(self.url, path)
        with self._lock:
            first = len(self._store.collections[path])
            for n in range(first, first + count):
                content = {**_named(_kind(path), n), **_copied(properties)}
                added.append(_copied(self._store.add(path, content)))
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
                else:
                    self._count(_key(request), headers)
                    answer = self._rest.answer(request)
            except _ApiError as error:
                answer = error.answer
                headers.update(error.headers)
            except Exception as mistake:  # of this module
                traceback.print_exc()
                answer = _error(500, repr(mistake)).answer
            return _encoded(answer, headers), fault == "drop"

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
        end = time.monotonic() + 5
        while self.connection.recv(65536) and time.monotonic() < end:
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
