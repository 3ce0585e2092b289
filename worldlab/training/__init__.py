"""Training: `compose` builds a model and an agent from a configuration, and `loop` trains them.

`train` starts a run, `loop` is the training loop, `trainer` makes one update, `loaded` opens a finished run.
"""
