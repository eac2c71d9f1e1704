"""The commands that send events, ``outbox`` and ``run`` among them.

How a command is run and watched is in ``pdpyras_cli_run``.
"""

import contextlib
import json
import os
import time
from typing import Any, Callable, Dict, List, Optional, Sequence

import pdpyras_cli_output as output
import pdpyras_cli_session as sessions

__all__ = ["change", "end_alert", "outbox_command", "run", "trigger"]


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# In the alert of `run`: lines of stderr, and characters of the command.
STDERR_LINES = 40
COMMAND_LENGTH = 200

# Seconds in which the alert of `run` is sent, as in guard().
EVENT_TIME = 60.0


# ---------------------------------------------------------------------------
# Events
# ---------------------------------------------------------------------------


def _details(options: Any) -> Any:
    """custom_details, of --details and -f."""
    details = sessions.body_of(options.details, options.values, "--details")
    if details is not None and not isinstance(details, dict):
        raise ValueError("--details must be a JSON object.")
    return details


def trigger(options: Any) -> int:
    """Trigger an alert."""
    begun = time.time()
    with sessions.events_session(options) as events:
        key = events.trigger(
            options.summary, _source(options), **_alert(options)
        )
        return _tell(events, "trigger", key, begun)


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
    return sessions.given(custom_details=_details(options), **alert)


def end_alert(options: Any) -> int:
    """Acknowledge or resolve an alert."""
    action = "acknowledge" if options.command == "ack" else options.command
    begun = time.time()
    with sessions.events_session(options) as events:
        key = events.send_event(action, options.dedup_key)
        return _tell(events, action, key, begun)


def change(options: Any) -> int:
    """Send a change event."""
    begun = time.time()
    with sessions.events_session(options, "ChangeEventsAPISession") as events:
        identity = events.submit(
            options.summary,
            **sessions.given(
                source=options.source,
                custom_details=_details(options),
                links=options.links,
                timestamp=options.timestamp,
            ),
        )
        return _tell(events, "change", identity, begun)


def _tell(events: Any, action: str, key: Optional[str], begun: float) -> int:
    """Print the key of an event that was sent since a time, or is kept."""
    import pdpyras

    waiting, is_refused = 0, False
    # The event is safe by now. What is wrong with the file has been said.
    with contextlib.suppress(pdpyras.PDClientError):
        if events.outbox is not None:
            waiting = len(events.outbox)
            is_refused = _is_refused(events.outbox, action, key, begun)
    if is_refused:
        return output.REFUSED  # The outbox has told why, in the log.
    if key:
        output.write(output.one_line(key) + "\n")
    if waiting:
        output.say(f"Events that wait in the outbox: {waiting}")
    return output.SUCCESS


def _is_refused(
    outbox: Any, action: str, key: Optional[str], begun: float
) -> bool:
    """Has the API refused this event, so that it is set aside?"""
    from datetime import datetime, timezone

    moment = datetime.fromtimestamp(begun, timezone.utc)
    since = moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
    # Events of change have no key.
    key = None if action == "change" else key
    return any(
        (event["event_action"], event["dedup_key"]) == (action, key)
        and (event["made_at"] or "") >= since
        for event in outbox.refused()
    )


def outbox_command(options: Any) -> int:
    """Show or change what is in an outbox."""
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
            status = {"waiting": 0, "refused": 0, "oldest": None}
            output.print_one(status, options)
        return output.SUCCESS
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
    import stat

    name = os.path.expanduser(output.file_name(path))
    os.stat(os.path.dirname(name) or b".")
    start = None
    try:
        # The writer of a pipe would be waited for.
        if stat.S_ISREG(os.stat(name).st_mode):
            # Closing takes away SQLite's locks, which nobody here has yet.
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
    output.print_one(status, options)
    return output.SUCCESS


def _outbox_flush(outbox: Any, options: Any) -> int:
    # Flushed events are not stored once more.
    with sessions.events_session(options, has_outbox=False) as events:
        report = outbox.flush(events, options.deadline)
    output.print_one(dict(report._asdict()), options)
    if report.refused:
        return output.REFUSED
    return output.NETWORK if report.waiting else output.SUCCESS


def _outbox_list(outbox: Any, options: Any) -> int:
    waiting = [dict(event, state="waiting") for event in outbox.waiting()]
    refused = [dict(event, state="refused") for event in outbox.refused()]
    events = sorted(waiting + refused, key=lambda event: event["id"])
    output.print_all(iter(events), options, "jsonl")
    return output.SUCCESS


def _outbox_change(outbox: Any, options: Any) -> int:
    if not options.ids:
        raise ValueError(f"outbox {options.action} needs an ID.")
    status = output.SUCCESS
    for identity in options.ids:
        try:
            getattr(outbox, options.action)(identity)
        except ValueError as error:
            output.say(str(error))
            status = output.NOT_FOUND
    return status


# ---------------------------------------------------------------------------
# Running commands
# ---------------------------------------------------------------------------


def run(options: Any) -> int:
    """Run a command, and send an event at its end."""
    command = list(options.command_words)
    if command[:1] == ["--"]:
        del command[0]
    if not command:
        raise ValueError("Which command? pdpyras run [OPTIONS] -- COMMAND")
    if not hasattr(os, "fork"):
        raise ValueError("pdpyras run needs Unix.")
    alert = _alert(options)
    events = _session_of_run(options, alert)
    import pdpyras_cli_run

    outcome = pdpyras_cli_run.watch(
        [output.file_name(word) for word in command], options.timeout
    )
    is_unwanted = options.no_resolve and not outcome.status
    if events is None or is_unwanted or outcome.is_interrupt:
        return int(outcome.status)
    try:
        with pdpyras_cli_run.raising_signals(), events:
            _send_outcome(events, options, alert, command, outcome)
    except KeyboardInterrupt:
        output.say("Interrupted while the event was sent to PagerDuty.")
    except Exception as error:
        output.say(f"The event could not be sent to PagerDuty: {error}")
    return int(outcome.status)


def _session_of_run(options: Any, alert: Dict[str, Any]) -> Any:
    """The session that sends the event of `run`; None: there is no key.

    It is made before the command is started, so that whoever writes the
    command line learns what is wrong with it, and not only whoever waits for
    the alert. It opens nothing that stays open while the command runs.

    :raises ValueError: no alert can be sent with these settings
    :raises PDClientError: the same
    """
    try:
        import pdpyras

        key = sessions.key_of(options, "PAGERDUTY_ROUTING_KEY")
        if key is None:
            key = os.environ["PAGERDUTY_ROUTING_KEY"]
        pdpyras.EventsAPISession(key)  # Can it be one?
    except (ValueError, OSError, ImportError) as error:
        # The command, maybe a backup, has to run all the same.
        output.say(f"No alert can be sent if this fails. {error}")
        return None
    events = sessions.events_session(options, has_outbox=False)
    events.deadline = options.deadline or EVENT_TIME
    pdpyras._complete_headers(events.headers)
    events.guard(options.summary or "-", _source(options), **alert)
    try:
        events.outbox = sessions.outbox_path(options)
    except (ValueError, OSError, ImportError) as error:
        output.say(f"The event will be sent without an outbox. {error}")
    return events


def _send_outcome(
    events: Any,
    options: Any,
    alert: Dict[str, Any],
    command: List[str],
    outcome: Any,
) -> None:
    import hashlib
    import shlex

    import pdpyras_cli_run

    source = _source(options)
    text = json.dumps([command, source]).encode("utf-8")
    key = options.dedup_key or hashlib.sha256(text).hexdigest()
    if not outcome.status:
        events.resolve(key)
        return
    hide = _hiding([str(events.api_key)])
    # Quoting changes a secret with a quote in it; one may be several words.
    shown = hide(" ".join(shlex.quote(hide(word)) for word in command))
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
        **sessions.given(**details),
        **(alert.get("custom_details") or {}),
    }
    alert["dedup_key"] = key
    usual = f"{shown} failed on {source} (exit status {outcome.status})"
    events.trigger(options.summary or usual, source, **alert)


def _hiding(secrets: Sequence[str]) -> Callable[[str], str]:
    """A function that replaces the values of PAGERDUTY_… in a text."""
    import pdpyras

    values = {
        # As the command's stderr is read, whatever the locale.
        value.decode("utf-8", "surrogateescape")
        for name, value in os.environb.items()
        # The name of a region is no secret, and part of many words.
        if name.startswith(b"PAGERDUTY_") and name != b"PAGERDUTY_REGION"
    }
    ordered = sorted(values.union(secrets) - {""}, key=len, reverse=True)

    def hide(text: str) -> str:
        for value in ordered:
            if len(value) > 4:
                text = pdpyras._secret_pattern(value).sub("***", text)
            text = text.replace(value, "***")
        return text

    return hide
