"""Discovery from what Kubernetes knows: the EndpointSlices of its Services."""
