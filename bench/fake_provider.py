"""A language model provider to rehearse with: its public names, in one place.

`sparring bench provider` runs it from the command line. What it does and how stands in `bench/provider/`.
"""

from __future__ import annotations

from sparring.bench.provider.ask import Ask as Ask
from sparring.bench.provider.ask import Reply as Reply
from sparring.bench.provider.ask import count_tokens as count_tokens
from sparring.bench.provider.ask import prompt_tokens as prompt_tokens
from sparring.bench.provider.batches import BatchPlan as BatchPlan
from sparring.bench.provider.faults import Fault as Fault
from sparring.bench.provider.faults import Faults as Faults
from sparring.bench.provider.latency import Latency as Latency
from sparring.bench.provider.latency import RehearsalError as RehearsalError
from sparring.bench.provider.ledger import Ledger as Ledger
from sparring.bench.provider.ledger import ModelCount as ModelCount
from sparring.bench.provider.ledger import Price as Price
from sparring.bench.provider.ledger import Totals as Totals
from sparring.bench.provider.limits import RateLimit as RateLimit
from sparring.bench.provider.replies import NAMED as NAMED
from sparring.bench.provider.server import FakeProvider as FakeProvider
