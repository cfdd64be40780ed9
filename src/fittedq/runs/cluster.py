"""Tasks on a Ray cluster that is up: the commands of `runs/tasks.py`, their words and files sent as JSON and bytes.

A worker carries out a task as this machine would: a process of its own, pinned to one core. Where it sees the folders
of this machine, the run is written there. Elsewhere the folder of the run is sent along, and comes back as bytes. What
dies on the way (a worker, its node) is begun again by Ray; where the run's last checkpoint is seen, it goes on there.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import random
import signal
import socket
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, final

from fittedq.errors import UserError, in_one_line
from fittedq.files import PREFIX, Json, Scratch, make_folder, versions, write_bytes
from fittedq.machine import cores
from fittedq.runs.folder import RunFolder
from fittedq.runs.tasks import LOOK_EVERY, Task, Told, side_by_side
from fittedq.trainers.base import never

RETRIES = 10
"""Times that a task is begun again because its worker or its node went away."""
ANSWER_SECONDS = 10
"""Within this time a cluster that is there answers."""
FREE_SECONDS = 300
"""So long a task waits for a process that still writes to its run, as one on a node that is going away."""

Ray: TypeAlias = Any
"""The library, which is there with the extra `cluster` only, or what it gave us a hold of on the cluster."""


@contextmanager
def on_ray(
    tasks: Sequence[Task], address: str | None, at_once: int | None
) -> Iterator[Callable[[Callable[[], bool]], Iterator[Told]]]:
    """What carries out all tasks on the cluster at `address`, and tells what they say, as `side_by_side` does.

    Where its `stop()` is true no other begins, and those at work are asked to save and end. UserError: no cluster, or
    one on which these runs cannot be.
    """
    ray = ray_library()
    with connected(ray, address), _seen_mark([task.folder for task in tasks]) as mark:
        yield partial(_carried, ray, tasks, at_once, mark, check_nodes(ray, mark))


def _carried(
    ray: Ray, tasks: Sequence[Task], at_once: int | None, mark: str, shared: bool, stop: Callable[[], bool] = never
) -> Iterator[Told]:
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote()
    carry = ray.remote(carried_out).options(num_cpus=1, max_retries=RETRIES)
    waiting, working, asked = deque(tasks), dict[Ray, Task](), False
    named = {task.name: task for task in tasks}
    while working or (waiting and not asked):
        if not asked and stop():
            asked = ray.get(desk.ask.remote())
        while waiting and not asked and len(working) < (at_once or len(tasks)):
            task = waiting.popleft()
            sent = [] if shared or not task.folder.is_dir() else [ray.put(packed(task.folder))]
            working[carry.remote(_order(task, mark), sent, desk)] = task
        done, _ = ray.wait(list(working), timeout=LOOK_EVERY, fetch_local=False) if working else ([], [])
        for line in ray.get(desk.taken.remote()):
            said = json.loads(line)
            yield Told(named[said["name"]], record=said["record"], text=said["text"])
        for one in done:
            yield from _ended(ray, one, working.pop(one))


@final
class Desk:
    """Where workers leave what their runs say, and learn whether to stop: an actor on the machine of the user."""

    def __init__(self) -> None:
        self._lines, self._asked = list[str](), False

    def leave(self, lines: list[str]) -> bool:
        """Leave these lines; whether to stop."""
        self._lines += lines
        return self._asked

    def taken(self) -> list[str]:
        """What was left since it was taken last."""
        lines, self._lines = self._lines, []
        return lines

    def ask(self) -> bool:
        """Ask all runs to save and end: from now on that is so."""
        self._asked = True
        return True


# ---------------------------------------------------------------------- on a worker


def carried_out(order: str, sent: list[Ray], desk: Ray) -> tuple[int, bytes | None]:
    """Carry out a task here: its exit code, and the folder of its run where the user's machine does not see it here.

    `sent` is that folder as the user has it, where it is needed.
    """
    said = json.loads(order)
    task = Task(said["name"], tuple(said["words"]), {}, Path(said["folder"]))
    with core_of_its_own() as core, _got() as got:

        def leave(lines: list[str]) -> bool:
            return got(desk.leave.remote(lines))

        if leave([]):
            return 128 + signal.SIGINT, None
        if os.path.isdir(said["cwd"]):
            os.chdir(said["cwd"])
        if _sees(said):
            _await_free(task.folder, lambda: leave([]))
            return _told(task, core, leave), None
        with Scratch(Path(tempfile.gettempdir()) / "run") as scratch:
            elsewhere = task.at(scratch.folder / "run")
            before = got(sent[0]) if sent else None
            if before is not None:
                unpack(before, elsewhere.folder)
            code = _told(elsewhere, core, leave)
            after = packed(elsewhere.folder) if elsewhere.folder.is_dir() else None
            return code, None if after == before else after


def looked_at(mark: str) -> str:
    """What a worker is: its versions, and whether it sees the user's folders, as JSON."""
    return json.dumps({"versions": versions(), "sees": _sees(json.loads(mark))})


@contextmanager
def _got() -> Iterator[Callable[[Ray], Any]]:
    """`ray.get` from a thread beside: a task whose main thread waits for Ray lends its core to another meanwhile."""
    with ThreadPoolExecutor(1) as beside:
        yield lambda one: beside.submit(ray_library().get, one).result()


def _told(task: Task, core: int, leave: Callable[[list[str]], bool]) -> int:
    """Carry out a task, leaving what it says at the desk now and then; its exit code."""
    lines, looked, asked, code = list[str](), 0.0, False, 1

    def stop() -> bool:
        nonlocal looked, asked
        if time.monotonic() - looked >= LOOK_EVERY:
            asked, looked = leave(lines), time.monotonic()
            lines.clear()
        return asked

    for told in side_by_side([task], [core], stop):
        if told.code is None:
            lines.append(json.dumps({"name": task.name, "record": told.record, "text": told.text}))
        else:
            code = told.code
    leave(lines)
    return code


@contextmanager
def core_of_its_own() -> Iterator[int]:
    """A core that no other run of fittedq has that a cluster brought to this machine; one of all where none is left."""
    usable = cores()
    with socket.socket(socket.AF_UNIX) as held:
        yield next((core for core in usable if _taken(held, core)), random.choice(usable))


def _taken(held: socket.socket, core: int) -> bool:
    """Whether the core was free, and is now held."""
    try:
        held.bind(f"\0fittedq-core-{core}")  # a name without a file, free again when this process ends
    except OSError:
        return False
    return True


def _await_free(folder: Path, stop: Callable[[], bool]) -> None:
    """Wait for a process that writes to the run's folder still: it was asked to end, or its node is going away."""
    until = time.monotonic() + FREE_SECONDS
    while RunFolder(folder).in_use and time.monotonic() < until and not stop():
        time.sleep(LOOK_EVERY)


# ---------------------------------------------------------------------- folders as bytes


def packed(folder: Path) -> bytes:
    """A folder as the bytes of a tar archive, without locks and temporary files; equal folders give equal bytes."""

    def plain(found: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if Path(found.name).name.startswith(PREFIX):
            return None
        found.uid = found.gid = found.mtime = 0
        found.uname = found.gname = ""
        return found

    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.add(folder, ".", filter=plain)  # by name
    return held.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """What `packed` has, in a folder that is made; nothing outside it is written, and files and folders alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(folder, filter="data")


def bring(data: bytes, folder: Path) -> None:
    """A run's folder as it came back, whole in its place or not there; the one from which it was sent gives way."""
    with Scratch(folder) as scratch:
        unpack(data, scratch.folder)
        scratch.replace()


# ---------------------------------------------------------------------- the cluster


def ray_library() -> Ray:
    try:
        importlib.import_module("ray.util.scheduling_strategies")
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise UserError("found no Ray here; `pip install 'fittedq[cluster]'`.", argument="on") from None


@contextmanager
def connected(ray: Ray, address: str | None) -> Iterator[None]:
    """While this lasts we belong to the cluster; one that is ours already is left as it is."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    _check_address(address)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (Exception, SystemExit) as error:
        raise UserError(f"{_no_cluster(address)} ({in_one_line(error)}).", argument="address") from None
    finally:
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """A UserError where nobody listens there: Ray itself waits for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise UserError(f"found {address!r}, expected HOST:PORT, as `ray start` printed it.", argument="address")
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"{_no_cluster(address)} ({in_one_line(error)}).", argument="address") from None


def _no_cluster(address: str) -> str:
    there = "on this machine" if address == "auto" else f"at {address}"
    return f"found no Ray cluster {there}, expected one that this machine belongs to; begin it with `ray start`"


def check_nodes(ray: Ray, mark: str) -> bool:
    """Whether all nodes see the user's folders; a UserError where one cannot carry out a run as this machine would."""
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    nodes = {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
    }
    if not nodes:
        raise UserError("found a Ray cluster without a processor; add a node with `ray start --address …`.")
    look = ray.remote(looked_at)
    found = {
        node: look.options(num_cpus=0, scheduling_strategy=strategy(node, soft=True)).remote(mark) for node in nodes
    }
    sees = []
    for node, asked in found.items():
        try:
            told = json.loads(ray.get(asked))
        except ray.exceptions.RayError as error:
            missing = "No module named 'fittedq" in str(error)
            what = "has no fittedq" if missing else f"cannot begin a run ({in_one_line(error)})"
            raise UserError(
                f"node {nodes[node]} of the cluster {what}; install the same versions there as here, on every node."
            ) from None
        for name, version in versions().items():
            if (there := told["versions"].get(name)) != version:
                raise UserError(
                    f"node {nodes[node]} of the cluster has {name} {there}, and this machine {version}; runs are the "
                    "same where versions are: install the same on every node."
                )
        sees.append(told["sees"])
    return all(sees)


@contextmanager
def _seen_mark(folders: Sequence[Path]) -> Iterator[str]:
    """A file in an unguessable folder beside all folders, by which a worker knows that it sees them; as JSON."""
    above = Path(os.path.commonpath([folder.absolute().parent for folder in folders]))
    with Scratch(make_folder(above) / "mark") as scratch:  # what a driver that died left goes with the next
        file = scratch.folder / "mark"
        write_bytes(file, scratch.folder.name.encode())
        yield json.dumps({"mark": str(file)})


def _sees(said: Json) -> bool:
    file = Path(said["mark"])
    try:
        return file.read_bytes() == file.parent.name.encode()
    except OSError:
        return False


def _order(task: Task, mark: str) -> str:
    task = task.at(task.folder.absolute())
    said = {"name": task.name, "words": task.words, "folder": str(task.folder), "cwd": os.getcwd()}
    return json.dumps(said | json.loads(mark))


def _ended(ray: Ray, one: Ray, task: Task) -> Iterator[Told]:
    """A task that is over: its run's folder put into its place, then its exit code."""
    try:
        code, folder = ray.get(one)
        if folder is not None:
            bring(folder, task.folder)
    except ray.exceptions.RayError as error:
        why = in_one_line(getattr(error, "cause", error))  # of one that was raised there
        yield Told(task, text=f"fittedq: its worker failed ({why}); give the command again.")
        code = 1
    except OSError as error:
        yield Told(task, text=f"fittedq: {task.folder} cannot be written ({error.strerror}); make room.")
        code = 2
    yield Told(task, code=code)
