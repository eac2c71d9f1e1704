"""The stubs of the modules, which tools/stubs.py cuts from their sources."""

import ast
import importlib
import inspect
import os
import pathlib
import sys
from typing import Any, Dict, Iterator, List, Union

import pytest

import pdpyras
import pdpyras_oauth
import pdpyras_sandbox
from tests.support import KEY, ROOT, load_script
from tests.test_packaging import run

pytestmark = pytest.mark.oldest

tool = load_script("tools", "stubs.py")

MODULES = {
    path.stem: importlib.import_module(path.stem)
    for path in sorted(pathlib.Path(ROOT).glob("pdpyras*.py"))
}
#: Those that export anything: the others are parts of ours.
PUBLIC = [name for name in MODULES if MODULES[name].__all__]
STUBS = {name: tool.stub(os.path.join(ROOT, name + ".py")) for name in MODULES}
Definition = Union[ast.ClassDef, ast.FunctionDef]


def members(name: str) -> Dict[str, List[str]]:
    """The names that each class of a stub has, those of its bases too."""
    classes: Dict[str, List[str]] = {}
    for node in ast.parse(STUBS[name]).body:
        if isinstance(node, ast.ClassDef):
            bases = [getattr(base, "id", "") for base in node.bases]
            classes[node.name] = [
                *(n for base in bases for n in classes.get(base, [])),
                *(n for child in node.body for n in bound(child)),
            ]
    return classes


def bound(node: Any) -> List[str]:
    """The names that a statement defines."""
    if hasattr(node, "name"):
        return [node.name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [target.id for target in targets if isinstance(target, ast.Name)]


def public_classes(module: Any) -> Iterator[Any]:
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) and value.__module__ == module.__name__:
            yield value


@pytest.mark.parametrize("name", MODULES)
def test_a_stub_has_every_public_name(name: str) -> None:
    tree = ast.parse(STUBS[name])
    there = {n for node in tree.body for n in bound(node)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            there.update(alias.name for alias in node.names)
    assert set(MODULES[name].__all__) <= there


@pytest.mark.parametrize("name", MODULES)
def test_a_stub_has_every_public_member(name: str) -> None:
    there = members(name)
    for kind in public_classes(MODULES[name]):
        own = {n for n in vars(kind) if not n.startswith("_")}
        if issubclass(kind, tuple):
            own -= {"count", "index"}
        assert own <= set(there[kind.__name__]), kind


def instances() -> Iterator[Any]:
    yield pdpyras.APISession(KEY)
    with pytest.raises(ValueError) as caught:
        pdpyras.EventsAPISession(KEY).send_event("shout")
    yield caught.value
    response = pdpyras.Response()
    yield pdpyras.PDRateLimitError("Too many", response, 5)
    yield pdpyras_oauth.OAuthApp("id", "secret")
    yield pdpyras_sandbox.Sandbox()
    yield pdpyras_sandbox.Request("GET", "/", {}, b"")


def test_a_stub_has_what_only_methods_set() -> None:
    """Attributes that no class mentions, but instances have."""
    for instance in instances():
        kind = type(instance)
        there = set(members(kind.__module__)[kind.__name__])
        inherited = set(vars(pdpyras.requests.Session()))
        own = {n for n in vars(instance) if not n.startswith("_")}
        assert own
        assert own - inherited - there == set(), kind


def definitions(name: str) -> Dict[str, List[Definition]]:
    """The functions and classes of a stub, by their qualified names."""
    found: Dict[str, List[Definition]] = {}
    for node in ast.parse(STUBS[name]).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.setdefault(node.name, []).append(node)
        for child in getattr(node, "body", ()):
            if isinstance(child, ast.FunctionDef):
                qualified = f"{getattr(node, 'name', '')}.{child.name}"
                found.setdefault(qualified, []).append(child)
    return found


def described(module: Any) -> Iterator[Any]:
    """What of a module has a name and a docstring."""
    for kind in public_classes(module):
        yield kind
        for name, value in vars(kind).items():
            value = getattr(value, "fget", value)
            if inspect.isfunction(value) and not name.startswith("_"):
                yield value
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value) and value.__module__ == module.__name__:
            yield value


@pytest.mark.parametrize("name", PUBLIC)
def test_editors_show_the_docstrings(name: str) -> None:
    there = definitions(name)
    count = 0
    for thing in described(MODULES[name]):
        if not thing.__doc__ or thing.__doc__.startswith(thing.__name__ + "("):
            continue  # Python's own, of a named tuple.
        shown = ast.get_docstring(there[thing.__qualname__][0])
        words, whole = str(shown).split(), str(thing.__doc__).split()
        # What marks a deprecated method adds to its docstring.
        assert words == whole[: len(words)], thing
        count += 1
    exported = [getattr(MODULES[name], n) for n in MODULES[name].__all__]
    assert count >= max(1, sum(map(callable, exported)) // 2)


VARIABLE = (
    inspect.Parameter.VAR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)


def arguments(node: ast.FunctionDef) -> List[str]:
    given = [*node.args.args, *node.args.kwonlyargs]
    return [argument.arg for argument in given]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_stub_has_the_signatures(name: str) -> None:
    there = definitions(name)
    checked = 0
    for function in filter(inspect.isfunction, described(MODULES[name])):
        node = there[function.__qualname__][0]
        assert isinstance(node, ast.FunctionDef)
        parameters = inspect.signature(function).parameters.values()
        names = [p.name for p in parameters if p.kind not in VARIABLE]
        found = arguments(node)
        if len(names) < len(parameters) and node.args.kwarg is None:
            assert len(found) > len(names)  # They are spelled out.
            del found[len(names) :]
        assert found == names, function
        checked += 1
    assert checked


def test_no_stub_has_a_body() -> None:
    for stub in STUBS.values():
        for node in ast.walk(ast.parse(stub)):
            if isinstance(node, ast.FunctionDef):
                (only,) = node.body
                assert isinstance(only, ast.Expr)


OPTIONS = {"params", "json", "headers", "timeout", "deadline"}


@pytest.mark.parametrize(
    "method",
    [
        *("get", "post", "put", "patch", "delete", "request"),
        *("jget", "jpost", "jput", "jpatch"),
        *("rget", "rpost", "rput", "rpatch", "rdelete"),
    ],
)
def test_keyword_arguments_are_spelled_out(method: str) -> None:
    kind = "PDSession" if method in vars(pdpyras.PDSession) else "APISession"
    node = definitions("pdpyras")[f"{kind}.{method}"][0]
    assert isinstance(node, ast.FunctionDef)
    assert set(arguments(node)) >= OPTIONS
    assert node.args.kwarg is None


# ---------------------------------------------------------------------------
# The tool
# ---------------------------------------------------------------------------

SOURCE = '''
"""A module."""

import os, sys
from typing import (  # Some are not needed.
    Any,
    Dict,
    List,
    TYPE_CHECKING,
)

try:
    from json import loads as decode
except ImportError:
    from simplejson import loads as decode

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    class _Base(TypedDict, total=False):
        first: int

    class _More(_Base, total=False):
        second: "Dict[str, _Deep]"

else:
    _More, Unpack = Any, {Any: Any}

_Deep = List[int]
_hidden = sys.path
#: Seconds to wait,
#: at most.
LIMIT: float = max(1, 2)
SIZE = 5  # Bytes.
parse = decode


class _Parent:
    """Nobody's business."""

    def inherited(self) -> int:
        self.old = 1
        return self.old


class Child(_Parent):
    """A child."""

    #: How many.
    count: int = 3
    names: Dict[str, Any] = {"a": 1}
    _secret = 5

    if not TYPE_CHECKING:
        def __setattr__(self, name, value):
            super().__setattr__(name, value)

    def __init__(self, text: str, *more: int) -> None:
        self.text = text
        self.old = 2
        self._inner, self.flag = None, True  # type: bool
        self.flag: bool
        if more:
            self.many: List[int] = list(more)

    @property
    @staticmethod
    def both(
        a: int = len("x:"), **kwargs: Unpack[_More]
    ) -> Dict[str, "Any"]:
        """Two
        lines."""
        return {"a": lambda: a}

    def ignored(self, *, last: int, **kwargs: Unpack[_More]):  # type: ignore
        def nested() -> None: ...
        return nested

    async def later(self) -> None: pass


def _unused() -> None:
    LIMIT += 1
'''

STUB = '''"""A module."""
from typing import Any, Dict, List
from json import loads as decode
_Deep = List[int]
LIMIT: float
"""Seconds to wait,
at most."""
SIZE = 5
parse = decode

class _Parent:

    def inherited(self) -> int: ...
    old: int

class Child(_Parent):
    """A child."""
    count: int = 3
    """How many."""
    names: Dict[str, Any] = ...

    def __init__(self, text: str, *more: int) -> None: ...

    @property
    @staticmethod
    def both(
        a: int = len("x:"), *,
        second: "Dict[str, _Deep]" = ...,
        first: int = ...
    ) -> Dict[str, "Any"]:
        """Two
        lines."""

    def ignored(self, *, last: int, second: "Dict[str, _Deep]" = ...,
        first: int = ...): ...  # type: ignore

    async def later(self) -> None: ...
    text: str
    flag: bool
    many: List[int]
'''


def test_a_stub_is_cut_from_all_kinds_of_statements() -> None:
    assert tool.Stub(SOURCE).text() == STUB


@pytest.mark.parametrize(
    "line", ["self.a = print()", "self.a, b = c", "self.b = self.a = {}"]
)
def test_a_type_that_nobody_knows_is_refused(line: str, tmp_path: Any) -> None:
    """A build that left it out would hide it from every checker."""
    path = tmp_path / "broken.py"
    path.write_text(f"class A:\n    def __init__(self):\n        {line}\n")
    with pytest.raises(tool.StubError, match=r"broken.py: A\.\w has no annot"):
        tool.stub(str(path))


@pytest.mark.once
def test_mypy_finds_no_fault_with_the_stubs(tmp_path: Any) -> None:
    pytest.importorskip("mypy")
    for name, stub in STUBS.items():
        (tmp_path / f"{name}.pyi").write_text(stub, encoding="utf-8")
    run(
        *(sys.executable, "-m", "mypy", "--strict", "--cache-dir", ".mypy"),
        *(f"{name}.pyi" for name in STUBS),
        cwd=str(tmp_path),
    )
