"""The sixteen likeliest mistakes, and what the library says to them.

The page of the documentation is the script: each of its samples is run, and
must end in the very text that the page has below it.
"""

import doctest
import os
import re
import socket
import textwrap
import warnings

import pytest

import pdpyras
from tests import wire
from tests.support import KEY, read
from tests.test_pagination import Collection

pytestmark = pytest.mark.oldest

SECTION = re.compile(
    r"^(\S.*)\n-+\n\n\.\. code-block:: pycon\n\n((?:    .*\n|\n)+)",
    re.MULTILINE,
)
JANE = {"id": "PJANE01", "name": "Jane Doe", "email": "jane@example.com"}


def mistakes():
    """Title, code, and what is said, of each section of the page."""
    found = []
    for title, block in SECTION.findall(read("sphinx/source/mistakes.rst")):
        code, text = [], []
        for line in textwrap.dedent(block).splitlines():
            (code if line.startswith((">>> ", "... ")) else text).append(line)
        said = " ".join(" ".join(text).split())
        found.append((title, "\n".join(line[4:] for line in code), said))
    return found


def refused(status, code=None, **error):
    if code is not None:
        error["code"] = code
    return wire.Answer(status, json={"error": error})


#: What the API answers to those mistakes that it hears of.
ANSWERS = {
    "The key is for another service region": refused(
        401, 2006, message="Unauthorized"
    ),
    "Nobody is found by their e-mail address": wire.Answer(
        json={"users": [JANE], "more": False}
    ),
    "The API wants to know who acts": refused(
        400, 1008, message="Requester User Not Found"
    ),
    "The key may not do this": wire.Answer(
        403,
        json={
            "error": {"message": "Access Denied"},
            "required_scopes": "incidents.read",
        },
    ),
}


@pytest.fixture
def nowhere():
    """The address of a port at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_the_page_has_sixteen():
    titles = [title for title, _, _ in mistakes()]
    assert len(titles) == len(set(titles)) == 16
    assert set(ANSWERS) <= set(titles)


@pytest.mark.parametrize(
    "title, code, said", mistakes(), ids=lambda text: text[:30]
)
def test_the_library_says_what_the_page_says(
    title, code, said, server, session, events, naps, nowhere, monkeypatch
):
    answer = ANSWERS.get(title)
    server.handler = (lambda request: answer) if answer else None
    if "10 000" in title:
        server.handler = Collection(10250, "incidents")
    if "proxy" in title:
        monkeypatch.setenv("http_proxy", nowhere)
    names = {
        "pdpyras": pdpyras,
        "os": os,
        "session": session,
        "events": events,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Exception) as caught:
            exec(code, names)
    text = f"{type(caught.value).__name__}: {caught.value}"
    text = text.replace(server.url, "https://api.pagerduty.com")
    text = text.replace(nowhere, "http://proxy.example.com:3128")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(said, text, flags), text
    assert KEY not in text
    # What could be seen at once is not sent.
    is_refused_at_once = answer is None and "10 000" not in title
    assert is_refused_at_once is (server.requests == [])


def test_from_env_names_the_variable_that_is_missing():
    with pytest.raises(ValueError, match="PAGERDUTY_API_KEY"):
        pdpyras.APISession.from_env()
