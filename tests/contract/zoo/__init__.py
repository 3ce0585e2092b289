"""Small, deliberately broken components: each is a reference component with one bug and names the check that sees it.

Subclassing a concrete component is what the style forbids elsewhere; here it shows the bug and nothing but the bug.
"""

from zoo.animals import ANIMALS, Animal

__all__ = ["ANIMALS", "Animal"]
