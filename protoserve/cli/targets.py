"""
``MODULE:NAME`` on the command line: find what it means, or say what is wrong.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from protoserve.errors import DeclarationError

__all__ = ["CommandError", "load", "modules_below", "targets_here"]

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
    look_here()
    if not colon or not module_name or not attribute:
        raise CommandError(
            f"{target!r}: expected MODULE:NAME, as in {_whole(target, kind) or example}"
        )
    module = _import(module_name)
    value: Any = module
    for name in attribute.split("."):
        if not hasattr(value, name):
            raise CommandError(
                f"{module_name} has no {name!r}{_hint(value, name, kind)}"
            )
        value = getattr(value, name)
    if not isinstance(value, kind):
        within = isinstance(getattr(value, kind.__name__.lower(), None), kind)
        raise CommandError(
            f"{target} is a {type(value).__name__}, expected a {kind.__name__}"
            + (
                f"; write {target}.{kind.__name__.lower()}"
                if within
                else _hint(module, attribute, kind)
            )
        )
    return value


def look_here() -> None:
    """
    Let modules be imported from the current directory.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


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
            hint = hint or _other_module(name, missing)
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


_MOST_FILES = 500
"""Modules of the current directory that are looked at for names."""
_MOST_TEXT = 1 << 20


def modules_below(parent: str) -> list[str]:
    """
    Name the modules of a package; for no package, those that a user may mean.

    Nothing is imported but the package itself.
    """
    if parent:
        with contextlib.suppress(Exception):
            found = pkgutil.iter_modules(importlib.import_module(parent).__path__)
            return [f"{parent}.{module.name}" for module in found]
        return []
    here = sorted(Path.cwd().iterdir())
    folders = [p.name for p in here if p.name.isidentifier() and any(p.glob("*.py"))]
    files = [p.stem for p in here if p.suffix == ".py" and p.stem.isidentifier()]
    return list(dict.fromkeys(["protocols", *folders, *files]))


def targets_here(kind: type) -> Iterator[str]:
    """
    Find targets without importing anything, for those who do not know their names.

    They are the packages in ``protocols``, whose protocol has the package's name, and
    what files in the current directory, and in its folders, assign at their top.

    Args:
        kind: what they have to be.
    """
    if kind.__name__ == "Protocol":
        with contextlib.suppress(ImportError):
            for name in modules_below("protocols"):
                yield f"{name}:{name.rpartition('.')[2]}"
    assigned = re.compile(
        rf"^(\w+)(?:\s*:[^=\n]+)?\s*=\s*(?:\w+\.)?{kind.__name__}\(", re.MULTILINE
    )
    here = Path.cwd()
    paths = [*sorted(here.glob("*.py")), *sorted(here.glob("*/*.py"))]
    for path in paths[:_MOST_FILES]:
        parts = path.relative_to(here).with_suffix("").parts
        if not all(part.isidentifier() for part in parts):
            continue
        with contextlib.suppress(OSError), path.open(errors="replace") as file:
            module = ".".join(part for part in parts if part != "__init__")
            for name in assigned.findall(file.read(_MOST_TEXT)):
                yield f"{module}:{name}"


def _whole(target: str, kind: type) -> str | None:
    """
    Complete a target of which only the module, or the name, was given.
    """
    word = target.strip(":").lower()
    found = list(targets_here(kind))
    for each in found:
        module, _, name = each.lower().partition(":")
        if word in (module, name, module.rpartition(".")[2]):
            return each
    words = {each.partition(":")[2].lower(): each for each in found}
    close = difflib.get_close_matches(word.rpartition(".")[2], words, 1, 0.6)
    return words[close[0]] if close else None


def _other_module(name: str, missing: str) -> str:
    """
    Suggest another module for one that is not there.
    """
    parent, _, last = missing.rpartition(".")
    beside = modules_below(parent)
    known = {each.rpartition(".")[2].lower(): each for each in beside}
    if not parent:
        for each in modules_below("protocols"):
            known.setdefault(each.rpartition(".")[2].lower(), each)
    close = difflib.get_close_matches(last.lower(), known, 1, 0.6)
    if not close:
        return ""
    better = known[close[0]] + name.removeprefix(missing)
    with contextlib.suppress(Exception):
        if importlib.util.find_spec(better) is None:
            better = known[close[0]]
    return f"; did you mean {better}?"


def _where(exc: BaseException) -> str:
    """
    Name the last place in the user's own files that an exception came from.
    """
    frames = traceback.extract_tb(exc.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and f.name == "<module>"]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def _hint(holder: Any, name: str, kind: type) -> str:
    fitting = [n for n, v in vars(holder).items() if isinstance(v, kind)]
    others = fitting or [each for each in dir(holder) if each != name]
    close = difflib.get_close_matches(name, others, 1, 0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; it has {', '.join(fitting)}" if fitting else ""
