"""What of a text was delivered, and how another worker can go on with it."""

from __future__ import annotations

from collections.abc import Iterator

from protoplane.inference.v1 import (
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    SamplingParameters,
    TokenIds,
    Usage,
)
from protoplane.orchestrator.v1 import StreamBroken

_MOST_HELD = 16
"""Tokens without text after which a worker is taken for one that writes no texts."""


class Writing:
    """One answer, over all the workers that write it.

    Where it may be gone on with, tokens whose text has not come yet are kept back until it comes:
    what was delivered is then a prefix of the answer, its tokens and its text alike, and the next
    worker begins right behind it.

    Args:
        request: What the caller asked for, with its model.
        resume: Whether to go on at another worker at all.

    Attributes:
        messages: Messages that were delivered.
        characters: Characters that were delivered.
        tokens: Tokens that were delivered, as far as the workers told them.
    """

    def __init__(self, request: GenerateRequest, *, resume: bool) -> None:
        self._request = request
        self._why_not = _why_not(request) if resume else "resuming is off"
        self._keep = not self._why_not
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._held: list[int] = []
        self._model = ""
        self._before = 0
        self._surplus = False
        self._ended = False
        self.messages = 0
        self.characters = 0
        self.tokens = 0

    @property
    def begun(self) -> bool:
        """Whether anything of the text was delivered."""
        return bool(self.tokens or self.characters)

    @property
    def advanced(self) -> bool:
        """Whether the last worker wrote anything."""
        return self.tokens > self._before

    @property
    def finished(self) -> bool:
        """Whether the last message was delivered."""
        return self._ended

    @property
    def why_not(self) -> str:
        """Why another worker cannot go on; empty where it can."""
        if not self.begun:
            return ""
        if self._why_not:
            return self._why_not
        if self.characters and not self.tokens:
            return "the worker tells no tokens, so nobody knows how many are left to write"
        return ""

    def told(self, reason: str) -> StreamBroken:
        """What to tell of it where nobody goes on."""
        return StreamBroken(
            messages_delivered=self.messages,
            tokens_delivered=self.tokens,
            characters_delivered=self.characters,
            reason=reason,
        )

    def request(self) -> GenerateRequest:
        """What the next worker is asked for: all of it, or what is left."""
        self._held.clear()
        self._before = self.tokens
        self._surplus = False
        if not self.begun:
            return self._request
        sampling = self._request.sampling or SamplingParameters()
        left = None
        if sampling.max_tokens is not None:
            left = sampling.max_tokens - self.tokens
            # Where only the end was lost, one token more tells it, and is thrown away.
            self._surplus = left <= 0
            left = max(1, left)
        changed: dict[str, object] = {
            "model": self._model or self._request.model,
            "sampling": sampling.model_copy(update={"max_tokens": left}),
        }
        if self._request.token_ids is not None:
            ids = [*self._request.token_ids.ids, *self._ids]
            changed["token_ids"] = TokenIds(ids=ids)
        else:
            changed["prompt"] = (self._request.prompt or "") + "".join(self._texts)
        return self._request.model_copy(update=changed)

    def delivered(self, answer: GenerateResponse) -> Iterator[GenerateResponse]:
        """What the caller gets for a message of a worker, which counts as delivered then."""
        if answer.model and not self._model:
            self._model = answer.model
        last = answer.finish_reason != FinishReason.FINISH_REASON_UNSPECIFIED
        if self._surplus and not last:
            return
        if self._keep and not last and self._hold(answer):
            return
        if self._held or self._before or answer.index != self.messages:
            answer = self._rewritten(answer, last=last)
        self.messages += 1
        self.tokens += len(answer.token_ids)
        self.characters += len(answer.text)
        self._ended = last
        if self._keep:
            self._texts.append(answer.text)
            self._ids += answer.token_ids
        yield answer

    def _hold(self, answer: GenerateResponse) -> bool:
        """Whether the tokens of a message wait for their text."""
        if answer.text:
            return False
        if self._request.token_ids is not None and len(self._held) >= _MOST_HELD:
            return False
        self._held += answer.token_ids
        return True

    def _rewritten(self, answer: GenerateResponse, *, last: bool) -> GenerateResponse:
        """A message with its place in the whole stream, and the tokens that waited for it."""
        written = GenerateResponse(
            text=answer.text, token_ids=[*self._held, *answer.token_ids], index=self.messages
        )
        self._held.clear()
        if not self.messages:
            written.model = self._model
        if last:
            written.finish_reason = answer.finish_reason
            written.usage = self._usage(answer.usage)
            if self._surplus:
                written.text = ""
                written.token_ids = []
                written.finish_reason = FinishReason.FINISH_REASON_LENGTH
        return written

    def _usage(self, usage: Usage | None) -> Usage | None:
        """What was read and written of the whole; what the last worker read includes the rest."""
        if usage is None or not self._before:
            return usage
        return Usage(
            prompt_tokens=max(0, usage.prompt_tokens - self._before),
            completion_tokens=self._before + (0 if self._surplus else usage.completion_tokens),
        )


def _why_not(request: GenerateRequest) -> str:
    """Why a request's text cannot be gone on with; empty where it can."""
    if request.prompt is None and request.token_ids is None:
        return "a conversation is not gone on with; give a prompt or token_ids"
    sampling = request.sampling or SamplingParameters()
    if sampling.temperature != 0 and sampling.seed is None:
        return "the text is neither greedy (temperature 0) nor seeded"
    if sampling.presence_penalty or sampling.frequency_penalty:
        return "its penalties count what was written, which another worker takes for the prompt"
    if request.token_ids is not None and sampling.stop:
        return "with token_ids and texts to stop at, nobody knows which tokens of it are certain"
    return ""
