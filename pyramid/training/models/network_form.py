"""The form of a network that a run starts from, read from the header of its file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...forms import TABLES, Ddim, Form, form_from_metadata
from ...stages import FORM_KEY
from ...untrusted import first_line
from .networks import TRANSFORMER, opened_safetensors


def check_forms(paths: Mapping[str, str], form: Form) -> None:
    """Check that networks predict what a run trains, as far as their files say what they predict.

    Args:
        paths: Paths of the transformers by setting.
        form: The run's form.

    Raises:
        ValueError: A file says that its network has another form.
    """
    for setting, path in paths.items():
        trained = _form_of_file(Path(path))
        if trained is not None and trained != form:
            raise ValueError(
                f"{setting} {path} was trained in form {_described(trained)}, but this run is in form {_described(form)}; "
                + ("set train.form and train.noise_table" if setting == "model.transformer" else "distillation requires 'flow'")
            )


def _form_of_file(path: Path) -> Form | None:
    """Return the form of a single file that this package wrote; None for other files and for folders."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    with opened_safetensors(path, TRANSFORMER) as file:
        metadata = file.metadata()
    if not metadata or FORM_KEY not in metadata:
        return None
    try:
        return form_from_metadata(metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {first_line(error)}") from None


def _described(form: Form) -> str:
    names = [f"'{name}'" for name, table in TABLES.items() if isinstance(form, Ddim) and form.table == table]
    table = f" with noise table {names[0] if names else 'of its own'}" if isinstance(form, Ddim) else ""
    return f"'{form.name}'{table}"
