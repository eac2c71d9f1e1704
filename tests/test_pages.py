"""The documentation in a browser: how it looks, and what its scripts do.

The pages are opened as files, as from a checkout. The browser is a Chromium
of this machine; where there is none, the tests are skipped, and say so.
"""

import os
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

from tests.browser import Browser, find
from tests.support import read
from tests.test_docs import SPHINX, build

pytestmark = pytest.mark.once

LOOKS = [(w, s) for w in (1280, 390) for s in ("light", "dark")]
WRONG = read("tests", "data", "look.js")

# Resolves once the search has ended, with its headline and its results.
FOUND = """
new Promise((resolve) => {
  const look = () => {
    const said = document.querySelector("#search-results p.search-summary");
    const items = document.querySelectorAll("#search-results ul.search > li");
    const text = said ? said.textContent : "";
    const total = /found (\\d+) page/.exec(text);
    if (/did not match/.test(text) || (total && items.length >= +total[1])) {
      resolve([text, [...items].map((item) => item.textContent)]);
    } else {
      setTimeout(look, 20);
    }
  };
  look();
})
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser, whose clipboard pages may read."""
    path = find()
    if path is None:
        pytest.skip("there is no Chromium on this machine")
    with Browser(path) as running:
        running.call(
            "Browser.grantPermissions",
            permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
        )
        yield running


@pytest.fixture(scope="module")
def site(browser: Browser, tmp_path_factory: Any) -> Path:
    """The directory of the documentation, built for these tests."""
    for package in SPHINX:
        pytest.importorskip(package)
    target = tmp_path_factory.mktemp("pages") / "html"
    build(str(target), "1")
    return Path(target)


def pages_of(site: Path) -> List[Path]:
    found = sorted(site.rglob("*.html"))
    assert len(found) > 40
    return found


# ---------------------------------------------------------------------------
# How the pages look
# ---------------------------------------------------------------------------


def test_every_page_in_every_look(browser: Browser, site: Path) -> None:
    """No console error, no horizontal scrolling, readable text."""
    wrong = []
    for page in pages_of(site):
        browser.open(page.as_uri())
        name = os.path.relpath(str(page), str(site))
        for width, scheme in LOOKS:
            browser.look(width, scheme)
            for what in browser.run(WRONG):
                wrong.append(f"{name}, {width} px, {scheme}: {what}")
        wrong += [f"{name}: {error}" for error in browser.errors]
    assert wrong == []


@pytest.mark.parametrize(
    "body, says",
    [
        ('<p style="color:#888">Faint</p>', 'contrast 3.54: "Faint"'),
        ('<div style="width:999px">x</div>', "is 999 px wide, not 390"),
        (
            '<div style="overflow:auto"><h1 style="width:888px">x</h1></div>',
            "is 888 px wide, not 390",
        ),
        (
            'x<input placeholder="Pale" style="background:#777">',
            'contrast 1.03: "Pale"',
        ),
        ("", "is empty"),
        (
            '<svg viewBox="0 0 780 9" width="390"><text y="9">Tiny</text>',
            'letters of 8.0 px: "Tiny"',
        ),
    ],
)
def test_what_is_wrong_is_seen(
    browser: Browser, tmp_path: Path, body: str, says: str
) -> None:
    page = tmp_path / "page.html"
    head = '<meta name="viewport" content="width=device-width">'
    page.write_text(f'{head}<body style="margin:0">{body}')
    browser.look(390, "light")
    browser.open(page.as_uri())
    assert browser.run(WRONG) == [says]


def test_errors_of_the_console_are_seen(
    browser: Browser, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text("<script>nothing.at.all</script>")
    browser.open(page.as_uri())
    assert "nothing is not defined" in "".join(browser.errors)


# ---------------------------------------------------------------------------
# Copy buttons
# ---------------------------------------------------------------------------


# Resolves once the button with the focus says so.
COPIED = """
new Promise((resolve) => {
  const look = () => document.activeElement.textContent === "Copied"
    ? resolve(true) : setTimeout(look, 20);
  look();
})
"""


def copied(browser: Browser, page: Path, part: str, before: str = "") -> str:
    """What the button of the first sample with this text copies.

    The button is pressed from the keyboard, after a script has run.
    """
    browser.look(1280, "light")
    browser.open(page.as_uri())
    browser.run("window.saved = navigator.clipboard;" + before)
    browser.run(
        f"""
        [...document.querySelectorAll("div.highlight")]
          .find((block) => block.textContent.includes({part!r}))
          .querySelector("button").focus()
        """
    )
    browser.press("Enter", 13)
    assert browser.run(COPIED)
    return str(browser.run("saved.readText()"))


def test_every_sample_has_one_copy_button(
    browser: Browser, site: Path
) -> None:
    for name in ("quickstart.html", "mistakes.html", "guide/outbox.html"):
        browser.open((site / name).as_uri())
        counts = browser.run(
            """[...document.querySelectorAll("div.highlight")]
              .map((block) => block.querySelectorAll("button").length)"""
        )
        assert counts and set(counts) == {1}


def test_a_python_sample_is_copied_without_what_it_prints(
    browser: Browser, site: Path
) -> None:
    text = copied(browser, site / "quickstart.html", "erin.doe")
    assert text.startswith("for user in session.iter_all(")
    assert '    print(user["name"], user["email"])\n\nerin = ' in text
    assert "#>" not in text
    compile(text, "sample", "exec")


def test_an_interactive_sample_is_copied_without_prompts_and_output(
    browser: Browser, site: Path
) -> None:
    text = copied(browser, site / "mistakes.html", "escalation_policy")
    assert text == 'session.list_all("escalation_policy")\n'


def test_a_sample_is_copied_where_there_is_no_clipboard(
    browser: Browser, site: Path
) -> None:
    """As from a page over plain http."""
    gone = "Object.defineProperty(navigator, 'clipboard', {value: undefined})"
    page = site / "guide" / "guard.html"
    text = copied(browser, page, "with events.guard(", before=gone)
    assert text.startswith("events = ") and "making a backup" in text
    assert "#>" not in text


def test_a_shell_sample_is_copied_whole(browser: Browser, site: Path) -> None:
    text = copied(browser, site / "cookbook/proxies.html", "NO_PROXY")
    assert text.splitlines()[1] == "export NO_PROXY=localhost,127.0.0.1"
    assert len(text.splitlines()) == 3


# ---------------------------------------------------------------------------
# Search, and the filter of the endpoints
# ---------------------------------------------------------------------------


def search(browser: Browser, site: Path, words: str) -> Tuple[str, List[str]]:
    """What the search says, and what it finds."""
    address = (site / "search.html").as_uri()
    browser.open(f"{address}?q={words}")
    said, results = browser.run(FOUND)
    return said, results


def test_the_search_works_from_files(browser: Browser, site: Path) -> None:
    _, results = search(browser, site, "max_rate_wait")
    assert any("Retries, rate limits" in result for result in results)
    assert browser.errors == []


def test_the_search_says_when_nothing_is_found(
    browser: Browser, site: Path
) -> None:
    said, results = search(browser, site, "xylophone")
    assert "did not match any documents" in said
    assert results == [] and browser.errors == []


@pytest.mark.parametrize(
    "words",
    [
        *("duplicate+alerts", "size+limits", "10+000+records"),
        *("rate+limit", "default_from", "environment+variables"),
        *("threads", "proxies", "webhooks", "timeout", "outage"),
    ],
)
def test_a_question_finds_its_page_first(
    browser: Browser, site: Path, words: str
) -> None:
    """One of the first three results has all of the words in its title."""
    _, results = search(browser, site, words)
    wanted = words.replace("+", " ").lower().split()
    firsts = [result.lower() for result in results[:3]]
    assert any(all(w in first for w in wanted) for first in firsts), firsts


def narrowed(browser: Browser, words: str) -> Tuple[int, str]:
    """How many endpoints the filter leaves, and what it says."""
    shown, said = browser.run(
        f"""(() => {{
          const field = document.querySelector(".endpoint-filter");
          field.value = {words!r};
          field.dispatchEvent(new Event("input"));
          const rows = document.querySelectorAll("table.endpoints tbody tr");
          const shown = [...rows].filter((row) => row.checkVisibility());
          const none = document.querySelector(".endpoint-none");
          return [shown.length, none.textContent];
        }})()"""
    )
    return int(shown), str(said)


def test_the_filter_of_the_endpoints(browser: Browser, site: Path) -> None:
    browser.open((site / "endpoints.html").as_uri())
    every, said = narrowed(browser, "")
    assert every > 400 and said == ""
    some, said = narrowed(browser, "put /incidents/{id}/alerts")
    assert 0 < some < 5 and said == ""
    none, said = narrowed(browser, "xylophone")
    assert none == 0 and said.startswith("Nothing found")
    assert narrowed(browser, "") == (every, "")
