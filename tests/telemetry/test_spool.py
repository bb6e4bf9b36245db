"""
The spool: what it keeps, for whom, and what gives way when it is full.
"""

import os
import subprocess
import sys
import threading
import time

import pytest

from protoserve import DeclarationError
from protoserve.telemetry import groups
from protoserve.telemetry.logs.base import Log, LogUnavailableError
from protoserve.telemetry.segments import list_segments
from protoserve.telemetry.spool import Amount, Spool
from protoserve.telemetry.trail import Trail

PATIENCE = 60.0
KB = 1000


def all_of(consumer, *, ack=True):
    """Take everything that is there."""
    taken = []
    while entries := consumer.take(100, 0.0):
        taken += entries
        if ack:
            consumer.ack(entries)
    return taken


def fill(spool, numbers, size=KB, count=1):
    for number in numbers:
        spool.append("k", [b"%08d" % number, bytes(size - 8)], count=count)


def numbers(entries):
    return [int(entry.payload[:8]) for entry in entries]


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def python(code, *args):
    """Run a program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_entries_come_back(tmp_path):
    """What is appended is given back, in order, with all that was said of it."""
    pieces = [b"one", memoryview(b"-two"), bytearray(b"-three"), b""]
    with Spool(tmp_path) as spool:
        log: Log = spool
        log.append("192.0.2.1", b"plain", "my id")
        spool.append("192.0.2.2", pieces, count=7)
        spool.append("", b"", count=0)
        spool.flush()
        entries = all_of(spool.consume("g"))
    assert [b"plain", b"one-two-three", b""] == [e.payload for e in entries]
    assert ["192.0.2.1", "192.0.2.2", ""] == [e.key for e in entries]
    assert [1, 7, 0] == [e.count for e in entries]
    assert [1, 2, 3] == [e.sequence for e in entries]
    assert entries[0].id == "my id"
    assert abs(time.time() - entries[0].time) < PATIENCE


def test_many_buffers(tmp_path):
    """A payload may be in more pieces than the kernel takes at once."""
    pieces = [b"%d," % number for number in range(5000)]
    with Spool(tmp_path) as spool:
        spool.append("k", pieces)
        (entry,) = all_of(spool.consume("g"))
    assert b"".join(pieces) == entry.payload


def test_large_and_small_entries(tmp_path):
    """Entries of all sizes pass through, over the ends of files."""
    sizes = [8, 300_000, 10, 5_000, 262_144, 65_536, 4_096, 1_000_000, 9] * 3
    with Spool(tmp_path, segment_size=500_000) as spool:
        for number, size in enumerate(sizes):
            fill(spool, [number], size)
        assert spool.stats.segments > 4
        entries = all_of(spool.consume("g"))
    assert list(range(len(sizes))) == numbers(entries)
    assert sizes == [len(entry.payload) for entry in entries]


def test_ids_are_stable_and_never_used_again(tmp_path):
    """An entry has the same id whoever reads it; sequences go on after a restart."""
    with Spool(tmp_path) as spool:
        fill(spool, range(3))
        first = [e.id for e in all_of(spool.consume("a"))]
    with Spool(tmp_path) as spool:
        fill(spool, range(3, 6))
        second = all_of(spool.consume("b"))
    assert first == [e.id for e in second][:3]
    assert 6 == len({e.id for e in second})
    assert list(range(1, 7)) == [e.sequence for e in second]


def test_a_restart_with_nothing_left_does_not_go_back(tmp_path):
    """Sequences go on though everything was acknowledged and the files are gone."""
    with Spool(tmp_path) as spool:
        fill(spool, range(5))
        assert 5 == len(all_of(spool.consume("g")))
    for segment in list_segments(tmp_path):
        segment.path.unlink()
    with Spool(tmp_path) as spool:
        fill(spool, [5])
        (entry,) = all_of(spool.consume("g"))
        assert {"full": Amount(), "damaged": Amount()} == spool.stats.lost["g"]
    assert entry.sequence == 6


def test_groups_are_independent(tmp_path):
    """Each group has everything, and a new one begins with the oldest entry."""
    with Spool(tmp_path) as spool:
        fill(spool, range(4))
        assert [0, 1, 2, 3] == numbers(all_of(spool.consume("a")))
        fill(spool, range(4, 6))
        assert [0, 1, 2, 3, 4, 5] == numbers(all_of(spool.consume("duckdb:x/y.db")))


def test_unacknowledged_entries_come_again(tmp_path):
    """A new reader of a group is given what was not acknowledged, and only that."""
    with Spool(tmp_path) as spool:
        fill(spool, range(10))
        consumer = spool.consume("g")
        entries = consumer.take(6, 0.0)
        consumer.ack(entries[:3])
        consumer.close()
        again = spool.consume("g")
        assert 7 == again.lag()
        assert list(range(3, 10)) == numbers(all_of(again))
        assert 0 == again.lag()


def test_acknowledgements_out_of_order(tmp_path):
    """Nothing is forgotten behind an entry that is still to be acknowledged."""
    with Spool(tmp_path) as spool:
        fill(spool, range(6))
        consumer = spool.consume("g")
        entries = consumer.take(6, 0.0)
        consumer.ack(entries[2:])
        assert 2 == consumer.lag()
        consumer.ack(entries[1:2])
        consumer.close()
        assert 0 == numbers(spool.consume("g").take(1, 0.0))[0]


def test_too_many_are_out(tmp_path, monkeypatch):
    """A reader that acknowledges nothing is given no more at some point."""
    monkeypatch.setattr(groups, "_WINDOW", 5)
    with Spool(tmp_path) as spool:
        fill(spool, range(8))
        consumer = spool.consume("g")
        entries = consumer.take(100, 0.0)
        assert 5 == len(entries)
        assert [] == consumer.take(100, 0.0)
        consumer.ack(entries)
        assert [5, 6, 7] == numbers(consumer.take(100, 0.0))


def test_bytes_at_once_are_bounded(tmp_path, monkeypatch):
    """However many entries are asked for, their bytes are bounded."""
    monkeypatch.setattr(groups, "_TAKEN", 3 * KB)
    with Spool(tmp_path) as spool:
        fill(spool, range(8))
        consumer = spool.consume("g")
        assert [0, 1, 2] == numbers(consumer.take(100, 0.0))


def test_lag(tmp_path):
    """A group knows how much it has yet to deal with, and since when."""
    with Spool(tmp_path) as spool:
        consumer = spool.consume("g")
        assert (0, 0, 0.0) == (consumer.lag(), consumer.lag_bytes(), consumer.oldest())
        before = time.time()
        fill(spool, range(10))
        assert 10 == consumer.lag()
        assert 10 * KB < consumer.lag_bytes() < 11 * KB
        entries = consumer.take(4, 0.0)
        assert 10 == consumer.lag()
        assert 0 < consumer.oldest() <= time.time() - before
        consumer.ack(entries)
        assert 6 == consumer.lag()
        assert 6 * KB < consumer.lag_bytes() < 7 * KB
        all_of(consumer)
        assert (0, 0, 0.0) == (consumer.lag(), consumer.lag_bytes(), consumer.oldest())


def test_waiting_reader(tmp_path):
    """Who waits for an entry is given it when it comes."""
    with Spool(tmp_path) as spool:
        consumer = spool.consume("g")
        taken = []
        reader = threading.Thread(
            target=lambda: taken.extend(consumer.take(1, PATIENCE))
        )
        reader.start()
        fill(spool, [7])
        reader.join(PATIENCE)
        assert [7] == numbers(taken)


def test_closing_lets_a_waiting_reader_go(tmp_path):
    """A reader that waits has nothing when the spool is closed."""
    spool = Spool(tmp_path)
    consumer = spool.consume("g")
    taken = []
    reader = threading.Thread(target=lambda: taken.append(consumer.take(1, PATIENCE)))
    reader.start()
    spool.close()
    reader.join(PATIENCE)
    assert [[]] == taken
    with pytest.raises(LogUnavailableError, match="closed"):
        spool.append("k", b"")


def test_acknowledged_files_are_deleted(tmp_path):
    """A file is deleted when all groups have acknowledged what is in it."""
    with Spool(tmp_path, segment_size=5 * KB) as spool:
        fast, slow = spool.consume("fast"), spool.consume("slow")
        fill(spool, range(50))
        files = spool.stats.segments
        all_of(fast)
        fast.close()
        assert files == spool.stats.segments > 10
        all_of(slow)
        slow.close()
        assert 1 == spool.stats.segments


def test_forgotten_group(tmp_path):
    """A group that was not seen for long does not hold files."""
    with Spool(tmp_path, segment_size=5 * KB, forget_after=1000.0) as spool:
        spool.consume("gone").close()
        (floor,) = (tmp_path / "groups").glob("*.floor")
        fill(spool, range(50))
        consumer = spool.consume("g")
        all_of(consumer)
        os.utime(floor, (time.time() - 900, time.time() - 900))
        consumer.close()
        assert spool.stats.segments > 10
        os.utime(floor, (time.time() - 1100, time.time() - 1100))
        fill(spool, [50])
        consumer = spool.consume("g")
        all_of(consumer)
        consumer.close()
        assert 1 == spool.stats.segments
        assert not floor.exists()


def test_group_whose_sink_is_away_for_long(tmp_path):
    """A group that somebody reads is not forgotten, however long nothing happens."""
    with Spool(tmp_path, segment_size=5 * KB, forget_after=1000.0) as spool:
        waiting = spool.consume("waiting")
        fill(spool, range(50))
        (floor,) = (tmp_path / "groups").glob("*.floor")
        os.utime(floor, (time.time() - 2000, time.time() - 2000))
        other = spool.consume("other")
        all_of(other)
        other.close()
        assert list(range(50)) == numbers(all_of(waiting))


def test_damaged_floor(tmp_path):
    """A group whose place is not known any more is given everything again."""
    with Spool(tmp_path) as spool:
        fill(spool, range(5))
        all_of(spool.consume("g"))
    (floor,) = (tmp_path / "groups").glob("*.floor")
    floor.write_bytes(b"x" * 144)
    with Spool(tmp_path) as spool:
        fill(spool, [5])
        assert list(range(6)) == numbers(all_of(spool.consume("g")))
    for segment in list_segments(tmp_path):
        segment.path.unlink()
    floor.write_bytes(b"")
    with Spool(tmp_path) as spool:
        fill(spool, [6])
        assert [6] == numbers(all_of(spool.consume("g")))


def test_keys_that_are_no_text(tmp_path):
    """A key may be a path that is no text."""
    key = os.fsdecode(b"/run/\xff.sock")
    with Spool(tmp_path) as spool:
        spool.append(key, b"", key)
        (entry,) = all_of(spool.consume("g"))
    assert (key, key) == (entry.key, entry.id)


def test_seek_to_a_sequence(tmp_path):
    """A group can be had go on from any entry that is still there."""
    with Spool(tmp_path, segment_size=5 * KB) as spool:
        fill(spool, range(30))
        consumer = spool.consume("g")
        all_of(consumer, ack=False)
        consumer.seek(sequence=12)
        assert list(range(11, 30)) == numbers(all_of(consumer, ack=False))
        consumer.seek(sequence=1)
        assert 30 == consumer.lag()
        consumer.close()
        again = spool.consume("g")
        assert list(range(30)) == numbers(all_of(again))
        assert {"full": Amount(), "damaged": Amount()} == again.lost


def test_seek_to_a_time(tmp_path):
    """A group can be had go on from a moment."""
    with Spool(tmp_path, segment_size=5 * KB) as spool:
        fill(spool, range(30))
        consumer = spool.consume("g")
        entries = all_of(consumer, ack=False)
        for at in (0, 7, 29):
            consumer.seek(time=entries[at].time)
            (next_one,) = consumer.take(1, 0.0)
            assert entries[at].time - 1e-6 <= next_one.time <= entries[at].time
        consumer.seek(time=time.time() + 1)
        assert [] == consumer.take(1, 0.0)
        fill(spool, [30])
        assert [30] == numbers(consumer.take(1, 0.0))
        with pytest.raises(DeclarationError, match="not both"):
            consumer.seek()


def test_one_reader_a_group(tmp_path):
    """A second reader of a group is refused, here and in another process."""
    code = (
        "import sys; from protoserve.telemetry.spool import Spool\n"
        "try: Spool(sys.argv[1]).consume('g').close(); print('free')\n"
        "except Exception as error: print(error)"
    )
    with Spool(tmp_path) as spool:
        consumer = spool.consume("g")
        with pytest.raises(LogUnavailableError, match="'g' has a reader already"):
            spool.consume("g")
        assert "has a reader already" in python(code, tmp_path)
        consumer.close()
        assert "free" == python(code, tmp_path)
        spool.consume("g").close()


def test_one_writer(tmp_path):
    """A second writer is refused, until the first lets go."""
    code = (
        "import sys; from protoserve.telemetry.spool import Spool\n"
        "try: Spool(sys.argv[1]).append('k', b'2'); print('free')\n"
        "except Exception as error: print(error)"
    )
    with Spool(tmp_path) as spool, Spool(tmp_path) as other:
        spool.append("k", b"1")
        with pytest.raises(LogUnavailableError, match="written by another"):
            other.append("k", b"x")
        assert "written by another" in python(code, tmp_path)
        spool.close()
        other.append("k", b"3")
        assert [b"1", b"3"] == [e.payload for e in all_of(other.consume("g"))]


def test_reading_what_another_process_writes(tmp_path):
    """A reader sees what another process appends, without being told."""
    code = (
        "import sys; from protoserve.telemetry.spool import Spool\n"
        "with Spool(sys.argv[1], segment_size=20000) as spool:\n"
        "    for n in range(200): spool.append('k', b'%08d' % n + bytes(992))\n"
        "    sys.stdin.read()\n"
    )
    with Spool(tmp_path) as spool:
        consumer = spool.consume("g")
        writer = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=-1)
        try:
            until(lambda: consumer.lag() == 200)
            assert list(range(200)) == numbers(all_of(consumer))
            assert 0 == consumer.lag()
            consumer.close()
            assert 1 == spool.stats.segments
        finally:
            writer.communicate(timeout=PATIENCE)
    assert 0 == writer.returncode


def test_entry_that_comes_while_the_end_is_looked_at(tmp_path, monkeypatch):
    """An entry that comes between two looks at a file, before the next, is not lost."""
    with Spool(tmp_path, segment_size=5 * KB) as spool:
        consumer = spool.consume("g")
        fill(spool, range(3))
        assert [0, 1, 2] == numbers(consumer.take(100, 0.0))
        is_over = Trail._is_over
        pending = [3, 4, 5, 6]

        def slow(self, segment):
            fill(spool, pending)
            pending.clear()
            return is_over(self, segment)

        monkeypatch.setattr(Trail, "_is_over", slow)
        assert [3, 4, 5, 6] == numbers(consumer.take(100, 0.0))
        assert {"full": Amount(), "damaged": Amount()} == consumer.lost
        assert 2 == spool.stats.segments


@pytest.mark.parametrize("look", range(1, 5))
def test_entries_that_come_while_damage_is_looked_for(tmp_path, monkeypatch, look):
    """What is appended at any moment of a look at the end is not taken for damage."""
    with Spool(tmp_path) as spool:
        consumer = spool.consume("g")
        fill(spool, [0])
        assert [0] == numbers(all_of(consumer))
        (segment,) = list_segments(tmp_path)
        end = segment.size()
        looks = []
        read = os.pread

        def late(file, size, offset):
            data = read(file, size, offset)
            if offset >= end and not data:
                looks.append(offset)
                if len(looks) == look:
                    fill(spool, [1, 2])
            return data

        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", late)
            while len(looks) < look:
                entries = consumer.take(100, 0.0)
        entries += all_of(consumer)
        assert [1, 2] == numbers(entries)
        assert {"full": Amount(), "damaged": Amount()} == consumer.lost


def test_full_drops_the_newest(tmp_path):
    """With ``drop-newest`` what does not fit is dropped and counted, until it fits."""
    with Spool(tmp_path, max_size=20 * KB, when_full="drop-newest") as spool:
        consumer = spool.consume("g")
        fill(spool, range(50), count=3)
        stats = spool.stats
        kept = stats.appended.entries
        assert 15 < kept < 20
        assert stats.appended.count == 3 * kept
        assert {"full": Amount(50 - kept, 3 * (50 - kept))} == stats.dropped
        assert stats.size <= 20 * KB
        assert list(range(kept)) == numbers(all_of(consumer))
        until(lambda: fill(spool, [77]) or spool.stats.appended.entries > kept)
        assert 77 == numbers(all_of(consumer))[-1]


def test_full_drops_the_oldest(tmp_path):
    """With ``drop-oldest`` each group is told exactly what it will never have."""
    with Spool(tmp_path, max_size=20 * KB, segment_size=5 * KB) as spool:
        reader, late = spool.consume("reader"), spool.consume("late")
        fill(spool, range(10), count=3)
        taken = reader.take(7, 0.0)
        reader.ack(taken)
        early = numbers(taken)
        fill(spool, range(10, 100), count=3)
        assert Amount(100, 300) == spool.stats.appended
        assert {} == spool.stats.dropped
        assert spool.stats.size <= 20 * KB
        for consumer, had in ((late, []), (reader, early)):
            rest = numbers(all_of(consumer))
            assert sorted(set(rest)) == rest
            assert 99 == rest[-1]
            gone = 100 - len(rest) - len(had)
            assert gone > 60
            assert Amount(gone, 3 * gone) == consumer.lost["full"]
            assert Amount() == consumer.lost["damaged"]


def test_group_that_was_away_is_told(tmp_path):
    """What was dropped while nobody read is counted when the group comes back."""
    with Spool(tmp_path, max_size=20 * KB) as spool:
        consumer = spool.consume("g")
        fill(spool, range(3), count=5)
        consumer.ack(consumer.take(2, 0.0))
        consumer.close()
        fill(spool, range(3, 60), count=5)
        consumer = spool.consume("g")
        rest = numbers(all_of(consumer))
        gone = 60 - 2 - len(rest)
        assert Amount(gone, 5 * gone) == consumer.lost["full"]


def test_full_blocks(tmp_path):
    """With ``block`` the writer waits for a reader, and nothing is lost."""
    with Spool(tmp_path, max_size=20 * KB, when_full="block") as spool:
        consumer = spool.consume("g")
        writer = threading.Thread(target=fill, args=(spool, range(200)))
        writer.start()
        taken = []
        until(lambda: taken.extend(numbers(all_of(consumer))) or len(taken) == 200)
        writer.join(PATIENCE)
        assert list(range(200)) == taken
        assert {} == spool.stats.dropped


def test_closing_lets_a_blocked_writer_go(tmp_path):
    """A writer that waits for room is let go on closing, and its entry counted."""
    spool = Spool(tmp_path, max_size=5 * KB, when_full="block")
    spool.consume("g")
    fill(spool, range(4))

    def write():
        spool.append("k", bytes(KB), count=9)

    writer = threading.Thread(target=write)
    writer.start()
    spool.close()
    writer.join(PATIENCE)
    assert not writer.is_alive()
    assert 4 == spool.stats.appended.entries


def test_too_large_for_the_spool(tmp_path):
    """An entry larger than the whole spool is dropped at once."""
    with Spool(tmp_path, max_size=5 * KB, when_full="block") as spool:
        spool.append("k", bytes(6 * KB), count=4)
        assert {"size": Amount(1, 4)} == spool.stats.dropped


def test_threads_append(tmp_path):
    """Any thread may append; each one's entries stay in order."""
    with Spool(tmp_path, segment_size=20 * KB) as spool:

        def write(key):
            for number in range(100):
                spool.append(key, b"%08d" % number)

        threads = [threading.Thread(target=write, args=(str(k),)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        entries = all_of(spool.consume("g"))
    for key in map(str, range(4)):
        mine = [entry for entry in entries if entry.key == key]
        assert list(range(100)) == numbers(mine)


def test_wrong_arguments(tmp_path):
    """What makes no sense is refused in one line that says what was expected."""
    with pytest.raises(DeclarationError, match="when_full: expected one of drop-old"):
        Spool(tmp_path, when_full="explode")
    with pytest.raises(DeclarationError, match="max_size: expected more than 0"):
        Spool(tmp_path, max_size=0)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DeclarationError, match="expected a folder, found a file"):
        Spool(tmp_path / "file")
    with Spool(tmp_path / "spool") as spool:
        with pytest.raises(DeclarationError, match="1 to 200 characters"):
            spool.consume("")
        with pytest.raises(DeclarationError, match="a count in 0"):
            spool.append("k", b"", count=-1)


FORKED = """
import os, sys
from protoserve import DeclarationError
from protoserve.telemetry.spool import Spool
spool = Spool(sys.argv[1])
spool.append("k", b"1")
reading, writing = os.pipe()
child = os.fork()
if not child:
    try:
        spool.append("k", b"2")
    except DeclarationError as error:
        print(error, flush=True)
    os.read(reading, 1)
    os._exit(0)
spool.close()
with Spool(sys.argv[1]) as again:
    again.append("k", b"3")
os.write(writing, b"x")
print("child ended with", os.waitpid(child, 0)[1])
"""


def test_forked_child(tmp_path):
    """A forked child cannot go on with a spool, and does not keep it from others."""
    lines = python(FORKED, tmp_path).splitlines()
    assert "it was opened in another process" in lines[0]
    assert ["child ended with 0"] == lines[1:]
    with Spool(tmp_path) as spool:
        assert [b"1", b"3"] == [e.payload for e in all_of(spool.consume("g"))]


def test_nothing_is_left_open(tmp_path):
    """A spool that was closed leaves no file open, and no thread."""

    def left():
        return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208

    before = left()
    for _ in range(3):
        with Spool(tmp_path, segment_size=2 * KB) as spool:
            fill(spool, range(10))
            assert 10 == len(all_of(spool.consume("a")))
            spool.consume("b").oldest()
            assert 10 <= spool.consume("c").lag()
            spool.flush()
    assert before == left()
