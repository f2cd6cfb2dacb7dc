"""What the PyTorch backend is told: by its URL, and by a model's configuration."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from protoplane_base import Code, PlaneError
from protoplane_server.backends.torch.config import SMALL, LlamaConfig
from protoplane_server.backends.torch.settings import TorchSettings


def test_a_url_with_nothing_and_one_with_all() -> None:
    assert TorchSettings.parse("torch:") == TorchSettings()
    assert TorchSettings.parse(
        "torch:/a%20b/c?device=cuda:1&dtype=bfloat16&blocks=7&max_sequences=3"
        "&max_step_tokens=9&max_waiting=0&seed=4"
    ) == TorchSettings(
        path=Path("/a b/c"),
        device="cuda:1",
        dtype="bfloat16",
        blocks=7,
        max_sequences=3,
        max_step_tokens=9,
        max_waiting=0,
        seed=4,
    )


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("torches:", "is no URL of a PyTorch backend"),
        ("torch://host/a", "it is torch:, a folder"),
        ("torch:?device=tpu", "'device' is cpu, cuda"),
        ("torch:?dtype=int8", "'dtype' is float32"),
        ("torch:?blocks=many", "'blocks' is a whole number from 0"),
        ("torch:?max_sequences=0", "'max_sequences' is a whole number from 1"),
        ("torch:?size=3", "there is no setting 'size'"),
    ],
)
def test_urls_that_are_none(url: str, why: str) -> None:
    with pytest.raises(PlaneError) as caught:
        TorchSettings.parse(url)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert why in caught.value.message


def test_a_missing_extra_names_its_install_command() -> None:
    program = """
import sys
from protoplane_base import MissingExtraError
from protoplane_server.backends.opening import open_backend
for name in ("xxhash", "torch"):
    sys.modules[name] = None
    try:
        open_backend("torch:")
    except MissingExtraError as error:
        print(error)
    del sys.modules[name]
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.count("pip install 'protoplane[torch]'") == 2


def written(folder: Path, **fields: object) -> Path:
    path = folder / "config.json"
    known = SMALL.model_dump(mode="json", exclude_defaults=True)
    path.write_text(json.dumps({**known, **fields}))
    return path


def test_a_configuration_is_read_as_hugging_face_writes_it(tmp_path: Path) -> None:
    path = written(tmp_path, model_type="llama", torch_dtype="bfloat16", eos_token_id=[1, 2])
    config = LlamaConfig.read(path)
    assert config.eos_token_id == (1, 2)
    assert config.kv_heads == 2
    assert config.head_size == 32
    assert LlamaConfig.read(written(tmp_path, eos_token_id=3)).eos_token_id == (3,)
    old = {"type": "linear", "rope_type": "linear", "factor": 2.0}
    rope = LlamaConfig.read(written(tmp_path, rope_theta=5e5, rope_scaling=old)).rope
    assert (rope.rope_type, rope.rope_theta, rope.factor) == ("linear", 5e5, 2.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "gpt2"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("num_key_value_heads", 3),
        ("head_dim", 7),
        ("vocab_size", 0),
        ("hidden_size", 1e99),
    ],
)
def test_what_cannot_be_run_is_refused(field: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(PlaneError) as caught:
        LlamaConfig.read(written(tmp_path, **{field: value}))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "config.json is of no Llama that can be run" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_configurations_that_are_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(PlaneError):
        LlamaConfig.read(path)
    path.unlink()
    with pytest.raises(PlaneError, match=r"no config\.json beside"):
        LlamaConfig.read(path)


def test_slow_turns_are_stretched_and_fast_ones_are_not() -> None:
    fields = SMALL.model_dump() | {
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 8.0,
            "original_max_position_embeddings": 128,
        }
    }
    stretched = LlamaConfig.model_validate(fields).rope.frequencies(32)
    plain = SMALL.rope.frequencies(32)
    assert plain[0] == stretched[0] == 1.0
    assert math.isclose(stretched[-1] * 8, plain[-1])
    assert all(slow <= fast for slow, fast in zip(stretched, plain, strict=True))
