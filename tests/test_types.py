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
from typing import Any, Dict, Iterable, Iterator, List, Tuple

import pytest

import pdpyras
import pdpyras_cli
import pdpyras_cli_events
import pdpyras_cli_options
import pdpyras_cli_output
import pdpyras_cli_run
import pdpyras_cli_session
import pdpyras_oauth
import pdpyras_outbox
import pdpyras_sandbox
import pdpyras_tokens
import pdpyras_webhooks
from api_toolkit.connector import APIConnector
from tests import test_docs, test_packaging, wire
from tests.support import ROOT, read

pytestmark = pytest.mark.oldest

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
    "session.auth_type": "Literal['token'] | Literal['bearer']"
    " | Literal['oauth2']",
    "session.stagger_cooldown": "float",
    "session.raise_if_http_error": "bool",
    "events.trigger('Disk is full', 'db1.example.com')": "str",
    "changes.event_timestamp": "str",
    "error.status_code": "int",
    "error.code": "int | None",
    "error.errors": "list[str]",
    "error.response": "requests.models.Response",
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
    "session.max_http_atempts = 5",
    "session.get('users', timeout='5')",
    "session.auth_type = 'basic'",
    "pdpyras.APISession('fake', auth_type='basic')",
    "pdpyras.APISession('fake', region='de')",
    "events.trigger('Disk is full', 'db1', severity='fatal')",
    "events.guard('Backup', 'db1', severity='fatal')",
    "events.guard('Backup', 'db1', custom_detail={})",
    "pdpyras_oauth.OAuthApp('id', 'secret', region='de')",
]

# Each has a misspelled argument, and what both a type checker and the client
# itself should say.
TYPOS = {
    "session.get('users', parms={})": "params",
    "session.post('users', jsn={})": "json",
    "session.put('users/P1', jsn={})": "json",
    "session.patch('users/P1', headrs={})": "headers",
    "session.delete('users/P1', deadlin=5)": "deadline",
    "session.request('GET', 'users', timeot=5)": "timeout",
    "session.jget('users', parms={})": "params",
    "session.jpost('users', jsn={})": "json",
    "session.jput('users/P1', header={})": "headers",
    "session.jpatch('users/P1', time_out=5)": "timeout",
    "session.rget('users', parms={})": "params",
    "session.rpost('users', jsn={})": "json",
    "session.rput('users/P1', headrs={})": "headers",
    "session.rpatch('users/P1', dead_line=5)": "deadline",
    "session.rdelete('users/P1', param={})": "params",
    "session.list_all('users', parms={})": "params",
    "session.dict_all('users', pagesize=5)": "page_size",
    "session.iter_all('users', prefech=2)": "prefetch",
    "session.iter_cursor('audit/records', itemhook=print)": "item_hook",
    "session.iter_history('incidents', sinse='2026-01-01')": "since",
    "session.plan_history('incidents', '2026-01-01', utnil=None)": "until",
    "session.find('users', 'Jane', attribut='email')": "attribute",
    "session.persist('users', 'email', {'email': 'j'}, updat=True)": "update",
}

PREAMBLE = """
import pdpyras
import pdpyras_oauth
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

    def mypy(self, *names: str, status: int = 0) -> str:
        """What mypy says of files, in its strict mode."""
        pytest.importorskip("mypy")
        return run(
            *(sys.executable, "-m", "mypy", "--strict"),
            *("--cache-dir", ".mypy", "--no-error-summary"),
            *("--python-executable", self.python, *names),
            cwd=self.directory,
            status=status,
        )

    def pyright(self, name: str, status: int = 0) -> str:
        """What pyright says of a file."""
        pytest.importorskip("pyright")
        return run(
            *(sys.executable, "-m", "pyright", "--pythonpath", self.python),
            name,
            cwd=self.directory,
            status=status,
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


def unnoticed(mistakes: Iterable[str], said: str) -> List[str]:
    """The lines after the preamble of which a checker says nothing."""
    first = PREAMBLE.count("\n") + 1
    found = re.findall(r"mistakes.py:(\d+):(?:\d+ -)? error", said)
    return [
        code for n, code in enumerate(mistakes, first) if str(n) not in found
    ]


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_checkers_notice_every_mistake(
    checker: str, installed: Installed
) -> None:
    mistakes = [*MISTAKES, *TYPOS, "session.list_all('users', statuses=[])"]
    installed.write("mistakes.py", PREAMBLE + "\n".join(mistakes) + "\n")
    said = getattr(installed, checker)("mistakes.py", status=1)
    assert not unnoticed(mistakes, said), said


def test_mypy_guesses_what_a_misspelled_argument_means(
    installed: Installed,
) -> None:
    installed.write("mistakes.py", PREAMBLE + "\n".join(TYPOS) + "\n")
    said = installed.mypy("mistakes.py", status=1)
    guesses = re.findall(r"did you mean \"(\w+)\"", said)
    assert guesses == list(TYPOS.values()), said


@pytest.mark.parametrize("code", TYPOS)
def test_the_client_guesses_what_a_misspelled_argument_means(
    code: str, server: wire.Server, session: Any
) -> None:
    with pytest.raises(TypeError) as caught:
        eval(code, {"session": session})
    assert re.search(
        f"unexpected keyword argument '.*': did you mean `{TYPOS[code]}`\\?$",
        str(caught.value),
    )
    assert server.requests == []


PROGRAMS = [
    name
    for name in sorted(os.listdir(os.path.join(ROOT, "examples")))
    if name.endswith(".py")
]


@pytest.mark.once
def test_mypy_finds_no_fault_with_the_examples(installed: Installed) -> None:
    for name in PROGRAMS:
        installed.write(name, read("examples", name))
    assert installed.mypy(*PROGRAMS) == ""


SAMPLES_PREAMBLE = """
import pdpyras
API_KEY: str
OAUTH_TOKEN: str
ROUTING_KEY: str
session = pdpyras.APISession(API_KEY)
"""


def write_samples(installed: Installed) -> List[str]:
    """Write the samples of each page into a file, and return its name."""
    names = []
    for page in test_docs.PAGES:
        samples = list(test_docs.samples_of(read(page)))
        parts = {
            f"_{sample.line}": sample.code
            for sample in samples
            if sample.is_program
        }
        parts[""] = SAMPLES_PREAMBLE + "".join(
            sample.code for sample in samples if not sample.is_program
        )
        for suffix, code in parts.items():
            names.append(re.sub(r"\W", "_", page) + suffix + ".py")
            installed.write(names[-1], code)
    return names


OURS = r'of "(PDSession|_Collections|\w*APISession|OAuthApp|Outbox|Sandbox)"'


@pytest.mark.once
def test_mypy_knows_every_argument_in_the_documentation(
    installed: Installed,
) -> None:
    """The samples have no annotations, and take for granted that `find`
    finds; but each method, argument and value of ours is one there is."""
    names = write_samples(installed)
    assert len(names) > 30
    mistake = "session.rget('users/me', parms={})\n"
    installed.write("mistake.py", SAMPLES_PREAMBLE + mistake)
    # Of what they import, stubs alone are read: it saves half a minute.
    options = ("--no-strict-optional", "--follow-imports", "skip")
    said = installed.mypy(*options, *names, status=1)
    assert [line for line in said.split("\n") if re.search(OURS, line)] == []
    assert re.search(OURS, installed.mypy(*options, "mistake.py", status=1))


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
        *(pdpyras_cli, pdpyras_cli_options, pdpyras_cli_output),
        *(pdpyras_cli_events, pdpyras_cli_run, pdpyras_cli_session),
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
