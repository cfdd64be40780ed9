"""`fittedq inspect PATH`: what a run or an agent is, and how far its policy is from its own critic's maximum."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from fittedq.actions.saved import through_json
from fittedq.agent import Agent
from fittedq.cli.arguments import MaybePath, MaybeWord
from fittedq.cli.environments import GivesCode, NamesEnv
from fittedq.cli.train import EXPLODING
from fittedq.data.dataset import Dataset
from fittedq.diagnose.gap import Gap
from fittedq.diagnose.residuals import critic_residual
from fittedq.diagnose.values import policy_drift, promise_figures
from fittedq.diagnose.verdicts import by_horizon, verdict_lines, verdicts
from fittedq.envs.registry import NamedEnv
from fittedq.errors import MissingCode, UserError
from fittedq.files import make_folder, read_json
from fittedq.maximize.base import Status
from fittedq.runs.folder import RunFolder
from fittedq.runs.progress import console, counted
from fittedq.runs.saved import about_agent, learned_from, without_env
from fittedq.types import Transition

AT_ONCE = 10
"""States certified between two looks at the clock."""
SUMMARIES = {"median": "median", "p95": "95th percentile", "worst": "worst"}
"""Of the states' gaps, by their names in `Gap.summary`."""


@dataclass(frozen=True)
class Inspect(NamesEnv, GivesCode):
    """Show what a run or an agent is. --gap proves how far its policy is from the maximum of its own critic. --health
    compares what the critic promises with the returns that follow, and shows how accurate the model and its gradients
    are."""

    path: tyro.conf.Positional[Path]
    """A run folder (its best agent) or an agent folder (such as RUN/last)."""
    gap: bool = False
    """Measure the amortization gap, max_a q(s, a) − q(s, π(s)), on real states."""
    health: bool = False
    """Measure first-order residuals, overestimation, the change from the best agent to the last, and the model's error
    by horizon."""
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
        agent = self._agent()
        about = _about(self.path, agent)
        if self.states < 1 or self.worst < 0 or not self.tol > 0 or not self.within > 0:
            raise UserError(
                f"inspect: found --states {self.states}, --worst {self.worst}, --tol {self.tol}, --within "
                f"{self.within}; expected at least one state and shares above 0."
            )
        findings: dict[str, Any] = {}
        if agent is not None and self.health:
            findings["health"] = self._health(agent)
        if agent is not None and self.gap:
            findings |= self._gap(agent)
        judged = findings.get("health", {}) | findings.get("gap", {})
        if judged:
            findings["verdict"] = verdicts(judged)
        if self.json:
            print(json.dumps(about | findings))
            return 0
        _say(about)
        if "health" in findings:
            _say_health(findings["health"])
        if "gap" in findings:
            _say_gap(findings["gap"], findings["statuses"], findings["worst"])
        for line in verdict_lines(judged):
            console(to_errors=False).print(line, soft_wrap=True)
        return 0

    def _agent(self) -> Agent | None:
        """The agent; None where it takes code that was not given, and what is asked for needs none."""
        try:
            agent = self.agent(self.path)
        except MissingCode as missing:
            if self.gap or self.health or self.code or self.trust_code:
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
        rows, figures = self._trajectory(agent), {}
        if agent.nets.critic is not None:
            seen = np.asarray(agent.as_seen(rows).obs)
            residual = critic_residual(agent.nets.critic, seen, agent.act_flat(np.asarray(rows.obs)), agent.action_set)
            if np.isfinite(residual).all():
                figures |= {"residual_median": float(np.median(residual)), "residual_worst": float(residual.max())}
            reward = np.asarray(rows.reward, float)
            bounds = agent.value_range((float(reward.min()), float(reward.max())))
            q = agent.critic_value(seen, np.asarray(rows.action))
            figures |= promise_figures(q, rows, agent.algorithm.discount, bounds)
        best, last = self.path / "best", self.path / "last"
        if best.is_dir() and last.is_dir():
            before, after = (
                self.agent(best).act_flat(np.asarray(rows.obs)),
                self.agent(last).act_flat(np.asarray(rows.obs)),
            )
            drift = policy_drift(before, after, agent.action_set)
            figures |= {"drift_mean": float(drift.mean()), "drift_worst": float(drift.max())}
        return figures | by_horizon(agent.measure(rows))

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
        return data.augmented(agent.augmented)

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
        from fittedq.diagnose.pictures import draw_state

        assert self.pictures is not None
        make_folder(self.pictures)
        for rank, row in enumerate(gap.worst(self.worst).tolist()):
            low, high = (
                np.broadcast_to(bound, (1, agent.action_set.size))[0]
                for bound in agent.action_set.bounds(gap.obs[row : row + 1])
            )
            draw_state(gap, row, agent.critic_value, low, high, self.pictures / f"worst-{rank + 1}.png")


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
                terminal.print(f"{'':>16}  {setting} = {given}", soft_wrap=True)
        elif value is not None:
            terminal.print(f"{name:>16}  {value}", soft_wrap=True)


def _say_health(figures: dict[str, float]) -> None:
    terminal = console(to_errors=False)
    lines = []
    if "residual_median" in figures:
        lines.append(
            f"        residual  ‖a − Π(a + ∇q)‖ in half-widths: median {figures['residual_median']:.3g}, worst "
            f"{figures['residual_worst']:.3g}"
        )
    if "overestimation_mean" in figures:
        lines.append(
            f"  overestimation  q(s, a) less the return that followed: mean {figures['overestimation_mean']:.4g}, "
            f"most {figures['overestimation_worst']:.4g}"
        )
    elif "residual_median" in figures:
        lines.append("  overestimation  not seen: episodes are cut off while the discount is still above 0.05")
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

    lines = [
        f"gap on {summary['states']:.0f} states, max_a q(s, a) − q(s, π(s)), proven:",
        *(f"{label:>16}  {interval(name)}" for name, label in SUMMARIES.items()),
        "the same of each state's gap as a share of the range of q:",
        *(f"{label:>16}  {interval(name, 'relative_', '.1%')}" for name, label in SUMMARIES.items()),
        f"     policy good  {summary['policy_good']:.0%} of states: certainly within {summary['within']:.0%}",
        f"     actor fails  {summary['actor_fails']:.0%} of states: certainly not within {summary['within']:.0%}",
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
