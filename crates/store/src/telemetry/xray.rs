//! Spans as subsegments of X-Ray, sent to the daemon that Lambda runs beside a function.
//!
//! It never waits for the daemon and never fails: what cannot be sent is lost, and only a trace is poorer. It sends
//! names, ids, times and the fields of spans, which are object keys and ids. A subsegment is sent when its span ends,
//! names the span around it as its parent, and is sent only if Lambda samples the invocation.
//!
//! The form of documents: <https://docs.aws.amazon.com/xray/latest/devguide/xray-api-segmentdocuments.html>. There is a
//! crate for the daemon (`xray-lite`), but it knows no `tracing` spans and had its last release in March 2024.

use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// What the daemon asks for before each document.
const HEADER: &str = "{\"format\": \"json\", \"version\": 1}\n";

/// Field of the runtime's span that holds `Root=…;Parent=…;Sampled=…`.
const TRACE_HEADER_FIELD: &str = "xrayTraceId";

/// Longest value of an annotation that X-Ray keeps, characters.
const MAX_ANNOTATION: usize = 1_000;

/// Sends spans to the daemon.
#[derive(Debug)]
pub struct XRayLayer {
    socket: UdpSocket,
    ids: RandomState,
    next: AtomicU64,
}

/// Where subsegments belong.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TraceContext {
    trace_id: String,
    parent_id: String,
}

/// A subsegment under way, kept with its span.
#[derive(Debug)]
struct Subsegment {
    context: TraceContext,
    id: String,
    began_at: SystemTime,
    began: Instant,
    annotations: Map<String, Value>,
}

impl XRayLayer {
    /// Sends to the daemon at `address`, `host:port`.
    ///
    /// # Errors
    /// What the system says if the address is none or no socket can be had.
    pub fn connect(address: &str) -> io::Result<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, ids: RandomState::new(), next: AtomicU64::new(0) })
    }

    /// Whether a span is one of those to send. A filter has to let the runtime's pass too, which says where they belong.
    pub fn takes(metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
            && metadata
                .target()
                .split("::")
                .next()
                .is_some_and(|krate| krate == "giemsa" || krate.starts_with("giemsa_"))
    }

    /// 16 hexadecimal digits that no other span of the trace has: a keyed hash, with keys of this process.
    fn new_id(&self) -> String {
        format!("{:016x}", self.ids.hash_one(self.next.fetch_add(1, Ordering::Relaxed)))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for XRayLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields(Map::new());
        attributes.record(&mut fields);
        if let Some(header) = fields.0.get(TRACE_HEADER_FIELD).and_then(Value::as_str) {
            if let Some(context) = sampled_place(header) {
                span.extensions_mut().insert(context);
            }
            return;
        }
        let context = span.scope().skip(1).find_map(|around| {
            let extensions = around.extensions();
            let below = |around: &Subsegment| TraceContext {
                trace_id: around.context.trace_id.clone(),
                parent_id: around.id.clone(),
            };
            extensions.get::<Subsegment>().map(below).or_else(|| extensions.get::<TraceContext>().cloned())
        });
        if let Some(context) = context {
            span.extensions_mut().insert(Subsegment {
                context,
                id: self.new_id(),
                began_at: SystemTime::now(),
                began: Instant::now(),
                annotations: fields.0,
            });
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(subsegment) = span.extensions_mut().remove::<Subsegment>() else { return };
        let document = subsegment.document(span.name());
        // Nobody waits for a trace.
        let _ = self.socket.send(format!("{HEADER}{document}").as_bytes());
    }
}

impl Subsegment {
    fn document(self, name: &str) -> Value {
        let began_s = self.began_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut document = json!({
            "name": name,
            "id": self.id,
            "trace_id": self.context.trace_id,
            "parent_id": self.context.parent_id,
            "type": "subsegment",
            "start_time": began_s,
            "end_time": began_s + self.began.elapsed().as_secs_f64(),
        });
        if !self.annotations.is_empty() {
            document["annotations"] = Value::Object(self.annotations);
        }
        document
    }
}

/// Where subsegments of an invocation belong, if it is sampled.
fn sampled_place(header: &str) -> Option<TraceContext> {
    let part = |name: &str| {
        let mut parts = header.split(';').filter_map(|part| part.trim().split_once('='));
        parts.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
    };
    let is_sampled = part("Sampled").as_deref() == Some("1");
    Some(TraceContext { trace_id: part("Root")?, parent_id: part("Parent")? }).filter(|_| is_sampled)
}

/// Fields of a span, as annotations: their names have no characters that X-Ray does not take.
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text: String = value.chars().take(MAX_ANNOTATION).collect();
        self.0.insert(field.name().to_owned(), Value::String(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sampled_invocation_has_a_place_for_subsegments() {
        let header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1;Lineage=a:0";
        let context = TraceContext {
            trace_id: "1-5759e988-bd862e3fe1be46a994272793".to_owned(),
            parent_id: "53995c3f42cd8ad8".to_owned(),
        };
        assert_eq!(sampled_place(header), Some(context));
        assert_eq!(sampled_place(&header.replace("Sampled=1", "Sampled=0")), None);
        assert_eq!(sampled_place("Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1"), None);
        assert_eq!(sampled_place(""), None);
    }
}
