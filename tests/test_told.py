"""What a script must not miss, it is told, though it configures nothing.

Each script runs in a process of its own, as cron would run it. What counts
is what stands on its stderr afterwards, and its exit status.
"""

import importlib.util
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading

import pytest

import pdpyras
from tests import wire
from tests.support import KEY, ROOT, told
from tests.test_pagination import Collection

pytestmark = pytest.mark.oldest

BEGINNING = f"""\
import sys, time, warnings
import pdpyras
pdpyras.time.sleep = lambda seconds: None
session = pdpyras.APISession({KEY!r})
events = pdpyras.EventsAPISession({KEY!r})
session.url = events.url = sys.argv[1]
"""
FATAL = "error::pdpyras.PDIncompleteWarning"


class Ended:
    """How a script ended, and what it left on stderr."""

    def __init__(self, done):
        self.status = done.returncode
        self.output = done.stdout
        self.errors = done.stderr

    def warnings_of(self, path):
        """Line numbers and texts of the warnings about a script."""
        found = re.findall(
            rf"^{re.escape(str(path))}:(\d+): (\w+): (.*)$",
            self.errors,
            re.MULTILINE,
        )
        return [(int(line), name, text) for line, name, text in found]


class Runner:
    """Runs scripts of a few lines against the server."""

    def __init__(self, directory, url):
        self.path = directory / "script.py"
        self.url = url

    def line_of(self, mark):
        """The number of the line that holds a text."""
        lines = self.path.read_text().splitlines()
        (number,) = [n for n, line in enumerate(lines, 1) if mark in line]
        return number

    def __call__(self, script, *options):
        self.path.write_text(BEGINNING + textwrap.dedent(script))
        done = subprocess.run(
            [sys.executable, *options, str(self.path), self.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=120,
            env=dict(os.environ, PYTHONPATH=ROOT),
        )
        return Ended(done)


@pytest.fixture
def run(tmp_path, server):
    return Runner(tmp_path, server.url)


def pages(*answers):
    """A handler that gives these answers, and the last one for ever."""
    left = list(answers)

    def handler(request):
        return left.pop(0) if len(left) > 1 else left[0]

    return handler


PAGE = wire.Answer(json={"users": [{"id": "P0"}], "more": True})
NO_MORE = wire.Answer(json={"users": [{"id": "P0"}]})
EMPTY = wire.Answer(json={"users": [], "more": True})
NOTHING = wire.Answer(json={"users": [], "more": False})
BROKEN = wire.Answer(500, json={"error": {"message": "Out of order"}})

#: What a script asks, what it is answered, and what it must be told.
HALF_LISTS = {
    "cut": (
        'session.list_all("users")',
        Collection(10250),
        "no records beyond the first 10000",
    ),
    "refused": (
        'session.list_all("users", params={"offset": 9950})',
        Collection(10250),
        "no records beyond the first 10000",
    ),
    "without more": (
        'session.list_all("users")',
        pages(NO_MORE),
        "does not tell whether there is more",
    ),
    "empty page": (
        'session.list_all("users")',
        pages(PAGE, EMPTY),
        "an empty page, although there is said to be more",
    ),
    "error status": (
        'session.require_complete_results = False\nsession.list_all("users")',
        pages(PAGE, BROKEN),
        "incomplete: GET /users: 500 Internal Server Error: Out of order",
    ),
    "error status, 4.x name": (
        (
            "pdpyras.APISession.raise_if_http_error = False\n"
            'session.list_all("users")'
        ),
        pages(PAGE, BROKEN),
        "incomplete: GET /users: 500 Internal Server Error: Out of order",
    ),
}


@pytest.fixture(params=sorted(HALF_LISTS))
def half_list(request, server):
    """A line that reads half a list, and what must be said about it."""
    script, server.handler, text = HALF_LISTS[request.param]
    return script, text


def test_a_plain_script_is_told_of_half_a_list_once(half_list, run):
    script, text = half_list
    ended = run(f'{script}\nprint("at the end")')
    assert (ended.status, ended.output) == (0, "at the end\n")
    ((line, name, said),) = ended.warnings_of(run.path)
    assert name == "PDIncompleteWarning" and text in said
    assert line == run.line_of("session.list_all")
    assert ended.errors.count(text) == 1


def test_it_is_told_when_pages_are_prefetched_as_well(half_list, run):
    script, text = half_list
    ended = run(f"session.prefetch = 4\n{script}")
    ((line, name, said),) = ended.warnings_of(run.path)
    assert name == "PDIncompleteWarning" and text in said
    assert line == run.line_of("session.list_all")
    assert ended.errors.count(text) == 1


def test_an_option_of_python_makes_half_a_list_fatal(half_list, run):
    script, text = half_list
    ended = run(f'{script}\nprint("at the end")', "-W", FATAL)
    assert (ended.status, ended.output) == (1, "")
    last = ended.errors.splitlines()[-1]
    assert last.startswith("pdpyras.PDIncompleteWarning: ") and text in last


def test_a_filter_of_the_script_makes_half_a_list_fatal(half_list, run):
    script, text = half_list
    strict = 'warnings.simplefilter("error", pdpyras.PDIncompleteWarning)'
    ended = run(f"{strict}\n{script}")
    assert ended.status == 1
    last = ended.errors.splitlines()[-1]
    assert last.startswith("pdpyras.PDIncompleteWarning: ") and text in last


@pytest.mark.parametrize(
    "options, fails",
    [
        (["error::pdpyras.PDIncompleteWarning"], True),
        (["error::pdpyras.PDWarning"], True),
        (["e::pdpyras.PDWarning"], True),
        (["error::pdpyras.PDWarning:__main__"], True),
        (["error::pdpyras.PDWarning:elsewhere"], False),
        (["ignore::pdpyras.PDWarning"], False),
        (["error", "ignore::pdpyras.PDIncompleteWarning"], False),
        (["ignore::pdpyras.PDWarning", "error::pdpyras.PDWarning"], True),
        (["error::pdpyras.NoSuchWarning"], False),
        (["nonsense::pdpyras.PDWarning"], False),
        (["error::pdpyras.PDWarning:__main__:nonsense"], False),
        (["error:some text:pdpyras.PDWarning"], False),
        (["error::pdpyras.PDWarning::9999"], False),
        (["ignore", "error: : pdpyras.PDWarning "], True),
        (["error::pdpyras.PDWarning", "all::pdpyras.PDWarning"], False),
        (["error::pdpyras.PDWarning::\u00b2"], False),
    ],
)
def test_which_options_of_python_name_our_warnings(
    options, fails, run, server
):
    server.handler = pages(NO_MORE)
    flags = [part for option in options for part in ("-W", option)]
    ended = run('session.list_all("users")', *flags)
    assert (ended.status == 1) is fails, ended.errors
    is_silent = any(option.startswith("ignore") for option in options)
    if not fails:
        assert bool(ended.warnings_of(run.path)) is not is_silent


@pytest.mark.parametrize(
    "call",
    [
        'session.list_all("users")',
        'session.dict_all("users")',
        'list(session.iter_all("users"))',
        'next(session.iter_all("users", params={"offset": 9999}), None)',
        '[user for user in session.iter_all("users")]',
        'next(iter(session.dict_all("users", prefetch=4)))',
    ],
)
def test_each_way_of_reading_is_blamed_on_the_script(call, run, server):
    server.handler = Collection(10250)
    ended = run(f"\n\n{call}  # here\n")
    ((line, name, _),) = ended.warnings_of(run.path)
    assert (line, name) == (run.line_of("# here"), "PDIncompleteWarning")


def test_a_loop_is_told_at_its_own_line(run, server):
    server.handler = Collection(10250)
    ended = run(
        """
        users = session.iter_all("users")
        for user in users:  # here
            pass
        """
    )
    ((line, _, _),) = ended.warnings_of(run.path)
    assert line == run.line_of("# here")


@pytest.mark.parametrize(
    "call",
    [
        'session.find("users", "nobody")',
        'session.persist("users", "name", {"name": "nobody"})',
    ],
)
def test_find_and_persist_do_not_answer_from_half_a_list(call, run, server):
    server.handler = Collection(10250)
    ended = run(f'{call}  # here\nprint("at the end")')
    assert (ended.status, ended.output) == (1, "")
    last = ended.errors.splitlines()[-1]
    assert last.startswith("pdpyras.PDIncompleteError: ")
    assert "no records beyond the first 10000" in last
    assert {r.method for r in server.requests} == {"GET"}
    # It is told as well by the warning, which comes first.
    ((line, name, _),) = ended.warnings_of(run.path)
    assert (line, name) == (run.line_of("# here"), "PDIncompleteWarning")


class Counting(pdpyras.APISession):
    """A script's own, whose iterator is not ours."""

    def iter_all(self, *args, **kwargs):
        for number, record in enumerate(super().iter_all(*args, **kwargs)):
            yield dict(record, number=number)


@pytest.mark.parametrize("method", ["find", "persist"])
def test_half_a_list_that_a_subclass_hands_on(method, server):
    server.handler = Collection(10250)
    session = Counting(KEY)
    session.url = server.url
    args = ("users", "name", {"name": "nobody"})
    if method == "find":
        args = ("users", "nobody")
    with told(pdpyras.PDIncompleteWarning, "beyond the first 10000"):
        with pytest.raises(pdpyras.PDIncompleteError, match="may be in users"):
            getattr(session, method)(*args)
    assert {r.method for r in server.requests} == {"GET"}
    # Nor is the next one blamed for it.
    server.handler = Collection(3)
    assert session.find("users", "nobody") is None
    session.close()


def test_what_is_found_in_half_a_list_is_an_answer(server, session):
    server.handler = Collection(10250)
    found = session.find("users", "P7", attribute="id")
    assert found == {"id": "P7"}


def test_half_a_list_is_enough_for_who_wants_no_more(server, session):
    session.require_complete_results = False
    server.handler = Collection(10250)
    with told(pdpyras.PDIncompleteWarning, "beyond the first 10000"):
        assert session.find("users", "nobody") is None


def test_a_list_that_breaks_off_is_no_answer_either(server, session):
    """Even if the attribute is set between two pages."""
    server.handler = pages(PAGE, EMPTY)
    with told(pdpyras.PDIncompleteWarning, "empty page"):
        with pytest.raises(pdpyras.PDIncompleteError, match="empty page"):
            session.find("users", "nobody")


def test_a_list_without_pages_is_a_whole_one(server, session):
    server.reply(json={"abilities": ["sso"]}, times=2)
    assert session.find("abilities", "teams") is None
    assert session.list_all("abilities") == ["sso"]


def test_a_list_with_pages_that_names_no_more_may_be_half_a_one(
    server, session
):
    server.reply(json={"users": [{"name": "Jane"}]})
    with told(pdpyras.PDIncompleteWarning, "no pagination", "/users"):
        assert len(session.list_all("users")) == 1


# ---------------------------------------------------------------------------
# What nothing can be done about is logged
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, headers",
    [
        (429, {"ratelimit-reset": "10"}),
        (429, {"Retry-After": "30"}),
        (503, {"Retry-After": "10"}),
    ],
)
def test_a_long_wait_is_on_stderr(status, headers, run, server):
    server.reply(status, headers=headers)
    server.reply(json={"user": {"id": "P1"}})
    ended = run('session.retry[503] = 1\nsession.rget("users/P1")')
    assert ended.status == 0
    wait = next(iter(headers.values()))
    assert ended.errors.count(f"status {status}. Retrying in {wait} s.") == 1


def test_a_short_wait_for_the_rate_limit_is_not(run, server):
    server.reply(429, headers={"ratelimit-reset": "9"})
    server.reply(json={"user": {"id": "P1"}})
    ended = run('session.rget("users/P1")')
    assert (ended.status, ended.errors) == (0, "")


def test_a_retry_is_on_stderr(run, server):
    server.fault("reset", "status")
    server.reply(json={"user": {"id": "P1"}})
    ended = run('session.rget("users/P1")')
    (line,) = ended.errors.splitlines()
    assert "GET" in line and "Retry 1 of 3 in 3 s." in line


def test_where_all_is_well_nothing_is_said(run, server):
    server.handler = Collection(250)
    ended = run(
        """
        assert len(session.list_all("users")) == 250
        assert len(session.list_all("users", prefetch=4)) == 250
        assert session.find("users", "P7", attribute="id")
        assert session.find("users", "nobody") is None
        """
    )
    assert (ended.status, ended.output, ended.errors) == (0, "", "")


# ---------------------------------------------------------------------------
# Nobody is told twice
# ---------------------------------------------------------------------------


def test_a_log_takes_the_warnings_in_who_wants_them_there(run, server):
    server.handler = Collection(10250)
    ended = run(
        """
        import logging
        logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
        logging.captureWarnings(True)
        session.list_all("users")
        """
    )
    text = "no records beyond the first 10000"
    assert ended.errors.count(text) == 1
    assert ended.errors.startswith("WARNING py.warnings ")


@pytest.mark.parametrize(
    "answer, params, kind",
    [
        (NO_MORE, None, pdpyras.PDIncompleteWarning),
        (NOTHING, {"team_ids": []}, pdpyras.PDWarning),
    ],
)
def test_a_warning_is_noted_on_the_log_at_info(
    answer, params, kind, server, session, caplog
):
    server.handler = pages(answer)
    session.log.setLevel(logging.INFO)
    with told(kind) as texts:
        session.list_all("users", params=params)
    (record,) = [r for r in caplog.records if r.levelno == logging.INFO]
    assert record.getMessage() == texts[0]
    assert record.name == "pdpyras"


def test_a_thread_of_the_script_is_told_at_its_line(run, server):
    server.handler = Collection(10250)
    ended = run(
        """
        import threading

        def read():
            session.list_all("users", prefetch=2)  # here

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        """
    )
    ((line, name, _),) = ended.warnings_of(run.path)
    assert (line, name) == (run.line_of("# here"), "PDIncompleteWarning")


def test_a_cursor_list_that_breaks_off(server, session):
    first = wire.Answer(json={"records": [1], "next_cursor": "c1"})
    server.handler = pages(first, BROKEN)
    session.require_complete_results = False
    with told(pdpyras.PDIncompleteWarning, "/audit/records", "500"):
        assert list(session.iter_cursor("audit/records")) == [1]


# ---------------------------------------------------------------------------
# Events
# ---------------------------------------------------------------------------


def accepted(request):
    return wire.Answer(202, json={"status": "success", "dedup_key": "k"})


@pytest.mark.parametrize(
    "arguments, text",
    [
        ('"x" * 2000, "db1"', "shortened: the summary has 2000 characters"),
        (
            '"s", "db1", custom_details={"log": "x" * 600000}',
            "limit is 512000",
        ),
        ('"s", "db1", images=[{"alt": "x"}]', "1 of the images"),
        ('"s", "db1", links=[{"text": "x"}, {}]', "2 of the links"),
    ],
)
def test_a_script_is_told_of_a_shortened_event(arguments, text, run, server):
    server.handler = accepted
    ended = run(f'events.trigger({arguments})  # here\nprint("at the end")')
    assert (ended.status, ended.output) == (0, "at the end\n")
    ((line, name, said),) = ended.warnings_of(run.path)
    assert (line, name) == (run.line_of("# here"), "PDWarning")
    assert text in said and ended.errors.count(text) == 1


def test_half_a_list_read_by_a_thread_pool(server, session):
    """Workers of the caller are told as well."""
    server.handler = Collection(10250)
    found = []

    def read():
        found.extend(session.list_all("users"))

    with told(pdpyras.PDIncompleteWarning, "beyond the first 10000"):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert len(found) == 10000


def test_a_module_of_the_user_may_begin_like_ours(tmp_path, server, session):
    path = tmp_path / "pdpyras_cleanup.py"
    path.write_text("def read(session):\n    session.list_all('users')\n")
    spec = importlib.util.spec_from_file_location(path.stem, str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server.handler = Collection(10250)
    with pytest.warns(pdpyras.PDIncompleteWarning) as caught:
        module.read(session)
    assert (caught[0].filename, caught[0].lineno) == (str(path), 2)
