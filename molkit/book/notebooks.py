"""Reading notebooks: code, parameters, and the canonical form in which they are committed."""

import ast
import json
import os
import tempfile
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

from molkit.errors import InvalidInput

MAX_OUTPUT_BYTES = 150_000
MAX_NOTEBOOK_BYTES = 1_000_000
MAX_CODE_COLUMNS = 80
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
INJECTED = "injected-parameters"
PAPERMILL_TAGS = ("papermill-error-cell-tag",)


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook of format 4 as plain dictionaries, sources and texts joined to one string each."""
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except OSError as error:
        raise InvalidInput(f"cannot read the notebook {path}: {error.strerror}") from None
    except (nbformat.ValidationError, nbformat.reader.NotJSONError, ValueError, AttributeError, KeyError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InvalidInput(f"{path} is not a notebook: {first}") from None
    return notebook


def write_notebook(path: Path, notebook: dict[str, Any]) -> None:
    """Write in the form Jupyter itself writes, whole or not at all."""
    import nbformat

    write_whole(path, nbformat.writes(nbformat.from_dict(notebook)) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text file by temporary name and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def tags(cell: dict[str, Any]) -> list[str]:
    """Tags of a cell."""
    return cell.get("metadata", {}).get("tags", [])


def code_cells(notebook: dict[str, Any]) -> list[str]:
    """Sources of the code cells, those papermill injected left out."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join(cell["source"]) for cell in cells if INJECTED not in tags(cell)]


def parameters_cell(path: Path) -> dict[str, tuple[str, str]]:
    """Parameter -> (type in words, default as written), read by papermill from the cell tagged `parameters`.

    Without an annotation the type is that of a plain default value, or "".
    """
    import papermill

    read_notebook(path)  # a broken file is named here, in our words
    found = papermill.inspect_notebook(str(path))
    return {
        name: (_kind(entry["inferred_type_name"], entry["default"]), entry["default"]) for name, entry in found.items()
    }


def parameters_source(path: Path) -> str:
    """The text of the cell tagged `parameters`; empty without one."""
    cells = read_notebook(path)["cells"]
    return next(("".join(cell["source"]) for cell in cells if "parameters" in tags(cell)), "")


def canonical(notebook: dict[str, Any]) -> dict[str, Any]:
    """The form that is committed: no times, no machine, no injected cell; cell ids, tags and outputs stay."""
    notebook = json.loads(json.dumps(notebook))
    kept = [cell for cell in notebook["cells"] if not {INJECTED, *PAPERMILL_TAGS} & set(tags(cell))]
    count = 0
    for cell in kept:
        cell["metadata"] = {key: cell["metadata"][key] for key in ("tags", "mystnb") if cell["metadata"].get(key)}
        if cell["cell_type"] != "code":
            continue
        count += 1
        cell["execution_count"] = count if cell["outputs"] else None
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = count
    notebook["cells"] = kept
    notebook["metadata"] = {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}
    return notebook


def with_small_pictures(notebook: dict[str, Any], colours: int = 128) -> dict[str, Any]:
    """The notebook with the pictures of its outputs in a palette of colours, where that makes them smaller."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = _small_picture(output["data"]["image/png"], colours)
    return notebook


def _small_picture(text: str | list[str], colours: int) -> str:
    from PIL import Image

    text = "".join(text)
    picture, packed = Image.open(BytesIO(b64decode(text))).convert("RGBA"), BytesIO()
    flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    flat.quantize(colours, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    small = b64encode(packed.getvalue()).decode("ascii")
    return small if len(small) < len(text) else text


def problems(path: Path) -> list[str]:
    """What keeps a notebook from being committed, one sentence each."""
    notebook = read_notebook(path)
    found = []
    if notebook != canonical(notebook):
        found.append("metadata, execution counts or injected cells are not canonical: run `molkit book refresh`")
    if path.stat().st_size > MAX_NOTEBOOK_BYTES:
        found.append(f"{path.stat().st_size} bytes, more than {MAX_NOTEBOOK_BYTES}")
    for number, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", []):
            size = len(json.dumps(output))
            if size > MAX_OUTPUT_BYTES:
                found.append(f"an output of cell {number} has {size} bytes, more than {MAX_OUTPUT_BYTES}")
            if output["output_type"] == "error":
                found.append(f"cell {number} ended in an error")
        if cell["cell_type"] == "code":
            long = [line for line in cell["source"].splitlines() if len(line) > MAX_CODE_COLUMNS]
            found += [f"cell {number}: code line of {len(line)} columns: {line[:40]}..." for line in long]
    return found


def _kind(annotation: str, default: str) -> str:
    if annotation and annotation != "None":
        return annotation.strip("\"'")
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):
        return ""
    return "" if value is None else type(value).__name__
