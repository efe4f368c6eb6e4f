"""The choice of the corpus ``auto``: WikiText-2 where it is at hand, else the embedded corpus."""

from lumenspark.data.hub_datasets import HubDataset, open_wikitext_2
from lumenspark.errors import UserError
from lumenspark.hub import is_offline, why_not_reached

PATIENCE = 3.0  # seconds until the hub must have answered; a download may take longer


def wikitext_2_at_hand() -> tuple[HubDataset | None, str]:
    """WikiText-2 and where it is from; or None and why it is not at hand, for a sentence.

    A copy in a cache needs no request. Otherwise the hub has :data:`PATIENCE` to answer, and then
    the text is downloaded. Never raises UserError.
    """
    corpus = open_wikitext_2()
    if corpus.is_cached():
        return corpus, "from the local cache"
    if is_offline():
        return None, f"{corpus.name} is not in the local cache and HF_HUB_OFFLINE is set"
    assert corpus.hub_id is not None
    problem = why_not_reached("dataset", corpus.hub_id, corpus.revision, PATIENCE)
    if problem is not None:
        return None, f"{corpus.name} is not in the local cache and {problem}"
    try:
        corpus.splits()
    except UserError as error:
        return None, f"the download of {corpus.name} failed: {error}"
    return corpus, "from the hub"
