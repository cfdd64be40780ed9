"""Import of text tables with 1 000 000 rows: seconds and peak memory of `fittedq data import`, start included.

    .venv/bin/python benchmarks/million_csv.py --out benchmarks/results/million_csv.json

Eight columns, of which seven are read; a reward with an increment. Three dialects: plain seconds; ISO 8601 with words
for a switch; semicolons, decimal commas and German dates, packed with gzip. `load_average` says how many processes
wanted the machine's cores meanwhile.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from machine import describe

ROWS = 1_000_000
NAMES = "t,u,temp,setpoint,flow,fan,count,level"
START = datetime(2024, 3, 14, 8)
COMMAND = [sys.executable, "-m", "fittedq", "data", "import"]
ROLES = [
    "--time", "t", "--action", "u", "--obs", "temp,setpoint,flow,fan,level",
    "--reward", "-((temp - setpoint)/10)**2 - 0.01*d_u**2",
]  # fmt: skip


def rows(dialect: str, count: int) -> Iterator[str]:
    """The lines of a heater's log."""
    rng = np.random.default_rng(0)
    u = np.repeat(rng.uniform(0, 255, count // 20 + 1), 20)[:count].tolist()
    temp = np.cumsum(rng.normal(0, 0.1, count)).tolist()
    yield NAMES.replace(",", ";" if dialect == "german" else ",") + "\n"
    for k in range(count):
        stamp = START + timedelta(seconds=3 * k)
        fan = "ON" if k % 40 < 20 else "OFF"
        if dialect == "german":
            line = f"{stamp:%d.%m.%Y %H:%M:%S};{u[k]:.4g};{temp[k]:.6g};93;{u[k]:.3f};{k % 2};{k};{temp[k]:.2f}\n"
            yield line.replace(".", ",").replace(",", ".", 2)
        else:
            clock = stamp.isoformat() if dialect == "iso" else str(3 * k)
            fan = fan if dialect == "iso" else str(k % 2)
            yield f"{clock},{u[k]:.4g},{temp[k]:.6g},93,{u[k]:.3f},{fan},{k},{temp[k]:.2f}\n"


def written(path: Path, dialect: str, count: int) -> None:
    """The log in this dialect."""
    with gzip.open(path, "wt", compresslevel=1) if dialect == "german" else path.open("w") as file:
        file.writelines(rows(dialect, count))


def imported(path: Path, out: Path) -> dict[str, float]:
    """Seconds, those of the processor, and GiB at most, of a command of its own."""
    start = time.perf_counter()
    with subprocess.Popen([*COMMAND, str(path), *ROLES, "--out", str(out)], stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_gib": round(used.ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    found = {}
    for dialect in ("plain", "iso", "german"):
        path, out = args.work / f"{dialect}-{args.rows}.csv", args.work / f"{dialect}-{args.rows}-{time.time_ns()}"
        if not path.exists():
            written(path, dialect, args.rows)
        found[dialect] = {"megabytes": round(path.stat().st_size / 1e6, 1), **imported(path, out)}
        print(dialect, found[dialect], flush=True)
    result = {
        "rows": args.rows,
        "imports": found,
        "load_average": os.getloadavg()[1],
        **describe("fittedq", "pyarrow", "numpy"),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
