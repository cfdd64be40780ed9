"""The layout of the package, and the page that shows it."""

from __future__ import annotations

import ast
import fnmatch
import functools
import importlib
import inspect
import pkgutil
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.algorithms import SVG, TD3, ExplicitFQI, SmoothFQI
from fittedq.algorithms.base import AbstractAlgorithm

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "docs"))  # what its scripts share


@functools.cache
def modules() -> dict[Path, ast.Module]:
    """Every module of the package as a tree, by its file."""
    return {path: ast.parse(path.read_text()) for path in sorted((ROOT / "src").rglob("*.py"))}


def test_the_picture_of_the_house_is_as_the_imports_are() -> None:
    house = runpy.run_path(str(ROOT / "docs" / "house.py"))
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert house["drawn"](page) == page, "run `python docs/house.py`"


def test_the_table_of_methods_is_as_their_templates_are() -> None:
    methods = runpy.run_path(str(ROOT / "docs" / "methods.py"))
    page = methods["PAGE"].read_text()
    assert methods["written"](page) == page, "run `python docs/methods.py`"


def test_every_result_is_named_with_the_command_that_makes_it() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text()
    named = [word for row in page.splitlines() for word in re.findall(r"`(results/[^`]*)`", row)]
    results = ROOT / "benchmarks" / "results"
    found = [path.relative_to(results.parent) for path in results.rglob("*.json")]
    assert found
    assert [str(path) for path in found if not any(fnmatch.fnmatch(str(path), name) for name in named)] == []


def test_a_template_is_written_as_code_has_it() -> None:
    said = TD3(n_critics=3, n_target_critics=3).describe()
    assert said == {
        "buffer": "FIFO replay",
        "greedy": "Smoothed(PolicyAction, sigma=0.2, clip=0.5)",
        "updates": "critic: Regress(Bellman(MinOverCritics(subset=3), gamma=0.99)) by Descend; "
        "policy: Improve(FirstCritic) by Descend, every 2",
        "sync": "critic, policy: Polyak(tau=0.005, every=2)",
    }
    trees = SmoothFQI(approximator="extra_trees").describe()
    assert (trees["buffer"], trees["greedy"]) == ("fixed dataset", "–")
    assert trees["updates"].endswith("by GrowTrees")


def test_what_others_are_to_write_says_what_it_gives() -> None:
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and "abc.abstractmethod" in map(ast.unparse, node.decorator_list):
                assert ast.get_docstring(node), f"{path.name}, line {node.lineno}: {node.name}"


def classes() -> list[type]:
    """Every class of the package."""
    for module in pkgutil.walk_packages(fittedq.__path__, "fittedq."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: dict[type, None] = {}
    unseen = list(type.__subclasses__(object))
    while unseen:
        cls = unseen.pop()
        if cls not in found and cls is not type:
            found[cls] = None
            unseen += type.__subclasses__(cls)
    return [cls for cls in found if ours(cls)]


def ours(cls: type) -> bool:
    return str(cls.__module__).split(".")[0] == "fittedq"


def function_of(attribute: Any) -> Any:
    """The function under a method, property or static method; None for anything else."""
    found = attribute.fget if isinstance(attribute, property) else getattr(attribute, "__wrapped__", attribute)
    found = getattr(found, "__func__", found)
    return found if callable(found) and not isinstance(found, type) else None


def overrides(cls: type) -> list[str]:
    """`Class.method` of the methods that hide a concrete one of a base class."""
    hidden = []
    for name, attribute in vars(cls).items():
        bases = [vars(base)[name] for base in cls.__mro__[1:] if ours(base) and name in vars(base)]
        concrete = [base for base in bases if function_of(base) and not getattr(base, "__isabstractmethod__", False)]
        # Every `__check_init__` of a module runs, those of its bases too: none is hidden.
        made = name.startswith("__") and name not in ("__call__", "__post_init__")
        if concrete and function_of(attribute) and not made:
            hidden.append(f"{cls.__name__}.{name}")
    return hidden


OVERRIDES = {
    "Likelihood.prepare": "only a model keeps statistics of its data; every other loss leaves its component as it is",
    "SVG.measure": "only a method with a model measures; the others have nothing to say",
    "SVG.measure_every": "as `measure`",
    "SolvingAlgorithm.layers": "the memory of trees and features",
    "SmoothFQI.controller": "its template solves nowhere: it integrates",
    "SVG.layers": "the memory of a model",
}
"""Concrete methods that are overridden, and why. It only shrinks."""


def test_no_concrete_method_is_overridden_but_those_listed_with_a_reason() -> None:
    assert {name for cls in classes() for name in overrides(cls)} == set(OVERRIDES)


def test_classes_are_abstract_or_final() -> None:
    """Nothing extends a class that can be made: errors name their kind, and commands share flags as dataclasses."""
    extended = {
        f"{cls.__name__}({base.__name__})"
        for cls in classes()
        for base in cls.__bases__
        if ours(base) and not inspect.isabstract(base) and not base.__name__.startswith("Abstract")
    }
    flags = {
        "AugmentsState",
        "CarriesOut",
        "DescribesLog",
        "DescribesRun",
        "GivesCode",
        "JudgesControl",
        "LimitsActions",
        "NamesEnv",
    }
    flags |= {"PerturbsPlant", "SetsFallback", "TrustsFile"}
    assert {name for name in extended if name.split("(")[1][:-1] not in flags} == {
        "EnvError(UserError)",
        "MissingCode(UserError)",
        "MissingColumns(UserError)",
    }


def test_a_frozen_dataclass_is_written_to_in_one_place() -> None:
    """`settings.settle`, for those that check settings."""
    found = [
        file.name for file in (ROOT / "src").rglob("*.py") for _ in range(file.read_text().count("object.__setattr__("))
    ]
    assert found == ["settings.py"]


def annotations(tree: ast.AST) -> list[ast.expr | None]:
    """Those of parameters, returns and assignments."""
    found: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += [argument.annotation for argument in ast.walk(node.args) if isinstance(argument, ast.arg)]
            found.append(node.returns)
        elif isinstance(node, ast.AnnAssign):
            found.append(node.annotation)
    return found


BARE_ANY = 16
"""It only shrinks. What is left makes fields of dataclasses, or comes from libraries without types."""


def test_bare_any_only_shrinks() -> None:
    bare = [
        part
        for tree in modules().values()
        for part in annotations(tree)
        if isinstance(part, ast.Name) and part.id == "Any"
    ]
    assert len(bare) <= BARE_ANY


def public_names(tree: ast.Module) -> set[str]:
    """Functions, classes and constants that a module defines at its top level for others."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_no_name_means_two_things() -> None:
    defined: dict[str, list[str]] = {}
    for file, tree in modules().items():
        for name in public_names(tree):
            defined.setdefault(name, []).append(file.stem)
    assert {name: files for name, files in defined.items() if len(files) > 1} == {}


@pytest.mark.parametrize(
    ("method", "size", "actions"),
    [
        (TD3(), 2, 1),
        (ExplicitFQI(random_starts=3), 2, 4),
        (SmoothFQI(points=5), 2, 25),
        (SmoothFQI(samples=7), 3, 7),
        (SVG(horizon="6"), 2, 6),
    ],
)
def test_a_template_says_how_many_actions_it_evaluates_at_once(
    method: AbstractAlgorithm, size: int, actions: int
) -> None:
    """By which memory is refused before it is claimed: starts, nodes of a product rule, samples, steps of a rollout."""
    action_set = Box((-1.0,) * size, (1.0,) * size)
    assert method.template(action_set).actions_at_once(size) == actions
