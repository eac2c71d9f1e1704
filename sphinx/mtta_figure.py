"""Draw the plot of the page on MTTA and MTTR, with the code of that page.

Usage: python sphinx/mtta_figure.py

The incidents come from the sandbox, which :func:`furnish` fills. It needs
pandas and matplotlib; another version of these draws other paths.
"""

import os
import re
import sys
import tempfile
import textwrap
from typing import Any, Dict, List

HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(HERE, "source", "cookbook", "mtta.rst")
FIGURE = os.path.join(HERE, "source", "figures", "mtta.svg")
sys.path[:0] = [os.path.dirname(HERE)]

# Minutes to the acknowledgement and to the resolution, on an average.
MINUTES = {"Web shop": (6, 48), "Payments": (4, 31), "Search": (2, 14)}


def furnish(box: Any) -> None:
    """Fill a sandbox with the analytics of three services, and no more."""
    box.clear()
    for number in range(60):
        spread = 60 * (0.5, 1, 1.5)[number % 3]
        for name, (to_ack, to_resolve) in MINUTES.items():
            box.add(
                "analytics/raw/incidents",
                created_at=f"2026-02-{number % 28 + 1:02}T12:00:00Z",
                service_name=name,
                urgency="high",
                seconds_to_first_ack=to_ack * spread,
                seconds_to_resolve=to_resolve * spread,
            )


def samples() -> List[str]:
    """The code of the page."""
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    blocks = re.findall(
        r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", page, re.MULTILINE
    )
    return list(map(textwrap.dedent, blocks))


def figure() -> str:
    """The plot as SVG, without the date and the version of its making."""
    import matplotlib

    import pdpyras
    from pdpyras_sandbox import Sandbox

    matplotlib.rcParams["svg.hashsalt"] = "mtta"
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as directory, Sandbox() as box:
        furnish(box)
        session = pdpyras.APISession("any-key")
        session.url = box.url
        names: Dict[str, Any] = {"session": session}
        os.chdir(directory)
        try:
            for code in samples():
                exec(code, names)
            with open("mtta.svg", encoding="utf-8") as file:
                svg = file.read()
        finally:
            os.chdir(before)
            session.close()
    svg = re.sub(r" *<metadata>.*?</metadata>\n", "", svg, flags=re.DOTALL)
    return re.sub(r" +$", "", svg, flags=re.MULTILINE)


def labels(svg: str) -> List[str]:
    """The texts of the plot, which are comments beside their outlines."""
    return re.findall(r"<!-- (.*?) -->", svg)


if __name__ == "__main__":
    with open(FIGURE, "w", encoding="utf-8") as file:
        file.write(figure())
