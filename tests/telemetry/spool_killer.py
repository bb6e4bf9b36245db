"""
A writer of a spool that is killed again and again: python spool_killer.py FOLDER ROUNDS.

Prints, for each round, the last number for which `flush` had returned before SIGKILL.
This process has one thread, so it may fork; the number travels through a pipe.
"""

import os
import random
import signal
import struct
import sys
from pathlib import Path

from protoserve.telemetry.spool import Spool


def write(folder, number, pipe):
    """Append for ever; the payload tells its number, and its length too."""
    spool = Spool(folder, segment_size=300_000)
    while True:
        for _ in range(3):
            spool.append("k", b"%08d" % number + bytes(number % 20_000), count=2)
            number += 1
        spool.flush()
        os.write(pipe, struct.pack("q", number))


def main():
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(7)
    number = 0
    for _ in range(rounds):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            write(folder, number, writing)
        os.close(writing)
        for _ in range(chance.randint(1, 4)):
            number = struct.unpack("q", os.read(reading, 8))[0]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rest = os.read(reading, 1 << 16)  # what it still had said
        number = max([number, *(n for (n,) in struct.iter_unpack("q", rest))])
        os.close(reading)
        print(number, flush=True)
        number += 1000  # those that were not flushed have numbers of their own


if __name__ == "__main__":
    main()
