"""
The spool and what befalls it: damage, full disks, killed writers.
"""

import errno
import os
import random
import resource
import subprocess
import sys
import threading
from bisect import bisect_left
from pathlib import Path

import pytest

from protoserve.telemetry.logs.base import LogUnavailableError
from protoserve.telemetry.segments import HEADER_SIZE, list_segments
from protoserve.telemetry.spool import Amount, Spool

PATIENCE = 120.0
KILLER = Path(__file__).with_name("spool_killer.py")
ROOT = Path(__file__).parents[2]


def all_of(consumer):
    taken = []
    while entries := consumer.take(100, 0.0):
        taken += entries
        consumer.ack(entries)
    return taken


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Make a spool; give its files, and where each entry is."""
    folder = tmp_path_factory.mktemp("original")
    chance = random.Random(1)
    with Spool(folder, segment_size=6_000) as spool:
        spool.consume("g").close()
        for number in range(40):
            body = chance.randbytes(chance.choice((0, 3, 200, 1500)))
            spool.append("key", b"%08d" % number + body, count=number)
    places = []
    for index, segment in enumerate(list_segments(folder)):
        data = segment.path.read_bytes()
        start = data.find(segment.mark)
        while start >= 0:
            end = data.find(segment.mark, start + HEADER_SIZE)
            places.append((index, start, end if end >= 0 else len(data)))
            start = end
    assert len(places) == 40
    files = [(s.path.name, s.path.read_bytes()) for s in list_segments(folder)]
    assert len(files) >= 3
    return files, places, (folder / "groups" / "g.floor").read_bytes()


def hurt(chance, files):
    """Flip some bits, or cut off an end; say which bytes of which file are hurt."""
    index = chance.randrange(len(files))
    data = bytearray(files[index][1])
    at = chance.randrange(len(data))
    match chance.choice(("cut", "run", "run", "here and there")):
        case "cut":
            del data[at:]
            return index, bytes(data), range(at, 1 << 20)
        case "run":
            length = min(chance.choice((1, 1, 1, 8, 100, 3000)), len(data) - at)
            bad = range(at, at + length)
        case _:
            bad = sorted({chance.randrange(len(data)) for _ in range(10)})
    for place in bad:
        data[place] ^= 1 << chance.randrange(8)
    return index, bytes(data), bad


@pytest.mark.parametrize("seed", range(4))
def test_damage(original, tmp_path, monkeypatch, seed):
    """Whatever is damaged, every whole entry before and behind is given, once."""
    monkeypatch.setattr(os, "fdatasync", lambda file: None)  # the disk's own time
    files, places, floor = original
    chance = random.Random(seed)
    folder = tmp_path / "spool"
    (folder / "groups").mkdir(parents=True)
    for case in range(250):
        for path in [each for each in folder.rglob("*") if each.is_file()]:
            path.unlink()
        (folder / "groups" / "g.floor").write_bytes(floor)
        index, data, bad = hurt(chance, files)
        for place, (name, whole) in enumerate(files):
            (folder / name).write_bytes(data if place == index else whole)
        kept = [
            number
            for number, (file, start, end) in enumerate(places)
            if file != index or bisect_left(bad, end) == bisect_left(bad, start)
        ]
        new = case % 5 == 0
        with Spool(folder) as spool:
            consumer = spool.consume("g")
            if new:
                spool.append("key", b"%08d" % 99, count=5)
            entries = all_of(consumer)
            assert kept + [99] * new == [int(e.payload[:8]) for e in entries]
            # The numbers of what was lost at the very end are used again.
            last = 40 if new and kept[-1:] == [39] else max(kept, default=0)
            gone = set(range(last)) - set(kept)
            lost = consumer.lost["damaged"].entries + consumer.lost["full"].entries
            assert len(gone) == lost
            assert sum(gone) == (
                consumer.lost["damaged"].count + consumer.lost["full"].count
            )


def lengthen(folder, number):
    """Damage an entry of the newest segment: it claims to be much longer than it is."""
    segment = list_segments(folder)[-1]
    data = bytearray(segment.path.read_bytes())
    place = data.find(b"%08d" % number)
    data[data.rfind(segment.mark, 0, place) + 14] ^= 0x80
    segment.path.write_bytes(data)


def test_a_length_that_is_damaged(tmp_path):
    """An entry whose length is damaged hides none of those behind it, whoever reads."""
    with Spool(tmp_path) as spool:
        spool.consume("g").close()
        for number in range(6):
            spool.append("key", b"%08d" % number)
    lengthen(tmp_path, 3)
    with Spool(tmp_path) as spool:
        spool.append("key", b"%08d" % 6)  # it looks for the end first
        consumer = spool.consume("g")
        assert [0, 1, 2, 4, 5, 6] == [int(e.payload) for e in all_of(consumer)]
        for number in (7, 8):
            spool.append("key", b"%08d" % number)
        lengthen(tmp_path, 7)  # to its reader it might not be written yet
        taken = all_of(consumer)
        spool.append("key", b"%08d" % 9)
        assert [8, 9] == [int(e.payload) for e in taken + all_of(consumer)]
        assert 2 == consumer.lost["damaged"].entries


def test_torn_end(tmp_path, caplog):
    """An end that is not whole is cut off, counted, and not written behind."""
    with Spool(tmp_path) as spool:
        for number in range(5):
            spool.append("k", b"%08d" % number)
    (segment,) = list_segments(tmp_path)
    os.truncate(segment.path, segment.size() - 3)
    with Spool(tmp_path) as spool:
        spool.append("k", b"%08d" % 77)
        entries = all_of(spool.consume("g"))
        assert 1 == spool.stats.cut
    assert [0, 1, 2, 3, 77] == [int(e.payload) for e in entries]
    assert [1, 2, 3, 4, 5] == [e.sequence for e in entries]
    assert 5 == len({e.id for e in entries})
    assert "not whole" in caplog.text


def test_lost_numbers_make_no_known_ids(tmp_path):
    """Numbers that are used again, as their entries are gone, give other ids."""
    with Spool(tmp_path) as spool:
        spool.append("k", b"a")
        spool.append("k", b"b")
        old = spool.consume("g").take(2, 0.0)
    (segment,) = list_segments(tmp_path)
    os.truncate(segment.path, segment.size() // 2)
    with Spool(tmp_path) as spool:
        spool.append("k", b"c")
        new = spool.consume("g").take(2, 0.0)
    assert [b"a", b"c"] == [e.payload for e in new]
    assert [e.sequence for e in old] == [e.sequence for e in new]
    assert old[0].id == new[0].id
    assert old[1].id != new[1].id


def test_aliens(tmp_path, caplog):
    """What looks like a segment and is none is moved aside; other files are left."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "x.frames").write_text("what is this")
    (tmp_path / f"{3:010d}-{1:016d}-{'ab' * 8}.frames").mkdir()
    (tmp_path / f"{4:010d}-{1:016d}-{'ab' * 8}.frames").write_bytes(b"\0" * 5000)
    with Spool(tmp_path) as spool:
        spool.append("k", b"new")
        assert [b"new"] == [e.payload for e in all_of(spool.consume("g"))]
    assert (tmp_path / "notes.txt").exists()
    assert 3 == len(list((tmp_path / "aside").iterdir()))
    assert 3 == caplog.text.count("is moved to")


def test_unreadable_segment(tmp_path, caplog):
    """A segment that cannot be read is moved aside, and what it had is counted."""
    with Spool(tmp_path, segment_size=100) as spool:
        for number in range(5):
            spool.append("k", b"%08d" % number + bytes(80), count=10)
        consumer = spool.consume("g")
        (first,) = consumer.take(1, 0.0)
        consumer.ack([first])
        bad = list_segments(tmp_path)[2].path
        bad.unlink()
        bad.symlink_to("/proc/self/mem")  # a file whose first page cannot be read
        entries = [first, *all_of(consumer)]
        assert [0, 1, 3, 4] == [int(e.payload[:8]) for e in entries]
        lost = consumer.lost
        assert Amount(1, 10) == lost["full"].plus(lost["damaged"])
    assert "is moved to" in caplog.text


def test_failed_sync(tmp_path, monkeypatch):
    """When a sync fails, who flushes is told, and a new file is begun."""
    with Spool(tmp_path) as spool:
        spool.append("k", b"a")
        spool.flush()

        def fail(file):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            spool.append("k", b"b")
            with pytest.raises(LogUnavailableError, match="may be lost"):
                spool.flush()
        spool.append("k", b"c")
        spool.flush()
        assert 2 == spool.stats.segments
        assert [b"a", b"b", b"c"] == [e.payload for e in all_of(spool.consume("g"))]


def test_killed_writers(tmp_path):
    """Writers that are killed lose nothing that was flushed; readers see each once."""
    rounds = 50
    taken = []
    with Spool(tmp_path) as spool:
        consumer = spool.consume("g")
        killer = subprocess.Popen(
            [sys.executable, KILLER, tmp_path, str(rounds)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        done = threading.Event()
        flushed = []

        def listen():
            flushed.extend(int(line) for line in killer.stdout)
            done.set()

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            while not done.is_set():
                entries = consumer.take(100, 0.1)
                taken += [(e.sequence, int(e.payload[:8]), e.id) for e in entries]
                consumer.ack(entries)
        finally:
            if not done.is_set():
                killer.kill()
            listener.join(PATIENCE)
            killer.communicate(timeout=PATIENCE)
        taken += [(e.sequence, int(e.payload[:8]), e.id) for e in all_of(consumer)]
        lost = consumer.lost
    assert rounds == len(flushed)
    seen = {number for _, number, _ in taken}
    assert len(seen) == len(taken) == len({name for *_, name in taken})
    start = 0
    for end in flushed:
        assert set(range(start, end)) <= seen
        start = end + 1000
    assert [s for s, *_ in taken] == list(range(1, len(taken) + 1))
    assert {"full": Amount(), "damaged": Amount()} == lost


FILL = """
import resource, sys
from protoserve.telemetry.spool import Spool
if sys.argv[3] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
with Spool(sys.argv[1], when_full=sys.argv[2]) as spool:
    spool.consume("g").close()
    for number in range(400):
        spool.append("k", b"%08d" % number + bytes(9992), count=2)
    dropped = spool.stats.dropped
    assert set(dropped) <= {"disk"}, dropped
    lost = dropped["disk"] if dropped else None
    print(spool.stats.appended.entries, lost.entries if lost else 0)
    if lost:
        assert lost.count == 2 * lost.entries
"""


def filled(folder, policy, limit=0):
    """Have another process fill a spool; give what it has kept and dropped."""
    done = subprocess.run(
        [sys.executable, "-c", FILL, folder, policy, str(limit)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return tuple(map(int, done.stdout.split()))


def test_file_size_limit(tmp_path):
    """A file that may not grow any more is not the end of the spool."""
    assert (400, 0) == filled(tmp_path, "drop-oldest", limit=105_000)
    with Spool(tmp_path) as spool:
        entries = all_of(spool.consume("g"))
    assert list(range(400)) == [int(e.payload[:8]) for e in entries]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 105_000


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True, timeout=PATIENCE)


def test_full_disk_drops_the_newest(small_disk):
    """What a full disk does not take is counted; the rest is whole."""
    kept, dropped = filled(small_disk, "drop-newest")
    assert 400 == kept + dropped
    assert 180 < kept < 210
    with Spool(small_disk) as spool:
        spool.claim()
        assert 0 == spool.stats.cut  # what was half written is not left there
        consumer = spool.consume("g")
        entries = all_of(consumer)
        assert list(range(kept)) == [int(e.payload[:8]) for e in entries]
        assert {"full": Amount(), "damaged": Amount()} == consumer.lost


def test_full_disk_drops_the_oldest(small_disk):
    """On a full disk the oldest make room; all are accounted for."""
    kept, dropped = filled(small_disk, "drop-oldest")
    assert 400 == kept + dropped
    with Spool(small_disk) as spool:
        consumer = spool.consume("g")
        entries = all_of(consumer)
        assert 399 == int(entries[-1].payload[:8])
        assert kept == len(entries) + consumer.lost["full"].entries
        assert 2 * kept == 2 * len(entries) + consumer.lost["full"].count


def test_full_disk_blocks(small_disk):
    """With ``block`` the writer waits for room on the disk, and goes on."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_900_000))
    with Spool(small_disk, when_full="block") as spool:
        consumer = spool.consume("g")

        def write():
            for number in range(100):
                spool.append("k", b"%08d" % number + bytes(9992))

        writer = threading.Thread(target=write)
        writer.start()
        first = consumer.take(1, PATIENCE)
        ballast.unlink()
        writer.join(PATIENCE)
        assert not writer.is_alive()
        entries = first + all_of(consumer)
    assert list(range(100)) == [int(e.payload[:8]) for e in entries]


@pytest.mark.parametrize("seed", range(3))
def test_everything_at_once(tmp_path, seed):
    """Whatever writers and readers do, acknowledged and lost are what was appended."""
    chance = random.Random(seed)
    plans = [(random.Random(chance.random()), 150) for _ in range(3)]
    with Spool(tmp_path, max_size=60_000, segment_size=5_000) as spool:

        def write(own, number):
            for _ in range(number):
                size = own.choice((10, 500, 3000))
                assert spool.append("k", bytes(size), count=own.randrange(9))

        def read(own, number):
            consumer = spool.consume(str(number))
            while not written.is_set() or consumer.lag():
                entries = consumer.take(own.randint(1, 20), 0.001)
                kept = own.choice((0, len(entries) // 2, len(entries)))
                consumer.ack(entries[:kept])
                if own.random() < 0.3 or kept < len(entries):
                    consumer.close()
                    consumer = spool.consume(str(number))
                if own.random() < 0.05:
                    consumer.lag_bytes()
                    consumer.oldest()

        written = threading.Event()
        failures = []

        def run(work, *args):
            try:
                work(*args)
            except BaseException as error:
                failures.append(error)

        for number in range(3):
            spool.consume(str(number)).close()
        writers = [threading.Thread(target=run, args=(write, *p)) for p in plans]
        readers = [
            threading.Thread(target=run, args=(read, random.Random(n + seed), n))
            for n in range(3)
        ]
        for thread in writers + readers:
            thread.start()
        for thread in writers:
            thread.join(PATIENCE)
        written.set()
        for thread in readers:
            thread.join(PATIENCE)
        stats = spool.stats
    assert [] == failures
    assert 450 == stats.appended.entries
    assert {} == stats.dropped
    for group in map(str, range(3)):
        lost = stats.lost[group]
        assert Amount() == lost["damaged"]
        assert stats.appended == stats.acknowledged[group].plus(lost["full"])
