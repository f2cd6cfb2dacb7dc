"""Tokenizers by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from protoplane_base import Code, MissingExtraError, PlaneError
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
    with pytest.raises(PlaneError, match="is no tokenizer"):
        named_tokenizer(str(path))


def test_a_file_that_nothing_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'protoplane\[tokenizer\]'"):
        named_tokenizer(str(path))


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    pairs = BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")])
    Tokenizer(pairs).save(str(path))
    tokenizer = named_tokenizer(str(path))
    assert tokenizer is not None
    assert [*tokenizer("abb")] == [2, 1]
