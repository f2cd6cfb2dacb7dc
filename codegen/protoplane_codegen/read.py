"""From a plugin request to the `Api` model.

The request's files go into a descriptor pool of their own, which resolves the features of editions
(presence, closed enums, delimited encoding); what it says is copied into immutable values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    FileDescriptor,
    OneofDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from protoplane_base import KeyTemplate
from protoplane_codegen.api import (
    Api,
    Default,
    ElementType,
    Enum,
    EnumRef,
    EnumValue,
    Event,
    Field,
    File,
    Message,
    MessageRef,
    Method,
    Presence,
    Scalar,
    ScalarName,
    Service,
)
from protoplane_codegen.comments import Comments
from protoplane_codegen.constraints import read_constraints
from protoplane_codegen.errors import SchemaError
from protoplane_codegen.options import Options

_SCALARS: dict[int, ScalarName] = {
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_SINT64: "int64",
    FieldDescriptor.TYPE_SFIXED64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_FIXED64: "uint64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_SINT32: "int32",
    FieldDescriptor.TYPE_SFIXED32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_FIXED32: "uint32",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
}
_COMPONENT = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")

# Field numbers of descriptor.proto, which make up the paths of source code info.
_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE = 4, 5, 6
_MESSAGE_FIELD, _MESSAGE_NESTED, _MESSAGE_ENUM = 2, 3, 4
_ENUM_VALUE, _SERVICE_METHOD = 2, 2

_Path = tuple[int, ...]


def read(request: CodeGeneratorRequest) -> Api:
    """Build the model of a request's API.

    Raises:
        SchemaError: An option of Protoplane's own does not fit where it stands.
    """
    pool = DescriptorPool()
    for proto in request.proto_file:
        pool.AddSerializedFile(proto.SerializeToString())
    # For the files to generate, this list also has options that are kept in source only.
    sources = {proto.name: proto for proto in request.source_file_descriptors}
    files = {
        proto.name: _FileReader(pool, sources.get(proto.name, proto)).read()
        for proto in request.proto_file
    }
    messages = {m.full_name: (f, m) for f in files.values() for m in f.all_messages()}
    enums = {e.full_name: (f, e) for f in files.values() for e in f.all_enums()}
    # protoc and buf name them in orders of their own; the output is to be the same.
    targets = tuple(sorted(request.file_to_generate))
    homes = {name: file.path for name, (file, _) in (*messages.items(), *enums.items())}
    return Api(files, targets, _borrowed(files, targets, homes), messages, enums)


def _borrowed(
    files: Mapping[str, File], targets: Sequence[str], homes: Mapping[str, str]
) -> tuple[str, ...]:
    """Google's common schemas (not the well-known types) whose messages and enums are used."""
    found: set[str] = set()
    pending = list(targets)
    while pending:
        for name in _used(files[pending.pop()]):
            path = homes[name]
            package = files[path].package
            common = package.startswith("google.") and package != "google.protobuf"
            if common and path not in found and path not in targets:
                found.add(path)
                pending.append(path)
    return tuple(sorted(found))


def _used(file: File) -> Iterator[str]:
    for message in file.all_messages():
        for field in message.fields:
            if not isinstance(field.type, Scalar):
                yield field.type.full_name
    for service in file.services:
        for method in service.methods:
            yield method.request.full_name
            yield method.response.full_name


class _FileReader:
    def __init__(self, pool: DescriptorPool, proto: FileDescriptorProto) -> None:
        self._file: FileDescriptor = pool.FindFileByName(proto.name)
        self._proto = proto
        self._options = Options(pool)
        self._comments = Comments(proto)

    def read(self) -> File:
        file = self._file
        return File(
            path=file.name,
            package=file.package,
            messages=tuple(
                self._message(file.message_types_by_name[m.name], (), (_FILE_MESSAGE, i))
                for i, m in enumerate(self._proto.message_type)
            ),
            enums=tuple(
                self._enum(file.enum_types_by_name[e.name], (), (_FILE_ENUM, i))
                for i, e in enumerate(self._proto.enum_type)
            ),
            services=tuple(
                self._service(file.services_by_name[s.name], (_FILE_SERVICE, i))
                for i, s in enumerate(self._proto.service)
            ),
            doc=self._comments.file_doc(),
        )

    def _message(self, message: Descriptor, outer: tuple[str, ...], at: _Path) -> Message:
        path = (*outer, message.name)
        options = message.GetOptions()
        fields: list[Field] = []
        checked = self._options.extension(options, "buf.validate.message") is not None
        for index, descriptor in enumerate(message.fields):
            field, complete = self._field(descriptor, (*at, _MESSAGE_FIELD, index))
            fields.append(field)
            checked = checked or not complete
        oneofs = [oneof for oneof in message.oneofs if not _is_synthetic(oneof)]
        checked = checked or any(
            self._options.extension(oneof.GetOptions(), "buf.validate.oneof") for oneof in oneofs
        )
        nested = [
            (nested, (*at, _MESSAGE_NESTED, index))
            for index, nested in enumerate(message.nested_types)
            if not nested.GetOptions().map_entry
        ]
        read = Message(
            full_name=message.full_name,
            path=path,
            fields=tuple(fields),
            oneofs=tuple(oneof.name for oneof in oneofs),
            messages=tuple(self._message(n, path, where) for n, where in nested),
            enums=tuple(
                self._enum(enum, path, (*at, _MESSAGE_ENUM, index))
                for index, enum in enumerate(message.enum_types)
            ),
            location=self._comments.location(at),
            event=self._options.event(options),
            checked=checked,
            doc=self._comments.doc(at),
            deprecated=options.deprecated,
        )
        if read.event is not None:
            self._check_event(read, read.event)
        return read

    def _check_event(self, message: Message, event: Event) -> None:
        def fail(fault: str, remedy: str) -> SchemaError:
            return SchemaError(
                message.location, f"the key {event.key!r} of event {message.full_name}: {fault}",
                remedy,
            )  # fmt: skip

        template = KeyTemplate(event.key)
        fault = template.fault()
        if fault is not None:
            raise fail(fault, "write it as in forge/captions/{request_id}")
        fields = {field.name: field for field in message.fields}
        for name in template.placeholders:
            if name not in fields:
                known = ", ".join(fields) or "none"
                raise fail(f"{{{name}}} names no field", f"its fields are: {known}")
            field = fields[name]
            singular = field.presence in ("implicit", "explicit", "required")
            if not singular or isinstance(field.type, MessageRef) or field.type == Scalar("bytes"):
                raise fail(
                    f"{{{name}}} is no single scalar or enum", "name a field that is one segment"
                )

    def _field(self, field: FieldDescriptor, at: _Path) -> tuple[Field, bool]:
        presence, value, key = _presence(field), field, None
        if presence == "map":
            assert field.message_type is not None, "a map has entries"
            entry = field.message_type.fields_by_name
            value, key = entry["value"], _type(entry["key"])
        type_ = _type(value)
        oneof = field.containing_oneof
        rules = self._options.extension(field.GetOptions(), "buf.validate.field")
        constraints, element_constraints, complete = read_constraints(rules, type_, presence)
        location = self._comments.location(at)
        return (
            Field(
                name=field.name,
                json_name=field.json_name,
                number=field.number,
                type=type_,
                key=key if isinstance(key, Scalar) else None,
                presence=presence,
                oneof=oneof.name if oneof is not None and not _is_synthetic(oneof) else "",
                default=_default(field),
                constraints=constraints,
                element_constraints=element_constraints,
                doc=self._comments.doc(at),
                deprecated=field.GetOptions().deprecated,
                location=location,
            ),
            complete,
        )

    def _enum(self, enum: EnumDescriptor, outer: tuple[str, ...], at: _Path) -> Enum:
        return Enum(
            full_name=enum.full_name,
            path=(*outer, enum.name),
            values=tuple(
                EnumValue(
                    name=value.name,
                    number=value.number,
                    doc=self._comments.doc((*at, _ENUM_VALUE, index)),
                    deprecated=value.GetOptions().deprecated,
                )
                for index, value in enumerate(enum.values)
            ),
            closed=enum.is_closed,
            location=self._comments.location(at),
            doc=self._comments.doc(at),
            deprecated=enum.GetOptions().deprecated,
        )

    def _service(self, service: ServiceDescriptor, at: _Path) -> Service:
        component = self._options.component(service.GetOptions())
        location = self._comments.location(at)
        if component and not _COMPONENT.fullmatch(component):
            raise SchemaError(
                location,
                f"{component!r} is no component name",
                "a name is a path of lower-case segments, for example forge/captioner",
            )
        methods: list[Method] = []
        for index, method in enumerate(service.methods):
            where = (*at, _SERVICE_METHOD, index)
            options = method.GetOptions()
            methods.append(
                Method(
                    name=method.name,
                    request=MessageRef(method.input_type.full_name),
                    response=MessageRef(method.output_type.full_name),
                    client_streaming=method.client_streaming,
                    server_streaming=method.server_streaming,
                    location=self._comments.location(where),
                    idempotency=_IDEMPOTENCY.get(options.idempotency_level, "unknown"),
                    http=self._options.http(options),
                    doc=self._comments.doc(where),
                    deprecated=options.deprecated,
                )
            )
        return Service(
            name=service.name,
            full_name=service.full_name,
            methods=tuple(methods),
            location=location,
            component=component,
            doc=self._comments.doc(at),
            deprecated=service.GetOptions().deprecated,
        )


_IDEMPOTENCY = {1: "no_side_effects", 2: "idempotent"}


def _presence(field: FieldDescriptor) -> Presence:
    if field.is_required:
        return "required"
    if field.is_repeated:
        entry = field.message_type
        return "map" if entry is not None and entry.GetOptions().map_entry else "repeated"
    return "explicit" if field.has_presence else "implicit"


def _type(field: FieldDescriptor) -> ElementType:
    if field.message_type is not None:
        return MessageRef(field.message_type.full_name)
    if field.enum_type is not None:
        return EnumRef(field.enum_type.full_name)
    return Scalar(_SCALARS[field.type])


def _default(field: FieldDescriptor) -> Default:
    if not field.has_default_value:
        return None
    if field.enum_type is not None:
        return field.enum_type.values_by_number[field.default_value].name
    default: Default = field.default_value
    return default


def _is_synthetic(oneof: OneofDescriptor) -> bool:
    # protoc makes a oneof of one member for proto3's ``optional``, and names it so.
    fields: Sequence[FieldDescriptor] = oneof.fields
    return len(fields) == 1 and oneof.name.lstrip("X") == f"_{fields[0].name}"
