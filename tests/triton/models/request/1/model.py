"""Tells what it knows of a request."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton runs."""

    def execute(self, requests):
        """Answer some requests."""
        return [_told(request) for request in requests]


def _told(request):
    hold = pb_utils.get_input_tensor_by_name(request, "HOLD").as_numpy().any()
    while hold and not request.is_cancelled():
        time.sleep(0.01)
    told = {"ID": request.request_id(), "PARAMETERS": request.parameters()}
    tensors = [
        pb_utils.Tensor(name, np.array([[text.encode()]], np.object_))
        for name, text in told.items()
    ]
    return pb_utils.InferenceResponse(tensors)
