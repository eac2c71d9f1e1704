"""The page on the command line: each of its commands runs, and prints that.

One-liners without pipes run within this process, everything else in bash. A
line that begins with ``#>`` is what the command above it prints.
"""

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

import pdpyras_cli
from pdpyras_sandbox import Sandbox
from tests.support import KEY, ROOT, ROUTING_KEY, read
from tests.test_docs import furnish

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        None in map(shutil.which, ("bash", "jq", "openssl")),
        reason="bash, jq and openssl are needed",
    ),
]

PAGE = read("sphinx", "source", "guide", "commandline.rst")
TASKS = read("sphinx", "source", "guide", "commandline_tasks.txt")
BLOCK = re.compile(r"\.\. code-block:: shell\n\n((?:    .*\n|\n)+)")

# What the README of pd 0.1.16 lists; `x y` is `pd x y`.
TASKS_OF_PD = """
analytics incident, analytics incident raw, auth add, auth delete, auth get,
auth list, auth use, auth web, autocomplete, automation action create,
automation action list, automation runner create, automation runner list,
commands, ep copy, ep create, ep level add, ep level remove, ep list,
ep listdeletedusers, ep oncall, ep open, ep target add, ep target remove,
event alert, event change, field create, field list, field option create,
field option list, field option remove, field schema addfield,
field schema assignment create, field schema assignment list,
field schema assignment remove, field schema create, field schema list,
field schema listfields, field schema removefield, help, incident ack,
incident alerts, incident analytics, incident assign, incident create,
incident field get, incident field set, incident list, incident log,
incident merge, incident notes, incident open, incident priority,
incident rename, incident resolve, incident responder add,
incident responder list, incident set, incident subscriber add,
incident subscriber list, incident subscriber remove,
incident subscriber update, log, orchestration add, orchestration list,
orchestration route add, orchestration route delete,
orchestration route list, rest delete, rest fetch, rest get, rest post,
rest put, schedule copy, schedule create, schedule list,
schedule listdeletedusers, schedule oncall, schedule open,
schedule override add, schedule override list, schedule render,
schedule show, service create, service disable, service enable,
service list, service open, service set, tag assign, tag list,
tag listobjects, team create, team ep add, team ep list, team ep remove,
team list, team open, team user add, team user list, team user remove,
update, user contact add, user contact list, user contact set, user create,
user delete, user list, user log, user oncall, user replace,
user session list, user set, util deleteresource, util timestamp, version
"""
WITHOUT_COUNTERPART = {
    # Keys are not saved; `auth web` is `login`, a section of the page.
    *("auth add", "auth delete", "auth list", "auth web"),
    # Schemas of custom fields are gone from the API.
    *("field schema addfield", "field schema assignment create"),
    *("field schema assignment list", "field schema assignment remove"),
    *("field schema create", "field schema list"),
    *("field schema listfields", "field schema removefield"),
    "update",  # pip's business.
}


def blocks(text):
    """The samples of a text, without their margin."""
    return [re.sub(r"^    ", "", b, flags=re.M) for b in BLOCK.findall(text)]


def tasks(text):
    """What pd calls it, and the command, for each one-liner."""
    pairs = re.findall(r"^    # .*\(([\w ]+)\)\n    (.*)$", text, re.M)
    assert pairs and len(pairs) == text.count("    # ")
    return pairs


SECTIONS = dict(
    re.findall(r"^(\S.*)\n~+\n((?:(?!.*\n~+\n).*\n)+)", TASKS, re.M)
)


@pytest.fixture
def box(monkeypatch, tmp_path):
    """A furnished sandbox, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.key").write_text("another-key\n")
    with Sandbox() as sandbox:
        furnish(sandbox)
        furnish_more(sandbox)
        for name, value in (
            ("PAGERDUTY_URL", sandbox.url),
            ("PAGERDUTY_EVENTS_URL", sandbox.url),
            ("PAGERDUTY_API_KEY", KEY),
            ("PAGERDUTY_ROUTING_KEY", ROUTING_KEY),
        ):
            monkeypatch.setenv(name, value)
        yield sandbox


def furnish_more(box):
    """What the one-liners ask for."""
    box.add("priorities", id="PPRIO01")
    box.add("tags", id="PTAG001", label="owl")
    box.add("event_orchestrations", id="PORCH01")
    box.add("incidents/custom_fields", id="PFIELD1")
    box.add("incidents/custom_fields/PFIELD1/field_options", id="POPTION")
    box.add("users/PJANE01/contact_methods", id="PPHONE1")
    box.add("teams/PTEAM01/members", 2)
    box.add("analytics/raw/incidents", id="PINC002")
    box.add(
        "oncalls",
        escalation_policy={"id": "PPOLICY", "summary": "Engineering"},
        escalation_level=1,
        user={"id": "PJANE01", "summary": "Jane Doe"},
        schedule={"id": "PNIGHTS", "summary": "Nights"},
        start="2026-01-05T09:00:00Z",
        end="2036-01-12T09:00:00Z",
    )


@pytest.fixture
def in_process(box, capsys):
    """Runs a command within this process; returns status and output."""

    def run(command):
        capsys.readouterr()
        try:
            status = pdpyras_cli.main(shlex.split(command)[1:])
        except SystemExit as error:
            status = error.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


def in_bash(command):
    program = os.path.join(ROOT, "pdpyras_cli.py")
    script = (
        "set -eo pipefail\n"
        f"pdpyras() {{ '{sys.executable}' '{program}' \"$@\"; }}\n{command}"
    )
    done = subprocess.run(
        ["bash", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def is_simple(command):
    """Is it pdpyras alone, without anything that only a shell does?"""
    quoted = re.sub(r"'[^']*'", "", command)
    is_alone = not re.search(r"[|<>$;&\"]", quoted)
    return is_alone and not re.match(r"(?!pdpyras )|pdpyras run", command)


def test_samples_of_the_page_run_and_print_what_they_say(box):
    samples = blocks(PAGE)
    assert len(samples) >= 10
    for sample in samples:
        status, out, err = in_bash(sample)
        assert (status, err) == (0, ""), sample
        printed = "".join(re.findall(r"^#> ?(.*\n)", sample, re.M))
        flags = doctest.NORMALIZE_WHITESPACE
        if printed:
            checker = doctest.OutputChecker()
            assert checker.check_output(printed, out, flags), out


#: Fields that PagerDuty computes, and the sandbox does not.
COMPUTED = ("final_schedule", "responder_requests")


@pytest.mark.parametrize("title", SECTIONS)
def test_one_liners_run(title, box, in_process):
    """In their order, as somebody would type them who reads the page."""
    for _, command in tasks(SECTIONS[title]):
        box.clear()
        run = in_process if is_simple(command) else in_bash
        status, _, err = run(command)
        for name in COMPUTED:
            err = err.replace(
                f"pdpyras: No record has the field {name}.\n", ""
            )
        assert (status, err) == (0, ""), command
        is_local = re.match(
            r"date |pdpyras (completion|-|\w+ --help)", command
        )
        assert is_local or box.requests, command


def test_every_task_of_pd_is_a_one_liner():
    wanted = {
        name.strip() for name in " ".join(TASKS_OF_PD.split()).split(",")
    }
    assert len(wanted) > 115
    found = {name for name, _ in tasks(TASKS)}
    assert wanted - found == WITHOUT_COUNTERPART
    assert found - wanted == set()
    assert sum(len(tasks(text)) for text in SECTIONS.values()) == len(
        tasks(TASKS)
    )
