"""Errors that help: what happened, why, and what can be done about it.

The parts of an error, one by one, are in ``test_pdpyras.py``. Here is what
a user reads on the screen after a call, over the wire.
"""

import pickle
from unittest import mock

import pytest

import pdpyras
from tests import wire
from tests.support import KEY

REASONS = [f"Reason number {n} of the refusal" for n in range(12)]


def error_of(call, *args, **kwargs):
    with pytest.raises((pdpyras.PDClientError, pdpyras.URLError)) as caught:
        call(*args, **kwargs)
    return caught.value


# ---------------------------------------------------------------------------
# What the API said
# ---------------------------------------------------------------------------


def test_all_that_the_api_said_is_there(session, server):
    server.reply(
        400,
        json={
            "error": {
                "message": "Invalid Input Provided",
                "code": 2001,
                "errors": REASONS,
            }
        },
        headers={"x-request-id": "8e9eb6ff"},
    )
    error = error_of(session.rput, "users/P1", json={"name": ""})
    assert error.errors == REASONS
    assert (error.status_code, error.code) == (400, 2001)
    assert error.request_id == "8e9eb6ff"
    assert str(error) == (
        f"PUT /users/P1: 400 Bad Request: {'; '.join(REASONS)} "
        "(code 2001, x-request-id 8e9eb6ff)"
    )
    assert error.msg.startswith(
        f"PUT {server.url}/users/P1: API responded with client error "
        '(status 400): {"error": '
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda session: session.rget("users/P1"),
        lambda session: session.jpost("users", json={}),
        lambda session: session.rdelete("users/P1"),
        lambda session: session.list_all("users"),
        lambda session: session.find("users", "J"),
        lambda session: session.persist("users", "name", {"name": "J"}),
        lambda session: session.subdomain,
        lambda session: session.api_key_access,
    ],
)
def test_no_way_of_asking_hides_it(call, session, server):
    server.handler = lambda request: wire.Answer(
        403,
        json={"error": {"message": "No.", "code": 2010, "errors": REASONS}},
        headers={"x-request-id": "8e9eb6ff"},
    )
    error = error_of(call, session)
    for text in (*REASONS, "2010", "8e9eb6ff", "403"):
        assert text in str(error)


def test_the_events_api_is_quoted_as_well(events, changes, server):
    server.handler = lambda request: wire.Answer(
        400, json={"status": "invalid event", "errors": REASONS}
    )
    for call in (
        lambda: events.trigger("Disk is full", "db1"),
        lambda: events.resolve("key"),
        lambda: changes.submit("Build 7 is out"),
    ):
        error = error_of(call)
        assert error.errors == REASONS
        assert REASONS[-1] in str(error)
        assert KEY not in str(error)


# ---------------------------------------------------------------------------
# What can be done about it
# ---------------------------------------------------------------------------


def test_a_401_reminds_of_the_service_region(session, server):
    server.reply(401, json={"error": {"message": "Unauthorized"}})
    error = error_of(session.rget, "users/P1")
    for text in ("service region", "`url`", server.url, "*-key", "401"):
        assert text in str(error)
    assert KEY not in str(error)


@pytest.mark.parametrize(
    "call",
    [
        lambda session: session.rpost("incidents", json={"title": "T"}),
        lambda session: session.rput("incidents/P1", json={"title": "T"}),
        lambda session: session.rput("incidents", json=[{"id": "P1"}]),
        lambda session: session.rpost("incidents/P1/notes", json={}),
    ],
)
def test_a_400_for_a_missing_from_names_default_from(call, session, server):
    server.handler = lambda request: wire.Answer(
        400, json={"error": {"message": "Invalid", "errors": ["Requester"]}}
    )
    error = error_of(call, session)
    assert "default_from" in str(error) and "From" in str(error)
    session.default_from = "jane@example.com"
    assert "default_from" not in str(error_of(call, session))


@pytest.mark.parametrize("status", [403, 404, 500])
def test_other_refusals_have_nothing_to_do_with_from(status, session, server):
    server.reply(status)
    error = error_of(session.rpost, "incidents", json={})
    assert "default_from" not in str(error)


def test_what_needs_no_from_is_not_reminded_of_it(session, server):
    server.reply(400)
    error = error_of(session.rpost, "teams", json={"name": "T"})
    assert "default_from" not in str(error)


@pytest.mark.parametrize(
    "timeout, text",
    [(0.125, "0.125 s"), ((9, 0.125), "0.125 s")],
)
def test_a_timeout_names_the_seconds(timeout, text, session, server, naps):
    session.timeout = timeout
    session.max_network_attempts = 1
    server.fault("stall", "status", times=2)
    error = error_of(session.get, "users")
    assert f"No answer within {text}" in str(error)
    assert "2 attempts" in str(error) and "max_network_attempts" in str(error)
    session.timeout = 60
    server.fault("stall", "status", times=2)
    error = error_of(session.get, "users", timeout=timeout)
    assert f"No answer within {text}" in str(error)


def test_a_timeout_while_connecting_names_its_seconds(trust, session, naps):
    with wire.Server(tls=trust) as server:
        session.url = server.url
        session.verify = trust.ca_file
        session.timeout = (0.125, 9)
        session.max_network_attempts = 0
        server.fault("stall", "tls")
        error = error_of(session.get, "users")
        assert "0.125 s" in str(error)


def test_a_refused_connection_says_so(session, server, naps):
    server.refuse()
    error = error_of(session.get, "users")
    assert "refused" in str(error)
    assert "4 attempts" in str(error)


def test_an_unknown_path_says_how_to_add_it(session, server):
    error = error_of(session.list_all, "brand_new_things")
    assert isinstance(error, pdpyras.URLError)
    assert "CANONICAL_PATHS" in str(error)
    assert server.requests == []


# ---------------------------------------------------------------------------
# How it reads
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        wire.Answer(502, body=b"<html>\r\n<body>\n\n\tBad Gateway\n</html>\n"),
        wire.Answer(400, json={"error": {"message": "a\nb", "code": 1}}),
        wire.Answer(400, json={"error": {"errors": ["a\r\nb", "c\td"]}}),
        wire.Answer(400, json={"errors": "a\u2028b\u2029c\x85d\x0be\x0cf"}),
        wire.Answer(200, body=b"no\n\njson\nat all\n"),
        wire.Answer(401, body=b"\n\n"),
        wire.Answer(500, headers={"x-request-id": "a"}),
        wire.Answer(200, json={"other\nthing": 1}),
        wire.Answer(404),
        # No PDHTTPError comes of these.
        wire.Answer(raw=b"\x1b[2J\x07 no status\r\n\r\n"),
        wire.Answer(
            raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"\x1b[2J\x9b\r\n"
        ),
        wire.Answer(302, headers={"Location": "http://a.invalid/\x1b[2J"}),
        wire.Answer(302, headers={"Location": "http://[\x1b[2J\x85"}),
    ],
    ids=lambda answer: f"{answer.status} {answer.content()[:12]!r}",
)
def test_an_error_is_one_paragraph(answer, session, server):
    session.max_network_attempts = 0
    server.handler = lambda request: answer
    is_http = answer.raw is None and answer.status != 302
    seen = []
    for call in (session.rget, session.jget):
        try:
            call("users/P1")
        except pdpyras.PDClientError as error:
            seen.append(error)
    assert seen
    for error in seen:
        text = str(error)
        assert isinstance(error, pdpyras.PDHTTPError) == is_http
        for shown in (text, error.msg, *error.args):
            assert len(shown.splitlines()) == 1
            assert all(character.isprintable() for character in shown)
        begins = (f"GET {server.url}/users/P1: ", "GET /users/P1: 400 Bad Req")
        assert text.startswith(begins)
        assert str(pickle.loads(pickle.dumps(error))) == text


@pytest.mark.parametrize("kind", ["reset", "close", "garbage", "stall"])
def test_trouble_on_the_way_is_one_paragraph_too(kind, session, server, naps):
    session.timeout = 0.1 if kind == "stall" else 20
    session.max_network_attempts = 0
    server.fault(kind, "status")
    error = error_of(session.get, "users")
    text = str(error)
    assert len(text.splitlines()) == 1
    assert all(character.isprintable() for character in text)
    assert text.startswith(f"GET {server.url}/users: gave up after 1 attempt ")
    assert text.endswith(".")
    assert "<" not in text  # No addresses of objects.


def test_a_proxy_that_fails_is_named_and_where_it_is_set(
    session, naps, monkeypatch
):
    session.max_network_attempts = 0
    session.url = f"http://127.0.0.1:{wire.closed_port()}"
    proxy = f"http://127.0.0.1:{wire.closed_port()}"
    assert "roxy" not in str(error_of(session.get, "users"))
    monkeypatch.setenv("no_proxy", "example.com")
    given = error_of(session.get, "users", proxies={"http": proxy})
    assert f" The proxy {proxy} failed: " in str(given)
    monkeypatch.setenv("http_proxy", proxy)
    found = str(error_of(session.get, "users"))
    where = "environment variable http_proxy"
    assert f" The proxy {proxy} ({where}) failed: " in found


def test_an_error_with_a_text_of_the_callers_is_one_paragraph(session):
    def sign(request):
        raise ValueError("no\nkey\x1b[2J")

    error = error_of(session.get, "users", auth=sign)
    assert "ValueError: no key [2J" in str(error)
    assert str(error).isprintable()


def test_an_error_of_a_redirect_loop_can_be_pickled(server, session):
    """Each answer on the way has a history; they must not multiply."""
    server.handler = lambda request: wire.Answer(
        302, headers={"Location": "/users"}
    )
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.get("users")
    data = pickle.dumps(caught.value)
    assert len(data) < 200000
    again = pickle.loads(data)
    assert len(again.response.history) > 20
    assert again.response.history[0].status_code == 302


def test_an_error_after_a_broken_redirect_survives_pickling(
    session, server, naps
):
    """That the redirect broke off is network trouble."""
    server.reply(
        raw=b"HTTP/1.1 302 Found\r\nLocation: /users/P2\r\n"
        b"Content-Length: 99\r\n\r\nhalf of it"
    )
    server.reply(404, json={"error": {"message": "Not Found"}})
    error = error_of(session.rget, "users/P1")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert naps == [3]


def test_a_hint_is_a_sentence_of_its_own(session, server):
    reason = {"message": "Requester User Not Found", "code": 1008}
    server.reply(400, json={"error": reason})
    text = str(error_of(session.rpost, "incidents", json={}))
    assert text.endswith(".")
    assert " This endpoint wants the header From" in text


def test_the_message_of_an_error_without_an_answer_is_its_text():
    error = pdpyras.PDClientError("It is said here.")
    assert str(error) == error.msg == "It is said here."


# ---------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, call, expected, came",
    [
        (pdpyras.URLError, lambda s: s.get(5), "str", "int"),
        (pdpyras.URLError, lambda s: s.get(None), "str", "NoneType"),
        (pdpyras.URLError, lambda s: s.rget({"id": "P1"}), "'self'", "P1"),
        (pdpyras.URLError, lambda s: s.rget(["users"]), "dict", "list"),
        (
            pdpyras.URLError,
            lambda s: s.get("https://example.com/"),
            "outside",
            "example.com",
        ),
        (
            pdpyras.URLError,
            lambda s: s.get("users\n"),
            "control character",
            "users\\n",
        ),
        (pdpyras.URLError, lambda s: s.get("/../x"), "dots", ".."),
        (
            pdpyras.PDClientError,
            lambda s: s.request("BREW", "users"),
            "GET, POST",
            "BREW",
        ),
        (
            ValueError,
            lambda s: s.list_all("users", page_size=0),
            "from 1",
            "0",
        ),
        (
            ValueError,
            lambda s: s.list_all("users", page_size="ten"),
            "number",
            "'ten'",
        ),
        (
            ValueError,
            lambda s: s.list_all("users", prefetch=99),
            "at most 16",
            "99",
        ),
        (
            ValueError,
            lambda s: s.list_all("users", prefetch=-1),
            "from 0",
            "-1",
        ),
        (
            pdpyras.URLError,
            lambda s: s.list_all("users/P1"),
            "rget",
            "/users/{id}",
        ),
        (
            ValueError,
            lambda s: s.list_all("users", params={"offset": -1}),
            "from 0",
            "-1",
        ),
        (
            ValueError,
            lambda s: s.persist("users", "email", {}),
            "must contain",
            "email",
        ),
        (
            ValueError,
            lambda s: setattr(s, "stagger_cooldown", -1),
            "number",
            "-1",
        ),
        (
            AttributeError,
            lambda s: setattr(s, "auth_type", "basic"),
            "'bearer'",
            "'basic'",
        ),
    ],
)
def test_bad_input_is_named_before_anything_is_sent(
    kind, call, expected, came, session, server, naps
):
    with pytest.raises(kind) as caught:
        call(session)
    assert type(caught.value) is kind
    assert expected in str(caught.value)
    assert came in str(caught.value)
    assert server.connections == 0 and naps == []


@pytest.mark.parametrize(
    "kind, call, expected, came",
    [
        (
            pdpyras.PDInputError,
            lambda e: e.send_event("open", "k"),
            "trigger, ack",
            "'open'",
        ),
        (
            pdpyras.PDInputError,
            lambda e: e.resolve(None),
            "non-empty str",
            "None",
        ),
        (pdpyras.PDInputError, lambda e: e.acknowledge(5), "str", "int"),
        (
            pdpyras.PDInputError,
            lambda e: e.trigger("s", "o", dedup_key=5),
            "str",
            "int",
        ),
        (
            pdpyras.PDInputError,
            lambda e: e.trigger("s", "o", "k" * 256),
            "255",
            "256",
        ),
        (
            pdpyras.PDInputError,
            lambda e: e.trigger("s", "o", payload=[]),
            "dict",
            "list",
        ),
        (
            pdpyras.PDInputError,
            lambda e: e.trigger("s", "o", custom_details=5),
            "dict",
            "int",
        ),
        (
            pdpyras.PDInputError,
            lambda e: e.trigger("s", "o", severity="bad"),
            "critical",
            "'bad'",
        ),
        (
            pdpyras.PDInputError,
            lambda e: e.trigger(None, "o"),
            "summary",
            "None",
        ),
        (pdpyras.PDInputError, lambda e: e.trigger("s", ""), "source", "''"),
        (pdpyras.PDClientError, lambda e: e.get("/v2/enqueue"), "POST", "GET"),
    ],
)
def test_bad_events_are_named_before_anything_is_sent(
    kind, call, expected, came, events, server, naps
):
    with pytest.raises(kind) as caught:
        call(events)
    assert type(caught.value) is kind
    assert expected in str(caught.value)
    assert came in str(caught.value)
    # Programs catch either; nothing was received.
    assert isinstance(caught.value, pdpyras.PDClientError)
    assert kind is pdpyras.PDClientError or isinstance(
        caught.value, ValueError
    )
    assert caught.value.response is None
    assert server.connections == 0 and naps == []


@pytest.mark.parametrize(
    "key, advice",
    [
        ("", "it is empty. Is the variable set"),
        (" \n", "it is empty. Is the variable set"),
        (None, "it is None. Is the variable set"),
        (b"Xk3jQ9", "it is bytes. Decode it: key.decode()"),
        (bytearray(b"Xk3jQ9"), "it is bytes. Decode it"),
        (5, "it is of the type int."),
        (["Xk3jQ9"], "it is of the type list."),
        ("Token token=Xk3jQ9", "begins like a header. Leave out `Token"),
        ("token token=Xk3jQ9", "begins like a header. Leave out `Token"),
        ("Bearer Xk3jQ9", "begins like a header. Leave out `Token"),
        ("'Xk3jQ9'", "has quotation marks around it. Leave them out."),
        ('"Xk3jQ9"', "has quotation marks around it. Leave them out."),
        ("Xk3jQ9\n", "together with its newline?"),
        ("Xk3 jQ9", "white space"),
        ("Xk3jQ9\u00fc", "characters outside ASCII"),
        ("Xk3jQ9\x00", "control characters"),
    ],
)
@pytest.mark.parametrize("kind", ["APISession", "EventsAPISession"])
def test_a_key_that_is_none_is_refused_with_the_reason(kind, key, advice):
    with pytest.raises(ValueError) as caught:
        getattr(pdpyras, kind)(key)
    assert "non-empty str" in str(caught.value)
    assert advice in str(caught.value)
    assert "Xk3" not in str(caught.value)
    with getattr(pdpyras, kind)(KEY) as session:
        with pytest.raises(ValueError):
            session.api_key = key
        assert session.api_key == KEY


# ---------------------------------------------------------------------------
# Every shape of an error body
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, body, reasons",
    [
        (400, {"error": "invalid_scope"}, ["invalid_scope"]),
        (
            400,
            {"error": "invalid_client", "error_description": "Unknown app"},
            ["invalid_client", "Unknown app"],
        ),
        (404, {"detail": "Resource 5 not found"}, ["Resource 5 not found"]),
        (
            403,
            {"error": {"message": "Denied"}, "required_scopes": "users.write"},
            ["Denied", "required scopes: users.write"],
        ),
        (
            403,
            {
                "error": {"message": "Denied"},
                "required_scopes": ["a" * 120, "b.read"],
            },
            [
                "Denied",
                "required scopes: " + "a" * 120,
                "required scopes: b.read",
            ],
        ),
        (
            400,
            {"error": {"errors": {"email": ["is taken", "is long"]}}},
            ["email: is taken, is long"],
        ),
        (400, {"errors": {"name": "is empty"}}, ["name: is empty"]),
        (400, {"error": {"errors": "is empty"}}, ["is empty"]),
        (400, {"error": None, "message": "is empty"}, ["is empty"]),
        (400, {"error": {"errors": [{"field": 5}]}}, ['{"field": 5}']),
    ],
)
def test_every_shape_of_reasons_is_read(
    status, body, reasons, session, server
):
    server.reply(status, json=body)
    error = error_of(session.rget, "users/P1")
    assert error.errors == reasons
    assert f": {'; '.join(reasons)}" in str(error)


def test_reasons_are_quoted_up_to_ten_thousand_characters(session, server):
    reasons = [f"{n:04d} {'x' * 94}" for n in range(120)]
    server.reply(400, json={"error": {"errors": reasons}})
    error = error_of(session.rget, "users/P1")
    assert error.errors == reasons
    text = str(error)
    assert reasons[98] in text and "0110" not in text
    assert 10000 < len(text) < 10100


def test_without_a_reason_the_body_is_quoted(session, server):
    server.reply(500, body=b"<h1>Out of order</h1>")
    error = error_of(session.rget, "users/P1")
    assert error.errors == []
    assert "<h1>Out of order</h1>" in str(error)


@pytest.mark.parametrize(
    "reason", ["Email cannot be empty", "Informed", "Platform is unknown"]
)
def test_the_hint_about_from_needs_a_reason_that_is_about_it(
    reason, session, server
):
    server.reply(400, json={"error": {"errors": [reason]}})
    error = error_of(session.rpost, "incidents", json={})
    assert "default_from" not in str(error)


@pytest.mark.parametrize(
    "path, suggestion",
    [
        ("user", "/users"),
        ("incident", "/incidents"),
        ("esclation_policies", "/escalation_policies"),
        ("users/P1/contact_method", "/users/P1/contact_methods"),
        ("incidents/P1/note", "/incidents/P1/notes"),
        ("users//contact_methods", "/users/{id}/contact_methods"),
    ],
)
def test_an_unknown_path_names_the_nearest_known_one(
    path, suggestion, session, server
):
    assert f"Did you mean {suggestion}?" in str(
        error_of(session.list_all, path)
    )
    assert server.requests == []
    server.reply(404, json={"error": {"message": "Not Found"}})
    assert f"Not Found. Did you mean {suggestion}?" in str(
        error_of(session.rget, path)
    )


def test_what_is_like_nothing_suggests_nothing(session, server):
    assert "Did you" not in str(error_of(session.list_all, "qqq/zzz/yyy"))
    server.reply(404, json={"error": {"message": "Not Found"}})
    assert "Did you" not in str(error_of(session.rget, "users/P1"))


@pytest.mark.parametrize("status", [502, 504])
def test_a_gateway_cannot_tell_what_became_of_a_write(status, session, server):
    server.handler = lambda request: wire.Answer(status)
    assert "may or may not" in str(error_of(session.rpost, "users", json={}))
    assert "may or may not" not in str(error_of(session.rget, "users/P1"))


def test_a_certificate_that_does_not_verify_names_the_settings(
    trust, session, naps
):
    with wire.Server(tls=trust) as server:
        session.url = server.url
        text = str(error_of(session.get, "users"))
    assert "session.verify" in text and "REQUESTS_CA_BUNDLE" in text


# -- Stand-ins of users' tests ------------------------------------------------


class StandIn:
    """No more than what a test of a user's needs."""

    def __init__(self, ok):
        self.ok = ok

    def json(self):
        if not self.ok:
            return {"error": {"message": "said so"}}
        return {"users": [{"id": "P1"}], "more": False, "user": {"id": "P1"}}


CALLS = {
    "jget": lambda s: s.jget("users/P1"),
    "rget": lambda s: s.rget("users/P1"),
    "iter_all": lambda s: list(s.iter_all("users")),
    "iter_cursor": lambda s: list(s.iter_cursor("audit/records")),
    "iter_history": lambda s: list(s.iter_history("incidents", "2026-01-01")),
    "prefetch": lambda s: s.list_all("users", prefetch=4),
    "find": lambda s: s.find("users", "P1", "id"),
    "persist": lambda s: s.persist("users", "id", {"id": "P1"}),
    "api_key_access": lambda s: s.api_key_access,
}


@pytest.mark.parametrize("place", ["get", "parent"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_stand_in_that_is_not_ok_is_a_printable_error(call, place, session):
    if place == "get":
        session.get = lambda *args, **options: StandIn(False)
    else:
        session.parent = mock.Mock(request=lambda *a, **o: StandIn(False))
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        call(session)
    assert "said so" in str(caught.value)
    assert caught.value.status_code is None


@pytest.mark.parametrize("place", ["get", "parent"])
@pytest.mark.parametrize(
    "name, expected",
    [
        ("jget", StandIn(True).json()),
        ("rget", {"id": "P1"}),
        ("iter_all", [{"id": "P1"}]),
        ("prefetch", [{"id": "P1"}]),
        ("find", {"id": "P1"}),
        ("api_key_access", "user"),
    ],
)
def test_a_stand_in_that_is_ok_will_do(name, expected, place, session):
    if place == "get":
        session.get = lambda *args, **options: StandIn(True)
    else:
        session.parent = mock.Mock(request=lambda *a, **o: StandIn(True))
    assert CALLS[name](session) == expected


def test_a_mock_without_a_text_is_a_printable_error():
    double = mock.Mock(status_code=400, ok=False)
    double.json.return_value = {"error": {"message": "said so"}}
    with pytest.raises(pdpyras.PDHTTPError, match="said so"):
        pdpyras.successful_response(double)


@pytest.mark.parametrize("base", ["", "/pd", "/v2/"])
def test_a_known_path_behind_a_gateway_with_a_path(base, server):
    """The tables know nothing of the path of a base URL."""
    session = pdpyras.APISession(KEY, url=server.url + base)
    server.reply(404, json={"error": {"message": "Not Found"}})
    error = error_of(session.rget, "/services/P1")
    assert "Did you mean" not in str(error)
    server.reply(404, json={"error": {"message": "Not Found"}})
    assert "Did you mean /users" in str(error_of(session.rget, "/user"))
    server.reply(400, json={"error": {"message": "From header is required"}})
    error = error_of(session.rpost, "/incidents", json={"title": "t"})
    assert "default_from" in str(error)
    session.close()


@pytest.mark.parametrize(
    "url", ["http://api.pagerduty.com/users", "https://events.pagerduty.com/x"]
)
def test_an_address_of_an_api_is_none_of_the_web_interface(url):
    with pytest.raises(pdpyras.URLError) as caught:
        pdpyras.APISession(KEY).rget(url)
    assert "web interface" not in str(caught.value)
