"""A Sphinx directive that shows the settings of a session class.

``.. settings-table:: APISession`` becomes a table of what can be set on a
session of this class and is not a setting of its base class, or has another
default there. Names, types, defaults, meanings and environment variables are
read from the classes while the documentation is built. The units are the
only thing that has to be said here, and a number without one ends the build.
"""

import inspect
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Union

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

import pdpyras

# What numbers count, and what the types do not say.
UNITS = {
    "deadline": "seconds",
    "default_page_size": "records",
    "max_http_attempts": "retries",
    "max_network_attempts": "retries",
    "max_rate_wait": "seconds",
    "max_response_size": "bytes",
    "prefetch": "pages",
    "retry": "retries, by status",
    "sleep_timer": "seconds",
    "sleep_timer_base": "factor",
    "sleep_timer_max": "seconds",
    "stagger_cooldown": "share",
    "timeout": "seconds",
}
TYPES = {
    "api_key": "str, or a credential",
    "outbox": "Outbox, path, or None",
    "timeout": "number, pair of numbers, or None",
}
# Other names, and what only tests replace.
NOT_SETTINGS = (
    *("api_call_counts", "api_time", "debug", "default_sender"),
    *("log", "parent", "raise_if_http_error"),
)
REQUIRED = "(required)"
WIDTHS = ("22", "18", "16", "38", "24")
HEADINGS = ("Setting", "Type", "Default", "Meaning", "Environment")
KEY = "not-a-real-key"


class Setting(NamedTuple):
    """One setting, as the page shows it; all but the name is RST."""

    name: str
    kind: str
    default: str
    meaning: str
    variable: str


def settings(cls: type) -> Iterator[Setting]:
    """All settings of a session class, by name."""
    session = cls(KEY)
    variables = environment(cls)
    for name in sorted(set(_names(cls))):
        owner = next(base for base in cls.__mro__ if name in vars(base))
        default = REQUIRED
        if name != "api_key":
            default = f"``{getattr(session, name)!r}``"
        yield Setting(
            name,
            _kind(cls, name),
            default,
            meaning(owner, name),
            variables.get(name, ""),
        )
    session.close()


def _names(cls: type) -> Iterator[str]:
    """What is meant to be set: attributes, and properties with a setter."""
    for base in cls.__mro__:
        if base.__module__ != pdpyras.__name__:
            continue
        named = set(base.__dict__.get("__annotations__", ()))
        for name, value in vars(base).items():
            if isinstance(value, property) and value.fset is not None:
                named.add(name)
        for name in named.intersection(vars(base)):
            if not name.startswith("_") and name not in NOT_SETTINGS:
                yield name


def _kind(cls: type, name: str) -> str:
    """The type, and the unit."""
    kind = TYPES.get(name) or spelled(_annotation(cls, name))
    unit = UNITS.get(name)
    if unit is None and any(w in kind for w in ("int", "float", "number")):
        raise ExtensionError(f"What does {name} count? Add it to UNITS.")
    return f"{kind}; {unit}" if unit else kind


def _annotation(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        value = vars(base).get(name)
        if isinstance(value, property):
            return _resolved(inspect.signature(value.fget).return_annotation)
        if name in base.__dict__.get("__annotations__", {}):
            return _resolved(base.__annotations__[name])
    raise ExtensionError(f"What is the type of {name}?")


def _resolved(annotation: Any) -> Any:
    # typing.get_type_hints fails on annotations of requests.Session.
    if isinstance(annotation, str):
        return eval(annotation, vars(pdpyras))
    return annotation


def spelled(annotation: Any) -> str:
    """A type in words: ``Optional[float]`` is ``float or None``."""
    if annotation is type(None):
        return "None"
    arguments = [spelled(a) for a in getattr(annotation, "__args__", ())]
    origin = getattr(annotation, "__origin__", None)
    if origin is Union:
        return " or ".join(arguments)
    if origin is dict:
        return "dict"
    if origin is not None:
        return f"{origin.__name__.lower()} of {arguments[0]}"
    if annotation is Any:
        raise ExtensionError("Any says nothing: add the setting to TYPES.")
    return str(annotation.__name__)


def meaning(owner: type, name: str) -> str:
    """What the source says of a setting, without fields."""
    value = vars(owner).get(name)
    if isinstance(value, property):
        lines = inspect.getdoc(value).split("\n\n")[:1]
    else:
        lines = _comments(owner, name)
    return " ".join(" ".join(lines).split())


def _comments(owner: type, name: str) -> List[str]:
    """The ``#:`` comment of an attribute, of this class or a base."""
    documented = ModuleAnalyzer.for_module(pdpyras.__name__).find_attr_docs()
    for base in owner.__mro__:
        lines = documented.get((base.__qualname__, name))
        if lines:
            return list(lines)
    raise ExtensionError(f"{owner.__name__}.{name} is not documented.")


def environment(cls: type) -> Dict[str, str]:
    """The setting that each environment variable gives, turned round."""

    class Echo(Dict[str, str]):
        """An environment in which each variable holds its own name."""

        def get(self, name: str, default: Optional[str] = None) -> Any:
            return name

    arguments = cls._arguments_from(Echo())
    return {
        # The region is no attribute of its own: it chooses the URL.
        setting: str(variable)
        for setting, variable in arguments.items()
    }


def rows(cls: type) -> List[Setting]:
    """The settings that a class adds to its base class, or changes.

    And those that the environment has: which variable depends on the class.
    """
    if cls is pdpyras.PDSession:
        return list(settings(cls))
    known = {s.name: s for s in settings(pdpyras.PDSession)}
    return [
        setting
        for setting in settings(cls)
        if setting.name not in known
        or setting.variable
        or setting.default != known[setting.name].default
    ]


def variable_of(cls: type, setting: Setting) -> str:
    """The cell of the environment; the URL may come by its region, too."""
    variables = [setting.variable]
    if setting.name == "url":
        variables.append(environment(cls)["region"])
    return ", ".join(f"``{name}``" for name in variables if name)


class SettingsTable(SphinxDirective):
    """``.. settings-table:: CLASS``"""

    required_arguments = 1

    def run(self) -> List[nodes.Node]:
        """A table of the settings."""
        cls = getattr(pdpyras, self.arguments[0])
        cells = [HEADINGS]
        for setting in rows(cls):
            cells.append(
                (
                    link(cls, setting.name),
                    setting.kind,
                    setting.default,
                    setting.meaning,
                    variable_of(cls, setting),
                )
            )
        # Which variables count depends on the subclass.
        columns = 4 if cls is pdpyras.PDSession else 5
        lines = [
            ".. list-table::",
            "    :header-rows: 1",
            f"    :widths: {' '.join(WIDTHS[:columns])}",
            "    :class: settings",
            "",
        ]
        for row in cells:
            lines += self._row(row[:columns])
        context = dict(self.env.ref_context)
        self.env.ref_context.update(
            {"py:module": pdpyras.__name__, "py:class": cls.__name__}
        )
        container = nodes.Element()
        self.state.nested_parse(StringList(lines, __file__), 0, container)
        self.env.ref_context.clear()
        self.env.ref_context.update(context)
        return list(container.children)

    @staticmethod
    def _row(cells: Any) -> List[str]:
        first, *others = cells
        return [f"    * - {first}", *(f"      - {cell}" for cell in others)]


def link(cls: type, name: str) -> str:
    """A link to where the reference describes a setting."""
    owner = cls
    if name in _names(pdpyras.PDSession):
        owner = pdpyras.PDSession
    return f":attr:`~pdpyras.{owner.__name__}.{name}`"


def setup(app: Any) -> Dict[str, Any]:
    """Make the directive known to Sphinx."""
    app.add_directive("settings-table", SettingsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
