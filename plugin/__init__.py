"""The part of MetaEarth that runs inside QGIS."""
