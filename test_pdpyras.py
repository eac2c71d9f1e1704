"""The module from the outside: what a newcomer reads first.

Functions, tables, decorators, exceptions, the import and the command line.
Sessions are in ``test_sessions.py``, the retries in ``test_retry.py``.
"""

import copy
import inspect
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import urllib3
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pdpyras
import pdpyras_cli
from tests import wire
from tests.support import API, KEY

FILE = Path(pdpyras.__file__).resolve()

CONSTANTS = [
    "TIMEOUT",
    "ITERATION_LIMIT",
    "TEXT_LEN_LIMIT",
    "CANONICAL_PATHS",
    "CURSOR_BASED_PAGINATION_PATHS",
    "ENTITY_WRAPPER_CONFIG",
]
RE_EXPORTED = ["time", "HTTPError", "PoolError", "RequestException"]
FUNCTIONS = [
    "canonical_path",
    "endpoint_matches",
    "is_path_param",
    "normalize_url",
    "entity_wrappers",
    "infer_entity_wrapper",
    "unwrap",
    "singular_name",
    "plural_name",
    "auto_json",
    "requires_success",
    "resource_url",
    "wrapped_entities",
    "successful_response",
    "http_error_message",
    "try_decoding",
    "truncate_text",
    "last_4",
    "deprecated_kwarg",
]
CLASSES = [
    "URLError",
    "PDClientError",
    "PDHTTPError",
    "PDServerError",
    "PDSession",
    "APISession",
    "EventsAPISession",
    "ChangeEventsAPISession",
]

# The same examples every time: no run depends on luck.
unhurried = settings(
    deadline=None, database=None, derandomize=True, max_examples=60
)


@pytest.fixture
def received(server):
    """Makes a real response of plain requests, to a given answer."""

    def receive(status=200, method="GET", path="/users", **options):
        server.reply(status, **options)
        return requests.request(
            method,
            server.url + path,
            headers={"Authorization": f"Token token={KEY}"},
        )

    return receive


def python(*arguments, **options):
    """Run this Python in a process of its own."""
    return subprocess.run(
        (sys.executable,) + arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
        **options,
    )


# ---------------------------------------------------------------------------
# The module
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONSTANTS + RE_EXPORTED + FUNCTIONS + CLASSES)
def test_every_public_name_is_exported(name):
    assert name in pdpyras.__all__
    assert hasattr(pdpyras, name)


def test_all_is_sorted_and_true():
    assert pdpyras.__all__ == sorted(set(pdpyras.__all__))
    assert [n for n in pdpyras.__all__ if not hasattr(pdpyras, n)] == []


@pytest.mark.parametrize("name", FUNCTIONS + CLASSES)
def test_everything_public_is_documented(name):
    assert inspect.getdoc(getattr(pdpyras, name))


def test_the_numbers_of_the_contract():
    assert pdpyras.TIMEOUT == 60
    assert pdpyras.ITERATION_LIMIT == 10000
    assert pdpyras.TEXT_LEN_LIMIT == 100
    assert pdpyras.__version__.split(".")[0] == "6"


def test_re_exported_names_are_the_originals():
    import time

    assert pdpyras.time is time
    assert pdpyras.HTTPError is urllib3.exceptions.HTTPError
    assert pdpyras.PoolError is urllib3.exceptions.PoolError
    assert pdpyras.RequestException is requests.exceptions.RequestException


def test_the_logger_of_the_module_is_as_python_makes_it():
    """Without a handler: Python's last resort shows warnings on stderr."""
    log = logging.getLogger("pdpyras")
    assert log.handlers == []
    assert log.level == logging.NOTSET
    assert log.propagate


IMPORTS_QUIETLY = """
import builtins, logging, os, socket, threading
import deprecation, requests, urllib3

def refuse(*args, **kwargs):
    raise AssertionError("opened: %r" % (args,))

builtins.open = os.system = refuse
socket.socket = socket.create_connection = refuse
import pdpyras
assert threading.active_count() == 1
assert logging.getLogger().handlers == []
"""


def test_importing_prints_warns_and_opens_nothing():
    done = python("-B", "-W", "error", "-c", IMPORTS_QUIETLY, cwd=FILE.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_file_works_alone_in_an_empty_directory(tmp_path, server):
    shutil.copy(str(FILE), str(tmp_path))
    server.reply(json={"user": {"id": "PABC123"}})
    script = (
        "import sys, pdpyras\n"
        "assert pdpyras.__file__.startswith(sys.argv[1])\n"
        "session = pdpyras.APISession(sys.argv[2])\n"
        "session.url = sys.argv[3]\n"
        "print(session.rget('users/PABC123')['id'])\n"
    )
    done = python(
        *("-W", "error", "-c", script, str(tmp_path), KEY, server.url),
        cwd=str(tmp_path),
    )
    assert (done.stdout, done.stderr) == ("PABC123\n", "")


# ---------------------------------------------------------------------------
# Exceptions
# ---------------------------------------------------------------------------


def test_the_tree_of_exceptions():
    assert pdpyras.URLError.__bases__ == (Exception,)
    assert pdpyras.PDClientError.__bases__ == (Exception,)
    assert pdpyras.PDHTTPError.__bases__ == (pdpyras.PDClientError,)
    assert pdpyras.PDServerError.__bases__ == (pdpyras.PDHTTPError,)


def test_a_client_error_without_a_response():
    error = pdpyras.PDClientError("it broke")
    assert (error.msg, error.response, str(error)) == (
        "it broke",
        None,
        "it broke",
    )


def test_an_http_error_needs_a_response():
    with pytest.raises(TypeError):
        pdpyras.PDHTTPError("it broke")


@pytest.mark.parametrize("status", [404, 500])
def test_the_sample_of_the_guide_takes_the_right_branch(
    status, server, session
):
    server.reply(status)
    try:
        session.rget("/users/PJKL678")
    except pdpyras.PDClientError as e:
        branch = e.response.status_code if e.response else "network"
    assert branch == status


def test_what_get_returns_keeps_the_truth_value_of_requests(server, session):
    server.reply(404)
    assert not session.get("/users/PJKL678")


def test_the_response_of_an_error_is_the_one_received(received):
    response = received(418, json={"a": 1}, headers={"x-tea": "pot"})
    error = pdpyras.PDHTTPError("it broke", response)
    assert isinstance(error.response, requests.Response)
    assert error.response.json() == {"a": 1}
    assert error.response.headers["X-Tea"] == "pot"
    assert error.response.request is response.request
    assert not response, "the original is as it was"
    again = pdpyras.PDServerError("once more", error.response)
    assert again.response is error.response


def test_a_stand_in_for_a_response_stays_itself():
    stand_in = object()
    assert pdpyras.PDClientError("it broke", stand_in).response is stand_in
    error = pdpyras.PDHTTPError("it broke", stand_in)
    assert (error.status_code, error.request_id) == (None, None)
    assert (error.code, error.errors) == (None, [])


BODIES = [
    (
        {"error": {"message": "Bad", "code": 2001, "errors": ["a", "b"]}},
        (2001, ["a", "b"]),
    ),
    ({"error": {"message": "Bad", "code": 2001}}, (2001, ["Bad"])),
    ({"error": {"message": "Bad", "errors": []}}, (None, ["Bad"])),
    ({"error": {"message": "Bad", "errors": "a b"}}, (None, ["a b"])),
    ({"error": {"code": 2001, "errors": [{"x": 1}]}}, (2001, ['{"x": 1}'])),
    ({"error": {"code": "2001"}}, (None, [])),
    ({"error": {"code": True}}, (None, [])),
    ({"error": {"message": ""}}, (None, [])),
    ({"error": "Not Found"}, (None, ["Not Found"])),
    ({"error": "Bad", "code": 2100, "errors": ["a"]}, (2100, ["a"])),
    ({"error": None}, (None, [])),
    (
        {"status": "invalid event", "message": "Event", "errors": ["a", "b"]},
        (None, ["a", "b"]),
    ),
    ({"status": "throttle exceeded", "message": "M"}, (None, ["M"])),
    ({}, (None, [])),
    ([1], (None, [])),
    ("text", (None, [])),
    (None, (None, [])),
]


@pytest.mark.parametrize("body, expected", BODIES, ids=repr)
def test_code_and_errors_of_every_shape_of_body(body, expected, received):
    error = pdpyras.PDHTTPError("it broke", received(400, json=body))
    assert (error.code, error.errors) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"\xff\xfe\xfa"])
def test_a_body_that_is_no_json_has_no_errors(body, received):
    error = pdpyras.PDHTTPError("it broke", received(400, body=body))
    assert (error.code, error.errors) == (None, [])
    assert str(error) == "it broke"


def test_what_support_asks_for(server, session):
    server.reply(
        400,
        json={"error": {"message": "Bad", "code": 2001, "errors": ["No."]}},
        headers={"X-Request-Id": "id-of-the-request"},
    )
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget("users")
    error = caught.value
    assert error.status_code == 400
    assert error.request_id == "id-of-the-request"
    assert (error.code, error.errors) == (2001, ["No."])
    assert "id-of-the-request" in str(error)


def test_without_the_header_there_is_no_request_id(received):
    assert pdpyras.PDHTTPError("it broke", received(400)).request_id is None


def test_the_text_holds_all_errors_though_the_body_is_cut(server, session):
    errors = [f"reason {n}: {'x' * 40}" for n in range(9)] + ['a "quote"']
    server.reply(400, json={"error": {"code": 2001, "errors": errors}})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.jget("users")
    assert [e for e in errors if e not in str(caught.value)] == []
    assert "2001" in str(caught.value)
    assert len(caught.value.msg) < 250


def test_the_text_says_nothing_twice(server, session):
    server.reply(400, json={"error": {"code": 2001, "errors": ["No."]}})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.jget("users")
    assert str(caught.value) == "GET /users: 400 Bad Request: No. (code 2001)"
    assert caught.value.msg.startswith(
        f"GET {server.url}/users: API responded with client error (status 400)"
    )


def test_an_echo_of_the_key_is_unreadable(server, session):
    errors = ["x" * 200, f"Token token={KEY} is unknown"]
    server.reply(403, json={"error": {"message": KEY, "errors": errors}})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.jget("users")
    assert KEY not in caught.value.msg
    assert KEY not in repr(caught.value.errors)
    assert KEY not in str(caught.value)
    assert "Token token=*-key is unknown" in str(caught.value)


def through_pickle(protocol):
    def duplicate(error):
        return pickle.loads(pickle.dumps(error, protocol))

    return pytest.param(duplicate, id=f"pickle-{protocol}")


ROUND_TRIPS = [
    *map(through_pickle, range(pickle.HIGHEST_PROTOCOL + 1)),
    copy.copy,
    copy.deepcopy,
]


@pytest.mark.parametrize("duplicate", ROUND_TRIPS)
@pytest.mark.parametrize("kind", [pdpyras.PDHTTPError, pdpyras.PDServerError])
def test_an_http_error_survives(kind, duplicate, received):
    body = {"error": {"message": "Bad", "code": 2001, "errors": ["a"]}}
    response = received(502, json=body, headers={"x-request-id": "r1"})
    error = kind("it broke", response)
    twin = duplicate(error)
    assert type(twin) is kind
    assert (twin.msg, str(twin)) == (error.msg, str(error))
    assert (twin.status_code, twin.request_id) == (502, "r1")
    assert (twin.code, twin.errors) == (2001, ["a"])
    assert twin.response
    assert twin.response.json() == body
    assert twin.response.request.url == response.request.url


@pytest.mark.parametrize("duplicate", ROUND_TRIPS)
def test_other_errors_survive(duplicate):
    error = duplicate(pdpyras.PDClientError("it broke"))
    assert type(error) is pdpyras.PDClientError
    assert (error.msg, error.response) == ("it broke", None)
    error = duplicate(pdpyras.URLError("no such path"))
    assert type(error) is pdpyras.URLError
    assert str(error) == "no such path"


def test_a_pickled_error_is_without_the_key_and_the_body(
    server, session, tmp_path
):
    server.reply(307, headers={"Location": "/users"})
    server.reply(400)
    with open(str(tmp_path / "body"), "wb+") as file:
        with pytest.raises(pdpyras.PDHTTPError) as caught:
            session.jpost("users", data=file)
        pickled = pickle.dumps(caught.value)
    assert KEY.encode() not in pickled
    response = pickle.loads(pickled).response
    assert [past.status_code for past in response.history] == [307]
    assert response.request.headers["Accept"]
    sent = caught.value.response.request.headers
    assert KEY in sent["Authorization"], "the error at hand is whole"


# ---------------------------------------------------------------------------
# URLs
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "users/PABC123",
        "/users/PABC123",
        "https://api.pagerduty.com/users/PABC123",
        "HTTPS://API.PagerDuty.com/users/PABC123",
        "https://api.pagerduty.com:443/users/PABC123",
    ],
)
def test_a_path_or_url_becomes_a_full_url(url):
    assert pdpyras.normalize_url(API, url) == API + "/users/PABC123"
    assert pdpyras.normalize_url(API + "/", url) == API + "/users/PABC123"


@pytest.mark.parametrize(
    "url",
    [
        "https://api.pagerduty.com.evil.example/users",
        "https://api.pagerduty.com@evil.example/users",
        "https://evil.example/users",
        "https://api.pagerduty.com:444/users",
        f"https://api.pagerduty.com:{'4' * 5000}/users",
        "http://api.pagerduty.com/users",
        "https://api.pagerduty.com\\@evil.example/users",
        "users\r\nHost: evil.example",
        "users/../teams",
        "../users",
        "users/%2E./teams?a=b",
        "https://api.pagerduty.com/v2/..",
    ],
)
def test_a_url_outside_the_base_is_refused(url):
    with pytest.raises(pdpyras.URLError):
        pdpyras.normalize_url(API, url)


def test_a_base_with_a_path():
    base = "https://gateway.example/pd"
    assert pdpyras.normalize_url(base, "users") == base + "/users"
    assert pdpyras.normalize_url(base, base + "/users") == base + "/users"
    same = "https://gateway.example:443/pd/users"
    assert pdpyras.normalize_url(base, same) == base + "/users"
    for outside in ("/other", "/pdx"):
        with pytest.raises(pdpyras.URLError, match="outside"):
            pdpyras.normalize_url(base, "https://gateway.example" + outside)


@pytest.mark.parametrize("url", [None, 1, b"users", ["users"]])
def test_what_is_no_str_is_no_url(url):
    with pytest.raises(pdpyras.URLError, match=type(url).__name__):
        pdpyras.normalize_url(API, url)


@pytest.mark.parametrize("base", ["", "api.pagerduty.com", "ftp://x", "://"])
def test_a_base_that_is_none_is_named(base):
    with pytest.raises(pdpyras.URLError, match="base URL") as caught:
        pdpyras.normalize_url(base, "users")
    assert repr(base) in str(caught.value)


def test_the_other_service_region_is_asked_of_the_base():
    eu = "https://api.eu.pagerduty.com"
    assert pdpyras.normalize_url(API, eu + "/users/P1") == API + "/users/P1"
    assert pdpyras.normalize_url(eu, API + "/users/P1") == eu + "/users/P1"
    with pytest.raises(pdpyras.URLError):
        pdpyras.normalize_url(API, "https://events.pagerduty.com/users")


segments = st.text(
    st.sampled_from("abzAZ09-._~%@:éß "), min_size=1, max_size=8
).filter(lambda text: "://" not in text and text not in (".", ".."))
paths = st.lists(segments, min_size=1, max_size=5).map("/".join)


@pytest.mark.oldest
@unhurried
@given(paths)
def test_slashes_in_front_do_not_matter(path):
    full_url = pdpyras.normalize_url(API, path)
    assert full_url == f"{API}/{path}"
    assert pdpyras.normalize_url(API, "/" + path) == full_url
    assert pdpyras.normalize_url(API, full_url) == full_url


LIKE_URLS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "http://", "https://", "HTTPS://", "//", "ftp://"]),
    st.sampled_from(
        ["", "api.pagerduty.com", "api.eu.pagerduty.com", "x@", "evil.example"]
    ),
    st.sampled_from(
        ["", ".evil.example", "@evil.example", ":443", ":8", "\\"]
    ),
    st.one_of(st.text(max_size=9), paths.map("/{}".format)),
)


@pytest.mark.oldest
@settings(unhurried, max_examples=200)
@given(st.one_of(st.text(), LIKE_URLS))
@example("https://api.pagerduty.com")
@example("https://api.pagerduty.com?limit=1")
@example("https://api.pagerduty.com#@evil.example")
@example("//evil.example/users")
@example("https:evil.example")
def test_whatever_comes_back_is_on_the_host_of_the_base(url):
    try:
        full_url = pdpyras.normalize_url(API, url)
    except pdpyras.URLError:
        return
    assert full_url.startswith(API)
    assert full_url[len(API) : len(API) + 1] in ("", "/", "?", "#")
    prepared = requests.Request("GET", full_url).prepare()
    assert urlsplit(prepared.url).netloc == "api.pagerduty.com"


@pytest.mark.parametrize(
    "url, path",
    [
        ("users", "/users"),
        ("/users/", "/users"),
        ("users/PABC123", "/users/{id}"),
        ("users/me", "/users/me"),
        ("incidents/PT4KHLK", "/incidents/{id}"),
        (
            "https://api.pagerduty.com/services/P1/integrations/P2",
            "/services/{id}/integrations/{integration_id}",
        ),
        ("users?query=/users/me", "/users"),
        ("users/PABC123?include[]=teams", "/users/{id}"),
        ("users/PABC123#top", "/users/{id}"),
        ("users/PABC123/?a=b#c", "/users/{id}"),
    ],
)
def test_canonical_paths(url, path):
    assert pdpyras.canonical_path(API, url) == path


@pytest.mark.parametrize(
    "url", ["", "nonsense", "users//x", "users/P1/x", "users/P1/x/y/z"]
)
def test_a_path_without_a_match(url):
    with pytest.raises(pdpyras.URLError, match="CANONICAL_PATHS"):
        pdpyras.canonical_path(API, url)


def test_an_exact_match_beats_a_parameter(monkeypatch):
    # Hidden behind the literal /first, unless the search comes back.
    monkeypatch.setattr(
        pdpyras,
        "CANONICAL_PATHS",
        ["/a/{id}", "/a/{id}/c", "/a/first", "/a/first/b", "/{x}/first/{y}"],
    )
    assert pdpyras.canonical_path(API, "/a/first") == "/a/first"
    assert pdpyras.canonical_path(API, "/a/first/c") == "/a/{id}/c"
    assert pdpyras.canonical_path(API, "/a/first/b") == "/a/first/b"
    assert pdpyras.canonical_path(API, "/a/first/d") == "/{x}/first/{y}"
    assert pdpyras.canonical_path(API, "/a/other") == "/a/{id}"


ids = st.text(st.sampled_from("ABCPQXYZ0189"), min_size=1, max_size=14)
queries = st.sampled_from(["", "?", "?limit=1", "?x=/users/me", "#users"])


@unhurried
@given(st.sampled_from(pdpyras.CANONICAL_PATHS), ids, queries)
def test_a_path_with_its_parameters_filled_in_is_found(path, ident, query):
    nodes = [
        ident if pdpyras.is_path_param(node) else node
        for node in path.split("/")
    ]
    url = "/".join(nodes) + query
    assert pdpyras.canonical_path(API, url) == path
    assert pdpyras.canonical_path(API, API + url) == path


@pytest.mark.parametrize(
    "node, expected",
    [("{id}", True), ("id", False), ("{id", False), ("id}", False)],
)
def test_path_parameters(node, expected):
    assert pdpyras.is_path_param(node) is expected


@pytest.mark.parametrize(
    "pattern, method, path, expected",
    [
        ("GET /users", "GET", "/users", True),
        ("GET /users", "get", "/users", True),
        ("* /users", "DELETE", "/users", True),
        ("GET /users", "PUT", "/users", False),
        ("GET /users", "GET", "/users/{id}", False),
        ("* /users", "GET", "/teams", False),
        ("* /users/{id}", "GET", "/users", False),
    ],
)
def test_patterns_of_endpoints(pattern, method, path, expected):
    assert pdpyras.endpoint_matches(pattern, method, path) is expected


# ---------------------------------------------------------------------------
# Entity wrapping
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, path, expected",
    [
        ("GET", "/users", ("users", "users")),
        ("get", "/users/{id}", ("user", "user")),
        ("POST", "/escalation_policies", ("escalation_policy",) * 2),
        ("PUT", "/incidents", ("incidents", "incidents")),
        ("PUT", "/incidents/{id}/merge", ("source_incidents", "incident")),
        (
            "post",
            "/business_services/{id}/subscribers",
            ("subscribers", "subscriptions"),
        ),
        ("POST", "/analytics/metrics/incidents/all", (None, None)),
        ("POST", "/schedules/{id}/overrides", ("overrides", None)),
    ],
)
def test_wrappers_of_endpoints(method, path, expected):
    assert pdpyras.entity_wrappers(method, path) == expected


def test_wrappers_that_a_caller_adds(monkeypatch):
    table = pdpyras.ENTITY_WRAPPER_CONFIG
    monkeypatch.setitem(table, "* /gadgets", "gizmo")
    assert pdpyras.entity_wrappers("GET", "/gadgets") == ("gizmo", "gizmo")
    monkeypatch.setitem(table, "GET /gadgets", ("a", "b"))
    assert pdpyras.entity_wrappers("get", "/gadgets") == ("a", "b")
    assert pdpyras.entity_wrappers("PUT", "/gadgets") == ("gizmo", "gizmo")
    monkeypatch.setitem(table, "GET /gadgets", None)
    assert pdpyras.entity_wrappers("GET", "/gadgets") == (None, None)


@pytest.mark.parametrize(
    "entry", [1, ["a", "b"], ("a",), ("a", "b", "c"), ("a", 1)], ids=repr
)
def test_a_malformed_entry_is_named(entry, monkeypatch):
    monkeypatch.setitem(
        pdpyras.ENTITY_WRAPPER_CONFIG, "* /gadgets/{id}", entry
    )
    with pytest.raises(Exception) as caught:
        pdpyras.entity_wrappers("PUT", "/gadgets/{id}")
    assert "* /gadgets/{id}" in str(caught.value)
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize(
    "method, path, expected",
    [
        ("GET", "/gadgets", "gadgets"),
        ("PUT", "/gadgets", "gadgets"),
        ("post", "/gadgets", "gadget"),
        ("GET", "/gadgets/{id}", "gadget"),
        ("PUT", "/policies/{id}", "policy"),
        ("GET", "/gadgets/{id}/license", "license"),
    ],
)
def test_the_convention(method, path, expected):
    assert pdpyras.infer_entity_wrapper(method, path) == expected


@pytest.mark.parametrize(
    "plural, singular",
    [
        ("escalation_policies", "escalation_policy"),
        ("services", "service"),
        ("statuses", "status"),
        ("business_services", "business_service"),
        ("users", "user"),
        ("oncalls", "oncall"),
    ],
)
def test_singular_name_and_plural_name(plural, singular):
    assert pdpyras.singular_name(plural) == singular
    assert pdpyras.plural_name(singular) == plural
    assert pdpyras.plural_name(singular + "_reference") == plural


def test_unwrapping(received):
    response = received(json={"user": {"id": "P1"}, "more": False})
    assert pdpyras.unwrap(response, "user") == {"id": "P1"}
    assert pdpyras.unwrap(response, None) == response.json()
    assert pdpyras.unwrap(received(204), "user") is None


@pytest.mark.parametrize(
    "body, found", [({"team": 1}, "'team'"), ({}, "no prop"), ([], "list")]
)
def test_an_answer_without_the_wrapper(body, found, received):
    response = received(json=body)
    with pytest.raises(pdpyras.PDServerError) as caught:
        pdpyras.unwrap(response, "user")
    assert "'user'" in str(caught.value)
    assert found in str(caught.value)
    assert response.request.url in str(caught.value)
    assert caught.value.response.json() == body


def test_an_empty_answer_has_no_wrapper_either(received):
    with pytest.raises(pdpyras.PDServerError):
        pdpyras.unwrap(received(200), "user")


# ---------------------------------------------------------------------------
# Responses
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_success_is_passed_on(status, received):
    response = received(status)
    assert pdpyras.successful_response(response) is response


@pytest.mark.parametrize(
    "status, kind",
    [
        (304, pdpyras.PDHTTPError),
        (400, pdpyras.PDHTTPError),
        (404, pdpyras.PDHTTPError),
        (499, pdpyras.PDHTTPError),
        (500, pdpyras.PDServerError),
        (503, pdpyras.PDServerError),
        (599, pdpyras.PDServerError),
    ],
)
def test_any_other_status_is_raised(status, kind, received):
    response = received(status, body=b"no")
    with pytest.raises(pdpyras.PDClientError) as caught:
        pdpyras.successful_response(response, context="counting sheep")
    assert type(caught.value) is kind
    assert caught.value.status_code == status
    assert str(caught.value) == pdpyras.http_error_message(
        response, context="counting sheep"
    )


def test_no_status_is_an_error_too():
    response = requests.Response()
    with pytest.raises(pdpyras.PDClientError, match="counting") as caught:
        pdpyras.successful_response(response, context="counting")
    assert type(caught.value) is pdpyras.PDClientError
    assert caught.value.response is not None


@pytest.mark.parametrize(
    "status, side", [(404, "client"), (304, "client"), (500, "server")]
)
def test_the_message_of_an_error(status, side, received):
    body = b"" if status == 304 else b"Go away."
    response = received(status, "PUT", "/users/P1?a=b", body=body)
    line = f"PUT {response.request.url}: API responded with {side} error"
    said = body.decode()
    assert response.request.url.endswith("/users/P1?a=b")
    assert pdpyras.http_error_message(response) == (
        f"{line} (status {status}): {said}"
    )
    assert pdpyras.http_error_message(response, context="a test") == (
        f"{line} (status {status}) in a test: {said}"
    )


def test_the_message_quotes_the_beginning_of_the_body(received):
    response = received(500, body=b"0123456789" * 20)
    message = pdpyras.http_error_message(response)
    quoted = message.split(": ", 2)[-1]
    assert len(quoted) == pdpyras.TEXT_LEN_LIMIT
    assert quoted.startswith("0123456789" * 9)


@pytest.mark.parametrize(
    "body, expected",
    [
        (b'{"a": [1, null]}', {"a": [1, None]}),
        (b"[]", []),
        (b"null", None),
        (b'"\xc3\xa9"', "\xe9"),
        (b"", None),
        (b" \r\n", None),
    ],
)
def test_decoding(body, expected, received):
    assert pdpyras.try_decoding(received(body=body)) == expected


@pytest.mark.parametrize(
    "body", [b"<html>Busy</html>", b'{"a"', b"\xff\xfe\xfa\xfb"]
)
def test_what_is_no_json(body, received):
    response = received(502, body=body)
    with pytest.raises(pdpyras.PDServerError) as caught:
        pdpyras.try_decoding(response)
    assert caught.value.response.content == body
    assert response.request.url in str(caught.value)
    assert response.text in str(caught.value)
    # Of its own it has none; an interrupted test before may have left one.
    context = caught.value.__context__
    assert context in (None, sys.exc_info()[1]), "it quotes the whole body"


def test_json_too_deep_to_decode(received, no_collector):
    response = received(body=b"[" * 200000)
    with pytest.raises(pdpyras.PDServerError):
        pdpyras.try_decoding(response)
    assert pdpyras.PDHTTPError("it broke", response).errors == []


def test_reasons_that_are_nested_deeply(received, no_collector):
    deep = b'{"a":' * 600 + b"1" + b"}" * 600
    response = received(400, body=b'{"error": {"errors": ' + deep + b"}}")
    error = pdpyras.PDHTTPError("it broke", response)
    assert isinstance(error.errors, list) and "it broke" in str(error)


def test_a_long_run_of_backslashes_takes_no_time(received):
    start = time.process_time()
    pdpyras._hide("\\" * 100000, ["not-a-real-key-1234"])
    assert time.process_time() - start < 5


def test_a_long_body_that_is_no_json_is_cut(received):
    with pytest.raises(pdpyras.PDServerError) as caught:
        pdpyras.try_decoding(received(body=b"x" * 5000))
    assert len(str(caught.value)) < 300


def test_truncating(monkeypatch):
    limit = pdpyras.TEXT_LEN_LIMIT
    assert pdpyras.truncate_text("x" * limit) == "x" * limit
    cut = pdpyras.truncate_text("x" * (limit + 1))
    assert (len(cut), cut[:90]) == (limit, "x" * 90)
    monkeypatch.setattr(pdpyras, "TEXT_LEN_LIMIT", 7)
    assert pdpyras.truncate_text("1234567") == "1234567"
    assert pdpyras.truncate_text("12345678") == "1234..."
    monkeypatch.setattr(pdpyras, "TEXT_LEN_LIMIT", 2)
    assert pdpyras.truncate_text("123") == ".."


@unhurried
@given(st.text(max_size=300), st.integers(0, 200))
def test_what_is_cut_is_never_too_long(text, limit):
    before = pdpyras.TEXT_LEN_LIMIT
    pdpyras.TEXT_LEN_LIMIT = limit
    try:
        cut = pdpyras.truncate_text(text)
    finally:
        pdpyras.TEXT_LEN_LIMIT = before
    assert len(cut) <= limit
    assert cut == text or len(text) > limit


def test_the_end_of_a_secret():
    assert pdpyras.last_4("not-a-key-1234") == "*1234"


# ---------------------------------------------------------------------------
# Decorators
# ---------------------------------------------------------------------------


class Bare:
    """All that the decorators may need of a session: its URL."""

    def __init__(self, url):
        self.url = url


def send(self, url, **kwargs):
    """Send it by plain requests."""
    full_url = pdpyras.normalize_url(self.url, url)
    return requests.request(kwargs.pop("method"), full_url, **kwargs)


def decorated(decorator, name, sent=None):
    """A method of this name under the decorator; notes what it is given."""

    def method(self, url: str, **kwargs: int) -> object:
        """Say what it does."""
        if sent is not None:
            sent.append((url, kwargs))
        return send(self, url, method=name[1:].upper(), **kwargs)

    method.__name__ = name
    return decorator(method)


@pytest.mark.parametrize(
    "decorator",
    [
        pdpyras.auto_json,
        pdpyras.requires_success,
        pdpyras.resource_url,
        pdpyras.wrapped_entities,
    ],
)
def test_decorators_keep_name_docstring_and_signature(decorator):
    method = decorated(decorator, "rput")
    assert method.__name__ == "rput"
    assert method.__doc__ == "Say what it does."
    signature = inspect.signature(method)
    assert list(signature.parameters) == ["self", "url", "kwargs"]
    assert signature == inspect.signature(method.__wrapped__)

    def rget(self, url: str, *, page: int = 1, **kwargs: int) -> int:
        """Get it."""

    again = decorator(rget)
    assert again is not rget
    assert again.__name__ == "rget" and again.__doc__ == "Get it."
    assert inspect.signature(again) == inspect.signature(rget)


def test_resource_url_takes_a_resource(server):
    sent = []
    rget = decorated(pdpyras.resource_url, "rget", sent)
    bare = Bare(server.url)
    user = {"id": "P1", "self": server.url + "/users/P1"}
    assert rget(bare, user, timeout=9).status_code == 200
    assert rget(bare, "/users/P2").status_code == 200
    assert sent == [(user["self"], {"timeout": 9}), ("/users/P2", {})]
    assert [r.path for r in server.requests] == ["/users/P1", "/users/P2"]


@pytest.mark.parametrize(
    "resource",
    [
        {},
        {"id": "P1", "type": "user"},
        {"id": "P1", "self": None},
        {"self": ""},
        {"self": 5},
        None,
        ["users"],
        5,
    ],
)
def test_what_names_no_resource(resource, server):
    rget = decorated(pdpyras.resource_url, "rget")
    with pytest.raises(pdpyras.URLError, match="self"):
        rget(Bare(server.url), resource)
    assert server.requests == []


def test_a_resource_without_url_is_named(server):
    rget = decorated(pdpyras.resource_url, "rget")
    with pytest.raises(pdpyras.URLError) as caught:
        rget(Bare(server.url), {"id": "P1", "type": "team", "self": None})
    assert "P1" in str(caught.value)
    assert "team" in str(caught.value)


def test_requires_success(server):
    rdelete = decorated(pdpyras.requires_success, "rdelete")
    server.reply(204)
    assert rdelete(Bare(server.url), "/users/P1").status_code == 204
    server.reply(404)
    with pytest.raises(pdpyras.PDHTTPError):
        rdelete(Bare(server.url), "/users/P1")


def test_auto_json(server):
    jget = decorated(pdpyras.auto_json, "jget")
    bare = Bare(server.url)
    server.reply(json={"user": {"id": "P1"}})
    assert jget(bare, "/users/P1", params={"a": 1}) == {"user": {"id": "P1"}}
    assert server.requests[0].raw_query == "a=1"
    server.reply(204)
    assert jget(bare, "/users/P1") is None
    server.reply(404, json={})
    with pytest.raises(pdpyras.PDHTTPError):
        jget(bare, "/users/P1")
    server.reply(body=b"oops")
    with pytest.raises(pdpyras.PDServerError):
        jget(bare, "/users/P1")


def test_wrapped_entities_takes_the_method_from_the_name(server):
    bare = Bare(server.url)
    server.reply(201, json={"user": {"id": "P1"}})
    rpost = decorated(pdpyras.wrapped_entities, "rpost")
    assert rpost(bare, "/users", json={"name": "J"}) == {"id": "P1"}
    server.reply(json={"users": []})
    rput = decorated(pdpyras.wrapped_entities, "rput")
    assert rput(bare, "/users", json=[{"name": "J"}]) == []
    assert [r.json for r in server.requests] == [
        {"user": {"name": "J"}},
        {"users": [{"name": "J"}]},
    ]
    assert [r.method for r in server.requests] == ["POST", "PUT"]


def test_wrapped_entities_wraps_once(server):
    rput = decorated(pdpyras.wrapped_entities, "rput")
    server.handler = lambda request: wire.Answer(json=request.json)
    wrapped = {"user": {"name": "J"}}
    assert rput(Bare(server.url), "/users/P1", json=wrapped) == {"name": "J"}
    # A property that bears the wrapper's name, but holds no entity.
    rput(Bare(server.url), "/users/P1", json={"user": "J", "a": 1})
    assert [r.json for r in server.requests] == [
        wrapped,
        {"user": {"user": "J", "a": 1}},
    ]


def test_wrapped_entities_where_the_wrappers_differ(server):
    rpost = decorated(pdpyras.wrapped_entities, "rpost")
    server.reply(json={"subscriptions": [1]})
    path = "/business_services/P1/subscribers"
    assert rpost(Bare(server.url), path, json=[{"id": 2}]) == [1]
    assert server.requests[0].json == {"subscribers": [{"id": 2}]}


def test_wrapped_entities_raises_on_an_error_status(server):
    rget = decorated(pdpyras.wrapped_entities, "rget")
    server.reply(404, json={"user": {}})
    with pytest.raises(pdpyras.PDHTTPError):
        rget(Bare(server.url), "/users/P1")
    with pytest.raises(pdpyras.URLError):
        rget(Bare(server.url), "https://evil.example/users/P1")


def test_wrapped_entities_at_an_unknown_path(server, caplog):
    rget = decorated(pdpyras.wrapped_entities, "rget")
    server.reply(json={"gadgets": [1], "more": False})
    with caplog.at_level(logging.INFO, logger="pdpyras"):
        assert rget(Bare(server.url), "/gadgets") == [1]
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "GET /gadgets" in record.getMessage()


def test_decorators_leave_the_callers_arguments_alone(server):
    body = {"name": "J"}
    rput = decorated(pdpyras.wrapped_entities, "rput")
    server.reply(json={"user": {}})
    rput(Bare(server.url), "/users/P1", json=body)
    assert body == {"name": "J"}


@pytest.mark.parametrize("details", [None, "Use `size`."])
def test_a_deprecated_keyword_is_blamed_on_the_caller(details):
    def documented(**kwargs):
        pdpyras.deprecated_kwarg("page", details=details)

    with pytest.warns(DeprecationWarning) as caught:
        documented(page=1)
        line = inspect.currentframe().f_lineno - 1
    (warning,) = caught
    assert "'page'" in str(warning.message)
    assert str(warning.message).endswith(details or "deprecated.")
    assert (warning.filename, warning.lineno) == (__file__, line)


# ---------------------------------------------------------------------------
# The command line
# ---------------------------------------------------------------------------


@pytest.fixture
def command(server, monkeypatch, capsys):
    """Runs a command against the server, within this process."""
    monkeypatch.setenv("PAGERDUTY_API_KEY", KEY)
    monkeypatch.setenv("PAGERDUTY_ROUTING_KEY", "not-a-routing-key")

    def run(*arguments):
        status = pdpyras_cli.main(("--url", server.url) + arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_get(command, server):
    server.reply(json={"user": {"id": "P1"}})
    status, out, err = command("get", "users/P1", "-p", "a=b=c", "-p", "d=e")
    assert (status, json.loads(out), err) == (0, {"id": "P1"}, "")
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/users/P1")
    assert request.query == [("a", "b=c"), ("d", "e")]
    assert request.headers["Authorization"] == f"Token token={KEY}"


def test_list(command, server):
    server.reply(json={"users": [{"id": "P1"}, {"id": "P2"}], "more": True})
    server.reply(json={"users": [{"id": "P3"}], "more": False})
    status, out, _ = command("list", "users", "--param", "team_ids[]=PT")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (status, lines) == (0, [{"id": f"P{n}"} for n in (1, 2, 3)])
    assert {r.query[0] for r in server.requests} == {("team_ids[]", "PT")}


def test_trigger(command, server):
    server.reply(202, json={"status": "success", "dedup_key": "d1"})
    arguments = ["trigger", "Full", "db1", "--severity", "info"]
    assert command(*arguments, "--dedup-key", "d1") == (0, "d1\n", "")
    event = server.requests[0].json
    assert event["routing_key"] == "not-a-routing-key"
    assert (event["event_action"], event["dedup_key"]) == ("trigger", "d1")
    assert event["payload"] == {
        "summary": "Full",
        "source": "db1",
        "severity": "info",
    }


@pytest.mark.parametrize("action", ["acknowledge", "resolve"])
def test_acknowledge_and_resolve(action, command, server):
    server.reply(202, json={"status": "success", "dedup_key": "d1"})
    assert command(action, "d1") == (0, "d1\n", "")
    event = server.requests[0].json
    assert (event["event_action"], event["dedup_key"]) == (action, "d1")


def test_what_goes_wrong_is_said_on_stderr(command, server):
    server.reply(404, json={"error": {"message": "Not Found"}})
    status, out, err = command("get", "users/P1")
    assert (status, out) == (4, "")
    assert "404" in err
    assert "Traceback" not in err
    assert command("get", "https://evil.example/users")[0] == 2
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "variable, arguments",
    [
        ("PAGERDUTY_API_KEY", ["get", "users"]),
        ("PAGERDUTY_ROUTING_KEY", ["resolve", "d1"]),
    ],
)
def test_without_a_key(variable, arguments, command, server, monkeypatch):
    monkeypatch.delenv(variable)
    status, out, err = command(*arguments)
    assert (status, out, server.requests) == (2, "", [])
    assert "key" in err and variable in err


def test_without_a_command(capsys):
    with pytest.raises(SystemExit) as caught:
        pdpyras_cli.main([])
    assert caught.value.code == 2
    assert "command" in capsys.readouterr().err


def test_the_command_line_as_a_process(server, tmp_path):
    server.reply(json={"user": {"id": "P1"}})
    environment = dict(
        os.environ, PAGERDUTY_API_KEY=KEY, PYTHONPATH=str(FILE.parent)
    )
    command = ["-W", "error", "-m", "pdpyras"]
    done = python(
        *command,
        *("--url", server.url, "get", "users/P1"),
        env=environment,
        cwd=str(tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"id": "P1"}
    done = python(*command, "--version", env=environment, cwd=str(tmp_path))
    assert done.stdout.strip() == pdpyras.__version__
    done = python(
        *(*command, "get", "https://evil.example/users"),
        env=environment,
        cwd=str(tmp_path),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "outside" in done.stderr
