"""What `worldlab new-plugin` writes: the texts of a plugin, as a package or as one file.

templates/ holds one text a file; `$word` in them is filled in by `worldlab.cli.scaffold.files`.
"""
