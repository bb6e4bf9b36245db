"""
protobuf: its own encoding, in C, as a reference for what C does.

Its objects make Python values only when these are read.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from benchmarks.codec.case import Candidate
from benchmarks.codec.messages import fixed

TYPES = ("UINT32", "UINT32", "UINT32", "FIXED32", "FIXED64", "FLOAT", "FLOAT", "SINT32")


def _telemetry() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="telemetry.proto", package="benchmark", syntax="proto3"
    )
    message = file.message_type.add(name="Telemetry")
    kinds = descriptor_pb2.FieldDescriptorProto
    for i, (name, kind) in enumerate(zip(fixed.NAMES, TYPES, strict=True), 1):
        kind_number = getattr(kinds, f"TYPE_{kind}")
        message.field.add(name=name, number=i, type=kind_number, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("benchmark.Telemetry")
    return message_factory.GetMessageClass(found)


def candidates() -> dict[str, list[Candidate]]:
    """
    Give the candidates by case.
    """
    cls = _telemetry()
    message = cls(**dict(zip(fixed.NAMES, fixed.VALUES, strict=True)))
    data = [message.SerializeToString()]
    name = "in C, other bytes: protobuf"
    build = cls.SerializeToString
    return {"A": [Candidate(name, cls.FromString, build, None, [message], data)]}
