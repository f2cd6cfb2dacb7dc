"""``protoplane router``."""

from __future__ import annotations

import click

from protoplane_base import MissingExtraError

try:
    from protoplane_components.commands.router_replay import replay_command
    from protoplane_components.commands.router_shards import shards_command
except ModuleNotFoundError as error:
    if error.name not in ("numpy", "xxhash"):
        raise
    raise MissingExtraError("router", "the KV router") from error

_EXAMPLE = """
\b
Examples:
  protoplane router replay trace.jsonl --policy kv,round-robin --speedup 1,4,8
  protoplane router shards 4
"""


@click.group(epilog=_EXAMPLE)
def router() -> None:
    """Route requests to engines by what these have in their caches."""


router.add_command(replay_command)
router.add_command(shards_command)
