"""Datasets of the hub in the caches of this machine, by commit, without a request.

``datasets`` itself asks the hub first, and then takes whatever commit it has.
"""

import re
from pathlib import Path
from typing import Any

from lumenspark.data.split_names import SPLITS

_PART = re.compile(r"(\w+)-\d{5}-of-(\d{5})\.parquet")


def cached_dataset(hub_id: str, revision: str, config: str | None) -> dict[str, Any] | None:
    """Rows by split: from the cache of ``datasets``, else from files in the hub cache, else None.

    ``revision``: a full commit id. A damaged copy counts as none.
    """
    try:
        rows = _prepared(hub_id, revision, config) or _downloaded(hub_id, revision, config)
    except Exception:  # whatever a damaged cache makes `datasets` raise
        return None
    return rows and {str(name): split for name, split in rows.items()}


def _prepared(hub_id: str, revision: str, config: str | None) -> Any | None:
    """What ``datasets`` has made of a download: Arrow files."""
    from datasets import config as settings
    from datasets.naming import camelcase_to_snakecase
    from datasets.packaged_modules.cache.cache import Cache

    owner, _, name = hub_id.rpartition("/")
    root = Path(settings.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}"
    found = [path.parent for path in root.glob(f"{config or '*'}/*/{revision}/dataset_info.json")]
    if len(found) != 1:  # without a config several may match
        return None
    config_name, version, _ = found[0].parts[-3:]
    builder = Cache(
        repo_id=hub_id, dataset_name=name, config_name=config_name, version=version, hash=revision
    )
    return builder.as_dataset()


def _downloaded(hub_id: str, revision: str, config: str | None) -> Any | None:
    """The Parquet files of a configuration, where all parts of all three splits are there."""
    from datasets import load_dataset
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if config is None:
        return None
    try:
        folder = snapshot_download(
            hub_id, repo_type="dataset", revision=revision, local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    files: dict[str, list[str]] = {}
    for path in sorted((Path(folder) / config).glob("*.parquet")):
        part = _PART.fullmatch(path.name)
        if part and part[1] in SPLITS:
            files.setdefault(part[1], []).append(str(path))
    if set(files) != set(SPLITS):
        return None
    if any(not paths[0].endswith(f"-of-{len(paths):05}.parquet") for paths in files.values()):
        return None
    return load_dataset("parquet", data_files=files)
