"""`fittedq inspect PATH`: what a run or an agent is, and how far its policy is from its own critic's maximum."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from fittedq.actions.saved import through_json
from fittedq.agent import Agent
from fittedq.cli.arguments import MaybePath, MaybeWord
from fittedq.cli.environments import GivesCode, NamesEnv
from fittedq.cli.export import say_export
from fittedq.cli.follow import EXPLODING
from fittedq.data.dataset import Dataset
from fittedq.diagnose.gap import Gap
from fittedq.diagnose.pictures import draw_state, drawing
from fittedq.diagnose.verdicts import verdict_lines, verdicts, worst_grade
from fittedq.envs.registry import NamedEnv
from fittedq.errors import MissingCode, UserError
from fittedq.export.folder import differences, is_export, read_export
from fittedq.files import check_folder, make_folder, read_json
from fittedq.maximize.base import Status
from fittedq.runs.folder import RunFolder
from fittedq.runs.health import departure_of, drift_figures, health_figures
from fittedq.runs.progress import console, counted
from fittedq.runs.saved import about_agent, learned_from, without_env
from fittedq.settings import MOST_SEED, real, whole
from fittedq.types import Transition

AT_ONCE = 10
"""States certified between two looks at the clock."""
BELONG_TO = {
    ("--gap",): ("tol", "within", "state_seconds", "pictures", "worst"),
    ("--gap", "--health"): ("states", "seed"),
    ("--gap", "--health", "--support"): ("data",),
}
"""Which of them an option goes with."""
SUMMARIES = {"median": "median", "p95": "95th percentile", "worst": "worst"}
"""Of the states' gaps, by their names in `Gap.summary`."""


@dataclass(frozen=True)
class Inspect(NamesEnv, GivesCode):
    """Show what a run or an agent is. --gap proves how far its policy is from the maximum of its own critic. --health
    compares what the critic promises with the returns that follow, and shows how accurate the model and its gradients
    are."""

    path: tyro.conf.Positional[Path]
    """A run folder (its best agent), an agent folder (such as RUN/last), or an export."""
    gap: bool = False
    """Measure the amortization gap, max_a q(s, a) − q(s, π(s)), on real states."""
    health: bool = False
    """Measure first-order residuals, overestimation, saturation, dead units, how familiar the states are, the change
    from the best agent to the last, and the model's error by horizon; on a log, also how far the policy leaves it."""
    support: MaybePath = None
    """A folder for pictures of how far the policy leaves the log, what the critic promises if it stayed, and where its
    promise comes from. With --data, or the data that the run learned from."""
    states: int = 100
    """States to look at. With --health: steps, in at least three whole episodes."""
    data: MaybePath = None
    """Take the states from this dataset; by default from episodes of the agent, or from the data that the run learned
    from."""
    env: MaybeWord = None
    """The environment of those episodes; by default the one it was trained in."""
    tol: float = 0.01
    """How narrow the proven interval should be, as a share of the range of q."""
    within: float = 0.05
    """The policy counts as good where its gap is at most this share of the range of q."""
    state_seconds: float = 10.0
    """Seconds of search per state, at most. The interval holds though the search was ended."""
    pictures: MaybePath = None
    """A folder for pictures of the worst states."""
    worst: int = 3
    """How many of the worst states to show."""
    seed: int = 0
    """Seed of the choice of states."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        if is_export(self.path):
            return self._export()
        self._check()
        agent = self._agent()
        self._check_pictures()
        about = _about(self.path, agent)
        findings = {} if agent is None else self._findings(agent)
        judged = findings.get("health", {}) | findings.get("gap", {}) | findings.get("support", {})
        if judged:
            findings["verdict"] = verdicts(judged)
            findings["grade"] = worst_grade(findings["verdict"])
        if self.json:
            print(json.dumps(about | findings))
            return 0
        _say(about if not judged else {name: value for name, value in about.items() if name != "settings"})
        if "health" in findings:
            _say_health(findings["health"])
        if "gap" in findings:
            _say_gap(findings["gap"], findings["statuses"], findings["worst"])
        if "support" in findings:
            _say_support(findings["support"])
        in_all = [f"{'in all':>16}  {findings['grade']}"] if judged else []
        for line in verdict_lines(judged) + in_all:
            console(to_errors=False).print(line, soft_wrap=True)
        return 0

    def _check(self) -> None:
        """A UserError for a number that is none of its option, or an option that would have no effect."""
        whole(self.states, "states", 1)
        whole(self.worst, "worst")
        whole(self.seed, "seed", high=MOST_SEED)
        for name in ("tol", "within"):
            real(getattr(self, name), name, "a share above 0 and at most 1", math.ulp(0.0), 1.0)
        real(self.state_seconds, "state_seconds", "seconds of at least 0")
        looks = {"--gap": self.gap, "--health": self.health, "--support": self.support is not None}
        for options, names in BELONG_TO.items():
            for name in names:
                if getattr(self, name) != getattr(Inspect, name) and not any(looks[one] for one in options):
                    raise UserError(f"found no {' or '.join(options)} that it belongs to; give both.", argument=name)

    def _check_pictures(self) -> None:
        """A UserError, before anything is looked at, where no picture could be drawn."""
        for folder in (self.pictures, self.support):
            if folder is not None:
                drawing()
                check_folder(folder)

    def _export(self) -> int:
        """What an exported controller says of itself."""
        if self.gap or self.health or self.support is not None:
            raise UserError(f"{self.path} is an export, which has no critic to ask; inspect the run that it is of.")
        told = read_export(self.path)
        if self.json:
            print(json.dumps({"path": str(self.path), **told}))
        else:
            _say({"path": self.path, **told["about"], **told["options"]})
            say_export(self.path, told)
        for changed in differences(self.path)[:1]:
            print(f"warning: it is not the export that was verified ({changed}); export it anew.", file=sys.stderr)
        return 0

    def _findings(self, agent: Agent) -> dict[str, Any]:
        """What was asked for."""
        findings: dict[str, Any] = {}
        if self.health:
            findings["health"] = self._health(agent)
        if self.gap:
            findings |= self._gap(agent)
        if self.support is not None:
            log = self._log(agent) or self._learned_from()
            departure = departure_of(agent, log)
            departure.draw(self.support)
            findings["support"] = departure.told()
        return findings

    def _agent(self) -> Agent | None:
        """The agent; None where it takes code that was not given, and what is asked for needs none."""
        try:
            agent = self.agent(self.path)
        except MissingCode as missing:
            if self.gap or self.health or self.support is not None or self.code or self.trust_code:
                raise
            console().print(f"note: {missing}", soft_wrap=True)
            return None
        self.chosen(self.named(self.env), agent)  # a word that would have no effect is told before anything is done
        return agent

    def _gap(self, agent: Agent) -> dict[str, Any]:
        obs = self._states(agent)
        parts = [
            agent.gap(obs[first : first + AT_ONCE], tol=self.tol, state_time_limit=self.state_seconds)
            for first in counted(range(0, len(obs), AT_ONCE), -(-len(obs) // AT_ONCE), "batches of states")
        ]
        gap = Gap.joined(parts)
        summary = gap.summary(self.within)
        worst = [
            {
                "state": int(row),
                "lower": float(gap.lower[row]),
                "upper": float(gap.upper[row]),
                "scale": float(gap.scale[row]),
                "relative_lower": float(gap.relative[0][row]),
                "relative_upper": float(gap.relative[1][row]),
                "policy_action": gap.policy_action[row].tolist(),
                "best_action": gap.best_action[row].tolist(),
                "status": Status(gap.status[row]).label,
            }
            for row in gap.worst(self.worst)
        ]
        if self.pictures is not None:
            self._draw(agent, gap)
        return {"gap": summary, "statuses": gap.statuses, "worst": worst}

    def _health(self, agent: Agent) -> dict[str, float]:
        rows = self._trajectory(agent)
        figures = health_figures(agent, rows, self._log(agent))
        best, last = self.path / "best", self.path / "last"
        if best.is_dir() and last.is_dir():
            figures |= drift_figures(self.agent(best), self.agent(last), np.asarray(rows.obs))
        return figures

    def _learned_from(self) -> Dataset:
        path = learned_from(self.path)
        if path is None:
            raise UserError(f"found no log: {self.path} learned from none; name one with --data.", argument="support")
        return Dataset.open(path)

    def _trajectory(self, agent: Agent) -> Transition:
        """Consecutive transitions in the environment's units: the dataset's first, else the agent's own."""
        data = self._dataset(agent)
        if data is None:
            return agent.trajectory(self._env(agent), self.states, self.seed)
        return data.transitions(slice(0, min(len(data), max(self.states, 1))))

    def _env(self, agent: Agent) -> NamedEnv:
        env = self.chosen(self.named(self.env), agent)
        if env is None:
            raise UserError(f"{self.path} {without_env(self.path)}; name one with --env, or give --data.")
        return env

    def _dataset(self, agent: Agent) -> Dataset | None:
        """`_log` as the agent sees it."""
        log = self._log(agent)
        return None if log is None else log.augmented(agent.augmented)

    def _log(self, agent: Agent) -> Dataset | None:
        """Where states come from: --data; without any environment, what the run learned from."""
        path = self.data
        if path is None and self.env is None and agent.env is None:
            path = learned_from(self.path)
        if path is None:
            return None
        data = Dataset.open(path)
        expected = agent.spaces.observation.size
        if data.obs_size != expected:
            raise UserError(
                f"dataset {path}: its observations have {data.obs_size} numbers, the agent's have "
                f"{expected}; take states of the agent's own plant."
            )
        return data

    def _states(self, agent: Agent) -> np.ndarray:
        """Observations in the environment's units, or what an agent that remembers sees."""
        rng = np.random.default_rng(self.seed)
        data = self._dataset(agent)
        if data is not None:
            rows = np.sort(rng.permutation(len(data))[: self.states])
            return np.asarray(data.transitions(rows).obs, np.float32)
        obs = np.asarray(agent.trajectory(self._env(agent), self.states, self.seed).obs)
        return obs[np.linspace(0, len(obs) - 1, self.states).astype(int)]

    def _draw(self, agent: Agent, gap: Gap) -> None:
        assert self.pictures is not None
        make_folder(self.pictures)
        for rank, row in enumerate(gap.worst(self.worst).tolist()):
            low, high = (
                np.broadcast_to(bound, (1, agent.action_set.size))[0]
                for bound in agent.action_set.bounds(gap.obs[row : row + 1])
            )
            draw_state(gap, row, agent.critic_value, low, high, self.pictures / f"worst-{rank + 1}.png")


def _say_support(found: dict[str, Any]) -> None:
    away = "; ".join(f"{one['median']:.2g}, {one['p95']:.2g}" for one in found["per_action"])
    where, radius = found["where"], found["support_radius"]
    lines = [
        f"         support  within {radius:.3g} half-widths of an action tried in a like state: so are 95 % of its own",
        f"          leaves  the nearest one tried is so many half-widths away, by action (median, 95 %): {away}",
        f"           stays  mean q {found['q_policy']:.4g} of the policy, {found['q_stayed']:.4g} if it stayed, "
        f"{found['q_log']:.4g} of the log's actions",
        f"            gain  observation {where['coordinate']} explains {where['explains']:.0%} of it; by its fifths:",
        *(
            f"{'':>18}{part['from']:.4g} to {part['to']:.4g}: {part['gain']:.4g}, {part['unsupported']:.0%} unsupported"
            for part in where["parts"]
        ),
    ]
    for text in lines:
        console(to_errors=False).print(text, soft_wrap=True)


def _about(path: Path, agent: Agent | None) -> dict[str, Any]:
    """What the files at `path` say of a run or an agent; what its code says too, where that is there."""
    saved = about_agent(path)
    env = NamedEnv.of(saved.get("env"), str(path))
    about: dict[str, Any] = {
        "path": str(path),
        "algorithm": saved.get("algorithm"),
        "method": saved.get("method"),
        "package": saved.get("package"),
        "title": None if agent is None else agent.algorithm.title,
        "env": None if env is None else str(env),
        "obs_size": saved.get("obs_size"),
        "action_set": saved.get("action_set") if agent is None else through_json(agent.action_set.describe()),
        "normalized": saved.get("normalized"),
        "augmented": saved.get("augmented"),
        "threshold": saved.get("threshold"),
        "fallback": None if agent is None or not agent.threshold else agent.fallback_in_words,
    }
    if (path / "config.json").is_file():
        config = read_json(path / "config.json")
        about |= {name: config.get(name) for name in ("seed", "steps", "data", "settings")}
        records = RunFolder(path).metrics()
        evaluated = [record["eval_mean"] for record in records if record.get("eval_mean") is not None]
        about |= {
            "step": records[-1]["step"] if records else 0,
            "last_evaluation": evaluated[-1] if evaluated else None,
            "best_evaluation": max(evaluated, default=None),
        }
    return about


def _say(about: dict[str, Any]) -> None:
    terminal = console(to_errors=False)
    for name, value in about.items():
        if name == "settings" and isinstance(value, dict):
            terminal.print(f"{name:>16}")
            for setting, given in value.items():
                terminal.print(f"{'':>16}  {setting} = {_in_words(given)}", soft_wrap=True)
        elif value is not None:
            terminal.print(f"{name:>16}  {_in_words(value)}", soft_wrap=True)


def _in_words(value: object) -> str:
    """JSON as one reads it: the parts of an object by their names, numbers to six digits."""
    match value:
        case None:
            return "none"
        case bool() | int():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case dict():
            parts = [f"{name} {_in_words(part)}" for name, part in value.items() if part is not None]
            return "; ".join(parts) or "none"
        case list() | tuple():
            rows = all(isinstance(part, list | tuple) for part in value)
            return ", ".join(f"[{_in_words(part)}]" if rows else _in_words(part) for part in value) or "none"
        case _:
            return str(value)


def _say_health(figures: dict[str, float]) -> None:
    terminal = console(to_errors=False)
    lines = []
    if "residual_median" in figures:
        lines.append(f"  worst residual  ‖a − Π(a + ∇q)‖ {figures['residual_worst']:.3g} half-widths")
    if "overestimation_mean" in figures:
        lines.append(
            f"  overestimation  q(s, a) less the return that followed: mean {figures['overestimation_mean']:.4g}, "
            f"most {figures['overestimation_worst']:.4g}"
        )
    elif "unsupported" in figures:
        lines.append(
            "  overestimation  not told: another policy earned the log's returns; what rewards allow is judged"
        )
    elif "residual_median" in figures:
        lines.append("  overestimation  not seen: episodes are cut off with more than half of the return to come")
    if "drift_mean" in figures:
        lines.append(
            f"    policy drift  from best to last, in half-widths: mean {figures['drift_mean']:.3g}, most "
            f"{figures['drift_worst']:.3g}"
        )
    norms = {name.rsplit("_", 1)[1]: value for name, value in figures.items() if "gradient_norm" in name}
    for horizon, norm in norms.items():
        error = figures.get(f"health/model_error_{horizon}")
        lines.append(
            f"      horizon {horizon:>3}  ‖∇J‖ {norm:.3g}, its deviation over states "
            f"{figures[f'health/gradient_deviation_{horizon}']:.3g}"
            + ("" if error is None else f", model off by {error:.3g} deviations of s")
        )
    if figures.get("health/exploding"):
        lines.append(f"         warning  {EXPLODING}")
    for text in lines or ["health: nothing to measure (no critic and no model)"]:
        terminal.print(text, soft_wrap=True)


def _say_gap(summary: dict[str, float], statuses: dict[str, int], worst: list[dict[str, Any]]) -> None:
    terminal = console(to_errors=False)

    def interval(name: str, kind: str = "", form: str = ".4g") -> str:
        low, high = (summary[f"{kind}{end}_{name}"] for end in ("lower", "upper"))
        return f"{low:{form}} to {high:{form}}"

    allowed = f"{summary['within']:.0%}"
    if summary["softness"]:
        allowed += f", or {summary['softness']:.3g}, which its temperature allows for its entropy"
    lines = [
        f"gap on {summary['states']:.0f} states, max_a q(s, a) − q(s, π(s)), proven:",
        *(f"{label:>16}  {interval(name)}" for name, label in SUMMARIES.items()),
        "the same of each state's gap as a share of the range of q:",
        *(f"{label:>16}  {interval(name, 'relative_', '.1%')}" for name, label in SUMMARIES.items()),
        f"     policy good  {summary['policy_good']:.0%} of states: certainly within {allowed}",
        f"     actor fails  {summary['actor_fails']:.0%} of states: certainly not within {allowed}",
        f"       undecided  {summary['undecided']:.0%}",
        f"        searches  {', '.join(f'{label} {count}' for label, count in statuses.items())}",
    ]
    if "residual_median" in summary:
        lines.append(
            f"        residual  ‖a − Π(a + ∇q)‖ in half-widths: median {summary['residual_median']:.3g}, worst "
            f"{summary['residual_worst']:.3g}"
        )
    lines += [
        f" worst state {one['state']:>4}  gap {one['lower']:.4g} to {one['upper']:.4g} ({one['relative_lower']:.1%} to "
        f"{one['relative_upper']:.1%} of the range of q); π(s) = "
        f"{np.round(one['policy_action'], 3).tolist()}, a* = {np.round(one['best_action'], 3).tolist()}"
        for one in worst
    ]
    for text in lines:
        terminal.print(text, soft_wrap=True)
