"""PagerDuty from a shell: the command ``pdpyras``.

::

    export PAGERDUTY_API_KEY=... PAGERDUTY_ROUTING_KEY=...
    pdpyras list incidents -p statuses=triggered --format table
    pdpyras put incidents/PT4KHLK -f type=incident -f status=resolved
    pdpyras trigger 'Disk is full' db1.example.com
    pdpyras run -- /usr/local/bin/backup

``pdpyras --help`` lists the commands, ``pdpyras COMMAND --help`` explains one.
Keys come from the environment or from a file: arguments can be seen by all
users of a machine.

A shell starts it often, so little is imported: what a command needs, when it
runs. ``--help``, ``--version`` and ``completion`` need neither the client nor
requests.
"""

import contextlib
import itertools
import json
import os
import re
import sys
import time
import warnings
from typing import (
    Any,
    Callable,
    Dict,
    Generator,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    cast,
)

import pdpyras_cli_output as output
from pdpyras_cli_options import completion, parse

__all__ = ["main"]


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# Exit statuses.
SUCCESS, REFUSED, USAGE, NETWORK, NOT_FOUND, INCOMPLETE = range(6)
INTERRUPTED = 130

# In the alert of `run`: lines of stderr, and characters of the command.
STDERR_LINES = 40
COMMAND_LENGTH = 200

# Seconds in which the alert of `run` is sent, as in guard().
EVENT_TIME = 60.0

# For `login`: seconds to wait for the browser, and the port of the app's
# redirect URI.
LOGIN_TIME = 300.0
LOGIN_PORT = 8765

# Columns of `oncall`.
ONCALL_COLUMNS = ("policy", "level", "user", "schedule", "until")


class _TimeOverError(Exception):
    """Nothing came within the time limit."""


# ---------------------------------------------------------------------------
# Reports
# ---------------------------------------------------------------------------


@contextlib.contextmanager
def _reports(options: Any) -> Iterator[List[str]]:
    """Write warnings and the log to stderr; collect incomplete results."""
    import logging

    class Handler(logging.Handler):
        def emit(self, record: Any) -> None:
            output.say(record.getMessage())

    def show(message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
        if category.__name__ == "PDIncompleteWarning":
            incomplete.append(str(message))
        # Warnings of the client are in its log as well.
        if not options.verbose and not is_quiet:
            output.say(f"warning: {message}")

    incomplete: List[str] = []
    is_quiet = options.command == "run"
    level = logging.ERROR if is_quiet else logging.WARNING
    log, handler = logging.getLogger("pdpyras"), Handler()
    before = log.level, log.propagate
    log.setLevel(logging.DEBUG if options.verbose else level)
    log.propagate = False
    log.addHandler(handler)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        try:
            yield incomplete
        finally:
            log.removeHandler(handler)
            log.level, log.propagate = before
            output.progress.clear()


# ---------------------------------------------------------------------------
# Input
# ---------------------------------------------------------------------------


def _lines_in(name: str) -> Iterator[bytes]:
    """The lines of a file, or of stdin if it is ``-``."""
    if name == "-":
        if sys.stdin is None:
            raise ValueError("stdin is closed.")
        yield from sys.stdin.buffer
        return
    try:
        with open(output.file_name(name), "rb") as file:
            yield from file
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror}.") from None


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"The input is not UTF-8: {error}") from None


def _text_in(name: str) -> str:
    return _text(b"".join(_lines_in(name)))


def _loaded(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{what} is not JSON: {error}") from None


def _json_argument(text: str, what: str) -> Any:
    """JSON, or ``@FILE`` with JSON, or ``-``: JSON from stdin."""
    if text == "-" or text.startswith("@"):
        text = _text_in(text[1:] or "-")
    return _loaded(text, what)


def _body(given: Optional[str], values: Any, what: str = "BODY") -> Any:
    """The body from BODY and -f; None if there is neither."""
    body = None if given is None else _json_argument(given, what)
    for path, value in values or ():
        body = {} if body is None else body
        target, nodes = body, path.split(".")
        for node in nodes[:-1]:
            if isinstance(target, dict):
                target = target.setdefault(node, {})
        if not isinstance(target, dict):
            raise ValueError(f"-f {path}: its parent is not an object.")
        target[nodes[-1]] = value
    return body


# ---------------------------------------------------------------------------
# Sessions
# ---------------------------------------------------------------------------


def _key(options: Any, variable: str) -> Optional[str]:
    """The key in the file; None: it is in the environment."""
    if options.key_file:
        if options.key is None:  # A pipe can be read only once.
            options.key = _text_in(options.key_file).strip()
        return str(options.key)
    if not os.environ.get(variable):
        hint = ""
        if variable == "PAGERDUTY_API_KEY":
            hint = " Or sign in: pdpyras login --help."
        raise ValueError(
            f"There is no key: set the environment variable {variable}, or "
            f"name a file with --key-file.{hint}"
        )
    return None


def _given(**arguments: Any) -> Dict[str, Any]:
    return {k: v for k, v in arguments.items() if v is not None}


def _session(options: Any) -> Any:
    """A session of the REST API."""
    import pdpyras

    arguments = _given(
        url=options.url, region=options.region, default_from=options.sender
    )
    is_signed_in = (
        bool(os.environ.get("PAGERDUTY_CLIENT_ID"))
        and not options.key_file
        and not os.environ.get("PAGERDUTY_API_KEY")
    )
    if is_signed_in:
        session = _signed_in_session(arguments)
    else:
        key = _key(options, "PAGERDUTY_API_KEY")
        session = pdpyras.APISession.from_env(
            **_given(api_key=key), **arguments
        )
    return _prepared(session, options)


def _events(options: Any, kind: str = "EventsAPISession") -> Any:
    """A session of the Events API."""
    import pdpyras

    arguments = _given(
        api_key=_key(options, "PAGERDUTY_ROUTING_KEY"),
        url=options.url,
        region=options.region,
        outbox=output.file_name(options.outbox) if options.outbox else None,
    )
    events = getattr(pdpyras, kind).from_env(**arguments)
    events.client_dedup_keys = True  # So that no retry opens a second alert.
    return _prepared(events, options)


def _prepared(session: Any, options: Any) -> Any:
    session.headers.update(options.headers or ())
    session.deadline = options.deadline
    return session


# ---------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------


def _get(options: Any) -> int:
    params = list(options.params or ())
    if options.limit:
        params.append(("limit", str(options.limit)))
    with _session(options) as session:
        found = session.rget(options.path, params=params)
    if isinstance(found, list) and options.limit:
        del found[options.limit :]
    _print(found, options)
    return SUCCESS


def _print(result: Any, options: Any) -> None:
    """One result: indented JSON, unless something else is asked for."""
    if result is None:
        return
    if (options.format or "json") == "json":
        if isinstance(result, list):
            result = [output.picked(item, options.fields) for item in result]
        else:
            result = output.picked(result, options.fields)
        output.write(output.to_json(result, 2) + "\n")
        return
    records = result if isinstance(result, list) else [result]
    output.print_all(iter(records), options, "json")


def _list(options: Any) -> int:
    body = _body(options.body, options.values)
    hook = output.progress.hook()
    size = options.limit if options.limit and options.limit < 100 else None
    with _session(options) as session:
        session.retry_reads = True
        records = session.iter_all(
            options.path,
            params=options.params or (),
            page_size=size,
            item_hook=hook,
            total=hook is not None,
            prefetch=options.prefetch,
            **_given(json=body),
        )
        with contextlib.closing(records):
            limited = itertools.islice(records, options.limit)
            output.print_all(limited, options, "jsonl")
    return SUCCESS


def _history(options: Any) -> int:
    export = output.Export(options) if options.resume else None
    position, until = None, options.until
    if export is not None and export.position is not None:
        position, until = export.position, export.until(options.until)
    body = _body(options.body, options.values)
    with _session(options) as session:
        session.retry_reads = True
        records = session.iter_history(
            options.path,
            options.since,
            until,
            params=options.params or (),
            item_hook=output.progress.hook(),
            prefetch=options.prefetch,
            resume=position,
            **_given(json=body),
        )
        with contextlib.closing(records):
            if export is not None:
                export.run(records)
            else:
                limited = itertools.islice(records, options.limit)
                output.print_all(limited, options, "jsonl")
    return SUCCESS


def _oncall(options: Any) -> int:
    hook = output.progress.hook()
    with _session(options) as session:
        session.retry_reads = True
        shifts = session.list_all(
            "oncalls",
            params=options.params or (),
            item_hook=hook,
            prefetch=options.prefetch,
        )
    rows = {output.to_json(_shift(shift)): _shift(shift) for shift in shifts}
    ordered = sorted(rows.values(), key=_oncall_order)
    if options.format in (None, "table", "csv", "tsv"):
        options.fields = options.fields or ONCALL_COLUMNS
    output.print_all(iter(ordered[: options.limit]), options, "table")
    return SUCCESS


def _shift(shift: Any) -> Dict[str, Any]:
    return {
        "policy": output.field(shift, "escalation_policy.summary"),
        "level": output.field(shift, "escalation_level"),
        "user": output.field(shift, "user.summary"),
        "schedule": output.field(shift, "schedule.summary"),
        "until": output.field(shift, "end"),
        "policy_id": output.field(shift, "escalation_policy.id"),
        "user_id": output.field(shift, "user.id"),
        "schedule_id": output.field(shift, "schedule.id"),
    }


def _oncall_order(row: Dict[str, Any]) -> Tuple[Any, ...]:
    names = [row[n] or "" for n in ("policy_id", "schedule", "user", "until")]
    return (row["policy"] or "", names[0], row["level"] or 0, *names[1:])


def _whoami(options: Any) -> int:
    with _session(options) as session:
        found: Dict[str, Any] = {"access": session.api_key_access}
        if found["access"] == "user":
            user = session.rget("users/me")
            for name in ("id", "name", "email", "role", "time_zone"):
                found[name] = output.field(user, name)
            # https://SUBDOMAIN.pagerduty.com/users/PABC123
            url = output.cell(user, "html_url")
            found["subdomain"] = url.partition("//")[2].partition(".")[0]
        else:
            found["subdomain"] = session.subdomain
        found["url"] = session.url
    _print(found, options)
    return SUCCESS


def _rate(options: Any) -> int:
    with _session(options) as session:
        response = session.get("abilities")
        if session.rate is None:
            import pdpyras

            pdpyras.successful_response(response)
            raise ValueError("The API does not tell its rate limit.")
        _print(dict(session.rate._asdict()), options)
    return SUCCESS


# ---------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------


def _write(options: Any) -> int:
    body = _body(options.body, options.values)
    with _session(options) as session:
        if options.each:
            return _Batch(session, options, body).run()
        _print(_send(session, options, options.path, body), options)
    return SUCCESS


def _send(session: Any, options: Any, path: str, body: Any) -> Any:
    """Send one request; return the content of the answer."""
    arguments = _given(json=body)
    if options.params:
        arguments["params"] = options.params
    if options.command == "delete":
        import pdpyras

        return pdpyras.try_decoding(session.rdelete(path, **arguments))
    return getattr(session, "r" + options.command)(path, **arguments)


class _Batch:
    """A request for each line of a file.

    Refusals are reported and counted; after a network error no more is sent.
    """

    def __init__(self, session: Any, options: Any, body: Any) -> None:
        self._session, self._options, self._body = session, options, body
        self._status, self._count, self._failures = SUCCESS, 0, 0
        self._is_over = False

    def run(self) -> int:
        results = _in_order(
            self._result, self._lines(), self._options.at_once or 1
        )
        with contextlib.closing(results):
            output.print_all(self._successes(results), self._options, "jsonl")
        if self._failures:
            output.say(f"{self._failures} of {self._count} requests failed.")
        return self._status

    def _lines(self) -> Iterator[Tuple[int, bytes]]:
        for number, line in enumerate(_lines_in(self._options.each), 1):
            if self._is_over:
                output.say(f"Line {number} and those after it are not sent.")
                return
            if line.strip():
                yield number, line

    def _result(self, numbered: Tuple[int, bytes]) -> Tuple[int, Any]:
        """The number of a line, and its result, which may be an exception."""
        number, content = numbered
        body = self._body
        try:
            line = _text(content).strip()
            if _ID.fullmatch(line):
                item = {"id": line.strip('"')}
            else:
                item = _loaded(line, "The line")
                if body is None and self._options.command != "delete":
                    body = item
            path = _filled(self._options.path, item)
            return number, _send(self._session, self._options, path, body)
        except Exception as error:
            if _status_of(error) < 0:
                raise
            self._is_over = self._is_over or _status_of(error) == NETWORK
            return number, error

    def _successes(self, results: Iterable[Tuple[int, Any]]) -> Iterator[Any]:
        for number, result in results:
            self._count += 1
            if isinstance(result, Exception):
                self._failures += 1
                self._status = self._status or _status_of(result)
                output.say(f"line {number}: {result}")
            elif result is not None:
                yield result
            if output.progress.is_wanted():
                output.progress.show(self._count, "?")


_ID = re.compile(r'"?[\w-]+"?')  # alone in a line


def _filled(template: str, item: Any) -> str:
    """A path in which {field} is replaced by that of the item."""
    from urllib.parse import quote

    def fill(match: Any) -> str:
        value = output.cell(item, match.group(1))
        if not value:
            raise ValueError(f"There is no {match.group(1)} for the path.")
        return quote(value, safe="")

    return re.sub(r"\{([\w.-]+)\}", fill, template)


def _in_order(
    function: Callable[[Any], Any], items: Iterable[Any], at_once: int
) -> Generator[Any, None, None]:
    """Results in the order of the items, several computed at once."""
    if at_once == 1:
        yield from map(function, items)
        return
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(at_once) as pool:
        pending: Any = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == at_once:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# ---------------------------------------------------------------------------
# Events
# ---------------------------------------------------------------------------


def _details(options: Any) -> Any:
    """custom_details, of --details and -f."""
    details = _body(options.details, options.values, "--details")
    if details is not None and not isinstance(details, dict):
        raise ValueError("--details must be a JSON object.")
    return details


def _trigger(options: Any) -> int:
    with _events(options) as events:
        key = events.trigger(
            options.summary, _source(options), **_alert(options)
        )
        _print_key(events, key)
    return SUCCESS


def _source(options: Any) -> str:
    import socket

    return options.source or socket.gethostname()


def _alert(options: Any) -> Dict[str, Any]:
    """The properties of an alert that are given, for trigger()."""
    names = (
        *("dedup_key", "severity", "component", "group", "class_"),
        *("client", "client_url", "timestamp", "images", "links"),
    )
    alert = {name: getattr(options, name) for name in names}
    return _given(custom_details=_details(options), **alert)


def _end_alert(options: Any) -> int:
    action = "acknowledge" if options.command == "ack" else options.command
    with _events(options) as events:
        _print_key(events, events.send_event(action, options.dedup_key))
    return SUCCESS


def _change(options: Any) -> int:
    with _events(options, "ChangeEventsAPISession") as events:
        identity = events.submit(
            options.summary,
            **_given(
                source=options.source,
                custom_details=_details(options),
                links=options.links,
                timestamp=options.timestamp,
            ),
        )
        _print_key(events, identity)
    return SUCCESS


def _print_key(events: Any, key: Optional[str]) -> None:
    if key:
        output.write(output.one_line(key) + "\n")
    import pdpyras

    waiting = 0
    # The event is safe by now. What is wrong with the file has been said.
    with contextlib.suppress(pdpyras.PDClientError):
        waiting = len(events.outbox) if events.outbox is not None else 0
    if waiting:
        output.say(f"Events that wait in the outbox: {waiting}")


def _outbox(options: Any) -> int:
    path = options.outbox or os.environ.get("PAGERDUTY_OUTBOX")
    if not path:
        raise ValueError(
            "Which outbox? Set PAGERDUTY_OUTBOX, or use --outbox."
        )
    if options.ids and options.action not in ("retry", "drop"):
        raise ValueError(f"outbox {options.action} takes no ids.")
    is_reading = options.action in ("status", "list")
    if not _is_outbox(path) and is_reading:
        # A path that is mistyped should not look like an empty outbox.
        output.say(f"There is no outbox {path} yet.")
        if options.action == "status":
            _print({"waiting": 0, "refused": 0, "oldest": None}, options)
        return SUCCESS
    from pdpyras_outbox import Outbox

    outbox = Outbox(output.file_name(path))
    actions: Dict[str, Callable[[Any, Any], int]] = {
        "status": _outbox_status,
        "flush": _outbox_flush,
        "list": _outbox_list,
        "retry": _outbox_change,
        "drop": _outbox_change,
    }
    return actions[options.action](outbox, options)


def _is_outbox(path: str) -> bool:
    """Is there an outbox at this path, or nothing?

    An outbox takes what is no database for a damaged one, and renames it.
    Whoever only asks for its state may have named a wrong file.

    :raises ValueError: there is something else
    :raises OSError: it cannot be read; or there is no such directory
    """
    name = output.file_name(path)
    os.stat(os.path.dirname(name) or b".")
    try:
        # Closing would take away SQLite's locks, which nobody here has yet.
        with open(name, "rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        return False
    if start not in (b"", b"SQLite format 3\0"):
        raise ValueError(f"{path} is no outbox. It was left as it is.")
    return True


def _outbox_status(outbox: Any, options: Any) -> int:
    waiting = outbox.waiting()
    oldest = waiting[0]["made_at"] if waiting else None
    refused = len(outbox.refused())
    status = {"waiting": len(waiting), "refused": refused, "oldest": oldest}
    _print(status, options)
    return SUCCESS


def _outbox_flush(outbox: Any, options: Any) -> int:
    options.outbox = None  # Flushed events are not stored once more.
    with _events(options) as events:
        events.outbox = None
        report = outbox.flush(events, options.deadline)
    _print(dict(report._asdict()), options)
    if report.refused:
        return REFUSED
    return NETWORK if report.waiting else SUCCESS


def _outbox_list(outbox: Any, options: Any) -> int:
    waiting = [dict(event, state="waiting") for event in outbox.waiting()]
    refused = [dict(event, state="refused") for event in outbox.refused()]
    events = sorted(waiting + refused, key=lambda event: event["id"])
    output.print_all(iter(events), options, "jsonl")
    return SUCCESS


def _outbox_change(outbox: Any, options: Any) -> int:
    if not options.ids:
        raise ValueError(f"outbox {options.action} needs an ID.")
    status = SUCCESS
    for identity in options.ids:
        try:
            getattr(outbox, options.action)(identity)
        except ValueError as error:
            output.say(str(error))
            status = NOT_FOUND
    return status


# ---------------------------------------------------------------------------
# Running commands
# ---------------------------------------------------------------------------


def _run(options: Any) -> int:
    command = list(options.command_words)
    if command[:1] == ["--"]:
        del command[0]
    if not command:
        raise ValueError("Which command? pdpyras run [OPTIONS] -- COMMAND")
    if not hasattr(os, "fork"):
        raise ValueError("pdpyras run needs Unix.")
    if options.details == "-":
        raise ValueError("--details - would read the command's stdin.")
    alert = _alert(options)  # Usage errors come before the command.
    import pdpyras_cli_run

    is_silent = False
    try:
        _key(options, "PAGERDUTY_ROUTING_KEY")
    except (ValueError, OSError) as error:
        # The command, maybe a backup, has to run all the same.
        output.say(f"No alert can be sent if this fails. {error}")
        is_silent = True
    outcome = pdpyras_cli_run.watch(
        [output.file_name(word) for word in command], options.timeout
    )
    is_unwanted = options.no_resolve and not outcome.status
    if is_silent or is_unwanted or outcome.is_interrupt:
        return int(outcome.status)
    try:
        with pdpyras_cli_run.raising_signals():
            _send_outcome(options, alert, command, outcome)
    except KeyboardInterrupt:
        output.say("Interrupted while the event was sent to PagerDuty.")
    except Exception as error:
        output.say(f"The event could not be sent to PagerDuty: {error}")
    return int(outcome.status)


def _send_outcome(
    options: Any, alert: Dict[str, Any], command: List[str], outcome: Any
) -> None:
    import hashlib
    import shlex

    import pdpyras_cli_run

    source = _source(options)
    text = json.dumps([command, source]).encode("utf-8")
    key = options.dedup_key or hashlib.sha256(text).hexdigest()
    with _events(options) as events:
        events.deadline = options.deadline or EVENT_TIME
        if not outcome.status:
            events.resolve(key)
            return
        hide = _hiding([str(events.api_key)])
        shown = hide(" ".join(map(shlex.quote, command)))
        if len(shown) > COMMAND_LENGTH:
            shown = shown[: COMMAND_LENGTH - 1] + "\u2026"
        lines = pdpyras_cli_run.last_lines(outcome.tail, STDERR_LINES, hide)
        details = {
            "command": shown,
            "exit_status": outcome.status,
            "signal": outcome.signal or None,
            "timeout": options.timeout if outcome.is_timeout else None,
            "seconds": round(outcome.seconds, 3),
            "stderr": lines,
        }
        alert["custom_details"] = {
            **_given(**details),
            **(alert.get("custom_details") or {}),
        }
        alert["dedup_key"] = key
        usual = f"{shown} failed on {source} (exit status {outcome.status})"
        events.trigger(options.summary or usual, source, **alert)


def _hiding(secrets: Sequence[str]) -> Callable[[str], str]:
    """A function that replaces the values of PAGERDUTY_… in a text."""
    import pdpyras

    values = {
        value
        for name, value in os.environ.items()
        # The name of a region is no secret, and part of many words.
        if name.startswith("PAGERDUTY_") and name != "PAGERDUTY_REGION"
    }
    ordered = sorted(values.union(secrets) - {""}, key=len, reverse=True)

    def hide(text: str) -> str:
        for value in ordered:
            if len(value) > 4:
                text = pdpyras._secret_pattern(value).sub("***", text)
            text = text.replace(value, "***")
        return text

    return hide


# ---------------------------------------------------------------------------
# Signing in
# ---------------------------------------------------------------------------

# The name of the user's tokens in the cache.
_USER = "command line"


def _app() -> Any:
    """The OAuth app that the environment names."""
    from pdpyras_oauth import OAuthApp, TokenCache

    names = ("PAGERDUTY_CLIENT_ID", "PAGERDUTY_CLIENT_SECRET")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise ValueError(f"Set {' and '.join(missing)}: see login --help.")
    cache = os.environ.get("PAGERDUTY_TOKEN_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache",
        "pdpyras",
        "tokens.json",
    )
    settings = {"region": "REGION", "subdomain": "SUBDOMAIN"}
    settings["url"] = "OAUTH_URL"
    given = {
        argument: os.environ.get("PAGERDUTY_" + name) or None
        for argument, name in settings.items()
    }
    client_id, client_secret = (os.environ[name] for name in names)
    return OAuthApp(
        client_id,
        client_secret,
        os.environ.get("PAGERDUTY_SCOPES", ""),
        cache=TokenCache(cache),
        **cast(Any, _given(**given)),
    )


def _signed_in_session(arguments: Dict[str, Any]) -> Any:
    """The user's session, or else the app's own."""
    app = _app()
    arguments = dict(_oauth_arguments(), **arguments)
    if app.cache.load(app.cache_key(_USER)):
        return app.session_from_cache(_USER, **arguments)
    if not app.subdomain:
        raise ValueError(
            "Nobody has signed in with this app and these scopes. Run: "
            "pdpyras login; or set PAGERDUTY_SUBDOMAIN to act as the app."
        )
    return app.session(**arguments)


def _oauth_arguments() -> Dict[str, Any]:
    return _given(
        url=os.environ.get("PAGERDUTY_URL") or None,
        default_from=os.environ.get("PAGERDUTY_FROM") or None,
    )


def _login(options: Any) -> int:
    app = _app()
    if options.forget:
        app.cache.store(app.cache_key(_USER), None)
        return SUCCESS
    redirected = _Redirect(options.port)
    with contextlib.closing(redirected):
        authorization = app.authorization(redirected.uri)
        output.to_stderr(
            f"Sign in with your browser at\n{authorization.url}\n"
        )
        if not options.no_browser:
            import webbrowser

            webbrowser.open(authorization.url)
        seconds = options.deadline or LOGIN_TIME
        url = redirected.wait(authorization.state, seconds)
    arguments = dict(_oauth_arguments(), **_given(url=options.url))
    with app.session_from_redirect(
        authorization, url, user=_USER, **arguments
    ) as session:
        user = session.rget("users/me")
    output.say(f"Signed in as {output.cell(user, 'name')}.")
    return SUCCESS


class _Redirect:
    """The redirect URI of the browser: a server on loopback (RFC 8252)."""

    def __init__(self, port: Optional[int]) -> None:
        from http.server import BaseHTTPRequestHandler, HTTPServer

        seen: List[str] = []
        self._seen = seen

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                seen.append(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.end_headers()
                self.wfile.write(b"You may close this window now.\n")

            def log_message(self, *args: Any) -> None:
                pass  # The path holds a secret.

        port = LOGIN_PORT if port is None else port
        try:
            self._server = HTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise ValueError(
                f"Port {port} is not available: {error}"
            ) from None
        self.uri = f"http://127.0.0.1:{self._server.server_port}/"

    def wait(self, state: str, seconds: float) -> str:
        """The URL to which the browser is redirected after this consent."""
        from urllib.parse import parse_qs, urlsplit

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._server.timeout = max(0.0, end - time.monotonic())
            self._server.handle_request()
            while self._seen:
                path = self._seen.pop()
                if parse_qs(urlsplit(path).query).get("state") == [state]:
                    return self.uri.rstrip("/") + path
        raise _TimeOverError(
            f"No browser was redirected from PagerDuty within {seconds:g} s."
        )

    def close(self) -> None:
        self._server.server_close()


# ---------------------------------------------------------------------------
# Webhooks, and the sandbox
# ---------------------------------------------------------------------------


def _webhook(options: Any) -> int:
    import pdpyras_webhooks

    secret = os.environ.get("PAGERDUTY_WEBHOOK_SECRET")
    if options.key_file:
        secret = _text_in(options.key_file).strip()
    if not secret:
        raise ValueError(
            "There is no secret: set PAGERDUTY_WEBHOOK_SECRET, or name a "
            "file with --key-file."
        )
    body = b"".join(_lines_in(options.file or "-"))
    headers = {"X-PagerDuty-Signature": options.signature}
    try:
        event = pdpyras_webhooks.webhook_event(
            body, headers, secret, max_age=options.max_age
        )
    except pdpyras_webhooks.WebhookError as error:
        output.say(str(error))
        return REFUSED
    _print(event, options)
    return SUCCESS


def _sandbox(options: Any) -> int:
    import signal
    import threading

    from pdpyras_sandbox import Sandbox

    box = Sandbox(
        **_given(
            port=options.port,
            users=options.users,
            latency=options.latency,
            rate_limit=options.rate_limit,
        )
    )
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *args: end.set())
    try:
        box.start()
    except OSError as error:
        raise ValueError(
            f"Port {box.port} is not available: {error}"
        ) from None
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(box.stop)
        for name, value in (
            ("PAGERDUTY_URL", box.url),
            ("PAGERDUTY_EVENTS_URL", box.url),
            ("PAGERDUTY_OAUTH_URL", box.url),
            ("PAGERDUTY_API_KEY", "any-key"),
            ("PAGERDUTY_ROUTING_KEY", "any-routing-key"),
        ):
            output.write(f"export {name}={value}\n")
        output.to_stderr("# A sandbox, until Ctrl-C. Any key is accepted.\n")
        while not end.wait(1):  # without a timeout, deaf to Ctrl-C on Windows
            pass
    return SUCCESS


# ---------------------------------------------------------------------------
# Entry
# ---------------------------------------------------------------------------

_ACTIONS: Dict[str, Callable[[Any], int]] = {
    "get": _get,
    "list": _list,
    "history": _history,
    "post": _write,
    "put": _write,
    "patch": _write,
    "delete": _write,
    "trigger": _trigger,
    "acknowledge": _end_alert,
    "ack": _end_alert,
    "resolve": _end_alert,
    "change": _change,
    "run": _run,
    "outbox": _outbox,
    "oncall": _oncall,
    "whoami": _whoami,
    "login": _login,
    "rate": _rate,
    "webhook": _webhook,
    "sandbox": _sandbox,
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line.

    :param arguments: those of the process by default
    :returns: the exit status
    :raises SystemExit: after ``--help`` and ``--version``, and if the
        arguments are invalid
    """
    if arguments is None:
        arguments = sys.argv[1:]
        output.use_utf8()
    try:
        try:
            return _main([_as_utf8(argument) for argument in arguments])
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # The reader of the output has ended.
        output.forget_stdout()
        return SUCCESS
    except KeyboardInterrupt:
        output.progress.clear()
        return INTERRUPTED
    except OSError as error:  # The output cannot be written.
        output.forget_stdout()
        output.say(str(error))
        return REFUSED


def _main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.command == "completion":
        output.write(completion(options.action))
        return SUCCESS
    with _reports(options) as incomplete:
        try:
            status = _ACTIONS[options.command](options)
        except BrokenPipeError:
            raise
        except Exception as error:
            status = _status_of(error)
            if status < 0:
                raise
            output.say(_text_of(error))
    return status or (INCOMPLETE if incomplete else SUCCESS)


def _text_of(error: Exception) -> str:
    """What is said of an error; of a file, with its name as it was typed."""
    name = getattr(error, "filename", None)
    if isinstance(error, OSError) and isinstance(name, bytes):
        return f"{name.decode('utf-8', 'replace')}: {error.strerror}"
    return str(error)


def _status_of(error: Exception) -> int:
    """The exit status that an error means; -1: it is a defect."""
    client = sys.modules.get("pdpyras")
    if isinstance(error, ValueError):
        return USAGE
    if isinstance(error, _TimeOverError):
        return NETWORK
    if client is not None:
        if isinstance(error, client.URLError):
            return USAGE
        if isinstance(error, client.PDIncompleteError):
            return INCOMPLETE
        if isinstance(error, client.PDHTTPError):
            return NOT_FOUND if error.status_code == 404 else REFUSED
        if isinstance(error, client.PDClientError):
            # The token endpoint refuses without a response.
            is_refusal = (
                "pdpyras_oauth" in sys.modules
                and type(error) is client.PDClientError
                and error.__cause__ is None
            )
            return REFUSED if is_refusal else NETWORK
    return REFUSED if isinstance(error, OSError) else -1


def _as_utf8(argument: str) -> str:
    """An argument as it was typed, whatever the locale."""
    try:
        return os.fsencode(argument).decode("utf-8", "surrogateescape")
    except UnicodeError:
        return argument


if __name__ == "__main__":
    sys.exit(main())
