"""What a component defines for its models to be reached by the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from protoplane_server.backends.interface import Backend, ModelMetadata


@runtime_checkable
class ServesModels(Protocol):
    """A component whose models callers reach by KServe's v2 protocol too."""

    @property
    def backend(self) -> Backend:
        """What runs the models."""
        ...

    async def load(
        self, model: str, *, source: str = "", parameters: Mapping[str, str] | None = None
    ) -> ModelMetadata:
        """Load a model; see `protoplane_server.backends.interface.Backend.load`.

        Args:
            model: Its name.
            source: Where its files are, in the component's own words; by its name where empty.
            parameters: Settings of the backend.
        """
        ...

    async def unload(self, model: str) -> None:
        """Unload a model; see `protoplane_server.backends.interface.Backend.unload`."""
        ...
