"""The KV router against NVIDIA Dynamo's: finds, stored events, memory, and choices.

Both sides are Python processes that stay up, and take turns: a round of one, a round of the other.
Finds and choices are told by the best of many short windows, events by the first quartile of
batches in turn: others use the machine, too. ``stored and removed`` are events of a full cache, by
turns: new blocks come, and the oldest go, end first. Dynamo's package gets an environment of its
own, which is made once in ``.build``; where that is not possible its rows are missing, with the
reason.

    python bench/router.py [--full]

``--full`` takes 64,000 events of 128 blocks instead of 8,000, for which it needs some 2 GiB.

Of the workloads, ``shared`` is a prompt that all 32 workers have, ``conversation`` one of which
most have the system prompt and some more, ``turns`` sixteen of these by turns that have the system
prompt in common, and ``unseen`` 256 of them, so that each was last asked for long ago; in
``ragged`` each of the 32 workers has the prompt to a depth of its own.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

from report import Claim, Row, print_report
from router_side import BATCH

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".build" / "venv-dynamo"
DYNAMO = "ai-dynamo-runtime==1.6.1"
WORKLOADS = ("shared", "conversation", "turns", "ragged", "unseen")
ROUNDS = 5
TURNS = 100
_NAN = float("nan")


class Side:
    """A process that does what it is ordered."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, do: str, *arguments: object) -> Any:
        """The answer to an order.

        Raises:
            RuntimeError: The process has ended.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a side has pipes")
        self._process.stdin.write(json.dumps({"do": do, "with": arguments}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            # Dynamo logs to the same place.
            if line.startswith(("null", "[")) or line[0].isdigit():
                try:
                    return json.loads(line)
                except ValueError:
                    continue
        raise RuntimeError(f"it ended while it did {do!r}")


@contextmanager
def side(python: str, name: str) -> Generator[Side]:
    """A side, for a while."""
    with subprocess.Popen(
        [python, str(HERE / "router_side.py"), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield Side(process)
        finally:
            process.kill()


def runs(python: str) -> bool:
    """Whether there is such an interpreter, and not only a name that a version manager left."""
    found = shutil.which(python)
    return (
        found is not None
        and subprocess.run(
            [found, "-c", ""], stderr=subprocess.DEVNULL, timeout=60, check=False
        ).returncode
        == 0
    )


def dynamo_python() -> tuple[str | None, str]:
    """The interpreter of Dynamo's environment, or why there is none."""
    python = ENVIRONMENT / "bin" / "python"
    done = ENVIRONMENT / "installed"
    if not done.exists():
        base = next(filter(runs, ("python3.12", "python3.13", sys.executable)), sys.executable)
        steps = (
            [base, "-m", "venv", "--clear", str(ENVIRONMENT)],
            [str(python), "-m", "pip", "install", "--quiet", DYNAMO],
        )
        for step in steps:
            made = subprocess.run(step, capture_output=True, text=True, timeout=600, check=False)
            if made.returncode:
                return None, (made.stderr.strip() or "it cannot be installed").splitlines()[-1]
        done.touch()
    return str(python), ""


def compare(python: str | None, events: int) -> dict[str, tuple[float, float]]:
    """Figures of both sides by name; NaN for a side that is not there."""
    found: dict[str, tuple[float, float]] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(side(sys.executable, "ours"))
        theirs = stack.enter_context(side(python, "dynamo")) if python else None
        if theirs:
            for names in (("", ""), ("adapter", ""), ("", "tenant"), ("adapter", "tenant")):
                if ours.ask("names", *names) != theirs.ask("names", *names):
                    raise RuntimeError(f"block hashes differ for {names}")
        orders: list[tuple[str, str, tuple[object, ...]]] = [
            (f"find, {workload}", "find", (workload,)) for workload in WORKLOADS
        ]
        orders.append(("select", "select", ()))
        for name, do, arguments in orders:
            mine, other = 0.0, 0.0 if theirs else _NAN
            for _ in range(ROUNDS):
                mine = max(mine, ours.ask(do, *arguments))
                if theirs:
                    other = max(other, theirs.ask(do, *arguments))
            found[name] = (mine, other)
    with ExitStack() as stack:
        # Memory is told only by fresh processes.
        pythons = ((sys.executable, "ours"), (python, "dynamo"))
        fresh = [stack.enter_context(side(at, name)) for at, name in pythons if at is not None]
        spent: list[list[float]] = [[] for _ in fresh]
        for each in fresh:
            each.ask("start_events")
        for _ in range(events // BATCH):
            for each, seconds in zip(fresh, spent, strict=True):
                seconds.append(each.ask("events"))
        rates = [BATCH / quantiles(seconds)[0] for seconds in spent]
        memories = [each.ask("memory") for each in fresh]
        again: list[list[float]] = [[] for _ in fresh]
        for _ in range(TURNS):
            for each, seconds in zip(fresh, again, strict=True):
                seconds.append(each.ask("turnover"))
        turnovers = [2 * BATCH / quantiles(seconds)[0] for seconds in again]
    found["events"] = (rates[0], rates[1] if python else _NAN)
    found["stored and removed"] = (turnovers[0], turnovers[1] if python else _NAN)
    found["memory"] = (memories[0], memories[1] if python else _NAN)
    return found


def main() -> None:
    """Compare, grow, and print."""
    full = "--full" in sys.argv
    python, reason = dynamo_python()
    if python is None:
        print(f"No figures of Dynamo: {reason}")
    found = compare(python, 64_000 if full else 8_000)
    units = {"memory": "MiB"}
    rows = [
        Row(
            f"{name}, {whose}",
            "rate" if name != "memory" else "growth",
            value,
            units.get(name, "/s"),
        )
        for name, pair in found.items()
        for whose, value in zip(("ours", "dynamo"), pair, strict=True)
        if not math.isnan(value)
    ]

    def ratio(name: str) -> float:
        mine, other = found[name]
        return mine / other

    print_report(
        "router",
        rows,
        [
            *(
                Claim(
                    f"find of 512 blocks, {workload}, times Dynamo", 2, ratio(f"find, {workload}")
                )
                for workload in WORKLOADS
            ),
            Claim("select of 2,048 tokens, times Dynamo", 1, ratio("select")),
            Claim("stored events, times Dynamo", 1, ratio("events")),
            Claim("memory, times Dynamo", 2, ratio("memory"), at_most=True),
        ],
        ("numpy", "xxhash"),
    )


if __name__ == "__main__":
    main()
