"""Resizes images by exact area averaging."""

from __future__ import annotations

import numpy as np


def area_weights(source: int, target: int) -> np.ndarray:
    """Return the matrix float32 [target, source] whose row i averages the pixels that target pixel i covers."""
    edges = np.arange(target + 1) * (source / target)
    left, right = edges[:-1, None], edges[1:, None]
    pixel = np.arange(source)[None]
    cover = np.clip(np.minimum(right, pixel + 1) - np.maximum(left, pixel), 0, None)
    return (cover / cover.sum(1, keepdims=True)).astype(np.float32)


def resize(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Apply `area_weights` of both sides to an image uint8 [H, W, C]; rounds to nearest."""
    height, width, channels = image.shape
    down = rows @ image.reshape(height, width * channels).astype(np.float32)  # [h, W * C]
    across = columns @ down.reshape(len(rows), width, channels)  # [h, w, C]
    return (across + 0.5).astype(np.uint8)


__all__ = ["area_weights", "resize"]
