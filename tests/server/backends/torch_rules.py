"""Rules of choosing, for tests."""

from __future__ import annotations

from protoplane_server.backends.interface import Sampling
from protoplane_server.backends.sampling import Rules

GREEDY = Rules.of(Sampling(temperature=0.0, max_tokens=400), vocabulary=256)
