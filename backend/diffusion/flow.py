"""Rectified flow: z^t = t z + (1 - t) noise, v = z - noise; times run from 0 (noise) to 1 (data)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]


def noised(z: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """z^t for (batch, streams, ...) and times (batch, streams)."""
    t = times.reshape(*times.shape, *[1] * (z.ndim - times.ndim)).to(z)
    return t * z + (1 - t) * noise


def adams_bashforth(
    velocity: Velocity,
    noise: Tensor,
    steps: int,
    after_step: Callable[[int, Tensor, float], Tensor] = lambda step, z, time: z,
) -> Tensor:
    """z of the flow's end, in ``steps`` evaluations of equal length: two-step Adams-Bashforth, the first step Euler's.

    ``after_step`` (step, z, time reached) may change z, and raise.
    """
    z, before = noise, None
    for step in range(steps):
        now = velocity(z, step / steps)
        slope = now if before is None else 1.5 * now - 0.5 * before
        z, before = z + slope / steps, now
        z = after_step(step, z, (step + 1) / steps)
    return z
