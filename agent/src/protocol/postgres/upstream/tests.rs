use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::config::UpstreamTls;

#[test]
fn the_certificate_is_to_be_for_the_name_that_led_to_the_server() {
    let expected = |configured: Option<&str>, addresses: &[&str], named: Option<&str>| {
        let target = Target {
            tls: UpstreamTls { name: configured.map(Into::into), ..UpstreamTls::new(TlsMode::VerifyFull) },
            ..Target::simple("orders", addresses.iter().map(|address| address.parse().expect("an address")).collect())
        };
        server_name(&target, named, IpAddr::V4(Ipv4Addr::new(10, 20, 0, 5)))
    };
    let names = ["10.20.0.0/24:5432", "a.internal:5432", "b.internal:5432"];
    assert_eq!(expected(Some("c.internal"), &names, Some("b.internal")), "c.internal");
    assert_eq!(expected(None, &names, Some("b.internal")), "b.internal");
    // In a network, and no name stands for it.
    assert_eq!(expected(None, &names, None), "a.internal");
    assert_eq!(expected(None, &names[..1], None), "10.20.0.5");
}
