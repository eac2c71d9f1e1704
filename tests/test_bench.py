"""The benchmark: it runs, and its plot shows what it measured.

Whether its targets are met is for ``make bench``, not for the tests: they
depend on no clock.
"""

import importlib
import os
import subprocess
import sys

import pytest

from tests.support import ROOT, read

FIGURES = ("sphinx", "source", "figures")


def test_the_plot_shows_the_figures_that_were_measured(monkeypatch):
    monkeypatch.syspath_prepend(os.path.join(ROOT, "tools", "bench"))
    figure = importlib.import_module("figure")
    results = figure.read()
    assert read(*FIGURES, "performance.svg") == figure.figure(results)
    assert read(*FIGURES, "performance.csv") == figure.table(results)
    assert "5.4.1" in figure.table(results)


@pytest.mark.once
@pytest.mark.parametrize(
    "part, rows",
    [
        ("work", "GET and decode|rget|a record|update|rget with|floor"),
        ("history", "prefetch=0|prefetch=16|the first 1000|all 10000"),
    ],
)
def test_the_benchmark_runs(part, rows):
    run = subprocess.run(
        [sys.executable, "tools/bench/bench.py", f"--only={part}", "--quick"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout
    for row in rows.split("|"):
        assert f"\n{row}" in run.stdout
