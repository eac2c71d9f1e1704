"""The sandbox behaves like the API, where clients notice."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest
import requests

import pdpyras
import pdpyras_sandbox
from pdpyras_sandbox import Sandbox
from tests.support import may_fork, needs_fork

pytestmark = pytest.mark.oldest

TIMEOUT = 10
KEY = "any-key"


class Client(requests.Session):
    """A plain client: what it gets is what the sandbox sent."""

    def __init__(self, url, key=KEY):
        super().__init__()
        self.url = url
        if key:
            self.headers["Authorization"] = f"Token token={key}"

    def request(self, method, path, **options):
        options.setdefault("timeout", TIMEOUT)
        return super().request(method, self.url + path, **options)

    def body(self, path, **params):
        answer = self.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def box():
    with Sandbox() as running:
        yield running


@pytest.fixture
def client(box):
    with Client(box.url) as plain:
        yield plain


@pytest.fixture
def session(box):
    with pdpyras.APISession(KEY) as api:
        api.url = box.url
        yield api


def errors_of(answer, status=400):
    """The reasons in PagerDuty's error body, after checking the rest."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert isinstance(error["code"], int)
    assert error["message"]
    return "; ".join(error.get("errors", []))


# -- Life -------------------------------------------------------------------


def test_it_ends_at_once_with_connections_open(client, box):
    client.get("/users")
    others = [socket.create_connection(("127.0.0.1", box.port))]
    others += [socket.create_connection(("127.0.0.1", box.port))]
    before = time.monotonic()
    box.stop()
    assert time.monotonic() - before < 0.5
    for other in others:
        with other:
            other.settimeout(TIMEOUT)
            try:
                assert other.recv(1) == b""
            except ConnectionResetError:
                pass  # it had not been accepted yet
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", box.port)).close()


def test_its_threads_end_with_it():
    before = set(threading.enumerate())
    with Sandbox() as box, Client(box.url) as client:
        client.get("/users")
        assert len(threading.enumerate()) == len(before) + 2
    assert set(threading.enumerate()) == before


def test_without_with_it_is_started_and_stopped():
    box = Sandbox(users=2)
    with pytest.raises(RuntimeError, match="not been started"):
        box.url.strip()
    assert box.start() is box
    try:
        with Client(box.url) as client:
            assert len(client.body("/users")["users"]) == 2
    finally:
        box.stop()
    assert len(box.requests) == 1


def test_a_port_can_be_chosen_unless_it_is_taken(box):
    with pytest.raises(OSError):
        Sandbox(port=box.port).start()
    port = box.port
    box.stop()
    with Sandbox(port=port) as again:
        assert again.url == f"http://127.0.0.1:{port}"


def test_stopping_what_never_started_does_nothing():
    Sandbox().stop()


def test_a_sandbox_started_again_is_as_slow_as_before():
    box = Sandbox(users=2, latency=0.1).start()
    box.stop()
    with box, Client(box.url) as client:
        began = time.monotonic()
        assert len(client.body("/users")["users"]) == 2
        assert time.monotonic() - began >= 0.1


def test_stopping_interrupts_the_latency():
    box = Sandbox(latency=60).start()
    with socket.create_connection(("127.0.0.1", box.port)) as sock:
        sock.sendall(ask(box))
        time.sleep(0.1)
        before = time.monotonic()
        box.stop()
    assert time.monotonic() - before < 1


@needs_fork
@may_fork
def test_a_fork_leaves_the_sandbox_to_its_parent(box, client, server):
    server.reply(202)
    hook = box.webhook(server.url, "the-secret")
    client.get("/users")
    child = os.fork()
    if not child:  # pragma: no cover
        status = 1
        try:
            with Client(box.url) as other:
                other.body("/users")
            box.stop()
            status = 0
        finally:
            os._exit(status)
    watch = threading.Timer(TIMEOUT, os.kill, (child, signal.SIGKILL))
    watch.start()
    assert os.waitpid(child, 0)[1] == 0
    watch.cancel()
    client.get("/users")  # by the connection from before the fork
    with Client(box.url) as other:
        other.body("/users")
    payload = {"summary": "s", "source": "s", "severity": "info"}
    assert send(box, event_action="trigger", payload=payload).ok
    assert hook.wait(TIMEOUT) and len(server.requests) == 1


# -- HTTP -------------------------------------------------------------------


def raw(box, *parts):
    """What comes back on one connection until it is closed."""
    with socket.create_connection(("127.0.0.1", box.port)) as sock:
        sock.settimeout(TIMEOUT)
        sock.sendall(b"".join(parts))
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while True:
            data = sock.recv(65536)
            received += data
            if not data:
                return received


def ask(box, *lines, first="GET /users HTTP/1.1"):
    """The head of a request, with these lines beside what it needs."""
    needed = (first, f"Host: 127.0.0.1:{box.port}", "Authorization: Bearer k")
    return "\r\n".join([*needed, *lines, "", ""]).encode("latin-1")


def test_a_connection_serves_many_requests(box):
    received = raw(box, ask(box), ask(box), ask(box, "Connection: close"))
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert (
        raw(box, ask(box, "Connection: close"), ask(box)).count(b" 200 ") == 1
    )


def test_answers_come_without_delayed_acknowledgements(box, client):
    box.add("users", 100)
    client.get("/users")
    before = time.monotonic()
    for _ in range(20):
        client.get("/users?limit=100")
    assert time.monotonic() - before < 20 * 0.03


def test_every_answer_has_its_own_request_id(client):
    answers = [client.get("/users"), client.get("/none"), client.get("/users")]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 3
    assert (
        client.get("/users")
        .headers["content-type"]
        .startswith("application/json")
    )


def test_a_body_in_chunks_is_refused(box):
    received = raw(box, ask(box, "Transfer-Encoding: chunked"))
    assert received.startswith(b"HTTP/1.1 411 ")


def test_a_target_that_is_no_url_is_refused(box):
    request = ask(box, first="GET http://[/users HTTP/1.1")
    assert raw(box, request).startswith(b"HTTP/1.1 400 ")


def test_a_malformed_length_is_refused(box, capfd):
    received = raw(box, ask(box, "Content-Length: x"))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert capfd.readouterr() == ("", "")


# A whole request, which must not be carried out where it is a body's content.
HIDDEN = '{"team": {"name": "hidden"}}'


def hidden(box):
    head = (f"Content-Length: {len(HIDDEN)}",)
    first = "POST /teams HTTP/1.1"
    return ask(box, *head, first=first) + HIDDEN.encode()


REFUSED_FRAMES = [
    (400, ["Content-Length: -1"]),
    (400, ["Content-Length: abc"]),
    (400, ["Content-Length: "]),
    (400, ["Content-Length: +3"]),
    (400, ["Content-Length: 1_0"]),
    (400, ["Content-Length: 0x10"]),
    (400, ["Content-Length: 3, 3"]),
    (400, ["Content-Length: 3", "Content-Length: 4"]),
    (400, ["Content-Length: " + "9" * 5000]),
    (400, ["Content-Length: 0", "Transfer-Encoding: chunked"]),
    (400, ["Transfer-Encoding: chunked", "content-length: 0"]),
    (411, ["Transfer-Encoding: chunked"]),
    (411, ["transfer-encoding: identity"]),
    (400, ["Content-Length : 3"]),
    (400, [" Content-Length: 3"]),
    (400, ["X: a", " b"]),
    (400, ["no colon"]),
    (400, [": no name"]),
    (400, ["X: a\rContent-Length: 3"]),
    (400, ["X: a\0"]),
    (413, [f"Content-Length: {1024 * 1024 + 1}"]),
    (413, [f"Content-Length: {1024 * 1024 + 1}", "Expect: 100-continue"]),
    (431, ["X: " + "x" * 70000]),
    (431, ["X: x"] * 100),
    (400, ["Host: localhost:1"]),
    (403, ["Origin: null"]),
    (403, ["origin: http://localhost"]),
]


@pytest.mark.parametrize("status, lines", REFUSED_FRAMES)
def test_what_was_refused_is_not_taken_for_a_request(
    box, client, capfd, status, lines
):
    received = raw(box, ask(box, *lines), hidden(box), hidden(box))
    assert received.startswith(f"HTTP/1.1 {status} ".encode())
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close\r\n" in head + b"\r\n"
    assert set(json.loads(body.decode())) == {"error"}
    assert box.requests == []
    assert client.body("/teams")["teams"] == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "status, first",
    [
        (400, "GET /users"),
        (400, "GET  /users HTTP/1.1"),
        (400, "GET /users HTTP/2.0"),
        (400, "GET /us ers HTTP/1.1"),
        (400, " GET /users HTTP/1.1"),
        (400, "GET http://[/users HTTP/1.1"),
        (431, f"GET /{'x' * 70000} HTTP/1.1"),
        (501, "HEAD /users HTTP/1.1"),
        (501, "OPTIONS * HTTP/1.1"),
        (501, "get /users HTTP/1.1"),
    ],
)
def test_a_request_line_that_is_none_is_refused(box, client, status, first):
    received = raw(box, ask(box, first=first), hidden(box))
    assert received.startswith(f"HTTP/1.1 {status} ".encode())
    assert client.body("/teams")["teams"] == []


def test_an_empty_line_before_a_request_is_passed_over(box):
    received = raw(box, ask(box), b"\r\n", ask(box))
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2


def with_host(host, first="GET /users HTTP/1.1"):
    lines = [first, "Authorization: Bearer k", *host, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def test_the_host_must_be_its_own(box, client):
    own = [f"127.0.0.1:{box.port}", f"localhost:{box.port}"]
    for name in [*own, own[1].upper()]:
        assert b" 200 OK" in raw(box, with_host([f"Host: {name}"]))
    for name in (
        *("localhost", "127.0.0.1", f"127.0.0.1:{box.port + 1}", ""),
        *(f"evil.example:{box.port}", f"{own[0]}.evil.example", f"x@{own[0]}"),
        *(f"127.0.0.2:{box.port}", f"localhost.:{box.port}"),
    ):
        received = raw(box, with_host([f"Host: {name}"]), hidden(box))
        assert received.startswith(b"HTTP/1.1 421 "), name
    for hosts in ([], [f"Host: {own[0]}"] * 2):
        received = raw(box, with_host(hosts), hidden(box))
        assert received.startswith(b"HTTP/1.1 400 ")
    assert client.body("/teams")["teams"] == []


def test_a_target_may_name_the_host_if_it_is_its_own(box):
    for name, status in (
        (f"localhost:{box.port}", 200),
        ("evil.example", 421),
        (f"x@localhost:{box.port}", 421),
    ):
        request = ask(box, first=f"GET http://{name}/users HTTP/1.1")
        assert raw(box, request).startswith(f"HTTP/1.1 {status} ".encode())


def test_on_the_usual_port_the_host_may_have_none():
    for port, is_own in ((80, True), (81, False)):
        fields = pdpyras_sandbox.HTTPMessage()
        fields["Host"] = "localhost"
        try:
            pdpyras_sandbox._check_origin("/users", fields, port)
        except pdpyras_sandbox._ApiError as error:
            assert error.answer[0] == 421
            is_refused = True
        else:
            is_refused = False
        assert is_refused is not is_own


def test_a_client_gets_the_refusal_of_what_it_still_sends(box):
    """It comes although nobody reads the body: no reset overtakes it."""
    size = 8 * 1024 * 1024  # more than fits into the kernel's buffers
    head = ask(box, f"Content-Length: {size}", first="POST /teams HTTP/1.1")
    assert raw(box, head, b"x" * size).startswith(b"HTTP/1.1 413 ")
    for size in (1024 * 1024 + 1, 8 * 1024 * 1024):
        with Client(box.url) as client:
            answer = client.post("/teams", data=b"x" * size)
            assert str(1024 * 1024) in errors_of(answer, 413)
            assert answer.headers["connection"] == "close"
            assert client.body("/teams")["teams"] == []


def test_a_body_of_1_mb_is_taken(box, client):
    text = "x" * (1024 * 1024 - len('{"team": {"name": ""}}'))
    data = json.dumps({"team": {"name": text}}).encode()
    assert len(data) == 1024 * 1024
    assert client.post("/teams", data=data).status_code == 201


def test_a_client_that_asks_first_is_told_to_go_on(box):
    body = '{"team": {"name": "T"}}'
    lines = [f"Content-Length: {len(body)}", "Expect: 100-Continue"]
    head = ask(box, *lines, first="POST /teams HTTP/1.1")
    with socket.create_connection(("127.0.0.1", box.port)) as sock:
        sock.settimeout(TIMEOUT)
        sock.sendall(head)
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body.encode())
        assert sock.recv(65536).startswith(b"HTTP/1.1 201 ")


def test_old_clients_keep_a_connection_if_they_say_so(box):
    first = "GET /users HTTP/1.0"
    assert raw(box, ask(box, first=first) * 2).count(b" 200 OK") == 1
    kept = ask(box, "Connection: Keep-Alive", first=first)
    assert raw(box, kept * 2).count(b" 200 OK") == 2


def test_requests_are_recorded_as_they_came(box, client):
    client.get("/users?query=a+b&query=c&x%5B%5D=%C3%A4")
    client.put("/users/P%2D1", json={"user": {}}, headers={"X-One": "1"})
    got, put = box.requests
    assert (got.method, got.path) == ("GET", "/users")
    assert got.query == [("query", "a b"), ("query", "c"), ("x[]", "ä")]
    assert (got.body, got.json) == (b"", None)
    assert (put.method, put.path) == ("PUT", "/users/P-1")
    assert put.endpoint == "/users/{id}"
    assert (put.headers["x-ONE"], put.headers["absent"]) == ("1", None)
    assert (put.body, put.json) == (b'{"user": {}}', {"user": {}})
    box.clear()
    assert box.requests == []


def test_latency_delays_each_answer():
    with Sandbox(latency=0.1) as box, Client(box.url) as client:
        before = time.monotonic()
        client.get("/users")
        assert time.monotonic() - before >= 0.1


def test_a_client_that_leaves_makes_no_noise(box, capfd):
    assert raw(box, ask(box, "Content-Length: 9"), b"{") == b""
    assert box.requests == []
    box.drop()
    with pytest.raises(requests.ConnectionError):
        requests.get(box.url, timeout=TIMEOUT)
    box.stop()
    assert capfd.readouterr() == ("", "")


# -- Who asks ---------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, "", "Token", "Token token=", "Basic a2V5", "Bearer", KEY]
)
def test_without_a_proper_authorization_there_is_nothing(box, value):
    headers = {} if value is None else {"Authorization": value}
    with Client(box.url, key=None) as client:
        client.trust_env = False
        assert "Token token=KEY" in errors_of(
            client.get("/users", headers=headers), 401
        )


@pytest.mark.parametrize(
    "value", ["Token token=k", 'Token token="k"', "Bearer k", "bearer k"]
)
def test_any_key_is_good(box, value):
    with Client(box.url, key=None) as client:
        answer = client.get("/users", headers={"Authorization": value})
        assert answer.status_code == 200


def test_me_is_the_first_user_but_of_account_keys_nobody(box, client):
    first = box.add("users", 2)[0]
    assert client.body("/users/me")["user"] == first
    with Client(box.url, key="account-key") as account:
        answer = account.get("/users/me")
    assert answer.status_code == 400
    assert "account-level access token" in answer.json()["error"]


def test_me_exists_in_an_empty_sandbox(client):
    me = client.body("/users/me")["user"]
    assert client.body("/users")["users"] == [me]


def test_account_keys_must_say_who_acts(box, client):
    user = box.add("users")[0]
    incident = box.add("incidents")[0]
    url = f"/incidents/{incident['id']}"
    body = {"incident": {"status": "acknowledged"}}
    with Client(box.url, key="account-key") as account:
        assert "From" in errors_of(account.put(url, json=body))
        account.headers["From"] = "nobody@example.com"
        assert "From" in errors_of(account.put(url, json=body))
        account.headers["From"] = user["email"].upper()
        answer = account.put(url, json=body)
    acknowledger = answer.json()["incident"]["acknowledgements"][0]
    assert acknowledger["acknowledger"]["id"] == user["id"]
    body["incident"]["status"] = "resolved"
    assert client.put(url, json=body).status_code == 200
    assert client.get(url).status_code == 200


# -- Records ----------------------------------------------------------------


def test_records_are_plausible_and_differ(box, client):
    users = box.add("users", 1000)
    for name in ("id", "email", "self", "html_url"):
        assert len({user[name] for user in users}) == 1000
    assert client.body("/users", limit=100)["users"] == users[:100]
    user = users[-1]
    assert re.fullmatch("P[0-9A-Z]{6}", user["id"])
    assert user["self"] == f"{box.url}/users/{user['id']}"
    assert re.match(
        r"https://[\w-]+\.pagerduty\.com/users/P", user["html_url"]
    )
    assert (user["type"], user["summary"]) == ("user", user["name"])
    assert client.get(user["self"][len(box.url) :]).json()["user"] == user


def test_added_records_have_the_given_properties(box, client):
    mails = ["x@example.com"]
    user = box.add("users", id="PABC123", name="Jane", mails=mails)[0]
    assert client.body("/users/PABC123")["user"] == user
    assert (user["name"], user["summary"]) == ("Jane", "Jane")
    mails.append("y@example.com")
    user["mails"].append("z@example.com")
    assert client.body("/users/PABC123")["user"]["mails"] == mails[:1]
    incidents = box.add("incidents", 3, status="acknowledged")
    assert {i["status"] for i in incidents} == {"acknowledged"}
    with pytest.raises(pdpyras.URLError):
        box.add("gadgets")


def utc(spec="seconds", **ahead):
    """A time so far ahead of now, as the API spells it."""
    moment = datetime.now(timezone.utc) + timedelta(**ahead)
    return moment.replace(tzinfo=None).isoformat(timespec=spec) + "Z"


# A period that every list takes, and what is made during the tests is in.
WINDOW = {"since": utc(days=-1), "until": utc(days=1)}

# What callers have to get from a Jira server.
SIGNED = {"x-pagerduty-jira-signature": "not-a-real-signature"}

LISTS = [
    path
    for path in pdpyras.CANONICAL_PATHS
    if getattr(pdpyras._operation("GET", path), "pagination", "")
]


@pytest.mark.parametrize("endpoint", LISTS)
def test_every_list_of_the_tables_is_served(box, session, endpoint):
    session.early_access = ["ip-allow-lists"]
    session.headers.update(SIGNED)
    path = _filled(box, endpoint)
    added = box.add(path, 30)
    assert list(session.iter_all(path, params=WINDOW)) == added
    own = ("/scim/", "/integration-slack/")
    usual = 30 if path.startswith(own) else 25
    assert len(session.rget(path, params=WINDOW)) == usual


OPERATIONS = [
    (method, path)
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
    for path in pdpyras.CANONICAL_PATHS
    if pdpyras._operation(method, path)
]
# What is there once it was opened, and not before, is read last but one.
OPERATIONS.sort(
    key=lambda operation: (
        operation[0] == "DELETE",
        operation[0] == "GET" and "/dedicated_" in operation[1],
    )
)


def test_every_operation_of_the_tables_is_served(box, client):
    assert len(OPERATIONS) > 450
    for method, endpoint in OPERATIONS:
        path = _filled(box, endpoint)
        operation = pdpyras._operation(method, endpoint)
        content = {"name": "N", "email": f"{endpoint}@x", "time_zone": "UTC"}
        content.update(service={}, title="T", label=endpoint)
        content["service"] = {"id": "P2", "type": "service_reference"}
        content["delivery_method"] = {"url": "http://127.0.0.1:9/"}
        content["events"] = []
        content.update(userName=f"{endpoint}@x", displayName="N", id="C1")
        content["Operations"] = [{"op": "add", "value": {"title": "T"}}]
        content.update(dict.fromkeys(IDS_OF_OTHERS, "T1"))
        if endpoint.endswith("/overrides") and "/v3/" not in endpoint:
            content.update(start="2030-01-01", end="2030-01-02")
        if str(operation.request).endswith("s") and path[-3:] != "/P1":
            content = [{**content, "id": "P1"}]
            if method == "PUT":
                _filled(box, endpoint + "/{id}")
        if operation.request:
            content = {operation.request: content}
        answer = client.request(
            method,
            path,
            json=None if method == "GET" else content,
            params=WINDOW if method == "GET" else None,
            headers=SIGNED,
        )
        good = (202,) if path.endswith("/ping") else (200, 201, 204)
        assert answer.status_code in good, (method, path, answer)
        if method != "DELETE" and operation.response:
            assert operation.response in answer.json(), (method, path)


# How Slack and Microsoft Teams call what is theirs.
IDS_OF_OTHERS = ("slack_team_id", "mst_team_id", "mst_tenant_id")


def _filled(box, endpoint):
    """The path of an endpoint, each node of which exists."""
    path = ""
    if "/incidents/{incident_id}" in endpoint:
        box.add("incidents", id="P1")
    for node in endpoint.split("/")[1:]:
        if pdpyras.is_path_param(node):
            node = "users" if node == "{entity_type}" else "P1"
        if node == "P1" and _is_known(path):
            box.add(path, id="P1")
        path += f"/{node}"
    return path


def _is_known(path):
    try:
        return bool(pdpyras.canonical_path("http://x", path))
    except pdpyras.URLError:
        return False


def test_an_ability_is_answered_without_a_body(box, session, client):
    box.add("abilities", id="teams")
    answer = client.get("/abilities/teams")
    assert (answer.status_code, answer.content) == (204, b"")
    assert session.rget("abilities/teams") is None
    assert client.get("/abilities/sso").status_code == 404


def test_records_are_created_read_updated_and_deleted(box, client):
    answer = client.post(
        "/users",
        json={"user": {"name": "Jo", "email": "jo@example.com", "id": "P1"}},
    )
    assert answer.status_code == 201
    user = answer.json()["user"]
    assert user["id"] != "P1"
    assert (user["role"], user["summary"]) == ("user", "Jo")
    url = f"/users/{user['id']}"
    assert client.body(url) == {"user": user}
    changes = {"name": "Joe", "type": "user_reference", "id": "P2"}
    answer = client.put(url, json={"user": changes})
    changed = {**user, "name": "Joe", "summary": "Joe"}
    assert answer.json() == {"user": changed} == client.body(url)
    answer = client.delete(url)
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "PUT", "DELETE"):
        body = {"user": {}} if method == "PUT" else None
        assert errors_of(client.request(method, url, json=body), 404) == ""
    assert client.body("/users")["users"] == []


def test_records_may_be_nested(box, client):
    user = box.add("users")[0]
    url = f"/users/{user['id']}/contact_methods"
    body = {"contact_method": {"type": "email_contact_method", "address": "a"}}
    method = client.post(url, json=body).json()["contact_method"]
    assert method["type"] == "email_contact_method"
    assert client.body(url) == {"contact_methods": [method]}
    assert client.body(f"{url}/{method['id']}") == {"contact_method": method}
    assert client.delete(f"{url}/{method['id']}").status_code == 204
    assert client.body(url) == {"contact_methods": []}
    for path in ("/users/PNONE/contact_methods", "/incidents/PNONE/alerts"):
        errors_of(client.get(path), 404)
    errors_of(client.post("/users/PNONE/contact_methods", json=body), 404)


def test_what_is_sent_elsewhere_is_read_again(box, client):
    box.add("status_pages", id="P1")
    box.add("status_pages/P1/posts", id="P2")
    url = "/status_pages/P1/posts/P2/postmortem"
    assert client.body(url) == {"postmortem": {}}
    body = {"postmortem": {"message": "all is well"}}
    assert client.put(url, json=body).json() == body == client.body(url)
    assert client.delete(url).status_code == 204
    assert client.body(url) != body


def test_a_list_may_be_deleted_as_a_whole(box, client):
    user = box.add("users")[0]
    box.add(f"users/{user['id']}/sessions", 2)
    url = f"/users/{user['id']}/sessions"
    assert len(client.body(url)["user_sessions"]) == 2
    assert client.delete(url).status_code == 204
    assert client.body(url) == {"user_sessions": []}


def test_actions_answer_with_what_they_act_on(box, client):
    extension = box.add("extensions")[0]
    url = f"/extensions/{extension['id']}/enable"
    assert client.post(url).json() == {"extension": extension}
    incident = box.add("incidents", 2)[0]
    body = {"source_incidents": [{"id": "P1", "type": "incident_reference"}]}
    answer = client.put(f"/incidents/{incident['id']}/merge", json=body)
    assert answer.json() == {"incident": incident}
    body = {"relationships": [{"type": "service_dependency"}]}
    url = "/service_dependencies/associate"
    assert client.post(url, json=body).json() == body


def test_patch_updates(box, session):
    box.add("workflows/integrations", id="P1")
    path = "/workflows/integrations/P1/connections"
    connection = box.add(path)[0]
    url = f"{path}/{connection['id']}"
    assert session.rpatch(url, json={"name": "new"})["name"] == "new"
    assert session.rget(url)["name"] == "new"


# -- Refusals ---------------------------------------------------------------


@pytest.mark.parametrize("body", [None, {}, {"name": "x"}, [], {"user": "x"}])
def test_a_body_without_its_wrapper_is_refused(client, body):
    assert "'user'" in errors_of(client.post("/users", json=body))


def test_a_body_that_is_no_json_is_refused(client):
    for data in (b"{", b"\xff\xfe"):
        assert "JSON" in errors_of(client.post("/teams", data=data))


def test_missing_properties_are_named(client):
    answer = client.post("/users", json={"user": {"type": "user"}})
    assert answer.json()["error"]["errors"] == [
        "Name cannot be empty",
        "Email cannot be empty",
    ]


def test_an_email_is_taken_once(box, client):
    email = box.add("users")[0]["email"].upper()
    body = {"user": {"name": "x", "email": email}}
    assert errors_of(client.post("/users", json=body)) == (
        "Email has already been taken"
    )


def test_an_update_keeps_what_a_record_must_have(box, client):
    one, other = box.add("users", 2)
    for change, reason in (
        ({"name": ""}, "Name cannot be empty"),
        ({"email": None}, "Email cannot be empty"),
        ({"email": other["email"]}, "Email has already been taken"),
    ):
        answer = client.put(f"/users/{one['id']}", json={"user": change})
        assert errors_of(answer) == reason
    assert client.body("/users")["users"] == [one, other]
    same = {"user": {"email": one["email"], "job_title": "Operator"}}
    answer = client.put(f"/users/{one['id']}", json=same)
    assert answer.json()["user"]["job_title"] == "Operator"


def test_of_several_updates_all_are_made_or_none(box, client):
    one, other = box.add("incidents", 2)
    updates = [
        {"id": one["id"], "status": "acknowledged"},
        {"id": other["id"], "status": "forgotten"},
    ]
    answer = client.put("/incidents", json={"incidents": updates})
    assert "forgotten" in errors_of(answer)
    assert client.body("/incidents")["incidents"] == [one, other]


def test_unknown_paths_and_methods_are_refused(client):
    errors_of(client.get("/no_such_thing"), 404)
    errors_of(client.get("/"), 404)
    errors_of(client.put("/users", json={"users": []}), 405)
    errors_of(client.delete("/incidents"), 405)


def test_a_mistake_of_the_sandbox_is_a_500(box, client, capfd):
    box.add("users", email=["not", "a", "str"])
    body = {"user": {"name": "x", "email": "x@example.com"}}
    answer = client.post("/users", json=body)
    errors_of(answer, 500)
    assert "Traceback" in capfd.readouterr().err
    assert client.get("/users").status_code == 200


# -- Filters ----------------------------------------------------------------


def test_query_searches_names_and_mails(box, client):
    box.add("users", 100)
    for query in ("DAV", "jane.doe@"):
        found = client.body("/users", query=query, limit=100)["users"]
        assert 0 < len(found) < 100
        for user in found:
            assert query.lower() in (user["name"] + user["email"]).lower()
    assert client.body("/users", query="none")["users"] == []


@pytest.fixture
def four(box):
    """Four incidents, of two users, services, teams, ...; their ids."""
    teams = [{"id": f"PTEAM{n}", "type": "team_reference"} for n in range(2)]
    services = [{"id": f"PSERV{n}", "type": "service"} for n in range(2)]
    box.add("users", id="PUSER0")
    box.add("users", id="PUSER1")
    ids = []
    for n in range(4):
        incident = box.add(
            "incidents",
            status=("triggered", "acknowledged", "resolved")[n % 3],
            urgency=("high", "low")[n // 3],
            teams=teams[: n % 3],
            service=services[n // 2],
            incident_key=f"key-{n}",
        )
        ids.append(incident[0]["id"])
    return ids


@pytest.mark.parametrize(
    "params, expected",
    [
        ({"statuses[]": ["triggered"]}, [0, 3]),
        ({"statuses[]": ["triggered", "resolved"]}, [0, 2, 3]),
        ({"urgencies[]": "low"}, [3]),
        ({"user_ids[]": ["PUSER1"]}, [1, 3]),
        ({"user_ids[]": ["PUSER0", "PUSER1"]}, [0, 1, 2, 3]),
        ({"team_ids[]": ["PTEAM1"]}, [2]),
        ({"service_ids[]": ["PSERV1"]}, [2, 3]),
        ({"incident_key": "key-2"}, [2]),
        ({"statuses[]": "triggered", "user_ids[]": "PUSER1"}, [3]),
        ({"include[]": "teams", "before": "x"}, [0, 1, 2, 3]),
    ],
)
def test_filters(client, four, params, expected):
    body = client.body("/incidents", total="true", **params)
    assert [four.index(i["id"]) for i in body["incidents"]] == expected
    assert body["total"] == len(expected)


def test_who_acknowledged_is_not_who_is_assigned(client, four):
    body = {"incidents": [{"id": i, "status": "resolved"} for i in four]}
    client.put("/incidents", json=body)
    mine = client.body("/incidents", **{"user_ids[]": "PUSER0"})["incidents"]
    assert [i["id"] for i in mine] == [four[0], four[2]]
    assert mine[0]["last_status_change_by"]["id"] == "PUSER0"


def test_a_time_zone_is_no_filter_and_a_bool_is_one(box, client):
    box.add("schedules", 2, time_zone="UTC")
    found = client.body("/schedules", time_zone="Europe/Berlin")
    assert len(found["schedules"]) == 2
    box.add("standards", active=True)
    box.add("standards", active=False)
    found = client.body("/standards", active="true")["standards"]
    assert [standard["active"] for standard in found] == [True]


# -- Pages ------------------------------------------------------------------


def test_offset_pages(box, client):
    ids = [user["id"] for user in box.add("users", 130)]

    def page(**params):
        body = client.body("/users", **params)
        return [user["id"] for user in body.pop("users")], body

    assert page() == (
        ids[:25],
        {"limit": 25, "offset": 0, "more": True, "total": None},
    )
    assert page(limit=500, offset=10, total="true") == (
        ids[10:110],
        {"limit": 100, "offset": 10, "more": True, "total": 130},
    )
    assert page(limit=30, offset=100, total="false") == (
        ids[100:],
        {"limit": 30, "offset": 100, "more": False, "total": None},
    )
    assert page(offset=130)[0] == []


def test_an_endpoint_may_have_its_own_largest_page(box, client):
    box.add("v3/schedules", 1001)
    assert len(client.body("/v3/schedules", limit=2000)["schedules"]) == 1000


def test_there_is_no_offset_beyond_10_000(client):
    assert client.get("/users?limit=100&offset=9900").status_code == 200
    answer = client.get("/users?limit=100&offset=9901")
    assert "10000" in errors_of(answer)


@pytest.mark.parametrize("params", ["limit=x", "offset=-1", "limit=1.5"])
def test_a_page_that_is_no_number_is_refused(client, params):
    assert params[:5] in errors_of(client.get(f"/users?{params}"))


def test_cursor_pages(box, client):
    records = box.add("audit/records", 60)
    body = client.body("/audit/records")
    assert (body["records"], body["limit"]) == (records[:25], 25)
    assert not {"more", "offset", "total"} & set(body)
    body = client.body("/audit/records", limit=40, cursor=body["next_cursor"])
    assert body["records"] == records[25:]
    assert body["next_cursor"] is None
    errors_of(client.get("/audit/records?cursor=nonsense"))


def test_after_pages(box, client):
    settings = box.add("alert_grouping_settings", 30)
    url = "/alert_grouping_settings"
    body = client.body(url)
    assert body["limit"] == 25
    body = client.body(url, after=body["after"])
    assert body["alert_grouping_settings"] == settings[25:]
    assert body["after"] is None


def test_raw_analytics_are_paginated_by_the_body(box, client):
    ids = [r["id"] for r in box.add("analytics/raw/incidents", 5)]
    url = "/analytics/raw/incidents"
    body = client.post(url, json={"limit": 3}).json()
    assert [record["id"] for record in body["data"]] == ids[:3]
    assert (body["first"], body["last"]) == (ids[0], ids[2])
    assert body["more"] is True
    asked = {"limit": 3, "starting_after": body["last"]}
    body = client.post(url, json=asked).json()
    assert [record["id"] for record in body["data"]] == ids[3:]
    assert body["more"] is False


def test_analytics_answer_with_data(box, client):
    data = box.add("analytics/metrics/incidents/all", 2)
    asked = {"filters": {"urgency": "high"}}
    body = client.post("/analytics/metrics/incidents/all", json=asked).json()
    assert body == {**asked, "data": data}


# -- What PagerDuty does beyond ---------------------------------------------


def test_incidents_change_their_status(box, client):
    incident = box.add("incidents")[0]
    assert incident["summary"] == f"[#1] {incident['title']}"
    url = f"/incidents/{incident['id']}"

    def put(**content):
        answer = client.put(url, json={"incident": content})
        assert answer.status_code == 200, answer.text
        return answer.json()["incident"]

    changed = put(type="incident_reference", status="acknowledged")
    assert (changed["type"], changed["status"]) == ("incident", "acknowledged")
    assert len(changed["acknowledgements"]) == 1
    assert put(title="T")["acknowledgements"] == changed["acknowledgements"]
    changed = put(**{**changed, "status": "resolved"})
    assert changed["resolved_at"]
    assert changed["acknowledgements"] == []
    assert put(status="triggered")["resolved_at"] is None
    body = {"incident": {"status": "burning"}}
    assert "burning" in errors_of(client.put(url, json=body))


def test_incidents_are_created_and_assigned(box, client):
    user = box.add("users", 2)[1]
    assignee = {"id": user["id"], "type": "user_reference"}
    content = {
        "type": "incident",
        "title": "T",
        "service": {"id": "PSERV01", "type": "service_reference"},
        "assignments": [{"assignee": assignee}],
    }
    answer = client.post("/incidents", json={"incident": content})
    incident = answer.json()["incident"]
    assert (answer.status_code, incident["status"]) == (201, "triggered")
    for name, number in ((user["id"], 1), ("PNONE01", 0)):
        found = client.body("/incidents", **{"user_ids[]": name})
        assert len(found["incidents"]) == number
    del content["service"]
    answer = client.post("/incidents", json={"incident": content})
    assert errors_of(answer) == "Service cannot be empty"


def test_multi_update_takes_250(box, client):
    ids = [incident["id"] for incident in box.add("incidents", 251)]
    items = [{"id": i, "status": "resolved"} for i in ids]
    answer = client.put("/incidents", json={"incidents": items})
    assert "250" in errors_of(answer, 413)
    body = client.body("/incidents", **{"statuses[]": "resolved"})
    assert body["incidents"] == []
    answer = client.put("/incidents", json={"incidents": items[:250]})
    assert [i["id"] for i in answer.json()["incidents"]] == ids[:250]
    assert {i["status"] for i in answer.json()["incidents"]} == {"resolved"}
    unknown = [{"id": ids[250], "status": "resolved"}, {"id": "PNONE01"}]
    errors_of(client.put("/incidents", json={"incidents": unknown}), 404)
    body = client.body("/incidents", **{"statuses[]": "triggered"})
    assert [i["id"] for i in body["incidents"]] == ids[250:]


def test_overrides_are_judged_one_by_one(box, client):
    box.add("schedules", id="PGHI789")
    good = {
        "start": "2023-07-01T00:00:00Z",
        "end": "2023-07-01T04:30:00Z",
        "user": {"id": "PEYSGVA", "type": "user_reference"},
    }
    bad = {**good, "end": "2023-06-30T04:00:00Z"}
    url = "/schedules/PGHI789/overrides"
    answer = client.post(url, json={"overrides": [good, bad]})
    assert answer.status_code == 201
    created, refused = answer.json()
    assert (created["status"], refused["status"]) == (201, 400)
    assert created["override"]["user"] == good["user"]
    assert refused["errors"] == ["Override must end after its start"]
    assert refused["override"] == bad
    july = {"since": "2023-07-01T00:00:00Z", "until": "2023-07-02T00:00:00Z"}
    assert client.body(url, **july) == {"overrides": [created["override"]]}
    override_id = created["override"]["id"]
    assert client.delete(f"{url}/{override_id}").status_code == 204
    assert client.body(url, **july) == {"overrides": []}


def test_subscribers_get_subscriptions(box, session):
    box.add("business_services", id="P1")
    item = {"subscriber_id": "PUSER01", "subscriber_type": "user"}
    url = "/business_services/P1/subscribers"
    subscription = session.rpost(url, json=[item])[0]
    assert subscription == {**subscription, **item, "result": "success"}
    assert session.rget(url)[0]["subscriber_id"] == "PUSER01"


def test_status_updates_are_sent_unwrapped(box, session):
    incident = box.add("incidents")[0]
    url = f"/incidents/{incident['id']}/status_updates"
    update = session.rpost(url, json={"message": "It burns."})
    assert update["message"] == "It burns."
    assert box.requests[-1].json == {"message": "It burns."}


# -- Events -----------------------------------------------------------------

PAYLOAD = {"summary": "S", "source": "s", "severity": "critical"}


def send(box, path="/v2/enqueue", **event):
    event.setdefault("routing_key", "any-key")
    return requests.post(box.url + path, json=event, timeout=TIMEOUT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dedup_key": "k" * 256},
        {"links": [{"text": "a link"}]},
        {"images": [{"href": "https://x.example"}]},
        {"links": "https://x.example"},
        {"client": "x" * 511900},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_events_that_the_api_refuses(box, wrong):
    payload = {"summary": "s", "source": "s", "severity": "info"}
    event = {"event_action": "trigger", "payload": payload}
    assert send(box, **event).status_code == 202
    assert send(box, **event, **wrong).status_code == 400


def test_an_event_that_is_nested_too_deeply_is_refused(box):
    url = box.url + "/v2/enqueue"
    assert requests.post(url, data="[" * 100000).status_code == 400


def act(box, action, dedup_key="D", **event):
    answer = send(box, event_action=action, dedup_key=dedup_key, **event)
    assert answer.json() == {
        "status": "success",
        "message": "Event processed",
        "dedup_key": dedup_key,
    }
    assert answer.status_code == 202


def statuses(client):
    incidents = client.body("/incidents")["incidents"]
    return [incident["status"] for incident in incidents]


def test_alerts_make_incidents_and_change_them(box, client):
    act(box, "resolve")
    act(box, "acknowledge")
    assert statuses(client) == []
    act(box, "trigger", payload=PAYLOAD)
    act(box, "trigger", payload=PAYLOAD)
    assert statuses(client) == ["triggered"]
    act(box, "acknowledge")
    assert statuses(client) == ["acknowledged"]
    act(box, "trigger", payload=PAYLOAD)
    assert statuses(client) == ["acknowledged"]
    act(box, "trigger", payload=PAYLOAD, routing_key="other-key")
    act(box, "trigger", payload=PAYLOAD, dedup_key="E")
    assert statuses(client) == ["acknowledged", "triggered", "triggered"]
    act(box, "resolve")
    assert statuses(client) == ["resolved", "triggered", "triggered"]
    act(box, "acknowledge")
    act(box, "trigger", payload=PAYLOAD)
    assert statuses(client)[0] == "resolved"
    assert statuses(client)[3:] == ["triggered"]


def test_an_incident_shows_its_alert(box, client):
    details = {"load": 99}
    payload = {**PAYLOAD, "severity": "warning", "custom_details": details}
    act(box, "trigger", payload=payload)
    incident = client.body("/incidents")["incidents"][0]
    assert (incident["title"], incident["urgency"]) == ("S", "low")
    assert incident["incident_key"] == "D"
    url = f"/incidents/{incident['id']}"
    alert = client.body(url + "/alerts")["alerts"][0]
    assert alert["body"]["details"]["custom_details"] == details
    assert (alert["status"], alert["severity"]) == ("triggered", "warning")
    client.put(url, json={"incident": {"status": "resolved"}})
    alert = client.body(url + "/alerts")["alerts"][0]
    assert alert["status"] == "resolved"
    act(box, "trigger", payload=payload)
    assert statuses(client) == ["resolved", "triggered"]


def test_a_dedup_key_is_given_to_those_who_send_none(box):
    answers = [
        send(box, event_action="trigger", payload=PAYLOAD).json()
        for _ in range(2)
    ]
    keys = {answer["dedup_key"] for answer in answers}
    assert len(keys) == 2
    assert all(keys)


def trigger(**payload):
    return {"event_action": "trigger", "payload": {**PAYLOAD, **payload}}


@pytest.mark.parametrize(
    "event, expected",
    [
        ({**trigger(), "routing_key": ""}, "routing_key"),
        ({"event_action": "explode"}, "event_action"),
        ({"payload": PAYLOAD}, "event_action"),
        ({"event_action": "trigger"}, "payload"),
        (trigger(summary=""), "payload.summary"),
        (trigger(source=None), "payload.source"),
        (trigger(severity=""), "payload.severity"),
        (trigger(severity="awful"), "payload.severity"),
        (trigger(summary="x" * 1025), "payload.summary"),
        ({"event_action": "acknowledge"}, "dedup_key"),
        ({"event_action": "resolve", "dedup_key": ""}, "dedup_key"),
        (trigger(component="x" * 524288), "512 KB"),
    ],
)
def test_invalid_alerts_are_refused(box, client, event, expected):
    answer = send(box, **event)
    assert answer.status_code == 400
    body = answer.json()
    assert body["status"] == "invalid event"
    assert body["message"]
    assert len(body["errors"]) == 1
    assert expected in body["errors"][0]
    assert statuses(client) == []


def test_the_limits_of_an_alert_are_within(box):
    event = trigger(summary="x" * 1024)
    assert send(box, **event).status_code == 202


def test_what_is_no_event_is_refused(box):
    url = box.url + "/v2/enqueue"
    for data in (b"", b"{", b"[]"):
        answer = requests.post(url, data=data, timeout=TIMEOUT)
        assert answer.status_code == 400
        assert answer.json()["errors"] == ["JSON parse error"]
    assert requests.get(url, timeout=TIMEOUT).status_code == 405


def test_change_events(box, client):
    path = "/v2/change/enqueue"
    links = [{"href": "https://example.com"}]
    answer = send(box, path, payload={"summary": "built"}, links=links)
    assert answer.status_code == 202
    assert answer.json() == {
        "status": "success",
        "message": "Change event processed",
    }
    change = client.body("/change_events")["change_events"][0]
    assert (change["summary"], change["links"]) == ("built", links)
    for event in (
        {},
        {"payload": {}},
        {"payload": {"summary": "x" * 1025}},
        {"payload": {"summary": "x"}, "routing_key": None},
    ):
        answer = send(box, path, **event)
        assert answer.status_code == 400
        assert answer.json()["errors"]


def test_the_events_sessions_of_pdpyras(box, session):
    with pdpyras.EventsAPISession("any-key") as events:
        events.url = box.url
        key = events.trigger("It burns.", "server", custom_details={"a": 1})
        events.acknowledge(key)
        assert session.list_all("incidents")[0]["status"] == "acknowledged"
        events.resolve(key)
        assert session.list_all("incidents")[0]["status"] == "resolved"
    with pdpyras.ChangeEventsAPISession("any-key") as changes:
        changes.url = box.url
        changes.submit("built", source="ci")
    assert session.rget("change_events")[0]["source"] == "ci"


# -- Trouble ----------------------------------------------------------------


def test_planned_failures_strike_so_many_requests(box, client):
    box.fail(429, reset=2, times=2)
    box.fail(503)
    seen = [client.post("/teams", json={"team": {"name": "T"}})]
    seen += [client.get("/teams") for _ in range(3)]
    assert [a.status_code for a in seen] == [429, 429, 503, 200]
    assert seen[0].headers["ratelimit-reset"] == "2"
    assert seen[0].json()["error"]["message"] == "Too Many Requests"
    assert "ratelimit-reset" not in seen[2].headers
    assert seen[3].json()["teams"] == []
    assert len(box.requests) == 4


def test_planned_failures_do_not_pile_up_tracebacks(box, client):
    box.fail(503, times=3)
    planned = box._faults[0][0]
    for _ in range(3):
        assert client.get("/users").status_code == 503
    assert planned.__traceback__ is None


def test_a_failure_may_be_of_a_path_only(box, client):
    user = box.add("users")[0]
    box.fail(500, path="teams", times=99)
    box.fail(502, path="/users/{id}")
    box.fail(503, path=f"users/{user['id']}")
    box.fail(504, path="/v2/enqueue")
    found = [client.get(f"/users/{user['id']}").status_code for _ in "123"]
    assert found == [502, 503, 200]
    assert send(box).status_code == 504
    assert [client.get("/teams").status_code for _ in "123"] == [500] * 3
    box.clear()
    assert client.get("/teams").status_code == 200


def test_a_connection_may_break_in_mid_answer(box, client):
    box.drop(times=2)
    body = {"team": {"name": "T"}}
    for call in (
        lambda: client.post("/teams", json=body),
        lambda: client.get("/teams"),
    ):
        with pytest.raises(
            (
                requests.ConnectionError,
                requests.exceptions.ChunkedEncodingError,
            )
        ):
            call()
    assert [team["name"] for team in client.body("/teams")["teams"]] == ["T"]


def test_half_of_a_broken_answer_arrives(box):
    box.drop()
    with socket.create_connection(("127.0.0.1", box.port)) as sock:
        sock.settimeout(TIMEOUT)
        sock.sendall(ask(box))
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_broken_answer_without_a_body_is_noticed(box, client):
    team = box.add("teams")[0]
    box.drop(path="/teams/{id}")
    assert client.get("/teams").status_code == 200
    with pytest.raises(requests.ConnectionError):
        client.delete(f"/teams/{team['id']}")


def test_pdpyras_survives_trouble(box, session, naps):
    users = box.add("users", 250)
    box.fail(429, reset=2, times=3)
    box.drop()
    assert session.list_all("users") == users
    assert len(naps) == 4
    assert len(box.requests) == 3 + 4


def test_the_rate_limit():
    now = [1000.0]
    with Sandbox(rate_limit=3, clock=lambda: now[0]) as box, Client(
        box.url
    ) as client, Client(box.url, key="other-key") as other:

        def ask(client=client):
            answer = client.get("/users")
            names = ("limit", "remaining", "reset")
            headers = [int(answer.headers[f"ratelimit-{n}"]) for n in names]
            return [answer.status_code, *headers]

        assert ask() == [200, 3, 2, 60]
        now[0] += 10.5
        assert ask() == [200, 3, 1, 50]
        assert ask() == [200, 3, 0, 50]
        assert ask() == [429, 3, 0, 50]
        assert ask(other) == [200, 3, 2, 60]
        assert errors_of(client.get("/users"), 429) == ""
        now[0] += 49
        assert ask() == [429, 3, 0, 1]
        now[0] += 0.5
        assert ask() == [200, 3, 2, 60]


def test_a_minute_has_no_61_seconds():
    start = 1003.9
    assert start + 60 - start > 60  # as floats have it
    now = [start]
    with Sandbox(clock=lambda: now[0]) as box, Client(box.url) as client:

        def reset():
            return int(client.get("/users").headers["ratelimit-reset"])

        assert reset() == 60
        now[0] -= 5  # a clock that was set back
        assert reset() == 60


def test_refused_requests_tell_the_rate_limit_too():
    with Sandbox(rate_limit=9) as box, Client(box.url) as client:
        headers = client.get("/users/PNONE01").headers
        assert headers["ratelimit-remaining"] == "8"
        assert headers["ratelimit-limit"] == "9"


def test_without_a_limit_the_usual_one_is_never_used_up(client):
    for _ in range(2):
        headers = client.get("/users").headers
        assert headers["ratelimit-limit"] == "960"
        assert headers["ratelimit-remaining"] == "960"
        assert 0 < int(headers["ratelimit-reset"]) <= 60


# -- Threads ----------------------------------------------------------------


def test_many_threads_lose_nothing(box):
    failures = []

    def work(number):
        try:
            with Client(box.url, key=f"key-{number}") as client:
                for n in range(20):
                    name = f"{number}-{n}"
                    body = {"team": {"name": name}}
                    client.post("/teams", json=body).raise_for_status()
                    send(box, **trigger(), dedup_key=str(n))
                    client.body("/teams", query=name)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(box.requests) == 300
    with Client(box.url) as client:
        assert client.body("/teams", total="true")["total"] == 100
        assert client.body("/incidents", total="true")["total"] == 20


# -- Command line -----------------------------------------------------------


def run(*arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "pdpyras_sandbox", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    )


def test_the_command_serves_until_ctrl_c():
    arguments = ("--users", "7", "--rate-limit", "3", "--latency", "0.01")
    with run(*arguments) as process:
        try:
            lines = []
            while "Ctrl-C" not in "".join(lines[-1:]):
                lines.append(process.stdout.readline())
                assert lines[-1], process.stderr.read()
            url = re.search(r"REST API:\s+(\S+)", lines[0]).group(1)
            assert re.search(r"Events API:\s+(\S+)", lines[1]).group(1) == url
            start = next(n for n, li in enumerate(lines) if "import" in li)
            names = {}
            exec("".join(lines[start : start + 2]), names)
            with names["session"] as session:
                assert session.url == url
                assert len(session.list_all("users")) == 7
            with Client(url) as client:
                headers = client.get("/users").headers
                assert headers["ratelimit-remaining"] == "1"
                process.send_signal(signal.SIGINT)
                status = process.wait(TIMEOUT)
            assert (status, process.stdout.read()) == (0, "")
            assert process.stderr.read() == ""
        finally:
            process.kill()


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--port", "taken"], 1, "cannot be had"),
        (["--port", "70000"], 1, "cannot be had"),
        (["--port", "x"], 2, "--port"),
    ],
)
def test_the_command_says_what_is_wrong(box, arguments, status, message):
    arguments = [a.replace("taken", str(box.port)) for a in arguments]
    process = run(*arguments)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out) == (status, "")
    assert message in err
    assert "Traceback" not in err


def test_records_are_filtered_by_the_time_of_their_creation(box, client):
    box.add("incidents", created_at="2026-01-01T00:00:00Z", id="POLD")
    box.add("incidents", created_at="2026-06-01T00:00:00Z", id="PNEW")
    since = {"since": "2026-03-01T00:00:00Z", "until": "2026-07-01"}
    found = client.get("/incidents", params=since).json()["incidents"]
    assert [incident["id"] for incident in found] == ["PNEW"]
    until = {"since": "2025-12-01", "until": "2026-03-01T00:00:00Z"}
    found = client.get("/incidents", params=until).json()["incidents"]
    assert [incident["id"] for incident in found] == ["POLD"]


@pytest.mark.parametrize(
    "numbers", [{"users": -1}, {"latency": -1}, {"rate_limit": 0}]
)
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match="negative"):
        Sandbox(**numbers)


def test_only_lists_that_can_be_searched_take_a_query(box, session):
    """Elsewhere the API ignores it, so that persist finds what is there."""
    (user,) = box.add("users", 1)
    path = f"/users/{user['id']}/contact_methods"
    entry = {"type": "email_contact_method", "address": "a@example.com"}
    before = len(session.rget(path))
    made = session.persist(path, "address", entry)
    assert session.persist(path, "address", entry)["id"] == made["id"]
    assert len(session.rget(path)) == before + 1
    assert session.rget("/users", params={"query": "none"}) == []
