"""Files from strangers: nothing in them runs, no claim is believed, and only anyvit's own errors come out."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.payloads import CARRIERS, Call, as_pickle, payloads
from support.tiny import timm_state, write

import anyvit
from anyvit import integrity
from anyvit.containers import open_checkpoint
from anyvit.errors import AnyvitError, FileError, UnsafeError

PIXELS = torch.zeros(1, 3, 16, 16)
NAMES = sorted(payloads(Path("/nowhere/x")) if False else [
    "os.system", "exec", "eval", "subprocess", "runpy", "import", "getattr", "open", "makedirs", "nested pickle",
    "torch bytes", "torch bytes, legacy", "rebuild parameter", "rebuild from type", "state", "items", "pairs",
    "key of a dict", "inside a tuple in a set", "numpy objects", "by hand, inst", "by hand, obj", "by hand, reduce",
    "by hand, dropped", "by hand, stack",
])  # fmt: skip
