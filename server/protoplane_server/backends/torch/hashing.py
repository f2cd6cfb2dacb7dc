"""Names of blocks, as routers know them: those of NVIDIA Dynamo.

A **tokens hash** names the tokens of one block, a **block hash** a block with all before it. Both
are XXH3-64 with seed 1337: of the tokens as little-endian 32-bit integers, and of the block hash
before it with the tokens hash, as little-endian 64-bit integers. The first block of a prompt has
its tokens hash as its block hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, pack

from xxhash import xxh3_64_intdigest

_SEED = 1337
_PAIR = Struct("<2Q")


def tokens_hash(tokens: Sequence[int]) -> int:
    """The hash of the tokens of one block, each below 2**32."""
    return xxh3_64_intdigest(pack(f"<{len(tokens)}I", *tokens), _SEED)


def block_hash(parent: int | None, tokens: int) -> int:
    """The hash of a block, by that of the block before it and its tokens hash."""
    return tokens if parent is None else xxh3_64_intdigest(_PAIR.pack(parent, tokens), _SEED)
