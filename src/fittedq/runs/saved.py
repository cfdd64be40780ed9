"""What is saved under a path: the agent of a run or of a folder of its own, and where it came from."""

from __future__ import annotations

from pathlib import Path

from fittedq.agent import Agent
from fittedq.algorithms.saved import Code
from fittedq.errors import UserError
from fittedq.files import AGENT, faults
from fittedq.runs.folder import RunFolder


def find_agent(path: Path, code: Code = None) -> Agent:
    """The agent of an agent folder, or the best (else the last) of a run folder."""
    if (path / "config.json").is_file():
        for candidate in (path / "best", path / "last"):
            if candidate.is_dir():
                try:
                    RunFolder(path).check_agent(candidate)
                    return Agent.load(candidate, code)
                except UserError as error:
                    if not _damaged(candidate):
                        raise
                    last = path / "last"
                    whole = last.is_dir() and not _damaged(last)
                    todo = f"Take {last} instead." if whole else f"`fittedq resume {path}` writes {last} anew."
                    raise UserError(f"{error} {todo}") from None
        raise UserError(f"run folder {path} holds no saved agent yet; train it further first.")
    return Agent.load(path, code)


def learned_from(path: Path) -> Path | None:
    """The dataset that the run of this folder, or of the agent in this folder, learned from."""
    for folder in (path, path.parent):
        if (folder / "config.json").is_file():
            data = RunFolder(folder).config().get("data")
            return None if data is None else Path(data)
    return None


def without_env(path: Path) -> str:
    """Why no environment is known of this run or agent, as the end of a clause."""
    data = learned_from(path)
    return "names no environment" + ("" if data is None else f": it was learned from {data}")


def _damaged(folder: Path) -> bool:
    try:
        return bool(faults(folder, AGENT))
    except UserError:
        return True
