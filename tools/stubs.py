"""The stub of a module, cut from its source: signatures and docstrings.

    python tools/stubs.py pdpyras.py

Type checkers and editors read the stubs of an installed distribution in place
of its modules. setup.py makes them while it builds, on any Python from 3.6 up.
The source is cut at its tokens, since these are the same on all of them.

What is left out: bodies, values, what is private unless something public
refers to it, and imports that nothing needs. What is added: attributes that
methods set on ``self``, and ``#:`` comments as the docstrings that editors
show. Each ``**kwargs: Unpack[SomeTypedDict]`` is spelled out, because many
tools do not see through it.
"""

import ast
import io
import re
import sys
import tokenize
from typing import Dict, Iterable, Iterator, List, Optional, Set, Tuple

Tokens = List[tokenize.TokenInfo]

INDENT = "    "
OPENING, CLOSING = "([{", ")]}"
LAYOUT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
}
# What is none of a checker's business.
LEFT_OUT = {"", "__attrs__", "__reduce__", "__getstate__", "__setstate__"}
# The end of a signature whose further arguments a TypedDict lists.
UNPACKED = re.compile(r"\*\*\w+: Unpack\[(\w+)\]")
SHORT_LITERAL = re.compile(r"[\d.]+|True|False|None|\"[^\"]*\"")
TARGET = re.compile(r"\bself\.([a-z]\w*)(?=,|$)")
ANNOTATION_IN_QUOTES = re.compile(r"([\"'])[\w\[\], .]+\1")


class StubError(Exception):
    """The source does not say the type of something public."""


class Statement:
    """A logical line, what is indented below it, and what is said above."""

    def __init__(
        self, lines: List[str], tokens: Tokens, notes: List[str]
    ) -> None:
        self.lines = lines  # of the whole source
        self.tokens = [t for t in tokens if t.type not in LAYOUT]
        self.notes = notes
        # What tells checkers to be silent about it.
        self.ignored = "".join(
            f"  {token.string}"
            for token in tokens[len(self.tokens) :][-1:]
            if token.string.startswith("# type: ignore")
        )
        self.decorators: List[Statement] = []
        self.body: List[Statement] = []

    def __getitem__(self, index: int) -> str:
        """A token's text, or nothing."""
        tokens = self.tokens[index : index + 1]
        return tokens[0].string if tokens else ""

    @property
    def keyword(self) -> str:
        """What begins it; ``async`` aside."""
        return self[1] if self[0] == "async" else self[0]

    @property
    def name(self) -> str:
        """The name that it defines, or nothing."""
        if self.keyword in ("def", "class"):
            return self[2] if self[0] == "async" else self[1]
        return self[0] if self[1] in ("=", ":") else ""

    @property
    def is_private(self) -> bool:
        return re.match("_(?!_)", self.name) is not None

    @property
    def is_text(self) -> bool:
        """Whether it is a str and nothing else, as docstrings are."""
        return {token.type for token in self.tokens} == {tokenize.STRING}

    @property
    def docstring(self) -> Optional["Statement"]:
        """The docstring of what it defines."""
        is_there = bool(self.body) and self.body[0].is_text
        return self.body[0] if is_there else None

    def text(self, first: int = 0, end: Optional[int] = None) -> str:
        """What stands in the source from one token to another."""
        tokens = self.tokens[first:end]
        if not tokens:
            return ""
        (top, left), (bottom, right) = tokens[0].start, tokens[-1].end
        lines = self.lines[top - 1 : bottom]
        lines[-1] = lines[-1][:right]
        lines[0] = lines[0][left:]
        return "\n".join(lines)

    def find(self, text: str, first: int = 0) -> int:
        """The index of a token outside of all brackets, or of the end."""
        depth = 0
        for index, token in enumerate(self.tokens):
            depth -= token.string in tuple(CLOSING)
            if index >= first and not depth and token.string == text:
                return index
            depth += token.string in tuple(OPENING)
        return len(self.tokens)


# ---------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------


def statements(source: str) -> List[Statement]:
    """The statements of a module."""
    lines = source.split("\n")
    top: List[Statement] = []
    blocks = [top]
    line: Tokens = []
    notes: List[str] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.INDENT:
            blocks.append(blocks[-1][-1].body)
        elif token.type == tokenize.DEDENT:
            blocks.pop()
        elif token.type == tokenize.NEWLINE:
            add(Statement(lines, line, notes), blocks[-1])
            line, notes = [], []
        elif line or token.type not in LAYOUT:
            line.append(token)
        elif token.string.startswith("#:"):
            notes.append(token.string[2:].strip())
    return top


def add(statement: Statement, block: List[Statement]) -> None:
    """Add a statement to a block, together with its decorators."""
    while statement[0] != "@" and block and block[-1][0] == "@":
        statement.decorators.insert(0, block.pop())
    block.append(statement)


def visible(block: Iterable[Statement]) -> Iterator[Statement]:
    """The statements that a checker shall see.

    Of ``if`` and ``try`` that is the first branch, in which these modules
    have what holds for newer Pythons; ``if not TYPE_CHECKING`` is left out.
    """
    for statement in block:
        if statement[0] in ("if", "try"):
            if statement[1] != "not":
                yield from visible(statement.body)
        elif statement[0] not in ("else", "elif", "except", "finally"):
            yield statement


def parameters(function: Statement) -> Iterator[Tuple[str, str]]:
    """The parameters of a function, and their annotations."""
    first = function.find("(") + 1
    tokens = function.tokens[first : function.find(")", first)]
    rest = Statement(function.lines, tokens, [])
    while rest.tokens:
        end = rest.find(",")
        one = Statement(function.lines, rest.tokens[:end], [])
        if one[1] == ":":
            yield one[0], one.text(2, one.find("="))
        rest = Statement(function.lines, rest.tokens[end + 1 :], [])


def attributes_set(function: Statement) -> Iterator[Tuple[str, str]]:
    """The attributes that a method sets, and their types, "" if unknown."""
    known = dict(parameters(function))
    within = list(function.body)
    for statement in within:
        within.extend(statement.body)
        equals = statement.find("=")
        value = statement.text(equals + 1)
        annotation = known.get(value) or type_of_literal(value)
        if statement[0] == "self" and statement[3] == ":":
            yield statement[2], statement.text(4, equals)
        elif equals < len(statement.tokens):
            for target in TARGET.findall(statement.text(0, equals)):
                yield target, annotation


def type_of_literal(value: str) -> str:
    """The type of a simple constant; nothing for all else."""
    try:
        kind = type(ast.literal_eval(value))
    except (SyntaxError, ValueError):
        return ""
    simple = kind in (bool, bytes, float, int, str)
    return kind.__name__ if simple else ""


# ---------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------


class Stub:
    """The stub of one module."""

    def __init__(self, source: str) -> None:
        self.statements = list(visible(statements(source)))
        self.named: Dict[str, List[Statement]] = {}
        for statement in self.statements:
            if statement.name not in LEFT_OUT:
                self.named.setdefault(statement.name, []).append(statement)

    def text(self) -> str:
        """The whole of it."""
        needed = self.needed()
        lines = [s.text() for s in self.statements[:1] if s.is_text]
        for statement in self.statements:
            if statement[0] in ("import", "from"):
                lines += imports(statement, needed)
            elif statement.name in self.named and statement.name in needed:
                lines += self.definition(statement, "")
        text = "\n".join(lines) + "\n"
        compile(text, "the stub", "exec")
        return text

    def needed(self) -> Set[str]:
        """All public names, and those that these refer to."""
        needed: Set[str] = set()
        new = {
            statement.name
            for statement in self.statements
            if not statement.is_private
        }
        while new:
            needed |= new
            definitions = "\n".join(
                line
                for name in new
                for statement in self.named.get(name, ())
                for line in self.definition(statement, "")
            )
            new = set(names_in(definitions)) - needed
        return needed

    def definition(self, statement: Statement, indent: str) -> Iterator[str]:
        """A function, class, or variable."""
        if statement.keyword not in ("def", "class"):
            yield from variable(statement, indent)
            return
        yield ""
        for decorator in statement.decorators:
            yield indent + decorator.text() + decorator.ignored
        head = indent + statement.text(0, statement.find(":"))
        head = UNPACKED.sub(self.spelled_out, head)
        inside = []
        docstring = statement.docstring
        if docstring is not None and not statement.is_private:
            inside.append(indent + INDENT + docstring.text())
        if statement.keyword == "class":
            inside += self.members(statement, indent + INDENT)
        yield head + (":" if inside else ": ...") + statement.ignored
        yield from inside

    def spelled_out(self, unpacked: "re.Match[str]") -> str:
        """The keyword arguments that a TypedDict lists."""
        options = [
            f"{name}: {annotation} = ..."
            for name, annotation in self.items(unpacked.group(1))
        ]
        before = unpacked.string[: unpacked.start()]
        if not re.search(r"[(,]\s*\*", before):
            options.insert(0, "*")
        return f",\n{2 * INDENT}".join(options)

    def items(self, name: str) -> Iterator[Tuple[str, str]]:
        """The items of a TypedDict, and their types."""
        class_ = self.named[name][0]
        for member in class_.body:
            if member[1] == ":":
                yield member.name, member.text(2)
        for base in self.bases(class_):
            yield from self.items(base.name)

    def members(self, class_: Statement, indent: str) -> Iterator[str]:
        """What a class defines, and what its methods set."""
        for member in visible(class_.body):
            if member.name not in LEFT_OUT and not member.is_private:
                yield from self.definition(member, indent)
        inherited = set().union(*map(self.attributes, self.bases(class_)))
        is_certain = not class_.is_private and not self.is_foreign(class_)
        for name, annotation in self.undeclared(class_).items():
            if annotation and name not in inherited:
                yield f"{indent}{name}: {annotation}"
            elif is_certain and name not in inherited:
                raise StubError(f"{class_.name}.{name} has no annotation")

    def undeclared(self, class_: Statement) -> Dict[str, str]:
        """The public attributes that only the methods of a class set."""
        declared = {member.name for member in visible(class_.body)}
        found: Dict[str, str] = {}
        for member in class_.body:
            if member.keyword == "def":
                for name, annotation in attributes_set(member):
                    if name not in declared:
                        found[name] = found.get(name) or annotation
        return found

    def is_foreign(self, class_: Statement) -> bool:
        """Whether a class inherits from one that is not of this module."""
        names = set(names_in(class_.text(2, class_.find(":"))))
        bases = self.bases(class_)
        return not names <= set(self.named) or any(map(self.is_foreign, bases))

    def bases(self, class_: Statement) -> Iterator[Statement]:
        """The classes of this module that a class names."""
        for name in names_in(class_.text(2, class_.find(":"))):
            for statement in self.named.get(name, ()):
                if statement.keyword == "class":
                    yield statement

    def attributes(self, class_: Statement) -> Set[str]:
        """The names of all that a class has."""
        names = {member.name for member in class_.body}
        names.update(self.undeclared(class_))
        return names.union(*map(self.attributes, self.bases(class_)))


def variable(statement: Statement, indent: str) -> Iterator[str]:
    """A variable; of its value no more than checkers or readers need."""
    equals = statement.find("=")
    text = statement.text()
    is_alias = statement[2] == '"TypeAlias"'
    if statement[1] == ":" and equals < len(statement.tokens) and not is_alias:
        value = statement.text(equals + 1)
        text = statement.text(0, equals)
        if indent:  # A named tuple is told what has a default.
            text += f" = {value if SHORT_LITERAL.fullmatch(value) else '...'}"
    yield indent + text + statement.ignored
    if statement.notes and not statement.is_private:
        notes = f"\n{indent}".join(statement.notes)
        yield f'{indent}"""{notes}"""'


def imports(statement: Statement, needed: Set[str]) -> Iterator[str]:
    """An import of no more than is needed."""
    words = " ".join(token.string for token in statement.tokens)
    source, _, listed = words.replace(" . ", ".").rpartition("import ")
    names = [name.split() for name in listed.strip("() ").split(",")]
    kept = [
        " ".join(name)
        for name in names
        if name and name[-1].split(".")[0] in needed
    ]
    if kept:
        yield f"{source}import {', '.join(kept)}"


def names_in(text: str) -> Iterator[str]:
    """The names in a piece of source, those within annotations too."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield token.string
        elif ANNOTATION_IN_QUOTES.fullmatch(token.string):
            yield from re.findall(r"\w+", token.string)


def stub(path: str) -> str:
    """The stub of the module in a file."""
    with open(path, encoding="utf-8") as file:
        source = file.read()
    try:
        return Stub(source).text()
    except StubError as error:
        raise StubError(f"{path}: {error}") from None


if __name__ == "__main__":
    sys.stdout.write("".join(map(stub, sys.argv[1:])))
