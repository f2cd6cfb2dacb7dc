"""``protoplane/agents``: processes on other machines, under control.

    protoplane serve protoplane_components.agents:Agents

`PROTOPLANE_AGENTS` names the TOML file that says what may be started; without it nothing may be.
"""

from protoplane_components.agents.allowlist import (
    AllowedKind,
    AllowedLimits,
    AllowList,
    read_allow_list,
)
from protoplane_components.agents.component import Agents
from protoplane_components.agents.pool import AgentPool

__all__ = ["AgentPool", "Agents", "AllowList", "AllowedKind", "AllowedLimits", "read_allow_list"]
