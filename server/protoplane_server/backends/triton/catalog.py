"""The models that Triton has: what they are, remembered, and how they come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import ModelMetadata, ModelState
from protoplane_server.backends.triton.connection import Connection
from protoplane_server.backends.triton.model import READY, TritonModel, state_of
from protoplane_server.backends.triton.schema import messages

_POLL_S = 0.02
_SLOWEST_POLL_S = 0.5
_MAX_REMEMBERED = 1000
_MAX_REMEMBERED_BYTES = 256 << 20

_RESTORE_S = 600.0
"""Longest that loading a model again may take."""


class Catalog:
    """Asks Triton about its models, once each until told to forget.

    Remembers what was loaded through it, as a Triton that starts anew has no models.

    Args:
        connection: Where it is.
        ask_s: Longest that an answer may take, in seconds.
    """

    def __init__(self, connection: Connection, ask_s: float) -> None:
        self._connection = connection
        self._ask_s = ask_s
        self._models: dict[tuple[str, str], TritonModel] = {}
        self._brought: set[str] = set()
        self._loaded: dict[str, Mapping[str, Any]] = {}
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def known(self, model: str, version: str = "") -> TritonModel | None:
        """A model that can be used, if it was asked about before."""
        return self._models.get((model, version))

    async def find(self, model: str, version: str = "") -> TritonModel:
        """A model that can be used; loads it again where Triton has started anew.

        Raises:
            PlaneError: NOT_FOUND, FAILED_PRECONDITION for one that is not loaded, UNAVAILABLE, and
                why one that was loaded before cannot be loaded again.
        """
        found = self._models.get((model, version))
        if found is not None:
            return found
        try:
            return await self._look_up(model, version)
        except PlaneError as error:
            absent = error.code in (Code.NOT_FOUND, Code.FAILED_PRECONDITION)
            if not absent or not await self.restore(model):
                raise
        return await self._look_up(model, version)

    async def restore(self, model: str) -> bool:
        """Load a model again that was loaded here, if Triton has lost it; once for all that ask.

        What cannot be loaded again is not tried a second time. Cancelling leaves Triton to it.

        Returns:
            Whether it was loaded here and not unloaded: it may be there now.

        Raises:
            PlaneError: See `load`.
        """
        if model not in self._loaded:
            return False
        async with self._lock(model):
            parameters = self._loaded.get(model)
            if parameters is None:
                return False
            if not await self._lost(model):
                return True
            try:
                await self._load(model, parameters, _RESTORE_S)
            except PlaneError as error:
                if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                    self._loaded.pop(model, None)
                raise
            return True

    async def _look_up(self, model: str, version: str) -> TritonModel:
        entry = await self._entry(model, version)
        state, reason = state_of(entry)
        if state is not ModelState.LOADED:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"{model} is {state}, not loaded{f': {reason}' if reason else ''}; "
                "load it first (LoadModel)",
            )
        return await self._configured(model, version, entry)

    async def metadata(self, model: str, version: str) -> ModelMetadata:
        """What a model is, whatever its state.

        Raises:
            PlaneError: NOT_FOUND, UNAVAILABLE.
        """
        return await self._metadata(await self._entry(model, version))

    async def list(self) -> Sequence[ModelMetadata]:
        """All models, by name."""
        newest = _newest(await self._index())
        return [await self._metadata(newest[name]) for name in sorted(newest)]

    async def executions(self, model: str) -> tuple[int, int]:
        """How often a model was run, and on how many items, since it was loaded.

        Raises:
            PlaneError: NOT_FOUND, UNAVAILABLE.
        """
        entry = await self._entry(model, "")
        if state_of(entry)[0] is not ModelState.LOADED:
            return 0, 0
        answer = await self._connection.ask("ModelStatistics", self._ask_s, name=model)
        return (
            sum(each.execution_count for each in answer.model_stats),
            sum(each.inference_count for each in answer.model_stats),
        )

    async def load(self, model: str, parameters: Mapping[str, Any], timeout_s: float) -> None:
        """Load a model.

        Raises:
            PlaneError: NOT_FOUND, INVALID_ARGUMENT for files that are no model,
                FAILED_PRECONDITION where Triton loads none on demand, UNAVAILABLE.
        """
        async with self._lock(model):
            await self._load(model, parameters, timeout_s)
            self._loaded.pop(model, None)
            taken = sum(_size(each) for each in self._loaded.values())
            room = taken + _size(parameters) <= _MAX_REMEMBERED_BYTES
            if room and len(self._loaded) < _MAX_REMEMBERED:
                self._loaded[model] = parameters

    async def _load(self, model: str, parameters: Mapping[str, Any], timeout_s: float) -> None:
        try:
            await self._connection.ask(
                "RepositoryModelLoad", timeout_s, model_name=model, parameters=parameters
            )
        except PlaneError as error:
            raise _load_error(model, error) from error
        finally:
            self.forget(model)
        if len(parameters) > 1 and len(self._brought) < _MAX_REMEMBERED:
            self._brought.add(model)

    async def unload(self, model: str, timeout_s: float, leave: Callable[[], None]) -> None:
        """Unload a model; returns once it is gone.

        Args:
            model: Its name.
            timeout_s: How long that may take, in seconds.
            leave: Ends what it works on; called before, and for what came meanwhile after, it is
                told to take on nothing more.

        Raises:
            PlaneError: NOT_FOUND, DEADLINE_EXCEEDED, UNAVAILABLE.
        """
        async with self._lock(model):
            await self._unload(model, timeout_s, leave)

    async def _unload(self, model: str, timeout_s: float, leave: Callable[[], None]) -> None:
        await self._entry(model, "")
        leave()
        try:
            await self._connection.ask("RepositoryModelUnload", self._ask_s, model_name=model)
        except PlaneError as error:
            raise _load_error(model, error) from error
        else:
            # From now on it is absent because somebody wanted that.
            self._loaded.pop(model, None)
        finally:
            self.forget(model)
        leave()
        wait_s = _POLL_S
        try:
            async with asyncio.timeout(timeout_s):
                while await self._present(model):
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, _SLOWEST_POLL_S)
        except TimeoutError:
            raise PlaneError(
                Code.DEADLINE_EXCEEDED, f"{model} is still unloading after {timeout_s:g} s"
            ) from None

    def forget(self, model: str) -> None:
        """Ask anew about a model the next time."""
        for key in [key for key in self._models if key[0] == model]:
            del self._models[key]

    def _lock(self, model: str) -> asyncio.Lock:
        """Lets loads and unloads of one model happen one after the other."""
        return self._changing.setdefault(model, asyncio.Lock())

    async def _lost(self, model: str) -> bool:
        """Whether Triton has never had a model since it started; of an unload it says so."""
        entries = [entry for entry in await self._index() if entry.name == model]
        entries = entries or list(await self._unlisted(model))
        return all(not entry.state and not entry.reason for entry in entries)

    async def _present(self, model: str) -> bool:
        entries = [entry for entry in await self._index() if entry.name == model]
        busy = (ModelState.LOADED, ModelState.LOADING, ModelState.UNLOADING)
        return any(state_of(entry)[0] in busy for entry in entries)

    async def _metadata(self, entry: Any) -> ModelMetadata:
        state, reason = state_of(entry)
        if state is ModelState.LOADED:
            try:
                return (await self._configured(entry.name, "", entry)).metadata
            except PlaneError as error:
                if error.code is not Code.NOT_FOUND:
                    raise
                state = ModelState.UNLOADED  # It went a moment ago.
        return ModelMetadata(
            entry.name, "triton", frozenset(), state, reason, version=entry.version
        )

    async def _configured(self, model: str, version: str, entry: Any) -> TritonModel:
        answer = await self._connection.ask("ModelConfig", self._ask_s, name=model, version=version)
        found = TritonModel.of(answer.config, entry.version)
        if len(self._models) >= _MAX_REMEMBERED:
            self._models.clear()
        self._models[model, version] = found
        return found

    async def _entry(self, model: str, version: str) -> Any:
        entries = [entry for entry in await self._index() if entry.name == model]
        entries = entries or list(await self._unlisted(model))
        if not entries:
            raise PlaneError(
                Code.NOT_FOUND, f"Triton at {self._connection.address} has no model {model!r}"
            )
        if not version:
            return _newest(entries)[model]
        for entry in entries:
            if entry.version == version:
                return entry
        raise PlaneError(
            Code.NOT_FOUND,
            f"there is no version {version!r} of {model}; there is "
            f"{', '.join(entry.version for entry in entries if entry.version) or 'none'}",
        )

    async def _index(self) -> Sequence[Any]:
        answer = await self._connection.ask("RepositoryIndex", self._ask_s)
        listed = list(answer.models)
        for name in self._brought - {entry.name for entry in listed}:
            listed += await self._unlisted(name)
        return listed

    async def _unlisted(self, model: str) -> Sequence[Any]:
        """Entries of a model whose files were sent: Triton's index has only those of its folder."""
        entry = messages.RepositoryIndexResponse.ModelIndex
        try:
            found = await self._connection.ask("ModelMetadata", self._ask_s, name=model)
        except PlaneError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return [entry(name=model)] if model in self._brought else []
        return [entry(name=model, version=each, state=READY) for each in found.versions]


def _size(parameters: Mapping[str, Any]) -> int:
    return sum(
        len(each.bytes_param) + len(each.string_param.encode()) for each in parameters.values()
    )


def _newest(entries: Sequence[Any]) -> dict[str, Any]:
    """Of each name the version that Triton takes where none is said: the highest that is ready."""
    return {
        entry.name: entry
        for entry in sorted(
            entries,
            key=lambda entry: (
                state_of(entry)[0] is ModelState.LOADED,
                int(entry.version) if entry.version.isdecimal() else -1,
            ),
        )
    }


def _load_error(model: str, error: PlaneError) -> PlaneError:
    if "failed to poll" in error.message:
        return PlaneError(
            Code.NOT_FOUND, f"there is no model {model!r} in the repository of Triton"
        )
    if "explicit model" in error.message:
        return PlaneError(
            Code.FAILED_PRECONDITION,
            "Triton loads and unloads nothing on demand; start it with "
            "--model-control-mode=explicit",
        )
    if error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
        return error
    return PlaneError(Code.INVALID_ARGUMENT, f"{model} cannot be loaded: {error.message}")
