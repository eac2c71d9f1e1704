"""The sandbox delivers webhooks as PagerDuty does.

The receiver is one that records what comes and answers as it is told; real
receivers under real servers are in test_webhooks.py.
"""

import hashlib
import hmac
import json
import math
import re
import socket
import threading
import time

import pytest

import pdpyras
import pdpyras_sandbox
from pdpyras_sandbox import Sandbox
from tests import wire
from tests.support import KEY, ROUTING_KEY

pytestmark = pytest.mark.oldest

SECRET = "sandbox-secret-1"
OLD_SECRET = "sandbox-secret-0"
TIMEOUT = 20


@pytest.fixture
def box():
    with Sandbox(users=2) as running:
        yield running


@pytest.fixture
def session(box):
    with pdpyras.APISession(KEY) as api:
        api.url = box.url
        yield api


@pytest.fixture
def events(box):
    with pdpyras.EventsAPISession(ROUTING_KEY) as api:
        api.url = box.url
        yield api


@pytest.fixture
def hook(box, server):
    server.reply(202, times=math.inf)
    return box.webhook(f"{server.url}/hooks?a=b", SECRET)


@pytest.fixture
def impatient(monkeypatch):
    """Attempts follow each other sooner."""
    monkeypatch.setattr(pdpyras_sandbox, "WEBHOOK_PAUSES", (0.02, 0.04))


def answers(server, *statuses):
    """Let a receiver answer so, and 202 from then on."""
    server.script.clear()
    for status in statuses:
        server.reply(status)
    server.reply(202, times=math.inf)


def received(hook, server):
    """The events that have come, once nothing more will."""
    assert hook.wait(TIMEOUT)
    return [request.json["event"] for request in server.requests]


def types(hook, server):
    return [event["event_type"] for event in received(hook, server)]


def signature_of(body, *secrets):
    return ",".join(
        "v1=" + hmac.new(s.encode(), body, hashlib.sha256).hexdigest()
        for s in secrets
    )


# -- What is delivered --------------------------------------------------------


def test_an_event_has_the_form_of_the_api(box, session, hook, server):
    service, user = box.add("services", name="Shop")[0], box.add("users")[0]
    session.headers["From"] = user["email"]
    incident = session.rpost(
        "incidents",
        json={
            "type": "incident",
            "title": "Größe 100 %",
            "service": {"id": service["id"], "type": "service_reference"},
        },
    )
    (event,) = received(hook, server)
    assert set(event) == {
        *("id", "event_type", "resource_type", "occurred_at"),
        *("agent", "client", "data"),
    }
    assert event["event_type"] == "incident.triggered"
    assert event["resource_type"] == "incident"
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{3}Z", event["occurred_at"])
    assert event["agent"]["id"] == user["id"]
    assert event["agent"]["type"] == "user_reference"
    assert event["client"] is None
    data = event["data"]
    assert data["id"] == incident["id"]
    assert (data["type"], data["status"]) == ("incident", "triggered")
    assert (data["title"], data["number"]) == ("Größe 100 %", 1)
    assert data["service"]["id"] == service["id"]
    assert data["created_at"] == incident["created_at"]
    assert data["priority"] is None
    assert [a["type"] for a in data["assignees"]] == ["user_reference"]
    assert "incident_number" not in data
    # Who signs what was decoded and encoded again gets another signature.
    (request,) = server.requests
    assert '"title":"Größe 100 %"'.encode() in request.body
    assert json.dumps(request.json).encode() != request.body


def test_text_that_is_no_unicode_is_delivered_all_the_same(
    events, hook, server
):
    events.trigger("half \ud83d of a pair", "db1")
    (event,) = received(hook, server)
    assert event["data"]["title"] == "half ? of a pair"


def test_a_delivery_has_the_headers_of_the_api(events, hook, server):
    events.trigger("Disk full", "db1")
    received(hook, server)
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/hooks?a=b")
    headers = request.headers
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"] == "PagerDuty-Webhook/V3.0"
    assert re.fullmatch("[0-9a-f-]{36}", headers["X-Webhook-Id"])
    assert headers["X-Webhook-Subscription"] == hook.id
    signature = signature_of(request.body, SECRET)
    assert headers["X-PagerDuty-Signature"] == signature


def test_events_cause_webhooks_when_they_change_a_state(events, hook, server):
    key = events.trigger("Disk full", "db1")
    events.trigger("Disk full", "db1", dedup_key=key)  # It is open already.
    events.acknowledge(key)
    events.acknowledge(key)
    events.resolve(key)
    events.resolve(key)
    assert types(hook, server) == [
        "incident.triggered",
        "incident.acknowledged",
        "incident.resolved",
    ]
    statuses = [e["data"]["status"] for e in received(hook, server)]
    assert statuses == ["triggered", "acknowledged", "resolved"]
    assert {e["agent"] for e in received(hook, server)} == {None}


@pytest.mark.parametrize(
    "before, change, expected",
    [
        ("triggered", {"status": "acknowledged"}, "acknowledged"),
        ("triggered", {"status": "resolved"}, "resolved"),
        ("acknowledged", {"status": "triggered"}, "unacknowledged"),
        ("resolved", {"status": "triggered"}, "reopened"),
        ("triggered", {"assignments": []}, "reassigned"),
        ("triggered", {"escalation_policy": {"id": "P1"}}, "delegated"),
        ("triggered", {"escalation_level": 2}, "escalated"),
        ("triggered", {"priority": {"id": "P1"}}, "priority_updated"),
        ("triggered", {"service": {"id": "P1"}}, "service_updated"),
        (
            "triggered",
            {"incident_type": {"name": "major"}},
            "incident_type.changed",
        ),
        (
            "triggered",
            {"conference_bridge": {"conference_number": "+1"}},
            "conference_bridge.updated",
        ),
        ("triggered", {"title": "Other"}, None),
        ("triggered", {"status": "triggered"}, None),
    ],
)
def test_updates_by_the_rest_api(
    box, session, hook, server, before, change, expected
):
    incident = box.add("incidents", status=before)[0]
    session.rput(f"incidents/{incident['id']}", json=change)
    wanted = [] if expected is None else [f"incident.{expected}"]
    assert types(hook, server) == wanted


def test_a_multi_update_causes_one_webhook_for_each(
    box, session, hook, server
):
    incidents = box.add("incidents", 30)
    session.rput(
        "incidents",
        json=[
            {"id": i["id"], "type": "incident", "status": "resolved"}
            for i in incidents
        ],
    )
    told = [event["data"]["id"] for event in received(hook, server)]
    assert sorted(told) == sorted(i["id"] for i in incidents)


@pytest.mark.parametrize(
    "method, path, body, expected, kind",
    [
        (
            "post",
            "notes",
            {"note": {"content": "Looking."}},
            "annotated",
            "incident_note",
        ),
        (
            "post",
            "status_updates",
            {"message": "Better."},
            "status_update_published",
            "incident_status_update",
        ),
        (
            "post",
            "responder_requests",
            {"message": "Please help."},
            "responder.added",
            "incident_responder",
        ),
        (
            "put",
            "custom_fields/values",
            {"custom_fields": []},
            "custom_field_values.updated",
            "incident_field_values",
        ),
    ],
)
def test_what_is_sent_for_an_incident(
    box, session, hook, server, method, path, body, expected, kind
):
    incident = box.add("incidents")[0]
    send = getattr(session, method)
    assert send(f"incidents/{incident['id']}/{path}", json=body).ok
    (event,) = received(hook, server)
    assert event["event_type"] == f"incident.{expected}"
    assert event["data"]["type"] == kind
    assert event["data"]["incident"]["id"] == incident["id"]
    assert event["data"]["incident"]["type"] == "incident_reference"
    if path == "notes":
        assert event["data"]["content"] == "Looking."
        assert event["data"]["trimmed"] is False


def test_services_cause_webhooks(session, hook, server):
    service = session.rpost("services", json={"name": "Shop"})
    session.rput(f"services/{service['id']}", json={"name": "Shops"})
    session.rdelete(f"services/{service['id']}")
    wanted = ["service.created", "service.updated", "service.deleted"]
    assert types(hook, server) == wanted
    for event in received(hook, server):
        assert event["resource_type"] == "service"
        assert event["data"]["id"] == service["id"]
        assert event["data"]["type"] == "service"


def test_neither_reading_nor_other_records_nor_refusals_cause_any(
    box, session, hook, server
):
    (incident,) = box.add("incidents")
    session.rget(f"incidents/{incident['id']}")
    session.rget(f"incidents/{incident['id']}/notes")
    session.rpost("teams", json={"name": "Platform"})
    answer = session.put(
        f"incidents/{incident['id']}", json={"status": "solved"}
    )
    assert answer.status_code == 400
    assert types(hook, server) == []


def test_a_webhook_makes_no_users(server):
    with Sandbox() as box, pdpyras.APISession(KEY) as session:
        session.url = box.url
        server.reply(202)
        hook = box.webhook(server.url, SECRET)
        session.rpost("services", json={"name": "Shop"})
        assert received(hook, server)[0]["agent"] is None
        assert session.list_all("users") == []


# -- How often ----------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503])
def test_after_429_and_5xx_a_delivery_comes_again(
    events, hook, server, impatient, status
):
    answers(server, status, status)
    events.trigger("Disk full", "db1")
    received(hook, server)
    assert [d.status for d in hook.deliveries] == [status, status, 202]
    assert {d.event_type for d in hook.deliveries} == {"incident.triggered"}
    ids = [request.headers["X-Webhook-Id"] for request in server.requests]
    assert ids == [d.id for d in hook.deliveries]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert len({request.body for request in server.requests}) == 1


def test_three_attempts_within_12_seconds(events, hook, server):
    """At the pauses that it really makes."""
    answers(server, *[500] * 9)
    began = time.monotonic()
    events.trigger("Disk full", "db1")
    received(hook, server)
    assert time.monotonic() - began < 12
    assert [d.status for d in hook.deliveries] == [500] * 3
    # The two first may time out, and still the third begins in time.
    pauses = sum(pdpyras_sandbox.WEBHOOK_PAUSES)
    assert 2 * pdpyras_sandbox.WEBHOOK_TIMEOUT + pauses < 12
    assert pdpyras_sandbox.WEBHOOK_TIMEOUT == 5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 302])
def test_after_another_answer_it_does_not(
    events, hook, server, impatient, status
):
    answers(server, status)
    events.trigger("Disk full", "db1")
    received(hook, server)
    assert [d.status for d in hook.deliveries] == [status]


@pytest.mark.parametrize("kind", ["reset", "close", "garbage"])
def test_after_network_trouble_a_delivery_comes_again(
    events, hook, server, impatient, kind
):
    server.script.clear()
    server.fault(kind, times=2)
    server.reply(202)
    events.trigger("Disk full", "db1")
    received(hook, server)
    assert [d.status for d in hook.deliveries] == [0, 0, 202]


def test_without_an_answer_in_time_a_delivery_comes_again(
    events, hook, server, impatient, monkeypatch
):
    monkeypatch.setattr(pdpyras_sandbox, "WEBHOOK_TIMEOUT", 1.0)
    server.script.clear()
    server.fault("stall")
    server.reply(202)
    events.trigger("Disk full", "db1")
    received(hook, server)
    assert [d.status for d in hook.deliveries] == [0, 202]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{closed}/", "http://a..localhost:1/"]
)
def test_where_nobody_listens_a_delivery_is_given_up(
    box, events, impatient, url
):
    hook = box.webhook(url.format(closed=wire.closed_port()), SECRET)
    events.trigger("Disk full", "db1")
    assert hook.wait(TIMEOUT)
    assert [d.status for d in hook.deliveries] == [0, 0, 0]


def test_on_request_each_comes_twice(box, events, server, impatient):
    answers(server, 503)
    hook = box.webhook(server.url, SECRET, twice=True)
    key = events.trigger("Disk full", "db1")
    events.resolve(key)
    told = types(hook, server)
    assert told == ["incident.triggered"] * 3 + ["incident.resolved"] * 2
    ids = [request.headers["X-Webhook-Id"] for request in server.requests]
    assert len(set(ids[:3])) == len(set(ids[3:])) == 1
    assert len(set(ids)) == 2


# -- In which order -----------------------------------------------------------


def test_what_is_about_one_incident_keeps_its_order(
    events, hook, server, impatient
):
    answers(server, 500, 429)
    key = events.trigger("Disk full", "db1")
    events.acknowledge(key)
    events.resolve(key)
    assert types(hook, server) == [
        *["incident.triggered"] * 3,
        *("incident.acknowledged", "incident.resolved"),
    ]


def test_an_incident_does_not_wait_for_the_trouble_of_another(
    events, hook, server, monkeypatch
):
    monkeypatch.setattr(pdpyras_sandbox, "WEBHOOK_PAUSES", (600, 600))
    told, has_come = [], threading.Event()

    def answer(request):
        data = request.json["event"]["data"]
        told.append((data["number"], data["status"]))
        if data["number"] == 2:
            has_come.set()
        return wire.Answer(500 if data["number"] == 1 else 202)

    server.script.clear()
    server.handler = answer
    first = events.trigger("Disk full", "db1")
    events.resolve(first)
    events.trigger("Disk full", "db2")
    assert has_come.wait(TIMEOUT)
    assert told == [(1, "triggered"), (2, "triggered")]
    assert not hook.wait(0)  # The first is still to be delivered.


def test_many_threads_keep_the_order_of_each_incident(box, hook, server):
    def run(number):
        with pdpyras.EventsAPISession(f"{ROUTING_KEY}-{number}") as events:
            events.url = box.url
            for _ in range(5):
                key = events.trigger("Disk full", "db1", dedup_key="k")
                events.resolve(key)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = received(hook, server)
    assert len(told) == 6 * 5 * 2
    by_incident = {}
    for event in told:
        by_incident.setdefault(event["data"]["id"], []).append(
            event["data"]["status"]
        )
    assert len(by_incident) == 30
    assert set(map(tuple, by_incident.values())) == {("triggered", "resolved")}


# -- Secrets ------------------------------------------------------------------


def test_while_a_secret_is_changed_there_are_two_signatures(
    box, events, server
):
    server.reply(202, times=math.inf)
    hook = box.webhook(server.url, OLD_SECRET)
    events.trigger("One", "db1")
    assert hook.wait(TIMEOUT)
    hook.rotate(SECRET)
    events.trigger("Two", "db1")
    assert hook.wait(TIMEOUT)
    hook.rotate()
    events.trigger("Three", "db1")
    received(hook, server)
    valid = [(OLD_SECRET,), (SECRET, OLD_SECRET), (SECRET,)]
    for request, secrets in zip(server.requests, valid):
        signature = request.headers["X-PagerDuty-Signature"]
        assert signature == signature_of(request.body, *secrets)


def test_several_secrets_from_the_beginning(box, events, server):
    server.reply(202)
    hook = box.webhook(server.url, [SECRET, OLD_SECRET])
    events.trigger("Disk full", "db1")
    received(hook, server)
    (request,) = server.requests
    expected = signature_of(request.body, SECRET, OLD_SECRET)
    assert request.headers["X-PagerDuty-Signature"] == expected


@pytest.mark.parametrize("secret", ["", [], [""], [SECRET, ""]])
def test_an_empty_secret_is_refused(box, secret):
    with pytest.raises(ValueError, match="secret must not be empty"):
        box.webhook("http://127.0.0.1:9", secret)


@pytest.mark.parametrize(
    "url",
    [
        *(None, "", "127.0.0.1:80", "ftp://127.0.0.1/", "http://"),
        *("http://127.0.0.1:x/", "http://a@127.0.0.1/"),
        *("http://127.0.0.1/ b", "http://127.0.0.1/\r\nHost: b"),
    ],
)
def test_where_no_webhook_can_be_sent_to(box, session, url):
    with pytest.raises(ValueError):
        box.webhook(url, SECRET)
    answer = session.post("webhook_subscriptions", json=subscription_to(url))
    assert answer.status_code == 400
    assert box.webhooks == []


def test_deliveries_may_be_encrypted(
    box, events, trust, monkeypatch, tmp_path
):
    monkeypatch.setenv("SSL_CERT_FILE", trust.ca_file)
    with wire.Server(tls=trust) as server:
        server.reply(202)
        hook = box.webhook(server.url, SECRET)
        events.trigger("Disk full", "db1")
        assert types(hook, server) == ["incident.triggered"]


# -- Subscriptions by the REST API --------------------------------------------


def subscription_to(url, **properties):
    return {
        "webhook_subscription": {
            "type": "webhook_subscription",
            "delivery_method": {"type": "http_delivery_method", "url": url},
            "events": ["incident.triggered", "incident.resolved"],
            "filter": {"type": "account_reference"},
            **properties,
        }
    }


@pytest.fixture
def subscribe(box, session, server):
    """Subscribe by the API; returns the answer and the webhook."""

    def call(**properties):
        server.reply(202, times=math.inf)
        body = subscription_to(server.url, **properties)
        record = session.rpost("webhook_subscriptions", json=body)
        (hook,) = [w for w in box.webhooks if w.id == record["id"]]
        return record, hook

    return call


def test_a_subscription_made_by_the_api_delivers(
    session, events, server, subscribe
):
    record, hook = subscribe()
    key = events.trigger("Disk full", "db1")
    events.acknowledge(key)  # It is not subscribed to.
    events.resolve(key)
    wanted = ["incident.triggered", "incident.resolved"]
    assert types(hook, server) == wanted
    secret = record["delivery_method"]["secret"]
    for request in server.requests:
        signature = request.headers["X-PagerDuty-Signature"]
        assert signature == signature_of(request.body, secret)
        assert request.headers["X-Webhook-Subscription"] == record["id"]


def test_only_its_creation_shows_the_secret(session, server, subscribe):
    method = {
        "type": "http_delivery_method",
        "url": server.url,
        "custom_headers": [{"name": "X-Team", "value": "platform"}],
        "secret": "that-the-client-chose",
    }
    record, hook = subscribe(delivery_method=method)
    assert len(record["delivery_method"].pop("secret")) == 32
    (read,) = session.list_all("webhook_subscriptions")
    assert read == session.rget(f"webhook_subscriptions/{record['id']}")
    assert read == record
    assert read["active"] is True
    (header,) = read["delivery_method"]["custom_headers"]
    assert header == {"name": "X-Team", "value": "<redacted>"}
    session.rpost(f"webhook_subscriptions/{record['id']}/ping")
    received(hook, server)
    assert server.requests[0].headers["X-Team"] == "platform"


def test_a_ping(session, server, subscribe):
    record, hook = subscribe()
    answer = session.post(f"webhook_subscriptions/{record['id']}/ping")
    assert (answer.status_code, answer.content) == (202, b"")
    (event,) = received(hook, server)
    assert event["event_type"] == "pagey.ping"
    assert event["resource_type"] == "pagey"
    assert event["data"]["type"] == "ping"
    assert set(event["data"]) == {"message", "type"}


def test_a_subscription_may_be_off_and_enabled(
    session, events, server, subscribe
):
    record, hook = subscribe()
    path = f"webhook_subscriptions/{record['id']}"
    session.rput(
        path, json=dict(subscription_to(server.url, active=False).popitem()[1])
    )
    events.trigger("One", "db1")
    assert types(hook, server) == []
    enabled = session.rpost(f"{path}/enable")
    assert enabled["active"] is True
    events.trigger("Two", "db1")
    (event,) = received(hook, server)
    assert event["data"]["title"] == "Two"


def test_a_deleted_subscription_delivers_nothing(
    session, events, server, subscribe
):
    record, hook = subscribe()
    session.rdelete(f"webhook_subscriptions/{record['id']}")
    events.trigger("One", "db1")
    assert types(hook, server) == []


def test_an_updated_subscription_delivers_elsewhere(
    session, events, server, subscribe
):
    record, hook = subscribe()
    with wire.Server() as other:
        other.reply(202)
        session.rput(
            f"webhook_subscriptions/{record['id']}",
            json=subscription_to(other.url)["webhook_subscription"],
        )
        events.trigger("One", "db1")
        assert types(hook, other) == ["incident.triggered"]
    assert server.requests == []
    read = session.rget(f"webhook_subscriptions/{record['id']}")
    assert "secret" not in read["delivery_method"]


@pytest.mark.parametrize("kind", ["service", "team"])
def test_a_subscription_may_be_about_one_service_or_team(
    box, session, server, subscribe, kind
):
    team, service = box.add("teams")[0], box.add("services")[0]
    wanted = {"service": service, "team": team}[kind]["id"]
    _, hook = subscribe(filter={"type": f"{kind}_reference", "id": wanted})
    other = box.add("services")[0]
    body = {"type": "incident", "title": "Disk full"}
    for title, owner, teams in (
        ("Its own", service, [{"id": team["id"]}]),
        ("Another", other, []),
    ):
        body = {"title": title, "service": {"id": owner["id"]}, "teams": teams}
        session.rpost("incidents", json=body)
    told = [event["data"]["title"] for event in received(hook, server)]
    assert told == ["Its own"]


@pytest.mark.parametrize(
    "properties",
    [
        {"events": "incident.triggered"},
        {"filter": "account"},
        {"delivery_method": "http"},
        {"delivery_method": None},
        *(
            {
                "delivery_method": {
                    "url": "http://127.0.0.1/",
                    "custom_headers": headers,
                }
            }
            for headers in (
                *("X-Team", ["X-Team"], [{"name": "X-Team"}]),
                *([{"name": "X-Team", "value": "a\r\nHost: b"}],),
                *([{"name": "X-Team", "value": "ä"}],),
                *([{"name": "X Team", "value": "a"}],),
            )
        ),
    ],
)
def test_a_subscription_that_is_none_is_refused(box, session, properties):
    body = subscription_to("http://127.0.0.1:9/", **properties)
    answer = session.post("webhook_subscriptions", json=body)
    assert answer.status_code == 400
    assert session.list_all("webhook_subscriptions") == []


def test_what_the_api_subscribes_stays_on_this_computer(
    box, session, events, server, monkeypatch
):
    """Whoever reaches the sandbox must not reach others through it."""
    asked = []
    look_up = socket.getaddrinfo

    def record(host, *arguments, **options):
        asked.append(host)
        return look_up("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", record)
    server.reply(202, times=math.inf)
    port = server.url.rpartition(":")[2]
    body = subscription_to(f"http://hooks.example.com:{port}/")
    record_id = session.rpost("webhook_subscriptions", json=body)["id"]
    hook = box.webhook(server.url, SECRET)
    session.rput(
        f"webhook_subscriptions/{hook.id}", json=body["webhook_subscription"]
    )
    events.trigger("Disk full", "db1")
    session.rpost(f"webhook_subscriptions/{record_id}/ping")
    session.rpost(f"webhook_subscriptions/{hook.id}/ping")
    assert all(webhook.wait(TIMEOUT) for webhook in box.webhooks)
    assert (server.requests, set(asked)) == ([], {"127.0.0.1"})
    # What the program itself asks for may be anywhere.
    there = box.webhook(f"http://hooks.example.com:{port}/", SECRET)
    events.trigger("Disk full", "db2")
    assert types(there, server) == ["incident.triggered"]
    assert "hooks.example.com" in asked


# -- Life ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stall", "again"])
def test_stopping_ends_deliveries_at_once(server, kind, monkeypatch):
    monkeypatch.setattr(pdpyras_sandbox, "WEBHOOK_PAUSES", (60, 60))
    before = set(threading.enumerate())
    box = Sandbox(users=1).start()
    if kind == "stall":
        server.fault("stall")
    else:
        server.reply(500)
    hook = box.webhook(server.url, SECRET)
    with pdpyras.EventsAPISession(ROUTING_KEY) as events:
        events.url = box.url
        events.trigger("Disk full", "db1")
    assert not hook.wait(0.2)
    threads = [t for t in threading.enumerate() if t not in before]
    assert all(thread.daemon for thread in threads)
    began = time.monotonic()
    box.stop()
    assert time.monotonic() - began < 2
    (thread,) = [t for t in threads if t.name == f"webhook {hook.id}"]
    assert not thread.is_alive()
    assert hook.wait(0)  # What was to be delivered is thrown away.


def test_a_sandbox_started_again_delivers_again(server):
    server.reply(202, times=math.inf)
    box = Sandbox(users=1)
    with pytest.raises(RuntimeError, match="not been started"):
        box.webhook(server.url, SECRET)
    with pdpyras.EventsAPISession(ROUTING_KEY) as events:
        for key in ("k1", "k2"):
            with box:
                hook = (box.webhooks or [box.webhook(server.url, SECRET)])[0]
                events.url = box.url
                events.trigger("Disk full", "db1", dedup_key=key)
                assert hook.wait(TIMEOUT)
    assert len(server.requests) == 2


def test_deliveries_do_not_depend_on_sleep(events, hook, server, naps):
    answers(server, 500)
    events.trigger("Disk full", "db1")
    received(hook, server)
    assert [d.status for d in hook.deliveries] == [500, 202]
    assert naps == []


def test_deliveries_do_not_depend_on_a_frozen_clock(
    events, hook, server, monkeypatch
):
    """As with freezegun, which freezes it for some threads only."""

    def monotonic():
        name = threading.current_thread().name
        return clock() if name.startswith("webhook") else 1e9

    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", monotonic)
    events.trigger("Disk full", "db1")
    assert hook.wait(TIMEOUT)
    assert [d.status for d in hook.deliveries] == [202]
