"""What a controller would earn, told from a log without trying it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float

from fittedq.agent import Agent
from fittedq.baselines.named import of_object
from fittedq.baselines.simple import Constant
from fittedq.bellman import return_range
from fittedq.code import shortened
from fittedq.control.augmentation import MOST_HISTORY, Augmentation
from fittedq.data.dataset import Dataset
from fittedq.diagnose.paired import Interval
from fittedq.errors import UserError
from fittedq.estimates.backing import Backing, LoggedPolicy
from fittedq.estimates.chain import MOST_BEGINNINGS, Chain
from fittedq.estimates.deciding import Controlled
from fittedq.estimates.evidence import AbstractEstimator, Evidence, OneEstimate
from fittedq.estimates.fitted_q import FittedQ
from fittedq.estimates.judge import agreement, combined, verdict
from fittedq.estimates.model import LearnedModel
from fittedq.estimates.result import CANNOT, Estimate, as_interval
from fittedq.estimates.rollout import ModelRollout
from fittedq.estimates.same_plant import check_new, check_plant, plant_doubts
from fittedq.estimates.weighted import Weighted
from fittedq.settings import MOST_SEED, real, whole

ESTIMATORS: Mapping[str, AbstractEstimator] = {
    "fitted_q": FittedQ(),
    "weighted": Weighted(),
    "model": ModelRollout(),
}
LEFT = 2e-3
"""Of a discounted return, the weight of what lies beyond the default horizon."""
MOST_HORIZON = 20_000
WIDER = 2.0
"""By what an interval is wider than the errors of its parts say, which do not count what features cannot show."""
ONE_WAY = 0.25
"""Of the error of a reward that is told, what may point one way in every sample: no ensemble shows it."""
CUT = (
    "Its ends are cut: rewards as the log's, {:.4g} to {:.4g}, allow no return outside [{:.4g}, {:.4g}]; a controller "
    "that leaves the log may earn others."
)
START_WORDS = ("first", "all")
FAR_OFF = 10**6
"""In deviations of the log: a state farther away is a slip of the pen, whose powers single precision cannot hold."""


def estimate(
    controller: object,
    data: Dataset | str | Path,
    *,
    gamma: float | None = None,
    horizon: int | None = None,
    starts: object = "first",
    settling: float | None = None,
    memory: int | None = None,
    seed: int = 0,
) -> Estimate:
    """Σ_{t<H} γᵗ r_t that `controller` (an agent, a baseline, a function of one observation) would earn, with 95 %.

    `data` are rows of its plant that it did not learn from. γ is by default the agent's, else that of the settling time
    in the data's description; 1 needs a `horizon`, H in samples. By default H is where .2 % of the weight is left.
    `starts` are "first", the first states of the log's episodes (of its blocks, where it is one long episode), "all",
    states from everywhere in it, or observations [k, s]. Blocks are episodes, or stretches of `settling` rows where
    episodes are few; fewer than ten are refused. The plant's state is the last `memory` rows, by default as the
    description says or the check of the log finds. UserError: what is wrong with any of it.
    """
    one = {"the controller": controller}
    (found,) = estimates(
        one, data, gamma=gamma, horizon=horizon, starts=starts, settling=settling, memory=memory, seed=seed
    ).values()
    return found


def estimates(
    controllers: Mapping[str, object],
    data: Dataset | str | Path,
    *,
    gamma: float | None = None,
    horizon: int | None = None,
    starts: object = "first",
    settling: float | None = None,
    memory: int | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """`estimate` of each, by one model of the plant where they remember alike."""
    rows, seed = Dataset.of(data, "data"), whole(seed, "seed", high=MOST_SEED)
    memory = None if memory is None else whole(memory, "memory", 1, MOST_HISTORY)
    notes = checked_notes(controllers, rows)
    discount, steps = span(controllers, rows, gamma, horizon)
    grounds: dict[Augmentation, Grounds] = {}
    found = {}
    for name, controller in controllers.items():
        acting = controller.controller() if isinstance(controller, Agent) else of_object(controller, name)
        deciding = Controlled.of(acting, rows)
        if deciding.sees not in grounds:
            log = Chain.of(rows, deciding.sees, settling=settling, memory=memory)
            grounds[deciding.sees] = Grounds.of(log, discount, steps, starts, seed)
        found[name] = grounds[deciding.sees].estimate(deciding, notes)
    return found


def select(
    controllers: Mapping[str, object],
    data: Dataset | str | Path,
    *,
    gamma: float | None = None,
    horizon: int | None = None,
    starts: object = "first",
    settling: float | None = None,
    memory: int | None = None,
    seed: int = 0,
) -> tuple[str, dict[str, Estimate]]:
    """(the controller to take, all estimates): that with the highest `low` among those of which the log can tell.

    Where it can tell of none, the highest `low` of all. Of runs, or of one run's iterates, each by its name.
    """
    found = estimates(
        controllers, data, gamma=gamma, horizon=horizon, starts=starts, settling=settling, memory=memory, seed=seed
    )
    return max(found, key=lambda name: (found[name].verdict != CANNOT, found[name].low)), found


@final
@dataclass(frozen=True)
class Grounds:
    """What an estimate rests on, whoever acts: the log, its model and its policy."""

    log: Chain
    model: LearnedModel
    policy: LoggedPolicy
    begin: Float[np.ndarray, "k x"]
    gamma: float
    horizon: int
    own: Interval
    """What the log earned."""
    clone: OneEstimate
    """What its mean action would earn."""
    seed: int

    @staticmethod
    def of(log: Chain, gamma: float, horizon: int, starts: object, seed: int) -> Grounds:
        """Fitted."""
        begin, model, policy = _begin(log, starts), LearnedModel.of(log), LoggedPolicy.of(log)
        clone = ModelRollout()(Evidence.of(log, model, policy.mean, begin, gamma, horizon, seed, judged=False))
        own = as_interval(clone)
        if isinstance(starts, str) and starts == "first":
            own = _own(log, model, policy, gamma, horizon, seed)
        return Grounds(log, model, policy, begin, gamma, horizon, own, clone, seed)

    def estimate(self, deciding: Controlled, notes: tuple[str, ...] = ()) -> Estimate:
        """Of one controller."""
        span = (self.gamma, self.horizon, self.seed)
        evidence = Evidence.of(self.log, self.model, deciding, self.begin, *span, judged=deciding.knows_rows)
        found = {name: estimator(evidence) for name, estimator in ESTIMATORS.items()}
        parts = {name: part for name, part in found.items() if part is not None}
        value, error = combined(list(parts.values()))
        total = float((self.gamma ** np.arange(self.horizon)).sum())
        half = 1.96 * float(np.hypot(WIDER * error, ONE_WAY * self.model.reward_error * total))
        rewards = self.rewards
        allowed = return_range(rewards, self.gamma, self.horizon)
        wanted = np.array([value, value - half, value + half])
        value, low, high = np.clip(wanted, *allowed).tolist()
        if (wanted != (value, low, high)).any():
            notes = (*notes, CUT.format(*rewards, *allowed))
        backing = Backing.of(evidence, self.policy)
        effective = evidence.effective_rows if "weighted" in parts else None
        judged, reasons = verdict(low, high, self.own, backing, effective)
        return Estimate(
            value=value,
            low=low,
            high=high,
            verdict=judged,
            reasons=reasons,
            agreement=agreement(parts),
            parts=parts,
            log=self.own,
            cloned=self.clone,
            backing=backing,
            effective_rows=effective,
            gamma=self.gamma,
            horizon=self.horizon,
            starts=len(self.begin),
            rows=len(self.log),
            said=self.log.said,
            rewards=rewards,
            allowed=allowed,
            notes=notes,
        )

    @property
    def rewards(self) -> tuple[float, float]:
        """The least and the largest of the log."""
        reward = self.log.dataset.columns["reward"]
        return float(reward.min()), float(reward.max())


def checked_notes(controllers: Mapping[str, object], data: Dataset) -> tuple[str, ...]:
    """What there is to say of the rows; a UserError unless they can be of the agents' plant, and are new to them."""
    if not controllers:
        raise UserError("estimate: found no controllers, expected at least one.")
    doubts = dict[str, None]()
    for controller in controllers.values():
        if isinstance(controller, Agent):
            check_plant(controller, data)
            check_new(controller, data)
            doubts |= dict.fromkeys(plant_doubts(controller, data))
        elif isinstance(controller, Constant):
            controller.check_in(data.action_set, "the log's plant")
    source = data.origin.get("split")
    held_out = [] if source is None else [f"The blocks were held out of {source}: the same days, the same excitation."]
    return (*doubts, *held_out)


def span(
    controllers: Mapping[str, object], data: Dataset, gamma: float | None, horizon: int | None
) -> tuple[float, int]:
    """(γ, H) as given, else as the agents or the description have it."""
    said = {one.algorithm.discount for one in controllers.values() if isinstance(one, Agent)} - {0.0}
    if gamma is None and len(said) > 1:
        found = ", ".join(f"{one:g}" for one in sorted(said))
        raise UserError(f"the agents have {found}; give one by which all are judged.", argument="gamma")
    if gamma is None and said:
        (gamma,) = said
    if gamma is None and data.description is not None:
        gamma = Augmentation(**data.description.augmentation()).discount
    if gamma is None:
        raise UserError(
            "found none, and neither an agent nor a description says one; give the discount, such as .99, or 1 with a "
            "horizon.",
            argument="gamma",
        )
    gamma = real(gamma, "gamma", "a discount above 0 and at most 1", low=1e-6, high=1.0)
    if horizon is None:
        if gamma == 1:
            raise UserError("with gamma 1 a return has no end; give the samples that count.", argument="horizon")
        horizon = max(1, math.ceil(math.log(LEFT) / math.log(gamma)))
        if horizon > MOST_HORIZON:
            raise UserError(
                f"with gamma {gamma:g}, {horizon:,} samples count, more than {MOST_HORIZON:,}; give fewer.",
                argument="horizon",
            )
    return gamma, whole(horizon, "horizon", 1, MOST_HORIZON)


def _begin(log: Chain, starts: object) -> Float[np.ndarray, "k x"]:
    """The states that episodes begin in; what a controller sums up begins anew."""
    size, chain = log.state.obs_size, log.dataset.augmented(log.state)
    if isinstance(starts, str):
        if starts not in START_WORDS:
            raise UserError(f"found {starts!r}, expected first, all or observations.", argument="starts")
        rows = log.starts
        if starts == "all":
            rows = log.rows[np.unique(np.linspace(0, len(log) - 1, min(len(log), MOST_BEGINNINGS)).astype(int))]
        x = np.array(chain.transitions(rows).obs, np.float64)
    else:
        given = observations(starts, size)
        x = np.asarray(log.state.first(given), np.float64)
        spread = log.x.std(axis=0)
        away = np.abs(x - log.x.mean(axis=0)) / np.where(spread > 0, spread, np.maximum(1, np.abs(log.x[0])))
        if (away > FAR_OFF).any():
            raise UserError(
                f"found {shortened(str(given.tolist()))}, expected observations within {FAR_OFF:,} deviations of "
                "the log's, of which it could tell something.",
                argument="starts",
            )
    sums = np.delete(np.arange(x.shape[1]), log.plant_columns)
    x[:, sums] = np.asarray(log.state.first(x[:, :size]))[:, sums]
    return x


def observations(starts: object, size: int) -> Float[np.ndarray, "k s"]:
    """The rows [k, size] that are given, or a UserError."""
    try:
        given: np.ndarray = np.asarray(starts, np.float64)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        given = np.zeros(0)
    shape: tuple[int, ...] = given.shape
    if len(shape) != 2 or not shape[0] or shape[1] != size or not np.isfinite(given).all():
        raise UserError(
            f"found {shortened(str(starts))}, expected first, all, or finite observations [k, {size}].",
            argument="starts",
        )
    return given


def _own(log: Chain, model: LearnedModel, policy: LoggedPolicy, gamma: float, horizon: int, seed: int) -> Interval:
    """What the log earned from its first states; where an episode was cut off, its clone goes on in the model."""
    columns, stops = log.dataset.columns, log.runs[1]
    ends = np.minimum(stops[np.searchsorted(stops, log.starts, side="right")], log.starts + horizon)
    returns = np.array([
        float(gamma ** np.arange(end - start) @ np.asarray(columns["reward"][start:end], np.float64))
        for start, end in zip(log.starts.tolist(), ends.tolist(), strict=True)
    ])  # fmt: skip
    cut = np.flatnonzero((ends - log.starts < horizon) & ~columns["terminated"][ends - 1])
    if len(cut):
        x = np.asarray(log.dataset.augmented(log.state).transitions(ends[cut] - 1).next_obs, np.float64)
        fit, rng = [model.fit(np.ones(len(log)))], np.random.default_rng(seed)
        earned = model.roll(fit, policy.mean, policy.mean.begin(x), gamma, horizon, rng).earned
        gone = (ends - log.starts)[cut]
        returns[cut] += gamma**gone * earned[horizon - gone, np.arange(len(cut))]
    return Interval.of(returns)
