"""The Python interface: train, fit, stream, resume, load."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from fittedq.acting.familiar import MOST_WINDOW, Familiarity
from fittedq.actions.base import AbstractActionSet
from fittedq.actions.limits import Limits
from fittedq.agent import Agent
from fittedq.algorithms import Asked
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.saved import Code
from fittedq.code import check_needed, told
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.envs.plant import AnyEnv
from fittedq.errors import UserError
from fittedq.files import place
from fittedq.runs.progress import console, shown
from fittedq.runs.resume import reopened
from fittedq.runs.run import Run
from fittedq.runs.saved import find_agent
from fittedq.runs.schedule import USUAL_STEPS, Schedule
from fittedq.runs.stop import Reports, Rule
from fittedq.runs.trackers import TrackerKinds, named_trackers, tracked
from fittedq.settings import whole


def train(
    algorithm: str | AbstractAlgorithm | type[AbstractAlgorithm],
    env: AnyEnv,
    *,
    steps: int,
    seed: int = 0,
    out: str | Path | None = None,
    eval_env: AnyEnv | None = None,
    eval_every: int = 0,
    eval_episodes: int = 5,
    gap_every: int = 0,
    checkpoint_every: int | None = None,
    progress: bool = False,
    data: Dataset | str | Path | None = None,
    action_set: AbstractActionSet | Limits | None = None,
    stop_when: str | Rule | None = None,
    start: Agent | str | Path | None = None,
    preset: str | None = None,
    plant: Description | str | Path | None = None,
    track: str | None = None,
    **settings: object,
) -> Agent:
    """Train `algorithm` on `env` for `steps` environment steps and return the last agent.

    `algorithm` is a name (`fittedq list`, or "file.py:Name" and "module:Name" for one of your own), a class, or one
    with its settings, such as `TD3(gamma=0.9)` or a method `Composed` from slots; settings given beside it override its
    own.

    `env` is a Gymnasium id, an environment, a vector environment, a callable that makes one, or a JAX environment (also
    by id, `jax/…`, or of the gymnax interface, `gymnax/module:Class`).
    `out` names a run folder (checkpoints, metrics, best and last agent); `eval_every` evaluates on
    separate seeds along the way, `gap_every` looks at the amortization gap, `checkpoint_every` says when the run is
    saved (by default every 10 000 steps; 0: only at the end); `progress` shows a progress bar; the replay starts with
    `data` (a `Dataset` or its folder), if given. `action_set` narrows the environment's box: a `Polytope`, a
    `StateBox`, a `Mixed` set, or `Limits(("|a| <= 1.5",))` in words. `stop_when` ends the run
    early, and saves it: a condition on its figures in words ("eval_mean > -150"), or a function of the report. It is
    looked at after each report (every 1 000 steps, or each iteration of a fitted method, and at evaluations and
    checkpoints); what is true only between two reports is not seen. Training starts with the networks of `start`,
    an agent or its folder. `preset` names settings with which the algorithm was published (`fittedq list` shows them
    with their sources). `plant` is a description of the plant (`Description`, or its file): its columns, limits and
    what a controller sees of them; with `data`, it must not contradict what they were imported with. `track` tells the
    figures of the run to trackers too, "tensorboard", "wandb" or both ("tensorboard,wandb"), in `out`. Further settings
    are the algorithm's, the training loop's and those of set-point control
    (`history`, `error`, `rate_limit` and others; `fittedq list ALGORITHM` shows them all), and override the preset's;
    an unknown one raises `UserError` and names the nearest.
    """
    kinds = _trackers(track, out)
    looks = {"eval_every": eval_every, "eval_episodes": eval_episodes, "gap_every": gap_every}
    schedule = Schedule(steps=steps, **looks, **_given(checkpoint_every=checkpoint_every))
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
        start=_agent(start, algorithm),
        preset=preset,
        described=_description(plant),
    )
    return _to_the_end(run, stop_when, progress, kinds)


def fit(
    algorithm: str | AbstractAlgorithm | type[AbstractAlgorithm],
    dataset: Dataset | str | Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    eval_env: AnyEnv | None = None,
    eval_every: int | None = None,
    eval_episodes: int = 5,
    gap_every: int = 0,
    checkpoint_every: int | None = None,
    progress: bool = False,
    action_set: AbstractActionSet | Limits | None = None,
    stop_when: str | Rule | None = None,
    start: Agent | str | Path | None = None,
    preset: str | None = None,
    plant: Description | str | Path | None = None,
    track: str | None = None,
    **settings: object,
) -> Agent:
    """Learn from logged transitions alone (a `Dataset` or its folder) and return the last agent.

    `steps` are iterations of a fitted method, or updates of the others (by default 50 000). n iterations plan n samples
    ahead, so that by default they are 5/(1 − γ), at least 40 and at most 500. With
    `eval_env` the agent is evaluated there every `eval_every` steps; nothing is learned from that. `action_set` narrows
    the dataset's box for the controller, as in `train`; the rows stay. `algorithm`, `stop_when`, `start`, `preset` and
    `track` are `train`'s, and so is `plant`; what a preset says of collecting is left out.
    `features=` (an `AbstractFeatures` of your own) makes q linear in them. Further settings are the algorithm's and
    `FitSettings`'.
    """
    kinds = _trackers(track, out)
    every = _given(eval_every=eval_every, checkpoint_every=checkpoint_every)
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
        start=_agent(start, algorithm),
        preset=preset,
        described=_description(plant),
    )
    return _to_the_end(run, stop_when, progress, kinds)


def stream(
    algorithm: str | AbstractAlgorithm | type[AbstractAlgorithm],
    env: AnyEnv | None = None,
    *,
    steps: int | None = None,
    data: Dataset | str | Path | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    eval_env: AnyEnv | None = None,
    progress: bool = False,
    action_set: AbstractActionSet | Limits | None = None,
    stop_when: str | Rule | None = None,
    start: Agent | str | Path | None = None,
    report_every: int | None = None,
    eval_every: int | None = None,
    eval_episodes: int = 5,
    gap_every: int = 0,
    checkpoint_every: int | None = None,
    preset: str | None = None,
    plant: Description | str | Path | None = None,
    track: str | None = None,
    **settings: object,
) -> Reports:
    """`train`, or without `env` `fit`, as a generator of reports: `for report in fittedq.stream(...)`.

    Between two reports training rests, so log, draw, evaluate or act with `report.agent` as you like. `break` stops
    the run and saves it as Ctrl-C does (it is the generator's end that saves: close one that is kept). `report_every`
    is how many steps lie between reports, at most. Without `steps` they are 100,000 in an environment, and `fit`'s from
    data.
    """
    kinds = _trackers(track, out)
    every = _given(report_every=report_every, eval_every=eval_every, checkpoint_every=checkpoint_every)
    looks = {"eval_episodes": eval_episodes, "gap_every": gap_every}
    if env is None:
        schedule = Schedule.offline(algorithm, steps, **looks, **every)
    else:
        schedule = Schedule(steps=USUAL_STEPS if steps is None else steps, **looks, **{"eval_every": 0, **every})
    run = Run(
        algorithm,
        env,
        schedule,
        data=None if data is None else Dataset.of(data, "data"),
        seed=seed,
        settings=settings,
        folder=None if out is None else place(out, "out"),
        eval_env=eval_env,
        action_set=action_set,
        start=_agent(start, algorithm),
        preset=preset,
        described=_description(plant),
    )
    return _told(run, stop_when, progress, kinds, depth=2)


def resume(
    folder: str | Path,
    *,
    steps: int | None = None,
    set: Mapping[str, Any] | None = None,
    env: AnyEnv | None = None,
    code: Code = None,
    trust_code: Sequence[str] = (),
    stop_when: str | Rule | None = None,
    track: str | None = None,
    **settings: object,
) -> Agent:
    """Continue the run of a folder from its last whole checkpoint, to `steps` in all, and return the last agent.

    Without more it is bit for bit the run that nobody stopped. `set` gives other values from here on: settings, such
    as {"critic_learning_rate": 1e-4}, and what is looked at (eval_every, eval_episodes, gap_every, checkpoint_every).
    The run's history tells it. What the networks were made with, γ and the data stay.

    `env` is needed where `train` was given an environment rather than an id. No file holds code; what the run has of it
    is given again as `code`: the algorithm, where it is not in the registry, or a dictionary by name, such as
    {"features": φ}, {"model": f}, or {"action_set": s} where its bounds are functions of the state. A module, file or
    wrapper that only the run's settings name, for its environment or its method, is imported where `trust_code` names
    it too. `stop_when` is `train`'s: a rule belongs to a call, not to the run; one in words that holds already ends it
    at once. So does `track`. A setting beside these is refused: it stands in `set`.
    """
    for name, value in settings.items():
        raise UserError(f"found it beside the others, expected set={{{name!r}: {value!r}}}.", argument=name)
    kinds = _trackers(track, folder)
    run = reopened(place(folder, "folder"), steps=steps, changes=set, env=env, code=code, trust_code=trust_code)
    return _to_the_end(run, stop_when, False, kinds)


def load(path: str | Path, code: Code = None, trust_code: Sequence[str] = ()) -> Agent:
    """The agent saved at `path` by `Agent.save`, or the best one of a run folder.

    `code` is what no file holds, and `trust_code` names what only a file names, as in `resume`; a model is not needed
    to act.
    """
    agent = find_agent(place(path, "path"), code, trust_code)
    check_needed(trust_code, agent.method, agent.env)
    return agent


def familiarity(agent: Agent, dataset: Dataset | str | Path, *, window: int = 0) -> Familiarity:
    """How familiar a state is by the rows of a dataset: for `agent.familiarity`, of an agent that has none, or that is
    to be judged by other data than it learned from.

    With a `window` of 2 or more the last so many samples are judged together: errors that are small at each of them,
    and always on one side, are summed up.

    UserError: a dataset of another plant, of fewer than 100 rows, or without so many that follow one another.
    """
    samples = whole(window, "window", high=MOST_WINDOW)
    return agent.known_by(Dataset.of(dataset, "dataset"), 0 if samples == 1 else samples)


def _given(**numbers: int | None) -> dict[str, int]:
    """Those that are not left to their defaults."""
    return {name: number for name, number in numbers.items() if number is not None}


def _description(plant: object) -> Description | None:
    """The plant's description, or that in a file."""
    if plant is None or isinstance(plant, Description):
        return plant
    if not isinstance(plant, str | Path):
        raise UserError(
            f"found {told(plant)}, expected a Description, or its file such as plant.toml.", argument="plant"
        )
    return Description.read(place(plant, "plant"))


def _agent(start: object, algorithm: Asked) -> Agent | None:
    """What a run starts from; the method that is to be trained is the code of its agent, where it is the same."""
    if start is None or isinstance(start, Agent):
        return start
    if not isinstance(start, str | Path):
        raise UserError(f"found {told(start)}, expected an agent, or the folder of one or of a run.", argument="start")
    return find_agent(place(start, "start"), like=algorithm)


def _trackers(track: object, out: object) -> TrackerKinds:
    """The trackers that are named; they write into the run's folder, so that there has to be one."""
    if track is None:
        return []
    if not isinstance(track, str):
        raise UserError(f"found {told(track)}, expected names such as 'tensorboard,wandb'.", argument="track")
    if out is None:
        raise UserError(f"found {track!r}, and no folder of the run; give out= too.", argument="track")
    return named_trackers(track)


def _told(run: Run, stop_when: str | Rule | None, progress: bool, kinds: TrackerKinds, depth: int) -> Reports:
    """The reports of a run, told to its trackers, and shown where `progress` is wanted; its warnings are told `depth`
    frames up."""
    reports = run.reports(stop_when)
    if kinds:
        reports = tracked(reports, run, kinds)
    reports = shown(reports, run, console()) if progress else reports
    with closing(reports):
        for sentence in run.warn():
            warnings.warn(sentence, RuntimeWarning, stacklevel=depth)
        for report in reports:
            for sentence in report.warnings:
                warnings.warn(sentence, RuntimeWarning, stacklevel=depth)
            yield report
        for sentence in run.warn():
            warnings.warn(sentence, RuntimeWarning, stacklevel=depth)


def _to_the_end(run: Run, stop_when: str | Rule | None, progress: bool, kinds: TrackerKinds) -> Agent:
    for _ in _told(run, stop_when, progress, kinds, depth=4):
        pass
    return run.agent()
