"""Generated code, letter by letter.

The files in ``tests/codegen/golden`` are what the schemas in ``tests/codegen/schemas/golden`` make,
with the version of the generator left out. After a change that is meant, write them anew and read
the difference:

    UPDATE_GOLDEN=1 pytest tests/codegen/output/test_golden.py && git diff tests/codegen/golden
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.codegen.project import SCHEMAS, contents

from protoplane_base import VERSION
from protoplane_codegen import Outputs, generate

pytestmark = pytest.mark.codegen

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("golden")
    generate(SCHEMAS / "golden", out, outputs=Outputs(documents=False))
    return {
        path: data.decode().replace(VERSION, "<version>")
        for path, data in contents(out).items()
        # The rest is protoc's own.
        if path.endswith(".py") and not path.endswith("_pb2.py")
    }


def test_generated_code_is_what_it_was(made: dict[str, str]) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        shutil.rmtree(GOLDEN, ignore_errors=True)
        for path, text in made.items():
            (GOLDEN / path).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / path).write_text(text, encoding="utf-8")
    kept = {path: data.decode() for path, data in contents(GOLDEN).items()}
    assert set(made) == set(kept)
    for path, text in made.items():
        assert text == kept[path], f"{path} has changed; is it meant? See this module's docstring."
