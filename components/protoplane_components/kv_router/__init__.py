"""``protoplane/router``: which worker should answer a request, by what is in whose cache.

    protoplane serve protoplane_components.kv_router

As a library it needs no runtime, only numpy and xxhash:

    from protoplane_components.kv_router import KvIndex, Router
"""

from importlib import import_module
from typing import TYPE_CHECKING

from protoplane_base import MissingExtraError

if TYPE_CHECKING:
    from protoplane_components.kv_router.admission import Admission, QueueOrder
    from protoplane_components.kv_router.approximate import ApproximateIndex
    from protoplane_components.kv_router.component import KvRouter
    from protoplane_components.kv_router.cost import CostWeights, KvPolicy
    from protoplane_components.kv_router.hashing import block_hashes, sequence_hashes
    from protoplane_components.kv_router.index import (
        KvIndex,
        Overlap,
        Target,
        Tier,
        UnknownParentError,
    )
    from protoplane_components.kv_router.load import Load, LoadTable, Reservation
    from protoplane_components.kv_router.policies import Costs, Judgement, Policy, View
    from protoplane_components.kv_router.router import Router
    from protoplane_components.kv_router.selection import Request, Score, Selection, Worker

__all__ = [
    "Admission",
    "ApproximateIndex",
    "CostWeights",
    "Costs",
    "Judgement",
    "KvIndex",
    "KvPolicy",
    "KvRouter",
    "Load",
    "LoadTable",
    "Overlap",
    "Policy",
    "QueueOrder",
    "Request",
    "Reservation",
    "Router",
    "Score",
    "Selection",
    "Target",
    "Tier",
    "UnknownParentError",
    "View",
    "Worker",
    "block_hashes",
    "sequence_hashes",
]

# The library is of use without the server, which the component needs.
_MODULES = {
    "admission": ("Admission", "QueueOrder"),
    "approximate": ("ApproximateIndex",),
    "component": ("KvRouter",),
    "cost": ("CostWeights", "KvPolicy"),
    "hashing": ("block_hashes", "sequence_hashes"),
    "index": ("KvIndex", "Overlap", "Target", "Tier", "UnknownParentError"),
    "load": ("Load", "LoadTable", "Reservation"),
    "policies": ("Costs", "Judgement", "Policy", "View"),
    "router": ("Router",),
    "selection": ("Request", "Score", "Selection", "Worker"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("numpy", "xxhash"):
            raise
        raise MissingExtraError("router", "the KV router") from error
