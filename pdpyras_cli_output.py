"""Records as text, for terminals, files and other programs.

What the command line prints, and where: formats, none of which lets a server's
control characters reach the terminal; messages on stderr; and exports that can
be resumed where they were interrupted.

It needs the standard library alone.
"""

import contextlib
import io
import itertools
import json
import os
import re
import sys
import time
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    TextIO,
    Tuple,
)

__all__ = [
    "FORMATS",
    "SUCCESS",
    "REFUSED",
    "USAGE",
    "NETWORK",
    "NOT_FOUND",
    "INCOMPLETE",
    "INTERRUPTED",
    "AnswerError",
    "Export",
    "cell",
    "chunks",
    "field",
    "file_name",
    "forget_stdout",
    "is_terminal",
    "one_line",
    "picked",
    "print_all",
    "print_one",
    "progress",
    "say",
    "to_json",
    "to_stderr",
    "use_utf8",
    "write",
]


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# Exit statuses.
SUCCESS = 0
REFUSED = 1
USAGE = 2
NETWORK = 3
NOT_FOUND = 4
INCOMPLETE = 5
INTERRUPTED = 130

FORMATS = ("json", "jsonl", "csv", "tsv", "table", "ids")

# Formats that can be resumed where they were interrupted.
RESUMABLE_FORMATS = ("jsonl", "csv", "tsv", "ids")

# Columns of a table without --fields: those of these that there are.
TABLE_COLUMNS = (
    *("id", "summary", "name", "status", "urgency", "severity", "email"),
    *("role", "type", "created_at", "start", "end"),
)

# Rows whose cells determine the widths of the columns of a table.
TABLE_SAMPLE = 100

# Seconds between two updates of progress, and two saves of a position.
PROGRESS_INTERVAL = 0.1
SAVE_INTERVAL = 1.0

Records = Iterator[Any]
Fields = Sequence[str]


class AnswerError(Exception):
    """The API's answer lacks what the command needs of it."""


# ---------------------------------------------------------------------------
# Texts
# ---------------------------------------------------------------------------

# What a terminal could take for a command, and what UTF-8 cannot encode: both
# are escaped as in JSON.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff]"
)
_NO_CHARACTER = re.compile("[\ud800-\udfff]")
_LAYOUT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def _escape(match: Any) -> str:
    return f"\\u{ord(match.group()):04x}"


def _safe(text: str) -> str:
    """A server's text, harmless to a terminal."""
    return _UNSAFE.sub(_escape, text)


def one_line(text: str) -> str:
    """A server's text in one line, harmless to a terminal."""
    for character in "\r\n\t":
        text = text.replace(character, _LAYOUT[character])
    return _safe(text)


def to_json(value: Any, indent: Optional[int] = None) -> str:
    """JSON that is readable, and harmless to a terminal."""
    return _safe(json.dumps(value, ensure_ascii=False, indent=indent))


def field(value: Any, path: str, absent: Any = None) -> Any:
    """What a path such as ``service.summary`` leads to.

    In a list, it leads to a list. What is null may have any field.

    :param absent: what stands for a field that is not there
    """
    if not path or value is None:
        return value
    if isinstance(value, list):
        return [field(item, path, absent) for item in value]
    if not isinstance(value, dict):
        return absent
    if path in value:
        return value[path]
    name, _, rest = path.partition(".")
    return field(value[name], rest, absent) if name in value else absent


def cell(record: Any, path: str) -> str:
    """A field in a table: a text as it is, a list of texts, or else JSON."""
    value = field(record, path)
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        value = ", ".join(value)
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    return _NO_CHARACTER.sub(_escape, value)


def _width(text: str) -> int:
    """The number of columns of a text on a terminal."""
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1
        for c in text
    )


# ---------------------------------------------------------------------------
# Formats
# ---------------------------------------------------------------------------
#
# A format makes chunks of text, one a record, and asks for the next record
# only when the text of the last one has been written.


def picked(record: Any, fields: Fields) -> Any:
    """The record, or an object of these fields of it."""
    return {f: field(record, f) for f in fields} if fields else record


def _as_json(records: Records, fields: Fields) -> Iterator[str]:
    before = "["
    for record in records:
        text = to_json(picked(record, fields), 2).replace("\n", "\n  ")
        yield f"{before}\n  {text}"
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def _as_jsonl(records: Records, fields: Fields) -> Iterator[str]:
    for record in records:
        yield to_json(picked(record, fields)) + "\n"


def _as_ids(records: Records, fields: Fields) -> Iterator[str]:
    for record in records:
        identity = cell(record, "id")
        if not identity:
            raise ValueError(
                "There is a record without id. Choose another format, and "
                "--fields."
            )
        yield one_line(identity) + "\n"


def _csv_line(cells: Sequence[str]) -> str:
    import csv

    line = io.StringIO()
    # Only what could be a line end is quoted, and "\r" could.
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    text = line.getvalue()[:-2] + "\n"
    return _safe(text) if is_terminal(sys.stdout) else text


def _tsv_line(cells: Sequence[str]) -> str:
    doubled = (cell.replace("\\", "\\\\") for cell in cells)
    return "\t".join(map(one_line, doubled)) + "\n"


def _as_lines(
    line: Callable[[Sequence[str]], str],
    is_begun: bool,
    records: Records,
    fields: Fields,
) -> Iterator[str]:
    """A line of cells for each record, below one that names the columns.

    :param is_begun: that line is there already
    """
    columns = list(fields)
    other: Set[str] = set()
    head = "" if is_begun or not columns else line(columns)
    for record in records:
        simple = [n for n, v in _items(record) if not isinstance(v, _NESTED)]
        if not columns:
            columns = simple
            head = "" if is_begun else line(columns)
        simple = [name for name in simple if record[name] is not None]
        if not fields and not other and not set(simple) <= set(columns):
            other = set(simple) - set(columns)
            say(
                "warning: the columns are those of the first record. Others "
                f"have {', '.join(sorted(other))} as well: name the columns "
                "with --fields."
            )
        yield head + line([cell(record, column) for column in columns])
        head = ""
    yield head


_NESTED = (dict, list)


def _items(record: Any) -> Iterable[Tuple[str, Any]]:
    return record.items() if isinstance(record, dict) else ()


def _as_table(records: Records, fields: Fields) -> Iterator[str]:
    """Aligned columns, as wide as the cells of the first records."""
    sample = list(itertools.islice(records, TABLE_SAMPLE))
    columns = list(fields) or _columns_of(sample)

    def row(record: Any) -> List[str]:
        return [one_line(cell(record, column)) for column in columns]

    head = [list(map(one_line, columns))] if columns else []
    rows = head + [row(record) for record in sample]
    widths = [max(map(_width, column)) for column in zip(*rows)]
    for cells in itertools.chain(rows, map(row, records)):
        padded = (
            cell + " " * (width - _width(cell))
            for cell, width in zip(cells, widths)
        )
        yield "  ".join(padded).rstrip() + "\n"


def _columns_of(records: Sequence[Any]) -> List[str]:
    """The usual columns that say something, or all that are simple."""
    said = [
        column
        for column in TABLE_COLUMNS
        if any(cell(record, column) for record in records)
        and not isinstance(field(records[0], column), _NESTED)
    ]
    same = {"summary", "name"}
    if same <= set(said) and all(
        cell(r, "summary") == cell(r, "name") for r in records
    ):
        said.remove("summary")
    names = [name for record in records for name, _ in _items(record)]
    return said or list(dict.fromkeys(names))


def chunks(
    records: Records, options: Any, usual: str, is_begun: bool = False
) -> Iterator[str]:
    """The records in the format that is asked for, or the usual one."""
    name, fields = options.format or usual, options.fields or ()
    if name == "csv":
        return _as_lines(_csv_line, is_begun, records, fields)
    if name == "tsv":
        return _as_lines(_tsv_line, is_begun, records, fields)
    simple = {
        "json": _as_json,
        "jsonl": _as_jsonl,
        "table": _as_table,
        "ids": _as_ids,
    }
    return simple[name](records, fields)


def print_all(records: Records, options: Any, usual: str) -> None:
    """Print records as they come."""
    if (options.format or usual) in ("csv", "tsv", "table"):
        records = map(_as_object, records)
    for text in chunks(_checked(records, options.fields), options, usual):
        write(text)


def _as_object(record: Any) -> Any:
    """A record for a format that has columns; some are texts or numbers."""
    return record if isinstance(record, dict) else {"value": cell(record, "")}


def _checked(records: Records, fields: Optional[Sequence[str]]) -> Records:
    """The records; at their end, fields that none of them has are named."""
    missing, has_any = list(fields or ()), False
    for record in records:
        has_any = True
        if missing:
            missing = [
                name
                for name in missing
                if _is_absent(field(record, name, _ABSENT))
            ]
        yield record
    if missing and has_any:
        say(f"No record has the field {', '.join(missing)}.")


_ABSENT = object()


def _is_absent(found: Any) -> bool:
    """Is a field in no item of a list? In an empty list it may be."""
    if isinstance(found, list) and found:
        return all(map(_is_absent, found))
    return found is _ABSENT


def print_one(result: Any, options: Any) -> None:
    """One result: indented JSON, unless something else is asked for."""
    if result is None:
        return
    is_list = isinstance(result, list)
    records = result if is_list else [result]
    if (options.format or "json") == "json":
        checked = _checked(iter(records), options.fields)
        found = [picked(item, options.fields) for item in checked]
        write(to_json(found if is_list else found[0], 2) + "\n")
        return
    print_all(iter(records), options, "json")


# ---------------------------------------------------------------------------
# The terminal
# ---------------------------------------------------------------------------


def is_terminal(stream: Optional[TextIO]) -> bool:
    """Is a stream, which may be closed, a terminal?"""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False  # It is closed.


def write(text: str) -> None:
    """Write to stdout, and flush it."""
    if text and sys.stdout is not None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            forget_stdout()  # What remains in its buffer would fail again.
            raise


def file_name(text: str) -> bytes:
    """The bytes of a path, whatever the locale."""
    return text.encode("utf-8", "surrogateescape")


def to_stderr(text: str) -> None:
    """Write to stderr, if that is possible."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()


def say(text: str) -> None:
    """Write a message to stderr, in one line, as it helps in a shell."""
    progress.clear()
    for pattern, replacement in _IN_A_SHELL:
        text = re.sub(pattern, replacement, text)
    to_stderr(f"pdpyras: {one_line(text)}\n")


# What the client advises to scripts, and passwords in base URLs.
_IN_A_SHELL = (
    ("set the attribute `url` of the session", "give --region or --url"),
    ("Set the attribute `url` to https://", "Give --url an https:// URL"),
    ("session.verify or REQUESTS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"),
    (r"(\bhttps?://)[^\s'\"/?#]*@", r"\1***@"),
)


class _Progress:
    """How far a command has come, in a line of the terminal.

    It is shown if the records go elsewhere.
    """

    def __init__(self) -> None:
        self._is_there = False
        self._next = 0.0

    def is_wanted(self) -> bool:
        return is_terminal(sys.stderr) and not is_terminal(sys.stdout)

    def show(self, count: int, total: Any) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + PROGRESS_INTERVAL
        of_total = "" if total == "?" else f" of {total}"
        to_stderr(f"\r{count}{of_total}\x1b[K")
        self._is_there = True

    def clear(self) -> None:
        if self._is_there:
            self._is_there = False
            to_stderr("\r\x1b[K")

    def hook(self) -> Optional[Callable[[Any, int, Any], None]]:
        """For item_hook, if it is wanted."""
        if not self.is_wanted():
            return None
        return lambda record, count, total: self.show(count, total)


progress = _Progress()


class _WaitingFile(io.FileIO):
    """A file that is waited for where it is in non-blocking mode.

    Another process that has the same pipe or terminal may have set that mode
    (node and ssh do), at any time.
    """

    def write(self, data: Any) -> int:
        import select

        while True:
            count: Optional[int] = super().write(data)
            if count is not None:
                return count
            select.select([], [self], [])


def use_utf8() -> None:
    """Let output be UTF-8 whatever the locale, and wait for its reader."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if os.name == "posix" and hasattr(stream, "buffer"):
            file = _WaitingFile(stream.fileno(), "w", closefd=False)
            new = io.TextIOWrapper(
                io.BufferedWriter(file),
                "utf-8",
                "backslashreplace",
                line_buffering=stream.line_buffering,
            )
            setattr(sys, name, new)
        elif hasattr(stream, "reconfigure"):  # Since Python 3.7.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def forget_stdout() -> None:
    """Keep Python from failing once more when it closes stdout."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


# ---------------------------------------------------------------------------
# Exports that are resumed
# ---------------------------------------------------------------------------


class Export:
    """A history that can be resumed where it was interrupted.

    The position is in a file. If the output is a file as well, its length is
    kept with the position: after a kill or a power failure, what was written
    after the last save is cut off and written again, so that each record is
    there once. Into a pipe, what follows the last save is written twice.
    """

    def __init__(self, options: Any) -> None:
        if sys.stdout is None:
            raise ValueError("stdout is closed: no record could be written.")
        self._options = options
        self._path = file_name(options.resume)
        form = options.format or "jsonl"
        if form not in RESUMABLE_FORMATS:
            raise ValueError(
                f"An export as {form} cannot be resumed. Choose one of "
                f"{', '.join(RESUMABLE_FORMATS)}."
            )
        if form in ("csv", "tsv") and not options.fields:
            raise ValueError(
                f"An export as {form} needs --fields: those of its first "
                "record may not be those of the first one after it is resumed."
            )
        self._shape = {"format": form, "fields": options.fields}
        self._saved = self._load()
        self._next_save = 0.0
        self._output = _regular_stdout()
        if self._output is not None:
            _lock(self._output)
        length = self._begin_output()
        is_begun = bool(self._saved.get("is_begun"))
        if self._output is not None and not length:
            is_begun = False  # It is another file.
        # One value, so that an interrupt finds the three of the same record.
        self._written = (self._saved.get("position"), length, is_begun)

    @property
    def position(self) -> Optional[Dict[str, Any]]:
        """The position after the last record that has been written."""
        return self._written[0]

    def _load(self) -> Dict[str, Any]:
        try:
            with open(self._path, encoding="utf-8") as file:
                saved = json.loads(file.read())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            saved = None
        if not isinstance(saved, dict) or "position" not in saved:
            raise ValueError(f"{self._options.resume} holds no position.")
        if {name: saved.get(name) for name in self._shape} != self._shape:
            raise ValueError(
                f"{self._options.resume} is of an export with other --format "
                "or --fields."
            )
        return saved

    def _begin_output(self) -> int:
        """Cut off what would be written twice; return the output's length."""
        if self._output is None:
            return 0
        file = os.fstat(self._output)
        appends = _appends(self._output)
        known = self._saved.get("output")
        if known is None or known["is_whole"]:
            if appends:
                return file.st_size
            return os.lseek(self._output, 0, os.SEEK_CUR)
        length = int(known["length"])
        if known["file"] != _identity(file) or length > file.st_size:
            raise ValueError(
                "The last export was killed, and the output is not the file "
                "that it wrote: append to that one (>>), or remove "
                f"{self._options.resume} to begin again."
            )
        os.ftruncate(self._output, length)
        if not appends:
            os.lseek(self._output, length, os.SEEK_SET)
        return length

    def until(self, asked: Any) -> Any:
        """The end of the period: as it was, unless that was reached.

        By default it is the beginning of this second. Of one that is not
        over, records may come yet that the next run would take for read.
        """
        if self.position is not None and not self._saved.get("is_complete"):
            return None
        from datetime import datetime, timezone

        now = datetime.now(timezone.utc).replace(microsecond=0)
        return now if asked is None else asked

    def run(self, records: Any) -> None:
        """Write the records, and keep the position after each."""
        if self._output is None:
            self._write(records)
            return
        # After an error write() makes stdout another file.
        with os.fdopen(os.dup(self._output), "wb", 0) as file:
            self._output = file.fileno()
            self._write(records)

    def _write(self, records: Any) -> None:
        position, length, is_begun = self._written
        self._written = (position or records.position, length, is_begun)
        count, limit = 0, self._options.limit
        texts = chunks(records, self._options, "jsonl", is_begun)
        self._save()  # If that is impossible, it is known now.
        is_complete = False
        try:
            while limit is None or count < limit:
                text = next(texts, None)
                is_complete = text is None
                text = text or ""
                length += len(text.encode("utf-8"))
                is_begun = is_begun or bool(text)
                written = (records.position, length, is_begun)
                write(text)
                self._written = written
                if is_complete:
                    break
                count += 1
                if time.monotonic() >= self._next_save:
                    self._save()
        finally:
            self._save(is_complete, is_end=True)

    def _save(self, is_complete: bool = False, is_end: bool = False) -> None:
        """Replace the file as a whole, after the output is on disk."""
        position, length, is_begun = self._written
        state = dict(self._shape, position=position, is_begun=is_begun)
        state["is_complete"] = is_complete
        if self._output is not None:
            os.fsync(self._output)
            file = os.fstat(self._output)
            state["output"] = {
                "file": _identity(file),
                "length": length,
                "is_whole": is_end and file.st_size == length,
            }
        new = self._path + b".new"
        with open(new, "w", encoding="utf-8") as stream:
            json.dump(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(new, self._path)
        self._next_save = time.monotonic() + SAVE_INTERVAL


def _regular_stdout() -> Optional[int]:
    """The descriptor of stdout, if that is a file."""
    import stat

    try:
        descriptor = sys.stdout.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError, AttributeError):
        return None
    return descriptor if stat.S_ISREG(mode) else None


def _identity(file: os.stat_result) -> List[int]:
    return [file.st_dev, file.st_ino]


def _lock(descriptor: int) -> None:
    """Let no other export write to this file; the end of ours unlocks it."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            "Another export writes to this file at present."
        ) from None
    except (ImportError, OSError):
        pass  # Not a Unix, or a file system without locks.


def _appends(descriptor: int) -> bool:
    """Does each write go to the end of the file?"""
    try:
        import fcntl
    except ImportError:
        return False  # Not a Unix.
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND)
