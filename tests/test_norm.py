"""The norm whose gradient is written out is the decoder's own, in values and gradients."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gemma_encoder import GemmaEncoder
from gemma_encoder.exchange import OURS
from gemma_encoder.families import FAMILIES
from gemma_encoder.norm import RMSNorm, fused

GEMMA = ("gemma", "gemma2", "gemma3_text")


def norm_modules(backbone):
    """The norms of ours in a decoder."""
    return [module for module in backbone.modules() if type(module) in OURS.values() and hasattr(module, "eps")]


def both(norm, states):
    """Output and gradients of `states` and weight, by the module as it is and by the class of the decoder."""
    found = []
    for call in (norm, lambda given: type(norm).__bases__[1].forward(norm, given)):
        given_states = states.clone().requires_grad_()
        output = call(given_states)
        probe = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).to(output.dtype).view_as(output)
        wanted = [given_states, *(weight for weight in norm.parameters() if weight.requires_grad)]
        found.append((output, *torch.autograd.grad(output, wanted, probe)))
    return found


@pytest.mark.parametrize("family", GEMMA)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("frozen", [False, True])
def test_values_are_those_of_the_decoder_and_gradients_too(tiny_decoder, family, dtype, tolerance, frozen):
    norms = norm_modules(GemmaEncoder.from_decoder(tiny_decoder(family), dtype=dtype).backbone)
    assert len(norms) == {"gemma": 9, "gemma2": 17, "gemma3_text": 25}[family]
    for norm in norms:
        norm.weight.data.normal_(std=0.5)
        norm.weight.requires_grad_(not frozen)
        here, there = both(norm, torch.randn(2, 7, len(norm.weight), dtype=dtype))
        assert torch.equal(here[0], there[0])
        torch.testing.assert_close(here, there, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("norm", [RMSNorm.apply, fused], ids=["written out", "torch's own, as on a GPU"])
@given(rows=st.integers(1, 5), dim=st.integers(1, 9), size=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_value_and_gradient_are_those_of_the_formula(norm, rows, dim, size, seed):
    generator = torch.Generator().manual_seed(seed)
    states = (torch.randn(rows, dim, generator=generator) * size).requires_grad_()
    weight = torch.randn(dim, generator=generator, requires_grad=True)
    exact = [each.detach().double().requires_grad_() for each in (states, weight)]
    output = (1 + exact[1]) * exact[0] / (exact[0].pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    probe = torch.randn(rows, dim, generator=generator)
    there = torch.autograd.grad(output, exact, probe.double())
    found = norm(states, weight, 1e-6)
    torch.testing.assert_close(found.double(), output, atol=1e-5, rtol=1e-5)
    here = torch.autograd.grad(found, [states, weight], probe)
    for mine, theirs in zip(here, there, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-5 * (1 + 1 / size), rtol=1e-3)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(GEMMA)))
def test_norms_of_other_families_stay_as_they_are(tiny_decoder, family):
    backbone = GemmaEncoder.from_decoder(tiny_decoder(family)).backbone
    assert not norm_modules(backbone)
    assert not any("forward" in vars(module) for module in backbone.modules())


def test_a_copy_of_the_model_has_norms_of_its_own(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder())
    twin = copy.deepcopy(model)
    for norm in norm_modules(twin.backbone):
        norm.weight.data.fill_(3.0)
    ids = torch.tensor([[2, 5, 6]])
    assert not torch.equal(model.eval()(ids).last_hidden_state, twin.eval()(ids).last_hidden_state)


def test_a_replica_of_data_parallel_has_norms_of_its_own(tiny_decoder):
    norm = GemmaEncoder.from_decoder(tiny_decoder()).backbone.norm
    replica = norm._replicate_for_data_parallel()
    replica.weight = norm.weight.detach() + 1
    states = torch.randn(2, 3, 32)
    torch.testing.assert_close(replica(states), norm(states) * (2 + norm.weight) / (1 + norm.weight))


def test_a_second_gradient_is_refused_because_it_would_be_wrong(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder())
    states = model.get_input_embeddings()(torch.tensor([[5, 6]])).detach().requires_grad_()
    out = model.backbone.norm(states)
    (first,) = torch.autograd.grad(out.square().sum(), states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()
