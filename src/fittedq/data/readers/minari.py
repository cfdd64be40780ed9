"""Minari folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from fittedq.actions.base import Box
from fittedq.data.dataset import action_bounds, as_transition
from fittedq.data.readers.cells import ArrowArray, vectors
from fittedq.data.readers.columns import Batch, Source, check_held, guarded, library
from fittedq.data.readers.hdf5 import MOST_NESTED, flat_array, open_hdf5, refuse_links, whole_array
from fittedq.data.shaping import LogReading
from fittedq.errors import UserError, plural
from fittedq.files import Json, read_json

MINARI_SAYS = ("total_episodes", "action_space")
"""What is read of Minari's metadata, in its file or among the attributes of main_data.hdf5."""


def minari_folder(path: Path) -> Path | None:
    """The folder of Minari's data: it holds main_data.hdf5, or a metadata.json that names another format."""
    for folder in (path / "data", path):
        if (folder / "main_data.hdf5").is_file() or _format(folder) in ARROW:
            return folder
    return None


ARROW = ("arrow", "parquet")
"""Minari's formats that are a folder of tables for each episode."""


def _format(folder: Path) -> object:
    """What metadata.json says of the data's format; None where it says nothing."""
    file = folder / "metadata.json"
    metadata = read_json(file) if file.is_file() else None
    return metadata.get("data_format") if isinstance(metadata, dict) else None


def read_minari(path: Path, reading: LogReading) -> Source:
    """Episodes of T + 1 observations and T of all else: groups of data/main_data.hdf5, or a folder of tables for each
    (data_format arrow or parquet in data/metadata.json).

    Of the metadata only counts, the format and the action space's bounds are read; no environment is made.
    """
    folder = minari_folder(path)
    if folder is None:
        raise UserError(f"{path} holds no data/main_data.hdf5; give the folder of a local Minari dataset.")
    metadata = read_json(folder / "metadata.json") if (folder / "metadata.json").is_file() else {}
    if not isinstance(metadata, dict):
        raise UserError(f"{folder / 'metadata.json'} holds no names and values; it is damaged or not Minari's.")
    main = folder / "main_data.hdf5"
    if main.is_file():
        names, said = _groups(main)
        metadata = said | metadata
        episodes = _of_hdf5(main, names)
    else:
        main = folder
        names = sorted((one.name for one in folder.iterdir() if one.name.isdecimal()), key=int)
        episodes = _of_tables(folder, names, str(metadata["data_format"]))
    if not names:
        raise UserError(f"{main} holds no episodes (groups episode_0, episode_1, …); it is empty or not Minari's.")
    expected = metadata.get("total_episodes")
    if isinstance(expected, int) and expected != len(names):
        raise UserError(
            f"{main} holds {len(names)} episodes, its metadata.json says {expected}; it is incomplete: fetch it again."
        )
    source = Source(iter(()), len(names), _space_bounds(metadata.get("action_space")))
    source.batches = guarded(_minari_batches(episodes, source.notes), main)
    return source


def _groups(main: Path) -> tuple[list[str], dict[str, Json]]:
    """The names of a file's episodes in order, and what its attributes say."""
    with open_hdf5(main) as file:
        refuse_links(file, str(main))
        names = [name for name in file if name.startswith("episode_") and name[8:].isdecimal()]
        said = {
            name: file.attrs[name] for name in MINARI_SAYS if name in file.attrs and not file.attrs.get_id(name).shape
        }
    return sorted(names, key=lambda name: int(name[8:])), {
        name: value for name, value in said.items() if isinstance(value, str)
    }


Episode = tuple[str, dict[str, np.ndarray], list[int]]
"""What an episode is called, its arrays by Minari's names, and how many steps it says it has."""

PARTS = ("observations", "actions", "rewards", "terminations", "truncations")


def _of_hdf5(main: Path, names: list[str]) -> Iterator[Episode]:
    with open_hdf5(main) as file:
        for name in names:
            group, label = file[name], f"{main}: {name}"
            _refuse_missing(group, label)
            refuse_links(group, label)
            arrays = {
                key: flat_array(group, key, label) if key in PARTS[:2] else whole_array(group, key, label)
                for key in PARTS
            }
            yield label, arrays, [int(group.attrs["total_steps"])] if "total_steps" in group.attrs else []


def _of_tables(folder: Path, names: list[str], format: str) -> Iterator[Episode]:
    """Episodes of T + 1 rows each; in the last, all but the observation is padding."""
    library("pyarrow", folder)
    from pyarrow import dataset

    for name in names:
        label = f"{folder}: {name}"
        files = sorted(file for file in (folder / name).iterdir() if file.suffix == f".{format}")
        for file in files:
            if file.is_symlink() or (folder / name).is_symlink():
                raise UserError(f"{file} is a link to another place, expected numbers in the folder itself.")
            check_held(file.stat().st_size, str(file))
        if not files:
            raise UserError(f"{label} holds no file of the format {format}; it is incomplete: fetch it again.")
        found = dataset.dataset([str(file) for file in files], format=format)
        _refuse_missing(found.schema.names, label)
        table = found.to_table(columns=list(PARTS)).combine_chunks()
        arrays = {key: _flat_cells(table.column(key).combine_chunks(), key, label) for key in PARTS}
        yield label, {key: array if key == "observations" else array[:-1] for key, array in arrays.items()}, []


def _flat_cells(cells: ArrowArray, key: str, label: str, depth: int = 0) -> np.ndarray:
    """A column as [T, size], or [T] of flags and rewards; parts of a Dict or Tuple space side by side, as Gymnasium has
    them."""
    import pyarrow as pa

    kind = cells.type
    if pa.types.is_struct(kind):
        if depth == MOST_NESTED or not kind.num_fields:
            raise UserError(f"{label}: {key} is an empty group or lies deep in others, expected numbers.")
        names = sorted((kind.field(place).name for place in range(kind.num_fields)), key=_in_order)
        return np.concatenate([_flat_cells(cells.field(name), key, label, depth + 1) for name in names], axis=1)
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return vectors(cells, key, label)
    if key in PARTS[:2]:
        raise UserError(f"{label}: {key} has type {kind}, expected lists of numbers: continuous, not discrete.")
    return cells.to_numpy(zero_copy_only=False)


def _in_order(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else 0, name)


def _refuse_missing(there: Iterable[str], label: str) -> None:
    missing = set(PARTS) - set(there)
    if missing:
        raise UserError(f"{label} has no {', '.join(sorted(missing))}; it is damaged or not Minari's.")


def _minari_batches(episodes: Iterator[Episode], notes: list[str]) -> Iterator[Batch]:
    unfinished = 0
    for label, arrays, said in episodes:
        obs, action, reward, terminated, truncated = (arrays[key] for key in PARTS)
        length = len(reward)
        lengths = [len(obs) - 1, len(action), length, len(terminated), len(truncated), *said]
        if length == 0:
            raise UserError(f"{label} has length zero; leave the episode out.")
        if len(set(lengths)) > 1:
            raise UserError(
                f"{label}: found {len(obs)} observations, {len(action)} actions, {length} rewards, "
                f"{len(terminated)} terminations, {len(truncated)} truncations"
                + (f" and total_steps {said[0]}" if said else "")
                + ", expected T + 1 observations and T of all else."
            )
        ends = np.flatnonzero(terminated.astype(bool) | truncated.astype(bool))
        if len(ends) and ends[0] != length - 1:
            raise UserError(
                f"{label}: an end is flagged at step {ends[0] + 1} of {length}, expected none before the last step."
            )
        if not len(ends):
            truncated = np.arange(length) == length - 1
            unfinished += 1
        columns = {"obs": obs[:-1], "action": action, "reward": reward, "next_obs": obs[1:]}
        flags = {"terminated": terminated, "truncated": truncated}
        yield as_transition(columns | flags, label), np.ones(length, bool)
    if unfinished:
        notes.append(
            f"{plural(unfinished, 'episode ends', 'episodes end')} without a flag; the last row is marked truncated."
        )


def _space_bounds(text: Json) -> Box | None:
    """The bounds of a serialized Box; None where it says none that are finite."""
    try:
        space = json.loads(text)
        low, high = np.asarray(space["low"], float).ravel(), np.asarray(space["high"], float).ravel()
        return action_bounds(low, high) if space["type"] == "Box" else None
    except (TypeError, ValueError, KeyError):
        # Also infinite bounds: a UserError is a ValueError.
        return None
