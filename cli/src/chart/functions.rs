//! The functions of Helm that the charts use, each as Helm has it.

use std::{collections::HashMap, fmt::Write as _};

use aws_lc_rs::digest::{SHA256, digest};
use gtmpl_ng::{Func, FuncError, Value};

use super::yaml;

/// All of them but `include`.
pub const ALL: &[(&str, Func)] = &[
    ("default", default),
    ("dict", dict),
    ("hasKey", has_key),
    ("indent", indent),
    ("int", int),
    ("nindent", nindent),
    ("quote", quote),
    ("required", required),
    ("sha256sum", sha256sum),
    ("ternary", ternary),
    ("toYaml", to_yaml),
    ("trim", trim),
];

/// A value as templates see it.
pub fn from_json(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::Nil,
        Json::Bool(yes) => Value::Bool(*yes),
        Json::String(text) => Value::String(text.clone()),
        Json::Array(items) => Value::Array(items.iter().map(from_json).collect()),
        Json::Object(fields) => Value::Map(fields.iter().map(|(key, value)| (key.clone(), from_json(value))).collect()),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => Value::from(number),
            (_, Some(number), _) => Value::from(number),
            (_, _, Some(number)) => Value::from(number),
            _ => Value::Nil,
        },
    }
}

fn to_json(value: &Value) -> Result<serde_json::Value, FuncError> {
    use serde_json::Value as Json;
    Ok(match value {
        Value::NoValue | Value::Nil => Json::Null,
        Value::Bool(yes) => Json::Bool(*yes),
        Value::String(text) => Json::String(text.clone()),
        Value::Array(items) => Json::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
        Value::Map(fields) | Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| Ok((key.clone(), to_json(value)?)));
            Json::Object(fields.collect::<Result<_, FuncError>>()?)
        }
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => Json::from(number),
            (_, Some(number), _) => Json::from(number),
            (_, _, number) => Json::from(number),
        },
        Value::Function(_) => return Err(FuncError::UnableToConvertFromValue),
    })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::NoValue | Value::Nil => true,
        Value::Bool(yes) => !yes,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Map(fields) | Value::Object(fields) => fields.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Function(_) => false,
    }
}

fn exactly<'a, const N: usize>(name: &str, args: &'a [Value]) -> Result<&'a [Value; N], FuncError> {
    args.try_into().map_err(|_| FuncError::ExactlyXArgs(name.to_owned(), N))
}

fn text(name: &str, value: &Value) -> Result<String, FuncError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(FuncError::Generic(format!("{name} wants a text, not {other}"))),
    }
}

fn width(name: &str, value: &Value) -> Result<usize, FuncError> {
    let number = if let Value::Number(number) = value { number.as_u64() } else { None };
    let number = number.and_then(|number| usize::try_from(number).ok()).filter(|number| *number <= 100);
    number.ok_or_else(|| FuncError::Generic(format!("{name} wants a number of spaces")))
}

/// `default A B`: B, or A where B is empty.
fn default(args: &[Value]) -> Result<Value, FuncError> {
    match args {
        [otherwise] => Ok(otherwise.clone()),
        [otherwise, value] => Ok(if is_empty(value) { otherwise.clone() } else { value.clone() }),
        _ => Err(FuncError::ExactlyXArgs("default".to_owned(), 2)),
    }
}

/// `dict K V ...`.
fn dict(args: &[Value]) -> Result<Value, FuncError> {
    let mut fields = HashMap::new();
    for pair in args.chunks(2) {
        let [key, value] = pair else {
            return Err(FuncError::Generic("dict wants keys and values".to_owned()));
        };
        fields.insert(text("dict", key)?, value.clone());
    }
    Ok(Value::Map(fields))
}

fn has_key(args: &[Value]) -> Result<Value, FuncError> {
    let [map, key] = exactly("hasKey", args)?;
    let key = text("hasKey", key)?;
    Ok(Value::Bool(matches!(map, Value::Map(fields) | Value::Object(fields) if fields.contains_key(&key))))
}

fn indented(name: &str, args: &[Value]) -> Result<String, FuncError> {
    let [spaces, body] = exactly(name, args)?;
    let pad = " ".repeat(width(name, spaces)?);
    Ok(format!("{pad}{}", text(name, body)?.replace('\n', &format!("\n{pad}"))))
}

fn indent(args: &[Value]) -> Result<Value, FuncError> {
    indented("indent", args).map(Value::String)
}

fn nindent(args: &[Value]) -> Result<Value, FuncError> {
    indented("nindent", args).map(|text| Value::String(format!("\n{text}")))
}

fn int(args: &[Value]) -> Result<Value, FuncError> {
    let [value] = exactly("int", args)?;
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    Ok(Value::from(number.unwrap_or(0)))
}

/// `quote A ...`: what is not there gives nothing.
fn quote(args: &[Value]) -> Result<Value, FuncError> {
    let mut texts = Vec::new();
    for value in args.iter().filter(|value| !matches!(value, Value::NoValue | Value::Nil)) {
        let text = serde_json::to_string(&value.to_string()).map_err(|error| FuncError::Generic(error.to_string()))?;
        texts.push(text);
    }
    Ok(Value::String(texts.join(" ")))
}

/// `required WHY VALUE`.
fn required(args: &[Value]) -> Result<Value, FuncError> {
    let [why, value] = exactly("required", args)?;
    match value {
        Value::NoValue | Value::Nil => Err(FuncError::Generic(text("required", why)?)),
        Value::String(value) if value.is_empty() => Err(FuncError::Generic(text("required", why)?)),
        value => Ok(value.clone()),
    }
}

fn sha256sum(args: &[Value]) -> Result<Value, FuncError> {
    let [body] = exactly("sha256sum", args)?;
    let mut hex = String::new();
    for byte in digest(&SHA256, text("sha256sum", body)?.as_bytes()).as_ref() {
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(Value::String(hex))
}

/// `ternary YES NO CONDITION`.
fn ternary(args: &[Value]) -> Result<Value, FuncError> {
    let [yes, no, condition] = exactly("ternary", args)?;
    match condition {
        Value::Bool(true) => Ok(yes.clone()),
        Value::Bool(false) => Ok(no.clone()),
        other => Err(FuncError::Generic(format!("ternary wants true or false, not {other}"))),
    }
}

/// `toYaml VALUE`: lines that fit among others of the same kind, the last without its end.
fn to_yaml(args: &[Value]) -> Result<Value, FuncError> {
    let [value] = exactly("toYaml", args)?;
    Ok(Value::String(yaml::write(&to_json(value)?).trim_end_matches('\n').to_owned()))
}

fn trim(args: &[Value]) -> Result<Value, FuncError> {
    let [body] = exactly("trim", args)?;
    Ok(Value::String(text("trim", body)?.trim().to_owned()))
}
