"""One block of a stage: its windows blended by the partition of unity, in lattice order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from backend.devices import use_threads
from backend.raster.grid import Region
from backend.raster.pixels import Pixels
from backend.tiling.geometry import Block, WindowGeometry

Values = NDArray[np.float32]
Place = tuple[int, int]
"""Row and column of a window in its stage's lattice."""
Edges = dict[Place, Values]
"""(bands, rows, cols), as they are blended, of what windows give to the blocks below and to the right."""


class WindowMaker(Protocol):
    """Makes the windows of one stage, some at a time. Each is a function of its place and input alone."""

    @property
    def bands(self) -> int:
        """Bands of the windows, in which they are blended."""

    @property
    def batch(self) -> int:
        """How many windows are given to `make` at once."""

    def valid(self, region: Region) -> NDArray[np.bool_]:
        """Which pixels of a region of the result are valid; called in the reading thread."""

    def input(self, row: int, col: int) -> Any:
        """What a window needs, None if there is nothing to make it of; called in the reading thread."""

    def make(self, inputs: list[Any]) -> Values:
        """The windows of some inputs, none of which is None: (n, bands, window, window)."""

    def finish(self, blended: Values, region: Region) -> Values:
        """The pixels of a block, which is ``region`` of the result, in the result's own bands and units."""


@dataclass(frozen=True)
class RenderedBlock:
    """A block's pixels, and what its last windows give to the neighbouring blocks."""

    pixels: Pixels
    below: Edges
    right: Edges


class BlockRenderer:
    """Renders blocks of one stage.

    While the network works on some windows, the input of the next is made in a thread of its own.
    """

    def __init__(self, maker: WindowMaker, geometry: WindowGeometry, after_window: Callable[[], None]) -> None:
        self.maker, self.geometry, self.after_window = maker, geometry, after_window
        self.weights = self.geometry.lattice.weights()
        # its own threads inside torch would fight with the network's
        self.reader = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self.reader.submit(int).result()
        use_threads()  # or threads that begin later would get one, too

    def close(self) -> None:
        """End the reading thread."""
        self.reader.shutdown(cancel_futures=True)

    def render(self, block: Block, edges: Mapping[Place, Values]) -> RenderedBlock:
        """A block's pixels. Windows without a valid pixel are skipped, others see their holes filled.

        ``edges`` are what neighbours have left; windows of neighbours that are not in it are computed again.
        """
        region, lattice = block.region, self.geometry.lattice
        total = np.zeros((self.maker.bands, region.height, region.width), np.float32)
        windows = self.geometry.windows(region)
        valid = self.reader.submit(self.maker.valid, region)
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
        return RenderedBlock(Pixels(self.maker.finish(total, region), valid.result()), below, right)

    def _kept_values(self, windows: list[Place]) -> Iterator[Values]:
        """What each window contributes, (bands, kept, kept), in the order given; zeros where its input is empty."""
        margin, kept = self.geometry.lattice.margin, self.geometry.lattice.stride + self.geometry.lattice.ramp
        for group in self._inputs(windows):
            there = [k for k, given in enumerate(group) if given is not None]
            values = np.zeros((len(group), self.maker.bands, kept, kept), np.float32)
            if there:
                made = self.maker.make([group[k] for k in there])
                values[there] = made[:, :, margin:margin + kept, margin:margin + kept]
            for one in values:
                self.after_window()
                yield one

    def _inputs(self, windows: list[Place]) -> Iterator[list[Any]]:
        """What each window needs, a batch at a time; the next batch is made ahead."""
        waiting = iter(windows)
        ahead = [self.reader.submit(self.maker.input, *w) for w in itertools.islice(waiting, self.maker.batch)]
        while ahead:
            now = [future.result() for future in ahead]
            ahead = [self.reader.submit(self.maker.input, *w) for w in itertools.islice(waiting, self.maker.batch)]
            yield now

    def _add(self, total: Values, region: Region, values: Values, row: int, col: int) -> None:
        """Add one window's kept pixels, or their last rows or columns, weighted, to ``total`` (of ``region``)."""
        kept = self.geometry.kept(row, col)
        given = Region(kept.bottom - values.shape[1], kept.right - values.shape[2], kept.bottom, kept.right)
        shared = given.intersection(region)
        rows, cols = shared.relative_to(kept).slices()
        weighted = values[(slice(None), *shared.relative_to(given).slices())]
        weighted = weighted * self.weights[rows, None] * self.weights[None, cols]
        total[(slice(None), *shared.relative_to(region).slices())] += weighted
