"""A small run folder with real files: a tokenizer and a transformers Llama made here."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

from lumenspark.data.corpora import Corpus, open_corpus
from lumenspark.data.tokenizer import train_tokenizer

ARTICLE = """ = The Kettle = 

 A kettle is a pot with a lid and a spout , made to boil water . The oldest known kettles are of 
 bronze ; later ones are of iron , copper and steel . 

 = = Use = = 

 Water is poured in through the lid and out through the spout – which keeps the steam away from 
 the hand . An electric kettle turns itself off when the water boils . 

"""
RECIPE = {
    "name": "tiny",
    "data": "/home/someone/texts/kettles",
    "budget": None,
    "seed": 3,
    "device": "cpu",
    "init_from": None,
    "corpus": {
        "layout": "auto",
        "headings": "drop",
        "config": None,
        "revision": None,
        "text_field": "text",
        "streaming": False,
    },
    "tokenizer": {"name": None, "vocab_size": 300},
    "model": {"family": "lumiere", "hidden_size": 32, "dropout": 0.05},
    "optim": {"name": "muon", "muon_lr": 0.02},
    "train": {"steps": 40, "batch_size": 4},
}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two articles in the WikiText layout, in every split."""
    folder = tmp_path_factory.mktemp("corpus") / "kettles"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        text = ARTICLE + ARTICLE.replace("Kettle", "Teapot").replace("kettle", "teapot")
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")
    return open_corpus(str(folder))


@pytest.fixture(scope="session")
def tokenizer(corpus: Corpus) -> FastTokenizer:
    return FastTokenizer(
        tokenizer_object=train_tokenizer([corpus.text("train")], 300),
        bos_token="<|sot|>",
        eos_token="<|eot|>",
        pad_token="<|pad|>",
    )


@pytest.fixture(scope="session")
def model() -> GPT2LMHeadModel:
    """A GPT-2 of 2 layers and 48 positions; large weights, so that its predictions differ."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_positions=48, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3
    )
    return GPT2LMHeadModel(config)


@pytest.fixture
def run(tmp_path: Path, corpus: Corpus, tokenizer: FastTokenizer) -> Path:
    """A run as training leaves it, not yet evaluated."""
    run = tmp_path / "k3v9x2mq"
    folder = run / "checkpoints" / "best"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=88,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=48,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("trainer.json", "trainer.safetensors"):
        (folder / name).write_bytes(b"{}")
    (folder / "modeling_tiny.py").write_text("# the model's code\n")
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }
    (folder / "complete.json").write_text(json.dumps({"step": 40, "files": digests}))
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    (run / "environment.json").write_text(json.dumps(_environment(corpus)))
    (run / "metrics.jsonl").write_text(
        '{"step": 20, "tokens": 3840, "loss": 5.1, "lr": 0.02, "seconds": 4.0}\n'
        '{"step": 20, "tokens": 3840, "validation_loss": 4.9876, "seconds": 4.5}\n'
        '{"step": 30, "event": "rollback"}\n'
        '{"step": 40, "tokens": 7680, "loss": 4.4, "lr": 0.0, "seconds": 9.0}\n'
        '{"step": 40, "tokens": 7680, "validation_loss": 4.5432, "seconds": 9.4}\n'
    )
    (run / "loss.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return run


def _environment(corpus: Corpus) -> dict:
    return {
        "lumenspark": "0.2.0",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "python": "3.11.9",
        "machine": "x86_64",
        "processor": "a small processor",
        "cores": 2,
        "threads": 2,
        "git_commit": None,
        "command": "lumenspark train tiny",
        "seed": 3,
        "started_at": "2026-02-03T04:05:06+00:00",
        "corpus": {
            "name": "/home/someone/texts/kettles",
            "digest": corpus.digest(),
            "layout": "wikitext",
            "hub_id": None,
            "revision": None,
            "license": None,
            "language": "en",
            "tokens": {"train": 1234, "validation": 12, "test": 13},
            "documents": {"train": 2, "validation": 2, "test": 2},
        },
        "tokens_digest": "0" * 64,
        "parameters": 1,
    }
