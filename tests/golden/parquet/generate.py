"""Parquet as the Hub's conversion writes it, for the tests of datasets by name.

    python tests/golden/parquet/generate.py

`sums.parquet` has the records 0 to 15 of the tests' sums; `chats.parquet` a list of structs, with a column that no
record has. pyarrow 26.0.1.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent

sums = [{"prompt": f"{n} + 1 =", "completion": f" {n + 1}"} for n in range(16)]
pq.write_table(pa.Table.from_pylist(sums), HERE / "sums.parquet", compression="snappy", row_group_size=5)

chats = [
    {
        "id": n,
        "messages": [
            {"content": f"What comes after {n}?", "role": "user", "tool_calls": None},
            {"content": f"{n + 1}", "role": "assistant", "tool_calls": None},
        ],
    }
    for n in range(12)
]
kind = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string()), ("tool_calls", pa.string())]))
table = pa.table({"id": [c["id"] for c in chats], "messages": pa.array([c["messages"] for c in chats], kind)})
pq.write_table(table, HERE / "chats.parquet", compression="zstd", row_group_size=7)
