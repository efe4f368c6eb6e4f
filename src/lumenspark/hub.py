"""The Hugging Face Hub: repository info, and download of models and tokenizers by revision.

A hub model is downloaded to a folder of the hub cache first, so that all checks of model folders
apply, and model and tokenizer are of the same commit.
"""

import re
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from lumenspark.errors import UserError, first_line, quoted, reading

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+|[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_BESIDE = re.compile(r"[^/]*\.(json|txt|model|jinja|tiktoken)|additional_chat_templates/[^/]*")
_CODE = re.compile(r"[^/]*\.py")


class Snapshot(NamedTuple):
    """A folder with the files of one commit."""

    folder: Path
    revision: str


def split_revision(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Split ``org/model@revision``; a name without ``@`` keeps ``revision``.

    Raises UserError if both are given and differ.
    """
    if "@" not in name or Path(name).exists():
        return name, revision
    bare, _, written = name.partition("@")
    if not written or not bare:
        raise UserError(f"{quoted(name)}: write a hub model as org/model@revision")
    if revision not in (None, written):
        raise UserError(
            f"{quoted(name)} and the revision {quoted(revision)} differ: give one of them"
        )
    return bare, written


def fetch(
    hub_id: str, revision: str | None = None, *, weights: bool = True, code: bool = False
) -> Snapshot:
    """Download the files of a hub model to the hub cache.

    ``revision`` (commit, branch or tag; default: main) is resolved by the hub; offline, as cached.
    A cached full commit needs no request. ``weights`` and ``code``: whether to download these too.

    Raises UserError for an unknown model or revision, and without network and cached copy.
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
                f"{hub_id}{at} is not in the hub cache, and HF_HUB_OFFLINE is set: "
                f"download it (hf download {hub_id}), or give a folder"
            )
        return cached
    wanted = [_BESIDE] + [_WEIGHTS] * weights + [_CODE] * code
    names = sorted((file.rfilename for file in info.siblings or []), key=lambda name: "/" in name)
    files = [name for name in names if any(kind.fullmatch(name) for kind in wanted)]
    if not files:
        raise UserError(f"{hub_id} on the hub has no model files: choose another")
    with reading(f"{hub_id} on the hub", "try again, or give a folder"):
        # The first file by revision name, so that the cache can resolve the name offline.
        folder = Path(hf_hub_download(hub_id, files[0], revision=revision)).parent
        for name in files[1:]:
            hf_hub_download(hub_id, name, revision=folder.name)
    return Snapshot(folder, folder.name)


def repo_info(
    kind: str, hub_id: str, revision: str | None = None, config: str | None = None
) -> Any | None:
    """Repository info of a ``dataset`` or ``model``; None in offline mode, for use of the cache.

    Raises:
        UserError: no network, or no such repository.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
    )

    try:
        return HfApi().repo_info(hub_id, repo_type=kind, revision=revision, timeout=20)
    except OfflineModeIsEnabled:
        return None
    except (HfHubHTTPError, HFValidationError) as error:
        raise UserError(
            f"there is no file or folder {hub_id}, and no such {kind} on the hub "
            f"({first_line(error)})"
        ) from None
    except (HTTPError, OSError):
        raise UserError(offline_message(kind, hub_id, config)) from None
    except Exception as error:
        raise UserError(
            f"the hub's info on the {kind} {quoted(hub_id)} cannot be read "
            f"({first_line(error)}): try again"
        ) from error


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids requests."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def why_not_reached(kind: str, hub_id: str, revision: str | None, seconds: float) -> str | None:
    """Why the hub does not serve ``hub_id``, in words after a comma; None if it does.

    Returns within ``seconds``, whatever the network does: a look-up of the hub's address or a
    connection may hang for minutes, so the request has a thread of its own, which is abandoned.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    answers: SimpleQueue[str | None] = SimpleQueue()

    def ask() -> None:
        try:
            HfApi().repo_info(hub_id, repo_type=kind, revision=revision, timeout=seconds)
        except HfHubHTTPError as error:
            answers.put(f"the hub does not serve it ({first_line(error)})")
        except (HTTPError, OSError):
            answers.put("the hub cannot be reached")
        except Exception as error:  # an answer that is not the hub's, such as a login page
            answers.put(f"the hub's answer cannot be read ({first_line(error)})")
        else:
            answers.put(None)

    Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except Empty:
        return f"the hub did not answer within {seconds:g} s"


def offline_message(kind: str, hub_id: str, config: str | None) -> str:
    part = f" --include '{config}/*'" if config else ""
    return (
        f"there is no file or folder {hub_id}, and the hub cannot be reached to look for a {kind} "
        f"of that name: download it on a machine with network (hf download {hub_id} "
        f"--repo-type {kind}{part} --local-dir FOLDER) and give the folder, or set "
        "HF_HUB_OFFLINE=1 to use a copy in the hub cache"
    )


def _check_id(hub_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(hub_id)
        is_id = _ID.fullmatch(hub_id) is not None
    except HFValidationError:  # longer than 96 characters, "..", "--", a dot at the end
        is_id = False
    if not is_id:
        raise UserError(f"{quoted(hub_id)} is no file or folder, nor a hub id such as org/model")


def _cached(hub_id: str, revision: str | None, weights: bool) -> Snapshot | None:
    """The cached snapshot, if it has a model (with ``weights``) or else a tokenizer."""
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
