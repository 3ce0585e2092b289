"""The configuration of a run: layers of presets, files and flags, resolved and validated."""
