"""What a compiled update spends its time on: products, sums over the batch, element by element, scatters and the rest.

    .venv/bin/python benchmarks/update_parts.py
    taskset -c 1 .venv/bin/python benchmarks/update_parts.py --out benchmarks/results/update_parts_one_core.json

XLA's own record of each operation of the program that trains: the lower quartile of its times, so that other work on
the machine hardly shows. Beside the time stand operations per second of the products, and bytes per second of what is
read and written otherwise: arrays of this size stay in the second-level cache.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fittedq.actions.base import Box
from fittedq.algorithms import find
from fittedq.files import write_json
from fittedq.trainers.learner import Learner
from fittedq.trainers.state import initial_state
from fittedq.types import Transition
from machine import describe
from method_speed import METHODS, PER_CALL
from speed_ours import ACTION, BATCH, OBS

SHAPE = re.compile(r"\b(f32|s32|u32|pred)\[([\d,]*)\]")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
CALLS = 4


class Work(NamedTuple):
    """What one instruction is, its floating-point operations in products, and the bytes of its operands and result."""

    kind: str
    operations: float
    size: float


def elements(shape: str) -> int:
    return math.prod(int(n) for n in shape.split(",") if n)


def works(text: str) -> dict[str, Work]:
    """Every instruction of a compiled module by name."""
    bodies: dict[str, list[str]] = {}
    body: list[str] = []
    for line in text.splitlines():
        if (head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)) is not None:
            body = bodies.setdefault(head[1], [])
        body.append(line)
    lines = {found[1]: found[2] for body in bodies.values() for line in body if (found := INSTRUCTION.match(line))}
    shapes = {name: SHAPE.search(rest) for name, rest in lines.items()}
    return {name: _work(rest, bodies, shapes) for name, rest in lines.items()}


def _work(rest: str, bodies: dict[str, list[str]], shapes: dict[str, re.Match[str] | None]) -> Work:
    called = re.search(r"calls=%?([\w.\-]+)", rest)
    inner = [rest] if called is None else [line.split(" = ", 1)[1] for line in bodies[called[1]] if " = " in line]
    operands = re.findall(r"%([\w.\-]+)", rest.split(", calls=")[0].split("metadata=")[0])
    size = 4.0 * sum(elements(found[2]) for name in operands if (found := shapes.get(name)) is not None)
    result = SHAPE.search(rest)
    size += 4.0 * (elements(result[2]) if result is not None else 0)
    products = [line for line in inner if " dot(" in line]
    operations = sum(_operations(line, shapes) for line in products)
    names = ("reduce(", "scatter(", "while(")
    kind = next((name[:-1] for name in names if any(f" {name}" in line for line in inner)), "element by element")
    return Work("product" if products else kind, operations, size)


def _operations(line: str, shapes: dict[str, re.Match[str] | None]) -> float:
    """2 · (elements of the result) · (length that is summed over)."""
    result, left = SHAPE.search(line), re.search(r" dot\(%?([\w.\-]+)", line)
    over = re.search(r"lhs_contracting_dims=\{(\d+)\}", line)
    shape = None if left is None else shapes.get(left[1])
    if result is None or shape is None or over is None:
        return 0.0
    return 2.0 * elements(result[2]) * int(shape[2].split(",")[int(over[1])])


def parts(name: str) -> dict[str, object]:
    """Milliseconds an update, kind by kind."""
    algorithm, settings = METHODS[name]
    fqi, state = initial_state(find(algorithm)(**settings), OBS, Box([-1.0] * ACTION, [1.0] * ACTION), BATCH, seed=0)
    learner = Learner(fqi, state, OBS, ACTION)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(PER_CALL, BATCH, Transition.width(OBS, ACTION))).astype(np.float32)
    rows[..., -2:] = 0.0
    compiled = learner._run.lower(learner._buffers, rows, 1 % learner._period).compile()
    found = works(compiled.as_text())
    for _ in range(3):
        learner.learn(rows)
    learner.wait()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(CALLS):
                learner.learn(rows)
            learner.wait()
        (trace,) = Path(folder).rglob("*.xplane.pb")
        times: dict[str, list[float]] = defaultdict(list)
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in found and "hlo_op" in dict(event.stats):
                        times[event.name].append(event.duration_ns)
    total: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(4))
    for instruction, each in times.items():
        work, often = found[instruction], len(each) / (CALLS * PER_CALL)
        if work.kind != "while":  # what is inside is told itself
            total[work.kind] += often * np.array([np.quantile(each, 0.25) / 1e6, 1, work.operations, work.size])
    return {
        "method": name,
        "milliseconds": round(sum(float(one[0]) for one in total.values()), 3),
        "kinds": {kind: _row(*one) for kind, one in sorted(total.items(), key=lambda item: -item[1][0])},
    }


def _row(milliseconds: float, often: float, operations: float, size: float) -> dict[str, float]:
    row = {"milliseconds": round(milliseconds, 3), "instructions": round(often, 1)}
    if operations:
        return row | {"gigaflops": round(operations / milliseconds / 1e6, 1)}
    return row | {"gigabytes_per_second": round(size / milliseconds / 1e6, 1)}


PRODUCTS = ((2, 512, 128), (1, 1024, 128), (2, 1024, 128), (2, 256, 256), (2, 512, 256))
"""(critics, rows, width) of products [critics, rows, width]·[critics, width, width]."""
CHAIN = 8


def products() -> dict[str, float]:
    """Gigaflops of products alone, one after another: the best of some tries."""
    rates = {}
    for critics, rows, width in PRODUCTS:
        x = jnp.ones((critics, rows, width)[critics == 1 :])
        weights = jnp.full((critics, width, width)[critics == 1 :], 1 / width)

        def chained(x: Array, weights: Array) -> Array:
            for _ in range(CHAIN):
                x = jnp.matmul(x, weights)
            return x

        run, best = jax.jit(chained), math.inf
        run(x, weights).block_until_ready()
        for _ in range(60):
            start = time.perf_counter()
            run(x, weights).block_until_ready()
            best = min(best, time.perf_counter() - start)
        rates[f"{critics} × [{rows} × {width}]·[{width} × {width}]"] = round(
            CHAIN * 2e-9 * critics * rows * width**2 / best, 1
        )
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    usual = ["sac", "xqc, critics of 4 × 128", "xqc, critics of 4 × 256"]
    parser.add_argument("--methods", nargs="+", default=usual, choices=METHODS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/update_parts.json"))
    args = parser.parse_args()
    results = [parts(name) for name in args.methods]
    for each in (*results, rates := products()):
        print(json.dumps(each), flush=True)
    write_json(args.out, {**describe("fittedq", "jax", "numpy"), "results": results, "products_gigaflops": rates})


if __name__ == "__main__":
    main()
