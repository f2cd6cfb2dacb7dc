"""Why a request gets no worker, for people, and whether it may help to wait for one."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

from protoplane_base import Code, PlaneError
from protoplane_components.orchestrator.needs import Need
from protoplane_components.orchestrator.roster import Roster
from protoplane_components.orchestrator.settings import OrchestratorSettings
from protoplane_components.orchestrator.workers import Worker

_MOST_NAMES = 20
_MOST_STATES = 5


@dataclass(frozen=True, slots=True)
class Reason:
    """Why there is no worker.

    Attributes:
        error: What the caller is told.
        final: Whether there is no use in waiting for one.
    """

    error: PlaneError
    final: bool = False


def none_suits(need: Need, roster: Roster | None, settings: OrchestratorSettings) -> Reason:
    """Why no worker suits a request."""
    workers = () if roster is None else tuple(roster.workers.values())
    if need.failure is not None:
        # Where a worker was lost another may come; one that refused stays as it is.
        return Reason(need.failure, final=need.failure.code is not Code.UNAVAILABLE)
    if not workers:
        why = f": {roster.failure}" if roster is not None and roster.failure else ""
        return _unavailable(
            f"there is no worker: nobody serves {settings.workers}{why}; start one, with "
            "`protoplane serve protoplane_components.inference:Inference` for example"
        )
    if need.only:
        return Reason(
            PlaneError(
                Code.FAILED_PRECONDITION,
                f"the worker of this sequence, {need.only}, is gone or has the model "
                f"{need.model!r} no more; begin a new sequence",
            ),
            final=True,
        )
    with_model = [worker for worker in workers if need.model in worker.models]
    able = [worker for worker in with_model if worker.can(need.model, need.capability)]
    if able:
        states = "; ".join(map(_state, able[:_MOST_STATES]))
        return _unavailable(f"no worker takes requests for {need.model!r} now: {states}")
    silent = [worker for worker in workers if not worker.known]
    if silent:
        reason = f" ({silent[0].last_error})" if silent[0].last_error else ""
        return _unavailable(
            f"{silent[0].name} has not said yet which models it has{reason}; try again"
        )
    if roster is not None and need.model and not with_model and roster.seen(need.model):
        return _unavailable(
            f"the worker that had the model {need.model!r} is gone; start another, or load the "
            "model at one that is there"
        )
    return Reason(_no_such_model(need, roster, with_model=bool(with_model)), final=True)


def queue_full(waiting: int, limit: int, again_s: float) -> PlaneError:
    """RESOURCE_EXHAUSTED with ``google.rpc.RetryInfo``: too many wait.

    Args:
        waiting: How many wait.
        limit: How many may.
        again_s: After how many seconds there may be room.
    """
    hint = Duration()
    hint.FromMilliseconds(max(1, round(again_s * 1000)))
    return PlaneError(
        Code.RESOURCE_EXHAUSTED,
        f"{waiting} requests wait for a worker, {limit} are the most; try again in "
        f"{again_s:.2g} s, or start more workers",
        [RetryInfo(retry_delay=hint)],
    )


def models_there(roster: Roster | None) -> str:
    """The models that are loaded somewhere, for a message."""
    workers = () if roster is None else tuple(roster.workers.values())
    names = sorted({name for worker in workers for name in worker.models})
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (", ".join(map(repr, names[:_MOST_NAMES])) or "none") + more


def _no_such_model(need: Need, roster: Roster | None, *, with_model: bool) -> PlaneError:
    if not need.model:
        return PlaneError(
            Code.FAILED_PRECONDITION,
            f"no model that can {need.task} is loaded at any worker; load one. Loaded: "
            f"{models_there(roster)}",
        )
    if with_model:
        return PlaneError(
            Code.UNIMPLEMENTED,
            f"the model {need.model!r} cannot {need.task}; ListModels tells what each can",
        )
    return PlaneError(
        Code.NOT_FOUND,
        f"no worker has the model {need.model!r}; loaded are {models_there(roster)}",
    )


def _unavailable(message: str) -> Reason:
    return Reason(PlaneError(Code.UNAVAILABLE, message))


def _state(worker: Worker) -> str:
    message = worker.message()
    health = message.health.name.removeprefix("WORKER_HEALTH_").lower()
    return f"{worker.name} is {health}" + (f" ({message.reason})" if message.reason else "")
