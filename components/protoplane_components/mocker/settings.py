"""What a served mocker can be told from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protoplane_base import Code, PlaneError
from protoplane_components.mocker.engine import EngineOptions

VARIABLE = "PROTOPLANE_MOCKER"
"""The environment variable with the settings, as ``name=value`` with commas between them."""


class MockerSettings(BaseModel):
    """Settings of a served mocker.

    Attributes:
        model: Name of the model that it plays.
        block_size: Tokens of a block.
        blocks: Blocks of its cache.
        max_batch_tokens: Most tokens that one step computes.
        max_requests: Most requests that are worked on together.
        speedup: By how much faster than a real engine it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, Field(min_length=1, pattern=r"^[^/]+$")] = "mock"
    block_size: Annotated[int, Field(ge=1)] = 64
    blocks: Annotated[int, Field(ge=1)] = 16384
    max_batch_tokens: Annotated[int, Field(ge=1)] = 8192
    max_requests: Annotated[int, Field(ge=1)] = 256
    speedup: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @property
    def engine(self) -> EngineOptions:
        """What its engine can hold; every token is seen when it is written."""
        return EngineOptions(
            block_size=self.block_size,
            blocks=self.blocks,
            max_batch_tokens=self.max_batch_tokens,
            max_requests=self.max_requests,
            max_run=1,
        )


def parse_settings(text: str) -> MockerSettings:
    """Read settings as they stand in ``PROTOPLANE_MOCKER``.

    Raises:
        PlaneError: INVALID_ARGUMENT for one that there is not, or a value that does not do.
    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    try:
        return MockerSettings.model_validate(
            {name.strip(): value.strip() for name, _, value in pairs}
        )
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in found["loc"])
        known = ", ".join(MockerSettings.model_fields)
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{VARIABLE}: {name}: {found['msg']}; there are {known}, as in blocks=1024,speedup=10",
        ) from None
