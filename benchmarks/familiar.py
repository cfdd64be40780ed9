"""Is what is like the data familiar, and what is off the data not?

    .venv/bin/python benchmarks/familiar.py --cases ../shared/cases --logs ../shared/logs --out OUT.json

A log of each plant, then other logs of it. `held_out` are episodes of the same kind that were not seen (of a log with
one episode: its last fifth, and another log of the plant as `new`): at least 95 % of them should be above .05. Off the
data are another regime (states of another range), a stuck sensor (each coordinate in turn, counted where the true value
is a quarter of a deviation away) and actions set back (recorded some samples late, counted where they differ by half a
deviation): 80 % should be below. Another plant (other parameters) is told beside them. Nothing is looked at but one
sample and its past. `history` is what the agent sees. The method was chosen on the first four plants; the incubator was
looked at last.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from fittedq.acting.familiar import Familiarity
from fittedq.actions.base import Box
from fittedq.control.augmentation import Augmentation
from fittedq.control.state import AugmentedState
from fittedq.data.dataset import Dataset
from machine import describe

LEVEL, HELD, OFF = 0.05, 0.95, 0.80


class Episode(NamedTuple):
    """obs [T + 1, s] and the actions [T, m] between them."""

    obs: np.ndarray
    action: np.ndarray


Log = list[Episode]


class Case(NamedTuple):
    """A plant: its log, other rows like it, and logs that are off it; `wait` is how long a fault lasts in samples."""

    name: str
    log: Log
    held_out: Log
    others: dict[str, Log]
    wait: int
    back: int
    history: tuple[int, ...]
    new: Log | None = None


def rows_of(log: Log, state: AugmentedState | None) -> Any:
    """The log's transitions as an agent sees them."""
    columns = {
        "obs": np.concatenate([one.obs[:-1] for one in log]),
        "action": np.concatenate([one.action for one in log]),
        "next_obs": np.concatenate([one.obs[1:] for one in log]),
    }
    ends = np.concatenate([np.arange(len(one.action)) == len(one.action) - 1 for one in log])
    low, high = columns["action"].min(axis=0) - 1e-3, columns["action"].max(axis=0) + 1e-3
    flags: dict[str, Any] = {"reward": np.zeros(len(ends)), "terminated": np.zeros(len(ends), bool), "truncated": ends}
    data = Dataset.from_arrays(**columns, **flags, action_low=low, action_high=high)
    return data.augmented(state).transitions(slice(None))


def shares(known: Familiarity, rows: Any, counted: np.ndarray, starts: np.ndarray) -> float:
    """The share of the counted rows' ends below LEVEL; of those that end a whole window, where one is judged."""
    obs, action, after = (np.asarray(part) for part in (rows.obs, rows.action, rows.next_obs))
    seen = known.seen(after, known.past(after, np.concatenate([obs, action], axis=1)))
    if known.recent is None:
        return float((seen.familiar < LEVEL)[counted].mean())
    place = np.arange(len(starts))
    whole = place - np.maximum.accumulate(np.where(starts, place, 0)) >= known.recent.samples - 1
    return float((known.recent.along(seen, ~starts) < LEVEL)[counted & whole].mean())


def stuck(log: Log, place: int, wait: int, deviation: float) -> tuple[Log, np.ndarray]:
    """One sensor stands still for `wait` samples, again and again; where the newest reading is wrong by a quarter of a
    deviation."""
    changed, counted = [], []
    for episode in log:
        obs = episode.obs.copy()
        for start in range(wait, len(obs) - 1, 2 * wait):
            obs[start : start + wait, place] = obs[start - 1, place]
        counted.append(np.abs(obs - episode.obs)[1:, place] > 0.25 * deviation)
        changed.append(Episode(obs, episode.action))
    return changed, np.concatenate(counted)


def set_back(log: Log, back: int, deviation: np.ndarray) -> tuple[Log, np.ndarray]:
    """Actions are recorded `back` samples after they were executed; where the newest is wrong by half a deviation."""
    changed, counted = [], []
    for episode in log:
        late = episode.action[np.maximum(np.arange(len(episode.action)) - back, 0)]
        counted.append((np.abs(late - episode.action) / deviation).max(axis=1) > 0.5)
        changed.append(Episode(episode.obs, late))
    return changed, np.concatenate(counted)


def judged(case: Case, history: int, window: int) -> dict[str, Any]:
    """Shares below LEVEL, of what is like the log and of what is not."""
    box = Box(*(part.tolist() for part in _ends(case)))
    size = case.log[0].obs.shape[1]
    state = None if history == 1 else AugmentedState(Augmentation(history=history), size, box)
    known = Familiarity.of(rows_of(case.log, state), state, window)

    def below(log: Log, counted: Any = None) -> float:
        rows = rows_of(log, state)
        whole = np.concatenate([np.arange(len(one.action)) >= history - 1 for one in log])
        starts = np.concatenate([np.arange(len(one.action)) == history - 1 for one in log])
        return shares(known, rows, whole if counted is None else whole & counted, starts)

    obs, action = (np.concatenate([getattr(one, part) for one in case.log]) for part in Episode._fields)
    off = {name: below(log) for name, log in case.others.items()}
    moving = np.flatnonzero(obs.std(axis=0) > 1e-3 * np.abs(obs).max(axis=0))
    for place in moving.tolist():
        changed, counted = stuck(case.held_out, place, case.wait, float(obs[:, place].std()))
        if counted.sum() >= 20:
            off[f"sensor {place} stuck"] = below(changed, counted)
    changed, counted = set_back(case.held_out, case.back, np.maximum(action.std(axis=0), 1e-9))
    if counted.sum() >= 20:
        off["actions set back"] = below(changed, counted)
    found = {"held_out": 1 - below(case.held_out)} | ({} if case.new is None else {"new": 1 - below(case.new)})
    return {"case": case.name, "history": history, "window": window, "rows": len(action), "above": found, "below": off}


def _ends(case: Case) -> tuple[np.ndarray, np.ndarray]:
    actions = np.concatenate([one.action for log in (case.log, case.held_out, *case.others.values()) for one in log])
    return actions.min(axis=0) - 1e-3, actions.max(axis=0) + 1e-3


# ---------------------------------------------------------------------- plants


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a file."""
    with path.open() as file:
        return [row for row in csv.DictReader(file) if row["time" if "time" in row else "t"]]


def split(episode: Episode) -> tuple[Log, Log]:
    """A log of one episode: its first four fifths, and its last."""
    at = 4 * len(episode.action) // 5
    first = Episode(episode.obs[: at + 1], episode.action[:at])
    return [first], [Episode(episode.obs[at:], episode.action[at:])]


def heater(cases: Path, make: Any) -> Case:
    """excited.csv, and the plant of make.py with other parameters."""
    rows = table(cases / "excited.csv")
    whole = Episode(
        np.array([[float(row["temp"])] for row in rows]), np.array([[float(row["u"])] for row in rows])[:-1]
    )

    def made(levels: np.ndarray, seed: int, **changes: float) -> Log:
        plant, obs, action = make.Heater(22.0, seed), [22.0], []
        for name, value in changes.items():
            setattr(plant, name, value)
        for sample in range(800):
            action.append(float(levels[sample // 20]))
            obs.append(plant.step(action[-1]))
        return [Episode(np.array(obs)[:, None], np.array(action)[:, None])]

    levels = np.random.default_rng(3).uniform(0, 255, 60)
    hot = made(np.full(60, 255.0), 5)[0]
    others = {
        "another regime: full power": [Episode(hot.obs[150:], hot.action[150:])],
        "another plant: loses heat": made(levels, 5, loss=0.02),
        "another plant: cold around": made(levels, 5, ambient=-20.0),
        "another plant: half the power": made(levels, 5, gain=0.003),
    }
    log, held_out = split(whole)
    return Case("heater", log, held_out, others, 40, 10, (1, 3), made(np.random.default_rng(9).uniform(0, 255, 60), 11))


def tanks(cases: Path, make: Any) -> Case:
    """two_tanks.csv without its set-point, and the plant of make.py with faults."""
    rows = table(cases / "two_tanks.csv")
    obs, action = (
        np.array([[float(row[name]) for name in names] for row in rows]) for names in (("y1", "y2"), ("u1", "u2"))
    )

    def made(seed: int, fault: Callable[[np.ndarray], np.ndarray] = lambda u: u) -> Log:
        rng, plant, levels, actions = np.random.default_rng(seed), make.Tanks(), [(5.0, 5.0)], []
        for sample in range(1000):
            if sample % 15 == 0:
                u = rng.uniform(0, 1, 2)
            actions.append(u)
            levels.append(plant.step(*fault(u)))
        return [Episode(np.array(levels), np.array(actions))]

    others = {
        "another regime: full pump": made(78, lambda u: np.array([1.0, 0.0])),
        "another plant: no pump": made(78, lambda u: u * [0, 1]),
        "another plant: valve shut": made(78, lambda u: u * [1, 0]),
        "another plant: half the pump": made(78, lambda u: u * [0.5, 1]),
    }
    log, held_out = split(Episode(obs, action[:-1]))
    return Case("two tanks", log, held_out, others, 40, 10, (1, 3), made(77))


def incubator(logs: Path) -> Case:
    """A real box with a heater and a fan: switched at random on one day; on another; under on-off control."""

    def read(name: str) -> Episode:
        rows = table(logs / name)
        obs = np.array([[float(row[key]) for key in ("t1", "t2", "t3")] for row in rows])
        action = np.array([[float(row[key] == "True") for key in ("heater_on", "fan_on")] for row in rows])
        return Episode(obs, action[:-1])

    log, held_out = split(read("incubator_random_1.csv"))
    others = {"another regime: on-off control": [read("incubator_on_off_1.csv")]}
    return Case("incubator", log, held_out, others, 40, 10, (3,), [read("incubator_random_2.csv")])


def stretches_of(log: Log, within: Callable[[np.ndarray], np.ndarray], least: int = 8) -> Log:
    """The pieces of episodes whose states all lie within a region, of so many samples at least."""
    found = []
    for episode in log:
        inside = np.flatnonzero(np.diff(np.r_[False, within(episode.obs), False].astype(int)))
        for start, stop in inside.reshape(-1, 2).tolist():
            if stop - start > least:
                found.append(Episode(episode.obs[start:stop], episode.action[start : stop - 1]))
    return found


def gym(
    env_id: str,
    steps: int,
    regions: tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]],
    tweaks: dict[str, Callable[[Any], None]],
    wait: int,
    back: int,
    held: int,
) -> Case:
    """Uniform actions, each held for some samples, in one region of states; another regime: in the other region."""

    def played(seed: int, count: int, tweak: Callable[[Any], None] = lambda env: None) -> Log:
        env, rng, log = gymnasium.make(env_id), np.random.default_rng(seed), []
        tweak(env.unwrapped)
        low, high = env.action_space.low, env.action_space.high
        while sum(len(one.action) for one in log) < count:
            obs, actions, over = [env.reset(seed=1000 * seed + len(log))[0]], [], False
            while not over:
                if len(actions) % held == 0:
                    action = rng.uniform(low, high)
                actions.append(action)
                after, _, terminated, truncated, _ = env.step(action.astype(np.float32))
                obs.append(after)
                over = terminated or truncated
            log.append(Episode(np.array(obs, float), np.array(actions, float)))
        return log

    inside, outside = regions
    log, new = played(0, steps), played(1, steps)
    others = {"another regime": stretches_of(new, outside)}
    others |= {
        f"another plant: {name}": stretches_of(played(3, steps, tweak), inside) for name, tweak in tweaks.items()
    }
    return Case(env_id, stretches_of(log, inside), stretches_of(new, inside), others, wait, back, (1, 3))


def pendulum() -> Case:
    """Pendulum-v1: hanging within 90° of the ground; another regime: above 17° over the horizon."""
    regions = (lambda obs: obs[:, 0] < 0.0), (lambda obs: obs[:, 0] > 0.3)
    return gym("Pendulum-v1", 10_000, regions, {"half as heavy again": _heavier, "shorter": _shorter}, 10, 5, 5)


def hopper() -> Case:
    """Hopper-v5: leaning less than .06 backwards; another regime: falling backwards, beyond .1."""
    regions = (lambda obs: obs[:, 1] > -0.06), (lambda obs: obs[:, 1] < -0.1)
    return gym("Hopper-v5", 16_000, regions, {"half as heavy again": _masses, "half the gravity": _gravity}, 5, 5, 5)


def _heavier(env: Any) -> None:
    env.m = 1.5


def _shorter(env: Any) -> None:
    env.l = 0.7


def _masses(env: Any) -> None:
    env.model.body_mass[:] *= 1.5


def _gravity(env: Any) -> None:
    env.model.opt.gravity[2] *= 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--window", type=int, default=0, help="samples that are judged together; 0: the newest alone")
    given = parser.parse_args()
    spec = importlib.util.spec_from_file_location("make", given.cases / "make.py")
    assert spec is not None and spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    found = []
    for case in (heater(given.cases, make), pendulum(), tanks(given.cases, make), hopper(), incubator(given.logs)):
        for history in case.history:
            found.append(judged(case, history, given.window))
            one = found[-1]
            figures = {name: round(value, 3) for name, value in (one["above"] | one["below"]).items()}
            print(one["case"], history, figures, flush=True)
    above = [one["above"]["held_out"] for one in found]
    below = [value for one in found for name, value in one["below"].items() if not name.startswith("another plant")]
    summary = {
        "held_out_at_least_95": sum(value >= HELD for value in above),
        "of": len(above),
        "off_at_least_80": sum(value >= OFF for value in below),
        "kinds": len(below),
        "mean_off": float(np.mean(below)),
    }
    told = {**describe("numpy", "gymnasium"), "summary": summary, "cases": found}
    given.out.write_text(json.dumps(told, indent=2) + "\n")
    print(summary)


if __name__ == "__main__":
    main()
