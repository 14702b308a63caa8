"""What holds without a host: states survive in every bit, and the text of an exception says what and where."""

import math
import struct
import unittest
from collections import deque
from dataclasses import dataclass, field

from tickhound_sdk import Detection, Detector, Tick, export, report, state


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
