"""Backends: what does the numerical work behind a component, and the drivers of its kinds.

They need the extra ``inference``, which is numpy; `protoplane_server.backends.opening` opens one.
"""
