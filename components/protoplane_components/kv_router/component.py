"""The component: the router behind all doors, fed by the event plane and shared by its replicas."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AsyncExitStack
from operator import attrgetter
from typing import Self

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

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
    WorkersRequest,
    WorkersResponse,
    WorkerStatus,
)
from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.at_once import (
    Asked,
    read_select,
    read_select_and_reserve,
    select_json,
)
from protoplane_components.kv_router.conversion import (
    GivenPrompt,
    Tokenizer,
    answer_of,
    lease_s,
    load_of,
    overlap_of,
    prompt_of,
    query_of,
    request_of,
    reserved_of,
    selection_of,
)
from protoplane_components.kv_router.explaining import FORMULA, steps
from protoplane_components.kv_router.feeding import IndexFeed, kept_up
from protoplane_components.kv_router.following import Course, KvFollower
from protoplane_components.kv_router.index import KvIndex, Target
from protoplane_components.kv_router.levels import Levels
from protoplane_components.kv_router.load import Reservation
from protoplane_components.kv_router.membership import Member
from protoplane_components.kv_router.metrics import IndexMetrics, RouterMetrics
from protoplane_components.kv_router.reading import prompt_reader
from protoplane_components.kv_router.replicas import Replicas
from protoplane_components.kv_router.router import Router
from protoplane_components.kv_router.selection import Request, Selection
from protoplane_components.kv_router.settings import (
    POLICY,
    TOKENIZER,
    WORKERS,
    WORKERS_WITHOUT_EVENTS,
    admission,
    block_size,
    shard_count,
    weights,
)
from protoplane_components.kv_router.shards import Shards
from protoplane_components.kv_router.snapshots import Restoring, dump
from protoplane_components.kv_router.tokenizing import named_tokenizer
from protoplane_server import Context, Host
from protoplane_server.http.at_once import JsonAnswer
from protoplane_server.http.reading import JsonReader


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
        tokenizer: Makes tokens of prompts that are texts; by default that of
            ``$PROTOPLANE_ROUTER_TOKENIZER``, see `named_tokenizer`; without one they are refused.
        workers_without_events: Path under which discovery finds workers that serve texts and tell
            no KV events, so that what they hold is guessed from what they were given; by default
            ``$PROTOPLANE_ROUTER_WORKERS_WITHOUT_EVENTS``, else none.
        snapshot_interval_s: Seconds between two snapshots of the index in the object plane;
            ``None`` for none.
        replica_interval_s: Seconds between two rounds in which replicas tell all reservations.
        shards: How many processes have a part of the index each, so that this one has none; by
            default ``$PROTOPLANE_ROUTER_SHARDS``, else none.
    """

    def __init__(
        self,
        router: Router | None = None,
        *,
        workers: str | None = None,
        tokenizer: Tokenizer | None = None,
        workers_without_events: str | None = None,
        snapshot_interval_s: float | None = 30.0,
        replica_interval_s: float = 2.0,
        shards: int | None = None,
    ) -> None:
        self._shard_count = shard_count(os.environ) if shards is None else shards
        self.router = router or _router(os.environ)
        if self._shard_count:
            self.router.index = NoIndex()
        self._feed = IndexFeed(
            self.router,
            path=workers or os.environ.get(WORKERS) or None,
            snapshot_interval_s=snapshot_interval_s,
            without_events=workers_without_events or os.environ.get(WORKERS_WITHOUT_EVENTS) or None,
        )
        self._tokenizer = tokenizer or named_tokenizer(os.environ.get(TOKENIZER, ""))
        self._replica_interval_s = replica_interval_s
        self._replicas: Replicas | None = None
        self._shards: Shards | None = None
        self._host: Host | None = None
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def follower(self) -> KvFollower | None:
        """What keeps the index at what the workers hold; ``None`` where events do not feed it."""
        return self._feed.follower

    @property
    def shards(self) -> Shards | None:
        """The parts of the index; ``None`` where it is here, and before this is served."""
        return self._shards

    @property
    def replicas(self) -> Replicas | None:
        """The other replicas; ``None`` before it is served, and without an engine."""
        return self._replicas

    def json_readers(self) -> Mapping[str, JsonReader]:
        """What reads requests with long prompts from JSON; the HTTP door asks for it."""
        size, routed = self.router.block_size, attrgetter("request")
        return {
            "Select": prompt_reader(SelectRequest, routed, size),
            "SelectAndReserve": prompt_reader(SelectAndReserveRequest, routed, size),
            "Explain": prompt_reader(ExplainRequest, routed, size),
            "Query": prompt_reader(QueryRequest, lambda request: request, size),
        }

    def json_answers(self) -> Mapping[str, JsonAnswer]:
        """What answers at once; the HTTP door asks for it."""
        if self._shard_count:
            return {}
        return {
            "Select": self._select_at_once,
            "SelectAndReserve": self._select_and_reserve_at_once,
        }

    def hosted(self, host: Host) -> None:
        """Take the planes from the server."""
        self._host = host
        self._feed.hosted(host)
        if self._shard_count:
            if host.discovery is None:
                raise PlaneError(
                    Code.FAILED_PRECONDITION,
                    f"{self._shard_count} shards are to have the index, and there is no engine to "
                    "find them by; name one",
                )
            self._shards = Shards(
                host.discovery,
                host.namespace,
                self._shard_count,
                registered=self._feed.membership.registered,
            )
        if host.discovery is not None:
            self._replicas = Replicas(
                self.router.loads,
                host.events,
                time.monotonic,
                name=host.name.rpartition("/")[2],
                interval_s=self._replica_interval_s,
                release=self.router.release,
                prefill_completed=self.router.prefill_completed,
            )
        host.metrics.register(RouterMetrics(self))
        host.metrics.register(IndexMetrics(self._feed))

    async def __aenter__(self) -> Self:
        if self._host is None:
            return self
        work = await self._feed.start()
        if self._shards is not None:
            await self._stack.enter_async_context(self._shards)
            work.append(self._shards.watch)
        if self._replicas is not None:
            work.append(self._replicas.run)
        self._tasks = [asyncio.create_task(kept_up(each)) for each in work]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._stack.aclose()

    async def select(self, request: SelectRequest, ctx: Context) -> SelectResponse:
        """Pick a worker."""
        asked = self._asked(request.request)
        if self._shards is not None:
            asked = await self._looked_up(asked, self._shards)
        scores = not (request.request and request.request.omit_scores)
        return answer_of(self.router.select(asked), scores=scores)

    async def select_and_reserve(
        self, request: SelectAndReserveRequest, ctx: Context
    ) -> SelectAndReserveResponse:
        """Pick a worker, and count the request."""
        asked = self._asked(request.request)
        if self._shards is not None:
            asked = await self._looked_up(asked, self._shards)
        began = time.monotonic()
        found = await self.router.acquire(
            _named(asked),
            lease_s=lease_s(request.lease),
            timeout_s=_patience_s(ctx.time_remaining_s()),
        )
        scores = not (request.request and request.request.omit_scores)
        return self._reserved(found, began, scores=scores)

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
        if self._shards is not None:
            asked = await self._looked_up(asked, self._shards)
        able = self._feed.membership.of_model(request.model, ())
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
        members = self._feed.membership.members
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
        added = self._feed.membership.add(request.worker)
        if self._shards is not None:
            await self._shards.follow(request.worker)
        return RegisterWorkerResponse(added=added)

    async def remove_worker(
        self, request: RemoveWorkerRequest, ctx: Context
    ) -> RemoveWorkerResponse:
        """Forget a worker."""
        ended = self._feed.membership.remove(request.worker_id)
        if self._shards is not None:
            await self._shards.forget(request.worker_id)
        return RemoveWorkerResponse(found=ended is not None, released=len(ended or ()))

    async def loads(self, request: LoadsRequest, ctx: Context) -> LoadsResponse:
        """Tell how busy workers are."""
        self.router.expire()
        able = self._feed.membership.of_model(request.model, ()) if request.model else ()
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
        if self._feed.follower is not None:
            courses = self._feed.follower.courses
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
        self._feed.membership.expect(restoring.courses)
        return RestoreResponse(
            blocks=restoring.blocks,
            workers=len({target.worker for target in restoring.courses}),
        )

    async def explain(self, request: ExplainRequest, ctx: Context) -> ExplainResponse:
        """Tell why a request goes where it goes."""
        asked = self._asked(request.request)
        if self._shards is not None:
            asked = await self._looked_up(asked, self._shards)
        selection = self.router.select(asked)
        return ExplainResponse(
            selection=selection_of(selection, scores=True),
            steps=steps(selection, self.router, warm=self.router.index_ready),
            formula=FORMULA,
        )

    def _select_at_once(self, data: bytes, ctx: Context) -> bytes | None:
        found = read_select(data, self.router.block_size)
        if found is None:
            return None
        asked, prompt = found
        selection = self.router.select(self._routed(asked, prompt))
        return select_json(selection, scores=not asked.omit_scores)

    def _select_and_reserve_at_once(self, data: bytes, ctx: Context) -> bytes | None:
        read = read_select_and_reserve(data, self.router.block_size)
        if read is None:
            return None
        asked, prompt, lease = read
        began = time.monotonic()
        found = self.router.reserve_if_free(
            _named(self._routed(asked, prompt)), lease_s=lease_s(lease)
        )
        if found is None:
            return None
        return self._reserved(found, began, scores=not asked.omit_scores).model_dump_json().encode()

    def _reserved(
        self, found: tuple[Reservation, Selection], began: float, *, scores: bool
    ) -> SelectAndReserveResponse:
        """The answer with a reservation, of which the replicas are told."""
        reservation, selection = found
        if self._replicas is not None:
            self._replicas.changed(reservation)
        return reserved_of(selection, reservation, began, scores=scores)

    def _asked(self, message: RoutingRequest | None) -> Request:
        """A request; see `_routed`."""
        if message is None:
            raise PlaneError(Code.INVALID_ARGUMENT, "request is missing: say what is to be routed")
        return self._routed(message, prompt_of(message.prompt, self._tokenizer))

    def _routed(self, message: RoutingRequest | Asked, prompt: GivenPrompt) -> Request:
        """A request, with how things are noted at the router."""
        pinned = self._feed.membership.of_model(message.model, message.pinned_workers)
        if self._replicas is not None:
            self.router.replicas = 1 + len(self._replicas.peers)
        self.router.index_ready = self._feed.warm
        return request_of(message, prompt, pinned)

    async def _looked_up(self, asked: Request, shards: Shards) -> Request:
        """A request, with what shards know of its prompt; whether they do the router is told."""
        asked = self.router.hashed(asked)
        overlaps = await shards.find(() if asked.hashes is None else asked.hashes)
        self.router.index_ready = overlaps is not None
        return replace(asked, overlaps=overlaps)

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
        if self._feed.index is None:
            raise PlaneError(
                Code.UNIMPLEMENTED,
                "the shards have the index, and each keeps its own snapshots"
                if self._shard_count
                else f"a {type(self.router.index).__name__} cannot be dumped or restored; a "
                "KvIndex can",
            )
        return self._feed.index

    def _status(self, member: Member) -> WorkerStatus:
        worker = member.worker
        targets = [
            Target(worker.id, worker.dp_start + rank) for rank in range(max(1, worker.dp_size))
        ]
        courses: list[Course] = []
        if self._feed.follower is not None:
            followed = self._feed.follower.courses
            courses = [followed.get(target, Course()) for target in targets]
        counted = self.router.guesses if worker.no_events else self._feed.index
        return WorkerStatus(
            worker=worker,
            indexed_blocks=sum(map(counted.count, targets)) if counted is not None else 0,
            last_event_ids=[course.event_id for course in courses],
            registered_at=member.since,
            discovered=bool(member.instance),
            in_sync=worker.no_events or all(course.in_sync for course in courses),
        )


class NoIndex:
    """An index that has nothing, because shards have it."""

    def levels(self, keys: NDArray[np.uint64]) -> Levels:
        """Nothing."""
        return ()

    def remove_worker(self, worker: str) -> None:
        """Nothing is there to forget."""


def _router(environment: Mapping[str, str]) -> Router:
    return Router(
        block_size=block_size(environment),
        policy=environment.get(POLICY) or "kv",
        weights=weights(environment),
        admission=admission(environment),
    )


def _patience_s(remaining_s: float | None) -> float | None:
    """How long a request waits, so that there is time to say that it was in vain."""
    return None if remaining_s is None else max(0.0, remaining_s - min(0.1, remaining_s / 5))


def _named(asked: Request) -> Request:
    """A request with an id that no replica gives to another one."""
    return asked if asked.id else replace(asked, id=secrets.token_hex(8))
