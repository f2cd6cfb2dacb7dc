"""Python names for what a schema names.

The rule a reader has to know is one: where Python or Protoplane cannot have a name, it gets an
underscore behind it, and underscores in front of it are dropped. JSON and the wire keep the name.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from protoplane_base import Client, Message, OpenEnum, ProtoEnum, Service
from protoplane_codegen.api import Api, Enum, File
from protoplane_codegen.api import Message as MessageModel
from protoplane_codegen.api import Service as ServiceModel

# Builtins that generated classes use in their bodies.
_USED_BUILTINS = frozenset({"classmethod", "dict", "list"})
_ON_MESSAGE = frozenset(dir(Message)) | _USED_BUILTINS
_ON_ENUM = (
    frozenset(dir(int))
    | frozenset(vars(OpenEnum))
    | frozenset(vars(ProtoEnum))
    | {
        "mro",
        "name",
        "value",
    }
)
_ON_SERVICE = frozenset(dir(Service)) | frozenset(dir(Client)) | {"spec"}
# A package of one of these names would hide a module that everything else stands on.
_INSTALLED = frozenset(
    [
        *("annotated_types", "click", "google", "grpc", "grpc_tools", "httpx", "jinja2"),
        *("pydantic", "pydantic_core", "rich", "starlette", "typing_extensions", "uvicorn"),
    ]
)
_OURS = re.compile(r"protoplane_\w+")
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+|[0-9]+")


def identifier(name: str, reserved: Iterable[str] = ()) -> str:
    """A Python identifier for ``name`` that is neither a keyword nor in ``reserved``."""
    bare = name.lstrip("_") or "_"
    if not bare.isidentifier():
        bare = re.sub(r"\W", "_", bare)
        bare = bare if bare.isidentifier() and not bare.startswith("_") else f"n{bare}"
    if bare == "_":
        bare = "n_"
    taken = keyword.iskeyword(bare) or bare in reserved or bare != name
    return f"{bare}_" if taken and not bare.endswith("_") else bare


def allocate(wanted: Mapping[str, str], reserved: Iterable[str] = ()) -> dict[str, str]:
    """Different identifiers for the names of one scope.

    Args:
        wanted: The name that each key would like to have.
        reserved: Identifiers that none may have.
    """
    reserved = frozenset(reserved)
    # A name that can stay as it is comes first, so that no changed one takes it away.
    ranked = sorted(wanted, key=lambda key: identifier(wanted[key], reserved) != wanted[key])
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    for key in ranked:
        name = identifier(wanted[key], reserved)
        while name in taken:
            name += "_"
        taken.add(name)
        chosen[key] = name
    return chosen


def snake(name: str) -> str:
    """``ListStyles`` as ``list_styles``."""
    return "_".join(word.lower() for word in _WORD.findall(name)) or name.lower()


def _top(component: str) -> str:
    name = identifier(component)
    hides = name in sys.stdlib_module_names or name in _INSTALLED or _OURS.fullmatch(name)
    return f"{name}_" if hides else name


def package_module(package: str) -> str:
    """Python package of a proto package."""
    first, *rest = package.split(".")
    return ".".join([_top(first), *map(identifier, rest)])


def file_module(path: str) -> str:
    """Dotted name that protoc's Python plugin would give a file, made importable."""
    stem = path.removesuffix(".proto").replace("-", "_").replace(".", "/")
    first, *rest = stem.split("/")
    return ".".join([_top(first) if rest else identifier(first), *map(identifier, rest)])


def pb2_module(file: File) -> str:
    """Module that protoc's Python plugin makes of a file."""
    if file.package == "google" or file.package.startswith("google."):
        return file.path.removesuffix(".proto").replace("/", ".") + "_pb2"
    return file_module(file.path) + "_pb2"


@dataclass(frozen=True)
class FileNames:
    """Python names of one file.

    Attributes:
        package: Python package that exports what the file declares.
        pb2: Module of protoc's own Python code.
        models: Module of the models, without its package.
        services: Module of the services, without its package.
    """

    package: str
    pb2: str
    models: str
    services: str


class Names:
    """Python names of a whole API, given so that no two of one scope are equal.

    Args:
        api: The API.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._scopes: dict[str, Mapping[str, str]] = {}

    @cached_property
    def _sorted_files(self) -> tuple[File, ...]:
        """Files by path: a request may have them in any order that has dependencies first."""
        return tuple(file for _, file in sorted(self._api.files.items()))

    @cached_property
    def files(self) -> Mapping[str, FileNames]:
        """Names of each file by its path."""
        result: dict[str, FileNames] = {}
        taken: set[str] = set()
        for file in self._sorted_files:
            module = file_module(file.path)
            package = package_module(file.package) if file.package else module
            folder, _, stem = module.rpartition(".")
            name = stem if folder == package or not file.package else module.replace(".", "_")
            if file.package.startswith("google."):
                name = file.path.removesuffix(".proto").rpartition("/")[2]
            while f"{package}.{name}" in taken:
                name += "_"
            taken.add(f"{package}.{name}")
            result[file.path] = FileNames(
                package, pb2_module(file), f"{name}_models", f"{name}_services"
            )
        return result

    @cached_property
    def _top_level(self) -> Mapping[str, Mapping[str, str]]:
        """Class names in each package, by name in the schema; clients by `_client_key`."""
        wanted: dict[str, dict[str, str]] = {}
        files = self._sorted_files
        for file in files:
            names = wanted.setdefault(self.files[file.path].package, {})
            for name in file.declared:
                names[name] = name
            for service in file.services:
                names[service.name] = service.name
        for file in files:
            for service in file.services:
                # After all declared names, so that none of them gives way to a client.
                stem = service.name.removesuffix("Service")
                wanted[self.files[file.path].package][_client_key(service)] = f"{stem}Client"
        reserved = _USED_BUILTINS | {"annotations"}
        return {package: allocate(names, reserved) for package, names in wanted.items()}

    def service(self, file: File, service: ServiceModel) -> str:
        """Class name of a service's base."""
        return self._top_level[self.files[file.path].package][service.name]

    def client(self, file: File, service: ServiceModel) -> str:
        """Class name of a service's client."""
        return self._top_level[self.files[file.path].package][_client_key(service)]

    def scope(self, message: MessageModel) -> Mapping[str, str]:
        """Identifiers of a message's fields and nested types, by their names in the schema."""
        found = self._scopes.get(message.full_name)
        if found is None:
            names = [
                *(field.name for field in message.fields),
                *(nested.name for nested in message.messages),
                *(enum.path[-1] for enum in message.enums),
            ]
            found = allocate({name: name for name in names}, _ON_MESSAGE)
            self._scopes[message.full_name] = found
        return found

    def members(self, enum: Enum) -> Mapping[str, str]:
        """Member names of an enum, by their names in the schema."""
        return allocate({value.name: value.name for value in enum.values}, _ON_ENUM)

    def methods(self, service: ServiceModel) -> Mapping[str, str]:
        """Method names of a service, by rpc name."""
        return allocate({m.name: snake(m.name) for m in service.methods}, _ON_SERVICE)

    def type_path(self, full_name: str) -> str:
        """Dotted class path of a message or enum within its models module."""
        file, declared = self._api.messages.get(full_name) or self._api.enums[full_name]
        first, *rest = declared.path
        parts = [self._top_level[self.files[file.path].package][first]]
        outer = f"{file.package}.{first}" if file.package else first
        for name in rest:
            parts.append(self.scope(self._api.messages[outer][1])[name])
            outer = f"{outer}.{name}"
        return ".".join(parts)


def _client_key(service: ServiceModel) -> str:
    # No name in a schema has a space.
    return f"client of {service.name}"
