"""Environments: finding one by its id, its spaces as specs, and a pool of them stepped together."""
