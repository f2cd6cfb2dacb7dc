"""The load of targets, and how it was."""

from __future__ import annotations

import pytest

from protoplane_components.kv_router.index import Target
from protoplane_components.kv_router.load import LoadTable, Reservation

A, B, C = Target("a"), Target("b"), Target("c")


def table(*targets: Target) -> LoadTable:
    made = LoadTable()
    for target in targets:
        made.add(target)
    return made


def reserve(loads: LoadTable, name: str, target: Target) -> None:
    loads.reserve(Reservation(name, target, 32.0, 2, 0, 60.0, 60.0))


def test_figures_stay_as_they_were() -> None:
    loads = table(A, B)
    reserve(loads, "1", A)
    before = loads.figures
    assert loads.figures is before
    reserve(loads, "2", B)
    loads.prefill_completed("1", 0.0)
    loads.output_blocks("1", 3, 0.0)
    after = loads.figures
    assert before.prefill_tokens.tolist() == [32, 0]
    assert after.prefill_tokens.tolist() == [0, 32]
    assert (before.decode_blocks.tolist(), after.decode_blocks.tolist()) == ([2, 0], [5, 2])
    loads.release("1")
    assert loads.expire(60.0)[0].id == "2"
    assert after.active_requests.tolist() == [1, 1]
    assert loads.figures.active_requests.tolist() == [0, 0]
    assert loads.figures.placed.tolist() == [1, 1]


def test_places_change_only_with_the_targets() -> None:
    loads = table(A, B)
    places = loads.figures.places
    reserve(loads, "1", A)
    assert loads.figures.places is places
    loads.add(C)
    loads.remove(A)
    assert places.rows == {A: 0, B: 1}
    now = loads.figures.places
    assert [now.targets[row] for row in now.all] == loads.targets
    assert {target: loads.row(target) for target in loads.targets} == now.rows
    assert set(now.targets) == {B, C}


def test_a_table_grows() -> None:
    targets = [Target("w", rank) for rank in range(40)]
    loads = table(*targets[:1])
    reserve(loads, "1", targets[0])
    before = loads.figures
    for target in targets:
        loads.add(target)
    reserve(loads, "2", targets[39])
    assert before.active_requests.tolist() == [1]
    assert loads.figures.active_requests.tolist() == [1, *[0] * 38, 1]
    assert loads.figures.work.shape == (3, 40)


def test_nobody_changes_figures() -> None:
    figures = table(A).figures
    for array in (figures.work, figures.prefill_tokens, figures.placed):
        with pytest.raises(ValueError, match="read-only"):
            array.fill(1)
