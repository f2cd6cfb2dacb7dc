"""What a stack says of itself in its state folder."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Phase(StrEnum):
    """How a process does, or the whole stack."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """It ended, and is started again in a moment."""
    STOPPING = "stopping"
    ENDED = "ended"
    FAILED = "failed"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Owner(_Record):
    """The supervisor of a stack, as it is written into the lock's file.

    Attributes:
        pid: Its id.
        born: When it began, see `protoplane_components.stack.identity.born`.
        machine: Where its id means this, see `protoplane_runtime.engines.processes.here`.
    """

    pid: int
    born: int
    machine: str


class ProcessRecord(_Record):
    """One process of a stack.

    Attributes:
        role: What it is here.
        component: What it serves.
        phase: How it does.
        instance: Its name in discovery, once it is ready.
        endpoints: Where it is reached, the best first.
        http: URL of its HTTP door.
        pid: Its process; ``None`` where there is none now.
        born: When that process began.
        restarts: How often it was started again.
        since_s: Since when its phase is this one, in seconds since 1970.
        reason: Why it ended the last time.
        log: File of what it prints.
    """

    role: str
    component: str
    phase: Phase
    instance: str = ""
    endpoints: tuple[str, ...] = ()
    http: str = ""
    pid: int | None = None
    born: int = 0
    restarts: int = 0
    since_s: float = 0.0
    reason: str = ""
    log: str = ""


class StackRecord(_Record):
    """A stack.

    Attributes:
        owner: Its supervisor.
        phase: How the whole does: ready once each process was.
        started_s: Since when it is there, in seconds since 1970.
        folder: Folder of the engine that its processes share.
        http: URL of the gateway.
        workers: How many inference workers.
        policy: How the orchestrator chooses one.
        detached: Whether it runs in the background.
        processes: Its processes.
        reason: Why it failed.
    """

    owner: Owner
    phase: Phase
    started_s: float
    folder: str
    http: str
    workers: int
    policy: str
    detached: bool
    processes: tuple[ProcessRecord, ...] = ()
    reason: str = ""
