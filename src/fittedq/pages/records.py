"""The sections that a run's records fill: what the controller is, its curve, losses, times, warnings and versions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from fittedq import algorithms
from fittedq.agent import Agent
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.presets import presets
from fittedq.control.augmentation import Augmentation
from fittedq.diagnose.paired import Interval
from fittedq.envs.registry import NamedEnv
from fittedq.errors import UserError, plural
from fittedq.files import MANIFEST, read_json, versions
from fittedq.pages.blocks import AbstractBlock, Curve, Lines, Portions, Said, Table, View
from fittedq.pages.page import Section
from fittedq.pages.subject import Subject
from fittedq.ranges import word
from fittedq.runs.changes import first_settings
from fittedq.runs.folder import Record
from fittedq.runs.groups import Group
from fittedq.runs.report import FIGURES, figures_of
from fittedq.runs.saved import about_agent, agent_folder
from fittedq.settings import from_json, held, is_code, setting_fields
from fittedq.trainers.choose import Settings, settings_of

NO_RUN = "This is an agent without the folder of its run: give that folder, RUN, to see its records."
SPREAD = 100.0
"""Where the largest of positive figures is so many times the smallest, their scale is logarithmic."""
FIRST = ("critic/loss", "policy/loss", "value/loss", "model/loss")


# ---------------------------------------------------------------------- what it is


def controller(subject: Subject) -> Section:
    """Its template row, what it acts on, and the settings that differ from the defaults."""
    agent = subject.agent.value
    blocks: list[AbstractBlock] = []
    method = agent.algorithm if agent is not None else _algorithm(subject.config)
    if method is None:
        blocks.append(Said(f"Its method is code that no file holds. {subject.agent.why}", missing=True))
    else:
        row = method.describe()
        blocks.append(Said(method.title))
        blocks.append(Table(["slot", "what fills it"], [[name, text] for name, text in row.items()]))
    blocks.append(Table([], _facts(subject, agent)))
    blocks += _differing(subject)
    return Section("controller", "What the controller is", blocks)


def _algorithm(config: Mapping[str, Any]) -> AbstractAlgorithm | None:
    """The method of a run that has no agent yet, as far as files say it."""
    try:
        cls = algorithms.find(config["algorithm"], config.get("package"))
        names = {field.name for field in setting_fields(cls)}
        own = {name: value for name, value in config["settings"].items() if name in names and not is_code(value)}
        return cls(**from_json(cls, own, {}, "config.json"))
    except UserError:
        return None


def _facts(subject: Subject, agent: Agent | None) -> list[list[str]]:
    config, rows = subject.config, list[list[str]]()
    about = about_agent(subject.path) if agent is None and not config else {}
    env = config.get("env") or config.get("eval_env") or about.get("env")
    if env is not None:
        learned = "learned in" if config.get("env") else "environment"
        rows.append([learned, str(NamedEnv.of(env, str(subject.path)))])
    elif agent is not None and agent.env is not None:
        rows.append(["environment", str(agent.env)])
    if config.get("data"):
        rows.append(["learned from", config["data"]])
    for name in ("method", "package", "preset"):
        if config.get(name):
            rows.append([name, str(config[name])])
    if agent is not None:
        rows += _of_agent(agent)
    for line in config.get("history", []):
        changes = ", ".join(f"{name}: {was} → {now}" for name, (was, now) in _changes(line))
        rows.append([f"resumed at step {line['step']:,}", changes])
    if "start" in config:
        rows.append(["began with", f"the networks of an agent of {config['start'].get('algorithm')}"])
    return rows


def _changes(line: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, pair) for name, pair in line.items() if name != "step"]


def _of_agent(agent: Agent) -> list[list[str]]:
    low, high = (np.round(end, 4).tolist() for end in (agent.action_set.low, agent.action_set.high))
    rows = [
        ["sees", plural(agent.obs_size, "number", "numbers")],
        ["acts within", f"{low} to {high} ({agent.action_set.describe()['kind']})"],
        ["reads", "normalized observations" if agent.moments is not None else "observations in their own units"],
    ]
    if agent.augmented is not None:
        own, usual = agent.augmented.augmentation, Augmentation()
        told = [f"{name} {value}" for name, value in vars(own).items() if value != getattr(usual, name)]
        rows.append(["sees and decides", ", ".join(told)])
    if agent.threshold:
        fallback = agent.fallback
        acts = np.round(fallback, 4).tolist() if isinstance(fallback, np.ndarray) else fallback
        rows.append(["fallback", f"{acts} below a familiarity of {agent.threshold:g}"])
    return rows


def _differing(subject: Subject) -> list[AbstractBlock]:
    if not subject.config:
        return [Said(NO_RUN, missing=True)]
    rows = [[name, told, usual, about] for name, told, usual, about in differing_settings(subject.config)]
    if not rows:
        return [Said("Every setting is at its default.")]
    return [Said("Settings that differ from the defaults:"), Table(["setting", "value", "default", "meaning"], rows)]


def differing_settings(config: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(name, value, default, meaning) of a run's settings that are not by default; a preset's are, where it has one."""
    known, lengths = usual_settings(config), run_lengths(config)
    found = []
    for name, value in config["settings"].items():
        if name in ("algorithm", "fitted"):
            continue
        usual, about = known.get(name, (None, "of a method that is code"))
        if not follows_default(value, usual, lengths):
            found.append((name, worded(value), worded(usual) if name in known else "", about))
    return found


def follows_default(value: object, usual: object, lengths: Set[int]) -> bool:
    """Whether it is the default, or that with the length of the run in the place that it leaves open, as a schedule
    does."""
    if isinstance(value, dict) and isinstance(usual, dict) and value.keys() == usual.keys():
        return all(usual[name] == part or (usual[name] is None and part in lengths) for name, part in value.items())
    return value == usual


def run_lengths(config: Mapping[str, Any]) -> set[int]:
    """The updates of the run as it began, and as it is now: what fills a schedule's length."""
    kind = _training_of(config)
    if kind is None:
        return set()
    steps = next((line["steps"][0] for line in config["history"] if "steps" in line), config["steps"])
    names, found = {field.name for field in setting_fields(kind)}, set[int]()
    for settings, length in ((first_settings(config), steps), (config["settings"], config["steps"])):
        given = {name: value for name, value in settings.items() if name in names}
        training = kind(**from_json(kind, given, {}, "config.json", idle=names))
        found.add(max(1, training.updates(length)))
    return found


def _method_of(config: Mapping[str, Any]) -> type[AbstractAlgorithm] | None:
    """The class of the method, where it is one of the registry's with settings of its own."""
    if "algorithm" in config["settings"]:
        return None
    try:
        return algorithms.find(config["algorithm"], config.get("package"))
    except UserError:
        return None


def _training_of(config: Mapping[str, Any]) -> type[Settings] | None:
    cls = _method_of(config)
    return None if cls is None else settings_of(cls, "host" if config.get("env") else "dataset")


def usual_settings(config: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """The default, as JSON, and the meaning of each setting that a run of this configuration has."""
    cls, training = _method_of(config), _training_of(config)
    published = presets().get(str(config.get("preset")))
    over = {} if published is None else dict(published.settings)
    groups: list[Any] = [Augmentation]
    if cls is not None and training is not None:
        groups = [cls, training, Augmentation]
        over = {**cls.training, **over}
    return {
        field.name: (held(over.get(field.name, field.default), field.metadata["kinds"]), field.metadata["about"])
        for group in groups
        for field in setting_fields(group)
    }


def worded(value: object) -> str:
    """A value of `config.json` as `--set` takes it; of code, what it looks like."""
    if is_code(value):
        return f"code: {value['code']}"
    if isinstance(value, dict):
        numbers = (str(part) for name, part in value.items() if name != "kind" and part is not None)
        return ":".join([str(value.get("kind")).lower(), *numbers])
    return word(value)


# ---------------------------------------------------------------------- how it learned


def curve(subject: Subject, group: Group | None) -> Section:
    """Returns by steps and by time: with an interval over episodes, or, of several seeds, over these."""
    if group is not None:
        return Section("curve", "How it learned", _over_seeds(group))
    if subject.run is None:
        return Section("curve", "How it learned", [Said(NO_RUN, missing=True)])
    evaluated = [one for one in subject.records if one.get("eval_mean") is not None]
    trained = [one for one in subject.records if one.get("train_return") is not None]
    blocks: list[AbstractBlock] = []
    if evaluated or trained:
        blocks.append(_curve_of(subject, evaluated, trained))
    if evaluated:
        best = max(evaluated, key=lambda one: one["eval_mean"])
        rows = [
            [which, f"{one['step']:,}", told_interval(one)] for which, one in (("best", best), ("last", evaluated[-1]))
        ]
        blocks.append(Table(["evaluation", "at step", "mean return [95 % over its episodes]"], rows))
    else:
        here = "--eval-every N" if subject.config.get("env") else "--eval-env ENV --eval-every N"
        blocks.append(Said(f"It was never evaluated while it learned; train with {here} to see how it came on.", True))
    return Section("curve", "How it learned", blocks)


def _curve_of(subject: Subject, evaluated: Sequence[Record], trained: Sequence[Record]) -> Lines:
    steps = sorted({one["step"] for one in (*evaluated, *trained)})
    curves = []
    if trained:
        curves.append(Curve("training episodes, exploring", _at(steps, trained, "train_return"), "faint"))
    if evaluated:
        ends = [_interval_of(one) for one in evaluated]
        low, high = (_placed(steps, evaluated, [one[end] for one in ends]) for end in (1, 2))
        curves.append(Curve("evaluation", _at(steps, evaluated, "eval_mean"), low=low, high=high))
    label = "environment steps" if subject.config.get("env") else "steps"
    return Lines("Return; the band holds the mean with 95 %", label, "return", [View("", steps, curves)])


def _interval_of(record: Record) -> Interval:
    returns = record.get("eval_returns")
    return Interval.of(np.asarray(returns if isinstance(returns, list) and returns else [record["eval_mean"]], float))


def told_interval(record: Record) -> str:
    """An evaluation's mean with its interval."""
    return str(_interval_of(record))


def _at(steps: Sequence[int], records: Sequence[Record], figure: str) -> list[float | None]:
    return _placed(steps, records, [one[figure] for one in records])


def _placed(steps: Sequence[int], records: Sequence[Record], values: Sequence[float]) -> list[float | None]:
    known = {one["step"]: value for one, value in zip(records, values, strict=True)}
    return [known.get(step) for step in steps]


def _over_seeds(group: Group) -> list[AbstractBlock]:
    steps, middle = group.steps, group.middles
    curves = [Curve(f"seed {run.config['seed']}", _at_each(run.lines, steps), "faint") for run in group.runs]
    ends = [[one[end] for one in middle] for end in range(3)]
    curves.append(Curve("interquartile mean", ends[0], low=ends[1], high=ends[2]))
    over = plural(len(group.runs), "seed", "seeds")
    title = f"Return over {over}; the band holds the interquartile mean with 95 % (stratified bootstrap)"
    rows = [
        [str(run.config["seed"]), f"{run.score('last'):,.4g}", f"{run.score('best'):,.4g}", str(run.path)]
        for run in group.runs
    ]
    return [
        Lines(title, "steps", "return", [View("", steps, curves)]),
        Table(["seed", "last", "best", "run"], rows),
    ]


def _at_each(lines: Sequence[Record], steps: Sequence[int]) -> list[float | None]:
    return _at(steps, lines, "eval_mean")


def losses(subject: Subject) -> Section:
    """Every figure that was recorded while it learned."""
    if subject.run is None:
        return Section("losses", "Losses", [Said(NO_RUN, missing=True)])
    known = [figures_of(one) for one in subject.records]
    names = sorted({name for one in known for name in one if name not in FIGURES})
    if not names:
        return Section("losses", "Losses", [Said("Its records hold no figures of learning.", missing=True)])
    names.sort(key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("loss" if name.endswith("/loss") else name.partition("/")[0], []).append(name)
    drawn = [_figures(title, members, subject.records, known) for title, members in groups.items()]
    return Section("losses", "Losses", drawn)


def _figures(
    title: str, names: Sequence[str], records: Sequence[Record], known: Sequence[Mapping[str, float]]
) -> Lines:
    """One figure at a time, by the reader's choice."""
    steps = [one["step"] for one in records]
    views, positive = [], True
    for name in names:
        values = [one.get(name) for one in known]
        numbers = [value for value in values if value is not None]
        positive &= min(numbers) > 0 and max(numbers) > SPREAD * min(numbers)
        views.append(View(name, steps, [Curve(name, values)]))
    return Lines(title, "step", "value", views, logarithmic=positive)


def times(subject: Subject) -> Section:
    """Seconds by stage, and steps a second."""
    if subject.run is None or not subject.records:
        return Section("time", "Time", [Said(NO_RUN if subject.run is None else "Nothing was recorded yet.", True)])
    blocks: list[AbstractBlock] = []
    stages: dict[str, float] = {}
    for one in subject.records:
        for name, seconds in (one.get("stages") or {}).items():
            if isinstance(seconds, int | float) and math.isfinite(seconds):
                stages[str(name)] = stages.get(str(name), 0.0) + seconds
    if stages:
        blocks.append(Portions(stages, "s"))
    else:
        blocks.append(Said("The run was recorded by a version that told no time by stage.", missing=True))
    x, views = [one["step"] for one in subject.records], []
    for name in ("steps_per_second", "updates_per_second"):
        values = [figures_of(one).get(name) for one in subject.records]
        views.append(View(name.replace("_", " "), x, [Curve(name.replace("_", " "), values)]))
    blocks.append(Lines("Rate of training", "step", "per second", views))
    return Section("time", "Time by stage", blocks)


def warnings(subject: Subject, remedies: Sequence[tuple[str, str]]) -> Section:
    """What the run warned of, and what to do about the verdicts that are not good."""
    rows = [
        [f"step {one['step']:,}", str(sentence)]
        for one in subject.records
        if isinstance(one.get("warnings"), list)
        for sentence in one["warnings"]
    ]
    found: list[AbstractBlock] = [Table(["when", "what it warned of"], rows)] if rows else []
    if remedies:
        found.append(Table(["verdict", "what to do"], [list(pair) for pair in remedies]))
    if subject.run is None:
        found.append(Said(NO_RUN, missing=True))
    return Section("warnings", "Warnings and remedies", found or [Said("Nothing was warned of.")])


def made_with(subject: Subject) -> Section:
    """The versions that it was made with, and where they differ from those here."""
    saved = subject.config.get("versions")
    if not isinstance(saved, dict):
        try:
            saved = read_json(agent_folder(subject.path) / MANIFEST).get("versions")
        except UserError:
            saved = None
    if not isinstance(saved, dict):
        return Section("versions", "Versions", [Said("No versions were recorded.", missing=True)])
    here = versions()
    rows = [[str(name), str(version), str(here.get(name, "not here"))] for name, version in saved.items()]
    return Section("versions", "Versions", [Table(["package", "made with", "reported with"], rows)])
