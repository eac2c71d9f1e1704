"""The documentation: its samples run, and it builds, the same every time.

A sample is a ``.. code-block:: python`` of a page, of the README or of a
docstring. Those of a page run in their order and share their variables, as a
reader would type them, against a sandbox that ``furnish`` has filled. A line
that begins with ``#>`` is what the sample prints.

A sample that imports a package which is not installed is passed over, and
the page's test then ends as skipped, naming the package.
"""

import ast
import csv
import doctest
import glob
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import time
from datetime import datetime, timedelta
from html import unescape
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Sequence,
    Tuple,
)
from urllib.parse import unquote

import pytest
import requests

import pdpyras
from pdpyras_sandbox import Sandbox
from tests.documents import REST, REST_API
from tests.support import (
    KEY,
    REEXPORTED,
    ROOT,
    ROUTING_KEY,
    load_script,
    read,
    redirect_sessions,
)

pytestmark = pytest.mark.oldest

SOURCE = os.path.join(ROOT, "sphinx", "source")
SPHINX = ("sphinx", "furo")

# What samples may import beyond what the tests need anyway.
OPTIONAL = (
    *("a2wsgi", "distributed", "django", "flask"),
    *(
        "matplotlib",
        "pandas",
        "pyarrow",
        "requests_mock",
        "responses",
        "rich",
        "tqdm",
    ),
)


# ---------------------------------------------------------------------------
# Finding the samples
# ---------------------------------------------------------------------------


class Sample(NamedTuple):
    """Code of a page: what, and the line of the page where it begins."""

    line: int
    code: str

    @property
    def imports(self) -> List[str]:
        """The packages that it imports."""
        found = []
        for node in ast.walk(ast.parse(self.code)):
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found.append(node.module or "")
        return [name.partition(".")[0] for name in found]

    @property
    def missing(self) -> List[str]:
        """The packages that it imports and that are not installed."""
        return [
            name
            for name in self.imports
            if name in OPTIONAL and importlib.util.find_spec(name) is None
        ]

    @property
    def is_program(self) -> bool:
        """Is it to be run as a file of its own?"""
        return 'if __name__ == "__main__":' in self.code

    @property
    def printed(self) -> str:
        """What it says that it prints."""
        lines = re.findall(r"^\s*#> ?(.*)$", self.code, re.MULTILINE)
        return "".join(line + "\n" for line in lines)


DIRECTIVE = re.compile(r"( *)\.\. code-block:: python\s*")
LITERAL = re.compile(r"( *)(?!\.\. )(.*)::\s*")


def samples_of(text: str) -> Iterator[Sample]:
    """The Python samples of a text in reStructuredText."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        directive = DIRECTIVE.fullmatch(line)
        literal = directive or LITERAL.fullmatch(line)
        if not literal:
            continue
        start = number + 1
        while start < len(lines) and re.match(r"\s*(:\w+:|$)", lines[start]):
            start += 1
        block = list(indented(lines[start:], len(literal.group(1))))
        code = textwrap.dedent("\n".join(block)).rstrip() + "\n"
        if directive or re.match(r"(import|from) \w", code):
            yield Sample(start + 1, code)


def indented(lines: Sequence[str], margin: int) -> Iterator[str]:
    """The first lines, as far as they are indented or empty."""
    for line in lines:
        if line.strip() and len(line) - len(line.lstrip()) <= margin:
            return
        yield line


def pages() -> List[str]:
    """The pages that hold samples, by their paths below the root."""
    found = glob.glob(os.path.join(SOURCE, "**", "*.rst"), recursive=True)
    paths = [os.path.relpath(path, ROOT) for path in found]
    paths = [path.replace(os.sep, "/") for path in paths] + ["README.rst"]
    return sorted(path for path in paths if list(samples_of(read(path))))


def docstrings() -> Iterator[Tuple[str, str]]:
    """Name and text of each docstring that holds samples."""
    paths = [*glob.glob(os.path.join(ROOT, "api_toolkit", "*.py"))]
    paths += glob.glob(os.path.join(ROOT, "pdpyras*.py"))
    documented = (
        *(ast.Module, ast.ClassDef, ast.FunctionDef),
        ast.AsyncFunctionDef,
    )
    for path in sorted(paths):
        name = os.path.relpath(path, ROOT).replace(os.sep, "/")
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, documented):
                text = ast.get_docstring(node) or ""
                if list(samples_of(text)):
                    yield f"{name}:{getattr(node, 'name', '')}", text


PAGES = pages()
DOCSTRINGS = dict(docstrings())


# ---------------------------------------------------------------------------
# What the samples presuppose
# ---------------------------------------------------------------------------


def furnish(box: Sandbox) -> None:
    """Fill the sandbox with what the samples look for."""
    reference = {"id": "PJANE01", "type": "user_reference"}
    assigned = [{"at": "2026-01-01T00:00:00Z", "assignee": reference}]
    box.add("users", id="PJANE01", name="Jane Doe", email="jane@example.com")
    box.add("users", name="Operator", email="me@example.com")
    box.add("users", id="PBOB001", name="Bob Roe", email="bob@example.com")
    box.add("users", 119)
    box.add("teams", id="PTEAM01", name="Platform")
    box.add("services", id="PSHOP01", name="Web shop")
    box.add("services", id="POLD001", name="Fax gateway")
    box.add("services", 130)
    for number in range(1, 4):
        box.add(
            "incidents", id=f"PINC00{number}", assignments=assigned, teams=[]
        )
    box.add("incidents", id="PT4KHLK", assignments=assigned)
    box.add("incidents", 2)
    # More than two pages, and more than one update may have.
    box.add("incidents", 300, assignments=assigned, teams=[])
    furnish_on_call(box, reference)
    box.add("audit/records", 250, action="update")
    box.add("analytics/raw/incidents", 120, seconds_to_resolve=90)
    times = [f"2026-03-0{day}T12:00:00Z" for day in range(1, 6)]
    for created_at in times:
        box.add("log_entries", 50, created_at=created_at)
    box.add("business_services", id="PBIZ001", name="Selling")
    box.add("workflows/integrations", id="PSLACK1", name="Slack")


def furnish_on_call(box: Sandbox, reference: Dict[str, str]) -> None:
    """Schedules, escalation policies, and who is on call."""
    policy = {"id": "PPOLICY", "type": "escalation_policy_reference"}
    targets = [
        {"id": "PJANE01", "type": "user_reference", "summary": "Jane Doe"},
        {"id": "PNIGHTS", "type": "schedule_reference", "summary": "Nights"},
    ]
    rule = {"id": "PRULE01", "escalation_delay_in_minutes": 30}
    box.add("schedules", id="PNIGHTS", name="Nights")
    box.add(
        "escalation_policies",
        id="PPOLICY",
        name="Engineering",
        escalation_rules=[dict(rule, targets=targets)],
    )
    box.add(
        "oncalls",
        30,
        user=dict(reference, summary="Jane Doe"),
        escalation_policy=dict(policy, summary="Engineering"),
        schedule=dict(targets[1]),
        escalation_level=1,
        start="2026-01-05T09:00:00Z",
        end="2026-01-12T09:00:00Z",
    )


def furnish_on_call_now(box: Sandbox) -> None:
    """Shifts of this moment, at three levels and in two schedules."""
    box.clear()
    box.add("users", id="PJANE01", name="Jane Doe")
    nights = {"id": "PNIGHTS", "summary": "Nights"}
    days = {"id": "PDAYS", "summary": "Days"}
    policy = {"id": "PPOLICY", "summary": "Engineering"}
    jane = {"id": "PJANE01", "summary": "Jane Doe"}
    bob = {"id": "PBOB001", "summary": "Bob Roe"}
    for level, schedule, user in (
        (3, None, bob),
        (2, days, bob),
        (2, days, jane),
        (1, nights, jane),
    ):
        box.add(
            "oncalls",
            user=user,
            escalation_policy=policy,
            schedule=schedule,
            escalation_level=level,
            start="2026-01-05T09:00:00Z" if schedule else None,
            end="2099-01-01T00:00:00Z" if schedule else None,
        )


def furnish_two_years(box: Sandbox) -> None:
    """2 403 incidents of 2024 and 2025, and some before and after."""
    since = datetime(2023, 12, 31)
    times = [since + timedelta(hours=7.3 * n) for n in range(2500)]
    box.add("incidents", [{"created_at": f"{t:%FT%TZ}"} for t in times])


FURNISHERS: Dict[str, Callable[[Sandbox], None]] = {
    "dask.rst": furnish_two_years,
    "mtta.rst": load_script("sphinx", "mtta_figure.py").furnish,
    "oncall_now.rst": furnish_on_call_now,
}

# What starts a cluster takes seconds, and is about no Python's differences.
ONCE = ("sphinx/source/cookbook/dask.rst",)
MARKED_PAGES = [
    pytest.param(page, marks=[pytest.mark.once] if page in ONCE else [])
    for page in PAGES
]


def presupposed(page: str) -> Dict[str, Any]:
    """Variables that a page takes for granted; it says so."""
    names: Dict[str, Any] = {
        "__name__": "sample",
        "API_KEY": KEY,
        "OAUTH_TOKEN": KEY,
        "ROUTING_KEY": ROUTING_KEY,
    }
    if not re.search(r"README|quickstart|guide/sessions", page):
        names["pdpyras"] = pdpyras
        names["session"] = pdpyras.APISession(
            KEY, default_from="jane@example.com"
        )
    return names


# ---------------------------------------------------------------------------
# Running them
# ---------------------------------------------------------------------------


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A furnished sandbox, to which new sessions talk by themselves."""
    with Sandbox() as sandbox:
        furnish(sandbox)
        redirect_sessions(monkeypatch, sandbox.url)
        monkeypatch.setenv("PAGERDUTY_API_KEY", KEY)
        monkeypatch.setenv("PAGERDUTY_ROUTING_KEY", ROUTING_KEY)
        monkeypatch.setenv("PAGERDUTY_URL", sandbox.url)
        yield sandbox


@pytest.fixture(autouse=True)
def workshop(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """A directory of its own for the files that samples read and write."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users.csv").write_text(
        "name,email,role\n"
        "Ann Example,ann@example.com,user\n"
        "Jane Doe,jane@example.com,admin\n"
        "Nobody,not an address\n"
    )
    return tmp_path


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Take back what the samples on logging set for the whole process."""
    loggers = [logging.getLogger(name) for name in (None, "pdpyras")]
    before = [(log, log.level, list(log.handlers)) for log in loggers]
    yield
    for log, level, handlers in before:
        log.setLevel(level)
        log.handlers[:] = handlers


def run_page(page: str, text: str, names: Dict[str, Any], capsys: Any) -> None:
    """Run the samples of a page; skip at the end what could not run."""
    missing: Dict[str, List[int]] = {}
    for sample in samples_of(text):
        for package in sorted(set(sample.missing)):
            missing.setdefault(package, []).append(sample.line)
        if not sample.missing:
            run_sample(page, sample, names, capsys)
    if missing:
        lacking = "; ".join(
            f"{package} (line {', '.join(map(str, lines))})"
            for package, lines in sorted(missing.items())
        )
        pytest.skip(f"{page}: all passed but what needs {lacking}")


def run_sample(
    page: str, sample: Sample, names: Dict[str, Any], capsys: Any
) -> None:
    """Run a sample, and compare what it prints with what it says."""
    place = f"{page}, line {sample.line}"
    capsys.readouterr()
    if sample.is_program:
        output = run_program(sample.code)
    else:
        # Padded, so that a traceback shows the lines of the page.
        padded = "\n" * (sample.line - 1) + sample.code
        file = os.path.join(ROOT, page.partition(":")[0])
        exec(compile(padded, file, "exec"), names)
        output = capsys.readouterr().out
    if sample.printed:
        checker = doctest.OutputChecker()
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert checker.check_output(sample.printed, output, flags), (
            f"{place} prints:\n{output}\nbut says:\n{sample.printed}"
        )


STARTER = """
import runpy, sys, pdpyras
pdpyras.APISession.url = sys.argv.pop(1)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def run_program(code: str) -> str:
    """Run a sample in an interpreter of its own; return what it prints."""
    with open("program.py", "w", encoding="utf-8") as file:
        file.write(code)
    arguments = [pdpyras.APISession.url, os.path.abspath("program.py")]
    done = subprocess.run(
        [sys.executable, "-c", STARTER, *arguments],
        env=dict(os.environ, PYTHONPATH=ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("page", MARKED_PAGES)
def test_samples_of_page(
    page: str, box: Sandbox, tables: Any, naps: Any, capsys: Any
) -> None:
    names = presupposed(page)
    FURNISHERS.get(page.rpartition("/")[2], lambda box: None)(box)
    before = list(naps)
    run_page(page, read(page), names, capsys)
    check = CHECKS.get(page) or CHECKS.get(page.rpartition("/")[2])
    (check or nothing_more)(box, naps[len(before) :])
    for session in names.values():
        if isinstance(session, pdpyras.PDSession):
            session.close()


@pytest.mark.once
def test_the_export_that_is_killed_goes_on_without_gap(box: Sandbox) -> None:
    """At any record, whatever was in the file's buffer then."""
    page = read("sphinx/source/cookbook/export.rst")
    code = next(samples_of(page)).code.replace("STEP = 1000", "STEP = 20")
    head, call, tail = code.partition('export(session, "incidents"')
    killing = textwrap.dedent(
        """
        import pdpyras

        def progress(record, number, total):
            if number == int(sys.argv[1]):
                os._exit(9)

        session = pdpyras.APISession.from_env()
        """
    )
    with open("program.py", "w", encoding="utf-8") as file:
        file.write(head + killing + call + tail)
    for number in (1, 33, 120, 121, 306, 0):
        done = subprocess.run(
            [sys.executable, "program.py", str(number)],
            env=dict(os.environ, PYTHONPATH=ROOT),
            stdout=subprocess.PIPE,
            timeout=120,
        )
        assert done.returncode == (9 if number else 0)
    assert done.stdout == b"306 incidents\n"
    with open("incidents.jsonl", encoding="utf-8") as file:
        ids = [json.loads(line)["id"] for line in file]
    assert sorted(ids) == sorted(r["id"] for r in records(box, "incidents"))


@pytest.mark.parametrize("name", sorted(DOCSTRINGS))
def test_samples_of_docstring(
    name: str, box: Sandbox, tables: Any, naps: Any, capsys: Any
) -> None:
    names = {"API_KEY": KEY, "ROUTING_KEY": ROUTING_KEY}
    run_page(name, DOCSTRINGS[name], names, capsys)


def test_the_pages_that_must_hold_samples_do() -> None:
    names = " ".join(PAGES)
    for page in ("README.rst", "quickstart.rst", "errors.rst", "retries.rst"):
        assert page in names
    assert names.count("/guide/") >= 7
    assert names.count("/cookbook/") >= 12
    assert "pdpyras.py:" in DOCSTRINGS


# ---------------------------------------------------------------------------
# What is to be seen after the samples of a page
# ---------------------------------------------------------------------------


def nothing_more(box: Sandbox, naps: List[float]) -> None:
    pass


def records(box: Sandbox, path: str) -> List[Any]:
    with pdpyras.APISession(KEY) as session:
        session.url = box.url
        return session.list_all(path)


def check_retries(box: Sandbox, naps: List[float]) -> None:
    """The pauses of the two worked examples, the first of the page."""
    assert naps[:4] == [2, 4, 8, 16]
    assert naps[4:9] == [2, 4, 8, 16, 32]


def check_oncall_report(box: Sandbox, naps: List[float]) -> None:
    with open("oncall.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 31
    assert rows[0][0] == "user"
    assert rows[1][0] == "Jane Doe"


def check_import(box: Sandbox, naps: List[float]) -> None:
    emails = [user["email"] for user in records(box, "users")]
    assert emails.count("ann@example.com") == 1
    assert emails.count("jane@example.com") == 1


def check_storm(box: Sandbox, naps: List[float]) -> None:
    """None of Jane's incidents was passed over."""
    status = {
        incident["id"]: incident["status"]
        for incident in records(box, "incidents")
        if "PJANE01" in str(incident["assignments"])
    }
    assert status["PINC001"] == "acknowledged"
    assert len(status) == 304 and "triggered" not in status.values()


def check_all_acknowledged(box: Sandbox, naps: List[float]) -> None:
    """None at all was passed over."""
    status = [i["status"] for i in records(box, "incidents")]
    assert len(status) > 300 and "triggered" not in status


CHECKS: Dict[str, Callable[[Sandbox, List[float]], None]] = {
    "sphinx/source/index.rst": check_storm,
    "pagination.rst": check_all_acknowledged,
    "retries.rst": check_retries,
    "oncall_report.rst": check_oncall_report,
    "import_users.rst": check_import,
    "storm.rst": check_storm,
}


# ---------------------------------------------------------------------------
# Building the documentation
# ---------------------------------------------------------------------------


def build(target: str, seed: str) -> str:
    """Build the documentation; return what Sphinx had to say."""
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-n", "-W", "-E", "-q"]
        + ["-d", target + ".doctrees", "-b", "html", SOURCE, target],
        env=dict(
            os.environ,
            PYTHONHASHSEED=seed,
            TZ=f"UTC-{seed}",
            http_proxy="http://127.0.0.1:9",
            https_proxy="http://127.0.0.1:9",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=500,
    )
    output = done.stdout.decode()
    assert done.returncode == 0, output
    return output


def contents(directory: str) -> Dict[str, bytes]:
    """All files below a directory, by their paths in it."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, directory)] = file.read()
    return found


@pytest.fixture(scope="module")
def html(tmp_path_factory: Any) -> Dict[str, bytes]:
    """The documentation, built without a network and without a warning."""
    for package in SPHINX:
        pytest.importorskip(package)
    target = str(tmp_path_factory.mktemp("html") / "first")
    assert build(target, "1") == ""
    return contents(target)


def test_documentation_builds_without_warnings(html: Dict[str, bytes]) -> None:
    assert "index.html" in html
    assert "searchindex.js" in html


def test_documentation_builds_identically(
    html: Dict[str, bytes], tmp_path: Any
) -> None:
    time.sleep(1.1)  # a time that is written to the second would differ
    target = str(tmp_path / "second")
    build(target, "2")
    again = contents(target)
    assert sorted(again) == sorted(html)
    assert [name for name in html if html[name] != again[name]] == []


def test_documentation_stays_on_its_own_site(html: Dict[str, bytes]) -> None:
    """Neither a path of the machine, nor anything loaded from elsewhere."""
    for name, content in html.items():
        assert os.fsencode(ROOT) not in content, name
        if name.endswith(".html"):
            loaded = re.findall(
                rb"<(?:script|img|iframe)[^>]* src=\"([^\"]+)\"", content
            )
            loaded += re.findall(
                rb"<link[^>]* rel=\"stylesheet\"[^>]* href=\"([^\"]+)\"",
                content,
            )
            assert loaded
            assert not [s for s in loaded if re.match(rb"(\w+:)?//", s)], name


def test_the_first_page_leads_to_each_capability(
    html: Dict[str, bytes],
) -> None:
    article = html["index.html"].decode().partition("<article")[2]
    article = article.partition("</article>")[0]
    for page in (
        *("history", "outbox", "guard", "deadlines", "signing_in"),
        *("webhooks", "families", "commandline"),
    ):
        assert f'href="guide/{page}.html"' in article, page
    for page in ("faq", "glossary", "configuration", "sandbox", "migration"):
        assert f'href="{page}.html"' in article, page


def test_endpoint_page_holds_every_operation(html: Dict[str, bytes]) -> None:
    page = html["endpoints.html"].decode()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for endpoint, _ in pdpyras._operations_with(""):
        assert f" {endpoint} " in text, endpoint


REFERENCE = (
    "https://developer.pagerduty.com/api-reference/reference"
    "/REST/openapiv3.json/paths/"
)


def test_endpoints_lead_to_pagerduty_s_reference(
    html: Dict[str, bytes],
) -> None:
    """All but those that PagerDuty's document does not list."""
    page = html["endpoints.html"].decode()
    linked = re.findall(rf'href="{re.escape(REFERENCE)}([^"]+)/(\w+)"', page)
    decided = load_script("tools", "endpoints.py").DECISIONS
    unlisted = {*decided.added, *decided.historic, *decided.prose_only}
    rest = [
        endpoint.split(" ")
        for endpoint, _ in pdpyras._operations_with("")
        if not re.search(r" /(scim|integration-)", endpoint)
    ]
    expected = sum(path not in unlisted for _, path in rest)
    expected -= len(decided.unlisted)  # An operation of a path that it lists.
    assert len(linked) == expected > 400
    assert ("~1users~1%7Bid%7D", "put") in linked
    # A path of the table that stands for another one of the document.
    assert ("~1tags~1%7Bid%7D~1%7Bentity_type%7D", "get") in linked
    assert not [path for path, _ in linked if "response_plays" in path]


@pytest.mark.skipif(not REST.exists(), reason="there is no API document")
def test_linked_endpoints_are_in_the_document(html: Dict[str, bytes]) -> None:
    page = html["endpoints.html"].decode()
    linked = re.findall(rf'href="{re.escape(REFERENCE)}([^"]+)/(\w+)"', page)
    paths = REST_API.document["paths"]
    for pointer, method in linked:
        path = unquote(pointer).replace("~1", "/").replace("~0", "~")
        assert method in paths[path], (method, path)


def test_endpoint_page_says_what_is_optional(html: Dict[str, bytes]) -> None:
    page = html["endpoints.html"].decode()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    note = "response wrapper optional"
    count = len(list(pdpyras._operations_with("?")))
    assert count > 5
    assert text.count(f" {note} ") == count + 1  # and where it is explained
    path = "/workflows/integrations/{id}"
    assert f" GET {path} integration {note} " in text


def settings_on_page(page: str, section: str) -> Dict[str, List[str]]:
    """The cells of a table of settings, by the name of the setting."""
    part = page.partition(f'id="{section}"')[2].partition("</table>")[0]
    rows = re.findall(r"<tr class=.*?</tr>", part, re.DOTALL)
    cells = [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in rows]
    texts = [
        [unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row]
        for row in cells
        if row
    ]
    return {row[0]: row[1:] for row in texts}


@pytest.mark.parametrize(
    "name, section",
    [
        ("APISession", "rest-api-apisession"),
        ("EventsAPISession", "alerts-eventsapisession"),
        ("ChangeEventsAPISession", "alerts-eventsapisession"),
    ],
)
def test_configuration_holds_every_setting(
    html: Dict[str, bytes], name: str, section: str
) -> None:
    """What is pickled with a session, its counters aside, is a setting."""
    page = html["configuration.html"].decode()
    shown = settings_on_page(page, "every-session")
    assert shown["deadline"][:2] == ["float or None; seconds", "None"]
    shown.update(settings_on_page(page, section))
    cls = getattr(pdpyras, name)
    pickled = {attribute.lstrip("_") for attribute in cls.__attrs__}
    pickled -= set(requests.Session.__attrs__) | {"credential", "warned_of"}
    pickled -= {"api_key_access", "subdomain"}
    pickled -= {"api_call_counts", "api_time"}
    assert len(pickled) >= 20
    session = cls(KEY)
    for attribute in pickled - {"api_key"}:
        assert shown[attribute][1] == repr(getattr(session, attribute))
        assert shown[attribute][2], "no meaning"
    session.close()


def test_configuration_holds_every_environment_variable(
    html: Dict[str, bytes],
) -> None:
    page = html["configuration.html"].decode()
    rest = settings_on_page(page, "rest-api-apisession")
    assert rest["api_key"][3] == "PAGERDUTY_API_KEY"
    assert rest["url"][3] == "PAGERDUTY_URL, PAGERDUTY_REGION"
    assert rest["default_from"][3] == "PAGERDUTY_FROM"
    events = settings_on_page(page, "alerts-eventsapisession")
    assert events["outbox"][3] == "PAGERDUTY_OUTBOX"
    for variable in set(re.findall(r"PAGERDUTY_\w+", read("pdpyras.py"))):
        assert variable in page, variable


def test_endpoint_page_says_what_is_at_another_host(
    html: Dict[str, bytes],
) -> None:
    page = html["endpoints.html"].decode()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    rules = "/integration-jira-service/rules"
    assert f" GET {rules} rules offset 100 at app.pagerduty.com " in text
    users = "/scim/v2/Users"
    assert f" GET {users} Resources scim 100 application/scim+json " in text


def test_reference_holds_every_public_name(html: Dict[str, bytes]) -> None:
    page = html["reference.html"].decode()
    deprecated = set(deprecated_names())
    assert deprecated & set(pdpyras.__all__)
    for name in set(pdpyras.__all__) - REEXPORTED - deprecated:
        assert f'id="pdpyras.{name}"' in page, name


def deprecated_names() -> Iterator[str]:
    """Functions, methods and keyword arguments that warn."""
    for node in ast.walk(ast.parse(read("pdpyras.py"))):
        if isinstance(node, ast.FunctionDef):
            for call in node.decorator_list:
                if getattr(getattr(call, "func", None), "id", "") == (
                    "_deprecated"
                ):
                    yield node.name
        elif getattr(getattr(node, "func", None), "id", "") == (
            "deprecated_kwarg"
        ):
            name = ast.literal_eval(node.args[0])  # type: ignore
            yield name + "="


def test_every_deprecated_name_is_listed() -> None:
    page = read("sphinx/source/deprecated.rst")
    names = set(deprecated_names())
    assert len(names) >= 12
    for name in names:
        assert re.search(r"\* - ``(session\.)?" + re.escape(name), page), name


def test_every_promise_names_tests_that_exist() -> None:
    page = read("sphinx/source/promises.rst")
    promises = re.split(r"^\* ", page, flags=re.MULTILINE)[1:]
    assert len(promises) >= 30
    for promise in promises:
        bullet = promise.partition("\n\n")[0].strip()
        tests = re.findall(r"``(test_\w+\.py)::(test_\w+)``", bullet)
        assert tests and bullet.endswith("``"), bullet
        for file, name in tests:
            assert f"def {name}(" in read_test(file), (file, name)


def read_test(name: str) -> str:
    """The text of a test file; all but the first lie in tests/."""
    is_first = name == "test_pdpyras.py"
    return read(name if is_first else f"tests/{name}")


# ---------------------------------------------------------------------------
# What scripts have made
# ---------------------------------------------------------------------------


def test_the_figure_is_what_its_script_plots() -> None:
    script = load_script("sphinx", "cooldown_figure.py")
    assert read("sphinx/source/figures/cooldown.svg") == script.figure()


def test_the_figure_shows_what_the_client_does() -> None:
    script = load_script("sphinx", "cooldown_figure.py")
    session = pdpyras.PDSession(KEY)
    session.max_network_attempts = len(script.RETRIES)
    attempts = pdpyras._Attempts(session, "GET", "/users")
    trouble = requests.exceptions.ConnectionError("refused")
    pauses = [attempts.after_network_error(trouble) for _ in script.RETRIES]
    assert script.pauses() == pauses
    assert session.sleep_timer_max == script.CAP


@pytest.mark.once
def test_the_plot_of_mtta_is_what_its_page_draws() -> None:
    for package in ("matplotlib", "pandas"):
        pytest.importorskip(package)
    script = load_script("sphinx", "mtta_figure.py")
    kept = read("sphinx/source/figures/mtta.svg")
    drawn = script.figure()
    # Paths are drawn otherwise by another version.
    assert script.labels(kept) == script.labels(drawn)
    assert {"MTTA", "MTTR", "48", "Web shop"} < set(script.labels(kept))
    assert kept.count("<path") == drawn.count("<path")


def test_inventories_are_what_their_script_writes() -> None:
    script = load_script("sphinx", "inventories.py")
    for project in script.PROJECTS:
        path = os.path.join(SOURCE, "inventories", project + ".inv")
        with open(path, "rb") as file:
            assert unpacked(file.read()) == unpacked(script.inventory(project))


def unpacked(inventory: bytes) -> List[bytes]:
    import zlib

    head, _, body = inventory.partition(b"zlib.\n")
    return [head, zlib.decompress(body)]
