"""Rows that only ever grow, in files that are never written twice.

A replay forgets its oldest rows and gains new ones, but a row never changes. So a checkpoint writes the rows that came
since the one before as a file of their own, a segment, and takes the older segments over by hard links: one is gone
from the disk when no checkpoint names it any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from fittedq.errors import UserError
from fittedq.files import BLOCK_BYTES, MANIFEST, Listed, check_file, part_name, temporary, write_blocks

SEGMENT_BYTES = 2**22
"""A last segment smaller than this is written again with the rows that follow: else a long run had too many files."""

Manifest = Mapping[str, Any]


class RowLog(NamedTuple):
    """Rows numbered in the order they came: row `first` and those after it, in consecutive parts."""

    first: int
    parts: tuple[Float[np.ndarray, "n width"], ...]

    @property
    def stop(self) -> int:
        """The number of the next row."""
        return self.first + sum(len(part) for part in self.parts)

    @property
    def width(self) -> int:
        return self.parts[0].shape[1]

    def since(self, number: int) -> Iterator[Float[np.ndarray, "n width"]]:
        """The rows from `number` on, some at a time."""
        start, size = self.first, max(1, BLOCK_BYTES // (4 * self.width))
        for part in self.parts:
            for low in range(max(number - start, 0), len(part), size):
                yield part[low : low + size]
            start += len(part)

    def all(self) -> Float[np.ndarray, "n width"]:
        """Every row held, the oldest first."""
        return np.concatenate(self.parts)


def write_rows(
    into: Path, logs: Mapping[str, RowLog], before: Path | None, manifest: Manifest
) -> tuple[Listed, dict[str, Any]]:
    """(files, what the manifest says of them): the rows of `logs` in a folder, linked from the checkpoint `before`
    (of that `manifest`) where they are there already."""
    files: Listed = {}
    described: dict[str, Any] = {}
    for name, log in logs.items():
        kept = _reusable(before, manifest, name, log)
        number = kept[-1]["stop"] if kept else log.first
        if kept and number < log.stop and manifest["files"][kept[-1]["file"]]["bytes"] < SEGMENT_BYTES:
            number = max(kept.pop()["first"], log.first)
        for place, segment in enumerate(kept):
            assert before is not None
            listed = manifest["files"][segment["file"]]
            if not _taken_over(before / segment["file"], into / segment["file"], listed):
                number = max(segment["first"], log.first)
                del kept[place:]
                break
            files[segment["file"]] = listed
        if number < log.stop:
            file = part_name(f"rows-{name}-{number}-{log.stop}", "f32")
            files[file] = write_blocks(into / file, map(_bytes, log.since(number)))
            kept.append({"file": file, "first": number, "stop": log.stop})
        described[name] = {"first": log.first, "width": log.width, "segments": kept}
    return files, described


def read_rows(path: Path, manifest: Manifest) -> dict[str, RowLog]:
    """The rows of a checkpoint whose files were checked, mapped: nothing is read before it is used."""
    try:
        return {name: _mapped(path, described) for name, described in manifest["rows"].items()}
    except (KeyError, TypeError, ValueError, OSError, AttributeError):
        raise UserError(
            f"{path / MANIFEST}: what it says of rows does not fit its files; it is damaged or not one of ours."
        ) from None


def _mapped(path: Path, described: Manifest) -> RowLog:
    first, parts = described["first"], [np.empty((0, described["width"]), np.float32)]
    for segment in described["segments"]:
        shape = (segment["stop"] - segment["first"], described["width"])
        parts.append(np.memmap(path / segment["file"], "<f4", "r", shape=shape)[max(first - segment["first"], 0) :])
    return RowLog(first, tuple(parts))


def _reusable(before: Path | None, manifest: Manifest, name: str, log: RowLog) -> list[dict[str, Any]]:
    """The segments of an earlier checkpoint that hold rows of `log`; none where anything of them is missing."""
    described = manifest.get("rows", {}).get(name)
    if before is None or described is None:
        return []
    segments = [segment for segment in described["segments"] if segment["stop"] > log.first]
    try:
        for segment in segments:
            check_file(before / segment["file"], manifest["files"][segment["file"]], content=False)
    except UserError:
        return []
    return segments


def _taken_over(source: Path, target: Path, listed: Mapping[str, Any]) -> bool:
    """Whether `target` is now the same file as `source`, or a whole copy of it where the file system has no links.

    What had that name before, from the same checkpoint saved earlier, is replaced: it may be damaged.
    """
    if target.exists() and target.samefile(source):
        return True
    unnamed = temporary(target.parent)
    try:
        os.link(source, unnamed)
    except OSError:
        with open(source, "rb") as file:
            return write_blocks(target, iter(lambda: file.read(BLOCK_BYTES), b"")) == dict(listed)
    os.replace(unnamed, target)
    return True


def _bytes(rows: Float[np.ndarray, "n width"]) -> memoryview:
    return np.ascontiguousarray(rows, "<f4").data.cast("B")
