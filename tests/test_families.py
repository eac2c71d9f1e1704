"""The APIs beside the REST API: SCIM, Jira, Slack, Microsoft Teams.

Their operations are driven one by one in ``tests/test_openapi.py``. Here is
what they do otherwise than the REST API: the pages of SCIM, whose server may
give less than it is asked for and whose list may change meanwhile; media
types; and hosts of their own.
"""

import threading
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pdpyras
from tests import wire
from tests.support import KEY, told

pytestmark = pytest.mark.oldest

USERS = "/scim/v2/Users"
SCIM = "application/scim+json"
REST = "application/vnd.pagerduty+json;version=2"


class Directory:
    """A handler that answers as a SCIM server: users by number, from 1.

    ``caps``: how many users a page has at most, by turns.
    ``changes``: by the number of the request before which it happens, from 1,
    a function that gets the list of users.
    ``says``: what is said beside the users, in place of the truth.
    """

    def __init__(self, size, caps=(100,), changes=None, **says):
        self.users = [self.user(n) for n in range(size)]
        self.caps = caps
        self.changes = changes or {}
        self.says = says
        self.asked = []
        self.lock = threading.Lock()

    @staticmethod
    def user(n):
        return {"id": f"U{n}", "userName": f"user{n}@example.com"}

    def __call__(self, request):
        with self.lock:
            query = dict(request.query)
            start, count = int(query["startIndex"]), int(query["count"])
            assert start > 0 and count > 0
            assert "limit" not in query and "offset" not in query
            self.asked.append((start, count))
            number = len(self.asked)
            self.changes.get(number, list)(*[self.users][: number and 1])
            cap = self.caps[(number - 1) % len(self.caps)]
            page = self.users[start - 1 : start - 1 + min(count, cap)]
            body = {
                "schemas": ["urn:ietf:params:scim:api:messages:2.0:List"],
                "totalResults": len(self.users),
                "startIndex": start,
                "itemsPerPage": len(page),
            }
            body.update(self.says, Resources=page)
            body = {k: v for k, v in body.items() if v is not None}
            return wire.Answer(json=body)


# -- Pages ------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 1, 8])
def test_scim_pages_that_are_capped_lose_nobody(prefetch, server, session):
    directory = server.handler = Directory(95, caps=[20])
    told_of = []
    users = session.iter_all(
        USERS,
        prefetch=prefetch,
        item_hook=lambda user, n, total: told_of.append((n, total)),
    )
    assert list(users) == directory.users
    assert told_of == [(n, 95) for n in range(1, 96)]
    if prefetch < 2:
        starts = [(n, 100) for n in range(1, 96, 20)]
        assert directory.asked == starts


def test_a_page_of_scim_is_asked_for_when_needed(server, session):
    directory = server.handler = Directory(7)
    users = session.iter_all(USERS, page_size=3)
    assert not directory.asked
    assert next(users) == directory.users[0]
    assert directory.asked == [(1, 3)]
    assert list(users) == directory.users[1:]
    assert directory.asked == [(1, 3), (4, 3), (7, 3)]


@pytest.mark.parametrize("begin", [1, 9981, 10001])
def test_scim_with_prefetch_asks_for_several_pages_at_once(
    begin, server, session
):
    everyone = threading.Barrier(4)
    directory = Directory(begin + 49)

    def answer(request):
        found = directory(request)
        if dict(request.query)["startIndex"] != str(begin):
            everyone.wait(20)  # else it breaks, and the test fails
        return found

    server.handler = answer
    users = session.list_all(
        USERS, params={"startIndex": begin}, page_size=10, prefetch=4
    )
    assert users == directory.users[begin - 1 :]
    starts = range(begin, begin + 50, 10)
    assert sorted(directory.asked) == [(start, 10) for start in starts]


def test_an_empty_directory(server, session):
    directory = server.handler = Directory(0)
    assert session.list_all(USERS) == []
    assert directory.asked == [(1, 100)]


def test_more_than_ten_thousand_scim_users(server, session):
    directory = server.handler = Directory(10150)
    users = session.iter_all(USERS, params={"startIndex": 9950})
    assert list(users) == directory.users[9949:]
    assert directory.asked == [(9950, 100), (10050, 100), (10150, 100)]


@pytest.mark.parametrize("prefetch", [0, 4])
@pytest.mark.parametrize("begin", [0, 1, 8])
def test_start_index_and_count_may_be_given(begin, prefetch, server, session):
    directory = server.handler = Directory(10)
    params = {"startIndex": begin, "count": 2}
    users = session.list_all(USERS, params=params, prefetch=prefetch)
    assert users == directory.users[max(begin, 1) - 1 :]
    assert directory.asked[0] == (max(begin, 1), 2)
    assert params == {"startIndex": begin, "count": 2}


@pytest.mark.parametrize("name", ["startIndex", "count"])
@pytest.mark.parametrize("value", [-1, "x", 1.5])
def test_what_start_index_and_count_cannot_be(name, value, server, session):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        session.iter_all(USERS, params={name: value})
    assert not server.requests


def test_a_total_that_is_not_told(server, session):
    directory = server.handler = Directory(5, totalResults=None)
    totals = set()
    users = session.list_all(
        USERS,
        page_size=2,
        prefetch=3,
        item_hook=lambda user, n, total: totals.add(total),
    )
    assert users == directory.users
    assert totals == {"?"}
    assert directory.asked[-1] == (6, 2)


def test_an_empty_page_before_the_total_is_told_of(server, session):
    directory = server.handler = Directory(4, totalResults=9)
    with told(pdpyras.PDIncompleteWarning, USERS, "empty page", "of 9", "4"):
        assert session.list_all(USERS) == directory.users
    with told(pdpyras.PDIncompleteWarning, "empty page"), pytest.raises(
        pdpyras.PDIncompleteError, match="empty page"
    ):
        session.find(USERS, "nobody@example.com", attribute="userName")


@pytest.mark.parametrize("prefetch", [0, 1, 8])
def test_a_list_that_shrinks_is_told_of(prefetch, server, session):
    # Of five pages, before the third one is read somebody of the first goes.
    directory = Directory(50, changes={3: lambda users: users.pop(0)})
    before = list(directory.users)
    server.handler = directory
    with told(pdpyras.PDIncompleteWarning, USERS, "was 50, and then 49"):
        found = session.list_all(USERS, page_size=10, prefetch=prefetch)
    assert len(found) >= 49 - 10
    assert all(user in before for user in found)


def test_a_list_that_grows_is_read_to_its_end(server, session):
    directory = Directory(
        20, changes={2: lambda users: users.append(Directory.user(20))}
    )
    server.handler = directory
    found = session.list_all(USERS, page_size=10)
    assert found == directory.users
    assert len(found) == 21


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_page_again_is_an_error(count, server, session):
    users = [Directory.user(number) for number in range(count)]
    page = {"Resources": users, "startIndex": 1, "totalResults": 9}
    server.handler = lambda request: wire.Answer(json=page)
    text = rf"same page again \(startIndex=1, not {count + 1}\)"
    with pytest.raises(pdpyras.PDServerError, match=text):
        session.list_all(USERS)
    assert len(server.requests) == 2


def test_a_user_who_comes_twice_by_chance_is_no_error(server, session):
    newcomer = Directory.user(9)
    directory = Directory(
        2, caps=[1], changes={2: lambda users: users.insert(0, newcomer)}
    )
    server.handler = directory
    first, second = Directory.user(0), Directory.user(1)
    assert session.list_all(USERS) == [first, first, second]


def test_an_empty_list_need_not_have_resources(server, session):
    """RFC 7644, 3.4.2."""
    empty = {"totalResults": 0, "startIndex": 1, "itemsPerPage": 0}
    server.handler = lambda request: wire.Answer(json=empty)
    assert session.list_all(USERS) == []
    assert session.find(USERS, "nobody", attribute="userName") is None


@pytest.mark.parametrize(
    "body",
    [{"totalResults": False}, {"totalResults": 1}]
    + [[], {}, {"Resources": None}, {"Resources": {}}, {"resources": []}],
)
def test_what_is_no_page_of_scim(body, server, session):
    server.reply(json=body)
    with pytest.raises(pdpyras.PDServerError, match="'Resources'"):
        session.list_all(USERS)


class Sessions:
    """A server and a session for all examples of a property."""

    def start(self):
        self.server = wire.Server()
        self.session = pdpyras.APISession(KEY, url=self.server.url)

    def stop(self):
        self.session.close()
        self.server.stop()

    def read(self, directory, **options):
        """What an iteration gave, and how often it said that it lacks some."""
        self.server.handler = directory
        self.server.requests.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = self.session.list_all(USERS, **options)
        kinds = [warning.category for warning in caught]
        assert set(kinds) <= {pdpyras.PDIncompleteWarning}
        return found, len(kinds)


@pytest.fixture(scope="module", autouse=True)
def shared():
    SHARED.start()
    yield
    SHARED.stop()


SHARED = Sessions()
caps = st.lists(st.integers(1, 12), min_size=1, max_size=4)
page_sizes = st.integers(1, 15)
prefetches = st.sampled_from([0, 1, 2, 8])
quick = settings(
    deadline=None, database=None, derandomize=True, max_examples=60
)


@quick
@given(st.integers(0, 40), caps, page_sizes, prefetches)
def test_scim_gives_everybody_once_in_order(size, caps, page_size, prefetch):
    directory = Directory(size, caps)
    found, complaints = SHARED.read(
        directory, page_size=page_size, prefetch=prefetch
    )
    assert found == directory.users
    assert not complaints
    assert all(1 <= start <= max(size, 1) for start, _ in directory.asked)
    assert len(directory.asked) <= size + 1
    if prefetch < 2:
        alone = Directory(size, caps)
        SHARED.read(alone, page_size=page_size)
        assert directory.asked == alone.asked


@quick
@given(
    st.integers(1, 40),
    caps,
    page_sizes,
    prefetches,
    st.dictionaries(st.integers(1, 12), st.integers(0, 45), max_size=4),
)
def test_scim_loses_nobody_where_some_come(
    size, caps, page_size, prefetch, arrivals
):
    def arrival(number, place):
        newcomer = Directory.user(100 + number)
        return lambda users: users.insert(place, newcomer)

    changes = {n: arrival(n, place) for n, place in arrivals.items()}
    directory = Directory(size, caps, changes)
    before = list(directory.users)
    found, complaints = SHARED.read(
        directory, page_size=page_size, prefetch=prefetch
    )
    # One page after the other loses nobody. Of several at once, one may have
    # been read before an arrival, and one in front of it behind that.
    missing = [user for user in before if user not in found]
    assert not missing or (complaints and prefetch > 1)
    assert not complaints or prefetch > 1
    assert all(user in directory.users for user in found)


@quick
@given(
    st.integers(1, 40),
    caps,
    page_sizes,
    prefetches,
    st.dictionaries(st.integers(2, 12), st.integers(0, 40), max_size=3),
)
def test_scim_loses_nobody_in_silence_where_some_go(
    size, caps, page_size, prefetch, leavers
):
    def departure(place):
        return lambda users: users and users.pop(place % len(users))

    changes = {n: departure(place) for n, place in leavers.items()}
    directory = Directory(size, caps, changes)
    found, complaints = SHARED.read(
        directory, page_size=page_size, prefetch=prefetch
    )
    missing = [user for user in directory.users if user not in found]
    assert complaints == 1 or not missing
    assert complaints <= int(bool(changes))


# -- What is made of pages ----------------------------------------------------


def test_scim_users_by_name(server, session):
    directory = server.handler = Directory(5, caps=[2])
    assert session.dict_all(USERS, by="userName") == {
        user["userName"]: user for user in directory.users
    }


@pytest.mark.parametrize("prefetch", [None, 1, 8])
def test_find_in_scim_sends_nothing_that_scim_lacks(prefetch, server, session):
    directory = server.handler = Directory(50, caps=[10])
    found = session.find(
        USERS, "USER33@example.com", attribute="userName", prefetch=prefetch
    )
    assert found == directory.users[33]
    for request in server.requests:
        assert set(dict(request.query)) == {"startIndex", "count"}
    assert session.find(USERS, "nobody", attribute="userName") is None
    wanted = {"filter": 'userName eq "user7@example.com"', "query": "x"}
    session.find(USERS, "user7@example.com", "userName", wanted)
    query = dict(server.requests[-1].query)
    assert query["filter"] == wanted["filter"]
    assert "query" not in query
    assert set(wanted) == {"filter", "query"}


def test_find_elsewhere_still_sends_its_query(server, session):
    server.reply(json={"users": [], "more": False})
    assert session.find("users", "jo@example.com", attribute="email") is None
    assert ("query", "jo@example.com") in server.requests[-1].query
    with pytest.raises(pdpyras.URLError, match="CANONICAL_PATHS"):
        session.find("no_such_thing", "x")


def test_persist_creates_a_bare_scim_user(server, session):
    directory = Directory(3)
    values = {"userName": "jo@example.com", "displayName": "Jo"}

    def answer(request):
        if request.method == "GET":
            return directory(request)
        return wire.Answer(201, json=dict(request.json, id="U9"))

    server.handler = answer
    made = session.persist(USERS, "userName", values)
    assert made == dict(values, id="U9")
    assert server.requests[-1].json == values


def test_a_page_by_rget_is_the_users(server, session):
    directory = server.handler = Directory(3)
    params = {"startIndex": 2, "count": 2}
    assert session.rget(USERS, params=params) == directory.users[1:]


# -- Media types --------------------------------------------------------------


@pytest.mark.parametrize(
    "method, path, accepted",
    [
        ("GET", USERS, SCIM),
        ("POST", USERS, SCIM),
        ("GET", f"{USERS}/U1", SCIM),
        ("PUT", f"{USERS}/U1?x=1", SCIM),
        ("PATCH", f"{USERS}/U1/", SCIM),
        ("DELETE", f"{USERS}/U1", SCIM),
        ("GET", "/scim/v2/ServiceProviderConfig", SCIM),
        ("GET", "/scim/v2/no_such_thing", REST),
        ("GET", "/users", REST),
        ("GET", "/integration-jira-cloud/accounts_mappings", REST),
        ("POST", "/integration-ms-teams/incidents/P1/meeting", REST),
    ],
)
def test_what_answers_are_asked_for(method, path, accepted, server, session):
    server.reply(json={})
    body = {} if method in ("POST", "PUT", "PATCH") else None
    session.request(method, path, json=body)
    (request,) = server.requests
    assert request.headers["accept"] == accepted
    assert request.headers.get_all("accept") == [accepted]
    expected = None if body is None else "application/json"
    assert request.headers["content-type"] == expected
    assert session.headers["Accept"] == REST


def test_a_callers_own_accept_wins(server, session):
    session.get(USERS, headers={"accept": "application/json"})
    assert server.requests[-1].headers["accept"] == "application/json"
    session.get(USERS)
    assert server.requests[-1].headers["accept"] == SCIM
    session.headers["Accept"] = "text/plain"
    session.get(USERS)
    assert server.requests[-1].headers["accept"] == "text/plain"


def test_a_scim_error_says_its_detail(server, session):
    server.reply(
        404,
        json={
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"],
            "status": "404",
            "detail": "User U9 is not there",
        },
    )
    with pytest.raises(pdpyras.PDHTTPError, match="User U9 is not there"):
        session.rget(f"{USERS}/U9")


def test_a_user_who_is_deactivated_is_gone(server, session):
    server.reply(204)
    body = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": [{"op": "replace", "value": {"active": False}}],
    }
    assert session.rpatch(f"{USERS}/U1", json=body) is None
    assert server.requests[-1].json == body


# -- Hosts --------------------------------------------------------------------


@pytest.fixture
def behind(server):
    """Makes sessions on a host, for which the server stands in."""
    opened = []

    def open_session(host, **options):
        session = pdpyras.APISession(KEY, url=f"http://{host}", **options)
        session.proxies = {"http": server.url}
        session.trust_env = False
        # Said once: that it is not https.
        with pytest.warns(pdpyras.PDWarning, match=f"http://{host}"):
            session.get("/users")
        server.requests.clear()
        opened.append(session)
        return session

    yield open_session
    for session in opened:
        session.close()


CONNECTIONS = "/integration-slack/workspaces/T1/connections"
RULES = "/integration-jira-service/rules"


@pytest.mark.parametrize("host", ["api.pagerduty.com", "api.eu.pagerduty.com"])
@pytest.mark.parametrize("path", [CONNECTIONS, RULES, f"{RULES}/P1"])
def test_the_wrong_host_is_named(path, host, server, behind):
    session = behind(host)
    server.reply(404, json={"error": {"message": "Not Found"}})
    with pytest.raises(
        pdpyras.PDHTTPError, match="https://app.pagerduty.com"
    ) as caught:
        session.rget(path)
    assert caught.value.status_code == 404


@pytest.mark.parametrize(
    "host, path",
    [
        ("app.pagerduty.com", CONNECTIONS),
        ("api.pagerduty.com", "/integration-slack/incidents/P1/x"),
        ("api.pagerduty.com", "/users/P1"),
    ],
)
def test_the_right_host_is_not_named(host, path, server, behind):
    session = behind(host)
    server.reply(404, json={"error": {"message": "Not Found"}})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget(path)
    assert "served by" not in str(caught.value)


def test_slack_connections_in_pages_on_the_other_host(server, behind):
    session = behind("app.pagerduty.com")
    for more, page in ((True, [{"id": "P1"}]), (False, [{"id": "P2"}])):
        server.reply(json={"slack_connections": page, "more": more})
    found = session.list_all(CONNECTIONS)
    assert found == [{"id": "P1"}, {"id": "P2"}]
    assert server.requests[0].target.startswith(
        f"http://app.pagerduty.com{CONNECTIONS}?"
    )


def test_a_signature_of_jira_is_sent_and_is_not_shown(server, behind):
    signature = "a.signature.of.jira"
    headers = {"X-PagerDuty-Jira-Signature": signature}
    session = behind("app.pagerduty.com", auth_type="bearer")
    server.reply(json={"rules": [], "more": False})
    session.headers.update(headers)
    assert session.list_all(RULES) == []
    request = server.requests[-1]
    assert request.headers["x-pagerduty-jira-signature"] == signature
    assert request.headers["authorization"] == f"Bearer {KEY}"
    server.reply(400, json={"error": {"message": "No"}})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget(RULES, headers=headers)
    ours = [
        entry.frame.f_locals
        for entry in caught.traceback
        if str(entry.path) == pdpyras.__file__
    ]
    assert ours
    assert signature not in repr(ours)
