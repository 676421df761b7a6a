"""What a run says plainly when it came out badly."""

from __future__ import annotations

from fullbore.flow.train import _not_beaten


def test_a_model_that_does_not_beat_what_is_counted_is_said_to() -> None:
    counted = {"bigram": 3.0, "trigram": 2.5}
    assert _not_beaten({"bits_per_byte": 2.4}, counted) is None
    told = _not_beaten({"bits_per_byte": 2.75}, counted)
    assert told and told.startswith("the model does not beat its baselines: 2.750 bits per byte against trigram 2.500;")
    assert "bigram 3.000, trigram 2.500" in (_not_beaten({"bits_per_byte": float("nan")}, counted) or "")
