"""What a Llama is made of, as its ``config.json`` says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from protoplane_base import Code, PlaneError

_Size = Annotated[int, Field(ge=1, le=1 << 24)]


def _listed(value: object) -> object:
    if isinstance(value, int):
        return [value]
    return [] if value is None else value


class Rope(BaseModel):
    """How positions turn the heads; "llama3" stretches the slow turns of a longer context."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rope_type: Literal["default", "linear", "llama3"] = "default"
    rope_theta: float = Field(default=10_000.0, gt=1)
    factor: float = Field(default=1.0, ge=1)
    low_freq_factor: float = Field(default=1.0, gt=0)
    high_freq_factor: float = Field(default=4.0, gt=0)
    original_max_position_embeddings: _Size = 8192

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.rope_type == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("high_freq_factor is more than low_freq_factor")
        return self

    def frequencies(self, head_dim: int) -> list[float]:
        """Radians that each pair of a head's numbers turns from one position to the next."""
        turns = [self.rope_theta ** (-at / head_dim) for at in range(0, head_dim, 2)]
        match self.rope_type:
            case "default":
                return turns
            case "linear":
                return [turn / self.factor for turn in turns]
            case _:
                return [self._stretched(turn) for turn in turns]

    def _stretched(self, turn: float) -> float:
        # How often it goes round in the context that the model was first trained on.
        rounds = self.original_max_position_embeddings * turn / (2 * math.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        share = min(1.0, max(0.0, (rounds - low) / (high - low)))
        return turn * (share + (1 - share) / self.factor)


class LlamaConfig(BaseModel):
    """The shape of a model; the names are those of Hugging Face's ``config.json``.

    What would change its arithmetic and is not known here is refused, not passed over.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_type: Literal["llama"] = "llama"
    vocab_size: _Size
    hidden_size: _Size
    intermediate_size: _Size
    num_hidden_layers: _Size
    num_attention_heads: _Size
    num_key_value_heads: _Size | None = None
    head_dim: _Size | None = None
    max_position_embeddings: _Size = 2048
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    hidden_act: Literal["silu"] = "silu"
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    tie_word_embeddings: bool = False
    rope_theta: float | None = Field(default=None, gt=1)
    rope_scaling: Rope | None = None
    rope_parameters: Rope | None = None
    bos_token_id: int | None = None
    eos_token_id: Annotated[tuple[int, ...], BeforeValidator(_listed)] = ()
    initializer_range: float = Field(default=0.02, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.num_attention_heads % self.kv_heads:
            raise ValueError("num_attention_heads is no multiple of num_key_value_heads")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size is no multiple of num_attention_heads")
        if self.head_size % 2:
            raise ValueError("head_dim is odd")
        return self

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Numbers in a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def rope(self) -> Rope:
        """How positions turn the heads; newer files say it in one place, older ones in two."""
        rope = self.rope_parameters or self.rope_scaling or Rope()
        if self.rope_parameters is None and self.rope_theta is not None:
            rope = rope.model_copy(update={"rope_theta": self.rope_theta})
        return rope

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a ``config.json``.

        Raises:
            PlaneError: INVALID_ARGUMENT; it cannot be read, or is of a model that is none of these.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"there is no {path.name} beside the weights; the source is a folder as Hugging "
                "Face has it",
            ) from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{path.name} is of no Llama that can be run: {where}: {first['msg']}",
            ) from error


BYTES = 256
"""Tokens of a model that reads bytes: each is one."""

SMALL = LlamaConfig(
    vocab_size=BYTES,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    # Wide enough that what it writes depends on what it read.
    initializer_range=0.15,
)
"""A model of 0.4 million parameters that reads and writes bytes, for trying things out."""
