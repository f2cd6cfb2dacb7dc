"""The engine ``nats://…``: a NATS server with JetStream, or a cluster of them.

Durable events lie in a JetStream stream, in the order of its sequence numbers. Ephemeral ones go
over plain NATS to whoever reads just then. State and instances are in KV buckets; who of those
lives is told over plain NATS.
"""
