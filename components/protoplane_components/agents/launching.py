"""From what a caller asks for to what is started: pure but for looking at folders."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from protoplane.agents.v1 import AgentSpec, Lifetime, Limits, Overflow
from protoplane_base import Code, Duration, PlaneError
from protoplane_components.agents.allowlist import AllowedKind, AllowList, limit_of
from protoplane_components.agents.supervisor import LaunchSpec

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VARIABLE = re.compile(r"[^=\0]+")
_GRACE_S, _MAX_GRACE_S = 5.0, 3600.0
_MAX_WORDS_BYTES = 131_072


@dataclass(frozen=True, slots=True)
class Launch:
    """An agent that may be started.

    Attributes:
        spec: What its caller is told that it was started with.
        process: What its supervisor is given; its folder is empty where it is to have its own.
    """

    spec: AgentSpec
    process: LaunchSpec


def checked_id(text: str) -> str:
    """An id; a fresh one where the text is empty.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    if not text:
        return secrets.token_hex(6)
    if not _ID.fullmatch(text):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{text[:80]!r} is no id of an agent: it has 1 to 64 of A-Z a-z 0-9 _ -",
        )
    return text


def planned(asked: AgentSpec, allowed: AllowList, inherited: Mapping[str, str]) -> Launch:
    """What to start.

    Args:
        asked: What the caller asks for.
        allowed: What may be.
        inherited: The environment of the host.

    Raises:
        PlaneError: PERMISSION_DENIED for what the allow-list does not let, INVALID_ARGUMENT for
            what makes no sense.
    """
    kind = _kind(asked, allowed)
    argv = _argv(asked, allowed, kind)
    environment = {name: inherited[name] for name in allowed.inherit if name in inherited}
    environment |= _variables(asked.environment, allowed)
    if kind is not None:
        environment |= kind.environment
    words = [*argv, *(word for pair in environment.items() for word in pair)]
    if sum(len(word.encode("utf-8", "surrogatepass")) for word in words) > _MAX_WORDS_BYTES:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"command and environment have more than {_MAX_WORDS_BYTES} bytes; write the rest to "
            "its standard input",
        )
    if any("\0" in word for word in words):
        raise PlaneError(Code.INVALID_ARGUMENT, "command and environment cannot hold a NUL")
    limits = limit_of(_asked_limits(asked.limits), allowed.limits)
    timeout_s, grace_s = _timeout_s(asked, allowed), _grace_s(asked)
    output_bytes = _output_bytes(asked, allowed)
    block = asked.overflow == Overflow.OVERFLOW_BLOCK
    outlives = asked.lifetime == Lifetime.LIFETIME_OUTLIVES_HOST
    folder = _folder(asked, allowed, kind)
    filled = asked.model_copy(
        update={
            "name": asked.name or asked.kind or Path(argv[0]).name,
            "working_folder": folder,
            "limits": Limits(**limits) if limits else None,
            "timeout": None if timeout_s is None else Duration.from_seconds(timeout_s),
            "grace": Duration.from_seconds(grace_s),
            "output_bytes": output_bytes,
            "overflow": Overflow.OVERFLOW_BLOCK if block else Overflow.OVERFLOW_DROP_OLDEST,
            "lifetime": (
                Lifetime.LIFETIME_OUTLIVES_HOST if outlives else Lifetime.LIFETIME_ENDS_WITH_HOST
            ),
        }
    )
    return Launch(
        filled,
        LaunchSpec(
            argv=argv,
            environment=environment,
            folder=folder,
            limits=limits,
            timeout_s=timeout_s,
            grace_s=grace_s,
            output_bytes=output_bytes,
            block=block,
        ),
    )


def grace_of(grace: Duration | None) -> float | None:
    """Seconds of a grace; ``None`` where it is absent.

    Raises:
        PlaneError: INVALID_ARGUMENT for a negative or endless one.
    """
    if grace is None:
        return None
    seconds = grace.total_seconds
    if not 0 <= seconds <= _MAX_GRACE_S:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"grace is {seconds:g} s; it is 0 to {_MAX_GRACE_S:g} s"
        )
    return seconds


def _kind(asked: AgentSpec, allowed: AllowList) -> AllowedKind | None:
    if bool(asked.kind) == bool(asked.command):
        raise PlaneError(Code.INVALID_ARGUMENT, "give one of kind and command")
    if not asked.kind:
        return None
    kind = allowed.kinds.get(asked.kind)
    if kind is None:
        there = ", ".join(sorted(allowed.kinds)) or "none"
        raise PlaneError(
            Code.PERMISSION_DENIED,
            f"{asked.kind!r} is no kind of agent of this host; there is {there}",
        )
    return kind


def _argv(asked: AgentSpec, allowed: AllowList, kind: AllowedKind | None) -> list[str]:
    if kind is not None:
        if asked.arguments and not kind.takes_arguments:
            raise PlaneError(
                Code.PERMISSION_DENIED, f"agents of the kind {asked.kind!r} take no arguments"
            )
        return [*kind.command, *asked.arguments]
    if asked.arguments:
        raise PlaneError(
            Code.INVALID_ARGUMENT, "arguments go with a kind; those of a command follow its program"
        )
    named = asked.command[0]
    for program in allowed.commands:
        if named in (program, Path(program).name):
            return [program, *asked.command[1:]]
    raise PlaneError(
        Code.PERMISSION_DENIED,
        f"this host does not let {named!r} be started; ListKinds tells what it lets, and its "
        "allow-list says so",
    )


def _variables(asked: Mapping[str, str], allowed: AllowList) -> dict[str, str]:
    for name in asked:
        if not _VARIABLE.fullmatch(name):
            raise PlaneError(Code.INVALID_ARGUMENT, f"{name!r} is no name of a variable")
        if not any(fnmatchcase(name, pattern) for pattern in allowed.variables):
            raise PlaneError(
                Code.PERMISSION_DENIED,
                f"this host does not let callers set {name}; `variables` of its allow-list says "
                "which they may",
            )
    return {**asked}


def _asked_limits(limits: Limits | None) -> dict[str, int]:
    if limits is None:
        return {}
    asked = {
        "memory_bytes": limits.memory_bytes,
        "cpu_seconds": limits.cpu_seconds,
        "open_files": limits.open_files,
        "processes": limits.processes,
        "file_bytes": limits.file_bytes,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _timeout_s(asked: AgentSpec, allowed: AllowList) -> float | None:
    most = allowed.max_timeout_s
    if asked.timeout is None:
        return most if allowed.timeout_s is None else allowed.timeout_s
    seconds = asked.timeout.total_seconds
    if seconds <= 0 or (most is not None and seconds > most):
        bound = "more than 0 s" if most is None else f"more than 0 s and at most {most:g} s"
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"timeout is {seconds:g} s; this host lets it be {bound}"
        )
    return seconds


def _grace_s(asked: AgentSpec) -> float:
    seconds = grace_of(asked.grace)
    return _GRACE_S if seconds is None else seconds


def _output_bytes(asked: AgentSpec, allowed: AllowList) -> int:
    size = asked.output_bytes or allowed.output_bytes
    if not 4096 <= size <= allowed.max_output_bytes:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"output_bytes is {size}; this host lets it be 4096 to {allowed.max_output_bytes}",
        )
    return size


def _folder(asked: AgentSpec, allowed: AllowList, kind: AllowedKind | None) -> str:
    if not asked.working_folder:
        own = None if kind is None else kind.working_folder
        return "" if own is None else str(own)
    if "\0" in asked.working_folder:
        raise PlaneError(Code.INVALID_ARGUMENT, "working_folder cannot hold a NUL")
    folder = Path(asked.working_folder)
    if not folder.is_absolute():
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"working_folder is {folder}; give it from the root, /…"
        )
    whole = folder.resolve()
    if not any(whole.is_relative_to(each) for each in allowed.folders):
        raise PlaneError(
            Code.PERMISSION_DENIED,
            f"this host does not let agents start in {folder}; `folders` of its allow-list says "
            "where they may",
        )
    if not whole.is_dir():
        raise PlaneError(Code.FAILED_PRECONDITION, f"there is no folder {folder}")
    return str(whole)
