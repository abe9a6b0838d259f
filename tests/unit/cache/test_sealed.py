import json
from pathlib import Path

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.cache import seal_json, write_sealed_hdf5
from regionspot.cache.sealed import open_sealed_hdf5, open_sealed_json
from regionspot.core.errors import CacheCorruptError, MissingFileError, RegionSpotError

VALUE = {"name": "caf\u00e9", "numbers": [1, 2.5, None], "nested": {"a": True}}


@pytest.mark.parametrize("indent", [None, 2])
def test_sealed_json_is_json(indent: int | None, tmp_path: Path) -> None:
    text, seal = seal_json(VALUE, indent=indent)
    assert json.loads(text) == {"schema_version": 4, **VALUE, "sha256": seal}
    path = tmp_path / "file.json"
    path.write_text(text, encoding="utf-8")
    assert open_sealed_json(path, remedy="") == ({"schema_version": 4, **VALUE}, seal)


def test_the_sealed_bytes_are_these() -> None:
    text, seal = seal_json({"a": [1, "x"]})
    # printf '{"schema_version":4,"a":[1,"x"]' | sha256sum
    assert seal == "7f26a5e0b927e87b05227804dc34bca8c748f92e9052ebf0e522af34c16935a6"
    assert text == '{"schema_version":4,"a":[1,"x"],\n"sha256": "' + seal + '"\n}\n'


@pytest.mark.parametrize("indent", [None, 2])
def test_every_flipped_bit_and_every_cut_of_sealed_json_is_refused(
    indent: int | None, tmp_path: Path
) -> None:
    data = seal_json(VALUE, indent=indent)[0].encode("utf-8")
    path = tmp_path / "file.json"
    for position in range(len(data)):
        for damaged in (
            data[:position],
            *(
                data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]
                for bit in (position % 8, 5)
            ),
        ):
            path.write_bytes(damaged)
            with pytest.raises(RegionSpotError):
                open_sealed_json(path, remedy="")


@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=300))
def test_no_bytes_break_the_reader_of_sealed_json(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("noise") / "file.json"
    path.write_bytes(data)
    with pytest.raises(RegionSpotError):
        open_sealed_json(path, remedy="")


def fill(h5: h5py.File) -> None:
    h5.create_dataset("numbers", data=[1, 2, 3], track_times=False)


def test_any_hdf5_reader_reads_sealed_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    write_sealed_hdf5(path, fill)
    with h5py.File(path, "r") as h5:
        assert h5["numbers"][()].tolist() == [1, 2, 3]
        assert h5.attrs["schema_version"] == 4
        assert h5.userblock_size == 512
    with open_sealed_hdf5(path, remedy="") as h5:
        assert h5["numbers"][()].tolist() == [1, 2, 3]


def test_flipped_bits_and_cuts_of_sealed_hdf5_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    write_sealed_hdf5(path, fill)
    data = path.read_bytes()
    for position in [*range(0, 200, 7), 511, 512, 520, 700, len(data) - 1]:
        for damaged in (
            data[:position],
            data[:position] + bytes([data[position] ^ 16]) + data[position + 1 :],
        ):
            path.write_bytes(damaged)
            with (
                pytest.raises(CacheCorruptError, match="Do this"),
                open_sealed_hdf5(path, remedy="Do this."),
            ):
                pass


def test_missing_files_come_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="Do this"):
        open_sealed_json(tmp_path / "none.json", remedy="Do this.")
    with (
        pytest.raises(MissingFileError, match="Do this"),
        open_sealed_hdf5(tmp_path / "none.h5", remedy="Do this."),
    ):
        pass
