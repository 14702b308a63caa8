//! What the reference data, the groups and the contexts of a configuration say about symbols.

use std::{fs, fs::File, io::Read};

use anyhow::Result;

use crate::{
    config::{LoadedConfig, parse_text},
    market::reference::TableSink,
};

/// Reads a table of cells without quotes.
fn read_plain(mut file: File, sink: &mut dyn TableSink) -> Result<()> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let mut lines = text.lines();
    sink.header(&lines.next().unwrap_or_default().split(',').collect::<Vec<_>>())?;
    lines.try_for_each(|line| sink.row(&line.split(',').collect::<Vec<_>>()))
}

/// A configuration beside these files, with its market.
fn market(config: &str, files: &[(&str, &str)]) -> Result<LoadedConfig> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let mut loaded = parse_text(&folder.path().join("config.toml"), config)?;
    loaded.load_market(read_plain, None)?;
    Ok(loaded)
}

/// Some rows of the file that Kite publishes each morning.
const KITE: &str = "\
instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,segment,exchange
256265,1001,NIFTY 50,NIFTY 50,0,,0,0,0,EQ,INDICES,NSE
264969,1035,INDIA VIX,INDIA VIX,0,,0,0,0,EQ,INDICES,NSE
128083204,500325,RELIANCE,RELIANCE INDUSTRIES,0,,0,0.05,1,EQ,BSE,BSE
738561,2885,RELIANCE,RELIANCE INDUSTRIES,0,,0,0.1,1,EQ,NSE,NSE
12345,48,NIFTY25NOV25750PE,NIFTY,0,2025-11-25,25750,0.05,75,PE,NFO-OPT,NFO
12346,49,NIFTY25NOV25750CE,NIFTY,0,2025-11-25,25750,0.05,75,CE,NFO-OPT,NFO
12347,50,RELIANCE25NOVFUT,RELIANCE,0,2025-11-25,0,0.1,500,FUT,NFO-FUT,NFO
";

#[test]
fn the_dump_of_kite_works_as_it_is() {
    let loaded = market("[reference]\nfiles = [\"kite.csv\"]\n", &[("kite.csv", KITE)]).unwrap();
    let market = &loaded.market;
    let reference = market.reference();
    let number = |column: &str, symbol: &str| {
        let column = reference.numeric_columns().position(|name| name == column).unwrap();
        reference.number(column, reference.row(symbol))
    };
    let text = |column: &str, symbol: &str| {
        let column = market.text_columns().iter().position(|name| name == column).unwrap();
        market.text(column, symbol).map(|text| text.into_owned())
    };
    assert_eq!(number("strike", "NIFTY25NOV25750PE"), 25750.0);
    assert_eq!(number("lot_size", "RELIANCE25NOVFUT"), 500.0);
    assert!(number("strike", "RELIANCE").is_nan() && number("strike", "RELIANCE25NOVFUT").is_nan());
    assert!(number("strike", "UNKNOWN").is_nan());
    for (symbol, underlying, option_type) in [
        ("NIFTY25NOV25750PE", "NIFTY", Some("PE")),
        ("NIFTY25NOV25750CE", "NIFTY", Some("CE")),
        ("NIFTY 50", "NIFTY", Some("EQ")),
        ("RELIANCE", "RELIANCE", Some("EQ")),
        ("RELIANCE25NOVFUT", "RELIANCE", Some("FUT")),
        ("SBIN25NOVFUT", "SBIN", None),
    ] {
        assert_eq!(text("underlying", symbol).as_deref(), Some(underlying), "{symbol}");
        assert_eq!(text("option_type", symbol).as_deref(), option_type, "{symbol}");
        assert_eq!(market.group_of(0, symbol).as_deref(), Some(underlying), "{symbol}");
    }
    assert_eq!(number("tick_size", "RELIANCE"), 0.1);
    assert_eq!(number("tick_size", "BSE:RELIANCE"), 0.05);
    assert_eq!(number("tick_size", "NSE:RELIANCE"), 0.1);
    assert_eq!(reference.days_to_expiry(reference.row("NIFTY25NOV25750PE"), 20_416), 1.0);
    assert!(reference.days_to_expiry(reference.row("RELIANCE"), 20_416).is_nan());
    assert_eq!(text("expiry", "NIFTY25NOV25750PE").as_deref(), Some("2025-11-25"));
}

#[test]
fn a_context_has_one_source_for_all_symbols_or_one_that_depends_on_the_symbol() {
    let config = "[context.vix]\nsymbol = \"INDIA VIX\"\n[context.spot]\nof = \"underlying\"\n";
    let loaded = market(config, &[]).unwrap();
    let market = &loaded.market;
    let names: Vec<&str> = market.contexts().iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["spot", "vix"]);
    assert_eq!(market.context_source(0, "NIFTY25NOV25750PE"), market.context_fed_by(0, "NIFTY 50"));
    assert_eq!(market.context_source(0, "NIFTY25NOV25750PE").as_deref(), Some("NIFTY"));
    assert_eq!(market.context_fed_by(0, "NIFTY25NOVFUT"), None);
    assert_eq!(market.context_source(1, "SBIN"), market.context_fed_by(1, "NSE:INDIA VIX"));
    assert_eq!(market.context_fed_by(1, "SBIN"), None);
}

#[test]
fn a_text_column_names_the_source_with_or_without_its_venue() {
    let files = [("r.csv", "symbol,index\nSBIN,Nifty Bank\nTCS,NSE:NIFTY IT\nODD,\n")];
    let loaded = market("[reference]\nfiles = [\"r.csv\"]\n[context.index]\nof = \"index\"\n", &files).unwrap();
    let market = &loaded.market;
    for (symbol, source) in [("SBIN", "NIFTY BANK"), ("NSE:SBIN", "NIFTY BANK"), ("TCS", "NIFTY IT")] {
        assert!(market.context_source(0, symbol).is_some(), "{symbol}");
        for fed in [source.to_owned(), format!("NSE:{source}")] {
            assert_eq!(market.context_fed_by(0, &fed), market.context_source(0, symbol), "{symbol}: {fed}");
        }
    }
    assert_eq!((market.context_source(0, "ODD"), market.context_source(0, "NEW")), (None, None));
    assert_ne!(market.context_fed_by(0, "BSE:NIFTY IT"), market.context_source(0, "TCS"));
    assert_eq!(market.context_fed_by(0, "SBIN"), None);
}

#[test]
fn the_underlying_of_a_context_may_be_that_of_one_venue() {
    let loaded = market("[context.spot]\nof = \"underlying\"\nvenue = \"nse\"\n", &[]).unwrap();
    let market = &loaded.market;
    let source = market.context_source(0, "NFO:RELIANCE25NOVFUT");
    assert_eq!(market.context_fed_by(0, "NSE:RELIANCE"), source);
    assert_eq!(market.context_fed_by(0, "RELIANCE"), source);
    assert_eq!(market.context_fed_by(0, "BSE:RELIANCE"), None);
    assert_eq!(market.context_fed_by(0, "NSE:RELIANCE25NOVFUT"), None);
}

#[test]
fn a_symbol_belongs_to_one_group_of_a_family_or_to_none() {
    let config = "[reference]\nfiles = [\"kite.csv\"]\n[groups.fno]\nby = \"expiry\"\nsymbols = [\"NIFTY*\"]\n\
                  [groups.pair]\nsymbols = [\"NSE:RELIANCE\", \"nifty 50\"]\n";
    let loaded = market(config, &[("kite.csv", KITE)]).unwrap();
    let market = &loaded.market;
    assert_eq!(market.families().collect::<Vec<_>>(), ["underlying", "fno", "pair"]);
    let group = |family, symbol| market.group_of(family, symbol).map(|group| group.into_owned());
    assert_eq!(group(1, "NIFTY25NOV25750PE").as_deref(), Some("2025-11-25"));
    assert_eq!(group(1, "RELIANCE25NOVFUT"), None);
    assert_eq!(group(1, "NIFTY 50"), None);
    assert_eq!(group(2, "NIFTY 50").as_deref(), Some("pair"));
    assert_eq!(group(2, "RELIANCE").as_deref(), Some("pair"));
    assert_eq!(group(2, "BSE:RELIANCE"), None);
    assert_eq!(group(3, "RELIANCE"), None);
    let survey = market.survey(["NIFTY 50", "RELIANCE", "\0underlying/NIFTY"].into_iter());
    assert_eq!((survey.symbols, survey.families[2].largest.clone()), (2, Some(("pair".into(), 2))));
}
