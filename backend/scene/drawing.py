"""Maps drawn from vector files: GeoJSON features with OpenStreetMap's tags become a raster of classes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.warp import transform_geom

from backend.errors import InputError
from backend.raster.grid import Grid
from backend.scene.modality import MapClass, Modality

VECTORS = (".geojson", ".json")
LONGITUDE_LATITUDE = "EPSG:4326"
"""The coordinates of GeoJSON (RFC 7946)."""


def read_features(path: Path) -> list[dict[str, Any]]:
    """The features of a GeoJSON file; `InputError` if it is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        crs = str(((values.get("crs") or {}).get("properties") or {}).get("name") or LONGITUDE_LATITUDE)
        found = [feature for feature in values["features"] if _shows_something(feature.get("geometry"))]
        return [{**feature, "geometry": _in_degrees(feature["geometry"], crs)} for feature in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RasterioError, CPLE_BaseError) as error:
        raise InputError(f"{path} cannot be read as GeoJSON features: {error}.") from error


def _shows_something(geometry: dict[str, Any] | None) -> bool:
    if not geometry:
        return False
    return bool(geometry.get("coordinates")) or any(map(_shows_something, geometry.get("geometries") or []))


def _in_degrees(geometry: dict[str, Any], crs: str) -> dict[str, Any]:
    """A geometry of a file that says of itself, as QGIS writes them, that it is in another system."""
    if crs == LONGITUDE_LATITUDE or crs.endswith("CRS84"):
        return geometry
    return dict(transform_geom(CRS.from_user_input(crs), LONGITUDE_LATITUDE, geometry))


def belongs(properties: dict[str, Any], found: MapClass) -> bool:
    """Whether a feature has one of the class's tags; osm2geojson and QuickOSM put tags of their own below ``tags``."""
    tags = {**properties, **(properties.get("tags") or {})} if isinstance(properties.get("tags"), dict) else properties
    for tag in found.tags:
        key, _, value = tag.partition("=")
        if tags.get(key) not in (None, "", "no") and value in ("", str(tags[key])):
            return True
    return False


def draw_map(features: list[dict[str, Any]], modality: Modality, grid: Grid) -> NDArray[np.uint8]:
    """Class numbers of every pixel of a grid, (rows, cols): later classes over earlier ones, the first where none is.

    `InputError` if the grid has no coordinate reference system.
    """
    if grid.crs is None:
        raise InputError("A map can be drawn only over a raster that has a coordinate reference system.")
    drawn = np.full((grid.height, grid.width), modality.classes[0].value, np.uint8)
    for found in modality.classes:
        shapes = [f["geometry"] for f in features if belongs(f.get("properties") or {}, found)]
        for geometry in shapes:
            _draw(geometry, found, grid, drawn)
    return drawn


def _draw(geometry: dict[str, Any], found: MapClass, grid: Grid, drawn: NDArray[np.uint8]) -> None:
    try:
        placed = transform_geom(LONGITUDE_LATITUDE, grid.crs, geometry)
        mask = rasterize([(placed, 1)], drawn.shape, transform=grid.transform, dtype="uint8")
    except (RasterioError, CPLE_BaseError, ValueError) as error:
        raise InputError(f"A feature of the map cannot be drawn: {error}. Are its coordinates degrees?") from error
    if "Line" in geometry["type"]:
        mask = _widened(mask, math.ceil((found.width_m / grid.pixel_size_m - 1) / 2))
    drawn[mask > 0] = found.value


def _widened(mask: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """The mask grown by ``by`` pixels on all sides."""
    if by <= 0:
        return mask
    padded = np.pad(mask, by)
    rows, cols = mask.shape
    steps = range(2 * by + 1)
    down = np.max([padded[k:k + rows] for k in steps], axis=0)
    return np.max([down[:, k:k + cols] for k in steps], axis=0)
