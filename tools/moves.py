#!/usr/bin/env python3
"""Prove that a change of a module only moves its definitions.

    python3 tools/moves.py OLD.py NEW.py
    python3 tools/moves.py HEAD~1:pdpyras.py pdpyras.py

Compares the syntax trees of all top-level statements of two files, of which
each may be one of a git commit. Comments and the order of the statements do
not count. What is in one file only, or differs, is listed by its name. Exit
status: 0 if nothing is, else 1.
"""

import ast
import subprocess
import sys
from collections import Counter
from typing import Counter as CounterType
from typing import Dict, List, Tuple

Statement = Tuple[str, str]


def read(name: str) -> str:
    """The text of a file, or of ``COMMIT:PATH``."""
    if ":" in name:
        shown = subprocess.check_output(["git", "show", name])
        return shown.decode("utf-8")
    with open(name, encoding="utf-8") as file:
        return file.read()


def name_of(statement: ast.stmt) -> str:
    """What a reader would call a top-level statement."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return statement.name
    targets: List[ast.AST] = []
    if isinstance(statement, ast.Assign):
        targets = list(statement.targets)
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    names = [
        node.id
        for target in targets
        for node in ast.walk(target)
        if isinstance(node, ast.Name)
    ]
    return ", ".join(names) or type(statement).__name__


def statements(text: str) -> CounterType[Statement]:
    """Name and syntax tree of each top-level statement."""
    body = ast.parse(text).body
    return Counter((name_of(node), ast.dump(node)) for node in body)


def differences(old: str, new: str) -> Dict[str, str]:
    """What became of each statement that did not merely move."""
    before, after = statements(old), statements(new)
    gone = {name for name, _ in before - after}
    come = {name for name, _ in after - before}
    found = dict.fromkeys(gone & come, "changed")
    found.update(dict.fromkeys(gone - come, "removed"))
    found.update(dict.fromkeys(come - gone, "added"))
    return found


def main(arguments: List[str]) -> int:
    """Compare; return the exit status."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    found = differences(*map(read, arguments))
    for name, fate in sorted(found.items()):
        print(f"{fate}: {name}")
    if not found:
        print("All definitions are the same.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
