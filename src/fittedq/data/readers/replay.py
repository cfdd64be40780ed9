"""The replay of a run of fittedq."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fittedq.actions.base import Box
from fittedq.control.state import AugmentedState
from fittedq.data.dataset import action_bounds, chunk_rows, chunks
from fittedq.data.readers.columns import Batch, Source
from fittedq.data.segments import read_rows
from fittedq.data.shaping import LogReading
from fittedq.errors import UserError, plural
from fittedq.files import CHECKPOINT, Json, load_folder, read_json
from fittedq.types import Transition


def read_replay(path: Path, reading: LogReading) -> Source:
    """The replay in a run's newest checkpoint (or in the checkpoint given), the oldest transition first."""
    checkpoint = path
    if (path / "checkpoints").is_dir():
        steps = [folder for folder in (path / "checkpoints").glob("step-*") if folder.name[5:].isdigit()]
        if not steps:
            raise UserError(f"run folder {path} holds no checkpoint; train it further first.")
        checkpoint = max(steps, key=lambda folder: folder.name)
    arrays, manifest = load_folder(checkpoint, CHECKPOINT)
    logs = read_rows(checkpoint, manifest)
    if "replay" not in logs:
        raise UserError(f"{checkpoint} holds no replay; give the folder that `fittedq train` made.")
    rows, obs = logs["replay"].all(), arrays["source/obs" if "source/obs" in arrays else "loop/obs"]
    if not len(rows):
        raise UserError(f"{checkpoint}: its replay is empty; train it further first.")
    n_envs, obs_size = obs.shape
    agent = _agent_of(path)
    bounds = None if agent is None else _outer_box(agent.get("action_set", agent))
    state = _augmented(path, agent)
    obs_size = obs_size if state is None else state.size
    # Behind a row may stand more: a state of the environment's own.
    action_size = rows.shape[1] - Transition.width(obs_size, 0) if bounds is None else bounds.size
    rows = rows[:, : Transition.width(obs_size, action_size)]
    order = by_environment(len(rows), int(manifest["trainer"]["step"]), n_envs)
    size = chunk_rows(rows.shape[1])
    source = Source(iter(()), -(-len(rows) // size), bounds)
    batches = _replay_batches(rows, order, obs_size, action_size, size, source.notes)
    source.batches = batches if state is None else ((state.raw(batch), keep) for batch, keep in batches)
    return source


def by_environment(count: int, step: int, n_envs: int) -> np.ndarray:
    """Indices of rows in order, by environment: n environments write in turn."""
    oldest = (step - count) % n_envs
    return np.concatenate([np.arange((env - oldest) % n_envs, count, n_envs) for env in range(n_envs)])


def _replay_batches(
    rows: np.ndarray, order: np.ndarray, obs_size: int, action_size: int, size: int, notes: list[str]
) -> Iterator[Batch]:
    cut = 0
    for part in chunks(len(order), size):
        batch = Transition.unpack(rows[order[part]], obs_size, action_size)
        following = rows[order[part.start + 1 : part.stop + 1], :obs_size]
        truncated = np.array(batch.truncated)
        # Where one environment's rows give way to another's, the episode does not run on.
        jumps = (batch.next_obs[: len(following)] != following).any(axis=1)
        jumps &= ~np.asarray(batch.terminated | batch.truncated)[: len(following)]
        truncated[: len(following)] |= jumps
        cut += int(jumps.sum())
        yield batch._replace(truncated=truncated), np.ones(len(truncated), bool)
    if cut:
        notes.append(
            f"{plural(cut, 'row is', 'rows are')} marked truncated, for the next row does not follow on (another "
            "environment's rows begin)."
        )


def _run_of(path: Path) -> Path:
    """The run's folder, of that or of a checkpoint in it."""
    return path if (path / "checkpoints").is_dir() else path.parent.parent


def _agent_of(path: Path) -> Json | None:
    """What the manifest of the run's agent says, where it has one."""
    for name in ("last", "best"):
        if (_run_of(path) / name / "manifest.json").is_file():
            return read_json(_run_of(path) / name / "manifest.json").get("agent", {})
    return None


def _augmented(path: Path, agent: Json | None) -> AugmentedState | None:
    """What its rows hold, where that is more than observations and actions."""
    if agent is not None:
        return agent.get("augmented") and AugmentedState.described(agent["augmented"], str(path))
    config = _run_of(path) / "config.json"
    if config.is_file() and "history" in read_json(config).get("settings", {}):
        raise UserError(f"run folder {path}: its rows hold a history, which only an agent of it explains; resume it.")
    return None


def _outer_box(description: Json) -> Box:
    """The bounds in an agent's description of its action set."""
    while "inner" in description:
        description = description["inner"]
    low, high = (description.get(name, description.get(f"action_{name}")) for name in ("low", "high"))
    return action_bounds(low, high)
