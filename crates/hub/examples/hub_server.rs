//! The tests' Hub as a program: `cargo run -p rankine-hub --example hub_server -- --root DIR`.
//!
//! `DIR/models/org/name` and `DIR/datasets/org/name` become repositories. The address is the first line on stdout. A
//! repository whose name begins with `gated-` or `private-` is so.

#[path = "../tests/server/mod.rs"]
mod server;

use std::io::Write;
use std::path::PathBuf;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut port, mut root) = (0, None);
    let (mut cut_every, mut speed, mut large) = (None, None, 1 << 20);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        let number = || value.parse::<usize>().unwrap_or_else(|_| panic!("{name} {value}: expected a number"));
        match name.as_str() {
            "--root" => root = Some(PathBuf::from(&value)),
            "--port" => port = u16::try_from(number()).expect("a port"),
            "--cut-every" => cut_every = Some(number()),
            "--speed" => speed = Some(number()),
            "--large" => large = number(),
            _ => panic!("{name}: expected --root DIR, --port N, --large BYTES, --cut-every BYTES or --speed BYTES"),
        }
    }
    let server = server::Server::on(port);
    {
        let mut state = server.state();
        (state.cut_every, state.speed, state.large) = (cut_every, speed, large);
    }
    if let Some(root) = root {
        server.load(&root);
    }
    for (name, repository) in &mut server.state().repositories {
        repository.gated = name.contains("/gated-");
        repository.private = name.contains("/private-");
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", server.endpoint()).and_then(|()| stdout.flush()).expect("someone listens");
    loop {
        std::thread::park();
    }
}
