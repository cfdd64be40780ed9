"""A run that goes on from its folder, at its last whole checkpoint, with the settings it had or with others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fittedq import algorithms
from fittedq.actions.base import AbstractActionSet
from fittedq.actions.saved import action_set_of
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.named import NamedMethod
from fittedq.algorithms.saved import Code, code_names, restored
from fittedq.code import by_name, check_needed, refuse_unknown, told
from fittedq.control.augmentation import Augmentation
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.envs.plant import AnyEnv
from fittedq.envs.registry import NamedEnv, name_of
from fittedq.errors import UserError
from fittedq.files import versions
from fittedq.runs.changes import check_code_kept, check_same_networks, replaceable, split_changes
from fittedq.runs.folder import RunFolder
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.settings import as_dict, from_json, is_code, setting_fields
from fittedq.template.rates import Linear
from fittedq.trainers.settings import FitSettings, GrowSettings, TrainSettings


def reopened(
    folder: Path,
    *,
    steps: int | None = None,
    changes: Mapping[str, Any] | None = None,
    env: AnyEnv | None = None,
    code: Code = None,
    trust_code: Sequence[str] = (),
) -> Run:
    """The run of a folder, at its last whole checkpoint.

    `steps` extends it; `changes` are other settings, and other values of the schedule, from here on. `env` stands in
    for an environment that has no id, `code` for what no file holds: the algorithm, or a dictionary by name. Modules,
    files and wrappers that only the run's settings name are imported where `trust_code` names them too.
    """
    changes = _checked(changes, steps)
    opened = RunFolder(folder)
    config = opened.open()
    with ExitStack() as undone:
        undone.callback(opened.close)
        saved, saved_eval = (NamedEnv.of(config.get(name), f"run folder {folder}") for name in ("env", "eval_env"))
        named = saved if env is None else name_of(env)
        method = NamedMethod.of(config.get("method"), f"run folder {folder}")
        check_needed(trust_code, named or saved, saved_eval, method)
        env = env if named is None else named.trusted(trust_code)
        path = config.get("data")
        data = None if path is None else Dataset.open(path)
        if env is None and data is None and config.get("env") is None and "random_steps" not in config["settings"]:
            raise UserError(
                f"run folder {folder}: it learns from data that were given in Python, which no file holds; save them "
                "(Dataset.save) and train from their folder, for a run that can be continued."
            )
        if env is None and data is None:
            raise UserError(
                f"run folder {folder}: its environment was made in Python, not from an id; continue it there with "
                "fittedq.resume(folder, env=...)."
            )
        looks, settings = split_changes(changes, config)
        names = [field.name for field in dataclasses.fields(Schedule)]
        schedule = Schedule(**{name: config[name] for name in names if name in config} | looks)
        if steps is not None:
            schedule = dataclasses.replace(schedule, steps=steps)
        said = config.get("plant")
        described = None if said is None else Description.of(said, f"run folder {folder}: plant")
        algorithm, loop_settings = _saved_algorithm(config, settings, by_name(code), f"run folder {folder}", trust_code)
        run = Run(
            algorithm,
            env,
            schedule,
            data=data,
            eval_env=None if saved_eval is None else saved_eval.trusted(trust_code),
            action_set=_saved_set(config, by_name(code).get("action_set")),
            seed=config["seed"],
            settings=loop_settings,
            described=described,
        )
        undone.callback(run.trainer.close)
        run.folder, run.method = opened, method
        different = _differences(run, config, {**looks, **settings})
        run.restore()
        run.changes = _changes(run, config, different)
        undone.pop_all()
        return run


def _checked(changes: object, steps: int | None) -> Mapping[str, Any]:
    """What is to change by name; a UserError where it is something else, or tells the steps a second time."""
    given = {} if changes is None else changes
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise UserError(f"found {told(given)}, expected values by name, such as {{'tau': 0.01}}.", argument="set")
    if steps is not None and "steps" in given:
        raise UserError(f"found steps = {given['steps']!r} beside steps = {steps}; give one of them.", argument="set")
    return given


def _differences(run: Run, config: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What of settings and schedule is otherwise than a run's configuration has it; a UserError where it cannot be."""
    now = run.config()
    before = {name: value for name, value in config["settings"].items() if now["settings"].get(name, value) != value}
    own = {field.name for field in setting_fields(type(run.algorithm))}
    # Code that may be replaced is no part of the networks.
    saved = {name: value for name, value in before.items() if name in own and not is_code(value)}
    then = from_json(type(run.algorithm), saved, {}, "the run")
    check_same_networks(run.algorithm, then, run.trainer.obs_size, run.trainer.action_set)
    if asked.get("eval_every") and not now["eval_every"]:
        raise UserError("found no environment to evaluate in; the run has none.", argument="eval_every")
    looks = {name: now[name] for name in asked if name in now and name != "steps" and now[name] != config.get(name)}
    code = {name: value for name, value in now["settings"].items() if name in asked and is_code(value)}
    return {name: now["settings"][name] for name in before} | code | looks


def _changes(run: Run, config: Mapping[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """What the next line of the run's history holds: `changes`, more steps and other versions."""
    step, steps = run.trainer.step, run.schedule.steps
    assert run.folder is not None
    if changes and step >= steps:
        raise UserError(
            f"run folder {run.folder.path} has taken {step} of {steps} steps, so the changes would have no effect; "
            "give more steps too.",
            argument="set",
        )
    rates = {name: rate for name, rate in as_dict(run.algorithm).items() if isinstance(rate, Linear)}
    done = run.train_settings.updates(step)
    run.notes += [
        f"{name} goes on at {float(rates[name](np.asarray(done))):.3g}: a schedule counts the updates of the whole "
        f"run, and about {done:,} are done."
        for name in changes
        if name in rates
    ]
    if steps > max(step, config["steps"]):
        changes |= {"steps": steps}
        run.notes += [
            f"{name} stays at {rate.last:g} from update {rate.updates:,} on, where its schedule ends; another is set "
            f"by {name}=linear:FIRST:LAST, which counts from the run's first update."
            for name, rate in rates.items()
            if rate.updates is not None and rate.updates < run.updates
        ]
    if versions() != config.get("versions"):
        changes |= {"versions": versions()}
        run.notes.append(
            "The installed versions of its libraries are not those that the run had: its figures may differ."
        )
    return changes


def _saved_algorithm(
    config: Mapping[str, Any],
    changes: Mapping[str, Any],
    code: Mapping[str, Any],
    where: str,
    trust_code: Sequence[str],
) -> tuple[AbstractAlgorithm, dict[str, Any]]:
    """(the run's algorithm, the settings that are the training loop's), both with `changes`."""
    loops = {
        field.name for cls in (TrainSettings, FitSettings, GrowSettings, Augmentation) for field in setting_fields(cls)
    }
    saved: dict[str, Any] = config["settings"]
    own = {name: value for name, value in saved.items() if name not in loops}
    algorithm = restored(
        {**config, "settings": own},
        code,
        where,
        trust_code=trust_code,
        idle=lambda cls: replaceable(cls) & changes.keys(),
    )
    refuse_unknown(code, code_names(algorithm))
    check_code_kept(algorithm, saved, changes)
    algorithm = algorithms.made(algorithm, {name: value for name, value in changes.items() if name not in loops})
    loop = {name: value for name, value in saved.items() if name in loops}
    # What there was not when the run began is off, whatever its method begins with now.
    began = setting_fields(TrainSettings) if "updates_per_step" in saved else ()
    off = {field.name: field.default for field in began if field.name in algorithm.training.keys() - saved.keys()}
    off |= {"set_point_copies": 0} if "tolerance" in saved else {}
    return algorithm, off | from_json(TrainSettings, loop, {}, where) | {
        name: value for name, value in changes.items() if name in loops
    }


def _saved_set(config: Mapping[str, Any], given: AbstractActionSet | None) -> AbstractActionSet | None:
    """The run's action set; a box is the environment's own, and comes from there."""
    saved = config.get("action_set")
    return None if saved is None or saved.get("kind") == "box" else action_set_of(saved, given)
