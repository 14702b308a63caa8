//! Which cells the types of a Parquet schema become, and the conversion of single values.
//!
//! What holds: only the physical, logical and converted types of Parquet count. The hints that a writer stores for its own
//! use, such as Arrow's schema, are not read.

use std::ops::Range;

use anyhow::{Result, bail};
use jiff::tz::Offset;
use parquet::{
    basic::{ConvertedType, LogicalType, TimeUnit, Type},
    schema::types::ColumnDescriptor,
};

/// How the values of a column become cells.
#[derive(Clone, Copy, Debug)]
pub(super) enum CellType {
    /// `true` or `false`.
    Flag,
    Signed {
        bits: u32,
    },
    Unsigned {
        bits: u32,
    },
    Float,
    HalfFloat,
    Decimal {
        scale: i32,
    },
    /// A time in UTC, which becomes nanoseconds since the Unix epoch.
    Instant {
        unit_ns: i64,
    },
    /// A time whose zone the file does not state, so that it stays a text.
    LocalTime {
        unit_ns: i64,
    },
    TimeOfDay {
        unit_ns: i64,
    },
    Date,
    Text,
    /// Bytes that count as a text where they are UTF-8.
    Bytes,
    /// Bytes of fixed length that are neither a text nor a number.
    Opaque,
}

/// How the values of a column become cells; `None` if they have no use in a tick.
///
/// # Errors
/// When the logical type does not fit the physical one.
pub(super) fn cell_type(column: &ColumnDescriptor) -> Result<Option<CellType>> {
    if column.logical_type_ref() == Some(&LogicalType::Unknown) {
        return Ok(None);
    }
    let cell_type = match column.physical_type() {
        Type::BOOLEAN => Some(CellType::Flag),
        Type::INT32 | Type::INT64 => of_integer(column),
        Type::INT96 => Some(CellType::LocalTime { unit_ns: 1 }),
        Type::FLOAT | Type::DOUBLE => Some(CellType::Float),
        Type::BYTE_ARRAY => of_bytes(column),
        Type::FIXED_LEN_BYTE_ARRAY if column.converted_type() == ConvertedType::INTERVAL => return Ok(None),
        Type::FIXED_LEN_BYTE_ARRAY => of_fixed_bytes(column),
    };
    let Some(cell_type) = cell_type else {
        let (physical, logical) = (column.physical_type(), column.logical_type_ref());
        bail!("the column {} has the types {physical} and {logical:?}, which don't go together", column.name());
    };
    Ok(Some(cell_type))
}

fn of_integer(column: &ColumnDescriptor) -> Option<CellType> {
    let width = if column.physical_type() == Type::INT32 { 32 } else { 64 };
    let logical = match column.logical_type_ref() {
        Some(logical) => logical,
        None => return of_converted_integer(column, width),
    };
    match (logical, width) {
        (LogicalType::Integer(integer), _) => {
            let bits = u32::try_from(integer.bit_width).ok().filter(|bits| match width {
                32 => matches!(bits, 8 | 16 | 32),
                _ => *bits == 64,
            })?;
            Some(if integer.is_signed { CellType::Signed { bits } } else { CellType::Unsigned { bits } })
        }
        (LogicalType::Decimal(decimal), _) => Some(CellType::Decimal { scale: decimal.scale }),
        (LogicalType::Date, 32) => Some(CellType::Date),
        (LogicalType::Time(time), _) => {
            let needed = if time.unit == TimeUnit::MILLIS { 32 } else { 64 };
            (width == needed).then_some(CellType::TimeOfDay { unit_ns: nanoseconds(time.unit) })
        }
        (LogicalType::Timestamp(time), 64) => {
            let unit_ns = nanoseconds(time.unit);
            let is_utc = time.is_adjusted_to_u_t_c;
            Some(if is_utc { CellType::Instant { unit_ns } } else { CellType::LocalTime { unit_ns } })
        }
        _ => None,
    }
}

/// The type of a column whose file has no logical types, as older writers leave it.
fn of_converted_integer(column: &ColumnDescriptor, width: u32) -> Option<CellType> {
    Some(match (column.converted_type(), width) {
        (ConvertedType::NONE, _) => CellType::Signed { bits: width },
        (ConvertedType::INT_8, 32) => CellType::Signed { bits: 8 },
        (ConvertedType::INT_16, 32) => CellType::Signed { bits: 16 },
        (ConvertedType::INT_32, 32) | (ConvertedType::INT_64, 64) => CellType::Signed { bits: width },
        (ConvertedType::UINT_8, 32) => CellType::Unsigned { bits: 8 },
        (ConvertedType::UINT_16, 32) => CellType::Unsigned { bits: 16 },
        (ConvertedType::UINT_32, 32) | (ConvertedType::UINT_64, 64) => CellType::Unsigned { bits: width },
        (ConvertedType::DECIMAL, _) => CellType::Decimal { scale: column.type_scale() },
        (ConvertedType::DATE, 32) => CellType::Date,
        (ConvertedType::TIME_MILLIS, 32) => CellType::TimeOfDay { unit_ns: nanoseconds(TimeUnit::MILLIS) },
        (ConvertedType::TIME_MICROS, 64) => CellType::TimeOfDay { unit_ns: nanoseconds(TimeUnit::MICROS) },
        (ConvertedType::TIMESTAMP_MILLIS, 64) => CellType::Instant { unit_ns: nanoseconds(TimeUnit::MILLIS) },
        (ConvertedType::TIMESTAMP_MICROS, 64) => CellType::Instant { unit_ns: nanoseconds(TimeUnit::MICROS) },
        _ => return None,
    })
}

fn of_bytes(column: &ColumnDescriptor) -> Option<CellType> {
    Some(match (column.logical_type_ref(), column.converted_type()) {
        (Some(LogicalType::Decimal(decimal)), _) => CellType::Decimal { scale: decimal.scale },
        (None, ConvertedType::DECIMAL) => CellType::Decimal { scale: column.type_scale() },
        (Some(LogicalType::String | LogicalType::Json), _) | (None, ConvertedType::UTF8 | ConvertedType::JSON) => {
            CellType::Text
        }
        (
            Some(
                LogicalType::Bson
                | LogicalType::Enum
                | LogicalType::Geometry(_)
                | LogicalType::Geography(_)
                | LogicalType::_Unknown { .. },
            ),
            _,
        )
        | (None, ConvertedType::NONE | ConvertedType::BSON | ConvertedType::ENUM) => CellType::Bytes,
        _ => return None,
    })
}

fn of_fixed_bytes(column: &ColumnDescriptor) -> Option<CellType> {
    let length = column.type_length();
    match (column.logical_type_ref(), column.converted_type()) {
        (Some(LogicalType::Decimal(decimal)), _) => {
            (1..=32).contains(&length).then_some(CellType::Decimal { scale: decimal.scale })
        }
        (None, ConvertedType::DECIMAL) => {
            (1..=32).contains(&length).then_some(CellType::Decimal { scale: column.type_scale() })
        }
        (Some(LogicalType::Float16), _) => (length == 2).then_some(CellType::HalfFloat),
        _ => Some(CellType::Opaque),
    }
}

fn nanoseconds(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::MILLIS => 1_000_000,
        TimeUnit::MICROS => 1000,
        TimeUnit::NANOS => 1,
    }
}

/// Formats a local time, given in nanoseconds as if it were UTC.
pub(super) fn civil(nanos: i64) -> Option<String> {
    let instant = jiff::Timestamp::from_nanosecond(i128::from(nanos)).ok()?;
    Some(Offset::UTC.to_datetime(instant).to_string())
}

/// Formats a date, given in days since 1970.
pub(super) fn date(days: i64) -> Option<String> {
    let midnight = jiff::Timestamp::from_second(days * 86_400).ok()?;
    Some(Offset::UTC.to_datetime(midnight).date().to_string())
}

/// Formats a time of day, given in nanoseconds since midnight.
pub(super) fn time_of_day(nanos: i64) -> Option<String> {
    let (seconds, nanos) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    if !(0..86_400).contains(&seconds) {
        return None;
    }
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some(match nanos {
        0 => time,
        _ if nanos % 1_000_000 == 0 => format!("{time}.{:03}", nanos / 1_000_000),
        _ if nanos % 1000 == 0 => format!("{time}.{:06}", nanos / 1000),
        _ => format!("{time}.{nanos:09}"),
    })
}

/// Converts a 16-bit float, stored with its low byte first.
pub(super) fn half_float(bytes: &[u8]) -> f64 {
    let Ok(bytes) = bytes.try_into() else { return f64::NAN };
    let bits = u16::from_le_bytes(bytes);
    let (exponent, fraction) = (i32::from((bits >> 10) & 0x1f), f64::from(bits & 0x3ff) / 1024.0);
    let magnitude = match exponent {
        0 => fraction * 2_f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction) * 2_f64.powi(exponent - 15),
    };
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}

/// The number nearest to `unscaled` / 10^`scale`; `power` is 10^`scale`.
pub(super) fn decimal(unscaled: i128, scale: i32, power: f64) -> f64 {
    const EXACT_INTEGERS: u128 = 1 << 53;
    const EXACT_POWERS: Range<i32> = 0..23;
    // Both are exact, so that the division rounds once.
    if unscaled.unsigned_abs() < EXACT_INTEGERS && EXACT_POWERS.contains(&scale) {
        return unscaled as f64 / power;
    }
    nearest(&unscaled.to_string(), scale)
}

/// The same as [`decimal`], of a number whose high byte comes first.
pub(super) fn decimal_of_bytes(bytes: &[u8], scale: i32, power: f64) -> f64 {
    let is_negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut whole = if is_negative { [0xff; 16] } else { [0; 16] };
    if bytes.len() > whole.len() {
        return nearest(&digits(bytes, is_negative), scale);
    }
    let unused = whole.len() - bytes.len();
    whole[unused..].copy_from_slice(bytes);
    decimal(i128::from_be_bytes(whole), scale, power)
}

fn nearest(digits: &str, scale: i32) -> f64 {
    format!("{digits}e-{scale}").parse().unwrap_or(f64::NAN)
}

/// Writes a number in two's complement, whose high byte comes first, in decimal.
fn digits(bytes: &[u8], is_negative: bool) -> String {
    let mut magnitude = bytes.to_vec();
    if is_negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut remainder = 0;
        for byte in &mut magnitude {
            let dividend = remainder * 256 + u32::from(*byte);
            (*byte, remainder) = ((dividend / 10) as u8, dividend % 10);
        }
        digits.push(char::from_digit(remainder, 10).unwrap_or('0'));
    }
    let sign = if is_negative { "-" } else { "0" };
    sign.chars().chain(digits.into_iter().rev()).collect()
}
