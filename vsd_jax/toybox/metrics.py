# SPDX-License-Identifier: Apache-2.0
"""Scores of images and shapes against the Toybox's truth.

Images are judged by a small classifier trained on truth renders
(`vsd_jax.toybox.classifier`); its features serve the distribution distances, so
these are not comparable with distances in Inception features. All functions are
NumPy: they run once, at the end.
"""

from collections.abc import Mapping

import numpy as np
from scipy import linalg
from scipy.spatial import cKDTree

from vsd_jax.toybox.text import COLOURS, KINDS, ROOM, VIEWS

FRONT = VIEWS.index("front")


def precision(
    probabilities: np.ndarray, wanted: int, shown: np.ndarray | bool = True
) -> float:
    """R-precision: share of images whose most likely class is `wanted`.

    Args:
      probabilities: [N, classes].
      wanted: class index.
      shown: [N] bool; an image that shows nothing is not right, whatever the judge
        says of it.
    """
    return float(np.mean((np.argmax(probabilities, -1) == wanted) & shown))


def calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 10
) -> float:
    """Expected calibration error: mean |confidence - share right| over equal bins.

    A bin counts by its share of the answers (arXiv:1706.04599, Eq. 3).

    Args:
      probabilities: [N, classes].
      labels: [N] right classes.
      bins: of the confidence, in [0, 1].
    """
    confidence = probabilities.max(-1)
    right = probabilities.argmax(-1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(index, confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def multi_face_index(view_probabilities: np.ndarray, views: np.ndarray) -> float:
    """How often a view that should be back or side is judged front (Janus problem).

    Args:
      view_probabilities: [N, 4] over VIEWS.
      views: [N] int, the true view of each image.

    Returns:
      Share in [0, 1]; NaN if no view is back or side.
    """
    hidden = np.isin(views, [VIEWS.index("back"), VIEWS.index("side")])
    if not hidden.any():
        return float("nan")
    return float(np.mean(np.argmax(view_probabilities[hidden], -1) == FRONT))


def saturation(images: np.ndarray, background: np.ndarray) -> float:
    """Mean HSV saturation of the pixels that differ from the background.

    Args:
      images: [N, H, W, 3] in [0, 1].
      background: in [0, 1], [3] or [N, 1, 1, 3].
    """
    foreground = _foreground(images, background)
    high, low = images.max(-1), images.min(-1)
    value = (high - low) / np.maximum(high, 1e-6)
    return float(value[foreground].mean()) if foreground.any() else float("nan")


def _foreground(images: np.ndarray, background: np.ndarray) -> np.ndarray:
    """[N, H, W] bool; nothing that is not finite counts."""
    return np.abs(images - background).max(-1) > 0.1


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to two feature sets.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (FID, arXiv:1706.08500, Eq. 6).
    It is biased upwards, the more so the fewer images there are and the more they
    differ (arXiv:1911.07023): of 16 or 32 true images against 512, in D = 96, those
    drawn towards their mean by a fifth score better than as they are. Compare sets of
    one size, and with few images see `kernel_distance` too.

    Args:
      features_a: [N, D].
      features_b: [M, D]; N, M > D for covariances of full rank.
    """
    mean = features_a.mean(0) - features_b.mean(0)
    cov_a, cov_b = np.cov(features_a.T), np.cov(features_b.T)
    # tr sqrt(A B) through the symmetric sqrt(A) B sqrt(A): real by construction.
    root_a = _symmetric_sqrt(cov_a)
    cross = _symmetric_sqrt(root_a @ cov_b @ root_a)
    return float(mean @ mean + np.trace(cov_a + cov_b - 2.0 * cross))


def _symmetric_sqrt(matrix: np.ndarray) -> np.ndarray:
    values, vectors = linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def kernel_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Squared MMD with the kernel (x.y / D + 1)^3 (KID, arXiv:1801.01401).

    Unbiased where all images are independent. Several views of one object are not:
    they are alike, which makes the distance of a few objects to many too large. Read
    it beside that of as many true objects.
    """
    dim = features_a.shape[1]

    def kernel(x, y):
        return (x @ y.T / dim + 1.0) ** 3

    def within(x):
        gram = kernel(x, x)
        return (gram.sum() - np.trace(gram)) / (len(x) * (len(x) - 1))

    cross = kernel(features_a, features_b).mean()
    return float(within(features_a) + within(features_b) - 2.0 * cross)


def diversity(features: np.ndarray) -> float:
    """Mean distance between the features of different particles, same view.

    Args:
      features: [n, views, D] with n >= 2; NaN if n = 1.
    """
    n = len(features)
    if n < 2:
        return float("nan")
    first, second = np.triu_indices(n, 1)
    return float(np.linalg.norm(features[first] - features[second], axis=-1).mean())


def score_images(
    judgement: Mapping[str, np.ndarray],
    images: np.ndarray,
    *,
    kind: str,
    colour: str | None,
    views: np.ndarray,
    background: np.ndarray,
) -> dict[str, float]:
    """The table row of one object's renders.

    The judge has an answer for an empty picture too (a white one may be a room): it
    counts as wrong, and is no view that could have a second front.

    Args:
      judgement: `classifier.judge(images)`, or `strict_judge.judge(images)`, which
        adds "strict".
      images: [N, H, W, 3] in [0, 1].
      kind: of the prompt; may be a room.
      colour: of the prompt, None = any.
      views: [N] true view indices.
      background: in [0, 1], [3] or [N, 1, 1, 3].
    """
    shown = _foreground(images, background).any((1, 2))
    wanted = (*KINDS, ROOM).index(kind)
    scores = {
        "kind_precision": precision(judgement["kind"], wanted, shown),
        "saturation": saturation(images, background),
    }
    if "strict" in judgement:
        scores["strict_precision"] = precision(judgement["strict"], wanted, shown)
    if kind != ROOM:  # which has no front
        scores["multi_face_index"] = multi_face_index(
            judgement["view"][shown], views[shown]
        )
    if colour is not None:
        hue = list(COLOURS).index(colour)
        scores["colour_precision"] = precision(judgement["colour"], hue, shown)
    return scores


def chamfer(points_a: np.ndarray, points_b: np.ndarray) -> float:
    """Symmetric mean nearest distance of two point sets [N, 3], scene units."""
    to_b = cKDTree(points_b).query(points_a)[0]
    to_a = cKDTree(points_a).query(points_b)[0]
    return float(0.5 * (to_a.mean() + to_b.mean()))
