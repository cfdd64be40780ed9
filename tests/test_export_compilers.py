"""Exported C before other compilers, checkers and builders, and the texts around it before stubs of their headers."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from exported import AGENTS, GUARDED, SOLVING, agent_in, guarded_in, tree_agent
from fittedq.agent import Agent
from fittedq.export.c_file import CSource

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("g++") is None, reason="needs gcc and g++"),
]
EXPORTS: dict[str, tuple[Callable[[], Agent], CSource, int]] = {
    "memory": (partial(agent_in, **AGENTS["memory"]), CSource(), 0),
    "polytope": (partial(agent_in, **AGENTS["polytope"]), CSource(int8=True), 0),
    "guard": (partial(guarded_in, **GUARDED["memory"]), CSource(libm=False), 0),
    "solver": (partial(agent_in, **SOLVING["history"]), CSource(), 2),
    "trees": (tree_agent, CSource(), 2),
}
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow", "-Wstrict-prototypes"]
ROS = {
    "rclcpp/rclcpp.hpp": """
#pragma once
#include <memory>
#include <string>
#define RCLCPP_WARN_THROTTLE(logger, clock, milliseconds, ...) \\
  do { (void)(logger); (void)(clock); (void)(milliseconds); } while (0)
namespace rclcpp {
struct Logger {};
struct Clock {};
struct TimerBase { using SharedPtr = std::shared_ptr<TimerBase>; };
template<class M> struct Publisher { using SharedPtr = std::shared_ptr<Publisher>; void publish(const M &); };
template<class M> struct Subscription { using SharedPtr = std::shared_ptr<Subscription>; };
class Node {
public:
  explicit Node(const std::string & name);
  template<class M> std::shared_ptr<Publisher<M>> create_publisher(const std::string & topic, int depth);
  template<class M, class F> std::shared_ptr<Subscription<M>> create_subscription(const std::string &, int, F && call)
  { call(M()); return nullptr; }
  template<class P, class F> TimerBase::SharedPtr create_wall_timer(P, F && call) { call(); return nullptr; }
  Logger get_logger() const;
  std::shared_ptr<Clock> get_clock();
};
void init(int argc, char ** argv);
void spin(std::shared_ptr<Node> node);
bool shutdown();
}
""",
    "std_msgs/msg/float32_multi_array.hpp": """
#pragma once
#include <vector>
namespace std_msgs::msg { struct Float32MultiArray { std::vector<float> data; }; }
""",
}
ARDUINO = {
    "Arduino.h": """
#pragma once
unsigned long micros();
struct Port { void begin(unsigned long rate); void println(const char *text); void println(int number); };
extern Port Serial;
"""
}


@pytest.fixture(scope="module", params=EXPORTS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, language, refine = EXPORTS[request.param]
    out = tmp_path_factory.mktemp("c") / request.param
    made().export(out, language, samples=200, refine=refine)
    return out


def ran(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs ziglang")
def test_clang_warns_of_nothing_and_computes_the_same(exported: Path, tmp_path: Path) -> None:
    sources = [exported / "self_test.c", exported / "controller.c"]
    for more in ((), ("-DFQ_NO_LIBM",)):
        words = [sys.executable, "-m", "ziglang", "cc", *STRICT, *more, "-o", tmp_path / "out", *sources, "-lm"]
        if more and exported.name == "solver":
            assert "leave FQ_NO_LIBM out" in subprocess.run(words, capture_output=True, text=True).stderr
        else:
            ran(*words)
            assert "self-test: passed" in ran(tmp_path / "out")


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_cmake_builds_it_and_its_test_passes(exported: Path, tmp_path: Path) -> None:
    ran("cmake", "-S", exported, "-B", tmp_path)
    ran("cmake", "--build", tmp_path)
    assert "100% tests passed" in ran("ctest", cwd=tmp_path)


@pytest.mark.skipif(shutil.which("cppcheck") is None, reason="needs cppcheck")
def test_cppcheck_finds_nothing(exported: Path) -> None:
    kinds = "--enable=warning,style,performance,portability"
    ran("cppcheck", "--std=c99", kinds, "--error-exitcode=1", exported / "controller.c", exported / "self_test.c")


@pytest.mark.parametrize(
    ("stubs", "file"), [(ROS, "ros2/controller_node.cpp"), (ARDUINO, "arduino/controller.ino")], ids=["ros", "arduino"]
)
def test_the_texts_around_it_are_what_a_compiler_takes(
    stubs: dict[str, str], file: str, exported: Path, tmp_path: Path
) -> None:
    """Against stubs of what they include; they are run by nobody here."""
    for name, text in stubs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    included = ["-include", "Arduino.h"] if stubs is ARDUINO else []
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *included]
    ran("g++", *flags, "-I", tmp_path, "-I", exported, "-x", "c++", exported / file)
