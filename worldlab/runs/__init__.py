"""The run folder on disk: files, checkpoints, metrics, pictures, locks. Nothing here is pickled or unpickled."""
