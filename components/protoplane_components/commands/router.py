"""``protoplane router``."""

from __future__ import annotations

import click

from protoplane_base import MissingExtraError

try:
    from protoplane_components.commands.router_replay import replay_command
except ModuleNotFoundError as error:
    if error.name not in ("numpy", "xxhash"):
        raise
    raise MissingExtraError("router", "the KV router") from error

_EXAMPLE = """
\b
Examples:
  protoplane router replay trace.jsonl --policy kv,round-robin --speedup 1,4,8
"""


@click.group(epilog=_EXAMPLE)
def router() -> None:
    """Try how requests are routed to engines by what these have in their caches."""


router.add_command(replay_command)
