"""The suite's own limit for a quick test."""

from __future__ import annotations

from typing import Any

from budget import Budget, spent


def of_times(*seconds: Any) -> Budget:
    budget = Budget()
    budget.taken.update({f"test_{place}": one for place, one in enumerate(seconds)})
    return budget


def test_a_test_is_dear_by_its_share_of_the_suite_on_a_fast_and_on_a_slow_machine() -> None:
    quick = [0.2] * 1_200
    for slower in (1.0, 3.0):
        assert of_times(*(slower * one for one in [9.0, *quick])).dear() == []
        assert of_times(*(slower * one for one in [12.0, *quick])).dear() == [("test_0", slower * 12.0)]


def test_what_collecting_took_is_no_test_of_them() -> None:
    budget = of_times()
    budget.before -= 100.0
    budget.pytest_collection_finish()
    assert spent() - budget.before < 10.0


def test_a_part_of_the_suite_has_no_share() -> None:
    assert of_times(30.0, 0.1).dear() == []
