"""One client, in a process of its own, doing the work that it is told to do.

Usage: python client.py NAME URL [SITE_PACKAGES_DIR]

``bench.py`` starts it. It reads orders from standard input, a JSON object
each line: ``{"job": "rget", "times": 100}``, and writes a line for each:
``{"cpu": seconds, "wall": seconds, ...}``. NAME is ``requests`` (bare
requests), ``pdpyras`` or ``pagerduty`` (whichever the directory holds).
"""

import contextlib
import gc
import importlib
import json
import os
import platform
import sys
import threading
import time
import timeit
import tracemalloc
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, Callable, Dict, Iterator, List

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
KEY = "not-a-real-key"
HEADERS = {
    "Authorization": f"Token token={KEY}",
    "Accept": "application/vnd.pagerduty+json;version=2",
}
MEGABYTE = 1e6


class Bare:
    """requests alone, as one would write it by hand."""

    module = "requests"

    def __init__(self, url: str) -> None:
        import requests

        self.url = url
        self.session = requests.Session()
        self._prepared = self.session.prepare_request(
            requests.Request("GET", f"{url}/users/PABC123", headers=HEADERS)
        )
        self._adapter = requests.adapters.HTTPAdapter()

    def get(self) -> Any:
        url = f"{self.url}/users/PABC123"
        return self.session.get(url, headers=HEADERS).json()

    def rget(self) -> Any:
        response = self.session.get(
            f"{self.url}/users/PABC123", headers=HEADERS
        )
        return response.json()["user"]

    def floor(self) -> Any:
        return self._adapter.send(self._prepared).content

    def records(self, count: int, **options: Any) -> Iterator[Any]:
        offset = 0
        while True:
            page = self.session.get(
                f"{self.url}/users",
                params={"records": count, "limit": 100, "offset": offset},
                headers=HEADERS,
            ).json()
            yield from page["users"]
            if not page["more"]:
                return
            offset += 100

    def cursor_records(self, count: int) -> Iterator[Any]:
        params = {"records": str(count), "limit": "100"}
        while True:
            page = self.session.get(
                f"{self.url}/audit/records", params=params, headers=HEADERS
            ).json()
            yield from page["records"]
            if not page.get("next_cursor"):
                return
            params["cursor"] = page["next_cursor"]

    def multi_update(self, incidents: List[Any]) -> Any:
        response = self.session.put(
            f"{self.url}/incidents",
            json={"incidents": incidents},
            headers=HEADERS,
        )
        return response.json()["incidents"]

    def close(self) -> None:
        self.session.close()


class Client:
    """A client of the family: pdpyras, of any version."""

    module = "pdpyras"

    def __init__(self, url: str) -> None:
        self.session: Any = self.make(url)

    def make(self, url: str) -> Any:
        import pdpyras

        session = pdpyras.APISession(KEY)
        session.url = url
        return session

    def get(self) -> Any:
        return self.session.get("/users/PABC123").json()

    def rget(self) -> Any:
        return self.session.rget("/users/PABC123")

    def rget_in_time(self) -> Any:
        return self.session.rget("/users/PABC123", deadline=30)

    def records(self, count: int, **options: Any) -> Iterator[Any]:
        records: Iterator[Any] = self.session.iter_all(
            "/users", params={"records": count}, **options
        )
        return records

    def cursor_records(self, count: int) -> Iterator[Any]:
        records: Iterator[Any] = self.session.iter_cursor(
            "/audit/records", params={"records": count}
        )
        return records

    def history(self, count: int, **options: Any) -> Iterator[Any]:
        import server

        since = datetime.fromtimestamp(server.FIRST, timezone.utc)
        records: Iterator[Any] = self.session.iter_history(
            "/log_entries",
            since,
            since + timedelta(seconds=count),
            params={"records": count},
            **options,
        )
        return records

    def multi_update(self, incidents: List[Any]) -> Any:
        return self.session.rput("/incidents", json=incidents)

    def close(self) -> None:
        self.session.close()


class Successor(Client):
    """The package ``pagerduty``."""

    module = "pagerduty"

    def make(self, url: str) -> Any:
        import pagerduty  # type: ignore[import-not-found]

        client = pagerduty.RestApiV2Client(KEY)
        client._url = url  # The setter takes https:// only.
        return client


KINDS: Dict[str, Any] = {
    "requests": Bare,
    "pdpyras": Client,
    "pagerduty": Successor,
}


def measured(work: Callable[[], Any]) -> Dict[str, float]:
    """Seconds that some work takes: of the processor, and on the clock."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
    }


def repeated(work: Callable[[], Any], times: int) -> Dict[str, float]:
    """Seconds that it takes each time, on an average."""

    def loop() -> None:
        for _ in range(times):
            work()

    return {k: v / times for k, v in measured(loop).items()}


def exhaust(records: Iterator[Any], pause: float = 0) -> int:
    """Take all records, and after each hundred pause for so many seconds."""
    count = 0
    for _ in records:
        count += 1
        if pause and not count % 100:
            time.sleep(pause)
    return count


class Worker:
    """Carries out the orders, each a method of the same name."""

    def __init__(self, name: str, url: str) -> None:
        self._kind = KINDS[name]
        self._url = url
        self._client: Any = None

    def obey(self, order: Dict[str, Any]) -> Dict[str, float]:
        if self._client is None:
            self._client = self._kind(self._url)
        result: Dict[str, float] = getattr(self, order.pop("job"))(**order)
        return result

    def call(self, method: str, times: int) -> Dict[str, float]:
        """A request."""
        return repeated(getattr(self._client, method), times)

    def iterate(self, count: int, **options: Any) -> Dict[str, float]:
        """Records with classic pagination; the time is that of a record."""
        return self._records(count, self._client.records, options)

    def follow(self, count: int) -> Dict[str, float]:
        """The same, with cursors."""
        return self._records(count, self._client.cursor_records, {})

    def _records(
        self, count: int, method: Any, options: Dict[str, Any]
    ) -> Dict[str, float]:
        pause = options.pop("pause", 0)

        def work() -> None:
            found = exhaust(method(count, **options), pause)
            assert found == count, f"{found} records in place of {count}"

        return {k: v / count for k, v in measured(work).items()}

    def history(self, count: int, prefetch: int) -> Dict[str, Any]:
        """A history of so many records; meanwhile, memory as it was."""
        import probe

        before, peaks = probe.resident(), [0.0]
        records = self._client.history(count, prefetch=prefetch)

        def work() -> None:
            found = 0
            for found, _ in enumerate(records, 1):
                if found % 1000 == 0:
                    size = (probe.resident() - before) / MEGABYTE
                    peaks.append(max(size, peaks[-1]))
            assert found == count, f"{found} records in place of {count}"

        return dict(measured(work), peaks=peaks)

    def rate(self) -> Dict[str, Any]:
        """The requests in each window of the rate limit, as they came."""
        counts = self._client.session.get("/rate").json()
        return {"counts": counts}

    def update(self, count: int, times: int) -> Dict[str, float]:
        """A multi-update of so many incidents."""
        import server

        incidents = server.incidents(count)
        return repeated(lambda: self._client.multi_update(incidents), times)

    def memory(self, count: int, method: str = "records") -> Dict[str, float]:
        """Megabytes of memory at the peak of an iteration."""
        exhaust(getattr(self._client, method)(300))
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            exhaust(getattr(self._client, method)(count))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return {"peak": (peak - before) / MEGABYTE}

    def session(self, times: int) -> Dict[str, float]:
        """A new session, and its first request."""

        def work() -> None:
            client = self._kind(self._url)
            client.rget()
            client.close()

        return repeated(work, times)

    def first(self, times: int) -> Dict[str, float]:
        """The first request of a new session."""
        clients = [self._kind(self._url) for _ in range(times)]
        remaining = iter(clients)
        result = repeated(lambda: next(remaining).rget(), times)
        for client in clients:
            client.close()
        return result

    def threads(self, count: int, times: int) -> Dict[str, float]:
        """Requests of many threads: on one session, or on bare ones."""
        is_bare = self._kind is Bare
        clients = [
            self._kind(self._url) if is_bare else self._client
            for _ in range(count)
        ]
        barrier = threading.Barrier(count)

        def work(client: Any, times: int) -> None:
            barrier.wait()
            for _ in range(times):
                client.rget()

        def run(times: int) -> None:
            threads = [
                threading.Thread(target=work, args=(client, times))
                for client in clients
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        run(2)  # The connections are there.
        result = measured(lambda: run(times))
        if is_bare:
            for client in clients:
                client.close()
        return {k: v / times / count for k, v in result.items()}

    def endpoints(self, factor: int) -> Dict[str, float]:
        """Make the table of endpoints so many times as large."""
        import pdpyras

        paths = list(pdpyras.CANONICAL_PATHS)
        for copy in range(1, factor):
            pdpyras.CANONICAL_PATHS.extend(f"/x{copy}{p}" for p in paths)
        return {"paths": len(pdpyras.CANONICAL_PATHS)}

    def paths(self, times: int) -> Dict[str, Any]:
        """canonical_path of each path: on an average, and the slowest.

        Of each path the quickest of many runs counts, because whatever
        else the machine does only makes it slower. Between the runs of one
        path are those of all others, so that a slow moment of the machine
        does not strike them all.
        """
        import pdpyras

        base = pdpyras.APISession.url
        calls = {}
        for path in pdpyras.CANONICAL_PATHS:
            url = path.replace("{", "P").replace("}", "X1")
            assert pdpyras.canonical_path(base, url)
            calls[path] = partial(pdpyras.canonical_path, base, url)
        best = dict.fromkeys(calls, float("inf"))
        for _ in range(15):
            for path, call in calls.items():
                seconds = timeit.timeit(call, number=times) / times
                best[path] = min(best[path], seconds)
        slowest = max(best, key=lambda path: best[path])
        return {
            "mean": sum(best.values()) / len(best),
            "slowest": best[slowest],
            "path": slowest,
        }

    def about(self) -> Dict[str, Any]:
        """Which versions are measured."""
        module = sys.modules[self._kind.module]
        version = getattr(module, "__version__", None)
        if version is None:
            version = importlib.import_module(f"{module.__name__}.version")
            version = version.__version__
        return {"version": version, "python": platform.python_version()}


def main() -> None:
    """Obey until there are no more orders."""
    name, url, *site = sys.argv[1:]
    sys.path[:1] = [HERE] + (site or [ROOT])
    worker = Worker(name, url)
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            print(
                json.dumps(worker.obey(json.loads(line))),
                file=answers,
                flush=True,
            )


if __name__ == "__main__":
    main()
