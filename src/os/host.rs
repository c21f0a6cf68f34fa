//! What this machine is called, and at which addresses it can be reached.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};

/// A machine's name and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    /// Of all interfaces that are up, loopback included.
    pub addresses: Vec<IpAddr>,
}

impl Host {
    /// This machine, as it is now.
    pub fn this() -> Self {
        let addresses = nix::ifaddrs::getifaddrs()
            .map(|interfaces| {
                interfaces
                    .filter_map(|interface| address_of(&interface))
                    .collect()
            })
            .unwrap_or_default();
        Self {
            name: hostname(),
            addresses,
        }
    }

    /// Is that one of this machine's own addresses?
    pub fn has(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }
}

/// Is it a name or an address of the loopback interface, which no other machine reaches? Brackets of IPv6 may be there.
pub fn is_loopback(address: &str) -> bool {
    let address = address.trim_start_matches('[').trim_end_matches(']');
    matches!(address, "localhost" | "lo" | "lo0")
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

fn address_of(interface: &nix::ifaddrs::InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address.as_ref()?;
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}

/// The name of this machine as `gethostname` gives it, which need not resolve.
pub fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// The first address of a host name, IPv4 before IPv6; nothing if the name cannot be resolved.
/// Asks the name service: may take seconds.
pub fn resolve(name: &str) -> Option<IpAddr> {
    let addresses: Vec<IpAddr> = (name, 0)
        .to_socket_addrs()
        .ok()?
        .map(|found| found.ip())
        .collect();
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    v4.or_else(|| addresses.first()).copied()
}

/// The address at which a machine reaches itself.
pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_name_and_knows_its_loopback() {
        let host = Host::this();
        assert!(!host.name.is_empty());
        assert!(host.has(LOOPBACK));
        assert!(!host.has("203.0.113.7".parse().unwrap()));
    }

    #[test]
    fn addresses_resolve_to_themselves() {
        assert_eq!(resolve("127.0.0.1"), Some(LOOPBACK));
        assert_eq!(resolve("no such name"), None);
    }

    #[test]
    fn what_no_other_machine_reaches_is_told_from_the_rest() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("localhost", true),
            ("lo", true),
            ("::1", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("*", false),
            ("0.0.0.0", false),
            ("10.0.0.1", false),
            ("eth0", false),
        ] {
            assert_eq!(is_loopback(address), expected, "{address}");
        }
    }
}
