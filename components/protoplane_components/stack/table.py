"""A stack as a person sees it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from protoplane_components.stack.records import Phase, ProcessRecord, StackRecord

_COLOURS = {
    Phase.STARTING: "yellow",
    Phase.READY: "green",
    Phase.WAITING: "red",
    Phase.STOPPING: "yellow",
    Phase.ENDED: "dim",
    Phase.FAILED: "red",
}
_WIDE = 130


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an instance says of its calls.

    Attributes:
        open: Calls that it is answering.
        ended: Calls that it has answered.
        resident_bytes: Memory that its process holds.
    """

    open: int
    ended: int
    resident_bytes: int


def stack_table(
    record: StackRecord, traffic: Mapping[str, Traffic], *, width: int, hint: str = ""
) -> RenderableType:
    """The whole stack.

    Args:
        record: What it says of itself.
        traffic: What its instances say of their calls, by instance.
        width: Columns that there are; on a narrow terminal some figures are left out.
        hint: What to do next; a last line.
    """
    colour = _COLOURS[record.phase]
    ready = sum(each.phase is Phase.READY for each in record.processes)
    some = record.phase is Phase.READY and ready < len(record.processes)
    head = Text.assemble(
        ("● ", "yellow" if some else colour),
        (record.phase, f"bold {colour}"),
        (f", {ready} of {len(record.processes)}" if some else "", "bold yellow"),
        ("  ", ""),
        (record.http, "cyan"),
        (f"  {_count(record.workers, 'worker')}, policy {record.policy}, ", "dim"),
        (f"in {record.folder}", "dim"),
    )
    parts: list[RenderableType] = [head, _rows(record, traffic, wide=width >= _WIDE)]
    if record.reason:
        parts.append(Text(record.reason, "red"))
    if hint:
        parts.append(Text(hint, "dim"))
    return Group(*parts)


def _rows(record: StackRecord, traffic: Mapping[str, Traffic], *, wide: bool) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("PROCESS", "STATE", "UP", "PID", "RESTARTS", "OPEN", "CALLS"):
        right = heading not in ("PROCESS", "STATE")
        table.add_column(heading, no_wrap=True, justify="right" if right else "left")
    table.add_column("HTTP", no_wrap=True)
    if wide:
        table.add_column("MEMORY", no_wrap=True, justify="right")
        table.add_column("INSTANCE", no_wrap=True)
    for each in record.processes:
        calls = traffic.get(each.instance)
        cells: list[Text | str] = [
            each.role,
            _state(each),
            duration(time.time() - each.since_s) if each.phase is Phase.READY else "",
            str(each.pid or ""),
            Text(str(each.restarts), "yellow" if each.restarts else "dim"),
            "" if calls is None else str(calls.open),
            "" if calls is None else str(calls.ended),
            each.http.removeprefix("http://"),
        ]
        if wide:
            cells.append("" if calls is None else f"{calls.resident_bytes / 1e6:.0f} MB")
            cells.append(each.instance)
        table.add_row(*cells)
    return table


def _state(each: ProcessRecord) -> Text:
    text = Text(each.phase, _COLOURS[each.phase])
    if each.reason and each.phase is not Phase.READY:
        text.append(f" ({each.reason})", "dim")
    return text


def duration(seconds: float) -> str:
    """A time as short as it can be said."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
