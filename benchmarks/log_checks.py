"""Do the checks of a log cry wolf, or stay silent? Plants whose answer is known, 20 seeds each.

    .venv/bin/python benchmarks/log_checks.py --out benchmarks/results/log_checks.json

A row per plant: what every check must say of it, and how often it did. The floor is compared with what estimates of a
known value really scatter by.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fittedq.data.checks.base import ADVICE, GOOD, LOOK_HERE, UNSAID
from fittedq.data.checks.lessons import checks_of
from fittedq.data.dataset import Dataset
from machine import describe

ROWS, SEEDS = 2_000, 20
Log = tuple[np.ndarray, np.ndarray]
"""Observations [rows, s] and actions [rows, m]."""


def dataset_of(obs: np.ndarray, action: np.ndarray, length: int, box: float | None) -> Dataset:
    """Episodes of this length out of rows that follow one another; r = −|s|²/s."""
    count = len(obs) - 1
    last = np.arange(1, count + 1) % length == 0
    last[-1] = True
    bounds = (action.min(0), action.max(0)) if box is None else (-box, box)
    return Dataset.from_arrays(
        obs=obs[:-1],
        action=action[:-1],
        reward=-(obs[:-1] ** 2).mean(axis=1),
        next_obs=obs[1:],
        terminated=np.zeros(count, bool),
        truncated=last,
        action_low=bounds[0],
        action_high=bounds[1],
    )


# ---------------------------------------------------------------------- what moves the action


Controller = Callable[[int, np.ndarray, np.random.Generator], np.ndarray]
"""(row, observation, generator) → action, made anew for each log."""


def steps(hold: int, size: int = 1, levels: int = 0) -> Controller:
    """Uniform in [−1, 1], or one of so many levels, held."""
    action = np.zeros(size)

    def act(row: int, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        nonlocal action
        if row % hold == 0:
            action = rng.uniform(-1, 1, size)
            if levels:
                action = np.floor((action + 1) / 2 * levels) / (levels - 1) * 2 - 1
        return action

    return act


def slow_noise(pole: float) -> Controller:
    """An AR(1) process."""
    action = np.zeros(1)

    def act(row: int, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        nonlocal action
        action = pole * action + np.sqrt(1 - pole**2) * 0.4 * rng.normal(size=1)
        return np.clip(action, -1, 1)

    return act


def sines(count: int, fastest: float) -> Controller:
    """A sum of sines with periods down to 1 / fastest rows."""
    phase: list[np.ndarray] = []

    def act(row: int, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not phase:
            phase.extend([rng.uniform(0, 2 * np.pi, count), fastest * rng.uniform(0.05, 1, count)])
        return np.array([np.sin(2 * np.pi * phase[1] * row + phase[0]).sum() / count])

    return act


def pid(
    p: float, i: float, d: float = 0.0, dither: float = 0.0, every: int = 1, target: int = 0, low: float = -1
) -> Controller:
    """A PID on the first coordinate with the integral held at the limits; new set-points every `target` rows.

    With a target, the last coordinate is the set-point.
    """
    total, last, action, began = 0.0, 0.0, np.zeros(1), False

    def act(row: int, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        nonlocal total, last, action, began
        if row % every == 0:
            error = (obs[-1] if target else 0.0) - obs[0]
            change = error - last if began else 0.0
            wanted = p * error + i * (total + error) + d * change
            total += error if low < wanted < 1 else 0.0
            last, began = error, True
            action = np.clip(np.array([wanted]), low, 1)
        return np.clip(action + dither * rng.normal(size=1), low, 1)

    return act


def thermostat(low: float, high: float) -> Controller:
    """On below `low`, off above `high`."""
    action = np.ones(1)

    def act(row: int, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        nonlocal action
        action = np.ones(1) if obs[0] < low else -np.ones(1) if obs[0] > high else action
        return action

    return act


def policy(gain: np.ndarray, dither: float = 0.0) -> Controller:
    """tanh(K s) with noise: what an actor does."""

    def act(row: int, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.clip(np.tanh(gain @ obs) + dither * rng.normal(size=len(gain)), -1, 1)

    return act


# ---------------------------------------------------------------------- plants


def linear(A: np.ndarray, B: np.ndarray, C: np.ndarray, act: Controller, seed: int, rows: int, **noise: float) -> Log:
    """x' = A x + B u + w, y = C x + v; a load that jumps, and a set-point where `target` is given.

    `process` is the deviation of w, `hidden` that of more noise on the last coordinate, `sensor` that of v.
    """
    rng = np.random.default_rng(seed)
    x, found, load = np.zeros(len(A)), [], 0.0
    target, setpoint = int(noise.get("target", 0)), 0.0
    for row in range(rows + 1):
        if target and row % target == 0:
            setpoint = rng.uniform(-0.5, 0.5)
        y = C @ x + noise.get("sensor", 0.0) * rng.normal(size=len(C))
        obs = np.append(y, setpoint) if target else y
        u = act(row, obs, rng)
        found.append((obs, u))
        if row % 150 == 0:
            load = noise.get("load", 0.0) * rng.normal()
        x = A @ x + B @ (u + load) + noise.get("process", 0.0) * rng.normal(size=len(A))
        x[-1] += noise.get("hidden", 0.0) * rng.normal()
    return np.array([obs for obs, _ in found]), np.array([u for _, u in found])


ONE, TWO = np.eye(1), np.eye(2)
FIRST = 0.95 * ONE, 0.05 * ONE, ONE
FAST = 0.3 * ONE, 0.7 * ONE, ONE
SECOND = np.array([[0.9, 0.1], [0.0, 0.8]]), np.array([[0.0], [0.2]]), np.array([[1.0, 0.0]])
SECOND_SEEN = (*SECOND[:2], TWO)
CROSSED = np.array([[0.9, 0.05], [0.02, 0.8]]), np.array([[0.1, 0.02], [0.03, 0.2]]), TWO
DELAYED = np.diag(np.ones(3), 1) + np.diag([0.9, 0, 0, 0]), np.array([[0.0], [0], [0], [1]]), np.eye(1, 4)
"""y' = .9 y + u three rows before."""


def pendulum(act: Controller, seed: int, rows: int, seen: int) -> Log:
    """Pendulum-v1: (cos, sin, speed) or its first `seen`; a new start every 200 rows."""
    rng = np.random.default_rng(seed)
    found, angle, speed = [], 0.0, 0.0
    for row in range(rows + 1):
        if row % 200 == 0:
            angle, speed = rng.uniform(-np.pi, np.pi), rng.uniform(-1, 1)
        obs = np.array([np.cos(angle), np.sin(angle), speed])
        u = act(row, obs, rng)
        found.append((obs[:seen], u))
        speed = np.clip(speed + 0.05 * (15 * np.sin(angle) + 6 * u[0]), -8, 8)
        angle += 0.05 * speed
    return np.array([obs for obs, _ in found]), np.array([u for _, u in found])


def tanks(act: Controller, seed: int, rows: int) -> Log:
    """Two tanks in a row, a pump and a valve; the levels in cm, of which the first overflows at 20."""
    rng = np.random.default_rng(seed)
    first, second, found = 5.0, 5.0, []
    for row in range(rows + 1):
        obs = np.array([first, second])
        u = act(row, obs, rng)
        pump, valve = (u + 1) / 2
        found.append((obs, u))
        for _ in range(5):
            flow = 0.35 * (0.3 + 0.7 * valve) * np.sqrt(first)
            first = min(max(first + 0.2 * (1.6 * pump - flow), 0), 20)
            second = min(max(second + 0.2 * (flow - 0.30 * np.sqrt(second)), 0), 20)
    return np.array([obs for obs, _ in found]), np.array([u for _, u in found])


@dataclass(frozen=True)
class Case:
    """A plant and what moves it; which checks must warn, and the history that must be proposed."""

    make: Callable[[int], Log]
    warned: tuple[str, ...] = ()
    history: tuple[int, ...] = ()
    """Any of these; empty: nothing is asked."""
    length: int = 10**9
    settling: float | None = None
    either: tuple[str, ...] = ()
    """Checks that may warn or not: the truth lies at their limit, or the case is no question for them."""


def run(
    plant: tuple[np.ndarray, ...], act: Callable[[], Controller], rows: int = ROWS, **noise: float
) -> Callable[[int], Log]:
    return lambda seed: linear(*plant, act(), seed, rows, **noise)  # type: ignore[arg-type]


QUIET = {"process": 0.01}
LOOP = ("closed loop", "coverage")
HIDDEN = ("closed loop",), (), 10**9, None, ("coverage",)
"""At like observations the action differs by an integral or a slope that the observation does not hold."""
CASES: dict[str, Case] = {
    # explored
    "first order, a new action each row": Case(run(FIRST, lambda: steps(1), **QUIET), history=(1,), settling=58.4),
    "first order, held 20 rows": Case(run(FIRST, lambda: steps(20), **QUIET), history=(1,), settling=58.4),
    "first order, held 100 rows": Case(run(FIRST, lambda: steps(100), **QUIET), history=(1,), settling=58.4),
    "first order, held 20 rows, 600 rows": Case(run(FIRST, lambda: steps(20), 600, **QUIET), history=(1,)),
    "first order, 40 episodes of 50 rows": Case(run(FIRST, lambda: steps(5), **QUIET), history=(1,), length=50),
    "fast plant, held 50 rows": Case(run(FAST, lambda: steps(50), **QUIET), history=(1,), either=("coverage",)),
    "fast plant, slow noise": Case(run(FAST, lambda: slow_noise(0.97), **QUIET), history=(1,)),
    "first order, slow noise": Case(run(FIRST, lambda: slow_noise(0.95), **QUIET), history=(1,)),
    "first order, ten sines": Case(run(FIRST, lambda: sines(10, 0.1), **QUIET), history=(1,)),
    "first order, switched at random": Case(run(FIRST, lambda: steps(15, levels=2), **QUIET), history=(1,)),
    "two inputs, two outputs": Case(run(CROSSED, lambda: steps(8, 2), **QUIET), history=(1,)),
    "two tanks that overflow": Case(lambda seed: tanks(steps(15, 2), seed, ROWS), history=(1,)),
    "PI with dither of 5 % of the box": Case(run(FIRST, lambda: pid(2, 0.1, dither=0.1), **QUIET), history=(1,)),
    "PI, set-points and dither": Case(
        run(FIRST, lambda: pid(2, 0.1, dither=0.2, target=100), target=100, **QUIET), history=(1,)
    ),
    "actor with dither of 5 % of the box": Case(
        run(SECOND_SEEN, lambda: policy(np.array([[-3.0, -1.0]]), 0.1), process=0.05), history=(1,)
    ),
    "pendulum, random": Case(lambda seed: pendulum(steps(1), seed, 4_000, 3), history=(1,), length=200),
    "pendulum, speed not seen": Case(lambda seed: pendulum(steps(4), seed, 4_000, 2), history=(2, 3), length=200),
    # Noise enters where y_{k+1} = 1.7 y_k − .72 y_{k−1} + .02 u_{k−1} + noise; elsewhere it leaves a moving average.
    "second order, one output": Case(run(SECOND, lambda: steps(10), hidden=0.02), history=(2,)),
    "second order, one output, noise in both": Case(run(SECOND, lambda: steps(10), **QUIET), history=(2, 3, 4)),
    "second order, both seen": Case(run(SECOND_SEEN, lambda: steps(10), **QUIET), history=(1,)),
    "dead time of three rows": Case(run(DELAYED, lambda: steps(5), process=0.01), history=(4,)),
    "noisy sensor": Case(run(FIRST, lambda: steps(20), sensor=0.05, **QUIET), history=(2, 3, 4, 5)),
    # in closed loop
    "PI": Case(run(FIRST, lambda: pid(2, 0.1), **QUIET), *HIDDEN),
    "PI, load jumps": Case(run(FIRST, lambda: pid(2, 0.1), load=0.2, **QUIET), *HIDDEN),
    "PI, noise in the sensor": Case(run(FIRST, lambda: pid(2, 0.1), sensor=0.02, **QUIET), *HIDDEN),
    "PI, set-points": Case(run(FIRST, lambda: pid(4, 0.2, target=100), target=100, **QUIET), LOOP),
    "PI, 40 episodes of 50 rows": Case(run(FIRST, lambda: pid(2, 0.1, target=50), target=50, **QUIET), LOOP, length=50),
    "PI, a new action every 5 rows": Case(run(FIRST, lambda: pid(2, 0.1, every=5), **QUIET), *HIDDEN),
    "PI that saturates": Case(run(FIRST, lambda: pid(20, 1, target=100), target=100, **QUIET), *HIDDEN),
    "PID": Case(run(SECOND, lambda: pid(3, 0.1, 4), **QUIET), *HIDDEN),
    "P on a fast plant": Case(run(FAST, lambda: pid(0.8, 0), **QUIET), LOOP),
    "thermostat": Case(run(FIRST, lambda: thermostat(-0.2, 0.2), **QUIET), ("closed loop",), either=("coverage",)),
    "actor": Case(run(SECOND_SEEN, lambda: policy(np.array([[-3.0, -1.0]])), process=0.05), LOOP),
    "actor on the pendulum": Case(
        lambda seed: pendulum(policy(np.array([[1.0, -2.0, -0.5]])), seed, 4_000, 3),
        ("coverage",),
        length=200,
        either=("closed loop",),
    ),
    "PI with dither of .2 % of the box": Case(run(FIRST, lambda: pid(2, 0.1, dither=0.004), process=0.05), *HIDDEN),
}
WARNING = ("closed loop", "coverage", "rewards")


def judged(case: Case) -> dict[str, object]:
    """How often the checks said what they must."""
    verdicts: dict[str, Counter[str]] = {}
    history: Counter[int | None] = Counter()
    figures: dict[str, list[float]] = {"r2": [], "coverage": [], "settling": []}
    wolf, silent = 0, 0
    for seed in range(SEEDS):
        found = {check.title: check for check in checks_of(dataset_of(*case.make(seed), case.length, None))}
        for title, check in found.items():
            verdicts.setdefault(title, Counter())[check.verdict] += 1
        told = {title: check.figures() for title, check in found.items()}
        history[told["markov"].get("history")] += 1
        figures["r2"].append(max(told["closed loop"].get("r2", [np.nan])))
        figures["coverage"].append(told["coverage"].get("least", np.nan))
        figures["settling"].append(told["excitation"].get("settling") or np.nan)
        asked = [title for title in WARNING if title not in case.either]
        wolf += any(found[title].verdict == LOOK_HERE and title not in case.warned for title in asked)
        silent += any(found[title].verdict != LOOK_HERE for title in case.warned if title in asked)
    ends = {
        name: [float(f"{end:.4g}") for end in (np.nanmin(values), np.nanmax(values))]
        for name, values in figures.items()
        if not np.isnan(values).all()
    }
    result: dict[str, object] = {"must_warn": list(case.warned), "cried_wolf": wolf, "stayed_silent": silent}
    if case.history:
        result |= {
            "history_right": sum(history[right] for right in case.history),
            "history_wanted": list(case.history),
        }
    return (
        result
        | {
            "history": {str(key): count for key, count in sorted(history.items(), key=str)},
            "verdicts": {title: dict(counts) for title, counts in verdicts.items()},
            "from_to": ends,
        }
        | ({"settling": case.settling} if case.settling else {})
    )


# ---------------------------------------------------------------------- the floor


def scatter(rows: int, seeds: int) -> dict[str, float]:
    """The floor beside the deviation, over seeds, of estimates of a known value: LQR's q, quadratic, by LSTD.

    s' = s + a + w, a = −.5 s + d, r = −s² − a²; the value is that of the log's own policy, averaged over its states.
    """
    gamma, gain, W, D = 0.9, 0.5, 0.04, 0.09
    at_rest = (W + D) / (1 - (1 - gain) ** 2)
    P = (1 + gain**2) / (1 - gamma * (1 - gain) ** 2)
    moved = (1 - gain) ** 2 * at_rest + D
    noise = gamma * P * np.sqrt(2 * W**2 + 4 * W * moved)
    value = -(at_rest + gain**2 * at_rest + D) / (1 - gamma)
    estimates, floors = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        s, a = np.zeros(rows + 1), np.zeros(rows + 1)
        s[0] = np.sqrt(at_rest) * rng.normal()
        for k, (d, w) in enumerate(rng.normal(size=(rows, 2)) * [D**0.5, W**0.5]):
            a[k] = -gain * s[k] + d
            s[k + 1] = s[k] + a[k] + w
        reward, s, a, after = -(s**2) - a**2, s[:-1], a[:-1], s[1:]
        features = np.stack([np.ones(rows), s**2, s * a, a**2], axis=1)
        # E over the next action, which the policy is known to draw.
        following = np.stack([np.ones(rows), after**2, -gain * after**2, gain**2 * after**2 + D], axis=1)
        weights = np.linalg.solve(features.T @ (features - gamma * following), features.T @ reward[:-1])
        mean = np.array([1, at_rest, -gain * at_rest, gain**2 * at_rest + D])
        estimates.append(mean @ weights)
        if seed < SEEDS:
            data = Dataset.from_arrays(
                obs=s[:, None],
                action=a[:, None],
                reward=reward[:-1],
                next_obs=after[:, None],
                terminated=np.zeros(rows, bool),
                truncated=np.arange(rows) == rows - 1,
                action_low=a.min(),
                action_high=a.max(),
            )
            floors.append(checks_of(data, gamma=gamma)[-1].figures()["error"])
    return {
        "rows": rows,
        "value": value,
        "mean_estimate": float(np.mean(estimates)),
        "floor_in_closed_form": float(noise / ((1 - gamma) * np.sqrt(rows))),
        "floor_told_mean": float(np.mean(floors)),
        "floor_told_deviation": float(np.std(floors)),
        "deviation_of_estimates": float(np.std(estimates)),
        "seeds": seeds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    start, table = time.perf_counter(), {}
    for name, case in CASES.items():
        if args.only in name:
            table[name] = judged(case)
            print(name, json.dumps(table[name]), flush=True)
    floor = [scatter(rows, 200) for rows in (500, 2_000, 8_000)] if not args.only else []
    for row in floor:
        print(json.dumps(row))
    if args.out:
        totals = {
            key: sum(int(str(row.get(key, 0))) for row in table.values())
            for key in ("cried_wolf", "stayed_silent", "history_right")
        }
        totals["logs"] = SEEDS * len(table)
        totals["histories_asked"] = SEEDS * sum("history_right" in row for row in table.values())
        meta = {"verdicts": [GOOD, ADVICE, LOOK_HERE, UNSAID], "seconds": round(time.perf_counter() - start, 1)}
        result = {"totals": totals, "cases": table, "floor": floor, **meta, **describe("fittedq", "numpy")}
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(totals))


if __name__ == "__main__":
    main()
