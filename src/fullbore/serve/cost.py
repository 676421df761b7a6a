"""What a batch costs, learned while serving: seconds = fixed + per_token * tokens."""

from __future__ import annotations

from dataclasses import dataclass

_MEMORY = 0.9


@dataclass(frozen=True)
class Cost:
    """Least squares over the batches seen, the older the lighter (each new one multiplies their weight by 0.9)."""

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def observe(self, tokens: int, seconds: float) -> Cost:
        return Cost(
            _MEMORY * self.weight + 1,
            _MEMORY * self.x + tokens,
            _MEMORY * self.y + seconds,
            _MEMORY * self.xx + tokens * tokens,
            _MEMORY * self.xy + tokens * seconds,
        )

    def predict(self, tokens: int) -> float:
        """Seconds for a batch of `tokens`; the mean so far where the batches seen were all of one size."""
        if not self.weight:
            raise ValueError("nothing observed yet")
        spread = self.weight * self.xx - self.x * self.x
        if spread <= 1e-9 * self.weight * self.xx:
            return self.y / self.weight
        slope = max(0.0, (self.weight * self.xy - self.x * self.y) / spread)
        fixed = max(0.0, (self.y - slope * self.x) / self.weight)
        return fixed + slope * tokens
