"""A file of bearer tokens: who may call, one line each."""

from __future__ import annotations

from pathlib import Path


def read_tokens(path: Path) -> dict[str, str]:
    """Read lines of ``token identity``; empty ones, and those that begin with ``#``, say nothing.

    Args:
        path: The file.

    Returns:
        The identity that each token proves.

    Raises:
        ValueError: A line has another form, a token is there twice, or there is none. No token is
            in the message.
        OSError: The file cannot be read.
    """
    tokens: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise ValueError(
                f"{path}, line {number}: {len(words)} words, not a token and the identity that "
                "it proves"
            )
        token, identity = words
        if token in tokens:
            raise ValueError(f"{path}, line {number}: this token is in the file twice")
        tokens[token] = identity
    if not tokens:
        raise ValueError(f"{path} holds no token, so nobody could call; lines are: token identity")
    return tokens
