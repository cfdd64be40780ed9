"""Numbers greater than any machine counts to are one sentence, wherever they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fittedq import SVG, TD3, Schedule, UserError
from fittedq.cli.main import main
from fittedq.runs.stop import StopWhen
from fittedq.settings import MOST_COUNT, parse_assignments, real, whole
from fittedq.trainers.settings import TrainSettings

pytestmark = pytest.mark.unannotated

NINES = int("9" * 400)
UNSAID = 10**5000
"""More digits than Python writes."""


@pytest.mark.parametrize("number", [NINES, -NINES, UNSAID], ids=["nines", "negative", "unsaid"])
@pytest.mark.parametrize(
    "taken",
    [
        lambda number: TD3(critic_learning_rate=number),
        lambda number: TD3(hidden=(number, 4)),
        lambda number: TD3(gamma=number),
        lambda number: SVG(horizon=number),
        lambda number: TrainSettings(batch_size=number),
        lambda number: Schedule(steps=number),
        lambda number: whole(number, "steps"),
        lambda number: real(number, "tol", "a number"),
        lambda number: TD3(critic_learning_rate=f"linear:{NINES}:1"),
        lambda number: StopWhen(f"step > {NINES}"),
    ],
)
def test_a_number_that_no_machine_counts_to_is_one_sentence(taken: Callable[[Any], Any], number: int) -> None:
    with pytest.raises(UserError) as caught:
        taken(number)
    assert len(str(caught.value)) < 700


def test_the_greatest_count_is_taken() -> None:
    assert Schedule(steps=MOST_COUNT).steps == MOST_COUNT
    assert TrainSettings().updates(MOST_COUNT) > 0


@pytest.mark.parametrize("word", [f"critic_learning_rate={NINES}", "gamma=" + "9" * 5000, "env_timeout=1e300"])
def test_a_huge_number_on_the_command_line_is_one_sentence(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    (name,) = parse_assignments([word])
    assert main(["train", "td3", "Pendulum-v1", "--set", word]) == 2
    said = capsys.readouterr().err
    assert f"setting {name}: found" in said and "Traceback" not in said


def test_huge_steps_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "td3", "Pendulum-v1", "--steps", str(NINES)]) == 2
    assert "--steps: found 999" in (said := capsys.readouterr().err) and f"{MOST_COUNT}" in said
