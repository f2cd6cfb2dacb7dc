"""Commands of the component's side."""
