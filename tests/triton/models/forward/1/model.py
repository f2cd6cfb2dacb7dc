"""Takes its time at a batch, and gives it back."""

import time

import triton_python_backend_utils as pb_utils

STEP_S = 0.02


class TritonPythonModel:
    """What Triton runs."""

    def execute(self, requests):
        """Answer some requests."""
        time.sleep(STEP_S)
        return [pb_utils.InferenceResponse([_same(request)]) for request in requests]


def _same(request):
    return pb_utils.Tensor("Y", pb_utils.get_input_tensor_by_name(request, "X").as_numpy())
