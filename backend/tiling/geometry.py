"""Blocks and windows of a lattice: which window needs what, pure arithmetic on grids."""

from __future__ import annotations

from dataclasses import dataclass

from backend.raster.grid import Grid, Region
from backend.raster.pixels import reflected_region
from backend.tiling.lattice import Lattice


@dataclass(frozen=True)
class Block:
    """Part of a stage that is computed at one go: its place among the stage's blocks, and its pixels."""

    row: int
    col: int
    region: Region

    @property
    def name(self) -> str:
        """Row and column as they name the block's files."""
        return f"{self.row:04d}_{self.col:04d}"

    @property
    def givers(self) -> dict[tuple[int, int], str]:
        """Row and column of the blocks whose last windows reach into this one, and on which side of theirs."""
        row, col = self.row, self.col
        return {(row - 1, col - 1): "below", (row - 1, col): "below", (row, col - 1): "right"}


@dataclass(frozen=True)
class WindowGeometry:
    """Windows of a stage's lattice and the low-resolution crops that they read."""

    lattice: Lattice
    scale: int
    context: int

    def input_crop(self, row: int, col: int) -> Region:
        """Input pixels that window (row, col) reads; may lie partly outside the input's grid."""
        top, left = (self.lattice.origin(i) // self.scale - self.context for i in (row, col))
        side = self.lattice.window // self.scale + 2 * self.context
        return Region(top, left, top + side, left + side)

    def kept(self, row: int, col: int) -> Region:
        """Output pixels that window (row, col) contributes to."""
        (top, bottom), (left, right) = self.lattice.kept(row), self.lattice.kept(col)
        return Region(top, left, bottom, right)

    def windows(self, region: Region) -> list[tuple[int, int]]:
        """The windows that contribute to an output region, in lattice order."""
        return [
            (row, col)
            for row in self.lattice.indices(region.top, region.bottom)
            for col in self.lattice.indices(region.left, region.right)
        ]

    def count(self, region: Region) -> int:
        """How many windows contribute to an output region."""
        rows, cols = self.lattice.indices(region.top, region.bottom), self.lattice.indices(region.left, region.right)
        return len(rows) * len(cols)

    def input_region(self, region: Region, input_grid: Grid) -> Region:
        """The part of the input that an output region depends on."""
        rows, cols = self.lattice.indices(region.top, region.bottom), self.lattice.indices(region.left, region.right)
        first, last = self.input_crop(rows[0], cols[0]), self.input_crop(rows[-1], cols[-1])
        corners = [reflected_region(r, input_grid.region) for r in (first, last)]
        return Region(
            min(c.top for c in corners),
            min(c.left for c in corners),
            max(c.bottom for c in corners),
            max(c.right for c in corners),
        )

    def blocks(self, region: Region, side: int, part: Region | None = None) -> list[Block]:
        """The region in blocks of ``side`` x ``side`` windows, row by row; of those, what touches ``part`` if given.

        A block ends where the blending with the next window begins: [k side S - ramp, (k + 1) side S - ramp). Of its
        neighbours above and to the left it needs only the last ``ramp`` pixels of their windows.
        """
        step, first = self._block_step(side)
        part = part or region
        rows, cols = (
            range((start - first) // step, (stop - 1 - first) // step + 1)
            for start, stop in ((part.top, part.bottom), (part.left, part.right))
        )
        return [self.block(region, side, row, col) for row in rows for col in cols]

    def block(self, region: Region, side: int, row: int, col: int) -> Block:
        """One of the `blocks` of the region."""
        step, first = self._block_step(side)
        top, left = row * step + first, col * step + first
        return Block(row, col, Region(top, left, top + step, left + step).intersection(region))

    def _block_step(self, side: int) -> tuple[int, int]:
        """Pixels from one block to the next, and where block 0 begins."""
        return side * self.lattice.stride, self.lattice.offset - self.lattice.ramp
