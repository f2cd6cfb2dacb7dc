"""Tells the event plane and the state plane what becomes of models."""

from __future__ import annotations

import logging
from urllib.parse import quote

from protoplane.inference.v1 import ModelStatusChanged
from protoplane_base import PlaneError, Timestamp
from protoplane_components.inference.conversion import state_of
from protoplane_runtime.engines.state_lease import StateLease
from protoplane_server import Host
from protoplane_server.backends.interface import ModelState

_log = logging.getLogger("protoplane.inference")


class ModelStatusBoard:
    """Publishes each change, and keeps the newest of each model under its key.

    The key is ``<component>/models/<name>``; instances of one component share it, and the value
    says which of them was the last to change. Beside it, ``<instance>/models/<name>`` has on the
    state plane what this instance has, for as long as it has it; that of one that was killed goes
    after a minute.

    Args:
        host: The server.

    Attributes:
        told: The newest that was told of each model that is not unloaded: its state and version.
    """

    def __init__(self, host: Host) -> None:
        self.told: dict[str, tuple[ModelState, str]] = {}
        self._host = host
        self._component = host.name.rpartition("/")[0]
        self._own = None if host.state is None else StateLease(host.state)

    def key(self, model: str) -> str:
        """The key of a model; characters that a key cannot have are percent-encoded."""
        return f"{self._component}/models/{quote(model, safe='')}"

    def _own_key(self, model: str) -> str:
        return f"{self._host.name}/models/{quote(model, safe='')}"

    async def tell(
        self, model: str, state: ModelState, *, version: str = "", reason: str = ""
    ) -> None:
        """Tell both planes what has become of a model.

        A plane that is away is logged, and changes nothing.
        """
        changed = await self.keep(model, state, version, reason)
        try:
            await self._host.publish(changed, key=self.key(model))
        except PlaneError as error:
            _log.warning("nobody was told that %s is %s: %s", model, state, error.message)

    async def keep(
        self, model: str, state: ModelState, version: str = "", reason: str = ""
    ) -> ModelStatusChanged:
        """Tell the state plane alone: when a server stops, its event log has ended by then."""
        self.told.pop(model, None)
        if state is not ModelState.UNLOADED:
            self.told[model] = state, version
        changed = ModelStatusChanged(
            name=model,
            state=state_of(state),
            version=version,
            reason=reason,
            instance=self._host.name,
            changed_at=Timestamp.now(),
        )
        if self._host.state is not None and self._own is not None:
            try:
                value = changed.model_dump_json().encode()
                await self._host.state.put(self.key(model), value)
                if state is ModelState.UNLOADED:
                    await self._own.delete(self._own_key(model))
                else:
                    await self._own.put(self._own_key(model), value)
            except PlaneError as error:
                _log.warning("nobody will find that %s is %s: %s", model, state, error.message)
        return changed

    async def close(self) -> None:
        """Take back what this instance says of itself; the component's keys stay."""
        if self._own is not None:
            await self._own.close()
