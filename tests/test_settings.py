"""How sessions are set up: URL and region, environment, keys, retry."""

import pytest
import requests

import pdpyras
from tests import wire
from tests.support import KEY

KINDS = ["APISession", "EventsAPISession", "ChangeEventsAPISession"]
HOSTS = {
    "APISession": (
        "https://api.pagerduty.com",
        "https://api.eu.pagerduty.com",
    ),
    "EventsAPISession": (
        "https://events.pagerduty.com",
        "https://events.eu.pagerduty.com",
    ),
}
HOSTS["ChangeEventsAPISession"] = HOSTS["EventsAPISession"]
every_kind = pytest.mark.parametrize("name", KINDS)


class Address:
    """An object with a usable str(), like pydantic's HttpUrl."""

    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text


# -- URL and region ----------------------------------------------------------


@every_kind
def test_the_region_decides_upon_the_url(name):
    kind = getattr(pdpyras, name)
    us, eu = HOSTS[name]
    assert kind(KEY).url == kind(KEY, region="us").url == us
    assert kind(KEY, region="eu").url == eu
    assert kind.url == us


@every_kind
@pytest.mark.parametrize("region", ["EU", "", "asia", 5])
def test_a_region_that_is_none(name, region):
    with pytest.raises(ValueError, match="'us', 'eu'"):
        getattr(pdpyras, name)(KEY, region=region)


@every_kind
def test_url_and_region_exclude_each_other(name):
    with pytest.raises(ValueError, match="not both"):
        getattr(pdpyras, name)(KEY, url="https://127.0.0.1", region="us")


@every_kind
@pytest.mark.parametrize(
    "url", ["api.pagerduty.com", "", 5, "ftp://x.example"]
)
def test_a_url_that_is_none_is_refused_at_once(name, url):
    with pytest.raises(pdpyras.URLError):
        getattr(pdpyras, name)(KEY, url=url)


def test_a_url_may_be_any_object_with_a_text(server):
    server.handler = lambda request: wire.Answer(json={"user": {"id": "P1"}})
    address = Address(server.url)
    with pdpyras.APISession(KEY, url=address) as session:
        assert session.rget("users/P1") == {"id": "P1"}
        session.url = address
        assert session.rget("users/P1") == {"id": "P1"}
        assert session.url == server.url


# -- The environment ---------------------------------------------------------


def test_from_env(monkeypatch):
    monkeypatch.setenv("PAGERDUTY_API_KEY", KEY)
    monkeypatch.setenv("PAGERDUTY_FROM", "jane@example.com")
    monkeypatch.setenv("PAGERDUTY_REGION", "eu")
    session = pdpyras.APISession.from_env()
    assert type(session) is pdpyras.APISession
    assert (session.api_key, session.default_from) == (KEY, "jane@example.com")
    assert session.url == "https://api.eu.pagerduty.com"
    session = pdpyras.APISession.from_env(
        api_key="another", default_from="bob@example.com", region="us"
    )
    assert session.api_key == "another"
    assert session.default_from == "bob@example.com"
    assert session.url == "https://api.pagerduty.com"
    # A URL that is given wins over the region of the environment.
    session = pdpyras.APISession.from_env(url="https://127.0.0.1")
    assert session.url == "https://127.0.0.1"
    # So does the other name of an argument.
    session = pdpyras.APISession.from_env(default_sender="bob@example.com")
    assert session.default_from == "bob@example.com"


@pytest.mark.parametrize("name", KINDS[1:])
def test_from_env_for_events(name, monkeypatch):
    kind = getattr(pdpyras, name)
    monkeypatch.setenv("PAGERDUTY_API_KEY", "of the other API")
    with pytest.raises(ValueError, match="PAGERDUTY_ROUTING_KEY"):
        kind.from_env()
    monkeypatch.setenv("PAGERDUTY_ROUTING_KEY", KEY)
    monkeypatch.setenv("PAGERDUTY_URL", "https://127.0.0.1:1")
    assert kind.from_env().url == "https://events.pagerduty.com"
    monkeypatch.setenv("PAGERDUTY_EVENTS_URL", "https://127.0.0.1:2")
    session = kind.from_env(debug=False)
    assert (session.url, session.api_key) == ("https://127.0.0.1:2", KEY)


@pytest.mark.parametrize("value", [None, ""])
def test_from_env_names_the_variable_without_which_there_is_no_key(
    value, monkeypatch
):
    if value is not None:
        monkeypatch.setenv("PAGERDUTY_API_KEY", value)
    with pytest.raises(ValueError, match="PAGERDUTY_API_KEY"):
        pdpyras.APISession.from_env()


# -- Credentials -------------------------------------------------------------


class Renewing:
    """A credential: a token that is good until the server refuses it."""

    def __init__(self):
        self.number = 1
        self.asked = 0
        self.refused = []

    def token(self):
        self.asked += 1
        return f"token{self.number}"

    def renew(self, refused):
        self.refused.append(refused)
        self.number += 1


def accepting(good):
    """A handler that knows one token."""

    def handler(request):
        if request.headers["Authorization"] == f"Bearer {good}":
            return wire.Answer(201, json={"user": {"id": "P1"}})
        return wire.Answer(401, json={"error": {"message": "Unauthorized"}})

    return handler


def test_a_credential_renews_its_token_once(server, naps):
    credential = Renewing()
    server.handler = accepting("token2")
    session = pdpyras.APISession(
        credential, auth_type="bearer", url=server.url
    )
    assert session.rpost("users", json={"name": "J"}) == {"id": "P1"}
    assert credential.refused == ["token1"]
    sent = [r.headers["Authorization"] for r in server.requests]
    assert sent == ["Bearer token1", "Bearer token2"]
    assert server.requests[0].body == server.requests[1].body
    assert naps == []
    server.handler = accepting("token9")
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget("users/P1")
    assert caught.value.status_code == 401
    assert credential.refused == ["token1", "token2"]


@pytest.mark.parametrize("attempts", [0, 1])
def test_a_credential_is_not_asked_about_a_network_error(
    attempts, server, naps
):
    """Nor does its trouble take the place of that error."""
    credential = Renewing()
    server.fault("close", "status", times=1 + attempts)
    session = pdpyras.APISession(credential, url=server.url)
    session.max_network_attempts = attempts
    with pytest.raises(pdpyras.PDClientError):
        session.get("users")
    assert credential.asked == 1 + attempts


def test_an_events_session_does_not_repeat_a_refused_key(server):
    """Its credential is in the body, which no renewed token would change."""
    credential = Renewing()
    server.reply(401)
    session = pdpyras.EventsAPISession(credential, url=server.url)
    with pytest.raises(pdpyras.PDHTTPError, match="401"):
        session.resolve("x")
    assert len(server.requests) == 1
    assert credential.refused == []


def test_a_credential_is_asked_before_each_attempt(server, naps):
    credential = Renewing()
    server.handler = accepting("token5")
    session = pdpyras.APISession(
        credential, auth_type="bearer", url=server.url
    )
    server.reply(429)
    naps.during = lambda: setattr(credential, "number", 5)
    assert session.rget("users/P1") == {"id": "P1"}
    sent = [r.headers["Authorization"] for r in server.requests]
    assert sent == ["Bearer token1", "Bearer token5"]


@pytest.mark.parametrize("where", ["call", "session"])
def test_a_credential_leaves_the_callers_authorization_alone(
    where, server, naps
):
    credential = Renewing()
    session = pdpyras.APISession(
        credential, auth_type="bearer", url=server.url
    )
    own = {"authorization": "Basic own"}
    if where == "session":
        session.headers.update(own)
        own = {}
    server.reply(429)
    server.reply(401)
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget("users/P1", headers=own)
    assert caught.value.status_code == 401
    assert credential.refused == []
    sent = [r.headers["Authorization"] for r in server.requests]
    assert sent == ["Basic own", "Basic own"]


# -- retry -------------------------------------------------------------------


@pytest.mark.parametrize(
    "retry",
    [
        3,
        "502",
        [502],
        {"many": 1},
        {502: "5"},
        {502: -2},
        {502: 1.5},
        {502: None},
        {5.5: 1},
        {502: True},
        {True: 1},
        None,
    ],
)
def test_what_retry_may_not_be(retry, session):
    with pytest.raises(ValueError, match="retry must"):
        session.retry = retry
    assert session.retry == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda retry: retry.__setitem__("many", 1),
        lambda retry: retry.__setitem__(502, "5"),
        lambda retry: retry.update({502: None}),
        lambda retry: retry.update([(502, -2)]),
        lambda retry: retry.setdefault(502, "x"),
    ],
)
def test_retry_is_checked_whenever_it_is_changed(change, session):
    with pytest.raises(ValueError, match="retry must"):
        change(session.retry)
    assert session.retry == {}


def test_a_status_in_retry_may_be_a_numeric_str(server, session, naps):
    session.retry = {"502": 2}
    session.retry["503"] = -1
    assert session.retry == {502: 2, 503: -1}
    server.reply(502, times=9)
    assert session.get("users").status_code == 502
    assert len(naps) == 2


# -- repr --------------------------------------------------------------------


@every_kind
def test_repr_tells_sessions_apart_without_their_key(name):
    session = getattr(pdpyras, name)("Xk3jQ9s2", url="https://127.0.0.1")
    assert repr(session) == f"<{name} *j2 at https://127.0.0.1>".replace(
        "*j2", pdpyras.last_4("Xk3jQ9s2")
    )
    assert "Xk3j" not in repr(session)


@pytest.mark.parametrize(
    "name",
    [
        *("max_http_attempts", "max_network_attempts", "sleep_timer_base"),
        *("max_rate_wait", "max_response_size", "sleep_timer_max"),
        "sleep_timer",
    ],
)
@pytest.mark.parametrize("value", ["3", -1, float("nan"), True, [3], b"3"])
def test_a_number_that_is_none_is_refused_when_it_is_set(name, value, session):
    """And not by the first trouble of the night."""
    before = getattr(session, name)
    with pytest.raises(ValueError, match=f"{name} must be a number from 0"):
        setattr(session, name, value)
    assert getattr(session, name) == before
    for good in (0, 1.5, 7, float("inf")):
        setattr(session, name, good)
        assert getattr(session, name) == good


@pytest.mark.parametrize("name", ["max_rate_wait", "max_response_size"])
def test_none_is_without_limit(name, session):
    setattr(session, name, None)
    with pytest.raises(ValueError, match="not None"):
        session.sleep_timer_max = None


# -- On the class ------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS[1:])
def test_an_outbox_set_on_the_class_is_that_of_its_sessions(
    name, server, tmp_path, monkeypatch
):
    kind = getattr(pdpyras, name)
    before = kind(KEY)
    path = str(tmp_path / "alerts.db")
    monkeypatch.setattr(kind, "outbox", path)
    session = kind(KEY, url="http://127.0.0.1:9")
    session.max_network_attempts = 0
    if name == "EventsAPISession":
        assert session.trigger("Disk is full", "db1.example.com")
    else:
        session.submit("Deployed")
    assert len(session.outbox) == 1 and repr(path) in repr(session.outbox)
    assert before.outbox is None
    other = kind(KEY, outbox=str(tmp_path / "other.db"))
    assert len(other.outbox) == 0
    server.reply(202, json={"dedup_key": "k"}, times=1)
    session.outbox, session.url = None, server.url
    if name == "EventsAPISession":
        assert session.trigger("Disk is full", "db1.example.com") == "k"
        assert len(server.requests) == 1
    monkeypatch.setattr(kind, "outbox", 5)
    with pytest.raises(pdpyras.PDInputError, match="outbox must be"):
        kind(KEY)


SET_ON_A_CLASS = {
    "PDSession": {
        "deadline": 9,
        "max_http_attempts": 2,
        "max_network_attempts": 1,
        "max_rate_wait": 5,
        "max_response_size": 100,
        "timeout": 7,
        "retry_reads": True,
        "retry_ambiguous_writes": False,
        "sleep_timer": 0.5,
        "sleep_timer_base": 3,
        "sleep_timer_max": 4,
        "stagger_cooldown": 0.5,
        "early_access": {"x"},
    },
    "APISession": {
        "default_from": "jane@example.com",
        "default_page_size": 5,
        "prefetch": 2,
        "require_complete_results": False,
        "client_incident_keys": True,
        "retry": {503: 5},
        "url": "https://127.0.0.1",
        "permitted_methods": ("GET",),
    },
    "EventsAPISession": {
        "strict_events": True,
        "client_dedup_keys": True,
        "retry": {503: 5},
        "url": "https://127.0.0.1",
    },
}


@pytest.mark.parametrize(
    ("name", "setting"),
    [(name, key) for name in SET_ON_A_CLASS for key in SET_ON_A_CLASS[name]],
)
def test_a_setting_on_the_class_is_that_of_sessions_made_later(
    name, setting, monkeypatch
):
    value = SET_ON_A_CLASS[name][setting]
    kind = getattr(pdpyras, name)
    monkeypatch.setattr(kind, setting, value)
    assert getattr(kind(KEY), setting) == value


def test_every_setting_of_a_class_is_tried():
    """All but those that the page calls exceptions, and the outbox."""
    public = {
        setting
        for name in SET_ON_A_CLASS
        for setting in getattr(pdpyras, name).__attrs__
        if not setting.startswith("_")
    }
    others = {"print_debug", "outbox", "api_call_counts", "api_time"}
    tried = {key for name in SET_ON_A_CLASS for key in SET_ON_A_CLASS[name]}
    mixed = set(requests.Session.__attrs__) | others
    assert public - mixed - tried == set()


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_rate_wait", "5"),
        ("sleep_timer_max", None),
        ("sleep_timer", -1),
        ("max_http_attempts", "4"),
        ("max_network_attempts", "3"),
        ("max_response_size", "10"),
    ],
)
def test_a_setting_of_a_subclass_is_checked(name, value):
    """At the first trouble the alert would be lost by a TypeError."""
    kind = type("Mine", (pdpyras.EventsAPISession,), {name: value})
    with pytest.raises(ValueError, match=name):
        kind(KEY)
    kind = type("Mine", (pdpyras.EventsAPISession,), {name: 7})
    assert getattr(kind(KEY), name) == 7
    of_property = property(lambda self: 7, lambda self, value: None)
    kind = type("Mine", (pdpyras.EventsAPISession,), {name: of_property})
    assert getattr(kind(KEY), name) == 7
