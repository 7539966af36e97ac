"""Multi-token prediction against DeepSeek-V3's equations, and where it takes part."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlzero.models.balance import balance_loss
from rlzero.models.decoder import MoEForCausalLM
from tests.models.tiny import make_decoder, tokens

DEPTH = 2
WEIGHT = 0.7


@pytest.fixture(scope="module")
def model() -> MoEForCausalLM:
    return make_decoder("mla", num_nextn_predict_layers=DEPTH, mtp_loss_weight=WEIGHT).train()


@pytest.fixture(scope="module")
def plain(model) -> MoEForCausalLM:
    """The same decoder without the modules."""
    without = make_decoder("mla").train()
    without.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("mtp.")}, strict=True)
    return without


def _norm(hidden: Tensor, norm) -> Tensor:
    return hidden / (hidden.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight


def _by_the_equations(model: MoEForCausalLM, ids: Tensor, labels: Tensor) -> list[Tensor]:
    """Σ_i log P^k_{i+k+1}(t_{i+k+1}) of one sequence for k = 1 … D: 2412.19437, eq. 21 to 24, one token at a time.

    Written with the paper's t_1, t_2, …: ids[i - 1] is t_i.
    """
    length = len(ids)
    state = model.model(input_ids=ids[None]).last_hidden_state[0]  # h^0_i at [i - 1]
    sums = []
    for k, module in enumerate(model.mtp, start=1):
        joined = []
        for i in range(1, length - k + 1):
            embedding = model.model.embed_tokens.weight[ids[i + k - 1]]  # Emb(t_{i+k})
            both = torch.cat([_norm(embedding, module.enorm), _norm(state[i - 1], module.hnorm)])
            joined.append(module.eh_proj.weight @ both)
        positions = torch.arange(length - k)[None]
        mixing = model.model.mixing(torch.stack(joined)[None], None, positions)
        state = module.mtp_block(torch.stack(joined)[None], **mixing)[0]  # h^k, eq. 22
        total = torch.zeros(())
        for i in range(1, length - k):
            logits = model.lm_head.weight @ _norm(state[i - 1], module.post_norm)  # eq. 23
            aim = labels[i + k]  # t_{i+k+1}
            if aim != -100:
                total = total + logits.log_softmax(-1)[aim]
        sums.append(total)
    return sums


def _expected(model: MoEForCausalLM, sequences: list[tuple[Tensor, Tensor]]) -> Tensor:
    """λ / D Σ_k L^k, L^k = -1/T Σ_i …: eq. 24 and 25, T counting the targets of the main model in all sequences."""
    targets = sum(int((labels[1:] != -100).sum()) for _, labels in sequences)
    sums = [_by_the_equations(model, ids, labels) for ids, labels in sequences]
    return -WEIGHT / DEPTH * sum(part for each in sums for part in each) / targets


def _close(ours: Tensor, expected: Tensor) -> None:
    assert expected > 1
    torch.testing.assert_close(ours, expected, rtol=2e-5, atol=0)


def test_the_loss_is_the_papers(model, plain) -> None:
    ids = tokens(2, 9)
    with torch.no_grad():
        added = model(ids, labels=ids).loss - plain(ids, labels=ids).loss
        _close(added, _expected(model, [(row, row) for row in ids]))


def test_a_padded_row_counts_what_it_counts_alone(model, plain) -> None:
    """On both sides, with labels in the middle left out as well."""
    ids = tokens(2, 10)
    labels = ids.clone()
    # As transformers counts, a first token is a target of the padding before it, unless its label says otherwise.
    labels[0, :3], labels[1, 7:], labels[1, 4] = -100, -100, -100
    mask = torch.ones_like(ids)
    mask[0, :2], mask[1, 7:] = 0, 0
    options = {"labels": labels, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    with torch.no_grad():
        added = model(ids, **options).loss - plain(ids, **options).loss
        _close(added, _expected(model, [(ids[0, 2:], labels[0, 2:]), (ids[1, :7], labels[1, :7])]))


def test_a_packed_row_is_not_predicted_across_its_sequences(model, plain) -> None:
    ids = tokens(1, 11)
    positions = torch.tensor([[*range(4), *range(7)]])
    labels = ids.clone()
    labels[0, [0, 4]] = -100  # as packing collators write it: nothing precedes a first token
    options = {"labels": labels, "position_ids": positions}
    with torch.no_grad():
        added = model(ids, **options).loss - plain(ids, **options).loss
        _close(added, _expected(model, [(ids[0, :4], labels[0, :4]), (ids[0, 4:], labels[0, 4:])]))


def test_accumulated_batches_add_up_to_the_whole(model) -> None:
    ids = tokens(4, 9)
    labels = ids.clone()
    labels[0, :5] = -100
    items = (labels[:, 1:] != -100).sum()
    with torch.no_grad():
        whole = model(ids, labels=labels).loss
        parts = sum(
            model(row, labels=aim, num_items_in_batch=items).loss
            for row, aim in zip(ids.split([1, 3]), labels.split([1, 3]), strict=True)
        )
    torch.testing.assert_close(parts, whole)


def test_all_parts_learn_and_embedding_and_head_learn_from_it_too(model, plain) -> None:
    ids = tokens(2, 9)
    for each in (model, plain):
        each.zero_grad()
        each(ids, labels=ids).loss.backward()
    without = dict(plain.named_parameters())
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        if name.startswith("mtp."):
            assert weight.grad.abs().sum() > 0, name
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.layers.0.self_attn.o_proj.weight"):
        assert not torch.allclose(model.get_parameter(name).grad, without[name].grad, rtol=1e-3), name


def test_without_labels_or_in_evaluation_nothing_is_predicted_ahead(model, plain) -> None:
    ids = tokens(2, 9)
    model.zero_grad()
    model(ids).logits.sum().backward()
    assert all(weight.grad is None for weight in model.mtp.parameters())
    model.eval()
    try:
        loss = model(ids, labels=ids).loss
        expected = F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        torch.testing.assert_close(loss, expected)
    finally:
        model.train()


def test_embeddings_given_in_the_place_of_tokens_do_as_well(model) -> None:
    ids = tokens(2, 9)
    with torch.no_grad():
        embeds = model.model.embed_tokens(ids)
        torch.testing.assert_close(model(inputs_embeds=embeds, labels=ids).loss, model(ids, labels=ids).loss)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_sequence_too_short_to_look_ahead_in_adds_nothing(model, plain, length) -> None:
    ids = tokens(1, length)
    with torch.no_grad():
        added = model(ids, labels=ids, num_items_in_batch=10).loss - plain(ids, labels=ids, num_items_in_batch=10).loss
    assert (added > 0.01) == (length > 2)
    assert length > 2 or added == 0


@torch.no_grad()
def test_experts_of_the_modules_are_balanced_over_the_tokens_they_ran_on() -> None:
    model = make_decoder("mla", num_nextn_predict_layers=DEPTH, balance={"expert": 0.4}).train()
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, :3] = 0
    output = model(ids, attention_mask=mask, labels=ids)
    routings = [[layer.routing] for layer in model.model.layers if layer.routing is not None]
    blocks = [[module.mtp_block.routing] for module in model.mtp]
    expected = 0
    for routing, ahead in zip([*routings, *blocks], [0, 0, 1, 2], strict=True):
        rows = torch.arange(2)[:, None].expand(2, 9 - ahead)
        assert len(routing[0].indices) == rows.numel()
        expected += balance_loss(routing, model.config, mask[:, : 9 - ahead].flatten().bool(), rows.flatten())
    torch.testing.assert_close(output.aux_loss, expected)
    # A pass that predicts nothing ahead leaves no routing of an earlier one behind.
    model(ids)
    assert all(module.mtp_block.mlp.last is None for module in model.mtp)
