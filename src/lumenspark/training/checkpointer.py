"""The checkpoints of one run: saving ``last`` and ``best``, and finding one to resume from."""

import math
import os
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from lumenspark.errors import LONGEST_QUOTE, UserError, first_line, shortened
from lumenspark.files import set_aside
from lumenspark.recipe import Recipe
from lumenspark.reporter import Reporter
from lumenspark.runs import checkpoint as checkpoints
from lumenspark.runs.checkpoint import Origin, State, TrainerState
from lumenspark.runs.run import Run, earlier_recipe_digest, recipe_digest
from lumenspark.training.ema import EMA
from lumenspark.training.optimizers import (
    load_optimizer_tensors,
    optimizer_misfit,
    optimizer_tensors,
)


class Checkpointer:
    """Saves and restores a model, its EMA and its optimizers in the folder of ``run``.

    With an EMA, the saved weights are the averaged ones.
    """

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        model: Any,
        tokenizer: Any,
        optimizers: list[Optimizer],
        ema: EMA,
        tokens_digest: str,
        reporter: Reporter,
    ) -> None:
        self.run = run
        self.recipe = recipe
        self.model = model
        self.tokenizer = tokenizer
        self.optimizers = optimizers
        self.ema = ema
        self.reporter = reporter
        self.origin = Origin(run.identity, recipe_digest(recipe), tokens_digest)

    def save(self, state: State) -> None:
        """Save ``last``, with everything that a resumed run needs to continue bit for bit."""
        tensors = optimizer_tensors(self.optimizers) | self.ema.raw_tensors()
        self._save("last", state.step, TrainerState(state, tensors))
        checkpoints.prune_checkpoints(self.run.checkpoints, self.recipe.train.keep_checkpoints)

    def save_best(self, step: int, loss: float) -> float | None:
        """Save ``best`` with its validation loss. Returns ``loss`` if it is finite, else None."""
        noted = loss if math.isfinite(loss) else None
        self._save("best", step, loss=noted)
        return noted

    def _save(
        self, tag: str, step: int, trainer: TrainerState | None = None, loss: float | None = None
    ) -> None:
        folder = self.run.checkpoints
        with self.ema.swapped_in():
            checkpoints.save_checkpoint(
                folder,
                tag,
                step,
                self.model,
                self.tokenizer,
                trainer,
                origin=self.origin,
                loss=loss,
            )

    def restore(self, path: Path) -> State:
        """Load weights, EMA and optimizer state from the checkpoint ``path``."""
        trainer = checkpoints.load_trainer(path)
        checkpoints.load_weights(self.model, path)
        load_optimizer_tensors(self.optimizers, self.ema.restore(trainer.tensors))
        return trainer.values

    def latest_valid(self) -> Path:
        """The newest checkpoint to resume from; problems of others are reported.

        Raises UserError if there is none.
        """
        path, problems = checkpoints.latest_valid_checkpoint(self.run.checkpoints, self._misfit)
        for problem in problems:
            self.reporter.say(f"skipping a checkpoint: {problem}")
        return path

    def problem_with_best(self) -> str | None:
        """Why ``best`` cannot be used; None if it can."""
        path = self.run.checkpoints / "best"
        if not os.path.lexists(path):
            return f"{path} is missing"
        return checkpoints.verify_checkpoint(path) or self._other_origin(path)

    def replace_best(self, problem: str, step: int, loss: float) -> float | None:
        """Set an unusable ``best`` aside, and save the current weights as ``best``."""
        self.reporter.say(f"skipping a checkpoint: {problem}; best is now of step {step}")
        path = self.run.checkpoints / "best"
        if os.path.lexists(path):
            set_aside(path)
        return self.save_best(step, loss)

    def _misfit(self, path: Path) -> str | None:
        """Why this training cannot resume from an intact checkpoint; None if it can."""
        try:
            return self._other_origin(path) or self._other_tensors(path)
        except UserError as error:
            return first_line(error)

    def _other_origin(self, path: Path) -> str | None:
        found, own = checkpoints.read_marker(path), self.origin
        if found.run not in {None, own.run, self.run.id}:
            return f"{path} belongs to another run, {shortened(str(found.run), LONGEST_QUOTE)}"
        if found.tokens not in {None, own.tokens}:
            return f"{path} was trained on another version of the text {self.recipe.data}"
        if found.recipe not in {None, own.recipe, earlier_recipe_digest(self.recipe)}:
            return f"{path} has another recipe or seed than {self.run.path / 'recipe.yaml'}"
        return None

    def _other_tensors(self, path: Path) -> str | None:
        """The first tensor with a wrong name or shape; loading would not detect it."""
        weights = checkpoints.tensor_shapes(path / checkpoints.WEIGHTS)
        for name, parameter in self.model.named_parameters():
            shape = tuple(parameter.shape)
            if weights.get(name) != shape:
                return f"{path / checkpoints.WEIGHTS} has no {name} of the shape {shape}"
        file = path / checkpoints.TRAINER_TENSORS
        tensors = checkpoints.tensor_shapes(file)
        for name, shape in self.ema.raw_shapes().items():
            if tensors.pop(name, None) != shape:
                return f"{file} has no {name} of {shape}"
        problem = optimizer_misfit(self.optimizers, tensors)
        return problem and f"{file} does not fit: {problem}"
