"""A Parquet file of conversations of any size, for showing that reading it takes no more memory than a small one.

    python benches/compare/big_parquet.py OUT.parquet --gib 5

`messages` is a list of structs, in row groups of 20,000 rows, snappy, without dictionaries; there is a column besides
that no record has.
"""

import argparse
import json
import os
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq

from tokenizing import conversations  # benches/compare/tokenizing.py, which lies beside this file


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--gib", type=float, default=5)
    arguments = parser.parse_args()
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as lines:
        conversations(20_000, lines.name)
        records = [json.loads(line) for line in open(lines.name, encoding="utf-8")]
    table = pa.table({"messages": [r["messages"] for r in records], "other": ["x" * 200] * len(records)})
    part = arguments.out + ".part"
    with pq.ParquetWriter(part, table.schema, compression="snappy", use_dictionary=False) as writer:
        while os.path.getsize(part) < arguments.gib * 2**30:
            writer.write_table(table)
    os.rename(part, arguments.out)
    print(pq.read_metadata(arguments.out).num_rows, "rows,", os.path.getsize(arguments.out), "bytes")


if __name__ == "__main__":
    main()
