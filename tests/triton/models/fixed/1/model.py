"""Doubles vectors, and gives the first value of each."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton runs."""

    def execute(self, requests):
        """Answer some requests."""
        return [_doubled(request) for request in requests]


def _doubled(request):
    vectors = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
    wanted = request.requested_output_names()
    outputs = {"DOUBLE": vectors * 2, "FIRST": vectors[:, :1].copy()}
    tensors = [pb_utils.Tensor(name, each) for name, each in outputs.items() if name in wanted]
    return pb_utils.InferenceResponse(tensors)
