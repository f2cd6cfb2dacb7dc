"""Generated models against protobuf's own ``json_format`` with Pydantic's validation.

The peer is what one would write without the generated conversion: ``MessageToDict`` with
``model_validate`` one way, ``model_dump`` with ``ParseDict`` the other, ``json_format`` for JSON.
Each figure is the best of several loops, all in one process.

    python bench/codec.py [--json]
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf import json_format
from report import Claim, Row, best_of, print_report

from protoplane_codegen import generate

SCHEMAS = Path(__file__).resolve().parent / "schemas"


def sample(cls: Any, kind: Any, origin: Any) -> Any:
    """A message with all its fields set, 128 numbers and a map of eight."""
    return cls(
        id="sample-0001",
        width=1024,
        bytes_total=2**40,
        seed=2**63,
        score=0.875,
        weight=0.25,
        ready=True,
        digest=bytes(range(32)),
        kind=kind,
        tokens=list(range(1000, 1128)),
        counts={f"worker-{i}": 10**i for i in range(8)},
        origin=origin(host="node-7", time_ns=1_780_000_000_000_000_000),
        text="the source of this sample",
        note="seen",
    )


def measure(package: Any, pb2: Any) -> dict[str, tuple[float, float]]:
    """Microseconds of the peer and of ours for each direction."""
    cls, pb_cls = package.Sample, pb2.Sample
    model = sample(cls, package.Kind.KIND_IMAGE, package.Origin)
    wire, text = model.to_bytes(), model.model_dump_json()
    pb = pb_cls.FromString(wire)
    assert cls.from_bytes(wire) == model == cls.model_validate_json(text)
    assert json_format.Parse(text, pb_cls()) == pb
    # The peer reads dicts by field name and writes canonical JSON values, as json_format does.
    peers = {
        "wire -> model": lambda: cls.model_validate(
            json_format.MessageToDict(pb_cls.FromString(wire))
        ),
        "model -> wire": lambda: json_format.ParseDict(
            model.model_dump(mode="json"), pb_cls()
        ).SerializeToString(),
        "model -> JSON": lambda: json_format.MessageToJson(pb, indent=None),
        "JSON -> model": lambda: json_format.Parse(text, pb_cls()),
    }
    ours = {
        "wire -> model": lambda: cls.from_bytes(wire),
        "model -> wire": model.to_bytes,
        "model -> JSON": model.model_dump_json,
        "JSON -> model": lambda: cls.model_validate_json(text),
    }
    return {name: (best_of(peers[name]) * 1e6, best_of(ours[name]) * 1e6) for name in peers}


REQUIRED = {"wire -> model": 4, "model -> wire": 15, "model -> JSON": 5, "JSON -> model": 5}


def main() -> None:
    """Generate the schema's code, measure and report."""
    with TemporaryDirectory() as out:
        generate(SCHEMAS, Path(out))
        sys.path.insert(0, out)
        import benchmarks.codec.v1 as package  # type: ignore[import-not-found]
        import benchmarks.codec.v1.codec_pb2 as pb2  # type: ignore[import-not-found]

        measured = measure(package, pb2)
    rows = [
        row
        for name, (peer, ours) in measured.items()
        for row in (
            Row(name, "json_format", peer, "µs"),
            Row(name, "generated model", ours, "µs"),
        )
    ]
    claims = [
        Claim(f"{name}: times faster", REQUIRED[name], peer / ours)
        for name, (peer, ours) in measured.items()
    ]
    print_report("codec", rows, claims, ["protobuf", "pydantic"])


if __name__ == "__main__":
    main()
