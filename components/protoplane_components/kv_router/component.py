"""The component: the router behind all doors, fed by the event plane and shared by its replicas."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

from protoplane.router.v1 import (
    DumpRequest,
    DumpResponse,
    ExplainRequest,
    ExplainResponse,
    KvRouterService,
    LoadsRequest,
    LoadsResponse,
    OutputBlocksRequest,
    OutputBlocksResponse,
    PrefillCompletedRequest,
    PrefillCompletedResponse,
    QueryRequest,
    QueryResponse,
    RegisterWorkerRequest,
    RegisterWorkerResponse,
    ReleaseRequest,
    ReleaseResponse,
    RemoveWorkerRequest,
    RemoveWorkerResponse,
    RestoreRequest,
    RestoreResponse,
    RoutingRequest,
    SelectAndReserveRequest,
    SelectAndReserveResponse,
    SelectRequest,
    SelectResponse,
    Worker,
    WorkersRequest,
    WorkersResponse,
    WorkerStatus,
)
from protoplane_base import Code, DecodeError, Duration, PlaneError, Timestamp
from protoplane_components.kv_router.conversion import (
    Tokenizer,
    lease_s,
    load_of,
    overlap_of,
    query_of,
    request_of,
    selection_of,
)
from protoplane_components.kv_router.explaining import FORMULA, steps
from protoplane_components.kv_router.following import Course, KvFollower
from protoplane_components.kv_router.index import KvIndex, Target
from protoplane_components.kv_router.keeping import SnapshotKeeper
from protoplane_components.kv_router.membership import Member, Membership
from protoplane_components.kv_router.metrics import RouterMetrics
from protoplane_components.kv_router.replicas import Replicas
from protoplane_components.kv_router.router import Request, Router
from protoplane_components.kv_router.snapshots import Restoring, dump
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE
from protoplane_runtime.engines.interface import EventId
from protoplane_server import Context, Host

_log = logging.getLogger("protoplane.router")

BLOCK_SIZE = "PROTOPLANE_ROUTER_BLOCK_SIZE"
"""The environment variable for the tokens in a block; 16 without it."""

POLICY = "PROTOPLANE_ROUTER_POLICY"
"""The environment variable that names the policy; ``kv`` without it."""

WORKERS = "PROTOPLANE_ROUTER_WORKERS"
"""The environment variable for the path where discovery finds workers; anywhere without it."""

_AGAIN_S = 1.0
_RESTORE_S = 30.0


class KvRouter(KvRouterService):
    """Picks the worker on which a request costs least.

    Workers are found by discovery, and are gone with their instances; others can be registered.
    What they hold comes by KV events. Replicas, which are instances on one engine, share their
    reservations.

    Args:
        router: The router; by default one with the block size of ``$PROTOPLANE_ROUTER_BLOCK_SIZE``
            and the policy of ``$PROTOPLANE_ROUTER_POLICY``.
        workers: Path under which discovery finds workers; by default
            ``$PROTOPLANE_ROUTER_WORKERS``, else all that say they are workers.
        tokenizer: Makes tokens of prompts that are texts; without it they are refused.
        snapshot_interval_s: Seconds between two snapshots of the index in the object plane;
            ``None`` for none.
        replica_interval_s: Seconds between two rounds in which replicas tell all reservations.
    """

    def __init__(
        self,
        router: Router | None = None,
        *,
        workers: str | None = None,
        tokenizer: Tokenizer | None = None,
        snapshot_interval_s: float | None = 30.0,
        replica_interval_s: float = 2.0,
    ) -> None:
        self.router = router or _router(os.environ)
        self._path = workers or os.environ.get(WORKERS) or None
        self._tokenizer = tokenizer
        self._snapshot_interval_s = snapshot_interval_s
        self._replica_interval_s = replica_interval_s
        index = self.router.index
        self._index = index if isinstance(index, KvIndex) else None
        self._membership = Membership(self.router, None, DEFAULT_NAMESPACE)
        self._follower: KvFollower | None = None
        self._replicas: Replicas | None = None
        self._host: Host | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def follower(self) -> KvFollower | None:
        """What keeps the index at what the workers hold; ``None`` where events do not feed it."""
        return self._follower

    @property
    def replicas(self) -> Replicas | None:
        """The other replicas; ``None`` before it is served, and without an engine."""
        return self._replicas

    def hosted(self, host: Host) -> None:
        """Take the planes from the server."""
        self._host = host
        self._membership = Membership(self.router, host.discovery, host.namespace)
        if self._index is not None:
            self._follower = self._membership.follower = KvFollower(
                self._index,
                host.events,
                self._membership.fetch,
                block_size=self.router.block_size,
            )
        if host.discovery is not None:
            self._replicas = Replicas(
                self.router.loads,
                host.events,
                time.monotonic,
                name=host.name.rpartition("/")[2],
                interval_s=self._replica_interval_s,
                release=self.router.release,
            )
        host.metrics.register(RouterMetrics(self))

    async def __aenter__(self) -> Self:
        host = self._host
        if host is None:
            return self
        work: list[Callable[[], Awaitable[None]]] = []
        if self._follower is not None and self._index is not None:
            after = None
            if self._snapshot_interval_s is not None:
                keeper = SnapshotKeeper(
                    self._index,
                    self._follower,
                    await host.open_objects(),
                    f"{host.name.rpartition('/')[0]}/index",
                    block_size=self.router.block_size,
                    workers=self._registered,
                    interval_s=self._snapshot_interval_s,
                )
                after = await self._restore(keeper)
                work.append(keeper.run)
            follower = self._follower

            async def follow() -> None:
                await follower.run(follower.position or after)

            work.append(follow)
        if host.discovery is not None:
            work.append(lambda: self._membership.watch(self._path))
        if self._replicas is not None:
            work.append(self._replicas.run)
        self._tasks = [asyncio.create_task(_kept_up(each)) for each in work]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def select(self, request: SelectRequest, ctx: Context) -> SelectResponse:
        """Pick a worker."""
        asked = self._asked(request.request)
        scores = not (request.request and request.request.omit_scores)
        return SelectResponse(selection=selection_of(self.router.select(asked), scores=scores))

    async def select_and_reserve(
        self, request: SelectAndReserveRequest, ctx: Context
    ) -> SelectAndReserveResponse:
        """Pick a worker, and count the request."""
        asked = self._asked(request.request)
        if not asked.id:
            # Replicas must not give the same.
            asked = replace(asked, id=secrets.token_hex(8))
        began = time.monotonic()
        reservation, selection = await self.router.acquire(
            asked, lease_s=lease_s(request.lease), timeout_s=ctx.time_remaining_s()
        )
        if self._replicas is not None:
            self._replicas.changed(reservation)
        now = time.monotonic()
        scores = not (request.request and request.request.omit_scores)
        return SelectAndReserveResponse(
            selection=selection_of(selection, scores=scores),
            reservation_id=reservation.id,
            expires_at=_moment(reservation.expires_at - now),
            queued=Duration.from_seconds(now - began),
        )

    async def prefill_completed(
        self, request: PrefillCompletedRequest, ctx: Context
    ) -> PrefillCompletedResponse:
        """Note that a prompt is computed."""
        found = self.router.prefill_completed(request.reservation_id)
        self._changed(request.reservation_id)
        return PrefillCompletedResponse(found=found)

    async def output_blocks(
        self, request: OutputBlocksRequest, ctx: Context
    ) -> OutputBlocksResponse:
        """Note how long an answer is."""
        found = self.router.output_blocks(request.reservation_id, request.blocks)
        self._changed(request.reservation_id)
        return OutputBlocksResponse(found=found)

    async def release(self, request: ReleaseRequest, ctx: Context) -> ReleaseResponse:
        """End a reservation."""
        found = self.router.release(request.reservation_id)
        if found is not None and self._replicas is not None:
            self._replicas.changed(found, released=True)
        return ReleaseResponse(found=found is not None)

    async def query(self, request: QueryRequest, ctx: Context) -> QueryResponse:
        """Tell what of a prompt is cached where."""
        asked = query_of(request, self._tokenizer)
        able = self._membership.of_model(request.model, ())
        there = self.router.loads
        found = [
            overlap_of(target, overlap)
            for target, overlap in self.router.overlaps(asked).items()
            if there.row(target) is not None and (not able or target.worker in able)
        ]
        found.sort(
            key=lambda each: (
                -(each.device_blocks + each.host_blocks + each.disk_blocks),
                each.worker_id,
                each.dp_rank,
            )
        )
        return QueryResponse(overlaps=found, prompt_blocks=self._blocks(asked))

    async def workers(self, request: WorkersRequest, ctx: Context) -> WorkersResponse:
        """Tell which workers there are."""
        members = self._membership.members
        return WorkersResponse(
            workers=[
                self._status(members[id_])
                for id_ in sorted(members)
                if not request.model or members[id_].worker.model in ("", request.model)
            ]
        )

    async def register_worker(
        self, request: RegisterWorkerRequest, ctx: Context
    ) -> RegisterWorkerResponse:
        """Add a worker."""
        if request.worker is None:
            raise PlaneError(Code.INVALID_ARGUMENT, "worker is missing: say which one it is")
        return RegisterWorkerResponse(added=self._membership.add(request.worker))

    async def remove_worker(
        self, request: RemoveWorkerRequest, ctx: Context
    ) -> RemoveWorkerResponse:
        """Forget a worker."""
        ended = self._membership.remove(request.worker_id)
        return RemoveWorkerResponse(found=ended is not None, released=len(ended or ()))

    async def loads(self, request: LoadsRequest, ctx: Context) -> LoadsResponse:
        """Tell how busy workers are."""
        self.router.expire()
        able = self._membership.of_model(request.model, ()) if request.model else ()
        loads = [
            load_of(load)
            for load in self.router.loads.loads()
            if not able or load.target.worker in able
        ]
        loads.sort(key=lambda load: (load.worker_id, load.dp_rank))
        return LoadsResponse(loads=loads, queued=self.router.queued)

    async def dump(self, request: DumpRequest, ctx: Context) -> AsyncIterator[DumpResponse]:
        """Give the index in pieces."""
        courses: Mapping[Target, Course] = {}
        if self._follower is not None:
            courses = self._follower.courses
        pieces = dump(self._exact(), courses, self.router.block_size, frozenset(request.worker_ids))
        for piece in pieces:
            yield DumpResponse(piece=piece)
            await asyncio.sleep(0)

    async def restore(
        self, requests: AsyncIterable[RestoreRequest], ctx: Context
    ) -> RestoreResponse:
        """Replace a part of the index."""
        restoring = Restoring(self._exact(), self.router.block_size)
        async for request in requests:
            if request.piece is not None:
                restoring.put(request.piece)
        self._membership.expect(restoring.courses)
        return RestoreResponse(
            blocks=restoring.blocks,
            workers=len({target.worker for target in restoring.courses}),
        )

    async def explain(self, request: ExplainRequest, ctx: Context) -> ExplainResponse:
        """Tell why a request goes where it goes."""
        selection = self.router.select(self._asked(request.request))
        return ExplainResponse(
            selection=selection_of(selection, scores=True),
            steps=steps(selection, self.router, warm=self._warm),
            formula=FORMULA,
        )

    @property
    def _warm(self) -> bool:
        return self._follower is None or self._follower.warm

    def _asked(self, message: RoutingRequest | None) -> Request:
        pinned: Collection[str] = ()
        if message is not None:
            pinned = self._membership.of_model(message.model, message.pinned_workers)
        self.router.index_ready = self._warm
        return request_of(message, self._tokenizer, pinned)

    def _blocks(self, asked: Request) -> int:
        if asked.hashes is not None:
            return len(asked.hashes)
        return 0 if asked.tokens is None else len(asked.tokens) // self.router.block_size

    def _changed(self, reservation_id: str) -> None:
        if self._replicas is not None:
            found = self.router.loads.get(reservation_id)
            if found is not None:
                self._replicas.changed(found)

    def _exact(self) -> KvIndex:
        if self._index is None:
            raise PlaneError(
                Code.UNIMPLEMENTED,
                f"a {type(self.router.index).__name__} cannot be dumped or restored; a KvIndex can",
            )
        return self._index

    def _status(self, member: Member) -> WorkerStatus:
        worker = member.worker
        targets = [
            Target(worker.id, worker.dp_start + rank) for rank in range(max(1, worker.dp_size))
        ]
        courses: list[Course] = []
        if self._follower is not None:
            followed = self._follower.courses
            courses = [followed.get(target, Course()) for target in targets]
        return WorkerStatus(
            worker=worker,
            indexed_blocks=sum(map(self._index.count, targets)) if self._index else 0,
            last_event_ids=[course.event_id for course in courses],
            registered_at=member.since,
            discovered=bool(member.instance),
            in_sync=all(course.in_sync for course in courses),
        )

    def _registered(self) -> list[dict[str, Any]]:
        members = self._membership.members.values()
        return [member.worker.model_dump(mode="json") for member in members if not member.instance]

    async def _restore(self, keeper: SnapshotKeeper) -> EventId | None:
        try:
            async with asyncio.timeout(_RESTORE_S):
                found = await keeper.restore()
        except TimeoutError:
            _log.warning("the snapshot of the index takes too long; workers are asked instead")
            return None
        if found is None:
            return None
        restoring, header, position = found
        self._membership.expect(restoring.courses)
        for worker in header.workers:
            with suppress(PlaneError, DecodeError, ValueError):
                self._membership.add(Worker.model_validate(worker))
        return position


async def _kept_up(work: Callable[[], Awaitable[None]]) -> None:
    """Do something until it is over, again where a plane fails it."""
    while True:
        try:
            await work()
        except PlaneError as error:
            _log.warning("%s; it is tried again", error.message)
            await asyncio.sleep(_AGAIN_S)
        else:
            return


def _router(environment: Mapping[str, str]) -> Router:
    text = environment.get(BLOCK_SIZE) or "16"
    if not (text.isascii() and text.isdigit() and int(text)):
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{BLOCK_SIZE} is {text!r}; give the tokens in a block, 16 say"
        )
    return Router(block_size=int(text), policy=environment.get(POLICY) or "kv")


def _moment(after_s: float) -> Timestamp:
    nanos = time.time_ns() + max(0, int(after_s * 1e9))
    return Timestamp(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)
