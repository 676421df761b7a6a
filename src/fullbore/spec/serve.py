"""`[serve]`: the door and its limits."""

from __future__ import annotations

from pydantic import Field

from fullbore.spec.section import Bytes, Seconds, Section


class ServeSection(Section):
    """The door that answers, and its limits."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """0 takes any free port."""
    queue_requests: int = Field(64, gt=0)
    """Most requests that wait; the next is refused with 429."""
    queue_tokens: int = Field(65536, gt=0)
    """Most tokens that waiting requests may hold and ask for."""
    queue_bytes: Bytes = 64 * 2**20
    """Most bytes that waiting requests may hold."""
    body_bytes: Bytes = 8 * 2**20
    """A larger request body is refused with 413."""
    max_tokens: int = Field(1024, gt=0)
    """Most new tokens a request may ask for."""
    batch_size: int = Field(32, gt=0)
    """Most requests in one model call."""
    request_timeout: Seconds = 60.0
    """How long a request may take before it is given up with 504."""
    drain_timeout: Seconds = 30.0
    """How long SIGTERM waits for the requests that were let in."""
    prompt: str = "def "
    """What `fullbore run` asks the served language model, to show that it answers."""
    prompt_tokens: int = Field(48, gt=0)
    """New tokens of that answer, or fewer if the model's context is shorter."""
