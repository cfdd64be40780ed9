"""Bad datasets through import and fit: each is refused in one sentence, or learned from as it is.

    python reliability/datasets.py

What is taken must hold the numbers that were put in, to the rounding of float32, and an agent fitted to it must act in
its set of actions, at the data's states and beside them.
"""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
from campaign import Outcome, campaign
from isolated import COMPILING, Isolated, sentence
from pyarrow import parquet

import fittedq
from fittedq.data.dataset import COLUMNS, VECTORS, Dataset, action_bounds
from fittedq.data.description import Description
from fittedq.data.importers import import_dataset, open_source
from fittedq.data.quality import quality_of
from fittedq.errors import UserError

ROWS = 24
"""Of a dataset whose number of rows is not what is bad: few sizes, so that few programs are compiled."""
PER_KIND = 84


@dataclass
class Log:
    """Columns, bounds and names, good until a kind of badness has changed them."""

    columns: dict[str, Any]
    low: Any = -1.0
    high: Any = 1.0
    names: dict[str, list[str]] = field(default_factory=dict)
    """The file's names of a column, where they are not ours."""


def good(rng: np.random.Generator, rows: int = ROWS) -> Log:
    path = rng.normal(size=(rows + 1, 2)).astype(np.float32)
    ends = np.arange(rows) % 6 == 5
    return Log(
        {
            "obs": path[:-1].copy(),
            "action": rng.uniform(-1, 1, (rows, 1)).astype(np.float32),
            "reward": rng.normal(size=rows).astype(np.float32),
            "next_obs": path[1:].copy(),
            "terminated": ends & (rng.random(rows) < 0.5),
        }
    )


Kind = Callable[[Log, np.random.Generator], None]
KINDS: dict[str, Kind] = {}


def kind(change: Kind) -> Kind:
    """Register what makes a log bad, under its name in words."""
    KINDS[change.__name__.replace("_", " ")] = change
    return change


def one_of(rng: np.random.Generator, *choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def numbers(rng: np.random.Generator) -> str:
    return one_of(rng, "obs", "action", "reward", "next_obs")


@kind
def not_finite(log: Log, rng: np.random.Generator) -> None:
    column = log.columns[numbers(rng)]
    column[rng.random(column.shape) < one_of(rng, 0.05, 1.0)] = one_of(rng, np.nan, np.inf, -np.inf)
    column[int(rng.integers(len(column)))] = np.nan


@kind
def flags_as_words(log: Log, rng: np.random.Generator) -> None:
    yes, no = one_of(rng, ("True", "False"), ("yes", "no"), ("1", ""), ("1.5", "0"), ("T", "F"))
    log.columns["terminated"] = np.where(log.columns["terminated"], yes, no)


@kind
def flags_that_are_no_flags(log: Log, rng: np.random.Generator) -> None:
    flags = log.columns["terminated"].astype(one_of(rng, float, int, np.int8))
    flags[:3] = one_of(rng, 2, -1, 7)
    log.columns["terminated"] = flags


@kind
def constants(log: Log, rng: np.random.Generator) -> None:
    for name in one_of(rng, ("obs", "next_obs"), ("reward",), ("action",), ("obs", "next_obs", "action", "reward")):
        log.columns[name][:] = one_of(rng, 0.0, 1.0, -0.5, 0.25)


@kind
def one_row_or_none(log: Log, rng: np.random.Generator) -> None:
    rows = one_of(rng, 0, 1, 1, 2)
    log.columns = {name: column[:rows] for name, column in log.columns.items()}


@kind
def episodes_of_one_step(log: Log, rng: np.random.Generator) -> None:
    log.columns["terminated"][:] = False
    log.columns["truncated"] = np.ones(len(log.columns["reward"]), bool)
    if rng.random() < 0.5:
        del log.columns["next_obs"]


@kind
def terminated_everywhere(log: Log, rng: np.random.Generator) -> None:
    log.columns["terminated"][:] = True
    if rng.random() < 0.5:
        del log.columns["next_obs"]


@kind
def lengths_that_differ(log: Log, rng: np.random.Generator) -> None:
    name = one_of(rng, *log.columns)
    log.columns[name] = one_of(rng, log.columns[name][:-1], log.columns[name][:0], np.repeat(log.columns[name], 2, 0))


@kind
def actions_outside_the_bounds(log: Log, rng: np.random.Generator) -> None:
    log.columns["action"][int(rng.integers(ROWS))] = one_of(rng, 1.0000001, -1.5, 1e9, np.nextafter(1, 2), -3e38)


@kind
def bounds_that_bound_nothing(log: Log, rng: np.random.Generator) -> None:
    log.low, log.high = one_of(
        rng,
        (1, 1),
        (2, -2),
        (-np.inf, 1),
        (np.nan, 1),
        (-1, np.nan),
        ([-1, -1], [1, 1]),
        (-1, [1, 1, 1]),
        (1, 1 + 1e-9),
    )


@kind
def boxes_of_odd_sizes(log: Log, rng: np.random.Generator) -> None:
    scale = one_of(rng, 1e-30, 1e-12, 1e9, 1e18, 1e30, 1e38, 3e38)
    log.columns["action"] = (log.columns["action"].astype(float) * scale * 0.99).astype(np.float32)
    log.low, log.high = -scale, scale


@kind
def huge_rewards(log: Log, rng: np.random.Generator) -> None:
    log.columns["reward"] = log.columns["reward"].astype(float) * one_of(rng, 1e6, 1e12, 1e18, 1e22, 1e30, 1e37)


@kind
def rewards_beyond_float32(log: Log, rng: np.random.Generator) -> None:
    log.columns["reward"] = log.columns["reward"].astype(float)
    log.columns["reward"][int(rng.integers(ROWS))] = one_of(rng, 3.5e38, 1e39, 1e300, -1e39)


@kind
def huge_observations(log: Log, rng: np.random.Generator) -> None:
    scale = one_of(rng, 1e10, 1e19, 1e25, 1e37, 1e38)
    for name in ("obs", "next_obs"):
        log.columns[name] = np.clip(log.columns[name].astype(float), -3, 3) * scale


@kind
def huge_offsets(log: Log, rng: np.random.Generator) -> None:
    offset = one_of(rng, 1e5, 1e7, 1e9, 1e12, 1e20)
    for name in one_of(rng, ("obs", "next_obs"), ("reward",)):
        log.columns[name] = log.columns[name].astype(float) + offset


@kind
def columns_that_repeat(log: Log, rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        log.names["obs"] = ["obs_0", "obs_0"]
    else:
        for name in ("obs", "next_obs"):
            log.columns[name][:, 1] = log.columns[name][:, 0]


@kind
def columns_that_are_missing(log: Log, rng: np.random.Generator) -> None:
    for name in one_of(rng, ("obs",), ("action",), ("reward",), ("terminated",), ("next_obs",), ("obs", "reward")):
        del log.columns[name]


@kind
def names_in_other_letters(log: Log, rng: np.random.Generator) -> None:
    letters = one_of(rng, "θ", "状态", "ñ", "a b", "🙂", "x/y", "..", "obs[0]", "%s{}", "e\u0301")
    log.names["obs"] = [f"{letters}{axis}" for axis in range(2)]


@kind
def memory_laid_out_otherwise(log: Log, rng: np.random.Generator) -> None:
    lay = one_of(
        rng,
        np.asfortranarray,
        lambda array: np.repeat(array, 2, axis=0)[::2],
        lambda array: array[::-1].copy()[::-1],
        lambda array: np.broadcast_to(array[:1], array.shape),
        lambda array: array.astype(array.dtype.newbyteorder()),
    )
    log.columns = {name: lay(column) for name, column in log.columns.items()}


@kind
def objects(log: Log, rng: np.random.Generator) -> None:
    name = one_of(rng, *log.columns)
    column = log.columns[name].astype(object)
    column[0] = one_of(rng, None, "a", {}, 1.0, [1])
    log.columns[name] = column


@kind
def other_types_of_numbers(log: Log, rng: np.random.Generator) -> None:
    name = one_of(rng, "obs", "action", "reward")
    cast = one_of(rng, np.float16, np.int64, np.uint8, np.complex64, bool, np.int8, np.longdouble)
    with np.errstate(invalid="ignore"):
        log.columns[name] = np.abs(log.columns[name]).astype(cast)
    if name == "obs":
        log.columns["next_obs"] = np.roll(log.columns["obs"], -1, axis=0)


@kind
def denormals_and_negative_zeros(log: Log, rng: np.random.Generator) -> None:
    tiny = np.float32(one_of(rng, 1e-45, -1e-45, 1e-40, -0.0, 1e-38))
    for name in one_of(rng, ("obs", "next_obs"), ("reward",), ("action",)):
        column = log.columns[name]
        column[rng.random(column.shape) < one_of(rng, 0.5, 1.0)] = tiny


@kind
def timestamps(log: Log, rng: np.random.Generator) -> None:
    seconds = 1_700_000_000 + np.arange(len(log.columns["reward"]))
    log.columns["reward"] = one_of(
        rng, seconds, seconds.astype(float) * 1e3, seconds * 10**9, seconds.astype("datetime64[s]")
    )


@kind
def next_observations_of_elsewhere(log: Log, rng: np.random.Generator) -> None:
    log.columns["next_obs"] = rng.permutation(log.columns["next_obs"])


@kind
def rows_of_mixed_width(log: Log, rng: np.random.Generator) -> None:
    ragged = [list(row) for row in log.columns["obs"].astype(float)]
    ragged[int(rng.integers(len(ragged)))] = one_of(rng, [], [1.0], [1.0, 2.0, 3.0], ["", ""])
    log.columns["obs"] = ragged


# ---------------------------------------------------------------------- the ways in


def tall(log: Log) -> tuple[list[str], list[Any]]:
    """Numbered columns of a table, as names and lists."""
    names: list[str] = []
    lists: list[Any] = []
    for name, column in log.columns.items():
        if name not in VECTORS:
            names.append(name)
            lists.append(list(column))
            continue
        rows = [list(row) for row in column]
        width = max((len(row) for row in rows), default=0)
        names += log.names.get(name, [f"{name}_{axis}" for axis in range(width)])[:width]
        lists += [[row[axis] if axis < len(row) else None for row in rows] for axis in range(width)]
    return names, lists


def by_arrays(log: Log, folder: Path) -> Dataset:
    return Dataset.from_arrays(**dict.fromkeys(COLUMNS) | log.columns, action_low=log.low, action_high=log.high)


ONE = ("reward", "terminated", "truncated", "episode")
"""Columns that hold one number a row."""


def by_file(path: Path, log: Log) -> Dataset:
    named = {name: names[0] if name in ONE else tuple(names) for name, names in log.names.items()}
    source = open_source(path, description=Description(**named))
    box = action_bounds(log.low, log.high, 1)
    return import_dataset(source, out=path.with_name("out"), label=path.name, action_set=box)


def by_npz(log: Log, folder: Path) -> Dataset:
    arrays = {name: column if isinstance(column, np.ndarray) else None for name, column in log.columns.items()}
    for name, column in log.columns.items():
        if arrays[name] is None:
            arrays[name] = np.array(column, object)
    for name, names in log.names.items():
        if name in arrays:
            arrays |= dict(zip(names, np.asarray(arrays.pop(name)).T, strict=True))
    np.savez(folder / "log.npz", **arrays)
    return by_file(folder / "log.npz", log)


def by_csv(log: Log, folder: Path) -> Dataset:
    names, lists = tall(log)
    # Half precision prints fewer digits than it holds.
    lists = [[float(value) if isinstance(value, np.float16) else value for value in column] for column in lists]
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in range(max(map(len, lists), default=0)):
            writer.writerow([column[row] for column in lists if row < len(column)])
    return by_file(folder / "log.csv", log)


def by_parquet(log: Log, folder: Path) -> Dataset:
    names, lists = tall(log)
    try:
        table = pa.Table.from_arrays([pa.array(column) for column in lists], names)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return by_csv(log, folder)  # what Parquet cannot say at all
    parquet.write_table(table, folder / "log.parquet")
    return by_file(folder / "log.parquet", log)


def by_hdf5(log: Log, folder: Path) -> Dataset:
    try:
        with h5py.File(folder / "log.h5", "w") as file:
            for name, column in log.columns.items():
                if name in log.names:
                    for one, numbers_of in zip(log.names[name], np.asarray(column).T, strict=True):
                        file[one] = numbers_of
                else:
                    file[name] = column
    except (TypeError, ValueError, OSError):
        return by_npz(log, folder)  # what HDF5 cannot say at all
    return by_file(folder / "log.h5", log)


WAYS = (by_arrays, by_npz, by_csv, by_parquet, by_hdf5)
FITS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("explicit_fqi", {"maximizer": "grid", "epochs": 1, "minibatch": 8}),
    ("nfqca", {"epochs": 1, "policy_epochs": 1, "minibatch": 8}),
    ("explicit_fqi", {"approximator": "polynomial"}),
    ("nfqca", {"epochs": 1, "policy_epochs": 1, "minibatch": 8, "normalize_obs": False}),
    ("td3", {"batch_size": 8}),
)


def attempt(case: tuple[str, int], folder: Path) -> Outcome:
    """Survived: one sentence, or the numbers that were put in and an agent that acts in its set."""
    name, number = case
    rng = np.random.default_rng([sorted(KINDS).index(name), number])
    log = good(rng)
    KINDS[name](log, rng)
    way, (algorithm, settings) = WAYS[number % len(WAYS)], FITS[(number // len(WAYS)) % len(FITS)]
    stage = "import"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # What fittedq itself warns of is told; any other warning is a number that went wrong unsaid.
        warnings.filterwarnings("ignore", "rewards between|the policy takes the same action", RuntimeWarning)
        try:
            dataset = way(log, folder)
            wrong = changed(dataset, log)
            if wrong is None:
                quality_of(dataset)
                stage = "fit"
                wrong = misled(fittedq.fit(algorithm, dataset, steps=2, hidden=(4,), **settings), dataset)
            facts = {"became": "fitted"}
        except UserError as error:
            wrong, facts = sentence(error), {"became": f"refused by {stage}"}
    where = f"{way.__name__}, {algorithm}: "
    return Outcome(name, wrong is None, "" if wrong is None else where + wrong, facts)


def changed(dataset: Dataset, log: Log) -> str | None:
    """What a dataset holds that is not what was put in; where rows were left out, each must still be one of them."""
    for name in ("obs", "action", "reward"):
        put = np.asarray(log.columns[name]).astype(np.float32).reshape(len(log.columns[name]), -1)
        found = dataset.columns[name].reshape(len(dataset), -1)
        if len(put) == len(found):
            same = np.array_equal(put, found)
        else:
            same = all((row == put).all(axis=1).any() for row in found)
        if not same:
            return f"{name} is not what was put in"
    return None


def misled(agent: fittedq.Agent, dataset: Dataset) -> str | None:
    """What is wrong with an agent's actions at the data's states, at rest and far away."""
    obs = np.concatenate([dataset.columns["obs"], np.zeros((1, dataset.obs_size)), np.full((1, dataset.obs_size), 1e6)])
    action = agent.act(obs.astype(np.float32))
    if not np.isfinite(action).all():
        return "the agent's action is not finite"
    if not agent.action_set.contains(action, obs).all():
        return "the agent's action is outside its set"
    return None


def cases() -> dict[str, tuple[str, int]]:
    return {f"{name} {number}": (name, number) for name in KINDS for number in range(PER_KIND)}


def main() -> int:
    isolated = Isolated(attempt, COMPILING, seconds=180)
    return campaign(
        "datasets",
        "A bad dataset is refused in one sentence, or holds what was put in and gives an agent that acts in its set.",
        {name: partial(isolated, case) for name, case in cases().items()},
    )


if __name__ == "__main__":
    sys.exit(main())
