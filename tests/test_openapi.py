"""Every operation of an API document, driven over real HTTP.

A server on loopback answers each operation with the document's own example.
What the library sends is validated against the document's schemas. The
documents are small ones of our own and, where they are at hand, PagerDuty's:
see ``tests/documents.py``.
"""

import copy
import json
import re
from collections import namedtuple
from datetime import datetime, timezone
from functools import lru_cache

import pytest

import pdpyras
from tests import wire
from tests.documents import (
    APIS,
    EVENTS,
    SMALL,
    TABLES,
    Api,
    needs_documents,
    script,
)

pytestmark = pytest.mark.oldest

jsonschema = pytest.importorskip("jsonschema")

SENDER = "sender@example.com"
# Of a Jira server, which its callers have to get from there.
SIGNATURE = "x-pagerduty-jira-signature"

# What is wrong in PagerDuty's document; in ours, nothing. A new release may
# need a row here, or one less.

# Examples whose wrapper is a slip: what the server answers instead.
SLIPS = {
    "POST /rulesets": ("rulesets", "ruleset"),
    "PUT /rulesets/{id}": ("rulesets", "ruleset"),
    "POST /rulesets/{id}/rules": ("ruleset", "rule"),
    "POST /services/{id}/rules": ("ruleset", "rule"),
}

# Examples of requests that the schema of the same operation refuses: why,
# what the validator says of them, and where.
INVALID_EXAMPLES = [
    (
        "what only the API sets is required of the request too",
        (
            "'(id|created_at|updated_at|namespace|post|self|summary|type"
            "|update_frequency_ms)' is a required property"
        ),
        [
            "POST /alert_grouping_settings",
            "PUT /alert_grouping_settings/{id}",
            "POST /incidents/custom_fields",
            "POST /incidents/custom_fields/{field_id}/field_options",
            "POST /incidents/types/{type_id_or_name}/custom_fields",
            "PUT /incidents/types/{type_id_or_name}/custom_fields/{field_id}",
            "POST /status_pages/{id}/posts",
            "POST /status_pages/{id}/posts/{post_id}/post_updates",
            (
                "PUT /status_pages/{id}/posts/{post_id}/post_updates"
                "/{post_update_id}"
            ),
        ],
    ),
    (
        "an update leaves out what the schema of the whole requires",
        "cache_variable: .* is not valid under any",
        [
            (
                "PUT /event_orchestrations/{id}/cache_variables/"
                "{cache_variable_id}"
            ),
            (
                "PUT /event_orchestrations/services/{service_id}/"
                "cache_variables/{cache_variable_id}"
            ),
        ],
    ),
    (
        "the schema takes the value of a field for an object",
        "(custom_fields/0|field/default_value): .* is not valid under any",
        [
            "POST /incidents/custom_fields",
            "PUT /incidents/{id}/custom_fields/values",
            "PUT /services/{id}/custom_fields/values",
        ],
    ),
    (
        "the schema takes the strategy, an object, for a string",
        ".*/escalation_rule_assignment_strategy: ",
        ["POST /escalation_policies", "PUT /escalation_policies/{id}"],
    ),
    (
        "the schema takes the details, a text, for an object",
        "incident/body/details: .* is not of type",
        ["POST /incidents"],
    ),
    (
        "the variants of the schema overlap",
        "runner: .* is valid under each of",
        ["PUT /automation_actions/runners/{id}"],
    ),
    (
        "the example has the type of the resource, not of a reference to it",
        "[a-z_]+/contact_method/type: 'email_contact_method' is not one of",
        [
            "POST /users/{id}/notification_rules",
            "PUT /users/{id}/notification_rules/{notification_rule_id}",
            "POST /users/{id}/oncall_handoff_notification_rules",
            (
                "PUT /users/{id}/oncall_handoff_notification_rules"
                "/{oncall_handoff_notification_rule_id}"
            ),
            "POST /users/{id}/status_update_notification_rules",
            (
                "PUT /users/{id}/status_update_notification_rules"
                "/{status_update_notification_rule_id}"
            ),
        ],
    ),
    (
        "the schema leaves out the wrapper that the example has",
        ": '(name|secrets)' is a required property",
        [
            "POST /workflows/integrations/{integration_id}/connections",
            "PATCH /workflows/integrations/{integration_id}/connections/{id}",
        ],
    ),
]

Operation = namedtuple(
    "Operation",
    "api endpoint method path url item described request response",
)


def enumerated(api, path, item, described):
    """The path with a value for each of its parameters."""
    documented = script.parameters(api.document, item, described, "path")

    def value(parameter):
        schema = documented.get(parameter.group(1), {}).get("schema", {})
        return api.resolve(schema).get("enum", ["PABC123"])[0]

    return re.sub("{(.*?)}", value, path)


# Paths that stand in the table in place of a more general one.
REPLACEMENTS = {
    path
    for api in APIS
    for paths in api.decisions.replaced.values()
    for path in paths
}


def all_operations(api):
    for method, path, item, described in api.operations():
        endpoint = f"{method.upper()} {path}"
        names = script.derived_wrappers(
            api.document, endpoint, described, api.decisions.judgements
        )
        if path in REPLACEMENTS:
            names = names._replace(response=path.split("/")[-1])
        yield Operation(
            api,
            endpoint,
            method,
            path,
            enumerated(api, path, item, described),
            item,
            described,
            names.request,
            names.response and names.response.rstrip("?"),
        )


OPERATIONS = [operation for api in APIS for operation in all_operations(api)]


def each(operations):
    operations = list(operations)
    return pytest.mark.parametrize(
        "operation",
        operations,
        ids=[f"{o.api.name} {o.endpoint}" for o in operations],
        indirect=True,
    )


def parameters(operation, place):
    return script.parameters(
        operation.api.document, operation.item, operation.described, place
    )


def notes(operation):
    return script.page_notes(
        script.Operation(
            operation.api.document,
            operation.method,
            operation.item,
            operation.described,
        )
    )


def style(operation):
    return (notes(operation) + [""])[0]


def request_content(operation):
    return script.request_content(operation.api.document, operation.described)


# --- Examples ---------------------------------------------------------------

BY_TYPE = {"string": "text", "integer": 1, "number": 1.5, "boolean": True}


def made_up(api, schema, depth=0):
    """A value that the schema describes."""
    schema = api.resolve(schema)
    for key in ("example", "default"):
        if key in schema:
            return schema[key]
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return made_up(api, schema[key][0], depth)
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") in BY_TYPE:
        return BY_TYPE[schema["type"]]
    if schema.get("type") == "array":
        return [made_up(api, schema.get("items", {}), depth + 1)]
    return made_up_object(api, schema, depth) if depth < 5 else {}


def made_up_object(api, schema, depth):
    made = {}
    for part in schema.get("allOf", []):
        made.update(made_up(api, part, depth))
    for name, value in schema.get("properties", {}).items():
        made[name] = made_up(api, value, depth + 1)
    return made


def examples(api, described):
    """The documented examples of a body, or one made up from its schema."""
    if described is None:
        return []
    found = [
        api.resolve(example)["value"]
        for example in described.get("examples", {}).values()
    ]
    if "example" in described:
        found.append(described["example"])
    return found or [made_up(api, described["schema"])]


def request_examples(operation):
    return examples(operation.api, request_content(operation))


def success(operation):
    """The status of success, and the examples of its body."""
    document = operation.api.document
    found = sorted(
        (status, script.json_content(document, response))
        for status, response in operation.described["responses"].items()
        if status.startswith("2")
        and status != "204"
        and script.json_content(document, response) is not None
    )
    if found:
        return int(found[0][0]), examples(operation.api, found[0][1])
    statuses = sorted(operation.described["responses"])
    return int(statuses[0]) if statuses[0][0] == "2" else 204, []


def is_ours(operation):
    return operation.api in SMALL.apis


def response_examples(operation):
    status, bodies = success(operation)
    if not is_ours(operation) and operation.endpoint in SLIPS:
        said, meant = SLIPS[operation.endpoint]
        bodies = [{meant: body[said]} for body in bodies]
    if operation.path in REPLACEMENTS:
        # One of the lists that a path stands for; the example is of another.
        bodies = [
            {
                name if name in script.PAGING else operation.response: value
                for name, value in body.items()
            }
            for body in bodies
        ]
    if operation.response not in (None, "-"):
        # An answer of another status among the examples of this one.
        bodies = [body for body in bodies if operation.response in body]
    return status, bodies


def content(body, name):
    """What the caller gets of an answer."""
    return body if name in (None, "-") else body[name]


def unwrapped(body, name):
    """What the caller may give as a body, instead of the whole."""
    return body[name] if list(body) == [name] else body


# --- Validation -------------------------------------------------------------

# A picture of a time, where the document should have a pattern; the pattern.
PICTURE = "YYYY-MM-DDThh:mm:ssZ"
UTC_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|\+00:00)$"


def draft_4(api, node):
    """The document with its schemas as JSON Schema, draft 4, has them.

    OpenAPI 3.0 differs in ``nullable``; and what is ``readOnly`` need not
    be in a request even if it is ``required``.
    """
    if isinstance(node, list):
        return [draft_4(api, value) for value in node]
    if not isinstance(node, dict):
        return node
    schema = {key: draft_4(api, value) for key, value in node.items()}
    if schema.get("pattern") == PICTURE:
        schema["pattern"] = UTC_TIME
    if isinstance(schema.get("required"), list):
        read_only = {
            name
            for name, value in node.get("properties", {}).items()
            if api.resolve(value).get("readOnly")
        }
        schema["required"] = [
            name for name in schema["required"] if name not in read_only
        ]
        if not schema["required"]:
            del schema["required"]
    if node.get("nullable") is not True:
        return schema
    if "enum" in schema:
        schema["enum"] = schema["enum"] + [None]
    if "type" in schema:
        return dict(schema, type=[schema["type"], "null"])
    return {"anyOf": [schema, {"type": "null"}]}


@lru_cache(maxsize=None)
def schemas(name):
    (api,) = [api for api in APIS + [EVENTS_API] if api.name == name]
    return draft_4(api, api.document)


def errors(api, schema, value):
    """Where the value is not as the schema of the document wants it."""
    validator = jsonschema.Draft4Validator(
        dict(schemas(api.name), allOf=[draft_4(api, schema)])
    )
    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator.iter_errors(value)
    ]


def check_body(operation, body):
    """The body is as its schema wants it, known contradictions aside."""
    described = request_content(operation)
    known = [
        pattern
        for _, pattern, endpoints in INVALID_EXAMPLES
        if not is_ours(operation) and operation.endpoint in endpoints
    ]
    assert [
        error
        for error in errors(operation.api, described["schema"], body)
        if not any(re.match("(.*: )?" + pattern, error) for pattern in known)
    ] == []


def sent_values(api, request, name, parameter):
    """The values of a query parameter, as its schema sees them."""
    schema = api.resolve(parameter.get("schema", {}))
    values = [value for key, value in request.query if key == name]
    if parameter.get("explode") is False:
        (values,) = [value.split(",") for value in values]
    if schema.get("type") == "array":
        return [values]
    if schema.get("type") in ("integer", "number", "boolean"):
        return [json.loads(value) for value in values]
    return values


def check_query(operation, request):
    """Every parameter is documented, under its name, with such a value."""
    documented = parameters(operation, "query")
    for name in {name for name, _ in request.query}:
        assert name in documented
        schema = documented[name].get("schema", {})
        api = operation.api
        for value in sent_values(api, request, name, documented[name]):
            assert errors(api, schema, value) == [], name
            if api.resolve(schema).get("format") == "date-time":
                assert re.match(UTC_TIME, value)


# --- Fixtures ---------------------------------------------------------------


@pytest.fixture(scope="module")
def one_server():
    with wire.Server() as running:
        yield running


@pytest.fixture
def server(one_server):
    del one_server.requests[:]
    one_server.script.clear()
    one_server.handler = lambda request: wire.Answer(500)
    return one_server


@pytest.fixture
def operation(request):
    return request.param


@pytest.fixture(scope="module")
def sessions(one_server):
    """By the document's name, a session of the module that has its table."""
    opened = {}
    for api in APIS:
        opened[api.name] = api.module.APISession(
            "not-a-real-key", default_from=SENDER
        )
        opened[api.name].url = one_server.url
        opened[api.name].early_access = early_access(api)
        opened[api.name].headers[SIGNATURE] = "not-a-real-signature"
    yield opened
    for session in opened.values():
        session.close()


def early_access(api):
    """All that the document has in early access."""
    return {
        value
        for operation in OPERATIONS
        if operation.api is api
        for name, header in parameters(operation, "header").items()
        if name == "X-EARLY-ACCESS"
        for value in re.findall("`(.+?)`", header["description"])
    }


@pytest.fixture
def session(operation, server, sessions):
    return sessions[operation.api.name]


# --- Single requests --------------------------------------------------------


@each(o for o in OPERATIONS if o.method == "get")
def test_rget_returns_the_content(operation, server, session):
    status, bodies = response_examples(operation)
    for body in bodies:
        server.reply(status, json=body)
        assert session.rget(operation.url) == content(body, operation.response)
    if not bodies:
        server.reply(status)
        assert session.rget(operation.url) is None
    check_headers(operation, server.requests[-1])


@each(o for o in OPERATIONS if o.method in ("post", "put", "patch"))
def test_bodies_are_wrapped_and_unwrapped(operation, server, session):
    call = getattr(session, "r" + operation.method)
    status, answers = response_examples(operation)
    answer = answers[0] if answers else None
    options = {"json": answer} if answers else {}
    expected = content(answer, operation.response) if answers else None
    for body in request_examples(operation):
        # As its content, then as it stands in the document.
        for given in (unwrapped(body, operation.request), body):
            if given is None:
                continue  # json=None is "no body" to every caller
            before = copy.deepcopy(given)
            server.reply(status, **options)
            assert call(operation.url, json=given) == expected
            assert server.requests[-1].json == body
            assert given == before
        check_body(operation, server.requests[-1].json)
    if not server.requests:
        server.reply(status, **options)
        assert call(operation.url) == expected
        assert server.requests[-1].body == b""
    check_headers(operation, server.requests[-1])


@each(o for o in OPERATIONS if o.method == "delete")
def test_rdelete_sends_its_body(operation, server, session):
    status, answers = response_examples(operation)
    for body in request_examples(operation) or [None]:
        server.reply(status, **({"json": answers[0]} if answers else {}))
        options = (
            {}
            if body is None
            else {"json": unwrapped(body, operation.request)}
        )
        response = session.rdelete(operation.url, **options)
        assert response.status_code == status
        sent = server.requests[-1].body
        assert (json.loads(sent.decode()) if sent else None) == body
        if sent:
            check_body(operation, body)
    check_headers(operation, server.requests[-1])


@each(
    o
    for o in OPERATIONS
    if "text/csv"
    in o.api.resolve(o.described.get("requestBody", {})).get("content", {})
)
def test_bodies_that_are_no_json_pass_through(operation, server, session):
    status, answers = response_examples(operation)
    server.reply(status, json=answers[0])
    assert session.rpost(
        operation.url,
        data=b"host,owner\nh1,o1\n",
        headers={"Content-Type": "text/csv"},
    ) == content(answers[0], operation.response)
    (request,) = server.requests
    assert request.body == b"host,owner\nh1,o1\n"
    assert request.headers["content-type"] == "text/csv"


def check_headers(operation, request):
    """All headers that the document requires are there, and right."""
    for name, header in parameters(operation, "header").items():
        # The document asks for Content-Type where there is no content, too.
        idle = name.lower() == "content-type" and not request.body
        if idle or not header.get("required"):
            continue
        value = request.headers[name]
        assert value, f"{name} is missing"
        if name.lower() == "accept":
            assert value == header["schema"]["default"]
        elif name.lower() == "from":
            assert value == SENDER
        elif name == "X-EARLY-ACCESS":
            assert f"`{value}`" in header["description"]
    check_media_types(operation, request)


def check_media_types(operation, request):
    """A body has the documented type, and such an answer is asked for."""
    api, described = operation.api, operation.described
    if request.body:
        body = api.resolve(described["requestBody"])
        assert request.headers["content-type"] in body["content"]
    answers = {
        media_type
        for response in described["responses"].values()
        for media_type in api.resolve(response).get("content", {})
    }
    accepted = request.headers["accept"]
    if answers <= {"application/json"}:
        assert accepted == "application/vnd.pagerduty+json;version=2"
    else:
        assert answers == {accepted}


# --- Query parameters -------------------------------------------------------


def natural(api, name, parameter):
    """A parameter as a caller gives it: a list, a bool, a number, a str."""
    schema = api.resolve(parameter.get("schema", {}))
    if schema.get("type") == "array":
        items = api.resolve(schema["items"])
        values = items.get("enum", [made_up(api, items), "PXYZ789"])[:2]
        return name.replace("[]", ""), values
    value = made_up(api, schema)
    if schema.get("format") == "date-time":
        value = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    if schema.get("type") == "integer":
        value = schema.get("minimum", 1)
    return name.replace("[]", ""), [value] if "[]" in name else value


@each(o for o in OPERATIONS if parameters(o, "query"))
def test_query_parameters_are_spelled_as_documented(
    operation, server, session
):
    documented = parameters(operation, "query")
    params = dict(
        natural(operation.api, name, parameter)
        for name, parameter in documented.items()
    )
    before = copy.deepcopy(params)
    server.reply(200, json={})
    session.request(operation.method, operation.url, params=params)
    assert params == before
    (request,) = server.requests
    assert {name for name, _ in request.query} == set(documented)
    check_query(operation, request)


# --- Lists ------------------------------------------------------------------

RECORDS = [{"id": f"P{n}", "type": "record"} for n in range(7)]
PAGES = [RECORDS[:3], RECORDS[3:5], RECORDS[5:]]
# How an answer points to the page after the n-th, and the request for it.
STEERING = {
    "offset": [
        {"offset": 0, "limit": 3, "more": True},
        {"offset": 3, "limit": 3, "more": True},
        {"offset": 5, "limit": 3, "more": False},
    ],
    "cursor": [
        {"next_cursor": "second"},
        {"next_cursor": "third"},
        {"next_cursor": None},
    ],
    "after": [{"after": "second"}, {"after": "third"}, {"after": None}],
    "starting_after": [
        {"last": "second", "more": True},
        {"last": "third", "more": True},
        {"last": "end", "more": False},
    ],
    "scim": [
        {"startIndex": 1, "itemsPerPage": 3, "totalResults": 7},
        {"startIndex": 4, "itemsPerPage": 2, "totalResults": 7},
        {"startIndex": 6, "itemsPerPage": 2, "totalResults": 7},
    ],
}
LIMITS = {"scim": "count"}
ASKED = {
    "offset": [("offset", "0"), ("offset", "3"), ("offset", "5")],
    "cursor": [None, ("cursor", "second"), ("cursor", "third")],
    "after": [None, ("after", "second"), ("after", "third")],
    "scim": [("startIndex", "1"), ("startIndex", "4"), ("startIndex", "6")],
}
IN_PAGES = [o for o in OPERATIONS if style(o)]
LISTS = [
    o
    for o in OPERATIONS
    if o.method == "get"
    and not style(o)
    and any(
        isinstance(content(body, o.response), list)
        for body in response_examples(o)[1]
    )
]

# Of PagerDuty's, not iterated over: rget gives all there is.
REFUSED = {
    # A list whose wrapper reads like that of a single resource.
    (
        "/enrichment/integrations/servicenow/{integration_id}/tables"
        "/{table_id}/test"
    ),
    # Single resources, though an example shows a list.
    (
        "/event_orchestrations/services/{service_id}/cache_variables"
        "/{cache_variable_id}"
    ),
    "/event_orchestrations/{id}/cache_variables/{cache_variable_id}",
    "/vendors/{id}",
    "/workflows/integrations/{id}",
    "/workflows/integrations/{integration_id}/connections/{id}",
}


def list_name(operation):
    # The raw analytics say much beside the records, which rpost returns too.
    return "data" if operation.response == "-" else operation.response


def serve_pages(server, operation, pages=PAGES):
    example = response_examples(operation)[1][0]
    name = list_name(operation)
    assert isinstance(example[name], list)
    for page, steering in zip(pages, STEERING[style(operation)]):
        server.reply(json=dict(example, **steering, **{name: page}))


def test_each_style_of_pages_is_driven():
    for table in TABLES:
        driven = {style(o) for o in IN_PAGES if o.api in table.apis}
        assert driven == set(STEERING), table.name


@each(o for o in IN_PAGES if o.method == "get")
def test_iter_all_reaches_the_end(operation, server, session):
    serve_pages(server, operation)
    records = session.iter_all(operation.url, page_size=3)
    assert next(records) == RECORDS[0]
    assert len(server.requests) == 1
    assert list(records) == RECORDS[1:]
    assert len(server.requests) == 3
    names = set(dict(ASKED[style(operation)][1:]))
    for request, asked in zip(server.requests, ASKED[style(operation)]):
        assert [pair for pair in request.query if pair[0] in names] == (
            [asked] if asked else []
        )
        limit = LIMITS.get(style(operation), "limit")
        assert (limit, "3") in request.query
        if {limit, "offset", "cursor"} & set(parameters(operation, "query")):
            check_query(operation, request)


@each(o for o in IN_PAGES if o.method == "post")
def test_iter_all_posts_its_way_to_the_end(operation, server, session):
    given = request_examples(operation)[0]
    before = copy.deepcopy(given)
    serve_pages(server, operation)
    assert list(session.iter_all(operation.url, json=given)) == RECORDS
    assert given == before
    asked = [request.json for request in server.requests]
    assert [body.get("starting_after") for body in asked] == [
        None,
        "second",
        "third",
    ]
    for request, body in zip(server.requests, asked):
        assert request.method == "POST"
        added = set(body) - set(given)
        assert added <= {"limit", "starting_after"}
        check_body(operation, body)


@each(IN_PAGES)
def test_no_page_is_larger_than_documented(operation, server, session):
    for size in (100, 1000, 5000):
        server.reply(json={list_name(operation): [], "more": False})
        if operation.method == "post":
            list(session.iter_all(operation.url, page_size=size, json={}))
            limit = server.requests[-1].json["limit"]
            check_body(operation, server.requests[-1].json)
        else:
            list(session.iter_all(operation.url, page_size=size))
            name = LIMITS.get(style(operation), "limit")
            limit = int(dict(server.requests[-1].query)[name])
        stated = [
            int(note[3:])
            for note in notes(operation)
            if note.startswith("max")
        ]
        assert limit == min([size] + (stated or [100]))


@each(LISTS)
def test_a_list_without_pages_is_whole_or_refused(operation, server, session):
    body = response_examples(operation)[1][0]
    server.reply(json=body)
    refused = not is_ours(operation) and operation.path in REFUSED
    if refused or operation.response == "-":
        with pytest.raises(operation.api.module.URLError):
            list(session.iter_all(operation.url))
        assert not server.requests
    else:
        records = list(session.iter_all(operation.url))
        assert records == content(body, operation.response)


# --- Events -----------------------------------------------------------------

# This API has sessions of its own, and no rows in the table.
EVENTS_API = Api("events-v2", EVENTS, script.DECISIONS)


def examples_of_events():
    """Path, operation, and example of each event."""
    if not EVENTS.exists():
        return []
    listed = script.listed_paths([EVENTS_API.document])
    return [
        pytest.param(path, operation, body, id=f"{path}-{number}")
        for path, found in listed.items()
        for operation in found.operations
        for number, body in enumerate(
            examples(
                EVENTS_API,
                script.request_content(
                    EVENTS_API.document, operation.described
                ),
            )
        )
    ]


def test_all_operations_of_events_are_driven():
    if not EVENTS.exists():
        pytest.skip("the document of the Events API is not at hand")
    driven = {param.values[0] for param in examples_of_events()}
    assert driven == {"/v2/enqueue", "/v2/change/enqueue"}
    assert driven == {path for _, path, _, _ in EVENTS_API.operations()}


@pytest.mark.parametrize("path, operation_, body", examples_of_events())
def test_an_event_is_sent_as_documented(path, operation_, body, server):
    kind, send = {
        "/v2/enqueue": (pdpyras.EventsAPISession, "send_event"),
        "/v2/change/enqueue": (
            pdpyras.ChangeEventsAPISession,
            "send_change_event",
        ),
    }[path]
    key = body["routing_key"]
    given = copy.deepcopy(body)
    del given["routing_key"]
    answer = {"status": "success", "message": "Event processed"}
    answer["dedup_key"] = body.get("dedup_key", "made-by-the-api")
    with kind(key) as session:
        session.url = server.url
        # By the method for events, and as it stands.
        properties = copy.deepcopy(given)
        action = properties.pop("event_action", None)
        server.reply(202, json=answer)
        getattr(session, send)(*filter(None, [action]), **properties)
        server.reply(202, json=answer)
        assert session.post(path, json=given).json() == answer
    content = script.request_content(EVENTS_API.document, operation_.described)
    for request in server.requests:
        assert (request.method, request.path) == ("POST", path)
        assert request.json == body
        assert errors(EVENTS_API, content["schema"], request.json) == []


# --- Exceptions to the document ---------------------------------------------


def of_pagerduty(endpoint):
    (operation,) = [
        o for o in OPERATIONS if not is_ours(o) and o.endpoint == endpoint
    ]
    return operation


@needs_documents
@pytest.mark.parametrize("endpoint", sorted(SLIPS))
def test_a_slip_is_still_in_the_document(endpoint):
    bodies = success(of_pagerduty(endpoint))[1]
    assert all(SLIPS[endpoint][0] in body for body in bodies)


@needs_documents
@pytest.mark.parametrize("reason, pattern, endpoints", INVALID_EXAMPLES)
def test_an_invalid_example_is_still_in_the_document(
    reason, pattern, endpoints
):
    for endpoint in endpoints:
        operation = of_pagerduty(endpoint)
        schema = request_content(operation)["schema"]
        assert any(
            re.match(f"(.*: )?{pattern}", error)
            for body in request_examples(operation)
            for error in errors(operation.api, schema, body)
        ), reason
