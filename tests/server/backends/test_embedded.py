"""The embedded backend: what all backends do, and what its own models promise."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from tests.server.backends.backend_suite import (
    CTX,
    LONG,
    BackendSuite,
    eventually,
    text_of,
    written,
)
from tests.server.backends.models import weights, write_model

from protoplane_base import Code, PlaneError
from protoplane_server.backends.batched import BatchedBackend
from protoplane_server.backends.embedded.backend import EMBEDDER, WEIGHTS, WRITER, EmbeddedBackend
from protoplane_server.backends.embedded.blas import one_thread
from protoplane_server.backends.embedded.gru import CharGru
from protoplane_server.backends.embedded.vocabulary import END, SIZE, decode, encode
from protoplane_server.backends.interface import (
    Backend,
    BackendContext,
    ModelSource,
    Sampling,
    Tokens,
)
from protoplane_server.backends.sampling import Rules
from protoplane_server.backends.tensors import Tensor
from protoplane_server.backends.token_queue import AHEAD


class TestEmbedded(BackendSuite):
    writer = WRITER
    embedder = EMBEDDER
    tensor_model = EMBEDDER
    stream_model = WRITER
    # A high temperature and many tokens: an end of text is as unlikely as anything else.
    endless = Sampling(max_tokens=LONG, temperature=0.0, repetition_penalty=1.0, seed=1)

    def make(self) -> Backend:
        return EmbeddedBackend()

    def inputs(self) -> list[Tensor]:
        return [Tensor.of("TEXT", ["one plane", "two planes"])]

    def stream_inputs(self) -> list[Tensor]:
        return [
            Tensor.of("PROMPT", ["The "]),
            Tensor.of("MAX_TOKENS", np.array([9], np.int32)),
            Tensor.of("SEED", np.array([1], np.uint64)),
        ]

    async def test_a_text_does_not_depend_on_its_company(self, backend: Backend) -> None:
        async def text(seed: int, sampling: Sampling) -> str:
            prompt = f"The {seed}"
            return text_of(await written(backend.generate(WRITER, prompt, sampling, CTX)))

        ways = [
            Sampling(seed=seed, max_tokens=30 + seed, temperature=temperature, top_k=k, top_p=p)
            for seed, (temperature, k, p) in enumerate(
                [(1.0, 0, 1.0), (2.0, 5, 1.0), (0.7, 0, 0.8), (0.0, 0, 1.0), (1.3, 9, 0.5)] * 8
            )
        ]
        alone = [await text(seed, sampling) for seed, sampling in enumerate(ways)]
        together = await asyncio.gather(*map(text, range(len(ways)), ways))
        assert together == alone

    async def test_another_model_from_a_file(self, backend: Backend, tmp_path: Path) -> None:
        path = tmp_path / "small.npz"
        write_model(path, hidden=8)
        loaded = await backend.load("small", ModelSource(path))
        assert loaded.name == "small"
        await written(backend.generate("small", "a", Sampling(max_tokens=4), CTX))
        await backend.unload("small")
        path.unlink()
        with pytest.raises(PlaneError) as caught:
            await backend.load("small", ModelSource())
        assert caught.value.code is Code.NOT_FOUND

    @pytest.mark.parametrize("fault", ["no npz", "truncated", "array", "shape", "finite", "wide"])
    async def test_files_that_are_no_model(
        self, backend: Backend, tmp_path: Path, fault: str
    ) -> None:
        path = tmp_path / "bad.npz"
        write_model(path, hidden=400 if fault == "wide" else 8)
        with np.load(path) as arrays:
            weights = dict(arrays)
        match fault:
            case "no npz":
                path.write_bytes(b"\x80\x04K\x01.")
            case "truncated":
                path.write_bytes(path.read_bytes()[:300])
            case "array":
                del weights["output"]
                np.savez(path, **weights)
            case "shape":
                weights["output"] = weights["output"][:, :-1]
                np.savez(path, **weights)
            case "finite":
                weights["output_bias"][0] = np.nan
                np.savez(path, **weights)
            case _:
                pass
        with pytest.raises(PlaneError) as caught:
            await backend.load("bad", ModelSource(path))
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert "holds no character model" in caught.value.message
        assert "bad" not in [model.name for model in await backend.list()]

    async def test_token_ids_are_a_prompt(self, backend: Backend) -> None:
        sampling = Sampling(seed=5, max_tokens=10)
        by_text = await written(backend.generate(WRITER, "The ", sampling, CTX))
        tokens = Tokens(tuple(encode("The ")))
        assert await written(backend.generate(WRITER, tokens, sampling, CTX)) == by_text
        with pytest.raises(PlaneError, match=str(SIZE)):
            await written(backend.generate(WRITER, Tokens((SIZE,)), sampling, CTX))

    async def test_the_loop_stays_free(self, backend: Backend) -> None:
        seen: set[int] = set()
        step = CharGru.step

        def spy(*arguments: object) -> object:
            seen.add(threading.get_ident())
            return step(*arguments)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CharGru, "step", spy)
            await written(backend.generate(WRITER, "The ", Sampling(max_tokens=2), CTX))
        assert seen
        assert threading.get_ident() not in seen

    async def test_a_reader_that_looks_away_stops_its_text(self, backend: Backend) -> None:
        async with aclosing(backend.generate(WRITER, "The ", self.endless, CTX)) as chunks:
            await anext(chunks)
            # Another's whole text is written meanwhile, so there was time for more of this one.
            other = Sampling(max_tokens=3 * AHEAD, seed=2, temperature=3.0)
            *_, last = await written(backend.generate(WRITER, "A", other, CTX))
            assert last.usage is not None
            stats = await backend.stats(WRITER)
            assert stats.tokens <= last.usage.completion_tokens + AHEAD + 1

    async def test_a_thousand_texts_that_were_left(self, backend: Backend) -> None:
        async def leave() -> None:
            async with aclosing(backend.generate(WRITER, "The ", self.endless, CTX)) as chunks:
                await anext(chunks)

        tasks = [asyncio.create_task(leave()) for _ in range(500)]
        cancelled = [
            asyncio.create_task(written(backend.generate(WRITER, "The ", self.endless, CTX)))
            for _ in range(500)
        ]
        await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        async with asyncio.timeout(60):
            await asyncio.wait([*tasks, *cancelled])
        await self._idle(backend, cancelled=500 + 500)

        async def at_rest() -> bool:
            before = await backend.stats(WRITER)
            await asyncio.sleep(0.05)
            return (await backend.stats(WRITER)).executions == before.executions

        await eventually(at_rest)

    async def test_the_urgent_go_first(self, backend: Backend) -> None:
        order: list[int] = []

        async def text(number: int, priority: int) -> None:
            ctx = BackendContext(priority=priority)
            await written(backend.generate(WRITER, "The ", Sampling(max_tokens=40), ctx))
            order.append(number)

        # More than are written at once, so the rest waits.
        others = [asyncio.create_task(text(number, 0)) for number in range(150)]
        await asyncio.sleep(0)
        await text(-1, 1)
        await asyncio.gather(*others)
        assert order.index(-1) < 135

    async def test_too_many_texts_are_refused_with_a_hint(self) -> None:
        backend = EmbeddedBackend()
        await backend.start()
        try:
            tasks = [
                asyncio.create_task(
                    written(backend.generate(WRITER, "The ", Sampling(max_tokens=1), CTX))
                )
                for _ in range(2049 + 64)
            ]
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await backend.stop()
        refused = [each for each in outcomes if isinstance(each, PlaneError)]
        assert refused
        assert all(each.code is Code.RESOURCE_EXHAUSTED for each in refused)
        [hint] = refused[0].details
        assert isinstance(hint, RetryInfo)
        assert hint.retry_delay.ToMilliseconds() > 0


def test_it_ships_with_a_model_that_learned_something() -> None:
    with WEIGHTS.open("rb") as file:
        network = CharGru.load(file)
    assert 250_000 < network.parameters < 300_000
    text = "The component publishes an event on the event plane."
    tokens = [END, *encode(text)]
    state, loss = network.start(1), 0.0
    with one_thread():
        for token, wanted in pairwise(tokens):
            state = network.step(state, np.array([token]))
            scores = network.scores(state)[0]
            loss -= float(scores[wanted] - np.log(np.exp(scores).sum()))
    # One that knows nothing has log(SIZE), 4.6 nats a character.
    assert loss / len(text) < 2.2


def test_the_network_gives_the_same_bits_in_any_batch() -> None:
    random = np.random.default_rng(5)
    network = CharGru(weights(64, seed=3))
    states = np.tanh(random.normal(size=(37, 64))).astype(np.float32)
    tokens = random.integers(0, SIZE, 37)
    whole = network.step(states, tokens)
    scores = network.scores(whole)
    for rows in ([0], [36], [3, 9, 30], list(range(5, 37)), [1, 0]):
        part = network.step(states[rows], tokens[rows])
        assert np.array_equal(part, whole[rows])
        assert np.array_equal(network.scores(part), scores[rows])


def test_text_becomes_tokens_and_back() -> None:
    printable = "\n" + "".join(map(chr, range(32, 127)))
    assert decode(encode(printable)) == printable
    assert decode(encode("naïve “text” – Ω")) == 'naive "text" -  '
    assert max(encode(printable)) == SIZE - 1


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(seed=-1), "seed"),
        (Sampling(seed=1 << 64), "seed"),
        (Sampling(max_tokens=5000), "max_tokens"),
        (Sampling(stop=("",)), "stop"),
        (Sampling(stop=("a",) * 17), "stop"),
        (Sampling(stop_tokens=(SIZE,)), "stop_token_ids"),
        (Sampling(repetition_penalty=0.0), "repetition_penalty"),
        (Sampling(temperature=float("nan")), "temperature"),
    ],
)
def test_rules_that_cannot_be(sampling: Sampling, field: str) -> None:
    with pytest.raises(PlaneError, match=field) as caught:
        Rules.of(sampling)
    assert caught.value.code is Code.INVALID_ARGUMENT


class TestBatched(TestEmbedded):
    """With a batcher before it, it does all the same."""

    def make(self) -> Backend:
        return BatchedBackend(EmbeddedBackend())

    async def test_requests_run_as_one(self, backend: Backend) -> None:
        async def vectors(number: int) -> list[float]:
            inputs = [Tensor.of("TEXT", [f"text {number}"])]
            [output] = await backend.infer(EMBEDDER, inputs, CTX)
            found: list[float] = output.data[0].tolist()
            return found

        first = await vectors(0)
        executions = (await backend.stats(EMBEDDER)).executions
        found = await asyncio.gather(*(vectors(number) for number in range(20)))
        assert found[0] == first
        assert len({tuple(each) for each in found}) == 20
        assert (await backend.stats(EMBEDDER)).executions < executions + 20
