"""The example that leads to a PLC and to a microcontroller: its commands run, in their order, at a smaller size."""

from __future__ import annotations

import csv
import importlib.util
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fittedq.cli.main import main
from fittedq.export.st_reader import read_block
from pages import ROOT, blocks

PAGE = ROOT / "examples" / "to_the_plant.md"
STUBS = """
#include <stdio.h>
static int sample;
void read_sensors(float *y) { y[0] = 10.0f; y[1] = 10.0f; y[2] = 12.0f; }
float present_controller(const float *y) { (void)y; return 5.0f; }
void drive_pump(float volts) { printf("%.6f\\n", (double)volts); }
int wait_for_sample(void) { return ++sample <= 30; }
int may_take_over(void) { return sample > 10; }
"""
"""A plant that stands still, for the `main.c` of the page."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs ziglang"),
    pytest.mark.skipif(shutil.which("make") is None or shutil.which("cc") is None, reason="needs make and cc"),
]


def ran(line: str) -> None:
    """One line of the page's shell."""
    words = shlex.split(line)
    if words[0] == "fittedq":
        assert main(words[1:]) == 0, line
    else:
        subprocess.run(line.replace("python", sys.executable) if words[0] == "python" else line, shell=True, check=True)


def test_the_way_from_a_run_to_a_plc_and_to_a_microcontroller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plant.toml").write_text("".join(block.text for block in blocks(PAGE, "toml")))
    (tmp_path / "main.c").write_text("".join(block.text for block in blocks(PAGE, "c")))
    for block in blocks(PAGE, "bash"):
        for line in filter(None, block.code().splitlines()):
            ran(line)
    told = capfd.readouterr().out
    assert "self-test: passed" in told and "an export, every file whole" in told
    assert "fallback  hold" in told and "h2 cm" in told and "sensor delay 1" in told
    with Path("shadow.csv").open() as file:
        assert len(list(csv.reader(file))) == 201
    elf = Path("firmware/controller.o").read_bytes()
    assert elf[:4] == b"\x7fELF" and elf[18] == 40  # EM_ARM
    Path("plant.c").write_text(STUBS)
    sources = ["main.c", "plant.c", "firmware/controller.c"]
    subprocess.run(["cc", "-std=c99", "-DFQ_NO_LIBM", "-Ifirmware", *sources, "-o", "loop"], check=True)
    volts = [float(line) for line in subprocess.check_output(["./loop"], text=True).split()]
    assert len(volts) == 30 and volts[:10] == [5.0] * 10 and all(0 <= one <= 12 for one in volts)
    assert abs(volts[10] - 5.0) <= 12 / 20 + 1e-5
    (call,) = blocks(PAGE, "iecst")
    assert f": {read_block(Path('plant/st/controller.st').read_text()).name};" in call.text
    blark = pytest.importorskip("blark.parse", reason="needs blark")
    assert blark.parse_source_code(call.text).exception is None
