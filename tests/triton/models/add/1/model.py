"""Adds."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton runs."""

    def execute(self, requests):
        """Answer some requests."""
        return [pb_utils.InferenceResponse([_sum(request)]) for request in requests]


def _sum(request):
    a, b = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in "AB")
    return pb_utils.Tensor("SUM", a + b)
