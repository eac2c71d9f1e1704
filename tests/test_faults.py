"""Every way in which a connection can fail, at every stage, by product.

The matrix is in ``tests/long/faults.py``, and ``make faults`` prints it. Here
runs its quick version: one retry, and stalls that are cut short.
"""

import importlib.util
import itertools
import os
import subprocess
import sys
import threading

import pytest

pytestmark = pytest.mark.oldest

SCRIPT = os.path.join(os.path.dirname(__file__), "long", "faults.py")


@pytest.fixture(scope="module")
def faults():
    """The script as a module."""
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("faults", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["faults"] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["faults"]
        sys.path[:] = before


@pytest.fixture(scope="module")
def outcomes(faults):
    """The whole matrix, run once."""
    pytest.importorskip("trustme")
    return faults.run_all(faults.QUICK)


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "stage",
    [
        *("connect", "tls", "request", "sent", "status line", "headers"),
        *("body", "chunk 1", "chunk 2", "chunk 3", "idle"),
    ],
)
def test_a_fault_ends_in_the_right_answer_or_an_error(stage, faults, outcomes):
    wrong = [
        f"{cell}: {problem}"
        for cell, outcome in outcomes.items()
        if cell.stage == stage
        for problem in faults.broken_promises(cell, outcome, faults.QUICK)
    ]
    assert any(cell.stage == stage for cell in outcomes)
    assert wrong == []


def test_no_cell_is_left_out(faults, outcomes):
    possible = [
        (*pair, method, lasting)
        for pair in itertools.product(faults.STAGES, faults.FAULTS)
        if not faults.impossible(*pair)
        for method in ("GET", "POST", "PUT", "DELETE", "iteration")
        for lasting in (False, True)
    ]
    assert sorted(map(tuple, outcomes)) == sorted(possible)
    assert len(faults.STAGES) == 11 and len(faults.FAULTS) == 8
    # Of the 88 pairs these cannot be, for a reason that is given.
    left_out = 9 + 2 * 7 + 4
    assert len(possible) == (88 - left_out) * 5 * 2


def test_nothing_hangs(faults, outcomes):
    for cell, outcome in outcomes.items():
        assert outcome.seconds < faults.promise(cell, faults.QUICK)[2] < 20
    assert threading.active_count() < 10


def test_one_fault_is_cured_without_the_caller_noticing(faults, outcomes):
    """Of all that can be cured, which is nearly all, all is."""
    once = [
        cell for cell in outcomes if not cell.lasting and cell.fault != "drip"
    ]
    results = [outcomes[cell].result for cell in once]
    not_curable = [
        cell
        for cell in once
        if faults.looks_whole(cell)
        or (cell.stage, cell.fault) == ("tls", "garbage")
    ]
    assert results.count("answer") >= len(once) - len(not_curable)


def test_the_deadline_ends_every_answer_that_drips(faults, outcomes):
    dripping = [cell for cell in outcomes if cell.fault == "drip"]
    assert len(dripping) == 7 * 5 * 2
    for cell in dripping:
        assert outcomes[cell].result == "PDDeadlineError"
        assert outcomes[cell].seconds >= faults.QUICK.deadline * 0.5


def test_the_matrix_has_a_time_limit_of_its_own():
    pytest.importorskip("trustme")
    command = [sys.executable, SCRIPT, "--quick", "--limit", "0.5"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60
    )
    assert done.returncode == 1
    assert b"Timeout: the time limit has passed" in done.stderr
    assert b"Thread MainThread" in done.stderr


def test_the_table_has_a_row_a_stage_and_a_column_a_fault(faults, outcomes):
    for lasting in (False, True):
        head, rule, *rows = faults.table(outcomes, lasting).splitlines()
        assert head.split() == list(faults.FAULTS)
        assert set(rule) == {"-", " "}
        assert [
            row[: max(map(len, faults.STAGES))].strip() for row in rows
        ] == list(faults.STAGES)


@pytest.mark.parametrize(
    "damage, complaint",
    [
        ({"result": "AttributeError"}, "AttributeError, not PDClientError"),
        ({"result": "answer"}, "answer, not PDClientError"),
        ({"attempts": 3}, "3 attempts, not 2 to 2"),
        ({"attempts": 1}, "1 attempts, not 2 to 2"),
        ({"seconds": 99.0}, "99.0 s, not within"),
        ({"usable": False}, "no longer usable"),
    ],
)
def test_a_broken_promise_is_noticed(damage, complaint, faults):
    cell = faults.Cell("sent", "reset", "POST", True)
    kept = faults.Outcome("PDClientError", 2, 0.1, True)
    assert faults.broken_promises(cell, kept, faults.QUICK) == []
    (problem,) = faults.broken_promises(
        cell, kept._replace(**damage), faults.QUICK
    )
    assert complaint in problem
