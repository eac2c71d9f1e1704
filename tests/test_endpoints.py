"""The endpoint table: what it says, what is derived from it, look-ups.

The samples below were written down by reading PagerDuty's API document, so
that a clone without that document tests every kind of endpoint too. What holds
of any document is tested with small ones of our own and, where they are at
hand, with PagerDuty's: see ``tests/documents.py``. Nothing here needs a change
because a new release has more endpoints.
"""

import copy
import json
import os
import re
import stat
import subprocess
import sys
import timeit
from functools import partial
from pathlib import Path

import pytest

import pdpyras
from tests import documents, wire
from tests.documents import (
    APIS,
    MODULE,
    PAGERDUTY,
    SMALL,
    SMALL_API,
    STAFF_API,
    TABLES,
    needs_documents,
    script,
)

pytestmark = pytest.mark.oldest

SCRIPT = Path(script.__file__)
BASE = "https://api.pagerduty.com"

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
STYLES = ["offset", "cursor", "after", "starting_after", "scim"]
OPERATION = re.compile(
    r"(?P<method>[A-Z]+)"
    r"(?:=(?P<names>-|\w+\??|(?:-|\w+):(?:-|\w+\??)))?"
    r"(?P<notes>(?:,(?:offset|cursor|after|starting_after|scim|from|max\d+"
    r"|history:\w+(?::\w+)?|lasts:\w+|days\d+|seconds|sorted|bulk\d+"
    r"|(?:plain|comma):\w+|early:[\w-]+"
    r"|accept:[\w/+]+|host:[\w.]+))*)",
    re.ASCII,
)

APP = "host:app.pagerduty.com"

# Method, a path as a caller writes it, what is wrapped around the request
# and the response (None: nothing), how its list comes in pages.
SAMPLES = [
    # As anyone would guess.
    ("GET", "/users", None, "users", "offset"),
    ("POST", "/users", "user", "user", None),
    ("GET", "/users/PABC123", None, "user", None),
    ("PUT", "/users/PABC123", "user", "user", None),
    ("GET", "/escalation_policies/PABC123", None, "escalation_policy", None),
    (
        "POST",
        "/escalation_policies",
        "escalation_policy",
        "escalation_policy",
        None,
    ),
    ("GET", "/business_services", None, "business_services", "offset"),
    (
        "PUT",
        "/business_services/PABC123",
        "business_service",
        "business_service",
        None,
    ),
    ("GET", "/priorities", None, "priorities", "offset"),
    ("GET", "/abilities", None, "abilities", None),
    ("GET", "/users/PABC123/license", None, "license", None),
    ("GET", "/users/PABC123/contact_methods", None, "contact_methods", None),
    ("GET", "/v3/schedules", None, "schedules", "offset"),
    ("POST", "/v3/schedules", "schedule", "schedule", None),
    ("PUT", "/sre_agent/memories/M1", "memory", "memory", None),
    ("GET", "/sre_agent/memories", None, "memories", None),
    # Plurals that are not made with a mere s.
    ("GET", "/status_pages/SP1/statuses", None, "statuses", "offset"),
    ("GET", "/status_pages/SP1/statuses/S1", None, "status", None),
    ("GET", "/status_pages/SP1/severities/S1", None, "severity", None),
    # Several resources in one request.
    ("PUT", "/incidents", "incidents", "incidents", None),
    ("PUT", "/incidents/PABC123/alerts", "alerts", "alerts", None),
    (
        "POST",
        "/v3/schedules/PABC123/overrides",
        "overrides",
        "overrides",
        None,
    ),
    # Another name than the path's.
    ("GET", "/users/me", None, "user", None),
    ("GET", "/incidents/types", None, "incident_types", None),
    ("POST", "/incidents/types", "incident_type", "incident_type", None),
    ("GET", "/incidents/types/base/custom_fields/F1", None, "field", None),
    (
        "GET",
        "/incidents/PABC123/custom_fields/values",
        None,
        "custom_fields",
        None,
    ),
    ("GET", "/event_orchestrations", None, "orchestrations", "offset"),
    ("POST", "/event_orchestrations", "orchestration", "orchestration", None),
    (
        "GET",
        "/event_orchestrations/E1/router",
        None,
        "orchestration_path",
        None,
    ),
    (
        "PUT",
        "/event_orchestrations/services/PABC123",
        "orchestration_path",
        "orchestration_path",
        None,
    ),
    ("GET", "/users/PABC123/sessions", None, "user_sessions", None),
    ("GET", "/users/PABC123/sessions/web/S1", None, "user_session", None),
    ("POST", "/schedules/preview", "schedule", "schedule", None),
    (
        "GET",
        "/service_dependencies/technical_services/PABC123",
        None,
        "relationships",
        None,
    ),
    (
        "GET",
        "/status_dashboards/url_slugs/all-well",
        None,
        "status_dashboard",
        None,
    ),
    ("GET", "/standards/scores/technical_services", None, "resources", None),
    (
        "GET",
        "/paused_incident_reports/alerts",
        None,
        "paused_incident_reporting_counts",
        None,
    ),
    (
        "POST",
        "/enrichment/integrations/servicenow/credentials",
        "credentials",
        "credentials",
        None,
    ),
    # What is sent differs from what comes back.
    (
        "POST",
        "/business_services/PABC123/subscribers",
        "subscribers",
        "subscriptions",
        None,
    ),
    (
        "POST",
        "/teams/PABC123/notification_subscriptions",
        "subscribables",
        "subscriptions",
        None,
    ),
    ("PUT", "/incidents/PABC123/merge", "source_incidents", "incident", None),
    (
        "POST",
        "/incident_workflows/triggers/T1/services",
        "service",
        "trigger",
        None,
    ),
    (
        "PUT",
        "/session_configurations",
        "session_configuration",
        "session_configurations",
        None,
    ),
    ("POST", "/schedules/PABC123/overrides", "overrides", None, None),
    (
        "POST",
        "/users/PABC123/notification_subscriptions/unsubscribe",
        "subscribables",
        None,
        None,
    ),
    ("POST", "/incidents/PABC123/snooze", None, "incident", None),
    (
        "POST",
        "/incidents/PABC123/responder_requests",
        None,
        "responder_request",
        None,
    ),
    ("POST", "/enrichment/query", None, "records", None),
    # Actions: they take no body, and none may be made up for them.
    ("POST", "/extensions/PABC123/enable", None, "extension", None),
    ("POST", "/v3/schedules/PABC123/rotations", None, "rotation", None),
    ("POST", "/webhook_subscriptions/PABC123/ping", None, None, None),
    ("PUT", "/teams/PABC123/escalation_policies/PABC456", None, None, None),
    # Several properties, or a single scalar: the body itself.
    ("POST", "/users/PABC123/change_tags", None, None, None),
    ("PUT", "/teams/PABC123/users/PABC456", None, None, None),
    ("PUT", "/event_orchestrations/services/PABC123/active", None, None, None),
    ("POST", "/templates/PABC123/render", None, None, None),
    ("POST", "/services/PABC123/rules/convert", None, None, None),
    ("POST", "/analytics/metrics/incidents/all", None, None, None),
    ("GET", "/analytics/raw/incidents/PABC123", None, None, None),
    ("GET", "/incidents/count", None, None, None),
    # The document contradicts itself: see tools/endpoints.py.
    ("GET", "/workflows/integrations/PABC123", None, "integration", None),
    (
        "PATCH",
        "/workflows/integrations/PABC123/connections/C1",
        None,
        "connection",
        None,
    ),
    ("POST", "/rulesets/R1/rules", "rule", "rule", None),
    ("PUT", "/services/PABC123/rules/R1", "rule", "rule", None),
    # Lists in pages, each in its own way.
    ("GET", "/users/PABC123/tags", None, "tags", "offset"),
    (
        "GET",
        "/tags/PABC123/escalation_policies",
        None,
        "escalation_policies",
        "offset",
    ),
    (
        "GET",
        "/business_services/PABC123/subscribers",
        None,
        "subscribers",
        "offset",
    ),
    ("GET", "/services/PABC123/rules", None, "rules", "offset"),
    ("GET", "/audit/records", None, "records", "cursor"),
    ("GET", "/automation_actions/actions", None, "actions", "cursor"),
    ("GET", "/status_dashboards", None, "status_dashboards", "cursor"),
    (
        "GET",
        "/recommendations/event_orchestrations/rules",
        None,
        "recommended_rules",
        "cursor",
    ),
    ("GET", "/enrichment/schemas/S1/records", None, "records", "cursor"),
    (
        "GET",
        "/alert_grouping_settings",
        None,
        "alert_grouping_settings",
        "after",
    ),
    ("POST", "/analytics/raw/incidents", None, None, "starting_after"),
    (
        "POST",
        "/analytics/raw/responders/PABC123/incidents",
        None,
        None,
        "starting_after",
    ),
    # Lists that look like it and are not.
    ("GET", "/incidents/PABC123/past_incidents", None, "past_incidents", None),
    (
        "GET",
        "/incidents/PABC123/related_change_events",
        None,
        "change_events",
        None,
    ),
    ("GET", "/business_services/impacts", None, "services", None),
    # Not documented yet.
    ("GET", "/incidents/reviews", None, "incident_reviews", "cursor"),
    ("GET", "/incidents/reviews/action_items", None, "action_items", "cursor"),
    (
        "GET",
        "/incidents/PABC123/review/action_items",
        None,
        "action_items",
        "cursor",
    ),
    ("GET", "/incidents/PABC123/review", None, "incident_review", None),
    ("PUT", "/incidents/PABC123/review", None, "incident_review", None),
    ("POST", "/incidents/PABC123/review/markers", None, "marker", None),
    (
        "GET",
        "/incidents/PABC123/scribe_transcripts",
        None,
        "scribe_transcripts",
        None,
    ),
    # The answer has no body.
    ("GET", "/abilities/teams", None, None, None),
    # No longer documented, still in use.
    ("POST", "/response_plays/PABC123/run", None, None, None),
    ("GET", "/customfields/fields", None, "fields", "offset"),
    (
        "PUT",
        "/incidents/PABC123/field_values",
        "custom_fields",
        "custom_fields",
        None,
    ),
]

# Paths one of whose nodes could also be taken for a parameter's value.
LITERALS = [
    "/business_services/impactors",
    "/business_services/impacts",
    "/business_services/priority_thresholds",
    "/enrichment/event_enrichments/default",
    "/enrichment/integrations/servicenow/credentials",
    "/event_orchestrations/{id}/integrations/migration",
    "/incident_workflows/actions",
    "/incident_workflows/triggers",
    "/incidents/count",
    "/incidents/custom_fields",
    "/incidents/reviews",
    "/incidents/types",
    "/schedules/preview",
    "/services/custom_fields",
    "/services/{id}/rules/convert",
    "/templates/fields",
    "/users/me",
    "/webhook_subscriptions/oauth_clients",
    "/workflows/integrations/connections",
]

# Two paths match, each literal where the other is not: the leftmost decides.
CROSSINGS = [
    (
        "/event_orchestrations/services/cache_variables",
        "/event_orchestrations/services/{service_id}",
    ),
    ("/incidents/types/alerts", "/incidents/types/{type_id_or_name}"),
    ("/tags/users/teams", "/tags/{id}/teams"),
    ("/tags/PABC123/tags", "/{entity_type}/{id}/tags"),
    ("/teams/PABC123/tags", "/{entity_type}/{id}/tags"),
    ("/users/PABC123/change_tags", "/{entity_type}/{id}/change_tags"),
    ("/services/PABC123/change_tags", "/{entity_type}/{id}/change_tags"),
    # Here the leftmost literal leads nowhere.
    ("/services/custom_fields/rules/convert", "/services/{id}/rules/convert"),
    ("/incidents/count/notes", "/incidents/{id}/notes"),
    ("/users/me/sessions", "/users/{id}/sessions"),
    ("/schedules/preview/tags", "/{entity_type}/{id}/tags"),
]

NAMES = [
    ("abilities", "ability"),
    ("addons", "addon"),
    ("alert_grouping_settings", "alert_grouping_setting"),
    ("business_services", "business_service"),
    ("cache_variables", "cache_variable"),
    ("escalation_policies", "escalation_policy"),
    ("event_enrichments", "event_enrichment"),
    ("incident_workflows", "incident_workflow"),
    ("licenses", "license"),
    ("log_entries", "log_entry"),
    ("memories", "memory"),
    ("oauth_delegations", "oauth_delegation"),
    ("oncall_handoff_notification_rules", "oncall_handoff_notification_rule"),
    ("priorities", "priority"),
    ("responses", "response"),
    ("schedules", "schedule"),
    ("services", "service"),
    ("severities", "severity"),
    ("statuses", "status"),
]


def operations(path, table=pdpyras._ENDPOINTS):
    """The operations of a row: (method, names or None, set of notes)."""
    for text in table[path].split(" "):
        found = OPERATION.fullmatch(text)
        assert found, f"{path}: {text!r} follows no grammar"
        notes = set(filter(None, found.group("notes").split(",")))
        yield found.group("method"), found.group("names"), notes


def operation(method, path, table=pdpyras._ENDPOINTS):
    """Names and notes of one operation of a row."""
    ((_, names, notes),) = [
        row for row in operations(path, table) if row[0] == method
    ]
    return names, notes


def concrete(path, value="PABC123"):
    """The path with all its parameters filled in."""
    return re.sub(r"{.*?}", value, path)


def name(text):
    return None if text == "-" else text.rstrip("?")


# --- The table and what is derived from it ----------------------------------


def test_every_row_follows_the_grammar():
    for path in pdpyras._ENDPOINTS:
        assert re.fullmatch(r"(/([A-Za-z0-9_.~-]+|{[A-Za-z0-9_]+}))+", path), (
            path
        )
        rows = list(operations(path))
        methods = [method for method, _, _ in rows]
        assert methods == [m for m in METHODS if m in methods], path
        for method, _, notes in rows:
            styles = notes.intersection(STYLES)
            assert len(styles) <= 1, path
            paging = {"starting_after": "POST"}.get(
                next(iter(styles), None), "GET"
            )
            assert not styles or method == paging, path


def test_rows_are_in_alphabetical_order():
    assert list(pdpyras._ENDPOINTS) == sorted(pdpyras._ENDPOINTS)


def test_canonical_paths_are_the_rows():
    assert list(pdpyras._ENDPOINTS) == pdpyras.CANONICAL_PATHS


def test_cursor_paths_are_the_rows_with_that_note():
    assert sorted(pdpyras.CURSOR_BASED_PAGINATION_PATHS) == [
        path
        for path in pdpyras._ENDPOINTS
        for method, _, notes in operations(path)
        if "cursor" in notes
    ]


def test_wrapper_config_is_what_the_rows_name():
    expected = {}
    for path in pdpyras._ENDPOINTS:
        for method, names, _ in operations(path):
            if names is not None:
                sides = tuple(map(name, names.split(":")))
                expected[f"{method} {path}"] = sides * (3 - len(sides))
    assert sorted(pdpyras.ENTITY_WRAPPER_CONFIG) == sorted(expected)
    for endpoint, sides in expected.items():
        assert pdpyras.entity_wrappers(*endpoint.split(" ")) == sides


def test_no_row_states_what_convention_gives():
    for path in pdpyras._ENDPOINTS:
        for method, names, _ in operations(path):
            assert names != pdpyras.infer_entity_wrapper(method, path), path


def test_rows_without_an_own_name_are_not_stated_twice():
    for path in pdpyras._ENDPOINTS:
        for _, names, _ in operations(path):
            sent, _, received = str(names).rstrip("?").partition(":")
            assert sent != received, path


def test_no_row_is_dead():
    for path in pdpyras._ENDPOINTS:
        assert pdpyras.canonical_path(BASE, concrete(path)) == path


@pytest.mark.parametrize(
    "method, path, note",
    [
        ("POST", "/analytics/raw/incidents", "max1000"),
        (
            "POST",
            "/analytics/raw/responders/{responder_id}/incidents",
            "max1000",
        ),
        ("POST", "/analytics/raw/users", "max1000"),
        ("GET", "/recommendations/event_orchestrations/rules", "max50"),
        ("GET", "/v3/schedules", "max1000"),
        ("GET", "/ip_allow_lists", "early:ip-allow-lists"),
        ("POST", "/ip_allow_lists", "early:ip-allow-lists"),
        ("GET", "/ip_allow_lists/{id}", "early:ip-allow-lists"),
        ("PUT", "/ip_allow_lists/{id}", "early:ip-allow-lists"),
        ("DELETE", "/ip_allow_lists/{id}", "early:ip-allow-lists"),
        ("GET", "/ip_allow_lists/{id}/audit/records", "early:ip-allow-lists"),
        ("GET", "/standards/scores/{resource_type}", "plain:ids"),
        ("GET", "/incidents", "comma:sort_by"),
        ("PUT", "/incidents", "from"),
        ("PUT", "/incidents", "bulk250"),
        ("PUT", "/incidents/{id}/alerts", "bulk250"),
        ("PUT", "/priorities", "bulk250"),
    ],
)
def test_sampled_notes(method, path, note):
    assert note in operation(method, path)[1]


@pytest.mark.parametrize(
    "method, path, note",
    [
        ("GET", "/users", "max"),
        ("GET", "/users", "early"),
        ("GET", "/users", "from"),
        ("GET", "/users", "plain"),
        ("GET", "/incidents", "plain"),
        ("PUT", "/incidents/{id}", "bulk"),
        ("PUT", "/incidents/{id}/merge", "bulk"),
    ],
)
def test_notes_that_are_not_there(method, path, note):
    _, notes = operation(method, path)
    assert not any(found.startswith(note) for found in notes)


# --- What holds of any document ---------------------------------------------
#
# A second reading of the documents, which shares nothing with the script but
# the steps through a reference.

each_document = pytest.mark.parametrize(
    "api", APIS, ids=[api.name for api in APIS]
)
each_table = pytest.mark.parametrize(
    "table", TABLES, ids=[table.name for table in TABLES]
)


def schemas(api, body):
    """The schema of a request or an answer, for each media type of JSON."""
    content = (api.resolve(body) or {}).get("content", {})
    for media_type, described in content.items():
        if media_type.endswith("json"):
            yield described.get("schema", {})


def properties(api, schema):
    """Root properties by name, with their schemas."""
    schema = api.resolve(schema)
    found = dict(schema.get("properties", {}))
    for key in ("allOf", "oneOf", "anyOf"):
        for part in schema.get(key, []):
            found.update(properties(api, part))
    return found


def asked(api, described):
    """All that the body of a request may have, with the schemas."""
    found = {}
    for schema in schemas(api, described.get("requestBody")):
        found.update(properties(api, schema))
    return found


def answered(api, described):
    """All that the answer of success may have, with the schemas."""
    found = {}
    for status, response in described["responses"].items():
        if status.startswith("2"):
            for schema in schemas(api, response):
                found.update(properties(api, schema))
    return found


def documented(api, item, described, place):
    """Documented parameters by name, those of the operation first."""
    listed = described.get("parameters", []) + item.get("parameters", [])
    return {
        parameter["name"]: parameter
        for parameter in map(api.resolve, reversed(listed))
        if parameter["in"] == place
    }


def with_notes(api):
    """Each operation of the document, with the notes of its row."""
    table = api.module._ENDPOINTS
    for method, path, item, described in api.operations():
        _, notes = operation(method.upper(), path, table)
        yield f"{method} {path}", method, item, described, notes


@each_table
def test_the_table_is_what_the_documents_say(table):
    derived = script.derived_table(table.documents, table.decisions)
    known = table.module._ENDPOINTS
    assert derived == known
    assert list(known) == list(derived) == sorted(derived)


@each_table
def test_every_operation_is_of_a_document_or_was_decided(table):
    known = table.module._ENDPOINTS
    decided = {
        path: value
        for rows in (
            table.decisions.prose_only,
            table.decisions.historic,
            table.decisions.added,
            table.decisions.unlisted,
        )
        for path, (value, _) in rows.items()
        if path in known
    }
    expected = {
        (method.upper(), path)
        for api in table.apis
        for method, path, _, _ in api.operations()
    }
    expected.update(
        (method, path)
        for path in decided
        for method, _, _ in operations(path, decided)
    )
    assert expected == {
        (method, path)
        for path in known
        for method, _, _ in operations(path, known)
    }


@each_document
def test_every_list_by_offset_has_that_note(api):
    for endpoint, method, item, described, notes in with_notes(api):
        query = documented(api, item, described, "query")
        by_offset = method == "get" and (
            "offset" in query
            or {"offset", "more"} <= set(answered(api, described))
        )
        assert by_offset == ("offset" in notes), endpoint


@each_document
def test_every_list_by_cursor_has_that_note(api):
    for endpoint, method, item, described, notes in with_notes(api):
        query = documented(api, item, described, "query")
        by_cursor = method == "get" and (
            "cursor" in query or "next_cursor" in answered(api, described)
        )
        assert by_cursor == ("cursor" in notes), endpoint


@each_document
def test_every_other_list_in_pages_has_its_note(api):
    for endpoint, method, item, described, notes in with_notes(api):
        query = documented(api, item, described, "query")
        assert ("after" in query) == ("after" in notes), endpoint
        by_body = (
            method == "post"
            and "starting_after" in asked(api, described)
            and "last" in answered(api, described)
        )
        assert by_body == ("starting_after" in notes), endpoint
        is_scim = method == "get" and "totalResults" in answered(
            api, described
        )
        assert is_scim == ("scim" in notes), endpoint


@each_document
def test_every_largest_page_has_its_note(api):
    for endpoint, _, item, described, notes in with_notes(api):
        limits = [
            documented(api, item, described, "query").get("limit"),
            asked(api, described).get("limit"),
        ]
        text = json.dumps(list(map(api.resolve, limits)))
        stated = re.findall(r'"maximum": (\d+)|maximum[^".]*? (\d+)', text)
        sizes = {int(number) for pair in stated for number in pair if number}
        noted = {int(note[3:]) for note in notes if note.startswith("max")}
        paged = notes.intersection(STYLES)
        assert noted == (sizes - {100} if paged else set()), endpoint


@each_document
def test_every_list_that_is_updated_has_its_note(api):
    for endpoint, method, _, described, notes in with_notes(api):
        text = described.get("description", "")
        stated = re.findall(r"maximum of (\d+) \w+ may be updated", text)
        noted = [note[4:] for note in notes if note.startswith("bulk")]
        assert noted == stated, endpoint
        assert not stated or method == "put", endpoint


@each_document
def test_every_list_parameter_without_brackets_has_its_note(api):
    for endpoint, _, item, described, notes in with_notes(api):
        expected = set()
        for name, found in documented(api, item, described, "query").items():
            kind = api.resolve(found.get("schema", {})).get("type")
            if kind == "array" and "[]" not in name:
                joined = found.get("explode") is False
                expected.add(("comma:" if joined else "plain:") + name)
        lists = {n for n in notes if n.startswith(("plain:", "comma:"))}
        assert expected == lists, endpoint


def items_of(api, described):
    """The properties of the records of a list, with their schemas."""
    for schema in answered(api, described).values():
        schema = api.resolve(schema)
        if schema.get("type") == "array":
            return properties(api, schema.get("items", {}))
    return {}


@each_document
def test_every_list_by_period_has_its_notes_or_was_decided(api):
    for endpoint, _, item, described, notes in with_notes(api):
        query = documented(api, item, described, "query")
        by_period = {"since", "until"} <= set(query)
        by_period = by_period and bool(notes.intersection(STYLES))
        times = {n for n in notes if n.startswith("history:")}
        method, _, path = endpoint.partition(" ")
        endpoint = f"{method.upper()} {path}"
        if endpoint in api.decisions.periods:
            decided, reason = api.decisions.periods[endpoint]
            assert reason
            assert set(filter(None, decided.split(","))) <= notes, endpoint
            assert bool(decided) == bool(times), endpoint
            continue
        assert by_period == bool(times), endpoint
        if by_period:
            records = items_of(api, described)
            assert times == {
                "history:" + name
                for name, found in records.items()
                if api.resolve(found).get("format") == "date-time"
            }, endpoint
            text = json.dumps(query["until"])
            assert ("hh:mm:ssZ" in text) == ("seconds" in notes), endpoint
            days = {n for n in notes if n.startswith("days")}
            stated = "31 days" in text or "3 months" in text
            assert bool(days) == stated, endpoint


@pytest.mark.parametrize(
    "method, path, expected",
    [
        ("GET", "/incidents", {"history:created_at", "days180", "sorted"}),
        ("GET", "/log_entries", {"history:created_at"}),
        ("GET", "/notifications", {"history:started_at", "days88"}),
        ("GET", "/change_events", {"history:timestamp", "seconds"}),
        ("GET", "/audit/records", {"history:execution_time", "days31"}),
        ("GET", "/oncalls", {"history:start", "lasts:end"}),
        (
            "POST",
            "/analytics/raw/responders/{responder_id}/incidents",
            {"history:incident_created_at:incident_id"},
        ),
        ("GET", "/schedules", set()),
        ("GET", "/v3/schedules/{id}/overrides", set()),
        ("GET", "/users", set()),
    ],
)
def test_sampled_notes_of_time(method, path, expected):
    notes = operation(method, path)[1]
    names = ("history", "lasts", "days", "seconds", "sorted")
    assert {n for n in notes if n.startswith(names)} == expected


@pytest.mark.parametrize(
    "text, notes",
    [
        ("May not be more than 31 days after `since`.", ["days31"]),
        ("must be less than 3 months", ["days88"]),
        ("Maximum range is 6 months", ["days180"]),
        ("limited to 90 days in the future", []),
        ("", []),
    ],
)
def test_the_longest_period_that_a_description_allows(text, notes):
    assert script.longest_period(text) == notes


@each_document
def test_every_required_header_has_its_note(api):
    for endpoint, _, item, described, notes in with_notes(api):
        headers = documented(api, item, described, "header")
        required = {
            name: header
            for name, header in headers.items()
            if header.get("required")
        }
        assert ("From" in required) == ("from" in notes), endpoint
        early = [note[6:] for note in notes if note.startswith("early:")]
        assert ("X-EARLY-ACCESS" in required) == bool(early), endpoint
        for value in early:
            assert value in required["X-EARLY-ACCESS"]["description"]


def servers_of(api, item, described):
    for found in (described, item, api.document):
        if "servers" in found:
            return [server["url"] for server in found["servers"]]
    return ["https://api.pagerduty.com"]


@each_document
def test_every_host_and_media_type_has_its_note(api):
    for endpoint, _, item, described, notes in with_notes(api):
        (url,) = servers_of(api, item, described)
        host, _, path = url.partition("//")[2].partition("/")
        assert endpoint.split(" ")[1].startswith("/" + path.rstrip("/"))
        expected = set() if host == "api.pagerduty.com" else {"host:" + host}
        assert {n for n in notes if n.startswith("host:")} == expected
        types = {
            media_type
            for response in described["responses"].values()
            for media_type in api.resolve(response).get("content", {})
        }
        expected = {f"accept:{name}" for name in types if "scim" in name}
        found = {n for n in notes if n.startswith("accept:")}
        assert found == expected, endpoint


@pytest.mark.parametrize(
    "method, path, notes",
    [
        ("GET", "/scim/v2/Users", {"scim", "accept:application/scim+json"}),
        ("DELETE", "/scim/v2/Users/{id}", {"accept:application/scim+json"}),
        ("POST", "/integration-jira-service/rules", {APP}),
        (
            "GET",
            "/integration-slack/workspaces/{slack_team_id}/connections",
            {"offset", APP},
        ),
        (
            "GET",
            "/integration-slack/incidents/{incident_id}/dedicated_channel",
            set(),
        ),
        (
            "GET",
            "/integration-jira-cloud/accounts_mappings",
            {"offset"},
        ),
        (
            "POST",
            "/integration-ms-teams/incidents/{incident_id}/meeting",
            set(),
        ),
    ],
)
def test_sampled_notes_of_the_families(method, path, notes):
    assert operation(method, path)[1] == notes


def test_a_path_of_two_documents_is_refused():
    taken = copy.deepcopy(STAFF_API.document)
    other = {"paths": {"/Gardeners/{number}": PONDS["/ponds/{id}"]}}
    other["servers"] = [{"url": "https://app.pagerduty.com/staff/v2"}]
    with pytest.raises(script.DocumentError, match="is listed twice"):
        script.listed_paths([taken, other])
    other["servers"] = [{"url": "https://app.pagerduty.com/staff/v3"}]
    assert "/staff/v3/Gardeners/{number}" in script.listed_paths(
        [taken, other]
    )


def test_a_path_behind_two_servers_with_other_paths_is_refused():
    document = copy.deepcopy(STAFF_API.document)
    shed = document["paths"]["/sheds/{id}"]
    shed["delete"]["servers"] = [{"url": "https://app.pagerduty.com/v9"}]
    with pytest.raises(script.DocumentError, match="behind several paths"):
        script.listed_paths([document])


def test_answers_of_two_media_types_are_refused():
    document = copy.deepcopy(STAFF_API.document)
    item = document["paths"]["/Gardeners/{id}"]
    error = item["get"]["responses"]["404"]
    error["content"]["application/json"] = {}
    with pytest.raises(script.DocumentError, match="several media types"):
        script.derived_row(document, "/staff/v2/Gardeners/{id}", item)


# --- Samples ----------------------------------------------------------------


@pytest.mark.parametrize("method, path, request_, response, style", SAMPLES)
def test_sampled_operations(method, path, request_, response, style):
    canonical = pdpyras.canonical_path(BASE, path)
    wrappers = pdpyras.entity_wrappers(method, canonical)
    assert wrappers[1] == response
    if method != "GET":
        assert wrappers[0] == request_
    _, notes = operation(method, canonical)
    assert notes.intersection(STYLES) == ({style} if style else set())
    assert (canonical in pdpyras.CURSOR_BASED_PAGINATION_PATHS) == (
        style == "cursor"
    )


@pytest.mark.parametrize(
    "method, path, request_, response", [sample[:4] for sample in SAMPLES]
)
def test_sampled_operations_over_http(
    server, session, method, path, request_, response
):
    content = {"id": "PANSWER"}
    server.handler = lambda request: wire.Answer(
        json={response: content} if response else content
    )
    call = getattr(session, "r" + method.lower())
    if method == "GET":
        assert call(path) == content
        assert server.requests[0].body == b""
        return
    sent = {"name": "sent"}
    assert call(path, json=sent) == content
    assert server.requests[0].method == method
    assert server.requests[0].json == ({request_: sent} if request_ else sent)


# --- Looking up -------------------------------------------------------------


@pytest.mark.parametrize("path", LITERALS)
def test_a_literal_beats_a_parameter(path):
    assert pdpyras.canonical_path(BASE, concrete(path)) == path
    assert pdpyras.canonical_path(BASE, BASE + concrete(path)) == path


def test_every_literal_that_a_parameter_would_match_is_found():
    def shadows(general, special):
        pairs = list(zip(general.split("/"), special.split("/")))
        return (
            general.count("/") == special.count("/")
            and all(g == s or g.startswith("{") for g, s in pairs)
            and any(g.startswith("{") > s.startswith("{") for g, s in pairs)
        )

    # /{entity_type}/{id}/tags would be there for every list of tags.
    general = [path for path in pdpyras._ENDPOINTS if path[1] != "{"]
    shadowed = [
        special
        for special in general
        if any(shadows(path, special) for path in general)
    ]
    assert set(LITERALS) <= set(shadowed)
    for path in shadowed:
        assert pdpyras.canonical_path(BASE, concrete(path)) == path


@pytest.mark.parametrize("path, canonical", CROSSINGS)
def test_where_two_paths_cross(path, canonical):
    assert pdpyras.canonical_path(BASE, path) == canonical


def test_one_match_for_every_pair_of_paths_that_overlap():
    for path in pdpyras._ENDPOINTS:
        for filler in ("users", "tags", "services", "types", "me"):
            asked = concrete(path, filler)
            found = pdpyras.canonical_path(BASE, asked).split("/")
            assert len(found) == path.count("/") + 1
            assert all(
                pdpyras.is_path_param(f) or f == a
                for f, a in zip(found, asked.split("/"))
            )


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/no_such_thing",
        "/users/PABC123/no_such_thing",
        "/users/PABC123/sessions/web",
        "/tags/PABC123/services",
    ],
)
def test_what_no_path_describes(path):
    with pytest.raises(pdpyras.URLError):
        pdpyras.canonical_path(BASE, path)


# --- Names ------------------------------------------------------------------


@pytest.mark.parametrize("plural, singular", NAMES)
def test_plural_and_singular(plural, singular):
    assert pdpyras.singular_name(plural) == singular
    assert pdpyras.plural_name(singular) == plural
    assert pdpyras.plural_name(singular + "_reference") == plural


@pytest.mark.parametrize("word", ["analysis", "status", "memory", "access"])
def test_what_is_no_plural_stays(word):
    assert pdpyras.singular_name(word) == word


def test_two_implementations_of_the_convention_agree():
    for path in pdpyras._ENDPOINTS:
        for method, names, _ in operations(path):
            if names is None:
                assert pdpyras.infer_entity_wrapper(
                    method, path
                ) == script.conventional(method.lower(), path)


# --- Additions at run time --------------------------------------------------


@pytest.fixture
def tables():
    """Puts the public tables back as they were."""
    lists = (pdpyras.CANONICAL_PATHS, pdpyras.CURSOR_BASED_PAGINATION_PATHS)
    before = [list(table) for table in lists]
    config = dict(pdpyras.ENTITY_WRAPPER_CONFIG)
    yield
    for table, rows in zip(lists, before):
        table[:] = rows
    pdpyras.ENTITY_WRAPPER_CONFIG.clear()
    pdpyras.ENTITY_WRAPPER_CONFIG.update(config)


def test_an_added_path_is_known_at_the_next_call(tables):
    with pytest.raises(pdpyras.URLError):
        pdpyras.canonical_path(BASE, "/gadgets/G1")
    pdpyras.CANONICAL_PATHS.append("/gadgets/{id}")
    assert pdpyras.canonical_path(BASE, "/gadgets/G1") == "/gadgets/{id}"
    assert pdpyras.entity_wrappers("GET", "/gadgets/{id}") == (
        "gadget",
        "gadget",
    )
    pdpyras.ENTITY_WRAPPER_CONFIG["* /gadgets/{id}"] = ("widget", None)
    assert pdpyras.entity_wrappers("put", "/gadgets/{id}") == ("widget", None)
    pdpyras.ENTITY_WRAPPER_CONFIG["PUT /gadgets/{id}"] = "thing"
    assert pdpyras.entity_wrappers("put", "/gadgets/{id}") == (
        "thing",
        "thing",
    )


def test_a_path_that_was_taken_out_is_forgotten(tables):
    pdpyras.CANONICAL_PATHS.append("/gadgets/{id}")
    pdpyras.canonical_path(BASE, "/gadgets/G1")
    pdpyras.CANONICAL_PATHS.remove("/gadgets/{id}")
    with pytest.raises(pdpyras.URLError):
        pdpyras.canonical_path(BASE, "/gadgets/G1")


def test_a_malformed_wrapper_is_named(tables):
    pdpyras.ENTITY_WRAPPER_CONFIG["GET /users/{id}"] = ("a", "b", "c")
    with pytest.raises(Exception, match="GET /users/{id}"):
        pdpyras.entity_wrappers("GET", "/users/{id}")


def test_added_lists_are_iterated(tables, server, session):
    pdpyras.CANONICAL_PATHS += ["/gadgets", "/gizmos"]
    pdpyras.CURSOR_BASED_PAGINATION_PATHS.append("/gizmos")
    server.reply(json={"gadgets": [1, 2], "more": True})
    server.reply(json={"gadgets": [3], "more": False})
    assert list(session.iter_all("gadgets")) == [1, 2, 3]
    server.reply(json={"gizmos": [4], "next_cursor": "there"})
    server.reply(json={"gizmos": [5], "next_cursor": None})
    assert list(session.iter_all("gizmos")) == [4, 5]
    assert ("cursor", "there") in server.requests[-1].query


def test_looking_up_does_not_grow_with_the_table(tables):
    asked = [concrete(path) for path in pdpyras._ENDPOINTS]

    def seconds():
        def look_up():
            for path in asked:
                pdpyras.canonical_path(BASE, path)

        look_up()
        return min(timeit.repeat(look_up, number=1, repeat=7))

    before = seconds()
    pdpyras.CANONICAL_PATHS.extend(
        f"/users/{{id}}/added_{n}" for n in range(1000)
    )
    assert seconds() < 4 * before


# --- Wrappers that may be missing -------------------------------------------

# What schema and examples disagree on: method, path, wrapper of the request,
# wrapper of the response.
OPTIONAL = [
    ("GET", "/workflows/integrations/W1", None, "integration"),
    ("POST", "/workflows/integrations/W1/connections", None, "connection"),
    ("GET", "/workflows/integrations/W1/connections/C1", None, "connection"),
    ("PATCH", "/workflows/integrations/W1/connections/C1", None, "connection"),
    ("GET", "/users/P1/oauth_delegations/D1", None, "oauth_delegation"),
    (
        "GET",
        "/paused_incident_reports/alerts",
        None,
        "paused_incident_reporting_counts",
    ),
    ("POST", "/rulesets", "ruleset", "ruleset"),
    (
        "PUT",
        "/users/P1/status_update_notification_rules/N1",
        "status_update_notification_rule",
        "status_update_notification_rule",
    ),
]


@pytest.mark.parametrize("method, path, request_, response", OPTIONAL)
def test_a_wrapper_that_may_be_missing_is_taken_off_if_it_is_there(
    server, session, method, path, request_, response
):
    content = {"id": "PANSWER"}
    call = partial(getattr(session, "r" + method.lower()), path)
    if method != "GET":
        call = partial(call, json={"name": "sent"})
    for body in ({response: content}, content, [content], {}):
        server.reply(json=body)
        assert call() == (content if response in body else body)
        sent = server.requests[-1].body
        if method == "GET":
            assert sent == b""
        else:
            named = {"name": "sent"}
            named = {request_: named} if request_ else named
            assert json.loads(sent.decode()) == named
    server.reply(200, body=b"no JSON")
    with pytest.raises(pdpyras.PDServerError):
        call()


@pytest.mark.parametrize("method, path, request_, response", OPTIONAL)
def test_a_callers_entry_wins_over_a_wrapper_that_may_be_missing(
    tables, server, session, method, path, request_, response
):
    canonical = pdpyras.canonical_path(BASE, path)
    # The same names, but now they are not in doubt.
    pdpyras.ENTITY_WRAPPER_CONFIG[f"{method} {canonical}"] = (
        request_,
        response,
    )
    call = getattr(session, "r" + method.lower())
    server.reply(json={response: {"id": "P1"}})
    assert call(path) == {"id": "P1"}
    server.reply(json={"id": "P1"})
    with pytest.raises(pdpyras.PDServerError, match=response):
        call(path)


def test_other_wrappers_must_be_there(server, session):
    for path in ("/users/P1", "/rulesets/R1"):
        server.reply(json={"id": "P1"})
        with pytest.raises(pdpyras.PDServerError):
            session.rget(path)


@pytest.mark.parametrize("method, path, request_, response", OPTIONAL)
def test_public_names_of_wrappers_bear_no_mark(
    method, path, request_, response
):
    canonical = pdpyras.canonical_path(BASE, path)
    wrappers = pdpyras.entity_wrappers(method, canonical)
    assert wrappers == (request_ or wrappers[0], response)
    entry = pdpyras.ENTITY_WRAPPER_CONFIG[f"{method} {canonical}"]
    assert entry == wrappers


def test_every_disagreement_makes_a_wrapper_optional():
    for api in APIS:
        for method, path, _, described in api.operations():
            judged = script.derived_wrappers(
                api.document,
                f"{method.upper()} {path}",
                described,
                api.decisions.judgements,
            )
            names, _ = operation(method.upper(), path, api.module._ENDPOINTS)
            optional = str(judged.response).endswith("?")
            assert str(names).endswith("?") == optional, path
            known = api.module._operation(method.upper(), path)
            assert known.is_optional == optional


def test_an_answer_without_a_body_is_none(server, session):
    for status in (204, 200):
        server.reply(status)
        assert session.rget("/abilities/teams") is None
    assert pdpyras.entity_wrappers("GET", "/abilities/{id}") == (None, None)


# --- List parameters --------------------------------------------------------


@each_table
def test_list_parameters_have_brackets_wherever_they_occur(table):
    bracketed, plain = set(), set()
    found = [
        (api, name, parameter)
        for api in table.apis
        for _, _, item, described in api.operations()
        for name, parameter in documented(
            api, item, described, "query"
        ).items()
    ]
    for api, name, parameter in found:
        kind = api.resolve(parameter.get("schema", {})).get("type")
        if name.endswith("[]"):
            bracketed.add(name.replace("[]", ""))
        elif kind != "array":
            plain.add(name)
    assert bracketed - plain == table.module._LIST_PARAMS


@pytest.mark.parametrize(
    "name", ["statuses", "include", "user_ids", "service_ids", "ids"]
)
def test_sampled_list_parameters(name):
    assert name in pdpyras._LIST_PARAMS


@pytest.mark.parametrize("name", ["status", "sort_by", "since", "limit", ""])
def test_parameters_that_are_no_lists(name):
    assert name not in pdpyras._LIST_PARAMS


# --- The script -------------------------------------------------------------


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT)] + list(map(str, arguments)),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def test_differences_are_readable():
    derived = {"/a": "GET", "/b": "GET POST", "/c": "GET=x"}
    kept = {"/c": "GET", "/b": "GET POST", "/d": "DELETE"}
    assert list(script.differences(derived, kept)) == [
        "added    /a: GET",
        "gone     /d: DELETE",
        "changed  /c\n  module    GET\n  document  GET=x",
        "order    the module's rows are not in alphabetical order",
    ]
    assert not list(script.differences(derived, derived))


@pytest.mark.parametrize(
    "properties, wrapper",
    [
        ({"user": "object"}, "user"),
        ({"users": "array", "limit": "integer", "more": "boolean"}, "users"),
        (
            {
                "records": "array",
                "next_cursor": "string",
                "response_metadata": "object",
            },
            "records",
        ),
        ({"user": "object", "privileges": "object"}, "-"),
        ({"a": "object", "b": "array"}, "-"),
        ({"active": "boolean"}, "-"),
        ({"role": "string"}, "-"),
        ({}, "-"),
    ],
)
def test_the_rule_for_wrappers(properties, wrapper):
    assert script.wrapper(properties) == wrapper


def test_a_contradiction_needs_a_judgement():
    described = {
        "schema": {"properties": {"rule": {"type": "object"}}},
        "examples": {"one": {"value": {"ruleset": {}}}},
    }
    operation = {
        "responses": {"201": {"content": {"application/json": described}}}
    }
    with pytest.raises(script.DocumentError, match="POST /things needs"):
        script.derived_wrappers({}, "POST /things", operation)


@pytest.mark.parametrize("option", [[], ["--check"], ["--write"]])
@pytest.mark.parametrize(
    "text, complaint",
    [
        (None, "No such file"),
        ("no JSON", "Expecting value"),
        ("[]", "no OpenAPI document"),
        ("{}", "no OpenAPI document"),
        ('{"paths": {"/things": {}}}', "rows to take out"),
        ('{"paths": []}', "no OpenAPI document"),
        ('{"paths": [1]}', "no OpenAPI document"),
    ],
)
def test_a_document_that_is_none_is_refused(
    tmp_path, module, text, complaint, option
):
    other = tmp_path / "other.json"
    if text is not None:
        other.write_text(text, encoding="utf-8")
    done = run_script(other, "--module", module, *option)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"{other}: ")
    assert complaint in done.stderr
    assert module.read_bytes() == MODULE.read_bytes()


@pytest.mark.parametrize(
    "path, item, complaint",
    [
        ("/empty", {}, "has no operations"),
        ("/silent", {"get": {}}, "no OpenAPI document: KeyError"),
        (
            "/lost",
            {"get": {"responses": {"200": {"$ref": "#/nowhere"}}}},
            "no OpenAPI document: KeyError",
        ),
        # Nothing may end the string literal of a row, or its notation.
        (
            '/a": "GET"}',
            {"get": {"responses": {}}},
            "not for a row of the table",
        ),
        (
            "/two words",
            {"get": {"responses": {}}},
            "not for a row of the table",
        ),
        (
            "/odd",
            {
                "get": {
                    "responses": {},
                    "parameters": [
                        {
                            "name": "a,b",
                            "in": "query",
                            "schema": {"type": "array"},
                        }
                    ],
                }
            },
            "not for a row of the table",
        ),
    ],
)
def test_what_the_table_cannot_say_is_refused(
    capsys, tmp_path, module, path, item, complaint
):
    other = saved(tmp_path, SMALL_API.document, {path: item})
    assert run_small(other, "--write", "--module", module) == 2
    assert complaint in capsys.readouterr().err
    assert module.read_bytes() == MODULE.read_bytes()


# --- Following a document ---------------------------------------------------

# What the small document says, written down by reading it.
SMALL_TABLE = {
    "/beds": "GET,offset,max250 POST,from PUT,from,bulk40",
    "/beds/count": "GET=-",
    "/beds/summary": "GET=-",
    "/beds/{id}": "GET PUT DELETE",
    "/beds/{id}/gardeners": "GET,offset DELETE=gardeners:-",
    "/beds/{id}/join": "PUT=source_beds:bed",
    "/beds/{id}/seeds": "POST=-",
    "/beds/{id}/water": "POST=-:bed",
    "/harvests": (
        "GET,cursor,max50,history:picked_at,days31,plain:crops,comma:sort_by"
    ),
    "/harvests/search": "POST=-,starting_after,max1000,history:picked_at",
    "/labels/{id}/beds": "GET,offset",
    "/labels/{id}/robots": "GET,offset",
    "/nurseries": "GET=saplings,cursor",
    "/pots": "GET,offset POST",
    "/probes/{id}": "GET=probe_readings? PUT,bulk9",
    "/robots": "GET,early:garden-robots PATCH=robots:-,early:garden-robots",
    "/skills/{id}": "GET=-",
    "/sprinklers": "GET,after",
    "/staff/v2/Gardeners": (
        "GET=Resources,scim,accept:application/scim+json "
        "POST=-,accept:application/scim+json"
    ),
    "/staff/v2/Gardeners/{id}": (
        "GET=-,accept:application/scim+json "
        "PATCH=-,accept:application/scim+json "
        "DELETE,accept:application/scim+json"
    ),
    "/staff/v2/Kinds": "GET=Resources,scim,accept:application/scim+json",
    "/staff/v2/sheds/{id}": (
        "GET,host:app.pagerduty.com DELETE,host:app.pagerduty.com"
    ),
    "/visits": "GET,offset,history:came_at,seconds",
}
SMALL_LIST_PARAMS = ["zone_ids"]

# What a new release of a document might bring: a list, and one of its things.
PONDS = {
    "/ponds": {
        "get": {
            "parameters": [
                {"name": name, "in": "query", "schema": {"type": "integer"}}
                for name in ("limit", "offset")
            ],
            "responses": {
                "200": {
                    "description": "A page of ponds.",
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {
                                    "ponds": {"type": "array", "items": {}},
                                    "limit": {"type": "integer"},
                                    "offset": {"type": "integer"},
                                    "more": {"type": "boolean"},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
    "/ponds/{id}": {
        "delete": {"responses": {"204": {"description": "Drained."}}},
    },
}
POND_ROWS = {"/ponds": "GET,offset", "/ponds/{id}": "DELETE"}


def saved(directory, document, more=()):
    """The file of a document, to which these paths were added."""
    path = directory / "changed.json"
    paths = dict(document["paths"], **dict(more))
    path.write_text(json.dumps(dict(document, paths=paths)), encoding="utf-8")
    return path


def run_small(document, *arguments):
    """Run the script on it and the other small document, as was decided."""
    given = [document, STAFF_API.path] + list(arguments)
    return script.main(list(map(str, given)), SMALL.decisions)


def cut(path):
    """What stands around and between the marks, by turns.

    The second is the table, and the fourth the list parameters.
    """
    source = path.read_bytes()
    parts = re.split(b"(?m)^# fmt: (?:off|on)\r?\n", source, maxsplit=4)
    assert b"_ENDPOINTS" in parts[1] and b"_LIST_PARAMS" in parts[3]
    return parts


@pytest.fixture
def module(tmp_path):
    """A copy of the module, alone in its directory."""
    path = tmp_path / "copy" / "pdpyras.py"
    path.parent.mkdir()
    path.write_bytes(MODULE.read_bytes())
    return path


@pytest.fixture
def small_module(module, capsys):
    """A copy of the module that has the table of the small document."""
    assert run_small(SMALL_API.path, "--write", "--module", module) == 0
    capsys.readouterr()
    return module


def test_the_small_document_as_it_was_read():
    for documents_ in (SMALL.documents, SMALL.documents[::-1]):
        table = script.derived_table(documents_, SMALL.decisions)
        assert table == dict(sorted(SMALL_TABLE.items()))


def test_write_replaces_the_table_and_nothing_else(module):
    before = cut(module)
    assert run_small(SMALL_API.path, "--write", "--module", module) == 0
    written = cut(module)
    assert written[0::2] == before[0::2]
    assert written[1] != before[1] and written[3] != before[3]
    assert max(map(len, b"\n".join(written[1::2]).split(b"\n"))) <= 79
    found = {}
    literals = (written[1] + written[3]).decode()
    exec("from typing import Dict, FrozenSet\n" + literals, found)
    assert found["_ENDPOINTS"] == SMALL_TABLE
    assert found["_LIST_PARAMS"] == frozenset(SMALL_LIST_PARAMS)
    assert os.listdir(str(module.parent)) == [module.name]


def test_write_says_what_it_changed_row_by_row(tmp_path, small_module, capsys):
    changed = copy.deepcopy(SMALL_API.document)
    del changed["paths"]["/beds/summary"]
    del changed["paths"]["/beds/{id}"]["put"]
    changed = saved(tmp_path, changed, PONDS)
    report = (
        "added    /ponds: GET,offset\n"
        "added    /ponds/{id}: DELETE\n"
        "gone     /beds/summary: GET=-\n"
        "changed  /beds/{id}\n"
        "  module    GET PUT DELETE\n"
        "  document  GET DELETE\n"
    )
    assert run_small(changed, "--check", "--module", small_module) == 1
    assert capsys.readouterr() == (report, "")
    assert run_small(changed, "--write", "--module", small_module) == 0
    assert capsys.readouterr() == (report + f"written  {small_module}\n", "")
    assert run_small(changed, "--check", "--module", small_module) == 0
    rows = len(SMALL_TABLE) - 1 + len(POND_ROWS)
    assert capsys.readouterr() == (f"no difference in {rows} paths\n", "")


def test_write_without_a_difference_leaves_the_file_alone(
    small_module, capsys
):
    before = small_module.stat()
    assert run_small(SMALL_API.path, "--write", "--module", small_module) == 0
    assert capsys.readouterr().out.startswith("no difference in ")
    after = small_module.stat()
    assert (after.st_ino, after.st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


def test_rows_in_another_layout_are_a_difference(small_module, capsys):
    written = small_module.read_bytes()
    row = b'    "/pots": "GET,offset POST",\n'
    assert row in written
    small_module.write_bytes(written.replace(row, b"    # Why?\n" + row))
    for option, status in (("--check", 1), ("--write", 0)):
        assert status == run_small(
            SMALL_API.path, option, "--module", small_module
        )
        assert "written in another way" in capsys.readouterr().out
    assert small_module.read_bytes() == written


def test_line_ends_and_permissions_are_kept(module):
    windows = module.read_bytes().replace(b"\n", b"\r\n")
    module.write_bytes(windows)
    module.chmod(0o640)
    assert run_small(SMALL_API.path, "--write", "--module", module) == 0
    written = module.read_bytes()
    assert written != windows
    assert written.count(b"\n") == written.count(b"\r\n")
    assert stat.S_IMODE(module.stat().st_mode) == 0o640


def test_a_link_to_the_module_stays_a_link(tmp_path, module):
    link = tmp_path / "pdpyras.py"
    link.symlink_to(module)
    assert run_small(SMALL_API.path, "--write", "--module", link) == 0
    assert link.is_symlink()
    assert b'"/pots"' in module.read_bytes()


def test_a_disk_that_is_full_leaves_the_module_whole(tmp_path, module):
    resource = pytest.importorskip("resource")
    changed = saved(tmp_path, SMALL_API.document)
    program = (
        "import sys; from tests.documents import SMALL_API, script; "
        "sys.exit(script.main(sys.argv[1:], SMALL_API.decisions))"
    )
    done = subprocess.run(
        [sys.executable, "-Bc", program]
        + [str(changed), "--write", "--module", str(module)],
        check=False,
        cwd=documents.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (10000, 10000)
        ),
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"{module}: ")
    assert module.read_bytes() == MODULE.read_bytes()
    assert os.listdir(str(module.parent)) == [module.name]


@pytest.mark.parametrize(
    "source",
    [
        "",
        "_ENDPOINTS: Dict[str, str] = {}\n",
        "# fmt: off\n_ENDPOINTS: Dict[str, str] = {}\n",
        "# fmt: off\n_ENDPOINTS: Dict[str, str] = dict()\n# fmt: on\n",
        "# fmt: off\n_ENDPOINTS: Dict[str, str]\n# fmt: on\n",
        "# fmt: off\n_ENDPOINTS: Dict[str, str] = {}\na = 1\n# fmt: on\n",
        "# fmt: off\n_ENDPOINTS: Dict[str, str] = {\n# fmt: on\n",
    ],
)
@pytest.mark.parametrize("option", ["--check", "--write"])
def test_a_module_without_the_table_is_refused(module, capsys, source, option):
    module.write_text(source, encoding="utf-8")
    assert run_small(SMALL_API.path, option, "--module", module) == 2
    printed, complaint = capsys.readouterr()
    assert printed == ""
    assert "_ENDPOINTS" in complaint
    assert complaint.startswith(f"{module}: ")
    assert module.read_text(encoding="utf-8") == source


@pytest.mark.parametrize(
    "row", [{'/a"': "GET"}, {"/a": 'GET"}\nprint("'}, {"/a": "GET\\"}]
)
def test_what_would_read_as_something_else_is_refused(row):
    with pytest.raises(script.ModuleError):
        script.read_module(MODULE).with_table(row)


def test_no_module_at_all(tmp_path, capsys):
    absent = tmp_path / "absent.py"
    assert run_small(SMALL_API.path, "--write", "--module", absent) == 2
    assert capsys.readouterr().err.startswith(f"{absent}: ")
    assert not absent.exists()


def test_a_decision_without_its_subject_is_refused(tmp_path, capsys):
    changed = copy.deepcopy(SMALL_API.document)
    del changed["paths"]["/probes/{id}"]
    del changed["paths"]["/labels/{id}/{entity_type}"]
    more = {"/pots": PONDS["/ponds"], "/beds/count": PONDS["/ponds"]}
    assert run_small(saved(tmp_path, changed, more)) == 2
    complaint = capsys.readouterr().err
    assert "rows to take out: " in complaint
    for path in ("/probes/{id}", "/labels/{id}", "/pots", "/beds/count"):
        assert path in complaint


def test_a_row_that_was_added_goes_once_the_document_lists_its_path():
    given = SMALL_API.decisions
    assert "/beds/{bed_id}" in given.added
    table = script.derived_table(SMALL.documents, given)
    assert "/beds/{bed_id}" not in table
    assert table["/nurseries"] == given.added["/nurseries"][0]
    ponds = {path: (row, "not yet") for path, row in POND_ROWS.items()}
    ponds["/ponds"] = ("GET=puddles", "not yet")
    document = copy.deepcopy(SMALL_API.document)
    decisions = given._replace(added=ponds)
    documents_ = [document, STAFF_API.document]
    table = script.derived_table(documents_, decisions)
    assert table["/ponds"] == "GET=puddles"
    document["paths"].update(PONDS)
    table = script.derived_table(documents_, decisions)
    assert table["/ponds"] == "GET,offset"


def test_an_unlisted_operation_has_a_row_until_it_is_listed(tmp_path, capsys):
    given = SMALL_API.decisions
    (path,) = given.unlisted
    value, _ = given.unlisted[path]
    table = script.derived_table(SMALL.documents, given)
    assert table[path].endswith(f" {value}")
    changed = copy.deepcopy(SMALL_API.document)
    changed["paths"][path]["put"] = changed["paths"]["/beds"]["put"]
    assert run_small(saved(tmp_path, changed)) == 2
    assert f"rows to take out: {path}" in capsys.readouterr().err


def test_list_parameters_are_compared_name_by_name(
    tmp_path, small_module, capsys
):
    changed = copy.deepcopy(SMALL_API.document)
    query = changed["paths"]["/beds"]["get"]["parameters"]
    (zones,) = [p for p in query if p.get("name") == "zone_ids[]"]
    zones["name"] = "row_ids[]"
    changed = saved(tmp_path, changed)
    report = "added    row_ids[]\ngone     zone_ids[]\n"
    assert run_small(changed, "--check", "--module", small_module) == 1
    assert capsys.readouterr() == (report, "")
    assert run_small(changed, "--write", "--module", small_module) == 0
    assert capsys.readouterr() == (report + f"written  {small_module}\n", "")
    assert run_small(changed, "--check", "--module", small_module) == 0
    assert b'    "row_ids",\n' in cut(small_module)[3]


def test_a_parameter_that_is_a_single_value_somewhere_is_no_list():
    document = copy.deepcopy(SMALL_API.document)
    assert script.derived_list_params([document]) == SMALL_LIST_PARAMS
    query = document["paths"]["/sprinklers"]["get"]["parameters"]
    once = {"name": "zone_ids", "in": "query", "schema": {"type": "array"}}
    query.append(once)
    assert script.derived_list_params([document]) == SMALL_LIST_PARAMS
    once["schema"]["type"] = "string"
    assert script.derived_list_params([document]) == []
    once["name"] = 'a"[]'
    with pytest.raises(script.DocumentError, match="list parameters"):
        script.derived_list_params([document])


def test_a_judgement_that_is_needed_no_more_is_refused(tmp_path, capsys):
    text = SMALL_API.path.read_text(encoding="utf-8")
    mended = tmp_path / "mended.json"
    mended.write_text(
        text.replace("probe_data", "probe_readings"), encoding="utf-8"
    )
    assert run_small(mended) == 2
    complaint = capsys.readouterr().err
    assert "GET /probes/{id} needs no judgement any more" in complaint


def test_a_note_is_added_in_one_place(monkeypatch):
    monkeypatch.setattr(
        script,
        "NOTES",
        script.NOTES + (lambda operation: ["x" + operation.method],),
    )
    table = script.derived_table(SMALL.documents, SMALL.decisions)
    assert table["/sprinklers"] == "GET,after,xget"
    assert table["/beds/{id}"] == "GET,xget PUT,xput DELETE,xdelete"


def test_the_exit_statuses_are_documented():
    done = run_script("--help")
    assert done.returncode == 0
    assert "Exit status: 0 done" in " ".join(done.stdout.split())


def check_that_ponds_are_known(path, server):
    known = documents.import_copy(path, "pdpyras_with_ponds")
    assert POND_ROWS.items() <= known._ENDPOINTS.items()
    assert "/ponds" in known.CANONICAL_PATHS
    assert known.canonical_path(BASE, "/ponds/P1") == "/ponds/{id}"
    server.reply(json={"ponds": [1, 2], "more": True})
    server.reply(json={"ponds": [3], "more": False})
    with known.APISession("not-a-real-key") as session:
        session.url = server.url
        assert list(session.iter_all("ponds")) == [1, 2, 3]
    assert ("offset", "2") in server.requests[-1].query


def test_a_new_endpoint_is_known_after_write(tmp_path, small_module, server):
    with pytest.raises(pdpyras.URLError):
        pdpyras.canonical_path(BASE, "/ponds")
    changed = saved(tmp_path, SMALL_API.document, PONDS)
    assert run_small(changed, "--write", "--module", small_module) == 0
    check_that_ponds_are_known(small_module, server)


@needs_documents
def test_the_next_release_of_a_document(tmp_path, module, server):
    rest, *others = PAGERDUTY.apis
    changed = saved(tmp_path, rest.document, PONDS)
    paths = [changed] + [api.path for api in others]
    done = run_script(*paths, "--write", "--module", module)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "added    /ponds: GET,offset\n"
        "added    /ponds/{id}: DELETE\n"
        f"written  {module}\n"
    )
    check_that_ponds_are_known(module, server)


@needs_documents
def test_the_module_has_the_table_of_the_documents():
    done = run_script(*PAGERDUTY.paths, "--check")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    rows = len(pdpyras._ENDPOINTS)
    assert done.stdout == f"no difference in {rows} paths\n"


@needs_documents
def test_a_document_that_is_left_out_is_gone(module):
    done = run_script(*PAGERDUTY.paths[:-1], "--check", "--module", module)
    assert done.returncode == 1
    gone = {line.split()[1].rstrip(":") for line in done.stdout.splitlines()}
    assert gone == {
        path
        for path in pdpyras._ENDPOINTS
        if path.startswith("/integration-slack/")
    }


@needs_documents
def test_what_the_script_prints_is_the_table():
    done = run_script(*PAGERDUTY.paths)
    assert (done.returncode, done.stderr) == (0, "")
    literals = b"\n".join(cut(MODULE)[1::2]).decode().replace("\r\n", "\n")
    assert done.stdout == literals


def test_what_a_note_says_is_known_of_an_operation():
    for endpoint, _ in pdpyras._operations_with(""):
        operation = pdpyras._operation_of_table(endpoint)
        for name in vars(operation):
            assert hasattr(pdpyras._Operation, name), (endpoint, name)


def test_early_access_given_as_one_name(server, session):
    session.early_access = "ip-allow-lists"
    session.get("users", params={"limit": 1})
    assert "x-early-access" not in server.requests[-1].headers
    session.get("ip_allow_lists")
    sent = server.requests[-1].headers["x-early-access"]
    assert sent == "ip-allow-lists"


def test_a_list_by_period_without_its_time_needs_a_decision():
    document = {**SMALL_API.document, "paths": {}}
    item = copy.deepcopy(SMALL_API.document["paths"]["/visits"])
    answer = item["get"]["responses"]["200"]["content"]["application/json"]
    visit = answer["schema"]["properties"]["visits"]["items"]
    visit["properties"]["left_at"] = visit["properties"]["came_at"]
    with pytest.raises(script.DocumentError, match="PERIODS is needed"):
        script.derived_row(document, "/visits", item)
    decided = {"GET /visits": ("history:came_at", "they come to be seen")}
    row = script.derived_row(document, "/visits", item, periods=decided)
    assert row == "GET,offset,history:came_at"


def test_a_decision_about_time_that_is_needed_no_more_is_refused():
    item = SMALL_API.document["paths"]["/visits"]
    decided = {"GET /visits": ("history:came_at,seconds", "as documented")}
    with pytest.raises(script.DocumentError, match="needed no more"):
        script.derived_row(
            SMALL_API.document, "/visits", item, periods=decided
        )
