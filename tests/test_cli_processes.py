"""The command line as real processes: pipes, terminals, locales, signals.

And ``pdpyras run``, which must be invisible to what it runs.
"""

import argparse
import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import requests

import pdpyras_cli_output
import pdpyras_cli_run
import pdpyras_cli_session
import pdpyras_webhooks
from pdpyras_oauth import OAuthApp, TokenCache
from pdpyras_sandbox import Sandbox
from pdpyras_tokens import Tokens
from pdpyras_webhooks import sign_webhook
from tests import wire
from tests.support import KEY, ROOT, ROUTING_KEY

PDPYRAS = [sys.executable, os.path.join(ROOT, "pdpyras_cli.py")]
SECONDS = 60  # after which something hangs

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="these are about Unix"
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The environment of somebody who has keys; warnings are errors."""
    monkeypatch.setenv("PAGERDUTY_API_KEY", KEY)
    monkeypatch.setenv("PAGERDUTY_ROUTING_KEY", ROUTING_KEY)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    for name in ("PYTHONIOENCODING", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def usual_signals():
    """Those that are ignored, as in the background of a shell, would stay so
    in the processes that tests start."""
    numbers = [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def point_to(url, monkeypatch):
    for name in ("PAGERDUTY_URL", "PAGERDUTY_EVENTS_URL"):
        monkeypatch.setenv(name, url)


@pytest.fixture
def box(monkeypatch):
    with Sandbox(users=3) as sandbox:
        point_to(sandbox.url, monkeypatch)
        yield sandbox


@pytest.fixture
def api(server, monkeypatch):
    point_to(server.url, monkeypatch)
    return server


def pdpyras(*arguments, stdin=b"", **options):
    """Run the command line to its end."""
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    return subprocess.run(
        [*PDPYRAS, *arguments], input=stdin, timeout=SECONDS, **options
    )


@contextlib.contextmanager
def started(*command, **options):
    """A process, which does not outlive the block."""
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(SECONDS)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def shell(script):
    """Run a line of bash, in which ``pdpyras`` is the command line."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    quoted = " ".join(f"'{word}'" for word in PDPYRAS)
    function = f'pdpyras() {{ {quoted} "$@"; }}\n'
    return subprocess.run(
        [bash, "-c", function + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=SECONDS,
    )


def await_text(stream, text):
    """Read lines until one holds the text."""
    for line in stream:
        if text in line:
            return line
    raise AssertionError(f"{text!r} did not come")


# -- Pipes --------------------------------------------------------------------


def test_a_closed_pipe_is_no_error(box):
    box.add("users", 2000)
    done = shell("set -o pipefail; pdpyras list users | head -1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments", ["--help", "completion bash", "get users", "list users"]
)
def test_a_pipe_that_nobody_reads_is_no_error(arguments, box):
    done = shell(f"set -o pipefail; pdpyras {arguments} | true")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.once
def test_a_batch_of_writes_goes_on_without_its_reader(box, tmp_path):
    lines = [json.dumps({"name": f"Team {n}"}) for n in range(30)]
    lines[20] = "not JSON"
    before = len(shell("pdpyras list teams").stdout.splitlines())
    (tmp_path / "teams.jsonl").write_text("\n".join(lines))
    done = shell(
        "set -o pipefail; pdpyras post teams "
        f"--each {tmp_path}/teams.jsonl | head -1"
    )
    assert (done.returncode, len(done.stdout.splitlines())) == (2, 1)
    assert b"line 21: " in done.stderr
    after = len(shell("pdpyras list teams").stdout.splitlines())
    assert after - before == 29


@pytest.mark.once
def test_at_once_does_without_threads_that_cannot_be_started(box, tmp_path):
    lines = [json.dumps({"name": f"Team {n}"}) for n in range(9)]
    (tmp_path / "teams.jsonl").write_text("\n".join(lines))
    # No system has a petabyte for the stack of a thread.
    program = (
        "import sys, threading; sys.path.insert(0, sys.argv.pop(1)); "
        "import pdpyras_cli; threading.stack_size(1 << 50); "
        "sys.exit(pdpyras_cli.main())"
    )
    each = ("--each", str(tmp_path / "teams.jsonl"), "--at-once", "4")
    form = ("--format", "tsv", "--fields", "name")
    with started(
        *(sys.executable, "-c", program, ROOT, "post", "teams", *each, *form)
    ) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (0, b"")
    names = [f"Team {n}" for n in range(9)]
    assert out.decode().splitlines() == ["name", *names]


@pytest.mark.once
def test_errors_keep_their_status_where_stderr_is_closed(box):
    assert shell("pdpyras get users/PNONE 2>&-").returncode == 4
    assert shell("pdpyras get users/me >&-").returncode == 0


@pytest.mark.once
@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="there is no /dev/full"
)
def test_a_full_disk_is_an_error(box):
    done = shell("pdpyras list users > /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith(b"pdpyras: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.once
@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="there is no /dev/full"
)
@pytest.mark.parametrize("at_once", [1, 4])
def test_a_batch_says_where_a_full_disk_has_ended_it(at_once, box, tmp_path):
    lines = [json.dumps({"name": f"Team {n}"}) for n in range(1, 31)]
    lines[1] = "not JSON"
    (tmp_path / "teams.jsonl").write_text("\n".join(lines))
    done = shell(
        f"pdpyras post teams --each '{tmp_path}/teams.jsonl' "
        f"--at-once {at_once} > /dev/full"
    )
    assert done.returncode == 1
    sent = {r.json["team"]["name"] for r in box.requests}
    err = done.stderr.decode()
    (first,) = map(int, re.findall(r"Line (\d+) and those after it", err))
    assert sent == {f"Team {n}" for n in range(1, first) if n != 2}
    assert 1 < first <= 1 + at_once and "No space left" in err
    assert ("line 2: " in err) == (at_once > 1)


@pytest.mark.oldest
def test_a_line_is_printed_before_the_next_page_is_asked_for(api):
    may_go_on, asked = threading.Event(), []

    def answer(request):
        asked.append(request.target)
        if len(asked) == 2:
            may_go_on.wait(SECONDS)
        user = {"id": f"P{len(asked)}"}
        return wire.Answer(json={"users": [user], "more": len(asked) < 2})

    api.handler = answer
    for form in ("jsonl", "csv", "ids"):
        del asked[:]
        may_go_on.clear()
        with started(*PDPYRAS, "list", "users", "--format", form) as process:
            await_text(process.stdout, b"P1")
            assert len(asked) <= 2 and process.poll() is None
            may_go_on.set()
            await_text(process.stdout, b"P2")
            assert process.wait(SECONDS) == 0


@pytest.mark.once
@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_a_slow_reader_of_a_non_blocking_pipe_loses_nothing(form, api):
    users = [{"id": f"P{n}", "pad": "x" * 1000} for n in range(300)]
    api.handler = lambda request: wire.Answer(
        json={"users": users, "more": False}
    )
    command = (*PDPYRAS, "list", "users", "--format", form)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with started(*command, stdout=writer) as process:
        os.close(writer)
        with open(reader, "rb") as file:
            time.sleep(1)
            read = file.read()
        assert (process.wait(SECONDS), process.stderr.read()) == (0, b"")
    assert read == pdpyras(*command[2:]).stdout
    assert read.count(b"x" * 1000) == 300


@pytest.mark.once
def test_commands_are_chained_with_pipes(box):
    box.add("incidents", 3)
    done = shell(
        "set -o pipefail; pdpyras list incidents --format ids | sort | "
        "pdpyras put 'incidents/{id}' -f type=incident_reference "
        "-f status=resolved --each - --at-once 2 --format tsv --fields status"
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"status\n" + b"resolved\n" * 3


# -- Locales and terminals ----------------------------------------------------


@pytest.mark.parametrize(
    "locale",
    [
        "C",
        *(pytest.param(n, marks=pytest.mark.once) for n in ("C.UTF-8", "x")),
    ],
)
def test_output_and_arguments_are_utf_8(locale, api, monkeypatch):
    for name, value in (
        *(("LC_ALL", locale), ("PYTHONUTF8", "0")),
        ("PYTHONCOERCECLOCALE", "0"),
    ):
        monkeypatch.setenv(name, value)
    api.handler = lambda request: wire.Answer(
        201, json={"user": {"name": request.json["user"]["name"] + "漢"}}
    )
    done = pdpyras("post", "users", "-f", "name=Jürgen".encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert "Jürgen漢".encode() in done.stdout
    done = pdpyras("post", "users", "-", stdin='{"name": "é"}'.encode())
    assert "é漢".encode() in done.stdout
    done = pdpyras("get", "https://é.example/".encode())
    assert done.returncode == 2 and "é.example".encode() in done.stderr


class Terminal:
    """A pseudo-terminal, and what was shown on it."""

    def __init__(self):
        self.master, self.slave = os.openpty()
        self.shown = b""

    def close(self):
        os.close(self.master)

    def read_all(self):
        """What is shown until nobody has it for a terminal any more."""
        os.close(self.slave)
        with contextlib.suppress(OSError):  # So Linux tells the end.
            data = os.read(self.master, 65536)
            while data:
                self.shown += data
                data = os.read(self.master, 65536)
        return self.shown

    def read_until(self, text):
        end = time.monotonic() + SECONDS
        while text not in self.shown:
            ready, _, _ = select.select([self.master], [], [], 1)
            if ready:
                self.shown += os.read(self.master, 65536)
            assert time.monotonic() < end, self.shown


@pytest.fixture
def terminal():
    with contextlib.closing(Terminal()) as opened:
        yield opened


@pytest.mark.once
@pytest.mark.parametrize(
    "form", ["json", "jsonl", "csv", "tsv", "table", "ids"]
)
def test_nothing_of_a_server_controls_a_terminal(form, api, terminal):
    evil = "\x1b]0;x\x07\x9b2J\u202e\r\x7f"
    api.reply(json={"users": [{"id": "P" + evil, "n": evil}], "more": False})
    arguments = ("list", "users", "--format", form, "--fields", "id,n")
    with started(
        *PDPYRAS, *arguments, stdout=terminal.slave, stderr=terminal.slave
    ) as process:
        shown = terminal.read_all().decode("utf-8").replace("\r\n", "\n")
        assert process.wait(SECONDS) == 0
    assert "P" in shown
    assert not [c for c in shown if not c.isprintable() and c not in "\t\n"]


@pytest.mark.once
def test_progress_is_shown_on_a_terminal_that_has_no_records(box, terminal):
    with started(*PDPYRAS, "list", "users", stderr=terminal.slave) as process:
        shown = terminal.read_all()
        assert process.wait(SECONDS) == 0
        assert len(process.stdout.read().splitlines()) == 3
    assert b"1 of 3" in shown and shown.endswith(b"\r\x1b[K")


@pytest.mark.once
def test_progress_is_nowhere_else(box, terminal):
    done = pdpyras("list", "users")
    assert (done.returncode, done.stderr) == (0, b"")
    with started(
        *PDPYRAS, "list", "users", stdout=terminal.slave, stderr=terminal.slave
    ):
        assert b" of " not in terminal.read_all()


# -- Each command -------------------------------------------------------------


@pytest.mark.once
def test_what_writes_and_what_asks_is_a_process(box, tmp_path):
    """The commands that no other test here starts."""

    def done(*arguments):
        process = pdpyras(*arguments)
        assert (process.returncode, process.stderr) == (0, b""), arguments
        return process.stdout.decode()

    fields = ("-f", "name=Ada", "-f", "email=ada@example.com")
    path = "users/" + json.loads(done("post", "users", *fields))["id"]
    title = ("-f", "job_title=Operator")
    assert json.loads(done("put", path, *title))["job_title"] == "Operator"
    assert json.loads(done("get", path, "--fields", "name"))["name"] == "Ada"
    schedule = "schedules/" + box.add("schedules", name="Nights")[0]["id"]
    assert "Days" in done("put", schedule, "-f", "name=Days")
    replace = {"op": "replace", "path": "displayName", "value": "Ada L."}
    body = json.dumps({"Operations": [replace]})
    new = json.dumps({"userName": "grace@example.com", "displayName": "G"})
    made = json.loads(done("post", "scim/v2/Users", new))
    of_scim = "scim/v2/Users/" + made["id"]
    assert json.loads(done("patch", of_scim, body))["displayName"] == "Ada L."
    assert done("delete", path) == ""
    assert pdpyras("get", path).returncode == 4
    key = done("trigger", "Disk is full", "db1").strip()
    assert done("ack", key).strip() == key
    assert done("acknowledge", key).strip() == key
    assert done("resolve", key).strip() == key
    done("change", "Deployed 4.2")
    assert "Deployed 4.2" in done("list", "change_events")
    assert done("oncall", "--format", "jsonl") == ""
    assert json.loads(done("whoami"))["access"] == "user"
    assert json.loads(done("rate"))["limit"] > 0


@pytest.mark.once
def test_a_webhook_is_verified_by_a_process(tmp_path):
    body = json.dumps({"event": {"id": "E1"}}).encode()
    (tmp_path / "secret").write_text("the-secret\n")
    arguments = (
        *("webhook", "verify", "-", "--key-file", str(tmp_path / "secret")),
        *("--signature", sign_webhook(body, "the-secret")),
    )
    done = pdpyras(*arguments, stdin=body)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode()) == {"id": "E1"}
    assert pdpyras(*arguments, stdin=body + b" ").returncode == 1


@pytest.mark.once
def test_a_webhook_is_not_read_beyond_max_body(monkeypatch):
    monkeypatch.setenv("PAGERDUTY_WEBHOOK_SECRET", "the-secret")
    arguments = ("webhook", "verify", "--signature", "v1=" + "0" * 64)
    with started(*PDPYRAS, *arguments, stdin=subprocess.PIPE) as process:
        with process.stdin as stdin:
            stdin.write(b"x" * (pdpyras_webhooks.MAX_BODY + 1))
            stdin.flush()  # What comes behind it is not waited for.
            assert process.wait(10) == 1
        assert b"2097152 bytes" in process.stderr.read()


@pytest.mark.once
def test_login_is_a_process_that_waits_for_a_browser(
    box, tmp_path, monkeypatch
):
    for name, value in (
        ("CLIENT_ID", "the-client"),
        ("CLIENT_SECRET", "the-client-secret"),
        ("SCOPES", "users.read"),
        ("OAUTH_URL", box.url),
        ("TOKEN_CACHE", str(tmp_path / "tokens.json")),
    ):
        monkeypatch.setenv("PAGERDUTY_" + name, value)
    monkeypatch.delenv("PAGERDUTY_API_KEY")
    login = [*PDPYRAS, "login", "--no-browser", "--port", "0"]
    with started(*login) as process:
        process.stderr.readline()
        url = process.stderr.readline().decode().strip()
        assert requests.get(url, timeout=SECONDS).status_code == 200
        _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 0 and b"Signed in as" in told
    assert json.loads(pdpyras("whoami").stdout.decode())["access"] == "user"


# -- Signals ------------------------------------------------------------------


def test_an_interrupt_is_130(api):
    def answer(request):
        if dict(request.query)["offset"] != "0":
            asked.set()
            end.wait(SECONDS)
        return wire.Answer(json={"users": [{"id": "P1"}], "more": True})

    asked, end = threading.Event(), threading.Event()
    api.handler = answer
    with started(*PDPYRAS, "list", "users") as process:
        assert asked.wait(SECONDS)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
        end.set()
    assert (process.returncode, err) == (130, b"")
    assert json.loads(out) == {"id": "P1"}


@pytest.fixture
def renewal(api, tmp_path, monkeypatch):
    """The token of a user who has signed in has ended. Events: the next one
    is asked for, it may be granted; and what the cache holds.
    """
    path = tmp_path / "tokens.json"
    for name, value in (
        ("CLIENT_ID", "the-client"),
        ("CLIENT_SECRET", "the-client-secret"),
        ("OAUTH_URL", api.url),
        ("TOKEN_CACHE", str(path)),
    ):
        monkeypatch.setenv("PAGERDUTY_" + name, value)
    monkeypatch.delenv("PAGERDUTY_API_KEY")
    cache = TokenCache(path)
    app = OAuthApp("the-client", "the-client-secret", url=api.url)
    key = app.cache_key(pdpyras_cli_session._USER)
    cache.store(key, dict(Tokens("A1", "R1", None, 3600, 0)._asdict()))
    asked, end = threading.Event(), threading.Event()

    def answer(request):
        asked.set()
        end.wait(SECONDS)
        grant = {"access_token": "A2", "refresh_token": "R2"}
        return wire.Answer(json=dict(grant, token_type="bearer"))

    api.handler = answer
    yield asked, end, lambda: cache.load(key)
    end.set()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)]
)
def test_a_signal_waits_for_the_renewal_of_a_user_token(
    renewal, api, number, status
):
    asked, end, cached = renewal
    with started(*PDPYRAS, "list", "users") as process:
        assert asked.wait(SECONDS)
        process.send_signal(number)
        time.sleep(0.3)
        assert process.poll() is None
        end.set()
        assert process.communicate(timeout=SECONDS) == (b"", b"")
    assert process.returncode == status
    assert cached()["refresh"] == "R2"
    assert [r.path for r in api.requests] == ["/oauth/token"]


def test_a_second_interrupt_does_not_wait_for_a_renewal(renewal):
    asked, _, cached = renewal
    with started(*PDPYRAS, "list", "users") as process:
        assert asked.wait(SECONDS)
        end = time.monotonic() + SECONDS
        while process.poll() is None and time.monotonic() < end:
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert process.wait(SECONDS) == 130
    assert cached()["refresh"] == "R1"


def test_tokens_of_a_user_that_a_full_disk_does_not_take_are_1(renewal):
    _, end, _ = renewal
    end.set()
    done = shell("ulimit -f 0; pdpyras list users")
    assert done.returncode == 1 and b"tokens.json cannot be" in done.stderr


@pytest.mark.parametrize(
    "at_once", ["2", pytest.param("1", marks=pytest.mark.once)]
)
def test_an_interrupt_ends_each_with_at_once(at_once, api, tmp_path):
    def answer(request):
        asked.append(request.path)
        # Not before all are here: in the pause of one, no other is sent.
        everybody.wait(SECONDS)
        return wire.Answer(429, headers={"ratelimit-reset": "60"})

    everybody = threading.Barrier(int(at_once))
    asked, api.handler = [], answer
    (tmp_path / "ids").write_text("PA\nPB\nPC\n")
    each = ("--each", str(tmp_path / "ids"), "--at-once", at_once)
    with started(*PDPYRAS, "delete", "users/{id}", *each) as process:
        end = time.monotonic() + SECONDS
        while len(asked) < int(at_once) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.3)  # Now they are in the pause.
        before = len(asked)
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert process.wait(10) == 130
        assert time.monotonic() - begun < 5  # and not a minute, as asked for
        assert b"Traceback" not in process.stderr.read()
    assert len(asked) == before == int(at_once)


@pytest.mark.once
def test_an_interrupt_while_a_result_is_printed_waits_for_no_other(
    api, tmp_path
):
    def answer(request):
        asked.append(request.path)
        if request.path == "/users/PA":
            return wire.Answer(json={"user": {"id": "PA" * 200000}})
        return wire.Answer(429, headers={"ratelimit-reset": "60"})

    asked, api.handler = [], answer
    (tmp_path / "ids").write_text("PA\nPB\n")
    each = ("--each", str(tmp_path / "ids"), "--at-once", "2")
    with started(*PDPYRAS, "put", "users/{id}", *each) as process:
        assert select.select([process.stdout], [], [], SECONDS)[0]
        time.sleep(0.3)  # Now the pipe is full.
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.communicate(timeout=10)
        assert process.returncode == 130
    assert sorted(asked) == ["/users/PA", "/users/PB"]


def test_the_sandbox_serves_until_it_is_interrupted(monkeypatch):
    with started(*PDPYRAS, "sandbox", "--users", "2") as process:
        line = process.stdout.readline().decode().strip()
        assert re.fullmatch(r"export PAGERDUTY_URL=http://127[.\d]+:\d+", line)
        monkeypatch.setenv("PAGERDUTY_URL", line.partition("=")[2])
        assert len(pdpyras("list", "users").stdout.splitlines()) == 2
        await_text(process.stdout, b"export PAGERDUTY_ROUTING_KEY=")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0 and b"Trace" not in err


# -- Exports that are resumed -------------------------------------------------


def history(count=1000):
    """Log entries, several a second."""
    return [
        {"created_at": f"2026-03-01T12:{n // 600:02}:{n // 10 % 60:02}Z"}
        for n in range(count)
    ]


EXPORT = (
    *("history", "log_entries", "--since", "2026-03-01"),
    *("--until", "2026-03-02"),
)


def export(directory, *more, mode="ab", **options):
    arguments = (*EXPORT, "--resume", str(directory / "position"), *more)
    with open(str(directory / "out"), mode) as out:
        return pdpyras(*arguments, stdout=out, **options)


@pytest.mark.oldest
def test_an_export_goes_on_exactly_after_a_limit_and_an_interrupt(
    box, tmp_path
):
    added = [r["id"] for r in box.add("log_entries", history(250))]
    form = ("--format", "csv", "--fields", "created_at,id")
    assert export(tmp_path, *form, "--limit", "101").returncode == 0
    assert export(tmp_path, *form, "--limit", "33").returncode == 0
    assert export(tmp_path, *form).returncode == 0
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[0] == "created_at,id"
    assert sorted(line.split(",")[1] for line in lines[1:]) == sorted(added)
    assert lines[1:] == sorted(lines[1:])


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_export_that_is_killed_again_and_again_is_exact(
    number, box, tmp_path
):
    added = [r["id"] for r in box.add("log_entries", history(600))]
    out = tmp_path / "out"
    kills = 0
    arguments = (*EXPORT, "--resume", str(tmp_path / "position"))
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); "
        "import pdpyras_cli_output as o, pdpyras_cli as c, time; "
        "o.SAVE_INTERVAL = 0; write = o.write; "
        "o.write = lambda t: (write(t), time.sleep(0.0005)); "
        "sys.exit(c.main())"
    )
    for _ in range(30):
        with open(str(out), "ab") as file, started(
            *(sys.executable, "-c", program, ROOT, *arguments), stdout=file
        ) as process:
            size = os.path.getsize(str(out))
            end = time.monotonic() + SECONDS
            while (
                process.poll() is None
                and os.path.getsize(str(out)) < size + 25000
                and time.monotonic() < end
            ):
                time.sleep(0.002)
            if process.poll() is not None:
                break
            process.send_signal(number)
            process.wait(SECONDS)
            kills += 1
    assert process.returncode == 0
    assert kills >= 3
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert len(ids) == len(set(ids)) and sorted(ids) == sorted(added)


@pytest.mark.once
def test_an_export_that_is_complete_goes_on_with_what_is_new(box, tmp_path):
    arguments = [*EXPORT[:4], "--resume", str(tmp_path / "position")]
    box.add("log_entries", 2)
    time.sleep(1.1)  # The sandbox knows the time to the second.
    first = pdpyras(*arguments).stdout.splitlines()
    (new,) = box.add("log_entries", 1)
    time.sleep(1.1)
    second = pdpyras(*arguments).stdout.splitlines()
    assert len(first) == 2 and json.loads(second[0])["id"] == new["id"]
    assert len(second) == 1
    assert pdpyras(*arguments).stdout == b""


@pytest.mark.once
def test_an_export_is_not_gone_on_with_elsewhere(box, tmp_path):
    box.add("log_entries", history(10))
    position = str(tmp_path / "position")
    assert export(tmp_path, "--limit", "5").returncode == 0
    assert export(tmp_path, "--format", "ids").returncode == 2
    assert export(tmp_path, "--format", "table").returncode == 2
    assert export(tmp_path, "--format", "csv").returncode == 2
    other = ("history", "incidents", "--since", "2026-03-01")
    assert pdpyras(*other, "--resume", position).returncode == 2
    with open(position) as file:
        state = json.load(file)
    state["output"]["is_whole"] = False  # As after a kill.
    with open(position, "w") as file:
        json.dump(state, file)
    before = (tmp_path / "out").read_bytes()
    (tmp_path / "out").rename(tmp_path / "kept")
    done = export(tmp_path)
    assert done.returncode == 2 and b">>" in done.stderr
    (tmp_path / "kept").rename(tmp_path / "out")
    assert export(tmp_path).returncode == 0
    assert (tmp_path / "out").read_bytes().startswith(before)
    with open(position, "w") as file:
        file.write("{}")
    assert export(tmp_path).returncode == 2


@pytest.mark.once
def test_two_exports_do_not_write_to_one_file(tmp_path, box):
    fcntl = pytest.importorskip("fcntl")
    with open(str(tmp_path / "out"), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = export(tmp_path)
        assert done.returncode == 2 and b"Another export" in done.stderr
        assert file.tell() == 0 and box.requests == []
        fcntl.flock(file, fcntl.LOCK_UN)
    assert export(tmp_path).returncode == 0


def test_an_interrupt_does_not_part_a_record_from_its_position(
    monkeypatch, tmp_path
):
    class Records:
        """Ctrl-C comes while the position after the second is asked for."""

        count = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.count += 1
            return {"id": f"P{self.count}"}

        @property
        def position(self):
            if self.count == 2:
                raise KeyboardInterrupt
            return {"count": self.count}

    resume = tmp_path / "position"
    options = argparse.Namespace(
        resume=str(resume), format="ids", fields=None, limit=None
    )
    with open(str(tmp_path / "out"), "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with pytest.raises(KeyboardInterrupt):
            pdpyras_cli_output.Export(options).run(Records())
    saved = json.loads(resume.read_text())
    lines = (tmp_path / "out").read_text().split()
    assert saved["position"] == {"count": len(lines)}
    assert saved["output"]["is_whole"]


@pytest.mark.once
def test_an_export_whose_stdout_is_closed_keeps_no_position(box, tmp_path):
    position = tmp_path / "position"
    arguments = " ".join((*EXPORT, "--resume", f"'{position}'"))
    done = shell(f"pdpyras {arguments} >&-")
    assert (done.returncode, box.requests) == (2, [])
    assert b"stdout is closed" in done.stderr and not position.exists()


@pytest.mark.once
def test_an_export_to_a_full_disk_keeps_its_last_position(
    box, monkeypatch, tmp_path
):
    # Python would leave half a module in its cache (gh-126606).
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    added = [r["id"] for r in box.add("log_entries", history(250))]
    out, position = tmp_path / "out", tmp_path / "position"
    arguments = " ".join((*EXPORT, "--resume", f"'{position}'"))
    done = shell(f"ulimit -f 8; pdpyras {arguments} >> '{out}'")
    assert done.returncode == 1 and b"File too large" in done.stderr
    assert done.stderr.count(b"\n") == 1
    saved = json.loads(position.read_text())["output"]
    written = out.read_bytes()
    assert saved["length"] == written.rindex(b"\n") + 1
    assert saved["is_whole"] == written.endswith(b"\n")
    assert export(tmp_path).returncode == 0
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert sorted(ids) == sorted(added)


@pytest.mark.once
def test_a_position_that_cannot_be_kept_is_known_at_once(box, tmp_path):
    done = pdpyras(*EXPORT, "--resume", str(tmp_path / "no" / "position"))
    assert (done.returncode, done.stdout) == (1, b"")


# -- run ----------------------------------------------------------------------


def events(box):
    return [r.json for r in box.requests if r.path == "/v2/enqueue"]


def test_run_passes_through_and_resolves(box):
    script = "cat; echo err >&2"
    done = pdpyras("run", "--", "sh", "-c", script, stdin=b"in\xff")
    assert (done.returncode, done.stdout, done.stderr) == (
        0, b"in\xff", b"err\n",
    )  # fmt: skip
    (event,) = events(box)
    assert event["event_action"] == "resolve"


@pytest.mark.oldest
def test_run_triggers_on_failure_with_the_last_lines(box, monkeypatch):
    monkeypatch.setenv("PAGERDUTY_SECRET", "s3cret+/=")
    script = (
        "i=0; while [ $i -lt 60 ]; do echo line $i >&2; i=$((i+1)); done; "
        "printf '\\033[31mred\\033[0m %s\\n10%%\\r99%%\\n' "
        '"$PAGERDUTY_SECRET s3cret%2B%2F%3D $PAGERDUTY_API_KEY" >&2; exit 7'
    )
    done = pdpyras("run", "--severity", "warning", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (7, b"")
    assert done.stderr.count(b"\n") == 62 and b"\x1b[31mred" in done.stderr
    (event,) = events(box)
    payload = event["payload"]
    assert payload["severity"] == "warning"
    assert payload["summary"].endswith(
        f"failed on {payload['source']} (exit status 7)"
    )
    details = payload["custom_details"]
    lines = details["stderr"].split("\n")
    assert len(lines) == 40 and lines[-3] == "line 59"
    assert lines[-2:] == ["red *** *** ***", "99%"]
    assert details["exit_status"] == 7
    assert "s3cret" not in str(event) and KEY not in str(event["payload"])
    # The next success resolves the same alert, a change of PATH aside.
    pdpyras("run", "--", "sh", "-c", script.replace("exit 7", "exit 0"))
    pdpyras("run", "--", "sh", "-c", script)
    keys = [e["dedup_key"] for e in events(box)]
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.once
@pytest.mark.parametrize(
    "secret", [b"s\xe9cret-of-latin-1", "s\u00e9cret-of-utf-8".encode()]
)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_run_hides_secrets_whatever_their_bytes(secret, locale, box):
    environment = {
        **os.environb,
        b"PAGERDUTY_CLIENT_SECRET": secret,
        b"LC_ALL": locale.encode(),
        b"PYTHONUTF8": b"0",
        b"PYTHONCOERCECLOCALE": b"0",
    }
    script = 'echo "is $PAGERDUTY_CLIENT_SECRET" \xe9 >&2; exit 3'
    command = ("run", "--", "sh", "-c", script.encode("latin-1"))
    assert pdpyras(*command, env=environment).returncode == 3
    details = events(box)[0]["payload"]["custom_details"]
    assert details["stderr"] == "is *** \ufffd"


@pytest.mark.once
@pytest.mark.parametrize("words", [["s3cr'et-value"], ["s3cr", "et-value"]])
def test_run_hides_secrets_in_the_command(words, box, monkeypatch):
    monkeypatch.setenv("PAGERDUTY_CLIENT_SECRET", " ".join(words))
    pdpyras("run", "--", "sh", "-c", "exit 1", *words)
    payload = events(box)[0]["payload"]
    command = payload["custom_details"]["command"]
    assert command.startswith("sh -c 'exit 1' ") and "***" in command
    assert "s3cr" not in str(payload) and "et-value" not in str(payload)


@pytest.mark.once
def test_run_with_a_summary_and_a_key_of_its_own(box):
    options = ("--summary", "Backup failed", "--source", "db1")
    options += ("--dedup-key", "backup", "-f", "run=book")
    pdpyras("run", *options, "--", "false")
    pdpyras("run", *options, "--", "true")
    pdpyras("run", *options, "--no-resolve", "--", "true")
    failed, succeeded = events(box)
    assert failed["payload"]["summary"] == "Backup failed"
    assert failed["payload"]["custom_details"]["run"] == "book"
    assert failed["dedup_key"] == succeeded["dedup_key"] == "backup"
    assert succeeded["event_action"] == "resolve"


@pytest.mark.once
def test_run_reads_its_key_from_a_pipe(box, monkeypatch):
    monkeypatch.delenv("PAGERDUTY_ROUTING_KEY")
    done = shell("pdpyras run --key-file <(echo the-key) -- sh -c 'exit 3'")
    assert (done.returncode, done.stderr) == (3, b"")
    assert events(box)[0]["routing_key"] == "the-key"


@pytest.mark.parametrize(
    "command, status",
    [
        (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["sh", "-c", "kill -SEGV $$"], 139),
        (["/no/such/program"], 127),
        ([ROOT], 126),
        (["--", "x"], 127),
    ],
)
@pytest.mark.once
def test_run_tells_the_status_as_a_shell_does(command, status, box):
    assert pdpyras("run", "--", *command).returncode == status
    (event,) = events(box)
    details = event["payload"]["custom_details"]
    assert details["exit_status"] == status
    if status == 137:
        assert details["signal"] == "SIGKILL"


@pytest.mark.once
@pytest.mark.parametrize("is_on_path", [True, False])
def test_run_runs_a_script_without_an_interpreter_line(
    is_on_path, box, monkeypatch, tmp_path
):
    script = tmp_path / "back up"
    script.write_text('echo "$0:$1:$2"; exit 3\n')
    script.chmod(0o755)
    path = f"/no/such/directory:{tmp_path}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    name = script.name if is_on_path else str(script)
    done = pdpyras("run", "--", name, "a b", b"\xff")
    assert (done.returncode, done.stderr) == (3, b"")
    assert done.stdout == f"{script}:a b:".encode() + b"\xff\n"
    details = events(box)[0]["payload"]["custom_details"]
    assert details["command"].startswith("'back up'" if is_on_path else "'/")


@pytest.mark.once
def test_run_runs_no_program_for_another_machine(box, tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(100) + b"\nexit 0\n")
    program.chmod(0o755)
    done = pdpyras("run", "--", str(program))
    assert done.returncode == 126 and b"Exec format error" in done.stderr
    assert [event["event_action"] for event in events(box)] == ["trigger"]


@pytest.mark.once
def test_run_ends_what_takes_too_long(box):
    done = pdpyras("run", "--timeout", "0.2", "--", "sleep", "60")
    assert done.returncode == 124
    (event,) = events(box)
    assert "(exit status 124)" in event["payload"]["summary"]
    assert event["payload"]["custom_details"]["timeout"] == 0.2


@pytest.mark.once
def test_run_kills_what_does_not_end(monkeypatch):
    monkeypatch.setattr(pdpyras_cli_run, "KILL_AFTER", 0.3)
    script = b"trap '' TERM; while :; do sleep 0.05; done"
    begun = time.monotonic()
    outcome = pdpyras_cli_run.watch([b"sh", b"-c", script], 0.2)
    assert (outcome.status, outcome.signal) == (124, "SIGKILL")
    assert 0.4 < time.monotonic() - begun < SECONDS


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv"),
    reason="only root can start what it may not signal",
)
@pytest.mark.once
def test_run_ends_although_its_command_may_not_be_signalled():
    """As it is with sudo; here root has lost the right to do it."""
    script = (
        "import os, signal, sys, threading\n"
        "import pdpyras_cli_run as run\n"
        "run.KILL_AFTER = 0.3\n"
        "own = (os.getpid(), signal.SIGUSR1)\n"
        "threading.Timer(1, os.kill, own).start()\n"
        "outcome = run.watch([os.fsencode(a) for a in sys.argv[1:]], 1.5)\n"
        "print(outcome.status, outcome.is_timeout, outcome.seconds < 3)"
    )
    command = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"]
    command += [sys.executable, "-c", script]
    command += ["setpriv", "--reuid=65534", "--clear-groups", "sleep", "4"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=SECONDS,
    )
    assert done.stdout == b"124 True True\n"
    assert b"may not end the command" in done.stderr


@pytest.mark.parametrize(
    "name",
    ["SIGALRM", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGIO", "SIGRTMIN"],
)
@pytest.mark.once
def test_run_passes_signals_on(name, box):
    script = (
        f"trap 'echo caught; exit 9' {name[3:]}; echo ready; "
        "while :; do sleep 0.02; done"
    )
    with started(*PDPYRAS, "run", "--", "sh", "-c", script) as process:
        await_text(process.stdout, b"ready")
        process.send_signal(getattr(signal, name))
        assert await_text(process.stdout, b"caught")
        assert process.wait(SECONDS) == 9
    assert [e["event_action"] for e in events(box)] == ["trigger"]


def test_run_of_what_a_signal_ends(box):
    with started(
        *PDPYRAS, "run", "--", "sh", "-c", "echo ready; exec sleep 60"
    ) as process:
        await_text(process.stdout, b"ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 128 + signal.SIGTERM
    (event,) = events(box)
    assert event["payload"]["custom_details"]["signal"] == "SIGTERM"


@pytest.mark.once
def test_run_leaves_ignored_signals_ignored(box):
    script = (
        "import signal, subprocess, sys; "
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "sys.exit(subprocess.call(sys.argv[1:], restore_signals=False))"
    )
    child = "import signal; print(repr(signal.getsignal(signal.SIGHUP)))"
    done = subprocess.run(
        [sys.executable, "-c", script, *PDPYRAS, "run", "--"]
        + [sys.executable, "-c", child],
        stdout=subprocess.PIPE,
        timeout=SECONDS,
    )
    assert b"SIG_IGN" in done.stdout
    plain = pdpyras("run", "--", sys.executable, "-c", child)
    assert b"SIG_DFL" in plain.stdout


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="there is no /proc"
)
@pytest.mark.once
def test_run_gives_its_command_the_usual_sigpipe(box):
    command = ("grep", "^SigIgn:", "/proc/self/status")
    done = pdpyras("run", "--", *command, restore_signals=False)
    ignored = int(done.stdout.split()[1], 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored & 1 << number - 1


WITH_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); "
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


@contextlib.contextmanager
def at(terminal, *command):
    """A process whose controlling terminal this is."""
    with started(
        *(sys.executable, "-c", WITH_TERMINAL, *command),
        stdin=terminal.slave,
        stdout=terminal.slave,
        stderr=terminal.slave,
    ) as process:
        yield process


@pytest.mark.once
def test_run_gives_its_command_a_terminal_for_stderr(box, terminal):
    script = "test -t 2 && echo a-terminal >&2; printf 'a\\nb\\n' >&2; exit 3"
    with at(terminal, *PDPYRAS, "run", "--", "sh", "-c", script) as process:
        terminal.read_until(b"b\r\n")
        assert process.wait(SECONDS) == 3
    assert b"a-terminal\r\na\r\nb\r\n" in terminal.shown  # Not \r\r\n.
    details = events(box)[0]["payload"]["custom_details"]
    assert details["stderr"] == "a-terminal\na\nb"


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "guessed"])
@pytest.mark.once
def test_run_tells_nobody_of_an_interrupt_at_the_terminal(
    is_known, box, terminal, monkeypatch, tmp_path
):
    """Whether or not the system says that the terminal has sent it."""
    if not is_known:
        (tmp_path / "ctypes.py").write_text("raise ImportError")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    script = (
        "trap 'echo once >&2; exit 5' INT; echo ready; "
        "while :; do sleep 0.1; done"
    )
    with at(terminal, *PDPYRAS, "run", "--", "sh", "-c", script) as process:
        terminal.read_until(b"ready")
        os.write(terminal.master, b"\x03")
        terminal.read_until(b"once")
        assert process.wait(SECONDS) == 5
    assert terminal.shown.count(b"once") == 1
    assert events(box) == []


@pytest.mark.parametrize("key, name", [(b"\x03", "INT"), (b"\x1c", "QUIT")])
@pytest.mark.once
def test_run_tells_of_a_failure_long_after_an_interrupt(
    key, name, box, terminal, tmp_path, monkeypatch
):
    """As of a program that prints its threads at Ctrl-\\, and goes on."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pdpyras_cli_run\npdpyras_cli_run.INTERRUPT_TIME = 0.5\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), ROOT]))
    script = (
        f"trap 'echo once >&2' {name}; echo ready; "
        "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.15; done; exit 5"
    )
    with at(terminal, *PDPYRAS, "run", "--", "sh", "-c", script) as process:
        terminal.read_until(b"ready")
        os.write(terminal.master, key)
        terminal.read_until(b"once")
        assert process.wait(SECONDS) == 5
    assert [e["event_action"] for e in events(box)] == ["trigger"]


@pytest.mark.once
def test_run_notices_the_end_of_its_command_with_a_blocked_signal(box):
    """The mask is inherited: that of a thread which starts us, say."""
    script = (
        "import os, signal, sys; "
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD]); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = "exec 2>&-; sleep 0.5; exit 3"
    run = [*PDPYRAS, "run", "--", "sh", "-c", command]
    done = subprocess.run(
        [sys.executable, "-c", script, *run], timeout=SECONDS
    )
    assert done.returncode == 3
    assert [e["event_action"] for e in events(box)] == ["trigger"]


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells who sent it"
)
@pytest.mark.parametrize("name", ["SIGINT", "SIGQUIT"])
@pytest.mark.once
def test_run_passes_on_what_kill_sends_at_a_terminal(name, box, terminal):
    script = (
        f"trap 'echo once >&2; exit 5' {name[3:]}; echo ready; "
        "while :; do sleep 0.1; done"
    )
    with at(terminal, *PDPYRAS, "run", "--", "sh", "-c", script) as process:
        terminal.read_until(b"ready")
        time.sleep(0.3)  # The command begins a moment before it is watched.
        process.send_signal(getattr(signal, name))
        terminal.read_until(b"once")
        assert process.wait(SECONDS) == 5
    assert terminal.shown.count(b"once") == 1
    assert [e["event_action"] for e in events(box)] == ["trigger"]


@pytest.mark.once
def test_run_is_silent_about_signals_after_its_end(box, terminal):
    """What passes stderr on gets SIGHUP when the terminal's leader ends."""
    script = "(trap '' HUP; sleep 0.5; echo late >&2) & echo ready"
    with at(terminal, *PDPYRAS, "run", "--", "sh", "-c", script) as process:
        assert process.wait(SECONDS) == 0
        terminal.read_until(b"late")
    assert b"Traceback" not in terminal.shown


@pytest.mark.once
def test_run_leaves_the_stderr_of_those_that_outlive_it(box, tmp_path):
    done = tmp_path / "done"
    script = (
        f"(sleep 0.7; echo late >&2 && echo ok > '{done}') > /dev/null & "
        "echo early >&2"
    )
    begun = time.monotonic()
    with started(*PDPYRAS, "run", "--", "sh", "-c", script) as process:
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == b"early\nlate\n"
        assert time.monotonic() - begun > 0.6
    assert done.read_text() == "ok\n"


@pytest.mark.once
@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="there is no /dev/full"
)
@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_run_does_not_end_what_cannot_write_to_stderr(stderr, box):
    script = "echo a >&2; sleep 0.1; echo b >&2; echo out; exit 3"
    done = shell(f"pdpyras run -- sh -c '{script}' {stderr}")
    assert (done.returncode, done.stdout) == (3, b"out\n")
    details = events(box)[0]["payload"]["custom_details"]
    assert details["stderr"] == ("" if stderr == "2>&-" else "a\nb")


@pytest.mark.once
@pytest.mark.parametrize("how", ["timeout", "signal"])
def test_run_ends_what_writes_where_nobody_reads(how, box):
    script = "import sys\nwhile 1: sys.stderr.write('x' * 8192)"
    seconds = "0.5" if how == "timeout" else "600"
    command = [*PDPYRAS, "run", "--timeout", seconds, "--", sys.executable]
    with started(*command, "-c", script) as process:
        if how == "signal":
            assert process.stderr.read(1)
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == (124 if how == "timeout" else 143)
        assert len(process.stderr.read()) > 8192  # Nothing of it is lost.
    assert len(events(box)) == 1


@pytest.mark.once
def test_run_leaves_no_open_files_behind(box):
    """A lock of the caller is not held by what passes stderr on."""
    child = (
        "import os, subprocess as s; "
        "p = s.Popen(['cat'], stdin=%d, stdout=s.DEVNULL); os._exit(0)"
    )
    gate, gate_end = os.pipe()
    lock, lock_end = os.pipe()
    command = [*PDPYRAS, "run", "--", sys.executable, "-c", child % gate]
    with started(*command, pass_fds=[gate, lock_end]) as process:
        os.close(lock_end)
        assert process.wait(SECONDS) == 0
        assert select.select([lock], [], [], SECONDS)[0]  # It is closed.
        os.close(gate_end)  # Only now, cat ends.
        assert process.stderr.read() == b""
    for descriptor in (gate, lock):
        os.close(descriptor)


def test_run_waits_longer_than_poll_can():
    outcome = pdpyras_cli_run.watch([b"sh", b"-c", b"exit 3"], 1e12)
    assert (outcome.status, outcome.is_timeout) == (3, False)


@pytest.mark.once
def test_run_passes_on_more_than_a_pipe_holds(box):
    child = (
        "import os; data = bytes(range(256)) * 4096\n"
        "for fd in (1, 2):\n"
        "    n = 0\n"
        "    while n < len(data): n += os.write(fd, data[n:n + 65536])"
    )
    done = pdpyras("run", "--", sys.executable, "-c", child)
    whole = bytes(range(256)) * 4096
    assert done.returncode == 0
    assert done.stdout == whole and done.stderr == whole


@pytest.mark.once
def test_run_changes_nothing_of_the_environment(box, monkeypatch):
    for name in [n for n in os.environ if n.startswith(("LC_", "LANG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ODD", b"\xff\xfe".decode("utf-8", "surrogateescape"))
    plain = subprocess.run(["env"], stdout=subprocess.PIPE)
    watched = pdpyras("run", "--", "env")
    assert b"ODD=\xff\xfe\n" in plain.stdout
    assert watched.stdout == plain.stdout


@pytest.mark.once
def test_run_passes_open_files_on(box):
    reader, writer = os.pipe()
    child = "import os, sys; os.write(int(sys.argv[1]), b'inherited')"
    command = [sys.executable, "-c", child, str(writer)]
    done = pdpyras("run", "--", *command, pass_fds=[writer])
    os.close(writer)
    with open(reader, "rb") as file:
        assert (done.returncode, file.read()) == (0, b"inherited")


@pytest.mark.once
@pytest.mark.parametrize("trouble", ["refused", "hangs", "400", "no key"])
def test_run_changes_nothing_whatever_pagerduty_does(
    trouble, api, monkeypatch
):
    options = ("--deadline", "1")
    if trouble == "refused":
        api.fault("refuse", stage="connect", times=9)
    elif trouble == "hangs":
        api.fault("stall", stage="status", times=9)
    elif trouble == "400":
        api.handler = lambda request: wire.Answer(400)
    else:
        monkeypatch.delenv("PAGERDUTY_ROUTING_KEY")
    script = "echo out; echo err >&2; exit 3"
    done = pdpyras("run", *options, "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (3, b"out\n")
    lines = done.stderr.splitlines()
    assert b"err" in lines and len(lines) == 2
    assert [line for line in lines if line.startswith(b"pdpyras: ")]


@pytest.mark.once
def test_run_keeps_the_event_where_there_is_an_outbox(
    api, tmp_path, monkeypatch
):
    api.handler = lambda request: wire.Answer(
        429, headers={"ratelimit-reset": "60"}
    )
    monkeypatch.setenv("PAGERDUTY_OUTBOX", str(tmp_path / "alerts.db"))
    done = pdpyras("run", "--", "false")
    assert (done.returncode, done.stderr) == (1, b"")
    (event,) = map(json.loads, pdpyras("outbox", "list").stdout.splitlines())
    assert event["event_action"] == "trigger"


@pytest.mark.parametrize(
    "options, variables, told",
    [
        (["--dedup-key", "x" * 300], {}, b"300 characters"),
        (["--url", "junk"], {}, b"junk"),
        (["-H", "x:a\nb"], {}, b"header 'x'"),
        ([], {"EVENTS_URL": "junk://x"}, b"junk://x"),
        ([], {"EVENTS_URL": "", "REGION": "xx"}, b"'us', 'eu', not 'xx'"),
    ],
)
@pytest.mark.once
def test_run_starts_nothing_if_no_alert_could_be_sent(
    options, variables, told, box, monkeypatch, tmp_path
):
    for name, value in variables.items():
        monkeypatch.setenv("PAGERDUTY_" + name, value)
    command = ["--", "touch", str(tmp_path / "begun")]
    done = pdpyras("run", "--no-resolve", *options, *command)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"pdpyras: ") and told in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize("key", [None, "", "the-key\nand more", "\xe9"])
@pytest.mark.parametrize("how", ["variable", "file"])
@pytest.mark.once
def test_run_says_first_that_there_is_no_key(
    key, how, box, monkeypatch, tmp_path
):
    monkeypatch.delenv("PAGERDUTY_ROUTING_KEY")
    options = []
    if how == "file":
        options = ["--key-file", str(tmp_path / "key")]
        if key is not None:
            (tmp_path / "key").write_bytes(key.encode())
    elif key is not None:
        monkeypatch.setenv("PAGERDUTY_ROUTING_KEY", key)
    script = "echo begun >&2; exit 3"
    done = pdpyras("run", *options, "--", "sh", "-c", script)
    told, begun = done.stderr.splitlines()
    assert (done.returncode, begun) == (3, b"begun")
    assert told.startswith(b"pdpyras: No alert can be sent if this fails.")


@pytest.mark.parametrize("how", ["variable", "option"])
@pytest.mark.once
def test_run_sends_directly_what_no_outbox_can_keep(
    how, box, monkeypatch, tmp_path
):
    options = ["--outbox", str(tmp_path)]
    if how == "variable":
        monkeypatch.setenv("PAGERDUTY_OUTBOX", str(tmp_path))
        options = []
    script = "echo begun >&2; exit 3"
    done = pdpyras("run", *options, "--", "sh", "-c", script)
    told, begun = done.stderr.splitlines()
    assert (done.returncode, begun) == (3, b"begun")
    assert told.startswith(b"pdpyras: ") and b"a directory" in told
    assert [e["event_action"] for e in events(box)] == ["trigger"]


@pytest.mark.once
@pytest.mark.skipif(
    not os.path.exists("/proc/self/fd"), reason="there is no /proc"
)
def test_run_holds_nothing_open_for_its_event(box, tmp_path):
    options = ("--outbox", str(tmp_path / "alerts.db"))
    assert pdpyras("run", *options, "--", "false").returncode == 1
    command = ("run", *options, "--", "sh", "-c", "echo ready; read x")
    with started(*PDPYRAS, *command, stdin=subprocess.PIPE) as process:
        await_text(process.stdout, b"ready")
        open_files, links = f"/proc/{process.pid}/fd", []
        for number in os.listdir(open_files):
            # The command begins a moment before its start is done with.
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(os.path.join(open_files, number)))
        process.communicate(timeout=SECONDS)
    # Ours, those of the command's stderr, and those of signals.
    assert len(links) > 3
    assert all(link.startswith("pipe:") for link in links), links
    assert len(events(box)) == 2


@pytest.mark.once
def test_run_can_be_ended_while_it_tells(api):
    told, end = threading.Event(), threading.Event()

    def answer(request):
        told.set()
        end.wait(SECONDS)
        return wire.Answer(202)

    api.handler = answer
    with started(*PDPYRAS, "run", "--", "sh", "-c", "exit 3") as process:
        assert told.wait(SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 3
        assert b"Interrupted" in process.stderr.read()
        end.set()


def test_the_last_lines_hide_half_a_secret_at_the_cut():
    tail = pdpyras_cli_run._Tail()
    size = pdpyras_cli_run.MAX_TAIL
    tail.add(b"first line\n" + b"x" * (2 * size) + b"end")
    content = tail.content()
    assert content.endswith(b"xend")
    assert len(content) == size - pdpyras_cli_run.MAX_HALF_SECRET
    tail.add(b"\n" + b"y\n" * size)
    lines = pdpyras_cli_run.last_lines(tail.content(), 40, lambda text: text)
    assert lines == "\n".join("y" * 40)


# -- Completion ---------------------------------------------------------------


def completed(*words):
    """What bash offers for the last of these words."""
    number = len(words) - 1
    listed = " ".join(f"'{word}'" for word in words)
    done = shell(
        'eval "$(pdpyras completion bash)"\n'
        f"COMP_WORDS=({listed}); COMP_CWORD={number}\n"
        '_pdpyras; printf "%s\\n" "${COMPREPLY[@]}"\n'
        "complete -p pdpyras >&2"
    )
    assert b"-F _pdpyras pdpyras" in done.stderr
    return done.stdout.decode().split()


@pytest.mark.once
@pytest.mark.parametrize(
    "words, offered",
    [
        (["pdpyras", "his"], ["history"]),
        (["pdpyras", "--verb"], ["--verbose"]),
        (["pdpyras", "list", "users", "--form"], ["--format"]),
        (["pdpyras", "list", "--format", "j"], ["json", "jsonl"]),
        (["pdpyras", "list", "--format", "=", "t"], ["tsv", "table"]),
        (["pdpyras", "list", "--format", "="], "json jsonl csv tsv table ids"),
        (["pdpyras", "trigger", "x", "--severity", "w"], ["warning"]),
        (["pdpyras", "-p", "a=b", "outbox", "f"], ["flush"]),
        (["pdpyras", "completion", ""], ["bash", "zsh", "fish", "--help"]),
        (["pdpyras", "list", "--key-file", ""], []),
        (["pdpyras", "list", "u"], []),
        (["pdpyras", "run", "--timeo"], ["--timeout"]),
        (["pdpyras", "run", "--", "printen"], ["printenv"]),
        (["pdpyras", "run", "--", "sh", "x"], []),
        (["pdpyras", "get", "list", "--si"], []),
    ],
)
def test_bash_completes(words, offered):
    if isinstance(offered, str):
        offered = offered.split()
    assert sorted(set(completed(*words))) == sorted(offered)


@pytest.mark.once
@pytest.mark.parametrize("name, check", [("zsh", "-n"), ("fish", "-n")])
def test_other_shells_can_read_their_completion(name, check, tmp_path):
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    script = tmp_path / "script"
    script.write_bytes(pdpyras("completion", name).stdout)
    done = subprocess.run(
        [program, check, str(script)], stderr=subprocess.PIPE
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.once
def test_fish_completes():
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")
    script = pdpyras("completion", "fish").stdout.decode()
    for line, offered in (
        ("pdpyras hist", "history"),
        ("pdpyras list --format js", "json jsonl"),
        ("pdpyras outbox fl", "flush"),
    ):
        done = subprocess.run(
            [fish, "-c", f"{script}\ncomplete -C '{line}'"],
            stdout=subprocess.PIPE,
            timeout=SECONDS,
        )
        words = [w.split("\t")[0] for w in done.stdout.decode().splitlines()]
        assert words == offered.split()
