"""
Construct classes as they have to behave on bytes from a network.

Where Construct's own class swallows errors, believes numbers or takes quadratic
time, a class here stands in for it. Each gives the same values for good data.
What differs, and only for bad data:

- ranges and optional parts tell why they stopped, in place of truncating;
- a length prefix must be used up by what it delimits;
- counts, recursion, VarInts and decompressed data are capped;
- every failure is a `Fault` with the field's path and offset.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import construct
from construct import core

from protoserve.codec.caps import usage_of
from protoserve.codec.computed import Pending
from protoserve.codec.fault import Fault, build_fault, describe, parse_fault, plural

__all__ = [
    "DECOMPRESSORS",
    "CappedArray",
    "CappedLazyBound",
    "CappedVarInt",
    "CappedZigZag",
    "FreeBytes",
    "FreeFixedSized",
    "FreePadded",
    "GreedyRestreamed",
    "HonestPeek",
    "HonestSelect",
    "NamedField",
    "PlainStruct",
    "SkippedIf",
    "StrictPrefixed",
    "StrictRange",
    "StrictRepeat",
    "TerminatedSearch",
    "Traced",
    "Unfolding",
    "children",
]

_CONTROL = (Fault, construct.StopFieldError, construct.CancelParsing)


def evaluate(parameter: Any, context: Any) -> Any:
    """
    Take a Construct parameter's value: a constant, or a function of the context.
    """
    return parameter(context) if callable(parameter) else parameter


class Traced(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    A construct whose every failure is a `Fault` with path and offset.

    Args:
        inner: what does the work.
        original: the user's object, which failures are described by.
        scale: how many positions inside make one byte outside, for constructs
            that parse transformed bytes: 8 for bits, 0 if there is no relation.
    """

    def __init__(self, inner: Any, original: Any, scale: int | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.original = original
        self.scale = scale
        self.name = original.name
        self.docs = original.docs
        self.parsed = original.parsed
        self.flagbuildnone = original.flagbuildnone

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        start = stream.tell()
        try:
            return self.inner._parse(stream, context, path)
        except Fault as fault:
            if self.scale is not None:
                inside = fault.offset // self.scale if self.scale else 0
                fault.offset = start + inside
            raise
        except _CONTROL:
            raise
        except Exception as exc:
            raise parse_fault(self.original, exc, stream, start, path) from exc

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        try:
            return self.inner._build(obj, stream, context, path)
        except _CONTROL:
            raise
        except Exception as exc:
            raise build_fault(self.original, exc, obj, path) from exc

    def _sizeof(self, context: Any, path: str) -> Any:
        return self.original._sizeof(context, path)


class NamedField(construct.Renamed):  # type: ignore[misc] # construct is untyped
    """
    A named part of a plain Construct structure; paths go ``outer.name``.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        return self.subcon._parsereport(stream, context, f"{path}.{self.name}")

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        return self.subcon._build(obj, stream, context, f"{path}.{self.name}")


class PlainStruct(construct.Struct):  # type: ignore[misc] # construct is untyped
    """
    A `Struct` whose values do not keep the whole stream alive.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        value = super()._parse(stream, context, path)
        del value["_io"]
        return value

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        if obj is not None and not isinstance(obj, dict):
            raise Fault(path, 0, "a mapping of field names to values", repr(obj))
        try:
            return super()._build(obj, stream, context, path)
        except KeyError as exc:
            missing = exc.args[0]
            if missing in self._subcons and missing not in (obj or {}):
                raise Fault(f"{path}.{missing}", 0, "a value", "none") from exc
            raise


class CappedArray(construct.Array):  # type: ignore[misc] # construct is untyped
    """
    An `Array` that counts its elements before it makes them.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        start = stream.tell()
        count = evaluate(self.count, context)
        if count < 0:
            raise Fault(path, start, "0 or more elements", str(count))
        usage_of(context).take_elements(count, start, path)
        parse = self.subcon._parsereport
        values = []
        for i in range(count):
            context._index = i
            value = parse(stream, context, f"{path}[{i}]")
            if not self.discard:
                values.append(value)
        return values

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        count = evaluate(self.count, context)
        if not hasattr(obj, "__len__"):
            each = self.subcon
            name = describe(each.original if isinstance(each, Traced) else each)
            raise Fault(path, 0, f"a list of {name}", repr(obj))
        if not isinstance(count, Pending) and len(obj) != count:
            raise Fault(path, 0, plural(count, "element"), str(len(obj)))
        for i, value in enumerate(obj):
            context._index = i
            self.subcon._build(value, stream, context, f"{path}[{i}]")
        return obj


class StrictRange(construct.GreedyRange):  # type: ignore[misc] # construct is untyped
    """
    A `GreedyRange` that ends where its data ends, not at the first error.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        usage = usage_of(context)
        values: list[Any] = []
        index = 0
        while not core.stream_iseof(stream):
            start = stream.tell()
            usage.take_elements(1, start, path)
            context._index = index
            try:
                value = self.subcon._parsereport(stream, context, f"{path}[{index}]")
            except construct.StopFieldError:
                break
            if stream.tell() == start:
                raise Fault(
                    f"{path}[{index}]", start, "an element of 1 byte or more", "0 bytes"
                )
            if not self.discard:
                values.append(value)
            index += 1
        return values

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        for i, value in enumerate(obj):
            context._index = i
            try:
                self.subcon._build(value, stream, context, f"{path}[{i}]")
            except construct.StopFieldError:
                break
        return obj


class StrictRepeat(construct.RepeatUntil):  # type: ignore[misc] # construct is untyped
    """
    A `RepeatUntil` that counts its elements and names the one that failed.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        usage = usage_of(context)
        predicate = self.predicate
        values: list[Any] = []
        index = 0
        while True:
            usage.take_elements(1, stream.tell(), path)
            context._index = index
            value = self.subcon._parsereport(stream, context, f"{path}[{index}]")
            if not self.discard:
                values.append(value)
            if predicate(value, values, context) if callable(predicate) else predicate:
                return values
            index += 1

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        predicate = self.predicate
        seen: list[Any] = []
        for i, value in enumerate(obj):
            context._index = i
            self.subcon._build(value, stream, context, f"{path}[{i}]")
            seen.append(value)
            last = predicate(value, seen, context) if callable(predicate) else predicate
            if last:
                if i + 1 < len(obj):
                    found = f"{plural(len(obj) - i - 1, 'element')} after it"
                    raise Fault(f"{path}[{i}]", 0, "the last element here", found)
                return obj
        raise Fault(path, 0, "a last element that ends the repetition", "none")


class HonestSelect(construct.Select):  # type: ignore[misc] # construct is untyped
    """
    A `Select` that remembers why its alternatives failed.

    `Optional` is the select of something and `Pass`. Where data follows that no
    later field takes, the failure of the optional part is the likeliest cause;
    `Usage` has no room for it, so the fault is left in the context.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        start = stream.tell()
        furthest: Fault | None = None
        try:
            for subcon in self.subcons:
                try:
                    value = subcon._parsereport(stream, context, path)
                except construct.ExplicitError:
                    raise
                except Fault as fault:
                    if furthest is None or fault.offset > furthest.offset:
                        furthest = fault
                    stream.seek(start)
                else:
                    if furthest is not None:
                        _remember(furthest, context["_params"])
                    return value
            raise furthest or Fault(path, start, "one of the alternatives", "none")
        finally:
            furthest = None  # it refers to this frame

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        optional = any(_is_pass(subcon) for subcon in self.subcons)
        failure: Fault | None = None
        try:
            for subcon in self.subcons:
                if optional and _is_pass(subcon):
                    continue
                attempt = io.BytesIO()
                try:
                    subcon._build(obj, attempt, context, path)
                except construct.ExplicitError:
                    raise
                except Fault as fault:
                    failure = fault
                else:
                    stream.write(attempt.getvalue())
                    return obj
            if optional and obj is None:
                return obj
            raise failure or Fault(path, 0, "one of the alternatives to fit", repr(obj))
        finally:
            failure = None  # it refers to this frame


def _remember(fault: Fault, parameters: Any) -> None:
    """
    Keep the failure that came furthest, the first of several at one place.
    """
    known = parameters.get("_swallowed")
    if known is None or fault.offset > known.offset:
        # Bare: it would refer to frames that refer to these parameters.
        bare = Fault(fault.path, fault.offset, fault.expected, fault.found)
        parameters["_swallowed"] = bare


def _is_pass(subcon: Any) -> bool:
    return getattr(subcon, "original", subcon) is construct.Pass


class HonestPeek(construct.Peek):  # type: ignore[misc] # construct is untyped
    """
    A `Peek` that lets no error but a format's own end in `None`.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        start = stream.tell()
        try:
            return self.subcon._parsereport(stream, context, path)
        except construct.ExplicitError:
            raise
        except construct.ConstructError:
            return None
        finally:
            stream.seek(start)


class SkippedIf(construct.IfThenElse):  # type: ignore[misc] # construct is untyped
    """
    An `If` that is built by its value while its condition is still pending.
    """

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        if obj is None and self.elsesubcon.flagbuildnone:
            condition = evaluate(self.condfunc, context)
            pending = any(isinstance(v, Pending) for v in context.values())
            if pending and condition and not self.thensubcon.flagbuildnone:
                return self.elsesubcon._build(obj, stream, context, path)
        return super()._build(obj, stream, context, path)


class StrictPrefixed(construct.Prefixed):  # type: ignore[misc] # construct is untyped
    """
    A `Prefixed` whose content must use up what the prefix delimits.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        start = stream.tell()
        length = self.lengthfield._parsereport(stream, context, path)
        if self.includelength:
            length -= self.lengthfield._sizeof(context, path)
        return _parse_within(self.subcon, stream, context, path, start, length, True)


def _parse_within(
    subcon: Any,
    stream: Any,
    context: Any,
    path: str,
    start: int,
    length: int,
    strict: bool,
) -> Any:
    """
    Parse something inside the next `length` bytes, all of them if `strict`.
    """
    inside = stream.tell()
    if length < 0:
        raise Fault(path, start, "a length of 0 or more", str(length))
    data = stream.read(length)
    if len(data) < length:
        left = plural(len(data), "byte")
        raise Fault(path, inside, plural(length, "byte"), left)
    window = core.BytesIOWithOffsets(data, stream, inside)
    value = subcon._parsereport(window, context, path)
    rest = inside + length - window.tell()
    if strict and rest:
        raise Fault(
            path,
            window.tell(),
            f"the end of the {plural(length, 'byte')} that the prefix announces",
            f"{plural(rest, 'more byte')}",
        )
    return value


class FreeBytes(construct.Bytes):  # type: ignore[misc] # construct is untyped
    """
    `Bytes` that take their natural size while their length is pending.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        start = stream.tell()
        length = evaluate(self.length, context)
        if length < 0:
            raise Fault(path, start, "a length of 0 or more", str(length))
        data = stream.read(length)
        if len(data) < length:
            expected = f"{plural(length, 'byte')} (Bytes)"
            raise Fault(path, start, expected, plural(len(data), "byte"))
        return data

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        length = evaluate(self.length, context)
        if isinstance(length, Pending) and not isinstance(obj, int):
            stream.write(obj)
            return obj
        if not isinstance(obj, int):
            if not isinstance(obj, bytes | bytearray | memoryview):
                raise Fault(path, 0, plural(length, "byte"), repr(obj))
            if len(obj) != length:
                found = plural(len(obj), "byte")
                raise Fault(path, 0, plural(length, "byte"), found)
        return super()._build(obj, stream, context, path)


class FreeFixedSized(construct.FixedSized):  # type: ignore[misc] # construct is untyped
    """
    A `FixedSized` that takes its natural size while its length is pending.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        start = stream.tell()
        length = evaluate(self.length, context)
        return _parse_within(self.subcon, stream, context, path, start, length, False)

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        if isinstance(evaluate(self.length, context), Pending):
            return self.subcon._build(obj, stream, context, path)
        return super()._build(obj, stream, context, path)


class FreePadded(construct.Padded):  # type: ignore[misc] # construct is untyped
    """
    A `Padded` that takes its natural size while its length is pending.
    """

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        if isinstance(evaluate(self.length, context), Pending):
            return self.subcon._build(obj, stream, context, path)
        return super()._build(obj, stream, context, path)


class TerminatedSearch(construct.NullTerminated):  # type: ignore[misc] # construct is untyped
    """
    A `NullTerminated` that looks for its end in linear time.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        start = stream.tell()
        unit = len(self.term)
        rest = stream.read()
        found = rest.find(self.term)
        while found % unit and found >= 0:
            # Terms are looked for at multiples of their own size, as in UTF-16.
            found = rest.find(self.term, found + 1)
        if found < 0:
            if self.require:
                expected = f"the terminator {self.term!r}"
                raise Fault(path, start, expected, plural(len(rest), "other byte"))
            found = len(rest) - len(rest) % unit
            end = start + found
        else:
            end = start + found + (unit if self.consume else 0)
            found += unit if self.include else 0
        stream.seek(end)
        window = core.BytesIOWithOffsets(rest[:found], stream, start)
        return self.subcon._parsereport(window, context, path)


class CappedVarInt(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    The variable-length integer with a largest size.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> int:
        return _read_varint(stream, context, path)

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        _cap_varint(obj, context, path)
        return construct.VarInt._build(obj, stream, context, path)


class CappedZigZag(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    The signed variable-length integer with a largest size.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> int:
        number = _read_varint(stream, context, path)
        return -(number >> 1) - 1 if number & 1 else number >> 1

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        if isinstance(obj, int):
            _cap_varint(2 * obj if obj >= 0 else -2 * obj - 1, context, path)
        return construct.ZigZag._build(obj, stream, context, path)


def _cap_varint(obj: Any, context: Any, path: str) -> None:
    cap = usage_of(context).caps.varint
    if isinstance(obj, int) and obj >> 7 * cap > 0:
        raise Fault(path, 0, f"a number that fits {plural(cap, 'byte')}", str(obj))


def _read_varint(stream: Any, context: Any, path: str) -> int:
    start = stream.tell()
    cap = usage_of(context).caps.varint
    number: int = 0
    for position in range(cap):
        byte = stream.read(1)
        if not byte:
            found = plural(position, "byte")
            raise Fault(path, start, "the last byte of a VarInt", found)
        number |= (byte[0] & 0x7F) << 7 * position
        if byte[0] < 0x80:
            return int(number)
    raise Fault(
        path,
        start,
        f"a VarInt of at most {plural(cap, 'byte')} (caps=Caps(varint=…) allows more)",
        "a longer one",
    )


def _zlib() -> Any:
    import zlib

    return zlib.decompressobj()


def _gzip() -> Any:
    import zlib

    return zlib.decompressobj(zlib.MAX_WBITS | 16)


def _bzip2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _lzma() -> Any:
    import lzma

    return lzma.LZMADecompressor()


def _lz4() -> Any:
    import lz4.frame

    return lz4.frame.LZ4FrameDecompressor()


DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "zlib": _zlib,
    "gzip": _gzip,
    "bzip2": _bzip2,
    "lzma": _lzma,
}
"""Makers of objects that decompress up to so many bytes; few messages need any."""

ENCODINGS = {
    **{name: name for name in DECOMPRESSORS},
    **dict.fromkeys(("zip", "zlib_codec"), "zlib"),
    **dict.fromkeys(("bz2", "bz2_codec"), "bzip2"),
}
"""Names that `Compressed` takes, by what they mean; Python's codecs have aliases."""


class Unfolding(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    A `Tunnel`: data is decoded whole, and its content parsed within the same caps.

    Args:
        tunnel: the user's object, which does the decoding and encoding.
        content: what is inside, guarded.
    """

    def __init__(self, tunnel: Any, content: Any) -> None:
        super().__init__()
        self.tunnel = tunnel
        self.content = content

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        start = stream.tell()
        cap = usage_of(context).caps.decompressed
        data = self._decoded(stream.read(), cap, context, path, start)
        return self.content._parsereport(io.BytesIO(data), context, path)

    def _decoded(
        self, folded: bytes, cap: int, context: Any, path: str, start: int
    ) -> Any:
        tunnel = self.tunnel
        make: Callable[[], Any] | None = None
        if isinstance(tunnel, construct.CompressedLZ4):
            make = _lz4
        elif isinstance(tunnel, construct.Compressed):
            kind = ENCODINGS.get(tunnel.encoding.lower().replace("-", "_"))
            make = DECOMPRESSORS.get(kind or "")
        if make is None:
            return tunnel._decode(folded, context, path)
        decompressor = make()
        data = decompressor.decompress(folded, cap + 1)
        if len(data) > cap:
            expected = f"at most {cap} bytes of decompressed data"
            raise Fault(path, start, f"{expected} (caps=Caps(decompressed=…))", "more")
        if not decompressor.eof:
            raise Fault(path, start, "a whole compressed stream", "a part of one")
        return data

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        inside = io.BytesIO()
        self.content._build(obj, inside, context, path)
        stream.write(self.tunnel._encode(inside.getvalue(), context, path))
        return obj


class GreedyRestreamed(construct.Restreamed):  # type: ignore[misc] # construct is untyped
    """
    A `Restreamed` of something greedy: all that is left is decoded at once.
    """

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        rest = stream.read()
        unit = self.decoderunit
        whole = len(rest) - len(rest) % unit
        chunks = (rest[i : i + unit] for i in range(0, whole, unit))
        inside = io.BytesIO(b"".join(map(self.decoder, chunks)))
        value = self.subcon._parsereport(inside, context, path)
        left = len(rest) - whole or inside.read()
        if left:
            raise Fault(path, inside.tell(), "the end of the data", "more of it")
        return value


class CappedLazyBound(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    A reference to a construct that is defined later, with a depth.
    """

    def __init__(
        self, function: Callable[[], Any], guard: Callable[[Any], Any]
    ) -> None:
        super().__init__()
        self.function = function
        self.guard = guard
        self._guarded: Any = None

    @property
    def target(self) -> Any:
        """
        What is referred to, guarded.
        """
        if self._guarded is None:
            self._guarded = self.guard(self.function())
        return self._guarded

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        target = self.target
        if getattr(target, "is_guarded", False):  # a message, which counts itself
            return target._parsereport(stream, context, path)
        usage = usage_of(context)
        usage.enter(stream.tell(), path)
        value = target._parsereport(stream, context, path)
        usage.depth -= 1
        return value

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        return self.target._build(obj, stream, context, path)


def children(subcon: Any) -> Iterable[Any]:
    """
    Give the constructs that a construct is made of; a message's are its fields.
    """
    for field in getattr(subcon, "fields", ()):
        yield field.construct
    for value in vars(subcon).values():
        if isinstance(value, construct.Construct):
            yield value
        elif isinstance(value, list):
            yield from (v for v in value if isinstance(v, construct.Construct))
        elif isinstance(value, dict):
            yield from (v for v in value.values() if isinstance(v, construct.Construct))
