//! The field names of each vendor: data only. Within a list, the preferred name comes first.

/// The field names of a vendor.
#[derive(Debug)]
pub(super) struct Preset {
    name: &'static str,
    aliases: &'static [(&'static str, &'static [&'static str])],
    /// The factor from published prices to prices in quote currency.
    pub(super) price_scale: f64,
    /// The paths whose values mark a message that is not a tick; an empty list means any value.
    pub(super) skips: &'static [(&'static str, &'static [&'static str])],
    /// The path of an object in which each member is a tick, under its symbol.
    pub(super) tick_map: Option<&'static str>,
    /// For vendors that publish each value as an event: the path of the event's code, and the targets for each code.
    /// Events of other codes are not ticks.
    pub(super) events: Option<(&'static str, &'static [EventCode])>,
    /// The venues of vendors that write numbers for them.
    pub(super) venues: &'static [(i64, &'static str)],
}

/// The targets of the price and the quantity in events of one code; `""`: that value is not used.
#[derive(Debug)]
pub(super) struct EventCode {
    pub(super) code: i64,
    pub(super) price: &'static str,
    pub(super) quantity: &'static str,
}

const fn event(code: i64, price: &'static str, quantity: &'static str) -> EventCode {
    EventCode { code, price, quantity }
}

impl Preset {
    /// The names of a target, the preferred one first.
    pub(super) fn aliases(&self, target: &str) -> &'static [&'static str] {
        self.aliases.iter().find(|(name, _)| *name == target).map_or(&[], |(_, aliases)| aliases)
    }
}

/// The preset of this name.
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
            (
                "quantity",
                &[
                    "bucket_incremental_volume",
                    "last_traded_quantity",
                    "zerodha_last_traded_quantity",
                    "last_quantity",
                    "quantity",
                    "qty",
                ],
            ),
            (
                "cum_volume",
                &[
                    "zerodha_cumulative_volume",
                    "volume_traded",
                    "cum_volume",
                    "bucket_cumulative_volume",
                    "cumulative_volume",
                ],
            ),
            ("volume", &["volume"]),
            ("bid", &["best_bid_price", "depth.buy[0].price", "bid"]),
            ("ask", &["best_ask_price", "depth.sell[0].price", "ask"]),
            ("bid_quantity", &["best_bid_quantity", "depth.buy[0].quantity", "bid_quantity"]),
            ("ask_quantity", &["best_ask_quantity", "depth.sell[0].quantity", "ask_quantity"]),
            ("oi", &["open_interest", "oi"]),
            // Not `segment`: it says more than the exchange, and for an index less.
            ("venue", &["exchange", "venue"]),
        ],
        price_scale: 1.0,
        skips: &[],
        tick_map: None,
        events: None,
        venues: &[],
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
        tick_map: Some("feeds"),
        events: None,
        venues: &[],
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
            ("venue", &["exchange", "exchange_type"]),
        ],
        price_scale: 0.01,
        skips: &[],
        tick_map: None,
        events: None,
        // Numbers of instruments are unique within one of these.
        venues: &[(1, "NSE"), (2, "NFO"), (3, "BSE"), (4, "BFO"), (5, "MCX"), (7, "NCX"), (13, "CDS")],
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
            ("venue", &["exchange_segment", "exchange"]),
        ],
        price_scale: 1.0,
        skips: &[("type", &["Previous Close", "Market Status"])],
        tick_map: None,
        events: None,
        // Numbers of instruments are unique within one of these.
        venues: &[
            (0, "IDX_I"),
            (1, "NSE_EQ"),
            (2, "NSE_FNO"),
            (3, "NSE_CURRENCY"),
            (4, "BSE_EQ"),
            (5, "MCX_COMM"),
            (7, "BSE_CURRENCY"),
            (8, "BSE_FNO"),
        ],
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
        tick_map: None,
        events: None,
        venues: &[],
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
        tick_map: None,
        events: None,
        venues: &[],
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
        tick_map: None,
        events: None,
        venues: &[],
    },
    // Interactive Brokers publishes each value as an event, whose tick type says what it is. Codes from 66 on are
    // delayed data.
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
        tick_map: None,
        events: Some((
            "tickType",
            &[
                event(0, "bid", "bid_quantity"),
                event(1, "bid", "bid_quantity"),
                event(2, "ask", "ask_quantity"),
                event(3, "ask", "ask_quantity"),
                event(4, "price", "quantity"),
                event(5, "price", "quantity"),
                event(8, "", "cum_volume"),
                event(66, "bid", "bid_quantity"),
                event(67, "ask", "ask_quantity"),
                event(68, "price", "quantity"),
                event(69, "bid", "bid_quantity"),
                event(70, "ask", "ask_quantity"),
                event(71, "price", "quantity"),
                event(74, "", "cum_volume"),
            ],
        )),
        venues: &[],
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
            ("venue", &["exchange"]),
        ],
        price_scale: 1.0,
        skips: &[],
        tick_map: None,
        events: None,
        venues: &[],
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
            ("venue", &["venue", "exchange"]),
        ],
        price_scale: 1.0,
        skips: &[],
        tick_map: None,
        events: None,
        venues: &[],
    },
];
