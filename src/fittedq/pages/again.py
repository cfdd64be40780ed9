"""The commands by which a run is made again, gone on with, and taken to its plant."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from fittedq.envs.registry import NamedEnv
from fittedq.pages.blocks import AbstractBlock, Instruction, Said
from fittedq.pages.page import Section
from fittedq.pages.records import usual_settings, worded
from fittedq.pages.subject import Subject
from fittedq.runs.changes import first_settings
from fittedq.settings import is_code

SCHEDULE = ("eval_every", "eval_episodes", "checkpoint_every", "gap_every")


def reproduction(subject: Subject) -> Section:
    """How to reproduce, resume and export."""
    path = str(subject.path)
    acting = [
        Instruction("Look at its policy and critic more closely:", _line("inspect", path, "--health", "--gap")),
        Instruction("Play episodes with it:", _line("eval", path, *_where(subject), "--episodes=20")),
        Instruction("Write it in C, verified beside the agent:", _line("export", path, "--to=c", "--out=controller")),
        Instruction("Act with it in Python:", _python(path)),
    ]
    return Section("again", "Reproduce, resume, export", [*_of_run(subject), *acting])


def _where(subject: Subject) -> list[str]:
    """The environment to play in, where nothing says it."""
    agent = subject.agent.value
    return ["--env=ENV"] if agent is not None and agent.env is None else []


def _of_run(subject: Subject) -> list[AbstractBlock]:
    """How it was made, and how it goes on."""
    if subject.run is None:
        return []
    words, notes = train_words(subject.config)
    blocks: list[AbstractBlock] = [Instruction("Train it again, from the beginning:", _line("train", *words))]
    blocks += [Said(note) for note in notes]
    for line in subject.config["history"]:
        changes = {name: now for name, (_, now) in line.items() if name != "step"}
        steps = [f"--steps={changes.pop('steps')}"] if "steps" in changes else []
        sets = [f"--set={name}={worded(value)}" for name, value in changes.items()]
        purpose = f"At step {line['step']:,} go on as it was gone on with:"
        blocks.append(Instruction(purpose, _line("resume", "RUN", *steps, *sets)))
    more = [f"--steps={2 * subject.config['steps']}"] if subject.run.finished else []
    purpose = "Go on with it to more steps:" if more else "Go on with it where it was stopped:"
    return [*blocks, Instruction(purpose, _line("resume", str(subject.run.path), *more))]


def _line(*words: str) -> str:
    return shlex.join(["fittedq", *words])


def _python(path: str) -> str:
    return f"import fittedq\n\nagent = fittedq.load({path!r})\naction = agent.act(observation)"


def train_words(config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(the words of `fittedq train` that make this run, what no word says)."""
    env = NamedEnv.of(config["env"], "config.json")
    eval_env = NamedEnv.of(config.get("eval_env"), "config.json")
    given = {
        "data": config.get("data"),
        "eval-env": None if eval_env is None else eval_env.id,
        "steps": _first(config, "steps"),
        "seed": config["seed"],
        "preset": config.get("preset"),
        **{name.replace("_", "-"): _first(config, name) for name in SCHEDULE if name in config},
    }
    words = [config.get("method") or config["algorithm"], *([] if env is None else [env.id])]
    words += [f"--{name}={value}" for name, value in given.items() if value is not None]
    named = env or eval_env
    if named is not None:
        words += [f"--env-kwargs={name}={worded(value)}" for name, value in named.kwargs.items()]
        words += [f"--wrapper={one}" for one in named.wrappers]
    settings = _set_anew(config)
    words += [f"--set={name}={worded(value)}" for name, value in settings.items() if not is_code(value)]
    return words, [*_unsaid(config, named), *_code(settings)]


def _set_anew(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the run began with, where they are not by default and do not follow from others.

    The length of a schedule is among them: whether the user said it or the run filled it in, no file tells.
    """
    usual, settings = usual_settings(config), first_settings(config)
    follows = {"algorithm", "fitted", *(["gamma"] if settings.get("settling") is not None else [])}
    return {
        name: value
        for name, value in settings.items()
        if name not in follows and not (name in usual and usual[name][0] == value)
    }


def _code(settings: Mapping[str, Any]) -> list[str]:
    return [
        f"Its {name} is code: {value['code']}. Give it again in Python, {name}=…."
        for name, value in settings.items()
        if is_code(value)
    ]


def _unsaid(config: Mapping[str, Any], named: NamedEnv | None) -> list[str]:
    """What of a run no word of the command line says, a sentence each."""
    kind = (config.get("action_set") or {}).get("kind")
    told = {
        "Its environment was an object in Python; give it again there, with fittedq.train.": named is None
        and config.get("data") is None,
        "Its method is code of your own; give it in Python, or name it as FILE.py:NAME.": is_code(
            config["settings"].get("algorithm")
        )
        and config.get("method") is None,
        f"Its actions were narrowed ({kind}); give the same --limit or action_set.": kind
        not in (None, "box", "increments"),
        "It began with an agent's networks; give that agent again with --start.": "start" in config,
        "It was given a description of the plant; give it again with --plant.": "plant" in config,
    }
    return [sentence for sentence, holds in told.items() if holds]


def _first(config: Mapping[str, Any], name: str) -> object:
    """What it was when the run began."""
    lines = [line[name][0] for line in config["history"] if name in line]
    return lines[0] if lines else config[name]
