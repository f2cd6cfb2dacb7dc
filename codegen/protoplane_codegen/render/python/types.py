"""How a field's type is written in Python, and how its value crosses to protobuf and back."""

from __future__ import annotations

from dataclasses import dataclass

from protoplane_codegen.api import (
    Api,
    Constraints,
    ElementType,
    EnumRef,
    Field,
    File,
    Message,
    MessageRef,
    Scalar,
)
from protoplane_codegen.render.python.names import Names

_SCALAR_ALIAS = {
    "double": "Double",
    "float": "Float",
    "int32": "Int32",
    "int64": "Int64",
    "uint32": "UInt32",
    "uint64": "UInt64",
    "bool": "Bool",
    "string": "String",
    "bytes": "Bytes",
}
_SCALAR_DEFAULT = {
    "double": "0.0",
    "float": "0.0",
    "int32": "0",
    "int64": "0",
    "uint32": "0",
    "uint64": "0",
    "bool": "False",
    "string": '""',
    "bytes": 'b""',
}
_WELL_KNOWN_CLASSES = {
    f"google.protobuf.{name}": f"_base.{name}"
    for name in ("Timestamp", "Duration", "FieldMask", "Any", "Empty")
}
# Types whose Python value is a plain one: annotation and codec.
_PLAIN = {
    "google.protobuf.Struct": ("_base.JsonObject", "_base.Struct"),
    "google.protobuf.Value": ("_base.JsonValue", "_base.Value"),
    "google.protobuf.ListValue": ("_base.JsonArray", "_base.ListValue"),
    **{
        f"google.protobuf.{alias}Value": (f"_base.{alias}", f"_base.{alias}Value")
        for alias in _SCALAR_ALIAS.values()
    },
}
_NULL_VALUE = "google.protobuf.NullValue"
_VALUE = MessageRef("google.protobuf.Value")


@dataclass(frozen=True, slots=True)
class Module:
    """A module that is imported under a name of its own."""

    name: str
    alias: str


class Types:
    """Spells the types that one generated module mentions, and notes what it must import.

    Args:
        api: The API.
        names: Its Python names.
        file: File that the module is made from.
        in_models: Whether the module is the file's models module, where its own types need no
            prefix.
    """

    def __init__(self, api: Api, names: Names, file: File, *, in_models: bool) -> None:
        self._api = api
        self._names = names
        self._file = file
        self._in_models = in_models
        self._modules: dict[str, str] = {}
        self._aliases: dict[str, str] = {}
        self._tables: dict[str, str] = {}

    @property
    def modules(self) -> tuple[Module, ...]:
        """Modules of other types, by name."""
        return tuple(Module(name, alias) for name, alias in sorted(self._modules.items()))

    @property
    def aliases(self) -> tuple[tuple[str, str], ...]:
        """Second names of classes that a class hides by a name of its own: alias and class."""
        return tuple(sorted(self._aliases.items()))

    @property
    def tables(self) -> tuple[tuple[str, str], ...]:
        """Tables of enum members by number: name and enum."""
        return tuple(sorted(self._tables.items()))

    def path(self, full_name: str, *, within: Message | None = None) -> str:
        """Expression for a class.

        Args:
            full_name: Its name in the schema.
            within: Message in whose class body the expression stands.
        """
        if full_name == _NULL_VALUE:
            return "_base.NullValue"
        if full_name in _WELL_KNOWN_CLASSES:
            return _WELL_KNOWN_CLASSES[full_name]
        owner = (self._api.messages.get(full_name) or self._api.enums[full_name])[0]
        path = self._names.type_path(full_name)
        if self._in_models and owner.path == self._file.path:
            root = path.partition(".")[0]
            if within is not None and root in self._names.scope(within).values():
                self._aliases[f"_{root}"] = root
                return f"_{path}"
            return path
        files = self._names.files[owner.path]
        return f"{self._module(f'{files.package}.{files.models}')}.{path}"

    def codec(self, ref: MessageRef) -> str:
        """Expression for the codec of a message type."""
        if ref.full_name in _PLAIN:
            return _PLAIN[ref.full_name][1]
        return self.path(ref.full_name)

    def value(
        self,
        type_: ElementType,
        constraints: Constraints | None = None,
        *,
        within: Message | None = None,
    ) -> str:
        """Annotation of one value."""
        if isinstance(type_, Scalar):
            return _bounded(f"_base.{_SCALAR_ALIAS[type_.name]}", constraints)
        if isinstance(type_, MessageRef) and type_.full_name in _PLAIN:
            return _PLAIN[type_.full_name][0]
        return self.path(type_.full_name, within=within)

    def annotation(self, message: Message, field: Field) -> str:
        """Annotation of a field."""
        if field.presence == "repeated":
            item = self.value(field.type, field.element_constraints, within=message)
            return _bounded(f"_base.Repeated[{item}]", field.constraints)
        value = self.value(
            field.type, None if field.presence == "map" else field.constraints, within=message
        )
        if field.presence == "map":
            key = f"_base.{_SCALAR_ALIAS[field.key.name]}" if field.key else ""
            return _bounded(f"_base.Map[{key}, {value}]", field.constraints)
        if field.type == _VALUE:
            return "_base.OptionalValue"
        if field.type == EnumRef(_NULL_VALUE) and field.presence == "explicit":
            return "_base.OptionalNull"
        if field.presence == "explicit":
            return f"{value} | None"
        return f"_base.Implicit[{value}]" if field.presence == "implicit" else value

    def default(self, message: Message, field: Field) -> str:
        """Arguments that give a field its default; none for a required one."""
        if field.presence == "repeated":
            return "default_factory=list"
        if field.presence == "map":
            return "default_factory=dict"
        if field.presence == "explicit":
            return "default=None"
        if field.presence == "required":
            return ""
        if isinstance(field.type, Scalar):
            return f"default={_SCALAR_DEFAULT[field.type.name]}"
        zero = self._zero(field.type.full_name)
        # A nested enum may stand below, so it is looked up when a default is made.
        return f"default_factory=lambda: {zero}" if zero.count(".") != 1 else f"default={zero}"

    def _zero(self, full_name: str) -> str:
        if full_name == _NULL_VALUE:
            return "_base.NullValue.NULL_VALUE"
        enum = self._api.enums[full_name][1]
        member = self._names.members(enum)[enum.values[0].name]
        return f"{self.path(full_name)}.{member}"

    def from_pb(self, field: Field, pb: str) -> str:
        """Expression for a field's Python value; ``pb`` is the expression for protobuf's."""
        one = self._element_from_pb(field.type, "x")
        if field.presence == "repeated":
            return f"{pb}[:]" if one == "x" else f"[{one} for x in {pb}]"
        if field.presence == "map":
            return f"dict({pb})" if one == "x" else f"{{k: {one} for k, x in {pb}.items()}}"
        value = self._element_from_pb(field.type, pb)
        if field.presence == "implicit":
            return value
        if field.type == _VALUE:
            value = f"_base.Value.from_optional_pb({pb})"
        return f'{value} if has("{field.name}") else None'

    def _element_from_pb(self, type_: ElementType, pb: str) -> str:
        if isinstance(type_, Scalar):
            return pb
        if isinstance(type_, EnumRef):
            return f"{self._table(type_.full_name)}[{pb}]"
        return f"{self.codec(type_)}.from_pb({pb})"

    def to_pb(self, field: Field, value: str) -> str:
        """Expression for protobuf's value of a field; ``value`` is the Python value."""
        if not isinstance(field.type, MessageRef):
            return value
        one = self._element_to_pb(field.type, "x")
        if field.presence == "repeated":
            return f"[{one} for x in {value}]"
        if field.presence == "map":
            return f"{{k: {one} for k, x in {value}.items()}}"
        return f"None if (x := {value}) is None else {one}"

    def _element_to_pb(self, type_: MessageRef, value: str) -> str:
        if type_.full_name in _PLAIN:
            return f"{_PLAIN[type_.full_name][1]}.to_pb({value})"
        return f"{value}.to_pb()"

    def _table(self, full_name: str) -> str:
        path = self.path(full_name)
        name = "_number_" + path.replace(".", "_").lstrip("_")
        self._tables[name] = path
        return name

    def _module(self, name: str) -> str:
        if name not in self._modules:
            alias = "_" + name.rpartition(".")[2]
            while alias in self._modules.values():
                alias += "_"
            self._modules[name] = alias
        return self._modules[name]


def _bounded(annotation: str, constraints: Constraints | None) -> str:
    if not constraints:
        return annotation
    arguments = ", ".join(f"{name}={value!r}" for name, value in constraints.items())
    return f"_typing.Annotated[{annotation}, _base.Bounds({arguments})]"
