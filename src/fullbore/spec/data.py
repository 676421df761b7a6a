"""`[data]` and `[tokenizer]`: what is read, how it is cleaned, split and packed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fullbore.spec.section import Auto, Bytes, Count, Nothing, Section, Share, Text


class DataSection(Section):
    """What is read, how it is cleaned and how it is split."""

    source: str
    """A folder, a file, `python://stdlib`, or `s3://bucket/prefix`; relative to where the command runs."""
    format: Auto | Literal["text", "jsonl", "csv", "images", "idx"] = "auto"
    """What the files hold; `auto` goes by their names."""
    include: tuple[str, ...] = ()
    """Glob patterns, relative to the source; none means every file of the format."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of files that are left out."""
    text: str = "text"
    """The column or field that holds the text (JSONL, CSV)."""
    label: Text = None
    """The column or field that holds the class (classification) or the value (regression); for a CSV, also `first`
    or `last`."""
    header: bool = True
    """Whether a CSV begins with column names."""
    normalise: Literal["none", "nfc", "nfkc"] = "nfc"
    """Unicode normalisation of text (Unicode Standard Annex 15)."""
    deduplicate: bool = True
    """Drop samples whose inputs and label (or target) were seen before."""
    minimum_characters: int = Field(1, ge=0)
    """Shorter texts are dropped."""
    validation: Share = 0.05
    """Share of the samples held out for validation, chosen by the hash of their inputs."""
    test: Share = 0.0
    """Share of the samples held out for the last judgement."""
    error_budget: Share = 0.01
    """Share of the samples that may be quarantined before the job fails."""
    limit: Count | Nothing = None
    """Read at most this many samples, in the source's order."""
    shard_bytes: Bytes = 64 * 2**20
    """Size at which a new shard begins."""
    image_size: Count | Nothing = None
    """Images are resized to this many pixels a side; none keeps them as they are (they must all agree)."""
    standardise: bool = False
    """Tabular features (and a regression target) are scaled to mean 0, deviation 1 of the training split."""


class TokenizerSection(Section):
    """How text becomes tokens: learnt from the data, or brought in a folder."""

    kind: Literal["byte_bpe", "folder"] = "byte_bpe"
    """`byte_bpe` learns byte-pair merges from the training text; `folder` opens one that exists."""
    vocabulary_size: int = Field(4096, ge=260)
    """Tokens that byte_bpe learns, special ones included."""
    folder: Text = None
    """For kind = "folder": a folder with tokenizer.json."""
    training_bytes: Bytes = 32 * 10**6
    """At most so much text is read to learn the vocabulary."""
