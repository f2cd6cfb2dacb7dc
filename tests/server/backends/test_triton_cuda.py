"""Memory of a GPU: what there is of it on any machine, and the rest where there is a GPU.

Where there is none, ``FakeCuda`` has the few functions of ``cuda.bindings.runtime`` that are used,
over memory of this process: no other process can open its handles, and the real Triton says so.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Generator
from enum import IntEnum
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import grpc.aio
import numpy as np
import pytest
from tests.server.backends.backend_suite import CTX
from tests.triton_server import TritonServer

from protoplane_base import Code, PlaneError
from protoplane_server.backends.opening import open_backend
from protoplane_server.backends.tensors import Datatype, Tensor
from protoplane_server.backends.triton.backend import TritonBackend
from protoplane_server.backends.triton.cuda_memory import CudaError, CudaRegion, why_no_cuda
from protoplane_server.backends.triton.model import TritonModel
from protoplane_server.backends.triton.schema import config_messages, messages

SIZE = 2 << 20


class Status(IntEnum):
    """As ``cudaError_t``."""

    cudaSuccess = 0  # CUDA's name
    cudaErrorMemoryAllocation = 2


class FakeCuda(ModuleType):
    """A machine with two GPUs of 8 MiB each."""

    CUDA_IPC_HANDLE_SIZE = 64
    cudaError_t = Status
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.device = 0
        self.taken: dict[int, tuple[int, ctypes.Array[ctypes.c_char]]] = {}
        self.broken = False
        self._under_way: list[tuple[int, bytes]] = []
        self._handles: dict[int, ctypes.Array[ctypes.c_char]] = {}

    def cudaGetErrorString(self, error: Status) -> tuple[Status, bytes]:
        return Status.cudaSuccess, error.name.encode()

    def cudaGetDeviceCount(self) -> tuple[Status, int]:
        return Status.cudaSuccess, 2

    def cudaGetDevice(self) -> tuple[Status, int]:
        return Status.cudaSuccess, self.device

    def cudaSetDevice(self, device: int) -> tuple[Status]:
        self.device = device
        return (Status.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[Status, int | None]:
        if size > 4 * SIZE:
            return Status.cudaErrorMemoryAllocation, None
        memory = ctypes.create_string_buffer(size)
        address = ctypes.addressof(memory)
        self.taken[address] = (self.device, memory)
        return Status.cudaSuccess, address

    def cudaFree(self, address: int) -> tuple[Status]:
        if address:
            device, _ = self.taken.pop(address)
            assert device == self.device
        return (Status.cudaSuccess,)

    def cudaIpcGetMemHandle(self, address: int) -> tuple[Status, SimpleNamespace]:
        handle = ctypes.create_string_buffer(str(address).encode(), 64)
        self._handles[address] = handle
        return Status.cudaSuccess, SimpleNamespace(getPtr=lambda: ctypes.addressof(handle))

    def cudaMemcpy(
        self, target: int | bytearray, source: int | bytes, size: int, kind: int
    ) -> tuple[Status]:
        if self.broken:
            return (Status.cudaErrorMemoryAllocation,)
        if kind == 1:
            # As with memory that is not pinned: it has been read, and has not arrived.
            assert isinstance(target, int)
            assert isinstance(source, bytes)
            self._under_way.append((target, source[:size]))
        else:
            assert isinstance(target, bytearray)
            assert isinstance(source, int)
            target[:] = ctypes.string_at(source, size)
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Status]:
        assert stream == 0
        for target, data in self._under_way:
            ctypes.memmove(target, data, len(data))
        self._under_way.clear()
        return (Status.cudaSuccess,)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Generator[FakeCuda]:
    cuda = FakeCuda()
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    yield cuda
    assert cuda.device == 0
    assert not cuda.taken


def test_why_there_is_none() -> None:
    why = why_no_cuda(0)
    if find_spec("cuda") is None:
        assert why == "cuda-bindings is not installed; pip install 'protoplane[triton-cuda]'"
    elif why:
        assert why.startswith("CUDA: ")
    assert why_no_cuda(999)


def test_a_gpu_that_there_is_not(fake: FakeCuda) -> None:
    assert why_no_cuda(1) == ""
    assert why_no_cuda(2) == "there is no GPU 2, there are 2"


def _round_trip(device: int) -> None:
    region = CudaRegion(SIZE, device)
    try:
        tensors = [
            Tensor.of("A", np.arange(300_000, dtype=np.int16).reshape(3, -1).T),
            Tensor.of("B", [1.5, -2.0], Datatype.BF16),
        ]
        places: list[slice] = []
        for tensor in tensors:
            size = tensor.size_bytes
            assert size is not None
            offset = region.room(size)
            region.write(tensor, offset)
            places.append(slice(offset, offset + size))
        for tensor, place in zip(tensors, places, strict=True):
            back = Tensor.unpack("", tensor.datatype, tensor.shape, region.read(place))
            np.testing.assert_array_equal(back.data, tensor.data)
        told = region.registration()
        assert told["device_id"] == device
        assert len(bytes(str(told["name"]), "utf-8")) > 0
        handle = told["raw_handle"]
        assert isinstance(handle, bytes)
        assert len(handle) == 64
    finally:
        region.close()
        region.close()


def test_what_is_written_is_read() -> None:
    if why := why_no_cuda(0):
        pytest.skip(f"no GPU: {why}")
    _round_trip(0)


def test_what_is_written_is_read_by_the_fake(fake: FakeCuda) -> None:
    _round_trip(1)


def test_memory_that_fails(fake: FakeCuda) -> None:
    with pytest.raises(CudaError, match="cudaErrorMemoryAllocation"):
        CudaRegion(5 * SIZE, 0)
    region = CudaRegion(SIZE, 0)
    fake.broken = True
    with pytest.raises(PlaneError, match="cuda_device=no") as caught:
        region.write(Tensor.of("A", [1]), 0)
    assert caught.value.code is Code.INTERNAL
    with pytest.raises(PlaneError, match="cuda_device=no"):
        region.read(slice(0, 8))
    region.close()


@pytest.mark.parametrize(
    ("groups", "gpus"),
    [
        ("", ""),
        ("KIND_GPU 0 1;KIND_GPU 3", "013"),
        ("KIND_GPU 0;KIND_CPU", ""),
        ("KIND_AUTO 0", ""),
    ],
)
def test_where_a_model_runs(groups: str, gpus: str) -> None:
    config = config_messages.ModelConfig(name="m")
    for kind, *numbers in (group.split() for group in groups.split(";") if group):
        config.instance_group.add(kind=kind, gpus=map(int, numbers))
    assert TritonModel.of(config, "1").gpus == set(map(int, gpus))


class GpuTriton:
    """Has a model on GPU 0 that doubles, and knows no memory but that of the GPU."""

    def __init__(self) -> None:
        self.regions: dict[str, int] = {}
        self.shared = 0

    def handlers(self) -> Any:
        """What it answers, for a server of gRPC."""
        methods: dict[str, Any] = {
            "ServerLive": self._live,
            "RepositoryIndex": self._index,
            "ModelConfig": self._config,
            "CudaSharedMemoryRegister": self._register,
            "CudaSharedMemoryUnregister": self._unregister,
            "ModelInfer": self._infer,
        }
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                getattr(messages, f"{name}Request").FromString,
                getattr(messages, f"{name}Response").SerializeToString,
            )
            for name, method in methods.items()
        }
        return grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)

    async def _live(self, _request: Any, _ctx: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _index(self, _request: Any, _ctx: Any) -> Any:
        return messages.RepositoryIndexResponse(
            models=[{"name": "double", "version": "1", "state": "READY"}]
        )

    async def _config(self, _request: Any, _ctx: Any) -> Any:
        tensor = {"data_type": "TYPE_FP32", "dims": [20_000]}
        return messages.ModelConfigResponse(
            config={
                "name": "double",
                "input": [{"name": "X", **tensor}],
                "output": [{"name": "Y", **tensor}],
                "instance_group": [{"kind": "KIND_GPU", "gpus": [0]}],
            }
        )

    async def _register(self, request: Any, _ctx: Any) -> Any:
        assert request.device_id == 0
        assert request.byte_size == SIZE
        self.regions[request.name] = int(request.raw_handle.rstrip(b"\0"))
        return messages.CudaSharedMemoryRegisterResponse()

    async def _unregister(self, request: Any, _ctx: Any) -> Any:
        del self.regions[request.name]
        return messages.CudaSharedMemoryUnregisterResponse()

    async def _infer(self, request: Any, _ctx: Any) -> Any:
        [x], [y] = request.inputs, request.outputs
        given = np.frombuffer(ctypes.string_at(*self._place(x)), np.float32)
        target, size = self._place(y)
        ctypes.memmove(target, (given * 2).tobytes(), size)
        self.shared += 1
        return messages.ModelInferResponse(
            outputs=[{"name": "Y", "datatype": "FP32", "shape": [20_000]}],
            raw_output_contents=[b""],
        )

    def _place(self, tensor: Any) -> tuple[int, int]:
        parameters = tensor.parameters
        address = self.regions[parameters["shared_memory_region"].string_param]
        offset: int = parameters["shared_memory_offset"].int64_param
        size: int = parameters["shared_memory_byte_size"].int64_param
        return address + offset, size


@pytest.mark.anyio
async def test_tensors_of_a_model_on_a_gpu_go_through_its_memory(fake: FakeCuda) -> None:
    server = grpc.aio.server()
    triton = GpuTriton()
    server.add_generic_rpc_handlers((triton.handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    backend = open_backend(f"triton://127.0.0.1:{port}?shared_memory_min_bytes=10000")
    assert isinstance(backend, TritonBackend)
    try:
        await backend.start()
        assert backend.shares_cuda
        for number in range(3):
            given = np.full(20_000, number, np.float32)
            [y] = await backend.infer("double", [Tensor.of("X", given)], CTX)
            np.testing.assert_array_equal(y.data, given * 2)
        assert triton.shared == 3
        assert len(triton.regions) == len(fake.taken) == 1
        # What fails on the way leaves the memory to the next request.
        x = [Tensor.of("X", np.ones(20_000, np.float32))]
        fake.broken = True
        with pytest.raises(PlaneError, match="cuda_device=no"):
            await backend.infer("double", x, CTX)
        fake.broken = False
        await backend.infer("double", x, CTX)
        assert len(fake.taken) == 1
    finally:
        await backend.stop()
        await server.stop(None)
    assert not triton.regions


@pytest.mark.anyio
async def test_a_triton_that_takes_no_memory_of_a_gpu(triton: TritonServer, fake: FakeCuda) -> None:
    triton.load("fixed")
    backend = open_backend(f"{triton.url}?shared_memory_min_bytes=10000&cuda_device=1")
    assert isinstance(backend, TritonBackend)
    await backend.start()
    try:
        # It has been asked, and has refused; the memory of the system is still used.
        assert not backend.shares_cuda
        assert backend.shares_memory
        row = np.ones((2, 20_000), np.float32)
        answers = await backend.infer("fixed", [Tensor.of("X", row)], CTX)
        np.testing.assert_array_equal(answers[0].data, row * 2)
    finally:
        await backend.stop()
