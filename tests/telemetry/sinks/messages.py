"""
Batches as messages, read back.
"""

import pyarrow as pa


def rows_of(bodies):
    """
    Give the rows of Arrow IPC streams, all with the same columns.
    """
    tables = [pa.ipc.open_stream(body).read_all() for body in bodies]
    rows = [row for each in tables for row in each.to_pylist(maps_as_pydicts="strict")]
    names = dict.fromkeys(name for table in tables for name in table.column_names)
    return [{name: row.get(name) for name in names} for row in rows]
