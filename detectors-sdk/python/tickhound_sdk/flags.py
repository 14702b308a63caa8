"""The bits of the column `flags`: `int(tick.flags) & flags.QUOTE_ONLY`."""

TIME_ESTIMATED = 1
"""The producer's time was missing or absurd, and was estimated from the arrival."""

OUT_OF_ORDER = 2
"""The producer's time was before the symbol's previous tick, and was set to the time of that tick."""

VOLUME_REPAIRED = 4
"""The cumulative volume decreased without a new session, and was repaired."""

QUOTE_ONLY = 8
"""The tick is not a trade: only quotes or open interest changed. The price is the last one."""

SESSION_START = 16
"""The tick is the first one of the symbol in a new session."""

PRE_OPEN = 32
"""The tick is from the pre-open of a session, in which orders are collected."""

OFF_SESSION = 64
"""The tick is from outside of the session and its pre-open: at night, at a weekend, on a holiday."""

OUTSIDE = 96
"""PRE_OPEN and OFF_SESSION: a tick with one of them is not from a session that is open."""
