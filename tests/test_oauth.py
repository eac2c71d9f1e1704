"""OAuth apps: over sockets, against the sandbox and a scripted server.

The sandbox is the API in all tests, and in most the authorization server as
well. Where that is to fail, it is a server of its own.
"""

import ast
import contextlib
import copy
import json
import logging
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import time
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
import requests

import pdpyras
import pdpyras_oauth
import pdpyras_tokens
from pdpyras import PDClientError, PDDeadlineError, PDHTTPError, PDWarning
from pdpyras_oauth import Authorization, OAuthApp, OAuthSession, TokenCache
from pdpyras_sandbox import Sandbox
from tests import wire
from tests.support import ROOT, may_fork, needs_fork, paused_thread

SECRET = "client-+/&=-MARK-secret"
SCOPES = ("incidents.read", "users.read")
HERE = "http://127.0.0.1:1/back"


@pytest.fixture
def box():
    with Sandbox(users=3) as sandbox:
        yield sandbox


@pytest.fixture
def app(box):
    return make_app(box.url)


def make_app(url, **arguments):
    arguments = {"scopes": SCOPES, "subdomain": "acme", **arguments}
    return OAuthApp("client-1", SECRET, url=url, **arguments)


def form(request):
    """The fields that a token request has sent."""
    return dict(parse_qsl(request.body.decode("ascii")))


def token_requests(where):
    return [r for r in where.requests if r.path == "/oauth/token"]


def grant(access="access-1", **more):
    """An answer of a token endpoint."""
    return {
        "access_token": access,
        "token_type": "bearer",
        "expires_in": 86400,
        **more,
    }


def age(session, left, life=86400.0):
    """Let the session's token have so many seconds left."""
    credential = session._credential
    credential._tokens = credential._tokens._replace(
        life=life, expires_at=time.time() + left
    )


def let_cached_end(app, cache, left, user="jane", **changes):
    """Let the token in the cache have so many seconds left."""
    entry = cache.load(app.cache_key(user))
    entry.update({"expires_at": time.time() + left, **changes})
    cache.store(app.cache_key(user), entry)


def sent_tokens(box):
    """The access tokens that the API has seen, in order."""
    return [
        r.headers["authorization"].split()[-1]
        for r in box.requests
        if not r.path.startswith("/oauth/")
    ]


def redirected(authorization):
    """Let the user consent; return the URL that the browser comes back to."""
    answer = requests.get(authorization.url, allow_redirects=False)
    assert answer.status_code == 302
    return answer.headers["location"]


def user_session(app, box, on_renew=None, **arguments):
    authorization = app.authorization(HERE)
    return app.session_from_redirect(
        authorization, redirected(authorization), on_renew, url=box.url
    )


@pytest.fixture
def identity(server):
    """An authorization server that a test scripts."""
    server.handler = lambda request: wire.Answer(json=grant())
    return server


def run_threads(number, call):
    """Call it in so many threads at once; return results and errors."""
    barrier, results = threading.Barrier(number), []

    def run():
        barrier.wait()
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# ---------------------------------------------------------------------------
# The app's own token
# ---------------------------------------------------------------------------


def test_a_session_of_the_app_gets_its_token_by_client_credentials(app, box):
    session = app.session(url=box.url)
    assert isinstance(session, pdpyras.APISession)
    assert box.requests == []
    assert len(session.list_all("users")) == 3
    asked, listed = box.requests
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert form(asked) == {
        "grant_type": "client_credentials",
        "client_id": "client-1",
        "client_secret": SECRET,
        "scope": "as_account-us.acme incidents.read users.read",
    }
    assert SECRET.encode() not in asked.body
    assert listed.headers["authorization"] == "Bearer sandbox+access_1"


def test_sessions_of_an_app_share_its_token(app, box):
    for session in (app.session(url=box.url), app.session(url=box.url)):
        for _ in range(3):
            session.rget("users/me")
    assert len(token_requests(box)) == 1
    assert set(sent_tokens(box)) == {"sandbox+access_1"}


@pytest.mark.parametrize(
    "region, url",
    [
        ("us", "https://api.pagerduty.com"),
        ("eu", "https://api.eu.pagerduty.com"),
    ],
)
def test_a_session_is_on_the_api_of_the_apps_region(region, url):
    app = OAuthApp("id", SECRET, region=region, subdomain="acme")
    assert app.session().url == url
    assert app.session(url="https://gateway.example").url != url
    assert app.account_scope == f"as_account-{region}.acme"
    assert app.url == "https://identity.pagerduty.com"


def test_a_session_takes_the_arguments_of_an_api_session(app, box):
    session = app.session(url=box.url, default_from="me@example.com")
    assert session.default_from == "me@example.com"
    assert session.auth_type == "bearer"
    with pytest.raises(TypeError):
        app.session(no_such_argument=1)


def test_a_session_of_the_app_needs_the_subdomain(box):
    with pytest.raises(ValueError, match="subdomain"):
        make_app(box.url, subdomain=None).session()


@pytest.mark.parametrize(
    "arguments",
    [
        {"client_id": ""},
        {"client_secret": "two words"},
        {"client_secret": None},
        {"region": "mars"},
        {"url": "http://identity.example"},
        {"url": "http://127.0.0.1.example"},
        {"url": "ftp://127.0.0.1"},
        {"url": "nonsense"},
    ],
)
def test_arguments_that_an_app_cannot_have(arguments):
    arguments = {"client_id": "a", "client_secret": SECRET, **arguments}
    with pytest.raises(ValueError) as caught:
        OAuthApp(**arguments)
    assert "MARK" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost:8/", "http://[::1]:8"])
def test_plain_http_is_good_on_this_computer(url):
    assert OAuthApp("id", SECRET, url=url).url == url.rstrip("/")


def test_scopes_may_be_one_text():
    assert OAuthApp("id", SECRET, "a.read b.read a.read").scopes == (
        "a.read",
        "b.read",
    )


# -- Renewal ----------------------------------------------------------------


@pytest.mark.parametrize(
    "life, left, is_due",
    [
        (86400, 301, False),
        (86400, 299, True),
        (1000, 101, False),
        (1000, 99, True),
        (86400, -1, True),
    ],
)
def test_a_token_is_due_when_little_of_its_life_is_left(life, left, is_due):
    tokens = pdpyras_tokens.Tokens("a", "", None, life, 5000.0 + left)
    assert tokens.is_due(5000.0) is is_due


@pytest.mark.parametrize("left, renewals", [(400, 0), (200, 1), (-5, 1)])
def test_a_token_is_renewed_before_it_ends(app, box, left, renewals):
    session = app.session(url=box.url)
    session.rget("users/me")
    age(session, left)
    session.rget("users/me")
    session.rget("users/me")
    assert len(token_requests(box)) == 1 + renewals
    assert sent_tokens(box)[-1] == f"sandbox+access_{1 + renewals}"


def test_a_401_renews_the_token_and_the_request_is_repeated(
    app, box, naps, caplog
):
    caplog.set_level("INFO")
    session = app.session(url=box.url)
    session.rget("users/me")
    box.revoke_tokens()
    user = session.rpost("users", json={"name": "A", "email": "a@b.example"})
    assert user["name"] == "A"
    assert len(token_requests(box)) == 2
    assert sent_tokens(box)[-2:] == ["sandbox+access_1", "sandbox+access_2"]
    assert naps == []
    assert "status 401. The credential is renewed; retrying" in caplog.text


def test_a_401_renews_the_token_once_in_a_call(app, box):
    session = app.session(url=box.url)
    box.fail(401, times=9, path="/users")
    with pytest.raises(PDHTTPError) as caught:
        session.rget("users")
    assert caught.value.status_code == 401
    assert len(token_requests(box)) == 2
    assert len(sent_tokens(box)) == 2


def test_a_refused_token_is_not_used_when_its_renewal_fails(identity, box):
    session = make_app(identity.url).session(url=box.url)
    session.rget("users/me")
    identity.reply(403, times=9)
    box.fail(401, times=9, path="/users/me")
    for _ in range(2):
        with pytest.raises(PDClientError, match="status 403"):
            session.rget("users/me")
    assert len(sent_tokens(box)) == 2


@pytest.mark.parametrize("left", [200, -5], ids=["due", "ended"])
def test_sixteen_threads_make_one_token_request(app, box, left):
    session = app.session(url=box.url)
    session.rget("users/me")
    box.clear()
    age(session, left)
    box.latency = 0.05
    results = run_threads(16, lambda: session.rget("users/me")["id"])
    assert len(set(results)) == 1
    assert len(token_requests(box)) == 1
    if left < 0:
        assert set(sent_tokens(box)) == {"sandbox+access_2"}


def test_sixteen_threads_that_are_answered_401_make_one_token_request(
    app, box
):
    session = app.session(url=box.url)
    session.rget("users/me")
    box.clear()
    box.revoke_tokens()
    box.latency = 0.05
    results = run_threads(16, lambda: session.rget("users/me")["id"])
    assert len(set(results)) == 1
    assert len(token_requests(box)) == 1
    assert set(sent_tokens(box)[-16:]) == {"sandbox+access_2"}


def test_threads_share_the_failure_that_they_have_waited_for(identity, box):
    session = make_app(identity.url).session(url=box.url)

    def answer(request):
        renewals = session._credential._renewals
        while len(renewals[""]._waiters) < 15:
            time.sleep(0.001)
        return wire.Answer(400, json={"error": "invalid_client"})

    identity.handler = answer
    results = run_threads(16, lambda: session.rget("users/me"))
    assert len(results) == 16
    for error in results:
        assert isinstance(error, PDClientError)
        assert "invalid_client" in str(error)
    assert len(identity.requests) == 1
    assert box.requests == []


def test_a_renewal_that_fails_while_the_token_lives_warns(identity, box, naps):
    session = make_app(identity.url).session(url=box.url)
    session.rget("users/me")
    age(session, 200)
    identity.reply(503, times=9)
    with pytest.warns(PDWarning, match="could not be renewed.*503") as caught:
        session.rget("users/me")
    assert [w.filename for w in caught] == [__file__]
    session.rget("users/me")  # Not at once again.
    assert len(identity.requests) == 2
    assert naps == []
    session._credential._next_try = 0
    with pytest.warns(PDWarning):
        session.rget("users/me")
    session._credential._next_try = 0
    identity.script.clear()
    session.rget("users/me")
    assert len(identity.requests) == 4


def test_a_renewal_that_fails_when_the_token_has_ended_is_an_error(
    identity, box, naps
):
    session = make_app(identity.url).session(url=box.url)
    session.rget("users/me")
    age(session, -1)
    identity.reply(400, json={"error": "invalid_client"})
    with pytest.raises(PDClientError, match="invalid_client"):
        session.rget("users/me")
    assert len(sent_tokens(box)) == 1


# -- Scopes -----------------------------------------------------------------


def test_fewer_scopes_than_asked_for_are_an_error_that_names_them(app, box):
    box.grant(scopes=["users.read"])
    with pytest.raises(PDClientError, match=r"incidents\.read") as caught:
        app.session(url=box.url).rget("users/me")
    assert "users.read" not in str(caught.value)
    assert sent_tokens(box) == []
    box.grant()
    app.session(url=box.url).rget("users/me")


def test_an_answer_that_tells_no_scope_grants_all(identity, box):
    make_app(identity.url).session(url=box.url).rget("users/me")


# ---------------------------------------------------------------------------
# The token endpoint
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409])
def test_a_4xx_of_the_token_endpoint_is_never_retried(
    identity, box, naps, status
):
    identity.reply(
        status,
        json={
            "error": "invalid_client",
            "error_description": "It is \x1b[31mwrong\r\n, " + SECRET,
            "other": "BODY",
        },
        times=9,
    )
    with pytest.raises(PDClientError) as caught:
        make_app(identity.url).session(url=box.url).rget("users/me")
    text = str(caught.value)
    assert f"status {status}, invalid_client: It is" in text
    assert text.isprintable()
    assert "MARK" not in text and "BODY" not in text
    assert caught.value.response is None
    assert len(identity.requests) == 1
    assert naps == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_client_credentials_are_retried(identity, box, naps, status):
    identity.reply(status, times=2)
    make_app(identity.url).session(url=box.url).rget("users/me")
    assert naps == [3, 6]
    assert len(identity.requests) == 3


@pytest.mark.parametrize("status, attempts", [(429, 6), (503, 4)])
def test_client_credentials_are_retried_a_few_times_only(
    identity, box, naps, status, attempts
):
    identity.reply(status, body=b"BODY", times=99)
    with pytest.raises(PDClientError, match=f"status {status}") as caught:
        make_app(identity.url).session(url=box.url).rget("users/me")
    assert "BODY" not in str(caught.value)
    assert len(identity.requests) == attempts


def test_client_credentials_are_retried_after_network_trouble(
    identity, box, naps
):
    identity.fault("reset", times=2)
    make_app(identity.url).session(url=box.url).rget("users/me")
    assert naps == [3, 6]


@pytest.mark.parametrize(
    "body",
    [
        b"BODY",
        b'["BODY"]',
        b"[" * 100000,
        b'{"access_token": 5, "BODY": 1}',
        b'{"access_token": "BODY with space"}',
        b'{"access_token": "BODY", "token_type": "mac"}',
        b'{"access_token": "BODY", "expires_in": "long"}',
        b'{"access_token": "BODY", "expires_in": -1}',
        b'{"access_token": "BODY", "refresh_token": 7}',
        b'{"access_token": "BODY", "scope": ["x"]}',
        b"",
    ],
)
def test_an_answer_of_the_token_endpoint_that_is_none(
    identity, box, body, no_collector
):
    identity.reply(body=body)
    with pytest.raises(PDClientError, match="not that of a token") as caught:
        make_app(identity.url).session(url=box.url).rget("users/me")
    assert "BODY" not in str(caught.value)
    assert caught.value.__context__ in (None, sys.exc_info()[1])
    assert box.requests == []


@pytest.mark.parametrize("is_inside", [True, False])
def test_the_token_endpoint_follows_no_redirect(identity, box, is_inside):
    place = "" if is_inside else box.url
    identity.reply(307, headers={"Location": f"{place}/oauth/other"})
    with pytest.raises(PDClientError, match="status 307, no reason"):
        make_app(identity.url).session(url=box.url).rget("users/me")
    assert box.requests == []
    assert len(identity.requests) == 1


def test_the_token_endpoint_sends_nothing_of_netrc(
    identity, box, tmp_path, monkeypatch
):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password NETRC")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    make_app(identity.url).session(url=box.url).rget("users/me")
    assert identity.requests[0].headers["authorization"] is None


@pytest.mark.parametrize("where", ["environment", "app"])
def test_the_token_endpoint_goes_by_the_proxy(
    identity, box, monkeypatch, where
):
    app = make_app(identity.url)
    with wire.Proxy() as proxy:
        if where == "app":
            app.proxies = {"http": proxy.url}
        else:
            monkeypatch.setenv("http_proxy", proxy.url)
        app.session(url=box.url).rget("users/me")
        passed = [r for r in proxy.requests if "/oauth/token" in r.target]
        assert len(passed) == 1


def test_the_token_endpoint_is_trusted_as_verify_says(trust, box):
    with wire.Server(tls=trust) as identity:
        identity.handler = lambda request: wire.Answer(json=grant())
        app = make_app(identity.url)
        with pytest.raises(PDClientError, match="CERTIFICATE_VERIFY_FAILED"):
            app.session(url=box.url).rget("users/me")
        app.verify = trust.ca_file
        app.session(url=box.url).rget("users/me")


def test_a_call_ends_at_its_deadline_while_the_token_endpoint_is_silent(
    identity, box
):
    identity.fault("stall", times=9)
    session = make_app(identity.url).session(url=box.url)
    start = time.monotonic()
    with pytest.raises(PDDeadlineError):
        session.rget("users/me", deadline=0.2)
    session.deadline = 0.2
    with pytest.raises(PDDeadlineError):
        session.rget("users/me")
    assert time.monotonic() - start < 10


def test_a_call_whose_token_lives_does_not_wait_out_a_renewal(identity, box):
    session = make_app(identity.url).session(url=box.url)
    session.rget("users/me")
    age(session, 200)
    identity.fault("stall", times=9)
    with pytest.warns(PDWarning, match="could not be renewed"):
        session.rget("users/me", deadline=2)
    assert sent_tokens(box) == ["access-1"] * 2


def test_a_call_whose_token_lives_does_not_wait_for_the_lock(box, cache):
    app = make_app(box.url, cache=cache)
    session = app.session(url=box.url)
    session.rget("users/me")
    let_cached_end(app, cache, 200, user=None)
    age(session, 200)

    def hold(pause):
        with cache.locked():
            pause()

    with paused_thread(hold):
        with pytest.warns(PDWarning, match="has been locked by"):
            session.rget("users/me", deadline=2)
    assert sent_tokens(box) == ["sandbox+access_1"] * 2


def pause_first(identity, pause):
    """Let the answer to the first token request come after a pause."""

    def answer(request):
        if request is identity.requests[0]:
            pause()
        return wire.Answer(json=grant())

    identity.handler = answer


def test_a_thread_waits_for_the_renewal_of_another_until_its_deadline(
    identity, box
):
    session = make_app(identity.url).session(url=box.url)

    def renew(pause):
        pause_first(identity, pause)
        session.rget("users/me")

    with paused_thread(renew):
        with pytest.raises(PDDeadlineError):
            session.rget("users/me", deadline=0.1)
        assert len(identity.requests) == 1


def test_the_deadline_of_one_thread_does_not_end_the_wait_of_another(
    identity, box
):
    session = make_app(identity.url).session(url=box.url)
    errors = []

    def hurry(pause):
        pause_first(identity, pause)
        try:
            session.rget("users/me", deadline=2)
        except PDDeadlineError as error:
            errors.append(error)

    with paused_thread(hurry):
        session.rget("users/me")
    assert len(errors) == 1
    assert len(identity.requests) == 2


def test_the_timeout_of_the_app_is_for_the_token_endpoint(identity, box, naps):
    app = make_app(identity.url)
    app.timeout = 0.05
    identity.fault("stall", times=9)
    with pytest.raises(PDClientError, match=r"No answer within 0\.05 s"):
        app.session(url=box.url).rget("users/me")


# ---------------------------------------------------------------------------
# Users
# ---------------------------------------------------------------------------


def test_the_challenge_is_that_of_rfc_7636():
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    assert pdpyras_oauth._challenge(verifier) == challenge


def test_an_authorization_asks_for_consent(app, box):
    first, second = app.authorization(HERE), app.authorization(HERE)
    assert first.state != second.state
    assert first.code_verifier != second.code_verifier
    assert 43 <= len(first.code_verifier) <= 128
    assert first.url.startswith(f"{box.url}/oauth/authorize?")
    assert parse_qs(urlsplit(first.url).query) == {
        "client_id": ["client-1"],
        "redirect_uri": [HERE],
        "response_type": ["code"],
        "scope": ["incidents.read users.read"],
        "state": [first.state],
        "code_challenge": [pdpyras_oauth._challenge(first.code_verifier)],
        "code_challenge_method": ["S256"],
    }


def test_a_session_of_a_user_from_two_requests_of_a_web_server(app, box):
    began = app.authorization(HERE)
    parts = json.loads(
        json.dumps([began.url, began.state, began.code_verifier])
    )
    there = redirected(began)
    saved = []
    session = make_app(box.url).session_from_redirect(
        Authorization(*parts), there, on_renew=saved.append, url=box.url
    )
    assert isinstance(session, OAuthSession)
    sent = form(token_requests(box)[0])
    code = parse_qs(urlsplit(there).query)["code"][0]
    assert sent == {
        "grant_type": "authorization_code",
        "client_id": "client-1",
        "client_secret": SECRET,
        "code": code,
        "redirect_uri": HERE,
        "code_verifier": began.code_verifier,
    }
    assert saved == ["sandbox+refresh_2"]
    session.rget("users/me")
    assert sent_tokens(box) == ["sandbox+access_3"]


def test_what_a_program_is_to_store_is_plain_text(app, box):
    """Some ways of saving refuse a kind of str, or save its repr."""
    began, saved = app.authorization(HERE), []
    parts = [began.url, began.state, began.code_verifier]
    assert [type(part) for part in parts] == [str] * 3
    assert ast.literal_eval(repr(parts)) == parts
    session = app.session_from_redirect(
        Authorization(*parts), redirected(began), saved.append, url=box.url
    )
    age(session, -1)
    session.rget("users/me")
    assert [type(token) for token in saved] == [str] * 2


@pytest.mark.parametrize(
    "query, text",
    [
        ("code=C", "The state"),
        ("code=C&state=another", "The state"),
        ("code=C&state=%C3%A9", "The state"),
        ("error=access_denied&error_description=no", "The state"),
        ("state={}", "no code"),
        (
            "state={}&error=access_denied&error_description=The+user%0Asaid+no",
            "access_denied: The user said no",
        ),
    ],
)
def test_a_redirect_that_brings_no_code(app, box, query, text):
    authorization = app.authorization(HERE)
    url = f"{HERE}?{query.format(authorization.state)}"
    with pytest.raises(PDClientError, match=text):
        app.session_from_redirect(authorization, url)
    assert box.requests == []


def test_an_empty_state_is_none(app, box):
    began = app.authorization(HERE)
    for missing in range(3):
        parts = [began.url, began.state, began.code_verifier]
        parts[missing] = None
        with pytest.raises(ValueError, match="must each be a str"):
            Authorization(*parts)
    forgotten = Authorization(began.url, "", began.code_verifier)
    with pytest.raises(PDClientError, match="The state"):
        app.session_from_redirect(forgotten, f"{HERE}?code=C&state=")


def test_a_code_is_not_redeemed_twice_when_its_answer_is_lost(
    identity, box, naps
):
    app = make_app(identity.url)
    authorization = app.authorization(HERE)
    identity.fault("reset", times=9)
    url = f"{HERE}?code=C&state={authorization.state}"
    with pytest.raises(PDClientError, match="authorise again"):
        app.session_from_redirect(authorization, url)
    assert len(identity.requests) == 1


def test_fewer_scopes_than_the_user_was_asked_for(app, box):
    box.grant(scopes=["openid"])
    saved = []
    with pytest.raises(PDClientError, match=r"incidents\.read, users\.read"):
        user_session(app, box, saved.append)
    assert saved == []


# -- Refresh ----------------------------------------------------------------


def test_the_new_refresh_token_is_saved_before_the_access_token_is_used(
    app, box
):
    log = []
    session = user_session(
        app, box, lambda token: log.append((token, len(box.requests)))
    )
    for _ in range(2):
        age(session, -1)
        session.rget("users/me")
    # Requests: consent, code; then twice refresh, users/me.
    assert [number for _, number in log] == [2, 3, 5]
    assert len({token for token, _ in log}) == 3
    asked = [form(r) for r in token_requests(box)]
    assert [a.get("refresh_token") for a in asked[1:]] == [
        token for token, _ in log[:2]
    ]
    assert asked[1] == {
        "grant_type": "refresh_token",
        "client_id": "client-1",
        "client_secret": SECRET,
        "refresh_token": log[0][0],
    }


def test_a_session_from_a_refresh_token(app, box):
    saved = []
    user_session(app, box, saved.append)
    box.clear()
    session = app.session_from_refresh_token(
        saved[0], on_renew=saved.append, url=box.url
    )
    assert box.requests == []
    results = run_threads(16, lambda: session.rget("users/me")["id"])
    assert len(set(results)) == 1
    assert len(token_requests(box)) == 1
    assert len(saved) == 2
    with pytest.raises(ValueError, match="non-empty"):
        app.session_from_refresh_token(" ")


def test_a_refresh_whose_answer_is_lost_is_tried_once_more(
    identity, box, naps
):
    app = make_app(identity.url)
    saved = []
    session = app.session_from_refresh_token("R1", saved.append, url=box.url)
    identity.fault("reset")
    identity.reply(json=grant(refresh_token="R2"))
    session.rget("users/me")
    assert [form(r)["refresh_token"] for r in identity.requests] == ["R1"] * 2
    assert saved == ["R2"]
    assert naps == [1.5]


@pytest.mark.parametrize("fault", ["reset", 503])
def test_a_refresh_whose_answer_is_lost_twice(identity, box, naps, fault):
    session = make_app(identity.url).session_from_refresh_token(
        "R1-MARK", url=box.url
    )
    if fault == "reset":
        identity.fault(fault, times=9)
    else:
        identity.reply(fault, times=9)
    with pytest.raises(PDClientError, match="authorise again"):
        session.rget("users/me")
    assert len(identity.requests) == 2


def test_a_refresh_that_is_refused_is_not_tried_again(identity, box, naps):
    session = make_app(identity.url).session_from_refresh_token(
        "R1", url=box.url
    )
    identity.reply(400, json={"error": "invalid_grant"}, times=9)
    with pytest.raises(PDClientError, match="invalid_grant.*authorise again"):
        session.rget("users/me")
    assert len(identity.requests) == 1
    assert naps == []


def test_a_refresh_waits_out_the_rate_limit(identity, box, naps):
    session = make_app(identity.url).session_from_refresh_token(
        "R1", url=box.url
    )
    identity.reply(429, headers={"Retry-After": "7"})
    session.rget("users/me")
    assert naps == [7]


def test_a_refresh_while_the_token_lives_does_not_wait(identity, box, naps):
    session = make_app(identity.url).session_from_refresh_token(
        "R1", url=box.url
    )
    session.rget("users/me")
    age(session, 200)
    identity.reply(429, headers={"Retry-After": "7"}, times=9)
    with pytest.warns(PDWarning, match="status 429"):
        session.rget("users/me")
    assert naps == []


def test_a_short_call_does_not_refresh_a_token_that_lives(identity, box):
    """It might be cut off, and the new refresh token be lost."""
    session = make_app(identity.url).session_from_refresh_token(
        "R1", url=box.url
    )
    session.rget("users/me", deadline=4)  # There is no other way.
    age(session, 200)
    session.deadline = 4
    session.rget("users/me")
    assert len(identity.requests) == 1
    session.rget("users/me", deadline=9)
    assert len(identity.requests) == 2


def test_a_refresh_is_not_begun_after_a_long_wait_for_the_lock(
    box, cache, monkeypatch
):
    monkeypatch.setattr(pdpyras_oauth, "_MIN_REFRESH_TIME", 2.5)
    app, session = cached_session(box, cache)
    let_cached_end(app, cache, 200)
    age(session, 200)
    is_held = threading.Event()

    def hold():
        with cache.locked():
            is_held.set()
            time.sleep(0.8)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(30)
    with pytest.warns(PDWarning, match="leaves too little time"):
        session.rget("users/me", deadline=3)
    thread.join()
    assert len(token_requests(box)) == 1
    session._credential._next_try = 0
    session.rget("users/me", deadline=3)
    assert len(token_requests(box)) == 2


def test_a_refresh_while_the_token_lives_leaves_time_for_the_call(
    identity, box, monkeypatch
):
    monkeypatch.setattr(pdpyras_oauth, "_MIN_REFRESH_TIME", 1)
    session = make_app(identity.url).session_from_refresh_token(
        "R1", url=box.url
    )
    session.rget("users/me")
    age(session, 200)
    identity.fault("stall", times=9)
    with pytest.warns(PDWarning, match="could not be renewed"):
        session.rget("users/me", deadline=3)
    assert sent_tokens(box) == ["access-1"] * 2


def test_a_refresh_that_brings_no_refresh_token_keeps_the_old(identity, box):
    saved = []
    session = make_app(identity.url).session_from_refresh_token(
        "R1", saved.append, url=box.url
    )
    session.rget("users/me")
    age(session, -1)
    session.rget("users/me")
    assert [form(r)["refresh_token"] for r in identity.requests] == ["R1"] * 2


def test_a_refresh_that_grants_fewer_scopes_is_saved_all_the_same(app, box):
    saved = []
    session = user_session(app, box, saved.append)
    age(session, -1)
    box.grant(scopes=["users.read"])
    for number in (2, 3):
        # Once in a while it is asked whether that has changed.
        session._credential._shortage = None
        for _ in range(3):
            with pytest.raises(PDClientError, match=r"incidents\.read"):
                session.rget("users/me")
            assert len(saved) == len(token_requests(box)) == number
    assert sent_tokens(box) == []
    box.grant()
    access, problem, _ = session._credential._shortage
    session._credential._shortage = (access, problem, time.time())
    session.rget("users/me")
    session.rget("users/me")
    assert len(saved) == 4
    age(session, -1)  # Other tokens may be renewed at once.
    session.rget("users/me")
    assert len(saved) == 5


class SavingError(Exception):
    pass


def test_tokens_that_could_not_be_saved_are_saved_by_the_next_call(app, box):
    saved, failing = [], []

    def save(token):
        if failing:
            raise SavingError(failing.pop())
        saved.append(token)

    session = user_session(app, box, save)
    age(session, -1)
    failing[:] = [2, 1]
    for _ in range(2):
        with pytest.raises(SavingError):
            session.rget("users/me")
        assert len(saved) == 1 and sent_tokens(box) == []
    session.rget("users/me")
    assert len(saved) == 2
    assert len(token_requests(box)) == 2
    age(session, -1)
    session.rget("users/me")  # The refresh token that was saved is good.


def test_a_short_call_saves_tokens_that_could_not_be_saved(app, box):
    saved, failing = [], []

    def save(token):
        if failing:
            raise SavingError(failing.pop())
        saved.append(token)

    session = user_session(app, box, save)
    age(session, 200)
    failing[:] = [1]
    with pytest.raises(SavingError):
        session.rget("users/me")
    session.rget("users/me", deadline=4)  # Saving takes no request.
    assert saved == ["sandbox+refresh_2", "sandbox+refresh_4"]
    assert len(token_requests(box)) == 2


def test_a_code_whose_tokens_could_not_be_saved_is_not_lost(app, box):
    authorization = app.authorization(HERE)
    there, saved = redirected(authorization), []

    def fail(token):
        raise SavingError

    with pytest.raises(SavingError):
        app.session_from_redirect(authorization, there, fail)
    session = app.session_from_redirect(
        authorization, there, saved.append, url=box.url
    )
    assert saved == ["sandbox+refresh_2"]
    assert len(token_requests(box)) == 1
    session.rget("users/me")


@pytest.mark.parametrize(
    "query, text",
    [
        ("code={code}&state=wrong", "The state"),
        ("code={code}", "The state"),
        ("state={state}&error=access_denied", "access_denied"),
        ("state={state}", "no code"),
        ("code=another&state={state}", "Another code"),
    ],
)
def test_the_redirect_is_checked_although_the_code_was_redeemed(
    app, box, query, text
):
    authorization = app.authorization(HERE)
    there, saved = redirected(authorization), []
    code = parse_qs(urlsplit(there).query)["code"][0]
    wrong = f"{HERE}?{query.format(code=code, state=authorization.state)}"
    app.session_from_redirect(authorization, there, saved.append)
    with pytest.raises(PDClientError, match=text) as caught:
        app.session_from_redirect(authorization, wrong, saved.append)
    assert code not in str(caught.value)
    # The right one gives the same tokens again, without another request.
    app.session_from_redirect(authorization, there, saved.append)
    assert saved == ["sandbox+refresh_2"] * 2
    assert len(token_requests(box)) == 1


@pytest.mark.parametrize(
    "url",
    ["https://[bad?code=C-MARK&state={}", None, b"/?code=C-MARK&state={}", 5],
)
@pytest.mark.parametrize("is_redeemed", [False, True])
def test_a_redirect_that_is_no_url(app, box, url, is_redeemed):
    authorization = app.authorization(HERE)
    if is_redeemed:
        app.session_from_redirect(authorization, redirected(authorization))
    box.clear()
    if isinstance(url, str):
        url = url.format(authorization.state)
    with pytest.raises(PDClientError, match="not a URL") as caught:
        app.session_from_redirect(authorization, url)
    assert_nothing_shows(caught.value)
    assert box.requests == []


def test_on_renew_that_asks_the_api_does_not_wait_for_itself(app, box):
    session = user_session(app, box)
    session._credential._on_renew = lambda token: session.rget("users/me")
    age(session, 200)
    session.rget("users/me")  # With the old token, and then the new one.
    age(session, -1)
    with pytest.raises(PDClientError, match="the very thread"):
        session.rget("users/me")


# ---------------------------------------------------------------------------
# Pickles, copies
# ---------------------------------------------------------------------------


def test_a_pickled_session_of_the_app_gets_tokens_by_itself(app, box):
    session = app.session(url=box.url)
    session.rget("users/me")
    copied = pickle.loads(pickle.dumps(session))
    assert type(copied) is OAuthSession
    copied.rget("users/me")
    assert len(token_requests(box)) == 1
    age(copied, -1)
    copied.rget("users/me")
    assert len(token_requests(box)) == 2
    assert form(token_requests(box)[1])["client_secret"] == SECRET


@pytest.mark.parametrize(
    "duplicate",
    [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy],
    ids=["pickle", "deepcopy"],
)
def test_a_pickled_session_of_a_user_has_no_refresh_token(app, box, duplicate):
    saved = []
    session = user_session(app, box, saved.append)
    session.rget("users/me")
    assert saved[0].encode() not in pickle.dumps(session)
    copied = duplicate(session)
    age(copied, 200)
    copied.rget("users/me")  # Without a warning: there is nothing to do.
    age(copied, -1)
    with pytest.raises(PDClientError, match="authorise again"):
        copied.rget("users/me")
    age(session, -1)
    session.rget("users/me")
    assert len(saved) == 2


def test_a_session_that_is_given_a_key_is_one_like_others(app, box):
    session = app.session(url=box.url)
    session.api_key = "another-key"
    session.rget("users/me")
    assert token_requests(box) == []


# ---------------------------------------------------------------------------
# Secrets
# ---------------------------------------------------------------------------

MARKED = "token-MARK-tail"


def marked_grant(**more):
    return grant(MARKED, refresh_token="refresh-MARK-tail", **more)


def frames_of(error):
    """The frames of an error, and of those that led to it."""
    pending, seen = [error], []
    while pending:
        link = pending.pop()
        if link is None or link in seen:
            continue
        seen.append(link)
        pending += [link.__cause__, link.__context__]
        trace = link.__traceback__
        while trace is not None:
            yield link, trace.tb_frame
            trace = trace.tb_next


def assert_nothing_shows(error):
    count = 0
    for link, frame in frames_of(error):
        for shown in (str(link), repr(link.args), repr(vars(link))):
            assert "MARK" not in shown
        assert not hasattr(link, "doc")
        if frame.f_code.co_filename != __file__:
            count += 1
            for name, value in frame.f_locals.items():
                place = f"{frame.f_code.co_name}: {name}"
                assert "MARK" not in repr(value), place
    assert count


def fail_by_scope(identity, app, box):
    identity.reply(json=marked_grant(scope="openid"))


def fail_by_status(identity, app, box):
    error = {"error": "invalid_grant", "error_description": SECRET}
    identity.reply(400, json=error, times=9)


def fail_by_body(identity, app, box):
    identity.reply(body=b'{"access_token": "MARK"')


def fail_by_network(identity, app, box):
    identity.fault("reset", times=99)


def fail_by_port(identity, app, box):
    identity.stop()


def fail_by_saving(identity, app, box):
    identity.reply(json=marked_grant())


@pytest.mark.parametrize("kind", ["app", "redirect", "refresh"])
@pytest.mark.parametrize(
    "fail",
    [
        *(fail_by_scope, fail_by_status, fail_by_body, fail_by_network),
        *(fail_by_port, fail_by_saving),
    ],
)
def test_no_error_shows_a_secret(identity, box, naps, caplog, fail, kind):
    """Neither text nor attributes, nor local variables of any frame."""
    caplog.set_level(logging.DEBUG)
    app = make_app(identity.url)
    fail(identity, app, box)

    def save(token):
        raise SavingError

    authorization = app.authorization(HERE)
    url = f"{HERE}?code=code-MARK-tail&state={authorization.state}"
    if fail is fail_by_saving and kind == "app":
        box.fail(401, times=9, path="/users/me")
    with pytest.raises((PDClientError, SavingError)) as caught:
        if kind == "app":
            app.session(url=box.url).rget("users/me")
        elif kind == "refresh":
            app.session_from_refresh_token(
                "R-MARK-tail", save, url=box.url
            ).rget("users/me")
        else:
            app.session_from_redirect(authorization, url, save, url=box.url)
    assert_nothing_shows(caught.value)
    assert "MARK" not in caplog.text


def test_a_secret_is_hidden_as_the_form_spelled_it(identity, box):
    secret = "a-made-up+secret/of=here"
    app = pdpyras_oauth.OAuthApp(
        "cid",
        secret,
        scopes=("users.read",),
        subdomain="acme",
        url=identity.url,
    )

    def echo(request):
        error = {"error": "invalid", "error_description": str(request.body)}
        return wire.Answer(400, json=error)

    identity.handler = echo
    with pytest.raises(PDClientError, match="client_secret=") as caught:
        app.session(url=box.url).rget("users/me")
    assert "made-up" not in str(caught.value)


@pytest.fixture
def interruptible():
    """Ctrl-C counts, though a shell lets its background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_of_a_token_request_shows_no_secret(identity, box):
    session = make_app(identity.url).session(url=box.url)

    def interrupt(request):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.5)
        return wire.Answer(json=grant())

    identity.handler = interrupt
    with pytest.raises(KeyboardInterrupt) as caught:
        session.rget("users/me")
    assert_nothing_shows(caught.value)


def test_no_repr_shows_a_secret(identity, box, tmp_path):
    app = make_app(identity.url, cache=TokenCache(tmp_path / "cache"))
    identity.handler = lambda request: wire.Answer(json=marked_grant())
    authorization = app.authorization(HERE)
    session = app.session_from_redirect(
        authorization,
        f"{HERE}?code=code-MARK-tail&state={authorization.state}",
        url=box.url,
        user="me",
    )
    for thing in (app, session, authorization, session._credential, app.cache):
        assert "MARK" not in repr(thing)
        assert "MARK" not in repr(vars(thing))
    assert authorization.code_verifier not in repr(vars(authorization))
    assert repr(app) == f"<OAuthApp client-1 at {identity.url}>"


# ---------------------------------------------------------------------------
# Signals, forks, greenlets
# ---------------------------------------------------------------------------

needs_signals = pytest.mark.skipif(
    not hasattr(signal, "SIGUSR1"), reason="there is no SIGUSR1"
)


@pytest.fixture
def on_signal():
    """Set a handler of SIGUSR1."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda call: signal.signal(signal.SIGUSR1, lambda *args: call())
    signal.signal(signal.SIGUSR1, before)


def signalling(identity, first):
    """Let the first token request of a kind be answered after a signal."""

    def answer(request):
        if request is identity.requests[0]:
            os.kill(os.getpid(), signal.SIGUSR1)
            first.wait(30)
        return wire.Answer(json=grant(f"A{identity.requests.index(request)}"))

    return answer


@needs_signals
def test_a_signal_handler_within_a_renewal_of_the_app(
    identity, box, on_signal
):
    session = make_app(identity.url).session(url=box.url)
    handled = threading.Event()

    def handle():
        session.rget("users/me")
        handled.set()

    on_signal(handle)
    identity.handler = signalling(identity, handled)
    session.rget("users/me", deadline=60)
    assert handled.is_set()
    assert sent_tokens(box) == ["A1", "A0"]


@needs_signals
@pytest.mark.parametrize("left", [None, 200], ids=["none", "due"])
def test_a_signal_handler_within_a_renewal_of_a_user(
    identity, box, on_signal, left
):
    session = make_app(identity.url).session_from_refresh_token(
        "R1", url=box.url
    )
    if left:
        session.rget("users/me")
        identity.requests.clear()
        age(session, left)
    handled, results = threading.Event(), []

    def handle():
        try:
            results.append(session.rget("users/me"))
        except PDClientError as error:
            results.append(error)
        handled.set()

    on_signal(handle)
    identity.handler = signalling(identity, handled)
    session.rget("users/me", deadline=60)
    assert len(identity.requests) == 1
    if left:
        assert sent_tokens(box) == ["access-1", "access-1", "A0"]
    else:
        assert "the very thread" in str(results[0])


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_renewal_blocks_no_later_one(identity, box):
    session = make_app(identity.url).session(url=box.url)

    def interrupt(request):
        identity.handler = lambda request: wire.Answer(json=grant())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.5)
        return wire.Answer(json=grant())

    identity.handler = interrupt
    with pytest.raises(KeyboardInterrupt):
        session.rget("users/me")
    session.rget("users/me", deadline=30)


@needs_fork
@may_fork
def test_a_process_forked_within_a_renewal_makes_its_own(identity, box):
    session = make_app(identity.url).session(url=box.url)

    def renew(pause):
        pause_first(identity, pause)
        session.rget("users/me")

    with paused_thread(renew):
        child = os.fork()
        if not child:
            status = 1
            try:
                session.rget("users/me", deadline=20)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
    assert len(identity.requests) == 2


GREENLETS = """
import pdpyras, pdpyras_oauth, sys
from gevent import monkey
monkey.patch_all()
import gevent
app = pdpyras_oauth.OAuthApp(
    "client-1", "secret", subdomain="acme", url=sys.argv[1]
)
session = app.session(url=sys.argv[1])
jobs = [gevent.spawn(session.rget, "users/me") for _ in range(16)]
gevent.joinall(jobs, raise_error=True)
print(len({job.value["id"] for job in jobs}))
"""


def test_greenlets_that_came_after_the_import_make_one_token_request(box):
    pytest.importorskip("gevent")
    box.latency = 0.05
    assert run_python(GREENLETS, box.url) == "1\n"
    assert len(token_requests(box)) == 1
    assert len(sent_tokens(box)) == 16


def run_python(code, *arguments):
    done = start_python(code, *arguments)
    output, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors.decode()
    return output.decode()


def start_python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=dict(os.environ, PYTHONPATH=ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# ---------------------------------------------------------------------------
# The cache
# ---------------------------------------------------------------------------

needs_modes = pytest.mark.skipif(os.name == "nt", reason="modes are of Unix")


@pytest.fixture
def cache(tmp_path):
    return TokenCache(tmp_path / "deep" / "cache.json")


def test_another_process_finds_the_token_in_the_cache(box, cache):
    for _ in range(2):
        app = make_app(box.url, cache=TokenCache(cache.path))
        app.session(url=box.url).rget("users/me")
    assert len(token_requests(box)) == 1
    with open(cache.path) as file:
        text = file.read()
    assert "MARK" not in text
    assert "sandbox+access_1" in text


@needs_modes
def test_the_cache_is_readable_by_its_owner_only(box, cache):
    umask = os.umask(0)
    try:
        app = make_app(box.url, cache=cache)
        app.session(url=box.url).rget("users/me")
    finally:
        os.umask(umask)
    folder = os.path.dirname(cache.path)
    assert sorted(os.listdir(folder)) == ["cache.json", "cache.json.lock"]
    for name in os.listdir(folder):
        mode = os.stat(os.path.join(folder, name)).st_mode
        assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


@needs_modes
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620])
def test_a_cache_that_others_can_read_is_refused(box, cache, mode):
    cache.store("key", {"refresh": "R"})
    os.chmod(cache.path, mode)
    with pytest.raises(PDClientError, match="chmod 600"):
        cache.load("key")
    app = make_app(box.url, cache=cache)
    with pytest.raises(PDClientError, match="chmod 600"):
        app.session(url=box.url).rget("users/me")
    assert box.requests == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"tokens": 5}', '{"tokens": {"a": "MARK"}}']
)
def test_a_file_that_is_no_token_cache_is_an_error(box, tmp_path, text):
    file = tmp_path / "cache"
    file.write_text(text)
    file.chmod(0o600)
    app = make_app(box.url, cache=TokenCache(file))
    with pytest.raises(PDClientError, match="is not a token cache") as caught:
        app.session(url=box.url).rget("users/me")
    assert_nothing_shows(caught.value)
    assert file.read_text() == text


def test_an_entry_of_another_version_is_passed_over(box, cache):
    app = make_app(box.url, cache=cache)
    cache.store(app.cache_key(), {"refresh": "R", "future": 1})
    app.session(url=box.url).rget("users/me")
    assert len(token_requests(box)) == 1


BAD_FIELDS = [
    *({"access": 5}, {"access": ["MARK"]}, {"access": None}, {"access": ""}),
    *({"access": "MARK MARK\n"}, {"access": "MARK-\xfc"}),
    *({"refresh": None}, {"refresh": {"a": "MARK"}}, {"scope": ["MARK"]}),
    *({"life": "x"}, {"life": None}, {"life": -1}, {"life": 10**400}),
    *({"life": float("nan")}, {"expires_at": "y"}, {"expires_at": None}),
    *({"expires_at": float("inf")}, {"expires_at": 10**400}),
]


@pytest.mark.parametrize("fields", BAD_FIELDS, ids=lambda f: next(iter(f)))
@pytest.mark.parametrize("user", [None, "jane"])
def test_a_damaged_entry_is_an_error_that_names_the_cache(
    box, cache, fields, user
):
    entry = {"access": "A", "refresh": "R", "scope": None}
    entry.update({"life": 86400, "expires_at": time.time() + 86400, **fields})
    app = make_app(box.url, cache=cache)
    cache.store(app.cache_key(user), entry)
    with pytest.raises(PDClientError, match="are damaged") as caught:
        if user is None:
            app.session(url=box.url).rget("users/me")
        else:
            app.session_from_cache(user)
    assert cache.path in str(caught.value)
    assert_nothing_shows(caught.value)
    assert box.requests == []


def test_a_damaged_entry_is_replaced_when_the_user_signs_in(box, cache):
    app = make_app(box.url, cache=cache)
    fields = dict.fromkeys(pdpyras_tokens.Tokens._fields, "R")
    cache.store(app.cache_key("jane"), fields)
    authorization = app.authorization(HERE)
    app.session_from_redirect(
        authorization, redirected(authorization), user="jane"
    )
    app.session_from_cache("jane", url=box.url).rget("users/me")


@pytest.mark.parametrize(
    "other",
    [
        {"scopes": ("incidents.read",)},
        {"region": "eu"},
        {"subdomain": "other"},
        {"client_id": "client-2"},
        {"url": "http://127.0.0.1:1"},
    ],
)
def test_the_cache_tells_apps_accounts_and_scopes_apart(other):
    common = {"client_id": "client-1", "scopes": SCOPES, "subdomain": "acme"}
    first = OAuthApp(client_secret=SECRET, **common)
    second = OAuthApp(client_secret="another", **{**common, **other})
    assert first.cache_key() != second.cache_key()
    assert first.cache_key() != first.cache_key("me")
    common["scopes"] = reversed(SCOPES)
    same = OAuthApp(client_secret="another", **common)
    assert same.cache_key() == first.cache_key()
    assert "MARK" not in first.cache_key()


def test_what_the_cache_holds_in_vain_is_dropped(cache):
    cache.store("ended", {"expires_at": 5})
    cache.store("renewable", {"expires_at": 5, "refresh": "R"})
    cache.store("alive", {"expires_at": time.time() + 60})
    assert cache.load("ended") is None
    assert cache.load("renewable") == {"expires_at": 5, "refresh": "R"}
    assert cache.load("alive")
    cache.store("alive", None)
    assert cache.load("alive") is None


def test_a_cache_that_cannot_be_written_costs_no_token(
    box, cache, monkeypatch
):
    """As on a full disk: the file is there, and cannot be replaced."""

    def fail(*names):
        raise OSError(28, "No space left on device")

    app = make_app(box.url, cache=cache)
    session = app.session(url=box.url)
    cache.store("other", {"refresh": "O-MARK-tail"})
    monkeypatch.setattr(os, "replace", fail)
    with pytest.warns(PDWarning, match="in memory only.*No space") as caught:
        session.rget("users/me")
    assert len(caught) == 1
    names = sorted(os.listdir(os.path.dirname(cache.path)))
    assert names == ["cache.json", "cache.json.lock"]
    session.rget("users/me")
    with pytest.raises(PDClientError, match="No space") as error:
        cache.store("key", {"refresh": "R-MARK-tail"})
    assert_nothing_shows(error.value)


def make_read_only(cache):
    """As on a read-only disk, and for root, too: there can be no lock."""
    os.remove(cache.path + ".lock")
    os.mkdir(cache.path + ".lock")


def test_a_token_in_a_cache_that_cannot_be_locked_is_used(box, cache):
    make_app(box.url, cache=cache).session(url=box.url).rget("users/me")
    make_read_only(cache)
    app = make_app(box.url, cache=TokenCache(cache.path))
    app.session(url=box.url).rget("users/me")
    assert len(token_requests(box)) == 1


@pytest.mark.parametrize("is_there", [True, False])
def test_a_cache_that_cannot_be_locked_costs_no_token(
    box, cache, tmp_path, is_there
):
    if is_there:
        cache.store("other", {"refresh": "R"})
        make_read_only(cache)
    else:
        (tmp_path / "deep").write_text("no folder")
    session = make_app(box.url, cache=cache).session(url=box.url)
    with pytest.warns(PDWarning, match="in memory only") as caught:
        session.rget("users/me")
    session.rget("users/me")
    assert len(caught) == 1
    assert sent_tokens(box) == ["sandbox+access_1"] * 2


def test_a_user_token_is_not_renewed_without_the_lock(box, cache):
    """Another process may have used the refresh token meanwhile."""
    app, session = cached_session(box, cache)
    let_cached_end(app, cache, -1)
    box.clear()
    make_read_only(cache)
    session = app.session_from_cache("jane", url=box.url)
    with pytest.raises(PDClientError, match="cannot be used"):
        session.rget("users/me")
    assert token_requests(box) == []


SHARING = """
import sys
from pdpyras_oauth import OAuthApp, TokenCache
url, path = sys.argv[1:]
app = OAuthApp(
    "client-1", "secret", subdomain="acme", url=url, cache=TokenCache(path)
)
print(app.session(url=url).rget("users/me")["id"])
"""


@pytest.mark.oldest
def test_processes_that_share_a_cache_make_one_token_request(box, cache):
    box.latency = 0.2
    running = [start_python(SHARING, box.url, cache.path) for _ in range(4)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    assert len(token_requests(box)) == 1
    assert set(sent_tokens(box)) == {"sandbox+access_1"}


def test_the_lock_of_the_cache_is_waited_for_in_vain(cache):
    def hold(pause):
        with cache.locked():
            pause()

    with paused_thread(hold):
        for other in (cache, TokenCache(cache.path)):
            with pytest.raises(PDClientError, match=r"locked by .* 0\.1 s"):
                with other.locked(0.1):
                    pass
    with cache.locked(), cache.locked(0):  # By the same thread: at once.
        cache.store("key", {"refresh": "R"})
    assert cache.load("key") == {"refresh": "R"}


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_cache_with_two_names_has_one_lock(tmp_path):
    """Even before there is a file, or its folder."""
    real, link = tmp_path / "real" / "cache", tmp_path / "link"
    link.symlink_to(real)
    caches = [TokenCache(link), TokenCache(real)]
    for first, second in (caches, caches[::-1]):
        with first.locked():
            with pytest.raises(PDClientError, match="has been locked"):
                with second.locked(0):
                    pass
        first.store("key", {"refresh": "R"})
        assert second.load("key") == {"refresh": "R"}
    assert link.is_symlink()
    names = sorted(os.listdir(str(real.parent)))
    assert names == ["cache", "cache.lock"]


def test_a_401_renews_a_token_that_came_from_the_cache(box, cache):
    for _ in range(2):
        app = make_app(box.url, cache=TokenCache(cache.path))
        app.session(url=box.url).rget("users/me")
        box.revoke_tokens()
    assert len(token_requests(box)) == 2


def test_sessions_of_a_user_that_share_a_cache_share_its_tokens(box, cache):
    app = make_app(box.url, cache=cache)
    authorization = app.authorization(HERE)
    there, saved = redirected(authorization), []
    first = app.session_from_redirect(
        authorization, there, saved.append, "jane", url=box.url
    )
    other = make_app(box.url, cache=TokenCache(cache.path))
    second = other.session_from_cache("jane", saved.append, url=box.url)
    third = pickle.loads(pickle.dumps(second))
    for session in (first, second, third):
        session.rget("users/me")
    assert len(token_requests(box)) == 1
    # Each finds what another one has got, and renews with the newest.
    box.revoke_tokens()
    for session in (first, second, third, second, first):
        session.rget("users/me")
    assert len(token_requests(box)) == 2
    third = pickle.loads(pickle.dumps(second))
    box.revoke_tokens()
    for session in (third, first, second):
        session.rget("users/me")
    assert len(token_requests(box)) == 3
    assert len(saved) == 2
    with pytest.raises(PDClientError, match="nothing of 'john'"):
        other.session_from_cache("john")
    with pytest.raises(ValueError, match="no cache"):
        make_app(box.url).session_from_cache("jane")


def test_tokens_in_the_cache_are_given_to_on_renew_all_the_same(box, cache):
    app = make_app(box.url, cache=cache)
    authorization, saved = app.authorization(HERE), []

    def save(token):
        if len(token_requests(box)) == 2 and not failed:
            failed.append(token)
            raise SavingError
        saved.append(token)

    failed = []
    session = app.session_from_redirect(
        authorization, redirected(authorization), save, "jane", url=box.url
    )
    box.revoke_tokens()
    with pytest.raises(SavingError):
        session.rget("users/me")
    assert len(saved) == 1
    session.rget("users/me")
    assert saved[1:] == failed
    assert len(token_requests(box)) == 2


def test_user_tokens_that_cannot_be_stored_are_kept(box, cache, monkeypatch):
    app = make_app(box.url, cache=cache)
    authorization = app.authorization(HERE)
    session = app.session_from_redirect(
        authorization, redirected(authorization), user="jane", url=box.url
    )
    box.revoke_tokens()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *names: os.stat("/no/such/file"))
        with pytest.raises(PDClientError, match="cannot be used"):
            session.rget("users/me")
    session.rget("users/me")
    assert len(token_requests(box)) == 2
    assert app.cache.load(app.cache_key("jane"))["refresh"] == (
        "sandbox+refresh_4"
    )


def test_user_tokens_in_the_cache_with_fewer_scopes_are_not_used(box, cache):
    app, first = cached_session(box, cache)
    box.grant(scopes=["users.read"])
    box.revoke_tokens()
    with pytest.raises(PDClientError, match=r"incidents\.read"):
        first.rget("users/me")
    box.clear()
    kept = pickle.loads(pickle.dumps(first))
    sessions = [
        app.session_from_cache("jane", url=box.url),
        app.session_from_refresh_token("R", user="jane", url=box.url),
        kept,
        first,
    ]
    for session in sessions:
        with pytest.raises(PDClientError, match=r"incidents\.read"):
            session.rget("users/me")
    assert sent_tokens(box) == []
    # The first one has asked before.
    assert len(token_requests(box)) == len(sessions) - 1
    box.grant()
    # One of them asks again, and the others find what it has got at once.
    sessions[0]._credential._shortage = None
    for session in sessions:
        session.rget("users/me")
    assert len(token_requests(box)) == len(sessions)
    assert len(set(sent_tokens(box))) == 1


@pytest.fixture
def full_disk(monkeypatch):
    """A context in which no file can be replaced."""

    def fail(*names):
        raise OSError(28, "No space left on device")

    @contextlib.contextmanager
    def full():
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            yield

    return full


def cached_session(box, cache, *on_renew):
    """A session of jane, whose tokens the cache holds, and her app."""
    app = make_app(box.url, cache=cache)
    authorization = app.authorization(HERE)
    return app, app.session_from_redirect(
        authorization,
        redirected(authorization),
        *on_renew,
        user="jane",
        url=box.url,
    )


@pytest.mark.parametrize("left", [200, -1], ids=["due", "ended"])
def test_on_renew_is_called_although_the_cache_is_not_written(
    box, cache, full_disk, left
):
    saved = []
    app, session = cached_session(box, cache, saved.append)
    let_cached_end(app, cache, left)
    age(session, left)
    with full_disk():
        with pytest.warns(PDWarning, match="given to on_renew.*No space"):
            session.rget("users/me")
        assert saved == ["sandbox+refresh_2", "sandbox+refresh_4"]
        session.rget("users/me")  # Without another try, or warning.
        # The cache's refresh token is void: the newest one is sent.
        box.revoke_tokens()
        with pytest.warns(PDWarning, match="given to on_renew"):
            session.rget("users/me")
    assert saved[2:] == ["sandbox+refresh_6"]
    assert len(token_requests(box)) == 3
    assert cache.load(app.cache_key("jane"))["refresh"] == saved[0]
    session._credential._next_try = 0
    session.rget("users/me")  # This stores it, without another renewal.
    assert cache.load(app.cache_key("jane"))["refresh"] == saved[2]
    assert len(token_requests(box)) == 3 and len(saved) == 3


def test_a_cache_with_newer_tokens_is_not_written_over(box, cache, full_disk):
    app, session = cached_session(box, cache, lambda token: None)
    box.revoke_tokens()
    with full_disk(), pytest.warns(PDWarning, match="given to on_renew"):
        session.rget("users/me")
    cached_session(box, cache)
    let_cached_end(app, cache, 10000)  # Before those that are unstored.
    newest = cache.load(app.cache_key("jane"))
    session._credential._next_try = 0
    session.rget("users/me")
    assert cache.load(app.cache_key("jane")) == newest
    assert sent_tokens(box)[-1] == newest["access"]


def test_tokens_that_end_before_those_of_the_cache_are_stored(
    box, cache, full_disk
):
    saved = []
    app, session = cached_session(box, cache, saved.append)
    let_cached_end(app, cache, 10 * 86400)
    box.revoke_tokens()
    with full_disk(), pytest.warns(PDWarning, match="given to on_renew"):
        session.rget("users/me")
    session._credential._next_try = 0
    session.rget("users/me")
    assert cache.load(app.cache_key("jane"))["refresh"] == saved[-1]
    assert len(token_requests(box)) == len(saved) == 2


def test_a_user_token_that_lives_is_used_while_no_other_can_be_saved(
    box, cache, full_disk
):
    app, session = cached_session(box, cache)
    let_cached_end(app, cache, 200)
    age(session, 200)
    with full_disk(), pytest.warns(PDWarning, match="No space") as caught:
        session.rget("users/me")
        session.rget("users/me")
    assert len(caught) == 1
    assert set(sent_tokens(box)) == {"sandbox+access_3"}
    session._credential._next_try = 0
    session.rget("users/me")
    assert sent_tokens(box)[-1] == "sandbox+access_5"
    assert len(token_requests(box)) == 2
    stored = cache.load(app.cache_key("jane"))
    assert stored["refresh"] == "sandbox+refresh_4"


def refreshing_with(tokens):
    """A handler that takes a refresh token once, and then the one after it."""
    good = list(tokens)

    def answer(request):
        token = form(request)["refresh_token"]
        if token not in good:
            return wire.Answer(400, json={"error": "invalid_grant"})
        good.remove(token)
        good.append(f"{token}-next")
        return wire.Answer(
            json=grant(f"{token}-access", refresh_token=f"{token}-next")
        )

    return answer


@pytest.mark.parametrize(
    "good, sent",
    [
        (["given"], ["cached", "given", "given-next"]),  # Anew authorised.
        (["cached"], ["cached", "cached-next"]),  # Started as ever.
        (["given", "cached"], ["cached", "cached-next"]),
    ],
)
@pytest.mark.parametrize("left", [200, -1], ids=["due", "ended"])
def test_the_given_refresh_token_is_for_when_the_cached_one_is_void(
    identity, box, cache, good, sent, left
):
    app, saved = make_app(identity.url, cache=cache), []
    ends = time.time() + left
    tokens = pdpyras_tokens.Tokens("access", "cached", None, 86400, ends)
    cache.store(app.cache_key("jane"), tokens._asdict())
    identity.handler = refreshing_with(good)
    session = app.session_from_refresh_token(
        "given", saved.append, "jane", url=box.url
    )
    session.rget("users/me")
    stored = cache.load(app.cache_key("jane"))
    assert saved == [stored["refresh"]] == [f"{good[-1]}-next"]
    let_cached_end(app, cache, -1)
    age(session, -1)
    session.rget("users/me")
    assert [form(r)["refresh_token"] for r in identity.requests] == sent
    # In vain when both are void.
    identity.handler = refreshing_with([])
    let_cached_end(app, cache, -1)
    age(session, -1)
    with pytest.raises(PDClientError, match="authorise again"):
        session.rget("users/me")


def test_the_given_refresh_token_is_for_when_the_cache_holds_none(
    identity, box, cache
):
    app = make_app(identity.url, cache=cache)
    ends = time.time() + 60
    tokens = pdpyras_tokens.Tokens("access", "", None, 86400, ends)
    cache.store(app.cache_key("jane"), tokens._asdict())
    identity.handler = refreshing_with(["given"])
    session = app.session_from_refresh_token(
        "given", None, "jane", url=box.url
    )
    session.rget("users/me")
    assert sent_tokens(box) == ["given-access"]
    assert cache.load(app.cache_key("jane"))["refresh"] == "given-next"


# ---------------------------------------------------------------------------
# The sandbox as an authorization server
# ---------------------------------------------------------------------------


def test_a_code_of_the_sandbox_is_good_once_and_for_30_seconds():
    now = [0.0]
    with Sandbox(clock=lambda: now[0]) as box:
        app = make_app(box.url)
        authorization = app.authorization(HERE)
        there = redirected(authorization)
        now[0] = 29.9
        app.session_from_redirect(authorization, there)
        again = Authorization(
            authorization.url, authorization.state, authorization.code_verifier
        )
        with pytest.raises(PDClientError, match="invalid_grant"):
            app.session_from_redirect(again, there)
        there = redirected(again)
        now[0] += 30
        with pytest.raises(PDClientError, match="invalid_grant"):
            app.session_from_redirect(again, there)


def test_the_sandbox_checks_the_code_verifier_and_the_redirect_uri(app, box):
    began = app.authorization(HERE)
    for wrong in (
        Authorization(began.url, began.state, "x" * 43),
        Authorization(
            began.url.replace("back", "other"),
            began.state,
            began.code_verifier,
        ),
    ):
        with pytest.raises(PDClientError, match="invalid_grant"):
            app.session_from_redirect(wrong, redirected(began))


def test_a_refresh_token_of_the_sandbox_is_good_once(app, box):
    saved = []
    user_session(app, box, saved.append)
    for expected in (None, "invalid_grant"):
        session = app.session_from_refresh_token(saved[0], url=box.url)
        if expected is None:
            session.rget("users/me")
        else:
            with pytest.raises(PDClientError, match=expected):
                session.rget("users/me")


def test_an_access_token_of_the_sandbox_ends():
    now = [0.0]
    with Sandbox(users=1, clock=lambda: now[0]) as box:
        box.grant(life=100)
        app = make_app(box.url)
        session = pdpyras.APISession(
            app.session(url=box.url).api_key, auth_type="bearer", url=box.url
        )
        now[0] = 99
        session.rget("users/me")
        now[0] = 100
        with pytest.raises(PDHTTPError) as caught:
            session.rget("users/me")
        assert caught.value.status_code == 401


@pytest.mark.parametrize(
    "fields, status, error",
    [
        ({}, 401, "invalid_client"),
        ({"client_id": "a"}, 401, "invalid_client"),
        (
            {"client_id": "a", "client_secret": "b", "grant_type": "magic"},
            400,
            "unsupported_grant_type",
        ),
        (
            {
                "client_id": "a",
                "client_secret": "b",
                "grant_type": "client_credentials",
                "scope": "users.read",
            },
            400,
            "invalid_request",
        ),
    ],
)
def test_what_the_sandbox_refuses_a_token_for(box, fields, status, error):
    answer = requests.post(f"{box.url}/oauth/token", data=fields)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert requests.get(f"{box.url}/oauth/token").status_code == 405
    url = f"{box.url}/oauth/authorize?client_id=a&response_type=code"
    assert requests.get(url).status_code == 400
