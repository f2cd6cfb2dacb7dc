"""What a backend may have beside `interface.Backend`: a way for requests to go on as they came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from protoplane_base import Context
from protoplane_server.backends.interface import Backend


@dataclass(frozen=True, slots=True, eq=False)
class AnswerHead:
    """What an answer says beside the contents of its tensors.

    Attributes:
        message: A ``ModelInferResponse`` of `protoplane_server.kserve.schema` without its id and
            its contents; nobody changes it.
        recurs: Whether answers that say the same, with contents of the same lengths, come with
            this very object.
    """

    message: Any
    recurs: bool


class RequestKind(Protocol):
    """Requests that a relay takes, which differ in the contents of their tensors alone."""

    @property
    def current(self) -> bool:
        """Whether they are still taken: the model is what it was."""
        ...

    async def ask(self, contents: Sequence[bytes], ctx: Context) -> tuple[AnswerHead, list[bytes]]:
        """Have one answered; cancelling takes it back.

        Args:
            contents: Raw contents of its tensors, each of the length that it had in the request
                that the kind is that of.
            ctx: The call that it came with.

        Returns:
            The answer, and the raw contents of its tensors.

        Raises:
            PlaneError: See `Backend.infer`.
        """
        ...


class Relay(Protocol):
    """Hands requests on to a backend as they came, where nothing calls for `Backend.infer`."""

    def kind(self, request: Any) -> RequestKind | None:
        """The kind of a request, once it is checked.

        Args:
            request: A ``ModelInferRequest`` of `protoplane_server.kserve.schema` with raw
                contents, none of them empty; these may be others afterwards.

        Returns:
            Its kind; ``None`` where it is not taken. So are all that the model does not take:
            `Backend.infer` has the words for those.
        """
        ...


@runtime_checkable
class RelaysRequests(Protocol):
    """A backend that takes requests as they came, in KServe's messages."""

    def relay(self) -> Relay | None:
        """What takes them, once the backend has started; ``None`` where nothing does."""
        ...


def relay_of(backend: Backend) -> Relay | None:
    """What hands a backend's requests on, if it has such a thing; the backend has started."""
    return backend.relay() if isinstance(backend, RelaysRequests) else None
