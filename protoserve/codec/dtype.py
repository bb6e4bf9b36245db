"""
Messages of fixed layout as NumPy arrays: many records decoded without an object each.

A dtype says where the bytes are, and `numpy.frombuffer` finds them there; nothing is
copied and nothing is checked. What it cannot say is in `Columns`, which takes a
column's values out and tells which records `parse` would take:

- numbers and flags are themselves, in the byte order of the wire;
- integers of 3, 5, 6, 7 … bytes are as many ``u1``, and a column of integers;
- bit fields are the word that they share, named after all of them with ``|`` between,
  and a column each;
- enums are their numbers; bytes are ``V`` (``S`` would drop zeros at their end), and so
  is what only Construct knows; text is ``V``, and a column of `str`;
- messages and structures in messages are nested dtypes, ``Array(n, …)`` subarrays;
- padding is a gap, and what takes no bytes is not there.

Many telemetry messages are a fixed head with records behind it: `repeating_of` gives
the two dtypes, and how many records there are. NumPy is imported when it is used.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import attrs
from construct import Enum

from protoserve.codec.columns import (
    Columns,
    Convert,
    Leaf,
    Repeating,
    each,
    integers,
)
from protoserve.codec.computed import ChecksumOf, Computed, CountOf, LengthOf
from protoserve.codec.enums import EnumField
from protoserve.codec.layout import kind_in_words
from protoserve.codec.plan import (
    BitPart,
    Bits,
    Constant,
    Derived,
    Group,
    Item,
    Mapped,
    Node,
    Number,
    Opaque,
    Padding,
    Raw,
    Repeated,
    Stripped,
    Text,
    Window,
    plan_of,
    size_of,
)
from protoserve.codec.record import Record
from protoserve.errors import DeclarationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Columns", "Repeating", "columns_of", "number_types", "repeating_of"]


def columns_of(message: Any) -> Columns:
    """
    Give the columns of a message class.

    Raises:
        DeclarationError: its layout is not fixed; it names the part that varies.
    """
    record: Record = message._record
    if record.columns is None:
        record.columns = _columns(_group_of(record), record.record_name)
    found: Columns = record.columns
    return found


def repeating_of(message: Any) -> Repeating:
    """
    Give the two layouts of a message that ends in records.

    Raises:
        DeclarationError: it has another form; it names the part that is in the way.
    """
    record: Record = message._record
    group = _group_of(record)
    items = [item for item in group.items if not isinstance(item.node, Derived)]
    name = record.record_name
    last = items[-1] if items else None
    if last is None or last.name is None or not isinstance(last.node, Repeated):
        raise DeclarationError(f"{name} does not end in a list of records")
    ahead, count = items[:-1], last.node.count
    if last.node.counter is not None:
        counter = f"#{last.name}"
        ahead.append(Item(counter, last.node.counter))
        count = operator.itemgetter(counter)
    where = f"{name}.{last.name}[]"
    element = last.node.element
    if not size_of(element):
        kind = kind_in_words(element)
        raise DeclarationError(f"{where} has no fixed size above 0 ({kind})")
    if not isinstance(element, Group):
        element = Group((Item("value", element),), None)
    head = _columns(Group(tuple(ahead), record), name)
    rows = _columns(element, where)
    follows = [item.computed for item in ahead if item.computed is not None]
    return Repeating(
        attrs.evolve(head, parsed=False),  # nothing parses a head alone
        last.name,
        rows,
        count,
        # A count is compared with the message's size; what else there may be is not.
        is_checked=not head._parsed
        and not rows._parsed
        and (count is not None or not follows)
        and all(
            isinstance(rule, CountOf) and rule.first == last.name for rule in follows
        )
        and len(follows) <= 1,
    )


def number_types(message: Any) -> dict[str, str]:
    """
    Give the dtypes of a message's fields that are numbers, whatever the rest is.
    """
    plan = plan_of(message._record)
    found: dict[str, str] = {}
    for item in plan.items if isinstance(plan, Group) else ():
        node = item.node
        if isinstance(node, Mapped) and isinstance(node.source, EnumField | Enum):
            node = node.inner
        if item.name is not None and isinstance(node, Number) and node.code:
            found[item.name] = _number(node)[0]
    return found


def _group_of(record: Record) -> Group:
    plan = plan_of(record)
    if not isinstance(plan, Group):
        raise DeclarationError(f"{record.record_name} is left to Construct altogether")
    return plan


def _columns(group: Group, path: str) -> Columns:
    maker = _Maker()
    dtype, leaves = maker.group(group, path)
    owner = None if group.record is None else group.record.owner
    if maker.parsed and owner is None:
        raise DeclarationError(
            f"{path}: only Construct knows some of its parts; make it a Message"
        )
    values = {leaf.name: leaf for leaf in leaves if leaf.is_value}
    checks = tuple(leaf for leaf in leaves if leaf.fits is not None)
    return Columns(dtype, owner, values, checks, maker.parsed)


_Form = tuple[Any, list[Leaf]]
"""What NumPy makes a dtype of, and the columns in it."""


class _Maker:
    """
    Makes dtypes of plans.
    """

    def __init__(self) -> None:
        self.parsed = False

    def group(self, node: Group, path: str) -> _Form:
        """
        Make the dtype of a message or a structure.
        """
        import numpy as np

        names: list[str] = []
        formats: list[Any] = []
        offsets: list[int] = []
        leaves: list[Leaf] = []
        spans: dict[str, tuple[int, int]] = {}
        lists: dict[str, int] = {}
        offset = 0
        if node.record is not None and node.record.make_style == "constructed":
            self.parsed = True
        for item in node.items:
            where = f"{path}.{item.name}"
            size = size_of(item.node)
            if size is None:
                kind = kind_in_words(item.node)
                raise DeclarationError(
                    f"{where} varies in size ({kind}), so it has no NumPy dtype"
                )
            span = offset, offset + size
            offset += size
            shared = isinstance(item.node, Bits) and not item.node.container
            if isinstance(item.node, Bits) and shared:
                parts = [p for p in item.node.parts if p.name is not None]
                spans |= {p.name or "": span for p in parts}
                name = "|".join(p.name or "" for p in parts if not p.hidden)
            else:
                name = item.name or ""
                spans[name] = span
                lists[name] = _length(item.node)
            if _is_gap(item.node) or not name:
                continue
            form, found = self.form(item.node, where)
            names.append(name)
            formats.append(form)
            offsets.append(span[0])
            for leaf in found:
                placed = leaf.within("" if shared else name, name)
                is_value = leaf.is_value and not item.hidden
                leaves.append(attrs.evolve(placed, is_value=is_value))
        for rule, leaf in _computed(node, leaves):
            if rule.first not in spans or rule.last not in spans:
                continue  # the frame's business
            fits = _follows(rule, spans, lists, leaf.convert)
            if fits is None:
                self.parsed = True
            else:
                leaves.append(Leaf("", leaf.keys, None, fits, is_value=False))
        dtype = np.dtype(
            {"names": names, "formats": formats, "offsets": offsets, "itemsize": offset}
        )
        return dtype, leaves

    def form(self, node: Node, path: str) -> _Form:
        """
        Make the format of anything of a fixed size.
        """
        match node:
            case Number():
                return _number(node)
            case Raw(size=int() as size):
                return f"V{size}", [Leaf("")]
            case Text():
                return self._text(node, path)
            case Constant():
                return self._constant(node, path)
            case Mapped():
                form, leaves = self.form(node.inner, path)
                return form, [_checked(leaf, node) for leaf in leaves]
            case Bits():
                return _bits(node)
            case Group():
                return self.group(node, path)
            case Repeated(count=int() as count, counter=None):
                form, leaves = self.form(node.element, f"{path}[]")
                return (form, (count,)), leaves
            case Window(prefix=None, size=int()):
                return self._window(node, path)
            case Opaque():
                if whole := size_of(node):
                    self.parsed = True
                    return f"V{whole}", [Leaf("")]
            case _:
                pass
        raise DeclarationError(
            f"{path}: what it is varies ({kind_in_words(node)}), so it has no NumPy dtype"
        )

    def _text(self, node: Text, path: str) -> _Form:
        form, leaves = self.form(node.inner, path)
        (leaf,) = leaves
        bare = leaf.convert

        def decoded(values: NDArray[Any]) -> NDArray[Any]:
            values = values if bare is None else bare(values)
            return each(lambda data: data.decode(node.encoding), values)

        def fits(values: NDArray[Any]) -> NDArray[Any]:
            values = values if bare is None else bare(values)
            return each(lambda data: _decodes(data, node.encoding), values, "?")

        return form, [Leaf("", leaf.keys, decoded, fits)]

    def _constant(self, node: Constant, path: str) -> _Form:
        form, leaves = self.form(node.inner, path)
        (leaf,) = leaves

        def fits(values: NDArray[Any]) -> NDArray[Any]:
            values = values if leaf.convert is None else leaf.convert(values)
            return each(lambda value: value == node.value, values, "?")

        return form, [attrs.evolve(leaf, fits=fits)]

    def _window(self, node: Window, path: str) -> _Form:
        import numpy as np

        inner = node.inner
        if isinstance(inner, Raw) and inner.size is None:
            return f"V{node.size}", [Leaf("")]
        if isinstance(inner, Text):
            bounded = attrs.evolve(node, inner=inner.inner)
            return self._text(Text(bounded, inner.encoding), path)
        if isinstance(inner, Stripped):
            pad = inner.pad

            def strip(values: NDArray[Any]) -> NDArray[Any]:
                return each(lambda data: data.rstrip(pad), values)

            return f"V{node.size}", [Leaf("", (), strip)]
        size = size_of(inner)
        assert isinstance(node.size, int)
        if size is None or size > node.size:
            raise DeclarationError(
                f"{path} varies in size inside its {node.size} bytes "
                f"({kind_in_words(inner)}), so it has no NumPy dtype"
            )
        form, leaves = self.form(inner, path)
        if size == node.size:
            return form, leaves
        fields: Any = {
            "names": ["value"],
            "formats": [form],
            "offsets": [0],
            "itemsize": node.size,
        }
        return np.dtype(fields), [leaf.within("", "value") for leaf in leaves]


def _is_gap(node: Node) -> bool:
    """
    Whether something has no value of its own.
    """
    match node:
        case Repeated(element=inner) | Window(inner=inner):
            return _is_gap(inner)
        case _:
            return isinstance(node, Padding | Derived)


def _number(node: Number) -> _Form:
    if node.code == "?":
        return "?", [Leaf("")]
    if node.code in ("e", "f", "d"):
        return f"{node.order}f{node.size}", [Leaf("")]
    if node.code:
        return f"{node.order}{'i' if node.signed else 'u'}{node.size}", [Leaf("")]

    def convert(values: NDArray[Any]) -> NDArray[Any]:
        return integers(values, node.order, node.signed)

    return ("u1", (node.size,)), [Leaf("", (), convert)]


def _bits(node: Bits) -> _Form:
    form: Any = f">u{node.size}"
    if node.size not in (1, 2, 4, 8):
        form = ("u1", (node.size,))
    leaves = []
    for part in node.parts:
        if part.name is None or part.hidden:
            continue
        convert = _bit_field(part, node.size)
        leaf = Leaf(part.name, (), convert)
        leaves.append(leaf if part.mapped is None else _checked(leaf, part.mapped))
    return form, leaves


def _bit_field(part: BitPart, size: int) -> Convert:
    """
    Make what takes some bits out of words.
    """

    def convert(words: NDArray[Any]) -> NDArray[Any]:
        if size not in (1, 2, 4, 8):
            words = integers(words, ">", signed=False)
        values: Any = words >> part.shift & (1 << part.width) - 1
        if part.flag:
            return values != 0  # type: ignore[no-any-return]
        if part.signed and part.width == 64:
            return values.astype("i8")  # type: ignore[no-any-return]
        if part.signed:
            sign = 1 << part.width - 1
            wide = values if values.dtype == object else values.astype("i8")
            return (wide ^ sign) - sign  # type: ignore[no-any-return]
        return values  # type: ignore[no-any-return]

    return convert


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeError:
        return False
    return True


def _checked(leaf: Leaf, node: Mapped) -> Leaf:
    """
    Add to a column that some of its numbers mean nothing.
    """
    source = node.source
    if node.missing is not None and not (
        isinstance(source, EnumField) and source.strict
    ):
        return leaf

    def known(value: Any) -> bool:
        if value in node.decode:
            return True
        try:
            return node.missing is not None and node.missing(value) is not None
        except ValueError:
            return False

    def fits(values: NDArray[Any]) -> NDArray[Any]:
        values = values if leaf.convert is None else leaf.convert(values)
        return each(known, values, "?")

    return attrs.evolve(leaf, fits=fits)


def _length(node: Node) -> int:
    """
    Give how many elements a part has, for those that have any; else -1.
    """
    match node:
        case Repeated(count=int() as count):
            return count
        case Raw(size=int() as size):
            return size
        case _:
            return -1


def _computed(node: Group, leaves: list[Leaf]) -> list[tuple[Computed, Leaf]]:
    by_name = {leaf.name: leaf for leaf in leaves}
    rules: list[tuple[Computed, str | None]] = []
    for item in node.items:
        if item.computed is not None:
            rules.append((item.computed, item.name))
        if isinstance(item.node, Bits):
            rules += [(p.computed, p.name) for p in item.node.parts if p.computed]
    return [(rule, by_name[name]) for rule, name in rules if name in by_name]


def _follows(
    rule: Computed,
    spans: dict[str, tuple[int, int]],
    lists: dict[str, int],
    convert: Convert | None,
) -> Convert | None:
    """
    Make the check of a computed field; `None` if only parsing does it.
    """
    if isinstance(rule, ChecksumOf):
        return None
    if isinstance(rule, CountOf):
        expected, rest = lists[rule.first], 0
        if expected < 0:
            return None
    else:
        assert isinstance(rule, LengthOf)
        size = spans[rule.last][1] - spans[rule.first][0] + rule.plus
        expected, rest = divmod(size, rule.unit)

    def fits(values: NDArray[Any]) -> NDArray[Any]:
        values = values if convert is None else convert(values)
        return each(lambda value: not rest and value == expected, values, "?")

    return fits
