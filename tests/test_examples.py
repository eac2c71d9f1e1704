"""Every program in examples/, as a process, against a sandbox."""

import concurrent.futures
import csv
import io
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import pdpyras_sandbox
from tests.support import ROOT

pytestmark = pytest.mark.oldest

EXAMPLES = Path(ROOT) / "examples"

#: A stand-in for the sandbox: the same, behind a proxy that spoils some of
#: the answers. ``FLAW`` says which; without one it spoils none.
FLAWED = """
import http.client
import importlib.util
import json
import os

from tests import wire

SPEC = importlib.util.spec_from_file_location("whole_sandbox", {file!r})
whole = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(whole)


def lost_user(request, answer):
    if request.path == "/users" and len(answer["users"]) > 1:
        del answer["users"][-1]


def repeated_user(request, answer):
    if request.path == "/users" and len(answer["users"]) > 1:
        answer["users"][-1] = answer["users"][0]


def wrong_total(request, answer):
    if request.path == "/users" and answer.get("total"):
        answer["total"] += 1


def deaf_to_queries(request, answer):
    if request.path == "/users" and "query=" in request.target:
        answer["users"] = []


def no_update(request, answer):
    if request.method == "GET" and "user" in answer:
        answer["user"]["job_title"] = "Operator"


def deaf_to_filters(request, answer):
    if request.method == "GET" and request.path == "/incidents":
        for incident in answer["incidents"]:
            incident["status"] = "triggered"


def other_service(request, answer):
    if request.method == "GET" and "service" in answer:
        answer["service"]["escalation_policy"]["id"] = "POTHER"


def lost_change(request, answer):
    if request.path == "/change_events":
        answer["change_events"] = []


def nobody_exists(request, answer):
    if request.path == "/users/PNOBODY":
        answer.clear()
        answer["user"] = {{"id": "PNOBODY"}}
        return 200


def no_alert(request, answer):
    if request.path == "/v2/enqueue":
        answer.pop("dedup_key", None)


def lost_log_entry(request, answer):
    if request.path == "/log_entries" and len(answer["log_entries"]) > 1:
        del answer["log_entries"][0]


def stubborn_alert(request, answer):
    if request.method == "GET" and request.path == "/incidents":
        for incident in answer["incidents"]:
            if "backup" in incident["title"]:
                incident["status"] = "triggered"


def broken_server(request, answer):
    if request.path == "/change_events":
        return 500


FLAW = globals().get(os.environ.get("FLAW", ""))


class Sandbox(whole.Sandbox):
    def __enter__(self):
        self.proxy = wire.Server()
        self.proxy.handler = self.forward
        return super().__enter__()

    def __exit__(self, *exc_info):
        super().__exit__(*exc_info)
        self.proxy.stop()

    @property
    def url(self):
        return self.proxy.url

    def fail(self, *args, **kwargs):
        if os.environ.get("FLAW") != "never_busy":
            super().fail(*args, **kwargs)

    def webhook(self, url, secret, *args, **kwargs):
        if os.environ.get("FLAW") == "wrong_signature":
            secret = "another"
        return super().webhook(url, secret, *args, **kwargs)

    def drop(self, *args, **kwargs):
        if os.environ.get("FLAW") != "never_broken":
            super().drop(*args, **kwargs)

    def forward(self, request):
        upstream = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            method = request.method
            if request.path == "/incidents" and method == "PUT":
                method = os.environ.get("FLAW") == "deaf" and "GET" or method
            upstream.request(
                method,
                request.target,
                request.body,
                {{
                    name: value
                    for name, value in request.headers.items()
                    if name.lower() != "host"
                }},
            )
            response = upstream.getresponse()
            body, status = response.read(), response.status
        except http.client.HTTPException as error:
            raise OSError(error)
        finally:
            upstream.close()
        if FLAW is not None:
            answer = json.loads(body.decode("utf-8"))
            status = FLAW(request, answer) or status
            body = json.dumps(answer).encode("utf-8")
        headers = [
            item
            for item in response.getheaders()
            if item[0].lower() != "content-length"
        ]
        return wire.Answer(status, body=body, headers=headers)
"""


def run(name, *arguments, paths=(), **environment):
    """Run an example; return its exit status, output and errors."""
    process = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=30,
        cwd=str(EXAMPLES),
        env=dict(
            os.environ,
            PYTHONPATH=os.pathsep.join([*paths, str(ROOT)]),
            PYTHONIOENCODING="utf-8",
            **environment,
        ),
    )
    output, errors = process.stdout, process.stderr
    return process.returncode, output.decode(), errors.decode()


@pytest.fixture
def box():
    """A sandbox."""
    with pdpyras_sandbox.Sandbox() as running:
        yield running


@pytest.mark.parametrize(
    "name", sorted(path.name for path in EXAMPLES.glob("*.py"))
)
def test_every_example_is_tested_and_tells_its_usage(name):
    assert f'"{name}"' in Path(__file__).read_text(encoding="utf-8")
    status, output, errors = run(name, "--help")
    assert status == 0 and output.startswith("usage:") and errors == ""


# -- tour.py ---------------------------------------------------------------


def test_the_tour():
    status, output, errors = run("tour.py")
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert lines[-1].startswith("All 18 steps went as they say, in ")
    assert float(lines[-1].split()[-2]) < 20
    for said in (
        "service 'Tour: shop' has the id P",
        "750 of 1000",
        "1000 users have come",
        "created: Ada Night, Operator",
        "unchanged",
        "updated: Ada Night, Head of operations",
        "3 incidents of 'Tour: shop' are triggered",
        "3 are acknowledged",
        "triggered again: it is the same incident",
        "resolved",
        "recent changes: 'The tour",
        "the client waited 1.",
        "Retry 1 of 3",
        "12000 log entries have come, each once, in order",
        "the job raised as ever: No space left on device",
        "the alert was resolved",
        "the alert waits in a file",
        "incident.triggered, incident.resolved: delivered twice, handled once",
        "/users/PNOBODY: user not found",
        "GET /users/{id}",
    ):
        assert said in output


#: What is wrong with a sandbox, and the step that must notice.
FLAWS = [
    ("other_service", 1),
    ("lost_user", 2),
    ("repeated_user", 2),
    ("wrong_total", 2),
    ("deaf_to_queries", 4),
    ("no_update", 5),
    ("deaf", 6),
    ("deaf_to_filters", 6),
    ("no_alert", 8),
    ("lost_change", 9),
    ("broken_server", 9),
    ("never_busy", 10),
    ("never_broken", 11),
    ("lost_log_entry", 12),
    ("stubborn_alert", 13),
    ("wrong_signature", 15),
    ("nobody_exists", 16),
]


OUTCOMES = {}


@pytest.fixture
def tours(tmp_path_factory):
    """What the tour says in each flawed sandbox; some run side by side.

    It is done once, but, as a fixture of a wider scope could not, in the
    clean environment of a test.
    """
    if OUTCOMES:
        return OUTCOMES
    directory = tmp_path_factory.mktemp("flawed")
    # It lies where it is found before the whole one.
    (directory / "pdpyras_sandbox.py").write_text(
        FLAWED.format(file=pdpyras_sandbox.__file__), encoding="utf-8"
    )

    def tour(flaw):
        return run("tour.py", paths=[str(directory)], FLAW=flaw)

    flaws = ["", *(flaw for flaw, _ in FLAWS)]
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        OUTCOMES.update(zip(flaws, executor.map(tour, flaws)))
    return OUTCOMES


@pytest.mark.once
def test_the_tour_in_a_sandbox_without_a_flaw(tours):
    status, output, _ = tours[""]
    assert status == 0, output


@pytest.mark.once
@pytest.mark.parametrize("flaw, step", FLAWS)
def test_a_flaw_of_the_sandbox_makes_the_tour_fail(flaw, step, tours):
    status, output, errors = tours[flaw]
    assert (status, errors) == (1, "")
    numbers = [
        int(line.split(".")[0])
        for line in output.splitlines()
        if line[:1].isdigit()
    ]
    assert numbers == list(range(1, step + 1))
    assert "This step did not go as it says." in output
    assert "All " not in output


def test_the_live_tour_only_reads(box):
    box.add("users", 120)
    box.add("incidents", 2)
    status, output, errors = run(
        "tour.py",
        "--live",
        "--url",
        box.url,
        PAGERDUTY_API_KEY="account-not-a-real-key",
    )
    assert (status, errors) == (0, ""), output
    assert "120 users have come" in output
    assert "2 are open" in output
    assert "All 5 steps" in output
    assert {request.method for request in box.requests} == {"GET"}
    assert len(box.requests) > 5
    assert "account-not-a-real-key" not in output


def test_the_live_tour_of_an_api_that_fails(box):
    box.add("users", 3)
    box.fail(500, times=99)
    status, output, errors = run(
        "tour.py", "--live", "--url", box.url, PAGERDUTY_API_KEY="any-key"
    )
    assert (status, errors) == (1, "")
    assert "status 500" in output


def test_the_live_tour_needs_a_key():
    status, output, errors = run("tour.py", "--live")
    assert status != 0 and "PAGERDUTY_API_KEY" in errors
    assert "Traceback" not in errors
    status, _, errors = run("tour.py", "--live", PAGERDUTY_API_KEY="new\nline")
    assert status != 0 and "Traceback" not in errors
    status, _, errors = run("tour.py", "--url", "http://127.0.0.1:1")
    assert status == 2 and "--live" in errors


# -- oncall_report.py ------------------------------------------------------


def test_the_on_call_report(box):
    (user,) = box.add("users", name="Ünal, Eva", email="eva@example.com")
    policies = box.add("escalation_policies", 2)
    today = datetime.now(timezone.utc).date()
    start = f"{today}T18:00:00Z"
    end = f"{today + timedelta(days=1)}T06:00:00Z"
    for policy, level in zip(reversed(policies), (2, 1)):
        box.add(
            "oncalls",
            escalation_policy=policy,
            escalation_level=level,
            schedule={"summary": "Nights"} if level == 1 else None,
            user=user,
            start=start if level == 1 else None,
            end=end if level == 1 else None,
        )
    status, output, errors = run(
        "oncall_report.py",
        *("--url", box.url, "--days", "2"),
        PAGERDUTY_API_KEY="any-key",
    )
    assert (status, errors) == (0, "")
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [dict(row) for row in rows] == [
        {
            "policy": policies[0]["name"],
            "level": "1",
            "schedule": "Nights",
            "user": "Ünal, Eva",
            "email": "eva@example.com",
            "start": start,
            "end": end,
        },
        {
            "policy": policies[1]["name"],
            "level": "2",
            "schedule": "",
            "user": "Ünal, Eva",
            "email": "eva@example.com",
            "start": "always",
            "end": "always",
        },
    ]
    query = dict(box.requests[0].query)
    assert query["include[]"] == "users"
    assert query["since"] < query["until"]


def test_the_on_call_report_of_some_policies(box):
    run(
        "oncall_report.py",
        *("--url", box.url, "--policy", "P1", "--policy", "P2"),
        PAGERDUTY_API_KEY="any-key",
    )
    pairs = box.requests[0].query
    assert ("escalation_policy_ids[]", "P1") in pairs
    assert ("escalation_policy_ids[]", "P2") in pairs


def test_no_on_call_report(box):
    status, output, errors = run("oncall_report.py", "--url", box.url)
    assert (status, output) == (1, "") and "API key" in errors
    box.fail(403)
    status, output, errors = run(
        "oncall_report.py", "--url", box.url, PAGERDUTY_API_KEY="any-key"
    )
    assert (status, output) == (1, "") and "403 Forbidden" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("name", ["oncall_report.py", "watch_disk.py"])
def test_a_base_url_that_is_none_is_said_in_one_line(name):
    keys = dict.fromkeys(("PAGERDUTY_API_KEY", "PAGERDUTY_ROUTING_KEY"), "key")
    status, output, errors = run(name, "--url", "no-url", **keys)
    assert (status, output) == (1, "")
    assert "'no-url'" in errors and len(errors.splitlines()) == 1


# -- watch_disk.py ---------------------------------------------------------


def test_watching_a_disk(box):
    def watch(limit):
        status, output, errors = run(
            "watch_disk.py",
            *("--url", box.url, "--limit", limit),
            PAGERDUTY_ROUTING_KEY="not-a-real-routing-key",
        )
        assert (status, errors) == (0, "")
        return output, box.requests[-1].json

    output, event = watch("101")
    assert output.startswith("resolved: / on ")
    assert event["event_action"] == "resolve"
    output, again = watch("0")
    assert output.startswith("triggered: / on ")
    assert again["event_action"] == "trigger"
    assert again["dedup_key"] == event["dedup_key"]
    assert again["payload"]["summary"] in output


def test_a_disk_that_cannot_be_watched(box):
    status, _, errors = run("watch_disk.py", "--url", box.url)
    assert status == 1 and "Traceback" not in errors
    status, _, errors = run(
        "watch_disk.py",
        *("--url", box.url, "no/such/directory"),
        PAGERDUTY_ROUTING_KEY="not-a-real-routing-key",
    )
    assert status == 1 and "Traceback" not in errors
    assert box.requests == []
