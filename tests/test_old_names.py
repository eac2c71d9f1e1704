"""What scripts of 4.x use: each name does what it did, and warns once.

Each row of ``USES`` is one line of a script. The script runs in a process of
its own, as its author would run it: there a warning must name the script and
the line, for otherwise nobody can find what to change.
"""

import collections
import os
import re
import subprocess
import sys
import warnings
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple
from unittest import mock

import pytest

import pdpyras
from pdpyras_sandbox import Sandbox
from tests import wire
from tests.support import KEY, ROOT, told

# What the lines of the scripts share.
BEGINNING = f"""
import pdpyras
from pdpyras_sandbox import Sandbox

def rget(session, url, **kwargs):
    return session.get(url, **kwargs)

box = Sandbox(users=150).start()
records = box.add("audit/records", 150)
pdpyras.APISession.url = box.url
session = pdpyras.APISession({KEY!r})
"""


class Use(NamedTuple):
    """One use of an old name, and what the warning says to do instead."""

    name: str
    code: str
    instead: str


USES = [
    Use("set_api_key", "session.set_api_key('fake')", "`api_key`"),
    Use(
        "raise_on_error",
        "pdpyras.raise_on_error(session.get('users'))",
        "`successful_response`",
    ),
    Use(
        "resource_envelope",
        "pdpyras.resource_envelope(rget)(session, 'users')",
        "`wrapped_entities`",
    ),
    Use(
        "resource_path",
        "pdpyras.resource_path(rget)(session, 'users')",
        "`resource_url`",
    ),
    Use("resource_name", "pdpyras.resource_name('user')", "`plural_name`"),
    Use("object_type", "pdpyras.object_type('users')", "`singular_name`"),
    Use(
        "tokenize_url_path",
        "pdpyras.tokenize_url_path('users/PABC123')",
        "`canonical_path`",
    ),
    Use(
        "profiler_key",
        "session.profiler_key('GET', 'users')",
        "canonical path",
    ),
    Use(
        "raise_if_http_error",
        "session.raise_if_http_error = False",
        "`require_complete_results`",
    ),
    Use(
        "raise_if_http_error",
        "assert session.raise_if_http_error is False",
        "`require_complete_results`",
    ),
    *(
        Use("name", f"pdpyras.{kind}('fake', name='Mine')", "no effect")
        for kind in (
            *("PDSession", "APISession"),
            *("EventsAPISession", "ChangeEventsAPISession"),
        )
    ),
    Use(
        "paginate",
        "assert len(list(session.iter_all('users', paginate=False))) == 100",
        "rget",
    ),
    Use(
        "paginate",
        "assert len(list(session.iter_all('users', paginate=True))) == 150",
        "rget",
    ),
    Use(
        "paginate",
        "assert len(session.list_all('users', paginate=False)) == 100",
        "rget",
    ),
    Use(
        "paginate",
        "assert len(session.dict_all('users', paginate=False)) == 100",
        "rget",
    ),
    Use(
        "attribute",
        "assert records == list("
        "session.iter_cursor('audit/records', attribute='records'))",
        "wrapper",
    ),
    Use(
        "resource",
        "assert session.rget(resource='users/me')['id']",
        "`url`",
    ),
    Use("path", "assert session.jget(path='users/me')['user']", "`url`"),
    Use("path", "assert len(session.list_all(path='users')) == 150", "`url`"),
    Use(
        "path",
        "assert records == list(session.iter_cursor(path='audit/records'))",
        "`url`",
    ),
]

ARGUMENTS = ("name", "paginate", "attribute", "resource", "path")


# ---------------------------------------------------------------------------
# The warnings
# ---------------------------------------------------------------------------


def run(path: Any, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run a script with options of the interpreter."""
    environment = dict(os.environ, PYTHONPATH=ROOT)
    environment.pop("PYTHONWARNINGS", None)
    return subprocess.run(
        [sys.executable, *options, str(path)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )


def write(path: Any, *lines: str) -> int:
    """Write a script; return how many lines come before the given ones."""
    text = BEGINNING + "\n".join(lines) + "\nbox.stop()\n"
    path.write_text(text, encoding="utf-8")
    return BEGINNING.count("\n")


class Warned(NamedTuple):
    """A warning as the interpreter prints it."""

    path: str
    line: int
    kind: str
    text: str


def printed_warnings(errors: str) -> List[Warned]:
    """The warnings on stderr, where nothing else may be."""
    found = re.findall(r"^(.+?):(\d+): (\w+): (.*)\n  .*\n", errors, re.M)
    printed = [Warned(path, int(n), *rest) for path, n, *rest in found]
    assert len(printed) * 2 == errors.count("\n"), errors
    return printed


def test_every_use_warns_once_and_is_blamed_on_its_line(
    tmp_path: Any,
) -> None:
    script = tmp_path / "script.py"
    before = write(script, *[use.code for use in USES])
    done = run(script, "-W", "always::DeprecationWarning")
    assert done.returncode == 0, done.stderr
    printed = printed_warnings(done.stderr)
    assert {warned.path for warned in printed} == {str(script)}
    lines = collections.Counter(warned.line - before for warned in printed)
    wrong = [
        (lines[number], use.code)
        for number, use in enumerate(USES, 1)
        if lines[number] != 1
    ]
    assert not wrong, "warnings, and line of the script"
    for use, warned in zip(USES, sorted(printed, key=lambda w: w.line)):
        is_argument = use.name in ARGUMENTS
        assert warned.kind == (
            "DeprecationWarning" if is_argument else "DeprecatedWarning"
        )
        assert re.search(rf"\b{use.name}\b", warned.text), warned
        assert use.instead in warned.text, warned


def test_a_line_warns_once_however_often_it_runs(tmp_path: Any) -> None:
    script = tmp_path / "script.py"
    loops = [f"for _ in range(3): {use.code}" for use in USES]
    write(script, *loops)
    done = run(script, "-W", "default::DeprecationWarning")
    assert done.returncode == 0, done.stderr
    printed = printed_warnings(done.stderr)
    assert len({warned.line for warned in printed}) == len(USES)
    assert len(printed) == len(USES)


@pytest.mark.parametrize("use", USES, ids=lambda use: use.code)
def test_a_warning_can_be_made_an_error(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sandbox(users=1) as box:
        monkeypatch.setattr(pdpyras.APISession, "url", box.url)
        with pdpyras.APISession(KEY) as session:
            names = {
                "pdpyras": pdpyras,
                "session": session,
                "rget": lambda *args, **kwargs: None,
                "records": [],
            }
            with pytest.raises(DeprecationWarning):
                exec(use.code, names)


MODERN = """
import copy
import pickle
import api_toolkit.connection
import api_toolkit.connector

box.add("incidents", id="PABC123")
with session:
    session.api_key = "fake"
    session.require_complete_results = False
    session.default_sender = "me@example.com"
    session.print_debug = session.debug = False
    for twin in (copy.copy(session), pickle.loads(pickle.dumps(session))):
        repr(twin), str(twin), dir(twin), vars(twin)
        assert twin.require_complete_results is False
        twin.close()
    assert len(session.list_all("users")) == 150
    assert len(session.dict_all("users", by="email")) == 150
    assert list(session.iter_cursor("audit/records")) == records
    assert list(session.iter_all("audit/records")) == records
    user = session.find("users", "alice.abara@example.com", "email")
    session.persist("users", "email", dict(user, name="A"), update=True)
    session.rput(user, json={"name": "B"})
    session.jget(user), session.rget(user), session.rdelete(user)
    session.trunc_key, session.trunc_token, session.rate
    session.total_call_count, session.total_call_time
    session.api_key_access, session.subdomain
    try:
        pdpyras.successful_response(session.get(user["self"]))
    except pdpyras.PDHTTPError as error:
        pickle.loads(pickle.dumps(error))

@pdpyras.resource_url
@pdpyras.wrapped_entities
def rget(session, url, **kwargs):
    return session.get(url, **kwargs)

rget(session, "users")
pdpyras.plural_name(pdpyras.singular_name("users"))
pdpyras.canonical_path(session.url, "users/PABC123")
with pdpyras.EventsAPISession("fake") as events:
    events.url = box.url
    events.resolve(events.trigger("Disk is full", "db1.example.com"))
with pdpyras.ChangeEventsAPISession("fake") as changes:
    changes.url = box.url
    changes.submit("Deployed")
with api_toolkit.connector.APIConnector(max_retries=1).session as plain:
    plain.get(box.url + "/users")
session.close()
"""


def test_what_uses_no_old_name_warns_of_nothing(tmp_path: Any) -> None:
    script = tmp_path / "script.py"
    write(script, MODERN)
    done = run(script, "-W", "error")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_table_of_uses_is_complete() -> None:
    assert {use.name for use in USES} == {
        *("set_api_key", "raise_on_error", "resource_envelope"),
        *("resource_path", "resource_name", "object_type"),
        *("tokenize_url_path", "profiler_key", "raise_if_http_error"),
        *ARGUMENTS,
    }


def test_the_documentation_lists_the_same_names() -> None:
    page = os.path.join(ROOT, "sphinx", "source", "deprecated.rst")
    with open(page, encoding="utf-8") as file:
        cells = re.findall(r"^    \* - (.*)$", file.read(), re.M)[1:]
    listed = {re.findall(r"(\w+)(?:\(.*?\)|=)?``", cell)[0] for cell in cells}
    assert listed == {use.name for use in USES}


# ---------------------------------------------------------------------------
# What they do
# ---------------------------------------------------------------------------


@contextmanager
def one_warning(name: str) -> Iterator[None]:
    """Exactly one warning comes, of this name and blamed on this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    (warning,) = caught
    assert issubclass(warning.category, DeprecationWarning)
    assert re.search(rf"\b{name}\b", str(warning.message))
    assert warning.filename == __file__


def test_set_api_key(server: wire.Server, session: Any) -> None:
    server.reply(json={"users": [{"html_url": "https://one.example/u/P1"}]})
    assert session.subdomain == "one"
    with one_warning("set_api_key"):
        assert session.set_api_key("another-fake-key") is None
    assert session.api_key == "another-fake-key"
    server.reply(json={"users": [{"html_url": "https://two.example/u/P1"}]})
    assert session.subdomain == "two"
    header = server.requests[-1].headers["authorization"]
    assert header == "Token token=another-fake-key"


@pytest.mark.parametrize("key", ["", None, 5])
def test_set_api_key_refuses_what_is_no_key(session: Any, key: Any) -> None:
    with one_warning("set_api_key"), pytest.raises(ValueError):
        session.set_api_key(key)
    assert session.api_key == KEY


@pytest.mark.parametrize("status", [200, 201, 204])
def test_raise_on_error_returns_a_success(
    server: wire.Server, session: Any, status: int
) -> None:
    server.reply(status)
    response = session.get("users")
    with one_warning("raise_on_error"):
        assert pdpyras.raise_on_error(response) is response


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
def test_raise_on_error_raises(
    server: wire.Server, session: Any, status: int
) -> None:
    server.reply(status)
    response = session.get("users")
    with one_warning("raise_on_error"):
        with pytest.raises(pdpyras.PDClientError) as caught:
            pdpyras.raise_on_error(response)
    assert caught.value.response.status_code == status
    assert str(status) in str(caught.value)


def by_hand(name: str, session: Any) -> Any:
    """``rget`` or ``rput`` of a session, made by the old decorators."""

    def method(self: Any, url: str, **kwargs: Any) -> Any:
        """Read or write."""
        return getattr(self, name[1:])(url, **kwargs)

    method.__name__ = name
    with one_warning("resource_envelope"):
        unwrapping = pdpyras.resource_envelope(method)
    with one_warning("resource_path"):
        made = pdpyras.resource_path(unwrapping)
    assert made.__name__ == name and made.__doc__ == "Read or write."
    return lambda url, **kwargs: made(session, url, **kwargs)


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture
def boxed(box: Sandbox) -> Iterator[pdpyras.APISession]:
    """A session on the sandbox."""
    with pdpyras.APISession(KEY) as session:
        session.url = box.url
        yield session


def test_resource_envelope(box: Sandbox, boxed: Any) -> None:
    (user,) = box.add("users", id="PABC123")
    rget, rput = by_hand("rget", boxed), by_hand("rput", boxed)
    assert rget("users/PABC123") == user
    assert rget("users", params={"limit": 1}) == [user]
    assert rput("users/PABC123", json={"name": "Jane"})["name"] == "Jane"
    assert box.requests[-1].json == {"user": {"name": "Jane"}}
    rput("users/PABC123", json={"user": {"name": "Jim"}})
    assert box.requests[-1].json == {"user": {"name": "Jim"}}
    incident_id = box.add("incidents")[0]["id"]
    change = {"id": incident_id, "status": "resolved"}
    assert rput("incidents", json=[change])[0]["status"] == "resolved"
    assert box.requests[-1].json == {"incidents": [change]}
    with pytest.raises(pdpyras.PDClientError) as caught:
        rget("users/PNOBODY")
    assert caught.value.response.status_code == 404


def test_resource_path(box: Sandbox, boxed: Any) -> None:
    (user,) = box.add("users", id="PABC123")
    rget = by_hand("rget", boxed)
    assert rget(user) == rget(user["self"]) == user
    for nothing in ({"id": "PABC123"}, 5, None, ["users"]):
        with pytest.raises(pdpyras.URLError):
            rget(nothing)
    assert len(box.requests) == 2


NAMES = [
    ("user", "users"),
    ("service", "services"),
    ("schedule", "schedules"),
    ("escalation_policy", "escalation_policies"),
    ("log_entry", "log_entries"),
    ("maintenance_window", "maintenance_windows"),
    ("notification_rule", "notification_rules"),
]


@pytest.mark.parametrize(("singular", "plural"), NAMES)
def test_resource_name_and_object_type(singular: str, plural: str) -> None:
    with one_warning("resource_name"):
        assert pdpyras.resource_name(singular) == plural
    with one_warning("resource_name"):
        assert pdpyras.resource_name(singular + "_reference") == plural
    with one_warning("object_type"):
        assert pdpyras.object_type(plural) == singular


TOKENS: Dict[str, Any] = {
    "users": ("users", "{index}"),
    "/users": ("users", "{index}"),
    "/users/PABC123": ("users", "{id}"),
    "/users/PABC123?include[]=teams#x": ("users", "{id}"),
    "users?query=Jane": ("users", "{index}"),
    "https://api.pagerduty.com/users/PABC123": ("users", "{id}"),
    "https://api.pagerduty.com/users": ("users", "{index}"),
    "services/P1/integrations": (
        *("services", "{id}", "integrations", "{index}"),
    ),
    "services/P1/integrations/P2": (
        *("services", "{id}", "integrations", "{id}"),
    ),
    "beta_things/P1": ("beta_things", "{id}"),
}


@pytest.mark.parametrize("url", TOKENS)
def test_tokenize_url_path(url: str) -> None:
    with one_warning("tokenize_url_path"):
        assert pdpyras.tokenize_url_path(url) == TOKENS[url]


def test_tokenize_url_path_of_another_base() -> None:
    base = "https://api.eu.pagerduty.com"
    with one_warning("tokenize_url_path"):
        tokens = pdpyras.tokenize_url_path(base + "/users", baseurl=base)
    assert tokens == ("users", "{index}")


@pytest.mark.parametrize(
    "url", ["https://example.com/users", "users//contact_methods", "/", ""]
)
def test_tokenize_url_path_refuses(url: str) -> None:
    with one_warning("tokenize_url_path"), pytest.raises(pdpyras.URLError):
        pdpyras.tokenize_url_path(url)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("GET", "users"), "get:users/{index}"),
        (("get", "/users/PABC123"), "get:users/{id}"),
        (("POST", "users/P1/sessions"), "post:users/{id}/sessions/{index}"),
        (("PUT", "users/P1", "mine"), "put:users/{id}:mine"),
    ],
)
def test_profiler_key(session: Any, arguments: Any, key: str) -> None:
    with one_warning("profiler_key"):
        assert session.profiler_key(*arguments) == key
    full_url = f"{session.url}/{arguments[1].lstrip('/')}"
    with one_warning("profiler_key"):
        assert (
            session.profiler_key(arguments[0], full_url)
            == key[: len(key.partition(":mine")[0])]
        )


def test_raise_if_http_error(box: Sandbox, boxed: Any) -> None:
    box.add("users", 150)
    with one_warning("raise_if_http_error"):
        assert boxed.raise_if_http_error is True
    with one_warning("raise_if_http_error"):
        boxed.raise_if_http_error = False
    assert boxed.require_complete_results is False
    with one_warning("raise_if_http_error"):
        assert boxed.raise_if_http_error is False
    users = boxed.iter_all("users")
    received = [next(users)]
    box.fail(500)
    with told(pdpyras.PDIncompleteWarning, "incomplete", "500"):
        received += users
    assert len(received) == 100


class Lenient(pdpyras.APISession):
    """A subclass as programs for 4.x have it."""

    raise_if_http_error = False


def test_raise_if_http_error_set_on_a_class(box: Sandbox) -> None:
    box.add("users", 150)
    with Lenient(KEY) as session:
        session.url = box.url
        users = session.iter_all("users")
        received = [next(users)]
        box.fail(500)
        with told(pdpyras.PDIncompleteWarning, "incomplete", "500"):
            received += users
        assert len(received) == 100


@pytest.mark.parametrize("of_all", [False, 0])
def test_raise_if_http_error_set_on_the_class_of_all_sessions(
    of_all: Any,
    box: Sandbox,
    boxed: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pdpyras.PDSession, "raise_if_http_error", of_all)
    box.add("users", 150)
    users = boxed.iter_all("users")
    received = [next(users)]
    box.fail(500)
    with told(pdpyras.PDIncompleteWarning, "incomplete", "500"):
        received += users
    assert len(received) == 100
    boxed.raise_if_http_error = True  # Of this session, it counts.
    users = boxed.iter_all("users")
    next(users)
    box.fail(500)
    with pytest.raises(pdpyras.PDServerError):
        list(users)


@pytest.mark.parametrize("name", ["EventsAPISession", "PDSession"])
def test_raise_if_http_error_of_sessions_without_lists(name: str) -> None:
    with getattr(pdpyras, name)(KEY) as session:
        with one_warning("raise_if_http_error"):
            assert session.raise_if_http_error is True
        with one_warning("raise_if_http_error"):
            session.raise_if_http_error = False
        with one_warning("raise_if_http_error"):
            assert session.raise_if_http_error is False


KINDS = [
    pdpyras.PDSession,
    pdpyras.APISession,
    pdpyras.EventsAPISession,
    pdpyras.ChangeEventsAPISession,
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_of_a_session_changes_nothing(kind: Any) -> None:
    with one_warning("name"), kind(KEY, name="Mine") as named:
        pass
    with kind(KEY) as plain:
        assert named.log.name == plain.log.name
        assert named.headers == plain.headers


@pytest.mark.parametrize(
    ("paginate", "count", "requests"), [(False, 100, 1), (True, 150, 2)]
)
def test_paginate(
    box: Sandbox, boxed: Any, paginate: bool, count: int, requests: int
) -> None:
    users = box.add("users", 150)
    with one_warning("paginate"):
        found = list(boxed.iter_all("users", paginate=paginate))
    assert found == users[:count]
    assert len(box.requests) == requests


def test_paginate_with_a_page_size(box: Sandbox, boxed: Any) -> None:
    users = box.add("users", 150)
    seen: List[Any] = []
    with one_warning("paginate"):
        found = boxed.iter_all(
            "users",
            paginate=False,
            page_size=20,
            total=True,
            params={"query": "example.com"},
            item_hook=lambda *hooked: seen.append(hooked),
        )
        assert list(found) == users[:20]
    assert seen[-1] == (users[19], 20, 150)
    assert len(box.requests) == 1


@pytest.mark.parametrize("name", ["list_all", "dict_all"])
def test_paginate_of_all_records(box: Sandbox, boxed: Any, name: str) -> None:
    box.add("users", 150)
    with one_warning("paginate"):
        assert len(getattr(boxed, name)("users", paginate=False)) == 100


def test_paginate_of_a_cursor(box: Sandbox, boxed: Any) -> None:
    records = box.add("audit/records", 150)
    with one_warning("paginate"):
        found = list(boxed.iter_all("audit/records", paginate=False))
    assert found == records[:100]
    assert len(box.requests) == 1


def test_attribute_of_iter_cursor(server: wire.Server, session: Any) -> None:
    first = {"things": [1, 2], "records": [9], "next_cursor": "c2"}
    server.reply(json=first)
    server.reply(json={"things": [3], "next_cursor": None})
    with one_warning("attribute"):
        things = session.iter_cursor("audit/records", attribute="things")
    assert list(things) == [1, 2, 3]
    cursors = [dict(r.query).get("cursor") for r in server.requests]
    assert cursors == [None, "c2"]


# ---------------------------------------------------------------------------
# The URL by the names that it had
# ---------------------------------------------------------------------------

USER = {"type": "user", "name": "Jane", "email": "jane@example.com"}

# What 4.5.2 and 5.4.1 called it, by method.
OLD_URLS = [
    *(("resource", name) for name in ("rget", "rput", "rdelete")),
    *(("resource", name) for name in ("jget", "jput", "jpost")),
    *(("path", name) for name in ("jget", "jput", "jpost", "rpost")),
]


@pytest.mark.parametrize(("old", "method"), OLD_URLS)
def test_the_url_of_a_request_by_its_old_name(
    old: str, method: str, box: Sandbox, boxed: Any
) -> None:
    (user,) = box.add("users", id="PABC123")
    url = "users" if method.endswith("post") else "users/PABC123"
    options: Dict[str, Any] = {}
    if method[1:] in ("put", "post"):
        options["json"] = {"user": USER}
    with one_warning(old):
        answer = getattr(boxed, method)(**{old: url}, **options)
    if method == "rdelete":
        assert answer.status_code == 204
    else:
        entity = answer["user"] if method[0] == "j" else answer
        wanted = user if method.endswith("get") else USER
        assert entity["name"] == wanted["name"]
    (request,) = box.requests
    assert (request.method, request.path) == (method[1:].upper(), f"/{url}")


def test_a_resource_by_the_old_name_of_the_url(
    box: Sandbox, boxed: Any
) -> None:
    (user,) = box.add("users", id="PABC123")
    with one_warning("resource"):
        assert boxed.rget(resource=user) == user
    for nothing in (None, {"id": "PABC123"}):
        with one_warning("resource"), pytest.raises(pdpyras.URLError):
            boxed.rget(resource=nothing)
    assert len(box.requests) == 1


@pytest.mark.parametrize("method", ["iter_all", "list_all", "dict_all"])
def test_the_path_of_a_collection_by_its_old_name(
    method: str, box: Sandbox, boxed: Any
) -> None:
    users = box.add("users", 150)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = getattr(boxed, method)(path="users", page_size=50)
    is_old = method != "dict_all"  # Its name is still the same.
    assert [w.filename for w in caught] == [__file__] * is_old
    found = found.values() if method == "dict_all" else found
    assert list(found) == users
    assert len(box.requests) == 3


def test_the_path_of_a_cursor_by_its_old_name(
    box: Sandbox, boxed: Any
) -> None:
    records = box.add("audit/records", 150)
    with one_warning("path"):
        found = boxed.iter_cursor(path="audit/records", page_size=50)
    assert list(found) == records


@pytest.mark.parametrize("method", ["rget", "jget", "list_all", "iter_all"])
@pytest.mark.parametrize("old", ["resource", "path"])
def test_a_url_given_twice_is_a_type_error(
    old: str, method: str, server: wire.Server, session: Any
) -> None:
    with pytest.raises(TypeError, match=f"unexpected.*'{old}'"):
        getattr(session, method)("users", **{old: "teams"})
    assert server.requests == []


@pytest.mark.parametrize("method", ["rget", "jget", "list_all", "iter_all"])
def test_no_url_at_all_is_a_type_error(
    method: str, server: wire.Server, session: Any
) -> None:
    with pytest.raises(TypeError, match=rf"{method}\(\) needs a URL"):
        getattr(session, method)(params_={})
    both = {"resource": "users", "path": "users"}
    with one_warning("resource"):
        with pytest.raises(TypeError, match="unexpected.*'path'"):
            getattr(session, method)(**both)
    assert server.requests == []


# ---------------------------------------------------------------------------
# What needs no other name
# ---------------------------------------------------------------------------


class Suffixed(pdpyras.APISession):
    """A subclass that counts under keys of its own, as 4.x let it."""

    def postprocess(self, response: Any, suffix: Any = None) -> None:
        super().postprocess(response, suffix=suffix)
        super().postprocess(response, suffix)


def test_postprocess_takes_a_suffix(box: Sandbox) -> None:
    with Suffixed(KEY, url=box.url) as session:
        assert session.get("users").status_code == 200
        session.postprocess(session.get("users"), suffix="mine")
        assert session.api_call_counts == {"GET /users": 6}


STAR = """
from pdpyras import *

try:
    session = APISession("fake", default_from="jane@example.com")
    session.url = "http://127.0.0.1:9"
    session.max_network_attempts = 0
    session.rget("users", params={"since": datetime(2024, 5, 6).isoformat()})
except PDClientError as e:
    logging.error("failed")
    sys.exit(7)
"""


def test_a_script_that_imports_star_has_what_it_had(tmp_path: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(STAR, encoding="utf-8")
    done = run(script)
    assert (done.returncode, done.stderr) == (7, "ERROR:root:failed\n")


def test_star_brings_what_5_4_1_and_4_5_2_had() -> None:
    names: Dict[str, Any] = {}
    exec("from pdpyras import *", names)
    assert names["requests"].Session is names["Session"]
    assert names["requests"].Response is names["Response"]
    assert names["requests"].__version__ == names["REQUESTS_VERSION"]
    assert names["warnings"] is warnings and names["warn"] is warnings.warn
    assert names["sys"] is sys
    assert issubclass(names["JSONDecodeError"], ValueError)
    assert names["logging"].getLogger("pdpyras")
    assert names["deepcopy"]([1]) == [1] and 0 <= names["random"]() < 1
    assert names["datetime"](2024, 5, 6).isoformat() == "2024-05-06T00:00:00"
    assert names["Union"] and names["Iterator"]


class InAnyCase(pdpyras.APISession):
    """A subclass that changes headers by names in any case."""

    def prepare_headers(self, method: str, user_headers: Any = {}) -> Any:  # noqa: B006
        headers = super().prepare_headers(method, user_headers)
        headers["x-agent"] = headers["user-agent"]
        headers["user-agent"] = "mine"
        headers.update({"ACCEPT": "text/plain"})
        del headers["from"]
        return headers


def test_prepared_headers_are_found_in_any_case(server: wire.Server) -> None:
    with InAnyCase(KEY, "jane@example.com", url=server.url) as session:
        session.get("users")
        session.get("users", headers={"X": "1"})
        agent = session.user_agent
    for request in server.requests:
        assert request.headers.get_all("User-Agent") == ["mine"]
        assert request.headers.get_all("Accept") == ["text/plain"]
        assert request.headers["X-Agent"] == agent
        assert "From" not in request.headers


def test_prepared_headers_are_a_mapping_as_that_of_requests(
    session: Any,
) -> None:
    headers = session.prepare_headers("POST", {b"X-Mine": "1"})
    assert headers["x-mine"] == headers.get("X-MINE") == "1"
    assert "content-TYPE" in headers and "Nothing" not in headers
    assert headers.get("nothing") is None and headers.get(5, 6) == 6
    with pytest.raises(KeyError, match="nothing"):
        headers["nothing"]
    assert headers.setdefault("content-type", "a/b") == "application/json"
    assert headers.setdefault("X-New", "2") == headers["x-new"] == "2"
    twin = headers.copy()
    assert twin.pop("CONTENT-TYPE") == "application/json"
    assert twin.pop("content-type", None) is None
    with pytest.raises(KeyError):
        twin.pop("content-type")
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("method", [" get ", "get\n", "\tGET", b" get "])
def test_white_space_around_a_method_is_no_part_of_it(
    method: Any, server: wire.Server, session: Any
) -> None:
    assert session.request(method, "users").status_code == 200
    assert server.requests[0].method == "GET"
    with pytest.raises(pdpyras.PDClientError, match="HEAD is not permitted"):
        session.request(" head ", "users")


def test_a_mock_in_the_place_of_time(server, session):
    """The library calls nothing of it but what the script expects: sleep."""
    server.reply(503)
    server.reply(json={"users": []})
    session.retry[503] = 1
    with mock.patch("pdpyras.time") as stand_in:
        assert session.rget("users") == []
    assert stand_in.sleep.call_count == 1
