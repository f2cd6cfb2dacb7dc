"""What is asked of several workers at once: which models there are, and loading them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from protoplane.inference.v1 import (
    Capability,
    InferenceClient,
    ListModelsRequest,
    Model,
    ModelState,
    ModelStats,
    ModelStatusRequest,
    ModelStatusResponse,
)
from protoplane.orchestrator.v1 import WorkerFailure
from protoplane_base import Code, Context, Metadata, PlaneError
from protoplane_components.orchestrator.needs import Need
from protoplane_components.orchestrator.pool import Pool
from protoplane_components.orchestrator.reasons import models_there, none_suits
from protoplane_components.orchestrator.settings import OrchestratorSettings
from protoplane_components.orchestrator.workers import Worker

_Answer = TypeVar("_Answer")

WORKERS = "protoplane-workers"
"""Metadata that says which workers are to load or unload a model: ids or names, with commas."""

# The state of a model at several workers is the best that it has at any.
_BEST_FIRST = (
    ModelState.MODEL_STATE_LOADED,
    ModelState.MODEL_STATE_LOADING,
    ModelState.MODEL_STATE_UNLOADING,
    ModelState.MODEL_STATE_UNLOADED,
    ModelState.MODEL_STATE_FAILED,
    ModelState.MODEL_STATE_UNSPECIFIED,
)


class Everywhere:
    """Asks workers all at once, each over the connection that requests take.

    Args:
        pool: Knows them.
        settings: The orchestrator's.
    """

    def __init__(self, pool: Pool, settings: OrchestratorSettings) -> None:
        self._pool = pool
        self._settings = settings

    async def models(self, *, ready: bool) -> Sequence[Model]:
        """The models of all workers that answer, by name; each as it is where it is best.

        Raises:
            PlaneError: UNAVAILABLE where there is no worker, or none answers.
        """
        workers = await self._present()
        request = ListModelsRequest(ready=ready)
        timeout_s = self._settings.ask_timeout_s
        answers, failures = await _each(
            workers, lambda client: client.list_models(request, timeout_s=timeout_s)
        )
        if not answers:
            raise _failed("tell which models there are", failures)
        found: dict[str, list[Model]] = {}
        for answer in answers.values():
            for model in answer.models:
                found.setdefault(model.name, []).append(model)
        return [_best(found[name]) for name in sorted(found)]

    async def status(self, name: str) -> ModelStatusResponse:
        """All about one model: what it is where it is best, and what it did at all of them.

        Raises:
            PlaneError: INVALID_ARGUMENT without a name, NOT_FOUND where no worker has it, and what
                the workers raise.
        """
        request = ModelStatusRequest(model=_named(name))
        timeout_s = self._settings.ask_timeout_s
        answers, failures = await _each(
            await self._present(), lambda client: client.model_status(request, timeout_s=timeout_s)
        )
        if answers:
            models = [answer.model for answer in answers.values() if answer.model is not None]
            stats = [answer.stats for answer in answers.values() if answer.stats is not None]
            return ModelStatusResponse(model=_best(models), stats=_sum(stats))
        if all(failure.code is Code.NOT_FOUND for failure in failures.values()):
            raise PlaneError(
                Code.NOT_FOUND,
                f"no worker knows a model {name!r}; loaded are {models_there(self._pool.roster)}",
            )
        raise _failed(f"tell of the model {name!r}", failures)

    async def change(
        self,
        what: str,
        name: str,
        ctx: Context,
        call: Callable[[InferenceClient], Awaitable[Model | None]],
    ) -> Model:
        """Have all workers, or those that the caller names, load or unload a model.

        Args:
            what: ``load`` or ``unload``.
            name: The model.
            ctx: The call; its metadata may name workers.
            call: Asks one of them.

        Raises:
            PlaneError: INVALID_ARGUMENT without a name, NOT_FOUND for a worker that is not there,
                UNAVAILABLE where there is none; where some fail, the code of the first, with a
                `WorkerFailure` for each. The others have done it all the same.
        """
        _named(name)
        workers = await self._chosen(ctx.metadata)
        answers, failures = await _each(workers, call)
        if what == "unload" and answers:
            # Who never had it has nothing to unload.
            failures = {
                worker: error
                for worker, error in failures.items()
                if error.code is not Code.NOT_FOUND
            }
        if failures:
            raise _failed(f"{what} {name!r}", failures, done=len(answers))
        return _best([model for model in answers.values() if model is not None])

    def find(self, name: str) -> Worker:
        """A worker by its id or its name.

        Raises:
            PlaneError: NOT_FOUND; it is not there.
        """
        for worker in self._pool.workers.values():
            if name in (worker.id, worker.name):
                return worker
        there = ", ".join(worker.id for worker in self._pool.workers.values()) or "none"
        raise PlaneError(Code.NOT_FOUND, f"there is no worker {name[:200]!r}; there are: {there}")

    async def _chosen(self, metadata: Metadata) -> Sequence[Worker]:
        said = metadata.get(WORKERS, "")
        names = [name.strip() for name in said.split(",")] if isinstance(said, str) else []
        present = await self._present()
        chosen = [self.find(name) for name in names if name]
        return [*dict.fromkeys(chosen)] or present

    async def _present(self) -> Sequence[Worker]:
        """The workers that are there; where there is none it waits a moment for one."""
        end = asyncio.get_running_loop().time() + self._settings.grace_s
        while not (workers := [*self._pool.workers.values()]):
            if asyncio.get_running_loop().time() >= end:
                need = Need("", Capability.CAPABILITY_UNSPECIFIED)
                raise none_suits(need, self._pool.roster, self._settings).error
            await asyncio.sleep(0.05)
        return workers


async def _each(
    workers: Sequence[Worker], call: Callable[[InferenceClient], Awaitable[_Answer]]
) -> tuple[Mapping[Worker, _Answer], Mapping[Worker, PlaneError]]:
    """Ask workers all at once; cancelling it cancels all questions."""
    answers: dict[Worker, _Answer] = {}
    failures: dict[Worker, PlaneError] = {}

    async def ask(worker: Worker) -> None:
        try:
            answers[worker] = await call(worker.client)
        except PlaneError as error:
            failures[worker] = error

    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(ask(worker))
    return answers, failures


def _failed(what: str, failures: Mapping[Worker, PlaneError], *, done: int = 0) -> PlaneError:
    """One error for what went wrong at several workers."""
    told = [
        WorkerFailure(worker=worker.name, code=error.code.name, message=error.message)
        for worker, error in failures.items()
    ]
    first = next(iter(failures.values()))
    words = "; ".join(f"{each.worker}: {each.message}" for each in told)
    others = f", {done} did" if done else ""
    return PlaneError(first.code, f"{len(told)} workers could not {what}{others}: {words}", told)


def _best(models: Sequence[Model]) -> Model:
    if not models:
        return Model()
    return min(models, key=lambda model: _rank(model.state))


def _rank(state: ModelState) -> int:
    return _BEST_FIRST.index(state) if state in _BEST_FIRST else len(_BEST_FIRST)


def _sum(stats: Sequence[ModelStats]) -> ModelStats:
    return ModelStats(
        succeeded=sum(each.succeeded for each in stats),
        failed=sum(each.failed for each in stats),
        cancelled=sum(each.cancelled for each in stats),
        in_flight=sum(each.in_flight for each in stats),
        executions=sum(each.executions for each in stats),
        items=sum(each.items for each in stats),
        tokens=sum(each.tokens for each in stats),
    )


def _named(model: str) -> str:
    if not model:
        raise PlaneError(Code.INVALID_ARGUMENT, "model is empty; ListModels says which there are")
    return model
