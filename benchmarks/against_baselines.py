"""Our two plants: the preset `plant` beside a tuned PID, an LQR and a constant action, in the same episodes.

    .venv/bin/python benchmarks/against_baselines.py            # trains six agents on each, some minutes
    .venv/bin/python benchmarks/against_baselines.py --show     # the tables of what ran, as Markdown

Last agents, 40,000 steps, three seeds on the plant as it is and three on plants whose parameters are off by up to 20 %
(`randomize`). They are told what an engineer knows of a plant (`TOLD`): the tanks' error, the cart's settling time.
Then all of them again where plant and loop are off (`fittedq.robustness`, 10 episodes). The PID knows the plant only by
trying it (`tuned_pid`); the tanks' LQR is that of a linear model fitted to 2,000 random samples (`fittedq compare`'s
word `lqr`), the cart-pole's that of its linearization about upright. The cart-pole has no PID: one loop does not hold
two outputs. All is judged in episodes that nothing was tuned on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import fittedq
from fittedq.baselines import LQR, AbstractController, LinearModel, Tracked
from fittedq.baselines.named import Circumstances, baseline
from fittedq.envs.native import AbstractJaxEnv
from fittedq.envs.plant import resolve
from fittedq.envs.process import CartPole, TwoTanks
from machine import describe

RESULT = Path("benchmarks/results/against_baselines.json")
SEEDS, STEPS, EPISODES = 3, 40_000, 20
LEARNED: dict[str, dict[str, Any]] = {"plant": {}, "plant, randomized": {"randomize": 0.2}}
TOLD: dict[str, dict[str, Any]] = {"two_tanks": {"error": ("1:2",)}, "cart_pole": {"settling": 5.0, "sample": 0.05}}
TRACKED = {
    "two_tanks": (Tracked(1, setpoint=2, band=0.3, name="h₂ in cm"),),
    "cart_pole": (Tracked(0, target=0.0, band=0.05, name="x in m"), Tracked(2, target=0.0, band=0.05, name="θ in rad")),
}


def tanks_baselines(env: TwoTanks) -> dict[str, AbstractController[Any]]:
    given = Circumstances(resolve(env), TRACKED["two_tanks"], env.dt)
    return {word: baseline(word, given) for word in ("pid", "lqr", "constant")}


def cart_baselines(env: CartPole) -> dict[str, AbstractController[Any]]:
    model = LinearModel.of_env(env, np.zeros(4), np.zeros(1))
    lqr = LQR.of(model, [100.0, 10.0, 1.0, 0.0], [1.0], action_set=env.action_set)
    return {"lqr": lqr, "constant": baseline("constant", Circumstances(resolve(env)))}


def measured(name: str, env: AbstractJaxEnv, dt: float, controllers: dict[str, Any]) -> dict[str, Any]:
    seconds, first = {}, {}
    for entry, settings in LEARNED.items():
        for seed in range(SEEDS):
            begin, label = (time.perf_counter(), time.process_time()), f"{entry}, seed {seed}"
            first[label] = fittedq.train("auto", env, steps=STEPS, seed=seed, preset="plant", **settings, **TOLD[name])
            clocks = zip(("wall", "all cores"), begin, (time.perf_counter(), time.process_time()), strict=True)
            seconds[label] = {clock: round(now - then, 1) for clock, then, now in clocks}
            print(label, seconds[label], flush=True)
    several, given = controllers | first, {"seed": 7, "tracked": TRACKED[name]}
    found = fittedq.compare(several, env, episodes=EPISODES, dt=dt, **given)
    off = fittedq.robustness(several, env, episodes=EPISODES // 2, **given)
    rows = [row.describe() | {"settings": str(several[row.name])} for row in found.rows]
    return describe("fittedq", "jax", "numpy", "scipy") | {
        "train_seconds": seconds,
        "compared_with": found.first,
        "rows": rows,
        "robustness": off.describe(),
    }


def table(name: str, result: dict[str, Any]) -> str:
    head = ["controller", "mean return [95 %]", f"ahead of {result['compared_with']} [95 %]"]
    head += ["measured", "settled", "settling time, s", "steady error", "effort", "saturated"]
    lines = [head, ["---"] * len(head)]
    for row in result["rows"]:
        both = (row["mean"], row["ahead"])
        intervals = [f"{one['mean']:.1f} [{one['low']:.1f}, {one['high']:.1f}]" if one else "" for one in both]
        acts = [f"{row['control']['effort'][0]:.3g}", f"{row['control']['saturation'][0]:.0%}"]
        for label, one in row["control"]["measured"].items():
            settling = "–" if one["settling_time"] is None else f"{one['settling_time']:.1f}"
            cells = [label, f"{one['settled']} of {one['steps']}", settling, f"{one['steady_error']:.2g}"]
            lines.append([row["name"], *intervals, *cells, *acts])
    return f"**{name}**\n\n{markdown(lines)}\n\n{markdown(lost(result))}"


def lost(result: dict[str, Any]) -> list[list[str]]:
    """Mean return that each controller loses, by what is off."""
    names = [row["name"] for row in result["rows"]]
    lines = [["return lost", *names], ["---"] * (len(names) + 1)]
    for one in result["robustness"]:
        means = {row["name"]: row["lost"]["mean"] for row in one["controllers"]}
        lines.append([one["perturbation"], *(f"{means[name]:.1f}" for name in names)])
    return lines


def markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", action="store_true")
    if parser.parse_args().show:
        print("\n\n".join(table(name, result) for name, result in json.loads(RESULT.read_text()).items()))
        return
    tanks, cart = TwoTanks(), CartPole()
    results = {
        "two_tanks": measured("two_tanks", tanks, tanks.dt, tanks_baselines(tanks)),
        "cart_pole": measured("cart_pole", cart, cart.dt, cart_baselines(cart)),
    }
    text = json.dumps(results, indent=1).replace("NaN", "null").replace("-Infinity", "null").replace("Infinity", "null")
    RESULT.write_text(text + "\n")
    print("\n\n".join(table(name, json.loads(text)[name]) for name in results))


if __name__ == "__main__":
    main()
