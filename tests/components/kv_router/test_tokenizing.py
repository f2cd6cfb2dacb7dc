"""Tokenizers by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router import KvRouter
from protoplane_components.kv_router.tokenizing import named_tokenizer


def test_bytes_are_tokens() -> None:
    tokenizer = named_tokenizer("bytes")
    assert tokenizer is not None
    assert [*tokenizer("aé")] == [0x61, 0xC3, 0xA9]
    assert [*tokenizer("\ud800")] == [ord("?")]
    assert not len(tokenizer(""))


def test_no_name_is_no_tokenizer() -> None:
    assert named_tokenizer("") is None


def test_a_name_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOPLANE_ROUTER_TOKENIZER", "morse")
    with pytest.raises(PlaneError, match="no tokenizer 'morse'; give bytes, or") as caught:
        KvRouter()
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(PlaneError, match=r"is no tokenizer|pip install tokenizers"):
        named_tokenizer(str(path))


def test_a_file(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    models = pytest.importorskip("tokenizers.models")
    path = tmp_path / "tokenizer.json"
    library.Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")])).save(
        str(path)
    )
    tokenizer = named_tokenizer(str(path))
    assert tokenizer is not None
    assert [*tokenizer("abb")] == [2, 1]
