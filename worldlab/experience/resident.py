"""Keeps replayed steps in the memory of a device, so that batches are gathered there without a copy through the host.

A step is a row of bytes in the layout of the files: pictures stay uint8, and all streams and keys are one tensor. So a batch is
one gather, and new steps are one copy to the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from worldlab.env.spaces import Schema

ALIGNED = 16
"""Bytes of which a row takes a multiple, so that it can be copied in large words."""
WAITING_BYTES = 8 * 2**20
"""Bytes of new steps that are kept on the host before they are copied to the device together."""


def resident_bytes(dtype: np.dtype, steps: int) -> int:
    """Return the bytes that `steps` steps take on a device."""
    return steps * -(-dtype.itemsize // ALIGNED) * ALIGNED


class ResidentSteps:
    """The newest `kept` steps of each of `streams` streams, on a device. dtype: the packed layout of a step of `schema`."""

    def __init__(self, schema: Schema, dtype: np.dtype, streams: int, kept: int, device: torch.device):
        self.device = device
        self._schema, self._dtype, self._kept = schema, dtype, kept
        width = resident_bytes(dtype, 1)
        self._rows = torch.zeros(streams * kept, width, dtype=torch.uint8, device=device)
        self._most = max(1, min(kept, WAITING_BYTES // width))  # a stream that waits longer would overwrite itself
        self._waiting = np.zeros((self._most, width), np.uint8)
        self._places = np.zeros(self._most, np.int64)
        self._count = 0

    def put(self, stream: int, step: int, records: np.ndarray) -> None:
        """Store records [n] of the layout as the steps from number `step` on of a stream."""
        data = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), -1)
        done = 0
        while done < len(records):
            count = min(len(records) - done, self._most - self._count)
            there = slice(self._count, self._count + count)
            self._waiting[there, : data.shape[1]] = data[done : done + count]
            self._places[there] = self._place(stream, step + done, count)
            self._count, done = self._count + count, done + count
            if self._count == self._most:
                self._send()

    def gather(self, streams: np.ndarray, firsts: np.ndarray, length: int) -> dict[str, Tensor]:
        """Return sequences of `length` steps from the steps `firsts` [B] of streams [B]: {key: [B, length, ...]}."""
        self._send()
        steps = (firsts[:, None] + np.arange(length)) % self._kept
        places = self._to_device(torch.from_numpy((streams[:, None] * self._kept + steps).reshape(-1)))
        rows = self._rows.index_select(0, places)
        found: dict[str, Tensor] = {}
        offset = 0
        for key, (shape, kind) in self._schema.items():
            size = np.dtype((kind, shape)).itemsize  # the layout is packed, in the order of the schema
            part = rows[:, offset : offset + size].clone(memory_format=torch.contiguous_format)
            offset += size
            dtype = torch.from_numpy(np.zeros(0, kind)).dtype
            found[key] = part.view(dtype).reshape(len(streams), length, *shape)
        return found

    def read(self, stream: int, first: int, count: int) -> np.ndarray:
        """Return the records [count] of a stream from step `first` on, on the host."""
        self._send()
        places = self._to_device(torch.from_numpy(self._place(stream, first, count)))
        rows = self._rows.index_select(0, places)[:, : self._dtype.itemsize].cpu().contiguous().numpy()
        return rows.view(self._dtype)[:, 0]

    def _place(self, stream: int, first: int, count: int) -> np.ndarray:
        return stream * self._kept + (first + np.arange(count)) % self._kept

    def _send(self) -> None:
        """Copy the waiting steps to the device."""
        if self._count:
            # Copies: the host may fill its own arrays again before the device has read them.
            rows = self._to_device(torch.from_numpy(self._waiting[: self._count].copy()))
            places = self._to_device(torch.from_numpy(self._places[: self._count].copy()))
            self._rows.index_copy_(0, places, rows)
            self._count = 0

    def _to_device(self, tensor: Tensor) -> Tensor:
        return on_device(tensor, self.device)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device. To a GPU it goes through pinned memory, so that the host does not wait."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
