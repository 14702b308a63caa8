"""`breakout` and `momentum` of plugins/, in plain Python, every parameter at its default.

What differs: the channel keeps each price (no grains), bins of ranks are found by a logarithm.
"""

import math
from collections import deque
from statistics import NormalDist

BAR_S, STALE_BARS, HALF_LIFE = 5, 5, 720
WINDOW_S, ATR_LEN, VOL_LEN = 300, 14, 120
NORMAL = NormalDist()


class Ema:
    """Seeded with the mean of its first values; `wilder` smooths by 1/length."""

    def __init__(self, length, wilder=False):
        self.length, self.count, self.value = length, 0, 0.0
        self.alpha = 1 / length if wilder else 2 / (length + 1)

    def push(self, value):
        if self.count < self.length:
            self.count += 1
            self.value += value
            if self.count == self.length:
                self.value /= self.length
        else:
            self.value += (value - self.value) * self.alpha

    def get(self):
        return self.value if self.count >= self.length else None

    def estimate(self):
        return self.value if self.count >= self.length else self.value / self.count if self.count else None


class Ranks:
    """Recent values by size, the old ones fading."""

    def __init__(self):
        self.bins, self.next, self.growth = {}, 1.0, 2 ** (1 / HALF_LIFE)

    def push(self, value):
        if value > 0:
            bin_ = math.floor(8 * math.log2(value))
            self.bins[bin_] = self.bins.get(bin_, 0.0) + self.next
            self.next *= self.growth
            if self.next > 1e18:
                self.bins = {bin_: weight / 1e18 for bin_, weight in self.bins.items()}
                self.next /= 1e18

    def rank(self, value):
        total = sum(self.bins.values())
        if total <= 0:
            return None
        if value <= 0:
            return 0.0
        bin_ = math.floor(8 * math.log2(value))
        below = sum(weight for other, weight in self.bins.items() if other < bin_)
        return (below + self.bins.get(bin_, 0.0) / 2) / total


def stouffer(ranks):
    score = variance = 0.0
    for i, (rank, weight) in enumerate(ranks):
        score += weight * NORMAL.inv_cdf(min(max(rank, 1e-4), 1 - 1e-4))
        variance += weight * weight + 2 * sum(other * weight * 0.5 for _, other in ranks[:i])
    return NORMAL.cdf(score / math.sqrt(variance))


class Arm:
    def __init__(self):
        self.fired, self.level, self.spent = None, 0.0, False

    def may_fire(self, time, cooldown=60):
        return not self.spent and (self.fired is None or time - self.fired >= cooldown)


class Breakout:
    """State of one symbol."""

    def __init__(self):
        self.high, self.low = deque(), deque()
        self.bar = self.last_bar = None  # start, high, low, close, quantity
        self.closed, self.step = 0, None
        self.atr, self.close = Ema(ATR_LEN, wilder=True), None
        self.volume, self.moves, self.volumes = Ema(VOL_LEN), Ranks(), Ranks()
        self.since = self.last_time = self.price = None
        self.up, self.down = Arm(), Arm()

    def on_tick(self, time, price, quantity):
        if not quantity and price == self.price:
            return None
        if self.last_time is None or time - self.last_time > WINDOW_S / 2:
            self.since = time
        start = time - time % BAR_S
        bar = self.bar
        if bar is not None and bar[0] >= start:
            bar[1], bar[2], bar[3] = max(bar[1], price), min(bar[2], price), price
            bar[4] += quantity
        else:
            if bar is not None:
                self.close_bar(bar)
            self.bar = [start, price, price, price, quantity]
        if self.price is not None and price != self.price:
            step = abs(price - self.price)
            self.step = step if self.step is None else min(self.step, step)
        found = self.find(time, price)
        self.last_time, self.price = time, price
        while self.high and self.high[-1][1] <= price:
            self.high.pop()
        self.high.append((time, price))
        while self.low and self.low[-1][1] >= price:
            self.low.pop()
        self.low.append((time, price))
        return found

    def close_bar(self, bar):
        if self.close is not None:
            self.atr.push(max(bar[1], self.close) - min(bar[2], self.close))
        self.close = bar[3]
        self.volume.push(bar[4])
        self.volumes.push(bar[4])
        if self.last_bar is not None:
            self.moves.push(abs(bar[3] - self.last_bar[3]))
        self.last_bar = bar
        self.closed += 1

    def find(self, time, price):
        if time - self.since < WINDOW_S / 2:
            return None
        for extreme in (self.high, self.low):
            while extreme and extreme[0][0] <= time - WINDOW_S:
                extreme.popleft()
        atr = self.atr.get()
        if not self.high or atr is None:
            return None
        span = max(atr, self.step or 0.0)
        for arm, sign in ((self.up, 1.0), (self.down, -1.0)):
            if arm.fired is not None and (sign * (price - arm.level) < -span or time - arm.fired >= WINDOW_S):
                arm.spent = False
        high, low = self.high[0][1], self.low[0][1]
        if price > high:
            sign, level, arm = 1.0, high, self.up
        elif price < low:
            sign, level, arm = -1.0, low, self.down
        else:
            return None
        excess = sign * (price - level)
        ready = self.closed >= 60 and time - self.last_time <= STALE_BARS * BAR_S
        if not ready or excess <= 0.25 * span or not arm.may_fire(time):
            return None
        move_rank = self.moves.rank(excess)
        if move_rank is None:
            return None
        ranks = [(move_rank, 1.0)]
        average = self.volume.estimate()
        if average:
            elapsed = min(max(time - self.bar[0], 1.0), BAR_S)
            fresh = self.bar[0] - self.last_bar[0] <= STALE_BARS * BAR_S
            now = max(self.bar[4] * BAR_S / elapsed, self.last_bar[4] if fresh else 0.0)
            rank = self.volumes.rank(now)
            if now / average < 1.5 or rank is None:
                return None
            ranks.append((rank, 0.7))
        arm.fired, arm.level, arm.spent = time, level, True
        return stouffer(ranks)


class Momentum:
    """State of one symbol."""

    N, LATE_BARS = 12, 5

    def __init__(self):
        self.bar = self.price = self.last = None
        self.steps = deque(maxlen=self.N)
        self.fast, self.slow, self.mean_square = Ema(12), Ema(26), 0.0
        self.sizes, self.ratios, self.closed = Ranks(), Ranks(), 0
        self.up, self.down = Arm(), Arm()

    def on_tick(self, time, price, quantity):
        if not quantity and price == self.price:
            return None
        self.price = price
        start = time - time % BAR_S
        if self.bar is not None and self.bar[0] >= start:
            self.bar[1] = price
            return None
        bar, self.bar = self.bar, [start, price]
        if bar is None:
            return None
        pause = start - bar[0]
        if pause > BAR_S * self.N:
            self.last = None
            self.steps.clear()
            self.up.spent = self.down.spent = False
            return None
        return self.close_bar(bar[1], time, pause > BAR_S * self.LATE_BARS)

    def close_bar(self, close, time, late):
        self.closed += 1
        self.fast.push(close)
        self.slow.push(close)
        log = math.log(close)
        if self.last is not None:
            self.steps.append(log - self.last)
        self.last = log
        if len(self.steps) < self.N:
            return None
        size, way = sum(self.steps), sum(map(abs, self.steps))
        ratio = min(abs(size) / way, 1.0) if way > 0 else 0.0
        found = self.judge(size, ratio, time, late)
        self.mean_square += (size * size - self.mean_square) * 2 / 241
        self.sizes.push(abs(size))
        self.ratios.push(ratio)
        return found

    def judge(self, size, ratio, time, late):
        deviation = math.sqrt(self.mean_square)
        z = size / deviation if deviation > 0 else 0.0
        self.up.spent = self.up.spent and z >= 0.5
        self.down.spent = self.down.spent and -z >= 0.5
        fast, slow = self.fast.get(), self.slow.get()
        if fast is None or slow is None:
            return None
        arm, with_trend = (self.up, fast > slow) if size > 0 else (self.down, fast < slow)
        if self.closed <= 120 or late or size == 0 or ratio < 0.4 or not with_trend or not arm.may_fire(time):
            return None
        size_rank, ratio_rank = self.sizes.rank(abs(size)), self.ratios.rank(ratio)
        if size_rank is None or ratio_rank is None or size_rank < 0.6:
            return None
        arm.fired, arm.spent = time, True
        return stouffer([(size_rank, 1.0), (ratio_rank, 0.7)])
