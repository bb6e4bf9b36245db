"""
Tables and frames as the payload of entries.
"""

import decimal
import random
import struct

import numpy as np
import pyarrow as pa
import pytest

from protoserve import Peer
from protoserve.telemetry.packing import (
    UnpackError,
    pack_frames,
    pack_tables,
    unpack_frames,
    unpack_tables,
)
from protoserve.telemetry.tables import Frames

V4 = Peer("udp", ("192.0.2.1", 2055))
V6 = Peer("udp", ("2001:db8::1", 2055, 0, 0))
NAMELESS = Peer("unixgram", b"\0autobind")
PATH = Peer("unixgram", "/run/x.sock")


def tables():
    described = pa.field("octets", pa.uint64(), metadata={"unit": "B"})
    flows = pa.table(
        [
            pa.array(range(1000), pa.uint64()),
            pa.array([f"10.0.0.{n % 256}" for n in range(1000)]),
            pa.array([[("a", "b")]] * 1000, pa.map_(pa.string(), pa.string())),
            pa.array(range(1000), pa.timestamp("ns", "UTC")),
        ],
        schema=pa.schema(
            [
                described,
                pa.field("srcaddr", pa.string()),
                pa.field("tags", pa.map_(pa.string(), pa.string())),
                pa.field("received_at", pa.timestamp("ns", "UTC")),
            ]
        ),
    )
    return {"flows": flows, "öffnungen": flows.slice(3, 7), "empty": flows.slice(0, 0)}


@pytest.mark.parametrize("lz4", [False, True])
def test_tables_come_back(lz4):
    """Tables come back with their names, types, metadata and rows."""
    packed = b"".join(pack_tables(tables(), lz4=lz4))
    unpacked = unpack_tables(packed)
    assert list(tables()) == list(unpacked)
    for name, table in tables().items():
        assert table.equals(unpacked[name], check_metadata=True)
        unpacked[name].validate(full=True)


def test_tables_are_not_copied():
    """Packing gives the tables' own buffers, and unpacking views of the payload."""
    column = pa.array(np.arange(100_000))
    packed = pack_tables({"t": pa.table({"n": column})})
    address = column.buffers()[1].address
    assert address in [b.address for b in packed if isinstance(b, pa.Buffer)]
    payload = b"".join(packed)
    start = pa.py_buffer(payload).address
    (chunk,) = unpack_tables(payload)["t"]["n"].chunks
    assert start < chunk.buffers()[1].address < start + len(payload)
    assert 0 == chunk.buffers()[1].address % 8


def repeating(rows):
    """Columns of all kinds that have a run of 30 rows each, or are all the same."""
    head = np.arange(rows) // 30
    hosts = pa.array(["192.0.2.1", "2001:db8::1"])
    some = np.where(head % 2, np.nan, -0.0)
    zeros = np.where(head % 2, 0.0, -0.0)
    null = head % 2 == 0
    return {
        "u1": pa.array((head % 256).astype("u1")),
        "u2": pa.array(head.astype("u2")),
        "i4": pa.array(-head.astype("i4")),
        "u8": pa.array(head.astype("u8") + np.uint64(1 << 63)),
        "one": pa.array(np.full(rows, 7, "u4")),
        "nan": pa.array(some),
        "signs": pa.array(zeros),
        "time": pa.array(head, pa.timestamp("ns", "UTC")),
        "host": pa.DictionaryArray.from_arrays(pa.array(head % 2, pa.int32()), hosts),
        "level": pa.DictionaryArray.from_arrays(
            pa.array(head % 2, pa.int8()), pa.array(["low", "high"]), ordered=True
        ),
        "null": pa.array(head, mask=null),
        "bool": pa.array(head % 2 == 0),
        "text": pa.array([str(n) for n in head]),
        "list": pa.array([[n] for n in head]),
        "dec": pa.array([decimal.Decimal(int(n)) for n in head], pa.decimal128(9, 0)),
        "gap": pa.array([(0, 0, int(n)) for n in head], pa.month_day_nano_interval()),
        "mine": pa.array(np.arange(rows)),
        "late": pa.array(np.maximum(np.arange(rows), 1100)),
        "soon": pa.array(np.minimum(np.arange(rows), 1100)),
    }


@pytest.mark.parametrize("rows", [1023, 1024, 1025, 5000])
@pytest.mark.parametrize("offset", [0, 7])
def test_runs_come_back(rows, offset):
    """Columns that repeat are what they were, types, bits and metadata included."""
    columns = repeating(rows + offset)
    fields = [
        pa.field(name, c.type, metadata={"a": "b"}) for name, c in columns.items()
    ]
    table = pa.table(columns, schema=pa.schema(fields)).slice(offset)
    packed = pack_tables({"t": table, "parts": pa.concat_tables([table, table])})
    unpacked = unpack_tables(b"".join(packed))
    for name, want in (("t", table), ("parts", pa.concat_tables([table, table]))):
        found = unpacked[name]
        found.validate(full=True)
        assert found.schema.equals(want.schema, check_metadata=True)
        for column in columns:
            if column in ("nan", "signs"):
                assert repr(found[column].to_pylist()) == repr(want[column].to_pylist())
            else:
                assert found[column].equals(want[column]), column


def test_runs_are_compact():
    """What is the same for many rows takes hardly any bytes; what is not, no more."""
    columns = repeating(30_000)
    sizes = {}
    for name, column in columns.items():
        packed = pack_tables({"t": pa.table({name: column})})
        sizes[name] = sum(memoryview(each).nbytes for each in packed) / 30_000
    assert max(sizes[name] for name in ("u1", "u2", "u8", "nan", "time", "host")) < 0.5
    assert sizes["one"] < 0.1
    assert sizes["mine"] < 8.1
    assert sizes["late"] < 8.1


def test_no_tables():
    """No tables at all are a payload too."""
    assert {} == unpack_tables(b"".join(pack_tables({})))


def test_damaged_tables():
    """Whatever the bytes are, unpacking gives tables or says what is wrong."""
    packed = b"".join(pack_tables({"t": pa.table({"n": [1, 2, 3]})}))
    for size in range(9, len(packed)):
        with pytest.raises(UnpackError):
            unpack_tables(packed[:size])
    with pytest.raises(UnpackError, match="expected tables, found b'PSF1"):
        unpack_tables(b"PSF1....")
    with pytest.raises(UnpackError):
        unpack_tables(b"")


def frames(count, *, between=0, seed=1):
    chance = random.Random(seed)
    exporters = [Peer("udp", ("unused", 1)), V4, V6, NAMELESS, PATH]
    lengths = np.array([chance.choice((0, 1, 48, 1464)) for _ in range(count)], "i8")
    starts = np.cumsum(lengths + between) - lengths - between
    return Frames(
        np.frombuffer(chance.randbytes(int((lengths + between).sum())), np.uint8),
        starts,
        lengths,
        1_700_000_000_000_000_000
        + np.array([chance.randrange(10**9) for _ in range(count)], "i8"),
        np.array([chance.randrange(1, 5) for _ in range(count)], "i8"),
        exporters,
    )


def same(one, other):
    assert len(one) == len(other)
    assert one.times.tolist() == other.times.tolist()
    for index in range(len(one)):
        assert one.frame(index) == other.frame(index)
        sender = one.exporters[one.senders[index]]
        assert sender == other.exporters[other.senders[index]]


@pytest.mark.parametrize("count", [0, 1, 2, 500])
@pytest.mark.parametrize("between", [0, 7])
def test_frames_come_back(count, between):
    """Datagrams come back with their bytes, times and senders."""
    given = frames(count, between=between)
    same(given, unpack_frames(b"".join(pack_frames(given))))


def test_extreme_numbers():
    """Times may be any 64-bit numbers, and so may the differences between them."""
    times = np.array([-(2**63), 2**63 - 1, 0, -1], "i8")
    given = Frames(
        np.zeros(4, np.uint8),
        np.arange(4),
        np.ones(4, "i8"),
        times,
        np.zeros(4, "i8"),
        [V4],
    )
    unpacked = unpack_frames(b"".join(pack_frames(given)))
    assert times.tolist() == unpacked.times.tolist()


def test_frames_are_compact():
    """Datagrams of one length and sender cost four bytes each, for their times."""
    count = 1000
    given = Frames(
        np.zeros(count * 2048, np.uint8),
        np.arange(count) * 2048,
        np.full(count, 100),
        1_700_000_000_000_000_000 + np.arange(count) * 100_000,
        np.zeros(count, "i8"),
        [V4],
    )
    packed = b"".join(pack_frames(given))
    assert len(packed) < count * 104 + 150
    same(given, unpack_frames(packed))


def test_contiguous_frames_are_not_copied():
    """Datagrams that lie behind each other are packed where they are."""
    given = frames(50)
    last = pack_frames(given)[-1]
    assert np.shares_memory(np.frombuffer(last, np.uint8), given.data)


def test_exporters_are_the_same_objects():
    """An exporter is the same object, whichever payload it comes from."""
    one = unpack_frames(b"".join(pack_frames(frames(50, seed=1))))
    other = unpack_frames(b"".join(pack_frames(frames(40, seed=2))))
    for peer in one.exporters:
        assert any(peer is each for each in other.exporters)


def test_hostile_frames():
    """Whatever the bytes are, unpacking gives frames or says what is wrong."""
    packed = b"".join(pack_frames(frames(30)))
    chance = random.Random(3)
    for size in range(len(packed)):
        with pytest.raises(UnpackError):
            unpack_frames(packed[:size])
    refused = 0
    for _ in range(2000):
        data = bytearray(packed)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(400)] = chance.randrange(256)
        try:
            unpacked = unpack_frames(bytes(data))
        except UnpackError:
            refused += 1
        else:
            for index in range(min(len(unpacked), 50)):
                assert unpacked.lengths[index] == len(unpacked.frame(index))
                str(unpacked.exporters[unpacked.senders[index]])
    assert refused > 100
    for peers in (b"[" * 90_000, b"{}", b"[1]", b'[["udp",{}]]', b'[["x","y"]]'):
        data = struct.pack("<4sIIQ", b"PSF1", 1, len(peers), 0) + bytes(48) + peers
        with pytest.raises(UnpackError):
            unpack_frames(data)
    with pytest.raises(UnpackError, match="at most 4194304, found"):
        unpack_frames(packed[:4] + b"\xff" * 16 + bytes(48))
