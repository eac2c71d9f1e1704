"""The page of promises: every sentence of it, not only every paragraph.

That the tests exist is checked in ``test_docs.py``. Here: that no sentence
is without one, and that no part of the library goes without promises.
"""

import re

import pytest

from tests.support import read

TEST = r"``(test_\w+)\.py::(test_\w+)``"


def page():
    """The sentences of the page, and the modules whose tests each names."""
    lines = read("sphinx", "source", "promises.rst").splitlines()
    text = []
    for line in lines:
        if re.fullmatch(r"=+|-+", line):
            text = text[:-1] if text and text[-1] else text
        else:
            text.append(line)
    promises = re.findall(
        rf"(.*?)((?:\s*{TEST})+)", "\n".join(text), re.DOTALL
    )
    rest = re.sub(rf".*{TEST}", "", "\n".join(text), flags=re.DOTALL)
    found = [
        (" ".join(p[0].split()), re.findall(TEST, p[1])) for p in promises
    ]
    return found + ([(rest, [])] if rest.strip() else [])


@pytest.mark.parametrize("sentence, tests", page(), ids=lambda v: str(v)[:40])
def test_every_sentence_names_its_test(sentence, tests):
    assert tests, "a sentence without a test"
    assert re.fullmatch(r"(\* )?(``)?[A-Z.].*\.", sentence)
    assert not re.search(r"[.!?]\s+[A-Z]", sentence), "two sentences, one test"


def test_there_are_promises_of_every_sort():
    modules = {module for _, tests in page() for module, _ in tests}
    assert modules >= {
        *("test_concurrency", "test_infrastructure"),
        *("test_events", "test_faults", "test_fitting", "test_helpful"),
        *("test_history", "test_limits", "test_network", "test_newcomer"),
        *("test_pagination", "test_pdpyras", "test_told"),
        *("test_processes", "test_properties", "test_retry"),
        *("test_sent_again", "test_trust", "test_writes"),
    }
    assert len(page()) > 50
