"""Trigger an alert when a disk is almost full; resolve it when it is not.

For a scheduler such as cron. The routing key of the service's integration is
read from ``PAGERDUTY_ROUTING_KEY``:

    python examples/watch_disk.py --limit 90 /var
"""

import argparse
import os
import shutil
import socket
import sys

import pdpyras

ERRORS = (pdpyras.PDClientError, pdpyras.URLError, ValueError, OSError)


def percent_used(path: str) -> float:
    """How full the disk is that holds this path, in percent."""
    usage = shutil.disk_usage(path)
    return 100 * usage.used / (usage.used + usage.free)


def report(session: pdpyras.EventsAPISession, path: str, limit: float) -> str:
    """Trigger or resolve; return what was done, in words.

    The same disk has the same deduplication key each time, so that there is
    one alert of it, however often this runs. To resolve what was never
    triggered does no harm.
    """
    host = socket.gethostname()
    used = percent_used(path)
    summary = f"{path} on {host} is {used:.0f} % full"
    dedup_key = f"watch_disk {host}:{path}"
    if used < limit:
        session.resolve(dedup_key)
        return f"resolved: {summary}"
    session.trigger(
        summary,
        host,
        dedup_key=dedup_key,
        severity="warning" if used < (limit + 100) / 2 else "critical",
        custom_details={"path": path, "percent": used, "limit": limit},
    )
    return f"triggered: {summary}"


def main() -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(
        description="Trigger an alert when a disk is almost full.",
        epilog="The routing key is read from PAGERDUTY_ROUTING_KEY.",
    )
    parser.add_argument("path", nargs="?", default="/")
    parser.add_argument("--limit", type=float, default=90, metavar="PERCENT")
    parser.add_argument("--url", help="base URL, for other service regions")
    options = parser.parse_args()
    try:
        session = pdpyras.EventsAPISession(
            os.environ.get("PAGERDUTY_ROUTING_KEY", "")
        )
        session.url = options.url or session.url
        print(report(session, options.path, options.limit))
    except ERRORS as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
