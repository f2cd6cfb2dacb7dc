"""All files that a run makes for an API."""

from __future__ import annotations

import json
from typing import Any

from protoplane_base import VERSION

from protoplane_codegen.api import Api
from protoplane_codegen.outputs import Outputs
from protoplane_codegen.render.python import render_python


def render_files(api: Api, outputs: Outputs) -> dict[str, str]:
    """Render every file, by path relative to the output folder; the same for the same input."""
    return render_python(api)


def _document(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


_ = VERSION
