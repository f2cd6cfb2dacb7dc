"""The smaller parts: errors, events, services, compatibility, exports, the registry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tests.base.sample import Color, Sample, Sampler

from protoplane_base import (
    GENERATED_FORMAT,
    Code,
    EncodeError,
    EventSpec,
    KeyTemplate,
    MethodKind,
    MissingExtraError,
    PlaneError,
    ProtoplaneError,
    StaleRuntimeError,
    lazy_exports,
    message_type,
    require_format,
    unimplemented,
)

EXPECTED = {
    # gRPC's canonical code: HTTP status and name after the Connect protocol.
    "CANCELLED": (1, 499, "canceled"),
    "UNKNOWN": (2, 500, "unknown"),
    "INVALID_ARGUMENT": (3, 400, "invalid_argument"),
    "DEADLINE_EXCEEDED": (4, 504, "deadline_exceeded"),
    "NOT_FOUND": (5, 404, "not_found"),
    "ALREADY_EXISTS": (6, 409, "already_exists"),
    "PERMISSION_DENIED": (7, 403, "permission_denied"),
    "RESOURCE_EXHAUSTED": (8, 429, "resource_exhausted"),
    "FAILED_PRECONDITION": (9, 400, "failed_precondition"),
    "ABORTED": (10, 409, "aborted"),
    "OUT_OF_RANGE": (11, 400, "out_of_range"),
    "UNIMPLEMENTED": (12, 501, "unimplemented"),
    "INTERNAL": (13, 500, "internal"),
    "UNAVAILABLE": (14, 503, "unavailable"),
    "DATA_LOSS": (15, 500, "data_loss"),
    "UNAUTHENTICATED": (16, 401, "unauthenticated"),
}


def test_codes_are_those_of_grpc_and_connect() -> None:
    found = {c.name: (c.value, c.http_status, c.connect_name) for c in Code if c is not Code.OK}
    assert found == EXPECTED
    assert (Code.OK.value, Code.OK.http_status) == (0, 200)


def test_an_error_says_its_code_and_message() -> None:
    error = PlaneError(Code.NOT_FOUND, "no style 'x'", [Sample()])
    assert str(error) == "NOT_FOUND: no style 'x'"
    assert error.details == (Sample(),)
    assert "details=1" in repr(error)
    assert isinstance(error, ProtoplaneError)


def test_a_missing_extra_names_the_install_command() -> None:
    error = MissingExtraError("validate", "checking rules")
    assert str(error) == "checking rules needs an extra: pip install 'protoplane[validate]'"
    assert isinstance(error, ImportError)


def test_generated_code_of_a_newer_form_is_refused_with_the_remedy() -> None:
    require_format(GENERATED_FORMAT, generator="0.1.0")
    with pytest.raises(StaleRuntimeError, match=r"pip install 'protoplane>=9\.9\.9'"):
        require_format(GENERATED_FORMAT + 1, generator="9.9.9")


def test_the_key_of_an_event_is_made_of_its_fields() -> None:
    template = KeyTemplate("samples/{display_name}/{color}/{wide}")
    sample = Sample(display_name="n", color=Color.COLOR_RED, wide=7)
    assert template.placeholders == ("display_name", "color", "wide")
    assert template.key(sample) == "samples/n/COLOR_RED/7"
    assert KeyTemplate("a/{name}", (("name", "display_name"),)).key(sample) == "a/n"
    assert EventSpec(template).durable is False


@pytest.mark.parametrize("name", ["", "a/b", "*"])
def test_a_field_that_is_no_segment_of_a_key(name: str) -> None:
    with pytest.raises(EncodeError, match="needs display_name to be one path segment"):
        KeyTemplate("samples/{display_name}").key(Sample(display_name=name))


def test_an_absent_field_of_a_key() -> None:
    with pytest.raises(EncodeError, match="maybe"):
        KeyTemplate("samples/{maybe}").key(Sample())


@pytest.mark.parametrize(
    "text", ["", "/a", "a/", "a//b", "a/{b", "a/b}", "a/*", "a/{b}/**", "{{b}}"]
)
def test_what_is_no_template_of_a_key(text: str) -> None:
    assert KeyTemplate(text).fault()
    assert KeyTemplate("a/{b}/c").fault() is None


def test_a_method_knows_its_path_and_kind() -> None:
    method = Sampler.spec.methods["Take"]
    assert method.path == "/tests.base.sample.Sampler/Take"
    assert (method.kind.client_streaming, method.kind.server_streaming) == (False, True)
    assert MethodKind.BIDI_STREAM.client_streaming
    error = unimplemented(method)
    assert error.code is Code.UNIMPLEMENTED
    assert "define take()" in error.message


def test_exports_are_imported_when_they_are_first_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lazy_sample"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from protoplane_base import lazy_exports\n"
        "__getattr__, __dir__ = lazy_exports(__name__, 'lazy.sample', {'one': ('First',)})\n"
        "__all__ = ['First']\n"
    )
    (package / "one.py").write_text("class First: ...\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    import lazy_sample  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

    module = sys.modules["lazy_sample"]
    try:
        assert "lazy_sample.one" not in sys.modules
        assert "First" in dir(module)
        first = module.First
        assert first is module.First
        assert vars(module)["First"] is first, "found at once from now on"
        with pytest.raises(AttributeError, match="'lazy_sample' has no attribute 'Second'"):
            module.Second  # noqa: B018
        assert lazy_sample is module
    finally:
        for name in ("lazy_sample", "lazy_sample.one"):
            sys.modules.pop(name, None)


def test_the_registry_imports_a_module_when_its_type_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lazy_module.py").write_text(
        "from protoplane_base.registry import register\nregister('lazy.types.Late', 'found')\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "unused.py").write_text("")
    lazy_exports("", "lazy.types", {})
    from protoplane_base.registry import register_modules

    register_modules("lazy.types", ["lazy_module"])
    assert "lazy_module" not in sys.modules
    try:
        late: Any = message_type("lazy.types.Late")
        assert late == "found"
    finally:
        sys.modules.pop("lazy_module", None)
    sample: Any = message_type("tests.base.sample.Sample")
    assert sample is Sample
