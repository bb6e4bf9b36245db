"""
Torture all example servers, in every mode that is not a process for each request.

Usage: python -m tests.testing.torment [--cases N] [--seed N]
"""

import argparse
import itertools
import sys
import time

from examples import dns_server, modbus_station, ntp_server, sensor_station
from protoserve.testing import torture

SERVERS = [
    *itertools.product([sensor_station.app], ["tcp", "udp"]),
    *itertools.product([modbus_station.app], ["tcp"]),
    *itertools.product([dns_server.app], ["tcp", "udp"]),
    *itertools.product([ntp_server.app], ["udp"]),
]
MODES = ["threads", "pool", "loop", "prefork", "batch"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runs = list(itertools.product(SERVERS, MODES))
    each = -(-options.cases // len(runs))
    played = found = 0
    for number, ((app, transport), mode) in enumerate(runs):
        begun = time.monotonic()
        seed = options.seed * len(runs) + number
        report = torture(app, budget=each, seed=seed, mode=mode, transport=transport)
        played += report.cases
        found += len(report.findings)
        rate = report.cases / (time.monotonic() - begun)
        print(
            f"{app.protocol.name} {transport} {mode}, seed {seed}: "
            f"{report.cases} cases, {rate:,.0f}/s, {len(report.findings)} findings",
            flush=True,
        )
        for finding in report.findings:
            print(f"  {finding}")
    print(f"{played} cases, {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
