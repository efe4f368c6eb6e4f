"""Small folders with models of several families, and what can be wrong with them."""

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lumenspark.data.tokenizer import to_transformers, train_tokenizer
from lumenspark.models import (
    LumensparkConfig,
    LumensparkForCausalLM,
    LumiereConfig,
    LumiereForCausalLM,
)

CONTEXT, VOCABULARY = 16, 265
TEXT = "the lamp is lit and the lamp is out and lit again at dusk by the old light house "
WEIGHTS = "model.safetensors"
Damage = Callable[[Path], None]


def _lumiere() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LumiereForCausalLM(
        LumiereConfig(
            vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, intermediate_size=24, **sizes
        )
    )


def _lumenspark() -> Any:
    sizes = {"embed_dim": 16, "depth": 2, "heads": 2, "seq_length": CONTEXT, "k": 3, "rank": 4}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    return LumensparkForCausalLM(
        LumensparkConfig(vocab_size=VOCABULARY, window=4, **sizes, **tokens)
    )


def _gpt2() -> Any:
    sizes = {"n_positions": CONTEXT, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=1, **sizes)
    )


def _llama() -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, **sizes, **heads, **tokens
        )
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "lumiere": _lumiere,
    "lumenspark": _lumenspark,
    "gpt2": _gpt2,
    "llama": _llama,
}


def save_family(family: str, folder: Path) -> Path:
    torch.manual_seed(0)
    FAMILIES[family]().save_pretrained(folder)
    to_transformers(train_tokenizer([TEXT], VOCABULARY), CONTEXT).save_pretrained(folder)
    return folder


# --- one key of a JSON file --------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "missing": ...,
    "null": None,
    "negative": -1,
    "zero": 0,
    "half": 0.5,
    "million": 10**6,
    "trillion": 10**12,
    "huge": 10**300,
    "nan": float("nan"),
    "infinite": float("inf"),
    "string": "x" * 200,
    "number as text": "2",
    "list": [1, "a", None],
    "mapping": {"a": {"b": 1}},
    "true": True,
}


def with_value(file: str, key: str, value: Any) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        if value is ...:
            content.pop(key, None)
        else:
            content[key] = value
        (folder / file).write_text(json.dumps(content))

    return damage


# Keys that transformers understands besides those that lie in the files.
MORE_CONFIG: dict[str, Any] = {
    "model_type": ["bert", "t5", "clip", "nobody", "llama", "gpt2", "lumiere", 3],
    "architectures": [["BertForMaskedLM"], ["T5ForConditionalGeneration"], "x", [3]],
    "auto_map": [{"AutoModelForCausalLM": "nothing.Nothing"}, {"AutoConfig": 3}, "x", [1]],
    "quantization_config": [
        {"quant_method": "nobody"},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq"},
        {"quant_method": "fp8"},
        {},
        "x",
    ],
    "dtype": ["float16", "bfloat16", "float64", "int8", "nothing", "float8_e4m3fn", {"": "x"}],
    "attn_implementation": ["someone/kernel", "flash_attention_2", "nothing"],
    "module_ranks": [{"x": 1}, {"model.layers.0": 10**12}, [1], {"lm_head": 1}, "x"],
    "text_config": [{}, {"model_type": "llama"}, "x"],
    "transformers_weights": ["../elsewhere.safetensors", "/etc/passwd", "nothing.safetensors", 3],
    "fusion_config": [{"patch_embeddings": True}, {"x": True}, "x"],
    "num_labels": [10**12, -1, "x"],
    "id2label": [{"0": "a"}, "x", [1]],
    "pruned_heads": [{"0": [0]}, "x"],
    "rope_parameters": [{"rope_type": "yarn", "factor": 0}, {"rope_type": "x"}, "x", {}],
    "rope_scaling": [{"type": "dynamic", "factor": float("nan")}],
    "layer_types": [["full_attention"] * 2, ["x", "y"], 10**9],
    "tie_word_embeddings": [True, False],
    "is_decoder": [True, False],
    "add_cross_attention": [True],
    "is_encoder_decoder": [True],
    "sliding_window": [0, 1, -1, 10**12],
    "gradient_checkpointing": [True],
    "output_attentions": [True],
    "output_hidden_states": [True],
    "return_dict": [False],
    "use_return_dict": [False],
    "use_cache": [False],
    "chunk_size_feed_forward": [1, 10**9, -1],
    "torch_dtype": ["float16", 3],
    "_name_or_path": ["/etc", 3, "openai-community/gpt2"],
    "name_or_path": ["/etc", {}],
    "attribute_map": [{"hidden_size": "x"}, "x"],
    "hidden_size": [17, 2**40],
    "transformers_version": ["99.0", 3],
    "generation_config": [{"x": 1}, "x"],
    "distributed_config": [{"tp_size": 8}, "x"],
    "per_layer_config": [{"x": 1}],
    "head_dim": [3, 10**12, 0],
    "num_key_value_heads": [3, 0, 10**9],
    "window": [10**12, 2**62, 5],
    "hidden_act": ["nothing", 3],
    "activation_function": ["nothing", 3],
}
MORE_TOKENIZER: dict[str, Any] = {
    "tokenizer_class": ["Nothing", "BertTokenizer", "AutoModel", "pipeline", "Trainer", 3, "os"],
    "auto_map": [{"AutoTokenizer": ["a.B", "a.C"]}, {"AutoTokenizer": [None, None]}, "x", 3],
    "added_tokens_decoder": [
        {"999999999999": {"content": "x"}},
        {"-1": {"content": "x"}},
        {"x": 3},
        {"4294967295": {"content": "y", "special": True}},
        [1],
    ],
    "additional_special_tokens": [["a", "b"], [3], "x", {"a": 1}],
    "extra_special_tokens": [{"a": "b"}, ["x"], 3],
    "chat_template": ["{{ ''.__class__.__mro__[1].__subclasses__() }}", 3, [{"name": 1}]],
    "backend": ["nothing", "sentencepiece", 3],
    "padding_side": ["middle", 3],
    "pad_token": [{"content": "<|pad|>", "__type": "AddedToken"}, {"x": 1}, ["x"]],
}
MORE_GENERATION: dict[str, Any] = {
    "num_beams": [0, 2, "x", 10**9],
    "max_length": [0, -1, "x", 10**12],
    "max_new_tokens": [0, "x"],
    "min_length": [10**9, "x"],
    "temperature": ["hot", 0, -1, float("nan")],
    "top_k": ["x", -1, 10**12],
    "top_p": ["x", 5],
    "eos_token_id": [[1, 2], "x", -5, 10**12, [[1]]],
    "pad_token_id": ["x", -1, 10**12],
    "bos_token_id": ["x", 10**12],
    "repetition_penalty": [0, -1, "x", float("nan")],
    "no_repeat_ngram_size": [3, "x", -1],
    "bad_words_ids": [[[1]], [[]], "x", [[10**12]]],
    "suppress_tokens": [[1], ["x"], [10**12]],
    "begin_suppress_tokens": [[10**9]],
    "forced_bos_token_id": [10**12],
    "forced_eos_token_id": ["x"],
    "sequence_bias": [[[[1], 2.0]], "x", {"x": 1}],
    "guidance_scale": [2.0, "x"],
    "watermarking_config": [{"x": 1}, "x"],
    "cache_implementation": ["static", "nothing", "quantized", 3],
    "cache_config": [{"x": 1}, "x"],
    "num_return_sequences": [0, 2, "x"],
    "return_dict_in_generate": [True],
    "output_scores": [True],
    "custom_generate": ["someone/somewhere", "."],
    "prompt_lookup_num_tokens": [3],
    "assistant_early_exit": [1],
    "penalty_alpha": [0.6],
    "dola_layers": ["low"],
    "stop_strings": [["a"], 3],
    "max_time": [-1, "x"],
    "compile_config": [{"x": 1}, "x"],
    "transformers_version": [3],
    "use_cache": [False, "x"],
    "do_sample": ["x", True],
    "token_healing": [True],
    "num_beam_groups": [2],
    "constraints": [[1]],
    "trust_remote_code": [True],
}


def key_cases(folder: Path) -> Iterator[tuple[str, Damage]]:
    """Every key of the three settings files with every kind of wrong value."""
    more = {
        "config.json": MORE_CONFIG,
        "tokenizer_config.json": MORE_TOKENIZER,
        "generation_config.json": MORE_GENERATION,
    }
    for file, others in more.items():
        for key in json.loads((folder / file).read_text()):
            for name, value in VALUES.items():
                yield f"{file} {key} {name}", with_value(file, key, value)
        for key, values in others.items():
            for value in values:
                shown = f"{file} {key} = {str(value)[:40]}"
                yield shown, with_value(file, key, value)


# --- whole files -------------------------------------------------------------------------------


def _write(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content) and None


def _in_the_place(make: Callable[[Path], None]) -> Callable[[str], Damage]:
    def of(name: str) -> Damage:
        def damage(folder: Path) -> None:
            (folder / name).unlink()
            make(folder / name)

        return damage

    return of


def _cut(share: float) -> Callable[[str], Damage]:
    def of(name: str) -> Damage:
        def damage(folder: Path) -> None:
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content[: int(len(content) * share)])

        return damage

    return of


def _flipped(seed: int) -> Callable[[str], Damage]:
    def of(name: str) -> Damage:
        def damage(folder: Path) -> None:
            content = bytearray((folder / name).read_bytes())
            where = (seed * 7919) % min(len(content), 4000)
            content[where] ^= 1 << (seed % 8)
            (folder / name).write_bytes(content)

        return damage

    return of


WHOLE: dict[str, Callable[[str], Damage]] = {
    "missing": _in_the_place(lambda path: None),
    "a folder": _in_the_place(lambda path: path.mkdir()),
    "a pipe": _in_the_place(lambda path: os.mkfifo(path)),
    "a link to itself": _in_the_place(lambda path: path.symlink_to(path)),
    "a link to nothing": _in_the_place(lambda path: path.symlink_to("nothing")),
    "a link to endless zeros": _in_the_place(lambda path: path.symlink_to("/dev/zero")),
    "a link to passwords": _in_the_place(lambda path: path.symlink_to("/etc/passwd")),
    "empty": lambda name: _write(name, b""),
    "zeros": lambda name: _write(name, bytes(5000)),
    "not UTF-8": lambda name: _write(name, b'{"a": "\xff\xfe"}'),
    "UTF-16": lambda name: _write(name, '{"a": 1}'.encode("utf-16")),
    "a list": lambda name: _write(name, b"[1, 2]"),
    "null": lambda name: _write(name, b"null"),
    "a string": lambda name: _write(name, b'"text"'),
    "empty object": lambda name: _write(name, b"{}"),
    "nested": lambda name: _write(name, b'{"a":' * 100_000),
    "nested and closed": lambda name: _write(name, b'{"a":' * 900 + b"1" + b"}" * 900),
    "a number of 6000 digits": lambda name: _write(name, b'{"vocab_size": ' + b"9" * 6000 + b"}"),
    "HTML": lambda name: _write(name, b"<html>404</html>"),
    "an LFS pointer": lambda name: _write(
        name, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    ),
    "surrogates": lambda name: _write(name, b'{"model_type": "\\ud800"}'),
    **{f"cut at {share:.0%}": _cut(share) for share in (0.1, 0.5, 0.9, 0.999)},
    **{f"bit {seed}": _flipped(seed) for seed in range(12)},
}
FILES = (
    "config.json",
    WEIGHTS,
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
)


def file_cases() -> Iterator[tuple[str, Damage]]:
    for file in FILES:
        for name, of in WHOLE.items():
            yield f"{file} is {name}", of(file)


# --- weights -----------------------------------------------------------------------------------


def with_tensors(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        tensors = change(tensors) or tensors
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def with_header(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        changed = change(header)
        written = json.dumps(header if changed is None else changed).encode()
        rest = content[8 + length :]
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(written)) + written + rest)

    return damage


def with_length(length: int) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + content[8:])

    return damage


def _entries(header: dict[str, Any]) -> list[dict[str, Any]]:
    return [value for name, value in header.items() if name != "__metadata__"]


def _first(tensors: dict[str, Any]) -> str:
    return next(name for name in sorted(tensors) if tensors[name].ndim == 2)


def _retyped(dtype: torch.dtype) -> Damage:
    return with_tensors(lambda tensors: {n: t.to(dtype) for n, t in tensors.items()})


def _filled(value: float) -> Damage:
    return with_tensors(
        lambda tensors: tensors[_first(tensors)].view(-1)[3:4].fill_(value) and None
    )


def _index(shards: dict[str, str]) -> Damage:
    """The weights move to a shard, and an index says that they lie in ``shards``."""

    def damage(folder: Path) -> None:
        names = list(load_file(folder / WEIGHTS))
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        mapped = {name: shards.get(name, shards["*"]) for name in names}
        content = {"metadata": {}, "weight_map": mapped}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return damage


def _renamed(to: str) -> Damage:
    return lambda folder: (folder / WEIGHTS).rename(folder / to) and None


def _also(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content) and None


def weight_cases() -> Iterator[tuple[str, Damage]]:
    yield from {
        "no tensors": with_tensors(lambda tensors: tensors.clear()),
        "one tensor less": with_tensors(lambda tensors: tensors.__delitem__(_first(tensors))),
        "half of the tensors": with_tensors(
            lambda tensors: {n: tensors[n] for n in sorted(tensors)[::2]}
        ),
        "one tensor more": with_tensors(lambda tensors: tensors.update(more=torch.ones(3))),
        "a layer more": with_tensors(
            lambda tensors: tensors.update(
                {n.replace(".1.", ".2."): t.clone() for n, t in tensors.items() if ".1." in n}
            )
        ),
        "other names": with_tensors(lambda tensors: {f"x.{n}": t for n, t in tensors.items()}),
        "without a prefix": with_tensors(
            lambda tensors: {n.partition(".")[2] or n: t for n, t in tensors.items()}
        ),
        "transposed": with_tensors(
            lambda tensors: {n: t.T.contiguous() if t.ndim > 1 else t for n, t in tensors.items()}
        ),
        "all flat": with_tensors(lambda tensors: {n: t.flatten() for n, t in tensors.items()}),
        "a row less": with_tensors(
            lambda tensors: {n: t[1:].contiguous() for n, t in tensors.items()}
        ),
        "no rows": with_tensors(
            lambda tensors: {n: t[:0].contiguous() for n, t in tensors.items()}
        ),
        "a number": with_tensors(
            lambda tensors: {n: torch.tensor(1.0) for n, t in tensors.items()}
        ),
        "not a number": _filled(float("nan")),
        "infinite": _filled(float("inf")),
        "huge": _filled(1e38),
        **{
            f"as {dtype}": _retyped(dtype)
            for dtype in (
                torch.int8,
                torch.bool,
                torch.uint8,
                torch.int64,
                torch.float16,
                torch.bfloat16,
                torch.float64,
                torch.float8_e4m3fn,
                torch.float8_e5m2,
                torch.complex64,
            )
        },
        **{
            f"header of {length} bytes": with_length(length)
            for length in (0, 1, 2, 2**20, 2**31, 2**40, 2**60, 2**63, 2**64 - 1)
        },
        "offsets past the end": with_header(
            lambda header: [e.update(data_offsets=[0, 10**12]) for e in _entries(header)] and None
        ),
        "negative offsets": with_header(
            lambda header: [e.update(data_offsets=[-8, 0]) for e in _entries(header)] and None
        ),
        "offsets that overlap": with_header(
            lambda header: [e.update(data_offsets=[0, 64]) for e in _entries(header)] and None
        ),
        "offsets backwards": with_header(
            lambda header: [e["data_offsets"].reverse() for e in _entries(header)] and None
        ),
        "huge shapes": with_header(
            lambda header: [e.update(shape=[2**62, 2**62]) for e in _entries(header)] and None
        ),
        "negative shapes": with_header(
            lambda header: [e.update(shape=[-1, 4]) for e in _entries(header)] and None
        ),
        "unknown types": with_header(
            lambda header: [e.update(dtype="F7") for e in _entries(header)] and None
        ),
        "entries without offsets": with_header(
            lambda header: [e.pop("data_offsets") for e in _entries(header)] and None
        ),
        "metadata that is a list": with_header(lambda header: header.update(__metadata__=[1])),
        "metadata of another framework": with_header(
            lambda header: header.update(__metadata__={"format": "tf"})
        ),
        "metadata of nobody": with_header(
            lambda header: header.update(__metadata__={"format": "\ud800 nobody"})
        ),
        "no metadata": with_header(lambda header: header.pop("__metadata__") and None),
        "a header that is a list": with_header(lambda header: [1, 2]),
        "an index": _index({"*": "model-00001-of-00001.safetensors"}),
        "an index of what is missing": _index({"*": "model-00002-of-00002.safetensors"}),
        "an index that leads out": _index({"*": "../other/model.safetensors"}),
        "an index that leads to the root": _index({"*": "/etc/passwd"}),
        "an index of pickles": _index({"*": "pytorch_model.bin"}),
        "an index of its own folder": _index({"*": "."}),
        "an index of nothing": _index({"*": ""}),
        "a pickle": _renamed("pytorch_model.bin"),
        "a GGUF file": _renamed("model.gguf"),
        "an H5 file": _renamed("tf_model.h5"),
        "a PT file": _renamed("model.pt"),
        "of a variant": _renamed("model.fp16.safetensors"),
        "under another name": _renamed("weights.safetensors"),
        "beside an adapter": _also("adapter_config.json", '{"base_model_name_or_path": "a/b"}'),
        "beside a damaged adapter": _also("adapter_config.json", "{"),
        "beside a damaged index": _also("model.safetensors.index.json", "{"),
        "beside an empty marker": _also("complete.json", "{}"),
        "beside a damaged marker": _also("complete.json", "["),
        "beside a marker that leads out": _also(
            "complete.json", '{"step": 1, "files": {"../x": "1", "/dev/zero": "2"}}'
        ),
        "beside a marker of others": _also(
            "complete.json", '{"step": 1, "files": {"config.json": "0"}}'
        ),
        "beside a nested marker": _also("complete.json", "[" * 100_000),
        "beside a marker of numbers": _also("complete.json", '{"step": 1, "files": {"a": 5}}'),
        "beside a template": _also(
            "chat_template.jinja", "{% for x in range(10**9) %}{% endfor %}"
        ),
        "beside a vocabulary": _also("vocab.json", "{"),
        "beside merges": _also("merges.txt", "\x00" * 100),
        "beside added tokens": _also("added_tokens.json", '{"x": "y"}'),
        "beside special tokens": _also("special_tokens_map.json", "[1]"),
    }.items()


def tokenizer_cases(folder: Path) -> Iterator[tuple[str, Damage]]:
    """Every part of tokenizer.json with every kind of wrong value, and vocabularies of others."""
    content = json.loads((folder / "tokenizer.json").read_text())
    for key in content:
        for name, value in VALUES.items():
            yield f"tokenizer.json {key} {name}", with_value("tokenizer.json", key, value)
    for key in content["model"]:
        for name, value in VALUES.items():

            def damage(folder: Path, key: str = key, value: Any = value) -> None:
                content = json.loads((folder / "tokenizer.json").read_text())
                if value is ...:
                    content["model"].pop(key)
                else:
                    content["model"][key] = value
                (folder / "tokenizer.json").write_text(json.dumps(content))

            yield f"tokenizer.json model.{key} {name}", damage
    for name, step in (("ids with gaps", 1000), ("ids past all", 2**24)):

        def spread(folder: Path, step: int = step) -> None:
            content = json.loads((folder / "tokenizer.json").read_text())
            vocabulary = content["model"]["vocab"]
            content["model"]["vocab"] = {token: i * step for token, i in vocabulary.items()}
            (folder / "tokenizer.json").write_text(json.dumps(content))

        yield f"tokenizer.json {name}", spread

    def larger(folder: Path) -> None:
        text = TEXT + "another vocabulary with many more words than that of this model has"
        to_transformers(train_tokenizer([text], VOCABULARY + 15), CONTEXT).save_pretrained(folder)

    yield "a larger vocabulary", larger
