"""What a user can say about a scene: what is known of it, and what is to be made."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from qgis.core import (
    QgsMapLayer,
    QgsMapLayerProxyModel,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsRasterLayer,
    QgsRectangle,
)
from qgis.gui import (
    QgsCollapsibleGroupBox,
    QgsDoubleSpinBox,
    QgsExtentWidget,
    QgsFileWidget,
    QgsMapCanvas,
    QgsMapLayerComboBox,
    QgsSpinBox,
)
from qgis.PyQt.QtCore import QSignalBlocker, pyqtSignal
from qgis.PyQt.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QGroupBox,
    QLabel,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from ...backend.protocol import DEFAULT_SCENE_MODEL, GENERATE_PAIR, MODALITY_TITLES, SCENE, TRANSLATE, ModelInfo
from ..core.extents import extent_text, size_text_km
from ..core.output_names import whole_path
from ..core.scenes import fitting_modality
from ..core.settings import from_options
from ..core.translate import tr
from .parameter_form import ParameterForm
from .rows import ModelRow, SeedRow, add_row, side_by_side

ADVANCED = [field.parameter for field in TRANSLATE.fields if field.advanced]
OF_ONE_LAYER = ("BAND_CHOICE", "OTHER_INPUTS", "SOURCE_RESOLUTION", "RESOLUTION", "JOB_DIR")
"""Advanced settings that fit the layers and results of one scene only."""
OF_NOTHING = [field.parameter for field in GENERATE_PAIR.fields]
SIZES = {field.name: field for field in GENERATE_PAIR.fields if field.name in ("width", "height", "metres_per_pixel")}
METRES_PER_PIXEL = 10.0
COLUMNS = 2


class SceneForm(QWidget):
    """The form; ``changed`` tells that its parameters would be others."""

    changed = pyqtSignal()
    card_wanted = pyqtSignal(str)

    def __init__(self, algorithm: QgsProcessingAlgorithm, canvas: QgsMapCanvas, parent: QWidget) -> None:
        super().__init__(parent)
        self.canvas = canvas
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._build_known())
        layout.addWidget(self._build_targets())
        rows = QFormLayout()
        rows.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        layout.addLayout(rows)
        self._build_model(rows)
        self._build_output(rows)
        layout.addWidget(self._build_advanced(algorithm))
        layout.addWidget(self._build_sizes())
        self._layers_changed()

    def _build_known(self) -> QGroupBox:
        box = QGroupBox(tr("What is known"), self)
        rows = QFormLayout(box)
        self.layer_boxes: Dict[str, QgsMapLayerComboBox] = {}
        for name, title in MODALITY_TITLES.items():
            layers = QgsMapLayerComboBox(box)
            layers.setFilters(QgsMapLayerProxyModel.Filter.RasterLayer)
            layers.setAllowEmptyLayer(True, tr("not known"))
            layers.setCurrentIndex(0)  # the empty one; setLayer(None) would show nothing at all
            layers.setMinimumContentsLength(8)
            layers.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            layers.layerChanged.connect(self._layers_changed)
            add_row(rows, tr(title), layers, tr("A raster layer of the scene in this modality: {}. Empty: not known.")
                    .format(tr(title)))
            self.layer_boxes[name] = layers
        self.extent_box = QgsExtentWidget(self, QgsExtentWidget.WidgetStyle.CondensedStyle)
        self.extent_box.setNullValueAllowed(True, tr("Whole layer"))
        self.extent_box.setMapCanvas(self.canvas)
        self.extent_box.extentChanged.connect(self._extent_changed)
        add_row(rows, tr("Extent"), self.extent_box,
                tr("The part to translate: typed, from a layer or the map, or drawn. Empty: the whole first layer."))
        self.extent_label = QLabel(box)
        self.extent_label.setWordWrap(True)
        rows.addRow("", self.extent_label)
        return box

    def _build_targets(self) -> QGroupBox:
        box = QGroupBox(tr("What to make"), self)
        grid = QGridLayout(box)
        self.target_boxes: Dict[str, QCheckBox] = {}
        for number, (name, title) in enumerate(MODALITY_TITLES.items()):
            target = QCheckBox(tr(title), box)
            target.setToolTip(tr("Make this modality of the scene. One that is known too is completed where the layer "
                                 "has holes."))
            target.setChecked(name == "nir")
            target.toggled.connect(self.changed)
            grid.addWidget(target, number // COLUMNS, number % COLUMNS)
            self.target_boxes[name] = target
        return box

    def _build_model(self, rows: QFormLayout) -> None:
        self.model_row = ModelRow(SCENE, DEFAULT_SCENE_MODEL, self)
        self.model_row.changed.connect(self.changed)
        self.model_row.card_wanted.connect(self.card_wanted)
        add_row(rows, tr("Model"), self.model_row, tr("The MetaEarth-MM network that invents what is not known."))
        self.seed_row = SeedRow(self)
        self.seed_row.changed.connect(self.changed)
        self.seed_box = self.seed_row.box
        add_row(rows, tr("Seed"), self.seed_row,
                tr("The same seed gives the same pixels; another seed, another plausible scene."))

    def _build_output(self, rows: QFormLayout) -> None:
        self.output_box = QgsFileWidget(self)
        self.output_box.setStorageMode(QgsFileWidget.StorageMode.GetDirectory)
        self.output_box.lineEdit().setPlaceholderText(tr("temporary folder"))
        self.output_box.fileChanged.connect(self.changed)
        add_row(rows, tr("Results"), self.output_box,
                tr("Folder for one GeoTIFF a modality. Empty: one that is deleted when QGIS is closed."))

    def _build_advanced(self, algorithm: QgsProcessingAlgorithm) -> QgsCollapsibleGroupBox:
        self.advanced_box = QgsCollapsibleGroupBox(tr("Advanced"), self)
        self.advanced_box.setCollapsed(True)
        inside = QVBoxLayout(self.advanced_box)
        self.advanced = ParameterForm(algorithm, ADVANCED, self.canvas, self.advanced_box)
        self.advanced.changed.connect(self.changed)
        inside.addWidget(self.advanced)
        return self.advanced_box

    def _build_sizes(self) -> QgsCollapsibleGroupBox:
        """Where nothing is known, how large the scene is; it lies at the middle of the map."""
        self.sizes_box = QgsCollapsibleGroupBox(tr("Size of a scene from nothing"), self)
        self.sizes_box.setCollapsed(True)
        rows = QFormLayout(self.sizes_box)
        self.width_box, self.height_box = (self._pixels_box(name) for name in ("width", "height"))
        row = side_by_side(self.sizes_box, self.width_box, QLabel("×", self.sizes_box), self.height_box)
        row.layout().setStretch(2, 1)
        add_row(rows, tr("Pixels"), row, tr("Width and height of the scene. Its middle is that of the map."))
        self.gsd_box = QgsDoubleSpinBox(self.sizes_box)
        self.gsd_box.setDecimals(3)
        self.gsd_box.setRange(SIZES["metres_per_pixel"].minimum, SIZES["metres_per_pixel"].maximum)
        self.gsd_box.setValue(METRES_PER_PIXEL)
        self.gsd_box.setSuffix(tr(" m/px"))
        self.gsd_box.setShowClearButton(False)
        self.gsd_box.valueChanged.connect(self.changed)
        add_row(rows, tr("Resolution"), self.gsd_box, tr(SIZES["metres_per_pixel"].help))
        return self.sizes_box

    def _pixels_box(self, name: str) -> QgsSpinBox:
        field, box = SIZES[name], QgsSpinBox(self.sizes_box)
        box.setRange(int(field.minimum), int(field.maximum))
        box.setValue(field.default)
        box.setShowClearButton(False)
        box.setSuffix(tr(" px"))
        box.setAccessibleName(tr(field.label))
        box.valueChanged.connect(self.changed)
        return box

    def layers(self) -> Dict[str, QgsRasterLayer]:
        """What is known, by modality."""
        found = {name: box.currentLayer() for name, box in self.layer_boxes.items()}
        return {name: layer for name, layer in found.items() if layer is not None}

    def lead(self) -> Optional[QgsRasterLayer]:
        """The layer on whose grid the results lie: the first that is known."""
        return next(iter(self.layers().values()), None)

    def targets(self) -> List[str]:
        """The modalities to make."""
        return [name for name, box in self.target_boxes.items() if box.isChecked()]

    def extent(self) -> Optional[QgsRectangle]:
        """The extent in the lead's CRS; None for the whole layer."""
        return self.extent_box.outputExtent() if self.extent_box.isValid() else None

    def output_folder(self) -> str:
        """Where the results go."""
        typed = self.output_box.filePath().strip()
        return whole_path(typed, self.lead()) if typed else QgsProcessing.TEMPORARY_OUTPUT

    def seed(self) -> int:
        """The seed."""
        return self.seed_box.value()

    def translate_parameters(self) -> Dict[str, Any]:
        """The parameters of a translation, without OUTPUT."""
        found = {**from_options(), **{name.upper(): layer.id() for name, layer in self.layers().items()}}
        if self.extent() is not None:
            found["EXTENT"] = extent_text(self.extent(), self.extent_box.outputCrs())
        return {**found, **self._common()}

    def generate_parameters(self) -> Dict[str, Any]:
        """The parameters of a scene from nothing at the middle of the map, without OUTPUT."""
        crs, centre = self.canvas.mapSettings().destinationCrs(), self.canvas.center()
        found = {**from_options(), **self._sizes()}
        if crs.isValid():
            found["CRS"] = crs.authid() or crs.toWkt()
            place = f"{centre.x():.15g},{centre.y():.15g}"
            found["CENTRE"] = f"{place} [{crs.authid()}]" if crs.authid() else place
        return {name: value for name, value in {**found, **self._common()}.items() if name in OF_NOTHING}

    def own_values(self) -> Dict[str, Any]:
        """What another session should show too: nothing that belongs to one layer, where it would act unseen."""
        return {name: value for name, value in {**self._sizes(), **self._common()}.items() if name not in OF_ONE_LAYER}

    def show_values(self, values: Dict[str, Any]) -> None:
        """Show the values of another session; layers and extent are of this one."""
        for name, box in self.target_boxes.items():
            box.setChecked(name in values.get("TARGETS", self.targets()))
        if values.get("MODEL"):
            self.model_row.choose(values["MODEL"])
        self.seed_box.setValue(int(values.get("SEED", self.seed())))
        self.width_box.setValue(int(values.get("WIDTH", self.width_box.value())))
        self.height_box.setValue(int(values.get("HEIGHT", self.height_box.value())))
        self.gsd_box.setValue(float(values.get("METRES_PER_PIXEL", self.gsd_box.value())))
        self.advanced.set_values(values)
        self.changed.emit()

    def show_models(self, models: List[ModelInfo]) -> None:
        """Offer the models that know modalities."""
        self.model_row.show_models(models)

    def show_layer(self, layer: QgsMapLayer) -> None:
        """Put a layer where it fits, unless the user has said already what is known."""
        name, chosen = fitting_modality(layer), self.layers()
        if name and not set(chosen) - {name}:
            self.layer_boxes[name].setLayer(layer)

    def _sizes(self) -> Dict[str, Any]:
        return {"WIDTH": self.width_box.value(), "HEIGHT": self.height_box.value(),
                "METRES_PER_PIXEL": self.gsd_box.value()}

    def _common(self) -> Dict[str, Any]:
        return {"TARGETS": self.targets(), "MODEL": self.model_row.model(), "SEED": self.seed(),
                **self.advanced.values()}

    def _layers_changed(self) -> None:
        """An extent belongs to the first layer."""
        lead = self.lead()
        self.extent_box.setEnabled(lead is not None)
        with QSignalBlocker(self.extent_box):
            if lead is None:
                self.extent_box.clear()
            else:
                settings, kept = self.canvas.mapSettings(), self.extent_box.isValid()
                self.extent_box.setOutputCrs(lead.crs())
                self.extent_box.setOriginalExtent(lead.extent(), lead.crs())
                self.extent_box.setCurrentExtent(settings.visibleExtent(), settings.destinationCrs())
                if not kept:
                    self.extent_box.clear()
                    for edit in self.extent_box.findChildren(QLineEdit):
                        edit.deselect()
        self._extent_changed()

    def _extent_changed(self) -> None:
        lead = self.lead()
        extent = self.extent() or (lead.extent() if lead else None)
        self.extent_label.setText(size_text_km(extent, lead.crs()) if lead and extent else "")
        self.extent_label.setVisible(bool(self.extent_label.text()))
        self.changed.emit()
