"""The distribution: what is built, what it installs, what it leaves behind.

Everything is built from a copy of this tree, without a network: the build's
own requirements are those of the tests, and an installed copy finds requests
where the tests find it.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from typing import Any, Dict, List, Set, Tuple

import pytest
from packaging.requirements import Requirement

import pdpyras
from tests import wire
from tests.support import ROOT, load_script, read

pytestmark = pytest.mark.oldest

TYPED_CLIENT = """
from typing import Any, Dict, Optional

import pdpyras
import requests
from api_toolkit.connector import APIConnector
from pdpyras_sandbox import Sandbox

session = pdpyras.APISession("any-key", default_from="me@example.com")
session.retry[404] = 5
response: requests.Response = session.get("/users", params={"limit": 1})
for user in session.iter_all("users", page_size=50, total=True):
    print(user["email"])
found: Optional[Dict[str, Any]] = session.find("users", "Jane")
events = pdpyras.EventsAPISession("any-key")
key: str = events.trigger("Disk is full", "db1.example.com")
events.resolve(dedup_key=key)
try:
    session.rget("/users/me")
except pdpyras.PDHTTPError as error:
    print(error.response.status_code, error.msg)
pdpyras.time.sleep(0)
box: Sandbox = Sandbox()
connector = APIConnector(max_retries=2)
limit: float = pdpyras.ITERATION_LIMIT
"""

# Each line is a mistake, unless the types went missing.
MISTAKES = """
import pdpyras
import pdpyras_sandbox
from api_toolkit.connector import APIConnector

pdpyras.APISession(5)
pdpyras.APISession("any-key").no_such_method()
pdpyras.EventsAPISession("any-key").resolve(5)
pdpyras_sandbox.Sandbox().no_such_method()
APIConnector().no_such_method()
"""


def lines(name: str) -> List[str]:
    return [line for line in read(name).split("\n") if line]


# What a fresh clone would not have, and the rebuilt documentation.
NOT_COPIED = shutil.ignore_patterns(
    ".git", "docs", *(line.rstrip("/") for line in lines(".gitignore"))
)


# What the developer set for other things, and `make test` for its own.
FOREIGN = ("PYTHON", "COV_", "MYPY", "GIT_", "MAKE", "MFLAGS", "TWINE_")
OURS = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "PIP_NO_INDEX": "1",
}


def run(*command: str, cwd: str, status: int = 0, **settings: str) -> str:
    """The output of a command, which must end with this status.

    Further arguments are added to its environment.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN)
    }
    environment.update(OURS, **settings)
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: Any) -> str:
    """An empty directory, from which nothing of the project is in sight."""
    return str(tmp_path_factory.mktemp("packaging"))


@pytest.fixture(scope="module")
def tree(work: str) -> str:
    """A copy of the project as a fresh clone has it."""
    pytest.importorskip("setuptools")
    pytest.importorskip("wheel")
    target = os.path.join(work, "tree")
    shutil.copytree(ROOT, target, ignore=NOT_COPIED)
    return target


def build_wheel(source: str, target: str) -> str:
    """The path of the wheel that pip built in ``target``."""
    run(
        sys.executable, "-m", "pip", "wheel", "--no-build-isolation",
        "--no-deps", "--no-index", "--wheel-dir", target, source,
        cwd=os.path.dirname(source),
    )  # fmt: skip
    (name,) = os.listdir(target)
    return os.path.join(target, name)


@pytest.fixture(scope="module")
def wheel(tree: str, work: str) -> str:
    """The path of the wheel."""
    return build_wheel(tree, os.path.join(work, "dist"))


class Environment:
    """A virtual environment which borrows the tests' packages."""

    def __init__(
        self, directory: str, name: str = "venv", with_pip: bool = True
    ) -> None:
        self.work = directory
        where = os.path.join(directory, name)
        venv.create(where, with_pip=with_pip)
        self.python = os.path.join(where, "bin", "python")
        if os.name == "nt":
            self.python = os.path.join(where, "Scripts", "python.exe")
        print_path = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site = run(self.python, "-c", print_path, cwd=directory).strip()
        with open(os.path.join(self.site, "borrowed.pth"), "w") as file:
            file.write(sysconfig.get_path("purelib"))
        self.bare = self.files()

    def run(self, *arguments: str) -> str:
        """The output of this environment's Python."""
        return run(self.python, *arguments, cwd=self.work)

    def install(self, wheel: str) -> None:
        """Install the wheel, unless it already is."""
        if self.files() != self.bare:
            return
        # Whether or not a copy is installed where packages are borrowed.
        self.run(
            "-m", "pip", "install", "--no-index", "--no-deps",
            "--ignore-installed", wheel,
        )  # fmt: skip

    def uninstall(self) -> None:
        self.run("-m", "pip", "uninstall", "--yes", "pdpyras")

    def files(self) -> Set[str]:
        """Everything installed, compiled files aside."""
        return {
            os.path.join(root, name)
            for root, _, names in os.walk(self.site)
            for name in names
            if not name.endswith(".pyc")
        }


@pytest.fixture(scope="module")
def environment(work: str) -> Environment:
    return Environment(work)


@pytest.fixture
def installed(environment: Environment, wheel: str) -> Environment:
    """The environment, in which the wheel is installed."""
    environment.install(wheel)
    return environment


def metadata(wheel: str) -> Dict[str, List[str]]:
    """The fields of the wheel's METADATA."""
    fields: Dict[str, List[str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/METADATA")]
        head = archive.read(name).decode("utf-8").split("\n\n")[0]
    for line in head.splitlines():
        field, _, value = line.partition(": ")
        fields.setdefault(field, []).append(value)
    return fields


def test_the_version_is_written_down_in_one_place(wheel: str) -> None:
    assert metadata(wheel)["Version"] == [pdpyras.__version__]
    for name in ("setup.py", "pyproject.toml", "Makefile", "README.rst"):
        assert pdpyras.__version__ not in read(name), name


def test_the_changelog_begins_with_the_version() -> None:
    headings = re.findall(
        r"^(\d+\.\d+\.\d+) \((\w+)\)$", read("CHANGELOG.rst"), re.M
    )
    # Above the newest version there may be one that is still in the making.
    if headings[0][1] == "unreleased":
        del headings[0]
    assert headings[0][0] == pdpyras.__version__
    assert headings[0][1] != "unreleased"


def test_the_wheel_requires_what_the_requirements_list(wheel: str) -> None:
    required = metadata(wheel)["Requires-Dist"]
    plain = [str(Requirement(text)) for text in required]
    assert sorted(plain) == sorted(map(str, requirements()))
    assert metadata(wheel)["Requires-Python"] == [">=3.6"]


def requirements() -> List[Requirement]:
    """What requirements.txt lists."""
    listed = lines("requirements.txt")
    return [Requirement(line) for line in listed if not line.startswith("#")]


def test_the_requirements_have_floors_and_no_ceilings() -> None:
    for requirement in requirements():
        signs = {part.operator for part in requirement.specifier}
        assert ">=" in signs and signs <= {">=", "!="}, requirement


# Releases that a Python may have, the first of them the floor, and releases
# that it may not.
URLLIB3 = (
    ["1.26.19", "1.26.20", "2.2.2", "2.2.3", "2.3.0", "3.0.0"],
    ["1.26.18", "2.0.0", "2.0.7", "2.1.0", "2.2.0", "2.2.1"],
)
OLD_URLLIB3 = (["1.26.20"], ["1.26.19", "2.0.0", "2.0.7"])
FLOORS = {
    "3.6": {"requests": (["2.27.1"], ["2.27.0"]), "urllib3": OLD_URLLIB3},
    "3.7": {"requests": (["2.31.0"], ["2.30.0"]), "urllib3": OLD_URLLIB3},
    "3.8": {"requests": (["2.32.4"], ["2.32.3"]), "urllib3": URLLIB3},
    "3.14": {"requests": (["2.32.4"], ["2.32.3"]), "urllib3": URLLIB3},
}


@pytest.mark.parametrize("python", sorted(FLOORS))
def test_each_python_has_one_floor_of_each_requirement(python: str) -> None:
    specifiers = {}
    for requirement in requirements():
        marker = requirement.marker
        if marker is None or marker.evaluate({"python_version": python}):
            assert requirement.name not in specifiers
            specifiers[requirement.name] = requirement.specifier
    assert set(specifiers) == {"deprecation", "requests", "urllib3"}
    for name, (admitted, refused) in FLOORS[python].items():
        assert ">=" + admitted[0] in str(specifiers[name])
        assert list(specifiers[name].filter(admitted + refused)) == admitted


def test_the_wheel_holds_nothing_but_the_product(wheel: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
    assert names == {
        "api_toolkit",
        "pdpyras-stubs",
        f"pdpyras-{pdpyras.__version__}.dist-info",
        "pdpyras.py",
        "pdpyras_cli-stubs",
        "pdpyras_cli.py",
        "pdpyras_cli_events-stubs",
        "pdpyras_cli_events.py",
        "pdpyras_cli_options-stubs",
        "pdpyras_cli_options.py",
        "pdpyras_cli_output-stubs",
        "pdpyras_cli_output.py",
        "pdpyras_cli_run-stubs",
        "pdpyras_cli_run.py",
        "pdpyras_cli_session-stubs",
        "pdpyras_cli_session.py",
        "pdpyras_oauth-stubs",
        "pdpyras_oauth.py",
        "pdpyras_outbox-stubs",
        "pdpyras_outbox.py",
        "pdpyras_outbox_store-stubs",
        "pdpyras_outbox_store.py",
        "pdpyras_sandbox-stubs",
        "pdpyras_sandbox.py",
        "pdpyras_tokens-stubs",
        "pdpyras_tokens.py",
        "pdpyras_webhooks-stubs",
        "pdpyras_webhooks.py",
    }


def test_each_module_has_its_stub(wheel: str) -> None:
    cut = load_script("tools", "stubs.py").stub
    with zipfile.ZipFile(wheel) as archive:
        for module in (
            *("pdpyras", "pdpyras_oauth", "pdpyras_outbox"),
            *("pdpyras_cli", "pdpyras_cli_options", "pdpyras_cli_output"),
            *("pdpyras_cli_events", "pdpyras_cli_run", "pdpyras_cli_session"),
            *("pdpyras_outbox_store", "pdpyras_sandbox", "pdpyras_tokens"),
            "pdpyras_webhooks",
        ):
            stub = archive.read(f"{module}-stubs/__init__.pyi").decode("utf-8")
            source = archive.read(f"{module}.py").decode("utf-8")
            assert source == read(f"{module}.py")
            assert stub == cut(os.path.join(ROOT, f"{module}.py"))
            assert len(stub) < len(source) / 2
        assert "api_toolkit/py.typed" in archive.namelist()


def test_an_installed_copy_imports(installed: Environment) -> None:
    names = "pdpyras, pdpyras_oauth, pdpyras_outbox, pdpyras_sandbox, "
    names += "pdpyras_outbox_store, pdpyras_tokens, pdpyras_webhooks, "
    names += "pdpyras_cli, pdpyras_cli_run, "
    names += "api_toolkit.connector"
    where = installed.run(
        "-W", "error", "-c", f"import {names}; print(pdpyras.__file__)"
    )
    assert where.strip() == os.path.join(installed.site, "pdpyras.py")


def test_uninstalling_leaves_nothing(installed: Environment) -> None:
    added = installed.files() - installed.bare
    assert any(path.endswith("__init__.pyi") for path in added)
    installed.run("-c", "import pdpyras, pdpyras_sandbox, api_toolkit")
    installed.uninstall()
    assert installed.files() == installed.bare
    left = [name for name in os.listdir(installed.site) if "pdpyras" in name]
    assert left == []


MYPY = ("mypy", "--strict", "--cache-dir", ".mypy", "--python-executable")
PYRIGHT = ("pyright", "--pythonpath")


@pytest.mark.parametrize("checker", [MYPY, PYRIGHT], ids=lambda c: c[0])
@pytest.mark.parametrize(
    ("text", "mistakes"),
    [(TYPED_CLIENT, []), (MISTAKES, ["6", "7", "8", "9", "10"])],
    ids=["clean", "mistakes"],
)
def test_type_checkers_see_the_types(
    installed: Environment,
    checker: Tuple[str, ...],
    text: str,
    mistakes: List[str],
) -> None:
    pytest.importorskip(checker[0])
    with open(os.path.join(installed.work, "client.py"), "w") as file:
        file.write(text)
    said = run(
        sys.executable, "-m", *checker, installed.python, "client.py",
        cwd=installed.work, status=1 if mistakes else 0,
    )  # fmt: skip
    found = re.findall(r"client\.py:(\d+):(?:\d+ -)? error", said)
    assert found == mistakes, said


def relative_files(top: str) -> Set[str]:
    return {
        os.path.relpath(os.path.join(root, name), top)
        for root, _, names in os.walk(top)
        for name in names
    }


def unpacked_sdist(source: str, target: str) -> str:
    """The directory in ``target`` into which the sdist was unpacked."""
    build = (
        "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"
    )
    os.mkdir(target)
    run(sys.executable, "-c", build, target, cwd=source)
    (name,) = os.listdir(target)
    run(sys.executable, "-m", "tarfile", "-e", name, ".", cwd=target)
    return os.path.join(target, name[: -len(".tar.gz")])


@pytest.fixture(scope="module")
def unpacked(tree: str, work: str) -> str:
    """The directory of the unpacked sdist."""
    # From a copy: building adds files that no clone has.
    source = os.path.join(work, "source")
    shutil.copytree(tree, source, ignore=NOT_COPIED)
    return unpacked_sdist(source, os.path.join(work, "sdist"))


def test_the_sdist_holds_the_whole_project(tree: str, unpacked: str) -> None:
    there = relative_files(unpacked)
    here = {
        path
        for path in relative_files(tree)
        if not path.startswith(("build" + os.sep, "pdpyras.egg-info"))
    }
    assert here - there == set()
    assert os.path.join("tests", "test_packaging.py") in there
    generated = {"PKG-INFO", "setup.cfg"}
    extra = {path for path in there - here if "egg-info" not in path}
    assert extra <= generated


@pytest.fixture
def copy_of_unpacked(unpacked: str, tmp_path: Any) -> str:
    """The unpacked sdist, to build in: building adds files."""
    return str(shutil.copytree(unpacked, str(tmp_path / "copy")))


def test_an_sdist_of_the_sdist_is_the_same(
    unpacked: str, copy_of_unpacked: str, tmp_path: Any
) -> None:
    again = unpacked_sdist(copy_of_unpacked, str(tmp_path / "again"))
    assert relative_files(again) == relative_files(unpacked)


def test_the_wheel_of_the_sdist_is_the_same(
    copy_of_unpacked: str, wheel: str, tmp_path: Any
) -> None:
    dist = str(tmp_path / "dist")
    again = build_wheel(copy_of_unpacked, dist)
    with zipfile.ZipFile(again) as ours, zipfile.ZipFile(wheel) as theirs:
        assert sorted(ours.namelist()) == sorted(theirs.namelist())
    assert metadata(again) == metadata(wheel)


@pytest.fixture
def checkout(tree: str, tmp_path: Any) -> str:
    """A git checkout of the project, in which all is committed."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed here")
    target = str(tmp_path / "checkout")
    shutil.copytree(tree, target, ignore=NOT_COPIED)
    run("git", "init", "--quiet", cwd=target)
    run("git", "add", "--all", cwd=target)
    run(
        "git", "-c", "user.name=Jane", "-c", "user.email=jane@example.com",
        "commit", "--quiet", "--message", "Begin", cwd=target,
    )  # fmt: skip
    return target


def write(text: str, *names: str) -> None:
    with open(os.path.join(*names), "a", encoding="utf-8") as file:
        file.write(text)


STRAYS = (
    (".env",),
    ("secret.txt",),
    ("key.py",),
    ("examples", ".env"),
    ("tests", "x.py"),
    ("tools", "bench", "key.json"),
    ("api_toolkit", "x.py"),
    ("requirements", "secret.txt"),
)


def test_the_sdist_of_a_checkout_holds_what_git_tracks_and_no_strays(
    checkout: str, unpacked: str, tmp_path: Any
) -> None:
    for names in STRAYS:
        write("not-a-real-key", checkout, *names)
    # A file that git tracks, whether or not it is committed.
    write("", checkout, "tests", "new.py")
    run("git", "add", os.path.join("tests", "new.py"), cwd=checkout)
    there = unpacked_sdist(checkout, str(tmp_path / "sdist"))
    new = os.path.join("tests", "new.py")
    assert relative_files(there) == relative_files(unpacked) | {new}
    (info,) = [name for name in os.listdir(there) if "egg-info" in name]
    with open(os.path.join(there, info, "SOURCES.txt")) as file:
        sources = {os.path.normpath(line) for line in file.read().split("\n")}
    assert new in sources
    assert not sources & {os.path.join(*names) for names in STRAYS}
    again = unpacked_sdist(there, str(tmp_path / "again"))
    assert relative_files(again) == relative_files(there)


def test_no_sdist_is_built_of_a_checkout_that_git_cannot_read(
    checkout: str, tmp_path: Any
) -> None:
    os.remove(os.path.join(checkout, ".git", "HEAD"))
    with pytest.raises(AssertionError, match="git does not tell"):
        unpacked_sdist(checkout, str(tmp_path / "sdist"))
    assert os.listdir(str(tmp_path / "sdist")) == []


def change_a_file(checkout: str) -> str:
    write("\n", checkout, "README.rst")
    return "README.rst"


def stage_a_file(checkout: str) -> str:
    run("git", "add", change_a_file(checkout), cwd=checkout)
    return "README.rst"


def add_a_file(checkout: str) -> str:
    # Not even where git was told not to look for strays.
    run("git", "config", "status.showUntrackedFiles", "no", cwd=checkout)
    write("not-a-real-key", checkout, ".env")
    return ".env"


def forget_git(checkout: str) -> str:
    # It lies within another checkout, in which nothing is amiss.
    shutil.rmtree(os.path.join(checkout, ".git"))
    outer = os.path.dirname(checkout)
    write("*\n", outer, ".gitignore")
    run("git", "init", "--quiet", cwd=outer)
    assert run("git", "status", "--porcelain", cwd=checkout) == ""
    return "git checkout, which this is not"


@pytest.fixture
def makes_releases() -> None:
    for name in ("git", "make"):
        if shutil.which(name) is None:
            pytest.skip(name + " is not installed here")


@pytest.mark.once
@pytest.mark.usefixtures("makes_releases")
@pytest.mark.parametrize("target", ["dist", "testpublish", "publish"])
@pytest.mark.parametrize(
    "spoil", [change_a_file, stage_a_file, add_a_file, forget_git]
)
def test_a_release_refuses_what_is_not_committed(
    checkout: str, target: str, spoil: Any
) -> None:
    named = spoil(checkout)
    before = set(os.listdir(checkout))
    said = run("make", target, cwd=checkout, status=2)
    assert "A release is made from" in said and named in said
    assert set(os.listdir(checkout)) == before


@pytest.fixture
def release_environment(checkout: str) -> None:
    """What `make publish` installs for itself, borrowed from the tests."""
    pytest.importorskip("build")
    pytest.importorskip("twine")
    Environment(checkout, ".venv-publish", with_pip=False)
    write("", checkout, ".venv-publish", "installed")


class Index:
    """What a package index answers: to uploads, and to pip.

    The regular one offers an older release below ``/regular``; the trial
    index, below ``/simple``, what was uploaded, or nothing.
    """

    def __init__(self, checkout: str, offers: bool) -> None:
        self.dist = os.path.join(checkout, "dist")
        self.old = io.BytesIO()
        info = "pdpyras-5.0.0.dist-info/"
        with zipfile.ZipFile(self.old, "w") as archive:
            archive.writestr("pdpyras.py", "__version__ = '5.0.0'")
            archive.writestr(
                info + "METADATA",
                "Metadata-Version: 2.1\nName: pdpyras\nVersion: 5.0.0\n",
            )
            archive.writestr(
                info + "WHEEL",
                "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
                "Tag: py3-none-any\n",
            )
            archive.writestr(info + "RECORD", "")
        self.offers = offers

    def __call__(self, request: wire.Request) -> wire.Answer:
        names = {
            "/regular/pdpyras/": ["pdpyras-5.0.0-py3-none-any.whl"],
            "/simple/pdpyras/": os.listdir(self.dist) if self.offers else [],
        }
        if request.path in names:
            page = "".join(
                f'<a href="/files/{name}">{name}</a>'
                for name in names[request.path]
            )
            html = {"Content-Type": "text/html"}
            return wire.Answer(200, body=page.encode(), headers=html)
        if not request.path.startswith("/files/"):
            return wire.Answer(200)
        name = request.path.split("/")[-1]
        if "5.0.0" in name:
            return wire.Answer(200, body=self.old.getvalue())
        with open(os.path.join(self.dist, name), "rb") as file:
            return wire.Answer(200, body=file.read())


def borrowed_requirements(directory: str) -> str:
    """A directory in which the tests' requests is installed, and no more."""
    from importlib.metadata import distribution

    os.mkdir(directory)
    for name in (
        "certifi", "charset_normalizer", "deprecation", "idna", "packaging",
        "requests", "urllib3",
    ):  # fmt: skip
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            os.symlink(
                str(distribution(name).locate_file(top)),
                os.path.join(directory, top),
            )
    return directory


def release(
    target: str, checkout: str, server: wire.Server, status: int = 0
) -> Tuple[List[Tuple[str, bytes]], List[wire.Request], str]:
    """Run this target: what was built, the uploads, and what was printed."""
    index = {"publish": "pypi", "testpublish": "testpypi"}[target]
    write(
        f"[distutils]\nindex-servers = {index}\n[{index}]\n"
        f"repository = {server.url}/legacy/\n"
        "username = jane\npassword = not-a-real-key\n",
        os.environ["HOME"], ".pypirc",
    )  # fmt: skip
    said = run(
        "make", target, cwd=checkout, status=status,
        PIP_NO_INDEX="0", PIP_INDEX_URL=server.url + "/regular/",
        PYTHONPATH=borrowed_requirements(checkout + "-borrowed"),
    )  # fmt: skip
    built = []
    for name in os.listdir(os.path.join(checkout, "dist")):
        with open(os.path.join(checkout, "dist", name), "rb") as file:
            built.append((name, file.read()))
    uploads = [r for r in server.requests if r.method == "POST"]
    return built, uploads, said


@pytest.mark.once
@pytest.mark.usefixtures("makes_releases", "release_environment")
@pytest.mark.parametrize("target", ["publish", "testpublish"])
def test_a_release_is_uploaded_as_it_was_built(
    checkout: str, server: wire.Server, target: str
) -> None:
    server.handler = Index(checkout, offers=True)
    built, uploads, said = release(target, checkout, server)
    assert len(built) == len(uploads) == 2
    for name, content in built:
        assert any(
            name.encode() in upload.body and content in upload.body
            for upload in uploads
        )
    trial = [line for line in said.split("\n") if "installs and imp" in line]
    assert [line.split()[0] for line in trial] == (
        ["empty", "upgraded"] if target == "testpublish" else []
    )
    got = [r.path for r in server.requests if r.path.startswith("/files/")]
    old, new = "/files/pdpyras-5.0.0", f"/files/pdpyras-{pdpyras.__version__}"
    assert [path.split("-py3")[0] for path in got] == (
        [new, old, new] if target == "testpublish" else []
    )


@pytest.mark.once
@pytest.mark.usefixtures("makes_releases", "release_environment")
def test_a_rehearsal_fails_if_the_release_cannot_be_installed(
    checkout: str, server: wire.Server
) -> None:
    path = os.path.join(checkout, "tools", "trial.py")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace("ATTEMPTS = 6", "ATTEMPTS = 1"))
    run(
        "git", "-c", "user.name=Jane", "-c", "user.email=jane@example.com",
        "commit", "--quiet", "--all", "--message", "Give up", cwd=checkout,
    )  # fmt: skip
    server.handler = Index(checkout, offers=False)
    _, uploads, said = release("testpublish", checkout, server, status=2)
    assert len(uploads) == 2
    assert "The trial failed" in said


@pytest.mark.once
def test_the_tools_of_a_release_are_pinned() -> None:
    pinned = [
        Requirement(line)
        for line in lines(os.path.join("requirements", "publish.txt"))
        if not line.startswith("#")
    ]
    assert {one.name for one in pinned} >= {"build", "twine"}
    for one in pinned:
        assert [part.operator for part in one.specifier] == ["=="]
    # The documents tell maintainers to install this file.
    assert "-r requirements/publish.txt" in lines("requirements-publish.txt")


@pytest.mark.once
def test_the_suite_can_be_collected_from_the_sdist(unpacked: str) -> None:
    command = ("pytest", "--collect-only", "-q", "--assert=plain")
    run(sys.executable, "-m", *command, cwd=unpacked)


def readme_sample() -> str:
    """The first Python sample of README.rst."""
    after = read("README.rst").split(".. code-block:: python\n", 1)[1]
    lines = []
    for line in after.split("\n"):
        if line and not line.startswith("    "):
            break
        lines.append(line[4:])
    return "\n".join(lines)


def test_the_readme_holds_for_an_installed_copy(
    installed: Environment,
) -> None:
    printed = installed.run("-W", "error", "-c", readme_sample())
    assert "jane@example.com" in printed


def test_the_readme_passes_the_registry_s_check(wheel: str) -> None:
    pytest.importorskip("twine")
    run(
        sys.executable, "-m", "twine", "check", "--strict", wheel,
        cwd=os.path.dirname(wheel),
    )  # fmt: skip
