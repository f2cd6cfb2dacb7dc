"""Shared memory of the system: a file in ``/dev/shm`` that Triton and this process both map.

Source: Triton's system shared memory extension.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from typing import ClassVar

import numpy as np

from protoplane_server.backends.tensors import Datatype, Tensor
from protoplane_server.backends.triton.region_owner import FOLDER
from protoplane_server.backends.triton.shared_memory import Region


class SystemRegion(Region):
    """A piece of POSIX shared memory.

    Args:
        size: Its length in bytes.
        name: What Triton is to call it; made up where absent.

    Raises:
        OSError: There is no room for it.
    """

    kind: ClassVar[str] = "System"

    __slots__ = ("_memory", "_path")

    def __init__(self, size: int, name: str = "") -> None:
        super().__init__(size, name)
        self._path = FOLDER / self.name
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # The memory itself, not the promise of it, whose breach would be a SIGBUS.
            os.posix_fallocate(file, 0, size)
            self._memory = mmap.mmap(file, size)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(file)

    def registration(self) -> dict[str, object]:
        """See `Region.registration`."""
        return {"name": self.name, "key": f"/{self.name}", "byte_size": self.size}

    def write(self, tensor: Tensor, offset: int) -> None:
        """See `Region.write`."""
        if tensor.datatype is Datatype.BF16:
            packed = tensor.pack()
            self._memory[offset : offset + len(packed)] = packed
        else:
            data = tensor.data
            flat = np.frombuffer(self._memory, tensor.datatype.dtype, data.size, offset)
            np.copyto(flat.reshape(tensor.shape), data)

    def read(self, place: slice) -> bytes:
        """See `Region.read`."""
        return self._memory[place]

    def hide(self) -> None:
        """See `Region.hide`: whoever has the file keeps it, and it goes with the last of them."""
        self._path.unlink(missing_ok=True)

    def leave(self) -> None:
        """See `Region.leave`: what Triton has of it stays until that lets go."""
        self.close()

    def close(self) -> None:
        """See `Region.close`."""
        self.hide()
        with suppress(BufferError):  # An array still stands on it; the memory goes with that.
            self._memory.close()
