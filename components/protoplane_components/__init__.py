"""Standard components, written the way a user would write theirs."""
