"""Encryption at rest and in Temporal: AES-256-GCM with a key ring. The first key seals, all of them open."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moorage.domain.errors import InvalidRequest


class Seal:
    """Reads `id:64 hex digits[,id:...]`."""

    def __init__(self, keys: str) -> None:
        try:
            pairs = [part.strip().split(":") for part in keys.split(",") if part.strip()]
            ring = {key_id.encode(): bytes.fromhex(key) for key_id, key in pairs}
        except ValueError:
            ring = {}
        if not ring or any(len(key) != 32 for key in ring.values()):
            raise InvalidRequest(
                "MOORAGE_PAYLOAD_KEYS must be id:64 hex digits, comma separated", code="missing-setting"
            )
        self._ciphers = {key_id: AESGCM(key) for key_id, key in ring.items()}
        self._current = next(iter(ring))

    def seal(self, clear: bytes) -> bytes:
        nonce = os.urandom(12)
        return self._current + b":" + nonce + self._ciphers[self._current].encrypt(nonce, clear, self._current)

    def open(self, sealed: bytes) -> bytes:
        key_id, _, rest = sealed.partition(b":")
        if key_id not in self._ciphers:
            raise ValueError(f"no key {key_id.decode(errors='replace')!r} in MOORAGE_PAYLOAD_KEYS")
        return self._ciphers[key_id].decrypt(rest[:12], rest[12:], key_id)

    @property
    def current(self) -> str:
        """The id of the first key."""
        return self._current.decode()
