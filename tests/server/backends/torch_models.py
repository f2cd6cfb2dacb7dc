"""Small Llamas for tests, with random weights, as files and without a cache."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as nn

from protoplane_server.backends.torch.config import LlamaConfig
from protoplane_server.backends.torch.weights import EMBEDDING, HEAD, NORM, random_weights

# Threads that share out products this small wait for each other most of the time.
torch.set_num_threads(1)

TINY = LlamaConfig(
    vocab_size=256,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=512,
    initializer_range=0.3,
)


def weights_of(config: LlamaConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights whose norms differ from one, too."""
    weights = random_weights(config, seed, device="cpu", dtype=torch.float32)
    random = torch.Generator().manual_seed(seed + 1)
    for weight in weights.values():
        if weight.ndim == 1:
            weight.add_(0.2 * torch.randn(weight.shape, generator=random))
    return weights


def write_model(folder: Path, config: LlamaConfig = TINY, *, seed: int = 0) -> Path:
    """Write a model as Hugging Face has it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights_of(config, seed), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
    return folder


def unpaged_scores(
    config: LlamaConfig, weights: dict[str, torch.Tensor], tokens: list[int]
) -> torch.Tensor:
    """The scores after each token, ``[tokens, vocabulary]``: no cache, no batch, nothing joined."""
    size, heads = config.head_size, config.num_attention_heads
    count = len(tokens)
    angles = torch.arange(count)[:, None] * torch.tensor(config.rope.frequencies(size))
    cos, sin = angles.cos(), angles.sin()

    def turned(each: torch.Tensor) -> torch.Tensor:
        first, second = each[:, : size // 2], each[:, size // 2 :]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), 1)

    def normed(each: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return each * (each.square().mean(-1, keepdim=True) + config.rms_norm_eps).rsqrt() * weight

    hidden = weights[EMBEDDING][torch.tensor(tokens)]
    causal = torch.ones(count, count).tril() > 0
    for layer in range(config.num_hidden_layers):

        def through(name: str, each: torch.Tensor, layer: int = layer) -> torch.Tensor:
            return each @ weights[f"model.layers.{layer}.{name}.weight"].T

        inward = normed(hidden, weights[f"model.layers.{layer}.input_layernorm.weight"])
        q, k, v = (through(f"self_attn.{name}_proj", inward) for name in "qkv")
        seen: list[torch.Tensor] = []
        for head in range(heads):
            shared = head * config.kv_heads // heads
            own = slice(head * size, (head + 1) * size)
            its = slice(shared * size, (shared + 1) * size)
            scores = turned(q[:, own]) @ turned(k[:, its]).T / size**0.5
            seen.append(scores.masked_fill(~causal, float("-inf")).softmax(1) @ v[:, its])
        hidden = hidden + through("self_attn.o_proj", torch.cat(seen, 1))
        inward = normed(hidden, weights[f"model.layers.{layer}.post_attention_layernorm.weight"])
        gate = nn.silu(through("mlp.gate_proj", inward))
        hidden = hidden + through("mlp.down_proj", gate * through("mlp.up_proj", inward))
    last = weights[EMBEDDING if config.tie_word_embeddings else HEAD]
    return normed(hidden, weights[NORM]) @ last.T
