"""The key, and what is sent with it, reaches the configured API alone."""

import contextlib
import copy
import logging
import multiprocessing
import pickle
import re
import traceback
import warnings

import pytest
import requests

import pdpyras
from tests import wire
from tests.support import API, KEY, may_fork, needs_fork


@pytest.fixture
def other():
    """A server that is not the configured API."""
    with wire.Server(host="127.0.0.2") as running:
        yield running


@pytest.fixture
def internet(server, monkeypatch):
    """A proxy that sees every request, whatever host it is meant for.

    Plain HTTP for any ``*.invalid`` host, and nothing else, is answered:
    by ``server``.
    """
    routes = {
        f"{name}.invalid:80": server.address
        for name in ("api", "api.eu", "evil")
    }
    with wire.Proxy(routes) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        yield proxy


@contextlib.contextmanager
def pagerduty(monkeypatch, *hosts):
    """HTTPS servers behind PagerDuty's own host names, one for each."""
    pytest.importorskip("trustme")
    with contextlib.ExitStack() as stack:
        trust = stack.enter_context(wire.certificates(*hosts))
        servers = [stack.enter_context(wire.Server(tls=trust)) for _ in hosts]
        proxy = stack.enter_context(
            wire.Proxy(
                {
                    f"{host}:443": server.address
                    for host, server in zip(hosts, servers)
                }
            )
        )
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", trust.ca_file)
        yield servers + [proxy]


def seen(*sent):
    """All that is in these requests, as one text."""
    return "\n".join(
        f"{r.method} {r.target}\n{r.headers}\n{r.body!r}" for r in sent
    )


# Hosts that look like the configured one

LOOK_ALIKES = [
    "https://api.pagerduty.com.evil.example/users",
    "https://api.pagerduty.com.:443@evil.example/users",
    "https://api.pagerduty.comevil.example/users",
    "https://api.pagerduty.com@evil.example/users",
    "https://api.pagerduty.com:443@evil.example/users",
    "https://api.pagerduty.com%2F@evil.example/users",
    "https://api.pagerduty.com%40evil.example/users",
    "https://api.pagerduty.com%2Eevil.example/users",
    "https://api.pagerduty.com%2Fusers.evil.example/",
    "https://api.pagerduty.com\\@evil.example/users",
    "https://evil.example\\@api.pagerduty.com/users",
    "https://evil.example#@api.pagerduty.com/users",
    "https://evil.example?@api.pagerduty.com/users",
    "https://evil.example/@api.pagerduty.com/users",
    "https://evil.example/https://api.pagerduty.com/users",
    "https://evil.example:443#api.pagerduty.com/users",
    "https://user:word@evil.example/users",
    "https://API.PAGERDUTY.COM.evil.example/users",
    "https://api.pagerduty.com:8443/users",
    "https://api.pagerduty.com:80/users",
    "https://api.pagerduty.com:443.evil.example/users",
    "https://api.pagerduty.com:evil/users",
    "http://api.pagerduty.com/users",
    "http://api.pagerduty.com:443/users",
    "HTTP://api.pagerduty.com/users",
    "ftp://api.pagerduty.com/users",
    "file://api.pagerduty.com/users",
    "wss://api.pagerduty.com/users",
    "https+unix://api.pagerduty.com/users",
    "https://\u0430pi.pagerduty.com/users",  # Cyrillic a
    "https://api.pagerduty.co\u217f/users",  # small roman 1000
    "https://api\u3002pagerduty.com.evil.example/",  # ideographic stop
    "https://api.pagerduty.com\uff0fevil.example/",  # fullwidth slash
    "https://api.pagerduty.com\u2100.evil.example/",
    "https://xn--pi-7kc.pagerduty.com/users",
    "https://api.pagerduty.com\t.evil.example/users",
    "https://api.pagerduty.com\n.evil.example/users",
    "https://api.pagerduty.com\r\n@evil.example/users",
    "https://api.pagerduty.com\x00.evil.example/users",
    "https://api.pagerduty.com .evil.example/users",
    "ht\ntps://evil.example/users",
    "https:\t//evil.example/users",
    "https:/\n/evil.example/users",
    "\thttps://evil.example/users",
    "\x0bhttps://evil.example/users",
    "\t//evil.example/users",
    "/\t/evil.example/users",
    "https:///evil.example/users",
    "https://evil.pagerduty.com/users",
    "https://pagerduty.com/users",
    "https://api.pagerduty.com.eu/users",
    "https://api.eu.pagerduty.com.evil.example/users",
    "https://api.eu.pagerduty.com@evil.example/users",
    "https://evil.example\\.api.eu.pagerduty.com/users",
    "http://127.0.0.1/users",
    "https://[::1]/users",
    "https://[::1/users",
    "https://",
    "https://@/users",
]

# Neither the configured host nor a plain path on it.
NEITHER = [
    "/users/..//evil.example/",
    "/..//evil.example",
    "/.//evil.example/users",
    "https://api.pagerduty.com/users\n",
    "https://api.pagerduty.com./users",
    "https://any:word@api.pagerduty.com/users",
]

# Paths, whatever else they look like: they are the configured host's own.
PATHS = [
    " https://evil.example/users",
    "https:\\\\evil.example\\users",
    "https:/\\evil.example/users",
    "//evil.example/users",
    "///evil.example/users",
    "\\\\evil.example\\users",
    "/\\evil.example/users",
    "https:evil.example/users",
    "https://api.pagerduty.com:/@evil.example",
    "@evil.example/users",
    ":443@evil.example/users",
    ".evil.example/users",
    ":8443/users",
    "?@evil.example/",
    "#@evil.example/",
    "evil.example/users",
    "/users/https://evil.example/",
    "/%2F/evil.example/users",
    "/%5C%5Cevil.example/users",
    "/users?next=https://evil.example/",
    "/users\\@evil.example",
    "HTTPS://API.PagerDuty.Com/users",
    "https://api.pagerduty.com:443/users",
    "https://api.pagerduty.com/users#@evil.example",
    "https://api.pagerduty.com/users?@evil.example",
    "https://api.pagerduty.com/\\@evil.example/users",
    "https://api.pagerduty.com?@evil.example/users",
    "https://api.pagerduty.com#@evil.example/users",
]


def is_refused(call, *args, **options):
    """Did the call end in a URLError?"""
    with contextlib.suppress(pdpyras.PDClientError):
        try:
            call(*args, **options)
        except pdpyras.URLError:
            return True
    return False


@pytest.mark.parametrize("urls", [LOOK_ALIKES, NEITHER])
def test_no_look_alike_gets_a_byte(urls, internet, naps):
    with pdpyras.APISession(KEY) as session:
        calls = (
            session.get,
            session.delete,
            session.rget,
            session.jget,
            session.list_all,
        )
        taken = [
            (call.__name__, url)
            for url in urls
            for call in calls
            if not is_refused(call, url)
        ]
        taken += [
            ("rput", url)
            for url in urls
            if not is_refused(
                session.rput, {"id": "P1", "self": url}, json={"id": "P1"}
            )
        ]
    assert taken == []
    assert internet.connections == 0


@pytest.mark.parametrize("url", PATHS)
def test_what_is_a_path_stays_on_the_configured_host(url, monkeypatch, naps):
    with pagerduty(monkeypatch, "api.pagerduty.com") as (api, proxy):
        with pdpyras.APISession(KEY) as session:
            assert session.get(url).ok
        assert {r.target for r in proxy.requests} == {"api.pagerduty.com:443"}
        (request,) = api.requests
        assert request.headers.get_all("Host") == ["api.pagerduty.com"]


def test_the_configured_host_gets_the_key(monkeypatch):
    with pagerduty(monkeypatch, "api.pagerduty.com") as (api, _):
        with pdpyras.APISession(KEY) as session:
            session.get("users")
            session.get("/users")
            session.get(API + "/users")
    assert [(r.path, r.headers["Authorization"]) for r in api.requests] == [
        ("/users", f"Token token={KEY}")
    ] * 3


LOOPBACKS = [
    "localhost",
    "127.0.0.2",
    "127.1",
    "127.0.0.1.",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0.0.0.0",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "127.0.0.1%2F@127.0.0.2",
]


@pytest.mark.parametrize("host", LOOPBACKS)
def test_other_names_and_addresses_of_this_machine(host, server, session):
    with wire.Server(host="127.0.0.2", port=server.port) as twin:
        with pytest.raises(pdpyras.URLError):
            session.get(f"http://{host}:{server.port}/users")
        assert server.connections == twin.connections == 0


def test_another_port_of_the_same_host(session, server):
    with wire.Server() as neighbour:
        for url in (
            neighbour.url,
            server.url + "0",
            server.url.rpartition(":")[0],
            server.url + neighbour.url.rpartition(":")[1],
        ):
            with pytest.raises(pdpyras.URLError):
                session.get(url + "/users")
        assert neighbour.connections == server.connections == 0


@pytest.mark.parametrize("base", ["/", "/proxied/api", "/proxied/api/"])
def test_a_base_may_end_in_a_slash_or_hold_a_path(base, session, server):
    prefix = base.rstrip("/")
    session.url = server.url + base
    for url in (
        "users",
        "/users",
        f"{server.url}{prefix}/users",
        {"id": "P1", "self": f"{server.url}{prefix}/users"},
    ):
        session.jget(url)
    assert [r.target for r in server.requests] == [f"{prefix}/users"] * 4


@pytest.mark.parametrize(
    "path",
    [
        "/users",
        "/proxied/apis/users",
        "/proxied/api.evil/users",
        "/proxied/api/../../users",
        "/proxied/api/%2e%2e/admin",
        "/proxied/api\\..\\..\\admin",
    ],
)
def test_a_url_beside_the_base_path_is_outside(path, session, server):
    session.url = server.url + "/proxied/api"
    with pytest.raises(pdpyras.URLError):
        session.get(server.url + path)
    assert server.requests == []


# The other service region


@pytest.mark.parametrize(
    "here, there",
    [
        ("api.pagerduty.com", "api.eu.pagerduty.com"),
        ("api.eu.pagerduty.com", "api.pagerduty.com"),
    ],
)
def test_a_self_link_of_the_other_region_is_asked_of_ours(
    here, there, monkeypatch
):
    link = f"https://{there}/users/P1"
    with pagerduty(monkeypatch, here, there) as (ours, theirs, proxy):
        ours.handler = lambda request: wire.Answer(
            json={"user": {"id": "P1", "self": link}}
        )
        with pdpyras.APISession(KEY) as session:
            session.url = f"https://{here}"
            user = session.rget("/users/P1")
            for resource in (user, link):
                session.rget(resource, params={"include": ["teams"]})
                session.rput(resource, json=user)
                assert session.put(link, json={}).ok
        assert theirs.connections == 0
        assert {r.target for r in proxy.requests} == {f"{here}:443"}
    assert [r.path for r in ours.requests] == ["/users/P1"] * 7
    assert {r.headers["Host"] for r in ours.requests} == {here}


@pytest.mark.parametrize(
    "link",
    [
        "http://api.eu.pagerduty.com/users/P1",
        "https://api.eu.pagerduty.com:8443/users/P1",
        "https://any@api.eu.pagerduty.com/users/P1",
        "https://api.us.pagerduty.com.evil.example/users/P1",
        "https://events.eu.pagerduty.com/users/P1",
        "https://api.xx.pagerduty.com/users/P1",
    ],
)
def test_what_merely_looks_like_a_region_is_outside(link, internet, naps):
    with pdpyras.APISession(KEY) as session:
        with pytest.raises(pdpyras.URLError):
            session.rget({"id": "P1", "self": link})
    assert internet.connections == 0


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_no_redirect_carries_the_key_to_another_host(
    status, method, server, session, other
):
    with wire.Server() as neighbour:
        for target in (
            other.url,
            neighbour.url,
            f"http://localhost:{neighbour.port}",
            f"http://localhost:{server.port}",
        ):
            server.requests.clear()
            server.reply(status, headers={"Location": f"{target}/users"})
            with pytest.raises(pdpyras.PDClientError) as caught:
                session.request(method, "/users")
            assert f"{target}/users" in str(caught.value)
            assert f"{server.url}/users" in str(caught.value)
            assert len(server.requests) == 1
        assert other.requests == neighbour.requests == []


INSIDE = {"GET": True, "POST": False, "PUT": False, "DELETE": False}


@pytest.mark.oldest
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", sorted(INSIDE))
@pytest.mark.parametrize(
    "target, is_inside",
    [
        ("/proxied/api/users/P1", True),
        ("{base}/users/P1", True),
        ("/proxied/apis/users", False),
        ("/users", False),
        ("/proxied/api/%2e%2e/admin", False),
        ("/proxied/api/..%2fadmin", False),
        ("{base}@evil.invalid/", False),
        ("{base}.evil.invalid/", False),
        ("http://user@{host}/proxied/api/users", False),
        ("//evil.invalid/", False),
        ("https://{host}/proxied/api/users", False),
        ("http://localhost:{port}/proxied/api/users", False),
    ],
)
def test_redirects_of_every_method_status_and_target(
    target, is_inside, method, status, server, session
):
    session.url = base = server.url + "/proxied/api"
    host = server.url.partition("//")[2]
    location = target.format(base=base, host=host, port=server.port)
    server.reply(status, headers={"Location": location})
    keeps = method == "GET" or status in (307, 308)
    body = None if method == "GET" else {"a": 1}
    if is_inside and keeps:
        assert session.request(method, "/users", json=body).ok
        first, second = server.requests
        assert (second.method, second.body) == (method, first.body)
        assert second.headers["Authorization"] == f"Token token={KEY}"
        return
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.request(method, "/users", json=body)
    if not is_inside:
        assert "outside the API" in str(caught.value)
    else:
        assert f"would lose the {method}" in str(caught.value)
    assert len(server.requests) == 1


def test_a_redirect_of_head_is_followed_on_request(server, session):
    session.permitted_methods = ("HEAD",)
    server.reply(302, headers={"Location": "/users/P1"})
    assert session.head("/users", allow_redirects=True).ok
    assert [r.method for r in server.requests] == ["HEAD", "HEAD"]
    server.reply(302, headers={"Location": "http://evil.invalid/"})
    with pytest.raises(pdpyras.PDClientError, match="outside the API"):
        session.head("/users", allow_redirects=True)


@pytest.mark.filterwarnings("ignore:.*not encrypted")
@pytest.mark.parametrize(
    "target, is_followed",
    [
        ("https://api.invalid/users/P1", True),
        ("https://api.invalid:443/users/P1", True),
        ("HTTPS://API.invalid/users/P1", True),
        ("https://api.invalid:8443/users/P1", False),
        ("https://user@api.invalid/users/P1", False),
        ("https://api.invalid.evil.invalid/users/P1", False),
        ("https://evil.invalid/users/P1", False),
    ],
)
@pytest.mark.parametrize("kind", ["APISession", "EventsAPISession"])
def test_an_upgrade_to_https_of_the_same_host(
    target, is_followed, kind, server, monkeypatch
):
    with pagerduty(monkeypatch, "api.invalid") as (secure, proxy):
        proxy.routes["api.invalid:80"] = server.address
        server.reply(308, headers={"Location": target})
        with getattr(pdpyras, kind)(KEY) as session:
            session.url = "http://api.invalid"
            if is_followed:
                assert session.post("/users", json={"a": 1}).ok
            else:
                with pytest.raises(pdpyras.PDClientError, match="outside"):
                    session.post("/users", json={"a": 1})
        assert len(secure.requests) == is_followed
        for request in secure.requests:
            assert KEY in f"{request.headers}{request.body}"
        assert {r.target.partition("/users")[0] for r in proxy.requests} <= {
            *("http://api.invalid", "api.invalid:443"),
        }


@pytest.mark.filterwarnings("ignore:.*not encrypted")
@pytest.mark.parametrize("status", [302, 307])
def test_behind_an_upgrade_no_redirect_leads_outside(
    status, server, other, monkeypatch
):
    with pagerduty(monkeypatch, "api.invalid") as (secure, proxy):
        proxy.routes["api.invalid:80"] = server.address
        upgraded = {"Location": "https://api.invalid/v2/enqueue"}
        server.reply(307, headers=upgraded)
        secure.reply(status, headers={"Location": f"{other.url}/x"})
        with pdpyras.EventsAPISession(KEY) as session:
            session.url = "http://api.invalid"
            with pytest.raises(pdpyras.PDClientError, match="outside"):
                session.post("/v2/enqueue", json={})
        assert len(secure.requests) == 1
        assert other.connections == 0


def test_a_redirect_within_the_host_keeps_the_key(server, session):
    server.reply(302, headers={"Location": "/users/P1"})
    server.reply(307, headers={"Location": f"{server.url}/users/P2"})
    assert session.get("/users").ok
    assert [r.path for r in server.requests] == [
        "/users",
        "/users/P1",
        "/users/P2",
    ]
    assert {r.headers["Authorization"] for r in server.requests} == {
        f"Token token={KEY}"
    }


@pytest.mark.parametrize("kind", ["events", "changes"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_carries_the_routing_key_to_another_host(
    kind, status, server, other, request
):
    session = request.getfixturevalue(kind)
    server.reply(status, headers={"Location": other.url})
    event = {"event_action": "trigger"}
    with pytest.raises(pdpyras.PDClientError, match="outside the API"):
        session.post("/v2/enqueue", json=event)
    assert other.requests == []
    assert server.requests[0].json["routing_key"] == KEY


@pytest.mark.parametrize(
    "base",
    [
        "{url}/%7epd",
        "{url}/a%2fb",
        "{url}/a b",
        "{url}/a|b",
        "{url}/\xdcberwachung",
    ],
)
def test_a_base_that_requests_spells_otherwise_is_trusted_alone(
    base, server, other, session, events
):
    base = base.format(url=server.url)
    session.url = events.url = base
    session.get("/users/P1")
    assert server.requests[0].headers["Authorization"] == f"Token token={KEY}"
    server.reply(302, headers={"Location": "users/P2"})
    session.get(f"{base}/users/P1")
    assert server.requests[2].headers["Authorization"] == f"Token token={KEY}"
    with events, session:
        for call in (
            lambda: session.get("/users/P1"),
            lambda: session.delete("/users/P1"),
            lambda: events.trigger("Disk is full", "db1"),
        ):
            for status in (302, 307):
                server.reply(status, headers={"Location": other.url})
                with pytest.raises(
                    pdpyras.PDClientError, match="outside the API"
                ):
                    call()
    assert other.requests == []


def test_a_base_in_another_alphabet_is_trusted_alone(server, events):
    """Its host is looked up, and named to a proxy, in ASCII."""
    events.url = "http://pagerduty.m\xfcller.invalid"
    events.proxies = {"http": server.url}
    server.reply(307, headers={"Location": "http://evil.invalid/"})
    with pytest.warns(pdpyras.PDWarning), pytest.raises(
        pdpyras.PDClientError, match="outside the API"
    ):
        events.trigger("Disk is full", "db1")
    assert [r.headers["Host"] for r in server.requests] == [
        "pagerduty.xn--mller-kva.invalid"
    ]


def test_a_port_may_begin_with_a_zero():
    url = pdpyras.normalize_url(
        "http://localhost:0810", "http://localhost:810/a"
    )
    assert url == "http://localhost:0810/a"


def test_a_key_in_the_headers_of_an_answer_is_hidden(server, session, caplog):
    echo = {"X-Request-Id": f"id-{KEY}", "X-Echo": KEY}
    server.reply(500, headers=echo)
    with caplog.at_level("DEBUG"), pytest.raises(
        pdpyras.PDServerError
    ) as caught:
        session.rget("users/P1")
    error = caught.value
    assert error.request_id == "id-" + pdpyras.last_4(KEY)
    again = pickle.loads(pickle.dumps(error))
    for each in (error, again):
        assert KEY not in f"{each} {each!r} {each.request_id} {each.msg}"
    assert KEY not in caplog.text
    shown = "id-" + pdpyras.last_4(KEY)
    assert again.response.headers["x-request-id"] == shown
    assert "x-echo" not in again.response.headers
    assert KEY.encode() not in pickle.dumps(error)


def test_a_key_that_is_named_in_an_answer_is_hidden(server, session):
    server.reply(json={KEY: 1})
    with pytest.raises(pdpyras.PDServerError) as caught:
        session.rget("users/P1")
    error = caught.value
    for text in (str(error), repr(error), error.msg, repr(error.args)):
        assert KEY not in text


def test_a_redirect_that_is_not_followed_is_the_callers_to_have(
    server, events
):
    with wire.Server() as other:
        server.reply(307, headers={"Location": f"{other.url}/x"})
        response = events.post("v2/enqueue", json={}, allow_redirects=False)
        assert response.status_code == 307 and response.next is None
        assert other.requests == []


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_within_the_host_carries_the_event(status, server, events):
    server.reply(status, headers={"Location": "/v2/moved"})
    server.reply(202, json={"dedup_key": "one"})
    assert events.trigger("summary", "source") == "one"
    first, second = server.requests
    assert second.path == "/v2/moved"
    assert second.json == first.json


# .netrc


@pytest.fixture(params=["machine 127.0.0.1", "default"])
def netrc(request, monkeypatch, tmp_path, server):
    """A .netrc that has something to say about every server here."""
    path = tmp_path / "netrc"
    path.write_text(f"{request.param} login any password word\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    requests.get(server.url)
    assert server.requests.pop().headers["Authorization"].startswith("Basic")


def nothing_special(session):
    return {}


def cookies_of_the_session(session):
    session.cookies.set("a", "b")
    return {}


def hooks_of_the_session(session):
    session.hooks["response"] = [lambda response, *args, **kwargs: None]
    return {}


def params_of_the_session(session):
    session.params = {"a": "b"}
    return {}


# Ways to leave the short cut of a plain request, each of which prepares it as
# requests does. Those that give a body are for POST.
NETRC_PATHS = [
    nothing_special,
    cookies_of_the_session,
    hooks_of_the_session,
    params_of_the_session,
    lambda session: {"cookies": {"a": "b"}},
    lambda session: {"hooks": {"response": lambda *args, **kwargs: None}},
    lambda session: {"params": "a=b"},
    lambda session: {"data": "{}"},
    lambda session: {"data": {"a": "b"}},
    lambda session: {"files": {"a": b"b"}},
    lambda session: {"auth": None},
]


@pytest.mark.parametrize("path", NETRC_PATHS)
def test_netrc_does_not_replace_the_key(path, netrc, session, server):
    options = path(session)
    server.reply(307, headers={"Location": "/users/P1"})
    server.reply(429)
    session.retry[429] = 1
    session.sleep_timer = session.sleep_timer_base = 0
    session.get("/users", **options)
    session.post("/users", **options)
    session.auth_type = "bearer"
    session.get("/users", **options)
    assert [r.headers.get_all("Authorization") for r in server.requests] == [
        [f"Token token={KEY}"]
    ] * 4 + [[f"Bearer {KEY}"]]


def test_netrc_does_not_replace_the_key_of_a_prepared_request(
    netrc, session, server
):
    request = requests.Request(
        "GET", f"{server.url}/users", cookies={"a": "b"}
    )
    session.send(session.prepare_request(request))
    assert server.requests[-1].headers["Authorization"] == f"Token token={KEY}"


def test_netrc_does_not_replace_the_key_of_events(netrc, events, server):
    server.reply(307, headers={"Location": "/v2/other"})
    events.cookies.set("a", "b")
    events.post("/v2/enqueue", json={})
    for request in server.requests:
        assert "Authorization" not in request.headers
        assert request.json["routing_key"] == KEY
    assert len(server.requests) == 2


def test_netrc_in_the_home_directory_does_not_replace_the_key(
    session, server, monkeypatch, tmp_path
):
    (tmp_path / ".netrc").write_text("default login any password word\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert requests.get(server.url).request.headers["Authorization"]
    session.get("/users")
    assert server.requests[-1].headers["Authorization"] == f"Token token={KEY}"


def test_netrc_adds_no_header_to_events(netrc, events, changes, server):
    for session in (events, changes):
        session.post("/v2/enqueue", json={})
    assert [r.headers["Authorization"] for r in server.requests] == [
        None,
        None,
    ]


def test_netrc_does_not_replace_the_key_behind_a_redirect(
    netrc, session, server
):
    server.reply(302, headers={"Location": "/users/P1"})
    assert session.get("/users").ok
    assert [r.headers["Authorization"] for r in server.requests] == [
        f"Token token={KEY}"
    ] * 2


def test_credentials_given_with_a_call_are_the_callers_choice(session, server):
    session.get("/users", headers={"authorization": "Token token=another"})
    session.get("/users")
    assert [r.headers.get_all("Authorization") for r in server.requests] == [
        ["Token token=another"],
        [f"Token token={KEY}"],
    ]


# The environment


def test_proxies_of_the_environment_are_read_at_every_call(
    session, server, monkeypatch
):
    with wire.Proxy() as first, wire.Proxy() as second:
        passed = []
        for proxy in (None, first, second, None):
            if proxy:
                monkeypatch.setenv("http_proxy", proxy.url)
            else:
                monkeypatch.delenv("http_proxy", raising=False)
            assert session.get("/users").ok
            passed.append((len(first.requests), len(second.requests)))
        assert passed == [(0, 0), (1, 0), (1, 1), (1, 1)]
        monkeypatch.setenv("http_proxy", first.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert session.get("/users").ok
        assert len(first.requests) == 1
    assert len(server.requests) == 5


def test_proxies_of_the_session_and_of_the_call(session, server):
    with wire.Proxy() as first, wire.Proxy() as second:
        session.proxies["http"] = first.url
        session.get("/users")
        session.get("/users", proxies={"http": second.url})
        assert (len(first.requests), len(second.requests)) == (1, 1)


def test_without_trust_env_the_environment_is_ignored(
    session, server, monkeypatch
):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{wire.closed_port()}")
    session.trust_env = False
    assert session.get("/users").ok


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_ca_bundles_of_the_environment_are_read_at_every_call(
    name, trust, session, monkeypatch, naps
):
    with wire.Server(tls=trust) as server, wire.certificates() as stranger:
        session.url = server.url
        for path, good in (
            (None, False),
            (stranger.ca_file, False),
            (trust.ca_file, True),
        ):
            if path:
                monkeypatch.setenv(name, path)
            if good:
                assert session.get("/users").ok
            else:
                with pytest.raises(pdpyras.PDClientError):
                    session.get("/users")
        assert len(server.requests) == 1
    assert naps == []


@pytest.mark.parametrize("setting", ["verify", "cert"])
def test_a_file_without_a_certificate_is_an_error_at_once(
    setting, trust, session, tmp_path, naps
):
    path = tmp_path / "garbage.pem"
    path.write_text("no certificate")
    with wire.Server(tls=trust) as server:
        session.url, session.verify = server.url, trust.ca_file
        setattr(session, setting, str(path))
        with pytest.raises(pdpyras.PDClientError, match="SSLError"):
            session.get("/users")
    assert naps == []


def test_verify_of_the_session_and_of_the_call(trust, session):
    with wire.Server(tls=trust) as server:
        session.url = server.url
        session.get("/users", verify=trust.ca_file)
        session.verify = trust.ca_file
        session.get("/users")
        assert len(server.requests) == 2


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_verify_of_the_session_beats_the_environment(
    name, trust, session, monkeypatch, naps
):
    with wire.Server(tls=trust) as server, wire.certificates() as stranger:
        session.url = server.url
        session.verify = stranger.ca_file
        monkeypatch.setenv(name, trust.ca_file)
        for options in ({}, {"verify": True}, {"verify": None}):
            with pytest.raises(pdpyras.PDClientError, match="(?i)certificate"):
                session.get("/users", **options)
        session.verify = trust.ca_file
        monkeypatch.setenv(name, stranger.ca_file)
        server.reply(302, headers={"Location": "/users/P1"})
        assert session.get("/users").ok
        session.cookies.set("a", "b")
        assert session.get("/users").ok
        assert len(server.requests) == 3


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("first", [False, True, "bundle"])
def test_verify_false_of_one_call_does_not_outlive_it(
    first, trust, session, naps
):
    session.max_network_attempts = 0
    with wire.Server(tls=trust) as server, wire.certificates() as stranger:
        session.url = server.url
        if first:  # Before, there was a connection that did not verify.
            session.verify = stranger.ca_file if first == "bundle" else True
            with pytest.raises(pdpyras.PDClientError, match="(?i)certificate"):
                session.get("/users")
        server.reply(302, headers={"Location": "/users/P1"})
        assert session.get("/users", verify=False).ok
        assert len(server.requests) == 2
        for _ in range(2):
            with pytest.raises(pdpyras.PDClientError, match="(?i)certificate"):
                session.get("/users")
            with pytest.raises(pdpyras.PDClientError, match="(?i)certificate"):
                session.get("/users", verify=stranger.ca_file)
        again = copy.copy(session)
        with pytest.raises(pdpyras.PDClientError, match="(?i)certificate"):
            again.get("/users")
        assert len(server.requests) == 2
        assert session.get("/users", verify=trust.ca_file).ok
        with pytest.raises(pdpyras.PDClientError, match="(?i)certificate"):
            session.get("/users")


# What is a key

BAD_KEYS = [
    "",
    " ",
    "word\n",
    "word\r\n",
    "\nword",
    "wo rd",
    " word",
    "word\t",
    "wo\x00rd",
    "wo\x1brd",
    "wo\x7frd",
    "wo\x85rd",
    "wo\xa0rd",
    "wo\u2028rd",
    "wo\u3000rd",
    None,
    0,
    5,
    b"word",
    ["word"],
    True,
]
SESSIONS = [
    pdpyras.APISession,
    pdpyras.EventsAPISession,
    pdpyras.ChangeEventsAPISession,
]


@pytest.mark.parametrize("key", BAD_KEYS)
@pytest.mark.parametrize("kind", SESSIONS)
def test_what_cannot_be_a_key_is_refused_at_once(kind, key, server):
    with pytest.raises(ValueError) as made:
        kind(key)
    with kind(KEY) as session, pytest.raises(ValueError) as assigned:
        session.url = server.url
        session.api_key = key
    assert session.api_key == KEY
    for caught in (made, assigned):
        text = "".join(
            traceback.format_exception(caught.type, caught.value, None)
        )
        assert "word" not in text and "wo" not in re.findall(r"\w+", text)
    assert server.connections == 0


# Nothing shows the key


class Ear(logging.Handler):
    """Keeps every line logged."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))
        self.lines.append(repr(vars(record)))


@pytest.fixture
def ear():
    """All that is logged by anyone, at DEBUG."""
    root = logging.getLogger()
    handler, level = Ear(), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def everything_goes_wrong(session, server):
    """Calls that end in errors of all kinds; the errors."""
    echo = {
        "error": {
            "message": f"Bad key {KEY}",
            "code": 2001,
            "errors": [f"{KEY} is unknown", "Token token=" + KEY],
        }
    }
    session.max_network_attempts = session.max_http_attempts = 1
    closed = f"http://127.0.0.1:{wire.closed_port()}"
    path = "/v2/enqueue"
    calls = [
        lambda: session.post(path + "\n", json={}, timeout="long"),
        lambda: session.post(path, json={}, headers={"X": "a\nb"}),
        lambda: session.post(path, json={}, headers={"X": 5}),
        lambda: session.post(path, json={"n": float("nan")}),
        lambda: session.post(path, json={"n": {1, 2}}),
        lambda: session.post("http://evil.invalid/", json={}),
        lambda: session.request("BREW", path),
    ]
    for status in (400, 401, 402, 404, 413, 429, 500, 503):
        session.retry[status] = 1
        server.reply(status, json=echo, times=2)
        calls.append(
            lambda: pdpyras.successful_response(
                session.post(path, json={}), context=f"testing {path}"
            )
        )
    for kind, stage in (
        ("reset", "request"),
        ("close", "status"),
        ("garbage", "status"),
        ("truncate", "body"),
        ("gzip-truncated", "body"),
    ):
        server.fault(kind, stage, times=2)
        calls.append(lambda: session.post(path, json={}))
    server.reply(302, headers={"Location": path}, times=99)
    calls.append(lambda: session.post(path, json={}))

    def refused():
        session.url = closed
        try:
            session.post(path, json={})
        finally:
            session.url = server.url

    return calls + [refused]


def errors_of(calls):
    for call in calls:
        try:
            call()
        except Exception as error:
            yield error


def texts_of(error):
    """All that a user's log or error tracker shows of an error."""
    while error is not None:
        yield str(error)
        yield repr(error)
        yield repr(error.args)
        yield repr(vars(error))
        yield "".join(
            traceback.format_exception(type(error), error, error.__traceback__)
        )
        yield from texts_of(error.__cause__)
        error = error.__context__


@pytest.mark.parametrize("kind", SESSIONS)
def test_no_error_log_line_or_warning_shows_the_key(
    kind, server, naps, ear, capfd
):
    with kind(KEY) as session, warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        session.url = server.url
        session.permitted_methods = ("GET", "POST")
        session.print_debug = True
        caught = list(errors_of(everything_goes_wrong(session, server)))
        server.script.clear()
        session.get("/users")
    assert len(caught) >= 20, caught
    for error in caught:
        for text in texts_of(error):
            assert KEY not in text
    assert any("urllib3" in line for line in ear.lines)
    assert any("pdpyras" in line for line in ear.lines)
    assert KEY not in "\n".join(ear.lines)
    assert KEY not in "\n".join(str(w.message) for w in shown)
    output = capfd.readouterr()
    assert output.err and KEY not in output.out + output.err


@pytest.mark.parametrize("kind", SESSIONS)
def test_no_repr_shows_the_key(kind, server):
    with kind(KEY) as session:
        session.url = server.url
        session.print_debug = True
        response = session.post("/v2/enqueue", json={})
        session.print_debug = False
        shown = [
            repr(session),
            str(session),
            f"{session}",
            repr(vars(session)),
            repr(session.headers),
            repr(session.log),
            repr(session.adapters),
            repr(response),
            repr(session.retry),
            session.trunc_key,
        ]
        shown += [
            repr(getattr(session, name))
            for name in dir(session)
            if name not in ("api_key", "auth_header")
            and not name.startswith("__")
            and not isinstance(getattr(type(session), name, None), property)
        ]
    for text in shown:
        assert KEY not in text
    assert session.trunc_key == "*" + KEY[-4:]


def test_debug_output_of_http_client_is_not_switched_on(session, capfd):
    session.print_debug = True
    session.get("/users")
    assert "send:" not in capfd.readouterr().out


def test_a_401_names_the_end_of_the_key(server, session):
    server.reply(401)
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.get("/users")
    assert "*" + KEY[-4:] in str(caught.value)
    assert KEY not in str(caught.value)


# Pickles, the one place that holds the key


def used(kind, server):
    """A session with settings and counters of its own."""
    session = kind(KEY)
    session.url = server.url
    session.retry[404] = 2
    session.max_http_attempts = 7
    session.max_network_attempts = 5
    session.sleep_timer = 0.25
    session.sleep_timer_base = 3
    session.stagger_cooldown = 0.5
    session.timeout = 12
    session.headers["X-Own"] = "yes"
    if kind is pdpyras.APISession:
        session.default_from = "user@example.com"
        session.auth_type = "bearer"
        session.default_page_size = 7
        session.require_complete_results = False
        session.get("/users/P1")
        session.get("/users/P2")
    return session


KEPT = (
    "api_key",
    "url",
    "retry",
    "max_http_attempts",
    "auth_header",
    "max_network_attempts",
    "sleep_timer",
    "sleep_timer_base",
    "stagger_cooldown",
    "timeout",
    "headers",
    "user_agent",
    "print_debug",
)
KEPT_BY_API = (
    "default_from",
    "auth_type",
    "default_page_size",
    "require_complete_results",
    "total_call_count",
    "total_call_time",
    "api_call_counts",
    "api_time",
)


def state(session):
    names = KEPT + (KEPT_BY_API if type(session) is pdpyras.APISession else ())
    return {name: getattr(session, name) for name in names}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", SESSIONS)
def test_a_pickled_session_is_whole(kind, protocol, server):
    session = used(kind, server)
    data = pickle.dumps(session, protocol)
    again = pickle.loads(data)
    assert type(again) is kind
    assert state(again) == state(session)
    assert again.post("/v2/enqueue", json={}).ok
    sent = server.requests[-1]
    assert KEY in f"{sent.headers}{sent.body}"
    assert sent.headers["X-Own"] == "yes"
    assert KEY.encode() in data  # As the guide says: keep it like the key.


def test_a_pickled_session_goes_its_own_way(server):
    session = used(pdpyras.APISession, server)
    again = pickle.loads(pickle.dumps(session))
    again.retry[500] = 1
    again.api_key = "another-word"
    again.get("/users/P1")
    assert session.retry == {404: 2}
    assert session.api_key == KEY
    assert session.api_call_counts["GET /users/{id}"] == 2
    assert again.api_call_counts["GET /users/{id}"] == 3


def test_a_pickled_session_that_debugs_does_so_once(server, capfd):
    session = used(pdpyras.APISession, server)
    session.print_debug = True
    again = pickle.loads(pickle.dumps(session))
    capfd.readouterr()
    again.log.debug("marker")
    assert capfd.readouterr().err.count("marker") == 1
    again.print_debug = session.print_debug = False
    again.log.debug("marker")
    assert "marker" not in capfd.readouterr().err


def test_a_copied_session_works(server):
    session = used(pdpyras.APISession, server)
    again = copy.copy(session)
    assert again.get("/users").ok
    assert again.api_key == KEY


def _in_a_worker(session):
    """Runs in a process of its own."""
    session.get("/users/P3")
    events = pdpyras.EventsAPISession(KEY)
    events.url = session.url
    return session, state(session), events.trigger("summary", "source")


@may_fork
@pytest.mark.parametrize(
    "method", ["spawn", pytest.param("fork", marks=needs_fork)]
)
def test_a_session_works_in_another_process(method, server):
    def handler(request):
        if request.path == "/v2/enqueue":
            return wire.Answer(202, json={"dedup_key": "one"})
        return wire.Answer(json={})

    server.handler = handler
    session = used(pdpyras.APISession, server)
    pool = multiprocessing.get_context(method).Pool(1)
    try:
        result = pool.apply_async(_in_a_worker, (session,))
        again, there, dedup_key = result.get(30)
    finally:
        pool.terminate()
        pool.join()
    assert dedup_key == "one"
    assert state(again) == there
    assert there["api_call_counts"]["GET /users/{id}"] == 3
    assert session.api_call_counts["GET /users/{id}"] == 2
    (sent,) = [r for r in server.requests if r.path == "/users/P3"]
    assert sent.headers["Authorization"] == f"Bearer {KEY}"


# Debugging


def test_debugging_two_sessions_prints_each_line_once(server, capfd):
    with pdpyras.APISession(KEY, debug=True) as first, pdpyras.APISession(
        KEY
    ) as second:
        second.print_debug = True
        second.print_debug = True
        for session, path in ((first, "/users/P1"), (second, "/users/P2")):
            session.url = server.url
            server.reply(429, headers={"ratelimit-reset": "0"})
            session.sleep_timer = session.sleep_timer_base = 0.01
            session.get(path)
            session.log.debug("about %s", path)
        lines = capfd.readouterr().err.splitlines()
        for path in ("/users/P1", "/users/P2"):
            about = [line for line in lines if path in line]
            assert len(about) >= 2
            assert len(about) == len(set(about))
        first.print_debug = False
        first.print_debug = False
        first.log.debug("silent")
        second.log.debug("audible")
        assert capfd.readouterr().err.count("audible") == 1
        assert first.log.handlers == []
        assert first.log.level == logging.NOTSET
        assert second.log.level == logging.DEBUG
        second.print_debug = False
        second.log.debug("silent")
        assert capfd.readouterr().err == ""
        assert logging.getLogger("pdpyras").level == logging.NOTSET


# Plain HTTP


def notices_about_http(base, calls, monkeypatch):
    """Warnings, of either kind, about an unencrypted base URL."""
    ear = Ear()
    logger = logging.getLogger("pdpyras")
    logger.addHandler(ear)
    try:
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            with pdpyras.APISession(KEY) as session:
                session.url = base
                for _ in range(calls):
                    with contextlib.suppress(pdpyras.PDClientError):
                        session.get("/users")
    finally:
        logger.removeHandler(ear)
    logged = [line for line in ear.lines[::2] if "http://" in line]
    return [str(w.message) for w in shown] + [
        line for line in logged if "encrypt" in line.lower()
    ]


def test_an_unencrypted_base_warns_once(internet, server, monkeypatch):
    notices = notices_about_http("http://api.invalid", 3, monkeypatch)
    assert len(notices) == 1, notices
    assert len(server.requests) == 3


@pytest.mark.parametrize("scheme", ["HTTP", "Http", "hTTp"])
def test_an_unencrypted_base_warns_in_any_case(scheme, internet, monkeypatch):
    base = f"{scheme}://api.invalid"
    assert len(notices_about_http(base, 2, monkeypatch)) == 1


def test_each_unencrypted_base_warns(internet, session, server):
    loopback = server.url
    session.url = "http://api.invalid"
    with pytest.warns(UserWarning, match="not encrypted") as caught:
        session.get("users")
        session.get("users")
    assert len(caught) == 1
    session.url = loopback
    session.get("users")
    session.url = loopback.replace("127.0.0.1", "localhost")
    session.get("users")
    session.url = "http://evil.invalid"
    with pytest.warns(UserWarning, match="not encrypted"):
        session.get("users")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.8.9.1", "[::1]", "LOCALHOST"]
)
def test_loopback_does_not_warn(host, server, monkeypatch, naps):
    base = f"http://{host}:{server.port}"
    assert notices_about_http(base, 1, monkeypatch) == []


@pytest.mark.parametrize("how", ["session", "environment"])
@pytest.mark.parametrize(
    "proxy, warns",
    [
        ("http://proxy.invalid:3128", True),
        ("proxy.invalid:3128", True),
        ("http://[:99999", True),
        ("http://127.0.0.1:PORT", False),
        ("localhost:PORT", False),
    ],
)
def test_loopback_by_a_proxy_that_is_elsewhere_warns(
    proxy, warns, how, server, session, monkeypatch
):
    proxy = proxy.replace("PORT", str(wire.closed_port()))
    session.max_network_attempts = 0
    if how == "session":
        session.proxies = {"http": proxy}
    else:
        monkeypatch.setenv("http_proxy", proxy)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(pdpyras.PDClientError):
            session.get("users")
    assert ["not encrypted" in str(w.message) for w in caught] == [
        True
    ] * warns
    assert server.requests == []


def warnings_of(call):
    """What is said about encryption in a call that may fail."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(pdpyras.PDClientError):
            call()
    return [w for w in caught if "not encrypted" in str(w.message)]


ELSEWHERE = {"http": "http://proxy.invalid:3128"}


def test_a_proxy_of_one_call_that_is_elsewhere_warns_once(session, naps):
    assert not warnings_of(lambda: session.get("users"))
    for count in (1, 0):
        found = warnings_of(lambda: session.get("users", proxies=ELSEWHERE))
        assert len(found) == count


def test_a_proxy_of_one_call_beats_one_that_is_elsewhere(session, naps):
    session.proxies = ELSEWHERE
    here = {"http": f"http://127.0.0.1:{wire.closed_port()}"}
    assert not warnings_of(lambda: session.get("users", proxies=here))


def test_a_proxy_that_comes_later_warns(session, naps, monkeypatch):
    assert not warnings_of(lambda: session.get("users"))
    monkeypatch.setenv("http_proxy", ELSEWHERE["http"])
    assert len(warnings_of(lambda: session.get("users"))) == 1
    assert not warnings_of(lambda: session.get("users"))


def test_a_proxy_of_the_environment_that_beats_the_sessions_warns(
    session, naps, monkeypatch
):
    here = f"http://127.0.0.1:{wire.closed_port()}"
    session.proxies = {"http": here}
    monkeypatch.setenv("http_proxy", ELSEWHERE["http"])
    assert len(warnings_of(lambda: session.get("users"))) == 1


def test_a_proxy_of_the_environment_that_is_not_for_it_does_not_warn(
    session, monkeypatch
):
    monkeypatch.setenv("http_proxy", ELSEWHERE["http"])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert not warnings_of(lambda: session.get("users"))


def test_a_warning_that_is_an_error_lets_nothing_through(session, server):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with wire.Proxy() as proxy:
            proxy_url = proxy.url.replace("127.0.0.1", "0.0.0.0")
            for _ in range(2):
                with pytest.raises(pdpyras.PDWarning, match="not encrypted"):
                    session.get("users", proxies={"http": proxy_url})
            assert proxy.requests == []
    assert server.requests == []


def test_an_encrypted_base_does_not_warn(monkeypatch):
    with pagerduty(monkeypatch, "api.invalid") as (server, _):
        assert notices_about_http("https://api.invalid", 2, monkeypatch) == []
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "host", ["127.0.0.1.invalid", "localhost.invalid", "evil.invalid"]
)
def test_hosts_that_look_like_loopback_warn(host, internet, monkeypatch):
    assert len(notices_about_http(f"http://{host}", 2, monkeypatch)) == 1


@pytest.mark.parametrize("end", ["?a=b", "#a", "/x?y", "/#"])
def test_a_base_url_ends_before_query_and_fragment(end, session):
    with pytest.raises(pdpyras.URLError, match="is not of the form"):
        pdpyras.normalize_url(f"https://api.example{end}", "users")
    session.url = f"https://api.example{end}"
    with pytest.raises(pdpyras.URLError, match="is not of the form"):
        session.get("users")
