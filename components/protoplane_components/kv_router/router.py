"""The router as a library: an index, the loads, a policy and a queue, joined; without a runtime."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.admission import Admission, WaitingLine, refused
from protoplane_components.kv_router.approximate import ApproximateIndex
from protoplane_components.kv_router.cost import CostWeights, KvPolicy
from protoplane_components.kv_router.hashing import Hashes, as_hashes, block_hashes, prefix_keys
from protoplane_components.kv_router.index import NOTHING, KvIndex, Overlap, Target
from protoplane_components.kv_router.levels import Levels, as_levels, by_target, of_target
from protoplane_components.kv_router.load import Figures, LoadTable, Reservation
from protoplane_components.kv_router.policies import (
    LeastLoaded,
    Policy,
    PowerOfTwo,
    RandomChoice,
    RoundRobin,
    View,
)
from protoplane_components.kv_router.promised import PromisedBlocks
from protoplane_components.kv_router.selection import Request, Selection, Worker
from protoplane_components.kv_router.sessions import Sessions


class Index(Protocol):
    """What a router asks what is cached."""

    def levels(self, keys: NDArray[np.uint64]) -> Levels:
        """How much of a prompt targets have that have its first block; see `levels.as_levels`.

        Args:
            keys: Keys of the prompt's prefixes.
        """
        ...

    def remove_worker(self, worker: str) -> None:
        """Forget all ranks of a worker."""
        ...


class Router:
    """Picks workers, and keeps count of what they do.

    All but `acquire` is done at once. It belongs to one thread, and `acquire` to one event loop.

    Args:
        block_size: Tokens in a block of the workers' caches.
        index: What is cached where; a `KvIndex` that is fed with events by default. An
            `ApproximateIndex` is fed by the router itself, as is one beside the index for workers
            that tell no events.
        policy: Name of the policy that chooses where a request names none, or a policy of your own.
        weights: Weights of the policy ``kv``.
        fallback: Name of a policy that needs no index, for as long as `index_ready` is false.
        admission: When a worker is too busy.
        lease_s: How long a reservation outlives its last sign of life, in seconds.
        session_ttl_s: How long a session stays with its worker without a request, in seconds.
        max_sessions: Most sessions to remember; the ones without requests for longest go first.
        clock: Seconds, from any beginning.
        random: Where chance comes from.

    Attributes:
        index_ready: Whether the index is worth asking; while it is not, the fallback chooses.
        replicas: How many routers place requests on these workers, as far as is known.

    Raises:
        PlaneError: INVALID_ARGUMENT, there is no policy of that name, or a figure makes no sense.
    """

    def __init__(
        self,
        *,
        block_size: int = 16,
        index: Index | None = None,
        policy: str | Policy = "kv",
        weights: CostWeights = CostWeights(),  # noqa: B008  # frozen
        fallback: str = "least-loaded",
        admission: Admission = Admission(),  # noqa: B008  # frozen
        lease_s: float = 300.0,
        session_ttl_s: float = 600.0,
        max_sessions: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        if block_size < 1 or lease_s <= 0:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"block_size is {block_size} and lease_s {lease_s}; both must be positive",
            )
        self.block_size = block_size
        self.index: Index = KvIndex() if index is None else index
        self.index_ready = True
        self.replicas = 1
        self.promised = PromisedBlocks()
        self.guesses = ApproximateIndex(clock=clock)
        self.loads = LoadTable()
        self.admission = admission
        self._policies: dict[str, Policy] = {
            each.name: each
            for each in (
                KvPolicy(weights),
                RoundRobin(),
                RandomChoice(),
                PowerOfTwo(),
                LeastLoaded(),
            )
        }
        if not isinstance(policy, str):
            self._policies[policy.name] = policy
            policy = policy.name
        self._policy = self._named(policy)
        self._fallback = self._named(fallback)
        if self._fallback.needs_index:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"the fallback {fallback!r} needs an index; name another policy",
            )
        self._lease_s = lease_s
        self._clock = clock
        self._random = Random() if random is None else random  # noqa: S311  # no secret
        self._workers: dict[str, Worker] = {}
        # Workers that tell nothing of their caches.
        self._silent: set[str] = set()
        self._sessions = Sessions(session_ttl_s, max_sessions, clock)
        self._numbers = itertools.count(1)
        self._line: WaitingLine[_Waiting] = WaitingLine(admission)

    # Workers.

    @property
    def workers(self) -> Mapping[str, Worker]:
        """The workers by their ids."""
        return self._workers

    @property
    def policies(self) -> Sequence[str]:
        """Names of the policies that requests can ask for."""
        return list(self._policies)

    def register(self, worker: Worker) -> bool:
        """Have a worker, or replace what is known of it; tells whether it is new.

        Raises:
            PlaneError: FAILED_PRECONDITION, its block size is not the router's.
        """
        if worker.block_size not in (0, self.block_size):
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"worker {worker.id!r} has blocks of {worker.block_size} tokens, this router of "
                f"{self.block_size}: give both the same size",
            )
        before = self._workers.get(worker.id)
        self._workers[worker.id] = worker
        if worker.no_events:
            self._silent.add(worker.id)
        else:
            self._silent.discard(worker.id)
            self.guesses.remove_worker(worker.id)
        targets = worker.targets()
        for target in before.targets() if before else ():
            if target not in targets:
                self._settle(self.loads.remove(target))
        for target in targets:
            self.loads.add(target)
        self._wake()
        return before is None

    def remove(self, worker: str) -> list[Reservation] | None:
        """Forget a worker, its blocks and its reservations.

        Returns:
            The reservations that ended with it; `None` where there is no such worker.
        """
        known = self._workers.pop(worker, None)
        self._silent.discard(worker)
        self.index.remove_worker(worker)
        self.promised.remove_worker(worker)
        self.guesses.remove_worker(worker)
        if known is None:
            return None
        return [ended for target in known.targets() for ended in self.loads.remove(target)]

    # Choosing.

    def select(self, request: Request) -> Selection:
        """Choose a worker, and count nothing.

        Raises:
            PlaneError: UNAVAILABLE, there is no worker that the request allows; RESOURCE_EXHAUSTED
                with `google.rpc.RetryInfo`, all of them are too busy; INVALID_ARGUMENT, the
                request has no prompt, or names no policy that there is.
        """
        self.expire()
        selection = self._select(request, *self._read(request))
        if selection is None:
            raise self._too_busy()
        return selection

    def overlaps(self, request: Request) -> Mapping[Target, Overlap]:
        """What each target has of a prompt, of those that have its first block.

        Raises:
            PlaneError: INVALID_ARGUMENT, the request has no prompt.
        """
        if request.overlaps is not None:
            return request.overlaps
        return by_target(self._found(request, self._read(request)[0]))

    def hashed(self, request: Request) -> Request:
        """A request with block hashes in place of tokens, for who looks up its overlaps elsewhere.

        Raises:
            PlaneError: INVALID_ARGUMENT, the request has no prompt.
        """
        hashes, tokens = self._hashes(request)
        return replace(request, tokens=None, hashes=as_hashes(hashes), prompt_tokens=tokens)

    def reserve(
        self, request: Request, *, lease_s: float | None = None
    ) -> tuple[Reservation, Selection]:
        """Choose a worker, and count the request as its load until `release` or the lease's end.

        Args:
            request: What for.
            lease_s: How long the reservation outlives its last sign of life, in seconds; the
                router's default where absent.

        Raises:
            PlaneError: As for `select`.
        """
        found = self.reserve_if_free(request, lease_s=lease_s)
        if found is None:
            raise self._too_busy()
        return found

    def reserve_if_free(
        self, request: Request, *, lease_s: float | None = None
    ) -> tuple[Reservation, Selection] | None:
        """Like `reserve`; `None` where all that the request allows are too busy, or others wait.

        Args:
            request: What for.
            lease_s: How long the reservation outlives its last sign of life, in seconds.

        Raises:
            PlaneError: As for `select`, but for RESOURCE_EXHAUSTED.
        """
        self.expire()
        return (
            self._take(request, *self._read(request), lease_s) if not self._line.first() else None
        )

    async def acquire(
        self, request: Request, *, lease_s: float | None = None, timeout_s: float | None = None
    ) -> tuple[Reservation, Selection]:
        """Like `reserve`, but wait while all workers are too busy.

        A cancellation leaves the queue, and reserves nothing.

        Args:
            request: What for.
            lease_s: How long the reservation outlives its last sign of life, in seconds.
            timeout_s: Most seconds to wait; absent, there is no limit. Where the queue is known to
                take longer, the request is refused at once.

        Raises:
            PlaneError: As for `select`; RESOURCE_EXHAUSTED also where the queue is full, or longer
                than the request can wait.
        """
        self.expire()
        keys, tokens = self._read(request)
        found = self._take(request, keys, tokens, lease_s) if not self._line.first() else None
        if found is not None:
            return found
        self._may_wait(timeout_s)
        now = self._clock()
        until = None if timeout_s is None else now + timeout_s
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, keys, tokens, lease_s, loop.create_future())
        ticket = self._line.join(waiting, priority=request.priority, tokens=tokens, now=now)
        try:
            while not waiting.answer.done():
                # Leases that end make room without a word from anybody.
                ends = [end for end in (until, self.loads.next_expiry()) if end is not None]
                pause_s = max(0.0, min(ends) - self._clock()) + 0.001 if ends else None
                await asyncio.wait([waiting.answer], timeout=pause_s)
                self.expire()
                if until is not None and self._clock() >= until and not waiting.answer.done():
                    raise self._too_busy()
        except BaseException:
            if waiting.answer.done() and not waiting.answer.cancelled():
                if waiting.answer.exception() is None:
                    self.release(waiting.answer.result()[0].id)
            else:
                self._line.leave(ticket)
            raise
        return waiting.answer.result()

    @property
    def queued(self) -> int:
        """How many requests wait."""
        return len(self._line)

    # What becomes of requests.

    def prefill_completed(self, id: str) -> bool:  # noqa: A002  # what it is called everywhere else
        """Note that a prompt is computed; tells whether the reservation was still there."""
        found = self.loads.prefill_completed(id, self._clock())
        self.promised.settle(id)
        self._wake()
        return found

    def output_blocks(self, id: str, blocks: int) -> bool:  # noqa: A002
        """Note how many blocks an answer fills; tells whether the reservation was still there."""
        return self.loads.output_blocks(id, blocks, self._clock())

    def release(self, id: str) -> Reservation | None:  # noqa: A002
        """End a reservation, and tell what it was; `None` where it was over already."""
        found = self.loads.release(id)
        self.promised.settle(id)
        if found is not None:
            self._wake()
        return found

    def expire(self) -> list[Reservation]:
        """End the reservations whose leases are over, and tell which they were.

        Every choice does this, too.
        """
        expired = self.loads.expire(self._clock())
        if expired:
            self._settle(expired)
            self._wake()
        return expired

    # Inside.

    def _settle(self, ended: Iterable[Reservation]) -> None:
        for reservation in ended:
            self.promised.settle(reservation.id)

    def _named(self, name: str) -> Policy:
        policy = self._policies.get(name)
        if policy is None:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"there is no policy {name!r}; there are {', '.join(self._policies)}",
            )
        return policy

    def _read(self, request: Request) -> tuple[NDArray[np.uint64], int]:
        """Keys of a prompt's prefixes, and how many tokens it has."""
        if request.keys is not None and request.prompt_tokens is not None:
            return request.keys, request.prompt_tokens
        hashes, tokens = self._hashes(request)
        return prefix_keys(hashes), tokens

    def _hashes(self, request: Request) -> tuple[Hashes, int]:
        """Hashes of a prompt's blocks, and how many tokens it has."""
        hashes: Hashes
        if request.hashes is not None:
            hashes = request.hashes
            full = len(hashes) * self.block_size
            tokens = full if request.prompt_tokens is None else request.prompt_tokens
            if not -self.block_size < tokens - full < self.block_size:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"a prompt of {len(hashes)} blocks of {self.block_size} tokens has about "
                    f"{full} of them, not {tokens}: give the tokens of the prompt, or leave them "
                    "out where all blocks are full",
                )
        elif request.tokens is not None:
            tokens = len(request.tokens)
            hashes = block_hashes(
                request.tokens,
                self.block_size,
                lora=request.lora,
                cache_namespace=request.cache_namespace,
            )
        else:
            raise PlaneError(
                Code.INVALID_ARGUMENT, "the request has no prompt: give its tokens or block hashes"
            )
        return hashes, tokens

    def _select(self, request: Request, keys: NDArray[np.uint64], tokens: int) -> Selection | None:
        """Choose a worker; `None` where all are too busy."""
        loads = self.loads.figures
        places = loads.places
        rows, barred = self._eligible(request, loads)
        if not len(rows):
            return None
        policy = self._named(request.policy) if request.policy else self._policy
        degraded = policy.needs_index and not self.index_ready
        if degraded:
            policy = self._fallback
        levels = self.promised.joined(self._found(request, keys), keys)
        view = View(loads, levels, tokens, self.block_size, rows, self._random, self.replicas)
        judgement = policy.judge(view)
        target = places.targets[judgement.row]
        sticky = False
        if request.session:
            home = self._sessions.home(request.session)
            sticky = home is not None and places.rows.get(home) in rows
            target = home if home is not None and sticky else target
        overlap = of_target(levels, target) or NOTHING
        return Selection(
            target,
            self._workers[target.worker],
            overlap,
            len(keys),
            tokens,
            max(0, tokens - overlap.blocks * self.block_size),
            policy.name,
            degraded,
            sticky,
            keys,
            view,
            judgement,
            barred,
        )

    def _found(self, request: Request, keys: NDArray[np.uint64]) -> Levels:
        """What each target has of a prompt; those that tell nothing, should have."""
        given = request.overlaps
        found = self.index.levels(keys) if given is None else as_levels(given)
        return [*found, *self.guesses.levels(keys)] if self._silent else found

    def _eligible(
        self, request: Request, loads: Figures
    ) -> tuple[NDArray[np.intp], Mapping[int, str]]:
        """Rows to choose from, and why not from others.

        Raises:
            PlaneError: UNAVAILABLE, the request allows none, busy or not.
        """
        targets = loads.places.targets
        barred: dict[int, str] = {}
        if request.pinned or request.excluded:
            for row, target in enumerate(targets):
                if request.pinned and target.worker not in request.pinned:
                    barred[row] = "pinned"
                elif target.worker in request.excluded:
                    barred[row] = "excluded"
        if len(barred) == len(targets):
            raise PlaneError(
                Code.UNAVAILABLE,
                f"none of the {len(targets)} workers may take the request, by what it is pinned to "
                "or excludes"
                if targets
                else "there is no worker; register one",
            )
        busy = self.admission.busy(loads)
        if busy is not None:
            for row in np.flatnonzero(busy).tolist():
                barred.setdefault(row, "busy")
        if not barred:
            return loads.places.all, barred
        return np.array([row for row in range(len(targets)) if row not in barred], np.intp), barred

    def _take(
        self, request: Request, keys: NDArray[np.uint64], tokens: int, lease_s: float | None
    ) -> tuple[Reservation, Selection] | None:
        """Choose a worker and count the request; `None` where all are too busy."""
        selection = self._select(request, keys, tokens)
        if selection is None:
            return None
        return self._reserve(request, selection, lease_s), selection

    def _reserve(
        self, request: Request, selection: Selection, lease_s: float | None
    ) -> Reservation:
        now = self._clock()
        lease_s = self._lease_s if lease_s is None else lease_s
        reservation = Reservation(
            id=request.id or f"r{next(self._numbers)}",
            target=selection.target,
            prefill_tokens=selection.prefill_tokens,
            prompt_blocks=-(-selection.prompt_tokens // self.block_size),
            output_blocks=0,
            lease_s=lease_s,
            expires_at=now + lease_s,
        )
        self.loads.reserve(reservation)
        if isinstance(self.index, ApproximateIndex):
            self.index.routed_keys(selection.target, selection.keys)
        elif selection.worker.no_events:
            self.guesses.routed_keys(selection.target, selection.keys)
        else:
            self.promised.promise(reservation.id, selection.target, selection.keys)
        if request.session:
            self._sessions.stay(request.session, selection.target)
        return reservation

    def _may_wait(self, timeout_s: float | None) -> None:
        wait_s = self._line.expected_wait_s()
        if len(self._line) >= self.admission.max_queued:
            raise refused(f"all workers are busy, and {len(self._line)} requests wait", wait_s)
        if timeout_s is not None and wait_s is not None and wait_s > timeout_s:
            raise refused(
                f"all workers are busy, and the wait is longer than the {timeout_s:.2f} s that the "
                "request has",
                wait_s,
            )

    def _too_busy(self) -> PlaneError:
        return refused(
            "all workers that may take the request are busy", self._line.expected_wait_s()
        )

    def _wake(self) -> None:
        """Give workers to those who wait, as far as there are some."""
        while (waiting := self._line.first()) is not None:
            if waiting.answer.done():
                self._line.pop(self._clock())
                continue
            try:
                found = self._take(waiting.request, waiting.keys, waiting.tokens, waiting.lease_s)
                if found is None:
                    return
            except PlaneError as error:
                waiting.answer.set_exception(error)
            else:
                waiting.answer.set_result(found)
            self._line.pop(self._clock())


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    request: Request
    keys: NDArray[np.uint64]
    tokens: int
    lease_s: float | None
    answer: asyncio.Future[tuple[Reservation, Selection]]
