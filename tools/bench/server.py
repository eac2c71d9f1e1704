"""A server of canned answers, in a process of its own.

    with Server() as server:               # or Server(latency=0.1)
        requests.get(server.url + "/users/PABC123")

It costs the clients that are measured nothing but the reading of its answers,
and tells them apart by nothing: raw sockets, a thread for each connection,
bodies that were encoded before anybody asked. It knows

``/users``             records with ``limit`` and ``offset``, and the total
                       where ``total=true`` asks for it
``/audit/records``     records with ``limit`` and ``cursor``
``/log_entries``       records of a period, one a second from 2026 on
``/incidents``         what a multi-update of incidents answers
``/rate``              how many requests each window of the rate limit had,
                       and how many of them were answered 429
anything else          one user

``records=N`` in a query says how large the collection is (default 10 000).
"""

import calendar
import json
import math
import multiprocessing
import re
import socket
import threading
import time
from typing import Any, Dict, List, Optional
from urllib.parse import unquote

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
FIRST = calendar.timegm((2026, 1, 1, 0, 0, 0))  # time of the first entry
ENTRY = json.dumps(
    {
        "id": "%s",
        "created_at": "%s",
        "type": "trigger_log_entry",
        "summary": "Triggered through the API.",
        "self": "https://api.pagerduty.com/log_entries/%s",
        "agent": {"id": "PABC123", "type": "user_reference"},
        "channel": {"type": "api", "notes": "x" * 200},
        "service": {"id": "PSERV01", "type": "service_reference"},
        "teams": [{"id": "PTEAM01", "type": "team_reference"}],
    }
)
HEAD = (
    b"HTTP/1.1 %s\r\n"
    b"Content-Type: application/json\r\n"
    b"Date: Fri, 20 Nov 2026 14:00:00 GMT\r\n"
    b"x-request-id: 0123456789abcdef0123456789abcdef\r\n"
    b"ratelimit-limit: 960\r\n"
    b"ratelimit-remaining: %d\r\n"
    b"ratelimit-reset: %s\r\n"
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


class Rate:
    """The rate limit: so many requests in each window of time.

    :param window: its length in seconds; None: there is no limit
    :param second: what a second is; the headers tell whole ones
    """

    limit = 960

    def __init__(self, window: Optional[float], second: float) -> None:
        self._window, self._second = window, second
        self._lock = threading.Lock()
        self._began = 0.0
        self.counts: List[int] = []

    def head(self) -> List[Any]:
        """Status, remaining requests, and reset, for one more request."""
        if self._window is None:
            return [b"200 OK", 900, b"30"]
        with self._lock:
            now = time.monotonic()
            self._began = self._began or now
            number = int((now - self._began) / self._window)
            self.counts += [0] * (number + 1 - len(self.counts))
            self.counts[number] += 1
            left = self.limit - self.counts[number]
            until = self._began + (number + 1) * self._window - now
        reset = math.ceil(until / self._second) * self._second
        status = b"200 OK" if left >= 0 else b"429 Too Many Requests"
        return [status, max(left, 0), b"%.4f" % reset]


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
        if path == b"/log_entries":
            return self._entries(dict(re.findall(rb"(\w+)=([^&]*)", text)))
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

    def _entries(self, query: Dict[bytes, bytes]) -> bytes:
        """A page of log entries, each named by its second."""
        since, until = (
            calendar.timegm(
                time.strptime(
                    unquote(query[name].decode()), "%Y-%m-%dT%H:%M:%SZ"
                )
            )
            for name in (b"since", b"until")
        )
        begin = max(since - FIRST, 0)
        end = max(begin, min(until - FIRST, int(query[b"records"])))
        start = begin + int(query.get(b"offset", 0))
        stop = min(start + int(query[b"limit"]), end)
        page = []
        for number in range(start, stop):
            moment = time.gmtime(FIRST + number)
            spelled = time.strftime("%Y-%m-%dT%H:%M:%SZ", moment)
            name = f"P{number:07}"
            page.append(ENTRY % (name, spelled, name))
        more = "true" if stop < end else "false"
        rest = f'"more": {more}, "total": {end - begin}'
        text = f'{{"log_entries": [{", ".join(page)}], {rest}}}'
        return text.encode("ascii")

    def _page(self, count: int) -> bytes:
        if count not in self._records:
            text = json.dumps([USER] * count)
            self._records[count] = text.encode("ascii")
        return self._records[count]


def serve(pipe: Any, latency: float, window: Optional[float]) -> None:
    """Listen, tell the port, and answer until the process is ended."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    pipe.send(listener.getsockname()[1])
    answers = Answers()
    rate = Rate(window, (window or 0) / 60)
    while True:
        sock, _ = listener.accept()
        threading.Thread(
            target=attend, args=(sock, answers, rate, latency), daemon=True
        ).start()


def attend(
    sock: socket.socket, answers: Answers, rate: Rate, latency: float
) -> None:
    """Answer the requests of one connection."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        with sock:
            exchange(sock, answers, rate, latency)
    except OSError:
        pass  # The client has left.


def exchange(
    sock: socket.socket, answers: Answers, rate: Rate, latency: float
) -> None:
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
        target = head.split(b" ", 2)[1]
        if target == b"/rate":
            body = json.dumps(rate.counts).encode("ascii")
            sock.sendall(HEAD % (b"200 OK", 900, b"30", len(body)) + body)
            continue
        status = rate.head()
        body = answers.body(target) if status[0][:3] == b"200" else b"{}"
        if latency:
            time.sleep(latency)
        sock.sendall(HEAD % (*status, len(body)) + body)


class Server:
    """The server, running while the ``with`` block does.

    :param latency: seconds that each answer takes
    :param window: seconds in which 960 requests are allowed
    """

    def __init__(
        self, latency: float = 0, window: Optional[float] = None
    ) -> None:
        here, there = multiprocessing.Pipe()
        self._process = multiprocessing.Process(
            target=serve, args=(there, latency, window), daemon=True
        )
        self._process.start()
        self.url = f"http://127.0.0.1:{here.recv()}"

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._process.terminate()
        self._process.join()
