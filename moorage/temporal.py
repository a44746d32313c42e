"""The one place that knows how Moorage speaks to Temporal: connection, payload encryption, workflow sandbox."""

from __future__ import annotations

import py_compile
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import temporalio.converter
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import (
    CompositePayloadConverter,
    DefaultFailureConverterWithEncodedAttributes,
    DefaultPayloadConverter,
    JSONPlainPayloadConverter,
    PayloadCodec,
)
from temporalio.service import TLSConfig
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from moorage.contracts.shown import Shown
from moorage.seal import Seal
from moorage.settings import Settings

_ENCRYPTED = b"binary/moorage-aes-gcm"
_SHOWN = "moorage-shown"
# What the Web UI asks a workflow for: its details in words, and the names of its signals and queries.
_METADATA = b"temporal.api.sdk.v1.WorkflowMetadata"


class KeyRing(PayloadCodec):
    """Encrypts everything but what is marked as Shown. What older releases sent in clear is read as it is."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    async def encode(self, payloads: Iterable[Payload]) -> list[Payload]:
        return [payload if _in_clear(payload) else self._encrypt(payload) for payload in payloads]

    async def decode(self, payloads: Iterable[Payload]) -> list[Payload]:
        return [
            Payload.FromString(self._seal.open(payload.data))
            if payload.metadata.get("encoding") == _ENCRYPTED
            else payload
            for payload in payloads
        ]

    def _encrypt(self, payload: Payload) -> Payload:
        return Payload(metadata={"encoding": _ENCRYPTED}, data=self._seal.seal(payload.SerializeToString()))


class _Json(JSONPlainPayloadConverter):
    """Marks what is Shown, so that the codec lets it through."""

    def to_payload(self, value: Any) -> Payload | None:
        payload = super().to_payload(value)
        if payload is not None and isinstance(value, Shown):
            payload.metadata[_SHOWN] = b"1"
        return payload


class _Converter(CompositePayloadConverter):
    def __init__(self) -> None:
        *others, _ = DefaultPayloadConverter.default_encoding_payload_converters  # the last one is for plain JSON
        super().__init__(*others, _Json())


def data_converter(payload_keys: str) -> temporalio.converter.DataConverter:
    """Failures are encrypted with their words and stack traces; their types stay readable, for retry policies."""
    return temporalio.converter.DataConverter(
        payload_converter_class=_Converter,
        payload_codec=KeyRing(Seal(payload_keys)),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


async def connect(settings: Settings, *, lazy: bool = False) -> Client:
    """A client with our payload encryption. `lazy` connects at the first call, so a role may start before Temporal."""
    return await _connect(settings, data_converter(settings.payload_keys), lazy=lazy)


async def connect_without_keys(settings: Settings) -> Client:
    """A client that can see which workflows there are, and neither read nor write what is said to them."""
    return await _connect(settings, temporalio.converter.default(), lazy=False)


async def _connect(settings: Settings, converter: temporalio.converter.DataConverter, *, lazy: bool) -> Client:
    return await Client.connect(
        settings.temporal_address,
        namespace=settings.temporal_namespace,
        api_key=settings.temporal_api_key or None,
        tls=TLSConfig() if settings.temporal_api_key else False,
        data_converter=converter,
        lazy=lazy,
    )


def workflow_runner() -> SandboxedWorkflowRunner:
    """The sandbox with the kernel passed through: reloading its frozen dataclasses for each run costs 200 ms.

    What is not passed through is loaded for each run, so its bytecode must lie ready: compiling it costs 8 ms, and with
    PYTHONDONTWRITEBYTECODE nobody else would keep it.
    """
    package = find_spec("workflows")
    for folder in (package.submodule_search_locations if package is not None else None) or ():
        for file in Path(folder).glob("*.py"):
            with suppress(OSError):  # a folder that can't be written: slower, not wrong
                py_compile.compile(str(file), quiet=1)
    return SandboxedWorkflowRunner(
        restrictions=SandboxRestrictions.default.with_passthrough_modules("moorage.domain", "moorage.contracts")
    )


def _in_clear(payload: Payload) -> bool:
    encoding = payload.metadata.get("encoding")
    if encoding == b"json/protobuf":
        return payload.metadata.get("messageType") == _METADATA
    return encoding == b"binary/null" or _SHOWN in payload.metadata
