"""`check`: what a job would do here: duration, rate, memory and the limiting part, before anything runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from typing import Any

from fullbore.base.errors import DoesNotFit
from fullbore.base.paths import machine_cache
from fullbore.base.units import format_bytes
from fullbore.flow.stages import wanted
from fullbore.perf.measure import probe
from fullbore.spec.load import LoadedJob
