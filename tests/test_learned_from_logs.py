"""Controllers learned from small logs as a user would who sets nothing, beside those that engineers have."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import fittedq
from fittedq.baselines import LoggedPlant, Tracked
from fittedq.baselines.named import Circumstances, baseline
from fittedq.envs.plant import resolve

ROOT = Path(__file__).parents[1]
CASES, LOGS = (ROOT.parent / "shared" / name for name in ("cases", "logs"))


@pytest.fixture
def benchmark_of() -> Iterator[ModuleType]:
    """The modules of `benchmarks/`, by name, while a test runs."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.slow
@pytest.mark.skipif(not (CASES / "make.py").is_file(), reason="the small logs are not here")
@pytest.mark.parametrize(("kind", "pi"), [("Heater", "PI(6, .05)"), ("Tanks", "PI(.25, .02) on u1")])
def test_a_controller_from_a_small_log_beats_its_pi(
    kind: str, pi: str, tmp_path: Path, benchmark_of: ModuleType
) -> None:
    """Six seeds came to −250 ± 7 on the heater, beside −269, and to −110 ± 14 on the tanks, beside −183."""
    cases = benchmark_of.import_module("shared_cases")
    case = getattr(cases, kind)(cases.module_of(CASES))
    beaten = cases.judged(case)[pi]["return"]
    data = cases.imported(CASES / case.log, case.text, tmp_path)
    returns = [
        case.played(cases.remembering(fittedq.fit("nfqca", data, seed=seed)), *case.start())["return"]
        for seed in range(2)
    ]
    assert sum(returns) / 2 > beaten


@pytest.mark.slow
@pytest.mark.skipif(not LOGS.is_dir(), reason="the real logs are not here")
def test_a_controller_from_real_logs_holds_their_model_at_its_set_point(
    tmp_path: Path, benchmark_of: ModuleType
) -> None:
    """Beside a thermostat's −15.7 and a PID's −6.2, three seeds came to −8 ± 1.5."""
    box = benchmark_of.import_module("incubator")
    log = box.imported(LOGS, tmp_path)
    assert len(log.episodes()) == 3 and log.times is not None and log.times.resample == "line"
    model = LoggedPlant.of(log, lags=box.LAGS)
    assert min(model.explained[:2]) > 0.95 and model.reward_explained > 0.99
    tracked, plant = Tracked(0, target=35.0), resolve(model.env)
    given = Circumstances(plant, (tracked,), box.SAMPLE, 0, log)
    controllers = {
        "pid": baseline("pid", given),
        "thermostat": box.bang_bang,
        "learned": fittedq.fit("nfqca", log, seed=0),
    }
    found = fittedq.compare(controllers, plant, episodes=10, tracked=[tracked], dt=box.SAMPLE)
    rows = {row.name: row for row in found.rows}
    assert rows["learned"].mean.mean > rows["thermostat"].mean.mean
    assert found.rows[0].name in ("pid", "learned") and rows["learned"].control is not None
