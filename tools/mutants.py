"""Change the code in small ways, and see whether a test fails for each.

Usage: python tools/mutants.py [SECTION ...] [--sample N] [--seed S]
                               [--all] [--work DIRECTORY]

A mutant is pdpyras.py with one change: another operator, number or text, a
call left out. It is killed if a test fails with it, and survives otherwise;
then either the change makes no difference to users, or a test is missing. The
survivors are printed with what was changed, and the numbers of each section.

SECTION       a heading of pdpyras.py (otherwise: all that are listed here)
--sample N    try so many mutants of each section, spread over it by chance
--seed S      of that chance, and of which change of a kind is tried
--all         every change; otherwise one of each kind in each place, as
              < for == and not >, >=, <= and !=, too
--work DIR    keep there what a later call need not do again: which test
              covers which line, and the mutants that were tried

Runs on copies of the tree. cosmic-ray makes the changes, with a few kinds of
our own. Of the tests only those run that cover the changed line, the fastest
first, so that a mutant takes a second or two and not minutes; the tests come
from a list of files that are fast and about the client. Needs fork, and the
requirements of requirements/mutants.txt.
"""

import argparse
import ast
import collections
import difflib
import gc
import hashlib
import inspect
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
import warnings
import xml.etree.ElementTree
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Set, Tuple

import _pytest.main
import coverage
import parso.python.tree as parso_tree
import parso.tree
import pytest
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODULE = "pdpyras.py"
#: The test files that concern a section. They decide on what runs when the
#: module is imported, which no test covers more than another.
SECTIONS = {
    "Secrets": ("secrets", "told"),
    "Deadlines": ("deadline",),
    "Retrying": ("retry", "sent_again", "writes", "network"),
    "Rate limit": ("limits", "retry", "concurrency"),
    "Pagination": ("pagination",),
    "Events that fit": ("fitting",),
    "Events": ("events", "guard", "fitting", "settings"),
}
OTHERS = (
    *("answers", "bulk", "families", "helpful", "history", "prefetch"),
    *("oauth", "outbox", "seeds", "sessions", "trust"),
)
MAX_TIME = 30  # seconds that the tests of one mutant may take, as measured
GRACE = 20  # seconds that they may take beyond that
FEW = 20  # tests of a line, to which those of the section are added
Place = Tuple[int, int]


class Mutant(NamedTuple):
    """One change: of which section, by what, from which line to which.

    The text is that of the section.
    """

    section: str
    operator: str
    first: int
    last: int
    text: str

    @property
    def key(self) -> str:
        """The same as long as the change is."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return f"{self.section} {self.operator} {digest}"


# -- Kinds of changes that cosmic-ray does not have ---------------------------


class _OwnOperator(Operator):  # type: ignore[misc]
    """Changes a leaf or replaces a node by another text."""

    @classmethod
    def examples(cls) -> Tuple[Any, ...]:
        return ()

    def replacement(self, node: Any) -> Any:
        """What is to stand in the place of a node; None: not this one."""

    def mutation_positions(self, node: Any) -> Iterator[Tuple[Place, Place]]:
        if self.replacement(node) is not None:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        prefix = node.get_first_leaf().prefix
        return parso_tree.Name(
            self.replacement(node), node.start_pos, prefix=prefix
        )


class ChangeText(_OwnOperator):
    """Another name, key, method or pattern; not the words of a message."""

    def replacement(self, node: Any) -> Any:
        if node.type != "string" or node.parent.type == "simple_stmt":
            return None
        words = re.fullmatch(r"(\w*)(['\"])([^\s'\"]+)\2", node.value)
        return words and f"{words[1]}{words[2]}XX{words[3]}XX{words[2]}"


class RemoveStatement(_OwnOperator):
    """A call whose value is not used, or an exception, is left out."""

    def replacement(self, node: Any) -> Any:
        if node.parent is None or node.parent.type != "simple_stmt":
            return None
        is_call = node.type == "atom_expr"
        is_update = (
            node.type == "expr_stmt"
            and node.children[1].type == "operator"
            and node.children[1].value != "="
        )
        return "pass" if is_call or is_update or self._raises(node) else None

    @staticmethod
    def _raises(node: Any) -> bool:
        return node.type == "raise_stmt" and len(node.children) > 1


class ReturnNone(_OwnOperator):
    """A function returns None."""

    def replacement(self, node: Any) -> Any:
        if node.type != "return_stmt":
            return None
        return None if node.children[1:2] == [] else "return None"


class NoneForArgument(_OwnOperator):
    """A keyword argument is None."""

    def replacement(self, node: Any) -> Any:
        if node.type != "argument" or node.children[1] != "=":
            return None
        if node.children[2].get_code().strip() == "None":
            return None
        return f"{node.children[0].value}=None"


OWN = (ChangeText, RemoveStatement, ReturnNone, NoneForArgument)
#: Some need to be told of variables; of others any test would tell.
_LEFT_OUT = re.compile(
    "Variable|Binary.*_(LShift|RShift|Bit|Pow|Mod|FloorDiv)"
    "|Comparison.*(?<!_Is)(?<!_IsNot)_(Is|IsNot)$"
)


def operators() -> Iterator[Tuple[str, Any]]:
    """All kinds of changes by their names."""
    provider = OperatorProvider()
    for name in provider:
        if not _LEFT_OUT.search(name):
            yield name, provider[name]()
    for kind in OWN:
        yield kind.__name__, kind()


# -- The mutants --------------------------------------------------------------


def sections(source: str) -> Dict[str, Tuple[int, int]]:
    """The line after each ruled heading, and the line of the next one."""
    lines = source.split("\n")
    rule = re.compile("# -{70,}$")
    starts = [
        (number + 2, lines[number][2:])
        for number in range(1, len(lines) - 1)
        if rule.match(lines[number - 1]) and rule.match(lines[number + 1])
    ]
    ends = [start - 3 for start, _ in starts[1:]] + [len(lines)]
    return {name: (start, end) for (start, name), end in zip(starts, ends)}


def nodes(node: Any) -> Iterator[Any]:
    """A node, and all below it, in the order in which cosmic-ray goes."""
    yield node
    if isinstance(node, parso.tree.BaseNode):
        for child in node.children:
            yield from nodes(child)


def mutants(
    source: str, section: str, wants_all: bool, count: int
) -> Tuple[int, List[Mutant]]:
    """How many mutants a section has, and so many of them, spread evenly.

    Of each kind one in each place, or all.
    """
    start, end = sections(source)[section]
    text = "\n".join(source.split("\n")[start:end]) + "\n"
    tree = parso.parse(text)
    places: Dict[Any, List[Tuple[str, Any, int]]] = {}
    for name, operator in operators():
        occurrence = 0
        for node in nodes(tree):
            for first, last in operator.mutation_positions(node):
                kind = name if wants_all else name.split("_")[0]
                found = places.setdefault((first, last, kind), [])
                found.append((name, operator, occurrence))
                occurrence += 1
    made = []
    for place in sample(sorted(places), count):
        (first, _), (last, _), _ = place
        name, operator, occurrence = random.choice(places[place])
        changed = mutate_code(text, operator, occurrence)
        if changed != text and _compiles(changed):
            at = (start + first, start + last)
            made.append(Mutant(section, name, *at, changed))
    return len(places), made


def _compiles(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            compile(code, MODULE, "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def sample(things: List[Any], count: int) -> List[Any]:
    """So many of them, one by chance of each stretch of equal length."""
    if not count or count >= len(things):
        return things
    step = len(things) / count
    return [
        random.choice(things[int(i * step) : int((i + 1) * step)])
        for i in range(count)
    ]


def with_mutant(source: str, mutant: Mutant) -> str:
    """The module with the change."""
    start, end = sections(source)[mutant.section]
    lines = source.split("\n")
    parts = (lines[:start], mutant.text[:-1].split("\n"), lines[end:])
    return "\n".join(line for part in parts for line in part)


def difference(source: str, mutant: Mutant) -> str:
    """What was changed, in the form of a unified diff."""
    start, end = sections(source)[mutant.section]
    old = source.split("\n")[start:end]
    new = mutant.text[:-1].split("\n")
    lines = difflib.unified_diff(old, new, lineterm="", n=0)
    changed = "\n".join(list(lines)[3:])
    return f"line {mutant.first}\n{changed}"


# -- Which tests cover a line -------------------------------------------------


def files_of(names: Iterable[str]) -> List[str]:
    """The paths of test files."""
    return [f"tests/test_{name}.py" for name in names]


FILES = (
    "test_pdpyras.py",
    *files_of(sorted({n for names in SECTIONS.values() for n in names})),
    *files_of(OTHERS),
)


class Coverage:
    """Which tests run a line, and how long each takes.

    :param directory: where that is kept, or is to be
    """

    def __init__(self, directory: str, tree: str) -> None:
        self._data = os.path.join(directory, "coverage")
        self._times = os.path.join(directory, "times.xml")
        if not os.path.exists(self._times):
            self._measure(tree)
        self.seconds = dict(self._read_times())
        self._syntax = ast.parse(read(os.path.join(tree, MODULE)))
        data = coverage.CoverageData(self._data)
        data.read()
        (file,) = [
            name
            for name in data.measured_files()
            if os.path.basename(name) == MODULE
        ]
        self._tests = {
            line: {context.partition("|")[0] for context in contexts}
            for line, contexts in data.contexts_by_lineno(file).items()
        }

    def _measure(self, tree: str) -> None:
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", *FILES),
                *("--cov=pdpyras", "--cov-context=test", "--cov-report="),
                *("--cov-fail-under=0", f"--junitxml={self._times}"),
            ],
            cwd=tree,
            env={**os.environ, "COVERAGE_FILE": self._data},
        )

    def _read_times(self) -> Iterator[Tuple[str, float]]:
        for case in xml.etree.ElementTree.parse(self._times).iter("testcase"):
            if not list(case):  # It has passed, and was not skipped.
                path = case.attrib["classname"].replace(".", "/")
                test = f"{path}.py::{case.attrib['name']}"
                yield test, float(case.attrib["time"])

    def tests(self, mutant: Mutant, spans: Dict[int, Place]) -> List[str]:
        """The tests for a mutant, the most promising first.

        These are fast, run lines of the function that few others do, or
        stand in a file about the section.
        """
        lines = set(range(mutant.first, mutant.last + 1))
        for line in (mutant.first, mutant.last):
            first, last = spans.get(line, (line, line))
            lines |= set(range(first, last + 1))
        files = files_of(SECTIONS[mutant.section])
        found = self._tests_of(lines)
        if len(found) < FEW:
            # It runs at the import, or once: a cache is between.
            found |= {t for t in self.seconds if t.split("::")[0] in files}
        rarity = dict.fromkeys(found, len(self.seconds))
        for line in range(*function_around(self._syntax, mutant.first)):
            others = self._tests_of([line])
            for test in others & found:
                rarity[test] = min(rarity[test], len(others))

        def cost(test: str) -> float:
            strange = 1 if test.split("::")[0] in files else 4
            special = math.sqrt(rarity[test])
            return strange * special * (0.01 + self.seconds[test])

        chosen, spent = [], 0.0
        for test in sorted(found, key=cost):
            spent += self.seconds[test]
            if spent < MAX_TIME:
                chosen.append(test)
        return chosen

    def _tests_of(self, lines: Iterable[int]) -> Set[str]:
        found = {test for n in lines for test in self._tests.get(n, ())}
        return found & set(self.seconds)


def function_around(tree: ast.Module, line: int) -> Tuple[int, int]:
    """The first line of the function around a line, and that behind it.

    Of functions in functions the outer one; 0 and 0 for what is in none.
    """
    pending: List[Any] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ClassDef):
            pending += node.body
        elif isinstance(node, ast.FunctionDef):
            end = getattr(node, "end_lineno", node.lineno)
            first: Any = (*node.decorator_list, node)[0]
            if first.lineno <= line <= end:
                return first.lineno, end + 1
    return 0, 0


def body_around(tree: ast.Module, mutant: Mutant) -> int:
    """The line at which the function begins in whose body a mutant is.

    0 for what is in no body.
    """
    first, end = function_around(tree, mutant.first)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and first <= node.lineno < end:
            is_inside = node.body[0].lineno <= mutant.first
            return first if is_inside and mutant.last < end else 0
    return 0


def statements(source: str) -> Dict[int, Place]:
    """For each line the first and last one of its statement.

    Of a compound statement only the line or lines up to the colon count.
    """
    spans: Dict[int, Place] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            end = getattr(node, "end_lineno", node.lineno)
            body = getattr(node, "body", None)
            if body:
                end = max(node.lineno, body[0].lineno - 1)
            for line in range(node.lineno, end + 1):
                spans[line] = (node.lineno, end)
    return spans


# -- Running them -------------------------------------------------------------


def copy_tree(target: str) -> None:
    """Copy what git tracks, or would."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT
    )
    for name in listed.decode().splitlines():
        source, copy = os.path.join(ROOT, name), os.path.join(target, name)
        if os.path.isfile(source) and not name.startswith("docs/"):
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copy(source, copy)


def functions(code: Any, path: str = "") -> Iterator[Tuple[str, Any]]:
    """The functions and methods that some code defines, by their places."""
    seen: Dict[str, int] = collections.Counter()
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            seen[part.co_name] += 1
            name = f"{path}/{part.co_name}.{seen[part.co_name]}"
            if part.co_flags & inspect.CO_OPTIMIZED:  # It is no class body.
                yield name, part
            else:
                yield from functions(part, name)


class Trial:
    """Tries mutants one after the other, as a plugin of pytest.

    The tests are collected once. Then each mutant gets a fork, in which the
    changed function has other code, and the tests that cover it run. What
    runs when the module is imported needs a Python of its own.
    """

    def __init__(self, directory: str, options: Any) -> None:
        self._options = options
        self._path = os.path.join(directory, "results.jsonl")
        self._tree = os.path.join(directory, "tree")
        shutil.rmtree(self._tree, ignore_errors=True)
        copy_tree(self._tree)
        self._module = os.path.join(self._tree, MODULE)
        self.source = read(self._module)
        self._syntax = ast.parse(self.source)
        self._spans = statements(self.source)
        self._coverage = Coverage(directory, self._tree)
        self._results: Dict[str, str] = {}
        if os.path.exists(self._path):
            for line in read(self._path).splitlines():
                known = json.loads(line)
                self._results[known["key"]] = known["result"]

    def run(self) -> int:
        """Collect the tests, and try the mutants instead of running them."""
        os.chdir(self._tree)
        sys.path.insert(0, self._tree)
        return int(pytest.main(["-x", "-q", "-s", *FILES], [self]))

    def pytest_runtestloop(self, session: Any) -> bool:
        """Try all mutants (pytest calls this)."""
        self._items = {item.nodeid: item for item in session.items}
        self._session = session
        gc.collect()
        self._functions = [
            thing
            for thing in gc.get_objects()
            if isinstance(thing, types.FunctionType)
            and thing.__code__.co_filename == self._module
        ]
        for section in self._options.sections or SECTIONS:
            random.seed(self._options.seed)
            total, wanted = mutants(
                self.source,
                section,
                self._options.all,
                self._options.sample,
            )
            for mutant in wanted:
                if mutant.key not in self._results:
                    self._try(mutant)
            self._report(section, total, wanted)
        return True

    def _try(self, mutant: Mutant) -> None:
        tests = self._coverage.tests(mutant, self._spans)
        spent = sum(self._coverage.seconds[test] for test in tests)
        # Tests that start a Python import the changed module there, too.
        with open(self._module, "w", encoding="utf-8") as file:
            file.write(with_mutant(self.source, mutant))
        change = self._changed_code(mutant)
        output = os.path.join(os.path.dirname(self._tree), "output.txt")
        process = os.fork()
        if not process:
            with open(output, "w", encoding="utf-8") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.setsid()
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            if change is None:
                self._run_anew(tests)
            status = 3
            try:
                status = self._run_here(change, tests)
            finally:
                os._exit(status)
        self._note(mutant, wait(process, GRACE + spent), len(tests))

    def _changed_code(self, mutant: Mutant) -> Any:
        """The code of a function before and after; None: it is of none."""
        first_line = body_around(self._syntax, mutant)
        if not first_line:
            return None
        start, end = sections(self.source)[mutant.section]
        above = "\n" * start
        old = above + "\n".join(self.source.split("\n")[start:end])
        new = above + mutant.text
        before = dict(functions(compile(old, self._module, "exec")))
        after = dict(functions(compile(new, self._module, "exec")))
        (name,) = [
            name
            for name, code in before.items()
            if code.co_firstlineno == first_line
        ]
        same = before[name].co_freevars == after[name].co_freevars
        return (before[name], after[name]) if same else None

    def _run_anew(self, tests: List[str]) -> None:
        """Become a new Python, which imports the changed module."""
        python = (sys.executable, "-m", "pytest", "-x", "-q", *tests)
        os.execv(sys.executable, python)

    def _run_here(self, change: Any, tests: List[str]) -> int:
        old, new = change
        changed = [
            function
            for function in self._functions
            if function.__code__.co_name == old.co_name
            and function.__code__.co_firstlineno == old.co_firstlineno
        ]
        assert changed, f"there is no function {old.co_name}"
        for function in changed:
            function.__code__ = new
        session = self._session
        session.items = [self._items[t] for t in tests if t in self._items]
        try:
            _pytest.main.pytest_runtestloop(session)
        except session.Failed:
            pass
        return int(session.testsfailed > 0) if session.items else 5

    def _note(self, mutant: Mutant, result: str, tests: int) -> None:
        self._results[mutant.key] = result
        with open(self._path, "a", encoding="utf-8") as file:
            record = {
                "key": mutant.key,
                "result": result,
                "tests": tests,
                "difference": difference(self.source, mutant),
            }
            file.write(json.dumps(record) + "\n")
        if result not in ("killed", "timed out"):
            print(f"{mutant.section}: {mutant.operator}: {result} ({tests})")
            print(difference(self.source, mutant) + "\n", flush=True)

    def _report(
        self, section: str, generated: int, wanted: List[Mutant]
    ) -> None:
        """Print the numbers of a section."""
        counts = collections.Counter(self._results[m.key] for m in wanted)
        numbers = ", ".join(f"{n} {what}" for what, n in counts.items())
        print(
            f"{section}: {generated} mutants, {len(wanted)} tried: {numbers}",
            flush=True,
        )


def wait(process: int, seconds: float) -> str:
    """What came of the tests in a process, which is ended at some time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            if status & 255:
                return "killed"  # By a signal: it has crashed.
            names = {0: "survived", 3: "error", 4: "error", 5: "no test"}
            return names.get(status >> 8, "killed")
        time.sleep(0.02)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "timed out"


def read(path: str) -> str:
    """The text of a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def main() -> None:
    """Try the mutants of the sections."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION")
    parser.add_argument("--sample", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--work", metavar="DIRECTORY")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no tests are listed for {', '.join(unknown)}")
    os.environ["TEST_CASES"] = "few"
    # A shell lets what it starts in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as directory:
        work = os.path.abspath(options.work or directory)
        os.makedirs(work, exist_ok=True)
        status = Trial(work, options).run()
    sys.exit(status)


if __name__ == "__main__":
    main()
