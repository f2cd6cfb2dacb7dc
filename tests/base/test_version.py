"""The version that generated code is told."""

from importlib.metadata import version

from protoplane_base import VERSION


def test_the_package_and_the_code_have_one_version() -> None:
    assert version("protoplane") == VERSION
