from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from regionspot.cache import TextBankStore
from regionspot.core.errors import CacheCorruptError, CacheMismatchError, ConfigError, ShapeError
from regionspot.core.vocabulary import Vocabulary

FRUIT = Vocabulary(("lemon", "caf\u00e9 cr\u00e8me"))
BALLS = Vocabulary(("tennis ball", "football", "lemon"))
CLIP = "c" * 64


def bank(num_names: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((num_names, 4)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_bank_comes_back_for_its_own_names_and_templates_only(tmp_path: Path) -> None:
    store = TextBankStore(tmp_path / "banks.h5")
    assert store.get(FRUIT, templates="single", clip_sha256=CLIP) is None
    store.put(FRUIT, bank(2), templates="single", clip_sha256=CLIP)
    store.put(FRUIT, bank(2, 1), templates="none", clip_sha256=CLIP)
    store.put(BALLS, bank(3), templates="single", clip_sha256=CLIP)
    found = store.get(FRUIT, templates="single", clip_sha256=CLIP)
    assert found is not None
    np.testing.assert_array_equal(found, bank(2))
    assert found.dtype == np.float32
    assert store.get(BALLS, templates="none", clip_sha256=CLIP) is None
    reordered = Vocabulary(FRUIT.names[::-1])
    assert store.get(reordered, templates="single", clip_sha256=CLIP) is None
    assert store.templates_of(FRUIT) == ("none", "single")
    assert store.templates_of(BALLS) == ("single",)


def test_putting_a_bank_again_replaces_it(tmp_path: Path) -> None:
    store = TextBankStore(tmp_path / "banks.h5")
    store.put(FRUIT, bank(2), templates="single", clip_sha256=CLIP)
    store.put(FRUIT, bank(2, 1), templates="single", clip_sha256=CLIP)
    (stored,) = store.banks(clip_sha256=CLIP)
    np.testing.assert_array_equal(stored.bank, bank(2, 1))
    assert stored.vocabulary == FRUIT


def test_the_order_of_puts_does_not_change_the_file(tmp_path: Path) -> None:
    puts = [(FRUIT, bank(2), "single"), (FRUIT, bank(2, 1), "none"), (BALLS, bank(3), "single")]
    for name, order in [("one.h5", puts), ("two.h5", puts[::-1])]:
        for vocabulary, values, templates in order:
            store = TextBankStore(tmp_path / name)
            store.put(vocabulary, values, templates=templates, clip_sha256=CLIP)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_the_names_lie_beside_the_embeddings(tmp_path: Path) -> None:
    store = TextBankStore(tmp_path / "banks.h5")
    store.put(FRUIT, bank(2), templates="single", clip_sha256=CLIP)
    with h5py.File(store.path, "r") as h5:
        group = h5["single"][FRUIT.sha256]
        assert group["names"].asstr()[()].tolist() == ["lemon", "caf\u00e9 cr\u00e8me"]
        np.testing.assert_array_equal(group["embeddings"][()], bank(2))
        assert h5.attrs["clip_sha256"] == CLIP.encode()


def test_banks_of_another_clip_are_refused(tmp_path: Path) -> None:
    store = TextBankStore(tmp_path / "banks.h5")
    store.put(FRUIT, bank(2), templates="single", clip_sha256=CLIP)
    with pytest.raises(CacheMismatchError, match="weights c{64}, wanted those of d{64}"):
        store.get(FRUIT, templates="single", clip_sha256="d" * 64)
    with pytest.raises(CacheMismatchError, match="two CLIPs"):
        store.put(FRUIT, bank(2), templates="none", clip_sha256="d" * 64)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    store = TextBankStore(tmp_path / "banks.h5")
    store.put(FRUIT, bank(2), templates="single", clip_sha256=CLIP)
    data = bytearray(store.path.read_bytes())
    data[-1] ^= 1
    store.path.write_bytes(data)
    with pytest.raises(CacheCorruptError, match="damaged"):
        store.get(FRUIT, templates="single", clip_sha256=CLIP)


@pytest.mark.parametrize(
    "values",
    [
        bank(3),
        bank(2).astype(np.float64),
        bank(2)[0],
        bank(2) * 2,
        np.full((2, 4), np.nan, np.float32),
    ],
)
def test_what_is_no_text_bank_is_refused(values: NDArray[np.float32], tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="text bank"):
        TextBankStore(tmp_path / "banks.h5").put(
            FRUIT, values, templates="single", clip_sha256=CLIP
        )


@pytest.mark.parametrize("templates", ["", "a/b", "."])
def test_template_sets_need_a_plain_name(templates: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="template set"):
        TextBankStore(tmp_path / "banks.h5").put(
            FRUIT, bank(2), templates=templates, clip_sha256=CLIP
        )
