"""A controller in C: what it computes, what its compiler says of it, and that it finds out when it was changed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exported import AGENTS, GUARDED, agent_in, guarded_in
from fittedq.agent import Agent
from fittedq.cli.main import main
from fittedq.errors import UserError
from fittedq.export import c_file
from fittedq.export.c_file import Compiled, CSource, compile_c
from fittedq.export.folder import check_place

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("gcc", "clang", "cc"))), reason="needs a C compiler (gcc, clang or cc)"
)
ALL = {
    name: AGENTS[name] for name in ("simba", "simba_v2", "td7", "xqc", "gelu", "softplus", "elu", "polytope", "whole")
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A controller that remembers, in C without libm."""
    out = tmp_path_factory.mktemp("c") / "out"
    return out, agent_in(**AGENTS["memory"]).export(out, CSource(libm=False), samples=400, sample=0.2)


def built(folder: Path, source: str, tmp_path: Path) -> Compiled:
    (tmp_path / "controller.h").write_text((folder / "controller.h").read_text())
    (tmp_path / "controller.c").write_text(source)
    compile_c(tmp_path / "controller.c", tmp_path / "controller.so")
    return Compiled(tmp_path / "controller.so")


def test_c_without_libm_acts_as_the_agent_in_every_loop(exported: tuple[Path, dict[str, Any]]) -> None:
    out, told = exported
    assert told["verified"]["max_error"] < 1e-5
    assert {"OK", "NOT_FINITE", "LIMITED"} <= told["verified"]["statuses"].keys()
    (out / "build").mkdir()
    (out / "build" / "self_test").touch()
    assert main(["verify", str(out)]) == 0
    with pytest.raises(UserError, match="build is none of its files"):
        check_place(out)
    shutil.rmtree(out / "build")
    check_place(out)
    text = (out / "controller.c").read_text()
    assert not re.search(
        r"\b(malloc|calloc|free|alloca|goto|while)\b", re.sub(r"/\*.*?\*/|\"[^\"]*\"", "", text, flags=re.S)
    )
    assert "200000UL" in (out / "arduino/controller.ino").read_text()
    assert "duration<double>(0.2)" in (out / "ros2/controller_node.cpp").read_text()


def test_a_changed_weight_fails_the_self_test(exported: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Compiled with libm, as another toolchain would: the whole one passes, one with a digit changed does not."""
    text = (exported[0] / "controller.c").read_text()
    begin = text.index("static const float fq_t3[")
    digit = re.compile(r"\.(\d)").search(text, begin)
    assert digit is not None
    other = text[: digit.start(1)] + str((int(digit[1]) + 1) % 10) + text[digit.end(1) :]
    whole, changed = tmp_path / "whole", tmp_path / "changed"
    whole.mkdir()
    changed.mkdir()
    assert built(exported[0], text, whole).self_test() == 0
    assert built(exported[0], other, changed).self_test() & 1


def test_without_a_compiler_it_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(c_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"found no C compiler .*--unverified"):
        agent_in().export(tmp_path / "out", "c", samples=100)
    assert not list(tmp_path.iterdir())
    assert agent_in().export(tmp_path / "out", "c", samples=100, verify=False)["verified"] is None


@pytest.mark.slow
@pytest.mark.parametrize("of", ALL.values(), ids=list(ALL))
def test_every_network_and_set_acts_in_c_as_in_python(of: dict[str, Any], tmp_path: Path) -> None:
    agent = agent_in(**of)
    for language in (CSource(), CSource(libm=False)):
        assert agent.export(tmp_path / "out", language, samples=2000)["verified"]["max_error"] < 1e-5
    if of is not AGENTS["whole"]:
        assert agent.export(tmp_path / "out", CSource(int8=True), samples=2000)["verified"]["max_error"] < 0.05


STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow", "-Wstrict-prototypes"]
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("g++") is None, reason="needs gcc and g++")
@pytest.mark.parametrize(
    "made",
    [
        *(partial(agent_in, **AGENTS[name]) for name in ("memory", "polytope", "simba_v2", "elu")),
        *(partial(guarded_in, **GUARDED[name]) for name in ("memory", "regulator")),
    ],
)
def test_sanitizers_and_a_compiler_of_cpp_find_nothing(made: Callable[[], Agent], tmp_path: Path) -> None:
    for language in (CSource(), CSource(int8=True)):
        out = tmp_path / f"int8-{language.int8}"
        made().export(out, language, samples=500)
        for words in (
            ["gcc", "-std=c99", *STRICT, *SANITIZED],
            ["gcc", "-std=c99", *STRICT, "-DFQ_NO_LIBM", *SANITIZED],
            ["g++", "-std=c++17", "-x", "c++", *STRICT[:4]],
        ):
            program = tmp_path / "self_test"
            sources = [str(out / "self_test.c"), str(out / "controller.c")]
            subprocess.run([*words, "-o", str(program), *sources, "-lm"], check=True)
            done = subprocess.run([str(program)], check=True, capture_output=True, text=True)
            assert "self-test: passed" in done.stdout and "observation 0: observation[0]" in done.stdout


def test_whole_weights_are_off_by_what_is_stated(tmp_path: Path) -> None:
    told = agent_in(hidden=(16, 16)).export(tmp_path / "out", CSource(int8=True), samples=500)
    assert 1e-4 < told["verified"]["max_error"] < told["tolerance"] == 0.05
    assert np.isclose(told["about"]["low"], [-2, -1]).all()
