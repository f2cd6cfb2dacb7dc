"""Makes steps of a model, as long as there is something to write.

Steps run in one worker thread, so the event loop stays free; between two steps all is done on the
loop. A text joins at any step and leaves after any step ("continuous batching").
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor

from protoplane_base import Code, PlaneError
from protoplane_server.backends.counting import ModelCounters
from protoplane_server.backends.queueing import queue_full
from protoplane_server.backends.sampling import Rules
from protoplane_server.backends.torch.cache import BlockPool
from protoplane_server.backends.torch.model import KvCache, Llama
from protoplane_server.backends.torch.scheduler import Scheduler
from protoplane_server.backends.torch.settings import BLOCK_TOKENS, TorchSettings
from protoplane_server.backends.torch.steps import compute
from protoplane_server.backends.torch.written import TokenStream

_log = logging.getLogger("protoplane.server")


class Driver:
    """Writes texts with a model; `run` does the work, and whoever starts it ends it.

    Args:
        model: The model.
        cache: Its keys and values.
        pool: The blocks of those.
        worker: Where steps run, one at a time.
        counters: Where to count.
        settings: How many texts, and how many tokens, at once.

    Attributes:
        context_tokens: Most tokens of a prompt and its text.
    """

    def __init__(
        self,
        model: Llama,
        cache: KvCache,
        pool: BlockPool,
        *,
        worker: Executor,
        counters: ModelCounters,
        settings: TorchSettings,
    ) -> None:
        self.context_tokens = min(model.config.max_position_embeddings, pool.blocks * BLOCK_TOKENS)
        self._model = model
        self._cache = cache
        self._pool = pool
        self._worker = worker
        self._counters = counters
        self._max_waiting = settings.max_waiting
        self._ends = frozenset(model.config.eos_token_id)
        self._scheduler = Scheduler(
            pool,
            max_sequences=settings.max_sequences,
            max_step_tokens=settings.max_step_tokens,
        )
        self._streams: set[TokenStream] = set()
        self._wake = asyncio.Event()
        self._closed = False

    def open(self, prompt: list[int], rules: Rules, *, priority: int = 0) -> TokenStream:
        """Begin a text; those of a higher priority begin first.

        Args:
            prompt: Its tokens, from 1 to less than `context_tokens`.
            rules: How the next are chosen.
            priority: Its priority.

        Raises:
            PlaneError: RESOURCE_EXHAUSTED where too many wait, UNAVAILABLE once it is closed.
        """
        if self._closed:
            raise _unloaded()
        if self._scheduler.waiting >= self._max_waiting:
            raise queue_full("texts", self._scheduler.waiting, self._max_waiting, 1.0)
        stream = TokenStream(
            prompt,
            rules,
            ends=self._ends,
            longest=self.context_tokens,
            priority=priority,
            changed=self._changed,
        )
        self._scheduler.add(stream)
        self._streams.add(stream)
        self._wake.set()
        return stream

    def close(self) -> None:
        """Begin no more texts, and end those there are with UNAVAILABLE."""
        self._closed = True
        for stream in list(self._streams):
            stream.fail(_unloaded())

    async def run(self) -> None:
        """Make steps as long as there is something to write; wait otherwise.

        Cancelled, it returns once the step that it is at is over, and no block is held then.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                works = self._scheduler.plan()
                if not works:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                step = loop.run_in_executor(self._worker, compute, self._model, self._cache, works)
                streams = [_stream(work.sequence) for work in works]
                try:
                    chosen = await asyncio.shield(step)
                except asyncio.CancelledError:
                    # The next to use the cache must not meet it.
                    await asyncio.wait([step])
                    raise
                except Exception as error:  # noqa: BLE001  # the next step may do
                    _log.exception("a step of %d texts failed", len(works))
                    for stream in streams:
                        stream.fail(_failed(type(error).__name__))
                    continue
                self._counters.executions += 1
                self._counters.items += sum(work.tokens for work in works)
                for work, stream, token in zip(works, streams, chosen, strict=True):
                    self._scheduler.done(work)
                    if token is None or stream.gone:
                        continue
                    if token < 0:
                        stream.fail(_failed("its scores are not numbers"))
                        continue
                    stream.write(token)
                    self._counters.tokens += 1
                    if stream.ended:
                        self._streams.discard(stream)
        finally:
            self._scheduler.close()

    def _changed(self, stream: TokenStream) -> None:
        if stream.gone:
            self._scheduler.left(stream)
            self._streams.discard(stream)
        self._wake.set()


def _stream(sequence: object) -> TokenStream:
    assert isinstance(sequence, TokenStream)
    return sequence


def _failed(why: str) -> PlaneError:
    return PlaneError(Code.INTERNAL, f"the model failed: {why}")


def _unloaded() -> PlaneError:
    return PlaneError(Code.UNAVAILABLE, "the model was unloaded; load it, or ask another instance")
