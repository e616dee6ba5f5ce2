"""Prints the rows of Parquet files as JSON, one a line, as pyarrow or DuckDB reads them.

    read_parquet.py pyarrow|duckdb PATH [PATH…]

A path can hold * for DuckDB and be a folder for pyarrow. Times are printed in milliseconds of UTC, maps as objects.
"""

import datetime
import glob
import json
import sys


def by_pyarrow(paths):
    import pyarrow
    import pyarrow.parquet

    files = [name for path in paths for name in sorted(glob.glob(path, recursive=True))]
    for name in files:
        # A file alone, so that no column is taken from the names of folders.
        table = pyarrow.parquet.ParquetFile(name).read()
        types = {field.name: str(field.type) for field in table.schema}
        expected = {
            "uploaded_at": "timestamp[ms, tz=UTC]",
            "probabilities": "map<string, double ('probabilities')>",
            "confidence": "double",
            "size_bytes": "int64",
            "positive": "bool",
            "key": "string",
        }
        for column, kind in expected.items():
            found = types[column].replace("'", "")
            assert found.startswith(kind.split(" (")[0].replace("'", "")), (column, types[column])
        yield from table.to_pylist()


def by_duckdb(paths):
    import duckdb

    relation = duckdb.from_parquet(paths, hive_partitioning=False)
    columns = [
        f'epoch_ms("{name}") AS "{name}"' if "TIMESTAMP" in str(kind) else f'"{name}"'
        for name, kind in zip(relation.columns, relation.types)
    ]
    kinds = dict(zip(relation.columns, map(str, relation.types)))
    assert kinds["uploaded_at"] == "TIMESTAMP WITH TIME ZONE", kinds
    assert kinds["probabilities"] == "MAP(VARCHAR, DOUBLE)", kinds
    rows = relation.project(", ".join(columns))
    names = rows.columns
    for row in rows.fetchall():
        yield dict(zip(names, row))


def plain(value):
    if isinstance(value, datetime.datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, list):
        return dict(value)
    return value


def main():
    reader = {"pyarrow": by_pyarrow, "duckdb": by_duckdb}[sys.argv[1]]
    for row in reader(sys.argv[2:]):
        print(json.dumps({name: plain(value) for name, value in row.items()}))


main()
