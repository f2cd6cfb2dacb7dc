"""Shared memory on a GPU: what a model there reads and writes without a copy of Triton's.

It takes the package ``cuda-bindings``, of the extra ``triton-cuda``. CUDA hands memory to another
process of the same machine by a handle, which Triton is told (Triton's CUDA shared memory
extension, `tritonclient.utils.cuda_shared_memory`).
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar

from protoplane_base import Code, PlaneError
from protoplane_server.backends.tensors import Tensor
from protoplane_server.backends.triton.shared_memory import Region

_log = logging.getLogger("protoplane.server")

_DEFAULT_STREAM = 0
"""The stream of ``cudaMemcpy``. Source: CUDA Runtime API, "API synchronization behavior"."""


class CudaError(OSError):
    """What CUDA says went wrong."""


def why_no_cuda(device: int) -> str:
    """Why memory of a GPU cannot be shared from here; empty where it can.

    The first time it sets CUDA up, which may take a second.

    Args:
        device: Number of the GPU.
    """
    try:
        runtime = _runtime()
        count: int = _done(runtime, runtime.cudaGetDeviceCount)
        if device >= count:
            return f"there is no GPU {device}, there are {count}"
        with _device(runtime, device):
            _done(runtime, runtime.cudaFree, 0)
    except ModuleNotFoundError:
        return "cuda-bindings is not installed; pip install 'protoplane[triton-cuda]'"
    except (ImportError, CudaError) as error:
        return str(error)
    return ""


class CudaRegion(Region):
    """A piece of the memory of a GPU.

    Args:
        size: Its length in bytes.
        device: Number of the GPU, the same here and for Triton.

    Raises:
        CudaError: There is no room for it.
    """

    kind: ClassVar[str] = "Cuda"

    __slots__ = ("_address", "_device", "_handle", "_runtime")

    def __init__(self, size: int, device: int) -> None:
        super().__init__(size)
        self._device = device
        self._runtime: Any = _runtime()
        runtime = self._runtime
        with _device(runtime, device):
            self._address: int = int(_done(runtime, runtime.cudaMalloc, size))
            try:
                handle = _done(runtime, runtime.cudaIpcGetMemHandle, self._address)
            except CudaError:
                _done(runtime, runtime.cudaFree, self._address)
                raise
        length: int = runtime.CUDA_IPC_HANDLE_SIZE
        self._handle = ctypes.string_at(handle.getPtr(), length)

    def registration(self) -> dict[str, object]:
        """See `Region.registration`."""
        return {
            "name": self.name,
            "raw_handle": self._handle,
            "device_id": self._device,
            "byte_size": self.size,
        }

    def write(self, tensor: Tensor, offset: int) -> None:
        """See `Region.write`; returns once it is there."""
        packed = tensor.pack()
        direction = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(self._address + offset, packed, len(packed), direction)

    def read(self, place: slice) -> memoryview:
        """See `Region.read`."""
        buffer = bytearray(place.stop - place.start)
        direction = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(buffer, self._address + place.start, len(buffer), direction)
        return memoryview(buffer)

    def hide(self) -> None:
        """See `Region.hide`: the driver takes back what a process has that is killed."""

    def leave(self) -> None:
        """See `Region.leave`: CUDA wants it kept while another process has it open."""

    def close(self) -> None:
        """See `Region.close`."""
        address, self._address = self._address, 0
        if address:
            try:
                with _device(self._runtime, self._device):
                    _done(self._runtime, self._runtime.cudaFree, address)
            except CudaError as error:
                _log.warning("memory of GPU %d cannot be given back: %s", self._device, error)

    def _copy(self, target: object, source: object, size: int, direction: object) -> None:
        try:
            with _device(self._runtime, self._device):
                _done(self._runtime, self._runtime.cudaMemcpy, target, source, size, direction)
                # From memory of the host that is not pinned a copy "returns" once CUDA has read
                # that, and the GPU may get it later; another process knows nothing of our stream.
                _done(self._runtime, self._runtime.cudaStreamSynchronize, _DEFAULT_STREAM)
        except CudaError as error:
            raise PlaneError(
                Code.INTERNAL,
                f"tensors cannot be copied to GPU {self._device} or back: {error}; "
                "the setting cuda_device=no of the URL keeps them off it",
            ) from error


def _runtime() -> Any:
    return import_module("cuda.bindings.runtime")


def _done(runtime: Any, call: Callable[..., Any], *args: object) -> Any:
    error, *values = call(*args)
    if error != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(error)
        raise CudaError(f"CUDA: {text.decode()}")
    return values[0] if values else None


@contextmanager
def _device(runtime: Any, device: int) -> Generator[None]:
    """Work with a GPU, and leave the thread with the one that it had."""
    before = _done(runtime, runtime.cudaGetDevice)
    _done(runtime, runtime.cudaSetDevice, device)
    try:
        yield
    finally:
        _done(runtime, runtime.cudaSetDevice, before)
