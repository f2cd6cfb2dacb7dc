"""The console: one page, at `/console`, that shows what a component is and does, and tries it."""

from protoplane_server.console.door import Console

__all__ = ["Console"]
