"""
Templates on disk, so that a collector that starts again need not wait for them.

One SQLite file, written in batches and never waited for: what is lost with it comes
again with the exporter's next template. So a file that is damaged, or cannot be written,
is no reason to stop; it is put aside, and the log has a line.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from protocols.netflow.templates import Template, read_templates

__all__ = ["TemplateStore"]

logger = logging.getLogger("protoserve")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS templates (
    exporter TEXT, proven INTEGER, domain INTEGER, version INTEGER, options INTEGER,
    id INTEGER, definition BLOB, since REAL, seen REAL,
    PRIMARY KEY (exporter, version, domain, id)
) WITHOUT ROWID
"""


class Row(NamedTuple):
    """
    A template of an exporter.
    """

    host: str
    is_proven: bool
    domain: int
    template: Template
    since: float
    seen: float


class TemplateStore:
    """
    The file ``templates.sqlite`` in a folder.

    Args:
        folder: where it is; it is made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "templates.sqlite"
        self._failed = False
        self._connection: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open()
        except (sqlite3.Error, OSError) as exc:
            self._put_aside(exc)

    def _open(self) -> None:
        # One thread at a time uses it, but not always the one that has opened it.
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_SCHEMA)
            connection.execute("SELECT seen FROM templates LIMIT 1").fetchall()
        except sqlite3.Error:
            connection.close()
            raise
        self._connection = connection

    def _put_aside(self, exc: Exception) -> None:
        """
        Begin with an empty file, or none.
        """
        logger.warning("%s cannot be used and is put aside: %s", self._path, exc)
        self.close()
        try:
            with contextlib.suppress(FileNotFoundError):
                self._path.replace(self._path.with_suffix(".damaged"))
            for end in ("-wal", "-shm"):
                Path(f"{self._path}{end}").unlink(missing_ok=True)
            self._open()
        except (sqlite3.Error, OSError) as again:
            logger.warning("templates are not kept: %s", again)

    def load(self) -> Iterator[Row]:
        """
        Give all that is kept, what was seen longest ago first.
        """
        if self._connection is None:
            return
        rows = []
        try:
            rows = self._connection.execute(
                "SELECT exporter, proven, domain, version, options, definition, "
                "since, seen FROM templates ORDER BY seen"
            ).fetchall()
        except (sqlite3.Error, OverflowError) as exc:
            self._put_aside(exc)
        for host, proven, domain, version, options, definition, since, seen in rows:
            set_id = (1 if options else 0) + (0 if version == 9 else 2)
            try:
                (template,) = read_templates(bytes(definition), version, set_id)
            except (ValueError, TypeError):
                continue
            if isinstance(template, Template):
                yield Row(host, bool(proven), domain, template, since, seen)

    @staticmethod
    def row(
        domain: int, template: Template, since: float, seen: float
    ) -> tuple[object, ...]:
        """
        Give what is kept of a template, behind whose it is.
        """
        options = template.scopes is not None
        definition = template.definition()
        return domain, template.version, options, template.id, definition, since, seen

    def save(self, exporters: Mapping[str, Iterable[tuple[object, ...]]]) -> bool:
        """
        Keep what some exporters have now; say whether that was possible.
        """
        if self._connection is None:
            return False
        try:
            with self._connection as connection:
                connection.executemany(
                    "DELETE FROM templates WHERE exporter = ?",
                    ((host,) for host in exporters),
                )
                connection.executemany(
                    "INSERT INTO templates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (row for rows in exporters.values() for row in rows),
                )
        except sqlite3.DatabaseError as exc:
            if not self._failed:
                logger.warning("%s: templates are not kept now: %s", self._path, exc)
            self._failed = True
            return False
        self._failed = False
        return True

    def close(self) -> None:
        """
        Leave the file.
        """
        if self._connection is not None:
            self._connection.close()
            self._connection = None
