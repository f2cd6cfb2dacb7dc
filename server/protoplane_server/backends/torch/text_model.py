"""A loaded model as a backend has it: text for a prompt, as chunks."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import torch

from protoplane_base import Code, PlaneError
from protoplane_server.backends.counting import ModelCounters
from protoplane_server.backends.interface import (
    BackendContext,
    Capability,
    ChatMessage,
    Chunk,
    FinishReason,
    ModelMetadata,
    Prompt,
    Sampling,
    Tokens,
    Usage,
)
from protoplane_server.backends.sampling import Rules
from protoplane_server.backends.stops import StopText
from protoplane_server.backends.torch.cache import BlockPool
from protoplane_server.backends.torch.config import SMALL, LlamaConfig
from protoplane_server.backends.torch.driver import Driver
from protoplane_server.backends.torch.kv_events import KvEvents
from protoplane_server.backends.torch.model import KvCache, Llama
from protoplane_server.backends.torch.settings import TorchSettings
from protoplane_server.backends.torch.tokenizing import Vocabulary, vocabulary_of
from protoplane_server.backends.torch.weights import random_weights, read_weights

PLATFORM = "protoplane_torch_llama"

DEFAULT_BLOCKS = 1024
"""Blocks of a cache that is not on a GPU."""

_SHARE = 0.9
_SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class LoadedLlama:
    """A model with its cache, ready to compute.

    Attributes:
        model: The model.
        cache: Its keys and values.
        blocks: How many blocks those have.
        vocabulary: What its tokens stand for; ``None`` where only token ids can be its prompt.
    """

    model: Llama
    cache: KvCache
    blocks: int
    vocabulary: Vocabulary | None


def load_llama(settings: TorchSettings) -> LoadedLlama:
    """Load a model; it blocks until that is done.

    Raises:
        PlaneError: INVALID_ARGUMENT for files that are no model, FAILED_PRECONDITION where the
            device is not there, RESOURCE_EXHAUSTED where it has not the memory.
    """
    gpus = torch.cuda.device_count()
    device = settings.device or ("cuda" if gpus else "cpu")
    on_gpu = device.startswith("cuda")
    if on_gpu and int(device.removeprefix("cuda").lstrip(":") or 0) >= gpus:
        there_are = f"there are {gpus}, from cuda:0 on" if gpus else "use 'cpu'"
        raise PlaneError(
            Code.FAILED_PRECONDITION, f"there is no GPU for the device {device!r}; {there_are}"
        )
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    dtype = dtypes[settings.dtype or ("bfloat16" if on_gpu else "float32")]
    folder = settings.path
    config = SMALL if folder is None else LlamaConfig.read(folder / "config.json")
    vocabulary = vocabulary_of(folder, config)
    try:
        weights = (
            random_weights(config, settings.seed, device=device, dtype=dtype)
            if folder is None
            else read_weights(folder, config, device=device, dtype=dtype)
        )
        model = Llama(config, weights)
        blocks = settings.blocks or _fitting(config, dtype, device)
        cache = KvCache(config, blocks, device=device, dtype=dtype)
    except torch.OutOfMemoryError as error:
        raise PlaneError(
            Code.RESOURCE_EXHAUSTED, f"{device} has too little memory for the model: {error}"
        ) from error
    return LoadedLlama(model, cache, blocks, vocabulary)


def _fitting(config: LlamaConfig, dtype: torch.dtype, device: str) -> int:
    """How many blocks a cache has where nobody says."""
    if not device.startswith("cuda"):
        return DEFAULT_BLOCKS
    # What a model had that is gone by now, PyTorch keeps for itself, or Python for the collector.
    gc.collect()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(_SHARE * free) // KvCache.block_bytes(config, dtype))


class TextModel:
    """One model that writes; `close` it when done.

    Args:
        name: Its name.
        loaded: The model.
        worker: Where its steps run.
        settings: How many texts, and how many tokens, at once.
        events: Whom to tell what its cache holds.
    """

    def __init__(
        self,
        name: str,
        loaded: LoadedLlama,
        worker: Executor,
        settings: TorchSettings,
        events: KvEvents,
    ) -> None:
        self.counters = ModelCounters()
        self.events = events
        self.pool = BlockPool(loaded.blocks, events)
        self.driver = Driver(
            loaded.model,
            loaded.cache,
            self.pool,
            worker=worker,
            counters=self.counters,
            settings=settings,
        )
        self.metadata = ModelMetadata(
            name,
            PLATFORM,
            frozenset({Capability.GENERATE}),
            context_tokens=self.driver.context_tokens,
        )
        self._config = loaded.model.config
        self._vocabulary = loaded.vocabulary
        self._running = asyncio.create_task(self.driver.run(), name=f"driver of {name}")
        self._telling = asyncio.create_task(events.run(), name=f"KV events of {name}")

    async def close(self, *, tell: bool = True) -> None:
        """End what it writes with UNAVAILABLE; returns once its last step is over.

        Args:
            tell: Whether to publish that the cache is empty. There is no need where the instance
                goes, or a new epoch comes.
        """
        self.driver.close()
        self._running.cancel()
        if not tell:
            self._telling.cancel()
        await asyncio.wait([self._running])
        if tell:
            self.pool.clear()
            await self.events.settled(_SETTLE_S)
            self._telling.cancel()
        await asyncio.wait([self._telling])

    async def generate(
        self, prompt: Prompt, sampling: Sampling, ctx: BackendContext
    ) -> AsyncGenerator[Chunk, None]:
        """See `protoplane_server.backends.interface.Backend.generate`."""
        with self.counters.request():
            rules = Rules.of(
                sampling,
                vocabulary=self._config.vocab_size,
                longest=self.driver.context_tokens,
            )
            read = self._read(prompt, rules)
            left_s = ctx.time_remaining_s()
            if left_s == 0:
                raise ctx.too_late()
            stream = self.driver.open(list(read), rules, priority=ctx.priority)
            timer = None
            if left_s is not None:
                loop = asyncio.get_running_loop()
                timer = loop.call_later(left_s, lambda: stream.fail(ctx.too_late()))
            stops = StopText(rules.stop)
            decoder = None if self._vocabulary is None else self._vocabulary.decoder()
            ends = rules.stop_tokens.union(self._config.eos_token_id)
            finish = FinishReason.LENGTH
            count = 0
            try:
                async for token in stream:
                    count += 1
                    if token in ends:
                        finish = FinishReason.STOP
                        break
                    text = "" if decoder is None else stops.add(decoder.add(token))
                    yield Chunk(text, (token,))
                    if stops.stopped:
                        break
                rest = "" if decoder is None else stops.add(decoder.end())
                if stops.stopped:
                    finish = FinishReason.STOP
                yield Chunk(rest + stops.end(), (), finish, Usage(len(read), count))
            finally:
                stream.close()
                if timer is not None:
                    timer.cancel()

    def _read(self, prompt: Prompt, rules: Rules) -> list[int]:
        """The tokens of a prompt, at least one."""
        size = self._config.vocab_size
        if rules.stop and self._vocabulary is None:
            raise _wordless("'stop' is not for it; use stop_token_ids")
        if isinstance(prompt, Tokens):
            for token in prompt.ids:
                if not 0 <= token < size:
                    raise PlaneError(
                        Code.INVALID_ARGUMENT,
                        f"token_ids holds {token}; the tokens of this model are 0 to {size - 1}",
                    )
            tokens = list(prompt.ids)
        else:
            vocabulary = self._vocabulary
            if vocabulary is None:
                raise _wordless("its prompts are token_ids, not text")
            tokens = vocabulary.encode(prompt if isinstance(prompt, str) else _talk(prompt))
        tokens = tokens or [self._config.bos_token_id or 0]
        if len(tokens) >= self.driver.context_tokens:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"the prompt has {len(tokens)} tokens, {self.driver.context_tokens - 1} are the "
                "most; shorten it",
            )
        return tokens


def _talk(messages: Sequence[ChatMessage]) -> str:
    # The templates of models are programs; a conversation is written out plainly instead.
    lines = [f"{message.role}: {message.content}\n" for message in messages]
    return "".join([*lines, "assistant:"])


def _wordless(why: str) -> PlaneError:
    return PlaneError(Code.INVALID_ARGUMENT, f"this model has no tokenizer.json, so {why}")
