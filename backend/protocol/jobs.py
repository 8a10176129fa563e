"""The cascade's job: its fields, which make the command line, the Processing parameters and the JSON."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from .fields import FieldError, JobField, check_fields

DEFAULT_MODEL = "metaearth-lite"
MAX_SEED = 2147483647

JOB_FIELDS: Tuple[JobField, ...] = (
    JobField("input", "raster", "Source raster", "The raster to make finer.", required=True),
    JobField("output", "destination", "Result",
             "GeoTIFF of the last stage; earlier stages go beside it. A folder receives stage1.tif, stage2.tif.",
             required=True),
    JobField("extent", "extent", "Extent",
             "Part of the source in its own coordinates: XMIN YMIN XMAX YMAX. Empty: the whole raster."),
    JobField("stages", "integer", "Stages",
             "How many times to make pixels four times finer. With neither this nor a target resolution: once.",
             minimum=1, maximum=6),
    JobField("resolution", "number", "Target resolution (m/px)",
             "Metres per pixel to reach, instead of a number of stages.", minimum=0.001, maximum=100000.0),
    JobField("model", "text", "Model", "Id of an installed model, or the folder of a model bundle.",
             default=DEFAULT_MODEL),
    JobField("bands", "bands", "Bands", "One band, or three for red, green and blue. Empty: as the raster is shown."),
    JobField("stretch", "range", "Stretch",
             "The two source values, as QGIS shows them, that become black and white for the network, and back. Empty:"
             " 8-bit data as they are, others from the whole layer's percentiles.", advanced=True),
    JobField("seed", "integer", "Seed", "The same seed gives the same pixels; another seed, another plausible detail.",
             default=0, minimum=0, maximum=MAX_SEED),
    JobField("sampler", "choice", "Sampler", "How noise becomes an image. auto: what the model was tuned for.",
             default="auto", choices=("auto", "dpm-solver++", "ddim"), advanced=True),
    JobField("steps", "integer", "Steps", "Network evaluations a window. Empty: what suits the sampler.",
             minimum=1, maximum=1000, advanced=True),
    JobField("noise", "choice", "Noise",
             "field: a function of place, no seams and no repetition. repeated-block: the paper's one block for all"
             " windows. independent: one draw a window.",
             default="field", choices=("field", "repeated-block", "independent"), advanced=True),
    JobField("overlap", "choice", "Overlap",
             "default: windows share a narrow blended border. paper: windows advance by half, central halves are kept.",
             default="default", choices=("default", "paper"), advanced=True),
    JobField("consistency", "number", "Consistency",
             "0 to 1: how strictly the result, averaged down, must be the source again.",
             default=1.0, minimum=0.0, maximum=1.0, advanced=True),
    JobField("source_resolution", "number", "Source resolution (m/px)",
             "Metres per pixel of the source. Needed only if it has no coordinate reference system.",
             minimum=0.001, maximum=100000.0, advanced=True),
    JobField("device", "choice", "Device", "Where the network runs. auto: the GPU if there is one.",
             default="auto", choices=("auto", "cpu", "cuda"), advanced=True),
    JobField("precision", "choice", "Precision",
             "Number format inside the network. auto: the fastest that suits the device.",
             default="auto", choices=("auto", "float32", "bfloat16"), advanced=True),
    JobField("compile", "choice", "Compile", "Compile the network first (CUDA on Linux only): faster in long jobs.",
             default="off", choices=("off", "on"), advanced=True),
    JobField("samples", "integer", "Samples",
             "How many results to make, with this seed and the next ones; above one, their mean and standard deviation"
             " are written beside the first.", default=1, minimum=1, maximum=64, advanced=True),
    JobField("executor", "text", "Executor",
             "local: this machine, with several GPUs a process on each; local:4: four processes of it. An address"
             " (tcp://host:port, tls://host:port) or a scheduler file: that Dask cluster. auto: DASK_SCHEDULER_ADDRESS"
             " if set, else local.",
             default="auto", advanced=True),
    JobField("job_dir", "folder", "Job folder",
             "Folder for unfinished work, kept when the job is cancelled so that it can be resumed. Empty: beside the"
             " result.", advanced=True),
)

FIELDS: Dict[str, JobField] = {field.name: field for field in JOB_FIELDS}


@dataclass(frozen=True)
class Job:
    """What a user asks for; one attribute a `JobField`. Extents are xmin, ymin, xmax, ymax in the source's CRS."""

    input: str
    output: str
    extent: Optional[List[float]] = None
    stages: Optional[int] = None
    resolution: Optional[float] = None
    model: str = DEFAULT_MODEL
    bands: Optional[List[int]] = None
    stretch: Optional[List[float]] = None
    seed: int = 0
    sampler: str = "auto"
    steps: Optional[int] = None
    noise: str = "field"
    overlap: str = "default"
    consistency: float = 1.0
    source_resolution: Optional[float] = None
    device: str = "auto"
    precision: str = "auto"
    compile: str = "off"
    samples: int = 1
    executor: str = "auto"
    job_dir: Optional[str] = None

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> Job:
        """The job in ``values``, every field checked; `FieldError` says what is wrong."""
        checked = check_fields(JOB_FIELDS, values)
        if checked["stages"] is not None and checked["resolution"] is not None:
            raise FieldError("Give either a number of stages or a target resolution, not both.")
        return cls(**checked)

    def with_absolute_paths(self) -> Job:
        """The same job, wherever it is resumed."""
        return dataclasses.replace(
            self,
            input=self.input and os.path.abspath(self.input),
            output=os.path.abspath(self.output),
            executor=os.path.abspath(self.executor) if os.path.isfile(self.executor) else self.executor,
            job_dir=os.path.abspath(self.job_dir) if self.job_dir else None,
        )

    def to_dict(self) -> Dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)
