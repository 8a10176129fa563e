"""A job from the plugin's side: handed to the backend, followed, told about."""

from __future__ import annotations

from typing import List

from qgis.core import QgsProcessingFeedback

from ...backend.protocol import Job, JobResult, JobSummary, Progress
from .backend_client import session_client
from .translate import tr


def run_job(job: Job, feedback: QgsProcessingFeedback) -> JobResult:
    """The finished job; what it will cost is told first, then its progress. Raises `BackendError`."""
    client = session_client()
    shown: List[str] = []

    def show(progress: Progress) -> None:
        feedback.setProgress(100.0 * progress.fraction)
        text = tr("Stage {} of {}: {}").format(progress.stage, progress.stages, progress.message)
        if text not in shown:
            shown.append(text)
            feedback.setProgressText(text)

    feedback.setProgressText(tr("Starting the backend…"))
    params = {"job": job.to_dict()}
    summary = JobSummary.from_dict(client.request("plan", params, show, feedback.isCanceled))
    tell_cost(summary, feedback)
    result = JobResult.from_dict(client.request("generate", params, show, feedback.isCanceled))
    for warning in result.warnings:
        if warning not in summary.warnings:
            feedback.pushWarning(warning)
    feedback.pushInfo(tr("Done in {:.1f} s on {}: {:.3g} m/px, seed {}.").format(
        result.seconds_total, result.device, result.grid.pixel_size_m, result.seed))
    return result


def tell_cost(summary: JobSummary, feedback: QgsProcessingFeedback) -> None:
    """Write the job's size and the backend's warnings into the log."""
    last = summary.stages[-1]
    feedback.pushInfo(tr("Stages: {}. Result: {} x {} pixels of {:.3g} m, {:.1f} MB. Windows: {}, network evaluations: "
                         "{}.").format(len(summary.stages), last.width, last.height, last.pixel_size_m,
                                       summary.output_bytes / 1e6, summary.windows, summary.evaluations))
    for warning in summary.warnings:
        feedback.pushWarning(warning)
