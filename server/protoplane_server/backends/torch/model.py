"""A decoder-only transformer of Llama's architecture over a KV cache in blocks.

Sources: Touvron et al. 2023 (Llama 2: RMSNorm, rotary positions, SwiGLU), Ainslie et al. 2023
(grouped queries), Kwon et al. 2023 (the cache in blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as nn

from protoplane_server.backends.torch.config import LlamaConfig
from protoplane_server.backends.torch.settings import BLOCK_TOKENS
from protoplane_server.backends.torch.weights import EMBEDDING, HEAD, NORM


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a step that attend together: as many tokens of each of some sequences.

    Attributes:
        start: First of the rows.
        sequences: How many sequences.
        tokens: How many tokens of each, one sequence after the other.
        tables: The blocks of each, ``[sequences, blocks]``, those of shorter ones filled up.
        mask: What each token may look at, ``[sequences, 1, rows, blocks * BLOCK_TOKENS]``: the
            tokens, once for each head that shares its keys with others, or once for all of them
            where there is one token.
    """

    start: int
    sequences: int
    tokens: int
    tables: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """What a step of the model computes, all on its device.

    Attributes:
        tokens: The tokens, ``[rows]``.
        positions: Where each is in its sequence.
        slots: Where its keys and values go: block times `BLOCK_TOKENS`, plus its place in it.
        groups: The rows, in order.
        wanted: Rows whose scores are wanted.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    groups: Sequence[Group]
    wanted: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Layer:
    before_attention: torch.Tensor
    queries_keys_values: torch.Tensor
    out: torch.Tensor
    before_mlp: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class KvCache:
    """Keys and values of all blocks: ``[blocks * BLOCK_TOKENS, heads, head]`` for each layer."""

    def __init__(
        self, config: LlamaConfig, blocks: int, *, device: str, dtype: torch.dtype
    ) -> None:
        shape = (blocks * BLOCK_TOKENS, config.kv_heads, config.head_size)
        layers = range(config.num_hidden_layers)
        # Zeros, as what fills a table up is multiplied by nothing, and that must not be no number.
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]

    @staticmethod
    def block_bytes(config: LlamaConfig, dtype: torch.dtype) -> int:
        """How many bytes a block takes, in all layers."""
        numbers = 2 * config.num_hidden_layers * config.kv_heads * config.head_size
        return BLOCK_TOKENS * numbers * dtype.itemsize


class Llama:
    """A model; it keeps nothing from one step to the next but what is in the cache.

    Args:
        config: Its shape.
        weights: Its weights, as `protoplane_server.backends.torch.weights.shapes` names them; what
            is joined with others is taken out.
    """

    def __init__(self, config: LlamaConfig, weights: dict[str, torch.Tensor]) -> None:
        self.config = config
        self._embedding = weights[EMBEDDING]
        self._norm = weights[NORM]
        self._head = weights[EMBEDDING if config.tie_word_embeddings else HEAD]
        self._layers = [_layer(weights, layer) for layer in range(config.num_hidden_layers)]
        self.device = self._embedding.device
        self.dtype = self._embedding.dtype
        turns = config.rope.frequencies(config.head_size)
        self._turns = torch.tensor(turns, dtype=torch.float32, device=self.device)

    def scores(self, step: Step, cache: KvCache) -> torch.Tensor:
        """Compute a step, and store its keys and values.

        Returns:
            Float32, ``[wanted rows, vocabulary]``.
        """
        eps = self.config.rms_norm_eps
        size = self.config.head_size
        queries = self.config.num_attention_heads * size
        keys = self.config.kv_heads * size
        angles = step.positions.float()[:, None] * self._turns
        turned = angles.cos().to(self.dtype)[:, None], angles.sin().to(self.dtype)[:, None]
        hidden = nn.embedding(step.tokens, self._embedding)
        for number, layer in enumerate(self._layers):
            inward = nn.rms_norm(hidden, hidden.shape[-1:], layer.before_attention, eps)
            joined = nn.linear(inward, layer.queries_keys_values)
            q, k, v = joined.split([queries, keys, keys], -1)
            q = _rotate(q.unflatten(-1, (-1, size)), *turned)
            cache.keys[number][step.slots] = _rotate(k.unflatten(-1, (-1, size)), *turned)
            cache.values[number][step.slots] = v.unflatten(-1, (-1, size))
            seen = [
                _attend(group, q, cache.keys[number], cache.values[number]) for group in step.groups
            ]
            attended = seen[0] if len(seen) == 1 else torch.cat(seen)
            hidden = hidden + nn.linear(attended, layer.out)
            inward = nn.rms_norm(hidden, hidden.shape[-1:], layer.before_mlp, eps)
            gate, up = nn.linear(inward, layer.gate_up).chunk(2, -1)
            hidden = hidden + nn.linear(nn.silu(gate) * up, layer.down)
        hidden = nn.rms_norm(hidden[step.wanted], hidden.shape[-1:], self._norm, eps)
        return nn.linear(hidden, self._head).float()


def _layer(weights: dict[str, torch.Tensor], layer: int) -> _Layer:
    def take(*names: str) -> torch.Tensor:
        parts = [weights.pop(f"model.layers.{layer}.{name}.weight") for name in names]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    return _Layer(
        take("input_layernorm"),
        take("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        take("self_attn.o_proj"),
        take("post_attention_layernorm"),
        take("mlp.gate_proj", "mlp.up_proj"),
        take("mlp.down_proj"),
    )


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn each pair of numbers, the first half of a head with the second, as far as it is on."""
    first, second = heads.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def _attend(
    group: Group, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """What the rows of a group see, ``[rows, heads * head]``.

    Heads that share keys are put one after the other, as if they were tokens of one head, so that
    keys and values need no copy for each.
    """
    heads, size = queries.shape[1:]
    shared = keys.shape[1]
    count = group.sequences * group.tokens
    rows = queries[group.start : group.start + count]
    # [sequences, shared heads, heads of each * tokens, head]
    q = rows.view(group.sequences, group.tokens, shared, heads // shared, size)
    q = q.permute(0, 2, 3, 1, 4).reshape(group.sequences, shared, -1, size)
    seen = nn.scaled_dot_product_attention(
        q, _gather(keys, group), _gather(values, group), attn_mask=group.mask
    )
    seen = seen.view(group.sequences, shared, heads // shared, group.tokens, size)
    return seen.permute(0, 3, 1, 2, 4).reshape(count, heads * size)


def _gather(stored: torch.Tensor, group: Group) -> torch.Tensor:
    """Keys or values that a group looks at.

    Returns:
        ``[sequences, heads, blocks * BLOCK_TOKENS, head]``.
    """
    heads, size = stored.shape[1:]
    blocks = stored.view(-1, BLOCK_TOKENS * heads * size)
    taken = blocks.index_select(0, group.tables.flatten())
    return taken.view(group.sequences, -1, heads, size).transpose(1, 2)
