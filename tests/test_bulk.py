"""Many records changed with few requests, and incidents created once."""

import contextlib
import itertools
import json
import pickle
import random
from datetime import datetime
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pdpyras
from pdpyras_sandbox import Sandbox
from tests import wire
from tests.support import KEY

pytestmark = pytest.mark.oldest

DONE = "acknowledged"


def updates(names):
    return [
        {"id": name, "type": "incident_reference", "status": DONE}
        for name in names
    ]


def names_in(request, wrapper="incidents"):
    return [item["id"] for item in request.json[wrapper]]


def updated(request, wrapper="incidents"):
    """An answer as the API gives it, with its records in another order."""
    items = [dict(item, is_new=True) for item in request.json[wrapper]]
    return wire.Answer(json={wrapper: items[::-1]})


def refusing(is_refused, status, answer=updated):
    """A handler that refuses the requests with certain ids."""

    def handle(request):
        if is_refused(names_in(request)):
            errors = {"errors": ["Refused"], "message": "Refused", "code": 1}
            return wire.Answer(status, json={"error": errors})
        return answer(request)

    return handle


# -- Batches ------------------------------------------------------------------


def test_any_number_of_records_is_updated(session, server):
    server.handler = updated
    items = updates(f"P{n}" for n in range(601))
    given = list(session.update_all("incidents", items))
    assert [item for item, _, _ in given] == items
    assert [record for _, record, _ in given] == [
        dict(item, is_new=True) for item in items
    ]
    assert {error for _, _, error in given} == {None}
    assert [len(names_in(r)) for r in server.requests] == [250, 250, 101]
    assert {(r.method, r.path) for r in server.requests} == {
        ("PUT", "/incidents")
    }
    assert items == updates(f"P{n}" for n in range(601))


def test_update_all_is_lazy(session, server):
    server.handler = updated
    taken = []

    def source():
        for number in itertools.count():
            taken.append(number)
            yield {"id": f"P{number}"}

    given = session.update_all("incidents", source(), batch_size=3)
    assert not taken and not server.requests
    for count in range(1, 8):
        next(given)
        assert len(taken) == -(-count // 3) * 3
        assert len(server.requests) == -(-count // 3)


@pytest.mark.parametrize(
    "path, wrapper",
    [
        ("incidents", "incidents"),
        ("/incidents/P1/alerts", "alerts"),
        ("priorities", "priorities"),
    ],
)
def test_endpoints_that_take_a_list(session, server, path, wrapper):
    server.handler = lambda request: updated(request, wrapper)
    for url in (path, f"{server.url}/{path.lstrip('/')}"):
        given = session.update_all(url, [{"id": "P1"}, {"id": "P2"}])
        assert [record["id"] for _, record, _ in given] == ["P1", "P2"]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "path",
    [
        "users",
        "incidents/P1",
        "incidents/P1/alerts/P2",
        "incidents/P1/merge",
        "incidents/P1/custom_fields/values",
        "nothing/of/the/kind",
        "https://api.pagerduty.example/incidents",
    ],
)
def test_others_are_refused_at_once(session, server, path):
    with pytest.raises(pdpyras.URLError):
        session.update_all(path, [])
    assert not server.requests


@pytest.mark.parametrize("size", [0, -1, 1.5, None, "many"])
def test_a_batch_size_that_is_none_is_refused_at_once(session, size):
    with pytest.raises(ValueError, match="batch_size"):
        session.update_all("incidents", [], batch_size=size)


def test_items_that_are_none_are_refused_at_once(session):
    with pytest.raises(TypeError):
        session.update_all("incidents", None)


def test_no_batch_is_larger_than_the_api_takes(session, server):
    server.handler = updated
    items = updates(f"P{n}" for n in range(600))
    assert len(list(session.update_all("incidents", items, 1000))) == 600
    assert [len(names_in(r)) for r in server.requests] == [250, 250, 100]


def test_413_halves_the_batch(session, server):
    server.handler = refusing(lambda names: len(names) > 3, 413)
    items = updates(f"P{n}" for n in range(10))
    given = list(session.update_all("incidents", items, batch_size=10))
    assert [(item, error) for item, _, error in given] == [
        (item, None) for item in items
    ]
    assert [record["id"] for _, record, _ in given] == [
        item["id"] for item in items
    ]
    sizes = [len(names_in(request)) for request in server.requests]
    assert sizes == [10, 5, 3, 2, 5, 3, 2]


def test_413_of_one_record_is_its_error(session, server):
    server.handler = refusing(lambda names: "P5" in names, 413)
    items = updates(f"P{n}" for n in range(8))
    given = list(session.update_all("incidents", items))
    for item, record, error in given:
        if item["id"] == "P5":
            assert record is None
            assert isinstance(error, pdpyras.PDHTTPError)
            assert error.response.status_code == 413
        else:
            assert error is None and record["id"] == item["id"]
    assert [item for item, _, _ in given] == items


def test_halves_are_asked_for_lazily(session, server):
    server.handler = refusing(lambda names: len(names) > 2, 413)
    items = updates(f"P{n}" for n in range(8))
    given = session.update_all("incidents", items)
    next(given)
    assert [len(names_in(r)) for r in server.requests] == [8, 4, 2]


def test_a_failed_batch_stops_no_other(session, server, naps):
    server.handler = refusing(lambda names: "P4" in names, 400)
    items = updates(f"P{n}" for n in range(9))
    given = list(session.update_all("incidents", items, batch_size=3))
    assert [item for item, _, _ in given] == items
    for number, (_, record, error) in enumerate(given):
        if number in (3, 4, 5):
            assert record is None and "Refused" in str(error)
            assert error is given[4][2]
        else:
            assert error is None and record["is_new"]
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", [("reset", "status"), ("close", "body")])
def test_network_trouble_is_an_error_of_its_batch(
    session, server, naps, fault
):
    server.handler = updated
    session.max_network_attempts = 0
    server.fault(*fault)
    items = updates(["P1", "P2", "P3"])
    given = list(session.update_all("incidents", items, batch_size=2))
    errors = [error for _, _, error in given]
    assert type(errors[0]) is pdpyras.PDClientError
    assert errors[0] is errors[1]
    assert given[2][1:] == (dict(items[2], is_new=True), None)


@pytest.mark.parametrize(
    "answer",
    [
        {"incidents": {"id": "P1"}},
        {"incidents": None},
        {"others": []},
        [],
        {"incidents": []},
        {"incidents": ["P1", None, {"id": "P3"}]},
    ],
)
def test_an_answer_without_the_records_is_an_error(session, server, answer):
    server.reply(json=answer)
    server.handler = updated
    given = session.update_all("incidents", updates(["P1", "P2"]), 1)
    (_, none, error), (_, record, nothing) = given
    assert none is nothing is None
    assert isinstance(error, pdpyras.PDServerError)
    assert record["id"] == "P2"


def test_an_item_that_cannot_be_sent_is_an_error_of_its_own(session, server):
    server.handler = updated
    naive = {"id": "P3", "since": datetime(2026, 1, 1)}
    items = [{"id": "P1"}, {"type": "incident"}, "P2", None, {"id": "P2"}]
    items += [naive, {"id": "P4", "value": object()}, {"id": "P5"}]
    given = list(session.update_all("incidents", items[:5], batch_size=250))
    given += list(session.update_all("incidents", items[5:], batch_size=1))
    assert [item for item, _, _ in given] == items
    assert [error is None for _, _, error in given] == [
        *(True, False, False, False, True),
        *(False, False, True),
    ]
    for _, record, error in given[1:4]:
        assert record is None
        assert isinstance(error, ValueError) and "id" in str(error)
    assert [names_in(r) for r in server.requests] == [["P1"], ["P2"], ["P5"]]


def test_an_id_that_comes_twice_is_updated_twice_in_order(session, server):
    server.handler = updated
    items = [{"id": "P1", "n": 1}, {"id": "P2"}, {"id": "P1", "n": 2}]
    given = list(session.update_all("incidents", items))
    assert [record for _, record, _ in given] == [
        dict(item, is_new=True) for item in items
    ]
    assert [names_in(r) for r in server.requests] == [["P1", "P2"], ["P1"]]


@pytest.mark.parametrize("kind", [KeyError, ValueError, TypeError])
def test_what_a_hook_raises_ends_it(kind, session, server):
    server.handler = updated

    def hook(response, **options):
        raise kind("of a hook")

    session.hooks["response"].append(hook)
    with pytest.raises(kind, match="of a hook"):
        next(session.update_all("incidents", updates(["P1"])))
    assert len(server.requests) == 1


def test_a_put_that_was_replaced_is_used(session, server):
    server.handler = updated
    original, asked = session.put, []

    def put(url, **options):
        asked.append(url)
        return original(url, **options)

    session.put = put
    assert len(list(session.update_all("incidents", updates(["P1"])))) == 1
    assert len(asked) == 1


@pytest.fixture(scope="module")
def bulk_server():
    with wire.Server() as server, pdpyras.APISession(KEY) as session:
        session.url = server.url
        session.trust_env = False
        yield server, session


@settings(
    deadline=None,
    database=None,
    derandomize=True,
    max_examples=80,
    suppress_health_check=list(HealthCheck),
)
@given(
    names=st.lists(st.integers(0, 30), max_size=40),
    size=st.integers(1, 12),
    most=st.integers(1, 12),
    too_large=st.sets(st.integers(0, 30), max_size=3),
    refused=st.sets(st.integers(0, 30), max_size=3),
    lost=st.sets(st.integers(0, 30), max_size=3),
    seed=st.integers(0, 999),
)
def test_each_item_gets_what_became_of_it(
    bulk_server, names, size, most, too_large, refused, lost, seed
):
    """Whatever fails, and in whatever order the records come back."""
    server, session = bulk_server
    rnd = random.Random(seed)
    carried_out = []

    def handle(request):
        numbers = [item["n"] for item in request.json["incidents"]]
        ids = [int(item["id"][1:]) for item in request.json["incidents"]]
        assert len(ids) == len(set(ids)) <= size
        if len(ids) > most or too_large.intersection(ids):
            return wire.Answer(413)
        if refused.intersection(ids):
            return wire.Answer(400, json={"error": {"errors": [str(ids)]}})
        carried_out.extend(numbers)
        items = [
            item
            for item, name in zip(request.json["incidents"], ids)
            if name not in lost
        ]
        rnd.shuffle(items)
        return wire.Answer(json={"incidents": items})

    server.handler = handle
    items = [{"id": f"P{name}", "n": n} for n, name in enumerate(names)]
    given = list(session.update_all("incidents", iter(items), size))
    assert [item for item, _, _ in given] == items
    assert carried_out == sorted(carried_out)
    for (item, record, error), name in zip(given, names):
        if error is None:
            assert record == item
            assert name not in too_large | refused | lost
            continue
        assert record is None
        is_lost = isinstance(error, pdpyras.PDServerError)
        assert (item["n"] in carried_out) == is_lost
        if is_lost:
            assert name in lost
        elif error.status_code == 413:
            assert name in too_large
        else:
            # It shared a batch with one that was refused.
            batch = json.loads(error.errors[0])
            assert name in batch and refused.intersection(batch)


# -- Incidents that are created once ------------------------------------------

PATH = "/incidents"
INCIDENT = {"type": "incident", "title": "Down", "service": {"id": "PS"}}


class Account:
    """Creates incidents as the API does; what then happens is the test's."""

    def __init__(self, server):
        self.server = server
        self.incidents = []
        self.faults = []  # Of the creations, in order; None: no fault.
        server.handler = self.answer

    def answer(self, request):
        if request.method == "GET":
            return wire.Answer(json=self.found(request))
        content = request.json["incident"]
        key = content.get("incident_key")
        if key and key in [i["incident_key"] for i in self.incidents]:
            text = "Open incident with matching dedup key already exists"
            error = {"message": "Arguments Caused Error", "errors": [text]}
            return wire.Answer(400, json={"error": dict(error, code=2001)})
        name = f"PNEW{len(self.incidents)}"
        incident = {"incident_key": "of the API", **content, "id": name}
        self.incidents.append(incident)
        whole = wire.Answer(201, json={"incident": incident})
        return self.faults.pop(0)(whole) if self.faults else whole

    def found(self, request):
        if request.path != PATH:
            (one,) = [
                i for i in self.incidents if request.path.endswith(i["id"])
            ]
            return {"incident": one}
        query = dict(request.query)
        assert query["date_range"] == "all"
        found = [
            incident
            for incident in self.incidents
            if incident["incident_key"] == query["incident_key"]
        ]
        return {"incidents": found, "more": False}

    def creations(self):
        return [r for r in self.server.requests if r.method == "POST"]


def cut(whole, at):
    """The answer, broken off at that byte."""
    return wire.Answer(raw=b"".join(whole_bytes(whole))[:at])


def whole_bytes(answer):
    body = json.dumps(answer.json).encode()
    yield b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n"
    yield b"Content-Length: %d\r\n\r\n" % len(body)
    yield body


@pytest.fixture
def account(server):
    return Account(server)


@pytest.fixture
def keyed(session):
    session.client_incident_keys = True
    session.default_from = "jane@example.com"
    return session


@pytest.mark.parametrize("place", [PATH, PATH + "/PNEW0"])
@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("name", ["post", "rpost"])
def test_a_refused_look_up_says_what_is_known(
    name, status, place, server, keyed, account, naps
):
    account.faults = [lambda whole: cut(whole, 0)]
    usual = server.handler

    def answer(request):
        if request.method == "GET" and request.path == place:
            return wire.Answer(status, json={"error": {"message": "no"}})
        return usual(request)

    server.handler = answer
    body = INCIDENT if name == "rpost" else {"incident": INCIDENT}
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        getattr(keyed, name)(PATH, json=body)
    (made,) = account.incidents
    by_id = f"was created: it is {made['id']}"
    known = made["incident_key"] if place == PATH else by_id
    assert known in str(caught.value)
    assert caught.value.status_code == 400


def test_client_incident_keys_are_off_by_default(session, account):
    assert pdpyras.APISession.client_incident_keys is False
    session.rpost(PATH, json=INCIDENT)
    assert account.creations()[0].json == {"incident": INCIDENT}


def test_a_new_incident_gets_a_key(keyed, account):
    keys = []
    for create in (
        lambda: keyed.rpost("incidents", json=INCIDENT),
        lambda: keyed.rpost(PATH, json={"incident": INCIDENT}),
        lambda: keyed.jpost(PATH, json={"incident": INCIDENT})["incident"],
        lambda: keyed.post(PATH, json={"incident": INCIDENT}).json()[
            "incident"
        ],
        lambda: keyed.request(
            "post", keyed.url + PATH, json={"incident": INCIDENT}
        ).json()["incident"],
        lambda: keyed.rpost(PATH, json=dict(INCIDENT, incident_key=None)),
    ):
        incident = create()
        keys.append(incident["incident_key"])
        assert incident["title"] == "Down"
    assert len(set(keys)) == len(account.incidents) == 6
    assert all(len(key) == 32 for key in keys)
    assert "incident_key" not in INCIDENT


def test_only_new_incidents_get_one(keyed, server):
    server.handler = lambda request: wire.Answer(json=request.json)
    own = {"incident": dict(INCIDENT, incident_key="mine")}
    for path, body in (
        ("incidents", own),
        ("incidents", [INCIDENT]),
        ("incidents", INCIDENT),
        ("incidents/P1/notes", {"incident": INCIDENT}),
        ("services", {"incident": INCIDENT}),
    ):
        assert keyed.post(path, json=body).json() == body
    assert keyed.put("incidents", json={"incident": INCIDENT}).json() == {
        "incident": INCIDENT
    }
    text = json.dumps({"incident": INCIDENT})
    assert keyed.post("incidents", data=text).json() == json.loads(text)


def test_the_setting_is_pickled(keyed):
    assert pickle.loads(pickle.dumps(keyed)).client_incident_keys is True


@pytest.mark.parametrize("retry_ambiguous_writes", [True, False])
def test_an_answer_cut_at_any_byte_leaves_one_incident(
    keyed, account, naps, retry_ambiguous_writes
):
    keyed.retry_ambiguous_writes = retry_ambiguous_writes
    lengths = []

    def cut_at(at, whole):
        lengths.append(len(b"".join(whole_bytes(whole))))
        return cut(whole, at)

    for at in range(0, 330, 1 + 6 * retry_ambiguous_writes):
        before = len(account.incidents)
        account.faults = [partial(cut_at, at)]
        incident = keyed.rpost(PATH, json=INCIDENT)
        assert len(account.incidents) == before + 1, at
        assert incident == account.incidents[-1]
    assert max(lengths) < 330


@pytest.mark.parametrize("status", [502, 504])
@pytest.mark.parametrize("retry", [{}, {502: 2, 504: 2}, {502: -1, 504: -1}])
@pytest.mark.parametrize("retry_ambiguous_writes", [True, False])
def test_a_gateway_that_lost_the_answer_leaves_one_incident(
    keyed, account, naps, status, retry, retry_ambiguous_writes
):
    keyed.retry = retry
    keyed.retry_ambiguous_writes = retry_ambiguous_writes
    account.faults = [lambda whole: wire.Answer(status, body=b"<html>")]
    incident = keyed.rpost(PATH, json=INCIDENT)
    assert [incident] == account.incidents
    assert len(account.creations()) == 2


def test_a_gateway_that_never_answers_is_an_error(keyed, server, naps):
    server.handler = lambda request: wire.Answer(504)
    with pytest.raises(pdpyras.PDServerError):
        keyed.rpost(PATH, json=INCIDENT)
    assert len(server.requests) == 4
    bodies = {request.body for request in server.requests}
    assert len(bodies) == 1  # The key is the same in all attempts.
    with pytest.raises(pdpyras.PDServerError):
        keyed.rpost(PATH, json=dict(INCIDENT, incident_key="mine"))
    assert len(server.requests) == 5


def test_an_answer_lost_several_times(keyed, account, naps):
    account.faults = [lambda whole: cut(whole, 0)]
    attempts = iter(range(9))
    create = account.answer

    def answer(request):
        # The first refusal of the duplicate is lost as well.
        given = create(request)
        is_lost = request.method == "POST" and next(attempts) == 1
        return wire.Answer(raw=b"") if is_lost else given

    account.server.handler = answer
    assert [keyed.rpost(PATH, json=INCIDENT)] == account.incidents
    assert len(account.creations()) == 3


def test_a_request_that_did_not_arrive_is_sent_again(keyed, account, naps):
    account.server.fault("close", "request")
    incident = keyed.rpost(PATH, json=INCIDENT)
    assert [incident] == account.incidents
    assert {r.method for r in account.server.requests} == {"POST"}


def test_a_refusal_at_once_is_the_callers(keyed, account):
    account.server.reply(400, json={"error": {"errors": ["No service"]}})
    with pytest.raises(pdpyras.PDHTTPError, match="No service"):
        keyed.rpost(PATH, json=INCIDENT)
    assert len(account.server.requests) == 1


def test_a_refusal_for_another_reason_is_the_callers(keyed, account, naps):
    account.server.fault("close", "request")
    account.server.reply(400, json={"error": {"errors": ["No service"]}})
    with pytest.raises(pdpyras.PDHTTPError, match="No service"):
        keyed.rpost(PATH, json=INCIDENT)
    assert not account.incidents


def test_a_key_of_the_callers_own_is_refused_as_ever(keyed, account, naps):
    """What has it may be somebody else's incident."""
    account.faults = [lambda whole: cut(whole, 0)]
    with pytest.raises(pdpyras.PDHTTPError, match="already exists"):
        keyed.rpost(PATH, json=dict(INCIDENT, incident_key="mine"))


def test_a_search_that_is_refused_leaves_the_refusal(keyed, account, naps):
    account.faults = [lambda whole: cut(whole, 0)]
    create = account.answer

    def answer(request):
        is_search = request.method == "GET"
        return wire.Answer(403) if is_search else create(request)

    account.server.handler = answer
    with pytest.raises(pdpyras.PDHTTPError, match="already exists"):
        keyed.rpost(PATH, json=INCIDENT)


def test_a_list_that_ignores_the_key_is_no_proof(keyed, account, naps):
    account.faults = [lambda whole: cut(whole, 0)]
    account.found = lambda request: {"incidents": [{"id": "P1"}]}
    with pytest.raises(pdpyras.PDHTTPError, match="already exists"):
        keyed.rpost(PATH, json=INCIDENT)


def test_giving_up_says_that_it_may_have_happened(keyed, account, naps):
    account.faults = [lambda whole: cut(whole, 0)] * 9
    account.server.handler = lambda request: wire.Answer(raw=b"")
    with pytest.raises(pdpyras.PDClientError, match="may or may not"):
        keyed.rpost(PATH, json=INCIDENT)


def with_trouble(account, trouble):
    """Lose the answer to a creation; and do so to what is asked for then."""
    account.faults = [lambda whole: cut(whole, 0)]
    create = account.answer

    def answer(request):
        asked = [r for r in account.server.requests if r.method == "GET"]
        if len(asked) >= trouble and request.method == "GET":
            return wire.Answer(raw=b"")
        return create(request)

    account.server.handler = answer


@pytest.mark.parametrize("trouble, known", [(1, "incident_key"), (2, "PNEW0")])
def test_an_incident_that_cannot_be_read_is_named(
    trouble, known, keyed, account, naps
):
    """Who is woken up by it should find it."""
    keyed.max_network_attempts = 1
    with_trouble(account, trouble)
    with pytest.raises(pdpyras.PDClientError, match="created") as caught:
        keyed.rpost(PATH, json=INCIDENT)
    (incident,) = account.incidents
    value = incident["incident_key"] if trouble == 1 else incident["id"]
    assert value in str(caught.value)
    assert known in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_it_is_looked_for_as_it_was_created(keyed, account, naps):
    account.faults = [lambda whole: cut(whole, 0)]
    headers = {"X-Test": "1", "Authorization": "Bearer of-the-call"}
    keyed.rpost(PATH, json=INCIDENT, headers=headers, timeout=17)
    sent = account.server.requests
    assert [r.method for r in sent] == ["POST", "POST", "GET", "GET"]
    assert {r.headers["X-Test"] for r in sent} == {"1"}
    assert {r.headers["Authorization"] for r in sent} == {"Bearer of-the-call"}
    assert "Content-Type" not in sent[-1].headers


def test_the_search_is_within_the_deadline(keyed, account, naps):
    account.faults = [lambda whole: cut(whole, 0)]
    create = account.answer

    def answer(request):
        searches = len(account.server.requests) - len(account.creations())
        if request.method == "POST" or searches > 20:
            return create(request)
        return wire.Answer(429)

    account.server.handler = answer
    with pytest.raises(pdpyras.PDDeadlineError):
        keyed.rpost(PATH, json=INCIDENT, deadline=30)


def test_in_the_sandbox_as_well(naps):
    with Sandbox() as box:
        box.add("users", email="jane@example.com")
        service = box.add("services", id="PS")[0]
        session = pdpyras.APISession(KEY, default_from="jane@example.com")
        session.url = box.url
        session.client_incident_keys = True
        original, answers = session.parent, []

        class Lossy:
            """Loses the first answer."""

            def request(self, *arguments, **options):
                answers.append(original.request(*arguments, **options))
                if len(answers) == 1:
                    raise ConnectionResetError("lost")
                return answers[-1]

        session.parent = Lossy()
        body = dict(INCIDENT, service=dict(service, type="service_reference"))
        incident = session.rpost("incidents", json=body)
        assert [a.status_code for a in answers] == [201, 400, 200, 200]
        assert incident["id"] == answers[0].json()["incident"]["id"]
        assert len(session.list_all("incidents")) == 1
        session.close()


@pytest.mark.parametrize("status", [400, 413, 503])
def test_what_the_api_tells_a_hook_is_about_no_batch(status, session, server):
    """Nor is the batch sent again in halves."""

    def answer(request):
        if request.path == "/users/me":
            return wire.Answer(status, json={})
        return updated(request)

    def hook(response, **options):
        if "/users/me" not in response.url:
            session.rget("users/me")

    server.handler = answer
    session.retry[503] = 0
    session.hooks["response"].append(hook)
    with pytest.raises(pdpyras.PDHTTPError, match="/users/me"):
        list(session.update_all("incidents", updates(["P1", "P2"])))
    assert [r.method for r in server.requests].count("PUT") == 1


def test_an_exception_of_a_hook_is_the_end(session, server):
    """What it has cut off would else be missing, and the rest come."""
    server.handler = updated

    def hook(response, **options):
        if len(server.requests) == 2:
            raise KeyError("of a hook")

    session.hooks["response"].append(hook)
    given = session.update_all(
        "incidents", updates(["P1", "P2", "P3"]), batch_size=1
    )
    assert next(given)[1]["id"] == "P1"
    with pytest.raises(KeyError):
        next(given)
    assert list(given) == [] and len(server.requests) == 2
    with contextlib.closing(session.update_all("incidents", [])) as given:
        assert list(given) == []
