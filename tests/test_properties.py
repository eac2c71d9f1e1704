"""What must hold whatever comes: from the caller, and from the server.

No input makes the library raise anything but its documented exceptions,
change an object of the caller's, or loop. The same, with far more answers,
is what ``make fuzz`` does.
"""

import copy
import json
import math
import pickle
import re
import string
import threading
from datetime import datetime, timedelta, timezone

import pytest
import requests
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import pdpyras
from tests import wire
from tests.support import KEY, examples

pytestmark = pytest.mark.oldest

quick = settings(
    deadline=None,
    database=None,
    derandomize=True,
    max_examples=examples(60),
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
    ],
)

#: What may be raised whatever the arguments are.
DOCUMENTED = (pdpyras.URLError, pdpyras.PDClientError)
#: And where arguments are not what they should be.
ALSO_BAD_ARGUMENTS = (*DOCUMENTED, ValueError, TypeError)


class Nowhere(requests.adapters.HTTPAdapter):
    """Refuses to go wherever a random redirect may lead, and notes it."""

    asked = []

    def send(self, request, *args, **kwargs):
        self.asked.append(request)
        raise requests.exceptions.ConnectionError(f"not to {request.url}")


class Api:
    """A server and sessions on it, for all examples of all properties."""

    def start(self):
        self.server = wire.Server()
        self.session = pdpyras.APISession(KEY)
        self.events = pdpyras.EventsAPISession(KEY)
        for session in (self.session, self.events):
            session.url = self.server.url
            session.trust_env = False
            session.timeout = 20
            session.max_network_attempts = 1
            session.sleep_timer = session.sleep_timer_max = 0
            session.log.disabled = True
            loopback = session.get_adapter("http://")
            session.mount(f"{self.server.url}/", loopback)
            session.mount("http://", Nowhere())
            session.mount("https://", Nowhere())

    def stop(self):
        self.session.close()
        self.events.close()
        self.server.stop()

    def answering(self, answer):
        """Let the server answer everything with this; forget the past."""
        self.server.script.clear()
        self.server.requests.clear()
        self.server.handler = (
            answer if callable(answer) else lambda request: answer
        )
        return self


API = Api()


@pytest.fixture(autouse=True, scope="module")
def api():
    API.start()
    yield
    API.stop()


any_text = st.text(st.characters(blacklist_categories=()), max_size=20)
letters = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)
json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        any_text,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(any_text, inner, max_size=4),
    ),
    max_leaves=10,
)


def attempt(call, *args, **kwargs):
    """The result, or the documented exception that there was instead."""
    raises = kwargs.pop("raises", DOCUMENTED)
    try:
        return call(*args, **kwargs)
    except raises as error:
        assert KEY not in str(error) and KEY not in repr(error)
        return error


# ---------------------------------------------------------------------------
# What comes from the caller
# ---------------------------------------------------------------------------

hosts = st.sampled_from(
    [
        *("", "/", "//", "http://", "https://", "HTTP://127.0.0.1", "users/"),
        *("https://api.pagerduty.com", "https://api.eu.pagerduty.com/"),
        *("http://127.0.0.1:1", "\\\\127.0.0.1", "javascript:", "file:///"),
    ]
)


@quick
@given(
    st.one_of(
        any_text,
        st.builds("".join, st.tuples(hosts, any_text)),
        st.builds("".join, st.lists(st.sampled_from("/.%2eE?#@:\\ "))),
        json_values,
    )
)
@example("\ud800")
@example("//[::1")
@example("http://[")
@example("/%")
@example("?")
def test_any_url(url):
    """It is asked for at the configured host, or not at all."""
    before = copy.deepcopy(url)
    API.answering(wire.Answer(json={"user": {}}))
    for call in (API.session.get, API.session.rget, API.session.rdelete):
        attempt(call, url)
    attempt(lambda: list(API.session.iter_all(url)))
    attempt(pdpyras.canonical_path, API.server.url, url)
    assert url == before
    for request in API.server.requests:
        assert request.target.startswith("/")
        assert request.headers["Host"] == API.server.url[len("http://") :]


ZONES = [
    timezone.utc,
    timezone(timedelta(hours=14)),
    timezone(-timedelta(hours=12)),
]
param_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    any_text,
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.sampled_from(ZONES)),
    st.lists(any_text, max_size=3),
    st.tuples(any_text),
    st.frozensets(st.integers(), max_size=3),
)


def has_bad_time(params):
    """Is there a time without a zone, or one that UTC may not have?"""
    if isinstance(params, (str, bytes)):
        return False
    pairs = params.items() if isinstance(params, dict) else params
    return any(
        isinstance(value, datetime)
        and (value.tzinfo is None or value.year in (1, 9999))
        for _, value in pairs
    )


@quick
@given(
    st.one_of(
        st.dictionaries(any_text, param_values, max_size=4),
        st.lists(st.tuples(any_text, param_values), max_size=4),
        any_text,
        st.binary(max_size=9),
    )
)
@example({"ids": ["a"], "ids[]": ["b"]})
@example({"": ""})
@example({"since": datetime.max.replace(tzinfo=ZONES[2])})
@pytest.mark.filterwarnings("ignore::pdpyras.PDWarning")  # empty lists
def test_any_parameters(params):
    before = copy.deepcopy(params)
    API.answering(wire.Answer(json={"users": [], "more": False}))
    raises = ALSO_BAD_ARGUMENTS if has_bad_time(params) else DOCUMENTED
    response = attempt(API.session.get, "users", params=params, raises=raises)
    if not isinstance(response, Exception):
        assert API.server.requests[0].path == "/users"
    if not isinstance(params, (str, bytes)):
        attempt(API.session.list_all, "users", params=params, raises=BAD_PAGE)
        attempt(API.session.find, "users", "x", params=params, raises=BAD_PAGE)
    assert params == before


#: An offset or limit that is no number is a mistake of the caller's.
BAD_PAGE = (*DOCUMENTED, ValueError)


@quick
@given(st.one_of(json_values, st.text(), st.integers(), st.binary()))
@pytest.mark.filterwarnings("ignore::pdpyras.PDWarning")  # empty lists
def test_parameters_that_are_none_of_the_kinds(params):
    API.answering(wire.Answer(json={"users": [], "more": False}))
    before = copy.deepcopy(params)
    attempt(API.session.get, "users", params=params, raises=ALSO_BAD_ARGUMENTS)
    assert params == before


@quick
@given(st.dictionaries(any_text, st.one_of(any_text, st.none()), max_size=4))
@example({"authorization": "mine"})
@example({"Content-Length": "5"})
@example({"Host": "example.com"})
@example({"X": "a\r\nY: b"})
def test_any_headers(headers):
    assume(not {"transfer-encoding", "expect"} & {n.lower() for n in headers})
    assume("content-length" not in {n.lower().strip() for n in headers})
    before = copy.deepcopy(headers)
    API.answering(wire.Answer(json={"user": {}}))
    attempt(API.session.rget, "users/P1", headers=headers)
    attempt(API.session.post, "users", json={}, headers=headers)
    assert headers == before
    # Neither do they stick.
    API.server.requests.clear()
    API.session.rget("users/P1")
    (request,) = API.server.requests
    assert sorted(name.lower() for name in request.headers) == [
        *("accept", "accept-encoding", "authorization", "connection"),
        *("host", "user-agent"),
    ]


@quick
@given(json_values)
@example({"a": [{}, [], None, 1e308]})
@example({"user": None})
@example("")
def test_any_body(body):
    before = copy.deepcopy(body)
    API.answering(wire.Answer(json={"user": {"id": "P1"}}))
    for call in (API.session.rput, API.session.jput, API.session.put):
        attempt(call, "users/P1", json=body)
    attempt(API.session.rpost, "brand/new/path", json=body)
    assert body == before
    if body and not isinstance(body, str):
        # Of these, rput has wrapped the first one, unless it was already.
        assert [r.json for r in API.server.requests[1:3]] == [body, body]


@quick
@given(
    st.one_of(
        st.just(float("nan")),
        st.just(float("inf")),
        st.binary(),
        st.sets(st.integers()),
        st.complex_numbers(),
        st.builds(object),
        st.just(10**5000),
    )
)
def test_a_body_that_json_cannot_say(value):
    API.answering(wire.Answer(json={"user": {}}))
    for body in (value, {"a": value}, [[value]]):
        found = attempt(API.session.rput, "users/P1", json=body)
        if body is not value:
            assert isinstance(found, pdpyras.PDClientError) or (
                API.server.requests
            )
    custom = {"x": value}
    attempt(
        API.events.trigger, "s", "o", custom_details=custom, raises=BAD_PAGE
    )


def test_a_body_that_is_deeper_than_can_be_said():
    deep = []
    for _ in range(100000):
        deep = [deep]
    API.answering(wire.Answer(202, json={"dedup_key": "k"}))
    try:
        for call in (API.session.post, API.session.rpost):
            found = attempt(call, "users", json={"a": deep})
            assert isinstance(found, pdpyras.PDClientError)
        assert API.server.requests == []
        # But no alert is lost for a value: it is sent as text.
        found = API.events.trigger("s", "o", custom_details={"a": deep})
        assert found == "k" and len(API.server.requests) == 1
    finally:
        while deep:  # Let go of it without a recursion.
            deep = deep.pop()


@pytest.mark.filterwarnings("ignore::pdpyras.PDWarning")
@quick
@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("summary", "source", "dedup_key", "severity", "payload"),
                *("custom_details", "images", "links", "component", "group"),
                *("class_", "client", "client_url", "timestamp"),
            ]
        ),
        json_values,
    )
)
def test_any_arguments_of_trigger(arguments):
    arguments = dict({"summary": "s", "source": "o"}, **arguments)
    before = copy.deepcopy(arguments)
    API.answering(wire.Answer(202, json={"dedup_key": "k"}))
    found = attempt(API.events.trigger, raises=BAD_PAGE, **arguments)
    assert found == "k" or isinstance(found, Exception)
    assert arguments == before
    assert len(API.server.requests) == (found == "k")


# ---------------------------------------------------------------------------
# What comes from the server
# ---------------------------------------------------------------------------

charsets = st.sampled_from(
    [
        *("utf-8", "utf-16", "utf-32", "latin-1", "ascii", "cp037", "utf-7"),
        *("idna", "punycode", "undefined", "hex", "rot13", "unicode_escape"),
        *("mbcs", "none", "", "\x00", '"', "a b", "utf-8; charset=idna"),
    ]
)
bodies = st.one_of(
    st.binary(max_size=200),
    any_text.map(lambda text: text.encode("utf-8", "surrogatepass")),
    json_values.map(lambda value: json.dumps(value).encode("ascii")),
    st.sampled_from(
        [
            *(b"", b" ", b"null", b"NaN", b"-", b'{"error": ', b"[" * 99999),
            *(b"9" * 5000, b'"\\ud800"', b"\xef\xbb\xbf{}", b"<html>" * 99),
        ]
    ),
)
error_bodies = st.one_of(
    bodies,
    st.fixed_dictionaries({"error": json_values}).map(
        lambda value: json.dumps(value).encode("ascii")
    ),
    st.builds(
        lambda message, code, errors: json.dumps(
            {"error": {"message": message, "code": code, "errors": errors}}
        ).encode("ascii"),
        json_values,
        json_values,
        json_values,
    ),
)
statuses = st.one_of(
    st.sampled_from([200, 201, 202, 400, 401, 402, 403, 404, 422, 429, 500]),
    st.integers(200, 999),
)


def check_error(error, status):
    """It is of the documented kind, and all of it can be used."""
    assert isinstance(error, pdpyras.PDClientError)
    assert str(error) and repr(error)
    if isinstance(error, pdpyras.PDHTTPError):
        assert error.status_code == status == error.response.status_code
        assert error.response
        assert all(isinstance(text, str) for text in error.errors)
        assert error.code is None or isinstance(error.code, int)
        is_server_error = isinstance(error, pdpyras.PDServerError)
        assert is_server_error == (status // 100 in (2, 5))
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error)


@quick
@given(statuses, error_bodies, charsets)
@example(500, b"\xff", "idna")
@example(200, b"\xff", "undefined")
@example(401, b'{"error": {"errors": [[1], {"a": null}]}}', "utf-8")
@example(200, b'{"user": 1}', "punycode")
def test_any_body_of_an_answer(no_collector, status, body, charset):
    assume(status not in (204, 304, 429) and status // 100 != 3)
    kind = f"application/json; charset={charset}"
    answer = wire.Answer(status, body=body, headers={"Content-Type": kind})
    API.answering(answer)
    session = API.session
    for call in (
        lambda: session.rget("users/P1"),
        lambda: session.jget("users/P1"),
        lambda: session.rput("brand/new", json={}),
        lambda: session.rdelete("users/P1"),
        lambda: session.list_all("users"),
        lambda: session.find("users", "x"),
        lambda: session.subdomain,
        lambda: session.api_key_access,
        lambda: API.events.trigger("s", "o"),
        lambda: API.events.send_event("resolve", "k"),
    ):
        session.api_key = KEY  # What is known of a key is forgotten.
        found = attempt(call)
        if isinstance(found, Exception):
            check_error(found, status)
    assert len(API.server.requests) < 60


header_names = st.sampled_from(
    [
        *("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
        *("Retry-After", "x-request-id", "Content-Encoding", "Date"),
        *("Set-Cookie", "Content-Type", "Connection", "Content-Length"),
        *("Transfer-Encoding", "WWW-Authenticate", "Link", "X-Other"),
    ]
)
header_values = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=12).map(
        lambda text: "".join(c for c in text if c not in "\r\n")
    ),
    st.sampled_from(
        [
            *("0", "-1", "1e999", "nan", "9" * 400, "gzip", "br", "zstd"),
            *("deflate, gzip", "chunked", "close", "keep-alive", "a=b; c"),
            *("Fri, 31 Dec 9999 23:59:59 GMT", "text/html; charset=idna"),
        ]
    ),
)


@settings(quick, max_examples=examples(120))
@given(
    statuses,
    st.lists(st.tuples(header_names, header_values), max_size=5),
    st.sampled_from([b"", b"{}", b'{"user": {"id": "P1"}}', b"\x1f\x8b"]),
)
def test_any_headers_of_an_answer(status, headers, body):
    """With a status that is tried again, once."""
    assume(status // 100 != 3)
    API.session.retry[status] = 1
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    raw = f"HTTP/1.1 {status} Reason\r\n{lines}\r\n".encode("latin-1") + body
    API.answering(wire.Answer(raw=raw))
    naps, pause = [], pdpyras.time.sleep
    pdpyras.time.sleep = naps.append
    try:
        found = attempt(API.session.rget, "users/P1")
    finally:
        pdpyras.time.sleep = pause
        API.session.retry.clear()
        API.session.cookies.clear()
    if isinstance(found, Exception):
        check_error(found, status)
    assert len(API.server.requests) <= 4
    assert all(0 <= nap <= 3600 for nap in naps)
    rate = API.session.rate
    assert rate is None or all(
        value is None or 0 <= value < math.inf for value in rate
    )


plain_lines = st.one_of(
    st.tuples(header_names, header_values).map(": ".join),
    st.text("aB;=, \t\x00\x0b\xa0\xff", max_size=8).map("name:".__add__),
    st.sampled_from(["name:", "name:x \t", "name:\t x", "name: a:b"]),
    st.sampled_from(["a: b\nc: d"]),
)
header_lines = st.lists(plain_lines, max_size=6)
# Each may be a header, and may be none.
odd_lines = st.lists(
    st.one_of(
        plain_lines,
        st.text("aB:;=, \t\r\x00\x0b\x85\xa0\xff", min_size=1, max_size=8),
        st.sampled_from(
            [
                *(" continued", "\tcontinued", "no colon", ": no name", ":"),
                *("From me", "From : x", "name : x", "a: b\rc: d"),
            ]
        ),
    ),
    max_size=6,
)


@settings(quick, max_examples=examples(150))
@given(header_lines, st.sampled_from(["\r\n", "\n"]))
def test_headers_of_an_answer_are_read_as_requests_reads_them(lines, end):
    """But in less time, where they are plain."""
    assume(not re.search("(?i)length|encoding|cookie|location", str(lines)))
    head = "".join(f"{line}{end}" for line in lines)
    raw = f"HTTP/1.1 200 OK\r\n{head}Content-Length: 2\r\n\r\n{{}}"
    API.answering(wire.Answer(raw=raw.encode("latin-1")))
    found = attempt(API.session.get, "users/P1")
    with requests.Session() as bare:
        expected = attempt(
            bare.get,
            f"{API.server.url}/users/P1",
            raises=requests.RequestException,
        )
    if isinstance(expected, Exception):
        assert isinstance(found, pdpyras.PDClientError)
    else:
        assert found.headers == expected.headers
        assert list(found.headers.items()) == list(expected.headers.items())
        assert found.content == expected.content


@settings(quick, max_examples=examples(150))
@given(odd_lines, odd_lines, st.sampled_from(["\r\n", "\n"]))
def test_what_is_no_header_hides_none(before, behind, end):
    """To requests, and http.client, it is the end of the headers."""
    lines = [*before, "X-One: 1", *behind, "X-Two: 2", "Content-Length: 2"]
    strange = str(before + behind)
    assume(not re.search("(?i)length|encoding|cookie|location", strange))
    raw = end.join(["HTTP/1.1 200 OK", *lines, "", "{}"])
    API.answering(wire.Answer(raw=raw.encode("latin-1")))
    answer = API.session.get("users/P1")
    assert answer.headers["X-One"][:1] == "1"
    assert answer.headers["X-Two"] == answer.headers["Content-Length"] == "2"
    assert answer.content == b"{}"


# BASE stands for the configured URL, and HOST for its host and port.
foreign = st.sampled_from(
    [
        *("http://evil.invalid", "https://evil.invalid", "//evil.invalid"),
        *("http://127.0.0.2", "//127.0.0.2", "http://localhost"),
        *("BASE.evil.invalid", "BASE@evil.invalid", "http://user@HOST"),
        *("http://127.0.0.1", "http://127.0.0.1:1", "https://HOST"),
        *("BASE0", "http://evil.invalid#@HOST", "http://evil.invalid?HOST"),
        *("HTTP://EVIL.INVALID", "https://api.pagerduty.com"),
    ]
)


@settings(quick, max_examples=examples(150))
@given(
    st.sampled_from([301, 302, 303, 307, 308]),
    foreign,
    st.text("/.%?#@:[]&= a", max_size=6).map("/".__add__),
    st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    st.booleans(),
)
def test_any_redirect_to_another_host(status, host, path, method, is_event):
    """None is followed, so that neither key nor body goes there."""
    base = API.server.url
    location = (host + path).replace("BASE", base)
    location = location.replace("HOST", base.partition("//")[2])
    Nowhere.asked.clear()
    API.answering(wire.Answer(status, headers={"Location": location}))
    session = API.events if is_event else API.session
    method = "POST" if is_event else method
    found = attempt(session.request, method, "users", json={"a": 1})
    assert isinstance(found, pdpyras.PDClientError)
    assert len(API.server.requests) == 1
    assert Nowhere.asked == []


@quick
@given(
    st.sampled_from([301, 302, 303, 307, 308]),
    st.one_of(
        st.builds("".join, st.tuples(foreign, st.text("/.@:", max_size=3))),
        st.sampled_from(
            [
                *(
                    "",
                    "/",
                    "//",
                    "http://",
                    "http://[::1",
                    "foo:bar",
                    "?",
                    "#",
                ),
                *("http://:80/", "http://@/", "///", "%", "users\x00", "\x7f"),
                *("http://127.0.0.1:99999/", "\\\\", ".", ".."),
            ]
        ),
        st.text("/.%?#@:[]&= ", max_size=6).map("users/".__add__),
    ),
    st.sampled_from(["GET", "PUT", "POST"]),
)
@example(302, "/", "GET")
@example(301, "\xff", "GET")
def test_any_redirect(status, location, method):
    API.session.max_redirects = 5
    base = API.server.url
    location = location.replace("BASE", base)
    location = location.replace("HOST", base.partition("//")[2])
    Nowhere.asked.clear()
    API.answering(wire.Answer(status, headers={"Location": location}))
    found = attempt(API.session.request, method, "users/P1")
    assert isinstance(found, pdpyras.PDClientError) or found.status_code < 600
    assert len(API.server.requests) <= 12
    assert Nowhere.asked == []


dots = st.sampled_from(
    [
        *(".", "..", "%2e", "%2E%2e", ".%2e", "%2e.", "%252e%252E", "%25252e"),
        *("..;", "..;a=b", "%2e%2e;", "..%3b", "%c0%ae%c0%ae", "%C0%AE."),
        *("%e0%80%ae%e0%80%ae", "%u002e%u002e", "\uff0e\uff0e", "\u2025"),
        *("%uff0e%uff0e", "%u2025", "%c0%2e%c0%2e", "%c0%6e%C0%EE"),
        *("%f8%80%80%80%ae.", "%fc%80%80%80%80%ae.", "%f0%80%80%ae."),
        *("..%00", "..%00a", "..%20", "%20..", ".%0d%0a.", "..%3fa", "..%23"),
        *(" ..", ".. ", ". .", "..%c2%a0", ".%7f.", "%c0%80..", "..%c0%80a"),
        *("%ef%bc%8e%ef%bc%8e", "%e2%80%a5"),
    ]
)
slashes = st.sampled_from(
    [
        *(
            "/",
            "//",
            "\\",
            "\\/",
            "%2f",
            "%2F",
            "%5c",
            "%5C",
            "%252f",
            "%c0%af",
            "%c1%9c",
            "%c1%1c",
            "%e0%81%9c",
            "%u005c",
            "%uff0f",
        ),
        *("%25252F", "%255c", "\uff0f", "\uff3c", "%u002f"),
    ]
)
wrongs = st.sampled_from(["a", "users", "", "teams%2fT1", "a.b", "..a", "%20"])


@settings(quick, max_examples=examples(300))
@given(wrongs, slashes, dots, slashes, wrongs, st.booleans(), st.booleans())
@example("users", "/", "..", "%2f", "teams%2fT1", False, False)
@example("users", "/", "%2e%2e", "\\", "teams", False, False)
def test_any_dots_in_a_path(before, first, dots, second, after, full, ends):
    """They are refused in every spelling, and nothing is sent."""
    path = before + first + dots + ("" if ends else second + after)
    API.answering(wire.Answer(json={}))
    for method in ("GET", "PUT"):
        with pytest.raises(pdpyras.URLError):
            url = f"{API.server.url}/{path}" if full else f"/{path}"
            API.session.request(method, url)
    assert API.server.requests == []


@quick
@given(
    st.lists(
        st.sampled_from(
            [
                *("a", "a.b", "...", "..a", "a..", ".a", "a;b", "%2e%2ea"),
                *("%20", "a%2fb", "caf\xe9", "%c3%a9", "%25", "a%2eb", "v1.2"),
                *("a..%20b", "..a%00", "%u0041", "%c3%80%ae", "a%20.."),
            ]
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["", "?a=../b", "?a=%2e%2e", "#/..", "?a=/..;/"]),
)
def test_any_other_dots_are_asked_for(nodes, rest):
    API.answering(wire.Answer(json={}))
    assert API.session.get("/x/" + "/".join(nodes) + rest).ok
    assert len(API.server.requests) == 1


# ---------------------------------------------------------------------------
# Pages
# ---------------------------------------------------------------------------

pages = st.one_of(
    json_values,
    st.fixed_dictionaries(
        {
            "users": st.one_of(st.lists(json_values, max_size=3), json_values),
            "records": st.lists(json_values, max_size=3),
            "more": st.one_of(st.booleans(), json_values),
            "offset": json_values,
            "limit": json_values,
            "total": json_values,
            "next_cursor": json_values,
            "after": json_values,
            "last": json_values,
            "data": st.lists(json_values, max_size=3),
        }
    ),
)
ways = st.sampled_from(
    [
        ("users", {}),
        ("users", {"total": True}),
        ("users", {"page_size": 1}),
        ("audit/records", {}),
        ("alert_grouping_settings", {}),
        ("analytics/raw/incidents", {"json": {}}),
    ]
)


class Finite:
    """Gives these pages, and then the last one for ever."""

    def __init__(self, contents):
        self.contents = contents
        self.given = 0

    def __call__(self, request):
        number = min(self.given, len(self.contents) - 1)
        self.given += 1
        if self.given > 120:  # Or else a mistake would loop for ever.
            return wire.Answer(404)
        return wire.Answer(json=self.contents[number])


@pytest.mark.filterwarnings("ignore::pdpyras.PDIncompleteWarning")
@settings(quick, max_examples=examples(90))
@given(st.lists(pages, min_size=1, max_size=4), ways, st.integers(0, 3))
@example([{"users": [], "more": True}], ("users", {}), 0)
@example([{"records": [1], "next_cursor": {"a": 1}}], ("audit/records", {}), 1)
@example([{"records": [], "next_cursor": ["x"]}], ("audit/records", {}), 2)
@example([{"records": [], "next_cursor": "x"}], ("audit/records", {}), 0)
@example([{"users": [1], "more": 1, "total": -5}], ("users", {}), 3)
@example([{"users": [1], "more": 1, "total": 10**30}], ("users", {}), 3)
def test_any_pages(contents, way, prefetch):
    """They end, in records or in a documented error."""
    url, options = way
    before = copy.deepcopy(options)
    API.answering(Finite(contents))
    hooked = []
    options = dict(
        options,
        prefetch=prefetch,
        item_hook=lambda item, number, total: hooked.append((number, total)),
    )

    def read():
        records = []
        for record in API.session.iter_all(url, **options):
            records.append(record)
            if len(records) >= 60:  # The API may well have that many.
                break
        return records

    found = attempt(read)
    assert isinstance(found, (list, pdpyras.PDServerError)), found
    assert [number for number, _ in hooked] == list(range(1, len(hooked) + 1))
    assert all(t == "?" or type(t) is int for _, t in hooked)
    assert len(API.server.requests) < 100
    assert dict(before) == {key: options[key] for key in before}
    if not prefetch:
        assert_no_empty_page_is_repeated()


def assert_no_empty_page_is_repeated():
    """The same question is never asked twice in a row."""
    asked = [(r.target, r.body) for r in API.server.requests]
    for one, other in zip(asked, asked[1:]):
        assert one != other


@quick
@given(st.lists(json_values, max_size=4), any_text, st.booleans())
def test_any_records_are_looked_through(records, query, as_list):
    API.answering(wire.Answer(json={"users": records, "more": False}))
    before = copy.deepcopy(records)
    found = attempt(API.session.find, "users", query)
    assert found is None or isinstance(found, (dict, pdpyras.PDClientError))
    assert records == before


def test_nothing_is_left_running():
    """Of the threads that read ahead in the examples above."""
    for _ in range(100):
        if threading.active_count() < 12:
            break
        threading.Event().wait(0.05)
    assert threading.active_count() < 12
