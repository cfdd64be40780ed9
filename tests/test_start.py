"""How fittedq starts: what it imports for what is asked, and that programs compiled once are compiled once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fittedq
from fittedq import programs
from fittedq.cli.main import COMMANDS, main
from fittedq.trainers.host import HostTrainer

HEAVY = ("jax", "numpy", "gymnasium", "tyro", "rich", "optax", "equinox")


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "FITTEDQ_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_version_and_a_mistyped_command_import_nothing_heavy() -> None:
    told = python(
        "import sys, fittedq; from fittedq.cli.main import main\n"
        "assert (main(['--help']), main(['--version']), main(['tarin'])) == (0, 0, 2)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert told.splitlines()[-1] == "[]"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f" {name} {command.about} " in " ".join(told.split())
        assert command.load().__name__ in (name.capitalize(), command.kind)
    assert max(map(len, told.splitlines())) <= 80


def test_a_mistyped_command_is_offered_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tarin"]) == 2
    assert capsys.readouterr().err == "fittedq: command 'tarin' is unknown; did you mean 'train'?\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_own_help_is_complete(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"usage: fittedq {command}" in capsys.readouterr().out


def test_every_public_name_is_there_and_no_module_hides_it() -> None:
    assert {name: getattr(fittedq, name).__name__ for name in fittedq.__all__} == {n: n for n in fittedq.__all__}
    assert set(fittedq.__all__) <= set(dir(fittedq))
    assert fittedq.train is not sys.modules[HostTrainer.__module__]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fittedq.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_the_conformance_suite_is_there_without_an_import_of_its_own() -> None:
    command = [sys.executable, "-c", "import fittedq; print(fittedq.testing.conforms.__name__)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "conforms\n"


# ---------------------------------------------------------------------- compiled programs

COUNTED = """
import warnings; warnings.simplefilter("error")
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import resource, jax
misses, hits = [], []
jax.monitoring.register_event_listener(lambda name, **_: misses.append(name) if "cache_misses" in name else None)
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if "cache_hits" in name else None)
"""
TRAIN = """
import fittedq, numpy as np
kept = dict(random_steps=10, batch_size=8, replay_size=100, hidden=(8,))
agent = fittedq.train("td3", "Pendulum-v1", steps=20, seed=SEED, **kept)
print(len(misses), len(hits), float(agent.act(np.ones(3, np.float32))[0]))
"""
SMALL = """
from fittedq.programs import keep_programs
keep_programs()
value = float(jax.jit(lambda x: 2 * x)(SEED))
print(len(misses), len(hits), value)
"""


def compiled(code: str, seed: int, cache: Path, **environment: str) -> tuple[int, int, float]:
    """(programs compiled for the cache, programs read from it, a number that was computed)."""
    misses, hits, value = python(
        COUNTED + code.replace("SEED", str(seed)), XDG_CACHE_HOME=str(cache), **environment
    ).split()
    return int(misses), int(hits), float(value)


@pytest.mark.slow
def test_programs_compiled_once_serve_every_seed(tmp_path: Path) -> None:
    made, _, action = compiled(TRAIN, 0, tmp_path)
    assert made > 3
    missed, read, other = compiled(TRAIN, 1, tmp_path)
    assert (missed, read) == (0, made)
    assert other != action


def test_no_cache_is_kept_where_the_user_says_so(tmp_path: Path) -> None:
    assert compiled(SMALL, 1, tmp_path, FITTEDQ_NO_CACHE="1") == (0, 0, 2.0)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_the_user_names_is_used_instead(tmp_path: Path) -> None:
    named = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "named"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    assert compiled(SMALL, 1, tmp_path, **named)[0] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["named"]


def test_a_cache_folder_that_cannot_be_made_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "fittedq").touch()
    assert compiled(SMALL, 1, tmp_path) == (0, 0, 2.0)


def test_a_cache_that_cannot_be_written_or_is_damaged_never_stops_a_run(tmp_path: Path) -> None:
    full = "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))" + SMALL
    assert compiled(full, 1, tmp_path)[2] == 2.0
    (entry,) = tmp_path.rglob("*-cache")
    assert entry.stat().st_size == 64
    assert compiled(SMALL, 2, tmp_path)[1:] == (0, 4.0)


def test_another_processor_or_version_has_a_cache_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    here = programs.cache_folder()
    assert programs.cache_folder() == here
    monkeypatch.setattr(programs, "processor", lambda: "another")
    there = programs.cache_folder()
    monkeypatch.setattr(programs.metadata, "version", lambda name: "another")
    assert len({here, there, programs.cache_folder()}) == 3


def test_compiling_inside_of_compiling_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, now = programs._Clock(), [0.0]
    monkeypatch.setattr(programs.time, "perf_counter", lambda: now[0])
    for end, duration in ((2.0, 1.0), (4.0, 1.0), (5.0, 4.5), (7.0, 1.0)):
        now[0] = end
        clock("/jax/core/compile/backend_compile_duration", duration)
    clock("/jax/compilation_cache/cache_retrieval_time_sec", 9.0)
    assert clock.seconds == 5.5
