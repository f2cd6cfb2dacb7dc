"""What OpenAI's API is asked, as far as it can be followed here.

What cannot be followed is refused with the name of the parameter; it is not passed over in silence.
Sources: https://platform.openai.com/docs/api-reference/chat, …/completions and …/embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protoplane.gateway.v1 import EmbedRequest, InferRequest
from protoplane.inference.v1 import (
    Conversation,
    ConversationMessage,
    SamplingParameters,
    TokenIds,
)
from protoplane_components.gateway.openai.faults import (
    ParameterError,
    from_validation,
    unsupported,
)

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "prediction": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Parameters that cannot be followed, each with the values that ask for nothing, beside null."""

_IGNORED = frozenset(
    (
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "user",
    )
)
"""Parameters that change no answer."""

_MAX_STOPS = 4
_SEEDS = 1 << 64

_Penalty = Annotated[float, Field(ge=-2, le=2)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)

    type: str
    text: str | None = None


class _ChatMessage(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    role: str
    content: str | list[_Part] | None = None


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    model: Annotated[str, Field(min_length=1)]


_B = TypeVar("_B", bound=_Body)


class _Generation(_Body):
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=_SEEDS)] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None = None


class _Chat(_Generation):
    messages: Annotated[list[_ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None


class _Completion(_Generation):
    prompt: str | list[int] | list[str] | list[list[int]]


class _Embedding(_Body):
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None


class Generation:
    """A request for text.

    Attributes:
        request: What is asked of the gateway.
        stream: Whether the answer is to come in pieces.
        include_usage: Whether the pieces end with the usage.
    """

    __slots__ = ("include_usage", "request", "stream")

    def __init__(self, request: InferRequest, body: _Generation) -> None:
        self.request = request
        self.stream = bool(body.stream)
        options = body.stream_options
        if options is not None and not body.stream:
            raise ParameterError(
                "stream_options", "stream_options goes with stream=true; leave it out"
            )
        self.include_usage = options is not None and bool(options.include_usage)


def read_chat(data: bytes) -> Generation:
    """Read the body of ``/v1/chat/completions``.

    Raises:
        PlaneError: INVALID_ARGUMENT, mostly a `ParameterError`.
    """
    body = _parsed(_Chat, data)
    if body.max_completion_tokens is not None:
        body.max_tokens = body.max_completion_tokens
    messages = [_message(index, each) for index, each in enumerate(body.messages)]
    request = InferRequest(
        model=body.model,
        conversation=Conversation(messages=messages),
        sampling=_sampling(body),
        priority=body.priority or 0,
    )
    return Generation(request, body)


def read_completion(data: bytes) -> Generation:
    """Read the body of ``/v1/completions``.

    Raises:
        PlaneError: INVALID_ARGUMENT, mostly a `ParameterError`.
    """
    body = _parsed(_Completion, data)
    prompt: object = body.prompt
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        if len(prompt) > 1:
            raise unsupported("prompt", "send one prompt a request, not a list of several")
        [prompt] = prompt
    request = InferRequest(model=body.model, sampling=_sampling(body), priority=body.priority or 0)
    if isinstance(prompt, str):
        request.text = prompt
    elif prompt:
        request.token_ids = TokenIds(ids=cast("list[int]", prompt))
    else:
        raise ParameterError("prompt", "prompt is empty; send a text")
    return Generation(request, body)


class Embeddings:
    """A request for vectors.

    Attributes:
        request: What is asked of the gateway.
        base64: Whether vectors are to be base64 of their float32 values, little-endian.
        dimensions: How long they must be; ``None`` for as long as they are.
    """

    __slots__ = ("base64", "dimensions", "request")

    def __init__(self, data: bytes) -> None:
        """Read the body of ``/v1/embeddings``.

        Raises:
            PlaneError: INVALID_ARGUMENT, mostly a `ParameterError`.
        """
        body = _parsed(_Embedding, data)
        texts: Sequence[object] = [body.input] if isinstance(body.input, str) else body.input
        if not texts:
            raise ParameterError("input", "input is empty; send a text, or a list of them")
        if not isinstance(texts[0], str):
            raise unsupported("input", "send texts, not tokens")
        self.request = EmbedRequest(model=body.model, texts=[str(text) for text in texts])
        self.base64 = body.encoding_format == "base64"
        self.dimensions = body.dimensions

    def check_dimensions(self, length: int) -> None:
        """Refuse vectors of another length than was asked for.

        Raises:
            ParameterError: They have another one.
        """
        if self.dimensions not in (None, length):
            raise unsupported("dimensions", f"the vectors of this model have {length}")


def _parsed(model: type[_B], data: bytes) -> _B:
    try:
        body = model.model_validate_json(data)
    except ValidationError as error:
        raise from_validation(error) from None
    for name, value in (body.model_extra or {}).items():
        if value is None or name in _IGNORED:
            continue
        neutral = _NEUTRAL.get(name)
        if neutral is None:
            raise ParameterError(
                name, f"{name} is not a parameter that is known here", "unknown_parameter"
            )
        # Python takes False for 0, and OpenAI's logprobs=0 is not false.
        if not any(value == each and _is_bool(value) == _is_bool(each) for each in neutral):
            raise unsupported(name, _remedy(name, neutral))
    return body


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _remedy(name: str, neutral: tuple[object, ...]) -> str:
    if not neutral or name in ("tools", "functions"):
        return "leave it out"
    values = " or ".join(str(each) for each in neutral)
    return f"leave it out, or set it to {values}"


def _message(index: int, message: _ChatMessage) -> ConversationMessage:
    where = f"messages[{index}]"
    role = "system" if message.role == "developer" else message.role
    if role in ("tool", "function"):
        raise unsupported(f"{where}.role", "tools are not; say it as the user")
    if role not in ("system", "user", "assistant"):
        raise ParameterError(
            f"{where}.role", f"{where}.role is {role!r:.40}; it is system, user or assistant"
        )
    extra: dict[str, Any] = message.model_extra or {}
    for name in ("tool_calls", "function_call", "audio"):
        if extra.get(name):
            raise unsupported(f"{where}.{name}", "leave it out")
    content = message.content
    if isinstance(content, list):
        texts: list[str] = []
        for place, part in enumerate(content):
            if part.type != "text" or part.text is None:
                raise unsupported(f"{where}.content[{place}].type", "only parts of text are")
            texts.append(part.text)
        content = "".join(texts)
    if content is None:
        raise ParameterError(f"{where}.content", f"{where}.content is missing; say something")
    return ConversationMessage(role=role, content=content)


def _sampling(body: _Generation) -> SamplingParameters:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stop) > _MAX_STOPS or not all(stop):
        raise ParameterError("stop", f"stop takes up to {_MAX_STOPS} texts that are not empty")
    return SamplingParameters(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=None if body.seed is None else body.seed % _SEEDS,
        max_tokens=body.max_tokens,
        stop=stop,
        stop_token_ids=body.stop_token_ids or [],
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
    )
