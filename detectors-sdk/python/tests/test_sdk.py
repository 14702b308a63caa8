"""What holds without a host: states survive in every bit, rows are read as they are packed, and the text of an exception says
what and where."""

import math
import struct
import unittest
from collections import deque
from dataclasses import dataclass, field

from tickhound_sdk import (
    Bar,
    ByMember,
    Clock,
    Detection,
    Detector,
    Reject,
    Snapshot,
    Tick,
    by_member,
    export,
    highest,
    integer,
    report,
    state,
)
from tickhound_sdk.instance import Instance, Rejection, parse_feed
from tickhound_sdk.packed import CLOCK, LAST_OF_SNAPSHOT


@dataclass
class State:
    price: float | None = None
    window: deque = field(default_factory=lambda: deque(maxlen=3))
    levels: dict = field(default_factory=dict)


class States(unittest.TestCase):
    def test_what_is_restored_equals_what_was_saved_and_gives_the_same_bytes(self) -> None:
        levels = {"b": 0.1 + 0.2, "a": -0.0, (1, "x"): [None, True, 2**80], "~tuple": ("\ud800é\u2028", 5e-324), 7: {}}
        levels["inf"] = [math.inf, -math.inf, 1.7976931348623157e308]
        before = State(None, deque([1.0, 2.5], maxlen=3), levels)
        data = state.dump(before)
        after = state.load(State, data)
        self.assertEqual(after, before)
        self.assertEqual((after.window.maxlen, list(after.levels)), (3, list(levels)))
        self.assertEqual(struct.pack("d", after.levels["a"]), struct.pack("d", -0.0))
        self.assertEqual(state.dump(after), data)
        self.assertTrue(math.isnan(state.load(dict, state.dump({"x": math.nan}))["x"]))

    def test_what_cant_be_saved_is_named(self) -> None:
        for value, said in [
            ({"a": [0, {1}]}, "state['a'][1] is a set, whose order differs after a restart"),
            ({"a": object()}, "state['a'] is a object, which can't be saved"),
            (State(levels={"x": State()}), "state.levels['x'] is a State, which can't be saved"),
        ]:
            with self.assertRaisesRegex(TypeError, "") as raised:
                state.dump(value)
            self.assertIn(said, str(raised.exception))

    def test_a_state_that_contains_itself_is_rejected_and_shared_parts_become_copies(self) -> None:
        window: list = [1.0]
        cycle = {"a": [window]}
        cycle["a"].append(cycle)
        for value in (cycle, State(levels={"x": cycle})):
            with self.assertRaises(TypeError) as raised:
                state.dump(value)
            self.assertIn("the state contains itself", str(raised.exception))
        restored = state.load(dict, state.dump({"a": window, "b": window}))
        self.assertEqual(restored, {"a": [1.0], "b": [1.0]})
        self.assertIsNot(restored["a"], restored["b"])

    def test_a_state_with_other_fields_is_not_read(self) -> None:
        for data in (b'{"price":1.0}', b"[1]", b"{", b'{"price":1.0,"levels":{},"window":{}}'):
            with self.assertRaises(ValueError):
                state.load(State, data)


@dataclass
class Leg:
    price: float = 0.0
    window: deque = field(default_factory=lambda: deque(maxlen=2))


@dataclass
class Legs:
    seen: int = 0
    legs: ByMember[Leg] = by_member(Leg)


class Members(unittest.TestCase):
    def test_members_have_the_order_of_their_names_before_and_after_a_restart(self) -> None:
        before = Legs()
        for name in ["\U0001d11e", "SBIN", "\uff5e", "HDFC", "~dict"]:
            before.legs[name].price = float(len(name))
        before.legs["HDFC"].window.extend([1.0, 2.0, 3.0])
        self.assertEqual(list(before.legs), ["HDFC", "SBIN", "~dict", "\uff5e", "\U0001d11e"])
        data = state.dump(before)
        after = state.load(Legs, data)
        self.assertEqual((list(after.legs.items()), state.dump(after)), (list(before.legs.items()), data))
        self.assertIs(type(after.legs["new"]), Leg)
        alone = state.load(lambda: ByMember(float), state.dump(ByMember(float)))
        alone["A"] += 1.0
        self.assertEqual(list(alone.items()), [("A", 1.0)])

    def test_only_a_subscript_adds_a_member(self) -> None:
        members: ByMember[float] = ByMember(float)
        self.assertEqual((members.get("A"), "A" in members, members.pop("A", None), len(members)), (None, False, None, 0))
        self.assertRaises(KeyError, members.pop, "A")
        self.assertRaises(KeyError, lambda: ByMember()["A"])
        self.assertEqual((members["B"], members.setdefault("A", 2.0), list(members)), (0.0, 2.0, ["A", "B"]))
        del members["A"]
        self.assertEqual(dict(members), {"B": 0.0})
        with self.assertRaisesRegex(TypeError, "named by its symbol, not by 7"):
            members[7] = 1.0  # type: ignore[index]

    def test_members_that_could_not_be_restored_are_not_saved(self) -> None:
        for value, said in [
            ({"a": ByMember(Leg)}, "is a ByMember, which is saved as a field of the state's dataclass"),
            (Legs(legs=filled(ByMember(Leg), 1.0)), "state.legs['A'] is a float, and a new member is a Leg"),
            (Legs(legs=filled(ByMember(), Leg())), "state.legs['A'] is a Leg, which can't be saved"),
        ]:
            with self.assertRaises(TypeError) as raised:
                state.dump(value)
            self.assertIn(said, str(raised.exception))
        for data in (b'{"seen":0,"legs":{"A":1.0}}', b'{"seen":{"~members":{}},"legs":{"~members":{}}}'):
            with self.assertRaisesRegex(ValueError, "increase state_version"):
                state.load(Legs, data)
        with self.assertRaisesRegex(ValueError, "increase state_version"):
            state.load(Legs, b'{"seen":0,"legs":{"~members":{"A":{"price":1.0}}}}')


def filled(members: ByMember, value: object) -> ByMember:
    members["A"] = value
    return members


class Pair(Detector[Legs]):
    """Tells of each row."""

    name = "pair"
    State = Legs
    scope = "group"
    feeds = ("ticks", "bars:bar_s", "snapshots:5")
    required_columns = ("high",)
    optional_columns = ("bid",)
    computed = {"top": highest("price", "ticks", 3)}
    required_texts = ("option_type",)
    bar_s: int = integer(60)

    def configure(self) -> None:
        if self.bar_s == 13:
            raise Reject("13 is unlucky")

    def on_tick(self, state: Legs, tick: Tick) -> Detection | None:
        state.seen += 1
        state.legs[tick.symbol].price = tick.price
        if not tick.gates.above("top", tick.price, tick.top):
            return None
        found = Detection.up(0.5, time=tick.time, bid=tick.bid, seen=state.seen).about(tick.symbol)
        return found.members(state.legs).add("is_put", tick.text("option_type") == "PE")

    def on_bar(self, state: Legs, bar: Bar) -> Detection:
        return Detection.down(1.0, close=bar.close, high=bar.high, length=bar.length_s, group=len(bar.group))

    def on_snapshot(self, state: Legs, row: Snapshot) -> Detection | None:
        return Detection.neutral(0.0, length=row.length_s) if row.is_last else None

    def on_clock(self, state: Legs, clock: Clock) -> Detection | None:
        gates = [clock.gates.at_least("seen", state.seen, 1), clock.gates.holds("x", 1.0, 2.0, False)]
        return Detection.neutral(0.25).members(state.legs) if gates == [True, False] else None


class Count(Detector[dict]):
    name = "count"

    def on_tick(self, state: dict, tick: Tick) -> Detection:
        state["seen"] = state.get("seen", 0) + 1
        return Detection.up(0.5, seen=state["seen"], group=len(tick.group))


NAN = math.nan
OPEN = 1_763_955_900_000_000_000


def pack_rows(rows: list[tuple], columns: int, has_groups: bool, has_feeds: bool) -> bytes:
    """Rows of (symbol, group, feed, time, price, *columns), packed as a host does it."""
    symbols, groups, feeds, times, prices, *values = zip(*rows)
    packed = struct.pack(f"<{len(rows)}Q", *times)
    for column in [prices, *values[:columns]]:
        packed += struct.pack(f"<{len(rows)}d", *column)
    packed += struct.pack(f"<{len(rows)}I", *symbols)
    packed += struct.pack(f"<{len(rows)}I", *groups) if has_groups else b""
    return packed + (bytes(feeds) if has_feeds else b"")


def unpack(packed: bytes) -> list[tuple]:
    """Detections of (row, owner, about, confidence, direction, members, evidence)."""
    found = []
    while packed:
        *head, count = struct.unpack_from("<IIIdBH", packed)
        packed = packed[23:]
        members = struct.unpack_from(f"<{count}I", packed)
        numbers, packed, evidence = packed[4 * count], packed[4 * count + 1 :], {}
        for _ in range(numbers):
            end = packed[0] + 1
            evidence[packed[1:end].decode()] = struct.unpack_from("<d", packed, end)[0]
            packed = packed[end + 8 :]
        found.append((*head, members, evidence))
    return found


class Instances(unittest.TestCase):
    def pair(self, bar_s: int = 60) -> Instance:
        instance = Instance(Pair)
        instance.configure([("bar_s", bar_s)])
        instance.introduce([(7, "SBIN", ["PE"]), (2, "HDFC", [None])], [(5, "banks"), (9, "all")])
        return instance

    ROWS = [
        (7, 5, 0, OPEN + 1, 10.0, NAN, 9.5, 9.0),
        (2, 5, 0, OPEN + 2, 20.0, NAN, NAN, NAN),
        (2, 5, 1, OPEN + 3, 20.5, 21.0, NAN, NAN),
        (7, 5, 2, OPEN + 4, 10.0, NAN, NAN, NAN),
        (2, 5, 2 | LAST_OF_SNAPSHOT, OPEN + 4, 20.5, NAN, NAN, NAN),
        (CLOCK, CLOCK, 0, OPEN + 1_000_000_000, NAN, NAN, NAN, NAN),
        (7, 9, 0, OPEN + 1_000_000_001, 11.0, NAN, NAN, 10.0),
    ]

    def test_rows_of_all_feeds_reach_the_state_of_their_group(self) -> None:
        rows = pack_rows(self.ROWS, 3, True, True)
        expected = [
            (0, 5, 7, 0.5, 0, (7,), {"time": float(OPEN + 1), "bid": 9.5, "seen": 1.0, "is_put": 1.0}),
            (2, 5, 5, 1.0, 1, (), {"close": 20.5, "high": 21.0, "length": 60.0, "group": 5.0}),
            (4, 5, 5, 0.0, 2, (), {"length": 5.0}),
            # In the order of names: HDFC, SBIN.
            (5, 5, 5, 0.25, 2, (2, 7), {}),
            (6, 9, 7, 0.5, 0, (7,), {"time": float(OPEN + 1_000_000_001), "seen": 1.0, "is_put": 1.0}),
        ]
        self.assertEqual(unpack(self.pair().detect(7, rows)), expected)
        # One by one, with a restart before each, and with other ids for the same names.
        found, saved = [], []
        for row in self.ROWS:
            instance = self.pair()
            instance.restore(1, saved)
            found += unpack(instance.detect(1, pack_rows([row], 3, True, True)))
            saved = instance.save([2, 5, 7, 9])
        self.assertEqual([one[1:] for one in found], [one[1:] for one in expected])
        self.assertEqual([owner for owner, _ in saved], [5, 9])
        other = Instance(Pair)
        other.configure([("bar_s", 60)])
        other.introduce([(1, "SBIN", [None])], [(3, "banks")])
        other.restore(1, [(3, dict(saved)[5])])
        clock = pack_rows([(CLOCK, CLOCK, 0, OPEN + 2_000_000_000, NAN, NAN, NAN, NAN)], 3, True, True)
        with self.assertRaisesRegex(ValueError, "names the symbol 'HDFC', which the host has not introduced"):
            other.detect(1, clock)

    def test_a_probe_returns_the_gates_of_each_row_and_changes_the_states_alike(self) -> None:
        rows = pack_rows(self.ROWS, 3, True, True)
        probed, detected = self.pair(), self.pair()
        judgments = probed.probe(7, rows)
        detected.detect(7, rows)
        self.assertEqual(judgments[0], (0, 5, [("top", 10.0, 9.0, True)]))
        self.assertEqual(judgments[2], (5, 5, [("seen", 2.0, 1.0, True), ("x", 1.0, 2.0, False)]))
        self.assertEqual([(row, owner) for row, owner, _ in judgments], [(0, 5), (1, 5), (5, 5), (6, 9)])
        self.assertEqual(probed.save([5, 9]), detected.save([5, 9]))

    def test_a_symbol_owns_its_state_and_the_only_feed_is_not_packed(self) -> None:
        instance = Instance(Count)
        instance.configure([])
        instance.introduce([(1, "A", []), (4, "B", [])], [])
        rows = [(4, 0, 0, OPEN, 1.0), (CLOCK, 0, 0, OPEN, NAN), (1, 0, 0, OPEN, 2.0), (4, 0, 0, OPEN, 3.0)]
        found = unpack(instance.detect(4, pack_rows(rows, 0, False, False)))
        self.assertEqual([(row, owner, about) for row, owner, about, *_ in found], [(0, 4, 4), (2, 1, 1), (3, 4, 4)])
        self.assertEqual([one[-1] for one in found], [{"seen": seen, "group": 0.0} for seen in (1.0, 1.0, 2.0)])
        self.assertEqual(instance.detect(0, b""), b"")
        self.assertEqual(instance.save([1, 2, 4]), [(1, b'{"seen":1}'), (4, b'{"seen":2}')])
        self.assertRaises(RuntimeError, instance.detect, 1, b"\0" * 19)
        self.assertRaises(RuntimeError, instance.detect, 1, pack_rows([(3, 0, 0, OPEN, 1.0)], 0, False, False))

    def test_what_is_wrong_with_a_configuration_or_a_state_is_an_answer(self) -> None:
        for call, said in [
            (lambda: self.pair(13), "13 is unlucky"),
            (lambda: Instance(Pair).configure([]), "a length is of parameter `bar_s`, but no integer parameter"),
            (lambda: self.pair().restore(2, []), "saved under state version 2, this detector reads 1"),
            (lambda: self.pair().restore(1, [(8, b"{}")]), "symbol or group 8 was not introduced"),
            (lambda: self.pair().restore(1, [(5, b"{}")]), "the state of banks can't be read: it was saved with"),
        ]:
            with self.assertRaises(Rejection) as raised:
                call()
            self.assertIn(said, str(raised.exception))

    def test_a_feed_is_read_as_it_is_written(self) -> None:
        feeds = {"ticks": ("ticks", None), "bars:60": ("bars", 60), "snapshots:step_s": ("snapshots", "step_s")}
        self.assertEqual({text: parse_feed(text) for text in feeds}, feeds)
        for wrong in ("", "tick", "bars", "bars:", "ticks:1"):
            self.assertRaises(ValueError, parse_feed, wrong)

    def test_what_does_not_fit_into_a_detection_is_named(self) -> None:
        instance = Instance(Count)
        instance.configure([])
        instance.introduce([(1, "A", [])], [])
        row = pack_rows([(1, 0, 0, OPEN, 1.0)], 0, False, False)
        for found, said in [
            (Detection.up(0.5, **{"x" * 256: 1.0}), "at most 255 bytes in a name of evidence, not 256"),
            (Detection.up(0.5, **{f"x{n}": 1.0 for n in range(256)}), "at most 255 numbers of evidence, not 256"),
            (Detection.up(0.5).about("A"), "only a detection of a group is about a member"),
        ]:
            instance.detector.on_tick = lambda state, tick, found=found: found  # type: ignore[union-attr]
            with self.assertRaises(ValueError) as raised:
                instance.detect(1, row)
            self.assertIn(said, str(raised.exception))


class Reports(unittest.TestCase):
    def text(self) -> str:
        length = int.from_bytes(report._report[16:20], "little")
        return report._report[20 : 20 + length].decode()

    def test_an_exception_is_left_with_its_place_its_callers_and_its_cause(self) -> None:
        def inner() -> None:
            try:
                raise KeyError("k")
            except KeyError as error:
                raise ValueError("no price") from error

        try:
            inner()
        except ValueError as error:
            report.leave(error, "/none/")
        self.assertEqual(report._report[:16], b"TICKHOUND" + b"-PANIC\0")
        self.assertRegex(self.text(), r"test_sdk\.py:\d+ in .*inner: ValueError: no price; called from .*test_sdk\.py:\d+")
        self.assertRegex(self.text(), r"; after KeyError: 'k' \(.*test_sdk\.py:\d+ in .*inner\)$")

    def test_a_text_is_cut_between_characters_and_a_hostile_one_does_no_harm(self) -> None:
        report.leave(ValueError("é" * 2000), "/none/")
        self.assertEqual(self.text(), ("ValueError: " + "é" * 2000)[: 12 + (1024 - 12) // 2])

        class Hostile(Exception):
            def __str__(self) -> str:
                raise SystemExit

        report.leave(Hostile(), "/none/")
        self.assertEqual(self.text(), "Hostile: its message can't be shown")


class Authors(unittest.TestCase):
    def test_a_detection_is_checked_where_it_is_made(self) -> None:
        self.assertEqual(Detection.up(0.5, a=1, b=math.nan).add("c d", 2).evidence, [("a", 1.0), ("c d", 2.0)])
        for make in (lambda: Detection.up(1.1), lambda: Detection.up(math.nan), lambda: Detection("left", 0.5)):
            self.assertRaises(ValueError, make)

    def test_a_column_that_was_not_asked_for_is_named(self) -> None:
        tick = Tick("A", 1_500_000_000, 2.0, {"bid": 0}, (1.5,))
        self.assertEqual((tick.bid, tick["bid"], tick.seconds), (1.5, 1.5, 1.5))
        with self.assertRaisesRegex(AttributeError, "add it to required_columns"):
            tick.ask
        with self.assertRaisesRegex(KeyError, "does not ask for the column `ask`"):
            tick["ask"]

    def test_outside_of_a_build_a_class_is_exported_as_it_is(self) -> None:
        self.assertIs(export(Detector), Detector)


if __name__ == "__main__":
    unittest.main()
