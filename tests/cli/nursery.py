"""
Starts a run each time it is told to, as a fork of itself.

An interpreter with everything imported starts a run in a few milliseconds, so that a
test can restart it often. It reads lines with the ports for TCP and UDP (0 lets the
system choose), and writes the run's process id and its ports once it is ready, then
its exit code.

Usage: python -m tests.cli.nursery MODE DRAIN
"""

import os
import signal
import sys
import traceback

from protoserve import Service
from protoserve.serve import Runner
from protoserve.urls import Address
from tests.cli.station import Station
from tests.service.kit import spoken


def serve(mode, drain, tcp, udp):
    """
    Serve until SIGTERM, and then for `drain` seconds at most.
    """
    service = Service(spoken, Station())
    addresses = [Address("tcp", "127.0.0.1", tcp), Address("udp", "127.0.0.1", udp)]
    workers = 2 if mode == "prefork" else None
    runner = Runner(service, addresses, mode, drain, workers)
    runner.bind()
    signal.signal(signal.SIGTERM, lambda *_: runner.stop())
    signal.signal(signal.SIGHUP, lambda *_: runner.reload())
    ports = [address.port for address in runner.bound]
    runner.serve(lambda: print(os.getpid(), *ports, flush=True))
    service.close()


def main():
    """
    Do what standard input says.
    """
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                serve(sys.argv[1], float(sys.argv[2]), *map(int, line.split()))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
