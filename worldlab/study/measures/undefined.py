"""The exception that a measure raises when a quantity is undefined."""

from __future__ import annotations


class Undefined(Exception):
    """A quantity has no value for this model, environment or recording; the message gives the reason to the reader."""
