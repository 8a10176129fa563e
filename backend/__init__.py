"""MetaEarth's geospatial backend. Imports nothing, so that QGIS can read ``backend.protocol``."""
