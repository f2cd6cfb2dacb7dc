"""``protoplane serve``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from protoplane_base import ProtoplaneError
from protoplane_runtime import terminal
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, check_namespace
from protoplane_runtime.engines.opening import DEFAULT_URL, VARIABLE
from protoplane_runtime.entities import Entity
from protoplane_runtime.sockets import Address
from protoplane_server.commands.link_option import check_shareable, default_links, read_links
from protoplane_server.commands.reload import serve_and_reload
from protoplane_server.component import Component, NoComponentError, load
from protoplane_server.limits import Limits
from protoplane_server.serving import serve as run
from protoplane_server.tls import Tls
from protoplane_server.tokens import read_tokens

_EXAMPLE = """
\b
Examples:
  protoplane serve captioner:Captioner
  protoplane serve captioner:Captioner --grpc 50052 --http 8081 --workers 4
  protoplane serve router:Router --http-only --host 0.0.0.0
  protoplane serve router:Router --link link+unix:/run/router.sock --token-file tokens
  protoplane serve --planes --engine local:
"""


class Place(click.ParamType[str]):
    """A port, ``host:port`` or ``unix:/path``."""

    name = "port|host:port|unix:path"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Check the form of an address."""
        try:
            Address.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


@click.command(epilog=_EXAMPLE)
@click.argument("components", metavar="MODULE[:CLASS]...", nargs=-1)
@click.option("--grpc", type=Place(), default="50051", show_default=True, help="gRPC's place.")
@click.option("--http", type=Place(), default="8080", show_default=True, help="HTTP's place.")
@click.option("--http-only", is_flag=True, help="Open the HTTP door alone.")
@click.option("--http2", is_flag=True, help="Speak HTTP/2 at the HTTP door too (extra http2).")
@click.option(
    "--cors-origin",
    "cors_origins",
    metavar="ORIGIN",
    multiple=True,
    help="Origin whose pages in a browser may call the HTTP door, https://example.org for example; "
    "again for more, * for all.",
)
@click.option(
    "--link",
    "links",
    metavar="ADDRESS|@FILE",
    multiple=True,
    help="Where links are taken: link+tcp://host:port, link+tls://host:port, link+unix:/path, "
    "link+zmq://host:port, link+nats://server:port/subject or link+zenoh:name; again for more. A "
    "file has one a line, and is read again at SIGHUP.  [default: a free port on the loopback]",
)
@click.option("--no-link", is_flag=True, help="Take links only through the gRPC and HTTP doors.")
@click.option(
    "--name", metavar="COMPONENT/ID", help="Name of this instance, instead of a made-up one."
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help='File of bearer tokens, a line "token identity" for each; nobody else may call.',
)
@click.option(
    "--engine",
    envvar=VARIABLE,
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    metavar="URL",
    help="What stands behind events, and what others find this instance by: local:[FOLDER], which "
    "the processes of this machine share, nats://HOST, a cluster, zenoh:[ENDPOINTS], peer to peer, "
    "kubernetes:[NAMESPACE], or memory:, which nobody shares.",
)
@click.option(
    "--namespace", default=DEFAULT_NAMESPACE, show_default=True, help="Where others find it."
)
@click.option(
    "--planes",
    is_flag=True,
    help="Let callers of any language use the engine's events, discovery and state, and objects; "
    "alone, without a component, too.",
)
@click.option(
    "--objects",
    metavar="URL",
    help="Object store of --planes: memory:, local:[FOLDER], file:///FOLDER, s3://BUCKET, …  "
    "[default: beside the engine]",
)
@click.option(
    "--console/--no-console",
    default=True,
    show_default=True,
    help="A page for people at /console of the HTTP door.",
)
@click.option(
    "--stats-interval",
    "stats_interval_s",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds between two events with the numbers of this instance; 0 for none.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Interface for plain ports.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the ports. With --engine memory: each has an event log of its own.",
)
@click.option("--reload", is_flag=True, help="Serve anew when a source file here changes.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="PEM file of the certificate.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM file of its private key.")
@click.option(
    "--tls-client-ca",
    type=click.Path(path_type=Path),
    help="PEM file of the authorities that callers' certificates must come from (mutual TLS).",
)
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds that open calls have to finish at the end.",
)
@click.option(
    "--max-message-bytes",
    type=click.IntRange(min=1),
    help="Largest message that is taken.  [default: 10 MB]",
)
def serve(
    *,
    components: tuple[str, ...],
    grpc: str,
    http: str,
    http_only: bool,
    http2: bool,
    cors_origins: tuple[str, ...],
    links: tuple[str, ...],
    no_link: bool,
    name: str | None,
    token_file: Path | None,
    engine: str,
    namespace: str,
    planes: bool,
    objects: str | None,
    console: bool,
    stats_interval_s: float,
    host: str,
    workers: int,
    reload: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    grace_s: float,
    max_message_bytes: int | None,
) -> None:
    """Serve the components at MODULE:CLASS until Ctrl-C or SIGTERM, then drain.

    The class can be left out where the module has one component only, or a function of its own name
    that makes what is to be served. Modules are looked for in the current folder and in its folder
    "generated" too.
    """
    if not components and not planes:
        raise click.UsageError(
            "Missing argument 'MODULE[:CLASS]...': name a component, or serve the --planes alone"
        )
    if objects is not None and not planes:
        raise click.UsageError("--objects goes with --planes")
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    if tls_client_ca is not None and tls_cert is None:
        raise click.UsageError("--tls-client-ca needs --tls-cert and --tls-key")
    if links and no_link:
        raise click.UsageError("--link and --no-link contradict each other")
    if workers > 1 and name is not None:
        raise click.UsageError("--name is for one instance, and each worker is one")
    from_file = any(link.startswith("@") for link in links)
    if workers > 1 and from_file:
        raise click.UsageError("--link @FILE goes with one worker only")
    if reload:
        arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
        raise SystemExit(serve_and_reload(arguments, Path.cwd()))
    limits = Limits()
    if max_message_bytes is not None:
        limits = replace(limits, max_message_bytes=max_message_bytes)
    with terminal.errors():
        found = [_load(name) for name in components]
        tls = None
        if tls_cert is not None and tls_key is not None:
            tls = Tls(certificate=tls_cert, key=tls_key, client_ca=tls_client_ca)
            tls.ssl_context()  # A file that does not do is said before anything starts.
        tokens = _tokens(token_file)
        if name is not None:
            Entity.instance(name)
        check_namespace(namespace)
        link = read_links(links)
        if not links and not no_link and not http_only:
            link = default_links(secure=tls is not None)
        if workers > 1:
            check_shareable(link)
        try:
            run(
                *found,
                workers=workers,
                links=(lambda: read_links(links)) if from_file else None,
                grpc=None if http_only else _at(host, grpc),
                http=_at(host, http),
                http2=http2,
                cors_origins=cors_origins,
                link=link,
                engine=engine,
                namespace=namespace,
                name=name,
                planes=planes,
                objects=objects,
                console=console,
                stats_interval_s=stats_interval_s or None,
                tokens=tokens,
                grace_s=grace_s,
                limits=limits,
                tls=tls,
            )
        except (ProtoplaneError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - so may its constructor
            words = f"{type(error).__name__}: {error}{_where(error)}"
            terminal.fail(f"{', '.join(components) or 'planes'} cannot be served: {words}")


def _load(name: str) -> Component:
    generated = str(Path.cwd() / "generated")
    if generated not in sys.path:
        sys.path.insert(0, generated)
    try:
        return load(name)
    except NoComponentError as error:
        terminal.fail(str(error), terminal.USAGE)
    except Exception as error:  # noqa: BLE001 - the user's module may raise anything
        terminal.fail(f"{name} cannot be imported: {type(error).__name__}: {error}{_where(error)}")


def _where(error: BaseException) -> str:
    """The last line of the user's own code that an error went through."""
    here = str(Path.cwd())
    place = ""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith(here):
            place = f" ({Path(file).relative_to(here)}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _at(host: str, place: str) -> str:
    if not place.isdigit():
        return place
    return f"[{host}]:{place}" if ":" in host else f"{host}:{place}"


def _tokens(path: Path | None) -> dict[str, str] | None:
    if path is None:
        return None
    try:
        return read_tokens(path)
    except ValueError as error:
        terminal.fail(str(error), terminal.USAGE)
