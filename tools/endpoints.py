#!/usr/bin/env python3
"""Derive the endpoint table of ``pdpyras.py`` from PagerDuty's API documents.

    python3 tools/endpoints.py rest.json scim.json integration-*.json

prints the table, which the documents make together; with ``--check`` it is
compared with that of the module, and with ``--write`` it replaces it.

The table is the literal that ``pdpyras.py`` holds as ``_ENDPOINTS``, between
the marks ``# fmt: off`` and ``# fmt: on``. Behind it, between marks of its
own, stands ``_LIST_PARAMS``: the query parameters that the documents spell
with ``[]`` wherever they occur. ``--check`` and ``--write`` say row by row,
and name by name, what was added, what is gone and what changed. ``--write``
changes nothing outside the marks, and the file is replaced whole or not at
all.

All documents are given each time, in any order: what is in none of them is
gone. The path of a document's server is put in front of its paths, so that
``/rules`` of the Jira Server document is ``/integration-jira-service/rules``;
a path that is then there twice is refused. The document of
the Events API is not for this table: it has sessions of its own.

Exit status:

0
    printed; ``--check``: no difference; ``--write``: the module has the table
    of the documents, be it that something or that nothing was to be changed
1
    ``--check`` only: there is a difference
2
    the documents cannot be turned into a table, or the module not be read or
    written; the message says why, and nothing was changed

Nothing here is taken from the module: the names that the table may leave out
are worked out by functions of this script, so that a mistake in one of the
two shows as a difference.

Where a document contradicts itself the script stops and asks for a row in
``JUDGEMENTS``. A path that no document lists any longer goes, unless it is
given a row in ``HISTORIC``; one that none lists yet has a row in
``ADDED`` until it does, and an operation one in ``UNLISTED``. A list that
comes by period, but whose records have no one time, needs a row in
``PERIODS``. The reasons stand here and nowhere else. A new kind of note is one
function, named in ``NOTES``.
"""

import argparse
import ast
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
)
from urllib.parse import unquote, urlsplit

METHODS = ("get", "post", "put", "patch", "delete")
MODULE = Path(__file__).resolve().parent.parent / "pdpyras.py"
WIDTH = 79
USUAL_PAGE_LIMIT = 100
USUAL_MEDIA_TYPE = "application/json"
USUAL_HOST = "api.pagerduty.com"

# Properties that place a page within its list, or tell the way to the next.
PAGING = frozenset(
    (
        "after",
        "before",
        "cursor",
        "first",
        "itemsPerPage",
        "last",
        "limit",
        "more",
        "next_cursor",
        "offset",
        "startIndex",
        "starting_after",
        "total",
        "totalResults",
    )
)

# What may stand beside the list on a page without being its content.
SECONDARY = re.compile(
    "account_id|additional_fields|migrated_.*|privileges|response_metadata"
    "|schema_id|schemas"
)

# A wrapper's name, with "?" behind it if it may be missing; "-" where the body
# is not wrapped; None: no such body.
Name = Optional[str]
Kinds = Dict[str, str]
Document = Dict[str, Any]
Table = Dict[str, str]
UNWRAPPED = "-"
OPTIONAL = "?"


class Judgement(NamedTuple):
    """Decides what the document leaves open, and says why.

    Where schema and examples disagree on a response, the wrapper that is
    decided on is optional: see ``derived_wrappers``.
    """

    request: Name
    response: Name
    reason: str


_WARNINGS = "the warnings beside the path were never part of what callers get"
_RULES_KEY = (
    "the example's key is a slip: schema, prose and reading the same "
    "resource back say otherwise"
)
_RULE_ID = (
    "rule_id repeats the path; callers have always passed the bare rule, "
    "and may pass both"
)
_EXAMPLE = "schema without a wrapper, examples with one: the API has the say"
_BARE = _EXAMPLE + "; a request is as its schema wants it"
_WHOLE = "5.x returned the whole body, and its scripts index it"

JUDGEMENTS: Dict[str, Judgement] = {
    "PUT /event_orchestrations/{id}/global": Judgement(
        "orchestration_path", "orchestration_path", _WARNINGS
    ),
    "PUT /event_orchestrations/{id}/router": Judgement(
        "orchestration_path", "orchestration_path", _WARNINGS
    ),
    "PUT /event_orchestrations/{id}/unrouted": Judgement(
        "orchestration_path", "orchestration_path", _WARNINGS
    ),
    "PUT /event_orchestrations/services/{service_id}": Judgement(
        "orchestration_path", "orchestration_path", _WARNINGS
    ),
    "POST /rulesets": Judgement("ruleset", "ruleset", _RULES_KEY),
    "PUT /rulesets/{id}": Judgement("ruleset", "ruleset", _RULES_KEY),
    "POST /rulesets/{id}/rules": Judgement("rule", "rule", _RULES_KEY),
    "POST /services/{id}/rules": Judgement("rule", "rule", _RULES_KEY),
    "PUT /rulesets/{id}/rules/{rule_id}": Judgement("rule", "rule", _RULE_ID),
    "PUT /services/{id}/rules/{rule_id}": Judgement("rule", "rule", _RULE_ID),
    "GET /business_services/priority_thresholds": Judgement(
        None, UNWRAPPED, _WHOLE + "; the example is a schema by mistake"
    ),
    "PUT /business_services/priority_thresholds": Judgement(
        "global_threshold", UNWRAPPED, _WHOLE
    ),
    "POST /event_orchestrations/{id}/integrations/migration": Judgement(
        UNWRAPPED, UNWRAPPED, _WHOLE
    ),
    "GET /workflows/integrations/{id}": Judgement(
        None, "integration", _EXAMPLE
    ),
    "POST /workflows/integrations/{integration_id}/connections": Judgement(
        UNWRAPPED, "connection", _BARE
    ),
    "GET /workflows/integrations/{integration_id}/connections/{id}": Judgement(
        None, "connection", _EXAMPLE
    ),
    (
        "PATCH /workflows/integrations/{integration_id}/connections/{id}"
    ): Judgement(UNWRAPPED, "connection", _BARE),
    "GET /users/{id}/oauth_delegations/{delegation_id}": Judgement(
        None, "oauth_delegation", _EXAMPLE
    ),
    "GET /paused_incident_reports/alerts": Judgement(
        None,
        "paused_incident_reporting_counts",
        "the schema names it ..._alerts; the example, and 5.x, ..._counts",
    ),
    "GET /enrichment/event_enrichments/default": Judgement(
        None, "default", "previous_default comes with the answer to PUT only"
    ),
    "PUT /users/{id}/status_update_notification_rules"
    "/{status_update_notification_rule_id}": Judgement(
        "status_update_notification_rule",
        "status_update_notification_rule",
        "the schema has notification_rule; the example wins",
    ),
    "POST /enrichment/event_enrichments/{id}/associations": Judgement(
        "associations",
        UNWRAPPED,
        "the answer is a status, or (207) the associations",
    ),
    "GET /oauth_delegations/revocation_requests/status": Judgement(
        None, UNWRAPPED, "deprecated, and its answer is not documented"
    ),
}

# Paths of a document that are replaced by others. Without this the table
# could not say under which name the list of a tag's users comes.
REPLACED: Dict[str, Tuple[str, ...]] = {
    "/tags/{id}/{entity_type}": (
        "/tags/{id}/escalation_policies",
        "/tags/{id}/teams",
        "/tags/{id}/users",
    ),
}

# Rows that cannot be derived, each with the reason.
PROSE_ONLY: Dict[str, Tuple[str, str]] = {
    "/incidents/count": (
        "GET=-",
        "the document describes it in a sentence, without its operation",
    ),
}

# Rows of paths that no document lists yet. Once one does, what it says counts.
_REVIEWS = (
    "published in September 2026, after the document of August; names and "
    "pages as in PagerDuty's own client of that month"
)
ADDED: Dict[str, Tuple[str, str]] = {
    path: (value, _REVIEWS)
    for path, value in (
        ("/incidents/reviews", "GET=incident_reviews,cursor"),
        ("/incidents/reviews/action_items", "GET,cursor"),
        # That client has the name of the answer for every method, and sends
        # every body as it is given.
        (
            "/incidents/{id}/review",
            "GET=incident_review POST=-:incident_review PUT=-:incident_review",
        ),
        ("/incidents/{id}/review/action_items", "GET,cursor"),
        ("/incidents/{id}/review/markers", "POST=-:marker"),
        ("/incidents/{id}/scribe_transcripts", "GET"),
    )
}

_RETIRED = "no longer listed; scripts still use it"
_PLAYS = "/response_plays"
_FIELDS = "/customfields/fields"
_SCHEMAS = "/customfields/schemas"
_ASSIGNED = "/customfields/schema_assignments"
_CONFIGURED = _SCHEMAS + "/{schema_id}/field_configurations"
HISTORIC: Dict[str, Tuple[str, str]] = {
    path: (value, _RETIRED)
    for path, value in (
        (_PLAYS, "GET POST"),
        (_PLAYS + "/{id}", "GET PUT DELETE"),
        (_PLAYS + "/{response_play_id}/run", "POST=-"),
        (_FIELDS, "GET,offset POST"),
        (_FIELDS + "/{field_id}", "GET PUT DELETE"),
        (_FIELDS + "/{field_id}/field_options", "GET POST"),
        (
            _FIELDS + "/{field_id}/field_options/{field_option_id}",
            "GET PUT DELETE",
        ),
        (_FIELDS + "/{field_id}/schemas", "GET,offset"),
        (_ASSIGNED, "GET,offset POST"),
        (_ASSIGNED + "/{id}", "DELETE"),
        (_SCHEMAS, "GET,offset POST"),
        (_SCHEMAS + "/{schema_id}", "GET PUT DELETE"),
        (_CONFIGURED, "GET POST"),
        (_CONFIGURED + "/{field_configuration_id}", "GET PUT DELETE"),
        (
            "/incidents/{id}/field_values",
            "GET=custom_fields PUT=custom_fields",
        ),
        ("/incidents/{id}/field_values/schema", "GET"),
    )
}


# The notes about time of lists that come by period, where the document does
# not tell them, each with the reason. Without a note the list is no history.
_SHIFT = "shifts that are planned, and changed at will: no history"
_BODY = "the period is in the body, in prose; so is the time of a record"
PERIODS: Dict[str, Tuple[str, str]] = {
    "GET /incidents": (
        "history:created_at,days180,sorted",
        "of several times it is that of the creation that restricts the list",
    ),
    "GET /oncalls": (
        "history:start,lasts:end",
        "a shift belongs to every period that it overlaps, and has no id",
    ),
    "GET /schedules": ("", "the period is that of the entries shown in each"),
    "GET /v3/schedules/{id}/custom_shifts": ("", _SHIFT),
    "GET /v3/schedules/{id}/overrides": ("", _SHIFT),
    "POST /analytics/raw/incidents": ("history:created_at", _BODY),
    "POST /analytics/raw/responders/{responder_id}/incidents": (
        "history:incident_created_at:incident_id",
        _BODY,
    ),
}


# Operations that are not listed at their path of the document.
_PRIORITIES = (
    "5.x documents that it takes a list; how long that may be is not known, "
    "so it is as at the other two"
)
UNLISTED: Dict[str, Tuple[str, str]] = {
    "/priorities": ("PUT,bulk250", _PRIORITIES),
}


class Decisions(NamedTuple):
    """All that was decided by people, about the documents of one table."""

    judgements: Dict[str, Judgement]
    replaced: Dict[str, Tuple[str, ...]]
    prose_only: Dict[str, Tuple[str, str]]
    historic: Dict[str, Tuple[str, str]]
    added: Dict[str, Tuple[str, str]]
    periods: Dict[str, Tuple[str, str]] = {}
    unlisted: Dict[str, Tuple[str, str]] = {}


DECISIONS = Decisions(
    JUDGEMENTS, REPLACED, PROSE_ONLY, HISTORIC, ADDED, PERIODS, UNLISTED
)


class DocumentError(Exception):
    """The document leaves something open that a maintainer must decide."""


class ModuleError(Exception):
    """The module is not as this script knows it."""


# --- Reading the document ---------------------------------------------------


def resolve(document: Document, node: Any) -> Any:
    """Return ``node``, or what it refers to, however many steps away."""
    while isinstance(node, dict) and "$ref" in node:
        found: Any = document
        for step in unquote(node["$ref"])[2:].split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            found = found[int(step) if isinstance(found, list) else step]
        node = found
    return node


def schema_kind(document: Document, schema: Any) -> str:
    """Return the JSON type of what ``schema`` describes, or ``any``."""
    schema = resolve(document, schema)
    if "type" in schema:
        return str(schema["type"])
    if "properties" in schema:
        return "object"
    kinds = {
        schema_kind(document, part)
        for key in ("allOf", "oneOf", "anyOf")
        for part in schema.get(key, ())
    }
    return kinds.pop() if len(kinds) == 1 else "any"


def schema_items(document: Document, schema: Any) -> List[Tuple[str, Any]]:
    """Return the root properties, with their schemas."""
    schema = resolve(document, schema)
    found: Dict[str, Any] = {}
    for key in ("allOf", "oneOf", "anyOf"):
        for part in schema.get(key, ()):
            found.update(schema_items(document, part))
    found.update(schema.get("properties", {}))
    return list(found.items())


def schema_properties(document: Document, schema: Any) -> Kinds:
    """Return the root properties, with their JSON types."""
    return {
        name: schema_kind(document, value)
        for name, value in schema_items(document, schema)
    }


def example_properties(example: Any) -> Kinds:
    """Return the root properties of an example, with their JSON types."""
    names = {dict: "object", list: "array", type(None): "any"}
    if not isinstance(example, dict):
        return {}
    return {
        name: names.get(type(value), "scalar")
        for name, value in example.items()
    }


def json_content(document: Document, body: Any) -> Optional[Document]:
    """Return the JSON media type of a request or response, if it has one."""
    content = (resolve(document, body) or {}).get("content", {})
    for media_type, described in content.items():
        if media_type.endswith("json"):
            return dict(described)
    return None


def documented_bodies(document: Document, described: Document) -> List[Kinds]:
    """Return the root properties as the schema, then each example has them."""
    bodies = [schema_properties(document, described.get("schema", {}))]
    examples = [
        resolve(document, example).get("value")
        for example in described.get("examples", {}).values()
    ]
    if "example" in described:
        examples.append(described["example"])
    return bodies + [example_properties(example) for example in examples]


def parameters(
    document: Document, item: Document, operation: Document, place: str
) -> Dict[str, Document]:
    """Return the parameters of an operation that go into ``place``."""
    listed = item.get("parameters", []) + operation.get("parameters", [])
    resolved = [resolve(document, parameter) for parameter in listed]
    return {
        parameter["name"]: parameter
        for parameter in resolved
        if parameter["in"] == place
    }


# --- Wrapping ---------------------------------------------------------------


def wrapper(properties: Kinds) -> str:
    """Return the name of the only property with content, or ``-``.

    On a page of a list the properties that only accompany it do not count.
    """
    page = bool(PAGING.intersection(properties))
    content = [
        name
        for name in properties
        if name not in PAGING and not (page and SECONDARY.fullmatch(name))
    ]
    if len(content) != 1:
        return UNWRAPPED
    kind = properties[content[0]]
    return content[0] if kind in ("object", "array", "any") else UNWRAPPED


def body_wrapper(
    document: Document, described: Optional[Document], what: str
) -> Tuple[Name, str]:
    """Return the wrapper of a body, and what is unclear about it, if so."""
    if described is None:
        return None, ""
    schema, *examples = documented_bodies(document, described)
    name = wrapper(schema)
    # An example may leave optional properties out: no disagreement.
    others = [
        wrapper(example)
        for example in examples
        if not set(example) <= set(schema)
    ]
    if all(other == name for other in others):
        return name, ""
    return name, f"{what}: schema {name}, examples {', '.join(others)}"


def response_content(
    document: Document, operation: Document
) -> Optional[Document]:
    """Return the JSON of the first successful response that has any.

    One with the status 204 has none (RFC 9110), whatever its description.
    """
    for status, response in sorted(operation["responses"].items()):
        if status.startswith("2") and status != "204":
            described = json_content(document, response)
            if described is not None:
                return described
    return None


def request_content(
    document: Document, operation: Document
) -> Optional[Document]:
    """Return the JSON that the operation takes, if it takes any."""
    return json_content(document, operation.get("requestBody"))


def derived_wrappers(
    document: Document,
    endpoint: str,
    operation: Document,
    judgements: Dict[str, Judgement] = JUDGEMENTS,
) -> Judgement:
    """Return the wrappers, from a judgement where the document needs one."""
    request, unclear_request = body_wrapper(
        document, request_content(document, operation), "request"
    )
    response, unclear_response = body_wrapper(
        document, response_content(document, operation), "response"
    )
    unclear = "; ".join(filter(None, (unclear_request, unclear_response)))
    judged = judgements.get(endpoint)
    if judged is None:
        if unclear:
            raise DocumentError(endpoint + " needs a judgement: " + unclear)
        return Judgement(request, response, "")
    if not unclear and (request, response) == judged[:2]:
        raise DocumentError(endpoint + " needs no judgement any more")
    if unclear_response and judged.response not in (None, UNWRAPPED):
        return judged._replace(response=f"{judged.response}{OPTIONAL}")
    return judged


# --- What the table leaves out ----------------------------------------------


def singular(word: str) -> str:
    """Return the singular of a plural; any other word as it stands."""
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith("uses"):
        return word[:-2]
    if word.endswith(("ss", "us", "is")):
        return word
    return word[:-1] if word.endswith("s") else word


def conventional(method: str, path: str) -> str:
    """Return the wrapper that callers would expect without being told."""
    nodes = path.split("/")
    if nodes[-1].startswith("{"):
        return singular(nodes[-2])
    return singular(nodes[-1]) if method == "post" else nodes[-1]


def names_suffix(method: str, path: str, request: Name, response: Name) -> str:
    """Return ``=names`` of an operation, empty where convention holds."""
    if method == "delete" and request is response is None:
        return ""
    if method == "get" or (method == "delete" and request is None):
        request = response
    # Where there is no body there must be no wrapper: it would be put around
    # nothing, or be missed in nothing.
    sent = request or UNWRAPPED
    received = response or UNWRAPPED
    if received == sent + OPTIONAL:
        return "=" + received
    if sent != received:
        return f"={sent}:{received}"
    return "" if sent == conventional(method, path) else "=" + sent


# --- Notes ------------------------------------------------------------------


class Operation(NamedTuple):
    """One method on one path, as the document describes it."""

    document: Document
    method: str
    item: Document
    described: Document
    #: What was decided about its notes of time, if anything was.
    period: Optional[str] = None

    @property
    def query(self) -> Dict[str, Document]:
        """The parameters that go into the query."""
        return parameters(self.document, self.item, self.described, "query")

    @property
    def required_headers(self) -> Dict[str, Document]:
        """The headers that must be sent, by their names in capitals."""
        headers = parameters(
            self.document, self.item, self.described, "header"
        )
        return {
            name.upper(): header
            for name, header in headers.items()
            if header.get("required")
        }

    @property
    def asked(self) -> Kinds:
        """The root properties that the schema of the request has."""
        request = request_content(self.document, self.described) or {}
        return schema_properties(self.document, request.get("schema", {}))

    @property
    def answered(self) -> Kinds:
        """The root properties that the schema of the answer has."""
        answer = response_content(self.document, self.described) or {}
        return schema_properties(self.document, answer.get("schema", {}))


def server_url(operation: Operation) -> str:
    """Return the URL behind which the path stands, empty if none is given."""
    for described in (operation.described, operation.item, operation.document):
        for server in described.get("servers", ())[:1]:
            return str(server["url"])
    return ""


def pagination(operation: Operation) -> str:
    """Return how a list comes in pages, empty where it does not."""
    described = operation.answered
    if operation.method == "post":
        by_body = "starting_after" in operation.asked and "last" in described
        return "starting_after" if by_body else ""
    if operation.method != "get":
        return ""
    # Some lists document no query parameters: the answer shows their style.
    query = operation.query
    if "cursor" in query or "next_cursor" in described:
        return "cursor"
    if "after" in query:
        return "after"
    if "totalResults" in described:
        return "scim"
    by_offset = "offset" in query or {"offset", "more"} <= set(described)
    return "offset" if by_offset else ""


def largest_page(operation: Operation) -> Optional[int]:
    """Return the most records that a page may hold, where it is stated."""
    document, query = operation.document, operation.query
    if "limit" in query:
        limit = dict(query["limit"])
        limit.update(resolve(document, limit.get("schema", {})))
    else:
        request = request_content(document, operation.described) or {}
        schema = resolve(document, request.get("schema", {}))
        limit = resolve(
            document, schema.get("properties", {}).get("limit", {})
        )
    if "maximum" in limit:
        return int(limit["maximum"])
    stated = re.search(r"maximum[^.]*?(\d+)", limit.get("description", ""))
    return int(stated.group(1)) if stated else None


def page_notes(operation: Operation) -> List[str]:
    """Return the notes about pages."""
    style = pagination(operation)
    if not style:
        return []
    most = largest_page(operation)
    if most in (None, USUAL_PAGE_LIMIT):
        return [style]
    return [style, f"max{most}"]


def plain_notes(operation: Operation) -> List[str]:
    """Return the notes about list parameters spelled without brackets.

    Their values are repeated under the plain name, or joined by commas.
    """
    return [
        ("plain:" if parameter.get("explode", True) else "comma:") + name
        for name, parameter in operation.query.items()
        if not name.endswith("[]")
        and schema_kind(operation.document, parameter.get("schema", {}))
        == "array"
    ]


def early_access_notes(operation: Operation) -> List[str]:
    """Return the note about early access, which a header asks for."""
    header = operation.required_headers.get("X-EARLY-ACCESS")
    if header is None:
        return []
    value = re.search("`(.+?)`", header.get("description", ""))
    if value is None:
        raise DocumentError("early access without a value: X-EARLY-ACCESS")
    return ["early:" + value.group(1)]


def from_notes(operation: Operation) -> List[str]:
    """Return the note about the header that names a user."""
    return ["from"] if "FROM" in operation.required_headers else []


def media_notes(operation: Operation) -> List[str]:
    """Return the note about answers with a media type of their own.

    That of errors counts too: what deletes has no other answer.
    """
    found = {
        media_type
        for response in operation.described["responses"].values()
        for media_type in resolve(operation.document, response).get(
            "content", {}
        )
        if media_type.endswith("json")
    }
    if len(found) > 1:
        raise DocumentError(
            "answers of several media types: " + ", ".join(sorted(found))
        )
    return ["accept:" + name for name in found - {USUAL_MEDIA_TYPE}]


def host_notes(operation: Operation) -> List[str]:
    """Return the note about a host that is not that of the REST API."""
    host = urlsplit(server_url(operation)).hostname or USUAL_HOST
    return [] if host == USUAL_HOST else ["host:" + host]


def times_of_records(operation: Operation) -> List[str]:
    """Return the properties of a list's records that are times."""
    document = operation.document
    answer = response_content(document, operation.described) or {}
    for _, schema in schema_items(document, answer.get("schema", {})):
        if schema_kind(document, schema) == "array":
            records = resolve(document, schema).get("items", {})
            return [
                name
                for name, found in schema_items(document, records)
                if resolve(document, found).get("format") == "date-time"
            ]
    return []


def longest_period(text: str) -> List[str]:
    """Return the note about the longest period that a description allows.

    Of months it is a day less than the shortest that follow each other have.
    """
    stated = re.search(r"(?i)(?:max|more|less)\D*(\d+) (days|months)", text)
    if stated is None:
        return []
    number = int(stated.group(1))
    if stated.group(2) == "days":
        return [f"days{number}"]
    lengths = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31) * 2
    shortest = min(sum(lengths[m : m + number]) for m in range(12))
    return [f"days{shortest - 1}"]


def derived_period_notes(operation: Operation) -> List[str]:
    """Return the notes about time as the document tells them."""
    until = operation.query["until"]
    times = times_of_records(operation)
    if len(times) != 1:
        raise DocumentError(
            f"a row of PERIODS is needed: records have the times {times}"
        )
    notes = ["history:" + times[0]]
    notes += longest_period(until.get("description", ""))
    schema = resolve(operation.document, until.get("schema", {}))
    if schema.get("pattern") == "YYYY-MM-DDThh:mm:ssZ":
        notes.append("seconds")
    return notes


def period_notes(operation: Operation) -> List[str]:
    """Return the notes about time, of a list that comes by period."""
    by_query = {"since", "until"} <= set(operation.query)
    by_query = by_query and bool(pagination(operation))
    if operation.period is None:
        return derived_period_notes(operation) if by_query else []
    notes = list(filter(None, operation.period.split(",")))
    try:
        is_derived = by_query and derived_period_notes(operation) == notes
    except DocumentError:
        is_derived = False
    if is_derived:
        raise DocumentError("a row of PERIODS is needed no more")
    return notes


def bulk_notes(operation: Operation) -> List[str]:
    """Return the note about how many records one request may change."""
    stated = re.search(
        r"maximum of (\d+) \w+ may be updated at a time",
        operation.described.get("description", ""),
    )
    return [f"bulk{stated.group(1)}"] if stated else []


# All kinds of notes, in the order in which they stand in a row.
NOTES: Tuple[Callable[[Operation], List[str]], ...] = (
    page_notes,
    period_notes,
    plain_notes,
    early_access_notes,
    from_notes,
    media_notes,
    host_notes,
    bulk_notes,
)


# --- The table --------------------------------------------------------------

# What a row can be made of: nothing that ends a note, an operation, or the
# string literal around them.
PATH = re.compile(r"(/([A-Za-z0-9_.~-]+|{[A-Za-z0-9_]+}))+")
PART = re.compile(r"[A-Za-z0-9_.:=?+/\[\]-]+")


def operation_text(head: str, operation: Operation) -> str:
    """Return an operation of a row: its head, then its notes."""
    parts = [head] + [note for derive in NOTES for note in derive(operation)]
    for part in parts:
        if not PART.fullmatch(part):
            raise DocumentError(f"not for a row of the table: {part!r}")
    return ",".join(parts)


def derived_row(
    document: Document,
    path: str,
    item: Document,
    judgements: Dict[str, Judgement] = JUDGEMENTS,
    periods: Dict[str, Tuple[str, str]] = PERIODS,
) -> str:
    """Return the row of a path, which is given as it is in the table."""
    operations = []
    for method in METHODS:
        if method not in item:
            continue
        endpoint = f"{method.upper()} {path}"
        request, response, _ = derived_wrappers(
            document, endpoint, item[method], judgements
        )
        suffix = names_suffix(method, path, request, response)
        period, _ = periods.get(endpoint, (None, ""))
        operation = Operation(document, method, item, item[method], period)
        operations.append(operation_text(method.upper() + suffix, operation))
    if not operations:
        raise DocumentError(path + " has no operations")
    return " ".join(operations)


def replacement_row(document: Document, item: Document) -> str:
    """Return the row of a path that stands for one of several lists."""
    return operation_text("GET", Operation(document, "get", item, item["get"]))


class Listed(NamedTuple):
    """A path as a document lists it."""

    document: Document
    item: Document

    @property
    def methods(self) -> List[str]:
        """The methods that are described."""
        return [method for method in METHODS if method in self.item]

    @property
    def operations(self) -> List[Operation]:
        """What is described, without what was decided about it."""
        return [
            Operation(self.document, method, self.item, self.item[method])
            for method in self.methods
        ]


def path_in_table(listed: Listed, path: str) -> str:
    """Return the path with that of its server in front."""
    paths = {
        urlsplit(server_url(operation)).path.rstrip("/")
        for operation in listed.operations
    }
    if len(paths) > 1:
        raise DocumentError(
            f"{path} is behind several paths: {', '.join(sorted(paths))}"
        )
    return "".join(paths) + path


def listed_paths(documents: List[Document]) -> Dict[str, Listed]:
    """Return what all the documents list, by the path in the table.

    Paths that differ in the names of parameters only are the same path.
    """
    found: Dict[str, Listed] = {}
    shapes = set()
    for document in documents:
        if not isinstance(document, dict) or not document.get("paths"):
            raise DocumentError("no OpenAPI document: it has no paths")
        for path, item in document["paths"].items():
            listed = Listed(document, item)
            path = path_in_table(listed, path)
            if shape(path) in shapes:
                raise DocumentError(f"the path {path} is listed twice")
            shapes.add(shape(path))
            found[path] = listed
    return found


def refuse_stale_rows(paths: Dict[str, Listed], decisions: Decisions) -> None:
    """Raise if a row of this script's tables has lost what it is about."""
    described = {
        (method.upper(), path)
        for path, listed in paths.items()
        for method in listed.methods
    }
    stale = [
        endpoint
        for endpoint in [*decisions.judgements, *decisions.periods]
        if tuple(endpoint.split(" ")) not in described
    ]
    stale += [path for path in decisions.replaced if path not in paths]
    stale += [
        path
        for path, (value, _) in decisions.unlisted.items()
        if path not in paths
        or re.split("[=,]", value)[0].lower() in paths[path].methods
    ]
    stale += [path for path in decisions.historic if path in paths]
    stale += [
        path
        for path in decisions.prose_only
        if path in paths and paths[path].methods
    ]
    if stale:
        raise DocumentError("rows to take out: " + ", ".join(stale))


def shape(path: str) -> str:
    """Return the path without the names of its parameters."""
    return re.sub("{.*?}", "{}", path)


def derived_table(
    documents: List[Document], decisions: Decisions = DECISIONS
) -> Table:
    """Return all rows, in the alphabetical order of their paths."""
    paths = listed_paths(documents)
    refuse_stale_rows(paths, decisions)
    shapes = set(map(shape, paths))
    rows = {
        path: value
        for path, (value, _) in decisions.added.items()
        if shape(path) not in shapes
    }
    for given in (decisions.prose_only, decisions.historic):
        rows.update((path, value) for path, (value, _) in given.items())
    for path, (document, item) in paths.items():
        if path in decisions.replaced:
            for new in decisions.replaced[path]:
                rows[new] = replacement_row(document, item)
        elif path not in decisions.prose_only:
            rows[path] = derived_row(
                document, path, item, decisions.judgements, decisions.periods
            )
    for path, (value, _) in decisions.unlisted.items():
        rows[path] += f" {value}"
    for path in rows:
        if not PATH.fullmatch(path):
            raise DocumentError(f"not for a row of the table: {path!r}")
    return {path: rows[path] for path in sorted(rows)}


def derived_list_params(documents: List[Document]) -> List[str]:
    """Return the query parameters with ``[]`` at their ends, without it.

    One that is a single value somewhere is none of them. One that is a list
    without brackets somewhere is: the note of that operation says so.
    """
    bracketed, single = set(), set()
    for listed in listed_paths(documents).values():
        for operation in listed.operations:
            for name, parameter in operation.query.items():
                schema = parameter.get("schema", {})
                if name.endswith("[]"):
                    bracketed.add(name[:-2])
                elif schema_kind(listed.document, schema) != "array":
                    single.add(name)
    for name in bracketed:
        if not re.fullmatch("[A-Za-z0-9_]+", name):
            raise DocumentError(f"not for the list parameters: {name!r}")
    return sorted(bracketed - single)


# --- Printing ---------------------------------------------------------------


def split_text(text: str, width: int, mark: str) -> List[str]:
    """Cut ``text`` before or after ``mark`` into parts of that width."""
    parts = [""]
    pattern = "(?=/)" if mark == "/" else "(?<= )"
    for piece in filter(None, re.sub(pattern, "\0", text).split("\0")):
        if parts[-1] and len(parts[-1]) + len(piece) > width:
            parts.append("")
        parts[-1] += piece
    return parts


def literal_lines(text: str, indent: int, mark: str) -> List[str]:
    """Return ``text`` as string literals, on as many lines as it takes."""
    parts = split_text(text, WIDTH - indent - 5, mark)
    lines = [" " * indent + f'"{part}"' for part in parts]
    if len(lines) > 1:
        lines[0] = " " * (indent - 1) + f'("{parts[0]}"'
        lines[-1] += ")"
    return lines


def row_lines(path: str, row: str) -> List[str]:
    """Return the lines of a row of the dict literal."""
    whole = f'    "{path}": "{row}",'
    if len(whole) <= WIDTH:
        return [whole]
    key = literal_lines(path, 5 if len(path) > WIDTH - 9 else 4, "/")
    value = literal_lines(row, 9, " ")
    if len(value) == 1:
        value[0] = value[0][1:]
    return key[:-1] + [key[-1] + ":"] + value[:-1] + [value[-1] + ","]


def table_text(table: Table) -> str:
    """Return the table as Python source, as ``pdpyras.py`` holds it."""
    lines = ['_ENDPOINTS: "Dict[str, str]" = {']
    for path, row in table.items():
        lines += row_lines(path, row)
    return "\n".join(lines + ["}", ""])


def list_params_text(names: List[str]) -> str:
    """Return the names as Python source, as ``pdpyras.py`` holds them."""
    lines = ['_LIST_PARAMS: "FrozenSet[str]" = frozenset((']
    lines += [f'    "{name}",' for name in names]
    return "\n".join(lines + ["))", ""])


# --- The module -------------------------------------------------------------


class Module(NamedTuple):
    """The source of the module, cut at the marks around what is derived."""

    before: str
    literal: str
    between: str
    names: str
    after: str

    def table(self) -> Table:
        """Return the rows, without importing or running anything."""
        try:
            return dict(ast.literal_eval(assigned(self.literal)))
        except (ValueError, TypeError, SyntaxError) as error:
            raise ModuleError(
                f"_ENDPOINTS is no plain table: {error}"
            ) from error

    def list_params(self) -> List[str]:
        """Return the names, without importing or running anything."""
        try:
            (names,) = assigned(self.names).args  # type: ignore[attr-defined]
            return list(ast.literal_eval(names))
        except (AttributeError, ValueError, TypeError, SyntaxError) as error:
            raise ModuleError(
                f"_LIST_PARAMS is no plain frozenset: {error}"
            ) from error

    def with_table(self, table: Table) -> "Module":
        """Return the source with another table and its own line ends."""
        changed = self._replace(literal=self.ended(table_text(table)))
        if changed.table() != table:
            raise ModuleError("the table does not read as it was written")
        return changed

    def with_list_params(self, names: List[str]) -> "Module":
        """Return the source with other list parameters."""
        return self._replace(names=self.ended(list_params_text(names)))

    def ended(self, text: str) -> str:
        """Return the text with the line ends of the module."""
        return text.replace("\n", "\r\n" if "\r\n" in self.literal else "\n")


def assigned(source: str) -> ast.AST:
    """Return what the only statement, an assignment with a type, assigns."""
    (node,) = ast.parse(source).body
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        return node.value
    raise ValueError("no assignment with a type")


def read_module(path: Path) -> Module:
    """Cut the source of the module, every byte of it kept.

    It is not imported, so that this works where requests is not installed.
    """
    source = path.read_bytes().decode("utf-8")
    parts = (
        r"(.*^# fmt: off\r?\n)",
        r"(_ENDPOINTS: .*?)",
        r"(^# fmt: on\r?$.*?^# fmt: off\r?\n)",
        r"(_LIST_PARAMS: .*?)",
        r"(^# fmt: on\r?$.*)",
    )
    found = re.findall(r"(?ms)\A" + "".join(parts) + r"\Z", source)
    if len(found) != 1:
        raise ModuleError(
            "no table named _ENDPOINTS between # fmt: off and # fmt: on, "
            "with _LIST_PARAMS between such marks behind it"
        )
    return Module(*found[0])


def write_module(path: Path, module: Module) -> None:
    """Replace the module's file as a whole, its permissions kept."""
    path = path.resolve()
    descriptor, name = tempfile.mkstemp(dir=str(path.parent), prefix=".table")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write("".join(module).encode("utf-8"))
        shutil.copymode(str(path), name)
        os.replace(name, str(path))
    except BaseException:
        os.unlink(name)
        raise


# --- Comparing --------------------------------------------------------------


def differences(derived: Table, kept: Table) -> Iterator[str]:
    """Yield a line for each difference between document and module."""
    for path in derived:
        if path not in kept:
            yield f"added    {path}: {derived[path]}"
    for path in kept:
        if path not in derived:
            yield f"gone     {path}: {kept[path]}"
    for path in derived:
        if path in kept and kept[path] != derived[path]:
            yield (
                f"changed  {path}\n  module    {kept[path]}\n"
                f"  document  {derived[path]}"
            )
    if list(kept) != sorted(kept):
        yield "order    the module's rows are not in alphabetical order"


def name_differences(derived: List[str], kept: List[str]) -> Iterator[str]:
    """Yield a line for each list parameter that only one of them has."""
    for name in derived:
        if name not in kept:
            yield f"added    {name}[]"
    for name in kept:
        if name not in derived:
            yield f"gone     {name}[]"


class Derived(NamedTuple):
    """What the module holds of the documents."""

    table: Table
    list_params: List[str]


def read_documents(paths: List[Path], decisions: Decisions) -> Derived:
    """Return what is derived from the documents in these files."""
    documents = []
    for path in paths:
        with path.open(encoding="utf-8") as file:
            try:
                documents.append(json.load(file))
            except ValueError as error:
                raise DocumentError(f"{path} is no JSON: {error}") from error
    try:
        table = derived_table(documents, decisions)
        return Derived(table, derived_list_params(documents))
    except (AttributeError, LookupError, TypeError) as error:
        raise DocumentError(f"no OpenAPI document: {error!r}") from error


def compare(path: Path, derived: Derived, write: bool) -> int:
    """Print how the module differs, and change it or not; 1 if it does."""
    kept = read_module(path)
    table, list_params = derived
    wanted = kept.with_table(table).with_list_params(list_params)
    found = list(differences(table, kept.table()))
    found += name_differences(list_params, kept.list_params())
    if not found and kept != wanted:
        found = ["layout   the same rows are written in another way"]
    if write and found:
        write_module(path, wanted)
        found.append(f"written  {path}")
    print("\n".join(found or [f"no difference in {len(table)} paths"]))
    return 1 if found and not write else 0


def main(
    arguments: Optional[List[str]] = None, decisions: Decisions = DECISIONS
) -> int:
    """Print, check or write the table; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Derive the endpoint table from PagerDuty's documents.",
        epilog="Exit status: 0 done, or no difference; 1 --check found a "
        "difference; 2 nothing could be done, the message says why.",
    )
    parser.add_argument(
        "documents", type=Path, nargs="+", metavar="OPENAPI.json"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check",
        action="store_true",
        help="compare with the module instead of printing",
    )
    what.add_argument(
        "--write",
        action="store_true",
        help="replace the module's table, and say what changed",
    )
    parser.add_argument(
        "--module",
        type=Path,
        default=MODULE,
        metavar="FILE",
        help="the module to compare with or to change (default: pdpyras.py)",
    )
    options = parser.parse_args(arguments)
    subject = " ".join(map(str, options.documents))
    try:
        derived = read_documents(options.documents, decisions)
        subject = str(options.module)
        if options.check or options.write:
            return compare(options.module, derived, options.write)
    except (OSError, ValueError, DocumentError, ModuleError) as error:
        print(f"{subject}: {error}", file=sys.stderr)
        return 2
    print(table_text(derived.table))
    print(list_params_text(derived.list_params), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
