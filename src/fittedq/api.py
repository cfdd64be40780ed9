"""The Python interface: train, fit, resume, load."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fittedq.actions.base import AbstractActionSet
from fittedq.actions.limits import Limits
from fittedq.agent import Agent
from fittedq.approx.linear import AbstractFeatures
from fittedq.data.dataset import Dataset
from fittedq.files import place
from fittedq.runs.progress import shown
from fittedq.runs.run import AnyEnv, Run, find_agent
from fittedq.runs.run import resume as continued
from fittedq.runs.schedule import Schedule


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
    gap_every: int = 0,
    progress: bool = False,
    data: Dataset | str | Path | None = None,
    action_set: AbstractActionSet | Limits | None = None,
    **settings: Any,
) -> Agent:
    """Train `algorithm` on `env` for `steps` environment steps and return the last agent.

    `env` is a Gymnasium id, an environment, a vector environment, a callable that makes one, or a JAX environment (also
    by id, `jax/…`). `out` names a run folder (checkpoints, metrics, best and last agent); `eval_every` evaluates on
    separate seeds along the way, `gap_every` looks at the amortization gap; `progress` shows a progress
    bar; the replay starts with `data` (a `Dataset` or its folder), if given. `action_set` narrows the environment's
    box: a `Polytope`, a `StateBox`, a `Mixed` set, or `Limits(("|a| <= 1.5",))` in words. Further settings are the
    algorithm's and the training loop's (`fittedq list ALGORITHM` shows them); an unknown one raises `UserError` and
    names the nearest.
    """
    schedule = Schedule(steps=steps, eval_every=eval_every, eval_episodes=eval_episodes, gap_every=gap_every)
    folder = None if out is None else place(out, "out")
    run = Run(
        algorithm,
        env,
        schedule,
        seed=seed,
        settings=settings,
        folder=folder,
        eval_env=eval_env,
        data=None if data is None else Dataset.of(data, "data"),
        action_set=action_set,
    )
    run.start()
    return _to_the_end(run, progress)


def fit(
    algorithm: str,
    dataset: Dataset | str | Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    eval_env: AnyEnv | None = None,
    eval_every: int | None = None,
    eval_episodes: int = 5,
    gap_every: int = 0,
    progress: bool = False,
    action_set: AbstractActionSet | Limits | None = None,
    **settings: Any,
) -> Agent:
    """Learn from logged transitions alone (a `Dataset` or its folder) and return the last agent.

    `steps` are iterations of a fitted method (by default 40), or updates of the others (by default 50 000). With
    `eval_env` the agent is evaluated there every `eval_every` steps; nothing is learned from that. `action_set` narrows
    the dataset's box for the controller, as in `train`; the rows stay. `features=`
    (an `AbstractFeatures` of your own) makes q linear in them. Further settings are the algorithm's and `FitSettings`'.
    """
    every = {} if eval_every is None else {"eval_every": eval_every}
    schedule = Schedule.offline(algorithm, steps, eval_episodes=eval_episodes, gap_every=gap_every, **every)
    folder = None if out is None else place(out, "out")
    run = Run(
        algorithm,
        None,
        schedule,
        data=Dataset.of(dataset, "dataset"),
        seed=seed,
        settings=settings,
        folder=folder,
        eval_env=eval_env,
        action_set=action_set,
    )
    run.start()
    return _to_the_end(run, progress)


def resume(
    folder: str | Path,
    *,
    steps: int | None = None,
    env: AnyEnv | None = None,
    action_set: AbstractActionSet | None = None,
    features: AbstractFeatures | None = None,
    model: Any = None,
    trust_code: Sequence[str] = (),
) -> Agent:
    """Continue the run of a folder from its last whole checkpoint, to `steps` in all, and return the last agent.

    `env` is needed where `train` was given an environment rather than an id, `action_set` where its bounds are
    functions of the state, `features` or `model` where the run was given some. A module, file or wrapper that only the
    run's settings name is imported where `trust_code` names it too.
    """
    code = {"features": features, "model": model}
    return _to_the_end(
        continued(place(folder, "folder"), steps=steps, env=env, action_set=action_set, trust_code=trust_code, **code),
        progress=False,
    )


def load(
    path: str | Path, action_set: AbstractActionSet | None = None, features: AbstractFeatures | None = None
) -> Agent:
    """The agent saved at `path` by `Agent.save`, or the best one of a run folder.

    `action_set` is needed where its bounds are functions of the state, `features` where `fit` was given some: no file
    holds code.
    """
    return find_agent(place(path, "path"), action_set, features)


def _to_the_end(run: Run, progress: bool) -> Agent:
    def warn(sentences: Iterable[str]) -> None:
        for sentence in sentences:
            warnings.warn(sentence, RuntimeWarning, stacklevel=4)

    warn(run.warn())
    reports = run.execute()
    for report in shown(reports, run.schedule.steps) if progress else reports:
        warn(report.warnings)
    return run.agent()
