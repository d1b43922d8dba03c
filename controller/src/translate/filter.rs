//! Filters of routes. What cannot be carried out becomes [`Filter::Fail`]: a request that a filter should have changed
//! must not pass unchanged, and the answer names what is missing.

use mesh_api::{
    model::{
        Name,
        route::{Filter, HeaderModifier},
    },
    names::is_reserved_header,
    resources::{HeaderEdit, HeaderFilter, HttpRouteFilter},
};

use crate::problem::{Findings, Reason};

/// Most filters of a rule; as in Gateway API.
const MAX_FILTERS: usize = 16;
/// Most header fields that one list of a filter changes; as in Gateway API.
const MAX_EDITS: usize = 16;

/// Header fields that carry the connection or the message itself: to change them is to change the framing.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

pub(super) fn translate(filters: &[HttpRouteFilter], field: &str, findings: &mut Findings) -> Vec<Filter> {
    if filters.len() > MAX_FILTERS {
        let message = format!("{} filters, at most {MAX_FILTERS} are allowed", filters.len());
        return vec![fail(field, message, findings)];
    }
    let each = filters.iter().enumerate();
    each.map(|(at, filter)| one(filter, &format!("{field}[{at}]"), findings)).collect()
}

fn one(filter: &HttpRouteFilter, field: &str, findings: &mut Findings) -> Filter {
    let (modifier, name, make): (_, _, fn(HeaderModifier) -> Filter) = match filter.kind.as_str() {
        "RequestHeaderModifier" => {
            (&filter.request_header_modifier, "requestHeaderModifier", Filter::RequestHeaders as _)
        }
        "ResponseHeaderModifier" => {
            (&filter.response_header_modifier, "responseHeaderModifier", Filter::ResponseHeaders as _)
        }
        other => {
            let known = "RequestHeaderModifier and ResponseHeaderModifier are";
            let message = format!("filter type `{other}` is not supported ({known})");
            return fail(&format!("{field}.type"), message, findings);
        }
    };
    let field = format!("{field}.{name}");
    let Some(modifier) = modifier else {
        return fail(&field, format!("missing for a filter of type {}", filter.kind), findings);
    };
    match header_modifier(modifier) {
        Ok(modifier) => make(modifier),
        Err(message) => fail(&field, message, findings),
    }
}

fn header_modifier(filter: &HeaderFilter) -> Result<HeaderModifier, String> {
    if [filter.set.len(), filter.add.len(), filter.remove.len()].into_iter().any(|count| count > MAX_EDITS) {
        return Err(format!("more than {MAX_EDITS} header fields in one list"));
    }
    let edits = |edits: &[HeaderEdit]| edits.iter().map(edit).collect::<Result<Vec<_>, String>>();
    Ok(HeaderModifier {
        set: edits(&filter.set)?,
        add: edits(&filter.add)?,
        remove: filter.remove.iter().map(|name| header_name(name)).collect::<Result<_, _>>()?,
    })
}

fn edit(edit: &HeaderEdit) -> Result<(Name, Name), String> {
    let name = header_name(&edit.name)?;
    match http::HeaderValue::from_str(&edit.value) {
        Ok(_) if edit.value.len() <= 4096 => Ok((name, edit.value.trim_matches([' ', '\t']).into())),
        _ => Err(format!("the value for `{}` is longer than 4096 bytes or not text", edit.name)),
    }
}

fn header_name(text: &str) -> Result<Name, String> {
    let Ok(name) = http::HeaderName::from_bytes(text.as_bytes()) else {
        return Err(format!("`{text}` is not the name of a header field"));
    };
    if is_reserved_header(text) {
        return Err(format!("`{text}` belongs to the mesh and cannot be changed"));
    }
    if FRAMING.contains(&name.as_str()) {
        return Err(format!("`{text}` belongs to the connection and cannot be changed"));
    }
    Ok(name.as_str().into())
}

fn fail(field: &str, message: String, findings: &mut Findings) -> Filter {
    let reason = format!("{}: {message}", findings.object()).into();
    findings.report(field, Reason::PartiallyInvalid, format!("{message}; what it applies to is answered 500"));
    Filter::Fail { status: 500, reason }
}
