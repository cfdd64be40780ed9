"""Files that are whole or not there: temporary name, fsync, rename; folders of tensors with a manifest of hashes."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from fittedq.errors import UserError

FORMAT = 1
TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name, fsync, rename."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of readable JSON."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON in a file, or a UserError that names it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is not there; check the path.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} could not be read as JSON ({error}); it is damaged or not one of ours.") from None


def make_folder(path: Path) -> Path:
    """`path` as a writable folder, or a UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"folder {path} cannot be written ({error.strerror}); choose another with --out.") from None
    return path


def versions() -> dict[str, str]:
    """Of everything that decides what a run computes."""
    names = ("fittedq", "jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def save_folder(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """A folder of one tensor file and one manifest with its SHA-256, whole or not there."""
    settle(path)
    temporary, replaced = path.with_name(path.name + ".tmp"), path.with_name(path.name + ".old")
    for leftover in (temporary, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    data = safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    manifest = {
        "format": FORMAT,
        "files": {TENSORS: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}},
        "versions": versions(),
        **meta,
    }
    write_bytes(temporary / TENSORS, data)
    write_json(temporary / MANIFEST, manifest | {"sha256": _digest(manifest)})
    _fsync_folder(temporary)
    if path.exists():
        os.replace(path, replaced)
    os.replace(temporary, path)
    _fsync_folder(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def settle(path: Path) -> None:
    """Bring back the folder that `save_folder` was about to replace when it was cut short."""
    replaced = path.with_name(path.name + ".old")
    if replaced.is_dir() and not path.exists():
        os.replace(replaced, path)


def load_folder(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, manifest) of `save_folder`, every hash checked, or a UserError that says what is wrong."""
    settle(path)
    if not path.is_dir():
        raise UserError(f"{path} is not a folder that holds {MANIFEST} and {TENSORS}; check the path.")
    manifest = read_json(path / MANIFEST)
    digest = manifest.pop("sha256", None) if isinstance(manifest, dict) else None
    if not isinstance(manifest, dict) or "files" not in manifest:
        raise UserError(f"{path / MANIFEST}: the list of files is missing; it is damaged or not one of ours.")
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{path / MANIFEST}: format {manifest.get('format')!r}, expected {FORMAT}; "
            "it was written by another version of fittedq."
        )
    if digest != _digest(manifest):
        raise UserError(f"{path / MANIFEST}: its SHA-256 differs from its content's; it is damaged.")
    try:
        listed = {Path(name).name: (file["bytes"], file["sha256"]) for name, file in manifest["files"].items()}
    except (AttributeError, KeyError, TypeError):
        raise UserError(
            f"{path / MANIFEST}: the list of files cannot be read; it is damaged or not one of ours."
        ) from None
    tensors = b""
    for name, (size, digest) in listed.items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file} is missing, though the manifest lists it.")
        data = file.read_bytes()
        if len(data) != size:
            raise UserError(f"{file} has {len(data)} bytes, expected {size}; it is truncated or was changed.")
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{file}: its SHA-256 differs from the manifest's; it is damaged.")
        tensors = data if name == TENSORS else tensors
    try:
        return safetensors.numpy.load(tensors), manifest
    except safetensors.SafetensorError as error:
        raise UserError(f"{path / TENSORS} is no safetensors file ({error}).") from None


def _digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of the manifest's content, however it is laid out."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_folder(temporary: Path, path: Path, meta: dict[str, Any]) -> None:
    """Give a folder of finished files its manifest, on disk, and its name; `path` is absent or an empty folder."""
    files = {}
    for file in sorted(temporary.iterdir()):
        with open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        files[file.name] = {"sha256": digest, "bytes": file.stat().st_size}
    manifest = {"format": FORMAT, "files": files, "versions": versions(), **meta}
    write_json(temporary / MANIFEST, manifest | {"sha256": _digest(manifest)})
    _fsync_folder(temporary)
    os.replace(temporary, path)
    _fsync_folder(path.parent)
