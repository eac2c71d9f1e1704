"""A Sphinx directive that shows the endpoint table of :mod:`pdpyras`.

``.. endpoint-table::`` becomes a section for each family of endpoints, with
a table of its operations. All of it is read from the module while the
documentation is built, so the page cannot fall behind the code.

A path leads to its description in PagerDuty's API reference. The addresses
there name an operation by the file of the API document, its path and its
method, as in PagerDuty's own guides (``docs/REST-API/17-Audit-Records-API.md``
of the repository ``PagerDuty/developer-docs``). What the document does not
have under its name, as ``tools/endpoints.py`` knows, is no link.
"""

import importlib.util
import os
from itertools import groupby
from typing import Any, Dict, List, NamedTuple, Optional
from urllib.parse import quote

from docutils import nodes
from docutils.parsers.rst import Directive

import pdpyras

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
REFERENCE = "https://developer.pagerduty.com/api-reference/reference/"

# How paths begin that are not of the REST API's document; the document that
# they are in; and whether they begin so there, too.
FAMILIES = (
    ("/scim/v2", "scim", False),
    ("/integration-jira-cloud", "integration-jira-cloud", True),
    ("/integration-jira-service", "integration-jira-service", False),
    ("/integration-ms-teams", "integration-ms-teams-service", False),
    ("/integration-slack", "integration-slack-service", False),
)

HEADINGS = ("Method", "Path", "Request", "Response", "Pages", "Also")
WIDTHS = (10, 32, 19, 19, 10, 10)  # percent
NOT_WRAPPED = "—"


class Row(NamedTuple):
    """One operation, as the page shows it."""

    method: str
    path: str
    request: str
    response: str
    pages: str
    also: str


def _decisions() -> Any:
    """What people have decided about the API's document."""
    path = os.path.join(ROOT, "tools", "endpoints.py")
    spec = importlib.util.spec_from_file_location("endpoints", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.DECISIONS


DECISIONS = _decisions()
ORIGINALS = {
    path: original
    for original, paths in DECISIONS.replaced.items()
    for path in paths
}
UNLISTED = {
    *DECISIONS.added,
    *DECISIONS.historic,
    *DECISIONS.prose_only,
}
# Operations that it does not list of paths that it does.
UNLISTED_OPERATIONS = {
    (operation.partition(",")[0], path)
    for path, (operation, _) in DECISIONS.unlisted.items()
}


def reference(method: str, path: str) -> Optional[str]:
    """The address of an operation in PagerDuty's API reference.

    None for one that PagerDuty's document does not list.
    """
    if path in UNLISTED or (method, path) in UNLISTED_OPERATIONS:
        return None
    document, listed = "REST", ORIGINALS.get(path, path)
    for start, name, is_listed_so in FAMILIES:
        if path.startswith(start + "/"):
            document = name
            listed = path if is_listed_so else path[len(start) :]
    pointer = listed.replace("~", "~0").replace("/", "~1")
    place = f"{document}/openapiv3.json/paths/{quote(pointer, safe='~')}"
    return f"{REFERENCE}{place}/{method.lower()}"


def rows() -> List[Row]:
    """All operations of the module's table, in its order."""
    return [
        _row(endpoint, pdpyras._operation_of_table(endpoint))
        for endpoint, _ in pdpyras._operations_with("")
    ]


def _row(endpoint: str, operation: Any) -> Row:
    method, path = endpoint.split(" ", 1)
    request, response = pdpyras.entity_wrappers(method, path)
    is_stated = endpoint in pdpyras.ENTITY_WRAPPER_CONFIG
    if method == "DELETE" and not is_stated:
        # What is inferred for it is of no use: there are no bodies.
        return Row(method, path, "", "", "", _also(operation))
    return Row(
        method,
        path,
        "" if method == "GET" else request or NOT_WRAPPED,
        response or NOT_WRAPPED,
        _pages(operation),
        _also(operation),
    )


def _pages(operation: Any) -> str:
    style: str = operation.pagination
    if not style:
        return ""
    return f"{style} {operation.max_limit}"


def _also(operation: Any) -> str:
    notes = []
    if operation.from_required:
        notes.append("From")
    if operation.max_bulk:
        notes.append(f"up to {operation.max_bulk} at once")
    if operation.early_access:
        notes.append(f"early access: {operation.early_access}")
    if operation.host:
        notes.append(f"at {operation.host}")
    if operation.media_type:
        notes.append(operation.media_type)
    if operation.is_optional:
        notes.append("response wrapper optional")
    for name in sorted(operation.plain_params):
        notes.append(f"{name} without []")
    return "; ".join(notes)


def family(row: Row) -> str:
    """The first node of the path, under which a row is filed."""
    return row.path.split("/")[1]


def _section(name: str, members: List[Row]) -> nodes.section:
    anchor = "endpoints-" + nodes.make_id(name)
    section = nodes.section(ids=[anchor], names=[anchor])
    section += nodes.title("", "", nodes.literal("", "/" + name))
    section += _table(members)
    return section


def _table(members: List[Row]) -> nodes.table:
    table = nodes.table(classes=["endpoints", "colwidths-given"])
    group = nodes.tgroup(cols=len(HEADINGS))
    table += group
    for width in WIDTHS:
        group += nodes.colspec(colwidth=width)
    head, body = nodes.thead(), nodes.tbody()
    group += head
    group += body
    head += _table_row([nodes.Text(heading) for heading in HEADINGS])
    for member in members:
        cells = [_cell(i, text) for i, text in enumerate(member)]
        address = reference(member.method, member.path)
        if address:
            cells[1] = nodes.reference("", "", cells[1], refuri=address)
        body += _table_row(cells)
    return table


def _cell(column: int, text: str) -> nodes.Node:
    is_code = column < 4 and text not in ("", NOT_WRAPPED)
    return nodes.literal(text, text) if is_code else nodes.Text(text)


def _table_row(cells: List[nodes.Node]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        entry = nodes.entry()
        entry += nodes.paragraph("", "", cell)
        row += entry
    return row


class EndpointTable(Directive):
    """``.. endpoint-table::``"""

    def run(self) -> List[nodes.Node]:
        """A section for each family of endpoints."""
        return [
            _section(name, list(members))
            for name, members in groupby(sorted(rows(), key=family), family)
        ]


def find_inherited(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Resolve a reference to an attribute that a class has inherited."""
    owner = getattr(pdpyras, str(node.get("py:class")), None)
    if node.get("refdomain") != "py" or not isinstance(owner, type):
        return None
    domain = env.get_domain("py")
    for base in owner.__mro__[1:]:
        target = f"{base.__module__}.{base.__name__}.{node['reftarget']}"
        if target in domain.objects:
            return domain.resolve_xref(
                env,
                node["refdoc"],
                app.builder,
                node["reftype"],
                target,
                node,
                content,
            )
    return None


def setup(app: Any) -> Dict[str, Any]:
    """Make the directive known to Sphinx."""
    app.add_directive("endpoint-table", EndpointTable)
    app.connect("missing-reference", find_inherited)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
