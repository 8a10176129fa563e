"""The panel's second tab in real QGIS widgets over the real backend and its tiny model."""

import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from qgis.core import (
    QgsApplication,
    QgsProcessingContext,
    QgsProcessingParameters,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
)
from qgis.PyQt.QtCore import QCoreApplication, QPoint, Qt, QTranslator
from qgis.PyQt.QtTest import QTest
from qgis.PyQt.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QGroupBox, QLabel, QScrollArea
from qgis_support import events_until, show, write_raster

CPU = {"DEVICE": "cpu", "PRECISION": "float32"}


@pytest.fixture
def tab(dock, layer):
    dock.tabs.setCurrentIndex(1)
    tab = dock.modalities
    tab.form.show_values({"MODEL": "tiny-mm", "SEED": 4, "TARGETS": ["nir"], "WIDTH": 64, "HEIGHT": 64, **CPU})
    dock.show_layer(layer)
    events_until(lambda: tab.run_box.run_button.isEnabled())
    return tab


def model(name, module, **values):
    info = module("backend.protocol").ModelInfo
    return info(name, name, "", **{"has_weights": True, "ground_resolution_m": [1, 2], "licence": "", **values})


def ended(tab):
    events_until(lambda: not tab.runs, 120)
    return tab.run_box.label.text()


def group(name):
    found = QgsProject.instance().layerTreeRoot().findGroup(name)
    return [node.layer() for node in found.findLayers()] if found else []


def click(button):
    """Click once the cost is known."""
    events_until(button.isEnabled)
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def long_job(tab, window, tmp_path):
    """Minutes of work for the tiny model."""
    layer = show(window, write_raster(tmp_path / "large.tif", 240), "large")
    tab.form.layer_boxes["rgb"].setLayer(layer)
    tab.form.output_box.setFilePath(str(tmp_path / "results"))
    tab.form.advanced.set_values({"STEPS": 900, **CPU})
    click(tab.run_box.run_button)
    events_until(lambda: "windows" in tab.run_box.label.text())


def test_the_layer_that_the_panel_is_opened_for_is_put_where_it_fits(dock, tab, window, tmp_path, layer):
    assert tab.form.layers() == {"rgb": layer} and tab.form.targets() == ["nir"]
    grey = show(window, write_raster(tmp_path / "grey.tif", 48, bands=1), "grey")
    dock.show_layer(grey)
    assert tab.form.layers() == {"rgb": layer}
    other = show(window, write_raster(tmp_path / "other.tif", 48), "other")
    dock.show_layer(other)
    assert tab.form.layers() == {"rgb": other}
    tab.form.layer_boxes["sar"].setLayer(grey)
    dock.show_layer(layer)
    assert tab.form.layers() == {"rgb": other, "sar": grey}


def test_a_layer_is_translated_into_a_group_of_aligned_layers(dock, tab, layer):
    added = []
    dock.results_added.connect(lambda layers, source: added.append((layers, source)))
    QTest.mouseClick(tab.form.target_boxes["osm"], Qt.MouseButton.LeftButton, pos=QPoint(8, 8))
    click(tab.run_box.run_button)
    assert ended(tab).startswith("Done: 2 layers in the group scene – modalities, seed 4.")
    made = group("scene – modalities, seed 4")
    assert [found.name() for found in made] == [
        "Near infrared, 8 bit, tiny-mm, seed 4 (synthetic)", "Map (OpenStreetMap), tiny-mm, seed 4 (synthetic)"]
    assert all(found.extent() == layer.extent() and found.width() == layer.width() for found in made)
    assert all("synthetic" in found.metadata().keywords()["metaearth"] for found in made)
    assert added == [(made[::-1], layer)] and dock.source() is layer
    assert tab.form.seed() == 4 and events_until(tab.run_box.run_button.isEnabled)


def test_what_several_samples_tell_lies_below_the_result(tab):
    tab.form.advanced.set_values({"SAMPLES": 2, **CPU})
    click(tab.run_box.run_button)
    assert ended(tab).startswith("Done: 3 layers")
    assert [Path(found.source()).name for found in group("scene – modalities, seed 4")] == [
        "nir.tif", "nir_mean.tif", "nir_std.tif"]


def test_the_tab_asks_for_what_the_toolbox_would(tab, layer):
    found = tab.form.translate_parameters()
    assert found == {"RGB": layer.id(), "TARGETS": ["nir"], "MODEL": "tiny-mm", "SEED": 4, **CPU}
    tab.form.extent_box.setOutputExtentFromUser(QgsRectangle(500000, 4499800, 500200, 4500000), layer.crs())
    assert tab.form.translate_parameters()["EXTENT"] == "500000,500200,4499800,4500000 [EPSG:32611]"
    assert tab.form.extent_label.text() == "0.2 km × 0.2 km"
    for made, verb in ((found, "translatemodality"), (tab.form.generate_parameters(), "generatepaired")):
        algorithm = QgsApplication.processingRegistry().algorithmById(f"metaearth:{verb}")
        assert set(made) <= {definition.name() for definition in algorithm.parameterDefinitions()}
    tab.tools.python_action.trigger()
    copied = QgsApplication.clipboard().text()
    assert copied.startswith('processing.run("metaearth:translatemodality"') and layer.source() in copied


def test_several_modalities_survive_the_way_through_a_terminal(tab):
    tab.form.show_values({"TARGETS": ["nir", "osm"]})
    tab.tools.terminal_action.trigger()
    words = dict(word.split("=", 1) for word in shlex.split(QgsApplication.clipboard().text()) if "=" in word)
    algorithm = QgsApplication.processingRegistry().algorithmById("metaearth:translatemodality")
    targets = algorithm.parameterDefinition("TARGETS")
    assert targets.checkValueIsAcceptable(words["TARGETS"])
    context = QgsProcessingContext()
    assert QgsProcessingParameters.parameterAsEnumStrings(targets, words, context) == ["nir", "osm"]


@pytest.fixture
def limit_gigabytes(module):
    """Sets the limit of the options page for one test."""
    write = module("plugin.core.settings").write
    yield lambda value: write("max_gigabytes", value)
    write("max_gigabytes", 200.0)


def test_the_cost_is_told_before_the_start_and_limits_hold(tab, limit_gigabytes):
    limit_gigabytes(200.0)
    tab.form.changed.emit()
    events_until(lambda: tab.cost_label.text().startswith("48 × 48 px of 10 m"))
    assert tab.cost_label.isVisible() and events_until(tab.run_box.run_button.isEnabled)
    limit_gigabytes(1e-6)
    tab.form.changed.emit()
    events_until(lambda: "The limit in the options" in tab.cost_label.text())
    assert not tab.run_box.run_button.isEnabled()
    tab.form.layer_boxes["rgb"].setLayer(None)
    tab.form.show_values({"WIDTH": 64, "HEIGHT": 40, "METRES_PER_PIXEL": 5})
    events_until(lambda: "From nothing: 64 × 40 px of 5 m" in tab.cost_label.text())
    assert "Choose at least one raster layer" in tab.cost_label.text() and not tab.generate_button.isEnabled()


def test_modalities_of_the_users_own_count_as_the_others_do(module, tmp_path):
    scenes = module("plugin.core.scenes")
    (tmp_path / "dem.tif").touch()
    asked = scenes.wanted({"TARGETS": ["nir"], "OTHER_TARGETS": "dem soil"})
    assert asked == ["nir", "dem", "soil"]
    assert scenes.in_the_way(str(tmp_path), asked) == [str(tmp_path / "dem.tif")]


def test_a_part_of_a_layer_is_translated(tab, layer, tmp_path):
    tab.form.extent_box.setOutputExtentFromUser(QgsRectangle(500000, 4499800, 500200, 4500000), layer.crs())
    tab.form.output_box.setFilePath(str(tmp_path / "part"))
    tab.translate()
    ended(tab)
    (made,) = group("scene – modalities, seed 4")
    assert (made.width(), made.height()) == (20, 20) and Path(made.source()) == tmp_path / "part" / "nir.tif"
    assert "is there already" in tab.cost_label.text() and not tab.run_box.run_button.isEnabled()


def test_a_scene_from_nothing_lies_at_the_middle_of_the_map(tab, window):
    tab.form.show_values({"TARGETS": ["rgb", "sar"], "WIDTH": 64, "HEIGHT": 48, "METRES_PER_PIXEL": 5})
    click(tab.generate_button)
    assert ended(tab).startswith("Done: 2 layers")
    rgb, sar = group("Scene from nothing, seed 4")
    assert (rgb.bandCount(), sar.bandCount()) == (3, 1) and rgb.extent() == sar.extent()
    assert (rgb.width(), rgb.height(), rgb.crs().authid()) == (64, 48, "EPSG:32611")
    assert rgb.extent().center().distance(window.canvas.center()) < 5


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda form: form.target_boxes["nir"].setChecked(False), "Tick at least one modality"),
    (lambda form: form.layer_boxes["rgb"].setLayer(None), "Choose at least one raster layer"),
])
def test_what_cannot_run_says_why(tab, change, sentence):
    change(tab.form)
    assert sentence in tab.cost_label.text() and tab.cost_label.isVisible()
    assert not tab.run_box.run_button.isEnabled() and sentence in tab.run_box.run_button.toolTip()
    tab.translate()
    assert not tab.runs


def test_from_nothing_needs_no_layer(tab):
    tab.form.layer_boxes["rgb"].setLayer(None)
    events_until(tab.generate_button.isEnabled)
    assert not tab.run_box.run_button.isEnabled()
    tab.form.target_boxes["nir"].setChecked(False)
    assert not tab.generate_button.isEnabled() and "Tick at least one" in tab.generate_button.toolTip()


def test_a_layer_that_is_no_file_says_why(tab, tiles):
    QgsProject.instance().addMapLayer(tiles)
    tab.form.layer_boxes["rgb"].setLayer(tiles)
    assert "is no file" in tab.cost_label.text() and not tab.run_box.run_button.isEnabled()


def test_models_are_offered_by_what_they_do(dock, tab, module):
    offered = [box.itemData(row) for box in (tab.form.model_row.box,) for row in range(box.count())]
    finer = [dock.form.model_row.box.itemData(row) for row in range(dock.form.model_row.box.count())]
    assert "tiny-mm" in offered and "tiny" not in offered
    assert "tiny" in finer and "tiny-mm" not in finer
    tab.show_models([model("a", module), model("b", module, kind="scene", has_weights=False)])
    assert tab.form.model_row.box.count() == 0 and "no MetaEarth-MM model with weights" in tab.cost_label.text()
    tab.show_models([model("c", module, kind="scene", modalities=["rgb", "osm"])])
    assert tab.cost_label.text() == "The model c was not trained on: Near infrared."
    assert not tab.generate_button.isEnabled()
    tab.form.show_values({"TARGETS": ["osm"]})
    buttons = (tab.run_box.run_button, tab.generate_button)
    assert ["worked out" in button.toolTip() for button in buttons] == [True, True]
    events_until(lambda: all("There is no model" in button.toolTip() for button in buttons))


def test_a_cancelled_job_leaves_nothing_or_is_kept_and_resumed(dock, tab, window, tmp_path, module):
    long_job(tab, window, tmp_path)
    tab.run_box.drop_action.trigger()
    assert ended(tab) == "Cancelled."
    assert not any(tmp_path.rglob("*.metaearth-job")) and not group("large – modalities, seed 4")
    tab.form.advanced.set_values({"STEPS": 40, **CPU})
    tab.translate()
    events_until(lambda: any(tmp_path.rglob("blocks/*/*/*.tif")))
    tab.run_box.keep_action.trigger()
    assert ended(tab) == "Cancelled."
    (folder,) = tmp_path.rglob("*.metaearth-job")
    events_until(tab.run_box.run_button.isEnabled)  # the same once more would go on
    tab.form.seed_row.box.setValue(5)
    events_until(lambda: "is there already" in tab.run_box.run_button.toolTip())
    module("plugin.core.settings").write("scenes_begun", "[]")
    tab.form.seed_row.box.setValue(4)
    events_until(lambda: "is there already" in tab.run_box.run_button.toolTip())
    dock.resume(str(folder), "large")
    assert dock.run_box.isVisible()
    events_until(lambda: not dock.runs, 240)
    (made,) = group("large – MetaEarth")
    assert made.name() == "large – Near infrared, tiny-mm, seed 4 (synthetic)"
    assert Path(made.source()) == tmp_path / "results" / "nir.tif"


@pytest.mark.parametrize(("source", "name"), [("", "nir"), ("town.tif", "town")])
def test_a_scene_from_nothing_is_resumed_by_the_name_of_its_result(dock, module, monkeypatch, source, name):
    resumed = []
    plugin = module("plugin.plugin").MetaEarthPlugin(None)
    plugin.dock = dock
    monkeypatch.setattr(plugin, "open_dock", lambda: None)
    monkeypatch.setattr(dock, "resume", lambda *values: resumed.append(values))
    plugin._resume(module("backend.protocol").UnfinishedJob("job", source, "results/nir.tif", ""))
    assert resumed == [("job", name)]


def test_the_bar_moves_while_windows_are_made(tab):
    tab.form.advanced.set_values({"STEPS": 900, **CPU})
    tab.translate()
    seen = events_until(lambda: 0 < tab.run_box.bar.value() < 900 and tab.run_box.bar.value())
    events_until(lambda: tab.run_box.bar.value() > seen and "left" in tab.run_box.label.text())
    tab.run_box.stop(keep=False)
    assert ended(tab) == "Cancelled."


def test_jobs_of_both_tabs_wait_for_each_other(dock, tab):
    dock.tabs.setCurrentIndex(0)
    events_until(lambda: dock.run_box.run_button.isEnabled())
    dock.run()
    tab.translate()
    ended(tab)
    events_until(lambda: not dock.runs)
    assert tab.run_box.label.text().startswith("Done") and dock.run_box.label.text().startswith("Done")


def test_an_error_is_a_sentence_before_the_start_and_after_it(dock, tab, tmp_path):
    told = []
    tab.failed.connect(told.append)
    tab.form.output_box.setFilePath(str(tmp_path / "results"))
    tab.form.advanced.set_values({**CPU, "BAND_CHOICE": "rgb=9,2,1"})
    events_until(lambda: "Band 9 was asked for" in tab.cost_label.text())
    assert not tab.run_box.run_button.isEnabled() and tab.cost_label.text() == tab.run_box.run_button.toolTip()
    tab.translate()
    events_until(lambda: told)
    assert "Band 9 was asked for" in told[0] and told[0].endswith(".")


def test_the_extent_is_framed_on_the_map_for_the_tab_in_front(dock, tab, layer):
    tab.form.extent_box.setOutputExtentFromUser(QgsRectangle(500000, 4499800, 500200, 4500000), layer.crs())
    assert tab._band._band.numberOfVertices() and not dock._band._band.numberOfVertices()
    dock.tabs.setCurrentIndex(0)
    assert not tab._band._band.numberOfVertices()


def test_the_tab_comes_back_in_the_next_session(dock, module, window, tab):
    tab.form.show_values({"SEED": 99, "TARGETS": ["sar", "osm"], "WIDTH": 512, "METRES_PER_PIXEL": 2.5, "STEPS": 3})
    dock.save_state()
    other = module("plugin.gui.dock").GenerateDock(window, window.canvas, window.messages)
    found = other.modalities.form.own_values()
    assert (found["SEED"], found["TARGETS"], found["WIDTH"]) == (99, ["sar", "osm"], 512)
    assert (found["METRES_PER_PIXEL"], found["STEPS"]) == (2.5, 3)
    other.close_for_good()


def test_what_belongs_to_one_layer_does_not_come_back(tab, tmp_path):
    of_one = {"BAND_CHOICE": "rgb=3,2,1", "OTHER_INPUTS": "snow=a.tif", "SOURCE_RESOLUTION": 3.0, "RESOLUTION": 5.0,
              "JOB_DIR": str(tmp_path)}
    tab.form.show_values({**of_one, "STEPS": 3})
    assert set(of_one) <= set(tab.form.translate_parameters())
    assert tab.form.own_values()["STEPS"] == 3 and not set(of_one) & set(tab.form.own_values())


def focusable(tab):
    """The widgets that Tab goes through, in that order."""
    found, widget = [], tab
    while True:
        widget = widget.nextInFocusChain()
        if not tab.isAncestorOf(widget):
            return found
        if widget.isVisible() and widget.isEnabled() and widget.focusPolicy() & Qt.FocusPolicy.TabFocus \
                and not widget.focusProxy() and not isinstance(widget, QScrollArea):
            found.append(widget)


def test_tab_goes_from_top_to_bottom(tab, window):
    window.resize(1000, 1600)
    QCoreApplication.processEvents()
    places = [widget.mapTo(tab, QPoint(0, widget.height() // 2)).y() for widget in focusable(tab)]
    assert len(places) > 15
    assert all(later > earlier - 12 for earlier, later in pairwise(places)), places


def test_the_keyboard_ticks_and_starts(tab):
    tab.form.target_boxes["sar"].setFocus()
    QTest.keyClick(tab.form.target_boxes["sar"], Qt.Key.Key_Space)
    assert tab.form.targets() == ["nir", "sar"]
    QTest.keyClick(tab.form.seed_row.dice, Qt.Key.Key_Space)
    assert tab.form.seed() != 4
    events_until(tab.run_box.run_button.isEnabled)
    QTest.keyClick(tab.run_box.run_button, Qt.Key.Key_Space)
    assert len(tab.runs) == 1
    assert ended(tab).startswith("Done: 2 layers")


def test_every_widget_has_a_name_for_screen_readers(tab):
    form = tab.form
    own = [*form.layer_boxes.values(), form.model_row.box, form.seed_box, form.width_box, form.height_box, form.gsd_box,
           form.output_box, form.extent_box]
    assert all(widget.accessibleName() for widget in own)
    for button in tab.findChildren(QAbstractButton):
        if button.parent() in (form.seed_row, form.model_row, tab.run_box, tab.tools):
            assert button.accessibleName() or button.text(), button
    for kind in (QAbstractSpinBox, QComboBox):
        assert set(form.findChildren(kind)) & set(own)


class Marks(QTranslator):
    """Marks what goes through the plugin's translation."""

    def isEmpty(self):
        return False

    def translate(self, context, text, disambiguation=None, number=-1):
        return f"«{text}»" if context == "MetaEarth" else ""


def test_everything_that_is_read_can_be_translated(tab, module, window):
    marks = Marks()
    QCoreApplication.installTranslator(marks)
    try:
        other = module("plugin.gui.modalities_tab").ModalitiesTab(window.canvas, window)
        other.show_models([])
        kinds = {QLabel: "text", QAbstractButton: "text", QGroupBox: "title"}
        texts = [getattr(widget, read)() for kind, read in kinds.items() for widget in other.findChildren(kind)
                 if not other.form.advanced.isAncestorOf(widget) and not other.form.extent_box.isAncestorOf(widget)
                 and not other.form.output_box.isAncestorOf(widget)]
        plain = [text for text in texts if text.strip("×… ") and "«" not in text]
        assert len(texts) > 20 and plain == []
        other.close_for_good()
        other.deleteLater()
    finally:
        QCoreApplication.removeTranslator(marks)


def test_a_removed_layer_leaves_the_form(tab):
    assert isinstance(tab.form.lead(), QgsRasterLayer)
    QgsProject.instance().clear()
    events_until(lambda: "Choose at least one raster layer" in tab.cost_label.text())
    tab.translate()
    assert not tab.runs
