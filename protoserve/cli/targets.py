"""
``MODULE:NAME`` on the command line: find what it means, or say what is wrong.
"""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from pathlib import Path
from typing import Any, TypeVar

from protoserve.errors import DeclarationError

__all__ = ["CommandError", "load"]

_T = TypeVar("_T")


class CommandError(Exception):
    """
    What a user can put right: shown as one line, exit code 2.
    """


def load(target: str, kind: type[_T], example: str) -> _T:
    """
    Import what a target names.

    Args:
        target: ``MODULE:NAME``; the module is also looked up from the current
            directory.
        kind: what it has to be.
        example: a target as it should look, for the message.

    Raises:
        CommandError: it cannot be had.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise CommandError(f"{target!r}: expected MODULE:NAME, as in {example}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _import(module_name)
    value: Any = module
    for name in attribute.split("."):
        if not hasattr(value, name):
            raise CommandError(
                f"{module_name} has no {name!r}{_hint(value, name, kind)}"
            )
        value = getattr(value, name)
    if not isinstance(value, kind):
        raise CommandError(
            f"{target} is a {type(value).__name__}, expected a {kind.__name__}"
            + _hint(module, attribute, kind)
        )
    return value


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        missing = exc.name or name
        if name == missing or name.startswith(f"{missing}."):
            hint = ""
            if name.endswith(".py"):
                plain = name.removesuffix(".py").replace("/", ".")
                hint = f"; write {plain}, without .py"
            raise CommandError(f"there is no module {missing!r}{hint}") from exc
        raise CommandError(f"cannot import {name}: {exc}{_where(exc)}") from exc
    except DeclarationError as exc:
        lines = [line.strip() for line in str(exc).splitlines()]
        raise CommandError(f"{name}: {' '.join(lines)}") from exc
    except (Exception, SystemExit) as exc:
        text = str(exc).splitlines()[0] if str(exc) else "no details"
        kind = type(exc).__name__
        raise CommandError(
            f"cannot import {name}: {kind}: {text}{_where(exc)}"
        ) from exc


def _where(exc: BaseException) -> str:
    """
    Name the last place in the user's own files that an exception came from.
    """
    frames = traceback.extract_tb(exc.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and f.name == "<module>"]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def _hint(holder: Any, name: str, kind: type) -> str:
    fitting = [n for n, v in vars(holder).items() if isinstance(v, kind)]
    close = difflib.get_close_matches(name, fitting or dir(holder), 1, 0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; it has {', '.join(fitting)}" if fitting else ""
