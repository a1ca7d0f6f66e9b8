"""A vector over the token embedding by token frequency, held against a count by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import Problem, noise, smoothness
from estimators.results import NO_EMBEDDING
from estimators.task.function import Samples
from estimators.task.token_rows import _counts, token_deciles, token_rows
from tests.problems import BagOfTokens
from tests.transformers_cases import VOCABULARY, bert_masked, masked, t5


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


# -- output rows -----------------------------------------------------------------------------------


class Scorer(nn.Module):
    """The next token from the present one: an embedding, a hidden layer as wide as the vocabulary, an output head."""

    def __init__(self, vocabulary: int, scores: int, tied: bool = False) -> None:
        super().__init__()
        self.read = nn.Embedding(vocabulary, vocabulary)
        self.hidden = nn.Linear(vocabulary, vocabulary)
        self.write = nn.Linear(vocabulary, scores)
        if tied:
            self.write.weight = self.read.weight

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.write(torch.tanh(self.hidden(self.read(tokens))))
        return scores


READ = torch.tensor([[0, 1, 1], [1, 3, 1]])
WRITTEN = torch.tensor([[2, 2, -100], [3, 2, 4]])
"""Counts of 0..5: read 1, 4, 0, 1, 0, 0; written 0, 0, 3, 1, 1, 0."""


def counts(problem: Problem) -> dict[tuple[str, str], list[int]]:
    return {(one.name, one.role): one.counts.tolist() for one in token_rows(problem)}


def causal(tied: bool) -> Problem:
    """Token 1 begins every sequence and is no label; the prompt of the second has none either."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 7, "n_positions": 5, "n_embd": 4, "n_layer": 1, "n_head": 1}
    model = GPT2LMHeadModel(GPT2Config(**shape, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0))
    tokens = torch.tensor([[1, 2, 2, 3, 2], [1, 4, 3, 3, 5]])
    labels = tokens.clone()
    labels[1, :3] = -100
    return Problem(model.double(), {"input_ids": tokens, "labels": labels})


def test_output_rows_of_an_untied_head_are_counted_by_labels() -> None:
    problem = causal(tied=False)
    assert counts(problem) == {
        ("transformer.wte.weight", "input"): [0, 2, 3, 3, 1, 1, 0],
        ("lm_head.weight", "output"): [0, 0, 3, 2, 0, 1, 0],
    }
    for vectors, found in (
        ((result := noise(problem)).vectors, result.token_deciles),
        ((curved := smoothness(problem)).vectors, curved.token_deciles),
    ):
        assert found is not None
        rows = [row for row in found if row["role"] == "output"]
        assert {row["tensor"] for row in rows} == {"lm_head.weight"}
        assert [(row["tokens"], row["least"], row["most"]) for row in rows] == [
            (4, 0, 0),
            (1, 1, 1),
            (1, 2, 2),
            (1, 3, 3),
        ]
        sums = vectors["lm_head.weight"].double().abs().sum(1)
        wanted = [sums[[0, 1, 4, 6]].sum(), sums[5], sums[3], sums[2]]
        assert [row["l1"] for row in rows] == pytest.approx([float(one) for one in wanted])
        assert rows[0]["dead_fraction"] == 0  # the softmax reaches every row
        assert sum(row["share"] for row in rows) == pytest.approx(1)


def test_a_tied_head_is_its_embedding() -> None:
    assert [role for _, role in counts(causal(tied=True))] == ["input"]


def test_the_bias_of_a_tied_head_has_output_rows() -> None:
    """Masked labels stand where they are: nothing is shifted."""
    samples = masked()
    found = counts(Problem(bert_masked(), samples))
    wanted = torch.bincount(samples["labels"][samples["labels"] != -100], minlength=VOCABULARY)
    assert [role for _, role in found] == ["input", "output"]
    assert found["cls.predictions.bias", "output"] == wanted.tolist()


def test_a_model_of_ones_own_is_known_by_what_it_scores() -> None:
    problem = Problem(Scorer(6, 6), (READ, WRITTEN))
    before = problem.passes.total
    assert counts(problem) == {
        ("read.weight", "input"): [1, 4, 0, 1, 0, 0],
        ("write.weight", "output"): [0, 0, 3, 1, 1, 0],
        ("write.bias", "output"): [0, 0, 3, 1, 1, 0],
    }
    assert problem.passes.total - before == pytest.approx(1 / 6)
    assert not any(module._forward_hooks for module in problem.model.modules())
    tied = Problem(Scorer(6, 6, tied=True), (READ, WRITTEN))
    assert list(counts(tied)) == [("read.weight", "input"), ("write.bias", "output")]


def test_an_output_head_beside_a_frozen_embedding() -> None:
    model = Scorer(6, 6)
    model.read.weight.requires_grad_(False)
    found = noise(Problem(model, (READ, WRITTEN))).token_deciles
    assert found is not None
    assert {row["tensor"] for row in found} == {"write.weight", "write.bias"}


@pytest.mark.parametrize("targets", [WRITTEN, torch.tensor([0, 2])], ids=["tags", "classes"])
def test_classes_are_no_tokens(targets: Tensor) -> None:
    """Five tags for each token, or as many classes of a sample as there are tokens."""
    model: nn.Module = Scorer(6, 5) if targets.dim() == 2 else BagOfTokens(6, 3, 6)
    assert [role for _, role in counts(Problem(model, (READ, targets)))] == ["input"]


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
