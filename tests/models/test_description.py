"""What is said of a model before it runs: against counting by hand, gradients, and a real step."""

import gc
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from toque import models
from toque.layers import save_memory, verify
from toque.models import Parallel, conv_norm, describe, memory, picture, step_time
from toque.models.blocks import Residual


def at(described, path):
    return next(layer for layer in described.layers() if layer.path == path)


def test_a_small_network_counted_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    )
    described = describe(model, [2, 3, 8, 8])
    conv, linear = at(described, "0"), at(described, "4")
    assert conv.shape == (2, 8, 8, 8) and linear.shape == (2, 5)
    assert conv.parameters == 3 * 8 * 9 + 8
    assert conv.flops == 2 * (2 * 8 * 8 * 8) * (3 * 9)  # a multiplication and an addition
    assert linear.flops == 2 * 2 * 5 * 128
    assert described.root.flops == conv.flops + linear.flops
    # Kept: the image, ReLU's output (for itself and for the pool), the pool's indices, and the
    # flattened pool's output.
    floats = 2 * 3 * 64 + 2 * 8 * 64 + 2 * 8 * 16
    assert described.root.saved_bytes == 4 * floats + 8 * (2 * 8 * 16)
    assert conv.sees_px == 3 and at(described, "2").sees_px == 4
    assert math.isinf(linear.sees_px)


@pytest.mark.parametrize("name", ["resnet10_small", "resnet18", "repvgg_a0", "unet_small"])
def test_the_receptive_field_is_what_the_gradient_reaches(name):
    """Ones as weights and no nonlinearity: a pixel is seen if and only if its gradient is not 0."""
    model = models.create(name, num_classes=1, in_channels=1).double().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    side = 224 if name != "resnet10_small" else 96
    described = describe(model, [1, 1, side, side])
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.forward = lambda x: x
        if isinstance(module, nn.MaxPool2d):
            module.forward = lambda x: nn.functional.avg_pool2d(x, 3, 2, 1)
    image = torch.zeros(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    path = "features" if name != "unet_small" else ""
    features = model.forward_features(image)
    middle = features.shape[2] // 2
    features[0, :, middle, middle].sum().backward()
    rows = (image.grad[0, 0] != 0).any(1).nonzero()
    reached = int(rows.max() - rows.min() + 1)
    sees = at(described, path).sees_px
    # A U-Net's field depends on the pixel's place in the coarsest cell: the largest is predicted.
    assert reached == min(sees, side) if name != "unet_small" else 0.7 * sees < reached <= sees


@pytest.mark.parametrize("name", ["toque/resnet18", "toque/vit_tiny", "timm/mobilenetv3_small_050"])
def test_operations_are_those_torch_counts_on_real_tensors(name):
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    model = models.create(name, num_classes=10, image_size=64).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(2, 3, 64, 64))
    counted = counter.get_total_flops()
    of_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if "vit" in name and of_attention not in flop_registry:  # torch counts it from 2.15 on
        counted += 12 * 2 * (2 * 2 * 3 * 21**2 * 64)  # blocks, products; 21 tokens, 3 heads of 64
    assert describe(model, [2, 3, 64, 64]).root.flops == counted > 0


@pytest.mark.parametrize("name", ["unet_small", "vit_tiny"])
def test_saved_bytes_are_those_of_a_real_forward_pass(name):
    model = models.create(name, num_classes=2, image_size=32)
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        answer = model.train()(torch.zeros(2, 3, 32, 32))
    real = sum(storage.nbytes() for storage in storages.values())
    assert describe(model, [2, 3, 32, 32]).root.saved_bytes == real
    assert len(answer) == 2


def test_describing_changes_nothing():
    model = models.create("resnet10_small", num_classes=3).train()
    model.features.stage1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    describe(model, [2, 3, 32, 32], images=torch.zeros(2, 3, 32, 32))
    memory.predict(model, [2, 3, 32, 32])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_time_is_shared_among_the_layers():
    model = models.create("resnet10_small", num_classes=3)
    described = describe(model, [2, 3, 64, 64], images=torch.zeros(2, 3, 64, 64))
    assert described.root.share == pytest.approx(1.0)
    for layer in described.layers():
        assert 0 <= layer.backward_share <= layer.share <= 1
        for part in ("share", "backward_share"):  # a module's time holds that of what is inside it
            inside = sum(getattr(child, part) for child in layer.children)
            assert inside <= getattr(layer, part) + 1e-9
    convolutions = [layer for layer in described.layers() if layer.kind == "Conv2d"]
    assert all(layer.backward_share > 0 for layer in convolutions)
    assert "backward" in described.text(1)


def event(name, start, end, number=-1):
    return SimpleNamespace(
        name=name, sequence_nr=number, time_range=SimpleNamespace(start=start, end=end)
    )


def test_time_of_a_backward_node_goes_to_the_module_that_made_it():
    mark, node = step_time._MARK, step_time._NODE
    took = step_time._by_module(
        [
            event(mark, 0, 100), event(mark + "block", 10, 60), event(mark + "block.conv", 20, 40),
            event("aten::conv2d", 21, 39, 7), event("aten::add", 50, 55, 8),  # of block itself
            event("aten::mean", 70, 80, 9), event("aten::convolution", 22, 38, 7),
            event(f"{node}: MeanBackward0", 200, 205, 9), event(f"{node}: AddBackward0", 205, 215, 8),
            event(f"{node}: ConvolutionBackward0", 215, 315, 7),
            event(f"{node}: torch::autograd::AccumulateGrad", 315, 318),
        ]
    )  # fmt: skip
    assert took.forward_us == {"": 100, "block": 50, "block.conv": 20}
    assert took.backward_us == {"": 118, "block": 110, "block.conv": 100}


def real_peak(model, images, optimizer):
    """The peak of PyTorch's own allocation records over one step, above what was there before."""
    if optimizer == "sgd":
        made = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
    else:
        made = torch.optim.AdamW(model.parameters(), foreach=False)

    def step():
        model(images).square().mean().backward()
        made.step()
        made.zero_grad(set_to_none=True)

    step()
    gc.collect()
    state = [t for s in made.state.values() for t in s.values() if torch.is_tensor(t)]
    stays = [*model.parameters(), *model.buffers(), *state, images]
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        step()
    records = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for record in sorted(records, key=lambda e: e.start_ns()):
        now += record.nbytes()
        peak = max(peak, now)
    return peak + sum(t.untyped_storage().nbytes() for t in stays)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [("toque/resnet18", "sgd"), ("toque/vit_tiny", "adamw"), ("toque/repvgg_a0", "adamw")],
)
def test_the_predicted_memory_is_within_a_tenth_of_a_real_step(name, optimizer):
    model = models.create(name, num_classes=10, image_size=96).train()
    images = torch.zeros(8, 3, 96, 96)
    predicted = memory.predict(model, [8, 3, 96, 96], optimizer=optimizer)
    assert abs(predicted.peak_bytes / real_peak(model, images, optimizer) - 1) < 0.1
    assert predicted.weights_bytes == sum(
        t.untyped_storage().nbytes() for t in [*model.parameters(), *model.buffers()]
    )
    states = {"sgd": 1, "adamw": 2}[optimizer]
    assert predicted.optimizer_bytes == pytest.approx(states * predicted.gradients_bytes, rel=1e-3)


def test_a_model_larger_than_this_machine_can_be_predicted():
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(60_000, 60_000, bias=False) for _ in range(4)))
    predicted = memory.predict(model, [16, 60_000], optimizer="adamw")
    assert predicted.weights_bytes == 4 * 4 * 60_000**2
    assert predicted.peak_bytes > 4 * predicted.weights_bytes
    assert "weights 57,600.0" in str(predicted)


def test_an_unknown_optimiser_is_named():
    with pytest.raises(ValueError, match="Did you mean adamw"):
        memory.predict(nn.Linear(2, 2), [1, 2], optimizer="adam")


def test_the_page_shows_branches_and_skips_and_stands_alone():
    part = Parallel({"local": conv_norm(4, 4, 3), "<wide>".strip("<>"): conv_norm(4, 4, 5)}, "gate")
    model = nn.Sequential(conv_norm(3, 4, 3), Residual(part))
    page = picture.page(
        "a < b", model, describe(model, [1, 3, 16, 16]), memory.predict(model, [1, 3, 16, 16])
    )
    assert "a &lt; b" in page and "a < b" not in page
    for words in ("local", "wide", "gate", "shortcut", "conv 5x5, 4", "training step: peak"):
        assert words in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("<div") == page.count("</div>")


@pytest.mark.parametrize("name", ["unet_attention", "repvgg_a0", "googlenet", "vit_tiny"])
def test_every_kind_of_model_has_a_picture(name):
    with torch.device("meta"):
        model = models.create(name, num_classes=3)
    page = picture.page(name, model, describe(model, [1, 3, 224, 224]))
    assert page.count("<div") == page.count("</div>") > 20


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: describe("resnet18", [1, 3, 8, 8]), "got 'resnet18'. Build one by its name"),
        (lambda: models.fuse("resnet18"), "fuse: model must be an nn.Module"),
        (lambda: save_memory(3), "save_memory: model must be an nn.Module; got int"),
        (lambda: describe(nn.ReLU(), torch.zeros(1, 3, 8, 8)), "got a tensor. Give its shape"),
        (lambda: verify(3, torch.zeros(3)), "a module or a function; got int"),
        (lambda: verify(nn.ReLU, torch.zeros(3)), r"the class ReLU. Give ReLU\(…\)"),
        (
            lambda: models.create("resnet10_small", num_classes=2)(
                torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
            ),
            "images must be floating; got torch.uint8. Normalise",
        ),
    ],
)
def test_what_is_no_module_or_no_image_is_refused_by_name(call, words):
    with pytest.raises(TypeError, match=words):
        call()
