"""Text to tokens, and tokens back to text as they come."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from protoplane_base import Code, PlaneError
from protoplane_server.backends.torch.config import BYTES, LlamaConfig


class TextDecoder(Protocol):
    """Gives the text of tokens, piece by piece."""

    def add(self, token: int) -> str:
        """The text that is certain with one more token; may be empty."""
        ...

    def end(self) -> str:
        """What was held back, once no more comes."""
        ...


class Vocabulary(Protocol):
    """What a model's tokens stand for."""

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        ...

    def decoder(self) -> TextDecoder:
        """For one text."""
        ...


class ByteVocabulary:
    """Each byte of UTF-8 is a token."""

    def encode(self, text: str) -> list[int]:
        """The bytes of a text; what cannot be one in UTF-8 is replaced."""
        return list(text.encode(errors="replace"))

    def decoder(self) -> TextDecoder:
        """Bytes that are no text become U+FFFD."""
        return _ByteDecoder()


class FileVocabulary:
    """A ``tokenizer.json`` as Hugging Face's tokenizers have it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with those that the file wants before and after."""
        return list(self._tokenizer.encode(text.encode(errors="replace").decode()).ids)

    def decoder(self) -> TextDecoder:
        """Tokens that only steer the model are no text."""
        return _FileDecoder(self._tokenizer)


def vocabulary_of(folder: Path | None, config: LlamaConfig) -> Vocabulary | None:
    """The vocabulary of a model; ``None`` where only token ids can be its prompt.

    Raises:
        PlaneError: INVALID_ARGUMENT; the ``tokenizer.json`` cannot be read.
    """
    path = None if folder is None else folder / "tokenizer.json"
    if path is None or not path.exists():
        return ByteVocabulary() if config.vocab_size == BYTES else None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise PlaneError(Code.INVALID_ARGUMENT, f"{path.name} is no tokenizer: {error}") from error
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{path.name} has {tokenizer.get_vocab_size()} tokens, the model {config.vocab_size}; "
            "it is another model's",
        )
    return FileVocabulary(tokenizer)


class _ByteDecoder:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        return self._decoder.decode(bytes((token,)))

    def end(self) -> str:
        return self._decoder.decode(b"", final=True)


class _FileDecoder:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, token: int) -> str:
        return self._stream.step(self._tokenizer, token) or ""

    def end(self) -> str:
        return ""
