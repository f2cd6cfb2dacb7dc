"""What the URL of a Zenoh engine says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.folders import default_folder
from protoplane_runtime.engines.retention import Retention, parse

_CLUSTER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ENDPOINT = re.compile(r"[a-z][a-z0-9_-]*/[^\s,]+")
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class ZenohSettings:
    """Whom to talk to, and where the node's own log lies.

    Attributes:
        connect: Zenoh endpoints of some nodes; the others are learnt from these.
        listen: Endpoints at which others reach this node; none for a port that Zenoh chooses.
        mode: ``peer`` or, where all goes through a Zenoh router, ``client``.
        multicast: Whether nodes of this network are found by multicast.
        cluster: Which nodes belong together: those that say the same.
        folder: Folder of the node's own log, for it alone; ``None`` for one that is free below
            `nodes_folder`.
        config: A Zenoh configuration file for all else, for example TLS; ``None`` for none.
        retention: What the node's log keeps from now on; ``None`` leaves that as it is.
    """

    connect: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()
    mode: str = "peer"
    multicast: bool = True
    cluster: str = "default"
    folder: Path | None = None
    config: Path | None = None
    retention: tuple[Retention, ...] | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read ``zenoh:[endpoint[,endpoint…]][?setting=value&…]``.

        The settings bear the names of the attributes, and rules of retention are ``retain=…``, see
        `protoplane_runtime.engines.retention`. Multicast is on where neither endpoints nor
        ``listen`` are given.

        Raises:
            PlaneError: INVALID_ARGUMENT with what is wrong.
        """
        scheme, _, rest = url.partition(":")
        endpoints, _, query = rest.partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        asked = {name: value for name, value in pairs if name != "retain"}
        rules = tuple(parse(value) for name, value in pairs if name == "retain")
        if scheme != "zenoh":
            raise _wrong(url, "it begins with 'zenoh:'")
        connect = _endpoints(url, endpoints)
        listen = _endpoints(url, asked.pop("listen", ""))
        mode = asked.pop("mode", "peer")
        if mode not in ("peer", "client"):
            raise _wrong(url, f"'mode' is peer or client, not {mode!r}")
        if mode == "client" and listen:
            raise _wrong(url, "a client does not listen")
        cluster = asked.pop("cluster", "default")
        if not _CLUSTER.fullmatch(cluster):
            raise _wrong(url, "'cluster' is 1 to 64 letters, digits, '_' and '-'")
        multicast = asked.pop("multicast", "false" if connect or listen else "true")
        if multicast not in _TRUTH:
            raise _wrong(url, f"'multicast' is true or false, not {multicast!r}")
        folder, config = asked.pop("folder", ""), asked.pop("config", "")
        if len({rule.prefix for rule in rules}) < len(rules):
            raise _wrong(url, "two rules of retention are for the same prefix")
        if asked:
            raise _wrong(url, f"there is no setting {next(iter(asked))!r}")
        return cls(
            connect,
            listen,
            mode,
            _TRUTH[multicast],
            cluster,
            Path(folder).expanduser().absolute() if folder else None,
            Path(config).expanduser().absolute() if config else None,
            rules or None,
        )

    @property
    def prefix(self) -> str:
        """What all key expressions of the cluster begin with."""
        return f"protoplane/{self.cluster}"

    @property
    def nodes_folder(self) -> Path:
        """Where the folders of the nodes of this machine lie that name none."""
        return default_folder() / "zenoh" / self.cluster


def _endpoints(url: str, text: str) -> tuple[str, ...]:
    found = tuple(each for each in text.split(",") if each)
    for each in found:
        if not _ENDPOINT.fullmatch(each):
            raise _wrong(url, f"{each!r} is no Zenoh endpoint")
    return found


def _wrong(url: str, why: str) -> PlaneError:
    return PlaneError(
        Code.INVALID_ARGUMENT,
        f"{url!r} is no Zenoh engine: {why}; one looks like zenoh: or "
        "zenoh:tcp/127.0.0.1:7447?cluster=lab",
    )
