"""
What a sink refuses, kept with the explanation, in a folder that has a bound.

Tables are Arrow files with the explanation in the schema's metadata, under the key
``refused``; what could not even be unpacked is kept as it is, with a text beside it.
When the folder is full nothing more is kept: what was refused first explains the most.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PutAside"]

logger = logging.getLogger("protoserve")


class PutAside:
    """
    A folder of what was refused.

    Args:
        folder: it is made when it is needed.
        max_size: bytes of all its files, roughly.
    """

    def __init__(self, folder: Path, *, max_size: int = 256 << 20) -> None:
        self.folder = folder
        self.kept = 0
        """How much was kept."""
        self.omitted = 0
        """How much was not: the folder is full, or it cannot be written."""
        self._max_size = max_size
        self._size = -1
        self._lock = threading.Lock()

    def put_table(self, name: str, table: pa.Table, why: str) -> None:
        """
        Keep a table.
        """
        import pyarrow as pa
        import pyarrow.ipc

        said = {**(table.schema.metadata or {}), b"refused": why.encode()}
        table = table.replace_schema_metadata(said)
        body = pa.BufferOutputStream()
        with pa.ipc.new_file(body, table.schema) as writer:
            writer.write_table(table)
        self._keep(f"{_file_name(name)}.arrow", body.getvalue())

    def put(self, name: str, payload: bytes, why: str) -> None:
        """
        Keep what could not be unpacked.
        """
        if self._keep(f"{_file_name(name)}.payload", payload):
            self._keep(f"{_file_name(name)}.txt", f"{why}\n".encode(), more=0)

    def _keep(self, name: str, data: bytes | pa.Buffer, more: int = 1) -> bool:
        with self._lock:
            try:
                if self._size < 0:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    files = self.folder.iterdir()
                    self._size = sum(file.stat().st_size for file in files)
                # A file has a cost, however small it is.
                size = max(memoryview(data).nbytes, 4096)
                if self._size + size <= self._max_size:
                    (self.folder / name).write_bytes(data)
                    self._size += size
                    self.kept += more
                    return True
            except OSError as error:
                logger.warning("%s cannot be kept: %s", self.folder / name, error)
            self.omitted += more
            return False


def _file_name(name: str) -> str:
    """
    Give a file's name; one that had to be changed is told apart by a digest.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:150].lstrip(".")
    if plain == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
