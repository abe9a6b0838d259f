"""SAM's released files: checked before they get their name, and messages for machines offline."""

import hashlib
from pathlib import Path

import pytest

from regionspot.backbones import SAM_RELEASES, ReleasedFile
from regionspot.backbones.weights import fetch
from regionspot.core.errors import WeightsError

DATA = b"weights" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGIONSPOT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def released(tmp_path: Path) -> ReleasedFile:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "w.pth").write_bytes(DATA)
    url = (tmp_path / "server" / "w.pth").as_uri()
    return ReleasedFile(file_name="w.pth", url=url, sha256_prefix=SHA256[:6])


def test_the_releases_are_metas_three_files() -> None:
    assert {name: (r.url, r.sha256_prefix) for name, r in SAM_RELEASES.items()} == {
        "sam_vit_b_01ec64": (
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
            "01ec64",
        ),
        "sam_vit_l_0b3195": (
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
            "0b3195",
        ),
        "sam_vit_h_4b8939": (
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
            "4b8939",
        ),
    }


def test_a_file_is_downloaded_once(
    home: Path, released: ReleasedFile, capfd: pytest.CaptureFixture[str]
) -> None:
    path = fetch(released, option="models.sam_weights")
    assert path == home / "w.pth"
    assert path.read_bytes() == DATA
    Path(released.url.removeprefix("file://")).unlink()
    assert fetch(released, option="models.sam_weights") == path


def test_other_bytes_than_the_released_never_get_the_name(
    home: Path, released: ReleasedFile
) -> None:
    Path(released.url.removeprefix("file://")).write_bytes(b"a proxy's login page")
    with pytest.raises(WeightsError, match="did not give the released bytes"):
        fetch(released, option="models.sam_weights")
    assert list(home.iterdir()) == []


def test_offline_the_message_says_what_to_fetch_where_to_put_it_and_which_option_to_give(
    home: Path, released: ReleasedFile
) -> None:
    Path(released.url.removeprefix("file://")).unlink()
    with pytest.raises(WeightsError) as error:
        fetch(released, option="models.sam_weights")
    message = str(error.value)
    assert released.url in message
    assert f"put it at {home / 'w.pth'}" in message
    assert "--models.sam_weights /path/to/w.pth (recognize and export: --sam_weights)." in message


def test_a_file_put_there_by_hand_is_checked(home: Path, released: ReleasedFile) -> None:
    home.mkdir()
    (home / "w.pth").write_bytes(DATA[:-1])
    with pytest.raises(WeightsError, match=r"w\.pth has the SHA-256 [0-9a-f]{64}; wanted one"):
        fetch(released, option="models.sam_weights")
