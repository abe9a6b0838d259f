"""From Detectron2's files to proposals; the oracle is the arithmetic of the logistic function."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from regionspot.annotations import read_proposals
from regionspot.cli.main import main


def test_a_pickle_becomes_proposals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (3, 20, 2)).astype(np.float32)
    boxes = [np.concatenate([xy, xy + 10], axis=1) for xy in corners]
    logits = rng.normal(0, 3, (3, 20)).astype(np.float32)
    source, target = tmp_path / "box_proposals.pkl", tmp_path / "proposals.json"
    value = {"boxes": boxes, "objectness_logits": list(logits), "ids": [3, 1, 2], "bbox_mode": 0}
    source.write_bytes(pickle.dumps(value))
    main(["convert-proposals", str(source), str(target)])
    assert "60 boxes of 3 images; their scores were logits" in capsys.readouterr().out
    assert len(json.loads(target.read_text())) == 60
    table = read_proposals(target)
    for image_id, row in ((3, 0), (1, 1), (2, 2)):
        order = np.argsort(-logits[row])
        boxes_xyxy, scores = table.of_image(image_id)
        np.testing.assert_allclose(boxes_xyxy, boxes[row][order], atol=1e-4)
        wanted = [1 / (1 + math.exp(-logit)) for logit in logits[row][order].tolist()]
        np.testing.assert_allclose(scores, wanted, rtol=1e-6)


def test_predictions_become_proposals(tmp_path: Path) -> None:
    source, target = tmp_path / "instances_predictions.pth", tmp_path / "proposals.json"
    instance = {"image_id": 42, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
    torch.save([{"image_id": 42, "instances": [instance]}], source)
    main(["convert-proposals", str(source), str(target)])
    assert json.loads(target.read_text()) == [instance]
    assert read_proposals(target).of_image(42)[0].tolist() == [[1, 2, 4, 6]]


def test_what_cannot_be_converted_exits_with_2_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "a.pth", tmp_path / "a.json"
    nan = {"image_id": 42, "bbox": [1.0, 2.0, 3.0, math.nan], "score": 0.5}
    torch.save([{"image_id": 42, "instances": [nan]}], source)
    for words, message in (
        ([str(source), str(target)], "cannot be written as a COCO result"),
        ([str(source), str(tmp_path / "a.pkl")], "a.pkl does not end in .json"),
        ([str(tmp_path / "b.pkl"), str(target)], "b.pkl does not exist"),
    ):
        with pytest.raises(SystemExit) as exited:
            main(["convert-proposals", *words])
        assert exited.value.code == 2
        assert message in capsys.readouterr().err
    assert not target.exists()


def test_the_help_says_what_becomes_of_logits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert-proposals", "--help"])
    assert "by the logistic function" in " ".join(capsys.readouterr().out.split())
