"""
A command's options in a YAML file: ``--config FILE.yaml``.

What the file says becomes the options' defaults, so each value is read and checked as one
on the command line is, which goes before. (Click looks at options that are given before
those that are not.) An empty value is as if it were not there.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

from protoserve.cli.targets import CommandError

__all__ = ["Config"]

_SCALARS = (str, int, float, bool)
_ONLY_HERE = ("config", "help")


def _configure(ctx: typer.Context, path: str | None) -> str | None:
    """
    Take the defaults of a command's other parameters from a file.
    """
    if path is None or ctx.resilient_parsing:  # which is for completion
        return path
    known = {_name_of(param): param for param in ctx.command.params}
    for name in _ONLY_HERE:
        known.pop(name, None)
    defaults: dict[str, Any] = {}
    for key, value in _read(path).items():
        name = str(key).replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = (
                f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            )
            raise CommandError(f"{path}: there is no option {str(key)!r}; {hint}")
        param: Any = known[name]
        several = getattr(param, "multiple", False)
        values = value if several and isinstance(value, list) else [value]
        if value is None or not values:
            continue
        if not all(isinstance(each, _SCALARS) for each in values):
            expected = "a value or a list of values" if several else "one value"
            raise CommandError(f"{path}: {key}: expected {expected}, found {value!r}")
        defaults[param.name] = values if several else value
    ctx.default_map = defaults
    return path


def _name_of(param: Any) -> str:
    """
    Name a parameter as a file does: by its long option, with underscores.
    """
    name: str = next((o for o in param.opts if o.startswith("--")), param.name)
    return name.lstrip("-").replace("-", "_")


def _read(path: str) -> dict[Any, Any]:
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_bytes())
    except OSError as exc:
        raise CommandError(f"cannot read {path}: {exc.strerror}") from exc
    except yaml.MarkedYAMLError as exc:
        line = 1 if exc.problem_mark is None else exc.problem_mark.line + 1
        raise CommandError(f"{path}: line {line}: {exc.problem}") from exc
    except yaml.YAMLError as exc:  # it is no text
        raise CommandError(f"{path}: {' '.join(str(exc).split())}") from exc
    if not isinstance(found, dict):
        raise CommandError(f"{path}: expected names with values, as in 'workers: 2'")
    return found


Config = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.yaml",
        callback=_configure,
        help="All of this in a file; options here go before.",
    ),
]
