"""The arithmetic of the PyTorch backend, against one without a cache and against transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence as Tokens
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed (the extra torch)")

import torch
from tests.server.backends.torch_models import (
    TINY,
    unpaged_scores,
    weights_of,
    write_model,
)
from tests.server.backends.torch_rules import GREEDY
from torch.testing import assert_close

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import Sampling
from protoplane_server.backends.sampling import Rules
from protoplane_server.backends.torch.cache import BlockPool
from protoplane_server.backends.torch.config import LlamaConfig
from protoplane_server.backends.torch.model import KvCache, Llama
from protoplane_server.backends.torch.sampling import Choice, choose
from protoplane_server.backends.torch.scheduler import Scheduler, Sequence
from protoplane_server.backends.torch.steps import compute, scored
from protoplane_server.backends.torch.weights import (
    random_weights,
    read_weights,
    shapes,
)

BLOCKS = 60
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def changed(**fields: object) -> LlamaConfig:
    return LlamaConfig.model_validate({**TINY.model_dump(), **fields})


def prompts(count: int, config: LlamaConfig = TINY) -> list[list[int]]:
    """Prompts of many lengths; some begin alike."""
    random = torch.Generator().manual_seed(5)
    common = torch.randint(config.vocab_size, (40,), generator=random).tolist()
    return [
        common[: 20 * (number % 3)]
        + torch.randint(config.vocab_size, (1 + 7 * number,), generator=random).tolist()
        for number in range(count)
    ]


class Engine:
    """A model with its cache and its texts, driven step by step."""

    def __init__(
        self, config: LlamaConfig = TINY, *, blocks: int = BLOCKS, step_tokens: int = 1000
    ) -> None:
        self.model = Llama(config, weights_of(config))
        self.cache = KvCache(config, blocks, device="cpu", dtype=torch.float32)
        self.pool = BlockPool(blocks)
        self.scheduler = Scheduler(self.pool, max_sequences=32, max_step_tokens=step_tokens)

    def add(self, prompt: Tokens[int], rules: Rules = GREEDY) -> Sequence:
        sequence = Sequence(list(prompt), rules)
        self.scheduler.add(sequence)
        return sequence

    def write(self, sequences: Tokens[Sequence], tokens: int) -> list[list[int]]:
        """Make steps until all have so many tokens after their prompts; gives those."""
        while not all(each.written >= tokens for each in sequences):
            works = self.scheduler.plan()
            for work, token in zip(works, compute(self.model, self.cache, works), strict=True):
                self.scheduler.done(work)
                if token is not None:
                    work.sequence.tokens.append(token)
                    work.sequence.gone = work.sequence.written == tokens
        return [each.tokens[each.prompt_tokens :] for each in sequences]


def alone(prompt: Tokens[int], rules: Rules, tokens: int, config: LlamaConfig = TINY) -> list[int]:
    """What is written after a prompt without cache or company."""
    weights = weights_of(config)
    text = list(prompt)
    for number in range(tokens):
        scores = unpaged_scores(config, weights, text)[-1:]
        text += choose(scores, [Choice(rules, text, len(prompt), number)])
    return text[len(prompt) :]


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        changed(num_key_value_heads=6, head_dim=12),
        changed(num_key_value_heads=1, tie_word_embeddings=True),
        changed(rope_parameters=LLAMA3),
        changed(rope_scaling={"rope_type": "linear", "factor": 4.0}, rope_theta=500.0),
    ],
    ids=["grouped", "many heads", "tied", "llama3", "linear"],
)
@pytest.mark.parametrize("step_tokens", [1000, 9])
def test_scores_are_those_without_a_cache(config: LlamaConfig, step_tokens: int) -> None:
    engine = Engine(config, step_tokens=step_tokens)
    weights = weights_of(config)
    sequences = [engine.add(prompt) for prompt in prompts(6, config)]
    seen = 0
    while not all(sequence.written > 3 for sequence in sequences):
        works = engine.scheduler.plan()
        with torch.inference_mode():
            writing, scores = scored(engine.model, engine.cache, works)
        for work, row in zip(writing, scores, strict=True):
            tokens = work.sequence.tokens
            assert_close(row, unpaged_scores(config, weights, tokens)[-1], rtol=1e-3, atol=1e-4)
            seen += 1
        for work in works:
            writes = work.writes
            engine.scheduler.done(work)
            if writes:
                work.sequence.tokens.append(int(engine.pool.held) % config.vocab_size)
    assert seen >= 24


@pytest.mark.parametrize("fields", [{}, {"rope": LLAMA3, "tie_word_embeddings": True}])
def test_scores_are_those_of_transformers(fields: dict[str, object], tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    import transformers

    rope = fields.pop("rope", {"rope_type": "default", "rope_theta": 700.0})
    torch.manual_seed(3)
    asked = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        rope_parameters=rope,
        **fields,
    )
    theirs = transformers.LlamaForCausalLM(asked).eval()
    # The file as they write it is what is read.
    theirs.save_pretrained(tmp_path)
    config = LlamaConfig.read(tmp_path / "config.json")
    weights = read_weights(tmp_path, config, device="cpu", dtype=torch.float32)
    engine = Engine()
    engine.model = Llama(config, weights)
    engine.cache = KvCache(config, BLOCKS, device="cpu", dtype=torch.float32)
    for prompt in prompts(8, config):
        engine.add(prompt)
        [work] = works = engine.scheduler.plan()
        with torch.inference_mode():
            _, [ours] = scored(engine.model, engine.cache, works)
            their = theirs(torch.tensor([prompt])).logits[0, -1]
        assert_close(ours, their, rtol=1e-3, atol=1e-4)
        work.sequence.gone = True


def test_texts_do_not_depend_on_their_company() -> None:
    ways = [
        Sampling(seed=1, temperature=1.0, max_tokens=400),
        Sampling(temperature=0.0, max_tokens=400),
        Sampling(seed=2, temperature=1.5, top_k=9, repetition_penalty=1.4, max_tokens=400),
        Sampling(seed=3, top_p=0.7, presence_penalty=0.9, frequency_penalty=0.3, max_tokens=400),
    ]
    rules = [Rules.of(way, vocabulary=256) for way in ways] * 3
    engine = Engine(step_tokens=50)
    given = prompts(len(rules))
    sequences = [engine.add(*each) for each in zip(given, rules, strict=True)]
    together = engine.write(sequences, 12)
    assert together == [alone(*each, 12) for each in zip(given, rules, strict=True)]


def test_what_is_found_in_the_cache_changes_nothing() -> None:
    engine = Engine()
    [prompt] = prompts(9)[8:]
    [first] = engine.write([engine.add(prompt)], 20)
    again = engine.add(prompt)
    assert engine.write([again], 20) == [first]
    assert again.reused == (len(prompt) - 1) // 16 * 16 > 0
    # So does a prompt that goes on from a whole text.
    longer = engine.add([*prompt, *first, 3])
    assert engine.write([longer], 8) == [alone([*prompt, *first, 3], GREEDY, 8)]
    assert longer.reused > len(prompt)


def test_too_few_blocks_make_it_slower_and_change_nothing() -> None:
    given = prompts(8)
    roomy, tight = Engine(blocks=200), Engine(blocks=13, step_tokens=30)
    expected = roomy.write([roomy.add(prompt) for prompt in given], 60)
    assert tight.write([tight.add(prompt) for prompt in given], 60) == expected
    assert tight.scheduler.plan() == []
    assert tight.pool.held == 0


def test_a_gpu_gives_what_the_processor_does() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    weights = {name: each.cuda() for name, each in weights_of(TINY).items()}
    engine = Engine()
    engine.model = Llama(TINY, weights)
    engine.cache = KvCache(TINY, BLOCKS, device="cuda", dtype=torch.float32)
    given = prompts(6)
    written = engine.write([engine.add(prompt) for prompt in given], 10)
    assert written == [alone(prompt, GREEDY, 10) for prompt in given]


def test_choices_follow_the_chances() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0, -30.0]]).repeat(4000, 1)
    chances = scores[0].softmax(0)

    def shares(**asked: float) -> list[float]:
        rules = [
            Rules.of(Sampling(seed=seed, **asked), vocabulary=4)  # type: ignore[arg-type]
            for seed in range(4000)
        ]
        chosen = choose(scores.clone(), [Choice(each, (), 0, 0) for each in rules])
        return [chosen.count(token) / 4000 for token in range(4)]

    assert shares() == pytest.approx(chances.tolist(), abs=0.03)
    assert shares(top_k=1) == [0, 0, 1, 0]
    assert shares(top_k=2)[:2] == [0, pytest.approx(1 / (1 + 2.71828), abs=0.03)]
    assert shares(top_p=0.6) == [0, 0, 1, 0]
    assert shares(top_p=0.8)[0] == 0


def test_scores_that_are_no_numbers_are_told() -> None:
    scores = torch.tensor([[0.0, float("nan")], [0.0, 1.0]])
    assert choose(scores, [Choice(GREEDY, (), 0, 0)] * 2) == [-1, 1]


def test_weights_of_several_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = weights_of(TINY)
    names = sorted(weights)
    where: dict[str, str] = {}
    for number, part in enumerate((names[:9], names[9:])):
        save_file({name: weights[name] for name in part}, tmp_path / f"{number}.safetensors")
        where |= dict.fromkeys(part, f"{number}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    read = read_weights(tmp_path, TINY, device="cpu", dtype=torch.float32)
    assert read.keys() == weights.keys()
    for name, weight in read.items():
        assert torch.equal(weight, weights[name])
    index.write_text(json.dumps({"weight_map": {"a": "../0.safetensors"}}))
    with pytest.raises(PlaneError, match="no file beside it"):
        read_weights(tmp_path, TINY, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("fault", ["no file", "no safetensors", "shape", "missing", "index"])
def test_files_that_are_no_weights(fault: str, tmp_path: Path) -> None:
    write_model(tmp_path)
    path = tmp_path / "model.safetensors"
    config = TINY
    match fault:
        case "no file":
            path.unlink()
        case "no safetensors":
            path.write_bytes(b"\x80\x04K\x01.")
        case "shape":
            config = changed(intermediate_size=81)
        case "missing":
            config = changed(num_hidden_layers=4)
        case _:
            (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(PlaneError) as caught:
        read_weights(tmp_path, config, device="cpu", dtype=torch.float32)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "holds no weights" in caught.value.message


def test_random_weights_come_from_their_seed() -> None:
    made = [random_weights(TINY, seed, device="cpu", dtype=torch.bfloat16) for seed in (1, 1, 2)]
    assert {name: tuple(each.shape) for name, each in made[0].items()} == shapes(TINY)
    first, same, other = (each["model.layers.2.mlp.up_proj.weight"] for each in made)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
