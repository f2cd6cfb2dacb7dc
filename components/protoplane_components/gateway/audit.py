"""The audit log: a line of JSON for each request, and no word of what was said."""

from __future__ import annotations

import asyncio
import logging
import queue
import sys
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from typing import Self

from pydantic_core import to_json

from protoplane_base import Code, PlaneError
from protoplane_components.gateway.settings import GatewaySettings

_log = logging.getLogger("protoplane.gateway")

_MOST_WAITING = 10_000
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """What the log says of a request.

    Attributes:
        time: When it ended, in UTC (RFC 3339).
        key: Name of the key; empty where there was none.
        request_id: Its id.
        door: The door that it came through: ``http``, ``openai``, ``grpc`` or ``link``.
        peer: Where it came from.
        method: What was asked for: a method of the schema, or a path.
        model: The model.
        status: The code that it ended with, ``OK`` for example.
        prompt_tokens: Tokens that were read.
        completion_tokens: Tokens that were written.
        duration_ms: How long it took, in milliseconds.
    """

    time: str
    key: str
    request_id: str
    door: str
    peer: str
    method: str
    model: str
    status: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    duration_ms: float = 0.0


class AuditLog:
    """Writes records in a thread of its own; who adds one never waits.

    Where the disk cannot keep up, records are lost, and counted: requests go on.

    Args:
        settings: Where to.

    Attributes:
        lost: Records that could not be written.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._records: queue.Queue[AuditRecord | None] = queue.Queue(_MOST_WAITING)
        self._handler: logging.Handler | None = None
        self._thread: threading.Thread | None = None
        self.lost = 0

    async def __aenter__(self) -> Self:
        """Open the file and begin to write.

        Raises:
            PlaneError: FAILED_PRECONDITION; it cannot be opened.
        """
        place = self._settings.audit
        if not place:
            return self
        try:
            self._handler = await asyncio.to_thread(_handler, self._settings)
        except OSError as error:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"the audit log {place!r} cannot be opened: {error.strerror or error}",
            ) from None
        self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what is left, for a few seconds at most."""
        if self._thread is not None:
            await asyncio.to_thread(self._finish, self._thread)

    @property
    def on(self) -> bool:
        """Whether anything is written."""
        return self._thread is not None

    def add(self, record: AuditRecord) -> None:
        """Have a record written."""
        if self._thread is None:
            return
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._lose()

    def _finish(self, thread: threading.Thread) -> None:
        try:
            self._records.put(None, timeout=_CLOSE_S)
        except queue.Full:
            _log.error("the audit log does not get on; what waits for it is lost")
            return
        thread.join(_CLOSE_S)

    def _write(self) -> None:
        handler = self._handler
        assert handler is not None
        while (record := self._records.get()) is not None:
            line = logging.makeLogRecord({"msg": to_json(asdict(record)).decode()})
            try:
                handler.emit(line)
            except (OSError, ValueError):
                self._lose()
        handler.close()

    def _lose(self) -> None:
        self.lost += 1
        if self.lost == 1 or self.lost % 1000 == 0:
            _log.error("%d records of the audit log could not be written", self.lost)


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _handler(settings: GatewaySettings) -> logging.Handler:
    if settings.audit == "-":
        return _Raising(sys.stdout)
    return _RaisingFile(
        settings.audit,
        maxBytes=settings.audit_max_bytes,
        backupCount=settings.audit_files,
        encoding="utf-8",
    )


class _Raising(logging.StreamHandler):  # type: ignore[type-arg]
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        raise  # noqa: PLE0704  # logging calls this where it caught the error


class _RaisingFile(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        raise  # noqa: PLE0704  # logging calls this where it caught the error
