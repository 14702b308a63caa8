//! Pages of a column as the decoders of the parquet crate take them: those which would make a decoder panic, or read nonsense,
//! are errors.

use parquet::{
    basic::Encoding,
    column::page::{Page, PageMetadata, PageReader},
    errors::ParquetError,
};

/// The pages of a column, each of which passes `check`.
struct CheckedPages<F> {
    /// A page to deliver before the others.
    first: Option<Page>,
    pages: Box<dyn PageReader>,
    check: F,
}

/// The pages of a column. A page whose dictionary is missing is an error.
pub(super) fn with_dictionary(pages: Box<dyn PageReader>) -> Box<dyn PageReader> {
    let mut has_dictionary = false;
    let check = move |page: &Page| match page {
        Page::DictionaryPage { .. } => {
            has_dictionary = true;
            Ok(())
        }
        page if refers_to_dictionary(page) && !has_dictionary => {
            Err(ParquetError::General("a column has no dictionary".into()))
        }
        _ => Ok(()),
    };
    Box::new(CheckedPages { first: None, pages, check })
}

/// The pages of a column that refer to its dictionary, behind `dictionary`, which takes the place of the original one. A page
/// of another kind is an error.
pub(super) fn with_other_dictionary(dictionary: Page, pages: Box<dyn PageReader>) -> Box<dyn PageReader> {
    let check = |page: &Page| match page {
        page if refers_to_dictionary(page) => Ok(()),
        _ => Err(ParquetError::General("a column has a page that its metadata denies".into())),
    };
    Box::new(CheckedPages { first: Some(dictionary), pages, check })
}

fn refers_to_dictionary(page: &Page) -> bool {
    let is_dictionary = matches!(page, Page::DictionaryPage { .. });
    !is_dictionary && matches!(page.encoding(), Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY)
}

impl<F: FnMut(&Page) -> Result<(), ParquetError> + Send> PageReader for CheckedPages<F> {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let page = self.pages.get_next_page()?;
        page.as_ref().map_or(Ok(()), &mut self.check)?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.pages.skip_next_page()
    }
}

impl<F: FnMut(&Page) -> Result<(), ParquetError> + Send> Iterator for CheckedPages<F> {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}
