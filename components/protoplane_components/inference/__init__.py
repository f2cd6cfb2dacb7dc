"""``protoplane/inference``: the models of any backend, behind one service.

    protoplane serve protoplane_components.inference:Inference

`PROTOPLANE_BACKEND` chooses the backend, by default the toy models of ``embedded:``, and
`PROTOPLANE_MODELS` the folder that model files are in.
"""

from protoplane_base import MissingExtraError

try:
    from protoplane_components.inference.component import Inference
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    raise MissingExtraError("inference", "the inference component") from error

__all__ = ["Inference"]
