"""`fittedq train ALGORITHM ENV`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from fittedq.algorithms.named import NamedMethod
from fittedq.algorithms.presets import chosen, preset_name
from fittedq.cli.arguments import MaybeInt, MaybePath, MaybeWord, StopCondition, Trackers, words_of
from fittedq.cli.environments import AugmentsState, LimitsActions, NamesEnv, TrustsFile
from fittedq.cli.follow import follow
from fittedq.cli.places import CarriesOut
from fittedq.cli.resume import Resume
from fittedq.code import check_needed
from fittedq.data.checks.lessons import doubts
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.envs.plant import resolve
from fittedq.errors import UserError
from fittedq.runs.folder import RunFolder
from fittedq.runs.listing import FINISHED, record
from fittedq.runs.progress import console
from fittedq.runs.run import Run
from fittedq.runs.saved import find_agent
from fittedq.runs.schedule import USUAL_STEPS, Offline, Schedule
from fittedq.runs.settled import Settled
from fittedq.runs.shards import shards_on_ray
from fittedq.runs.stop import StopWhen
from fittedq.runs.tasks import Task
from fittedq.runs.trackers import named_trackers
from fittedq.settings import whole
from fittedq.trainers.solutions import Where


@dataclass(frozen=True)
class DescribesRun(NamesEnv, LimitsActions, AugmentsState, TrustsFile):
    """A command that trains: what learns, where from, how long, and how often it is looked at."""

    algorithm: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ALGORITHM")]
    """The algorithm's name; `fittedq list` shows all. One of your own: FILE.py:NAME or MODULE:NAME, a class or an
    object."""
    env: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[ENV]", help_behavior_hint="")] = None
    """A Gymnasium id (HalfCheetah-v5, module:Id), a class (module:Class, file.py:Class) or a JAX environment
    (jax/Pendulum-v1; of the gymnax interface gymnax/module:Class). Leave it out to learn from --data alone."""
    data: MaybePath = None
    """A dataset folder (`fittedq data`) to learn from. With an environment, the replay starts with it."""
    eval_env: MaybeWord = None
    """The environment of evaluations, made with the same --env-kwargs and --wrapper; by default the one trained in."""
    steps: MaybeInt = None
    """Environment steps in all (default: 100 000). From data alone: updates (50 000), or iterations of a fitted method
    (5/(1 - gamma), at least 40 and at most 500)."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """A setting of the algorithm or of training; `fittedq list ALGORITHM` shows them. May be given often."""
    preset: MaybeWord = None
    """Settings with which the algorithm was published (`fittedq list` shows them), or a file of such (FILE.toml, as
    `fittedq tune` writes it). --set overrides them."""
    eval_every: MaybeInt = None
    """Steps between evaluations (default: 5 000, or 10 iterations), whose episodes have seeds of their own. 0: none."""
    eval_episodes: int = 5
    """Episodes in each evaluation."""
    checkpoint_every: MaybeInt = None
    """Steps between checkpoints (default: 10 000, or 10 iterations). 0: only at the end."""
    gap_every: int = 0
    """Steps between measurements of the amortization gap on some of the states learned from (gap/…). 0: none."""
    plant: MaybePath = None
    """A description of the plant (plant.toml): its limits, set-points and what the controller sees. Of --data it is
    known already; this one comes first, and must not contradict what they were imported with."""
    start: MaybePath = None
    """A run (its best agent) or an agent. Training starts with its networks."""
    stop_when: StopCondition = None
    """Save and stop once this holds at a report (every 1 000 steps, or each iteration of a fitted method, and at
    evaluations and checkpoints), such as "eval_mean > -150 and step > 10000". What is true only between two reports
    is not seen. It may use the newest value of any figure of metrics.jsonl, + - * /, comparisons, and, or, not, abs,
    min, max."""
    track: Trackers = None
    """Tell the figures of metrics.jsonl to trackers too: tensorboard (RUN/tensorboard), wandb."""

    def schedule(self) -> Schedule | Offline:
        """How long the run is, and when it is looked at."""
        every = {"eval_every": self.eval_every, "checkpoint_every": self.checkpoint_every}
        given = {name: value for name, value in every.items() if value is not None} | {
            "eval_episodes": self.eval_episodes,
            "gap_every": self.gap_every,
        }
        if self.env is None and self.data is None:
            raise UserError("train: found neither an environment nor --data; give one of them.")
        if self.env is None:
            return Schedule.offline(self.algorithm, self.steps, **given)
        return Schedule(steps=USUAL_STEPS if self.steps is None else self.steps, **given)

    def check(self, variants: Iterable[tuple[str, ...]] = ((),)) -> None:
        """A UserError for the first mistake in this command, with each of the variants' further settings, that can be
        told without training; nothing is written."""
        check = self.checking()
        for words in variants:
            check(words)

    def checking(self) -> Callable[[tuple[str, ...]], None]:
        """What `check` does for further settings; what they have in common is checked here."""
        schedule = self.schedule()
        named_trackers(self.track)
        plants = [resolve(env, self.limits()) for env in map(self.named, (self.env, self.eval_env)) if env is not None]
        for one in plants:
            _ = one.action_set  # an environment that cannot be made says so
        plant = None if self.env is None else plants[0]
        data = None if self.data is None else Dataset.open(self.data, verify=False)
        said = Description.read(self.plant) if self.plant is not None else None if data is None else data.description
        described = {} if said is None else said.augmentation()
        algorithm, preset = (self.algorithm, self.preset) if plant is None else chosen(self.algorithm, self.preset)

        def check(words: tuple[str, ...]) -> None:
            try:
                settled = Settled.of(algorithm, plant, self.assignments((*self.set, *words)), preset, described)
                length = schedule.at(settled.method.discount)
            except UserError as error:
                raise UserError(f"{' '.join(words)}: {error}") if words else error from None
            if self.stop_when is not None:
                StopWhen(self.stop_when).checked(length)

        return check


@dataclass(frozen=True)
class Train(DescribesRun, CarriesOut):
    """Train a controller in an environment or from a dataset. Ctrl-C saves the run and stops it; `fittedq resume`
    continues it."""

    seed: int = 0
    """Seed of networks, actions, batches and episodes."""
    seeds: MaybeInt = None
    """Train so many seeds side by side, from --seed on, one process on each core; each is a run like any other, in
    --out/seed-SEED or in the folder that it has alone. The same command goes on where it was stopped."""
    or_resume: bool = False
    """Go on with the run folder's run where it is this very run; do nothing where that is finished."""
    out: MaybePath = None
    """Run folder; by default runs/ALGORITHM-ENV-SEED, or runs/ALGORITHM-DATA-SEED; a preset's name stands for its
    algorithm's."""
    json: bool = False
    """Print a JSON object per report, for machines."""

    def run(self) -> int:
        if self.seeds is not None:
            return self._side_by_side(whole(self.seeds, "seeds", 1))
        if self.on != "ray":
            for field in fields(CarriesOut):
                if getattr(self, field.name) != field.default:
                    raise UserError("found no --seeds that it belongs to; give both.", argument=field.name)
            return self._alone()
        if self.or_resume:
            raise UserError("found --on ray too, and a run alone goes on here; give one of them.", argument="or_resume")
        if self.env is not None or self.data is None:  # told before a cluster is looked for
            raise UserError(
                "found ray without --seeds and --data; give --seeds, or a method that searches for actions over "
                "--data alone, such as explicit_fqi.",
                argument="on",
            )
        with shards_on_ray(self.address, self.at_once) as where:
            return self._alone(where)

    def _alone(self, where: Where | None = None) -> int:
        """One run, whose solver searches over --data where it is told."""
        schedule, track = self.schedule(), named_trackers(self.track)
        folder = self.out or self.usual_folder(self.seed)
        start = None if self.start is None else find_agent(self.start, None, self.trust_code, like=self.algorithm)
        check_needed(self.trust_code, NamedMethod.of(self.algorithm), start and start.method)
        env = None if self.env is None else self.named(self.env)
        eval_env = self.named(self.eval_env) if self.eval_env is not None or self.env is None else None
        data = None if self.data is None else Dataset.open(self.data)
        run = Run(
            self.algorithm,
            env,
            schedule,
            data=data,
            seed=self.seed,
            settings=self.assignments(self.set),
            folder=folder,
            eval_env=eval_env,
            action_set=self.limits(),
            start=start,
            preset=self.preset,
            described=None if self.plant is None else Description.read(self.plant),
            where=where,
        )
        if self.or_resume and RunFolder(folder).continues(run.config()):
            run.close()
            return self._resumed(folder, () if env is None else env.code)
        if data is not None and env is None:
            run.notes += doubts(data, run.algorithm.discount)
        return follow(run, self.stop_when, as_json=self.json, track=track)

    def usual_folder(self, seed: int) -> Path:
        """Where a run is kept that is given no folder."""
        source = self.env or Path(str(self.data)).name
        return Path("runs") / f"{preset_name(self.preset) or folder_name(self.algorithm)}-{folder_name(source)}-{seed}"

    def _resumed(self, folder: Path, named: tuple[str, ...]) -> int:
        """Go on with the run of the folder, as long as there is something to do; code that is `named` may run."""
        row = record(RunFolder(folder))
        if row.state != FINISHED or (row.step or 0) < (self.steps or 0):
            own = None if NamedMethod.of(self.algorithm) is None else self.algorithm
            going_on = Resume(
                folder,
                self.steps,
                stop_when=self.stop_when,
                track=self.track,
                json=self.json,
                code=own,
                trust_code=(*self.trust_code, *named),
            )
            return going_on.run()
        if self.json:
            told = {"step": row.step, "steps": row.steps, "eval_mean": row.last, "best": row.best}
            print(json.dumps({"event": "done", "run": row.path, **told}), flush=True)
        else:
            console().print(f"{folder} is finished: {row.step:,} steps.", soft_wrap=True)
        return 0

    def _side_by_side(self, count: int) -> int:
        """Each seed as a process of its own."""
        self.check()
        out, tasks = self.out, []
        for seed in range(self.seed, self.seed + count):
            folder = self.usual_folder(seed) if out is None else out / f"seed-{seed}"
            tasks.append(self.task(f"seed {seed}", folder, seed))
        first = self.usual_folder(self.seed)
        script = first.with_name(f"{first.name}.sbatch") if out is None else out / "seeds.sbatch"
        return self.carry_out(tasks, script, as_json=self.json)

    def task(self, name: str, folder: Path, seed: int) -> Task:
        """This command with another seed, as a task: it goes on with the run in `folder`."""
        elsewhere = {field.name: field.default for field in fields(CarriesOut)}
        alone = replace(self, **elsewhere, seeds=None, seed=seed, out=folder, or_resume=True, json=True)
        return Task(name, ("train", *words_of(alone)), {"seed": seed}, folder)


LONGEST = 80
"""Letters in a folder's name."""


def folder_name(text: str) -> str:
    """`text` without what a file system forbids in a name, and no longer than one takes: what is cut is told apart by
    a digest of all of it."""
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "-", text).strip("-. ")
    if len(name) > LONGEST:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{name[: LONGEST - len(digest) - 1].rstrip('-. ')}-{digest}"
    return name or "env"
