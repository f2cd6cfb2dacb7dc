"""Publishes messages as events: finds their key and encodes them."""

from __future__ import annotations

from protoplane_base import Code, EncodeError, Message, PlaneError
from protoplane_runtime.engines.interface import EventLog, Publication


async def publish(
    events: EventLog,
    event: Message,
    key: str | None = None,
    publisher: str | None = None,
    number: int | None = None,
) -> str:
    """Publish an event in a log; see `protoplane_base.Context.publish`.

    Raises:
        PlaneError: INVALID_ARGUMENT where no key is given and the event has none, or only one of
            ``publisher`` and ``number`` is given; and what the log raises.
    """
    publication = Publication.of(publisher, number)
    spec = event.__event__
    if key is None:
        if spec is None:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{type(event).__name__} has no event option that says its key; "
                "give one: publish(event, key=…)",
            )
        try:
            key = spec.key.key(event)
        except EncodeError as error:
            raise PlaneError(Code.INVALID_ARGUMENT, str(error)) from error
    pb = event.to_pb()
    return str(
        await events.publish(
            key,
            pb.DESCRIPTOR.full_name,
            pb.SerializeToString(deterministic=True),
            event.model_dump_json(),
            durable=spec is not None and spec.durable,
            publication=publication,
        )
    )
