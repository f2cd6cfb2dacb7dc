"""The backend of a Triton Inference Server, over its gRPC protocol; the extra ``triton``.

Source: Triton's ``grpc_service.proto`` and the pages of its protocol extensions
(https://github.com/triton-inference-server/server/tree/main/docs/protocol), as of release 2.51.
"""
