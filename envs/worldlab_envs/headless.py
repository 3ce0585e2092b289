"""Rendering without a display: environment variables that must be set before pygame or MuJoCo is imported."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import sys

_SDL = {
    "SDL_VIDEODRIVER": "dummy",
    "SDL_AUDIODRIVER": "dummy",
    "SDL_NO_SIGNAL_HANDLERS": "1",  # SDL would swallow SIGTERM, and a run could not be stopped
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
}


def go_headless() -> None:
    """Set the variables that rendering without a display needs; variables set by the user are not changed."""
    for name, value in _SDL.items():
        os.environ.setdefault(name, value)
    if "MUJOCO_GL" not in os.environ and sys.platform.startswith("linux"):
        os.environ["MUJOCO_GL"] = mujoco_backend()


@functools.cache
def mujoco_backend() -> str:
    """Return "egl" if EGL has a device, else "osmesa" if it is installed, else "egl", whose error message is clear."""
    if not _egl_devices() and ctypes.util.find_library("OSMesa"):
        return "osmesa"
    return "egl"


def _egl_devices() -> int:
    """Count EGL devices without importing mujoco, whose choice of a backend is final."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
        egl.eglGetProcAddress.restype = ctypes.c_void_p
        egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
        address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    except (OSError, AttributeError):
        return 0
    if not address:
        return 0
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))(address)
    count = ctypes.c_int(0)
    return count.value if query(0, None, ctypes.byref(count)) else 0
