"""Measure pdpyras against bare requests, and against other clients.

Usage: python tools/bench/bench.py [--check] [--with NAME=DIR ...]

Each client runs in a process of its own, the server in another. They work
by turns, round after round. A figure is the median of the rounds, in brackets
the middle half of them; a ratio is taken within each round. What is counted
is processor time of the client, where nothing else is said.

With ``--check`` the exit status is 1 if a target is missed.
"""

import argparse
import json
import os
import py_compile
import shutil
import statistics
import subprocess
import sys
import tempfile
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional

from server import INCIDENTS, RECORDS, Server

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BARE, OURS = "requests", "pdpyras"
MICRO, MILLI = 1e6, 1e3
MEGABYTE = 1e6
LATENCY = 0.1  # seconds
HISTORY = 100000  # records
PER_MINUTE = 960  # requests
HASTE = 6  # A minute of the rate limit takes ten seconds.
WIDTH = 30  # characters of a row's name

Figures = List[float]


class Spread(NamedTuple):
    """A median, and the middle half of the values around it."""

    median: float
    low: float
    high: float

    def text(self, unit: str = "", digits: int = 2) -> str:
        low, high = f"{self.low:.{digits}f}", f"{self.high:.{digits}f}"
        return f"{self.median:.{digits}f}{unit} ({low}-{high})"


def spread(values: Iterable[float]) -> Spread:
    """Sum up the rounds."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return Spread(
        statistics.median(ordered), ordered[quarter], ordered[-1 - quarter]
    )


class Worker:
    """A client in a process of its own, see ``client.py``."""

    def __init__(
        self, name: str, kind: str, url: str, site: Optional[str] = None
    ) -> None:
        self.name = name
        self.kind = kind
        self.site = site
        script = os.path.join(HERE, "client.py")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", script, kind, url]
            + ([site] if site else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )

    def do(self, job: str, **options: Any) -> Dict[str, Any]:
        """Let it do a job, and wait for what it measured."""
        assert self._process.stdin and self._process.stdout
        print(
            json.dumps(dict(options, job=job)),
            file=self._process.stdin,
            flush=True,
        )
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed at {job}.")
        result: Dict[str, Any] = json.loads(line)
        return result

    def close(self) -> None:
        self._process.communicate()


class Report:
    """Prints, compares with the targets, and remembers the figures."""

    def __init__(self) -> None:
        self.missed: List[str] = []
        self.figures: Dict[str, Any] = {}

    def heading(self, text: str) -> None:
        print(f"\n{text}\n{'-' * len(text)}", flush=True)

    def row(self, name: str, *cells: str) -> None:
        columns = "".join(f"{cell:<25}" for cell in cells)
        print(f"{name:<{WIDTH}}{columns}".rstrip(), flush=True)

    def note(self, name: str, figure: Spread) -> None:
        """Remember a figure for ``--json``."""
        self.figures[name] = {
            part: round(value, 4) for part, value in figure._asdict().items()
        }

    def target(self, name: str, value: float, most: float) -> str:
        """How a value compares with the most that it may be."""
        self.figures[name] = {"value": round(value, 4), "target": most}
        return self._judge(name, value, value <= most, f"<= {most:g}")

    def goal(self, name: str, value: float, least: float) -> str:
        """How a value compares with the least that it should be."""
        self.figures[name] = {"value": round(value, 4), "goal": least}
        return self._judge(name, value, value >= least, f">= {least:g}")

    def _judge(
        self, name: str, value: float, is_met: bool, target: str
    ) -> str:
        if not is_met:
            self.missed.append(f"{name}: {value:.3g}, target {target}")
        return f"{target} {'ok' if is_met else 'MISSED'}"


class Bench:
    """The whole measurement."""

    def __init__(
        self, options: argparse.Namespace, url: str, report: Report
    ) -> None:
        self.rounds = 1 if options.quick else options.rounds
        # Many short rounds: the machine's pace changes within seconds, and a
        # ratio is to be taken while it is the same for both.
        self.times = 20 if options.quick else 40
        self.history_size = 1000 if options.quick else HISTORY
        self.turns = 1 if options.quick else 6 * options.rounds
        self.most_records = options.records
        self.url = url
        self.report = report
        self.workers = {
            BARE: Worker(BARE, "requests", url),
            OURS: Worker(OURS, "pdpyras", url),
        }
        # As it is when installed: compiled.
        self._installed = tempfile.TemporaryDirectory()
        module = os.path.join(ROOT, "pdpyras.py")
        copied = shutil.copy(module, self._installed.name)
        py_compile.compile(copied, doraise=True)
        self.workers[OURS].site = self._installed.name
        for entry in options.others:
            name, _, site = entry.partition("=")
            kind = client_in(site)
            self.workers[name] = Worker(name, kind, url, site)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        self._installed.cleanup()

    @property
    def ours(self) -> Worker:
        """The client of this checkout."""
        return self.workers[OURS]

    def successors(self) -> List[str]:
        """Names of the clients that are the successor."""
        return [n for n, w in self.workers.items() if w.kind == "pagerduty"]

    def by_turns(
        self,
        job: str,
        names: Iterable[str],
        what: str,
        rounds: int = 0,
        **options: Any,
    ) -> Dict[str, Figures]:
        """A job in all rounds: for each client what was measured."""
        names = list(names)
        figures: Dict[str, Figures] = {name: [] for name in names}
        rounds = rounds or self.rounds
        for number in range(-1, rounds):
            for name in names:
                value = self.workers[name].do(job, **options)[what]
                if number >= 0:  # The first round is for warming up.
                    figures[name].append(value)
        return figures

    # -- Work -----------------------------------------------------------------

    def work(self) -> None:
        """The table of operations."""
        self.report.heading("Work, as ratios to bare requests")
        self.report.row("", *self.workers, "target")
        self.operation("GET and decode a user", 0.65, "call", method="get")
        self.operation("rget", 0.65, "call", method="rget")
        self.operation(
            f"a record, of {RECORDS}", 0.95, "iterate", count=RECORDS
        )
        self.operation(
            f"update of {INCIDENTS} incidents",
            0.95,
            "update",
            count=INCIDENTS,
        )
        self.in_time()
        self.floor()

    def operation(
        self, name: str, most: float, job: str, **options: Any
    ) -> None:
        """A row: bare requests in microseconds, the others in ratios."""
        rounds = self.rounds
        if job != "iterate":
            options["times"] = self.times if job == "call" else self.times // 3
            rounds = self.turns
        figures = self.by_turns(job, self.workers, "cpu", rounds, **options)
        bare = figures[BARE]
        cells = [spread(v * MICRO for v in bare).text(" us", 1)]
        self.report.note(f"{name}, {BARE}", spread(v * MICRO for v in bare))
        for client in list(self.workers)[1:]:
            shares = ratios(figures[client], bare)
            cells.append(spread(shares).text())
            self.report.note(f"{name}, {client}", spread(shares))
        ours = spread(ratios(figures[OURS], bare)).median
        cells.append(self.report.target(name, ours, most))
        self.report.row(name, *cells)
        if job == "call":
            self.against_successors(name, figures)

    def against_successors(
        self, name: str, figures: Dict[str, Figures]
    ) -> None:
        for client in self.successors():
            share = spread(ratios(figures[OURS], figures[client]))
            title = f"  ... by {client}"
            text = self.report.target(f"{name}{title}", share.median, 1.0)
            self.report.row(title, "", share.text(), text)

    def in_time(self) -> None:
        """What a deadline costs, as a ratio to the same call without one."""
        name = "rget with a deadline, to rget"
        shares = self.shares_of_calls(self.ours, "rget_in_time", "rget")
        text = self.report.target(name, spread(shares).median, 1.1)
        self.report.row(name, "", spread(shares).text(), text)

    def floor(self) -> None:
        shares = self.shares_of_calls(self.workers[BARE], "floor", "get")
        self.report.row("floor: HTTPAdapter.send", "", spread(shares).text())
        self.report.note("floor", spread(shares))

    def shares_of_calls(self, worker: Worker, method: str, of: str) -> Figures:
        """Ratios of two calls of one client, by turns."""
        return [
            worker.do("call", method=method, times=self.times)["cpu"]
            / worker.do("call", method=of, times=self.times)["cpu"]
            for _ in range(self.turns)
        ]

    # -- What comes once ------------------------------------------------------

    def once(self) -> None:
        """Import, first requests, look-up, and memory."""
        self.report.heading("Once, and all along")
        self.report.row("", *self.workers, "target")
        self.imports("import, ms", "cpu", MILLI, None)
        # This was 5 ms, on a machine on which the module of 6.0.0 took 3.48.
        # That takes 28.6 % of an import of asyncio, so that 5 ms are 41 %.
        self.imports("import, % of that of asyncio", "share", 100, 41)
        self.imports("import, MB allocated", "traced", 1 / MEGABYTE, 1.5)
        self.imports("import, MB resident", "resident", 1 / MEGABYTE, None)
        self.first_of_process()
        self.compared("first of a session, ratio", "first", 1.0)
        self.compared("session and its first, ratio", "session", None)
        self.look_up()
        self.memory()

    def imports(
        self, name: str, kind: str, factor: float, most: Optional[float]
    ) -> None:
        names = list(self.workers)[1:]
        figures: Dict[str, Figures] = {client: [] for client in names}
        for number in range(-1, self.rounds + 4):
            for client in names:
                worker = self.workers[client]
                value = self.probe(kind, worker.kind, worker.site)
                if number >= 0:
                    figures[client].append(value * factor)
        cells = [spread(figures[client]).text() for client in names]
        if most is not None:
            value = spread(figures[OURS]).median
            cells.append(self.report.target(name, value, most))
        self.report.row(name, "", *cells)

    def probe(self, *arguments: Optional[str]) -> float:
        """What a new process measures of itself, see ``probe.py``."""
        script = os.path.join(HERE, "probe.py")
        command = [
            sys.executable,
            "-W",
            "ignore",
            script,
            *filter(None, arguments),
        ]
        return float(subprocess.check_output(command))

    def first_of_process(self) -> None:
        figures: Dict[str, Figures] = {name: [] for name in self.workers}
        for number in range(-1, self.rounds + 4):
            for name, worker in self.workers.items():
                value = self.probe("first", self.url, worker.kind, worker.site)
                if number >= 0:
                    figures[name].append(value)
        self.shares("first of a process, ratio", figures, None)

    def compared(self, name: str, job: str, most: Optional[float]) -> None:
        figures = self.by_turns(job, self.workers, "cpu", times=20)
        self.shares(name, figures, most)

    def shares(
        self, name: str, figures: Dict[str, Figures], most: Optional[float]
    ) -> None:
        cells = [spread(v * MILLI for v in figures[BARE]).text(" ms")]
        for client in list(self.workers)[1:]:
            cells.append(spread(ratios(figures[client], figures[BARE])).text())
        if most is not None:
            value = spread(ratios(figures[OURS], figures[BARE])).median
            cells.append(self.report.target(name, value, most))
        self.report.row(name, *cells)

    def look_up(self) -> None:
        result = self.ours.do("paths", times=100)
        slowest = result["slowest"] * MICRO
        text = self.report.target("canonical_path, us", slowest, 3)
        mean = f"{result['mean'] * MICRO:.2f}"
        self.report.row(
            "canonical_path, us", "", f"{mean}, slowest {slowest:.2f}", text
        )
        self.report.row(f"  slowest: {result['path']}")

    def memory(self) -> None:
        cells = []
        for worker in self.workers.values():
            peak = worker.do("memory", count=RECORDS)["peak"]
            cells.append(f"{peak:.2f}")
            if worker is self.ours:
                text = self.report.target("peak of an iteration", peak, 2)
        self.report.row("peak of an iteration, MB", *cells, text)

    # -- Threads --------------------------------------------------------------

    def threads(self) -> None:
        """Threads on one session, against as many bare sessions."""
        self.report.heading("Threads on one session; bare: on one each")
        self.report.row(
            "", "requests, us", "ratio of processor", "ratio of clock"
        )
        for count in (1, 2, 4, 8, 16):
            times = max(20, 320 // count)
            figures: Dict[str, List[Figures]] = {BARE: [], OURS: []}
            for _ in range(self.rounds):
                for name in (BARE, OURS):
                    result = self.workers[name].do(
                        "threads", count=count, times=times
                    )
                    figures[name].append([result["cpu"], result["wall"]])
            bare, ours = figures[BARE], figures[OURS]
            shares = [
                spread(o[kind] / b[kind] for o, b in zip(ours, bare))
                for kind in (0, 1)
            ]
            cells = [spread(b[0] * MICRO for b in bare).text("", 0)]
            cells += [share.text() for share in shares]
            if count == 16:
                worst = max(share.median for share in shares)
                cells.append(self.report.target("16 threads", worst, 1.1))
            self.report.row(f"{count} threads", *cells)

    # -- Latency --------------------------------------------------------------

    def latency(self) -> None:
        """Reading ahead over a slow link; seconds of the clock."""
        self.report.heading(
            f"{RECORDS} records, {LATENCY * MILLI:.0f} ms of latency"
        )
        with Server(latency=LATENCY) as server:
            worker = Worker(OURS, "pdpyras", server.url)
            serial = 0.0
            for prefetch in (0, 1, 2, 4, 8, 16):
                seconds = self.clock(worker, RECORDS, prefetch, 0)
                serial = serial or seconds
                cells = [f"{seconds:.2f} s", f"{serial / seconds:.1f} x"]
                name, faster = f"prefetch={prefetch}", serial / seconds
                self.report.figures[f"{name}, s"] = round(seconds, 2)
                least = 6.0 if prefetch == 8 else 0.0
                text = self.report.goal(name, faster, least)
                self.report.row(name, *cells, text if least else "")
            self.busy_consumer(worker)
            worker.close()

    def busy_consumer(self, worker: Worker) -> None:
        """Does the next page come while this one is worked on?"""
        count, pause = RECORDS // 5, LATENCY * 0.9
        idle = self.clock(worker, count, 0, 0)
        for prefetch in (0, 1):
            seconds = self.clock(worker, count, prefetch, pause)
            cells = [f"{seconds:.2f} s", f"{seconds / idle:.2f} of waiting"]
            if prefetch:
                share = seconds / idle
                cells.append(self.report.target("hidden work", share, 1.1))
            self.report.row(
                f"prefetch={prefetch}, {pause * MILLI:.0f} ms/page", *cells
            )

    @staticmethod
    def clock(
        worker: Worker, count: int, prefetch: int, pause: float
    ) -> float:
        result = worker.do(
            "iterate", count=count, prefetch=prefetch, pause=pause
        )
        return float(result["wall"] * count)

    # -- History --------------------------------------------------------------

    def history(self) -> None:
        """A history under the rate limit, and a long one in memory."""
        self.report.heading(
            f"History of {self.history_size} records, {LATENCY * MILLI:.0f} "
            f"ms of latency, {PER_MINUTE} requests a minute"
        )
        columns = ("time", "of allowed requests", "answered 429")
        self.report.row("", *columns)
        for prefetch in (0, 1, 4, 16):
            self.limited(prefetch)
        self.report.heading("Memory of a history, MB")
        with Server() as server:
            self.growth_of_history(server.url)

    def limited(self, prefetch: int) -> None:
        """One history; the share of requests in windows that were full."""
        latency, window = LATENCY / HASTE, 60 / HASTE
        with Server(latency=latency, window=window) as server:
            worker = Worker(OURS, "pdpyras", server.url)
            wall = worker.do(
                "history", count=self.history_size, prefetch=prefetch
            )
            counts = worker.do("rate")["counts"]
            worker.close()
        # In the last one the records came to their end.
        whole = counts[:-1] or counts
        refused = sum(max(count - PER_MINUTE, 0) for count in counts)
        used = sum(min(count, PER_MINUTE) for count in whole)
        share = used / (len(whole) * PER_MINUTE)
        name = f"history, prefetch={prefetch}"
        self.report.figures[f"{name}, s"] = round(wall["wall"] * HASTE, 1)
        cells = [f"{wall['wall'] * HASTE:.0f} s", f"{share:.1%}"]
        cells.append(f"{refused / sum(counts):.2%}")
        if prefetch == 16:
            wasted = refused / sum(counts)
            cells.append(self.report.goal(f"{name}, used", share, 0.9))
            cells.append(self.report.target(f"{name}, 429", wasted, 0.01))
        else:
            self.report.figures[f"{name}, used"] = round(share, 4)
        self.report.row(f"prefetch={prefetch}", *cells)

    def growth_of_history(self, url: str) -> None:
        """The peak over the first records, and over all of them."""
        worker = Worker(OURS, "pdpyras", url)
        count = 10 * self.history_size
        peaks = worker.do("history", count=count, prefetch=16)["peaks"]
        worker.close()
        early, late = peaks[len(peaks) // 10], peaks[-1]
        text = self.report.target("history, growth", late / early, 1.2)
        self.report.figures["history, MB"] = round(late, 1)
        self.report.row(f"the first {count // 10} records", f"{early:.1f}")
        self.report.row(f"all {count}", f"{late:.1f}", text)

    # -- Scale ----------------------------------------------------------------

    def scale(self) -> None:
        """How cost grows with what there is."""
        self.report.heading("Growth")
        self.report.row("records, by cursor", BARE, OURS, "peak, MB")
        count = 1000
        while count <= self.most_records:
            self.growth_of_records(count)
            count *= 10
        self.report.row("incidents in an update", BARE, OURS)
        for count in (25, 250, 2500):
            self.growth(
                f"{count}", "update", MICRO, count=count, times=25000 // count
            )
        self.report.row("endpoints", "", "look-up, us", "rget, us")
        self.growth_of_endpoints(1)
        self.growth_of_endpoints(10)

    def growth_of_records(self, count: int) -> None:
        peak = self.ours.do(
            "memory", count=min(count, 100000), method="cursor_records"
        )["peak"]
        rounds = 1 if count > 1e4 else self.rounds
        self.growth(
            f"{count}",
            "follow",
            MICRO,
            f"{peak:.2f}",
            count=count,
            rounds=rounds,
        )

    def growth(
        self,
        name: str,
        job: str,
        factor: float,
        *more: str,
        **options: Any,
    ) -> None:
        figures = self.by_turns(job, (BARE, OURS), "cpu", **options)
        cells = [
            spread(v * factor for v in figures[client]).text(" us", 1)
            for client in (BARE, OURS)
        ]
        self.report.row(name, *cells, *more)

    def growth_of_endpoints(self, factor: int) -> None:
        worker = Worker(OURS, "pdpyras", self.url)
        worker.do("call", method="rget", times=10)
        size = worker.do("endpoints", factor=factor)["paths"]
        look_up = worker.do("paths", times=30)
        seconds = [
            worker.do("call", method="rget", times=100)["cpu"]
            for _ in range(self.rounds)
        ]
        worker.close()
        self.report.row(
            f"{size}",
            "",
            f"{look_up['mean'] * MICRO:.2f}",
            spread(s * MICRO for s in seconds).text("", 0),
        )


def ratios(values: Figures, of: Figures) -> Figures:
    """Ratios within the rounds."""
    return [value / other for value, other in zip(values, of)]


def client_in(site: str) -> str:
    """Which client a site-packages directory holds."""
    if os.path.isdir(os.path.join(site, "pagerduty")):
        return "pagerduty"
    if os.path.isfile(os.path.join(site, "pdpyras.py")):
        return "pdpyras"
    raise SystemExit(f"There is neither pdpyras nor pagerduty in {site!r}.")


SECTIONS = ("work", "once", "threads", "latency", "scale")
LONG_SECTIONS = ("history",)  # on request only


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Measure pdpyras against bare requests."
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit with status 1 if a target is missed",
    )
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="others",
        metavar="NAME=DIR",
        help="measure the client that is installed in this site-packages "
        "directory (pdpyras or pagerduty) as well, under this name",
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="default: %(default)s"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round, short, to see that everything works",
    )
    parser.add_argument(
        "--records",
        type=int,
        default=100000,
        help="largest collection of the scale run (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=SECTIONS + LONG_SECTIONS,
        help="measure this part alone; may be repeated",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and compare with the targets."""
    options = parse()
    report = Report()
    with Server() as server:
        bench = Bench(options, server.url, report)
        try:
            for name, worker in bench.workers.items():
                about = worker.do("about")
                report.figures[f"version of {name}"] = about
                print(f"{name}: {about['version']}")
            print(f"Python {about['python']}")
            for section in options.only or SECTIONS:
                run: Callable[[], None] = getattr(bench, section)
                run()
        finally:
            bench.close()
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report.figures, file, indent=1, sort_keys=True)
            file.write("\n")
    print()
    for line in report.missed:
        print(f"missed: {line}")
    if not report.missed:
        print("All targets are met.")
    return 1 if report.missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
