"""open_clip's model behind frozen models, for tests that run it by themselves."""

from regionspot.backbones import FrozenModels, LoadedClip, OpenClipEncoder


def clip_of(models: FrozenModels) -> LoadedClip:
    """Return what was loaded of open_clip."""
    assert isinstance(models.encoder, OpenClipEncoder)
    return models.encoder.clip
