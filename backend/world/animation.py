"""Frames as one animation: a GIF, or an MP4 where there is ffmpeg."""

from __future__ import annotations

import shutil
import subprocess  # nosec B404 - runs ffmpeg, without a shell
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from backend.errors import OutputError
from backend.files import complete_file, writing
from backend.progress import Check

SUFFIXES = (".gif", ".mp4")
FRAME_NAME = "frame_{:04d}.png"


def check_animation(path: Path) -> None:
    """`OutputError` unless an animation of that name can be made here."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path.name} is no name of an animation: it must end in .gif or .mp4.")
    if path.suffix.lower() == ".mp4" and _ffmpeg() is None:
        raise OutputError(
            "For an MP4 the program ffmpeg is needed, and there is none on the PATH: install it, or choose a name that "
            "ends in .gif."
        )


def write_animation(path: Path, frames: list[Path], frame_rate: float, comment: str, check: Check) -> None:
    """The frames, files named by `FRAME_NAME` in one folder, as an animation at ``path``; a GIF runs for ever."""
    check_animation(path)
    with complete_file(path) as partial, writing(path):
        if path.suffix.lower() == ".gif":
            _write_gif(partial, frames, frame_rate, comment, check)
        else:
            _write_mp4(partial, frames, frame_rate, comment, check)


def _ffmpeg() -> str | None:
    return shutil.which("ffmpeg")


def _write_gif(path: Path, frames: list[Path], frame_rate: float, comment: str, check: Check) -> None:
    def images() -> Iterator[Image.Image]:
        for frame in frames:
            check()
            with Image.open(frame) as image:
                yield image.convert("RGB").quantize(256)

    several = images()
    first = next(several)
    duration = max(20, round(1000 / frame_rate))  # browsers show shorter ones slowly
    first.save(path, save_all=True, append_images=several, duration=duration, loop=0, comment=comment.encode())


def _write_mp4(path: Path, frames: list[Path], frame_rate: float, comment: str, check: Check) -> None:
    """What every player plays: 4:2:0 colours need even sides, so an odd one gets a black line."""
    command = [
        str(_ffmpeg()), "-y", "-loglevel", "error", "-nostdin",
        "-framerate", str(frame_rate), "-i", "frame_%04d.png", "-frames:v", str(len(frames)),
        "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-movflags", "+faststart",
        "-metadata", f"comment={comment}", str(path.absolute()),
    ]  # fmt: skip
    # run where the frames are: a folder's name may hold what ffmpeg takes for a pattern
    folder, pipe = frames[0].parent, subprocess.PIPE
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=pipe, text=True, cwd=folder
    ) as process:  # nosec B603 - a list, no shell
        while True:
            try:
                _, said = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                try:
                    check()
                except BaseException:
                    process.kill()
                    raise
    if process.returncode:
        raise OutputError(f"ffmpeg could not make {path.name}: {said.strip()[-300:]} Choose a name that ends in .gif.")
