"""The sections of an experiment's settings: each one's name, type, limits and unit.

A preset states every number, with its source beside it. The few settings with a default here came
after runs had been made without them: it is what those runs did, so that they can be resumed.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

# Spelled out again in runtime.py, which this module must not import: it imports torch.
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
Positive = Annotated[int, Field(ge=1, le=2**40)]
Rate = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, le=1e6)]


class Section(BaseModel):
    """Settings are frozen, finite, and none may be unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataConfig(Section):
    """Where the images come from and how they are prepared."""

    source: str = Field(min_length=1, max_length=4096)  # folder, zip, or faces, celeba, cifar10
    resolution: Literal[32, 64, 128, 256]  # side of the square images, in pixels
    crop: int | None = Field(ge=8, le=16384)  # side of the centre square; null: the largest one
    flip: bool  # mirror each image left to right with probability 1/2
    dequantize: bool  # add uniform noise of one grey level to real images
    attribute: str | None = Field(default=None, max_length=64)  # of CelebA, as the class
    held_out: float = Field(default=0, ge=0, le=0.5)  # share never trained on: 16 to 512 images


class AttentionConfig(Section):
    """Where the self-attention blocks stand and which variant they are."""

    at: list[int] = Field(max_length=6)  # map sizes that get a block; []: none
    scaled: bool  # divide the logits by sqrt(C/8)
    pooled: bool  # max-pool keys and values 2 x 2


class ConvnetConfig(Section):
    """The article's pair of networks, mended."""

    resolutions: ClassVar = [32, 64, 128, 256]  # that there are networks for
    batch_norm_momentum: ClassVar = 0.1  # share of the newest batch
    conditional: ClassVar = False  # they know no classes

    architecture: Literal["convnet"]
    latent_dim: int = Field(ge=1, le=4096)  # length of z
    width: int = Field(ge=8, le=512, multiple_of=8)  # channels at half the resolution
    attention: AttentionConfig
    g_spectral_norm: bool  # normalise the generator's weights
    d_spectral_norm: bool  # normalise the discriminator's weights
    self_modulation: bool = False  # the latent vector scales and shifts each map of G
    san: bool = False  # D's last layer is a direction, learnt as in SAN


class ResnetConfig(Section):
    """The papers' pair of residual networks."""

    resolutions: ClassVar = [32, 64, 128]

    architecture: Literal["resnet"]
    conditional: bool  # classes enter both networks
    latent_dim: int = Field(ge=1, le=4096)  # length of z
    width: int = Field(ge=8, le=512, multiple_of=8)  # channels of D's first block
    d_wide: bool  # D's blocks widen in their first convolution (SAGAN), else in their second
    d_halve_last: bool  # D's last block pools as well
    d_score_bias: bool  # D's last layer has a bias
    attention: AttentionConfig
    g_spectral_norm: bool  # normalise the generator's weights, but for batch norm's tables
    d_spectral_norm: bool  # normalise the discriminator's weights
    spectral_norm_eps: float = Field(gt=0, le=1e-2)  # guards the division in a unit vector
    batch_norm_eps: float = Field(gt=0, le=1)
    batch_norm_momentum: float = Field(gt=0, le=1)  # share of the newest batch
    initial: Literal["glorot", "glorot-sqrt2", "orthogonal"]  # sqrt2: for 3 x 3 residual kernels
    san: bool = False  # D's last layer is a direction, learnt as in SAN


ModelConfig = Annotated[ConvnetConfig | ResnetConfig, Field(discriminator="architecture")]


class LossConfig(Section):
    """What the networks minimise."""

    kind: Literal["hinge", "nonsaturating", "wasserstein", "relativistic"]
    gradient_penalty: Weight  # lambda of WGAN-GP; 0: off
    r1: Weight  # gamma of R1, on real images; 0: off
    r2: Weight = 0  # gamma of R2, the same on generated images; 0: off
    lecam: Weight = 0  # of LeCam regularisation; 0: off, its paper has 0.3


def _a_probability(value: object) -> float | str:
    """ValueError unless `value` is what `augment.probability` may be."""
    if value == "adaptive":
        return "adaptive"
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ValueError(
        f"augment.probability is {value!r}, but it should be a number from 0 to 1, or adaptive"
    )


class AugmentConfig(Section):
    """How images are changed before D sees them, real and generated ones alike."""

    policy: list[Literal["colour", "translation", "cutout"]] = Field(default=[], max_length=3)
    probability: Annotated[float | Literal["adaptive"], PlainValidator(_a_probability)] = 1.0
    # of each kind of change; adaptive: from 0 on, more while D memorises, by the held-out images

    def adaptive(self) -> bool:
        """Whether images are changed, and the run finds out how often."""
        return bool(self.policy) and self.probability == "adaptive"


class OptimConfig(Section):
    """How the networks are updated: Adam, two learning rates, an average of G."""

    g_lr: Rate
    d_lr: Rate
    betas: Annotated[list[Decay], Field(min_length=2, max_length=2)]
    batch_size: int = Field(ge=1, le=65536)  # images in one update
    grad_accumulation: int = Field(ge=1, le=1024)  # passes a batch is split into, to save memory
    d_steps_per_g: int = Field(ge=1, le=100)  # updates of D before each update of G
    ema_half_life: Positive  # of the average of G's weights, in images
    adam_eps: float = Field(default=1e-8, gt=0, le=1)
    g_batch_multiple: int = Field(default=1, ge=1, le=100)  # G's batches, in units of batch_size
    lr_decay: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    # steps from and to which both rates fall linearly to zero; null: they are constant


class TrainConfig(Section):
    """How long, in which arithmetic, and what is written down on the way."""

    steps: Positive  # updates of G
    seed: int = Field(ge=0, lt=2**63)
    precision: Precision
    log_every: Positive  # steps
    preview_every: Positive  # steps
    checkpoint_every: Positive  # steps
    checkpoint_minutes: float = Field(ge=0, le=1e6)  # and at least so often; 0: only by steps
    keep_checkpoints: int = Field(ge=2, le=1000)  # newest files kept in a run ...
    keep_every: int = Field(ge=0, le=2**40)  # ... and those of every so-many-th step; 0: none
    rollbacks: int = Field(ge=0, le=1000)  # times a run that diverged may go back and try again
    deterministic: bool = False  # on a GPU too: slower, but the same bytes each time


class ScoreConfig(Section):
    """How often a run measures its images, and against what; `ganctl score` does so at any time."""

    every: int = Field(default=0, ge=0, le=2**40)  # steps; 0: never
    images: int = Field(default=5000, ge=40, le=10_000_000)  # generated ones, and real ones
    features: str = Field(default="lite0", min_length=1, max_length=4096)
    # lite0, inception (then it is FID), or a file with the weights of inception


class HealthConfig(Section):
    """What follows from an alarm; `training/diagnosis.py` has them all."""

    on_alarm: Literal["warn", "stop"] = "warn"  # stop: save, and end with exit code 9
