"""The sandbox's lists of what has happened: periods, order, numbers."""

import json
from datetime import datetime, timedelta, timezone

import pytest

import pdpyras
import pdpyras_sandbox
from pdpyras_sandbox import Sandbox
from tests.test_sandbox import KEY, WINDOW, Client, errors_of, send, utc

pytestmark = pytest.mark.oldest


@pytest.fixture
def box():
    with Sandbox() as running:
        yield running


@pytest.fixture
def client(box):
    with Client(box.url) as plain:
        yield plain


def notes(records):
    """By what the records of a test are told apart."""
    return [record["note"] for record in records]


def found(client, path, **params):
    """The notes of the records of a list."""
    body = client.body(path, **params)
    (records,) = [value for value in body.values() if isinstance(value, list)]
    return notes(records)


def added(box, path, field, *times):
    """Add a record of each time, whose note it is."""
    box.add(path, [{field: text, "note": text} for text in times])


def error_of(answer):
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


# -- Times ------------------------------------------------------------------

#: Lists, and the fields by which these know when something was.
CREATED = {
    "/incidents": "created_at",
    "/log_entries": "created_at",
    "/incidents/P1/log_entries": "created_at",
    "/notifications": "started_at",
    "/change_events": "timestamp",
    "/services/P1/change_events": "timestamp",
    "/audit/records": "execution_time",
    "/users/P1/audit/records": "execution_time",
    "/teams/P1/audit/records": "execution_time",
    "/v3/schedules/P1/audit/records": "execution_time",
}


def furnish(box):
    for collection in ("incidents", "services", "users", "teams"):
        box.add(collection, id="P1", created_at="2000-01-01T00:00:00Z")
    box.add("schedules", id="P1")
    box.add("v3/schedules", id="P1")


@pytest.mark.parametrize("path", CREATED)
def test_a_list_is_restricted_to_a_period(box, client, path):
    furnish(box)
    times = ["2026-03-01T11:59:59Z", "2026-03-01T12:00:00Z"]
    times += ["2026-03-02T12:00:00Z", "2026-03-02T12:00:01Z"]
    added(box, path, CREATED[path], *times)
    period = {"since": times[1], "until": times[2]}
    assert sorted(found(client, path, **period)) == times[1:3]


@pytest.mark.parametrize("path", CREATED)
@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-13-01T00:00:00Z",
        "2026-02-30",
        "2026-03-01T24:00:00Z",
        "2026-03-01T00:00:00+24:00",
        "2026-03-01T00:00:00+02:60",
        "2026-03-01T00:00:00.Z",
        "2026-03-01T00:00:00 02:00",
        "0001-01-01T00:00:00+01:00",
        "1767225600",
        "٢٠٢٦-03-01",
    ],
)
def test_a_time_that_is_none_is_refused(box, client, path, name, text):
    furnish(box)
    error = error_of(client.get(path, params={**WINDOW, name: text}))
    assert error["code"] == 2004
    assert name in error["errors"][0]


#: One instant in several spellings.
SPELLINGS = [
    "2026-03-01T12:00:00Z",
    "2026-03-01 12:00:00Z",
    "2026-03-01T12:00Z",
    "2026-03-01T12:00:00.000000Z",
    "2026-03-01T12:00:00",
    "2026-03-01T14:00:00+02:00",
    "2026-03-01T14:00:00+0200",
    "2026-03-01T14:00:00+02",
    "2026-03-01T06:30:00.0-05:30",
    "2026-03-02T00:00:00+12:00",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_times_are_compared_as_instants(box, client, text):
    before, at = "2026-03-01T11:59:59+00:00", "2026-03-01T15:00:00+03:00"
    added(box, "incidents", "created_at", before, at)
    assert found(client, "/incidents", since=text) == [at]
    added(box, "notifications", "started_at", text)
    period = {"since": "2026-03-01T12:00:00Z", "until": "2026-03-01T12:00:00Z"}
    assert found(client, "/notifications", **period) == [text]


def test_a_date_is_its_midnight_in_utc(box, client):
    times = ["2026-03-01T00:59:59+01:00", "2026-03-01T01:00:00+01:00"]
    added(box, "incidents", "created_at", *times)
    assert found(client, "/incidents", since="2026-03-01") == times[1:]


@pytest.mark.parametrize("spec", ["seconds", "microseconds"])
def test_until_now_finds_what_was_just_made(box, client, spec):
    box.add("incidents", 2, note=1)
    service = {"id": "P1", "type": "service_reference"}
    body = {"incident": {"title": "T", "service": service, "note": 2}}
    assert client.post("/incidents", json=body).status_code == 201
    send(
        box,
        event_action="trigger",
        payload={"summary": "S", "source": "s", "severity": "info"},
    )
    change = {"summary": "built", "timestamp": utc("microseconds")}
    send(box, "/v2/change/enqueue", payload=change)
    for path in ("log_entries", "notifications", "audit/records"):
        box.add(path)
    for path, number in (
        ("/incidents", 4),
        ("/change_events", 1),
        ("/log_entries", 1),
        ("/notifications", 1),
        ("/audit/records", 1),
    ):
        spelling = "seconds" if path == "/change_events" else spec
        period = {"since": utc(days=-1), "until": utc(spelling)}
        records = client.body(path, **period)
        assert [len(r) for r in records.values() if isinstance(r, list)] == [
            number
        ], path


@pytest.mark.parametrize(
    "path", ["/change_events", "/services/P1/change_events"]
)
@pytest.mark.parametrize(
    "text", [*SPELLINGS[1:], "2026-03-01", "2026-03-01T12:00:00.5Z"]
)
def test_change_events_take_utc_in_whole_seconds_only(box, client, path, text):
    furnish(box)
    for name in ("since", "until"):
        error = error_of(client.get(path, params={name: text}))
        assert error["errors"] == [f"{name} is no valid time"]
    assert client.get(path, params={"until": SPELLINGS[0]}).status_code == 200


def test_a_period_that_ends_before_it_begins_is_refused(box, client):
    furnish(box)
    for path in [*CREATED, "/oncalls", "/schedules/P1/overrides"]:
        period = {"since": WINDOW["until"], "until": WINDOW["since"]}
        assert error_of(client.get(path, params=period))["code"] == 2005
        period["until"] = period["since"]
        assert client.get(path, params=period).status_code == 200


# -- How long a period may be, and what is meant where it is not said --------


def test_incidents_of_the_last_month_are_those_meant(box, client):
    times = [utc(days=-32), utc(days=-27), utc()]
    added(box, "incidents", "created_at", *times)
    assert found(client, "/incidents") == times[1:]


def test_one_end_of_incidents_means_a_month(box, client):
    times = ["2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"]
    times += ["2026-02-28T00:00:01Z", "2026-03-28T00:00:00Z"]
    times += ["2026-03-28T00:00:01Z"]
    added(box, "incidents", "created_at", *times)
    assert found(client, "/incidents", since=times[0]) == times[:2]
    assert found(client, "/incidents", until=times[3]) == times[1:4]
    for year, name in (("0001", "until"), ("9999", "since")):
        # There is no month before, nor after.
        params = {name: f"{year}-{year[2:] == '99' and 12 or '01'}-15"}
        assert found(client, "/incidents", **params) == []


@pytest.mark.parametrize(
    "since, until, is_taken",
    [
        ("2026-01-01", "2026-07-01T00:00:00Z", True),
        ("2026-01-01", "2026-07-01T00:00:01Z", False),
        ("2025-08-31", "2026-02-28T00:00:00Z", True),
        ("2025-08-31", "2026-02-28T00:00:00.001Z", False),
        ("2025-12-31", "2026-06-30T00:00:00Z", True),
        ("2025-12-31", "2026-06-30T00:00:01Z", False),
        ("2026-01-01T00:00:00-06:00", "2026-07-01T06:00:00Z", True),
    ],
)
def test_six_months_of_incidents_at_most(client, since, until, is_taken):
    period = {"since": since, "until": until}
    answer = client.get("/incidents", params=period)
    if is_taken:
        assert answer.status_code == 200
        return
    assert answer.json() == {
        "error": {
            "message": "Invalid Input Provided",
            "code": 2001,
            "errors": [" is invalid."],
        }
    }


def test_date_range_all_lifts_the_period_of_incidents(box, client):
    times = ["2010-01-01T00:00:00Z", "2026-01-01T00:00:00Z"]
    added(box, "incidents", "created_at", *times)
    period = {"since": "2026-01-02", "until": "nonsense"}
    assert found(client, "/incidents", date_range="all", **period) == times
    assert client.get("/incidents", params=period).status_code == 400
    for params in ({"date_range": "some"}, {}):
        assert found(client, "/incidents", **params) == []
    added(box, "notifications", "started_at", times[0])
    params = {"date_range": "all", **WINDOW}
    assert found(client, "/notifications", **params) == []


@pytest.mark.parametrize(
    "since, until, is_taken",
    [
        ("2026-02-01", "2026-04-30T23:59:59Z", True),
        ("2026-02-01", "2026-05-01", False),
        ("2025-11-30", "2026-02-27", True),
        ("2025-11-30", "2026-02-28", False),
    ],
)
def test_less_than_three_months_of_notifications(
    client, since, until, is_taken
):
    period = {"since": since, "until": until}
    answer = client.get("/notifications", params=period)
    assert answer.status_code == (200 if is_taken else 400)
    assert is_taken or "3 months" in errors_of(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/notifications",
        "/schedules/P1/overrides",
        "/v3/schedules/P1/overrides",
        "/v3/schedules/P1/custom_shifts",
    ],
)
def test_some_lists_want_both_ends(box, client, path):
    furnish(box)
    for names in ([], ["since"], ["until"]):
        params = {name: WINDOW[name] for name in names}
        errors = errors_of(client.get(path, params=params))
        assert errors == "Since and until cannot be empty"
    assert client.get(path, params=WINDOW).status_code == 200


def test_audit_records_of_the_last_day_are_those_meant(box, client):
    times = [utc(hours=-25), utc(hours=-23), utc()]
    added(box, "audit/records", "execution_time", *times)
    assert found(client, "/audit/records") == times[:0:-1]
    assert found(client, "/audit/records", until=times[1]) == times[1:2]
    assert found(client, "/audit/records", since=utc(hours=-26)) == times[::-1]


def test_31_days_of_audit_records_at_most(client):
    def status(**period):
        return client.get("/audit/records", params=period).status_code

    assert status(since="2026-01-01", until="2026-02-01T00:00:00Z") == 200
    assert status(since="2026-01-01", until="2026-02-01T00:00:01Z") == 400
    assert status(since=utc(days=-30)) == 200
    assert status(since=utc(days=-32)) == 400


def test_other_lists_take_any_period(box, client):
    furnish(box)
    for path in ("/log_entries", "/change_events"):
        times = ["2001-01-01T00:00:00Z", "2026-01-01T00:00:00Z"]
        added(box, path, CREATED[path], *times)
        assert found(client, path) == times
        assert found(client, path, since=times[1]) == times[1:]
        assert found(client, path, until=times[0]) == times[:1]
        assert found(client, path, since=times[0], until=times[1]) == times


def test_alerts_have_no_period(box, client):
    box.add("incidents", id="P1")
    url = "/incidents/P1/alerts"
    box.add(url, created_at="2001-01-01T00:00:00Z", note=1)
    assert found(client, url, since="2026-01-01", until="x") == [1]


# -- What lasts -------------------------------------------------------------

SHIFTS = [
    ("/oncalls", "start", "end"),
    ("/schedules/P1/overrides", "start", "end"),
    ("/v3/schedules/P1/overrides", "start_time", "end_time"),
    ("/v3/schedules/P1/custom_shifts", "start_time", "end_time"),
]


@pytest.mark.parametrize("path, start, end", SHIFTS)
def test_shifts_that_overlap_the_period_are_found(
    box, client, path, start, end
):
    furnish(box)
    hours = [(1, 3), (3, 5), (2, 8), (5, 7), (None, None), (None, 3), (7, 9)]
    hours += [(7, None), (4, 5)]

    def at(hour):
        return None if hour is None else f"2026-03-01T{hour + 2:02}:00:00+0200"

    box.add(
        path,
        [
            {start: at(begins), end: at(ends), "note": [begins, ends]}
            for begins, ends in hours
        ],
    )
    period = {"since": "2026-03-01T03:00:00Z", "until": "2026-03-01T06:00:00Z"}
    expected = [[3, 5], [2, 8], [5, 7], [None, None], [4, 5]]
    assert found(client, path, **period) == expected
    period = {"since": "2026-03-01T07:00:00Z", "until": "2026-03-01T07:00:00Z"}
    expected = [[2, 8], [None, None], [7, 9], [7, None]]
    assert found(client, path, **period) == expected


def test_who_is_on_call_without_a_period_is_so_now(box, client):
    shifts = [(-2, -1), (-1, 1), (1, 2)]
    for begins, ends in shifts:
        times = {"start": utc(hours=begins), "end": utc(hours=ends)}
        box.add("oncalls", note=begins, **times)
    box.add("oncalls", note="always")
    assert found(client, "/oncalls") == [-1, "always"]
    assert found(client, "/oncalls", until=utc(hours=3)) == [-1, 1, "always"]
    past = {"since": utc(hours=-3)}
    assert found(client, "/oncalls", **past) == [-2, -1, "always"]
    assert client.get("/oncalls", params={"since": utc(hours=1)}).ok is False


def test_on_call_shifts_have_no_ids(box, client):
    one, other = box.add("oncalls", 2)
    assert client.body("/oncalls")["oncalls"] == [one, other]
    assert not {"id", "type", "self", "summary"} & set(one)
    assert one["escalation_level"] != other["escalation_level"]


def test_overrides_compare_times_as_instants(box, client):
    furnish(box)
    url = "/schedules/P1/overrides"
    override = {"start": "2026-03-01T12:00:00+02:00"}
    ends = ["2026-03-01T11:00:00Z", "2026-03-01T10:00:00Z", "soon", None]
    body = {"overrides": [{**override, "end": end} for end in ends]}
    results = client.post(url, json=body).json()
    assert [result["status"] for result in results] == [201, 400, 400, 400]


# -- Analytics --------------------------------------------------------------

RAW = "/analytics/raw/incidents"
RESPONDER = "/analytics/raw/responders/P1/incidents"


def posted(client, url, **body):
    answer = client.post(url, json=body)
    assert answer.status_code == 200, answer.text
    return notes(answer.json()["data"])


@pytest.mark.parametrize(
    "url, field, first",
    [(RAW, "created_at", 1), (RESPONDER, "incident_created_at", 2)],
)
def test_raw_analytics_of_a_period(box, client, url, field, first):
    """Of a responder's incidents the beginning is described as exclusive."""
    with Sandbox(since="exclusive", until="inclusive") as other:
        for sandbox in (box, other):
            times = [f"2026-03-01T0{hour}:00:00Z" for hour in range(4)]
            added(sandbox, url, field, *times)
            filters = {"created_at_start": "2026-03-01T02:00:00+01:00"}
            filters["created_at_end"] = "2026-03-01T03:00:00"
            with Client(sandbox.url) as any_client:
                data = posted(any_client, url, filters=filters, order="asc")
            assert data == times[first:3]
    assert posted(client, url) == times[::-1]


def test_raw_analytics_that_were_updated(box, client):
    times = ["2026-03-01T00:00:00Z", "2026-03-02T00:00:00.5Z"]
    box.add(RAW, [{"updated_at": text, "note": text} for text in times])
    for after, number in (("2026-02-28", 2), (times[0], 1), (times[1], 0)):
        filters = {"updated_after": after}
        assert len(posted(client, RAW, filters=filters)) == number
    box.add(RAW, note="untouched", created_at="2026-03-03")
    filters = {"updated_after": "2026-03-02T23:59:59Z"}
    assert posted(client, RAW, filters=filters) == ["untouched"]


def test_raw_analytics_in_order(box, client):
    seconds = [5, 1, None, 3]
    box.add(RAW, [{"seconds_to_resolve": n, "note": n} for n in seconds])
    order = {"order_by": "seconds_to_resolve"}
    assert posted(client, RAW, **order) == [5, 3, 1, None]
    assert posted(client, RAW, order="asc", **order) == [None, 1, 3, 5]


def test_raw_analytics_have_times_without_a_zone(box):
    given = "2026-03-01T01:00:00.25+01:00"
    (record,) = box.add(RAW, created_at=given)
    assert record["created_at"] == "2026-03-01T00:00:00"
    (record,) = box.add(RESPONDER)
    time = datetime.strptime(
        record["incident_created_at"], "%Y-%m-%dT%H:%M:%S"
    )
    age = datetime.now(timezone.utc) - time.replace(tzinfo=timezone.utc)
    assert timedelta(0) <= age < timedelta(hours=1)


def test_incidents_of_a_responder_have_another_id(box, client):
    box.add(RESPONDER, 2, note=1)
    box.add(RESPONDER, incident_id="P3", note=2)
    body = client.post(RESPONDER, json={"limit": 2, "order": "asc"}).json()
    assert body["last"] == body["data"][1]["incident_id"]
    assert "id" not in body["data"][0]
    asked = {"starting_after": body["last"], "order": "asc"}
    body = client.post(RESPONDER, json=asked).json()
    assert (body["first"], body["last"]) == ("P3", "P3")


@pytest.mark.parametrize(
    "body",
    [
        {"filters": {"created_at_start": "x"}},
        {"filters": {"created_at_end": 1767225600}},
        {"filters": {"updated_after": ""}},
        {"filters": ["x"]},
        {"limit": 0},
        {"limit": 1001},
        {"limit": "1"},
        {"order": "up"},
        {"order_by": "id"},
        {"starting_after": "PNONE01"},
        {"starting_after": ["PNONE01"]},
    ],
)
def test_impossible_raw_analytics_are_refused(client, body):
    name = list(body.get("filters", body))[0]
    assert ("filters" if name == "x" else name) in errors_of(
        client.post(RAW, json=body)
    )


# -- What PagerDuty does not say --------------------------------------------

T = "2026-03-01T12:00:0{}Z"
RECORDS = [T.format(n) for n in ("0", "0.001", "0.999", "1", "2", "2.5", "3")]


@pytest.mark.parametrize(
    "since, until, resolution, expected",
    [
        ("inclusive", "inclusive", "seconds", RECORDS[:6]),
        ("inclusive", "exclusive", "seconds", RECORDS[:4]),
        ("exclusive", "inclusive", "seconds", RECORDS[3:6]),
        ("exclusive", "exclusive", "seconds", RECORDS[3:4]),
        ("inclusive", "inclusive", "milliseconds", RECORDS[1:5]),
        ("inclusive", "exclusive", "milliseconds", RECORDS[1:4]),
        ("exclusive", "inclusive", "milliseconds", RECORDS[2:5]),
        ("exclusive", "exclusive", "milliseconds", RECORDS[2:4]),
    ],
)
def test_each_meaning_of_a_period(since, until, resolution, expected):
    with Sandbox(
        since=since, until=until, resolution=resolution
    ) as box, Client(box.url) as client:
        for path, field in (
            ("/incidents", "created_at"),
            ("/audit/records", "execution_time"),
        ):
            added(box, path, field, *RECORDS)
            period = {"since": T.format("0.0019"), "until": T.format("2")}
            notes_found = found(client, path, **period)
            assert sorted(notes_found) == sorted(expected)


def test_by_default_both_ends_are_inclusive_to_the_second():
    with Sandbox() as box, Client(box.url) as client:
        added(box, "incidents", "created_at", *RECORDS)
        period = {"since": T.format("0.5"), "until": T.format("2")}
        assert found(client, "/incidents", **period) == RECORDS[:6]


@pytest.mark.parametrize(
    "setting",
    [
        {"since": "open"},
        {"until": None},
        {"resolution": "minutes"},
        {"resolution": 1},
        {"order": "random"},
        {"until": ["inclusive"]},
    ],
)
def test_unknown_meanings_are_refused(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name} must be '"):
        Sandbox(**setting)


@pytest.mark.parametrize("path", ["/incidents", "/log_entries"])
@pytest.mark.parametrize(
    "order, expected",
    [("added", "bcad"), ("oldest", "acdb"), ("newest", "bdca")],
)
def test_the_order_of_histories(path, order, expected):
    """b is the newest, a the oldest, c and d are of one time."""
    hours = {"a": 1, "b": 3, "c": 2, "d": 2}
    if order == "newest":
        expected = "bcda"  # of one time, in the order of adding
    with Sandbox(order=order) as box, Client(box.url) as client:
        box.add("users", [{"note": note} for note in "bcad"])
        for note in "bcad":
            created_at = f"2026-03-01T0{hours[note]}:00:00Z"
            box.add(path, note=note, created_at=created_at)
        period = {"since": "2026-03-01", "until": "2026-03-02"}
        assert "".join(found(client, path, **period)) == expected
        assert "".join(found(client, "/users")) == "bcad"


def test_times_are_known_more_exactly_than_they_are_rendered(box):
    (incident,) = box.add("incidents", created_at="2026-03-01T12:00:00.25Z")
    assert incident["created_at"] == "2026-03-01T12:00:00Z"
    times = {"started_at": "2026-03-01T14:00:00.25+02:00"}
    (notification,) = box.add("notifications", **times)
    assert notification["started_at"] == "2026-03-01T14:00:00+02:00"
    times = {"execution_time": "2026-03-01T12:00:00.250Z"}
    (record,) = box.add("audit/records", **times)
    assert record["execution_time"] == times["execution_time"]
    (record,) = box.add("audit/records")
    assert len(record["execution_time"]) == len(times["execution_time"])


def test_what_has_no_time_cannot_be_added(box, client):
    for time in ("soon", None, 5, "2026-03-01T25:00:00Z"):
        with pytest.raises(ValueError, match="no time|hour"):
            box.add("incidents", created_at=time)
    with pytest.raises(ValueError, match="no time"):
        box.add("oncalls", start="soon")
    assert client.body("/incidents")["incidents"] == []
    change = {"summary": "built", "timestamp": "soon"}
    answer = send(box, "/v2/change/enqueue", payload=change)
    assert answer.status_code == 400
    assert "timestamp" in answer.json()["errors"][0]


def test_a_time_that_is_changed_moves_the_record(box, client):
    times = ["2026-03-01T00:00:00Z", "2026-03-03T00:00:00Z"]
    one, other = box.add("change_events", 2, timestamp=times[0], note=1)
    url = f"/change_events/{one['id']}"
    body = {"change_event": {"timestamp": "soon"}}
    assert "no time" in errors_of(client.put(url, json=body))
    body["change_event"]["timestamp"] = times[1]
    assert client.put(url, json=body).status_code == 200
    for period, expected in (
        ({"until": times[0]}, [other["id"]]),
        ({"since": times[1]}, [one["id"]]),
        ({}, [one["id"], other["id"]]),
    ):
        events = client.body("/change_events", **period)["change_events"]
        assert [event["id"] for event in events] == expected


# -- Numbers ----------------------------------------------------------------


TOO_FAR = (
    "Offset+limit exceeds maximum allowed value of 10000. Please try to refine"
    " your search to reduce the returned set of records below this number, "
    "like adding a date range."
)


def test_beyond_10_000_there_is_a_total_and_the_apis_own_error(box, client):
    box.add("log_entries", 10101, note=1)
    last = client.body("/log_entries?limit=100&offset=9900&total=true")
    assert (last["total"], len(last["log_entries"])) == (10101, 100)
    assert last["more"] is True
    assert client.get("/log_entries?limit=100&offset=9901").json() == {
        "error": {
            "message": "Arguments Caused Error",
            "code": 2002,
            "errors": [TOO_FAR],
        }
    }


def test_a_page_of_a_long_list_reads_no_times(box, client, monkeypatch):
    box.add("incidents", 3000)
    box.add("oncalls", 3000, start="2026-03-01", end=None)
    calls = []
    real = pdpyras_sandbox._instant
    monkeypatch.setattr(
        pdpyras_sandbox, "_instant", lambda t: calls.append(t) or real(t)
    )
    for path in ("/incidents", "/oncalls"):
        for offset in (0, 2900):
            params = {"offset": offset, **WINDOW, "total": "true"}
            assert client.body(path, **params)["total"] == 3000
    assert len(calls) == 8


def test_a_filter_looks_at_each_record_once(box, client, monkeypatch):
    box.add("incidents", 300)
    calls = []
    real = pdpyras_sandbox._passes
    monkeypatch.setattr(
        pdpyras_sandbox, "_passes", lambda *a: calls.append(a) or real(*a)
    )
    params = {"statuses[]": "triggered", "limit": 100}
    for offset in (0, 100, 200):
        found = client.body("/incidents", offset=offset, **params)["incidents"]
        assert len(found) == 100
    assert len(calls) == 300
    body = {"incident": {"status": "resolved"}}
    client.put(f"/incidents/{found[0]['id']}", json=body)
    changed = client.body("/incidents", offset=200, **params)["incidents"]
    assert changed == found[1:]
    box.add("incidents", status="acknowledged")
    assert client.body("/incidents", offset=200, **params)["incidents"] == (
        changed
    )
    assert len(calls) > 600


def test_a_change_is_seen_by_a_filter_at_once(box, client):
    (service,) = box.add("services", name="Old")
    url = f"/services/{service['id']}"
    for name in ("New", "Newer"):
        assert client.body("/services", query="new")["services"] == []
        client.put(url, json={"service": {"name": name}})
        (renamed,) = client.body("/services", query="new")["services"]
        assert renamed["name"] == name
        client.put(url, json={"service": {"name": "Old"}})


def test_an_event_is_seen_by_a_filter_at_once(box, client):
    payload = {"summary": "S", "source": "s", "severity": "info"}
    event = {"dedup_key": "K", "payload": payload}
    send(box, event_action="trigger", **event)
    (incident,) = client.body("/incidents")["incidents"]
    triggered = {"statuses[]": "triggered"}
    lists = ["/incidents", f"/incidents/{incident['id']}/alerts"]
    for number, action in enumerate(["acknowledge", "resolve"]):
        for path in lists[number:]:
            body = client.body(path, total="true", **triggered)
            assert body["total"] == 1
        send(box, event_action=action, **event)
        body = client.body(lists[number], total="true", **triggered)
        assert body["total"] == 0


def test_what_is_kept_for_further_pages_is_bounded(box, client):
    box.add("incidents", 3)
    for n in range(100):
        params = {"statuses[]": "triggered", "incident_key": str(n)}
        assert client.body("/incidents", **params)["incidents"] == []
    lists = box._rest.lists
    assert len(lists._selections) == lists.kept == 32


# -- Records that come and go -----------------------------------------------


@pytest.mark.parametrize("order", ["added", "oldest", "newest"])
@pytest.mark.parametrize(
    "path, style",
    [("/audit/records", "cursor"), ("/alert_grouping_settings", "after")],
)
def test_a_cursor_stays_where_it_was(order, path, style):
    with Sandbox(order=order) as box, Client(box.url) as client:
        box.add(path, [{"note": n} for n in range(30)])
        answer = client.get(path).json()
        name = path.rpartition("/")[2]
        cursor = answer["next_cursor" if style == "cursor" else style]
        store = box._store.collection(path)
        for record in [*answer[name][3:7], answer[name][-1]]:
            store.remove(record["id"])
        time = {"execution_time": utc("milliseconds", hours=1)}
        box.add(path, note="new", **time)
        rest = client.get(path, params={style: cursor, **WINDOW}).json()[name]
        comes_last = style == "after"
        expected = [*range(25, 30), *(["new"] if comes_last else [])]
        assert notes(rest) == expected
        for wrong in ("nonsense", "5", "1.x", "1.2.3", ""):
            errors = client.get(path, params={style: wrong})
            assert errors.status_code == (400 if wrong else 200)


def test_records_may_be_added_little_by_little(box, client):
    """While the records are being made, the sandbox answers."""
    times = []

    def records():
        for n in range(1500):
            if n == 1200:
                times.append(len(client.body("/log_entries", limit=100)))
                total = client.body("/log_entries", total="true")["total"]
                times.append(total)
            yield {"note": n, "created_at": f"2026-03-01T00:{n % 60:02}:00Z"}

    entries = box.add("log_entries", records(), channel={"type": "api"})
    assert times[1] == 1000
    assert notes(entries) == list(range(1500))
    assert len({entry["id"] for entry in entries}) == 1500
    entries[0]["channel"]["type"] = "other"
    body = client.body("/log_entries", since="2026-03-01T00:59:00Z")
    assert notes(body["log_entries"]) == list(range(59, 1500, 60))
    body = client.body("/log_entries", limit=1)
    assert body["log_entries"][0]["channel"] == {"type": "api"}


def test_added_records_share_nothing_with_what_was_given(box, client):
    given = {"name": "T", "tags": [1]}
    one, other = box.add("teams", [given, given], more=given["tags"])
    given["tags"].append(2)
    one["more"].append(3)
    assert (other["tags"], other["more"]) == ([1], [1])
    kept = client.body("/teams")["teams"]
    assert [team["tags"] + team["more"] for team in kept] == [[1, 1]] * 2


# -- Filters and order of incidents -----------------------------------------


@pytest.fixture
def three(box):
    """Incidents of several times, urgencies and states; their numbers."""
    times = ["2026-03-02T01:00:00+02:00", "2026-03-01T23:30:00Z"]
    times += ["2026-03-01T22:00:00Z"]
    resolved = ["2026-03-05T00:00:00Z", None, "2026-03-04T22:00:00-03:00"]
    for n, (created_at, at) in enumerate(zip(times, resolved)):
        box.add(
            "incidents",
            created_at=created_at,
            resolved_at=at,
            urgency="low" if n == 1 else "high",
        )
    return {"since": "2026-03-01", "until": "2026-03-03"}


@pytest.mark.parametrize(
    "sort_by, expected",
    [
        ("incident_number", [1, 2, 3]),
        ("incident_number:desc", [3, 2, 1]),
        ("created_at", [3, 1, 2]),
        ("created_at:asc", [3, 1, 2]),
        ("created_at:desc", [2, 1, 3]),
        ("resolved_at:asc", [2, 1, 3]),
        ("resolved_at:desc", [3, 1, 2]),
        ("urgency:asc", [2, 1, 3]),
        ("urgency:desc", [1, 3, 2]),
        ("urgency:asc,created_at:asc", [2, 3, 1]),
        ("urgency:desc,incident_number:desc", [3, 1, 2]),
        ("created_at:desc,urgency:asc", [2, 1, 3]),
    ],
)
def test_incidents_in_an_order(client, three, sort_by, expected):
    body = client.body("/incidents", sort_by=sort_by, **three)
    numbers = [i["incident_number"] for i in body["incidents"]]
    assert numbers == expected


@pytest.mark.parametrize(
    "sort_by",
    [
        "",
        "title",
        "created_at:up",
        "created_at;asc",
        "created_at,urgency,incident_number",
    ],
)
def test_an_order_that_is_none_is_refused(client, sort_by):
    answer = client.get("/incidents", params={"sort_by": sort_by})
    assert "sort_by" in errors_of(answer)


def test_alerts_in_an_order(box, client):
    box.add("incidents", id="P1")
    url = "/incidents/P1/alerts"
    for note, created_at in enumerate(("2026-03-02", "2026-03-01")):
        box.add(url, note=note, created_at=created_at)
    assert found(client, url, sort_by="created_at") == [1, 0]
    assert found(client, url, sort_by="created_at:desc") == [0, 1]
    answer = client.get(url, params={"sort_by": "urgency"})
    assert "sort_by" in errors_of(answer)


@pytest.mark.parametrize(
    "name, value",
    [
        ("statuses", "resolved"),
        ("status", "resolved"),
        ("urgencies", "low"),
        ("urgency", "low"),
        ("service_ids", "PNONE01"),
        ("user_ids", "PNONE01"),
    ],
)
def test_filters_without_brackets_are_ignored(box, client, name, value):
    box.add("users")
    box.add("incidents", note=1)
    assert found(client, "/incidents", **{name: value}) == [1]
    if name.endswith("s"):
        assert found(client, "/incidents", **{name + "[]": value}) == []


# -- Incidents --------------------------------------------------------------


TAKEN = "Open incident with matching dedup key already exists on this service"


def test_one_open_incident_of_a_key_on_a_service(box, client):
    def create(key="K", service="P1"):
        service = {"id": service, "type": "service_reference"}
        incident = {"title": "T", "service": service, "incident_key": key}
        return client.post("/incidents", json={"incident": incident})

    one = create().json()["incident"]
    assert create().json() == {
        "error": {
            "message": "Arguments Caused Error",
            "code": 2002,
            "errors": [TAKEN],
        }
    }
    assert create().status_code == 400
    assert create(service="P2").status_code == 201
    assert create(key="L").status_code == 201
    for _ in "12":
        assert create(key=None).status_code == 201
        assert create(key="").status_code == 201
    params = {"incident_key": "K", "date_range": "all"}
    incidents = client.body("/incidents", **params)["incidents"]
    assert incidents[0] == one
    assert [i["service"]["id"] for i in incidents] == ["P1", "P2"]
    body = {"incident": {"status": "resolved"}}
    client.put(f"/incidents/{one['id']}", json=body)
    assert create().status_code == 201
    incident = {"title": "T", "service": "P1", "incident_key": "K"}
    answer = client.post("/incidents", json={"incident": incident})
    assert answer.status_code == 201


def test_an_alert_and_an_incident_share_a_key(box, client):
    payload = {"summary": "S", "source": "s", "severity": "info"}
    send(box, event_action="trigger", dedup_key="K", payload=payload)
    service = client.body("/incidents")["incidents"][0]["service"]
    incident = {"title": "T", "service": service, "incident_key": "K"}
    answer = client.post("/incidents", json={"incident": incident})
    assert "matching dedup key" in errors_of(answer)


def test_multi_update_takes_250_alerts(box, client):
    box.add("incidents", id="P1")
    url = "/incidents/P1/alerts"
    ids = [alert["id"] for alert in box.add(url, 251, status="triggered")]
    items = [{"id": i, "status": "resolved"} for i in ids]
    answer = client.put(url, json={"alerts": items})
    assert "250" in errors_of(answer, 413)
    assert client.put(url, json={"alerts": items[1:]}).status_code == 200
    left = client.body(url, **{"statuses[]": "triggered"})["alerts"]
    assert [alert["id"] for alert in left] == ids[:1]


def test_given_times_of_an_incident_are_kept(box):
    given = {
        "created_at": "2026-03-01T12:00:00Z",
        "resolved_at": "2026-03-01T13:00:00Z",
        "last_status_change_at": "2026-03-01T13:00:00Z",
    }
    (incident,) = box.add("incidents", status="resolved", **given)
    assert {name: incident[name] for name in given} == given
    (incident,) = box.add("incidents", created_at=given["created_at"])
    assert incident["last_status_change_at"] == given["created_at"]


def test_pdpyras_reads_the_histories(box):
    furnish(box)
    with pdpyras.APISession(KEY) as session:
        session.url = box.url
        for path in CREATED:
            session.list_all(path, params=WINDOW)
        now = datetime.now(timezone.utc)
        period = {"since": now - timedelta(days=1), "until": now}
        box.add("incidents", 5)
        assert len(session.list_all("incidents", params=period)) == 5
        assert json.dumps(session.list_all("incidents"))
