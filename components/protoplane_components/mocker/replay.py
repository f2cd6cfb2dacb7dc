"""Replaying a trace: when the requests came, which engine a policy chose, how long it took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from protoplane_base import Code, PlaneError
from protoplane_components.mocker.blocks import CacheObserver
from protoplane_components.mocker.engine import EngineOptions, MockEngine, MockRequest, Written
from protoplane_components.mocker.fleet import Fleet, Happened
from protoplane_components.mocker.report import Distribution, ReplayReport, imbalance
from protoplane_components.mocker.trace import BLOCK_TOKENS, TraceRequest

# Ids of blocks that are nobody else's: what a request writes. Those of prompts are far smaller, in
# their low 32 bits too.
_OWN = (1 << 62) + (1 << 31)


class Dispatch(Protocol):
    """Who chooses the engine of a request; what it knows it was told."""

    def observer(self, worker: int) -> CacheObserver | None:
        """Who is to be told what the cache of an engine holds."""
        ...

    def choose(self, request: MockRequest, prompt: Sequence[int], now_s: float) -> int:
        """Choose an engine.

        Args:
            request: What is asked.
            prompt: Sequence hashes of the full blocks of its prompt.
            now_s: The time.

        Raises:
            PlaneError: RESOURCE_EXHAUSTED when no engine is to take it.
        """
        ...

    def happened(self, worker: int, written: Written) -> None:
        """A request has its first token, or is done."""
        ...


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How a trace is replayed.

    Attributes:
        workers: How many engines there are.
        speedup: By how much faster than they did the requests come.
        engine: What each engine can hold; its blocks divide those of the trace.
        block_tokens: Tokens of a block in the trace.
    """

    workers: int = 8
    speedup: float = 1.0
    engine: EngineOptions = field(
        default_factory=lambda: EngineOptions(block_size=BLOCK_TOKENS, blocks=2048)
    )
    block_tokens: int = BLOCK_TOKENS


def replay(
    trace: Sequence[TraceRequest],
    policy: str,
    dispatch: Dispatch,
    options: ReplayOptions = ReplayOptions(),
    progress: Callable[[int], None] | None = None,
) -> ReplayReport:
    """Replay a trace on a virtual clock.

    Args:
        trace: Its requests in the order of time.
        policy: What the report calls it.
        dispatch: Who chooses the engines.
        options: How.
        progress: Called with the number of requests that have come, now and then.

    Raises:
        PlaneError: INVALID_ARGUMENT when an engine can never do one of the requests, or its blocks
            do not divide those of the trace.
    """
    fleet = Fleet(
        [
            MockEngine(options.engine, observer=dispatch.observer(worker))
            for worker in range(options.workers)
        ]
    )
    clerk = _Clerk(dispatch, options.workers)
    for count, (request, prompt, at_s) in enumerate(_requests(trace, options)):
        clerk.note(fleet.advance(at_s))
        clerk.send(fleet, request, prompt)
        if progress is not None and count % 50 == 0:
            progress(count)
    clerk.note(fleet.advance())
    if progress is not None:
        progress(len(trace))
    return clerk.report(policy, fleet, options)


def _requests(
    trace: Iterable[TraceRequest], options: ReplayOptions
) -> Iterator[tuple[MockRequest, tuple[int, ...], float]]:
    size = options.engine.block_size
    if options.block_tokens % size:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"blocks of {size} tokens do not divide those of the trace, which have "
            f"{options.block_tokens}; choose a block size that does",
        )
    parts = options.block_tokens // size
    own = _OWN
    # Ids of a trace may be anything, hashes of 64 bits too; here they count from 0.
    ids: dict[int, int] = {}
    for number, line in enumerate(trace):
        full = line.input_length // size
        blocks = [ids.setdefault(block, len(ids)) * parts for block in line.hash_ids]
        prompt = tuple(block + part for block in blocks for part in range(parts))[:full]
        written = (line.input_length + line.output_length) // size - full
        request = MockRequest(
            str(number),
            line.input_length,
            line.output_length,
            (*prompt, *range(own, own + written)),
        )
        own += written
        yield request, prompt, line.timestamp / 1000 / options.speedup


class _Clerk:
    """Sends requests, tells the dispatch what becomes of them, and keeps the times."""

    def __init__(self, dispatch: Dispatch, workers: int) -> None:
        self._dispatch = dispatch
        self._came: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._ttft: list[float] = []
        self._tpot: list[float] = []
        self._answered = [0] * workers
        self._rejected = 0

    def send(self, fleet: Fleet, request: MockRequest, prompt: Sequence[int]) -> None:
        try:
            worker = self._dispatch.choose(request, prompt, fleet.now_s)
        except PlaneError as error:
            if error.code is not Code.RESOURCE_EXHAUSTED:
                raise
            self._rejected += 1
            return
        self._came[request.id] = fleet.now_s
        self.note(fleet.submit(worker, request))

    def note(self, happened: Iterable[Happened]) -> None:
        for each in happened:
            written = each.written
            if not (written.first or written.finished):
                continue
            self._dispatch.happened(each.worker, written)
            if written.first:
                self._first[written.id] = written.at_s
                self._ttft.append((written.at_s - self._came.pop(written.id)) * 1000)
            if written.finished:
                self._answered[each.worker] += 1
                first_s = self._first.pop(written.id)
                if written.tokens > 1:
                    self._tpot.append((written.at_s - first_s) / (written.tokens - 1) * 1000)

    def report(self, policy: str, fleet: Fleet, options: ReplayOptions) -> ReplayReport:
        stats = [engine.stats for engine in fleet.engines]
        computed = tuple(each.computed_tokens for each in stats)
        prompts = sum(each.prompt_tokens for each in stats)
        written = sum(each.written_tokens for each in stats)
        return ReplayReport(
            policy=policy,
            speedup=options.speedup,
            workers=options.workers,
            requests=sum(self._answered),
            rejected=self._rejected,
            ttft_ms=Distribution.of(self._ttft),
            tpot_ms=Distribution.of(self._tpot),
            reuse=sum(each.reused_tokens for each in stats) / prompts if prompts else 0.0,
            imbalance=imbalance(computed),
            computed_tokens=computed,
            requests_by_worker=tuple(self._answered),
            duration_s=fleet.now_s,
            output_tokens_per_s=written / fleet.now_s if fleet.now_s else 0.0,
            preemptions=sum(each.preemptions for each in stats),
        )
