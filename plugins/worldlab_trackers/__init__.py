"""Trackers: show the metrics of a run somewhere else. metrics.jsonl in the run folder stays the truth."""

from __future__ import annotations

from worldlab import hookimpl


@hookimpl
def worldlab_register(register) -> None:
    register.tracker(
        "tensorboard",
        "worldlab_trackers.tensorboard:TensorBoardTracker",
        config=None,
        summary="events for TensorBoard, in tb/ of the run folder",
    )
    register.tracker(
        "csv",
        "worldlab_trackers.csv:CsvTracker",
        config=None,
        summary="metrics.csv in the run folder: step, name and value, for spreadsheets",
    )
    register.tracker(
        "wandb",
        "worldlab_trackers.wandb:WandbTracker",
        config=None,
        summary="Weights & Biases; its own variables choose project and mode (WANDB_PROJECT, WANDB_MODE)",
    )
    register.tracker(
        "trackio",
        "worldlab_trackers.trackio:TrackioTracker",
        config=None,
        summary="trackio, on this machine or a Space; its own variables choose where (TRACKIO_DIR, TRACKIO_SPACE_ID)",
    )
