"""
The public face.
"""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import protoserve
from tests.running import ran

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(protoserve.__path__, "protoserve.")
    if "__main__" not in module.name
)


def test_face_is_sorted():
    """The names are listed once each, in order."""
    assert sorted(set(protoserve.__all__)) == protoserve.__all__


def test_face_is_what_modules_export():
    """What is re-exported is public in the module that it comes from."""
    for name in protoserve.__all__:
        value = getattr(protoserve, name)
        if name == "checksums":
            continue
        public = [
            module
            for module in MODULES
            if "." not in module.removeprefix("protoserve.")
            and name in getattr(importlib.import_module(module), "__all__", ())
        ]
        assert public, name
        for module in public:
            assert value is getattr(importlib.import_module(module), name)


def test_whole_modules():
    """Of errors and framings, all that is public is on the face."""
    for module in ("protoserve.errors",):
        public = set(importlib.import_module(module).__all__)
        assert set() == public - set(protoserve.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_exports_exist(name):
    """What a module says it exports is there."""
    module = importlib.import_module(name)
    for each in getattr(module, "__all__", ()):
        assert hasattr(module, each)


def test_import_is_light():
    """Importing protoserve loads nothing that only some programs need."""
    heavy = ("asyncio", "numpy", "rich", "typer", "click", "uvloop", "hypothesis")
    program = f"import sys, protoserve; print(*({heavy!r} & sys.modules.keys()))"
    program = program.replace(repr(heavy), repr(set(heavy)))
    done = ran(program)
    assert "" == done.stdout.strip()


LATE = ("protoserve", "protoserve.framing", "protoserve.testing")


@pytest.mark.parametrize("name", LATE)
def test_late_names_are_what_type_checkers_see(name):
    """The imports for type checkers and the names found when used are the same."""
    package = importlib.import_module(name)
    tree = ast.parse(Path(package.__file__).read_text())
    branch = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name: node.module for node in branch.body for alias in node.names}
    assert set(typed) == set(package.__all__)
    for each, home in typed.items():
        module = importlib.import_module(home)
        assert getattr(module, each) is getattr(package, each)


@pytest.mark.parametrize("name", LATE)
def test_late_names_are_listed_and_importable(name):
    """A fresh package lists all its names, and a star import has them all."""
    program = (
        f"import {name} as package; all_ = set(package.__all__); "
        "listed = all_ <= set(dir(package)); before = set(vars(package)) & all_; "
        f"space = {{}}; exec('from {name} import *', space); "
        "print(listed, before, all_ - space.keys())"
    )
    done = ran(program)
    assert "True set() set()" == done.stdout.strip()


@pytest.mark.parametrize("name", LATE)
def test_unknown_names_are_missing_as_in_any_module(name):
    """A name that a package does not have is an AttributeError that says so."""
    package = importlib.import_module(name)
    with pytest.raises(AttributeError, match=f"'{name}' has no attribute 'nothing'"):
        _ = package.nothing
