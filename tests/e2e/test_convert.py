"""Released heads in and out; the oracle is torch's own decoder with the same weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from regionspot.cli.main import main
from regionspot.model import (
    FusionHead,
    HeadCard,
    HeadSpec,
    RegionClassifier,
    TrainedHead,
    load_trained_head,
    save_trained_head,
)


class PaperHead(nn.Module):
    """The head as the paper describes it, out of torch's own modules; names as released."""

    def __init__(self, width: int, text_dim: int) -> None:
        super().__init__()
        self.to_clip = nn.Linear(256, width)
        layer = nn.TransformerDecoderLayer(width, 8, 2048, 0.1, "relu", batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 3, nn.LayerNorm(width))
        self.projector = nn.Linear(width, text_dim)

    def logits(self, tokens_BRS: Tensor, map_BTD: Tensor, bank_CE: Tensor) -> Tensor:
        z_BRE = self.projector(self.decoder(self.to_clip(tokens_BRS), map_BTD))
        return 100 * z_BRE / (z_BRE.norm(dim=-1, keepdim=True) + 1e-7) @ bank_CE.T


@pytest.mark.parametrize(
    ("name", "width", "text_dim", "prefix"), [("bb", 768, 512, ""), ("bl", 1024, 768, "model.")]
)
@torch.no_grad()
def test_a_released_head_gives_the_logits_of_torchs_decoder_and_goes_back_unchanged(
    name: str, width: int, text_dim: int, prefix: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    paper = PaperHead(width, text_dim).eval()
    state = {prefix + key: tensor.clone() for key, tensor in paper.state_dict().items()}
    released = tmp_path / f"{name}.pth"
    torch.save({"model": state, "iteration": 3}, released)
    main(["convert", str(released), str(tmp_path / name)])
    trained = load_trained_head(tmp_path / name)
    # The heads in float64: a scale of 100 makes a rounding of float32 look like a difference.
    paper.double()
    trained.head.double()
    tokens, feature_map = torch.randn(2, 5, 256).double(), torch.randn(2, 50, width).double()
    bank = nn.functional.normalize(torch.randn(7, text_dim).double(), dim=-1)
    ours = trained.classifier(trained.head(tokens, feature_map), bank)
    theirs = paper.logits(tokens, feature_map, bank)
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5)
    main(["convert", str(tmp_path / name), str(tmp_path / "back.pth")])
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == {key.removeprefix(prefix) for key in state}
    assert all(tensor.equal(back[key.removeprefix(prefix)]) for key, tensor in state.items())


def test_a_head_that_the_layout_cannot_express_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = FusionHead(HeadSpec(token_dim=8, feature_dim=16, text_dim=4, position_code="sincos"))
    classifier = RegionClassifier(20.0, -8.0)
    card = HeadCard(head=head.spec, scale=20.0, bias=-8.0)
    save_trained_head(tmp_path, TrainedHead(head=head, classifier=classifier, card=card))
    with pytest.raises(SystemExit) as exit_info:
        main(["convert", str(tmp_path), str(tmp_path / "x.pth")])
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert "position_code sincos" in message
    assert "scale 20, bias -8" in message
    assert not (tmp_path / "x.pth").exists()


def test_widths_of_another_pair_of_models_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": PaperHead(64, 16).state_dict()}, tmp_path / "x.pth")
    with pytest.raises(SystemExit) as exit_info:
        main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "x"), "--models.preset", "toy"])
    assert exit_info.value.code == 2
    assert "widths 256, 64, 16" in capsys.readouterr().err


def test_two_files_of_one_kind_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["convert", "a.pth", "b.pth"])
    assert exit_info.value.code == 2
    assert "on one side and a folder on the other" in capsys.readouterr().err
