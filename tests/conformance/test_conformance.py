"""The generated models against Google's protobuf conformance suite, binary and JSON, in and out."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tests.conformance.runner import FAILURE_LIST, Suite, Unavailable, find_suite

SUMMARY = re.compile(
    r"^CONFORMANCE SUITE (?:PASSED|FAILED): (\d+) successes, (\d+) skipped, "
    r"(\d+) expected failures, (\d+) unexpected failures\.$",
    re.MULTILINE,
)


def digest(report: str) -> str:
    """The first errors of a report in full, and its lists of the tests that failed."""
    errors = [line for line in report.splitlines() if line.startswith("ERROR")]
    _, begins, lists = report.partition("\nThese test")
    return "\n".join([*(error[:1500] for error in errors[:20]), begins + lists])


@pytest.fixture(scope="module")
def suite() -> Suite:
    try:
        return find_suite()
    except Unavailable as reason:
        pytest.skip(f"no conformance runner: {reason}")


@pytest.fixture(scope="module")
def generated(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from protoplane_codegen import generate

    out = tmp_path_factory.mktemp("generated")
    generate(suite.protos, out)
    return out


@pytest.mark.codegen
def test_models_conform(suite: Suite, generated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = suite.run(generated)
    summaries = SUMMARY.findall(report)
    assert summaries, f"the runner did not finish:\n{report[-4000:]}"
    successes, skipped, expected, unexpected = map(int, summaries[0])
    with capsys.disabled():
        print(
            f"\nconformance: {successes} passed, {expected} failed as listed, "
            f"{unexpected} failed unexpectedly, {skipped} skipped",
            file=sys.stderr,  # a worker of pytest-xdist has no stdout of its own
        )
    if status:
        pytest.fail(digest(report), pytrace=False)
    assert skipped == 0, "a binary or JSON test was skipped"
    assert successes + expected > 2500, "the runner did not run its whole suite"


def test_failure_list_has_only_recommended_tests_with_reasons() -> None:
    reason = False
    for line in FAILURE_LIST.read_text().splitlines():
        if line.startswith("#"):
            reason = True
        elif not line.strip():
            reason = False
        else:
            assert line.startswith("Recommended."), line
            assert reason, f"no comment above says why: {line}"
