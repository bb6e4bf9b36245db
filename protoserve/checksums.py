"""
Checksums by the names of the catalogue, such as `crc16_modbus` and `internet`.

Each is a `Checksum`: called with bytes it gives a number, and it knows its
`width` in bits, its `size` in bytes and the number that it gives for
``b"123456789"``. CRCs are one table of parameters; `crc` makes those that are not
in it.

The standard library has two polynomials in C, and by reversing bits before and
after they serve every CRC of the same polynomial. All others take one table
look-up a byte; tables are made when a checksum is first used.

Source:
    Greg Cook, Catalogue of parametrised CRC algorithms,
    https://reveng.sourceforge.io/crc-catalogue/all.htm; the model is that of
    R. N. Williams, A painless guide to CRC error detection algorithms (1993).
"""

from __future__ import annotations

import abc
import binascii
import functools
import itertools
import operator
import struct
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NoReturn, TypeAlias

import attrs

from protoserve.errors import DeclarationError

__all__ = [
    "CATALOGUE",
    "Checksum",
    "Crc",
    "adler32",
    "crc",
    "crc5_usb",
    "crc7_mmc",
    "crc8",
    "crc8_autosar",
    "crc8_bluetooth",
    "crc8_cdma2000",
    "crc8_darc",
    "crc8_dvb_s2",
    "crc8_i_432_1",
    "crc8_maxim",
    "crc8_nrsc_5",
    "crc8_rohc",
    "crc8_sae_j1850",
    "crc8_wcdma",
    "crc12_umts",
    "crc15_can",
    "crc16_arc",
    "crc16_ccitt_false",
    "crc16_cdma2000",
    "crc16_cms",
    "crc16_dect_x",
    "crc16_dnp",
    "crc16_en_13757",
    "crc16_genibus",
    "crc16_gsm",
    "crc16_ibm_3740",
    "crc16_ibm_sdlc",
    "crc16_kermit",
    "crc16_maxim",
    "crc16_mcrf4xx",
    "crc16_modbus",
    "crc16_profibus",
    "crc16_riello",
    "crc16_spi_fujitsu",
    "crc16_t10_dif",
    "crc16_umts",
    "crc16_usb",
    "crc16_x25",
    "crc16_xmodem",
    "crc24_ble",
    "crc24_lte_a",
    "crc24_openpgp",
    "crc32",
    "crc32_aixm",
    "crc32_autosar",
    "crc32_bzip2",
    "crc32_cksum",
    "crc32_jamcrc",
    "crc32_mpeg2",
    "crc32c",
    "crc64_ecma_182",
    "crc64_go_iso",
    "crc64_redis",
    "crc64_we",
    "crc64_xz",
    "fletcher16",
    "fletcher16_mod256",
    "fletcher32",
    "internet",
    "lrc",
    "sum8",
    "sum16",
    "sum32",
    "xor8",
]

_Engine: TypeAlias = Callable[[bytes], int]

_EXAMPLE = b"123456789"


@attrs.frozen
class Checksum(abc.ABC):
    """
    A function from bytes to a number. Called with no bytes it is defined too.
    """

    name: str
    """The name in the catalogue, as in this module."""
    width: int
    """Bits."""
    check: int | None
    """What it gives for ``b"123456789"``, where that is published."""

    @property
    def size(self) -> int:
        """
        How many bytes it takes.
        """
        return (self.width + 7) // 8

    @abc.abstractmethod
    def __call__(self, data: bytes) -> int:
        """
        Give the checksum of some bytes.
        """

    def __repr__(self) -> str:
        return self.name


@attrs.frozen(repr=False, cache_hash=True)
class Crc(Checksum):
    """
    A cyclic redundancy check by its parameters, which are those of the catalogue.
    """

    poly: int
    """The polynomial without its highest bit, highest power first."""
    init: int = 0
    """What the register starts with."""
    refin: bool = False
    """Whether the lowest bit of a byte comes first."""
    refout: bool = False
    """Whether the register is reversed at the end."""
    xorout: int = 0
    """What the register is combined with at the end, by exclusive or."""

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.width <= 64:
            self._refuse("width", "1 to 64", self.width)
        for field in ("poly", "init", "xorout"):
            value = getattr(self, field)
            if not 0 <= value < 1 << self.width:
                self._refuse(field, f"a number of {self.width} bits", value)

    def _refuse(self, field: str, expected: str, found: int) -> NoReturn:
        raise DeclarationError(
            f"{self.name}.{field}: expected {expected}, found {found:#x}"
        )

    def __call__(self, data: bytes) -> int:
        """
        Give the checksum of some bytes.
        """
        number: int = _engine(self)(data)
        return number

    def engine(self) -> Callable[[bytes], int]:
        """
        Give the function that does the work, for callers that are in a hurry.
        """
        return _engine(self)


@attrs.frozen(repr=False)
class _Sum(Checksum):
    function: Callable[[bytes], int]

    def __call__(self, data: bytes) -> int:
        return self.function(data)


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _reverse(number: int, width: int) -> int:
    return int(f"{number:0{width}b}"[::-1], 2)


@functools.lru_cache(maxsize=256)
def _engine(crc: Crc) -> _Engine:
    width, poly, init = crc.width, crc.poly, crc.init
    refin, refout, xorout = crc.refin, crc.refout, crc.xorout
    if (width, poly) == (16, 0x1021):
        return _hqx_engine(init, refin, refout, xorout)
    if (width, poly) == (32, 0x04C11DB7):
        return _zlib_engine(init, refin, refout, xorout)
    if refin:
        return _low_first_engine(width, poly, init, refout, xorout)
    return _high_first_engine(width, poly, init, refout, xorout)


def _hqx_engine(init: int, refin: bool, refout: bool, xorout: int) -> _Engine:
    """
    Use binascii's CRC of polynomial 0x1021, highest bit first.
    """
    crc_hqx = binascii.crc_hqx

    def high(data: bytes) -> int:
        return crc_hqx(data, init) ^ xorout

    def low(data: bytes) -> int:
        register = crc_hqx(bytes(data).translate(_REVERSED), init)
        swapped = register.to_bytes(2, "little").translate(_REVERSED)
        return int.from_bytes(swapped, "big") ^ xorout

    if refin == refout:
        return low if refin else high
    return lambda data: _reverse((low if refin else high)(data) ^ xorout, 16) ^ xorout


def _zlib_engine(init: int, refin: bool, refout: bool, xorout: int) -> _Engine:
    """
    Use zlib's CRC of polynomial 0x04c11db7, lowest bit first.
    """
    ones = 0xFFFFFFFF
    start = _reverse(init, 32) ^ ones
    final = xorout ^ ones if refout else ones
    crc32 = zlib.crc32
    if refin and refout and not start and not final:
        return crc32

    def low(data: bytes) -> int:
        return crc32(data, start) ^ final

    def high(data: bytes) -> int:
        return crc32(bytes(data).translate(_REVERSED), start) ^ final

    register = low if refin else high
    if refout:
        return register
    return lambda data: _reverse(register(data), 32) ^ xorout


def _low_first_engine(
    width: int, poly: int, init: int, refout: bool, xorout: int
) -> _Engine:
    start = _reverse(init, width)
    mirrored = _reverse(poly, width)
    table = []
    for register in range(256):
        for _ in range(8):
            register = register >> 1 ^ (mirrored if register & 1 else 0)
        table.append(register)

    def engine(data: bytes) -> int:
        register = start
        for byte in data:
            register = table[(register ^ byte) & 0xFF] ^ register >> 8
        return (register if refout else _reverse(register, width)) ^ xorout

    return engine


def _high_first_engine(
    width: int, poly: int, init: int, refout: bool, xorout: int
) -> _Engine:
    # a register of less than a byte is kept in the highest bits of one
    pad = max(0, 8 - width)
    shift = width + pad - 8
    mask = (1 << shift) - 1
    top = 1 << (width + pad - 1)
    table = []
    for byte in range(256):
        register = byte << shift
        for _ in range(8):
            register = register << 1 ^ (poly << pad if register & top else 0)
            register &= top * 2 - 1
        table.append(register)
    start = init << pad

    def engine(data: bytes) -> int:
        register = start
        for byte in data:
            register = table[register >> shift ^ byte] ^ (register & mask) << 8
        register >>= pad
        return (_reverse(register, width) if refout else register) ^ xorout

    return engine


def crc(
    width: int,
    poly: int,
    *,
    init: int = 0,
    refin: bool = False,
    refout: bool | None = None,
    xorout: int = 0,
    check: int | None = None,
    name: str | None = None,
) -> Crc:
    """
    Make a CRC that the catalogue does not have.

    Args:
        width: bits, 1 to 64.
        poly: the polynomial without its highest bit, highest power first.
        init: what the register starts with.
        refin: whether the lowest bit of a byte comes first.
        refout: whether the register is reversed at the end; None: as `refin`.
        xorout: what the register is combined with at the end.
        check: the number for ``b"123456789"``, to be verified at once.
        name: how it calls itself.

    Raises:
        DeclarationError: a number has more bits than `width`, or `check` is wrong.

    >>> hex(crc(16, 0x8005, init=0xFFFF, refin=True)(b"HELLO, WORLD"))
    '0x2f3e'
    """
    refout = refin if refout is None else refout
    name = f"crc{width}" if name is None else name
    made = Crc(name, width, check, poly, init, refin, refout, xorout)
    found = made(_EXAMPLE)
    if check is not None and check != found:
        raise DeclarationError(f"{name}.check: expected {found:#x}, found {check:#x}")
    return made


def _fletcher16(data: bytes) -> int:
    high = sum(itertools.accumulate(data)) % 255
    return high << 8 | sum(data) % 255


def _fletcher16_mod256(data: bytes) -> int:
    high = sum(itertools.accumulate(data)) & 0xFF
    return high << 8 | sum(data) & 0xFF


def _fletcher32(data: bytes) -> int:
    data = bytes(data) + b"\0" * (len(data) % 2)
    words: tuple[int, ...] = struct.unpack(f"<{len(data) // 2}H", data)
    high = sum(itertools.accumulate(words)) % 65535
    return high << 16 | sum(words) % 65535


def _internet(data: bytes) -> int:
    # the ones' complement sum of 16-bit words is the whole modulo 65535, since
    # 65536 leaves 1; only all zeros sum up to 0
    number = int.from_bytes(data, "big") << 8 * (len(data) % 2)
    total = number % 0xFFFF or (0xFFFF if number else 0)
    return total ^ 0xFFFF


def _xor8(data: bytes) -> int:
    return functools.reduce(operator.xor, data, 0)


def _sum8(data: bytes) -> int:
    return sum(data) & 0xFF


def _sum16(data: bytes) -> int:
    return sum(data) & 0xFFFF


def _sum32(data: bytes) -> int:
    return sum(data) & 0xFFFFFFFF


def _lrc(data: bytes) -> int:
    return -sum(data) & 0xFF


# Every CRC: width, poly, init, refin, refout, xorout, check.
# fmt: off
_TABLE = {
    "crc5_usb":         (5, 0x05, 0x1F, True, True, 0x1F, 0x19),
    "crc7_mmc":         (7, 0x09, 0x00, False, False, 0x00, 0x75),
    "crc8":             (8, 0x07, 0x00, False, False, 0x00, 0xF4),
    "crc8_autosar":     (8, 0x2F, 0xFF, False, False, 0xFF, 0xDF),
    "crc8_bluetooth":   (8, 0xA7, 0x00, True, True, 0x00, 0x26),
    "crc8_cdma2000":    (8, 0x9B, 0xFF, False, False, 0x00, 0xDA),
    "crc8_darc":        (8, 0x39, 0x00, True, True, 0x00, 0x15),
    "crc8_dvb_s2":      (8, 0xD5, 0x00, False, False, 0x00, 0xBC),
    "crc8_i_432_1":     (8, 0x07, 0x00, False, False, 0x55, 0xA1),
    "crc8_maxim":       (8, 0x31, 0x00, True, True, 0x00, 0xA1),
    "crc8_nrsc_5":      (8, 0x31, 0xFF, False, False, 0x00, 0xF7),
    "crc8_rohc":        (8, 0x07, 0xFF, True, True, 0x00, 0xD0),
    "crc8_sae_j1850":   (8, 0x1D, 0xFF, False, False, 0xFF, 0x4B),
    "crc8_wcdma":       (8, 0x9B, 0x00, True, True, 0x00, 0x25),
    "crc12_umts":       (12, 0x80F, 0x000, False, True, 0x000, 0xDAF),
    "crc15_can":        (15, 0x4599, 0x0000, False, False, 0x0000, 0x059E),
    "crc16_arc":        (16, 0x8005, 0x0000, True, True, 0x0000, 0xBB3D),
    "crc16_cdma2000":   (16, 0xC867, 0xFFFF, False, False, 0x0000, 0x4C06),
    "crc16_cms":        (16, 0x8005, 0xFFFF, False, False, 0x0000, 0xAEE7),
    "crc16_dect_x":     (16, 0x0589, 0x0000, False, False, 0x0000, 0x007F),
    "crc16_dnp":        (16, 0x3D65, 0x0000, True, True, 0xFFFF, 0xEA82),
    "crc16_en_13757":   (16, 0x3D65, 0x0000, False, False, 0xFFFF, 0xC2B7),
    "crc16_genibus":    (16, 0x1021, 0xFFFF, False, False, 0xFFFF, 0xD64E),
    "crc16_gsm":        (16, 0x1021, 0x0000, False, False, 0xFFFF, 0xCE3C),
    "crc16_ibm_3740":   (16, 0x1021, 0xFFFF, False, False, 0x0000, 0x29B1),
    "crc16_ibm_sdlc":   (16, 0x1021, 0xFFFF, True, True, 0xFFFF, 0x906E),
    "crc16_kermit":     (16, 0x1021, 0x0000, True, True, 0x0000, 0x2189),
    "crc16_maxim":      (16, 0x8005, 0x0000, True, True, 0xFFFF, 0x44C2),
    "crc16_mcrf4xx":    (16, 0x1021, 0xFFFF, True, True, 0x0000, 0x6F91),
    "crc16_modbus":     (16, 0x8005, 0xFFFF, True, True, 0x0000, 0x4B37),
    "crc16_profibus":   (16, 0x1DCF, 0xFFFF, False, False, 0xFFFF, 0xA819),
    "crc16_riello":     (16, 0x1021, 0xB2AA, True, True, 0x0000, 0x63D0),
    "crc16_spi_fujitsu":(16, 0x1021, 0x1D0F, False, False, 0x0000, 0xE5CC),
    "crc16_t10_dif":    (16, 0x8BB7, 0x0000, False, False, 0x0000, 0xD0DB),
    "crc16_umts":       (16, 0x8005, 0x0000, False, False, 0x0000, 0xFEE8),
    "crc16_usb":        (16, 0x8005, 0xFFFF, True, True, 0xFFFF, 0xB4C8),
    "crc16_xmodem":     (16, 0x1021, 0x0000, False, False, 0x0000, 0x31C3),
    "crc24_ble":        (24, 0x00065B, 0x555555, True, True, 0x000000, 0xC25A56),
    "crc24_lte_a":      (24, 0x864CFB, 0x000000, False, False, 0x000000, 0xCDE703),
    "crc24_openpgp":    (24, 0x864CFB, 0xB704CE, False, False, 0x000000, 0x21CF02),
    "crc32":            (32, 0x04C11DB7, 0xFFFFFFFF, True, True, 0xFFFFFFFF, 0xCBF43926),
    "crc32_aixm":       (32, 0x814141AB, 0x00000000, False, False, 0x00000000, 0x3010BF7F),
    "crc32_autosar":    (32, 0xF4ACFB13, 0xFFFFFFFF, True, True, 0xFFFFFFFF, 0x1697D06A),
    "crc32_bzip2":      (32, 0x04C11DB7, 0xFFFFFFFF, False, False, 0xFFFFFFFF, 0xFC891918),
    "crc32_cksum":      (32, 0x04C11DB7, 0x00000000, False, False, 0xFFFFFFFF, 0x765E7680),
    "crc32_jamcrc":     (32, 0x04C11DB7, 0xFFFFFFFF, True, True, 0x00000000, 0x340BC6D9),
    "crc32_mpeg2":      (32, 0x04C11DB7, 0xFFFFFFFF, False, False, 0x00000000, 0x0376E6E7),
    "crc32c":           (32, 0x1EDC6F41, 0xFFFFFFFF, True, True, 0xFFFFFFFF, 0xE3069283),
    "crc64_ecma_182":   (
        64, 0x42F0E1EBA9EA3693, 0x0000000000000000, False, False,
        0x0000000000000000, 0x6C40DF5F0B497347),
    "crc64_go_iso":     (
        64, 0x000000000000001B, 0xFFFFFFFFFFFFFFFF, True, True,
        0xFFFFFFFFFFFFFFFF, 0xB90956C775A41001),
    "crc64_redis":      (
        64, 0xAD93D23594C935A9, 0x0000000000000000, True, True,
        0x0000000000000000, 0xE9C6D914C4B8D9CA),
    "crc64_we":         (
        64, 0x42F0E1EBA9EA3693, 0xFFFFFFFFFFFFFFFF, False, False,
        0xFFFFFFFFFFFFFFFF, 0x62EC59E3F1A4F00A),
    "crc64_xz":         (
        64, 0x42F0E1EBA9EA3693, 0xFFFFFFFFFFFFFFFF, True, True,
        0xFFFFFFFFFFFFFFFF, 0x995DC9BBDF1939FA),
}
# fmt: on


def _of_table(name: str) -> Crc:
    width, poly, init, refin, refout, xorout, check = _TABLE[name]
    return Crc(name, width, check, poly, init, bool(refin), bool(refout), xorout)


crc5_usb = _of_table("crc5_usb")
crc7_mmc = _of_table("crc7_mmc")
crc8 = _of_table("crc8")
"""SMBus."""
crc8_autosar = _of_table("crc8_autosar")
crc8_bluetooth = _of_table("crc8_bluetooth")
crc8_cdma2000 = _of_table("crc8_cdma2000")
crc8_darc = _of_table("crc8_darc")
crc8_dvb_s2 = _of_table("crc8_dvb_s2")
crc8_i_432_1 = _of_table("crc8_i_432_1")
crc8_maxim = _of_table("crc8_maxim")
"""1-Wire."""
crc8_nrsc_5 = _of_table("crc8_nrsc_5")
crc8_rohc = _of_table("crc8_rohc")
crc8_sae_j1850 = _of_table("crc8_sae_j1850")
crc8_wcdma = _of_table("crc8_wcdma")
crc12_umts = _of_table("crc12_umts")
crc15_can = _of_table("crc15_can")
crc16_arc = _of_table("crc16_arc")
crc16_cdma2000 = _of_table("crc16_cdma2000")
crc16_cms = _of_table("crc16_cms")
crc16_dect_x = _of_table("crc16_dect_x")
crc16_dnp = _of_table("crc16_dnp")
"""DNP3."""
crc16_en_13757 = _of_table("crc16_en_13757")
"""Wireless M-Bus."""
crc16_genibus = _of_table("crc16_genibus")
crc16_gsm = _of_table("crc16_gsm")
crc16_ibm_3740 = _of_table("crc16_ibm_3740")
"""Often called CCITT-FALSE."""
crc16_ibm_sdlc = _of_table("crc16_ibm_sdlc")
"""X.25, HDLC, the FCS-16 of RFC 1662."""
crc16_kermit = _of_table("crc16_kermit")
crc16_maxim = _of_table("crc16_maxim")
crc16_mcrf4xx = _of_table("crc16_mcrf4xx")
"""MAVLink."""
crc16_modbus = _of_table("crc16_modbus")
"""Modbus RTU."""
crc16_profibus = _of_table("crc16_profibus")
crc16_riello = _of_table("crc16_riello")
crc16_spi_fujitsu = _of_table("crc16_spi_fujitsu")
crc16_t10_dif = _of_table("crc16_t10_dif")
"""SCSI data integrity."""
crc16_umts = _of_table("crc16_umts")
crc16_usb = _of_table("crc16_usb")
crc16_xmodem = _of_table("crc16_xmodem")
"""XMODEM, ZMODEM."""
crc24_ble = _of_table("crc24_ble")
crc24_lte_a = _of_table("crc24_lte_a")
crc24_openpgp = _of_table("crc24_openpgp")
"""RFC 4880 section 6.1."""
crc32 = _of_table("crc32")
"""ISO-HDLC: zlib, Ethernet, the FCS-32 of RFC 1662."""
crc32_aixm = _of_table("crc32_aixm")
crc32_autosar = _of_table("crc32_autosar")
crc32_bzip2 = _of_table("crc32_bzip2")
crc32_cksum = _of_table("crc32_cksum")
"""POSIX cksum, without the length that the command appends."""
crc32_jamcrc = _of_table("crc32_jamcrc")
crc32_mpeg2 = _of_table("crc32_mpeg2")
crc32c = _of_table("crc32c")
"""iSCSI, SCTP, ext4."""
crc64_ecma_182 = _of_table("crc64_ecma_182")
crc64_go_iso = _of_table("crc64_go_iso")
crc64_redis = _of_table("crc64_redis")
crc64_we = _of_table("crc64_we")
crc64_xz = _of_table("crc64_xz")

crc16_ccitt_false = crc16_ibm_3740
crc16_x25 = crc16_ibm_sdlc

adler32 = _Sum("adler32", 32, 0x091E01DE, zlib.adler32)
"""RFC 1950 section 8.2."""
fletcher16 = _Sum("fletcher16", 16, 0x1EDE, _fletcher16)
"""Sums modulo 255; the second sum is the high byte."""
fletcher16_mod256 = _Sum("fletcher16_mod256", 16, 0x15DD, _fletcher16_mod256)
"""Sums modulo 256, RFC 1145 and UBX; little-endian gives UBX's order."""
fletcher32 = _Sum("fletcher32", 32, 0xDF09D509, _fletcher32)
"""Sums of little-endian 16-bit words modulo 65535; odd data ends with a zero."""
internet = _Sum("internet", 16, None, _internet)
"""RFC 1071, of big-endian 16-bit words; odd data ends with a zero."""
lrc = _Sum("lrc", 8, 0x23, _lrc)
"""The two's complement of the sum of the bytes, Modbus ASCII."""
sum8 = _Sum("sum8", 8, 0xDD, _sum8)
"""The sum of the bytes, as are the two wider ones."""
sum16 = _Sum("sum16", 16, 0x01DD, _sum16)
sum32 = _Sum("sum32", 32, 0x01DD, _sum32)
xor8 = _Sum("xor8", 8, 0x31, _xor8)
"""The exclusive or of the bytes, NMEA 0183."""

CATALOGUE: Mapping[str, Checksum] = MappingProxyType(
    {
        name: value
        for name, value in sorted(globals().items())
        if isinstance(value, Checksum)
    }
)
"""All checksums of this module by name, other names of the same included."""
