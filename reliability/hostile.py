"""Files made to harm: each is refused in one sentence, soon, and before it could claim memory or reach outside itself.

python reliability/hostile.py
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import socket
import struct
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
from campaign import Outcome, campaign
from flips import made, make_run
from isolated import COMPILING, READING, Isolated, sentence
from pyarrow import parquet

import fittedq
from fittedq.data.dataset import COLUMNS as KEPT
from fittedq.data.dataset import Dataset
from fittedq.data.importers import import_dataset, open_source
from fittedq.errors import UserError
from fittedq.files import hash_file, write_signed
from fittedq.runs.resume import reopened

Case = Callable[[Path], Any]
CASES: dict[str, Case] = {}
"""By name, what makes the file in a folder and then does with it what a user would."""
ROWS = 4
COLUMNS: dict[str, np.ndarray] = {
    "obs": np.zeros((ROWS, 2), np.float32),
    "action": np.linspace(-1, 1, ROWS, dtype=np.float32)[:, None],
    "reward": np.ones(ROWS, np.float32),
    "next_obs": np.zeros((ROWS, 2), np.float32),
    "terminated": np.zeros(ROWS, bool),
}


def case(made: Case) -> Case:
    """Register a case under its name in words."""
    CASES[made.__name__.replace("_", " ")] = made
    return made


def imported(path: Path, format: str = "auto") -> None:
    """What `fittedq data import` does."""
    import_dataset(open_source(path, format), out=path.with_name("out"), label=str(path))


# ---------------------------------------------------------------------- .npz


def header(shape: tuple[int, ...], descr: Any = "<f4", fortran: bool = False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return file.getvalue()


def npz(folder: Path, declared: dict[str, int] | None = None, **members: bytes) -> Path:
    """The good columns with some replaced by these bytes, of which the archive says that they are `declared` long."""
    path = folder / "log.npz"
    arrays = {name: header(a.shape, a.dtype.str) + a.tobytes() for name, a in COLUMNS.items()} | members
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
        for info in archive.filelist:
            info.file_size = (declared or {}).get(info.filename.removesuffix(".npy"), info.file_size)
    return path


def declared_npz(folder: Path, name: str, shape: tuple[int, ...], fortran: bool = False) -> None:
    """A column whose header and whose archive both declare this shape, and which holds nothing."""
    start = header(shape, fortran=fortran)
    imported(npz(folder, {name: min(len(start) + 4 * math.prod(shape), 2**62)}, **{name: start}))


@case
def npz_with_a_row_of_3e8_numbers(folder: Path) -> None:
    declared_npz(folder, "obs", (ROWS, 300_000_000))


@case
def npz_of_3e12_rows(folder: Path) -> None:
    start = {name: header((3 * 10**12, *array.shape[1:]), array.dtype.str) for name, array in COLUMNS.items()}
    sizes = {
        name: len(start[name]) + 3 * 10**12 * array.dtype.itemsize * array[0].size for name, array in COLUMNS.items()
    }
    imported(npz(folder, sizes, **start))


@case
def npz_in_fortran_order_of_8_gigabytes(folder: Path) -> None:
    columns = {name: header((10**9, *a.shape[1:]), a.dtype.str, fortran=True) for name, a in COLUMNS.items()}
    sizes = {name: len(columns[name]) + 10**9 * a.dtype.itemsize * a[0].size for name, a in COLUMNS.items()}
    imported(npz(folder, sizes, **columns))


@case
def npz_whose_header_declares_more_than_it_holds(folder: Path) -> None:
    imported(npz(folder, obs=header((ROWS, 300_000_000)) + bytes(32)))


@case
def npz_with_a_shape_that_overflows(folder: Path) -> None:
    declared_npz(folder, "obs", (ROWS, 2**40, 2**40))


@case
def npz_with_a_negative_shape(folder: Path) -> None:
    imported(npz(folder, obs=header((-4, 2)) + bytes(32)))


@case
def npz_with_a_pickle(folder: Path) -> None:
    # What NumPy would unpickle, if it were asked to: a call of os.mkdir.
    spell = b"cos\nmkdir\n(S'" + str(folder / "harm").encode() + b"'\ntR."
    imported(npz(folder, obs=header((ROWS, 2), "|O") + spell))


@case
def npz_with_a_header_of_a_million_characters(folder: Path) -> None:
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"4," * 500_000 + b")}\n"
    imported(npz(folder, obs=b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text))


@case
def npz_with_a_header_that_is_code(folder: Path) -> None:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os').mkdir({str(folder / 'harm')!r})}}\n"
    imported(npz(folder, obs=b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text.encode()))


@case
def npz_with_records_of_a_gigabyte(folder: Path) -> None:
    imported(npz(folder, obs=header((ROWS,), [("x", "V1000000000")]) + bytes(32)))


@case
def npz_with_bounds_of_1e9_numbers(folder: Path) -> None:
    start = header((10**9,))
    imported(npz(folder, {"action_low": len(start) + 4 * 10**9}, action_low=start, action_high=start))


@case
def npz_by_an_unknown_method(folder: Path) -> None:
    path = npz(folder)
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = data.find(magic)
        data[at + offset : at + offset + 2] = struct.pack("<H", 97)
    path.write_bytes(data)
    imported(path)


@case
def npz_said_to_be_encrypted(folder: Path) -> None:
    path = npz(folder)
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(magic) + offset] |= 1
    path.write_bytes(data)
    imported(path)


@case
def npz_with_a_column_twice(folder: Path) -> None:
    path = npz(folder)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("obs.npz", header((ROWS, 2)) + bytes(32))
        archive.filelist[-1].filename = "obs.npy"
    imported(path)


# ---------------------------------------------------------------------- HDF5


def hdf5(folder: Path, but: str | None = None) -> tuple[h5py.File, Path]:
    path = folder / "log.h5"
    file = h5py.File(path, "w")
    for name, array in COLUMNS.items():
        if name != but:
            file[name] = array
    return file, path


def declared_hdf5(folder: Path, shape: tuple[int, ...], **options: Any) -> None:
    """Every column of HDF5 with so many rows, and obs of this shape; nothing of it is stored."""
    path = folder / "log.h5"
    with h5py.File(path, "w") as file:
        for name, array in COLUMNS.items():
            whole = shape if name == "obs" else (shape[0], *array.shape[1:])
            file.create_dataset(name, whole, array.dtype, **options)
    imported(path)


@case
def hdf5_of_1e13_rows(folder: Path) -> None:
    declared_hdf5(folder, (10**13, 2))


@case
def hdf5_of_1e13_rows_in_chunks(folder: Path) -> None:
    path = folder / "log.h5"
    with h5py.File(path, "w") as file:
        for name, array in COLUMNS.items():
            rows = file.create_dataset(name, (10**13, *array.shape[1:]), array.dtype, chunks=(1024, *array.shape[1:]))
            rows[:ROWS] = array
    imported(path)


@case
def hdf5_of_1e9_columns(folder: Path) -> None:
    declared_hdf5(folder, (ROWS, 10**9), chunks=True)


@case
def hdf5_with_a_chunk_of_3_gigabytes(folder: Path) -> None:
    path = folder / "log.h5"
    with h5py.File(path, "w") as file:
        for name, array in COLUMNS.items():
            if name == "obs":
                rows = file.create_dataset(
                    name, (ROWS, 2), "f4", maxshape=(None, 2), chunks=(3 * 2**27, 2), compression=1
                )
                # The bytes of a chunk as they are stored, so that nobody has to hold 3 GB to write them.
                rows.id.write_direct_chunk((0, 0), b"\x78\x9c" + bytes(64))
            else:
                file[name] = array
    imported(path)


@case
def hdf5_stored_in_another_file(folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(32))
    file, path = hdf5(folder, but="obs")
    with file:
        file.create_dataset("obs", (ROWS, 2), "f4", external=[(str(folder / "secret"), 0, 32)])
    imported(path)


@case
def hdf5_of_a_virtual_dataset(folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["obs"] = COLUMNS["obs"]
    file, path = hdf5(folder, but="obs")
    with file:
        layout = h5py.VirtualLayout((ROWS, 2), "f4")
        layout[:] = h5py.VirtualSource(folder / "other.h5", "obs", (ROWS, 2))
        file.create_virtual_dataset("obs", layout)
    imported(path)


@case
def hdf5_with_a_link_to_another_file(folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["obs"] = COLUMNS["obs"]
    file, path = hdf5(folder, but="obs")
    with file:
        file["obs"] = h5py.ExternalLink(str(folder / "other.h5"), "/obs")
    imported(path)


@case
def hdf5_with_a_link_in_a_circle(folder: Path) -> None:
    file, path = hdf5(folder, but="obs")
    with file:
        file["obs"] = h5py.SoftLink("/obs")
    imported(path)


@case
def hdf5_with_a_column_of_no_shape(folder: Path) -> None:
    file, path = hdf5(folder, but="obs")
    with file:
        file["obs"] = h5py.Empty("f4")
    imported(path)


@case
def hdf5_with_columns_of_strings(folder: Path) -> None:
    file, path = hdf5(folder, but="reward")
    with file:
        file.create_dataset("reward", data=["1"] * ROWS, dtype=h5py.string_dtype())
    imported(path)


# ---------------------------------------------------------------------- Minari


def minari(folder: Path, metadata: str = "{}", change: Callable[[h5py.Group], None] = lambda group: None) -> Path:
    (folder / "log" / "data").mkdir(parents=True)
    with h5py.File(folder / "log" / "data" / "main_data.hdf5", "w") as file:
        group = file.create_group("episode_0")
        group["observations"] = np.zeros((ROWS + 1, 2), np.float32)
        group["actions"], group["rewards"] = COLUMNS["action"], COLUMNS["reward"]
        group["terminations"] = group["truncations"] = np.zeros(ROWS, bool)
        change(group)
    (folder / "log" / "data" / "metadata.json").write_text(metadata)
    return folder / "log"


def exchanged(name: str, value: Any, group: h5py.Group) -> None:
    del group[name]
    group[name] = value


@case
def minari_with_an_episode_elsewhere(folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["actions"] = COLUMNS["action"]
    imported(
        minari(folder, change=partial(exchanged, "actions", h5py.ExternalLink(str(folder / "other.h5"), "/actions")))
    )


@case
def minari_with_a_space_inside_itself(folder: Path) -> None:
    def circle(group: h5py.Group) -> None:
        del group["observations"]
        spaces = group.create_group("observations")
        spaces["inner"] = spaces

    imported(minari(folder, change=circle))


@case
def minari_with_an_episode_of_1e12_steps(folder: Path) -> None:
    def long(group: h5py.Group) -> None:
        for name, shape in (("observations", (10**12 + 1, 2)), ("actions", (10**12, 1)), ("rewards", (10**12,))):
            del group[name]
            group.create_dataset(name, shape, "f4", chunks=True)
            group[name][:1] = 0

    imported(minari(folder, change=long))


@case
def minari_whose_metadata_is_a_million_brackets(folder: Path) -> None:
    imported(minari(folder, "[" * 1_000_000))


@case
def minari_whose_action_space_is_a_million_brackets(folder: Path) -> None:
    imported(minari(folder, json.dumps({"action_space": "[" * 1_000_000, "total_episodes": 10**18})))


@case
def minari_whose_metadata_is_a_list(folder: Path) -> None:
    imported(minari(folder, "[1, 2]"))


# ---------------------------------------------------------------------- tables


@case
def csv_of_1e5_columns(folder: Path) -> None:
    names = [f"obs_{axis}" for axis in range(100_000)] + ["action", "reward", "terminated"]
    rows = "\n".join(",".join("0" for _ in names) for _ in range(ROWS))
    (folder / "log.csv").write_text(",".join(names) + "\n" + rows + "\n")
    imported(folder / "log.csv")


@case
def csv_of_one_line_of_20_megabytes(folder: Path) -> None:
    (folder / "log.csv").write_bytes(b"obs_0,action,reward,terminated " * 650_000)
    imported(folder / "log.csv")


@case
def csv_of_zeros(folder: Path) -> None:
    (folder / "log.csv").write_bytes(bytes(2**20))
    imported(folder / "log.csv")


@case
def csv_of_nothing(folder: Path) -> None:
    (folder / "log.csv").touch()
    imported(folder / "log.csv")


@case
def csv_with_an_open_quote(folder: Path) -> None:
    (folder / "log.csv").write_text('obs_0,action,reward,terminated\n0,0,"0,0\n' + "0,0,0,0\n" * 100_000)
    imported(folder / "log.csv")


@case
def csv_with_a_column_twice(folder: Path) -> None:
    (folder / "log.csv").write_text("obs_0,obs_0,action,reward,terminated\n" + "1,2,0,0,0\n" * ROWS)
    imported(folder / "log.csv")


def table(rows: int, **columns: Any) -> pa.Table:
    good = {"obs_0": np.zeros(rows), "action": np.zeros(rows), "reward": np.zeros(rows), "terminated": np.zeros(rows)}
    return pa.table(good | columns)


@case
def parquet_of_1e15_rows(folder: Path) -> None:
    path, rows = folder / "log.parquet", 1_000_003
    parquet.write_table(table(rows), path)
    data = path.read_bytes()
    size = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - size : -8].replace(varint(rows), varint(10**15))
    path.write_bytes(data[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1")
    imported(path)


def varint(number: int) -> bytes:
    """A whole number as Thrift's compact protocol writes it."""
    number, out = 2 * number, bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


@case
def parquet_with_lists_of_a_million(folder: Path) -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(ROWS * 1_000_000, np.float32)), 1_000_000)
    parquet.write_table(table(ROWS, obs=lists).drop_columns("obs_0"), folder / "log.parquet")
    imported(folder / "log.parquet")


@case
def parquet_of_half_a_file(folder: Path) -> None:
    parquet.write_table(table(1000), folder / "log.parquet")
    os.truncate(folder / "log.parquet", 700)
    imported(folder / "log.parquet")


@case
def parquet_whose_bounds_are_a_million_brackets(folder: Path) -> None:
    schema = table(ROWS).replace_schema_metadata({"action_low": "[" * 1_000_000, "action_high": "1"})
    parquet.write_table(schema, folder / "log.parquet")
    imported(folder / "log.parquet")


# ---------------------------------------------------------------------- what is no file


@case
def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "log.npz")
    imported(folder / "log.npz")


@case
def a_pipe_named_csv(folder: Path) -> None:
    os.mkfifo(folder / "log.csv")
    imported(folder / "log.csv")


@case
def a_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(folder / "log.h5"))
        imported(folder / "log.h5")


@case
def a_device(folder: Path) -> None:
    (folder / "log.parquet").symlink_to("/dev/zero")
    imported(folder / "log.parquet")


@case
def a_folder_named_npz(folder: Path) -> None:
    (folder / "log.npz").mkdir()
    imported(folder / "log.npz", "npz")


@case
def a_link_to_itself(folder: Path) -> None:
    (folder / "log.csv").symlink_to(folder / "log.csv")
    imported(folder / "log.csv")


@case
def a_name_of_3000_characters(folder: Path) -> None:
    imported(folder / ("x" * 3000 + ".csv"))


@case
def a_name_with_a_zero(folder: Path) -> None:
    imported(Path(f"{folder}/a\0b.csv"))


# ---------------------------------------------------------------------- folders of ours, signed by whoever made them


def dataset_with(folder: Path, **changes: Any) -> Path:
    """A dataset's folder whose manifest says something else, under a digest that is right."""
    columns = {name: array.astype(np.float32) for name, array in COLUMNS.items()}
    Dataset.from_arrays(**columns, action_low=-1, action_high=1).save(folder / "data")
    return signed(folder / "data", **changes)


def agent_with(folder: Path, **changes: Any) -> Path:
    """The same of an agent."""
    shutil.copytree(made(make_run) / "run" / "last", folder / "agent")
    agent = json.loads((folder / "agent" / "manifest.json").read_text())["agent"]
    return signed(folder / "agent", agent=agent | changes)


def signed(folder: Path, **changes: Any) -> Path:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("sha256")
    write_signed(folder / "manifest.json", manifest | changes)
    return folder


def changed_by(name: str, open_it: Callable[[Path], Any], made: Case) -> None:
    CASES[name] = lambda folder: open_it(made(folder))


DATASETS: dict[str, dict[str, Any]] = {
    "of 1e13 rows": {"count": 10**13},
    "of 1e30 columns": {"obs_size": 10**30},
    "of less than nothing": {"obs_size": -2},
    "of a word of rows": {"count": "four"},
    "without bounds": {"action_low": None},
    "with a set nobody knows": {"action_set": {"kind": "os.system"}},
    "with bounds that are words": {"action_set": {"kind": "box", "low": ["a"], "high": ["b"]}},
    "without an origin": {"origin": 5},
    "with files elsewhere": {"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}},
    "with a file of 1e18 bytes": {"files": {f"{name}.npy": {"bytes": 10**18, "sha256": ""} for name in KEPT}},
}
for words, changes in DATASETS.items():
    changed_by(f"dataset {words}", Dataset.open, partial(dataset_with, **changes))

UNIT: dict[str, Any] = {"low": [-1.0], "high": [1.0]}
WIDEST: dict[str, Any] = {"kind": "box", "low": [-1e300], "high": [1e300]}
AGENTS: dict[str, dict[str, Any]] = {
    "with layers of 1e9": {"settings": {"hidden": [10**9, 10**9]}},
    "with 1e12 critics": {"settings": {"hidden": [4], "n_critics": 10**12}},
    "with a thousand layers": {"settings": {"hidden": [4] * 1000}},
    "of 1e12 observations": {"obs_size": 10**12},
    "of no observations": {"obs_size": 0},
    "of NaN observations": {"obs_size": float("nan")},
    "of an algorithm nobody knows": {"algorithm": "os.system"},
    "of an algorithm that is a list": {"algorithm": ["td3"]},
    "with a set nobody knows": {"action_set": {"kind": "os.system"}},
    "with a set that is text": {"action_set": "box"},
    "with 1e300 whole numbers": {"action_set": {"kind": "mixed", "inner": WIDEST, "integer": [0]}},
    "with a polytope of words": {"action_set": {"kind": "polytope", **UNIT, "matrix": [["a"]], "bound": [1]}},
    "with a polytope of no rows": {"action_set": {"kind": "polytope", **UNIT, "matrix": [], "bound": []}},
    "with settings that are text": {"settings": "td3"},
    "with a setting nobody knows": {"settings": {"__class__": 1}},
    "with an environment that is a number": {"env": 5},
    "with wrappers that are numbers": {"env": {"id": "Pendulum-v1", "wrappers": [1]}},
}
for words, changes in AGENTS.items():
    changed_by(f"agent {words}", fittedq.load, partial(agent_with, **changes))

for words, named in {
    "in a module": "harmful:Env-v0",
    "in a file": "harmful.py:Env",
    "in a wrapper": {"id": "Pendulum-v1", "kwargs": {}, "wrappers": ["harmful:wrap"]},
    "with a file for an argument": {"id": "Pendulum-v1", "kwargs": {"xml_file": "/etc/passwd"}, "wrappers": []},
}.items():

    def evaluated(path: Path) -> None:
        agent = fittedq.load(path)
        assert agent.env is not None
        agent.evaluate(agent.env, 1)

    changed_by(f"agent that names code {words}", evaluated, partial(agent_with, env=named))


def tensors(folder: Path, data: bytes) -> None:
    """An agent with these bytes for its tensors, listed as they are."""
    path = agent_with(folder)
    (old,) = path.glob("*.safetensors")
    old.write_bytes(data)
    fittedq.load(signed(path, files={old.name: hash_file(old)}))


def safetensors_of(header_text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header_text)) + header_text + data


TENSORS: dict[str, bytes] = {
    "of a header of 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
    "of a header of a million brackets": safetensors_of(b"[" * 1_000_000),
    "of 1e18 numbers": safetensors_of(
        b'{"a":{"dtype":"F32","shape":[1000000000000000000],"data_offsets":[0,4]}}', b"four"
    ),
    "that lie beyond the end": safetensors_of(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4096,4100]}}', b"four"),
    "of a type nobody knows": safetensors_of(b'{"a":{"dtype":"F4096","shape":[1],"data_offsets":[0,4]}}', b"four"),
    "of eight bits": safetensors_of(b'{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}', b"four"),
    "of none": safetensors_of(b"{}"),
}
for words, data in TENSORS.items():
    CASES[f"tensors {words}"] = partial(tensors, data=data)


@case
def tensors_that_are_a_pipe(folder: Path) -> None:
    path = agent_with(folder)
    (old,) = path.glob("*.safetensors")
    old.unlink()
    os.mkfifo(old)
    fittedq.load(path)


@case
def tensors_of_a_terabyte_of_nothing(folder: Path) -> None:
    path = agent_with(folder)
    (old,) = path.glob("*.safetensors")
    os.truncate(old, 2**40)
    fittedq.load(signed(path, files={old.name: {"bytes": 2**40, "sha256": ""}}))


@case
def a_manifest_that_is_a_pipe(folder: Path) -> None:
    path = agent_with(folder)
    (path / "manifest.json").unlink()
    os.mkfifo(path / "manifest.json")
    fittedq.load(path)


@case
def a_manifest_of_a_million_brackets(folder: Path) -> None:
    path = agent_with(folder)
    (path / "manifest.json").write_text("[" * 1_000_000)
    fittedq.load(path)


def run_with(folder: Path, **changes: Any) -> None:
    """A run whose settings say something else: what `fittedq resume` makes of it."""
    shutil.copytree(made(make_run), folder, dirs_exist_ok=True)
    path = folder / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    reopened(folder / "run")


RUNS: dict[str, dict[str, Any]] = {
    "of 1e400 steps": {"steps": float("inf")},
    "of a word of steps": {"steps": "many"},
    "with settings that are a list": {"settings": [1]},
    "with layers of 1e9": {"settings": {"hidden": [10**9, 10**9]}},
    "with a seed that is a list": {"seed": [1]},
    "with an algorithm that is a list": {"algorithm": ["td3"]},
    "with a set that is text": {"action_set": "box"},
    "with data that is a number": {"data": 5},
    "with data that is nowhere": {"data": "/nowhere"},
    "with a module for its environment": {"algorithm": "nfqca", "env": "harmful:Env-v0", "data": None, "settings": {}},
    "with a file for its environment": {"algorithm": "nfqca", "env": "harmful.py:Env", "data": None, "settings": {}},
    "with a module for evaluation": {"eval_env": "harmful:Env-v0", "eval_every": 1},
}
for words, changes in RUNS.items():
    CASES[f"run {words}"] = partial(run_with, **changes)


@case
def run_whose_settings_are_a_pipe(folder: Path) -> None:
    shutil.copytree(made(make_run), folder, dirs_exist_ok=True)
    (folder / "run" / "config.json").unlink()
    os.mkfifo(folder / "run" / "config.json")
    reopened(folder / "run")


@case
def run_whose_settings_are_a_million_brackets(folder: Path) -> None:
    shutil.copytree(made(make_run), folder, dirs_exist_ok=True)
    (folder / "run" / "config.json").write_text("[" * 1_000_000)
    reopened(folder / "run")


# ---------------------------------------------------------------------- the trial


DATA = ("npz", "hdf5", "minari", "csv", "parquet", "dataset")


def attempt(name: str, folder: Path) -> Outcome:
    """Survived: one sentence, and nothing written or imported but the hostile file itself."""
    kind, before = name.split()[0], Path.cwd()
    (folder / "harmful.py").write_text("import pathlib\npathlib.Path('harm').touch()\n")
    os.chdir(folder)
    try:
        CASES[name](folder)
    except UserError as error:
        wrong = sentence(error)
        if (folder / "harm").exists() or (folder / "out").exists():
            wrong = "something was written"
        return Outcome(kind, wrong is None, wrong or "")
    finally:
        os.chdir(before)
    return Outcome(kind, False, "it was taken")


def room(name: str) -> int:
    """What a trial may claim: agents and runs are made first, and a run is compiled again."""
    return READING if name.split()[0] in DATA else COMPILING


def main() -> int:
    reading, compiling = Isolated(attempt), Isolated(attempt, COMPILING)
    return campaign(
        "hostile",
        "A file made to harm is refused in one sentence, without a hang, a crash, or memory beyond 2 GiB "
        "(8 GiB of addresses where a program is compiled first).",
        {name: partial(compiling if room(name) == COMPILING else reading, name) for name in CASES},
    )


if __name__ == "__main__":
    sys.exit(main())
