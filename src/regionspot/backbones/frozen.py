"""The two frozen models together, and the fingerprint of the caches made with them."""

import logging
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from regionspot.backbones.clip import OpenClipEncoder, check_clip_name
from regionspot.backbones.encoder import Encoder
from regionspot.backbones.execution import FLOAT32, Execution, check_compiles, resolve_device
from regionspot.backbones.localizer import Localizer
from regionspot.backbones.presets import (
    SAM2_DEFAULT_WEIGHTS,
    ModelsConfig,
    Precision,
    TokenSite,
    resolve,
)
from regionspot.backbones.sam import SamLocalizer, load_sam
from regionspot.backbones.sam2 import Sam2Localizer, load_sam2
from regionspot.backbones.weights import state_sha256
from regionspot.cache import Fingerprint
from regionspot.core.workers import map_batches, workers_on

_logger = logging.getLogger(__name__)

ENCODERS: dict[str, type[Encoder]] = {"tiny": OpenClipEncoder}
"""Class of the encoder by the name of its model (option ``models.clip``); for all other names it is
`OpenClipEncoder`."""

_Batch = TypeVar("_Batch")
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class FrozenModels:
    """A localizer and an encoder on one device."""

    localizer: Localizer
    """The frozen SAM."""
    encoder: Encoder
    """The frozen CLIP."""
    sam_sha256: str = field(init=False, repr=False)
    """Identity of SAM's weights, independent of their file; see `state_sha256`."""
    clip_sha256: str = field(init=False, repr=False)
    """Identity of CLIP's weights, independent of their file."""

    def __post_init__(self) -> None:
        # Hashed here, before the weights can be cast to another dtype.
        object.__setattr__(self, "sam_sha256", state_sha256(self.localizer.module))
        object.__setattr__(self, "clip_sha256", state_sha256(self.encoder.module))

    @property
    def precision(self) -> Precision:
        """Precision of matrix products and convolutions in both models."""
        return self.encoder.execution.precision

    def map_batches(
        self,
        function: Callable[[_Batch], _Result],
        batches: Iterable[_Batch],
        *,
        num_batches: int | None = None,
    ) -> Generator[_Result]:
        """Apply a function that runs these models to batches; on a CPU to several at once.

        Args:
            function: Called with a batch, in other threads; see `regionspot.core.workers`.
            batches: The batches of this run.
            num_batches: Batches of the whole job; None for many. With fewer batches than threads,
                several threads compute each batch.

        Yields:
            The results, in order. Close the iterator if it may not be exhausted.
        """
        num_workers, num_threads = self.workers(num_batches)
        return map_batches(function, batches, num_workers=num_workers, num_threads=num_threads)

    def workers(self, num_batches: int | None = None) -> tuple[int, int]:
        """Return how many batches `map_batches` runs at once, and the threads of each."""
        if self.encoder.execution.compiled_batch_size is not None:
            return 1, torch.get_num_threads()
        return workers_on(self.encoder.device, num_batches)

    def fingerprint(self, *, exif_policy: str = "ignore") -> Fingerprint:
        """Return everything that the outputs for an image depend on.

        Args:
            exif_policy: How the images are rotated when they are decoded.
        """
        encoder, info = self.encoder, self.encoder.info
        return Fingerprint(
            sam_model=self.localizer.model_name,
            sam_weights_sha256=self.sam_sha256,
            sam_image_size=self.localizer.image_size,
            sam_resize=self.localizer.resize_rule,
            clip_model=info.name,
            clip_weights_sha256=self.clip_sha256,
            clip_image_size=info.image_size,
            clip_activation=info.activation,
            clip_mean=info.mean,
            clip_std=info.std,
            clip_resize=encoder.resize_rule,
            clip_first_token=info.first_token,
            exif_policy=exif_policy,
            token_site=self.localizer.token_site,
            token_dim=self.localizer.token_dim,
            feature_dim=info.width,
            num_feature_tokens=info.num_tokens,
            text_dim=info.text_dim,
        )


def load_localizer(
    model: str,
    weights: str,
    *,
    token_site: TokenSite = "transformer",  # noqa: S107 - no password
    execution: Execution = FLOAT32,
) -> Localizer:
    """Load a frozen SAM of either generation.

    Args:
        model: Name of the architecture; see `load_sam` and `load_sam2`, also for the errors.
        weights: Which weights.
        token_site: Where position tokens are read.
        execution: How its forward passes are run.
    """
    if model in SAM2_DEFAULT_WEIGHTS:
        sam2 = load_sam2(model, weights)
        return Sam2Localizer(sam2, token_site=token_site, model_name=model, execution=execution)
    sam = load_sam(model, weights)
    return SamLocalizer(sam, token_site=token_site, model_name=model, execution=execution)


def load_encoder(model: str, weights: str, *, execution: Execution = FLOAT32) -> Encoder:
    """Load a frozen encoder; arguments and errors are those of `Encoder.load`."""
    return ENCODERS.get(model, OpenClipEncoder).load(model, weights, execution=execution)


def load_frozen_models(
    config: ModelsConfig, *, device: str = "cpu", batch_size: int = 8
) -> FrozenModels:
    """Load SAM and CLIP.

    Args:
        config: Which models and weights, and how they are run.
        device: Where they run: "auto", "cpu", "cuda", "cuda:N".
        batch_size: The batch size to compile image encoders for.

    Raises:
        ConfigError: The preset, a model or the device does not exist, or compiling does not work.
        WeightsError: Weights are unknown or unavailable, or do not fit their model.
        MissingFileError: A weights file does not exist.
        MissingExtraError: ``open_clip`` or the package of the SAM is not installed.
    """
    target = resolve_device(device)
    if config.clip is not None and config.clip not in ENCODERS:
        # First: for a mistyped name, `resolve` would ask for weights.
        check_clip_name(config.clip)
    models = resolve(config)
    if config.compile:
        check_compiles(target)
    execution = Execution(
        precision=config.precision, compiled_batch_size=batch_size if config.compile else None
    )
    localizer = load_localizer(
        models.sam, models.sam_weights, token_site=models.token_site, execution=execution
    )
    encoder = load_encoder(models.clip, models.clip_weights, execution=execution)
    frozen = FrozenModels(localizer=localizer, encoder=encoder)
    _logger.info(
        "SAM %s (weights %s) and CLIP %s (weights %s) on %s in %s%s",
        models.sam,
        frozen.sam_sha256[:12],
        models.clip,
        frozen.clip_sha256[:12],
        target,
        config.precision,
        ", compiled" if config.compile else "",
    )
    frozen.localizer.to(target)
    frozen.encoder.to(target)
    return frozen
