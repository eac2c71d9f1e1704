"""Plot the pauses between attempts, for the page on retrying.

Usage: python3 sphinx/cooldown_figure.py

Writes an SVG that takes its colours from the page it is shown in, so that it
follows light and dark mode. Nothing but the standard library is needed.
"""

import math
import os
from typing import Iterable, List, NamedTuple, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))
FIGURE = os.path.join(HERE, "source", "figures", "cooldown.svg")

# All measures are in units of the view box. A telephone shows it no smaller.
WIDTH, HEIGHT = 356, 330
LEFT, RIGHT, TOP, BOTTOM = 34, 346, 30, 284
KEY_X, KEY_Y, KEY_STEP = 46, 47, 17  # the key stands where no curve is
RETRIES = range(1, 8)
SHORTEST, LONGEST = 1.0, 1024.0  # seconds
TICKS = (1, 4, 15, 60, 240, 900)  # seconds
CAP = 60.0  # seconds: sleep_timer_max
STAGGER = 0.2

HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" role="img" class="cooldown" '
    f'viewBox="0 0 {WIDTH} {HEIGHT}" aria-labelledby="cd-title cd-desc">'
)
DESCRIPTION = (
    '<desc id="cd-desc">The pause doubles with each retry. After status 429 '
    "it stops growing at 60 seconds, and where the API says how long to wait "
    "it is just that.</desc>"
)

Point = Tuple[float, float]

STYLE = """
  .cd { font: 13px sans-serif; fill: var(--color-foreground-primary, #222); }
  .cd-mute { fill: var(--color-foreground-secondary, #555); font-size: 12px; }
  .cd-grid { stroke: var(--color-background-border, #ddd); }
  .cd-line { fill: none; stroke-width: 2; stroke-linejoin: round; }
  .cd-a { stroke: var(--cd-a, #04703a); }
  .cd-at { fill: var(--cd-a, #04703a); }
  .cd-b { stroke: var(--cd-b, #b4450e); }
  .cd-bt { fill: var(--cd-b, #b4450e); }
  .cd-c { stroke: var(--cd-c, #2f5fb3); }
  .cd-ct { fill: var(--cd-c, #2f5fb3); }
  .cd-d { stroke: var(--cd-d, #7a3fa0); }
  .cd-dt { fill: var(--cd-d, #7a3fa0); }
  .cd-band { fill: var(--cd-a, #04703a); opacity: 0.15; }
  .cd-dash { stroke-dasharray: 5 3; }
"""


class Curve(NamedTuple):
    """A line of the figure: its letter in the style, label, and pauses."""

    letter: str
    label: str
    pauses: List[float]
    dashed: bool = False


def pauses(
    timer: float = 1.5, factor: float = 2.0, cap: float = CAP
) -> List[float]:
    """Seconds before each retry: t(n) = factor * t(n-1), t(0) = timer."""
    return [min(timer * factor**n, cap) for n in RETRIES]


CURVES = (
    Curve("a", "as delivered", pauses()),
    Curve("c", "sleep_timer = 1", pauses(timer=1.0)),
    Curve("b", "sleep_timer_max = 200", pauses(cap=200), True),
    Curve("d", "429, asks for 2 s", [2.0 for _ in RETRIES]),
)


def place(retry: int, seconds: float) -> Point:
    """Where a pause is drawn; the seconds on a logarithmic scale."""
    across = (retry - RETRIES[0]) / (RETRIES[-1] - RETRIES[0])
    up = math.log(seconds / SHORTEST) / math.log(LONGEST / SHORTEST)
    x = LEFT + across * (RIGHT - LEFT)
    return round(x, 1), round(BOTTOM - up * (BOTTOM - TOP), 1)


def points(seconds: Iterable[float]) -> str:
    """A run of pauses as the points of a polyline."""
    places = [place(n, s) for n, s in zip(RETRIES, seconds)]
    return " ".join(f"{x},{y}" for x, y in places)


def text(
    x: float, y: float, content: str, style: str = "", end: str = "start"
) -> str:
    """A line of text."""
    return (
        f'<text class="cd {style}" x="{x}" y="{y}" '
        f'text-anchor="{end}">{content}</text>'
    )


def axes() -> List[str]:
    """Grid lines with the seconds, and the numbers of the retries."""
    lines = []
    for tick in TICKS:
        y = place(1, tick)[1]
        lines.append(
            f'<line class="cd-grid" x1="{LEFT}" x2="{RIGHT}" '
            f'y1="{y}" y2="{y}"/>'
        )
        lines.append(text(LEFT - 6, y + 4, str(tick), "cd-mute", "end"))
    for retry in RETRIES:
        x = place(retry, 1)[0]
        lines.append(text(x, BOTTOM + 18, str(retry), "cd-mute", "middle"))
    lines.append(text(2, 14, "pause in seconds", "cd-mute"))
    middle = (LEFT + RIGHT) / 2
    lines.append(text(middle, BOTTOM + 38, "retry", "cd-mute", "middle"))
    return lines


def band() -> List[str]:
    """Where the pauses lie with stagger_cooldown."""
    slow = pauses(factor=2.0 * (1 + STAGGER))
    outline = points(pauses()).split() + points(slow).split()[::-1]
    return [f'<polygon class="cd-band" points="{" ".join(outline)}"/>']


def line(curve: Curve) -> List[str]:
    """One curve, with a dot for each retry."""
    letter = curve.letter
    dash = " cd-dash" if curve.dashed else ""
    dots = [
        f'<circle class="cd-{letter}t" cx="{x}" cy="{y}" r="3"/>'
        for x, y in (place(n, s) for n, s in zip(RETRIES, curve.pauses))
    ]
    return [
        (
            f'<polyline class="cd-line cd-{letter}{dash}" '
            f'points="{points(curve.pauses)}"/>'
        ),
        *dots,
    ]


def key() -> List[str]:
    """What the curves and the band are."""
    parts = []
    y = KEY_Y
    for curve in CURVES:
        dash = " cd-dash" if curve.dashed else ""
        parts.append(
            f'<line class="cd-line cd-{curve.letter}{dash}" x1="{KEY_X}" '
            f'x2="{KEY_X + 24}" y1="{y - 4}" y2="{y - 4}"/>'
        )
        label = f"cd-{curve.letter}t"
        parts.append(text(KEY_X + 32, y, curve.label, label))
        y += KEY_STEP
    parts.append(
        f'<rect class="cd-band" x="{KEY_X}" y="{y - 11}" width="24" '
        'height="12"/>'
    )
    label = f"up to stagger_cooldown = {STAGGER}"
    return [*parts, text(KEY_X + 32, y, label, "cd-at")]


def figure() -> str:
    """The whole figure."""
    parts = axes() + band()
    for curve in CURVES:
        parts += line(curve)
    parts += key()
    return "\n".join(
        [
            HEAD,
            '<title id="cd-title">Pauses between attempts</title>',
            DESCRIPTION,
            f"<style>{STYLE}</style>",
            *parts,
            "</svg>\n",
        ]
    )


def main() -> None:
    """Write the figure."""
    os.makedirs(os.path.dirname(FIGURE), exist_ok=True)
    with open(FIGURE, "w", encoding="utf-8") as file:
        file.write(figure())


if __name__ == "__main__":
    main()
