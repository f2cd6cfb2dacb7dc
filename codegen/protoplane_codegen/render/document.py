"""What the documents of a package have in common: who they are about, and prose from comments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from protoplane_codegen.api import File

_VERSION = re.compile(r"v[0-9]+(?:p[0-9]+)?(?:(?:alpha|beta)[0-9]*|test.*)?")
_SENTENCE = re.compile(r".*?[.!?](?=\s|$)|.+", re.DOTALL)


def urn(package: str) -> str:
    """The identifier of a package's documents; it names no host, for none serves them."""
    return f"urn:proto:{package or '-'}"


def title(package: str) -> str:
    """What a package's documents are called."""
    return package or "API"


def info(package: str, files: Iterable[File]) -> dict[str, Any]:
    """The ``info`` object of OpenAPI and AsyncAPI.

    Its version is the last part of the package where that is one, such as ``v1`` or ``v1beta2``.
    """
    last = package.rpartition(".")[2]
    version = last if _VERSION.fullmatch(last) else "unversioned"
    doc = package_doc(files)
    return {
        "title": title(package),
        "version": version,
        **({"description": doc} if doc else {}),
    }


def package_doc(files: Iterable[File]) -> str:
    """What the files of a package say of themselves."""
    return "\n\n".join(file.doc for file in files if file.doc)


def declared(files: Iterable[File]) -> Iterator[str]:
    """Full names of all types that files declare, each message before what is nested in it."""
    for file in files:
        for message in file.all_messages():
            yield message.full_name
        for enum in file.all_enums():
            yield enum.full_name


def prose(doc: str, more: str = "") -> dict[str, str]:
    """``summary`` and ``description`` of an element, each only where it adds something.

    Args:
        doc: The comment: its first sentence is the summary, the whole the description.
        more: What the description says beside it.
    """
    found: dict[str, str] = {}
    if sentence := _SENTENCE.match(doc.partition("\n\n")[0]):
        found["summary"] = " ".join(sentence[0].split()).removesuffix(".")
        if not more and sentence[0] == doc:
            return found
    if description := "\n\n".join(filter(None, [doc, more])):
        found["description"] = description
    return found
