"""Rules of choosing, for tests."""

from __future__ import annotations

from protoplane_server.backends.embedded.sampling import Rules
from protoplane_server.backends.interface import Sampling

GREEDY = Rules.of(Sampling(temperature=0.0, max_tokens=400), vocabulary=256)
