"""Statistics of few runs, against closed forms and other libraries' numbers; which runs compare."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float
from scipy.stats import mannwhitneyu, trim_mean

from fittedq.cli.main import main
from fittedq.diagnose.aggregate import (
    held_by_range,
    interquartile_mean,
    interval,
    performance_profile,
    probability_of_improvement,
)
from fittedq.errors import UserError
from fittedq.pages.blocks import Curve, View
from fittedq.runs.folder import RunFolder
from fittedq.runs.groups import BEST, Standings, groups
from reading import Read
from test_listing import CONFIG


def mean(scores: Float[np.ndarray, "*r n"]) -> Float[np.ndarray, "*r"]:
    return np.asarray(scores.mean(-1))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11])
def test_the_middle_half_is_scipys_trimmed_mean(count: int) -> None:
    scores = np.random.default_rng(count).normal(size=count)
    assert interquartile_mean(scores) == pytest.approx(trim_mean(scores, 0.25))


def test_outliers_at_both_ends_do_not_count() -> None:
    assert interquartile_mean(np.array([-1e9, 3.0, 1.0, 1e9])) == 2.0


def test_an_intervals_width_is_the_standard_errors_and_strata_are_kept() -> None:
    scores = np.random.default_rng(0).normal(size=400)
    found = interval([scores], mean)
    assert found.mean == pytest.approx(scores.mean())
    # Of 400 scores the bootstrap's is the normal interval, ± 1.96 s/√n, to its own noise of 1 %.
    assert (found.high - found.low) / (2 * 1.96 * scores.std() / math.sqrt(400)) == pytest.approx(1.0, rel=0.05)
    # Two tasks far apart, each without spread: drawing across tasks would give a wide interval.
    apart = interval([np.zeros(5), np.full(5, 100.0)], mean)
    assert apart == (50.0, 50.0, 50.0)


def test_the_probability_of_improvement_is_mann_and_whitneys() -> None:
    # The tortoise and the hare (Mann and Whitney's example as told by textbooks): U = 25 of 36 pairs.
    order = "THHHHHTTTTTH"
    hare, tortoise = ([-place for place, one in enumerate(order) if one == who] for who in "HT")
    x, y = np.array(hare, float), np.array(tortoise, float)
    assert probability_of_improvement([x], [y]).mean == pytest.approx(25 / 36)
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 5, 7).astype(float), rng.integers(0, 5, 6).astype(float)  # with ties
    expected = mannwhitneyu(x, y).statistic / (len(x) * len(y))
    both = probability_of_improvement([x, y], [y, x])
    assert probability_of_improvement([x], [y]).mean == pytest.approx(expected)
    assert both.mean == pytest.approx(0.5) and both.low <= 0.5 <= both.high


def test_a_profile_counts_the_runs_above() -> None:
    scores = [np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 0.0])]
    assert performance_profile(scores, np.array([-1.0, 0.0, 2.0, 9.0])).tolist() == [1.0, 0.5, 0.25, 0.0]


def recorded(path: Path, evaluations: list[float], **other: object) -> None:
    """A run that was evaluated every 100 steps."""
    folder = RunFolder(path)
    folder.create(CONFIG | {"eval_episodes": 5} | other)
    for place, mean in enumerate(evaluations, 1):
        folder.append({"step": 100 * place, "eval_mean": mean, "seconds": 9.0 * place})
    folder.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three seeds of one method, two of another, in folders of any name."""
    for seed, evaluations in enumerate(([5.0, 1.0], [3.0, 2.0], [9.0, 6.0])):
        recorded(tmp_path / "slow" / str(seed), evaluations, seed=seed, settings={"gamma": 0.9, "tau": 0.1})
    for seed, last in enumerate((7.0, 8.0)):
        recorded(tmp_path / "fast" / str(seed), [0.0, last], seed=seed, settings={"gamma": 0.99, "tau": 0.1})
    return tmp_path


def test_seeds_are_a_group_named_by_what_differs(root: Path) -> None:
    found = groups([root / "slow", root / "fast"])
    assert [group.name for group in found] == ["td3 gamma=0.9", "td3 gamma=0.99"]
    standings = Standings.of(found)
    assert [(row.name, row.seeds, row.scores.tolist()) for row in standings.rows] == [
        ("td3 gamma=0.99", (0, 1), [7.0, 8.0]),
        ("td3 gamma=0.9", (0, 1, 2), [1.0, 2.0, 6.0]),
    ]
    assert standings.rows[0].better is not None and standings.rows[0].better.mean == 1.0
    assert Standings.of(found, BEST).rows[1].scores.tolist() == [5.0, 3.0, 9.0]
    assert found[0].at(100).tolist() == [5.0, 3.0, 9.0] and found[0].steps == [100, 200]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"env": "Hopper-v5"}, "environment Hopper-v5"),
        ({"eval_episodes": 20}, "evaluation episodes 20"),
    ],
)
def test_other_protocols_are_refused(root: Path, other: dict[str, object], told: str) -> None:
    recorded(root / "other", [0.0, 1.0], **other)
    with pytest.raises(UserError, match=told):
        groups([root / "slow", root / "other"])


def test_runs_that_do_not_compare_are_refused(root: Path) -> None:
    recorded(root / "short", [1.0], seed=8)
    with pytest.raises(UserError, match="evaluations 1"):
        groups([root / "slow", root / "short"])
    recorded(root / "none", [], seed=9)
    with pytest.raises(UserError, match="recorded no evaluation"):
        groups([root / "none"])
    recorded(root / "again", [5.0, 1.0], seed=1, settings={"gamma": 0.9, "tau": 0.1})
    with pytest.raises(UserError, match="seed 1 stands in another run too"):
        groups([root / "slow", root / "again"])
    (root / "empty").mkdir()
    with pytest.raises(UserError, match="found no runs"):
        groups([root / "empty"])


def test_the_command_prints_and_writes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", str(root / "slow"), str(root / "fast"), "--recorded"]
    table, tex, curves = root / "t.csv", root / "t.tex", root / "c.png"
    assert main([*command, "--table", str(table), "--curves", str(curves)]) == 0
    head, columns, first, _, caution = capsys.readouterr().out.splitlines()
    assert caution.startswith("td3 gamma=0.99 has 2 seeds: ") and "in 50% of cases" in caution
    assert "Pendulum-v1" in head and "last evaluation" in head and columns.startswith("runs")
    assert first.startswith("td3 gamma=0.99")
    assert table.read_text().splitlines()[:2] == ["runs,seed,score", "td3 gamma=0.99,0,7.0"] and curves.exists()
    assert main([*command, "--table", str(tex), "--which", "best"]) == 0
    assert r"\begin{tabular}{lrrrrr}" in tex.read_text() and r"95 \%" in tex.read_text()
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["protocol"]["steps"] == 200 and said["groups"][1]["worst"] == 1.0
    table.write_text("mine")
    assert main([*command, "--table", str(table)]) == 2
    assert table.read_text() == "mine"
    for option, name in (("--html", "mine.html"), ("--curves", "mine.png")):
        (root / name).write_text("mine")
        assert main([*command, "--table", str(root / "new.csv"), option, str(root / name)]) == 2
        assert (root / name).read_text() == "mine" and not (root / "new.csv").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--recorded", "--episodes", "3"], "--episodes"),
        (["--which", "best"], "--which"),
        (["--recorded", "--table", "t.xls"], "'.xls'"),
        (["--recorded", "--which", "first"], "--which"),
    ],
)
def test_options_that_do_not_go_together(
    root: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(root / "slow"), *words]) == 2
    assert told in capsys.readouterr().err


def test_a_page_has_the_standings_and_loads_nothing(root: Path) -> None:
    command = ["compare", str(root / "slow"), str(root / "fast"), "--recorded", "--html"]
    assert main([*command, str(root / "c.html")]) == 0
    page, found = Read.of(root / "c.html"), groups([root / "slow", root / "fast"])
    page.check_alone()
    assert page.sections == ["standings", "curves", "profiles", "protocol", "runs"]
    for row in Standings.of(found).table():
        assert all(cell in page.text for cell in row)
    (by_step,), (by_hour,) = (page.data[f"curves-{place}"]["views"] for place in (0, 1))
    assert by_step["x"] == found[0].steps
    np.testing.assert_allclose(by_hour["x"], np.unique([group.hours for group in found]), rtol=1e-4)
    first = by_step["curves"][0]
    np.testing.assert_allclose([first[end][-1] for end in ("y", "low", "high")], found[0].middles[-1], rtol=1e-4)
    (shares,) = page.data["profiles-0"]["views"]
    assert [one["y"][0] for one in shares["curves"]] == [1.0, 1.0]
    assert [one["y"][-1] for one in shares["curves"]] == [0.0, 0.0]
    assert main([*command, str(root / "c.htm")]) == 2 and not (root / "c.htm").exists()


def test_curves_over_their_own_x_are_joined() -> None:
    near, far = Curve("near", [1.0, 2.0], low=[0.0, 1.0], high=[2.0, 3.0]), Curve("far", [5.0])
    view = View.joined("", [([10, 30], near), ([20], far)])
    assert view.x == [10, 20, 30]
    assert [one.y for one in view.curves] == [[1.0, None, 2.0], [None, 5.0, None]]
    assert view.curves[0].low == [0.0, None, 1.0] and view.curves[1].high == ()


def test_how_often_the_range_of_a_few_scores_holds_the_median() -> None:
    """Counted over all ways in which n scores fall below and above it."""
    for runs in range(1, 7):
        ways = np.array(list(itertools.product((False, True), repeat=runs)))
        assert held_by_range(runs) == (ways.any(1) & ~ways.all(1)).mean()


def test_few_seeds_are_cautioned_of_and_five_are_not(root: Path) -> None:
    for seed in range(5):
        recorded(root / "many" / str(seed), [float(seed)], seed=seed)
    many = Standings.of(groups([root / "many"]))
    assert many.caution is None and many.describe()["caution"] is None
    few = Standings.of(groups([root / "slow"])).caution
    assert few is not None and "has 3 seeds" in few and "75%" in few
