"""
An authoritative DNS server for the zone ``example.test``, over UDP and TCP.

Names outside the zone and classes other than IN are refused, and so are zone
transfers over UDP. Try `python examples/dns_server.py 5300`, and then
``dig -p 5300 @127.0.0.1 www.example.test``; ``+tcp`` and ``AXFR`` work too.
"""

import argparse
import threading
from collections.abc import Iterator

import attrs

from protocols import dns
from protocols.dns import Edns, Opcode, Rcode, RRType, record
from protoserve import Service, Session, malformed, route
from protoserve.server import ThreadingTCPServer, UDPServer

ZONE = dns.Zone(
    "example.test",
    [
        record("example.test", dns.SOA("ns1.example.test", "admin.example.test")),
        record("example.test", dns.NS("ns1.example.test")),
        record("example.test", dns.A("192.0.2.1")),
        record("example.test", dns.AAAA("2001:db8::1")),
        record("example.test", dns.MX(10, "mail.example.test")),
        record("example.test", dns.TXT([b"v=spf1 mx -all"])),
        record("example.test", dns.CAA(0, "issue", b"ca.example.net")),
        record("ns1.example.test", dns.A("192.0.2.53")),
        record("mail.example.test", dns.A("192.0.2.25")),
        record("mail.example.test", dns.MX(10, "mail.example.test")),
        record("www.example.test", dns.CNAME("example.test")),
        record("txt.example.test", dns.TXT([b"hello", b"world"])),
        record("long.example.test", dns.TXT([b"x" * 250] * 8)),
        record("_sip._tcp.example.test", dns.SRV(0, 5, 5060, "sip.example.test")),
        record("sip.example.test", dns.A("192.0.2.60")),
        record("*.wild.example.test", dns.A("192.0.2.99")),
        record("sub.example.test", dns.NS("ns.sub.example.test")),
        record("ns.sub.example.test", dns.A("192.0.2.54")),
    ],
)


@attrs.frozen
class Nameserver:
    """
    Answers from one zone.
    """

    zone: dns.Zone

    @route
    def query(
        self, query: dns.Query, header: dns.Header, session: Session
    ) -> dns.Response | Iterator[dns.Response]:
        """
        Answer a query; a zone transfer by several responses.
        """
        header.clear()
        response = dns.Response(query.questions)
        try:
            edns = Edns.of(query)
        except ValueError:
            header.rcode = Rcode.FORMERR
            return response
        rcode = self.objection(query, header, session)
        if edns is not None:
            if edns.version > 0:
                rcode = Rcode.BADVERS
            # The record has the upper bits of the response code, the header four.
            answer = Edns(rcode_bits=rcode >> 4, dnssec_ok=edns.dnssec_ok)
            response.additionals = [answer.record()]
        header.rcode = Rcode(rcode & 15)
        if rcode:
            return response
        (question,) = query.questions
        header.authoritative = True
        if question.type == RRType.AXFR:
            opt = response.additionals
            parts = self.zone.transfer()
            return (dns.Response(query.questions, part, [], opt) for part in parts)
        found = self.zone.answer(question, brief=not session.stream)
        header.rcode, header.authoritative = found.rcode, found.authoritative
        response.answers, response.authorities = found.answers, found.authorities
        response.additionals = found.additionals + response.additionals
        if not session.stream:
            size = 512 if edns is None else edns.size
            response, header.truncated = dns.fit(response, size)
        return response

    def objection(
        self, query: dns.Query, header: dns.Header, session: Session
    ) -> Rcode:
        """
        Say why a query is not answered; NOERROR if it is.
        """
        if header.opcode != Opcode.QUERY:
            return Rcode.NOTIMP
        if len(query.questions) != 1:  # RFC 9619 section 4
            return Rcode.FORMERR
        (question,) = query.questions
        if question.rrclass != dns.RRClass.IN or not self.zone.covers(question.name):
            return Rcode.REFUSED
        if question.type == RRType.AXFR:
            whole = dns.folded(question.name) == dns.folded(self.zone.origin)
            return Rcode.NOERROR if whole and session.stream else Rcode.REFUSED
        return Rcode.NOTIMP if question.type == RRType.IXFR else Rcode.NOERROR

    @malformed
    def format_error(self, header: dns.Header | None) -> dns.Response | None:
        """
        Answer FORMERR to what has a header at least.
        """
        if header is None:
            return None
        header.clear()
        header.rcode = Rcode.FORMERR
        return dns.Response()


app = Service(dns.dns, Nameserver(ZONE))


def main(port: int) -> None:
    """
    Serve until interrupted.
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
    parser.add_argument("port", type=int, nargs="?", default=53, help="(%(default)s)")
    try:
        main(parser.parse_args().port)
    except (OSError, OverflowError) as error:  # the port is taken, or is none
        parser.error(str(error))
    except KeyboardInterrupt:
        pass
