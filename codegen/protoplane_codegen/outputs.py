"""What a run is to make, from the plugin's parameter or the command's flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from protoplane_codegen.errors import GenerateError

FAMILIES = ("dataclass", "typeddict", "msgspec")
"""Families of Python types that can stand beside the Pydantic models."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What to make beside the Pydantic models and services.

    Attributes:
        documents: Whether to write OpenAPI, AsyncAPI and JSON Schema.
        models: A family of plain Python types to render as well, one of `FAMILIES`; empty for none.
    """

    documents: bool = True
    models: str = ""

    def __post_init__(self) -> None:
        if self.models and self.models not in FAMILIES:
            raise GenerateError(f"there are no {self.models!r} models; use {', '.join(FAMILIES)}")

    @classmethod
    def parse(cls, parameter: str) -> Self:
        """Read a plugin parameter such as ``models=dataclass,documents=false``.

        Raises:
            GenerateError: It has an option that does not exist, or a value that does not fit.
        """
        values: dict[str, str] = {}
        for pair in filter(None, parameter.split(",")):
            name, _, value = pair.partition("=")
            values[name] = value
        documents = values.pop("documents", "true")
        models = values.pop("models", "")
        if values or documents not in ("true", "false"):
            raise GenerateError(
                f"the plugin does not take {parameter!r}; "
                f"use documents=true|false, models={'|'.join(FAMILIES)}"
            )
        return cls(documents=documents == "true", models=models)
