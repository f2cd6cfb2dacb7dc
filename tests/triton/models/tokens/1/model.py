"""Writes tokens one by one."""

import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton runs."""

    def initialize(self, args):
        """Begin with no writers."""
        self._writers = set()
        family = pb_utils.MetricFamily(
            name="tokens_streams", description="Streams now.", kind=pb_utils.MetricFamily.GAUGE
        )
        self._family = family
        self._streams = family.Metric(labels={"model": "tokens"})
        # The backend of 2.51 crashes of two that count at the same time.
        self._counting = threading.Lock()

    def execute(self, requests):
        """Let a thread write each."""
        self._writers = {each for each in self._writers if each.is_alive()}
        for request in requests:
            self._count(1)
            sender = request.get_response_sender()
            writer = threading.Thread(target=self._serve, args=(request, sender), daemon=True)
            self._writers.add(writer)
            writer.start()

    def _serve(self, request, sender):
        try:
            _write(request, sender)
        finally:
            self._count(-1)

    def _count(self, more):
        with self._counting:
            self._streams.increment(more)

    def finalize(self):
        """Wait for the writers, of whom one may ask what nobody answers any more."""
        for each in self._writers:
            each.join(5)


def _write(request, sender):
    count = _number(request, "COUNT", 0)
    delay_s = _number(request, "DELAY_MS", 0) / 1000
    fail_at = _number(request, "FAIL_AT", -1)
    for index in range(count):
        if sender.is_cancelled():
            break
        if index == fail_at:
            error = pb_utils.TritonError(f"broke at token {index}")
            sender.send(pb_utils.InferenceResponse(error=error))
            break
        tensors = [
            pb_utils.Tensor("TOKEN", np.array([f"t{index} ".encode()], np.object_)),
            pb_utils.Tensor("INDEX", np.array([index], np.int32)),
        ]
        sender.send(pb_utils.InferenceResponse(tensors))
        time.sleep(delay_s)
    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _number(request, name, default):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else int(tensor.as_numpy()[0])
