//! Who may ask, and from where. Pure, but for the making of a token.
//!
//! The token is what counts. Host and origin are checked besides, so that a page of somebody else's in the same browser
//! can neither ask by a name that it makes point here, nor use the token that the browser keeps.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use hyper::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, ORIGIN};
use thiserror::Error;
use uuid::Uuid;

use super::Address;

/// Where to listen: a host and a port, of which 0 is any that is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no place to listen: give ADDRESS:PORT, ADDRESS or PORT, such as 127.0.0.1:8787")]
pub struct PlaceError(String);

impl Default for Place {
    /// Any free port, for this machine alone.
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 0,
        }
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let text = text.trim();
        let default = Self::default();
        if text.is_empty() || text == "true" {
            return Ok(default);
        }
        if let Ok(port) = text.parse() {
            return Ok(Self { port, ..default });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self {
                host: address.ip().to_string(),
                port: address.port(),
            });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => {
                (host, port.parse().map_err(|_| PlaceError(text.to_owned()))?)
            }
            _ => (text, 0),
        };
        let host = match host {
            "" => &default.host,
            "*" => "0.0.0.0",
            host => host.trim_matches(['[', ']']),
        };
        let is_name = |host: &str| {
            host.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        };
        if host.parse::<IpAddr>().is_err() && !is_name(host) {
            return Err(PlaceError(text.to_owned()));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.parse::<Ipv6Addr>().is_ok() {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A token that nobody guesses: 122 random bits.
pub fn new_token() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Refused {
    #[error(
        "this name is not the dashboard's: use an address, localhost, or the machine's own name"
    )]
    Host,
    #[error("requests from other pages are not answered")]
    Origin,
    #[error("the token is missing or wrong: `ipcluster dashboard` prints the whole address")]
    Token,
}

/// What the checks are made against.
#[derive(Clone, Debug)]
pub(super) struct Access {
    address: SocketAddr,
    token: String,
    names: Vec<String>,
    cookie: String,
}

impl Access {
    pub(super) fn new(address: SocketAddr, token: String, names: Vec<String>) -> Self {
        Self {
            address,
            token,
            names: names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            // Browsers do not tell ports of a host apart.
            cookie: format!("ipcluster-{}", address.port()),
        }
    }

    pub(super) fn address(&self) -> Address {
        let ip = self.address.ip();
        let host = match self.names.first() {
            Some(name) if ip.is_unspecified() => name.clone(),
            _ => ip.to_string(),
        };
        let port = self.address.port();
        Address {
            url: format!("http://{}/", Place { host, port }),
            token: self.token.clone(),
        }
    }

    /// The value of `Set-Cookie` by which a page keeps the token.
    pub(super) fn set_cookie(&self) -> String {
        format!(
            "{}={}; Path=/; HttpOnly; SameSite=Strict",
            self.cookie, self.token
        )
    }

    /// Host and origin: of every request.
    pub(super) fn check_source(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let host = only(headers, &HOST).ok_or(Refused::Host)?;
        if !self.is_own(host) {
            return Err(Refused::Host);
        }
        if headers.contains_key(ORIGIN) {
            let origin = only(headers, &ORIGIN).ok_or(Refused::Origin)?;
            let own = |scheme: &str| {
                let rest = origin.strip_prefix(scheme);
                rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
            };
            if !own("http://") && !own("https://") {
                return Err(Refused::Origin);
            }
        }
        Ok(())
    }

    /// The token: in the address, as a bearer's, or in the cookie.
    pub(super) fn check_token(&self, headers: &HeaderMap, query: &str) -> Result<(), Refused> {
        let in_query = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("token="))
            .next();
        let bearer = only(headers, &AUTHORIZATION).and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then_some(token.trim())
        });
        let cookie = headers.get_all(COOKIE).iter().find_map(|cookies| {
            cookies.to_str().ok()?.split(';').find_map(|cookie| {
                cookie
                    .trim()
                    .strip_prefix(self.cookie.as_str())?
                    .strip_prefix('=')
            })
        });
        let given = [in_query, bearer, cookie];
        let is_right = |given: &str| same(given.as_bytes(), self.token.as_bytes());
        if given.into_iter().flatten().any(is_right) {
            Ok(())
        } else {
            Err(Refused::Token)
        }
    }

    /// Addresses are nobody's names: no name server leads a page here by them. Ports may differ, through a tunnel.
    fn is_own(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((address, _)) => return address.parse::<Ipv6Addr>().is_ok(),
                None => return false,
            },
            None => host.split(':').next().unwrap_or_default(),
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        name == "localhost" || name.parse::<IpAddr>().is_ok() || self.names.contains(&name)
    }
}

/// A header's value, if it is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values
        .next()
        .is_none()
        .then(|| value.to_str().ok())
        .flatten()
}

/// Compares in a time that tells nothing of where they differ, but for their lengths.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differ) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn access() -> Access {
        let address = "127.0.0.1:8787".parse().unwrap();
        Access::new(
            address,
            "secret".to_owned(),
            vec!["Head.example.org".to_owned()],
        )
    }

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn places_are_read() {
        let place = |text: &str| text.parse::<Place>().map(|place| place.to_string());
        for (text, expected) in [
            ("", "127.0.0.1:0"),
            ("8787", "127.0.0.1:8787"),
            (":8787", "127.0.0.1:8787"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("*:80", "0.0.0.0:80"),
            ("[::1]:80", "[::1]:80"),
            ("::1", "[::1]:0"),
            ("head-1.example.org:5", "head-1.example.org:5"),
        ] {
            assert_eq!(place(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["a:b", "1:99999", "http://x", "a b:1"] {
            assert!(place(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_own_names_and_pages_ask() {
        let check = |pairs: &[(HeaderName, &str)]| access().check_source(&headers(pairs));
        for host in [
            "127.0.0.1:8787",
            "localhost:1",
            "[::1]:8787",
            "10.0.0.1",
            "head.EXAMPLE.org:8787",
        ] {
            assert_eq!(check(&[(HOST, host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:8787",
            "[evil]:1",
            "",
            "127.0.0.1.evil",
        ] {
            assert_eq!(check(&[(HOST, host)]), Err(Refused::Host), "{host}");
        }
        assert_eq!(check(&[]), Err(Refused::Host));
        let twice = [(HOST, "localhost"), (HOST, "evil")];
        assert_eq!(check(&twice), Err(Refused::Host));
        let from = |origin| check(&[(HOST, "localhost:1"), (ORIGIN, origin)]);
        assert_eq!(from("http://localhost:1"), Ok(()));
        for origin in [
            "http://localhost:2",
            "http://evil",
            "null",
            "localhost:1",
            "",
        ] {
            assert_eq!(from(origin), Err(Refused::Origin), "{origin}");
        }
    }

    #[test]
    fn a_token_comes_in_three_ways() {
        let check =
            |pairs: &[(HeaderName, &str)], query| access().check_token(&headers(pairs), query);
        assert_eq!(check(&[], "a=b&token=secret"), Ok(()));
        assert_eq!(check(&[(AUTHORIZATION, "Bearer secret")], ""), Ok(()));
        assert_eq!(check(&[(COOKIE, "a=b; ipcluster-8787=secret")], ""), Ok(()));
        for query in [
            "",
            "token=",
            "token=secre",
            "token=secret2",
            "xtoken=secret",
            "token=Secret",
        ] {
            assert_eq!(check(&[], query), Err(Refused::Token), "{query}");
        }
        assert_eq!(
            check(&[(COOKIE, "ipcluster-87=secret")], ""),
            Err(Refused::Token)
        );
        assert_eq!(
            check(&[(AUTHORIZATION, "Basic secret")], ""),
            Err(Refused::Token)
        );
        assert!(new_token().len() == 32 && new_token() != new_token());
    }
}
