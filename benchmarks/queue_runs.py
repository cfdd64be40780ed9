"""Run a file of shell commands, one process per core, each pinned and at low priority; finished ones are skipped by the
commands themselves. Interrupted queues are simply started again.

    python benchmarks/queue_runs.py benchmarks/learning_peers.txt --cores 0 1
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import threading
from pathlib import Path


def worker(core: int, jobs: queue.Queue[str], nice: int) -> None:
    # One thread per process: two pinned learners together outrun one with two threads.
    env = os.environ | {
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    while True:
        try:
            command = jobs.get_nowait()
        except queue.Empty:
            return
        print(f"[core {core}] {command}", flush=True)
        code = subprocess.run(f"nice -n {nice} taskset -c {core} {command}", shell=True, env=env).returncode
        if code:
            print(f"[core {core}] exit {code}: {command}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--cores", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--nice", type=int, default=19, help="of 0 to 19: how far they stand back")
    args = parser.parse_args()
    jobs: queue.Queue[str] = queue.Queue()
    for line in args.file.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            jobs.put(line.strip())
    threads = [threading.Thread(target=worker, args=(core, jobs, args.nice)) for core in args.cores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
