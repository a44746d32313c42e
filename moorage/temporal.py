"""The one place that knows how Moorage speaks to Temporal: connection, payload encryption, workflow sandbox."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

import temporalio.converter
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import PayloadCodec
from temporalio.service import TLSConfig
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from moorage.domain.errors import InvalidRequest
from moorage.settings import Settings

_ENCRYPTED = b"binary/moorage-aes-gcm"


class KeyRing(PayloadCodec):
    """Encrypts everything but bare strings with AES-256-GCM. The first key encrypts, all of them decrypt.

    Bare JSON strings are ids, statuses and the words that Temporal's Web UI shows; secrets travel in objects only.
    """

    def __init__(self, keys: dict[str, bytes]) -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._current = next(iter(keys))

    async def encode(self, payloads: Iterable[Payload]) -> list[Payload]:
        return [payload if _in_clear(payload) else self._encrypt(payload) for payload in payloads]

    async def decode(self, payloads: Iterable[Payload]) -> list[Payload]:
        return [
            self._decrypt(payload) if payload.metadata.get("encoding") == _ENCRYPTED else payload
            for payload in payloads
        ]

    def _encrypt(self, payload: Payload) -> Payload:
        nonce = os.urandom(12)
        data = nonce + self._ciphers[self._current].encrypt(nonce, payload.SerializeToString(), None)
        return Payload(metadata={"encoding": _ENCRYPTED, "key": self._current.encode()}, data=data)

    def _decrypt(self, payload: Payload) -> Payload:
        key_id = payload.metadata["key"].decode()
        if key_id not in self._ciphers:
            raise ValueError(f"no key {key_id!r} in MOORAGE_PAYLOAD_KEYS")
        clear = self._ciphers[key_id].decrypt(payload.data[:12], payload.data[12:], None)
        return Payload.FromString(clear)


def key_ring(text: str) -> KeyRing:
    """Reads `id:64 hex digits[,id:...]`."""
    try:
        pairs = [part.strip().split(":") for part in text.split(",") if part.strip()]
        keys = {key_id: bytes.fromhex(key) for key_id, key in pairs}
    except ValueError:
        keys = {}
    if not keys or any(len(key) != 32 for key in keys.values()):
        raise InvalidRequest("MOORAGE_PAYLOAD_KEYS must be id:64 hex digits, comma separated", code="missing-setting")
    return KeyRing(keys)


def data_converter(payload_keys: str) -> temporalio.converter.DataConverter:
    return dataclasses.replace(temporalio.converter.default(), payload_codec=key_ring(payload_keys))


async def connect(settings: Settings, *, lazy: bool = False) -> Client:
    """A client with our payload encryption. `lazy` connects at the first call, so a role may start before Temporal."""
    return await Client.connect(
        settings.temporal_address,
        namespace=settings.temporal_namespace,
        api_key=settings.temporal_api_key or None,
        tls=TLSConfig() if settings.temporal_api_key else False,
        data_converter=data_converter(settings.payload_keys),
        lazy=lazy,
    )


def workflow_runner() -> SandboxedWorkflowRunner:
    """The sandbox with the kernel passed through: reloading its frozen dataclasses for each run costs 200 ms."""
    return SandboxedWorkflowRunner(
        restrictions=SandboxRestrictions.default.with_passthrough_modules("moorage.domain", "moorage.contracts")
    )


def _in_clear(payload: Payload) -> bool:
    encoding = payload.metadata.get("encoding")
    return encoding == b"binary/null" or (encoding == b"json/plain" and payload.data[:1] == b'"')
