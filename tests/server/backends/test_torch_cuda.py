"""The arithmetic of the PyTorch backend on a GPU that there is not.

PyTorch's fake tensors have a shape, a type and a device, and no values. Where tensors of two
devices meet they raise what a GPU would, so one that was left on the processor is found anywhere.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed (the extra torch)")

import torch
from tests.server.backends.torch_models import TINY
from tests.server.backends.torch_rules import GREEDY
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import Sampling
from protoplane_server.backends.sampling import Rules
from protoplane_server.backends.torch.cache import BlockPool, NamedBlock
from protoplane_server.backends.torch.hashing import block_hash, tokens_hash
from protoplane_server.backends.torch.model import KvCache, Llama
from protoplane_server.backends.torch.scheduler import Scheduler, Sequence
from protoplane_server.backends.torch.settings import BLOCK_TOKENS, TorchSettings
from protoplane_server.backends.torch.steps import compute, scored
from protoplane_server.backends.torch.text_model import LoadedLlama, load_llama
from protoplane_server.backends.torch.weights import random_weights

BLOCKS = 40
RULES = [
    GREEDY,
    *(
        Rules.of(sampling, vocabulary=TINY.vocab_size, longest=500)
        for sampling in (
            Sampling(temperature=0.8, top_p=0.9, top_k=20, seed=3),
            Sampling(repetition_penalty=1.2, presence_penalty=0.1, frequency_penalty=0.2, seed=4),
        )
    ),
]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    # A tensor of one number also keeps that number, on its real device, which there is not.
    monkeypatch.setattr("torch._subclasses.fake_tensor.CONSTANT_NUMEL_LIMIT", 0)
    with FakeTensorMode(shape_env=ShapeEnv()):
        yield


class Stored:
    """Notes what can be found in a cache."""

    def __init__(self) -> None:
        self.blocks: list[NamedBlock] = []

    def stored(self, block: NamedBlock) -> None:
        self.blocks.append(block)

    def removed(self, block_hash: int) -> None:
        raise AssertionError(f"{block_hash} went, and there is room")

    def cleared(self) -> None:
        raise AssertionError("nothing is cleared")


def planned(observer: Stored | None = None) -> Scheduler:
    """Six texts, of which some begin alike, that take several steps to read."""
    scheduler = Scheduler(BlockPool(BLOCKS, observer), max_sequences=8, max_step_tokens=50)
    for number in range(6):
        prompt = list(range(1, 5 + 20 * number))
        scheduler.add(Sequence(prompt, RULES[number % len(RULES)]))
    return scheduler


def on_gpu(dtype: torch.dtype) -> tuple[Llama, KvCache]:
    weights = random_weights(TINY, 0, device="cuda", dtype=dtype)
    return Llama(TINY, weights), KvCache(TINY, BLOCKS, device="cuda", dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_step_leaves_the_gpu_only_with_its_tokens(dtype: torch.dtype) -> None:
    model, cache = on_gpu(dtype)
    stored = Stored()
    scheduler = planned(stored)
    for step in range(8):
        works = scheduler.plan()
        if step == 0:
            writing, scores = scored(model, cache, works)
            assert (scores.device.type, scores.dtype) == ("cuda", torch.float32)
            assert scores.shape == (len(writing), TINY.vocab_size)
        # Their values are nobody's; who has a token is what can be known.
        tokens = compute(model, cache, works)
        for work, token in zip(works, tokens, strict=True):
            scheduler.done(work)
            assert (token is not None) is work.writes
            if work.writes:
                work.sequence.tokens.append(7)
    # Names of blocks are made of tokens alone, wherever their keys are.
    first = tuple(range(1, 1 + BLOCK_TOKENS))
    assert block_hash(None, tokens_hash(first)) in {block.hash for block in stored.blocks}
    assert {block.position for block in stored.blocks} >= set(range(6))


def test_what_stays_on_the_processor_is_found() -> None:
    model, cache = on_gpu(torch.float32)
    cache.values[1] = torch.zeros_like(cache.values[1], device="cpu")
    with pytest.raises(RuntimeError, match=r"cuda.*cpu|cpu.*cuda"):
        scored(model, cache, planned().plan())


def loaded(**settings: Any) -> LoadedLlama:
    return load_llama(TorchSettings(**settings))


def test_a_gpu_is_filled_as_far_as_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def free(_device: str) -> tuple[int, int]:
        return 10_000_000, 20_000_000

    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    for device in ("", "cuda", "cuda:1"):
        found = loaded(device=device)
        assert str(found.model.device) == (device if ":" in device else "cuda:0")
        assert found.model.dtype is torch.bfloat16
        bytes_ = found.blocks * KvCache.block_bytes(found.model.config, torch.bfloat16)
        assert 8_500_000 < bytes_ <= 9_000_000
        assert {each.device for each in found.cache.keys} == {found.model.device}
    with pytest.raises(PlaneError, match="there are 2, from cuda:0 on") as caught:
        loaded(device="cuda:2")
    assert caught.value.code is Code.FAILED_PRECONDITION
