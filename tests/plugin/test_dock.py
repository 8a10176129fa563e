"""The panel in real QGIS widgets over the real backend; its model is the tiny one of the tests' data root."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from osgeo import gdal
from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsProject,
    QgsRasterLayer,
    QgsRasterRange,
    QgsRectangle,
)
from qgis.gui import QgsMapToolPan
from qgis.PyQt.QtCore import QPoint, Qt
from qgis.PyQt.QtTest import QTest
from qgis.PyQt.QtWidgets import QPushButton, QTextBrowser
from qgis_support import backend_children, events_until, show, wait_for, write_raster


def planned(dock):
    return events_until(lambda: "px of" in dock.cost_label.text() and dock.run_box.run_button.isEnabled())


def long_job(dock, window, tmp_path):
    """Minutes of work for the tiny model."""
    layer = show(window, write_raster(tmp_path / "large.tif", 400), "large")
    dock.show_layer(layer)
    dock.form.advanced.set_values({"STEPS": 900})
    planned(dock)
    dock.run()
    events_until(lambda: "windows" in dock.run_box.label.text())


def layers():
    return sorted(layer.name() for layer in QgsProject.instance().mapLayers().values())


def job_folders(folder):
    return [path.name for path in folder.glob("*.metaearth-job")]


def test_the_cost_follows_the_form(dock):
    planned(dock)
    assert dock.cost_label.text().startswith("192 × 192 px of 2.5 m")
    dock.form.stages_box.setValue(2)
    events_until(lambda: dock.cost_label.text().startswith("768 × 768 px of 0.625 m"))
    assert dock.form.chain_label.text() == "10 → 2.5 → 0.625 m"
    dock.form.resolution_box.setValue(2)
    assert dock.form.stages_box.value() == 1 and dock.parameters()["RESOLUTION"] == 2
    events_until(lambda: dock.cost_label.text().startswith("240 × 240 px of 2 m"))
    assert dock.form.chain_label.text() == "10 → 8 → 2 m"


def test_parameters_are_the_algorithms(dock, layer):
    assert dock.parameters() == {"INPUT": layer.id(), "STAGES": 1, "MODEL": "tiny", "SEED": 0}
    dock.form.extent_box.setOutputExtentFromUser(QgsRectangle(500000, 4499800, 500200, 4500000), layer.crs())
    dock.form.advanced.set_values({"STEPS": 3, "NOISE": "independent"})
    found = dock.parameters()
    assert found["EXTENT"] == "500000,500200,4499800,4500000 [EPSG:32611]"
    assert (found["STEPS"], found["NOISE"]) == (3, "independent") and "SAMPLES" not in found
    assert dock.form.extent_label.text() == "0.2 km × 0.2 km"
    algorithm = QgsApplication.processingRegistry().algorithmById("metaearth:generatehigherresolution")
    assert set(found) <= {definition.name() for definition in algorithm.parameterDefinitions()}


def test_what_cannot_run_says_why(dock, window, tmp_path):
    layer = show(window, write_raster(tmp_path / "nowhere.tif", 48, epsg=None), "nowhere")
    dock.show_layer(layer)
    events_until(lambda: "no coordinate reference system" in dock.cost_label.text())
    assert not dock.run_box.run_button.isEnabled()
    dock.form.advanced.set_values({"SOURCE_RESOLUTION": 10})
    assert planned(dock)


def test_a_closed_panel_takes_its_frame_off_the_map(dock, layer):
    def corners():
        return dock._band._band.size()

    planned(dock)
    dock.form.extent_box.setOutputExtentFromUser(QgsRectangle(500000, 4499800, 500200, 4500000), layer.crs())
    assert corners() > 0
    dock.close()
    assert corners() == 0
    dock.show()
    assert corners() > 0


def test_an_extent_without_a_layer_is_kept_from_nobody(dock, layer):
    dock.form.extent_box.setOutputExtentFromUser(QgsRectangle(500000, 4499800, 500200, 4500000), layer.crs())
    QgsProject.instance().removeAllMapLayers()
    dock.form.extent_box.setOutputExtentFromUser(QgsRectangle(500000, 4499800, 500200, 4500000),
                                                 QgsCoordinateReferenceSystem("EPSG:32611"))
    assert dock.form.layer() is None
    dock.save_state()


def test_a_closed_panel_still_knows_its_source(dock, layer):
    dock.modalities.form.layer_boxes["rgb"].setCurrentIndex(0)
    dock.hide()
    assert dock.source() is layer


def test_a_run_makes_a_group_of_marked_layers(dock, layer, tmp_path):
    dock.form.stages_box.setValue(2)
    planned(dock)
    dock.run()
    events_until(lambda: not dock.runs)
    assert dock.run_box.label.text().startswith("Done: 0.625 m/px, seed 0.")
    group = QgsProject.instance().layerTreeRoot().findGroup("scene – MetaEarth")
    made = [node.layer() for node in group.findLayers()]
    assert [made_layer.name() for made_layer in made] == [
        "scene – 0.625 m, tiny, seed 0 (synthetic)", "scene – 2.5 m, tiny, seed 0 (synthetic)"]
    assert Path(made[0].source()) == tmp_path / "scene_0.625m_seed0.tif"
    assert made[0].extent() == layer.extent()
    assert "synthetic" in made[0].metadata().keywords()["metaearth"]
    assert "not a measurement" in made[0].customProperty("userNotes")
    dock.run()
    events_until(lambda: not dock.runs)
    assert (tmp_path / "scene_0.625m_seed0_2.tif").exists()


def test_the_result_is_styled_like_the_source(dock, window, tmp_path):
    layer = show(window, write_raster(tmp_path / "deep.tif", 48, dtype=gdal.GDT_UInt16), "deep")
    renderer = layer.renderer()
    renderer.setRedBand(3)
    renderer.setBlueBand(1)
    before = renderer.redContrastEnhancement().maximumValue()
    dock.show_layer(layer)
    planned(dock)
    dock.run()
    events_until(lambda: not dock.runs)
    (made,) = [found for found in QgsProject.instance().mapLayers().values() if "synthetic" in found.name()]
    assert [made.renderer().redBand(), made.renderer().blueBand()] == [1, 3]
    assert made.renderer().redContrastEnhancement().maximumValue() == before


def test_a_preview_has_the_pixels_of_the_run(dock, window, tmp_path):
    layer = show(window, write_raster(tmp_path / "wide.tif", 150), "wide")
    dock.show_layer(layer)
    planned(dock)
    dock.make_preview()
    preview = dock._preview
    events_until(lambda: dock.picture._after is not None)
    window_extent, result = preview._extent, gdal.Open(preview._output).ReadAsArray()
    assert result.shape[1:] == (200, 200) and window_extent.contains(window.canvas.center())
    dock.run()
    events_until(lambda: not dock.runs)
    (made,) = [found for found in QgsProject.instance().mapLayers().values() if "synthetic" in found.name()]
    col = round((window_extent.xMinimum() - made.extent().xMinimum()) / 2.5)
    row = round((made.extent().yMaximum() - window_extent.yMaximum()) / 2.5)
    assert (gdal.Open(made.source()).ReadAsArray(col, row, 200, 200) == result).all()


def test_a_preview_of_oblong_pixels_fills_its_picture(dock, window, tmp_path):
    path = write_raster(tmp_path / "oblong.tif", 96)
    dataset = gdal.Open(path, gdal.GA_Update)
    left, width, _, top, _, height = dataset.GetGeoTransform()
    dataset.SetGeoTransform((left, 2 * width, 0, top, 0, height))
    dataset.FlushCache()
    dock.show_layer(show(window, path, "oblong"))
    planned(dock)
    dock.make_preview()
    events_until(lambda: dock.picture._after is not None)
    picture, extent = dock.picture._after, dock._preview._extent
    assert picture.width() / picture.height() == pytest.approx(extent.width() / extent.height(), rel=0.02)
    assert extent.width() > 1.5 * extent.height()


def test_another_seed_renews_the_preview(dock):
    planned(dock)
    dock.make_preview()
    events_until(lambda: dock.picture._after is not None)
    first = dock.picture._after
    dock.form.roll()
    events_until(lambda: dock.picture._after != first)


def test_a_seed_stays_for_the_next_run_as_long_as_it_is_locked(dock):
    for locked in (True, False):
        dock.form.seed_row.lock_button.setChecked(locked)
        planned(dock)
        dock.run()
        events_until(lambda: not dock.runs)
        assert (dock.form.seed_box.value() == 0) is locked


def test_the_last_stage_alone_can_be_loaded(dock, tmp_path):
    dock.form.stages_box.setValue(2)
    dock.form.load_box.setCurrentIndex(dock.form.load_box.findData(True))
    planned(dock)
    dock.run()
    events_until(lambda: not dock.runs)
    assert [name for name in layers() if "synthetic" in name] == ["scene – 0.625 m, tiny, seed 0 (synthetic)"]
    assert sorted(path.name for path in tmp_path.glob("scene_*.tif")) == [
        "scene_0.625m_seed0.tif", "scene_0.625m_seed0_stage1.tif"]


def test_the_source_is_shown_left_of_the_pointer(module, window, tmp_path):
    for name, colour in (("red", (250, 10, 10)), ("blue", (10, 10, 250))):
        dataset = gdal.Open(write_raster(tmp_path / f"{name}.tif", 48), gdal.GA_Update)
        for band, value in enumerate(colour, start=1):
            dataset.GetRasterBand(band).Fill(value)
        dataset.FlushCache()
    source, _ = (show(window, str(tmp_path / f"{name}.tif"), name) for name in ("red", "blue"))
    canvas = window.canvas
    tool = module("plugin.gui.swipe").SwipeTool(canvas)
    tool.set_layer(source)
    canvas.setMapTool(tool)
    line, middle = canvas.width() // 4, canvas.height() // 2
    QTest.mouseMove(canvas.viewport(), QPoint(line, middle))

    def shown():
        picture = canvas.viewport().grab().toImage()
        colours = [picture.pixelColor(QPoint(column, middle)) for column in (line - 30, line + 30)]
        return [(colour.red() > 200, colour.blue() > 200) for colour in colours]

    events_until(lambda: shown() == [(True, False), (False, True)])
    canvas.unsetMapTool(tool)
    events_until(lambda: shown() == [(False, True)] * 2)
    before = QgsMapToolPan(canvas)
    canvas.setMapTool(before)
    tool.begin()
    assert canvas.mapTool() is tool
    tool.end()
    assert canvas.mapTool() is before
    tool.begin()
    canvas.setMapTool(before)
    tool.end()  # somebody has chosen another tool already
    assert canvas.mapTool() is before


def test_the_line_of_a_preview_moves(dock):
    dock.picture.resize(200, 200)
    QTest.keyClick(dock.picture, Qt.Key.Key_Right)
    assert dock.picture.share == pytest.approx(0.55)
    QTest.mouseClick(dock.picture, Qt.MouseButton.LeftButton, pos=QPoint(dock.picture.width() // 2 - 60, 20))
    assert dock.picture.share < 0.5


def test_a_cancelled_job_is_kept_or_leaves_nothing(dock, window, tmp_path):
    long_job(dock, window, tmp_path)
    dock.run_box.drop_action.trigger()
    events_until(lambda: not dock.runs)
    assert dock.run_box.label.text() == "Cancelled." and job_folders(tmp_path) == []
    dock.run()
    events_until(lambda: any(tmp_path.rglob("blocks/*/*/*.tif")))
    dock.run_box.keep_action.trigger()
    events_until(lambda: not dock.runs)
    (folder,) = job_folders(tmp_path)
    assert layers() == ["large", "scene"]
    assert any((tmp_path / folder).rglob("blocks/*/*/*.tif"))


def test_the_map_fills_while_a_job_runs(dock, window, tmp_path):
    long_job(dock, window, tmp_path)
    name = events_until(lambda: [name for name in layers() if "being made" in name], 120)
    assert name == ["large – being made (synthetic)"]
    dock.run_box.drop_action.trigger()
    assert layers() == ["large", "scene"]  # at once: its blocks are about to be deleted
    events_until(lambda: not dock.runs)
    assert layers() == ["large", "scene"]


def test_what_fills_the_map_goes_before_its_blocks(dock, tmp_path):
    """On Windows, a file that is open cannot be deleted."""
    planned(dock)
    dock.run()
    (run,), seen = dock.runs, []
    run.live.show(write_raster(tmp_path / "blocks.tif", 16))
    assert "scene – being made (synthetic)" in layers()
    run.feedback.advanced.connect(lambda progress: seen.append((progress.message, layers())))
    events_until(lambda: not dock.runs)
    assert [shown for message, shown in seen if message == "writing"] == [["scene"]]


def test_what_fills_the_map_stays_away_once_it_was_taken_away(module, window, tmp_path):
    live = module("plugin.core.live").LiveLayer("scene", None)
    first, second = (write_raster(tmp_path / f"{name}.tif", 16) for name in "ab")
    live.show(first)
    assert "scene – being made (synthetic)" in layers()
    QgsProject.instance().clear()
    live.show(second)
    assert layers() == []


def test_jobs_wait_for_each_other_and_overwrite_nothing(dock, tmp_path):
    planned(dock)
    dock.run()
    dock.run()
    assert len(dock.runs) == 2
    order = []
    for number, run in enumerate(dock.runs):
        run.feedback.advanced.connect(lambda progress, number=number: order.append(number))
    events_until(lambda: not dock.runs)
    assert set(order) == {0, 1} and order in (sorted(order), sorted(order, reverse=True))
    assert len([name for name in layers() if "synthetic" in name]) == 2
    assert len(list(tmp_path.glob("scene_2.5m_seed0*.tif"))) == 2


def test_a_job_that_cannot_be_prepared_ends_with_a_sentence(dock, module):
    run = module("plugin.core.runs").Run(module("plugin.core.planner").algorithm(), {"INPUT": "nowhere"})
    said, ended = [], []
    run.failed.connect(said.append)
    run.ended.connect(lambda: ended.append(True))
    run.start()
    events_until(lambda: ended)
    assert said


def test_nothing_is_written_into_the_plugins_own_folder(dock, window):
    """QGIS deletes it with every update; the sample scene lies there."""
    scene = Path(__file__).parents[2] / "resources" / "sample" / "sentinel2_redclover_rgb_10m.tif"
    dock.show_layer(show(window, str(scene), "sample"))
    planned(dock)
    assert dock.form.output_path() == "TEMPORARY_OUTPUT"


def test_a_name_without_a_folder_lies_beside_the_source(dock, scene, tmp_path):
    dock.form.output_box.setFilePath("finer")
    assert dock.form.output_path() == str(Path(scene).parent / "finer.tif")
    dock.form.output_box.setFilePath(str(tmp_path / "there.tif"))
    assert dock.form.output_path() == str(tmp_path / "there.tif")


def test_a_layer_of_a_kind_that_is_not_known_here_is_no_error(dock, window):
    layer = QgsRasterLayer("/nowhere", "of another plugin", "unknown provider")
    QgsProject.instance().addMapLayer(layer)
    dock.form.layer_box.setLayer(layer)
    assert layer.dataProvider() is None and not dock.run_box.run_button.isEnabled()


def test_what_was_run_can_be_copied_when_its_layer_is_gone(dock, scene):
    planned(dock)
    dock.run()
    events_until(lambda: not dock.runs)
    QgsProject.instance().clear()
    dock.copy_terminal.trigger()
    assert f"INPUT={scene}" in QgsApplication.clipboard().text()


def test_without_a_layer_nothing_happens(dock):
    planned(dock)
    QgsProject.instance().clear()
    events_until(lambda: "Load a raster layer" in dock.cost_label.text())
    dock.run()
    dock.make_preview()
    dock.copy_python.trigger()
    assert not dock.runs and not dock.run_box.run_button.isEnabled()


def test_a_crs_that_is_assigned_later_is_seen(dock, window, tmp_path, layer):
    bare = show(window, write_raster(tmp_path / "nowhere.tif", 48, epsg=None), "nowhere")
    dock.show_layer(bare)
    events_until(lambda: "no coordinate reference system" in dock.cost_label.text())
    bare.setCrs(layer.crs())
    planned(dock)


def test_a_copied_layer_with_nodata_is_planned_before_its_values_are_read(dock, window, tmp_path):
    layer = show(window, write_raster(tmp_path / "sixteen.tif", 48, dtype=gdal.GDT_UInt16), "sixteen")
    for band in (1, 2, 3):
        layer.dataProvider().setUserNoDataValue(band, [QgsRasterRange(0, 0)])
    dock.show_layer(layer)
    planned(dock)


def test_a_kept_job_of_a_service_can_be_resumed(dock, module, tiles, tmp_path):
    QgsProject.instance().addMapLayer(tiles)
    dock.show_layer(tiles)
    dock.form.extent_box.setOutputExtentFromUser(QgsRectangle(0, 0, 8e6, 8e6), tiles.crs())
    dock.form.advanced.set_values({"SOURCE_RESOLUTION": 20000, "STEPS": 30})
    dock.form.output_box.setFilePath(str(tmp_path / "web.tif"))
    planned(dock)
    dock.run()
    events_until(lambda: any(tmp_path.rglob("blocks/*/*/*.tif")))
    dock.run_box.stop(keep=True)
    events_until(lambda: not dock.runs)
    dock.resume(str(tmp_path / "web.tif.metaearth-job"), "web")
    events_until(lambda: not dock.runs, 240)
    assert dock.run_box.label.text().startswith("Done") and (tmp_path / "web.tif").exists()
    assert not any((module("backend.protocol").data_home() / "snapshots").iterdir())


def test_a_cancel_from_the_task_manager_keeps_what_is_finished(dock, module, window, tmp_path):
    """QGIS cancels all tasks when it is closed."""
    long_job(dock, window, tmp_path)
    events_until(lambda: any(tmp_path.rglob("blocks/*/*/*.tif")))
    QgsApplication.taskManager().cancelAll()
    events_until(lambda: not dock.runs)
    (kept,) = job_folders(tmp_path)
    assert any((tmp_path / kept).rglob("*.tif"))
    job = module("backend.protocol").UnfinishedJob(str(tmp_path / kept), "", "", "")
    module("plugin.core.unfinished").discard(job, dock)
    wait_for(lambda: events_until(lambda: not job_folders(tmp_path)), 20)


def test_what_fits_one_layer_alone_is_forgotten_with_it(dock, layer, window, tmp_path):
    dock.form.advanced.set_values({"SOURCE_RESOLUTION": 2, "STRETCH": "0,3000", "STEPS": 3})
    dock.show_layer(show(window, write_raster(tmp_path / "other.tif", 48), "other"))
    assert dock.form.advanced.values() == {"STEPS": 3}


def test_the_shown_bands_are_taken_in_their_order(dock, window, tmp_path):
    layer = show(window, write_raster(tmp_path / "four.tif", 48, bands=4), "four")
    for band, choose in ((4, "setRedBand"), (3, "setGreenBand"), (2, "setBlueBand")):
        getattr(layer.renderer(), choose)(band)
    dock.show_layer(layer)
    dock.form.bands_box.setCheckedItems([layer.bandName(n) for n in (2, 3, 4)])
    assert dock.form.bands() == [4, 3, 2]
    dock.form.bands_box.deselectAllOptions()
    dock.form.bands_box.setCheckedItems([layer.bandName(n) for n in (1, 2, 3)])
    assert dock.form.bands() == [1, 2, 3]


def test_two_temporary_results_do_not_meet(dock, layer):
    dock.form.temporary_box.setChecked(True)
    planned(dock)
    dock.run()
    dock.run()
    assert len(dock.runs) == 2
    events_until(lambda: not dock.runs)
    assert len([name for name in layers() if "synthetic" in name]) == 2


def test_a_killed_backend_is_told_and_its_job_is_offered_and_resumed(dock, module, window, tmp_path):
    long_job(dock, window, tmp_path)
    events_until(lambda: any(tmp_path.rglob("blocks/*/*/*.tif")))
    for pid in backend_children(os.getpid()):
        os.kill(pid, signal.SIGKILL)
    events_until(lambda: not dock.runs)
    assert "stopped unexpectedly" in dock.run_box.label.text()
    offered = []
    module("plugin.core.unfinished").ask_unfinished(dock, offered.extend)
    events_until(lambda: offered)
    job = next(job for job in offered if job.folder.startswith(str(tmp_path)))
    dock.resume(job.folder, "large")
    events_until(lambda: "windows" in dock.run_box.label.text())
    dock.run_box.stop(keep=False)
    events_until(lambda: not dock.runs)
    assert job_folders(tmp_path) == []


def test_what_is_finished_of_an_offered_job_is_deleted_on_request(dock, module, metaearth, window, tmp_path):
    long_job(dock, window, tmp_path)
    events_until(lambda: any(tmp_path.rglob("blocks/*/*/*.tif")))
    dock.run_box.stop(keep=True)
    events_until(lambda: not dock.runs)
    plugin = metaearth.classFactory(SimpleNamespace(messageBar=lambda: window.messages, mainWindow=lambda: window))
    plugin.provider = QgsApplication.processingRegistry().providerById("metaearth")
    job = module("backend.protocol").UnfinishedJob(str(tmp_path / job_folders(tmp_path)[0]), "", "out.tif", "today")
    plugin._show_unfinished([job])
    message = window.messages.currentItem()
    assert "A job was interrupted (today): out.tif." in message.text()
    (button,) = [found for found in message.findChildren(QPushButton) if found.text() == "Delete what is finished"]
    button.click()
    assert window.messages.currentItem() is None
    events_until(lambda: not job_folders(tmp_path))


def test_the_last_run_can_be_copied_and_is_in_the_history(dock, layer, scene):
    planned(dock)
    dock.run()
    events_until(lambda: not dock.runs)
    dock.copy_python.trigger()
    text = QgsApplication.clipboard().text()
    assert text.startswith('processing.run("metaearth:generatehigherresolution", {') and scene in text
    assert "memory" not in text and layer.id() not in text
    dock.copy_terminal.trigger()
    text = QgsApplication.clipboard().text()
    assert text.startswith("qgis_process run metaearth:generatehigherresolution -- ") and f"INPUT={scene}" in text


def test_the_form_comes_back_in_the_next_session(dock, module, window):
    dock.form.seed_box.setValue(99)
    dock.form.advanced.set_values({"STEPS": 3})
    dock.save_state()
    other = module("plugin.gui.dock").GenerateDock(window, window.canvas, window.messages)
    assert other.parameters()["SEED"] == 99 and other.parameters()["STEPS"] == 3
    other.close_for_good()


def test_tiles_are_counted_before_a_service_is_asked(dock, tiles):
    QgsProject.instance().addMapLayer(tiles)
    dock.show_layer(tiles)
    dock.form.extent_box.setOutputExtentFromUser(QgsRectangle(0, 0, 2e7, 2e7), tiles.crs())
    events_until(lambda: "source resolution" in dock.cost_label.text())
    dock.form.advanced.set_values({"SOURCE_RESOLUTION": 50000})
    events_until(lambda: "tiles are read" in dock.cost_label.text())
    assert "1600 × 1600 px" in dock.cost_label.text()


def test_every_widget_has_a_name_for_screen_readers(dock, module):
    form = dock.form
    own = [form.layer_box, form.resolution_box, form.stages_box, form.load_box, form.seed_box, form.model_row.box,
           form.bands_box, form.output_box, form.extent_box, form.seed_row.dice, form.seed_row.lock_button,
           form.model_row.card_button]
    assert [widget for widget in own if not widget.accessibleName()] == []


def test_the_card_of_a_model_is_shown(dock, module):
    planned(dock)
    card = module("plugin.core.models").card_of(
        "metaearth-lite", module("plugin.core.backend_client").session_client().state.handshake)
    assert card.startswith("# ") and "lite-table.md" in card and "](../" not in card
    dock.form.model_row.card_button.click()
    assert dock.findChildren(QTextBrowser)[-1].toPlainText().strip()
