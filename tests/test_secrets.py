"""No secret, and no control character of a server, is where it can be seen.

Crash reporters send the local variables of every function that an exception
has passed. What they would send is looked at in three ways: by walking the
frames, and with Sentry's and Loguru's own reporters, in a process each.
"""

import base64
import contextlib
import copy
import html
import io
import json
import pickle
import re
import signal
import subprocess
import sys
import threading
import traceback
import urllib.parse

import pytest
import requests

import pdpyras
from tests import wire
from tests.support import ROOT, Clock

KEY = "u+Tk7/Zq9=not-a-real-key-5Xw2"
PASSWORD = "not-a-real-word-8Rt4"
BASIC = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
SECRETS = (KEY, PASSWORD, BASIC)
ENQUEUE = "/v2/enqueue"
EVENT = json.dumps({"routing_key": KEY, "event_action": "trigger"})
ECHO = {"error": {"message": f"Bad key {KEY}", "errors": [KEY], "code": 2001}}


# ---------------------------------------------------------------------------
# What goes wrong
# ---------------------------------------------------------------------------


def opened(kind, server, **settings):
    """A session on a server, that gives up soon."""
    session = kind(KEY)
    session.url = server.url
    session.sleep_timer = 0.001
    session.max_network_attempts = 1
    for name, value in settings.items():
        setattr(session, name, value)
    return session


def rest(server, **settings):
    return opened(pdpyras.APISession, server, **settings)


def events(server, **settings):
    return opened(pdpyras.EventsAPISession, server, **settings)


def changes(server, **settings):
    return opened(pdpyras.ChangeEventsAPISession, server, **settings)


def unauthorized(server):
    server.reply(401, json=ECHO)
    rest(server).get("/users")


def unauthorized_bearer(server):
    server.reply(401, json=ECHO)
    session = rest(server, auth_type="bearer")
    session.rget("/users/P1")


def not_found(server):
    server.reply(404, json=ECHO)
    rest(server).rget("/users/P1")


def server_error(server):
    server.reply(500, json=ECHO, headers={"x-request-id": KEY})
    rest(server).rput("/users/P1", json={"id": "P1"})


def refused(server):
    closed = f"http://127.0.0.1:{wire.closed_port()}"
    rest(server, url=closed).get("/users")


def refused_behind_another_error(server):
    try:
        raise KeyError("of the caller")
    except KeyError:
        refused(server)


def dropped(server):
    server.fault("reset", "request", times=2)
    rest(server).rget("/users/P1")


def dropped_body(server):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"
    server.reply(raw=head + KEY.encode(), times=2)
    rest(server).rget("/users/P1")


def dropped_chunk(server):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.reply(raw=head + b"99\r\n" + KEY.encode(), times=2)
    rest(server).rget("/users/P1")


def wrong_chunk(server):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.reply(raw=head + KEY.encode() + b"\x1b[2J\r\n", times=2)
    rest(server).rget("/users/P1")


def wrong_status_line(server):
    server.reply(raw=b"\x1b[2J " + KEY.encode() + b"\r\n\r\n", times=2)
    rest(server).rget("/users/P1")


def wrong_lengths(server):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: "
    server.reply(raw=head + KEY.encode() + b"\r\n\r\nabcde", times=2)
    rest(server).rget("/users/P1")


def half_a_gzip_stream(server):
    server.fault("gzip-truncated", "body", times=2)
    rest(server).rget("/users/P1")


def stalled(server):
    server.fault("stall", "status", times=2)
    rest(server, timeout=0.05).rget("/users/P1")


def too_large_an_answer(server):
    server.reply(json=[KEY] * 100)
    rest(server, max_response_size=100).rget("/users/P1")


def no_certificate(server):
    pytest.importorskip("trustme")
    with wire.certificates() as trust, wire.Server(tls=trust) as secure:
        rest(secure).rget("/users/P1")


def tls_to_a_plain_port(server):
    server.fault("garbage", "connect", times=2)
    url = server.url.replace("http:", "https:")
    rest(server, url=url, timeout=5).rget("/users/P1")


def past_the_deadline(server):
    server.fault("stall", "status")
    rest(server).get("/users", deadline=0.05)


def pause_beyond_the_deadline(server):
    server.reply(429, json=ECHO, headers={"Retry-After": "99"})
    rest(server).get("/users", deadline=5)


def too_long_a_wait(server):
    server.reply(429, json=ECHO, headers={"Retry-After": "99"})
    rest(server, max_rate_wait=5).get("/users")


def error_in_a_hook(server):
    def hook(response, *args, **kwargs):
        raise ValueError("of a hook")

    rest(server).get("/users", hooks={"response": hook})


def error_in_a_hook_of_the_session(server):
    def hook(response, *args, **kwargs):
        response.raise_for_status()

    session = rest(server)
    session.hooks["response"] = [hook]
    server.reply(404, json=ECHO)
    session.get("/users")


def interrupted(server):
    main = threading.main_thread().ident
    server.fault("stall", "status")
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    try:
        rest(server).rget("/users/P1")
    finally:
        timer.join()


def no_json(server):
    server.reply(body=f"no JSON, {KEY}".encode())
    rest(server).rget("/users/P1")


def no_wrapper(server):
    server.reply(json={KEY: KEY})
    rest(server).rget("/users/P1")


def no_page(server):
    server.reply(json={KEY: KEY})
    rest(server).list_all("/users")


def page_not_found(server):
    server.reply(json={"users": [{"id": KEY}], "more": True})
    server.reply(404, json=ECHO)
    rest(server).list_all("/users", page_size=1)


def page_read_ahead_not_found(server):
    server.reply(json={"users": [{"id": "P1"}], "more": True, "total": 9})
    server.reply(404, json=ECHO, times=9)
    rest(server).list_all("/users", page_size=1, prefetch=3)


def not_encodable(server):
    rest(server).rput("/users/P1", json={"id": {1, 2}})


def not_encodable_beside_cookies(server):
    session = rest(server)
    session.cookies.set("a", "b")
    session.rput("/users/P1", json={"id": float("nan")})


def wrong_cookies(server):
    rest(server).get("/users", cookies=5)


def wrong_proxies(server):
    rest(server).get("/users", proxies="none")


def wrong_header(server):
    session = rest(server)
    session.rget("/users/P1", headers={"Authorization": f"Bearer {KEY}\n"})


def other_authorization(server):
    server.reply(404, json=ECHO)
    session = rest(server)
    session.rget("/users/P1", headers={"authorization": f"Bearer {KEY}"})


def outside(server):
    rest(server).get("https://evil.invalid/")


def redirect_outside(server):
    server.reply(302, headers={"Location": f"http://evil.invalid/{KEY}"})
    rest(server).get("/users")


def redirect_loop(server):
    server.reply(302, headers={"Location": "/users"}, times=99)
    rest(server).get("/users")


def redirect_to_a_dropped_connection(server):
    server.reply(302, headers={"Location": "/users/P1"})
    server.fault("reset", "request")
    rest(server, max_network_attempts=0).get("/users")


def redirect_outside_behind_another(server):
    server.reply(302, headers={"Location": "/users/P1"})
    server.reply(302, headers={"Location": "http://evil.invalid/"})
    rest(server).get("/users")


def event_refused(server):
    server.reply(400, json={"status": "invalid", "errors": [KEY]})
    events(server).trigger("summary", "source")


def change_refused(server):
    server.reply(400, json={"status": "invalid", "errors": [KEY]})
    changes(server).submit("summary")


def event_dropped(server):
    server.fault("reset", "request", times=2)
    events(server).trigger("summary", "source")


def event_too_large(server):
    details = {"a": "b" * 600000}
    session = events(server, strict_events=True)
    session.trigger("summary", "source", custom_details=details)


def event_too_large_to_shorten(server):
    links = [{"href": "b" * 600000}]
    events(server).trigger("summary", "source", links=links)


def event_of_no_json(server):
    events(server).send_event("trigger", payload={"n": float("nan")})


def event_with_a_key_of_its_own(server):
    events(server).send_event("resolve", routing_key=KEY)


def change_with_a_key_of_its_own(server):
    server.reply(400, json={"errors": [KEY]})
    changes(server).send_change_event(routing_key=KEY, payload={})


def answer_without_dedup_key(server):
    server.reply(202, json={"dedup_key": [KEY]})
    events(server).trigger("summary", "source")


def answer_that_is_no_object(server):
    server.reply(202, json=[KEY])
    changes(server).submit("summary")


def encoded_event_dropped(server):
    server.fault("reset", "request", times=2)
    events(server).post(ENQUEUE, data=EVENT)


def encoded_bytes_dropped(server):
    server.fault("reset", "request", times=2)
    events(server).post(ENQUEUE, EVENT.encode())


def encoded_event_by_position_dropped(server):
    server.fault("reset", "request", times=2)
    events(server).request("post", ENQUEUE, None, EVENT)


def form_dropped(server):
    server.fault("reset", "request", times=2)
    events(server).post(ENQUEUE, data={"routing_key": KEY})


def form_of_pairs_dropped(server):
    server.fault("reset", "request", times=2)
    events(server).post(ENQUEUE, data=[("a", "b"), ("routing_key", KEY)])


def json_with_a_key_dropped(server):
    server.fault("reset", "request", times=2)
    events(server).post(ENQUEUE, json={"routing_key": KEY})


def encoded_event_with_a_wrong_header(server):
    events(server).post(ENQUEUE, data=EVENT, headers={"X": "a\nb"})


def encoded_event_with_wrong_cookies(server):
    events(server).post(ENQUEUE, data=EVENT, cookies=5)


def encoded_event_that_cannot_be_encoded(server):
    events(server).post(ENQUEUE, data=EVENT + "\ud800")


def encoded_event_with_another_method(server):
    events(server).put(ENQUEUE, data=EVENT)


def encoded_event_patched(server):
    events(server).patch(ENQUEUE, data=EVENT)


def arguments_given_twice(server):
    events(server).request("POST", ENQUEUE, None, EVENT, data=EVENT)


def too_many_arguments(server):
    events(server).request("POST", ENQUEUE, None, EVENT, *[None] * 20)


def wrong_key(server):
    pdpyras.APISession(KEY + "\n")


def wrong_key_by_name(server):
    pdpyras.APISession(api_key=KEY + "\n", default_from="me@example.com")


def wrong_key_in_bytes(server):
    pdpyras.APISession(KEY.encode())


def wrong_routing_key(server):
    pdpyras.EventsAPISession(KEY + " ")


def wrong_routing_key_of_changes(server):
    pdpyras.ChangeEventsAPISession(f" {KEY}")


def wrong_key_assigned(server):
    rest(server).api_key = KEY + "\n"


def wrong_key_set(server):
    rest(server).set_api_key(KEY + "\n")


def wrong_key_set_by_name(server):
    rest(server).set_api_key(api_key=KEY + "\n")


def wrong_key_beside_the_environment(server):
    pdpyras.APISession.from_env(api_key=KEY + "\n")


def wrong_region_beside_the_environment(server):
    pdpyras.APISession.from_env(api_key=KEY, region="xx")


def wrong_outbox_beside_the_environment(server):
    pdpyras.EventsAPISession.from_env(api_key=KEY, outbox=3)


def wrong_url_beside_the_environment(server):
    pdpyras.ChangeEventsAPISession.from_env(api_key=KEY, url="bog us")


def wrong_auth_type(server):
    pdpyras.APISession(KEY, auth_type="basic")


def proxies_of(host, scheme="http"):
    """As requests takes them; that at this host demands credentials."""
    url = f"{scheme}://user:{PASSWORD}@{host}"
    return {"http": url, "https": url}


def proxy_refused(server):
    host = f"127.0.0.1:{wire.closed_port()}"
    rest(server).get("/users", proxies=proxies_of(host))


def proxy_refused_for_https(server):
    session = rest(server, url="https://api.invalid")
    session.proxies = proxies_of(f"127.0.0.1:{wire.closed_port()}")
    session.get("/users")


def proxy_without_a_host(server):
    rest(server).get("/users", proxies=proxies_of("[:99999"))


def proxy_of_an_unknown_kind(server):
    rest(server).get("/users", proxies=proxies_of("127.0.0.1", "ftp"))


def proxy_behind_a_redirect(server):
    server.reply(302, headers={"Location": "/users/P1"})
    server.reply(302, headers={"Location": "http://evil.invalid/"})
    with wire.Proxy() as proxy:
        session = rest(server)
        session.proxies = proxies_of(proxy.url.partition("//")[2])
        with contextlib.suppress(KeyError):
            session.get("/users")


class _Failing:
    """A credential that cannot be renewed."""

    def token(self):
        return KEY

    def renew(self, refused):
        del refused
        raise KeyError("no new token")


def key_set_by_hand(server):
    session = rest(server)
    session.headers["Authorization"] = f"Bearer {KEY}"
    server.reply(400, json={"error": {"message": KEY}})
    session.rget("users/P1")


def key_set_by_hand_and_nothing_sent(server):
    session = rest(server)
    session.headers["authorization"] = f"Bearer {KEY}"
    session.get("users/P1", headers={"bad name": "x"})


def event_in_a_bytearray(server):
    server.reply(401)
    events(server).post(
        "/v2/enqueue",
        data=bytearray(json.dumps({"routing_key": KEY}), "ascii"),
    )


def event_of_an_unknown_action(server):
    events(server).send_event("foo", routing_key=KEY)


def renewal_failed(server):
    server.reply(401)
    pdpyras.APISession(_Failing(), url=server.url).get("/users")


SCENARIOS = [
    value
    for name, value in list(globals().items())
    if callable(value)
    and getattr(value, "__module__", "") == __name__
    and name
    not in ("opened", "rest", "events", "changes", "proxies_of", "_Failing")
    and (name != "interrupted" or hasattr(signal, "pthread_kill"))
]


def error_of(scenario):
    """What a scenario ends in. No variable here holds a secret."""
    with wire.Server() as server:
        try:
            scenario(server)
        except BaseException as error:
            return error
    raise AssertionError("it went well")


# ---------------------------------------------------------------------------
# Crash reports
# ---------------------------------------------------------------------------


def reachable(error):
    """All exceptions that an exception leads to, and itself."""
    pending, seen = [error], []
    while pending:
        link = pending.pop()
        if isinstance(link, BaseException) and link not in seen:
            seen.append(link)
            pending += [link.__cause__, link.__context__, *link.args]
            pending += vars(link).values()
    return seen


def shown_by(error):
    """All that can be read of it: texts, and variables of every function.

    Those of this file, the caller's own, aside.
    """
    for link in reachable(error):
        for text in (str(link), repr(link), repr(link.args), repr(vars(link))):
            yield "text", text
        for frame, _ in traceback.walk_tb(link.__traceback__):
            code = frame.f_code
            if code.co_filename != __file__:
                for name, value in frame.f_locals.items():
                    place = f"{code.co_filename}: {code.co_name}: {name}"
                    yield place, repr(value)
    report = traceback.TracebackException(
        type(error), error, error.__traceback__, capture_locals=True
    )
    yield "report", "".join(report.format())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_no_crash_report_shows_a_secret(scenario, recwarn):
    found = {
        place
        for place, text in shown_by(error_of(scenario))
        if any(secret in text for secret in SECRETS)
    }
    assert found == set()


def reports_of_sentry():
    """What Sentry would send of each scenario, with its defaults."""
    import sentry_sdk
    from sentry_sdk.transport import Transport

    sent = []

    class Memory(Transport):
        def capture_envelope(self, envelope):
            sent.append(envelope.serialize().decode("utf-8"))

        def capture_event(self, event):  # Of its first versions.
            sent.append(json.dumps(event, default=repr))

    sentry_sdk.init(dsn="http://key@127.0.0.1/1", transport=Memory)
    for scenario in SCENARIOS:
        sentry_sdk.capture_exception(error_of(scenario))
        sentry_sdk.flush()
        yield scenario.__name__, "".join(sent)
        sent.clear()


def reports_of_loguru():
    """What Loguru writes of each scenario, with its defaults.

    It shows the values of all names in a line of code; in the lines of this
    file, which are the caller's, KEY is one.
    """
    from loguru import logger

    written = []
    logger.remove()
    logger.add(written.append)
    for scenario in SCENARIOS:
        logger.opt(exception=error_of(scenario)).error("reported")
        frames = re.split(r'\n(?=[> ] File ")', "".join(written))
        yield (
            scenario.__name__,
            "".join(
                frame
                for frame in frames
                if "test_secrets.py" not in frame[:200]
            ),
        )
        written.clear()


@pytest.mark.oldest
@pytest.mark.parametrize("reporter", ["sentry_sdk", "loguru"])
def test_what_a_crash_reporter_gets(reporter):
    """In a process of its own, for reporters change the whole process."""
    pytest.importorskip(reporter)
    reports = f"reports_of_{reporter.partition('_')[0]}"
    lines = [
        "import json",
        "from tests import test_secrets as t",
        f"reports = dict(t.{reports}())",
        "sizes = {name: len(text) for name, text in reports.items()}",
        "shows = lambda text: t.KEY in text or t.PASSWORD in text",
        "found = [name for name in reports if shows(reports[name])]",
        "print(json.dumps([found, sizes]))",
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(lines)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    found, sizes = json.loads(done.stdout.decode().splitlines()[-1])
    assert found == []
    assert len(sizes) == len(SCENARIOS)
    assert min(sizes.values()) > 200, "nothing was reported"


#: What Dask does to pickles of exceptions: their causes go along.
WITH_CAUSES = """
import pickle
import pdpyras, tblib.pickling_support
from tests import wire
tblib.pickling_support.install()
answer = wire.Answer(
    raw=b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\nz\\r\\n"
)
with wire.Server() as server:
    server.handler = lambda request: answer
    proxy = "http://user:" + PASSWORD + "@127.0.0.1:%d" % server.port
    session = pdpyras.APISession(KEY, url="http://api.test")
    session.max_network_attempts = 0
    try:
        session.rget("users/P1", proxies={"http": proxy})
    except pdpyras.PDClientError as error:
        text, data = str(error), pickle.dumps(error)
assert server.requests and KEY.encode() not in data
assert PASSWORD.encode() not in data
assert str(pickle.loads(data)) == text
print(text)
"""


def test_an_error_is_pickled_with_causes_that_show_nothing():
    pytest.importorskip("tblib.pickling_support")
    names = f"KEY, PASSWORD = {KEY!r}, {PASSWORD!r}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", names + WITH_CAUSES],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert "chunk" in done.stdout.decode().lower()


# ---------------------------------------------------------------------------
# Spellings
# ---------------------------------------------------------------------------


def each(spell):
    return lambda text: "".join(map(spell, text))


NAMED = {"+": "&plus;", "/": "&sol;", "=": "&equals;", "&": "&amp;"}
SPELLINGS = {
    "plain": str,
    "quoted": lambda text: urllib.parse.quote(text, safe=""),
    "quoted twice": lambda text: urllib.parse.quote(
        urllib.parse.quote(text, safe=""), safe=""
    ),
    "quoted in small letters": each(
        lambda c: c if c.isalnum() else f"%{ord(c):02x}"
    ),
    "quoted letters": each(lambda c: f"%{ord(c):02X}"),
    "JSON": json.dumps,
    "JSON by number": each(lambda c: f"\\u{ord(c):04x}"),
    "JSON by number in capitals": each(lambda c: f"\\u{ord(c):04X}"),
    "JSON with solidus": lambda text: text.replace("/", "\\/"),
    "JSON in JSON": lambda text: json.dumps(
        each(lambda c: f"\\u{ord(c):04x}")(text)
    ),
    "JavaScript": each(lambda c: f"\\x{ord(c):02x}"),
    "JavaScript in braces": each(lambda c: f"\\u{{{ord(c):x}}}"),
    "JavaScript in braces with zeros": each(lambda c: f"\\u{{00{ord(c):X}}}"),
    "JavaScript in octal numbers": each(lambda c: f"\\{ord(c):o}"),
    "JavaScript in three octal digits": each(lambda c: f"\\{ord(c):03o}"),
    "JavaScript by itself": each(lambda c: f"\\{c}"),
    "JavaScript by escape()": each(lambda c: f"%u{ord(c):04X}"),
    "by number in eight digits": each(lambda c: f"\\U{ord(c):08x}"),
    "escapes behind many others": lambda text: (
        "\\" * 201 + each(lambda c: f"\\u{ord(c):04x}")(text)
    ),
    "HTML": html.escape,
    "HTML twice": lambda text: html.escape(html.escape(text)),
    "HTML decimal": each(lambda c: f"&#{ord(c)};"),
    "HTML with zeros": each(lambda c: f"&#0000{ord(c)};"),
    "HTML without semicolon": each(lambda c: f"&#{ord(c)}"),
    "HTML hexadecimal": each(lambda c: f"&#x{ord(c):x};"),
    "HTML in capitals": each(lambda c: f"&#X00{ord(c):X};"),
    "HTML by name": each(lambda c: NAMED.get(c, c)),
    "HTML in JSON": each(lambda c: f"\\u0026#{ord(c)};"),
    "mixed": lambda text: "".join(
        [f"%{ord(c):02x}", f"&#{ord(c)};", c][i % 3]
        for i, c in enumerate(text)
    ),
}
SPELLED_KEY = "u+T/q=9&-spelled-key-5Xw2"


@pytest.mark.parametrize("spelling", sorted(SPELLINGS))
def test_a_key_is_hidden_in_every_spelling(spelling, session, server, caplog):
    session.api_key = SPELLED_KEY
    spelled = SPELLINGS[spelling](SPELLED_KEY)
    if spelling == "JSON":
        spelled = spelled[1:-1]
    headers = {"x-request-id": spelled, "Location": f"/a?{spelled}"}
    body = f"<a>{spelled}</a>".encode()
    server.reply(500, body=body, headers=headers)
    server.reply(400, json={"error": {"errors": [spelled]}})
    errors = []
    for _ in range(2):
        with pytest.raises(pdpyras.PDHTTPError) as caught:
            session.rget("users/P1")
        errors.append(caught.value)
    first, second = errors
    assert pdpyras.last_4(SPELLED_KEY) in first.request_id
    assert pdpyras.last_4(SPELLED_KEY) in first.msg
    assert second.errors == [pdpyras.last_4(SPELLED_KEY)] or "in J" in spelling
    shown = [caplog.text]
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        kept = again.response
        shown += [str(error), error.msg, *error.errors, str(error.request_id)]
        shown += [repr(error), kept.text, str(kept.headers), kept.reason]
    for text in shown:
        assert spelled not in text
        assert html.unescape(urllib.parse.unquote(spelled)) not in text
        assert "spelled-key" not in text


@pytest.mark.parametrize("place", range(60, 121, 5))
@pytest.mark.parametrize("spelling", ["plain", "HTML with zeros"])
@pytest.mark.parametrize("form", ["text", "reason", "one of many reasons"])
def test_a_key_where_a_large_answer_is_cut(
    form, spelling, place, session, server
):
    session.api_key = SPELLED_KEY
    spelled = SPELLINGS[spelling](SPELLED_KEY)
    start, rest = "-" * place, "." * 300000
    if form == "text":
        body = start + spelled + rest
        server.reply(400, body=body.encode())
    elif form == "reason":
        start += "-" * (100000 - 90)
        server.reply(400, json={"errors": start + spelled + rest})
    else:
        reasons = ["-" * 1000] * 99 + ["-" * 910 + start + spelled + rest]
        server.reply(400, json={"errors": [*reasons, SPELLED_KEY]})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget("users/P1")
    error = caught.value
    assert start[:50] in str(error)
    for text in (str(error), error.msg, *error.errors):
        assert spelled[:6] not in text and SPELLED_KEY[:3] not in text
    assert sum(map(len, error.errors)) in (0, 100000)


def test_an_error_about_a_large_answer_is_pickled_at_once(session, server):
    body = (b"\\" * 1000000 + b" " + SPELLED_KEY.encode()) * 2
    session.api_key = SPELLED_KEY
    server.reply(400, body=body)
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget("users/P1")
    clock = Clock(0.5)
    kept = pickle.loads(pickle.dumps(caught.value)).response
    clock.check(earliest=0)
    hidden = b"\\" * 1000000 + b" " + pdpyras.last_4(SPELLED_KEY).encode()
    assert kept.content == hidden * 2


@pytest.mark.parametrize(
    "options",
    [
        {"data": io.BytesIO(b"routing_key=not-a-real-key")},
        {"data": iter([b"routing_key=not-a-real-key"])},
        {"data": {"a": "b"}, "files": {"f": b"not-a-real-key"}},
        {"params": {"routing_key": "not-a-real-key"}, "json": {}},
    ],
    ids=["file", "iterator", "parts", "query"],
)
def test_the_sessions_key_wherever_it_was_in_a_request(
    options, events, server
):
    events.api_key = "not-a-real-key"
    server.reply(400, json={"errors": ["not-a-real-key"]})
    response = events.post("v2/enqueue", **options)
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        pdpyras.successful_response(response)
    assert caught.value.errors == ["*-key"]
    assert b"not-a-real" not in pickle.dumps(caught.value)


@pytest.mark.parametrize("fault", ["refuse", "close"])
def test_a_request_that_was_prepared_by_hand_shows_no_key(
    fault, server, session
):
    request = requests.Request("GET", f"{server.url}/users")
    prepared = session.prepare_request(request)
    prepared.headers["Authorization"] = f"Token token={KEY}"
    if fault == "refuse":
        server.fault("refuse", stage="connect")
    else:
        server.fault("close", "status")
    with pytest.raises(requests.RequestException) as caught:
        session.send(prepared)
    assert not [p for p, text in shown_by(caught.value) if KEY in text]


@pytest.mark.parametrize("sign", "/?#\\")
def test_a_proxys_password_with_a_sign_that_ends_a_host(sign, session, caplog):
    password = f"long-secret{sign}other-secret"
    session.max_network_attempts = 1
    proxy = f"http://user:{password}@127.0.0.1:{wire.closed_port()}"
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.get("/users", proxies={"http": proxy, "https": proxy})
    for text in (str(caught.value), caplog.text):
        assert "long-secret" not in text and "other-secret" not in text


@pytest.mark.parametrize("encode", [str, str.encode], ids=["str", "bytes"])
@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"routing_key": SPELLED_KEY}),
        json.dumps({"event": [{"routing_key": SPELLED_KEY}]}, indent=4),
        '{"routing_key" : "' + SPELLINGS["JSON by number"](SPELLED_KEY) + '"}',
        "a=b&" + urllib.parse.urlencode({"routing_key": SPELLED_KEY}),
    ],
)
def test_a_key_in_a_body_of_the_callers(encode, body, events, server):
    echo = urllib.parse.quote(SPELLED_KEY, safe="")
    server.reply(400, json={"message": echo, "errors": [SPELLED_KEY]})
    response = events.post("v2/enqueue", data=encode(body))
    assert server.requests[-1].body == body.encode()
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        pdpyras.successful_response(response)
    error = caught.value
    assert error.errors == [pdpyras.last_4(SPELLED_KEY)]
    text = f"{error} {error.msg} {pickle.loads(pickle.dumps(error)).response}"
    assert echo not in text and "spelled-key" not in text
    assert b"spelled-key" not in pickle.dumps(error)


def test_a_key_in_a_body_that_is_no_utf_8(events, server):
    body = EVENT.replace("trigger", "trigg\xe9r").encode("latin-1")
    server.reply(400, json={"errors": [KEY]})
    response = events.post("v2/enqueue", data=body)
    assert server.requests[-1].body == body
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        pdpyras.successful_response(response)
    assert caught.value.errors == [pdpyras.last_4(KEY)]


@pytest.mark.parametrize(
    "key, echo",
    [
        ("not-a-real-\ud800-key", "not-a-real-\ud800-key"),
        ("not-a-real-\xff-key", r"not-a-real-\xff-key"),
        ("not-a-real-\u0100-key", "not-a-real-&#256;-key"),
    ],
    ids=["half a character", "the last of Latin-1", "behind it"],
)
def test_a_routing_key_that_is_none(key, echo, events, server):
    """The API refuses it, and that is said; and it may be a secret."""
    server.reply(400, json={"errors": [echo]})
    response = events.post("v2/enqueue", data=json.dumps({"routing_key": key}))
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        pdpyras.successful_response(response)
    assert caught.value.errors == ["*-key"]


def test_a_key_that_another_one_begins_with(events, server):
    longer = f"{KEY}-and-the-rest"
    server.reply(400, json={"errors": [longer]})
    event = [{"routing_key": KEY}, {"routing_key": longer}]
    response = events.post("v2/enqueue", data=json.dumps(event))
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        pdpyras.successful_response(response)
    assert caught.value.errors == ["*rest"]


@pytest.mark.parametrize(
    "value", [KEY, KEY.encode(), f"Bearer {KEY}".encode()]
)
def test_a_key_of_the_callers_that_is_no_text_or_has_no_scheme(
    value, session, server
):
    server.reply(404, json={"error": {"message": KEY}})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget("users/P1", headers={"Authorization": value})
    assert server.requests[0].headers["Authorization"].endswith(KEY)
    assert caught.value.errors == [pdpyras.last_4(KEY)]


def test_a_key_in_a_body_of_a_form(events, server):
    server.reply(400, json={"errors": [SPELLED_KEY]})
    response = events.post("v2/enqueue", data={"routing_key": SPELLED_KEY})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        pdpyras.successful_response(response)
    assert caught.value.errors == [pdpyras.last_4(SPELLED_KEY)]


@pytest.mark.parametrize("body", ["", '{"error": {"errors": ["no"]}}'])
def test_a_key_in_the_reason_of_a_status(body, session, server):
    reason = f"{pdpyras.last_4('x')} {session.api_key}"
    answer = f"HTTP/1.1 404 {reason}\r\nContent-Length: {len(body)}\r\n\r\n"
    server.reply(raw=(answer + body).encode())
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget("users/P1")
    kept = pickle.loads(pickle.dumps(caught.value)).response
    assert session.api_key not in str(caught.value) + kept.reason


def test_what_the_caller_was_handling_stays_as_it_is(server, session, naps):
    session.max_network_attempts = 0
    server.fault("reset", "status")
    try:
        raise ValueError("mine")
    except ValueError as error:
        before = error.__traceback__
        with pytest.raises(pdpyras.PDClientError):
            session.get("users")
        assert error.__traceback__ is before


def test_what_another_sender_quotes_is_hidden(session):
    class Sender:
        def request(self, method, url, **options):
            quoted = OSError(f"sent with {session.api_key}")
            raise requests.ConnectionError(quoted)

    session.parent = Sender()
    session.max_network_attempts = 0
    with pytest.raises(pdpyras.PDClientError, match="sent with") as caught:
        session.get("users")
    for text in said_by(caught.value):
        assert session.api_key not in text


def test_short_keys_hide_nothing_and_break_nothing(session, server):
    session.api_key = "abcd"
    server.reply(404, json={"error": {"message": "abcd and so on"}})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget("users/P1")
    assert caught.value.errors == ["abcd and so on"]


def test_what_merely_resembles_a_key_stays(session, server):
    session.api_key = SPELLED_KEY
    like = SPELLED_KEY.swapcase()
    server.reply(404, json={"error": {"message": like}})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget("users/P1")
    assert caught.value.errors == [like]


def test_references_to_other_characters_are_no_key(session, server):
    session.api_key = "not-a-real-key"
    like = "&plus;" * len(session.api_key)
    server.reply(404, json={"error": {"message": like}})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget("users/P1")
    assert caught.value.errors == [like]


@pytest.mark.parametrize("end", [r"\1", r"\g<1>", "\\\\d", "a\\"])
def test_a_key_that_ends_in_a_backslash_and_more(end, session, server):
    session.api_key = KEY + end
    server.reply(404, json={"error": {"message": f"{session.api_key} it is"}})
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget("users/P1")
    assert caught.value.errors == [f"{session.trunc_key} it is"]


def test_masked_values_are_sent_and_returned_as_they_are(session, events):
    assert type(session.api_key) is str
    assert session.auth_header == {
        "Authorization": f"Token token={session.api_key}"
    }
    assert session.api_key not in repr(session.auth_header)
    response = session.get("users", headers={"X-Token": "not-a-token"})
    sent = response.request.headers
    assert sent["X-Token"] == f"{sent['X-Token']}" == "not-a-token"
    response = events.post("v2/enqueue", data=EVENT)
    assert type(response.request.body) is bytes


@pytest.mark.parametrize("value", [f"{KEY}\n", f" {KEY}", f"{KEY}\u2026"])
def test_a_refused_value_of_a_header_is_not_shown(value, session, server):
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.get("users", headers={"X-Mine": value})
    assert "'X-Mine'" in str(caught.value)
    assert KEY not in repr(caught.value) + caught.value.msg
    assert server.requests == []


# ---------------------------------------------------------------------------
# Control characters
# ---------------------------------------------------------------------------

CONTROLS = "a\x1b[2J\x07b\x85c\u202ed\u2066e\x9bf\u200fg"


@pytest.mark.parametrize("status", [400, 401, 500])
def test_no_control_character_of_a_server(status, session, server, caplog):
    caplog.set_level("DEBUG", "pdpyras")
    latin = CONTROLS.encode("latin-1", "ignore")
    head = b"HTTP/1.1 %d \x1b[2J\r\nDate: \x1b[1m\r\nContent-Length: %d\r\n"
    body = json.dumps({"error": {"errors": [CONTROLS]}}).encode()
    head = head % (status, len(body))
    server.reply(raw=head + b"x-request-id: " + latin + b"\r\n\r\n" + body)
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget("users/P1")
    error = caught.value
    texts = [str(error), error.msg, *error.args, error.request_id]
    texts += [*error.errors, *(r.getMessage() for r in caplog.records)]
    assert any("x-request-id" in r.getMessage() for r in caplog.records)
    assert error.errors and error.request_id.startswith("a [2J b")
    for text in texts:
        assert text.isprintable(), repr(text)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x1b[2J\x07 no status\r\n\r\n",
        b"HTTP/1.1 \x1b[2J OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\x1b[2J\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://evil.invalid/\x1b[2J\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\x1b[2J\r\n\r\n",
    ],
)
def test_no_control_character_in_trouble_on_the_way(
    raw, session, server, naps, caplog
):
    session.max_network_attempts = 1
    server.reply(raw=raw, times=2)
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.get("users")
    texts = [record.getMessage() for record in caplog.records]
    for link in reachable(caught.value):
        texts += [str(link), getattr(link, "msg", "")]
    texts = [text for text in texts if isinstance(text, str)]
    for text in texts:
        assert text.isprintable(), repr(text)


# ---------------------------------------------------------------------------
# Pickles
# ---------------------------------------------------------------------------

HARMLESS = {
    *("accept", "accept-encoding", "content-length", "content-type"),
    *("from", "user-agent", "x-early-access"),
}
HARMLESS_OF_ANSWERS = {
    *("content-encoding", "content-length", "content-type", "date"),
    *("location", "ratelimit-limit", "ratelimit-remaining"),
    *("ratelimit-reset", "retry-after", "x-request-id"),
}
COOKIE = "not-a-real-cookie"


def error_with_everything(session, server):
    """An error behind a redirect, with a cookie, headers and all."""
    headers = {
        "Set-Cookie": f"session={COOKIE}",
        "X-Internal": "not-a-real-note",
        "x-request-id": "one",
        "ratelimit-limit": "960",
        "Retry-After": "1",
    }
    elsewhere = {"Location": "/users/P2", **headers}
    server.reply(302, headers=elsewhere)
    server.reply(404, json=ECHO, headers=headers)
    session.api_key = KEY
    session.headers["X-Own"] = "not-a-real-token"
    session.cookies.set("own", COOKIE)
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rget(
            "users/P1", headers={"Proxy-Authorization": f"Basic {PASSWORD}"}
        )
    return caught.value


def dumped(error):
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("again", [dumped, copy.deepcopy])
def test_a_pickled_error_keeps_what_is_harmless(again, session, server):
    error = error_with_everything(session, server)
    kept = again(error)
    assert str(kept) == str(error)
    assert (kept.status_code, kept.errors, kept.code, kept.request_id) == (
        *(404, [pdpyras.last_4(KEY)], 2001, "one"),
    )
    answers = [kept.response, *kept.response.history]
    assert [a.status_code for a in answers] == [404, 302]
    for answer in answers:
        assert {n.lower() for n in answer.headers} <= HARMLESS_OF_ANSWERS
        assert {n.lower() for n in answer.request.headers} <= HARMLESS
        assert not list(answer.cookies)
        assert answer.headers["ratelimit-limit"] == "960"
        assert answer.request.headers["User-Agent"]
        assert answer.request.body is None
    for secret in (KEY, PASSWORD, COOKIE, "not-a-real-token", "real-note"):
        assert secret.encode() not in pickle.dumps(error)


def test_a_pickled_error_keeps_all_that_is_harmless(session, server):
    headers = {
        "Date": "Fri, 27 Nov 2026 12:00:00 GMT",
        "Location": "/users/P2",
        "Retry-After": "1",
        "x-request-id": "one",
        "ratelimit-limit": "960",
        "ratelimit-remaining": "9",
        "ratelimit-reset": "7",
    }
    server.reply(404, json=ECHO, headers=headers, gzip=True)
    session.default_from = "me@example.com"
    early = {"X-EARLY-ACCESS": "users"}
    with pytest.raises(pdpyras.PDHTTPError) as caught:
        session.rput("users/P1", json={"id": "P1"}, headers=early)
    answer, kept = caught.value.response, dumped(caught.value).response
    assert {n.lower() for n in kept.headers} == HARMLESS_OF_ANSWERS
    assert {n.lower() for n in kept.request.headers} == HARMLESS
    assert kept.headers.items() <= answer.headers.items()
    sent = server.requests[0].headers
    for name, value in kept.request.headers.items():
        assert value == sent[name]


@pytest.mark.parametrize("again", [dumped, copy.deepcopy, copy.copy])
@pytest.mark.parametrize(
    "name", ["refused", "past_the_deadline", "no_wrapper"]
)
def test_other_errors_can_be_copied(name, again, naps):
    error = error_of(globals()[name])
    assert str(again(error)) == str(error)
    assert KEY.encode() not in pickle.dumps(error)


def test_the_cause_of_an_error_tells_what_was_asked_for(session, server):
    session.max_network_attempts = 0
    server.fault("reset", "status")
    headers = {"X-Own": "not-a-real-token", "From": "me@example.com"}
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.get("users", headers=headers)
    request = caught.value.__cause__.request
    assert (request.method, request.url) == ("GET", f"{server.url}/users")
    assert request.headers["From"] == "me@example.com"
    assert {name.lower() for name in request.headers} <= HARMLESS


def test_a_pickled_error_keeps_no_userinfo(server):
    """Of an error that somebody else's session has met."""
    url = server.url.replace("//", f"//user:{PASSWORD}@")
    server.reply(404, headers={"Location": f"{url}/users"})
    response = requests.get(f"{url}/users?a=@b")
    error = pdpyras.PDHTTPError("not found", response)
    data = pickle.dumps(error)
    assert PASSWORD.encode() not in data
    kept = pickle.loads(data).response
    assert kept.url == kept.request.url == f"{server.url}/users?a=@b"
    assert kept.headers["Location"] == f"{server.url}/users"


def test_an_error_crosses_to_another_process(session, server):
    error = error_with_everything(session, server)
    script = (
        "import pickle, sys; e = pickle.load(sys.stdin.buffer); "
        "sys.stdout.write(f'{e} {e.response.status_code}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps(error),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        timeout=60,
    )
    assert done.stdout.decode() == f"{error} 404"


# ---------------------------------------------------------------------------
# Proxies
# ---------------------------------------------------------------------------


class Refusing(wire.Proxy):
    """A proxy that lets nobody through."""

    status = 407

    def _serve(self, link):
        request = link.head()
        if request is not None:
            self.requests.append(request)
            answer = wire.Answer(self.status, body=b"no")
            link.sock.sendall(b"".join(answer.parts("GET", close=True)))
            link.hang_up()


def use_proxy(how, proxy, session, monkeypatch):
    """Let a session use a proxy; the keyword arguments of a call."""
    proxies = proxies_of(proxy.url.partition("//")[2])
    if how == "environment":
        for scheme, url in proxies.items():
            monkeypatch.setenv(f"{scheme}_proxy", url)
    elif how == "session":
        session.proxies = proxies
    return {"proxies": proxies} if how == "call" else {}


HOW = ["environment", "session", "call"]


def said_by(error):
    """The same as shown_by, for tests that have secrets in variables."""
    return [text for place, text in shown_by(error) if place != "report"]


@pytest.mark.parametrize("how", HOW)
def test_a_proxys_password_for_http(how, session, server, monkeypatch):
    with wire.Proxy() as proxy:
        options = use_proxy(how, proxy, session, monkeypatch)
        server.reply(302, headers={"Location": "/users/P1"})
        assert session.get("users", **options).ok
        assert {r.headers["Proxy-Authorization"] for r in proxy.requests} == {
            f"Basic {BASIC}"
        }
    assert len(server.requests) == 2
    for request in server.requests:
        assert "Proxy-Authorization" not in request.headers


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("own", [False, True])
def test_a_proxys_password_for_https(how, own, trust, session, monkeypatch):
    session.verify = trust.ca_file
    with wire.Server(tls=trust) as server, wire.Proxy() as proxy:
        session.url = server.url
        options = use_proxy(how, proxy, session, monkeypatch)
        if own:
            session.headers["Proxy-Authorization"] = f"Basic {BASIC}"
        server.reply(302, headers={"Location": "/users/P1"})
        assert session.get("users", **options).ok
        assert [r.method for r in proxy.requests] == ["CONNECT"]
        assert proxy.requests[0].headers["Proxy-Authorization"]
        assert len(server.requests) == 2
        for request in server.requests:
            assert "Proxy-Authorization" not in request.headers


def test_a_proxys_password_without_a_proxy(session, server):
    headers = {"proxy-authorization": f"Basic {BASIC}"}
    assert session.get("users", headers=headers).ok
    assert "Proxy-Authorization" not in server.requests[0].headers


@pytest.mark.parametrize("how", HOW)
def test_a_proxys_password_behind_an_upgrade_to_https(how, monkeypatch):
    """From http to https of the same host, where the key goes along."""
    pytest.importorskip("trustme")
    with contextlib.ExitStack() as stack:
        trust = stack.enter_context(wire.certificates("api.invalid"))
        plain = stack.enter_context(wire.Server())
        secure = stack.enter_context(wire.Server(tls=trust))
        routes = {
            "api.invalid:80": plain.address,
            "api.invalid:443": secure.address,
        }
        proxy = stack.enter_context(wire.Proxy(routes))
        session = pdpyras.APISession(KEY)
        session.url, session.verify = "http://api.invalid", trust.ca_file
        options = use_proxy(how, proxy, session, monkeypatch)
        location = {"Location": "https://api.invalid/users/P1"}
        plain.reply(302, headers=location)
        secure.reply(302, headers={"Location": "http://api.invalid/users/P2"})
        with pytest.warns(UserWarning, match="not encrypted"):
            assert session.get("users", **options).ok
        sent = plain.requests + secure.requests
        assert [r.path for r in sent] == ["/users", "/users/P2", "/users/P1"]
        for request in sent:
            assert "Proxy-Authorization" not in request.headers
            assert BASIC not in str(request.headers)
        keys = [
            r.headers["Authorization"] for r in (*secure.requests, sent[0])
        ]
        assert keys == [f"Token token={KEY}"] * 2


class Quoting(Refusing):
    """One that says what it was given."""

    def _serve(self, link):
        request = link.head()
        if request is not None:
            self.requests.append(request)
            given = " ".join(QUOTED).encode()
            link.sock.sendall(b"HTTP/1.1 407 " + given + b"\r\n\r\n" + given)
            link.hang_up()


SIGNS = "not+a/real-word"
QUOTED = (
    SIGNS,
    urllib.parse.quote(SIGNS, safe=""),
    base64.b64encode(f"user:{SIGNS}".encode()).decode(),
)


@pytest.mark.parametrize("url", [None, "https://api.invalid"])
def test_a_proxy_that_quotes_its_password(url, session, naps):
    session.url = url or session.url
    with Quoting() as proxy, pytest.raises(pdpyras.PDClientError) as caught:
        host = proxy.url.partition("//")[2]
        address = f"http://user:{QUOTED[1]}@{host}"
        proxies = {"http": address, "https": address}
        session.rget("users/P1", proxies=proxies)
    assert "407" in str(caught.value)
    for text in said_by(caught.value):
        assert not [secret for secret in QUOTED if secret in text]
    for secret in QUOTED:
        assert secret.encode() not in pickle.dumps(caught.value)


def test_a_proxy_that_quotes_the_header_that_the_caller_gives(session):
    with Quoting() as proxy, pytest.raises(pdpyras.PDClientError) as caught:
        session.rget(
            "users/P1",
            proxies={"http": proxy.url},
            headers={"Proxy-Authorization": f"Basic {QUOTED[2]}"},
        )
    assert len(proxy.requests) == 1
    assert "407" in str(caught.value)
    assert QUOTED[2] not in str(caught.value)


@pytest.mark.parametrize("status", [403, 407])
@pytest.mark.parametrize("how", HOW)
def test_a_proxy_that_refuses_a_tunnel_is_an_error_at_once(
    how, status, session, naps, monkeypatch, caplog
):
    caplog.set_level("DEBUG")
    with Refusing() as proxy:
        proxy.status = status
        session.url = "https://api.invalid"
        options = use_proxy(how, proxy, session, monkeypatch)
        with pytest.raises(pdpyras.PDClientError, match=str(status)) as caught:
            session.get("users", **options)
        assert len(proxy.requests) == 1
    assert naps == []
    for text in (*said_by(caught.value), caplog.text):
        assert PASSWORD not in text and BASIC not in text
    assert PASSWORD.encode() not in pickle.dumps(caught.value)


def test_a_proxy_that_refuses_another_way_is_asked_again(session, naps):
    with Refusing() as proxy:
        proxy.status = 502
        session.url = "https://api.invalid"
        session.proxies = {"https": proxy.url}
        with pytest.raises(pdpyras.PDClientError, match="502"):
            session.get("users")
        assert len(proxy.requests) == session.max_network_attempts + 1


@pytest.mark.parametrize("status", [403, 407])
def test_a_proxy_that_refuses_http_answers(status, session, naps):
    with Refusing() as proxy:
        proxy.status = status
        proxies = proxies_of(proxy.url.partition("//")[2])
        with pytest.raises(pdpyras.PDHTTPError) as caught:
            session.rget("users", proxies=proxies)
        assert caught.value.status_code == status
    assert naps == []
    assert PASSWORD.encode() not in pickle.dumps(caught.value)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there(scheme, how, session, naps, monkeypatch):
    class Nobody:
        url = f"http://127.0.0.1:{wire.closed_port()}"

    if scheme == "https":
        session.url = "https://api.invalid"
    options = use_proxy(how, Nobody, session, monkeypatch)
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.get("users", **options)
    for text in said_by(caught.value):
        assert PASSWORD not in text and BASIC not in text
    assert PASSWORD.encode() not in pickle.dumps(caught.value)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("sign", ["\u20ac", "%E2%82%AC"])
def test_a_proxys_password_that_no_header_can_hold(
    sign, scheme, how, session, naps, monkeypatch
):
    if scheme == "https":
        session.url = "https://api.invalid"
    with Refusing() as proxy:
        monkeypatch.setitem(globals(), "PASSWORD", sign + PASSWORD)
        options = use_proxy(how, proxy, session, monkeypatch)
        with pytest.raises(pdpyras.PDClientError, match="Latin-1") as caught:
            session.post("users", data=iter([b"{}"]), **options)
        assert proxy.requests == []
        assert f"{proxy.url} " in str(caught.value)
    password = PASSWORD[len(sign) :]
    for text in said_by(caught.value):
        assert password not in text
    assert password.encode() not in pickle.dumps(caught.value)
    assert naps == []


def test_tls_spoken_to_a_plain_port_is_an_error_at_once(session, server, naps):
    server.handler = None
    server.fault("garbage", "connect")
    session.url = server.url.replace("http:", "https:")
    with pytest.raises(pdpyras.PDClientError, match=session.url):
        session.get("users")
    assert naps == []
    assert server.connections == 1


@pytest.mark.parametrize("key", ["u+a-secret-of-mine", "a-secret-of-mine"])
def test_a_url_of_the_api_that_quotes_the_key(key, server, caplog, naps):
    """In a redirect, or as the `self` of a resource."""
    session = pdpyras.APISession(key, url=server.url)
    session.retry[503] = 1
    caplog.set_level("DEBUG", "pdpyras")
    place = f"{server.url}/users/P1?echo={key}"
    server.reply(302, headers={"Location": place})
    server.reply(503)
    server.reply(500, times=2)
    session.get("/users")
    response = session.get(place)
    server.reply(json={"user": {"id": "P1", "self": place}})
    user = session.rget("users/P1")
    server.fault("close", "status", times=9)
    with pytest.raises(pdpyras.PDClientError) as caught:
        session.rget(user)
    shown = [pdpyras.http_error_message(response), str(caught.value)]
    ours = [r for r in caplog.records if r.name.startswith("pdpyras")]
    assert len(ours) > 5
    for text in shown + [record.getMessage() for record in ours]:
        assert "a-secret-of-mine" not in text, text
    session.close()
