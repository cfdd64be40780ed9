"""The folder of an exported controller: its files, and `export.json`, which says what they are and how they were
verified."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fittedq.errors import UserError
from fittedq.files import Scratch, check_file, is_free, read_signed, write_blocks, write_signed

EXPORT = "export.json"
BUILT, IMPORTED = f"build{os.sep}", f"__pycache__{os.sep}"
"""Where compilers put what they make of an export, and where Python does."""


def check_place(path: Path) -> None:
    """A UserError unless an export may be written at `path`: nothing is there, or an export as it was written."""
    if is_free(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise UserError(f"{path} is a file or a link, expected a folder or nothing; choose another name.")
    if not is_export(path):
        names = ", ".join(sorted(os.listdir(path))[:3])
        raise UserError(f"{path} holds what is no export ({names}) and is not replaced; choose another name.")
    changed = differences(path)
    if (path / BUILT).exists():
        changed.append(f"{path / BUILT} is none of its files.")
    if changed:
        raise UserError(f"{path} is an export that was changed since ({changed[0]}) and is not replaced; remove it.")


def is_export(path: Path) -> bool:
    """Whether an exported controller is in the folder."""
    return (path / EXPORT).is_file()


def read_export(path: Path) -> dict[str, Any]:
    """What `export.json` says, or a UserError."""
    if not is_export(path):
        raise UserError(f"{path} is no export: it holds no {EXPORT}; check the path.")
    told = read_signed(path / EXPORT)
    if not isinstance(told.get("files"), dict) or not isinstance(told.get("target"), str):
        raise UserError(f"{path / EXPORT}: it does not say what it is of; it is damaged.")
    return told


def differences(path: Path) -> list[str]:
    """What differs from the export as it was written, a sentence each."""
    try:
        listed = read_export(path)["files"]
    except UserError as error:
        return [str(error)]
    wrong = []
    for name, one in listed.items():
        try:
            check_file(path / name, one)
        except UserError as error:
            wrong.append(str(error))
    here = {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir() or file.is_symlink()}
    strange = sorted(name for name in here - {EXPORT, *listed} if not name.startswith((BUILT, IMPORTED)))
    return wrong + [f"{path / name} is none of its files." for name in strange]


def write_files(folder: Path, files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The files, with subfolders where their names say so; what `export.json` lists of them."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return {name: write_blocks(folder / name, (content,)) for name, content in files.items()}


def publish(scratch: Scratch, told: Mapping[str, Any]) -> None:
    """Give a finished folder its name; an export that is there goes."""
    write_signed(scratch.folder / EXPORT, told)
    check_place(scratch.path)
    scratch.replace()


def digest_of_agent(tensors: bytes, described: Mapping[str, Any]) -> str:
    """SHA-256 of an agent: its tensors, and all else that its files say."""
    return hashlib.sha256(tensors + json.dumps(described, sort_keys=True).encode()).hexdigest()
