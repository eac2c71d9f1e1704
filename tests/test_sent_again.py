"""What is sent, and sent again: the whole of a request, or none.

A body is as long as was announced. One that can be read again is sent again
from where it was; one that can be read only once is sent once. How often, and
after which pause, is in ``test_retry.py``.
"""

import array
import collections
import contextlib
import gzip
import io
import itertools
import mmap
import os
import re
import tempfile

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

import pdpyras
from tests.support import case

CONTENT = bytes(range(256)) * 1000
CURABLE = [("reset", "request"), ("close", "status"), ("truncate", "body")]


def trouble(server, *kinds):
    """The server's next answers: a status each, or a fault at a stage."""
    for kind in kinds:
        if isinstance(kind, int):
            server.reply(kind)
        else:
            server.fault(*kind)


@pytest.fixture(autouse=True)
def retries(session):
    """A status that is tried again, besides 429."""
    session.retry[500] = 5


@pytest.fixture
def file(tmp_path):
    """A file that is open."""
    path = tmp_path / "body"
    path.write_bytes(CONTENT)
    with path.open("rb") as stream:
        yield stream


@pytest.mark.parametrize(
    "options, body",
    [
        ({"json": {"k": ["v"]}}, b'{"k": ["v"]}'),
        ({"data": b"bytes"}, b"bytes"),
        ({"data": "text"}, b"text"),
        ({"data": {"form": "field"}}, b"form=field"),
    ],
)
def test_the_same_is_sent_again(options, body, server, session, naps):
    trouble(server, 429, ("reset", "status"))
    assert session.post(
        "users", params={"ids": ["a", "b"]}, headers={"X-Mine": "1"}, **options
    ).ok
    first, *others = server.requests
    assert len(others) == 2
    assert first.body == body and first.headers["X-Mine"] == "1"
    for other in others:
        assert other.target == first.target
        assert other.body == first.body
        assert other.headers.items() == first.headers.items()


# -- As long as was announced ------------------------------------------------

TEXT = '{"name": "Zoë €"}'
PARTS = [b'{"name": ', '"Zoë €"}'.encode()]


class Sized:
    """What has a length, and not that of its bytes."""

    def __len__(self):
        return 5

    def __iter__(self):
        return iter(PARTS)


def text_file(path):
    (path / "text").write_bytes(TEXT.encode("utf-16"))
    return (path / "text").open(encoding="utf-16")


def temporary_text_file(path):
    options = {"dir": str(path), "encoding": "utf-16"}
    file = tempfile.NamedTemporaryFile("w+", **options)  # noqa: SIM115
    file.write(TEXT)
    file.seek(0)
    return file


def behind_a_beginning(path):
    file = io.StringIO("begun " + TEXT)
    file.seek(6)
    return file


@pytest.mark.oldest
@pytest.mark.parametrize(
    "make",
    [
        lambda _: io.StringIO(TEXT),
        behind_a_beginning,
        text_file,
        temporary_text_file,
        lambda _: collections.deque(PARTS),
        lambda _: collections.deque(["", '{"name": ', '"Zoë €"}']),
        lambda _: dict.fromkeys(PARTS).keys(),
        lambda _: {1: PARTS[0], 2: PARTS[1]}.values(),
        lambda _: {b"".join(PARTS)},
        lambda _: bytearray(TEXT, "utf-8"),
        lambda _: memoryview(TEXT.encode("utf-8")),
    ],
)
@pytest.mark.parametrize("trouble_first", [[], [500], [("close", "status")]])
def test_a_body_is_as_long_as_is_announced(
    trouble_first, make, server, session, naps, tmp_path
):
    trouble(server, *trouble_first)
    body = make(tmp_path)
    assert session.post("users", data=body).ok
    getattr(body, "close", list)()
    assert session.get("teams").ok
    *posts, last = server.requests
    assert len(posts) == len(trouble_first) + 1
    for post in posts:
        assert post.body == TEXT.encode("utf-8")
        length = post.headers.get("Content-Length", str(len(post.body)))
        assert length == str(len(post.body))
    assert (last.method, last.body) == ("GET", b"")


@pytest.mark.oldest
@pytest.mark.parametrize("kind", [array.array, memoryview])
def test_numbers_are_as_many_bytes_as_they_have(kind, server, session):
    numbers = array.array("H", [0x3131] * 5)
    body = memoryview(numbers) if kind is memoryview else numbers
    assert session.post("users", data=body).ok
    assert session.post("users", data=iter([body, b"", body])).ok
    assert session.get("teams").ok
    assert [r.body for r in server.requests] == [b"1" * 10, b"1" * 20, b""]


@pytest.mark.oldest
@pytest.mark.parametrize("prepare", [False, True])
def test_what_has_another_length_is_sent_in_chunks(prepare, server, session):
    url = f"{server.url}/users"
    request = requests.Request("POST", url, data=Sized())
    if prepare:
        assert session.send(request.prepare()).ok
    else:
        assert session.post(url, data=Sized()).ok
    assert session.get("teams").ok
    assert [r.body for r in server.requests] == [b"".join(PARTS), b""]
    assert "Content-Length" not in server.requests[0].headers


@pytest.mark.oldest
@pytest.mark.parametrize("body", [PARTS[1].decode(), io.StringIO("Zoë €")])
def test_a_text_that_is_prepared_by_hand_is_utf_8(body, server, session):
    request = requests.Request("POST", f"{server.url}/users", data=body)
    assert session.send(request.prepare()).ok
    assert session.get("teams").ok
    text = body if isinstance(body, str) else body.getvalue()
    assert [r.body for r in server.requests] == [text.encode("utf-8"), b""]


class Changing(io.FileIO):
    """A file that changes when it is read for the first time."""

    def __init__(self, path, change):
        super().__init__(str(path))
        self.path, self.change = path, change

    def read(self, size=-1):
        change, self.change = self.change, None
        if change is not None:
            change(self.path)
        return super().read(size)


def grow(path):
    with path.open("ab") as file:
        file.write(b"GROWN")


def shrink(path):
    os.truncate(str(path), 3)


def plain_adapter(session):
    """One that sends in its own way."""
    session.parent.mount("http://", type("Own", (HTTPAdapter,), {})())


@pytest.mark.oldest
@pytest.mark.parametrize("adapt", [None, plain_adapter])
@pytest.mark.parametrize("deadline", [None, 20])
@pytest.mark.parametrize("size", [7, 30000])
@pytest.mark.parametrize(
    "change, text",
    [(grow, "is longer than the {}"), (shrink, "ended after 3 of the {}")],
)
def test_a_file_that_changes_while_it_is_sent_is_not_sent(
    change, text, size, deadline, adapt, server, session, naps, tmp_path
):
    if adapt is not None:
        adapt(session)
    path = tmp_path / "log"
    path.write_bytes(b"x" * size)
    expected = f"POST .*/users: the body {text.format(size)} bytes that were"
    with Changing(path, change) as file:
        with pytest.raises(pdpyras.PDClientError, match=expected) as caught:
            session.post("users?a=b", data=file, deadline=deadline)
    assert caught.value.response is None
    assert session.get("teams").ok
    assert [r.target for r in server.requests if r.is_whole] == ["/teams"]
    assert naps == []


@pytest.mark.oldest
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "3"},
        {"content-length": "300"},
        {"Transfer-Encoding": "chunked"},
        {"Transfer-Encoding": "chunked", "Content-Length": "3"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "method, options, body",
    [
        ("GET", {}, b""),
        ("DELETE", {}, b""),
        ("POST", {}, b""),
        ("POST", {"json": {"a": 1}}, b'{"a": 1}'),
        ("POST", {"json": {"a": 1}, "cookies": {"b": "c"}}, b'{"a": 1}'),
        ("POST", {"data": '{"a":1}'}, b'{"a":1}'),
        ("POST", {"data": {"a": "1"}}, b"a=1"),
        ("POST", {"data": lambda: iter([b'{"a"', b":1}"])}, b'{"a":1}'),
        ("POST", {"data": lambda: io.BytesIO(b'{"a":1}')}, b'{"a":1}'),
    ],
    ids=case,
)
@pytest.mark.parametrize("of_session", [False, True])
def test_a_body_is_announced_once_and_as_it_is(
    of_session, method, options, body, headers, server, session
):
    if callable(options.get("data")):
        options = {"data": options["data"]()}
    if of_session:
        session.headers.update(headers)
        headers = {}
    assert session.request(method, "users", headers=headers, **options).ok
    for name in ("Content-Length", "Transfer-Encoding"):
        session.headers.pop(name, None)
    assert session.get("teams").ok
    first, last = server.requests
    assert first.body == body and last.target == "/teams"
    is_chunked = "Transfer-Encoding" in first.headers
    expected = None if method == "GET" or is_chunked else str(len(body))
    assert first.headers.get("Content-Length") == expected


def test_the_length_of_a_pipe_that_is_given_is_not_needed(
    server, session, pipe
):
    headers = {"Content-Length": "3"}
    assert session.post("users", data=pipe, headers=headers).ok
    assert session.get("teams").ok
    assert [r.body for r in server.requests] == [b"once", b""]


def test_a_gzip_file_is_never_sent_in_part(server, session, tmp_path):
    """Its size is that of the file, and not of what is read from it."""
    path = str(tmp_path / "body.gz")
    with gzip.open(path, "wb") as file:
        file.write(CONTENT)
    with gzip.open(path) as file, pytest.raises(pdpyras.PDClientError):
        session.post("users", data=file)
    assert session.get("teams").ok
    assert [r.target for r in server.requests if r.is_whole] == ["/teams"]


@pytest.mark.parametrize("kind", [BrokenPipeError, ConnectionResetError])
def test_a_body_that_breaks_off_is_not_the_connections_end(
    kind, server, session, naps
):
    """urllib3 passes over these, as if the server had answered early."""

    def body():
        yield b"part"
        raise kind("of mine")

    with pytest.raises(pdpyras.PDClientError, match="cannot be read.*mine"):
        session.post("users", data=body())
    assert session.get("teams").ok
    assert [r.target for r in server.requests if r.is_whole] == ["/teams"]


# -- Files -------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1000])
@pytest.mark.parametrize(
    "kinds",
    [
        (429, 429),
        (500, 500),
        (429, ("close", "status")),
        *((kind, kind) for kind in CURABLE),
    ],
    ids=repr,
)
def test_a_file_is_sent_again_from_where_it_was(
    kinds, start, server, session, naps, file
):
    trouble(server, *kinds)
    file.seek(start)
    assert session.post("users", data=file).ok
    # The third kind strikes a connection that was kept alive: no pause.
    assert len(naps) == (1 if kinds == (429, ("close", "status")) else 2)
    whole = CONTENT[start:]
    # Of a request that is cut off, the server has nothing but the head.
    before = b"" if kinds[0] == ("reset", "request") else whole
    assert [r.body for r in server.requests] == [before, before, whole]
    assert not file.closed


def as_list(file):
    return [("upload", file)]


def as_dict(file):
    return {"upload": file}


def with_a_name(file):
    return {"upload": ("a.txt", file, "text/plain")}


@pytest.mark.parametrize("files", [as_list, as_dict, with_a_name])
@pytest.mark.parametrize("start", [0, 1000])
@pytest.mark.parametrize("in_memory", [False, True])
def test_an_upload_is_sent_again(
    in_memory, start, files, server, session, naps, file
):
    body = io.BytesIO(CONTENT) if in_memory else file
    body.seek(start)
    server.reply(429)
    assert session.post("users", files=files(body)).ok
    assert len(server.requests) == 2
    for request in server.requests:
        assert CONTENT[start:] in request.body
        assert (CONTENT in request.body) is (start == 0)
        kind, _, boundary = request.headers["Content-Type"].partition("=")
        assert kind == "multipart/form-data; boundary"
        assert boundary.encode() in request.body


def test_what_can_be_iterated_again_is_sent_again(server, session, naps):
    class Parts:
        def __iter__(self):
            return iter([b"a", b"b"])

    server.reply(429)
    assert session.post("users", data=Parts()).status_code == 200
    assert [r.body for r in server.requests] == [b"ab", b"ab"]


# -- What can be read only once ----------------------------------------------


def generator():
    return (part for part in [b"one", b"two"])


def iterator():
    return iter([b"one", b"two"])


@pytest.fixture
def pipe():
    """The end of a pipe from which ``once`` can be read, once."""
    reading, writing = os.pipe()
    with open(writing, "wb") as stream:
        stream.write(b"once")
    with open(reading, "rb") as stream:
        yield stream


def test_a_generator_arrives_whole(server, session):
    assert session.post("users", data=iterator()).ok
    assert [r.body for r in server.requests] == [b"onetwo"]


@pytest.mark.parametrize("body", [generator, iterator])
@pytest.mark.parametrize("status", [429, 500])
def test_a_generator_is_not_sent_again_after_an_answer(
    status, body, server, session, naps, caplog
):
    server.reply(status)
    assert session.post("users", data=body()).status_code == status
    assert [r.body for r in server.requests] == [b"onetwo"]
    assert naps == []
    assert "cannot be sent again" in caplog.text


@pytest.mark.parametrize("body", [generator, iterator])
@pytest.mark.parametrize("kind", [*CURABLE, ("reset", "status")])
def test_a_generator_is_not_sent_again_after_trouble(
    kind, body, server, session, naps
):
    server.fault(*kind)
    with pytest.raises(pdpyras.PDClientError, match="iterator"):
        session.post("users", data=body())
    assert server.connections == 1
    assert len(server.requests) == 1
    assert naps == []


@pytest.mark.parametrize("body", [generator, iterator])
@pytest.mark.parametrize("status", [307, 308])
def test_a_generator_is_not_sent_again_behind_a_redirect(
    status, body, server, session, naps
):
    server.reply(status, headers={"Location": "/teams"})
    with pytest.raises(pdpyras.PDClientError, match="iterator.*used up"):
        session.post("users", data=body())
    assert [r.body for r in server.requests] == [b"onetwo"]
    assert naps == []


def test_a_pipe_is_not_sent_again_after_an_answer(server, session, naps, pipe):
    server.reply(429)
    assert session.post("users", data=pipe).status_code == 429
    assert [r.body for r in server.requests] == [b"once"]
    assert naps == []


@pytest.mark.parametrize("files", [None, {"f": ("a.txt", b"abc")}])
@pytest.mark.parametrize(
    "make",
    [
        lambda: {"ids": map(str, [1, 2]), "a": "b"},
        lambda: [("ids", map(str, [1, 2])), ("a", "b")],
        lambda: (("ids", (str(n) for n in (1, 2))), ("a", "b")),
    ],
    ids=["dict", "list", "tuple"],
)
def test_a_form_with_iterators_is_sent_again_whole(
    make, files, server, session, naps
):
    server.reply(429)
    assert session.post("users", data=make(), files=files).ok
    first, second = server.requests
    for number in (b"1", b"2"):
        for request in (first, second):
            assert re.search(b'ids(=|"\\s+)' + number, request.body)


def test_what_gives_the_same_iterator_each_time_is_not_sent_again(
    server, session, caplog
):
    parts = iter([b"once"])

    class Parts:
        def __iter__(self):
            return parts

    server.reply(429)
    assert session.post("users", data=Parts()).status_code == 429
    assert "cannot be sent again" in caplog.text
    assert len(server.requests) == 1


class Once:
    """What hands on a generator that it has."""

    def __init__(self, parts):
        self.parts = (part for part in parts)

    def __iter__(self):
        yield from self.parts


class Mapped(Once):
    def __iter__(self):
        return map(bytes, self.parts)


class Chained(Once):
    def __iter__(self):
        return itertools.chain(self.parts)


class Listed(Once):
    def __iter__(self):
        return iter(list(self.parts))


hands_on_a_generator = pytest.mark.parametrize(
    "kind", [Once, Mapped, Chained, Listed]
)


@hands_on_a_generator
def test_what_hands_on_a_generator_is_not_sent_again_after_an_answer(
    kind, server, session, naps, caplog
):
    server.reply(500)
    response = session.post("users", data=kind([b"one", b"two"]))
    assert response.status_code == 500
    assert [r.body for r in server.requests] == [b"onetwo"]
    assert naps == []
    assert "cannot be sent again" in caplog.text


@hands_on_a_generator
@pytest.mark.parametrize("fault", [("close", "status"), ("reset", "request")])
def test_what_hands_on_a_generator_is_not_sent_again_after_trouble(
    fault, kind, server, session, naps
):
    server.fault(*fault)
    with pytest.raises(pdpyras.PDClientError, match="cannot be sent again"):
        session.post("users", data=kind([b"one", b"two"]))
    assert len(server.requests) == 1
    assert naps == []


@hands_on_a_generator
def test_what_hands_on_a_generator_is_not_sent_behind_a_redirect(
    kind, server, session
):
    server.reply(307, headers={"Location": "/teams"})
    with pytest.raises(pdpyras.PDClientError, match="used up"):
        session.post("users", data=kind([b"one", b"two"]))
    assert [r.body for r in server.requests] == [b"onetwo"]


def test_what_was_not_begun_is_sent_to_a_connection_that_opens(
    server, session, naps
):
    server.refuse()
    naps.during = server.listen
    assert session.post("users", data=Once([b"one", b"two"])).ok
    assert [r.body for r in server.requests] == [b"onetwo"]


def test_a_list_of_parts_goes_behind_a_redirect(server, session):
    server.reply(307, headers={"Location": "/teams"})
    assert session.post("users", data=Sized()).ok
    assert [r.body for r in server.requests] == [b"".join(PARTS)] * 2


@pytest.mark.parametrize("kind", [generator, lambda: Once([b"one", b"two"])])
def test_what_can_be_read_once_is_not_sent_again_by_urllib3(
    kind, server, session, naps
):
    retries = urllib3.Retry(
        3, status_forcelist=[500], allowed_methods=["POST"], backoff_factor=0
    )
    session.parent.mount("http://", HTTPAdapter(max_retries=retries))
    server.reply(500)
    with contextlib.suppress(pdpyras.PDClientError):  # Of old ones, a 500.
        assert session.post("users", data=kind()).status_code == 500
    bodies = [r.body for r in server.requests if r.is_whole]
    assert bodies == [b"onetwo"]
    assert session.get("teams").ok


@pytest.mark.parametrize("kind", [Once, Chained, Listed])
def test_a_form_with_what_hands_on_a_generator_is_sent_again_whole(
    kind, server, session, naps
):
    server.reply(500)
    assert session.post("users", data={"ids": kind("12"), "a": "b"}).ok
    assert [r.body for r in server.requests] == [b"ids=1&ids=2&a=b"] * 2


def test_a_file_in_memory_is_sent_again_whole(server, session, naps, tmp_path):
    """It is a buffer, and has a position all the same."""
    (tmp_path / "file").write_bytes(b"whole file")
    server.reply(429)
    with (tmp_path / "file").open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert session.post("users", files={"upload": mapped}).ok
    assert [b"whole file" in r.body for r in server.requests] == [True] * 2


def test_files_in_a_view_of_a_dict_are_sent_again_whole(
    server, session, naps, file
):
    server.reply(500)
    assert session.post("users", files={"upload": file}.items()).ok
    assert [CONTENT in r.body for r in server.requests] == [True, True]


def test_a_pipe_is_not_sent_again_after_trouble(server, session, naps, pipe):
    server.fault("close", "status")
    with pytest.raises(pdpyras.PDClientError):
        session.post("users", data=pipe)
    assert [r.body for r in server.requests] == [b"once"]
    assert naps == []


class OnceStuck(io.BytesIO):
    """A file that cannot go back when a redirect wants it to, but later."""

    def __init__(self, content, sent):
        super().__init__(content)
        self.sent, self.was_stuck = sent, False

    def seek(self, *place):
        if self.sent and not self.was_stuck:
            self.was_stuck = True
            raise ValueError("stuck")
        return super().seek(*place)


def test_trouble_in_following_a_redirect_is_network_trouble(
    server, session, naps
):
    body = OnceStuck(b"whole", server.requests)
    server.reply(307, headers={"Location": "/teams"})
    assert session.post("users", data=body).ok
    assert [r.path for r in server.requests] == ["/users", "/users"]
    assert {r.body for r in server.requests} == {b"whole"}
    assert len(naps) == 1


#: Old ones iterate over each body themselves.
reads_bodies = pytest.mark.skipif(
    urllib3.__version__.startswith("1."), reason="urllib3 does not read these"
)


class Reader:
    """What can be read, and nothing else."""

    def __init__(self):
        self.left = [b"once"]

    def read(self, size=-1):
        return self.left.pop() if self.left else b""


class Telling(Reader):
    """The same, which tells its position, but cannot go there."""

    def tell(self):
        return 0


@reads_bodies
@pytest.mark.parametrize("kind", [Reader, Telling])
def test_what_can_merely_be_read_is_not_sent_again(
    kind, server, session, naps, caplog
):
    server.reply(429)
    assert session.post("users", data=kind()).status_code == 429
    assert "cannot be sent again" in caplog.text
    server.fault("close", "status")
    with pytest.raises(pdpyras.PDClientError, match="cannot be sent again"):
        session.post("users", data=kind())
    assert [r.body for r in server.requests] == [b"once"] * 2
    assert naps == []


@reads_bodies
def test_what_can_merely_be_read_is_not_sent_behind_a_redirect(
    server, session, naps
):
    server.reply(307, headers={"Location": "/teams"})
    with pytest.raises(pdpyras.PDClientError, match="used up"):
        session.post("users", data=Reader())
    assert [r.body for r in server.requests] == [b"once"]
    assert naps == []


class Upload:
    """A file that shows its progress, as many scripts have one."""

    def __init__(self, content):
        self._file = io.BytesIO(content)
        self._size = len(content)
        self.tell, self.read = self._file.tell, self._file.read
        self.seek = self._file.seek

    def __len__(self):
        return self._size


@reads_bodies
@pytest.mark.parametrize("kind", [Upload, Telling])
@pytest.mark.parametrize("status", [307, 308])
def test_what_requests_does_not_rewind_is_not_lost_behind_a_redirect(
    status, kind, server, session
):
    body = kind(b"once") if kind is Upload else kind()
    server.reply(status, headers={"Location": "/teams"})
    with pytest.raises(pdpyras.PDClientError, match="used up"):
        session.post("users", data=body)
    assert [r.body for r in server.requests] == [b"once"]


class Credential:
    """An object that renews its token, as one of ``pdpyras_oauth``."""

    def __init__(self):
        self.refused = []

    def token(self):
        return f"not-a-real-token-{len(self.refused)}"

    def renew(self, refused):
        self.refused.append(refused)


@pytest.mark.parametrize("auth_type", ["token", "bearer"])
def test_a_credential_is_told_which_token_was_refused(auth_type, server):
    credential = Credential()
    server.reply(401)
    with pdpyras.APISession(credential, auth_type=auth_type) as api:
        api.url = server.url
        assert api.get("users").ok
    assert credential.refused == ["not-a-real-token-0"]
    kinds = {"token": "Token token=", "bearer": "Bearer "}
    assert [r.headers["Authorization"] for r in server.requests] == [
        f"{kinds[auth_type]}not-a-real-token-{n}" for n in range(2)
    ]


def test_a_renewed_token_leaves_the_other_headers(server):
    """A write is in the name of whom the caller names, also when repeated."""
    credential = Credential()
    server.reply(401)
    server.reply(json={"incident": {"id": "Q"}})
    with pdpyras.APISession(credential, default_from="a@example.com") as api:
        api.url = server.url
        headers = {"From": "b@example.com"}
        assert api.post("/incidents", json={}, headers=headers).ok
    first, second = server.requests
    assert first.headers["From"] == second.headers["From"] == "b@example.com"
    assert first.headers["Authorization"] != second.headers["Authorization"]


def test_a_token_is_renewed_under_early_access(server):
    credential = Credential()
    server.reply(401)
    server.reply(json={"ip_allow_lists": []})
    with pdpyras.APISession(credential) as api:
        api.url, api.early_access = server.url, {"ip-allow-lists"}
        assert api.get("/ip_allow_lists").ok
    assert len(credential.refused) == 1
    _, second = server.requests
    assert second.headers["X-EARLY-ACCESS"] == "ip-allow-lists"


def test_what_can_be_read_once_is_not_sent_with_a_renewed_token(
    server, session
):
    session.api_key = Credential()
    server.reply(401, times=2)
    with pytest.raises(pdpyras.PDClientError, match="status 401"):
        session.post("users", data=iter([b"once"]))
    assert len(server.requests) == 1
    assert session.post("users", data=b"twice").ok
    assert [r.body for r in server.requests[1:]] == [b"twice"] * 2
    sent = [r.headers["Authorization"][-1] for r in server.requests]
    assert sent == ["0", "0", "1"]
