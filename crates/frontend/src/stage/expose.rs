use std::net::IpAddr;

use parser::{Diagnostic, Expose, Instruction, Word};

use super::StageLowering;
use crate::lint::rules;
use crate::{Expander, go, shown};

impl StageLowering<'_, '_> {
    pub(super) fn expose(&mut self, of: &Instruction, expose: &Expose) {
        let mut words: Vec<&Word> = expose.ports.iter().collect();
        words.sort_by(|a, b| a.text.cmp(&b.text));
        let (mut ports, mut shown) = (Vec::new(), Vec::new());
        let mut failed = false;
        for word in words {
            let expander = Expander::new(self.all.escape);
            let expanded = shown::expand(expander, Expander::expand, &word.text, self.scope());
            let (expanded, concealed) = match expanded {
                Ok(expanded) => expanded,
                Err(error) => {
                    self.report(Diagnostic::error(word.span_of(error.range), error.message));
                    failed = true;
                    continue;
                }
            };
            for text in &expanded.words {
                match PortSpec::parse(text) {
                    Ok(spec) => {
                        if spec.protocol != spec.protocol.to_lowercase() {
                            self.lint(rules::expose_proto_casing(of.span, text));
                        }
                        if spec.mapped {
                            self.lint(rules::expose_invalid_format(of.span, text));
                        }
                        // Stars are no port, so they stand for all of them.
                        shown.extend(match &concealed {
                            Some(concealed) => vec![concealed.clone()],
                            None => spec.ports().collect(),
                        });
                        ports.extend(spec.ports());
                    }
                    Err(message) => {
                        let message = match &concealed {
                            Some(concealed) => format!("`{concealed}` is no port"),
                            // It may be what is wrong as a whole.
                            None if message.starts_with(&format!("`{text}`")) => message,
                            None => format!("`{text}`: {message}"),
                        };
                        self.report(Diagnostic::error(word.span, message));
                        failed = true;
                    }
                }
            }
        }
        if failed {
            return;
        }
        self.state.remember(format!("EXPOSE {}", go::list(&shown)), false);
        if ports.is_empty() {
            return;
        }
        let exposed = self.config().config.exposed_ports.get_or_insert_default();
        exposed.extend(ports.into_iter().map(|port| (port, serde_json::json!({}))));
    }
}

/// `[[ip:]host:]port[-port][/protocol]`.
#[derive(Debug)]
struct PortSpec<'a> {
    first: u16,
    last: u16,
    protocol: &'a str,
    /// An address or a port of the host was given, which says nothing here.
    mapped: bool,
}

impl<'a> PortSpec<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let (address, container) = match text.rsplit_once(':') {
            Some((address, container)) => (Some(address), container),
            None => (None, text),
        };
        let (host_ip, host_port) =
            match address.map(|address| address.rsplit_once(':').unwrap_or(("", address))) {
                Some((ip, port)) => (ip, port),
                None => ("", ""),
            };
        let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
        if range.is_empty() {
            return Err("the port is missing".to_owned());
        }
        let protocol = if protocol.is_empty() { "tcp" } else { protocol };
        if !["tcp", "udp", "sctp"].iter().any(|known| known.eq_ignore_ascii_case(protocol)) {
            return Err(format!("there is no protocol `{protocol}`: expected tcp, udp or sctp"));
        }
        if !host_ip.is_empty() {
            let bare = host_ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(host_ip);
            bare.parse::<IpAddr>().map_err(|_| format!("`{host_ip}` is no IP address"))?;
        }
        let (first, last) = port_range(range)?;
        if !host_port.is_empty() {
            let (host_first, host_last) = port_range(host_port)?;
            if last != first && last - first != host_last - host_first {
                return Err(format!("the ranges `{host_port}` and `{range}` differ in length"));
            }
        }
        Ok(Self { first, last, protocol, mapped: !host_ip.is_empty() || !host_port.is_empty() })
    }

    fn ports(&self) -> impl Iterator<Item = String> {
        let protocol = self.protocol.to_lowercase();
        (self.first..=self.last).map(move |port| format!("{port}/{protocol}"))
    }
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| {
        text.parse::<u16>().map_err(|_| format!("`{text}` is no port: expected a number from 0 to 65535"))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        return Err(format!("the range `{text}` ends before it begins"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::PortSpec;

    #[test]
    fn ports() {
        let cases = [
            ("80", "80/tcp"),
            ("53/UDP", "53/udp"),
            ("1234-1236/sctp", "1234/sctp 1235/sctp 1236/sctp"),
            ("8080:80", "80/tcp"),
            ("0.0.0.0:1234-1235:3333-3334/tcp", "3333/tcp 3334/tcp"),
            ("1000-1010:80", "80/tcp"),
            ("[2001:4860:0:2001::68]::333", "333/tcp"),
            ("[::1]:80:80", "80/tcp"),
            ("2001:4860:0:2001::68::333", "333/tcp"),
            ("::1:80:80", "80/tcp"),
            ("::::80", "80/tcp"),
        ];
        for (text, expected) in cases {
            let spec = PortSpec::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(spec.ports().collect::<Vec<_>>().join(" "), expected, "{text}");
        }
    }

    #[test]
    fn no_ports() {
        for text in [
            "",
            "/tcp",
            "0.0.0.0:1234-1235:/tcp",
            "0.0.0.0:1234-1235:",
            "localhost:1234:1234/tcp",
            "80/http",
            "65536",
            "-1",
            "90-80",
            "http",
            "1-3:1-2",
        ] {
            assert!(PortSpec::parse(text).is_err(), "{text}");
        }
    }
}
