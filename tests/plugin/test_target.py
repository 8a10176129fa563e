import pytest


@pytest.fixture
def target(module):
    return module("plugin.core.target")


def test_stages_and_resolution_tell_each_other(target):
    assert target.stage_sizes(64, 2) == [64, 16, 4]
    assert target.sizes_to(64, 4) == [64, 16, 4]
    assert target.stages_to(64, 4) == 2
    assert target.as_chain([64, 16, 4]) == "64 → 16 → 4 m"


def test_a_target_between_stages_shows_what_the_source_is_resampled_to(target):
    assert target.sizes_to(10, 2) == [10, 8, 2]
    assert target.sizes_to(10, 0.5) == [10, 8, 2, 0.5]


def test_a_target_less_than_one_stage_away_is_one_stage(target):
    assert target.stages_to(10, 9) == 1


def test_names_of_results_overwrite_nothing(module, tmp_path):
    names = module("plugin.core.output_names")

    def suggested(taken=()):
        return names.suggested_output(tmp_path, "Wald & Wiese", 2.5, 7, 2, taken)

    assert suggested() == str(tmp_path / "Wald_Wiese_2.5m_seed7.tif")
    (tmp_path / "Wald_Wiese_2.5m_seed7_stage1.tif").touch()
    assert suggested() == str(tmp_path / "Wald_Wiese_2.5m_seed7_2.tif")
    assert suggested(names.written_by(suggested(), 2)) == str(tmp_path / "Wald_Wiese_2.5m_seed7_3.tif")
    (tmp_path / "x_stage1.tif").touch()
    assert names.in_the_way(str(tmp_path / "x_stage2.tif"), 2) == [str(tmp_path / "x_stage1.tif")]
    assert names.first_writable(["", str(tmp_path / "none"), str(tmp_path)]) == tmp_path


def test_cost_is_a_line_and_a_level(module):
    cost, protocol = module("plugin.core.cost"), module("backend.protocol")
    limits = module("plugin.core.settings").Limits(warn_minutes=1, max_gigabytes=2)
    grid = protocol.GridInfo("EPSG:32611", [1, 0, 0, 0, -1, 0], 400, 300, 2.5)

    def level(**changes):
        values = {"stages": [grid], "windows": 4, "evaluations": 48, "evaluations_per_pixel": 17.0,
                  "output_bytes": 360000, "disk_bytes": 800000, "free_bytes": 10**12, "seconds": 5.0,
                  "device_name": "a CPU", "preview_extent": [0, 0, 1, 1], "warnings": []}
        return cost.cost_of(protocol.JobSummary(**{**values, **changes}), limits)

    assert level() == ("400 × 300 px of 2.5 m · 800 kB of disk · 5 s on a CPU", cost.GOOD)
    assert level(seconds=61.0).level == cost.WARNING
    assert level(warnings=["Mind the gap."]).text.endswith("\nMind the gap.")
    assert level(disk_bytes=3 * 10**9).level == cost.REFUSED


def test_a_report_names_no_user_and_no_secret(module, monkeypatch):
    redacted = module("plugin.core.diagnostics").redacted
    monkeypatch.setenv("HOME", "/home/erika")
    monkeypatch.setenv("USER", "erika")
    text = redacted("/home/erika/data of erika; token=abc123 tls://erika:pw@host:1")
    assert text == "~/data of <user>; token=*** tls://***@host:1"


def test_a_report_tells_releases_models_and_the_log(module, qgis_app):
    from qgis_support import events_until

    client, told = module("plugin.core.backend_client").session_client(), []
    client.ask("diagnose", {}).answered.connect(lambda answer: told.append(answer["facts"]))
    events_until(lambda: told)
    text = module("plugin.core.diagnostics").report(client, told[0])
    for line in ("QGIS: 3", "torch: 2.", "NVIDIA driver: ", "Model tiny: ", "Device: ", "Settings:", "Last lines"):
        assert line in text
    assert len(told[0]["Model tiny"]) == 64
