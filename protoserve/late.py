"""
Names that a package offers, whose modules are imported when one is first used.

A package's `__init__` imports them for type checkers only, and takes what Python
calls for names that are not there (PEP 562) from here. That is not done where type
checkers see it: to them such a package would have any name at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["late"]


def late(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    Make a package's `__getattr__` and `__dir__`.

    Args:
        package: the package's name.
        modules: the names that it offers, with spaces between, by the module under
            it that has them; a module without names is itself offered.
    """
    homes = {
        name: module
        for module, names in modules.items()
        for name in names.split() or [module]
    }
    space = vars(sys.modules[package])

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        module = import_module(f"{package}.{home}")
        # Kept, so that Python finds it by itself from now on.
        space[name] = value = module if name == home else getattr(module, name)
        return value

    def names() -> list[str]:
        return sorted({*space, *homes})

    return find, names
