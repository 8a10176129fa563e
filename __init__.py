"""MetaEarth for QGIS."""


def classFactory(iface):
    """The plugin object; ``iface`` is None under qgis_process."""
    from .plugin.plugin import MetaEarthPlugin

    return MetaEarthPlugin(iface)
