"""The options page over the real backend."""

import pytest
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


def test_an_executor_that_does_not_answer_is_told(page):
    page.executor_box.setText("/nowhere/scheduler.json")
    page._test_executor()
    events_until(lambda: "No Dask scheduler answers" in page.executor_label.text())


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
    page._remove()
    events_until(lambda: "mine" not in models(page))
    page.ask_models("add_model", {"source": shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "mine")})
    events_until(lambda: "mine" in models(page))
    page.models_list.setCurrentRow(models(page).index("mine"))
    page._remove()
    events_until(lambda: "mine" not in models(page))


def test_models_are_shown_with_what_they_do(page):
    shown = {page.models_list.item(row).data(256): page.models_list.item(row).text()
             for row in range(page.models_list.count())}
    assert shown["tiny"].startswith("tiny: higher resolution (0.1 to 500 m/px")
    assert shown["tiny-mm"].startswith("tiny-mm: modalities (0.1 to 500 m/px")


def test_sizes_of_the_folders_are_shown(page, home):
    events_until(lambda: "models" in page.storage_label.text())
    assert str(home) in page.storage_label.text()
