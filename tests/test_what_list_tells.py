"""`fittedq list METHOD` tells a setting's words and the objects it takes; a package's fault names what was found."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

import fittedq
from fittedq import TD3, algorithms
from fittedq.cli.main import main
from fittedq.errors import UserError
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule


def test_a_settings_words_and_objects_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "explicit_fqi", "--json"]) == 0
    rows = {row["setting"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {"relu", "tanh"} <= set(rows["activation"]["words"])
    assert rows["activation"]["in_python"] == "a function of (x)"
    assert rows["approximator"]["in_python"] == "a function of (obs_size, action_set, key)"
    assert {"auto", "milp"} <= set(rows["maximizer"]["words"])
    assert (rows["gamma"]["words"], rows["gamma"]["in_python"]) == (None, None)
    assert main(["list", "td3"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "first, min, mean" in told or "min, first, mean" in told


@pytest.mark.parametrize(
    ("announced", "said"),
    [(TD3, "is m:X, whose name is 'td3'; expected a class whose name is 'mine'"), (TD3(), "is m:X, which is no class")],
)
def test_what_a_package_announces_wrongly_is_told(
    announced: object, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Entry(metadata.EntryPoint):
        dist = None

        def load(self) -> object:
            return announced

    entry = Entry("mine", "m:X", algorithms.GROUP)
    monkeypatch.setattr(algorithms, "_entries", lambda: {"mine": entry})
    with pytest.raises(UserError, match=said):
        algorithms.find("mine")


def test_a_setting_beside_the_arguments_of_a_resume_is_told_where_it_stands() -> None:
    with pytest.raises(UserError, match=r"batch_size: found it beside the others, expected set=\{'batch_size': 8\}"):
        fittedq.resume("runs/none", batch_size=8)


def test_a_rule_that_takes_no_report_is_refused() -> None:
    run = Run("td3", "Pendulum-v1", Schedule(steps=3), settings={"hidden": (4,), "batch_size": 4, "replay_size": 100})
    with pytest.raises(UserError, match=r"stop_when: found .*, expected a condition in words or a function"):
        next(run.reports(lambda: True))  # type: ignore[misc, arg-type]
    run.close()
