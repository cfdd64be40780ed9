"""Campaigns: every case is tried once, losses are counted with their cause, and the README shows the last results."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "reliability"))
import campaign  # noqa: E402
from campaign import Outcome  # noqa: E402


def test_a_campaign_counts_its_losses_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    tried: list[int] = []

    def trial(number: int) -> Outcome:
        tried.append(number)
        if number == 3 and len(tried) == 4:
            raise KeyboardInterrupt
        if number == 4:
            raise ValueError("four")
        return Outcome(
            "odd" if number % 2 else "even", number != 2, "two" if number == 2 else "", {"size": number // 4}
        )

    cases = {str(number): partial(trial, number) for number in range(6)}
    out = tmp_path / "numbers.json"
    run = partial(campaign.campaign, "numbers", "Numbers survive.", cases, ["--out", str(out)])
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not out.exists()
    assert run() == 1
    assert tried == [0, 1, 2, 3, 3, 4, 5]
    result = json.loads(out.read_text())
    assert (result["tried"], result["survived"], result["lost"]) == (6, 4, 2)
    assert result["kinds"]["odd"] == {"tried": 3, "survived": 3, "lost": 0}
    assert [loss["case"] for loss in result["losses"]] == ["2", "4"]
    assert result["losses"][1]["cause"] == "ValueError in trial: four"
    assert result["facts"] == {"size": {"0": 4, "1": 1}}
    assert result["machine"]["cores"] and result["versions"]["jax"] and result["date"]


def test_a_sample_is_spread_over_all_cases() -> None:
    sample = [int(case) for case in campaign.spread([str(number) for number in range(10)], 5)]
    assert [number // 2 for number in sample] == [0, 1, 2, 3, 4]
    assert campaign.spread(["a", "b"], 5) == ["a", "b"]


def test_the_readme_shows_the_last_results() -> None:
    assert campaign.table(campaign.RESULTS.glob("*.json")) in (campaign.RESULTS.parent / "README.md").read_text()
