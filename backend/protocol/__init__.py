"""The door between QGIS and the backend: job fields, messages and folders.

All that both processes import: ``fields`` and what is made of them (the cascade's ``jobs``, all other ``verbs``),
``messages``, and ``files`` that both know. Standard library only, Python 3.9 syntax; import names from here.

Messages are JSON-RPC 2.0, one a line, UTF-8. Requests go from the client to the backend:

=============  =================================================  ==========================================
method         params                                             result
=============  =================================================  ==========================================
initialize     ``{"protocol": 1, "parent_pid": 4711}``            `Handshake`
plan           ``{"job": {...}}``                                 `JobSummary`: what the job would do
plan           ``{"verb": "translate", "values": {...}}``         the same of a `Verb` that is ``planned``
generate       ``{"job": {...}}``                                 `JobResult`
resume         ``{"folder": "...", "executor": "local"}``         `JobResult` of the unfinished job there
run            ``{"verb": "prepare", "values": {...}}``           what the `Verb` tells of its outcome, by name
inspect        ``{"input": "...", "source_resolution": 0.3}``     `RasterInfo`
unfinished     ``{}``                                             `UnfinishedJobs` that nobody works on
discard        ``{"folder": "..."}``                              ``{}``; the unfinished job there is deleted
models         ``{}``                                             `Models`
add_model      ``{"source": "...", "sha256": "..."}``             `Models`, the added one among them
remove_model   ``{"id": "..."}``                                  `Models`, without it
cluster        ``{"executor": "tcp://...", "device": "auto"}``    `ClusterInfo`
diagnose       ``{}``                                             `Diagnosis`
cancel         ``{"id": 3, "keep": true}``                        none; the cancelled request ends in an error
shutdown       ``{}``                                             ``{}``, then the process ends
=============  =================================================  ==========================================

``generate``, ``resume`` and ``run`` wait for each other, and send notifications ``progress`` with `Progress` and the
request's ``id``; all else is answered meanwhile. ``keep``: whether a cancelled job's finished blocks stay, to be
resumed; without it they do if the job names its folder.
"""

from .fields import (
    FieldError,
    JobField,
    check_fields,
)
from .files import (
    ANCHOR_STEP,
    ANCHOR_TAG,
    JOB_FOLDER,
    OWNER_FILE,
    PLAN_FILE,
    RASTER_DRIVERS,
    STRETCH_TAG,
    data_home,
    default_job_folder,
    stage_paths,
    statistics_paths,
    unfinished_folder,
)
from .jobs import (
    DEFAULT_MODEL,
    FIELDS,
    JOB_FIELDS,
    MAX_SEED,
    Job,
)
from .messages import (
    CANCELLED,
    CASCADE,
    ENGINE_VERSION,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    JOB_FAILED,
    JOB_METHODS,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION,
    SCENE,
    WRITING,
    ClusterInfo,
    Diagnosis,
    GridInfo,
    Handshake,
    JobResult,
    JobSummary,
    ModelInfo,
    Models,
    Progress,
    RasterInfo,
    UnfinishedJob,
    UnfinishedJobs,
    decode,
    encode,
    error_response,
    notification,
    request,
    response,
)
from .verbs import (
    AUGMENT,
    DEFAULT_SCENE_MODEL,
    EMBED,
    EVALUATE,
    FLYTHROUGH,
    GENERATE_PAIR,
    MODALITIES,
    MODALITY_BANDS,
    MODALITY_TITLES,
    PLACE,
    PREPARE,
    PROTOCOLS,
    TARGETS,
    TRAIN,
    TRANSLATE,
    VERBS,
    VIEW,
    WORLD_FIELDS,
    Output,
    Verb,
)

__all__ = [  # noqa: RUF022 - in plain alphabetical order
    "ANCHOR_STEP", "ANCHOR_TAG", "AUGMENT", "CANCELLED", "CASCADE", "ClusterInfo", "DEFAULT_MODEL",
    "DEFAULT_SCENE_MODEL", "Diagnosis", "EMBED", "ENGINE_VERSION", "EVALUATE", "FIELDS", "FLYTHROUGH", "FieldError",
    "GENERATE_PAIR", "GridInfo", "Handshake", "INTERNAL_ERROR", "INVALID_PARAMS", "INVALID_REQUEST", "JOB_FAILED",
    "JOB_FIELDS", "JOB_FOLDER", "JOB_METHODS", "Job", "JobField", "JobResult", "JobSummary", "MAX_SEED",
    "METHOD_NOT_FOUND", "MODALITIES", "MODALITY_BANDS", "MODALITY_TITLES", "ModelInfo", "Models", "OWNER_FILE",
    "Output", "PLACE",
    "PLAN_FILE", "PREPARE", "PROTOCOLS", "PROTOCOL_VERSION", "Progress", "RASTER_DRIVERS", "RasterInfo", "SCENE",
    "STRETCH_TAG", "TARGETS", "TRAIN", "TRANSLATE", "UnfinishedJob", "UnfinishedJobs", "VERBS", "VIEW", "Verb",
    "WORLD_FIELDS", "WRITING",
    "check_fields", "data_home", "decode", "default_job_folder", "encode", "error_response", "notification",
    "request", "response", "stage_paths", "statistics_paths", "unfinished_folder",
]
