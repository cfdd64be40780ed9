"""Plants of target-gym that are off: what the preset `plant`, the package's PID and its MPC lose, from its own seeds.

    make plants-env
    .venv-plants/bin/python benchmarks/plants_off.py --plant first_order cstr
    .venv-plants/bin/python benchmarks/plants_off.py --table

The parameters named in `VARY` are each up or down by 10 or 20 % (a coin for each of them and each seed). Noise, delay
and load are those of `fittedq.robustness`: `acting.Perturbed` stands around all controllers. MPC plans with the
parameters as they were, and reads the true state, which noise does not reach. Results are merged into
`results/plants_off.json`, one by plant and controller.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import fittedq
from fittedq.acting.episodes import AbstractController
from fittedq.acting.perturbed import Perturbed
from fittedq.diagnose.paired import Interval
from fittedq.envs.flat import FlatEnv
from machine import describe
from plants import PACKAGES, errors

RESULT = Path("benchmarks/results/plants_off.json")
VARY = {
    "first_order": ("K", "tau"),
    "cstr": ("q", "V", "UA", "Caf"),
    "four_tank": ("a1", "a2", "k1", "k2"),
    "hvac": ("U_wall", "U_window", "cm_per_area", "Q_heat_max"),
    "battery": ("R0", "R1", "C1", "capacity_As"),
    "ph_neutralization": ("V", "q1", "Wa3"),
    "boiler_drum": ("tau_sr", "k_friction", "m_metal"),
    "cement_kiln": ("U_shell", "emissivity_gas", "h_wall_bed"),
    "distillation": ("M_tray", "M_drum"),
    "wind_turbine": ("rho", "J_rotor", "pitch_tau"),
}
"""Physics among the numbers of the plants' params."""
LEARNED = {"plant": {}, "plant, randomized": {"randomize": 0.2}}
OFF: dict[str, dict[str, Any]] = {
    "as it was": {},
    "parameters ± 0.1": {"share": 0.1},
    "parameters ± 0.2": {"share": 0.2},
    "noise 0.05": {"noise": 0.05},
    "noise 0.1": {"noise": 0.1},
    "delay 1": {"delay": 1},
    "delay 2": {"delay": 2},
    "load -0.1": {"load": -0.1},
    "load 0.1": {"load": 0.1},
}


class Package(AbstractController[None]):
    """A baseline of the package; `state` is the plant's at this sample, which its MPC reads."""

    def __init__(self, policy: Any):
        self.policy, self.state = policy, None

    def start(self, number: int) -> None:
        return None

    def step(self, memory: None, obs: np.ndarray) -> tuple[np.ndarray, None]:
        return np.atleast_2d(np.asarray(self.policy(obs[0], self.state), np.float32)), None

    def check(self, env: FlatEnv) -> None:
        return None


def episode(spec: Any, params: Any, controller: Any, how: dict[str, Any], spread: np.ndarray, seed: int) -> Any:
    """(return, observations) of the package's rollout from one seed."""
    from target_gym.runners.runners import rollout

    plant = fittedq.Gymnax(spec.make_env(), params)
    box, half = plant.action_set, params.max_steps_in_episode // 2
    share, rng = how.get("share", 0.0), np.random.default_rng((seed, 18))
    coins = {name: 1 + share * rng.choice([-1, 1]) for name in VARY[spec.name]}
    off = params.replace(**{name: float(getattr(params, name) * factor) for name, factor in coins.items()})
    noise, load = how.get("noise", 0.0) * spread, how.get("load", 0.0)
    loop = Perturbed(controller, box, noise, how.get("delay", 0), load, half).loop()
    seen = []

    def policy(obs: Any, state: Any) -> Any:
        seen.append(np.asarray(obs, np.float32))
        if isinstance(controller, Package):
            controller.state = state
        return np.clip(loop.act(seen[-1]), box.low, box.high)

    return float(np.sum(rollout(spec, off, policy, seed)[2])), np.stack(seen)


def measured(name: str, label: str, seeds: int) -> dict[str, Any]:
    """One controller on one plant, under all that may be off."""
    from target_gym.registry import REGISTRY
    from target_gym.runners.runners import baseline_policy

    spec = REGISTRY[name]
    params = spec.make_test_params()
    own: dict[str, Any] = {}
    if label in LEARNED:
        begin = time.process_time()
        env, settings = fittedq.Gymnax(spec.make_env(), params), {"error": errors(spec.make_env())} | LEARNED[label]
        settings |= {"vary": VARY[name]} if "randomize" in settings else {}
        agent = fittedq.train("auto", env, steps=100_000, preset="plant", **settings).controller()
        own = {"settings": settings, "train_cpu_seconds": round(time.process_time() - begin, 1)}

    def fresh() -> Any:
        return agent if label in LEARNED else Package(baseline_policy(spec, label, params))

    pid = [episode(spec, params, Package(baseline_policy(spec, "pid", params)), {}, 0.0, s) for s in range(seeds)]
    spread = np.sqrt(np.mean([obs.var(axis=0) for _, obs in pid], axis=0))
    returns = {
        words: [episode(spec, params, fresh(), how, spread, seed)[0] for seed in range(seeds)]
        for words, how in OFF.items()
    }
    return own | {"vary": VARY[name], "returns": returns, "about": describe(*PACKAGES)}


def table(results: dict[str, Any]) -> str:
    """Means as it was, and what is lost beside it."""
    lines = []
    for plant in dict.fromkeys(key.split("/")[0] for key in results):
        own = {key.split("/")[1]: one["returns"] for key, one in results.items() if key.startswith(f"{plant}/")}
        lines += [f"**{plant}**", "", "| return lost [95 %] | " + " | ".join(own) + " |", "|---" * (len(own) + 1) + "|"]
        for words in OFF:
            cells = []
            for returns in own.values():
                before, after = (np.array(returns[name]) for name in ("as it was", words))
                cells.append(str(Interval.of(before if words == "as it was" else before - after)))
            lines.append(f"| {words} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plant", nargs="+", default=[], choices=list(VARY))
    parser.add_argument("--controller", nargs="+", default=["pid", *LEARNED, "mpc"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    for plant in given.plant:
        for label in given.controller:
            results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
            if f"{plant}/{label}" not in results:
                results[f"{plant}/{label}"] = measured(plant, label, given.seeds)
                RESULT.write_text(json.dumps(results, indent=1) + "\n")
                print(plant, label, flush=True)
    if given.table or not given.plant:
        print(table(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
