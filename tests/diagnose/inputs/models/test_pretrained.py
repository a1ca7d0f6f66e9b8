"""Models of transformers from folders and configurations: tied, whole, silent, and nothing run without trust."""

from __future__ import annotations

import json
import logging
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import logging as theirs

from diagnose.errors import InputError
from diagnose.inputs.models.find import open_model
from diagnose.inputs.models.loaded import Loaded
from diagnose.settings import Settings
from tests.diagnose.inputs.models.test_checkpoints import moved, opened, refused, same, tiny
from tests.markers import marked

NONE: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}


def bert(cls: Any, **more: Any) -> Any:
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, **more
    )
    return cls(config)


def t5() -> Any:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    )


def mixtral() -> Any:
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=20,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=2,
            **NONE,
        )
    )


def llama() -> Any:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=20,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            **NONE,
        )
    )


def vit() -> Any:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=8,
            patch_size=4,
        )
    )


def resnet() -> Any:
    """Batch norm: running means and counters are buffers that a file must hold."""
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": tiny,
    "bert-masked": lambda: bert(transformers.BertForMaskedLM),
    "bert-sequence": lambda: bert(transformers.BertForSequenceClassification, num_labels=3),
    "t5": t5,
    "mixtral": mixtral,
    "llama-tied": llama,
    "vit": vit,
    "resnet": resnet,
}


def saved(name: str, folder: Path, **how: Any) -> Any:
    torch.manual_seed(3)
    model = moved(FAMILIES[name]())
    model.save_pretrained(folder, **how)  # type: ignore[operator]
    return model.eval()


def ties(model: nn.Module) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return sorted(names for names in groups.values() if len(names) > 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_gives_the_same_model_whatever_the_seed(tmp_path: Path, name: str) -> None:
    model = saved(name, tmp_path / "model")
    for seed in (0, 1):
        found = opened(tmp_path / "model", seed=seed)
        assert same(found.module, model.state_dict())
        assert ties(found.module) == ties(model)
        assert type(found.module) is type(model)
        assert (found.name, found.folder) == ("model", tmp_path / "model")
        assert found.form == f"{type(model).__name__}, weights of the folder"


@pytest.mark.parametrize("name", marked("sweep", FAMILIES, list(FAMILIES)[:2]))
def test_no_tensor_of_a_folder_can_be_lost_unnoticed(tmp_path: Path, name: str) -> None:
    saved(name, tmp_path)
    whole = {key: tensor.clone() for key, tensor in load_file(tmp_path / "model.safetensors").items()}  # not the file
    for lost in whole:
        if lost.endswith("num_batches_tracked"):
            continue
        rest = {key: tensor for key, tensor in whole.items() if key != lost}
        save_file(rest, tmp_path / "model.safetensors", metadata={"format": "pt"})
        error = refused(tmp_path)
        assert "do not fit" in error.what
        assert f"{lost} is missing" in error.where


@pytest.mark.parametrize("name", ["gpt2", "bert-masked", "t5", "llama-tied"])
def test_a_tie_is_restored_whichever_tensor_the_file_holds(tmp_path: Path, name: str) -> None:
    model = saved(name, tmp_path)
    state = model.state_dict()
    assert ties(model)
    for group in ties(model):
        for kept in group:
            rest = {key: t.clone() for key, t in state.items() if key not in group or key == kept}
            save_file(rest, tmp_path / "model.safetensors", metadata={"format": "pt"})
            found = opened(tmp_path).module
            assert same(found, state)
            assert ties(found) == ties(model)
        rest = {key: t.clone() for key, t in state.items() if key not in group}
        save_file(rest, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert "missing" in refused(tmp_path).where


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    model = saved("gpt2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_positions": 9}))
    error = refused(tmp_path)
    assert error.where == f"{tmp_path.name}: transformer.wpe.weight is (16, 8) in the file, (9, 8) in the model"
    extra = {**model.state_dict(), "transformer.h.1.ln_1.weight": torch.zeros(8)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({k: t.clone() for k, t in extra.items()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "transformer.h.1.ln_1.weight is not in the model" in refused(tmp_path).where


def test_tensors_of_no_use_are_left_over_and_said(tmp_path: Path) -> None:
    """What BERT was pretrained with besides its masked tokens, and a constant of older versions."""
    model = saved("bert-masked", tmp_path)
    extra = {
        "bert.pooler.dense.weight": torch.zeros(8, 8),
        "bert.pooler.dense.bias": torch.zeros(8),
        "cls.seq_relationship.weight": torch.zeros(2, 8),
        "bert.encoder.layer.0.attention.self.masked_bias": torch.tensor(-1e4),
    }
    whole = {**{key: tensor.clone() for key, tensor in model.state_dict().items()}, **extra}
    save_file(whole, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = opened(tmp_path)
    assert same(found.module, model.state_dict())
    named = "bert.encoder.layer.0.attention.self.masked_bias, bert.pooler.dense.bias, bert.pooler.dense.weight, …"
    assert found.form.endswith(f", not used: {named} (4 of {len(whole)} tensors)")


@pytest.mark.parametrize(
    "name",
    ["cls.predictions.decoder.scale", "bert.encoder.layer.0.attention.norm.weight", "bert.encoder.layer.7.a.weight"],
)
def test_a_tensor_that_would_change_the_model_is_refused(tmp_path: Path, name: str) -> None:
    model = saved("bert-masked", tmp_path)
    whole = {**{key: tensor.clone() for key, tensor in model.state_dict().items()}, name: torch.zeros(8)}
    save_file(whole, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert f"{name} is not in the model" in refused(tmp_path).where


def test_a_body_without_its_head_is_refused_and_named(tmp_path: Path) -> None:
    bert(transformers.BertModel).save_pretrained(tmp_path)
    error = refused(tmp_path)
    assert error.what == "BertModel has no head that is measured"
    assert "--architecture" in error.hint
    assert "classifier" in refused(tmp_path, architecture="BertForSequenceClassification").where
    shutil.rmtree(tmp_path)
    body = moved(transformers.GPT2Model(tiny().config))
    body.save_pretrained(tmp_path)  # type: ignore[operator]
    found = opened(tmp_path, architecture="GPT2LMHeadModel").module  # its head is tied: nothing is missing
    assert isinstance(found, transformers.GPT2LMHeadModel)
    assert same(found.transformer, body.state_dict())
    assert found.lm_head.weight is found.transformer.wte.weight


def test_shards_are_put_together(tmp_path: Path) -> None:
    model = saved("bert-masked", tmp_path, max_shard_size="2KB")
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 1
    assert same(opened(tmp_path).module, model.state_dict())
    parts[1].unlink()
    error = refused(tmp_path)
    assert (error.what, error.where) == ("a file of the weights is missing", parts[1].name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    assert refused(tmp_path).what == "no table of files"
    index.write_text(json.dumps({"weight_map": {"a": [1]}}))
    assert refused(tmp_path).what == "no table of files"


def test_bfloat16_is_said_and_opened_in_float32(tmp_path: Path) -> None:
    model: Any = tiny()
    model.to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    found = opened(tmp_path)
    assert same(found.module, model.float().state_dict())
    assert found.form == "GPT2LMHeadModel, weights of the folder, stored as bfloat16"


def test_what_a_model_computes_itself_is_not_rounded_with_its_weights(tmp_path: Path) -> None:
    """The sinusoids of XGLM are in no file."""
    from transformers import XGLMConfig, XGLMForCausalLM

    torch.manual_seed(0)
    config = XGLMConfig(vocab_size=20, d_model=8, ffn_dim=8, num_layers=1, attention_heads=2)
    model: Any = XGLMForCausalLM(config)
    exact = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert exact
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    found = dict(opened(tmp_path).module.named_buffers())
    for name, buffer in exact.items():
        assert torch.equal(found[name], buffer), name


def test_several_formats_are_all_named(tmp_path: Path) -> None:
    model: Any = tiny()
    model.to(torch.bfloat16).transformer.wpe.half()
    model.save_pretrained(tmp_path)
    assert opened(tmp_path).form.endswith("stored as bfloat16, float16")


def test_a_configuration_beyond_the_memory_is_refused(tmp_path: Path) -> None:
    tiny().config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"], "n_embd": 10_000_000}))
    assert "1,200,000,510,000,000 parameters take" in refused(path).what


def test_a_configuration_of_many_more_layers_than_tensors(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "n_layer": 10_000_000}))
    assert "10,000,000 layers, and" in refused(tmp_path).where


def test_a_pointer_in_place_of_the_weights_and_a_number_of_many_digits(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert refused(tmp_path).hint == "fetch it with `git lfs pull`"
    (tmp_path / "config.json").write_text('{"n_layer": ' + "9" * 5000 + "}")
    assert refused(tmp_path).what == "no JSON"


def test_the_configuration_of_a_much_larger_model_takes_no_memory(tmp_path: Path) -> None:
    """10^15 parameters: it would be noticed."""
    tiny().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_embd": 10_000_000, "n_inner": 100_000}))
    error = refused(tmp_path)
    assert error.what == "the tensors do not fit GPT2LMHeadModel"
    assert "c_attn.bias is (24,) in the file, (30000000,) in the model" in error.where


def test_a_configuration_alone_gives_random_weights_of_the_seed(tmp_path: Path) -> None:
    saved("bert-masked", tmp_path)
    before, other = torch.random.get_rng_state(), random.getstate()
    first, again, third = (opened(tmp_path / "config.json", seed=seed) for seed in (4, 4, 5))
    assert torch.equal(before, torch.random.get_rng_state())
    assert other == random.getstate()
    assert same(first.module, again.module.state_dict())
    assert not same(first.module, third.module.state_dict())
    assert first.form == "BertForMaskedLM, weights at random, seed 4"
    assert (first.name, first.folder) == ("config.json", tmp_path)
    assert all(p.dtype == torch.float32 for p in first.module.parameters())


def test_a_configuration_without_its_class_takes_the_option(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    tiny().config.save_pretrained(tmp_path)
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "architectures": None}))
    assert refused(path).hint == "name a class of transformers with `--architecture`"
    assert "GPT2LMHeadModel" in opened(path, architecture="GPT2LMHeadModel").form
    assert refused(path, architecture="GPT2LMHeadMode").hint == "did you mean `GPT2LMHeadModel`?"
    assert "a configuration of gpt2" in refused(path, architecture="BertForMaskedLM").what
    path.write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}))
    assert refused(path, architecture="GPT2LMHeadModel").hint == "leave it out"
    path.write_text(json.dumps({**config, "architectures": ["GPT2ForQuestionAnswering"]}))
    assert "GPT2ForQuestionAnswering has no head that is measured" in refused(path).what
    path.write_text(json.dumps({**config, "architectures": ["Unheard"]}))
    assert "unknown architecture" in refused(path).what


@pytest.mark.parametrize(
    ("content", "what", "where"),
    [
        ("", "broken JSON", "line 1"),
        ('{\n"a": 1,\n oops}', "broken JSON", "line 3"),
        ("[1]", "no JSON object", "config.json"),
        ("{}", "no configuration of a model", "config.json"),
        ('{"architectures": ["GPT2LMHeadModel"], "n_layer": "x"}', "refuses it", "n_layer"),
        ('{"architectures": ["GPT2LMHeadModel"], "n_embd": 8, "n_head": 3}', "refuses it", "divisible"),
        ('{"architectures": ["GPT2LMHeadModel"], "quantization_config": {"bits": 4}}', "quantised", "config.json"),
    ],
)
def test_damaged_configurations(tmp_path: Path, content: str, what: str, where: str) -> None:
    (tmp_path / "config.json").write_text(content)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for word in (tmp_path, tmp_path / "config.json"):
        error = refused(word)
        assert what in error.what
        assert where in error.where
        assert error.hint


def test_folders_that_lack_something(tmp_path: Path) -> None:
    assert "no config.json" in refused(tmp_path).what
    tiny().config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}))
    error = refused(tmp_path)
    assert "no weights" in error.what
    assert error.hint == f"give `{tmp_path / 'config.json'}` for random weights"
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    error = refused(tmp_path)
    assert "pytorch_model.bin" in error.what
    assert "save_pretrained" in error.hint
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{garbage")
    assert refused(tmp_path).what == "a damaged safetensors file"
    (tmp_path / "adapter_config.json").write_text("{}")
    error = refused(tmp_path)
    assert "adapter" in error.what
    assert "merge_and_unload()" in error.hint


CODE = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel

class HouseConfig(GPT2Config):
    model_type = "house"

class HouseForCausalLM(GPT2LMHeadModel):
    config_class = HouseConfig
"""


def test_code_of_a_folder_runs_only_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "house"
    model = tiny()
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "modeling.HouseConfig", "AutoModelForCausalLM": "modeling.HouseForCausalLM"}
    ours = {**config, "model_type": "house", "architectures": ["HouseForCausalLM"], "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(ours))
    (folder / "modeling.py").write_text(CODE)
    error = refused(folder)
    assert "Python code in the folder" in error.what
    assert "--trust-remote-code" in error.hint
    found = opened(folder, trust_remote_code=True)
    assert type(found.module).__name__ == "HouseForCausalLM"
    assert same(found.module, model.state_dict())
    elsewhere = {key: f"someone/model--{value}" for key, value in auto_map.items()}
    (folder / "config.json").write_text(json.dumps({**ours, "auto_map": elsewhere}))
    assert "code of someone/model, which is not here" in refused(folder, trust_remote_code=True).what
    (folder / "config.json").write_text(json.dumps(ours))
    (folder / "modeling.py").write_text("1/0\n")
    assert "ZeroDivisionError" in refused(folder, trust_remote_code=True).where


def test_the_keys_that_choose_code_are_left_aside(tmp_path: Path) -> None:
    model = saved("gpt2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("_attn_implementation", "attn_implementation"):
        (tmp_path / "config.json").write_text(json.dumps({**config, key: "somebody/kernels"}))
        assert same(opened(tmp_path).module, model.state_dict())


def test_transformers_says_nothing_and_is_left_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved("gpt2", tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    capfd.readouterr()
    theirs.set_verbosity(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            open_model(str(tmp_path), Settings())
            open_model(str(tmp_path / "config.json"), Settings())
        save_file({**whole, "extra": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        refused(tmp_path)
        assert capfd.readouterr() == ("", "")
        assert theirs.get_verbosity() == logging.INFO
        assert theirs.is_progress_bar_enabled()
    finally:
        theirs.set_verbosity(logging.WARNING)


def test_the_folder_of_the_shared_model(models_folder: Path) -> None:
    found = open_model(str(models_folder / "shakespeare-gpt2"), Settings())
    assert isinstance(found, Loaded)
    state = load_file(models_folder / "shakespeare-gpt2" / "model.safetensors")
    assert all(torch.equal(found.module.state_dict()[name], tensor) for name, tensor in state.items())
    assert sum(p.numel() for p in found.module.parameters()) == 842_496


def test_an_excused_parameter_is_still_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("gpt2", tmp_path)
    monkeypatch.setattr(transformers.GPT2LMHeadModel, "_keys_to_ignore_on_load_missing", [r"wpe"])
    whole = load_file(tmp_path / "model.safetensors")
    assert opened(tmp_path)
    del whole["transformer.wpe.weight"]
    save_file(whole, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"transformer\.wpe\.weight is missing"):
        open_model(str(tmp_path), Settings())
