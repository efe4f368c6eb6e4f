"""Tokenizers of every kind that changes how text comes back from tokens."""

from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lumenspark.data.tokenizer import to_transformers, train_tokenizer

TEXT = """The cat sat, didn't it? "It's late," said 'Ann' . They've 're n't — naïve café, 日本語!
"""
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> PreTrainedTokenizerFast:
    """Ours: characters lie over several tokens; NFKC."""
    return to_transformers(train_tokenizer([TEXT], 290))


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama's: ▁ for spaces and before the text, unknown characters as bytes."""
    words = ["▁", *sorted({*TEXT.replace(" ", "▁")} - {"▁", "日", "本", "é", "—"})]
    vocabulary = {token: index for index, token in enumerate([*SPECIAL.values(), *BYTES, *words])}
    merges = [("▁", "c"), ("▁c", "a"), ("▁ca", "t"), ("▁", "s"), ("▁s", "a"), ("▁sa", "t")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIAL)


def metaspace() -> PreTrainedTokenizerFast:
    """As T5's and ALBERT's: Unigram, lower-cased, ▁ by a pre-tokenizer."""
    inner = Tokenizer(models.Unigram())
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=list(SPECIAL.values()), unk_token="<unk>", show_progress=False
    )
    inner.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIAL)


def wordpiece(cleans_up: bool) -> PreTrainedTokenizerFast:
    """As BERT's: ## joins; transformers takes the spaces before punctuation out."""
    words = ["the", "cat", "sat", "do", "n", "t", "s", "re", "it", "'", ".", ",", "?", "!", "-"]
    tokens = [*SPECIAL.values(), *words, *(f"##{word}" for word in words), "n't", "##n't"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(cleanup=not cleans_up)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, clean_up_tokenization_spaces=cleans_up, **SPECIAL
    )


def words() -> PreTrainedTokenizerFast:
    """Whole words, no decoder, no special token but one for what is unknown."""
    tokens = ["[UNK]", *dict.fromkeys(TEXT.split())]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def word_ends() -> PreTrainedTokenizerFast:
    """As OpenAI's first GPT: </w> ends a word, and a space follows unless it is the last."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=120,
        special_tokens=list(SPECIAL.values()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    inner.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIAL)


ALL: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte level": byte_level,
    "sentencepiece": sentencepiece,
    "metaspace": metaspace,
    "wordpiece": lambda: wordpiece(cleans_up=False),
    "wordpiece, cleaned up": lambda: wordpiece(cleans_up=True),
    "words": words,
    "word ends": word_ends,
}
