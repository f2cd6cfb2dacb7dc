"""What may be asked for: requests are checked and completed before they become jobs."""

from __future__ import annotations

import math
import re
import secrets
import uuid
from collections.abc import Sequence

from protoplane.jobs.v1 import GenerateRequest, Model
from protoplane_base import Code, Duration, PlaneError
from protoplane_components.jobs.settings import JobSettings

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", re.ASCII)
_GUIDANCE = 7.5


def check_id(id_: str) -> str:
    """Make sure that a text can name a job.

    Raises:
        PlaneError: INVALID_ARGUMENT; it cannot.
    """
    if not _ID.fullmatch(id_):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{id_[:80]!r} is no id of a job: it is 1 to 128 of A-Z a-z 0-9 . _ - and does not "
            "begin with a dot",
        )
    return id_


def completed(
    request: GenerateRequest, models: Sequence[Model], settings: JobSettings
) -> GenerateRequest:
    """A request with all that it leaves open: its id, seed, size and limits.

    Args:
        request: What a caller asks for.
        models: What the workers have; none where there are no workers yet, which may come.
        settings: The defaults and the limits.

    Raises:
        PlaneError: INVALID_ARGUMENT with the field, its limit and what it is; NOT_FOUND for a model
            or a LoRA that no worker has.
    """
    whole = request.model_copy(
        update={
            "id": check_id(request.id) if request.id else uuid.uuid4().hex,
            "width": _within("width", request.width, settings.width, settings.max_side),
            "height": _within("height", request.height, settings.height, settings.max_side),
            "steps": _within("steps", request.steps, settings.steps, settings.max_steps),
            "guidance_scale": _guidance(request.guidance_scale),
            "seed": secrets.randbits(32) if request.seed is None else request.seed,
            "time_limit": _time_limit(request.time_limit, settings),
            "max_attempts": _within(
                "max_attempts", request.max_attempts, settings.max_attempts, 100
            ),
        }
    )
    if not request.prompt.strip():
        raise PlaneError(Code.INVALID_ARGUMENT, "prompt is empty; say what is to be seen")
    if len(request.prompt) > settings.max_prompt_chars:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"prompt has {len(request.prompt)} characters; "
            f"{settings.max_prompt_chars} are the most",
        )
    for lora in request.loras:
        weight = 1.0 if lora.weight is None else lora.weight
        if not (math.isfinite(weight) and 0 <= weight <= 2):
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"the weight of {lora.name!r} is {weight:g}; it is 0 to 2"
            )
    if models:
        model = _model(request.model, models)
        whole.model = model.name
        for lora in request.loras:
            if lora.name not in model.loras:
                raise PlaneError(
                    Code.NOT_FOUND,
                    f"{model.name} has no LoRA {lora.name!r}; it has {', '.join(model.loras)}",
                )
    return whole


def same(asked: GenerateRequest, kept: GenerateRequest) -> bool:
    """Whether a request that comes again asks for the job that there is."""
    return all(
        getattr(asked, name) in (given, getattr(kept, name)) for name, given in _UNSAID.items()
    ) and (asked.prompt, asked.loras, asked.priority, asked.previews) == (
        kept.prompt,
        kept.loras,
        kept.priority,
        kept.previews,
    )


_UNSAID = {
    "model": "",
    "width": None,
    "height": None,
    "steps": None,
    "guidance_scale": None,
    "seed": None,
    "time_limit": None,
    "max_attempts": None,
}
"""Fields that are completed, and what they are where a request leaves them open."""


def _model(name: str, models: Sequence[Model]) -> Model:
    if not name:
        return models[0]
    for model in models:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in models)
    raise PlaneError(Code.NOT_FOUND, f"no worker has the model {name!r}; they have {known}")


def _within(field: str, value: int | None, default: int, most: int) -> int:
    if value is None:
        return default
    if not 1 <= value <= most:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{field} is {value}; it must be 1 to {most}")
    return value


def _guidance(value: float | None) -> float:
    if value is None:
        return _GUIDANCE
    if not (math.isfinite(value) and 0 <= value <= 100):
        raise PlaneError(Code.INVALID_ARGUMENT, f"guidance_scale is {value:g}; it must be 0 to 100")
    return value


def _time_limit(value: Duration | None, settings: JobSettings) -> Duration:
    if value is None:
        return Duration.from_seconds(settings.time_limit_s)
    if not 0 < value.total_seconds <= settings.max_time_limit_s:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"time_limit is {value.total_seconds:g} s; it must be more than 0 and at most "
            f"{settings.max_time_limit_s:g} s",
        )
    return value
