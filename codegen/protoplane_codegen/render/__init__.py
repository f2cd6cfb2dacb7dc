"""From the model of an API to files: Python, OpenAPI, AsyncAPI and JSON Schema."""
