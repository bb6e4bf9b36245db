"""
Routes that take many messages at a time, in every mode.
"""

import asyncio
import json
import socket
import struct
import sys
import threading
import time
from collections import Counter

import attrs
import numpy as np
import pyarrow as pa
import pytest
from construct import Bytes, GreedyRange
from hypothesis import given, settings
from hypothesis import strategies as st

from protoserve import (
    Batch,
    DeclarationError,
    Message,
    Peer,
    Protocol,
    Service,
    batch_route,
    connected,
    gathering,
    malformed,
    route,
    wire,
)
from protoserve.serve import MODES, make_server
from protoserve.server._mmsg import Block
from protoserve.urls import Address
from tests.coalescing import gro, send_together
from tests.running import bound, ended, started
from tests.service.gatherer import Export, Flow, Head, Note, Reading, gathered
from tests.service.kit import PATIENCE, until


def reading(sequence, device=7, celsius=1.5):
    return struct.pack("!BHIf", 1, sequence, device, celsius)


def export(sequence, *flows, count=None):
    head = struct.pack("!BHHI", 2, sequence, len(flows) if count is None else count, 9)
    return head + b"".join(struct.pack("!IH", *flow) for flow in flows)


def note(sequence, text, level=1):
    return struct.pack("!BHB", 3, sequence, len(text)) + text + bytes([level])


@attrs.define
class Taker:
    """
    Keeps what it is given.
    """

    batches: list = attrs.field(factory=list)
    refused: list = attrs.field(factory=list)

    @batch_route(max_rows=10, max_age=60)
    def readings(self, batch: Batch[Reading]) -> None:
        self.batches.append(batch)

    @batch_route(max_rows=10, max_age=60)
    def exports(self, batch: Batch[Export]) -> None:
        self.batches.append(batch)

    @batch_route(max_rows=10, max_age=60)
    def notes(self, batch: Batch[Note]) -> None:
        self.batches.append(batch)

    @malformed
    def bad(self, error: Exception) -> None:
        self.refused.append(str(error).partition("\n")[0])

    def column(self, name):
        return [value for batch in self.batches for value in batch[name].tolist()]


PEER = Peer("udp", ("127.0.0.1", 9))


def given_to(handler, *frames, peer=PEER, protocol=gathered):
    """
    Let a service have some datagrams, and what is left in the end.
    """
    with Service(protocol, handler) as service:
        session = service.session(peer, stream=False)
        for frame in frames:
            session.receive_data(frame)
            service.answer(session)
    return handler


def columns_of(path):
    """
    Bring the written lines to the rows of each message.
    """
    rows = {}
    for line in path.read_text().splitlines():
        name, size, columns = json.loads(line)
        assert {size} == {len(values) for values in columns.values()}
        assert size <= 10
        found = rows.setdefault(name, [])
        found += zip(*(columns[key] for key in sorted(columns)), strict=True)
    return {name: sorted(found) for name, found in rows.items()}


DATAGRAMS = [
    *(reading(i, i * 3) for i in range(23)),
    *(export(i, (i, 1), (i, 2), (i, 3)) for i in range(7)),
    export(7),
    *(note(i, b"n%d" % i) for i in range(4)),
]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("mode", MODES)
def test_modes(mode, transport, tmp_path, monkeypatch):
    """In every mode batch routes get all rows, of datagrams and of streams."""
    path = tmp_path / "rows"
    path.touch()
    monkeypatch.setenv("GATHERED", str(path))
    command = ["run", "tests.service.gatherer:app", "--mode", mode]
    command += ["--listen", f"{transport}://127.0.0.1:0"]
    if mode == "prefork":
        command += ["--workers", "2"]
    with started([sys.executable, "-m", "protoserve", *command]) as process:
        (url,) = bound(process)
        address = Address.parse(url)
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.connect((address.host, address.port))
            for datagram in DATAGRAMS:
                size = struct.pack("!H", len(datagram)) if transport == "tcp" else b""
                sock.sendall(size + datagram)
        until(lambda: sum(map(len, columns_of(path).values())) == 23 + 21 + 4)
        assert (0, "") == ended(process)
    found = columns_of(path)
    assert [(1.5, i * 3, 1, i) for i in range(23)] == found["Reading"]
    flows = [(3, 2, k, i, i, 9) for i in range(7) for k in (1, 2, 3)]
    assert sorted(flows) == found["Export"]
    assert [(3, 1, i, f"n{i}") for i in range(4)] == found["Note"]


def test_several_addresses_of_forking(tmp_path, monkeypatch):
    """Each process gives what it has to the routes before it ends."""
    path = tmp_path / "rows"
    path.touch()
    monkeypatch.setenv("GATHERED", str(path))
    command = ["run", "tests.service.gatherer:app", "--mode", "fork"]
    command += ["--listen", "udp://127.0.0.1:0", "--listen", "tcp://127.0.0.1:0"]
    with started([sys.executable, "-m", "protoserve", *command]) as process:
        address = Address.parse(bound(process, 2)[0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for i in range(3):
                sock.sendto(reading(i), (address.host, address.port))
        assert (0, "") == ended(process)
    assert 3 == len(columns_of(path)["Reading"])


def test_one_row_a_message():
    """Messages of fixed layout are rows; the header's fields stand beside them."""
    taker = given_to(Taker(), *(reading(i, 5) for i in range(4)))
    (batch,) = taker.batches
    assert 4 == len(batch)
    assert [0, 1, 2, 3] == batch["sequence"].tolist()
    assert ["kind", "sequence", "device", "celsius"] == list(batch.columns)
    assert np.dtype(">f4") == batch["celsius"].dtype


def test_records_are_rows():
    """Records in a message are rows; the rest of it is repeated beside each."""
    frames = export(1, (1, 2), (3, 4)), export(2), export(3, (5, 6))
    with Receiving(Taker()) as receiving:
        receiving.take(*frames)
    (batch,) = receiving.service.handler.batches
    assert given_to(Taker(), *frames).batches[0].to_arrow() == batch.to_arrow()
    assert 3 == len(batch)
    assert [1, 1, 3] == batch["sequence"].tolist()
    assert [1, 3, 5] == batch["packets"].tolist()
    assert [2, 1] == [message.count for message in batch.messages]
    assert [Flow(5, 6)] == batch.messages[-1].flows


class Log(Message):
    flows: list[Flow] = wire(GreedyRange(Flow.construct))


def test_nothing_but_records():
    """Records need neither a header nor anything else ahead of them."""

    class Logs:
        def __init__(self):
            self.batches = []

        @batch_route(max_rows=2, max_age=60)
        def logs(self, batch: Batch[Log]) -> None:
            self.batches.append(batch)

    logs = Protocol("logs", requests=Log)
    frames = [struct.pack("!IHIH", 1, 2, 3, 4), b"", struct.pack("!IH", 5, 6)] * 2
    with Receiving(Logs(), logs) as receiving:
        receiving.take(*frames)
    single = given_to(Logs(), *frames, protocol=logs)
    for handler in (single, receiving.service.handler):
        rows = [row for each in handler.batches for row in each["packets"].tolist()]
        assert [1, 3, 5] * 2 == rows
        assert [Flow(1, 2), Flow(3, 4)] == handler.batches[0].messages[0].flows


def test_varying_messages():
    """Messages of varying layout are rows too, with objects where there must be."""
    taker = given_to(Taker(), note(1, b"a"), note(2, "é".encode(), 9))
    (batch,) = taker.batches
    assert ["a", "é"] == batch["text"].tolist()
    assert np.dtype("u1") == batch["level"].dtype
    assert [1, 2] == batch["sequence"].tolist()
    assert [Note("a", 1), Note("é", 9)] == list(batch.messages)


def test_peers_and_times():
    """Each row has its peer, and the moment of its arrival."""
    other = Peer("udp", ("127.0.0.1", 10))
    taker = Taker()
    with Service(gathered, taker) as service:
        for peer in (PEER, other):
            session = service.session(peer, stream=False)
            session.receive_data(export(1, (1, 2), (3, 4)))
            service.answer(session)
    (batch,) = taker.batches
    assert [PEER, PEER, other, other] == batch.peers
    assert "M" == batch.received_at.dtype.kind
    age = np.datetime64("now", "ns") - batch.received_at[-1]
    assert abs(age) < np.timedelta64(60, "s")


def test_unknown_column():
    """A column that there is not is told with those that there are."""
    (batch,) = given_to(Taker(), reading(1)).batches
    with pytest.raises(KeyError, match="no column 'celcius' .known: kind, sequence"):
        batch["celcius"]
    assert "celcius" not in batch.columns


def test_messages_are_a_sequence():
    """Messages can be counted, sliced, and asked for from the end."""
    (batch,) = given_to(Taker(), *(reading(i, i) for i in range(3))).batches
    assert [1, 2] == [message.device for message in batch.messages[1:]]
    assert 2 == batch.messages[-1].device
    with pytest.raises(IndexError):
        batch.messages[3]


def test_arrow():
    """Units and docs become metadata of the Arrow fields."""
    (batch,) = given_to(Taker(), export(1, (1, 2), (3, 4))).batches
    table = batch.to_arrow()
    assert ["kind", "sequence", "count", "uptime", "packets", "octets"] == (
        table.column_names
    )
    assert {b"doc": b"how many"} == table.field("packets").metadata
    assert {b"unit": b"ms"} == table.field("uptime").metadata
    assert pa.uint32() == table.field("packets").type
    assert [1, 3] == table["packets"].to_pylist()


def test_most_rows():
    """A batch has no more rows than it may; what is more begins the next."""
    taker = given_to(Taker(), *(reading(i) for i in range(25)))
    assert [10, 10, 5] == [len(batch) for batch in taker.batches]
    assert list(range(25)) == taker.column("sequence")


def test_messages_stay_whole():
    """A message's records come in one batch, even if they are too many."""
    many = [(i, 0) for i in range(23)]
    frames = [export(1, *many[:4]), export(2, *many[:7]), export(3, *many)]
    taker = given_to(Taker(), *frames)
    assert [4, 7, 23] == [len(batch) for batch in taker.batches]


def test_age():
    """What is not enough for a batch is given away when it has waited long enough."""
    came = threading.Event()

    class Impatient:
        @batch_route(max_rows=10, max_age=0.01)
        def readings(self, batch: Batch[Reading]) -> None:
            came.set()

    with Service(gathered, Impatient()) as service:
        session = service.session(PEER, stream=False)
        session.receive_data(reading(1))
        service.answer(session)
        assert came.wait(PATIENCE)


def test_one_at_a_time():
    """However many threads bring rows, the route is called by one at a time, in order."""
    working = threading.Lock()
    seen = Counter()

    class Careful:
        @batch_route(max_rows=7, max_age=0.001)
        def readings(self, batch: Batch[Reading]) -> None:
            assert working.acquire(blocking=False)
            for device, sequence in zip(
                batch["device"].tolist(), batch["sequence"].tolist(), strict=True
            ):
                assert seen[device] == sequence
                seen[device] += 1
            working.release()

    with Service(gathered, Careful()) as service:

        def bring(device):
            session = service.session(PEER, stream=False)
            for i in range(100):
                session.receive_data(reading(i, device))
                service.answer(session)

        threads = [threading.Thread(target=bring, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert dict.fromkeys(range(4), 100) == dict(seen)
    assert 0 == service.gatherings[Reading].failed


def test_failure(caplog):
    """A route that fails is told of, and loses its batch only."""

    class Failing(Taker):
        @batch_route(max_rows=10, max_age=60)
        def readings(self, batch: Batch[Reading]) -> None:
            if not self.batches:
                self.batches.append(batch)
                raise OSError("no room")
            self.batches.append(batch)

    handler = Failing()
    service = Service(gathered, handler)
    with service:
        session = service.session(PEER, stream=False)
        for i in range(20):
            session.receive_data(reading(i))
            service.answer(session)
    assert [10, 10] == [len(batch) for batch in handler.batches]
    assert 10 == service.gatherings[Reading].failed
    assert "readings() failed for 10 rows" in caplog.text
    assert "no room" in caplog.text


def test_awaits_what_was_cancelled(caplog):
    """A route that awaits what somebody cancelled loses its batch only."""
    sizes = []

    class Awaiting:
        @batch_route(max_rows=10, max_age=0.001)
        async def readings(self, batch: Batch[Reading]) -> None:
            sizes.append(len(batch))
            if len(sizes) == 1:
                other = asyncio.ensure_future(asyncio.sleep(PATIENCE))
                other.cancel()
                await other

    with Service(gathered, Awaiting()) as service:
        session = service.session(PEER, stream=False)
        for i in range(2):
            session.receive_data(reading(i))
            service.answer(session)
            until(lambda i=i: len(sizes) == i + 1)
    assert [1, 1] == sizes
    assert 1 == service.gatherings[Reading].failed
    assert "readings() failed for 1 rows" in caplog.text


def test_stuck(monkeypatch, caplog):
    """A route that does not come to an end does not hold up the end."""
    monkeypatch.setattr(gathering, "_PATIENCE", 0.05)
    stuck, go_on = threading.Event(), threading.Event()

    class Stuck:
        @batch_route(max_rows=10, max_age=0.001)
        def readings(self, batch: Batch[Reading]) -> None:
            stuck.set()
            go_on.wait(PATIENCE)

    with Service(gathered, Stuck()) as service:
        session = service.session(PEER, stream=False)
        session.receive_data(reading(1))
        service.answer(session)
        assert stuck.wait(PATIENCE)
        session.receive_data(reading(2))
        service.answer(session)
    go_on.set()
    assert "readings() is stuck: 1 rows are not given to it" in caplog.text


@pytest.mark.parametrize("is_async", [False, True])
def test_stuck_at_the_end(is_async, monkeypatch, caplog):
    """Nor does one that does so with what is left."""
    monkeypatch.setattr(gathering, "_PATIENCE", 0.2)
    go_on = threading.Event()

    class Stuck:
        @batch_route(max_rows=10, max_age=60)
        def readings(self, batch: Batch[Reading]) -> None:
            go_on.wait(PATIENCE)

    class AsyncStuck:
        @batch_route(max_rows=10, max_age=60)
        async def readings(self, batch: Batch[Reading]) -> None:
            await asyncio.sleep(PATIENCE)

    started = time.monotonic()
    given_to(AsyncStuck() if is_async else Stuck(), reading(1))
    go_on.set()
    assert time.monotonic() - started < PATIENCE / 2
    assert "readings() is stuck" in caplog.text


@pytest.mark.parametrize("is_async", [False, True])
def test_flush_by_the_route(is_async):
    """A route that asks for all batches does not wait for itself."""
    sizes = []

    class Impatient:
        @batch_route(max_rows=2, max_age=60)
        def readings(self, batch: Batch[Reading]) -> None:
            service.flush()
            sizes.append(len(batch))

    class AsyncImpatient:
        @batch_route(max_rows=2, max_age=60)
        async def readings(self, batch: Batch[Reading]) -> None:
            service.flush()
            sizes.append(len(batch))

    service = Service(gathered, AsyncImpatient() if is_async else Impatient())

    def bring():
        with service:
            session = service.session(PEER, stream=False)
            for i in range(3):
                session.receive_data(reading(i))
                service.answer(session)

    thread = threading.Thread(target=bring, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert [2, 1] == sizes


def test_coroutine():
    """A coroutine runs on the service's loop, like the lifespan; it is awaited."""
    loops = []

    async def lifespan(_service):
        loops.append(asyncio.get_running_loop())
        yield
        loops.append(asyncio.get_running_loop())

    class Async:
        @batch_route(max_rows=2, max_age=60)
        async def readings(self, batch: Batch[Reading]) -> None:
            await asyncio.sleep(0)
            loops.append(asyncio.get_running_loop())

    with Service(gathered, Async(), lifespan=lifespan) as service:
        session = service.session(PEER, stream=False)
        for i in range(3):
            session.receive_data(reading(i))
            service.answer(session)
        assert 2 == len(loops)
    assert 4 == len(loops)
    assert 1 == len(set(loops))


# In blocks -----------------------------------------------------------------


class Receiving:
    """
    What mode batch has, without its loop.
    """

    def __init__(self, handler, protocol=gathered, *, gro=False):
        self.service = Service(protocol, handler)
        self.server = make_server(self.service, Address("udp", "127.0.0.1", 0), "batch")
        self.block = Block(self.server.socket, 64, 2048, gro=gro)
        self.side = self.service.RequestHandlerClass.batch_side(self.server)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(self.server.server_address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()
        self.side.end()
        self.service.close()
        self.server.server_close()

    def take(self, *datagrams):
        if self.block.gro:
            rows = len(send_together(self.sock, datagrams))
        else:
            rows = len(datagrams)
            for datagram in datagrams:
                self.sock.send(datagram)
        assert rows == self.block.receive(self.server.socket)
        assert len(datagrams) == self.block.total
        self.side.batch(self.block)


PIECES = st.one_of(
    st.builds(reading, st.integers(0, 9), st.integers(0, 9)),
    st.builds(
        lambda sequence, flows, count: export(sequence, *flows, count=count),
        st.integers(0, 9),
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=5),
        st.none() | st.none() | st.integers(0, 6),
    ),
    st.builds(note, st.integers(0, 9), st.binary(max_size=3)),
    st.binary(max_size=12),
)
CUT = st.builds(lambda data, stop: data[: len(data) - stop], PIECES, st.integers(0, 3))


@pytest.mark.parametrize("coalesced", [False, pytest.param(True, marks=gro)])
@settings(max_examples=150, deadline=None)
@given(blocks=st.lists(st.lists(PIECES | CUT, min_size=1, max_size=12), max_size=3))
def test_blocks_are_what_messages_are(coalesced, blocks):
    """Whatever arrives, blocks give the rows that single messages give."""
    single = given_to(Taker(), *(each for block in blocks for each in block))
    together = Taker()
    with Receiving(together, gro=coalesced) as receiving:
        for block in blocks:
            receiving.take(*block)
        received = receiving.service.account.balance().received
    assert sum(map(len, blocks)) == received
    assert Counter(single.refused) == Counter(together.refused)
    for name in ("device", "packets", "text"):
        found = [
            [
                tuple(row.values())
                for batch in taker.batches
                if name in batch.columns
                for row in batch.to_arrow().to_pylist()
            ]
            for taker in (single, together)
        ]
        assert found[0] == found[1]


def test_longer_than_a_row():
    """Messages that are longer than what is received whole do not disturb the others."""

    class Long(Message):
        data: bytes = wire(Bytes(5000))

    class Both:
        def __init__(self):
            self.sequences = []

        @batch_route(max_rows=10, max_age=60)
        def long(self, batch: Batch[Long]) -> None: ...

        @batch_route(max_rows=100, max_age=60)
        def readings(self, batch: Batch[Reading]) -> None:
            self.sequences += batch["sequence"].tolist()

    both = Protocol("both", header=Head, tag="kind", requests={1: Reading, 2: Long})
    handler = Both()
    with Receiving(handler, both) as receiving:
        receiving.take(*(reading(i) for i in range(64)))
    assert [*range(64)] == handler.sequences


def test_no_object_for_a_row(monkeypatch):
    """Rows of fixed layout are made without parsing a message."""
    taker = Taker()
    with Receiving(taker) as receiving:
        monkeypatch.setattr(receiving.side, "_take", None)
        monkeypatch.setattr(receiving.side, "_pump", None)
        receiving.take(*(reading(i, i) for i in range(9)), export(1, (1, 2), (3, 4)))
    assert [*range(9)] == taker.batches[0]["device"].tolist()
    assert {"127.0.0.1"} == {peer.host for peer in taker.batches[0].peers}


@gro
def test_coalesced_without_an_object(monkeypatch):
    """Datagrams that came as one become rows without parsing a message, too."""
    taker = Taker()
    with Receiving(taker, gro=True) as receiving:
        monkeypatch.setattr(receiving.side, "_take", None)
        monkeypatch.setattr(receiving.side, "_pump", None)
        receiving.take(*(reading(i, i) for i in range(200)))
        own = receiving.sock.getsockname()
    assert [*range(200)] == taker.column("device")
    assert {Peer("udp", own)} == {
        peer for batch in taker.batches for peer in batch.peers
    }


def test_peers_of_blocks():
    """A row of a block has the address that it came from."""
    taker = Taker()
    with Receiving(taker) as receiving:
        receiving.take(reading(1))
        own = receiving.sock.getsockname()
    assert [Peer("udp", own)] == taker.batches[0].peers


def test_hooks_are_called():
    """Where the handler asks for peers it is told of them, and gets its rows too."""
    peers = []

    class Asking(Taker):
        @connected
        def hello(self) -> None:
            peers.append(1)

    taker = Asking()
    with Receiving(taker) as receiving:
        receiving.take(*(reading(i) for i in range(3)))
    assert [1] == peers
    assert [0, 1, 2] == taker.column("sequence")


# What is refused -----------------------------------------------------------


def problem(*methods):
    with pytest.raises(DeclarationError) as caught:
        Service(gathered, type("Wrong", (), {m.__name__: m for m in methods})())
    return str(caught.value)


def test_other_annotations():
    """A batch route takes a Batch of a message that there is."""

    @batch_route()
    def plain(self, message: Reading) -> None: ...

    @batch_route()
    def foreign(self, batch: Batch[Flow]) -> None: ...

    assert "takes Batch[…] of a message that gathered receives" in problem(plain)
    assert "known: Reading, Export, Note" in problem(foreign)


def test_two_routes():
    """A message has one route, of whichever kind."""

    @batch_route()
    def many(self, batch: Batch[Reading]) -> None: ...

    @route
    def one(self, message: Reading) -> None: ...

    assert "Reading has a route: many()" in problem(many, one)


def test_answers():
    """A batch is not answered."""

    @batch_route()
    def many(self, batch: Batch[Reading]) -> Reading: ...

    @batch_route()
    def alone(self) -> None: ...

    both = Protocol("both", messages=Reading)
    with pytest.raises(DeclarationError, match="returns None"):
        Service(both, type("Wrong", (), {"many": many})())
    assert "takes one parameter" in problem(alone)


@pytest.mark.parametrize(
    "options", [{"max_rows": 0}, {"max_rows": 1.5}, {"max_age": 0}, {"max_age": -1}]
)
def test_options(options):
    """Rows and age are above nothing."""
    with pytest.raises(DeclarationError, match=next(iter(options))):
        batch_route(**options)
