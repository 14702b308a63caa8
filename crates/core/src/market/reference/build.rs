//! Builds reference data from the rows of files.

use anyhow::{Result, bail, ensure};
use rustc_hash::FxHashMap;

use super::{
    EXPIRY, FileStamp, NumberColumn, Reference, ReferenceFile, ReferenceRow, ReferenceSettings, TextColumn,
    column_name,
    date::{day_number, read_date},
};
use crate::{
    market::{UNDERLYING, is_column_of_rows, underlying::underlying},
    nearest::nearest,
    symbol::{SYMBOL_BYTES_MAX, check_symbol},
    text::is_absent,
    venue,
    venue::exchange_of,
};

/// The most columns of a file. A dump of instruments has some twenty, a file of factors perhaps hundreds.
const COLUMNS_MAX: usize = 1000;

/// The most cells of all files, each of which takes 4 bytes while files are read and 8 afterwards.
const CELLS_MAX: usize = 100_000_000;

/// The most rows of all files. All instruments of India's exchanges are 100,000, all options of the United States 2 million.
const ROWS_MAX: usize = 5_000_000;

/// How many columns an error shows, and how much of each name.
const SHOWN: usize = 30;

/// The columns that name the symbol, the first of which counts.
const SYMBOLS: [&str; 4] = ["symbol", "tradingsymbol", "trading_symbol", "instrument"];

/// The columns that name the venue, the first of which counts.
const VENUES: [&str; 3] = ["exchange", "venue", "exch_seg"];

/// What an instrument is: Kite's column of `EQ`, `FUT`, `CE` and `PE`.
const INSTRUMENT_TYPE: &str = "instrument_type";
const OPTION_TYPE: &str = "option_type";
const STRIKE: &str = "strike";
const NAME: &str = "name";

/// Takes the rows of a table.
pub trait TableSink {
    /// Takes the names of the columns, once before all rows.
    ///
    /// # Errors
    /// When the table can't be used.
    fn header(&mut self, names: &[&str]) -> Result<()>;

    /// Takes a row, whose missing cells are empty texts.
    ///
    /// # Errors
    /// When the table can't be used.
    fn row(&mut self, cells: &[&str]) -> Result<()>;
}

/// Joins the rows of files by symbol.
pub struct ReferenceBuilder {
    settings: ReferenceSettings,
    columns: Vec<RawColumn>,
    /// The rows of each name, with their venues; an empty one: any.
    names: FxHashMap<String, Vec<(String, u32)>>,
    /// The number of the file that wrote the row last, from 1 on.
    written_by: Vec<u16>,
    files: Vec<ReferenceFile>,
    file: FileColumns,
    notes: Vec<Finding>,
    text: String,
}

/// What the columns of the present file are.
#[derive(Default)]
struct FileColumns {
    /// The column of each position; `None` for the symbol's.
    columns: Vec<Option<usize>>,
    symbol: usize,
    venue: Option<usize>,
}

/// A column before the type of its values is known.
struct RawColumn {
    name: String,
    /// The number of the text of each row in `distinct`; 0: none.
    rows: Vec<u32>,
    distinct: Vec<Box<str>>,
    numbers: FxHashMap<Box<str>, u32>,
}

/// Something odd that was found several times.
struct Finding {
    what: &'static str,
    cure: &'static str,
    example: String,
    count: usize,
}

impl RawColumn {
    fn new(name: String, rows: usize) -> Self {
        Self { name, rows: vec![0; rows], distinct: Vec::new(), numbers: FxHashMap::default() }
    }

    fn number_of(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        self.distinct.push(text.into());
        let number = self.distinct.len() as u32;
        self.numbers.insert(text.into(), number);
        number
    }

    fn text(&self, row: usize) -> Option<&str> {
        let number = self.rows[row].checked_sub(1)?;
        Some(&self.distinct[number as usize])
    }

    /// Replaces each text; those that become equal are one text then.
    fn unify(&mut self, replace: impl Fn(&str) -> String) {
        let before = std::mem::take(&mut self.distinct);
        self.numbers.clear();
        let renumbered: Vec<u32> = before.iter().map(|text| self.number_of(&replace(text))).collect();
        for number in self.rows.iter_mut().filter(|number| **number != 0) {
            *number = renumbered[*number as usize - 1];
        }
    }
}

impl Finding {
    fn sentence(&self) -> String {
        let Self { what, cure, example, count } = self;
        let example = if example.is_empty() { String::new() } else { format!(" ({example})") };
        let cure = if cure.is_empty() { String::new() } else { format!("; {cure}") };
        format!("{count} {what}{example}{cure}")
    }
}

impl TableSink for ReferenceBuilder {
    fn header(&mut self, names: &[&str]) -> Result<()> {
        ensure!(names.len() <= COLUMNS_MAX, "has {} columns, expected at most {COLUMNS_MAX}", names.len());
        let own: Vec<String> = names.iter().map(|name| column_name(name)).collect();
        let position = |wanted: &str| own.iter().position(|name| *name == column_name(wanted));
        let symbol = &self.settings.symbol;
        let symbol = if symbol.is_empty() { SYMBOLS.iter().find_map(|name| position(name)) } else { position(symbol) };
        let Some(symbol) = symbol else { bail!("{}", self.no_symbol(names)) };
        let venue = VENUES.iter().find_map(|name| position(name));
        let mut columns = Vec::new();
        for (at, name) in own.iter().enumerate() {
            if let Some(first) = own[..at].iter().position(|other| other == name).filter(|_| !name.is_empty()) {
                bail!("has the column `{name}` twice, in positions {} and {}", first + 1, at + 1);
            }
            let renamed = self.settings.columns.iter().find(|(_, column)| column_name(column) == *name);
            let name = renamed.map_or(name, |(renamed, _)| renamed).clone();
            columns.push((at != symbol && !name.is_empty()).then(|| self.column(&name)));
        }
        self.file = FileColumns { columns, symbol, venue };
        Ok(())
    }

    fn row(&mut self, cells: &[&str]) -> Result<()> {
        let mut symbol = std::mem::take(&mut self.text);
        write_cell(cells.get(self.file.symbol), &mut symbol);
        let row = self.find_row(&symbol, cells)?;
        self.text = symbol;
        let Some(row) = row else { return Ok(()) };
        let mut text = std::mem::take(&mut self.text);
        for (position, cell) in cells.iter().enumerate() {
            let Some(Some(column)) = self.file.columns.get(position) else { continue };
            write_cell(Some(cell), &mut text);
            if text.is_empty() {
                continue;
            }
            if let Err(unusable) = check_symbol(&text) {
                let column = &self.columns[*column].name;
                let example =
                    format!("{column}: {}", unusable.to_string().replace("unusable symbol: it", "a text that"));
                self.note("values are left out", "", example);
                continue;
            }
            let column = &mut self.columns[*column];
            let number = column.number_of(&text);
            column.rows[row] = number;
        }
        self.text = text;
        Ok(())
    }
}

impl ReferenceBuilder {
    /// A builder without files.
    pub(crate) fn new(settings: ReferenceSettings) -> Self {
        Self {
            settings,
            columns: Vec::new(),
            names: FxHashMap::default(),
            // Row 0 has no values.
            written_by: vec![0],
            files: Vec::new(),
            file: FileColumns::default(),
            notes: Vec::new(),
            text: String::new(),
        }
    }

    /// Begins the next file.
    pub(super) fn begin_file(&mut self, name: &str, sha256: String, stamp: FileStamp) {
        self.files.push(ReferenceFile { name: name.to_owned(), sha256, stamp, rows: 0 });
    }

    /// Checks that the file has a row for a symbol: what was cut off behind its first line would take all data away.
    ///
    /// # Errors
    /// When it has none.
    pub(super) fn check_rows(&self) -> Result<()> {
        let hint = if self.settings.venues.is_empty() { "" } else { " at one of reference.venues" };
        let has_rows = self.files.last().is_none_or(|file| file.rows > 0);
        ensure!(has_rows, "has no row with a symbol that can be used{hint}; was it cut off behind its first line?");
        Ok(())
    }

    /// The reference data of all files.
    ///
    /// # Errors
    /// When a column that the configuration names is in none of the files.
    pub(crate) fn finish(mut self) -> Result<Reference> {
        self.check_named_columns()?;
        self.join_venues();
        self.derive_from_types();
        let mut reference = Reference { derivative: self.derivatives(), ..Reference::default() };
        let wanted = self.settings.venues.clone();
        for (name, rows) in std::mem::take(&mut self.names) {
            reference.by_name.insert(name.clone(), self.preferred(&name, &rows, &wanted));
            for (venue, row) in rows {
                reference.at_venue.insert(format!("{venue}:{name}"), ReferenceRow(row));
            }
        }
        for column in std::mem::take(&mut self.columns) {
            self.add_column(column, &mut reference);
        }
        reference.underlying = reference.texts.iter().position(|column| column.name == UNDERLYING);
        reference.sha256 = match &self.files[..] {
            [only] => only.sha256.clone(),
            files => super::sha256_of_list(files.iter().map(|file| file.sha256.as_str())),
        };
        reference.notes = self.notes.iter().map(Finding::sentence).collect();
        reference.files = self.files;
        reference.settings = Some(self.settings);
        Ok(reference)
    }

    fn check_named_columns(&self) -> Result<()> {
        let section = &self.settings;
        let known = || self.columns.iter().map(|column| column.name.as_str());
        let lacking = |name: &&String| !self.files.is_empty() && !known().any(|known| known == name.as_str());
        if let Some((name, column)) = section.columns.iter().find(|(name, _)| lacking(name)) {
            let near = nearest(&column_name(column), known()).map(|near| format!("; did you mean `{near}`?"));
            bail!("reference.columns.{name} is `{column}`, which is a column of no file{}", near.unwrap_or_default());
        }
        if let Some(name) = section.texts.iter().find(lacking) {
            let near = nearest(name, known()).map(|near| format!("; did you mean `{near}`?"));
            bail!("reference.texts has `{name}`, which is a column of no file{}", near.unwrap_or_default());
        }
        Ok(())
    }

    /// Gives the rows of a name at a venue the values of the row that names none.
    fn join_venues(&mut self) {
        let Self { names, columns, written_by, .. } = self;
        for rows in names.values().filter(|rows| rows.len() > 1) {
            let Some((_, any)) = rows.iter().find(|(venue, _)| venue.is_empty()) else { continue };
            let any = *any as usize;
            for row in rows.iter().map(|(_, row)| *row as usize).filter(|row| *row != any) {
                for column in columns.iter_mut().filter(|column| column.rows[any] != 0) {
                    if column.rows[row] == 0 || written_by[any] > written_by[row] {
                        column.rows[row] = column.rows[any];
                    }
                }
            }
        }
    }

    /// Adds what follows from Kite's `instrument_type` and `name`: underlying, type of option, and that a share has no strike.
    fn derive_from_types(&mut self) {
        let rows = self.written_by.len();
        let find = |columns: &[RawColumn], name: &str| columns.iter().position(|column| column.name == name);
        for column in self.columns.iter_mut().filter(|column| [OPTION_TYPE, INSTRUMENT_TYPE].contains(&&*column.name)) {
            column.unify(option_type);
        }
        let Some(kinds) = find(&self.columns, INSTRUMENT_TYPE) else { return };
        if find(&self.columns, OPTION_TYPE).is_none() {
            let own = &self.columns[kinds];
            let (own_rows, distinct) = (own.rows.clone(), own.distinct.clone());
            self.columns.push(RawColumn { rows: own_rows, distinct, ..RawColumn::new(OPTION_TYPE.to_owned(), 0) });
        }
        let names = find(&self.columns, NAME);
        if let Some(names) = names.filter(|_| find(&self.columns, UNDERLYING).is_none()) {
            let mut of_row = RawColumn::new(UNDERLYING.to_owned(), rows);
            for row in 1..rows {
                // The name of a share is that of its company.
                let is_derivative = self.columns[kinds].text(row).is_some_and(is_derivative_type);
                if let Some(name) = self.columns[names].text(row).filter(|_| is_derivative) {
                    of_row.rows[row] = of_row.number_of(name);
                }
            }
            self.columns.push(of_row);
        }
        if let Some(strikes) = find(&self.columns, STRIKE) {
            for row in 1..rows {
                let is_option = self.columns[kinds].text(row).is_none_or(is_option_type);
                let strike = self.columns[strikes].text(row).and_then(|text| text.parse().ok());
                if !is_option && strike == Some(0.0) {
                    self.columns[strikes].rows[row] = 0;
                }
            }
        }
    }

    /// Whether each row is a future or an option, where the data says so.
    fn derivatives(&self) -> Vec<Option<bool>> {
        let find = |name: &str| self.columns.iter().find(|column| column.name == name);
        let (types, expiry) = (find(INSTRUMENT_TYPE).or_else(|| find(OPTION_TYPE)), find(EXPIRY));
        let judge = |row: usize| {
            if let Some(kind) = types.and_then(|types| types.text(row)) {
                return Some(is_derivative_type(kind));
            }
            expiry.and_then(|expiry| read_date(expiry.text(row)?, &self.settings.zone)).map(|_| true)
        };
        (0..self.written_by.len()).map(judge).collect()
    }

    /// The row that stands for a name without a venue.
    fn preferred(&mut self, name: &str, rows: &[(String, u32)], wanted: &[String]) -> ReferenceRow {
        let rank = |venue: &str| wanted.iter().position(|wanted| wanted.eq_ignore_ascii_case(venue));
        let at_venues = rows.iter().filter(|(venue, _)| !venue.is_empty());
        if at_venues.clone().count() > 1 && wanted.is_empty() {
            let venues: Vec<&str> = at_venues.clone().map(|(venue, _)| venue.as_str()).collect();
            self.note(
                "symbols are in the data at several venues, of which the last one counts for symbols without a venue",
                "reference.venues says which are used",
                format!("{name} at {}", venues.join(", ")),
            );
        }
        let best = at_venues.min_by_key(|(venue, row)| (rank(venue).unwrap_or(usize::MAX), std::cmp::Reverse(*row)));
        ReferenceRow(best.or(rows.first()).map_or(0, |(_, row)| *row))
    }

    /// Adds a column of numbers or of texts, whichever its values are.
    fn add_column(&mut self, mut column: RawColumn, reference: &mut Reference) {
        let name = column.name.clone();
        let mut is_used = vec![false; column.distinct.len() + 1];
        column.rows.iter().for_each(|number| is_used[*number as usize] = true);
        if !is_used[1..].contains(&true) {
            return self.note("columns have no values, and are left out", "", name);
        }
        let mut odd = None;
        if name == EXPIRY {
            reference.expiry = self.expiry_days(&mut column);
        } else if name == UNDERLYING {
            // So that an underlying has one name, whoever names it.
            column.unify(underlying);
        } else if !self.settings.texts.contains(&name) && !matches!(name.as_str(), OPTION_TYPE | INSTRUMENT_TYPE) {
            let numbers = column.distinct.iter().zip(&is_used[1..]);
            let numbers: Option<Vec<f64>> =
                numbers.map(|(text, is_used)| number(text).or_else(|| (!is_used).then_some(f64::NAN))).collect();
            // Texts are not columns of rows, so that a context may have the name of the text that names its source.
            if numbers.is_some() && (is_column_of_rows(&name) || self.settings.taken.contains(&name)) {
                reference.taken.push(name.clone());
                let cure = "[reference.columns] can give them other names";
                let what = "columns are left out, since ticks, bars or contexts have columns of their names";
                return self.note(what, cure, name);
            }
            if let Some(numbers) = numbers {
                let value = |number: &u32| number.checked_sub(1).map_or(f64::NAN, |number| numbers[number as usize]);
                reference.numbers.push(NumberColumn { name, values: column.rows.iter().map(value).collect() });
                return;
            }
            let used =
                || column.distinct.iter().zip(&is_used[1..]).filter(|(_, is_used)| **is_used).map(|(text, _)| text);
            if used().any(|text| number(text).is_some()) {
                odd = used().find(|text| number(text).is_none()).cloned();
            }
        }
        reference.texts.push(TextColumn { name, values: column.rows, distinct: column.distinct, odd });
    }

    /// The days of expiry by row. The texts of the column become `YYYY-MM-DD`.
    fn expiry_days(&mut self, column: &mut RawColumn) -> Vec<f64> {
        let dates: Vec<_> = column.distinct.iter().map(|text| read_date(text, &self.settings.zone)).collect();
        for (text, _) in column.distinct.iter().zip(&dates).filter(|(_, date)| date.is_none()) {
            self.note(
                "values of expiry are not dates",
                "expected dates such as 2025-11-25 or 25-Nov-2025",
                text.to_string(),
            );
        }
        let date = |number: &u32| number.checked_sub(1).and_then(|number| dates[number as usize]);
        let days = column.rows.iter().map(|number| date(number).map_or(f64::NAN, |date| f64::from(day_number(date))));
        let days = days.collect();
        column.unify(|text| {
            read_date(text, &self.settings.zone).map_or_else(|| text.to_owned(), |date| date.to_string())
        });
        days
    }

    fn no_symbol(&self, names: &[&str]) -> String {
        let shown = names.iter().take(SHOWN).map(|name| name.chars().take(SHOWN).collect::<String>());
        let shown = shown.collect::<Vec<_>>().join(", ");
        match self.settings.symbol.as_str() {
            "" => format!(
                "has no column with the symbol ({}): its first line must have the names of the columns, and reference.symbol may \
                 say which it is; it has {shown}",
                SYMBOLS.join(", ")
            ),
            wanted => {
                let near = nearest(wanted, names.iter().copied());
                let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                format!("has no column `{wanted}`, which reference.symbol names; it has {shown}{near}")
            }
        }
    }

    fn column(&mut self, name: &str) -> usize {
        self.columns.iter().position(|column| column.name == name).unwrap_or_else(|| {
            self.columns.push(RawColumn::new(name.to_owned(), self.written_by.len()));
            self.columns.len() - 1
        })
    }

    /// The row that a symbol's values go to; `None` if they are left out.
    fn find_row(&mut self, symbol: &str, cells: &[&str]) -> Result<Option<usize>> {
        if symbol.is_empty() {
            self.note("rows without a symbol are left out", "", String::new());
            return Ok(None);
        }
        // pandas writes a column of integers as floats if some of them are missing.
        let symbol = symbol.strip_suffix(".0").filter(|token| is_digits(token)).unwrap_or(symbol).to_uppercase();
        if let Err(unusable) = check_symbol(&symbol) {
            self.note("rows are left out", "", unusable.to_string());
            return Ok(None);
        }
        let (own, name) = venue::split(&symbol);
        let mut venue = String::new();
        write_cell(self.file.venue.and_then(|at| cells.get(at)), &mut venue);
        let venue = exchange_of(own.unwrap_or(&venue)).unwrap_or_default();
        let wanted = &self.settings.venues;
        if !venue.is_empty() && !wanted.is_empty() && !wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(&venue)) {
            return Ok(None);
        }
        let file = self.files.len() as u16;
        if let Some(last) = self.files.last_mut() {
            last.rows += 1;
        }
        let rows = self.names.entry(name.to_owned()).or_default();
        if let Some((_, row)) = rows.iter().find(|(known, _)| *known == venue) {
            let row = *row as usize;
            if std::mem::replace(&mut self.written_by[row], file) == file {
                self.note("symbols have several rows in one file, of which the last values count", "", symbol);
            }
            return Ok(Some(row));
        }
        let row = self.written_by.len();
        ensure!(
            row <= ROWS_MAX && row * self.columns.len() <= CELLS_MAX,
            "has more than {ROWS_MAX} symbols, or {CELLS_MAX} cells: reference.venues can leave out the rows of other venues"
        );
        rows.push((venue, row as u32));
        self.written_by.push(file);
        self.columns.iter_mut().for_each(|column| column.rows.push(0));
        Ok(Some(row))
    }

    fn note(&mut self, what: &'static str, cure: &'static str, example: String) {
        match self.notes.iter_mut().find(|finding| finding.what == what) {
            Some(finding) => finding.count += 1,
            None => self.notes.push(Finding { what, cure, example, count: 1 }),
        }
    }
}

/// Writes the text of a cell; nothing if it means "no value".
fn write_cell(cell: Option<&&str>, text: &mut String) {
    text.clear();
    let cell = cell.map_or("", |cell| cell.trim());
    if !is_absent(cell) {
        // Texts that are much longer than any name are not copied whole, but just enough to be too long.
        text.extend(cell.chars().take(SYMBOL_BYTES_MAX + 1));
    }
}

/// The number that a text means: `true` is 1, and infinity is no value, like NaN.
fn number(text: &str) -> Option<f64> {
    let number: f64 = match text {
        "true" | "True" | "TRUE" => 1.0,
        "false" | "False" | "FALSE" => 0.0,
        text => text.parse().ok()?,
    };
    Some(if number.is_finite() { number } else { f64::NAN })
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The type of an option as `CE` or `PE`, and any other type in upper case.
fn option_type(text: &str) -> String {
    match text.to_uppercase().as_str() {
        "C" | "CALL" => "CE".to_owned(),
        "P" | "PUT" => "PE".to_owned(),
        other => other.to_owned(),
    }
}

/// Whether Kite's `CE`, `PE` and `FUT`, or another broker's `OPTIDX` or `FUTSTK`, is a future or an option.
fn is_derivative_type(kind: &str) -> bool {
    is_option_type(kind) || kind.starts_with("FUT")
}

fn is_option_type(kind: &str) -> bool {
    matches!(kind, "CE" | "PE") || kind.starts_with("OPT")
}
