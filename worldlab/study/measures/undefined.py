"""What a measure says where it cannot be taken."""

from __future__ import annotations


class Undefined(Exception):
    """A quantity has no value for this model, environment or recording; the message is the reason, for people."""
