"""Train a small language model from scratch: text, tokens, windows, model, loss, loop, sample.

    python examples/train_from_scratch.py
    python examples/train_from_scratch.py --data my-folder --steps 2000

This takes less than two minutes on one or two CPU cores. `lumenspark train` uses the same modules,
and adds checkpoints, a time budget, compiling, evaluation and a model card.

Shapes: B batch, T tokens of a window, V entries of the vocabulary.
"""

import argparse
import time

import torch
from torch import Tensor

from lumenspark.data.cache_folder import cache_folder
from lumenspark.data.corpora import open_corpus
from lumenspark.data.tokenizer import to_transformers
from lumenspark.data.tokens import prepare
from lumenspark.data.windows import TrainingWindows
from lumenspark.device import attention_for, choose_precision, prepare_process
from lumenspark.evaluation.scoring import card_loss
from lumenspark.models import LumiereConfig, LumiereForCausalLM
from lumenspark.recipe import OptimOptions
from lumenspark.training.losses import autocast
from lumenspark.training.lr_schedule import lr_factor, set_lr
from lumenspark.training.optimizers import build_optimizers

VOCABULARY = 2048  # V
CONTEXT = 64  # T
BATCH = 32  # B


def main() -> None:
    options = parse_arguments()
    prepare_process("cpu", threads=options.threads, cache=cache_folder())
    torch.manual_seed(options.seed)

    # Text -> token ids. The tokenizer (byte-level BPE) is learned from the train split. The ids of
    # each split are one long sequence on disk, with each document between <|sot|> and <|eot|>.
    corpus = open_corpus(options.data)
    tokens = prepare(corpus, vocab_size=VOCABULARY, needed=("train", "validation"), report=print)
    tokenizer = to_transformers(tokens.tokenizer, CONTEXT)

    # Token ids -> windows of T ids, in a new order each epoch. TrainingWindows adds one id to each
    # window, for loops that split inputs and targets. Here the model shifts the labels, so that
    # T - 1 is passed.
    windows = TrainingWindows(tokens.splits["train"].ids, CONTEXT - 1, options.seed)

    # A decoder-only transformer: RMSNorm, SwiGLU, learned positions, tied output layer.
    config = LumiereConfig(
        vocab_size=tokens.vocab_size,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=CONTEXT,
        dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LumiereForCausalLM(config)
    model.set_attn_implementation(attention_for("cpu", CONTEXT))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")

    train(model, windows, options.steps)

    # Validation: mean cross-entropy in nats per token, and a sample.
    model.eval()
    loss, targets = card_loss(model, tokens.splits["validation"], limit_windows=1024)
    print(f"validation loss {loss:.4f} nats per token over {targets:,} tokens\n")
    torch.manual_seed(options.seed)
    text = model.generate(
        text=options.prompt, tokenizer=tokenizer, max_new_tokens=120, temperature=0.7
    )
    print(text)


def train(model: LumiereForCausalLM, windows: TrainingWindows, steps: int) -> None:
    """The loop: batch, loss, gradient, clip, update."""
    optim = OptimOptions()  # Muon on the blocks' matrices, AdamW on the rest
    optimizers = build_optimizers(model, optim)
    bf16 = choose_precision("auto", "cpu") == "bf16"  # if the CPU is fast at bfloat16
    model.train()
    started = time.perf_counter()
    for step in range(steps):
        set_lr(optimizers, optim, lr_factor(step, steps, optim))
        batch: Tensor = torch.from_numpy(windows.batch(step * BATCH, BATCH))  # (B, T)
        with autocast("cpu", bf16):
            loss = model(input_ids=batch, labels=batch).loss  # mean over B * (T - 1) predictions
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            speed = (step + 1) * batch.numel() / (time.perf_counter() - started)
            print(f"step {step:5d}  loss {loss.item():.4f}  {speed:,.0f} tokens/s")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="python-docs", help="a text file, a folder, or a hub id")
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; few are enough")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, windows and sample")
    parser.add_argument("--prompt", default="The function returns", help="prompt of the sample")
    return parser.parse_args()


if __name__ == "__main__":
    main()
