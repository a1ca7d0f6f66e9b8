"""Hints that a user of the command can follow: each is followed here, and then the model opens."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

import diagnose
from diagnose.errors import InputError
from diagnose.inputs.models.find import open_model
from diagnose.inputs.models.loaded import Loaded
from diagnose.inputs.opening import open_task
from diagnose.settings import SKIPPABLE, Settings
from estimators import Problem
from tests.diagnose.inputs.models.test_checkpoints import refused
from tests.diagnose.inputs.text import cases

PARTS = [SKIPPABLE, pytest.param(("training",), marks=pytest.mark.sweep)]
"""Left out of a run: all that can be, or training alone."""
NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(13, 3)
    def forward(self, x):
        return self.layer(x)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the user's code; what is imported from it is forgotten afterwards."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("nets", None)
    yield tmp_path
    sys.modules.pop("nets", None)


def layer() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(13, 3)

        def forward(self, x: Tensor) -> Any:
            return self.layer(x)

    return Net()


def followed(hint: str) -> Loaded:
    """What the factory opens that the hint spells out."""
    (line,) = re.findall(r"`(def load\(\): .*)`", hint)
    assert "`nets:load`" in hint
    with open("nets.py", "a") as file:
        file.write(f"\n{line}\n")
    found = open_model("nets:load", Settings())
    assert isinstance(found, Loaded)
    return found


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesting", [[], ["state_dict"], ["model_state_dict"], ["model", "module"]])
def test_a_state_dict_of_ones_own(here: Path, nesting: list[str]) -> None:
    model = layer()
    content: Any = dict(model.state_dict())
    for key in reversed(nesting):
        content = {key: content, "epoch": 3}
    (here / "runs").mkdir()
    torch.save(content, "runs/own.pt")
    error = refused(Path("runs/own.pt"))
    assert error.what == "a state dict without its architecture"
    assert torch.equal(followed(error.hint).module.layer.weight, model.layer.weight)  # type: ignore[union-attr, arg-type]
    opened, _ = open_task("nets:load", "wine", Settings())
    assert Problem(opened.model, opened.samples).d == 42


def test_a_state_dict_of_ones_own_in_safetensors(here: Path) -> None:
    model = layer()
    save_file(model.state_dict(), "it's mine.safetensors")
    error = refused(Path("it's mine.safetensors"))
    assert torch.equal(followed(error.hint).module.layer.weight, model.layer.weight)  # type: ignore[union-attr, arg-type]


def test_a_torchscript_program(here: Path) -> None:
    model = layer()
    torch.jit.trace(model, torch.zeros(1, 13)).save("script.pt")  # type: ignore[no-untyped-call]
    error = refused(Path("script.pt"))
    assert error.what == "a TorchScript program, no checkpoint"
    assert torch.equal(followed(error.hint).module.layer.weight, model.layer.weight)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("trust_pickle", [False, True])
def test_a_module_of_a_script(here: Path, monkeypatch: pytest.MonkeyPatch, trust_pickle: bool) -> None:
    main = sys.modules["__main__"]
    net: Any = type("Net", (nn.Linear,), {"__module__": "__main__"})
    monkeypatch.setattr(main, "Net", net, raising=False)
    model = net(13, 3)
    torch.save(model, "whole.pt")
    torch.save({f"layer.{name}": tensor for name, tensor in model.state_dict().items()}, "weights.pt")
    monkeypatch.delattr(main, "Net")
    error = refused(Path("whole.pt"), trust_pickle=trust_pickle)
    assert error.what == ("the pickled objects cannot be loaded" if trust_pickle else "a pickled file")
    assert "a script that ran as `__main__`" in error.hint
    assert "--trust-pickle" not in error.hint
    assert torch.equal(followed(error.hint).module.layer.weight, model.weight)  # type: ignore[union-attr, arg-type]


def test_a_torchscript_program_in_python() -> None:
    program: Any = torch.jit.trace(layer(), torch.zeros(1, 13))  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match="a TorchScript program") as caught:
        Problem(program, (torch.zeros(2, 13), torch.zeros(2, dtype=torch.long)))
    assert "state_dict()" in caught.value.hint


# -- words for models ------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["gpt2", "bert-base-uncased", "openai-community/gpt2", "t5-small", "Qwen/Qwen2-0.5B"])
def test_names_of_the_hub(here: Path, word: str) -> None:
    with pytest.raises(InputError) as caught:
        open_model(word, Settings())
    assert "hf download NAME --local-dir FOLDER" in caught.value.hint


@pytest.mark.parametrize("word", ["gpt2-min", "logrge", "models/gpt2.pt", "./gpt2", "here/bert"])
def test_words_that_are_no_names_of_the_hub(here: Path, word: str) -> None:
    (here / "here").mkdir()
    with pytest.raises(InputError) as caught:
        open_model(word, Settings())
    assert "hf download" not in caught.value.hint


def test_a_factory_by_its_file(here: Path) -> None:
    (here / "nets.py").write_text(NETS + "\ndef make(): return Net()\n")
    with pytest.raises(InputError) as caught:
        open_model("nets.py:make", Settings())
    assert caught.value.hint == "write it as a module: `nets:make`"
    assert isinstance(open_model("nets:make", Settings()), Loaded)
    with pytest.raises(InputError) as caught:
        open_model("code/nets.py:make", Settings())
    assert caught.value.hint == "write it as a module: `code.nets:make`"


# -- configurations --------------------------------------------------------------------------------


def edited(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def rows_of(folder: Path, *values: dict[str, Any]) -> Path:
    file = folder / "rows.json"
    file.write_text(json.dumps(values))
    return file


@pytest.mark.parametrize("change", [{"is_decoder": True}, {"architectures": ["BertForMaskedLM"]}])
def test_an_encoder_as_causal_model(tmp_path: Path, change: dict[str, Any]) -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model: Any = cases.made("Bert", "LMHeadModel", vocab_size=cases.VOCABULARY, max_position_embeddings=64, **shape)
    model.save_pretrained(tmp_path / "m")
    cases.saved(tmp_path / "m", ("[CLS]", "[SEP]"))
    data = rows_of(tmp_path, {"text": "a b c d e"}, {"text": "b c a"})
    opened, _ = open_task(tmp_path / "m", data, Settings())
    with pytest.raises(InputError, match="sees the tokens that it is to predict") as caught:
        Problem(opened.model, opened.samples)
    assert "`is_decoder` to true" in caught.value.hint
    assert "BertForMaskedLM in its place (there under `architectures`)" in caught.value.hint
    edited(tmp_path / "m", **change)
    opened, _ = open_task(tmp_path / "m", data, Settings())
    Problem(opened.model, opened.samples)


def test_a_classifier_without_a_padding_token(tmp_path: Path) -> None:
    """Then its loss is the mean of the losses that transformers gives for each row alone."""
    size = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": 64}
    model: Any = cases.made("GPT2", "ForSequenceClassification", vocab_size=cases.VOCABULARY, num_labels=2, **size)
    model.save_pretrained(tmp_path / "m")
    cases.saved(tmp_path / "m")
    values = [{"text": "a b c", "label": 0}, {"text": "d", "label": 1}, {"text": "e f", "label": 1}]
    data = rows_of(tmp_path, *values)
    with pytest.raises(InputError, match="the classifier has no padding token") as caught:
        open_task(tmp_path / "m", data, Settings())
    (number,) = re.findall(r"set `pad_token_id` in its config \(config.json\): `(\d+)`", caught.value.hint)
    assert int(number) == cases.PAD
    edited(tmp_path / "m", pad_token_id=int(number))
    opened, _ = open_task(tmp_path / "m", data, Settings(dtype="float64"))
    double = model.double()
    with torch.no_grad():
        each = [
            float(double(torch.tensor([cases.ids(row["text"])]), labels=torch.tensor([row["label"]])).loss)  # type: ignore[arg-type]
            for row in values
        ]
    assert Problem(opened.model, opened.samples).loss() == pytest.approx(sum(each) / 3, rel=1e-10)
    samples = {"input_ids": torch.ones(3, 2, dtype=torch.long), "labels": torch.tensor([0, 1, 1])}
    with pytest.raises(InputError) as caught:
        Problem(model, samples)
    assert caught.value.hint.startswith("set `pad_token_id` in its config")


def test_a_class_that_does_not_shift_its_labels(here: Path) -> None:
    """The wrapper that the hint describes, made by a factory, measured by the command's way in."""
    (here / "nets.py").write_text(
        """
import torch
from torch import nn
import transformers

def bart():
    torch.manual_seed(0)
    size = dict(d_model=8, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8, max_position_embeddings=64)
    return transformers.BartForCausalLM(transformers.BartConfig(vocab_size=256, **size))

class Logits(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = bart()
    def forward(self, input_ids, attention_mask=None):
        return self.inner(input_ids, attention_mask=attention_mask).logits
"""
    )
    data = rows_of(here, {"text": "abcd"}, {"text": "abc"})
    opened, _ = open_task("nets:bart", data, Settings())
    with pytest.raises(InputError, match="the model's own loss") as caught:
        Problem(opened.model, opened.samples)
    assert "name a factory, `package.module:factory`, of a module that wraps it" in caught.value.hint
    opened, _ = open_task("nets:Logits", data, Settings())
    samples = opened.samples
    assert isinstance(samples, dict)
    with torch.no_grad():
        scores = opened.model(samples["input_ids"], samples["attention_mask"]).log_softmax(-1)
    each = [
        -sum(float(scores[row, place, ord(letter)]) for place, letter in enumerate(word[1:])) / (len(word) - 1)
        for row, word in enumerate(("abcd", "abc"))
    ]
    assert Problem(opened.model, samples).loss() == pytest.approx(sum(each) / 2, rel=1e-5)


def test_pickled_weights_in_a_folder(tmp_path: Path) -> None:
    model = cases.gpt2()
    saving: Any = model
    saving.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "m" / "pytorch_model.bin")
    hint = refused(tmp_path / "m").hint
    file, cls = re.findall(r"`(.*) --architecture (\w+)`", hint)[0]
    opened = open_model(file, Settings(architecture=cls))
    assert isinstance(opened, Loaded)
    assert all(torch.equal(opened.module.state_dict()[name], value) for name, value in model.state_dict().items())
    assert f"`--architecture {cls}`" in refused(Path(file)).hint
    assert opened.folder == tmp_path / "m"


def test_an_encoder_decoder_whose_config_lacks_its_start(tmp_path: Path) -> None:
    saving: Any = cases.t5()
    saving.save_pretrained(tmp_path / "m")
    cases.saved(tmp_path / "m", ("", "[EOS]"))
    edited(tmp_path / "m", decoder_start_token_id=None)
    data = rows_of(tmp_path, {"instruction": "a b", "output": "c"}, {"instruction": "d", "output": "e f"})
    opened, _ = open_task(tmp_path / "m", data, Settings())
    with pytest.raises(InputError, match="the decoder has no inputs") as caught:
        Problem(opened.model, opened.samples)
    assert "set `decoder_start_token_id` and `pad_token_id` in its config" in caught.value.hint
    edited(tmp_path / "m", decoder_start_token_id=cases.PAD, pad_token_id=cases.PAD)
    opened, _ = open_task(tmp_path / "m", data, Settings())
    Problem(opened.model, opened.samples)


@pytest.mark.parametrize("family", ["Blenderbot", "BlenderbotSmall", "M2M100", "NllbMoe"])
def test_decoders_that_shift_their_labels_in_forward_alone(family: str) -> None:
    """Their inputs are made as forward makes them: the opening holds the loss against their own."""
    parts = {"layers": 1, "attention_heads": 2, "ffn_dim": 8}
    size = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in parts.items()}
    size |= {"d_model": 8, "max_position_embeddings": 32}
    ends = {"pad_token_id": 1, "decoder_start_token_id": 2, "router_aux_loss_coef": 0.0}
    model: Any = cases.made(family, "ForConditionalGeneration", vocab_size=32, **size, **ends)
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(3, 32, (4, 5), generator=g)
    labels[0, 3:] = -100
    samples = {"input_ids": torch.randint(3, 32, (4, 6), generator=g), "labels": labels}
    with torch.no_grad():
        rows = [{name: value[row : row + 1] for name, value in samples.items()} for row in range(4)]
        each = [float(model(**one).loss) for one in rows]
    assert Problem(model, samples).loss() == pytest.approx(sum(each) / 4, rel=1e-5)


@pytest.mark.parametrize("skip", PARTS)
def test_a_routing_loss(skip: tuple[str, ...], tmp_path: Path) -> None:
    """Its entry in config.json; or, in Python, a function as loss for the same folder and file."""
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"num_key_value_heads": 2, "num_local_experts": 2, "output_router_logits": True}
    saving: Any = cases.made("Mixtral", "ForCausalLM", vocab_size=cases.VOCABULARY, **shape, **more)
    saving.save_pretrained(tmp_path / "m")
    cases.saved(tmp_path / "m")
    data = rows_of(tmp_path, {"text": "a b c d e"}, {"text": "b c a"}, {"text": "d d a"})
    opened, _ = open_task(tmp_path / "m", data, Settings())
    with pytest.raises(InputError, match="the model's own loss") as caught:
        Problem(opened.model, opened.samples)
    assert "set `output_router_logits` to false in its config (config.json)" in caught.value.hint
    assert "in Python, give the loss as a function (output, targets) -> one loss for each sample" in caught.value.hint

    def loss(output: Any, targets: Tensor) -> Tensor:
        each = nn.functional.cross_entropy(output.logits[:, :-1].mT, targets[:, 1:], reduction="none")
        return each.sum(1)

    found = diagnose.run(tmp_path / "m", data, loss=loss, out=tmp_path / "out", quiet=True, skip=skip)
    assert found.noise.l1 is not None
    assert found.noise.l1 > 0
    edited(tmp_path / "m", output_router_logits=False)
    opened, _ = open_task(tmp_path / "m", data, Settings())
    Problem(opened.model, opened.samples)


# -- images and text -------------------------------------------------------------------------------


def llava() -> Any:
    small: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**small, image_size=4, patch_size=2)
    text = transformers.LlamaConfig(**small, num_key_value_heads=2, vocab_size=32, max_position_embeddings=32)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=31, vision_feature_layer=-1
    )
    torch.manual_seed(0)
    model: Any = transformers.LlavaForConditionalGeneration(config)
    return model.eval()


@pytest.mark.parametrize("skip", PARTS)
def test_images_with_text_are_refused_by_the_command_and_measured_in_python(
    skip: tuple[str, ...], tmp_path: Path
) -> None:
    """Named as an encoder-decoder, it is a causal model: its loss is that of the next token, against its own."""
    model = llava()
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(InputError, match="takes more than text") as caught:
        open_model(str(tmp_path / "m"), Settings())
    assert caught.value.what == "LlavaForConditionalGeneration takes more than text (`vision_config`)"
    assert "`diagnose.run(model, samples)`" in caught.value.hint
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 30, (5, 9), generator=g)
    tokens[:, :4] = 31
    labels = torch.where(torch.arange(9) < 6, -100, tokens)
    samples = {"input_ids": tokens, "pixel_values": torch.randn(5, 3, 4, 4, generator=g), "labels": labels}
    with torch.no_grad():
        each = [float(model(**{name: value[i : i + 1] for name, value in samples.items()}).loss) for i in range(5)]
    assert Problem(model, samples).loss() == pytest.approx(sum(each) / 5, rel=1e-5)
    found = diagnose.run(model, samples, out=tmp_path / "out", quiet=True, skip=skip)
    assert found.noise.l1 is not None
    assert found.noise.l1 > 0


def test_sound_is_refused(tmp_path: Path) -> None:
    config = transformers.WhisperConfig(
        vocab_size=32, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, num_mel_bins=4,
    )  # fmt: skip
    config.architectures = ["WhisperForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="takes `input_features`, not tokens of text"):
        open_model(str(tmp_path / "config.json"), Settings())


def test_text_models_are_taken(tmp_path: Path) -> None:
    for model in (cases.t5(), cases.gpt2(), cases.bert(), cases.bert(2)):
        saving: Any = model
        saving.save_pretrained(tmp_path / type(model).__name__)
        assert isinstance(open_model(str(tmp_path / type(model).__name__), Settings()), Loaded)
