"""
Write the function that builds a message.

A message becomes a list of *pieces*: fields of fixed size, and variables that hold
bytes. What needs work (text, nested data, repetitions) is done on the way, into
such variables; then the lengths are known and the checksums follow; last, pieces of
fixed size that stand together are packed by one precompiled ``pack``, and all are
joined once.

As in parsing, a generated function explains nothing: whatever is wrong, or beyond
it, it raises.
"""

from __future__ import annotations

import enum
import io
import struct
from typing import Any

import attrs
import construct
from construct import core

from protoserve.codec.adapters import adapted, looks_at_context
from protoserve.codec.computed import (
    ChecksumOf,
    Computed,
    CountOf,
    LengthOf,
    Pending,
    inner_first,
)
from protoserve.codec.emit import (
    Scope,
    Source,
    Symbol,
    Untranslatable,
    translate,
)
from protoserve.codec.enums import EnumField
from protoserve.codec.guard import guard
from protoserve.codec.nodes import children
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
    Stripped,
    Terminated,
    Text,
    VarNumber,
    Window,
)
from protoserve.codec.record import enclosing_context
from protoserve.codec.running import Mismatch, Structs
from protoserve.codec.shapes import element_run, same_count

__all__ = ["BuildWriter", "build_globals"]


@attrs.frozen
class Piece:
    """
    A part of the message's bytes.
    """

    source: str
    """A value to pack, or a variable that holds bytes."""
    order: str = ""
    code: str = ""
    """The struct module's letter; empty for bytes."""
    size: int = 0

    @property
    def length(self) -> str:
        """
        Its size in bytes, as source.
        """
        return str(self.size) if self.code else f"len({self.source})"


@attrs.frozen
class Placed:
    """
    A message's pieces that are waiting for their values.
    """

    lengths: list[tuple[str, LengthOf, str]]
    """The field, its rule, and the variable that is to hold it."""
    checksums: list[tuple[str, ChecksumOf, str]]
    spans: dict[str, tuple[int, int]]
    """Each field's first piece and the one behind its last."""


class BuildWriter:
    """
    Writes one building function.
    """

    def __init__(self, out: Source | None = None) -> None:
        self.out = out or Source()
        self.pieces: list[Piece] = []
        self.contexts: dict[int, str] = {}
        self.uses_context = False
        self.literals: dict[str, int] = {}
        """Fields whose number on the wire is given, whatever the message says."""
        self.index: str | None = None
        """The variable that counts the elements of the innermost loop."""

    def fail_if(self, condition: str) -> None:
        """
        Write that the function gives up on a condition.
        """
        self.out.line(f"if {condition}: raise Mismatch")

    def bytes_piece(self, source: str) -> None:
        """
        Add a variable that holds bytes.
        """
        self.pieces.append(Piece(source))

    def fixed(self, order: str, code: str, size: int, source: str) -> None:
        """
        Add a value to pack.
        """
        self.pieces.append(Piece(source, order, code, size))

    # Joining ---------------------------------------------------------------

    def joined(self, pieces: list[Piece]) -> str:
        """
        Write pieces as one expression.
        """
        parts: list[str] = []
        run: list[Piece] = []
        order = ""

        def close() -> None:
            if run:
                parts.append(self._packed(run, order))
                run.clear()

        for piece in pieces:
            if not piece.code:
                close()
                order = ""
                parts.append(piece.source)
                continue
            wide = piece.size > 1 and not piece.code.endswith(("s", "x"))
            if wide and order not in ("", piece.order):
                close()
                order = ""
            order = piece.order if wide else order
            run.append(piece)
        close()
        if not parts:
            return 'b""'
        if len(parts) <= 2:
            return " + ".join(parts)
        return f'b"".join(({", ".join(parts)}))'

    def _packed(self, run: list[Piece], order: str) -> str:
        shape = struct.Struct((order or ">") + "".join(p.code for p in run))
        pack = self.out.constant(shape.pack, "pack")
        return f"{pack}({', '.join(p.source for p in run if p.source)})"

    def collect(self, node: Node, value: str, scope: Scope) -> str:
        """
        Write what builds a node by itself; give the variable that holds its bytes.
        """
        outer, self.pieces = self.pieces, []
        self.emit(node, value, scope)
        inner, self.pieces = self.pieces, outer
        if len(inner) == 1 and not inner[0].code:
            return inner[0].source
        name = self.out.name("d")
        self.out.line(f"{name} = {self.joined(inner)}")
        return name

    # Nodes -----------------------------------------------------------------

    def emit(self, node: Node, value: str, scope: Scope) -> None:
        """
        Write what builds a node from a value (a source expression).

        Raises:
            Untranslatable: some of it has no straight-line form.
        """
        method = getattr(self, f"_emit_{type(node).__name__.lower()}")
        method(node, value, scope)

    def _emit_number(self, node: Number, value: str, _scope: Scope) -> None:
        if node.code == "?":
            value = f"True if {value} else False"
        if node.code:
            self.fixed(node.order, node.code, node.size, value)
            return
        order = "big" if node.order == ">" else "little"
        signed = ", signed=True" if node.signed else ""
        source = f"({value}).to_bytes({node.size}, {order!r}{signed})"
        self.fixed(node.order, f"{node.size}s", node.size, source)

    def _emit_varnumber(self, node: VarNumber, value: str, _scope: Scope) -> None:
        name = self.out.name("d")
        function = "write_zigzag" if node.zigzag else "write_varint"
        self.out.line(f"{name} = {function}({value})")
        self.bytes_piece(name)

    def _emit_raw(self, node: Raw, value: str, scope: Scope) -> None:
        if isinstance(node.size, int):
            self.fail_if(f"len({value}) != {node.size}")
            self.fixed(">", f"{node.size}s", node.size, value)
            return
        local = self.out.name("d")
        self.out.line(f"{local} = {value}")
        self.fail_if(f"type({local}) is not bytes")
        if node.size is not None and not depends_on_pending(node.size, scope):
            self.fail_if(f"len({local}) != {translate(node.size, scope)}")
        self.bytes_piece(local)

    def _emit_padding(self, node: Padding, _value: str, scope: Scope) -> None:
        if not node.size:
            return
        if not isinstance(node.size, int):
            if not depends_on_pending(node.size, scope):
                self._pad(node, scope)
            return
        if node.pattern == b"\0":
            self.fixed(">", f"{node.size}x", node.size, "")
        else:
            filled = self.out.literal(node.pattern * node.size)
            self.fixed(">", f"{node.size}s", node.size, filled)

    def _pad(self, node: Padding, scope: Scope) -> None:
        size, data = self.out.name("n"), self.out.name("d")
        self.out.line(f"{size} = {translate(node.size, scope)}")
        self.fail_if(f"{size} < 0")
        pattern = self.out.literal(node.pattern)
        self.out.line(f"{data} = {pattern} * {size}")
        self.bytes_piece(data)

    def _emit_text(self, node: Text, value: str, scope: Scope) -> None:
        local = self.out.name("b")
        name = node.encoding.lower().replace("_", "-")
        if name in ("utf8", "utf-8"):
            self.out.line(f"{local} = {value}.encode()")
        else:
            # Construct writes nothing for empty text, not even a byte order mark.
            self.out.line(
                f'{local} = {value}.encode({node.encoding!r}) if {value} != "" else b""'
            )
        self.emit(node.inner, local, scope)

    def _emit_stripped(self, _node: Stripped, value: str, _scope: Scope) -> None:
        self.bytes_piece(value)

    def _emit_terminated(self, node: Terminated, value: str, _scope: Scope) -> None:
        name = self.out.name("d")
        self.out.line(f"{name} = {value} + {self.out.literal(node.term)}")
        self.bytes_piece(name)

    def _emit_constant(self, node: Constant, value: str, scope: Scope) -> None:
        literal = self.out.literal(node.value)
        if value:
            self.fail_if(f"{value} != {literal} and {value} is not None")
        if isinstance(node.inner, Raw):
            size = len(node.value)
            self.fixed(">", f"{size}s", size, literal)
        else:
            self.emit(node.inner, literal, scope)

    def _emit_mapped(self, node: Mapped, value: str, scope: Scope) -> None:
        self.emit(node.inner, self._encoded(node, value), scope)

    def _encoded(self, node: Mapped, value: str) -> str:
        source = node.source
        tolerant = isinstance(source, EnumField) and not source.strict
        if tolerant and issubclass(source.members, int):
            return value  # members pack as the numbers that they are
        table = self.out.constant(_Encoder(source), "codes")
        return f"{table}[{value}]"

    def _emit_bits(self, node: Bits, value: str, _scope: Scope) -> None:
        terms: list[str] = []
        checks: list[str] = []
        for part in node.parts:
            if part.name is None or part.hidden:
                continue
            field = f"{value}[{part.name!r}]"
            if not node.container:
                field = value.replace("\0", part.name)
            if isinstance(part.computed, CountOf | LengthOf):
                field = self._computed_bits[part.name]
            terms.append(self._term(part, field, checks))
        word = " | ".join(terms) or "0"
        if checks:
            self.fail_if(" | ".join(checks))
        code = {1: "B", 2: "H", 4: "I", 8: "Q"}.get(node.size)
        if code is not None:
            self.fixed(">", code, node.size, word)
        else:
            source = f"({word}).to_bytes({node.size}, 'big')"
            self.fixed(">", f"{node.size}s", node.size, source)

    _computed_bits: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed

    def _term(self, part: BitPart, field: str, checks: list[str]) -> str:
        if part.flag:
            return f"({1 << part.shift} if {field} else 0)"
        if part.mapped is not None:
            field = self._encoded(part.mapped, field)
        if part.signed:
            half, whole = 1 << part.width - 1, 1 << part.width
            checks.append(f"(({field}) + {half} >> {part.width})")
            field = f"(({field}) & {whole - 1})"
        else:
            checks.append(f"({field} >> {part.width})")
        return f"({field} << {part.shift})" if part.shift else f"({field})"

    def _emit_derived(self, _node: Derived, _value: str, _scope: Scope) -> None:
        """
        Write nothing: it takes no bytes.
        """

    def _emit_optionalpart(self, node: OptionalPart, value: str, scope: Scope) -> None:
        name = self.out.name("d")
        self.out.line(f'{name} = b""')
        self.out.line(f"if {value} is not None:")
        self._assigned(name, node.inner, value, scope)
        self.bytes_piece(name)

    def _assigned(self, name: str, node: Node | None, value: str, scope: Scope) -> None:
        """
        Write, one level deeper, what assigns a node's bytes to a variable.
        """
        self.out.depth += 1
        known = dict(self.contexts)
        if node is None:
            self.out.line(f'{name} = b""')
        else:
            self.out.line(f"{name} = {self.collect(node, value, scope)}")
        self.contexts = known
        self.out.depth -= 1

    def _emit_chosen(self, node: Chosen, value: str, scope: Scope) -> None:
        name, key = self.out.name("d"), self.out.name("k")
        if depends_on_pending(node.key, scope):
            raise Untranslatable
        self.out.line(f"{key} = {translate(node.key, scope)}")
        word = "if"
        for case, branch in node.cases:
            test = key if node.truth else f"{key} == {self.out.literal(case)}"
            self.out.line(f"{word} {test}:")
            self._assigned(name, branch, value, scope)
            word = "elif"
        self.out.line("else:")
        self._assigned(name, node.default, value, scope)
        self.bytes_piece(name)

    def _emit_window(self, node: Window, value: str, scope: Scope) -> None:
        data = self.collect(node.inner, value, scope)
        if node.prefix is not None:
            at = len(self.pieces)
            count = f"len({data})"
            if node.inclusive:
                assert isinstance(node.prefix, Number)
                count = f"{count} + {node.prefix.size}"
            self.emit(node.prefix, count, scope)
            assert len(self.pieces) == at + 1
            self.bytes_piece(data)
        elif isinstance(node.size, int):
            self.fail_if(f"len({data}) > {node.size}")
            self.fixed(">", f"{node.size}s", node.size, data)
        elif node.size is not None and depends_on_pending(node.size, scope):
            self.bytes_piece(data)
        else:
            size, padded = self.out.name("n"), self.out.name("d")
            self.out.line(f"{size} = {translate(node.size, scope)}")
            self.fail_if(f"len({data}) > {size}")
            self.out.line(f'{padded} = {data}.ljust({size}, b"\\0")')
            self.bytes_piece(padded)

    def _emit_repeated(self, node: Repeated, value: str, scope: Scope) -> None:
        values = self.out.name("r")
        self.out.line(f"{values} = {value}")
        if node.counter is not None:
            self.emit(node.counter, f"len({values})", scope)
        elif (
            node.count is not None
            and not self._counted_by(node, value, scope)
            and not depends_on_pending(node.count, scope)
        ):
            self.fail_if(f"len({values}) != {translate(node.count, scope)}")
        data = self.out.name("d")
        element = node.element
        if isinstance(element, Number) and element.code and element.code != "?":
            many = Structs(element.order, element.code)
            structs = self.out.constant(many, "many")
            self.out.line(f"{data} = {structs}[len({values})].pack(*{values})")
            self.bytes_piece(data)
            return
        item, parts = self.out.name("x"), self.out.name("r")
        fixed = element_run(element) is not None
        self.out.line(f"{parts} = []; add{parts} = {parts}.append")
        index = self.out.name("i")
        at = len(self.out.lines)
        self.out.line(f"for {item} in {values}:")
        self.out.depth += 1
        known, outer_index, self.index = dict(self.contexts), self.index, index
        outer, self.pieces = self.pieces, []
        self.emit(element, item, scope)
        inner, self.pieces = self.pieces, outer
        if fixed or any(piece.code for piece in inner):
            self.out.line(f"add{parts}({self.joined(inner)})")
        else:
            for piece in inner:
                self.out.line(f"add{parts}({piece.source})")
        self.contexts, self.index = known, outer_index
        self.out.depth -= 1
        if any(f"= {index}" in line for line in self.out.lines[at:]):
            loop = self.out.lines[at].replace(
                f"for {item} in {values}:",
                f"for {index}, {item} in enumerate({values}):",
            )
            self.out.lines[at] = loop
        self.out.line(f'{data} = b"".join({parts})')
        self.bytes_piece(data)

    def _counted_by(self, node: Repeated, value: str, scope: Scope) -> bool:
        """
        Whether the count is a field that is filled in from this very list.
        """
        return any(
            symbol.source == f"len({value} or ())" and same_count(node, name)
            for name, symbol in scope.symbols.items()
        )

    # Structures ------------------------------------------------------------

    def _emit_group(self, node: Group, value: str, scope: Scope) -> None:
        inner = Scope(scope)
        local = self.out.name("o")
        self.out.line(f"{local} = {value}")
        if node.record is None:
            self._emit_container(node, local, inner)
            return
        owner = self.out.constant(node.record.owner, "class")
        self.fail_if(f"{local}.__class__ is not {owner}")
        self.emit_message(node, local, inner)

    def _emit_container(self, node: Group, obj: str, scope: Scope) -> None:
        for item in node.items:
            if item.name is not None:
                field = f"{obj}[{item.name!r}]"
                if isinstance(item.node, Constant | Derived | Padding):
                    field = ""
                else:
                    scope.symbols[item.name] = Symbol(field, item.node)
        for item in node.items:
            field = f"{obj}[{item.name!r}]"
            if item.name is None or isinstance(item.node, Constant | Derived | Padding):
                field = ""
            self.emit(item.node, field, scope)

    def emit_message(self, node: Group, obj: str, scope: Scope) -> None:
        """
        Write what builds a message's pieces.
        """
        part = self.place_message(node, obj, scope)
        self.write_lengths(part.lengths, part.spans)
        self.write_checksums(part.checksums, part.spans)

    def place_message(self, node: Group, obj: str, scope: Scope) -> Placed:
        """
        Write what builds a message's pieces, but for lengths and checksums.
        """
        record = node.record
        assert record is not None
        lengths: list[tuple[str, LengthOf, str]] = []
        checksums: list[tuple[str, ChecksumOf, str]] = []
        bits: dict[str, str] = {}
        for name, rule in _rules(node):
            if isinstance(rule, CountOf):
                source = f"len({obj}.{rule.first} or ())"
                bits[name] = source
                scope.symbols[name] = Symbol(source)
            elif isinstance(rule, LengthOf):
                local = self.out.name("n")
                bits[name] = local
                lengths.append((name, rule, local))
                scope.symbols[name] = PendingSymbol(local)
            elif isinstance(rule, ChecksumOf):
                local = self.out.name("s")
                checksums.append((name, rule, local))
                scope.symbols[name] = PendingSymbol(local)
        locals_ = {name: local for name, _, local in [*lengths, *checksums]}
        for item in node.items:
            self._name(item, obj, scope)
        spans: dict[str, tuple[int, int]] = {}
        for item in node.items:
            start = len(self.pieces)
            self._computed_bits = bits
            self._emit_item(item, obj, scope, record, locals_)
            for name in _names(item):
                spans[name] = (start, len(self.pieces))
            while settled := self._settled(lengths, spans):
                for name, rule, local in settled:
                    lengths.remove((name, rule, local))
                    self.write_lengths([(name, rule, local)], spans)
                    scope.symbols[name] = Symbol(local)
                    if (known := self.contexts.get(id(scope))) is not None:
                        self.out.line(f"{known}[{name!r}] = {local}")
        return Placed(lengths, checksums, spans)

    def _settled(
        self,
        lengths: list[tuple[str, LengthOf, str]],
        spans: dict[str, tuple[int, int]],
    ) -> list[tuple[str, LengthOf, str]]:
        """
        Find lengths whose span is in place, for the fields to come.

        Not those of a span that has a length of variable size in it, until that one is
        written.
        """

        def is_settled(name: str, rule: LengthOf) -> bool:
            if not {name, *rule.names} <= spans.keys():
                return False
            return not any(
                piece.source in varying
                for piece in self.pieces[spans[rule.first][0] : spans[rule.last][1]]
            )

        varying = {f"d{local}" for _, _, local in lengths}
        return [entry for entry in lengths if is_settled(entry[0], entry[1])]

    def _name(self, item: Item, obj: str, scope: Scope) -> None:
        if isinstance(item.node, Bits) and not item.node.container:
            for part in item.node.parts:
                if part.name is not None and not part.hidden and part.computed is None:
                    scope.symbols[part.name] = Symbol(f"{obj}.{part.name}")
        elif item.name is not None and not item.hidden and item.computed is None:
            if isinstance(item.node, Constant):
                scope.symbols[item.name] = Symbol(self.out.literal(item.node.value))
            elif not isinstance(item.node, Derived | Opaque):
                scope.symbols[item.name] = Symbol(f"{obj}.{item.name}", item.node)

    def _emit_item(
        self,
        item: Item,
        obj: str,
        scope: Scope,
        record: Any,
        locals_: dict[str, str],
    ) -> None:
        if isinstance(item.node, Bits) and not item.node.container:
            if any(isinstance(p.computed, ChecksumOf) for p in item.node.parts):
                raise Untranslatable
            if any(isinstance(p.computed, LengthOf) for p in item.node.parts):
                # The number is only known when its checks would have run.
                raise Untranslatable
            self._emit_bits(item.node, f"{obj}.\0", scope)
            return
        assert item.name is not None
        value = "" if item.hidden else f"{obj}.{item.name}"
        if isinstance(item.computed, CountOf):
            value = scope.symbols[item.name].source
        elif item.computed is not None:
            if not isinstance(item.node, Number):
                if isinstance(item.node, VarNumber):
                    self._reserve_varint(item, locals_)
                    return
                raise Untranslatable
            value = locals_[item.name]
        if item.name in self.literals:
            number = item.node.inner if isinstance(item.node, Mapped) else item.node
            if isinstance(number, Number) and item.computed is None:
                self.emit(number, repr(self.literals.pop(item.name)), scope)
                return
        raw = next(f.construct for f in record.fields if f.name == item.name)
        self._emit_or_leave(item.node, value, scope, raw)

    def _reserve_varint(self, item: Item, locals_: dict[str, str]) -> None:
        assert isinstance(item.node, VarNumber)
        assert item.name is not None
        if isinstance(item.computed, ChecksumOf) or item.node.zigzag:
            raise Untranslatable
        self.bytes_piece(f"d{locals_[item.name]}")

    def _emit_or_leave(self, node: Node, value: str, scope: Scope, raw: Any) -> None:
        length, pieces = len(self.out.lines), [*self.pieces]
        depth, contexts = self.out.depth, dict(self.contexts)
        try:
            self.emit(node, value, scope)
        except Untranslatable:
            del self.out.lines[length:]
            self.pieces, self.out.depth, self.contexts = pieces, depth, contexts
            self._leave(raw, value, scope)

    def write_prefix(self, at: int, plus: int, most: int) -> None:
        """
        Write the number in front that counts all pieces behind it.

        Args:
            at: its piece.
            plus: what is added to the bytes counted.
            most: the most bytes that it may count.
        """
        counted = self.pieces[at + 1 :]
        if all(piece.code for piece in counted):
            size = sum(piece.size for piece in counted)
            if size > most:
                raise Untranslatable
            self.pieces[at] = attrs.evolve(self.pieces[at], source=str(size + plus))
            return
        number = self.pieces[at].source
        self.out.line(f"{number} = {_sum(counted, plus)}")
        self.fail_if(f"{number} > {most + plus}")

    def write_lengths(
        self,
        lengths: list[tuple[str, LengthOf, str]],
        spans: dict[str, tuple[int, int]],
    ) -> None:
        """
        Write lengths, once the pieces that they count are there.
        """

        def reserved(entry: tuple[str, LengthOf, str]) -> bool:
            return bool(self.pieces[spans[entry[0]][0]].code)

        # Those of variable size first: others may count their bytes.
        latest_first = list(reversed(lengths))
        for name, rule, local in sorted(latest_first, key=reserved):
            if rule.first not in spans or rule.last not in spans:
                raise Untranslatable
            start, stop = spans[rule.first][0], spans[rule.last][1]
            own = spans[name]
            varint = not self.pieces[own[0]].code
            if varint and start <= own[0] < stop:
                raise Untranslatable
            size = _sum(self.pieces[start:stop], rule.plus)
            if rule.unit != 1:
                self.out.line(f"{local}, rest = divmod({size}, {rule.unit})")
                self.fail_if("rest")
            else:
                self.out.line(f"{local} = {size}")
            if rule.plus < 0:
                self.fail_if(f"{local} < 0")
            if varint:
                self.out.line(f"d{local} = write_varint({local})")

    def write_checksums(
        self,
        checksums: list[tuple[str, ChecksumOf, str]],
        spans: dict[str, tuple[int, int]],
    ) -> None:
        """
        Write checksums, once the lengths are known.
        """
        waiting = []
        for entry in checksums:
            rule = entry[1]
            if rule.first not in spans or rule.last not in spans:
                raise Untranslatable
            over = spans[rule.first][0], spans[rule.last][1]
            waiting.append((entry, over, spans[entry[0]]))
        for name, rule, local in inner_first(waiting):
            start, stop = spans[rule.first][0], spans[rule.last][1]
            own = spans[name][0]
            using = self.out.constant(rule.function, "checksum")
            pieces = [*self.pieces[start:stop]]
            if start <= own < stop:
                pieces[own - start] = attrs.evolve(pieces[own - start], source="0")
            elif len(checksums) == 1 and stop - start > 0:
                # Pack once what the checksum is over.
                data = self.out.name("d")
                self.out.line(f"{data} = {self.joined(pieces)}")
                self.out.line(f"{local} = {using}({data})")
                blank = [Piece('b""')] * (stop - start - 1)
                self.pieces[start:stop] = [Piece(data), *blank]
                continue
            self.out.line(f"{local} = {using}({self.joined(pieces)})")
        self.pieces = [p for p in self.pieces if p.source != 'b""']

    def _emit_recursive(self, _node: Recursive, _value: str, _scope: Scope) -> None:
        raise Untranslatable

    # What Construct does ---------------------------------------------------

    def _emit_opaque(self, node: Opaque, value: str, scope: Scope) -> None:
        found = adapted(node)
        if found is None:
            self._leave(node.construct, value, scope)
            return
        adapter, inner = found
        encode = self.out.constant(adapter._encode, "encode")
        context = "None"
        if looks_at_context(adapter, "encode"):
            context = self._context(scope)
            if self.index is not None:
                self.out.line(f"{context}['_index'] = {self.index}")
        local = self.out.name("v")
        self.out.line(f'{local} = {encode}({value or "None"}, {context}, "")')
        self.emit(inner, local, scope)

    def _leave(self, subcon: Any, value: str, scope: Scope) -> None:
        """
        Write that Construct builds a part.

        Raises:
            Untranslatable: the part may depend on where in the message it stands.
        """
        if not movable(subcon):
            raise Untranslatable
        guarded = self.out.constant(guard(subcon), "construct")
        name = self.out.name("d")
        context = self._context(scope)
        if self.index is not None:
            self.out.line(f"{context}['_index'] = {self.index}")
        given = value or "None"
        self.out.line(f"{name} = build_opaque({guarded}, {given}, {context})")
        self.bytes_piece(name)

    def _context(self, scope: Scope) -> str:
        known = self.contexts.get(id(scope))
        if known is None:
            self.uses_context = True
            if scope.parent is None:
                return "root"
            outer = self._context(scope.parent)
            known = self.out.name("c")
            self.out.line(f"{known} = enclosing_context({outer}, None)")
            self.contexts[id(scope)] = known
            for name, symbol in scope.symbols.items():
                waits = isinstance(symbol, PendingSymbol)
                source = "Pending()" if waits else symbol.source
                self.out.line(f"{known}[{name!r}] = {source}")
        return known


class PendingSymbol(Symbol):
    """
    A length or checksum that is not known while its span is being built.
    """


def depends_on_pending(size: Any, scope: Scope) -> bool:
    """
    Whether an expression speaks of a length that is still to be worked out.
    """
    if not callable(size):
        return False
    hidden = {
        name: symbol
        for name, symbol in scope.symbols.items()
        if isinstance(symbol, PendingSymbol)
    }
    if not hidden:
        return False
    bare = Scope(scope.parent)
    bare.symbols = {k: v for k, v in scope.symbols.items() if k not in hidden}
    try:
        translate(size, bare)
    except Untranslatable:
        translate(size, scope)  # untranslatable for another reason: say so
        return True
    return False


def _rules(node: Group) -> list[tuple[str, Computed]]:
    found = []
    for item in node.items:
        if isinstance(item.node, Bits) and not item.node.container:
            found += [
                (p.name, p.computed)
                for p in item.node.parts
                if p.computed is not None and p.name is not None
            ]
        elif item.computed is not None and item.name is not None:
            found.append((item.name, item.computed))
    return found


def _names(item: Item) -> list[str]:
    if isinstance(item.node, Bits) and not item.node.container:
        return [p.name for p in item.node.parts if p.name is not None]
    return [] if item.name is None else [item.name]


def _sum(pieces: list[Piece], plus: int) -> str:
    constant = plus + sum(p.size for p in pieces if p.code)
    parts = [p.length for p in pieces if not p.code]
    if constant or not parts:
        parts.append(str(constant))
    return " + ".join(parts)


POSITIONED = (
    type(construct.Tell),
    construct.Seek,
    construct.Pointer,
    construct.LazyBound,
    core.OffsettedEnd,
    construct.Union,
    construct.RawCopy,
    construct.Checksum,
    construct.Rebuffered,
)
"""What asks where it is."""


def movable(subcon: Any) -> bool:
    """
    Whether a part is built the same wherever in the message it stands.

    Construct's own classes are, but for those that ask where they are; of others
    nothing is known.
    """
    ours = type(subcon).__module__.startswith(("construct.", "protoserve."))
    if isinstance(subcon, POSITIONED) or not ours:
        return False
    return all(movable(child) for child in children(subcon))


class _Encoder(dict[Any, Any]):
    """
    From what a message holds to what is on the wire.
    """

    def __init__(self, source: Any) -> None:
        super().__init__(getattr(source, "encmapping", {}))
        self.source = source

    def __missing__(self, value: Any) -> Any:
        source = self.source
        if isinstance(source, EnumField):
            wire = value.value if isinstance(value, source.members) else value
            if source.strict and source.member(wire) is None:
                raise Mismatch
        else:
            wire = source._encode(value, None, "")
        if len(self) < 4096 and isinstance(value, enum.Enum | str):
            self[value] = wire
        return wire


def write_varint(number: Any) -> bytes:
    """
    Write a variable-length integer.
    """
    if number < 0 or not isinstance(number, int):
        raise Mismatch
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def write_zigzag(number: Any) -> bytes:
    """
    Write a signed variable-length integer.
    """
    return write_varint(2 * number if number >= 0 else -2 * number - 1)


def build_opaque(node: Any, value: Any, context: Any) -> bytes:
    """
    Let Construct build a part.
    """
    stream = io.BytesIO()
    context["_io"] = stream
    node._build(value, stream, context, "")
    return stream.getvalue()


def build_globals() -> dict[str, Any]:
    """
    Give the names that all generated building functions use.
    """
    return {
        "Mismatch": Mismatch,
        "Pending": Pending,
        "build_opaque": build_opaque,
        "enclosing_context": enclosing_context,
        "write_varint": write_varint,
        "write_zigzag": write_zigzag,
    }
