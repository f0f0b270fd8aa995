//! What a worker makes of what is sent, over the way that `SOMA_SOCKET` names or a child process.
//!
//! The worker has the filters `host.Echo`, which returns its input, and `host.Actions`, which does
//! what its input names (`soma_core.testing`). Run by `pytest tests/examples`.

use soma::{map, Array, Dialect, Error, Value, Worker};
use std::time::Duration;

fn worker(dialect: Dialect) -> Worker {
    let mut worker = match std::env::var("SOMA_SOCKET") {
        Ok(path) => Worker::connect(path.as_ref(), None, dialect).unwrap(),
        Err(_) => {
            let python = std::env::var("PYTHON").unwrap();
            let command = [&python, "-P", "-m", "soma_transport_stdio", "--pickle=never"];
            Worker::start(&command, dialect).unwrap()
        }
    };
    let echo = map! { "id" => "echo", "filter" => "host.Echo" };
    let actions = map! { "id" => "actions", "filter" => "host.Actions" };
    worker.request(map! { "cmd" => "LOAD", "filters" => vec![echo, actions] }).unwrap();
    worker
}

fn echoed(worker: &mut Worker, value: &Value) -> Value {
    let command = map! { "cmd" => "FORWARD", "node_id" => "echo", "data" => value.clone() };
    worker.request(command).unwrap().get("result").clone()
}

fn plain() -> Vec<Value> {
    let array = Array {
        dtype: "float32".into(),
        shape: vec![2, 1],
        data: vec![0, 0, 128, 63, 0, 0, 192, 127],
        torch: false,
    };
    vec![
        Value::Nil,
        true.into(),
        Value::Int(-7),
        Value::Int(i64::MIN),
        1.5.into(),
        f64::NEG_INFINITY.into(),
        "tëxt \"\u{1}\n\\ 🦀".into(),
        vec![vec![1i64], vec![]].into(),
        map! { "rows" => vec!["a"; 20], "none" => Value::Nil },
        Array::from_f64(&vec![0.5; 1 << 17], &[1 << 10, 1 << 7]).into(),
        Array::from_f64(&[], &[0, 3]).into(),
        array.into(),
    ]
}

#[test]
fn plain_values_come_back_in_both_dialects() {
    for dialect in [Dialect::Frames, Dialect::Lines] {
        let mut worker = worker(dialect);
        for value in plain() {
            assert_eq!(echoed(&mut worker, &value), value, "{dialect:?}");
        }
        worker.close().unwrap();
    }
}

#[test]
fn frames_bring_back_what_json_has_no_form_for() {
    let mut worker = worker(Dialect::Frames);
    for value in [
        Value::BigInt(vec![0x7F; 20]),
        Value::BigInt(vec![0x80, 0, 0, 0, 0, 0, 0, 0, 1]),
        Value::Complex(1.0, -2.0),
        Value::Bytes(vec![0, 255]),
        Value::Map(vec![(Value::Int(1), "one".into()), (Value::Int(2), Value::Nil)]),
    ] {
        assert_eq!(echoed(&mut worker, &value), value);
    }
}

#[test]
fn an_error_reply_has_its_code() {
    let failed = worker(Dialect::Frames).request(map! { "cmd" => "FORWARD", "node_id" => "nobody" });
    assert_eq!(failed.unwrap_err().code(), Some("unknown_node"));
}

#[test]
fn a_call_that_takes_too_long_is_interrupted_and_the_worker_goes_on() {
    let mut worker = worker(Dialect::Frames);
    let sleep: Vec<Value> = vec!["sleep".into(), 60.0.into()];
    worker.timeout = Some(Duration::from_millis(500));
    let late = worker.request(map! { "cmd" => "FORWARD", "node_id" => "actions", "data" => sleep });
    assert!(matches!(late, Err(Error::Deadline)), "{late:?}");
    worker.timeout = None;
    assert_eq!(echoed(&mut worker, &Value::Int(1)), Value::Int(1));
}

#[test]
fn events_come_before_the_reply() {
    let mut worker = worker(Dialect::Frames);
    let mut epochs = Vec::new();
    let data = vec![1.0, 2.0];
    let fit = map! { "cmd" => "BATCHED_FIT", "node_ids" => vec!["echo"], "data" => data, "epochs" => 2i64 };
    worker
        .request_with_events(fit, &mut |event| epochs.push(event.get("data").get("epoch").clone()))
        .unwrap();
    assert_eq!(epochs.last(), Some(&Value::Int(2)));
}

#[test]
fn the_clients_of_a_session_share_what_is_loaded() {
    let Ok(path) = std::env::var("SOMA_SOCKET") else { return };
    let session = || Worker::connect(path.as_ref(), Some("rust"), Dialect::Frames).unwrap();
    let (mut first, mut second) = (session(), session());
    let echo = map! { "id" => "shared", "filter" => "host.Echo" };
    first.request(map! { "cmd" => "LOAD", "filters" => vec![echo] }).unwrap();
    let listed = second.request(map! { "cmd" => "LIST" }).unwrap();
    assert_eq!(listed.get("nodes").get("shared").get("name").as_text(), Some("Echo"));
    second.request(map! { "cmd" => "SHUTDOWN" }).unwrap();
}

#[test]
fn every_golden_frame_is_read() {
    let vectors = std::fs::read_to_string("../../../schemas/vectors/frame.jsonl").unwrap();
    let entries: Vec<Value> =
        vectors.lines().skip(1).map(|line| soma::lines::read_line(line).unwrap()).collect();
    let mut read = 0;
    for entry in entries.iter().filter(|entry| entry.get("map_b64") != &Value::Nil) {
        let map = soma::lines::from_base64(entry.get("map_b64").as_text().unwrap()).unwrap();
        let Value::List(listed) = entry.get("buffers") else { panic!("{entry:?}") };
        let buffers: Vec<_> =
            listed.iter().map(|b| soma::lines::from_base64(b.as_text().unwrap()).unwrap()).collect();
        let message = soma::frames::read_map(&map, buffers).unwrap();
        let shown = entry.get("message");
        for field in ["cmd", "id", "ok", "code", "node_id"] {
            assert!(shown == &Value::Nil || message.get(field) == shown.get(field), "{entry:?}");
        }
        let (head, parts) = soma::frames::write_frame(&message);
        let (preamble, rest) = head.split_at(soma::frames::PREAMBLE);
        let (map, table) = soma::frames::read_preamble(preamble.try_into().unwrap()).unwrap();
        assert_eq!(soma::frames::read_table(&rest[map..]).len() * 24, table);
        let parts = parts.into_iter().map(<[u8]>::to_vec).collect();
        assert_eq!(soma::frames::read_map(&rest[..map], parts).unwrap(), message);
        read += 1;
    }
    assert!(read > 40);
}
