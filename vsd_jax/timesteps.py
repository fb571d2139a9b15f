# SPDX-License-Identifier: Apache-2.0
"""Schedules of t: which diffusion timesteps a training step may draw.

A schedule is `(step) -> (lowest, highest)`, both inclusive; t is uniform between them.
T = number of diffusion timesteps. Shares are of T.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.spec import OneOf, Within
from vsd_jax.types import TRange


def two_stage_t_range(
    step: jax.Array, *, t_min: int, t_max: int, t_max_late: int, anneal_step: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the paper's two-stage range of t: t_max, t_max_late from `anneal_step`.

    arXiv:2305.16213, Sec. 4. `step` is traced, so the change does not retrace.

    Args:
      step: scalar int32.
      t_min: lowest timestep, inclusive.
      t_max: highest timestep before `anneal_step`, inclusive.
      t_max_late: highest timestep from `anneal_step` on, inclusive.
      anneal_step: first step of the second stage.

    Returns:
      (lowest, highest), both inclusive, int32 scalars.

    Examples:
      >>> low, high = vsd.timesteps.two_stage_t_range(
      ...     jnp.int32(0), t_min=20, t_max=980, t_max_late=500, anneal_step=5000
      ... )
      >>> int(low), int(high)
      (20, 980)
    """
    high = jnp.where(step < anneal_step, t_max, t_max_late)
    return jnp.full((), t_min, jnp.int32), high.astype(jnp.int32)


def sqrt_t_range(
    step: jax.Array, *, t_min: int, t_max: int, num_steps: int
) -> tuple[jax.Array, jax.Array]:
    """Returns HiFA's timestep, which falls with the square root of the step.

    t = t_max - (t_max - t_min) sqrt(step / num_steps) (arXiv:2305.18766, Sec. 3).
    Arguments and result as `two_stage_t_range`; lowest = highest.

    Examples:
      >>> t, _ = vsd.timesteps.sqrt_t_range(
      ...     jnp.int32(25), t_min=0, t_max=1000, num_steps=100
      ... )
      >>> int(t)
      500
    """
    progress = jnp.clip(step / num_steps, 0.0, 1.0)
    return _falling_t(jnp.sqrt(progress), t_min, t_max)


def linear_t_range(
    step: jax.Array, *, t_min: int, t_max: int, num_steps: int
) -> tuple[jax.Array, jax.Array]:
    """Returns SDI's timestep, which falls linearly with the step.

    t = t_max - (t_max - t_min) step / num_steps (arXiv:2405.15891, as in its code in
    threestudio @28d9d80, `t_anneal`). Arguments and result as `sqrt_t_range`.

    Examples:
      >>> t, _ = vsd.timesteps.linear_t_range(
      ...     jnp.int32(25), t_min=0, t_max=1000, num_steps=100
      ... )
      >>> int(t)
      750
    """
    return _falling_t(jnp.clip(step / num_steps, 0.0, 1.0), t_min, t_max)


def _falling_t(share: jax.Array, t_min: int, t_max: int):
    """One t, `share` of the way from t_max down to t_min, as (lowest, highest)."""
    t = jnp.round(t_max - (t_max - t_min) * share).astype(jnp.int32)
    return t, t


def dreamtime_timesteps(
    alphas_cumprod: np.ndarray, num_steps: int, *, middle: float, width: float
) -> np.ndarray:
    """Computes DreamTime's timestep of each training step (arXiv:2306.12422).

    t(i) is where the weight W(t) = sqrt((1 - abar_t) / abar_t) exp(-(t - m)^2 / 2 s^2),
    normalised and summed from T down, reaches i / N.

    Args:
      alphas_cumprod: [T].
      num_steps: N.
      middle: m, timestep that most steps are spent near.
      width: s, above 0.

    Returns:
      [N] int32, not rising.

    Examples:
      >>> levels = np.linspace(0.999, 0.001, 1000)
      >>> vsd.timesteps.dreamtime_timesteps(levels, 10, middle=500, width=125).shape
      (10,)
    """
    abar = np.asarray(alphas_cumprod, np.float64)
    t = np.arange(len(abar))
    prior = np.exp(-((t - middle) ** 2) / (2.0 * width**2))
    weights = np.sqrt((1.0 - abar) / abar) * prior
    from_above = np.cumsum(weights[::-1])[::-1] / weights.sum()
    share = (np.arange(num_steps) + 1) / num_steps
    nearest = np.abs(from_above[None] - share[:, None]).argmin(1)
    return np.minimum.accumulate(nearest).astype(np.int32)


def table_t_range(step: jax.Array, *, table: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Looks up the timestep of a training step in a table [N].

    Examples:
      >>> t, _ = vsd.timesteps.table_t_range(jnp.int32(1), table=np.array([980, 500]))
      >>> int(t)
      500
    """
    t = jnp.asarray(table)[jnp.minimum(step, len(table) - 1)]
    return t, t


def uniform_t(
    unit: jax.Array, t_range: tuple[jax.Array | int, jax.Array | int]
) -> jax.Array:
    """Maps uniform numbers in [0, 1) to uniform integers in an inclusive range.

    Args:
      unit: [...] uniform in [0, 1).
      t_range: (lowest, highest), may be traced.

    Returns:
      [...] int32.

    Examples:
      >>> vsd.timesteps.uniform_t(jnp.array([0.0, 0.999]), (20, 980))
      Array([ 20, 980], dtype=int32)
    """
    low, high = t_range
    t = low + jnp.floor(unit * (high - low + 1)).astype(jnp.int32)
    # The product may round up to its excluded end.
    return jnp.minimum(t, high)


def shares_to_range(shares: tuple[float, float], num_t: int) -> tuple[int, int]:
    """Converts two shares of `num_t` to (lowest, highest) timestep, inclusive.

    Examples:
      >>> vsd.timesteps.shares_to_range((0.02, 0.98), 1000)
      (20, 980)
    """
    low, high = (round(share * num_t) for share in shares)
    return low, min(high, num_t - 1)


def _two_stage(spec: "TimestepSpec", alphas_cumprod: np.ndarray) -> TRange:
    num_t = len(alphas_cumprod)
    low, high = shares_to_range(spec.t_range, num_t)
    late_low, late = shares_to_range(spec.t_range_late, num_t)
    if late_low != low:
        raise ValueError(
            f"t_range_late={spec.t_range_late} must begin where t_range={spec.t_range}"
            " does: only its upper end falls."
        )
    return functools.partial(
        two_stage_t_range,
        t_min=low,
        t_max=high,
        t_max_late=late,
        anneal_step=spec.anneal_step,
    )


def _falling(
    schedule: Callable[..., tuple[jax.Array, jax.Array]],
    spec: "TimestepSpec",
    alphas_cumprod: np.ndarray,
) -> TRange:
    low, high = shares_to_range(spec.t_range, len(alphas_cumprod))
    return functools.partial(schedule, t_min=low, t_max=high, num_steps=spec.num_steps)


def _dreamtime(spec: "TimestepSpec", alphas_cumprod: np.ndarray) -> TRange:
    num_t = len(alphas_cumprod)
    table = dreamtime_timesteps(
        alphas_cumprod,
        spec.num_steps,
        middle=spec.dreamtime_middle * num_t,
        width=spec.dreamtime_width * num_t,
    )
    cut = np.clip(table, *shares_to_range(spec.t_range, num_t))
    return functools.partial(table_t_range, table=cut)


SCHEDULES: dict[str, Callable[["TimestepSpec", np.ndarray], TRange]] = {
    "two_stage": _two_stage,
    "sqrt": functools.partial(_falling, sqrt_t_range),
    "linear": functools.partial(_falling, linear_t_range),
    "dreamtime": _dreamtime,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimestepSpec:
    """A schedule of t and its numbers.

    Attributes:
      t_schedule: schedule of t: "two_stage" (the paper's), "sqrt" (HiFA),
        "linear" (SDI) or "dreamtime"; the last three draw one falling t.
      t_range: (low, high) of t as shares of T; of "two_stage" before `anneal_step`;
        "dreamtime" is cut to it.
      t_range_late: (low, high) of t from `anneal_step` on.
      anneal_step: training step at which the range changes.
      dreamtime_middle: m / T, centre of DreamTime's weight (arXiv:2306.12422).
      dreamtime_width: s / T, width of DreamTime's weight.
      num_steps: training steps over which t falls.
    """

    t_schedule: Annotated[str, OneOf(tuple(SCHEDULES))]
    t_range: Annotated[tuple[float, float], Within(0, 1)]
    t_range_late: Annotated[tuple[float, float], Within(0, 1)]
    anneal_step: Annotated[int, Within(0)]
    dreamtime_middle: Annotated[float, Within(0, 1)]
    dreamtime_width: Annotated[float, Within(1e-3, 10)]
    num_steps: Annotated[int, Within(1)]


def make_t_range(spec: TimestepSpec, alphas_cumprod: np.ndarray) -> TRange:
    """Makes the schedule of t that `spec` names, for a prior's alphas_cumprod [T].

    Examples:
      >>> spec = vsd.presets.stable_diffusion("a pineapple").timesteps
      >>> t_range = vsd.timesteps.make_t_range(spec, np.ones(1000, np.float32))
      >>> [int(t) for t in t_range(jnp.int32(0))]
      [20, 980]
    """
    return SCHEDULES[spec.t_schedule](spec, alphas_cumprod)
