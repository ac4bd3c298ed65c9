//! Rows of Arrow columns as JSON objects, nested columns included.
//!
//! The same objects as of Arrow's own JSON writer, without the text between: that is most of the time of reading
//! a conversation. Nulls of structs are left out: Arrow gives every message of a list the same fields, and a
//! template that asks `if 'tool_calls' in message` must not see those that were never written.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use rayon::prelude::*;
use serde_json::{Map, Number, Value};

/// A column, looked at as what it is once for all its rows.
enum Column<'a> {
    Text(Box<dyn Fn(usize) -> &'a str + Send + Sync + 'a>),
    Number(Box<dyn Fn(usize) -> Value + Send + Sync + 'a>),
    List(Box<dyn Fn(usize) -> (usize, usize) + Send + Sync + 'a>, Box<Node<'a>>),
    Struct(Vec<(&'a str, Node<'a>)>),
    Map(Box<dyn Fn(usize) -> (usize, usize) + Send + Sync + 'a>, Box<Node<'a>>, Box<Node<'a>>),
    Null,
}

/// A column and which of its rows are null.
struct Node<'a> {
    array: &'a dyn Array,
    column: Column<'a>,
}

/// The rows of a batch, or nothing where a column is of a type that is left to Arrow's writer.
pub(crate) fn rows(batch: &RecordBatch) -> Option<Vec<Map<String, Value>>> {
    let schema = batch.schema_ref();
    let columns = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, array)| Some((field.name().as_str(), node(array.as_ref())?)))
        .collect::<Option<Vec<_>>>()?;
    Some((0..batch.num_rows()).into_par_iter().with_min_len(16).map(|row| object(&columns, row)).collect())
}

fn node(array: &dyn Array) -> Option<Node<'_>> {
    let column = match array.data_type() {
        DataType::Utf8 => {
            let texts = array.as_string::<i32>();
            Column::Text(Box::new(move |row| texts.value(row)))
        }
        DataType::LargeUtf8 => {
            let texts = array.as_string::<i64>();
            Column::Text(Box::new(move |row| texts.value(row)))
        }
        DataType::Utf8View => {
            let texts = array.as_string_view();
            Column::Text(Box::new(move |row| texts.value(row)))
        }
        DataType::Boolean => {
            let flags = array.as_boolean();
            Column::Number(Box::new(move |row| Value::Bool(flags.value(row))))
        }
        DataType::Int8 => integer(array.as_primitive_opt::<Int8Type>()?, i64::from),
        DataType::Int16 => integer(array.as_primitive_opt::<Int16Type>()?, i64::from),
        DataType::Int32 => integer(array.as_primitive_opt::<Int32Type>()?, i64::from),
        DataType::Int64 => integer(array.as_primitive_opt::<Int64Type>()?, |number| number),
        DataType::UInt8 => integer(array.as_primitive_opt::<UInt8Type>()?, u64::from),
        DataType::UInt16 => integer(array.as_primitive_opt::<UInt16Type>()?, u64::from),
        DataType::UInt32 => integer(array.as_primitive_opt::<UInt32Type>()?, u64::from),
        DataType::UInt64 => integer(array.as_primitive_opt::<UInt64Type>()?, |number| number),
        DataType::Float32 => float(array.as_primitive_opt::<Float32Type>()?, f64::from),
        DataType::Float64 => float(array.as_primitive_opt::<Float64Type>()?, |number| number),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            let range = move |row: usize| (offsets[row] as usize, offsets[row + 1] as usize);
            Column::List(Box::new(range), Box::new(node(list.values().as_ref())?))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let offsets = list.value_offsets();
            let range = move |row: usize| (offsets[row] as usize, offsets[row + 1] as usize);
            Column::List(Box::new(range), Box::new(node(list.values().as_ref())?))
        }
        DataType::FixedSizeList(_, size) => {
            let size = usize::try_from(*size).ok()?;
            let list = array.as_fixed_size_list();
            Column::List(Box::new(move |row| (row * size, (row + 1) * size)), Box::new(node(list.values().as_ref())?))
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let nodes =
                fields.iter().zip(columns).map(|(field, array)| Some((field.name().as_str(), node(array.as_ref())?)));
            Column::Struct(nodes.collect::<Option<_>>()?)
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let offsets = map.value_offsets();
            let range = move |row: usize| (offsets[row] as usize, offsets[row + 1] as usize);
            let (keys, values) = (node(map.keys().as_ref())?, node(map.values().as_ref())?);
            if !matches!(keys.column, Column::Text(_)) {
                return None;
            }
            Column::Map(Box::new(range), Box::new(keys), Box::new(values))
        }
        DataType::Null => Column::Null,
        _ => return None,
    };
    Some(Node { array, column })
}

fn integer<'a, T, N>(array: &'a arrow_array::PrimitiveArray<T>, widen: fn(T::Native) -> N) -> Column<'a>
where
    T: arrow_array::ArrowPrimitiveType,
    N: Into<Number> + 'static,
{
    Column::Number(Box::new(move |row| Value::Number(widen(array.value(row)).into())))
}

/// What JSON has no number for is null, as Arrow writes it.
fn float<'a, T>(array: &'a arrow_array::PrimitiveArray<T>, widen: fn(T::Native) -> f64) -> Column<'a>
where
    T: arrow_array::ArrowPrimitiveType,
{
    Column::Number(Box::new(move |row| Number::from_f64(widen(array.value(row))).map_or(Value::Null, Value::Number)))
}

fn object(columns: &[(&str, Node<'_>)], row: usize) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, node) in columns {
        if !node.is_null(row) {
            object.insert((*name).to_owned(), node.value(row));
        }
    }
    object
}

impl Node<'_> {
    fn is_null(&self, row: usize) -> bool {
        matches!(self.column, Column::Null) || self.array.is_null(row)
    }

    fn value(&self, row: usize) -> Value {
        if self.is_null(row) {
            return Value::Null;
        }
        match &self.column {
            Column::Text(text) => Value::String(text(row).to_owned()),
            Column::Number(number) => number(row),
            Column::Struct(columns) => Value::Object(object(columns, row)),
            Column::List(range, items) => {
                let (start, end) = range(row);
                Value::Array((start..end).map(|row| items.value(row)).collect())
            }
            Column::Map(range, keys, values) => {
                let (start, end) = range(row);
                let mut map = Map::new();
                for row in start..end {
                    if let Value::String(key) = keys.value(row) {
                        map.insert(key, values.value(row));
                    }
                }
                Value::Object(map)
            }
            Column::Null => Value::Null,
        }
    }
}
