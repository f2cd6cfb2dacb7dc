"""A chat with a server that speaks OpenAI's API, from the caller's side.

Source: https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Self, TypedDict

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from protoplane_base import Code, PlaneError
from protoplane_client.sse import EventStreamError, EventStreamParser

Role = Literal["system", "user", "assistant"]

_CONNECT_S = 5.0
_SILENCE_S = 120.0
"""How long a server may say nothing in the middle of an answer."""

_CODES = {
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    429: Code.RESOURCE_EXHAUSTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


class Message(TypedDict):
    """A message of a chat."""

    role: Role
    content: str


class Usage(BaseModel):
    """How many tokens went in and came out."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Delta(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Failure(BaseModel):
    message: str = ""


class _Chunk(BaseModel):
    model: str = ""
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: _Failure | None = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


class _Refusal(BaseModel):
    error: _Failure


@dataclass(slots=True)
class Answer:
    """What has come of an answer.

    Attributes:
        model: Who gave it.
        text: It so far.
        finish_reason: Why it ended; empty where it did not, as somebody stopped it.
        usage: Its tokens, where the server said them.
        began: When it was asked for, by the monotonic clock.
        first_at: When its first text came.
        last_at: When its last text came.
    """

    model: str = ""
    text: str = ""
    finish_reason: str = ""
    usage: Usage | None = None
    began: float = field(default_factory=time.monotonic)
    first_at: float | None = None
    last_at: float | None = None

    @property
    def first_s(self) -> float:
        """Seconds until the first text; 0 where none came."""
        return 0.0 if self.first_at is None else self.first_at - self.began

    @property
    def tokens_per_s(self) -> float | None:
        """How fast it was written; ``None`` where that cannot be told."""
        if self.usage is None or self.first_at is None or self.last_at is None:
            return None
        took_s, tokens = self.last_at - self.first_at, self.usage.completion_tokens - 1
        return tokens / took_s if took_s > 0 and tokens > 0 else None


class ChatServer:
    """A server that speaks OpenAI's API; use it with ``with``.

    Args:
        url: Where it is, with or without ``/v1``.
        key: API key to show.
        remedy: What to do where nobody answers there.
    """

    def __init__(self, url: str, key: str | None = None, *, remedy: str = "") -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._remedy = remedy
        self._http = httpx.Client(
            base_url=f"{self.url}/v1/",
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self) -> list[str]:
        """Names of the models that it has.

        Raises:
            PlaneError: It cannot be reached, refuses, or answers something else.
        """
        with self._failures():
            response = self._http.get("models")
            _refused(response)
            try:
                return [model.id for model in _Models.model_validate_json(response.content).data]
            except ValidationError:
                raise self._stranger() from None

    def answer(
        self,
        answer: Answer,
        messages: Sequence[Message],
        model: str,
        settings: Mapping[str, float | int],
    ) -> Iterator[str]:
        """Let a model answer, piece by piece.

        Closing the iterator, or an exception such as ``KeyboardInterrupt`` in it, hangs up, by
        which the server stops the work.

        Args:
            answer: Takes what comes.
            messages: The chat so far.
            model: Who is to answer.
            settings: More fields of the request, ``temperature`` for example.

        Yields:
            Text, as it arrives.

        Raises:
            PlaneError: It cannot be reached, refuses, or fails in the middle.
        """
        body = {
            "model": model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            **settings,
        }
        with (
            self._failures(),
            self._http.stream("POST", "chat/completions", json=body) as response,
        ):
            if response.is_error:
                response.read()
            _refused(response)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise self._stranger()
            parser = EventStreamParser()
            for data in response.iter_raw():
                for event in parser.feed(data):
                    if event.data == "[DONE]":
                        return
                    text = _take(event.data, answer)
                    if text:
                        yield text
        raise PlaneError(Code.UNAVAILABLE, "the server ended the answer in its middle; ask again")

    @contextmanager
    def _failures(self) -> Generator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise PlaneError(
                Code.UNAVAILABLE, f"nothing answers at {self.url}: {self._remedy or error}"
            ) from error
        except httpx.TimeoutException as error:
            raise PlaneError(
                Code.DEADLINE_EXCEEDED, f"{self.url} says nothing for too long; is it overloaded?"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PlaneError(Code.UNAVAILABLE, f"{self.url}: {error}") from error
        except EventStreamError as error:
            raise self._stranger() from error

    def _stranger(self) -> PlaneError:
        return PlaneError(
            Code.UNIMPLEMENTED,
            f"what answers at {self.url} does not speak OpenAI's API; give --url of a gateway",
        )


def _take(data: str, answer: Answer) -> str:
    """Add a chunk of the stream to an answer; gives its text."""
    try:
        chunk = _Chunk.model_validate_json(data)
    except ValidationError as error:
        raise PlaneError(
            Code.INTERNAL, f"the server sent what is no chunk of an answer: {data[:80]}"
        ) from error
    if chunk.error is not None:
        raise PlaneError(Code.UNAVAILABLE, chunk.error.message or "the answer broke off")
    answer.model = chunk.model or answer.model
    answer.usage = chunk.usage or answer.usage
    text = ""
    for choice in chunk.choices:
        text += choice.delta.content or ""
        answer.finish_reason = choice.finish_reason or answer.finish_reason
    if text:
        answer.last_at = time.monotonic()
        answer.first_at = answer.first_at or answer.last_at
        answer.text += text
    return text


def _refused(response: httpx.Response) -> None:
    if response.is_success:
        return
    status = response.status_code
    try:
        words = _Refusal.model_validate_json(response.content).error.message
    except ValidationError:
        words = f"HTTP status {status} {response.reason_phrase}".strip()
    if status in (401, 403):
        words += "; give a key by --key or $PROTOPLANE_API_KEY"
    if status == 429 and (after := response.headers.get("retry-after")):
        words += f"; try again in {after} s"
    other = Code.INVALID_ARGUMENT if 400 <= status < 500 else Code.INTERNAL
    raise PlaneError(_CODES.get(status, other), words)
