"""From a URL to a backend."""

from __future__ import annotations

import subprocess
import sys

import pytest

from protoplane_base import Code, PlaneError
from protoplane_server.backends.opening import VARIABLE, open_backend


def test_the_default_is_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert open_backend().name == "embedded"
    monkeypatch.setenv(VARIABLE, "nothing:")
    with pytest.raises(PlaneError, match="'nothing:' is no backend"):
        open_backend()
    assert open_backend("embedded:").name == "embedded"


@pytest.mark.parametrize("url", ["embedded", "embedded:small", "gpu:", ":"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(PlaneError) as caught:
        open_backend(url)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_file_goes_not_into_the_url() -> None:
    with pytest.raises(PlaneError, match=r"not 'small\.npz'; leave it out, and load"):
        open_backend("embedded:small.npz")


def test_a_missing_extra_names_its_install_command() -> None:
    program = """
import sys
sys.modules["numpy"] = None
from protoplane_base import MissingExtraError
from protoplane_server.backends.opening import open_backend
try:
    open_backend("embedded:")
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "pip install 'protoplane[inference]'" in done.stdout
