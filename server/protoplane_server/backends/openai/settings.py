"""What the URL of an OpenAI-compatible server says."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs, urlsplit, urlunsplit

from protoplane_base import Code, PlaneError

KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable that holds the key where the URL names none."""

TIMEOUT_S = 600.0
"""Longest that a request may take where nobody says less, in seconds."""

_SETTINGS = ("embedder", "key", "key_env", "model", "text", "timeout_s")
# What an error may repeat; the name of a key may be misspelt, so nothing else does.
_PUBLIC = frozenset(_SETTINGS) - {"key"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenaiSettings:
    """Where the server is, and how to speak to it.

    Attributes:
        base_url: Where its API begins, ``http://127.0.0.1:8000/v1`` for example.
        key: What opens it; servers without keys pass over it.
        models: The models to offer; all that the server lists where empty.
        embedders: Which of them make vectors; where empty, those with ``embed`` in their names.
            All others write text.
        chat: Whether a prompt that is a text goes as a message of a user, for servers without
            plain completions.
        timeout_s: Longest that a request may take, in seconds, where its caller sets no earlier
            deadline.
    """

    base_url: str
    key: str = field(default="", repr=False)
    models: tuple[str, ...] = ()
    embedders: tuple[str, ...] = ()
    chat: bool = False
    timeout_s: float = TIMEOUT_S

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read ``openai:http://host:port/v1[?setting=value&…]``.

        ``model`` and ``embedder`` may come more than once, ``text`` is ``completions`` or ``chat``,
        and ``timeout_s`` a number. ``key_env`` names the environment variable that holds the key,
        ``key`` is the key itself; without both it is that of ``$OPENAI_API_KEY``.

        Raises:
            PlaneError: INVALID_ARGUMENT with what is wrong.
        """
        scheme, _, rest = url.partition(":")
        shown = _without_key(url)
        try:
            parts = urlsplit(rest)
            host = parts.hostname if parts.port != 0 else None
        except ValueError as error:
            raise _wrong(shown, str(error)) from None
        if scheme != "openai" or parts.scheme not in ("http", "https") or not host:
            raise _wrong(shown, "it looks like openai:http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise _wrong(f"openai:{parts.scheme}://…", "a key goes into 'key_env' or 'key'")
        asked = parse_qs(parts.query, keep_blank_values=True)
        text = _one(shown, asked, "text", "completions")
        if text not in ("completions", "chat"):
            raise _wrong(shown, f"'text' is completions or chat, not {text!r}")
        timeout = _one(shown, asked, "timeout_s", str(TIMEOUT_S))
        if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", timeout) or float(timeout) == 0:
            raise _wrong(shown, f"'timeout_s' is a number of seconds above 0, not {timeout!r}")
        settings = cls(
            base_url=urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")),
            key=_key(shown, asked),
            models=tuple(asked.pop("model", ())),
            embedders=tuple(asked.pop("embedder", ())),
            chat=text == "chat",
            timeout_s=float(timeout),
        )
        if asked:
            known = ", ".join(_SETTINGS)
            raise _wrong(shown, f"there is no setting {next(iter(asked))!r}; there are {known}")
        return settings


def _without_key(url: str) -> str:
    """The URL as it may be shown: errors and logs are no place for a key."""
    plain, mark, query = url.partition("?")
    named = [each.partition("=") for each in query.split("&")]
    shown = [
        f"{name}{equals}{value if name in _PUBLIC or not value else '…'}"
        for name, equals, value in named
    ]
    return plain + mark + "&".join(shown)


def _key(url: str, asked: dict[str, list[str]]) -> str:
    key = _one(url, asked, "key", "")
    variable = _one(url, asked, "key_env", "")
    if key and variable:
        raise _wrong(url, "'key' and 'key_env' contradict each other")
    if variable and variable not in os.environ:
        raise _wrong(url, f"there is no environment variable {variable!r}")
    return key or os.environ.get(variable or KEY_VARIABLE, "")


def _one(url: str, asked: dict[str, list[str]], name: str, default: str) -> str:
    values = asked.pop(name, [default])
    if len(values) > 1:
        raise _wrong(url, f"{name!r} comes more than once")
    return values[0]


def _wrong(url: str, why: str) -> PlaneError:
    return PlaneError(
        Code.INVALID_ARGUMENT, f"{url!r} is no URL of an OpenAI-compatible server: {why}"
    )
