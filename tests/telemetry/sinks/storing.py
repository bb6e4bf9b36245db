"""
A program that stores entry after entry, and says each that is stored, until it is killed.

    python storing.py URL FIRST ROWS
"""

import sys

import pyarrow as pa

from protoserve.telemetry.sinks.registry import open_sink


def tables_of(number, rows):
    """
    Make the rows of an entry, in two tables.
    """
    entry = pa.array([number] * rows, pa.int64())
    text = pa.array([f"row {index} of entry {number}" for index in range(rows)])
    one = pa.table({"entry": entry, "index": range(rows), "text": text})
    return {"ones": one, "others": one.select(["entry", "text"])}


def main():
    url, first, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sink = open_sink(url)
    sink.open()
    number = first
    while True:
        sink.store(tables_of(number, rows), [f"entry-{number}"])
        print(number, flush=True)
        number += 1


if __name__ == "__main__":
    main()
