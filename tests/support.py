"""Fixtures for all tests: a clean environment, a server, sessions on it."""

import importlib.util
import logging
import os
import time
from typing import Any, Callable, Iterator, List, Optional

import pytest

from tests import wire

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KEY = "not-a-real-key"
FOREIGN = (
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NETRC",
)


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


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    """Nothing of the developer's settings reaches a test."""
    for name in list(os.environ):
        if (
            name.lower().endswith("_proxy")
            or name in FOREIGN
            or name.startswith("PAGERDUTY_")
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


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
