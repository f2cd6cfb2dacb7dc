"""The weights of a model: at random, or from safetensors files as Hugging Face has them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from protoplane_base import Code, PlaneError
from protoplane_server.backends.torch.config import LlamaConfig

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
NORM = "model.norm.weight"

_ONE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """The name and the shape of each weight, as Hugging Face's Llama has them."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_size
    keys = config.kv_heads * config.head_size
    found: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden), NORM: (hidden,)}
    if not config.tie_word_embeddings:
        found[HEAD] = (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        found |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in (
                ("input_layernorm", (hidden,)),
                ("self_attn.q_proj", (queries, hidden)),
                ("self_attn.k_proj", (keys, hidden)),
                ("self_attn.v_proj", (keys, hidden)),
                ("self_attn.o_proj", (hidden, queries)),
                ("post_attention_layernorm", (hidden,)),
                ("mlp.gate_proj", (inner, hidden)),
                ("mlp.up_proj", (inner, hidden)),
                ("mlp.down_proj", (hidden, inner)),
            )
        }
    return found


def random_weights(
    config: LlamaConfig, seed: int, *, device: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Weights that have learned nothing; the same for the same seed on every device."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.ones(shape)
            if len(shape) == 1
            else torch.randn(shape, generator=random) * config.initializer_range
        ).to(device, dtype)
        for name, shape in shapes(config).items()
    }


def read_weights(
    folder: Path, config: LlamaConfig, *, device: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Read ``model.safetensors``, or the files that ``model.safetensors.index.json`` names.

    Weights that the model has not are passed over.

    Raises:
        PlaneError: INVALID_ARGUMENT with the file, and what is wrong in it.
    """
    wanted = shapes(config)
    found: dict[str, torch.Tensor] = {}
    for path in _files(folder):
        try:
            for name, weight in _read(path, wanted, device):
                if tuple(weight.shape) != wanted[name]:
                    raise _wrong(
                        path,
                        f"{name} is {list(weight.shape)}; by the configuration it is "
                        f"{list(wanted[name])}",
                    )
                found[name] = weight.to(dtype)
        except OSError as error:
            # Its own words name paths of this machine, which are no business of a caller.
            why = "there is none" if not path.exists() else "it cannot be read"
            raise _wrong(path, why) from error
        except SafetensorError as error:
            raise _wrong(path, str(error)) from error
    missing = wanted.keys() - found.keys()
    if missing:
        raise _wrong(folder, f"{min(missing)} is missing, and {len(missing) - 1} more")
    return found


def _read(
    path: Path, wanted: Mapping[str, object], device: str
) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, framework="pt", device=device) as file:
        for name in wanted.keys() & file.keys():
            yield name, file.get_tensor(name)


def _files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if not index.exists():
        return [folder / _ONE_FILE]
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except OSError as error:
        raise _wrong(index, "it cannot be read") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _wrong(index, f"it names no files: {error}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise _wrong(index, f"it names {name!r}, which is no file beside it")
    return [folder / name for name in sorted(names)]


def _wrong(path: Path, why: str) -> PlaneError:
    return PlaneError(Code.INVALID_ARGUMENT, f"{path.name} holds no weights of the model: {why}")
