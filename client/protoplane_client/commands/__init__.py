"""Commands of the caller's side."""
