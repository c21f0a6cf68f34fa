//! Ports of this machine that an ssh leads to addresses elsewhere. Pure.

use std::collections::BTreeMap;
use std::io;

use crate::os::host::LOOPBACK;

/// The interface of a connection file whose ports are led.
pub(super) fn interface() -> String {
    format!("tcp://{LOOPBACK}")
}

/// Where ports of an address are.
pub(super) fn ends(
    address: String,
    ports: impl IntoIterator<Item = u16>,
) -> impl Iterator<Item = (String, u16)> {
    ports
        .into_iter()
        .map(move |port| (format!("{address}:{port}"), port))
}

/// Ports of this machine, by what they lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ways(pub(super) BTreeMap<String, u16>);

impl Ways {
    /// `free`: as many ports of this machine, the same ones where that can be.
    pub(super) fn to(
        ends: impl IntoIterator<Item = (String, u16)>,
        free: impl FnOnce(Vec<u16>) -> io::Result<Vec<u16>>,
    ) -> io::Result<Self> {
        let ends: BTreeMap<String, u16> = ends.into_iter().collect();
        let here = free(ends.values().copied().collect())?;
        Ok(Self(ends.into_keys().zip(here).collect()))
    }

    /// What ssh is told of them.
    pub(super) fn words(&self) -> impl Iterator<Item = String> {
        self.0
            .iter()
            .flat_map(|(there, here)| ["-L".to_owned(), format!("{LOOPBACK}:{here}:{there}")])
    }

    /// Puts this machine's ports in the place of those of `address`.
    pub(super) fn lead<'a>(&self, address: &str, ports: impl Iterator<Item = &'a mut u16>) {
        for port in ports {
            if let Some(here) = self.0.get(&format!("{address}:{port}")) {
                *port = *here;
            }
        }
    }
}
