"""Minari folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fittedq.actions.base import Box
from fittedq.data.dataset import action_bounds, as_transition
from fittedq.data.readers.columns import Batch, Source, guarded
from fittedq.data.readers.hdf5 import flat_array, open_hdf5, refuse_links, whole_array
from fittedq.data.shaping import LogReading
from fittedq.errors import UserError, plural
from fittedq.files import Json, read_json

MINARI_SAYS = ("total_episodes", "action_space")
"""What is read of Minari's metadata, in its file or among the attributes of main_data.hdf5."""


def minari_folder(path: Path) -> Path | None:
    """The folder that holds main_data.hdf5."""
    return next((folder for folder in (path / "data", path) if (folder / "main_data.hdf5").is_file()), None)


def read_minari(path: Path, reading: LogReading) -> Source:
    """data/main_data.hdf5 with a group per episode, T + 1 observations and T of all else; data/metadata.json.

    Of the metadata only counts and the action space's bounds are read; no environment is made.
    """
    folder = minari_folder(path)
    if folder is None:
        raise UserError(f"{path} holds no data/main_data.hdf5; give the folder of a local Minari dataset in HDF5.")
    main = folder / "main_data.hdf5"
    metadata = read_json(folder / "metadata.json") if (folder / "metadata.json").is_file() else {}
    if not isinstance(metadata, dict):
        raise UserError(f"{folder / 'metadata.json'} holds no names and values; it is damaged or not Minari's.")
    with open_hdf5(main) as file:
        refuse_links(file, str(main))
        names = [name for name in file if name.startswith("episode_") and name[8:].isdecimal()]
        said = {
            name: file.attrs[name] for name in MINARI_SAYS if name in file.attrs and not file.attrs.get_id(name).shape
        }
    metadata = {name: value for name, value in said.items() if isinstance(value, str)} | metadata
    names.sort(key=lambda name: int(name[8:]))
    if not names:
        raise UserError(f"{main} holds no episodes (groups episode_0, episode_1, …); it is empty or not Minari's.")
    expected = metadata.get("total_episodes")
    if isinstance(expected, int) and expected != len(names):
        raise UserError(
            f"{main} holds {len(names)} episodes, its metadata.json says {expected}; it is incomplete: fetch it again."
        )
    source = Source(iter(()), len(names), _space_bounds(metadata.get("action_space")))
    source.batches = guarded(_minari_batches(main, names, source.notes), main)
    return source


def _minari_batches(main: Path, names: list[str], notes: list[str]) -> Iterator[Batch]:
    unfinished = 0
    with open_hdf5(main) as file:
        for name in names:
            group, label = file[name], f"{main}: {name}"
            missing = {"observations", "actions", "rewards", "terminations", "truncations"} - set(group)
            if missing:
                raise UserError(f"{label} has no {', '.join(sorted(missing))}; it is damaged or not Minari's.")
            refuse_links(group, label)
            obs, action = flat_array(group, "observations", label), flat_array(group, "actions", label)
            flags = [whole_array(group, key, label) for key in ("terminations", "truncations")]
            reward = whole_array(group, "rewards", label)
            length = len(reward)
            lengths = [len(obs) - 1, len(action), length, *map(len, flags)]
            lengths += [int(group.attrs["total_steps"])] if "total_steps" in group.attrs else []
            if length == 0:
                raise UserError(f"{label} has length zero; leave the episode out.")
            if len(set(lengths)) > 1:
                raise UserError(
                    f"{label}: found {len(obs)} observations, {len(action)} actions, {length} rewards, "
                    f"{len(flags[0])} terminations, {len(flags[1])} truncations"
                    + (f" and total_steps {lengths[-1]}" if len(lengths) > 5 else "")
                    + ", expected T + 1 observations and T of all else."
                )
            ends = np.flatnonzero(flags[0].astype(bool) | flags[1].astype(bool))
            if len(ends) and ends[0] != length - 1:
                raise UserError(
                    f"{label}: an end is flagged at step {ends[0] + 1} of {length}, expected none before the last step."
                )
            if not len(ends):
                flags[1] = np.arange(length) == length - 1
                unfinished += 1
            batch = as_transition(
                {
                    "obs": obs[:-1],
                    "action": action,
                    "reward": reward,
                    "next_obs": obs[1:],
                    "terminated": flags[0],
                    "truncated": flags[1],
                },
                label,
            )
            yield batch, np.ones(length, bool)
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
