"""
Rows and columns that are wanted, said in SQL: what follows ``where`` and ``select``.

DuckDB evaluates it, straight on the Arrow tables. A column that a table does not have is
null there: one template of an exporter has it, and another has not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from protoserve.errors import DeclarationError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Selection"]

_MOST_MISSING = 64
_FIRST = "_protoserve_first"
"""A column of the empty table by which the names in an expression are found."""
_UNKNOWN = re.compile(r'column "([^"]+)" not found')


class Selection:
    """
    A choice of rows and columns.

    Args:
        where: an expression of SQL that is true for wanted rows, as ``dstport = 53``.
        columns: expressions of SQL, as ``srcaddr, dOctets * 8 as bits``.

    Raises:
        DeclarationError: it is no SQL, or DuckDB is not installed.
    """

    def __init__(self, where: str | None = None, columns: str | None = None) -> None:
        try:
            import duckdb
        except ModuleNotFoundError as exc:
            raise DeclarationError(
                "filters need DuckDB; install it with pip install 'protoserve[duckdb]'"
            ) from exc
        for what, text in (("filter", where), ("select", columns)):
            if text is not None and not text.strip():
                raise DeclarationError(f"{what}: expected SQL, found nothing")
        self._duckdb: Any = duckdb
        # Whoever starts a collector may do with its rows what they like.
        query = f"select {'*' if columns is None else columns} from t"  # noqa: S608
        self._query = query if where is None else f"{query} where {where}"
        self._connection = duckdb.connect()
        self._connection.execute("set threads = 1")
        try:
            statements = duckdb.extract_statements(self._query)
        except duckdb.Error as exc:
            raise DeclarationError(f"filter or select: {_line(exc)}") from exc
        if len(statements) != 1:
            raise DeclarationError("filter or select: expected one expression of SQL")
        self.names = self._named()
        """The columns that it is about, as far as can be said without any."""

    def _named(self) -> list[str]:
        import pyarrow as pa

        table = pa.table({_FIRST: pa.nulls(0)})
        names: list[str] = []
        for _ in range(_MOST_MISSING):
            self._connection.register("t", table)
            try:
                columns = self._connection.sql(self._query).columns
            except (self._duckdb.CatalogException, self._duckdb.ParserException) as exc:
                raise DeclarationError(f"filter or select: {_line(exc)}") from exc
            except self._duckdb.Error as exc:
                found = _UNKNOWN.search(str(exc))
                if found is None:  # it may be right with columns of other types
                    break
                names.append(found[1])
                table = table.append_column(found[1], pa.nulls(0))
            else:
                _check_distinct(columns)
                break
            finally:
                self._connection.unregister("t")
        return names

    def __call__(self, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """
        Choose from tables; those without a row are left out.

        Raises:
            DeclarationError: it cannot be evaluated with these.
        """
        try:
            chosen = {name: self._choose(table) for name, table in tables.items()}
        except self._duckdb.Error as exc:
            raise DeclarationError(f"filter or select: {_line(exc)}") from exc
        return {name: table for name, table in chosen.items() if table.num_rows}

    def _choose(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        for _ in range(_MOST_MISSING):
            self._connection.register("t", table)
            try:
                return self._connection.sql(self._query).to_arrow_table()
            except self._duckdb.BinderException as exc:
                found = _UNKNOWN.search(str(exc))
                if found is None:
                    raise
                missing = pa.nulls(table.num_rows)  # of no type: it fits any
                table = table.append_column(found[1], missing)
            finally:
                self._connection.unregister("t")
        raise DeclarationError("filter or select: too many columns that are not there")

    def close(self) -> None:
        """
        Let go of DuckDB.
        """
        self._connection.close()


def _check_distinct(columns: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in columns:
        if name.lower() in seen:
            raise DeclarationError(
                f"filter or select: two columns are called {name!r}: "
                "one of them needs another name, as in column as name"
            )
        seen.add(name.lower())


def _line(exc: Exception) -> str:
    return str(exc).partition("\n")[0]
