"""The command line, within this process: what each command does and says.

What takes a process of its own, such as pipes, terminals and signals, is in
``test_cli_processes.py``.
"""

import contextlib
import csv
import io
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from urllib.parse import unquote, urlsplit

import pytest
import requests

import pdpyras
import pdpyras_cli
import pdpyras_cli_options
import pdpyras_cli_output
from pdpyras_sandbox import Sandbox
from pdpyras_webhooks import sign_webhook
from tests import wire
from tests.support import KEY, ROOT, ROUTING_KEY, Clock

pytestmark = pytest.mark.oldest

MARCH = [f"2026-03-0{day}T12:00:00Z" for day in range(1, 6)]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line; returns exit status, stdout and stderr."""

    def run(*arguments, stdin=""):
        data = io.BytesIO(stdin.encode("utf-8"))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data, "utf-8"))
        capsys.readouterr()
        try:
            status = pdpyras_cli.main(arguments)
        except SystemExit as error:
            status = error.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def keys(monkeypatch):
    """The environment of somebody who has keys."""
    monkeypatch.setenv("PAGERDUTY_API_KEY", KEY)
    monkeypatch.setenv("PAGERDUTY_ROUTING_KEY", ROUTING_KEY)


def point_to(url, monkeypatch):
    for name in ("PAGERDUTY_URL", "PAGERDUTY_EVENTS_URL"):
        monkeypatch.setenv(name, url)


@pytest.fixture
def box(monkeypatch, keys):
    """A sandbox to which the command line talks."""
    with Sandbox(users=3) as sandbox:
        point_to(sandbox.url, monkeypatch)
        yield sandbox


@pytest.fixture
def api(server, monkeypatch, keys, naps):
    """A scriptable server to which the command line talks."""
    point_to(server.url, monkeypatch)
    return server


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


def pages(path, records, size=100):
    """A handler that gives a list, page by page."""

    def handler(request):
        query = dict(request.query)
        start, limit = int(query["offset"]), int(query["limit"])
        page = records[start : start + min(limit, size)]
        more = start + len(page) < len(records)
        return wire.Answer(json={path: page, "more": more})

    return handler


# -- Reading ------------------------------------------------------------------


def test_get_prints_indented_json(run, box):
    status, out, err = run("get", "users/me")
    assert (status, err) == (0, "")
    assert out.startswith('{\n  "id": "P')
    assert json.loads(out)["type"] == "user"


def test_get_of_a_list_is_one_page(run, box):
    status, out, _ = run("get", "users", "--limit", "2", "--fields", "name")
    assert status == 0
    assert [set(user) for user in json.loads(out)] == [{"name"}, {"name"}]
    assert ("limit", "2") in box.requests[-1].query


def test_list_prints_a_record_a_line(run, box):
    status, out, err = run("list", "users")
    assert (status, err) == (0, "")
    assert len({user["id"] for user in rows(out)}) == 3


def test_limit_asks_for_no_more_than_it_prints(run, box):
    status, out, _ = run("list", "users", "--limit", "2")
    assert (status, len(rows(out))) == (0, 2)
    (request,) = box.requests
    assert ("limit", "2") in request.query


def test_prefetch_reaches_the_iteration(run, api):
    users = [{"id": f"P{n}"} for n in range(10)]
    api.handler = pages("users", users, 2)
    status, out, _ = run(
        *("list", "users", "-p", "limit=2", "--prefetch", "2", "--limit", "9")
    )
    assert status == 0 and rows(out) == users[:9]


def test_a_list_asked_for_by_post_takes_a_body(run, api):
    api.reply(json={"data": [{"id": 1}], "more": False})
    path = "analytics/raw/incidents"
    status, out, _ = run("list", path, "-f", "filters.urgency=high")
    assert (status, rows(out)) == (0, [{"id": 1}])
    assert api.requests[0].json["filters"] == {"urgency": "high"}


def test_history_prints_a_period_oldest_first(run, box):
    for moment in reversed(MARCH):
        box.add("log_entries", 2, created_at=moment)
    status, out, err = run(
        *("history", "log_entries", "--since", "2026-03-02"),
        *("--until", "2026-03-04T12:00:00Z"),
    )
    assert (status, err) == (0, "")
    assert [r["created_at"] for r in rows(out)] == [
        MARCH[1], MARCH[1], MARCH[2], MARCH[2],
    ]  # fmt: skip


def test_history_since_some_time_ago(run, box):
    box.add("log_entries", 1, created_at=MARCH[0])
    box.add("log_entries", 3)
    status, out, _ = run("history", "log_entries", "--since", "2h")
    assert (status, len(rows(out))) == (0, 3)
    assert run("history", "log_entries", "--since", "2y")[0] == 2
    assert run("history", "log_entries")[0] == 2


@pytest.mark.parametrize("text", ["2026-13-01", "2026-03-01T12:00:00", "soon"])
def test_a_time_that_is_none_is_a_usage_error(text, run, box):
    status, _, err = run("history", "log_entries", "--since", text)
    assert (status, box.requests) == (2, []) and "since" in err


def test_oncall_says_who_by_policy_and_level(run, box):
    def shift(policy, level, user, schedule, start="2026-01-01T00:00:00Z"):
        box.add(
            "oncalls",
            escalation_policy={"id": "P" + policy, "summary": policy},
            escalation_level=level,
            user={"id": "U" + user, "summary": user},
            schedule=schedule and {"id": "S", "summary": schedule},
            start=start,
            end=None,
        )

    shift("Web", 2, "Cleo", None)
    shift("Web", 1, "Bob", "Nights")
    shift("Web", 1, "Ann", "Days")
    shift("Base", 1, "Dan", "Days")
    shift("Base", 1, "Dan", "Days")
    status, out, err = run("oncall")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["policy", "level", "user", "schedule", "until"],
        ["Base", "1", "Dan", "Days"],
        ["Web", "1", "Ann", "Days"],
        ["Web", "1", "Bob", "Nights"],
        ["Web", "2", "Cleo"],
    ]
    assert rows(run("oncall", "--format", "jsonl")[1])[0]["user_id"] == "UDan"


def test_oncall_reads_all_pages(run, box):
    for number in range(130):
        box.add(
            "oncalls",
            escalation_policy={"id": "P1", "summary": "Web"},
            escalation_level=1,
            user={"id": f"U{number}", "summary": f"User {number}"},
            start=None,
            end=None,
        )
    assert len(run("oncall")[1].splitlines()) == 131


def test_whoami_of_a_user_and_of_an_account(run, box, monkeypatch):
    mine = json.loads(run("whoami")[1])
    assert mine["access"] == "user" and "@" in mine["email"]
    assert mine["subdomain"] == "pdpyras-sandbox"
    monkeypatch.setenv("PAGERDUTY_API_KEY", "account-key")
    assert json.loads(run("whoami")[1])["access"] == "account"


def test_whoami_has_one_deadline_for_both_requests(run, api):
    def answer(request):
        asked.append(request.path)
        end.wait(1.2)
        return wire.Answer(json={"user": {"id": "P1"}})

    asked, end = [], threading.Event()
    api.handler = answer
    begun = time.monotonic()
    status, out, err = run("whoami", "--deadline", "2")
    assert (status, out) == (3, "") and "deadline" in err
    assert time.monotonic() - begun < 2.3 and len(asked) == 2


def test_rate_tells_the_limit(run, box):
    status, out, _ = run("rate")
    assert (status, json.loads(out)["limit"]) == (0, 960)


def test_answers_without_what_is_asked_for_are_1(run, api):
    api.reply(json={"abilities": []})
    status, out, err = run("rate")
    assert (status, out) == (1, "") and "rate limit" in err
    api.reply(400, json={"error": "This is an account-level access token"})
    api.reply(json={"users": [], "more": False})
    status, out, err = run("whoami")
    assert (status, out) == (1, "") and "html_url" in err


@pytest.mark.parametrize(
    "shift",
    [
        {"escalation_level": "2"},
        {"escalation_level": [1]},
        {"escalation_policy": {"id": 5}},
        {"user": {"summary": {}}},
        {"end": 5},
    ],
)
def test_a_shift_that_breaks_the_schema_is_1(shift, run, api):
    usual = {"escalation_level": 1, "user": {"summary": "A"}, "end": "x"}
    usual["escalation_policy"] = {"id": "P1"}
    shifts = [usual, dict(usual, **shift)]
    api.reply(json={"oncalls": shifts, "more": False})
    status, out, err = run("oncall")
    assert (status, out) == (1, "") and "The API tells of a shift" in err


# -- Formats ------------------------------------------------------------------

STRANGE = [
    {"id": "P1", "name": 'a,"b"\nc\td\\e', "team": {"summary": "Käse"}},
    {"id": "P2", "name": "\x1b[2J\x9b\u202e\r", "team": None, "n": [1, "x"]},
    {"id": "P3", "name": "漢字 \ud800", "tags": ["a", "b"], "ok": True},
]


@pytest.fixture
def strange(api):
    api.handler = pages("users", STRANGE)
    return api


def test_json_of_a_list_is_an_array(run, strange):
    out = run("list", "users", "--format", "json")[1]
    assert json.loads(out) == STRANGE
    assert "Käse" in out and "漢字" in out
    assert "\\u009b" in out and "\\u202e" in out and "\\ud800" in out
    strange.handler = pages("users", [])
    assert run("list", "users", "--format", "json")[1] == "[]\n"


def test_jsonl_is_an_object_a_line(run, strange):
    out = run("list", "users")[1]
    assert rows(out) == STRANGE
    assert not set(out) & set("\x1b\x9b\u202e\ud800")


def test_csv_is_read_back(run, strange):
    out = run("list", "users", "--format", "csv", "--fields", "id,name")[1]
    read = list(csv.DictReader(io.StringIO(out, newline="")))
    assert [row["name"] for row in read] == [
        STRANGE[0]["name"], STRANGE[1]["name"], "漢字 \\ud800",
    ]  # fmt: skip


def test_tsv_has_a_line_a_record(run, strange):
    fields = "id,name,team.summary,n,tags,ok"
    out = run("list", "users", "--format", "tsv", "--fields", fields)[1]
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == fields.split(",")
    assert lines[1][:3] == ["P1", 'a,"b"\\nc\\td\\\\e', "Käse"]
    assert lines[2] == ["P2", "\\u001b[2J\\u009b\\u202e\\r", "", '[1, "x"]',
                        "", ""]  # fmt: skip
    assert lines[3][3:] == ["", "a, b", "true"]


def test_a_table_is_aligned(run, strange):
    fields = "name,id"
    out = run("list", "users", "--format", "table", "--fields", fields)[1]
    lines = out.splitlines()
    assert len(lines) == 4
    width = pdpyras_cli_output._width
    assert len({width(line.rpartition("  ")[0]) for line in lines[1:]}) == 1
    assert lines[3].startswith("漢字")


@pytest.mark.parametrize("form", ["csv", "tsv", "table"])
def test_records_that_are_no_objects_are_in_a_column(form, run, api):
    values = ["sso", 5, True, None, ["a", "b"]]
    api.handler = lambda request: wire.Answer(json={"abilities": values})
    status, out, err = run("get", "abilities", "--format", form)
    lines = [line.strip('"') for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert lines == ["value", "sso", "5", "true", "", "a, b"]


def test_a_table_streams_behind_its_first_rows(run, api):
    users = [{"id": f"P{n}", "name": "x" * (n // 100)} for n in range(250)]
    api.handler = pages("users", users)
    form = ("--format", "table", "--fields", "id,name")
    lines = run("list", "users", *form)[1].splitlines()
    assert len(lines) == 251 and lines[250].split() == ["P249", "xx"]


def test_ids_are_an_id_a_line(run, strange):
    assert run("list", "users", "--format", "ids")[1] == "P1\nP2\nP3\n"
    strange.handler = pages("users", [{"name": "x"}])
    status, out, err = run("list", "users", "--format", "ids")
    assert (status, out) == (2, "") and "--fields" in err


def test_columns_are_those_of_the_first_record_and_others_are_told(
    run, strange
):
    status, out, err = run("list", "users", "--format", "csv")
    assert out.splitlines()[0] == "id,name"
    assert status == 0 and "ok" in err and "--fields" in err
    assert err.count("warning") == 1


def test_columns_without_a_record(run, api):
    api.handler = pages("users", [])
    form = ("--format", "csv")
    assert run("list", "users", *form) == (0, "", "")
    assert run("list", "users", *form, "--fields", "a,b")[1] == "a,b\n"
    assert run("list", "users", "--format", "table") == (0, "", "")


@pytest.mark.parametrize("form", [(), ("--format", "table")])
@pytest.mark.parametrize("command", ["list", "get"])
def test_a_field_that_no_record_has_is_named(command, form, run, box):
    box.add("users", 3)
    status, out, err = run(command, "users", "--fields", "id,emial", *form)
    assert status == 0 and out
    assert err == "pdpyras: No record has the field emial.\n"
    assert run(command, "users", "--fields", "id,name", *form)[2] == ""


def test_fields_of_json_are_picked(run, strange):
    out = run("list", "users", "--fields", "id,team.summary")[1]
    assert rows(out)[0] == {"id": "P1", "team.summary": "Käse"}
    assert rows(out)[2] == {"id": "P3", "team.summary": None}


def test_fields_lead_through_lists(run, api):
    teams = [{"summary": "A"}, {"summary": "B"}]
    api.reply(json={"user": {"id": "P1", "teams": teams}})
    fields = ("--fields", "teams.summary", "--format", "csv")
    assert run("get", "users/P1", *fields)[1] == 'teams.summary\n"A, B"\n'


# -- Writing ------------------------------------------------------------------


def test_post_builds_the_body_from_fields(run, box):
    status, out, _ = run(
        *("post", "services", "-f", "name=A=B", "-f", "auto:=5"),
        *("-f", "escalation_policy.id=PX", "-f", "ok:=true"),
    )
    made = json.loads(out)
    assert status == 0 and made["name"] == "A=B" and made["auto"] == 5
    assert made["escalation_policy"] == {"id": "PX"} and made["ok"] is True
    assert "service" in box.requests[-1].json


@pytest.mark.parametrize("how", ["argument", "late", "file", "stdin"])
def test_the_body_is_json_a_file_or_stdin(how, run, box, tmp_path):
    text = '{"name": "Jürgen", "email": "j@example.com"}'
    file = tmp_path / "body.json"
    file.write_bytes(text.encode("utf-8"))
    body = {"file": f"@{file}", "stdin": "-"}.get(how, text)
    arguments = ["post", "users", body, "-f", "role=admin"]
    if how == "late":
        arguments = ["post", "users", "-f", "role=admin", body]
    status, out, _ = run(*arguments, stdin=text)
    assert (status, json.loads(out)["name"]) == (0, "Jürgen")
    assert json.loads(out)["role"] == "admin"


def test_put_patch_and_delete(run, box):
    user = json.loads(run("get", "users/me")[1])
    path = "users/" + user["id"]
    assert json.loads(run("put", path, "-f", "name=New")[1])["name"] == "New"
    flow = json.loads(run("post", "incident_workflows", "-f", "name=A")[1])
    path_of_flow = "incident_workflows/" + flow["id"]
    assert run("put", path_of_flow, "-f", "name=B")[0] == 0
    assert run("delete", path) == (0, "", "")
    assert run("get", path)[0] == 4


def test_patch_sends_a_patch(run, api):
    api.reply(json={"integration": {"id": "P1"}})
    path = "workflows/integrations/P1"
    run("patch", path, "-f", "name=x", "-p", "a=b")
    (request,) = api.requests
    assert (request.method, request.query) == ("PATCH", [("a", "b")])


@pytest.mark.parametrize(
    "arguments",
    [
        ("users", "{"),
        ("users", "@/nowhere.json"),
        ("users", "-f", "x"),
        ("users", "-f", "x:=y"),
        ("users", "-f", "=y"),
        ("users", "[]", "-f", "a=b"),
        ("users", "-f", "a=b", "-f", "a.b=c"),
        ("users", "{}", "{}"),
        (),
    ],
)
def test_a_body_that_is_none_is_a_usage_error(arguments, run, box):
    status, out, err = run("post", *arguments)
    assert (status, out, box.requests) == (2, "", [])
    assert err


def test_each_sends_a_request_for_each_line(run, box):
    lines = "".join(
        json.dumps({"name": f"N{n}", "email": f"n{n}@example.com"}) + "\n"
        for n in range(5)
    )
    status, out, err = run("post", "users", "--each", "-", stdin=lines + "\n")
    assert (status, err) == (0, "")
    assert [user["name"] for user in rows(out)] == ["N0", "N1", "N2", "N3",
                                                    "N4"]  # fmt: skip


def test_each_fills_the_path_from_records_and_ids(run, box, tmp_path):
    records = run("list", "users")[1]
    ids = run("list", "users", "--format", "ids")[1]
    file = tmp_path / "users.jsonl"
    file.write_text(records)
    form = ("-f", "job_title=Cook", "--format", "ids")
    status, out, _ = run("put", "users/{id}", "--each", str(file), *form)
    assert (status, out) == (0, ids)
    assert set(box.requests[-1].json["user"]) == {"job_title"}
    assert run("delete", "users/{id}", "--each", "-", stdin=ids)[:2] == (0, "")
    assert run("list", "users")[1] == ""


def test_each_quotes_what_it_fills_in(run, api):
    api.reply(json={"tag": {"id": "P1"}})
    line = json.dumps({"a": {"b": "x/y?z"}, "c": 1})
    run("put", "tags/{a.b}", "--each", "-", stdin=line)
    (request,) = api.requests
    assert request.target == "/tags/x%2Fy%3Fz"


def test_each_sends_no_body_for_an_id_alone(run, box):
    box.add("teams", id="PTEAM01")
    ids = run("list", "users", "--format", "ids")[1]
    status, _, err = run("put", "teams/PTEAM01/users/{id}", "--each", "-",
                         stdin=ids)  # fmt: skip
    assert (status, err) == (0, "") and box.requests[-1].body == b""


def test_each_goes_on_behind_a_refusal(run, box):
    ids = run("list", "users", "--format", "ids")[1].split()
    lines = "\n".join([ids[0], "PNOBODY", "{", "{}", ids[1]])
    status, out, err = run("delete", "users/{id}", "--each", "-", stdin=lines)
    assert (status, out) == (4, "")
    assert "line 2: DELETE /users/PNOBODY: 404" in err
    assert "line 3" in err and "line 4" in err and "3 of 5" in err
    assert run("list", "users", "--format", "ids")[1].split() == ids[2:]


def test_each_goes_on_after_a_line_that_is_not_utf_8(run, box, tmp_path):
    file = tmp_path / "users.jsonl"
    user = b'{"name": "%s", "email": "%s@x.example"}\n'
    file.write_bytes(user % (b"a", b"a") + b"\xff\n" + user % (b"b", b"b"))
    options = ("--each", str(file), "--at-once", "3", "--fields", "name")
    status, out, err = run("post", "users", *options)
    assert (status, rows(out)) == (2, [{"name": "a"}, {"name": "b"}])
    assert "line 2: The input is not UTF-8" in err and "1 of 3" in err


@pytest.mark.parametrize("line", ['{"id": "P2", "v": NaN}', "[" * 99999])
def test_each_goes_on_after_a_line_that_cannot_be_sent(line, run, api):
    api.handler = lambda request: wire.Answer(json={"user": {"id": "P"}})
    lines = f'{{"id": "P1"}}\n{line}\n{{"id": "P3"}}\n'
    status, out, err = run("put", "users/{id}", "--each", "-", stdin=lines)
    assert (status, len(rows(out))) == (2, 2)
    assert "line 2: " in err and "1 of 3" in err
    assert [r.path for r in api.requests] == ["/users/P1", "/users/P3"]


@pytest.mark.skipif(sys.platform == "win32", reason="it sends a signal")
def test_an_interrupt_lets_no_thread_send_again(run, api):
    def answer(request):
        asked.append(request.path)
        if len(asked) == 4:
            main = threading.main_thread().ident
            signal.pthread_kill(main, signal.SIGINT)
        return wire.Answer(429)

    asked, api.handler = [], answer
    each = ("--each", "-", "--at-once", "2")
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    status, out, _ = run("delete", "users/{id}", *each, stdin="P1\nP2\n")
    signal.signal(signal.SIGINT, usual)
    assert (status, out) == (130, "")
    before = len(asked)
    threading.Event().wait(0.3)  # None of the pauses takes time.
    assert len(asked) <= before + 2


def test_each_stops_when_the_network_is_gone(run, api):
    api.reply(json={"user": {"id": "P1"}})
    for _ in range(4):
        api.fault("reset", stage="status")
    status, out, err = run(
        *("put", "users/{id}", "-f", "name=x", "--each", "-"),
        stdin="P1\nP2\nP3\nP4\n",
    )
    assert (status, len(rows(out))) == (3, 1)
    assert "line 2: " in err and "Line 3" in err and "1 of 2" in err
    assert not [r for r in api.requests if "P3" in r.path]


def test_at_once_keeps_the_order_and_is_faster(run, monkeypatch, keys):
    with Sandbox(users=12, latency=0.1) as box:
        point_to(box.url, monkeypatch)
        ids = run("list", "users", "--format", "ids")[1]
        most, under_way, lock = [0], [0], threading.Lock()
        answer = box._rest.answer

        def count(request):
            return answer(request)

        box._rest.answer = count
        wait = box._stopping.wait

        def waiting(seconds):
            with lock:
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            wait(seconds)
            with lock:
                under_way[0] -= 1

        monkeypatch.setattr(box._stopping, "wait", waiting)
        status, out, _ = run(
            *("put", "users/{id}", "-f", "name=x", "--each", "-"),
            *("--at-once", "4", "--format", "ids"),
            stdin=ids,
        )
    assert (status, out) == (0, ids)
    assert 2 <= most[0] <= 4


# -- Events -------------------------------------------------------------------


def test_trigger_sends_every_property(run, box):
    status, out, err = run(
        *("trigger", "Full", "db1", "--dedup-key", "d1"),
        *("--severity", "WARNING", "--component", "disk", "--group", "prod"),
        *("--class", "space", "--client", "mon", "--client-url", "http://m/"),
        *("--timestamp", "2026-01-01T00:00:00Z"),
        *("--image", "https://x/i.png a graph", "--image", '{"src": "s"}'),
        *("--link", "https://x/ the runbook", "--link", "https://y/"),
        *("--details", '{"a": {"b": 1}}', "-f", "a.c=2", "-f", "n:=3"),
    )
    assert (status, out, err) == (0, "d1\n", "")
    event = box.requests[-1].json
    assert event.pop("routing_key") == ROUTING_KEY
    assert event == {
        "event_action": "trigger",
        "dedup_key": "d1",
        "client": "mon",
        "client_url": "http://m/",
        "images": [
            {"src": "https://x/i.png", "alt": "a graph"},
            {"src": "s"},
        ],
        "links": [
            {"href": "https://x/", "text": "the runbook"},
            {"href": "https://y/"},
        ],
        "payload": {
            "summary": "Full",
            "source": "db1",
            "severity": "warning",
            "component": "disk",
            "group": "prod",
            "class": "space",
            "timestamp": "2026-01-01T00:00:00Z",
            "custom_details": {"a": {"b": 1, "c": "2"}, "n": 3},
        },
    }


def test_trigger_names_this_host_and_makes_a_key(run, box):
    import socket

    status, out, _ = run("trigger", "Full")
    event = box.requests[-1].json
    assert event["payload"]["source"] == socket.gethostname()
    assert (status, out.strip()) == (0, event["dedup_key"])


@pytest.mark.parametrize(
    "command, action",
    [
        ("acknowledge", "acknowledge"),
        ("ack", "acknowledge"),
        ("resolve", "resolve"),
    ],
)
def test_alerts_are_acknowledged_and_resolved(command, action, run, box):
    run("trigger", "Full", "db1", "--dedup-key", "d1")
    assert run(command, "d1") == (0, "d1\n", "")
    assert box.requests[-1].json["event_action"] == action


def test_change_sends_a_change_event(run, box):
    status, out, _ = run(
        *("change", "Deployed", "ci", "-f", "v=2", "--link", "http://x/ CI")
    )
    event = box.requests[-1].json
    assert status == 0 and event["payload"]["source"] == "ci"
    assert event["payload"]["custom_details"] == {"v": "2"}
    assert event["links"] == [{"href": "http://x/", "text": "CI"}]


def test_events_are_kept_and_flushed(run, api, tmp_path):
    taken = wire.Answer(202, json={"status": "success", "dedup_key": "d1"})
    outbox = ("--outbox", str(tmp_path / "alerts.db"))
    api.handler = lambda request: wire.Answer(503)
    status, out, err = run("trigger", "Full", *outbox, "--dedup-key", "d1")
    assert (status, out) == (0, "d1\n")
    assert "outbox: 1" in err
    state = json.loads(run("outbox", "status", *outbox)[1])
    assert (state["waiting"], state["refused"]) == (1, 0)
    (event,) = rows(run("outbox", *outbox, "list")[1])
    assert (event["dedup_key"], event["state"]) == ("d1", "waiting")
    api.handler = lambda request: taken
    deadline = ("--deadline", "20")
    status, out, _ = run("outbox", "flush", *outbox, *deadline)
    assert (status, json.loads(out)["waiting"]) == (0, 0)
    assert run("outbox", "list", *outbox) == (0, "", "")


def test_refused_events_are_retried_and_dropped(run, api, tmp_path):
    outbox = ("--outbox", str(tmp_path / "alerts.db"))
    api.handler = lambda request: wire.Answer(400)
    for key in ("d1", "d2"):
        assert run("trigger", "Full", *outbox, "--dedup-key", key)[0] == 1
    events = rows(run("outbox", "list", *outbox)[1])
    assert [event["state"] for event in events] == ["refused"] * 2
    first, second = (str(event["id"]) for event in events)
    assert run("outbox", "retry", *outbox, first) == (0, "", "")
    assert json.loads(run("outbox", "flush", *outbox)[1])["refused"] == 1
    assert run("outbox", "flush", *outbox)[0] == 0
    assert run("outbox", "retry", first, *outbox)[0] == 0
    assert run("outbox", "flush", *outbox)[0] == 1
    assert run("outbox", "drop", *outbox, first, second) == (0, "", "")
    assert run("outbox", "list", *outbox)[1] == ""
    status, _, err = run("outbox", "drop", second, *outbox)
    assert status == 4 and second in err


@pytest.mark.parametrize(
    "command",
    [("trigger", "x"), ("ack", "k"), ("resolve", "k"), ("change", "x")],
)
def test_an_event_that_is_refused_is_1(command, run, api, tmp_path):
    outbox = ("--outbox", str(tmp_path / "alerts.db"))
    refusal = {"status": "invalid event", "message": "No such thing"}
    for _ in range(2):
        api.reply(400, json=refusal)
        status, out, err = run(*command, *outbox)
        assert (status, out) == (1, "") and "No such thing" in err
    api.reply(202, json={"status": "success", "dedup_key": "k"})
    assert run(*command, *outbox)[0] == 0
    api.handler = lambda request: wire.Answer(429)
    assert run(*command, *outbox)[0] == 0


@pytest.mark.parametrize("action", ["retry", "drop"])
@pytest.mark.parametrize("behind", [True, False])
def test_ids_that_no_event_can_have(action, behind, run, tmp_path):
    outbox = ["--outbox", str(tmp_path / "alerts.db")]
    for number, expected in (
        *((str(2**63), 4), ("1", 4), ("\xb2", 2), ("9" * 5000, None)),
    ):
        words = [*outbox, number] if behind else [number, *outbox]
        status, out, err = run("outbox", action, *words)
        assert status == expected or expected is None and status in (2, 4)
        assert out == "" and (number in err or expected is None)


def test_a_flush_that_leaves_something_is_3(run, api, tmp_path):
    outbox = ("--outbox", str(tmp_path / "alerts.db"))
    api.handler = lambda request: wire.Answer(503)
    run("trigger", "Full", *outbox)
    assert run("outbox", "flush", *outbox)[0] == 3


@pytest.mark.parametrize("arguments", [["status"], ["retry"], ["list", "1"]])
def test_an_outbox_must_be_named_and_ids_fit(arguments, run, tmp_path):
    outbox = (
        ["--outbox", str(tmp_path / "x")] if arguments[0] != "status" else []
    )
    status, _, err = run("outbox", *arguments, *outbox)
    assert status == 2 and err


@pytest.mark.parametrize("action", ["status", "list", "flush", "drop"])
def test_what_is_no_outbox_is_left_as_it_is(action, run, api, tmp_path):
    path = tmp_path / "api.key"
    path.write_text("not a database")
    ids = ["1"] if action == "drop" else []
    status, out, err = run("outbox", action, *ids, "--outbox", str(path))
    assert (status, out) == (2, "")
    assert f"{path} is no outbox" in err
    assert path.read_text() == "not a database"
    assert os.listdir(str(tmp_path)) == ["api.key"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="it needs a FIFO")
@pytest.mark.parametrize("action", ["status", "list", "flush"])
def test_a_fifo_is_no_outbox_and_is_not_waited_for(action, run, tmp_path):
    path = str(tmp_path / "fifo")
    os.mkfifo(path)

    def write():
        with contextlib.suppress(OSError):  # Nobody reads it.
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            released.append(path)

    released = []
    watchdog = threading.Timer(5, write)
    watchdog.start()
    status, out, err = run("outbox", action, "--outbox", path)
    watchdog.cancel()
    assert (status, out, released) == (2, "", [])
    assert f"{path} is no outbox" in err


@pytest.mark.parametrize("action", ["status", "list"])
def test_an_outbox_that_is_not_there_is_told_and_not_made(
    action, run, tmp_path
):
    path = tmp_path / "alerts.db"
    status, out, err = run("outbox", action, "--outbox", str(path))
    assert (status, err) == (0, f"pdpyras: There is no outbox {path} yet.\n")
    if action == "status":
        empty = {"waiting": 0, "refused": 0, "oldest": None}
        assert json.loads(out) == empty
    assert os.listdir(str(tmp_path)) == []


def test_an_outbox_in_a_directory_that_is_not_there_is_1(run, tmp_path):
    path = str(tmp_path / "nowhere" / "alerts.db")
    status, _, err = run("outbox", "flush", "--outbox", path)
    assert status == 1
    assert "nowhere: No such file or directory" in err


def test_an_event_that_was_sent_without_its_outbox_is_0(run, api, tmp_path):
    path = str(tmp_path / "nowhere" / "alerts.db")
    api.reply(202, json={"dedup_key": "d"})
    status, out, err = run("trigger", "Full", "--outbox", path)
    assert (status, len(api.requests)) == (0, 1)
    assert out == "d\n"
    assert "sent directly" in err


def test_an_outbox_in_the_home_directory_has_a_status(
    run, api, tmp_path, monkeypatch
):
    """The ~ comes from where no shell is, such as a unit of systemd."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PAGERDUTY_OUTBOX", "~/alerts.db")
    api.handler = lambda request: wire.Answer(503)
    assert run("trigger", "Full")[0] == 0
    assert (tmp_path / "alerts.db").exists()
    status, out, _ = run("outbox", "status")
    assert (status, json.loads(out)["waiting"]) == (0, 1)


def test_a_damaged_outbox_is_told_of_by_its_status(run, api, tmp_path):
    path = tmp_path / "alerts.db"
    path.write_bytes(b"SQLite format 3\0" + b"damaged " * 1000)
    status, out, err = run("outbox", "status", "--outbox", str(path))
    assert status == 0 and json.loads(out)["waiting"] == 0
    assert "alerts.db is damaged" in err


@pytest.mark.parametrize("command", ["status", "flush"])
def test_an_outbox_that_cannot_be_used_is_1(command, run, api, tmp_path):
    path = tmp_path / "directory" / "alerts.db"
    path.parent.mkdir()
    path.write_bytes(b"")
    path.parent.joinpath("alerts.db-lock").mkdir()
    status, _, err = run("outbox", command, "--outbox", str(path))
    assert status == 1 and "cannot be used" in err


# -- Webhooks, signing in, completion -----------------------------------------


def test_a_webhook_is_verified(run, tmp_path, monkeypatch):
    body = b'{"event": {"id": "E1", "event_type": "incident.triggered"}}'
    (tmp_path / "body").write_bytes(body)
    (tmp_path / "secret").write_bytes(b"the-secret\n")
    signature = ("--signature", sign_webhook(body, "the-secret"))
    name = str(tmp_path / "body")
    status, _, err = run("webhook", "verify", name, *signature)
    assert status == 2 and "PAGERDUTY_WEBHOOK_SECRET" in err
    file = ("--key-file", str(tmp_path / "secret"))
    status, out, _ = run("webhook", "verify", name, *signature, *file)
    assert (status, json.loads(out)["id"]) == (0, "E1")
    monkeypatch.setenv("PAGERDUTY_WEBHOOK_SECRET", "the-secret")
    text = body.decode("utf-8")
    assert run("webhook", "verify", *signature, stdin=text)[0] == 0
    wrong = ("--signature", "v1=" + "0" * 64)
    status, out, err = run("webhook", "verify", *wrong, stdin=text)
    assert (status, out) == (1, "") and "signature" in err.lower()


@pytest.fixture
def oauth(box, monkeypatch, tmp_path):
    """The environment of somebody who has an OAuth app."""
    monkeypatch.delenv("PAGERDUTY_API_KEY")
    for name, value in (
        ("CLIENT_ID", "the-client"),
        ("CLIENT_SECRET", "the-client-secret"),
        ("SCOPES", "users.read"),
        ("OAUTH_URL", box.url),
        ("TOKEN_CACHE", str(tmp_path / "cache" / "tokens.json")),
    ):
        monkeypatch.setenv("PAGERDUTY_" + name, value)
    return tmp_path / "cache" / "tokens.json"


@pytest.fixture
def browser(monkeypatch):
    """A browser in which the user consents; the URLs that it has opened."""
    import webbrowser

    opened = []

    def open_url(url):
        opened.append(url)

        def visit():
            back = url.rpartition("redirect_uri=")[2].partition("&")[0]
            requests.get(requests.utils.unquote(back) + "favicon.ico")
            requests.get(url)

        threading.Thread(target=visit).start()

    monkeypatch.setattr(webbrowser, "open", open_url)
    return opened


def test_login_keeps_tokens_that_later_commands_use(
    run, box, oauth, browser, monkeypatch
):
    status, _, err = run("whoami")
    assert status == 2 and "pdpyras login" in err
    status, out, err = run("login", "--port", "0")
    assert (status, out) == (0, "") and "Signed in as" in err
    assert len(browser) == 1 and browser[0] in err
    text = oauth.read_text()
    assert "the-client-secret" not in text and oauth.stat().st_mode & 0o77 == 0
    assert json.loads(run("whoami")[1])["access"] == "user"
    token = box.requests[-1].headers["Authorization"]
    assert token.startswith("Bearer ")
    monkeypatch.setenv("PAGERDUTY_SCOPES", "users.write")
    assert run("whoami")[0] == 2
    monkeypatch.setenv("PAGERDUTY_SCOPES", "users.read")
    assert run("login", "--forget") == (0, "", "")
    assert run("whoami")[0] == 2


def test_without_a_user_the_app_acts(run, oauth, monkeypatch):
    monkeypatch.setenv("PAGERDUTY_SUBDOMAIN", "acme")
    assert run("list", "users")[0] == 0


def test_fewer_scopes_than_asked_for_are_a_refusal(
    run, box, oauth, monkeypatch
):
    monkeypatch.setenv("PAGERDUTY_SUBDOMAIN", "acme")
    box.grant(scopes=[])
    status, _, err = run("list", "users")
    assert status == 1 and "users.read" in err


def test_a_refresh_token_that_is_void_is_1(run, oauth, browser):
    assert run("login", "--port", "0")[0] == 0
    content = json.loads(oauth.read_text())
    for tokens in content["tokens"].values():
        tokens.update(refresh="void", expires_at=0)
    oauth.write_text(json.dumps(content))
    status, _, err = run("list", "users")
    assert status == 1 and "invalid_grant" in err


def test_tokens_that_cannot_be_stored_are_1(run, box, oauth, browser):
    assert run("login", "--port", "0")[0] == 0
    box.revoke_tokens()
    lock = oauth.parent / "tokens.json.lock"
    lock.unlink()
    lock.mkdir()
    status, _, err = run("list", "users")
    assert status == 1 and "cannot be used" in err


def spare_connection(url, data=b""):
    """Browsers open some that they may need later, and send nothing."""
    back = unquote(url.rpartition("redirect_uri=")[2].partition("&")[0])
    spare = socket.create_connection(("127.0.0.1", urlsplit(back).port))
    spare.sendall(data)
    return spare


def test_a_spare_connection_does_not_hold_up_a_login(
    run, oauth, browser, monkeypatch
):
    import webbrowser

    visit = webbrowser.open
    spare = []

    def open_url(url):
        spare.append(spare_connection(url))
        with spare_connection(url, b"GET") as broken:
            broken.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        visit(url)

    monkeypatch.setattr(webbrowser, "open", open_url)
    begun = time.monotonic()
    status, _, err = run("login", "--port", "0")
    assert time.monotonic() - begun < 5
    spare[0].close()
    assert status == 0 and "Traceback" not in err


def test_the_deadline_ends_a_login_beside_a_connection_that_drips(
    run, oauth, monkeypatch
):
    import webbrowser

    end = threading.Event()
    threads = []

    def drip(spare):
        with spare, contextlib.suppress(OSError):
            while not end.wait(0.05):
                spare.sendall(b"x")

    def open_url(url):
        spare = spare_connection(url)
        threads.append(threading.Thread(target=drip, args=(spare,)))
        threads[0].start()

    monkeypatch.setattr(webbrowser, "open", open_url)
    clock = Clock(1)
    status, _, err = run("login", "--port", "0", "--deadline", "1")
    clock.check()
    end.set()
    threads[0].join()
    assert status == 3 and "No browser" in err


def test_login_ends_when_nobody_comes(run, oauth):
    arguments = ("login", "--port", "0", "--no-browser", "--deadline", "0.2")
    status, out, err = run(*arguments)
    assert (status, out) == (3, "") and "0.2 s" in err


@pytest.mark.parametrize("command", ["login", "sandbox"])
def test_a_port_is_a_number_of_16_bits(command, run, oauth):
    status, out, err = run(command, "--port", "65536")
    assert (status, out) == (2, "") and "invalid port value" in err


def test_login_needs_an_app(run):
    status, _, err = run("login")
    assert status == 2 and "PAGERDUTY_CLIENT_SECRET" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_every_command_and_option(shell, run):
    status, out, err = run("completion", shell)
    assert (status, err) == (0, "")
    for name in pdpyras_cli_options.COMMANDS:
        assert name in out
    for flag in pdpyras_cli_options._options:
        assert flag.lstrip("-") in out


def test_completion_offers_no_option_for_an_argument(run):
    assert "'1:what:(--" not in run("completion", "zsh")[1]
    assert "-f -a '--" not in run("completion", "fish")[1]
    for name in pdpyras_cli_options.COMMANDS:
        words = pdpyras_cli_options._words(name).split()
        assert len(words) == len(set(words))


# -- Options, keys, exit statuses ---------------------------------------------


def test_options_stand_before_or_behind_the_command(run, api):
    api.handler = pages("users", [{"id": "P1"}])
    before = ("-p", "a=b", "--from", "a@example.com", "--format", "ids")
    status, out, _ = run(*before, "list", "users", "-p", "c=d", "-H", "X-A: 1")
    assert (status, out) == (0, "P1\n")
    (request,) = api.requests
    assert request.query[:2] == [("a", "b"), ("c", "d")]
    assert request.headers["X-A"] == "1"
    assert request.headers["From"] == "a@example.com"
    run("--format", "ids", "list", "users", "--format", "jsonl")
    status, _, err = run("--limit", "3", "trigger", "x")
    assert status == 2 and "takes no --limit" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["list"],
        ["list", "users", "-p", "x"],
        ["list", "users", "-p", "=x"],
        ["list", "users", "--limit", "0"],
        ["list", "users", "--prefetch", "17"],
        ["list", "users", "--deadline", "-1"],
        ["list", "users", "--deadline", "inf"],
        ["list", "users", "--format", "yaml"],
        ["list", "users", "--form", "json"],
        ["list", "users", "--region", "mars"],
        ["list", "users", "--url", "https://x.example", "--region", "eu"],
        ["list", "users", "-H", "x"],
        ["list", "users", "-H", "authorization: Token token=x"],
        ["list", "users", "-H", "Bad Name: x"],
        ["list", "users", "-H", "X-A: a\nb"],
        ["list", "users", "-p", "query=caf\udce9"],
        ["list", "users", "--from", "a\n"],
        ["list", "users", "--url", "https://me:secret@x.example"],
        ["post", "users", "-f", "x:=NaN"],
        ["post", "users", "-f", "x:=" + "[" * 99999],
        ["post", "users", "[" * 99999],
        ["post", "users", "-", "--each", "-"],
        ["post", "users", "@-", "--each", "-"],
        ["post", "users", "--key-file", "-", "--each", "-"],
        ["trigger", "x", "--details", "-", "--key-file", "-"],
        ["trigger", "x", "--link", '{"a":' + "[" * 99999],
        ["webhook", "verify", "--signature", "x", "--key-file", "-"],
        ["run", "--key-file", "-", "--", "true"],
        ["run", "--details", "@-", "--", "true"],
        ["list", "users", "{}", "{}"],
        ["list", "users/P1"],
        ["history", "incidents", "--since", "99999999999d"],
        ["history", "incidents", "--since", "9999999d"],
        ["get", "https://evil.example/users"],
        ["trigger"],
        ["trigger", ""],
        ["trigger", "x", "--severity", "bad"],
        ["trigger", "x", "--details", "[]"],
        ["trigger", "x", "--link", "{"],
        ["outbox", "explode"],
        ["run"],
        ["run", "--"],
        ["run", "--details", "[]", "--", "false"],
        ["run", "--details", "-", "--", "false"],
        ["run", "--details", "@/nowhere", "--timeout", "x", "--", "false"],
    ],
)
def test_what_is_no_usage_is_2_and_sends_nothing(arguments, run, api):
    if "--form" in arguments and sys.version_info < (3, 8):
        pytest.skip("argparse cannot refuse abbreviations alone")
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(("usage: pdpyras", "pdpyras: "))
    assert api.requests == []
    assert "secret" not in err


@pytest.mark.parametrize(
    "arguments, flag",
    [
        (["--since", "1d", "history", "incidents"], "--since"),
        (["-f", "name=x", "post", "users"], "-f"),
        (["-fname=x", "post", "users"], "-f"),
        (["--limit", "3", "--since=1d", "history", "x"], "--since"),
        (["-pa=b", "-p", "c=d", "--timeout", "3", "run", "x"], "--timeout"),
    ],
)
def test_an_option_that_stands_before_its_command(arguments, flag, run, api):
    status, out, err = run(*arguments)
    assert (status, out, api.requests) == (2, "", [])
    assert f"{flag} must be written after the command" in err


def test_answers_that_cannot_be_used_are_1(run, api):
    api.reply(302, headers={"Location": "https://evil.example/"})
    status, out, err = run("get", "users/P1")
    assert (status, out) == (1, "") and "redirects to" in err
    api.reply(body=b"[" + b" " * (64 * 1024 * 1024 + 9) + b"]")
    status, out, err = run("get", "users/P1")
    assert (status, out) == (1, "") and "max_response_size" in err


def test_messages_name_options_and_no_attributes(run, api, monkeypatch):
    api.reply(401, json={"error": {"message": "No"}})
    err = run("get", "users/P1")[2]
    assert "--region" in err and "--url" in err and "attribute" not in err
    monkeypatch.delenv("PAGERDUTY_URL")
    err = run("get", "users/P1", "--url", "nonsense")[2]
    assert "give --region or --url" in err and "attribute" not in err
    monkeypatch.setenv("PAGERDUTY_URL", "https://me:secret@x.example")
    status, _, err = run("get", "users/P1")
    assert status == 2 and "x.example" in err and "secret" not in err


def test_an_unknown_command_is_told_which_there_are(run):
    status, _, err = run("lst", "history")
    assert status == 2 and "'lst'" in err
    assert "list" in err and "oncall" in err


@pytest.mark.parametrize(
    "answer, status",
    [
        (wire.Answer(400, json={"error": {"message": "No"}}), 1),
        (wire.Answer(401, json={"error": {"message": "No"}}), 1),
        (wire.Answer(403, json={"error": {"message": "No"}}), 1),
        (wire.Answer(404, json={"error": {"message": "No"}}), 4),
        (wire.Answer(500, json={"error": {"message": "No"}}), 1),
        (wire.Answer(200, body=b"<html>"), 1),
    ],
)
def test_refusals_are_1_and_not_found_is_4(answer, status, run, api):
    api.handler = lambda request: answer
    got, out, err = run("get", "users/P1")
    assert (got, out) == (status, "")
    assert "pdpyras: GET " in err and "/users/P1: " in err
    assert KEY not in err and "Traceback" not in err


@pytest.mark.parametrize(
    "since", ["yesterday", "2026-13-01", "2026-02-30", "12", "99999999999w"]
)
def test_what_is_no_time_is_told_what_is(since, run, api):
    status, _, err = run("history", "log_entries", "--since", since)
    assert status == 2 and api.requests == []
    assert f"{since!r} is no time" in err and "2026-01-31" in err


@pytest.mark.parametrize(
    "arguments", [["help", "list"], ["incident", "list"], ["lst", "users"]]
)
def test_of_no_command_all_commands_are_told(arguments, run):
    status, _, err = run(*arguments)
    assert status == 2
    assert f"no command is called '{arguments[0]}'" in err
    assert all(name in err for name in pdpyras_cli_options.COMMANDS)


def test_a_position_in_another_list_is_refused(run, box, tmp_path):
    period = ("--since", "2026-03-01", "--until", "2026-03-06")
    period += ("--resume", str(tmp_path / "position"))
    assert run("history", "log_entries", *period)[0] == 0
    status, out, err = run("history", "incidents", *period)
    assert (status, out) == (2, "")
    assert "a position in /log_entries, not in /incidents" in err


def test_a_second_that_is_not_over_is_left_to_the_next_export(
    run, box, tmp_path
):
    """What is written in it after this run would be lost to both."""
    path = tmp_path / "position"
    for _ in range(2):
        period = ("--since", "7d", "--resume", str(path))
        assert run("history", "log_entries", *period)[0] == 0
        until = json.loads(path.read_text())["position"]["until"]
        assert until.endswith("Z") and "." not in until


def test_errors_say_what_to_do_in_a_shell(run, api):
    assert "pdpyras list" in run("history", "users", "--since", "7d")[2]
    assert "pdpyras list --help" in run("list", "users", "--parms", "a=b")[2]
    err = run("list", "users", "--region", "eu", "--url", api.url)[2]
    assert "PAGERDUTY_URL, PAGERDUTY_REGION" in err
    status, _, err = run("post", "users", "@nowhere.json")
    assert status == 2
    assert err == "pdpyras: nowhere.json: No such file or directory.\n"


def test_a_network_that_is_gone_is_3(run, api):
    api.fault("refuse", stage="connect", times=9)
    status, out, err = run("get", "users/P1")
    assert (status, out) == (3, "") and "refused" in err


def test_a_deadline_is_3(run, box, naps):
    box.fail(429, reset=30)
    status, out, err = run("get", "users", "--deadline", "2")
    assert (status, out) == (3, "") and "deadline" in err


def test_a_list_that_is_cut_is_5(run, box):
    box.add("users", 10100)
    status, out, err = run("list", "users", "--format", "ids")
    assert (status, len(out.splitlines())) == (5, 10000)
    assert err.startswith("pdpyras: warning: ") and "10000" in err
    assert err.count("warning") == 1


def test_records_before_an_error_are_printed(run, api):
    api.reply(json={"users": [{"id": "P1"}], "more": True})
    api.reply(404)
    status, out, err = run("list", "users")
    assert (status, rows(out)) == (4, [{"id": "P1"}]) and "404" in err


def test_the_key_comes_from_a_file(run, api, tmp_path, monkeypatch):
    monkeypatch.delenv("PAGERDUTY_API_KEY")
    file = tmp_path / "key"
    file.write_text("another-key\n")
    api.reply(json={"user": {}})
    assert run("get", "users/P1", "--key-file", str(file))[0] == 0
    key = api.requests[0].headers["Authorization"]
    assert key == "Token token=another-key"
    api.reply(202, json={"dedup_key": "d"})
    run("resolve", "d", "--key-file", str(file))
    assert api.requests[1].json["routing_key"] == "another-key"
    status, _, err = run("get", "users/P1", "--key-file", str(file) + "x")
    assert (status, err) == (2, f"pdpyras: {file}x: {os.strerror(2)}.\n")


def test_region_and_url_choose_where_to_ask(run, api, monkeypatch):
    monkeypatch.delenv("PAGERDUTY_URL")
    api.reply(json={"user": {}})
    assert run("get", "users/P1", "--url", api.url)[0] == 0
    seen = []

    class FakeError(Exception):
        pass

    def request(session, method, url, **kwargs):
        seen.append(session.url)
        raise FakeError

    monkeypatch.setattr(pdpyras.PDSession, "request", request)
    with pytest.raises(FakeError):
        pdpyras_cli.main(["get", "users/P1", "--region", "eu"])
    assert seen == ["https://api.eu.pagerduty.com"]


def test_texts_of_a_server_are_harmless_on_stderr(run, api):
    error = {"message": "a\x1b[2Jb\x9bc\u202ed"}
    api.reply(400, json={"error": error})
    status, _, err = run("get", "users/P1")
    assert status == 1 and not set(err) & set("\x1b\x9b\u202e")


def test_retries_are_told_on_stderr(run, api):
    api.fault("reset", stage="status")
    api.reply(json={"user": {}})
    status, _, err = run("get", "users/P1")
    assert status == 0
    assert err.startswith("pdpyras: ") and "GET" in err


def test_verbose_logs_what_is_sent(run, api):
    api.handler = lambda request: wire.Answer(json={"user": {}})
    assert run("get", "users/P1")[2] == ""
    err = run("get", "users/P1", "--verbose")[2]
    assert "/users/P1" in err and "200" in err and KEY not in err


def test_verbose_says_a_warning_once(run, api):
    api.handler = lambda request: wire.Answer(json={"users": []})
    for options in ([], ["--verbose"]):
        status, _, err = run("list", "users", *options)
        assert status == 5 and err.count("more") == 1


def test_nothing_is_left_behind(run, api):
    before = warnings.showwarning, list(logging.getLogger("pdpyras").handlers)
    api.reply(json={"user": {}})
    run("get", "users/P1", "--verbose")
    log = logging.getLogger("pdpyras")
    assert (warnings.showwarning, list(log.handlers)) == before
    assert log.level == logging.NOTSET and log.propagate


def test_a_mistake_of_ours_is_not_hidden(run, api, monkeypatch):
    def broken(*args, **kwargs):
        raise TypeError("a mistake")

    monkeypatch.setattr(pdpyras.APISession, "rget", broken)
    with pytest.raises(TypeError):
        pdpyras_cli.main(["get", "users/P1"])


@pytest.mark.parametrize("name", sorted(pdpyras_cli_options.COMMANDS))
def test_each_help_has_an_example_that_is_usable(name, run):
    status, out, err = run(name, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: pdpyras {name} ")
    assert "Example: " in out
    assert name in pdpyras_cli._ACTIONS or name == "completion"


def test_version_is_that_of_the_client(run, tmp_path, monkeypatch):
    assert run("--version") == (0, pdpyras.__version__ + "\n", "")
    # Where the client is elsewhere, it is asked.
    place = str(tmp_path / "pdpyras_cli_options.py")
    monkeypatch.setattr(pdpyras_cli_options, "__file__", place)
    assert run("--version") == (0, pdpyras.__version__ + "\n", "")


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["list", "-h"],
                  ["completion", "bash"]]
)  # fmt: skip
def test_help_and_version_import_neither_requests_nor_the_client(arguments):
    code = (
        "import sys, pdpyras_cli\n"
        "try: pdpyras_cli.main()\n"
        "except SystemExit: pass\n"
        "print({'requests', 'pdpyras', 'logging'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=dict(os.environ, PYTHONPATH=ROOT),
        stdout=subprocess.PIPE,
    )
    assert done.stdout.splitlines()[-1] == b"set()"


def test_python_m_pdpyras_alone_says_what_is_missing(tmp_path):
    with open(os.path.join(ROOT, "pdpyras.py"), "rb") as file:
        (tmp_path / "pdpyras.py").write_bytes(file.read())
    code = (
        "import sys; sys.path[0] = sys.argv.pop(1); sys.modules['pdpyras_cli']"
        " = None; import runpy; runpy.run_module('pdpyras', None, '__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "list", "users"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"pip install 'pdpyras>=6'" in done.stderr
    assert b"Traceback" not in done.stderr
