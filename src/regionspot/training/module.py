"""The Lightning module: fusion head, loss, optimizer and logged values."""

import dataclasses
import logging
from typing import Any, NoReturn, TypedDict

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric
from typing_extensions import override

from regionspot.core.errors import ConfigError, WeightsError
from regionspot.core.state_dict import check_shapes, load_strictly
from regionspot.data import CachedRegions, FeatureSpec, RegionBatch
from regionspot.model import (
    CHECKPOINT_CARD_KEY,
    FusionHead,
    HeadCard,
    HeadOptions,
    HeadSpec,
    RegionClassifier,
    TrainedHead,
    region_focal_loss,
)
from regionspot.training.callbacks import (
    BatchSeeds,
    EndSiblingRanks,
    StopOnNonFinite,
    StopOnSigterm,
    check_weights,
)
from regionspot.training.checkpoints import own_checkpoints
from regionspot.training.heads import load_start, untrained_card, warn_of_other_features
from regionspot.training.recipe import (
    ClassifierOptions,
    LossOptions,
    OptimizerOptions,
    ScheduleOptions,
    learning_rate_factor,
    make_optimizer,
    warmup_warning,
)
from regionspot.training.throughput import is_logging_step


class TrainingOutput(TypedDict):
    """What a training step returns to Lightning and callbacks."""

    loss: Tensor
    """The loss to differentiate, of this rank's images, scaled so that a step has the same gradient
    as on one process."""
    batch_loss: Tensor
    """This rank's part of the loss; the mean over ranks is the loss of the whole batch."""


class ValidationOutput(TypedDict):
    """What a validation step returns to Lightning and callbacks."""

    scores: Tensor
    """Probabilities over the validation vocabulary, (B, R, C) float32; undefined in the padding."""
    batch: RegionBatch
    """The batch that they belong to."""


_logger = logging.getLogger(__name__)

_PAPER_HEAD = HeadOptions()
_PAPER_CLASSIFIER = ClassifierOptions()
_PAPER_OPTIMIZER = OptimizerOptions()
_PAPER_SCHEDULE = ScheduleOptions()
_PAPER_LOSS = LossOptions()


class RegionSpotModule(pl.LightningModule):
    """Trains a fusion head on cached features; the defaults are the paper's recipe.

    Text banks come from the data module when a run starts. Checkpoints hold the head, the
    classifier and the card of both, and nothing frozen.

    Args:
        spec: Widths of the features. ``train.py`` sets them from the caches.
        head: Shape of the head.
        classifier: Scale and bias of the logits.
        optimizer: Options of AdamW.
        schedule: Learning rate as a function of the number of images seen.
        loss: Options of the focal loss.
        init_from: Trained head to initialize head, scale and bias from: a head/ folder, a
            .safetensors or .ckpt file, hf://owner/name on the Hugging Face Hub, or a checkpoint
            released with the paper (.pth). null for random weights.
        compile: Compile the head with torch.compile.

    Raises:
        ConfigError: The head cannot have this shape.
        MissingFileError: There is no file at ``init_from``.
        WeightsError: The head at ``init_from`` has another shape.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        head: HeadOptions = _PAPER_HEAD,
        classifier: ClassifierOptions = _PAPER_CLASSIFIER,
        optimizer: OptimizerOptions = _PAPER_OPTIMIZER,
        schedule: ScheduleOptions = _PAPER_SCHEDULE,
        loss: LossOptions = _PAPER_LOSS,
        init_from: str | None = None,
        *,
        compile: bool = False,  # noqa: A002 - the option's name in configs
    ) -> None:
        super().__init__()
        self._classifier_options = classifier
        self._optimizer_options = optimizer
        self._schedule_options = schedule
        self._loss_options = loss
        self._init_from = init_from
        self._start_card: HeadCard | None = None
        self._finite_loss = StopOnNonFinite()
        self._loss_of_step: Tensor | float = 0.0
        self.head = FusionHead(
            HeadSpec(
                token_dim=spec.token_dim,
                feature_dim=spec.feature_dim,
                text_dim=spec.text_dim,
                **dataclasses.asdict(head),
            )
        )
        self.classifier = RegionClassifier(
            classifier.scale, classifier.bias, trainable=classifier.trainable
        )
        # Lightning's own mean over processes would not weight them by their number of regions.
        self.val_top1 = MeanMetric()
        self._initial_card: HeadCard | None = None
        if init_from is not None:
            start = load_start(init_from, self.head.spec)
            # Only guidance may be missing, and then keeps its initial values.
            weights = self.head.state_dict() | start.head.state_dict()
            load_strictly(self.head, weights, source=init_from)
            load_strictly(self.classifier, start.classifier.state_dict(), source=init_from)
            self._initial_card = start.card
        if compile:
            # In place: torch.compile(head) would add a prefix to every key.
            self.head.compile()

    @override
    def configure_callbacks(self) -> list[pl.Callback]:
        """Return the callbacks of every training, and replace Lightning's checkpoint IO.

        Lightning calls this when a trainer starts, before it reads a checkpoint.
        """
        own_checkpoints(self.trainer)
        return [BatchSeeds(), self._finite_loss, StopOnSigterm(), EndSiblingRanks()]

    @override
    def setup(self, stage: str) -> None:
        """Take text banks and the card from the data module, and request what the head needs."""
        data = self._data_module()
        if self.head.spec.needs_masks:
            data.request_masks()
        for source, bank in enumerate(data.text_banks):
            # Not persistent: banks may be large, and come with the caches.
            self.register_buffer(_bank_name(source), bank, persistent=False)
        if data.val_text_bank is not None:
            self.register_buffer(_bank_name("val"), data.val_text_bank, persistent=False)
        # Every rank has the banks; DDP would send those of rank 0 in every step.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # noqa: SLF001
            self, [name for name, _ in self.named_buffers() if name.startswith(_bank_name(""))]
        )
        self._start_card = untrained_card(
            data,
            self.head.spec,
            scale=self._classifier_options.scale,
            bias=self._classifier_options.bias,
            initial=self._initial_card,
        )
        if self._initial_card is not None:
            warn_of_other_features(
                self._initial_card.fingerprint, data.fingerprint, init_from=str(self._init_from)
            )

    @override
    def forward(self, batch: RegionBatch, text_bank: Tensor) -> Tensor:
        """Return the logits of regions over a text bank (C, E), as (B, R, C) float32."""
        return self.classifier(self._embed(batch), text_bank)

    def _embed(self, batch: RegionBatch) -> Tensor:
        """Return the embeddings of regions, (B, R, E)."""
        embeddings_BRE: Tensor = self.head(
            batch.position_tokens, batch.features(), batch.region_mask, batch.extents()
        )
        return embeddings_BRE

    @override
    def training_step(self, batch: RegionBatch, batch_idx: int) -> TrainingOutput:
        """Return the loss of a batch over the vocabulary of its source."""
        share = region_focal_loss(
            self._embed(batch),
            self.get_buffer(_bank_name(batch.source)),
            batch.labels,
            batch.region_mask,
            classifier=self.classifier,
            alpha=self._loss_options.alpha,
            gamma=self._loss_options.gamma,
            normalization=self._loss_options.normalization,
            num_regions=batch.num_regions_of_step,
            num_counted=batch.num_regions,
        )
        loss = share * self._share_factor()
        self._loss_of_step += loss.detach() / self.trainer.accumulate_grad_batches
        return {"loss": loss, "batch_loss": share.detach() * self.trainer.world_size}

    def _share_factor(self) -> int:
        """Return the factor of a rank's loss for which a step equals one on a single process.

        DDP averages gradients over ranks, and Lightning divides the loss by the number of
        accumulated batches. The losses of the ranks, however, add up to that of the whole batch.
        So do those of accumulated batches under the "paper" normalization, a sum over images;
        under "regions" the loss of a step is the mean over its batches.
        """
        if self._loss_options.normalization == "paper":
            return self.trainer.world_size * self.trainer.accumulate_grad_batches
        return self.trainer.world_size

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log loss, learning rate, gradient norm before clipping, and learned guidance."""
        loss, self._loss_of_step = self._loss_of_step, 0.0
        if is_logging_step(self.trainer, self.trainer.global_step + 1):
            # Averaged as gradients are. Only on logging steps, since it synchronizes the ranks.
            loss = self.trainer.strategy.reduce(loss, reduce_op="mean")
            self.log("train/loss", loss, prog_bar=True, batch_size=1)
            self.log("train/lr", optimizer.param_groups[0]["lr"], batch_size=1)
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients), batch_size=1)
            if self.head.spec.guidance == "learned":
                self.log_dict(self._guidance_strengths(), batch_size=1)

    def _guidance_strengths(self) -> dict[str, Tensor]:
        """Return the learned strength of each attention head by its name in the log."""
        return {
            f"train/guidance/block{block}_head{head}": strength
            for block, guidance in enumerate(self.head.guidance())
            for head, strength in enumerate(guidance.weight.detach())
        }

    @override
    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients as configured in the Trainer, also with a fused optimizer.

        Lightning refuses to with every mixed precision, as fused optimizers might unscale gradients
        themselves; but only 16-mixed scales gradients.
        """
        by_norm = gradient_clip_algorithm in (None, "norm")
        if self._optimizer_options.fused and by_norm and self.trainer.precision != "16-mixed":
            if gradient_clip_val:
                torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
            return
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    @override
    def validation_step(self, batch: RegionBatch, batch_idx: int) -> ValidationOutput:
        """Return class probabilities over the validation vocabulary, and log top-1 accuracy."""
        logits = self(batch, self.get_buffer(_bank_name("val")))
        counts = batch.labels >= 0
        self.val_top1.update((logits.argmax(dim=-1) == batch.labels)[counts].float())
        self.log("val/top1", self.val_top1, on_epoch=True, prog_bar=True, batch_size=len(batch))
        return {"scores": logits.softmax(dim=-1), "batch": batch}

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW and its schedule."""
        optimizer = make_optimizer(
            self.head,
            self.classifier,
            optimizer=self._optimizer_options,
            classifier_options=self._classifier_options,
        )
        images_per_step = self._images_per_step()
        end_images = self.trainer.estimated_stepping_batches * images_per_step
        warning = warmup_warning(self._schedule_options, end_images=end_images)
        if warning is not None and self.trainer.is_global_zero:
            _logger.warning(warning)
        schedule = LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(
                step * images_per_step, self._schedule_options, end_images=end_images
            ),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check loss and weights, and add the card for `load_trained_head`."""
        self._finite_loss.check(self.trainer)
        # Not those of this module: a callback may have replaced weights by their average.
        weights = checkpoint["state_dict"]
        check_weights(weights, step=self.trainer.global_step)
        card = self._card(weights["classifier.log_scale"], weights["classifier.bias"])
        checkpoint[CHECKPOINT_CARD_KEY] = card.to_json()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise WeightsError for checkpoints of another head, or of weights only."""
        check_shapes(self, checkpoint["state_dict"], source="the checkpoint of --ckpt_path")
        if self.trainer.state.fn == TrainerFn.FITTING and "optimizer_states" not in checkpoint:
            raise WeightsError(
                "the checkpoint of --ckpt_path holds weights only (save_weights_only), so training"
                " cannot resume from it. Start a run from its weights with --model.init_from."
            )

    @classmethod
    @override
    def load_from_checkpoint(cls, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Raise ConfigError: Lightning's implementation may run code from the file."""
        raise ConfigError(
            "load checkpoints with regionspot.model.load_trained_head or"
            " RegionSpot.from_pretrained; resume training with fit(..., ckpt_path=...)."
        )

    def trained_head(self) -> TrainedHead:
        """Return the current head and classifier (not copied), with their card."""
        card = self._card(self.classifier.log_scale, self.classifier.bias)
        return TrainedHead(head=self.head, classifier=self.classifier, card=card)

    def _card(self, log_scale: Tensor, bias: Tensor) -> HeadCard:
        card = self._start_card
        if card is None:
            raise ConfigError(
                "this module has not been trained, so the caches for the card of its head are"
                " unknown. Run Trainer.fit with a CachedRegions data module first."
            )
        schedule = dataclasses.asdict(self._schedule_options)
        return dataclasses.replace(
            card,
            scale=log_scale.exp().item(),
            bias=bias.item(),
            training={
                **card.training,
                "steps": self.trainer.global_step,
                "init_from": self._init_from,
                "optimizer": dataclasses.asdict(self._optimizer_options),
                "schedule": schedule | {"milestones_images": list(schedule["milestones_images"])},
                "loss": dataclasses.asdict(self._loss_options),
            },
        )

    def _images_per_step(self) -> float:
        """Return the images of an optimizer step over all devices and accumulated batches.

        The last step of an epoch may have fewer, as Lightning does not accumulate across epochs.
        """
        return self._data_module().images_per_batch * self.trainer.accumulate_grad_batches

    def _data_module(self) -> CachedRegions:
        # An attribute that Lightning's Trainer does not declare.
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, CachedRegions):
            raise ConfigError(
                f"RegionSpotModule needs a CachedRegions data module, found"
                f" {type(data).__name__}: call trainer.fit(module, datamodule=CachedRegions(...))."
            )
        return data


def _bank_name(source: int | str) -> str:
    return f"text_bank_{source}"
