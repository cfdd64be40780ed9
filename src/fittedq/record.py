"""What a run leaves behind: its configuration, its metrics line by line, its curve as a picture."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from fittedq.errors import UserError
from fittedq.files import make_folder, read_json, write_bytes, write_json

KINDS_OF_SETTINGS: dict[str, Any] = {
    "algorithm": str,
    "env": str | dict | None,
    "eval_env": str | dict | None,
    "data": str | None,
    "action_set": dict | None,
    "seed": int,
    "steps": int,
    "settings": dict,
}
"""What `config.json` holds under each name, before anything is made of it."""


class RunFolder:
    """`config.json`, `metrics.jsonl`, `checkpoints/`, `best/`, `last/`, `curve.png` under one folder."""

    def __init__(self, path: Path):
        self.path = path
        self.config_file = path / "config.json"
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.last = path / "last"
        self.curve_file = path / "curve.png"

    def create(self, config: dict[str, Any]) -> None:
        """Begin a run; a folder that holds another run is refused."""
        if self.config_file.exists():
            found = read_json(self.config_file)
            same = "the same" if comparable(found) == comparable(config) else "another"
            raise UserError(
                f"run folder {self.path} holds a run of {same} configuration; continue it with "
                f"`fittedq resume {self.path}`, or choose another folder with --out."
            )
        make_folder(self.path)
        make_folder(self.checkpoints)
        write_json(self.config_file, config)

    def open(self) -> dict[str, Any]:
        """The configuration of an existing run."""
        if not self.config_file.is_file():
            raise UserError(f"run folder {self.path} holds no config.json; give the folder that `fittedq train` made.")
        config = read_json(self.config_file)
        missing = {"algorithm", "env", "seed", "steps", "settings"} - set(config if isinstance(config, dict) else ())
        if missing:
            raise UserError(
                f"{self.config_file}: {', '.join(sorted(missing))} missing; it is damaged or not one of ours."
            )
        for name, kind in KINDS_OF_SETTINGS.items():
            if not isinstance(config.get(name), kind) or isinstance(config.get(name), bool):
                raise UserError(
                    f"{self.config_file}: {name} is {config.get(name)!r}, as in no run; it is damaged or not one of "
                    "ours."
                )
        make_folder(self.path)
        return config

    def extend(self, steps: int) -> None:
        """Let the run go on to `steps`."""
        write_json(self.config_file, self.open() | {"steps": steps})

    def append(self, record: dict[str, Any]) -> None:
        """One line of metrics, on disk when this returns."""
        with open(self.metrics_file, "a") as file:
            file.write(json.dumps({name: plain(value) for name, value in record.items()}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line; a last line cut short by a crash is passed over."""
        if not self.metrics_file.exists():
            return []
        records = []
        for line in self.metrics_file.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
        return records

    def rewind(self, step: int) -> None:
        """Drop metrics after `step`, which a resumed run will write again."""
        kept = [json.dumps(record) for record in self.metrics() if record["step"] <= step]
        write_bytes(self.metrics_file, "".join(line + "\n" for line in kept).encode())

    def draw(self) -> Path | None:
        """The learning curve as a picture, where matplotlib is installed."""
        try:
            import matplotlib
        except ModuleNotFoundError:
            return None
        matplotlib.use("Agg")
        from matplotlib import pyplot

        records = self.metrics()
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        training = [
            (record["step"], record["train_return"]) for record in records if record.get("train_return") is not None
        ]
        if training:
            axes.plot(*zip(*training, strict=True), color="0.75", linewidth=1, label="training episodes (exploring)")
        evaluated = [record for record in records if record.get("eval_mean") is not None]
        if evaluated:
            steps = [record["step"] for record in evaluated]
            axes.plot(steps, [record["eval_mean"] for record in evaluated], color="C0", label="evaluation, mean")
            axes.fill_between(
                steps,
                [record["eval_min"] for record in evaluated],
                [record["eval_max"] for record in evaluated],
                color="C0",
                alpha=0.15,
                linewidth=0,
                label="evaluation, worst to best episode",
            )
        config = read_json(self.config_file)
        axes.set(
            xlabel="environment steps",
            ylabel="return",
            title=f"{config['algorithm']} on {config['env'] or 'an environment of its own'}",
        )
        if training or evaluated:
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        temporary = self.curve_file.with_name("curve.tmp.png")
        figure.savefig(temporary, dpi=120)
        pyplot.close(figure)
        os.replace(temporary, self.curve_file)
        return self.curve_file


def comparable(config: dict[str, Any]) -> dict[str, Any]:
    """What must agree for one run to continue another: all but how long, how often looked at, and versions."""
    return {name: config.get(name) for name in ("algorithm", "env", "seed", "settings")}


def plain(value: Any) -> Any:
    """A JSON value: numbers that JSON lacks become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
