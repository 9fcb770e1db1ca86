"""int8: an ONNX file whose convolutions and matrix products work on whole numbers.

Static quantisation by ONNX Runtime: the range of each activation is measured on calibration images.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toque.deploy.details import INPUT
from toque.deploy.missing import needed
from toque.deploy.predictor import Pixels

_OPERATORS = ["Conv", "MatMul", "Gemm"]
_SCOPE = "pkg.torch.onnx.name_scopes"  # where the exporter notes which module a node comes from


def quantise(source: Path, file: Path, calibration: Sequence[Pixels]) -> None:
    """Write the program in `source` with int8 weights and uint8 activations (QDQ) to `file`.

    Weights have a scale for each output channel and 7 of their 8 bits: with 8, processors without
    VNNI saturate in the sums of products, and the file would answer otherwise there. The
    preprocessing stays in float32.

    Args: calibration: images as the program takes them, uint8 [H, W, C]
    """
    onnx: Any = needed("export", "onnx", "export")
    quantization: Any = needed("export", "onnxruntime.quantization", "export")
    model = onnx.load(os.fspath(source))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises to run its own preprocessing; torch's is done
    try:
        quantization.quantize_static(
            model,
            os.fspath(file),
            _reader(quantization, calibration),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            nodes_to_exclude=_not_the_network(model),
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
    finally:
        logger.setLevel(level)
    written = onnx.load(os.fspath(file))
    kept = {entry.key for entry in written.metadata_props}
    for key, value in metadata.items():
        if key not in kept:
            written.metadata_props.add(key=key, value=value)
    onnx.save(written, os.fspath(file))


def _not_the_network(model: Any) -> list[str]:
    """The nodes that prepare the image, and those that read the outputs: what they round, no layer
    can mend."""
    names = []
    for node in model.graph.node:
        scope = {entry.key: entry.value for entry in node.metadata_props}.get(_SCOPE, "")
        if "'preprocess'" in scope or "'outputs'" in scope:
            names.append(node.name)
    return names


def _reader(quantization: Any, images: Sequence[Pixels]) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._left, None)
            return None if image is None else {INPUT: image[None]}

    return Reader()
