"""Finds texts to stop at in a text that comes piece by piece."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes text on as soon as no stop can begin in it any more.

    Args:
        stops: Texts before which to stop; none of them empty.

    Attributes:
        stopped: Whether one of them was found; what came after it is gone.
    """

    __slots__ = ("_held", "_stops", "stopped")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def add(self, piece: str) -> str:
        """The text that is certain now that another piece has come."""
        if self.stopped:
            return ""
        if not self._stops:
            return piece
        text = self._held + piece
        # In each position the stop that is complete first counts, as it comes in letter by letter.
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            _, at = min(ends)
            self.stopped = True
            self._held = ""
            return text[:at]
        keep = max(self._begun(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """The text that was held back, once no more comes."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _begun(text: str, stop: str) -> int:
        """How many of the last letters of a text begin a stop."""
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]):
                return length
        return 0
