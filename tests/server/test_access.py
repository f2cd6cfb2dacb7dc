"""Who may call: tokens that a server is given, and a component that says itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Self

import pytest
from tests.component_suite import component_options
from tests.parts import Parts

from forge.captioner.v1 import CaptionerClient, ListStylesRequest, ListStylesResponse
from protoplane_base import Code, PlaneError
from protoplane_client import connect
from protoplane_server import Context, Options, Server
from protoplane_server.access import Access, TokenAccess, bearer_token

pytestmark = pytest.mark.anyio

DOORS = ["grpc", "http", "link"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Palindromes(Access):
    """Lets those in whose token reads the same backwards."""

    def identity(self, token: str) -> str:
        if not token or token != token[::-1]:
            raise PlaneError(Code.UNAUTHENTICATED, f"{token!r} does not read the same backwards")
        return f"friend of {token}"


class Picky(Parts):
    """Says itself who may call, once it is entered."""

    def __init__(self, *, everybody: bool = False) -> None:
        super().__init__()
        self.entered = False
        self.callers: list[str] = []
        self._everybody = everybody

    async def __aenter__(self) -> Self:
        self.entered = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.entered = False

    def who_may_call(self) -> Access | None:
        assert self.entered
        return None if self._everybody else Palindromes()

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        self.callers.append(ctx.identity)
        return ListStylesResponse()


def options(**changes: object) -> Options:
    doors = {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "link": ("link+tcp://127.0.0.1:0",)}
    return component_options(**doors, **changes)


def target(server: Server, door: str) -> str:
    places = {"grpc": f"grpc://{server.grpc_address}", "http": str(server.http_url)}
    return places.get(door) or server.link_addresses[0]


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
async def picky() -> AsyncIterator[tuple[Picky, Server]]:
    component = Picky()
    async with Server(component, options()) as server:
        yield component, server


async def test_a_component_says_who_may_call(picky: tuple[Picky, Server], door: str) -> None:
    component, server = picky
    async with connect(target(server, door), token="anna") as plane:
        await CaptionerClient(plane).list_styles(ListStylesRequest(), timeout_s=30)
    assert component.callers == ["friend of anna"]
    for token in ("otto!", None):
        async with connect(target(server, door), token=token) as plane:
            with pytest.raises(PlaneError) as caught:
                await CaptionerClient(plane).list_styles(ListStylesRequest(), timeout_s=30)
        assert caught.value.code is Code.UNAUTHENTICATED
        assert "backwards" in caught.value.message
    assert len(component.callers) == 1


async def test_a_component_that_lets_everybody_in(door: str) -> None:
    component = Picky(everybody=True)
    async with Server(component, options()) as server, connect(target(server, door)) as plane:
        await CaptionerClient(plane).list_styles(ListStylesRequest(), timeout_s=30)
    assert component.callers == [""]


async def test_only_one_says_it() -> None:
    tokens = {"secret-token": "me"}
    with pytest.raises(PlaneError, match="keep one of them"):
        async with Server(Picky(), options(tokens=tokens)):
            pass


def test_tokens() -> None:
    access = TokenAccess({"secret": "me"})
    assert access.caller({"authorization": "bearer  secret "}) == "me"
    for given in ("secret", "Basic secret", "Bearer other", ""):
        with pytest.raises(PlaneError):
            access.caller({"authorization": given})
    assert bearer_token({"authorization": b"Bearer secret"}) == ""
