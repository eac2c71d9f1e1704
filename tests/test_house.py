"""The tests are in order: one name, one test."""

import ast
import collections
import glob
import os

from tests.support import ROOT

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


def test_no_test_name_exists_twice():
    places = collections.defaultdict(list)
    for file in FILES:
        for name in names_of_tests(file):
            places[name].append(os.path.relpath(file, ROOT))
    assert len(places) > 800
    twice = {name: files for name, files in places.items() if len(files) > 1}
    assert twice == {}
