"""
JetStream as a log: the trials against one real server, and what is its own.
"""

import contextlib
import itertools
import re

import pytest

from protoserve.errors import DeclarationError
from protoserve.telemetry.logs.base import LogUnavailableError
from protoserve.telemetry.logs.nats import NatsLog
from protoserve.telemetry.logs.registry import open_log
from tests.certificates import Authority
from tests.telemetry.logs.cluster import free_ports, nats_cluster
from tests.telemetry.logs.trials import (
    Backend,
    Trials,
    drained,
    expected_ids,
    filled,
    ids,
)

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with nats_cluster(1, tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
def backend(cluster):
    name = f"trial{next(NUMBERS)}"
    url = f"{cluster.url}?max_bytes=64MiB"

    def opened(ack_wait=30, **options):
        return NatsLog(f"{url}&ack_wait={ack_wait}", name=name, **options)

    return Backend(
        opened,
        f"{url}&ack_wait=4",
        name,
        stop=lambda: cluster.kill(0),
        start=lambda: cluster.restart(0),
    )


class TestTrials(Trials):
    pass


def test_share(backend):
    """With shares, all entries of a key come to one member, in order."""
    with contextlib.closing(backend.open()) as log:
        filled(log, 200, keys=20)
    seen = []
    for number in (1, 2, 3):
        url = f"{backend.url}&share={number}/3"
        with (
            contextlib.closing(open_log(url, name=backend.name)) as log,
            contextlib.closing(log.consume("g")) as consumer,
        ):
            seen.append(drained(consumer, consumer.lag()))
    keys = [{entry.key for entry in entries} for entries in seen]
    assert 20 == sum(map(len, keys)) == len(set().union(*keys))
    assert all(keys)
    for entries in seen:
        numbers = [int(entry.id[2:]) for entry in entries]
        assert sorted(numbers) == numbers
    assert 200 == sum(map(len, seen))


def test_deleted(backend):
    """A stream that somebody deletes is made again, for writers and for readers."""
    with contextlib.closing(backend.open()) as log:
        filled(log, 5)
        with contextlib.closing(log.consume("g")) as consumer:
            drained(consumer, 5)
            log.call(
                lambda client: client.jetstream().delete_stream(backend.name),
                30,
                connect=30,
            )
            filled(log, 5, start=5)
            assert set(expected_ids(5, 5)) == set(ids(drained(consumer, 5)))


def test_kept_by_the_server(backend):
    """The stream has the limits that the URL asks for, and is on disk."""
    url = f"{backend.url}&max_age=60&duplicate_window=30&discard=new"
    with contextlib.closing(open_log(url, name=backend.name)) as log:
        filled(log, 1)
        info = log.call(
            lambda c: c.jetstream().stream_info(backend.name), 30, connect=30
        )
    config = info.config
    found = (config.max_age, config.max_bytes, config.duplicate_window)
    assert (60, 64 << 20, 30) == found
    assert ("file", "new") == (config.storage, config.discard)
    assert [f"{backend.name}.>"] == config.subjects


def test_full(cluster):
    """A stream that must not drop the oldest refuses what does not fit."""
    url = f"{cluster.url}?max_bytes=1MiB&discard=new"
    with contextlib.closing(NatsLog(url, name="full", patience=1.0)) as log:
        for number in range(3):
            log.append("a", bytes(500_000), f"e/{number}")
        with pytest.raises(LogUnavailableError, match="maximum bytes exceeded"):
            log.flush()


def test_no_room(cluster):
    """A stream for which the server has no room is refused with what it says."""
    url = f"{cluster.url}?max_bytes=1TiB"
    with (
        contextlib.closing(NatsLog(url, name="huge", patience=0.5)) as log,
        pytest.raises(LogUnavailableError, match="insufficient storage"),
    ):
        log.append("a", b"x", "e/0")


def test_small_server(tmp_path):
    """A server whose `max_payload` is small makes entries too large earlier."""
    with (
        nats_cluster(1, tmp_path, limits="max_payload: 64KB") as cluster,
        contextlib.closing(NatsLog(cluster.url, name="small")) as log,
    ):
        log.append("a", bytes(60_000), "e/0")
        limit = 64 * 1024 - 2048
        assert limit == log.max_entry
        with pytest.raises(ValueError, match=f"expected at most {limit} bytes"):
            log.append("a", bytes(limit + 1), "e/1")
        log.flush()


def test_password(tmp_path):
    """A wrong password is told in a line that does not show it, and a right one works."""
    limits = "authorization { user: edge, password: right }"
    with nats_cluster(1, tmp_path, limits=limits) as cluster:
        place = cluster.url.removeprefix("nats://")
        with contextlib.closing(
            NatsLog(f"nats://edge:wr0ng@{place}", name="a", patience=1.0)
        ) as log:
            with pytest.raises(LogUnavailableError, match="Authorization") as caught:
                log.append("a", b"x", "e/0")
            assert "wr0ng" not in str(caught.value)
        with contextlib.closing(NatsLog(f"nats://edge:right@{place}", name="a")) as log:
            filled(log, 1)


def test_tls(tmp_path):
    """With `ca` nothing is said in the clear, and only to whom that has signed for."""
    tmp_path.joinpath("other").mkdir()
    trusted, other = Authority(tmp_path), Authority(tmp_path / "other")
    cert, key = trusted.issue("127.0.0.1")
    limits = f'tls {{ cert_file: "{cert}", key_file: "{key}", handshake_first: true }}'
    with nats_cluster(1, tmp_path, limits=limits) as cluster:
        url = f"{cluster.url}?max_bytes=1MiB&ca="
        with contextlib.closing(NatsLog(f"{url}{trusted.ca_file}", name="a")) as log:
            filled(log, 3)
            with contextlib.closing(log.consume("g")) as consumer:
                assert set(expected_ids(3)) == set(ids(drained(consumer, 3)))
        with (
            contextlib.closing(
                NatsLog(f"{url}{other.ca_file}", name="a", patience=1.0)
            ) as log,
            pytest.raises(LogUnavailableError, match="certificate verify failed"),
        ):
            filled(log, 1)
    with (
        nats_cluster(1, tmp_path / "clear") as cluster,  # as one in between would
        contextlib.closing(
            NatsLog(f"{cluster.url}?ca={trusted.ca_file}", name="a", patience=1.0)
        ) as log,
        pytest.raises(LogUnavailableError),
    ):
        filled(log, 1)


def test_nobody(tmp_path):
    """Where no server is, writing and reading say so, and closing does not wait."""
    (port,) = free_ports(1)
    url = f"nats://127.0.0.1:{port}"
    log = NatsLog(url, name="a", patience=0.3)
    with contextlib.closing(log), contextlib.closing(log.consume("g")) as consumer:
        with pytest.raises(
            LogUnavailableError, match=rf"^{url}: .*Connect call failed"
        ):
            log.append("a", b"x", "e/0")
        with pytest.raises(
            LogUnavailableError, match=rf"^{url}: .*Connect call failed"
        ):
            consumer.take(1, 0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "share=4/3",
            "nats: option share: expected 1/3, 2/3 … of at most 64, found '4/3'",
        ),
        ("discard=all", "nats: option discard: expected one of old, new, found 'all'"),
        ("max_bytes=lots", "nats: option max_bytes: expected a number of bytes"),
        ("ca=nowhere.pem", "nats: option ca: expected a file of certificates, found "),
        ("replica=1", "nats: unknown option 'replica'; did you mean replicas?"),
    ],
)
def test_options(options, said):
    """An option that is wrong is refused in a line that says what is expected."""
    with pytest.raises(DeclarationError, match=f"^{re.escape(said)}"):
        NatsLog(f"nats://127.0.0.1:1?{options}", name="a")
