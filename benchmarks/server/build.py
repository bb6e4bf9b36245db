"""
Compile the load generators and the limit servers with the system's compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "c"
FLAGS = ("-O3", "-Wall", "-Wextra")


class BuildError(Exception):
    """
    There is no compiler, or it refused a program; it says what to do.
    """


def build(folder: Path, sources: Path = SOURCES) -> None:
    """
    Compile every program of a folder into another.

    Raises:
        BuildError: that cannot be done.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BuildError("no C compiler is found: install gcc, or name one in CC")
    for source in sorted(sources.glob("*.c")):
        command = [compiler, *FLAGS, "-o", str(folder / source.stem), str(source)]
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=60
            )
        except FileNotFoundError as exc:
            raise BuildError(f"{compiler} cannot be run: {exc}") from exc
        except subprocess.CalledProcessError as exc:
            raise BuildError(f"{source.name}: {exc.stderr.strip()}") from exc
        except subprocess.TimeoutExpired as exc:
            raise BuildError(f"{source.name} was not compiled within 60 s") from exc
