"""Does it equal the plain composition it stands for?"""

from __future__ import annotations

import torch

from toque.layers.verification import compare
from toque.layers.verification.subject import NotSupported, Subject, Wrong, cotangents_for


def values_and_gradients(subject: Subject) -> str:
    """Outputs and first derivatives in float64."""
    reference = _reference(subject)
    found = subject.run(subject.values())
    expected = subject.run(subject.values(), function=reference)
    compare.require_equal(found, expected, "against the reference", 1e-7)
    return ""


def second_derivatives(subject: Subject) -> str:
    """Second derivatives along a direction in float64."""
    reference = _reference(subject)
    results = []
    for function in (None, reference):
        values = subject.values()
        outputs = [o for o in subject.call(values, function=function) if o.requires_grad]
        leaves = [values[i] for i in subject.wanted]
        first = torch.autograd.grad(
            outputs, leaves, cotangents_for(outputs), create_graph=True, allow_unused=True
        )
        terms = [
            (g * d).sum()
            for g, d in zip(first, cotangents_for(leaves, seed=5), strict=True)
            if g is not None and g.requires_grad
        ]
        if not terms:
            results.append(dict.fromkeys(subject.slots[i].name for i in subject.wanted))
            continue
        second = torch.autograd.grad(torch.stack(terms).sum(), leaves, allow_unused=True)
        names = [subject.slots[i].name for i in subject.wanted]
        results.append(dict(zip(names, second, strict=True)))
    try:
        compare.require_gradients(results[0], results[1], "second derivative", 1e-6)
    except Wrong as wrong:
        raise Wrong(f"against the reference: {wrong}") from None
    return ""


def _reference(subject: Subject):  # type: ignore[no-untyped-def]
    if subject.reference is None:
        raise NotSupported("no reference given")
    return subject.reference
