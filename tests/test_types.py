"""Types and signatures, as users of the installed distribution see them.

A wheel is built and installed, without a network, beside the packages of the
tests, into an environment from which the source tree is out of sight. There
a client with complete annotations is checked by mypy and pyright, and run.
What needs no type checker is tested on every Python.
"""

import inspect
import os
import pydoc
import re
import sys
import sysconfig
import venv
from typing import Any, Dict, Iterator, List, Tuple

import pytest

import pdpyras
import pdpyras_oauth
import pdpyras_outbox
import pdpyras_sandbox
import pdpyras_tokens
import pdpyras_webhooks
from api_toolkit.connector import APIConnector
from tests import test_packaging

pytestmark = pytest.mark.ends

run = test_packaging.run
# The fixtures that build a wheel.
work, tree = test_packaging.work, test_packaging.tree
wheel = test_packaging.wheel

CLIENT = '''
"""Looks after the users of an account, and says what it did."""

import logging
from datetime import datetime, timezone
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import requests

import pdpyras
from api_toolkit.connector import APIConnector
from pdpyras_sandbox import Request, Sandbox

KEY = "not-a-real-key"


class Account(pdpyras.APISession):
    """A session with habits of its own."""

    permitted_methods = ("GET", "PUT", "POST", "DELETE")
    timeout = (3.05, 10)
    max_rate_wait = 120.0
    early_access = {"ip-allow-lists"}

    def after_set_api_key(self) -> None:
        super().after_set_api_key()
        self.log.info("The key is %s now.", self.trunc_key)

    def postprocess(self, response: requests.Response) -> None:
        super().postprocess(response)
        if response.status_code >= 500:
            self.log.error("Request %s", response.headers["x-request-id"])

    @pdpyras.resource_url
    @pdpyras.wrapped_entities
    def rget(
        self, url: Union[str, Mapping[str, Any]], **kwargs: Any
    ) -> Any:
        return self.get(str(url), **kwargs)

    def emails(self) -> Iterator[str]:
        for user in self.iter_all("users", params={"include": ["teams"]}):
            yield user["email"]


def report(item: Any, number: int, total: Union[int, str]) -> None:
    print(f"{number}/{total} {item['name']}")


def read(session: Account) -> List[str]:
    response: requests.Response = session.get("users", timeout=5)
    body: Dict[str, Any] = session.jget("/users", params={"limit": 1})
    users: List[Any] = session.list_all(
        "users", page_size=50, item_hook=report, total=True
    )
    by_email: Dict[Any, Any] = session.dict_all("users", by="email")
    found: Optional[Dict[str, Any]] = session.find("users", "alice abara")
    if found is None:
        raise SystemExit("Nobody is here.")
    same = session.rget(found)
    assert same == by_email[found["email"]] == users[0]
    assert response.ok and len(body["users"]) == 1
    records = session.iter_cursor(
        "audit/records", params={"since": datetime.now(timezone.utc)}
    )
    assert list(records) == []
    return [*session.emails()]


def write(session: Account) -> None:
    user = session.persist(
        "users", "email", {"email": "new@example.com", "name": "New"}
    )
    updated = session.rput(user, json={"job_title": "Operator"})
    deleted: requests.Response = session.rdelete(updated)
    assert deleted.status_code == 204
    try:
        session.rget(user)
    except pdpyras.PDServerError:
        raise
    except pdpyras.PDHTTPError as error:
        status: int = error.status_code
        code: Optional[int] = error.code
        texts: List[str] = error.errors
        request_id: Optional[str] = error.request_id
        print(status, code, texts, request_id is not None, error.msg != "")
    except (pdpyras.PDClientError, pdpyras.URLError) as failure:
        print(failure)


def configure(session: Account) -> None:
    session.retry[502] = 3
    session.max_http_attempts = 5
    session.max_network_attempts = 2
    session.sleep_timer = 0.5
    session.sleep_timer_base = 1.5
    session.stagger_cooldown = 0.2
    session.default_page_size = 50
    session.require_complete_results = True
    session.log = logging.getLogger("account")
    session.print_debug = False
    session.proxies.update({})
    session.headers["X-Origin"] = "typed client"


def send_events(box: Sandbox) -> Tuple[str, str]:
    with pdpyras.EventsAPISession(KEY) as events:
        events.url = box.url
        dedup_key: str = events.trigger(
            "Disk is full",
            "db1.example.com",
            severity="warning",
            custom_details={"free": 0},
            links=[{"href": "https://example.com", "text": "Graphs"}],
        )
        events.acknowledge(dedup_key)
        events.resolve(dedup_key=dedup_key)
        events.send_event("resolve", dedup_key)
    with pdpyras.ChangeEventsAPISession(KEY) as changes:
        changes.url = box.url
        changes.submit("Deployed", source="ci", timestamp="2026-01-01")
        moment: str = changes.event_timestamp
    return dedup_key, moment


def look_up(base_url: str) -> None:
    path: str = pdpyras.canonical_path(base_url, "users/PABC123")
    wrappers: Tuple[Optional[str], Optional[str]] = pdpyras.entity_wrappers(
        "GET", path
    )
    matches: bool = pdpyras.endpoint_matches("* /users/{id}", "PUT", path)
    names: Tuple[str, str] = (
        pdpyras.singular_name("users"),
        pdpyras.plural_name("user_reference"),
    )
    limit: float = pdpyras.ITERATION_LIMIT + pdpyras.TIMEOUT
    pdpyras.CANONICAL_PATHS.append("/beta_things")
    pdpyras.ENTITY_WRAPPER_CONFIG["GET /beta_things"] = "things"
    pdpyras.ENTITY_WRAPPER_CONFIG["PUT /beta_things"] = ("thing", None)
    print(wrappers, matches, names, limit > pdpyras.TEXT_LEN_LIMIT)


class Other(APIConnector):
    """A connector to another API."""

    def __init__(self, base_url: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.base_url = base_url

    def users(self) -> requests.Response:
        self.session.headers["Authorization"] = "Bearer " + KEY
        return self.session.get(self.base_url + "/users")


def main() -> None:
    with Sandbox(users=120) as box, Account(KEY) as session:
        session.url = box.url
        configure(session)
        print(len(read(session)))
        write(session)
        print(send_events(box)[0] != "")
        look_up(box.url)
        counts: Dict[str, int] = session.api_call_counts
        seconds: float = session.total_call_time
        first: Request = box.requests[0]
        print(len(counts) > 1, seconds > 0, first.method, first.json)
        other = Other(box.url, max_retries=2, status_forcelist=[503])
        settings: Dict[str, Any] = other.get_retry_settings()
        print(other.users().status_code, settings["max_retries"])
        other.session.close()


if __name__ == "__main__":
    main()
'''

# What mypy says of each expression.
REVEALED = {
    "session.get('users')": "requests.models.Response",
    "session.request('GET', 'users')": "requests.models.Response",
    "session.rdelete('users/PABC123')": "requests.models.Response",
    "session.rget('users')": "Any",
    "session.iter_all('users')": "Iterator[Any]",
    "session.iter_cursor('audit/records')": "Iterator[Any]",
    "session.list_all('users')": "list[Any]",
    "session.dict_all('users')": "dict[Any, Any]",
    "session.find('users', 'Jane')": "Any | None",
    "session.api_key": "str",
    "session.default_from": "str | None",
    "session.retry": "dict[int, int]",
    "session.api_call_counts": "dict[str, int]",
    "session.api_time": "dict[str, float]",
    "session.api_key_access": "str",
    "session.subdomain": "str",
    "session.print_debug": "bool",
    "session.debug": "bool",
    "session.stagger_cooldown": "float",
    "session.raise_if_http_error": "bool",
    "events.trigger('Disk is full', 'db1.example.com')": "str",
    "changes.event_timestamp": "str",
    "error.status_code": "int",
    "error.code": "int | None",
    "error.errors": "list[str]",
    "error.request_id": "str | None",
    "pdpyras.TIMEOUT": "int",
    "pdpyras.ITERATION_LIMIT": "float",
    "pdpyras.CANONICAL_PATHS": "list[str]",
    "pdpyras.last_4('fake')": "str",
    "pdpyras.__version__": "str",
    "connector.session": "requests.sessions.Session",
    "connector.get_retry_settings()": "dict[str, Any]",
    "connector.allowed_methods": "list[str]",
}

MISTAKES = [
    "session.rget()",
    "session.iter_all('users', pagesize=5)",
    "session.list_all(5)",
    "session.default_page_size = 'many'",
    "session.retry['404'] = 5",
    "session.find('users', 'Jane').upper",
    "events.trigger('Disk is full')",
    "events.send_event(5)",
    "changes.submit('Deployed', link=[])",
    "pdpyras.canonical_path('users')",
    "pdpyras.PDHTTPError('without a response')",
    "connector.session.gett('users')",
]

PREAMBLE = """
import pdpyras
from api_toolkit.connector import APIConnector

session = pdpyras.APISession("fake")
events = pdpyras.EventsAPISession("fake")
changes = pdpyras.ChangeEventsAPISession("fake")
connector = APIConnector()
error = pdpyras.PDHTTPError("Not found", session.get("users/PNOBODY"))
"""


# ---------------------------------------------------------------------------
# The installed wheel
# ---------------------------------------------------------------------------


class Installed:
    """An environment in which the wheel is installed, and a directory."""

    def __init__(self, directory: str, wheel: str) -> None:
        self.directory = directory
        where = os.path.join(directory, "installed")
        venv.create(where)
        self.python = os.path.join(where, "bin", "python")
        if os.name == "nt":
            self.python = os.path.join(where, "Scripts", "python.exe")
        paths = {"base": where, "platbase": where}
        site = sysconfig.get_path("purelib", vars=paths)
        run(
            *(sys.executable, "-m", "pip", "install", "--no-index"),
            *("--no-deps", "--target", site, wheel),
            cwd=directory,
        )
        with open(os.path.join(site, "borrowed.pth"), "w") as file:
            file.write(sysconfig.get_path("purelib"))

    def write(self, name: str, text: str) -> None:
        with open(os.path.join(self.directory, name), "w") as file:
            file.write(text)

    def run(self, *arguments: str) -> str:
        """The output of this environment's Python."""
        return run(self.python, *arguments, cwd=self.directory)

    def mypy(self, name: str, status: int = 0) -> str:
        """What mypy says of a file, in its strict mode."""
        pytest.importorskip("mypy")
        return run(
            *(sys.executable, "-m", "mypy", "--strict"),
            *("--cache-dir", ".mypy", "--no-error-summary"),
            *("--python-executable", self.python, name),
            cwd=self.directory,
            status=status,
        )

    def pyright(self, name: str) -> str:
        """What pyright says of a file."""
        pytest.importorskip("pyright")
        return run(
            *(sys.executable, "-m", "pyright", "--pythonpath", self.python),
            name,
            cwd=self.directory,
        )


@pytest.fixture(scope="module")
def installed(work: str, wheel: str) -> Installed:
    directory = os.path.join(work, "typed")
    os.mkdir(directory)
    return Installed(directory, wheel)


def test_mypy_finds_no_fault_with_a_typed_client(
    installed: Installed,
) -> None:
    installed.write("client.py", CLIENT)
    assert installed.mypy("client.py") == ""


def test_pyright_finds_no_fault_with_a_typed_client(
    installed: Installed,
) -> None:
    installed.write("client.py", CLIENT)
    said = installed.pyright("client.py")
    assert "0 errors, 0 warnings" in said, said


def test_the_typed_client_runs(installed: Installed) -> None:
    installed.write("client.py", CLIENT)
    lines = installed.run("-W", "error", "client.py").splitlines()
    assert lines[0] == "1/120 Alice Abara" and lines[119][:8] == "120/120 "
    assert lines[120:] == [
        "120",
        "404 2100 ['Not Found'] True True",
        "True",
        "('user', 'user') True ('user', 'users') True",
        "True True GET None",
        "200 2",
    ]


def test_mypy_knows_the_type_of_each_expression(
    installed: Installed,
) -> None:
    asked = [f"reveal_type({expression})" for expression in REVEALED]
    installed.write("revealed.py", PREAMBLE + "\n".join(asked) + "\n")
    said = installed.mypy("revealed.py")
    found = re.findall(r'Revealed type is "(.*)"', said)
    plain = [
        re.sub(r"\b(builtins|typing|collections\.abc)\.", "", text)
        for text in found
    ]
    assert dict(zip(REVEALED, plain)) == REVEALED


def test_mypy_notices_every_mistake(installed: Installed) -> None:
    installed.write("mistakes.py", PREAMBLE + "\n".join(MISTAKES) + "\n")
    said = installed.mypy("mistakes.py", status=1)
    first = PREAMBLE.count("\n") + 1
    noticed = {
        int(n) for n in re.findall(r"^mistakes.py:(\d+): err", said, re.M)
    }
    unnoticed = [
        code for n, code in enumerate(MISTAKES, first) if n not in noticed
    ]
    assert not unnoticed, said


# ---------------------------------------------------------------------------
# Names, signatures, annotations
# ---------------------------------------------------------------------------

WRAPPED = [
    *("jget", "jpost", "jput", "jpatch"),
    *("rget", "rpost", "rput", "rpatch", "rdelete"),
]


@pytest.mark.parametrize("name", WRAPPED)
def test_decorated_methods_keep_name_and_signature(name: str) -> None:
    method = getattr(pdpyras.APISession, name)
    assert method.__name__ == name
    assert method.__qualname__ == f"APISession.{name}"
    assert method.__module__ == "pdpyras"
    signature = inspect.signature(method)
    assert list(signature.parameters) == ["self", "url", "kwargs"]
    assert (
        signature.parameters["url"].annotation is not inspect.Signature.empty
    )
    assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("name", WRAPPED)
def test_help_shows_signature_and_purpose(name: str) -> None:
    method = getattr(pdpyras.APISession, name)
    shown = pydoc.plain(pydoc.render_doc(method))
    assert re.search(
        rf"^{name}\(self, url: ?\S.*, \*\*kwargs: ?\S*Any\)", shown, re.M
    )
    assert method.__doc__ and method.__doc__.splitlines()[0] in shown


def test_help_on_the_whole_module() -> None:
    shown = pydoc.plain(pydoc.render_doc(pdpyras))
    for name in pdpyras.__all__:
        assert re.search(rf"\b{name}\b", shown), name


OLD_NAMES = [
    *("object_type", "raise_on_error", "resource_envelope"),
    *("resource_name", "resource_path", "tokenize_url_path"),
]


@pytest.mark.parametrize("name", OLD_NAMES)
def test_old_names_say_in_their_help_that_they_are_old(name: str) -> None:
    function = getattr(pdpyras, name)
    assert function.__name__ == name
    assert list(inspect.signature(function).parameters)
    assert "deprecated" in pydoc.render_doc(function)


def functions_of(thing: Any, prefix: str) -> Iterator[Tuple[str, Any]]:
    """The functions of a module or class that belong to its public face."""
    for name, value in vars(thing).items():
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(value, property):
            value = value.fget
        if inspect.isfunction(value):
            yield f"{prefix}.{name}", value


def public_functions() -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for module in (
        *(pdpyras, pdpyras_oauth, pdpyras_outbox, pdpyras_sandbox),
        *(pdpyras_tokens, pdpyras_webhooks),
    ):
        exported = {
            name: value
            for name, value in vars(module).items()
            if name in module.__all__
            and getattr(value, "__module__", "") == module.__name__
        }
        for name, value in exported.items():
            if inspect.isclass(value):
                found.update(functions_of(value, name))
            elif inspect.isfunction(value):
                found[name] = value
    found.update(functions_of(APIConnector, "APIConnector"))
    return found


def unannotated(function: Any) -> List[str]:
    """The parameters without an annotation; ``return`` if that has none."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name == "self":
        del parameters[0]
    empty = inspect.Signature.empty
    names = [p.name for p in parameters if p.annotation is empty]
    if signature.return_annotation is empty:
        names.append("return")
    return names


def test_every_public_function_is_annotated() -> None:
    functions = public_functions()
    assert len(functions) > 90
    lacking = {
        name: unannotated(function)
        for name, function in functions.items()
        if unannotated(function)
    }
    assert lacking == {}


def test_every_public_function_says_what_it_does() -> None:
    silent = [
        name
        for name, function in public_functions().items()
        if not function.__doc__ and not name.endswith("__init__")
    ]
    assert silent == []
