"""Adds up the values of each sequence."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton runs."""

    def initialize(self, args):
        """Begin with no sequences."""
        self._sums = {}

    def execute(self, requests):
        """Answer some requests."""
        return [self._add(request) for request in requests]

    def _add(self, request):
        value, start, sequence = (
            int(pb_utils.get_input_tensor_by_name(request, name).as_numpy().flat[0])
            for name in ("VALUE", "START", "CORRID")
        )
        total = value if start else self._sums[sequence] + value
        self._sums[sequence] = total
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("SUM", np.full((1, 1), total, np.int32))]
        )
