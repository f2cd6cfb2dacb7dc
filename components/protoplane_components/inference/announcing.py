"""What a worker says of itself in discovery: its metadata, and the way back."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from protoplane.inference.v1 import Capability, Model, ModelState
from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Instance

CAPACITY = "PROTOPLANE_INFERENCE_CAPACITY"
"""The environment variable for the most requests that a worker is to be given at a time."""

DEFAULT_CAPACITY = 64

_CAPACITY = "inference.capacity"
_MODELS = "inference.models"
_CAPABILITIES = "inference.capabilities"
_PREFIX = "CAPABILITY_"
_MOST_MODELS = 1000

_WORDS = TypeAdapter(dict[str, list[str]])

_log = logging.getLogger("protoplane.inference")

Loaded = Mapping[str, frozenset[Capability]]
"""The models that a worker has loaded, each with what can be asked of it."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a worker said.

    Attributes:
        capacity: Most requests that it is to be given at a time; ``None`` where it did not say.
        models: The models that it has loaded; ``None`` where it did not say.
    """

    capacity: int | None = None
    models: Loaded | None = None


def loaded(models: Iterable[Model]) -> Loaded:
    """Those of some models that can be used now."""
    return {
        model.name: frozenset(model.capabilities)
        for model in models
        if model.state == ModelState.MODEL_STATE_LOADED
    }


def announce(models: Loaded, capacity: int) -> Mapping[str, str]:
    """What a worker has, as metadata of its instance.

    Of more than 1,000 models it tells nothing; who wants to know asks `ListModels`.
    """
    said = {_CAPACITY: str(capacity), _CAPABILITIES: "", _MODELS: ""}
    if len(models) > _MOST_MODELS:
        return said
    able = {name: sorted(map(_word, can)) for name, can in sorted(models.items())}
    said[_MODELS] = json.dumps(able, separators=(",", ":"))
    said[_CAPABILITIES] = ",".join(sorted({word for can in able.values() for word in can}))
    return said


def announced(instance: Instance) -> Announcement:
    """What an instance says; nothing where it is no such worker.

    What cannot be read is logged, and counts as not said.
    """
    said = instance.metadata
    capacity: int | None = None
    models: Loaded | None = None
    text = said.get(_CAPACITY, "")
    if text:
        if text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31:
            capacity = int(text)
        else:
            _log.warning("%s says that its %s is %.80r", instance.name, _CAPACITY, text)
    text = said.get(_MODELS, "")
    if text:
        models = _models(text)
        if models is None:
            _log.warning("%s says that its %s are %.80r", instance.name, _MODELS, text)
    return Announcement(capacity, models)


def capacity_of(environment: Mapping[str, str]) -> int:
    """The capacity that the environment gives a worker.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is no number from 1 on.
    """
    text = environment.get(CAPACITY) or str(DEFAULT_CAPACITY)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{CAPACITY} is {text!r}; give the most requests at a time, {DEFAULT_CAPACITY} say",
        )
    return int(text)


def _models(text: str) -> Loaded | None:
    try:
        found = _WORDS.validate_json(text)
    except ValidationError:
        return None
    # A capability of a later release is none that can be asked for here.
    return {
        name: frozenset(
            Capability[f"{_PREFIX}{word.upper()}"]
            for word in words
            if f"{_PREFIX}{word.upper()}" in Capability.__members__
        )
        for name, words in found.items()
    }


def _word(capability: Capability) -> str:
    return capability.name.removeprefix(_PREFIX).lower()
