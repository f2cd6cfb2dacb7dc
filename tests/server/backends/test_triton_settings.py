"""What needs no Triton: its URL, its words for what went wrong, and folders with models."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.triton_server import MODELS

from protoplane_base import Code, PlaneError
from protoplane_server.backends.opening import open_backend
from protoplane_server.backends.triton.errors import error_of_words
from protoplane_server.backends.triton.repository import load_parameters
from protoplane_server.backends.triton.settings import TritonSettings


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("triton://gpu-1", "gpu-1:8001"),
        ("triton://gpu-1:9000/", "gpu-1:9000"),
        ("triton://[::1]:9000", "[::1]:9000"),
    ],
)
def test_where_it_is(url: str, address: str) -> None:
    settings = TritonSettings.parse(url)
    assert settings.address == address
    assert settings.tls is None


def test_settings() -> None:
    settings = TritonSettings.parse(
        "triton://a?timeout_s=2.5&shared_memory_min_bytes=0&shared_memory_max_bytes=9&ca=ca.pem"
    )
    assert settings.timeout_s == 2.5
    assert settings.shared_memory_min_bytes == 0
    assert settings.shared_memory_max_bytes == 9
    assert settings.tls is not None
    assert settings.tls.ca == "ca.pem"
    assert TritonSettings.parse("triton://a?tls=yes").tls is not None
    devices = {"": 0, "cuda_device=2": 2, "cuda_device=no": None}
    for setting, device in devices.items():
        assert TritonSettings.parse(f"triton://a?{setting}").cuda_device == device


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("triton:", "it looks like triton://127.0.0.1:8001"),
        ("triton://", "it looks like triton://127.0.0.1:8001"),
        ("triton://a/models", "it looks like triton://127.0.0.1:8001"),
        ("triton://a:port", "[Pp]ort"),
        ("triton://me@a", "no users"),
        ("triton://a?timeout_s=soon", "'timeout_s' is a number, not 'soon'"),
        ("triton://a?timeout_s=0", "more than 0"),
        ("triton://a?tls=1", "'tls' is yes or no"),
        ("triton://a?cuda_device=cuda:1", "the number of a GPU, or no, not 'cuda:1'"),
        ("triton://a?retries=1", "no setting 'retries'; there are ca, cert, cuda_device, key, sh"),
    ],
)
def test_urls_that_are_none(url: str, told: str) -> None:
    with pytest.raises(PlaneError, match=told) as caught:
        open_backend(url)
    assert caught.value.code is Code.INVALID_ARGUMENT


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    codes: list[Code] = []
    try:
        assert TritonSettings.parse(f"triton://{text}").address
    except PlaneError as error:
        codes.append(error.code)
    assert codes in ([], [Code.INVALID_ARGUMENT])


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Request for unknown model: 'a' is not found", Code.NOT_FOUND),
        ("[request id: 3] Exceeds maximum queue size", Code.RESOURCE_EXHAUSTED),
        ("[request id: <id_unknown>] Request timeout expired", Code.DEADLINE_EXCEEDED),
        ("[request id: 3] unexpected shape for input 'A' for model", Code.INVALID_ARGUMENT),
        ("Stub process 'a_0_0' is not healthy.", Code.UNAVAILABLE),
        ("something else", Code.INTERNAL),
    ],
)
def test_words_of_a_stream(said: str, code: Code) -> None:
    error = error_of_words(said)
    assert error.code is code
    assert "request id" not in error.message


def test_where_in_a_model_it_broke_is_for_its_log() -> None:
    said = "Failed, message: ValueError: no \n\nAt:\n  /models/add/1/model.py(16): _sum\n"
    assert error_of_words(said, Code.INTERNAL).message == "Failed, message: ValueError: no"


def test_a_folder_is_sent_with_its_configuration(tmp_path: Path) -> None:
    for model in sorted(MODELS.iterdir()):
        parameters = load_parameters(model)
        assert list(parameters) == ["config", "file:1/model.py"]
        assert '"backend": "python"' in parameters["config"].string_param
        assert parameters["file:1/model.py"].bytes_param == (model / "1/model.py").read_bytes()


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.pbtxt").write_text("name: ")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, told in (
        (empty, "it has no config.pbtxt"),
        (file, "it is a file"),
        (broken, "config.pbtxt cannot be read"),
    ):
        with pytest.raises(PlaneError, match=f"'{path.name}' holds no model of .*{told}") as caught:
            load_parameters(path)
        assert caught.value.code is Code.INVALID_ARGUMENT
        # Where the server keeps its files, and what its system calls say, is not told.
        assert str(tmp_path) not in caught.value.message
        assert "Errno" not in caught.value.message
