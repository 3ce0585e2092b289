"""Environments: lookup by id, spaces as specs, and a pool that steps several together."""
