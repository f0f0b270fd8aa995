//! What a call costs: the median round trip of an array, in seconds, for each size in bytes that is
//! an argument. `python -m benchmarks.hosts` runs it beside the other clients.

use soma::{map, Array, Dialect, Error, Worker};
use std::time::Instant;

fn main() -> Result<(), Error> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let mut worker =
        Worker::start(&[&python, "-P", "-m", "soma_transport_stdio", "--pickle=never"], Dialect::Frames)?;
    let echo = map! { "id" => "echo", "filter" => "host.Echo" };
    worker.request(map! { "cmd" => "LOAD", "filters" => vec![echo] })?;
    for size in std::env::args().skip(1) {
        let count = size.parse::<usize>().expect("a size is a number of bytes") / 8;
        let array = Array::from_f64(&vec![0.5; count], &[count]);
        let mut seconds = Vec::new();
        let begun = Instant::now();
        while seconds.len() < 20 || begun.elapsed().as_secs_f64() < 2.0 {
            let command = map! { "cmd" => "FORWARD", "node_id" => "echo", "data" => array.clone() };
            let start = Instant::now();
            let reply = worker.request(command)?;
            seconds.push(start.elapsed().as_secs_f64());
            assert_eq!(reply.get("result").as_array(), Some(&array));
        }
        seconds.sort_by(f64::total_cmp);
        println!("{:e}", seconds[seconds.len() / 2]);
    }
    worker.close()
}
