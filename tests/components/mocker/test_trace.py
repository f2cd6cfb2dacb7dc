"""Reading traces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protoplane_base import Code, PlaneError
from protoplane_components.mocker.trace import parse_trace, read_trace, unbounded_hit_ratio


def line(at: float = 0, tokens: int = 700, ids: tuple[int, ...] = (1, 2), written: int = 3) -> str:
    return json.dumps(
        {"timestamp": at, "input_length": tokens, "output_length": written, "hash_ids": ids}
    )


def test_lines_become_requests_in_the_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{line(at=3000)}\n\n{line(at=27.5)}\n")
    first, second = read_trace(path)
    assert (first.timestamp, second.timestamp) == (27.5, 3000)
    assert (first.input_length, first.output_length, first.hash_ids) == (700, 3, (1, 2))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("{", "Invalid JSON"),
        ('{"timestamp": 0, "input_length": 1, "hash_ids": [1]}', "output_length: Field required"),
        (line(at=-1), "timestamp: Input should be greater than or equal to 0"),
        (line(written=0), "output_length: Input should be greater than or equal to 1"),
        (line(tokens=1025), "1025 tokens are 3 blocks of 512, and hash_ids has 2"),
    ],
)
def test_a_bad_line_is_named(bad: str, why: str) -> None:
    with pytest.raises(PlaneError) as caught:
        parse_trace([line(), bad], name="some.jsonl")
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message.startswith("some.jsonl, line 2: ")
    assert why in caught.value.message


def test_a_trace_without_requests_is_none() -> None:
    with pytest.raises(PlaneError, match="has no requests"):
        parse_trace(["\n"])


def test_blocks_may_have_another_size() -> None:
    [request] = parse_trace([line(tokens=20, ids=(7, 8))], block_tokens=16)
    assert request.hash_ids == (7, 8)


def test_the_unbounded_ratio_counts_the_blocks_of_prefixes_that_were_seen() -> None:
    trace = parse_trace(
        [
            line(ids=(1, 2)),
            line(ids=(1, 3)),
            # 2 was seen, but not what comes before it here.
            line(tokens=1500, ids=(4, 2, 1)),
            line(ids=(1, 2)),
        ]
    )
    assert unbounded_hit_ratio(trace) == pytest.approx(3 / 9)
