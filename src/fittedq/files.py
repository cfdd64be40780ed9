"""Files that are whole or not there, and folders of them that replace nothing but their own kind.

A folder of ours holds tensors and a manifest with the SHA-256 of every file. A new one is written under an unguessable
name, fsynced, and renamed. One that is there is replaced through its manifest: new files get names of their own beside
the old ones, the manifest, which alone says what belongs to the folder, is replaced in one rename, and files of ours
that it no longer names are removed. So at every moment, also of a crash, the folder is the old one or the new one,
whole; a reader beside a writer finds one of the two; and nothing else that lies in the folder is ever touched.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import tomllib
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, final

import numpy as np
import safetensors
import safetensors.numpy

from fittedq import ending, memory
from fittedq.errors import UserError, in_one_line

Json: TypeAlias = Any
"""A value of a JSON file: whoever reads one checks what it holds."""

FORMAT = 2
MANIFEST = "manifest.json"
PREFIX = ".fittedq-"
UNFINISHED = "unfinished.json"
"""In a temporary folder: what is in it is worth something without the process that wrote it."""
AGENT, CHECKPOINT, DATASET, RUN = "agent", "checkpoint", "dataset", "run"
LOOKS = {AGENT: "fittedq inspect", CHECKPOINT: "fittedq verify", DATASET: "fittedq data check"}
"""The command that tells of a folder of this kind."""
RUNS_CONFIG, RUNS_OWN = "config.json", ("best", "last", "checkpoints")
"""In a run's folder: what the run is of, and the folders that it writes."""
BLOCK_BYTES = 2**24
MOST_JSON = 2**26
"""Bytes of the largest JSON file that is read: ours have some thousands."""
MOST_TOML = 2**20
"""Bytes of the largest TOML file that is read: what a user writes by hand has some thousands."""

_TEMPORARY = re.compile(re.escape(PREFIX) + "[0-9a-f]{16}")
_PART = re.compile(r"(tensors|rows-[\w-]+)-[0-9a-f]{16}\.(safetensors|f32)")

Listed = dict[str, dict[str, Any]]
"""{file: {"sha256", "bytes"}}: what a manifest says of a folder's files."""


# ---------------------------------------------------------------------- single files


LONGEST_NAME = 255
"""Bytes of a file's name that file systems take."""


def place(path: object, argument: str) -> Path:
    """`path`, a text or a Path, as a Path, or a UserError."""
    try:
        if isinstance(path, str | Path) and str(path) and b"\0" not in os.fsencode(path):
            if max(map(len, os.fsencode(path).split(b"/"))) <= LONGEST_NAME:
                return Path(path).expanduser()
            raise UserError(f"{str(path)[:100]} … has a part of more than {LONGEST_NAME} bytes.", argument=argument)
    except (UnicodeEncodeError, RuntimeError):  # the latter where nobody has that home
        pass
    raise UserError(f"found {path!r}, expected the name of a file or folder.", argument=argument)


def temporary(folder: Path) -> Path:
    """A name in `folder` that nobody else has."""
    return folder / f"{PREFIX}{secrets.token_hex(8)}"


def part_name(stem: str, suffix: str) -> str:
    """A name for a file of a folder of ours that no earlier one of its files had."""
    return f"{stem}-{secrets.token_hex(8)}.{suffix}"


def write_blocks(path: Path, blocks: Iterable[Any]) -> dict[str, Any]:
    """Write blocks of bytes under a temporary name, fsync, rename; the SHA-256 and the number of bytes."""
    unnamed, digest, size = temporary(path.parent), hashlib.sha256(), 0
    try:
        with open(unnamed, "xb") as file:
            for block in blocks:
                file.write(block)
                digest.update(block)
                size += len(block)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unnamed, path)
    except BaseException:
        unnamed.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
    return {"sha256": digest.hexdigest(), "bytes": size}


def write_bytes(path: Path, data: bytes) -> None:
    """`write_blocks` of one block."""
    write_blocks(path, (data,))


def check_parent(path: Path, argument: str) -> None:
    """A UserError where the folder of a file that is to be made is not there."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"found no folder {path.parent}; make it first.", argument=argument)


def write_table(path: Path, text: str, head_lines: int = 1) -> None:
    """Write a table, whole or not there; a UserError where `path` is anything but one with the same first lines."""
    head = "\n".join(text.split("\n")[:head_lines]).encode()
    try:
        if os.path.lexists(path) and (path.is_symlink() or path.read_bytes()[: len(head)] != head):
            raise UserError(f"{path} is none of fittedq's, and is not replaced; move it away.")
        write_bytes(path, text.encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}).") from None


def check_marked(path: Path, mark: bytes, called: str) -> None:
    """A UserError where `write_marked` could not write: for before the work whose result it is to hold."""
    try:
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file() or mark not in path.read_bytes()[:4096]):
            raise UserError(f"{path} is not a {called} that fittedq made, and is not replaced; move it away.")
        _check_writable(path.parent)
    except OSError as error:
        raise UserError(f"{called} {path} cannot be written ({error.strerror}).") from None


def write_marked(path: Path, data: bytes, mark: bytes, called: str) -> None:
    """Write a file that says with `mark`, near its beginning, that it is ours, whole or not there; a UserError where
    `path` is anything but an earlier one."""
    check_marked(path, mark, called)
    try:
        write_bytes(path, data)
    except OSError as error:
        raise UserError(f"{called} {path} cannot be written ({error.strerror}).") from None


def write_json(path: Path, value: Json) -> None:
    """`write_bytes` of readable JSON."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> Json:
    """The JSON in a file, or a UserError that names it."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is no file (a folder, a pipe or a device), expected JSON; check the path.")
        if found.st_size > MOST_JSON:
            raise UserError(
                f"{path} has {found.st_size:,} bytes, expected at most {MOST_JSON:,}; it is not one of ours."
            )
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is not there; check the path.") from None
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} could not be read as JSON ({in_one_line(error)}); it is damaged or not one of ours."
        ) from None


def read_toml(path: Path, argument: str | None = None) -> dict[str, Any]:
    """What a user wrote into a file of TOML, or a UserError that names it."""
    try:
        with path.open("rb") as file:  # a pipe, too
            text = file.read(MOST_TOML + 1)
        if len(text) > MOST_TOML:
            raise ValueError(f"it has more than {MOST_TOML:,} bytes")
        return tomllib.loads(text.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path.", argument=argument) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no TOML ({in_one_line(error)}); mend it there.", argument=argument) from None


def write_signed(path: Path, value: Mapping[str, Any]) -> None:
    """`write_json` of `value` with its own SHA-256 and the format's number."""
    value = {"format": FORMAT, **value}
    write_json(path, value | {"sha256": digest_of(value)})


def read_signed(path: Path) -> dict[str, Any]:
    """What `write_signed` wrote, or a UserError: of another format, edited, or damaged."""
    value = read_json(path)
    if not isinstance(value, dict) or "sha256" not in value:
        raise UserError(f"{path}: its SHA-256 is missing; it is damaged or not one of ours.")
    digest = value.pop("sha256")
    if value.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {value.get('format')!r}, expected {FORMAT}; it was written by another version of fittedq."
        )
    if digest != digest_of(value):
        raise UserError(f"{path}: its SHA-256 differs from its content's; it is damaged, or was edited.")
    return value


def digest_of(value: Json) -> str:
    """SHA-256 of a JSON value, however it is laid out."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_file(file: Path, listed: Mapping[str, Any], *, content: bool = True) -> None:
    """A UserError unless `file` has the size and (`content`) the SHA-256 that the manifest lists."""
    if not file.is_file():
        raise UserError(f"{file} is missing, though the manifest lists it.")
    try:
        with open(file, "rb") as stream:
            _check_size(file, os.fstat(stream.fileno()).st_size, listed)
            if content and hashlib.file_digest(stream, "sha256").hexdigest() != listed["sha256"]:
                raise UserError(f"{file}: its SHA-256 differs from the manifest's; it is damaged.")
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from None


def _check_size(file: Path, size: int, listed: Mapping[str, Any]) -> None:
    if size != listed["bytes"]:
        raise UserError(f"{file} has {size} bytes, expected {listed['bytes']}; it is truncated or was changed.")


def hash_file(path: Path) -> dict[str, Any]:
    """The SHA-256 and the number of bytes of a finished file, which is on disk when this returns."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return {"sha256": digest, "bytes": path.stat().st_size}


def fsync_folder(path: Path) -> None:
    """Names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------- locks and scratch


@final
class Lock:
    """An exclusive lock on a file or folder; the kernel releases it when this process ends, however it ends."""

    _all: ClassVar[weakref.WeakSet[Lock]] = weakref.WeakSet()

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        Lock._all.add(self)

    @staticmethod
    def take(path: Path, *, wait: bool = False, make: bool = False) -> Lock | None:
        """The lock, or None where another process has it; `make` makes the file.

        UserError: the name is a link, a pipe, or a second name of some file; what it leads to is nobody's to lock.
        """
        # A pipe would be waited for, a link followed.
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_RDWR | os.O_CREAT if make else os.O_RDONLY)
        try:
            descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            raise _strange(path) from None
        found = os.fstat(descriptor)
        if make and not (stat.S_ISREG(found.st_mode) and found.st_nlink == 1):
            os.close(descriptor)
            raise _strange(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        return Lock(descriptor)

    def note(self, text: str) -> None:
        """Write into the locked file."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def holds(self, path: Path) -> bool:
        """Whether what is locked still has this name."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give it back; once is enough, and the number of its descriptor may be another's from then on."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()

    @staticmethod
    def let_go() -> None:
        """In a forked child: locks are its parent's, and end with it."""
        for lock in Lock._all:
            lock.release()


os.register_at_fork(after_in_child=Lock.let_go)


def _strange(path: Path) -> UserError:
    return UserError(f"{path} is a link or a pipe, expected a file of ours; remove it.")


@final
class Scratch:
    """A folder under an unguessable name beside `path`: it becomes `path` at `publish`, and goes at `discard`.

    It is locked while in use: whoever finds one unlocked knows that its process died, and removes it unless it holds
    `UNFINISHED`.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        while True:
            self.folder = temporary(path.parent)
            self.folder.mkdir()
            lock = Lock.take(self.folder)
            # One who sweeps at this very moment may have been faster.
            if lock is not None and lock.holds(self.folder):
                self._lock = lock
                ending.begun.add(self.folder)
                return

    def publish(self) -> None:
        """Give the folder its name; `path` is absent or an empty folder."""
        fsync_folder(self.folder)
        with ending.unbroken:
            os.replace(self.folder, self.path)
        fsync_folder(self.path.parent)

    def replace(self) -> None:
        """`publish`, also where another folder is at `path`, which goes: at every moment, of a crash too, one of the
        two is there, whole.

        The two change places at once where that is known. Elsewhere the other one waits under a name that no `sweep`
        removes.
        """
        if is_free(self.path):
            self.publish()
            return
        fsync_folder(self.folder)
        with ending.unbroken:
            if not exchanged(self.folder, self.path):
                aside = self.path.with_name(f"{self.path.name}.before-{secrets.token_hex(4)}")
                os.replace(self.path, aside)
                try:
                    os.replace(self.folder, self.path)
                except BaseException:
                    os.replace(aside, self.path)
                    raise
                os.replace(aside, self.folder)
        fsync_folder(self.path.parent)

    def keep(self) -> None:
        """From now on it stays where the process ends at once: it holds `UNFINISHED`."""
        ending.begun.discard(self.folder)

    def discard(self) -> None:
        """Remove what was not published."""
        shutil.rmtree(self.folder, ignore_errors=True)
        ending.begun.discard(self.folder)
        self._lock.release()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *error: object) -> None:
        self.discard()


AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux: names are relative to where the process is; they change places."""


def exchanged(one: Path, other: Path) -> bool:
    """Whether two names have changed places, at once; False, and nothing has changed, where the system, its C library
    or the file system knows of no such thing. Source: renameat2(2)."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = (AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other))
    return rename is not None and rename(*names, RENAME_EXCHANGE) == 0


def sweep(folder: Path, *, alone: bool = False) -> None:
    """Remove temporary folders of processes that died; with `alone` (nobody else writes here) temporary files too."""
    for path in left_behind(folder):
        if not (path / UNFINISHED).exists():
            shutil.rmtree(path, ignore_errors=True)
    for entry in list(os.scandir(folder)) if alone else ():
        if _TEMPORARY.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False):
            Path(entry.path).unlink(missing_ok=True)


def left_behind(folder: Path) -> Iterator[Path]:
    """Temporary folders of processes that died, each locked while it is looked at."""
    for entry in list(os.scandir(folder)):
        if not _TEMPORARY.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            lock = Lock.take(Path(entry.path))
        except OSError:
            continue  # someone who sweeps was faster, or it is another user's
        if lock is not None:
            try:
                yield Path(entry.path)
            finally:
                lock.release()


# ---------------------------------------------------------------------- folders with a manifest


@contextmanager
def replacing(path: Path, kind: str) -> Iterator[Path]:
    """Where to write files and, last of all, the manifest of the `kind` of folder that `path` then is.

    UserError where `path` is anything but absent, empty, or a folder of this kind.
    """
    if not is_there(path, kind):
        with Scratch(path) as scratch:
            yield scratch.folder
            scratch.publish()
        return
    lock = Lock.take(path, wait=True)
    assert lock is not None
    try:
        yield path
    finally:
        remove_unlisted(path)
        lock.release()


def is_free(path: Path) -> bool:
    """Whether nothing, or an empty folder, is at `path`; a UserError where that is no name."""
    if path.name in ("", ".."):
        raise UserError(f"{str(path)!r} is no name for a folder of its own; give one.")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(mode) and not os.listdir(path)


def is_there(path: Path, kind: str) -> bool:
    """Whether a folder of this kind is at `path`; False where it `is_free`, a UserError for all else."""
    if is_free(path):
        return False
    if path.is_symlink():
        raise UserError(f"{path} is a link, which is not replaced; name the folder itself.")
    if not path.is_dir():
        raise UserError(f"{path} is a file, expected a folder or nothing; choose another name.")
    names = os.listdir(path)
    try:
        manifest = read_json(path / MANIFEST)
        ours = isinstance(manifest, dict) and manifest.get("kind") == kind
    except UserError:
        # Damaged, and yet certainly ours: no one else gives such names, and nothing else is in it.
        ours = MANIFEST in names and any(map(_PART.fullmatch, names)) and all(map(_is_ours, names))
    if not ours:
        raise UserError(
            f"{path} holds what is not {article(kind)}'s ({', '.join(sorted(names)[:3])}{', …' * (len(names) > 3)}) "
            "and is not replaced; choose another name."
        )
    return True


def refuse_runs_own(path: Path, argument: str) -> None:
    """A UserError where a run keeps something of its own there."""
    path = Path(os.path.realpath(path))  # also of a link that goes round, which `resolve` raises at
    if path.name in RUNS_OWN and (path.parent / RUNS_CONFIG).is_file():
        raise UserError(
            f"{path} belongs to a run, which keeps its own agents and checkpoints there; choose another folder.",
            argument=argument,
        )


def save_folder(path: Path, kind: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """A folder of one tensor file and a manifest, whole or not there; only one of the same kind is replaced."""
    with replacing(path, kind) as folder:
        write_manifest(folder, kind, write_tensors(folder, arrays), meta)


def write_tensors(folder: Path, arrays: Mapping[str, np.ndarray]) -> Listed:
    """Arrays as one safetensors file."""
    name = part_name("tensors", "safetensors")
    data = safetensors.numpy.save({key: np.asarray(array, order="C") for key, array in arrays.items()})
    return {name: write_blocks(folder / name, (data,))}


def write_manifest(folder: Path, kind: str, files: Listed, meta: Mapping[str, Any]) -> None:
    """What makes files a folder of this kind; they are on disk already."""
    write_signed(folder / MANIFEST, {"kind": kind, "files": files, "versions": versions(), **meta})


def read_manifest(path: Path, kind: str) -> dict[str, Any]:
    """The manifest of a folder of this kind, or a UserError."""
    if not (path / MANIFEST).exists():
        raise UserError(f"{path} is not {article(kind)}: it is no folder that holds {MANIFEST}; check the path.")
    manifest = read_signed(path / MANIFEST)
    found = manifest.get("kind")
    if found != kind:
        looks = f", or look at this one with `{LOOKS[found]} {path}`" if found in LOOKS else ""
        raise UserError(f"{path} is {article(found)}, expected {article(kind)}; name the folder of one{looks}.")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        Path(name).name == name and isinstance(listed, dict) and {"bytes", "sha256"} <= listed.keys()
        for name, listed in files.items()
    ):
        raise UserError(f"{path / MANIFEST}: the list of files cannot be read; it is damaged or not one of ours.")
    return manifest


def load_folder(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, manifest) of a folder of this kind, every hash checked, or a UserError that says what is wrong."""
    while True:
        manifest = read_manifest(path, kind)
        try:
            return _checked(path, manifest["files"]), manifest
        except UserError:
            # A file goes only after a manifest that does not name it has come: then the newer folder is there to read.
            if read_manifest(path, kind) == manifest:
                raise


def faults(path: Path, kind: str) -> list[str]:
    """All that is wrong with the files of a folder of this kind, a sentence each."""
    while True:
        found, manifest = [], read_manifest(path, kind)
        for name, listed in manifest["files"].items():
            try:
                check_file(path / name, listed)
            except UserError as error:
                found.append(str(error))
        if not found or read_manifest(path, kind) == manifest:
            return found


def remove_folder(path: Path) -> None:
    """Remove a folder of ours, at once; one that holds anything else is left as it is."""
    if path.is_dir() and all(map(_is_ours, os.listdir(path))):
        unnamed = temporary(path.parent)
        os.replace(path, unnamed)
        shutil.rmtree(unnamed, ignore_errors=True)


def make_folder(path: Path) -> Path:
    """`path` as a writable folder, or a UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        _check_writable(path)
    except OSError as error:
        raise UserError(f"folder {path} cannot be written ({error.strerror}); choose another.") from None
    return path


def check_folder(path: Path) -> None:
    """A UserError where `make_folder` would fail; nothing is made."""
    try:
        _check_writable(next(one for one in (path, *path.absolute().parents) if os.path.lexists(one)))
    except OSError as error:
        raise UserError(f"folder {path} cannot be written ({error.strerror}); choose another.") from None


def _check_writable(folder: Path) -> None:
    """An OSError where no file can be made in it."""
    probe = temporary(folder)
    probe.touch(exist_ok=False)
    probe.unlink()


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


def article(kind: object) -> str:
    """`an agent`, `a run`."""
    return f"{'an' if str(kind)[:1] in 'aeiou' else 'a'} {kind}"


def _checked(path: Path, files: Listed) -> dict[str, np.ndarray]:
    """The tensors of a folder whose every file is what the manifest lists."""
    tensors = [name for name in files if name.endswith(".safetensors")]
    if len(tensors) != 1:
        raise UserError(f"{path / MANIFEST} lists {len(tensors)} safetensors files, expected one; it is damaged.")
    for name in files.keys() - set(tensors):
        check_file(path / name, files[name])
    file, listed = path / tensors[0], files[tensors[0]]
    # Size first, for memory is claimed by it; then the very bytes that are read are checked.
    check_file(file, listed, content=False)
    memory.require(2 * listed["bytes"], f"{file}", "load it on a larger machine")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from None
    if hashlib.sha256(data).hexdigest() != listed["sha256"]:
        raise UserError(f"{file}: its SHA-256 differs from the manifest's; it is damaged.")
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{file} is no safetensors file of numbers ({in_one_line(error)}).") from None


def remove_unlisted(path: Path) -> None:
    """Remove files of ours that the manifest does not name."""
    try:
        kept = {MANIFEST, *read_signed(path / MANIFEST)["files"]}
    except UserError:
        return
    for name in os.listdir(path):
        if name not in kept and _is_ours(name):
            (path / name).unlink(missing_ok=True)


def _is_ours(name: str) -> bool:
    return name == MANIFEST or bool(_PART.fullmatch(name) or _TEMPORARY.fullmatch(name))
