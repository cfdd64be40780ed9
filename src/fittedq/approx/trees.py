"""Tree ensembles: q as a mean of regression trees, fitted by scikit-learn and kept as plain arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Float, Float32, Int32, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr, Index, namespace, repeat
from fittedq.errors import UserError
from fittedq.settings import check_settings, setting
from fittedq.types import AbstractCritic, sized_part

BLOCK_ROWS = 1024
"""Rows walked at once in NumPy: what they touch stays in the cache."""


@dataclass(frozen=True)
class Forest:
    """How the trees are grown.

    Leaves are small because q changes little with one action and much with the state: a leaf that averages several
    rows averages over states, and what the action did is lost.

    Source: Geurts et al. 2006 (extra-trees), Breiman 2001 (random forests), Ernst et al. 2005 (both in fitted
    Q-iteration: 50 trees grown until rows are alone, every input tried at each split).
    """

    kind: str = setting(
        "extra_trees", "random cuts, or the best cuts on resampled rows", choices=("extra_trees", "random_forest")
    )
    n_trees: int = setting(50, "trees averaged", low=1)
    min_samples_leaf: int = setting(1, "rows a leaf must hold", low=1)
    max_features: float = setting(1.0, "share of the inputs tried at each split", above=0.0, high=1.0)
    max_depth: int | None = setting(None, "greatest depth of a tree; none: no limit", low=1)
    n_jobs: int | None = setting(None, "threads that grow trees; none: one per core", low=1)

    def __post_init__(self):
        check_settings(self)


class TreeCritic(AbstractCritic):
    """q(s, a) = (1/T) Σ_t value(leaf of tree t that [s, a] falls into), in the environment's units; one critic.

    The nodes of all trees stand in one list, level by level: the roots first, the two children of a node side by side.
    From `node` the walk goes to `child[node]` if x[feature[node]] ≤ threshold[node], else to `child[node] + 1`; a leaf
    is its own child under a threshold of +∞. `depth` steps reach every leaf. The list is padded to a power of two, so
    fits of about one size share one compiled program. Inputs are compared in float32, as scikit-learn does.
    """

    feature: Int32[Arr, "nodes"]
    threshold: Float32[Arr, "nodes"]
    child: Int32[Arr, "nodes"]
    value: Float32[Arr, "nodes"]
    depth: Int32[Arr, ""]
    action_set: AbstractActionSet
    has_gradient: ClassVar[bool] = False
    forest: Forest = eqx.field(static=True)

    @staticmethod
    def start(action_set: AbstractActionSet, forest: Forest | None = None, nodes: int = 0) -> TreeCritic:
        """q_0 = 0, with room for at least `nodes` nodes: the tree of arrays into which a saved one is read."""
        forest = Forest() if forest is None else forest
        return TreeCritic(**_padded(_Nodes.leaves(max(nodes, forest.n_trees))), action_set=action_set, forest=forest)

    @property
    def size(self) -> int:
        return 1

    def subset(self, indices: Index) -> TreeCritic:
        """Itself: there is one."""
        del indices
        return self

    def __call__(
        self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray | None = None
    ) -> Float[Arr, "1 b"]:
        del key
        xp = namespace(obs, action, self.value)
        x = xp.concatenate([xp.asarray(obs, np.float32), xp.asarray(action, np.float32)], axis=-1)
        if xp is np:
            blocks = [self._mean(x[first : first + BLOCK_ROWS]) for first in range(0, len(x), BLOCK_ROWS)]
            return np.concatenate(blocks or [np.zeros(0, np.float32)])[None]
        return self._mean(x)[None]

    def _mean(self, x: Float32[Arr, "b x"]) -> Float32[Arr, "b"]:
        """The trees' mean for each row of x."""
        xp = namespace(x)
        feature, threshold, child, value = (
            xp.asarray(leaf) for leaf in (self.feature, self.threshold, self.child, self.value)
        )
        width = x.shape[1]
        flat, row = x.reshape(-1), (xp.arange(x.shape[0], dtype=np.int32) * width)[None]

        def step(node: Int32[Arr, "T b"]) -> Int32[Arr, "T b"]:
            right = xp.take(flat, row + xp.take(feature, node)) > xp.take(threshold, node)
            return xp.take(child, node) + right.astype(np.int32)

        roots = xp.arange(self.forest.n_trees, dtype=np.int32)[:, None]
        node = xp.broadcast_to(roots, (self.forest.n_trees, x.shape[0]))
        # Compiled, the number of steps is traced: a deeper fit needs no new program.
        return xp.mean(xp.take(value, repeat(self.depth, step, node)), axis=0)

    def fit(self, inputs: tuple[Float[Arr, "b s"], Float[Arr, "b m"]], y: Float[Arr, "b"], seed: int = 0) -> TreeCritic:
        """The ensemble grown anew on (s, a) → y by scikit-learn; the same data and seed give the same bits."""
        x = np.concatenate([np.asarray(part, np.float32) for part in inputs], axis=-1)
        y = np.asarray(y, np.float64)
        if len(y) == 0:
            raise UserError("trees: found no rows to fit, expected at least one.")
        bad = ~(np.isfinite(x).all(axis=1) & np.isfinite(y))
        if bad.any():
            raise UserError(
                f"trees: found {int(bad.sum())} rows that are not finite in float32, the first is row "
                f"{int(bad.argmax())}; expected numbers: drop such rows, or rescale them."
            )
        grown = _regressor(self.forest, seed).fit(x, y)
        nodes = _Nodes.of([estimator.tree_ for estimator in grown.estimators_])
        return dataclasses.replace(self, **_padded(nodes))


@sized_part.register
def _(component: TreeCritic, arrays: Mapping[str, np.ndarray]) -> TreeCritic:
    return TreeCritic.start(component.action_set, component.forest, len(arrays.get("threshold", ())))


def _regressor(forest: Forest, seed: int) -> Any:
    try:
        from sklearn import ensemble
    except ImportError:
        raise UserError(
            'trees: scikit-learn is not installed, expected the extra `trees`; run pip install "fittedq[trees]".'
        ) from None
    kinds = {"extra_trees": ensemble.ExtraTreesRegressor, "random_forest": ensemble.RandomForestRegressor}
    return kinds[forest.kind](
        n_estimators=forest.n_trees,
        min_samples_leaf=forest.min_samples_leaf,
        max_features=forest.max_features,
        max_depth=forest.max_depth,
        n_jobs=-1 if forest.n_jobs is None else forest.n_jobs,
        random_state=seed,
    )


@dataclass(frozen=True)
class _Nodes:
    """The arrays of a `TreeCritic` before padding."""

    feature: np.ndarray
    threshold: np.ndarray
    child: np.ndarray
    value: np.ndarray
    depth: int

    @staticmethod
    def leaves(count: int) -> _Nodes:
        return _Nodes(
            feature=np.zeros(count, np.int32),
            threshold=np.full(count, np.inf, np.float32),
            child=np.arange(count, dtype=np.int32),
            value=np.zeros(count, np.float32),
            depth=0,
        )

    @staticmethod
    def of(trees: Sequence[Any]) -> _Nodes:
        """scikit-learn's trees renumbered level by level, all trees at once."""
        sizes = [tree.node_count for tree in trees]
        if sum(sizes) >= 2**31:
            raise UserError(f"trees: found {sum(sizes)} nodes, expected fewer than 2^31; raise min_samples_leaf.")
        first = np.concatenate([[0], np.cumsum(sizes)[:-1]])

        def joined(name: str, offset: Sequence[int] | np.ndarray) -> np.ndarray:
            return np.concatenate([getattr(tree, name) + start for tree, start in zip(trees, offset, strict=True)])

        inner = np.concatenate([tree.children_left >= 0 for tree in trees])
        left, right = joined("children_left", first), joined("children_right", first)
        order, child, count, frontier = [], [], 0, first
        while frontier.size:
            splits = inner[frontier]
            ids = count + np.arange(frontier.size)
            count += frontier.size
            ids[splits] = count + 2 * np.arange(splits.sum())
            order.append(frontier)
            child.append(ids)
            parents = frontier[splits]
            frontier = np.stack([left[parents], right[parents]], axis=1).ravel()
        order = np.concatenate([*order])
        none = [0] * len(trees)
        inner = inner[order]
        threshold = joined("threshold", none)[order]
        rounded = threshold.astype(np.float32)
        # x ≤ t and x ≤ the greatest float32 below t say the same of a float32 x; rounding up would not.
        rounded = np.where(rounded > threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded)
        return _Nodes(
            feature=np.where(inner, joined("feature", none)[order], 0).astype(np.int32),
            threshold=np.where(inner, rounded, np.float32(np.inf)),
            child=np.concatenate(child).astype(np.int32),
            value=np.concatenate([tree.value[:, 0, 0] for tree in trees])[order].astype(np.float32),
            depth=len(child) - 1,
        )


def _padded(nodes: _Nodes) -> dict[str, Any]:
    """The fields of a `TreeCritic`, filled with leaves no walk reaches."""
    count = len(nodes.child)
    fill = _Nodes.leaves(1 << (count - 1).bit_length())
    fields: dict[str, Any] = {"depth": np.array(nodes.depth, np.int32)}
    for name in ("feature", "threshold", "child", "value"):
        fields[name] = np.concatenate([getattr(nodes, name), getattr(fill, name)[count:]])
    return fields
