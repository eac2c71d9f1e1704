"""Plot and tabulate the figures of a benchmark, for the documentation.

Usage: python tools/bench/bench.py --json tools/bench/results.json ...
       python tools/bench/figure.py

Reads ``results.json`` beside this file; writes ``performance.svg`` and
``performance.csv`` among the figures of the documentation. The plot takes its
colours from the page. Nothing but the standard library is needed.
"""

import csv
import io
import json
import os
from typing import Any, Dict, List, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
RESULTS = os.path.join(HERE, "results.json")
FIGURES = os.path.join(ROOT, "sphinx", "source", "figures")

WORK = (
    ("GET and decode a user", "GET and decode"),
    ("rget", "rget"),
    ("a record, of 10000", "iterate, a record"),
    ("update of 250 incidents", "update 250 incidents"),
)
CLIENTS = (("pdpyras", "a"), ("5.4.1", "b"), ("successor", "c"))
PREFETCH = (0, 1, 2, 4, 8, 16)

# All measures are in units of the view box. A telephone shows it no smaller.
WIDTH = 356
LEFT, RIGHT = 8, 316
BAR, GAP, TOP = 13, 26, 66
BESIDE = 92  # where the bars begin that have their labels beside them

STYLE = """
  .pf { font: 13px sans-serif; fill: var(--color-foreground-primary, #222); }
  .pf-mute { fill: var(--color-foreground-secondary, #555); font-size: 12px; }
  .pf-small { font-size: 12px; }
  .pf-grid { stroke: var(--color-background-border, #ddd); }
  .pf-one { stroke: var(--color-foreground-secondary, #555);
            stroke-dasharray: 4 3; }
  .pf-a { fill: var(--cd-a, #04703a); }
  .pf-b { fill: var(--cd-b, #b4450e); }
  .pf-c { fill: var(--cd-c, #2f5fb3); }
"""

DESCRIPTION = (
    '<desc id="pf-desc">Above, processor time of four kinds of work as '
    "ratios to bare requests; the table below has the numbers. Under it, how "
    "long 10 000 records take over a link with 100 ms of latency, by the "
    "number of pages read ahead.</desc>"
)

Results = Dict[str, Any]


def text(
    x: float, y: float, content: str, style: str = "", end: str = "start"
) -> str:
    """A line of text."""
    return (
        f'<text class="pf {style}" x="{x}" y="{y}" '
        f'text-anchor="{end}">{content}</text>'
    )


def rule(x: float, top: float, bottom: float, style: str) -> str:
    """A vertical line."""
    return (
        f'<line class="{style}" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'
    )


def bar(
    y: float, share: float, letter: str, label: str, left: float = LEFT
) -> List[str]:
    """A horizontal bar, from 0 to a share of the width, with its label."""
    width = round(share * (RIGHT - left), 1)
    return [
        (
            f'<rect class="pf-{letter}" x="{left}" y="{y}" '
            f'width="{width}" height="{BAR - 1}"/>'
        ),
        text(left + width + 4, y + BAR - 2, label, "pf-small"),
    ]


def measured(results: Results) -> List[Tuple[str, str]]:
    """The clients that the results are about, with their colours."""
    return [c for c in CLIENTS if f"rget, {c[0]}" in results]


def client_name(results: Results, client: str) -> str:
    """A client with the version that was measured."""
    version = results[f"version of {client}"]["version"]
    if client == "successor":
        return f"pagerduty {version}"
    return f"pdpyras {version}"


def work_panel(results: Results, top: int) -> Tuple[List[str], int]:
    """Processor time of each kind of work, as a ratio to bare requests."""
    clients = measured(results)
    ratios = [
        results[f"{name}, {client}"]["median"]
        for name, _ in WORK
        for client, _ in clients
    ]
    most = 1.05 * max(1, *ratios)
    parts = []
    y = top
    for name, label in WORK:
        parts.append(text(LEFT, y - 5, label))
        for client, letter in clients:
            value = results[f"{name}, {client}"]["median"]
            parts += bar(y, value / most, letter, f"{value:.2f}")
            y += BAR
        y += GAP
    one = LEFT + (RIGHT - LEFT) / most
    head = [
        rule(LEFT, top - 2, y - GAP + 4, "pf-grid"),
        rule(one, top - 14, y - GAP + 4, "pf-one"),
        text(one, top - 20, "bare requests = 1", "pf-mute", "middle"),
    ]
    return head + parts, y


def legend(results: Results, y: int) -> List[str]:
    """Which colour is which client."""
    parts = []
    x = 8
    for client, letter in measured(results):
        parts.append(
            f'<rect class="pf-{letter}" x="{x}" y="{y - 9}" '
            'width="10" height="10"/>'
        )
        parts.append(text(x + 15, y, client_name(results, client), "pf-mute"))
        x += 118
    return parts


def latency_panel(results: Results, top: int) -> Tuple[List[str], int]:
    """Seconds that 10 000 records take over a slow link."""
    longest = results["prefetch=0, s"] * 1.1
    parts = [
        text(LEFT, top - 12, "seconds for 10 000 records", "pf-mute"),
    ]
    y = top
    for prefetch in PREFETCH:
        seconds = results[f"prefetch={prefetch}, s"]
        label = f"prefetch={prefetch}"
        parts.append(text(BESIDE - 6, y + BAR - 2, label, end="end"))
        parts += bar(y, seconds / longest, "a", f"{seconds:.1f}", BESIDE)
        y += BAR + 6
    return [rule(BESIDE, top - 6, y - 2, "pf-grid")] + parts, y


def figure(results: Results) -> str:
    """The whole plot."""
    work, y = work_panel(results, TOP)
    latency, y = latency_panel(results, y + 26)
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" class="cooldown" '
        f'viewBox="0 0 {WIDTH} {y + 4}" aria-labelledby="pf-title pf-desc">'
    )
    return "\n".join(
        [
            head,
            '<title id="pf-title">Measured performance</title>',
            DESCRIPTION,
            f"<style>{STYLE}</style>",
            *legend(results, 16),
            *work,
            *latency,
            "</svg>\n",
        ]
    )


def table(results: Results) -> str:
    """The same as comma-separated values, with the spreads."""
    clients = [client for client, _ in measured(results)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [client_name(results, client) for client in clients]
    writer.writerow(["Work", "bare requests", *names])
    for name, label in WORK:
        bare = results[f"{name}, requests"]
        row = [label, f"{bare['median']:.4g} µs"]
        for client in clients:
            value = results[f"{name}, {client}"]
            row.append(
                f"{value['median']:.2f} "
                f"({value['low']:.2f}–{value['high']:.2f})"
            )
        writer.writerow(row)
    return out.getvalue()


def read() -> Results:
    """The figures of the last benchmark that was kept."""
    with open(RESULTS, encoding="utf-8") as file:
        results: Results = json.load(file)
    return results


def main() -> None:
    """Write both."""
    results = read()
    os.makedirs(FIGURES, exist_ok=True)
    for name, content in (
        ("performance.svg", figure(results)),
        ("performance.csv", table(results)),
    ):
        path = os.path.join(FIGURES, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)


if __name__ == "__main__":
    main()
