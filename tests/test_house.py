"""The house is in order: the module can be read from the top, and found in.

Sections, their sizes and their order, names before
their use, and private names of other libraries in one place. And of the tests:
one name, one test.
"""

import ast
import collections
import glob
import http.client
import os
import re
import subprocess
import sys

import pytest
import requests
import urllib3

import pdpyras
from tests import wire
from tests.support import REEXPORTED, ROOT, read

pytestmark = pytest.mark.oldest

FILES = sorted(
    glob.glob(os.path.join(ROOT, "test_*.py"))
    + glob.glob(os.path.join(ROOT, "tests", "**", "*.py"), recursive=True)
)


def names_of_tests(file):
    """The names of the tests of a file, as often as they are defined."""
    with open(file, encoding="utf-8") as stream:
        tree = ast.parse(stream.read())
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


@pytest.mark.once
def test_no_test_name_exists_twice():
    places = collections.defaultdict(list)
    for file in FILES:
        for name in names_of_tests(file):
            places[name].append(os.path.relpath(file, ROOT))
    assert len(places) > 800
    twice = {name: files for name, files in places.items() if len(files) > 1}
    assert twice == {}


# -- The module ---------------------------------------------------------------

MODULE = os.path.join(ROOT, "pdpyras.py")
SOURCE = read("pdpyras.py")
LINES = SOURCE.split("\n")
TREE = ast.parse(SOURCE)
MAX_SECTION = 700  # lines
MAX_FUNCTION = 60  # lines
MAX_DISTANCE = 150  # lines that a name may be used above its definition
MAX_SECTION_CHANGES = 25  # of one rget


def sections():
    """The first line of each section, and its heading."""
    rule = re.compile("# -{70,}")
    for number, line in enumerate(LINES[1:-1], 1):
        ruled = rule.match(LINES[number - 1]) and rule.match(LINES[number + 1])
        if ruled and re.match(r"# \S", line):
            yield number, line[2:]


def section_of(line):
    """The heading above a line."""
    return [name for first, name in [(0, "")] + SECTIONS if first <= line][-1]


SECTIONS = list(sections())


def definitions():
    """The line of each definition at the top level, by its name."""
    found = {}
    for node in TREE.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node.lineno
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        for target in filter(None, targets):
            for child in ast.walk(target):
                if isinstance(child, ast.Name):
                    found.setdefault(child.id, child.lineno)
    return found


def test_the_headings_tell_the_story():
    names = [name for _, name in SECTIONS]
    story = [
        *("Settings", "Secrets", "Exceptions", "Endpoints", "URLs"),
        *("Query parameters", "Headers", "Entity wrapping", "Responses"),
        *("Decorators", "Retrying", "Rate limit", "Pagination"),
        *("Reading ahead", "Connections", "Transport", "PDSession"),
        *("APISession", "Events", "Names kept for 4.x scripts"),
    ]
    assert [name for name in names if name in story] == story


def test_no_section_is_too_long():
    ends = [first for first, _ in SECTIONS[1:]] + [len(LINES)]
    sizes = {name: end - first for (first, name), end in zip(SECTIONS, ends)}
    assert len(sizes) >= 20
    assert {n: s for n, s in sizes.items() if s > MAX_SECTION} == {}


def last_line(node):
    return max(getattr(n, "lineno", 0) for n in ast.walk(node))


def test_no_function_is_too_long():
    sizes = {
        node.name: last_line(node) - node.lineno + 1
        for node in ast.walk(TREE)
        if isinstance(node, ast.FunctionDef)
    }
    assert len(sizes) > 250
    assert {n: s for n, s in sizes.items() if s > MAX_FUNCTION} == {}


def test_a_reader_meets_no_name_long_before_its_definition():
    defined = definitions()
    early = {
        (node.id, section_of(node.lineno))
        for node in ast.walk(TREE)
        if isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Load)
        and defined.get(node.id, 0) - node.lineno > MAX_DISTANCE
    }
    assert len(defined) > 200
    assert early == set()


def annotations_that_an_import_evaluates(node):
    """Those of functions, classes and the module; what they compute is kept.

    Not of a NamedTuple, which needs them.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            arguments = child.args
            for one in [
                *(arguments.args + arguments.kwonlyargs),
                *(arguments.vararg, arguments.kwarg),
            ]:
                if one is not None and one.annotation is not None:
                    yield one.annotation
            if child.returns is not None:
                yield child.returns
        elif isinstance(child, ast.If):
            if getattr(child.test, "id", "") != "TYPE_CHECKING":
                yield from annotations_that_an_import_evaluates(child)
        elif isinstance(child, ast.AnnAssign):
            yield child.annotation
        elif "NamedTuple" not in [
            getattr(base, "id", "") for base in getattr(child, "bases", ())
        ]:
            yield from annotations_that_an_import_evaluates(child)


@pytest.mark.once
def test_an_import_composes_no_types_for_annotations():
    # Together they took a seventh of it.
    found = list(annotations_that_an_import_evaluates(TREE))
    assert len(found) > 1000
    composed = [
        each
        for each in found
        if isinstance(each, ast.Subscript)
        # It stands for Any in all but type checkers.
        and getattr(each.value, "id", "") != "Unpack"
    ]
    assert [each.lineno for each in composed] == []


@pytest.mark.once
def test_an_import_loads_nothing_that_requests_has_not_loaded():
    # The enumerations of ``signal`` alone took a tenth of it.
    code = (
        "import sys, requests; before = set(sys.modules); import pdpyras; "
        "print(sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.check_output(
        [sys.executable, "-c", code], cwd=ROOT, universal_newlines=True
    )
    assert loaded.strip() == "['pdpyras']"


def test_all_names_what_is_public_and_nothing_else():
    public = {name for name in definitions() if not name.startswith("_")}
    exported = set(pdpyras.__all__)
    assert exported - public == REEXPORTED
    assert public - exported - {"__version__"} == set()


@pytest.mark.parametrize(
    "name",
    [
        *("PDSession", "APISession", "EventsAPISession"),
        "ChangeEventsAPISession",
    ],
)
def test_every_setting_travels_with_a_pickled_session(name):
    """A setting is a public attribute that the class annotates."""
    kind = getattr(pdpyras, name)
    settings = {
        setting
        for parent in kind.__mro__
        if parent.__module__ == "pdpyras"
        for setting in vars(parent).get("__annotations__", {})
        if not setting.startswith("_")
    }
    assert len(settings) > 10
    assert settings - set(kind.__attrs__) == set()


def test_one_rget_goes_straight_through_the_sections(server, session):
    server.handler = lambda request: wire.Answer(json={"user": {"id": "P1"}})
    for _ in range(3):
        session.rget("/users/P1")
    called = []

    def note(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_filename == pdpyras.__file__:
            is_function = code.co_name[0] != "<"  # Before 3.12 there are more.
            if is_function:
                called.append((section_of(code.co_firstlineno), code.co_name))

    sys.setprofile(note)
    try:
        session.rget("/users/P1")
    finally:
        sys.setprofile(None)
    changes = sum(a != b for (a, _), (b, _) in zip(called, called[1:]))
    urls = [name for name in called if name == ("URLs", "normalize_url")]
    assert len(called) > 50
    assert changes <= MAX_SECTION_CHANGES
    assert len(urls) == 1


# -- Private names of other libraries -----------------------------------------


@pytest.mark.parametrize(
    "owner, name",
    [
        (requests.PreparedRequest, "_encode_params"),
        (requests.PreparedRequest(), "_cookies"),
        (requests.PreparedRequest(), "_body_position"),
        (urllib3.HTTPResponse(b""), "_original_response"),
        (urllib3.HTTPResponse(b""), "_decoder"),
        (urllib3.HTTPResponse(b""), "_init_decoder"),
        (urllib3.response.GzipDecoder(), "_obj"),
        (urllib3.response.GzipDecoder(), "_state"),
        (urllib3.HTTPConnectionPool, "_get_conn"),
        (urllib3.connection.HTTPConnection, "_new_conn"),
        (http.client, "_MAXHEADERS"),
        (http.client, "_MAXLINE"),
        (http.client.HTTPResponse, "_check_close"),
        (http.client.HTTPResponse, "_read_status"),
        (http.client.HTTPResponse, "_safe_read"),
        (http.client.HTTPConnection, "_tunnel"),
        (os.environ, "_data"),
    ],
)
def test_private_names_of_others_are_still_there(owner, name):
    """Each has a fallback; but what rests on it would be lost in silence."""
    assert hasattr(owner, name)


def test_private_names_of_others_stand_in_the_transport():
    theirs = re.compile(
        r"\.(_encode_params|_cookies|_body_position|_original_response"
        r"|_decoder|_decoders|_init_decoder|_get_conn|_new_conn|_safe_read"
        r"|_store|_tunnel|_check_close|_read_status)\b"
    )
    places = {
        section_of(number)
        for number, line in enumerate(LINES, 1)
        if theirs.search(line.partition("#")[0])
    }
    assert places <= {"Answers", "Connections", "Transport"}
