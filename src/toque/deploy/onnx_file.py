"""ONNX: written by torch's exporter, answered by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from toque import checks
from toque.deploy.answering import Answers, predictor_of_file
from toque.deploy.details import INPUT, FileDetails, read_details
from toque.deploy.missing import needed
from toque.deploy.outputs import outputs_of
from toque.deploy.predictor import Predictor

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# LayerNormalization, GroupNormalization and Gelu are whole operators by then, and every ONNX
# Runtime since 1.17 reads it.
OPSET = 20
_MAX_BYTES = 2_000_000_000


def write(exported: ExportedProgram, details: FileDetails, file: Path) -> None:
    """Write the graph with its weights and metadata into one file.

    Raises: ValueError: an operation that ONNX has no counterpart for; the message names it
            ImportError: the exporter's packages are not installed
    """
    size = sum(tensor.nbytes for tensor in exported.state_dict.values())
    if size > _MAX_BYTES:
        raise checks.invalid(
            "export", "the weights", "below 2 GB, the most one ONNX file holds", f"{size} bytes",
            "Export with --to pt2.",
        )  # fmt: skip
    needed("export", "onnx", "export")
    needed("export", "onnxscript", "export")
    with _quiet():
        try:
            converted = torch.onnx.export(
                exported, dynamo=True, input_names=[INPUT],
                output_names=list(outputs_of(details).names), opset_version=OPSET, verbose=False,
            )  # fmt: skip
        except Exception as error:  # the converter's errors have no common class that is public
            raise checks.invalid(
                "export", "the model", "made of operations that ONNX has",
                _operation(exported, error),
                "Replace it, or export with --to pt2, which keeps PyTorch's operations.",
            ) from error  # fmt: skip
    assert converted is not None
    converted.model.metadata_props.update(
        {
            "labels": json.dumps(details.classes, ensure_ascii=False),
            "version": details.version,
            "toque": details.as_json(),
        }
    )
    converted.save(file)


def _operation(exported: ExportedProgram, error: BaseException) -> str:
    """ "aten.foo.default in stage.2" from whatever the converter said."""
    text = "\n".join(str(cause) for cause in _causes(error))
    named = re.search(r"\[target=torch\.ops\.([\w.]+)\]", text)
    if named is None:
        return text.splitlines()[0][:200]
    operation = named.group(1)
    # The converter takes operations apart before it looks for counterparts.
    for graph in (exported.graph, exported.run_decompositions().graph):
        for node in graph.nodes:
            if str(node.target) == operation:
                return f"{operation} in {_module_of(node)}"
    base = operation.split(".")[1].strip("_")  # prims.bessel_j0 is aten.special_bessel_j0
    for node in exported.graph.nodes:
        if base in str(node.target):
            return f"{operation} in {_module_of(node)}"
    return operation


def _module_of(node: torch.fx.Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return (str(stack[-1][0]) if stack else "").removeprefix("model.") or "the model"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells its steps, on standard output and by warnings: only errors matter."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def load(file: Path) -> Predictor:
    """A predictor that answers by ONNX Runtime, on the CPU.

    Raises: ValueError: no ONNX file, or not one of toque's
            ImportError: onnxruntime is not installed
    """
    answers, details = open_file(file)
    return predictor_of_file(str(file), details, answers)


def open_file(file: Path) -> tuple[Answers, FileDetails]:
    """The program in a file, and its details."""
    runtime: Any = needed("load", "onnxruntime", "export")
    options = runtime.SessionOptions()
    # As many threads as torch: it heeds OMP_NUM_THREADS and the cores this process may use.
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(
            os.fspath(file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises classes of its own for damaged files
        raise checks.invalid(
            "load", str(file), "a whole ONNX file", checks.first_line(error),
            "Export it again with: toque export RUN.",
        ) from error  # fmt: skip
    details = read_details(file, session.get_modelmeta().custom_metadata_map.get("toque"))

    names = list(outputs_of(details).names)

    def answers(images: np.ndarray) -> Sequence[np.ndarray]:
        found: Sequence[np.ndarray] = session.run(names, {INPUT: images})
        return found

    return answers, details
