"""Fixtures for all tests: a clean environment, a server, sessions on it."""

import contextlib
import gc
import importlib.util
import itertools
import logging
import os
import re
import sys
import threading
import time
import warnings
from typing import Any, Callable, Dict, Iterator, List, Optional, Type

import pytest

from tests import wire

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
API = "https://api.pagerduty.com"
KEY = "not-a-real-key"
ROUTING_KEY = "not-a-real-routing-key"
#: What is in ``pdpyras.__all__`` although it comes from other modules.
REEXPORTED = {
    *("HTTPError", "PoolError", "RequestException", "time"),
    # By ``from pdpyras import *`` scripts of 4.x and 5.x have these, too.
    *("Iterator", "JSONDecodeError", "Response", "Session", "Union"),
    *("datetime", "deepcopy", "logging", "random", "requests", "sys"),
    *("warn", "warnings"),
}
#: .ci/run asks for few cases wherever it runs the suite once more: with most
#: of them the library is tested, and not Python.
FEW_CASES = os.environ.get("TEST_CASES") == "few"
#: A test of many cases, more than eight, is tried with every third of them,
#: from this one on. Not set: with all.
THIRD = os.environ.get("TEST_THIRD")
FOREIGN = (
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NETRC",
)


needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="there is no fork"
)
#: Python 3.12 dislikes a fork beside the threads of the test server.
may_fork = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded.*:DeprecationWarning"
)


def case(value: Any) -> str:
    """Name a case by its value, and in each process alike."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


def examples(number: int) -> int:
    """So many examples of hypothesis; a fourth where few are asked for."""
    return number // 4 if FEW_CASES else number


@contextlib.contextmanager
def paused_thread(
    target: Callable[[Callable[[], None]], Any], deadline: float = 30
) -> Iterator[None]:
    """Another thread, which has come to its pause while the block runs.

    :param target: what it does; it is given what to call where it pauses
    :param deadline: seconds that it may take to come there
    """
    reached, done = threading.Event(), threading.Event()

    def pause() -> None:
        reached.set()
        done.wait(30)

    thread = threading.Thread(target=target, args=(pause,))
    thread.start()
    try:
        assert reached.wait(deadline)
        yield
    finally:
        done.set()
        thread.join()


def read(*path: str) -> str:
    """The text of a file of this repository."""
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def load_script(*path: str) -> Any:
    """A script of this repository, as a module of its own."""
    name = os.path.splitext(path[-1])[0]
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(ROOT, *path)
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def redirect_sessions(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let new sessions of every kind talk to this URL by themselves."""
    import pdpyras

    for kind in (
        pdpyras.APISession,
        pdpyras.EventsAPISession,
        pdpyras.ChangeEventsAPISession,
    ):
        monkeypatch.setattr(kind, "url", url)


class Naps(List[float]):
    """The seconds slept, in order; ``during`` is called in each nap."""

    during: Optional[Callable[[], Any]] = None

    def __call__(self, seconds: float) -> None:
        self.append(seconds)
        if self.during is not None:
            self.during()


class Clock:
    """Says whether something ended when it should.

    That is half a second after a deadline, and as much later as a busy
    machine was seen to be late meanwhile in waking up a thread.
    """

    LATE = 0.5
    TICK = 0.02

    def __init__(self, deadline: float = 0.5) -> None:
        self.begun = time.monotonic()
        self._deadline = deadline
        self._delay = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        """Add up by how much the machine is late."""
        begun = now = self.begun
        while not self._ended.wait(self.TICK) and now < begun + 20:
            before, now = now, time.monotonic()
            self._delay += now - before - self.TICK

    def check(
        self, deadline: Optional[float] = None, earliest: float = 0.9
    ) -> None:
        """Did it end with this deadline, or at this part of it at most?"""
        took = time.monotonic() - self.begun
        self._ended.set()
        self._thread.join()
        deadline = self._deadline if deadline is None else deadline
        latest = deadline + self.LATE + self._delay
        assert deadline * earliest <= took < latest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let an old pytest-cov not measure the processes that tests start.

    That takes long, shows on their stderr, and gives what cannot be combined
    where one of them starts in another directory.
    """
    for name in list(os.environ):
        if name.startswith("COV_CORE_"):
            del os.environ[name]


def pytest_collection_modifyitems(
    config: pytest.Config, items: List[pytest.Item]
) -> None:
    """Leave out what ``THIRD`` does."""
    if THIRD is None:
        return
    cases: Dict[str, List[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out = {
        item
        for several in cases.values()
        if len(several) > 8
        for number, item in enumerate(several)
        if number % 3 != int(THIRD)
    }
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Measure no coverage where a test says so.

    In a process of pytest-xdist two measurements are under way, and pytest-cov
    pauses one of them: the other goes on in its place.
    """
    paused = []
    if "coverage" in sys.modules and item.get_closest_marker("no_cover"):
        current = sys.modules["coverage"].Coverage.current
        while current() is not None:
            paused.append(current())
            paused[-1].stop()
    yield
    for coverage in reversed(paused):
        coverage.start()


@pytest.fixture(scope="session")
def homes(tmp_path_factory: Any) -> Iterator[str]:
    """Paths where no directory is yet, in one where pytest counts none."""
    parent = str(tmp_path_factory.mktemp("homes"))
    return (os.path.join(parent, str(number)) for number in itertools.count())


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, homes: Iterator[str]
) -> None:
    """Nothing of the developer's settings reaches a test."""
    for name in list(os.environ):
        if (
            name.lower().endswith("_proxy")
            or name in FOREIGN
            or name.startswith("PAGERDUTY_")
        ):
            monkeypatch.delenv(name)
    home = next(homes)
    os.mkdir(home)
    monkeypatch.setenv("HOME", home)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """For texts that are nested too deeply.

    Python aborts before 3.9 ("Cannot recover from stack overflow") if the
    garbage collector calls some functions in each other where the depth is
    exhausted.
    """
    if sys.version_info < (3, 9):
        gc.disable()
    yield
    gc.enable()


@pytest.fixture
def server() -> Iterator[wire.Server]:
    """A scriptable server."""
    with wire.Server() as running:
        yield running


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Naps:
    """The pauses that the library takes; none of them takes time."""
    import pdpyras

    assert pdpyras.time is time
    recorder = Naps()
    monkeypatch.setattr(pdpyras.time, "sleep", recorder)
    return recorder


@pytest.fixture
def tables() -> Iterator[Any]:
    """The module, whose public tables are put back after the test."""
    import pdpyras

    paths = list(pdpyras.CANONICAL_PATHS)
    cursors = list(pdpyras.CURSOR_BASED_PAGINATION_PATHS)
    wrappers = dict(pdpyras.ENTITY_WRAPPER_CONFIG)
    yield pdpyras
    pdpyras.CANONICAL_PATHS[:] = paths
    pdpyras.CURSOR_BASED_PAGINATION_PATHS[:] = cursors
    pdpyras.ENTITY_WRAPPER_CONFIG.clear()
    pdpyras.ENTITY_WRAPPER_CONFIG.update(wrappers)


@pytest.fixture(scope="session")
def trust() -> Iterator[wire.Certificates]:
    """A certificate authority and a certificate for loopback."""
    pytest.importorskip("trustme")
    with wire.certificates() as certificates:
        yield certificates


def on_server(server: wire.Server, name: str) -> Iterator[Any]:
    """A session of the class of this name, on ``server``."""
    import pdpyras

    with getattr(pdpyras, name)(KEY) as api:
        api.url = server.url
        yield api


@pytest.fixture
def session(server: wire.Server) -> Iterator[Any]:
    """An APISession on ``server``."""
    yield from on_server(server, "APISession")


@pytest.fixture
def events(server: wire.Server) -> Iterator[Any]:
    """An EventsAPISession on ``server``."""
    yield from on_server(server, "EventsAPISession")


@pytest.fixture
def changes(server: wire.Server) -> Iterator[Any]:
    """A ChangeEventsAPISession on ``server``."""
    yield from on_server(server, "ChangeEventsAPISession")


def warnings_in(caplog: Any) -> List[str]:
    """The texts of all warnings in the log so far."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]


@contextlib.contextmanager
def told(
    category: Type[Warning], *parts: str, times: int = 1
) -> Iterator[List[str]]:
    """What runs within warns so many times, at a line of the calling file.

    Each warning is of exactly this category, and its text holds all parts.
    The texts are in the list afterwards.
    """
    blamed = sys._getframe(2).f_code.co_filename
    texts: List[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    texts += [str(warning.message) for warning in caught]
    assert len(caught) == times, texts
    for warning, text in zip(caught, texts):
        assert warning.category is category, (warning.category, text)
        assert warning.filename == blamed, (warning.filename, text)
        for part in parts:
            assert part in text
