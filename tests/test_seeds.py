"""The users' documents: every Python sample runs, and keeps its promises.

The documents are not part of this project. They are read where they lie:
beside the repository, or in the directory that ``PDPYRAS_SEEDS`` names.
Without them each sample's test is skipped. What the documents promise in
prose alone is tested at the end, with or without them.

A sample is called by its document and its number in it: ``000-04``. It runs
as it is written, against a sandbox, with the variables that it presupposes;
what its comments and the prose around it say is asserted here.
"""

import ast
import doctest
import glob
import itertools
import json
import logging
import os
import re
import textwrap
from functools import partial
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Tuple,
)

import pytest
import requests

import pdpyras
from api_toolkit.connector import APIConnector
from pdpyras_sandbox import Sandbox
from tests import wire
from tests.support import (
    API,
    KEY,
    ROOT,
    ROUTING_KEY,
    redirect_sessions,
    told,
)

DOCUMENTS = os.environ.get(
    "PDPYRAS_SEEDS", os.path.join(ROOT, "..", "shared", "seeds")
)
OAUTH_TOKEN = "not-a-real-oauth-token"


# ---------------------------------------------------------------------------
# Finding the samples
# ---------------------------------------------------------------------------


class Sample(NamedTuple):
    """A sample: its document, the line before its first, and its code."""

    path: str
    line: int
    code: str


def block(lines: List[str], start: int) -> Iterable[str]:
    """The lines of the sample that line ``start`` announces, if it does."""
    opening, following = lines[start].strip(), lines[start + 1 :]
    if opening == ".. code-block:: python":
        return itertools.takewhile(
            lambda line: line.startswith(" ") or not line.strip(), following
        )
    if opening == "```python":
        return itertools.takewhile(lambda line: line != "```", following)
    return ()


def samples_of(path: str) -> Iterator[Sample]:
    """The Python samples of a document, in their order."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    for number in range(len(lines)):
        code = textwrap.dedent("\n".join(block(lines, number)))
        if code:
            yield Sample(path, number + 1, code.rstrip() + "\n")


def all_samples() -> Dict[str, Sample]:
    """All samples by their names; none without the documents."""
    return {
        f"{os.path.basename(path)[:3]}-{number:02}": sample
        for path in sorted(glob.glob(os.path.join(DOCUMENTS, "00[0-3]_*")))
        for number, sample in enumerate(samples_of(path), 1)
    }


SAMPLES = all_samples()
needs_documents = pytest.mark.skipif(
    not SAMPLES,
    reason="the users' documents are not here; PDPYRAS_SEEDS may name them",
)


# ---------------------------------------------------------------------------
# Running them
# ---------------------------------------------------------------------------

Promise = Callable[["Desk"], None]
PROMISES: Dict[str, Promise] = {}


def sample(*names: str) -> Callable[[Promise], Promise]:
    """Note that a function runs these samples and checks the promises."""

    def note(promise: Promise) -> Promise:
        assert not PROMISES.keys() & set(names)
        PROMISES.update(dict.fromkeys(names, promise))
        return promise

    return note


class Desk:
    """A sample, a sandbox, sessions on it, and what came of running it."""

    def __init__(
        self, name: str, box: Sandbox, naps: List[float], capsys: Any
    ) -> None:
        self.name = name
        self.box = box
        self.naps = naps
        self.capsys = capsys
        self.code = SAMPLES[name].code if name in SAMPLES else ""
        self.api = pdpyras.APISession(KEY)
        self.events = pdpyras.EventsAPISession(ROUTING_KEY)
        self.changes = pdpyras.ChangeEventsAPISession(ROUTING_KEY)
        self.names: Dict[str, Any] = {}
        self.sessions: List[requests.Session] = []
        self.sessions += [self.api, self.events, self.changes]

    def steps(self, **presupposed: Any) -> Iterator[Dict[str, Any]]:
        """Run the sample, and stop after each of its statements."""
        self.names = {
            "pdpyras": pdpyras,
            "PDClientError": pdpyras.PDClientError,
            "session": self.api,
            "events_session": self.events,
            "change_events_session": self.changes,
            **presupposed,
        }
        # Padded, so that a traceback shows the lines of the document.
        path, line, _ = SAMPLES[self.name]
        module = ast.parse("\n" * line + self.code)
        for statement in list(module.body):
            module.body = [statement]
            code = compile(module, path, "exec", dont_inherit=True)
            exec(code, self.names)
            self.sessions += [
                value
                for value in self.names.values()
                if isinstance(value, requests.Session)
            ]
            yield self.names

    def run(self, **presupposed: Any) -> Dict[str, Any]:
        """Run the sample; return its variables."""
        for _ in self.steps(**presupposed):
            pass
        return self.names

    def close(self) -> None:
        for session in self.sessions:
            session.close()

    @property
    def printed(self) -> List[str]:
        """The lines that were printed since this was asked last."""
        lines: List[str] = self.capsys.readouterr().out.splitlines()
        return lines

    @property
    def asked(self) -> List[str]:
        """Method and path of each request that the sandbox received."""
        return [f"{r.method} {r.path}" for r in self.box.requests]

    @property
    def sent(self) -> Any:
        """The decoded body of the last request."""
        return self.box.requests[-1].json

    def queries(self) -> List[List[Tuple[str, str]]]:
        return [request.query for request in self.box.requests]

    def targets(self) -> List[str]:
        """Filled, from now on, with path and query as they were sent."""
        seen: List[str] = []
        self.api.hooks["response"].append(
            lambda response, **_: seen.append(response.request.path_url)
        )
        return seen


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox, to which new sessions talk of their own accord."""
    with Sandbox() as running:
        redirect_sessions(monkeypatch, running.url)
        monkeypatch.setenv("PD_API_KEY", KEY)
        yield running


@pytest.fixture
def desk(
    request: Any, box: Sandbox, naps: List[float], capsys: Any
) -> Iterator[Desk]:
    ready = Desk(getattr(request, "param", ""), box, naps, capsys)
    yield ready
    ready.close()


@pytest.fixture
def api(desk: Desk) -> pdpyras.APISession:
    return desk.api


def assigned(user_id: str) -> List[Dict[str, Any]]:
    """What the property ``assignments`` of an incident holds."""
    assignee = {"id": user_id, "type": "user_reference"}
    return [{"at": "2023-07-01T00:00:00Z", "assignee": assignee}]


def tunnels(session: pdpyras.PDSession, path: str) -> List[str]:
    """Where the session would send a POST, and its key: what it asks a
    proxy for. The proxy lets nothing out."""
    session.max_network_attempts = 0
    with wire.Proxy() as proxy:
        session.proxies["https"] = proxy.url
        with pytest.raises(pdpyras.PDClientError):
            session.post(path, json={})
        return [request.target for request in proxy.requests]


# ---------------------------------------------------------------------------
# Sessions
# ---------------------------------------------------------------------------


@sample("000-01", "001-01")
def a_session_for_each_kind_of_api(desk: Desk) -> None:
    names = desk.run(
        API_KEY=KEY, OAUTH_TOKEN=OAUTH_TOKEN, ROUTING_KEY=ROUTING_KEY
    )
    names["session"].get("users")
    names["session_oauth"].get("users")
    key, token = [r.headers["authorization"] for r in desk.box.requests]
    assert key == f"Token token={KEY}"
    assert token == f"Bearer {OAUTH_TOKEN}"
    names["events_session"].trigger("Disk is full", "db1.example.com")
    assert desk.asked[-1] == "POST /v2/enqueue"
    assert desk.sent["routing_key"] == ROUTING_KEY
    assert desk.box.requests[-1].headers["authorization"] is None
    names["change_events_session"].submit("Deployed")
    assert desk.asked[-1] == "POST /v2/change/enqueue"
    assert desk.sent["routing_key"] == ROUTING_KEY


@sample("000-02", "001-02")
def a_session_is_a_context_manager(desk: Desk) -> None:
    pools: List[Any] = []

    def do_application(session: pdpyras.APISession) -> None:
        assert session.get("users").ok
        adapter: Any = session.get_adapter(session.url)
        pools.append(adapter.poolmanager.pools)
        assert len(pools[0]) == 1

    names = desk.run(API_KEY=KEY, do_application=do_application)
    assert isinstance(names["session"], requests.Session)
    assert desk.asked == ["GET /users"]
    assert len(pools[0]) == 0


@sample("000-03")
def other_service_regions(desk: Desk) -> None:
    desk.run()
    assert tunnels(desk.api, "users") == ["api.eu.pagerduty.com:443"]
    assert tunnels(desk.events, "v2/enqueue") == [
        "events.eu.pagerduty.com:443"
    ]


@sample("000-25", "001-11")
def debugging(desk: Desk) -> None:
    steps = desk.steps(api_key=KEY)
    switches = []
    for names in steps:
        session = names["session"]
        session.get("users")
        is_told = "/users" in desk.capsys.readouterr().err
        assert is_told == session.print_debug == session.debug
        level = logging.DEBUG if is_told else logging.NOTSET
        assert session.log.level == level
        handlers = [type(handler) for handler in session.log.handlers]
        assert handlers == [logging.StreamHandler] * is_told
        switches.append(is_told)
    assert switches == [True, True, False]


@sample("000-26", "001-14")
def a_proxy(desk: Desk) -> None:
    desk.api.url = API
    desk.run()
    assert desk.api.proxies["https"] == "10.42.187.3:4012"
    with wire.Proxy() as proxy:
        local = f"127.0.0.1:{proxy.port}"
        desk.code = desk.code.replace("10.42.187.3:4012", local)
        desk.run()
        with pytest.raises(pdpyras.PDClientError):
            desk.api.get("users")
        targets = {request.target for request in proxy.requests}
        assert targets == {"api.pagerduty.com:443"}


@sample("002-06")
def an_access_token(desk: Desk) -> None:
    desk.run(oauth_token_here=OAUTH_TOKEN)["session"].get("users")
    header = desk.box.requests[0].headers["authorization"]
    assert header == f"Bearer {OAUTH_TOKEN}"


# ---------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------


@sample("000-04", "001-03", "002-01")
def a_user_in_several_ways(desk: Desk) -> None:
    (user,) = desk.box.add("users", id="PABC123", email="user@example.com")
    users = []
    for names in desk.steps():
        if names.get("user"):
            users.append(names.pop("user"))
    assert users == [user] * len(desk.asked)
    assert len(users) == (3 if "jget" in desk.code else 2)


@sample("000-05", "001-04", "002-02")
def all_users(desk: Desk) -> None:
    users = desk.box.add("users", 150)
    desk.run()
    lines = [f"{u['id']} {u['email']} {u['name']}" for u in users]
    assert desk.printed == lines
    assert desk.asked == ["GET /users"] * 2


@sample("000-06", "001-05", "002-03")
def services_by_name(desk: Desk) -> None:
    wanted = desk.box.add("services", 130, name="SN gateway")
    desk.box.add("services", 30)
    names = desk.run()
    assert names["services"] == wanted
    assert {service["type"] for service in wanted} == {"service"}
    assert [dict(query)["query"] for query in desk.queries()] == ["SN"] * 2


@sample("000-07", "001-07")
def a_user_by_email(desk: Desk) -> None:
    assert desk.run()["user"] is None
    desk.box.clear()
    desk.box.add("users", 120, email="mary-jane@example35.com")
    (jane,) = desk.box.add("users", email="jane@example35.com")
    desk.box.add("users", 120, email="jane@example35.com.example")
    assert desk.run()["user"] == jane
    sought = [dict(query)["query"] for query in desk.queries()]
    assert sought == ["jane@example35.com"] * 2  # of three pages


@sample("000-15")
def a_query_string(desk: Desk) -> None:
    (dan, *_) = desk.box.add("users", 2, name="Dan")
    targets = desk.targets()
    assert desk.run()["first_dan"] == [dan]
    assert targets == spelled_out(desk.code)


@sample("000-16")
def multi_valued_parameters(desk: Desk) -> None:
    wanted = desk.box.add("services", 82, name="Some foo")
    desk.box.add("services", 30)
    targets = desk.targets()
    assert desk.run()["foo_services"] == wanted
    assert targets == spelled_out(desk.code)


def spelled_out(code: str) -> List[str]:
    """Path and query of the requests that comments spell out."""
    urls = re.findall(r"^# GET (\S+)$", code, re.MULTILINE)
    assert urls and all(url.startswith(API) for url in urls)
    return [url[len(API) :] for url in urls]


@sample("000-10")
def incidents_of_a_user(desk: Desk) -> None:
    for status in ("triggered", "acknowledged", "resolved"):
        for user_id in ("PHIJ789", "POTHER1"):
            desk.box.add(
                "incidents", status=status, assignments=assigned(user_id)
            )
    incidents = desk.run()["incidents"]
    statuses = [incident["status"] for incident in incidents]
    assert statuses == ["triggered", "acknowledged"]
    assert desk.queries()[0] == [
        ("user_ids[]", "PHIJ789"),
        ("statuses[]", "triggered"),
        ("statuses[]", "acknowledged"),
        ("limit", "100"),
        ("offset", "0"),
    ]


@sample("000-17")
def the_id_of_a_request(desk: Desk) -> None:
    response = desk.run()["response"]
    assert isinstance(response, requests.Response)
    assert desk.printed == [response.headers["x-request-id"]]
    assert response.json()["incidents"] == []


@sample("001-06")
def audit_records(desk: Desk) -> None:
    records = desk.box.add("audit/records", 250)
    assert desk.run()["audit_records"] == records
    cursors = [dict(query).get("cursor") for query in desk.queries()]
    assert cursors[0] is None and all(cursors[1:]) and len(cursors) == 3


def add_daves(desk: Desk) -> List[str]:
    """Users of whom some have "Dav" in their name; how these are shown."""
    daves = desk.box.add("users", 60, name="Dave Doe")
    desk.box.add("users", 60, name="Someone", email="no@example.com")
    daves += desk.box.add("users", 60, name="David Roe")
    return [f"{dave['name']} <{dave['email']}>" for dave in daves]


def add_bob(desk: Desk) -> str:
    """A user with a certain e-mail, among others; the user's id."""
    desk.box.add("users", 120)
    (bob,) = desk.box.add("users", email="bob@example.com")
    return str(bob["id"])


@sample("001-15", "002-07")
def users_by_a_part_of_their_name(desk: Desk) -> None:
    lines = add_daves(desk)
    desk.run()
    assert desk.printed == lines
    assert len(desk.asked) == 2


@sample("001-16", "002-08")
def users_by_their_email(desk: Desk) -> None:
    bob_id = add_bob(desk)
    users = desk.run()["users"]
    assert desk.printed == [bob_id]
    assert len(users) == 121
    assert all(user["email"] == email for email, user in users.items())


@sample("000-21")
def ways_to_find_users(desk: Desk) -> None:
    bob_id = add_bob(desk)
    lines = add_daves(desk)
    names = desk.run()
    # The sandbox's plausible users count a Dave or two of their own.
    printed = desk.printed
    assert [line for line in printed if line in lines] == lines
    assert all("Dav" in line for line in printed[:-2])
    assert printed[-2:] == [bob_id] * 2
    assert names["bob"] == names["users"]["bob@example.com"]


@sample("002-09")
def a_service(desk: Desk) -> None:
    desk.box.add("services", id="PZYX321", name="Web shop")
    desk.run()
    assert desk.printed == ["Service PZYX321's name: Web shop"]


@sample("002-10")
def one_page_of_users(desk: Desk) -> None:
    daves = desk.box.add("users", 120, name="Dave")
    assert desk.run()["first_100_daves"] == daves[:100]
    assert desk.queries() == [[("query", "Dave"), ("limit", "100")]]


@sample("002-16")
def a_user_again(desk: Desk) -> None:
    desk.box.add("users", id="PSOMEUSR", name="Before")
    seen = []
    for names in desk.steps():
        seen.append(names["user"]["name"])
        desk.api.rput(names["user"], json={"name": "After"})
    assert seen == ["Before", "After"]
    assert desk.asked[::2] == ["GET /users/PSOMEUSR"] * 2


# ---------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------

RENAMED = {"user": {"type": "user", "name": "Jane Doe"}}


def check_both_updates(desk: Desk, **presupposed: Any) -> None:
    updated: Any = desk.run(**presupposed)["updated_user"]
    puts = [r for r in desk.box.requests if r.method == "PUT"]
    assert [r.path for r in puts] == ["/users/PJANE01"] * 2
    assert [r.json for r in puts] == [RENAMED] * 2
    assert (updated["id"], updated["name"]) == ("PJANE01", "Jane Doe")


def add_jane(desk: Desk) -> Dict[str, Any]:
    (jane,) = desk.box.add(
        "users", id="PJANE01", name="Jane Roe", email="jane@example35.com"
    )
    return jane


@sample("000-08", "001-08")
def an_update_in_two_ways(desk: Desk) -> None:
    user = add_jane(desk)
    check_both_updates(desk, user=user)
    desk.api.rdelete(user)
    assert desk.run(user=user)["updated_user"] is None
    if "is not None" in desk.code:
        desk.box.clear()
        assert "updated_user" not in desk.run(user=None)
        assert desk.asked == []


@sample("002-04")
def find_and_update(desk: Desk) -> None:
    assert "updated_user" not in desk.run()
    assert desk.asked == ["GET /users"]
    add_jane(desk)
    check_both_updates(desk)
    desk.box.fail(403, times=2, path="/users/{id}")
    assert desk.run()["updated_user"] is None


@sample("000-09", "001-09", "002-13")
def create_or_update(desk: Desk) -> None:
    user_data = {"email": "user123@example.com", "name": "User McUserson"}
    email = re.findall(r"\w+@\w+\.\w+", desk.code + str(user_data))[0]
    add_bob(desk)

    def persisted() -> Any:
        desk.box.clear()
        names = desk.run(user_data=user_data)
        return names.get("updated_user", names.get("user"))

    created = persisted()
    assert (created["name"], created["email"]) == ("User McUserson", email)
    assert desk.asked == ["GET /users", "POST /users"]
    assert desk.sent["user"]["email"] == email
    assert persisted() == created
    assert desk.asked == ["GET /users"]
    desk.api.put(created["self"], json={"user": {"name": "Other"}})
    if "update=True" in desk.code:
        assert persisted()["name"] == "User McUserson"
        assert desk.asked == ["GET /users", f"PUT /users/{created['id']}"]
    else:
        assert persisted()["name"] == "Other"
        assert desk.asked == ["GET /users"]
        assert desk.printed == ["User McUserson"] * 2 + ["Other"]
    assert len(desk.api.list_all("users", params={"query": email})) == 1
    if "except" in desk.code:
        desk.box.fail(400)
        assert desk.run(user_data=user_data)["updated_user"] is None


@sample("000-11", "001-10", "002-05")
def acknowledge_all(desk: Desk) -> None:
    desk.box.add("users", email="admin@example.com")
    mine = desk.box.add("incidents", 120, assignments=assigned("PHIJ789"))
    other = desk.box.add("incidents", assignments=assigned("POTHER1"))
    updated = desk.run()["updated_incidents"]
    assert [i["id"] for i in updated] == [i["id"] for i in mine]
    assert {i["status"] for i in updated} == {"acknowledged"}
    assert desk.asked == ["GET /incidents"] * 2 + ["PUT /incidents"]
    assert desk.queries()[0][:2] == [
        ("user_ids[]", "PHIJ789"),
        ("statuses[]", "triggered"),
    ]
    assert list(desk.sent) == ["incidents"]
    if "default_from" in desk.code:
        assert desk.box.requests[-1].headers["from"] == "admin@example.com"
    assert desk.api.rget(other[0])["status"] == "triggered"


@sample("000-22", "001-17", "002-15")
def resolve_two(desk: Desk) -> None:
    for incident_id in ("PABC123", "PDEF456", "PGHI789"):
        desk.box.add("incidents", id=incident_id)
    desk.run()
    assert desk.asked == ["PUT /incidents"]
    ids = [incident["id"] for incident in desk.sent["incidents"]]
    assert ids == ["PABC123", "PDEF456"]
    statuses = [i["status"] for i in desk.api.iter_all("incidents")]
    assert statuses == ["resolved", "resolved", "triggered"]


SECOND_NAME = "Daily Engineering Rotation"


def add_policy(desk: Desk) -> Any:
    """An escalation policy whose first rule has two targets."""
    targets = [
        {"id": "PAM4FGS", "type": "user_reference", "summary": "Somebody"},
        {"id": "PI7DH85", "type": "schedule_reference"},
    ]
    targets[1]["summary"] = SECOND_NAME
    rule = {"escalation_delay_in_minutes": 30, "targets": targets}
    desk.box.add("escalation_policies", id="PPOLICY", escalation_rules=[rule])
    return desk.api.rget("escalation_policies/PPOLICY")


@sample("000-18", "001-12")
def the_second_target(desk: Desk) -> None:
    expression, _, comment = desk.code.partition("\n# ")
    policy = add_policy(desk)
    assert eval(expression, {"ep": policy}) == json.loads(comment)
    assert json.loads(comment) == SECOND_NAME
    desk.run(ep=policy)


@sample("000-19", "001-13")
def a_new_level(desk: Desk) -> None:
    names = desk.run(ep=add_policy(desk))
    assert desk.asked[-1] == "PUT /escalation_policies/PPOLICY"
    assert desk.sent == {"escalation_policy": names["ep"]}
    saved = desk.api.rget(names["ep"])["escalation_rules"]
    assert len(saved) == 2 and saved[1] == names["new_rule"]


@sample("000-20")
def schedule_overrides(desk: Desk) -> None:
    desk.box.add("schedules", id="PGHI789")
    good, bad = desk.run()["created_overrides"]
    assert (
        list(desk.sent) == ["overrides"] and len(desk.sent["overrides"]) == 2
    )
    for item, said in zip((good, bad), re.findall(r"#     (.*)", desk.code)):
        promised = ast.literal_eval(said.replace("{...}", "{}").rstrip(","))
        assert item.keys() == promised.keys()
        assert item["status"] == promised["status"]
        assert item.get("errors") == promised.get("errors")
    assert good["status"] == 201 and bad["status"] == 400
    assert good["override"]["user"]["id"] == "PEYSGVA"
    assert bad["override"]["user"]["id"] == "PEYSGVF"


@sample("002-11")
def a_function_that_updates(desk: Desk) -> None:
    desk.box.add("users", id="PABC123", name="Jane Doe")
    promote = desk.run()["promote_to_admin"]
    promote(desk.api, "PABC123")
    assert desk.printed == ["Jane Doe now has admin superpowers"]
    assert desk.sent == {"user": {"role": "admin"}}
    assert desk.api.rget("users/PABC123")["role"] == "admin"


@sample("002-12")
def a_new_incident(desk: Desk) -> None:
    desk.box.add("users", email="user@example.com")
    names = desk.run()
    assert desk.asked == ["POST /incidents"]
    assert desk.box.requests[0].headers["from"] == names["sender"]
    assert desk.sent == {"incident": names["payload"]}
    assert names["pd_incident"]["title"] == names["payload"]["title"]
    assert names["pd_incident"]["status"] == "triggered"
    assert names["session"].default_from == names["sender"]


@sample("002-14")
def a_deletion(desk: Desk) -> None:
    desk.box.add("services", id="PI86NOW")
    desk.run()
    assert desk.asked == ["DELETE /services/PI86NOW"]
    assert desk.printed == ["Service deleted."]
    with pytest.raises(pdpyras.PDClientError):
        desk.run()
    assert desk.printed == []


@sample("002-17")
def the_deletion_of_a_resource(desk: Desk) -> None:
    desk.box.add("services", id="PABC123")
    desk.run(service=desk.api.rget("services/PABC123"))
    assert desk.asked[1:] == ["DELETE /services/PABC123"]
    assert desk.api.get("services/PABC123").status_code == 404


# ---------------------------------------------------------------------------
# Events
# ---------------------------------------------------------------------------


@sample("001-21", "002-22")
def an_events_session(desk: Desk) -> None:
    names = desk.run()
    names["session"].trigger("Disk is full", "db1.example.com")
    assert desk.asked == ["POST /v2/enqueue"]
    assert desk.sent["routing_key"] == names["routing_key"]


def run_events(desk: Desk) -> Iterator[Tuple[str, Any]]:
    """Run the sample, and tell after each event that it sends what becomes
    of the alert, and what was sent."""
    for _ in desk.steps(session=desk.events):
        (incident,) = desk.api.list_all("incidents")
        sent = [r for r in desk.box.requests if r.method == "POST"][-1]
        assert sent.path == "/v2/enqueue"
        assert incident["incident_key"] == desk.names.get(
            "dedup_key", "abc123"
        )
        yield incident["status"], sent.json


@sample("000-12", "001-22", "002-23")
def trigger_and_resolve(desk: Desk) -> None:
    (first, trigger), (last, resolve) = run_events(desk)
    assert (first, last) == ("triggered", "resolved")
    assert "dedup_key" not in trigger
    assert trigger["payload"]["summary"] == "Server is on fire"
    assert trigger["payload"]["source"] == "dusty.old.server.net"
    assert resolve["dedup_key"] == desk.names["dedup_key"]


@sample("000-13", "001-23", "002-24")
def trigger_and_acknowledge(desk: Desk) -> None:
    (first, trigger), (last, acknowledge) = run_events(desk)
    assert (first, last) == ("triggered", "acknowledged")
    assert trigger["dedup_key"] == acknowledge["dedup_key"] == "abc123"


@sample("000-14", "001-24")
def a_change_event(desk: Desk) -> None:
    is_newest = "change_events_session" in desk.code
    desk.run(**({} if is_newest else {"session": desk.changes}))
    assert desk.asked == ["POST /v2/change/enqueue"]
    assert desk.sent["routing_key"] == ROUTING_KEY
    (change,) = desk.api.list_all("change_events")
    assert change["summary"] == "new build finished at latest HEAD"
    assert change["source"] == "automation"


# ---------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------


@sample("000-23", "000-24", "001-18", "001-19")
def tell_errors_apart(desk: Desk) -> None:
    desk.run()
    assert desk.printed == ["User not found"]
    desk.box.add("users", id="PJKL678", email="jane@example.com")
    desk.run()
    assert desk.printed == ["jane@example.com"]
    for status in (401, 403, 500):
        desk.box.fail(status)
        with pytest.raises(pdpyras.PDHTTPError) as caught:
            desk.run()
        assert caught.value.response.status_code == status
        assert desk.printed == []
    desk.api.url = f"http://127.0.0.1:{wire.closed_port()}"
    desk.run()
    assert desk.printed == ["Non-transient network or client error"]


@sample("002-18")
def tell_errors_apart_in_the_old_way(desk: Desk) -> None:
    desk.run()
    assert desk.printed == ["User not found"]
    desk.box.add("users", id="PJKL678", email="jane@example.com")
    desk.run()
    assert desk.printed == ["jane@example.com"]
    desk.box.fail(500)
    desk.run()
    assert desk.printed == []
    desk.box.fail(401)
    with pytest.raises(pdpyras.PDClientError) as caught:
        desk.run()
    assert caught.value.response.status_code == 401
    desk.api.url = f"http://127.0.0.1:{wire.closed_port()}"
    with pytest.raises(pdpyras.PDClientError) as caught:
        desk.run()
    assert caught.value.response is None
    assert desk.printed == []


@sample("002-19", "002-20")
def a_clause_that_catches_errors(desk: Desk) -> None:
    # They show an except clause alone: its try and its body are ours.
    head, _, tail = desk.code.partition("\nexcept ")
    clause = "except " + tail.partition("\n")[0]
    desk.code = f"{head}\ntry:\n    work()\n{clause}\n    caught.append(e)\n"
    caught: List[Any] = []
    desk.run(work=lambda: desk.api.rget("users/PNOBODY"), caught=caught)
    assert caught[0].response.status_code == 404


# ---------------------------------------------------------------------------
# Retrying
# ---------------------------------------------------------------------------


@sample("000-27", "001-20", "002-21")
def pauses(desk: Desk) -> None:
    ends: List[int] = []
    for names in desk.steps():
        if len(desk.asked) > sum(ends):
            ends.append(len(desk.asked) - sum(ends))
            assert names["response"].status_code == 404
    assert set(desk.asked) == {"GET /users/PNOEXST"}
    assert desk.naps[:4] == [2, 4, 8, 16]
    assert sum(desk.naps[:4]) == 30
    if "max_http_attempts = 6" in desk.code:
        assert ends == [5, 6]
        assert desk.naps[4:] == [2, 4, 8, 16, 32]
        assert sum(desk.naps[4:]) == 62
    else:
        assert ends == [5] and len(desk.naps) == 4


# ---------------------------------------------------------------------------
# Connectors
# ---------------------------------------------------------------------------


@sample("003-01")
def a_connector(desk: Desk) -> None:
    connector = desk.run()["CustomConnector"](max_retries=1)
    assert connector.get_retry_settings() == {**DEFAULTS, "max_retries": 1}
    with wire.certificates("www.google.com") as trust, wire.Server(
        trust
    ) as server, wire.Proxy() as proxy, connector.session as session:
        proxy.routes["www.google.com:443"] = server.address
        server.reply(503)
        session.proxies["https"] = proxy.url
        session.verify = trust.ca_file
        assert connector.get_google().status_code == 200
        assert len(server.requests) == 2
        assert {r.target for r in proxy.requests} == {"www.google.com:443"}


@sample("003-02")
def a_connector_with_defaults_of_its_own(desk: Desk) -> None:
    connector = desk.run()["CustomConnector"]()
    assert list(connector.get_retry_settings().items()) == [
        ("max_retries", 3),
        ("backoff_factor", 0.5),
        ("status_forcelist", [500]),
        ("allowed_methods", ["GET"]),
        ("raise_on_status", True),
    ]
    with wire.Server() as server, connector.session as session:
        server.handler = lambda request: wire.Answer(500)
        with pytest.raises(requests.exceptions.RetryError):
            session.get(server.url)
        assert len(server.requests) == 4
        assert desk.naps == [0.25, 0.5, 1]
        assert session.put(server.url).status_code == 500
        assert len(server.requests) == 5


@sample("003-03", "003-04")
def connectors_in_a_transcript(desk: Desk) -> None:
    connector = APIConnector(max_retries=3)
    names = {"a": connector}
    path, line, code = SAMPLES[desk.name]
    test = doctest.DocTestParser().get_doctest(
        code, names, desk.name, path, line
    )
    assert len(test.examples) == {"003-03": 3, "003-04": 2}[desk.name]
    said: List[str] = []
    runner = doctest.DocTestRunner()
    result = runner.run(test, out=said.append, clear_globs=False)
    assert result.failed == 0, "".join(said)
    if desk.name == "003-04":
        settings = test.globs["new_settings"]
        assert connector.get_retry_settings() == settings
        assert settings["allowed_methods"] == ["PUT"]


# ---------------------------------------------------------------------------
# The tests of the samples
# ---------------------------------------------------------------------------


@needs_documents
@pytest.mark.parametrize("desk", sorted(PROMISES), indirect=True)
def test_sample(desk: Desk) -> None:
    PROMISES[desk.name](desk)


def test_there_are_79_samples() -> None:
    assert len(PROMISES) == 79


@needs_documents
def test_every_sample_is_tested() -> None:
    assert sorted(SAMPLES) == sorted(PROMISES)


# ---------------------------------------------------------------------------
# What is promised in prose alone
# ---------------------------------------------------------------------------


def test_urls_may_be_spelled_in_many_ways(desk: Desk) -> None:
    (user,) = desk.box.add("users", id="PABC123")
    for url in ("users/PABC123", "/users/PABC123", user["self"], user):
        assert desk.api.rget(url) == user
        assert desk.api.jget(url) == {"user": user}
    assert set(desk.asked) == {"GET /users/PABC123"}


@pytest.mark.parametrize("name", ["statuses", "statuses[]"])
@pytest.mark.parametrize("kind", [list, tuple])
def test_brackets_are_added_where_they_lack(
    desk: Desk, name: str, kind: Callable[[Any], Any]
) -> None:
    values = kind(["triggered", "acknowledged"])
    params = {name: values, "urgency": "high"}
    targets = desk.targets()
    desk.api.get("incidents", params=params)
    assert params == {name: values, "urgency": "high"}
    query = "statuses%5B%5D=triggered&statuses%5B%5D=acknowledged"
    assert targets == [f"/incidents?{query}&urgency=high"]


def test_an_error_discards_partial_results_unless_told_not_to(
    desk: Desk,
) -> None:
    users = desk.box.add("users", 150)
    assert desk.api.require_complete_results is True
    spoil_the_second_page(desk)
    with pytest.raises(pdpyras.PDServerError):
        desk.api.list_all("users")
    received = []
    spoil_the_second_page(desk)
    with pytest.raises(pdpyras.PDServerError):
        for user in desk.api.iter_all("users"):
            received.append(user)
    assert received == users[:100]
    desk.api.require_complete_results = False
    spoil_the_second_page(desk)
    with told(pdpyras.PDIncompleteWarning, "incomplete"):
        assert desk.api.list_all("users") == users[:100]
    spoil_the_second_page(desk)
    with told(pdpyras.PDIncompleteWarning, "incomplete"):
        by_id = desk.api.dict_all("users")
    assert list(by_id) == [user["id"] for user in users[:100]]


def spoil_the_second_page(desk: Desk) -> None:
    """Let the second request from now fail."""

    def once(response: Any, **_: Any) -> None:
        desk.api.hooks["response"].remove(once)
        desk.box.fail(500)

    desk.api.hooks["response"].append(once)


def test_subscribers_come_back_as_subscriptions(desk: Desk) -> None:
    desk.box.add("business_services", id="PBIZ001")
    subscribers = [{"subscriber_id": "PABC123", "subscriber_type": "user"}]
    path = "/business_services/PBIZ001/subscribers"
    (subscription,) = desk.api.rpost(path, json=subscribers)
    assert desk.sent == {"subscribers": subscribers}
    assert subscription["subscriber_id"] == "PABC123"
    assert subscription["result"] == "success"
    desk.api.rpost(path, json={"subscribers": subscribers})
    assert desk.sent == {"subscribers": subscribers}


def test_a_status_update_is_wrapped_in_the_answer_alone(desk: Desk) -> None:
    desk.box.add("incidents", id="PABC123")
    path = "/incidents/PABC123/status_updates"
    update = desk.api.rpost(path, json={"message": "Almost done"})
    assert desk.sent == {"message": "Almost done"}
    assert update["message"] == "Almost done"


def test_unwrapped_endpoints_give_r_methods_the_whole_body(
    desk: Desk,
) -> None:
    path = "analytics/metrics/incidents/all"
    body = {"filters": {"urgency": "high"}}
    assert desk.api.rpost(path, json=body) == desk.api.jpost(path, json=body)
    assert [r.json for r in desk.box.requests] == [body, body]


def test_three_ways_to_say_who_acts(desk: Desk) -> None:
    desk.box.add("users", email="me@example.com")
    (incident,) = desk.box.add("incidents")
    change = {"incident": {"type": "incident", "status": "resolved"}}
    url, me = incident["self"], "me@example.com"
    session = pdpyras.APISession("account-wide-key")
    assert session.put(url, json=change).status_code == 400
    assert session.put(url, json=change, headers={"From": me}).ok
    assert session.put(url, json=change).status_code == 400
    session.default_from = me
    assert session.put(url, json=change).ok
    desk.sessions.append(session)
    other = pdpyras.APISession("account-wide-key", default_from=me)
    assert other.put(url, json=change).ok
    desk.sessions.append(other)
    assert desk.api.put(url, json=change).ok  # The key of a user.


def test_requests_and_time_are_counted(desk: Desk) -> None:
    desk.box.add("users", 150)
    users = desk.api.list_all("users")
    for user in users[:3]:
        desk.api.rget(user)
    assert desk.api.api_call_counts == {"GET /users": 2, "GET /users/{id}": 3}
    assert desk.api.total_call_count == 5 == len(desk.asked)
    assert desk.api.api_time.keys() == desk.api.api_call_counts.keys()
    assert all(seconds > 0 for seconds in desk.api.api_time.values())
    total = sum(desk.api.api_time.values())
    assert desk.api.total_call_time == pytest.approx(total)


def test_rate_limits_are_waited_out_and_401_is_not(desk: Desk) -> None:
    desk.box.fail(429, times=25)
    assert desk.api.get("users").ok
    assert len(desk.naps) == 25
    desk.box.fail(401)
    with pytest.raises(pdpyras.PDClientError):
        desk.api.get("users")
    assert len(desk.naps) == 25


def test_both_can_be_overridden(desk: Desk) -> None:
    desk.api.retry.update({429: 2, 401: 1})
    desk.box.fail(429, times=3)
    assert desk.api.get("users").status_code == 429
    assert desk.naps == [3, 6]
    desk.box.fail(401)
    assert desk.api.get("users").ok
    assert desk.naps == [3, 6, 3]


def test_the_log_is_unconfigured_and_replaceable(
    api: pdpyras.APISession,
) -> None:
    assert isinstance(api.log, logging.Logger)
    assert api.log.level == logging.NOTSET and api.log.handlers == []
    assert api.print_debug is False
    other = logging.getLogger("test_seeds")
    api.log = other
    assert api.log is other


def test_bodies_given_whole_are_not_wrapped_again(desk: Desk) -> None:
    user = {"name": "Jane Doe", "email": "jane@example.com"}
    created = desk.api.rpost("users", json={"user": user})
    assert desk.sent == {"user": user}
    assert created["email"] == "jane@example.com"


def test_any_error_status_raises_from_all_but_the_plain_methods(
    api: pdpyras.APISession,
) -> None:
    url = "users/PNOBODY"
    body: Dict[str, Any] = {"json": {"user": {}}}
    assert api.get(url).status_code == api.delete(url).status_code == 404
    assert api.put(url, **body).status_code == 404
    for call in (
        *(partial(api.jget, url), partial(api.jput, url, **body)),
        *(partial(api.rget, url), partial(api.rput, url, **body)),
        partial(api.rdelete, url),
    ):
        with pytest.raises(pdpyras.PDHTTPError) as caught:
            call()
        assert isinstance(caught.value, pdpyras.PDClientError)
        assert caught.value.response.status_code == 404


# -- Of connectors ---------------------------------------------------------

DEFAULTS = {
    "max_retries": 0,
    "backoff_factor": 1,
    "status_forcelist": [408, 413, 429, 500, 502, 503, 504, 521, 522, 524],
    "allowed_methods": [
        *("HEAD", "GET", "PUT", "DELETE", "OPTIONS", "TRACE"),
        *("POST", "PATCH"),
    ],
    "raise_on_status": False,
}


def test_the_defaults_of_connectors() -> None:
    settings = APIConnector().get_retry_settings()
    assert list(settings.items()) == list(DEFAULTS.items())


def test_the_table_of_delays(naps: List[float]) -> None:
    connector = APIConnector(backoff_factor=2, max_retries=5)
    with wire.Server() as server, connector.session as session:
        server.handler = lambda request: wire.Answer(500)
        assert session.get(server.url).status_code == 500
        assert len(server.requests) == 6
    assert naps == [1, 2, 4, 8, 16]
    assert 6 * 5 + sum(naps) == 61
