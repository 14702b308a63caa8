# Reads the stream of alerts as the desk's own programs do. Arguments: socket, stream.
import json
import sys

import redis

server = redis.Redis(unix_socket_path=sys.argv[1], decode_responses=True)
for _, fields in reversed(server.xrevrange(sys.argv[2], count=1000)):
    data = fields.get("data", "")
    if not data:
        continue
    alert = json.loads(data)
    pattern = alert.get("pattern") or alert.get("pattern_type") or "UNKNOWN"
    confidence = alert.get("confidence", 0.0)
    assert isinstance(confidence, float | int) and confidence >= 0.0, confidence
    assert alert["signal"] in ("BUY", "SELL", "NEUTRAL") and isinstance(alert["timestamp_ms"], int)
    key = alert.get("alert_id", "") or f"{alert['symbol']}_{alert['timestamp']}"
    print(json.dumps([key, alert["symbol"], pattern, confidence, alert["signal"], alert["last_price"]]))
