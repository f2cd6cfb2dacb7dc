"""Requests that go on to a backend as they came, from bytes to bytes.

The first of a kind is decoded, checked and put into KServe's words, if those of its service are
others. Those that follow differ from it by contents alone, so these are all that is moved: from the
request to that of the backend, and from its answer to that of the caller.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from protoplane_base import Context
from protoplane_server.backends.relay import AnswerHead, Relay, RequestKind
from protoplane_server.kserve.forms import Form
from protoplane_server.kserve.schema import messages

_MAX_BYTES = 1 << 18
"""Larger messages are left to the ordinary way, which is a small part of what they cost."""

_SMALL_BYTES = 1 << 12
"""Up to here it takes no longer to learn a kind than to go the ordinary way; larger ones wait until
one as long has come before."""

_MAX_SIZES = 256
_MAX_MET = 1024
_MAX_OF_SIZE = 8
_MAX_REPLIES = 16


class Wording(Protocol):
    """How the messages of a service say what those of KServe do."""

    def parse(self, data: bytes) -> Any:
        """Decode a request.

        Raises:
            DecodeError: It is none.
        """
        ...

    def asked(self, request: Any) -> Any:
        """A request as ``ModelInferRequest``; ``None`` where that cannot say all of it."""
        ...

    def form(self, request: Any) -> Form:
        """The form of a request and all that differ from it by contents; these change."""
        ...

    def reply(self, model: str, head: Any, contents: Sequence[bytes]) -> bytes:
        """An encoded answer: what a ``ModelInferResponse`` says, and the contents."""
        ...


class Relaying:
    """Has requests of one rpc relayed.

    Args:
        relay: What takes them.
        wording: How the rpc says what it says.
    """

    def __init__(self, relay: Relay, wording: Wording) -> None:
        self._relay = relay
        self._wording = wording
        self._kinds: dict[int, list[_Kind]] = {}
        # Lengths of requests that were not small, and had no kind.
        self._met: set[int] = set()

    def take(self, data: bytes, ctx: Context) -> Awaitable[bytes] | None:
        """Take an encoded request.

        Args:
            data: The request.
            ctx: Its call.

        Returns:
            To be awaited, for the encoded answer; raises as
            `protoplane_server.backends.interface.Backend.infer` does. ``None`` where the request is
            not taken; the ordinary way says why, where something is the matter with it.
        """
        for kind in self._kinds.get(len(data), ()):
            contents = kind.form.match(data)
            if contents is not None:
                if kind.asked.current:
                    return self._answer(kind, contents, ctx)
                break
        return self._first(data, ctx)

    def _first(self, data: bytes, ctx: Context) -> Awaitable[bytes] | None:
        """Take a request that has no kind yet, or none that is current."""
        if len(data) > _MAX_BYTES:
            return None
        if len(data) > _SMALL_BYTES and len(data) not in self._met:
            if len(self._met) >= _MAX_MET:
                self._met.clear()
            self._met.add(len(data))
            return None
        try:
            request = self._wording.parse(data)
        except DecodeError:
            return None
        message = self._wording.asked(request)
        if message is None:
            return None
        kind = self._relay.kind(message)
        if kind is None:
            return None
        made = _Kind(self._wording.form(request), kind, message.model_name)
        contents = made.form.match(data)
        if contents is None:
            # It says more, or is encoded in another way than ours.
            return None
        if len(self._kinds) >= _MAX_SIZES:
            self._kinds.clear()
        known = self._kinds.setdefault(len(data), [])
        known[:] = [made, *(each for each in known if each.asked.current)][:_MAX_OF_SIZE]
        return self._answer(made, contents, ctx)

    async def _answer(self, kind: _Kind, contents: Sequence[bytes], ctx: Context) -> bytes:
        head, outputs = await kind.asked.ask(contents, ctx)
        form = kind.replies.get(head)
        if form is not None:
            return form.fill(outputs)
        reply = self._wording.reply
        if head.recurs:
            if len(kind.replies) >= _MAX_REPLIES:
                kind.replies.clear()
            kind.replies[head] = Form(
                lambda others: reply(kind.model, head.message, others), [*map(len, outputs)]
            )
        return reply(kind.model, head.message, outputs)


class _Kind:
    """Requests of one kind, as their service words them."""

    __slots__ = ("asked", "form", "model", "replies")

    def __init__(self, form: Form, asked: RequestKind, model: str) -> None:
        self.form = form
        self.asked = asked
        self.model = model
        self.replies: dict[AnswerHead, Form] = {}


class KserveWording:
    """That of KServe itself; see `Wording`."""

    def parse(self, data: bytes) -> Any:
        """Decode a ``ModelInferRequest``."""
        return messages.ModelInferRequest.FromString(data)

    def asked(self, request: Any) -> Any:
        """The request, without what this server's schema does not know."""
        request.DiscardUnknownFields()
        return request

    def form(self, request: Any) -> Form:
        """Its form."""
        return Form.of_field(request, "raw_input_contents")

    def reply(self, model: str, head: Any, contents: Sequence[bytes]) -> bytes:
        """A ``ModelInferResponse``."""
        response = messages.ModelInferResponse(raw_output_contents=contents)
        response.MergeFrom(head)
        data: bytes = response.SerializeToString()
        return data
