"""Addresses of links over Zenoh, and what a session is opened with.

``link+zenoh:forge/captioner`` names a listener anywhere that scouting by multicast finds. Where
there is no multicast, or not for this, the session is told its locators, as Zenoh writes them
(https://zenoh.io/docs/manual/configuration/), and scouts no more:

- ``?listen=tcp/0.0.0.0:7447`` is where this process takes connections; a port 0 is any.
- ``?connect=tcp/host:7447`` is where it connects to: a router, or another process that listens.

Both may stand several times. With ``tls/`` or ``quic/`` locators come ``&ca=``, ``&cert=`` and
``&key=``, PEM files: who connects trusts that authority, who listens shows the certificate; with
all three both show theirs (mutual TLS).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, quote, unquote

from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_runtime.tls import ClientTls, ServerTls

try:
    import zenoh
except ModuleNotFoundError as error:
    raise MissingExtraError("zenoh", "a link over Zenoh") from error

_PREFIX = "link+zenoh:"
_NAME = re.compile(r"[\w.~-]+(/[\w.~-]+)*", re.ASCII)
_LOCATOR = re.compile(r"[a-z0-9_-]+/[^\s;]+")
_ENCRYPTED = ("tls", "quic")
_ANYWHERE = ("0.0.0.0", "[::]")  # noqa: S104  # looked for, not bound
_QUERY = frozenset({"connect", "listen", "ca", "cert", "key"})


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What a session is opened with; sessions of the same settings are one.

    Attributes:
        connect: Locators to connect to.
        listen: Locators to take connections at.
        ca: PEM file of the authority to trust; empty for the system's.
        cert: PEM file of one's own certificate; empty for none.
        key: PEM file of its key.
        encrypted: Whether only TLS and QUIC will do.
    """

    connect: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()
    ca: str = ""
    cert: str = ""
    key: str = ""
    encrypted: bool = False

    @property
    def vague(self) -> bool:
        """Whether only the session itself knows where it listens."""
        return any(
            locator.endswith(":0") or locator.partition("/")[2].startswith(_ANYWHERE)
            for locator in self.listen
        )

    def config(self) -> zenoh.Config:
        """The same for Zenoh.

        Raises:
            zenoh.ZError: It does not take a locator.
        """
        mutual = bool(self.ca and self.cert)
        asked: dict[str, object] = {
            # A client has one way out. What is under way would be overtaken where a better one
            # comes up in between, as gossip would have it.
            "mode": "client" if self.connect and not self.listen else "peer",
            "listen/endpoints": self.listen,
            "connect/endpoints": self.connect,
            # Once, and whoever cannot get there hears of it.
            "connect/timeout_ms": 0,
            "connect/exit_on_failure": True,
            # It alone says which ports were free.
            "adminspace/enabled": self.vague,
            "transport/link/tls/enable_mtls": mutual,
            # It would leave segments in /dev/shm where a process is killed.
            "transport/shared_memory/enabled": False,
        }
        if self.connect or self.listen:
            asked["scouting/multicast/enabled"] = asked["scouting/gossip/enabled"] = False
        else:
            del asked["listen/endpoints"]
        if self.encrypted:
            asked["transport/link/protocols"] = _ENCRYPTED
        if self.ca:
            asked["transport/link/tls/root_ca_certificate"] = self.ca
        if self.cert:
            for end in ("listen", "connect") if mutual else ("listen",):
                asked[f"transport/link/tls/{end}_certificate"] = self.cert
                asked[f"transport/link/tls/{end}_private_key"] = self.key
        config = zenoh.Config()
        for name, value in asked.items():
            config.insert_json5(  # pyright: ignore[reportUnknownMemberType]
                name, json.dumps(value)
            )
        return config


@dataclass(frozen=True, slots=True)
class ZenohAddress:
    """A listener's name, and the session that leads there.

    Attributes:
        name: The name: a path.
        settings: The session.
    """

    name: str
    settings: SessionSettings

    @classmethod
    def parse(cls, address: str, tls: ClientTls | ServerTls | None) -> ZenohAddress:
        """Read an address.

        Args:
            address: The address.
            tls: Whom to trust and who one is, where the address does not say it and its locators
                are of TLS or QUIC.

        Raises:
            PlaneError: INVALID_ARGUMENT where it is none, or asks for TLS without such locators.
        """
        rest, _, query = address.removeprefix(_PREFIX).partition("?")
        name = unquote(rest)
        asked = parse_qs(query, keep_blank_values=True)
        connect, listen = (tuple(asked.get(which, ())) for which in ("connect", "listen"))
        ca, cert, key = (asked.get(which, [""])[-1] for which in ("ca", "cert", "key"))
        locators = (*connect, *listen)
        if (
            not _NAME.fullmatch(name)
            or not all(map(_LOCATOR.fullmatch, locators))
            or not _QUERY.issuperset(asked)
            or bool(cert) != bool(key)
        ):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{address!r} is no Zenoh address; one looks like link+zenoh:forge/captioner, with "
                "?connect=tcp/host:7447, ?listen=tcp/0.0.0.0:7447, and &ca=, &cert= and &key= for "
                "tls/ locators",
            )
        encrypted = [locator.partition("/")[0] in _ENCRYPTED for locator in locators]
        wanted = bool(ca or cert) or isinstance(tls, ClientTls)
        if wanted and not (encrypted and all(encrypted)):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{address!r}: TLS needs locators of TLS, such as ?connect=tls/host:7447",
            )
        settings = SessionSettings(connect, listen, ca, cert, key)
        if any(encrypted):
            settings = replace(settings, encrypted=all(encrypted))
            if not (ca or cert) and tls is not None:
                settings = _with(settings, tls)
        return cls(name, settings)

    def told(self, locators: tuple[str, ...]) -> str:
        """The address that others connect to.

        Args:
            locators: Where the session listens.
        """
        query = "&".join(
            f"connect={quote(locator, safe='/:[]')}"
            for locator in locators or self.settings.connect
        )
        return f"{_PREFIX}{self.name}{'?' if query else ''}{query}"


def _with(settings: SessionSettings, tls: ClientTls | ServerTls) -> SessionSettings:
    if isinstance(tls, ServerTls):
        return replace(
            settings, ca=str(tls.client_ca or ""), cert=str(tls.certificate), key=str(tls.key)
        )
    if tls.server_name is not None:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"Zenoh checks a certificate against the host of the locator, not {tls.server_name!r}; "
            "leave server_name out",
        )
    return replace(settings, ca=str(tls.ca or ""), cert=str(tls.cert or ""), key=str(tls.key or ""))
