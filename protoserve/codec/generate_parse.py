"""
Write the function that parses a message.

Neighbouring fields of fixed size, through nested structures and bit runs, are taken
by one precompiled ``unpack_from`` straight into the attributes of new objects.
Positions are kept as a variable and a constant; a new variable begins where a
field of variable size ends. The functions take ``(buf, pos, end)`` and hand these
on; only values that are bytes themselves are cut out.

A generated function explains nothing. Whatever is wrong, or beyond it, it raises,
and the caller lets the interpreted form find out (see `protoserve.codec.compiled`).
"""

from __future__ import annotations

import contextlib
import enum
import struct
from typing import Any

import attrs
from construct import expr

from protoserve.codec.adapters import adapted, looks_at_context
from protoserve.codec.caps import Caps
from protoserve.codec.computed import (
    FRAME_PARTS,
    ChecksumOf,
    Computed,
    CountOf,
    LengthOf,
)
from protoserve.codec.emit import Scope, Source, Symbol, Untranslatable, translate
from protoserve.codec.enums import EnumField
from protoserve.codec.guard import guard
from protoserve.codec.plan import (
    BitPart,
    Bits,
    Chosen,
    Constant,
    Derived,
    Group,
    Item,
    Mapped,
    Node,
    Number,
    Opaque,
    OptionalPart,
    Padding,
    Raw,
    Recursive,
    Repeated,
    Size,
    Stripped,
    Terminated,
    Text,
    VarNumber,
    Window,
)
from protoserve.codec.record import Record, slot_name
from protoserve.codec.running import Lookup, Structs
from protoserve.codec.shapes import (
    element_run,
    has_value,
    largest,
    same_count,
    unsigned,
)

__all__ = ["ParseWriter"]


Places = dict[str, tuple[tuple[str, int], tuple[str, int]]]
"""Where fields start and end: for each a variable and a constant."""


@attrs.define
class _Run:
    """
    Fixed-size fields that wait to be unpacked together.
    """

    order: str = ""
    codes: list[str] = attrs.field(factory=list)
    targets: list[str] = attrs.field(factory=list)
    after: list[str] = attrs.field(factory=list)
    size: int = 0


class ParseWriter:
    """
    Writes one parsing function.

    Args:
        caps: the ceilings that the function keeps.
    """

    def __init__(self, caps: Caps) -> None:
        self.out = Source()
        self.caps = caps
        self.run = _Run()
        self.var = "pos"
        self.off = 0
        self.end = "end"
        self.bounded = True
        """Whether ``end`` is also the end of the buffer."""
        self.base = "0"
        self.counts = False
        """Whether elements are counted in ``used`` already."""
        self.most_elements: int | None = 0
        """How many elements there can be, as far as that is known."""
        self.contexts: dict[int, tuple[str, dict[str, str]]] = {}
        """The variable that holds each scope's context, and what it has been told."""
        self.outer_context = "root"
        self.uses_context = False
        self.raw: dict[str, str] = {}
        """The variables that hold enum members' numbers."""
        self.index: str | None = None
        """The variable that counts the elements of the innermost loop."""

    # Positions -------------------------------------------------------------

    def place(self, ahead: int = 0) -> str:
        """
        Write the present position, `ahead` bytes on.
        """
        return _at((self.var, self.off + ahead))

    def here(self) -> tuple[str, int]:
        """
        Give the present position as variable and constant, waiting fields included.
        """
        return self.var, self.off + self.run.size

    def move_to(self, variable: str) -> None:
        """
        Go on from where a variable says.
        """
        self.var, self.off = variable, 0

    def fail_if(self, condition: str) -> None:
        """
        Write that the function gives up on a condition.
        """
        self.out.line(f"if {condition}: raise Mismatch")

    def settle_counts(self) -> None:
        """
        Leave the counting out again if the elements cannot exceed their cap.
        """
        most = self.most_elements
        if self.counts and most is not None and most <= self.caps.elements:
            self.counts = False
            self.out.lines = [
                line
                for line in self.out.lines
                if not line.lstrip().startswith(("used += ", "if used > "))
            ]

    # Runs of fixed size ----------------------------------------------------

    def take(self, order: str, code: str, size: int, target: str | None) -> None:
        """
        Add a field of fixed size to the waiting run.
        """
        narrow = size == 1 or code.endswith(("s", "x"))
        if not narrow:
            if self.run.order not in ("", order):
                self.flush()
            self.run.order = order
        self.run.codes.append(code)
        if target is not None:
            self.run.targets.append(target)
        self.run.size += size

    def flush(self) -> None:
        """
        Write the waiting run down.
        """
        run, self.run = self.run, _Run()
        if run.size:
            if not self.bounded or not run.targets:
                self.fail_if(f"{self.place(run.size)} > {self.end}")
            if run.targets:
                shape = struct.Struct((run.order or ">") + "".join(run.codes))
                unpack = self.out.constant(shape.unpack_from, "unpack")
                names = ", ".join(run.targets) + ("," if len(run.targets) == 1 else "")
                self.out.line(f"{names} = {unpack}(buf, {self.place()})")
            self.off += run.size
        for line in run.after:
            self.out.line(line)

    def after(self, line: str) -> None:
        """
        Write a line once the waiting run has been unpacked.
        """
        if self.run.size:
            self.run.after.append(line)
        else:
            self.out.line(line)

    # Nodes -----------------------------------------------------------------

    def emit(self, node: Node, target: str, scope: Scope) -> None:
        """
        Write what parses a node into a target (a local name or an attribute).

        Raises:
            Untranslatable: some of it has no straight-line form.
        """
        method = getattr(self, f"_emit_{type(node).__name__.lower()}")
        method(node, target, scope)

    def emit_or_leave(self, node: Node, target: str, scope: Scope, raw: Any) -> None:
        """
        Write what parses a node, or what lets Construct do it.
        """
        state = self._save()
        try:
            self.emit(node, target, scope)
        except Untranslatable:
            self._restore(state)
            self._leave(raw, target, scope)

    def _save(self) -> Any:
        run = attrs.evolve(self.run)
        run.codes, run.targets = [*run.codes], [*run.targets]
        run.after = [*run.after]
        out = self.out
        return (
            run,
            self.var,
            self.off,
            self.end,
            self.bounded,
            self.base,
            self.counts,
            self.most_elements,
            dict(self.contexts),
            len(out.lines),
            out.depth,
        )

    def _restore(self, state: Any) -> None:
        (
            self.run,
            self.var,
            self.off,
            self.end,
            self.bounded,
            self.base,
            self.counts,
            self.most_elements,
            self.contexts,
            length,
            self.out.depth,
        ) = state
        del self.out.lines[length:]

    def _emit_number(self, node: Number, target: str, _scope: Scope) -> None:
        if node.code:
            self.take(node.order, node.code, node.size, target)
            return
        raw = self.out.name("n")
        self.take(node.order, f"{node.size}s", node.size, raw)
        order = "big" if node.order == ">" else "little"
        signed = ", signed=True" if node.signed else ""
        self.after(f"{target} = from_bytes({raw}, {order!r}{signed})")

    def _emit_varnumber(self, node: VarNumber, target: str, _scope: Scope) -> None:
        self.flush()
        name, pos = self.out.name("n"), self.out.name("p")
        cap = self.caps.varint
        self.out.line(
            f"{name}, {pos} = read_varint(buf, {self.place()}, {self.end}, {cap})"
        )
        zigzag = f"-({name} >> 1) - 1 if {name} & 1 else {name} >> 1"
        self.out.line(f"{target} = {zigzag if node.zigzag else name}")
        self.move_to(pos)

    def _emit_raw(self, node: Raw, target: str, scope: Scope) -> None:
        if isinstance(node.size, int) and not node.size:  # expressions equal all
            self.after(f"{target} = b''")
            return
        if isinstance(node.size, int):
            self.take(">", f"{node.size}s", node.size, target)
            return
        if node.size is None:
            self.flush()
            self.out.line(f"{target} = buf[{self.place()}:{self.end}]")
            self.move_to(self.end)
            return
        pos = self._stop(node.size, scope)
        self.out.line(f"{target} = buf[{self.place()}:{pos}]")
        self.move_to(pos)

    def _stop(self, size: Size, scope: Scope) -> str:
        """
        Write where so many bytes end; give the variable.
        """
        self.flush()
        count, pos = self.out.name("n"), self.out.name("p")
        self.out.line(f"{count} = {translate(size, scope)}")
        self.out.line(f"{pos} = {self.place()} + {count}")
        self._fail_outside(count, pos, unsigned(size, scope))
        return pos

    def _fail_outside(self, count: str, stop: str, is_unsigned: bool) -> None:
        sign = "" if is_unsigned else f"{count} < 0 or "
        self.fail_if(f"{sign}{stop} > {self.end}")

    def _emit_padding(self, node: Padding, target: str, scope: Scope) -> None:
        if not isinstance(node.size, int):
            self.move_to(self._stop(node.size, scope))
        elif node.size:
            self.take(">", f"{node.size}x", node.size, None)
        if target:
            self.after(f"{target} = None")

    def _emit_text(self, node: Text, target: str, scope: Scope) -> None:
        raw = self.out.name("b")
        self.emit(node.inner, raw, scope)
        utf8 = node.encoding.lower().replace("_", "-") in ("utf8", "utf-8")
        encoding = "" if utf8 else repr(node.encoding)
        self.after(f"{target} = {raw}.decode({encoding})")

    def _emit_stripped(self, node: Stripped, target: str, _scope: Scope) -> None:
        self.flush()
        pad = self.out.literal(node.pad)
        self.out.line(f"{target} = buf[{self.place()}:{self.end}].rstrip({pad})")
        self.move_to(self.end)

    def _emit_terminated(self, node: Terminated, target: str, _scope: Scope) -> None:
        self.flush()
        found, pos = self.out.name("i"), self.out.name("p")
        term = self.out.literal(node.term)
        self.out.line(f"{found} = buf.find({term}, {self.place()}, {self.end})")
        self.fail_if(f"{found} < 0")
        self.out.line(f"{target} = buf[{self.place()}:{found}]")
        self.out.line(f"{pos} = {found} + 1")
        self.move_to(pos)

    def _emit_constant(self, node: Constant, target: str, scope: Scope) -> None:
        local = self.out.name("v")
        self.emit(node.inner, local, scope)
        self.after(f"if {local} != {self.out.literal(node.value)}: raise Mismatch")
        if target:
            self.after(f"{target} = {local}")

    def _emit_mapped(self, node: Mapped, target: str, scope: Scope) -> None:
        local = self.out.name("v")
        self.emit(node.inner, local, scope)
        self.after(f"{target} = {self._lookup(node, local)}")
        if isinstance(node.source, EnumField) and isinstance(node.inner, Number):
            self.raw[target] = local

    def _lookup(self, node: Mapped, source: str, width: int | None = None) -> str:
        """
        Write what a number stands for, by a table for numbers of few bits.
        """
        inner = node.inner
        if isinstance(inner, Number) and inner.code == "B":
            width = 8
        table: Any = Lookup(node)
        if node.missing is not None and width is not None and width <= 8:
            with contextlib.suppress(Exception):  # some numbers are malformed
                table = tuple(table[number] for number in range(1 << width))
        return f"{self.out.constant(table, 'table')}[{source}]"

    def _emit_bits(self, node: Bits, target: str, _scope: Scope) -> None:
        word = self.out.name("w")
        self._take_word(node.size, word)
        values = {}
        for part in node.parts:
            if part.name is None or part.hidden:
                continue
            values[part.name] = self._part(part, word, 8 * node.size)
        if node.container:
            pairs = "".join(f"({k!r}, {v}), " for k, v in values.items())
            self.after(f"{target} = Container(({pairs}))")
            return
        for part in node.parts:
            if part.name in values:
                self.after(f"{self._field(target, part)} = {values[part.name]}")

    def _field(self, target: str, part: BitPart) -> str:
        """
        Write where a bit run's field goes; `target` has a hole for its name.
        """
        assert part.name is not None
        attribute = part.computed is not None and "." in target
        return target.replace("\0", slot_name(part.name) if attribute else part.name)

    def _take_word(self, size: int, word: str) -> None:
        code = {1: "B", 2: "H", 4: "I", 8: "Q"}.get(size)
        if code is not None:
            self.take(">", code, size, word)
            return
        raw = self.out.name("n")
        self.take(">", f"{size}s", size, raw)
        self.after(f"{word} = from_bytes({raw}, 'big')")

    def _part(self, part: BitPart, word: str, bits: int) -> str:
        mask = (1 << part.width) - 1
        if part.flag:
            return f"({word} & {1 << part.shift}) != 0"
        shifted = f"{word} >> {part.shift}" if part.shift else word
        topmost = part.shift + part.width == bits
        value = shifted if topmost else f"{shifted} & {mask}"
        if part.signed:
            sign = 1 << part.width - 1
            value = f"(({value}) ^ {sign}) - {sign}"
        if part.mapped is not None:
            width = None if part.signed else part.width
            value = self._lookup(part.mapped, value, width)
        return value

    def _emit_derived(self, node: Derived, target: str, scope: Scope) -> None:
        source = translate(node.value, scope)
        self.after(f"{target} = {source}")

    def _emit_optionalpart(self, node: OptionalPart, target: str, scope: Scope) -> None:
        self.flush()
        assert isinstance(node.inner, Number)
        pos = self.out.name("p")
        self.out.line(f"if {self.place(node.inner.size)} <= {self.end}:")
        before = self.var, self.off
        self.out.depth += 1
        self.emit(node.inner, target, scope)
        self.flush()
        self.out.line(f"{pos} = {self.place()}")
        self.out.depth -= 1
        self.var, self.off = before
        self.out.line("else:")
        self.out.depth += 1
        self.out.line(f"{target} = None")
        self.out.line(f"{pos} = {self.place()}")
        self.out.depth -= 1
        self.move_to(pos)

    def _emit_chosen(self, node: Chosen, target: str, scope: Scope) -> None:
        self.flush()
        key, pos = self.out.name("k"), self.out.name("p")
        source, cases = self._wire_key(node, scope)
        self.out.line(f"{key} = {source}")
        before = self.var, self.off
        word = "if"
        for value, branch in cases:
            test = key if node.truth else f"{key} == {self.out.literal(value)}"
            self.out.line(f"{word} {test}:")
            self._branch(branch, target, scope, pos)
            self.var, self.off = before
            word = "elif"
        self.out.line("else:")
        self._branch(node.default, target, scope, pos)
        self.move_to(pos)

    def _wire_key(
        self, node: Chosen, scope: Scope
    ) -> tuple[str, list[tuple[Any, Node | None]]]:
        """
        Write a choice's key; for enum members, compare the numbers on the wire.
        """
        cases = list(node.cases)
        if isinstance(node.key, expr.Path) and not node.truth:
            with contextlib.suppress(Exception):
                symbol = node.key(scope)
                raw = self.raw[symbol.source]
                if all(isinstance(value, enum.IntEnum) for value, _ in cases):
                    return raw, [(int(value), branch) for value, branch in cases]
        return translate(node.key, scope), cases

    def _branch(self, node: Node | None, target: str, scope: Scope, pos: str) -> None:
        self.out.depth += 1
        known = dict(self.contexts)
        if node is None:
            self.out.line(f"{target} = None")
        else:
            self.emit(node, target, scope)
            self.flush()
        self.out.line(f"{pos} = {self.place()}")
        self.contexts = known
        self.out.depth -= 1

    # Windows and repetitions -----------------------------------------------

    def _emit_window(self, node: Window, target: str, scope: Scope) -> None:
        count = self.out.name("n")
        if node.prefix is not None:
            start = self.here()
            self.emit(node.prefix, count, scope)
            self.flush()
            if node.inclusive:
                size = self.off - start[1]
                self.out.line(f"{count} -= {size}")
        elif isinstance(node.size, int) and isinstance(node.inner, Stripped):
            pad = self.out.literal(node.inner.pad)
            raw = self.out.name("b")
            self.take(">", f"{node.size}s", node.size, raw)
            self.after(f"{target} = {raw}.rstrip({pad})")
            return
        else:
            self.flush()
            self.out.line(f"{count} = {translate(node.size, scope)}")
        stop = self.out.name("e")
        self.out.line(f"{stop} = {self.place()} + {count}")
        prefix = node.prefix
        plain = isinstance(prefix, Number) and not prefix.signed and not node.inclusive
        self._fail_outside(count, stop, plain or unsigned(node.size, scope))
        if isinstance(node.inner, Raw) and node.inner.size is None:
            self.out.line(f"{target} = buf[{self.place()}:{stop}]")
            self.move_to(stop)
            return
        outer = self.end, self.bounded, self.base
        begin = self.out.name("p")
        self.out.line(f"{begin} = {self.place()}")
        self.move_to(begin)
        self.end, self.bounded, self.base = stop, False, begin
        self.emit(node.inner, target, scope)
        self.flush()
        strict = node.prefix is not None
        if strict and not (self.var == stop and self.off == 0):
            self.fail_if(f"{self.place()} != {stop}")
        self.end, self.bounded, self.base = outer
        self.move_to(stop)

    def _count_elements(self, count: str, most: int | None = None) -> None:
        """
        Write that elements are counted against their cap.

        Args:
            count: how many there are, as source.
            most: the most that there can be, if that is known.
        """
        self.counts = True
        if most is None or self.index is not None or self.most_elements is None:
            self.most_elements = None
        else:
            self.most_elements += most
        self.out.line(f"used += {count}")
        self.fail_if(f"used > {self.caps.elements}")

    def _emit_repeated(self, node: Repeated, target: str, scope: Scope) -> None:
        element = node.element
        count: str | None
        if node.counter is not None:
            count = self.out.name("n")
            self.emit(node.counter, count, scope)
            self.flush()
        elif node.count is None:
            count = None
            self.flush()
        else:
            self.flush()
            count = self.out.name("n")
            self.out.line(f"{count} = {translate(node.count, scope)}")
        run = element_run(element)
        if run is not None and has_value(element):
            self._repeat_fixed(node, run, count, target, scope)
            return
        most = largest(node.counter, node.count, scope)
        self._repeat_general(element, count, most, target, scope)

    def _repeat_fixed(
        self, node: Repeated, size: int, count: str | None, target: str, scope: Scope
    ) -> None:
        """
        Write an array of elements that are all of one fixed size.
        """
        element = node.element
        start, stop = self.place(), self.out.name("p")
        if count is None:
            count = self.out.name("n")
            self.out.line(f"{count}, rest = divmod({self.end} - ({start}), {size})")
            self.fail_if("rest")
            self.out.line(f"{stop} = {self.end}")
        else:
            self.out.line(f"{stop} = {start} + {count} * {size}")
            counter = node.counter
            plain = isinstance(counter, Number) and not counter.signed
            self._fail_outside(count, stop, plain or unsigned(node.count, scope))
        self._count_elements(count, largest(node.counter, node.count, scope))
        if isinstance(element, Number) and element.code:
            structs = self.out.constant(Structs(element.order, element.code), "many")
            self.out.line(
                f"{target} = list({structs}[{count}].unpack_from(buf, {start}))"
            )
            self.move_to(stop)
            return
        values, local = self.out.name("r"), self.out.name("x")
        inner = ParseWriter(self.caps)
        inner.out = self.out
        self.out.line(f"{values} = []; add{values} = {values}.append")
        self.out.depth += 1
        at = len(self.out.lines)
        row = self.out.name("t")
        inner.var = row
        inner.emit(element, local, Scope())
        run, inner.run = inner.run, _Run()
        shape = struct.Struct((run.order or ">") + "".join(run.codes))
        unpack = self.out.constant(shape.iter_unpack, "rows")
        names = ", ".join(run.targets) + ("," if len(run.targets) == 1 else "")
        before = self.out.lines[at:]
        del self.out.lines[at:]
        simple = all(t.isidentifier() for t in run.targets)
        self.out.depth -= 1
        head = names if simple else row
        self.out.line(f"for {head} in {unpack}(buf[{start}:{stop}]):")
        self.out.depth += 1
        self.out.lines += before
        if not simple:
            self.out.line(f"{names} = {row}")
        for line in run.after:
            self.out.line(line)
        self.out.line(f"add{values}({local})")
        self.out.depth -= 1
        self.out.line(f"{target} = {values}")
        self.move_to(stop)

    def _repeat_general(
        self,
        element: Node,
        count: str | None,
        most: int | None,
        target: str,
        scope: Scope,
    ) -> None:
        values, local = self.out.name("r"), self.out.name("x")
        pos = self.out.name("q")
        self.out.line(f"{values} = []; add{values} = {values}.append")
        self.out.line(f"{pos} = {self.place()}")
        if count is None:
            self.out.line(f"while {pos} < {self.end}:")
        else:
            self.fail_if(f"{count} < 0")
            self._count_elements(count, most)
            index = self.out.name("i")
            self.out.line(f"for {index} in range({count}):")
        self.out.depth += 1
        known, outer_index = dict(self.contexts), self.index
        self.index = f"len({values})" if count is None else index
        if count is None:
            self._count_elements("1")
        self.move_to(pos)
        self.emit(element, local, scope)
        self.flush()
        self.out.line(f"add{values}({local})")
        if count is None:
            self.fail_if(f"{self.place()} == {pos}")
        self.out.line(f"{pos} = {self.place()}")
        self.contexts, self.index = known, outer_index
        self.out.depth -= 1
        self.out.line(f"{target} = {values}")
        self.move_to(pos)

    # Structures ------------------------------------------------------------

    def _emit_group(self, node: Group, target: str, scope: Scope) -> None:
        inner = Scope(scope)
        if node.record is None:
            self._emit_container(node, target, inner)
        else:
            obj = self.out.name("o")
            self.emit_message(node, obj, inner)
            self.after(f"{target} = {obj}")

    def _emit_container(self, node: Group, target: str, scope: Scope) -> None:
        pairs = []
        for item in node.items:
            local = self.out.name("v")
            raw = node_source(item.node)
            self.emit_or_leave(item.node, local, scope, raw)
            if item.name is not None:
                scope.symbols[item.name] = Symbol(local, item.node)
                pairs.append(f"({item.name!r}, {local})")
        joined = "".join(f"{pair}, " for pair in pairs)
        self.after(f"{target} = Container(({joined}))")

    def emit_message(self, node: Group, obj: str, scope: Scope) -> Places:
        """
        Write what parses a message into a new object.

        Returns:
            Where each field starts and ends. Computed fields that speak of other
            places than these are left for `check_computed`.
        """
        record = node.record
        assert record is not None
        style = record.make_style
        owner = self.out.constant(record.owner, "class")
        if style == "plain":
            self.out.line(f"{obj} = new({owner})")
        places: Places = {}
        names: dict[str, str] = {}
        for item in node.items:
            if isinstance(item.node, Bits) and not item.node.container:
                self._emit_bit_fields(item.node, obj, style, scope, places, names)
                continue
            assert item.name is not None
            place = self._target(item, obj, style, names)
            if item.hidden:
                place = self.out.name("v")
                if style == "plain":
                    self.after(f"{obj}.{item.name} = None")
            start = self.here()
            raw = next(f.construct for f in record.fields if f.name == item.name)
            self.emit_or_leave(item.node, place, scope, raw)
            places[item.name] = (start, self.here())
            if not item.hidden:
                scope.symbols[item.name] = Symbol(place, item.node)
        self.check_computed(node, places, scope)
        if style != "plain":
            self._construct(record, obj, owner, names, style)
        return places

    def _target(self, item: Item, obj: str, style: str, names: dict[str, str]) -> str:
        assert item.name is not None
        if style == "plain":
            name = item.name if item.computed is None else slot_name(item.name)
            return f"{obj}.{name}"
        local = self.out.name("v")
        names[item.name] = local
        return local

    def _emit_bit_fields(
        self,
        node: Bits,
        obj: str,
        style: str,
        scope: Scope,
        places: dict[str, Any],
        names: dict[str, str],
    ) -> None:
        start = self.here()
        local = self.out.name("v")
        hole = f"{obj}.\0" if style == "plain" else f"{local}_\0"
        self._emit_bits(node, hole, scope)
        for part in node.parts:
            if part.name is None or part.hidden:
                continue
            place = self._field(hole, part)
            if style != "plain":
                names[part.name] = place
            places[part.name] = (start, self.here())
            scope.symbols[part.name] = Symbol(place)

    def _construct(
        self, record: Record, obj: str, owner: str, names: dict[str, str], style: str
    ) -> None:
        self.flush()
        hidden = {f.name for f in record.fields if f.hidden}
        if style == "frozen":
            self.out.line(f"{obj} = new({owner})")
            for name, local in names.items():
                self.out.line(f"put({obj}, {name!r}, {local})")
            return
        taken = record.arguments
        arguments = ", ".join(f"{n}={names[n]}" for n in taken)
        self.out.line(f"{obj} = {owner}({arguments})")
        for name, local in names.items():
            if name not in taken and name not in hidden:
                self.out.line(f"put({obj}, {name!r}, {local})")

    def check_computed(
        self, node: Group, places: Places, scope: Scope, *, outer: bool = False
    ) -> None:
        """
        Write the checks of a message's computed fields.

        Args:
            node: the message.
            places: where its fields are, and what else they can speak of.
            scope: their values.
            outer: only those that speak of parts of the frame.
        """
        rules: list[tuple[str, Computed, Node]] = []
        for item in node.items:
            if isinstance(item.node, Bits) and not item.node.container:
                rules += [
                    (p.name, p.computed, item.node)
                    for p in item.node.parts
                    if p.name is not None and p.computed is not None
                ]
            elif item.computed is not None and item.name is not None:
                rules.append((item.name, item.computed, item.node))
        counts = {item.name: item.node for item in node.items}
        for name, rule, _ in rules:
            if not {rule.first, rule.last} <= places.keys():
                continue  # the frame's business
            if outer and not FRAME_PARTS & {rule.first, rule.last}:
                continue
            if isinstance(rule, CountOf) and same_count(counts.get(rule.first), name):
                continue
            self._check_one(name, rule, places, scope)

    def _check_one(
        self, name: str, rule: Computed, places: dict[str, Any], scope: Scope
    ) -> None:
        value = scope.symbols[name].source
        if isinstance(rule, CountOf):
            counted = scope.symbols[rule.first].source
            self.after(f"if {value} != len({counted} or ()): raise Mismatch")
            return
        self.flush()
        start, stop = places[rule.first][0], places[rule.last][1]
        if isinstance(rule, LengthOf):
            size = _difference(start, stop)
            plus = f" + {rule.plus}" if rule.plus else ""
            unit = f" * {rule.unit}" if rule.unit != 1 else ""
            self.fail_if(f"{value}{unit} != {size}{plus}")
            return
        assert isinstance(rule, ChecksumOf)
        using = self.out.constant(rule.function, "checksum")
        data = f"buf[{_at(start)}:{_at(stop)}]"
        own = places[name]
        if _inside(own, start, stop, places, rule, name):
            zeros = f"bytes({_difference(*own)})"
            data = (
                f"buf[{_at(start)}:{_at(own[0])}] + {zeros} + "
                f"buf[{_at(own[1])}:{_at(stop)}]"
            )
        self.fail_if(f"{value} != {using}({data})")

    def _emit_recursive(self, _node: Recursive, _target: str, _scope: Scope) -> None:
        raise Untranslatable  # the interpreted form counts the depth

    # What Construct does ---------------------------------------------------

    def _emit_opaque(self, node: Opaque, target: str, scope: Scope) -> None:
        found = adapted(node)
        if found is None:
            self._leave(node.construct, target, scope)
            return
        adapter, inner = found
        local = self.out.name("v")
        self.emit(inner, local, scope)
        self.flush()
        decode = self.out.constant(adapter._decode, "decode")
        if not looks_at_context(adapter, "decode"):
            self.out.line(f'{target} = {decode}({local}, None, "")')
            return
        context = self._context(scope)
        if self.index is not None:
            self.out.line(f"{context}['_index'] = {self.index}")
        # Where the data stood is known to Construct only.
        self.out.line(f"{context}['_io'] = None")
        self.out.line(f'{target} = {decode}({local}, {context}, "")')

    def _leave(self, subcon: Any, target: str, scope: Scope) -> None:
        """
        Write that Construct parses a part.
        """
        if subcon is None:
            raise Untranslatable
        self.flush()
        guarded = self.out.constant(guard(subcon), "construct")
        context = self._context(scope)
        if self.index is not None:
            self.out.line(f"{context}['_index'] = {self.index}")
        pos = self.out.name("p")
        local = self.out.name("v")
        self.out.line(
            f"{local}, {pos} = parse_opaque({guarded}, buf, {self.place()}, "
            f"{self.end}, {context}, {self.base})"
        )
        self.out.line(f"{target} = {local}")
        self.move_to(pos)

    def _context(self, scope: Scope) -> str:
        """
        Write the context of a scope, with all that is known by now.
        """
        known, told = self.contexts.get(id(scope), ("", {}))
        if not known:
            self.uses_context = True
            if scope.parent is None:
                return self.outer_context
            outer = self._context(scope.parent)
            known = self.out.name("c")
            self.out.line(f"{known} = enclosing_context({outer}, None)")
        sources = {name: symbol.source for name, symbol in scope.symbols.items()}
        for name, source in sources.items():
            if told.get(name) != source:
                self.out.line(f"{known}[{name!r}] = {source}")
        self.contexts[id(scope)] = known, sources
        return known


def _at(place: tuple[str, int]) -> str:
    variable, offset = place
    if not variable:  # counted from the start of the buffer
        return str(offset)
    return f"{variable} + {offset}" if offset else variable


def _difference(start: tuple[str, int], stop: tuple[str, int]) -> str:
    if start[0] == stop[0]:
        return str(stop[1] - start[1])
    return f"({_at(stop)} - ({_at(start)}))"


def _inside(
    own: Any, start: Any, stop: Any, places: Places, rule: Computed, name: str
) -> bool:
    """
    Whether a checksum's own field lies in its span.
    """
    order = [n for n in places if n not in FRAME_PARTS]
    at = order.index(name)
    first = order.index(rule.first) if rule.first in order else None
    last = order.index(rule.last) if rule.last in order else None
    if first is not None and last is not None:
        return first <= at <= last
    if own[0] == start[0] == stop[0] or own[0] == start[0]:
        before_end = own[0] != stop[0] or own[1] < stop[1]
        return bool(own[1] >= start[1] and before_end)
    return bool(own[0] == stop[0] and own[1] < stop[1])


def node_source(node: Node) -> Any:
    """
    Give the construct to leave a node to, where it is known.
    """
    return node.construct if isinstance(node, Opaque) else None
