"""Stacks of real processes: they come back, and they end, whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from urllib.request import urlopen

from tests.components.stack.stacks import CAPTIONER, LIMIT_S, eventually, gone, role, stack

from protoplane_components.stack.identity import born
from protoplane_components.stack.records import Phase
from protoplane_components.stack.stopping import Outcome, stop

TWO = (f"gateway={CAPTIONER}", f"worker={CAPTIONER}")


def test_a_killed_process_comes_back(tmp_path: Path) -> None:
    with stack(tmp_path, *TWO) as watched:
        before = watched.ready()
        worker = role(before, "worker")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        after = watched.until(lambda record: role(record, "worker").restarts == 1)
        assert role(after, "worker").reason == "killed by SIGKILL"
        after = watched.ready()
        assert role(after, "worker").pid not in (None, worker.pid)
        assert role(after, "gateway") == role(before, "gateway")
        with urlopen(f"{role(after, 'worker').http}/readyz", timeout=LIMIT_S) as answer:
            assert answer.status == 200
        # The gateway keeps its port.
        gateway = role(after, "gateway")
        assert gateway.pid is not None
        os.kill(gateway.pid, signal.SIGKILL)
        watched.until(lambda record: role(record, "gateway").restarts == 1)
        assert watched.ready().processes[0].restarts == 1


def test_it_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with stack(tmp_path, *TWO, attached=False) as watched:
        record = watched.ready()
        assert watched.starter.wait(LIMIT_S) == 0
        assert record.detached
        done = stop(watched.place, LIMIT_S)
        assert (done.outcome, done.processes) == (Outcome.STOPPED, 2)
        assert gone(record)
        assert born(record.owner.pid) != record.owner.born
        assert watched.place.read() is None
        assert stop(watched.place, LIMIT_S).outcome is Outcome.ABSENT
        log = watched.place.log("gateway").read_text()
        # The gateway had ended before the others were asked to.
        assert "draining" in log
        assert watched.place.log("supervisor").read_text() == ""


def test_it_does_not_outlive_who_it_is_attached_to(tmp_path: Path) -> None:
    with stack(tmp_path, *TWO) as watched:
        record = watched.ready()
        watched.starter.kill()
        eventually(lambda: gone(record))
        eventually(lambda: watched.place.owner() is None)
        ended = watched.place.read()
        assert ended is not None
        assert ended.phase is Phase.ENDED


def test_processes_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with stack(tmp_path, *TWO) as watched:
        record = watched.ready()
        os.kill(record.owner.pid, signal.SIGKILL)
        eventually(lambda: gone(record))
        done = stop(watched.place, LIMIT_S)
        assert done.outcome is Outcome.CLEARED
        assert watched.place.read() is None


def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    with stack(tmp_path, f"gateway={CAPTIONER}", "worker=nowhere_to_be_found") as watched:
        record = watched.until(lambda record: record.phase is Phase.FAILED)
        assert "worker does not start: there is no module 'nowhere_to_be_found'" in record.reason
        assert watched.starter.wait(LIMIT_S) == 1
        assert gone(record)


def test_it_lives_where_its_state_cannot_be_written(tmp_path: Path) -> None:
    with stack(tmp_path, *TWO) as watched:
        before = watched.ready()
        worker = role(before, "worker")
        assert worker.pid is not None
        # As good as a full disk: what is to be written has no place.
        (watched.place.folder / "stack.new").mkdir()
        os.kill(worker.pid, signal.SIGKILL)
        eventually(lambda: "cannot be written" in watched.place.log("supervisor").read_text())
        (watched.place.folder / "stack.new").rmdir()
        watched.until(lambda record: role(record, "worker").restarts == 1)
        assert role(watched.ready(), "gateway") == role(before, "gateway")


def test_who_does_not_end_is_killed(tmp_path: Path) -> None:
    with stack(tmp_path, *TWO) as watched:
        record = watched.ready()
        worker = role(record, "worker")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        done = stop(watched.place, 0.5)
        assert done.outcome is Outcome.KILLED
        assert gone(record)


def test_it_ends_when_its_folder_is_deleted(tmp_path: Path) -> None:
    with stack(tmp_path / "state", *TWO, attached=False) as watched:
        record = watched.ready()
        assert watched.starter.wait(LIMIT_S) == 0
        shutil.rmtree(tmp_path / "state")
        # Nobody could find it there.
        eventually(lambda: gone(record) and born(record.owner.pid) != record.owner.born)
