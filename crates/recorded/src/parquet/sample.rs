//! Writes Parquet files for tests, each column of the type that its declaration names.

use std::{fs::File, path::Path, sync::Arc};

use parquet::{
    data_type::{
        BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, FloatType,
        Int32Type, Int64Type, Int96, Int96Type,
    },
    file::{
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::parser::parse_message_type,
};

/// A declaration such as `optional int64 volume`, and the values of the column.
pub(crate) type Column = (String, Values);

/// The values of a column by its physical type.
#[derive(Clone)]
pub(crate) enum Values {
    Flags(Vec<Option<bool>>),
    Int32(Vec<Option<i32>>),
    Int64(Vec<Option<i64>>),
    Int96(Vec<Option<Int96>>),
    Float(Vec<Option<f32>>),
    Double(Vec<Option<f64>>),
    Bytes(Vec<Option<ByteArray>>),
    Fixed(Vec<Option<FixedLenByteArray>>),
}

/// Writes a file with one row group.
pub(crate) fn write(file: &Path, columns: &[Column]) {
    write_groups(file, &[columns.to_vec()], WriterProperties::new());
}

/// Writes a file with several row groups of the same columns.
pub(crate) fn write_groups(file: &Path, groups: &[Vec<Column>], properties: WriterProperties) {
    let declarations: Vec<&str> = groups[0].iter().map(|(declaration, _)| declaration.as_str()).collect();
    let schema = parse_message_type(&format!("message schema {{ {}; }}", declarations.join("; "))).unwrap();
    let file = File::create(file).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).unwrap();
    for columns in groups {
        let mut group = writer.next_row_group().unwrap();
        for (_, values) in columns {
            let mut column = group.next_column().unwrap().unwrap();
            match values {
                Values::Flags(values) => put::<BoolType>(&mut column, values),
                Values::Int32(values) => put::<Int32Type>(&mut column, values),
                Values::Int64(values) => put::<Int64Type>(&mut column, values),
                Values::Int96(values) => put::<Int96Type>(&mut column, values),
                Values::Float(values) => put::<FloatType>(&mut column, values),
                Values::Double(values) => put::<DoubleType>(&mut column, values),
                Values::Bytes(values) => put::<ByteArrayType>(&mut column, values),
                Values::Fixed(values) => put::<FixedLenByteArrayType>(&mut column, values),
            }
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn put<D: DataType>(column: &mut SerializedColumnWriter<'_>, values: &[Option<D::T>]) {
    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let present: Vec<D::T> = values.iter().flatten().cloned().collect();
    column.typed::<D>().write_batch(&present, Some(&levels), None).unwrap();
}

/// A column of texts, some of which may be missing.
pub(crate) fn texts<'a>(name: &str, values: impl IntoIterator<Item = Option<&'a str>>) -> Column {
    let values = values.into_iter().map(|text| text.map(ByteArray::from)).collect();
    (format!("optional binary {name} (STRING)"), Values::Bytes(values))
}

/// A column of whole numbers, some of which may be missing.
pub(crate) fn wholes(name: &str, values: impl IntoIterator<Item = Option<i64>>) -> Column {
    (format!("optional int64 {name}"), Values::Int64(values.into_iter().collect()))
}

/// A column of numbers, some of which may be missing.
pub(crate) fn floats(name: &str, values: impl IntoIterator<Item = Option<f64>>) -> Column {
    (format!("optional double {name}"), Values::Double(values.into_iter().collect()))
}
