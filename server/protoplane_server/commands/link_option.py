"""``--link``: where links are taken, on the command line or in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.opening import listener, scheme


def default_links(*, secure: bool) -> tuple[str, ...]:
    """Where links are taken unless said otherwise: on this machine, at a port that is free.

    Args:
        secure: Whether the other doors speak TLS; then so does this one.
    """
    return (f"link+{'tls' if secure else 'tcp'}://127.0.0.1:0",)


def read_links(given: Sequence[str]) -> tuple[str, ...]:
    """The addresses that some options name; ``@FILE`` is a file with one a line.

    Empty lines of a file, and those that begin with ``#``, say nothing. Each address comes once.

    Args:
        given: Values of the option.

    Raises:
        PlaneError: INVALID_ARGUMENT for what is no address that links can be taken at.
        MissingExtraError: A carrier needs an extra that is not installed.
        OSError: A file cannot be read.
    """
    found: dict[str, None] = {}
    for value in given:
        for address in _lines(Path(value[1:])) if value.startswith("@") else [value]:
            listener(address)
            found[address] = None
    return tuple(found)


def check_shareable(addresses: Sequence[str]) -> None:
    """See that each of several processes can take links at these addresses.

    Raises:
        PlaneError: INVALID_ARGUMENT; one of them can be had by one process only.
    """
    for address in addresses:
        picks_port = address.partition("?")[0].rstrip("/").endswith(":0")
        if not picks_port and scheme(address) != "nats":
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"--link {address}: several workers cannot share it; let each have a port of its "
                "own, link+tcp://host:0, or run one worker",
            )


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
