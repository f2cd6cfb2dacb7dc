"""Takes its time at a batch, and gives it back."""

import json
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton runs."""

    def initialize(self, args):
        """Read how long a batch takes."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._step_s = float(parameters["STEP_MS"]["string_value"]) / 1000

    def execute(self, requests):
        """Answer some requests."""
        time.sleep(self._step_s)
        return [pb_utils.InferenceResponse([_same(request)]) for request in requests]


def _same(request):
    return pb_utils.Tensor("Y", pb_utils.get_input_tensor_by_name(request, "X").as_numpy())
