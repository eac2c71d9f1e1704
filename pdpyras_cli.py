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
import os
import re
import sys
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
)

import pdpyras_cli_events as events
import pdpyras_cli_output as output
import pdpyras_cli_session as sessions
from pdpyras_cli_options import completion, parse

__all__ = ["main"]


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# Columns of `oncall`.
ONCALL_COLUMNS = ("policy", "level", "user", "schedule", "until")


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
        if not options.verbose:
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
# Reading
# ---------------------------------------------------------------------------


def _get(options: Any) -> int:
    params = list(options.params or ())
    if options.limit:
        params.append(("limit", str(options.limit)))
    with sessions.rest_session(options) as session:
        found = session.rget(options.path, params=params)
    if isinstance(found, list) and options.limit:
        del found[options.limit :]
    output.print_one(found, options)
    return output.SUCCESS


def _list(options: Any) -> int:
    body = sessions.body_of(options.body, options.values)
    hook = output.progress.hook()
    size = options.limit if options.limit and options.limit < 100 else None
    with sessions.rest_session(options) as session:
        session.retry_reads = True
        records = session.iter_all(
            options.path,
            params=options.params or (),
            page_size=size,
            item_hook=hook,
            total=hook is not None,
            prefetch=options.prefetch,
            **sessions.given(json=body),
        )
        with contextlib.closing(records):
            limited = itertools.islice(records, options.limit)
            output.print_all(limited, options, "jsonl")
    return output.SUCCESS


def _history(options: Any) -> int:
    export = output.Export(options) if options.resume else None
    position, until = None, options.until
    if export is not None:
        position, until = export.position, export.until(options.until)
    body = sessions.body_of(options.body, options.values)
    with sessions.rest_session(options) as session:
        session.retry_reads = True
        records = session.iter_history(
            options.path,
            options.since,
            until,
            params=options.params or (),
            item_hook=output.progress.hook(),
            prefetch=options.prefetch,
            resume=position,
            **sessions.given(json=body),
        )
        with contextlib.closing(records):
            if export is not None:
                export.run(records)
            else:
                limited = itertools.islice(records, options.limit)
                output.print_all(limited, options, "jsonl")
    return output.SUCCESS


def _oncall(options: Any) -> int:
    hook = output.progress.hook()
    with sessions.rest_session(options) as session:
        session.retry_reads = True
        shifts = session.list_all(
            "oncalls",
            params=options.params or (),
            item_hook=hook,
            prefetch=options.prefetch,
        )
    rows = {output.to_json(row): row for row in map(_shift, shifts)}
    for row in rows.values():
        _check_shift(row)
    ordered = sorted(rows.values(), key=_oncall_order)
    if options.format in (None, "table", "csv", "tsv"):
        options.fields = options.fields or ONCALL_COLUMNS
    output.print_all(iter(ordered[: options.limit]), options, "table")
    return output.SUCCESS


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


def _check_shift(row: Dict[str, Any]) -> None:
    """Refuse what cannot be put in order."""
    for name, value in row.items():
        kind, said = (int, "number") if name == "level" else (str, "text")
        if value is not None and not isinstance(value, kind):
            raise output.AnswerError(
                f"The API tells of a shift whose {name} is no {said}: "
                f"{output.to_json(value)}."
            )


def _oncall_order(row: Dict[str, Any]) -> Tuple[Any, ...]:
    names = [row[n] or "" for n in ("policy_id", "schedule", "user", "until")]
    return (row["policy"] or "", names[0], row["level"] or 0, *names[1:])


def _whoami(options: Any) -> int:
    with sessions.rest_session(options) as session:
        with sessions.one_deadline(session):
            found: Dict[str, Any] = {"access": session.api_key_access}
        if found["access"] == "user":
            user = session.rget("users/me")
            for name in ("id", "name", "email", "role", "time_zone"):
                found[name] = output.field(user, name)
            # https://SUBDOMAIN.pagerduty.com/users/PABC123
            url = output.cell(user, "html_url")
            found["subdomain"] = url.partition("//")[2].partition(".")[0]
        else:
            found["subdomain"] = _subdomain_of(session)
        found["url"] = session.url
    output.print_one(found, options)
    return output.SUCCESS


def _subdomain_of(session: Any) -> str:
    import pdpyras

    try:
        return str(session.subdomain)
    except pdpyras.PDClientError as error:
        if type(error) is pdpyras.PDClientError and not error.__cause__:
            raise output.AnswerError(str(error)) from None
        raise


def _rate(options: Any) -> int:
    with sessions.rest_session(options) as session:
        response = session.get("abilities")
        if session.rate is None:
            import pdpyras

            pdpyras.successful_response(response)
            raise output.AnswerError("The API does not tell its rate limit.")
        output.print_one(dict(session.rate._asdict()), options)
    return output.SUCCESS


# ---------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------


def _write(options: Any) -> int:
    body = sessions.body_of(options.body, options.values)
    with sessions.rest_session(options) as session:
        if options.each:
            return _Batch(session, options, body).run()
        output.print_one(_send(session, options, options.path, body), options)
    return output.SUCCESS


def _send(session: Any, options: Any, path: str, body: Any) -> Any:
    """Send one request; return the content of the answer."""
    arguments = sessions.given(json=body)
    if options.params:
        arguments["params"] = options.params
    if options.command == "delete":
        import pdpyras

        return pdpyras.try_decoding(session.rdelete(path, **arguments))
    return getattr(session, "r" + options.command)(path, **arguments)


class _Batch:
    """A request for each line of a file.

    Refusals are reported and counted; after a network error, or if a result
    cannot be written, no more is sent.
    """

    def __init__(self, session: Any, options: Any, body: Any) -> None:
        self._session, self._options, self._body = session, options, body
        self._status, self._count, self._failures = output.SUCCESS, 0, 0
        self._is_over = False

    def run(self) -> int:
        results = _in_order(
            self._result, self._lines(), self._options.at_once or 1
        )
        with contextlib.closing(results):
            successes = self._successes(results)
            try:
                output.print_all(successes, self._options, "jsonl")
            except KeyboardInterrupt:
                # Other threads may be in a pause before they send once more.
                self._session.send = _send_no_more
                results.throw(KeyboardInterrupt)  # It does not wait for them.
                raise
            except BrokenPipeError:  # Who reads has ended; half is not all.
                for _ in successes:
                    pass
            except OSError:  # The output cannot be written.
                self._is_over = True
                for _ in successes:  # What is under way, and where to go on.
                    pass
                raise
        if self._failures:
            output.say(f"{self._failures} of {self._count} requests failed.")
        return self._status

    def _lines(self) -> Iterator[Tuple[int, bytes]]:
        for number, line in enumerate(
            sessions.lines_in(self._options.each), 1
        ):
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
            line = sessions.text_of(content).strip()
            if _ID.fullmatch(line):
                item = {"id": line.strip('"')}
            else:
                item = sessions.loaded(line, "The line")
                if body is None and self._options.command != "delete":
                    body = item
            path = _filled(self._options.path, item)
            return number, _send(self._session, self._options, path, body)
        except Exception as error:
            if _status_of(error) < 0:
                raise
            self._is_over = (
                self._is_over or _status_of(error) == output.NETWORK
            )
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


def _send_no_more(*args: Any, **kwargs: Any) -> Any:
    """Stand for the method of a session whose command is interrupted."""
    raise KeyboardInterrupt


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
    """Results in the order of the items, several computed at once.

    What is under way ends before this does, unless Ctrl-C is pressed.
    """
    if at_once == 1:
        yield from map(function, items)
        return
    from collections import deque
    from concurrent.futures import wait

    pending: Any = deque()
    try:
        for item in items:
            pending.append(_begun(function, item))
            if len(pending) == at_once:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except KeyboardInterrupt:
        raise
    except BaseException:
        wait(pending)
        raise


def _begun(function: Callable[[Any], Any], item: Any) -> Any:
    """The future result of a function.

    Its thread does not keep the process from ending, as those of an executor
    do: it may have to pause for minutes. It is this one if there is no other.
    """
    from concurrent.futures import Future
    from threading import Thread

    future: Any = Future()

    def work() -> None:
        try:
            future.set_result(function(item))
        except BaseException as error:
            future.set_exception(error)

    try:
        Thread(target=work, daemon=True).start()
    except RuntimeError:  # No more threads can be started.
        # Ctrl-C, which comes to this thread, must not be kept for later.
        future.set_result(function(item))
    return future


# ---------------------------------------------------------------------------
# Webhooks, and the sandbox
# ---------------------------------------------------------------------------


def _webhook(options: Any) -> int:
    import pdpyras_webhooks

    secret = os.environ.get("PAGERDUTY_WEBHOOK_SECRET")
    if options.key_file:
        secret = sessions.text_in(options.key_file).strip()
    if not secret:
        raise ValueError(
            "There is no secret: set PAGERDUTY_WEBHOOK_SECRET, or name a "
            "file with --key-file."
        )
    # A byte more is enough for being refused.
    size = pdpyras_webhooks.MAX_BODY + 1
    body = sessions.bytes_in(options.file or "-", size)
    headers = {"X-PagerDuty-Signature": options.signature}
    try:
        event = pdpyras_webhooks.webhook_event(
            body, headers, secret, max_age=options.max_age
        )
    except pdpyras_webhooks.WebhookError as error:
        output.say(str(error))
        return output.REFUSED
    output.print_one(event, options)
    return output.SUCCESS


def _sandbox(options: Any) -> int:
    import signal
    import threading

    from pdpyras_sandbox import Sandbox

    box = Sandbox(
        **sessions.given(
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
    try:
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
    finally:
        box.stop()
    return output.SUCCESS


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
    "trigger": events.trigger,
    "acknowledge": events.end_alert,
    "ack": events.end_alert,
    "resolve": events.end_alert,
    "change": events.change,
    "run": events.run,
    "outbox": events.outbox_command,
    "oncall": _oncall,
    "whoami": _whoami,
    "login": sessions.login,
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
    status = output.SUCCESS
    try:
        try:
            status = _main([_as_utf8(argument) for argument in arguments])
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
        return status
    except BrokenPipeError:  # The reader of the output has ended.
        output.forget_stdout()
        return status
    except KeyboardInterrupt:
        output.progress.clear()
        return output.INTERRUPTED
    except OSError as error:  # The output cannot be written.
        output.forget_stdout()
        output.say(str(error))
        return output.REFUSED


def _main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.command == "completion":
        output.write(completion(options.action))
        return output.SUCCESS
    with _reports(options) as incomplete:
        try:
            sessions.check_stdin(options)
            status = _ACTIONS[options.command](options)
        except BrokenPipeError:
            raise
        except Exception as error:
            status = _status_of(error)
            if status < 0:
                raise
            output.say(_text_of(error))
    return status or (output.INCOMPLETE if incomplete else output.SUCCESS)


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
        return output.USAGE
    if isinstance(error, sessions.TimeOverError):
        return output.NETWORK
    if isinstance(error, output.AnswerError):
        return output.REFUSED
    if client is not None:
        if isinstance(error, client.URLError):
            return output.USAGE
        if isinstance(error, client.PDClientError):
            return _status_of_client(error, client)
    return output.REFUSED if isinstance(error, OSError) else -1


def _status_of_client(error: Any, client: Any) -> int:
    """The exit status of a PDClientError."""
    if isinstance(error, client.PDIncompleteError):
        return output.INCOMPLETE
    if isinstance(error, client.PDHTTPError):
        is_missing = error.status_code == 404
        return output.NOT_FOUND if is_missing else output.REFUSED
    if isinstance(error, client.PDDeadlineError):
        return output.NETWORK
    if error.response is not None:
        return output.REFUSED  # There is an answer, and it is unfit.
    place, cause = client._raised_in(error), error.__cause__
    if place == "pdpyras" and _is_unfit(cause):
        return output.USAGE  # It was refused before it was sent.
    # The token endpoint refuses without a response; or it is about the cache.
    is_refusal = place in ("pdpyras_oauth", "pdpyras_tokens")
    # An outbox says so of a file that cannot be used.
    is_refusal |= place == "pdpyras_outbox" and cause is not None
    return output.REFUSED if is_refusal else output.NETWORK


def _is_unfit(cause: Optional[BaseException]) -> bool:
    """Could the request not be made, so that nothing was sent?"""
    names = {kind.__name__ for kind in type(cause).__mro__}
    # requests has an error of its own for what JSON has not (NaN).
    unfit = {"InvalidJSONError", "ValueError", "TypeError", "RecursionError"}
    return cause is None or bool(names & unfit)


def _as_utf8(argument: str) -> str:
    """An argument as it was typed, whatever the locale."""
    try:
        return os.fsencode(argument).decode("utf-8", "surrogateescape")
    except UnicodeError:
        return argument


if __name__ == "__main__":
    sys.exit(main())
