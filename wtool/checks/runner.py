"""Rules applied to a model: which run, what they find, what the policy accepts, what fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from wtool.checks import SEVERITIES, Finding, Rule, rules
from wtool.checks.policy import Policy, Suppression, name_matches
from wtool.checks.subject import Subject, speaks_of
from wtool.errors import UsageError, WtoolError


@dataclass(frozen=True, slots=True)
class Outcome:
    """One finding as it counts: its rule, its severity, and why it is accepted, where it is."""

    rule: Rule
    finding: Finding
    severity: str
    suppressed: str | None = None

    @property
    def message(self) -> str:
        """What is wrong and what to do next."""
        return f"{self.finding.message}; {self.rule.mend}"


def choose_rules(only: Iterable[str] = (), ignore: Iterable[str] = ()) -> list[Rule]:
    """The rules with one of these codes or names, without those to be ignored.

    UsageError for a code or name that no rule has.
    """
    every = rules()
    known = {key for rule in every for key in (rule.code, rule.name)}
    only, ignore = set(only), set(ignore)
    for word in sorted(only | ignore):
        if word not in known:
            raise UsageError("no such rule", found=word, hint="wtool check --list-rules")
    return [
        rule
        for rule in every
        if (not only or {rule.code, rule.name} & only) and not {rule.code, rule.name} & ignore
    ]


def find_rule(word: str) -> Rule:
    """The rule with this code or name; UsageError where there is none."""
    return choose_rules(only=[word])[0]


def run(subject: Subject, chosen: Sequence[Rule]) -> Iterator[Outcome]:
    """What the rules find in one model, in the order of the rules.

    Raises what reading raises: a model that cannot be read is not judged.
    """
    policy = subject.policy
    subject.sums_bytes = any(rule.sums_bytes for rule in chosen)
    for rule in chosen:
        try:
            for finding in rule.find(subject):
                if not speaks_of(subject, finding.tensor):
                    continue
                severity = policy.severity.get(rule.code, finding.severity or rule.severity)
                yield Outcome(rule, finding, severity, accepted(policy, rule, finding))
        except WtoolError as error:
            raise error.locate(path=subject.checkpoint.path) from error.__cause__


def accepted(policy: Policy, rule: Rule, finding: Finding) -> str | None:
    """The reason for which the policy accepts a finding, None where it does not."""
    return next((e.reason for e in policy.suppress if _covers(e, rule, finding)), None)


def unused(policy: Policy, outcomes: Sequence[Outcome]) -> list[Suppression]:
    """Suppressions that accept none of the findings: what they were for is gone, or renamed."""
    return [
        entry
        for entry in policy.suppress
        if not any(_covers(entry, outcome.rule, outcome.finding) for outcome in outcomes)
    ]


def _covers(entry: Suppression, rule: Rule, finding: Finding) -> bool:
    of_tensor = entry.tensor is None or name_matches(entry.tensor, finding.tensor or "")
    return entry.rule == rule.code and of_tensor


def fails(outcomes: Iterable[Outcome], fail_on: str) -> bool:
    """Whether a finding that is not suppressed is at least as bad as `fail_on`."""
    limit = SEVERITIES.index(fail_on)
    return any(
        outcome.suppressed is None and SEVERITIES.index(outcome.severity) >= limit
        for outcome in outcomes
    )
