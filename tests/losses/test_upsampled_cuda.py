"""The kernels for a GPU: interpreted on the CPU, compiled for a GPU that is not there, and run."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from tests.interpreter import NO_LOOPS
from toque import losses

from .proof import classes, numbers

triton = pytest.importorskip(
    "triton", reason="Triton is not installed (it comes with torch on Linux)"
)


@pytest.mark.skipif(**NO_LOOPS)
def test_interpreted_kernels_equal_the_two_steps():
    done = subprocess.run(
        [sys.executable, "-m", "tests.losses.interpreted_upsampled"],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "6 cases agree\n"


SIZES = "num_classes small_height small_width height width"
STEPS = "step_b step_k step_y step_x"
POINTERS = {
    "logits": "*fp32", "numbers": "*i64", "valid": "*u8", "low_y": "*i32", "part_y": "*fp32",
    "low_x": "*i32", "part_x": "*fp32", "log_sums": "*fp32",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "more", "integers", "blocks"),
    [
        ("_pixels", {"losses": "*fp32"}, f"{SIZES} {STEPS}", {"block": 128}),
        (
            "_slopes", {"first_y": "*i32", "first_x": "*i32", "slopes": "*fp32"},
            f"{SIZES} num_rows num_columns {STEPS}", {"block_k": 8, "block": 32},
        ),
    ],
)  # fmt: skip
def test_kernels_compile_for_a_gpu_that_is_not_there(kernel, more, integers, blocks):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from toque.losses import upsampled_cuda

    given = POINTERS | more | dict.fromkeys(integers.split(), "i32")
    function = getattr(upsampled_cuda, kernel)
    signature = {name: given.get(name, "constexpr") for name in function.arg_names}
    made = triton.compile(
        ASTSource(fn=function, signature=signature, constexprs=blocks),
        GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True},
    )  # fmt: skip
    assert ".target sm_90" in made.asm["ptx"] and len(made.asm["cubin"]) > 1000
    assert made.metadata.shared <= 48 * 1024


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(dtype):
    logits = numbers(2, 19, 16, 20).to("cuda", dtype).requires_grad_()
    targets = classes(19, 2, 64, 80).cuda()
    targets[:, :3] = 255

    def loss():
        found = losses.upsample_cross_entropy(logits, targets, ignore_index=255)
        return found, *torch.autograd.grad(found, logits)

    exact = logits.detach().double().requires_grad_()
    large = F.interpolate(exact, size=(64, 80), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(large, targets, ignore_index=255)
    (slopes,) = torch.autograd.grad(expected, exact)
    (found, gradient), (again, gradient_again) = loss(), loss()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)
    torch.testing.assert_close(
        gradient.double(), slopes, rtol=10 * tolerance, atol=tolerance * slopes.abs().max().item()
    )
    assert torch.equal(found, again) and torch.equal(gradient, gradient_again)
