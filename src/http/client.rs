//! Who asks: the address of the client, also behind proxies.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use serde::Deserialize;

use super::AppState;

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// What one customer of a provider has at least: who counts single IPv6 addresses counts nothing.
const IPV6_PREFIX: u8 = 64;

/// A network in CIDR notation (RFC 4632), or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let problem = || format!("\"{text}\" is neither an IP address nor a network such as \"10.0.0.0/8\"");
        let (address, prefix) = text.split_once('/').map_or((text.as_str(), None), |(at, bits)| (at, Some(bits)));
        let address: IpAddr = address.trim().parse().map_err(|_| problem())?;
        let longest = bits(address);
        let prefix = prefix.map_or(Ok(longest), |bits| bits.trim().parse()).map_err(|_| problem())?;
        if prefix > longest {
            return Err(problem());
        }
        // IPv4-mapped addresses are compared as the IPv4 addresses that they are.
        let mapped = bits(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) - bits(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Ok(match (address, address.to_canonical()) {
            (IpAddr::V6(_), short @ IpAddr::V4(_)) if prefix >= mapped => {
                Self { address: short, prefix: prefix - mapped }
            }
            _ => Self { address, prefix },
        })
    }
}

impl Network {
    /// True for an address in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        bits(address) == bits(self.address) && masked(address, self.prefix) == masked(self.address, self.prefix)
    }
}

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The first `prefix` bits of an address; the rest is zero.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let rest = u32::from(bits(address).saturating_sub(prefix));
    // A shift by the whole width is none in Rust.
    match address {
        IpAddr::V4(address) => Ipv4Addr::from(u32::MAX.checked_shl(rest).unwrap_or(0) & u32::from(address)).into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::MAX.checked_shl(rest).unwrap_or(0) & u128::from(address)).into(),
    }
}

/// The address that a client is counted by: IPv4 as it is, IPv6 by its /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self(if address.is_ipv6() { masked(address, IPV6_PREFIX) } else { address })
    }
}

impl FromRequestParts<AppState> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Infallible> {
        let trusted = &state.pipeline.settings.server.trusted_proxies;
        Ok(origin(peer(&parts.extensions), &parts.headers, trusted).into())
    }
}

/// The other end of the connection.
fn peer(extensions: &Extensions) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    // Without a connection all count as one: no way around the limits.
    peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Marks requests of connections that we encrypt ourselves.
#[derive(Clone, Copy, Debug)]
pub struct Encrypted;

/// True where nobody between the client and us can read: over our own TLS, or where a trusted proxy says so of its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secure(pub bool);

impl Secure {
    /// As the connection and the headers say.
    pub fn of(extensions: &Extensions, headers: &HeaderMap, trusted: &[Network]) -> Self {
        let says_https = || {
            // The last one is from the proxy next to us.
            let last = headers.get_all(FORWARDED_PROTO).iter().next_back().and_then(|value| value.to_str().ok());
            let is_https = last.and_then(|value| value.rsplit(',').next()).is_some_and(|proto| proto.trim() == "https");
            is_https && trusted.iter().any(|network| network.contains(peer(extensions)))
        };
        Self(extensions.get::<Encrypted>().is_some() || says_https())
    }
}

impl FromRequestParts<AppState> for Secure {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Infallible> {
        let trusted = &state.pipeline.settings.server.trusted_proxies;
        Ok(Self::of(&parts.extensions, &parts.headers, trusted))
    }
}

/// The peer, or what trusted proxies say it asks for: the right-most address that is none of theirs. What stands further
/// left is only what the client claims.
fn origin(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut origin = peer;
    let mut lines = headers.get_all(FORWARDED_FOR).iter().rev();
    while is_trusted(origin)
        && let Some(line) = lines.next()
    {
        for hop in line.to_str().unwrap_or_default().rsplit(',') {
            // Where a proxy names no address ("unknown"), nothing to its left is known either.
            let Some(address) = hop_address(hop.trim()) else { return origin };
            origin = address;
            if !is_trusted(origin) {
                return origin;
            }
        }
    }
    origin
}

/// Some proxies write the port too.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse().ok().or_else(|| hop.parse().ok().map(|address: SocketAddr| address.ip()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn network(text: &str) -> Network {
        Network::try_from(text.to_owned()).expect("a network")
    }

    fn origin_of(peer: &str, lines: &[&'static str], trusted: &[&str]) -> IpAddr {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(line));
        }
        let trusted: Vec<Network> = trusted.iter().map(|text| network(text)).collect();
        origin(ip(peer), &headers, &trusted)
    }

    #[test]
    fn networks_hold_their_addresses_only() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("192.168.4.7", "192.168.4.7", "192.168.4.6"),
            ("192.168.4.128/25", "192.168.4.200", "192.168.4.127"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "2001:db8::1", "127.0.0.1"),
            ("::1", "::1", "::2"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.1.2.3"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
        ] {
            assert!(network(text).contains(ip(inside)), "{inside} in {text}");
            assert!(!network(text).contains(ip(outside)), "{outside} in {text}");
        }
        for bad in ["", "proxy", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/8/8"] {
            assert!(Network::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_others_than_trusted_proxies_say_is_not_believed() {
        let said = ["203.0.113.9"];
        assert_eq!(origin_of("198.51.100.1", &said, &[]), ip("198.51.100.1"));
        assert_eq!(origin_of("198.51.100.1", &said, &["10.0.0.0/8"]), ip("198.51.100.1"));
        assert_eq!(origin_of("10.0.0.1", &said, &["10.0.0.0/8"]), ip("203.0.113.9"));
        assert_eq!(origin_of("::ffff:10.0.0.1", &said, &["10.0.0.0/8"]), ip("203.0.113.9"));
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_counts() {
        let trusted = ["10.0.0.0/8"];
        let right_most = ip("203.0.113.9");
        assert_eq!(origin_of("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.0.0.2"], &trusted), right_most);
        assert_eq!(origin_of("10.0.0.1", &["1.1.1.1", "203.0.113.9", "10.0.0.2"], &trusted), right_most);
        assert_eq!(origin_of("10.0.0.1", &["1.1.1.1, 203.0.113.9:4711"], &trusted), right_most);
        assert_eq!(origin_of("10.0.0.1", &["[2001:db8::1]:443"], &trusted), ip("2001:db8::1"));
        assert_eq!(origin_of("10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"], &trusted), ip("10.0.0.2"));
        assert_eq!(origin_of("10.0.0.1", &["10.0.0.3, 10.0.0.2"], &trusted), ip("10.0.0.3"));
        assert_eq!(origin_of("10.0.0.1", &[], &trusted), ip("10.0.0.1"));
    }

    #[test]
    fn only_our_tls_or_a_trusted_proxy_makes_a_request_secure() {
        let secure = |peer: &str, says: Option<&'static str>, is_encrypted: bool| {
            let mut extensions = Extensions::new();
            extensions.insert(ConnectInfo(SocketAddr::new(ip(peer), 4711)));
            if is_encrypted {
                extensions.insert(Encrypted);
            }
            let mut headers = HeaderMap::new();
            if let Some(says) = says {
                headers.insert(FORWARDED_PROTO, HeaderValue::from_static(says));
            }
            Secure::of(&extensions, &headers, &[network("10.0.0.0/8")]).0
        };
        assert!(secure("203.0.113.9", None, true));
        assert!(secure("10.0.0.1", Some("https"), false));
        assert!(!secure("10.0.0.1", Some("http"), false));
        assert!(!secure("10.0.0.1", Some("https, http"), false));
        assert!(!secure("203.0.113.9", Some("https"), false), "what a visitor claims is not believed");
        assert!(!secure("10.0.0.1", None, false));
    }

    #[test]
    fn clients_of_ipv6_count_by_their_network() {
        let client = |text: &str| Client::from(ip(text));
        assert_eq!(client("2001:db8:0:1::1"), client("2001:db8:0:1:ffff::2"));
        assert_ne!(client("2001:db8:0:1::1"), client("2001:db8:0:2::1"));
        assert_eq!(client("::ffff:203.0.113.9"), client("203.0.113.9"));
        assert_ne!(client("203.0.113.9"), client("203.0.113.8"));
    }

    fn v4() -> impl Strategy<Value = Ipv4Addr> {
        any::<u32>().prop_map(Ipv4Addr::from)
    }

    proptest! {
        #[test]
        fn a_network_holds_the_addresses_with_its_first_bits(address: u32, other: u32, prefix in 0..=32_u8) {
            let network = network(&format!("{}/{prefix}", Ipv4Addr::from(address)));
            let same = (0..u32::from(prefix)).all(|bit| (address ^ other) & (1 << (31 - bit)) == 0);
            let other = Ipv4Addr::from(other);
            prop_assert_eq!(network.contains(other.into()), same);
            prop_assert_eq!(network.contains(other.to_ipv6_mapped().into()), same, "as an IPv4-mapped address");
        }

        #[test]
        fn text_that_is_no_network_is_refused_without_a_panic(text in "\\PC{0,40}|[0-9a-f:./]{0,40}") {
            let address: Option<IpAddr> = text.parse().ok();
            let network = Network::try_from(text);
            prop_assert!(address.is_none() || network.is_ok());
        }

        /// Clients write what they like to the left of what the proxies add; it never changes who they are.
        #[test]
        fn what_a_client_claims_does_not_count(claims in "[ -~]{0,60}", client in v4(), proxies in 0..4_u8, split: bool) {
            let trusted = [network("10.0.0.0/8")];
            prop_assume!(!trusted[0].contains(client.into()));
            let hops: Vec<String> = (0..proxies).map(|last| format!("10.0.0.{last}")).collect();
            let added = [vec![client.to_string()], hops].concat().join(", ");
            let mut headers = HeaderMap::new();
            let lines = if split { vec![claims, added] } else { vec![format!("{claims},{added}")] };
            for line in lines {
                headers.append(FORWARDED_FOR, HeaderValue::try_from(line).expect("visible ASCII"));
            }
            prop_assert_eq!(origin(ip("10.9.9.9"), &headers, &trusted), IpAddr::V4(client));
            prop_assert_eq!(origin(client.into(), &headers, &trusted), IpAddr::V4(client), "no proxy of ours");
        }

        #[test]
        fn any_header_gives_an_address(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut headers = HeaderMap::new();
            if let Ok(line) = HeaderValue::from_bytes(&line) {
                headers.append(FORWARDED_FOR, line);
            }
            let peer = ip("10.0.0.1");
            prop_assert_eq!(origin(peer, &headers, &[]), peer);
            let _ = origin(peer, &headers, &[network("0.0.0.0/0"), network("::/0")]);
        }
    }
}
