"""A vector over the token embedding by token frequency, held against a count by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from estimators import Problem, noise, smoothness
from estimators.embeddings import _counts, token_deciles
from estimators.problem import Samples
from estimators.results import NO_EMBEDDING
from tests.problems import BagOfTokens
from tests.transformers_cases import VOCABULARY, t5


def bag(tokens: Tensor, vocabulary: int) -> Problem:
    torch.manual_seed(0)
    return Problem(BagOfTokens(vocabulary, 3, 2), (tokens, torch.arange(len(tokens)) % 2))


def by_name(problem: Problem, rows: Tensor) -> dict[str, Tensor]:
    return {name: rows if name == "embedding.weight" else torch.zeros(s) for name, s in problem.shapes.items()}


def test_groups_are_tenths_of_the_seen_tokens_by_count() -> None:
    # Token t occurs t times, tokens 0 and 21..24 never.
    tokens = torch.repeat_interleave(torch.arange(21), torch.arange(21)).reshape(10, 21)
    problem = bag(tokens, 25)
    rows = torch.arange(25.0)[:, None].expand(25, 3) * torch.tensor([1.0, -1.0, 0.0])
    found, reason = token_deciles(problem, by_name(problem, rows))
    assert reason == ""
    assert found is not None
    assert [row["decile"] for row in found] == list(range(11))
    assert [row["tokens"] for row in found] == [5] + [2] * 10
    assert [(row["least"], row["most"]) for row in found] == [(0, 0)] + [(k, k + 1) for k in range(1, 20, 2)]
    assert found[1]["l1"] == pytest.approx(2 * (1 + 2))
    assert found[10]["mean"] == pytest.approx(2 * (19 + 20) / 6)
    assert found[10]["dead_fraction"] == pytest.approx(1 / 3)
    assert sum(row["share"] for row in found) == pytest.approx(1)


def test_tokens_that_never_occur_are_dead_without_a_tied_head() -> None:
    problem = bag(torch.randint(0, 8, (12, 6), generator=torch.Generator().manual_seed(1)), 20)
    found = noise(problem).token_deciles
    assert found is not None
    unseen = found[0]
    assert (unseen["decile"], unseen["tokens"], unseen["l1"], unseen["dead_fraction"]) == (0, 12, 0.0, 1.0)
    curved = smoothness(problem).token_deciles
    assert curved is not None
    assert curved[0]["l1"] == 0.0
    assert sum(row["l1"] for row in curved) > 0


def test_few_tokens_make_few_groups() -> None:
    found, _ = token_deciles(problem := bag(torch.tensor([[0, 1], [1, 1]]), 2), by_name(problem, torch.ones(2, 3)))
    assert found is not None
    assert [row["decile"] for row in found] == [1, 2]


def test_padding_is_not_counted() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=4, n_embd=4, n_layer=1, n_head=1))
    tokens = torch.tensor([[1, 2, 0, 0], [1, 3, 4, 0]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    samples = {"input_ids": tokens, "attention_mask": mask, "labels": torch.where(mask == 0, -100, tokens)}
    found = noise(Problem(model, samples)).token_deciles
    assert found is not None
    assert found[0]["tokens"] == 5  # 0 and 5..8
    assert (found[-1]["tensor"], found[-1]["most"]) == ("transformer.wte.weight", 2)
    assert found[0]["dead_fraction"] < 1  # the tied head gives every token a gradient


def test_a_decoder_counts_what_it_reads_of_its_answer() -> None:
    """The encoder's mask has the shape of the answers here and must not be taken for theirs."""
    prompts = torch.tensor([[1, 2, 2, 2], [3, 0, 0, 0]])
    labels = torch.tensor([[4, 5, -100, -100], [5, 6, 7, 8]])
    samples = {"input_ids": prompts, "attention_mask": (prompts != 0).long(), "labels": labels}
    problem = Problem(t5(), samples)
    counts = _counts(problem, VOCABULARY)
    # Prompts: 1, 2 three times, 3. The decoder reads the start token 0 and all but the last label: 4; 5, 6, 7.
    assert counts.tolist()[:9] == [2, 1, 3, 1, 1, 1, 1, 1, 0]
    assert not counts[9:].any()


@pytest.mark.parametrize(
    ("model", "samples"),
    [
        (nn.Linear(3, 2), (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))),
        (nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))),
    ],
)
def test_without_an_embedding_there_is_a_reason(model: nn.Module, samples: Samples) -> None:
    found = noise(Problem(model, samples))
    assert found.token_deciles is None
    assert found.why["token_deciles"] == NO_EMBEDDING


def test_a_frozen_embedding_is_none() -> None:
    model = BagOfTokens(5, 3, 2)
    model.embedding.weight.requires_grad_(False)
    problem = Problem(model, (torch.randint(0, 5, (6, 4)), torch.arange(6) % 2))
    assert noise(problem).why["token_deciles"] == NO_EMBEDDING
