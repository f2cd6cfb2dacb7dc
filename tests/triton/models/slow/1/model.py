"""Takes its time, as long as somebody waits."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton runs."""

    def execute(self, requests):
        """Answer some requests."""
        return [_slowly(request) for request in requests]


def _slowly(request):
    seconds = pb_utils.get_input_tensor_by_name(request, "SECONDS").as_numpy()
    until = time.monotonic() + float(seconds.flat[0])
    while time.monotonic() < until:
        if request.is_cancelled():
            error = pb_utils.TritonError("nobody waits", pb_utils.TritonError.CANCELLED)
            return pb_utils.InferenceResponse(error=error)
        time.sleep(0.01)
    timeout = np.full((1, 1), request.timeout(), np.int64)
    return pb_utils.InferenceResponse([pb_utils.Tensor("TIMEOUT_US", timeout)])
