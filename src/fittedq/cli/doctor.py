"""`fittedq doctor`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import final

import numpy as np

from fittedq.cli.setpoints import print_json
from fittedq.cli.tables import print_rows
from fittedq.files import versions
from fittedq.machine import cores, processor

WIDE = ("avx512f", "avx2", "asimd")
"""Instructions that products of matrices are fast by, the widest first."""
LITTLE = 2**30
"""Bytes free on a disk below which runs may fill it."""


@final
@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    remedy: str = ""
    """What to do about it; empty where it is as it should be."""


@dataclass(frozen=True)
class Doctor:
    """Say what this machine and this installation have, and what is missing for which extra. The exit code is 1 if
    something needs a remedy without which runs are slow or fail."""

    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        found, extras = list(_machine()), list(_extras())
        if self.json:
            print_json({"findings": [asdict(one) for one in found], "extras": [asdict(one) for one in extras]})
        else:
            print_rows([[one.what, one.found] for one in (*found, *extras)], head=False)
            for one in (*found, *extras):
                if one.remedy:
                    print(f"{one.what}: {one.remedy}")
        return int(any(one.remedy for one in found))


def _machine() -> Iterator[Finding]:
    """What decides whether runs work, and how fast."""
    for name, version in versions().items():
        missing = "reinstall fittedq: it needs this." if version == "not installed" else ""
        yield Finding(name, version, missing)
    usable, all_cores = len(cores()), os.cpu_count() or 1
    held = "" if usable == all_cores else f"; this process may use {usable}"
    yield Finding("processor", f"{all_cores} cores{held}, {_instructions()}")
    blas = np.show_config("dicts")["Build Dependencies"]["blas"]  # pyright: ignore
    yield Finding("products on the host", f"{blas['name']} {blas['version']}")
    yield _device()
    yield _programs()
    free = shutil.disk_usage(".").free
    yield Finding("disk here", f"{free / 2**30:,.1f} GiB free", "make room: runs save checkpoints." * (free < LITTLE))


def _instructions() -> str:
    flags = set(processor().split())
    return next((name for name in WIDE if name in flags), "no wide instructions known")


def _device() -> Finding:
    """Where programs run, shown by running one."""
    import jax
    import jax.numpy as jnp

    try:
        device = jax.devices()[0]
        product = np.asarray(jax.jit(lambda x: x @ x)(jnp.eye(8) * 2))
    except Exception as error:  # a driver fails in ways of its own
        return Finding("programs run on", f"nothing: {str(error).splitlines()[0]}", "mend JAX's installation.")
    wrong = "a product of two matrices came out wrong: reinstall jaxlib." * (not np.array_equal(product, np.eye(8) * 4))
    return Finding("programs run on", f"{device.platform}: {device.device_kind}", wrong)


def _programs() -> Finding:
    """Where compiled programs are kept."""
    import jax

    from fittedq.programs import keep_programs

    keep_programs()
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder:
        why = "FITTEDQ_NO_CACHE is set" if "FITTEDQ_NO_CACHE" in os.environ else "its folder cannot be written"
        remedy = "every start compiles anew; set XDG_CACHE_HOME to a folder with room that is yours."
        return Finding("compiled programs", f"not kept: {why}", remedy)
    files = [file for file in Path(folder).rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 2**20
    return Finding("compiled programs", f"{len(files):,} files, {size:,.0f} MiB in {folder}")


def _extras() -> Iterator[Finding]:
    """Each extra, and what of it is not installed."""
    needs: dict[str, list[str]] = {}
    for line in metadata.requires("fittedq") or ():
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        name = re.match(r"[\w.-]+", line)
        if extra is not None and name is not None and name[0] != "fittedq":
            needs.setdefault(extra[1], []).append(name[0])
    for extra, names in needs.items():
        missing = [name for name in names if not _installed(name)]
        found = f"without {', '.join(missing)}" if missing else "installed"
        yield Finding(f"extra {extra}", found, f"pip install 'fittedq[{extra}]'" if missing else "")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
