"""Messages and what they hold."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Union

PROTOCOL_VERSION = 1
ENGINE_VERSION = "0.1.0"

INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
JOB_FAILED = -32000
CANCELLED = -32800

JOB_METHODS = ("generate", "resume", "run")
"""Requests that the backend works on one after the other."""

CASCADE, SCENE = "cascade", "scene"
"""Kinds of models: those that make rasters finer, and MetaEarth-MM's, which know modalities."""


@dataclass(frozen=True)
class ModelInfo:
    """What a client shows of a model bundle.

    ``kind`` is `CASCADE` or `SCENE`; ``modalities``: what a scene model was trained on. Old messages have neither.
    """

    id: str
    title: str
    folder: str
    has_weights: bool
    ground_resolution_m: List[float]
    licence: str
    kind: str = CASCADE
    modalities: List[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Models:
    """The models that there are."""

    models: List[ModelInfo]

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> Models:
        """The models in a message."""
        return cls([ModelInfo(**m) for m in values["models"]])


@dataclass(frozen=True)
class ClusterInfo:
    """What answers at an executor's address; none: this machine, whose workers are processes."""

    address: str
    workers: int
    threads: int


@dataclass(frozen=True)
class Diagnosis:
    """Names and lines for a report to those who are asked for help."""

    facts: Dict[str, str]


@dataclass(frozen=True)
class Handshake:
    """Answer to ``initialize``."""

    protocol: int
    engine: str
    pid: int
    device: str
    device_name: str
    memory_bytes: int
    models: List[ModelInfo]

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> Handshake:
        """The handshake in a message."""
        return cls(**{**values, "models": [ModelInfo(**m) for m in values["models"]]})


@dataclass(frozen=True)
class GridInfo:
    """Where a raster lies: ``transform`` is a, b, c, d, e, f of x = a col + b row + c, y = d col + e row + f."""

    crs: str
    transform: List[float]
    width: int
    height: int
    pixel_size_m: float


@dataclass(frozen=True)
class RasterInfo:
    """What the backend sees in a raster: its grid, its bands, and how the network will see their values.

    ``shown_bands`` is what a job takes by default; ``stretch_low`` and ``stretch_high`` become black and white.
    ``models`` names those whose ground resolution range the first stage's result falls into.
    """

    path: str
    driver: str
    grid: GridInfo
    pixel_width_m: float
    pixel_height_m: float
    dtype: str
    bands: int
    shown_bands: List[int]
    nodata: Optional[str]
    mask: str
    stretch_low: List[float]
    stretch_high: List[float]
    models: List[str]

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> RasterInfo:
        """The description in a message."""
        return cls(**{**values, "grid": GridInfo(**values["grid"])})


@dataclass(frozen=True)
class JobSummary:
    """What a job would do: one `GridInfo` a stage, what it costs, and what the user should know first.

    ``output_bytes`` without compression, ``disk_bytes`` to have free, ``seconds`` on ``device_name`` as measured there.
    ``preview_extent``, in the source's CRS: what one window makes of the last stage, at the middle of the job's extent.
    """

    stages: List[GridInfo]
    windows: int
    evaluations: int
    evaluations_per_pixel: float
    output_bytes: int
    disk_bytes: int
    free_bytes: int
    seconds: float
    device_name: str
    preview_extent: List[float]
    warnings: List[str]

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> JobSummary:
        """The summary in a message."""
        return cls(**{**values, "stages": [GridInfo(**g) for g in values["stages"]]})


@dataclass(frozen=True)
class UnfinishedJob:
    """A job that was interrupted: its folder, its source and result, and when it was last begun (local time)."""

    folder: str
    input: str
    output: str
    since: str


@dataclass(frozen=True)
class UnfinishedJobs:
    """Answer to ``unfinished``."""

    jobs: List[UnfinishedJob]

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> UnfinishedJobs:
        """The jobs in a message."""
        return cls([UnfinishedJob(**job) for job in values["jobs"]])


WRITING = "writing"
"""`Progress.message` while results are written; what mosaics are made of is deleted next."""


@dataclass(frozen=True)
class Progress:
    """Parameters of a ``progress`` notification. Stages count from 1; ``fraction`` is of the whole job.

    ``mosaic`` is a VRT of what is finished of the stage; each is a new file, the one before the last is deleted.
    """

    id: Union[int, str, None]
    stage: int
    stages: int
    windows_done: int
    windows: int
    fraction: float
    eta_seconds: Optional[float]
    message: str
    mosaic: Optional[str] = None


@dataclass(frozen=True)
class JobResult:
    """What a finished job says of itself; ``grid`` and ``consistency_psnr`` (dB) are of the last stage.

    ``statistics``: rasters of mean and standard deviation, where several samples were made. ``evaluations`` counts
    network evaluations of this run in all stages; ``evaluations_per_pixel`` those of the last stage, in earlier runs of
    the job too, times a window's pixels over its valid output pixels. ``blocks_resumed`` were finished by earlier runs.
    ``consistency_psnr`` is None where it is infinite, or was not measured: scenes have none.
    """

    outputs: List[str]
    statistics: List[str]
    grid: GridInfo
    seed: int
    model: str
    model_sha256: str
    sampler: str
    steps: int
    device: str
    precision: str
    evaluations: int
    evaluations_per_pixel: float
    blocks_resumed: int
    seconds_network: float
    seconds_total: float
    peak_memory_bytes: int
    consistency_psnr: Optional[float]
    warnings: List[str]

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> JobResult:
        """The result in a message."""
        return cls(**{**values, "grid": GridInfo(**values["grid"])})


def encode(message: Dict[str, Any]) -> bytes:
    """One message as one line."""
    return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8") + b"\n"


_TYPES = {"id": (int, str), "method": (str,), "params": (dict,)}


def decode(line: bytes) -> Dict[str, Any]:
    """The message of one line; ValueError if it is not a JSON-RPC 2.0 object."""
    message = json.loads(line.decode("utf-8"))
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or not all(
        isinstance(message.get(name), (type(None), *kinds)) for name, kinds in _TYPES.items()
    ):
        raise ValueError("This is not a JSON-RPC 2.0 message.")
    return message


def request(id_: int, method: str, params: Dict[str, Any]) -> Dict[str, Any]:
    """A request that wants an answer."""
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}


def notification(method: str, params: Dict[str, Any]) -> Dict[str, Any]:
    """A message that wants none."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def response(id_: Any, result: Any) -> Dict[str, Any]:
    """The answer to a request."""
    return {"jsonrpc": "2.0", "id": id_, "result": result}


def error_response(id_: Any, code: int, sentence: str, condition: str = "error") -> Dict[str, Any]:
    """The failure of a request; ``condition`` names it to programs, ``sentence`` to people."""
    return {"jsonrpc": "2.0", "id": id_,
            "error": {"code": code, "message": sentence, "data": {"condition": condition}}}
