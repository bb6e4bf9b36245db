"""
Logs for people or for machines, on standard error.
"""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["FORMATS", "set_up_logging"]

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
        return json.dumps(entry, ensure_ascii=False)


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
