"""Structured logs: events with fields, on standard error, one line each."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextlib import AbstractContextManager
from typing import Any

import structlog

from moorage.domain.lines import one_line


def configure(level: str = "INFO", log_format: str = "json", *, role: str = "") -> None:
    """Set up once, in main()."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
    ]
    last: list[structlog.typing.Processor] = (
        [_in_one_line, structlog.dev.ConsoleRenderer()] if log_format == "console" else [_JSON]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(role=role)
    others = logging.StreamHandler(sys.stderr)
    others.setFormatter(_OneLine("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[others])
    logging.getLogger("uvicorn.error").addFilter(_is_news)


# In ASCII, so that nothing in a line ends it.
_JSON = structlog.processors.JSONRenderer()


def _in_one_line(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Nothing that a stranger wrote begins a line of its own; lines of a traceback are indented."""
    for name, value in event.items():
        if name == "exception":
            event[name] = "\n  ".join(one_line(line, _LONGEST) for line in str(value).split("\n"))
        elif isinstance(value, str):
            event[name] = one_line(value, _LONGEST)
    return event


def _is_news(record: logging.LogRecord) -> bool:
    """uvicorn takes a WebSocket that was refused with an answer for one that was forgotten."""
    return record.getMessage() != "ASGI callable returned without completing handshake."


class _OneLine(logging.Formatter):
    """Of the libraries' own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return one_line(super().formatMessage(record), _LONGEST)


_LONGEST = 4000


def get(name: str) -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(source=name)
    return logger


def bound(**fields: str) -> AbstractContextManager[None]:
    """Every line that this task writes meanwhile has these fields."""
    return structlog.contextvars.bound_contextvars(**fields)
