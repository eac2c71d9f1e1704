"""Rate limits: what is told, what is waited out, and by many threads at once.

Which header asks for which pause is in ``test_retry.py``. The last part runs
against the sandbox on a simulated clock: a minute of it passes when nobody
has anything to do before the next one.
"""

import copy
import datetime
import pickle
import threading
import time

import pytest

import pdpyras
from pdpyras_sandbox import Sandbox
from tests import wire
from tests.support import KEY

LIMITED = {"error": {"message": "Rate Limit Exceeded", "code": 2020}}


def limits(limit=960, remaining=900, reset=17):
    return {
        "ratelimit-limit": str(limit),
        "ratelimit-remaining": str(remaining),
        "ratelimit-reset": str(reset),
    }


THREADS = []


def begun(target, *args):
    """A running thread, which no failing test has to wait for."""
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    THREADS.append(thread)
    return thread


@pytest.fixture(autouse=True)
def all_end(server):
    """No thread outlives its test, nor the server that it talks to."""
    yield
    while THREADS:
        THREADS.pop().join(20)


def until(condition, seconds=20):
    """Wait for what other threads bring about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come about"
        threading.Event().wait(0.005)


# ---------------------------------------------------------------------------
# What the API reported
# ---------------------------------------------------------------------------


def test_before_the_first_report_no_rate_is_known(session, server):
    assert session.rate is None
    session.get("users")
    assert session.rate is None


def test_the_rate_is_as_last_reported(session, server):
    server.reply(headers=limits(960, 959, 17))
    session.get("users")
    assert session.rate == (960, 959, 17)
    rate = session.rate
    assert isinstance(rate, pdpyras.RateLimit)
    assert (rate.limit, rate.remaining, rate.reset) == (960, 959, 17)
    assert isinstance(rate.limit, int) and isinstance(rate.remaining, int)
    server.reply(404, headers=limits(960, 12, 3.5))
    session.get("users")
    assert session.rate == (960, 12, 3.5)
    server.reply()  # An answer that tells nothing changes nothing.
    session.get("users")
    assert session.rate == (960, 12, 3.5)


NEW_YEAR = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)

NAMED_TUPLES = [
    (pdpyras.RateLimit, ("limit", "remaining", "reset"), (960, 7, 1.5)),
    (
        pdpyras.HistoryWindow,
        ("url", "since", "until", "count", "params", "json"),
        ("/incidents", NEW_YEAR, NEW_YEAR, 7, [("urgency", "high")], {}),
    ),
]


@pytest.mark.parametrize("kind, names, values", NAMED_TUPLES)
def test_a_named_tuple_is_like_any_other(kind, names, values):
    made = kind(*values)
    assert isinstance(made, tuple) and made == values
    assert made == kind(**dict(zip(names, values)))
    assert made._fields == kind.__match_args__ == names
    assert [getattr(made, name) for name in names] == list(values)
    assert list(made._asdict().items()) == list(zip(names, values))
    assert eval(repr(made), dict(vars(pdpyras), datetime=datetime)) == made
    changed = made._replace(**{names[1]: None})
    assert type(changed) is kind
    assert changed == (values[0], None, *values[2:])
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(made, protocol))
        assert (type(again), again) == (kind, made)
    for again in (copy.copy(made), copy.deepcopy(made)):
        assert (type(again), again) == (kind, made)
    for wrong in (values[:-1], (*values, 1)):
        with pytest.raises(TypeError):
            kind(*wrong)
    with pytest.raises((TypeError, ValueError)):
        made._replace(unheard_of=1)
    with pytest.raises(AttributeError):
        setattr(made, names[0], 1)
    with pytest.raises(AttributeError):
        made.unheard_of = 1


def test_a_429_reports_the_rate_too(session, server, naps):
    server.reply(429, headers=limits(960, 0, 31))
    seen = []
    naps.during = lambda: seen.append(session.rate)
    session.get("users")
    assert seen == [(960, 0, 31)]


@pytest.mark.parametrize(
    "headers, expected",
    [
        ({"ratelimit-limit": "960"}, (960, None, None)),
        ({"ratelimit-remaining": "5"}, (None, 5, None)),
        ({"Ratelimit-Limit": "1", "RateLimit-Remaining": "0"}, (1, 0, None)),
        (limits("many", "-1", "soon"), (None, None, None)),
        (limits("inf", "nan", "1e999"), (None, None, None)),
        ({"ratelimit-reset": "9"}, None),
        ({"X-Other": "9"}, None),
    ],
    ids=repr,
)
def test_a_rate_reported_in_part_or_garbled(
    headers, expected, session, server
):
    server.reply(headers=headers)
    assert session.get("users").ok
    assert session.rate == expected


def test_each_session_has_a_rate_of_its_own(session, server):
    server.reply(headers=limits())
    session.get("users")
    with pdpyras.APISession(KEY) as other:
        assert other.rate is None
    assert pickle.loads(pickle.dumps(session)).rate is None


# ---------------------------------------------------------------------------
# How long is waited
# ---------------------------------------------------------------------------


def test_eight_times_a_ratelimit_reset_of_2_is_16_seconds(
    session, server, naps
):
    server.reply(429, headers=limits(960, 0, 2), times=8)
    assert session.get("users").ok
    assert naps == [2] * 8
    assert len(server.requests) == 9


def test_stagger_cooldown_lengthens_each_wait_a_little(session, server, naps):
    session.stagger_cooldown = 0.1
    server.reply(429, headers=limits(960, 0, 2), times=8)
    assert session.get("users").ok
    assert all(2 <= nap <= 2.2 for nap in naps)
    assert 16 < sum(naps) < 17.6


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
def test_a_429_is_waited_out_with_every_method(method, session, server, naps):
    server.reply(429, json=LIMITED, headers=limits(960, 0, 7), times=3)
    assert getattr(session, method)("users").status_code == 200
    assert naps == [7, 7, 7]
    assert [r.method for r in server.requests] == [method.upper()] * 4


def test_a_wait_beyond_max_rate_wait_is_an_error_at_once(
    session, server, naps
):
    session.max_rate_wait = 30
    server.reply(429, json=LIMITED, headers=limits(960, 0, 31))
    with pytest.raises(pdpyras.PDRateLimitError) as caught:
        session.get("users")
    error = caught.value
    assert isinstance(error, pdpyras.PDHTTPError)
    assert error.retry_after == 31
    assert error.status_code == 429 and error.code == 2020
    assert error.errors == ["Rate Limit Exceeded"]
    assert naps == [] and len(server.requests) == 1
    for word in ("31 s", "max_rate_wait", "30 s", "GET", "Limit Exceeded"):
        assert word in str(error)


def test_up_to_max_rate_wait_it_is_waited(session, server, naps):
    session.max_rate_wait = 30
    server.reply(429, headers=limits(960, 0, 30), times=3)
    assert session.get("users").ok
    assert naps == [30, 30, 30]


def test_with_a_max_rate_wait_of_0_nothing_is_waited_for(
    session, server, naps
):
    session.max_rate_wait = 0
    server.reply(429)
    with pytest.raises(pdpyras.PDRateLimitError) as caught:
        session.list_all("users")
    assert caught.value.retry_after == 3  # By the formula.
    assert naps == []


def test_without_max_rate_wait_any_wait_is_waited_out(session, server, naps):
    assert session.max_rate_wait is None
    server.reply(429, headers=limits(960, 0, 3600), times=5)
    assert session.get("users").ok
    assert sum(naps) == 5 * 3600


def test_max_rate_wait_holds_for_events_as_well(events, server, naps):
    events.max_rate_wait = 5
    server.reply(429, headers={"Retry-After": "6"})
    with pytest.raises(pdpyras.PDRateLimitError):
        events.trigger("Disk is full", "db1")
    assert naps == [] and len(server.requests) == 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_rate_limit_error_survives_pickling(protocol, session, server, naps):
    session.max_rate_wait = 1
    server.reply(429, json=LIMITED, headers=limits(960, 0, 31))
    with pytest.raises(pdpyras.PDRateLimitError) as caught:
        session.get("users")
    again = pickle.loads(pickle.dumps(caught.value, protocol))
    assert type(again) is pdpyras.PDRateLimitError
    assert again.retry_after == 31
    assert again.code == 2020
    assert again.response.headers["ratelimit-reset"] == "31"
    assert str(again) == str(caught.value)
    assert KEY.encode() not in pickle.dumps(caught.value, protocol)


# ---------------------------------------------------------------------------
# Threads that share a session
# ---------------------------------------------------------------------------


class Dam:
    """Pauses that last until the test ends them."""

    def __init__(self):
        self.sleeping = threading.Event()
        self.over = threading.Event()
        self.seconds = []

    def __call__(self, seconds):
        self.seconds.append(seconds)
        self.sleeping.set()
        assert self.over.wait(30)


@pytest.fixture
def dam(monkeypatch):
    """All pauses of the library are this one."""
    dam = Dam()
    monkeypatch.setattr(pdpyras.time, "sleep", dam)
    yield dam
    dam.over.set()


def test_while_one_thread_waits_the_others_send_nothing(session, server, dam):
    server.reply(429, headers=limits(960, 0, 30))
    threads = [begun(session.get, "users/P0")]
    assert dam.sleeping.wait(20)
    threads += [begun(session.get, f"users/P{n}") for n in range(1, 9)]
    threading.Event().wait(0.2)
    assert len(server.requests) == 1
    dam.over.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert dam.seconds == [30]
    assert len(server.requests) == 10


def test_no_part_of_a_wait_is_too_short_for_the_others(
    session, server, dam, monkeypatch
):
    """The clock stands still at the last half second of the wait."""
    clock = _Module(pdpyras.time.sleep, lambda: 1000.0)
    monkeypatch.setattr(pdpyras, "time", clock)
    server.reply(429, headers=limits(960, 0, 0.5))
    first = begun(session.get, "users/P0")
    assert dam.sleeping.wait(20)
    second = begun(session.get, "users/P1")
    threading.Event().wait(0.2)
    assert len(server.requests) == 1
    dam.over.set()
    first.join(20)
    second.join(20)
    assert len(server.requests) == 3


@pytest.mark.parametrize("tenths", range(1, 5))
def test_a_wait_may_end_while_another_thread_looks_at_it(
    tenths, session, server, dam, monkeypatch
):
    """The clock goes on by a tenth of a second whenever it is read."""
    now = [1000.0]

    def monotonic():
        if threading.current_thread() is threading.main_thread():
            now[0] += 0.1
        return now[0]

    clock = _Module(pdpyras.time.sleep, monotonic)
    monkeypatch.setattr(pdpyras, "time", clock)
    server.reply(429, headers=limits(960, 0, tenths / 10 + 0.05))
    begun(session.get, "users/P0")
    assert dam.sleeping.wait(20)
    assert session.get("users/P1").ok
    assert [r.path for r in server.requests] == ["/users/P0", "/users/P1"]


def test_sessions_do_not_wait_for_each_other(session, server, dam):
    server.reply(429, headers=limits(960, 0, 30))
    begun(session.get, "users/P0")
    assert dam.sleeping.wait(20)
    with pdpyras.APISession("another-fake-key") as other:
        other.url = server.url
        assert other.get("users/P1").ok


def test_pauses_after_a_500_concern_one_call_only(session, server, dam):
    session.retry[500] = 1
    server.reply(500)
    begun(session.get, "users/P0")
    assert dam.sleeping.wait(20)
    assert session.get("users/P1").ok


def test_no_more_requests_are_under_way_than_remain_in_the_window(
    session, server
):
    session.timeout = 30
    go_on = threading.Event()

    def handler(request):
        if request.path == "/slow":
            assert go_on.wait(30)
        return wire.Answer(headers=limits(960, 2, 9))

    server.handler = handler
    session.get("first")  # Now two are left.
    threads = [begun(session.get, "slow") for _ in range(6)]
    until(lambda: len(server.requests) == 3)
    threading.Event().wait(0.2)
    assert len(server.requests) == 3
    go_on.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(server.requests) == 7


def test_when_the_window_ends_what_is_under_way_holds_nobody(session, server):
    session.timeout = 60
    reached, go_on = threading.Event(), threading.Event()

    def handler(request):
        if request.path == "/slow":
            reached.set()
            assert go_on.wait(60)
        return wire.Answer(headers=limits(960, 1, 0.3))

    server.handler = handler
    session.get("first")  # Now one is left.
    begun(session.get, "slow")
    assert reached.wait(20)
    other = begun(session.get, "other")
    other.join(20)
    is_held = other.is_alive()
    go_on.set()
    assert not is_held


@pytest.mark.parametrize("reset", ["1e300", "9" * 19, "inf", "-1", "soon"])
def test_an_incredible_ratelimit_reset_holds_nobody(reset, session, server):
    """Beyond the answers that are under way, that is."""
    session.timeout = 30
    go_on = threading.Event()

    def handler(request):
        if request.path == "/slow":
            assert go_on.wait(30)
        return wire.Answer(headers=limits(960, 1, reset))

    server.handler = handler
    session.get("first")
    done = []
    threads = [
        begun(lambda: done.append(session.get("slow").ok)) for _ in range(2)
    ]
    until(lambda: len(server.requests) == 2)
    threading.Event().wait(0.05)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert done == [True, True]


@pytest.mark.parametrize("remaining", [0, 1])
def test_a_lone_thread_is_never_made_to_wait(remaining, session, server, naps):
    server.handler = lambda request: wire.Answer(
        headers=limits(960, remaining, 60)
    )
    done = []

    def work():
        done.extend(session.get("users").ok for _ in range(5))

    begun(work).join(20)
    assert done == [True] * 5
    assert naps == []


def test_a_thread_that_fails_lets_the_others_pass(session, server, naps):
    session.max_network_attempts = 0
    server.reply(headers=limits(960, 1, 60))
    session.get("users")
    for _ in range(3):
        server.fault("reset", "status")
        with pytest.raises(pdpyras.PDClientError):
            session.get("users")
    with pytest.raises(pdpyras.PDClientError):
        session.get("users", json=object())
    waiting = begun(session.get, "users")
    waiting.join(20)
    assert not waiting.is_alive()


def test_a_wait_that_is_interrupted_ends_for_the_others_too(
    session, server, monkeypatch
):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(pdpyras.time, "sleep", interrupt)
    server.reply(429, headers=limits(960, 0, 3600))
    with pytest.raises(KeyboardInterrupt):
        session.get("users")
    waiting = begun(session.get, "users")
    waiting.join(20)
    assert not waiting.is_alive()


# ---------------------------------------------------------------------------
# A day at the limit, on a simulated clock
# ---------------------------------------------------------------------------


class Clock:
    """Seconds that pass when requests are answered, or all have to wait.

    Of the sleeping threads the one that is due first wakes as soon as no
    request has been answered for a while of real time.
    """

    quiet = 0.05  # real seconds
    tick = 1 / 64  # simulated seconds that an answer takes

    def __init__(self):
        self.now = 1000.0
        self.slept = 0
        self._changed = threading.Condition()
        self._answers = 0
        self._sleepers = []

    def monotonic(self):
        return self.now

    def at_the_server(self):
        """The sandbox asks for the time once for each request."""
        with self._changed:
            self._answers += 1
            self.now += self.tick
            return self.now

    def sleep(self, seconds):
        me = [self.now + seconds]
        with self._changed:
            self._sleepers.append(me)
            answers = -1
            while self.now < me[0]:
                is_first = me is min(self._sleepers)
                if is_first and answers == self._answers:
                    self.now = me[0]
                    self.slept += seconds
                    self._changed.notify_all()
                answers = self._answers
                self._changed.wait(self.quiet)
            self._sleepers.remove(me)


class Observed(pdpyras.APISession):
    """A session that keeps the statuses that it is answered with."""

    def postprocess(self, response):
        super().postprocess(response)
        self.statuses.append(response.status_code)


@pytest.fixture
def clock(monkeypatch):
    """The time, for the library."""
    clock = Clock()
    module = _Module(clock.sleep, clock.monotonic)
    monkeypatch.setattr(pdpyras, "time", module)
    return clock


class _Module:
    """The module ``time`` with two functions replaced."""

    def __init__(self, sleep, monotonic):
        self.sleep, self.monotonic = sleep, monotonic

    def __getattr__(self, name):
        return getattr(time, name)


@pytest.mark.no_cover
@pytest.mark.oldest
def test_sixteen_threads_at_the_limit(clock):
    threads, calls, limit = 16, 180, 960
    requests = threads * calls
    windows, rest = divmod(requests, limit)
    assert not rest
    ideal = (windows - 1) * 60 + limit * clock.tick
    with Sandbox(rate_limit=limit, clock=clock.at_the_server) as box:
        box.add("users", 1, id="P1")
        with Observed(KEY) as session:
            session.url = box.url
            session.statuses = []
            ready = threading.Barrier(threads)
            wrong = []

            def work():
                ready.wait(30)
                try:
                    for _ in range(calls):
                        if session.rget("users/P1")["id"] != "P1":
                            wrong.append("another user")
                except Exception as error:
                    wrong.append(error)

            began = clock.now
            workers = [begun(work) for _ in range(threads)]
            for worker in workers:
                worker.join(60)
                assert not worker.is_alive()
    assert wrong == []
    answered = session.statuses
    assert answered.count(200) == requests
    refused = answered.count(429)
    assert len(answered) == requests + refused
    assert refused <= len(answered) / 100
    assert 0.99 * ideal <= clock.now - began <= 1.1 * ideal
