"""The API documents that the tests have, and modules that know them.

``tests/data/greenhouse.json`` and ``greenhouse-staff.json`` are ours: small,
invented, together with one operation of each kind, and in every clone.
PagerDuty's own are looked for beside ``../shared/openapi/rest.json`` or beside
the REST document whose path is in ``PAGERDUTY_OPENAPI``.
"""

import importlib.util
import json
import logging
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import pytest

import pdpyras
from tests.support import ROOT, load_script

script = load_script("tools", "endpoints.py")

MODULE = Path(pdpyras.__file__).resolve()
DATA = Path(ROOT) / "tests" / "data"
REST = Path(
    os.environ.get(
        "PAGERDUTY_OPENAPI",
        os.path.join(ROOT, "..", "shared", "openapi", "rest.json"),
    )
)

# Of the small documents, one decision of each kind.
SMALL_DECISIONS = script.Decisions(
    judgements={
        "GET /probes/{id}": script.Judgement(
            None, "probe_readings", "the example is right"
        )
    },
    replaced={
        "/labels/{id}/{entity_type}": (
            "/labels/{id}/beds",
            "/labels/{id}/robots",
        )
    },
    prose_only={"/beds/count": ("GET=-", "described in a sentence")},
    historic={"/pots": ("GET,offset POST", "no longer listed")},
    added={
        "/nurseries": ("GET=saplings,cursor", "not listed yet"),
        "/beds/{bed_id}": ("GET=-", "listed by now, with another name"),
    },
    periods={
        "POST /harvests/search": ("history:picked_at", "it is in the body")
    },
    unlisted={"/probes/{id}": ("PUT,bulk9", "other clients send it")},
)

Described = Dict[str, Any]


class Api(NamedTuple):
    """A document, and what was decided about those of its table."""

    name: str
    path: Path
    decisions: Any

    @property
    def document(self) -> Described:
        return _loaded(self.path)

    @property
    def module(self) -> Any:
        """A module that has the table with this document."""
        return _small_module() if self in SMALL.apis else pdpyras

    def resolve(self, node: Any) -> Any:
        return script.resolve(self.document, node)

    def operations(self) -> Iterator[Tuple[str, str, Described, Described]]:
        """Method, path as in the table, the path's item, the operation."""
        paths = script.listed_paths([self.document])
        for path, (_, item) in paths.items():
            for method in script.METHODS:
                if method in item:
                    for name in self.decisions.replaced.get(path, (path,)):
                        yield method, name, item, item[method]


class Table(NamedTuple):
    """The documents from which one table is derived."""

    name: str
    apis: Tuple[Api, ...]
    decisions: Any

    @property
    def documents(self) -> List[Described]:
        return [api.document for api in self.apis]

    @property
    def paths(self) -> List[Path]:
        return [api.path for api in self.apis]

    @property
    def module(self) -> Any:
        return self.apis[0].module

    @property
    def missing(self) -> List[str]:
        """The names of the documents that are not at hand."""
        return [api.name for api in self.apis if not api.path.exists()]


@lru_cache(maxsize=None)
def _loaded(path: Path) -> Described:
    with path.open(encoding="utf-8") as file:
        return dict(json.load(file))


@lru_cache(maxsize=None)
def _small_module() -> Any:
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, "pdpyras.py")
        shutil.copy(str(MODULE), str(copy))
        table = script.derived_table(SMALL.documents, SMALL.decisions)
        names = script.derived_list_params(SMALL.documents)
        module = script.read_module(copy).with_table(table)
        script.write_module(copy, module.with_list_params(names))
        return import_copy(copy, f"pdpyras_{SMALL.name}")


def import_copy(path: Path, name: str) -> Any:
    """The module in this file, beside the one that is imported already."""
    spec = importlib.util.spec_from_file_location(name, str(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Both have the logger, to which each adds a handler when it is imported.
    logger = logging.getLogger(pdpyras.__name__)
    before = list(logger.handlers)
    spec.loader.exec_module(module)
    logger.handlers[:] = before
    return module


SMALL_API, STAFF_API = (
    Api(name, DATA / f"{name}.json", SMALL_DECISIONS)
    for name in ("greenhouse", "greenhouse-staff")
)
SMALL = Table("greenhouse", (SMALL_API, STAFF_API), SMALL_DECISIONS)

REST_API = Api("rest", REST, script.DECISIONS)
FAMILIES = tuple(
    Api(name, REST.parent / f"{name}.json", script.DECISIONS)
    for name in (
        "scim",
        "integration-jira-cloud",
        "integration-jira-service",
        "integration-ms-teams-service",
        "integration-slack-service",
    )
)
PAGERDUTY = Table("pagerduty", (REST_API,) + FAMILIES, script.DECISIONS)
EVENTS = REST.parent / "events-v2.json"

#: Those that are at hand.
APIS: List[Api] = [
    api for api in SMALL.apis + PAGERDUTY.apis if api.path.exists()
]
TABLES: List[Table] = [
    table for table in (SMALL, PAGERDUTY) if not table.missing
]

needs_documents = pytest.mark.skipif(
    bool(PAGERDUTY.missing),
    reason="PagerDuty's API documents are not at hand (PAGERDUTY_OPENAPI): "
    + ", ".join(PAGERDUTY.missing),
)
