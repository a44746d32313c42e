"""What Temporal gets to see."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.converter import default
from temporalio.exceptions import ApplicationError

from moorage.contracts.shown import Shown
from moorage.domain.session import KernelSpec
from moorage.temporal import data_converter

OLD, NEW = "k1:" + "11" * 32, "k2:" + "22" * 32
SECRET = "hunter2-hunter2"


def a_spec() -> KernelSpec:
    return KernelSpec(
        "s", "k", 0, "n1", "img", ["true"], {"TOKEN": SECRET}, {"cpu": 1}, files={"/run/secrets/x": "aA=="}
    )


@pytest.mark.parametrize(
    "value", [SECRET, [SECRET], {"a": SECRET}, SECRET.encode(), a_spec(), "", 7, True, WorkflowMetadata().definition],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
async def test_everything_is_encrypted(value: Any) -> None:
    converter = data_converter(OLD)
    [payload] = await converter.encode([value])
    assert payload.metadata["encoding"] == b"binary/moorage-aes-gcm"
    assert SECRET.encode() not in payload.SerializeToString()
    assert (await converter.decode([payload], [type(value)]))[0] == value


async def test_what_is_shown_goes_in_clear_and_comes_back_as_text() -> None:
    converter = data_converter(OLD)
    [payload] = await converter.encode([Shown("create the container on n1")])
    assert payload.data == b'"create the container on n1"'
    assert payload.metadata["encoding"] == b"json/plain"
    assert await converter.decode([payload], [str]) == ["create the container on n1"]
    assert await default().decode([payload], [str]) == ["create the container on n1"]


async def test_what_is_shown_inside_something_else_is_encrypted_with_it() -> None:
    [payload] = await data_converter(OLD).encode([[Shown(SECRET)]])
    assert SECRET.encode() not in payload.SerializeToString()


async def test_the_details_that_the_web_ui_asks_for_are_readable() -> None:
    [payload] = await data_converter(OLD).encode([WorkflowMetadata(current_details="**RUNNING**")])
    assert b"RUNNING" in payload.data


async def test_what_older_releases_sent_in_clear_is_read() -> None:
    clear = Payload(metadata={"encoding": b"json/plain"}, data=b'"RUNNING"')
    assert await data_converter(OLD).decode([clear], [str]) == ["RUNNING"]


async def test_a_failure_is_encrypted_and_its_type_and_details_still_tell() -> None:
    converter, failure = data_converter(OLD), Failure()
    try:
        raise ApplicationError(SECRET, {"why": SECRET}, type="create-refused", non_retryable=True) from OSError(SECRET)
    except ApplicationError as error:
        await converter.encode_failure(error, failure)
    assert SECRET.encode() not in failure.SerializeToString()
    assert failure.stack_trace == ""
    assert (failure.application_failure_info.type, failure.application_failure_info.non_retryable) == (
        "create-refused",
        True,
    )
    back = await converter.decode_failure(failure)
    assert isinstance(back, ApplicationError)
    assert (back.message, back.type, list(back.details)) == (SECRET, "create-refused", [{"why": SECRET}])
    assert SECRET in str(back.__cause__)


async def test_a_new_first_key_reads_what_the_old_one_wrote_and_writes_with_itself() -> None:
    [old] = await data_converter(OLD).encode(["said before"])
    ring = data_converter(f"{NEW},{OLD}")
    [new] = await ring.encode(["said after"])
    assert await ring.decode([old, new]) == ["said before", "said after"]
    assert await data_converter(NEW).decode([new]) == ["said after"]
    with pytest.raises(ValueError, match="no key 'k1'"):
        await data_converter(NEW).decode([old])


def test_a_kernel_never_shows_its_environment_or_files() -> None:
    assert SECRET not in repr(a_spec())
    assert "aA==" not in repr(a_spec())
