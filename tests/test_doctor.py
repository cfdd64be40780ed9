"""`fittedq doctor`: what it finds, and what it says of what is missing."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import jax
import pytest

from fittedq.cli import doctor
from fittedq.cli.main import main


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    """What it prints, by what was looked at."""
    code = main(["doctor", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert code == int(any(one["remedy"] for one in printed["findings"]))
    return {one["what"]: one for one in (*printed["findings"], *printed["extras"])}


def test_what_is_there_is_told_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = said(capsys)
    assert found["jax"]["found"] == metadata.version("jax")
    assert found["programs run on"]["found"].startswith("cpu") and not found["programs run on"]["remedy"]
    assert "GiB free" in found["disk here"]["found"]


def test_a_missing_package_is_named_with_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: name != "h5py")
    found = said(capsys)
    assert found["extra data"] == {
        "what": "extra data",
        "found": "without h5py",
        "remedy": "pip install 'fittedq[data]'",
    }
    assert found["extra viz"]["remedy"] == ""


def test_fewer_cores_than_there_are_and_no_kept_programs_are_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3})
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setenv("FITTEDQ_NO_CACHE", "1")
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        found = said(capsys)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert found["processor"]["found"].startswith("64 cores; this process may use 1")
    assert "FITTEDQ_NO_CACHE" in found["compiled programs"]["found"] and found["compiled programs"]["remedy"]


def test_a_machine_that_multiplies_wrongly_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jax.jit", lambda function: lambda x: x)
    assert "wrong" in said(capsys)["programs run on"]["remedy"]
