"""Seeds on a Ray cluster of two nodes on this machine: workers, a node and the driver are killed, and nothing is lost.

Skipped where Ray is not installed (`pip install 'fittedq[cluster]'`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fittedq import list_runs
from fittedq.cli.arguments import parse
from fittedq.cli.main import main
from fittedq.cli.train import Train
from fittedq.runs import cluster as on_a_cluster
from fittedq.runs.cluster import bring, core_of_its_own, on_ray, packed, unpack
from fittedq.trainers.base import never

TINY = ["--set", "hidden=4,", "--set", "batch_size=4", "--set", "random_steps=20", "--eval-every", "0"]
TINY += ["--checkpoint-every", "250"]
LONG, SHORT = 4000, 200
"""Steps of a run that is cut off, and of one that is not."""


WITHOUT_THE_PACKAGE = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "fittedq":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""
"""A `sitecustomize.py` that hides fittedq, as where it is not installed."""


def words(out: Path, steps: int, *more: str) -> list[str]:
    """A command for three seeds."""
    command = [sys.executable, "-m", "fittedq", "train", "td3", "Pendulum-v1", "--seeds", "3", "--out", str(out)]
    return [*command, "--steps", str(steps), *TINY, *more]


def agents(out: Path) -> dict[str, bytes]:
    """The last agent of each run, by the names of run and file; a file's own name is drawn."""
    return {str(file.parent.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("last/*.safetensors"))}


def files(out: Path) -> dict[Path, int]:
    """Every file, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------- folders as bytes: no cluster is needed


def test_a_folder_comes_back_as_it_was_sent_without_locks(tmp_path: Path) -> None:
    there, back = tmp_path / "run", tmp_path / "back"
    (there / "last").mkdir(parents=True)
    (there / "last" / "a.safetensors").write_bytes(b"abc")
    os.link(there / "last" / "a.safetensors", there / "b.safetensors")
    (there / ".fittedq-lock").write_text("7")
    data = packed(there)
    os.utime(there / "b.safetensors", (1, 1))
    assert packed(there) == data
    back.mkdir()
    (back / "old").write_text("gives way")
    bring(data, back)
    assert {str(path.relative_to(back)) for path in back.rglob("*")} == {"last", "last/a.safetensors", "b.safetensors"}
    assert (back / "b.safetensors").read_bytes() == b"abc" and packed(back) == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "run"]


def test_one_that_cannot_take_its_place_leaves_nothing_and_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, back = tmp_path / "run", tmp_path / "back"
    there.mkdir()
    back.mkdir()
    (back / "old").write_text("stays")
    replace = os.replace

    def failing(one: Path, other: Path) -> None:
        if other == back and one.name.startswith(".fittedq"):
            raise OSError("no more")
        replace(one, other)

    monkeypatch.setattr("fittedq.files.exchanged", lambda one, other: False)
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="no more"):
        bring(packed(there), back)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "run"]
    assert (back / "old").read_text() == "stays"


def test_an_archive_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    for kind, name, link in (
        (tarfile.REGTYPE, "../out", ""),
        (tarfile.SYMTYPE, "l", "/etc"),
        (tarfile.FIFOTYPE, "p", ""),
    ):
        held, found = io.BytesIO(), tarfile.TarInfo(name)
        found.type, found.linkname = kind, link
        with tarfile.open(fileobj=held, mode="w") as archive:
            archive.addfile(found)
        with pytest.raises(tarfile.FilterError):
            unpack(held.getvalue(), tmp_path / "in")
    assert list(tmp_path.rglob("*")) == [tmp_path / "in"]


@pytest.mark.skipif(sys.platform != "linux", reason="cores are held by names that only Linux has")
def test_a_core_is_held_by_one_and_what_fails_on_it_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [1_000_001, 1_000_002]  # no machine has these
    monkeypatch.setattr(on_a_cluster, "cores", lambda: free)
    with core_of_its_own() as one, core_of_its_own() as other, core_of_its_own() as more:
        assert [one, other] == free and more in free
    with pytest.raises(OSError, match="no space left"), core_of_its_own():
        raise OSError("no space left")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_its_extra_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words(tmp_path / "all", SHORT, "--on", "ray")[3:]]) == 2
    assert "pip install 'fittedq[cluster]'" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- on a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A head and a second node, a core each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def locally(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, bytes]]:
    """The agents of the same commands, trained on the cores here."""
    pytest.importorskip("ray")
    found = {}
    for steps in (SHORT, LONG):
        out = tmp_path_factory.mktemp("local") / "all"
        subprocess.run(words(out, steps), check=True, capture_output=True, timeout=600)
        found[steps] = agents(out)
        assert len(found[steps]) == 3
    return found


def on_cluster(cluster: object, out: Path, steps: int, *more: str) -> subprocess.Popen[str]:
    """The command on the cluster, begun."""
    command = words(out, steps, "--on", "ray", "--address", cluster.address, *more)  # pyright: ignore
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def named(*parts: bytes) -> list[int]:
    """The processes whose command line holds all of these."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            said = (place / "cmdline").read_bytes()
            found += [int(place.name)] * all(part in said for part in parts)
    return found


def trainers(out: Path) -> list[int]:
    """The processes that train below `out`."""
    return named(b"--or-resume", str(out).encode())


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def await_(what: Callable[[], object]) -> None:
    """Until something is so."""
    until = time.monotonic() + 300
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def finished(process: subprocess.Popen[str]) -> str:
    """What a command that ended well has printed."""
    told, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return told + errors


@pytest.mark.slow
def test_what_is_trained_is_the_local_one_to_the_bit_and_done_once(
    cluster: object, locally: dict[int, dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "all"
    finished(on_cluster(cluster, out, SHORT))
    assert agents(out) == locally[SHORT]
    before = files(out)
    finished(on_cluster(cluster, out, SHORT))
    assert files(out) == before
    assert not [path for path in tmp_path.rglob(".fittedq-*") if path.name != ".fittedq-lock"]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_followed_by_one_that_goes_on(
    cluster: object, locally: dict[int, dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "all"
    command = on_cluster(cluster, out, LONG)
    await_(lambda: any(out.rglob("step-*")))
    for process in trainers(out)[:1]:
        os.kill(parent_of(process), signal.SIGKILL)
    finished(command)
    assert agents(out) == locally[LONG]


@pytest.mark.slow
def test_a_node_that_goes_away_leaves_its_runs_to_the_other(
    cluster: object, locally: dict[int, dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "all"
    added = cluster.add_node(num_cpus=1)  # pyright: ignore
    command = on_cluster(cluster, out, LONG)
    await_(lambda: len(trainers(out)) == 3 and any(out.rglob("step-*")))
    cluster.remove_node(added, allow_graceful=False)  # pyright: ignore
    finished(command)
    assert agents(out) == locally[LONG]


@pytest.mark.slow
def test_a_driver_that_is_killed_is_begun_again(
    cluster: object, locally: dict[int, dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "all"
    command = on_cluster(cluster, out, LONG)
    await_(lambda: any(out.rglob("step-*")))
    command.kill()
    command.communicate()
    await_(lambda: not trainers(out))
    assert any(one.state != "finished" for one in list_runs(out)) or len(list_runs(out)) < 3
    finished(on_cluster(cluster, out, LONG))
    assert agents(out) == locally[LONG]


@pytest.mark.slow
def test_an_interrupt_saves_all_and_the_same_command_goes_on(
    cluster: object, locally: dict[int, dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "all"
    command = on_cluster(cluster, out, LONG)
    await_(lambda: len({path.parent for path in out.rglob("step-*")}) == 2)
    assert len(trainers(out)) == 2  # one on each core of the cluster
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=120)
    assert command.returncode == 130 and trainers(out) == []
    assert [one.state for one in list_runs(out)] == ["stopped", "stopped"]
    finished(on_cluster(cluster, out, LONG))
    assert agents(out) == locally[LONG]


@pytest.mark.slow
def test_where_no_folder_is_shared_runs_come_back_whole(
    cluster: object, locally: dict[int, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark is taken away, so that no worker sees the folders; a run that was cut off is sent along and goes on."""
    out = tmp_path / "all"
    train = parse(Train, "fittedq train", words(out, LONG)[4:])
    tasks = [train.task(f"seed {seed}", out / f"seed-{seed}", seed) for seed in range(3)]
    assert main([*tasks[0].words, "--stop-when", "step >= 750"]) == 0
    (tasks[0].folder / "notes.txt").write_text("mine")
    seen = on_a_cluster._seen_mark

    @contextmanager
    def unseen(folders: list[Path]) -> Iterator[str]:
        with seen(folders) as mark:
            pass
        yield mark

    monkeypatch.setattr(on_a_cluster, "_seen_mark", unseen)
    for _ in range(2):
        before = files(out)
        with on_ray(tasks, cluster.address, 1) as carried_out:  # pyright: ignore
            told = list(carried_out(never))
        assert [one.code for one in told if one.code is not None] == [0] * 3
        assert agents(out) == locally[LONG]
    assert files(out) == before  # the second time nothing came back
    assert (tasks[0].folder / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    for address, told in (("127.0.0.1:9", "found no Ray cluster at 127.0.0.1:9"), ("ray://x", "expected HOST:PORT")):
        done = subprocess.run(
            words(tmp_path / "all", SHORT, "--on", "ray", "--address", address),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # Ray begins a node beside a JAX that is at rest
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_node_without_the_package_is_named(cluster: object, tmp_path: Path) -> None:
    hidden = tmp_path / "path"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(WITHOUT_THE_PACKAGE)
    added = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(hidden)})  # pyright: ignore
    try:
        process = on_cluster(cluster, tmp_path / "all", SHORT)
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 2 and "of the cluster has no fittedq" in errors and "Traceback" not in errors
        assert list_runs(tmp_path / "all") == []
    finally:
        cluster.remove_node(added)  # pyright: ignore


@pytest.mark.slow
def test_labels_searched_on_the_cluster_are_the_local_ones_to_the_bit_with_a_worker_killed(
    cluster: object, tmp_path: Path
) -> None:
    """More rows than one call takes, so that both the shortened search and the full one are asked for."""
    data, here, there = (tmp_path / name for name in ("data", "here", "there"))
    assert main(["data", "collect", "Pendulum-v1", "--steps", "12000", "--out", str(data)]) == 0
    command = [sys.executable, "-m", "fittedq", "train", "explicit_fqi", "--data", str(data), "--steps", "4"]
    command += ["--set", "hidden=8,", "--set", "epochs=1"]
    subprocess.run([*command, "--out", str(here)], check=True, capture_output=True, timeout=600)
    asked = [*command, "--out", str(there), "--on", "ray", "--address", cluster.address]  # pyright: ignore
    process = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    await_(lambda: (there / "metrics.jsonl").exists() and named(b"ray::answered"))
    for worker in named(b"ray::answered")[:1]:
        os.kill(worker, signal.SIGKILL)
    finished(process)
    assert agents(there) == agents(here) and len(agents(here)) == 1
