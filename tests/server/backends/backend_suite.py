"""What every backend does; the tests of a driver derive from `BackendSuite`.

What a driver cannot do by its nature it overrides with a skip that says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from time import monotonic
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import (
    Backend,
    BackendContext,
    Capability,
    Chunk,
    FinishReason,
    ModelSource,
    ModelState,
    Prompt,
    Sampling,
)
from protoplane_server.backends.tensors import Datatype, Tensor

CTX = BackendContext(request_id="test")
LONG = 1500
"""Tokens of a text that does not come to its end by itself before a test has left it."""


async def eventually(holds: Callable[[], Coroutine[Any, Any, bool]], limit_s: float = 20) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(limit_s):
        while not await holds():  # noqa: ASYNC110  # what is watched sets no event
            await asyncio.sleep(0.005)


async def written(chunks: AsyncIterator[Chunk]) -> list[Chunk]:
    """All chunks of a text."""
    return [chunk async for chunk in chunks]


def text_of(chunks: Sequence[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


class BackendSuite:
    """The behaviour cases; derive from it, define `make`, and name the models.

    Attributes:
        writer: A model that generates; its texts go on for longer than `LONG` tokens, or until
            they are cancelled, when sampled with `endless`.
        embedder: A model that embeds.
        tensor_model: A model that infers.
        stream_model: A model that answers with several results.
    """

    pytestmark = pytest.mark.anyio

    writer = ""
    embedder = ""
    tensor_model = ""
    stream_model = ""
    endless = Sampling(max_tokens=LONG)

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    def make(self) -> Backend:
        """A backend that is not started."""
        raise NotImplementedError

    def inputs(self) -> list[Tensor]:
        """Inputs that `tensor_model` takes."""
        raise NotImplementedError

    def stream_inputs(self) -> list[Tensor]:
        """Inputs that `stream_model` takes, and answers with several results."""
        raise NotImplementedError

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        backend = self.make()
        await backend.start()
        try:
            yield backend
        finally:
            await backend.stop()

    async def test_lives_from_start_to_stop(self) -> None:
        backend = self.make()
        await backend.start()
        await backend.warm_up()
        assert await backend.live()
        assert await backend.ready(self.writer)
        await backend.stop()
        await backend.stop()
        assert not await backend.live()
        assert not await backend.ready(self.writer)

    async def test_lists_what_metadata_says(self, backend: Backend) -> None:
        listed = {model.name: model for model in await backend.list()}
        assert list(listed) == sorted(listed)
        for name, capability in (
            (self.writer, Capability.GENERATE),
            (self.embedder, Capability.EMBED),
            (self.tensor_model, Capability.INFER),
            (self.stream_model, Capability.INFER_STREAM),
        ):
            assert listed[name] == await backend.metadata(name)
            assert listed[name].state is ModelState.LOADED
            assert capability in listed[name].capabilities
            assert capability in backend.capabilities.models

    async def test_a_model_that_there_is_not(self, backend: Backend) -> None:
        calls: list[Coroutine[Any, Any, object]] = [
            backend.metadata("nobody"),
            backend.infer("nobody", self.inputs(), CTX),
            _all(lambda: backend.stream("nobody", self.stream_inputs(), CTX)),
            _all(lambda: backend.generate("nobody", "", Sampling(), CTX)),
            backend.embed("nobody", ["a"], CTX),
            backend.unload("nobody"),
            backend.load("nobody", ModelSource()),
            backend.stats("nobody"),
            backend.metadata(self.writer, "77"),
        ]
        for call in calls:
            with pytest.raises(PlaneError) as caught:
                await call
            assert caught.value.code is Code.NOT_FOUND
        assert not await backend.ready("nobody")
        assert not await backend.ready(self.writer, "77")

    async def test_infer_gives_what_it_declares(self, backend: Backend) -> None:
        outputs = await backend.infer(self.tensor_model, self.inputs(), CTX)
        declared = (await backend.metadata(self.tensor_model)).outputs
        assert [(each.name, each.datatype) for each in outputs] == [
            (spec.name, spec.datatype) for spec in declared
        ]
        assert all(spec.fits(each.shape) for spec, each in zip(declared, outputs, strict=True))
        assert (await backend.stats(self.tensor_model)).succeeded == 1

    async def test_infer_gives_the_outputs_that_are_wanted(self, backend: Backend) -> None:
        name = (await backend.metadata(self.tensor_model)).outputs[-1].name
        [output] = await backend.infer(self.tensor_model, self.inputs(), CTX, outputs=[name])
        assert output.name == name
        with pytest.raises(PlaneError) as caught:
            await backend.infer(self.tensor_model, self.inputs(), CTX, outputs=["NOTHING"])
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert "'NOTHING'" in caught.value.message

    @pytest.mark.parametrize("fault", ["name", "datatype", "shape", "missing", "twice"])
    async def test_tensors_that_a_model_does_not_take(self, backend: Backend, fault: str) -> None:
        first, *rest = self.inputs()
        told = ["expected", "got", first.name]
        match fault:
            case "name":
                wrong = [Tensor("STRANGE", first.datatype, first.data), *rest]
                told = ["expected", "STRANGE", first.name]
            case "datatype":
                wrong = [Tensor.of(first.name, np.zeros(first.shape, np.int16)), *rest]
                told += [first.datatype, Datatype.INT16]
            case "shape":
                wrong = [Tensor(first.name, first.datatype, first.data[None, None]), *rest]
                told += [f"[1, 1, {', '.join(map(str, first.shape))}]"]
            case "missing":
                wrong = rest
            case _:
                wrong = [first, first, *rest]
        with pytest.raises(PlaneError) as caught:
            await backend.infer(self.tensor_model, wrong, CTX)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert [word for word in told if word not in caught.value.message] == []
        await backend.infer(self.tensor_model, self.inputs(), CTX)

    async def test_stream_gives_several_results(self, backend: Backend) -> None:
        stream = backend.stream(self.stream_model, self.stream_inputs(), CTX)
        results = [outputs async for outputs in stream]
        declared = (await backend.metadata(self.stream_model)).outputs
        assert len(results) > 1
        for outputs in results:
            for spec, output in zip(declared, outputs, strict=True):
                assert (output.name, output.datatype) == (spec.name, spec.datatype)
                assert spec.fits(output.shape)

    async def test_what_a_model_cannot_do(self, backend: Backend) -> None:
        for model in await backend.list():
            if model.state is not ModelState.LOADED:
                continue
            asked: dict[Capability, Coroutine[Any, Any, object]] = {
                Capability.GENERATE: _all(
                    partial(backend.generate, model.name, "a", Sampling(), CTX)
                ),
                Capability.EMBED: backend.embed(model.name, ["a"], CTX),
                Capability.INFER: backend.infer(model.name, [], CTX),
                Capability.INFER_STREAM: _all(partial(backend.stream, model.name, [], CTX)),
            }
            for capability, call in asked.items():
                if capability in model.capabilities:
                    call.close()
                    continue
                with pytest.raises(PlaneError) as caught:
                    await call
                assert caught.value.code is Code.UNIMPLEMENTED
                assert model.name in caught.value.message

    async def test_a_text_ends_with_a_reason_and_the_usage(self, backend: Backend) -> None:
        sampling = Sampling(max_tokens=12, seed=3)
        chunks = await written(backend.generate(self.writer, "The state", sampling, CTX))
        *begun, last = chunks
        assert last.finish is not None
        assert last.usage is not None
        assert last.usage.prompt_tokens > 0
        assert last.usage.completion_tokens <= 12
        assert all(chunk.finish is None and chunk.usage is None for chunk in begun)
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        assert tokens <= last.usage.completion_tokens
        stats = await backend.stats(self.writer)
        assert (stats.succeeded, stats.in_flight) == (1, 0)
        assert stats.tokens >= last.usage.completion_tokens

    async def test_max_tokens_end_a_text(self, backend: Backend) -> None:
        sampling = Sampling(max_tokens=1, temperature=0.0)
        *_, last = await written(backend.generate(self.writer, "The stat", sampling, CTX))
        assert last.finish is FinishReason.LENGTH
        assert last.usage is not None
        assert last.usage.completion_tokens == 1

    async def test_the_same_seed_gives_the_same_text(self, backend: Backend) -> None:
        async def text(seed: int | None) -> str:
            sampling = Sampling(seed=seed, max_tokens=40, temperature=1.5)
            return text_of(await written(backend.generate(self.writer, "A ", sampling, CTX)))

        alone = await text(7)
        together = await asyncio.gather(*(text(seed) for seed in (7, 8, 7, 9)))
        assert [each == alone for each in together] == [True, False, True, False]
        assert len({await text(None) for _ in range(3)}) > 1

    async def test_a_text_stops_before_a_stop(self, backend: Backend) -> None:
        sampling = Sampling(max_tokens=60, seed=11)
        whole = text_of(await written(backend.generate(self.writer, "The ", sampling, CTX)))
        stop = whole[4:7]
        stopping = Sampling(max_tokens=60, seed=11, stop=("\0never", stop))
        chunks = await written(backend.generate(self.writer, "The ", stopping, CTX))
        assert text_of(chunks) == whole[: whole.index(stop)]
        assert chunks[-1].finish is FinishReason.STOP

    @pytest.mark.parametrize(
        ("field", "sampling"),
        [
            ("temperature", Sampling(temperature=-1)),
            ("top_p", Sampling(top_p=1.5)),
            ("top_k", Sampling(top_k=-1)),
            ("max_tokens", Sampling(max_tokens=0)),
        ],
    )
    async def test_sampling_that_cannot_be(
        self, backend: Backend, field: str, sampling: Sampling
    ) -> None:
        with pytest.raises(PlaneError) as caught:
            await written(backend.generate(self.writer, "a", sampling, CTX))
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert field in caught.value.message

    async def test_leaving_a_text_stops_the_model(self, backend: Backend) -> None:
        async with aclosing(backend.generate(self.writer, "The ", self.endless, CTX)) as chunks:
            await anext(chunks)
        await self._idle(backend, cancelled=1)

    async def test_cancelling_a_text_stops_the_model(self, backend: Backend) -> None:
        begun = asyncio.Event()

        async def read() -> None:
            async with aclosing(self._slow(backend)) as chunks:
                async for _ in chunks:
                    begun.set()
                    await asyncio.Event().wait()

        task = asyncio.create_task(read())
        async with asyncio.timeout(20):
            await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self._idle(backend, cancelled=1)

    async def test_a_deadline_that_has_passed(self, backend: Backend) -> None:
        ctx = BackendContext(request_id="late", deadline=monotonic() - 1)
        with pytest.raises(PlaneError) as caught:
            await written(backend.generate(self.writer, "The ", Sampling(), ctx))
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        await self._idle(backend)

    async def test_a_deadline_ends_a_text(self, backend: Backend) -> None:
        ctx = BackendContext(request_id="late", deadline=monotonic() + 0.2)

        async def read() -> None:
            while True:  # A text may come to its end before that; then there is another.
                await written(backend.generate(self.writer, "The ", self.endless, ctx))

        with pytest.raises(PlaneError) as caught:
            await read()
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        await self._idle(backend)

    async def test_many_texts_at_once(self, backend: Backend) -> None:
        sampling = Sampling(max_tokens=8)
        async with asyncio.timeout(60):
            texts = await asyncio.gather(
                *(
                    written(backend.generate(self.writer, f"{number}", sampling, CTX))
                    for number in range(100)
                )
            )
        assert all(chunks[-1].usage is not None for chunks in texts)
        await self._idle(backend, succeeded=100)

    async def test_a_conversation_and_tokens_are_prompts(self, backend: Backend) -> None:
        from protoplane_server.backends.interface import ChatMessage

        talk = [ChatMessage("system", "Be short."), ChatMessage("user", "What is a plane?")]
        prompts: list[Prompt] = ["", talk]
        for prompt in prompts:
            chunks = await written(
                backend.generate(self.writer, prompt, Sampling(max_tokens=3), CTX)
            )
            assert chunks[-1].finish is not None

    async def test_embeddings_have_length_one(self, backend: Backend) -> None:
        texts = ["a red plane", "the red planes", "quite another matter"]
        made = await backend.embed(self.embedder, texts, CTX)
        dimensions = (await backend.metadata(self.embedder)).dimensions
        assert made.vectors.shape == (3, dimensions)
        assert made.vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(made.vectors, axis=1), 1, rtol=1e-5)
        first, like, unlike = made.vectors
        assert first @ like > first @ unlike
        assert made.usage.prompt_tokens > 0
        again = await backend.embed(self.embedder, texts[:1], CTX)
        np.testing.assert_allclose(again.vectors[0], first, rtol=1e-5)

    async def test_embedding_nothing(self, backend: Backend) -> None:
        made = await backend.embed(self.embedder, [], CTX)
        dimensions = (await backend.metadata(self.embedder)).dimensions
        assert made.vectors.shape == (0, dimensions)

    async def test_unloading_and_loading(self, backend: Backend) -> None:
        assert backend.capabilities.loading
        await backend.unload(self.writer)
        await backend.unload(self.writer)
        assert not await backend.ready(self.writer)
        assert (await backend.metadata(self.writer)).state is ModelState.UNLOADED
        with pytest.raises(PlaneError) as caught:
            await written(backend.generate(self.writer, "a", Sampling(), CTX))
        assert caught.value.code is Code.FAILED_PRECONDITION
        loaded = await backend.load(self.writer, ModelSource())
        assert loaded.state is ModelState.LOADED
        assert await backend.ready(self.writer)
        await written(backend.generate(self.writer, "a", Sampling(max_tokens=2), CTX))

    @pytest.mark.parametrize("way", ["unload", "load", "stop"])
    async def test_what_is_written_ends_with_its_model(self, backend: Backend, way: str) -> None:
        async with aclosing(self._slow(backend)) as chunks:
            await anext(chunks)
            match way:
                case "unload":
                    await backend.unload(self.writer)
                case "load":
                    await backend.load(self.writer, ModelSource())
                case _:
                    await backend.stop()
            with pytest.raises(PlaneError) as caught:
                await asyncio.wait_for(written(chunks), 20)
        assert caught.value.code is Code.UNAVAILABLE

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors],  # One class a driver inherits it.
    )
    @given(text=st.text(max_size=40))
    def test_any_text_is_a_prompt(self, text: str) -> None:
        async def go() -> None:
            backend = self.make()
            await backend.start()
            try:
                sampling = Sampling(max_tokens=2)
                chunks = await written(backend.generate(self.writer, text, sampling, CTX))
                assert chunks[-1].usage is not None
                made = await backend.embed(self.embedder, [text], CTX)
                assert np.isfinite(made.vectors).all()
            finally:
                await backend.stop()

        asyncio.run(go())

    def _slow(self, backend: Backend) -> Any:
        """A text that is still being written while its reader looks away."""
        return backend.generate(self.writer, "The ", self.endless, CTX)

    async def _idle(self, backend: Backend, **counts: int) -> None:
        """Wait until the writer does nothing, and has these counts."""

        async def idle() -> bool:
            stats = await backend.stats(self.writer)
            return stats.in_flight == 0 and all(
                getattr(stats, name) == many for name, many in counts.items()
            )

        await eventually(idle)


async def _all(stream: Callable[[], AsyncIterator[object]]) -> object:
    return [each async for each in stream()]
