"""``protoplane/gateway``: the public face of the models behind it, with OpenAI's API.

    protoplane serve protoplane_components.gateway

Variables that begin with ``PROTOPLANE_GATEWAY_`` set it up; see `GatewaySettings`.
"""

from protoplane_components.gateway.component import Gateway
from protoplane_components.gateway.settings import GatewaySettings

__all__ = ["Gateway", "GatewaySettings"]
