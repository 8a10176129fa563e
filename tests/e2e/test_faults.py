import os
import signal

import pytest
from qgis_support import is_running, wait_for


def test_interrupt_cancels_with_1_and_no_file(qgis_process, long_job):
    process = qgis_process.start_job(**long_job)
    child = qgis_process.working_child(process)
    os.kill(child, signal.SIGINT)  # a terminal sends Ctrl-C to both
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "The job was cancelled." in text
    assert qgis_process.results() == []
    assert wait_for(lambda: not is_running(child), 60)


def test_a_killed_backend_is_1_with_a_sentence_and_no_file(qgis_process, long_job):
    process = qgis_process.start_job(**long_job)
    os.kill(qgis_process.working_child(process), signal.SIGKILL)
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "The backend stopped unexpectedly (signal 9)." in text
    assert "Log: " in text
    assert qgis_process.results() == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_backend_ends_with_its_qgis(qgis_process, long_job, how):
    process = qgis_process.start_job(**long_job)
    child = qgis_process.working_child(process)
    process.send_signal(how)
    process.wait()
    wait_for(lambda: not is_running(child), 10)
    assert qgis_process.results() == []
