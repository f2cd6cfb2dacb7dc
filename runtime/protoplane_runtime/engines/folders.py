"""Where engines of this machine keep what they keep."""

from __future__ import annotations

import os
from pathlib import Path


def default_folder() -> Path:
    """The folder of ``local:``, after the XDG Base Directory Specification."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The specification says to ignore a relative path.
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "protoplane"
