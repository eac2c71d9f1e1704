"""A base class for API connectors whose requests are retried by themselves.

.. code-block:: python

    from api_toolkit.connector import APIConnector

    class Weather(APIConnector):
        def today(self, place):
            return self.session.get(f"https://weather.example/{place}")

    weather = Weather(max_retries=3, backoff_factor=0.5)

Retrying is the work of urllib3, below :class:`requests.Session`: whatever is
sent through :attr:`APIConnector.session` takes part in it, and code that is
handed the session need not know.
"""

import re
import sys
from typing import Any, Callable, Dict, FrozenSet, Iterable, List, Optional

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import InvalidHeader, MaxRetryError, ReadTimeoutError
from urllib3.util.retry import Retry

__all__ = ["APIConnector"]

#: Statuses that mean "perhaps later": timeouts, overload, broken gateways.
DEFAULT_STATUS_FORCELIST = (
    408, 413, 429, 500, 502, 503, 504, 521, 522, 524
)  # fmt: skip

#: Methods that are retried unless the caller decides otherwise.
DEFAULT_ALLOWED_METHODS = (
    "HEAD", "GET", "PUT", "DELETE", "OPTIONS", "TRACE", "POST", "PATCH"
)  # fmt: skip

#: The longest pause, in seconds, that the back-off formula may arrive at.
BACKOFF_MAX = 3600.0

#: The longest pause, in seconds, that a server may ask for. Newer versions of
#: urllib3 have this limit of their own accord, older ones have none.
RETRY_AFTER_MAX = 21600.0

_PREFIXES = ("https://", "http://")

_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")


# -- Retrying ---------------------------------------------------------------


class _Methods(FrozenSet[str]):
    """Names of methods; true even when there are none.

    urllib3 takes a false value for "any method", the opposite of what an
    empty list says.
    """

    def __bool__(self) -> bool:
        return True


class _Retry(Retry):
    """urllib3's retries, as this package documents them.

    What it changes is in methods and class attributes only, since
    :meth:`urllib3.util.retry.Retry.new` makes each successor anew from the
    parameters that the base class knows.
    """

    #: urllib3 would retry these when they come with ``Retry-After``, listed
    #: or not. Here the caller's list is all there is.
    RETRY_AFTER_STATUS_CODES = frozenset()

    def get_backoff_time(self) -> float:
        """Seconds to wait before the retry that is due."""
        retry = len(self.history)
        if not retry:
            return 0.0
        # Beyond this exponent a float overflows, long after the limit.
        growth = 2.0 ** min(retry - 2, 1000)
        return min(BACKOFF_MAX, self.backoff_factor * growth)

    def get_retry_after(self, response: Any) -> Optional[float]:
        """Seconds that the server asks to wait; None if it does not say.

        A header that makes no sense counts as none: it is no reason to give
        the request up.
        """
        try:
            seconds = super().get_retry_after(response)
        except (InvalidHeader, ValueError, OverflowError):
            return None
        return None if seconds is None else min(seconds, RETRY_AFTER_MAX)

    def increment(
        self,
        method: Optional[str] = None,
        url: Optional[str] = None,
        response: Any = None,
        error: Optional[Exception] = None,
        _pool: Any = None,
        _stacktrace: Any = None,
    ) -> Any:
        """The successor after a failure; raises when none is left."""
        left: Retry = self
        if error is not None and not self._allows(method):
            # urllib3 repeats a failed connect whatever the method.
            left = self.new(total=0)
        try:
            return Retry.increment(
                left, method, url, response, error, _pool, _stacktrace
            )
        except MaxRetryError:
            if isinstance(error, ReadTimeoutError):
                # Bare, requests makes a ReadTimeout of it, as it does when
                # nothing retries; wrapped, a ConnectionError.
                raise error from None
            raise

    def _allows(self, method: Optional[str]) -> bool:
        return (method or "").upper() in (self.allowed_methods or ())


class _Adapter(HTTPAdapter):
    """An adapter that never sends the rest of a body for the whole."""

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Send the request, once only if its body cannot be sent again."""
        if _is_repeatable(request.body):
            return super().send(request, *args, **kwargs)
        # The same connections with other retries, in this call only: another
        # thread may be using the adapter.
        once = HTTPAdapter.__new__(HTTPAdapter)
        once.__dict__.update(self.__dict__)
        once.max_retries = self.max_retries.new(total=0)
        return once.send(request, *args, **kwargs)


def _is_repeatable(body: Any) -> bool:
    """Whether urllib3 can send the body anew; a generator it cannot."""
    if body is None or isinstance(body, (str, bytes, bytearray, memoryview)):
        return True
    try:
        body.tell()
    except (AttributeError, OSError):
        return False
    return hasattr(body, "seek")


def _session() -> requests.Session:
    session = requests.Session()
    for prefix in _PREFIXES:
        session.mount(prefix, _Adapter())
    return session


# -- Checking settings ------------------------------------------------------


def _max_retries(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_retries must be an int, not {value!r}")
    if value < 0:
        raise ValueError(f"max_retries must be 0 or more, not {value!r}")
    return value


def _backoff_factor(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"backoff_factor must be an int or a float, not {value!r}"
        )
    if not 0 <= value <= sys.float_info.max:
        raise ValueError(
            "backoff_factor must be a finite number of seconds, 0 or more,"
            f" not {value!r}"
        )
    return value


def _status_forcelist(value: Any) -> List[int]:
    statuses = _listed("status_forcelist", value, "[500, 503]")
    for status in statuses:
        if isinstance(status, bool) or not isinstance(status, int):
            raise TypeError(
                "status_forcelist must hold ints (HTTP status codes),"
                f" not {status!r}"
            )
        if not 100 <= status <= 999:
            raise ValueError(
                "status_forcelist must hold HTTP status codes of three"
                f" digits, not {status!r}"
            )
    return [int(status) for status in statuses]


def _allowed_methods(value: Any) -> List[str]:
    methods = _listed("allowed_methods", value, "['GET', 'PUT']")
    for method in methods:
        if not isinstance(method, str):
            raise TypeError(
                "allowed_methods must hold strs (names of HTTP methods),"
                f" not {method!r}"
            )
        if not _TOKEN.fullmatch(method):
            raise ValueError(
                "allowed_methods must hold names of HTTP methods,"
                f" not {method!r}"
            )
    return [method.upper() for method in methods]


def _listed(name: str, value: Any, example: str) -> List[Any]:
    """A new list of what ``value`` holds."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list like {example}, not {value!r}")
    return list(value)


def _raise_on_status(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(
            f"raise_on_status must be True or False, not {value!r}"
        )
    return value


# Name and check of each setting, in the order in which they are reported.
_CHECKS: Dict[str, Callable[[Any], Any]] = {
    "max_retries": _max_retries,
    "backoff_factor": _backoff_factor,
    "status_forcelist": _status_forcelist,
    "allowed_methods": _allowed_methods,
    "raise_on_status": _raise_on_status,
}


# -- The connector ----------------------------------------------------------


class APIConnector:
    """Holds a :class:`requests.Session` that retries what fails.

    Made to be extended. A subclass passes the keyword arguments that it is
    given on to ``super().__init__``, or defaults of its own, and sends its
    requests through :attr:`session`.

    What is retried: a response whose status is in ``status_forcelist``, and
    a request that got no response (no connection, connection lost, timeout),
    as long as the method is in ``allowed_methods`` and ``max_retries`` is
    not used up. A body that breaks off while it is read is not.

    Before retry n the session sleeps ``backoff_factor * 2 ** (n - 2)``
    seconds, with a factor of 2: 1, 2, 4, 8, 16, and so on. The formula's
    result is limited to one hour. Where the response says in ``Retry-After``
    how long to wait (seconds or a date), that is the pause instead, up to
    six hours; a pause of 0 or one that cannot be understood leaves it to the
    formula.

    When retries are used up, the last response is returned, or with
    ``raise_on_status`` :class:`requests.exceptions.RetryError` raised. If
    there was no response the exception is the one that requests raises
    without retries, such as :class:`requests.exceptions.ConnectionError`.

    A body that can be read only once, such as a generator or a pipe, is sent
    only once. (A session of the user's own has adapters of its own, and with
    those urllib3 would repeat such a request with what is left of the body,
    which is nothing.)

    Connectors can be pickled and deep-copied, and so can their sessions.

    :param max_retries: How many times a request is repeated at most,
        whatever the reasons. urllib3 goes one call deeper with each, so that
        Python's limit of recursion ends more than about 900.
    :param backoff_factor: What pauses are calculated from, in seconds;
        0 for none.
    :param status_forcelist: Status codes that are worth a retry; may be
        empty.
    :param allowed_methods: Methods that may be retried, in any case; may be
        empty.
    :param raise_on_status: Whether a status in ``status_forcelist`` raises
        once no retry is left.
    :param kwargs: Not looked at. They belong to the subclass.
    :raises TypeError: if a value is of the wrong type.
    :raises ValueError: if a value is of the right type but out of range.
    """

    _session: requests.Session

    def __init__(
        self,
        *,
        max_retries: int = 0,
        backoff_factor: float = 1,
        status_forcelist: Iterable[int] = DEFAULT_STATUS_FORCELIST,
        allowed_methods: Iterable[str] = DEFAULT_ALLOWED_METHODS,
        raise_on_status: bool = False,
        **kwargs: Any,
    ) -> None:
        self._settings: Dict[str, Any] = {}
        self._session = _session()
        self.set_retry_settings(
            max_retries=max_retries,
            backoff_factor=backoff_factor,
            status_forcelist=status_forcelist,
            allowed_methods=allowed_methods,
            raise_on_status=raise_on_status,
        )

    @property
    def session(self) -> requests.Session:
        """The session to send requests through.

        Another one may be set, say one that knows a proxy or a login. It
        keeps its own adapters, and those that it has mounted for ``http://``
        and ``https://`` retry from then on as this connector says. Adapters
        mounted for longer prefixes, or by code that calls
        ``session.mount()`` later on, keep retrying in their own way; the
        latter until the next change of a setting.
        """
        return self._session

    @session.setter
    def session(self, session: requests.Session) -> None:
        self._session = session
        self._configure()

    @property
    def max_retries(self) -> int:
        """How many times a request is repeated at most. Default: 0."""
        value: int = self._settings["max_retries"]
        return value

    @max_retries.setter
    def max_retries(self, value: int) -> None:
        self.set_retry_settings(max_retries=value)

    @property
    def backoff_factor(self) -> float:
        """What pauses are calculated from, in seconds. Default: 1."""
        value: float = self._settings["backoff_factor"]
        return value

    @backoff_factor.setter
    def backoff_factor(self, value: float) -> None:
        self.set_retry_settings(backoff_factor=value)

    @property
    def status_forcelist(self) -> List[int]:
        """Status codes that are worth a retry, as a list of the caller's own.

        Changing that list changes no setting; assign a list to do so.
        Default: 408, 413, 429, 500, 502, 503, 504, 521, 522, 524.
        """
        return list(self._settings["status_forcelist"])

    @status_forcelist.setter
    def status_forcelist(self, value: List[int]) -> None:
        self.set_retry_settings(status_forcelist=value)

    @property
    def allowed_methods(self) -> List[str]:
        """Methods that may be retried, as a list of the caller's own.

        Changing that list changes no setting; assign a list to do so.
        Default: HEAD, GET, PUT, DELETE, OPTIONS, TRACE, POST, PATCH.
        """
        return list(self._settings["allowed_methods"])

    @allowed_methods.setter
    def allowed_methods(self, value: List[str]) -> None:
        self.set_retry_settings(allowed_methods=value)

    @property
    def raise_on_status(self) -> bool:
        """Whether a listed status raises in the end. Default: False."""
        value: bool = self._settings["raise_on_status"]
        return value

    @raise_on_status.setter
    def raise_on_status(self, value: bool) -> None:
        self.set_retry_settings(raise_on_status=value)

    def get_retry_settings(self) -> Dict[str, Any]:
        """The settings by name, in a dict of the caller's own.

        :returns: ``max_retries``, ``backoff_factor``, ``status_forcelist``,
            ``allowed_methods`` and ``raise_on_status``, in this order; fit
            to be passed to :meth:`set_retry_settings` or to the constructor
            of another connector.
        """
        return {name: getattr(self, name) for name in _CHECKS}

    def set_retry_settings(self, **settings: Any) -> None:
        """Change some of the settings, or all, from the next request on.

        If one of them cannot be accepted, none is changed.

        :param settings: ``max_retries``, ``backoff_factor``,
            ``status_forcelist``, ``allowed_methods``, ``raise_on_status``.
        :raises TypeError: if there is no such setting, or a value is of the
            wrong type.
        :raises ValueError: if a value is of the right type but out of range.
        """
        unknown = [name for name in settings if name not in _CHECKS]
        if unknown:
            raise TypeError(
                f"no such retry setting: {', '.join(unknown)}"
                f" (there are {', '.join(_CHECKS)})"
            )
        changes = {
            name: _CHECKS[name](value) for name, value in settings.items()
        }
        self._settings = {**self._settings, **changes}
        self._configure()

    def _configure(self) -> None:
        """Let the session's adapters retry according to the settings.

        They are told, not replaced, so that their connections stay open and
        a kind of adapter that the user chose stays in place.
        """
        retry = _Retry(
            total=self.max_retries,
            status_forcelist=frozenset(self.status_forcelist),
            allowed_methods=_Methods(self.allowed_methods),
            backoff_factor=self.backoff_factor,
            raise_on_status=self.raise_on_status,
        )
        # A stand-in for a session, as in a test, may have no adapters.
        adapters = getattr(self._session, "adapters", {})
        for prefix in _PREFIXES:
            adapter = adapters.get(prefix)
            if isinstance(adapter, HTTPAdapter):
                adapter.max_retries = retry
