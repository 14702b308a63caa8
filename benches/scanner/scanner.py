"""The scanner that Tickhound's users come from, as they describe it, written anew and as fairly as we can.

A consumer thread reads the stream through the group and puts ticks into a queue. The main loop takes them out and hands
each to a pool of 10 workers, 200 at most on their way. A worker runs both detectors and publishes what they find.

`--mode fair` is the best that we could make of it in one process of Python: large reads, one acknowledgement a read,
no queue and no pool, alerts in the same round trip.

It ends when there is nothing more to read.
"""

import argparse
import json
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import redis

from detectors import Breakout, Momentum

MIN_CONFIDENCE = 0.6
WORKERS, BACKLOG = 10, 200


class Scanner:
    def __init__(self, args):
        self.client = redis.Redis(port=args.port, decode_responses=True)
        self.key, self.group, self.alerts = args.key, args.group, args.alerts
        self.symbols = {}

    def found(self, fields):
        """Alerts of one tick, each as its fields."""
        tick = json.loads(fields["data"]) if "data" in fields else fields
        symbol = tick["symbol"]
        state = self.symbols.get(symbol)
        if state is None:
            state = self.symbols.setdefault(symbol, [threading.Lock(), 0.0, Breakout(), Momentum()])
        time, price = float(tick["exchange_timestamp_ms"]) / 1000, float(tick["last_price"])
        volume = float(tick.get("zerodha_cumulative_volume") or tick.get("volume_traded") or 0.0)
        alerts = []
        # Workers may have ticks of one symbol in hand at once; their order is lost, their state should not be.
        with state[0]:
            quantity, state[1] = max(volume - state[1], 0.0) if state[1] else 0.0, max(volume, state[1])
            if not volume:
                quantity = 0.0
            for name, detector in (("breakout", state[2]), ("momentum", state[3])):
                confidence = detector.on_tick(time, price, quantity)
                if confidence is not None and confidence >= MIN_CONFIDENCE:
                    alerts.append({"detector": name, "symbol": symbol, "price": price, "confidence": confidence})
        return alerts

    def publish(self, to, alerts):
        for alert in alerts:
            to.xadd(self.alerts, {"data": json.dumps(alert)}, maxlen=100_000, approximate=True)

    def status_quo(self):
        ticks, free = queue.Queue(), threading.BoundedSemaphore(BACKLOG)

        def consume():
            while answer := self.client.xreadgroup(self.group, "scanner_1", {self.key: ">"}, count=50, block=2000):
                for entry in answer[0][1]:
                    ticks.put(entry)
            ticks.put(None)

        def work(entry_id, fields):
            try:
                self.publish(self.client, self.found(fields))
            finally:
                self.client.xack(self.key, self.group, entry_id)
                free.release()

        threading.Thread(target=consume, daemon=True).start()
        with ThreadPoolExecutor(max_workers=WORKERS) as pool:
            while (entry := ticks.get()) is not None:
                free.acquire()
                pool.submit(work, *entry)

    def fair(self):
        while answer := self.client.xreadgroup(self.group, "scanner_1", {self.key: ">"}, count=500, block=100):
            step = self.client.pipeline(transaction=False)
            for _, fields in answer[0][1]:
                self.publish(step, self.found(fields))
            step.xack(self.key, self.group, *(entry_id for entry_id, _ in answer[0][1]))
            step.execute()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=["status-quo", "fair"], required=True)
    parser.add_argument("--port", type=int, required=True)
    for name in ("--key", "--group", "--alerts"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    scanner = Scanner(args)
    scanner.fair() if args.mode == "fair" else scanner.status_quo()


main()
