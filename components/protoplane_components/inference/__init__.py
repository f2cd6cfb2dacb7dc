"""``protoplane/inference``: the models of any backend, behind one service.

    protoplane serve protoplane_components.inference:Inference

`PROTOPLANE_BACKEND` chooses the backend, by default the toy models of ``embedded:``,
`PROTOPLANE_MODELS` the folder that model files are in, and `PROTOPLANE_INFERENCE_CAPACITY` says how
many requests an orchestrator gives it at a time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from protoplane_base import MissingExtraError

if TYPE_CHECKING:
    from protoplane_components.inference.component import Inference

__all__ = ["Inference"]


def __getattr__(name: str) -> object:
    # What workers say of themselves is read by who needs neither numpy nor the component.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = getattr(import_module(f"{__name__}.component"), name)
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        raise MissingExtraError("inference", "the inference component") from error
    globals()[name] = found
    return found
