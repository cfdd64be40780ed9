"""The stages as functions of NumPy arrays, [size] or [b, size]: what the host runs, and what a NumPy file is made of.

Each function stands by itself, without another import, for its text is copied into exported files.
"""

from __future__ import annotations

import numpy as np


def normalize(x, mean, deviation, limit):
    return clip((x - mean) / deviation, -limit, limit)


def layer(x, weight, bias):
    x = x @ weight
    return np.add(x, bias, out=x)


def relu(x):
    return np.fmax(x, np.float32(0))  # 0 where x is no number


def leaky_relu(x):
    return np.where(x > 0, x, np.float32(0.01) * x)


def tanh(x):
    return np.tanh(x)


def silu(x):
    return x * np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))


def gelu(x):
    inner = np.float32(0.7978845608028654) * (x + np.float32(0.044715) * x**3)
    return np.float32(0.5) * x * (1 + np.tanh(inner))


def softplus(x):
    return np.logaddexp(x, np.float32(0))


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def layer_norm(x, gain, shift):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.float32(1e-5)) * gain + shift


def unit_length(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True) + np.float32(1e-12))


def average_norm(x):
    return x / np.maximum(np.abs(x).mean(-1, keepdims=True), np.float32(1e-8))


def append(x, number):
    return np.concatenate([x, np.full_like(x[..., :1], number)], axis=-1)


def join(x, y):
    return np.concatenate([x, y], axis=-1)


def blend(x, y, keep, take):
    return keep * x + take * y


def affine(u, center, half_width):
    """from the unit box to units"""
    return center + half_width * u


def clip(a, low, high):
    return np.minimum(np.maximum(a, low), high)


def round_whole(a, whole, low, high):
    return clip(np.where(whole, np.round(a), a), low, high)


def changes(z, rate, least, most, center, half_width, first):
    """the least and the greatest change of the action before, which z holds in the unit box"""
    before = center + half_width * z[..., first : first + len(rate)]
    return clip(least - before, -rate, rate), clip(most - before, -rate, rate)


def stretched(u, z, rate, least, most, center, half_width, first):
    """the unit box onto the changes that are admissible"""
    low, high = changes(z, rate, least, most, center, half_width, first)
    return clip(low + np.float32(0.5) * (u + 1) * (high - low), low, high)


def nearest_point(a, matrix, limits, floor, ceiling, center, scale, low, high, rows, bound, margin, inner):
    """the nearest point with floor <= x <= ceiling and matrix x <= limits: interior points, then Newton, in doubles"""
    wide = np.asarray(a, float)
    if (matrix @ wide <= limits).all() and (floor <= wide).all() and (wide <= ceiling).all():
        return a
    point, p, m = (wide - center) / scale, *rows.shape
    walls, ends = np.concatenate([rows, np.eye(m), -np.eye(m)]), np.concatenate([bound, high, -low])
    x, slack, z = inner, ends - walls @ inner, np.full(p + 2 * m, 1 + np.abs(point - inner).max())
    for _ in range(25):
        target, weight = max(0.1 * np.mean(slack * z), 1e-10), z / slack
        inverse = 1 / (1 + weight[p : p + m] + weight[p + m :])
        right = point - x - (target / slack) @ walls
        system = (rows * inverse) @ rows.T
        system += np.diag(1 / weight[:p] + 1e-5 * np.diag(system))
        pressure = np.linalg.solve(system, rows @ (inverse * right))
        x_step = inverse * (right - pressure @ rows)
        slack_step = np.concatenate([-pressure / weight[:p], -x_step, x_step])
        z_step = target / slack - z - weight * slack_step
        length = min(1, 0.99 / max(0.99, (-slack_step / slack).max(), (-z_step / z).max()))
        x, slack, z = x + length * x_step, slack + length * slack_step, z + length * z_step
        slack, z = np.maximum(slack, 1e-12), np.maximum(z, 1e-12)

    def at(force):
        return np.clip(point - force @ rows, low, high)

    def residual(force):
        return np.abs(force - np.maximum(force + rows @ at(force) - bound, 0)).max()

    force = least = z[:p]
    for _ in range(5):
        binding = force + rows @ at(force) - bound > 0
        base = np.where(binding, force, 0)
        free = (point - base @ rows > low) & (point - base @ rows < high)
        system = (rows * free) @ rows.T
        strength = np.diag(system)
        binding &= strength > 1e-10
        system = np.where(binding[:, None] & binding, system, 0) + np.diag(np.where(binding, 1e-5 * strength, 1))
        force = np.maximum(base + np.linalg.solve(system, np.where(binding, rows @ at(base) - bound, 0)), 0)
        least = force if residual(force) < residual(least) else least
    x = at(least) if residual(least) < 3e-6 * (1 + np.abs(point).max()) else x
    x = np.clip(x, low, high)
    room, needed = np.maximum(bound + margin / 2 - rows @ inner, 0), rows @ (x - inner)
    x = inner + np.where(needed > room, room / np.maximum(needed, 1e-30), 1).min() * (x - inner)
    return np.clip(center + scale * x, floor, ceiling).astype(a.dtype)


def on_edge(a, z, matrix, bound, near, *held):
    """whether a row, or an end of the changes that are admissible, holds the action back"""
    if not held:
        return bool((matrix @ a >= bound).any())
    low, high = changes(z, *held)
    return bool(((a <= low + near) | (a >= high - near)).any())


def reached(wanted, before, rate, low, high):
    """what is wanted, no further from the action before than the rate, and within the limits"""
    return clip(clip(wanted, before - rate, before + rate), low, high)


def remembered(seen, executed, y, measured, set_point, value, errors, sample, limit, history, lags, center, half_width):
    """z = [y, errors, integrals, earlier y, earlier u in the unit box] of the last z (None at first), u, and y"""
    difference = y[measured] - np.where(set_point < 0, value, y[set_point])
    error, gain, unit = difference[:errors], sample * difference[errors:], (executed - center) / half_width
    if seen is None:
        total, past_y, past_u = np.zeros_like(gain), np.tile(y, history - 1), np.tile(unit, lags)
    else:
        begin, end = len(y) + len(difference), len(y) * history + len(difference)
        total = seen[len(y) + errors : begin]
        past_y = np.concatenate([seen[: len(y)], seen[begin:end]])[: end - begin]
        past_u = np.concatenate([unit, seen[end:]])[: lags * len(unit)]
    return np.concatenate([y, error, np.clip(total + gain, -limit, limit), past_y, past_u])


def in_units(x, shift, scale):
    """deviations in double precision, cut at 100"""
    return np.clip((np.asarray(x, float) - shift) / scale, -100, 100)


def far(z, shift, scale, landmarks):
    """the least squared distance to a landmark, and which that is"""
    squares = ((in_units(z, shift, scale) - landmarks) ** 2).sum(axis=1)
    return squares.min(), squares.argmin()


def changed(z, past, nearest, past_shift, past_scale, newest, newest_shift, newest_scale, weights, errors):
    """(how far the newest numbers are from what the past led one to expect, by how much each), in its usual errors"""
    x = in_units(past, past_shift, past_scale)
    i, k = np.triu_indices(len(x))
    features = np.concatenate([[1.0], x, x[i] * x[k]])[: weights.shape[1]]
    off = in_units(z[newest], newest_shift, newest_scale) - weights.astype(float) @ features
    return (np.maximum(np.abs(off), 1e-3) / errors[nearest]).max(), off / errors[nearest]


def is_strange(square, change, alone, place, both):
    """whether a sample is farther from the data, or changed otherwise, than they allow"""
    return square > alone**2 if change is None else square > place**2 or change > both


def with_row(trail, square, error, distances, shares, samples):
    """the last rows [-log share of the place, errors of the change], this sample's the newest"""
    share = max(np.interp(np.sqrt(square), distances, shares, left=1.0), 1e-12)
    row = np.concatenate([[-np.log(share)], np.clip(error, -5, 5)])[None]
    return row if trail is None else np.concatenate([trail, row])[-samples:]


def is_strange_together(trail, place, size, side):
    """whether the rows of a window are, on average, farther than the data allow"""
    mean, squares = trail.mean(0), (trail[:, 1:] ** 2).mean(0)
    return mean[0] > place or (squares > size).any() or (np.abs(mean[1:]) > side).any()


def straight(y, weight, bias, low, high):
    """a linear controller, in double precision"""
    return np.clip(bias + np.asarray(y, float) @ weight, low, high).astype(np.float32)


def pid(y, memory, driven, measured, set_point, target, kp, weight, gain, keep, rate, bias, low, high, track, hold):
    """(action, memory) of PID loops side by side, in double precision; memory is [integral, derivative, measured]"""
    value = np.asarray(y[measured], float)
    r = np.where(set_point < 0, target, np.asarray(y[set_point], float))
    integral, derivative, last = (0.0, 0.0, value) if memory is None else memory
    derivative, later = keep * derivative - rate * (value - last), integral + gain * (r - value)
    v = bias + kp * (weight * r - value) + later + derivative
    u = np.clip(v, low, high)
    held = np.where((v - u) * gain * (r - value) > 0, integral, later)
    action = np.array(hold, np.float32)
    action[driven] = u
    return action, (np.where(track > 0, later + track * (u - v), held), derivative, value)


def back_layer(g, x, y, weight):
    """the derivative by x of what a stage y(x) passes on, g its derivative by y; so for all of these"""
    return weight @ g


def back_relu(g, x, y):
    return np.where(x > 0, g, 0)


def back_leaky_relu(g, x, y):
    return np.where(x > 0, g, np.float32(0.01) * g)


def back_tanh(g, x, y):
    return g * (1 - y * y)


def back_silu(g, x, y):
    t = np.tanh(np.float32(0.5) * x)
    return g * np.float32(0.5) * (1 + t + np.float32(0.5) * x * (1 - t * t))


def back_gelu(g, x, y):
    c, d = np.float32(0.7978845608028654), np.float32(0.044715)
    t = np.tanh(c * (x + d * x**3))
    return g * np.float32(0.5) * (1 + t + x * (1 - t * t) * c * (1 + 3 * d * x * x))


def back_softplus(g, x, y):
    return g * np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))


def back_elu(g, x, y):
    return np.where(x > 0, g, g * (y + 1))


def back_layer_norm(g, x, y, gain):
    centered, g = x - x.mean(), g * gain
    scale = np.sqrt((centered**2).mean() + np.float32(1e-5))
    unit = centered / scale
    return (g - g.mean() - unit * (g * unit).mean()) / scale


def back_unit_length(g, x, y):
    return (g - y * (y * g).sum()) / np.sqrt((x**2).sum() + np.float32(1e-12))


def back_average_norm(g, x, y):
    mean = np.abs(x).mean()
    if not mean > np.float32(1e-8):
        return g / np.float32(1e-8)
    return g / mean - np.sign(x) * (y * g).sum() / (mean * len(x))


def back_append(g, x, y):
    return g[:-1]


def back_join_first(g, x, other, y):
    return g[: len(x)]


def back_join_second(g, x, other, y):
    return g[len(x) :]


def back_blend(g, x, other, y, share):
    return g * share


def expect(x, values):
    """the mean of a distribution over values"""
    p = np.exp(x - x.max())
    return (p * values).sum(keepdims=True) / p.sum()


def back_expect(g, x, y, values):
    p = np.exp(x - x.max())
    return g * p / p.sum() * (values - y)


def least_critic(s, a, critics, center, half_width):
    """(min_j q_j, its derivative by a)"""
    x = np.concatenate([s, (a - center) / half_width])
    found = [critic(x) for critic in critics]
    value, gradient = min(found, key=lambda one: one[0])
    return value, np.nan_to_num(gradient[len(s) :] / half_width, nan=0.0, posinf=0.0, neginf=0.0)


def ascended(s, start, critics, nearest, starts, steps, trust, center, half_width, unit, low, high, *held):
    """projected gradient steps on q = min_j q_j, none of which ends lower; without a start from the best of `starts`"""
    low, high = changes(s, *held) if held else (low, high)
    starts = clip(starts, low, high)
    a = start if start is not None else starts[0]
    value, gradient = least_critic(s, a, critics, center, half_width)
    for other in starts[1:] if start is None else ():
        q, slope = least_critic(s, other, critics, center, half_width)
        if q > value + 1e-10 * (1 + abs(value)):
            a, value, gradient = other, q, slope
    start, step = a, trust / 2
    for _ in range(steps):
        direction = gradient * unit
        moved = a + step * unit * (direction / max(np.abs(direction).max(), 1e-30))
        moved = clip(moved, low, high) if nearest is None else nearest(moved)
        far = (np.abs(moved - start) / half_width).max()
        if far > trust:
            moved = clip(start + (moved - start) * (trust / far), low, high)
        q, slope = least_critic(s, moved, critics, center, half_width)
        better = q > value + 1e-10 * (1 + abs(value))
        a, value, gradient, step = (moved, q, slope, 2 * step) if better else (a, value, gradient, step / 4)
    return a


def tree_mean(x, feature, threshold, child, value, trees, depth):
    """(1/T) sum of the leaves that the rows of x fall into, x in single precision"""
    x = x.astype(np.float32)
    node = np.broadcast_to(np.arange(trees), (len(x), trees))
    for _ in range(depth):
        node = child[node] + (np.take_along_axis(x, feature[node], 1) > threshold[node])
    return value[node].sum(1, dtype=float) / trees


def best_point(s, points, forest):
    """(the best of the points at s, its value), points in single precision"""
    points = points.astype(np.float32)
    values = tree_mean(np.concatenate([np.tile(s, (len(points), 1)), points], axis=1), *forest)
    return points[values.argmax()].astype(float), values.max()


def looked_along(s, start, forest, starts, looks, trust, half_width, low, high, *held):
    """the best of the points that are looked at, along one axis after another; never below where it begins"""
    low, high = changes(s, *held) if held else (low, high)
    starts = clip(starts, low, high)
    a, value = best_point(s, starts if start is None else start[None], forest)
    least, most = clip(a - trust * half_width, low, high), clip(a + trust * half_width, low, high)
    for axis, radius in looks:
        points = np.tile(a, (16, 1))
        line = a[axis] + radius * ((2 * np.arange(16) - 15) / 15)
        points[:, axis] = clip(line, least[axis], most[axis])
        other, q = best_point(s, points, forest)
        if q > value + 1e-10 * (1 + abs(value)):
            a, value = other, q
    return a
