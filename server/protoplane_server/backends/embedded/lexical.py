"""Vectors of texts from their letters: texts that share words and parts of words are close.

Each run of three to five characters of a word is hashed to one of the dimensions and counted there,
with a sign that the hash decides too; the vector is scaled to length one. It knows nothing of
meaning. Source: feature hashing, Weinberger et al. 2009; the runs are those of fastText.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np

from protoplane_server.backends.embedded.gru import Floats

DIMENSIONS = 256

_WORD = re.compile(r"\w+")
_LENGTHS = (3, 4, 5)


def embed(texts: Sequence[str]) -> Floats:
    """A vector for each text, ``[texts, DIMENSIONS]``; zeros for one without words."""
    vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        for word in words(text):
            bounded = f"<{word}>"
            for length in _LENGTHS:
                for at in range(max(1, len(bounded) - length + 1)):
                    hashed = zlib.crc32(bounded[at : at + length].encode())
                    vector[hashed % DIMENSIONS] += 1.0 if hashed & 0x8000_0000 else -1.0
        norm = float(np.sqrt(vector @ vector))
        if norm:
            np.divide(vector, norm, out=vector)
    return vectors


def words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
