"""PDSession and APISession over the wire: what is sent, what comes back."""

import copy
import enum
import io
import json
import logging
import pickle
import re
import sys
from collections import OrderedDict, namedtuple
from datetime import date, datetime, timedelta, timezone
from functools import partial
from types import MappingProxyType

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

import pdpyras
from tests import wire
from tests.support import KEY, case, examples, told

ACCEPT = "application/vnd.pagerduty+json;version=2"


class Recorder:
    """A stand-in for ``parent``: notes what it is given, sends nothing."""

    def __init__(self, status=200, body=b"{}"):
        self.calls = []
        self.status = status
        self.body = body

    def request(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        response = requests.Response()
        response.status_code = self.status
        response.raw = io.BytesIO(self.body)
        response.request = requests.Request(*args).prepare()
        return response


@pytest.fixture
def parent(session):
    """The session's parent, replaced by a stand-in."""
    session.url = "https://api.pagerduty.com"
    session.parent = Recorder()
    return session.parent


def echo(request):
    """Answer what was sent."""
    return wire.Answer(json=request.json)


def log_records(caplog, level):
    return [r for r in caplog.records if r.levelno == level]


# ---------------------------------------------------------------------------
# What is given to requests
# ---------------------------------------------------------------------------


def test_everything_goes_through_the_parent(session, parent):
    response = session.request("get", "users/PABC123")
    assert response.status_code == 200
    ((args, kwargs),) = parent.calls
    assert args == ("GET", "https://api.pagerduty.com/users/PABC123")
    headers = kwargs.pop("headers")
    assert headers["Authorization"] == f"Token token={KEY}"
    assert kwargs == {"stream": False, "timeout": pdpyras.TIMEOUT}


def test_a_parent_is_replaced_on_one_instance_alone(session, parent, server):
    with pdpyras.APISession(KEY) as other:
        other.url = server.url
        assert other.get("users").status_code == 200
    assert len(server.requests) == 1
    assert parent.calls == []
    session.parent = None
    session.url = server.url
    assert session.get("users").status_code == 200
    assert len(server.requests) == 2


def test_a_parent_that_is_false_is_a_parent(session, server):
    class Calls(list):
        def request(self, *args, **kwargs):
            self.append(args)
            return Recorder().request(*args)

    session.parent = calls = Calls()
    session.get("users")
    assert calls == [("GET", server.url + "/users")]
    assert server.requests == []


def test_any_requests_session_may_be_the_parent(session, server):
    with requests.Session() as plain:
        plain.headers["X-Plain"] = "1"
        session.parent = plain
        assert session.get("users/P1").status_code == 200
    assert server.requests[0].headers["X-Plain"] == "1"
    assert server.requests[0].headers["Accept"] == ACCEPT


def test_arguments_pass_through_unchanged(session, parent):
    given = {
        "data": object(),
        "json": {"a": [1]},
        "cookies": {"a": "b"},
        "auth": ("user", "not-a-password"),
        "allow_redirects": False,
        "proxies": {},
        "hooks": {},
        "verify": False,
        "cert": "x.pem",
        "stream": True,
        "timeout": (1, 2),
    }
    session.request("POST", "users", **given)
    passed = parent.calls[0][1]
    for name, value in given.items():
        assert passed[name] is value, name
    assert set(passed) == set(given) | {"headers"}


def test_arguments_by_position_are_those_of_requests(session, parent):
    names = [
        *("params", "data", "headers", "cookies", "files", "auth", "timeout"),
        *("allow_redirects", "proxies", "hooks", "stream", "verify", "cert"),
        "json",
    ]
    values = [{"a": 1}, object(), {"X": "1"}] + [None] * 3 + [7.5, False]
    values += [object() for _ in names[len(values) :]]
    session.request("POST", "users", *values)
    passed = parent.calls[0][1]
    assert set(passed) == set(names)
    assert passed.pop("headers")["X"] == "1"
    assert passed.pop("params") == {"a": 1}
    for name, value in zip(names, values):
        assert name in ("headers", "params") or passed[name] is value, name


def test_arguments_by_position_over_the_wire(server, session):
    session.request("post", "users", {"a": [1]}, b"text", {"X-Mine": "1"})
    (request,) = server.requests
    assert request.query == [("a[]", "1")]
    assert request.body == b"text"
    assert request.headers["X-Mine"] == "1"


@pytest.mark.parametrize(
    "args, kwargs", [([None] * 15, {}), ([{"a": 1}], {"params": {"b": 2}})]
)
def test_no_argument_vanishes(args, kwargs, session, parent):
    with pytest.raises(TypeError):
        session.request("GET", "users", *args, **kwargs)
    assert parent.calls == []


def test_a_timeout_of_none_is_passed_on(session, parent):
    session.get("users", timeout=None)
    session.timeout = 5
    session.get("users")
    assert [kw["timeout"] for _, kw in parent.calls] == [None, 5]


def test_the_parameters_of_a_shortcut_arrive(server, session):
    session.post("users", b"data")
    session.put("users", b"data")
    session.patch("users", b"data")
    assert [r.body for r in server.requests] == [b"data"] * 3


def test_a_stream_is_left_to_the_caller(server, session):
    server.reply(body=b"0123456789")
    with session.get("users", stream=True) as response:
        assert response.raw.read(4) == b"0123"


@pytest.mark.parametrize("method", ["GET", "Get", "get"])
def test_a_method_in_any_case(method, server, session):
    session.request(method, "users")
    assert server.requests[0].method == "GET"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "", None, 5])
def test_a_method_that_is_not_permitted(method, server, session):
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.request(method, "users")
    assert str(method) in str(caught.value)
    assert "GET, POST, PUT, PATCH, DELETE" in str(caught.value)
    assert caught.value.response is None
    assert server.requests == []


def test_permitted_methods_are_a_setting(server, session):
    session.permitted_methods = ("HEAD",)
    assert session.head("users").status_code == 200
    with pytest.raises(pdpyras.PDClientError):
        session.get("users")
    assert [r.method for r in server.requests] == ["HEAD"]


def test_the_base_class_permits_nothing():
    base = pdpyras.PDSession(KEY)
    assert (base.url, base.permitted_methods) == ("", ())
    with pytest.raises(pdpyras.PDClientError, match="none"):
        base.get("https://api.pagerduty.com/users")
    base.permitted_methods = ("GET",)
    with pytest.raises(pdpyras.URLError, match="url"):
        base.get("users")


def test_permitted_methods_of_the_classes():
    five = ("GET", "POST", "PUT", "PATCH", "DELETE")
    assert pdpyras.APISession.permitted_methods == five
    assert pdpyras.EventsAPISession.permitted_methods == ("POST",)
    assert pdpyras.ChangeEventsAPISession.permitted_methods == ("POST",)
    assert pdpyras.APISession.url == "https://api.pagerduty.com"
    assert pdpyras.EventsAPISession.url == "https://events.pagerduty.com"


def test_a_subclass_states_its_own_settings(server):
    class Mine(pdpyras.PDSession):
        url = server.url
        permitted_methods = ("GET",)
        timeout = 7
        sleep_timer = 0.5

        @property
        def auth_header(self):
            return {"X-Key": self.api_key}

    with Mine("not-a-key") as mine:
        assert mine.get("anything").status_code == 200
        assert (mine.timeout, mine.sleep_timer) == (7, 0.5)
    assert server.requests[0].headers["X-Key"] == "not-a-key"


LETTERS = st.text(st.sampled_from("abAZ09-._~%+&=?#/ \xe9\u20ac"), max_size=6)
VALUES = st.one_of(LETTERS, st.integers(), st.none(), st.booleans())
QUERIES = st.one_of(
    st.none(),
    LETTERS,
    LETTERS.map(lambda text: text.encode("utf-8")),
    st.dictionaries(LETTERS, st.one_of(VALUES, st.lists(VALUES))),
    st.lists(st.tuples(LETTERS, VALUES)),
)
NAMES = st.sampled_from(["X-A", "accept", "Content-Type"])
OPTIONS = st.fixed_dictionaries(
    {
        "url": st.one_of(
            # normalize_url refuses paths that lead up with dots.
            LETTERS.filter(lambda text: "." not in text).map(
                "https://api.pagerduty.com/{}".format
            ),
            st.sampled_from(
                [
                    "https://api.pagerduty.com",
                    "https://api.pagerduty.com?a=b",
                    "http://127.0.0.1:8080/users/P1",
                    "http://[::1]:8080/users",
                    "https://gateway.example:/users",
                    "https://-.example/users",
                    "https://a..b/users",
                    "https://G\xe4teway.example/users",
                ]
            ),
        ),
        "method": st.sampled_from(["GET", "get", "POST", "PUT", "DELETE"]),
        "params": QUERIES,
        "headers": st.dictionaries(
            NAMES, st.sampled_from(["1", "2", None, "a\nb", " c", 3])
        ),
        "json": st.sampled_from([None, {}, [], {"a": "\xe9"}, 0, "text"]),
        "data": st.sampled_from([None, "", b"", b"abc", {"a": 1}, {}]),
        "cookies": st.sampled_from([None, {}, {"a": "b"}]),
    }
)


def prepared(prepare, options):
    """What comes of a request, or that it is refused."""
    try:
        made = prepare(requests.Request(**options))
    except (requests.RequestException, TypeError, ValueError):
        return "refused"
    except pdpyras.PDClientError as error:
        # Of what requests raises in the course of it, and from the same cause.
        assert isinstance(error.__cause__, (TypeError, ValueError))
        return "refused"
    headers = {k.lower(): v for k, v in made.headers.items()}
    return made.method, made.url, headers, made.body, made.hooks


def check_preparation(**options):
    """It is what requests makes of it, the second time too."""
    with pdpyras.APISession(KEY) as session:
        del session.headers["Authorization"]  # It goes to its own host only.
        for _ in range(2):
            ours = prepared(session.prepare_request, options)
            by_requests = partial(requests.Session.prepare_request, session)
            assert ours == prepared(by_requests, options)


@settings(
    deadline=None, database=None, derandomize=True, max_examples=examples(150)
)
@given(OPTIONS)
def test_requests_are_prepared_as_requests_does(options):
    check_preparation(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"params": "query=a b&c=\xe9"},
        {"params": b"query=a"},
        {"params": {"~": "%7E ~"}},
        {"params": [("a", 1), ("a", 2)]},
        {"params": {"ids[]": ["a", "b"]}},
        {"json": {"a": 1}},
        {"json": None},
        {"headers": {"Accept": None}},
        {"headers": {b"Accept": b"text/plain"}},
        {"headers": {"X-A": ["1"]}},
        {"headers": {"X-A": "a\r\nb"}},
        {"url": "https://h//a"},
        {"url": "https://h/%7Ea"},
        {"url": "https://H/"},
        {"method": "delete"},
    ],
    ids=repr,
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_odd_requests_are_prepared_as_requests_does(method, options):
    check_preparation(
        **dict({"url": "https://h/", "method": method}, **options)
    )


def test_what_the_session_holds_is_part_of_each_request(server, session):
    server.reply(headers={"Set-Cookie": "a=b"})
    session.get("users")
    session.params = {"c": "d"}
    session.get("users", params={"e": "f"})
    second = server.requests[1]
    assert second.headers["Cookie"] == "a=b"
    assert sorted(second.query) == [("c", "d"), ("e", "f")]


# ---------------------------------------------------------------------------
# Headers
# ---------------------------------------------------------------------------


def test_the_headers_of_a_get(server, session):
    session.get("users")
    headers = server.requests[0].headers
    assert headers["Authorization"] == f"Token token={KEY}"
    assert headers["Accept"] == ACCEPT
    assert headers["User-Agent"] == session.user_agent
    assert "Content-Type" not in headers
    assert "From" not in headers


def test_the_user_agent(session):
    assert (
        session.user_agent
        == "pdpyras/{} python-requests/{} Python/{}.{}".format(
            pdpyras.__version__, requests.__version__, *sys.version_info[:2]
        )
    )


@pytest.mark.parametrize("method", ["post", "put", "patch"])
@pytest.mark.parametrize("body", [{}, {"json": {}}, {"data": b"{}"}])
def test_the_content_type_where_a_body_is_written(
    method, body, server, session
):
    getattr(session, method)("users", **body)
    assert server.requests[0].headers["Content-Type"] == "application/json"


def test_no_content_type_on_delete(server, session):
    session.delete("users/P1")
    assert "Content-Type" not in server.requests[0].headers


@pytest.mark.parametrize("kind", ["default_from", "default_sender"])
def test_default_from_is_sent_as_from(kind, server):
    with pdpyras.APISession(KEY, **{kind: "me@example.com"}) as session:
        session.url = server.url
        assert session.default_from == "me@example.com"
        assert session.default_sender == "me@example.com"
        session.get("users")
        setattr(session, kind, "you@example.com")
        session.get("users")
        session.get("users", headers={"from": "her@example.com"})
        session.default_from = None
        session.get("users")
    senders = [r.headers.get_all("From") for r in server.requests]
    assert senders == [
        ["me@example.com"],
        ["you@example.com"],
        ["her@example.com"],
        None,
    ]


def test_positional_arguments_of_the_constructor(server):
    session = pdpyras.APISession(KEY, "me@example.com", "bearer", False)
    assert session.default_from == "me@example.com"
    assert session.auth_type == "bearer"
    assert not session.print_debug


@pytest.mark.parametrize(
    "name", ["accept", "Accept", "ACCEPT", "authorization", "content-TYPE"]
)
def test_headers_of_a_call_win_in_any_case(name, server, session):
    given = {name: "text/x-mine"}
    session.post("users", headers=given)
    session.post("users")
    first, second = server.requests
    assert first.headers.get_all(name) == ["text/x-mine"]
    assert second.headers.get_all(name) != ["text/x-mine"], "it sticks"
    assert given == {name: "text/x-mine"}


def test_headers_of_a_call_add_to_the_others(server, session):
    session.get("users", headers={"X-EARLY-ACCESS": "true"})
    headers = server.requests[0].headers
    assert headers["X-EARLY-ACCESS"] == "true"
    assert headers["Accept"] == ACCEPT
    assert headers["Authorization"] == f"Token token={KEY}"


def test_headers_of_the_session_win_over_the_clients_own(server, session):
    session.headers["x-mine"] = "1"
    session.headers["accept"] = "text/plain"
    session.headers["content-type"] = "text/plain"
    session.post("users")
    session.post("users", headers={"X-Mine": "2"})
    first, second = server.requests
    assert first.headers["X-Mine"] == "1"
    assert first.headers.get_all("Accept") == ["text/plain"]
    assert first.headers.get_all("Content-Type") == ["text/plain"]
    assert second.headers.get_all("X-Mine") == ["2"]


def test_a_header_of_none_is_left_out(server, session):
    session.default_from = "me@example.com"
    session.get("users", headers={"From": None, "user-agent": None})
    assert "From" not in server.requests[0].headers
    assert session.user_agent not in server.requests[0].headers.values()


def test_preparing_headers(session):
    prepared = session.prepare_headers("POST")
    assert prepared["Authorization"] == f"Token token={KEY}"
    assert prepared["Content-Type"] == "application/json"
    assert "Content-Type" not in session.prepare_headers("DELETE")
    prepared = session.prepare_headers("POST", {"content-type": "a/b"})
    assert [v for k, v in prepared.items() if k.lower() == "content-type"] == [
        "a/b"
    ]
    assert session.prepare_headers("GET", user_headers={"X": "1"})["X"] == "1"


def test_a_subclass_may_prepare_headers(server):
    class Mine(pdpyras.APISession):
        def prepare_headers(self, method, user_headers={}):  # noqa: B006
            headers = super().prepare_headers(method, user_headers)
            headers["X-Method"] = method
            return headers

    with Mine(KEY) as mine:
        mine.url = server.url
        mine.request("get", "users")
    assert server.requests[0].headers["X-Method"] == "GET"


def test_a_subclass_may_take_the_headers_by_name(server):
    """As 5.x gave them."""

    class Mine(pdpyras.APISession):
        def prepare_headers(self, method, **kwargs):
            return dict(super().prepare_headers(method, **kwargs), X_By="name")

    with Mine(KEY) as mine:
        mine.url = server.url
        mine.get("users", headers={"X-Given": "1"})
    headers = server.requests[0].headers
    assert (headers["X_By"], headers["X-Given"]) == ("name", "1")


# ---------------------------------------------------------------------------
# Query parameters
# ---------------------------------------------------------------------------

NOON = datetime(2024, 5, 6, 12, 0, 0)
EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    "params, expected",
    [
        ({"ids": ["a", "b"]}, [("ids[]", "a"), ("ids[]", "b")]),
        ({"ids[]": ["a", "b"]}, [("ids[]", "a"), ("ids[]", "b")]),
        ({"ids": ("a",)}, [("ids[]", "a")]),
        ({"ids": {"a"}}, [("ids[]", "a")]),
        ({"ids": frozenset("a")}, [("ids[]", "a")]),
        ({"ids": iter(["a"])}, [("ids[]", "a")]),
        (
            [("ids", ["a", "b"]), ("x", 1)],
            [*[("ids[]", "a"), ("ids[]", "b")], ("x", "1")],
        ),
        ([("ids[]", "a"), ("ids[]", "b")], [("ids[]", "a"), ("ids[]", "b")]),
        ((("x", 1),), [("x", "1")]),
        (
            {"total": True, "more": False},
            [("total", "true"), ("more", "false")],
        ),
        (
            {"flags": [True, False]},
            [("flags[]", "true"), ("flags[]", "false")],
        ),
        ({"zero": 0, "one": 1}, [("zero", "0"), ("one", "1")]),
        (
            {"since": NOON.replace(tzinfo=EAST)},
            [("since", "2024-05-06T10:00:00Z")],
        ),
        (
            {"since": NOON.replace(tzinfo=timezone.utc, microsecond=20)},
            [("since", "2024-05-06T12:00:00.000020Z")],
        ),
        ({"since": date(2024, 5, 6)}, [("since", "2024-05-06")]),
        (
            {"at": [NOON.replace(tzinfo=EAST), date(2024, 5, 6)]},
            [("at[]", "2024-05-06T10:00:00Z"), ("at[]", "2024-05-06")],
        ),
        # Spelled with brackets wherever the document has them.
        ({"statuses": "triggered"}, [("statuses[]", "triggered")]),
        ({"statuses[]": "triggered"}, [("statuses[]", "triggered")]),
        ({"statuses": b"triggered"}, [("statuses[]", "triggered")]),
        ({"user_ids": 1}, [("user_ids[]", "1")]),
        ({"include": True}, [("include[]", "true")]),
        (
            [("include", "teams"), ("include", "users")],
            [("include[]", "teams"), ("include[]", "users")],
        ),
        ({"statuses": None, "a": 1}, [("a", "1")]),
        ("statuses=triggered", [("statuses", "triggered")]),
        # With brackets at one endpoint, and a single value at others.
        ({"status": "active"}, [("status", "active")]),
        ({"query": "J\xf6rg & Co"}, [("query", "J\xf6rg & Co")]),
        ({"query": b"bytes"}, [("query", "bytes")]),
        ({"query": None, "a": 1.5}, [("a", "1.5")]),
        ({"ids": ["a", None]}, [("ids[]", "a")]),
        (OrderedDict([("z", 1), ("a", 2)]), [("z", "1"), ("a", "2")]),
        (MappingProxyType({"ids": ["a"]}), [("ids[]", "a")]),
        ("a=1&b[]=2", [("a", "1"), ("b[]", "2")]),
        (b"a=1", [("a", "1")]),
        ({}, []),
        (None, []),
    ],
    ids=case,
)
def test_query_parameters(params, expected, server, session):
    session.get("users", params=params)
    assert server.requests[0].query == expected


def test_a_name_with_and_without_brackets(server, session):
    session.get("users", params={"ids": ["a"], "ids[]": ["b"]})
    assert server.requests[0].query == [("ids[]", "a"), ("ids[]", "b")]


def test_parameters_are_not_changed(session):
    ids = ["a"]
    given = {"ids": ids, "total": True}
    assert session.normalize_params(given) == {"ids[]": ["a"], "total": "true"}
    assert given == {"ids": ids, "total": True}
    assert given["ids"] is ids == ["a"]
    pairs = [("ids", ids), ("total", True)]
    assert session.normalize_params(pairs) == [
        ("ids[]", ["a"]),
        ("total", "true"),
    ]
    assert pairs == [("ids", ids), ("total", True)]
    nothing = {"statuses": None, "since": None}
    assert session.normalize_params(nothing) == nothing


def test_parameters_add_to_those_of_the_url(server, session):
    session.get("users?query=J", params={"limit": 1})
    assert server.requests[0].query == [("query", "J"), ("limit", "1")]


def test_a_single_value_and_a_list_are_asked_for_alike(server, session):
    server.handler = lambda request: wire.Answer(
        json={"incidents": [], "more": False}
    )
    list(session.iter_all("incidents", params={"statuses": "triggered"}))
    list(session.iter_all("incidents", params={"statuses": ["triggered"]}))
    list(session.iter_all("incidents?statuses=triggered"))
    queries = [request.query for request in server.requests]
    assert queries[0] == queries[1] == queries[2]
    assert queries[0][0] == ("statuses[]", "triggered")


@pytest.mark.parametrize("value", ["S1", ["S1"]])
def test_an_endpoint_without_brackets_has_none(value, server, session):
    session.get("standards/scores/services", params={"ids": value})
    session.get("users", params={"ids": value})
    assert [request.query for request in server.requests] == [
        [("ids", "S1")],
        [("ids[]", "S1")],
    ]


EMPTY = [[], (), set(), iter([]), [None]]


@pytest.mark.parametrize("value", EMPTY, ids=case)
def test_an_empty_list_is_left_out_and_warned_of(value, server, session):
    params = {"service_ids": value, "a": 1}
    with pytest.warns(pdpyras.PDWarning, match="'service_ids'") as caught:
        session.get("users", params=params)
    assert [warning.filename for warning in caught] == [__file__]
    assert server.requests[0].query == [("a", "1")]


def test_an_empty_list_is_warned_of_once_in_an_iteration(server, session):
    server.reply(json={"users": [1], "more": True})
    server.reply(json={"users": [2], "more": False})
    with pytest.warns(pdpyras.PDWarning, match="'team_ids'") as caught:
        users = session.list_all("users", params={"team_ids": []})
    assert users == [1, 2]
    assert [warning.filename for warning in caught] == [__file__]
    assert "team_ids" not in str([r.query for r in server.requests])


def test_an_iterator_filters_every_page(server, session):
    server.reply(json={"users": [1], "more": True})
    server.reply(json={"users": [2], "more": False})
    session.list_all("users", params={"team_ids": iter(["T1"])})
    for request in server.requests:
        assert ("team_ids[]", "T1") in request.query


@pytest.mark.parametrize(
    "params, name, advice",
    [
        ({"filter": {"a": 1}}, "filter", "parameters of their own"),
        ({"include": [{"a": 1}]}, "include", "parameters of their own"),
        ([("filter", MappingProxyType({}))], "filter", "dict"),
        ({"since": NOON}, "since", "time zone of the account"),
        ({"at": [NOON]}, "at", "timezone.utc"),
        (
            {
                "until": datetime.max.replace(
                    tzinfo=timezone(-timedelta(1) / 2)
                )
            },
            "until",
            "out of range",
        ),
    ],
    ids=repr,
)
def test_parameters_without_a_spelling(params, name, advice, server, session):
    for call in (session.get, session.list_all):
        with pytest.raises(ValueError) as caught:
            call("users", params=params)
        assert repr(name) in str(caught.value)
        assert advice in str(caught.value)
    assert not server.requests


# ---------------------------------------------------------------------------
# Times in bodies
# ---------------------------------------------------------------------------

Shift = namedtuple("Shift", "start user")


@pytest.mark.parametrize(
    "call, wrapped",
    [
        ("post", False),
        ("put", False),
        ("patch", False),
        ("jpost", False),
        ("jput", False),
        ("rpost", True),
        ("rput", True),
        ("rpatch", True),
    ],
)
def test_times_in_bodies_are_text(call, wrapped, server, session):
    at = NOON.replace(tzinfo=EAST)
    shifts = [{"start": at, "days": (date(2024, 5, 6), at)}, {"start": "now"}]
    given = {"since": at, "shifts": shifts, "more": Shift(at, None), "n": 1}
    before = copy.deepcopy(given)
    server.reply(json={"user": {}})
    getattr(session, call)("users/P1", json=given)
    text = "2024-05-06T10:00:00Z"
    sent = {
        "since": text,
        "shifts": [
            {"start": text, "days": ["2024-05-06", text]},
            {"start": "now"},
        ],
        "more": [text, None],
        "n": 1,
    }
    assert server.requests[0].json == ({"user": sent} if wrapped else sent)
    assert given == before
    assert given["shifts"] is shifts
    assert given["shifts"][0]["days"][1] is at


def test_a_body_that_is_posted_page_by_page_may_hold_times(server, session):
    at = NOON.replace(tzinfo=EAST)
    server.reply(json={"data": [1], "more": True, "last": "x"})
    server.reply(json={"data": [2], "more": False, "last": "y"})
    body = {"filters": {"created_at_start": at}}
    found = session.iter_all("analytics/raw/incidents", json=body)
    assert list(found) == [1, 2]
    for request in server.requests:
        start = request.json["filters"]["created_at_start"]
        assert start == "2024-05-06T10:00:00Z"


@pytest.mark.parametrize(
    "body", [{"user": {"at": NOON}}, [{"at": [NOON]}], {"at": (1, NOON)}]
)
@pytest.mark.parametrize("call", ["post", "jput", "rpost"])
def test_a_naive_time_in_a_body_is_refused(body, call, server, session):
    with pytest.raises(ValueError, match="'at' in the body.*time zone"):
        getattr(session, call)("users", json=body)
    assert not server.requests


def test_what_json_does_not_know_is_still_an_error(server, session):
    circle = []
    circle.append(circle)
    for body in ({"a": {1, 2}}, {"a": timedelta(1)}, {"a": circle}, circle):
        with pytest.raises((TypeError, pdpyras.PDClientError)):
            session.post("users", json=body)
    assert not server.requests


def test_a_body_of_any_depth_is_sent(server, session):
    body = []
    for _ in range(400):
        body = [body]
    session.post("users", json=body)
    assert server.requests[0].json == body


# ---------------------------------------------------------------------------
# Logging
# ---------------------------------------------------------------------------


@pytest.fixture
def module_log():
    """The module's logger, left as it was found."""
    log = logging.getLogger("pdpyras")
    level, handlers = log.level, list(log.handlers)
    yield log
    log.setLevel(level)
    log.handlers[:] = handlers


def test_the_log_of_a_session_is_unconfigured_and_its_own(session):
    other = pdpyras.APISession(KEY)
    assert isinstance(session.log, logging.Logger)
    assert session.log is not other.log
    assert session.log.level == logging.NOTSET
    assert session.log.handlers == []
    assert session.log.parent is logging.getLogger("pdpyras")
    assert session.log.propagate
    known = logging.Logger.manager.loggerDict.values()
    assert not any(log is session.log for log in known)


def test_debugging_is_off_by_default(session, events, changes):
    for each in (session, events, changes):
        assert each.print_debug is False
        assert each.debug is False


@pytest.mark.parametrize("name", ["print_debug", "debug"])
def test_debugging_is_switched_on_and_off(name, session):
    setattr(session, name, True)
    (handler,) = session.log.handlers
    assert (session.print_debug, session.debug) == (True, True)
    assert type(handler) is logging.StreamHandler
    assert handler.stream is sys.stderr
    assert session.log.handlers == [handler]
    assert session.log.level == logging.DEBUG
    setattr(session, name, True)
    assert session._debugHandler is handler
    assert session.log.handlers == [handler]
    setattr(session, name, False)
    assert (session.print_debug, session.debug) == (False, False)
    assert session.log.handlers == []
    assert session.log.level == logging.NOTSET
    session.log.setLevel(logging.ERROR)
    setattr(session, name, False)
    assert session.log.level == logging.ERROR, "nothing is repeated"


def test_debugging_leaves_the_level_as_it_found_it(session):
    session.log.setLevel(logging.ERROR)
    session.print_debug = True
    assert session.log.level == logging.DEBUG
    session.print_debug = False
    assert session.log.level == logging.ERROR


def test_debugging_from_the_start(server, capfd):
    with pdpyras.APISession(KEY, debug=True) as session:
        session.url = server.url
        session.get("users")
        assert len(session.log.handlers) == 1
    err = capfd.readouterr().err
    assert f"GET {server.url}/users" in err
    assert "200" in err
    assert KEY not in err


def test_debugging_one_session_leaves_the_others_alone(
    server, session, events, capfd
):
    session.print_debug = True
    events.post("v2/enqueue")
    with pdpyras.APISession(KEY) as other:
        other.url = server.url
        other.get("users")
    assert logging.getLogger("pdpyras").level == logging.NOTSET
    assert capfd.readouterr().err == ""


def test_levels_are_not_cached(session, module_log, server, capfd):
    """Whoever changes a level finds it changed at once."""
    session.get("users")
    assert not session.log.isEnabledFor(logging.DEBUG)
    session.print_debug = True
    assert session.log.isEnabledFor(logging.DEBUG)
    session.get("users")
    assert "GET" in capfd.readouterr().err
    session.print_debug = False
    assert not session.log.isEnabledFor(logging.DEBUG)
    module_log.setLevel(logging.DEBUG)
    assert session.log.isEnabledFor(logging.DEBUG)
    module_log.setLevel(logging.ERROR)
    assert not session.log.isEnabledFor(logging.WARNING)
    module_log.setLevel(logging.NOTSET)
    session.log.setLevel(logging.CRITICAL)
    assert not session.log.isEnabledFor(logging.ERROR)


def test_a_disabled_log_is_silent(session, module_log):
    session.log.setLevel(logging.INFO)
    assert session.log.isEnabledFor(logging.ERROR)
    session.log.disabled = True
    assert not session.log.isEnabledFor(logging.ERROR)
    session.log.disabled = False
    logging.disable(logging.ERROR)
    try:
        assert not session.log.isEnabledFor(logging.ERROR)
        assert session.log.isEnabledFor(logging.CRITICAL)
    finally:
        logging.disable(logging.NOTSET)


def test_the_modules_logger_decides_for_all_sessions(
    session, module_log, caplog
):
    def rewrite(record):
        record.msg = record.msg.replace("mine", "*")
        return "drop" not in record.msg

    module_log.addFilter(rewrite)
    try:
        session.log.warning("drop this")
        session.log.warning("of mine")
    finally:
        module_log.removeFilter(rewrite)
    assert caplog.messages == ["of *"]
    module_log.disabled = True
    try:
        assert not session.log.isEnabledFor(logging.ERROR)
    finally:
        module_log.disabled = False


def test_what_a_session_logs_reaches_the_handlers_of_the_module(
    server, session, caplog
):
    server.reply(500, headers={"x-request-id": "r1"})
    with caplog.at_level(logging.DEBUG, logger="pdpyras"):
        session.get("users")
        session.get("users")
    (error,) = log_records(caplog, logging.ERROR)
    assert "status 500" in error.getMessage()
    assert "r1" in error.getMessage()
    (success,) = log_records(caplog, logging.DEBUG)
    assert f"GET {server.url}/users" in success.getMessage()


def test_the_log_may_be_replaced(server, session, caplog):
    mine = logging.Logger("mine")  # noqa: LOG001
    mine.addHandler(caplog.handler)
    session.log = mine
    session.get("users")
    assert {r.name for r in caplog.records} == {"mine"}


def test_debugging_goes_with_the_log_that_replaces_another(session):
    session.print_debug = True
    before, session.log = session.log, logging.Logger("mine")  # noqa: LOG001
    assert before.handlers == []
    assert before.level == logging.NOTSET
    assert session.log.handlers == [session._debugHandler]
    assert session.log.level == logging.DEBUG
    session.print_debug = False
    assert session.log.handlers == []


# ---------------------------------------------------------------------------
# Credentials
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        *(
            "",
            " ",
            "a b",
            "key\n",
            "\nkey",
            "key\r",
            "a\tb",
            "a\x00b",
            "a\x7fb",
        ),
        *("a\xa0b", "a\u2028b", None, 5, b"key", ["key"]),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "kind",
    [
        pdpyras.APISession,
        pdpyras.EventsAPISession,
        pdpyras.ChangeEventsAPISession,
    ],
)
def test_what_can_be_no_key(kind, key):
    with pytest.raises(ValueError, match="key"):
        kind(key)
    session = kind("not-a-key")
    with pytest.raises(ValueError):
        session.api_key = key
    assert session.api_key == "not-a-key"


def test_a_new_key(server, session):
    session.get("users")
    session.api_key = "another-one"
    assert (session.api_key, session.trunc_key) == ("another-one", "*-one")
    assert session.trunc_token == "*-one"
    session.get("users")
    assert [r.headers["Authorization"] for r in server.requests] == [
        f"Token token={KEY}",
        "Token token=another-one",
    ]


def test_a_subclass_is_told_of_a_new_key():
    class Mine(pdpyras.APISession):
        told = ()

        def after_set_api_key(self):
            super().after_set_api_key()
            self.told += (self.api_key,)

    mine = Mine("first")
    mine.api_key = "second"
    with pytest.raises(ValueError):
        mine.api_key = ""
    assert mine.told == ("first", "second")


@pytest.mark.parametrize(
    "auth_type, header",
    [
        ("token", f"Token token={KEY}"),
        ("bearer", f"Bearer {KEY}"),
        ("oauth2", f"Bearer {KEY}"),
    ],
)
def test_types_of_authentication(auth_type, header, server, session):
    assert session.auth_type == "token"
    session.auth_type = auth_type
    assert session.auth_type == auth_type
    assert session.auth_header == {"Authorization": header}
    session.get("users")
    assert server.requests[0].headers["Authorization"] == header
    made_so = pdpyras.APISession(KEY, auth_type=auth_type)
    assert made_so.auth_header == {"Authorization": header}


@pytest.mark.parametrize("auth_type", ["Token", "basic", "", None, 5])
def test_other_types_of_authentication(auth_type, session):
    session.auth_type = "bearer"
    with pytest.raises(AttributeError, match=re.escape(repr(auth_type))):
        session.auth_type = auth_type
    with pytest.raises(AttributeError):
        pdpyras.APISession(KEY, auth_type=auth_type)
    assert session.auth_type == "bearer"


def test_the_name_of_a_session_is_deprecated():
    for kind in (
        pdpyras.APISession,
        pdpyras.EventsAPISession,
        pdpyras.ChangeEventsAPISession,
        pdpyras.PDSession,
    ):
        with pytest.warns(DeprecationWarning, match="'name'") as caught:
            kind(KEY, name="mine")
        assert [w.filename for w in caught] == [__file__]


def test_whose_key_it_is_a_users(server, session):
    server.reply(json={"user": {"id": "P1"}})
    assert session.api_key_access == "user"
    assert session.api_key_access == "user"
    assert [r.path for r in server.requests] == ["/users/me"]


def test_whose_key_it_is_an_accounts(server, session):
    refusal = {"error": {"message": "Not with an account-level access token"}}
    server.reply(400, json=refusal)
    assert session.api_key_access == "account"
    assert session.api_key_access == "account"
    assert len(server.requests) == 1
    session.api_key = "another-one"
    server.reply(json={"user": {"id": "P1"}})
    assert session.api_key_access == "user"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "status, body, kind",
    [
        (400, b'{"error": {"message": "Bad"}}', pdpyras.PDHTTPError),
        (403, b"account-level", pdpyras.PDHTTPError),
        (500, b"", pdpyras.PDServerError),
    ],
)
def test_the_api_does_not_tell_whose_key_it_is(
    status, body, kind, server, session
):
    server.reply(status, body=body)
    with pytest.raises(kind):
        session.api_key_access  # noqa: B018
    assert session.api_key_access == "user"


def test_the_subdomain(server, session):
    url = "https://acme.eu.pagerduty.com/users/P1"
    server.reply(json={"users": [{"html_url": url}], "more": True})
    assert session.subdomain == "acme"
    assert session.subdomain == "acme"
    (request,) = server.requests
    assert (request.path, request.query) == ("/users", [("limit", "1")])
    session.api_key = "another-one"
    url = "https://other.pagerduty.com/users/P1"
    server.reply(json={"users": [{"html_url": url}]})
    assert session.subdomain == "other"


@pytest.mark.parametrize(
    "users", [[], [{}], [{"html_url": None}], [{"html_url": "x"}], {}, [5]]
)
def test_the_api_does_not_tell_the_subdomain(users, server, session):
    server.reply(json={"users": users})
    with pytest.raises(pdpyras.PDClientError, match="subdomain") as caught:
        session.subdomain  # noqa: B018
    assert type(caught.value) is pdpyras.PDClientError
    server.reply(403)
    with pytest.raises(pdpyras.PDHTTPError):
        session.subdomain  # noqa: B018


# ---------------------------------------------------------------------------
# Bodies and entities
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
@pytest.mark.parametrize("status", [200, 404, 500])
def test_plain_methods_return_the_response(method, status, server, session):
    server.reply(status, body=b"text")
    response = getattr(session, method)("users")
    assert type(response) is requests.Response
    assert (response.status_code, response.text) == (status, "text")
    assert server.requests[0].method == method.upper()


@pytest.mark.parametrize("verb", ["get", "post", "put", "patch"])
def test_j_methods_decode_the_body(verb, server, session):
    body = {"user": {"id": "P1"}, "more": False}
    server.reply(json=body)
    method = getattr(session, "j" + verb)
    assert method("users/P1", params={"a": True}) == body
    (request,) = server.requests
    assert (request.method, request.path) == (verb.upper(), "/users/P1")
    assert request.raw_query == "a=true"
    assert request.headers["Authorization"] == f"Token token={KEY}"


@pytest.mark.parametrize("verb", ["post", "put", "patch"])
def test_j_methods_send_the_body_as_given(verb, server, session):
    server.handler = echo
    body = {"name": "J"}
    assert getattr(session, "j" + verb)("users/P1", json=body) == body
    assert server.requests[0].json == {"name": "J"}


@pytest.mark.parametrize("verb", ["post", "put", "patch"])
def test_r_methods_wrap_and_unwrap(verb, server, session):
    server.handler = echo
    entity = {"name": "J"}
    path = "users" if verb == "post" else "users/P1"
    assert getattr(session, "r" + verb)(path, json=entity) == entity
    assert getattr(session, "r" + verb)(path, json={"user": entity}) == entity
    assert [r.json for r in server.requests] == [{"user": {"name": "J"}}] * 2
    assert {r.method for r in server.requests} == {verb.upper()}
    assert entity == {"name": "J"}


def test_rget_unwraps(server, session):
    server.reply(json={"user": {"id": "P1"}})
    assert session.rget("users/P1") == {"id": "P1"}
    server.reply(json={"users": [{"id": "P1"}], "more": True})
    assert session.rget("users", params={"limit": 1}) == [{"id": "P1"}]
    assert server.requests[1].query == [("limit", "1")]
    assert len(server.requests) == 2


def test_a_multi_update_wraps_a_list(server, session):
    incidents = [{"id": "P1", "status": "resolved"}]
    server.handler = echo
    assert session.rput("incidents", json=incidents) == incidents
    assert server.requests[0].json == {"incidents": incidents}


@pytest.mark.parametrize("entity", [{}, []])
def test_an_empty_entity_is_wrapped_too(entity, server, session):
    server.handler = echo
    assert session.rput("users/P1", json=entity) == entity
    assert server.requests[0].json == {"user": entity}


def test_rdelete(server, session):
    server.reply(204)
    response = session.rdelete("users/P1")
    assert (response.status_code, server.requests[0].method) == (204, "DELETE")
    assert server.requests[0].body == b""
    server.reply(404)
    with pytest.raises(pdpyras.PDHTTPError):
        session.rdelete("users/P1")


def test_rdelete_wraps_a_body(server, session, monkeypatch):
    config = pdpyras.ENTITY_WRAPPER_CONFIG
    monkeypatch.setitem(config, "DELETE /users/{id}", ("gone", None))
    server.reply(204)
    session.rdelete("users/P1", json=[{"id": "P2"}])
    assert server.requests[0].json == {"gone": [{"id": "P2"}]}


METHODS = [
    *("jget", "jpost", "jput", "jpatch"),
    *("rget", "rpost", "rput", "rpatch", "rdelete"),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "status, kind",
    [
        (400, pdpyras.PDHTTPError),
        (404, pdpyras.PDHTTPError),
        (500, pdpyras.PDServerError),
        (503, pdpyras.PDServerError),
    ],
)
def test_r_and_j_methods_raise_on_an_error_status(
    method, status, kind, server, session
):
    server.reply(status, json={"error": {"message": "No."}})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        getattr(session, method)("users/P1")
    assert type(caught.value) is kind
    assert caught.value.response.status_code == status


@pytest.mark.parametrize("method", METHODS)
def test_r_and_j_methods_take_a_resource_in_place_of_a_url(
    method, server, session
):
    user = {"id": "P1", "self": server.url + "/users/P1", "type": "user"}
    before = copy.deepcopy(user)
    server.reply(json={"user": user})
    getattr(session, method)(user)
    assert server.requests[0].path == "/users/P1"
    assert user == before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "resource",
    [{}, {"id": "P1"}, {"self": None}, {"self": ""}, {"self": 5}, None, 5],
    ids=repr,
)
def test_what_is_no_resource(method, resource, server, session):
    with pytest.raises(pdpyras.URLError):
        getattr(session, method)(resource)
    assert server.requests == []


@pytest.mark.parametrize("method", METHODS[:-1])
def test_204_is_none(method, server, session):
    server.reply(204)
    assert getattr(session, method)("users/P1") is None


@pytest.mark.parametrize("method", ["rget", "rpost", "rput", "rpatch"])
@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"team": {}}', b"", b"x"])
def test_an_answer_without_the_entity(method, body, server, session):
    server.reply(body=body)
    with pytest.raises(pdpyras.PDServerError):
        getattr(session, method)("users/P1")


@pytest.mark.parametrize("prefix", ["j", "r"])
@pytest.mark.parametrize("verb", ["post", "put", "patch"])
def test_a_str_is_sent_as_it_stands(prefix, verb, server, session):
    text = '{"user":  {"name": "J\xf6rg"}}'
    server.reply(json={"user": {}})
    getattr(session, prefix + verb)("users/P1", json=text)
    server.reply(json={"user": {}})
    getattr(session, prefix + verb)("users/P1", data=text.encode("utf-8"))
    assert [r.body.decode("utf-8") for r in server.requests] == [text] * 2
    types = {r.headers["Content-Type"] for r in server.requests}
    assert types == {"application/json"}


def test_a_str_at_an_unknown_path(server, session):
    session.rpost("gadgets", json="[1]")
    assert server.requests[0].body == b"[1]"


@pytest.mark.parametrize("method", ["post", "jpost", "rpost"])
def test_the_callers_dicts_are_never_changed(method, server, session):
    given = {
        "json": {"name": "J", "teams": [{"id": "P1"}]},
        "params": {"include": ["teams"], "total": True},
        "headers": {"X-Mine": "1"},
    }
    before = copy.deepcopy(given)
    server.reply(json={"user": {}})
    getattr(session, method)("users", **given)
    assert given == before
    assert server.requests[0].raw_query == "include%5B%5D=teams&total=true"


@pytest.mark.parametrize("options", [{"timeout": 7}, {"stream": True}])
@pytest.mark.parametrize("method", METHODS)
def test_r_and_j_methods_pass_keyword_arguments_on(
    method, options, session, parent
):
    parent.body = b'{"user": {}}'
    getattr(session, method)("users/P1", verify=False, **options)
    passed = parent.calls[0][1]
    assert passed["verify"] is False
    for name, value in options.items():
        assert passed[name] == value


@pytest.mark.parametrize("method", METHODS)
def test_r_and_j_methods_go_through_methods_that_may_be_replaced(
    method, session, monkeypatch, server
):
    """On a subclass as well as, by a test, on the class itself."""
    calls = []

    def replacement(self, url, **kwargs):
        calls.append((self, url, kwargs))
        return self.request(method[1:], "users/P2", **kwargs)

    server.handler = lambda request: wire.Answer(json={"user": {}})
    kind = type(session.__class__.__name__, (pdpyras.APISession,), {})
    setattr(kind, method[1:], replacement)
    with kind(KEY) as mine:
        mine.url = server.url
        getattr(mine, method)("users/P1", timeout=7)
        assert calls == [(mine, "users/P1", {"timeout": 7})]
    monkeypatch.setattr(pdpyras.APISession, method[1:], replacement)
    getattr(session, method)("users/P1", timeout=7)
    assert calls[1:] == [(session, "users/P1", {"timeout": 7})]
    assert {r.path for r in server.requests} == {"/users/P2"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_may_be_replaced_on_the_class(
    method, session, monkeypatch
):
    monkeypatch.setattr(
        pdpyras.APISession, method, lambda self, url: ("replaced", url)
    )
    assert getattr(session, method)("users") == ("replaced", "users")


@pytest.mark.parametrize(
    "body, expected",
    [
        ({"gadgets": [1], "more": True, "limit": 25, "offset": 0}, [1]),
        ({"gadget": {"id": "P1"}}, {"id": "P1"}),
        ({"gadgets": [], "next_cursor": "x", "total": None}, []),
        ({"a": [1], "b": [2]}, {"a": [1], "b": [2]}),
        ({"more": False}, {"more": False}),
        ({}, {}),
        ([1, 2], [1, 2]),
    ],
    ids=repr,
)
def test_an_unknown_path_is_unwrapped_by_its_content(
    body, expected, server, session
):
    server.handler = lambda request: wire.Answer(json=body)
    assert session.rget("gadgets/P1") == expected
    assert session.rpost("gadgets", json={"id": 1}) == expected
    assert session.rput("gadgets", json=[{"id": 1}]) == expected
    assert server.requests[1].json == {"id": 1}
    assert server.requests[2].json == [{"id": 1}]


def test_an_unknown_path_is_logged_at_info(server, session, caplog):
    with caplog.at_level(logging.INFO, logger="pdpyras"):
        session.rget("gadgets/P1?a=b")
        session.rdelete("gadgets/P1")
        session.rget("abilities/x/y")
    found = [r.getMessage() for r in log_records(caplog, logging.INFO)]
    assert len(found) == len(caplog.records) == 3
    assert "GET /gadgets/P1" in found[0]
    assert "DELETE /gadgets/P1" in found[1]


def test_an_upload_has_a_type_of_its_own(server, session):
    session.post("users", files={"upload": ("a.txt", b"content")})
    request = server.requests[0]
    kind, _, boundary = request.headers["Content-Type"].partition("=")
    assert kind == "multipart/form-data; boundary"
    assert boundary.encode() in request.body
    assert b"content" in request.body
    session.post(
        "users",
        files={"upload": ("a.txt", b"content")},
        headers={"content-type": "text/x-mine"},
    )
    assert server.requests[1].headers["Content-Type"] == "text/x-mine"


def test_a_file_as_body(server, session):
    session.post("users", data=io.BytesIO(b"content"))
    assert server.requests[0].body == b"content"


# ---------------------------------------------------------------------------
# persist (find, dict_all and pages are in test_pagination.py)
# ---------------------------------------------------------------------------


def collection(*records):
    """Answers any request for users with these records."""

    def answer(request):
        if request.method != "GET":
            return echo(request)
        return wire.Answer(json={"users": list(records), "more": False})

    return answer


JANE = {
    "id": "P1",
    "name": "Jane",
    "email": "jane@example.com",
    "role": {"id": "R1", "summary": "Admin"},
    "teams": [{"id": "T1", "type": "team"}],
}


def persisting(server, *records):
    """Answers for ``persist``; records have a ``self`` link."""
    records = [dict(r, self=f"{server.url}/users/{r['id']}") for r in records]
    server.handler = collection(*records)
    return records


def writes(server):
    return [r for r in server.requests if r.method != "GET"]


def test_persist_creates(server, session):
    persisting(server)
    values = {"name": "Jane", "email": "jane@example.com"}
    before = dict(values)
    assert session.persist("users", "email", values) == values
    (request,) = writes(server)
    assert (request.method, request.path) == ("POST", "/users")
    assert request.json == {"user": values}
    assert values == before
    assert ("query", "jane@example.com") in server.requests[0].query


def test_persist_leaves_what_is_there(server, session):
    (jane,) = persisting(server, JANE)
    values = {"email": "JANE@example.com", "name": "Another"}
    assert session.persist("users", "email", values) == jane
    assert writes(server) == []


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"name": "Jane"},
        {"role": {"id": "R1"}},
        {"teams": [{"id": "T1"}]},
        {"teams": ({"id": "T1"},)},
    ],
    ids=repr,
)
def test_persist_puts_nothing_that_would_change_nothing(
    values, server, session
):
    (jane,) = persisting(server, JANE)
    values = dict(values, email="jane@example.com")
    assert session.persist("users", "email", values, update=True) == jane
    assert writes(server) == []


@pytest.mark.parametrize(
    "values",
    [
        {"name": "Janet"},
        {"title": None},
        {"role": {"id": "R2"}},
        {"role": None},
        {"teams": []},
        {"teams": [{"id": "T1"}, {"id": "T2"}]},
        {"teams": [{"id": "T2"}]},
        {"email": "JANE@example.com"},
    ],
    ids=repr,
)
def test_persist_updates_what_differs(values, server, session):
    (jane,) = persisting(server, JANE)
    values = dict({"email": "jane@example.com"}, **values)
    before = copy.deepcopy(values)
    updated = session.persist("users", "email", values, update=True)
    (request,) = writes(server)
    assert (request.method, request.path) == ("PUT", "/users/P1")
    assert request.json == {"user": dict(jane, **values)}
    assert updated == dict(jane, **values)
    assert values == before


class Name(str, enum.Enum):
    SHOP = "Web shop"


@pytest.mark.parametrize(
    "value, sent",
    [
        (Name.SHOP, "Web shop"),
        (
            datetime(2026, 1, 1, tzinfo=timezone.utc),
            "2026-01-01T00:00:00Z",
        ),
    ],
    ids=["enum", "datetime"],
)
def test_persist_compares_what_is_sent(value, sent, server, session):
    found = {"id": "S1", "name": sent, "self": server.url + "/services/S1"}
    server.reply(json={"services": [found], "more": False})
    values = {"name": value}
    assert session.persist("services", "name", values, update=True) == found
    assert [request.method for request in server.requests] == ["GET"]


def test_a_wrapper_around_a_tuple_is_one(server, session):
    server.reply(json={"incidents": []})
    session.rput("incidents", json={"incidents": ({"id": "P1"},)})
    assert server.requests[0].json == {"incidents": [{"id": "P1"}]}


def test_persist_needs_the_attribute(server, session):
    with pytest.raises(ValueError, match="'email'"):
        session.persist("users", "email", {"name": "Jane"})
    assert server.requests == []


# ---------------------------------------------------------------------------
# Counters
# ---------------------------------------------------------------------------


def test_calls_are_counted_by_endpoint(server, session, naps):
    server.reply(429)
    session.get("users/P1")
    session.get("users/P2?include[]=teams")
    session.get("users/me")
    session.post("users", json={})
    session.get("gadgets/P1/?a=b")
    server.reply(404)
    session.get("teams/P1")
    assert session.api_call_counts == {
        "GET /users/{id}": 3,
        "GET /users/me": 1,
        "POST /users": 1,
        "GET /gadgets/P1": 1,
        "GET /teams/{id}": 1,
    }
    assert session.total_call_count == 7
    assert set(session.api_time) == set(session.api_call_counts)
    assert all(seconds > 0 for seconds in session.api_time.values())
    assert session.total_call_time == sum(session.api_time.values())


def test_time_adds_up(session, parent):
    class Slow(Recorder):
        def request(self, *args, **kwargs):
            response = super().request(*args, **kwargs)
            response.elapsed = timedelta(seconds=1.5)
            return response

    session.parent = Slow()
    session.get("users")
    session.get("users")
    session.get("teams")
    assert session.api_time == {"GET /users": 3.0, "GET /teams": 1.5}
    assert session.total_call_time == 4.5


def test_a_call_that_was_redirected_is_counted_where_it_ended(server, session):
    server.reply(302, headers={"Location": "/elsewhere?a=b"})
    session.get("users")
    assert session.api_call_counts == {"GET /elsewhere": 1}


def test_counters_of_a_new_session(session):
    other = pdpyras.APISession(KEY)
    assert (session.total_call_count, session.total_call_time) == (0, 0)
    other.api_call_counts["GET /users"] = 1
    assert session.api_call_counts == {}


def test_a_subclass_may_postprocess(server):
    class Mine(pdpyras.APISession):
        seen = ()

        def postprocess(self, response):
            self.seen += (response.status_code,)
            super().postprocess(response)

    with Mine(KEY) as mine:
        mine.url = server.url
        server.reply(404)
        mine.get("users")
        mine.get("users")
        assert mine.seen == (404, 200)
        assert mine.total_call_count == 2


# ---------------------------------------------------------------------------
# The session as a whole
# ---------------------------------------------------------------------------


def test_the_settings_of_a_new_session(session):
    assert isinstance(session, requests.Session)
    assert session.timeout == pdpyras.TIMEOUT == 60
    assert session.default_page_size == 100
    assert session.default_from is None
    assert session.require_complete_results is True


def test_a_session_as_context_manager(server):
    with pdpyras.APISession(KEY) as session:
        session.url = server.url
        assert session.get("users").status_code == 200


def test_methods_about_urls(session):
    session.url = "https://api.eu.pagerduty.com"
    assert session.normalize_url("users") == session.url + "/users"
    assert session.canonical_path("users/P1") == "/users/{id}"
    with pytest.raises(pdpyras.URLError):
        session.normalize_url("https://evil.example/users")


def test_a_copied_session_shares_nothing_that_can_be_set(server, session):
    session.sleep_timer = session.sleep_timer_base = 0
    twin = copy.copy(session)
    twin.retry[500] = 1
    twin.headers["X-Mine"] = "1"
    twin.params["a"] = "b"
    twin.cookies.set("c", "d")
    twin.proxies["http"] = "http://127.0.0.1:1"
    twin.hooks["response"].append(lambda *args, **kwargs: 1 / 0)
    twin.mount(server.url, requests.adapters.BaseAdapter())
    server.reply(500, headers={"ratelimit-remaining": "8"})
    assert session.get("users").status_code == 500
    (request,) = server.requests
    assert request.target == "/users"
    assert not {"X-Mine", "Cookie"} & set(request.headers)
    assert session.rate.remaining == 8
    assert twin.rate is None
    assert sum(session.api_call_counts.values()) == 1
    assert sum(twin.api_call_counts.values()) == 0


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_session_works(protocol, server, session):
    session.get("users")
    session.headers["X-Mine"] = "1"
    session.retry[500] = 7
    session.stagger_cooldown = 0.5
    session.sleep_timer, session.sleep_timer_base = 9, 3
    session.max_http_attempts, session.max_network_attempts = 4, 5
    session.auth_type = "bearer"
    session.default_from = "me@example.com"
    session.timeout = 11
    twin = pickle.loads(pickle.dumps(session, protocol))
    with twin:
        assert twin.total_call_count == 1
        twin.get("users/P1")
        for name in (
            *("retry", "stagger_cooldown", "sleep_timer", "timeout"),
            *("sleep_timer_base", "max_http_attempts", "api_key", "url"),
            *("max_network_attempts", "auth_type", "default_from"),
        ):
            assert getattr(twin, name) == getattr(session, name), name
        assert twin.api_call_counts == {"GET /users": 1, "GET /users/{id}": 1}
    assert session.api_call_counts == {"GET /users": 1}, "the other's"
    headers = server.requests[1].headers
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["From"] == "me@example.com"
    assert headers["X-Mine"] == "1"


OF_ALL = {
    "deadline": 7,
    "max_rate_wait": 6,
    "max_response_size": 1000,
    "max_http_attempts": 4,
    "max_network_attempts": 5,
    "timeout": 11,
    "permitted_methods": ("POST", "PUT"),
    "retry": {500: 7},
    "retry_ambiguous_writes": False,
    "retry_reads": True,
    "sleep_timer": 9,
    "sleep_timer_base": 3,
    "sleep_timer_max": 99,
    "stagger_cooldown": 0.5,
    "url": "https://api.eu.pagerduty.com",
}
OF_EVENTS = {"strict_events": True}


@pytest.mark.parametrize(
    "kind, more",
    [
        (
            pdpyras.APISession,
            {
                "auth_type": "bearer",
                "client_incident_keys": True,
                "default_from": "me@example.com",
                "prefetch": 2,
                "default_page_size": 7,
                "require_complete_results": False,
            },
        ),
        (pdpyras.EventsAPISession, {"client_dedup_keys": True, **OF_EVENTS}),
        (pdpyras.ChangeEventsAPISession, OF_EVENTS),
    ],
)
def test_every_setting_is_pickled(kind, more):
    session = kind(KEY)
    for name, value in {**OF_ALL, **more}.items():
        assert getattr(session, name) != value
        setattr(session, name, value)
    twin = pickle.loads(pickle.dumps(session))
    for name, value in {**OF_ALL, **more}.items():
        assert getattr(twin, name) == value, name


def test_json_that_a_session_sends_is_json(server, session):
    session.post("users", json={"name": "J\xf6rg"})
    assert json.loads(server.requests[0].body.decode()) == {"name": "J\xf6rg"}


# --- The credential among the session's headers -----------------------------


def test_the_headers_of_the_session_hold_the_credential(session):
    assert session.headers["Authorization"] == f"Token token={KEY}"
    session.auth_type = "bearer"
    assert session.headers["Authorization"] == f"Bearer {KEY}"
    session.api_key = "another-key"
    assert session.headers["Authorization"] == "Bearer another-key"
    assert KEY not in repr(session.headers)
    assert "another-key" not in repr(session.headers)


def test_a_credential_of_the_caller_among_the_headers_wins(server, session):
    session.headers["Authorization"] = "Token token=mine"
    session.get("users")
    assert server.requests[-1].headers["Authorization"] == "Token token=mine"


@pytest.mark.parametrize("cookies", [{}, {"a": "b"}])  # Quickly, and slowly.
def test_a_request_made_by_hand_has_it_for_the_api_only(
    cookies, server, session
):
    inside = requests.Request("GET", f"{server.url}/users", cookies=cookies)
    session.send(session.prepare_request(inside))
    sent = server.requests[-1].headers["Authorization"]
    assert sent == f"Token token={KEY}"
    with wire.Server() as other:
        outside = requests.Request("GET", f"{other.url}/x", cookies=cookies)
        session.send(session.prepare_request(outside))
        assert other.requests[-1].headers.get("Authorization") is None


@pytest.mark.parametrize("cookies", [{}, {"a": "b"}])
@pytest.mark.parametrize(
    "base, url, is_sent",
    [
        ("https://api.pagerduty.com", "https://api.eu.pagerduty.com/x", False),
        ("http://127.0.0.1:9", "https://api.pagerduty.com/x", False),
        ("https://api.pagerduty.com", "https://api.pagerduty.com/x", True),
        ("https://h.example/a", "https://h.example/a/x", True),
        ("https://h.example/a", "https://h.example/a?b=c", True),
        ("https://h.example/a", "https://h.example/ab", False),
        ("https://h.example", "https://h.example:444/x", False),
        ("", "https://h.example/x", False),
    ],
)
def test_a_request_made_by_hand_has_no_key_for_another_region(
    base, url, is_sent, cookies
):
    with pdpyras.APISession(KEY) as session:
        session.url = base
        by_hand = requests.Request("GET", url, cookies=cookies)
        prepared = session.prepare_request(by_hand)
        assert ("Authorization" in prepared.headers) is is_sent


def test_a_secret_is_not_taken_for_the_same_text_of_the_caller(
    server, session
):
    """What is remembered of headers must not confuse the two."""
    with wire.Server() as other:
        by_hand = requests.Request("GET", f"{other.url}/x")
        session.headers["Authorization"] = f"Token token={KEY}"
        session.send(session.prepare_request(by_hand))
        assert other.requests[-1].headers["Authorization"]  # As was asked.
        session.api_key = KEY
        session.send(session.prepare_request(by_hand))
        assert other.requests[-1].headers.get("Authorization") is None


def test_a_credential_made_anew_for_each_request_is_sent(server):
    class Mine(pdpyras.APISession):
        count = 0

        @property
        def auth_header(self):
            self.count += 1
            return {"Authorization": f"Bearer number-{self.count}"}

    with Mine(KEY) as session:
        session.url = server.url
        session.get("users")
        first = server.requests[-1].headers["Authorization"]
        session.get("users")
        assert server.requests[-1].headers["Authorization"] != first


# ---------------------------------------------------------------------------
# What users' tests and programs rest on
# ---------------------------------------------------------------------------


class StandIn:
    """A response of somebody's test, which has this and no more."""

    def __init__(self, ok, body):
        self.ok = ok
        self.body = body
        self.decoded = 0

    def json(self):
        self.decoded += 1
        return self.body


@pytest.mark.parametrize("status", [None, "a mock"])
def test_a_stand_in_that_has_only_ok_is_judged_by_it(
    status, session, monkeypatch
):
    answer = StandIn(True, {"user": {"id": "P1"}})
    if status:
        answer.status_code = status
        answer.text = "the body"
    monkeypatch.setattr(session, "get", lambda *args, **kwargs: answer)
    assert session.rget("users/P1") == {"id": "P1"}
    assert answer.decoded == 1
    answer.ok = False
    with pytest.raises(pdpyras.PDHTTPError):
        session.rget("users/P1")


class Log:
    """A log of somebody's own, which has these methods and no more."""

    def __init__(self):
        self.said = []

    def debug(self, message, *args):
        self.said.append(("debug", message % args))

    def info(self, message, *args):
        self.said.append(("info", message % args))

    def warning(self, message, *args):
        self.said.append(("warning", message % args))

    def error(self, message, *args):
        self.said.append(("error", message % args))


def test_a_log_that_has_only_the_usual_methods(server, session, naps):
    session.log = log = Log()
    session.retry[503] = 1
    server.reply(503)
    server.reply(json={"users": [{"id": "P1"}]})
    with told(pdpyras.PDIncompleteWarning) as texts:
        session.list_all("users")
    levels = [level for level, _ in log.said]
    assert levels == ["error", "warning", "debug", "info"]
    assert log.said[-1] == ("info", texts[0])


def test_debug_handler_is_gone_when_debugging_is_off(session):
    assert not hasattr(session, "_debugHandler")
    session.print_debug = True
    assert session._debugHandler in session.log.handlers
    session.print_debug = False
    assert not hasattr(session, "_debugHandler")
    assert session.log.handlers == []


def test_the_subdomain_goes_through_rget(session, monkeypatch):
    asked = []

    def rget(url, **kwargs):
        asked.append((url, kwargs))
        return [{"html_url": "https://acme.pagerduty.com/users/P1"}]

    monkeypatch.setattr(session, "rget", rget)
    assert session.subdomain == "acme"
    assert asked == [("/users", {"params": {"limit": 1}})]


def test_persist_puts_to_a_self_among_the_values(server, session):
    there = {"id": "P1", "email": "j@x", "self": f"{server.url}/users/P1"}
    server.reply(json={"users": [there], "more": False})
    server.reply(json={"user": {"id": "P2"}})
    values = {"email": "j@x", "name": "J", "self": f"{server.url}/users/P2"}
    session.persist("users", "email", values, update=True)
    assert server.requests[-1].method == "PUT"
    assert server.requests[-1].path == "/users/P2"
    assert server.requests[-1].json["user"]["self"] == values["self"]


def test_persist_with_an_empty_self_among_the_values(server, session):
    there = {"id": "P1", "email": "j@x", "self": f"{server.url}/users/P1"}
    server.reply(json={"users": [there], "more": False})
    server.reply(json={"user": {"id": "P1"}})
    values = {"email": "j@x", "name": "J", "self": None}
    session.persist("users", "email", values, update=True)
    assert server.requests[-1].path == "/users/P1"


def test_a_method_of_bytes(server, session):
    server.reply(json={})
    session.request(b"get", "users")
    assert server.requests[0].method == "GET"
    request = requests.Request(b"GET", f"{server.url}/users")
    assert session.prepare_request(request).method == "GET"


def test_the_order_of_the_headers_is_that_of_requests(server, session):
    server.reply(json={}, times=2)
    session.headers["X-Of-The-Session"] = "1"
    session.post("users", json={}, headers={"X-Of-The-Call": "2"})
    names = [name.lower() for name in server.requests[0].headers]
    order = [
        *("user-agent", "accept-encoding", "accept", "connection"),
        *("authorization", "x-of-the-session", "content-type"),
        "x-of-the-call",
    ]
    assert [name for name in names if name in order] == order


def test_api_key_access_behind_a_page_of_html(server, session):
    server.reply(200, body=b"<html>Sign in</html>")
    with pytest.raises(pdpyras.PDServerError):
        session.api_key_access  # noqa: B018
    server.reply(400, body=b"<html>account-level</html>")
    with pytest.raises(pdpyras.PDHTTPError):
        session.api_key_access  # noqa: B018
    reason = {"message": "Cannot be used with account-level access token."}
    server.reply(400, json={"error": reason})
    assert session.api_key_access == "account"
