"""Coverage-guided fuzzing of the frame parser and of the sessions behind it, with Atheris.

    python tests/runtime/link/fuzz_frames.py -max_total_time=60 FOLDER

FOLDER keeps what was found to reach new code; the seeds in it are made from the test vectors. An
input that does what it must not is written to a file, whose name is printed; give that file as the
only argument to see what it does. What follows is libFuzzer's: https://llvm.org/docs/LibFuzzer.html.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
VECTORS = Path(__file__).parent / "vectors"


def seeds() -> list[bytes]:
    """One input for each vector, and for each end of the recorded conversation."""

    def read(name: str) -> Any:
        return json.loads((VECTORS / name).read_text(encoding="utf-8"))

    hello = b"\1\0\0\4\0\0\0\0" + bytes(8) + b"\x08\1\x10\1"
    found = [b"\0\xff" + hello + bytes.fromhex(vector["hex"]) for vector in read("frames.json")]
    found += [b"\0\xff" + bytes.fromhex(vector["hex"]) for vector in read("exchanges.json")]
    for first, name in ((b"\0\xff", "caller"), (b"\1\x13", "acceptor")):
        steps = [step["hex"] for step in read("conversation.json")["steps"] if step["from"] == name]
        found += [first + bytes.fromhex("".join(steps[:count])) for count in (3, 6, len(steps))]
    return found


def sow(folder: Path) -> None:
    """Write the seeds, each under its hash, as libFuzzer does."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds():
        (folder / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)


def one_input(data: bytes) -> None:
    """Give an end what the input says: its role, the size of the pieces, and the bytes.

    Raises:
        AssertionError: It did what it must not.
    """
    from tests.runtime.link.pair import Accepting, Call, nothing, settings
    from tests.runtime.link.wire import split

    from protoplane_base import Code, PlaneError
    from protoplane_runtime.link.caller import Caller
    from protoplane_runtime.link.errors import LinkError
    from protoplane_runtime.link.frames import Decoder
    from protoplane_runtime.link.headers import decode_close

    if len(data) < 2:
        return
    limits = settings(
        max_frame_bytes=300,
        max_message_bytes=900,
        call_window_bytes=500,
        link_window_bytes=1_000,
        max_calls=3,
    )
    role, size, data = data[0] & 1, data[1] or 1, data[2:]
    pieces = [data[at : at + size] for at in range(0, len(data), size)]

    class Reading(Call):
        """A call that takes what comes, and reads how it ended."""

        def arrived(self) -> None:
            super().arrived()
            if self.id & 2:
                self.take()

        def closed(self, header: bytes, payload: bytes | None) -> None:
            decode_close(header)
            super().closed(header, payload)

    accepting = Accepting(limits, kind=Reading)
    calls: list[Call] = accepting.calls
    session: Any = accepting.session
    if role:
        session = Caller(limits, wake=nothing)
        for request in (b"ask", None, None):
            opened = Reading()
            opened.session = session
            session.open(opened, b"", request)
            calls.append(opened)
    end: PlaneError = PlaneError(Code.UNAVAILABLE, "the end of the input")
    try:
        for piece in pieces:
            more = session.received(piece)
            while more:
                more = session.resume()
            for call in calls:
                if not call.ended and not call.unsent and session.ready:
                    call.send(b"some" * 100)
    except LinkError as error:
        end = error
        session.go_away(int(error.code), error.message)
    said, rest = split(session.take())
    assert not rest, "half a frame was sent"
    assert all(one.type in range(1, 11) for one in said)
    session.lost(end)
    assert all(call.over for call in calls)
    assert session.open_calls == 0

    whole, apart = Decoder(300), Decoder(300)
    frames: list[Any] = []
    with contextlib.suppress(LinkError):
        for piece in pieces:
            frames += apart.feed(piece)
            assert apart.pending <= 16 + 0xFFFF + 300
    with contextlib.suppress(LinkError):
        assert frames == whole.feed(data)


def main() -> None:
    """Fuzz."""
    sys.path.insert(0, str(ROOT))
    # By name, because it is there only where somebody wants to fuzz.
    atheris: Any = importlib.import_module("atheris")

    with atheris.instrument_imports(include=["protoplane_runtime.link"]):
        # What is measured must be imported here, and nothing of it before.
        for role in ("caller", "acceptor"):
            importlib.import_module(f"protoplane_runtime.link.{role}")

    folders = [Path(given) for given in sys.argv[1:] if not given.startswith("-")]
    if folders and not folders[0].is_file():
        sow(folders[0])
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
