"""Sets of schemas beside the tests, generated and imported as a user would."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from protoplane_codegen import generate
from protoplane_codegen.command import generate as command

SCHEMAS = Path(__file__).resolve().parent / "schemas"
"""Holds one folder for each set of schemas."""


@contextmanager
def importable(folder: Path) -> Generator[Path]:
    """Make what a folder holds importable, and forget all of it afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if name not in before and _lies_in(module, folder):
                del sys.modules[name]


def _lies_in(module: object, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(folder)


@contextmanager
def generated(name: str, out: Path) -> Generator[Path]:
    """Generate code for the set of schemas called ``name``, importable while the context lasts."""
    generate(SCHEMAS / name, out)
    with importable(out):
        yield out


def write_schemas(root: Path, schemas: Mapping[str, str]) -> Path:
    """Write schemas, texts by path, and return their folder."""
    for name, text in schemas.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder that is not compiled Python."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }


def python(
    code: str, *folders: Path, arguments: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that can import from ``folders`` and takes no warning."""
    path = os.pathsep.join(map(str, folders))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@dataclass(frozen=True)
class Run:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


def generate_command(*arguments: str | Path) -> Run:
    """Run ``protoplane generate`` in this process, which is quicker than `protoplane`."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Run(result.exit_code, result.stdout, result.stderr)


def protoplane(
    *arguments: str | Path, prefix: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the ``protoplane`` command."""
    return subprocess.run(
        [*prefix, str(Path(sys.executable).with_name("protoplane")), *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
