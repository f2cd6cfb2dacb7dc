"""The PyTorch backend: what all backends do that write, and what its cache promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

# CI does without it: with all that it brings it is larger than everything else together.
pytest.importorskip("torch", reason="PyTorch is not installed (the extra torch)")

import torch
from tests.server.backends.backend_suite import (
    CTX,
    LONG,
    BackendSuite,
    eventually,
    text_of,
    written,
)
from tests.server.backends.torch_models import (
    TINY,
    unpaged_scores,
    weights_of,
    write_model,
)

from protoplane.router.v1 import KvEvent, KvStateResponse
from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.following import KvFollower
from protoplane_components.kv_router.hashing import block_hashes, sequence_hashes
from protoplane_components.kv_router.index import KvIndex, Target
from protoplane_components.kv_router.states import FetchedState, gather
from protoplane_runtime.engines.interface import Event, EventId, Start
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_server.backends.interface import (
    Backend,
    Capability,
    FinishReason,
    ModelSource,
    ModelState,
    Sampling,
    Tokens,
)
from protoplane_server.backends.opening import open_backend
from protoplane_server.backends.tensors import Tensor
from protoplane_server.backends.token_queue import AHEAD
from protoplane_server.backends.torch.backend import TorchBackend
from protoplane_server.backends.torch.model import Llama
from protoplane_server.hosting import Host

NAME = "llama-random"
_SKIPPED = frozenset({
    "test_infer_gives_what_it_declares",
    "test_infer_gives_the_outputs_that_are_wanted",
    "test_tensors_that_a_model_does_not_take",
    "test_stream_gives_several_results",
    "test_embeddings_have_length_one",
    "test_embedding_nothing",
    "test_any_text_is_a_prompt",
})  # fmt: skip


class TestTorch(BackendSuite):
    writer = NAME
    endless = Sampling(max_tokens=LONG, temperature=0.0)

    @pytest.fixture(autouse=True)
    def only_text(self, request: pytest.FixtureRequest) -> None:
        if request.node.originalname in _SKIPPED:
            pytest.skip("it is about tensors or vectors, and a Llama writes text")

    def make(self) -> Backend:
        return open_backend("torch:?device=cpu")

    def inputs(self) -> list[Tensor]:
        return []

    def stream_inputs(self) -> list[Tensor]:
        return []

    async def test_lists_what_metadata_says(self, backend: Backend) -> None:
        [listed] = await backend.list()
        assert listed == await backend.metadata(NAME)
        assert listed.state is ModelState.LOADED
        assert listed.capabilities == {Capability.GENERATE} == backend.capabilities.models
        assert listed.context_tokens == 4096

    async def test_token_ids_are_a_prompt(self, backend: Backend) -> None:
        sampling = Sampling(seed=5, max_tokens=10)
        by_text = await written(backend.generate(NAME, "The ", sampling, CTX))
        tokens = Tokens(tuple(b"The "))
        assert await written(backend.generate(NAME, tokens, sampling, CTX)) == by_text
        with pytest.raises(PlaneError, match="256"):
            await written(backend.generate(NAME, Tokens((256,)), sampling, CTX))

    async def test_a_token_to_stop_at(self, backend: Backend) -> None:
        sampling = Sampling(seed=5, max_tokens=30)
        chunks = await written(backend.generate(NAME, "The ", sampling, CTX))
        tokens = [token for chunk in chunks for token in chunk.tokens]
        stopping = Sampling(seed=5, max_tokens=30, stop_tokens=(tokens[9],))
        chunks = await written(backend.generate(NAME, "The ", stopping, CTX))
        assert chunks[-1].finish is FinishReason.STOP
        assert [token for chunk in chunks for token in chunk.tokens] == tokens[
            : tokens.index(tokens[9])
        ]

    async def test_a_prompt_that_is_too_long(self, backend: Backend) -> None:
        with pytest.raises(PlaneError, match="4096 tokens, 4095 are the most"):
            await written(backend.generate(NAME, Tokens((1,) * 4096), Sampling(), CTX))

    async def test_the_context_ends_a_text(self) -> None:
        async with running("torch:?device=cpu&blocks=4") as backend:
            assert (await backend.metadata(NAME)).context_tokens == 64
            prompt = Tokens(tuple(range(50)))
            sampling = Sampling(max_tokens=60)
            *_, last = await written(backend.generate(NAME, prompt, sampling, CTX))
        assert last.finish is FinishReason.LENGTH
        assert last.usage is not None
        assert last.usage.completion_tokens == 14

    async def test_too_many_texts_are_refused_with_a_hint(self) -> None:
        async with running("torch:?device=cpu&max_sequences=1&max_waiting=2") as backend:
            tasks = [
                asyncio.create_task(
                    written(backend.generate(NAME, "The ", Sampling(max_tokens=3), CTX))
                )
                for _ in range(5)
            ]
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [each for each in ended if isinstance(each, PlaneError)]
        assert {each.code for each in refused} == {Code.RESOURCE_EXHAUSTED}
        assert 0 < len(refused) < 5

    async def test_a_reader_that_looks_away_stops_its_text(self, backend: Backend) -> None:
        async with aclosing(backend.generate(NAME, "The ", self.endless, CTX)) as chunks:
            await anext(chunks)
            # Another's whole text is written meanwhile, so there was time for more of this one.
            other = Sampling(max_tokens=3 * AHEAD)
            await written(backend.generate(NAME, "A", other, CTX))
            assert (await backend.stats(NAME)).tokens <= 4 * AHEAD + 2

    async def test_a_thousand_texts_that_were_left_hold_no_block(self, backend: Backend) -> None:
        assert isinstance(backend, TorchBackend)

        async def leave() -> None:
            async with aclosing(backend.generate(NAME, "The ", self.endless, CTX)) as chunks:
                await anext(chunks)

        tasks = [asyncio.create_task(leave()) for _ in range(500)]
        cancelled = [
            asyncio.create_task(written(backend.generate(NAME, "The ", self.endless, CTX)))
            for _ in range(500)
        ]
        await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        async with asyncio.timeout(60):
            await asyncio.wait([*tasks, *cancelled])
        await self._idle(backend, cancelled=1000)

        async def nothing_held() -> bool:
            return backend.held_blocks(NAME) == 0

        await eventually(nothing_held)
        await written(backend.generate(NAME, "The ", Sampling(max_tokens=1), CTX))

    async def test_a_step_that_fails_ends_its_texts_alone(self, backend: Backend) -> None:
        def broken(*_: object) -> object:
            raise RuntimeError("of the test")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Llama, "scores", broken)
            with pytest.raises(PlaneError, match="RuntimeError") as caught:
                await written(backend.generate(NAME, "The ", Sampling(), CTX))
        assert caught.value.code is Code.INTERNAL
        await written(backend.generate(NAME, "The ", Sampling(max_tokens=3), CTX))


@asynccontextmanager
async def running(url: str, log: MemoryLog | None = None) -> AsyncGenerator[TorchBackend]:
    backend = open_backend(url)
    assert isinstance(backend, TorchBackend)
    if log is not None:
        backend.hosted(Host("test/llama/one", log, None, _no_store, CollectorRegistry()))
    await backend.start()
    try:
        yield backend
    finally:
        await backend.stop()


async def _no_store() -> ObjectStore:
    raise NotImplementedError


class Router:
    """What a router makes of the events; blocks by their hash, with the hash of their tokens."""

    def __init__(self, log: MemoryLog, worker: str = "one") -> None:
        self.blocks: dict[int, int] = {}
        self.ids: list[int] = []
        self.cleared = 0
        self._log = log
        self._key = f"router/kv-events/{worker}/0"

    async def follow(self) -> None:
        async for batch in self._log.read([self._key], after=Start.EARLIEST):
            for event in batch:
                assert isinstance(event, Event)
                self._apply(KvEvent.model_validate_json(event.json))

    def _apply(self, event: KvEvent) -> None:
        self.ids.append(event.event_id)
        assert event.block_size == 16
        if event.stored is not None:
            parent = event.stored.parent_hash
            assert parent is None or parent in self.blocks
            assert (parent is None) == (event.stored.start_position == 0)
            self.blocks |= zip(event.stored.block_hashes, event.stored.tokens_hashes, strict=True)
        elif event.removed is not None:
            for block in event.removed.block_hashes:
                del self.blocks[block]
        else:
            self.blocks.clear()
            self.cleared += 1


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_router_learns_what_the_cache_holds() -> None:
    log = MemoryLog()
    router = Router(log)
    following = asyncio.create_task(router.follow())
    try:
        async with running("torch:?device=cpu&blocks=20", log) as backend:

            async def known() -> bool:
                state = backend.kv_state(NAME)
                blocks = {
                    block: tokens
                    for piece in state
                    for block, tokens in zip(piece.block_hashes, piece.tokens_hashes, strict=True)
                }
                return blocks == router.blocks and router.ids[-1:] == [state[0].event_id]

            prompt = tuple(range(100))
            sampling = Sampling(max_tokens=20)
            await written(backend.generate(NAME, Tokens(prompt), sampling, CTX))
            await eventually(known)
            hashes = block_hashes(prompt, 16)
            first = dict(zip(sequence_hashes(hashes), hashes.tolist(), strict=True))
            assert first.items() <= router.blocks.items()
            # More than there is room for, so the first have to go.
            for number in range(8):
                other = Tokens(tuple(range(number, number + 90)))
                await written(backend.generate(NAME, other, sampling, CTX))
            await eventually(known)
            assert len(router.blocks) <= 20
            assert not first.items() <= router.blocks.items()
            await backend.unload(NAME)

        async def emptied() -> bool:
            return router.cleared == 1 and not router.blocks

        await eventually(emptied)
        assert router.ids == [*range(1, len(router.ids) + 1)]
    finally:
        following.cancel()
        await asyncio.wait([following])
        await log.close()


class AwayLog(MemoryLog):
    """A log that takes nothing while it is away."""

    away = False

    async def publish(self, *arguments: Any, **options: Any) -> EventId:
        if self.away:
            raise PlaneError(Code.UNAVAILABLE, "the log is away")
        return await super().publish(*arguments, **options)


@pytest.mark.anyio
async def test_events_that_were_lost_leave_a_hole() -> None:
    log = AwayLog()
    router = Router(log)
    following = asyncio.create_task(router.follow())
    try:
        async with running("torch:?device=cpu", log) as backend:
            sampling = Sampling(max_tokens=1)
            for number, away in enumerate((False, True, False)):
                log.away = away
                before = backend.kv_state(NAME)[0].event_id
                prompt = Tokens((number,) * 33)
                await written(backend.generate(NAME, prompt, sampling, CTX))

                async def counted(before: int = before) -> bool:
                    return backend.kv_state(NAME)[0].event_id > before

                await eventually(counted)

            async def told() -> bool:
                return router.ids == [1, 3]

            await eventually(told)
    finally:
        following.cancel()
        await asyncio.wait([following])
        await log.close()


@pytest.mark.anyio
async def test_the_kv_router_follows_and_asks_for_what_it_missed() -> None:
    log = AwayLog()
    target = Target("one")
    async with running("torch:?device=cpu&blocks=40", log) as backend:

        async def fetch(_: Target) -> FetchedState | None:
            return await gather(pieces(), 16)

        async def pieces() -> AsyncGenerator[KvStateResponse]:
            for piece in backend.kv_state(NAME):
                yield piece

        index = KvIndex()
        follower = KvFollower(index, log, fetch, block_size=16)
        following = asyncio.create_task(follower.run())
        try:
            follower.add(target)
            for number in range(6):
                log.away = number % 2 == 1
                prompt = [number] * 10 + [*range(100)]
                sampling = Sampling(max_tokens=20)
                await written(backend.generate(NAME, Tokens(tuple(prompt)), sampling, CTX))

            async def found() -> bool:
                depths = index.depths(block_hashes(prompt, 16))
                held = sum(len(piece.block_hashes) for piece in backend.kv_state(NAME))
                return depths.get(target) == 6 and index.count(target) == held

            # What is lost is noticed by the next that is not.
            log.away = False
            prompt = [9] * 100
            await written(
                backend.generate(NAME, Tokens(tuple(prompt)), Sampling(max_tokens=1), CTX)
            )
            await eventually(found)
        finally:
            following.cancel()
            await asyncio.wait([following])
    await log.close()


@pytest.mark.anyio
async def test_a_model_from_a_folder(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    async with running(f"torch:{folder}?device=cpu") as backend:
        assert [model.name for model in await backend.list()] == ["tiny"]
        prompt = Tokens((1, 2, 3))
        chunks = await written(
            backend.generate("tiny", prompt, Sampling(temperature=0.0, max_tokens=9), CTX)
        )
        weights = weights_of(TINY)
        tokens = [1, 2, 3]
        for _ in range(9):
            tokens.append(int(unpaged_scores(TINY, weights, tokens)[-1].argmax()))
        assert [token for chunk in chunks for token in chunk.tokens] == tokens[3:]
        other = TINY.model_copy(update={"vocab_size": 300, "eos_token_id": (tokens[5],)})
        write_model(tmp_path / "other", other)
        await backend.load("other", ModelSource(tmp_path / "other"))
        for asked in (Sampling(), Sampling(stop=("a",))):
            with pytest.raises(PlaneError, match=r"has no tokenizer\.json"):
                await written(backend.generate("other", "text", asked, CTX))
        chunks = await written(backend.generate("other", prompt, Sampling(max_tokens=4), CTX))
        assert text_of(chunks) == ""
        assert chunks[-1].usage is not None


@pytest.mark.anyio
async def test_a_model_with_a_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: token for token, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder = write_model(tmp_path / "tiny")
    tokenizer.save(str(folder / "tokenizer.json"))
    async with running(f"torch:{folder}?device=cpu") as backend:
        sampling = Sampling(seed=4, max_tokens=60)
        chunks = await written(backend.generate("tiny", "plane é", sampling, CTX))
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.prompt_tokens == 8
        ids = [token for chunk in chunks for token in chunk.tokens]
        # What is no text at the end is held back, else it is the same.
        assert tokenizer.decode(ids).startswith(text_of(chunks))
        assert len(text_of(chunks)) > 10
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(PlaneError, match="is no tokenizer"):
        async with running(f"torch:{folder}?device=cpu"):
            pass


@pytest.mark.anyio
async def test_folders_that_are_no_model(tmp_path: Path) -> None:
    async with running("torch:?device=cpu") as backend:
        with pytest.raises(PlaneError) as caught:
            await backend.load("bad", ModelSource(tmp_path))
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert "config.json" in caught.value.message
        assert [model.name for model in await backend.list()] == [NAME]
        with pytest.raises(PlaneError, match="'dtype' is unknown"):
            await backend.load(NAME, ModelSource(parameters={"dtype": "float64"}))
        assert await backend.ready(NAME)


@pytest.mark.anyio
async def test_a_gpu_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(PlaneError) as caught:
        async with running("torch:?device=cuda"):
            pass
    assert caught.value.code is Code.FAILED_PRECONDITION
