//! What a process on Lambda is told about itself, before it reads what it works with.
//!
//! It never fails: without these it logs less and traces nothing. Only names that Lambda sets, and the stage.

/// The process, for its log and its traces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessInfo {
    /// Stage whose model it answers with, if it has one (`GIEMSA_STAGE`).
    pub stage: Option<String>,
    /// Host and port to which traces go as UDP datagrams (`AWS_XRAY_DAEMON_ADDRESS`).
    pub trace_daemon: Option<String>,
}

impl ProcessInfo {
    /// Reads the process environment.
    #[expect(clippy::disallowed_methods, reason = "this folder is what reads the environment")]
    pub fn from_env() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads settings by name from `lookup`.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let daemon = lookup("AWS_XRAY_DAEMON_ADDRESS");
        Self { stage: lookup("GIEMSA_STAGE"), trace_daemon: daemon.as_deref().and_then(udp_address) }
    }
}

/// `host:port`, or the part after `udp:` of `tcp:host:port udp:host:port`.
fn udp_address(text: &str) -> Option<String> {
    let mut parts = text.split_whitespace();
    match text.contains("udp:") {
        true => parts.find_map(|part| part.strip_prefix("udp:")),
        false => parts.next(),
    }
    .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_found_in_both_forms_of_its_address() {
        for (text, expected) in [
            ("169.254.79.129:2000", Some("169.254.79.129:2000")),
            ("tcp:127.0.0.1:2000 udp:127.0.0.2:2001", Some("127.0.0.2:2001")),
            ("", None),
        ] {
            assert_eq!(udp_address(text).as_deref(), expected, "{text:?}");
        }
    }
}
