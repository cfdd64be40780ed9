"""Process control from logged data: cart-pole regulation, and a tank's level at varying set points.

    .venv/bin/python benchmarks/process_control.py --plant cart_pole    # the baselines
    .venv/bin/python benchmarks/process_control.py --plant cart_pole --method "nfqca, 100 iterations"
    .venv/bin/python benchmarks/process_control.py                      # the table of all that ran, as Markdown

Results are merged into `results/process_control.json`. A log is recorded with random actions, and the fit learns from
nothing else. Two of its controllers are judged from 20 starts: the last, and the best in trials on the plant along the
way. Such trials take more of the plant's time than the log does: 20 episodes every
other iteration, up to 200 000 samples where the log has 20 000.
A run is settled from the first moment after which every regulated output stays in its tolerance band to the end; the
steady-state error is the mean |e| over the last fifth, overshoot the farthest the output went beyond the set point.
The baselines are `fittedq.baselines`. They know the plant and were tuned in simulation, over a grid, on 20 starts of
their own: LQR about upright for the cart-pole; for the tanks a PI controller with anti-windup, which sees h₂ alone, and
LQR with the exact holding voltage. NFQCA runs with its defaults but for what the label says.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fittedq
from fittedq.acting.episodes import Memoryless
from fittedq.baselines import LQR, PID, AbstractController, LinearModel, Tracked
from fittedq.diagnose.control import settling_time, steady_error
from fittedq.envs.native import AbstractJaxEnv, auto_reset
from fittedq.envs.process import CartPole, TwoTanks
from fittedq.types import Transition
from machine import describe

RESULT = Path("benchmarks/results/process_control.json")
STARTS, SEEDS, ROWS, EPISODES = 20, 3, 20_000, 50
Controller = AbstractController[Any]


@dataclass(frozen=True)
class Task:
    """A plant, how its log is recorded and how its controllers are judged."""

    env: AbstractJaxEnv
    dt: float
    renewal: float
    """Probability with which a recorded action changes at a sample; it is held otherwise."""
    samples: int
    """Length of a judged run."""
    error: Callable[[np.ndarray], np.ndarray]
    """obs [..., s] → e [..., outputs], the first of them the one whose error is reported."""
    band: tuple[float, ...]
    units: str
    starts: Callable[[np.random.Generator, int], np.ndarray]
    methods: dict[str, tuple[str, dict[str, Any]]]


def cart_starts(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.uniform(-1, 1, (count, 4)) * [1.5, 0.5, 0.2, 0.5]


def tank_starts(rng: np.random.Generator, count: int) -> np.ndarray:
    """At rest at one set point, asked for another."""
    low, high = TwoTanks().set_points
    before, after = rng.uniform(low, high, (2, count))
    return np.stack([before, before, after], axis=1)


TASKS = {
    "cart_pole": Task(
        env=CartPole(),
        dt=CartPole().dt,
        renewal=1.0,
        samples=200,
        error=lambda obs: obs[..., [0, 2]],
        band=(0.05, 0.05),
        units="m",
        starts=cart_starts,
        # n iterations look n samples ahead: the default 40 are 2 s, about as long as the regulation takes.
        methods={
            "nfqca, 40 iterations": ("nfqca", {}),
            "nfqca, 100 iterations": ("nfqca", {"steps": 100}),
            "nfqca, 100 iterations, one critic": ("nfqca", {"steps": 100, "n_critics": 1}),
            "nfqca, chosen": ("nfqca", {"steps": 60, "scale_rewards": True, "keep": "chosen"}),
            "nfqca, average": ("nfqca", {"steps": 60, "scale_rewards": True, "keep": "average"}),
        },
    ),
    "two_tanks": Task(
        env=TwoTanks(),
        dt=TwoTanks().dt,
        renewal=0.2,
        samples=100,
        error=lambda obs: obs[..., 1:2] - obs[..., 2:3],
        band=(0.3,),
        units="cm",
        starts=tank_starts,
        methods={
            "nfqca, 40 iterations": ("nfqca", {}),
            "nfqca, chosen": ("nfqca", {"steps": 40, "scale_rewards": True, "keep": "chosen"}),
            "nfqca, average": ("nfqca", {"steps": 40, "scale_rewards": True, "keep": "average"}),
        },
    ),
}


# ---------------------------------------------------------------------- the log


def record(task: Task, seed: int) -> fittedq.Dataset:
    """ROWS transitions of EPISODES plants side by side, under uniform actions that are held for a while."""
    env, steps = task.env, ROWS // EPISODES
    low, high = (jnp.asarray(bound) for bound in (env.action_set.low, env.action_set.high))

    def draw(key: Any) -> Any:
        return jax.random.uniform(key, (EPISODES, env.action_set.size), minval=low, maxval=high)

    @jax.jit
    def run(key: Any) -> Transition:
        def step(carry: Any, key: Any) -> Any:
            state, obs, action = carry
            renew_key, draw_key, step_key = jax.random.split(key, 3)
            renewed = jax.random.uniform(renew_key, (EPISODES, 1)) < task.renewal
            action = jnp.where(renewed, draw(draw_key), action)
            after = jax.vmap(auto_reset(env))(state, action, jax.random.split(step_key, EPISODES))
            state, next_obs, reset_obs, reward, terminated, truncated = after
            row = Transition(obs, action, reward, next_obs, terminated, truncated)
            return (state, reset_obs, action), row

        reset_key, draw_key, step_key = jax.random.split(key, 3)
        state, obs = jax.vmap(env.reset)(jax.random.split(reset_key, EPISODES))
        return jax.lax.scan(step, (state, obs, draw(draw_key)), jax.random.split(step_key, steps))[1]

    # Rows of one plant follow one another, and its last episode is cut where the recording ends.
    rows = Transition(*(np.array(column).swapaxes(0, 1) for column in run(jax.random.PRNGKey(1000 + seed))))
    rows.truncated[:, -1] |= ~rows.terminated[:, -1]
    columns = {name: column.reshape(ROWS, *column.shape[2:]) for name, column in zip(rows._fields, rows, strict=True)}
    return fittedq.Dataset.from_arrays(**columns, action_low=env.action_set.low, action_high=env.action_set.high)


# ---------------------------------------------------------------------- judging


@jax.jit
def advance(env: AbstractJaxEnv, inner: Any, action: Any) -> Any:
    """One sample of every plant; neither draws anything."""
    return jax.vmap(lambda inner, action: env.transition(inner, action, jax.random.PRNGKey(0)))(inner, action)


def simulate(task: Task, starts: np.ndarray, control: Controller) -> tuple[np.ndarray, np.ndarray]:
    """(obs [b, samples + 1, s], failed [b]); a plant that failed stays where it failed."""
    inner = jnp.asarray(starts, jnp.float32)
    failed, path = np.zeros(len(starts), bool), [np.asarray(inner)]
    memory = control.start(len(starts))
    # Both plants are observed whole: the inner state is the observation.
    for _ in range(task.samples):
        action, memory = control.step(memory, np.asarray(inner))
        after, _, terminated = advance(task.env, inner, jnp.asarray(action, jnp.float32))
        inner = jnp.where(failed[:, None], inner, after)
        failed |= np.asarray(terminated)
        path.append(np.asarray(inner))
    return np.stack(path, axis=1), failed


def judged(task: Task, starts: np.ndarray, control: Controller) -> dict[str, Any]:
    """Each run's settling time, steady-state error and overshoot, and what the table says of them."""
    path, failed = simulate(task, starts, control)
    error = task.error(path)
    # In widths of its band, the output that is farthest off.
    farthest = (np.abs(error) / np.asarray(task.band)).max(axis=-1)
    settling = np.array([settling_time(run, 1.0) for run in farthest])
    settled = (settling < path.shape[1] - task.samples // 5) & ~failed
    tail = np.array([steady_error(run) for run in error[..., 0]])
    # In the output's unit: a run may begin at its set point.
    overshoot = np.maximum(-np.sign(error[:, :1, 0]) * error[..., 0], 0).max(1)
    seconds = settling[settled] * task.dt
    return {
        "runs": len(starts),
        "failed": int(failed.sum()),
        "settled": int(settled.sum()),
        "settling_seconds": {
            "mean": float(seconds.mean()) if len(seconds) else None,
            "median": float(np.median(seconds)) if len(seconds) else None,
            "worst": float(seconds.max()) if len(seconds) else None,
        },
        "steady_error": {"mean": float(tail.mean()), "worst": float(tail.max())},
        "overshoot": {"mean": float(overshoot.mean()), "worst": float(overshoot.max())},
        "each": [
            {
                "start": [round(float(value), 4) for value in start],
                "settling_seconds": float(when * task.dt) if ok else None,
                "steady_error": float(last),
                "overshoot": float(over),
            }
            for start, when, ok, last, over in zip(starts, settling, settled, tail, overshoot, strict=True)
        ],
    }


# ---------------------------------------------------------------------- baselines that know the plant


def tuned(task: Task, grid: Iterable[Any], make: Callable[[Any], Controller]) -> Any:
    """The point of a grid with the most settled runs, then the shortest mean settling time, on 20 other starts."""
    starts = task.starts(np.random.default_rng(99), STARTS)

    def score(point: Any) -> tuple[int, float]:
        found = judged(task, starts, make(point))
        return -found["settled"], found["settling_seconds"]["mean"] or np.inf

    return min(grid, key=score)


def cart_lqr(task: Task) -> tuple[Controller, dict[str, Any]]:
    """a = clip(−K s), K of the cart-pole linearized about upright."""
    model = LinearModel.of_env(task.env, np.zeros(4), np.zeros(1))

    def make(weights: tuple[float, ...]) -> LQR:
        return LQR.of(model, weights, [1.0], action_set=task.env.action_set)

    grid = [(x, v, angle, 0.0) for x in (1.0, 10.0, 100.0, 1000.0) for v in (0.0, 10.0) for angle in (1.0, 100.0)]
    best = tuned(task, grid, make)
    return make(best), {"weights": best, "gain": make(best).gain[0].tolist()}


def tank_lqr(task: Task) -> tuple[Controller, dict[str, Any]]:
    """u = clip(u_hold(r) − K [h₁ − (a₂/a₁)² r, h₂ − r]), u_hold = a₂ √(2 g r) / k, K linearized at r = 12."""
    env = task.env
    assert isinstance(env, TwoTanks)
    above = (env.outlets[1] / env.outlets[0]) ** 2

    def hold(level: Any) -> Any:
        return env.outlets[1] * np.sqrt(2 * env.gravity * level) / env.pump

    at = np.array([12 * above, 12.0, 12.0])
    model = LinearModel.of_env(env, at, np.array([hold(12.0)]), states=(0, 1))

    def gain(weights: tuple[float, ...]) -> np.ndarray:
        return LQR.of(model, weights, [1.0], action_set=env.action_set).gain

    def make(weights: tuple[float, ...]) -> Controller:
        K = gain(weights)

        def act(obs: np.ndarray) -> np.ndarray:
            away = np.stack([obs[:, 0] - above * obs[:, 2], obs[:, 1] - obs[:, 2]], axis=1)
            return np.clip(hold(obs[:, 2:]) - away @ K.T, 0, 12)

        return Memoryless(act, env.obs_size, env.action_set, "LQR")

    best = tuned(
        task, [(upper, lower) for upper in (0.0, 0.1, 1.0, 10.0, 100.0) for lower in np.geomspace(0.1, 1e3, 9)], make
    )
    return make(best), {"weights": [float(weight) for weight in best], "gain": gain(best)[0].tolist()}


def tank_pi(task: Task) -> tuple[Controller, dict[str, Any]]:
    """The tuned PI controller."""

    def make(gains: tuple[float, float]) -> PID:
        return PID(*gains, tracked=Tracked(1, setpoint=2), low=0.0, high=12.0, dt=task.dt, bias=6.0)

    grid = itertools.product(np.geomspace(0.2, 8, 9).round(3), np.geomspace(0.003, 0.3, 9).round(4))
    best = tuned(task, [(float(p), float(i)) for p, i in grid], make)
    return make(best), {"k_p": best[0], "k_i": best[1]}


BASELINES = {"cart_pole": {"lqr": cart_lqr}, "two_tanks": {"pi": tank_pi, "lqr": tank_lqr}}


# ---------------------------------------------------------------------- the runs


def baselines(name: str) -> list[dict[str, Any]]:
    task, results = TASKS[name], []
    for label, build in BASELINES[name].items():
        control, found = build(task)
        results.append({"method": label, "settings": found, **judged(task, judged_starts(task), control)})
        show(name, results[-1])
    return results


def learned(name: str, label: str, seeds: int) -> list[dict[str, Any]]:
    """Each seed's last controller, and the one of the highest mean return in 20 trial episodes every 2 iterations."""
    task, results = TASKS[name], []
    algorithm, settings = task.methods[label]
    for seed in range(seeds):
        data = record(task, seed)
        with tempfile.TemporaryDirectory() as folder:
            trials = {"eval_env": task.env, "eval_every": 2, "eval_episodes": 20, "out": Path(folder) / "run"}
            begin = time.perf_counter()
            last = fittedq.fit(algorithm, data, seed=seed, **trials, **settings)
            seconds = round(time.perf_counter() - begin, 1)
            chosen = {"last": last, "best in trials": fittedq.load(trials["out"])}
        for which, agent in chosen.items():
            about = {"method": label, "controller": which, "settings": settings, "seed": seed, "rows": len(data)}
            figures = judged(task, judged_starts(task), agent.controller())
            results.append(about | {"train_seconds": seconds} | figures)
            show(name, results[-1])
    return results


def one_seed(name: str, label: str, seed: int) -> list[dict[str, Any]]:
    """The controller that a user ships: the last agent of a fit that knows no plant."""
    task = TASKS[name]
    (algorithm, settings), data = task.methods[label], record(task, seed)
    begin = time.perf_counter()
    agent = fittedq.fit(algorithm, data, seed=seed, **settings)
    seconds = round(time.perf_counter() - begin, 1)
    about = {"method": label, "controller": "last", "settings": settings, "seed": seed, "rows": len(data)}
    result = about | {"train_seconds": seconds} | judged(task, judged_starts(task), agent.controller())
    show(name, result)
    return [result]


def judged_starts(task: Task) -> np.ndarray:
    """The same for every controller, and none that a baseline was tuned on."""
    return task.starts(np.random.default_rng(7), STARTS)


HEAD = ["method", "settled", "settling, mean / worst", "steady error, mean / worst", "overshoot, mean / worst"]


def row(name: str, result: dict[str, Any]) -> list[str]:
    settling, units = result["settling_seconds"], TASKS[name].units

    def pair(one: dict[str, float]) -> str:
        return f"{one['mean']:.3f} / {one['worst']:.3f} {units}"

    return [
        ", ".join([result["method"], *([f"seed {result['seed']}", result["controller"]] if "seed" in result else [])]),
        f"{result['settled']} of {result['runs']}",
        f"{settling['mean']:.1f} / {settling['worst']:.1f} s" if settling["mean"] is not None else "–",
        pair(result["steady_error"]),
        pair(result["overshoot"]),
    ]


def show(name: str, result: dict[str, Any]) -> None:
    print(" | ".join(row(name, result)), result.get("train_seconds", ""), result["settings"], flush=True)


def table(plants: dict[str, Any]) -> str:
    lines = []
    for name, plant in plants.items():
        band = " and ".join(f"±{width:g}" for width in plant["band"])
        lines += [f"**{name}**, band {band}, {plant['run_seconds']:g} s a run", ""]
        results = [result for part in plant["parts"].values() for result in part["results"]]
        cells = [HEAD, ["---"] * len(HEAD), *(row(name, result) for result in results)]
        lines += ["| " + " | ".join(line) + " |" for line in cells] + [""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plant", choices=TASKS)
    parser.add_argument("--method", help="the baselines, or one method of the plant by its label", default="baselines")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--seed", type=int, help="this seed alone, without trials on the plant; a finished one is kept")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.seed is not None and args.out.exists():
        print(f"{args.out} is there already: kept")
        return
    plants = json.loads(args.out.read_text()) if args.out.exists() else {}
    if args.plant is None:
        print(table(plants))
        return
    task = TASKS[args.plant]
    if args.method != "baselines" and args.method not in task.methods:
        parser.error(f"--method {args.method!r}: expected 'baselines' or one of {list(task.methods)}")
    about = {"band": task.band, "units": task.units, "sample_seconds": task.dt, "run_seconds": task.samples * task.dt}
    parts = plants.get(args.plant, {}).get("parts", {})
    if args.method == "baselines":
        results = baselines(args.plant)
    elif args.seed is None:
        results = learned(args.plant, args.method, args.seeds)
    else:
        results = one_seed(args.plant, args.method, args.seed)
    parts[args.method] = {**describe("fittedq", "jax", "numpy"), "results": results}
    plants[args.plant] = about | {"parts": parts}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(plants, indent=1) + "\n")


if __name__ == "__main__":
    main()
