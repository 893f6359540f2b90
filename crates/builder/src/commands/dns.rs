//! `--dns` and the like, as `docker run`, Buildah and Podman have them.

use std::net::IpAddr;

use executor::NameService;

/// Flags about name service. None is part of a cache key, as the machine's own settings are not.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DnsArgs {
    /// Name server to ask in place of this machine's; repeatable
    #[arg(long, value_name = "IP")]
    dns: Vec<IpAddr>,

    /// Option of name service, such as ndots:2, in place of this machine's; repeatable
    #[arg(long, value_name = "OPTION", alias = "dns-opt", value_parser = word)]
    dns_option: Vec<String>,

    /// Domain to search names in, in place of this machine's; repeatable. `.` is none
    #[arg(long, value_name = "DOMAIN", value_parser = word)]
    dns_search: Vec<String>,
}

impl DnsArgs {
    pub(crate) fn resolve(&self) -> NameService {
        NameService {
            servers: self.dns.clone(),
            search: self.dns_search.clone(),
            options: self.dns_option.clone(),
        }
    }
}

/// What stays one word of resolv.conf(5).
fn word(text: &str) -> Result<String, String> {
    match text.chars().all(|character| character.is_ascii_graphic() && !"#;".contains(character)) {
        true if !text.is_empty() => Ok(text.to_owned()),
        _ => Err("expected one word".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        dns: DnsArgs,
    }

    fn resolved(flags: &[&str]) -> Option<NameService> {
        let typed = std::iter::once("build").chain(flags.iter().copied());
        Only::try_parse_from(typed).ok().map(|only| only.dns.resolve())
    }

    #[test]
    fn each_flag_has_its_place() {
        let found =
            resolved(&["--dns=192.0.2.1", "--dns=192.0.2.2", "--dns-search=a.example", "--dns-opt=ndots:2"]);
        let wanted = NameService {
            servers: ["192.0.2.1", "192.0.2.2"].map(|server| server.parse().unwrap()).to_vec(),
            search: vec!["a.example".to_owned()],
            options: vec!["ndots:2".to_owned()],
        };
        assert_eq!(found, Some(wanted));
        assert_eq!(resolved(&["--dns-option=ndots:2"]), resolved(&["--dns-opt=ndots:2"]));
        for wrong in
            ["--dns=dns.example", "--dns-search=a b", "--dns-option=a\nnameserver 192.0.2.9", "--dns-search="]
        {
            assert_eq!(resolved(&[wrong]), None, "{wrong}");
        }
    }
}
