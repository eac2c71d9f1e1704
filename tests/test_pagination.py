"""Iteration over collections: which requests are made, when, and what for.

Every test looks at the request lines that a real server received. The
collection behind it answers as PagerDuty's documents on pagination say.
"""

import copy
import gc
import itertools
import tracemalloc
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pdpyras
from tests import wire
from tests.support import examples, told, warnings_in

NO_MORE_THAN = "no records beyond the first"


class Collection:
    """A handler for a server: records in pages by limit and offset.

    ``cap``: records that a page holds at most, whatever the limit.
    ``short``: how many records less than that each page holds, in turn.
    ``rest``: more properties of each answer.
    """

    def __init__(self, size, name="users", cap=100, short=(), **rest):
        self.records = [{"id": f"P{n}"} for n in range(size)]
        self.name = name
        self.cap = cap
        self.short = itertools.chain(short, itertools.repeat(0))
        self.rest = rest

    def __call__(self, request):
        query = dict(request.query)
        offset, limit = int(query["offset"]), int(query["limit"])
        assert offset + limit <= 10000
        size = max(1, min(limit, self.cap) - next(self.short))
        page = self.records[offset : offset + size]
        answer = {
            self.name: page,
            "limit": limit,
            "offset": offset,
            "more": offset + len(page) < len(self.records),
        }
        answer.update(self.rest)
        return wire.Answer(json=answer)


def numbers(records):
    """The numbers in the ids of the records."""
    return [int(record["id"][1:]) for record in records]


def targets(server):
    """The request lines without method and version."""
    return [request.target for request in server.requests]


# -- The query -------------------------------------------------------------


def test_the_sample_of_the_guide_for_list_all(server, session):
    server.handler = Collection(82, "services")
    found = session.list_all(
        "services",
        params={
            "query": "foo",
            "include": ["escalation_policies", "teams"],
            "limit": 50,
        },
    )
    assert numbers(found) == list(range(82))
    query = (
        "/services?query=foo&include%5B%5D=escalation_policies"
        "&include%5B%5D=teams&limit=50&offset="
    )
    assert targets(server) == [f"{query}0", f"{query}50"]


def test_a_page_holds_a_hundred_records_by_default(server, session):
    server.handler = Collection(250)
    assert numbers(session.iter_all("users")) == list(range(250))
    assert targets(server) == [
        "/users?limit=100&offset=0",
        "/users?limit=100&offset=100",
        "/users?limit=100&offset=200",
    ]


def test_default_page_size_can_be_set(server, session):
    server.handler = Collection(5)
    session.default_page_size = 4
    assert len(session.list_all("users")) == 5
    assert targets(server) == [
        "/users?limit=4&offset=0",
        "/users?limit=4&offset=4",
    ]
    assert pdpyras.APISession.default_page_size == 100


@pytest.mark.parametrize(
    "url, params, query",
    [
        ("users", {"z": 1, "a": 2}, "z=1&a=2&limit=2&offset=0"),
        ("/users", [("z", 1), ("a", 2)], "z=1&a=2&limit=2&offset=0"),
        ("users", (("a", 1), ("a", 2)), "a=1&a=2&limit=2&offset=0"),
        ("users?z=1&a=2", None, "z=1&a=2&limit=2&offset=0"),
        (
            "users?ids[]=P1&ids%5B%5D=P2",
            {"query": "a b&c"},
            "ids%5B%5D=P1&ids%5B%5D=P2&query=a+b%26c&limit=2&offset=0",
        ),
        ("users?limit=50&q=&x=1", None, "q=&x=1&limit=50&offset=0"),
        ("users?offset=4", {"a": 1}, "a=1&limit=2&offset=4"),
        ("users", {"offset": 4, "a": 1}, "a=1&limit=2&offset=4"),
        ("users", {"limit": 7, "a": 1}, "a=1&limit=7&offset=0"),
        ("users", {"limit": "7"}, "limit=7&offset=0"),
        ("users", {"a": None, "b": True}, "b=true&limit=2&offset=0"),
        ("users", {}, "limit=2&offset=0"),
        ("users", [], "limit=2&offset=0"),
        (
            "users",
            {"since": datetime(2023, 5, 1, tzinfo=timezone.utc)},
            "since=2023-05-01T00%3A00%3A00Z&limit=2&offset=0",
        ),
    ],
)
def test_the_query_holds_what_the_caller_wants_first(
    url, params, query, server, session
):
    server.handler = Collection(1)
    before = copy.deepcopy(params)
    session.list_all(url, params=params, page_size=2)
    assert targets(server) == [f"/users?{query}"]
    assert params == before


def test_a_list_under_both_spellings_of_its_name(server, session):
    server.handler = Collection(1)
    params = [("ids", ["P1", "P2"]), ("ids[]", "P3")]
    session.list_all("users", params=params)
    assert targets(server) == [
        "/users?ids%5B%5D=P1&ids%5B%5D=P2&ids%5B%5D=P3&limit=100&offset=0"
    ]


def test_every_page_is_asked_for_with_the_same_parameters(server, session):
    server.handler = Collection(3)
    params = {"query": "x", "include": ["teams"], "offset": 0}
    before = copy.deepcopy(params)
    session.list_all("users", params=params, page_size=1)
    query = "/users?query=x&include%5B%5D=teams&limit=1&offset="
    assert targets(server) == [f"{query}{n}" for n in range(3)]
    assert params == before


def test_a_full_url(server, session):
    server.handler = Collection(2)
    session.list_all(f"{server.url}/users?query=x", page_size=1)
    assert targets(server) == [
        "/users?query=x&limit=1&offset=0",
        "/users?query=x&limit=1&offset=1",
    ]


def test_a_resource_in_place_of_its_url(server, session):
    server.handler = Collection(1)
    link = {"self": f"{server.url}/users", "type": "users"}
    assert numbers(session.list_all(link)) == [0]
    server.handler = Chain([[1]])
    link = {"self": f"{server.url}/audit/records"}
    assert session.list_all(link) == list(session.iter_cursor(link)) == [1]
    for method in (session.iter_all, session.iter_cursor):
        with pytest.raises(pdpyras.URLError):
            method({"id": "P1"})


def test_a_collection_inside_a_resource(server, session):
    server.handler = Collection(2, "log_entries")
    entries = session.list_all("/incidents/PABC123/log_entries", page_size=1)
    assert numbers(entries) == [0, 1]
    assert targets(server)[1] == (
        "/incidents/PABC123/log_entries?limit=1&offset=1"
    )


def test_the_wrapper_may_differ_from_the_path(server, session):
    server.handler = Collection(2, "orchestrations")
    assert len(session.list_all("event_orchestrations")) == 2


@pytest.mark.parametrize(
    "size", [0, -1, 2.5, "many", [], float("nan"), float("inf")]
)
def test_what_page_size_may_not_be(size, server, session):
    with pytest.raises(ValueError, match="page_size"):
        session.iter_all("users", page_size=size)
    with pytest.raises(ValueError, match="page_size"):
        session.iter_cursor("audit/records", page_size=size)
    with pytest.raises(ValueError, match="^limit must be .* from 1, not"):
        session.iter_all("users", params={"limit": size})
    session.default_page_size = size
    with pytest.raises(ValueError, match="page_size"):
        session.list_all("users")
    assert server.requests == []


@pytest.mark.parametrize("offset", [-1, "many", 1.5])
def test_what_an_offset_may_not_be(offset, server, session):
    with pytest.raises(ValueError, match="^offset must be .* from 0, not"):
        session.iter_all("users", params={"offset": offset})
    assert server.requests == []


# -- One page after the other ----------------------------------------------


def test_a_page_is_asked_for_when_it_is_needed(server, session):
    server.handler = Collection(5)
    records = session.iter_all("users", page_size=2)
    assert targets(server) == []
    seen = []
    for record in records:
        seen.append((record["id"], len(server.requests)))
    assert seen == [("P0", 1), ("P1", 1), ("P2", 2), ("P3", 2), ("P4", 3)]
    assert len(server.requests) == 3


def test_whoever_has_found_it_asks_no_further(server, session):
    server.handler = Collection(500)
    for record in session.iter_all("users", page_size=10):
        if record["id"] == "P9":  # The last one of its page.
            break
    assert len(server.requests) == 1


def test_two_iterations_do_not_disturb_each_other(server, session):
    server.handler = Collection(7)
    slow = session.iter_all("users", page_size=2)
    fast = session.iter_all("users", page_size=3)
    both = list(itertools.zip_longest(slow, fast))
    assert numbers(pair[0] for pair in both) == list(range(7))
    assert numbers(pair[1] for pair in both) == list(range(7))


def test_an_empty_collection(server, session):
    server.handler = Collection(0)
    assert session.list_all("users") == []
    assert session.dict_all("users") == {}
    assert session.find("users", "x") is None
    assert len(server.requests) == 3


def test_a_short_page_loses_and_repeats_nothing(server, session):
    server.handler = Collection(9, short=[0, 2, 1])
    assert numbers(session.iter_all("users", page_size=3)) == list(range(9))
    # And the limit remains what it was.
    assert targets(server) == [
        f"/users?limit=3&offset={offset}" for offset in (0, 3, 4, 6)
    ]


def test_the_api_gives_less_than_the_page_size(server, session):
    server.handler = Collection(9, cap=4)
    assert numbers(session.iter_all("users")) == list(range(9))
    assert targets(server) == [
        f"/users?limit=100&offset={offset}" for offset in (0, 4, 8)
    ]


def test_an_empty_page_with_more(server, session):
    server.reply(json={"users": [{"id": "P0"}], "more": True})
    server.reply(json={"users": [], "more": True}, times=9)
    with told(pdpyras.PDIncompleteWarning, "/users", "empty page"):
        assert numbers(session.iter_all("users", page_size=1)) == [0]
    assert len(server.requests) == 2


@pytest.mark.parametrize("rest", [{}, {"limit": 100, "offset": 0}])
def test_a_page_without_more(rest, server, session, caplog):
    server.reply(json={"users": [{"id": "P0"}, {"id": "P1"}], **rest})
    with told(pdpyras.PDIncompleteWarning, "/users", "pagination"):
        assert numbers(session.iter_all("users", page_size=2)) == [0, 1]
    assert len(server.requests) == 1
    assert warnings_in(caplog) == []


@pytest.mark.parametrize(
    "path, name",
    [
        ("abilities", "abilities"),
        ("users/P1/contact_methods", "contact_methods"),
        ("users/P1/notification_rules", "notification_rules"),
        ("incidents/P1/notes", "notes"),
        ("response_plays", "response_plays"),
        ("schedules/P1/users", "users"),
    ],
)
def test_a_list_that_has_no_pages(path, name, server, session, caplog):
    """It is whole, and so there is nothing to warn of."""
    server.handler = lambda request: wire.Answer(json={name: [1, 2]})
    assert session.list_all(path) == [1, 2]
    assert len(server.requests) == 1
    assert warnings_in(caplog) == []


def test_a_list_that_has_no_pages_and_says_that_there_is_more(server, session):
    server.reply(json={"abilities": ["sso"], "more": True})
    server.reply(json={"abilities": [], "more": True}, times=9)
    with told(pdpyras.PDIncompleteWarning, "/abilities", "empty page"):
        assert session.list_all("abilities") == ["sso"]
    assert len(server.requests) == 2


@pytest.mark.parametrize("prefetch", [0, 4])
def test_an_error_of_a_hook_is_not_the_end_of_a_list(
    prefetch, server, session
):
    def answer(request):
        if request.path != "/users":
            return wire.Answer(404)
        users = [{"id": "P1"}] * 100
        return wire.Answer(json={"users": users, "more": True})

    def hook(response, **kwargs):
        if "offset=300" in response.url:
            session.rget("/teams/P1")

    server.handler = answer
    session.require_complete_results = False
    session.hooks["response"].append(hook)
    with pytest.raises(pdpyras.PDHTTPError, match="/teams/P1"):
        session.list_all("users", prefetch=prefetch)


@pytest.fixture(scope="module")
def collections():
    """A server for tests that go through many collections."""
    with wire.Server() as server:
        session = pdpyras.APISession("not-a-real-key")
        session.url = server.url
        with session:
            yield server, session


@settings(max_examples=examples(60), deadline=None, derandomize=True)
@given(
    size=st.integers(0, 60),
    cap=st.integers(1, 20),
    page_size=st.integers(1, 25),
    start=st.integers(0, 70),
    short=st.lists(st.integers(0, 20), max_size=30),
)
def test_nothing_is_lost_or_repeated(
    collections, size, cap, page_size, start, short
):
    server, session = collections
    server.handler = Collection(size, cap=cap, short=short)
    server.requests.clear()
    found = session.iter_all(
        "users", params={"offset": start}, page_size=page_size
    )
    assert numbers(found) == list(range(start, size))
    limits = [dict(request.query)["limit"] for request in server.requests]
    assert set(limits) == {str(page_size)}
    assert len(limits) <= max(1, size - start)


# -- The hook and the total ------------------------------------------------


def test_item_hook_sees_each_record_before_the_caller(server, session):
    server.handler = Collection(5, total=5)
    calls = []
    records = session.iter_all(
        "users",
        page_size=2,
        total=True,
        item_hook=lambda *args: calls.append(args),
    )
    for count, record in enumerate(records, 1):
        assert calls[-1] == (record, count, 5)
        assert len(calls) == count
    assert len(calls) == 5
    assert all(type(total) is int for _, _, total in calls)


def test_the_total_is_asked_for_with_every_page(server, session):
    server.handler = Collection(3, total=3)
    session.list_all("users", params={"a": 1}, page_size=2, total=True)
    for request in server.requests:
        assert request.query[0] == ("a", "1")
        assert request.query[-2][0] == "limit"
        assert request.query[-1][0] == "offset"
        assert ("total", "true") in request.query
    assert len(server.requests) == 2


def test_the_total_is_not_asked_for_otherwise(server, session):
    server.handler = Collection(1)
    session.list_all("users")
    assert "total" not in dict(server.requests[0].query)


@pytest.mark.parametrize("rest", [{}, {"total": None}, {"total": "many"}])
def test_a_total_that_the_api_does_not_tell(rest, server, session):
    server.handler = Collection(1, **rest)
    calls = []
    session.list_all("users", item_hook=lambda *args: calls.append(args))
    assert calls == [({"id": "P0"}, 1, "?")]


def test_what_item_hook_raises_reaches_the_caller(server, session):
    server.handler = Collection(3)

    def hook(record, count, total):
        if count == 2:
            raise LookupError(record["id"])

    records = session.iter_all("users", item_hook=hook)
    assert next(records) == {"id": "P0"}
    with pytest.raises(LookupError, match="P1"):
        next(records)


# -- The first ten thousand ------------------------------------------------


def test_all_of_the_first_ten_thousand_arrive(server, session, caplog):
    server.handler = Collection(10050)
    with told(pdpyras.PDIncompleteWarning, NO_MORE_THAN, "10000"):
        found = session.list_all("users", page_size=30)
    assert numbers(found) == list(range(10000))
    assert targets(server)[-2:] == [
        "/users?limit=30&offset=9960",
        "/users?limit=10&offset=9990",
    ]
    assert len(server.requests) == 334
    assert warnings_in(caplog) == []


def test_no_warning_where_ten_thousand_are_all(server, session, caplog):
    server.handler = Collection(10000)
    found = session.list_all("users", params={"offset": 9900})
    assert numbers(found) == list(range(9900, 10000))
    assert warnings_in(caplog) == []


def test_short_pages_at_the_limit(server, session):
    server.handler = Collection(10050, short=[0, 97, 1])
    with told(pdpyras.PDIncompleteWarning, NO_MORE_THAN):
        found = session.list_all("users", params={"offset": 9800})
    assert numbers(found) == list(range(9800, 10000))
    assert targets(server) == [
        "/users?limit=100&offset=9800",
        "/users?limit=100&offset=9900",
        "/users?limit=97&offset=9903",
        "/users?limit=1&offset=9999",
    ]


@pytest.mark.parametrize(
    "path, name, way",
    [
        ("incidents", "incidents", "iter_history gives all records"),
        ("incidents/P1/log_entries", "log_entries", "iter_history gives"),
        ("users", "users", "narrow the query (by status, team ...)"),
    ],
)
def test_a_list_that_is_cut_names_the_way_to_the_others(
    path, name, way, server, session
):
    server.handler = Collection(10050, name)
    with told(pdpyras.PDIncompleteWarning, NO_MORE_THAN, way):
        session.list_all(path, params={"offset": 9900})


@pytest.mark.parametrize(
    "arguments",
    [
        {"params": {"offset": 9901}},
        {"params": {"offset": 9999, "limit": 2}},
        {"params": {"offset": "9971"}, "page_size": 30},
        {"params": {"offset": 10000}, "page_size": 1},
        {"params": {"offset": 123456}},
    ],
)
def test_a_first_page_beyond_the_limit(arguments, server, session):
    server.handler = Collection(10050)
    with told(pdpyras.PDIncompleteWarning, NO_MORE_THAN):
        assert session.list_all("users", **arguments) == []
    assert server.requests == []


def test_page_size_is_cut_to_the_endpoint_s_maximum_first(server, session):
    server.handler = Collection(250)
    assert len(session.list_all("users", page_size=10001)) == 250


def test_the_last_first_page_within_the_limit(server, session):
    server.handler = Collection(10050)
    with told(pdpyras.PDIncompleteWarning, NO_MORE_THAN):
        found = session.list_all(
            "users", params={"offset": 9970}, page_size=30
        )
    assert numbers(found) == list(range(9970, 10000))
    assert len(server.requests) == 1


def test_iteration_limit_is_a_setting(server, session, monkeypatch):
    monkeypatch.setattr(pdpyras, "ITERATION_LIMIT", 25)
    server.handler = Collection(30)
    with told(pdpyras.PDIncompleteWarning, NO_MORE_THAN + " 25"):
        assert len(session.list_all("users", page_size=10)) == 25
    assert targets(server)[-1] == "/users?limit=5&offset=20"


# -- What goes wrong -------------------------------------------------------


@pytest.mark.parametrize("what", [{"id": "P1"}, None, "P1", 1, {}])
@pytest.mark.parametrize("url", ["users", "audit/records"])
def test_a_page_that_is_no_list(url, what, server, session):
    server.reply(json={"users": what, "records": what, "more": False})
    with pytest.raises(pdpyras.PDServerError) as caught:
        session.list_all(url)
    assert caught.value.response.status_code == 200
    assert url in str(caught.value)


@pytest.mark.parametrize(
    "body", [b'{"teams": [], "more": false}', b"[]", b"null", b"", b"<html>"]
)
def test_an_answer_that_is_no_page(body, server, session):
    server.reply(body=body)
    with pytest.raises(pdpyras.PDServerError):
        session.list_all("users")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "status, error",
    [
        (400, pdpyras.PDHTTPError),
        (401, pdpyras.PDHTTPError),
        (404, pdpyras.PDHTTPError),
        (500, pdpyras.PDServerError),
        (503, pdpyras.PDServerError),
    ],
)
@pytest.mark.parametrize("url", ["users", "audit/records"])
def test_an_error_comes_after_the_records_before_it(
    url, status, error, server, session
):
    page = [{"id": "P0"}, {"id": "P1"}]
    server.reply(
        json={"users": page, "records": page, "more": True, "next_cursor": "x"}
    )
    server.reply(status, json={"error": {"errors": ["No way"]}})
    records = session.iter_all(url, page_size=2)
    assert [next(records), next(records)] == page
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        next(records)
    assert type(caught.value) is error
    assert caught.value.response.status_code == status
    assert list(records) == []


@pytest.mark.parametrize("url", ["users", "audit/records"])
def test_without_require_complete_results_a_list_may_break_off(
    url, server, session, caplog
):
    page = [{"id": "P0"}, {"id": "P1"}]
    server.reply(
        json={"users": page, "records": page, "more": True, "next_cursor": "x"}
    )
    server.reply(500, body=b"Out of order", times=2)
    session.require_complete_results = False
    with told(pdpyras.PDIncompleteWarning, "incomplete", "500"):
        assert session.list_all(url, page_size=2) == page
    assert len(server.requests) == 2
    with told(pdpyras.PDIncompleteWarning, "incomplete", "500"):
        assert session.list_all(url) == []
    assert warnings_in(caplog) == []


def test_without_require_complete_results_a_broken_answer_is_an_error(
    server, session
):
    session.require_complete_results = False
    server.reply(json={"users": None})
    with pytest.raises(pdpyras.PDServerError):
        session.list_all("users")


def test_a_page_after_a_rate_limit_and_a_lost_connection(
    server, session, naps
):
    server.handler = collection = Collection(6)
    records = session.iter_all("users", page_size=2)
    found = [next(records)]
    server.reply(429, headers={"ratelimit-reset": "7"})
    server.fault("truncate", "body", answer=wire.Answer(json={"users": []}))
    found.extend(records)
    assert found == collection.records
    assert naps[0] == 7 and len(naps) == 2
    offsets = [dict(request.query)["offset"] for request in server.requests]
    assert offsets == ["0", "2", "2", "2", "4"]


@pytest.mark.parametrize(
    "url",
    [
        "users/P1",
        "users/me",
        "users/P1/license",
        "incidents/P1/outlier_incident",
        "incidents/P1/alerts/A1",
        "event_orchestrations/E1/router",
        "incidents/count",
        "business_services/priority_thresholds",
        "incidents/P1/snooze",
    ],
)
@pytest.mark.parametrize("method", ["iter_all", "iter_cursor", "find"])
def test_what_is_no_collection(method, url, server, session):
    arguments = [url, "x"] if method == "find" else [url]
    with pytest.raises(pdpyras.URLError):
        getattr(session, method)(*arguments)
    assert server.requests == []


def test_an_unknown_path(server, session):
    for url in ("no/such/things", "https://example.com/users", None, 1):
        with pytest.raises(pdpyras.URLError):
            session.iter_all(url)
    with pytest.raises(pdpyras.URLError, match="CANONICAL_PATHS"):
        session.iter_all("no/such/things")
    with pytest.raises(pdpyras.URLError, match="CURSOR_BASED"):
        session.iter_cursor("users")
    assert server.requests == []


# -- Cursors ---------------------------------------------------------------


class Chain:
    """A handler: pages of which each names the next one."""

    def __init__(self, pages, name="records", sent="cursor", told=None):
        self.pages = pages
        self.name = name
        self.sent = sent
        self.told = told or "next_cursor"

    def __call__(self, request):
        number = int(dict(request.query).get(self.sent, "c0")[1:])
        last = number + 1 == len(self.pages)
        return wire.Answer(
            json={
                self.name: self.pages[number],
                self.told: None if last else f"c{number + 1}",
            }
        )


@pytest.mark.parametrize("method", ["iter_all", "iter_cursor"])
def test_cursors_are_followed(method, server, session):
    server.handler = Chain([[1, 2], [], [3], [4, 5]])
    records = getattr(session, method)(
        "/audit/records?actions[]=delete", params={"since": "2023-05-01"}
    )
    assert server.requests == []
    assert [next(records), next(records)] == [1, 2]
    assert len(server.requests) == 1
    assert list(records) == [3, 4, 5]
    query = "/audit/records?actions%5B%5D=delete&since=2023-05-01&limit=100"
    assert targets(server) == [query] + [
        f"{query}&cursor=c{n}" for n in (1, 2, 3)
    ]


def test_cursors_with_a_page_size_and_a_hook(server, session):
    server.handler = Chain([["a", "b"], ["c"]])
    calls = []
    params = {"since": "2023-05-01", "root_resource_types": ["users"]}
    before = copy.deepcopy(params)
    found = session.list_all(
        "audit/records",
        params=params,
        page_size=2,
        item_hook=lambda *args: calls.append(args),
    )
    assert found == ["a", "b", "c"]
    assert calls == [("a", 1, "?"), ("b", 2, "?"), ("c", 3, "?")]
    query = (
        "/audit/records?since=2023-05-01&root_resource_types%5B%5D=users"
        "&limit=2"
    )
    assert targets(server) == [query, f"{query}&cursor=c1"]
    assert params == before


def test_iter_all_calls_iter_cursor(server, session):
    calls = []

    def iter_cursor(*args, **kwargs):
        calls.append((args, kwargs))
        return iter("ab")

    session.iter_cursor = iter_cursor
    assert session.list_all("audit/records") == ["a", "b"]
    assert calls == [
        (
            ("audit/records",),
            {"params": None, "page_size": None, "item_hook": None},
        )
    ]


class OfVersion5(pdpyras.APISession):
    """A subclass as it was written for 5.x."""

    def iter_cursor(self, url, params=None, item_hook=None):
        return super().iter_cursor(url, params, item_hook)


def test_a_subclass_with_the_iter_cursor_of_version_5(server):
    seen = []
    server.handler = Chain([[1], [2]])
    with OfVersion5("not-a-real-key") as session:
        session.url = server.url
        hook = lambda *args: seen.append(args)  # noqa: E731
        found = session.list_all("audit/records", item_hook=hook)
        assert found == [1, 2]
        assert seen == [(1, 1, "?"), (2, 2, "?")]
        assert session.list_all("audit/records", page_size=7) == [1, 2]
    limits = [dict(request.query)["limit"] for request in server.requests]
    assert limits == ["100", "100", "7", "7"]


def test_the_third_argument_of_iter_cursor_in_version_5(server, session):
    seen = []
    server.handler = Chain([[1], [2]])
    records = session.iter_cursor(
        "audit/records", {}, lambda *args: seen.append(args)
    )
    assert list(records) == [1, 2]
    assert seen == [(1, 1, "?"), (2, 2, "?")]


def test_an_iteration_can_begin_at_a_cursor(server, session):
    server.handler = Chain([[0], [1], [2]])
    found = session.list_all("audit/records", params={"cursor": "c1"})
    assert found == [1, 2]
    assert targets(server) == [
        "/audit/records?limit=100&cursor=c1",
        "/audit/records?limit=100&cursor=c2",
    ]


@pytest.mark.parametrize("rest", [{}, {"next_cursor": ""}])
def test_the_end_of_the_cursors(rest, server, session):
    server.reply(json={"records": [1], **rest})
    assert session.list_all("audit/records") == [1]
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["iter_all", "iter_cursor"])
def test_the_same_cursor_twice(method, server, session):
    server.reply(json={"records": [1], "next_cursor": "x"}, times=3)
    records = getattr(session, method)("audit/records")
    assert [next(records), next(records)] == [1, 1]
    with pytest.raises(pdpyras.PDServerError, match="x") as caught:
        next(records)
    assert caught.value.response.status_code == 200
    assert len(server.requests) == 2


def test_a_cursor_may_come_again_later(server, session):
    for cursor in ("x", "y", "x", None):
        server.reply(json={"records": [cursor], "next_cursor": cursor})
    assert session.list_all("audit/records") == ["x", "y", "x", None]


def test_a_cursor_beyond_the_ten_thousandth(server, session, caplog):
    server.handler = Chain([list(range(5000))] * 3)
    assert len(session.list_all("audit/records")) == 15000
    assert warnings_in(caplog) == []


def test_pagination_by_after(server, session):
    path = "alert_grouping_settings"
    server.handler = Chain([[1], [2], [3]], path, "after", "after")
    assert session.list_all(path, params={"a": 1}, page_size=1) == [1, 2, 3]
    assert targets(server) == [
        f"/{path}?a=1&limit=1",
        f"/{path}?a=1&limit=1&after=c1",
        f"/{path}?a=1&limit=1&after=c2",
    ]
    server.reply(json={path: [1], "after": "c9"}, times=9)
    with pytest.raises(pdpyras.PDServerError, match="c9"):
        session.list_all(path)
    server.script.clear()
    assert session.list_all(path, params={"after": "c2"}) == [3]


# -- Pages by POST ---------------------------------------------------------


def posted(request):
    """Answer a POST for three records as the analytics API does."""
    size = request.json["limit"]
    start = int(request.json.get("starting_after", "-1")) + 1
    data = list(range(start, min(start + size, 3)))
    return wire.Answer(
        json={
            "data": data,
            "first": str(data[0]) if data else None,
            "last": str(data[-1]) if data else None,
            "limit": size,
            "more": start + size < 3,
        }
    )


@pytest.mark.parametrize(
    "path",
    ["raw/incidents", "raw/users", "raw/responders/P1/incidents"],
)
def test_pagination_by_post(path, server, session):
    server.handler = posted
    body = {"filters": {"urgency": "high"}, "order": "asc"}
    before = copy.deepcopy(body)
    path = f"/analytics/{path}"
    calls = []
    records = session.iter_all(
        path,
        json=body,
        page_size=2,
        item_hook=lambda *args: calls.append(args),
    )
    assert server.requests == []
    assert list(records) == [0, 1, 2]
    assert calls == [(0, 1, "?"), (1, 2, "?"), (2, 3, "?")]
    assert [(r.method, r.target) for r in server.requests] == [
        ("POST", path),
        ("POST", path),
    ]
    assert [request.json for request in server.requests] == [
        {**body, "limit": 2},
        {**body, "limit": 2, "starting_after": "1"},
    ]
    assert body == before


def test_a_body_with_a_limit_and_a_beginning(server, session):
    server.handler = posted
    body = {"limit": 1, "starting_after": "0"}
    assert session.list_all("analytics/raw/incidents", json=body) == [1, 2]
    assert [request.json for request in server.requests] == [
        {"limit": 1, "starting_after": "0"},
        {"limit": 1, "starting_after": "1"},
    ]


def test_an_empty_body(server, session):
    server.handler = posted
    assert session.list_all("analytics/raw/incidents", json={}) == [0, 1, 2]
    assert server.requests[0].json == {"limit": 100}


@pytest.mark.parametrize(
    "last, text",
    [
        (None, "there is more, but not after what"),
        ("", "there is more, but not after what"),
        (["5"], "no usable cursor"),
        ("5", "the same page again"),
    ],
)
def test_posted_pages_that_lead_nowhere(last, text, server, session):
    server.reply(json={"data": [1], "last": last, "more": True}, times=9)
    with pytest.raises(pdpyras.PDServerError, match=text):
        session.list_all("analytics/raw/incidents", json={})
    assert len(server.requests) <= 2


def test_an_empty_posted_page_with_more_is_told_of(server, session):
    server.reply(json={"data": [1], "last": "1", "more": True})
    server.reply(json={"data": [], "last": "2", "more": True})
    with pytest.warns(pdpyras.PDIncompleteWarning, match="an empty page"):
        assert session.list_all("analytics/raw/incidents", json={}) == [1]


def test_a_body_is_taken_as_it_was_given(server, session):
    server.handler = posted
    body = {"filters": {"urgency": "high"}}
    records = session.iter_all("analytics/raw/incidents", json=body)
    body["filters"]["urgency"] = "low"
    assert list(records) == [0, 1, 2]
    assert server.requests[0].json["filters"] == {"urgency": "high"}


def test_a_body_where_none_is_taken(server, session):
    with pytest.raises(pdpyras.URLError):
        session.iter_all("users", json={})
    with pytest.raises(pdpyras.URLError):
        session.iter_all("analytics/raw/incidents")
    assert server.requests == []


# -- Rows that the caller adds ---------------------------------------------


def test_a_path_that_the_caller_adds(tables, server, session):
    server.handler = Collection(3, "widgets")
    with pytest.raises(pdpyras.URLError):
        session.iter_all("gadgets/G1/widgets")
    tables.CANONICAL_PATHS.append("/gadgets/{id}/widgets")
    assert len(session.list_all("gadgets/G1/widgets", page_size=2)) == 3
    assert targets(server) == [
        "/gadgets/G1/widgets?limit=2&offset=0",
        "/gadgets/G1/widgets?limit=2&offset=2",
    ]


def test_a_wrapper_that_the_caller_adds(tables, server, session):
    server.handler = Collection(3, "things")
    tables.CANONICAL_PATHS.append("/widgets")
    for endpoint in ("* /widgets", "GET /widgets"):
        tables.ENTITY_WRAPPER_CONFIG[endpoint] = "things"
        assert len(session.list_all("widgets")) == 3
        tables.ENTITY_WRAPPER_CONFIG[endpoint] = None
        with pytest.raises(pdpyras.URLError):
            session.iter_all("widgets")


def test_cursors_that_the_caller_adds(tables, server, session):
    server.handler = Chain([[1], [2]], "widgets")
    tables.CANONICAL_PATHS.append("/widgets")
    tables.CURSOR_BASED_PAGINATION_PATHS.append("/widgets")
    assert session.list_all("widgets") == [1, 2]
    assert targets(server)[-1] == "/widgets?limit=100&cursor=c1"
    server.handler = Chain([[1], [2]], "users")
    tables.CURSOR_BASED_PAGINATION_PATHS.append("/users")
    assert session.list_all("users") == [1, 2]


# -- Lists, dicts, and one record ------------------------------------------


def test_dict_all(server, session):
    users = [
        {"id": "P1", "email": "a@example.com"},
        {"id": "P2", "email": "b@example.com"},
    ]
    server.handler = lambda request: wire.Answer(
        json={"users": users, "more": False}
    )
    assert session.dict_all("users") == {"P1": users[0], "P2": users[1]}
    by_email = session.dict_all(
        "users", by="email", params={"query": "x"}, page_size=5
    )
    assert by_email == {"a@example.com": users[0], "b@example.com": users[1]}
    assert targets(server)[1] == "/users?query=x&limit=5&offset=0"
    with pytest.raises(KeyError):
        session.dict_all("users", by="name")


def test_list_all_takes_what_iter_all_takes(server, session):
    server.handler = Collection(3, total=3)
    calls = []
    found = session.list_all(
        "users",
        params={"a": 1},
        page_size=2,
        item_hook=lambda *args: calls.append(args[1:]),
        total=True,
    )
    assert type(found) is list and len(found) == 3
    assert calls == [(1, 3), (2, 3), (3, 3)]


PEOPLE = [
    {"id": "P1", "name": "Jane Doe the Younger", "number": 41, "note": None},
    {"id": "P2"},
    {"id": "P3", "name": "jane doe", "number": 42, "note": "None"},
    {"id": "P4", "name": "Jane Doe", "number": 42},
    {"id": "P5", "name": None},
]


def people(request):
    """Answer with a page of the people."""
    query = dict(request.query)
    offset, limit = int(query["offset"]), int(query["limit"])
    more = offset + limit < len(PEOPLE)
    page = PEOPLE[offset : offset + limit]
    return wire.Answer(json={"users": page, "more": more})


@pytest.mark.parametrize("page_size", [1, 2, 5])
@pytest.mark.parametrize(
    "query, attribute, found",
    [
        ("jane doe", "name", "P3"),
        ("Jane Doe", "name", "P3"),
        ("JANE DOE", "name", "P3"),
        ("Jane", "name", None),
        ("Jane Doe the", "name", None),
        ("Jane Doe the Younger and more", "name", None),
        ("P4", "id", "P4"),
        (42, "number", "P3"),
        ("42", "number", "P3"),
        (4, "number", None),
        ("none", "note", "P3"),
        ("none", "name", None),
        ("Jane Doe", "no_such_attribute", None),
    ],
)
def test_find(query, attribute, found, page_size, server, session):
    server.handler = people
    session.default_page_size = page_size
    others = {"none": "note", "Jane Doe": "name"}
    if found is None and query in others:
        with told(pdpyras.PDWarning, f"attribute={others[query]!r}"):
            record = session.find("users", query, attribute=attribute)
    else:
        record = session.find("users", query, attribute=attribute)
    assert record == next((p for p in PEOPLE if p["id"] == found), None)
    # It stops at the match.
    last = int(found[1]) if found else len(PEOPLE)
    assert len(server.requests) == -(-last // page_size)
    for request in server.requests:
        assert dict(request.query)["query"] == str(query)


def test_find_looks_at_names_and_narrows_down(server, session):
    server.handler = people
    params = {"team_ids": ["T1"], "query": "something else", "limit": 1}
    before = copy.deepcopy(params)
    assert session.find("users", "Jane Doe", params=params) == PEOPLE[2]
    assert params == before
    for number, request in enumerate(server.requests):
        assert request.target == (
            f"/users?team_ids%5B%5D=T1&query=Jane+Doe&limit=1&offset={number}"
        )


@pytest.mark.parametrize(
    "url, params",
    [
        ("users?until=2", None),
        ("users?a=1&a=2", None),
        ("users", [("a", "1"), ("a", "2")]),
    ],
)
def test_the_sessions_params_go_with_each_page(url, params, server, session):
    session.params = {"since": "1", "until": "0", "b": None}
    server.handler = people
    given = {"params": params} if params else {}
    assert len(session.list_all(url, page_size=1, **given)) == len(PEOPLE)
    for request in server.requests:
        query = [p for p in request.query if p[0] not in ("limit", "offset")]
        repeated = [("a", "1"), ("a", "2")]
        assert ("since", "1") in query and "b" not in dict(query)
        if "?until" in url:
            assert query.count(("until", "2")) == 1
            assert ("until", "0") not in query
        else:
            assert [p for p in query if p[0] == "a"] == repeated


def test_nothing_is_no_query(server, session):
    """Else a record with the text "None" would be found."""
    with pytest.raises(ValueError, match="not None"):
        session.find("users", None)
    with pytest.raises(ValueError, match="not None"):
        session.persist("users", "name", {"name": None})
    assert server.requests == []


def test_find_does_not_hide_errors(server, session):
    server.reply(500)
    with pytest.raises(pdpyras.PDServerError):
        session.find("users", "x")


# -- Memory ----------------------------------------------------------------


def page_of(mark, records):
    """A page whose records can be told from all other objects."""
    record = b'{"mark": "%b", "list": [{"text": "%b"}]}' % (
        mark.encode("ascii"),
        b"x" * 1000,
    )
    return b'{"more": true, "users": [%b]}' % b",".join([record] * records)


def alive():
    """How many records of such pages there are."""
    gc.collect()
    return sum(
        type(thing) is dict and thing.get("mark") == "one page"
        for thing in gc.get_objects()
    )


@pytest.mark.no_cover
@pytest.mark.once
def test_one_page_is_held_at_a_time(server, session):
    body = page_of("one page", 20)
    at_requests, at_pages = [], []

    def answer(request):
        at_requests.append(alive())
        return wire.Answer(body=body)

    def hook(record, number, total):
        if number % 20 == 1:
            at_pages.append(alive())

    server.handler = answer
    records = session.iter_all("users", page_size=20, item_hook=hook)
    for _ in itertools.islice(records, 100):
        pass
    # What the caller's variable holds, the last record of the page before,
    # is all that is left of it when the next page is asked for.
    assert at_requests == [0, 1, 1, 1, 1]
    assert at_pages == [20, 21, 21, 21, 21]


@pytest.mark.oldest
def test_ten_thousand_records_take_the_memory_of_one_page(server, session):
    body = page_of("ten thousand", 100)
    server.handler = lambda request: wire.Answer(body=body)
    records = session.iter_all("users")
    next(records)
    tracemalloc.start()
    try:
        with told(pdpyras.PDIncompleteWarning, NO_MORE_THAN):
            assert sum(1 for _ in records) == 9999
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The bytes, the text and the records of one page; but not of two.
    assert peak < 10 * len(body)


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("length", [2, 3, 7])
def test_a_circle_of_pages_has_an_end(length, prefetch, server, session):
    def handler(request):
        number = int(dict(request.query).get("cursor", "0"))
        following = str((number + 1) % length + length)
        body = {"records": [number], "next_cursor": following}
        return wire.Answer(json=body)

    server.handler = handler
    with pytest.raises(pdpyras.PDServerError, match="circle"):
        for _ in session.iter_all("audit/records", prefetch=prefetch):
            assert len(server.requests) < 100


def test_a_circle_behind_other_pages_has_an_end(server, session):
    """What is compared must not stay one of those before the circle."""

    def handler(request):
        number = int(dict(request.query).get("cursor", "0"))
        following = number + 1 if number < 23 else 20
        body = {"records": [number], "next_cursor": str(following)}
        return wire.Answer(json=body)

    server.handler = handler
    with pytest.raises(pdpyras.PDServerError, match="circle"):
        for _ in session.iter_all("audit/records"):
            assert len(server.requests) < 100


def test_the_body_of_a_paginated_post_is_a_dict(server, session):
    for body in ([1], "{}", 7):
        with pytest.raises(ValueError, match="json must be a dict"):
            session.iter_all("analytics/raw/incidents", json=body)
    assert not server.requests


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_list_without_pages_is_not_asked_for_a_total(
    prefetch, server, session
):
    server.reply(json={"abilities": ["sso", "teams"]})
    given = session.list_all("abilities", prefetch=prefetch)
    assert given == ["sso", "teams"]
    (request,) = server.requests
    assert "total" not in dict(request.query)


def test_a_list_with_cursors_takes_no_body(session):
    """It is asked for by GET; a filter in a body would not be heeded."""
    with pytest.raises(pdpyras.URLError, match="POST /audit/records"):
        session.iter_all("audit/records", json={"filters": {}})
