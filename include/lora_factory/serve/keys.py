"""Rating tokens and user pseudonyms."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from itsdangerous import BadSignature, SignatureExpired, TimestampSigner

from lora_factory.errors import ConfigurationError, SpecError

TOKEN_SECONDS = 7 * 24 * 3600
KEY_BYTES = 32


def load_key(folder: Path) -> bytes:
    """The server's own key, made at its first start (``rating.key``, owner-readable).

    Raises:
        ConfigurationError: the file can't be used.
    """
    path = folder / "rating.key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            msg = f"{path} does not hold {KEY_BYTES} bytes; remove it (old rating tokens expire)"
            raise ConfigurationError(msg) from None
        return key
    except OSError as err:
        msg = f"{path} can't be written: {err.strerror}; choose another data folder"
        raise ConfigurationError(msg) from err
    key = secrets.token_bytes(KEY_BYTES)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(key)
    return key


class RatingTokens:
    """Signs generation ids (HMAC-SHA256 with time) and names users by pseudonym."""

    def __init__(self, key: bytes, seconds: int = TOKEN_SECONDS) -> None:
        self._signer = TimestampSigner(key, salt=b"rating", digest_method=hashlib.sha256)
        self._key, self._seconds = key, seconds

    def issue(self, generation_id: str) -> str:
        """A token that allows to rate this generation."""
        return self._signer.sign(generation_id).decode()

    def redeem(self, token: str) -> str:
        """The generation id in a token.

        Raises:
            SpecError: not signed by this server, or too old.
        """
        try:
            return self._signer.unsign(token.encode(), max_age=self._seconds).decode()
        except SignatureExpired:
            msg = "rating token has expired; draw the picture again to rate it"
            raise SpecError(msg) from None
        except (BadSignature, UnicodeDecodeError):
            msg = "rating token is not one of this server's; hand back the one you were given"
            raise SpecError(msg) from None

    def pseudonym(self, user: str) -> str:
        """The same 32 hex digits for the same user, on this server only."""
        return hmac.new(self._key, b"user:" + user.encode(), hashlib.sha256).hexdigest()[:32]
