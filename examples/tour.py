"""A day's work with PagerDuty, step by step, through the public API only.

Without arguments, against a sandbox of its own: no account, no key, nothing
to clean up. Each step says what it does, does it, and checks the outcome;
the exit status is 0 only if all of them are what they say.

    python examples/tour.py

With ``--live``, the steps that only read, against the account whose key is
in ``PAGERDUTY_API_KEY``; outside the US service region with its URL, too:

    python examples/tour.py --live --url https://api.eu.pagerduty.com
"""

import argparse
import contextlib
import itertools
import logging
import os
import sys
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pdpyras
from pdpyras_sandbox import Sandbox
from pdpyras_webhooks import Seen, receiver

USERS = 1000
LOG_ENTRIES = 12000  # more than the API gives of one query
WEBHOOK_SECRET = "a-secret-of-the-tour"
NOBODY = "/users/PNOBODY"


class Desk(NamedTuple):
    """What the steps work with."""

    api: pdpyras.APISession
    events: pdpyras.EventsAPISession
    changes: pdpyras.ChangeEventsAPISession
    box: Sandbox  # that serves, unless the real API does


#: A step yields a line for each thing that it has done. The first line of
#: its docstring is its heading.
Step = Callable[[Desk], Iterator[str]]


class SurpriseError(Exception):
    """The outcome of a step is not what the step says."""


ERRORS = (SurpriseError, pdpyras.PDClientError, pdpyras.URLError, ValueError)


def expect(what: str, wanted: Any, actual: Any) -> None:
    """Check an outcome."""
    if actual != wanted:
        raise SurpriseError(f"{what}: expected {wanted!r}, got {actual!r}")


# -- Setting up ------------------------------------------------------------


def set_up_services(desk: Desk) -> Iterator[str]:
    """Create an escalation policy, and two services that use it."""
    on_call = desk.api.rget("/users/me")
    policy = desk.api.rpost(
        "escalation_policies",
        json={
            "type": "escalation_policy",
            "name": "The tour's night shift",
            "escalation_rules": [
                {
                    "escalation_delay_in_minutes": 15,
                    "targets": [
                        {"id": on_call["id"], "type": "user_reference"}
                    ],
                }
            ],
        },
    )
    yield f"policy {policy['name']!r}: {on_call['name']} is called"
    for name in ("Tour: shop", "Tour: mail"):
        service = desk.api.rpost(
            "services",
            json={
                "type": "service",
                "name": name,
                "escalation_policy": {
                    "id": policy["id"],
                    "type": "escalation_policy_reference",
                },
            },
        )
        # A resource, with its URL at "self", may stand for that URL.
        found = desk.api.rget(service)
        expect("the name", name, found["name"])
        expect("the policy", policy["id"], found["escalation_policy"]["id"])
        yield f"service {found['name']!r} has the id {found['id']}"


# -- Users -----------------------------------------------------------------


def iterate_over_users(desk: Desk) -> Iterator[str]:
    """Iterate over all users, a page at a time."""
    ids, totals = [], set()

    def show_progress(user: Any, number: int, total: Any) -> None:
        totals.add(total)
        if number % 250 == 0 or number == total:
            print(f"   {number} of {total}", flush=True)

    for user in desk.api.iter_all(
        "users", total=True, item_hook=show_progress
    ):
        ids.append(user["id"])
    expect("different ids", len(ids), len(set(ids)))
    if len(ids) < pdpyras.ITERATION_LIMIT:  # it gives no more than these
        expect("users, of which the API told the number", totals, {len(ids)})
    yield f"{len(ids)} users have come"


def make_a_dictionary_of_users(desk: Desk) -> Iterator[str]:
    """Make a dictionary of them, by e-mail address."""
    before = desk.api.total_call_count
    users = desk.api.dict_all("users", by="email", page_size=100)
    requests = desk.api.total_call_count - before
    expect("e-mail addresses", USERS, len(users))
    expect("requests", USERS // 100, requests)
    yield f"{len(users)} different addresses came with {requests} requests"


def find_a_user(desk: Desk) -> Iterator[str]:
    """Find one user by e-mail address."""
    someone = list(itertools.islice(desk.api.iter_all("users"), 50))[-1]
    found = desk.api.find("users", someone["email"], attribute="email")
    expect("the user", someone["id"], found and found["id"])
    yield f"{someone['email']} is {someone['name']}"
    missing = desk.api.find("users", "nobody@tour.invalid", attribute="email")
    expect("a user who does not exist", None, missing)
    yield "nobody@tour.invalid is nobody"


def persist_a_user(desk: Desk) -> Iterator[str]:
    """Make sure, three times, that a user is as wanted."""
    ada = {
        "type": "user",
        "name": "Ada Night",
        "email": "ada.night@example.com",
        "job_title": "Operator",
    }

    def writes() -> List[int]:
        counts = desk.api.api_call_counts
        names = ("POST /users", "PUT /users/{id}")
        return [counts.get(name, 0) for name in names]

    created = desk.api.persist("users", "email", ada)
    expect("writes after the first time", [1, 0], writes())
    yield f"created: {created['name']}, {created['job_title']}"
    same = desk.api.persist("users", "email", ada, update=True)
    expect("writes after the second time", [1, 0], writes())
    expect("the id", created["id"], same["id"])
    yield "unchanged: nothing was sent but the question"
    ada["job_title"] = "Head of operations"
    desk.api.persist("users", "email", ada, update=True)
    expect("writes after the third time", [1, 1], writes())
    updated = desk.api.rget(created)
    expect("the job title", ada["job_title"], updated["job_title"])
    yield f"updated: {updated['name']}, {updated['job_title']}"


# -- Incidents and alerts --------------------------------------------------


def acknowledge_incidents(desk: Desk) -> Iterator[str]:
    """Acknowledge the incidents of one service in one request."""
    services = desk.api.dict_all("services", by="name")
    shop, mail = services["Tour: shop"], services["Tour: mail"]
    for service in (shop, shop, shop, mail):
        desk.api.rpost(
            "incidents",
            json={
                "type": "incident",
                "title": f"Nobody can use {service['name']}",
                "service": {"id": service["id"], "type": "service_reference"},
            },
        )
    # Lists become "statuses[]=...&service_ids[]=..." on the way.
    triggered = {"statuses": ["triggered"], "service_ids": [shop["id"]]}
    incidents = desk.api.list_all("incidents", params=triggered)
    expect("triggered incidents of the shop", 3, len(incidents))
    yield f"{len(incidents)} incidents of {shop['name']!r} are triggered"
    desk.api.rput(
        "incidents",
        json=[
            {"id": i["id"], "type": "incident", "status": "acknowledged"}
            for i in incidents
        ],
    )
    expect("multi-updates", 1, desk.api.api_call_counts.get("PUT /incidents"))
    left = desk.api.list_all("incidents", params=triggered)
    expect("triggered incidents after that", [], left)
    acknowledged = desk.api.list_all(
        "incidents", params={"statuses": ["acknowledged"]}
    )
    expect(
        "acknowledged incidents",
        {i["id"]: "acknowledged" for i in incidents},
        {i["id"]: i["status"] for i in acknowledged},
    )
    yield f"{len(acknowledged)} are acknowledged; the others were left alone"


def live_through_an_alert(desk: Desk) -> Iterator[str]:
    """Trigger an alert, acknowledge it, resolve it."""

    def statuses(dedup_key: str) -> List[str]:
        incidents = desk.api.iter_all(
            "incidents", params={"incident_key": dedup_key}
        )
        return [incident["status"] for incident in incidents]

    dedup_key = desk.events.trigger(
        "Server is on fire",
        "dusty.old.server.net",
        custom_details={"degrees Celsius": 233},
    )
    expect("incidents", ["triggered"], statuses(dedup_key))
    yield f"triggered, with the deduplication key {dedup_key}"
    desk.events.trigger(
        "Server is on fire", "dusty.old.server.net", dedup_key=dedup_key
    )
    expect("incidents", ["triggered"], statuses(dedup_key))
    yield "triggered again: it is the same incident"
    desk.events.acknowledge(dedup_key)
    expect("incidents", ["acknowledged"], statuses(dedup_key))
    yield "acknowledged"
    desk.events.resolve(dedup_key)
    expect("incidents", ["resolved"], statuses(dedup_key))
    yield "resolved"


def submit_a_change(desk: Desk) -> Iterator[str]:
    """Tell of a change, in case somebody wonders what has changed."""
    summary = "The tour has begun to use the new build"
    desk.changes.submit(summary, source="tour.py")
    recent = [
        change["summary"] for change in desk.api.iter_all("change_events")
    ]
    expect("change events", [summary], recent)
    yield f"recent changes: {recent[0]!r}"


def look_at_open_incidents(desk: Desk) -> Iterator[str]:
    """Look at the incidents that are open."""
    wanted = ["triggered", "acknowledged"]
    incidents = itertools.islice(
        desk.api.iter_all("incidents", params={"statuses": wanted}), 100
    )
    count = 0
    for incident in incidents:
        if incident["status"] not in wanted:
            expect("the status", " or ".join(wanted), incident["status"])
        count += 1
        if count <= 3:
            yield f"{incident['status']}: {incident['summary']}"
    yield f"{count} are open" if count < 100 else "100 or more are open"


# -- When things go wrong --------------------------------------------------


def survive_a_rate_limit(desk: Desk) -> Iterator[str]:
    """Survive a rate limit."""
    desk.box.fail(429, reset=1)
    received, start = len(desk.box.requests), time.monotonic()
    user = desk.api.rget("/users/me")
    seconds = time.monotonic() - start
    expect("requests", 2, len(desk.box.requests) - received)
    expect("waiting as long as the API asked for", True, seconds >= 1)
    yield "the API said: 429, too many requests, 1 second to wait"
    yield f"the client waited {seconds:.1f} s, asked again, got {user['name']}"


def survive_a_dropped_connection(desk: Desk) -> Iterator[str]:
    """Survive a connection that breaks in the middle of an answer."""
    desk.box.drop()
    received = len(desk.box.requests)
    user = desk.api.rget("/users/me")
    expect("requests", 2, len(desk.box.requests) - received)
    yield "the connection broke, half of the answer was there"
    yield f"the client asked again, and got {user['name']}"


# -- What goes further -----------------------------------------------------


def read_a_history(desk: Desk) -> Iterator[str]:
    """Read a day of log entries, of which there are more than 10 000."""
    midnight = datetime(2026, 1, 1, tzinfo=timezone.utc)
    pause = timedelta(days=1) / LOG_ENTRIES
    moments = [midnight + number * pause for number in range(LOG_ENTRIES)]
    desk.box.add(
        "log_entries", ({"created_at": m.isoformat()} for m in moments)
    )
    day = (midnight, midnight + timedelta(days=1))
    windows = desk.api.plan_history("log_entries", *day)
    yield f"{len(windows)} periods have at most 10 000 log entries each"
    entries = list(desk.api.iter_history("log_entries", *day, prefetch=4))
    expect("log entries", LOG_ENTRIES, len({entry["id"] for entry in entries}))
    times = [entry["created_at"] for entry in entries]
    expect("the oldest come first", sorted(times), times)
    yield f"{len(entries)} log entries have come, each once, in order"


def guard_a_job(desk: Desk) -> Iterator[str]:
    """Run a job that pages if it fails."""

    def alerts() -> List[str]:
        incidents = desk.api.iter_all("incidents")
        return [i["status"] for i in incidents if "backup" in i["title"]]

    @desk.events.guard("The backup failed", "tour.py")
    def back_up(is_disk_full: bool) -> None:
        if is_disk_full:
            raise OSError("No space left on device")

    try:
        back_up(True)
    except OSError as error:
        yield f"the job raised as ever: {error}"
    expect("its alert", ["triggered"], alerts())
    yield "and somebody was paged"
    back_up(False)
    expect("its alert", ["resolved"], alerts())
    yield "it ran again, and the alert was resolved"


def outlive_an_outage(desk: Desk) -> Iterator[str]:
    """Trigger an alert while PagerDuty is out of reach."""
    with tempfile.TemporaryDirectory() as directory:
        events = pdpyras.EventsAPISession(
            "a-routing-key-of-the-sandbox",
            url=desk.box.url,
            outbox=os.path.join(directory, "alerts.db"),
        )
        desk.box.fail(503, path="/v2/enqueue")
        key = events.trigger("The shop is closed", "tour.py", deadline=1)
        expect("alerts that wait", 1, len(events.outbox))
        yield "the API said: 503; the alert waits in a file"
        # This may be another process, or the same one after a restart.
        report = events.outbox.flush(events, deadline=10)
        expect("alerts that were delivered", 1, report.delivered)
        found = desk.api.list_all("incidents", params={"incident_key": key})
        expect("its incidents", 1, len(found))
        yield "it was delivered when the API was back, once"
        events.close()


class QuietHandler(WSGIRequestHandler):
    """Does not log each request to stderr."""

    def log_message(self, *args: Any) -> None:
        """Write nothing."""


@contextlib.contextmanager
def served(application: Any) -> Iterator[str]:
    """Serve a WSGI application meanwhile; yields its URL."""
    with make_server(
        "127.0.0.1", 0, application, handler_class=QuietHandler
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def receive_webhooks(desk: Desk) -> Iterator[str]:
    """Be told of what happens, by signed webhooks."""
    told: List[str] = []

    def handle(event: Dict[str, Any]) -> None:
        told.append(event["event_type"])

    with served(receiver(handle, WEBHOOK_SECRET, Seen())) as url:
        webhook = desk.box.webhook(url, WEBHOOK_SECRET, twice=True)
        key = desk.events.trigger("The mail is late", "tour.py")
        desk.events.resolve(key)
        expect("an end of the deliveries", True, webhook.wait(10))
    wanted = ["incident.triggered", "incident.resolved"]
    expect("the events", wanted, told)
    yield f"{', '.join(told)}: delivered twice, handled once"


def handle_a_404(desk: Desk) -> Iterator[str]:
    """Ask for a user who does not exist."""
    try:
        user = desk.api.rget(NOBODY)
    except pdpyras.PDClientError as error:
        if error.response:
            if error.response.status_code == 404:
                yield f"{NOBODY}: user not found"
            else:
                raise
        else:
            raise SurpriseError("The API cannot be reached.") from error
    else:
        raise SurpriseError(f"{NOBODY} exists: {user!r}")


def show_call_counts(desk: Desk) -> Iterator[str]:
    """Look at what all this has cost."""
    for endpoint, count in sorted(desk.api.api_call_counts.items()):
        seconds = desk.api.api_time[endpoint]
        yield f"{count:4} x {endpoint:28} {seconds:6.2f} s"
    total = desk.api.total_call_count
    expect("counted", sum(desk.api.api_call_counts.values()), total)
    yield f"{total:4} answers in {desk.api.total_call_time:.2f} s"


def compare_with_what_was_received(desk: Desk) -> Iterator[str]:
    """Compare with what the sandbox has received."""
    received = sum(
        not request.path.endswith("/enqueue") for request in desk.box.requests
    )
    # The connection that broke has brought a request, but no answer.
    expect("answers", received - 1, desk.api.total_call_count)
    yield f"{received} requests, of which one got half an answer"


READING: List[Step] = [
    iterate_over_users,
    find_a_user,
    look_at_open_incidents,
    handle_a_404,
    show_call_counts,
]
WHOLE_DAY: List[Step] = [
    set_up_services,
    iterate_over_users,
    make_a_dictionary_of_users,
    find_a_user,
    persist_a_user,
    acknowledge_incidents,
    look_at_open_incidents,
    live_through_an_alert,
    submit_a_change,
    survive_a_rate_limit,
    survive_a_dropped_connection,
    read_a_history,
    guard_a_job,
    outlive_an_outage,
    receive_webhooks,
    handle_a_404,
    show_call_counts,
    compare_with_what_was_received,
]


# -- The program -----------------------------------------------------------


def take(steps: List[Step], desk: Desk) -> None:
    """Take the steps, and say so."""
    start = time.monotonic()
    for number, step in enumerate(steps, 1):
        print(f"{number}. {(step.__doc__ or '').splitlines()[0]}")
        for line in step(desk):
            print(f"   {line}", flush=True)
    seconds = time.monotonic() - start
    print(f"\nAll {len(steps)} steps went as they say, in {seconds:.1f} s.")


def open_desk(box: Sandbox, url: str, api_key: str) -> Desk:
    """Sessions for the API at this URL."""
    desk = Desk(
        pdpyras.APISession(api_key),
        pdpyras.EventsAPISession("a-routing-key-of-the-sandbox"),
        pdpyras.ChangeEventsAPISession("a-routing-key-of-the-sandbox"),
        box,
    )
    for session in (desk.api, desk.events, desk.changes):
        session.url = url
    return desk


def spend_a_day() -> None:
    """All steps, against a sandbox."""
    with Sandbox() as box:
        box.add("users", USERS)
        print(f"The sandbox, at {box.url}, has {USERS} users.\n")
        desk = open_desk(box, box.url, "any-key-is-good")
        desk.api.sleep_timer = 0.1  # seconds; the sandbox needs no rest
        take(WHOLE_DAY, desk)


def look_around(url: Optional[str]) -> None:
    """The steps that only read, against the real API."""
    api_key = os.environ.get("PAGERDUTY_API_KEY", "")
    if not api_key:
        raise SystemExit("Put your API key into PAGERDUTY_API_KEY.")
    url = url or pdpyras.APISession.url
    print(f"Nothing is changed at {url}.\n")
    take(READING, open_desk(Sandbox(), url, api_key))


def main() -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(
        description="A day's work with PagerDuty, against a sandbox."
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="read from the account of PAGERDUTY_API_KEY, change nothing",
    )
    parser.add_argument("--url", help="base URL of the API, with --live")
    options = parser.parse_args()
    if options.url and not options.live:
        parser.error("--url is for --live only")
    # What the sessions log: warnings, unless more is asked for.
    logging.basicConfig(format="   log: %(message)s", stream=sys.stdout)
    try:
        look_around(options.url) if options.live else spend_a_day()
    except ERRORS as error:
        print(f"   This step did not go as it says.\n   {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
