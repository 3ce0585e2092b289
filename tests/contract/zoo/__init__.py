"""Small, deliberately broken components: each is a reference component with one bug and names its check.

The style forbids subclassing a concrete component elsewhere; here it leaves only the bug in the subclass.
"""

from zoo.registry import BROKEN_COMPONENTS, BrokenComponent

__all__ = ["BROKEN_COMPONENTS", "BrokenComponent"]
