"""The options page over the real backend."""

import pytest
from qgis.PyQt.QtCore import QTimer
from qgis.PyQt.QtWidgets import QApplication, QMessageBox, QPushButton
from qgis_support import events_until


@pytest.fixture
def page(module):
    page = module("plugin.gui.options").OptionsPage(None, lambda: None)
    page.show()
    events_until(lambda: page.models_list.count())
    yield page
    settings = module("plugin.core.settings")
    for name, value in (("device", "auto"), ("executor", ""), ("warn_minutes", 30.0), ("max_gigabytes", 200.0)):
        settings.write(name, value)


def answering(yes):
    """Answer the question that comes up next."""
    def look():
        box = QApplication.activeModalWidget()
        if isinstance(box, QMessageBox):
            timer.stop()
            box.button(QMessageBox.StandardButton.Yes if yes else QMessageBox.StandardButton.No).click()
    timer = QTimer()
    timer.timeout.connect(look)
    timer.start(20)
    return timer


def press(page, text):
    button, = [b for b in page.findChildren(QPushButton) if b.text() == text]
    button.click()


def models(page):
    return [page.models_list.item(row).data(256) for row in range(page.models_list.count())]


def test_values_are_kept_and_used_by_the_panel(page, module):
    page.device_box.setCurrentText("cpu")
    page.executor_box.setText("tcp://127.0.0.1:8786")
    page.gigabytes_box.setValue(5)
    page.apply()
    settings = module("plugin.core.settings")
    assert settings.from_options() == {"DEVICE": "cpu", "EXECUTOR": "tcp://127.0.0.1:8786"}
    assert settings.limits().max_gigabytes == 5


def test_an_executor_is_tested(page, monkeypatch):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    page.executor_box.setText("/nowhere/scheduler.json")
    page._test_executor()
    events_until(lambda: "No Dask scheduler answers" in page.executor_label.text())
    for text, told in (("", "in one process."), ("local:3", "in 3 processes."), ("local:x", "not understood")):
        page.executor_box.setText(text)
        page._test_executor()
        events_until(lambda told=told: told in page.executor_label.text())


def test_models_are_added_and_removed(page, home, tmp_path, module):
    import shutil

    shutil.copytree(home / "models" / "tiny", tmp_path / "mine")
    config = tmp_path / "mine" / "config.json"
    config.write_text(config.read_text().replace('"tiny"', '"mine"'))
    page.ask_models("add_model", {"source": str(tmp_path / "mine")})
    events_until(lambda: "mine" in models(page))
    known = module("plugin.core.backend_client").session_client().state.handshake.models
    assert "mine" in [model.id for model in known]
    page.ask_models("add_model", {"source": str(tmp_path / "mine")})
    events_until(lambda: "already" in page.models_label.text())
    page.models_list.setCurrentRow(models(page).index("mine"))
    timer = answering(False)
    press(page, "Remove")
    assert not timer.isActive() and page.models_label.text() != "Asking the backend…"
    timer = answering(True)
    press(page, "Remove")
    events_until(lambda: "mine" not in models(page))
    page.ask_models("add_model", {"source": shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "mine")})
    events_until(lambda: "mine" in models(page))
    page.models_list.setCurrentRow(models(page).index("mine"))
    timer = answering(True)
    press(page, "Remove")
    events_until(lambda: "mine" not in models(page))
    assert not timer.isActive()


def test_what_can_be_made_again_is_deleted_if_that_is_meant(page, home):
    world = home / "worlds" / "here"
    world.mkdir(parents=True)
    (world / "block.tif").write_bytes(b"0")
    for yes in (False, True):
        timer = answering(yes)
        press(page, "Delete downloads, copies, worlds and logs")
        events_until(page.clear_button.isEnabled)
        assert world.exists() != yes and not timer.isActive()


def test_models_are_shown_with_what_they_do(page):
    shown = {page.models_list.item(row).data(256): page.models_list.item(row).text()
             for row in range(page.models_list.count())}
    assert shown["tiny"].startswith("tiny: higher resolution (0.1 to 500 m/px")
    assert shown["tiny-mm"].startswith("tiny-mm: modalities (0.1 to 500 m/px")


def test_sizes_of_the_folders_are_shown(page, home):
    events_until(lambda: "models" in page.storage_label.text())
    assert str(home) in page.storage_label.text()
