"""
Logs for people or for machines, on standard error.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from typing import Any

__all__ = ["FORMATS", "set_up_logging", "tell"]

logger = logging.getLogger("protoserve")

FORMATS = ("console", "json")


class JsonFormatter(logging.Formatter):
    """
    One JSON object a line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """
        Compose the object; tracebacks are a string in it.
        """
        moment = time.gmtime(record.created)
        fraction = int(record.msecs)
        entry = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{fraction:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def set_up_logging(style: str, *, verbose: bool = False) -> None:
    """
    Send all logs and warnings to standard error.

    Args:
        style: one of `FORMATS`.
        verbose: show what happens to each peer, not only trouble.
    """
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        )
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True
    )
    logging.captureWarnings(True)
    threading.excepthook = _log_lost_exception
    sys.unraisablehook = _log_lost_exception


def _log_lost_exception(lost: Any) -> None:
    """
    Log an exception that nobody is left to handle, in place of printing it.
    """
    if not isinstance(lost.exc_value, SystemExit):
        logger.error("an exception was lost", exc_info=lost.exc_value)


def tell(text: str) -> None:
    """
    Show what a user can put right, as one line.
    """
    line = " ".join(part.strip() for part in text.splitlines())
    handlers = logging.getLogger().handlers
    if any(isinstance(handler.formatter, JsonFormatter) for handler in handlers):
        logger.error("%s", line)
    else:
        sys.stderr.write(f"protoserve: {line}\n")
