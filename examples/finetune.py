"""Fine-tune a trained model on your own text, and save it.

    python examples/finetune.py latest my-folder my-model
    lumenspark generate my-model "The film was"

The arguments are MODEL (a run, a folder or a hub id), DATA and OUT. The text is cut into windows of
the model's context length. The learning rate is lower than for training from scratch, and decays to
zero. `lumenspark train lumiere-1m --init-from MODEL --data my-folder` also fine-tunes, and adds
evaluation and a model card.
"""

import argparse

import torch

import lumenspark
from lumenspark.data.corpora import open_corpus
from lumenspark.data.tokens import prepare
from lumenspark.data.windows import TrainingWindows
from lumenspark.evaluation.scoring import card_loss
from lumenspark.recipe import OptimOptions
from lumenspark.training.lr_schedule import lr_factor, set_lr
from lumenspark.training.optimizers import build_optimizers


def main() -> None:
    options = parse_arguments()
    torch.manual_seed(options.seed)
    model, tokenizer = lumenspark.load(options.model)
    context = min(model.config.max_position_embeddings, 1024)

    # The model's own tokenizer, so that each id keeps the embedding that it was trained with.
    tokenizer.save_pretrained(options.out)
    corpus = open_corpus(options.data)
    needed = ("train", "validation")
    tokens = prepare(corpus, tokenizer_name=options.out, needed=needed, report=print)
    windows = TrainingWindows(tokens.splits["train"].ids, context - 1, options.seed)

    def validation_loss() -> float:
        model.eval()
        return card_loss(model, tokens.splits["validation"], context=context)[0]

    print(f"validation loss before {validation_loss():.4f} nats per token")
    optim = OptimOptions(name="adamw", adamw_lr=options.lr, warmup=0.1)
    optimizers = build_optimizers(model, optim)
    model.train()
    for step in range(options.steps):
        set_lr(optimizers, optim, lr_factor(step, options.steps, optim))
        batch = torch.from_numpy(windows.batch(step * options.batch_size, options.batch_size))
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step:5d}  loss {loss.item():.4f}")
    print(f"validation loss after {validation_loss():.4f} nats per token")

    model.save_pretrained(options.out)
    print(f"saved in {options.out}: lumenspark generate {options.out}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run id, latest, a folder, or a hub id")
    parser.add_argument("data", help="a text file, a folder, or the id of a hub dataset")
    parser.add_argument("out", help="folder to save to")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=32, help="windows per step")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of AdamW")
    parser.add_argument("--seed", type=int, default=0, help="seed of the window order")
    return parser.parse_args()


if __name__ == "__main__":
    main()
