"""Updates per second of every online method beside SAC's, asked in turn in one run, and what operations predict.

    .venv/bin/python benchmarks/method_speed.py --rounds 9

Batch 256, observation 17, action 6, each method as it is shipped unless its row says otherwise; medians. Operations are
those of an update's compiled program (XLA's count, averaged over the period of delayed updates). So a method that makes
k times SAC's operations is expected at 1/k of SAC's rate; `excess` is the time over that expectation.
`share_of_sgemm` is what an update attains of NumPy's float32 product at 256×256×256 in the same run.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fittedq.actions.base import Box
from fittedq.algorithms import find
from fittedq.trainers.state import initial_state
from fittedq.types import Transition
from learner_speed import HERE, OURS, Contestant, sgemm_rate
from machine import describe
from speed_ours import ACTION, BATCH, OBS

PER_CALL = 6
"""Updates a call: whole periods of a policy that is updated every first, second or third time."""

NARROW = {"hidden": [256, 256, 256, 256]}
METHODS = {
    "sac": ("sac", {}),
    "td3": ("td3", {}),
    "xqc, critics of 4 × 128": ("xqc", {"hidden": [128, 128, 128, 128]}),
    "xqc, critics of 4 × 256": ("xqc", NARROW),
    "xqc, critics of 4 × 256, layer norm": ("xqc", {**NARROW, "normalization": "layer"}),
    "xqc": ("xqc", {}),
    "crossq": ("crossq", {}),
    "tqc": ("tqc", {}),
    "simba": ("simba", {}),
    "simba_v2": ("simba_v2", {}),
    "td7": ("td7", {}),
}


def operations(algorithm: str, settings: dict[str, object]) -> float:
    """Floating-point operations of one update, averaged over the period of delayed updates."""
    fqi, state = initial_state(find(algorithm)(**settings), OBS, Box([-1.0] * ACTION, [1.0] * ACTION), BATCH, seed=0)
    batch = Transition.unpack(jnp.zeros((BATCH, Transition.width(OBS, ACTION))), OBS, ACTION)

    def counted(phase: int) -> float:
        learn = jax.jit(partial(fqi.learn, phase=phase))
        return learn.lower(state, batch).compile().cost_analysis()["flops"]

    if fqi.period > PER_CALL:  # a hard copy now and then: no operation
        return float(np.mean([counted(phase) for phase in range(1, PER_CALL + 1)]))
    return float(np.mean([counted(phase) for phase in range(fqi.period)]))


def contestant(name: str) -> Contestant:
    algorithm, settings = METHODS[name]
    command = [OURS, f"{HERE}/speed_ours.py", f"--algorithm={algorithm}", f"--per-call={PER_CALL}"]
    return Contestant(name, [*command, f"--settings={json.dumps(settings)}"])


def contest(name: str, rounds: int, seconds: float) -> dict[str, object]:
    """SAC and one method in turn, each as many updates as take about so many seconds."""
    pair = [contestant(each) for each in ("sac", name)]
    for each in pair:
        each.wait_ready()
    updates = [PER_CALL, PER_CALL]
    for index, each in enumerate(pair):
        each.turn(PER_CALL)
        updates[index] = PER_CALL * max(1, round(seconds / (PER_CALL * each.seconds.pop())))
    gemm = []
    for _ in range(rounds):
        gemm.append(sgemm_rate())
        for each, count in zip(pair, updates, strict=True):
            each.turn(count)
    for each in pair:
        each.close()
    of_sac, of_method = (float(np.median(each.seconds)) for each in pair)
    predicted = operations(*METHODS[name]) / operations("sac", {})
    return {
        "method": name,
        "settings": METHODS[name][1],
        "updates_per_second": round(1 / of_method, 1),
        "sac_updates_per_second": round(1 / of_sac, 1),
        "time_by_sac": round(of_method / of_sac, 2),
        "operations_by_sac": round(predicted, 2),
        "excess": round(of_method / of_sac / predicted, 2),
        "share_of_sgemm": round(operations(*METHODS[name]) / of_method / float(np.median(gemm)), 3),
        "seconds_per_update": [each.seconds for each in pair],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=[name for name in METHODS if name != "sac"], choices=METHODS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a turn takes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/method_speed.json"))
    args = parser.parse_args()
    results = []
    for name in args.methods:
        results.append(contest(name, args.rounds, args.seconds))
        print(json.dumps({key: value for key, value in results[-1].items() if key != "seconds_per_update"}), flush=True)
    args.out.write_text(json.dumps({**describe("fittedq", "jax", "numpy"), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
