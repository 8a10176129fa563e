"""Rasters in and out: grids, sources, blocks, finished files."""
