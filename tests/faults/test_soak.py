"""Publishers, groups and the engine are killed at random, and what was acknowledged arrives.

A short run of the soak test, which ``make soak`` runs at length.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.faults.soak import Plan, soak
from tests.faults.soak_journals import Journals
from tests.nats_server import needs_nats_server

RecordProperty = Callable[[str, object], None]

GROUPS = ("red", "blue")


needs_zenoh = pytest.mark.skipif(find_spec("zenoh") is None, reason="zenoh is an extra")


@pytest.mark.parametrize(
    "engine",
    [
        "local:",
        pytest.param("nats:", marks=needs_nats_server),
        pytest.param("zenoh:", marks=needs_zenoh),
    ],
)
def test_acknowledged_events_survive_kills(
    engine: str, tmp_path: Path, record_property: RecordProperty
) -> None:
    plan = Plan(
        engine,
        seconds=8,
        publishers=100,
        groups=6,
        rate=300,
        publisher_processes=2,
        member_processes=4,
        kill_every_s=1.2,
        visibility_s=5.0 if engine == "zenoh:" else 30.0,
    )
    outcome = soak(plan, tmp_path)
    for what, count in outcome.counts().items():
        record_property(what, count)
    assert outcome.holds
    assert outcome.verdict.acknowledged > 0
    assert outcome.verdict.deliveries >= plan.groups * outcome.verdict.acknowledged


class TestJournals:
    @pytest.fixture
    def journals(self, tmp_path: Path) -> Journals:
        return Journals(tmp_path, GROUPS)

    def write(self, journals: Journals, name: str, lines: str) -> None:
        with (journals.folder / name).open("a") as file:
            file.write(lines)

    def acknowledge(self, journals: Journals, *numbers: int) -> None:
        self.write(journals, "publish-0-0", "".join(f"7 0 {number}\n" for number in numbers))

    def deliver(self, journals: Journals, name: str, when: int, group: str, number: int) -> None:
        self.write(journals, f"consume-{name}", f"{when} {group} 7 0 {number}\n")

    def test_all_is_well(self, journals: Journals) -> None:
        self.acknowledge(journals, 1, 2)
        for when, number in enumerate((1, 2)):
            for group in GROUPS:
                self.deliver(journals, f"{group}-{number}", when, group, number)
        journals.read()
        verdict = journals.verdict()
        assert verdict.holds
        assert (verdict.acknowledged, verdict.deliveries, verdict.repeated) == (2, 4, 0)

    def test_an_event_is_missing_in_one_group(self, journals: Journals) -> None:
        self.acknowledge(journals, 1)
        self.deliver(journals, "a", 1, "red", 1)
        journals.read()
        assert journals.missing() == 1
        assert not journals.verdict().holds

    def test_an_event_that_was_not_acknowledged_is_not_missed(self, journals: Journals) -> None:
        self.acknowledge(journals, 1)
        for group in GROUPS:
            self.deliver(journals, "a", 1, group, 1)
        self.deliver(journals, "a", 2, "red", 2)
        journals.read()
        assert journals.verdict().holds

    def test_the_order_is_that_of_the_clock_and_not_of_the_files(self, journals: Journals) -> None:
        self.deliver(journals, "a", 2, "red", 2)
        self.deliver(journals, "b", 1, "red", 1)
        journals.read()
        assert journals.verdict().holds

    def test_an_event_comes_after_a_later_one(self, journals: Journals) -> None:
        self.deliver(journals, "a", 1, "red", 2)
        self.deliver(journals, "b", 2, "red", 1)
        journals.read()
        verdict = journals.verdict()
        assert (verdict.out_of_order, verdict.late_repeats) == (1, 0)
        assert not verdict.holds

    def test_an_event_comes_again(self, journals: Journals) -> None:
        for when, number in enumerate((1, 1, 2, 1)):
            self.deliver(journals, "a", when, "red", number)
        journals.read()
        verdict = journals.verdict()
        assert (verdict.repeated, verdict.late_repeats, verdict.out_of_order) == (2, 1, 0)
        assert verdict.holds

    def test_a_gap_is_told(self, journals: Journals) -> None:
        self.write(journals, "consume-a", "1 red gap\n")
        journals.read()
        assert not journals.verdict().holds

    def test_a_line_without_end_is_none_yet(self, journals: Journals) -> None:
        self.write(journals, "publish-0-0", "7 0 1\n7 0 2")
        journals.read()
        assert journals.acknowledged_count == 1
        self.write(journals, "publish-0-0", "3\n")
        journals.read()
        assert journals.acknowledged[7] == {(0, 1), (0, 23)}
