"""The endpoint table: what it says, what is derived from it, look-ups.

The samples below were written down by reading PagerDuty's API document, so
that a clone without that document tests every kind of endpoint too. With the
document at hand (``../shared/openapi/rest.json``, or the path in
``PAGERDUTY_OPENAPI``) the whole table is compared with it.
"""

import os
import re
import subprocess
import sys
import timeit
from pathlib import Path

import pytest

import pdpyras
from tests import wire
from tests.support import load_script

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tools" / "endpoints.py"
DOCUMENT = Path(
    os.environ.get(
        "PAGERDUTY_OPENAPI", str(ROOT / "../shared/openapi/rest.json")
    )
)
BASE = "https://api.pagerduty.com"

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
STYLES = ["offset", "cursor", "after", "starting_after"]
OPERATION = re.compile(
    r"(?P<method>[A-Z]+)"
    r"(?:=(?P<names>-|[a-z_]+|(?:-|[a-z_]+):(?:-|[a-z_]+)))?"
    r"(?P<notes>(?:,(?:offset|cursor|after|starting_after|from|max\d+"
    r"|(?:plain|comma):[a-z_]+|early:[a-z-]+))*)"
)

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
        "connection",
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


def operations(path):
    """The operations of a row: (method, names or None, set of notes)."""
    for text in pdpyras._ENDPOINTS[path].split(" "):
        found = OPERATION.fullmatch(text)
        assert found, f"{path}: {text!r} follows no grammar"
        notes = set(filter(None, found.group("notes").split(",")))
        yield found.group("method"), found.group("names"), notes


def operation(method, path):
    """Names and notes of one operation of a row."""
    ((_, names, notes),) = [
        row for row in operations(path) if row[0] == method
    ]
    return names, notes


def concrete(path, value="PABC123"):
    """The path with all its parameters filled in."""
    return re.sub(r"{.*?}", value, path)


def name(text):
    return None if text == "-" else text


@pytest.fixture(scope="module")
def script():
    """The derivation script as a module."""
    return load_script("tools", "endpoints.py")


# --- The table and what is derived from it ----------------------------------


def test_every_row_follows_the_grammar():
    for path in pdpyras._ENDPOINTS:
        assert re.fullmatch(r"(/([a-z0-9_]+|{[a-z_]+}))+", path), path
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


def test_the_table_has_the_paths_it_should():
    # 273 of the document, three lists in place of one, 16 historic.
    assert len(pdpyras._ENDPOINTS) == 273 - 1 + 3 + 16
    assert "/tags/{id}/{entity_type}" not in pdpyras._ENDPOINTS


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


def test_no_row_is_dead():
    for path in pdpyras._ENDPOINTS:
        assert pdpyras.canonical_path(BASE, concrete(path)) == path


def test_how_many_lists_come_in_pages():
    count = dict.fromkeys(STYLES, 0)
    for path in pdpyras._ENDPOINTS:
        for _, _, notes in operations(path):
            for style in notes.intersection(STYLES):
                count[style] += 1
    # Offset: 51 of the document, two more lists by tag, four historic.
    assert count == {
        "offset": 57,
        "cursor": 20,
        "after": 1,
        "starting_after": 3,
    }


def test_page_sizes_that_the_document_states():
    stated = {
        path: notes
        for path in pdpyras._ENDPOINTS
        for _, _, notes in operations(path)
        if any(note.startswith("max") for note in notes)
    }
    assert stated == {
        "/analytics/raw/incidents": {"starting_after", "max1000"},
        "/analytics/raw/responders/{responder_id}/incidents": {
            "starting_after",
            "max1000",
        },
        "/analytics/raw/users": {"starting_after", "max1000"},
        "/recommendations/event_orchestrations/rules": {"cursor", "max50"},
        "/v3/schedules": {"offset", "max1000"},
    }


def test_what_is_in_early_access():
    asked = [
        (method, path)
        for path in pdpyras._ENDPOINTS
        for method, _, notes in operations(path)
        if "early:ip-allow-lists" in notes
    ]
    assert asked == [
        ("GET", "/ip_allow_lists"),
        ("POST", "/ip_allow_lists"),
        ("GET", "/ip_allow_lists/{id}"),
        ("PUT", "/ip_allow_lists/{id}"),
        ("DELETE", "/ip_allow_lists/{id}"),
        ("GET", "/ip_allow_lists/{id}/audit/records"),
    ]


def test_list_parameters_without_brackets():
    assert (
        "plain:ids" in operation("GET", "/standards/scores/{resource_type}")[1]
    )
    assert "comma:sort_by" in operation("GET", "/incidents")[1]


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


def test_all_shadowed_literals_are_listed():
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
    assert shadowed == LITERALS


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


def test_two_implementations_of_the_convention_agree(script):
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


# --- The script -------------------------------------------------------------


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT)] + list(map(str, arguments)),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def test_differences_are_readable(script):
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
def test_the_rule_for_wrappers(script, properties, wrapper):
    assert script.wrapper(properties) == wrapper


def test_a_contradiction_needs_a_judgement(script):
    described = {
        "schema": {"properties": {"rule": {"type": "object"}}},
        "examples": {"one": {"value": {"ruleset": {}}}},
    }
    operation = {
        "responses": {"201": {"content": {"application/json": described}}}
    }
    with pytest.raises(script.DocumentError, match="POST /things needs"):
        script.derived_wrappers({}, "POST /things", operation)


def test_a_document_that_is_none_is_refused(tmp_path):
    assert run_script(tmp_path / "absent.json").returncode == 2
    for text, complaint in (
        ("[]", "no OpenAPI document"),
        ("{}", "no OpenAPI document"),
        ('{"paths": {"/things": {}}}', "rows to take out"),
    ):
        other = tmp_path / "other.json"
        other.write_text(text, encoding="utf-8")
        done = run_script(other, "--check")
        assert done.returncode == 2
        assert complaint in done.stderr


needs_document = pytest.mark.skipif(
    not DOCUMENT.exists(),
    reason="PagerDuty's API document is not at hand (PAGERDUTY_OPENAPI)",
)


@needs_document
def test_the_table_is_what_the_document_says():
    done = run_script(DOCUMENT, "--check")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout == "no difference in 291 paths\n"


@needs_document
def test_what_the_script_prints_is_the_table():
    done = run_script(DOCUMENT)
    assert max(map(len, done.stdout.split("\n"))) <= 79
    printed = {}
    exec("from typing import Dict\n" + done.stdout, printed)
    assert printed["_ENDPOINTS"] == pdpyras._ENDPOINTS


def test_early_access_given_as_one_name(server, session):
    session.early_access = "ip-allow-lists"
    session.get("users", params={"limit": 1})
    assert "x-early-access" not in server.requests[-1].headers
    session.get("ip_allow_lists")
    sent = server.requests[-1].headers["x-early-access"]
    assert sent == "ip-allow-lists"
