"""Requests drawn from the server's own OpenAPI: schemathesis against a running `toque serve`.

    pip install schemathesis
    python -m tests.fuzz.requests --cases 20000

Half of the cases fit the description and half break it. Every answer must be one that the description
names, of the type it names; a 5xx, or an error on the wire, ends it with the request that caused it.
"""

from __future__ import annotations

import argparse
import collections
import io
import os
import tempfile
import time
import warnings
from pathlib import Path

# Hypothesis writes nothing beside the tests.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", tempfile.gettempdir())

import hypothesis
import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.deploy.serving import running
from toque import augment, models, random
from toque.deploy import torch_file
from toque.deploy.details import FileDetails
from toque.deploy.serving.limits import Limits

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance
]  # fmt: skip


@st.composite
def pictures(draw, kind: str) -> bytes:
    """A picture of a format, whole or damaged."""
    size = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(draw(st.sampled_from(["L", "RGB"]))).save(
        file, kind
    )
    body = bytearray(file.getvalue())
    if draw(st.booleans()):
        for place, value in draw(
            st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=5)
        ):
            body[place % len(body)] = value
        del body[draw(st.integers(1, len(body))) :]
    return bytes(body)


def model(folder: Path) -> Path:
    """A small untrained network with weights, so that /explain works too."""
    random.seed_torch(0, "fuzz")
    labels = ("one", "two", "ünï/c&d?e")
    network = models.create("resnet10_small", num_classes=3, in_channels=3, image_size=32)
    details = FileDetails(
        version="fuzz", model="resnet10_small", classes=labels, in_channels=3, image_size=32,
        preprocessing=str(augment.preset("none", 32)), weights_sha256="",
    )  # fmt: skip
    file = folder / "model.safetensors"
    torch_file.write_weights(network.eval(), details, file)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    options = parser.parse_args()
    counts: collections.Counter[tuple[str, int]] = collections.Counter()
    began = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            running(model(Path(folder)), Limits(max_bytes=100_000)) as server,
        ):
            schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
            for kind in ("jpeg", "png", "webp", "gif", "bmp"):
                schemathesis.openapi.media_type(f"image/{kind}", pictures(kind))
            operations = [found.ok() for found in schema.get_all_operations()]
            # Routes without anything to vary are asked once; those with a body and a query the rest.
            rich = [one for one in operations if one.body or one.query]
            plain = [one for one in operations if one not in rich]
            share = -(-(options.cases - len(plain)) // (2 * len(rich)))
            plan = [(one, mode, share) for one in rich for mode in GenerationMode]
            plan += [(one, GenerationMode.POSITIVE, 1) for one in plain]
            for operation, mode, cases in plan:
                fuzz(operation, mode, cases, counts)
            assert server.ask(path="/health", method="GET")[0] == 200
    finally:
        total = sum(counts.values())
        print(f"{total} requests in {time.monotonic() - began:.0f} s")
        for (label, status), count in sorted(counts.items()):
            print(f"{count:8} {status} {label}")
    assert not [status for _, status in counts if status >= 500]


def fuzz(operation, mode, cases, counts) -> None:
    """Ask `cases` requests of one operation."""
    asked = 0

    @hypothesis.settings(
        max_examples=cases, database=None, deadline=None, derandomize=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        nonlocal asked
        response = case.call()
        asked += 1
        counts[operation.label, response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            while asked < cases:  # hypothesis stops early where little can vary
                before = asked
                ask()
                if asked - before < min(cases, 50):
                    break
        except hypothesis.errors.Unsatisfiable:
            pass  # nothing in this operation can be broken


if __name__ == "__main__":
    main()
