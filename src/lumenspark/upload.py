"""Upload a run to the Hugging Face Hub: model, tokenizer, code and card in one commit."""

from pathlib import Path
from typing import Any

from lumenspark.errors import UserError, quoted
from lumenspark.evaluation.weights import check_checkpoint
from lumenspark.model_card.card import build_card
from lumenspark.model_card.run_files import checkpoint_folder

# Files of a checkpoint besides the model: trainer state, marker, and results of evaluations.
TRAINER_FILES = {"trainer.json", "trainer.safetensors", "complete.json", "evaluation.json"}
# Not recipe.yaml and evaluation.json, which contain local paths: the card has their content.
CURVES = "loss.svg"


def push(
    run: Path,
    repo_id: str,
    checkpoint: str = "best",
    *,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload a checkpoint of a run to the model repository ``repo_id`` (``user/name``).

    The repository is created if it does not exist (``private`` applies only then). All files are
    in one commit; README.md is a newly generated model card. ``token`` defaults to that of ``hf
    auth login`` or HF_TOKEN, ``endpoint`` to the hub or HF_ENDPOINT.

    Returns the URL of the repository.
    Raises UserError for a malformed id, a missing or rejected token, a damaged checkpoint, and an
    unreachable hub or a refused upload; the run is never changed.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    _check_repo_id(repo_id)
    if token is None and get_token() is None:
        raise UserError(
            "the hub needs a token to upload: log in once with `hf auth login`, or set HF_TOKEN "
            "to a token with write permission"
        )
    operations = _operations(run, checkpoint, repo_id)
    api = HfApi(endpoint=endpoint, token=token, library_name="lumenspark")
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.create_commit(
            repo_id,
            operations,
            commit_message=f"Checkpoint {checkpoint} of run {run.resolve().name}",
        )
    except OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it") from error
    except (HTTPError, RuntimeError, ValueError) as error:
        # huggingface_hub wraps a failed upload of one file in a RuntimeError.
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        raise UserError(_explain(cause or error, repo_id, api.endpoint)) from error
    return str(url)


def _operations(run: Path, checkpoint: str, repo_id: str) -> list[Any]:
    """The files to upload, by name in the repository."""
    from huggingface_hub import CommitOperationAdd

    folder = checkpoint_folder(run, checkpoint)
    _check_checkpoint(folder)
    card = str(build_card(run, checkpoint, repo_id))
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in TRAINER_FILES and not path.name.startswith(".")
    ]
    if (run / CURVES).is_file():
        paths.append(run / CURVES)
    operations = [
        CommitOperationAdd("README.md", card.encode()),
        *(CommitOperationAdd(path.name, path) for path in paths if path.name != "README.md"),
    ]
    _check_checkpoint(folder)  # training may have replaced it
    return operations


def _check_checkpoint(folder: Path) -> None:
    try:
        check_checkpoint(folder)
    except UserError as error:
        raise UserError(f"nothing was uploaded, because {error}") from error


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{quoted(repo_id)} is not a valid repository id: {error}") from error
    if "/" not in repo_id:
        raise UserError(f"{quoted(repo_id)} lacks the owner: write it as user/{repo_id}")


def _explain(error: BaseException, repo_id: str, endpoint: str) -> str:
    """The error message: the response of the hub or the connection error, and the fix."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(error, HfHubHTTPError):
        reason = " ".join(str(error).split())
        if isinstance(error, ValueError):
            return f"the upload to {endpoint} was refused: {reason}"
        return (
            f"the hub at {endpoint} cannot be reached ({reason}): check the connection and "
            "HF_ENDPOINT, and push again"
        )
    status = error.response.status_code
    if status == 401:
        return (
            f"the hub at {endpoint} rejected the token: make a new one with write permission at "
            f"{endpoint}/settings/tokens, then `hf auth login`"
        )
    if status == 403:
        return (
            f"this token may not write to {repo_id}: use a token with write permission for it, or "
            "a repository of your own"
        )
    reason = " ".join((error.server_message or "without a reason").split())
    return (
        f"the hub at {endpoint} responded with status {status} ({reason}): nothing was committed, "
        "push again later"
    )
