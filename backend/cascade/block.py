"""One block of a stage: its windows blended by the partition of unity, in lattice order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.fill import fillnodata

from backend.cascade.engine import Engine, render_windows
from backend.cascade.planning import Block, WindowGeometry
from backend.raster.grid import Region
from backend.raster.source import Pixels
from backend.raster.stretch import Stretch
from backend.tiling.noise import window_noise

Values = NDArray[np.float32]
Place = tuple[int, int]
"""Row and column of a window in its stage's lattice."""
Edges = dict[Place, Values]
"""(bands, rows, cols) in source units of what windows give to the blocks below and to the right; see `edges_of`."""


@dataclass(frozen=True)
class StageSettings:
    """What the windows of one stage have in common; ``stage`` counts from 1."""

    stage: int
    geometry: WindowGeometry
    stretch: Stretch
    ground_resolution_m: float
    seed: int
    noise: str
    consistency: float
    first_window: Place = (0, 0)
    """What window (0, 0) is on the layer that the source was copied from: noise is a function of place there."""


@dataclass(frozen=True)
class RenderedBlock:
    """A block's pixels, and what its last windows give to the neighbouring blocks."""

    pixels: Pixels
    below: Edges
    right: Edges


def fill_holes(pixels: Pixels) -> Values:
    """The values with every hole filled from valid pixels of the same crop, nearer ones counting more."""
    if pixels.valid.all():
        return pixels.values
    search = float(max(pixels.valid.shape))
    mask = pixels.valid.astype(np.uint8)
    bands = [
        fillnodata(np.where(pixels.valid, band, 0).astype(np.float32), mask=mask, max_search_distance=search)
        for band in pixels.values
    ]
    return np.stack(bands).astype(np.float32)


class BlockRenderer:
    """Renders blocks of one stage; ``read`` gives the stage's input by region, from one thread of its own.

    While the network works on some windows, the next are read, filled and given their noise.
    """

    def __init__(
        self,
        engine: Engine,
        read: Callable[[Region], Pixels],
        settings: StageSettings,
        bands: int,
        after_window: Callable[[], None],
    ) -> None:
        self.engine, self.read, self.settings, self.bands = engine, read, settings, bands
        self.after_window = after_window
        self.geometry = settings.geometry
        self.weights = self.geometry.lattice.weights()
        # its own threads inside torch would fight with the network's
        self.reader = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))

    def close(self) -> None:
        """End the reading thread."""
        self.reader.shutdown(cancel_futures=True)

    def render(self, block: Block, edges: Mapping[Place, Values]) -> RenderedBlock:
        """A block's pixels. Windows without a valid pixel are skipped, others see their holes filled.

        ``edges`` are what neighbours have left; windows of neighbours that are not in it are computed again.
        """
        region, lattice = block.region, self.geometry.lattice
        total = np.zeros((self.bands, region.height, region.width), np.float32)
        windows = self.geometry.windows(region)
        valid = self.reader.submit(self._valid, region)
        computed = self._kept_values([w for w in windows if w not in edges])
        below: Edges = {}
        right: Edges = {}
        for row, col in windows:
            values = edges.get((row, col))
            own = values is None
            if values is None:
                values = next(computed)
            self._add(total, region, values, row, col)
            if own and lattice.ramp:
                if lattice.kept(row)[1] > region.bottom:
                    below[row, col] = values[:, -lattice.ramp:]
                if lattice.kept(col)[1] > region.right:
                    right[row, col] = values[:, :, -lattice.ramp:]
        return RenderedBlock(Pixels(total, valid.result()), below, right)

    def _valid(self, region: Region) -> NDArray[np.bool_]:
        scale = self.geometry.scale
        cover = Region(region.top // scale, region.left // scale, -(-region.bottom // scale), -(-region.right // scale))
        valid = self.read(cover).valid.repeat(scale, axis=0).repeat(scale, axis=1)
        return valid[region.relative_to(cover.scaled(scale)).slices()]

    def _kept_values(self, windows: list[Place]) -> Iterator[Values]:
        """What each window contributes, (bands, kept, kept), in the order given; zeros where its input is empty."""
        s, margin = self.settings, self.geometry.lattice.margin
        kept = self.geometry.lattice.stride + self.geometry.lattice.ramp
        for group in self._inputs(windows):
            there = [k for k, given in enumerate(group) if given is not None]
            values = np.zeros((len(group), self.bands, kept, kept), np.float32)
            if there:
                lows, noises = (np.stack([given[i] for given in group if given is not None]) for i in (0, 1))
                made = render_windows(self.engine, lows, noises, s.stretch, s.ground_resolution_m, s.consistency)
                values[there] = made[:, :, margin:margin + kept, margin:margin + kept]
            for one in values:
                self.after_window()
                yield one

    def _inputs(self, windows: list[Place]) -> Iterator[list[tuple[Values, Values] | None]]:
        """(filled crop, noise) of each window, a batch at a time; the next batch is made ahead."""
        waiting = iter(windows)
        ahead = [self.reader.submit(self._input, *w) for w in itertools.islice(waiting, self.engine.batch)]
        while ahead:
            now = [future.result() for future in ahead]
            ahead = [self.reader.submit(self._input, *w) for w in itertools.islice(waiting, self.engine.batch)]
            yield now

    def _input(self, row: int, col: int) -> tuple[Values, Values] | None:
        s = self.settings
        crop = self.read(self.geometry.input_crop(row, col))
        if not crop.valid.any():
            return None
        row, col = row + s.first_window[0], col + s.first_window[1]
        return fill_holes(crop), window_noise(s.noise, s.seed, s.stage, self.geometry.lattice, row, col, 3)

    def _add(self, total: Values, region: Region, values: Values, row: int, col: int) -> None:
        """Add one window's kept pixels, or their last rows or columns, weighted, to ``total`` (of ``region``)."""
        kept = self.geometry.kept(row, col)
        given = Region(kept.bottom - values.shape[1], kept.right - values.shape[2], kept.bottom, kept.right)
        shared = given.intersection(region)
        rows, cols = shared.relative_to(kept).slices()
        weighted = values[(slice(None), *shared.relative_to(given).slices())]
        weighted = weighted * self.weights[rows, None] * self.weights[None, cols]
        total[(slice(None), *shared.relative_to(region).slices())] += weighted
