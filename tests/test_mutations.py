"""The list of mutations does not rot: each says exactly one place, and tests that exist."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def test_each_mutation_can_be_made_and_names_tests_that_exist(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("mutants", FOLDER / "mutants.py")
    assert spec is not None and spec.loader is not None
    mutants = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutants", mutants)
    spec.loader.exec_module(mutants)
    mutations = mutants.read()
    assert len({mutation.name for mutation in mutations}) == len(mutations) >= 80
    assert {mutation.name: mutation.stale() for mutation in mutations if mutation.stale()} == {}
    for mutation in mutations:
        assert mutation.old != mutation.new and mutation.tests
        for node in mutation.tests:
            file, _, function = node.partition("::")
            text = (FOLDER.parent / "tests" / file).read_text()
            assert f"def {function.partition('[')[0]}(" in text or not function, f"{mutation.name}: {node} is gone"
