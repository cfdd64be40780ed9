"""Fitted Q-iteration for continuous actions: from transitions, logged or collected, to a controller.

The names in `__all__` are the stable surface: the functions, every slot that a method is made of, and what stands
in their signatures; beside them `fittedq.testing.conforms`, and what `fittedq.baselines` exports. All else, modules and
the names in them, is internal and may change. What stands here is imported when it is first used: `import fittedq`
alone costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fittedq.acting.familiar import Familiarity
    from fittedq.acting.noise import AbstractExploration, Gaussian, OrnsteinUhlenbeck, OwnNoise
    from fittedq.acting.status import ActingStatus
    from fittedq.actions.base import AbstractActionSet, Box
    from fittedq.actions.limits import Limits
    from fittedq.actions.mixed import Mixed
    from fittedq.actions.polytope import Polytope
    from fittedq.actions.state_box import StateBox
    from fittedq.agent import Agent
    from fittedq.algorithms.amortized_fqi import AmortizedFQI
    from fittedq.algorithms.base import AbstractAlgorithm, GradientAlgorithm, NetworkAlgorithm
    from fittedq.algorithms.composed import Composed
    from fittedq.algorithms.cql import CQL
    from fittedq.algorithms.crossq import CrossQ
    from fittedq.algorithms.ddpg import DDPG
    from fittedq.algorithms.edac import EDAC
    from fittedq.algorithms.explicit_fqi import ExplicitFQI
    from fittedq.algorithms.fitted import FittedAlgorithm, SolvingAlgorithm
    from fittedq.algorithms.iql import IQL
    from fittedq.algorithms.nfqca import NFQCA
    from fittedq.algorithms.rebrac import ReBRAC
    from fittedq.algorithms.sac import SAC
    from fittedq.algorithms.sac_v import SACValue
    from fittedq.algorithms.simba import SimBa
    from fittedq.algorithms.simba_v2 import SimbaV2
    from fittedq.algorithms.smooth_fqi import SmoothFQI
    from fittedq.algorithms.svg import SVG
    from fittedq.algorithms.td3 import TD3
    from fittedq.algorithms.td3_bc import TD3BC
    from fittedq.algorithms.td7 import TD7
    from fittedq.algorithms.tqc import TQC
    from fittedq.algorithms.xqc import XQC
    from fittedq.api import familiarity, fit, load, resume, stream, train
    from fittedq.approx.batch_norm import BatchNormMlp
    from fittedq.approx.embedding import EmbeddedMlp, RangedCritic, StateActionEncoder
    from fittedq.approx.heads import AbstractHead, Categorical, OneValue, Quantiles
    from fittedq.approx.hyperspherical import HypersphericalMlp
    from fittedq.approx.linear import AbstractFeatures, Custom, LinearCritic, Polynomial, RadialBasis
    from fittedq.approx.models import GaussianModel, KnownModel
    from fittedq.approx.net import AbstractNet
    from fittedq.approx.networks import (
        ClippedGaussianPolicy,
        DeterministicPolicy,
        Mlp,
        QNetwork,
        TanhGaussianPolicy,
        VNetwork,
    )
    from fittedq.approx.residual import ResidualMlp
    from fittedq.approx.trees import Forest, TreeCritic
    from fittedq.data.dataset import Dataset
    from fittedq.diagnose.control import Tracked
    from fittedq.diagnose.gap import Gap
    from fittedq.envs.gymnax import Gymnax
    from fittedq.envs.native import AbstractJaxEnv, AbstractPhysics
    from fittedq.envs.registry import NamedEnv
    from fittedq.errors import EnvError, UserError
    from fittedq.estimates.estimate import estimate, select
    from fittedq.estimates.result import Estimate
    from fittedq.estimates.truth import true_returns
    from fittedq.maximize.base import AbstractMaximizer, Chunked, Effort, Solution, Status, exact, misfit, proven
    from fittedq.maximize.exact.grid import Grid
    from fittedq.maximize.exact.integer import Exhaustive, IntegerArgmax
    from fittedq.maximize.exact.milp import MilpArgmax
    from fittedq.maximize.exact.quadratic import QuadraticArgmax
    from fittedq.maximize.exact.sweep import TreeSweep
    from fittedq.maximize.exact.trees import TreeArgmax
    from fittedq.maximize.local.ascent import ProjectedAscent
    from fittedq.maximize.local.cem import CrossEntropy
    from fittedq.maximize.local.lbfgs import ProjectedLBFGS
    from fittedq.maximize.proofs.proven import CertifiedArgmax
    from fittedq.pages.film import render
    from fittedq.pages.page import Page
    from fittedq.pages.report import report
    from fittedq.runs.compare import Comparison, compare
    from fittedq.runs.listing import RunRecord, list_runs
    from fittedq.runs.report import Report
    from fittedq.runs.robustness import Perturbation, Robustness, robustness
    from fittedq.runs.run import Run
    from fittedq.runs.schedule import Schedule
    from fittedq.settings import code_setting, setting
    from fittedq.template.fits import (
        AbstractFit,
        AbstractOwnFit,
        Budget,
        Descend,
        Fitted,
        GrowTrees,
        LeastSquares,
        WholeFit,
    )
    from fittedq.template.fqi import (
        FQI,
        AbstractFollow,
        Copy,
        LearnerState,
        Periodic,
        Polyak,
        Sync,
        Tick,
        Trailing,
        Update,
    )
    from fittedq.template.greedy import (
        AbstractGreedy,
        AbstractSolving,
        Ascended,
        PartlySolved,
        PolicyAction,
        Smoothed,
        Solved,
    )
    from fittedq.template.losses import (
        AbstractError,
        AbstractLoss,
        AbstractPenalty,
        AbstractRegression,
        Expectile,
        Huber,
        Imitate,
        Improve,
        Predict,
        Regress,
        RegressReturns,
        RegressTogether,
        Squared,
        TuneTemperature,
    )
    from fittedq.template.near import Clone, ImitateByAdvantage, ImproveNear
    from fittedq.template.penalties import Conservative, Diverse
    from fittedq.template.rates import Adam, Linear, scheduled
    from fittedq.template.rollout import (
        AbstractTail,
        CriticTail,
        ImproveThrough,
        Likelihood,
        NoTail,
        Rollout,
        RolloutBellman,
        ValueTail,
    )
    from fittedq.template.support import NearLog, Support
    from fittedq.template.targets import (
        AbstractCombine,
        AbstractNodes,
        AbstractPool,
        AbstractTarget,
        Bellman,
        BellmanFromValue,
        BellmanNear,
        BellmanOfReturns,
        Clipped,
        FirstCritic,
        Labelled,
        LeastMean,
        MeanOverCritics,
        MinOverCritics,
        Quadrature,
        SmoothBellman,
        SoftValue,
        Truncated,
        UniformSamples,
        ValueAsLogged,
        ValueOfLog,
        WithinSeen,
    )
    from fittedq.template.when import AbstractWhen, GapAbove
    from fittedq.types import (
        AbstractCritic,
        AbstractDensityPolicy,
        AbstractEncoder,
        AbstractModel,
        AbstractPolicy,
        AbstractValue,
        Components,
        Greedy,
        Predicted,
        Transition,
        needed,
    )

    __version__: str

__all__ = [
    "CQL",
    "DDPG",
    "EDAC",
    "FQI",
    "IQL",
    "NFQCA",
    "SAC",
    "SVG",
    "TD3",
    "TD3BC",
    "TD7",
    "TQC",
    "XQC",
    "AbstractActionSet",
    "AbstractAlgorithm",
    "AbstractCombine",
    "AbstractCritic",
    "AbstractDensityPolicy",
    "AbstractEncoder",
    "AbstractError",
    "AbstractExploration",
    "AbstractFeatures",
    "AbstractFit",
    "AbstractFollow",
    "AbstractGreedy",
    "AbstractHead",
    "AbstractJaxEnv",
    "AbstractLoss",
    "AbstractMaximizer",
    "AbstractModel",
    "AbstractNet",
    "AbstractNodes",
    "AbstractOwnFit",
    "AbstractPenalty",
    "AbstractPhysics",
    "AbstractPolicy",
    "AbstractPool",
    "AbstractRegression",
    "AbstractSolving",
    "AbstractTail",
    "AbstractTarget",
    "AbstractValue",
    "AbstractWhen",
    "ActingStatus",
    "Adam",
    "Agent",
    "AmortizedFQI",
    "Ascended",
    "BatchNormMlp",
    "Bellman",
    "BellmanFromValue",
    "BellmanNear",
    "BellmanOfReturns",
    "Box",
    "Budget",
    "Categorical",
    "CertifiedArgmax",
    "Chunked",
    "Clipped",
    "ClippedGaussianPolicy",
    "Clone",
    "Comparison",
    "Components",
    "Composed",
    "Conservative",
    "Copy",
    "CriticTail",
    "CrossEntropy",
    "CrossQ",
    "Custom",
    "Dataset",
    "Descend",
    "DeterministicPolicy",
    "Diverse",
    "Effort",
    "EmbeddedMlp",
    "EnvError",
    "Estimate",
    "Exhaustive",
    "Expectile",
    "ExplicitFQI",
    "Familiarity",
    "FirstCritic",
    "Fitted",
    "FittedAlgorithm",
    "Forest",
    "Gap",
    "GapAbove",
    "Gaussian",
    "GaussianModel",
    "GradientAlgorithm",
    "Greedy",
    "Grid",
    "GrowTrees",
    "Gymnax",
    "Huber",
    "HypersphericalMlp",
    "Imitate",
    "ImitateByAdvantage",
    "Improve",
    "ImproveNear",
    "ImproveThrough",
    "IntegerArgmax",
    "KnownModel",
    "Labelled",
    "LearnerState",
    "LeastMean",
    "LeastSquares",
    "Likelihood",
    "Limits",
    "Linear",
    "LinearCritic",
    "MeanOverCritics",
    "MilpArgmax",
    "MinOverCritics",
    "Mixed",
    "Mlp",
    "NamedEnv",
    "NearLog",
    "NetworkAlgorithm",
    "NoTail",
    "OneValue",
    "OrnsteinUhlenbeck",
    "OwnNoise",
    "Page",
    "PartlySolved",
    "Periodic",
    "Perturbation",
    "PolicyAction",
    "Polyak",
    "Polynomial",
    "Polytope",
    "Predict",
    "Predicted",
    "ProjectedAscent",
    "ProjectedLBFGS",
    "QNetwork",
    "QuadraticArgmax",
    "Quadrature",
    "Quantiles",
    "RadialBasis",
    "RangedCritic",
    "ReBRAC",
    "Regress",
    "RegressReturns",
    "RegressTogether",
    "Report",
    "ResidualMlp",
    "Robustness",
    "Rollout",
    "RolloutBellman",
    "Run",
    "RunRecord",
    "SACValue",
    "Schedule",
    "SimBa",
    "SimbaV2",
    "SmoothBellman",
    "SmoothFQI",
    "Smoothed",
    "SoftValue",
    "Solution",
    "Solved",
    "SolvingAlgorithm",
    "Squared",
    "StateActionEncoder",
    "StateBox",
    "Status",
    "Support",
    "Sync",
    "TanhGaussianPolicy",
    "Tick",
    "Tracked",
    "Trailing",
    "Transition",
    "TreeArgmax",
    "TreeCritic",
    "TreeSweep",
    "Truncated",
    "TuneTemperature",
    "UniformSamples",
    "Update",
    "UserError",
    "VNetwork",
    "ValueAsLogged",
    "ValueOfLog",
    "ValueTail",
    "WholeFit",
    "WithinSeen",
    "code_setting",
    "compare",
    "estimate",
    "exact",
    "familiarity",
    "fit",
    "list_runs",
    "load",
    "misfit",
    "needed",
    "proven",
    "render",
    "report",
    "resume",
    "robustness",
    "scheduled",
    "select",
    "setting",
    "stream",
    "train",
    "true_returns",
]

_HOMES = {
    "fittedq.acting.familiar": "Familiarity",
    "fittedq.acting.noise": "AbstractExploration Gaussian OrnsteinUhlenbeck OwnNoise",
    "fittedq.acting.status": "ActingStatus",
    "fittedq.actions.base": "AbstractActionSet Box",
    "fittedq.actions.limits": "Limits",
    "fittedq.actions.mixed": "Mixed",
    "fittedq.actions.polytope": "Polytope",
    "fittedq.actions.state_box": "StateBox",
    "fittedq.agent": "Agent",
    "fittedq.algorithms.amortized_fqi": "AmortizedFQI",
    "fittedq.algorithms.base": "AbstractAlgorithm GradientAlgorithm NetworkAlgorithm",
    "fittedq.algorithms.composed": "Composed",
    "fittedq.algorithms.cql": "CQL",
    "fittedq.algorithms.crossq": "CrossQ",
    "fittedq.algorithms.ddpg": "DDPG",
    "fittedq.algorithms.edac": "EDAC",
    "fittedq.algorithms.explicit_fqi": "ExplicitFQI",
    "fittedq.algorithms.fitted": "FittedAlgorithm SolvingAlgorithm",
    "fittedq.algorithms.iql": "IQL",
    "fittedq.algorithms.nfqca": "NFQCA",
    "fittedq.algorithms.rebrac": "ReBRAC",
    "fittedq.algorithms.sac": "SAC",
    "fittedq.algorithms.sac_v": "SACValue",
    "fittedq.algorithms.simba": "SimBa",
    "fittedq.algorithms.simba_v2": "SimbaV2",
    "fittedq.algorithms.smooth_fqi": "SmoothFQI",
    "fittedq.algorithms.svg": "SVG",
    "fittedq.algorithms.td3": "TD3",
    "fittedq.algorithms.td3_bc": "TD3BC",
    "fittedq.algorithms.td7": "TD7",
    "fittedq.algorithms.tqc": "TQC",
    "fittedq.algorithms.xqc": "XQC",
    "fittedq.api": "familiarity fit load resume stream train",
    "fittedq.approx.batch_norm": "BatchNormMlp",
    "fittedq.approx.embedding": "EmbeddedMlp RangedCritic StateActionEncoder",
    "fittedq.approx.heads": "AbstractHead Categorical OneValue Quantiles",
    "fittedq.approx.hyperspherical": "HypersphericalMlp",
    "fittedq.approx.linear": "AbstractFeatures Custom LinearCritic Polynomial RadialBasis",
    "fittedq.approx.models": "GaussianModel KnownModel",
    "fittedq.approx.net": "AbstractNet",
    "fittedq.approx.networks": "ClippedGaussianPolicy DeterministicPolicy Mlp QNetwork TanhGaussianPolicy VNetwork",
    "fittedq.approx.residual": "ResidualMlp",
    "fittedq.approx.trees": "Forest TreeCritic",
    "fittedq.data.dataset": "Dataset",
    "fittedq.diagnose.control": "Tracked",
    "fittedq.diagnose.gap": "Gap",
    "fittedq.envs.gymnax": "Gymnax",
    "fittedq.envs.native": "AbstractJaxEnv AbstractPhysics",
    "fittedq.envs.registry": "NamedEnv",
    "fittedq.errors": "EnvError UserError",
    "fittedq.estimates.estimate": "estimate select",
    "fittedq.estimates.result": "Estimate",
    "fittedq.estimates.truth": "true_returns",
    "fittedq.maximize.base": "AbstractMaximizer Chunked Effort Solution Status exact misfit proven",
    "fittedq.maximize.exact.grid": "Grid",
    "fittedq.maximize.exact.integer": "Exhaustive IntegerArgmax",
    "fittedq.maximize.exact.milp": "MilpArgmax",
    "fittedq.maximize.exact.quadratic": "QuadraticArgmax",
    "fittedq.maximize.exact.sweep": "TreeSweep",
    "fittedq.maximize.exact.trees": "TreeArgmax",
    "fittedq.maximize.local.ascent": "ProjectedAscent",
    "fittedq.maximize.local.cem": "CrossEntropy",
    "fittedq.maximize.local.lbfgs": "ProjectedLBFGS",
    "fittedq.maximize.proofs.proven": "CertifiedArgmax",
    "fittedq.pages.film": "render",
    "fittedq.pages.page": "Page",
    "fittedq.pages.report": "report",
    "fittedq.runs.compare": "Comparison compare",
    "fittedq.runs.listing": "RunRecord list_runs",
    "fittedq.runs.robustness": "Perturbation Robustness robustness",
    "fittedq.runs.report": "Report",
    "fittedq.runs.run": "Run",
    "fittedq.runs.schedule": "Schedule",
    "fittedq.settings": "code_setting setting",
    "fittedq.template.fits": "AbstractFit AbstractOwnFit Budget Descend Fitted GrowTrees LeastSquares WholeFit",
    "fittedq.template.fqi": "FQI AbstractFollow Copy LearnerState Periodic Polyak Sync Tick Trailing Update",
    "fittedq.template.greedy": "AbstractGreedy AbstractSolving Ascended PartlySolved PolicyAction Smoothed Solved",
    "fittedq.template.losses": (
        "AbstractError AbstractLoss AbstractPenalty AbstractRegression Expectile Huber Imitate Improve Predict Regress "
        "RegressReturns RegressTogether Squared TuneTemperature"
    ),
    "fittedq.template.near": "Clone ImitateByAdvantage ImproveNear",
    "fittedq.template.penalties": "Conservative Diverse",
    "fittedq.template.rates": "Adam Linear scheduled",
    "fittedq.template.rollout": (
        "AbstractTail CriticTail ImproveThrough Likelihood NoTail Rollout RolloutBellman ValueTail"
    ),
    "fittedq.template.support": "NearLog Support",
    "fittedq.template.targets": (
        "AbstractCombine AbstractNodes AbstractPool AbstractTarget Bellman BellmanFromValue BellmanNear "
        "BellmanOfReturns Clipped FirstCritic Labelled LeastMean MeanOverCritics MinOverCritics Quadrature "
        "SmoothBellman SoftValue Truncated UniformSamples ValueAsLogged ValueOfLog WithinSeen"
    ),
    "fittedq.template.when": "AbstractWhen GapAbove",
    "fittedq.types": (
        "AbstractCritic AbstractDensityPolicy AbstractEncoder AbstractModel AbstractPolicy AbstractValue "
        "Components Greedy Predicted Transition needed"
    ),
}
"""Where each public name is defined."""
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


class _Package(ModuleType):
    """Public names, imported at their first use."""

    def __getattr__(self, name: str) -> object:
        if name in ("baselines", "testing"):
            return importlib.import_module(f"fittedq.{name}")
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("fittedq")
        if name not in _HOME:
            raise AttributeError(f"module 'fittedq' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOME[name]), name)

    def __setattr__(self, name: str, value: object) -> None:
        # Importing the module fittedq.train must not hide the function of that name.
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted(["__version__", *__all__])


sys.modules[__name__].__class__ = _Package
