"""The bias audit: what a step's judgements say about the judges that gave them.

Owns the figures, the findings and the controls' texts. Controls are asked by `controls.py`; a judge is audited by
itself, so that a bad one in a panel is named.

What is looked for, and what shows it:

- position bias: one place wins more than `SKEW` beyond half of the decided orders;
- inconsistency: swapping the order turns the verdict around in more pairs than `FLIPS`; a coin does in half of them;
- no ties: not one identical pair ties, or surely fewer than half do;
- length bias: a text padded with nothing beats itself. The longer text winning is no proof, better texts may be longer; it is a
  finding only where no padded pair was judged and hardly any shorter text wins;
- silence: calls that gave no verdict. Idleness: nothing but ties.

A finding needs an interval of `CONFIDENCE` on its side, so a small step is not accused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import msgspec

from sparring.rollout.judging.agreement import Rate, kappa
from sparring.rollout.judging.judge import Judgement, Preference

IDENTICAL, PADDED = "identical", "padded"
PAD = "+padded"
"""Ends the id of a padded text in a judgement."""
CONFIDENCE = 0.99
SKEW = 0.1
"""Among thousands of human and model judgements a few points towards one place are common, and both orders cancel them."""
FLIPS = 1 / 3
"""A judge that is right nine times in ten flips on 18% of pairs."""
LONGER = 0.85
FAILED = 0.1
IDLE = 0.9
FEW = 2
"""Controls below which they prove nothing."""
UNRELATED = 0.1
"""Cohen's kappa below which two judges agree hardly more than chance would."""

_FILLER = "As has been said, what has been said before has been said here again."


class JudgeAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One judge's figures. Pairs are those of which both orders gave a verdict, on one criterion."""

    judge: str
    answered: Rate
    """Verdicts among what was asked, controls included."""
    ties: Rate
    """Among verdicts on texts that differ."""
    first: Rate
    """Wins of what was read first among decided orders."""
    flips: Rate
    """Pairs that the swap turned around, among those that both orders decided."""
    longer: Rate
    """Wins of the longer text among pairs decided without a flip."""
    identical: Rate
    """Ties among identical pairs."""
    padded: Rate
    """Padded texts that beat their original in both orders, among padded pairs."""

    @property
    def findings(self) -> tuple[str, ...]:
        """Sentences that say what is wrong with the judge; none where nothing is shown to be."""
        return tuple(
            text
            for text in (self._place(), self._flipping(), self._length(), self._same(), self._silence(), self._idle())
            if text
        )

    def _place(self) -> str:
        low, high = self.first.interval(CONFIDENCE)
        skewed = abs(self.first.value - 0.5) > SKEW and not low <= 0.5 <= high
        place = "first" if self.first.value > 0.5 else "second"
        share = max(self.first.value, 1 - self.first.value)
        return f"{self.judge}: position bias: the text read {place} wins {share:.0%} of its decisions" if skewed else ""

    def _flipping(self) -> str:
        shown = self.flips.interval(CONFIDENCE)[0] > FLIPS
        return (
            f"{self.judge}: inconsistent: swapping the order turns {self.flips.value:.0%} of its verdicts around, a coin's 50%"
            if shown
            else ""
        )

    def _length(self) -> str:
        if self.padded.trials >= FEW and 2 * self.padded.hits > self.padded.trials:
            among = f"; the longer text wins {self.longer.value:.0%} of its decisions" if self.longer.trials else ""
            return (
                f"{self.judge}: length bias: {self.padded.hits:.0f} of {self.padded.trials} texts padded with repetitions beat "
                f"their original{among}"
            )
        if self.padded.trials < FEW and self.longer.interval(CONFIDENCE)[0] > LONGER:
            return (
                f"{self.judge}: length bias, unless longer texts are better: they win {self.longer.value:.0%} of its decisions; "
                f"set judging.controls to {FEW} or more to tell"
            )
        return ""

    def _same(self) -> str:
        rare = self.identical.hits == 0 or self.identical.interval(CONFIDENCE)[1] < 0.5
        failed = self.identical.trials >= FEW and rare
        return (
            f"{self.judge}: identical-pair control failed: of {self.identical.trials} texts compared with themselves, "
            f"{self.identical.hits:.0f} tied"
            if failed
            else ""
        )

    def _silence(self) -> str:
        missing = Rate(self.answered.trials - self.answered.hits, self.answered.trials)
        return (
            f"{self.judge}: no verdict on {missing.value:.0%} of what it was asked"
            if missing.interval(CONFIDENCE)[0] > FAILED
            else ""
        )

    def _idle(self) -> str:
        shown = self.ties.interval(CONFIDENCE)[0] > IDLE
        return (
            f"{self.judge}: ties {self.ties.value:.0%} of texts that differ: its criteria tell them apart too little"
            if shown
            else ""
        )


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What a step's judgements say about its judges.

    Example:
        >>> audit(judgements, lengths).findings
        ('gpt-4o-mini: position bias: the text read first wins 71% of its decisions',)
    """

    judges: tuple[JudgeAudit, ...]
    agreement: Mapping[str, float]
    """Cohen's kappa by "JUDGE & JUDGE", over the orders that both gave a verdict on."""
    shared: Mapping[str, int]
    """The number of those orders."""

    @property
    def findings(self) -> tuple[str, ...]:
        """What is wrong with the judges, in sentences."""
        own = tuple(finding for judge in self.judges for finding in judge.findings)
        apart = tuple(
            f"{pair} agree hardly more than chance would (kappa {value:.2f})"
            for pair, value in self.agreement.items()
            if value < UNRELATED and self.shared[pair] >= 100
        )
        return own + apart

    @property
    def metrics(self) -> dict[str, float]:
        """Figures for a tracker, over all judges together; `JUDGE/` begins those of one where there are several."""
        found = _figures(self.judges)
        if len(self.judges) > 1:
            found |= {f"{judge.judge}/{name}": value for judge in self.judges for name, value in _figures((judge,)).items()}
        if self.agreement:
            found["agreement"] = sum(self.agreement.values()) / len(self.agreement)
        found["findings"] = float(len(self.findings))
        return found


def audit(judgements: Iterable[Judgement], lengths: Mapping[tuple[str, str], int]) -> Audit:
    """Audits every judge. `lengths` holds each text's characters by (group, id); a pair without them counts for no length."""
    by_judge: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        by_judge.setdefault(judgement.judge, []).append(judgement)
    agreement, shared = {}, {}
    for one, other in combinations(by_judge, 2):
        answers = _shared(by_judge[one], by_judge[other])
        value = kappa([first for first, _ in answers], [second for _, second in answers])
        if value is not None:
            agreement[f"{one} & {other}"], shared[f"{one} & {other}"] = value, len(answers)
    audited = tuple(_audit_judge(name, own, lengths) for name, own in by_judge.items())
    return Audit(judges=audited, agreement=agreement, shared=shared)


def padded(text: str) -> str:
    """The text with nothing added: its first sentence again and one idle sentence, in turn, until it is twice as long."""
    again = text.partition(". ")[0].rstrip(".") + "."
    pieces = [text.rstrip()]
    while sum(map(len, pieces)) < 2 * len(text) + len(_FILLER):
        pieces += [_FILLER, again]
    return " ".join(pieces)


def _audit_judge(name: str, judgements: Sequence[Judgement], lengths: Mapping[tuple[str, str], int]) -> JudgeAudit:
    plain = [j.preference for j in judgements if not j.control and j.preference is not None]
    decided = [preference for preference in plain if preference is not Preference.TIE]
    same = [j.preference for j in judgements if j.control == IDENTICAL and j.preference is not None]
    pairs = _both_orders(j for j in judgements if not j.control)
    settled = [(there, back) for _, there, back in pairs if Preference.TIE not in (there.preference, back.preference)]
    kept = [there for there, back in settled if there.preference is not back.preference]
    controls = _both_orders(j for j in judgements if j.control == PADDED)
    return JudgeAudit(
        judge=name,
        answered=Rate(sum(j.preference is not None for j in judgements), len(judgements)),
        ties=Rate(len(plain) - len(decided), len(plain)),
        first=Rate(decided.count(Preference.FIRST), len(decided)),
        flips=Rate(len(settled) - len(kept), len(settled)),
        longer=_longer_wins(kept, lengths),
        identical=Rate(same.count(Preference.TIE), len(same)),
        padded=Rate(
            sum(_winner(there) == _winner(back) and _winner(there).endswith(PAD) for _, there, back in controls), len(controls)
        ),
    )


def _both_orders(judgements: Iterable[Judgement]) -> list[tuple[tuple[str, ...], Judgement, Judgement]]:
    """(key, one order, the other) of each pair that has a verdict in both."""
    waiting: dict[tuple[str, ...], Judgement] = {}
    found: list[tuple[tuple[str, ...], Judgement, Judgement]] = []
    for judgement in judgements:
        key = (judgement.group, judgement.criterion, judgement.first, judgement.second)
        back = (judgement.group, judgement.criterion, judgement.second, judgement.first)
        if judgement.preference is None:
            continue
        if back in waiting:
            found.append((back, waiting.pop(back), judgement))
        else:
            waiting[key] = judgement
    return found


def _winner(judgement: Judgement) -> str:
    """The id of what was preferred, "" for a tie."""
    return {Preference.FIRST: judgement.first, Preference.SECOND: judgement.second}.get(
        judgement.preference or Preference.TIE, ""
    )


def _longer_wins(kept: Sequence[Judgement], lengths: Mapping[tuple[str, str], int]) -> Rate:
    hits = trials = 0
    for judgement in kept:
        first, second = lengths.get((judgement.group, judgement.first)), lengths.get((judgement.group, judgement.second))
        if first is None or second is None or first == second:
            continue
        trials += 1
        hits += _winner(judgement) == (judgement.first if first > second else judgement.second)
    return Rate(hits, trials)


def _shared(one: Sequence[Judgement], other: Sequence[Judgement]) -> list[tuple[Preference, Preference]]:
    """The verdicts of two judges on the orders that both gave one on; controls left out."""
    said = {(j.group, j.criterion, j.first, j.second): j.preference for j in other if not j.control}
    found = ((j.preference, said.get((j.group, j.criterion, j.first, j.second))) for j in one if not j.control)
    return [(first, second) for first, second in found if first is not None and second is not None]


def _figures(judges: Sequence[JudgeAudit]) -> dict[str, float]:
    def total(name: str) -> Rate:
        rates: list[Rate] = [getattr(judge, name) for judge in judges]
        return Rate(sum(rate.hits for rate in rates), sum(rate.trials for rate in rates))

    answered = total("answered")
    found = {"judgements": float(answered.trials), "failed": 1 - answered.value if answered.trials else 0.0}
    for name, label in (("ties", "ties"), ("first", "first_wins"), ("flips", "flips"), ("longer", "longer_wins")):
        rate = total(name)
        if rate.trials:
            found[label] = rate.value
            if name in ("first", "longer"):
                found[f"{label}_low"], found[f"{label}_high"] = rate.interval()
    for name, label in (("identical", "identical_ties"), ("padded", "padded_wins")):
        if total(name).trials:
            found[label] = total(name).value
    return found
