"""Whether the call that is being validated ignores what its schema does not know.

`Message.model_validate_json` takes ``extra='ignore'`` for a call. pydantic-core applies that to
unknown fields; an unknown enum name must then be ignored too (ProtoJSON), and a validator in the
middle of a model is not told of the flag. It is read from here.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_ignore_unknown: ContextVar[bool] = ContextVar("protoplane_ignore_unknown", default=False)

ignoring_unknown = _ignore_unknown.get
"""Whether unknown names are to be dropped rather than reported."""


@contextmanager
def ignore_unknown() -> Generator[None]:
    """Drop unknown names in what is validated within."""
    token = _ignore_unknown.set(True)
    try:
        yield
    finally:
        _ignore_unknown.reset(token)
