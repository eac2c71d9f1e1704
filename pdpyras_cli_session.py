"""Input and sessions of the command line: files, keys, signing in.

What the commands share before they send anything. Keys come from the
environment, from a file, or from the tokens that ``pdpyras login`` has stored.

It needs the standard library alone until a session is made.
"""

import contextlib
import json
import os
import sys
import time
from typing import Any, BinaryIO, Dict, Iterator, Optional, cast

import pdpyras_cli_output as output

__all__ = [
    "TimeOverError",
    "body_of",
    "bytes_in",
    "check_stdin",
    "events_session",
    "given",
    "key_of",
    "lines_in",
    "loaded",
    "login",
    "one_deadline",
    "outbox_path",
    "rest_session",
    "text_in",
    "text_of",
]


# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------

# For `login`: seconds to wait for the browser, and the port of the app's
# redirect URI.
LOGIN_TIME = 300.0
LOGIN_PORT = 8765


class TimeOverError(Exception):
    """Nothing came within the time limit."""


# ---------------------------------------------------------------------------
# Input
# ---------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """A file, or stdin if it is ``-``."""
    if name == "-":
        if sys.stdin is None:
            raise ValueError("stdin is closed.")
        yield sys.stdin.buffer
        return
    try:
        with open(output.file_name(name), "rb") as file:
            yield file
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror}.") from None


def lines_in(name: str) -> Iterator[bytes]:
    """The lines of a file, or of stdin if it is ``-``."""
    with _opened(name) as file:
        yield from file


def bytes_in(name: str, size: int) -> bytes:
    """What a file, or stdin if it is ``-``, begins with."""
    with _opened(name) as file:
        return file.read(size)


def text_of(content: bytes) -> str:
    """The text of UTF-8; a ValueError if it is none."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"The input is not UTF-8: {error}") from None


def text_in(name: str) -> str:
    """The text of a file, or of stdin if it is ``-``."""
    return text_of(b"".join(lines_in(name)))


def loaded(text: str, what: str) -> Any:
    """What a JSON text holds."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON: {error}") from None


def _json_argument(text: str, what: str) -> Any:
    """JSON, or ``@FILE`` with JSON, or ``-``: JSON from stdin."""
    name = _named_input(text)
    return loaded(text if name is None else text_in(name), what)


def check_stdin(options: Any) -> None:
    """Let only one thing be read from stdin.

    :raises ValueError: the second would find nothing there
    """
    file = options.file or "-" if options.command == "webhook" else None
    inputs = (
        ("BODY", _named_input(options.body)),
        ("--details", _named_input(options.details)),
        ("FILE", file),
        ("--each", options.each),
        ("--key-file", options.key_file),
    )
    found = [what for what, name in inputs if name == "-"]
    if options.command == "run" and found:
        raise ValueError(f"{found[0]} - would read the command's stdin.")
    if len(found) > 1:
        raise ValueError(f"{' and '.join(found)} would both read stdin.")


def _named_input(text: Optional[str]) -> Optional[str]:
    """The file that an argument names with @; "-" is stdin."""
    if text == "-" or (text and text.startswith("@")):
        return text[1:] or "-"
    return None


def body_of(given: Optional[str], values: Any, what: str = "BODY") -> Any:
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


def key_of(options: Any, variable: str) -> Optional[str]:
    """The key in the file; None: it is in the environment."""
    if options.key_file:
        if options.key is None:  # A pipe can be read only once.
            options.key = text_in(options.key_file).strip()
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


def given(**arguments: Any) -> Dict[str, Any]:
    """The arguments that are not None."""
    return {k: v for k, v in arguments.items() if v is not None}


def rest_session(options: Any) -> Any:
    """A session of the REST API."""
    import pdpyras

    arguments = given(
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
        key = key_of(options, "PAGERDUTY_API_KEY")
        session = pdpyras.APISession.from_env(
            **given(api_key=key), **arguments
        )
    return _prepared(session, options)


def outbox_path(options: Any) -> Any:
    """Where the outbox is to be; None: nowhere."""
    if options.outbox:
        return output.file_name(options.outbox)
    return os.environ.get("PAGERDUTY_OUTBOX") or None


def events_session(
    options: Any, kind: str = "EventsAPISession", has_outbox: bool = True
) -> Any:
    """A session of the Events API."""
    import pdpyras

    arguments = given(
        api_key=key_of(options, "PAGERDUTY_ROUTING_KEY"),
        url=options.url,
        region=options.region,
    )
    arguments["outbox"] = outbox_path(options) if has_outbox else None
    events = getattr(pdpyras, kind).from_env(**arguments)
    events.client_dedup_keys = True  # So that no retry opens a second alert.
    return _prepared(events, options)


@contextlib.contextmanager
def one_deadline(session: Any) -> Iterator[None]:
    """Take the time of a request off what the next one may take."""
    begun = time.monotonic()
    yield
    if session.deadline is not None:
        session.deadline -= time.monotonic() - begun
        if session.deadline <= 0:
            raise TimeOverError("The deadline has passed.")


def _prepared(session: Any, options: Any) -> Any:
    session.headers.update(options.headers or ())
    session.deadline = options.deadline
    return session


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
    found = {
        argument: os.environ.get("PAGERDUTY_" + name) or None
        for argument, name in settings.items()
    }
    client_id, client_secret = (os.environ[name] for name in names)
    return OAuthApp(
        client_id,
        client_secret,
        os.environ.get("PAGERDUTY_SCOPES", ""),
        cache=TokenCache(cache),
        **cast(Any, given(**found)),
    )


def _signed_in_session(arguments: Dict[str, Any]) -> Any:
    """The user's session, or else the app's own."""
    app = _app()
    arguments = dict(_oauth_arguments(), **arguments)
    app._uninterrupted = _deferred_signals
    if app.cache.load(app.cache_key(_USER)):
        return app.session_from_cache(_USER, **arguments)
    if not app.subdomain:
        raise ValueError(
            "Nobody has signed in with this app and these scopes. Run: "
            "pdpyras login; or set PAGERDUTY_SUBDOMAIN to act as the app."
        )
    return app.session(**arguments)


@contextlib.contextmanager
def _deferred_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the block; once each.

    Between the use of a refresh token and the storing of the next one, they
    would cost the sign-in. If there are two of a kind, somebody means it.
    """
    import signal
    import threading

    before: Dict[int, Any] = {}
    noted = []

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
            before[each] = signal.getsignal(each) or signal.SIG_DFL
            if before[each] != signal.SIG_IGN:
                signal.signal(each, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in noted:
            if callable(before[number]):
                before[number](number, None)
            else:
                os.kill(os.getpid(), number)


def _oauth_arguments() -> Dict[str, Any]:
    return given(
        url=os.environ.get("PAGERDUTY_URL") or None,
        default_from=os.environ.get("PAGERDUTY_FROM") or None,
    )


def login(options: Any) -> int:
    """Sign in with the browser, and store the tokens."""
    app = _app()
    if options.forget:
        app.cache.store(app.cache_key(_USER), None)
        return output.SUCCESS
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
    arguments = dict(_oauth_arguments(), **given(url=options.url))
    with app.session_from_redirect(
        authorization, url, user=_USER, **arguments
    ) as session:
        user = session.rget("users/me")
    output.say(f"Signed in as {output.cell(user, 'name')}.")
    return output.SUCCESS


class _Redirect:
    """The redirect URI of the browser: a server on loopback (RFC 8252)."""

    def __init__(self, port: Optional[int]) -> None:
        import queue
        from http.server import BaseHTTPRequestHandler, HTTPServer
        from socketserver import ThreadingMixIn

        seen: Any = queue.Queue()
        self._seen = seen

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.end_headers()
                self.wfile.write(b"You may close this window now.\n")
                self.wfile.flush()
                seen.put(self.path)

            def log_message(self, *args: Any) -> None:
                pass  # The path holds a secret.

        # Browsers open connections that they may need later, and send nothing.
        class Server(ThreadingMixIn, HTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *args: Any) -> None:
                pass  # A browser that hangs up: nobody needs a traceback.

        port = LOGIN_PORT if port is None else port
        try:
            self._server = Server(("127.0.0.1", port), Handler)
        except OSError as error:
            raise ValueError(
                f"Port {port} is not available: {error}"
            ) from None
        self.uri = f"http://127.0.0.1:{self._server.server_port}/"

    def wait(self, state: str, seconds: float) -> str:
        """The URL to which the browser is redirected after this consent."""
        import queue
        import threading
        from urllib.parse import parse_qs, urlsplit

        end = time.monotonic() + seconds
        threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        ).start()
        try:
            while True:
                left = max(end - time.monotonic(), 0)
                path = self._seen.get(timeout=left)
                if parse_qs(urlsplit(path).query).get("state") == [state]:
                    return self.uri.rstrip("/") + str(path)
        except queue.Empty:
            raise TimeOverError(
                "No browser was redirected from PagerDuty within "
                f"{seconds:g} s."
            ) from None
        finally:
            self._server.shutdown()

    def close(self) -> None:
        self._server.server_close()
