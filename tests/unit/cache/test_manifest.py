import json
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path

import pytest

from regionspot.cache import (
    Fingerprint,
    Manifest,
    MeasuredError,
    Plan,
    check_same_fingerprint,
    check_same_manifest,
    manifest_path,
    read_manifest,
    seal_json,
    write_manifest,
)
from regionspot.core.errors import (
    AnnotationError,
    CacheCorruptError,
    CacheMismatchError,
    ConfigError,
    MissingFileError,
)
from regionspot.core.vocabulary import Vocabulary


def test_reading_returns_what_was_written(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def test_the_file_is_plain_json_that_ends_with_the_hash_of_what_precedes_it(
    tmp_path: Path, manifest: Manifest
) -> None:
    write_manifest(tmp_path, manifest)
    text = manifest_path(tmp_path).read_text(encoding="utf-8")
    values = json.loads(text)
    body, _, _ = text.rpartition(',\n"sha256"')
    assert values["sha256"] == sha256(body.encode("utf-8")).hexdigest() == manifest.sha256
    assert values["schema_version"] == 4
    assert values["fingerprint"]["clip_mean"] == [0.48145466, 0.4578275, 0.40821073]
    assert values["vocabulary"] == ["lemon", "caf\u00e9", "tennis ball"]
    assert values["plan"]["num_shards"] == 3


def test_an_edited_manifest_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    path = manifest_path(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("lemon", "melon"), encoding="utf-8")
    with pytest.raises(CacheCorruptError, match="was edited"):
        read_manifest(tmp_path)


def test_another_schema_version_is_refused_by_name(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    path = manifest_path(tmp_path)
    text = path.read_text(encoding="utf-8").replace('"schema_version": 4', '"schema_version": 1')
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        CacheMismatchError, match="schema version 1; this RegionSpot reads the versions 3, 4"
    ):
        read_manifest(tmp_path)
    with pytest.raises(CacheMismatchError, match="schema version 1"):
        write_manifest(tmp_path, replace(manifest, schema_version=1))


def test_a_manifest_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    manifest_path(tmp_path).write_text(seal_json({"name": "x"})[0], encoding="utf-8")
    with pytest.raises(CacheCorruptError, match="is incomplete or invalid"):
        read_manifest(tmp_path)


def test_a_folder_without_manifest_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no feature cache.*cache_features\.py"):
        read_manifest(tmp_path)


def test_a_codec_of_later_versions_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    values = json.loads(manifest_path(tmp_path).read_text(encoding="utf-8"))
    del values["schema_version"], values["sha256"]
    text, _ = seal_json(values | {"codec": "zstd"})
    manifest_path(tmp_path).write_text(text, encoding="utf-8")
    with pytest.raises(
        CacheMismatchError, match="stored as 'zstd'; this RegionSpot supports float16"
    ):
        read_manifest(tmp_path)


def test_int8_is_refused_for_widths_that_it_cannot_store(manifest: Manifest) -> None:
    with pytest.raises(ConfigError, match="6 wide; int8 wants a multiple of 4 above 8"):
        replace(manifest, codec="int8")


def test_the_measured_error_is_kept_and_no_reason_to_refuse(
    tmp_path: Path, manifest: Manifest
) -> None:
    error = MeasuredError(feature_map=0.008, position_tokens=0.0003, num_images=4)
    measured = replace(manifest, codec="bfloat16", measured_error=error)
    write_manifest(tmp_path, measured)
    assert read_manifest(tmp_path) == measured
    stated = json.loads(manifest_path(tmp_path).read_text(encoding="utf-8"))["measured_error"]
    assert stated == {"feature_map": 0.008, "position_tokens": 0.0003, "num_images": 4}
    check_same_manifest(measured, replace(measured, measured_error=None))
    with pytest.raises(CacheMismatchError, match="codec: found 'bfloat16', wanted 'float16'"):
        check_same_manifest(measured, manifest)


def test_differing_manifests_are_refused_naming_each_field(manifest: Manifest) -> None:
    check_same_manifest(manifest, manifest)
    other = replace(
        manifest,
        name="other",
        fingerprint=replace(manifest.fingerprint, clip_model="ViT-B-16-quickgelu", token_dim=32),
        plan=Plan.from_keys(["a", "b"], images_per_shard=3),
        vocabulary=Vocabulary(("lemon", "tea", "tennis ball")),
        category_ids=(3, 7, 12),
    )
    with pytest.raises(CacheMismatchError) as caught:
        check_same_manifest(manifest, other)
    message = str(caught.value)
    for line in (
        "name: found 'tiny', wanted 'other'",
        "fingerprint.clip_model: found 'ViT-L-14-quickgelu', wanted 'ViT-B-16-quickgelu'",
        "fingerprint.token_dim: found 4, wanted 32",
        "plan.num_images: found 7, wanted 2",
        "vocabulary: label 1: found 'caf\u00e9', wanted 'tea'",
        "category_ids: label 2: found 11, wanted 12",
        "--output_dir",
    ):
        assert line in message
    assert "annotation_sha256" not in message
    assert "images_per_shard: " not in message


@pytest.mark.parametrize("name", [field.name for field in fields(Fingerprint)])
def test_every_field_of_a_fingerprint_is_a_reason_to_refuse(name: str, manifest: Manifest) -> None:
    found = getattr(manifest.fingerprint, name)
    other = {int: 4096, tuple: (0.1, 0.2, 0.3)}.get(type(found), "another")
    changed = Fingerprint.from_dict(manifest.fingerprint.to_dict() | {name: other})
    with pytest.raises(CacheMismatchError) as caught:
        check_same_manifest(manifest, replace(manifest, fingerprint=changed))
    (line,) = str(caught.value).splitlines()[1:-1]
    assert line == f"  fingerprint.{name}: found {found!r}, wanted {other!r}"


def test_a_longer_vocabulary_is_named_by_its_length(manifest: Manifest) -> None:
    other = replace(
        manifest,
        vocabulary=Vocabulary((*manifest.vocabulary.names, "pan")),
        category_ids=(*manifest.category_ids, 12),
    )
    with pytest.raises(CacheMismatchError, match="vocabulary: found 3 entries, wanted 4"):
        check_same_manifest(manifest, other)


def test_every_class_has_a_category_id(manifest: Manifest) -> None:
    with pytest.raises(ConfigError, match="2 category ids for 3 class names"):
        replace(manifest, category_ids=(1, 2))


def test_fingerprints_are_compared_field_by_field(fingerprint: Fingerprint) -> None:
    changes = {"token_site": "mlp", "clip_std": [1.0, 1.0, 1.0]}
    other = Fingerprint.from_dict(fingerprint.to_dict() | changes)
    assert fingerprint.differences(fingerprint) == []
    assert fingerprint.differences(other) == [
        "clip_std: found (0.26862954, 0.26130258, 0.27577711), wanted (1.0, 1.0, 1.0)",
        "token_site: found 'transformer', wanted 'mlp'",
    ]
    check_same_fingerprint(fingerprint, fingerprint, found_in="here")
    with pytest.raises(CacheMismatchError, match=r"(?s)^here was made.*token_site.*again"):
        check_same_fingerprint(fingerprint, other, found_in="here")


def test_a_fingerprint_survives_json(fingerprint: Fingerprint) -> None:
    assert Fingerprint.from_dict(json.loads(json.dumps(fingerprint.to_dict()))) == fingerprint


def test_missing_and_unknown_fields_of_a_fingerprint_are_named(fingerprint: Fingerprint) -> None:
    values = fingerprint.to_dict()
    del values["sam_model"]
    values["sam_name"] = "vit_b"
    with pytest.raises(
        CacheMismatchError, match=r"lacks \['sam_model'\].*unknown fields \['sam_name'\]"
    ):
        Fingerprint.from_dict(values)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sam_model", ""),
        ("token_dim", 0),
        ("token_dim", "4"),
        ("text_dim", True),
        ("clip_mean", [0.5, 0.5]),
    ],
)
def test_values_that_no_model_has_are_refused(
    field: str, value: object, fingerprint: Fingerprint
) -> None:
    with pytest.raises(ConfigError, match=field):
        Fingerprint.from_dict(fingerprint.to_dict() | {field: value})


def test_images_are_put_into_shards_in_order() -> None:
    plan = Plan.from_keys(["a", "b", "c", "d", "e"], images_per_shard=2)
    assert plan.num_shards == 3
    assert [list(plan.images_of(shard)) for shard in range(3)] == [[0, 1], [2, 3], [4]]
    assert plan.order_sha256 == sha256(b"a\nb\nc\nd\ne").hexdigest()
    with pytest.raises(IndexError):
        plan.images_of(3)


def test_repeated_keys_are_refused() -> None:
    with pytest.raises(AnnotationError, match="'b'"):
        Plan.from_keys(["a", "b", "b"], images_per_shard=2)


def test_plans_that_make_no_cache_are_refused() -> None:
    with pytest.raises(ConfigError, match="makes no cache"):
        Plan.from_keys([], images_per_shard=2)
    with pytest.raises(ConfigError, match="makes no cache"):
        Plan.from_keys(["a"], images_per_shard=0)
    with pytest.raises(ConfigError, match="wanted 2"):
        Plan(num_images=3, images_per_shard=2, num_shards=3, order_sha256="0")
