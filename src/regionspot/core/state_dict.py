"""Loads a state dict into a module, completely or not at all."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from regionspot.core.errors import WeightsError

_NUM_LISTED = 5


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy a state dict into a module, which keeps its dtype and device.

    Args:
        module: The module.
        state: Tensors by the names of ``module.state_dict()``.
        source: Where the state comes from, for the message.

    Raises:
        WeightsError: Names are missing or unexpected, or shapes differ; the message lists them.
    """
    check_shapes(module, state, source=source)
    module.load_state_dict(dict(state), strict=True)


def check_shapes(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse a state dict as `load_strictly` would, without loading it; also on device ``meta``."""
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if own[key].shape != state[key].shape
    ]
    count = len(missing) + len(unexpected) + len(reshaped)
    if count:
        raise WeightsError(
            f"{source} does not fit {type(module).__name__} as configured, {count} tensors"
            f" differ: missing {listed_keys(missing)}; unexpected {listed_keys(unexpected)};"
            f" of another shape {listed_keys(reshaped)}. Give weights of this architecture, or the"
            " architecture and options of these weights."
        )


def listed_keys(keys: Sequence[str]) -> str:
    """Format the first few keys of a state dict, and how many more there are."""
    if not keys:
        return "nothing"
    more = f" and {len(keys) - _NUM_LISTED} more" if len(keys) > _NUM_LISTED else ""
    return ", ".join(map(str, keys[:_NUM_LISTED])) + more
