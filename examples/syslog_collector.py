"""
A log collector: prints what is a warning or worse, from UDP and TCP.

Both framings of RFC 6587 are taken, and entries of RFC 5424 and RFC 3164. Try
`python -m examples.syslog_collector 5514` and
`logger -n 127.0.0.1 -P 5514 -p user.err "the disk is full"`.
"""

import argparse
import threading

import attrs

from protocols import syslog
from protoserve import Service, Session, route
from protoserve.server import ThreadingTCPServer, UDPServer


@attrs.define
class Printer:
    """
    Prints entries; more of them the higher `least` is.
    """

    least: syslog.Severity = syslog.Severity.WARNING

    @route
    def log(self, message: syslog.Log, session: Session) -> None:
        """
        Print one entry, quoted: what senders write may be made for terminals.
        """
        entry = message.entry
        severity = syslog.Severity.NOTICE if entry.severity is None else entry.severity
        if severity > self.least:
            return
        host = entry.hostname or session.peer.host
        name = entry.app_name or "-"
        print(f"{severity.name:7} {host!r} {name!r} {entry.message!r}", flush=True)


app = Service(syslog.syslog, Printer())


def main(port: int) -> None:
    """
    Collect until interrupted.
    """
    address = ("", port)
    with (
        UDPServer(address, app.RequestHandlerClass) as udp,
        ThreadingTCPServer(address, app.RequestHandlerClass) as tcp,
    ):
        udp.max_packet_size = 65_535
        threading.Thread(target=tcp.serve_forever, daemon=True).start()
        udp.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, nargs="?", default=514, help="(%(default)s)")
    try:
        main(parser.parse_args().port)
    except (OSError, OverflowError) as error:  # the port is taken, or is none
        parser.error(str(error))
    except KeyboardInterrupt:
        pass
