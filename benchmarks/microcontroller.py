"""Exported C on an emulated Cortex-M4F: the self-test's samples, the flash, RAM and stack that they take, and the
instructions of a step.

apt-get install gcc-arm-none-eabi qemu-system-arm
.venv/bin/python benchmarks/microcontroller.py > benchmarks/results/microcontroller.json

GCC builds for the core with and without newlib's libm (-Os), and QEMU runs the image on the board MPS2 with AN386. The
stack is painted before the self-test and looked at afterwards. QEMU counts instructions (-icount), not cycles: a step's
time is to be measured on the board.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fittedq import algorithms
from fittedq.actions.base import Box
from fittedq.agent import Agent
from fittedq.data.statistics import RunningMoments
from fittedq.export.c_file import CSource
from machine import describe

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
FLAGS = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "-std=c99", "-Os"]
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-ffunction-sections"]
LINK = ["-nostartfiles", "--specs=nosys.specs", "-Wl,--gc-sections", "-T", "board.ld"]
BOARD = ["-M", "mps2-an386", "-nographic", "-semihosting", "-icount", "shift=5,align=off,sleep=off"]
FILES = {
    "board.c": r"""
#include "controller.h"
#define HERE(address) (*(volatile unsigned *)(address))
extern unsigned top, data_from, data_begin, data_end, bss_begin, bss_end;
void reset(void);
__attribute__((section(".vectors"), used)) static const void *const vectors[] = {&top, (const void *)reset};
static fq_controller c;
static float obs[FQ_OBSERVATIONS], action[FQ_ACTIONS];

static void call(int operation, const void *with)
{
    register int r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = with;
    __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void tell(const char *name, unsigned value)
{
    static char text[12];
    char *at = text + 11;
    do {
        *--at = (char)('0' + value % 10u);
    } while ((value /= 10u) != 0u);
    call(4, name);
    call(4, at);
    call(4, "\n");
}

static unsigned stepped(void)
{
    const unsigned begin = HERE(0xE000E018u);
    (void)fq_step(&c, obs, action);
    return (begin - HERE(0xE000E018u)) & 0xFFFFFFu;
}

void reset(void)
{
    unsigned *from = &data_from, *to, wrong;
    HERE(0xE000ED88u) |= 0xFu << 20; /* floats on */
    __asm volatile("dsb\n isb");
    for (to = &data_begin; to < &data_end; ++to) {
        *to = *from++;
    }
    for (to = &bss_begin; to < &bss_end; ++to) {
        *to = 0u;
    }
    for (to = &top - 16384; to < (unsigned *)__builtin_frame_address(0) - 64; ++to) {
        *to = 0xA5A5A5A5u;
    }
    HERE(0xE000E014u) = 0xFFFFFFu; /* a timer of 25 MHz */
    HERE(0xE000E018u) = 0u;
    HERE(0xE000E010u) = 5u;
    wrong = (unsigned)fq_self_test(&c);
    for (to = &top - 16384; *to == 0xA5A5A5A5u; ++to) {
    }
    tell("self_test ", wrong);
    tell("stack ", (unsigned)((char *)&top - (char *)to));
    fq_init(&c);
    (void)stepped();
    tell("ticks ", stepped());
    call(0x18, (const void *)0x20026);
    for (;;) {
    }
}
""",
    "board.ld": """
ENTRY(reset)
MEMORY { FLASH (rx) : ORIGIN = 0, LENGTH = 4M   RAM (rwx) : ORIGIN = 0x20000000, LENGTH = 4M }
SECTIONS
{
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > FLASH
  .ARM.exidx : { *(.ARM.exidx*) } > FLASH
  data_from = LOADADDR(.data);
  .data : { data_begin = .; *(.data*); . = ALIGN(4); data_end = .; } > RAM AT > FLASH
  .bss : { bss_begin = .; *(.bss*) *(COMMON); . = ALIGN(4); bss_end = .; } > RAM
  top = ORIGIN(RAM) + LENGTH(RAM);
}
""",
}
TICKS_TO_INSTRUCTIONS = 40 / 2**5
"""A tick is 40 ns, and QEMU lets an instruction take 2^shift of them."""


def built(folder: Path, libm: bool) -> dict[str, int]:
    """Bytes of an image, and what `self_test` found; 0: every sample as the agent's, the weights by their CRC."""
    for name, text in FILES.items():
        (folder / name).write_text(text)
    more = [] if libm else ["-DFQ_NO_LIBM"]
    subprocess.run([COMPILER, *FLAGS, *more, *STRICT, "-c", "controller.c"], check=True, cwd=folder)
    words = [COMPILER, *FLAGS, *more, *LINK, "-o", "image", "board.c", "controller.o", "-lm"]
    subprocess.run(words, check=True, cwd=folder, capture_output=True)
    sizes = subprocess.check_output([COMPILER.replace("gcc", "size"), "image"], cwd=folder, text=True)
    text, data, bss = map(int, sizes.splitlines()[1].split()[:3])
    words = [EMULATOR, *BOARD, "-kernel", "image"]  # semihosting tells on standard error
    told = subprocess.check_output(words, cwd=folder, text=True, timeout=300, stderr=subprocess.STDOUT)
    found = {name: int(value) for name, value in (line.split() for line in told.splitlines())}
    instructions = round(found.pop("ticks") * TICKS_TO_INSTRUCTIONS)
    return found | {"flash": text + data, "ram": data + bss, "instructions_of_a_step": instructions}


def measured(hidden: tuple[int, ...], size: int, actions: int, int8: bool) -> list[dict[str, Any]]:
    box, method = Box([-1.0] * actions, [1.0] * actions), algorithms.find("sac")(hidden=hidden)
    nets = method.networks(size, box, jax.random.key(0))
    seen = np.random.default_rng(0).normal(size=(1000, size)).astype(np.float32)
    agent = Agent(method, size, box, nets, RunningMoments.start(size).update(seen))
    rows = []
    for libm in (False, True):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "c"
            agent.export(folder, CSource(int8=int8, libm=libm), samples=1000)
            network = "-".join(map(str, (size, *hidden, actions)))
            rows.append({"network": network, "int8": int8, "libm": libm, **built(folder, libm)})
    return rows


def main() -> None:
    rows = [
        row
        for hidden, size, actions in (((32, 32), 4, 1), ((64, 64), 17, 6), ((256, 256), 17, 6))
        for int8 in (False, True)
        for row in measured(hidden, size, actions, int8)
    ]
    tools = {
        words[0]: subprocess.check_output([*words, "--version"], text=True).splitlines()[0]
        for words in ([COMPILER], [EMULATOR])
    }
    told = {**describe("fittedq", "numpy", "jax"), "tools": tools, "flags": FLAGS, "processor": "Cortex-M4F"}
    print(json.dumps({**told, "emulator": "QEMU, which counts instructions and no cycles", "bytes": rows}, indent=1))


if __name__ == "__main__":
    main()
