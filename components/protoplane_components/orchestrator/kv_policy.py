"""The policy that asks the KV router where most of a prompt is cached already."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from time import monotonic
from typing import Self

from protoplane.inference.v1 import GenerateRequest
from protoplane.router.v1 import (
    KvRouterClient,
    LoadsRequest,
    OutputBlocksRequest,
    PrefillCompletedRequest,
    Prompt,
    ReleaseRequest,
    RoutingRequest,
    SelectAndReserveRequest,
    TokenSequence,
)
from protoplane_base import Code, Duration, PlaneError
from protoplane_client import Policy, RetryPolicy, connect
from protoplane_components.orchestrator.counts import Counts
from protoplane_components.orchestrator.needs import Need
from protoplane_components.orchestrator.policies import Choice, picking
from protoplane_components.orchestrator.settings import OrchestratorSettings
from protoplane_components.orchestrator.workers import Worker
from protoplane_runtime.engines.discovery import Discovery

_log = logging.getLogger("protoplane.orchestrator")

Tokenizer = Callable[[str], Sequence[int]]
"""Makes tokens of a text, as the workers do."""

_BLOCK_SIZE = 16
_SENDERS = 4
_MOST_NOTES = 10_000
_NOTE_S = 2.0
_NO_TEXT_S = 30.0
# The router reads no more of a prompt: where that goes is clear by then, and nobody has to wait
# for a text of megabytes. Characters, or tokens.
_MOST_READ = 200_000
_FIRST_LOOK_S = 0.1
_AWAY = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)


class KvPolicy:
    """Gives a text to the worker that the KV router names; everything else to the least loaded.

    So it does, too, while the router is away or slow: a request waits for it ``router_timeout_s``
    at most, and after that nobody does until it has answered to a question that no request waits
    for, which is put every ``router_again_s``.

    Args:
        discovery: Where the router is found.
        namespace: Where in it.
        settings: The orchestrator's.
        counts: What is counted.
        tokenizer: Makes tokens of texts, for a router that has no tokenizer; without it the router
            is given the text.

    Attributes:
        name: ``kv``.
        settings: The orchestrator's.
    """

    name = "kv"

    def __init__(
        self,
        discovery: Discovery,
        namespace: str,
        settings: OrchestratorSettings,
        counts: Counts,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.settings = settings
        self._counts = counts
        self._tokenizer = tokenizer
        policy = Policy(retries=RetryPolicy(max_attempts=1), ready_s=settings.router_timeout_s)
        self._plane = connect(
            settings.router,
            engine=discovery,
            namespace=namespace,
            token=settings.token or None,
            policy=policy,
        )
        self._router = KvRouterClient(self._plane)
        self._otherwise = picking("least-loaded")
        self._notes: asyncio.Queue[Callable[[], Awaitable[object]]] = asyncio.Queue(_MOST_NOTES)
        self._stack = AsyncExitStack()
        self._there = asyncio.Event()
        self._lost = asyncio.Event()
        self._no_text_until = 0.0

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._plane)
        work = [self._look(), *(self._send() for _ in range(_SENDERS))]
        self._stack.push_async_callback(_end, [asyncio.create_task(each) for each in work])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def there(self) -> bool:
        """Whether the router is asked."""
        return self._there.is_set()

    async def choose(self, need: Need, ready: Sequence[Worker]) -> Choice:
        """See `protoplane_components.orchestrator.policies.Policy.choose`."""
        if need.text is None:
            return await self._otherwise.choose(need, ready)
        prompt = self._prompt(need.text) if self.there else None
        chosen = None if prompt is None else await self._ask(need, prompt, ready)
        if chosen is None:
            self._counts.unrouted += 1
            return await self._otherwise.choose(need, ready)
        self._counts.routed += 1
        return chosen

    async def _ask(self, need: Need, prompt: Prompt, ready: Sequence[Worker]) -> Choice | None:
        by_id = {_id(worker): worker for worker in ready}
        request = RoutingRequest(
            prompt=prompt,
            model=need.model,
            priority=need.priority,
            pinned_workers=[*by_id],
            request_id=secrets.token_hex(8),
            omit_scores=True,
        )
        asked = SelectAndReserveRequest(
            request=request, lease=Duration.from_seconds(self.settings.lease_s)
        )
        try:
            answer = await self._router.select_and_reserve(
                asked, timeout_s=self.settings.router_timeout_s
            )
        except PlaneError as error:
            self._refused(error, prompt)
            if error.code is Code.DEADLINE_EXCEEDED:
                # It may have been made all the same.
                self.tell(self.released(request.request_id))
            return None
        except asyncio.CancelledError:
            # The caller left; so it may have been made here, too.
            self.tell(self.released(request.request_id))
            raise
        worker = by_id.get(answer.selection.worker_id) if answer.selection is not None else None
        if worker is None:
            self.tell(self.released(answer.reservation_id))
            return None
        return Choice(worker, KvReservation(self, answer.reservation_id, _block_size(worker)))

    def _refused(self, error: PlaneError, prompt: Prompt) -> None:
        if error.code in _AWAY:
            if self.there:
                _log.warning("the KV router is done without: %s", error.message)
            self._there.clear()
            self._lost.set()
        elif error.code is Code.INVALID_ARGUMENT and prompt.text is not None:
            _log.warning("the KV router takes no texts: %s", error.message)
            self._no_text_until = monotonic() + _NO_TEXT_S

    async def _look(self) -> None:
        """See when the router is there, at first and whenever it was lost."""
        again_s = min(_FIRST_LOOK_S, self.settings.router_again_s)
        while True:
            try:
                await self._router.loads(LoadsRequest(), timeout_s=_NOTE_S)
            except PlaneError as error:
                # Another error is an answer, too.
                is_there = error.code not in _AWAY
            else:
                is_there = True
            if is_there:
                self._there.set()
                _log.info("the KV router is asked")
                self._lost.clear()
                await self._lost.wait()
                again_s = self.settings.router_again_s
            await asyncio.sleep(again_s)

    def _prompt(self, request: GenerateRequest) -> Prompt | None:
        """The prompt as the router can read it; ``None`` where it cannot."""
        if request.token_ids is not None:
            ids = request.token_ids.ids[:_MOST_READ]
            # Where one is below zero, it is the worker who says so.
            return None if any(id_ < 0 for id_ in ids) else Prompt(tokens=TokenSequence(ids=[*ids]))
        if request.conversation is not None:
            lines = (f"{each.role}: {each.content}\n" for each in request.conversation.messages)
            text = "".join(lines)
        else:
            text = request.prompt or ""
        if not text:
            return None
        text = text[:_MOST_READ]
        if self._tokenizer is not None:
            return Prompt(tokens=TokenSequence(ids=[*self._tokenizer(text)]))
        return Prompt(text=text) if monotonic() >= self._no_text_until else None

    def tell(self, note: Callable[[], Awaitable[object]]) -> None:
        """Send the router a note, when there is time; where too many wait it is dropped."""
        if not self._notes.full():
            self._notes.put_nowait(note)

    async def _send(self) -> None:
        while True:
            note = await self._notes.get()
            # What happens while the router is away it hears when it is back: else it would count
            # what is over until the leases end.
            await self._there.wait()
            try:
                await note()
            except PlaneError as error:
                # A reservation that is not released ends with its lease.
                _log.debug("a note to the KV router was lost: %s", error.message)

    def noted(self, reservation: str) -> Callable[[], Awaitable[object]]:
        """Say that a prompt was computed."""
        request = PrefillCompletedRequest(reservation_id=reservation)
        return lambda: self._router.prefill_completed(request, timeout_s=_NOTE_S)

    def filled(self, reservation: str, blocks: int) -> Callable[[], Awaitable[object]]:
        """Say how many blocks an answer fills."""
        request = OutputBlocksRequest(reservation_id=reservation, blocks=blocks)
        return lambda: self._router.output_blocks(request, timeout_s=_NOTE_S)

    def released(self, reservation: str) -> Callable[[], Awaitable[object]]:
        """Say that a request is over."""
        request = ReleaseRequest(reservation_id=reservation)
        return lambda: self._router.release(request, timeout_s=_NOTE_S)

    @property
    def told_every_tokens(self) -> int:
        """Tokens from one note to the next."""
        return self.settings.told_every_tokens


class KvReservation:
    """See `protoplane_components.orchestrator.policies.Reservation`.

    Args:
        policy: Whose it is.
        id_: What the router calls it.
        block_size: Tokens in a block of the worker's cache.
    """

    __slots__ = ("_block_size", "_id", "_policy", "_told")

    def __init__(self, policy: KvPolicy, id_: str, block_size: int) -> None:
        self._policy = policy
        self._id = id_
        self._block_size = block_size
        self._told = 0

    def answered(self) -> None:
        """The prompt was computed."""
        self._policy.tell(self._policy.noted(self._id))

    def wrote(self, tokens: int) -> None:
        """So many tokens are there; the router is told now and then."""
        if tokens - self._told >= self._policy.told_every_tokens:
            self._told = tokens
            self._policy.tell(self._policy.filled(self._id, tokens // self._block_size))

    def release(self) -> None:
        """The request is over."""
        self._policy.tell(self._policy.released(self._id))


def _id(worker: Worker) -> str:
    """What the router calls a worker."""
    return worker.metadata.get("kv.worker") or worker.id


def _block_size(worker: Worker) -> int:
    said = worker.metadata.get("kv.block_size", "")
    return (int(said) if said.isascii() and said.isdigit() else 0) or _BLOCK_SIZE


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
