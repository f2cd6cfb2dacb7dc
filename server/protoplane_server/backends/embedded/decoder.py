"""Writes many texts at once: each step of the network takes one token of every text.

A text joins at the next step and leaves after any step ("continuous batching"). Steps run in one
worker thread, so the event loop stays free; between two steps all is done on the loop.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from concurrent.futures import Executor
from itertools import count
from typing import Self

import numpy as np
from numpy.typing import NDArray

from protoplane_base import Code, PlaneError
from protoplane_server.backends.counting import ModelCounters
from protoplane_server.backends.embedded.blas import one_thread
from protoplane_server.backends.embedded.gru import CharGru, Indexes
from protoplane_server.backends.embedded.vocabulary import END
from protoplane_server.backends.queueing import queue_full
from protoplane_server.backends.sampling import Chooser, Rules
from protoplane_server.backends.token_queue import TokenQueue

_log = logging.getLogger("protoplane.server")


class TokenStream:
    """The tokens of one text, as they are chosen; close it when done.

    Args:
        decoder: What writes it.
        prompt: Tokens that it goes on from, at least one.
        rules: How they are chosen.
    """

    __slots__ = (
        "_decoder",
        "_queue",
        "at",
        "gone",
        "prompt",
        "rules",
        "slot",
        "token",
        "written",
    )

    def __init__(self, decoder: Decoder, prompt: list[int], rules: Rules) -> None:
        self.prompt = prompt
        self.rules = rules
        self.token = prompt[0]
        self.at = 1
        self.written = 0
        self.slot = -1
        self.gone = False
        self._decoder = decoder
        self._queue = TokenQueue()

    @property
    def hungry(self) -> bool:
        """Whether it wants another step."""
        return not self.gone and not self._queue.full

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        was_full = self._queue.full
        token = await self._queue.take()
        if was_full:
            self._decoder.wake()
        return token

    def advance(self, chosen: int) -> None:
        """A step has read its token and chosen the next."""
        if self.at < len(self.prompt):
            self.token = self.prompt[self.at]
            self.at += 1
            return
        self.token = chosen
        self.written += 1
        is_last = (
            chosen == END
            or self.written == self.rules.max_tokens
            or chosen in self.rules.stop_tokens
        )
        self.gone = self.gone or is_last
        self._queue.put(chosen, last=is_last)

    def fail(self, error: PlaneError) -> None:
        """End it with an error, once what is ready has been taken."""
        if self._queue.fail(error):
            self.close()

    def close(self) -> None:
        """Write no more of it; closing twice does nothing."""
        if not self.gone:
            self.gone = True
            self._decoder.left(self)


class Decoder:
    """Writes texts with a network; `run` does the work, and whoever starts it ends it.

    Args:
        network: The network.
        worker: Where steps run, one at a time.
        counters: Where to count.
        max_streams: Most texts at once.
        max_waiting: Most texts that wait for one of these to end.
    """

    def __init__(
        self,
        network: CharGru,
        worker: Executor,
        counters: ModelCounters,
        *,
        max_streams: int = 64,
        max_waiting: int = 2048,
    ) -> None:
        self._network = network
        self._worker = worker
        self._counters = counters
        self._max_waiting = max_waiting
        self._states = network.start(max_streams)
        self._chooser = Chooser(max_streams)
        self._free = list(range(max_streams))
        self._active: list[TokenStream] = []
        self._waiting: list[tuple[int, int, TokenStream]] = []
        self._left_waiting = 0
        self._numbers = count()
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def active(self) -> int:
        """How many texts are being written."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """How many texts wait for their turn."""
        return len(self._waiting) - self._left_waiting

    def open(self, prompt: list[int], rules: Rules, *, priority: int = 0) -> TokenStream:
        """Begin a text; those of a higher priority begin first.

        Raises:
            PlaneError: RESOURCE_EXHAUSTED where too many wait, UNAVAILABLE once it is closed.
        """
        if self._closed:
            raise _unloaded()
        if self.waiting >= self._max_waiting:
            raise queue_full("texts", self.waiting, self._max_waiting, 1.0)
        stream = TokenStream(self, prompt, rules)
        heapq.heappush(self._waiting, (-priority, next(self._numbers), stream))
        self.wake()
        return stream

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def left(self, stream: TokenStream) -> None:
        """A stream was closed before its end."""
        self.wake()
        if stream.slot < 0:
            self._left_waiting += 1
            if 2 * self._left_waiting > len(self._waiting):
                self._waiting = [entry for entry in self._waiting if not entry[2].gone]
                heapq.heapify(self._waiting)
                self._left_waiting = 0

    def close(self) -> None:
        """Begin no more texts, and end those there are with UNAVAILABLE."""
        self._closed = True
        for stream in [*self._active, *(entry[2] for entry in self._waiting)]:
            stream.fail(_unloaded())

    async def run(self) -> None:
        """Make steps as long as there is something to write; wait otherwise."""
        loop = asyncio.get_running_loop()
        while True:
            self._shift()
            batch = [stream for stream in self._active if stream.hungry]
            if not batch:
                self._wake.clear()
                await self._wake.wait()
                continue
            slots = np.array([stream.slot for stream in batch], np.intp)
            tokens = np.array([stream.token for stream in batch], np.intp)
            writes = np.array([stream.at == len(stream.prompt) for stream in batch])
            # Cancelled here, it waits for the step: the next to use the states must not meet it.
            step = loop.run_in_executor(self._worker, self._step, slots, tokens, writes)
            try:
                chosen = await asyncio.shield(step)
            except asyncio.CancelledError:
                await asyncio.wait([step])
                raise
            except Exception as error:  # noqa: BLE001  # the next step may do
                _log.exception("a step of %d texts failed", len(batch))
                for stream in batch:
                    stream.fail(
                        PlaneError(Code.INTERNAL, f"the model failed: {type(error).__name__}")
                    )
                continue
            self._counters.executions += 1
            self._counters.items += len(batch)
            for stream, token in zip(batch, chosen, strict=True):
                if not stream.gone:
                    stream.advance(token)
                    self._counters.tokens += stream.written > 0

    def _shift(self) -> None:
        """Let go of texts that are over, and begin others in their place."""
        if any(stream.gone for stream in self._active):
            self._free += [stream.slot for stream in self._active if stream.gone]
            self._active = [stream for stream in self._active if not stream.gone]
        while self._free and self._waiting:
            _, _, stream = heapq.heappop(self._waiting)
            if stream.gone:
                self._left_waiting -= 1
                continue
            stream.slot = slot = self._free.pop()
            self._states[slot] = 0
            self._chooser.begin(slot, stream.rules, stream.prompt)
            self._active.append(stream)

    def _step(self, slots: Indexes, tokens: Indexes, writes: NDArray[np.bool_]) -> list[int]:
        """Read a token of each text, and choose the next where its prompt is at its end."""
        with one_thread():
            states = self._network.step(self._states[slots], tokens)
            self._states[slots] = states
            if writes.any():
                scores = self._network.scores(states[writes])
                tokens[writes] = self._chooser.choose(slots[writes], scores)
        chosen: list[int] = tokens.tolist()
        return chosen


def _unloaded() -> PlaneError:
    return PlaneError(Code.UNAVAILABLE, "the model was unloaded; load it, or ask another instance")
