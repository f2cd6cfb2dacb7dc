"""The character model as a backend has it: text for a prompt, as chunks or as tensors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor
from contextlib import aclosing

from protoplane_base import Code, PlaneError
from protoplane_server.backends.counting import ModelCounters
from protoplane_server.backends.embedded.decoder import Decoder
from protoplane_server.backends.embedded.gru import CharGru
from protoplane_server.backends.embedded.vocabulary import END, decode, encode, unknown
from protoplane_server.backends.interface import (
    BackendContext,
    Capability,
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
from protoplane_server.backends.tensors import (
    Datatype,
    Tensor,
    TensorSpec,
    check_inputs,
    chosen_outputs,
)

MAX_PROMPT_TOKENS = 4096
"""Most tokens of a prompt."""

PLATFORM = "protoplane_char_gru"

_INPUTS = (
    TensorSpec("PROMPT", Datatype.BYTES, (1,)),
    TensorSpec("MAX_TOKENS", Datatype.INT32, (1,), optional=True),
    TensorSpec("TEMPERATURE", Datatype.FP32, (1,), optional=True),
    TensorSpec("SEED", Datatype.UINT64, (1,), optional=True),
)
_OUTPUTS = (TensorSpec("TEXT", Datatype.BYTES, (1,)),)


class CharacterModel:
    """One network that writes; `close` it when done.

    Args:
        name: Its name.
        network: The network.
        worker: Where its steps run.
    """

    def __init__(self, name: str, network: CharGru, worker: Executor) -> None:
        self.counters = ModelCounters()
        self.metadata = ModelMetadata(
            name,
            PLATFORM,
            frozenset({Capability.GENERATE, Capability.INFER_STREAM}),
            inputs=_INPUTS,
            outputs=_OUTPUTS,
        )
        self.decoder = Decoder(network, worker, self.counters)
        self._running = asyncio.create_task(self.decoder.run(), name=f"decoder of {name}")

    async def close(self) -> None:
        """End what it writes with UNAVAILABLE; returns once its last step is over."""
        self.decoder.close()
        self._running.cancel()
        await asyncio.wait([self._running])

    async def generate(
        self, prompt: Prompt, sampling: Sampling, ctx: BackendContext
    ) -> AsyncGenerator[Chunk, None]:
        """See `protoplane_server.backends.interface.Backend.generate`."""
        with self.counters.request():
            rules = Rules.of(sampling)
            read = _read(prompt)
            stops = StopText(rules.stop)
            left_s = ctx.time_remaining_s()
            if left_s == 0:
                raise ctx.too_late()
            stream = self.decoder.open([END, *read], rules, priority=ctx.priority)
            timer = None
            if left_s is not None:
                loop = asyncio.get_running_loop()
                timer = loop.call_later(left_s, lambda: stream.fail(ctx.too_late()))
            try:
                finish = FinishReason.LENGTH
                count = 0
                async for token in stream:
                    count += 1
                    if token == END or token in rules.stop_tokens:
                        finish = FinishReason.STOP
                        break
                    text = stops.add(decode((token,)))
                    if stops.stopped:
                        finish = FinishReason.STOP
                        yield Chunk(text, (token,))
                        break
                    yield Chunk(text, (token,))
                yield Chunk(stops.end(), (), finish, Usage(len(read), count))
            finally:
                stream.close()
                if timer is not None:
                    timer.cancel()

    async def stream(
        self, inputs: Sequence[Tensor], ctx: BackendContext, outputs: Sequence[str]
    ) -> AsyncGenerator[Sequence[Tensor], None]:
        """See `protoplane_server.backends.interface.Backend.stream`: a tensor for each piece."""
        found = check_inputs(self.metadata.name, _INPUTS, inputs)
        chosen_outputs(self.metadata.name, [Tensor.of("TEXT", [b""])], outputs)
        sampling = Sampling(
            max_tokens=int(found["MAX_TOKENS"][0]) if "MAX_TOKENS" in found else None,
            temperature=float(found["TEMPERATURE"][0]) if "TEMPERATURE" in found else None,
            seed=int(found["SEED"][0]) if "SEED" in found else None,
        )
        try:
            prompt = found["PROMPT"][0].decode()
        except UnicodeDecodeError as error:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"input 'PROMPT': expected UTF-8, got {error.reason}"
            ) from error
        async with aclosing(self.generate(prompt, sampling, ctx)) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    yield [Tensor.of("TEXT", [chunk.text])]


def _read(prompt: Prompt) -> list[int]:
    if isinstance(prompt, Tokens):
        strange = unknown(prompt.ids)
        if strange is not None:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"token_ids holds {strange}; this model has no such token"
            )
        tokens = list(prompt.ids)
    elif isinstance(prompt, str):
        tokens = encode(prompt)
    else:
        # It was never taught to talk, so a conversation is a text like any other.
        tokens = encode("\n".join(message.content for message in prompt))
    if len(tokens) > MAX_PROMPT_TOKENS:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"the prompt has {len(tokens)} tokens, {MAX_PROMPT_TOKENS} are the most; shorten it",
        )
    return tokens
