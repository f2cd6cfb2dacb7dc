"""Model files for tests: character models that have learned nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protoplane_server.backends.embedded.vocabulary import SIZE


def weights(hidden: int, *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    shapes: dict[str, Sequence[int]] = {
        "input": (SIZE, 3 * hidden),
        "recurrent": (hidden, 3 * hidden),
        "candidate_bias": (hidden,),
        "output": (hidden, SIZE),
        "output_bias": (SIZE,),
    }
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_model(path: Path, *, hidden: int) -> None:
    np.savez(path, **weights(hidden))  # type: ignore[arg-type]
