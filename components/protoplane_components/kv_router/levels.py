"""What targets have of a prompt, by how much it is: those that have the same are a group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from protoplane_components.kv_router.index import Overlap, Target


class Group:
    """Targets that have the same of a prompt.

    An index gives the same group for the same targets as long as it can, so that their rows in a
    table are looked up once, and not for each request.

    Args:
        targets: They.

    Attributes:
        targets: They, as the keys of a dict, which is copied faster than a set.
    """

    __slots__ = ("_rows", "_table", "targets")

    def __init__(self, targets: Iterable[Target]) -> None:
        self.targets: dict[Target, None] = dict.fromkeys(targets)
        self._table: Mapping[Target, int] | None = None
        self._rows: NDArray[np.intp] | int = 0

    def rows(self, table: Mapping[Target, int]) -> NDArray[np.intp] | int:
        """Their rows in a table, of those that are there; a number where it is one.

        Args:
            table: The row of each target. It never changes: another one is another object.
        """
        if self._table is not table:
            rows = [row for row in map(table.get, self.targets) if row is not None]
            self._rows = rows[0] if len(rows) == 1 else np.array(rows, np.intp)
            self._table = table
        return self._rows


Levels = Sequence["tuple[Overlap, Group]"]
"""What groups have. Where a target is in several, the last one counts."""


def by_target(levels: Levels) -> dict[Target, Overlap]:
    """What each target has, of those that have anything."""
    found: dict[Target, Overlap] = {}
    for overlap, group in levels:
        found |= dict.fromkeys(group.targets, overlap)
    return found


def as_levels(found: Mapping[Target, Overlap]) -> Levels:
    """The same of what each target has."""
    groups: dict[Overlap, list[Target]] = {}
    for target, overlap in found.items():
        groups.setdefault(overlap, []).append(target)
    return [(overlap, Group(targets)) for overlap, targets in groups.items()]


def of_target(levels: Levels, target: Target) -> Overlap | None:
    """What one target has; `None` for one that has nothing."""
    for overlap, group in reversed(levels):
        if target in group.targets:
            return overlap
    return None
