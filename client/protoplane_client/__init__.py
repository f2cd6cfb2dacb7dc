"""Find a component, call it and subscribe to its events."""

from protoplane_client.balanced import BalancedChannel
from protoplane_client.balancing import LeastOutstanding, PowerOfTwoChoices, RoundRobin, Sticky
from protoplane_client.breaker import BreakerPolicy
from protoplane_client.grpc_channel import GrpcChannel
from protoplane_client.hedging import HedgePolicy
from protoplane_client.http_channel import HttpChannel
from protoplane_client.http_session import HttpSession
from protoplane_client.inprocess_channel import InprocessChannel
from protoplane_client.link_channel import LinkChannel
from protoplane_client.plane import Plane, connect
from protoplane_client.policy import Policy
from protoplane_client.retrying import RetryBudget, RetryPolicy
from protoplane_client.route import ConnectionState, ConnectionStats, Route
from protoplane_client.stats import CollectedStats
from protoplane_client.subscription import Received, Reconnect
from protoplane_client.sync import SyncPlane, SyncStream, connect_sync
from protoplane_client.tls import Tls

__all__ = [
    "BalancedChannel",
    "BreakerPolicy",
    "CollectedStats",
    "ConnectionState",
    "ConnectionStats",
    "GrpcChannel",
    "HedgePolicy",
    "HttpChannel",
    "HttpSession",
    "InprocessChannel",
    "LeastOutstanding",
    "LinkChannel",
    "Plane",
    "Policy",
    "PowerOfTwoChoices",
    "Received",
    "Reconnect",
    "RetryBudget",
    "RetryPolicy",
    "RoundRobin",
    "Route",
    "Sticky",
    "SyncPlane",
    "SyncStream",
    "Tls",
    "connect",
    "connect_sync",
]
