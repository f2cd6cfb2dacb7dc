"""What the URL of a NATS engine says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.retention import Retention
from protoplane_runtime.engines.retention import parse as parse_rule
from protoplane_runtime.tls import ClientTls

_STREAM = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SCHEMES = ("nats", "tls")


@dataclass(frozen=True, slots=True)
class NatsSettings:
    """Which servers, which stream, and how long it keeps what.

    The buckets of the state and of the instances have as many replicas as the stream; how long
    events are kept is not for them.

    Attributes:
        servers: ``host:port`` of some servers of the cluster; the others are learnt from these.
        user: User name, where there is a password, otherwise a token; empty for none.
        password: Password of the user.
        credentials: File with the JWT and the key of a user; empty for none.
        tls: Whom to trust and who one is; ``None`` for what the server wants.
        stream: Name of the stream, and first token of all subjects.
        domain: JetStream domain; empty for the server's own.
        replicas: Servers that hold what is to last; ``None`` leaves a stream as it is, which is
            1 in a new one.
        max_age_s: Seconds after which a durable event goes; 0 for never.
        max_events: Most durable events that are kept; 0 for any number.
        max_bytes: Most bytes that they may take; 0 for any number.
        duplicates_s: Seconds for which a `Publication` is known again.
        rules: What is kept under single prefixes, by age and number; ``None`` leaves the rules as
            they are.
        publish_timeout_s: Seconds that a publication or a change of the state may take before it is
            UNAVAILABLE.
    """

    servers: tuple[str, ...]
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    credentials: str = ""
    tls: ClientTls | None = None
    stream: str = "protoplane"
    domain: str = ""
    replicas: int | None = None
    max_age_s: float | None = None
    max_events: int | None = None
    max_bytes: int | None = None
    duplicates_s: float | None = None
    rules: tuple[Retention, ...] | None = None
    publish_timeout_s: float = 5.0

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read ``nats://[user:password@]host[:port][,host[:port]…][?setting=value&…]``.

        ``tls://`` asks for TLS, and so do ``ca``, ``cert`` and ``key``; ``creds`` names a file of
        credentials; ``retain=a/**:age=1h,count=9`` is a rule of retention, and there may be
        several; the other settings bear the names of the attributes.

        Raises:
            PlaneError: INVALID_ARGUMENT with what is wrong.
        """
        parts = urlsplit(url)
        given = parse_qsl(parts.query, keep_blank_values=True)
        asked = {name: value for name, value in given if name != "retain"}
        rules = tuple(parse_rule(value) for name, value in given if name == "retain")
        access, _, hosts = parts.netloc.rpartition("@")
        user, _, password = access.partition(":")
        if parts.scheme not in _SCHEMES or parts.path not in ("", "/") or parts.fragment:
            raise _wrong(url, "it has a scheme, servers and settings, and no more")
        ca, cert, key = (asked.pop(name, None) for name in ("ca", "cert", "key"))
        tls = ClientTls(ca=ca, cert=cert, key=key) if parts.scheme == "tls" or ca or cert else None
        stream = asked.pop("stream", "protoplane")
        if not _STREAM.fullmatch(stream):
            raise _wrong(url, "'stream' is 1 to 64 letters, digits, '_' and '-'")
        settings = cls(
            servers=tuple(_server(url, host) for host in hosts.split(",")),
            user=unquote(user),
            password=unquote(password),
            credentials=asked.pop("creds", ""),
            tls=tls,
            stream=stream,
            domain=asked.pop("domain", ""),
            replicas=_whole(url, asked, "replicas"),
            max_age_s=_number(url, asked, "max_age_s"),
            max_events=_whole(url, asked, "max_events"),
            max_bytes=_whole(url, asked, "max_bytes"),
            duplicates_s=_number(url, asked, "duplicates_s"),
            rules=rules or None,
            publish_timeout_s=_number(url, asked, "publish_timeout_s") or 5.0,
        )
        if any(rule.max_bytes is not None for rule in rules):
            raise _wrong(
                url,
                "JetStream does not count the bytes under a prefix, so a rule of retention has "
                "'age' and 'count'; 'max_bytes' is for all events together",
            )
        if len({rule.prefix for rule in rules}) < len(rules):
            raise _wrong(url, "two rules of retention are for the same prefix")
        if asked:
            raise _wrong(url, f"there is no setting {next(iter(asked))!r}")
        if settings.replicas is not None and not 1 <= settings.replicas <= 5:
            raise _wrong(url, "'replicas' is 1 to 5")
        return settings


def _server(url: str, host: str) -> str:
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port or 4222
    except ValueError:
        raise _wrong(url, f"{host!r} is no server") from None
    if not parts.hostname:
        raise _wrong(url, "a server is missing")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{name}:{port}"


def _number(url: str, asked: dict[str, str], name: str) -> float | None:
    text = asked.pop(name, None)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text):
        raise _wrong(url, f"{name!r} is a number, not {text!r}")
    return float(text)


def _whole(url: str, asked: dict[str, str], name: str) -> int | None:
    text = asked.pop(name, None)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise _wrong(url, f"{name!r} is a whole number, not {text!r}")
    return int(text)


def _wrong(url: str, why: str) -> PlaneError:
    # Without what stands before the '@': it may be a secret.
    shown = url.rpartition("@")[2].removeprefix("nats://")
    return PlaneError(
        Code.INVALID_ARGUMENT,
        f"{shown!r} is no NATS engine: {why}; one looks like "
        "nats://127.0.0.1:4222?replicas=3&max_age_s=86400",
    )
