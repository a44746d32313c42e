"""Settings that can't be are said in one line."""

from __future__ import annotations

import pytest

from moorage.domain.errors import InvalidRequest
from moorage.settings import load_settings


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "MOORAGE_AGENT_CUDA_OFFER",
            "halves",
            "MOORAGE_AGENT_CUDA_OFFER: Input should be 'devices', 'shares' or 'none'",
        ),
        ("MOORAGE_AGENT_CUDA_ATTACH", "usb", "MOORAGE_AGENT_CUDA_ATTACH: Input should be 'auto'"),
        ("MOORAGE_AGENT_PORT", "s3cret", "MOORAGE_AGENT_PORT: Input should be a valid integer"),
        ("MOORAGE_AGENT_CUDA", "s3cret", "unknown setting MOORAGE_AGENT_CUDA"),
    ],
)
def test_a_wrong_setting_is_named_without_what_was_written(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequest) as refused:
        load_settings()
    assert words in refused.value.message
    assert value not in refused.value.message
