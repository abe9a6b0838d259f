"""Named regions in labelling tools' own packages, which `make test-labelling` installs."""

import json

import numpy as np
import pytest

from helpers.regions import BOXES, make_regions

pytestmark = [
    pytest.mark.labelling,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # their own
]

LABELS = ["sea egg", "lemon", "sea egg"]
INTERFACE = """
<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image">
    <Label value="lemon"/>
    <Label value="sea egg"/>
  </RectangleLabels>
</View>
"""


def test_fiftyone_keeps_boxes_scores_and_masks() -> None:
    import fiftyone

    regions = make_regions()
    sample = fiftyone.Sample(filepath="a.jpg", named=regions.to_fiftyone())
    found = fiftyone.Sample.from_dict(sample.to_dict())["named"].detections
    assert [one.label for one in found] == LABELS
    assert [one.confidence for one in found] == [0.75, 0.5, 1.0]
    for row, (one, box) in enumerate(zip(found, BOXES, strict=True)):
        x, y, width, height = one.bounding_box
        corners = [80 * x, 50 * y, 80 * (x + width), 50 * (y + height)]
        np.testing.assert_allclose(corners, box, atol=1e-3)
        whole = one.to_segmentation(frame_size=(80, 50)).mask > 0
        np.testing.assert_array_equal(whole, regions.mask(row))


def test_label_studio_accepts_the_prediction() -> None:
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface(INTERFACE)
    task = json.loads(json.dumps(make_regions().to_label_studio("https://host/a.jpg")))
    (prediction,) = task["predictions"]
    assert interface.validate_prediction(prediction, return_errors=True) == []
    prediction["result"][0]["value"]["rectanglelabels"] = ["tennis ball"]
    assert not interface.validate_prediction(prediction)
