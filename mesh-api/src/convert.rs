//! Between the model and the wire: the only place that sees both. Floor 2: imports `model`, `spiffe` and the
//! generated protobuf types.
//!
//! From the wire everything is checked: what does not fit is [`Invalid`] with the path of the field, and the receiver
//! keeps what it had. To the wire nothing can fail.

mod destination;
mod policy;
mod route;

pub use destination::{delta_from_proto, delta_to_proto, destination_from_proto, destination_to_proto};
pub use policy::{inbound_from_proto, inbound_to_proto};

use crate::{
    model::{ObjectRef, Protocol},
    proto,
};

/// A message from the wire that says something impossible. It is the sender's fault; trying again is no use until the
/// sender changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Invalid {
    fn new(field: impl Into<String>, reason: impl ToString) -> Self {
        Self { field: field.into(), reason: reason.to_string() }
    }

    fn within(mut self, parent: &str) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}

/// Version of a message: 128 bits of the SHA-256 of its encoding, in hexadecimal. Equal content, equal version.
#[must_use]
pub fn version_of(message: &impl prost::Message) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &message.encode_to_vec());
    digest.as_ref().iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        text
    })
}

fn protocol_from(value: i32) -> Protocol {
    match proto::Protocol::try_from(value) {
        Ok(proto::Protocol::Http1) => Protocol::Http1,
        Ok(proto::Protocol::Http2) => Protocol::Http2,
        Ok(proto::Protocol::Grpc) => Protocol::Grpc,
        Ok(proto::Protocol::Tls) => Protocol::Tls,
        Ok(proto::Protocol::Opaque) => Protocol::Opaque,
        // A protocol of a newer controller: looking at the bytes is always right.
        Ok(proto::Protocol::Detect) | Err(_) => Protocol::Detect,
    }
}

fn protocol_to(value: Protocol) -> i32 {
    let wire = match value {
        Protocol::Detect => proto::Protocol::Detect,
        Protocol::Http1 => proto::Protocol::Http1,
        Protocol::Http2 => proto::Protocol::Http2,
        Protocol::Grpc => proto::Protocol::Grpc,
        Protocol::Tls => proto::Protocol::Tls,
        Protocol::Opaque => proto::Protocol::Opaque,
    };
    wire.into()
}

fn object_from(value: Option<proto::ObjectRef>) -> ObjectRef {
    let value = value.unwrap_or_default();
    ObjectRef { kind: value.kind.into(), namespace: value.namespace.into(), name: value.name.into() }
}

fn object_to(value: &ObjectRef) -> proto::ObjectRef {
    proto::ObjectRef {
        kind: value.kind.to_string(),
        namespace: value.namespace.to_string(),
        name: value.name.to_string(),
    }
}

fn port_from(field: &str, value: u32) -> Result<u16, Invalid> {
    u16::try_from(value).map_err(|_| Invalid::new(field, format!("{value} is not a port")))
}

#[cfg(test)]
mod tests;
