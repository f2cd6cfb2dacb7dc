import datetime

from google.api import annotations_pb2 as _annotations_pb2  # type: ignore[import-untyped, unused-ignore]
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from protoplane.v1 import annotations_pb2 as _annotations_pb2_1
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Style(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STYLE_UNSPECIFIED: _ClassVar[Style]
    STYLE_PLAIN: _ClassVar[Style]
    STYLE_VIVID: _ClassVar[Style]
STYLE_UNSPECIFIED: Style
STYLE_PLAIN: Style
STYLE_VIVID: Style

class CaptionRequest(_message.Message):
    __slots__ = ("prompt", "max_words", "style", "seed")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_WORDS_FIELD_NUMBER: _ClassVar[int]
    STYLE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    max_words: int
    style: Style
    seed: int
    def __init__(self, prompt: _Optional[str] = ..., max_words: _Optional[int] = ..., style: _Optional[_Union[Style, str]] = ..., seed: _Optional[int] = ...) -> None: ...

class CaptionChunk(_message.Message):
    __slots__ = ("text", "index")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    text: str
    index: int
    def __init__(self, text: _Optional[str] = ..., index: _Optional[int] = ...) -> None: ...

class CaptionFinished(_message.Message):
    __slots__ = ("request_id", "words", "finished_at")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    words: int
    finished_at: _timestamp_pb2.Timestamp
    def __init__(self, request_id: _Optional[str] = ..., words: _Optional[int] = ..., finished_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ...) -> None: ...

class ListStylesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListStylesResponse(_message.Message):
    __slots__ = ("styles",)
    STYLES_FIELD_NUMBER: _ClassVar[int]
    styles: _containers.RepeatedScalarFieldContainer[Style]
    def __init__(self, styles: _Optional[_Iterable[_Union[Style, str]]] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class CollectResponse(_message.Message):
    __slots__ = ("text", "chunks")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    text: str
    chunks: int
    def __init__(self, text: _Optional[str] = ..., chunks: _Optional[int] = ...) -> None: ...

class ConverseRequest(_message.Message):
    __slots__ = ("line",)
    LINE_FIELD_NUMBER: _ClassVar[int]
    line: str
    def __init__(self, line: _Optional[str] = ...) -> None: ...

class ConverseResponse(_message.Message):
    __slots__ = ("line",)
    LINE_FIELD_NUMBER: _ClassVar[int]
    line: str
    def __init__(self, line: _Optional[str] = ...) -> None: ...
