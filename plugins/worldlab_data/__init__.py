"""Formats of recorded data: runs of worldlab, .npz episodes, HDF5, Minari, videos with a table of actions, LeRobot."""

from __future__ import annotations

from worldlab import hookimpl


@hookimpl
def worldlab_register(register) -> None:
    register.dataset(
        "run",
        "worldlab_data.run_folder:RunFolderFormat",
        config=None,
        summary="the recorded steps of a run, or a folder that worldlab record wrote",
    )
    register.dataset(
        "npz",
        "worldlab_data.npz:NpzFormat",
        config=None,
        summary="a folder of .npz files, one an episode, as DreamerV3 writes them",
        paper="Hafner et al. 2023, arXiv:2301.04104",
    )
    register.dataset(
        "hdf5",
        "worldlab_data.hdf5:Hdf5Format",
        config=None,
        summary="an HDF5 file in the layout of D4RL or robomimic, or of a table that says where what is",
        paper="Fu et al. 2020, arXiv:2004.07219",
    )
    register.dataset(
        "minari",
        "worldlab_data.minari:MinariFormat",
        config=None,
        summary="a Minari data set, by path or id",
    )
    register.dataset(
        "video",
        "worldlab_data.video:VideoFormat",
        config=None,
        summary="a folder of videos, one an episode, with actions.csv",
    )
    register.dataset(
        "lerobot",
        "worldlab_data.lerobot:LeRobotFormat",
        config=None,
        summary="a LeRobot data set, version 3: parquet and mp4 files",
    )
