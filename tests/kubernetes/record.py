"""Records what a real Kubernetes API says, for tests that have none.

    make kubernetes
    .venv/bin/python -m tests.kubernetes.record

writes ``tests/runtime/kubernetes_recording`` anew.
"""

from __future__ import annotations

import json
import ssl
import tempfile
import threading
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tests.kubernetes.cluster import ADMIN, SLICES, STRANGER, Cluster, cluster, etcd
from tests.kubernetes.slices import CAPTIONER_PORTS, endpoint, endpoint_slice

RECORDING = Path(__file__).parents[1] / "runtime" / "kubernetes_recording"

ONE = endpoint("captioner-6d9f7c5b8-4xq2z", "10.244.1.17", "node-a", "eu-west-1a")
ONE_V6 = endpoint("captioner-6d9f7c5b8-4xq2z", "fd00:10:244:1::11", "node-a", "eu-west-1a")
ENDING = endpoint(
    "captioner-6d9f7c5b8-4xq2z", "10.244.1.17", "node-a", "eu-west-1a", ready=False, ends=True
)
STARTING = endpoint("captioner-6d9f7c5b8-tt6lc", "10.244.2.10", "node-b", "eu-west-1b", ready=False)
TWO = endpoint("captioner-6d9f7c5b8-p8wvn", "10.244.2.9", "node-b", "eu-west-1b")
ROUTER = endpoint("router-0", "10.244.3.4", "node-c", "eu-west-1c")
NEXT_ROUTER = endpoint("router-1", "10.244.3.5", "node-c", "eu-west-1c")
STORE = endpoint("postgres-0", "10.244.9.9", "node-a", "eu-west-1a")
BAD = endpoint("bad-0", "10.244.9.8", "node-a", "eu-west-1a")


def captioner(*endpoints: dict[str, Any]) -> dict[str, Any]:
    """The slice of the captioner's pods."""
    return endpoint_slice("captioner-x7k2p", "forge.captioner", endpoints, ports=CAPTIONER_PORTS)


def store() -> dict[str, Any]:
    """A slice that names its component in an annotation, as a label holds no slash."""
    made = endpoint_slice("postgres-1a2b3", None, [STORE])
    made["metadata"]["annotations"] = {"protoplane.dev/component": "forge/store.v2"}
    return made


def first() -> list[dict[str, Any]]:
    """What is there at the start."""
    ports = {"http": 8080, "grpc": 50051}
    return [
        captioner(ONE, STARTING),
        endpoint_slice("captioner-v6abc", "forge.captioner", [ONE_V6], ports=ports, family="IPv6"),
        endpoint_slice("router-9fd2m", "forge.router", [ROUTER]),
        endpoint_slice("idle-abcde", "forge.idle", [], ports={}),
        store(),
        endpoint_slice("bad-1a2b3", "forge..bad", [BAD]),
    ]


class Watch:
    """Reads a watch in a thread, from now on."""

    def __init__(self, api: Cluster, version: str) -> None:
        self._events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        query = f"?watch=true&allowWatchBookmarks=true&timeoutSeconds=120&resourceVersion={version}"
        request = Request(api.url + SLICES + query, headers={"authorization": f"Bearer {ADMIN}"})
        context = ssl.create_default_context(cafile=str(api.authority))
        self._answer = urlopen(request, timeout=150, context=context)
        threading.Thread(target=self._read, daemon=True).start()

    def taken(self, last: str) -> list[dict[str, Any]]:
        """The events up to one of a type."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: any(each["type"] == last for each in self._events), 150
            ), self._events
            events, self._events = self._events, []
            return events

    def _read(self) -> None:
        for line in self._answer:
            with self._changed:
                self._events.append(json.loads(line))
                self._changed.notify_all()


def write(name: str, said: Any) -> None:
    """Write a file of the recording."""
    (RECORDING / f"{name}.json").write_text(json.dumps(said, indent=1) + "\n")
    print(f"{name}: {len(json.dumps(said)):,} bytes")


def record(folder: Path) -> None:
    """Make all of it."""
    with etcd(folder) as database:
        with cluster(folder, database) as api:
            write("list_empty", api.do("GET", SLICES))
            for each in first():
                api.do("POST", SLICES, each)
            listed = api.do("GET", SLICES)
            write("list", listed)
            page = api.do("GET", f"{SLICES}?limit=3")
            write("list_page_1", page)
            rest = f"{SLICES}?limit=3&continue={page['metadata']['continue']}"
            write("list_page_2", api.do("GET", rest))
            status, said = api.ask("GET", SLICES, token=STRANGER)
            assert status == 403, said
            write("forbidden", said)
            version = listed["metadata"]["resourceVersion"]
            watch = Watch(api, version)
            api.do("PUT", f"{SLICES}/captioner-x7k2p", captioner(ONE, STARTING, TWO))
            # The API sends a bookmark a minute.
            write("watch_scale_up", watch.taken("BOOKMARK"))
            api.do("PUT", f"{SLICES}/captioner-x7k2p", captioner(ENDING, TWO))
            api.do("DELETE", f"{SLICES}/router-9fd2m")
            write("watch_scale_down", watch.taken("DELETED"))
            added = endpoint_slice("router-new11", "forge.router", [NEXT_ROUTER])
            api.do("POST", SLICES, added)
            write("watch_added", watch.taken("ADDED"))
            for name in ("captioner-v6abc", "postgres-1a2b3", "bad-1a2b3", "router-new11"):
                api.do("DELETE", f"{SLICES}/{name}")
            api.do("PUT", f"{SLICES}/captioner-x7k2p", captioner(TWO))
            write("list_later", api.do("GET", SLICES))
        # An API that begins anew knows nothing of what was before.
        with cluster(folder, database) as api:
            write("watch_expired", Watch(api, version).taken("ERROR"))
            compact = Request(
                f"{database}/v3/kv/compaction",
                json.dumps({"revision": listed["metadata"]["resourceVersion"]}).encode(),
            )
            urlopen(compact, timeout=20).close()
            query = f"?limit=2&resourceVersion={int(version) - 1}&resourceVersionMatch=Exact"
            status, said = api.ask("GET", SLICES + query)
            assert status == 410, said
            write("gone", said)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        record(Path(temporary))
