"""Tokenizers by name, for prompts that are texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_components.kv_router.conversion import Tokenizer

BYTES = "bytes"
"""Name of the tokenizer for which each byte of the text is a token."""


def named_tokenizer(name: str) -> Tokenizer | None:
    """The tokenizer of a name; ``None`` for an empty one.

    Args:
        name: ``bytes``, which suits workers whose caches are guessed, and models of single bytes;
            or the path of a ``tokenizer.json``, as the models of Hugging Face have it.

    Raises:
        PlaneError: INVALID_ARGUMENT where there is no such file, or it is none.
        MissingExtraError: What reads it is not installed.
    """
    if not name:
        return None
    if name == BYTES:
        return _bytes
    path = Path(name)
    if not path.is_file():
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"there is no tokenizer {name!r}; give {BYTES}, or the path of a tokenizer.json",
        )
    try:
        from tokenizers import Tokenizer as Read
    except ModuleNotFoundError as error:
        if error.name != "tokenizers":
            raise
        raise MissingExtraError("tokenizer", name) from error
    try:
        read = Read.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise PlaneError(Code.INVALID_ARGUMENT, f"{name} is no tokenizer: {error}") from error
    return lambda text: read.encode(text).ids


def _bytes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode(errors="replace"), np.uint8).astype(np.uint32)
