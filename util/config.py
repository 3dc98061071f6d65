"""The configuration of an experiment: typed, frozen, and checked when it is built.

`util.cli.parse` fills a `Config` from YAML files and the command line; every field below is an option of `main.py`
(`--model.num_queries 8`). Constructors elsewhere take plain values, so only `build` functions read a configuration.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from util.config_checks import is_of_type, not_negative, positive, within
from util.model_config import ModelConfig

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses, which are the matching costs' weights too (numbers of the paper, section 4.2).

    Args:
        class_weight: focal loss of the reference probability.
        l1_weight: L1 loss of the boxes.
        giou_weight: generalised IoU loss of the boxes.
        mask_weight: focal loss of the masks.
        dice_weight: DICE loss of the masks.
        focal_alpha: alpha of both focal losses.
        focal_gamma: gamma of both focal losses.
        aux_loss: every decoder layer is supervised, not only the last.
        match_boxes: boxes have a part in the choice of the responsible query.
        match_masks: masks have.
    """

    class_weight: float = 2.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    mask_weight: float = 2.0
    dice_weight: float = 5.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    aux_loss: bool = True
    match_boxes: bool = True
    match_masks: bool = True

    def __post_init__(self) -> None:
        not_negative(self, "class_weight", "l1_weight", "giou_weight", "mask_weight", "dice_weight", "focal_gamma")
        within(self, 0, 1, "focal_alpha")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and how clips are cut and augmented.

    Args:
        dataset: the reader: `ytvos` is the Ref-YouTube-VOS layout; `mevis` that of MeViS; `a2d` and `jhmdb` (which is
            evaluated only) have one annotated frame a clip; `refcoco` reads images, as pseudo clips where num_frames is
            above 1; `joint` adds these to `ytvos`.
        root: folder of the data set.
        refcoco_root: folder of the images of `joint`.
        refcoco_sets: which of `refcoco`, `refcoco+` and `refcocog` are read.
        train_split: split that is trained on.
        eval_split: split that is evaluated (its folder must hold annotations).
        absent_share: share of the training clips whose sentence means nothing in the video (`"obj_id": "0"`, in the
            Ref-YouTube-VOS layout alone): there, no query may claim to see an object. 0 leaves them out.
        num_frames: frames T of a training clip.
        augment: random flip, colours, size and crop; false only resizes.
        flip_probability: of the horizontal flip, which swaps left and right in the caption.
        photometric: distort brightness, contrast, saturation and hue.
        short_sides: short sides a training clip is resized to, drawn per clip (pixels).
        max_long_side: long side at most, when training (pixels).
        crop_probability: how often a clip is resized, cropped and resized again.
        crop_short_sides: short sides before the crop (pixels).
        crop_sizes: smallest and largest side of the crop (pixels).
        short_sides_after_crop: short sides of clips that were cropped; none are those of the others.
        max_long_side_after_crop: long side of such clips at most; null is that of the others.
        num_workers: loader processes per training process.
        cache_bytes: decoded frames of `a2d` and `jhmdb` that each loader process keeps between epochs; 0 keeps none.
        skip_broken: go on without unreadable samples, listed in `broken_samples.txt` of `train.output_dir`.
    """

    dataset: Literal["ytvos", "mevis", "a2d", "jhmdb", "refcoco", "joint"] = "ytvos"
    root: str = "data/ref-youtube-vos"
    refcoco_root: str = "data/coco"
    refcoco_sets: tuple[str, ...] = ("refcoco", "refcoco+", "refcocog")
    train_split: str = "train"
    eval_split: str = "valid"
    absent_share: float = 0.0
    num_frames: int = 5
    augment: bool = True
    flip_probability: float = 0.5
    photometric: bool = True
    short_sides: tuple[int, ...] = (288, 320, 352, 392, 416, 448, 480, 512)
    max_long_side: int = 640
    crop_probability: float = 0.5
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_sizes: tuple[int, int] = (384, 600)
    short_sides_after_crop: tuple[int, ...] = ()
    max_long_side_after_crop: int | None = None
    num_workers: int = 4
    cache_bytes: int = 500_000_000
    skip_broken: bool = False

    def __post_init__(self) -> None:
        positive(self, "num_frames", "max_long_side")
        within(self, 0, 1, "flip_probability", "crop_probability")
        not_negative(self, "num_workers", "cache_bytes")
        if not 0 <= self.absent_share < 1:
            raise ValueError(f"data.absent_share is {self.absent_share}; it must be at least 0 and below 1")
        if self.absent_share and self.dataset not in ("ytvos", "joint"):
            raise ValueError(
                f"data.absent_share is {self.absent_share}; of {self.dataset} no sentence is known to mean nothing, "
                "set it to 0"
            )
        if not self.short_sides or min(self.short_sides) < 1:
            raise ValueError(f"data.short_sides is {self.short_sides}; give at least one positive size")
        if self.crop_probability and (not self.crop_short_sides or min(self.crop_short_sides) < 1):
            raise ValueError(
                f"data.crop_short_sides is {self.crop_short_sides}; give at least one positive size, "
                "or set data.crop_probability to 0"
            )
        if not 1 <= self.crop_sizes[0] <= self.crop_sizes[1]:
            raise ValueError(f"data.crop_sizes is {self.crop_sizes}; it must be positive, the smallest side first")
        if min(self.short_sides_after_crop, default=1) < 1:
            raise ValueError(f"data.short_sides_after_crop is {self.short_sides_after_crop}; sizes are positive")
        if self.max_long_side_after_crop is not None:
            positive(self, "max_long_side_after_crop")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedule.

    Args:
        lr: learning rate of everything not named below.
        backbone_lr: learning rate of the visual backbone.
        text_encoder_lr: learning rate of the text encoder, when it is trained.
        offsets_lr_factor: times `lr` for `reference_points` and `sampling_offsets`.
        weight_decay: of all parameters.
        clip_grad_norm: largest gradient norm; 0 does not clip.
        epochs: passes over the training split.
        lr_drops: epochs after which every rate is multiplied by `lr_drop_factor`.
        lr_drop_factor: see `lr_drops`.
        warmup_steps: optimizer steps over which the rates rise linearly from 0.
        batch_size: clips per process and forward pass.
        accumulate_steps: forward passes per optimizer step.
        precision: `bfloat16` runs the network under autocast; weights and losses stay float32.
    """

    lr: float = 1e-4
    backbone_lr: float = 5e-5
    text_encoder_lr: float = 1e-5
    offsets_lr_factor: float = 1.0
    weight_decay: float = 5e-4
    clip_grad_norm: float = 0.1
    epochs: int = 6
    lr_drops: tuple[int, ...] = (3, 5)
    lr_drop_factor: float = 0.1
    warmup_steps: int = 0
    batch_size: int = 1
    accumulate_steps: int = 1
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        positive(self, "lr", "epochs", "batch_size", "accumulate_steps", "lr_drop_factor")
        not_negative(self, "backbone_lr", "text_encoder_lr", "offsets_lr_factor", "weight_decay", "clip_grad_norm")
        not_negative(self, "warmup_steps")
        if list(self.lr_drops) != sorted(set(self.lr_drops)):
            raise ValueError(f"optim.lr_drops is {self.lr_drops}; epochs must rise")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a run is carried out.

    Args:
        output_dir: folder of checkpoints, logs and curves.
        seed: of weights, data and dropout; ranks derive their own.
        resume: checkpoint to go on from with optimizer, schedule and random state; `auto` takes the newest in
            `output_dir`, and starts anew when there is none. Settings, milestones for instance, are the current ones.
        init_checkpoint: checkpoint whose weights start a new run (finetuning); a run that resumes has its own.
        drop_class_heads: leave the class heads of `init_checkpoint` out, on purpose.
        evaluate_only: checkpoint that is evaluated on `data.eval_split`, with the network and the `test` settings of
            its configuration, which settings of `test` that are given replace; nothing is trained.
        save_every_steps: also save `checkpoint.pth` every that many optimizer steps; 0 saves at epochs only.
        keep_epochs: keep `checkpoint_<epoch>.pth` of each epoch beside the newest.
        eval_every_epochs: evaluate after that many epochs; 0 never does.
        log_every_steps: steps between two lines of TensorBoard scalars.
        device: `cpu`, `cuda`, or `auto`.
        num_threads: CPU threads per process; 0 leaves PyTorch's choice.
        deterministic: deterministic algorithms on a GPU too (slower), so that a repeated or resumed run gives the same
            weights bit for bit there as well.
    """

    output_dir: str = "runs/default"
    seed: int = 42
    resume: str | None = None
    init_checkpoint: str | None = None
    drop_class_heads: bool = False
    evaluate_only: str | None = None
    save_every_steps: int = 0
    keep_epochs: bool = False
    eval_every_epochs: int = 1
    log_every_steps: int = 10
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int = 0
    deterministic: bool = False

    def __post_init__(self) -> None:
        not_negative(self, "save_every_steps", "eval_every_epochs", "num_threads", "seed")
        positive(self, "log_every_steps")


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """Inference and evaluation.

    Args:
        short_side: frames are resized to this short side (pixels).
        max_long_side: and to this long side at most; null does not cap it.
        window: frames that pass the network together; memory grows with it and not with the video's length.
        threshold: a pixel belongs to the mask where its probability is above this.
        precision: `bfloat16` halves the traffic; masks overlap the float32 ones almost entirely.
        presence_threshold: a sentence whose score stays below this means nothing in the video: its masks are empty.
            0 always finds something, as published; `scripts/calibrate_presence.py` finds a value.
        frame_presence_threshold: the same for single frames.
    """

    __test__ = False  # not a test case, whatever pytest reads into the name

    short_side: int = 360
    max_long_side: int | None = None
    window: int = 36
    threshold: float = 0.5
    precision: Precision = "float32"
    presence_threshold: float = 0.0
    frame_presence_threshold: float = 0.0

    def __post_init__(self) -> None:
        positive(self, "short_side", "window")
        within(self, 0, 1, "threshold", "presence_threshold", "frame_presence_threshold")
        if self.max_long_side is not None and self.max_long_side < self.short_side:
            raise ValueError(f"test.max_long_side is {self.max_long_side}, below short_side {self.short_side}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """An experiment: everything that `main.py` reads.

    Args:
        model: the network.
        loss: the criterion.
        data: the training and evaluation data.
        optim: optimizer and schedule.
        train: how the run is carried out.
        test: inference and evaluation.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    test: TestConfig = field(default_factory=TestConfig)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain containers, as a checkpoint carries them."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """The inverse of `to_dict`. A ValueError names an unknown section or field, or one of a wrong type."""
        sections = {f.name: f.default_factory for f in dataclasses.fields(Config)}
        built = {}
        for name, section in values.items():
            if name not in sections:
                raise ValueError(f"unknown section {name!r} in the configuration; known: {', '.join(sections)}")
            if not isinstance(section, dict):
                raise ValueError(f"section {name} of the configuration is {section!r}, not fields and values")
            known = typing.get_type_hints(sections[name])
            if unknown := sorted(set(section) - known.keys(), key=str):
                raise ValueError(f"unknown field {name}.{unknown[0]} in the configuration")
            fields = {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
            for key, value in fields.items():
                if not is_of_type(value, known[key]):
                    raise ValueError(f"{name}.{key} is {value!r} in the configuration, which is of a wrong type")
            built[name] = sections[name](**fields)
        return Config(**built)
