"""
NetFlow v5, NetFlow v9 and IPFIX, as exporters send them to a collector.

`netflow` is the protocol: all three on one port, told apart by the version that every
datagram starts with. `protoserve collect protocols.netflow:netflow` makes tables of it:
``flows``, a row for each flow, and ``options``, what exporters say of themselves. The
columns have the names of the standards. `ipfix` is IPFIX alone, which may come over TCP.

Specifications: Cisco's "NetFlow Export Datagram Format" (v5), RFC 3954 (v9), RFC 7011
(IPFIX), RFC 5103 (reverse elements), IANA's "IPFIX Information Elements".

>>> from protoserve import Direction
>>> netflow.build(NetFlow5(flows=[Flow5(dPkts=3)]), Direction.REQUEST)[:4].hex(" ")
'00 05 00 01'
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from construct import Int16ub

from protocols.netflow.elements import Element, element
from protocols.netflow.filling import Filled
from protocols.netflow.messages import (
    Content,
    Decoded,
    Definition,
    Ipfix,
    IpfixSet,
    NetFlow9,
    NetFlow9Set,
)
from protocols.netflow.templates import (
    IPFIX,
    V9,
    VARIABLE,
    Field,
    Template,
    Withdrawal,
)
from protocols.netflow.version5 import Flow5, NetFlow5
from protoserve import (
    DeclarationError,
    LengthField,
    Message,
    Numbered,
    Protocol,
    wire,
)

if TYPE_CHECKING:
    from protoserve.telemetry.tables import Tabulator

__all__ = [
    "IPFIX",
    "V9",
    "VARIABLE",
    "Content",
    "Decoded",
    "Definition",
    "Element",
    "Field",
    "Flow5",
    "Header",
    "Ipfix",
    "IpfixSet",
    "NetFlow5",
    "NetFlow9",
    "NetFlow9Set",
    "Template",
    "Withdrawal",
    "element",
    "ipfix",
    "make_tabulator",
    "netflow",
]


class Header(Message):
    """
    What all versions start with.
    """

    version: int = wire(Int16ub, doc="5, 9 or 10, which is IPFIX")


class _MakeTabulator:
    """
    Makes what makes tables of datagrams.
    """

    def __call__(self, folder: Path | None = None) -> Tabulator:
        """
        Make one.

        Args:
            folder: where templates are kept across restarts; `None`: nowhere.

        Raises:
            DeclarationError: NumPy or PyArrow is not installed.
        """
        try:
            from protocols.netflow.tabulator import NetFlowTabulator
        except ModuleNotFoundError as exc:
            raise DeclarationError(
                f"flow tables need {exc.name}; install it with "
                "pip install 'protoserve[arrow]'"
            ) from exc
        return NetFlowTabulator(folder)

    def columns(self) -> frozenset[str]:
        """
        Name the columns that there may be, but for those that no registry names.
        """
        from protocols.netflow.columns import column_names

        return column_names()


make_tabulator = _MakeTabulator()
"""Makes what makes tables of datagrams; see `NetFlowTabulator`."""

netflow = Protocol(
    "netflow",
    framing=Filled(),
    header=Header,
    tag="version",
    requests={5: NetFlow5, V9: NetFlow9, IPFIX: Ipfix},
    ports={"udp": 2055},
    numbered={
        NetFlow5: Numbered(
            "flow_sequence", step="count", streams=("engine_type", "engine_id")
        ),
        NetFlow9: Numbered("package_sequence", streams=("source_id",)),
    },
    tabulator=make_tabulator,
    doc="NetFlow v5, NetFlow v9 (RFC 3954) and IPFIX (RFC 7011)",
)

ipfix = Protocol(
    "ipfix",
    # RFC 7011 section 10.4: over TCP messages follow each other.
    framing=LengthField(Int16ub, offset=2, inclusive=True),
    header=Header,
    tag="version",
    requests={IPFIX: Ipfix},
    ports={"udp": 4739, "tcp": 4739},
    tabulator=make_tabulator,
    doc="IPFIX (RFC 7011), over TCP too",
)
