"""How large everything is: as in the paper, or so small that a CPU tries all of it in seconds."""

from dataclasses import dataclass

from common.made_up_cache import Widths
from head_step import StepSize

from regionspot.training import HeadOptions


@dataclass(frozen=True, kw_only=True)
class Size:
    """The numbers of a run."""

    preset: str
    """Which SAM and CLIP."""
    rounds: int
    """How often each way is timed, in turn, after one round that does not count."""
    calls: int
    """Calls of something short that are timed together."""
    peak_side: int
    """Side of the matrices whose product is the peak."""
    compile_backend: str
    """What torch.compile hands its graphs to: a CPU that only tries the script compiles nothing."""
    caching_batch: int
    """Images that go through SAM and CLIP at once."""
    num_photos: int
    """Photos of the caching job."""
    num_photos_of_loop: int
    """Photos of ways that are slow."""
    attention_batch: int
    """Images that go through SAM's encoder at once where its attention is compared."""
    step: StepSize
    """The head and its batch of 12 regions an image."""
    step_batches: tuple[int, ...]
    """Images of a step."""
    num_loss_regions: int
    """Regions whose focal loss is taken."""
    num_classes: int
    """Classes of the focal loss: those of V3Det."""
    widths: Widths
    """Of the cache that is trained from."""
    num_cached: int
    """Its images."""
    num_steps: int
    """Steps of a training whose waiting is measured."""
    head: HeadOptions
    """The head of that training."""
    toy_images: int
    """Images of a toy source that are cached."""
    toy_training_images: int
    """Images that the toy head is trained on."""


FULL = Size(
    preset="bl",
    rounds=3,
    calls=20,
    peak_side=8192,
    compile_backend="inductor",
    caching_batch=16,
    num_photos=512,
    num_photos_of_loop=64,
    attention_batch=4,
    step=StepSize(num_regions=12),
    step_batches=(16, 256),
    num_loss_regions=256,
    num_classes=13_029,
    widths=Widths(),
    num_cached=2000,
    num_steps=300,
    head=HeadOptions(),
    toy_images=1200,
    toy_training_images=6400,
)
_SMALL = Widths(num_tokens=17, feature_dim=32, token_dim=16, text_dim=24)
TINY = Size(
    preset="toy",
    rounds=1,
    calls=2,
    peak_side=128,
    compile_backend="eager",
    caching_batch=2,
    num_photos=4,
    num_photos_of_loop=2,
    attention_batch=2,
    step=StepSize(
        num_regions=12,
        num_tokens=_SMALL.num_tokens,
        token_dim=_SMALL.token_dim,
        feature_dim=_SMALL.feature_dim,
        text_dim=_SMALL.text_dim,
        ffn_dim=48,
        num_heads=2,
        num_classes=20,
    ),
    step_batches=(2, 4),
    num_loss_regions=32,
    num_classes=2048,
    widths=_SMALL,
    num_cached=64,
    num_steps=6,
    head=HeadOptions(num_blocks=1, num_heads=2, ffn_dim=48),
    toy_images=4,
    toy_training_images=32,
)
SIZES = {"full": FULL, "tiny": TINY}
