"""What the next step computes: tokens of many texts at once, within the blocks that there are.

Texts that are being written come first, one token each; then the prompts of those that have begun,
in pieces; then new ones, as far as there are blocks. Where a block is missing, the text that came
last gives back all of its own and waits: what was named of it can be found when it begins again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from protoplane_server.backends.sampling import Rules
from protoplane_server.backends.torch.cache import BlockPool, NamedBlock
from protoplane_server.backends.torch.hashing import block_hash, tokens_hash
from protoplane_server.backends.torch.settings import BLOCK_TOKENS


class Sequence:
    """A prompt, and what was written after it so far.

    Args:
        prompt: Its tokens, at least one.
        rules: How the next are chosen.
        priority: Those of a higher one begin first, and give back their blocks last.

    Attributes:
        tokens: Prompt and text.
        prompt_tokens: How many of them are the prompt.
        computed: How many have their keys and values in the cache.
        reused: How many of the prompt's were found there when it first began.
        blocks: Where those lie.
        gone: Whether no more of it is wanted.
    """

    __slots__ = (
        "_chain",
        "_named",
        "blocks",
        "computed",
        "gone",
        "priority",
        "prompt_tokens",
        "rank",
        "reused",
        "rules",
        "tokens",
    )

    def __init__(self, prompt: list[int], rules: Rules, *, priority: int = 0) -> None:
        self.tokens = prompt
        self.prompt_tokens = len(prompt)
        self.rules = rules
        self.priority = priority
        self.computed = 0
        self.reused = -1
        self.blocks: list[int] = []
        self.gone = False
        self.rank: tuple[int, int] = (0, 0)
        self._chain: list[NamedBlock] = []
        self._named = 0

    @property
    def hungry(self) -> bool:
        """Whether it wants another token."""
        return not self.gone

    @property
    def written(self) -> int:
        """How many tokens were written after the prompt."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def missing(self) -> int:
        """How many tokens are to be computed before the next can be chosen."""
        return len(self.tokens) - self.computed

    def begin(self, pool: BlockPool) -> None:
        """Use what the cache has of it; the last token is always computed, for its scores."""
        self.blocks = pool.find(self._names((len(self.tokens) - 1) // BLOCK_TOKENS))
        self._named = len(self.blocks)
        self.computed = self._named * BLOCK_TOKENS

    def grow(self, pool: BlockPool, tokens: int) -> bool:
        """Have blocks for so many more tokens; false, and nothing changes, where there are none."""
        wanted = -(-(self.computed + tokens) // BLOCK_TOKENS) - len(self.blocks)
        taken = pool.take(max(0, wanted))
        if taken is None:
            return False
        self.blocks += taken
        return True

    def advance(self, pool: BlockPool, tokens: int) -> None:
        """So many more tokens are in the cache; blocks that are full now can be found."""
        self.computed += tokens
        full = self.computed // BLOCK_TOKENS
        for at, named in enumerate(self._names(full)[self._named :], start=self._named):
            pool.name(self.blocks[at], named)
        self._named = full

    def leave(self, pool: BlockPool) -> None:
        """Give back all blocks."""
        pool.release(self.blocks)
        self.blocks = []
        self.computed = 0

    def _names(self, blocks: int) -> list[NamedBlock]:
        """What its first full blocks hold."""
        chain = self._chain
        while len(chain) < blocks:
            at = len(chain)
            tokens = tuple(self.tokens[at * BLOCK_TOKENS : (at + 1) * BLOCK_TOKENS])
            parent = chain[-1].hash if chain else None
            own = tokens_hash(tokens)
            chain.append(NamedBlock(block_hash(parent, own), own, parent, at, tokens))
        return chain[:blocks]


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens of one sequence that a step computes.

    Attributes:
        sequence: Whose they are.
        start: The first of them.
        tokens: How many.
    """

    sequence: Sequence
    start: int
    tokens: int

    @property
    def writes(self) -> bool:
        """Whether the next token can be chosen after it."""
        return self.start + self.tokens == len(self.sequence.tokens)


class Scheduler:
    """The sequences of one model: those that are at work, and those that wait.

    Args:
        pool: The blocks.
        max_sequences: Most at work.
        max_step_tokens: Most tokens of a step.
    """

    def __init__(self, pool: BlockPool, *, max_sequences: int, max_step_tokens: int) -> None:
        self._pool = pool
        self._max_sequences = max_sequences
        self._max_step_tokens = max_step_tokens
        self._running: list[Sequence] = []
        self._waiting: list[tuple[tuple[int, int], Sequence]] = []
        self._left = 0
        self._numbers = count()

    def __iter__(self) -> Iterator[Sequence]:
        """All sequences."""
        yield from self._running
        for _, sequence in self._waiting:
            yield sequence

    @property
    def running(self) -> int:
        """How many are at work."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many wait, without those that have left meanwhile."""
        return len(self._waiting) - self._left

    def add(self, sequence: Sequence) -> None:
        """A new sequence waits for its turn."""
        sequence.rank = (-sequence.priority, next(self._numbers))
        heapq.heappush(self._waiting, (sequence.rank, sequence))

    def left(self, sequence: Sequence) -> None:
        """A sequence is gone; its blocks are given back before the next step."""
        if sequence not in self._running:
            self._left += 1
            if 2 * self._left > len(self._waiting):
                self._waiting = [entry for entry in self._waiting if not entry[1].gone]
                heapq.heapify(self._waiting)
                self._left = 0

    def plan(self) -> list[Work]:
        """What the next step computes, those that only write first; empty for nothing to do."""
        for sequence in self._running:
            if sequence.gone:
                sequence.leave(self._pool)
        self._running = [sequence for sequence in self._running if not sequence.gone]
        works: list[Work] = []
        budget = self._max_step_tokens
        hungry = [sequence for sequence in self._running if sequence.hungry]
        hungry.sort(key=lambda sequence: (sequence.missing > 1, sequence.rank))
        for sequence in hungry:
            # It may have had to leave for the sake of one before it.
            if budget and sequence.blocks:
                budget -= self._work(sequence, budget, works)
        aside: list[Sequence] = []
        while budget and self._waiting:
            _, sequence = heapq.heappop(self._waiting)
            if sequence.gone:
                self._left -= 1
            elif not sequence.hungry:
                aside.append(sequence)
            elif not self._admit(sequence):
                aside.append(sequence)
                break
            else:
                budget -= self._work(sequence, budget, works)
        for sequence in aside:
            heapq.heappush(self._waiting, (sequence.rank, sequence))
        return works

    def done(self, work: Work) -> None:
        """A step has computed what was planned."""
        work.sequence.advance(self._pool, work.tokens)

    def close(self) -> None:
        """Give back all blocks; nothing is at work any more."""
        for sequence in self._running:
            sequence.leave(self._pool)
        self._running.clear()
        self._waiting.clear()
        self._left = 0

    def _work(self, sequence: Sequence, budget: int, works: list[Work]) -> int:
        tokens = min(sequence.missing, budget)
        while not sequence.grow(self._pool, tokens):
            victim = max(self._running, key=lambda each: (not each.hungry, each.rank))
            self._suspend(victim)
            works[:] = [work for work in works if work.sequence is not victim]
            if victim is sequence:
                return 0
        works.append(Work(sequence, sequence.computed, tokens))
        return tokens

    def _admit(self, sequence: Sequence) -> bool:
        """Let a sequence begin, if there is a place and blocks for all that it has so far."""
        while True:
            if len(self._running) < self._max_sequences:
                sequence.begin(self._pool)
                wanted = -(-len(sequence.tokens) // BLOCK_TOKENS) - len(sequence.blocks)
                if wanted <= self._pool.free:
                    if sequence.reused < 0:
                        sequence.reused = sequence.computed
                    self._running.append(sequence)
                    return True
                sequence.leave(self._pool)
            # One whose reader looks away must not keep others from beginning.
            resting = [each for each in self._running if not each.hungry]
            if not resting:
                return False
            self._suspend(max(resting, key=lambda each: each.rank))

    def _suspend(self, sequence: Sequence) -> None:
        sequence.leave(self._pool)
        self._running.remove(sequence)
        heapq.heappush(self._waiting, (sequence.rank, sequence))
