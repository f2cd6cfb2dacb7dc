"""Every door against its bare peer, in one run: gRPC, and JSON over HTTP.

What is measured, and against whom, stands in ``doors_grpc.py`` and ``doors_http.py``;
events have a benchmark of their own, ``events.py``.

    python bench/doors.py [--json] [--full]
"""

from __future__ import annotations

import sys

import doors_grpc
import doors_http
from report import print_report


def main() -> None:
    """Measure and print."""
    full = "--full" in sys.argv
    parts = (
        doors_grpc.grpc_calls(full=full),
        doors_http.json_calls(full=full),
    )
    print_report(
        "doors",
        [row for rows, _ in parts for row in rows],
        [claim for _, claims in parts for claim in claims],
        sorted({*doors_grpc.PACKAGES, *doors_http.PACKAGES}),
    )


if __name__ == "__main__":
    main()
