"""The event, discovery, state, object and metrics planes as services, for any language.

`services` has them; it is imported by servers that offer them, and by no other.
"""
