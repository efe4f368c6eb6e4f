"""Inspection tools on a small trained model: coverage, lines of code and speed.

    python benchmarks/looking_inside.py [RUN]

RUN is a Lumiére, a run or a folder; by default one is trained (preset lumiere-1m, `--budget`).
Lumenspark, TransformerLens, nnsight and bertviz solve the same tasks, each in its own process and
in the style of its documentation. Missing tools are reported: all four fit into one environment
(`pip install transformer-lens nnsight bertviz`).

Counting: a task is a function in looking_inside_tasks.py; its lines are its statements, however
they are wrapped. Code shared by a tool's tasks (imports, loading, helpers) is counted once, in the
first row. Inputs (texts, token ids, random tokens), the training loop, disabling gradients, and a
final `return name` do not count. Lines count only if the task succeeds: otherwise the type of its
error is shown. A page works without network if it loads nothing from another host. The largest
difference between tools is printed for quantities that several of them compute.
Times are medians, in milliseconds on `--threads` threads, of whole tasks after a warm-up; slow
tasks run fewer times.
"""

import ast
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from looking_inside_tasks import (
    TASKS,
    TOOLS,
    Given,
    Tasks,
    Tool,
)
from torch import Tensor

TASKS_FILE = Path(__file__).with_name("looking_inside_tasks.py")


@dataclass
class Options:
    """Compare inspection tools."""

    model: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = None
    """A Lumiére: a run, or a folder."""
    budget: str = "60s"
    """Training time if no model is given."""
    text: str = "Return the number of elements in the list. Return the"
    corrupted: str = "Return the name of elements in the list. Return the"
    """With the same number of tokens as the text."""
    rounds: int = 5
    """Timed runs of each task."""
    threads: int = 1
    only: Annotated[str | None, tyro.conf.arg(metavar="TOOL")] = None
    """Run one tool, and print its results as JSON."""
    given: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The inputs of `--only`."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.only and options.given:
        torch.set_num_threads(options.threads)
        given = Given(**json.loads(options.given.read_text()))
        print(json.dumps(run_tasks(TOOLS[options.only], given, options.rounds)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        given = prepare(options, Path(scratch))
        found = {name: in_a_process(name, tool, given, options) for name, tool in TOOLS.items()}
    print_lines(found)
    print_differences(found, given)
    print_times(found)
    print_tools(found)


def prepare(options: Options, scratch: Path) -> Given:
    """The inputs; models for them are saved in ``scratch``."""
    import lumenspark
    from lumenspark.inspect import repeated_tokens
    from lumenspark.quiet import quiet_transformers
    from lumenspark.runs.run import model_source

    quiet_transformers()
    name = options.model or str(lumenspark.train("lumiere-1m", budget=options.budget).path)
    model, tokenizer = lumenspark.load(name)
    if model.config.model_type != "lumiere":
        raise SystemExit(f"{name} is a {type(model).__name__}: the tasks are written for a Lumiére")
    rows = [tokenizer(text)["input_ids"] for text in (options.text, options.corrupted)]
    if len(rows[0]) != len(rows[1]):
        raise SystemExit(
            f"--text has {len(rows[0])} tokens in this model and --corrupted {len(rows[1])}: give "
            "texts of equal length"
        )
    with torch.no_grad():
        clean, corrupted = model(torch.tensor(rows)).logits[:, -1]
    repeated, _, length = repeated_tokens(model)
    correct, incorrect = int((clean - corrupted).argmax()), int((clean - corrupted).argmin())
    return Given(
        folder=model_source(name),
        lowrank=save(lowrank_model(tokenizer), tokenizer, scratch / "lumenspark"),
        neighbours=(
            save(gpt2(tokenizer), tokenizer, scratch / "gpt2"),
            save(llama(tokenizer), tokenizer, scratch / "llama"),
        ),
        scratch=str(scratch),
        text=options.text,
        corrupted=options.corrupted,
        correct=correct,
        incorrect=incorrect,
        difference=float(clean[correct] - clean[incorrect]),
        layer=model.config.num_hidden_layers // 2,
        head=1,
        heads=model.config.num_attention_heads,
        length=length,
        repeated_ids=repeated.tolist(),
    )


def lowrank_model(tokenizer: Any) -> Any:
    """A Lumenspark with a window short enough for a sentence to fill its slots."""
    from lumenspark.models import LumensparkConfig, LumensparkForCausalLM

    config = LumensparkConfig(
        **{"vocab_size": len(tokenizer), "embed_dim": 64, "depth": 2, "heads": 4, "seq_length": 64},
        **{"k": 4, "window": 2, "rank": 16, "bos_token_id": 0, "eos_token_id": 1},
    )
    return LumensparkForCausalLM(config)


def gpt2(tokenizer: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    special = {"bos_token_id": 0, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **special))


def llama(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    special = {"bos_token_id": 0, "eos_token_id": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads, **special))


def save(model: Any, tokenizer: Any, folder: Path) -> str:
    """Save a model with random weights large enough for heads to attend to different tokens."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# The results of a tool, as JSON: {"shared": lines, "ready": seconds, "tasks": {name: {…}}}.
Found = dict[str, Any]


def in_a_process(name: str, tool: Tool, given: Given, options: Options) -> Found | None:
    """Run all tasks of a tool in a new process. None if it is not installed."""
    try:
        distribution(tool.package)
    except PackageNotFoundError:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch, "given.json")
        inputs.write_text(json.dumps(asdict(given) | {"scratch": scratch}))
        command = [sys.executable, __file__, "--only", name, "--given", str(inputs)]
        command += [f"--rounds={options.rounds}", f"--threads={options.threads}"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} could not be run:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run_tasks(tool: Tool, given: Given, rounds: int) -> Found:
    lines = count_lines(tool.tasks)
    began = time.perf_counter()
    tasks = tool.tasks(given)
    ready = time.perf_counter() - began
    found: Found = {"shared": lines.pop(""), "ready": ready, "tasks": {}}
    for name in TASKS:
        if name in tasks:
            with torch.set_grad_enabled(name == "gradients"):
                found["tasks"][name] = {"lines": lines[name]} | run_task(tasks[name], rounds)
    if online := hosts_of_pages(Path(given.scratch)):
        page = found["tasks"]["page"]
        page["lacks"] = f"a page in {page['lines']} lines, which loads scripts from {online}"
    return found


def run_task(task: Callable[[], Any], rounds: int, seconds: float = 15.0) -> dict[str, Any]:
    """The result and the median time of a task, or its error."""
    try:
        result = plain(task())
    except Exception as error:  # the table shows the error, whatever it is
        return {"error": type(error).__name__, "message": str(error)}
    times: list[float] = []
    while not times or (len(times) < rounds and sum(times) < seconds):
        began = time.perf_counter()
        task()
        times.append(time.perf_counter() - began)
    return {"result": result, "ms": 1e3 * statistics.median(times)}


def plain(value: Any) -> Any:
    """Convert to JSON types."""
    if isinstance(value, Tensor):
        return value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def hosts_of_pages(folder: Path) -> str:
    """The hosts that the pages in ``folder`` load resources from."""
    loads = re.compile(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']https?://([^/"']+)""")
    pages = [file.read_text(encoding="utf-8") for file in folder.glob("*.html")]
    return ", ".join(sorted({host for page in pages for host in loads.findall(page)}))


def count_lines(tasks: Callable[[Given], Tasks]) -> dict[str, int]:
    """Number of statements per task in a tool's function; of shared code under ""."""
    functions, shared = {}, 0
    for statement in tool_body(tasks):
        if isinstance(statement, ast.FunctionDef) and statement.name in TASKS:
            functions[statement.name] = sum(map(statements, without_return(statement.body)))
        elif not isinstance(statement, ast.Return):
            shared += statements(statement)
    return functions | {"": shared}


def tool_body(tasks: Callable[[Given], Tasks]) -> list[ast.stmt]:
    tree = ast.parse(TASKS_FILE.read_text(encoding="utf-8"))
    functions = {each.name: each for each in tree.body if isinstance(each, ast.FunctionDef)}
    return functions[tasks.__name__].body


def without_return(body: list[ast.stmt]) -> list[ast.stmt]:
    """A body without the final `return name`, which only the benchmark needs."""
    last = body[-1]
    only_a_name = isinstance(last, ast.Return) and isinstance(last.value, ast.Name)
    return body[:-1] if only_a_name else body


def statements(node: ast.stmt) -> int:
    return sum(isinstance(each, ast.stmt) for each in ast.walk(node))


def print_lines(found: dict[str, Found | None]) -> None:
    """Lines per task, with reasons for unsupported tasks."""
    notes: list[str] = []
    shared = ["not installed" if each is None else str(each["shared"]) for each in found.values()]
    rows = [["lines that its tasks share: import, load, helpers", *shared]]
    for task, title in TASKS.items():
        rows.append([title, *(lines_cell(name, each, task, notes) for name, each in found.items())])
    versions = [
        name if each is None else f"{name} {version(TOOLS[name].package)}"
        for name, each in found.items()
    ]
    print_table(["lines of Python for", *versions], rows)
    print()
    for number, note in enumerate(notes, 1):
        print(f"{number}. {note}")


def lines_cell(name: str, found: Found | None, task: str, notes: list[str]) -> str:
    """A number, "no" or an error's type; explanations are added to ``notes``."""
    if found is None:
        return "–"
    done = found["tasks"].get(task)
    note = TOOLS[name].notes.get(task)
    if done is None:
        text, note = "no", TOOLS[name].notes["else"]
    elif "error" in done:
        text, note = done["error"], first_line(done["message"])
    elif "lacks" in done:
        text, note = "no", done["lacks"]
    else:
        text = str(done["lines"])
    if note is None:
        return text
    note = f"{name}: {note}"
    if note not in notes:
        notes.append(note)
    return f"{text} [{notes.index(note) + 1}]"


def first_line(message: str) -> str:
    return (message.splitlines() or [""])[0]


SUM = "direct logit attribution: sum of the parts"


def print_differences(found: dict[str, Found | None], given: Given) -> None:
    """The largest difference between tools for each common quantity."""
    quantities: dict[str, dict[str, Any]] = {SUM: {"the model itself": [given.difference]}}
    for name, each in found.items():
        for task, done in (each or {"tasks": {}})["tasks"].items():
            if "result" in done:
                for quantity, value in comparable(task, name, done["result"], given).items():
                    quantities.setdefault(quantity, {})[name] = leaves(value)
    rows = [
        [quantity, ", ".join(values), difference(list(values.values()))]
        for quantity, values in quantities.items()
        if len(values) > 1
    ]
    print_table(["the same quantity", "given by", "largest difference"], rows)


def comparable(task: str, name: str, result: Any, given: Given) -> dict[str, Any]:
    """The quantities in a result that other tools compute too."""
    title = TASKS[task]
    if task == "page":
        return {}
    if task == "attribution":
        return {
            SUM: math.fsum(result),
            "direct logit attribution: each head": shares_of_heads(name, result, given.heads),
        }
    if task == "patching":  # TransformerLens patches the stream before each block, others after
        inner = result[1:] if name == "TransformerLens" else result[:-1]
        return {f"{title}, between blocks": inner}
    if task == "scores":  # lumenspark's "previous token" is over both halves of the rows
        return {title: [result["duplicate token"], result["induction"]]}
    if task == "lowrank_slots":
        return {f"{title}, largest shares": largest_shares(result)}
    return {title: result}


def shares_of_heads(name: str, shares: list[float], heads: int) -> Any:
    if name == "TransformerLens":  # heads, then all the rest as one part
        return shares[:-1]
    layers = torch.tensor(shares[1:], dtype=torch.float64).view(-1, heads + 1)  # after embeddings
    return layers[:, :heads].tolist()


def largest_shares(slots: list[Any]) -> Any:
    """Shares by head and slot, from ranked tokens, or from shares (H, T, K)."""
    if isinstance(slots[0][0][0], dict):
        return [[slot[0]["share"] for slot in head] for head in slots]
    return torch.tensor(slots, dtype=torch.float64).amax(1).tolist()


def leaves(value: Any) -> list[Any]:
    """The numbers or strings in nested lists, flattened."""
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def difference(given: list[list[Any]]) -> str:
    if len({len(values) for values in given}) > 1:
        return "not of the same shape"
    together = list(zip(*given, strict=True))
    if isinstance(together[0][0], str):
        return f"{sum(len(set(each)) > 1 for each in together)} of {len(together)} texts differ"
    values = torch.tensor(together, dtype=torch.float64)  # max propagates NaN
    largest = (values.amax(1) - values.amin(1)).max()
    return f"{largest:.1e} (values up to {values.abs().max():.2g})"


def print_times(found: dict[str, Found | None]) -> None:
    rows = [
        [title, *(time_cell(each, task) for each in found.values())]
        for task, title in TASKS.items()
    ]
    print_table(["milliseconds for", *found], rows)


def time_cell(found: Found | None, task: str) -> str:
    done = (found or {"tasks": {}})["tasks"].get(task, {})
    return f"{done['ms']:,.1f}" if "ms" in done and "lacks" not in done else "–"


def print_tools(found: dict[str, Found | None]) -> None:
    base = requirements("torch") | requirements("transformers")
    rows = []
    for name, tool in TOOLS.items():
        done = found[name]
        if done is None:
            rows.append([name, "not installed", "–", "–", tool.adapter])
            continue
        more = len(requirements(tool.package) - base - {tool.package})
        imports = [line for line in tool_body(tool.tasks) if is_import(line)]
        seconds = import_seconds("\n".join(map(ast.unparse, imports)))
        rows.append([name, str(more), f"{seconds:.1f}", f"{done['ready']:.1f}", tool.adapter])
    alone = import_seconds("import torch\nfrom transformers import AutoModelForCausalLM")
    rows.append(["torch and transformers", "–", f"{alone:.1f}", "–", "–"])
    heading = ["", "packages besides those of torch and transformers", "seconds to import"]
    heading += ["torch being there, seconds to import and load", "must be told of a model"]
    print_table(heading, rows)


def is_import(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Import | ast.ImportFrom)


def requirements(package: str) -> set[str]:
    """The names of ``package`` and all its installed dependencies."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    names, waiting = set(), [package]
    while waiting:
        name = canonicalize_name(waiting.pop())
        try:
            wanted = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        if name not in names:
            names.add(name)
            for need in map(Requirement, wanted):
                if need.marker is None or need.marker.evaluate({"extra": ""}):
                    waiting.append(need.name)
    return names


def import_seconds(code: str, rounds: int = 3) -> float:
    """The shortest time of import statements over several new processes."""
    timed = f"import time\nbegan = time.perf_counter()\n{code}\nprint(time.perf_counter() - began)"
    times = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True)
        times.append(float(done.stdout.splitlines()[-1]))
    return min(times)


def print_table(heading: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table, numbers right-aligned."""
    print()
    print(f"| {' | '.join(heading)} |")
    print(f"|{'|'.join(['---', *['---:'] * (len(heading) - 1)])}|")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
