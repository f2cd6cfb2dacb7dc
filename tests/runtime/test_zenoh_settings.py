"""What the URL of a Zenoh engine says, and what its nodes tell each other in bytes."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.opening import open_engine
from protoplane_runtime.engines.retention import Retention
from protoplane_runtime.engines.state import Deleted, Entry
from protoplane_runtime.engines.zenoh import state_wire, wire
from protoplane_runtime.engines.zenoh.settings import ZenohSettings

numbers = st.integers(0, 2**63 - 1)
events = st.builds(
    wire.Carried,
    st.text("0123456789abcdef-", max_size=40),
    numbers,
    numbers,
    st.text(max_size=50),
    st.text(max_size=50),
    st.binary(max_size=100),
    st.text(max_size=50),
)
pages = st.builds(wire.Page, st.lists(events, max_size=4), numbers, numbers, st.booleans())
changes = st.one_of(
    st.builds(
        Entry, st.text(max_size=50), st.binary(max_size=50), numbers, st.none() | st.integers(1, 9)
    ),
    st.builds(Deleted, st.text(max_size=50), numbers, st.booleans()),
)
told = st.builds(state_wire.Told, numbers, numbers, st.lists(changes, max_size=4))
requests = st.builds(
    state_wire.Request,
    st.sampled_from(state_wire.Wanted),
    st.text(max_size=50),
    st.binary(max_size=50),
    st.none() | numbers,
    st.none() | st.floats(0.001, 1e9),
)


def test_urls() -> None:
    assert ZenohSettings.parse("zenoh:") == ZenohSettings()
    url = (
        "zenoh:tcp/a:1,tls/b:2?listen=tcp/127.0.0.1:0,udp/c:3&cluster=lab&folder=/x&config=/c.json5"
        "&retain=a/**:count=5&retain=**:bytes=1MB"
    )
    assert ZenohSettings.parse(url) == ZenohSettings(
        ("tcp/a:1", "tls/b:2"),
        ("tcp/127.0.0.1:0", "udp/c:3"),
        multicast=False,
        cluster="lab",
        folder=Path("/x"),
        config=Path("/c.json5"),
        retention=(Retention("a", max_events=5), Retention(max_bytes=1_000_000)),
    )
    assert ZenohSettings.parse("zenoh:tcp/a:1?multicast=true&mode=client").mode == "client"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("zenoh:nonsense", "no Zenoh endpoint"),
        ("zenoh:tcp/a:1?listen=x", "no Zenoh endpoint"),
        ("zenoh:?mode=router", "'mode' is peer or client"),
        ("zenoh:?mode=client&listen=tcp/a:1", "a client does not listen"),
        ("zenoh:?cluster=a/b", "'cluster' is 1 to 64"),
        ("zenoh:?multicast=1", "'multicast' is true or false"),
        ("zenoh:?colour=red", "there is no setting 'colour'"),
        ("zenoh:?retain=**:age=x", "retain"),
        ("zenoh:?retain=a/**:count=5&retain=a:age=1h", "the same prefix"),
        ("nats:", "it begins with 'zenoh:'"),
    ],
)
def test_bad_urls(url: str, says: str) -> None:
    with pytest.raises(PlaneError) as caught:
        ZenohSettings.parse(url)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert says in caught.value.message


@pytest.mark.anyio
async def test_what_zenoh_refuses(tmp_path: Path) -> None:
    for url, code in (
        ("zenoh:?listen=nonsense/127.0.0.1:0", Code.UNAVAILABLE),
        ("zenoh:?listen=tcp/192.0.2.1:7447", Code.UNAVAILABLE),
        (f"zenoh:?config={tmp_path}/none.json5", Code.INVALID_ARGUMENT),
    ):
        with pytest.raises(PlaneError) as caught:
            await open_engine(f"{url}&folder={tmp_path}/node")
        assert caught.value.code is code
        assert "/root/" not in caught.value.message


def test_a_missing_extra_is_named() -> None:
    program = (
        "import asyncio, sys\n"
        "sys.modules['zenoh'] = None\n"
        "from protoplane_base import MissingExtraError\n"
        "from protoplane_runtime.engines.opening import open_discovery\n"
        "try:\n"
        "    asyncio.run(open_discovery('zenoh:'))\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "pip install 'protoplane[zenoh]'" in done.stdout


@given(events)
def test_an_event_travels(event: wire.Carried) -> None:
    assert wire.decode(wire.encode(event)) == event


@given(pages)
def test_a_page_travels(page: wire.Page) -> None:
    assert wire.decode_page(wire.encode_page(page)) == page


@given(told)
def test_changes_travel(changes: state_wire.Told) -> None:
    assert state_wire.decode_told(state_wire.encode_told(changes)) == changes
    assert state_wire.decode_answer(state_wire.encode_answer(changes)) == changes


@given(requests)
def test_a_request_travels(request: state_wire.Request) -> None:
    assert state_wire.decode_request(state_wire.encode_request(request)) == request


def test_answers_travel() -> None:
    assert state_wire.decode_answer(state_wire.encode_answer(None)) is None
    error = state_wire.decode_answer(
        state_wire.encode_answer(PlaneError(Code.ABORTED, "try again"))
    )
    assert isinstance(error, PlaneError)
    assert (error.code, error.message) == (Code.ABORTED, "try again")
    assert wire.decode_asked(wire.encode_asked(7)) == 7


@given(st.binary(max_size=80), events, told)
def test_other_bytes_are_refused(
    noise: bytes, event: wire.Carried, changes: state_wire.Told
) -> None:
    for decode, good in (
        (wire.decode, wire.encode(event)),
        (wire.decode_page, wire.encode_page(wire.Page([event], 1, 0, True))),
        (wire.decode_asked, wire.encode_asked(1)),
        (state_wire.decode_told, state_wire.encode_told(changes)),
        (state_wire.decode_answer, state_wire.encode_answer(changes)),
    ):
        for bad in (good[:-1], b"\xff" + good):
            with pytest.raises(ValueError, match=r"."):
                decode(bad)
        with suppress(ValueError):
            decode(noise)
