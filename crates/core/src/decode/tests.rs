//! Every layout and preset, on payloads as the vendors write them, with faults of publishers, and on garbage.

use proptest::prelude::*;

use super::*;
use crate::event::{Entries, EntryId};

/// 2025-11-24 10:15:31 in Kolkata.
const ARRIVAL_MS: u64 = 1_763_959_531_000;

fn decoder(preset: &str) -> Decoder {
    Decoder::new(&InputConfig { preset: preset.into(), ..InputConfig::default() }, Path::new(".")).unwrap()
}

type TestFields<'a> = &'a [(&'a str, &'a [u8])];

fn decode(decoder: &mut Decoder, fields: TestFields<'_>) -> Result<Vec<RawTick>, DecodeError> {
    let mut entries = Entries::default();
    entries.push_entry(EntryId { millis: ARRIVAL_MS, seq: 0 });
    for (name, value) in fields {
        entries.push_field(name.as_bytes(), value);
    }
    let mut ticks = Vec::new();
    let outcome = decoder.decode(entries.get(0).unwrap(), &mut |tick| ticks.push(tick.clone()))?;
    let expected = if ticks.is_empty() { Outcome::Skipped } else { Outcome::Ticks(ticks.len()) };
    assert_eq!(outcome, expected);
    Ok(ticks)
}

fn json(preset: &str, text: &str) -> Vec<RawTick> {
    decode(&mut decoder(preset), &[("data", text.as_bytes())]).unwrap()
}

fn one(preset: &str, text: &str) -> RawTick {
    let mut ticks = json(preset, text);
    assert_eq!(ticks.len(), 1, "{text}");
    ticks.remove(0)
}

/// Symbol, time (ns), price, and the columns that have a value.
fn values_of(tick: &RawTick) -> (&str, Option<u64>, f64, Vec<(&'static str, f64)>) {
    let columns = column::NAMES.into_iter().zip(tick.columns.iter().copied());
    let columns = columns.filter(|(name, value)| !value.is_nan() && *name != "flags").collect();
    (&tick.symbol, tick.time, tick.price, columns)
}

#[test]
fn kite_as_a_scanner_republishes_it() {
    let tick = one(
        "kite",
        r#"{"mode":"full","last_price":101.05,"symbol":"NFO:nifty25nov25750pe","instrument_token":12345,
            "exchange_timestamp":"2025-11-24T10:15:30","exchange_timestamp_ms":1763959530250,"volume":75,
            "zerodha_cumulative_volume":120000,"last_traded_quantity":75,"best_bid_price":101.0,"best_ask_price":0,
            "depth":{"buy":[{"price":100.95,"quantity":300}],"sell":[{"price":101.1,"quantity":150}]},
            "oi":"","open_interest":500000,"iv":null}"#,
    );
    let expected = vec![
        ("quantity", 75.0),
        ("cum_volume", 120_000.0),
        ("bid", 101.0),
        ("ask", 101.1),
        ("bid_quantity", 300.0),
        ("ask_quantity", 150.0),
        ("oi", 500_000.0),
        ("volume", 75.0),
    ];
    assert_eq!(values_of(&tick), ("NIFTY25NOV25750PE", Some(1_763_959_530_250_000_000), 101.05, expected));
}

#[test]
fn the_three_layouts_say_the_same() {
    let fields = [
        ("symbol", "ICICIBANK25NOVFUT"),
        ("last_price", "1370.5"),
        ("volume_traded", "9000"),
        ("exchange_timestamp", "2025-11-24 10:15:30"),
        ("depth", r#"{"buy":[{"price":1370.45,"quantity":700}],"sell":[]}"#),
    ];
    let mut kite = decoder("kite");
    let flat: Vec<(&str, &[u8])> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    let flat = decode(&mut kite, &flat).unwrap();
    let document = serde_json::json!({
        "symbol": "ICICIBANK25NOVFUT", "last_price": 1370.5, "volume_traded": 9000,
        "exchange_timestamp": "2025-11-24 10:15:30",
        "depth": { "buy": [{ "price": 1370.45, "quantity": 700 }], "sell": [] },
    });
    let text = document.to_string();
    let packed = rmp_serde::to_vec_named(&document).unwrap();
    for (name, value) in [("data", text.as_bytes()), ("payload", text.as_bytes()), ("json", &packed), ("tick", &packed)]
    {
        let ticks = decode(&mut kite, &[(name, value)]).unwrap();
        assert_eq!(values_of(&ticks[0]), values_of(&flat[0]), "{name}");
    }
    assert_eq!(flat[0].columns[column::BID], 1370.45);
}

#[test]
fn flat_fields_fill_what_the_document_leaves_out() {
    let fields: [(&str, &[u8]); 3] =
        [("symbol", b"FLAT"), ("timestamp", b"1763959530"), ("data", br#"{"ltp":5,"timestamp":1763959529}"#)];
    let ticks = decode(&mut decoder("kite"), &fields).unwrap();
    assert_eq!(values_of(&ticks[0]), ("FLAT", Some(1_763_959_529_000_000_000), 5.0, vec![]));
}

#[test]
fn each_preset_reads_its_vendor() {
    let upstox = json(
        "upstox",
        r#"{"type":"live_feed","currentTs":"1763959530300","feeds":{
            "NSE_FO|40084":{"fullFeed":{"marketFF":{"ltpc":{"ltp":219.3,"ltt":"1763959530236","ltq":"75"},
              "marketLevel":{"bidAskQuote":[{"bidQ":"150","bidP":219.2,"askQ":"75","askP":219.35}]},"vtt":"5155","oi":12}}},
            "NSE_INDEX|Nifty 50":{"ltpc":{"ltp":25910.05,"ltt":"1763959530000"}}}}"#,
    );
    assert_eq!(upstox.len(), 2);
    assert_eq!(values_of(&upstox[0]).0, "NSE_FO|40084");
    assert_eq!(values_of(&upstox[0]).1, Some(1_763_959_530_236_000_000));
    assert_eq!(
        (upstox[0].price, upstox[0].columns[column::CUM_VOLUME], upstox[0].columns[column::ASK]),
        (219.3, 5155.0, 219.35)
    );
    assert_eq!((values_of(&upstox[1]).0, upstox[1].price), ("NSE_INDEX|NIFTY 50", 25910.05));

    let angel = one(
        "angel",
        r#"{"token":"3045","exchange_timestamp":1763959530000,"last_traded_price":81005,
            "best_5_buy_data":[{"price":81000,"quantity":5}],"volume_trade_for_the_day":100}"#,
    );
    assert_eq!(values_of(&angel).0, "3045");
    assert!((angel.price - 810.05).abs() < 1e-9 && (angel.columns[column::BID] - 810.0).abs() < 1e-9);

    let dhan = one("dhan", r#"{"security_id":1333,"LTP":"123.45","LTT":"10:15:30","LTQ":5,"volume":900}"#);
    let expected = vec![("quantity", 5.0), ("cum_volume", 900.0)];
    assert_eq!(values_of(&dhan), ("1333", Some(1_763_959_530_000_000_000), 123.45, expected));

    let alpaca = json(
        "alpaca",
        r#"[{"T":"success","msg":"authenticated"},
            {"T":"t","S":"AAPL","p":200.1,"s":10,"t":"2025-11-24T04:45:30.000000123Z"},
            {"T":"q","S":"AAPL","bp":200.0,"ap":200.2,"bs":1,"as":2,"t":"2025-11-24T04:45:30.5Z"}]"#,
    );
    assert_eq!(values_of(&alpaca[0]), ("AAPL", Some(1_763_959_530_000_000_123), 200.1, vec![("quantity", 10.0)]));
    assert!(alpaca[1].price.is_nan() && alpaca[1].columns[column::ASK] == 200.2);

    let polygon = one("polygon", r#"[{"ev":"T","sym":"MSFT","p":500.5,"s":3,"t":1763959530123}]"#);
    assert_eq!(values_of(&polygon), ("MSFT", Some(1_763_959_530_123_000_000), 500.5, vec![("quantity", 3.0)]));

    let crypto = one("cryptofeed", r#"{"symbol":"BTC-USD","price":"9.5","amount":"0.1","timestamp":1763959530.5}"#);
    assert_eq!(values_of(&crypto), ("BTC-USD", Some(1_763_959_530_500_000_000), 9.5, vec![("quantity", 0.1)]));
}

#[test]
fn binance_sends_trades_quotes_and_other_messages_bare_or_combined() {
    let trade =
        r#"{"e":"trade","E":1763959530101,"s":"ETHUSDT","t":1,"p":"2343.01","q":"0.5","T":1763959530100,"m":true}"#;
    let expected = ("ETHUSDT", Some(1_763_959_530_100_000_000), 2343.01, vec![("quantity", 0.5)]);
    assert_eq!(values_of(&one("binance", trade)), expected);
    assert_eq!(values_of(&one("binance", &format!(r#"{{"stream":"ethusdt@trade","data":{trade}}}"#))), expected);
    let quote = one("binance", r#"{"u":1,"s":"ETHUSDT","b":"2343.0","B":"3","a":"2343.1","A":"4"}"#);
    assert!(quote.price.is_nan() && quote.time.is_none() && quote.columns[column::ASK] == 2343.1);
    for skipped in [r#"{"e":"depthUpdate","E":1,"s":"ETHUSDT","b":[],"a":[]}"#, r#"{"result":null,"id":1}"#] {
        assert!(json("binance", skipped).is_empty(), "{skipped}");
    }
}

#[test]
fn ib_events_are_what_their_tick_type_says() {
    let event = |kind: i64, price: f64, size: f64| {
        let text = format!(
            r#"{{"symbol":"ES","time":"2025-11-24T04:45:30.000001+00:00","tickType":{kind},"price":{price},"size":{size}}}"#
        );
        json("ib", &text)
    };
    let cases = [
        (event(1, 9.5, 3.0), f64::NAN, vec![("bid", 9.5), ("bid_quantity", 3.0)]),
        (event(3, -1.0, 4.0), f64::NAN, vec![("ask_quantity", 4.0)]),
        (event(4, 10.0, 2.0), 10.0, vec![("quantity", 2.0)]),
        (event(8, -1.0, 900.0), f64::NAN, vec![("cum_volume", 900.0)]),
        (event(67, 10.5, 1.0), f64::NAN, vec![("ask", 10.5), ("ask_quantity", 1.0)]),
    ];
    for (ticks, price, columns) in cases {
        let (symbol, time, tick_price, values) = values_of(&ticks[0]);
        assert_eq!((symbol, time, values), ("ES", Some(1_763_959_530_000_001_000), columns));
        assert!(tick_price == price || tick_price.is_nan() && price.is_nan(), "{tick_price}");
    }
    assert!(event(9, 9.0, 0.0).is_empty(), "yesterday's close is not a tick");
}

#[test]
fn numbers_that_python_writes_and_json_does_not_know_are_absent() {
    let tick = one("kite", r#"{"symbol":"A","last_price":5,"iv":NaN,"best_bid_price":-Infinity,"bid":4.5}"#);
    assert_eq!(values_of(&tick), ("A", None, 5.0, vec![("bid", 4.5)]));
    let ticks = json("alpaca", r#"[{"T":"t","S":"A","p":1},{"T":"t","S":"B","p":2,"s":NaN},{"T":"t","S":"C","p":3}]"#);
    assert_eq!(ticks.iter().map(|tick| tick.symbol.as_str()).collect::<Vec<_>>(), ["A", "B", "C"]);
    assert!(decode(&mut decoder("kite"), &[("data", br#"{"symbol":"A","last_price":5,"iv":NaN"#)]).is_err());
}

#[test]
fn own_names_go_before_the_presets_and_extra_columns_follow() {
    let config: InputConfig =
        toml::from_str("[map]\nprice = [\"px\"]\n[extra]\niv = [\"greeks.iv\", \"iv\"]\nchange = [\"change\"]\nliquid = [\"is_tradable\"]")
            .unwrap();
    let mut decoder = Decoder::new(&config, Path::new(".")).unwrap();
    assert_eq!(decoder.column_names()[column::NAMES.len()..], ["change", "iv", "liquid"]);
    let text = br#"{"symbol":"A","last_price":1,"px":2,"iv":0.3,"greeks":{"iv":0.4},"change":-1.5,"is_tradable":true}"#;
    let ticks = decode(&mut decoder, &[("data", text)]).unwrap();
    assert_eq!((ticks[0].price, &ticks[0].columns[column::NAMES.len()..]), (2.0, &[-1.5, 0.4, 1.0][..]));
}

#[test]
fn tokens_become_names() {
    let dir = tempfile::tempdir().unwrap();
    let config: InputConfig = toml::from_str("[tokens]\nfile = \"tokens.csv\"").unwrap();
    for table in ["lot,tradingsymbol,instrument_token\n1,INFY,408065\n", "408065,INFY\n"] {
        fs::write(dir.path().join("tokens.csv"), table).unwrap();
        let mut decoder = Decoder::new(&config, dir.path()).unwrap();
        for text in [
            r#"{"instrument_token":408065,"last_price":1}"#,
            r#"{"symbol":"408065","last_price":1}"#,
            r#"{"symbol":408065.0,"last_price":1}"#,
        ] {
            assert_eq!(decode(&mut decoder, &[("data", text.as_bytes())]).unwrap()[0].symbol, "INFY");
        }
    }
}

#[test]
fn endless_nesting_is_rejected() {
    for nested in [vec![b'['; 100_000], vec![0x91; 100_000], br#"{"depth":"#.repeat(10_000)] {
        assert!(decode(&mut decoder("kite"), &[("data", &nested)]).is_err());
        let _ = decode(&mut decoder("kite"), &[("symbol", b"A"), ("depth", &nested)]);
    }
}

#[test]
fn an_unusable_value_is_absent_and_the_next_name_counts() {
    for absent in [r#""""#, "null", "true", r#""True""#, "{}", "[1]", r#""None""#, r#""nan""#, "0", "-3", r#""abc""#] {
        let text = format!(r#"{{"symbol":"A","last_price":{absent},"ltp":"7.5"}}"#);
        assert_eq!(one("kite", &text).price, 7.5, "{absent}");
    }
    let tick = one(
        "kite",
        r#"{"symbol":"","tradingsymbol":"B","last_price":1,"timestamp":0,"bid":0,"ask":-1,
        "zerodha_cumulative_volume":0,"volume_traded":""}"#,
    );
    assert_eq!(values_of(&tick), ("B", None, 1.0, vec![]));
}

#[test]
fn an_entry_that_is_not_a_tick_is_rejected_with_a_reason() {
    let cases: [(TestFields<'_>, &str); 9] = [
        (&[("data", br#"{"symbol":"A","#)], "field `data` is not JSON: "),
        (&[("data", br#"{"symbol":"A","last_price":1} x"#)], "field `data` is not JSON: trailing characters"),
        (&[("data", &[0x82, 0xa1])], "field `data` is not MessagePack: "),
        (&[("data", &[0x10, 0xff, 0xfe])], "field `data` holds binary data"),
        (&[("data", br#"{"last_price":1}"#)], "no symbol: none of symbol, tradingsymbol"),
        (&[("data", b"AAEAAQA=")], "field `data` is neither JSON nor MessagePack"),
        (&[("data", b"[1, 2]")], "the document contains no object"),
        (&[("hello", b"world")], "no symbol: none of symbol"),
        (
            &[("symbol", b"A"), ("last_price", b"x")],
            "neither price nor quote: A has no usable value in any of last_price, ltp",
        ),
    ];
    for (fields, expected) in cases {
        let message = decode(&mut decoder("kite"), fields).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn a_wrong_mapping_is_rejected_with_the_nearest_valid_name() {
    let cases = [
        ("preset = \"kit\"", "did you mean `kite`?"),
        ("timezone = \"Asia/Calcuta\"", "`Asia/Calcuta` is not a time zone"),
        ("[map]\nprise = [\"p\"]", "did you mean `price`?"),
        ("[map]\nprice = [\"a..b\"]", "`a..b` is not a path"),
        ("[map]\nprice = [\"a[x]\"]", "`a[x]` is not a path"),
        ("[extra]\nbid = [\"b\"]", "this column already exists"),
        ("[tokens]\nfile = \"nowhere.csv\"", "can't read"),
    ];
    for (text, expected) in cases {
        let config: InputConfig = toml::from_str(text).unwrap();
        let message = match Decoder::new(&config, Path::new(".")) {
            Ok(_) => panic!("{text} is accepted"),
            Err(error) => format!("{error:#}"),
        };
        assert!(message.contains(expected), "{message}");
    }
}

/// A value of a tick as JSON, and as publishers write it into a flat field.
fn value() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        any::<f64>().prop_map(|number| number.into()),
        (-5i64..2_000_000_000_000).prop_map(|number| number.into()),
        (0.05f64..5000.0).prop_map(|price| ((price * 20.0).round() / 20.0).into()),
        prop::sample::select(vec!["", "None", "nan", "12.5", " 7 ", "1763959530250", "2025-11-24T10:15:30", "INFY"])
            .prop_map(|text| text.into()),
        Just(serde_json::Value::Null),
        Just(serde_json::json!({ "buy": [{ "price": 9.5, "quantity": 3 }], "sell": [] })),
    ]
}

const KITE_NAMES: [&str; 10] = [
    "last_price",
    "ltp",
    "volume_traded",
    "volume",
    "last_traded_quantity",
    "exchange_timestamp",
    "timestamp_ms",
    "best_bid_price",
    "depth",
    "oi",
];

/// A value as text, mostly in the form of JSON.
fn json_text() -> impl Strategy<Value = String> {
    let number = "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?";
    let leaf = prop_oneof![
        4 => number,
        2 => "-?[0-9.]{1,6}",
        1 => prop::sample::select(vec!["-0", "0.0", "-0.0", "9007199254740993", "9223372036854775808", "-9223372036854775809",
            "18446744073709551616", "123456789012345678.5", "0.1e-400", "1e400"]).prop_map(str::to_owned),
        2 => prop::sample::select(vec!["true", "false", "null", "NaN", "Infinity", "-Infinity", "nul", ""])
            .prop_map(str::to_owned),
        2 => "\"[ -~]{0,8}\"|\"(\\\\[\"/bfnrtu]|\\\\u00e9|é|[a-z]){0,4}\"",
        1 => prop::sample::select(vec!["\"2025-11-24T10:15:30\"", "\"10:15:30\"", "1763959530250"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 24, 4, |inner| {
        let members = prop::sample::select(vec!["buy", "sell", "price", "quantity", "s", "p", "x"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((members, inner), 0..4).prop_map(|members| {
                let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
                format!("{{{}}}", members.join(", "))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_tick_reads_the_same_in_every_layout(
        symbol in prop_oneof![
            (1i64..1 << 53).prop_map(|token| token.into()),
            (1i32..1 << 30).prop_map(|token| f64::from(token).into()),
            prop::sample::select(vec!["INFY", "nse:m&m", "", "408065", " X "]).prop_map(serde_json::Value::from),
        ],
        mut members in prop::collection::btree_map(prop::sample::select(&KITE_NAMES[..]), value(), 0..11)
    ) {
        members.insert("symbol", symbol);
        let mut kite = decoder("kite");
        let flat: Vec<(&str, String)> = members
            .iter()
            .map(|(name, value)| match value {
                serde_json::Value::String(text) => (*name, text.clone()),
                serde_json::Value::Null => (*name, "None".into()),
                other => (*name, other.to_string()),
            })
            .collect();
        let flat: Vec<(&str, &[u8])> = flat.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        let text = serde_json::to_vec(&members).unwrap();
        let packed = rmp_serde::to_vec_named(&members).unwrap();
        let read = |found: Result<Vec<RawTick>, DecodeError>| match found {
            // Debug text, since NaN is not equal to itself.
            Ok(ticks) => format!("{ticks:?}"),
            Err(error) => error.to_string(),
        };
        let expected = read(decode(&mut kite, &flat));
        prop_assert_eq!(&read(decode(&mut kite, &[("data", &text)])), &expected);
        prop_assert_eq!(&read(decode(&mut kite, &[("data", &packed)])), &expected);
    }

    /// Both readers read whole documents, and documents with changed bytes.
    #[test]
    fn the_fast_reader_gives_the_ticks_of_the_general_one(
        members in prop::collection::vec((prop_oneof![
            prop::sample::select(&KITE_NAMES[..]).prop_map(str::to_owned),
            prop::sample::select(vec!["symbol", "instrument_token", "e", "lastUpdateId", "s", "p", "T", "data", "tickType", "price"])
                .prop_map(str::to_owned),
            "[a-z\"\\\\é]{0,12}",
        ], json_text()), 0..12),
        spaces in prop::sample::select(vec!["", " ", "\n\t"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&b"{}[],:\"\\ 019.-+eEntfuNI\x00\xc3\xa9"[..])), 0..3),
        tail in prop::sample::select(vec!["", " ", "x", "{}"]),
    ) {
        let members: Vec<String> =
            members.iter().map(|(name, value)| format!("\"{name}\"{spaces}:{spaces}{value}")).collect();
        let mut text = format!("{{{spaces}{}{spaces}}}{tail}", members.join(&format!("{spaces},{spaces}"))).into_bytes();
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        for preset in ["kite", "binance", "ib", "upstox"] {
            let mut fast = decoder(preset);
            let mut general = decoder(preset);
            general.json_reader = JsonReader::General;
            let fields: TestFields<'_> = &[("symbol", b"FLAT"), ("data", &text)];
            let outcomes = [&mut fast, &mut general].map(|decoder| {
                let mut entries = Entries::default();
                entries.push_entry(EntryId { millis: ARRIVAL_MS, seq: 0 });
                fields.iter().for_each(|(name, value)| entries.push_field(name.as_bytes(), value));
                let mut ticks = Vec::new();
                let outcome = decoder.decode(entries.get(0).unwrap(), &mut |tick| ticks.push(tick.clone()));
                format!("{outcome:?} {ticks:?}")
            });
            prop_assert_eq!(&outcomes[0], &outcomes[1], "{}", String::from_utf8_lossy(&text));
        }
    }

    #[test]
    fn garbage_never_panics(
        name in prop::sample::select(vec!["data", "payload", "symbol", "depth", "x"]),
        value in prop::collection::vec(any::<u8>(), 0..200),
        head in prop::sample::select(vec![&b""[..], b"{", b"[", b"{\"symbol\":", b"\x81\xa6symbol", b"\xdc"]),
    ) {
        let value = [head, &value].concat();
        for preset in ["kite", "upstox", "alpaca", "binance"] {
            let _ = decode(&mut decoder(preset), &[(name, &value)]);
        }
    }

    #[test]
    fn a_cut_document_is_never_a_tick(cut in 0usize..70) {
        let text = br#"{"symbol":"A","last_price":12.5,"exchange_timestamp_ms":1763959530250}"#;
        prop_assume!(cut < text.len());
        prop_assert!(decode(&mut decoder("kite"), &[("data", &text[..cut])]).is_err());
    }

    #[test]
    fn the_order_of_keys_does_not_matter(order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle()) {
        let members = [
            r#""symbol":"A""#, r#""tradingsymbol":"B""#, r#""last_price":1.5"#, r#""ltp":2.5"#,
            r#""timestamp":1763959529"#, r#""exchange_timestamp":"2025-11-24 10:15:30""#,
        ];
        let text = format!("{{{}}}", order.iter().map(|i| members[*i]).collect::<Vec<_>>().join(","));
        let tick = one("kite", &text);
        prop_assert_eq!(values_of(&tick), ("A", Some(1_763_959_530_000_000_000), 1.5, vec![]));
    }
}

/// Symbol and venue of the tick in a document, or why it is not one.
fn symbol_by(venue: &str, more: &str, preset: &str, text: &str) -> Result<(String, String), String> {
    let config = format!("preset = \"{preset}\"\nvenue = \"{venue}\"\n{more}");
    let mut decoder = Decoder::new(&toml::from_str(&config).unwrap(), Path::new(".")).unwrap();
    let document: &[u8] = text.as_bytes();
    let ticks = decode(&mut decoder, &[("data", document)]).map_err(|error| error.to_string())?;
    Ok((ticks[0].symbol.clone(), ticks[0].venue.clone()))
}

/// Two venues of one name became one symbol, with the prices and the volumes of both.
#[test]
fn the_venue_is_kept_stripped_or_beside_the_symbol_wherever_the_tick_names_it() {
    for (preset, fields, kept, stripped, beside) in [
        ("kite", r#""symbol":"NSE:reliance""#, "NSE:RELIANCE", "RELIANCE", ("RELIANCE", "NSE")),
        ("kite", r#""symbol":"nse: RELIANCE""#, "NSE:RELIANCE", "RELIANCE", ("RELIANCE", "NSE")),
        ("kite", r#""symbol":"RELIANCE","exchange":"bse""#, "BSE:RELIANCE", "RELIANCE", ("RELIANCE", "BSE")),
        ("kite", r#""exchange":"bse","symbol":"RELIANCE""#, "BSE:RELIANCE", "RELIANCE", ("RELIANCE", "BSE")),
        // The symbol's own venue goes before that of a field, in any order.
        ("kite", r#""exchange":"BSE","symbol":"NSE:A""#, "NSE:A", "A", ("A", "NSE")),
        ("kite", r#""symbol":"NSE:A","exchange":"BSE""#, "NSE:A", "A", ("A", "NSE")),
        // One venue in the words of several vendors.
        ("kite", r#""symbol":"A","exchange":"NFO-OPT""#, "NFO:A", "A", ("A", "NFO")),
        ("kite", r#""symbol":"A","exchange":"nse_cm""#, "NSE:A", "A", ("A", "NSE")),
        ("kite", r#""symbol":"A","exchange":"MCX_FO""#, "MCX:A", "A", ("A", "MCX")),
        ("kite", r#""symbol":"NIFTY 50","exchange":"","segment":"INDICES""#, "NIFTY 50", "NIFTY 50", ("NIFTY 50", "")),
        ("kite", r#""symbol":"A","exchange":"NFO","segment":"NFO-FUT""#, "NFO:A", "A", ("A", "NFO")),
        ("kite", r#""symbol":"A","segment":"NFO-FUT""#, "A", "A", ("A", "")),
        ("kite", r#""symbol":"A","exchange":"NYSE_ARCA""#, "NYSE_ARCA:A", "A", ("A", "NYSE_ARCA")),
        ("kite", r#""symbol":"A","exchange":"nan""#, "A", "A", ("A", "")),
        ("kite", r#""symbol":"A","exchange":"a\u001bb""#, "A", "A", ("A", "")),
        ("kite", r#""symbol":"A""#, "A", "A", ("A", "")),
        // Of other venues, the symbol has always kept the name.
        ("kite", r#""symbol":"NYSE:IBM""#, "NYSE:IBM", "NYSE:IBM", ("NYSE:IBM", "")),
        ("kite", r#""symbol":"ES/Z5:CME""#, "ES/Z5:CME", "ES/Z5:CME", ("ES/Z5:CME", "")),
        ("upstox", r#""instrument_key":"NSE_EQ|INE1""#, "NSE_EQ|INE1", "NSE_EQ|INE1", ("NSE_EQ|INE1", "")),
        ("angel", r#""token":"2885","exchange_type":3"#, "BSE:2885", "2885", ("2885", "BSE")),
        ("dhan", r#""security_id":1333,"exchange_segment":1"#, "NSE_EQ:1333", "1333", ("1333", "NSE_EQ")),
        ("dhan", r#""security_id":1333,"exchange_segment":"NSE_EQ""#, "NSE_EQ:1333", "1333", ("1333", "NSE_EQ")),
        ("angel", r#""token":"2885","exchange":"bse_cm""#, "BSE:2885", "2885", ("2885", "BSE")),
        ("dhan", r#""security_id":1333,"exchange_segment":99"#, "1333", "1333", ("1333", "")),
        (
            "cryptofeed",
            r#""symbol":"BTC-USD","exchange":"COINBASE""#,
            "COINBASE:BTC-USD",
            "BTC-USD",
            ("BTC-USD", "COINBASE"),
        ),
    ] {
        let text = format!("{{{fields},\"last_price\":1,\"last_traded_price\":1,\"LTP\":1,\"ltp\":1,\"price\":1}}");
        let symbol = |venue| symbol_by(venue, "", preset, &text).unwrap();
        assert_eq!(symbol("keep"), (kept.into(), String::new()), "{text}");
        assert_eq!(symbol("strip"), (stripped.into(), String::new()), "{text}");
        assert_eq!(symbol("refuse-mixed"), (beside.0.into(), beside.1.into()), "{text}");
    }
    // A venue alone names no instrument.
    for rule in ["keep", "strip", "refuse-mixed"] {
        for text in ["NSE:", "NSE: ", "nse:-"] {
            let error =
                symbol_by(rule, "", "kite", &format!("{{\"symbol\":\"{text}\",\"last_price\":1}}")).unwrap_err();
            assert!(error.contains("symbol"), "{rule} {text}: {error}");
        }
    }
    // Each element of a list has its own.
    let list = br#"[{"symbol":"A","ltp":1,"exchange":"NSE"},{"symbol":"B","ltp":1},{"symbol":"BSE:C","ltp":1}]"#;
    let ticks = decode(&mut decoder("kite"), &[("data", list)]).unwrap();
    assert_eq!(ticks.iter().map(|tick| tick.venue.as_str()).collect::<Vec<_>>(), ["NSE", "", "BSE"]);
    let mixed = toml::from_str::<InputConfig>("venue = \"keep\"\n[map]\nvenue = [\"mic\"]").unwrap();
    let mut decoder = Decoder::new(&mixed, Path::new(".")).unwrap();
    let ticks = decode(&mut decoder, &[("symbol", b"A"), ("ltp", b"1"), ("mic", b"XNSE")]).unwrap();
    assert_eq!(ticks[0].symbol, "XNSE:A");
}

/// `UNKNOWN`, which the crawler writes for every instrument that it could not resolve, became one symbol with the prices of
/// all of them.
#[test]
fn a_symbol_that_the_producer_could_not_resolve_needs_another_field() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokens.csv"), "256265,NIFTY 50\n").unwrap();
    let with_tokens = format!("[tokens]\nfile = \"{}/tokens.csv\"", dir.path().display());
    let symbol = |more: &str, fields: &str| {
        symbol_by("refuse-mixed", more, "kite", &format!("{{{fields},\"last_price\":1}}")).map(|(symbol, _)| symbol)
    };
    for fields in [
        r#""symbol":"UNKNOWN""#,
        r#""symbol":"unknown""#,
        r#""symbol":"NSE:UNKNOWN""#,
        r#""symbol":"UNKNOWN_256265""#,
        r#""symbol":"TOKEN_256265""#,
        r#""symbol":"UNKNOWN","instrument_token":256265"#,
        r#""instrument_token":256265,"symbol":"UNKNOWN""#,
    ] {
        let error = symbol("", fields).unwrap_err();
        assert!(error.starts_with("unresolved symbol: `") && error.contains("input.tokens.file"), "{fields}: {error}");
    }
    // Another field names it.
    assert_eq!(symbol("", r#""symbol":"UNKNOWN","tradingsymbol":"TCS""#).unwrap(), "TCS");
    assert_eq!(symbol(&with_tokens, r#""symbol":"UNKNOWN","instrument_token":256265"#).unwrap(), "NIFTY 50");
    // A feed of numbers is one of instruments, if it says so.
    assert_eq!(symbol("", r#""symbol":"","instrument_token":256265"#).unwrap(), "256265");
    assert_eq!(symbol("unresolved = []", r#""symbol":"UNKNOWN""#).unwrap(), "UNKNOWN");
    assert_eq!(symbol("unresolved = [\"*TEST\"]", r#""symbol":"UNKNOWN""#).unwrap(), "UNKNOWN");
    assert!(symbol("unresolved = [\"*TEST\"]", r#""symbol":"Atest""#).is_err());
    for usable in ["UNITDSPR", "TCS", "TOKENIZED", "UNKNOWNCO"] {
        assert_eq!(symbol("", &format!("\"symbol\":\"{usable}\"")).unwrap(), usable);
    }
    let hidden = symbol("", r#""symbol":"UNKNOWN_\u001b[2J""#).unwrap_err();
    assert_eq!(hidden, "unusable symbol: it contains U+001B, a control character");
}

/// The depth was left out where the producer had written it with `str`.
#[test]
fn nested_values_that_python_wrote_are_read_like_json() {
    let depth = "{'buy': [{'quantity': 300, 'price': 101.0, 'orders': 2}], 'sell': [{'quantity': 0, 'price': None}]}";
    let fields = [("symbol", "A"), ("last_price", "101.05"), ("depth", depth), ("ohlc", "{'open': 1")];
    let fields = fields.map(|(name, value)| (name, value.as_bytes()));
    let ticks = decode(&mut decoder("kite"), &fields).unwrap();
    let expected = vec![("bid", 101.0), ("bid_quantity", 300.0), ("ask_quantity", 0.0)];
    assert_eq!(values_of(&ticks[0]), ("A", None, 101.05, expected));
}

#[test]
fn the_cumulative_volume_of_the_crawler_is_read_under_each_of_its_names() {
    for (fields, expected) in [
        (r#""zerodha_cumulative_volume":7,"bucket_cumulative_volume":5"#, 7.0),
        (r#""zerodha_cumulative_volume":0,"bucket_cumulative_volume":5"#, 5.0),
        (r#""bucket_cumulative_volume":"5""#, 5.0),
        (r#""cumulative_volume":5,"volume_traded":6"#, 6.0),
    ] {
        let tick = one("kite", &format!("{{\"symbol\":\"A\",\"ltp\":1,{fields}}}"));
        assert_eq!(tick.columns[column::CUM_VOLUME], expected, "{fields}");
    }
}
