"""A message as generated code would have it, written by hand: these tests need no generator."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass

import protoplane_base as base

_F = FieldDescriptorProto


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(
        name="tests/base/sample.proto", package="tests.base.sample", syntax="proto3"
    )
    message = file.message_type.add(name="Sample")
    fields: list[tuple[str, Any, dict[str, Any]]] = [
        ("wide", _F.TYPE_INT64, {}),
        ("display_name", _F.TYPE_STRING, {}),
        ("maybe", _F.TYPE_INT32, {"proto3_optional": True, "oneof_index": 1}),
        ("text", _F.TYPE_STRING, {"oneof_index": 0}),
        ("number", _F.TYPE_INT32, {"oneof_index": 0}),
        ("inner", _F.TYPE_MESSAGE, {"type_name": ".tests.base.sample.Sample"}),
        ("items", _F.TYPE_UINT32, {"label": _F.LABEL_REPEATED}),
        ("color", _F.TYPE_ENUM, {"type_name": ".tests.base.sample.Color"}),
    ]
    for number, (name, kind, options) in enumerate(fields, start=1):
        message.field.add(
            name=name, number=number, type=kind, **{"label": _F.LABEL_OPTIONAL, **options}
        )
    message.oneof_decl.add(name="choice")
    message.oneof_decl.add(name="_maybe")
    color = file.enum_type.add(name="Color")
    for number, name in enumerate(("COLOR_UNSPECIFIED", "COLOR_RED")):
        color.value.add(name=name, number=number)
    return file


Default().AddSerializedFile(_file().SerializeToString())
_Pb: Any = GetMessageClass(Default().FindMessageTypeByName("tests.base.sample.Sample"))


class Color(base.OpenEnum):
    """An open enum."""

    COLOR_UNSPECIFIED = 0
    COLOR_RED = 1


class Shade(base.ClosedEnum):
    """A closed enum with a name that Python could not have."""

    __proto_names__: ClassVar = {"None_": "None"}

    None_ = 1
    DARK = 2


class Sample(base.Message, pb=_Pb, oneofs={"choice": ("text", "number")}):
    """A bit of everything."""

    wide: base.Implicit[base.Int64] = base.field(default=0, json_name="wide")
    display_name: base.Implicit[base.String] = base.field(
        default="", json_name="displayName", proto_name="display_name", description="How to call it"
    )
    maybe: base.Int32 | None = base.field(default=None, json_name="maybe")
    text: base.String | None = base.field(default=None, json_name="text")
    number: base.Int32 | None = base.field(default=None, json_name="number")
    inner: Sample | None = base.field(default=None, json_name="inner")
    items: base.Repeated[base.UInt32] = base.field(default_factory=list, json_name="items")
    color: base.Implicit[Color] = base.field(default=Color.COLOR_UNSPECIFIED, json_name="color")

    @classmethod
    def from_pb(cls, pb: Any) -> Self:
        """Read a protobuf message."""
        return base.construct(
            cls,
            {
                "wide": pb.wide,
                "display_name": pb.display_name,
                "maybe": pb.maybe if pb.HasField("maybe") else None,
                "text": pb.text if pb.HasField("text") else None,
                "number": pb.number if pb.HasField("number") else None,
                "inner": Sample.from_pb(pb.inner) if pb.HasField("inner") else None,
                "items": list(pb.items),
                "color": _colors[pb.color],
            },
            pb,
        )

    def to_pb(self) -> Any:
        """Make a protobuf message."""
        return base.restore(
            self,
            _Pb(
                wide=self.wide,
                display_name=self.display_name,
                maybe=self.maybe,
                text=self.text,
                number=self.number,
                inner=None if self.inner is None else self.inner.to_pb(),
                items=self.items,
                color=self.color,
            ),
        )


_colors = base.NumberTable(Color)


class Sampler(base.Service):
    """A service with one method."""

    spec: ClassVar[base.ServiceSpec] = base.ServiceSpec(
        full_name="tests.base.sample.Sampler",
        component="tests/sampler",
        file="tests/base/sample.proto",
        methods={
            "Take": base.MethodSpec(
                service="tests.base.sample.Sampler",
                name="Take",
                python_name="take",
                kind=base.MethodKind.SERVER_STREAM,
                request=Sample,
                response=base.StringValue,
            )
        },
    )
