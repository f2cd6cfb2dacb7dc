"""What the journals of a soak test say: what was acknowledged, and what each group got of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

Place = tuple[int, int]
"""Place of an event in the order of its publisher: the generation of its process, its number."""

Delivered = tuple[int, Place]
"""When a group got an event, on the clock that all processes of the machine share."""


@dataclass(slots=True)
class Verdict:
    """What became of the events.

    Attributes:
        acknowledged: Events that were acknowledged to their publishers.
        deliveries: Deliveries, all groups together.
        repeated: How many of them were not the first of their event in their group.
        missing: Acknowledged events that a group never got, for each such group.
        out_of_order: First deliveries that came after that of a later event of their key.
        late_repeats: Repeated deliveries that came after the delivery of a later event of their
            key: two members worked on one key at a time.
        gaps: Gaps that groups were told of.
    """

    acknowledged: int = 0
    deliveries: int = 0
    repeated: int = 0
    missing: int = 0
    out_of_order: int = 0
    late_repeats: int = 0
    gaps: int = 0

    @property
    def holds(self) -> bool:
        """Whether each group got all that was acknowledged, in order within its key."""
        return not (self.missing or self.out_of_order or self.gaps)


@dataclass(slots=True)
class Journals:
    """Reads the journals in a folder, as they grow.

    Args:
        folder: Those of publishers begin with ``publish``, those of members with ``consume``.
        groups: Names of all groups.
    """

    folder: Path
    groups: tuple[str, ...]
    acknowledged: dict[int, set[Place]] = field(default_factory=lambda: defaultdict(set))
    deliveries: dict[str, dict[int, list[Delivered]]] = field(
        default_factory=dict[str, dict[int, list[Delivered]]]
    )
    acknowledged_count: int = 0
    delivery_count: int = 0
    gaps: int = 0
    _read_to: dict[Path, int] = field(default_factory=dict[Path, int])

    def __post_init__(self) -> None:
        for group in self.groups:
            self.deliveries[group] = defaultdict(list)

    def read(self) -> None:
        """Read what is new. The last line of one who was killed may have no end: it is no line."""
        for file in sorted(self.folder.glob("publish*")):
            for line in self._new_lines(file):
                name, generation, number = map(int, line.split())
                self.acknowledged[name].add((generation, number))
                self.acknowledged_count += 1
        for file in sorted(self.folder.glob("consume*")):
            for line in self._new_lines(file):
                when, group, *event = line.split()
                if event == ["gap"]:
                    self.gaps += 1
                    continue
                name, generation, number = map(int, event)
                self.deliveries[group][name].append((int(when), (generation, number)))
                self.delivery_count += 1

    def missing(self) -> int:
        """How many acknowledged events have not reached a group, for all groups together."""
        return sum(
            len(places.difference(place for _, place in by_name.get(name, ())))
            for by_name in self.deliveries.values()
            for name, places in self.acknowledged.items()
        )

    def verdict(self) -> Verdict:
        """What became of all events."""
        found = Verdict(
            self.acknowledged_count, self.delivery_count, missing=self.missing(), gaps=self.gaps
        )
        for by_name in self.deliveries.values():
            for delivered in by_name.values():
                seen: set[Place] = set()
                latest = (-1, -1)
                for _, place in sorted(delivered):
                    late = place < latest
                    if place in seen:
                        found.repeated += 1
                        found.late_repeats += late
                    else:
                        found.out_of_order += late
                    seen.add(place)
                    latest = max(latest, place)
        return found

    def _new_lines(self, file: Path) -> list[str]:
        with file.open("rb") as opened:
            opened.seek(self._read_to.get(file, 0))
            text, end, _ = opened.read().rpartition(b"\n")
        self._read_to[file] = self._read_to.get(file, 0) + len(text) + len(end)
        return text.decode().splitlines()
