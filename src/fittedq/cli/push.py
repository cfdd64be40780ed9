"""`fittedq push RUN --out FOLDER`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from fittedq.cli.environments import GivesCode
from fittedq.errors import UserError
from fittedq.files import AGENT, is_there, write_bytes, write_json
from fittedq.pages.film import render
from fittedq.runs.folder import Record, RunFolder

MARK_OF_CARD = "<!-- Written by fittedq push. -->"
CARD, SETTINGS, FILM = "README.md", "settings.json", "replay.gif"
STEPS_FILMED = 500
"""Steps of the film, at most."""


@dataclass(frozen=True)
class Push(GivesCode):
    """Write a run's best agent as a folder that a model hub takes: tensors, a card with the figures that the run
    measured, its settings, a film where the environment renders. Nothing is sent anywhere."""

    run_folder: tyro.conf.Positional[Path]
    """The folder that `fittedq train` made."""
    out: Path
    """The folder to write; `fittedq.load` takes it."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        folder, card = RunFolder(self.run_folder), self.out / CARD
        config = folder.config()
        if card.exists() and MARK_OF_CARD not in card.read_text("utf-8", errors="replace"):
            raise UserError(f"{card} is not fittedq's; choose another folder.", argument="out")
        is_there(self.out, AGENT)
        self.agent(self.run_folder).save(self.out, origin={"run": self.run_folder.absolute().name})
        film = self._film(self.out / FILM)
        config = {**config, "data": None if config.get("data") is None else Path(config["data"]).name}
        write_json(self.out / SETTINGS, config)
        evaluated = [line for line in folder.metrics() if line.get("eval_mean") is not None]
        write_bytes(card, "\n".join([*_card(config, evaluated, film is None), ""]).encode())
        names = sorted(file.name for file in self.out.iterdir() if not file.name.startswith("."))
        if self.json:
            print(json.dumps({"out": str(self.out), "files": names, "no_film": film}))
        else:
            print(f"{self.out}: {', '.join(names)}." + ("" if film is None else f" No film: {film}"))
        return 0

    def _film(self, path: Path) -> str | None:
        """Film an episode; why there is none, where there is none."""
        path.unlink(missing_ok=True)
        try:
            render(self.run_folder, path, steps=STEPS_FILMED, code=self.code, trust_code=self.trust_code)
        except UserError as error:
            return str(error)
        return None


def _card(config: dict[str, Any], evaluated: list[Record], filmed: bool) -> Iterator[str]:
    """The lines of the card."""
    env = config["env"] or config.get("eval_env")
    where = (env.get("id") if isinstance(env, dict) else env) or config["data"] or "an environment of its own"
    best = max(evaluated, key=lambda line: line["eval_mean"], default=None)
    tags = ["reinforcement-learning", "continuous-control", "fittedq", config["algorithm"], where]
    yield "---"
    yield from ("library_name: fittedq", "pipeline_tag: reinforcement-learning", f"tags: {json.dumps(tags)}")
    if best is not None:
        spread = float(np.std(best["eval_returns"]))
        metric = {"type": "mean_reward", "name": "mean_reward", "value": f"{best['eval_mean']:.2f} +/- {spread:.2f}"}
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        result = {"task": task, "dataset": {"name": where, "type": where}, "metrics": [metric]}
        yield f"model-index: {json.dumps([{'name': config['algorithm'], 'results': [result]}])}"
    yield from ("---", MARK_OF_CARD, "", f"# {config['algorithm']} on {where}", "")
    yield f"A controller that fittedq learned with seed {config['seed']}."
    if filmed:
        yield from ("", f"![an episode]({FILM})")
    yield from ("", "## What was measured", "")
    if best is None:
        yield "Nothing: the run was not evaluated."
    else:
        last = evaluated[-1]
        yield "| evaluation | step | episodes | mean return | worst | best |"
        yield "|---|---|---|---|---|---|"
        for name, line in ((f"best of {len(evaluated)} (these networks)", best), ("last", last)):
            figures = " | ".join(f"{line[one]:.2f}" for one in ("eval_mean", "eval_min", "eval_max"))
            yield f"| {name} | {line['step']:,} | {len(line['eval_returns'])} | {figures} |"
        yield from ("", "The best of several evaluations is kinder than a new one would be.")
    yield from ("", "## How to use it", "", "```python", "import fittedq", "", "agent = fittedq.load(FOLDER)")
    yield from ("action = agent.act(obs)", "```", "", f"Settings and versions: [{SETTINGS}]({SETTINGS}).")
