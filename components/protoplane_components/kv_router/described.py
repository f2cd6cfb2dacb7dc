"""What a worker says of itself in discovery: its metadata, and the way back."""

from __future__ import annotations

from collections.abc import Mapping

from protoplane.router.v1 import Worker
from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Instance

_PREFIX = "kv."
_NUMBERS = ("block_size", "dp_start", "dp_size", "total_blocks", "max_batched_tokens")


def describe(worker: Worker) -> Mapping[str, str]:
    """A worker as metadata of its instance."""
    said = {f"{_PREFIX}{name}": str(getattr(worker, name)) for name in _NUMBERS}
    return {**said, f"{_PREFIX}model": worker.model, f"{_PREFIX}worker": worker.id}


def described(instance: Instance) -> Worker:
    """The worker that an instance is, with its best endpoint.

    Its id is what it says, else the last segment of the instance's name.

    Raises:
        PlaneError: INVALID_ARGUMENT; it does not say what a worker must, or not as a number.
    """
    said = instance.metadata
    numbers = {
        name: _number(instance.name, f"{_PREFIX}{name}", said.get(f"{_PREFIX}{name}", "0"))
        for name in _NUMBERS
    }
    if numbers["block_size"] < 1:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{instance.name} is no worker: its metadata has no {_PREFIX}block_size",
        )
    return Worker(
        id=said.get(f"{_PREFIX}worker") or instance.name.rpartition("/")[2],
        endpoint=instance.endpoints[0] if instance.endpoints else "",
        model=said.get(f"{_PREFIX}model", ""),
        block_size=numbers["block_size"],
        dp_start=numbers["dp_start"],
        dp_size=numbers["dp_size"],
        total_blocks=numbers["total_blocks"],
        max_batched_tokens=numbers["max_batched_tokens"],
    )


def described_without_events(instance: Instance) -> Worker:
    """A worker that says nothing of a cache: whatever it serves, in blocks of the router's size."""
    return Worker(
        id=instance.name.rpartition("/")[2],
        endpoint=instance.endpoints[0] if instance.endpoints else "",
        no_events=True,
    )


def _number(name: str, field: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) >= 1 << 63:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{name} is no worker: {field} in its metadata is {text!r}, not a number below 2**63",
        )
    return int(text)
