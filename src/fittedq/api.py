"""The Python interface: train, resume, load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fittedq.agent import Agent
from fittedq.progress import shown
from fittedq.run import AnyEnv, Run, Schedule, find_agent
from fittedq.run import resume as continued


def train(
    algorithm: str,
    env: AnyEnv,
    *,
    steps: int,
    seed: int = 0,
    out: str | Path | None = None,
    eval_env: AnyEnv | None = None,
    eval_every: int = 0,
    eval_episodes: int = 5,
    progress: bool = False,
    **settings: Any,
) -> Agent:
    """Train `algorithm` on `env` for `steps` environment steps and return the last agent.

    `env` is a Gymnasium id, an environment, a vector environment, a callable that makes one, or a JAX environment (also
    by id, `jax/…`). `out` names a run folder (checkpoints, metrics, best and last agent); `eval_every` evaluates on
    separate seeds along the way; `progress` shows a progress bar. Further settings are the algorithm's and the
    training loop's (`fittedq list ALGORITHM` shows them); an unknown one raises `UserError` and names the nearest.
    """
    schedule = Schedule(steps=steps, eval_every=eval_every, eval_episodes=eval_episodes)
    folder = None if out is None else Path(out)
    run = Run(algorithm, env, schedule, seed=seed, settings=settings, folder=folder, eval_env=eval_env)
    run.start()
    reports = run.execute()
    if progress:
        reports = shown(reports, steps)
    for _ in reports:
        pass
    return run.agent()


def resume(folder: str | Path, *, steps: int | None = None, env: AnyEnv | None = None) -> Agent:
    """Continue the run of a folder from its last whole checkpoint, to `steps` in all, and return the last agent.

    `env` is needed where `train` was given an environment rather than an id.
    """
    run = continued(Path(folder), steps=steps, env=env)
    for _ in run.execute():
        pass
    return run.agent()


def load(path: str | Path) -> Agent:
    """The agent saved at `path` by `Agent.save`, or the best one of a run folder."""
    return find_agent(Path(path))
