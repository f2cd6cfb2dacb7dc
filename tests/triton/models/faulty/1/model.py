"""Fails in the ways that models do."""

import os

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton runs."""

    def execute(self, requests):
        """Answer some requests."""
        return [_fail(request) for request in requests]


def _fail(request):
    how = pb_utils.get_input_tensor_by_name(request, "HOW").as_numpy()[0].decode()
    if how == "raise":
        raise ValueError("the model raised this")
    if how == "error":
        return _error("the model answered this")
    if how == "invalid":
        return _error("the model does not like this", pb_utils.TritonError.INVALID_ARG)
    if how == "exit":
        os._exit(1)
    return pb_utils.InferenceResponse([pb_utils.Tensor("NOTHING", np.zeros(1, np.int32))])


def _error(*args):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(*args))
