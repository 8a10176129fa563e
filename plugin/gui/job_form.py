"""What a user can say about a job: the parameters of the algorithm, with the comfort of a panel."""

from __future__ import annotations

from typing import Any, Collection, Dict, List, Optional

from qgis.core import (
    QgsMapLayer,
    QgsMapLayerProxyModel,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsRasterLayer,
    QgsRectangle,
)
from qgis.gui import (
    QgsCheckableComboBox,
    QgsCollapsibleGroupBox,
    QgsDoubleSpinBox,
    QgsExtentWidget,
    QgsFileWidget,
    QgsMapCanvas,
    QgsMapLayerComboBox,
    QgsSpinBox,
)
from qgis.PyQt import sip
from qgis.PyQt.QtCore import QSignalBlocker, pyqtSignal
from qgis.PyQt.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QLabel,
    QVBoxLayout,
    QWidget,
)

from ...backend.protocol import CASCADE, DEFAULT_MODEL, JOB_FIELDS, ModelInfo
from ..core.extents import extent_text, size_text_km
from ..core.layers import ground_pixel_size_m, own_pixel_size, shown_bands
from ..core.output_names import suggested_output, usual_folder, whole_path
from ..core.settings import from_options
from ..core.target import MAX_STAGES, as_chain, sizes_to, stage_sizes, stages_to
from ..core.translate import tr
from .parameter_form import ParameterForm
from .rows import ModelRow, SeedRow, add_row, side_by_side

ADVANCED = [field.parameter for field in JOB_FIELDS if field.advanced]
SNAPSHOT_FIELD = "SOURCE_RESOLUTION"
OF_ONE_LAYER = (SNAPSHOT_FIELD, "STRETCH", "JOB_DIR")
"""Advanced settings that fit one layer and one result only."""


class JobForm(QWidget):
    """The form; ``changed`` tells that `parameters` would give something else."""

    changed = pyqtSignal()
    card_wanted = pyqtSignal(str)

    def __init__(self, algorithm: QgsProcessingAlgorithm, canvas: QgsMapCanvas, parent: QWidget) -> None:
        super().__init__(parent)
        self.canvas, self._wants_stages = canvas, True
        self._followed: Optional[QgsMapLayer] = None
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        self._build_source(layout)
        self._build_target(layout)
        self._build_model(layout)
        self._build_seed(layout)
        self._build_advanced(layout, algorithm)
        self._build_output(layout)
        self._layer_changed(self.layer())

    def _build_source(self, layout: QFormLayout) -> None:
        self.layer_box = QgsMapLayerComboBox(self)
        self.layer_box.setFilters(QgsMapLayerProxyModel.Filter.RasterLayer)
        self.layer_box.layerChanged.connect(self._layer_changed)
        add_row(layout, tr("Source layer"), self.layer_box, tr("The raster to make finer."))
        self.extent_box = QgsExtentWidget(self, QgsExtentWidget.WidgetStyle.CondensedStyle)
        self.extent_box.setNullValueAllowed(True, tr("Whole layer"))
        self.extent_box.setMapCanvas(self.canvas)
        self.extent_box.extentChanged.connect(self._extent_changed)
        add_row(layout, tr("Extent"), self.extent_box,
                tr("The part to make finer: typed, from a layer or the map, or drawn. Empty: the whole layer."))
        self.extent_label = QLabel(self)
        self.extent_label.setWordWrap(True)
        layout.addRow("", self.extent_label)

    def _build_target(self, layout: QFormLayout) -> None:
        self.resolution_box = QgsDoubleSpinBox(self)
        self.resolution_box.setDecimals(3)
        self.resolution_box.setRange(0.001, 100000)
        self.resolution_box.setSuffix(tr(" m/px"))
        self.resolution_box.setShowClearButton(False)
        self.resolution_box.setKeyboardTracking(False)
        self.resolution_box.valueChanged.connect(self._resolution_typed)
        self.stages_box = QgsSpinBox(self)
        self.stages_box.setRange(1, MAX_STAGES)
        self.stages_box.setShowClearButton(False)
        self.stages_box.valueChanged.connect(self._stages_typed)
        self.stages_box.setAccessibleName(tr("Stages"))
        row = side_by_side(self, self.resolution_box, QLabel(tr("or stages"), self), self.stages_box)
        add_row(layout, tr("Target"), row, tr("How fine the result is to be. Every stage divides the pixel size by "
                                              "four."))
        self.resolution_box.setAccessibleName(tr("Target resolution"))
        self.chain_label = QLabel(self)
        layout.addRow("", self.chain_label)

    def _build_model(self, layout: QFormLayout) -> None:
        self.model_row = ModelRow(CASCADE, DEFAULT_MODEL, self)
        self.model_row.changed.connect(self._emit)
        self.model_row.card_wanted.connect(self.card_wanted)
        add_row(layout, tr("Model"), self.model_row, tr("The network that invents the detail."))

    def _build_seed(self, layout: QFormLayout) -> None:
        self.seed_row = SeedRow(self)
        self.seed_row.changed.connect(self._emit)
        self.seed_box, self.roll, self.next_seed = self.seed_row.box, self.seed_row.roll, self.seed_row.next
        add_row(layout, tr("Seed"), self.seed_row,
                tr("The same seed gives the same pixels; another seed, another plausible detail."))

    def _build_advanced(self, layout: QFormLayout, algorithm: QgsProcessingAlgorithm) -> None:
        self.advanced_box = QgsCollapsibleGroupBox(tr("Advanced"), self)
        self.advanced_box.setCollapsed(True)
        inside = QVBoxLayout(self.advanced_box)
        self.bands_box = QgsCheckableComboBox(self)
        self.bands_box.setDefaultText(tr("as the layer is shown"))
        self.bands_box.setToolTip(tr("One band, or three: red, green and blue as the layer shows them, or else in the "
                                     "order of their numbers."))
        self.bands_box.checkedItemsChanged.connect(self._emit)
        bands = QFormLayout()
        add_row(bands, tr("Bands"), self.bands_box, self.bands_box.toolTip())
        inside.addLayout(bands)
        self.advanced = ParameterForm(algorithm, ADVANCED, self.canvas, self.advanced_box)
        self.advanced.changed.connect(self._emit)
        inside.addWidget(self.advanced)
        layout.addRow(self.advanced_box)

    def _build_output(self, layout: QFormLayout) -> None:
        self.output_box = QgsFileWidget(self)
        self.output_box.setStorageMode(QgsFileWidget.StorageMode.SaveFile)
        self.output_box.setFilter(tr("GeoTIFF (*.tif *.tiff)"))
        self.output_box.setConfirmOverwrite(False)
        self.output_box.fileChanged.connect(self._emit)
        self.temporary_box = QCheckBox(tr("temporary"), self)
        self.temporary_box.setToolTip(tr("A file that is deleted when QGIS is closed."))
        self.temporary_box.toggled.connect(self.output_box.setDisabled)
        self.temporary_box.toggled.connect(self._emit)
        add_row(layout, tr("Result"), self.output_box,
                tr("GeoTIFF of the last stage; earlier stages go beside it. Empty: a new name beside the project or "
                   "the source."))
        self.load_box = QComboBox(self)
        self.load_box.addItem(tr("all stages"), False)
        self.load_box.addItem(tr("the last stage"), True)
        add_row(layout, tr("Load"), side_by_side(self, self.load_box, self.temporary_box),
                tr("Which results become layers."))
        self.load_box.setAccessibleName(tr("Load"))

    def layer(self) -> Optional[QgsRasterLayer]:
        """The source."""
        return self.layer_box.currentLayer()

    def model(self) -> str:
        """The model's id."""
        return self.model_row.model()

    def extent(self) -> Optional[QgsRectangle]:
        """The extent in the layer's CRS; None for the whole layer."""
        return self.extent_box.outputExtent() if self.extent_box.isValid() else None

    def last_only(self) -> bool:
        """Whether earlier stages stay files only."""
        return bool(self.load_box.currentData())

    def parameters(self) -> Dict[str, Any]:
        """The algorithm's parameters without OUTPUT, those of the options page among them."""
        return {**from_options(), **self.own_parameters()}

    def own_parameters(self) -> Dict[str, Any]:
        """What this form says; what is as by default is left out."""
        layer = self.layer()
        found: Dict[str, Any] = {"INPUT": layer.id() if layer else ""}
        if layer and self.extent() is not None:
            found["EXTENT"] = extent_text(self.extent(), layer.crs())
        if self._wants_stages:
            found["STAGES"] = self.stages_box.value()
        else:
            found["RESOLUTION"] = self.resolution_box.value()
        found.update(MODEL=self.model(), SEED=self.seed_box.value(), **self.advanced.values())
        if self.bands():
            found["BANDS"] = self.bands()
        return found

    def bands(self) -> List[int]:
        """The chosen bands, none for those that the layer shows; the shown ones in their order."""
        chosen = [int(number) for number in self.bands_box.checkedItemsData()]
        shown = shown_bands(self.layer()) if chosen and self.layer() else None
        return shown if shown and sorted(shown) == sorted(chosen) else chosen

    def output_path(self, taken: Collection[str] = ()) -> str:
        """The result's file: as typed, or a name that is free and not ``taken``."""
        typed, layer = self.output_box.filePath().strip(), self.layer()
        if typed and not self.temporary_box.isChecked():
            return whole_path(typed if typed.lower().endswith((".tif", ".tiff")) else typed + ".tif", layer)
        folder = usual_folder(layer)
        if folder is None or self.temporary_box.isChecked():
            return QgsProcessing.TEMPORARY_OUTPUT
        return suggested_output(folder, layer.name(), self.resolution_box.value(), self.seed_box.value(), self.stages(),
                                taken)

    def stages(self) -> int:
        """Stages that reach the target."""
        return self.stages_box.value()

    def show_models(self, models: List[ModelInfo]) -> None:
        """Offer the models that make rasters finer."""
        self.model_row.show_models(models)

    def show_values(self, values: Dict[str, Any]) -> None:
        """Show the parameters of another session; the layer, what fits it alone, and the extent are of this one."""
        self.seed_box.setValue(int(values.get("SEED", self.seed_box.value())))
        if values.get("MODEL"):
            self.model_row.choose(values["MODEL"])
        self.advanced.set_values(values)
        self._wants_stages = "RESOLUTION" not in values
        with QSignalBlocker(self.resolution_box), QSignalBlocker(self.stages_box):
            self.resolution_box.setValue(float(values.get("RESOLUTION", self.resolution_box.value())))
            self.stages_box.setValue(int(values.get("STAGES", self.stages_box.value())))
        self._emit()

    def show_resolutions(self, sizes: List[float]) -> None:
        """Show the sizes that the backend has planned, which are exact."""
        self.chain_label.setText(as_chain(sizes))

    def _layer_changed(self, layer: Optional[QgsMapLayer]) -> None:
        if self._followed and not sip.isdeleted(self._followed):
            self._followed.crsChanged.disconnect(self._layer_mended)
            self._followed.dataSourceChanged.disconnect(self._layer_mended)
        if layer is not self._followed:
            self._forget_last_layer()
        self._followed = layer
        if layer is not None:
            layer.crsChanged.connect(self._layer_mended)
            layer.dataSourceChanged.connect(self._layer_mended)
        self._show_layer(layer)

    def _forget_last_layer(self) -> None:
        values = self.advanced.values()
        if any(name in values for name in OF_ONE_LAYER):
            self.advanced.set_values({name: value for name, value in values.items() if name not in OF_ONE_LAYER})

    def _layer_mended(self) -> None:
        self._show_layer(self.layer())

    def _show_layer(self, layer: Optional[QgsMapLayer]) -> None:
        with QSignalBlocker(self.bands_box), QSignalBlocker(self.extent_box):
            self.bands_box.clear()
            if layer is not None:
                for band in range(1, layer.bandCount() + 1):
                    self.bands_box.addItem(layer.bandName(band), band)
                self.extent_box.setOutputCrs(layer.crs())
                self.extent_box.setOriginalExtent(layer.extent(), layer.crs())
                settings = self.canvas.mapSettings()
                self.extent_box.setCurrentExtent(settings.visibleExtent(), settings.destinationCrs())
                if own_pixel_size(layer) is None:
                    self.advanced_box.setCollapsed(False)
            self.extent_box.clear()
        self._extent_changed()

    def pixel_size_m(self) -> Optional[float]:
        """Metres per pixel of the source, as far as that is known here."""
        layer = self.layer()
        return (ground_pixel_size_m(layer) if layer else None) or self.advanced.values().get(SNAPSHOT_FIELD)

    def _show_target(self) -> None:
        """Each of the two ways to say the target, from the one that was typed last."""
        native = self.pixel_size_m()
        if not native:
            self.chain_label.setText(tr("The source resolution is not known: give it under Advanced."))
            return
        with QSignalBlocker(self.resolution_box), QSignalBlocker(self.stages_box):
            if self._wants_stages:
                sizes = stage_sizes(native, self.stages_box.value())
                self.resolution_box.setValue(sizes[-1])
            else:
                sizes = sizes_to(native, self.resolution_box.value())
                self.stages_box.setValue(stages_to(native, self.resolution_box.value()))
        self.show_resolutions(sizes)

    def _stages_typed(self) -> None:
        self._wants_stages = True
        self._emit()

    def _resolution_typed(self) -> None:
        self._wants_stages = False
        self._emit()

    def _extent_changed(self) -> None:
        layer = self.layer()
        extent = self.extent() or (layer.extent() if layer else None)
        self.extent_label.setText(size_text_km(extent, layer.crs()) if layer and extent else "")
        self._emit()

    def _show_place(self) -> None:
        self.output_box.lineEdit().setPlaceholderText(
            tr("beside the project or the source") if usual_folder(self.layer()) or not self.layer()
            else tr("temporary: name a file, or save the project"))

    def _emit(self) -> None:
        self._show_target()
        self._show_place()
        self.changed.emit()
