"""Commands that need both sides: a component and its caller."""
