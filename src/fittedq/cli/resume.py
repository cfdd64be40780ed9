"""`fittedq resume RUN`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fittedq.cli.arguments import MaybeInt, StopCondition, Trackers
from fittedq.cli.environments import GivesCode, Words
from fittedq.cli.follow import follow
from fittedq.errors import UserError
from fittedq.runs.resume import reopened
from fittedq.runs.trackers import named_trackers
from fittedq.settings import parse_assignments


@dataclass(frozen=True)
class Resume(GivesCode):
    """Continue a run from its last whole checkpoint: bit for bit, or with other settings from there on."""

    run_folder: tyro.conf.Positional[Path]
    """The folder that `fittedq train` made."""
    steps: MaybeInt = None
    """Environment steps in all, to train longer than first asked."""
    set: Annotated[Words, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """A setting with another value from here on (a learning rate, noise, eval_every, …). The run's history records it.
    May be given often."""
    stop_when: StopCondition = None
    """Save and stop once this holds, as for `fittedq train`; at once where it holds already. A later resume does not
    know of it."""
    track: Trackers = None
    """Tell the figures of metrics.jsonl to trackers too: tensorboard (RUN/tensorboard), wandb."""
    json: bool = False
    """Print a JSON object per report, for machines."""

    def run(self) -> int:
        changes, track = parse_assignments(self.set), named_trackers(self.track)
        run = reopened(self.run_folder, steps=self.steps, changes=changes, code=self.code, trust_code=self.trust_code)
        if run.trainer.step < run.schedule.steps:
            at = f"at step {run.trainer.step:,} of {run.schedule.steps:,}"
            first = f"Continuing {self.run_folder} {at}."
            return follow(run, self.stop_when, as_json=self.json, first=first, track=track)
        try:
            completed = run.complete()
        finally:
            run.close()
        if not completed:
            raise UserError(
                f"run folder {self.run_folder} has taken {run.trainer.step} of {run.schedule.steps} steps; "
                "give a larger --steps to go on."
            )
        if self.json:
            print(json.dumps({"event": "completed", "run": str(self.run_folder), "step": run.trainer.step}))
        else:
            steps = f"all {run.trainer.step:,} steps were taken"
            print(f"Completed {self.run_folder}: {steps}, but last/ had not been written.", file=sys.stderr)
        return 0
