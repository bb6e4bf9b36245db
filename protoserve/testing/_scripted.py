"""
Scripts in Python: a handler as for any service.

The file has a class with routes, an instance of one that is called ``handler``, or
routes that are plain functions; such functions become the methods of a class.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import itertools
import sys
from pathlib import Path
from typing import Any

from protoserve.routing import _MARK, _marked
from protoserve.testing.scripts import ScriptError, script_text

__all__ = ["load_handler"]

_numbers = itertools.count()


def load_handler(path: Path) -> Any:
    """
    Read a Python script: give an instance of a handler.

    Raises:
        ScriptError: it fails, or has no routes, or several classes with routes.
    """
    name = f"_protoserve_script_{next(_numbers)}"
    spec = importlib.util.spec_from_file_location(name, path)
    script_text(path)  # what cannot be read is told as such
    if spec is None or spec.loader is None:
        raise ScriptError(f"{path}: expected a Python file, NAME.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as exc:
        kind = type(exc).__name__
        raise ScriptError(f"{path}: it cannot be imported: {kind}: {exc}") from exc
    handler = getattr(module, "handler", None)
    if handler is not None and not inspect.isroutine(handler):
        return _instance(handler, path) if isinstance(handler, type) else handler
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == name
        and any(True for _ in _marked(value))
    ]
    # Construct's `this`, which a script may have imported, has every attribute.
    functions = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and hasattr(value, _MARK)
    }
    if len(classes) == 1 and not functions:
        return _instance(classes[0], path)
    if classes:
        names = ", ".join([*(c.__name__ for c in classes), *functions])
        raise ScriptError(f"{path}: which is it, of {names}? Name it handler = …")
    if not functions:
        raise ScriptError(f"{path}: it has no class or function with @route")
    methods = {key: _as_method(function) for key, function in functions.items()}
    return type("Script", (), methods)()


def _instance(cls: type, path: Path) -> Any:
    try:
        return cls()
    except Exception as exc:
        raise ScriptError(
            f"{path}: {cls.__name__}() fails: {exc}; write handler = {cls.__name__}(…)"
        ) from exc


def _as_method(function: Any) -> Any:
    """
    Make a method of a function, which does not know of a `self`.
    """

    @functools.wraps(function)
    def method(_self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    own = inspect.signature(function)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    made: Any = method
    made.__signature__ = own.replace(parameters=[itself, *own.parameters.values()])
    return made
