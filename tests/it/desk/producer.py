# Writes ticks as the crawler and its storage write them, with redis-py: JSON in `data` with all fields of the crawler, flat
# texts, and the batch's fields. Arguments: socket, shapes (0 to 2, one digit for each tick in turn), number of ticks.
import json
import sys

import redis

socket, shapes, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
server = redis.Redis(unix_socket_path=socket)
THEN = 1763959530000
SYMBOLS = [("NSE:RELIANCE", 738561), ("NFO:NIFTY25NOV25750PE", 12602626), ("ICICIBANK25NOVFUT", 13460738)]


def crawler_tick(n):
    symbol, token = SYMBOLS[n % 3]
    price, at = 100 + n * 7 % 40 * 0.05, THEN + n * 250
    quotes = [{"price": round(price - 0.05, 2), "quantity": 300, "orders": 2}] * 5
    return {
        "symbol": symbol, "instrument_token": token, "last_price": round(price, 2), "last_traded_quantity": 25,
        "average_traded_price": 100.5, "zerodha_cumulative_volume": 0, "bucket_cumulative_volume": 1000 + 25 * n,
        "bucket_incremental_volume": 25, "zerodha_last_traded_quantity": 25, "volume_ratio": 1.7,
        "open_price": 99.5, "high_price": 102, "low_price": 99, "close_price": 100,
        "exchange_timestamp": "2025-11-24T10:15:30", "exchange_timestamp_ms": at, "last_traded_timestamp": 0,
        "timestamp_ns": "", "timestamp_ns_ms": 0, "timestamp": "2025-11-24T10:15:30", "timestamp_ms": at,
        "last_trade_time": "", "last_trade_time_ms": 0, "processed_timestamp": at / 1000 + 0.125, "mode": "full",
        "best_ask_price": 0, "sequence": n, "is_tradable": True,
        "open_interest": 500000, "oi_day_high": 0, "oi_day_low": 0, "change": float("nan"), "net_change": -1.5,
        "strike_price": 25750, "option_type": "PE", "expiry_date": None, "delta": -0.4, "iv": 0.14,
        "depth": {"buy": quotes, "sell": []}, "ohlc": {"open": 99.5, "high": 102},
        "total_buy_quantity": 10500,
    }


def fields_of(tick, shape):
    if shape == "0":
        tick = {key: "" if value is None else value for key, value in tick.items()}
        return {"data": json.dumps(tick, default=str)}
    if shape == "1":
        # `str` of a dict is not JSON: single quotes, None, True.
        return {str(key): str(value) for key, value in tick.items() if value is not None}
    data = json.dumps(tick, default=str)
    return {"data": data, "timestamp": str(tick["timestamp_ms"] + 60000), "symbol": tick["symbol"]}


batch = server.pipeline(transaction=False)
for n in range(count):
    batch.xadd("ticks:intraday:processed", fields_of(crawler_tick(n), shapes[n % len(shapes)]), id=f"{THEN + n * 250}-0")
# What it writes for an instrument that it does not know.
for n, shape in enumerate("012"):
    tick = dict(crawler_tick(n), symbol=["UNKNOWN", "UNKNOWN_738561", "TOKEN_738561"][n])
    batch.xadd("ticks:intraday:processed", fields_of(tick, shape), id=f"{THEN + count * 250}-{n + 1}")
batch.execute()
