"""The camera: how high it flies and how fine it sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

from backend.errors import PlanError


@dataclass(frozen=True)
class Camera:
    """A camera that looks straight down on flat ground: an image of ``width`` x ``height`` pixels.

    ``field_of_view`` is the angle across the width, in degrees. All its pixels see squares of equal size.
    """

    width: int = 640
    height: int = 480
    field_of_view: float = 60.0

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.height > 0 and 0 < self.field_of_view < 180):
            raise PlanError(
                f"A camera of {self.width} x {self.height} pixels and {self.field_of_view:g} degrees sees nothing: "
                "give at least one pixel, and a field of view between 0 and 180 degrees."
            )

    @property
    def _tangent(self) -> float:
        return 2 * math.tan(math.radians(self.field_of_view) / 2)

    def gsd_m(self, altitude_m: float) -> float:
        """Ground sample distance, metres per pixel, from an altitude above the ground."""
        return altitude_m * self._tangent / self.width

    def altitude_m(self, gsd_m: float) -> float:
        """The altitude above the ground from which a pixel is ``gsd_m`` metres."""
        return gsd_m * self.width / self._tangent
