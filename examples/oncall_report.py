"""Write who is on call in the next days, as CSV.

The API key is read from ``PAGERDUTY_API_KEY``:

    python examples/oncall_report.py --days 14 > oncall.csv
"""

import argparse
import csv
import os
import sys
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Iterator, List, TextIO

import pdpyras

ERRORS = (pdpyras.PDClientError, pdpyras.URLError, ValueError)
COLUMNS = ["policy", "level", "schedule", "user", "email", "start", "end"]


def name_of(thing: Any) -> str:
    """The name of what a record refers to, which may be nothing."""
    return str(thing["summary"]) if thing else ""


def shifts(
    session: pdpyras.APISession, days: float, policy_ids: List[str]
) -> Iterator[Dict[str, Any]]:
    """A row for each time that somebody is on call."""
    now = datetime.now(timezone.utc).replace(microsecond=0)
    params: Dict[str, Any] = {
        "since": now,
        "until": now + timedelta(days=days),
        "include": ["users"],  # whole users, instead of mere references
    }
    if policy_ids:
        params["escalation_policy_ids"] = policy_ids
    for oncall in session.iter_all("oncalls", params=params):
        yield {
            "policy": name_of(oncall["escalation_policy"]),
            "level": oncall["escalation_level"],
            "schedule": name_of(oncall["schedule"]),
            "user": name_of(oncall["user"]),
            "email": oncall["user"].get("email", ""),
            "start": oncall["start"] or "always",
            "end": oncall["end"] or "always",
        }


def write_report(rows: Iterator[Dict[str, Any]], file: TextIO) -> None:
    """Write the rows, in the order in which people are called."""
    # All rows first: where one cannot be had there is no report at all.
    ordered = sorted(rows, key=lambda row: (row["policy"], row["level"]))
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)


def main() -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(
        description="Write who is on call in the next days, as CSV.",
        epilog="The API key is read from PAGERDUTY_API_KEY.",
    )
    parser.add_argument("--days", type=float, default=7)
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="ID",
        help="only this escalation policy; may be repeated",
    )
    parser.add_argument("--url", help="base URL, for other service regions")
    options = parser.parse_args()
    try:
        session = pdpyras.APISession(os.environ.get("PAGERDUTY_API_KEY", ""))
        session.url = options.url or session.url
        rows = shifts(session, options.days, options.policy)
        write_report(rows, sys.stdout)
    except ERRORS as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
