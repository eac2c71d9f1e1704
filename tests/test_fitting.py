"""Events that the API would refuse for their size: made to fit, never mute.

A summary over 1024 characters or an event over 512 KB (512 000 bytes, in
the smaller reading) is answered 400, and
nobody is paged. The limits are checked where they count: on the bytes that
arrive at the server.
"""

import copy
import json
import time
import unicodedata
import warnings
from datetime import datetime, timezone
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pdpyras
from tests import wire
from tests.support import KEY, examples, told

pytestmark = pytest.mark.oldest

SUMMARY_LIMIT = 1024  # characters
EVENT_LIMIT = 512000  # bytes
ELLIPSIS = "\u2026"
SUMMARY, SOURCE = "Disk is full", "db1.example.com"

quick = settings(deadline=None, database=None, derandomize=True)


class Refusing:
    """The Events API, as far as it measures."""

    def __call__(self, request):
        event = request.json
        is_large = len(request.body) > EVENT_LIMIT
        if is_large or len(event["payload"]["summary"]) > SUMMARY_LIMIT:
            return wire.Answer(400, json={"status": "invalid event"})
        return wire.Answer(
            202, json={"status": "success", "dedup_key": "made-by-api"}
        )


@pytest.fixture(autouse=True)
def api(server):
    """The server refuses what the API refuses."""
    server.handler = Refusing()


def via_trigger(request, **payload):
    session = request.getfixturevalue("events")
    session.trigger(payload.pop("summary", SUMMARY), SOURCE, **payload)


def via_send_event(request, **payload):
    session = request.getfixturevalue("events")
    whole = {"summary": SUMMARY, "source": SOURCE, "severity": "info"}
    session.send_event("trigger", payload=dict(whole, **payload))


def via_submit(request, **payload):
    session = request.getfixturevalue("changes")
    session.submit(payload.pop("summary", SUMMARY), SOURCE, **payload)


def via_send_change_event(request, **payload):
    session = request.getfixturevalue("changes")
    session.send_change_event(payload=dict({"summary": SUMMARY}, **payload))


WAYS = [via_trigger, via_send_event, via_submit, via_send_change_event]


def shortened(*parts, times=1):
    """What runs within shortens an event, and says so."""
    start = "The event is shortened: "
    return told(pdpyras.PDWarning, start, *parts, times=times)


every_way = pytest.mark.parametrize("send", WAYS)


def arrived(server):
    """The payload of the only request, which was within the limit."""
    (request,) = server.requests
    assert len(request.body) <= EVENT_LIMIT
    return request.json["payload"]


# ---------------------------------------------------------------------------
# The summary
# ---------------------------------------------------------------------------


@every_way
def test_a_long_summary_is_cut_visibly(send, request, server):
    with shortened("1025", "1024"):
        send(request, summary="x" * 1025)
    assert arrived(server)["summary"] == "x" * 1023 + ELLIPSIS


@every_way
@pytest.mark.parametrize("length", [1, 2, 1023, 1024])
def test_a_summary_that_fits_is_left_alone(length, send, request, server):
    summary = "\u00fc" * length
    send(request, summary=summary)
    assert arrived(server)["summary"] == summary


def test_the_rest_of_the_event_is_left_alone(events, server):
    details = {"a": [1, {"b": "c"}], "d": None}
    before = copy.deepcopy(details)
    with shortened("5000"):
        events.trigger("x" * 5000, SOURCE, "k", custom_details=details)
    (request,) = server.requests
    assert details == before
    assert request.json == {
        "routing_key": KEY,
        "event_action": "trigger",
        "dedup_key": "k",
        "payload": {
            "summary": "x" * 1023 + ELLIPSIS,
            "source": SOURCE,
            "severity": "critical",
            "custom_details": before,
        },
    }


#: Characters with marks, and one that JSON spells as two.
JOINED = {
    "combining mark": "e\u0301",
    "two marks": "a\u0323\u0302",
    "enclosing keycap": "1\ufe0f\u20e3",
    "vowel sign": "\u0915\u093e",
    "variation selector": "\u2764\ufe0f",
    "surrogates": "\ud83d\ude00",
}


@pytest.mark.parametrize("name", sorted(JOINED))
def test_no_character_is_broken_in_two(name, events, server):
    character = JOINED[name]
    for before in range(len(character) + 1):
        lead = "x" * (SUMMARY_LIMIT - 1 - before)
        with shortened("summary"):
            events.trigger(lead + character * 600, SOURCE)
        summary = server.requests.pop().json["payload"]["summary"]
        assert len(summary) <= SUMMARY_LIMIT
        # What arrives is decoded: two surrogates have become one character.
        whole = character.encode("utf-16", "surrogatepass").decode("utf-16")
        kept = summary[len(lead) : -1]
        assert summary == lead + whole * (len(kept) // len(whole)) + ELLIPSIS
        assert len(kept) > before - len(character)


@pytest.mark.parametrize("name", sorted(JOINED))
def test_no_character_of_the_details_is_broken_either(name, events, server):
    character = JOINED[name]
    whole = character.encode("utf-16", "surrogatepass").decode("utf-16")
    size = len(json.dumps(character)) - 2
    for shift in range(0, size, max(1, size // 12)):
        details = {"text": "x" * shift + character * (700000 // size)}
        with shortened("custom_details"):
            events.trigger(SUMMARY, SOURCE, custom_details=details)
        text = arrived(server)["custom_details"]["text"]
        kept = text[shift : text.index(ELLIPSIS)]
        assert_same(kept, whole * (len(kept) // len(whole)))
        del server.requests[:]


def test_a_text_of_nothing_but_marks_is_cut_all_the_same(events, server):
    with shortened("5001"):
        events.trigger("e" + "\u0301" * 5000, SOURCE)
    assert 0 < len(arrived(server)["summary"]) <= SUMMARY_LIMIT


def joined(text):
    """What JSON makes of it: halves of a character become one again."""
    return text.encode("utf-16", "surrogatepass").decode(
        "utf-16", "surrogatepass"
    )


def test_any_summary_is_cut_before_a_character_that_stands_by_itself(
    events, server, caplog
):
    @quick
    @given(
        st.text(
            st.one_of(
                st.characters(blacklist_categories=()),
                st.sampled_from(sorted(set("".join(JOINED.values())))),
            ),
            min_size=1,
            max_size=60,
        ),
        st.integers(0, 40),
    )
    @example("\ud83d\ude00", 0)
    @example("\ud83d\ude00", 1)
    @example("\ude00\ud83d", 0)
    def check(text, shift):
        summary = "x" * shift + text * (SUMMARY_LIMIT // len(text) + 1)
        del server.requests[:]
        is_long = len(summary) > SUMMARY_LIMIT
        with shortened(times=int(is_long)):
            events.trigger(summary, SOURCE)
        short = arrived(server)["summary"]
        if not is_long:
            assert short == joined(summary)
            return
        assert short[-1] == ELLIPSIS
        (end,) = [
            end
            for end in range(SUMMARY_LIMIT)
            if joined(summary[:end]) == short[:-1]
        ]
        assert end > 0
        is_joined = unicodedata.category(summary[end])[0] == "M"
        assert not is_joined or end > SUMMARY_LIMIT - 40
        halves = ("\ud800" <= summary[end - 1] <= "\udbff") and (
            "\udc00" <= summary[end] <= "\udfff"
        )
        assert not halves

    check()


# ---------------------------------------------------------------------------
# The details
# ---------------------------------------------------------------------------


@every_way
def test_the_largest_details_give_way(send, request, server):
    details = {"host": "db1", "log": "l" * 600000, "n": [1, None, True]}
    before = copy.deepcopy(details)
    with shortened("custom_details", str(EVENT_LIMIT)):
        send(request, custom_details=details)
    found = arrived(server)["custom_details"]
    assert found["host"] == "db1" and found["n"] == [1, None, True]
    kept, _, marker = found["log"].partition(ELLIPSIS)
    missing = 600000 - len(kept)
    assert kept == "l" * len(kept)
    assert marker == f" [{missing} of 600000 characters cut]"
    assert_same(details, before)


@every_way
def test_as_much_is_kept_as_fits(send, request, server):
    with shortened():
        send(request, custom_details={"log": "l" * 600000})
    (sent,) = server.requests
    assert EVENT_LIMIT - 100 <= len(sent.body) <= EVENT_LIMIT


def test_an_event_up_to_the_limit_is_left_alone(events, server):
    events.trigger(SUMMARY, SOURCE, custom_details={"log": ""})
    room = EVENT_LIMIT - len(server.requests.pop().body)
    events.trigger(SUMMARY, SOURCE, custom_details={"log": "l" * room})
    assert len(server.requests[0].body) == EVENT_LIMIT
    assert arrived(server)["custom_details"] == {"log": "l" * room}
    del server.requests[:]
    details = {"log": "l" * (room + 1)}
    with shortened():
        events.trigger(SUMMARY, SOURCE, custom_details=details)
    assert "characters cut]" in arrived(server)["custom_details"]["log"]


def test_texts_are_measured_as_they_are_sent(events, server):
    """Six bytes a letter, for JSON is sent in ASCII."""
    details = {"log": "\u00fc" * 100000}
    with shortened():
        events.trigger(SUMMARY, SOURCE, custom_details=details)
    text = arrived(server)["custom_details"]["log"]
    assert 85000 < text.count("\u00fc") < 85400


def test_of_several_large_details_each_keeps_the_same(events, server):
    details = {name: name * 300000 for name in "abc"}
    details["small"] = "s" * 1000
    with shortened():
        events.trigger(SUMMARY, SOURCE, custom_details=details)
    found = arrived(server)["custom_details"]
    assert found["small"] == "s" * 1000
    sizes = {found[name].count(name) for name in "abc"}
    assert max(sizes) - min(sizes) <= 3 and min(sizes) > 170000


def test_large_details_are_found_at_any_depth(events, server):
    details = {"a": [{"b": ("l" * 600000, "short")}]}
    with shortened():
        events.trigger(SUMMARY, SOURCE, custom_details=details)
    (inner,) = arrived(server)["custom_details"]["a"]
    assert inner["b"][0].endswith("of 600000 characters cut]")
    assert inner["b"][1] == "short"


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "details",
    [
        {"numbers": list(range(200000))},
        {str(n): n for n in range(100000)},
        {"k" * 600000: 1},
        {str(n): "short" for n in range(60000)},
        {"a": [[]] * 300000},
        {"n": [{"k": "\u00fc" * 20}] * 9000},
    ],
    ids=["numbers", "keys", "one key", "texts", "brackets", "objects"],
)
@pytest.mark.once
def test_where_no_text_is_large_the_beginning_of_it_all_is_kept(
    details, events, server
):
    with shortened():
        events.trigger(SUMMARY, SOURCE, custom_details=details)
    found = arrived(server)["custom_details"]
    assert list(found) == ["custom_details"]
    text, _, marker = found["custom_details"].partition(ELLIPSIS)
    whole = json.dumps(details)
    is_beginning = whole.startswith(text)
    assert is_beginning and len(text) > 200000
    assert marker == (
        f" [{len(whole) - len(text)} of {len(whole)} characters cut]"
    )


@pytest.mark.parametrize("depth", [50, 500, 900])
def test_details_that_are_nested_deeply_are_cut_all_the_same(
    depth, events, server
):
    details = {"text": "y" * 600000}
    for _ in range(depth):
        details = {"a": details}
    with shortened():
        events.trigger(SUMMARY, SOURCE, custom_details=details)
    body = server.requests[-1].body
    assert len(body) <= EVENT_LIMIT and b"characters cut]" in body


def test_many_texts_take_no_longer_than_few(events, server):
    """The page must not wait: this took minutes if done naively."""
    details = {str(n): "x" * 40 for n in range(100000)}
    began = time.process_time()
    with shortened():
        events.trigger(SUMMARY, SOURCE, custom_details=details)
    assert time.process_time() - began < 8
    assert arrived(server)["custom_details"]


def test_summary_and_details_are_both_cut_and_both_said(events, server):
    details = {"log": "l" * 600000}
    with shortened(times=2) as texts:
        events.trigger("s" * 2000, SOURCE, custom_details=details)
    assert arrived(server)["summary"].endswith(ELLIPSIS)
    first, second = texts
    assert "summary" in first and "custom_details" in second


def test_no_warning_shows_the_key(events, caplog):
    caplog.set_level("DEBUG")
    events.log.setLevel("DEBUG")
    details = {"log": "l" * 600000}
    with shortened(times=2) as texts:
        events.trigger("s" * 2000, SOURCE, custom_details=details)
    assert KEY not in "".join(texts)
    assert texts[0] in caplog.text and KEY not in caplog.text


@pytest.mark.parametrize(
    "properties",
    [
        {"links": [{"href": "https://example.com/" + "x" * 600000}]},
        {"payload": {"component": "c" * 600000}},
        {"client": "c" * 600000, "custom_details": {"log": "l" * 600000}},
    ],
    ids=["links", "component", "client"],
)
def test_what_is_large_beside_the_details_is_cut_as_well(
    properties, events, server
):
    """Else nobody would be paged."""
    with pytest.warns(pdpyras.PDWarning, match="links and images"):
        events.trigger(SUMMARY, SOURCE, **properties)
    (request,) = server.requests
    assert len(request.body) <= 512000
    assert request.json["payload"]["summary"] == SUMMARY
    assert request.json["payload"]["source"] == SOURCE
    assert "links" not in request.json
    events.strict_events = True
    with pytest.raises(pdpyras.PDInputError, match="strict_events"):
        events.trigger(SUMMARY, SOURCE, **properties)
    assert len(server.requests) == 1


def test_what_cannot_be_shortened_is_an_error(events, server):
    with pytest.raises(pdpyras.PDInputError, match="512000"):
        events.trigger(
            SUMMARY, SOURCE, payload={"component": list(range(200000))}
        )
    assert server.requests == []


class Long(NamedTuple):
    """A long text, written briefly."""

    text: str
    times: int


def written_out(value):
    if isinstance(value, Long):
        return value.text * value.times
    if isinstance(value, dict):
        return {key: written_out(item) for key, item in value.items()}
    if isinstance(value, list):
        return [written_out(item) for item in value]
    return value


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=30),
        st.builds(
            Long, st.text(min_size=1, max_size=5), st.integers(0, 120000)
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=10), inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(quick, max_examples=examples(60))
@given(
    st.dictionaries(st.text(max_size=10), values, max_size=5),
    st.text(min_size=1, max_size=5),
    st.integers(1, 600),
)
@example({"a": Long("\x00", 200000), "b": Long("\\", 500000)}, "x", 1)
@example({"a": Long("\U0001f600", 10**5), '"': Long("\ud83d", 10**5)}, "x", 9)
def test_no_event_is_ever_over_the_limit(details, summary, times):
    details, summary = written_out(details), summary * times
    before = copy.deepcopy(details)
    with EVENTS.session() as (events, server), warnings.catch_warnings():
        warnings.simplefilter("ignore", pdpyras.PDWarning)
        events.trigger(summary, SOURCE, custom_details=details)
        (request,) = server.requests
    assert_same(details, before)
    assert len(request.body) <= EVENT_LIMIT
    payload = request.json["payload"]
    assert len(payload["summary"]) <= SUMMARY_LIMIT
    whole = json.loads(json.dumps(details))
    size = len(json.dumps(dict(payload, custom_details=whole)))
    if size < EVENT_LIMIT - 200:
        assert_same(payload["custom_details"], whole)
    elif payload["custom_details"] != whole:
        assert payload["custom_details"]
        assert json.dumps(payload).count("characters cut]") >= 1


def assert_same(one, other):
    """As assert, but without printing half a megabyte."""
    is_same = one == other
    assert is_same


class _Shared:
    """One server for all the examples of a property."""

    server = None

    def session(self):
        return self

    def __enter__(self):
        self.server.requests.clear()
        self.events = pdpyras.EventsAPISession(KEY)
        self.events.url = self.server.url
        return self.events, self.server

    def __exit__(self, *exc_info):
        self.events.close()


EVENTS = _Shared()


@pytest.fixture(autouse=True, scope="module")
def shared_server():
    with wire.Server() as server:
        server.handler = Refusing()
        EVENTS.server = server
        yield
    EVENTS.server = None


# ---------------------------------------------------------------------------
# Strictly
# ---------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize(
    "payload",
    [
        {"summary": "x" * 1025},
        {"custom_details": {"log": "l" * 600000}},
        {"summary": "x" * 1025, "custom_details": {"log": "l" * 600000}},
    ],
    ids=["summary", "details", "both"],
)
def test_with_strict_events_a_large_event_is_an_error(
    payload, send, request, server
):
    for name in ("events", "changes"):
        request.getfixturevalue(name).strict_events = True
    with pytest.raises(pdpyras.PDInputError) as caught:
        send(request, **payload)
    assert "strict_events" in str(caught.value)
    assert "The API would refuse" in str(caught.value)
    assert KEY not in str(caught.value)
    for word in payload:
        assert word in str(caught.value)
    assert server.requests == []


def test_with_strict_events_what_fits_is_sent(events, server):
    events.strict_events = True
    events.trigger("x" * 1024, SOURCE)
    assert arrived(server)["summary"] == "x" * 1024


def test_strict_events_is_off_by_default():
    assert pdpyras.EventsAPISession(KEY).strict_events is False
    assert pdpyras.ChangeEventsAPISession(KEY).strict_events is False


# ---------------------------------------------------------------------------
# The identity of an alert
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("action", ["trigger", "acknowledge", "resolve"])
def test_a_long_dedup_key_is_never_cut(action, strict, events, server):
    events.strict_events = strict
    with pytest.raises(pdpyras.PDInputError) as caught:
        events.send_event(action, dedup_key="k" * 256)
    assert "256" in str(caught.value) and "255" in str(caught.value)
    assert server.requests == []


def test_the_longest_dedup_key(events, server):
    key = "\u00fc" * 255
    events.trigger(SUMMARY, SOURCE, dedup_key=key)
    assert server.requests[0].json["dedup_key"] == key


# ---------------------------------------------------------------------------
# What else an alert may say
# ---------------------------------------------------------------------------


def test_the_further_arguments_of_trigger(events, server):
    events.trigger(
        SUMMARY,
        SOURCE,
        component="disk",
        group="storage",
        class_="capacity",
        client="Disk watch",
        client_url="https://example.com/watch",
        timestamp="2024-05-01T12:00:00Z",
    )
    (request,) = server.requests
    assert request.json == {
        "routing_key": KEY,
        "event_action": "trigger",
        "client": "Disk watch",
        "client_url": "https://example.com/watch",
        "payload": {
            "summary": SUMMARY,
            "source": SOURCE,
            "severity": "critical",
            "component": "disk",
            "group": "storage",
            "class": "capacity",
            "timestamp": "2024-05-01T12:00:00Z",
        },
    }


@pytest.mark.parametrize(
    "argument, place",
    [
        ("component", "component"),
        ("group", "group"),
        ("class_", "class"),
        ("timestamp", "timestamp"),
    ],
)
def test_each_goes_where_the_api_wants_it(argument, place, events, server):
    events.trigger(SUMMARY, SOURCE, **{argument: "a text"})
    assert arrived(server)[place] == "a text"
    events.trigger(SUMMARY, SOURCE)
    assert place not in server.requests[1].json["payload"]


@pytest.mark.parametrize("argument", ["client", "client_url"])
def test_the_client_is_not_in_the_payload(argument, events, server):
    events.trigger(SUMMARY, SOURCE, **{argument: "a text"})
    assert server.requests[0].json[argument] == "a text"
    assert argument not in arrived(server)


def test_a_point_in_time_is_spelled_out(events, changes, server):
    moment = datetime(2024, 5, 1, 12, 30, tzinfo=timezone.utc)
    events.trigger(SUMMARY, SOURCE, timestamp=moment)
    changes.submit(SUMMARY, timestamp=moment)
    times = [r.json["payload"]["timestamp"] for r in server.requests]
    assert times == ["2024-05-01T12:30:00+00:00"] * 2


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="no time zones here")
def test_a_timestamp_without_a_zone_is_local_time(
    events, changes, server, monkeypatch
):
    monkeypatch.setenv("TZ", "XYZ-3")
    time.tzset()
    try:
        events.trigger(SUMMARY, SOURCE, timestamp=datetime(2024, 5, 1, 12))
        changes.submit(SUMMARY, timestamp=datetime(2024, 5, 1, 12))
    finally:
        monkeypatch.undo()
        time.tzset()
    times = [r.json["payload"]["timestamp"] for r in server.requests]
    assert times == ["2024-05-01T12:00:00+03:00"] * 2


def test_the_payload_wins_over_the_arguments(events, server):
    payload = {"component": "from the payload", "class": "from it too"}
    events.trigger(SUMMARY, SOURCE, payload=payload, component="c", class_="c")
    found = arrived(server)
    assert found["component"] == "from the payload"
    assert found["class"] == "from it too"


# ---------------------------------------------------------------------------
# Change events
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("send", [via_submit, via_send_change_event])
def test_change_events_hold_the_routing_key(send, request, server):
    send(request)
    (sent,) = server.requests
    assert sent.json["routing_key"] == KEY
    assert sent.target == "/v2/change/enqueue"


def test_change_events_by_plain_post_hold_it_too(changes, server):
    body = {"payload": {"summary": SUMMARY}}
    changes.post("/v2/change/enqueue", json=body)
    assert server.requests[0].json["routing_key"] == KEY
    assert body == {"payload": {"summary": SUMMARY}}


def test_the_routing_key_counts_towards_the_limit(changes, server):
    """At the limit, what is added last must not push it over."""
    for extra in range(-120, 20, 7):
        details = {"t": "l" * (511842 + extra)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pdpyras.PDWarning)
            changes.submit("s", custom_details=details)
        assert len(server.requests.pop().body) <= EVENT_LIMIT
