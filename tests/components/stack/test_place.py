"""Whose a state folder is, and that no stranger is taken for its owner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from protoplane_base import Code, PlaneError
from protoplane_components.orchestrator import settings
from protoplane_components.stack.identity import born, known
from protoplane_components.stack.place import StackPlace
from protoplane_components.stack.records import Owner, Phase, ProcessRecord, StackRecord
from protoplane_components.stack.settings import POLICIES, StackSettings
from protoplane_components.stack.stopping import Outcome, stop
from protoplane_runtime.engines.processes import here


def record_of(owner: Owner, *processes: ProcessRecord) -> StackRecord:
    return StackRecord(
        owner=owner,
        phase=Phase.READY,
        started_s=0,
        folder="",
        http="http://127.0.0.1:1",
        workers=1,
        policy="kv",
        detached=True,
        processes=processes,
    )


def test_one_holds_the_lock_until_it_closes_it(tmp_path: Path) -> None:
    place = StackPlace(tmp_path)
    assert place.owner() is None
    lock = place.take()
    assert lock is not None
    owner = place.write_owner(lock)
    assert owner.pid == os.getpid()
    assert place.owner() == owner
    assert place.take() is None
    os.close(lock)
    assert place.owner() is None
    again = place.take()
    assert again is not None
    os.close(again)


def test_who_holds_the_lock_and_does_not_say_who_he_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protoplane_components.stack.place._WRITE_S", 0.1)
    place = StackPlace(tmp_path)
    lock = place.take()
    assert lock is not None
    try:
        with pytest.raises(PlaneError, match="does not say by whom"):
            place.owner()
    finally:
        os.close(lock)


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "stack").write_text("a file")
    with pytest.raises(PlaneError, match="--folder") as caught:
        StackPlace(tmp_path).take()
    assert caught.value.code is Code.PERMISSION_DENIED


def test_half_a_record_is_none(tmp_path: Path) -> None:
    place = StackPlace(tmp_path)
    lock = place.take()
    assert lock is not None
    try:
        owner = place.write_owner(lock)
        record = record_of(owner)
        place.write(record)
        assert place.read() == place.read_of(owner) == record
        assert place.read_of(owner.model_copy(update={"born": 1})) is None
        path = place.folder / "stack.json"
        path.write_text(path.read_text()[:-40])
        assert place.read() is None
    finally:
        os.close(lock)


def test_a_process_is_known_by_when_it_began() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        began = born(process.pid)
        assert began > 0
        with known(process.pid, began + 1) as stranger:
            assert stranger is None
        with known(process.pid, began) as found:
            assert found is not None
            assert not found.ended()
            process.kill()
            assert found.ended(20)
    with known(process.pid, began) as late:
        assert late is None


def test_a_stranger_with_the_id_of_a_dead_one_is_left_alone(tmp_path: Path) -> None:
    place = StackPlace(tmp_path)
    lock = place.take()
    assert lock is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        dead = Owner(pid=stranger.pid, born=born(stranger.pid) - 1, machine=here())
        process = ProcessRecord(
            role="worker", component="x", phase=Phase.READY, pid=dead.pid, born=dead.born
        )
        place.write(record_of(dead, process))
        os.close(lock)
        done = stop(place, 1)
        assert (done.outcome, done.processes) == (Outcome.CLEARED, 0)
        assert stranger.poll() is None
        stranger.communicate(b"\n")
    assert stranger.returncode == 0


def test_a_stack_of_another_machine_is_left_alone(tmp_path: Path) -> None:
    place = StackPlace(tmp_path)
    lock = place.take()
    assert lock is not None
    try:
        owner = Owner(pid=os.getpid(), born=born(os.getpid()), machine="another")
        os.pwrite(lock, owner.model_dump_json().encode(), 0)
        with pytest.raises(PlaneError, match="another container"):
            stop(place, 1)
    finally:
        os.close(lock)


@pytest.mark.parametrize(("name", "value"), [("workers", 0), ("policy", "dice")])
def test_settings_that_cannot_be(tmp_path: Path, name: str, value: object) -> None:
    wrong: dict[str, object] = {name: value}
    with pytest.raises(PlaneError) as caught:
        StackSettings(folder=tmp_path, **wrong)  # type: ignore[arg-type]
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_the_policies_are_those_of_the_orchestrator() -> None:
    assert set(POLICIES) == set(settings.POLICIES)
