"""What the backend sees in a raster, before any job."""

from __future__ import annotations

import numpy as np

from backend.models.bundle import ModelConfig, list_bundles
from backend.protocol import RasterInfo
from backend.raster.grid import pixel_sides_m
from backend.raster.source import RasterSource


def inspect_raster(path: str, source_resolution: float | None) -> RasterInfo:
    """The description of a raster; raises what a job on it would raise."""
    with RasterSource(path, None, source_resolution) as source:
        stretch, size = source.stretch(), source.grid.pixel_size_m
        sides = pixel_sides_m(source.grid)
        low, high = source.in_unit(np.array([stretch.low, stretch.high]).T[:, :, None])[:, :, 0].T.tolist()
        fitting = []
        for bundle in list_bundles():
            config = bundle.config
            if isinstance(config, ModelConfig) and bundle.has_weights:
                finest, coarsest = config.ground_resolution_m
                if finest <= size / config.network.scale <= coarsest:
                    fitting.append(config.id)
        return RasterInfo(
            path=path,
            driver=source.driver,
            grid=source.grid.info(),
            pixel_width_m=sides[0],
            pixel_height_m=sides[1],
            dtype=source.dtype.name,
            bands=source.count,
            shown_bands=source.bands,
            nodata=None if source.nodata is None else str(source.nodata),
            mask="alpha or mask band" if source.needs_alpha else "none" if source.nodata is None else "nodata value",
            stretch_low=low,
            stretch_high=high,
            models=fitting,
        )
