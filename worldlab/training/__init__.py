"""Training: a configuration becomes a model and an agent (`compose`), which the loop trains to the end of a run.

`train` starts a run, `loop` is the training loop, `trainer` makes one update, `loaded` opens a finished run.
"""
