"""Who is let in: bearer tokens from a file, compared in constant time."""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from pathlib import Path

_SHORTEST = 16
_SENDABLE = re.compile(r"[!-\"$-~]+")  # others reach a server as some clients write them, or not
_COMMENT = re.compile(r"(^|\s)#")


class Tokens:
    """The tokens that let clients in.

    Args:
        tokens: The tokens; None lets everybody in.

    Raises:
        ValueError: There is none, one is so short that it could be guessed, or no header holds it.
    """

    def __init__(self, tokens: list[str] | None) -> None:
        if tokens is not None and not tokens:
            raise ValueError("there is no token in it; write one a line")
        for number, token in enumerate(tokens or (), 1):
            if not _SENDABLE.fullmatch(token):
                raise ValueError(
                    f"token {number} has a blank, a '#' or something that is no ASCII in it; a "
                    "comment begins with '#' after a blank"
                )
            if len(token) < _SHORTEST:
                raise ValueError(
                    f"token {number} has fewer than {_SHORTEST} characters and could be guessed; "
                    "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
                )
        self._digests = None if tokens is None else [_digest(token) for token in tokens]

    @classmethod
    def of(cls, path: Path | None) -> Tokens:
        """Those of a file: one a line; ``#`` starts a comment. Without a file none are wanted.

        Raises:
            OSError: It cannot be read.
            ValueError: As for the class.
        """
        if path is None:
            return cls(None)
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            tokens = (_COMMENT.split(line, maxsplit=1)[0].strip() for line in lines)
            return cls([token for token in tokens if token])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @property
    def wanted(self) -> bool:
        """Whether clients must have one."""
        return self._digests is not None

    def become(self, other: Tokens) -> None:
        """Let in whom others let in."""
        self._digests = other._digests

    def holder(self, authorization: str) -> bytes | None:
        """Which of them the header of a request names; each takes the same time to find.

        Returns:
            What stands for the token, the same for all if none is wanted; None if it is unknown.
        """
        if self._digests is None:
            return b""
        scheme, _, token = authorization.partition(" ")
        digest = _digest(token.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest if scheme.lower() == "bearer" and any(matches) else None


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()
