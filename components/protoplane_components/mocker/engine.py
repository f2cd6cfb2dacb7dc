"""An LLM engine without a model: it schedules, caches and takes its time as a real one would."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from protoplane_base import Code, PlaneError
from protoplane_components.mocker.blocks import BlockPool, CacheObserver
from protoplane_components.mocker.timing import PolynomialTiming, TimingModel

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine can hold; the defaults are those of NVIDIA Dynamo's mocker.

    Attributes:
        block_size: Tokens of a block.
        blocks: Blocks of the cache.
        max_batch_tokens: Most tokens that one step computes.
        max_requests: Most requests that are worked on together.
        watermark: Share of the cache that is left free when a request is admitted, so that those
            before it can go on writing.
        prefix_caching: Whether prompts use what earlier ones have computed.
        max_run: Most steps that are taken at once while nothing but writing happens; 1 where every
            token is to be seen when it is written.
    """

    block_size: int = 64
    blocks: int = 16384
    max_batch_tokens: int = 8192
    max_requests: int = 256
    watermark: float = 0.01
    prefix_caching: bool = True
    max_run: int = 1 << 30

    @property
    def capacity_tokens(self) -> int:
        """Tokens that the cache holds."""
        return self.blocks * self.block_size


@dataclass(frozen=True, slots=True)
class MockRequest:
    """A request to an engine.

    Attributes:
        id: Its name, unique among those that the engine works on.
        prompt_tokens: Tokens of its prompt, at least one.
        output_tokens: Tokens that it will write, at least one.
        hashes: Sequence hashes of its full blocks, those of the prompt and those that its output
            fills; more do no harm.
    """

    id: str
    prompt_tokens: int
    output_tokens: int
    hashes: Sequence[int]


@dataclass(frozen=True, slots=True)
class Written:
    """A request has written on.

    Attributes:
        id: The request.
        tokens: How many tokens it has written altogether.
        at_s: When the last of them was written.
        first: Whether its first token is among them.
        finished: Whether it is done.
        reused: Tokens of its prompt that were in the cache when it was admitted first.
    """

    id: str
    tokens: int
    at_s: float
    first: bool
    finished: bool
    reused: int


@dataclass(slots=True)
class EngineStats:
    """What an engine has done.

    Attributes:
        prompt_tokens: Tokens of the prompts that were admitted.
        reused_tokens: Those of them that were in the cache.
        computed_tokens: Prompt tokens that were computed; those of preempted requests again.
        written_tokens: Tokens that were written.
        steps: Steps that were taken.
        busy_s: Seconds that they took.
        preemptions: How often a request lost its blocks to others.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    computed_tokens: int = 0
    written_tokens: int = 0
    steps: int = 0
    busy_s: float = 0.0
    preemptions: int = 0


@dataclass(slots=True, eq=False)
class _Sequence:
    """A request that is worked on, or waits for it."""

    request: MockRequest
    computed: int = 0
    written: int = 0
    filled: int = 0
    private: int = 0
    reused: int | None = None
    left: bool = False

    @property
    def remaining(self) -> int:
        """Tokens that are known and not computed; when there are none, one more is written."""
        return self.request.prompt_tokens + self.written - self.computed

    @property
    def decoding(self) -> bool:
        return self.written > 0 and self.remaining == 1


@dataclass(slots=True)
class _Plan:
    """A step that is under way, or a run of steps that only write."""

    start_s: float
    end_s: float
    decoding: list[_Sequence] = field(default_factory=list["_Sequence"])
    chunks: list[tuple[_Sequence, int]] = field(default_factory=list[tuple["_Sequence", int]])
    context: int = 0
    steps: int = 1


class MockEngine:
    """Continuous batching with chunked prefill over a paged cache, on a clock that it is given.

    The order is that of vLLM's scheduler: those that write go on, then the prompts that were begun,
    then those that wait, first come, first served, within a budget of tokens for each step. A
    request is admitted once there are blocks for its whole prompt. Where those that write run out
    of blocks, the last one admitted is preempted: it loses its blocks and computes them anew.

    Nothing happens by itself: `advance` computes what has happened until then. Everything is
    deterministic, and a run of steps that only write is computed at once, so a simulated hour takes
    a second.

    Args:
        options: What it can hold.
        timing: How long its steps take; by default `PolynomialTiming` over its cache.
        observer: Who wants to know what its cache holds.
    """

    def __init__(
        self,
        options: EngineOptions = EngineOptions(),
        timing: TimingModel | None = None,
        observer: CacheObserver | None = None,
    ) -> None:
        self._options = options
        self._timing: TimingModel = timing or PolynomialTiming(options.capacity_tokens)
        self._pool = BlockPool(options.blocks, observer)
        self._reserve = int(options.blocks * options.watermark)
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._plan: _Plan | None = None
        self.stats = EngineStats()

    @property
    def pool(self) -> BlockPool:
        """Its cache."""
        return self._pool

    @property
    def waiting(self) -> int:
        """Requests that wait to be admitted."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that are worked on."""
        return len(self._running)

    @property
    def next_s(self) -> float:
        """When something will have happened unless a request comes; infinite when it idles."""
        return self._plan.end_s if self._plan is not None else _NEVER

    def submit(self, request: MockRequest, now_s: float) -> None:
        """Take on a request; `advance` must have come to this time.

        Raises:
            PlaneError: INVALID_ARGUMENT when it could never be done: it has no tokens, or more than
                the cache holds.
        """
        self._check(request)
        self._waiting.append(_Sequence(request))
        self._interrupt(now_s)

    def cancel(self, request_id: str, now_s: float) -> None:
        """Drop a request; one that is not here is passed over."""
        for sequences in (self._waiting, self._running):
            for sequence in sequences:
                if sequence.request.id == request_id:
                    sequences.remove(sequence)
                    sequence.left = True
                    self._release(sequence)
                    self._interrupt(now_s)
                    return

    def advance(self, until_s: float) -> list[Written]:
        """Do what is done by then.

        Returns:
            What was written, in the order of time.
        """
        written: list[Written] = []
        while (plan := self._plan) is not None:
            if plan.end_s <= until_s:
                self._commit(plan, plan.steps, plan.end_s, written)
                self._plan = self._next(plan.end_s)
                continue
            if plan.steps > 1 and (steps := self._steps_by(plan, until_s)):
                at_s = plan.start_s + self._decode_s(plan, steps)
                self._commit(plan, steps, at_s, written)
                plan.context += steps * len(plan.decoding)
                plan.steps -= steps
                plan.start_s = at_s
            break
        return written

    def _check(self, request: MockRequest) -> None:
        tokens = request.prompt_tokens + request.output_tokens
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"request {request.id} has {request.prompt_tokens} prompt tokens and is to write "
                f"{request.output_tokens}; give at least 1 of each",
            )
        most = (self._options.blocks - self._reserve) * self._options.block_size
        if tokens > most:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"request {request.id} has {tokens} tokens with its output, and the cache of an "
                f"engine holds {most}; give the engines more blocks",
            )

    def _interrupt(self, now_s: float) -> None:
        """Let what is new be seen at the end of the current step."""
        plan = self._plan
        if plan is None:
            self._plan = self._next(now_s)
        elif plan.steps > 1:
            plan.steps = 1
            plan.end_s = plan.start_s + self._decode_s(plan, 1)

    def _decode_s(self, plan: _Plan, steps: int) -> float:
        return self._timing.decode_s(plan.context, len(plan.decoding), steps)

    def _steps_by(self, plan: _Plan, until_s: float) -> int:
        """How many steps of a run are over by then."""
        low, high = 0, plan.steps - 1
        while low < high:
            middle = (low + high + 1) // 2
            if plan.start_s + self._decode_s(plan, middle) <= until_s:
                low = middle
            else:
                high = middle - 1
        return low

    def _next(self, now_s: float) -> _Plan | None:
        """Plan the next step."""
        budget = self._options.max_batch_tokens
        decoding = self._grow()
        budget -= len(decoding)
        chunks: list[tuple[_Sequence, int]] = []
        if len(decoding) < len(self._running):
            for sequence in self._running:
                if sequence.decoding or budget <= 0:
                    continue
                chunk = min(budget, sequence.remaining)
                chunks.append((sequence, chunk))
                budget -= chunk
        while self._waiting and budget > 0 and len(self._running) < self._options.max_requests:
            if not self._admit(self._waiting[0]):
                break
            sequence = self._waiting.popleft()
            self._running.append(sequence)
            chunk = min(budget, sequence.remaining)
            chunks.append((sequence, chunk))
            budget -= chunk
        if not decoding and not chunks:
            return None
        plan = _Plan(now_s, now_s, decoding, chunks)
        plan.context = sum(sequence.computed + 1 for sequence in decoding)
        if not chunks:
            plan.steps = self._run(decoding)
        prefill_s = self._timing.prefill_s(sum(chunk for _, chunk in chunks))
        plan.end_s = now_s + prefill_s + self._decode_s(plan, plan.steps)
        return plan

    def _run(self, decoding: list[_Sequence]) -> int:
        """How many steps can be taken before one is done or needs a block."""
        size = self._options.block_size
        steps = self._options.max_run
        for sequence in decoding:
            left = sequence.request.output_tokens - sequence.written
            room = (sequence.filled + sequence.private) * size - sequence.computed
            steps = min(steps, left, room)
        return steps

    def _grow(self) -> list[_Sequence]:
        """Those that write, each with a block for its next token."""
        size = self._options.block_size
        decoding: list[_Sequence] = []
        index = 0
        while index < len(self._running):
            sequence = self._running[index]
            index += 1
            if not sequence.decoding:
                continue
            if (sequence.filled + sequence.private) * size <= sequence.computed:
                while not self._pool.available:
                    last = self._running.pop()
                    self._preempt(last)
                    if last is sequence:
                        break
                if sequence.computed == 0:
                    break
                self._pool.take(1)
                sequence.private += 1
            decoding.append(sequence)
        return decoding

    def _preempt(self, sequence: _Sequence) -> None:
        self._release(sequence)
        self._waiting.appendleft(sequence)
        self.stats.preemptions += 1

    def _release(self, sequence: _Sequence) -> None:
        self._pool.leave(sequence.request.hashes[: sequence.filled], sequence.private)
        sequence.computed = sequence.filled = sequence.private = 0

    def _admit(self, sequence: _Sequence) -> bool:
        """Give a request what its prompt needs, if that can be had."""
        size, request = self._options.block_size, sequence.request
        tokens = sequence.remaining
        depth = 0
        if self._options.prefix_caching:
            # At least one token has to be computed, for there to be something to write from.
            depth = self._pool.prefix(request.hashes[: (tokens - 1) // size])
        found = request.hashes[:depth]
        new = -(-tokens // size) - depth
        if not self._pool.fits(found, new + (self._reserve if self._running else 0)):
            return False
        self._pool.hold(found)
        self._pool.take(new)
        sequence.filled, sequence.private = depth, new
        sequence.computed = depth * size
        if sequence.reused is None:
            sequence.reused = sequence.computed
            self.stats.prompt_tokens += request.prompt_tokens
            self.stats.reused_tokens += sequence.computed
        return True

    def _commit(self, plan: _Plan, steps: int, at_s: float, written: list[Written]) -> None:
        """What the steps of a plan have done, at their end."""
        self.stats.steps += steps
        self.stats.busy_s += at_s - plan.start_s
        for sequence in plan.decoding:
            if not sequence.left:
                sequence.computed += steps
                self._fill(sequence)
                self._write(sequence, steps, at_s, written)
        for sequence, chunk in plan.chunks:
            if sequence.left:
                continue
            self.stats.computed_tokens += chunk
            sequence.computed += chunk
            self._fill(sequence)
            if sequence.remaining == 0:
                self._write(sequence, 1, at_s, written)

    def _fill(self, sequence: _Sequence) -> None:
        """Let blocks be found that have become full."""
        if not self._options.prefix_caching:
            return
        full = sequence.computed // self._options.block_size
        filled, hashes = sequence.filled, sequence.request.hashes
        full = min(full, len(hashes))
        if full > filled:
            self._pool.fill(hashes[filled - 1] if filled else None, hashes[filled:full])
            sequence.private -= full - filled
            sequence.filled = full

    def _write(self, sequence: _Sequence, count: int, at_s: float, written: list[Written]) -> None:
        first = sequence.written == 0
        sequence.written += count
        self.stats.written_tokens += count
        finished = sequence.written >= sequence.request.output_tokens
        if finished:
            sequence.left = True
            self._running.remove(sequence)
            self._release(sequence)
        written.append(
            Written(
                sequence.request.id,
                sequence.written,
                at_s,
                first,
                finished,
                sequence.reused or 0,
            )
        )
