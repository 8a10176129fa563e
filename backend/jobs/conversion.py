"""Plans as plain JSON values and back."""

from __future__ import annotations

import cattrs
from affine import Affine
from rasterio.crs import CRS


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Affine, lambda a: list(a)[:6])
    converter.register_structure_hook(Affine, lambda v, _: Affine(*v))
    converter.register_unstructure_hook(CRS, lambda crs: crs.to_wkt())
    converter.register_structure_hook(CRS, lambda v, _: CRS.from_wkt(v))
    return converter


CONVERTER = _converter()
