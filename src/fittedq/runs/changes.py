"""Which settings a resumed run may change, which it keeps, and how its history records that."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms import made
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.control.augmentation import Augmentation
from fittedq.errors import UserError, nearest
from fittedq.runs.schedule import Schedule
from fittedq.settings import held, is_code, setting_fields, training_only
from fittedq.trainers.state import to_arrays

ANOTHER = "begin another run; `start` takes the networks of this one along"
"""What to do about a change that a run cannot take."""

KEPT = {
    "algorithm": "it is what runs",
    "fitted": "it is what runs",
    "env": "its running episodes are part of the checkpoint",
    "data": "what was learned so far is from there",
    "seed": "its random numbers go on from the checkpoint",
    "action_set": "the networks act inside it",
    "preset": "it named the settings that the run began with; change them one by one",
    "gamma": "it says what q is: all that was learned would be q of another problem",
    "activation": "the weights were learned under it",
    "optimizer": "its state is part of the checkpoint",
    "normalize_obs": "the networks read observations as they were",
    "n_envs": "their running episodes are part of the checkpoint",
    "randomize": "the parameters of running episodes are part of the checkpoint",
    "vary": "the parameters of running episodes are part of the checkpoint",
    "replay_size": "the replay was laid out with it",
    "replay": "what its rows' errors were is part of the checkpoint, or is not known",
    "keep": "the mean so far is part of the checkpoint, or is not known",
    "priority_exponent": "the priorities in the checkpoint are powers with it",
    **{field.name: "it says what the networks see, do and are paid for" for field in setting_fields(Augmentation)},
}
"""Why these stay. What shapes or starts the networks is found out by making them (`check_same_networks`)."""


def split_changes(given: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(changes of the schedule, changes of the settings), or a UserError for what a run keeps or does not know."""
    looks, settings = {field.name for field in dataclasses.fields(Schedule)}, config["settings"]
    for name, value in given.items():
        if name not in looks and name not in settings and name not in KEPT:
            raise UserError(f"{name!r} is unknown; {nearest(name, [*looks, *settings])}", argument="set")
        if name in KEPT and held(value) != settings.get(name, config.get(name)):
            raise _kept(name, KEPT[name])
    return (
        {name: value for name, value in given.items() if name in looks},
        {name: value for name, value in given.items() if name in settings},
    )


def replaceable(cls: type) -> set[str]:
    """The settings of `cls` whose code a resume may replace: only training needs it, and the checkpoint has no part of
    it."""
    return (training_only(cls) & {field.name for field in setting_fields(cls)}) - KEPT.keys()


def check_code_kept(algorithm: AbstractAlgorithm, saved: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """A UserError where `changes` put anything else in the place of other code than that."""
    for name, value in changes.items():
        code = saved.get(name)
        if is_code(code) and name not in replaceable(type(algorithm)) and held(value) != code:
            raise _kept(name, "it is code, given again as it was")


def _kept(name: str, why: str) -> UserError:
    return UserError(f"a run keeps its {name}: {why}; {ANOTHER}.", argument="set")


def check_same_networks(
    algorithm: AbstractAlgorithm, before: Mapping[str, Any], obs_size: int, action_set: AbstractActionSet
) -> None:
    """A UserError where `algorithm` would begin with other networks than under the settings `before`.

    They are in the checkpoint: such a change would be without effect, or not fit.
    """
    now = _first_networks(algorithm, obs_size, action_set)
    for name, value in before.items():
        then = _first_networks(made(algorithm, {name: value}), obs_size, action_set)
        if now.keys() != then.keys() or not all(np.array_equal(now[leaf], then[leaf]) for leaf in now):
            raise _kept(name, "its networks began with it, and are part of the checkpoint")


def _first_networks(
    algorithm: AbstractAlgorithm, obs_size: int, action_set: AbstractActionSet
) -> dict[str, np.ndarray]:
    key = jax.random.key_data(jax.random.key(0))
    return to_arrays("nets", jax.jit(lambda key: algorithm.networks(obs_size, action_set, key))(key))


# ---------------------------------------------------------------------- the history in a configuration


def with_line(config: Mapping[str, Any], step: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration after `changes` at `step`, and one more line in its history: {"step": …, name: [old, new]}."""
    settings, top = dict(config["settings"]), {}
    line: dict[str, Any] = {"step": step}
    for name, new in changes.items():
        line[name] = [settings[name] if name in settings else config.get(name), new]
        (settings if name in settings else top)[name] = new
    return {**config, **top, "settings": settings, "history": [*config["history"], line]}


def first_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the run began with."""
    settings = dict(config["settings"])
    for line in reversed(config.get("history", [])):
        settings |= {name: line[name][0] for name in line.keys() & settings.keys()}
    return settings


def history_fault(config: Mapping[str, Any]) -> str | None:
    """What is wrong with a configuration's history: each change begins where the one before ended, the last one now."""
    now = {**config, **config["settings"]}
    newest: dict[str, Any] = {}
    for line in config["history"]:
        if not isinstance(line, dict) or type(line.get("step")) is not int:
            return f"a line of its history is {line!r}, expected a step and what changed there"
        for name, pair in line.items():
            if name == "step":
                continue
            if not isinstance(pair, list) or len(pair) != 2:
                return f"its history has {pair!r} for {name} at step {line['step']:,}, expected [before, after]"
            if name in newest and newest[name] != pair[0]:
                return (
                    f"its history has {name} at {newest[name]!r} before step {line['step']:,}, and at {pair[0]!r} there"
                )
            newest[name] = pair[1]
    wrong = next((name for name, value in newest.items() if now.get(name) != value), None)
    return None if wrong is None else f"{wrong} is {now.get(wrong)!r}, its history ends with {newest[wrong]!r}"
