"""The files that `worldlab new-plugin` writes: a plugin as a package or as a single file.

templates/ holds one template per file; `worldlab.cli.scaffold.files` replaces each `$word` in them.
"""
