"""The complete recipe of a trial. Every field is part of the trial's identity."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from search_spaces.hyperrule import Variant
from search_spaces.models import StrictModel, later_field
from search_spaces.recipes import completed


class Budget(StrictModel):
    """How long to train. Exactly one of the five; ``budget: hyperrule`` is short for the rule of that name.

    Attributes:
        steps: Optimiser steps; the same at every data fraction, so that fractions compare at equal compute.
        epochs: Passes over the subset, at least one step; compute then shrinks with the fraction.
        examples: Training images, each pass over one counted; the same compute whatever the batch size.
        flops: Operations of all training steps together, so that scales compare at equal compute; a step costs three
            forward passes of its images (``trainables.steps.flops_of_step``).
        rule: ``hyperrule``: steps by the size of the subset (``search_spaces.hyperrule``), which jump inside a curve.
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    examples: int | None = later_field(None, ge=1)
    rule: Literal["hyperrule"] | None = later_field(None)
    flops: float | None = later_field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _named_rule(cls, raw: Any) -> Any:
        return {"rule": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _one_of(self) -> Budget:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "budget needs exactly one of steps and epochs, or examples, flops or rule; got "
                + (" and ".join(given) or "none")
            )
        return self


class Augmentation(StrictModel):
    """Random changes to a training image; drawn per sample from (trial seed, step, ghost batch).

    Attributes:
        crop_scale: Area of the random crop relative to the image, drawn uniformly from this range; [1, 1] is no crop.
        crop_ratio: Aspect ratio (width / height) of the crop, drawn log-uniformly from this range.
        horizontal_flip: Probability of a left-right flip.
        vertical_flip: Probability of an up-down flip.
        rotation_degrees: Rotation, drawn uniformly from plus or minus this angle.
        brightness: Factor drawn uniformly from [1 - b, 1 + b]; 0 is off.
        contrast: Factor around the image's mean, drawn uniformly from [1 - c, 1 + c]; 0 is off.
        crop: resized: the box of ``crop_scale`` and ``crop_ratio``, brought to the input size. fixed: a box of the
            input size, moved at random by whole pixels of the image that a trial works on; nothing is resized.
        saturation: Factor around each pixel's grey level, drawn uniformly from [1 - s, 1 + s]; 0 is off.
        hue: Turn of the hue, drawn uniformly from plus or minus this share of a full turn; 0 is off.
        grid_distortion: Cells of a grid are drawn wider or narrower by a factor uniform in [1 - g, 1 + g], in each
            direction for itself, and the whole brought back to the size of the image; 0 is off.
        grid_cells: Cells of that grid per direction.
        elastic: Standard deviation of a smooth random displacement of each point, relative to the side; 0 is off
            (Simard et al. 2003).
        elastic_smoothness: Standard deviation of the Gaussian that smooths it, relative to the side.
        erasing: Probability that a box is painted with the mean colour (Zhong et al. 2020); with probability 1, a ratio
            of [1, 1] and a scale of one value it is the cut-out of DeVries and Taylor 2017, kept inside the image.
        erasing_scale: Area of that box relative to the image, drawn uniformly from this range.
        erasing_ratio: Its aspect ratio (height / width), drawn log-uniformly from this range.
    """

    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    horizontal_flip: float = Field(default=0.5, ge=0, le=1)
    vertical_flip: float = Field(default=0.0, ge=0, le=1)
    rotation_degrees: float = Field(default=0.0, ge=0, le=180)
    brightness: float = Field(default=0.0, ge=0, lt=1)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    crop: Literal["resized", "fixed"] = later_field("resized")
    saturation: float = later_field(0.0, ge=0, le=1)
    hue: float = later_field(0.0, ge=0, le=0.5)
    grid_distortion: float = later_field(0.0, ge=0, lt=1)
    grid_cells: int = later_field(5, ge=2, le=32)
    elastic: float = later_field(0.0, ge=0, le=0.2)
    elastic_smoothness: float = later_field(0.05, gt=0, le=0.2)
    erasing: float = later_field(0.0, ge=0, le=1)
    erasing_scale: tuple[float, float] = later_field((0.02, 1 / 3))
    erasing_ratio: tuple[float, float] = later_field((0.3, 10 / 3))

    @model_validator(mode="after")
    def _ranges(self) -> Augmentation:
        for name in ("crop_scale", "erasing_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} must be 0 < low <= high <= 1, got {[low, high]}")
        for name in ("crop_ratio", "erasing_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be 0 < low <= high, got {[low, high]}")
        return self


class Protocol(StrictModel):
    """All layers trained from the source's weights with a fresh head. Defaults are those of the recipe ``finetune``.

    Attributes:
        base: Which recipe the defaults come from (docs/protocols.md); every field can be written beside it.
        method: ``training`` of the network; or a fixed network, whose features are computed once: ``linear_probe`` fits
            a logistic regression on them, ``knn`` lets the nearest training images vote. These two use
            ``storage_size``, ``evaluation_crop``, ``select`` and the five fields at the end, and no other.
        budget: Length of training.
        optimizer: AdamW (Loshchilov and Hutter 2019), Adam (Kingma and Ba 2015) or SGD with momentum.
        lr: Peak learning rate.
        momentum: Of SGD; unused by the others.
        weight_decay: Decoupled for AdamW, added to the gradient for SGD and Adam; applies only to
            weights of two and more dimensions.
        schedule: Learning rate after warm-up: half a cosine to 0; constant; times ``decay_factor`` at each of the
            ``milestones`` (``multistep``); or times ``decay_factor`` when the validation loss stops improving
            (``plateau``).
        warmup_fraction: Share of the steps in which the learning rate rises linearly from 0.
        clip_norm: Largest gradient norm; None is no clipping.
        label_smoothing: Share of the target mass spread evenly; multiclass only.
        ema_decay: Decay of the exponential moving average of the weights, which is then what is evaluated; None is off.
        global_batch_size: Images per optimiser step.
        ghost_batch_size: Images normalised and randomised together (Hoffer et al. 2017); divides
            global_batch_size and is equal to it unless given.
        storage_size: Side in pixels of the stored square image; at least the input size.
        precision: Arithmetic of forward and backward (autocast for bf16 and fp16; weights stay float32).
        imbalance: none; weights (inverse class frequency in the loss; of masks that of pixels, in the binary
            cross-entropy); sampler (images drawn by inverse class frequency, with replacement; of masks by what they
            show). A label that a policy draws counts for both values in proportion; for the sampler, for the likelier.
        select: Which weights are evaluated and kept: best on validation by the task's primary metric, by the lowest
            validation loss (mean negative log-likelihood of the observed labels; of masks the protocol's loss over all
            validation pixels together), or those of the last step.
        evaluations: Evenly spaced validation passes, the last one after the last step.
        augmentation: Random changes to training images.
        freeze: Last part of the network, from the bottom, that stays as its source made it: ``layer2`` of a ResNet,
            ``stages.0`` of a ConvNeXt (``python -m orchestrator.sources show SCALE`` lists them). Batch norm there
            keeps its running statistics. None trains everything.
        layer_lr_decay: Factor of the learning rate per layer going down from the head, which has the full one; 1 is the
            same for all (Howard and Ruder 2018; layers as counted by timm).
        mixup_alpha: Each training image is blended with another of its ghost batch, targets alike; its own share is
            drawn from Beta(a, a) (Zhang et al. 2018). 0 is off.
        mixup_share: Whether that share is drawn for each ``image``, or once for all images of a ``step``.
        cutmix_alpha: A box of each training image is replaced by that of another, targets in proportion to the areas;
            the area outside is drawn from Beta(a, a) (Yun et al. 2019). 0 is off; if both are on, each image draws one
            of the two with equal chance.
        test_time_augmentation: What evaluation sets are scored on: one view of each image; that and its mirror image;
            or the five crops of centre and corners with their mirror images (Krizhevsky et al. 2012), of which
            probabilities are averaged. Validation, which only selects, always takes one view.
        variant: Which reading of the recipe: paper's ``text`` or authors' ``code``; of the BiT recipes only.
        head_init: The fresh head as the model makes it; ``zero``; or weights from N(0, 0.01) and bias 0 (``normal``).
        warmup_steps: Warm-up in steps instead of a share; or ``hyperrule``.
        warmup_start: Whether the first step of warm-up already moves (``above_zero``) or has learning rate 0.
        milestones: Of ``multistep``: steps (whole numbers: the first step, from 0, of each lower rate), or shares of
            all steps between 0 and 1; or ``hyperrule``.
        decay_factor: Of ``multistep`` and ``plateau``; 0.1 if not given.
        patience: Of ``plateau``: evaluations without improvement that are borne; one more lowers the rate.
        threshold: Of ``plateau``: relative improvement that counts; 0.0001 if not given.
        min_lr: Of ``plateau``: training stops when the learning rate falls below it.
        stop_patience: Training stops after more than this many evaluations in a row without a lower validation loss.
        evaluate_every: ``epoch``: validation after every pass over the subset, instead of ``evaluations``.
        mixup_min_images: Mixup only for subsets of at least this many images.
        evaluation_crop: What evaluation sees: the centre (7/8 of the side), or the whole image, resized. Masks are
            always predicted for the whole image, as each true pixel counts.
        loss: Of segmentation tasks: ``bce``, ``dice``, or ``bce_dice``, their sum (``trainables.mask_losses``), which
            is meant if not given. Tasks of labels have the cross-entropy.
        mask_threshold: Of segmentation tasks: from which probability on a pixel counts as predicted. ``best_val``: of
            0.05, 0.1 ... 0.95 what has the highest pooled Dice on validation at the selected step; ``half``: 0.5.
        image_size: ``scale``: the model's input size is the scale's, images are stored at ``storage_size`` and worked
            on at 8/7 of the input. ``[resize, crop]``: two sides in pixels; images are resized to the first, which is
            the ``storage_size``, too, and worked on at that size, and the model takes in the second. ``hyperrule``:
            both by the area of the data set's images (``search_spaces.hyperrule.resolution``); where it comes with the
            recipe, a written ``input_size`` of the scale goes before.
        compile: Train through ``torch.compile``, which rounds differently and draws other dropout masks; needs a C++
            compiler on every node. Validation and scoring are never compiled.
        inverse_penalties: Of ``linear_probe``: C of scikit-learn's ``LogisticRegression``, of which validation chooses.
        feature_scaling: Of ``linear_probe``: features ``standardised`` by mean and standard deviation of the training
            subset, or ``none``.
        neighbours: Of ``knn``: how many training images vote, of which validation chooses.
        temperature: Of ``knn``: a neighbour of cosine similarity s has exp(s / temperature) votes (Wu et al. 2018).
    """

    base: Literal[
        "finetune",
        "bit_hyperrule",
        "bit_light",
        "taher_classification",
        "transfusion_port",
        "taher_segmentation",
        "taher_vessels",
        "linear_probe",
        "knn",
    ] = "finetune"
    budget: Budget = Budget(steps=300)
    optimizer: Literal["adamw", "sgd", "adam"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["cosine", "constant", "multistep", "plateau"] = "cosine"
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    global_batch_size: int = Field(default=32, ge=1)
    ghost_batch_size: int = Field(default=32, ge=1)
    storage_size: int = Field(default=128, ge=8)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    imbalance: Literal["none", "weights", "sampler"] = "none"
    select: Literal["best_val", "last", "best_val_loss"] = "best_val"
    evaluations: int = Field(default=10, ge=1)
    augmentation: Augmentation = Augmentation()
    freeze: str | None = later_field(None)
    layer_lr_decay: float = later_field(1.0, gt=0, le=1)
    mixup_alpha: float = later_field(0.0, ge=0)
    cutmix_alpha: float = later_field(0.0, ge=0)
    test_time_augmentation: Literal["none", "flip", "ten_crop"] = later_field("none")
    variant: Variant | None = later_field(None)
    head_init: Literal["model", "zero", "normal"] = later_field("model")
    warmup_steps: Annotated[int, Field(ge=0)] | Literal["hyperrule"] | None = later_field(None)
    warmup_start: Literal["above_zero", "zero"] = later_field("above_zero")
    milestones: tuple[int, ...] | tuple[float, ...] | Literal["hyperrule"] | None = later_field(None)
    decay_factor: float | None = later_field(None, gt=0, lt=1)
    patience: int | None = later_field(None, ge=0)
    threshold: float | None = later_field(None, ge=0, lt=1)
    min_lr: float | None = later_field(None, gt=0)
    stop_patience: int | None = later_field(None, ge=0)
    evaluate_every: Literal["epoch"] | None = later_field(None)
    mixup_min_images: int = later_field(0, ge=0)
    mixup_share: Literal["image", "step"] = later_field("image")
    evaluation_crop: Literal["centre", "whole"] = later_field("centre")
    method: Literal["training", "linear_probe", "knn"] = later_field("training")
    inverse_penalties: tuple[Annotated[float, Field(gt=0)], ...] | None = later_field(None, min_length=1)
    feature_scaling: Literal["standardised", "none"] | None = later_field(None)
    neighbours: tuple[Annotated[int, Field(ge=1)], ...] | None = later_field(None, min_length=1)
    temperature: float | None = later_field(None, ge=0.01)
    image_size: tuple[int, int] | Literal["scale", "hyperrule"] = later_field("scale")
    compile: bool = later_field(False)
    loss: Literal["bce", "dice", "bce_dice"] | None = later_field(None)
    mask_threshold: Literal["best_val", "half"] = later_field("best_val")

    @model_validator(mode="wrap")
    @classmethod
    def _from_the_recipe(cls, raw: Any, handler: ModelWrapValidatorHandler[Protocol]) -> Protocol:
        if not isinstance(raw, dict):
            return handler(raw)
        made = handler(completed(raw))
        # What was not written counts as unset: another base, or a change of what it depends on, brings it anew.
        made.model_fields_set.intersection_update(raw)
        if isinstance(raw.get("augmentation"), dict):
            made.augmentation.model_fields_set.intersection_update(raw["augmentation"])
        return made

    @model_validator(mode="after")
    def _ghost_batches_fill_the_batch(self) -> Protocol:
        if self.global_batch_size % self.ghost_batch_size:
            raise ValueError(
                f"ghost_batch_size ({self.ghost_batch_size}) must divide global_batch_size ({self.global_batch_size})"
            )
        return self

    @model_validator(mode="after")
    def _fields_agree(self) -> Protocol:
        if problem := contradiction(self):
            raise ValueError(problem)
        return self

    @property
    def needs_validation_loss(self) -> bool:
        """Whether the validation loss selects, lowers the learning rate or stops."""
        return self.select == "best_val_loss" or self.schedule == "plateau" or self.stop_patience is not None

    @property
    def trains(self) -> bool:
        """Whether the network is trained; else it is fixed and its features are used."""
        return self.method == "training"

    @property
    def follows_hyperrule(self) -> bool:
        """Whether steps, and with them warm-up and milestones, or mixup jump where the subset's size does."""
        return self.budget.rule == "hyperrule" or bool(self.mixup_alpha and self.mixup_min_images)

    @property
    def ghost_batches(self) -> int:
        """Ghost batches per optimiser step; ranks beyond this number idle."""
        return self.global_batch_size // self.ghost_batch_size


def contradiction(protocol: Protocol) -> str | None:
    """Why the fields do not fit together; None if they do."""
    return _method_problem(protocol) or _schedule_problem(protocol)


_OF_METHOD = {"linear_probe": ("inverse_penalties", "feature_scaling"), "knn": ("neighbours", "temperature")}
_OF_FIXED_NETWORKS = ("base", "method", "storage_size", "image_size", "evaluation_crop", "select")


def _method_problem(protocol: Protocol) -> str | None:
    own = _OF_METHOD.get(protocol.method, ())
    for method, names in _OF_METHOD.items():
        for name in names:
            if method == protocol.method and getattr(protocol, name) is None:
                return f"method {method} needs {name}; base: {method} has it"
            if method != protocol.method and getattr(protocol, name) is not None:
                return f"{name} belongs to method {method}, got method {protocol.method}"
    if protocol.trains:
        return None
    for name, field in type(protocol).model_fields.items():
        if name not in (*_OF_FIXED_NETWORKS, *own) and getattr(protocol, name) != field.get_default():
            allowed = ", ".join((*_OF_FIXED_NETWORKS, *own))
            return f"{name} says how a network is trained, but method {protocol.method} trains none; it takes {allowed}"
    if protocol.select == "last":
        return f"method {protocol.method} chooses on validation; select is best_val or best_val_loss, got last"
    return None


def _schedule_problem(protocol: Protocol) -> str | None:
    schedule = protocol.schedule
    owners = {"milestones": ("multistep",), "decay_factor": ("multistep", "plateau")}
    owners |= dict.fromkeys(("patience", "threshold", "min_lr"), ("plateau",))
    for name, schedules in owners.items():
        if getattr(protocol, name) is not None and schedule not in schedules:
            wanted = " or ".join(schedules)
            return (
                f"{name} belongs to schedule {wanted}, got schedule {schedule}; drop {name} or write schedule: {wanted}"
            )
    needed = {"multistep": "milestones", "plateau": "patience"}.get(schedule)
    if needed and getattr(protocol, needed) is None:
        return f"schedule {schedule} needs {needed}"
    if protocol.warmup_steps is not None and protocol.warmup_fraction:
        return f"give one of warmup_steps ({protocol.warmup_steps}) and warmup_fraction ({protocol.warmup_fraction:g})"
    warmup, steps = protocol.warmup_steps, protocol.budget.steps
    if isinstance(warmup, int) and steps is not None and warmup >= steps:
        return f"warmup_steps ({warmup}) must be below budget.steps ({steps}), or the peak is never reached"
    if protocol.evaluate_every is not None and protocol.evaluations != 10:
        return f"give one of evaluate_every ({protocol.evaluate_every}) and evaluations ({protocol.evaluations})"
    if protocol.test_time_augmentation == "ten_crop" and protocol.evaluation_crop == "whole":
        return "test_time_augmentation ten_crop crops, evaluation_crop whole does not: use flip, or crop centre"
    if problem := _image_size_problem(protocol):
        return problem
    return _milestone_problem(protocol.milestones)


def _image_size_problem(protocol: Protocol) -> str | None:
    if isinstance(protocol.image_size, str):
        return None
    resize, crop = protocol.image_size
    if not 8 <= crop <= resize:
        return f"image_size is [resize, crop] in pixels with 8 <= crop <= resize, got {[resize, crop]}"
    if protocol.storage_size != resize:
        return (
            f"image_size {[resize, crop]} stores images at {resize} pixels, got storage_size {protocol.storage_size}; "
            "leave storage_size out"
        )
    return None


def _milestone_problem(milestones: tuple[int, ...] | tuple[float, ...] | str | None) -> str | None:
    if milestones is None or isinstance(milestones, str):
        return None
    rising = all(a < b for a, b in pairwise(milestones))
    steps = all(isinstance(m, int) and m >= 1 for m in milestones)
    shares = all(isinstance(m, float) and 0 < m < 1 for m in milestones)
    if milestones and rising and (steps or shares):
        return None
    return f"milestones are rising whole steps from 1, or rising shares between 0 and 1; got {list(milestones)}"


@cache
def field_names() -> tuple[str, ...]:
    """All fields of a protocol; those of nested parts with a dot, such as ``budget.steps``."""
    parts: dict[str, type[StrictModel]] = {"budget": Budget, "augmentation": Augmentation}
    nested = [f"{part}.{name}" for part, model in parts.items() for name in model.model_fields]
    return (*Protocol.model_fields, *nested)


def changed(protocol: Protocol, changes: Mapping[str, Any], where: str) -> Protocol:
    """The protocol with other values; a ghost batch that was the whole global batch goes on being so.

    Args:
        protocol: What is changed.
        changes: Field -> value. A name with a dot changes one field of a nested part, a name without replaces it whole.
        where: Where the changes were written; starts the message of an error.

    Raises:
        UserError: A field or value that a protocol does not take.
    """
    written = protocol.model_dump(exclude_unset=True)
    if "global_batch_size" in changes and protocol.ghost_batches == 1:
        written.pop("ghost_batch_size", None)
    for name, value in changes.items():
        part, _, field = name.partition(".")
        written[part] = {**written.get(part, {}), field: value} if field else value
    return Protocol.parse(written, where)
