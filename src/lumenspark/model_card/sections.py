"""The sections of the model card, each a function from the run's files to Markdown.

Facts missing from the files are omitted. Strings from the files are escaped by :mod:`.markdown`.
"""

import json
import shlex
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import yaml

from lumenspark.data.python_docs import is_python_docs
from lumenspark.data.tales.corpus import is_tales
from lumenspark.errors import printable, shortened
from lumenspark.model_card.families import Facts, Family
from lumenspark.model_card.markdown import LONGEST_NAME, code, fenced, text
from lumenspark.model_card.run_files import RunFiles

# Not strftime's %b, which follows the locale.
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
LONGEST_SAMPLE = 190  # characters, in the table of samples
# Names of the same dimension in configs of transformers.
CONFIG_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "depth"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "heads"),
    "hidden": ("hidden_size", "n_embd", "d_model", "embed_dim"),
    "context": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
    "feed_forward": ("intermediate_size", "n_inner"),
    "dropout": ("dropout", "resid_pdrop"),
}


def overview(files: RunFiles, family: Family) -> str:
    curves = "\n\n![Training and validation loss](loss.svg)" if files.has_curves else ""
    return (
        bullets(
            (
                ("Model Name", text(model_name(files, family))),
                ("Model Type", "Autoregressive Language Model"),
                ("Architecture", f"Transformer (Decoder Only), {code(files.config['model_type'])}"),
                ("Purpose", "Text generation and language modeling"),
            )
        )
        + curves
    )


def core(files: RunFiles) -> str:
    sizes = {name: _first(files.config, names) for name, names in CONFIG_NAMES.items()}
    heads, hidden = sizes["heads"], sizes["hidden"]
    head_dim = files.config.get("head_dim") or (hidden // heads if heads and hidden else None)
    return bullets(
        (
            ("Base Architecture", "Decoder-only Transformer"),
            ("Layers", _unit(sizes["layers"], "transformer blocks")),
            ("Attention Heads", _unit(heads, "per layer")),
            ("Embedding Dimension", _unit(hidden)),
            ("Context Length", _unit(sizes["context"], "tokens")),
            ("Feed-forward Dimension", _feed_forward(files, sizes["feed_forward"])),
            ("Key/Value Dimensions", _unit(head_dim, "each")),
            ("Linear Layers", _linear_layers(files.config)),
            ("Attention", _attention(files.config)),
            ("Dropout", _unit(sizes["dropout"])),
        )
    )


def _linear_layers(config: dict[str, Any]) -> str | None:
    """The rank, for families that have one."""
    if "rank" not in config:
        return None
    rank, own = config["rank"], config.get("module_ranks")
    ranks = "dense" if rank is None else f"two factors of rank {text(rank)} each"
    return f"{ranks}, except {len(own)} of them" if own else ranks


def _attention(config: dict[str, Any]) -> str | None:
    """The attention pattern, for families with slots."""
    if "k" not in config:
        return None
    if config["k"] is None:
        return "dense"
    if config["k"] == 0:
        return f"blocks of {text(config['window'])} tokens"
    slots = f"{text(config['k'])} slots per head, written to by {text(config['projection'])}"
    return f"blocks of {text(config['window'])} tokens, and {slots}"


def _feed_forward(files: RunFiles, configured: int | None) -> str | None:
    """The configured width, and that of the gated layer if it differs."""
    gates = [shape[0] for name, shape in files.shapes.items() if name.endswith("gate_proj.weight")]
    if configured is None or not gates or gates[0] == configured:
        return _unit(configured)
    return f"{text(configured)} (gated: {text(gates[0])})"


def parameters(files: RunFiles) -> str:
    return bullets(
        (
            ("Vocabulary Size", _unit(files.config["vocab_size"], "tokens")),
            ("Total Parameters", f"{files.parameters:,}"),
        )
    )


def dataset(files: RunFiles) -> str:
    corpus = files.environment["corpus"]
    headings = {
        "drop": "titles, section headings and blank lines dropped",
        "keep": "titles and section headings kept",
    }[files.recipe["corpus"]["headings"]]
    layout = f"WikiText, {headings}" if corpus["layout"] == "wikitext" else "plain text"
    return bullets(
        (
            ("Primary Dataset", _dataset_name(files)),
            ("Layout", layout),
            ("Documents", _per_split(corpus.get("documents"))),
            ("Tokens", _per_split(corpus.get("tokens"))),
            ("License of the Text", _unit(corpus.get("license"))),
            ("Digest", f"SHA-256 {code(corpus['digest'])}"),
        )
    )


def _dataset_name(files: RunFiles) -> str:
    """The name of the corpus, without the path of a local folder."""
    corpus = files.environment["corpus"]
    hub_id, name = corpus.get("hub_id"), corpus["name"]
    if hub_id:
        address = f"https://huggingface.co/datasets/{quote(printable(hub_id), safe='/')}"
        link = f"[{text(hub_id)}]({address})"
        title = "WikiText-2 Raw (wikitext-2-raw-v1), " if name == "wikitext-2" else ""
        config = files.recipe["corpus"]["config"]
        named_config = f", configuration {code(config)}" if config else ""
        revision = f", revision {code(corpus['revision'])}" if corpus.get("revision") else ""
        return f"{title}{link}{named_config}{revision}"
    if is_python_docs(name) and corpus.get("license"):  # a folder of this name has no license
        return (
            f"{code(name)}, the documentation of a Python installation: help topics and the "
            f"docstrings of its standard library (Python {text(files.environment['python'])})"
        )
    if is_tales(name) and corpus.get("license"):
        return (
            f"{code(name)}, stories that lumenspark writes itself: made text for a first run and "
            "for looking inside, no benchmark of language"
        )
    return f"{code(_short(name))}, local text"


def tokenization(files: RunFiles) -> str:
    tokenizer = files.tokenizer
    kind = tokenizer["model"].get("type")
    kinds = {"BPE": "Byte-Pair Encoding (BPE)", None: "not stated in tokenizer.json"}
    normalizer = tokenizer.get("normalizer") or {}
    special = [token["content"] for token in tokenizer["added_tokens"] if token.get("special")]
    name, start = files.recipe["tokenizer"]["name"], files.recipe.get("init_from")
    learned = "trained on the train split of the dataset above"
    origin = code(_short(name)) if name else f"that of {code(_short(start))}" if start else learned
    return bullets(
        (
            ("Tokenizer Type", kinds.get(kind) or text(kind)),
            ("Origin", origin),
            ("Normalization", _unit(normalizer.get("type"))),
            ("Vocabulary Size", f"{_entries(tokenizer)} tokens"),
            ("Special Tokens", ", ".join(map(code, special)) or None),
        )
    )


def _entries(tokenizer: dict[str, Any]) -> int:
    """Vocabulary size of a tokenizer.json (a mapping or a list), added tokens included."""
    vocabulary = tokenizer["model"]["vocab"]
    added = [token for token in tokenizer["added_tokens"] if token["content"] not in vocabulary]
    return len(vocabulary) + (len(added) if isinstance(vocabulary, dict) else 0)


def procedure(files: RunFiles) -> str:
    recipe, environment = files.recipe, files.environment
    trained = [line for line in files.metrics if "loss" in line]
    last = trained[-1] if trained else {}
    seconds = next((line["seconds"] for line in reversed(files.metrics) if "seconds" in line), None)
    validated = [line for line in files.metrics if line.get("validation_loss") is not None]
    best = min(validated, key=lambda line: line["validation_loss"], default=None)
    start = recipe.get("init_from")
    facts = bullets(
        (
            ("Recipe", f"{code(recipe['name'])}, seed {text(recipe['seed'])}"),
            ("Started from", f"weights of {code(_short(start))}" if start else "random weights"),
            ("Teachers", _teachers(recipe)),
            ("Optimizer", text(recipe["optim"]["name"])),
            ("Steps", _steps(last, recipe)),
            ("Checkpoint", _checkpoint(files)),
            ("Tokens Seen", f"{last['tokens']:,}" if "tokens" in last else None),
            ("Training Time", f"{seconds:.0f} seconds" if seconds is not None else None),
            (
                "Lowest Validation Loss",
                f"{best['validation_loss']:.4f} at step {best['step']:d}" if best else None,
            ),
            ("Hardware", _hardware(files)),
            (
                "Software",
                ", ".join(
                    f"{title} {text(environment[title.lower()])}"
                    for title in ("lumenspark", "torch", "transformers", "Python")
                ),
            ),
        )
    )
    sections = ["model", "optim", "train"] + ["distill"] * bool(_teachers(recipe))
    options = {name: recipe[name] for name in sections}
    dumped = yaml.safe_dump(options, sort_keys=False, allow_unicode=True).strip()
    dumped = "\n".join(map(printable, dumped.split("\n")))
    return f"{facts}\n\nThe options of the recipe, as run:\n\n{fenced(dumped, 'yaml')}"


def _steps(last: dict[str, Any], recipe: dict[str, Any]) -> str | None:
    return f"{last['step']:d} logged, {recipe['train']['steps']:d} planned" if last else None


def _teachers(recipe: dict[str, Any]) -> str | None:
    """The teachers of distillation; recipes of older runs lack the section."""
    distill = recipe.get("distill", {})
    if not distill.get("teachers"):
        return None
    return (
        f"{distill['teachers']:d} of the same architecture, trained on the same text with "
        f"other seeds, {distill['steps']:d} steps each; {distill['weight']:.0%} of the loss "
        "is on samples of their predictions"
    )


def _checkpoint(files: RunFiles) -> str | None:
    step = files.checkpoint_step
    return None if step is None else f"'{text(files.checkpoint)}', from step {step:d}"


def _hardware(files: RunFiles) -> str:
    environment = files.environment
    cores = environment["cores"]  # None if unknown
    processor = f"{cores:d} CPU cores, " if cores else ""
    return (
        f"device {code(files.recipe['device'])} ({text(environment['processor'])}); "
        f"{processor}{environment['threads']:d} threads"
    )


def evaluation(files: RunFiles) -> str:
    entries = files.evaluations
    names = [text(part_name(entry, entries)) for entry in entries]
    if not entries:
        return f"The checkpoint '{text(files.checkpoint)}' has not been evaluated."
    facts = bullets(_headlines(files))
    head = (
        "| data | split | protocol | context | stride | loss | token perplexity "
        "| word perplexity | bits per byte | targets |\n"
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    rows = "\n".join(
        f"| {name} | {text(entry['split'])} | {text(entry['protocol'])} "
        f"| {entry['context']:d} | {entry['stride']:d} | {_figure(entry['loss'])} "
        f"| {_figure(entry['perplexity'])} | {_figure(entry['word_perplexity'])} "
        f"| {_figure(entry['bits_per_byte'])} | {entry['targets']:,} |"
        for name, entry in zip(names, entries, strict=True)
    )
    explained = (
        "Losses are in nats per token. Protocol `strided` reads the raw split as one stream and "
        "predicts every token exactly once; its bits per byte, of the decoded text, compares "
        "across tokenizers. Protocol `card` drops titles, headings and blank lines of WikiText, "
        "frames each document by BOS and EOS tokens (a single token for both comes first) and cuts "
        "it into windows with an overlap of context minus stride tokens; predictions inside an "
        "overlap count twice, so it has no word perplexity and no bits per byte."
    )
    if any(entry["protocol"] == "lm_eval" for entry in entries):
        explained += " Protocol `lm_eval` follows EleutherAI's lm_eval, per raw word and byte."
    parts = (facts, f"{head}\n{rows}", _notes(entries), explained)
    return "\n\n".join(part for part in parts if part)


def samples(files: RunFiles) -> str:
    """What the checkpoint writes, and what the model wrote during training."""
    final = [
        f"Prompt {code(sample.prompt)}, temperature {sample.temperature:g}, "
        f"seed {sample.seed:d}:\n\n{fenced(_plain(sample.text), 'text')}"
        for sample in files.samples
    ]
    written = {
        event["step"]: str(event.get("text"))
        for event in files.events
        if event["event"] == "sample"
    }
    rows = [
        f"| {step:,} | {text(' '.join(words.split())[:LONGEST_SAMPLE])} |"
        for step, words in sorted(written.items())
    ]
    parts = final
    if rows:
        table = "\n".join(["| step | text |", "|--:|---|", *rows])
        parts = [*final, f"During training:\n\n{table}"]
    return "\n\n".join(parts) or "No text was sampled."


def _plain(words: str) -> str:
    """A text of several lines, without control characters."""
    return "\n".join(printable(line) for line in words.strip().split("\n"))


def _notes(entries: list[dict[str, Any]]) -> str:
    """The notes of the evaluations."""
    return bullets(
        ("Note", f"{text(part_name(entry, entries))}, {text(entry['protocol'])}: {text(note)}.")
        for entry in entries
        for note in entry.get("notes", ())
    )


def _headlines(files: RunFiles) -> Facts:
    """The latest test metrics on the training corpus."""
    digest = files.environment["corpus"]["digest"]
    latest = {
        entry["protocol"]: entry
        for entry in files.evaluations
        if entry["split"] == "test" and entry["data_digest"] == digest
    }
    facts: list[tuple[str, str]] = []
    if card := latest.get("card"):
        facts.append(("Test Loss", f"{_figure(card['loss'])} (protocol `card`)"))
        facts.append(("Test Perplexity", f"{_figure(card['perplexity'])} (protocol `card`)"))
    if (clean := latest.get("strided")) and (bits := clean["bits_per_byte"]) is not None:
        facts.append(("Test Bits per Byte", f"{_figure(bits)} (protocol `strided`)"))
        if (entropy := clean.get("entropy")) is not None:
            floor = f"{_figure(entropy)} bits per byte, which no model can beat on average"
            facts.append(("Entropy of the Text", floor))
    return tuple(facts)


def strengths(files: RunFiles, family: Family) -> str:
    size = f"{files.parameters:,} parameters, for research and experimentation"
    pipeline = "Trained, evaluated and run by the package `lumenspark`"
    return bullets(
        (("Lightweight Design", size), *family.strengths, ("Complete Pipeline", pipeline))
    )


def limitations(files: RunFiles) -> str:
    corpus = files.environment["corpus"]
    context = _first(files.config, CONFIG_NAMES["context"])
    language = corpus.get("language")
    return bullets(
        (
            ("Small Scale", f"Capacity limited by {files.parameters:,} parameters"),
            ("Context Length", f"{text(context)}-token context window" if context else None),
            (
                (
                    "Single Language",
                    f"Trained only on text whose language is recorded as {code(language)}",
                )
                if language
                else ("Language", "Trained on text whose language is not recorded")
            ),
            ("Domain", f"Limited to the subjects of {code(data_name(corpus))}"),
        )
    )


def components(files: RunFiles, family: Family) -> str:
    config = files.config
    matrix = [config["vocab_size"], _first(config, CONFIG_NAMES["hidden"])]
    tied = sum(shape == matrix for shape in files.shapes.values()) == 1
    output = "Linear projection to vocabulary logits" + (
        ", with the weights of the token embedding" if tied else ""
    )
    pad_id = config.get("pad_token_id")
    names = {token["id"]: token["content"] for token in files.tokenizer["added_tokens"]}
    padding = (
        f"Special padding token {code(names[pad_id])} (ID {pad_id:d})" if pad_id in names else None
    )
    return bullets((*family.components, ("Padding Handling", padding), ("Output Layer", output)))


def usage(files: RunFiles, hub_id: str | None) -> str:
    """Code that loads the model: from ``hub_id``, or from the run's folder on this machine."""
    # The tokenizer needs no code, but transformers reads the config first, and would ask the user.
    own_code = ", trust_remote_code=True" if "auto_map" in files.config else ""
    name = hub_id or printable(files.run_id)
    transformers = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

{source_line(hub_id or files.folder)}
generate = pipeline("text-generation", model=name{own_code})
print(generate("The film was")[0]["generated_text"])

tokenizer = AutoTokenizer.from_pretrained(name{own_code})
model = AutoModelForCausalLM.from_pretrained(name{own_code})"""
    data = " --data my-folder" if hub_id else ""
    command = f"""\
lumenspark generate {shlex.quote(name)} "The film was"
lumenspark evaluate {shlex.quote(name)}{data}"""
    package = f"""\
import lumenspark

model, tokenizer = lumenspark.load({json.dumps(name, ensure_ascii=False)})"""
    place = "" if hub_id else ", next to the run"
    return (
        f"With transformers alone:\n\n{fenced(transformers, 'python')}\n\n"
        f"With lumenspark{place}:\n\n{fenced(command, 'bash')}\n\n"
        f"{fenced(package, 'python')}"
    )


def source_line(source: str | Path) -> str:
    """The line of the card's code that names the model: a hub id, or an absolute folder."""
    return f"name = {json.dumps(printable(str(source)), ensure_ascii=False)}"


def license_text(files: RunFiles) -> str:
    name = files.environment["corpus"].get("license")
    of_text = f" The text that it was trained on has its own: {text(name)}." if name else ""
    return f"MIT License - See project LICENSE file for details.{of_text}"


def authors(files: RunFiles) -> str:
    finished = [entry["finished_at"] for entry in files.evaluations]
    date = datetime.fromisoformat(max(finished, default=files.environment["started_at"]))
    return (
        f"This model card was generated on {MONTHS[date.month - 1]} {date.day}, {date.year} "
        f"using model checkpoint '{text(files.checkpoint)}' from run '{text(files.run_id)}'."
    )


def model_name(files: RunFiles, family: Family) -> str:
    """Family and size: Lumiére-1M, gpt2-350K. One line, unescaped."""
    count, name = files.parameters, printable(shortened(family.name, LONGEST_NAME))
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= unit:
            return f"{name}-{round(count / unit)}{letter}"
    return f"{name}-{count}"


def bullets(facts: Iterable[tuple[str, str | None]]) -> str:
    """A list of facts, in Markdown; None values are omitted."""
    return "\n".join(f"- **{name}:** {value}" for name, value in facts if value is not None)


def _unit(value: Any, unit: str = "") -> str | None:
    return None if value is None else f"{text(value)} {unit}".rstrip()


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _per_split(counts: dict[str, int] | None) -> str | None:
    if not counts:
        return None
    return ", ".join(
        f"{text(split)} {count:,}" for split, count in counts.items() if count is not None
    )


def _short(name: str) -> str:
    """The last part of a path, since cards must not contain local paths."""
    return PurePath(name).name or str(name)


def data_name(source: dict[str, Any]) -> str:
    """The name of a corpus, without the path of a local one."""
    name = str(source.get("name") or source.get("data"))
    return name if source.get("hub_id") else _short(name)


def part_name(entry: dict[str, Any], entries: Iterable[dict[str, Any]]) -> str:
    """The name of the scored text, distinct among ``entries``.

    :func:`data_name`, configuration and field; revision and layout if they differ between entries
    of that name.
    """
    name = _named_part(entry)
    alike = [other for other in entries if _named_part(other) == name]
    for fact in ("revision", "layout"):
        if any(other.get(fact) != entry.get(fact) for other in alike):
            name += f", {fact} {entry.get(fact)}"
    return name


def _named_part(entry: dict[str, Any]) -> str:
    name, config = data_name(entry), entry.get("config")
    field = entry.get("text_field") or "text"
    names_a_config = entry.get("hub_id") and name == "wikitext-2"
    if config and not names_a_config:
        name += f", configuration {config}"
    return name if field == "text" else f"{name}, field {field}"


def _first(config: dict[str, Any], names: Iterable[str]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)
