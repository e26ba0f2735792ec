"""Names that more than one layer uses: axes, states, tags, columns. The only place where they are spelled."""

from __future__ import annotations

from enum import StrEnum

SCHEMA_VERSION = 1
SCIENCE_VERSION = 2
"""Part of every ``trial_id``. Raise it by hand in the commit that changes what a trial computes."""

AXES = ("model_scale", "pretraining_source", "data_fraction", "task")


class Kind(StrEnum):
    """What one label of a task is."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    MULTILABEL = "multilabel"
    ORDINAL = "ordinal"
    SEGMENTATION = "segmentation"


class Split(StrEnum):
    """The part of a manifest that an image belongs to."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"
    EXTERNAL = "external"
    UNUSED = "unused"


class Unit(StrEnum):
    """What one row is when an evaluation set is scored."""

    IMAGE = "image"
    STUDY = "study"
    PATIENT = "patient"


NO_AGGREGATION = "none"
"""Predictions are scored image by image; otherwise ``<unit>:<mean or max>``."""

AGGREGATIONS = (NO_AGGREGATION, *(f"{unit}:{how}" for unit in (Unit.STUDY, Unit.PATIENT) for how in ("mean", "max")))
"""Whatever predictions may be scored by."""


class State(StrEnum):
    """Where a trial stands in the record."""

    COMPLETE = "complete"
    FAILED = "failed"
    RUNNING = "running"
    MISSING = "missing"
    SUPERSEDED = "superseded"


class FailureClass(StrEnum):
    """Why a trial failed; decides what happens next (docs/failures.md)."""

    USER = "user"
    DATA = "data"
    DIVERGENCE = "divergence"
    MEMORY = "memory"
    NODE = "node"
    TRACKING = "tracking"


class Role(StrEnum):
    """What an MLflow run of a study is for."""

    STUDY = "study"
    TARGET = "target"
    UPSTREAM = "upstream"
    SEARCH = "search"


class Tag:
    """MLflow tag names of a run."""

    SCHEMA = "sc.schema"
    STUDY = "sc.study"
    TRIAL_ID = "sc.trial_id"
    CELL_ID = "sc.cell_id"
    ATTEMPT_ID = "sc.attempt_id"
    ROLE = "sc.role"
    STATE = "sc.state"
    FAILURE_CLASS = "sc.failure_class"
    FAILURE_MESSAGE = "sc.failure_message"
    SUBSET_HASH = "sc.subset_hash"
    SEED = "seed"
    PARENT = "mlflow.parentRunId"
    RUN_NAME = "mlflow.runName"
    NOTE = "mlflow.note.content"

    @staticmethod
    def axis(axis: str) -> str:
        """The tag (and param) name of one axis."""
        return f"axis.{axis}"


class Artifact:
    """File names inside a trial's folder and its MLflow artifacts."""

    TRIAL = "trial.json"
    RECEIPT = "receipt.json"
    HISTORY = "history.parquet"
    WEIGHTS = "weights.safetensors"
    PREDICTIONS = "predictions"
    """Folder; one ``<evaluation set>.parquet`` each, and ``val.parquet`` of the selected step, which is none."""
    REPRESENTATIONS = "representations"
    """Folder; stays in the storage. ``initial`` and ``final.safetensors``, ``weights.parquet``."""


class Moment(StrEnum):
    """When representations are kept."""

    INITIAL = "initial"
    FINAL = "final"

    @property
    def file_name(self) -> str:
        """In a trial's folder of representations."""
        return f"{self}.safetensors"


WEIGHT_TABLE = "weights.parquet"
"""In a trial's folder of representations: how far each parameter is from its start."""


class Column:
    """Column names of manifests and predictions (see docs/formats.md)."""

    IMAGE_ID = "image_id"
    PATH = "path"
    FRAME = "frame"
    WIDTH = "width"
    HEIGHT = "height"
    PATIENT_ID = "patient_id"
    STUDY_ID = "study_id"
    SITE = "site"
    SPLIT = "split"
    MASK = "mask"
    MASK_SECOND = "mask_second"
    """Mask of a second observer; evaluation of observers only."""
    VALID_AREA = "valid_area"
    """Mask of the pixels that count, such as the field of view of a fundus photograph."""
    SEX = "sex"
    AGE_YEARS = "age_years"
    AGE_BAND = "age_band"
    Y = "y"
    LABEL_PREFIX = "y_"
    RAW_PREFIX = "raw_"
    LOGIT_PREFIX = "z_"
    GROUP_PREFIX = "g_"


class MaskColumn:
    """Further column names of predictions of masks, one row per image and label."""

    LABEL = "label"
    COUNTS = ("tp", "fp", "fn", "tn")
    """Pixels: predicted and true, predicted only, true only, neither."""
    DISTANCES = ("hd95", "nsd")


UNCERTAIN = -1
"""Label value of an uncertain finding (CheXpert's convention)."""

MISSING_CLASS = -1
"""Value of the multiclass column ``y`` (int16) where the class is not known."""
