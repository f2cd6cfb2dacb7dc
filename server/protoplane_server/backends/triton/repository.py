"""A folder with a model as it lies in Triton's repository, as parameters of a load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from google.protobuf import json_format, text_format

from protoplane_base import Code, PlaneError
from protoplane_server.backends.triton.schema import config_messages, messages

CONFIG = "config.pbtxt"


def load_parameters(path: Path) -> dict[str, Any]:
    """Parameters that bring a model's configuration and files with them; reads from disk.

    Args:
        path: A folder with ``config.pbtxt`` and a folder for each version.

    Raises:
        PlaneError: INVALID_ARGUMENT; the folder holds no model.
    """
    try:
        config = config_messages.ModelConfig()
        text_format.Parse((path / CONFIG).read_text(), config)
        files = sorted(each for each in path.rglob("*") if each.is_file() and each.name != CONFIG)
        parameters = {"config": _parameter(string_param=json_format.MessageToJson(config))}
        for file in files:
            relative = file.relative_to(path)
            if "__pycache__" not in relative.parts:
                name = f"file:{relative.as_posix()}"
                parameters[name] = _parameter(bytes_param=file.read_bytes())
    except OSError as error:
        # Its own words name paths of this machine, which are no business of a caller.
        raise _no_model(path, _unread(path, error)) from error
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise _no_model(path, f"{CONFIG} cannot be read: {error}") from error
    return parameters


def _unread(path: Path, error: OSError) -> str:
    if not path.is_dir():
        return "it is a file"
    if isinstance(error, FileNotFoundError):
        return f"it has no {CONFIG}"
    name = Path(str(error.filename)).name if error.filename else "a file"
    return f"{name} cannot be read"


def _no_model(path: Path, why: str) -> PlaneError:
    return PlaneError(
        Code.INVALID_ARGUMENT,
        f"{path.name!r} holds no model of Triton, which is a folder with {CONFIG} and a folder "
        f"for each version: {why}",
    )


def _parameter(**value: Any) -> Any:
    return messages.ModelRepositoryParameter(**value)


def as_parameters(settings: dict[str, str]) -> dict[str, Any]:
    """Settings of a load, of which Triton has one: ``config``, a configuration as JSON.

    Raises:
        PlaneError: INVALID_ARGUMENT for another, and for a configuration that is none.
    """
    for name, value in settings.items():
        if name != "config":
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"parameter {name!r} is unknown; Triton takes 'config', the configuration as JSON",
            )
        # Triton itself would say that there is no such model.
        try:
            given: object = json.loads(value)
            if not isinstance(given, dict):
                raise TypeError("it is no object")
            fields = cast("dict[str, Any]", given)
            json_format.ParseDict(fields, config_messages.ModelConfig(), ignore_unknown_fields=True)
        except (TypeError, ValueError, RecursionError, json_format.ParseError) as error:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"parameter 'config' is no configuration of a model as JSON: {error}",
            ) from error
    return {name: _parameter(string_param=value) for name, value in settings.items()}
