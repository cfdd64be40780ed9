"""The benchmark's normalized returns, against their formula; a picture is of the data beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    import normalized_table

    yield normalized_table
    sys.modules.pop("normalized_table")


def run(folder: Path, env: str, seed: int, returns: dict[int, float], **settings: Any) -> None:
    curve = [{"step": step, "eval_mean": value} for step, value in returns.items()]
    config = {"env": env, "settings": {"hidden": [256], "critic_learning_rate": seed} | settings}
    (folder / f"auto-{env}-{seed}.json").write_text(json.dumps({"config": config, "curve": curve}))


def test_published_means_are_those_of_the_papers(tables: ModuleType) -> None:
    """The means that the papers and their authors' comparison state, from the returns task by task."""
    said = {"SAC": (0.28, 0.54), "CrossQ": (0.74, 1.09), "SimbaV2": (0.71, 1.05), "DR.Q": (0.76, 1.14)}
    said["XQC"] = (0.80, 1.18)
    for method in tables.PUBLISHED:
        expected = next(pair for name, pair in said.items() if method.name.startswith(name))
        for look, value in zip(tables.LOOKS, expected, strict=True):
            assert tables.mean_normalized(tables.of_published(method, look)) == pytest.approx(value, abs=0.012)


def test_a_mean_is_of_all_tasks_or_not_there(tables: ModuleType, tmp_path: Path) -> None:
    for task in tables.TD3:
        assert tables.normalized(task, tables.TD3[task]) == pytest.approx(1.0)
        assert tables.normalized(task, tables.random_returns()[f"{task}-v4"]) == pytest.approx(0.0)
        for seed, share in enumerate((0.4, 0.6)):
            low = tables.random_returns()[f"{task}-v4"]
            run(tmp_path, f"{task}-v4", seed, {100_000: low + share * (tables.TD3[task] - low), 90_000: 0.0})
    found = tables.cells(tmp_path)
    assert tables.mean_normalized(tables.of_auto(found, 100_000)) == pytest.approx(0.5)
    assert tables.mean_normalized(tables.of_auto(found, 200_000)) is None
    assert tables.points(found, 3.0)[-1] == ("auto", 3.0, 0.5)
    assert "| auto, each seed |" in tables.table(found, 3.0) and "| 0.50 | 3.0 |" in tables.table(found, 3.0)
    (tmp_path / "auto-Ant-v4-0.json").unlink()
    (tmp_path / "auto-Ant-v4-1.json").unlink()
    assert tables.mean_normalized(tables.of_auto(tables.cells(tmp_path), 100_000)) is None
    run(tmp_path, "Ant-v4", 1, {}, hidden=[128])
    with pytest.raises(SystemExit, match="hidden differ"):
        tables.cells(tmp_path)


def test_a_step_of_auto_costs_its_updates(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates a step, three times as long as SAC's one."""
    row = {"method": "xqc, critics of 4 × 256", "time_by_sac": 3.0}
    (tmp_path / "method_speed.json").write_text(json.dumps({"results": [row]}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.cost_of_auto() == 6.0


def test_the_picture_is_of_the_results_beside_it(tables: ModuleType, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")

    def mark(path: Path) -> str:
        return image.open(path).text[tables.FINGERPRINT]

    drawn = tables.points({}, 3.0)
    tables.draw(drawn, tmp_path / "picture.png")
    assert mark(tmp_path / "picture.png") == tables.fingerprint(drawn)
    assert tables.fingerprint(drawn) != tables.fingerprint([*drawn, ("auto", 3.0, 0.5)])
    if tables.PICTURE.exists():
        assert mark(tables.PICTURE) == tables.fingerprint(tables.points(tables.cells(), tables.cost_of_auto()))
