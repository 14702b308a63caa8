//! The texts of a column, in one piece of memory.
//!
//! What holds: where a column has a dictionary of its texts, a row refers to the dictionary, and no text is copied.

use std::{ops::Range, sync::Arc};

use anyhow::{Context, Result, ensure};
use parquet::{
    basic::{Encoding, Type as PhysicalType},
    column::{
        page::{Page, PageReader},
        reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader},
    },
    data_type::Int32Type,
    schema::types::{ColumnDescriptor, Type},
};

use super::pages;

/// A text of each row.
#[derive(Clone)]
pub(super) struct Texts {
    text: Arc<str>,
    /// Where the text of each row is; `None` if the row has none.
    spans: Vec<Option<Range<u32>>>,
}

impl Texts {
    /// Joins the texts of all rows.
    pub(super) fn join<T: AsRef<str>>(texts: impl Iterator<Item = Result<Option<T>>>) -> Result<Self> {
        let (mut text, mut spans) = (String::new(), Vec::with_capacity(texts.size_hint().0));
        for row in texts {
            let start = text.len();
            spans.push(match row? {
                Some(row) => {
                    text.push_str(row.as_ref());
                    Some(position(start)?..position(text.len())?)
                }
                None => None,
            });
        }
        Ok(Self { text: text.into(), spans })
    }

    /// The text of a row.
    pub(super) fn get(&self, row: usize) -> Option<&str> {
        let span = self.spans[row].as_ref()?;
        self.text.get(span.start as usize..span.end as usize)
    }
}

/// The most bytes of texts of the rows that are read at once, of one column. A dictionary with a long text would fill the
/// memory otherwise: each row may refer to it.
const JOINED_MAX: u32 = 256 << 20;

fn position(bytes: usize) -> Result<u32> {
    let position = u32::try_from(bytes).ok().filter(|bytes| *bytes <= JOINED_MAX);
    position.with_context(|| format!("the texts of a column take more than {} MiB at once", JOINED_MAX >> 20))
}

/// A column of which each row refers to a dictionary of texts.
pub(super) struct TextDictionary {
    /// Reads the position of each row's text in the dictionary.
    pub(super) positions: ColumnReaderImpl<Int32Type>,
    texts: Texts,
}

impl TextDictionary {
    /// Reads the dictionary; `None` if the column begins with another page.
    pub(super) fn open(column: &ColumnDescriptor, mut pages: Box<dyn PageReader>) -> Result<Option<Self>> {
        let Some(Page::DictionaryPage { buf, num_values, .. }) = pages.get_next_page()? else {
            return Ok(None);
        };
        ensure!(num_values as usize <= buf.len() / 4, "a dictionary is too short");
        let texts = Texts::join(plain_texts(&buf, num_values))?;
        // The decoder of integers reads the references, if the dictionary has at each position the position itself.
        let itself: Vec<u8> = (0..num_values).flat_map(u32::to_le_bytes).collect();
        let encoding = Encoding::PLAIN;
        let dictionary = Page::DictionaryPage { buf: itself.into(), num_values, encoding, is_sorted: true };
        let integer = Type::primitive_type_builder(column.name(), PhysicalType::INT32).build()?;
        let levels = (column.max_def_level(), column.max_rep_level());
        let integers = ColumnDescriptor::new(Arc::new(integer), levels.0, levels.1, column.path().clone());
        let reader = get_column_reader(Arc::new(integers), pages::with_other_dictionary(dictionary, pages));
        Ok(Some(Self { positions: get_typed_column_reader(reader), texts }))
    }

    /// The texts at these positions of the dictionary.
    pub(super) fn texts(&self, positions: impl Iterator<Item = Option<i32>>) -> Texts {
        let span = |position: Option<i32>| self.texts.spans.get(usize::try_from(position?).ok()?)?.clone();
        Texts { text: self.texts.text.clone(), spans: positions.map(span).collect() }
    }
}

/// The texts of a dictionary page: each has its length before it.
fn plain_texts(mut bytes: &[u8], count: u32) -> impl Iterator<Item = Result<Option<&str>>> {
    (0..count).map(move |_| {
        let (length, rest) = bytes.split_first_chunk::<4>().context("a dictionary is too short")?;
        let length = u32::from_le_bytes(*length) as usize;
        ensure!(length <= rest.len(), "a dictionary is too short");
        let (text, rest) = rest.split_at(length);
        bytes = rest;
        Ok(Some(std::str::from_utf8(text).context("a text is not UTF-8")?))
    })
}
