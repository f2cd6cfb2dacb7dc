"""What a host lets be started, as a TOML file says it."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protoplane_base import Code, PlaneError

VARIABLE = "PROTOPLANE_AGENTS"
"""The environment variable that names the file."""

_Count = Annotated[int, Field(ge=1)]
_Seconds = Annotated[float, Field(gt=0, le=31_536_000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AllowedLimits(_Part):
    """The most that agents may take, and what they get where they do not ask; none by default.

    Attributes:
        memory_bytes: Bytes of address space of a process.
        cpu_seconds: Seconds of CPU time of a process.
        open_files: Open files of a process.
        processes: Processes of the host's user, of all his programs together.
        file_bytes: Bytes of a file.
    """

    memory_bytes: _Count | None = None
    cpu_seconds: _Count | None = None
    open_files: _Count | None = None
    processes: _Count | None = None
    file_bytes: _Count | None = None


class AllowedKind(_Part):
    """A kind of agent.

    Attributes:
        command: The program and its first arguments.
        description: What it does, for a person.
        takes_arguments: Whether a caller may add arguments.
        environment: Variables that it always has.
        working_folder: Where it starts; an empty folder of its own by default.
    """

    command: Annotated[list[str], Field(min_length=1)]
    description: str = ""
    takes_arguments: bool = False
    environment: dict[str, str] = {}
    working_folder: Path | None = None


class AllowList(_Part):
    """What a host lets be started. Without anything in it that is nothing.

    Attributes:
        commands: Programs that callers may name, with any arguments: paths, or names that are
            looked for on the ``PATH`` of the host.
        kinds: Commands under names of their own.
        folders: Callers may let agents start in these folders and those within.
        inherit: Variables that agents have from the host.
        variables: Names of variables that callers may set; ``*`` stands for any characters.
        limits: The most that agents may take.
        timeout_s: Seconds that an agent may run where its caller does not say; any by default.
        max_timeout_s: Most seconds that a caller may ask for, and that agents get otherwise; any by
            default.
        output_bytes: Bytes of each stream that are kept where the caller does not say.
        max_output_bytes: Most that a caller may ask for.
        max_agents: Most agents at a time.
        max_ended: Most ended agents that are remembered, with what they wrote; the oldest go.
    """

    commands: list[str] = []
    kinds: dict[str, AllowedKind] = {}
    folders: list[Path] = []
    inherit: list[str] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"]
    variables: list[str] = []
    limits: AllowedLimits = AllowedLimits()
    timeout_s: _Seconds | None = None
    max_timeout_s: _Seconds | None = None
    output_bytes: Annotated[int, Field(ge=4096)] = 1_048_576
    max_output_bytes: Annotated[int, Field(ge=4096, le=2**32)] = 67_108_864
    max_agents: _Count = 64
    max_ended: _Count = 100


def read_allow_list(path: Path) -> AllowList:
    """Read an allow-list; relative paths in it are relative to its folder.

    Args:
        path: The TOML file.

    Raises:
        PlaneError: NOT_FOUND, or INVALID_ARGUMENT with what is wrong in it.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        allowed = AllowList.model_validate(data)
    except OSError as error:
        raise PlaneError(Code.NOT_FOUND, f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{path} is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{path} is no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{path} at {place or 'the top'}: {first['msg']}"
        ) from None
    return resolved(allowed, path.parent)


def resolved(allowed: AllowList, folder: Path) -> AllowList:
    """The same with the whole paths of programs and folders.

    Args:
        allowed: An allow-list.
        folder: What relative paths are relative to.

    Raises:
        PlaneError: NOT_FOUND for a program that is not there.
    """
    folder = folder.absolute()
    kinds: dict[str, AllowedKind] = {}
    for name, kind in allowed.kinds.items():
        command = [program_at(kind.command[0], folder), *kind.command[1:]]
        where = None if kind.working_folder is None else folder / kind.working_folder
        kinds[name] = kind.model_copy(update={"command": command, "working_folder": where})
    return allowed.model_copy(
        update={
            "commands": [program_at(command, folder) for command in allowed.commands],
            "kinds": kinds,
            "folders": [(folder / each).resolve() for each in allowed.folders],
        }
    )


def program_at(name: str, folder: Path) -> str:
    """The whole path of a program.

    Raises:
        PlaneError: NOT_FOUND; it is not there.
    """
    found = shutil.which(str(folder / name) if "/" in name else name)
    if found is None:
        raise PlaneError(
            Code.NOT_FOUND, f"the allow-list names {name}, and there is no such program here"
        )
    return found


def limit_of(asked: Mapping[str, int], allowed: AllowedLimits) -> dict[str, int]:
    """The limits that an agent gets.

    Args:
        asked: What its caller asks for, by name.
        allowed: The most that it may have.

    Raises:
        PlaneError: INVALID_ARGUMENT; it asks for more, or for less than 1.
    """
    limits: dict[str, int] = allowed.model_dump(exclude_none=True)
    for name, value in asked.items():
        most = limits.get(name)
        if value < 1 or (most is not None and value > most):
            so_many = "1 or more" if most is None else f"1 to {most}"
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"limits.{name} is {value}; this host lets it be {so_many}"
            )
        limits[name] = value
    return limits
