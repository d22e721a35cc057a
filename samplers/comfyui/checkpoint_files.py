"""The files that a MODEL was loaded from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def loaded_from(model: ModelPatcher) -> list[str]:
    """Return the paths of the files that a MODEL was loaded from.

    Newer versions of ComfyUI keep the loading function and its arguments on the model, for checkpoints also which of its
    results the MODEL is; older ones do not keep the file.
    """
    loaded_by = getattr(model, "cached_patcher_init", None)
    return [path for path in loaded_by[1] if isinstance(path, str)] if loaded_by else []
