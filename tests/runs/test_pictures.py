"""worldlab.runs.pictures: input pixels appear unchanged, in the right places."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from worldlab.errors import WorldlabError
from worldlab.runs import pictures


def noise(*shape, levels=256):
    return np.random.default_rng(0).integers(0, levels, shape).astype(np.uint8)


def decode(data):
    image = Image.open(io.BytesIO(data))
    frames = []
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        frames.append(np.asarray(image.convert("RGB")))
    return np.stack(frames), image


def find(image, patch):
    """Return (x, y) of every exact occurrence of patch [h, w, 3] in image [H, W, 3]."""
    windows = np.lib.stride_tricks.sliding_window_view(image, patch.shape)[:, :, 0]
    ys, xs = np.nonzero((windows == patch).all((2, 3, 4)))
    return list(zip(xs.tolist(), ys.tolist()))


def test_channels():
    grey, rgb = noise(2, 4, 5), noise(2, 4, 5, 3)
    assert np.array_equal(pictures.as_frames(grey), np.stack([grey] * 3, -1))
    assert np.array_equal(pictures.as_frames(grey[..., None]), np.stack([grey] * 3, -1))
    assert np.array_equal(pictures.as_frames(rgb), rgb)
    rgba = np.concatenate([rgb, np.full((2, 4, 5, 1), 255, np.uint8)], -1)
    assert np.array_equal(pictures.as_frames(rgba), rgb)
    stack = noise(2, 4, 5, 4)
    assert np.array_equal(pictures.as_frames(stack), np.stack([stack[..., 3]] * 3, -1))


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 4, 4, 3)), np.full((2, 4, 4, 3), np.nan), noise(4, 4), noise(0, 4, 4, 3), noise(2, 3, 8, 8)]
)
def test_anything_but_uint8_frames_is_rejected(bad):
    for call in (pictures.as_frames, pictures.gif_bytes, lambda x: pictures.strip({"a": x})):
        with pytest.raises(WorldlabError, match="cannot draw"):
            call(bad)


def test_a_strip_shows_each_frame_in_its_place():
    real, dream = noise(6, 5, 5, 3), 255 - noise(6, 5, 5, 3)
    image = np.asarray(pictures.strip({"real": real, "dream": dream}, dream_from=4, upscale=2))
    places = [[find(image, video[t].repeat(2, 0).repeat(2, 1)) for t in range(6)] for video in (real, dream)]
    assert all(len(place) == 1 for row in places for place in row)
    xs = [[place[0][0] for place in row] for row in places]
    ys = [{place[0][1] for place in row} for row in places]
    assert xs[0] == xs[1] == sorted(xs[0]) and all(len(y) == 1 for y in ys) and min(ys[0]) < min(ys[1])
    line = np.nonzero((image == pictures.DREAM).all(-1).sum(0) > 0.5 * image.shape[0])[0]
    assert len(line) and xs[0][3] + 10 <= line.min() and line.max() < xs[0][4]


def test_a_long_strip_is_thinned_evenly_and_keeps_the_first_dreamt_frame():
    times = pictures._shown_times(50, 7, 16)
    assert 7 in times and len(times) <= 16 and set(np.diff(times)) == {4}
    for length in (1, 2, 16, 17, 99):
        for start in (None, 0, 1, length // 2, length):
            times = pictures._shown_times(length, start, 16)
            assert 1 <= len(times) <= 16 and times[0] >= 0 and times[-1] < length
            assert start is None or not 0 < start < length or start in times
            assert pictures.strip({"a": noise(length, 4, 4)}, dream_from=start).width > 40


def test_error_curves_rise_where_the_error_does():
    video = np.full((8, 6, 6, 3), 255, np.uint8)
    error = np.array([np.nan, 0, 0, 0, 0, 1, 1, 1.0])
    image = np.asarray(pictures.strip({"dream": video}, errors={"dream": error}, upscale=4))
    ys, xs = np.nonzero((image == pictures.DREAM).all(-1))
    half = (xs.min() + xs.max()) / 2
    assert ys[xs < half - 20].mean() - ys[xs > half + 20].mean() > 15
    for bad in (np.zeros(3), np.full(8, np.inf)):
        with pytest.raises(WorldlabError, match="error curve"):
            pictures.strip({"dream": video}, errors={"dream": bad})


def test_videos_of_unequal_length_are_rejected_and_of_unequal_size_are_not():
    with pytest.raises(WorldlabError, match="the same length"):
        pictures.side_by_side({"a": noise(3, 4, 4, 3), "b": noise(2, 4, 4, 3)})
    with pytest.raises(WorldlabError, match="the same length"):
        pictures.strip({})
    shown = pictures.side_by_side({"a": noise(3, 4, 8, 3), "b": noise(3, 8, 4, 3)})
    assert shown.dtype == np.uint8 and shown.shape[0] == 3 and shown.shape[1] % 2 == shown.shape[2] % 2 == 0


def test_side_by_side_holds_each_videos_frame():
    videos = {"real": noise(4, 6, 6, 3), "dream": 255 - noise(4, 6, 6, 3)}
    shown = pictures.side_by_side(videos, dream_from=2, upscale=3)
    for when in range(4):
        left, right = (find(shown[when], video[when].repeat(3, 0).repeat(3, 1)) for video in videos.values())
        assert len(left) == len(right) == 1 and left[0][0] < right[0][0] and left[0][1] == right[0][1]
    reddish = [(frame == pictures.DREAM).all(-1).any() for frame in shown]
    assert reddish == [False, False, True, True]


def test_png_and_webp_are_lossless(tmp_path):
    video = noise(5, 9, 7, 3)
    pictures.save_png(video[0], tmp_path / "a.png")
    assert np.array_equal(decode((tmp_path / "a.png").read_bytes())[0][0], video[0])
    path = pictures.save_webp(video, tmp_path / "a.webp", fps=20)
    frames, image = decode(path.read_bytes())
    assert np.array_equal(frames, video) and image.info["duration"] == 50 and image.info["loop"] == 0


def test_gif_is_exact_up_to_256_colours_and_close_beyond():
    few = noise(5, 16, 16, 3, levels=6) * 40
    frames, image = decode(pictures.gif_bytes(few, fps=20))
    assert len(np.unique(few.reshape(-1, 3), axis=0)) <= 256
    assert np.array_equal(frames, few) and image.info["duration"] == 50 and image.info["loop"] == 0
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    many = np.stack(
        [
            np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], 64), np.full((64, 64), 50 * t)], -1)
            for t in range(3)
        ]
    )
    frames, _ = decode(pictures.gif_bytes(many.astype(np.uint8)))
    assert np.abs(frames.astype(int) - many).mean() < 12


def test_gif_duration_is_kept_when_frames_repeat():
    still = np.zeros((10, 4, 4, 3), np.uint8)
    still[5:] = 200
    image = Image.open(io.BytesIO(pictures.gif_bytes(still, fps=10)))
    total = 0
    for index in range(image.n_frames):
        image.seek(index)
        total += image.info["duration"]
    assert total == 1000


def test_vector_strip_draws_truth_dream_and_band(tmp_path):
    when = np.arange(30.0)
    real = np.stack([np.sin(when / 5), np.zeros(30)], 1)
    dream = real + 0.1
    kwargs = {"dream_from": 10, "names": ["angle"]}
    with_band = pictures.vector_strip(real, dream, band=(dream - 0.5, dream + 0.5), **kwargs)
    without = pictures.vector_strip(real, dream, **kwargs)
    assert with_band.mode == "RGB" and with_band.size == without.size
    ink = np.abs(np.asarray(without).astype(int) - pictures.INK).sum(-1) < 30
    assert ink.sum() > 100
    assert np.asarray(with_band).mean() < np.asarray(without).mean()  # the band darkens the paper
    one = pictures.vector_strip(real[:, :1], dream[:, :1])
    assert one.width < without.width
    for bad in (real[:, 0], np.full((30, 2), np.nan), real[:5]):
        with pytest.raises(WorldlabError, match="cannot draw 'dream'"):
            pictures.vector_strip(real, bad)


def test_vector_strip_shows_the_entries_that_move():
    real = np.zeros((20, 12))
    real[:, [3, 11]] = np.arange(20)[:, None]
    picture = pictures.vector_strip(real, real, max_plots=2)
    same = pictures.vector_strip(real[:, [3, 11]], real[:, [3, 11]], names=["[3]", "[11]"])
    assert np.array_equal(np.asarray(picture), np.asarray(same))
