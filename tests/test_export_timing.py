"""How long an action takes: what is measured, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from exported import AGENTS, agent_in
from fittedq.cli.export import timing_lines
from fittedq.cli.main import main
from fittedq.errors import UserError
from fittedq.export import timing
from fittedq.export.timing import C_FLOOR, Timing


def test_a_rate_is_met_up_to_the_percentile_that_fits_its_period() -> None:
    """Calls of 1, 2, … 1000 µs: 2 kHz has 500 of them, 999 µs all but the worst."""
    took = np.random.default_rng(0).permutation(np.arange(1.0, 1001.0))
    one = Timing({"act": took, C_FLOOR: took, "slow": took + 1e6}, {}, 2000.0, 0.0)
    assert one.meets() == {"act": {"share": 0.5, "up_to": None}, "slow": {"share": 0.0, "up_to": None}}
    assert Timing({"act": took}, {}, 1e6 / 999.5, 0.0).meets() == {"act": {"share": 0.999, "up_to": "p99.9"}}
    assert Timing({"act": took}, {}, 1000.0, 0.0).meets() == {"act": {"share": 1.0, "up_to": "worst"}}
    told = one.describe()
    assert told["microseconds"]["act"] == {"p50": 500.5, "p99": 990.01, "p99.9": 999.001, "worst": 1000}
    assert "2000 Hz: not even at p50, 50.00% of the calls" in list(timing_lines(told))[1]
    assert one.picture().startswith(b"\x89PNG")


def test_an_export_says_how_long_it_takes_and_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "CALLS", 20)
    agent = agent_in(**AGENTS["td3"])
    told = agent.export(tmp_path / "out", "numpy", samples=100, rate=1.0)["timing"]
    assert {"agent.act", "jax.jit", "numpy, as its users call it"} <= told["microseconds"].keys()
    assert told["calls"] == 20 * timing.ROUNDS and told["meets"]["agent.act"]["share"] > 0.9
    assert all(one["p50"] > 0 for one in told["microseconds"].values())
    assert json.loads((tmp_path / "out" / "export.json").read_text())["timing"] == told
    assert main(["verify", str(tmp_path / "out")]) == 0
    with pytest.raises(UserError, match="rate: found -1"):
        agent.export(tmp_path / "other", "numpy", samples=100, rate=-1.0)
    assert not (tmp_path / "other").exists()
