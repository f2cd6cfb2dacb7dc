"""Between what supervisors tell and the messages of the service."""

from __future__ import annotations

from typing import Final

from protoplane.agents.v1 import Agent as AgentMessage
from protoplane.agents.v1 import (
    AgentState,
    AgentStatus,
    AgentStatusChanged,
    EndCause,
    Output,
    OutputStream,
)
from protoplane_base import Code, PlaneError, Timestamp
from protoplane_components.agents.agent import Agent
from protoplane_components.agents.output import Piece

_STATES: Final = {
    "running": AgentState.AGENT_STATE_RUNNING,
    "paused": AgentState.AGENT_STATE_PAUSED,
    "stopping": AgentState.AGENT_STATE_STOPPING,
    "exited": AgentState.AGENT_STATE_EXITED,
    "lost": AgentState.AGENT_STATE_LOST,
}
_CAUSES: Final = {
    "itself": EndCause.END_CAUSE_ITSELF,
    "stopped": EndCause.END_CAUSE_STOPPED,
    "killed": EndCause.END_CAUSE_KILLED,
    "timed_out": EndCause.END_CAUSE_TIMED_OUT,
    "host_ended": EndCause.END_CAUSE_HOST_ENDED,
}
_STREAMS: Final = (OutputStream.OUTPUT_STREAM_STDOUT, OutputStream.OUTPUT_STREAM_STDERR)
_BILLION = 10**9


def state_of(agent: Agent) -> AgentState:
    """Where an agent is in its life."""
    return _STATES[agent.status["state"]]


def status_of(agent: Agent) -> AgentStatus:
    """How an agent does."""
    status = agent.status
    return AgentStatus(
        agent_id=agent.id,
        state=state_of(agent),
        pid=status["pid"],
        started_at=_time(status["started_ns"]),
        ended_at=_time(status["ended_ns"]),
        exit_code=status["exit_code"],
        signal=status["signal"],
        cause=_CAUSES.get(status["cause"], EndCause.END_CAUSE_UNSPECIFIED),
        stdout_bytes=status["stdout"],
        stderr_bytes=status["stderr"],
    )


def agent_of(agent: Agent, host: str) -> AgentMessage:
    """All that is known of an agent."""
    return AgentMessage(id=agent.id, spec=agent.spec, status=status_of(agent), host=host)


def changed_of(agent: Agent, host: str) -> AgentStatusChanged:
    """The event that says how an agent does."""
    return AgentStatusChanged(
        agent_id=agent.id, status=status_of(agent), name=agent.spec.name, host=host
    )


def output_of(stream: int, piece: Piece) -> Output:
    """A piece of what an agent wrote."""
    return Output(
        stream=_STREAMS[stream],
        offset=piece.offset,
        data=piece.data,
        next_offset=piece.next_offset,
        dropped_bytes=piece.dropped,
        end=piece.end,
    )


def stream_of(stream: OutputStream | int) -> int:
    """Which stream is meant: 0 for the standard output, 1 for the standard error.

    Raises:
        PlaneError: INVALID_ARGUMENT; there is no such stream.
    """
    if stream == OutputStream.OUTPUT_STREAM_UNSPECIFIED:
        return 0
    if stream not in _STREAMS:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{int(stream)} is no stream; it is 1 or 2")
    return _STREAMS.index(OutputStream(stream))


def offset_of(offset: int) -> int:
    """An offset.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is negative.
    """
    if offset < 0:
        raise PlaneError(Code.INVALID_ARGUMENT, f"the offset is {offset}; it is 0 or more")
    return offset


def _time(nanos: int) -> Timestamp | None:
    return Timestamp(*divmod(nanos, _BILLION)) if nanos else None
