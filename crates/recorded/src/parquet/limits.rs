//! Limits on what a Parquet file may ask for, checked before the parquet crate reserves memory or recurses for it.
//!
//! What holds: memory follows from the size of the file, not from numbers in it. A file of a kilobyte that states a page of
//! two gigabytes, a schema of a thousand levels, or a dictionary of a billion texts is an error.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result, bail, ensure};
use flate2::bufread::MultiGzDecoder;
use parquet::{
    basic::{Compression, Encoding},
    column::page::{Page, PageMetadata, PageReader},
    errors::ParquetError,
    file::metadata::ColumnChunkMetaData,
};

use super::{
    delta,
    thrift::{Shape, ThriftReader},
};

/// The longest metadata of a file, bytes: that of some 100,000 columns in row groups. The crate reads it at once, into some
/// ten times as much memory.
const METADATA_MAX: u64 = 64 << 20;

/// The most columns, and groups of columns, of a schema: far more than any table of ticks has.
const COLUMNS_MAX: usize = 10_000;

/// How deep columns may be within others. The crate builds the schema by recursion, and a thousand levels overflow a stack.
const SCHEMA_DEPTH_MAX: usize = 64;

/// The longest head of a page, bytes: it has the least and the greatest value, which are short texts or numbers.
const PAGE_HEAD_MAX: u64 = 1 << 20;

/// A page may be as long as this however well it is compressed. Writers make pages of about 1 MiB.
const PAGE_MIN_ALLOWED: u64 = 16 << 20;

/// The most by which a longer page may have been compressed: a little more than gzip can.
const RATIO_MAX: u64 = 1100;

/// The most bytes of pages and dictionaries that are in memory at once, over all columns that are read.
const HELD_MAX: u64 = 1 << 30;

/// A value of a dictionary takes so many times the memory of its bytes in the page.
const DICTIONARY_FACTOR: u64 = 8;

/// The most values of a page. Writers put 20,000 rows into a page, some a whole row group of a million.
const PAGE_VALUES_MAX: i64 = 1 << 24;

/// How far a page by gzip may exceed its stated length. The crate does not check that while it unpacks; a page that could
/// exceed it by more is unpacked once more before, without being stored.
const GZIP_SLACK: u64 = 256 << 20;

/// The most by which gzip can compress.
const GZIP_RATIO: u64 = 1032;

/// The fields of an element of a schema.
const SCHEMA_ELEMENT: &[(i16, Shape)] = {
    use Shape::{Byte, Bytes, Fields, Flag, Int32};
    const NONE: Shape = Fields(&[]);
    const TIME: Shape = Fields(&[(1, Flag), (2, Fields(&[(1, NONE), (2, NONE), (3, NONE)]))]);
    const LOGICAL_TYPE: Shape = Fields(&[
        (1, NONE),
        (2, NONE),
        (3, NONE),
        (4, NONE),
        (5, Fields(&[(1, Int32), (2, Int32)])),
        (6, NONE),
        (7, TIME),
        (8, TIME),
        (10, Fields(&[(1, Byte), (2, Flag)])),
        (11, NONE),
        (12, NONE),
        (13, NONE),
        (14, NONE),
        (15, NONE),
        (16, Fields(&[(1, Byte)])),
        (17, Fields(&[(1, Bytes)])),
        (18, Fields(&[(1, Bytes), (2, Int32)])),
    ]);
    &[
        (1, Int32),
        (2, Int32),
        (3, Int32),
        (4, Bytes),
        (NUM_CHILDREN, Int32),
        (6, Int32),
        (7, Int32),
        (8, Int32),
        (9, Int32),
        (10, LOGICAL_TYPE),
    ]
};
const NUM_CHILDREN: i16 = 5;

/// The fields of the head of a page.
const PAGE_HEAD: &[(i16, Shape)] = {
    use Shape::{Bytes, Fields, Flag, Int32, Int64};
    const STATISTICS: Shape = Fields(&[
        (1, Bytes),
        (2, Bytes),
        (3, Int64),
        (4, Int64),
        (5, Bytes),
        (6, Bytes),
        (7, Flag),
        (8, Flag),
        (9, Int64),
    ]);
    &[
        (PAGE_TYPE, Int32),
        (UNPACKED_SIZE, Int32),
        (PACKED_SIZE, Int32),
        (4, Int32),
        (5, Fields(&[(1, Int32), (2, Int32), (3, Int32), (4, Int32), (5, STATISTICS)])),
        (6, Fields(&[])),
        (DICTIONARY_HEAD, Fields(&[(1, Int32), (2, Int32), (3, Flag)])),
        (
            8,
            Fields(&[
                (1, Int32),
                (2, Int32),
                (3, Int32),
                (4, Int32),
                (5, Int32),
                (6, Int32),
                (7, Flag),
                (8, STATISTICS),
            ]),
        ),
    ]
};
const PAGE_TYPE: i16 = 1;
const UNPACKED_SIZE: i16 = 2;
const PACKED_SIZE: i16 = 3;
const DICTIONARY_HEAD: i16 = 7;
/// The type of a page without values, which the crate passes over.
const INDEX_PAGE: i64 = 1;

/// Checks the length of a file's metadata and its schema.
///
/// # Errors
/// A limit is exceeded, or the metadata is damaged.
pub(super) fn check_schema(file: &File) -> Result<()> {
    const END: u64 = 8;
    let size = file.metadata()?.len();
    let mut end = [0; END as usize];
    file.read_exact_at(&mut end, size.checked_sub(END).context("it is too short")?)?;
    let length = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    ensure!(length <= METADATA_MAX, "its metadata is longer than {} MiB", METADATA_MAX >> 20);
    let start = size.checked_sub(END + length).context("its metadata is cut off")?;
    let mut metadata = vec![0; length as usize];
    file.read_exact_at(&mut metadata, start)?;
    let mut reader = ThriftReader::new(&metadata);
    reader.expect_field(0, 1, Shape::Int32)?;
    reader.integer()?;
    let elements = reader.expect_list(1, 2)?;
    ensure!(elements <= COLUMNS_MAX, "its schema has more than {COLUMNS_MAX} columns");
    // The numbers of children that are still to come, of each group that is open.
    let mut open: Vec<usize> = Vec::new();
    for _ in 0..elements {
        let mut children = 0;
        reader.structure(SCHEMA_ELEMENT, &mut Vec::new(), &mut |(path, value)| {
            if path == [NUM_CHILDREN] {
                children = value;
            }
        })?;
        let children = usize::try_from(children).ok().filter(|children| *children < elements);
        let children = children.context("its schema has a group with more columns than there are")?;
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        open.push(children);
        while open.last() == Some(&0) {
            open.pop();
        }
        ensure!(open.len() <= SCHEMA_DEPTH_MAX, "its columns are nested more than {SCHEMA_DEPTH_MAX} levels deep");
    }
    Ok(())
}

/// The bytes of pages and dictionaries that are in memory, of all columns of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct HeldBytes(Arc<AtomicU64>);

/// The pages of a column, each of which is within the limits.
pub(super) struct LimitedPages {
    pages: Box<dyn PageReader>,
    file: Arc<File>,
    /// Where the next head of a page is, and how many bytes of the column are left from there.
    next: u64,
    left: u64,
    is_gzip: bool,
    /// Whether rows may have no value.
    is_optional: bool,
    held: HeldBytes,
    dictionary: u64,
    page: u64,
}

impl LimitedPages {
    /// The same pages, read from `file` through the checks.
    pub(super) fn over(
        pages: Box<dyn PageReader>,
        file: Arc<File>,
        column: &ColumnChunkMetaData,
        held: HeldBytes,
    ) -> Result<Box<dyn PageReader>> {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        Ok(Box::new(Self {
            pages,
            file,
            next: u64::try_from(start)?,
            left: u64::try_from(column.compressed_size())?,
            is_gzip: matches!(column.compression(), Compression::GZIP(_)),
            is_optional: column.column_descr().max_def_level() > 0,
            held,
            dictionary: 0,
            page: 0,
        }))
    }

    /// Checks the heads of the pages up to the next one that the crate will unpack.
    fn check_next(&mut self) -> Result<()> {
        while self.left > 0 {
            let head = self.read_head()?;
            let start = self.next + head.length;
            ensure!(head.length + head.packed <= self.left, "a page is longer than its column");
            self.next = start + head.packed;
            self.left -= head.length + head.packed;
            if head.is_index {
                continue;
            }
            ensure!(head.values <= PAGE_VALUES_MAX, "a page has more than {PAGE_VALUES_MAX} values");
            let most = PAGE_MIN_ALLOWED.max(head.packed.saturating_mul(RATIO_MAX));
            ensure!(head.unpacked <= most, "a page of {} bytes would take {} bytes", head.packed, head.unpacked);
            self.hold(&head)?;
            if self.is_gzip && head.packed.saturating_mul(GZIP_RATIO) > head.unpacked + GZIP_SLACK {
                self.check_gzip(start, &head)?;
            }
            break;
        }
        Ok(())
    }

    fn read_head(&self) -> Result<PageHead> {
        const FIRST_READ: u64 = 512;
        let mut wanted = FIRST_READ;
        loop {
            let mut bytes = vec![0; wanted.min(self.left) as usize];
            self.file.read_exact_at(&mut bytes, self.next).context("a column is cut off")?;
            match PageHead::parse(&bytes) {
                Err(_) if wanted < self.left && wanted < PAGE_HEAD_MAX => wanted *= 8,
                head => return head,
            }
        }
    }

    /// Counts what the page takes, instead of the page before it.
    fn hold(&mut self, head: &PageHead) -> Result<()> {
        let before = self.dictionary + self.page;
        if head.is_dictionary {
            self.dictionary = head.unpacked.saturating_mul(DICTIONARY_FACTOR);
        } else {
            self.page = head.unpacked;
        }
        let now = self.dictionary + self.page;
        let total = self.held.0.fetch_add(now.wrapping_sub(before), Relaxed).wrapping_add(now.wrapping_sub(before));
        ensure!(total <= HELD_MAX, "its pages take more than {} MiB at once", HELD_MAX >> 20);
        Ok(())
    }

    /// Unpacks a page without storing it, to see whether it is as long as it states.
    fn check_gzip(&self, start: u64, head: &PageHead) -> Result<()> {
        let mut packed = vec![0; usize::try_from(head.packed)?];
        self.file.read_exact_at(&mut packed, start).context("a page is cut off")?;
        check_unpacked(&packed, head.unpacked)
    }

    fn check_page(&self, page: &Page) -> Result<()> {
        match page {
            // A value takes a byte at least, for the crate reserves memory for as many as are stated.
            Page::DictionaryPage { buf, num_values, .. } => {
                ensure!(*num_values as usize <= buf.len(), "a dictionary states more values than it has");
            }
            Page::DataPage { buf, num_values, encoding, def_level_encoding, .. } => {
                let values = *num_values as usize;
                let levels = match def_level_encoding {
                    _ if !self.is_optional => 0,
                    Encoding::RLE => {
                        let length = buf.first_chunk::<4>().context("a page is cut off")?;
                        4 + u32::from_le_bytes(*length) as usize
                    }
                    _ => values.div_ceil(8),
                };
                delta::check(*encoding, buf.get(levels..).context("a page is cut off")?, values)?;
            }
            Page::DataPageV2 { buf, num_values, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let levels = *def_levels_byte_len as usize + *rep_levels_byte_len as usize;
                delta::check(*encoding, buf.get(levels..).context("a page is cut off")?, *num_values as usize)?;
            }
        }
        Ok(())
    }
}

/// Checks that what gzip has packed is not longer than this.
fn check_unpacked(packed: &[u8], most: u64) -> Result<()> {
    let mut unpacked = MultiGzDecoder::new(packed).take(most + 1);
    let length = std::io::copy(&mut unpacked, &mut std::io::sink())?;
    ensure!(length <= most, "a page is longer than it states");
    Ok(())
}

impl Drop for LimitedPages {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.dictionary + self.page, Relaxed);
    }
}

impl PageReader for LimitedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        self.check_next().map_err(too_much)?;
        let page = self.pages.get_next_page()?;
        page.as_ref().map_or(Ok(()), |page| self.check_page(page)).map_err(too_much)?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.check_next().map_err(too_much)?;
        self.pages.skip_next_page()
    }
}

impl Iterator for LimitedPages {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

fn too_much(error: anyhow::Error) -> ParquetError {
    ParquetError::General(format!("{error:#}"))
}

/// What the head of a page states. Where it states something twice, the greater value counts.
#[derive(Debug, Default)]
struct PageHead {
    /// The length of the head itself, bytes.
    length: u64,
    packed: u64,
    unpacked: u64,
    values: i64,
    is_dictionary: bool,
    is_index: bool,
}

impl PageHead {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = ThriftReader::new(bytes);
        let mut head = Self::default();
        let (mut packed, mut unpacked) = (0, 0);
        reader.structure(PAGE_HEAD, &mut Vec::new(), &mut |(path, value)| match path {
            [PAGE_TYPE] => head.is_index = value == INDEX_PAGE,
            [UNPACKED_SIZE] => unpacked = value.max(unpacked),
            [PACKED_SIZE] => packed = value.max(packed),
            [kind, 1] => {
                head.is_dictionary |= *kind == DICTIONARY_HEAD;
                head.values = value.max(head.values);
            }
            _ => {}
        })?;
        if packed > i64::from(i32::MAX) || unpacked > i64::from(i32::MAX) {
            bail!("a page is longer than the format allows");
        }
        (head.packed, head.unpacked) = (packed as u64, unpacked as u64);
        head.length = (bytes.len() - reader.remaining()) as u64;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MIB: i64 = 1 << 20;

    struct NoPages;

    impl Iterator for NoPages {
        type Item = Result<Page, ParquetError>;

        fn next(&mut self) -> Option<Self::Item> {
            None
        }
    }

    impl PageReader for NoPages {
        fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
            Ok(None)
        }

        fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
            Ok(None)
        }

        fn skip_next_page(&mut self) -> Result<(), ParquetError> {
            Ok(())
        }
    }

    fn field(bytes: &mut Vec<u8>, head: u8, value: i64) {
        bytes.push(head);
        let mut value = ((value << 1) ^ (value >> 63)) as u64;
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
    }

    /// The head of a page: its type, its length unpacked and packed, and its number of values.
    fn head(kind: i64, unpacked: i64, packed: i64, values: i64) -> Vec<u8> {
        let mut bytes = Vec::new();
        [kind, unpacked, packed].into_iter().for_each(|value| field(&mut bytes, 0x15, value));
        // A data page has the field 5, a dictionary the field 7; the first field of both is the number of values.
        bytes.push(if kind == 2 { 0x4c } else { 0x2c });
        field(&mut bytes, 0x15, values);
        bytes.extend([0, 0]);
        bytes
    }

    /// A column of pages, each a head and its content.
    fn column(pages: &[(Vec<u8>, usize)], held: &HeldBytes) -> LimitedPages {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> =
            pages.iter().flat_map(|(head, packed)| [head.clone(), vec![0; *packed]].concat()).collect();
        file.write_all(&bytes).unwrap();
        LimitedPages {
            pages: Box::new(NoPages),
            file: Arc::new(file),
            next: 0,
            left: bytes.len() as u64,
            is_gzip: false,
            is_optional: false,
            held: held.clone(),
            dictionary: 0,
            page: 0,
        }
    }

    fn error(head: Vec<u8>, packed: usize) -> String {
        column(&[(head, packed)], &HeldBytes::default()).check_next().unwrap_err().to_string()
    }

    #[test]
    fn a_page_is_within_its_limits() {
        let held = HeldBytes::default();
        let index = (head(1, 10, 10, 0), 10);
        let sound = [(head(2, 8, 8, 2), 8), index, (head(0, 16 * MIB, 10, 1 << 24), 10)];
        let mut pages = column(&sound, &held);
        pages.check_next().unwrap();
        pages.check_next().unwrap();
        // The dictionary counts several times, and the index not at all.
        assert_eq!((pages.left, held.0.load(Relaxed)), (0, 64 + 16 * MIB as u64));
        drop(pages);
        assert_eq!(held.0.load(Relaxed), 0);

        assert!(error(head(0, 16 * MIB + 1, 10, 1), 10).contains("would take 16777217 bytes"));
        assert!(error(head(0, i64::from(i32::MAX), 1000, 1), 1000).contains("would take 2147483647 bytes"));
        assert!(error(head(0, 1 << 40, 10, 1), 10).contains("longer than the format allows"));
        assert!(error(head(0, 10, 10, (1 << 24) + 1), 10).contains("more than 16777216 values"));
        assert!(error(head(0, 10, 11, 1), 10).contains("longer than its column"));
        assert!(error(head(0, 10, 10, 1)[..5].to_vec(), 0).contains("cut off"));
    }

    /// Each page is allowed, but there are many columns.
    #[test]
    fn the_pages_of_all_columns_are_limited_together() {
        let held = HeldBytes::default();
        let open = || column(&[(head(0, 16 * MIB, 10, 1), 10)], &held);
        let mut columns: Vec<LimitedPages> = (0..64).map(|_| open()).collect();
        columns.iter_mut().for_each(|column| column.check_next().unwrap());
        let error = open().check_next().unwrap_err().to_string();
        assert_eq!(error, "its pages take more than 1024 MiB at once");
        drop(columns);
        assert_eq!(held.0.load(Relaxed), 0);
    }

    #[test]
    fn a_page_by_gzip_is_as_long_as_it_states() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(&[0; 100_000]).unwrap();
        let packed = packed.finish().unwrap();
        assert!(packed.len() < 1000);
        check_unpacked(&packed, 100_000).unwrap();
        assert!(check_unpacked(&packed, 99_999).unwrap_err().to_string().contains("longer than it states"));
    }
}
