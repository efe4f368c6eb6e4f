"""Models and tokenizers on the hub: their names with a revision, and their files on this disk.

A model of the hub becomes a folder of the hub's cache before anything in it is read, so that all
checks of folders hold for it, and so that model and tokenizer are of one commit.
"""

import re
from pathlib import Path
from typing import NamedTuple

from lumenspark.data.hub_datasets import repo_info
from lumenspark.errors import UserError, quoted, reading

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+|[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_BESIDE = re.compile(r"[^/]*\.(json|txt|model|jinja|tiktoken)|additional_chat_templates/[^/]*")
_CODE = re.compile(r"[^/]*\.py")


class Snapshot(NamedTuple):
    """A folder with files of one commit."""

    folder: Path
    revision: str


def split_revision(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """``org/model@revision`` as its two parts; a name without ``@`` keeps the ``revision`` given.

    Raises UserError where both are given, and differ.
    """
    if "@" not in name or Path(name).exists():
        return name, revision
    bare, _, written = name.partition("@")
    if not written or not bare:
        raise UserError(f"{quoted(name)}: a model of the hub is written org/model@revision")
    if revision not in (None, written):
        raise UserError(
            f"{quoted(name)} names another revision than {quoted(revision)}: give one of them"
        )
    return bare, written


def fetch(
    hub_id: str, revision: str | None = None, *, weights: bool = True, code: bool = False
) -> Snapshot:
    """The files of a model on the hub, in a folder of the hub's cache.

    The hub is asked which commit ``revision`` (a commit, branch or tag; the main branch unless
    given) is now. Without network, and with HF_HUB_OFFLINE, it is what it was when the cache was
    filled; a full commit that is in the cache is taken from there without asking. ``weights`` and
    ``code`` say whether those files are fetched too.

    Raises UserError where there is no such model or revision, or neither network nor copy.
    """
    from huggingface_hub import hf_hub_download

    _check_id(hub_id)
    cached = _cached(hub_id, revision, weights)
    if cached is not None and revision is not None and _COMMIT.fullmatch(revision):
        return cached
    try:
        info = repo_info("model", hub_id, revision)
    except UserError:
        if cached is None:
            raise
        return cached
    if info is None:  # offline mode
        if cached is None:
            at = "" if revision is None else f" at revision {revision}"
            raise UserError(
                f"{hub_id}{at} is not in this machine's hub cache, and HF_HUB_OFFLINE is set: "
                f"download it once (hf download {hub_id}), or give a folder"
            )
        return cached
    wanted = [_BESIDE] + [_WEIGHTS] * weights + [_CODE] * code
    names = sorted((file.rfilename for file in info.siblings or []), key=lambda name: "/" in name)
    files = [name for name in names if any(kind.fullmatch(name) for kind in wanted)]
    if not files:
        raise UserError(f"{hub_id} on the hub holds no files of a model: choose another")
    with reading(f"{hub_id} on the hub", "try again, or give a folder"):
        # The first under its own name, so that the cache knows which commit that is, offline too.
        folder = Path(hf_hub_download(hub_id, files[0], revision=revision)).parent
        for name in files[1:]:
            hf_hub_download(hub_id, name, revision=folder.name)
    return Snapshot(folder, folder.name)


def _check_id(hub_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(hub_id)
        is_id = _ID.fullmatch(hub_id) is not None
    except HFValidationError:  # longer than 96 characters, "..", "--", a dot at the end
        is_id = False
    if not is_id:
        raise UserError(
            f"there is no file or folder {quoted(hub_id)}, and a model on the hub has a name like "
            "org/model"
        )


def _cached(hub_id: str, revision: str | None, weights: bool) -> Snapshot | None:
    """What the hub's cache has of it: with ``weights`` a model, else at least a tokenizer."""
    from huggingface_hub import try_to_load_from_cache

    if weights:
        needed = [("config.json",), ("model.safetensors", "model.safetensors.index.json")]
    else:
        needed = [("tokenizer.json", "tokenizer_config.json", "vocab.json")]
    found: str | None = None
    for names in needed:
        paths = (try_to_load_from_cache(hub_id, name, revision=revision) for name in names)
        found = next((path for path in paths if isinstance(path, str)), None)
        if found is None:
            return None
    assert found is not None
    folder = Path(found).parent
    return Snapshot(folder, folder.name)
