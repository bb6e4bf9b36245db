"""
Checksums: check values, engines against the definition, and own variants.
"""

from __future__ import annotations

import pickle
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoserve import checksums
from protoserve.checksums import CATALOGUE, Crc, crc
from protoserve.errors import DeclarationError

EXAMPLE = b"123456789"


def by_definition(data: bytes, c: Crc) -> int:
    """One bit after the other."""
    register = c.init
    for byte in data:
        bits = f"{byte:08b}"
        for bit in bits[::-1] if c.refin else bits:
            top = register >> (c.width - 1) ^ int(bit)
            register = (register << 1 ^ (c.poly if top else 0)) & (1 << c.width) - 1
    if c.refout:
        register = int(f"{register:0{c.width}b}"[::-1], 2)
    return register ^ c.xorout


CRCS = [value for value in CATALOGUE.values() if isinstance(value, Crc)]
MIXED = [
    crc(16, 0x1021, init=0x1234, refin=True, refout=False, xorout=0x5678),
    crc(16, 0x1021, init=0x1234, refin=False, refout=True, xorout=0x5678),
    crc(32, 0x04C11DB7, init=0x1234, refin=True, refout=False, xorout=0x5678),
    crc(32, 0x04C11DB7, init=0x1234, refin=False, refout=True, xorout=0x5678),
    crc(13, 0x1CF5, init=0x0ABC, refin=True, refout=False, xorout=0x0012),
    crc(3, 0x3, init=0x7),
    crc(1, 0x1),
]


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_check_values(name):
    """The catalogue's number comes out for 123456789."""
    checksum = CATALOGUE[name]
    assert getattr(checksums, name) is checksum
    assert name in checksums.__all__
    assert 0 <= checksum(b"") < 1 << checksum.width
    assert checksum.size * 8 >= checksum.width > checksum.size * 8 - 8
    if checksum.check is not None:
        assert checksum.check == checksum(EXAMPLE)


@pytest.mark.parametrize("checksum", CRCS + MIXED, ids=repr)
@given(data=st.binary(max_size=40))
def test_engines(checksum, data):
    """The tables and the library's functions do what the definition says."""
    expected = by_definition(data, checksum)
    assert expected == checksum(data)
    assert expected == checksum(bytearray(data))
    assert expected == checksum(memoryview(data))


@pytest.mark.parametrize("name", sorted(CATALOGUE))
@given(data=st.binary(max_size=40))
def test_any_bytes(name, data):
    """Any kind of bytes gives the same number, within the width."""
    checksum = CATALOGUE[name]
    number = checksum(data)
    assert 0 <= number < 1 << checksum.width
    assert number == checksum(bytearray(data)) == checksum(memoryview(data))


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("fletcher16", b"abcde", 0xC8F0),
        ("fletcher16", b"abcdef", 0x2057),
        ("fletcher16", b"abcdefgh", 0x0627),
        ("fletcher32", b"abcde", 0xF04FC729),
        ("fletcher32", b"abcdef", 0x56502D2A),
        ("fletcher32", b"abcdefgh", 0xEBE19591),
        ("adler32", b"Wikipedia", 0x11E60398),
        # the sum of RFC 1071 section 3 is ddf2
        ("internet", bytes.fromhex("0001f203f4f5f6f7"), 0xFFFF ^ 0xDDF2),
        ("internet", bytes.fromhex("45000073000040004011c0a80001c0a800c7"), 0xB861),
        ("internet", b"", 0xFFFF),
        ("internet", b"\0\0", 0xFFFF),
        ("internet", b"\xff\xff", 0),
        ("internet", b"\x01", 0xFEFF),
        # :010300000001 is followed by its LRC in Modbus ASCII
        ("lrc", bytes.fromhex("010300000001"), 0xFB),
        # $GPGLL,5300.97914,N,00259.98174,E,125926,A*28
        ("xor8", b"GPGLL,5300.97914,N,00259.98174,E,125926,A", 0x28),
        ("sum8", b"\xff\x02", 0x01),
        ("sum16", b"\xff\x02", 0x0101),
        ("sum32", b"\xff" * 300, 76500),
        ("crc16_modbus", bytes.fromhex("01030000000a"), 0xCDC5),
        # RFC 3720 B.4: 32 bytes of zeros
        ("crc32c", bytes(32), 0x8A9136AA),
    ],
)
def test_vectors(name, data, expected):
    """Numbers from standards and manuals."""
    assert expected == CATALOGUE[name](data)


def test_other_names():
    """The same checksum under the name that people know."""
    assert checksums.crc16_x25 is checksums.crc16_ibm_sdlc
    assert checksums.crc16_ccitt_false is checksums.crc16_ibm_3740
    assert checksums.crc32(EXAMPLE) == zlib.crc32(EXAMPLE)


def test_own_variant():
    """A CRC of one's own equals that of the catalogue by its parameters."""
    mine = crc(16, 0x8005, init=0xFFFF, refin=True, check=0x4B37, name="mine")
    assert checksums.crc16_modbus(b"x") == mine(b"x")
    assert (repr(mine), mine.size) == ("mine", 2)
    assert crc(16, 0x8005) == crc(16, 0x8005)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("width", {"width": 0}),
        ("width", {"width": 65}),
        ("poly", {"poly": 0x11021}),
        ("init", {"init": 0x10000}),
        ("xorout", {"xorout": -1}),
        ("check", {"check": 0x1234}),
    ],
)
def test_wrong_parameters(field, options):
    """The error names the parameter."""
    options = {"width": 16, "poly": 0x1021, **options}
    with pytest.raises(DeclarationError, match=rf"crc\d+\.{field}: expected"):
        crc(options.pop("width"), options.pop("poly"), **options)


@pytest.mark.parametrize("name", ["crc16_modbus", "internet"])
def test_values(name):
    """Checksums can be compared, shown and sent to other processes."""
    checksum = CATALOGUE[name]
    assert checksum == pickle.loads(pickle.dumps(checksum))
    assert name == repr(checksum)


def test_catalogue_is_fixed():
    """Nothing is added to the table at run time."""
    with pytest.raises(TypeError):
        CATALOGUE["mine"] = checksums.crc32
