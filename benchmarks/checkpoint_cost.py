"""What a checkpoint of a large replay costs: bytes, seconds and memory of saving 10,000 new rows, and of restoring.

    python benchmarks/checkpoint_cost.py --rows 100000 1000000

`whole` writes every row, as the first checkpoint of a run does; `new` what came since the one before; `former` is what
every checkpoint cost before there were segments: all rows in one safetensors file, made in memory. Each is run in a
process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from fittedq.files import write_bytes
from fittedq.runs import checkpoint
from machine import describe

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from standing import Collector

RESULTS = Path(__file__).parent / "results" / "checkpoint_cost.json"
WIDTH, NEW, REPEATS = 772, 10_000, 5


def collect(trainer: Collector, rows: int, rng: np.random.Generator) -> None:
    for _ in range(0, rows, NEW):
        trainer.add(rng.random((NEW, WIDTH), np.float32))


def save_as_formerly(folder: Path, trainer: Collector) -> Path:
    path = folder / f"step-{trainer.step:010d}"
    path.mkdir(parents=True)
    data = safetensors.numpy.save({"replay/rows": np.asarray(trainer.replay.content(), order="C")})
    hashlib.sha256(data).hexdigest()
    write_bytes(path / "tensors.safetensors", data)
    for other in sorted(folder.glob("step-*"))[: -checkpoint.KEEP]:
        shutil.rmtree(other)
    return path


def measured(way: str, rows: int, folder: Path) -> dict[str, Any]:
    """Seconds, bytes and memory of one way, in this process."""
    trainer, before, rng = Collector(rows, WIDTH), None, np.random.default_rng(0)
    if way == "restore":
        held, start = memory(), time.perf_counter()
        _, _, problems = checkpoint.restore(folder, trainer)
        assert not problems
        return {
            "seconds": [time.perf_counter() - start],
            "peak_bytes_above_the_replay": memory() - held - 4 * rows * WIDTH,
        }
    collect(trainer, rows, rng)
    if way == "new":
        before = checkpoint.save(folder, trainer)
    held, seconds, sizes = memory(), [], []
    for _ in range(REPEATS):
        collect(trainer, NEW, rng)
        start = time.perf_counter()
        if way == "former":
            path = save_as_formerly(folder, trainer)
        else:
            path = checkpoint.save(folder, trainer, before=before)
            before = path if way == "new" else None
        seconds.append(time.perf_counter() - start)
        sizes.append(sum(file.stat().st_size for file in path.iterdir() if file.stat().st_nlink == 1))
    return {"seconds": seconds, "bytes_written": sizes, "peak_bytes_above_the_replay": memory() - held}


def memory() -> int:
    """The most bytes that were resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work/checkpoint_cost"))
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measured(arguments.way, arguments.rows[0], arguments.work)))
        return
    found = []
    for rows in arguments.rows:
        for way in ("former", "whole", "new", "restore"):
            if way != "restore":
                shutil.rmtree(arguments.work, ignore_errors=True)
            command = [sys.executable, __file__, "--rows", str(rows), "--work", str(arguments.work), "--way", way]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append({"rows": rows, "width": WIDTH, "new_rows": NEW, "way": way, **json.loads(done.stdout)})
            print(found[-1], flush=True)
    shutil.rmtree(arguments.work, ignore_errors=True)
    command = "python benchmarks/checkpoint_cost.py --rows " + " ".join(map(str, arguments.rows))
    about = describe("fittedq", "numpy", "safetensors") | {"command": command}
    RESULTS.write_text(json.dumps(about | {"results": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
