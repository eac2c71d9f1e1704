"""The sandbox as SCIM, and as the integrations with Jira, Slack and Teams.

What it answers is compared with PagerDuty's documents of these APIs, of which
the bodies below are taken.
"""

import pytest

import pdpyras
import pdpyras_sandbox
from pdpyras_sandbox import Sandbox
from tests.test_sandbox import KEY, SIGNED, Client

pytestmark = pytest.mark.oldest

USERS = "/scim/v2/Users"
URN = "urn:ietf:params:scim:"
JANE = {
    "schemas": [URN + "schemas:core:2.0:User"],
    "userName": "jane@example.com",
    "displayName": "Jane Doe",
}


@pytest.fixture
def box():
    with Sandbox(scim_page_size=40) as running:
        yield running


@pytest.fixture
def client(box):
    with Client(box.url) as plain:
        yield plain


@pytest.fixture
def session(box):
    with pdpyras.APISession(KEY, url=box.url) as api:
        yield api


def detail_of(answer, status, kind=None):
    """The detail of an error of SCIM, after checking the rest."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/scim+json"
    error = answer.json()
    assert error["schemas"] == [URN + "api:messages:2.0:Error"]
    assert error["status"] == str(status)
    assert error.get("scimType") == kind
    return error["detail"]


def message_of(answer, status):
    """The message of an error of the integrations, which say no more."""
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert list(error) == ["message"]
    return error["message"]


# -- Pages of SCIM users ------------------------------------------------------


def test_scim_users_are_plausible(box, client):
    users = box.add("scim/v2/Users", 2)
    answer = client.get(USERS)
    assert answer.headers["content-type"] == "application/scim+json"
    assert answer.json() == {
        "schemas": [URN + "api:messages:2.0:ListResponse"],
        "totalResults": 2,
        "startIndex": 1,
        "itemsPerPage": 2,
        "Resources": users,
    }
    assert len(users[0]["id"]) >= 26
    assert users[0]["id"] != users[1]["id"]
    assert users[0] == {
        "id": users[0]["id"],
        "schemas": [URN + "schemas:core:2.0:User"],
        "displayName": "Alice Abara",
        "userName": "alice.abara@example.com",
        "active": True,
        "roles": [{"type": "base", "primary": True, "value": "user"}],
        "meta": {"resourceType": "User"},
    }
    assert client.body(f"{USERS}/{users[1]['id']}") == users[1]


@pytest.mark.parametrize(
    "asked, start, count",
    [
        ({}, 1, 40),
        ({"count": 100}, 1, 40),
        ({"count": 7, "startIndex": 3}, 3, 7),
        ({"startIndex": 0}, 1, 40),
        ({"startIndex": -5}, 1, 40),
        ({"startIndex": 96}, 96, 5),
        ({"startIndex": 101}, 101, 0),
        ({"count": 0}, 1, 0),
        ({"count": -1}, 1, 0),
        ({"query": "alice", "limit": 3, "offset": 50}, 1, 40),
    ],
)
def test_scim_pages_have_a_cap(asked, start, count, box, client):
    users = box.add("scim/v2/Users", 100)
    page = client.body(USERS, **asked)
    assert page["Resources"] == users[start - 1 :][:count]
    told_of = (page["startIndex"], page["itemsPerPage"], page["totalResults"])
    assert told_of == (start, count, 100)


@pytest.mark.parametrize("prefetch", [0, 1, 8])
def test_all_scim_users_arrive(prefetch, box, session):
    users = box.add("scim/v2/Users", 250)
    assert session.list_all(USERS, prefetch=prefetch) == users


def test_the_page_size_of_scim_is_a_number_from_1(client):
    with pytest.raises(ValueError, match="limit"):
        Sandbox(scim_page_size=0)
    assert pdpyras_sandbox.SCIM_PAGE_SIZE == 100
    for name in ("startIndex", "count"):
        answer = client.get(USERS, params={name: "x"})
        assert name in detail_of(answer, 400, "invalidValue")


@pytest.mark.parametrize(
    "text, number",
    [
        ('userName eq "bob.abara@example.com"', 1),
        ('USERNAME eq "BOB.ABARA@EXAMPLE.COM"', 1),
        ('externalId eq "say \\"x\\""', 2),
        ('userName eq "nobody"', None),
    ],
)
def test_scim_filters(text, number, box, client):
    users = box.add(
        "scim/v2/Users", [{"externalId": f'say "{c}"'} for c in "vwx"]
    )
    page = client.body(USERS, filter=text)
    found = [] if number is None else [users[number]]
    assert (page["Resources"], page["totalResults"]) == (found, len(found))


@pytest.mark.parametrize("text", ['displayName eq "x"', "userName sw 'x'"])
def test_other_scim_filters_are_refused(text, client):
    answer = client.get(USERS, params={"filter": text})
    assert "userName eq" in detail_of(answer, 400, "invalidFilter")


# -- Changing SCIM users ------------------------------------------------------


def patch(session, user, *operations):
    body = {
        "schemas": [URN + "api:messages:2.0:PatchOp"],
        "Operations": list(operations),
    }
    return session.rpatch(f"{USERS}/{user['id']}", json=body)


def test_a_scim_user_is_made_changed_and_gone(box, session):
    user = session.rpost(USERS, json=dict(JANE, id="X", title="SRE"))
    assert user["id"] != "X"
    assert (user["active"], user["title"]) == (True, "SRE")
    url = f"{USERS}/{user['id']}"
    assert session.rget(url) == user
    changed = session.rput(url, json=dict(JANE, displayName="Jo"))
    assert (changed["displayName"], changed.get("title")) == ("Jo", None)
    assert changed["id"] == user["id"]
    changed = patch(
        session,
        user,
        {"op": "Replace", "path": "title", "value": "CTO"},
        {"op": "add", "value": {"timezone": "UTC"}},
    )
    assert (changed["title"], changed["timezone"]) == ("CTO", "UTC")
    changed = patch(session, user, {"op": "remove", "path": "title"})
    assert "title" not in changed
    assert session.rget(url) == changed
    assert session.rdelete(url).status_code == 204
    with pytest.raises(pdpyras.PDHTTPError, match="404"):
        session.rget(url)


@pytest.mark.parametrize("way", ["patch", "patch path", "put"])
def test_deactivating_a_scim_user_deletes_it(way, box, session):
    user, other = box.add("scim/v2/Users", 2)
    operation = {"op": "replace", "value": {"active": False}}
    if way == "patch path":
        operation.update(path="active", value=False)
    if way == "put":
        url = f"{USERS}/{user['id']}"
        assert session.rput(url, json=dict(JANE, active=False)) is None
    else:
        assert patch(session, user, operation) is None
    assert session.list_all(USERS) == [other]


def test_what_a_scim_user_cannot_be(box, client):
    box.add("scim/v2/Users", userName="Taken@example.com")
    for body, kind, word in (
        ({}, "invalidValue", "userName and displayName"),
        ({"userName": "x"}, "invalidValue", "displayName"),
        (dict(JANE, active=False), "invalidValue", "inactive"),
        (dict(JANE, userName="taken@EXAMPLE.com"), "uniqueness", "taken"),
        ([], "invalidSyntax", "object"),
    ):
        answer = client.post(USERS, json=body)
        assert word in detail_of(answer, 400, kind)
    answer = client.post(USERS, data="no JSON")
    assert "object" in detail_of(answer, 400, "invalidSyntax")
    assert client.body(USERS)["totalResults"] == 1


@pytest.mark.parametrize(
    "operation, kind",
    [
        ({"op": "remove", "path": "userName"}, "invalidValue"),
        ({"op": "remove", "path": "id"}, "invalidPath"),
        ({"op": "remove"}, "noTarget"),
        ({"op": "move", "path": "title"}, "noTarget"),
        ({"op": "replace", "value": "x"}, "invalidValue"),
        ("remove", "invalidSyntax"),
        (None, "invalidSyntax"),
    ],
)
def test_what_a_patch_of_scim_cannot_be(operation, kind, box, client):
    (user,) = box.add("scim/v2/Users")
    operations = [] if operation is None else [operation]
    url = f"{USERS}/{user['id']}"
    answer = client.patch(url, json={"Operations": operations})
    assert detail_of(answer, 400, kind)
    assert client.body(url) == user


def test_scim_errors_of_the_others_have_its_form(box, client):
    with Client(box.url, key=None) as stranger:
        assert "Token" in detail_of(stranger.get(USERS), 401)
    assert detail_of(client.get(f"{USERS}/X"), 404) == "Not Found"
    assert detail_of(client.get("/scim/v2/Groups"), 404) == "Not Found"
    assert detail_of(client.patch(USERS, json={}), 405)
    box.fail(429, reset=2)
    answer = client.get(USERS)
    assert detail_of(answer, 429)
    assert answer.headers["ratelimit-reset"] == "2"


def test_scim_tells_what_it_is(box, session):
    (schema,) = session.list_all("/scim/v2/Schemas")
    assert schema["id"] == URN + "schemas:core:2.0:User"
    assert session.rget(f"/scim/v2/Schemas/{schema['id']}") == schema
    with pytest.raises(pdpyras.PDHTTPError, match="404"):
        session.rget("/scim/v2/Schemas/urn:x")
    (kind,) = session.list_all("/scim/v2/ResourceTypes")
    assert kind["endpoint"] == "/Users"
    config = session.rget("/scim/v2/ServiceProviderConfig")
    assert config["patch"] == {"supported": True}


# -- Jira ---------------------------------------------------------------------


def test_jira_cloud_rules(box, session):
    (mapping,) = box.add("integration-jira-cloud/accounts_mappings")
    base = "/integration-jira-cloud/accounts_mappings"
    assert session.list_all(base) == [mapping]
    assert session.rget(f"{base}/{mapping['id']}") == mapping
    rules = f"{base}/{mapping['id']}/rules"
    rule = session.rpost(rules, json={"name": "R", "config": {}})
    assert (rule["name"], session.list_all(rules)) == ("R", [rule])
    url = f"{rules}/{rule['id']}"
    assert session.rput(url, json={"name": "S"})["name"] == "S"
    assert session.rdelete(url).status_code == 204
    with pytest.raises(pdpyras.PDHTTPError, match="404"):
        session.rget(f"{base}/PNONE/rules")


def test_a_jira_server_wants_its_signature(box, client, session):
    rules = "/integration-jira-service/rules"
    assert message_of(client.get(rules), 403) == "Authorization error"
    answer = client.post(rules, json={"rule": {"name": "R"}}, headers=SIGNED)
    assert answer.status_code == 200  # and not 201, says the document
    rule = answer.json()["rule"]
    session.headers.update(SIGNED)
    assert session.list_all(rules) == [rule]
    assert session.rget(f"{rules}/{rule['id']}") == rule


# -- Slack --------------------------------------------------------------------


def test_slack_connections(box, session):
    connections = "/integration-slack/workspaces/T1/connections"
    made = session.rpost(connections, json={"channel_id": "C1"})
    assert session.list_all(connections) == [made]
    url = f"{connections}/{made['id']}"
    assert session.rput(url, json={"channel_id": "C2"})["channel_id"] == "C2"
    box.add(connections, 60)
    assert len(session.rget(connections)) == 50


def test_a_dedicated_slack_channel(box, session, client):
    box.add("incidents", id="PINC")
    url = "/integration-slack/incidents/PINC/dedicated_channel"
    assert message_of(client.get(url), 404) == "Not Found"
    wanted = {"name": "war-room", "privacy": "public", "slack_team_id": "T1"}
    answer = client.post(url, json={"channel": wanted})
    assert answer.status_code == 201
    assert answer.json()["warnings"] == []
    channel = session.rget(url)
    assert channel == answer.json()["channel"]
    assert set(channel) == {
        "id",
        "name",
        "slack_team_id",
        "link",
        "deep_link",
    }
    assert channel["name"] == "war-room"
    assert session.rdelete(url).status_code == 204
    assert message_of(client.delete(url), 404)
    answer = client.post(url, json={"channel": {"name": "x"}})
    assert "slack_team_id is missing" in message_of(answer, 400)


def test_slack_notification_channels(box, session, client):
    box.add("incidents", id="PINC")
    url = "/integration-slack/incidents/PINC/notification_channels"
    first = {"id": "C1", "slack_team_id": "T1"}
    made = session.rpost(url, json=first)
    assert (made["channel"]["id"], made["warnings"]) == ("C1", [])
    assert session.list_all(url) == [made["channel"]]
    others = [{"id": n, "slack_team_id": "T1"} for n in ("C2", "C3")]
    session.rput(url, json=others)
    assert [channel["id"] for channel in session.rget(url)] == ["C2", "C3"]
    assert session.rdelete(f"{url}/C2").status_code == 204
    assert [channel["id"] for channel in session.rget(url)] == ["C3"]
    answer = client.put(url, json={"channels": [{"id": "C9"}]})
    assert "slack_team_id" in message_of(answer, 400)
    assert len(session.rget(url)) == 1


# -- Microsoft Teams ----------------------------------------------------------


def test_a_meeting_in_teams(box, session, client):
    box.add("incidents", id="PINC")
    url = "/integration-ms-teams/incidents/PINC/meeting"
    body = {"mst_team_id": "19:x", "meeting": {"name": "Fire"}}
    answer = client.post(url, json=body)
    assert (answer.status_code, list(answer.json())) == (201, ["meeting"])
    meeting = session.rpost(url, json=body)
    assert meeting["name"] == "Fire"
    assert meeting["url"].startswith("https://")
    assert "mst_team_id" in message_of(client.post(url, json={}), 400)


def test_a_dedicated_chat_in_teams(box, session, client):
    box.add("incidents", id="PINC")
    url = "/integration-ms-teams/incidents/PINC/dedicated_chat"
    assert message_of(client.get(url), 404)
    body = {"mst_tenant_id": "dd64", "chat": {"name": "Fire"}}
    chat = session.rpost(url, json=body)
    assert chat["name"] == "Fire"
    assert session.rget(url) == {"chat": chat, "tenant_id": "dd64"}
    assert session.rdelete(url).status_code == 204
    assert message_of(client.get(url), 404)
    assert "mst_tenant_id" in message_of(client.post(url, json={}), 400)


@pytest.mark.parametrize(
    "path",
    [
        "/integration-slack/incidents/PNONE/dedicated_channel",
        "/integration-slack/incidents/PNONE/notification_channels",
        "/integration-ms-teams/incidents/PNONE/dedicated_chat",
        "/integration-slack/no_such_thing",
    ],
)
def test_nothing_belongs_to_an_incident_that_is_not_there(path, client):
    assert message_of(client.get(path), 404) == "Not Found"
