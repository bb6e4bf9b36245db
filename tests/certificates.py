"""
Certificates for tests, made when they are needed, and clients that trust them.
"""

import contextlib
import select
import socket
import ssl
import warnings

import trustme

PATIENCE = 60.0


class Authority:
    """
    A certificate authority of our own, and what it signs, as files in a folder.
    """

    def __init__(self, folder):
        self.folder = folder
        self.ca = trustme.CA()
        self.ca_file = self.write("ca.pem", self.ca.cert_pem.bytes())

    def issue(self, *names, **options):
        """
        Sign a certificate; give the paths of it and of its key.
        """
        made = self.ca.issue_cert(*names, **options)
        stem = names[0].replace("*", "any")
        return (
            self.write(
                f"{stem}.pem", b"".join(c.bytes() for c in made.cert_chain_pems)
            ),
            self.write(f"{stem}.key", made.private_key_pem.bytes()),
        )

    def write(self, name, data):
        """
        Write a file into the folder; give its path.
        """
        path = self.folder / name
        path.write_bytes(data)
        return path

    def client(self, pair=None, *, alpn=(), version=None):
        """
        Make a context for clients that trust this authority.
        """
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if pair is not None:
            context.load_cert_chain(*pair)
        if alpn:
            context.set_alpn_protocols(alpn)
        if version is not None:
            with warnings.catch_warnings(action="ignore"):  # of the old ones
                context.minimum_version = context.maximum_version = version
                context.set_ciphers("DEFAULT:@SECLEVEL=0")
        return context

    def connect(self, address, *, name="localhost", context=None, **options):
        """
        Connect to a server, and do the handshake.
        """
        context = context or self.client(**options)
        sock = socket.create_connection(address, PATIENCE)
        try:
            return context.wrap_socket(
                sock, server_hostname=name, suppress_ragged_eofs=False
            )
        except BaseException:
            sock.close()
            raise


class InMemory:
    """
    The client's end of a connection, whose encrypted bytes a test moves by itself.
    """

    def __init__(self, context, address, name="localhost"):
        self.sock = socket.create_connection(address, PATIENCE)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Forked servers hold copies of the socket, as they share our process.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def run(self, step, send=None):
        """
        Do a step of TLS, moving bytes until it succeeds.
        """
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._push(send)
                data = self.sock.recv(65_536)
                self.incoming.write(data)
                if not data:
                    self.incoming.write_eof()
            finally:
                self._push(send)

    def _push(self, send):
        if self.outgoing.pending:
            (send or self.sock.sendall)(self.outgoing.read())

    def byte_by_byte(self, data):
        """
        Send bytes in as many packets.
        """
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            self.sock.sendall(bytes([byte]))

    def hello(self):
        """
        Give the ClientHello, which is not sent.
        """
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def end(self):
        """
        Announce the end of our side, and go on reading.
        """
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.sock.sendall(self.outgoing.read())


def stall(address, count):
    """
    Connect and begin a handshake that never goes on: with nothing, or half a hello.
    """
    made = []
    for number in range(count):
        sock = socket.create_connection(address, PATIENCE)
        if number % 2:
            sock.sendall(bytes.fromhex("16 03 01 02 00 01 00 01 fc 03 03"))
        made.append(sock)
    return made


@contextlib.contextmanager
def crowd(address, room):
    """
    Stall in more handshakes than there is room for: the oldest are ended, no others.

    Threads begin their handshakes in an order of their own; but if one too many has
    begun, all that came before it have.
    """
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(sock) for sock in stall(address, room + 1)]
        ended, _, _ = select.select(first, [], [], PATIENCE)
        assert 1 == len(ended)
        second = [stack.enter_context(sock) for sock in stall(address, room)]
        for sock in first:
            with contextlib.suppress(ConnectionResetError):
                assert b"" == sock.recv(1)
        assert ([], [], []) == select.select(second, [], [], 0)
        yield
