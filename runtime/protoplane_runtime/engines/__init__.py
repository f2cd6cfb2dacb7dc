"""Engines: what stands behind the event, discovery and state planes."""
