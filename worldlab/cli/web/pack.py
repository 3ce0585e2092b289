"""Packs pictures and their description into one binary message, which `unpack` of assets/socket.js reads."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any


def pack(header: Mapping[str, Any], blobs: Sequence[bytes]) -> bytes:
    """Return 4 bytes of length (big endian), the header as JSON with "sizes" of the blobs, and the blobs."""
    text = json.dumps({**header, "sizes": [len(blob) for blob in blobs]}, allow_nan=False).encode()
    return b"".join([struct.pack(">I", len(text)), text, *blobs])
