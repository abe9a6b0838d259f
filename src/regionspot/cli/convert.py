"""Turn a head released with the paper (.pth) into a trained head of this library, or back.

``regionspot convert released.pth heads/bl --models.preset bl`` writes ``heads/bl/head.safetensors``
and its card; ``regionspot convert runs/bl_stage2 mine.pth`` writes the released layout.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from regionspot.backbones.presets import ModelsConfig
from regionspot.cli.config_files import prepare_parsing
from regionspot.cli.run import run_cli
from regionspot.core.errors import ConfigError

if TYPE_CHECKING:
    from regionspot.model import TrainedHead

_RELEASED_SUFFIX = ".pth"  # regionspot.model.RELEASED_SUFFIX: importing it takes seconds


def main(args: Sequence[str] | None = None) -> None:
    """Convert a head; see ``regionspot convert --help``."""
    prepare_parsing()
    parser = ArgumentParser(prog="regionspot convert", description=__doc__)
    parser.add_argument("source", type=str, help="A released .pth file, or a trained head.")
    parser.add_argument("target", type=str, help="The folder or the .pth file to write.")
    parser.add_argument(
        "--models",
        type=ModelsConfig | None,
        default=None,
        help="From .pth: the SAM and CLIP that the head was trained on, so that from_pretrained can"
        " load them. They are loaded once, to take their identity; without them the head works on"
        " caches only.",
    )
    parser.add_argument(
        "--templates", type=str, default="ensemble81", help="From .pth: its text templates."
    )
    options = parser.instantiate(parser.parse_args(args))
    source, target = Path(options.source), Path(options.target)
    run_cli(lambda: _convert(source, target, options.models, options.templates))


def _convert(source: Path, target: Path, models: ModelsConfig | None, templates: str) -> None:
    if (source.suffix == _RELEASED_SUFFIX) == (target.suffix == _RELEASED_SUFFIX):
        raise ConfigError(
            f"{source} to {target}: wanted a released {_RELEASED_SUFFIX} file on one side and a"
            " folder on the other."
        )
    # Here, since torch alone takes seconds.
    from regionspot.model import load_trained_head, save_released_head, save_trained_head

    if target.suffix == _RELEASED_SUFFIX:
        save_released_head(target, load_trained_head(source))
    else:
        save_trained_head(target, _read_released(source, models, templates))
    print(f"wrote {target}")


def _read_released(source: Path, models: ModelsConfig | None, templates: str) -> "TrainedHead":
    from regionspot.model import load_released

    released = load_released(source)
    fingerprint = {}
    if models is not None:
        from regionspot.backbones import load_frozen_models

        found = load_frozen_models(models).fingerprint()
        widths = (found.token_dim, found.feature_dim, found.text_dim)
        spec = released.head.spec
        if widths != (spec.token_dim, spec.feature_dim, spec.text_dim):
            raise ConfigError(
                f"{source} has the widths {spec.token_dim}, {spec.feature_dim}, {spec.text_dim}"
                f" (token, feature map, text), but --models give {widths}: choose the preset that"
                " it was trained on (bb: 256, 768, 512; bl and bl336: 256, 1024, 768)."
            )
        fingerprint = found.to_dict()
    card = replace(
        released.card,
        fingerprint=fingerprint,
        templates=templates,
        library_version=version("regionspot"),
    )
    return replace(released, card=card)
