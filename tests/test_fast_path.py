"""A session is a requests.Session, though it prepares and sends faster.

A plain request is prepared and sent in ways of our own, because those of
requests take twice as long. Everything that requests lets its users set,
mount, hook in or patch must count all the same, from the very next request
on. So each test makes a plain request first, then sets something, looks at
what a real server received, and takes the setting back.

No test here measures speed: that is for the benchmark (``test_bench.py``).
"""

import copy
import gc
import gzip
import json
import pickle
import ssl
import sys
import threading
import tracemalloc
import warnings
from unittest import mock

import pytest
import requests

import pdpyras
from tests import wire
from tests.support import API, KEY, may_fork, needs_fork
from tests.test_processes import child

REQUESTS = tuple(int(part) for part in requests.__version__.split(".")[:2])
USER = {"user": {"id": "P1", "name": "Jane"}}


def echo(request):
    """Answer with what was asked for."""
    return wire.Answer(json={"user": {"id": request.path.rpartition("/")[2]}})


@pytest.fixture
def plain(server, session):
    """A session that has made a plain request already."""
    server.handler = echo
    assert session.rget("/users/P0") == {"id": "P0"}
    return session


def last(server):
    """The headers of the last request, as a dict."""
    return dict(server.requests[-1].headers.items())


def headers_of(request):
    """All headers, in an order of no importance."""
    return sorted(request.headers.items())


def lines(server):
    """The targets of all requests after the first."""
    return [request.target for request in server.requests[1:]]


# -- What comes over the wire ------------------------------------------------

CALLS = [
    ("GET", "/users/P1", {}),
    ("GET", "/users", {"params": {"limit": 1, "query": "a b&c~d/é"}}),
    ("GET", "/users", {"params": {"ids[]": ["P1", "P2"], "x": None}}),
    ("GET", "/users", {"params": [("a", 1), ("a", 2), ("b", "")]}),
    ("GET", "/users", {"params": {}}),
    ("GET", "/users?b=2", {"params": {"a": 1}}),
    ("GET", "/users/P 1", {}),
    ("GET", "/users/%7Ejane/%41", {}),
    ("GET", "/users/é", {}),
    ("GET", "/users//P1", {}),
    ("GET", "/users/P1#x", {}),
    ("GET", "", {}),
    ("GET", "/users", {"headers": {"X-One": "1", "accept": "text/plain"}}),
    ("GET", "/users", {"headers": {"Accept": None}}),
    ("GET", "/users", {"headers": {"X-Bytes": b"1"}}),
    ("GET", "/users", {"json": {"a": "é"}}),
    ("POST", "/users", {"json": {"a": ["é", 1.5, None, True]}}),
    ("POST", "/users", {"json": []}),
    ("POST", "/users", {}),
    ("POST", "/users", {"data": {"a": "1 2"}}),
    ("PUT", "/users", {"data": "text é".encode()}),
    ("PUT", "/users", {"data": "", "json": None}),
    ("PATCH", "/users", {"json": {}, "params": {"x": True}}),
    ("DELETE", "/users/P1", {}),
    ("DELETE", "/users/P1", {"json": {"a": 1}}),
    ("POST", "/users", {"files": {"f": ("name", b"content")}}),
]


@pytest.mark.parametrize("method, path, options", CALLS)
def test_the_same_bytes_as_from_requests(
    method, path, options, server, session
):
    """...when the session leaves the sending to a plain one of requests."""
    server.handler = echo
    with requests.Session() as bare:
        bare.headers = copy.copy(session.headers)
        for _ in range(2):
            session.parent = bare
            session.request(method, path, **options)
            session.parent = None
            session.request(method, path, **options)
    expected, *others = server.requests
    assert len(others) == 3
    for request in others:
        assert request.target == expected.target
        if "files" not in options:  # Their boundaries are random.
            assert request.body == expected.body
            assert headers_of(request) == headers_of(expected)
        assert sorted(request.headers) == sorted(expected.headers)


def test_the_first_request_is_like_the_others(server):
    server.handler = echo
    with pdpyras.APISession(KEY) as session:
        session.url = server.url
        answers = [session.get("/users/P1") for _ in range(3)]
    first, *others = server.requests
    for request in others:
        assert request.headers.items() == first.headers.items()
        assert request.connection == first.connection == 1
    for answer in answers:
        assert answer.json() == {"user": {"id": "P1"}}
        assert answer.request.headers["Authorization"].endswith(KEY)


def test_the_first_request_of_a_pickled_session_is_like_the_others(
    plain, server
):
    with pickle.loads(pickle.dumps(plain)) as other:
        assert other.rget("/users/P1") == {"id": "P1"}
    assert server.requests[-1].headers.items() == (
        server.requests[0].headers.items()
    )


def test_a_response_is_what_requests_makes_of_it(plain, server):
    server.reply(
        json=USER, headers={"Content-Type": "application/json", "X-Y": "z"}
    )
    response = plain.get("/users/P1", params={"a": "b"})
    assert type(response) is requests.Response
    assert response.url == f"{server.url}/users/P1?a=b"
    assert response.headers["x-y"] == "z"
    assert response.encoding == response.encoding
    assert response.elapsed.total_seconds() > 0
    assert response.history == []
    assert response.cookies == {}
    assert isinstance(response.request, requests.PreparedRequest)
    assert response.request.path_url == "/users/P1?a=b"
    assert response.request.body is None
    assert response.connection is plain.get_adapter(server.url)
    assert pickle.loads(pickle.dumps(response)).json() == USER


def test_a_prepared_request_may_be_sent_again(plain, server):
    request = plain.get("/users/P1").request
    assert plain.send(request).json() == {"user": {"id": "P1"}}
    other = request.copy()
    other.prepare_url(f"{server.url}/users/P2", {"x": "1"})
    other.prepare_headers(dict(other.headers, **{"X-Other": "1"}))
    other.prepare_cookies({"a": "b"})
    other.register_hook("response", lambda r, **kwargs: None)
    assert plain.send(other).json() == {"user": {"id": "P2"}}
    assert last(server)["X-Other"] == "1"
    assert last(server)["Cookie"] == "a=b"


def test_to_change_a_prepared_request_changes_no_other(plain, server):
    request = requests.Request("GET", f"{server.url}/users/P1")
    prepared = plain.prepare_request(request)
    prepared.headers["X-Mine"] = "1"
    prepared.hooks["response"].append(lambda r, **kwargs: None)
    plain.send(prepared)
    assert last(server)["X-Mine"] == "1"
    again = plain.prepare_request(request)
    assert "X-Mine" not in again.headers
    assert again.hooks == {"response": []}
    plain.get("/users/P1")
    assert "X-Mine" not in last(server)


def test_a_redirect_is_followed(plain, server):
    for path, status in (("P2", 302), ("P3", 307)):
        server.reply(status, headers={"Location": f"/users/{path}"})
    response = plain.get("/users/P1")
    assert response.json() == {"user": {"id": "P3"}}
    assert [answer.status_code for answer in response.history] == [302, 307]
    assert lines(server) == ["/users/P1", "/users/P2", "/users/P3"]
    server.reply(302, headers={"Location": "/users/P2"})
    assert plain.get("/users/P1", allow_redirects=False).status_code == 302


def test_stream_leaves_the_body_to_the_caller(plain, server):
    response = plain.get("/users/P1", stream=True)
    assert not response._content_consumed
    assert b"".join(response.iter_content(3)) == b'{"user": {"id": "P1"}}'
    plain.stream = True
    assert plain.get("/users/P2").json() == {"user": {"id": "P2"}}


# -- Test doubles ------------------------------------------------------------


def test_responses_answers_after_a_real_request(plain, server):
    responses = pytest.importorskip("responses")
    url = f"{server.url}/users"
    page = {"users": [{"id": "P1"}], "more": False}
    with responses.RequestsMock() as double:
        double.add(responses.GET, f"{url}/P1", json=USER)
        double.add(responses.PUT, f"{url}/P1", json=USER)
        double.add(responses.GET, url, json=page)
        double.add(responses.GET, f"{url}/P2", status=404, json={})
        assert plain.rget("/users/P1") == USER["user"]
        assert plain.rput("/users/P1", json={"id": "P1"}) == USER["user"]
        assert plain.list_all("users", prefetch=4) == [{"id": "P1"}]
        with pytest.raises(pdpyras.PDHTTPError, match="404"):
            plain.rget("/users/P2")
        assert json.loads(double.calls[1].request.body)["user"]["id"] == "P1"
        assert double.calls[0].request.headers["Authorization"].endswith(KEY)
    assert lines(server) == []
    assert plain.rget("/users/P1") == {"id": "P1"}


def test_responses_answers_the_first_request(server, session):
    responses = pytest.importorskip("responses")
    with responses.RequestsMock() as double:
        double.add(responses.GET, f"{server.url}/users/P1", json=USER)
        assert session.rget("/users/P1") == USER["user"]
    assert server.requests == []


@pytest.mark.parametrize("is_global", [False, True])
def test_requests_mock_answers_every_request(is_global, plain, server):
    requests_mock = pytest.importorskip("requests_mock")
    options = {} if is_global else {"session": plain}
    url = f"{server.url}/users"
    with requests_mock.Mocker(**options) as double:
        double.get(f"{url}/P1", json=USER)
        double.get(url, json={"users": [{"id": "P1"}], "more": False})
        assert plain.rget("/users/P1") == USER["user"]
        assert plain.list_all("users", prefetch=4) == [{"id": "P1"}]
        asked = double.request_history[0]
        assert asked.headers["Authorization"].endswith(KEY)
        assert double.request_history[1].qs["limit"] == ["100"]
        double.get(f"{url}/P2", exc=requests.exceptions.ConnectTimeout)
        plain.max_network_attempts = 0
        with pytest.raises(pdpyras.PDClientError, match="No connection"):
            plain.rget("/users/P2")
    assert lines(server) == []
    assert plain.rget("/users/P2") == {"id": "P2"}


def test_an_adapter_of_requests_mock_can_be_mounted(plain, server):
    requests_mock = pytest.importorskip("requests_mock")
    adapter = requests_mock.Adapter()
    adapter.register_uri("GET", f"{server.url}/users/P1", json=USER)
    plain.mount(f"{server.url}/users/P1", adapter)
    assert plain.rget("/users/P1") == USER["user"]
    assert plain.rget("/users/P2") == {"id": "P2"}
    assert lines(server) == ["/users/P2"]


# Its sockets are left to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_vcrpy_records_and_plays(plain, server, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vcr = pytest.importorskip("vcr")
    tape = str(tmp_path / "tape.yaml")
    hide = {"filter_headers": ["authorization"]}
    with vcr.use_cassette(tape, **hide):
        assert plain.rget("/users/P1") == {"id": "P1"}
        plain.rput("/users/P1", json={"id": "P1"})
    assert len(server.requests) == 3
    with pdpyras.APISession(KEY) as fresh:
        fresh.url = server.url
        for player in (plain, fresh):
            with vcr.use_cassette(tape, record_mode="none", **hide) as played:
                assert player.rget("/users/P1") == {"id": "P1"}
                player.rput("/users/P1", json={"id": "P1"})
                assert played.all_played
    assert len(server.requests) == 3
    with open(tape, encoding="utf-8") as file:
        assert KEY not in file.read()
    assert plain.rget("/users/P2") == {"id": "P2"}
    assert len(server.requests) == 4
    gc.collect()  # What vcrpy left open is not for the next test to warn of.


# -- Mounted adapters --------------------------------------------------------


class CannedAdapter(requests.adapters.BaseAdapter):
    """Answers by itself, and remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def send(self, request, **options):
        self.asked.append((request, options))
        response = requests.Response()
        response.status_code = 200
        response.request = request
        response.url = request.url
        response._content = json.dumps(USER).encode("utf-8")
        return response

    def close(self):
        pass


def test_a_mounted_adapter_gets_the_requests_of_its_prefix(plain, server):
    adapter = CannedAdapter()
    plain.mount(f"{server.url}/users/", adapter)
    plain.verify = "some.pem"
    assert plain.rget("/users/P1") == USER["user"]
    plain.verify = True
    request, options = adapter.asked[0]
    assert request.url == f"{server.url}/users/P1"
    assert options["verify"] == "some.pem"
    assert options["timeout"] == plain.timeout
    assert options["proxies"] == {}
    assert plain.get("/teams/P1", params={"x": 1}, timeout=3)
    assert lines(server) == ["/teams/P1?x=1"]
    del plain.adapters[f"{server.url}/users/"]
    assert plain.rget("/users/P2") == {"id": "P2"}


def test_an_adapter_of_requests_itself_can_be_mounted(plain, server):
    before = plain.get_adapter(server.url)
    for _ in range(2):
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=1)
        plain.mount("http://", adapter)
        answer = plain.get("/users/P1", params={"x": "y"})
        assert answer.connection is adapter
        adapter.close()
    plain.mount("http://", before)
    assert plain.get("/users/P1").connection is before


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


class OwnSettings(requests.adapters.HTTPAdapter):
    """As scripts derive them, for a timeout or for TLS of their own."""

    def send(self, request, **options):
        request.headers["X-Adapter"] = "1"
        return super().send(request, **options)


@pytest.mark.parametrize("again", [lambda s: s, copy.copy, pickled])
@pytest.mark.parametrize("kind", [requests.adapters.HTTPAdapter, OwnSettings])
def test_answers_by_a_mounted_adapter_are_not_mixed_up(
    kind, again, plain, server, naps
):
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    server.handler = lambda request: wire.Answer(
        json={"user": request.path}, before=[early]
    )
    plain.mount("http://", kind(pool_maxsize=3))
    session = again(plain)
    for number in range(3):
        path = f"/users/P{number}"
        assert session.rget(path) == path
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    server.reply(raw=head + b"{")
    assert session.rget("/users/P4") == "/users/P4"
    assert naps == [3]


@pytest.mark.oldest
@pytest.mark.parametrize("chunks", [0, 3])
def test_half_a_gzip_stream_by_an_adapter_of_ones_own(
    chunks, plain, server, naps
):
    plain.mount("http://", OwnSettings())
    whole = gzip.compress(b'{"user": {"id": "P1"}}')
    headers = {"Content-Encoding": "gzip"}
    for cut in (1, len(whole) // 2, len(whole) - 1):
        server.reply(body=whole[:cut], headers=headers, chunks=chunks)
    server.reply(body=whole, headers=headers, chunks=chunks)
    assert plain.rget("/users/P1") == {"id": "P1"}
    assert naps == [3, 6, 12]
    server.reply(201, headers=headers, chunks=chunks)
    assert plain.post("/users", json={}).content == b""
    server.reply(body=whole[:-1], headers=headers, chunks=chunks)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        _ = plain.get("/users/P1", stream=True).content
    assert len(naps) == 3


@needs_fork
@may_fork
@pytest.mark.parametrize("kind", [requests.adapters.HTTPAdapter, OwnSettings])
def test_a_mounted_adapter_keeps_its_connections_in_a_fork(
    kind, plain, server
):
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    server.handler = lambda request: wire.Answer(
        json={"user": request.path}, before=[early]
    )
    adapter = kind()
    with requests.Session() as bare:  # With connections of its own.
        bare.mount("http://", adapter)
        bare.get(f"{server.url}/users/P0")
        plain.mount("http://", adapter)
    for path in ("/users/P1", "/users/P2"):
        assert plain.rget(path) == path
        assert child(lambda path=path: plain.rget(path)) == path


def test_what_is_hardly_an_adapter_can_be_mounted(plain):
    class Half(requests.adapters.HTTPAdapter):
        def __init__(self):
            pass

    for adapter in (Half(), mock.Mock(spec=requests.adapters.HTTPAdapter)):
        plain.mount("http://", adapter)
        assert plain.get_adapter("http://x/") is adapter
    plain.adapters.clear()


def test_the_settings_of_an_adapter_hold_whatever_verify_is(
    plain, server, naps
):
    plain.mount("http://", requests.adapters.HTTPAdapter(max_retries=2))
    plain.verify = False
    server.fault("close", "status", times=2)
    assert plain.rget("/users/P1") == {"id": "P1"}
    assert naps == []


def test_an_adapter_of_requests_keeps_the_bounds_of_a_call(plain, server):
    plain.mount("http://", requests.adapters.HTTPAdapter(max_retries=0))
    server.fault("drip", "body")
    with pytest.raises(pdpyras.PDDeadlineError):
        plain.get("/users/P1", deadline=0.5)
    plain.max_response_size = 5
    with pytest.raises(pdpyras.PDClientError, match="more than 5 bytes"):
        plain.get("/users/P1")


def test_the_retries_of_an_adapter_of_requests_are_its_own(
    plain, server, naps
):
    plain.mount("http://", requests.adapters.HTTPAdapter(max_retries=2))
    server.fault("close", "status", times=2)
    assert plain.rget("/users/P1") == {"id": "P1"}
    assert naps == [] and lines(server) == ["/users/P1"] * 3


def test_the_methods_of_a_derived_adapter_are_called(plain, server):
    class Adapter(requests.adapters.HTTPAdapter):
        def add_headers(self, request, **kwargs):
            request.headers["X-Adapter"] = "1"

        def init_poolmanager(self, *args, **kwargs):
            super().init_poolmanager(*args, retries=False, **kwargs)

        def request_url(self, request, proxies):
            return super().request_url(request, proxies) + "?by=adapter"

    plain.mount("http://", Adapter())
    assert plain.rget("/users/P1") == {"id": "P1"}
    assert lines(server) == ["/users/P1?by=adapter"]
    assert last(server)["X-Adapter"] == "1"


def test_a_pool_manager_made_anew_is_used(plain, server):
    adapter = plain.get_adapter(server.url)
    adapter.init_poolmanager(2, 2, block=True)
    assert plain.rget("/users/P1") == {"id": "P1"}
    assert len(adapter.poolmanager.pools) == 1
    adapter.poolmanager.clear()
    assert plain.rget("/users/P2") == {"id": "P2"}
    assert [request.connection for request in server.requests] == [1, 2, 3]


def test_hosts_by_turns_get_their_own_requests(plain, server):
    with wire.Server() as other:
        other.handler = lambda request: wire.Answer(json=USER)
        urls = (server.url, other.url, f"http://localhost:{server.port}")
        for _ in range(3):
            for url in urls:
                plain.url = url
                found = plain.rget("/users/P7")["id"]
                assert found == ("P1" if url == other.url else "P7")
        assert len(other.requests) == 3
        assert len(server.requests) == 7
        hosts = [request.headers["Host"] for request in server.requests]
        assert hosts[-1] == f"localhost:{server.port}"
        assert hosts[-2] == f"127.0.0.1:{server.port}"


def test_overridden_methods_of_requests_are_called(server):
    seen = []

    def noting(name):
        def method(self, *args, **kwargs):
            seen.append(name)
            return getattr(super(Session, self), name)(*args, **kwargs)

        return method

    class Session(pdpyras.APISession):
        pass

    names = (
        *("prepare_request", "merge_environment_settings", "send"),
        *("get_adapter",),
    )
    for name in names:
        setattr(Session, name, noting(name))
    server.handler = echo
    with Session(KEY) as session:
        session.url = server.url
        for _ in range(2):
            session.rget("/users/P1")
            assert seen == list(names)
            seen.clear()


# -- Hooks, cookies, parameters, headers, authentication ---------------------


def test_hooks_are_called_from_the_next_request_on(plain, server):
    seen = []

    def note(response, **kwargs):
        seen.append(response.url)

    def replace(response, **kwargs):
        response.headers["X-Hook"] = "1"
        return response

    plain.hooks["response"] = [note, replace]
    assert plain.get("/users/P1").headers["X-Hook"] == "1"
    assert plain.rget("/users/P2") == {"id": "P2"}
    assert seen == [f"{server.url}/users/P1", f"{server.url}/users/P2"]
    plain.hooks["response"] = []
    answer = plain.get("/users/P3", hooks={"response": note})
    assert "X-Hook" not in answer.headers
    assert seen[2:] == [f"{server.url}/users/P3"]
    plain.hooks["response"].append(note)
    plain.get("/users/P4", hooks={"response": replace})
    plain.hooks = requests.hooks.default_hooks()
    plain.get("/users/P5")
    # Of the hooks of a session and of a call, requests takes the call's.
    assert [url[-2:] for url in seen] == ["P1", "P2", "P3"]


def test_hooks_see_each_page(plain, server):
    seen = []
    pages = [[{"id": "P1"}], [{"id": "P2"}]]
    for number, page in enumerate(pages):
        server.reply(json={"users": page, "more": number == 0})
    plain.hooks["response"].append(lambda r, **kwargs: seen.append(r.url))
    assert len(plain.list_all("users", page_size=1)) == 2
    assert len(seen) == 2


def test_cookies_of_the_session_are_sent(plain, server):
    plain.cookies.set("a", "1")
    plain.get("/users/P1")
    assert last(server)["Cookie"] == "a=1"
    plain.cookies["b"] = "2"
    plain.get("/users/P1")
    assert last(server)["Cookie"] == "a=1; b=2"
    plain.cookies.clear()
    plain.get("/users/P1")
    assert "Cookie" not in last(server)
    plain.cookies = requests.cookies.cookiejar_from_dict({"c": "3"})
    plain.get("/users/P1")
    assert last(server)["Cookie"] == "c=3"


def test_cookies_of_an_answer_are_sent_back(plain, server):
    server.reply(
        json=USER,
        headers=[("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; path=/")],
    )
    answer = plain.get("/users/P1")
    assert answer.cookies.get_dict() == {"a": "1", "b": "2"}
    assert plain.cookies.get_dict() == {"a": "1", "b": "2"}
    plain.get("/users/P2")
    assert sorted(last(server)["Cookie"].split("; ")) == ["a=1", "b=2"]
    server.reply(
        json=USER,
        headers=[
            ("Set-Cookie", "a=; Path=/; Max-Age=0"),
            ("Set-Cookie", "b=; Path=/; Max-Age=0"),
        ],
    )
    plain.get("/users/P3")
    plain.get("/users/P4")
    assert "Cookie" not in last(server)


def test_cookies_for_another_path_stay_at_home(plain, server):
    server.reply(json=USER, headers={"Set-Cookie": "a=1; Path=/teams"})
    plain.get("/users/P1")
    plain.get("/users/P2")
    assert "Cookie" not in last(server)
    plain.get("/teams/P1")
    assert last(server)["Cookie"] == "a=1"


def test_cookies_of_a_redirect_are_sent_back(plain, server):
    server.reply(
        302, headers={"Location": "/users/P2", "Set-Cookie": "a=1; Path=/"}
    )
    plain.get("/users/P1")
    assert last(server)["Cookie"] == "a=1"
    plain.get("/users/P3")
    assert last(server)["Cookie"] == "a=1"


def test_cookies_of_a_call_are_sent_once(plain, server):
    plain.get("/users/P1", cookies={"a": "1"})
    assert last(server)["Cookie"] == "a=1"
    plain.get("/users/P1")
    assert "Cookie" not in last(server)
    plain.cookies["b"] = "2"
    plain.get("/users/P1", cookies={"a": "1"})
    assert sorted(last(server)["Cookie"].split("; ")) == ["a=1", "b=2"]


def test_params_of_the_session_are_sent(plain, server):
    plain.params = {"a": "1"}
    plain.get("/users/P1")
    plain.get("/users/P1", params={"b": 2})
    plain.params["a"] = "3"
    plain.get("/users/P1", params={"b": 2})
    plain.get("/users/P1", params={"a": None, "b": 2})
    plain.params.clear()
    plain.get("/users/P1", params={"b": 2})
    assert [target.partition("?")[2] for target in lines(server)] == [
        "a=1",
        "a=1&b=2",
        "a=3&b=2",
        "b=2",
        "b=2",
    ]


def test_params_of_the_session_go_with_each_page(plain, server):
    server.reply(json={"users": [{"id": "P1"}], "more": False})
    plain.params["team"] = "T"
    plain.list_all("users")
    assert "team=T" in lines(server)[0]


def test_headers_of_the_session_are_sent(plain, server):
    plain.headers["X-Team"] = "a"
    plain.get("/users/P1")
    assert last(server)["X-Team"] == "a"
    plain.headers["X-Team"] = "b"
    plain.get("/users/P1")
    assert last(server)["X-Team"] == "b"
    plain.get("/users/P1", headers={"x-team": "c"})
    assert last(server)["x-team"] == "c"
    plain.headers["x-TEAM"] = "d"
    plain.get("/users/P1")
    assert server.requests[-1].headers.get_all("x-team") == ["d"]
    del plain.headers["X-Team"]
    plain.get("/users/P1")
    assert "x-team" not in server.requests[-1].headers
    plain.headers["User-Agent"] = None
    plain.get("/users/P1")
    assert "pdpyras" not in server.requests[-1].headers["User-Agent"]
    plain.headers = {"Accept": "text/plain"}
    plain.get("/users/P1")
    assert last(server)["Accept"] == "text/plain"
    assert last(server)["Authorization"] == f"Token token={KEY}"


def test_api_key_auth_type_and_default_from_may_change(plain, server):
    plain.api_key = "no-real-key-either"
    plain.default_from = "jane@example.com"
    plain.auth_type = "bearer"
    plain.get("/users/P1")
    assert last(server)["Authorization"] == "Bearer no-real-key-either"
    assert last(server)["From"] == "jane@example.com"
    plain.default_from = None
    plain.get("/users/P1")
    assert "From" not in last(server)


def test_headers_that_cannot_be_sent_stay_an_error(plain, server):
    for value in ("a\nb", 1, ["a"], {}):
        for _ in range(2):
            with pytest.raises(pdpyras.PDClientError):
                plain.get("/users/P1", headers={"X-Bad": value})
    plain.get("/users/P1", headers={"X-Bad": "1"})
    assert len(server.requests) == 2


@pytest.mark.oldest
def test_ever_other_headers_take_no_more_memory(plain, server):
    def send(count):
        for number in range(count):
            value = f"{number:05}" * 2000
            plain.get("/users/P1", headers={"X-Number": value})
            assert last(server)["X-Number"] == value
            del server.requests[:]
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = send(3)
        grown = send(300) - before
    finally:
        tracemalloc.stop()
    # What is remembered of a hundred of them, but not of all.
    assert grown < 150 * 10000


def test_auth_of_the_session_signs_each_request(plain, server):
    plain.auth = ("jane", "no-password")
    plain.get("/users/P1")
    assert last(server)["Authorization"].startswith("Basic ")
    seen = []

    def sign(request):
        seen.append(request.url)
        request.headers["X-Signed"] = "1"
        return request

    plain.auth = sign
    plain.get("/users/P1", params={"a": 1})
    assert seen == [f"{server.url}/users/P1?a=1"]
    assert last(server)["X-Signed"] == "1"
    assert last(server)["Authorization"] == f"Token token={KEY}"
    plain.auth = None
    plain.get("/users/P1")
    assert "X-Signed" not in last(server)
    assert last(server)["Authorization"] == f"Token token={KEY}"


def test_auth_of_a_call_signs_that_call(plain, server):
    plain.get("/users/P1", auth=("jane", "no-password"))
    assert last(server)["Authorization"].startswith("Basic ")
    plain.get("/users/P1")
    assert last(server)["Authorization"] == f"Token token={KEY}"


# -- TLS ---------------------------------------------------------------------

forgets_verify = pytest.mark.skipif(
    REQUESTS < (2, 32),
    reason="requests before 2.32 keeps a connection whatever verify is",
)


@pytest.fixture
def secure(trust):
    """A server with TLS, and a session that gives up at once."""
    with wire.Server(tls=trust) as server, pdpyras.APISession(KEY) as session:
        server.handler = echo
        session.url = server.url
        session.max_network_attempts = 0
        yield session


def assert_untrusted(session, **options):
    """It does not verify, and the server gets to see no request."""
    with pytest.raises(pdpyras.PDClientError, match="CERTIFICATE_VERIFY"):
        session.rget("/users/P1", **options)


def test_verify_may_be_set_after_a_failure(trust, secure):
    assert_untrusted(secure)
    secure.verify = trust.ca_file
    assert secure.rget("/users/P1") == {"id": "P1"}
    assert secure.rget("/users/P2") == {"id": "P2"}


@forgets_verify
def test_verify_may_change_between_calls(trust, secure, monkeypatch):
    for _ in range(2):
        assert secure.rget("/users/P1", verify=trust.ca_file)
        assert_untrusted(secure)
        assert_untrusted(secure, verify=True)
        with pytest.warns(Warning, match="Unverified HTTPS request"):
            assert secure.rget("/users/P1", verify=False)
        assert_untrusted(secure)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", trust.ca_file)
        assert secure.rget("/users/P1")
        with pytest.warns(Warning, match="Unverified HTTPS request"):
            assert secure.rget("/users/P1", verify=False)
        secure.trust_env = False
        assert_untrusted(secure)
        secure.trust_env = True
        monkeypatch.setenv("CURL_CA_BUNDLE", trust.ca_file)
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        assert secure.rget("/users/P1")
        monkeypatch.delenv("CURL_CA_BUNDLE")
        assert_untrusted(secure)


@pytest.fixture
def client_certificate(tmp_path):
    """A server that asks for the client's certificate; and such a one."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    paths = {}
    for name in ("ca", "client"):
        paths[name] = str(tmp_path / f"{name}.pem")
    authority.cert_pem.write_to_path(paths["ca"])
    client = authority.issue_cert("client.example")
    client.private_key_and_cert_chain_pem.write_to_path(paths["client"])
    tls = wire.certificates()
    tls.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls.context)
    tls.context.verify_mode = ssl.CERT_REQUIRED
    tls.context.load_verify_locations(paths["ca"])
    with tls, wire.Server(tls=tls) as server:
        server.handler = echo
        yield server, paths["ca"], paths["client"]


@forgets_verify
@pytest.mark.parametrize("of_session", [True, False])
def test_cert_of_the_session_or_a_call_is_shown(
    of_session, client_certificate
):
    server, ca_file, client_file = client_certificate
    with pdpyras.APISession(KEY) as session:
        session.url = server.url
        session.verify = ca_file
        session.max_network_attempts = 0
        for _ in range(2):
            with pytest.raises(pdpyras.PDClientError):
                session.rget("/users/P1")
            options = {} if of_session else {"cert": client_file}
            session.cert = client_file if of_session else None
            for _ in range(2):
                assert session.rget("/users/P1", **options) == {"id": "P1"}
            session.cert = None
    assert len(server.requests) == 4


# -- Proxies and the environment ---------------------------------------------


@pytest.fixture
def proxy():
    """A forwarding proxy."""
    with wire.Proxy() as running:
        yield running


def test_proxies_may_be_set_and_cleared(plain, server, proxy):
    plain.get("/users/P1", proxies={"http": proxy.url})
    assert len(proxy.requests) == 1
    assert proxy.requests[0].target == f"{server.url}/users/P1"
    plain.get("/users/P2")
    assert len(proxy.requests) == 1
    plain.proxies["http"] = proxy.url
    plain.get("/users/P3")
    plain.get("/users/P4", params={"a": "b"})
    assert len(proxy.requests) == 3
    assert proxy.requests[2].target == f"{server.url}/users/P4?a=b"
    plain.get("/users/P5", proxies={"http": None})
    plain.proxies.clear()
    plain.get("/users/P6")
    assert len(proxy.requests) == 3
    plain.proxies = {f"http://{server.host}": proxy.url}
    plain.get("/users/P7")
    assert len(proxy.requests) == 4
    assert len(server.requests) == 8


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_proxy_variables_may_change_between_calls(
    name, plain, server, proxy, monkeypatch
):
    for _ in range(2):
        proxy.requests.clear()
        monkeypatch.setenv(name, proxy.url)
        plain.get("/users/P1")
        assert len(proxy.requests) == 1
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        plain.get("/users/P1")
        assert len(proxy.requests) == 1
        monkeypatch.setenv("NO_PROXY", "api.example.com")
        plain.get("/users/P1")
        assert len(proxy.requests) == 2
        plain.trust_env = False
        plain.get("/users/P1")
        plain.trust_env = True
        assert len(proxy.requests) == 2
        plain.get("/users/P1")
        assert len(proxy.requests) == 3
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.delenv(name)
        plain.get("/users/P1")
        assert len(proxy.requests) == 3


def test_the_proxy_is_that_of_the_environment_of_the_moment(
    plain, server, proxy, monkeypatch
):
    with wire.Proxy() as other:
        for number in range(1, 4):
            for running in (proxy, other):
                monkeypatch.setenv("http_proxy", running.url)
                assert plain.rget("/users/P1") == {"id": "P1"}
                assert len(running.requests) == number


def test_no_proxy_holds_for_the_host_that_it_names(
    plain, server, proxy, monkeypatch
):
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "localhost")
    for number in range(1, 4):
        plain.url = f"http://localhost:{server.port}"
        plain.get("/users/P1")
        plain.url = server.url
        plain.get("/users/P1")
        assert len(proxy.requests) == number


def test_netrc_changes_no_later_request(plain, server, tmp_path, monkeypatch):
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login jane password no-password\n")
    monkeypatch.setenv("NETRC", str(path))
    plain.cookies["a"] = "1"
    for _ in range(2):
        plain.get("/users/P1")
        assert last(server)["Authorization"] == f"Token token={KEY}"
        plain.cookies.clear()


# -- Closing, and threads ----------------------------------------------------


def test_a_closed_session_can_be_used_again(plain, server):
    for number in range(1, 4):
        plain.close()
        assert plain.rget(f"/users/P{number}") == {"id": f"P{number}"}
        assert plain.rget("/users/P0") == {"id": "P0"}
    connections = [request.connection for request in server.requests]
    assert connections == [1, 2, 2, 3, 3, 4, 4]


def test_close_ends_the_connections(plain, server):
    server.refuse()
    server.listen()
    plain.close()
    assert plain.rget("/users/P1") == {"id": "P1"}
    pool = plain.get_adapter(server.url).poolmanager.pools
    assert len(pool) == 1
    plain.close()
    assert len(pool) == 0


def test_a_connection_that_has_ended_is_replaced(plain, server):
    server.hang_up()
    assert plain.rget("/users/P1") == {"id": "P1"}
    assert server.requests[-1].connection == 2


def test_sixteen_threads_get_their_own_answers(plain, server):
    calls, errors = 20, []
    start = threading.Barrier(16)

    def work(thread):
        try:
            start.wait()
            for call in range(calls):
                name = f"P{thread}x{call}"
                header = {"X-Thread": str(thread)} if call % 2 else None
                params = {"call": call} if call % 3 else None
                user = plain.rget(
                    f"/users/{name}", headers=header, params=params
                )
                assert user == {"id": name}
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    sent = {request.target: request for request in server.requests[1:]}
    assert len(sent) == len(server.requests) - 1 == 16 * calls
    for thread in range(16):
        for call in range(calls):
            query = f"?call={call}" if call % 3 else ""
            request = sent[f"/users/P{thread}x{call}{query}"]
            value = request.headers.get("X-Thread")
            assert value == (str(thread) if call % 2 else None)
            assert request.headers["Authorization"] == f"Token token={KEY}"
    assert plain.api_call_counts == {"GET /users/{id}": 16 * calls + 1}
    assert server.connections <= 17


def test_a_content_length_of_the_caller_is_sent(plain, server):
    headers = {"Content-Length": "00"}
    plain.post("/users", headers=headers)
    assert last(server)["Content-Length"] == "00"


def test_threads_that_look_up_a_path_at_once_all_find_it(monkeypatch):
    """The index grows when a path is needed; none may find it half grown."""
    paths = [f"/things/{{id}}/p{number}" for number in range(300)]
    wanted = paths[:-9:-1]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    found = []
    try:
        for _ in range(20):
            monkeypatch.setattr(pdpyras, "CANONICAL_PATHS", list(paths))
            barrier = threading.Barrier(8)

            def look_up(path, barrier=barrier):
                barrier.wait()
                found.append(pdpyras.canonical_path(API, path))

            threads = [
                threading.Thread(target=look_up, args=(path,))
                for path in wanted
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(found) == sorted(wanted * 20)


def test_threads_follow_the_proxy_variables(plain, server, proxy, monkeypatch):
    ended = threading.Event()
    errors = []

    def work():
        try:
            while not ended.is_set():
                assert plain.rget("/users/P1") == {"id": "P1"}
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        monkeypatch.setenv("PAGERDUTY_TEST", str(number))
        monkeypatch.setenv("http_proxy", proxy.url)
        plain.rget("/users/P2")
        assert (
            f"{server.url}/users/P2"
            == [
                request.target
                for request in proxy.requests
                if request.target.endswith("P2")
            ][number]
        )
        monkeypatch.delenv("http_proxy")
        before = len(proxy.requests)
        plain.rget("/users/P3")
        late = [request.target for request in proxy.requests[before:]]
        assert not any(target.endswith("P3") for target in late)
    ended.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_deadline_of_one_call_bounds_no_later_one(server, session):
    """The socket of a kept connection has its own time limit again."""
    assert session.get("/users/P1", deadline=5).ok
    pool = session.get_adapter(server.url).poolmanager
    (key,) = pool.pools.keys()
    connection = pool.pools[key].pool.get()
    seconds = connection.sock.gettimeout()
    connection.close()
    assert seconds == session.timeout
