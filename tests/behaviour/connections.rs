//! How many connections an address may have, and for how long they may be idle.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use tokio::net::TcpSocket;

use crate::gateway::{Gateway, PATIENCE, eventually, question, read, request};

const TABLET: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Connects from another address than all other clients.
fn connect_from(source: Ipv4Addr, gateway: &Gateway) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    let connected = runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((source, 0)))?;
        socket.connect(gateway.address).await?.into_std()
    });
    let stream = connected.expect("connected");
    stream.set_nonblocking(false).expect("set");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

#[test]
fn an_address_with_all_its_connections_is_told_so_and_keeps_no_other_out() {
    let gateway = Gateway::with_env(&[
        ("EDGELLM__SERVER__MAX_CONNECTIONS", "64"),
        ("EDGELLM__SERVER__HEADER_TIMEOUT_SECONDS", "600"),
    ]);
    // Half of them.
    let held: Vec<_> = (0..32).map(|_| connect_from(TABLET, &gateway)).collect();
    let large = request("POST", "/v1/chat/completions", &" ".repeat(200_000));
    for request in [request("GET", "/health", ""), large] {
        let mut stream = connect_from(TABLET, &gateway);
        stream.write_all(request.as_bytes()).expect("sent");
        let refused = read(stream);
        assert_eq!(refused.status, 503);
        let error = &refused.json()["error"];
        assert_eq!(error["type"], "overloaded_error");
        assert_eq!(error["code"], "too_many_connections");
        assert!(
            refused.head.contains("\r\nretry-after: 5"),
            "{}",
            refused.head
        );
    }
    // Hundreds more, which send nothing.
    let more: Vec<_> = (0..300).map(|_| connect_from(TABLET, &gateway)).collect();
    for _ in 0..5 {
        assert_eq!(gateway.chat(&question("hello")).status, 200, "the till");
    }
    let reason = "edgellm_requests_rejected_total{model=\"\",reason=\"too_many_connections\"}";
    eventually("counted", || gateway.metric(reason) == "302");
    let line = gateway.log_line("server.max_connections_per_address");
    assert!(line.contains("\"address\":\"127.0.0.2\""), "{line}");
    drop((held, more));
    eventually("served again", || {
        let mut stream = connect_from(TABLET, &gateway);
        stream
            .write_all(request("GET", "/health", "").as_bytes())
            .expect("sent");
        read(stream).status == 200
    });
}

#[test]
fn a_connection_that_is_idle_or_never_says_anything_is_closed() {
    let gateway = Gateway::with_env(&[("EDGELLM__SERVER__HEADER_TIMEOUT_SECONDS", "1")]);
    let mut silent = gateway.connect();
    let mut kept = gateway.connect();
    kept.write_all(b"GET /health HTTP/1.1\r\nhost: edgellm\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    kept.read_to_string(&mut answer).expect("closed");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(silent.read(&mut [0]).expect("closed"), 0);
}
