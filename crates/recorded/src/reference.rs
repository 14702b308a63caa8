//! Reads the rows of a file of reference data: CSV, plain or compressed, or Parquet.

use std::{fs::File, sync::Arc};

use anyhow::{Result, bail};

use super::{CountingReader, Format, contained::contained, parquet, plain_text, table};
use tickhound_core::market::reference::TableSink;

/// Passes the header and the rows of a file to `sink`. The format is detected from the content.
///
/// # Errors
/// When the file can't be read, or `sink` can't use it.
pub fn read_reference(file: File, sink: &mut dyn TableSink) -> Result<()> {
    if parquet::is_parquet(&file) {
        return contained("the file", || parquet::pass_rows(file, sink));
    }
    let mut text = plain_text(CountingReader { file: Box::new(file), read: Arc::default() })?;
    match Format::of(text.fill_buf()?)? {
        Format::Csv { separator } => table::pass_rows(Box::new(text), separator, sink),
        Format::Lines => bail!("has lines of JSON, expected CSV or Parquet"),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, path::Path};

    use super::*;
    use crate::parquet::sample::{Values, floats, texts, wholes, write};
    use tickhound_core::config::{LoadedConfig, parse_text};

    /// The market of a configuration in this folder.
    fn load(folder: &Path, config: &str) -> Result<LoadedConfig> {
        let mut loaded = parse_text(&folder.join("config.toml"), config)?;
        loaded.load_market(read_reference, None)?;
        Ok(loaded)
    }

    fn number(loaded: &LoadedConfig, column: &str, symbol: &str) -> f64 {
        let reference = loaded.market.reference();
        let position = reference.numeric_columns().position(|name| name == column);
        reference.number(position.unwrap_or_else(|| panic!("no {column}")), reference.row(symbol))
    }

    fn text(loaded: &LoadedConfig, column: &str, symbol: &str) -> Option<String> {
        let position = loaded.market.text_columns().iter().position(|name| name == column);
        Some(loaded.market.text(position?, symbol)?.into_owned())
    }

    fn error(folder: &Path, config: &str) -> String {
        format!("{:#}", load(folder, config).map(|_| ()).unwrap_err())
    }

    #[test]
    fn an_odd_file_is_read_and_what_is_odd_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let rows = "\u{feff}Symbol;Prev Close;\"Sector\";avg_volume_20d;Empty;Volume;code\r\n\
                    infy;1500.5;\"IT; Services\";1e6;;7;007\r\n\
                    TCS;;IT;n/a;-;8;8\r\n\
                    NSE:SBIN;800;Banks;inf;;9;9\r\n\
                    INFY;1501;;;;;\r\n\
                    ;1;IT;1;;1;1\r\n\
                    BAD\u{200b}NAME;1;IT;1;;1;1\r\n\
                    HDFC;1600;\"two\nlines\";5;;1;1\r\n";
        fs::write(folder.path().join("r.csv"), rows).unwrap();
        let loaded = load(folder.path(), "[reference]\nfiles = [\"r.csv\"]\ntexts = [\"code\"]\n").unwrap();
        assert_eq!(number(&loaded, "prev_close", "INFY"), 1501.0);
        assert_eq!(number(&loaded, "avg_volume_20d", "INFY"), 1e6);
        assert!(number(&loaded, "avg_volume_20d", "SBIN").is_nan() && number(&loaded, "prev_close", "TCS").is_nan());
        assert_eq!(number(&loaded, "prev_close", "SBIN"), 800.0);
        assert_eq!(number(&loaded, "prev_close", "NSE:INFY"), 1501.0);
        assert!(number(&loaded, "prev_close", "BSE:SBIN").is_nan());
        assert_eq!(text(&loaded, "sector", "INFY").as_deref(), Some("IT; Services"));
        assert_eq!(text(&loaded, "code", "INFY").as_deref(), Some("007"));
        assert_eq!(text(&loaded, "sector", "HDFC"), None);
        let reference = loaded.market.reference();
        assert_eq!(reference.len(), 4);
        let notes = reference.notes().join("\n");
        for expected in [
            "1 symbols have several rows in one file, of which the last values count (INFY)",
            "1 rows without a symbol",
            "1 rows are left out (unusable symbol: it contains U+200B",
            "1 values are left out (sector: a text that contains U+000A",
            "1 columns are left out, since ticks, bars or contexts have columns of their names (volume); [reference.columns]",
            "1 columns have no values, and are left out (empty)",
        ] {
            assert!(notes.contains(expected), "{expected}\n{notes}");
        }
        assert!(reference.explain("volume").unwrap().contains("[reference.columns]"));
        assert!(reference.explain("sector").unwrap().ends_with("values that are not numbers"));
        assert_eq!((reference.explain("prev_close"), reference.explain("prev_clos")), (None, None));
    }

    #[test]
    fn files_are_joined_by_symbol_whatever_their_form() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(
            &at("a.parquet"),
            &[
                texts("tradingsymbol", [Some("INFY"), Some("TCS"), Some("INFY")]),
                texts("exchange", [Some("NSE"), Some("NSE"), Some("BSE")]),
                floats("prev_close", [Some(1500.5), None, Some(1499.0)]),
                wholes("lot", [Some(400), Some(175), Some(1)]),
                ("optional int32 expiry (DATE)".into(), Values::Int32(vec![Some(20_417), None, None])),
            ],
        );
        let mut gz =
            flate2::write::GzEncoder::new(fs::File::create(at("b.csv.gz")).unwrap(), flate2::Compression::fast());
        gz.write_all(b"symbol,prev_close,sector\nINFY,1502,IT\nWIPRO,250,IT\n").unwrap();
        gz.finish().unwrap();
        let loaded = load(folder.path(), "[reference]\nfiles = [\"a.parquet\", \"b.csv.gz\"]\n").unwrap();
        for (symbol, prev_close, lot, sector) in [
            ("INFY", 1502.0, 1.0, Some("IT")),
            ("NSE:INFY", 1502.0, 400.0, Some("IT")),
            ("BSE:INFY", 1502.0, 1.0, Some("IT")),
            ("WIPRO", 250.0, f64::NAN, Some("IT")),
            ("NSE:WIPRO", 250.0, f64::NAN, Some("IT")),
            ("TCS", f64::NAN, 175.0, None),
        ] {
            let numbers = [number(&loaded, "prev_close", symbol), number(&loaded, "lot", symbol)];
            assert_eq!(format!("{numbers:?}"), format!("{:?}", [prev_close, lot]), "{symbol}");
            assert_eq!(text(&loaded, "sector", symbol).as_deref(), sector, "{symbol}");
        }
        assert_eq!(text(&loaded, "expiry", "NSE:INFY").as_deref(), Some("2025-11-25"));
        let preferred =
            load(folder.path(), "[reference]\nfiles = [\"a.parquet\"]\nvenues = [\"NSE\", \"BSE\"]\n").unwrap();
        assert_eq!(number(&preferred, "lot", "INFY"), 400.0);
        let only = load(folder.path(), "[reference]\nfiles = [\"a.parquet\"]\nvenues = [\"bse\"]\n").unwrap();
        assert_eq!((number(&only, "lot", "INFY"), number(&only, "lot", "TCS").is_nan()), (1.0, true));
        let files = loaded.market.reference().files();
        assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [3, 2]);
        assert_ne!(loaded.market.reference().sha256(), only.market.reference().sha256());
        assert_ne!(loaded.market.fingerprint(), only.market.fingerprint());
    }

    #[test]
    fn a_file_that_is_no_reference_data_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content, expected) in [
            ("none.csv", None, "none.csv: can't read the reference data: No such file"),
            ("empty.csv", Some(""), "empty.csv: is empty"),
            ("lines.csv", Some("{\"a\":1}\n"), "lines.csv: has lines of JSON, expected CSV or Parquet"),
            (
                "headless.csv",
                Some("INFY,1500\nTCS,3000\n"),
                "headless.csv: has no column with the symbol (symbol, tradingsymbol, trading_symbol, instrument): its first line must have the names of the columns, and reference.symbol may say which it is; it has INFY, 1500",
            ),
            ("twice.csv", Some("symbol,a,A \nX,1,2\n"), "twice.csv: has the column `a` twice, in positions 2 and 3"),
            ("half.parquet", Some("PAR1half"), "half.parquet: is not a readable Parquet file"),
        ] {
            if let Some(content) = content {
                fs::write(folder.path().join(name), content).unwrap();
            }
            let said = error(folder.path(), &format!("[reference]\nfiles = [\"{name}\"]\n"));
            assert!(said.starts_with(&folder.path().join("config.toml:2:1").display().to_string()), "{said}");
            assert!(said.contains(expected), "{said}");
        }
        fs::write(folder.path().join("ok.csv"), "isin,name,x\nA,B,1\n").unwrap();
        for (keys, expected) in [
            ("symbol = \"ISN\"\n", "has no column `ISN`, which reference.symbol names; it has isin, name, x"),
            ("symbol = \"isin\"\ntexts = [\"xy\"]\n", "reference.texts has `xy`, which is a column of no file"),
            (
                "symbol = \"isin\"\n[reference.columns]\nprev = \"nam\"\n",
                "reference.columns.prev is `nam`, which is a column of no file; did you mean `name`?",
            ),
        ] {
            let said = error(folder.path(), &format!("[reference]\nfiles = [\"ok.csv\"]\n{keys}"));
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn a_hundred_thousand_rows_are_read_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut dump = "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,segment,exchange\n".to_owned();
        for number in 0..100_000 {
            let (name, strike, kind) = (number / 500, 100 * (number / 2 % 250), ["CE", "PE"][number % 2]);
            dump.push_str(&format!("{number},{number},U{name}25NOV{strike}{kind},\"U{name}\",0,2025-11-25,{strike},0.05,75,{kind},NFO-OPT,NFO\n"));
        }
        fs::write(folder.path().join("kite.csv"), &dump).unwrap();
        let loaded = load(folder.path(), "[reference]\nfiles = [\"kite.csv\"]\n").unwrap();
        assert_eq!(loaded.market.reference().len(), 100_000);
        assert_eq!(number(&loaded, "strike", "U7725NOV2500CE"), 2500.0);
        assert_eq!(text(&loaded, "underlying", "U7725NOV2500CE").as_deref(), Some("U77"));
    }
}
