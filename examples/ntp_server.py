"""
An NTP server that gives this machine's own time, as stratum $NTP_STRATUM (10).

It answers clients only, and never with more bytes than it was asked with: forging
a sender's address gains nothing. MACs are not looked at, so a client that insists
on authentication will not believe it. Try `python examples/ntp_server.py 1123`.
"""

import argparse
import os
import time

import attrs
from attrs.validators import and_, ge, le

from protocols import ntp
from protoserve import Frame, Service, Session, route
from protoserve.server import UDPServer


@attrs.frozen
class LocalClock:
    """
    Answers with the time of the clock that `time.time` reads.
    """

    stratum: int = attrs.field(validator=and_(ge(1), le(15)))

    @route
    def answer(
        self,
        message: ntp.ClientRequest | ntp.Version1Request,
        header: ntp.Header,
        frame: Frame,
        session: Session,
    ) -> None:
        """
        Send the three times that the client reckons with, in its own version.
        """
        if not 1 <= header.version <= (1 if header.mode is ntp.Mode.RESERVED else 4):
            return
        received = ntp.from_unix(frame.received_at)
        response = ntp.ServerResponse(
            stratum=self.stratum,
            poll=message.poll,
            precision=-20,  # reading the clock takes less than a microsecond
            root_dispersion=1,
            reference_id=b"LOCL" if self.stratum == 1 else bytes([127, 127, 1, 1]),
            reference_timestamp=received,
            origin_timestamp=message.transmit_timestamp,
            receive_timestamp=received,
            transmit_timestamp=ntp.from_unix_ns(time.time_ns()),
        )
        # A copy of the request's header would have the client's leap indicator.
        session.send(response, header=ntp.Header(version=header.version))


app = Service(ntp.ntp, LocalClock(int(os.environ.get("NTP_STRATUM", "10"))))


def main(port: int) -> None:
    """
    Serve until interrupted.
    """
    with UDPServer(("", port), app.RequestHandlerClass) as server:
        server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, nargs="?", default=123, help="(%(default)s)")
    try:
        main(parser.parse_args().port)
    except (OSError, OverflowError) as error:  # the port is taken, or is none
        parser.error(str(error))
    except KeyboardInterrupt:
        pass
