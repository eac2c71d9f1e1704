"""Write the inventories by which these pages link to other projects'.

Usage: python3 sphinx/inventories.py

An inventory is what Sphinx's intersphinx extension reads to find a name in
another documentation. The published ones hold thousands of names and have to
be fetched; these hold the few that we need and are kept beside the sources,
so that the documentation can be built without a network.
"""

import os
import zlib
from typing import Dict, Iterator, List, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))
DIRECTORY = os.path.join(HERE, "source", "inventories")

# Project -> page -> role -> names. The anchor is the name itself.
Names = Dict[str, Dict[str, List[str]]]

PYTHON: Names = {
    "library/constants.html": {"data": ["None", "True", "False"]},
    "library/stdtypes.html": {
        "class": [
            *("bool", "bytearray", "bytes", "dict", "list", "memoryview"),
            *("set", "str", "tuple"),
        ],
    },
    "library/functions.html": {
        "class": ["float", "int", "object", "property"],
        "function": ["bool", "iter", "open", "repr"],
    },
    "library/exceptions.html": {
        "exception": [
            "AttributeError",
            "DeprecationWarning",
            "Exception",
            "KeyError",
            "OSError",
            "TypeError",
            "ValueError",
        ]
    },
    "library/collections.abc.html": {
        "class": [
            "collections.abc." + name
            for name in (
                "Callable",
                "Iterable",
                "Iterator",
                "Mapping",
                "Sequence",
            )
        ]
    },
    "library/typing.html": {
        "class": [
            "typing." + name
            for name in (
                "Callable",
                "Dict",
                "FrozenSet",
                "Iterable",
                "Iterator",
                "List",
                "Mapping",
                "NamedTuple",
                "Sequence",
                "Set",
                "Tuple",
                "Type",
            )
        ],
        "data": ["typing.Any", "typing.Optional", "typing.Union"],
    },
    "library/types.html": {
        "class": ["types.ModuleType", "types.TracebackType"]
    },
    "library/csv.html": {"module": ["csv"]},
    "library/datetime.html": {
        "class": ["datetime.datetime", "datetime.timedelta"]
    },
    "library/os.html": {"class": ["os.PathLike"]},
    "library/json.html": {"module": ["json"]},
    "library/logging.html": {
        "class": ["logging.Logger"],
        "module": ["logging"],
    },
    "library/logging.handlers.html": {"class": ["logging.StreamHandler"]},
    "library/pickle.html": {"module": ["pickle"]},
    "library/threading.html": {"class": ["threading.Thread"]},
    "library/time.html": {"module": ["time"], "function": ["time.sleep"]},
    "library/concurrent.futures.html": {
        "module": ["concurrent.futures"],
        "class": [
            "concurrent.futures.ProcessPoolExecutor",
            "concurrent.futures.ThreadPoolExecutor",
        ],
    },
}

REQUESTS: Names = {
    "api/": {
        "class": [
            "requests.PreparedRequest",
            "requests.Response",
            "requests.Session",
            "requests.adapters.HTTPAdapter",
        ],
        "method": [
            "requests.Response.json",
            *(
                "requests.Session." + name
                for name in (
                    "delete",
                    "get",
                    "mount",
                    "patch",
                    "post",
                    "put",
                    "request",
                )
            ),
        ],
        "exception": [
            "requests.ConnectionError",
            "requests.RequestException",
            "requests.exceptions.ConnectionError",
            "requests.exceptions.RequestException",
            "requests.exceptions.RetryError",
        ],
    },
}

URLLIB3: Names = {
    "reference/urllib3.exceptions.html": {
        "exception": [
            "urllib3.exceptions.HTTPError",
            "urllib3.exceptions.PoolError",
        ]
    },
    "reference/urllib3.util.html": {
        "class": ["urllib3.util.Retry", "urllib3.util.retry.Retry"]
    },
}

# requests re-exports names from modules that its documentation never names,
# and those are what signatures show.
ALIASES: Dict[str, List[Tuple[str, str, str]]] = {
    "python": [],
    "requests": [
        (f"requests.{module}.{name}", role, f"api/#requests.{name}")
        for module, name, role in (
            ("models", "PreparedRequest", "class"),
            ("models", "Request", "class"),
            ("models", "Response", "class"),
            ("sessions", "Session", "class"),
        )
    ]
    + [
        (name, "class", f"api/#requests.{name}")
        for name in ("PreparedRequest", "Request", "Response")
    ],
    "urllib3": [],
}

PROJECTS = {"python": PYTHON, "requests": REQUESTS, "urllib3": URLLIB3}


def entries(project: str) -> Iterator[str]:
    """The lines of an inventory: name, role, priority, address, title."""
    lines = [
        f"{name} py:{role} 1 {page}#{anchor(role, name)} -"
        for page, roles in PROJECTS[project].items()
        for role, names in roles.items()
        for name in names
    ]
    lines += [
        f"{name} py:{role} 1 {address} -"
        for name, role, address in ALIASES[project]
    ]
    return iter(sorted(lines))


def anchor(role: str, name: str) -> str:
    """Where on its page a name is explained."""
    return f"module-{name}" if role == "module" else name


def inventory(project: str) -> bytes:
    """A whole inventory, in version 2 of Sphinx's format."""
    head = (
        "# Sphinx inventory version 2\n"
        f"# Project: {project}\n"
        "# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    body = "".join(line + "\n" for line in entries(project))
    return head.encode() + zlib.compress(body.encode(), 9)


def main() -> None:
    """Write all of them."""
    os.makedirs(DIRECTORY, exist_ok=True)
    for project in PROJECTS:
        path = os.path.join(DIRECTORY, project + ".inv")
        with open(path, "wb") as file:
            file.write(inventory(project))


if __name__ == "__main__":
    main()
