"""`fittedq sweep FILE.toml`, `fittedq sweep ALGORITHM ENV --grid SETTING=VALUE,…`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from fittedq.algorithms import AUTO
from fittedq.algorithms.presets import presets
from fittedq.cli.arguments import MaybeInt, MaybePath, Trackers, parse
from fittedq.cli.environments import Words
from fittedq.cli.list import settings_table
from fittedq.cli.places import CarriesOut
from fittedq.cli.tables import print_rows
from fittedq.cli.train import Train, folder_name
from fittedq.errors import UserError, nearest, plural
from fittedq.files import read_toml
from fittedq.runs.groups import Standings, groups
from fittedq.runs.listing import FINISHED, list_runs
from fittedq.runs.tasks import Task
from fittedq.settings import once, whole

SWEEP_TABLES = ("train", "set", "grid", "sweep")
SWEEP_KEYS = ("seeds", "seed", "out")
"""What `[sweep]` holds; the options of a run are in `[train]`."""


MOST_RUNS = 10_000
"""A sweep of more is a slip of the pen."""


class Plan(NamedTuple):
    """What a sweep carries out."""

    train: Train
    grid: Mapping[str, Sequence[str]]
    """Setting → its values, as words."""
    seeds: int
    out: Path

    @property
    def runs(self) -> int:
        """How many it carries out."""
        return self.seeds * math.prod(map(len, self.grid.values()))

    @property
    def told(self) -> str:
        """What it carries out, in words."""
        schedule = self.train.schedule()
        length = "as many iterations as gamma asks for" if schedule.steps is None else f"{schedule.steps:,} steps"
        return f"{plural(self.runs, 'run', 'runs')} of {length} each, in {self.out}."

    def combinations(self) -> Iterator[tuple[str, ...]]:
        """The settings of each combination, as words."""
        for values in itertools.product(*self.grid.values()):
            yield tuple(f"{name}={value}" for name, value in zip(self.grid, values, strict=True))

    def folder(self, words: Sequence[str]) -> Path:
        """Where a combination has its runs."""
        return self.out / folder_name(" ".join(words).replace(",", "-"))

    def tasks(self) -> Iterator[Task]:
        """Each combination with each seed; all combinations come with a seed before any comes with the next one."""
        for seed in range(self.train.seed, self.train.seed + self.seeds):
            for words in self.combinations():
                name = " ".join(words)
                train = replace(self.train, set=(*self.train.set, *words))
                one = train.task(name, self.folder(words) / f"seed-{seed}", seed)
                told = {"sweep": dict(word.split("=", 1) for word in words), **one.about}
                yield replace(one, name=f"{name} seed {seed}", about=told)


@dataclass(frozen=True)
class Sweep(CarriesOut):
    """Train every combination of settings with several seeds, side by side, and show how they stand.

    Each is a run like any other, in OUT/COMBINATION/seed-SEED. The same command goes on where it was stopped.
    A file has four tables: [train] the options of `fittedq train` (algorithm, env, steps, …), [set] settings of all
    runs, [grid] lists of values by setting, [sweep] seeds, seed and out."""

    what: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE.toml|ALGORITHM [ENV]")]]
    """A file, or what to train; then --grid is needed."""
    grid: Annotated[Words, tyro.conf.arg(metavar="SETTING=VALUE,…")] = ()
    """The values of a setting. May be given often; every combination is trained. Values that are lists themselves
    stand in a file."""
    set: Annotated[Words, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """A setting of all runs. May be given often."""
    steps: MaybeInt = None
    """Steps of each run (default: those of `fittedq train`: 100 000; from data alone 50 000 updates, or the iterations
    that a fitted method's gamma asks for)."""
    eval_every: MaybeInt = None
    """Steps between evaluations, as for `fittedq train`."""
    data: MaybePath = None
    """A dataset folder to learn from, as for `fittedq train`."""
    seeds: MaybeInt = None
    """Seeds of each combination (default: 3)."""
    out: MaybePath = None
    """The folder of all runs (default: sweeps/NAME)."""
    track: Trackers = None
    """Tell the figures of all runs to trackers too, as for `fittedq train`."""
    json: bool = False
    """Print a JSON object per report, for machines."""

    def run(self) -> int:
        plan = self._plan()
        check_names(plan)
        check_runs(plan)
        plan.train.check(plan.combinations())
        code = self.carry_out(list(plan.tasks()), plan.out / "sweep.sbatch", as_json=self.json, told=plan.told)
        if self.on == "slurm":
            return code
        done = [Path(one.path) for one in list_runs(plan.out) if one.state == FINISHED and one.last is not None]
        if done and not self.json:
            standings = Standings.of(groups(done))
            print(standings.told)
            print_rows(standings.table())
            if standings.caution is not None:
                print(standings.caution)
        return code

    def _plan(self) -> Plan:
        """What is to be carried out, by the file or by the words."""
        first = self.what[0] if self.what else ""
        if first.endswith(".toml"):
            if len(self.what) > 1:
                raise UserError(f"sweep: found {self.what[1]!r} beside {first}, which says it; write it there.")
            for name in ("grid", "set", "data", "steps", "eval_every", "track"):
                if getattr(self, name) not in (None, ()):
                    raise UserError(f"found {first} too, which says it; write it there.", argument=name)
            tables = _tables(Path(first))
        else:
            options = {"steps": self.steps, "eval_every": self.eval_every, "data": self.data, "track": self.track}
            named = dict(zip(("algorithm", "env"), self.what, strict=False))
            if not self.grid or len(self.what) > 2:
                raise UserError("sweep: found no --grid; give values of a setting, or a file of a sweep.")
            train = named | {name: str(value) for name, value in options.items() if value is not None}
            tables = {"train": train, "set": {}, "grid": once(map(_values, self.grid), "grid"), "sweep": {}}
        sweep = tables["sweep"]
        seed = whole(sweep.get("seed", 0), "seed")
        train = replace(_train(tables["train"], first), seed=seed)
        words = (*(f"{name}={_word(value)}" for name, value in tables["set"].items()), *self.set)
        grid = {name: list(map(_word, values)) for name, values in tables["grid"].items()}
        seeds = whole(sweep.get("seeds", 3) if self.seeds is None else self.seeds, "seeds", 1)
        out = self.out or Path(sweep.get("out") or Path("sweeps") / folder_name(Path(first).stem))
        return Plan(replace(train, set=words), grid, seeds, out)


def _tables(file: Path) -> dict[str, dict[str, Any]]:
    """The tables of a file, whole; a UserError where it is none, or holds what no sweep has."""
    found = read_toml(file)
    for name, value in found.items():
        if name not in SWEEP_TABLES:
            raise UserError(f"{file}: found {name!r}; {nearest(name, SWEEP_TABLES)}")
        if not isinstance(value, dict):
            raise UserError(f"{file}: {name} is {value!r}, expected a table, [{name}].")
    tables = {name: found.get(name, {}) for name in SWEEP_TABLES}
    for name in tables["sweep"]:
        if name not in SWEEP_KEYS:
            raise UserError(f"{file}: [sweep] holds {name!r}; {nearest(name, SWEEP_KEYS)}")
    if not isinstance(out := tables["sweep"].get("out", ""), str):
        raise UserError(f"{file}: [sweep] has out = {out!r}, expected the name of a folder, in quotes.")
    for name, values in tables["grid"].items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{file}: [grid] has {name} = {values!r}, expected a list of values.")
    if not tables["grid"]:
        raise UserError(f"{file}: found no [grid], expected a list of values for at least one setting.")
    return tables


def _train(options: Mapping[str, Any], where: str) -> Train:
    """The command that each run is, by its options."""
    known = [
        name
        for name in Train.__dataclass_fields__
        if name not in {*SWEEP_KEYS, *CarriesOut.__dataclass_fields__, "set", "or_resume", "json"}
    ]
    words = []
    for name, value in options.items():
        if name not in known:
            raise UserError(f"{where}: [train] holds {name!r}; {nearest(name, known)}")
        flag = f"--{name.replace('_', '-')}"
        if name in ("algorithm", "env"):
            continue
        if value is True:
            words.append(flag)
        elif isinstance(value, list):
            words += [f"{flag}={one}" for one in value]
        elif value is not False:
            words.append(f"{flag}={value}")
    if "algorithm" not in options:
        raise UserError(f"{where}: [train] names no algorithm; `fittedq list` shows all.")
    named = [str(options[name]) for name in ("algorithm", "env") if name in options]
    return parse(Train, "fittedq train", [*named, *words])


def _values(words: str) -> tuple[str, list[str]]:
    """`name=1,2` → (name, [1, 2])."""
    name, _, values = words.partition("=")
    found = [value.strip() for value in values.split(",") if value.strip()]
    if not found:
        raise UserError(f"--grid {words}: expected SETTING=VALUE,VALUE, such as --grid gamma=0.9,0.98.")
    return name.strip().replace("-", "_"), found


def _word(value: object) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, list):
        return ",".join(map(_word, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_names(plan: Plan) -> None:
    """A UserError for a setting that the algorithm does not have, or for one that is swept and set too."""
    named = plan.train.algorithm
    algorithm = presets()[AUTO].algorithm if named == AUTO else named
    known = [row["setting"] for row in settings_table(algorithm)]
    set_for_all = [word.partition("=")[0].strip() for word in plan.train.set]
    for name in plan.grid:
        if name not in known:
            raise UserError(f"[grid] holds {name!r}, which is no setting of {algorithm}; {nearest(name, known)}")
        if name in set_for_all:
            raise UserError(f"[grid] holds {name!r}, and it is set for all runs; leave one out.")


def check_runs(plan: Plan) -> None:
    """A UserError for more runs than anyone waits for, and for two that would share a folder."""
    if plan.runs > MOST_RUNS:
        raise UserError(f"sweep: found {plan.runs} runs, expected at most {MOST_RUNS}; leave out values or seeds.")
    held: dict[Path, str] = {}
    for words in plan.combinations():
        folder, name = plan.folder(words), " ".join(words)
        if folder in held:
            raise UserError(f"[grid] gives {held[folder]!r} and {name!r} the same folder, {folder}; leave one out.")
        held[folder] = name
