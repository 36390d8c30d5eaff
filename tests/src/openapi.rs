//! The parts of JSON Schema that our OpenAPI document uses.

use serde_json::Value;

/// Whether `value` is as `schema` says, as far as our description goes.
///
/// # Errors
/// What does not fit.
pub fn fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(path) = schema["$ref"].as_str() {
        let pointer = path.strip_prefix('#').ok_or("a reference elsewhere")?;
        return fits(document, document.pointer(pointer).ok_or(format!("no {path}"))?, value);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fitting = choices.iter().filter(|choice| fits(document, choice, value).is_ok()).count();
        return if fitting == 1 { Ok(()) } else { Err(format!("{value} fits {fitting} choices")) };
    }
    let of_type = match schema["type"].as_str() {
        None => true,
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some(other) => return Err(format!("the type {other}")),
    };
    if !of_type {
        return Err(format!("{value} is no {}", schema["type"]));
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        return Err(format!("{value} is none of {choices:?}"));
    }
    for item in value.as_array().into_iter().flatten() {
        fits(document, &schema["items"], item)?;
    }
    if schema["type"] != "object" {
        return Ok(());
    }
    for field in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        value.get(field).ok_or(format!("{value} lacks {field}"))?;
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        match (schema["properties"].get(name), &schema["additionalProperties"]) {
            (Some(described), _) => fits(document, described, field)?,
            (None, Value::Bool(false)) => return Err(format!("{name} is not described")),
            (None, described) => fits(document, described, field)?,
        }
    }
    Ok(())
}
