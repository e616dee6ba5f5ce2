"""Checks SQL of Athena by sqlglot against the table's columns, and answers it by DuckDB over result files.

usage: ask_athena.py TASK.json FOLDER; the task has columns {name: Glue type} and questions {name: SQL}. Prints {name: rows}.
"""

import json
import sys

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.optimizer.qualify import qualify

PARTITIONS = {"stage": "string", "date": "string"}


def main() -> None:
    task_path, folder = sys.argv[1:]
    with open(task_path, encoding="utf-8") as file:
        task = json.load(file)
    columns = task["columns"]
    types = {name: exp.DataType.build(glue, dialect="hive") for name, glue in columns.items()}
    schema = {"results": {name: kind.sql("athena") for name, kind in types.items()} | PARTITIONS}
    in_duckdb = ", ".join(f"{name}: '{kind.sql('duckdb')}'" for name, kind in types.items())
    database = duckdb.connect()
    database.execute(
        "CREATE VIEW results AS SELECT * FROM read_json("
        f"'{folder}/results/**/*.json', columns = {{{in_duckdb}}}, format = 'newline_delimited', "
        "hive_partitioning = true, hive_types = {stage: VARCHAR, date: VARCHAR})"
    )
    answers = {}
    for name, sql in task["questions"].items():
        parsed = sqlglot.parse_one(sql, read="athena")
        # Fails for a column that the table does not have.
        qualify(parsed.copy(), schema=schema, dialect="athena", validate_qualify_columns=True)
        answer = database.execute(sqlglot.transpile(sql, read="athena", write="duckdb")[0])
        names = [column[0] for column in answer.description]
        answers[name] = [dict(zip(names, row)) for row in answer.fetchall()]
    json.dump(answers, sys.stdout, default=str)


main()
