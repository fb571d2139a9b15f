# SPDX-License-Identifier: Apache-2.0
"""Neutral colours for what a prompt does not name, so that its colour stands out."""

RGB = tuple[float, float, float]

WHITE = (0.93, 0.93, 0.92)
CREAM = (0.94, 0.88, 0.76)
SNOW = (0.90, 0.92, 0.95)
BEIGE = (0.86, 0.76, 0.62)
WOOD = (0.74, 0.62, 0.47)
BARK = (0.44, 0.38, 0.33)
SILVER = (0.72, 0.74, 0.76)
GREY = (0.55, 0.57, 0.59)
STEEL = (0.36, 0.38, 0.41)
DARK = (0.13, 0.13, 0.15)
GLASS = (0.42, 0.53, 0.60)
GLOW = (1.00, 0.97, 0.80)
AMBER = (0.98, 0.66, 0.12)


def tint(colour: RGB, amount: float) -> RGB:
    """The colour mixed with white; amount in [0, 1]."""
    return tuple(c + (1.0 - c) * amount for c in colour)


def dim(colour: RGB, factor: float) -> RGB:
    """The colour times a factor in [0, 1]."""
    return tuple(c * factor for c in colour)
