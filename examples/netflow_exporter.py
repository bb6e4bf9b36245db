"""
Send made-up flows as routers do: 300 each of NetFlow v5, NetFlow v9 and IPFIX.

`datagrams` makes them without sending; the same seed makes the same flows. Try
`python -m examples.netflow_exporter 2055`.
"""

import argparse
import random
import socket
from collections.abc import Iterator
from ipaddress import ip_address

from protocols.netflow import (
    IPFIX,
    V9,
    Flow5,
    Header,
    Ipfix,
    IpfixSet,
    NetFlow5,
    NetFlow9,
    NetFlow9Set,
    Template,
    netflow,
)
from protoserve import Direction

NAMES = {"v5": 5, "v9": V9, "ipfix": IPFIX}
START = 1_767_225_600
"""When the first flow is sent: seconds since 1970."""

ELEMENTS = ((8, 4), (12, 4), (15, 4), (10, 2), (14, 2), (2, 4), (1, 4), (7, 2))
ELEMENTS += ((11, 2), (6, 1), (4, 1), (5, 1), (16, 2), (17, 2), (9, 1), (13, 1))
"""Elements and lengths, as in version 5; the two times come behind."""
TIMES = {V9: ((22, 4), (21, 4)), IPFIX: ((152, 8), (153, 8))}
TEMPLATES = {v: Template.of(256, ELEMENTS + TIMES[v], version=v) for v in (V9, IPFIX)}


def flow(chance: random.Random, now: int) -> dict[str, object]:
    """Make one flow; what v5 calls otherwise is in the order of `Flow5`."""
    pick = chance.randrange
    values: list[object] = [f"10.0.{pick(8)}.{pick(256)}" for _ in range(3)]
    values += [pick(1, 9), pick(1, 9), pick(1, 99), pick(40, 9999)]
    values += [pick(1024, 65536), 443, pick(64), 6, 0, pick(9), pick(9), 24, 16]
    names = TEMPLATES[IPFIX].names
    made = dict(zip(names[:-2], values, strict=True))
    start = chance.randrange(59_000)
    made |= {"flowStartSysUpTime": start, "flowEndSysUpTime": start + 500}
    moment = now * 1000 - 60_000 + start
    made |= {"flowStartMilliseconds": moment, "flowEndMilliseconds": moment + 500}
    return made


def datagrams(
    version: int, count: int, each: int = 30, seed: int = 1
) -> Iterator[bytes]:
    """Make datagrams of `count` flows; the template comes first, and every 20th time."""
    chance, sent = random.Random(seed), 0
    for number in range(-(-count // each)):
        now = START + number
        flows = [flow(chance, now) for _ in range(min(each, count - sent))]
        if version == 5:
            kept = [list(f.values()) for f in flows]
            for values in kept:
                values[:3] = [int(ip_address(text)) for text in values[:3]]
            rows = [Flow5(*v[:7], *v[16:18], *v[7:9], 0, *v[9:16]) for v in kept]
            message = NetFlow5(60_000, now, 0, sent, flows=rows)
        else:
            template = TEMPLATES[version]
            kind = NetFlow9Set if version == V9 else IpfixSet
            sets = [kind(256, template.encode(flows))]
            if number % 20 == 0:
                sets.insert(0, kind(0 if version == V9 else 2, template.definition()))
            if version == V9:
                message = NetFlow9(len(flows), 60_000, now, number, 0, sets)
            else:
                message = Ipfix(now, sent, 0, sets)
        sent += len(flows)
        yield netflow.build(message, Direction.REQUEST, header=Header(version))


def main(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for version in NAMES.values():
            for datagram in datagrams(version, 300):
                sender.sendto(datagram, ("127.0.0.1", port))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, nargs="?", default=2055, help="(%(default)s)")
    try:
        main(parser.parse_args().port)
    except (OSError, OverflowError) as error:  # such as a port that is none
        parser.error(str(error))
