"""A first guess of the target, combined with the network's prediction by how sure it is.

A base with a texture encoder has a guess g of the target's latents x0 before it denoises. Taken as a Gaussian prior
N(g, s2), together with the noisy latents z = a x0 + b e (a2 + b2 = 1), it has a posterior in closed form, whose velocity is

    v = b (a (1 - s2) z - g) / (b2 + s2 a2).

The UNet then predicts what is missing from that, scaled to unit size, instead of everything (the same idea as the
preconditioning of Karras et al., 2022, with a mean that is not zero). For g = 0 and s2 = 1, no guess, the formula
vanishes and plain velocity prediction remains, so rows with and without a guess go through one network.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prior:
    """mean (B, C, h, w) and variance (B, 1, 1, 1) of the target's latents; zero and one where there is no guess."""

    mean: Tensor
    variance: Tensor


def with_prior(output: Tensor, noisy: Tensor, alpha_bar: Tensor, prior: Prior) -> Tensor:
    """The UNet's output and the prior's velocity together: the predicted velocity (B, C, h, w).

    alpha_bar (B, 1, 1, 1) or a scalar tensor: the schedule's cumulative alpha at each row's timestep.
    """
    a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    spread = (b.square() + prior.variance * a.square()).clamp(min=1e-8)
    known = b * (a * (1 - prior.variance) * noisy - prior.mean) / spread
    return known + (prior.variance / spread).sqrt() * output
