"""What the gateway's messages are to the component that answers."""

from __future__ import annotations

from protoplane.gateway.v1 import InferRequest
from protoplane.inference.v1 import GenerateRequest, GenerateResponse, Usage
from protoplane.inference.v1 import InferRequest as TensorRequest
from protoplane_base import Code, PlaneError

_CHARS_A_TOKEN = 4
"""About how long a token is, where a request ends before anybody has counted them."""


def generate_request(request: InferRequest, priority: int) -> GenerateRequest:
    """What is to be written.

    Raises:
        PlaneError: INVALID_ARGUMENT; there is nothing to go on from.
    """
    if request.text is None and request.token_ids is None and request.conversation is None:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            "there is no input; give one of text, tokenIds, conversation or tensors",
        )
    made = GenerateRequest(model=request.model, sampling=request.sampling, priority=priority)
    # Assigning to a member of a oneof validates it again; what is here was validated.
    if request.text is not None:
        made.prompt = request.text
    elif request.token_ids is not None:
        made.token_ids = request.token_ids
    else:
        made.conversation = request.conversation
    return made


def tensor_request(request: InferRequest, priority: int) -> TensorRequest:
    """What is to be computed.

    Raises:
        PlaneError: INVALID_ARGUMENT; sampling says nothing to tensors.
    """
    tensors = request.tensors
    assert tensors is not None
    if request.sampling is not None:
        raise PlaneError(
            Code.INVALID_ARGUMENT, "sampling is for texts, and the input is tensors; leave it out"
        )
    return TensorRequest(
        model=request.model,
        version=tensors.version,
        inputs=tensors.inputs,
        outputs=tensors.outputs,
        priority=priority,
    )


class Written:
    """Counts what a model writes, also where it is not let finish.

    Args:
        request: What it was given.
    """

    __slots__ = ("_pieces", "_request", "usage")

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request
        self._pieces = 0
        self.usage: Usage | None = None

    def add(self, piece: GenerateResponse) -> None:
        """Count a piece."""
        self._pieces += len(piece.token_ids) or bool(piece.text)
        if piece.usage is not None:
            self.usage = piece.usage

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens that were read, and written; about, where the model could not say."""
        if self.usage is not None:
            return self.usage.prompt_tokens, self.usage.completion_tokens
        if not self._pieces:
            return 0, 0
        return _length(self._request), self._pieces


def _length(request: GenerateRequest) -> int:
    if request.token_ids is not None:
        return len(request.token_ids.ids)
    if request.prompt is not None:
        return -(-len(request.prompt) // _CHARS_A_TOKEN)
    messages = request.conversation.messages if request.conversation is not None else []
    return sum(-(-len(message.content) // _CHARS_A_TOKEN) for message in messages)
