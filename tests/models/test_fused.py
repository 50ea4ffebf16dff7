"""Models with fused halves against the same models module by module."""

from copy import deepcopy

import pytest
import torch
from compared import ARCHITECTURES, difference, image, shallow
from random_weights import randomised
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from mmpoolformer.models import MetaFormer, MetaFormerClassifier


def pair(name: str, **options: object) -> tuple[MetaFormer, MetaFormer]:
    arch = shallow(name)
    plain = randomised(MetaFormer(arch, fused=False, **options))
    fused = MetaFormer(arch, **options)
    fused.load_state_dict(plain.state_dict())
    return plain, fused


def gradients(model: MetaFormer, x: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)  # of drop path
    maps = model(x)
    sum((m * image(*m.shape)).sum() for m in maps).backward()
    return [m.detach() for m in maps], {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_training_step_is_the_same(name: str) -> None:
    x = image(2, 3, 65, 99).double()
    plain, _ = pair(name, drop_path_rate=0.5)
    expected = gradients(plain.double(), x)
    for with_cp in (False, True):
        _, fused = pair(name, drop_path_rate=0.5, with_cp=with_cp)
        fused = fused.double()
        for layout in (torch.contiguous_format, torch.channels_last):
            fused.zero_grad()
            found = gradients(fused, x.contiguous(memory_format=layout))
            check_equal(found, expected)


def check_equal(found: tuple[list, dict], expected: tuple[list, dict]) -> None:
    """Compare maps and gradients of float64."""
    grads = found[1]
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert difference(ours, theirs) < 1e-11
    for key, theirs in expected[1].items():
        if theirs is None:  # of the random matrices, which are never trained
            assert grads[key] is None
        elif key.endswith('norm1.bias') and theirs.abs().max() < 1e-9:
            assert grads[key].abs().max() < 1e-9  # rounding only: it has no effect
        else:
            assert difference(grads[key], theirs) < 1e-9, key


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_float32_is_as_near_to_the_exact_result(name: str) -> None:
    plain, fused = pair(name)
    x = image(2, 3, 64, 96)
    with torch.no_grad():
        found, expected = fused.eval()(x), plain.eval().double()(x.double())
    for ours, theirs in zip(found, expected, strict=True):
        assert difference(ours.double(), theirs) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_autocast_gives_the_modules_types_and_near_results(name: str) -> None:
    plain, fused = pair(name)
    results = []
    for model in (plain, fused):
        with torch.autocast('cpu', torch.bfloat16):
            maps, grads = gradients(model, image(2, 3, 64, 64))
        results.append((maps, grads))
    for ours, theirs in zip(results[1][0], results[0][0], strict=True):
        assert ours.dtype == theirs.dtype
        assert difference(ours.float(), theirs.float()) < 0.1
    for key, theirs in results[0][1].items():
        if theirs is not None:
            assert results[1][1][key].dtype == theirs.dtype
            assert results[1][1][key].isfinite().all()


@pytest.mark.parametrize('frozen', [0, 2, 4])
def test_frozen_stages_stay_without_gradients(frozen: int) -> None:
    plain, fused = pair('poolformer_s12', frozen_stages=frozen)
    _, expected = gradients(plain.double(), image(2, 3, 64, 64).double())
    _, found = gradients(fused.double(), image(2, 3, 64, 64).double())
    assert {k for k, v in found.items() if v is None} == {
        k for k, v in expected.items() if v is None
    }
    for key, theirs in expected.items():
        if theirs is not None and not key.endswith('norm1.bias'):
            assert difference(found[key], theirs) < 1e-9, key


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        maps = model(x)
    assert len(maps) == 4  # alive till here, so that no address is used twice
    return sum(kept.values())


@pytest.mark.parametrize(
    ('name', 'share'),
    [('poolformer_s12', 0.6), ('poolformerv2_s12', 0.7), ('convformer_s18', 0.85)],
)
def test_less_is_kept_for_the_backward_pass(name: str, share: float) -> None:
    plain, fused = pair(name)
    x = image(2, 3, 256, 256)
    assert kept_bytes(fused, x) < share * kept_bytes(plain, x)


def test_hooks_see_the_modules() -> None:
    _, model = pair('poolformer_s12')
    block = model.stages[2].blocks[1]
    seen = []
    with torch.no_grad():
        expected = model(image(1, 3, 64, 64))
        for part in (block.norm1, block.token_mixer, block.mlp.act, block.mlp.fc2):
            part.register_forward_hook(lambda part, *_: seen.append(type(part)))
        found = model(image(1, 3, 64, 64))
    assert len(seen) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert difference(ours, theirs) < 1e-5


def test_replaced_parts_are_run() -> None:
    _, model = pair('poolformer_s12')
    block = model.stages[0].blocks[0]
    block.mlp.fc1 = nn.utils.parametrizations.weight_norm(block.mlp.fc1)
    block.norm1 = nn.InstanceNorm2d(64)
    sum(m.sum() for m in model(image(1, 3, 64, 64))).backward()
    assert block.mlp.fc1.parametrizations.weight.original0.grad is not None


def test_a_checkpoint_fits_both_ways(tmp_path) -> None:
    plain, fused = pair('poolformerv2_s12')
    assert list(plain.state_dict()) == list(fused.state_dict())
    classifier = MetaFormerClassifier('poolformer_s12', fused=False)
    MetaFormerClassifier('poolformer_s12').load_state_dict(classifier.state_dict())


def test_tracing_sees_plain_operations() -> None:
    _, model = pair('poolformer_s12')
    model.eval()
    traced = torch.jit.trace(model, image(1, 3, 64, 64), check_trace=False)
    text = str(traced.inlined_graph)
    assert 'aten::group_norm' in text
    assert 'lerp' not in text
    x = image(1, 3, 64, 64) + 1
    for ours, theirs in zip(traced(x), model(x), strict=True):
        assert difference(ours, theirs) < 1e-5


def test_copies_stay_apart() -> None:
    _, model = pair('poolformer_s12')
    other = deepcopy(model)
    with torch.no_grad():
        other.stages[0].blocks[0].norm1.weight.zero_()
        first, second = model(image(1, 3, 64, 64)), other(image(1, 3, 64, 64))
    assert difference(first[0], second[0]) > 1e-3


@pytest.mark.parametrize('fused', ['cuda', 2, None])
def test_a_wrong_switch_is_named(fused: object) -> None:
    with pytest.raises(ValueError, match=f'fused={fused!r}: choose from True, False'):
        MetaFormer('poolformer_s12', fused=fused)


@pytest.mark.parametrize('transform', ['grad', 'jvp'])
def test_transforms_of_torch_func(transform: str) -> None:
    x = image(2, 3, 64, 64).double()

    def result(model: MetaFormer) -> Tensor:
        model.double().eval()
        if transform == 'grad':
            return torch.func.grad(lambda x: model(x)[-1].square().sum())(x)
        return torch.func.jvp(lambda x: model(x)[-1], (x,), (x.cos(),))[1]

    plain, fused = pair('poolformer_s12')
    assert difference(result(fused), result(plain)) < 1e-10


@pytest.mark.parametrize('name', ARCHITECTURES)
@torch.no_grad()
def test_vmap_gives_each_images_maps(name: str) -> None:
    x = image(3, 3, 64, 64).double()
    for model in pair(name):
        model.double().eval()
        found = torch.func.vmap(model)(x[:, None])
        for ours, theirs in zip(found, model(x), strict=True):
            assert difference(ours[:, 0], theirs) < 1e-12


@pytest.mark.parametrize('with_cp', [False, True])
def test_vmap_gives_each_images_gradient(with_cp: bool) -> None:
    x = image(3, 3, 64, 64).double()
    plain, fused = (m.double() for m in pair('poolformer_s12', with_cp=with_cp))
    parameters = {name: p.detach() for name, p in fused.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        maps = torch.func.functional_call(fused, parameters, (x[None],))
        return sum(m.square().mean() for m in maps)

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i in range(len(x)):
        sum(m.square().mean() for m in plain(x[i : i + 1])).backward()
        for key, parameter in plain.named_parameters():
            if parameter.grad is not None and parameter.grad.abs().max() > 1e-9:
                assert difference(found[key][i], parameter.grad) < 1e-9, key
        plain.zero_grad()


def test_backward_pre_hooks_and_global_hooks_see_the_modules() -> None:
    _, model = pair('poolformer_s12')
    part = model.stages[2].blocks[1].mlp.fc2
    seen = []
    part.register_full_backward_pre_hook(lambda *_: seen.append('before'))
    handle = register_module_forward_hook(lambda m, *_: seen.append(m))
    try:
        maps = model(image(1, 3, 64, 64))
    finally:
        handle.remove()
    assert part in seen
    sum(m.sum() for m in model(image(1, 3, 64, 64))).backward()
    assert 'before' in seen
    assert len(maps) == 4


def test_flops_are_counted_as_of_the_modules() -> None:
    counts = []
    for model in pair('poolformer_s12'):
        with FlopCounterMode(display=False) as counter:
            sum(m.sum() for m in model(image(1, 3, 64, 64))).backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
