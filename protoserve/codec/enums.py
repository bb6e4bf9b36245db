"""
Numbers on the wire, Python enum members in messages.
"""

from __future__ import annotations

import enum
from typing import Any

import construct

from protoserve.codec.fault import Fault

__all__ = ["EnumField"]


class EnumField(construct.Adapter):  # type: ignore[misc] # construct is untyped
    """
    A construct whose values are members of a Python enum.

    Args:
        subcon: what is on the wire.
        members: the enum; flags are taken apart by the enum itself.
        strict: whether a value that no member has is malformed. Otherwise it
            stays what it is on the wire.
    """

    def __init__(self, subcon: Any, members: type[enum.Enum], strict: bool) -> None:
        super().__init__(subcon)
        self.members = members
        self.strict = strict
        self.table = {member.value: member for member in members}
        self.flags = issubclass(members, enum.Flag)
        self.known_bits = 0
        if self.flags:
            for member in members:
                self.known_bits |= member.value

    def _parse(self, stream: Any, context: Any, path: str) -> Any:
        start = stream.tell()
        value = self.subcon._parsereport(stream, context, path)
        member = self.member(value)
        if member is None:
            if self.strict:
                raise Fault(path, start, self._choices(), repr(value))
            return value
        return member

    def member(self, value: Any) -> enum.Enum | None:
        """
        Find the member for a value; `None` if there is none.
        """
        member = self.table.get(value)
        if member is None and self.flags:
            if self.strict and value & ~self.known_bits:
                return None
            try:
                return self.members(value)
            except ValueError:
                return None
        return member

    def _build(self, obj: Any, stream: Any, context: Any, path: str) -> Any:
        value = obj.value if isinstance(obj, self.members) else obj
        if self.strict and self.member(value) is None:
            raise Fault(path, 0, self._choices(), repr(obj))
        self.subcon._build(value, stream, context, path)
        return obj

    def _choices(self) -> str:
        names = [f"{m.name}={m.value!r}" for m in self.members]
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        return f"a {self.members.__name__} ({shown})"
