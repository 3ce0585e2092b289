"""Tests published claims about generative model families with comparisons on control tasks.

`claims` reads claims and their predictions (roundup.toml), `run` runs the comparisons, `verdicts` decides which
predictions hold, `publish` writes the report.
"""
