//! What vendors call things. Data only; order within a list is preference.

/// A vendor's names.
#[derive(Debug)]
pub(super) struct Preset {
    name: &'static str,
    aliases: &'static [(&'static str, &'static [&'static str])],
    /// Published prices times this are prices in quote currency.
    pub(super) price_scale: f64,
    /// Paths whose value, if among these, marks a message that is no tick; an empty list means any value.
    pub(super) skips: &'static [(&'static str, &'static [&'static str])],
    /// Path of an object of which each member is a tick, its key the symbol.
    pub(super) each: Option<&'static str>,
    /// For vendors that send one value an event: the path of the event's code, and per code what its
    /// price and its quantity are of. Events of other codes are no ticks.
    pub(super) kinds: Option<(&'static str, &'static [Kind])>,
}

/// Code of an event, target of its price, target of its quantity; `""`: that value says nothing.
type Kind = (i64, &'static str, &'static str);

impl Preset {
    /// Where to look for a target, best first.
    pub(super) fn aliases(&self, target: &str) -> &'static [&'static str] {
        self.aliases.iter().find(|(name, _)| *name == target).map_or(&[], |(_, aliases)| aliases)
    }
}

pub(super) fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name)
}

static PRESETS: [Preset; 10] = [
    // Zerodha Kite as its client library gives it, and as scanners republish it.
    Preset {
        name: "kite",
        aliases: &[
            ("symbol", &["symbol", "tradingsymbol", "trading_symbol", "instrument_token"]),
            (
                "time",
                &[
                    "exchange_timestamp_ms",
                    "exchange_timestamp",
                    "timestamp_ns",
                    "timestamp_ms",
                    "timestamp",
                    "last_trade_time_ms",
                    "last_trade_time",
                    "time",
                ],
            ),
            ("price", &["last_price", "ltp", "last_traded_price", "price"]),
            ("quantity", &["bucket_incremental_volume", "last_traded_quantity", "last_quantity", "quantity", "qty"]),
            ("cum_volume", &["zerodha_cumulative_volume", "volume_traded", "cum_volume"]),
            ("volume", &["volume"]),
            ("bid", &["best_bid_price", "depth.buy[0].price", "bid"]),
            ("ask", &["best_ask_price", "depth.sell[0].price", "ask"]),
            ("bid_quantity", &["best_bid_quantity", "depth.buy[0].quantity", "bid_quantity"]),
            ("ask_quantity", &["best_ask_quantity", "depth.sell[0].quantity", "ask_quantity"]),
            ("oi", &["open_interest", "oi"]),
        ],
        price_scale: 1.0,
        skips: &[],
        each: None,
        kinds: None,
    },
    // Upstox market data v3, decoded to JSON: one message holds many instruments.
    Preset {
        name: "upstox",
        aliases: &[
            ("symbol", &["instrument_key", "symbol"]),
            (
                "time",
                &[
                    "ltpc.ltt",
                    "fullFeed.marketFF.ltpc.ltt",
                    "fullFeed.indexFF.ltpc.ltt",
                    "firstLevelWithGreeks.ltpc.ltt",
                    "ltt",
                    "currentTs",
                ],
            ),
            (
                "price",
                &[
                    "ltpc.ltp",
                    "fullFeed.marketFF.ltpc.ltp",
                    "fullFeed.indexFF.ltpc.ltp",
                    "firstLevelWithGreeks.ltpc.ltp",
                    "ltp",
                ],
            ),
            ("quantity", &["ltpc.ltq", "fullFeed.marketFF.ltpc.ltq", "firstLevelWithGreeks.ltpc.ltq", "ltq"]),
            ("cum_volume", &["fullFeed.marketFF.vtt", "firstLevelWithGreeks.vtt", "vtt"]),
            (
                "bid",
                &["fullFeed.marketFF.marketLevel.bidAskQuote[0].bidP", "firstLevelWithGreeks.firstDepth.bidP", "bidP"],
            ),
            (
                "ask",
                &["fullFeed.marketFF.marketLevel.bidAskQuote[0].askP", "firstLevelWithGreeks.firstDepth.askP", "askP"],
            ),
            (
                "bid_quantity",
                &["fullFeed.marketFF.marketLevel.bidAskQuote[0].bidQ", "firstLevelWithGreeks.firstDepth.bidQ", "bidQ"],
            ),
            (
                "ask_quantity",
                &["fullFeed.marketFF.marketLevel.bidAskQuote[0].askQ", "firstLevelWithGreeks.firstDepth.askQ", "askQ"],
            ),
            ("oi", &["fullFeed.marketFF.oi", "firstLevelWithGreeks.oi", "oi"]),
        ],
        price_scale: 1.0,
        skips: &[("type", &["market_info"])],
        each: Some("feeds"),
        kinds: None,
    },
    // Angel One SmartAPI: prices in paise.
    Preset {
        name: "angel",
        aliases: &[
            ("symbol", &["symbol", "tradingsymbol", "token"]),
            ("time", &["exchange_timestamp", "last_traded_timestamp"]),
            ("price", &["last_traded_price"]),
            ("quantity", &["last_traded_quantity"]),
            ("cum_volume", &["volume_trade_for_the_day"]),
            ("bid", &["best_5_buy_data[0].price"]),
            ("ask", &["best_5_sell_data[0].price"]),
            ("bid_quantity", &["best_5_buy_data[0].quantity"]),
            ("ask_quantity", &["best_5_sell_data[0].quantity"]),
            ("oi", &["open_interest"]),
        ],
        price_scale: 0.01,
        skips: &[],
        each: None,
        kinds: None,
    },
    Preset {
        name: "dhan",
        aliases: &[
            ("symbol", &["symbol", "security_id"]),
            ("time", &["LTT"]),
            ("price", &["LTP"]),
            ("quantity", &["LTQ"]),
            ("cum_volume", &["volume"]),
            ("bid", &["depth[0].bid_price"]),
            ("ask", &["depth[0].ask_price"]),
            ("bid_quantity", &["depth[0].bid_quantity"]),
            ("ask_quantity", &["depth[0].ask_quantity"]),
            ("oi", &["OI", "oi"]),
        ],
        price_scale: 1.0,
        skips: &[("type", &["Previous Close", "Market Status"])],
        each: None,
        kinds: None,
    },
    // Trades and quotes are messages of their own, many in one array.
    Preset {
        name: "alpaca",
        aliases: &[
            ("symbol", &["S"]),
            ("time", &["t"]),
            ("price", &["p"]),
            ("quantity", &["s"]),
            ("bid", &["bp"]),
            ("ask", &["ap"]),
            ("bid_quantity", &["bs"]),
            ("ask_quantity", &["as"]),
        ],
        price_scale: 1.0,
        skips: &[("T", &["success", "subscription", "error", "b", "d", "u", "s", "l", "x", "c", "i", "n"])],
        each: None,
        kinds: None,
    },
    Preset {
        name: "polygon",
        aliases: &[
            ("symbol", &["sym"]),
            ("time", &["t"]),
            ("price", &["p"]),
            ("quantity", &["s"]),
            ("bid", &["bp"]),
            ("ask", &["ap"]),
            ("bid_quantity", &["bs"]),
            ("ask_quantity", &["as"]),
        ],
        price_scale: 1.0,
        skips: &[("ev", &["status", "A", "AM", "LULD", "NOI", "FMV"])],
        each: None,
        kinds: None,
    },
    // Bare messages, and those of combined streams, which lie in `data`. Spot quotes carry no time.
    Preset {
        name: "binance",
        aliases: &[
            ("symbol", &["s", "data.s"]),
            ("time", &["T", "data.T", "E", "data.E"]),
            ("price", &["p", "data.p"]),
            ("quantity", &["q", "data.q"]),
            ("bid", &["b", "data.b"]),
            ("ask", &["a", "data.a"]),
            ("bid_quantity", &["B", "data.B"]),
            ("ask_quantity", &["A", "data.A"]),
        ],
        price_scale: 1.0,
        skips: &[
            ("e", &["depthUpdate", "kline", "24hrTicker", "24hrMiniTicker", "markPriceUpdate", "forceOrder"]),
            ("data.e", &["depthUpdate", "kline", "24hrTicker", "24hrMiniTicker", "markPriceUpdate", "forceOrder"]),
            ("lastUpdateId", &[]),
            ("data.lastUpdateId", &[]),
            ("result", &[]),
        ],
        each: None,
        kinds: None,
    },
    // Interactive Brokers: an event is one value, its tick type tells of what. Codes from 66 on are delayed data.
    Preset {
        name: "ib",
        aliases: &[
            (
                "symbol",
                &["symbol", "localSymbol", "contract.localSymbol", "contract.symbol", "conId", "contract.conId"],
            ),
            ("time", &["time", "timestamp"]),
            ("price", &["price"]),
            ("quantity", &["size"]),
        ],
        price_scale: 1.0,
        skips: &[],
        each: None,
        kinds: Some((
            "tickType",
            &[
                (0, "bid", "bid_quantity"),
                (1, "bid", "bid_quantity"),
                (2, "ask", "ask_quantity"),
                (3, "ask", "ask_quantity"),
                (4, "price", "quantity"),
                (5, "price", "quantity"),
                (8, "", "cum_volume"),
                (66, "bid", "bid_quantity"),
                (67, "ask", "ask_quantity"),
                (68, "price", "quantity"),
                (69, "bid", "bid_quantity"),
                (70, "ask", "ask_quantity"),
                (71, "price", "quantity"),
                (74, "", "cum_volume"),
            ],
        )),
    },
    // The Redis back end of cryptofeed.
    Preset {
        name: "cryptofeed",
        aliases: &[
            ("symbol", &["symbol"]),
            ("time", &["timestamp", "receipt_timestamp"]),
            ("price", &["price"]),
            ("quantity", &["amount"]),
            ("bid", &["bid"]),
            ("ask", &["ask"]),
            ("bid_quantity", &["bid_size"]),
            ("ask_quantity", &["ask_size"]),
            ("oi", &["open_interest"]),
        ],
        price_scale: 1.0,
        skips: &[],
        each: None,
        kinds: None,
    },
    Preset {
        name: "generic",
        aliases: &[
            ("symbol", &["symbol", "ticker", "instrument", "sym"]),
            ("time", &["time", "timestamp", "ts", "timestamp_ns", "timestamp_ms", "datetime", "date"]),
            ("price", &["price", "last_price", "last", "ltp", "trade_price", "close"]),
            ("quantity", &["quantity", "qty", "size", "amount", "last_quantity"]),
            ("cum_volume", &["cum_volume", "cumulative_volume", "total_volume", "day_volume"]),
            ("volume", &["volume", "vol"]),
            ("bid", &["bid", "bid_price", "best_bid"]),
            ("ask", &["ask", "ask_price", "best_ask"]),
            ("bid_quantity", &["bid_quantity", "bid_size", "bid_qty"]),
            ("ask_quantity", &["ask_quantity", "ask_size", "ask_qty"]),
            ("oi", &["oi", "open_interest"]),
        ],
        price_scale: 1.0,
        skips: &[],
        each: None,
        kinds: None,
    },
];
