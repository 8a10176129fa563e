"""The Processing provider `metaearth`."""

from __future__ import annotations

from typing import List

from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from ...backend.protocol import FLYTHROUGH, VERBS
from ..core.translate import tr
from ..icons import ICON_PATH
from .fly_through import FlyThrough
from .generate_higher_resolution import GenerateHigherResolution
from .inspect_raster import InspectRaster
from .resume_job import ResumeJob
from .verb_algorithm import VerbAlgorithm

PROVIDER_ID = "metaearth"


class MetaEarthProvider(QgsProcessingProvider):
    """MetaEarth's algorithms in the toolbox."""

    def id(self) -> str:
        """The provider's id, the same in every language."""
        return PROVIDER_ID

    def name(self) -> str:
        """The provider's name in the toolbox."""
        return "MetaEarth"

    def longName(self) -> str:
        """The name with what it is for."""
        return tr("MetaEarth: synthetic higher resolution")

    def icon(self) -> QIcon:
        """The plugin's icon."""
        return QIcon(ICON_PATH)

    def supportedOutputRasterLayerExtensions(self) -> List[str]:
        """GeoTIFF only, since the result is one."""
        return ["tif", "tiff"]

    def loadAlgorithms(self) -> None:
        """Make all algorithms anew; QGIS asks for it after every refresh."""
        for algorithm in (GenerateHigherResolution, ResumeJob, InspectRaster):
            self.addAlgorithm(algorithm())
        for verb in VERBS.values():
            self.addAlgorithm((FlyThrough if verb is FLYTHROUGH else VerbAlgorithm)(verb))
