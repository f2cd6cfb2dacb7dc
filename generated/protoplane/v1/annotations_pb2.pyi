from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Retention(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RETENTION_UNSPECIFIED: _ClassVar[Retention]
    RETENTION_EPHEMERAL: _ClassVar[Retention]
    RETENTION_DURABLE: _ClassVar[Retention]
RETENTION_UNSPECIFIED: Retention
RETENTION_EPHEMERAL: Retention
RETENTION_DURABLE: Retention
EVENT_FIELD_NUMBER: _ClassVar[int]
event: _descriptor.FieldDescriptor
COMPONENT_FIELD_NUMBER: _ClassVar[int]
component: _descriptor.FieldDescriptor

class EventOptions(_message.Message):
    __slots__ = ("key", "retention")
    KEY_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    key: str
    retention: Retention
    def __init__(self, key: _Optional[str] = ..., retention: _Optional[_Union[Retention, str]] = ...) -> None: ...

class ComponentOptions(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...
