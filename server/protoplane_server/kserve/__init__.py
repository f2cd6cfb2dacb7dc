"""The KServe v2 protocol, so that Triton's clients and tools work with components unchanged.

Source: the Open Inference Protocol (https://github.com/kserve/open-inference-protocol) and Triton's
extensions of it (https://github.com/triton-inference-server/server/tree/main/docs/protocol).
"""
