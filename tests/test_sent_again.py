"""What is sent again: the same request, or none.

A body that can be read again is sent again from where it was; one that can
be read only once is sent once. How often, and after which pause, is in
``test_retry.py``.
"""

import io
import os
import re

import pytest
import urllib3

import pdpyras

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
