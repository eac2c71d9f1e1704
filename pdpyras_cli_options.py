"""What the command line takes: commands, options, and their completion.

Two tables, from which the parser, the help texts and the completions of three
shells are made. What the commands do is in ``pdpyras_cli``.

It needs the standard library alone.
"""

import argparse
import contextlib
import json
import os
import re
import sys
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import pdpyras_cli_output as output

__all__ = ["COMMANDS", "completion", "parse"]


# ---------------------------------------------------------------------------
# Types of values
# ---------------------------------------------------------------------------


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _pair(text: str) -> Tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _not_json(text: str, error: Exception) -> Exception:
    if len(text) > 200:
        text = text[:199] + "\u2026"
    return argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}")


def _value(text: str) -> Tuple[str, Any]:
    name, value = _pair(text)
    if not name.endswith(":"):
        return name, value
    try:
        return name[:-1], json.loads(value)
    except (ValueError, RecursionError) as error:
        raise _not_json(value, error) from None


def _header(text: str) -> Tuple[str, str]:
    name, sign, value = text.partition(":")
    if not name.strip() or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:VALUE")
    if name.strip().lower() in ("authorization", "proxy-authorization"):
        raise argparse.ArgumentTypeError(
            "keys are not taken from arguments, which all users can see"
        )
    return name.strip(), value.strip()


def _url(text: str) -> str:
    if "@" in text:
        raise argparse.ArgumentTypeError(
            "a base URL has no user and no password, which all users can see"
        )
    return text


def _seconds(text: str) -> float:
    if not 0 < float(text) < float("inf"):
        raise ValueError
    return float(text)


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _port(text: str) -> int:
    if not 0 <= int(text) < 65536:
        raise ValueError
    return int(text)


def _names(text: str) -> List[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _with_text(url_name: str, text_name: str, text: str) -> Dict[str, Any]:
    """A link or an image: JSON, or a URL and a text after it."""
    if text.startswith("{"):
        try:
            return dict(json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise _not_json(text, error) from None
    url, _, words = text.strip().partition(" ")
    words = words.strip()
    return {url_name: url, text_name: words} if words else {url_name: url}


def _link(text: str) -> Dict[str, Any]:
    return _with_text("href", "text", text)


def _image(text: str) -> Dict[str, Any]:
    return _with_text("src", "alt", text)


def _time(text: str) -> Any:
    """A time in ISO 8601, a date, or how long ago: ``90m``, ``7d``."""
    from datetime import datetime, timedelta, timezone

    try:
        ago = re.fullmatch(r"(\d+)([smhdw])", text)
        if ago:
            seconds = int(ago.group(1)) * _SECONDS[ago.group(2)]
            return datetime.now(timezone.utc) - timedelta(seconds=seconds)
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            return datetime.strptime(text, "%Y-%m-%d").date()
    except (ValueError, OverflowError):
        pass
    else:
        if re.match(r"\d{4}-?\d\d-?\d\d[Tt ]", text):
            return text  # The client reads it.
    raise argparse.ArgumentTypeError(
        f"{text!r} is no time; give 2026-01-31 (UTC), 2026-01-31T09:00:00Z, "
        "or how long ago, as 12h or 7d"
    )


for _type, _name in (
    *((_seconds, "number of seconds"), (_count, "number above 0")),
    *((_time, "time"), (_port, "port")),
):
    _type.__name__ = _name  # So argparse calls it.


# ---------------------------------------------------------------------------
# Options
# ---------------------------------------------------------------------------

# One option per line: flags, its value, two spaces, its help text. The value
# determines the type (see _TYPES); a|b|c are choices, ... marks options that
# may be repeated, and an option without a value is on or off.
_OPTIONS = """
--url URL  base URL, instead of a region's
--region us|eu  service region
--key-file FILE  file that contains the key (for webhook, the secret)
-H --header NAME:VALUE...  additional header
--deadline SECONDS  time limit, retries included (with --each, of each
    request; with run, of sending the event)
--verbose  log requests and responses to stderr
--from EMAIL  email address of the user who acts, if the key is an account's
-p --param NAME=VALUE...  query parameter
--format json|jsonl|csv|tsv|table|ids  json is indented; jsonl is one object
    per line; csv and tsv have the columns of --fields, or the simple fields
    of the first record; table has those of --fields, or the usual ones, and
    is aligned by its first 100 rows; ids is one id per line
--fields A,B.C  print only these fields; b.c is field c of b
--limit N  print at most N records
--prefetch 0..16  number of requests in flight at once
--outbox FILE  keep events in this file until PagerDuty has accepted them
-f --field NAME=VALUE...  build the body (for events, the custom details):
    name=text, name:=json, a.b=text for field b of a
--since TIME  2026-01-31 (UTC), 2026-01-31T09:00:00Z, or how long ago: 12h, 7d
--until TIME  the same; now by default
--resume FILE  keep the position in this file, and continue from it: exactly
    where an interrupted export stopped, or with what is new since a complete
    one
--each FILE  send one request per line (- is stdin). The line, JSON or an id
    alone, fills {fields} in PATH, and is the body if there is no other
--at-once N  number of requests of --each at a time
--dedup-key KEY  deduplication key of the alert
--severity critical|error|warning|info  critical by default
--component TEXT  component that is affected
--group TEXT  group of components
--class TEXT  type of event
--client NAME  name of the monitoring system
--client-url URL  link to the monitoring system
--timestamp TEXT  when it happened, in ISO 8601
--image LINK...  image to show: URL and, after a space, its text; or JSON
--link LINK...  link to show: URL and, after a space, its text; or JSON
--details JSON  custom details: a JSON object, @FILE, or - for stdin
--timeout SECONDS  send SIGTERM after this time and SIGKILL ten seconds later;
    the exit status is then 124
--summary TEXT  summary of the alert
--source TEXT  source of the alert; this host by default
--no-resolve  leave the alert open when the command succeeds
--port PORT  TCP port (for login, that of the app's redirect URI
    http://127.0.0.1:PORT/, 8765 by default)
--no-browser  print the address, and open no browser
--forget  sign out: delete the stored tokens
--signature TEXT  value of the header X-PagerDuty-Signature
--max-age SECONDS  refuse events that are older
--users COUNT  number of users at the start
--latency SECONDS  delay before each response
--rate-limit N  requests per minute
"""

_CONNECTION = "--url --region --key-file --header --deadline --verbose "
_OUTPUT = "--format --fields "
_RECORD = _CONNECTION + "--from --param " + _OUTPUT
_RECORDS = _RECORD + "--limit --prefetch "
_WRITING = "PATH [BODY] --field --each --at-once " + _RECORD
_EVENT = _CONNECTION + "--outbox "
_DETAILS = "--timestamp --link --field --details " + _EVENT
_ALERT = (
    "--dedup-key --severity --component --group --class --client "
    "--client-url --image " + _DETAILS
)

# Options that may also stand before the command.
_COMMON = (_RECORDS + _EVENT).split()

_ARGUMENTS = {
    "PATH": "path or URL, such as users/PABC123",
    "BODY": "JSON, @FILE, or - for stdin",
    "SUMMARY": "what is wrong, or has changed",
    "SOURCE": "where; of an alert, this host by default",
    "DEDUP_KEY": "as printed by trigger",
    "FILE": "the body as it was received; stdin by default",
    "ID": "ids of events, as list prints them",
    "COMMAND": "program and arguments, after --",
}


class _Option(NamedTuple):
    """A row of the table above."""

    flags: Tuple[str, ...]
    takes: str
    help: str
    is_repeated: bool = False

    @property
    def name(self) -> str:
        """Its attribute among the parsed options."""
        name = self.flags[-1].lstrip("-").lower().replace("-", "_")
        return _NAMES.get(self.flags[-1], name)

    @property
    def choices(self) -> Tuple[str, ...]:
        if self.takes == "0..16":
            return tuple(map(str, range(17)))
        return tuple(self.takes.split("|")) if "|" in self.takes else ()


# Names that differ from the flag: keywords of Python, and plurals.
_NAMES = {
    "--from": "sender",
    "--class": "class_",
    "--param": "params",
    "--header": "headers",
    "--field": "values",
    "--image": "images",
    "--link": "links",
    "COMMAND": "command_words",
    "ID": "ids",
}

# How values are converted; all others are text.
_TYPES: Dict[str, Callable[[str], Any]] = {
    "A,B.C": _names,
    "COUNT": int,
    "ID": int,
    "N": _count,
    "NAME:VALUE": _header,
    "PORT": _port,
    "SECONDS": _seconds,
    "TIME": _time,
    "URL": _url,
}


def _read_option(line: str) -> _Option:
    usage, _, purpose = line.partition("  ")
    words = usage.split()
    flags = tuple(word for word in words if word.startswith("-"))
    takes = " ".join(words[len(flags) :])
    is_repeated = takes.endswith("...")
    return _Option(flags, takes.rstrip("."), purpose, is_repeated)


_option_table = [
    _read_option(line)
    for line in _OPTIONS.replace("\n    ", " ").strip().split("\n")
]
_options = {option.flags[-1]: option for option in _option_table}


def _type_of(option: _Option) -> Optional[Callable[[str], Any]]:
    """What converts the text of a value; None: nothing."""
    if option.takes == "NAME=VALUE":
        return _value if option.name == "values" else _pair
    if option.takes == "LINK":
        return _link if option.name == "links" else _image
    if option.takes == "0..16":
        return int
    return str.lower if option.choices else _TYPES.get(option.takes)


# ---------------------------------------------------------------------------
# Commands
# ---------------------------------------------------------------------------


class _Command(NamedTuple):
    """A command: its options and arguments, its purpose, an example."""

    takes: str
    purpose: str
    example: str
    more: str = ""


COMMANDS: Dict[str, _Command] = {
    "get": _Command(
        "PATH --limit " + _RECORD,
        "print a resource, or one page of a list",
        "pdpyras get users/me --fields id,email",
    ),
    "list": _Command(
        "PATH [BODY] --field " + _RECORDS,
        "print all records of a list",
        "pdpyras list incidents -p statuses=triggered --format table",
        "BODY is for lists that are read by POST.",
    ),
    "history": _Command(
        "PATH [BODY] --since! --until --resume --field " + _RECORDS,
        "print all records of a period, oldest first, however many",
        "pdpyras history audit/records --since 30d --resume audit.position "
        ">> audit.jsonl",
    ),
    "post": _Command(
        _WRITING,
        "create a resource, or one for each line of a file",
        "pdpyras post users -f name='Jane Doe' -f email=jane@example.com",
    ),
    "put": _Command(
        _WRITING,
        "update a resource, or one for each line of a file",
        "pdpyras list incidents --format ids | sort | pdpyras put "
        "'incidents/{id}' -f type=incident -f status=resolved --each -",
    ),
    "patch": _Command(
        _WRITING,
        "update part of a resource, or of one for each line of a file",
        "pdpyras patch workflows/integrations/PABC123 -f name=Chat",
    ),
    "delete": _Command(
        _WRITING,
        "delete a resource, or one for each line of a file",
        "pdpyras delete users/PABC123",
    ),
    "trigger": _Command(
        "SUMMARY [SOURCE] " + _ALERT,
        "trigger an alert, and print its dedup key",
        "pdpyras trigger 'Disk is full' db1.example.com --severity warning",
    ),
    "acknowledge": _Command(
        "DEDUP_KEY " + _EVENT,
        "acknowledge an alert",
        "pdpyras acknowledge db1-disk",
    ),
    "ack": _Command(
        "DEDUP_KEY " + _EVENT,
        "the same as acknowledge",
        "pdpyras ack db1-disk",
    ),
    "resolve": _Command(
        "DEDUP_KEY " + _EVENT,
        "resolve an alert",
        "pdpyras resolve db1-disk",
    ),
    "change": _Command(
        "SUMMARY [SOURCE] " + _DETAILS,
        "send a change event, such as a deployment",
        "pdpyras change 'Deployed 4.2' --link 'https://ci.example.com/7 CI'",
    ),
    "run": _Command(
        "--timeout --summary --source --no-resolve COMMAND " + _ALERT,
        "run a command, and trigger an alert if it fails",
        "pdpyras run --timeout 3600 -- /usr/local/bin/backup --full",
        "Output, signals and exit status are passed through. The alert has "
        "the last 40 lines of stderr; success resolves it. A command that is "
        "ended with Ctrl-C at the terminal triggers no alert.",
    ),
    "outbox": _Command(
        "status|flush|list|retry|drop [ID...] " + _EVENT + _OUTPUT,
        "list, send, retry or drop the events in an outbox",
        "pdpyras outbox flush --outbox /var/lib/job/alerts.db --deadline 30",
        "flush sends what waits: the exit status is 3 if events still wait, "
        "1 if some were refused. retry queues refused events again; drop "
        "deletes events.",
    ),
    "oncall": _Command(
        _RECORDS,
        "print who is on call now, by policy and level",
        "pdpyras oncall -p escalation_policy_ids=PABC123",
    ),
    "whoami": _Command(
        _CONNECTION + _OUTPUT,
        "print the user or the account of the key",
        "pdpyras whoami",
    ),
    "login": _Command(
        "--port --no-browser --forget --url --deadline --verbose",
        "sign in with the browser, as a user of an OAuth app",
        "PAGERDUTY_CLIENT_ID=... PAGERDUTY_CLIENT_SECRET=... pdpyras login",
        "The tokens are stored in PAGERDUTY_TOKEN_CACHE, or in "
        "~/.cache/pdpyras/tokens.json, and used where there is no "
        "PAGERDUTY_API_KEY. The client secret is not stored: keep it in the "
        "environment, with PAGERDUTY_SCOPES and PAGERDUTY_SUBDOMAIN.",
    ),
    "rate": _Command(
        _CONNECTION + _OUTPUT,
        "print the rate limit, and what remains of it",
        "pdpyras rate",
    ),
    "webhook": _Command(
        "verify [FILE] --signature! --max-age --key-file --verbose " + _OUTPUT,
        "verify the signature of a webhook, and print its event",
        "pdpyras webhook verify body.json --signature 'v1=...'",
        "The secret is in PAGERDUTY_WEBHOOK_SECRET, or in --key-file.",
    ),
    "sandbox": _Command(
        "--port --users --latency --rate-limit --verbose",
        "serve a PagerDuty-like API to try commands with",
        "pdpyras sandbox --users 50",
        "It prints its URL and keys as shell commands.",
    ),
    "completion": _Command(
        "bash|zsh|fish",
        "print the completion script for a shell",
        'eval "$(pdpyras completion bash)"',
    ),
}


# ---------------------------------------------------------------------------
# The parser
# ---------------------------------------------------------------------------


def _add_option(
    parser: Any, option: _Option, dest: str, is_required: bool = False
) -> None:
    settings: Dict[str, Any] = {"help": option.help.replace("%", "%%")}
    if not option.takes:
        settings["action"] = "store_true"
    else:
        kind = _type_of(option)
        settings.update(metavar=option.takes, type=kind)
        if option.choices:
            settings["choices"] = list(map(kind or str, option.choices))
    if option.is_repeated:
        settings["action"] = "append"
    parser.add_argument(
        *option.flags, dest=dest, required=is_required, **settings
    )


def _add_argument(parser: Any, word: str) -> None:
    """Add what stands without a flag: ``PATH``, ``[BODY]``, ``this|that``."""
    name = word.strip("[].")
    settings: Dict[str, Any] = {"help": _ARGUMENTS.get(name)}
    if word.islower():
        parser.add_argument("action", choices=word.split("|"))
        return
    if word.startswith("["):
        settings["nargs"] = "*" if "..." in word else "?"
    if name == "COMMAND":
        settings["nargs"] = argparse.REMAINDER
    dest = _NAMES.get(name, name.lower())
    settings.update(metavar=name, type=_TYPES.get(name))
    parser.add_argument(dest, **settings)


def _fill_parser(parser: Any, command: _Command) -> None:
    for word in command.takes.split():
        flag = word.rstrip("!")
        if flag in _options:
            option = _options[flag]
            _add_option(parser, option, option.name, word != flag)
        else:
            _add_argument(parser, word)


def _usage(name: str) -> str:
    words = COMMANDS[name].takes.split()
    arguments = [word for word in words if not word.startswith("-")]
    if name == "run":
        arguments = ["-- COMMAND [ARGUMENT...]"]
    return " ".join([f"pdpyras {name} [OPTIONS]", *arguments])


class _Parser(argparse.ArgumentParser):
    """Says of a command that there is none what would help."""

    def error(self, message: str) -> Any:
        # Only commands that are named were made, so that argparse's own list
        # is not all of them.
        found = re.match(r"argument COMMAND: invalid choice: (\S+)", message)
        if found:
            commands = ", ".join(COMMANDS)
            message = f"no command is called {found.group(1)}; {commands} are"
        super().error(message)


class _ShowVersion(argparse.Action):
    def __call__(self, parser: Any, *args: Any) -> None:
        output.write(_version() + "\n")
        parser.exit()


def _version() -> str:
    """The version, which is written down in pdpyras.py, and only there.

    It is read, not imported, for that would import requests.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    with contextlib.suppress(OSError):
        with open(os.path.join(here, "pdpyras.py"), encoding="utf-8") as file:
            for line in file:
                if line.startswith("__version__"):
                    return line.split('"')[1]
    import pdpyras

    return pdpyras.__version__


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, as far as these arguments can need it."""
    settings: Dict[str, Any] = {
        # Without that, Python 3.6 and 3.7 do not know -pNAME=VALUE.
        "allow_abbrev": sys.version_info < (3, 8),
        "argument_default": argparse.SUPPRESS,
    }
    parser = _Parser(
        prog="pdpyras",
        description="PagerDuty's REST API and Events API, from a shell.",
        epilog="The key is in PAGERDUTY_API_KEY, for events in "
        "PAGERDUTY_ROUTING_KEY, or in --key-file. Exit status: 0 success, 1 "
        "refused by the API, 2 usage, 3 network or deadline, 4 not found, 5 "
        "incomplete result. These options may stand before or after the "
        "command; COMMAND --help lists all that it takes.",
        usage="pdpyras [OPTIONS] COMMAND [OPTIONS] ...",
        **settings,
    )
    parser.add_argument(
        "--version", action=_ShowVersion, nargs=0, help="print the version"
    )
    for flag in dict.fromkeys(_COMMON):
        _add_option(parser, _options[flag], "before_" + _options[flag].name)
    commands: Any = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands"
    )
    # Parsers of commands that are not named need not be made.
    named = [name for name in COMMANDS if name in arguments]
    is_help = bool(arguments) and arguments[0] in ("-h", "--help")
    for name in list(COMMANDS) if is_help or not named else named:
        command = COMMANDS[name]
        purpose = command.purpose
        sub = commands.add_parser(
            name,
            help=purpose,
            prog=f"pdpyras {name}",
            usage=_usage(name),
            description=f"{purpose[0].upper()}{purpose[1:]}. {command.more}",
            epilog=f"Example: {command.example}",
            **settings,
        )
        _fill_parser(sub, command)
    commands.choices = list(COMMANDS)  # for the message about another word
    return parser


class _Options:
    """The options that are given; None for all others."""

    def __init__(self, values: Dict[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        return None


def parse(arguments: Sequence[str]) -> Any:
    """The options of a command line; SystemExit if they are invalid."""
    parser = _parser(arguments)
    _check_before(parser, arguments)
    namespace, rest = parser.parse_known_args(arguments)
    values = vars(namespace)
    if values.get("command") is None:
        parser.error("a command is required")
    command = COMMANDS[values["command"]]
    for flag in _COMMON:
        name = _options[flag].name
        before = values.pop("before_" + name, None)
        if before is None:
            continue
        if flag not in command.takes.split():
            parser.error(f"{values['command']} takes no {flag}")
        if _options[flag].is_repeated:
            values[name] = before + values.get(name, [])
        values.setdefault(name, before)
    options = _Options(values)
    _take_after_options(command, options, rest)
    if rest:
        parser.error(
            f"unrecognized arguments: {' '.join(rest)} (see pdpyras "
            f"{values['command']} --help)"
        )
    return options


def _check_before(parser: Any, arguments: Sequence[str]) -> None:
    """Refuse an option before the command that must stand behind it.

    Its value would be taken for the command.
    """
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            return
        flag, sign, _ = word.partition("=")
        if not word.startswith("--"):
            flag, sign = word[:2], word[2:]
        for option in _option_table:
            if flag not in option.flags:
                continue
            if option.flags[-1] not in _COMMON:
                parser.error(f"{flag} must be written after the command")
            if option.takes and not sign:
                next(words, None)


_DIGITS = re.compile("[0-9]{1,99}")


def _take_after_options(
    command: _Command, options: Any, rest: List[str]
) -> None:
    """Take what argparse leaves: an optional argument after options."""
    if any(text.startswith("-") and text != "-" for text in rest):
        return
    for word in command.takes.split():
        name = word.strip("[].")
        dest = _NAMES.get(name, name.lower())
        if not word.startswith("[") or getattr(options, dest):
            continue
        if "..." not in word and len(rest) == 1:
            setattr(options, dest, rest.pop())
        elif "..." in word and all(map(_DIGITS.fullmatch, rest)):
            setattr(options, dest, list(map(int, rest)))
            del rest[:]


# ---------------------------------------------------------------------------
# Completion
# ---------------------------------------------------------------------------


def completion(shell: str) -> str:
    """The script that completes the command line in bash, zsh or fish."""
    lines = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()
    return "\n".join(lines) + "\n"


def _options_of(name: str) -> List[_Option]:
    """The options of a command; "": those that may stand before it."""
    if not name:
        version = _Option(("--version",), "", "print the version")
        return [version, *(_options[flag] for flag in dict.fromkeys(_COMMON))]
    flags = [word.rstrip("!") for word in COMMANDS[name].takes.split()]
    return [_options[flag] for flag in flags if flag in _options]


def _actions_of(name: str) -> List[str]:
    """The actions of a command, of which one must be given."""
    word = COMMANDS[name].takes.split()[0]
    is_action = word.islower() and not word.startswith("-")
    return word.split("|") if is_action else []


def _words(name: str) -> str:
    """What may stand after a command, or before it."""
    flags = [flag for option in _options_of(name) for flag in option.flags]
    others = _actions_of(name) if name else list(COMMANDS)
    return " ".join([*others, "--help", *flags])


def _bash() -> Iterator[str]:
    valued = {f: o for o in _option_table if o.takes for f in o.flags}
    plain = [flag for flag, option in valued.items() if not option.choices]
    yield from (
        "_pdpyras() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" command="" words="" i',
        '    local before="${COMP_WORDS[COMP_CWORD-1]}"',
        '    if [ "$word" = = ]; then word=""',
        '    elif [ "$before" = = ]; then',
        '        before="${COMP_WORDS[COMP_CWORD-2]}"',
        "    fi",
        "    COMPREPLY=()",
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        '        case "$command:${COMP_WORDS[i]}" in',
        "            run:--)",
        "                if ((i + 1 == COMP_CWORD)); then",
        '                    COMPREPLY=($(compgen -c -- "$word"))',
        "                fi",
        "                return ;;",
        f"            :{'|:'.join(COMMANDS)}) command=${{COMP_WORDS[i]}} ;;",
        "        esac",
        "    done",
        '    case "$before" in',
        *(
            f'        {flag}) words="{" ".join(option.choices)}" ;;'
            for flag, option in valued.items()
            if option.choices
        ),
        # Files, which readline offers where there is nothing else.
        f"        {'|'.join(plain)}) return ;;",
        '        *) case "$command" in',
        *(
            f'            {name or chr(34) * 2}) words="{_words(name)}" ;;'
            for name in ("", *COMMANDS)
        ),
        "        esac ;;",
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "complete -o default -F _pdpyras pdpyras",
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh_specs(name: str) -> Iterator[str]:
    """The options of a command, as _arguments of zsh takes them."""
    for option in _options_of(name):
        said = re.sub(r"([\[\]:\\])", r"\\\1", option.help)
        value = ""
        if option.takes:
            choices = " ".join(option.choices)
            value = f":{option.name}:{f'({choices})' if choices else '_files'}"
        for flag in option.flags:
            yield _quoted(f"*{flag}[{said}]{value}")


def _zsh() -> Iterator[str]:
    described = (
        _quoted(f"{name}:{command.purpose}")
        for name, command in COMMANDS.items()
    )
    top = " ".join(_zsh_specs(""))
    yield from (
        "#compdef pdpyras",
        "_pdpyras() {",
        "    local state line curcontext=$curcontext",
        "    local -a commands",
        f"    commands=({' '.join(described)})",
        f"    _arguments -C {top} '1:command:->command' '*::rest:->rest'",
        "    case $state in",
        "        command) _describe command commands ;;",
        "        rest) case $words[1] in",
    )
    for name in COMMANDS:
        rest = "'*:file:_files'"
        if _actions_of(name):
            rest = f"'1:what:({' '.join(_actions_of(name))})' {rest}"
        if name == "run":
            rest = "'*::command:_normal'"
        specs = " ".join(_zsh_specs(name))
        yield f"            {name}) _arguments {specs} {rest} ;;"
    yield from (
        "        esac ;;",
        "    esac",
        "}",
        "compdef _pdpyras pdpyras",
    )


def _fish() -> Iterator[str]:
    for name, command in COMMANDS.items():
        yield (
            "complete -c pdpyras -f -n __fish_use_subcommand "
            f"-a {name} -d {_quoted(command.purpose)}"
        )
    for name in ("", *COMMANDS):
        where = f"'__fish_seen_subcommand_from {name}'"
        start = f"complete -c pdpyras -n {where}"
        if not name:
            start = "complete -c pdpyras -n __fish_use_subcommand"
        for option in _options_of(name):
            flags = " ".join(
                f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}"
                for f in option.flags
            )
            value = " -r" if option.takes else ""
            if option.choices:
                value = f" -x -a '{' '.join(option.choices)}'"
            yield f"{start} {flags}{value} -d {_quoted(option.help)}"
        if name and _actions_of(name):
            yield f"{start} -f -a '{' '.join(_actions_of(name))}'"
