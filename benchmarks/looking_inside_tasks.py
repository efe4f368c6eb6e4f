"""The tasks of looking_inside.py, solved with each tool in the style of its documentation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Rows of the tables, by the names of the functions that solve them.
TASKS = {
    "pattern": "pattern of one head, as a tensor",
    "page": "all patterns as pictures, without network or Jupyter",
    "lens": "logit lens",
    "attribution": "direct logit attribution by head; the parts sum to the logit",
    "ablation": "one head ablated: increase of the loss",
    "ablations": "every head ablated: a matrix",
    "patching": "activation patching, layer × position",
    "patching_heads": "activation patching, layer × head",
    "gradients": "gradient of an inner tensor",
    "steering": "steering while generating",
    "scores": "head scores on repeated random tokens",
    "watching": "head scores during training",
    "lowrank_map": "low-rank attention: token-to-token map",
    "lowrank_slots": "low-rank attention: contents of the slots",
    "neighbours": "the same names on GPT-2 and Llama",
}
NEW_TOKENS = 12
STRENGTH = 4  # factor of the steering vector
STEPS, EVERY = 4, 2  # training steps, and the interval of head scores


@dataclass(frozen=True)
class Given:
    """The inputs of all tools."""

    folder: str  # of the model, for from_pretrained
    lowrank: str  # of a Lumenspark with slots and random weights
    neighbours: tuple[str, str]  # of a GPT-2 and a Llama with random weights
    scratch: str  # where pages go
    text: str
    corrupted: str
    correct: int  # the token whose logit the text raises most over the corrupted text
    incorrect: int  # the token whose logit it lowers most
    difference: float  # between their logits after the text
    layer: int
    head: int
    heads: int
    length: int  # number of random tokens, repeated once in each row
    repeated_ids: list[list[int]]

    @cached_property
    def repeated(self) -> Tensor:
        return torch.tensor(self.repeated_ids)

    def training(self, parameters: Any, loss_of: Callable[[Tensor], Tensor]) -> Iterator[int]:
        """A plain training loop; yields the number of each finished step."""
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        for step in range(1, STEPS + 1):
            with torch.enable_grad():
                loss_of(self.repeated).backward()
            optimizer.step()
            optimizer.zero_grad()
            yield step


def shell_lumenspark(*arguments: str) -> None:
    """Run `lumenspark …` in this process."""
    from lumenspark.cli import run

    if run(list(arguments)):
        raise RuntimeError("the command failed")


Tasks = dict[str, Any]  # local names of a tool's function; those in TASKS are the solutions


def lumenspark_tasks(given: Given) -> Tasks:
    import lumenspark
    from lumenspark import inspect

    model, _ = lumenspark.load(given.folder)

    def pattern() -> Tensor:
        name = f"blocks.{given.layer}.attention.pattern"
        return lumenspark.trace(model, given.text, [name])[name][0, given.head]

    def page() -> None:
        shell_lumenspark("inspect", given.folder, given.text, f"-o={given.scratch}/page.html")

    def lens() -> list[list[str]]:
        return inspect.logit_lens(model, given.text).guesses()

    def attribution() -> Tensor:
        return inspect.attribution(
            model, given.text, targets=given.correct, against=given.incorrect
        ).values[:, 0, -1]

    def ablation() -> float:
        before = lumenspark.trace(model, given.text).mean_loss
        with lumenspark.patch(
            model, {f"blocks.{given.layer}.attention.heads[{given.head}]": inspect.zero}
        ):
            return lumenspark.trace(model, given.text).mean_loss - before

    def ablations() -> Tensor:
        return inspect.ablate_heads(model, given.text)

    def patching() -> Tensor:
        return inspect.activation_patching(
            model, given.text, given.corrupted, given.correct, given.incorrect
        ).effects

    def patching_heads() -> Tensor:
        return inspect.activation_patching(
            model,
            given.text,
            given.corrupted,
            given.correct,
            given.incorrect,
            tensor="attention.heads",
        ).effects

    def gradients() -> Tensor:
        name = f"blocks.{given.layer}.residual"
        return lumenspark.trace(model, given.text, [name], gradients=True).gradients[name]

    def steering() -> str:
        name = f"blocks.{given.layer}.residual"
        vector = inspect.steering_vector(model, [given.text], [given.corrupted], name)
        with lumenspark.patch(model, {name: inspect.add(STRENGTH * vector)}):
            return model.generate(text=given.text, max_new_tokens=NEW_TOKENS, do_sample=False)

    def scores() -> dict[str, Tensor]:
        return inspect.head_scores(model).scores

    def watching() -> list[Tensor]:
        fresh, _ = lumenspark.load(given.folder)
        history = []
        for step in given.training(fresh.parameters(), lambda ids: fresh(ids, labels=ids).loss):
            if step % EVERY == 0:
                history.append(inspect.head_scores(fresh).scores["induction"])
        return history

    def lowrank_map() -> Tensor:
        lowrank, _ = lumenspark.load(given.lowrank)
        name = "blocks.1.attention.pattern"
        return lumenspark.trace(lowrank, given.text, [name])[name]

    def lowrank_slots() -> list[Any]:
        lowrank, _ = lumenspark.load(given.lowrank)
        return inspect.slot_contents(lowrank, given.text)[1]

    def neighbours() -> list[Tensor]:
        patterns = []
        name = "blocks.1.attention.pattern"
        for folder in given.neighbours:
            other, _ = lumenspark.load(folder)
            patterns.append(lumenspark.trace(other, given.text, [name])[name])
        return patterns

    return locals()


def transformer_lens_tasks(given: Given) -> Tasks:
    from transformer_lens import TransformerBridge
    from transformer_lens import patching as patch
    from transformer_lens.tools.analysis import direct_logit_attribution, logit_lens

    import lumenspark.inspect.transformer_lens_adapter  # noqa: F401

    bridge = TransformerBridge.boot_transformers(given.folder)

    def ahead(logits: Tensor) -> Tensor:
        return logits[0, -1, given.correct] - logits[0, -1, given.incorrect]

    def pattern() -> Tensor:
        wanted = f"blocks.{given.layer}.attn.hook_pattern"
        return bridge.run_with_cache(given.text, names_filter=wanted)[1][wanted][0, given.head]

    def page() -> None:
        import matplotlib.pyplot as plt

        _, cache = bridge.run_with_cache(given.text)
        patterns = cache.stack_activation("pattern")[:, 0]
        figure, places = plt.subplots(*patterns.shape[:2])
        for place, drawn in zip(places.flat, patterns.flatten(0, 1), strict=True):
            place.imshow(drawn)
        figure.savefig(f"{given.scratch}/page.png")

    def lens() -> list[list[str]]:
        lens = logit_lens(bridge, given.text, positions=None, top_k=1).top_tokens(bridge.tokenizer)
        return list(lens.values())

    def attribution() -> Tensor:
        folded = TransformerBridge.boot_transformers(given.folder)
        folded.enable_compatibility_mode(disable_warnings=True)
        return direct_logit_attribution(
            folded, given.text, given.correct, given.incorrect, unit="head"
        ).attribution[:, 0]

    def ablation() -> Tensor:
        def zero(mixed: Tensor, hook: Any) -> Tensor:
            mixed[:, :, given.head] = 0
            return mixed

        return bridge.run_with_hooks(
            given.text,
            return_type="loss",
            fwd_hooks=[(f"blocks.{given.layer}.attn.hook_z", zero)],
        ) - bridge(given.text, return_type="loss")

    def ablations() -> Tensor:
        def loss_without(layer: int, head: int) -> Tensor:
            def zero(mixed: Tensor, hook: Any) -> Tensor:
                mixed[:, :, head] = 0
                return mixed

            return bridge.run_with_hooks(
                given.text,
                return_type="loss",
                fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)],
            )

        losses = [
            [loss_without(layer, head) for head in range(bridge.cfg.n_heads)]
            for layer in range(bridge.cfg.n_layers)
        ]
        return torch.tensor(losses) - bridge(given.text, return_type="loss")

    def patching() -> Tensor:
        corrupted = bridge.to_tokens(given.corrupted)
        logits, cache = bridge.run_with_cache(given.text)
        top, bottom = ahead(logits), ahead(bridge(corrupted))
        return patch.get_act_patch_resid_pre(
            bridge, corrupted, cache, lambda now: (ahead(now) - bottom) / (top - bottom)
        )

    def patching_heads() -> Tensor:
        corrupted = bridge.to_tokens(given.corrupted)
        logits, cache = bridge.run_with_cache(given.text)
        top, bottom = ahead(logits), ahead(bridge(corrupted))
        return patch.get_act_patch_attn_head_out_all_pos(
            bridge, corrupted, cache, lambda now: (ahead(now) - bottom) / (top - bottom)
        )

    def gradients() -> Tensor:
        name = f"blocks.{given.layer}.hook_resid_post"
        return bridge.run_with_cache(
            given.text, return_type="loss", incl_bwd=True, names_filter=name
        )[1][f"{name}_grad"]

    def steering() -> str:
        name = f"blocks.{given.layer}.hook_resid_post"
        _, cache = bridge.run_with_cache([given.text, given.corrupted], names_filter=name)
        vector = cache[name][0, -1] - cache[name][1, -1]
        with bridge.hooks(fwd_hooks=[(name, lambda stream, hook: stream + STRENGTH * vector)]):
            return bridge.generate(
                given.text, max_new_tokens=NEW_TOKENS, do_sample=False, verbose=False
            )

    def scores() -> dict[str, Tensor]:
        _, cache = bridge.run_with_cache(
            given.repeated, names_filter=lambda name: name.endswith("hook_pattern")
        )
        patterns = cache.stack_activation("pattern").mean(1)
        offsets = {
            "previous token": 1,
            "duplicate token": given.length,
            "induction": given.length - 1,
        }
        return {
            name: patterns.diagonal(-offset, dim1=-2, dim2=-1)[..., -given.length :].mean(-1)
            for name, offset in offsets.items()
        }

    def watching() -> list[Tensor]:
        fresh = TransformerBridge.boot_transformers(given.folder)
        history = []
        for step in given.training(fresh.parameters(), lambda ids: fresh(ids, return_type="loss")):
            if step % EVERY == 0:
                _, cache = fresh.run_with_cache(given.repeated)
                stripe = cache.stack_activation("pattern").diagonal(1 - given.length, -2, -1)
                history.append(stripe[..., -given.length :].mean((1, 3)))
        return history

    def lowrank_map() -> Tensor:
        lowrank = TransformerBridge.boot_transformers(given.lowrank)
        _, cache = lowrank.run_with_cache(given.text)
        return cache["pattern", 1]

    def lowrank_slots() -> Tensor:
        lowrank = TransformerBridge.boot_transformers(given.lowrank)
        _, cache = lowrank.run_with_cache(given.text)
        attention = lowrank.blocks[1].attn.original_component
        keys = cache["k", 1].transpose(1, 2)
        written = ((keys.shape[2] - 1) // attention.config.window - 1) * attention.config.window
        write = attention.project(keys[:, :, :written], torch.arange(written)[None])[0]
        return write / write.sum(1, keepdim=True)

    def neighbours() -> list[Tensor]:
        patterns = []
        for folder in given.neighbours:
            other = TransformerBridge.boot_transformers(folder)
            _, cache = other.run_with_cache(given.text)
            patterns.append(cache["pattern", 1])
        return patterns

    return locals()


def nnsight_tasks(given: Given) -> Tasks:
    import nnsight
    from nnsight.modeling.transformers import TransformersModel

    import lumenspark

    model, tokenizer = lumenspark.load(given.folder)
    inside = TransformersModel(model, tokenizer=tokenizer, task="text-generation")
    ids = tokenizer(given.text, return_tensors="pt")["input_ids"]
    layers = inside.model.layers

    def heads_of(block: Any) -> Tensor:
        return block.self_attn.o_proj.input.unflatten(-1, (given.heads, -1))

    def ahead(logits: Tensor) -> Tensor:
        return logits[0, -1, given.correct] - logits[0, -1, given.incorrect]

    def pattern() -> Tensor:
        with inside.trace(ids, output_attentions=True):
            weights = layers[given.layer].self_attn.output[1][0, given.head].save()
        return weights

    def page() -> None:
        import matplotlib.pyplot as plt

        with inside.trace(ids, output_attentions=True):
            patterns = torch.cat(inside.output.attentions).save()
        figure, places = plt.subplots(*patterns.shape[:2])
        for place, drawn in zip(places.flat, patterns.flatten(0, 1), strict=True):
            place.imshow(drawn)
        figure.savefig(f"{given.scratch}/page.png")

    def lens() -> list[list[str]]:
        with inside.trace(ids):
            states = nnsight.save([layers[0].input, *(block.output[0] for block in layers)])
        guesses = model.lm_head(model.model.norm(torch.cat(states))).argmax(-1)
        return [tokenizer.batch_decode(row[:, None]) for row in guesses]

    def attribution() -> Tensor:
        with inside.trace(ids):
            parts = [layers[0].input[0, -1]]
            for block in layers:
                weight = block.self_attn.o_proj.weight.unflatten(-1, (given.heads, -1))
                parts += torch.einsum("hd,ehd->he", heads_of(block)[0, -1], weight)
                parts.append(block.mlp.output[0, -1])
            stream = inside.model.norm.input[0, -1]
            shares = (torch.stack(parts) * inside.model.norm.output[0, -1] / stream).save()
        return shares @ (
            model.lm_head.weight[given.correct] - model.lm_head.weight[given.incorrect]
        )

    def ablation() -> Tensor:
        before = model(ids, labels=ids).loss
        with inside.trace(ids, labels=ids):
            heads_of(layers[given.layer])[..., given.head, :] = 0
            cost = (inside.output.loss - before).save()
        return cost

    def ablations() -> Tensor:
        before = model(ids, labels=ids).loss
        costs = torch.zeros(len(layers), given.heads)
        for layer in range(len(layers)):
            for head in range(given.heads):
                with inside.trace(ids, labels=ids):
                    heads_of(layers[layer])[..., head, :] = 0
                    costs[layer, head] = inside.output.loss - before
        return costs

    def patching() -> Tensor:
        with inside.trace(given.text):
            clean = nnsight.save([block.output[0] for block in layers])
            top = ahead(inside.output.logits).save()
        effects = torch.zeros(len(layers), ids.shape[1])
        with inside.trace() as tracer:
            with tracer.invoke(given.corrupted):
                bottom = ahead(inside.output.logits).save()
            for layer in range(len(layers)):
                for position in range(ids.shape[1]):
                    with tracer.invoke(given.corrupted):
                        layers[layer].output[0][:, position] = clean[layer][:, position]
                        effects[layer, position] = ahead(inside.output.logits)
        return (effects - bottom) / (top - bottom)

    def patching_heads() -> Tensor:
        with inside.trace(given.text):
            clean = nnsight.save([heads_of(block) for block in layers])
            top = ahead(inside.output.logits).save()
        effects = torch.zeros(len(layers), given.heads)
        with inside.trace() as tracer:
            with tracer.invoke(given.corrupted):
                bottom = ahead(inside.output.logits).save()
            for layer in range(len(layers)):
                for head in range(given.heads):
                    with tracer.invoke(given.corrupted):
                        heads_of(layers[layer])[..., head, :] = clean[layer][..., head, :]
                        effects[layer, head] = ahead(inside.output.logits)
        return (effects - bottom) / (top - bottom)

    def gradients() -> Tensor:
        with inside.trace(ids, labels=ids):
            stream = layers[given.layer].output[0]
            with inside.output.loss.backward():
                gradient = stream.grad.save()
        return gradient

    def steering() -> str:
        with inside.trace([given.text, given.corrupted]):
            ends = layers[given.layer].output[0][:, -1].save()
        with inside.generate(given.text, max_new_tokens=NEW_TOKENS, do_sample=False) as tracer:
            for _ in tracer.iter[:NEW_TOKENS]:
                layers[given.layer].output[0][:] += STRENGTH * (ends[0] - ends[1])
            tokens = tracer.result.save()
        return tokenizer.decode(tokens[0], skip_special_tokens=True)

    def scores() -> dict[str, Tensor]:
        with inside.trace(given.repeated, output_attentions=True):
            patterns = torch.stack(inside.output.attentions).mean(1).save()
        offsets = {
            "previous token": 1,
            "duplicate token": given.length,
            "induction": given.length - 1,
        }
        return {
            name: patterns.diagonal(-offset, dim1=-2, dim2=-1)[..., -given.length :].mean(-1)
            for name, offset in offsets.items()
        }

    def watching() -> list[Tensor]:
        fresh, _ = lumenspark.load(given.folder)
        watched = nnsight.NNsight(fresh)
        history = []
        for step in given.training(fresh.parameters(), lambda ids: fresh(ids, labels=ids).loss):
            if step % EVERY == 0:
                with watched.trace(given.repeated, output_attentions=True):
                    patterns = torch.stack(watched.output.attentions).save()
                stripe = patterns.diagonal(1 - given.length, -2, -1)
                history.append(stripe[..., -given.length :].mean((1, 3)))
        return history

    def lowrank_map() -> Tensor:
        lowrank = nnsight.NNsight(lumenspark.load(given.lowrank)[0])
        with lowrank.trace(ids, output_attentions=True):
            weights = lowrank.model.layers[1].attention.output[1].save()
        return weights

    def lowrank_slots() -> Tensor:
        lowrank = nnsight.NNsight(lumenspark.load(given.lowrank)[0])
        attention = lowrank.model.layers[1].attention
        with lowrank.trace(ids):
            keys = attention.k_proj.output.unflatten(-1, (-1, attention.head_dim)).save()
        written = ((keys.shape[1] - 1) // attention.config.window - 1) * attention.config.window
        keys = keys[:, :written].transpose(1, 2)
        write = attention.project(keys, torch.arange(written)[None])[0]
        return write / write.sum(1, keepdim=True)

    def neighbours() -> list[Tensor]:
        from transformers import AutoModelForCausalLM

        names = {"*.h": "layers", "*.layers": "layers", "self_attn": "attn"}
        patterns = []
        for folder in given.neighbours:
            plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
            other = nnsight.NNsight(plain, rename=names)
            with other.trace(ids, output_attentions=True):
                weights = other.layers[1].attn.output[1].save()
            patterns.append(weights)
        return patterns

    return locals()


def bertviz_tasks(given: Given) -> Tasks:
    from bertviz import model_view

    import lumenspark

    model, tokenizer = lumenspark.load(given.folder)

    def page() -> None:
        ids = tokenizer(given.text, return_tensors="pt")["input_ids"]
        patterns = model(ids, output_attentions=True).attentions
        tokens = tokenizer.convert_ids_to_tokens(ids[0])
        drawn = model_view(patterns, tokens, html_action="return").data
        Path(given.scratch, "page.html").write_text(drawn)

    return locals()


@dataclass(frozen=True)
class Tool:
    """One column of the tables."""

    package: str
    tasks: Callable[[Given], Tasks]
    adapter: str
    """What the tool requires to know of a model."""
    notes: dict[str, str]
    """Notes by task; "else" explains all other missing tasks."""


BY_HAND = "computed by hand from the layer's keys and its matrix"
STILL = "a still picture, drawn with matplotlib"
TOOLS = {
    "lumenspark": Tool(
        "lumenspark",
        lumenspark_tasks,
        "yes; its own two architectures, GPT-2 and Llama",
        {
            "page": "the shell command `lumenspark inspect`",
            "watching": "in a custom loop, like the others; `lumenspark train` does it without "
            "code, by a key of the recipe (`inspect.every`)",
        },
    ),
    "TransformerLens": Tool(
        "transformer-lens",
        transformer_lens_tasks,
        "yes, one per architecture; ours comes with lumenspark",
        {
            "page": STILL,
            "attribution": "on a second copy of the model, with norms folded into its weights",
            "lowrank_slots": BY_HAND,
        },
    ),
    "nnsight": Tool(
        "nnsight",
        nnsight_tasks,
        "no: any torch module, by its own names",
        {
            "page": STILL,
            "lowrank_slots": BY_HAND,
            "neighbours": "with a table of aliases for the modules of both",
        },
    ),
    "bertviz": Tool(
        "bertviz",
        bertviz_tasks,
        "no: any attention weights",
        {
            "else": "it draws given attention weights of any model (transformers returns them for "
            "`output_attentions=True`); its view of queries and keys needs its own copies of "
            "BERT, GPT-2, RoBERTa and XLNet"
        },
    ),
}
