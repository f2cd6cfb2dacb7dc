"""The base of every generated model.

A model's JSON is the canonical ProtoJSON mapping without any argument:
``model_dump_json()`` writes it, ``model_validate_json()`` reads it, and both speak Python values
through ``model_dump`` and ``model_validate``. Bytes are the protobuf wire format.
Source: https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast, dataclass_transform

from google.protobuf.message import Message as PbMessage
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic._internal._model_construction import ModelMetaclass
from pydantic_core import PydanticCustomError

from protoplane_base import wire
from protoplane_base.errors import EncodeError
from protoplane_base.events import EventSpec
from protoplane_base.fields import field
from protoplane_base.leniency import ignore_unknown
from protoplane_base.registry import register
from protoplane_base.rules import RuleCheck

Extra = Literal["allow", "ignore", "forbid"]


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
class MessageType(ModelMetaclass):
    """Metaclass of messages: adds the checks that a message's oneofs and rules need."""

    def __new__(
        mcs,
        name: str,
        bases: tuple[type[Any], ...],
        namespace: dict[str, Any],
        *,
        pb: type[PbMessage] | None = None,
        oneofs: Mapping[str, tuple[str, ...]] | None = None,
        rules: Literal["whole", "fields"] | None = None,
        event: EventSpec | None = None,
        **kwargs: Any,
    ) -> type:
        """Make the class of a message.

        Args:
            name: Name of the class.
            bases: Its bases.
            namespace: Its body.
            pb: Class of the protobuf message that it mirrors.
            oneofs: Members (Python names) of each oneof.
            event: What the schema says of it as an event.
            rules: What its protovalidate rules need: the library, over the ``"whole"`` message, or
                no more than the annotations of its ``"fields"`` and of theirs.
            **kwargs: As for any Pydantic model.
        """
        if oneofs:
            namespace["_check_oneofs"] = model_validator(mode="after")(_check_oneofs)
        if rules == "whole":
            namespace["_check_rules"] = model_validator(mode="after")(RuleCheck())
        cls = cast("type[Message]", super().__new__(mcs, name, bases, namespace, **kwargs))
        if oneofs:
            cls.__oneofs__ = {**oneofs}
            cls.__rivals__ = {
                member: tuple(other for other in members if other != member)
                for members in oneofs.values()
                for member in members
            }
        if rules is not None:
            cls.__ruled__ = True
        if event is not None:
            cls.__event__ = event
        if pb is not None:
            cls.__pb__ = pb
            cls.__extendable__ = bool(pb.DESCRIPTOR.is_extendable)
            register(pb.DESCRIPTOR.full_name, cls)
        return cls


class Message(BaseModel, metaclass=MessageType):
    """A protobuf message as a Pydantic model.

    Assigning to a field validates the value; assigning to a member of a oneof clears the others.
    """

    model_config = ConfigDict(
        extra="forbid",
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
        ser_json_bytes="utf8",
        ser_json_inf_nan="strings",
        validate_assignment=True,
        protected_namespaces=(),
        defer_build=True,
    )

    __pb__: ClassVar[Any]
    __extendable__: ClassVar[bool] = False
    __event__: ClassVar[EventSpec | None] = None
    __ruled__: ClassVar[bool] = False
    __oneofs__: ClassVar[dict[str, tuple[str, ...]]] = {}
    __rivals__: ClassVar[dict[str, tuple[str, ...]]] = {}

    @classmethod
    def from_pb(cls, pb: Any) -> Self:
        """Make a model of a protobuf message, without validating what protobuf has parsed.

        Fields that the schema does not know are kept and written again by `to_pb`.
        """
        raise NotImplementedError

    def to_pb(self) -> Any:
        """Make a protobuf message of this model.

        Raises:
            TypeError, ValueError: A value was put into the model unvalidated that protobuf cannot
                take; `to_bytes` raises `EncodeError` then.
        """
        raise NotImplementedError

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode the protobuf wire format.

        Raises:
            DecodeError: ``data`` is not a message of this type.
        """
        return cls.from_pb(wire.parse(cls.__pb__(), data))

    def to_bytes(self) -> bytes:
        """Encode in the protobuf wire format.

        Raises:
            EncodeError: A value was put into the model unvalidated that protobuf cannot take, or
                the message is too large or too deep.
        """
        try:
            pb = self.to_pb()
        except (AttributeError, TypeError, ValueError) as error:
            name = type(self).__name__
            raise EncodeError(f"{name} holds what its message cannot carry: {error}") from error
        return wire.serialize(pb)

    def which_oneof(self, oneof: str) -> str | None:
        """Name of the member of ``oneof`` that is set, or ``None``.

        Raises:
            KeyError: The message has no oneof of that name.
        """
        values = self.__dict__
        return next((name for name in self.__oneofs__[oneof] if values[name] is not None), None)

    @classmethod
    def model_validate_json(
        cls,
        json_data: str | bytes | bytearray,
        *,
        strict: bool | None = None,
        extra: Extra | None = None,
        context: Any | None = None,
        by_alias: bool | None = None,
        by_name: bool | None = None,
    ) -> Self:
        """Read ProtoJSON.

        Args:
            json_data: The JSON text.
            strict: As in Pydantic.
            extra: ``'ignore'`` drops fields and enum names that the schema does not know;
                by default they are errors.
            context: As in Pydantic.
            by_alias: As in Pydantic.
            by_name: As in Pydantic.

        Raises:
            pydantic.ValidationError: One entry for each fault, with the path to it.
        """
        if extra != "ignore":
            return super().model_validate_json(
                json_data,
                strict=strict,
                extra=extra,
                context=context,
                by_alias=by_alias,
                by_name=by_name,
            )
        with ignore_unknown():
            return super().model_validate_json(
                json_data,
                strict=strict,
                extra=extra,
                context=context,
                by_alias=by_alias,
                by_name=by_name,
            )

    if not TYPE_CHECKING:  # A visible __setattr__ would let any attribute pass a type checker.

        def __setattr__(self, name: str, value: Any) -> None:
            rivals = self.__rivals__.get(name)
            if rivals is None or value is None:
                super().__setattr__(name, value)
                return
            values = self.__dict__
            before = {rival: values[rival] for rival in rivals}
            values.update(dict.fromkeys(rivals))
            try:
                super().__setattr__(name, value)
            except Exception:
                self.__dict__.update(before)
                raise


def _check_oneofs(self: Message) -> Message:
    values = self.__dict__
    for oneof, members in self.__oneofs__.items():
        present = [name for name in members if values[name] is not None]
        if len(present) > 1:
            raise PydanticCustomError(
                "oneof",
                "at most one of {members} may be set in oneof {oneof}, but {present} are",
                {
                    "members": ", ".join(members),
                    "oneof": oneof,
                    "present": " and ".join(present),
                },
            )
    return self
