"""Files of Python code for an API, from templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from protoplane_base import GENERATED_FORMAT, VERSION
from protoplane_codegen.api import Api, Enum, Field, File, Location, Message, Service
from protoplane_codegen.errors import SchemaError
from protoplane_codegen.render.python.names import Names, allocate
from protoplane_codegen.render.python.text import call, docstring, entry, literal
from protoplane_codegen.render.python.types import Types

_PB_METHODS = frozenset({"HasField"})


def render_python(api: Api) -> dict[str, str]:
    """Render the Python code of all files to generate.

    Returns:
        Contents by path, relative to the output folder; the same for the same API.

    Raises:
        SchemaError: Two schemas would be one module, or two packages one package.
    """
    names = Names(api)
    _check_modules(api, names)
    files: dict[str, str] = {}
    packages: dict[str, list[File]] = {}
    for path in (*api.targets, *api.borrowed):
        file = api.files[path]
        if path in api.targets:
            # A borrowed schema gets no package: several sets of generated code may each have a
            # part of Google's, and Python joins parts only of folders that are no packages.
            packages.setdefault(names.files[path].package, []).append(file)
        folder = names.files[path].package.replace(".", "/")
        if file.messages or file.enums:
            files[f"{folder}/{names.files[path].models}.py"] = _Models(api, names, file).render()
        if file.services:
            module = names.files[path].services
            files[f"{folder}/{module}.py"] = _Services(api, names, file).render()
    for package, members in packages.items():
        if not any(file.messages or file.enums or file.services for file in members):
            continue
        folder = package.replace(".", "/")
        files[f"{folder}/__init__.py"] = _package(names, package, members)
        files[f"{folder}/py.typed"] = ""
    return files


def _check_modules(api: Api, names: Names) -> None:
    modules: dict[str, File] = {}
    packages: dict[str, File] = {}
    for path in api.targets:
        file, python = api.files[path], names.files[path]
        first = modules.setdefault(python.pb2, file)
        if first is not file:
            raise SchemaError(
                Location(path),
                f"this schema and {first.path} would both be the Python module {python.pb2}",
                "rename one of the two files",
            )
        first = packages.setdefault(python.package, file)
        if first.package != file.package or (first is not file and not file.package):
            raise SchemaError(
                Location(path),
                f"{_package_of(file)} and {_package_of(first)} of {first.path} would both be the "
                f"Python package {python.package}",
                "rename one of them",
            )


def _package_of(file: File) -> str:
    return f"package {file.package}" if file.package else "the schema without a package"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("protoplane_codegen.render.python"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - it renders Python, not HTML
    )
    environment.filters["docstring"] = docstring
    environment.filters["literal"] = literal
    functions: dict[str, Any] = {"call": call, "entry": entry}
    environment.globals.update(functions)
    return environment


def _render(template: str, **values: Any) -> str:
    return (
        _environment()
        .get_template(template)
        .render(version=VERSION, format=GENERATED_FORMAT, **values)
    )


def _package(names: Names, package: str, files: list[File]) -> str:
    modules: dict[str, list[str]] = {}
    for file in files:
        module = names.files[file.path]
        prefix = f"{file.package}." if file.package else ""
        models = [names.type_path(prefix + name) for name in file.declared]
        if models:
            modules[module.models] = sorted(models)
        classes = [
            name
            for service in file.services
            for name in (names.service(file, service), names.client(file, service))
        ]
        if classes:
            modules[module.services] = sorted(classes)
    exports = sorted(name for exported in modules.values() for name in exported)
    return _render(
        "package.py.j2",
        package=package,
        proto_package=files[0].package,
        files=files,
        modules=dict(sorted(modules.items())),
        exports=exports,
    )


class _Models:
    """The models module of one file."""

    def __init__(self, api: Api, names: Names, file: File) -> None:
        self._api = api
        self._names = names
        self._file = file
        self._types = Types(api, names, file, in_models=True)

    def render(self) -> str:
        enums = [
            self._enum(enum, self._names.type_path(enum.full_name)) for enum in self._file.enums
        ]
        messages = [
            self._message(message, self._names.type_path(message.full_name))
            for message in self._file.messages
        ]
        return _render(
            "models.py.j2",
            file=self._file,
            pb2=self._names.files[self._file.path].pb2,
            typed=self._file.path in self._api.targets,
            enums=enums,
            messages=messages,
            types=self._types,
        )

    def _enum(self, enum: Enum, name: str) -> dict[str, Any]:
        members = self._names.members(enum)
        return {
            "name": name,
            "enum": enum,
            "base": "ClosedEnum" if enum.closed else "OpenEnum",
            "members": [(members[value.name], value) for value in enum.values],
            "renamed": {python: proto for proto, python in members.items() if python != proto},
        }

    def _message(self, message: Message, name: str) -> dict[str, Any]:
        scope = self._names.scope(message)
        pb_type, pb_class = self._pb(message)
        return {
            "name": name,
            "message": message,
            "pb_type": pb_type,
            # A class that has to be looked up is looked up once, for the model's class.
            "pb_new": pb_class if pb_class == pb_type else "self.__pb__",
            "arguments": list(self._arguments(message, pb_class)),
            "enums": [self._enum(enum, scope[enum.path[-1]]) for enum in message.enums],
            "messages": [self._message(inner, scope[inner.name]) for inner in message.messages],
            "fields": [self._field(message, field, scope[field.name]) for field in message.fields],
            "has_presence": any(
                field.presence in ("explicit", "required") for field in message.fields
            ),
            "hides_has": any(field.name in _PB_METHODS for field in message.fields),
        }

    def _pb(self, message: Message) -> tuple[str, str]:
        """Annotation and expression of the protobuf class."""
        from keyword import iskeyword

        # The modules of Google's wheel have no types, so these are looked up at run time too.
        typed = self._file.path in self._api.targets
        plain = typed and not any(iskeyword(name) or name.startswith("__") for name in message.path)
        if plain and message.path[0] != "DESCRIPTOR":
            path = "_pb2." + ".".join(message.path)
            return path, path
        return "_typing.Any", f"_base.pb_class({literal(message.full_name)})"

    def _arguments(self, message: Message, pb_class: str) -> Iterator[str]:
        scope = self._names.scope(message)
        yield f"pb={pb_class}"
        if message.oneofs:
            oneofs = {
                oneof: tuple(scope[f.name] for f in message.fields if f.oneof == oneof)
                for oneof in message.oneofs
            }
            yield f"oneofs={literal(oneofs)}"
        if message.event is not None:
            renamed = tuple(
                (field.name, scope[field.name])
                for field in message.fields
                if scope[field.name] != field.name
            )
            template = literal(message.event.key) + (f", {literal(renamed)}" if renamed else "")
            durable = ", durable=True" if message.event.durable else ""
            yield f"event=_base.EventSpec(_base.KeyTemplate({template}){durable})"
        if message.full_name in self._api.ruled:
            yield 'rules="whole"' if message.checked else 'rules="fields"'

    def _field(self, message: Message, field: Field, name: str) -> dict[str, Any]:
        arguments = [self._types.default(message, field), f"json_name={literal(field.json_name)}"]
        if field.name not in (field.json_name, name):
            arguments.append(f"proto_name={literal(field.name)}")
        doc = _with_default(field)
        if doc:
            arguments.append(f"description={literal(doc)}")
        if field.deprecated:
            arguments.append("deprecated=True")
        if field.constraints and field.presence in ("implicit", "repeated", "map"):
            arguments.append("checked=True")
        readable = field.name.isidentifier() and not _is_odd(field.name)
        pb = f"pb.{field.name}" if readable else f'getattr(pb, "{field.name}")'
        return {
            "name": name,
            "field": field,
            "annotation": self._types.annotation(message, field),
            "arguments": [argument for argument in arguments if argument],
            "from_pb": self._types.from_pb(field, pb),
            "to_pb": self._types.to_pb(field, f"v[{literal(name)}]"),
            "keyword": readable,
        }


class _Services:
    """The services module of one file."""

    def __init__(self, api: Api, names: Names, file: File) -> None:
        self._names = names
        self._file = file
        self._types = Types(api, names, file, in_models=False)

    def render(self) -> str:
        events = [
            self._types.path(message.full_name)
            for message in self._file.all_messages()
            if message.event is not None
        ]
        specs = allocate(
            {
                f"{service.name}.{method.name}": f"{service.name}_{method.name}"
                for service in self._file.services
                for method in service.methods
            }
        )
        services = [self._service(service, specs) for service in self._file.services]
        return _render(
            "services.py.j2",
            file=self._file,
            services=services,
            events=events,
            types=self._types,
        )

    def _service(self, service: Service, specs: Mapping[str, str]) -> dict[str, Any]:
        python_names = self._names.methods(service)
        return {
            "service": service,
            "name": self._names.service(self._file, service),
            "client": self._names.client(self._file, service),
            "methods": [
                {
                    "method": method,
                    "name": python_names[method.name],
                    "spec": f"_{specs[f'{service.name}.{method.name}']}",
                    "kind": _KINDS[method.client_streaming, method.server_streaming],
                    "request": self._types.value(method.request),
                    "response": self._types.value(method.response),
                    "request_codec": self._types.codec(method.request),
                    "response_codec": self._types.codec(method.response),
                }
                for method in service.methods
            ],
        }


_KINDS = {
    (False, False): "UNARY",
    (False, True): "SERVER_STREAM",
    (True, False): "CLIENT_STREAM",
    (True, True): "BIDI_STREAM",
}


def _is_odd(name: str) -> bool:
    from keyword import iskeyword

    # Inside a class body two leading underscores would be mangled.
    return iskeyword(name) or name.startswith("__") or name == "self"


def _with_default(field: Field) -> str:
    if field.default is None:
        return field.doc
    default = field.default
    text = str(default).lower() if isinstance(default, bool) else f"{default!r}".strip("'")
    return "\n\n".join(filter(None, [field.doc, f"Stands for {text} while absent."]))


def package_folder(api: Api, file: File) -> str:
    """Folder of the Python package that a file belongs to, relative to the output folder."""
    return Names(api).files[file.path].package.replace(".", "/")
