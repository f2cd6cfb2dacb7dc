"""Compiles the KV router's C where there is a compiler; Python does its work where there is none.

An editable install gets the result beside its source, a wheel has it inside. It keeps to CPython's
limited API, so one file does for every CPython from 3.11 on.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

ROOT = Path("components")
MODULE = "protoplane_components.kv_router.speedups"
TAG = "cp311-abi3"


class SpeedupsHook(BuildHookInterface[Any]):
    """What hatchling calls before and after it makes a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say where the result goes.

        Args:
            version: What is made: ``"standard"``, or ``"editable"``.
            build_data: What the builder is told.
        """
        self._folder = TemporaryDirectory()
        compiled = compile_speedups(self._folder.name)
        if compiled is None:
            self.app.display_warning(
                "The KV router's C was not compiled, see above; Python does its work, slower. "
                "With a C compiler and Python's headers, install again."
            )
        if version == "editable":
            put_beside_source(compiled)
        elif compiled is not None:
            platform = self.build_config.builder.get_best_matching_tag().rpartition("-")[2]
            build_data["tag"] = f"{TAG}-{platform}"
            build_data["pure_python"] = False
            build_data["force_include"][str(compiled)] = str(place_of(compiled))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clean up."""
        self._folder.cleanup()


def place_of(compiled: Path) -> Path:
    """Where the module lies in its package."""
    return Path(*MODULE.split(".")).with_name(compiled.name)


def compile_speedups(folder: str) -> Path | None:
    """Compile into a folder; ``None`` where that is not possible."""
    extension = Extension(
        MODULE,
        [str(ROOT.joinpath(*MODULE.split(".")).with_suffix(".c"))],
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        # Costs are rounded step by step, as in Python, wherever this is compiled.
        extra_compile_args=["-std=c11", "-O3", "-ffp-contract=off"],
        py_limited_api=True,
        # What fails is told, and nothing is there.
        optional=True,
    )
    command = build_ext(Distribution({"name": "protoplane", "ext_modules": [extension]}))
    command.build_lib = command.build_temp = folder
    command.ensure_finalized()
    command.run()
    compiled = Path(command.get_ext_fullpath(MODULE))
    return compiled if compiled.exists() else None


def put_beside_source(compiled: Path | None) -> None:
    """Replace what an older source was compiled to, also by nothing."""
    package = ROOT.joinpath(*MODULE.split(".")[:-1])
    if compiled is None:
        for stale in package.glob("speedups.*.so"):
            stale.unlink()
        return
    # By a rename: a process that has the older one open keeps it.
    staged = shutil.copy2(compiled, package / f".{compiled.name}")
    Path(staged).replace(package / compiled.name)
