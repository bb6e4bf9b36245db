"""
What both generators need: source lines, constants, and Construct's expressions.

Expressions such as ``this.count * 2`` are translated by evaluating them with a
`Scope` in place of the context: what comes back knows its own source. Anything
that cannot be known this way (a lambda that branches, say) raises
`Untranslatable`, and that part is left to Construct.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from construct import expr

from protoserve.codec.plan import Group, Node

__all__ = [
    "BUILDING",
    "PARSING",
    "Scope",
    "Source",
    "Symbol",
    "Untranslatable",
    "translate",
]


class Untranslatable(Exception):  # noqa: N818 - control flow, not an error
    """
    Something has no straight-line form.
    """


class Source:
    """
    The source of one function, while it is being written.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self.constants: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._used = 0

    def line(self, text: str) -> None:
        """
        Add a line at the present depth.
        """
        self.lines.append("    " * self.depth + text)

    def name(self, stem: str) -> str:
        """
        Make a local name that is not used yet.
        """
        self._used += 1
        return f"{stem}{self._used}"

    def constant(self, value: Any, stem: str) -> str:
        """
        Give an object a global name.
        """
        known = self._names.get(id(value))
        if known is None:
            known = self._names[id(value)] = f"{stem.upper()}_{len(self._names)}"
            self.constants[known] = value
        return known

    def literal(self, value: Any) -> str:
        """
        Write a value down: as itself where that is exact, else by a global name.
        """
        if type(value) in (int, bool, str, bytes) or value is None:
            return repr(value)
        return self.constant(value, "value")


class Symbol:
    """
    A value that will only be known when the function runs, by its source.
    """

    def __init__(self, source: str, node: Node | None = None) -> None:
        self.source = source
        self.node = node

    def __getitem__(self, name: Any) -> Symbol:
        node = self.node
        if not isinstance(node, Group) or not isinstance(name, str):
            raise Untranslatable
        item = next((i for i in node.items if i.name == name), None)
        if item is None:
            raise Untranslatable
        if node.record is None:
            return Symbol(f"{self.source}[{name!r}]", item.node)
        return Symbol(f"{self.source}.{name}", item.node)

    def __bool__(self) -> bool:
        raise Untranslatable

    def __neg__(self) -> Symbol:
        return Symbol(f"(-{self.source})")

    def __invert__(self) -> Symbol:
        return Symbol(f"(~{self.source})")


def _text(value: Any) -> str:
    if isinstance(value, Symbol):
        return value.source
    if type(value) in (int, bool, float, str, bytes) or value is None:
        return repr(value)
    raise Untranslatable


def _binary(sign: str, *, swapped: bool = False) -> Any:
    def method(self: Symbol, other: Any) -> Symbol:
        left, right = _text(self), _text(other)
        if swapped:
            left, right = right, left
        return Symbol(f"({left} {sign} {right})")

    return method


for _name, _sign in {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "floordiv": "//",
    "truediv": "/",
    "mod": "%",
    "pow": "**",
    "lshift": "<<",
    "rshift": ">>",
    "and": "&",
    "or": "|",
    "xor": "^",
}.items():
    setattr(Symbol, f"__{_name}__", _binary(_sign))
    setattr(Symbol, f"__r{_name}__", _binary(_sign, swapped=True))
for _name, _sign in {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
}.items():
    setattr(Symbol, f"__{_name}__", _binary(_sign))
Symbol.__hash__ = None  # type: ignore[assignment] # equality is an expression


PARSING = {"_parsing": "True", "_building": "False", "_sizing": "False"}
BUILDING = {"_parsing": "False", "_building": "True", "_sizing": "False"}
"""What Construct's contexts say of what is being done, as source."""


class Scope:
    """
    The names that fields of one structure can refer to.

    Args:
        parent: what encloses it.
        outside: whether it encloses all structures, and is none itself.
        flags: `PARSING` or `BUILDING`; by default that of what encloses it.
    """

    def __init__(
        self,
        parent: Scope | None = None,
        *,
        outside: bool = False,
        flags: Mapping[str, str] | None = None,
    ) -> None:
        self.parent = parent
        self.outside = outside
        enclosing = {} if parent is None else parent.flags
        self.flags: Mapping[str, str] = enclosing if flags is None else flags
        self.symbols: dict[str, Symbol] = {}

    @property
    def root(self) -> Scope:
        """
        The outermost structure.
        """
        if self.parent is None or self.parent.outside:
            return self
        return self.parent.root

    def __getitem__(self, name: str) -> Any:
        if name == "_":
            if self.parent is None:
                raise Untranslatable
            return self.parent
        if name == "_root":
            return self.root
        if name in self.symbols:
            return self.symbols[name]
        if name in self.flags:
            return Symbol(self.flags[name])
        raise Untranslatable


def translate(value: Any, scope: Scope) -> str:
    """
    Write a Construct expression as source.

    Args:
        value: a constant, or an expression of `this`.
        scope: what it can refer to.

    Raises:
        Untranslatable: it has no such form.
    """
    if not callable(value):
        return _text(value)
    if isinstance(value, expr.FuncPath):
        function = value._FuncPath__func
        operand = value._FuncPath__operand
        if function is len and callable(operand):
            return f"len({translate(operand, scope)})"
        raise Untranslatable
    if not isinstance(value, expr.ExprMixin):
        raise Untranslatable
    if _mentions_function(value):
        raise Untranslatable
    try:
        return _text(value(scope))
    except Untranslatable:
        raise
    except Exception as exc:
        raise Untranslatable from exc


def _mentions_function(value: Any) -> bool:
    if isinstance(value, expr.FuncPath):
        return True
    parts = [getattr(value, n, None) for n in ("lhs", "rhs", "operand")]
    if isinstance(value, expr.Path | expr.Path2):
        return False
    return any(isinstance(p, expr.ExprMixin) and _mentions_function(p) for p in parts)
