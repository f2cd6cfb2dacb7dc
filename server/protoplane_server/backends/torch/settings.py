"""What the URL ``torch:`` says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, unquote

from protoplane_base import Code, PlaneError

BLOCK_TOKENS = 16
"""Tokens in a block of the cache."""

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchSettings:
    """What to run, and with how much.

    Attributes:
        path: Folder with ``config.json`` and safetensors; ``None`` for small random weights.
        device: ``cuda``, ``cuda:1`` or ``cpu``; empty for a GPU where there is one.
        dtype: Type of weights and cache: float32, bfloat16 or float16; empty for bfloat16 on a GPU
            and float32 on the processor.
        blocks: Blocks of the cache, each of `BLOCK_TOKENS` tokens; 0 for as many as fit: on a GPU
            nine tenths of what is free once the weights are there, else 1,024.
        max_sequences: Most texts that are written at once.
        max_step_tokens: Most tokens of one step, prompts and texts together.
        max_waiting: Most texts that wait for one of these to end.
        seed: What random weights come from.
    """

    path: Path | None = None
    device: str = ""
    dtype: str = ""
    blocks: int = 0
    max_sequences: int = 64
    max_step_tokens: int = 1024
    max_waiting: int = 2048
    seed: int = 0

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read ``torch:[folder][?setting=value&…]``; the settings bear the attributes' names.

        Raises:
            PlaneError: INVALID_ARGUMENT with what is wrong.
        """
        scheme, _, rest = url.partition(":")
        path, _, query = rest.partition("?")
        if scheme != "torch" or path.startswith("//"):
            raise _wrong(url, "it is torch:, a folder, and settings after '?'")
        asked = dict(parse_qsl(query, keep_blank_values=True))
        device, dtype = asked.pop("device", ""), asked.pop("dtype", "")
        if not re.fullmatch(r"|cpu|cuda(:\d{1,3})?", device):
            raise _wrong(url, f"'device' is cpu, cuda or cuda:<number>, not {device!r}")
        if dtype and dtype not in _DTYPES:
            raise _wrong(url, f"'dtype' is {', '.join(_DTYPES)}, not {dtype!r}")
        known = cls()
        settings = cls(
            path=Path(unquote(path)) if path else None,
            device=device,
            dtype=dtype,
            blocks=_number(url, asked, "blocks", known.blocks, 0),
            max_sequences=_number(url, asked, "max_sequences", known.max_sequences, 1),
            max_step_tokens=_number(url, asked, "max_step_tokens", known.max_step_tokens, 1),
            max_waiting=_number(url, asked, "max_waiting", known.max_waiting, 0),
            seed=_number(url, asked, "seed", known.seed, 0),
        )
        if asked:
            raise _wrong(url, f"there is no setting {next(iter(asked))!r}")
        return settings


def _number(url: str, asked: dict[str, str], name: str, default: int, least: int) -> int:
    text = asked.pop(name, None)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise _wrong(url, f"{name!r} is a whole number from {least} on, not {text!r}")
    return int(text)


def _wrong(url: str, why: str) -> PlaneError:
    return PlaneError(Code.INVALID_ARGUMENT, f"{url!r} is no URL of a PyTorch backend: {why}")
