"""The PyTorch backend against ``generate`` of transformers: the same weights, in one run.

- One text: what a step costs.
- Texts at once, all as long: their batch against our steps.
- Texts at once, of many lengths: their batch runs until the longest is done.
- Texts at once whose prompts begin alike: ours computes the common part once.

On a GPU where there is one, else on the processor with a smaller model. Both write the same tokens,
greedily, in float32 on the processor; that is checked, too. It needs the extra ``torch`` and
transformers, and says so where they are missing.

    python bench/backends_torch.py [--full] [--json]
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

from report import Claim, Row, print_report

FULL = "--full" in sys.argv
ROUNDS = 5 if FULL else 2
TEXTS = 32 if FULL else 16
VOCABULARY = 8192
PACKAGES = ("safetensors", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked at once: prompts, and how many tokens after each."""

    name: str
    prompts: Sequence[Sequence[int]]
    tokens: Sequence[int]
    required: float

    @property
    def written(self) -> int:
        """Tokens of all texts."""
        return sum(self.tokens)


def loads(vocabulary: int) -> list[Load]:
    """The loads; the tokens are random."""
    random = Random(7)

    def prompt(length: int) -> list[int]:
        return [random.randrange(1, vocabulary) for _ in range(length)]

    long, short = (256, 8) if FULL else (64, 4)
    common = prompt(512 if FULL else 256)
    return [
        Load("one text", [prompt(64)], [long], 0.8),
        Load("at once, equal", [prompt(64) for _ in range(TEXTS)], [long // 2] * TEXTS, 0.8),
        Load(
            "at once, of many lengths",
            [prompt(64) for _ in range(TEXTS)],
            # One in eight is long, as answers are.
            [long if number % 8 == 0 else short + number for number in range(TEXTS)],
            1.0,
        ),
        Load(
            "at once, prompts begin alike",
            [[*common, *prompt(16)] for _ in range(TEXTS)],
            [16] * TEXTS,
            1.0,
        ),
    ]


def run(folder: Path) -> tuple[list[Row], list[Claim]]:
    """Measure both with the model in a folder, made here."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from protoplane_server.backends.torch.backend import TorchBackend
    from protoplane_server.backends.torch.settings import TorchSettings

    on_gpu = torch.cuda.is_available()
    config = LlamaConfig(
        vocab_size=128_256 if on_gpu else VOCABULARY,
        hidden_size=2048 if on_gpu else 512,
        intermediate_size=8192 if on_gpu else 1408,
        num_hidden_layers=16 if on_gpu else 4,
        num_attention_heads=32 if on_gpu else 8,
        num_key_value_heads=8 if on_gpu else 4,
        max_position_embeddings=4096,
        # Neither may end a text before the other.
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(1)
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    theirs = LlamaForCausalLM(config).to(device, dtype).eval()
    theirs.save_pretrained(folder)

    def their(load: Load) -> list[list[int]]:
        with torch.inference_mode():
            given = torch.tensor(load.prompts, device=device)
            made = theirs.generate(
                given,
                attention_mask=torch.ones(len(load.prompts), len(load.prompts[0])).to(device),
                max_new_tokens=max(load.tokens),
                do_sample=False,
            )
        start = len(load.prompts[0])
        rows: list[list[int]] = made.tolist()
        return [row[start : start + count] for row, count in zip(rows, load.tokens, strict=True)]

    where = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    settings = TorchSettings(path=folder, blocks=4096)
    with asyncio.Runner() as runner:
        backend = TorchBackend(settings)
        runner.run(backend.start())
        try:

            def ours(load: Load) -> list[list[int]]:
                return runner.run(_written(backend, load))

            return _compared(loads(VOCABULARY), ours, their, where, exact=not on_gpu)
        finally:
            runner.run(backend.stop())


def _compared(
    asked: Sequence[Load],
    ours: Callable[[Load], list[list[int]]],
    their: Callable[[Load], list[list[int]]],
    where: str,
    *,
    exact: bool,
) -> tuple[list[Row], list[Claim]]:
    rows: list[Row] = []
    claims: list[Claim] = []
    for load in asked:
        pairs: list[tuple[float, float]] = []
        for round_ in range(ROUNDS + 1):
            # Other tokens each time, so that nothing is found in the cache from the time before.
            fresh = Load(
                load.name,
                [[(token + round_) % VOCABULARY for token in each] for each in load.prompts],
                load.tokens,
                load.required,
            )
            our_rate, we = _timed(ours, fresh)
            their_rate, they = _timed(their, fresh)
            if exact and we != they:
                raise SystemExit(f"{load.name}: the tokens differ from those of transformers")
            if round_:
                pairs.append((our_rate, their_rate))
        rows += [
            Row(f"{load.name}, ours ({where})", "rate", median(a for a, _ in pairs), "tokens/s"),
            Row(f"{load.name}, transformers", "rate", median(b for _, b in pairs), "tokens/s"),
        ]
        claims.append(
            Claim(
                f"{load.name}: tokens/s, by those of transformers",
                load.required,
                median(a / b for a, b in pairs),
            )
        )
    return rows, claims


def _timed(write: Callable[[Load], list[list[int]]], load: Load) -> tuple[float, list[list[int]]]:
    gc.collect()
    began = time.perf_counter()
    texts = write(load)
    return load.written / (time.perf_counter() - began), texts


async def _written(backend: object, load: Load) -> list[list[int]]:
    from protoplane_server.backends.interface import BackendContext, Sampling, Tokens
    from protoplane_server.backends.torch.backend import TorchBackend

    assert isinstance(backend, TorchBackend)

    async def text(prompt: Sequence[int], count: int) -> list[int]:
        sampling = Sampling(temperature=0.0, max_tokens=count)
        chunks = backend.generate(backend.first, Tokens(tuple(prompt)), sampling, BackendContext())
        return [token async for chunk in chunks for token in chunk.tokens]

    return list(await asyncio.gather(*map(text, load.prompts, load.tokens)))


def main() -> None:
    """Measure, and print."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        print(f"{', '.join(missing)} not installed: pip install 'protoplane[torch]' transformers")
        claims = [
            Claim(f"{load.name}: tokens/s, by those of transformers", load.required, float("nan"))
            for load in loads(VOCABULARY)
        ]
        print_report("backends_torch", [], claims, ())
        return
    with TemporaryDirectory(prefix="protoplane-bench-") as folder:
        rows, claims = run(Path(folder))
    print_report("backends_torch", rows, claims, PACKAGES)


if __name__ == "__main__":
    main()
