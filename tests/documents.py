"""The API documents that the tests have, and modules that know them.

``tests/data/greenhouse.json`` is ours: small, invented, with one operation of
each kind, and in every clone. PagerDuty's own is looked for at
``../shared/openapi/rest.json`` or at the path in ``PAGERDUTY_OPENAPI``.
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

import pdpyras
from tests.support import ROOT, load_script

script = load_script("tools", "endpoints.py")

MODULE = Path(pdpyras.__file__).resolve()
SMALL = Path(ROOT) / "tests" / "data" / "greenhouse.json"
REST = Path(
    os.environ.get(
        "PAGERDUTY_OPENAPI",
        os.path.join(ROOT, "..", "shared", "openapi", "rest.json"),
    )
)

# Of the small document, one decision of each kind.
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
)

Described = Dict[str, Any]


class Api(NamedTuple):
    """A document, and what was decided about it."""

    name: str
    path: Path
    decisions: Any

    @property
    def document(self) -> Described:
        return _loaded(self.path)

    @property
    def module(self) -> Any:
        """A module that has the table of this document."""
        return _small_module() if self is SMALL_API else pdpyras

    def resolve(self, node: Any) -> Any:
        return script.resolve(self.document, node)

    def operations(self) -> Iterator[Tuple[str, str, Described, Described]]:
        """Method, path as in the table, the path's item, the operation."""
        for path, item in self.document["paths"].items():
            for method in script.METHODS:
                if method in item:
                    for name in self.decisions.replaced.get(path, (path,)):
                        yield method, name, item, item[method]


@lru_cache(maxsize=None)
def _loaded(path: Path) -> Described:
    with path.open(encoding="utf-8") as file:
        return dict(json.load(file))


@lru_cache(maxsize=None)
def _small_module() -> Any:
    api = SMALL_API
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, "pdpyras.py")
        shutil.copy(str(MODULE), str(copy))
        table = script.derived_table(api.document, api.decisions)
        names = script.derived_list_params(api.document)
        module = script.read_module(copy).with_table(table)
        script.write_module(copy, module.with_list_params(names))
        return import_copy(copy, f"pdpyras_{api.name}")


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


SMALL_API = Api("greenhouse", SMALL, SMALL_DECISIONS)
REST_API = Api("rest", REST, script.DECISIONS)
APIS: List[Api] = [SMALL_API] + ([REST_API] if REST.exists() else [])
