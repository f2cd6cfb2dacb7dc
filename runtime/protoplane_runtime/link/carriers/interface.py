"""What a carrier is: the seam between a link and whatever moves its bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from protoplane_base import PlaneError


class Carrier(Protocol):
    """Moves bytes both ways, in order, without loss, until it is closed or lost.

    All methods are called on the event loop, and none blocks.
    """

    @property
    def peer(self) -> str:
        """Who is at the other end, for logs: an address, or what the carrier has for one."""
        ...

    @property
    def identity(self) -> str:
        """Who the other end proved to be, by a certificate for example; empty where it did not."""
        ...

    @property
    def max_batch_bytes(self) -> int:
        """Most bytes that `send` takes at once."""
        ...

    @property
    def burst_frames(self) -> int:
        """Frames that are best acted on in one turn of the event loop.

        A burst of calls is answered in so many writes the more, the fewer they are: the other end
        then works on the first answers while this one works on the next calls, and each write costs
        what it costs.
        """
        ...

    def send(self, data: bytes) -> None:
        """Send bytes, after all that was sent before; does nothing once the carrier is over.

        A carrier that holds more than it can get rid of calls `Receiver.congested`, and takes what
        is sent nevertheless.
        """
        ...

    def pause_receiving(self) -> None:
        """Bring nothing more until `resume_receiving`, as far as the carrier can help it."""
        ...

    def resume_receiving(self) -> None:
        """Bring what comes again."""
        ...

    def close(self) -> None:
        """Send what was given, then end; `Receiver.lost` follows."""
        ...

    def abort(self) -> None:
        """End at once; `Receiver.lost` follows."""
        ...


class Receiver(Protocol):
    """What a carrier tells, always on the event loop."""

    def received(self, data: bytes) -> None:
        """Bytes came; they need not be whole frames."""
        ...

    def congested(self) -> None:
        """The carrier holds more than it can get rid of."""
        ...

    def uncongested(self) -> None:
        """It got rid of it."""
        ...

    def lost(self, error: PlaneError | None) -> None:
        """The carrier is over; told once, and nothing after it.

        Args:
            error: Why, UNAVAILABLE as a rule; ``None`` where either end closed it.
        """
        ...


Started = Callable[[Carrier], Receiver]
"""Called with a carrier once it is connected; gives who is told of what it brings."""


class Listener(Protocol):
    """Where a carrier takes connections."""

    @property
    def address(self) -> str:
        """Where, in the form that `carriers.opening.connect` takes, with the port it got."""
        ...

    async def aclose(self) -> None:
        """Take no more connections; those that are open go on."""
        ...
