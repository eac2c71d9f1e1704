"""A server of canned answers, in a process of its own.

    with Server() as server:               # or Server(latency=0.1)
        requests.get(server.url + "/users/PABC123")

It costs the clients that are measured nothing but the reading of its answers,
and tells them apart by nothing: raw sockets, a thread for each connection,
bodies that were encoded before anybody asked. It knows

``/users``             records with ``limit`` and ``offset``, and the total
                       where ``total=true`` asks for it
``/audit/records``     records with ``limit`` and ``cursor``
``/incidents``         what a multi-update of incidents answers
anything else          one user

``records=N`` in a query says how large the collection is (default 10 000).
"""

import json
import multiprocessing
import re
import socket
import threading
import time
from typing import Any, Dict, List

RECORDS = 10000
INCIDENTS = 250
LONGEST_BODY = 262144  # bytes read at once

USER = {
    "id": "PABC123",
    "name": "Jane Doe",
    "email": "jane@example.com",
    "type": "user",
    "summary": "Jane Doe",
    "self": "https://api.pagerduty.com/users/PABC123",
    "html_url": "https://example.pagerduty.com/users/PABC123",
    "role": "user",
    "time_zone": "UTC",
    "color": "green",
    "teams": [{"id": "PTEAM01", "type": "team_reference", "summary": "Ops"}],
    "contact_methods": [
        {"id": "PMAIL01", "type": "email_contact_method_reference"}
    ],
}
HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: application/json\r\n"
    b"Date: Fri, 20 Nov 2026 14:00:00 GMT\r\n"
    b"x-request-id: 0123456789abcdef0123456789abcdef\r\n"
    b"ratelimit-limit: 960\r\n"
    b"ratelimit-remaining: 900\r\n"
    b"ratelimit-reset: 30\r\n"
    b"Content-Length: %d\r\n\r\n"
)


def incidents(count: int) -> List[Dict[str, Any]]:
    """Incidents as the body of a multi-update holds them."""
    return [
        {
            "id": f"PINC{number:03}",
            "type": "incident_reference",
            "status": "acknowledged",
        }
        for number in range(count)
    ]


class Answers:
    """Finds, or makes, the body of an answer."""

    def __init__(self) -> None:
        self._user = json.dumps({"user": USER}).encode("ascii")
        self._incidents = json.dumps(
            {"incidents": incidents(INCIDENTS)}
        ).encode("ascii")
        self._records: Dict[int, bytes] = {}

    def body(self, target: bytes) -> bytes:
        """The body of the answer to a request of this target."""
        path, _, text = target.partition(b"?")
        if path not in (b"/users", b"/audit/records"):
            return self._incidents if path == b"/incidents" else self._user
        query = dict(re.findall(rb"(\w+)=(\w*)", text))
        size = int(query.get(b"records", RECORDS))
        start = int(query.get(b"offset") or query.get(b"cursor") or 0)
        end = min(start + int(query.get(b"limit", 100)), size)
        name, more = path.rpartition(b"/")[2], end < size
        rest = b'"more": %s' % (b"true" if more else b"false")
        if name == b"records":
            rest = b'"next_cursor": "%d"' % end if more else b'"limit": 100'
        elif query.get(b"total") == b"true":
            rest += b', "total": %d' % size
        page = self._page(max(end - start, 0))
        return b'{"%s": %s, %s}' % (name, page, rest)

    def _page(self, count: int) -> bytes:
        if count not in self._records:
            text = json.dumps([USER] * count)
            self._records[count] = text.encode("ascii")
        return self._records[count]


def serve(pipe: Any, latency: float) -> None:
    """Listen, tell the port, and answer until the process is ended."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    pipe.send(listener.getsockname()[1])
    answers = Answers()
    while True:
        sock, _ = listener.accept()
        threading.Thread(
            target=attend, args=(sock, answers, latency), daemon=True
        ).start()


def attend(sock: socket.socket, answers: Answers, latency: float) -> None:
    """Answer the requests of one connection."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        with sock:
            exchange(sock, answers, latency)
    except OSError:
        pass  # The client has left.


def exchange(sock: socket.socket, answers: Answers, latency: float) -> None:
    """Requests and answers, one after another."""
    buffer = b""
    while True:
        while b"\r\n\r\n" not in buffer:
            data = sock.recv(LONGEST_BODY)
            if not data:
                return
            buffer += data
        head, _, buffer = buffer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length.group(1)) if length else 0
        while len(buffer) < size:
            buffer += sock.recv(LONGEST_BODY)
        buffer = buffer[size:]
        body = answers.body(head.split(b" ", 2)[1])
        if latency:
            time.sleep(latency)
        sock.sendall(HEAD % len(body) + body)


class Server:
    """The server, running while the ``with`` block does.

    :param latency: seconds that each answer takes
    """

    def __init__(self, latency: float = 0) -> None:
        here, there = multiprocessing.Pipe()
        self._process = multiprocessing.Process(
            target=serve, args=(there, latency), daemon=True
        )
        self._process.start()
        self.url = f"http://127.0.0.1:{here.recv()}"

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._process.terminate()
        self._process.join()
