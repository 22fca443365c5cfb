"""The slot table against a plain model of it: what every sequence of publications and requests must leave true."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sparring.engine.vllm.slots import SlotTable, Version

NAMES = st.sampled_from(["policy", "league-1", "league-2"])
NUM_SLOTS = 4


class Slots(RuleBasedStateMachine):
    """`live` is the model: every version with why it lives."""

    def __init__(self) -> None:
        super().__init__()
        self.freed: list[Version] = []
        self.table = SlotTable(NUM_SLOTS, on_free=self.freed.append)
        self.reserved: list[Version] = []
        self.served: dict[str, Version] = {}
        self.requests: list[Version] = []
        self.made: list[Version] = []

    @property
    def live(self) -> set[Version]:
        return {*self.reserved, *self.served.values(), *self.requests}

    @precondition(lambda self: self.table.num_free)
    @rule(name=NAMES)
    def reserve(self, name: str) -> None:
        taken = {version.slot for version in self.live}
        version = self.table.reserve(name, f"print-{len(self.made)}")
        assert version.slot not in taken
        assert version not in self.made
        self.made.append(version)
        self.reserved.append(version)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        version = self.reserved.pop(data.draw(st.integers(0, len(self.reserved) - 1)))
        self.table.publish(version)
        self.served[version.name] = version

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.table.cancel(self.reserved.pop(data.draw(st.integers(0, len(self.reserved) - 1))))

    @precondition(lambda self: self.served)
    @rule(data=st.data())
    def unpublish(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.served)))
        self.table.unpublish(name)
        del self.served[name]

    @precondition(lambda self: self.served)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.served)))
        version = self.table.find(name)
        assert version is self.served[name]
        self.table.begin(version)
        self.requests.append(version)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.table.end(self.requests.pop(data.draw(st.integers(0, len(self.requests) - 1))))

    @invariant()
    def every_live_version_has_a_slot_of_its_own(self) -> None:
        slots = [version.slot for version in self.live]
        assert len(set(slots)) == len(slots)
        assert set(slots) <= set(range(NUM_SLOTS))

    @invariant()
    def no_slot_is_lost(self) -> None:
        assert self.table.num_free == NUM_SLOTS - len(self.live)

    @invariant()
    def what_is_given_back_was_given_back_once_and_is_used_no_more(self) -> None:
        assert len(set(self.freed)) == len(self.freed)
        assert {*self.freed} == {*self.made} - self.live

    @invariant()
    def names_say_what_is_served(self) -> None:
        assert dict(self.table.fingerprints) == {name: version.fingerprint for name, version in self.served.items()}
        assert all(self.table.find(name) is self.served.get(name) for name in ("policy", "league-1", "league-2"))


Slots.TestCase.settings = settings(settings.get_profile("steady"), max_examples=25, stateful_step_count=30)
TestSlots = Slots.TestCase


def test_labels_are_never_used_twice() -> None:
    """The prefix cache is keyed by them: the same adapter published again is another version."""
    table = SlotTable(2)
    labels = []
    for _ in range(3):
        version = table.reserve("policy", "0a1b2c3d4e5f")
        table.publish(version)
        labels.append(version.label)
    assert labels == ["policy@1-0a1b2c3d4e5f", "policy@2-0a1b2c3d4e5f", "policy@3-0a1b2c3d4e5f"]


def test_slots_are_used_in_turn() -> None:
    """The slot that was given back last is written last: nothing is read from it by then."""
    table = SlotTable(3)
    used = []
    for number in range(6):
        version = table.reserve("policy", str(number))
        table.publish(version)
        used.append(version.slot)
    assert used == [0, 1, 2, 0, 1, 2]
