"""Pieces of the world model: losses, matching of posterior and prior, observation scaling, training stages, health."""
