"""Packages that bring a method and are at fault: a sentence, and everyone else's methods stay."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from fittedq import algorithms
from fittedq.cli.main import main


def test_a_package_that_ends_the_process_does_not_end_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fittedq_quitter.py").write_text("raise SystemExit(7)\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry = metadata.EntryPoint("quitter", "fittedq_quitter:Quitter", algorithms.GROUP)
    monkeypatch.setattr(algorithms, "_entries", lambda: {"quitter": entry})
    assert main(["list"]) == 0
    assert "algorithm 'quitter', which the installed package ? announces, cannot be had" in capsys.readouterr().err
