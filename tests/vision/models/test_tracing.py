"""Models are traced by fx, scripted, compiled and exported with the same outputs."""

import pytest
import timm
import torch
from small_vits import PREFIX, images, make
from timm.layers import get_notrace_functions, get_notrace_modules
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names


@pytest.mark.parametrize("training", [False, True])
def test_fx_is_bitwise_equal_and_live(options: dict[str, object], dtype: torch.dtype, training: bool) -> None:
    """The traced model is no snapshot: its maps follow the parameters, which all learn through it."""
    model = make(**options, **PREFIX, dtype=dtype).train(training)
    traced = timm.models.create_feature_extractor(model, {"head": "out"})
    x = images(dtype=dtype)
    assert torch.equal(traced(x)["out"], model(x))
    with torch.no_grad():
        for parameter in model.blocks[0].attn.maps.parameters():
            parameter.add_(torch.randn_like(parameter))
        assert torch.equal(traced(x)["out"], model(x))
    assert {id(p) for p in traced.parameters()} == {id(p) for p in model.parameters()}
    traced(x)["out"].float().square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_fx_features(options: dict[str, object]) -> None:
    features = make(**options, features_only=True, feature_cls="fx", out_indices=(0, 1))
    _, maps = make(**options).forward_intermediates(images(), output_fmt="NLC")
    for mine, theirs in zip(features(images()), maps, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript(options: dict[str, object], dtype: torch.dtype) -> None:
    model = make(**options, **PREFIX, dtype=dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = images(dtype=dtype)
    with torch.no_grad():
        assert torch.equal(torch.jit.script(model)(x), model(x))
        assert torch.equal(torch.jit.trace(model, x)(x), model(x))
    assert before.keys() == model.state_dict().keys()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("qk_norm", [False, True])
def test_fx_features_are_scripted_as_timms_tests_do(options: dict[str, object], qk_norm: bool) -> None:
    """timm traces in training and evaluation mode, with its leaves, and scripts the graph; nothing is frozen."""
    model = make(**options, **PREFIX, qk_norm=qk_norm, scriptable=True)
    how = {
        "leaf_modules": get_notrace_modules(),
        "autowrap_functions": get_notrace_functions(),
        "param_shapes_constant": True,
    }
    (*_, train), (*_, evaluation) = get_graph_node_names(model, tracer_kwargs=how)
    nodes = {"train_return_nodes": [train], "eval_return_nodes": [evaluation]}
    traced = create_feature_extractor(model, **nodes, tracer_kwargs=how).eval()
    scripted = torch.jit.script(traced)
    x = images()
    with torch.no_grad():
        assert torch.equal(*scripted(x).values(), model(x))
        for parameter in model.positional_layers()[0].maps.parameters():
            parameter.add_(torch.randn_like(parameter))
        assert torch.equal(*scripted(x).values(), model(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("name", ["tiny_patch16_224", "hybrid_tiny_patch16_224", "small_patch4_32"])
def test_fx_features_of_named_models_are_scripted(name: str) -> None:
    model = timm.create_model(
        f"vit_posattn_{name}", depth=2, features_only=True, feature_cls="fx", out_indices=(1,)
    )
    model.eval()
    size = int(name.split("_")[-1])
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert torch.equal(*torch.jit.script(model)(x), *model(x))


def test_compile_fullgraph(options: dict[str, object]) -> None:
    torch._dynamo.reset()
    model, x = make(**options), images()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(x).square().sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x).square().sum().backward()
    for grad, parameter in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
        for parameter in model.positional_layers()[0].maps.parameters():
            parameter.mul_(-1.5)
        torch.testing.assert_close(compiled(x), model(x))  # nothing stale in the graph either


def test_compile_by_inductor() -> None:
    """Of one block: most of the time is the C++ compiler's."""
    torch._dynamo.reset()
    model = make(depth=1)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(images()), model(images()))


def test_export_with_a_dynamic_batch(options: dict[str, object]) -> None:
    model = make(**options)
    with torch.no_grad():
        program = torch.export.export(
            model, (images(3),), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}}
        )
        assert set(program.state_dict) == set(model.state_dict())
        for batch in (1, 5):
            torch.testing.assert_close(program.module()(images(batch)), model(images(batch)))
