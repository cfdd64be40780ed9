"""Which tests would notice that the mathematics is wrong: single mutations of the core, and the tests that must fail.

    python benchmarks/mutants.py                      # what was not tried with these files yet
    python benchmarks/mutants.py --only "NAME" …      # some of them, whatever was tried before

Each mutation of `mutations.toml` is made in a copy of the tree, where its tests alone are run: a failure kills it. A
mutation that survives wants a test, or a reason why none can exist (`equivalent`). One whose old text does not stand
exactly once is stale, and an error. Results are kept by the contents of the files, so a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from machine import describe

ROOT = Path(__file__).resolve().parent.parent
MUTATIONS = ROOT / "benchmarks" / "mutations.toml"
OUT = ROOT / "benchmarks" / "results" / "mutants.json"
COPIED = ("src", "tests", "pyproject.toml")
SECONDS = 100
"""A mutation may make a search endless: tests that take longer, of the processor's own time, have failed."""
SOON = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / "build" / "mutants"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")},
}
"""Programs are compiled soon, and kept: a mutation changes few of them."""
LIBRARIES = ("jax", "equinox", "optax", "scipy.optimize", "scipy.stats")
"""Imported once, for all."""
VERDICTS = {0: "survived", 1: "killed", -signal.SIGXCPU: "killed, out of time"}
"""By the exit code of pytest; anything else is an error of the list itself."""


@dataclass(frozen=True)
class Mutation:
    """`old` → `new` in src/fittedq/`file`, and the files or nodes below tests/ that must notice it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    equivalent: str | None = None

    @property
    def path(self) -> Path:
        """The file, below the root of a tree."""
        return Path("src", "fittedq", self.file)

    def stale(self) -> str | None:
        """Why it cannot be made, or None."""
        count = (ROOT / self.path).read_text().count(self.old)
        missing = [node for node in self.tests if not (ROOT / "tests" / node.split("::")[0]).is_file()]
        if missing:
            return f"tests/{missing[0]} does not exist"
        return None if count == 1 else f"its old text stands {count} times in {self.path}"

    def key(self, root: Path = ROOT) -> str:
        """A digest of itself and of the files it is about."""
        digest = hashlib.sha256(repr(self).encode())
        for path in (self.path, *(Path("tests", node.split("::")[0]) for node in self.tests)):
            digest.update((root / path).read_bytes())
        return digest.hexdigest()[:16]


def read() -> list[Mutation]:
    """The list."""
    rows = tomllib.loads(MUTATIONS.read_text())["mutation"]
    return [Mutation(**row | {"tests": tuple(row["tests"])}) for row in rows]


def run(tree: Path, tests: Sequence[str], limit: int = SECONDS) -> tuple[int, str, float]:
    """(exit code, the last lines, seconds) of some tests in a tree."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = multiprocessing.get_context("fork").Process(target=_tests, args=(tree, tests, limit, said.fileno()))
        process.start()
        process.join()
        said.seek(0)
        last = said.read().splitlines()[-12:]
    assert process.exitcode is not None
    return process.exitcode, "\n".join(last), time.perf_counter() - began


def _tests(tree: Path, tests: Sequence[str], limit: int, out: int) -> None:
    """Run them in this process, a copy of one that holds the libraries, but nothing of the project."""
    for standard in (1, 2):
        os.dup2(out, standard)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree / "src")
    sys.path[:0] = [str(tree), str(tree / "src")]
    # What plugins and checks of annotations cost is more than most of these tests do.
    options = ["-x", "-q", "-p", "no:cacheprovider", "--noconftest"]
    code = pytest.main([*options, *(f"tests/{node}" for node in tests)])
    sys.stdout.flush()
    os._exit(code)


def tried(mutation: Mutation, tree: Path) -> dict[str, Any]:
    """What became of one mutation."""
    source = (tree / mutation.path).read_text()
    (tree / mutation.path).write_text(source.replace(mutation.old, mutation.new))
    try:
        code, last, seconds = run(tree, mutation.tests)
    finally:
        (tree / mutation.path).write_text(source)
    verdict = VERDICTS.get(code, "error")
    if verdict == "survived" and mutation.equivalent:
        verdict = "equivalent"
    failed = [line for line in last.splitlines() if line.startswith("FAILED")]
    result = {"verdict": verdict, "seconds": round(seconds, 1)}
    return result | ({"why": failed[0][7:120] if failed else last} if verdict in ("killed", "error") else {})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=())
    only = parser.parse_args().only
    os.environ |= SOON
    for library in LIBRARIES:
        importlib.import_module(library)
    mutations = read()
    unknown = sorted(set(only) - {mutation.name for mutation in mutations})
    if unknown:
        raise SystemExit(f"mutants: found no mutation {unknown[0]!r} in {MUTATIONS}.")
    before = json.loads(OUT.read_text())["mutations"] if OUT.exists() else {}
    results = {one.name: before[one.name] for one in mutations if one.name in before}
    stale = {one.name: {"file": one.file, "verdict": "stale", "why": why} for one in mutations if (why := one.stale())}
    results |= stale

    def wanted(one: Mutation) -> bool:
        return one.name in only if only else results.get(one.name, {}).get("key") != one.key()

    due = [one for one in mutations if one.name not in stale and wanted(one)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tree / name)
        for file, group in itertools.groupby(due, lambda one: one.file):
            group = list(group)
            # Tests that fail anyway would kill everything.
            code, last, _ = run(tree, sorted({node for one in group for node in one.tests}), 10 * SECONDS)
            if code != 0:
                raise SystemExit(f"mutants: the tests of {file} do not pass without a mutation:\n{last}")
            for mutation in group:
                results[mutation.name] = {"file": file, **tried(mutation, tree), "key": mutation.key(tree)}
                print(f"{results[mutation.name]['verdict']}: {file}: {mutation.name}", flush=True)
                write(results)
    counts = write(results)
    print(", ".join(f"{verdict} {count}" for verdict, count in counts.items()))
    return 0 if set(counts) <= {"killed", "killed, out of time", "equivalent"} else 1


def write(results: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Keep the results as data; the counts by verdict."""
    counts = dict(Counter(result["verdict"] for result in results.values()).most_common())
    whole = {**describe("fittedq", "jax", "numpy", "pytest"), "counts": counts, "mutations": results}
    part = OUT.with_suffix(".part")
    part.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    part.replace(OUT)
    return counts


if __name__ == "__main__":
    sys.exit(main())
