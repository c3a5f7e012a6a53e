"""Cached maps under hooks, pruning, transforms, fake tensors, and edits of the maps handed out."""

import copy
import sys

import pytest
import torch
from small_vits import images, make
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import prune

from posattn.vision.models.freeze import freeze_attention
from posattn.vision.models.scores import SCORES


def scores_of(model: nn.Module) -> nn.Module:
    return model.blocks[0].attn.maps.scores


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("scores", SCORES)
def test_pruning_after_a_forward_pass(scores: str) -> None:
    """As in a model in which the same entries were set to zero by hand; then twice as many."""
    pruned, name = make(scores=scores), "query" if scores == "encodings" else "table"
    for amount in (0.5, 0.9):
        pruned(images())
        prune.l1_unstructured(scores_of(pruned), name, amount)
        by_hand = make(scores=scores)
        getattr(scores_of(by_hand), name).mul_(getattr(scores_of(pruned), f"{name}_mask"))
        assert torch.equal(pruned(images()), by_hand(images()))


def test_a_model_with_a_pruned_mlp_is_frozen() -> None:
    pruned = make()
    with torch.enable_grad():  # without, deepcopy would do
        prune.random_unstructured(pruned.blocks[0].mlp.fc1, "weight", 0.5)
    frozen = freeze_attention(pruned)
    torch.testing.assert_close(frozen(images()), pruned(images()))


@pytest.mark.parametrize("where", ["scores", "input", "maps", "everywhere"])
def test_hooks_run_and_leave_nothing_behind(where: str) -> None:
    """A hook after a forward pass acts; without it the output is as before. A hook may edit the maps in place."""
    model, calls = make(), []
    maps, scores = model.blocks[0].attn.maps, scores_of(model)

    def double(module: nn.Module, inputs: object, output: Tensor | None = None) -> None:
        if module in (maps, scores):
            calls.append(module)
            (scores.query if output is None else output).mul_(2)

    register = {
        "scores": scores.register_forward_hook,
        "input": scores.register_forward_pre_hook,
        "maps": maps.register_forward_hook,
        "everywhere": register_module_forward_hook,
    }[where]
    before = model(images())
    handle = register(double)
    try:
        first = model(images())
    finally:
        handle.remove()
    assert calls
    assert not torch.equal(first, before)
    if where == "input":
        scores.query.div_(2)
    assert torch.equal(model(images()), before)


@pytest.mark.parametrize("frozen", [False, True])
def test_maps_handed_out_are_the_callers_own(frozen: bool) -> None:
    model = freeze_attention(make()) if frozen else make()
    before = model(images())
    model.blocks[0].attn.attention_maps().zero_()
    assert torch.equal(model(images()), before)


def test_buffers_of_norms_are_seen() -> None:
    class Scaled(nn.Module):
        def __init__(self, dim: int, **dd: object) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(dim, **dd))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    model = make(qk_norm=True, norm_layer=Scaled)
    before = model(images())
    scores_of(model).q_norm.scale.mul_(3)
    assert not torch.equal(model(images()), before)


def test_a_module_without_tensors_that_is_replaced_is_seen() -> None:
    model = make()
    before = model(images())
    scores = scores_of(model)
    scores.q_norm = nn.LayerNorm(scores.head_dim, elementwise_affine=False)
    after = model(images())
    assert not torch.equal(after, before)
    assert torch.equal(after, copy.deepcopy(model)(images()))  # which keeps nothing
    scores.q_norm = nn.Identity()
    assert torch.equal(model(images()), before)


def test_a_pass_with_fake_tensors_leaves_nothing_behind() -> None:
    model = make()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model(torch.empty(3, 1, 8, 8))
    assert torch.equal(model(images()), make()(images()))


@pytest.mark.parametrize("scores", SCORES)
def test_an_ensemble_by_vmap(scores: str) -> None:
    models = [make(scores=scores, score_std=std) for std in (0.5, 2.0)]
    parameters, buffers = stack_module_state(models)
    base, x = copy.deepcopy(models[0]), images()
    alone = base(x)
    together = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([model(x) for model in models]))
    assert torch.equal(base(x), alone)


@pytest.mark.parametrize("scores", SCORES)
def test_replicas_of_data_parallel(scores: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no two GPUs here: copies on the CPU and on ``meta`` stand for them."""
    module, linear = sys.modules["torch.nn.parallel.replicate"], nn.functional.linear

    def on_one_device(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        assert x.device == weight.device  # which ``meta`` does not check
        return linear(x, weight, bias)

    monkeypatch.setattr(module, "_get_device_index", lambda device, _: device)
    monkeypatch.setattr(
        module,
        "_broadcast_coalesced_reshape",
        lambda tensors, devices, detach=False: [[t.to(device) for t in tensors] for device in devices],
    )
    monkeypatch.setattr(nn.functional, "linear", on_one_device)
    model, x = make(scores=scores), images()
    for replica, device in zip(module.replicate(model, ["cpu", "meta"]), ("cpu", "meta"), strict=True):
        assert replica(x.to(device)).device.type == device
    torch.testing.assert_close(module.replicate(model, ["cpu"])[0](x), model(x))
