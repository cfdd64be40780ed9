"""What tests take of the processor, and that no quick one takes much of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator

import pytest

MOST = 0.04
"""What one quick test and its fixtures may take of all quick tests' time of the processor. It is a share, for a slower
machine slows them all. The dearest takes a quarter of it, where nothing runs beside it."""
WHOLE = 1_000
"""Fewer tests are a part of the suite, and a share of a part says nothing."""


def spent() -> float:
    """Seconds of processor of this process, and of those it started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Budget:
    """Adds up the quick tests' time of the processor, which other work on the machine hardly changes."""

    def __init__(self) -> None:
        self.before = spent()
        self.taken: Counter[str] = Counter()

    def pytest_collection_finish(self) -> None:
        """What collecting took is not the first test's."""
        self.before = spent()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = spent()
        if not item.get_closest_marker("slow"):
            report.user_properties = [*report.user_properties, ("processor", now - self.before)]
        self.before = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.taken[report.nodeid] += sum(value for name, value in report.user_properties if name == "processor")

    def dear(self) -> list[tuple[str, float]]:
        if len(self.taken) < WHOLE:
            return []
        most = MOST * self.taken.total()
        return [(name, seconds) for name, seconds in self.taken.most_common() if seconds > most]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.dear() and session.exitstatus == pytest.ExitCode.OK and not hasattr(session.config, "workerinput"):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        for name, seconds in self.dear():
            terminalreporter.write_line(
                f"{name} took {seconds:.0f} s of processor, and a quick test may take {MOST:.0%} of the "
                f"{self.taken.total():.0f} s of all: take smaller networks and fewer of them, share what is compiled, "
                "or mark it slow (CONTRIBUTING.md).",
                red=True,
            )
        if config.option.durations is not None:
            terminalreporter.section(f"the quick tests took {self.taken.total():.0f} s of processor")
            for name, seconds in self.taken.most_common(config.option.durations or None):
                terminalreporter.write_line(f"{seconds:.2f} s {name}")
