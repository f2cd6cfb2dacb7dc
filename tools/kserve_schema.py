"""Compiles the schemas of the KServe v2 door into the descriptors that it reads.

python tools/kserve_schema.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from grpc_tools import protoc

SCHEMAS = Path(__file__).resolve().parents[1] / "server/protoplane_server/kserve/schemas"
DESCRIPTORS = SCHEMAS / "kserve.binpb"


def compile_to(path: Path) -> None:
    """Write the descriptors of all schemas into a file.

    Raises:
        SystemExit: protoc refused one, and has said why.
    """
    files = [f"kserve/{each.name}" for each in sorted(SCHEMAS.glob("*.proto"))]
    # The folder goes by the name that the imports have.
    arguments = ["protoc", f"-Ikserve={SCHEMAS}", f"--descriptor_set_out={path}", *files]
    main: Any = protoc.main  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    code: int = main(arguments)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    compile_to(DESCRIPTORS)
