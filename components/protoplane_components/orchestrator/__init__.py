"""``protoplane/orchestrator``: one front door to many inference workers.

    protoplane serve protoplane_components.orchestrator:orchestrator

It answers the same service as a worker, `protoplane.inference.v1.InferenceService`. The
environment chooses: `PROTOPLANE_ORCHESTRATOR_POLICY` the policy, `…_WORKERS` where workers are
found, `…_ROUTER` the KV router, `…_RESUME` whether a text goes on where its worker is lost,
`…_QUEUE` how many requests may wait, `…_TOKEN` what opens the workers.
"""

from protoplane_components.orchestrator.component import Orchestrator, orchestrator
from protoplane_components.orchestrator.settings import POLICIES, OrchestratorSettings

__all__ = ["POLICIES", "Orchestrator", "OrchestratorSettings", "orchestrator"]
