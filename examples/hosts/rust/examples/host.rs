//! A host of soma in Rust, without any crate.
//!
//!     cargo run --example host                       starts a worker: python3 -m soma_transport_stdio
//!     cargo run --example host -- /path/to/socket    uses a worker of a daemon
//!
//! PYTHON names the interpreter that has soma-core and soma-filters-sklearn installed, and
//! SOMA_DIALECT=lines has it speak lines.

use soma::{map, Array, Dialect, Error, Worker};

fn main() -> Result<(), Error> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let lines = std::env::var("SOMA_DIALECT").is_ok_and(|name| name == "lines");
    let dialect = if lines { Dialect::Lines } else { Dialect::Frames };
    let mut worker = match std::env::args().nth(1) {
        Some(path) => Worker::connect(path.as_ref(), None, dialect)?,
        None => Worker::start(&[&python, "-P", "-m", "soma_transport_stdio"], dialect)?,
    };
    let rows = Array::from_f64(&[1.0, 2.0, 3.0, 4.0], &[2, 2]);

    let scaler = map! { "id" => "scaler", "filter" => "sklearn.StandardScaler" };
    worker.request(map! { "cmd" => "LOAD", "filters" => vec![scaler] })?;
    worker.request(
        map! { "cmd" => "FIT", "node_id" => "scaler", "data" => rows.clone(), "return_state" => false },
    )?;
    let reply = worker.request(map! { "cmd" => "FORWARD", "node_id" => "scaler", "data" => rows })?;
    let result = reply.get("result").as_array().expect("an array comes back for an array");
    println!("result {:?} of shape {:?}", result.to_f64().expect("floats"), result.shape);

    match worker.request(map! { "cmd" => "FORWARD", "node_id" => "nobody", "data" => 1 }) {
        Err(error) if error.code().is_some() => println!("refused with {}: {error}", error.code().unwrap()),
        other => panic!("an unknown node was not refused: {other:?}"),
    }
    worker.close()
}
