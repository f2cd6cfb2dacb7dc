"""A short run of the fuzzer, and its seeds without it; `make fuzz` is the long one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runtime.link.fuzz_frames import one_input, seeds

TARGET = Path(__file__).with_name("fuzz_frames.py")
RUNS = 10_000


@pytest.mark.parametrize("seed", seeds())
def test_a_seed(seed: bytes) -> None:
    one_input(seed)
    one_input(bytes([seed[0] ^ 1]) + seed[1:])


def test_a_seed_that_is_cut_anywhere() -> None:
    for seed in seeds():
        for end in range(0, len(seed), 7):
            one_input(seed[:end])


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="the fuzzer is missing: pip install atheris (Linux, Python 3.11 to 3.13)",
)
def test_the_fuzzer_finds_nothing_in_a_short_run(tmp_path: Path) -> None:
    arguments = [f"-runs={RUNS}", "-seed=1", "-max_len=600", "-timeout=20", "-rss_limit_mb=1024"]
    done = subprocess.run(
        [sys.executable, TARGET, *arguments, f"-artifact_prefix={tmp_path}/", tmp_path / "corpus"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Done {RUNS} runs" in done.stderr
    assert "cov: 2 " not in done.stderr, "nothing was instrumented, so nothing guided it"
