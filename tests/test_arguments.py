"""Keyword arguments that no method has: what is said, and that none is sent.

What type checkers say of the same stands in test_types.py.
"""

from typing import Any, Dict, List

import pytest
import requests

import pdpyras
from tests import wire
from tests.support import KEY

pytestmark = pytest.mark.oldest


@pytest.mark.parametrize("method", ["iter_all", "list_all", "dict_all"])
def test_a_filter_of_a_collection_goes_into_params(
    method: str, server: wire.Server, session: Any
) -> None:
    with pytest.raises(TypeError) as caught:
        getattr(session, method)("incidents", statuses=["triggered"])
    assert str(caught.value) == (
        "iter_all() got an unexpected keyword argument 'statuses'. Query "
        "parameters go into `params`: params={'statuses': ...}; a body goes "
        "into `json`."
    )
    assert server.requests == []


def test_a_property_of_an_entity_goes_into_json(
    server: wire.Server, session: Any
) -> None:
    with pytest.raises(TypeError, match="a body goes into `json`") as caught:
        session.rput("incidents/P1", status="resolved")
    assert f"PUT {server.url}/incidents/P1 got" in str(caught.value)
    assert server.requests == []


def test_a_method_without_params_lists_its_arguments(session: Any) -> None:
    with pytest.raises(TypeError, match="'colour'. It takes resource, attr, "):
        session.persist("users", "email", {"email": "j"}, colour="red")


def test_no_token_is_asked_for_if_an_argument_is_unknown(
    server: wire.Server,
) -> None:
    class Credential:
        asked = 0

        def token(self) -> str:
            self.asked += 1
            return KEY

        def renew(self, refused: str) -> None: ...

    credential = Credential()
    with pdpyras.APISession(credential, url=server.url) as session:
        session.get("users")
        assert credential.asked
        credential.asked = 0
        with pytest.raises(TypeError, match="did you mean `params`"):
            session.get("users", parms={})
        assert not credential.asked


class Caching(requests.Session):
    """A session that takes more than that of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.given: List[Any] = []

    def request(
        self, method: Any, url: Any, expire_after: Any = None, **kwargs: Any
    ) -> requests.Response:
        self.given.append(expire_after)
        return super().request(method, url, **kwargs)


class Strict(Caching):
    """One that has a name for each."""

    def request(
        self,
        method: Any,
        url: Any,
        expire_after: Any = None,
        params: Any = None,
        headers: Any = None,
        timeout: Any = None,
        stream: Any = None,
        allow_redirects: Any = None,
    ) -> requests.Response:
        options: Dict[str, Any] = {"headers": headers, "timeout": timeout}
        return super().request(method, url, expire_after, **options)


@pytest.mark.parametrize("kind", [Caching, Strict])
def test_what_the_parent_takes_is_passed_on_to_it(
    kind: Any, server: wire.Server, session: Any
) -> None:
    session.parent = kind()
    session.get("users", expire_after=60)
    assert session.parent.given == [60]


def test_what_the_parent_does_not_take_is_refused(
    server: wire.Server, session: Any
) -> None:
    session.parent = Strict()
    with pytest.raises(TypeError, match="did you mean `expire_after`"):
        session.get("users", expires_after=60)
    assert server.requests == []


def test_a_mixin_takes_its_own_arguments(server: wire.Server) -> None:
    class Labelled:
        labels: List[str] = []

        def request(self, *args: Any, label: str = "", **kwargs: Any) -> Any:
            self.labels.append(label)
            return super().request(*args, **kwargs)  # type: ignore[misc]

    class Session(Labelled, pdpyras.APISession):  # type: ignore[misc]
        pass

    with Session(KEY, url=server.url) as session:
        session.jget("users/me", label="who")
    assert Labelled.labels == ["who"]


def test_a_subclass_may_have_more_arguments(server: wire.Server) -> None:
    class Session(pdpyras.APISession):
        def iter_all(  # type: ignore[override]
            self, url: str, label: str = "", **kwargs: Any
        ) -> Any:
            assert label == "mine"
            return super().iter_all(url, **kwargs)

    with Session(KEY, url=server.url) as session:
        server.handler = lambda request: wire.Answer(
            json={"users": [{"id": "P1"}], "more": False}
        )
        assert session.list_all("users", label="mine") == [{"id": "P1"}]


@pytest.mark.parametrize(
    "params", [["ab", "cd"], [b"ab"], {"ab"}, [("a", 1), "bc"]]
)
def test_texts_are_no_pairs(params: Any, session: Any) -> None:
    """Such as a list of two-letter names, of which each would pass for one."""
    with pytest.raises(ValueError, match="pairs"):
        session.get("users", params=params)
    with pytest.raises(ValueError, match="pairs"):
        session.iter_all("users", params=params)


class OddNumber:
    """As those of numpy: it compares to a list item by item."""

    def __eq__(self, other: Any) -> Any:
        return [] if isinstance(other, list) else self is other

    def __ne__(self, other: Any) -> Any:
        raise ValueError("The truth value of an empty array is ambiguous.")

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return "3"


def test_a_number_of_another_library_is_sent(
    session: Any, server: Any
) -> None:
    session.get("users", params={"limit": OddNumber()})
    assert dict(server.requests[0].query)["limit"] == "3"
