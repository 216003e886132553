//! What a configuration may say, and what each mistake is answered with.

mod schema;

use std::collections::BTreeSet;
use std::io::Write;

use serde_json::{Value, json};

use super::*;

/// Every key that there is, with a value unlike its default where possible.
const EXAMPLE: &str = include_str!("../../example.json");

/// The smallest configuration, to be broken in one place by each test.
fn small() -> Value {
    json!({
        "ports": [{"name": "p", "device": "net_null0"}],
        "stacks": [{"name": "s", "kind": "test", "port": "p", "addresses": ["10.0.0.2/24"]}]
    })
}

/// Parses [`small`] with the value at the JSON pointer replaced or added.
fn parse_with(pointer: &str, value: Value) -> Result<Config, ConfigError> {
    parse_all(&[(pointer, value)])
}

fn parse_all(changes: &[(&str, Value)]) -> Result<Config, ConfigError> {
    let mut root = small();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match root.pointer_mut(parent).unwrap() {
            Value::Object(map) => drop(map.insert(key.to_owned(), value.clone())),
            Value::Array(list) if key == "-" => list.push(value.clone()),
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value.clone(),
            _ => panic!("{pointer} leads nowhere"),
        }
    }
    Config::parse(&root.to_string())
}

/// Asserts that the change is refused with all of `parts` in the message.
fn refused(changes: &[(&str, Value)], parts: &[&str]) {
    let message = parse_all(changes).expect_err(parts[0]).to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn the_embedded_configuration_is_as_described() {
    let config = Config::embedded();
    assert_eq!(config.socket, PathBuf::from("/run/dmm/dmmd.sock"));
    assert_eq!(config.ports[0].device.to_string(), "net_tap0,iface=dmm0");
    assert_eq!(config.ports[0].mtu, 1500);
    let stack = &config.stacks[0];
    assert_eq!((stack.name.as_str(), stack.kind), ("default", Kind::Native));
    assert_eq!(stack.instance_cores(3), [3]);
    assert_eq!(stack.gateway.0.len(), 2);
    assert_eq!(config.queues(&config.ports[0]), 1);
    config.validate().unwrap();
}

#[test]
fn the_example_says_what_it_says() {
    let config = Config::parse(EXAMPLE).unwrap();
    assert_eq!(config.queues(&config.ports[0]), 2);
    let fast = &config.stacks[0];
    assert_eq!(fast.instance_cores(9), [0, 0]);
    assert_eq!(fast.tcp.keepalive_s, Some(7200));
    assert_eq!(fast.tcp.ecn, Ecn::On);
    assert_eq!(fast.tcp.features, Features { prr: false, ..Features::default() });
    assert_eq!(fast.tcp.fast_open_key.unwrap().0[..4], [0x33, 0x22, 0x11, 0x00]);
    assert_eq!(config.stacks[1].tcp.ecn, Ecn::Passive);
    assert_eq!(config.stacks[1].tcp.congestion, Congestion::Reno);
    assert_eq!(config.stacks[1].gateway.0, ["10.111.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(config.wires[0].loss.get(), 0.01);
    assert_eq!(config.clients.users[1], Principal::Id(1000));
    assert_eq!(config.clients.mode, FileMode(0o660));
}

#[test]
fn what_is_written_out_reads_back_the_same() {
    for text in [EMBEDDED_JSON, EXAMPLE] {
        let config = Config::parse(text).unwrap();
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(Config::parse(&written).unwrap(), config);
    }
}

#[test]
fn the_schema_accepts_what_the_parser_accepts() {
    let schema = Config::schema();
    for text in [EMBEDDED_JSON, EXAMPLE] {
        let value: Value = serde_json::from_str(text).unwrap();
        let errors = schema::violations(&schema, &value);
        assert!(errors.is_empty(), "{errors:?}");
        // With every default written out, every optional key is held against the schema too.
        let full = serde_json::to_value(Config::parse(text).unwrap()).unwrap();
        let errors = schema::violations(&schema, &full);
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[test]
fn the_schema_refuses_what_the_parser_refuses() {
    let schema = Config::schema();
    for (pointer, value) in [
        ("/bogus", json!(1)),
        ("/ports/0/bogus", json!(1)),
        ("/stacks/0/tcp", json!({"bogus": 1})),
        ("/stacks/0/tcp", json!({"ecn": "maybe"})),
        ("/stacks/0/tcp", json!({"features": {"sacks": true}})),
        ("/stacks/0/tcp", json!({"fast_open_key": "0011"})),
        ("/stacks/0/kind", json!("lwip")),
        ("/stacks/0/name", json!("Upper")),
        ("/stacks/0/name", json!("kernel")),
        ("/stacks/0/cores", json!(["0"])),
        ("/stacks/0/gateway", json!(7)),
        ("/ports/0/mtu", json!(100)),
        ("/ports/0/device", json!("eth0")),
        ("/clients", json!({"mode": "0999"})),
        ("/workers", json!({"idle": "lazy"})),
        ("/memory", json!({"mempool_mb": 1})),
    ] {
        assert!(parse_with(pointer, value.clone()).is_err(), "{pointer} is parsed");
        let mut root = small();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        root.pointer_mut(parent).unwrap()[key] = value;
        assert!(!schema::violations(&schema, &root).is_empty(), "{pointer} is valid");
    }
}

#[test]
fn syntax_errors_have_line_and_column() {
    let message = Config::parse("{\n  \"ports\": [,]\n}").unwrap_err().to_string();
    assert!(message.starts_with("line 2 column 13, key ports"), "{message}");
    assert!(message.contains("correct the JSON"), "{message}");
    let message = Config::parse(" \n").unwrap_err().to_string();
    assert!(message.contains("the file is empty"), "{message}");
    let message = Config::parse(&format!("{} x", small())).unwrap_err().to_string();
    assert!(message.contains("trailing characters"), "{message}");
    let deep = format!("{{\"ports\": {}", "[".repeat(100_000));
    let message = Config::parse(&deep).unwrap_err().to_string();
    assert!(message.contains("line 1 column"), "{message}");
}

#[test]
fn unknown_keys_are_named_with_their_line() {
    let text = EMBEDDED_JSON.replace("\"kind\"", "\"kindd\": 1,\n      \"kind\"");
    let message = Config::parse(&text).unwrap_err().to_string();
    assert!(message.starts_with("line 6 column 13, key stacks[0].kindd"), "{message}");
    assert!(message.contains("unknown field `kindd`"), "{message}");
    assert!(message.contains("remove or correct the key"), "{message}");
    refused(&[("/stacks/0/tcp", json!({"rxbuffer": 1}))], &["stacks[0].tcp.rxbuffer", "line 1"]);
    refused(&[("/policy", json!([]))], &["key policy", "unknown field"]);
}

#[test]
fn a_list_is_no_object() {
    for (text, line) in [("[]", 1), ("\n [{}, 1]", 2)] {
        let message = Config::parse(text).unwrap_err().to_string();
        assert!(message.starts_with(&format!("line {line} column 1: ")), "{message}");
        assert!(message.contains("sequence, expected an object"), "{message}");
        assert!(message.contains("`dmm schema`"), "{message}");
    }
    refused(&[("/ports/0", json!([]))], &["ports[0]", "expected an object", "`dmm schema`"]);
    refused(&[("/memory", json!(7))], &["memory", "`7`, expected an object", "`dmm schema`"]);
}

#[test]
fn type_errors_are_named_with_their_line() {
    refused(
        &[("/ports/0/mtu", json!("1500"))],
        &["line 1 column", "key ports[0].mtu", "expected u16", "write a value of that type"],
    );
    refused(&[("/ports/0/mtu", json!(70_000))], &["ports[0].mtu", "in that range"]);
    refused(&[("/ports/0/mtu", json!(-1))], &["ports[0].mtu", "in that range"]);
    refused(&[("/workers", json!({"idle": "lazy"}))], &["workers.idle", "`adaptive`", "one of"]);
    refused(
        &[("/stacks/0/routes", json!([{"to": "10.0.0.0/8", "via": "x"}]))],
        &["stacks[0].routes[0].via", "write it as 10.1.0.1"],
    );
    let text = small().to_string().replace("\"kind\":", "\"kind\":\"test\",\"kind\":");
    let message = Config::parse(&text).unwrap_err().to_string();
    assert!(message.contains("duplicate field `kind`: keep one"), "{message}");
    let text = small().to_string().replace("\"kind\":\"test\",", "");
    let message = Config::parse(&text).unwrap_err().to_string();
    assert!(message.contains("missing field `kind`: add the key"), "{message}");
}

#[test]
fn values_that_mean_nothing_are_refused_where_they_stand() {
    refused(
        &[("/stacks/0/addresses/0", json!("10.0.0.300/24"))],
        &["stacks[0].addresses[0]", "line 1", "write it as"],
    );
    refused(&[("/stacks/0/gateway", json!("nowhere"))], &["stacks[0].gateway", "no address"]);
    refused(&[("/stacks/0/gateway", json!(["10.0.0.1", 7]))], &["stacks[0].gateway", "a string"]);
    refused(&[("/stacks/0/name", json!("A b"))], &["stacks[0].name", "a-z"]);
    refused(&[("/ports/0/device", json!("eth0"))], &["ports[0].device", "PCI address"]);
    refused(&[("/clients", json!({"mode": "rw"}))], &["clients.mode", "octal"]);
    refused(&[("/clients", json!({"users": [""]}))], &["clients.users[0]", "getent"]);
    refused(&[("/clients", json!({"users": [4_294_967_295_u64]}))], &["clients.users[0]", "uid"]);
}

#[test]
fn kinds_that_come_later_are_told_from_nonsense() {
    for kind in ["kernel", "sctp", "plugin"] {
        refused(&[("/stacks/0/kind", json!(kind))], &["not available in this build", "smoltcp"]);
    }
    refused(&[("/stacks/0/kind", json!("smultcp"))], &["stacks[0].kind", "is unknown", "smoltcp"]);
}

#[test]
fn names_and_ports_have_one_owner() {
    let port = json!({"name": "q", "device": "net_null1"});
    let stack = |name, port| json!({"name": name, "kind": "test", "port": port, "addresses": ["10.0.1.2/24"]});
    refused(&[("/stacks/0/port", json!("x"))], &["stacks[0].port", "no port \"x\"", "[p]"]);
    refused(&[("/stacks/-", stack("t", "p"))], &["stacks[1].port", "port of its own"]);
    refused(
        &[("/ports/-", port.clone()), ("/stacks/-", stack("s", "q"))],
        &["stacks[1].name", "choose another"],
    );
    refused(&[("/ports/-", json!({"name": "p", "device": "net_null1"}))], &["ports[1].name"]);
    refused(
        &[("/ports/-", json!({"name": "q", "device": "net_null0,copy=1"}))],
        &["ports[1].device", "net_null0 already"],
    );
    parse_all(&[("/ports/-", port), ("/stacks/-", stack("t", "q"))]).unwrap();
}

#[test]
fn the_kernels_name_is_its_own() {
    refused(
        &[("/stacks/0/name", json!("kernel"))],
        &["stacks[0].name", "the kernel's own stack", "choose another"],
    );
    parse_with("/stacks/0/name", json!("default")).unwrap();
    // Only where stacks are named is there a doubt.
    parse_all(&[("/ports/0/name", json!("kernel")), ("/stacks/0/port", json!("kernel"))]).unwrap();
}

#[test]
fn addresses_belong_to_one_stack_and_to_hosts() {
    let address = |text: &str| [("/stacks/0/addresses/0", json!(text))];
    refused(
        &[("/stacks/0/addresses/-", json!("10.0.0.2/16"))],
        &["stacks[0].addresses[1]", "at stacks[0].addresses[0] already"],
    );
    for text in ["10.0.0.0/24", "10.0.0.255/24", "224.0.0.1/4", "0.0.0.0/8", "10.0.0.1/0"] {
        refused(&address(text), &["stacks[0].addresses[0]", "use an address of a host"]);
    }
    for text in ["127.0.0.1/8", "::1/128", "ff02::1/64", "255.255.255.255/32"] {
        refused(&address(text), &["stacks[0].addresses[0]", "use an address of a host"]);
    }
    for text in ["10.0.0.0/31", "10.0.0.255/32", "fd00::/64", "fe80::1/64"] {
        parse_all(&address(text)).expect(text);
    }
    refused(&[("/stacks/0/addresses", json!([]))], &["stacks[0].addresses", "give the stack"]);
    refused(
        &[("/ports/0/mtu", json!(1000)), ("/stacks/0/addresses/-", json!("fd00::2/64"))],
        &["stacks[0].addresses[1]", "IPv6 needs 1280"],
    );
}

#[test]
fn routers_and_neighbours_are_within_reach() {
    let at = "/stacks/0/gateway";
    refused(&[(at, json!("10.0.1.1"))], &["stacks[0].gateway[0]", "on no subnet of stack \"s\""]);
    refused(&[(at, json!("fd00::1"))], &["stacks[0].gateway[0]", "on no subnet"]);
    refused(&[(at, json!("10.0.0.2"))], &["stacks[0].gateway[0]", "own address"]);
    refused(&[(at, json!(["10.0.0.1", "10.0.0.3"]))], &["gateway[1]", "keep one"]);
    parse_with(at, json!(["10.0.0.1", "fe80::1"])).unwrap();
    let at = "/stacks/0/routes";
    let route = |to: &str, via: &str| json!({"to": to, "via": via});
    refused(&[(at, json!([route("10.9.0.1/16", "10.0.0.1")]))], &["routes[0].to", "10.9.0.0/16"]);
    refused(&[(at, json!([route("10.9.0.0/16", "10.8.0.1")]))], &["routes[0].via", "no subnet"]);
    refused(&[(at, json!([route("10.9.0.0/16", "fe80::1")]))], &["routes[0].via", "family"]);
    refused(&[(at, json!([route("0.0.0.0/0", "10.0.0.1")]))], &["routes[0].to", "gateway"]);
    let twice = json!([route("10.9.0.0/16", "10.0.0.1"), route("10.9.0.0/16", "10.0.0.3")]);
    refused(&[(at, twice)], &["routes[1].to", "keep one"]);
    let at = "/stacks/0/neighbours";
    let entry = |address: &str, mac: &str| json!([{"address": address, "mac": mac}]);
    refused(&[(at, entry("10.1.0.1", "02:00:00:00:00:01"))], &["neighbours[0].address"]);
    refused(&[(at, entry("10.0.0.1", "03:00:00:00:00:01"))], &["neighbours[0].mac", "one station"]);
    refused(&[(at, entry("10.0.0.1", "00:00:00:00:00:00"))], &["neighbours[0].mac"]);
    let one = json!({"address": "10.0.0.1", "mac": "02:00:00:00:00:01"});
    refused(&[(at, json!([one, one]))], &["neighbours[1].address", "listed already"]);
}

#[test]
fn a_wire_has_two_ends() {
    let port = |name| json!({"name": name, "device": "wire:w"});
    refused(&[("/ports/-", port("a"))], &["ports[1].device", "no wire \"w\"", "add it to wires"]);
    let wires = || ("/wires", json!([{"name": "w"}]));
    refused(&[wires(), ("/ports/-", port("a"))], &["wires[0].name", "has 1 ends", "exactly two"]);
    refused(&[wires()], &["wires[0].name", "has 0 ends"]);
    let two = [wires(), ("/ports/-", port("a")), ("/ports/-", port("b"))];
    parse_all(&two).unwrap();
    let mut three = two.to_vec();
    three.push(("/ports/-", port("c")));
    refused(&three, &["wires[0].name", "has 3 ends"]);
    let mut unlike = two.to_vec();
    unlike.push(("/ports/2/mtu", json!(9000)));
    refused(&unlike, &["wires[0].name", "1500 and 9000", "give both the same"]);
    refused(&[("/wires", json!([{"name": "w", "loss": 2}]))], &["wires[0].loss", "from 0 to 1"]);
    refused(&[("/wires", json!([{"name": "w"}, {"name": "w"}]))], &["wires[1].name"]);
    let slow = json!([{"name": "w", "delay_us": 10_000_001}]);
    refused(&[("/wires", slow)], &["wires[0].delay_us", "from 0 to"]);
}

#[test]
fn there_is_a_queue_for_each_instance_and_none_besides() {
    refused(
        &[("/ports/0/queues", json!(4)), ("/stacks/0/cores", json!([0, 0, 1]))],
        &["ports[0].queues", "the 3 instances of stack \"s\"", "write 3"],
    );
    refused(
        &[("/ports/0/queues", json!(2)), ("/stacks/0/cores", json!([0, 0, 1]))],
        &["ports[0].queues", "the 3 instances of stack \"s\"", "write 3"],
    );
    refused(&[("/ports/0/queues", json!(0))], &["ports[0].queues", "from 1 to 64"]);
    let config = parse_with("/stacks/0/cores", json!([0, 0, 1])).unwrap();
    assert_eq!(config.queues(&config.ports[0]), 3);
}

#[test]
fn cores_exist_and_may_be_used() {
    let config = parse_with("/stacks/0/cores", json!([0, 1])).unwrap();
    let cores = |online: &[u16], allowed: &[u16]| Cores {
        online: online.iter().copied().collect(),
        allowed: allowed.iter().copied().collect::<BTreeSet<_>>(),
    };
    config.validate_on(&cores(&[0, 1], &[0, 1])).unwrap();
    let message = config.validate_on(&cores(&[0], &[0])).unwrap_err().to_string();
    assert!(
        message.contains("stacks[0].cores[1]: core 1 does not exist: use some of 0"),
        "{message}"
    );
    let message = config.validate_on(&cores(&[0, 1], &[1])).unwrap_err().to_string();
    assert!(message.contains("stacks[0].cores[0]: the affinity mask forbids core 0"), "{message}");
}

#[test]
fn users_and_groups_are_known_to_the_machine() {
    let cores = Cores { online: [0].into(), allowed: [0].into() };
    let validate = |clients| parse_with("/clients", clients).unwrap().validate_on(&cores);
    validate(json!({"users": ["root", 4_000_000], "groups": ["root", 4_000_000]})).unwrap();
    for (list, what) in [("users", "user"), ("groups", "group")] {
        let message =
            validate(json!({list: ["root", "nobody-of-this-name"]})).unwrap_err().to_string();
        assert_eq!(
            message,
            format!(
                "key clients.{list}[1]: there is no {what} \"nobody-of-this-name\": correct the \
                 name"
            )
        );
    }
}

#[test]
fn whoever_is_listed_and_kept_out_is_warned_of() {
    let warned = |clients| parse_with("/clients", clients).unwrap().warnings();
    for clients in [
        json!({"users": ["nobody"]}),
        json!({"users": [0, 1000], "mode": "0644"}),
        json!({"groups": [7], "mode": "0600"}),
    ] {
        let warnings = warned(clients.clone());
        assert_eq!(warnings.len(), 1, "{clients}");
        let text = warnings[0].to_string();
        assert!(text.contains("clients.mode 06") && text.contains("\"0666\""), "{text}");
    }
    for clients in [
        json!({}),
        json!({"users": ["root", 0]}),
        json!({"users": ["nobody"], "mode": "0666"}),
        json!({"groups": ["dmm"], "mode": "0660"}),
    ] {
        assert_eq!(warned(clients.clone()), [], "{clients}");
    }
}

#[test]
fn packet_memory_has_a_least_amount_and_none_without_devices() {
    let memory = |mempool_mb: u32| {
        parse_with("/memory", json!({"mempool_mb": mempool_mb})).unwrap().packet_memory_mb()
    };
    assert_eq!([32, 64, 65].map(memory), [128, 128, 130]);
    let port = |name| ("/ports/-", json!({"name": name, "device": "wire:w"}));
    let wire = ("/wires", json!([{"name": "w"}]));
    let mut config = parse_all(&[wire, port("a"), port("b")]).unwrap();
    config.memory.mempool_mb = 100;
    assert_eq!(config.packet_memory_mb(), 200);
    config.ports.remove(0);
    assert_eq!(config.packet_memory_mb(), 0);
}

#[test]
fn bounds_hold() {
    let cores = json!(vec![0; limits::INSTANCES_MAX + 1]);
    refused(&[("/stacks/0/cores", cores)], &["stacks[0].cores", "65 entries", "at most 64"]);
    let (mut ports, mut stacks) = (Vec::new(), Vec::new());
    for i in 0..=limits::STACKS_MAX {
        ports.push(json!({"name": format!("p{i}"), "device": format!("net_null{i}")}));
        stacks.push(json!({"name": format!("s{i}"), "kind": "test", "port": format!("p{i}"),
            "cores": [0, 0, 0, 0, 0], "addresses": [format!("10.{i}.0.1/16")]}));
    }
    let some = |n: usize| [("/ports", json!(ports[..n])), ("/stacks", json!(stacks[..n]))];
    parse_all(&some(12)).unwrap();
    refused(&some(13), &["stacks[*].cores", "65 entries"]);
    refused(&some(17), &["ports", "17 entries", "at most 16"]);
    refused(&[("/stacks", json!([]))], &["stacks", "at least one"]);
    refused(&[("/socket", json!("run/x"))], &["socket", "absolute"]);
    refused(&[("/socket", json!("/x".repeat(54)))], &["socket", "107 bytes"]);
    for (pointer, key) in [
        ("/stacks/0/tcp", "rx_buffer"),
        ("/stacks/0/tcp", "tx_buffer"),
        ("/stacks/0/tcp", "backlog_max"),
        ("/stacks/0/tcp", "keepalive_s"),
        ("/stacks/0/udp", "rx_buffer"),
        ("/stacks/0/udp", "tx_buffer"),
        ("/clients", "max_sessions"),
        ("/clients", "sockets"),
        ("/clients", "bytes"),
        ("/clients", "contexts"),
        ("/memory", "mempool_mb"),
    ] {
        refused(&[(pointer, json!({key: 0}))], &[key, "0 is out of range: write a number from"]);
    }
    refused(&[("/workers", json!({"spin_us": 10_001}))], &["workers.spin_us", "from 0 to 10000"]);
    let many: Vec<_> = (1..=9).map(|i| format!("10.0.0.{i}/24")).collect();
    refused(&[("/stacks/0/addresses", json!(many))], &["stacks[0].addresses", "at most 8"]);
    let message = Config::parse(&" ".repeat(limits::FILE_BYTES_MAX + 1)).unwrap_err().to_string();
    assert!(message.contains("too long"), "{message}");
}

#[test]
fn what_a_kind_has_not_is_refused() {
    for (key, value) in [
        ("ecn", json!("off")),
        ("features", json!({"sack": false})),
        ("fast_open_key", json!("1-2-3-4")),
    ] {
        let with = |kind: &str| {
            [("/stacks/0/kind", json!(kind)), ("/stacks/0/tcp", json!({ key: value.clone() }))]
        };
        parse_all(&with("native")).unwrap();
        refused(&with("smoltcp"), &["stacks[0].tcp", key, "use \"native\""]);
    }
    let in_vlan = |kind: &str| [("/stacks/0/kind", json!(kind)), ("/stacks/0/vlan", json!(4094))];
    let config = parse_all(&in_vlan("native")).unwrap();
    assert_eq!(config.stacks[0].vlan, Some(4094));
    refused(&in_vlan("smoltcp"), &["stacks[0].vlan", "use \"native\""]);
    for vlan in [0, 4095] {
        refused(&[("/stacks/0/vlan", json!(vlan))], &["stacks[0].vlan", "from 1 to 4094"]);
    }
}

#[test]
fn files_are_named_in_errors() {
    let message = Config::load(Path::new("/nonexistent/x.json")).unwrap_err().to_string();
    assert!(message.contains("/nonexistent/x.json") && message.contains("write one"), "{message}");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(EMBEDDED_JSON.as_bytes()).unwrap();
    assert_eq!(Config::load(file.path()).unwrap(), Config::embedded());
    file.write_all(b"x").unwrap();
    let message = Config::load(file.path()).unwrap_err().to_string();
    assert!(message.contains(": line 13 column 1: trailing characters"), "{message}");
    file.as_file().set_len(0).unwrap();
    file.as_file_mut().write_all(&[0xff, 0xfe]).unwrap();
    let message = Config::load(file.path()).unwrap_err().to_string();
    assert!(message.contains("UTF-8"), "{message}");
}

#[test]
fn no_error_is_told_again_by_its_source() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let missing = Config::load(Path::new("/nonexistent/x.json")).unwrap_err();
    file.write_all(b"[").unwrap();
    let broken = Config::load(file.path()).unwrap_err();
    let mask = ConfigError::Cores(std::io::Error::other("why"));
    for error in [missing, broken, mask] {
        assert!(std::error::Error::source(&error).is_none(), "{error}");
    }
}

#[test]
fn rings_have_two_ends_alike() {
    let with = |ports: &str| {
        let text = format!(
            r#"{{"ports": [{ports}], "stacks": [{{"name": "s", "kind": "smoltcp", "port": "a",
                "addresses": ["10.0.0.1/24"]}}]}}"#
        );
        Config::parse(&text).and_then(|config| config.validate()).map_err(|error| error.to_string())
    };
    let port =
        |name: &str, more: &str| format!(r#"{{"name": "{name}", "device": "ring:r"{more}}}"#);
    let [a, b, c] = ["a", "b", "c"].map(|name| port(name, ""));
    assert_eq!(with(&format!("{a}, {b}")), Ok(()));
    assert!(with(&a).unwrap_err().contains("ring:r has 1 ends"));
    assert!(with(&format!("{a}, {b}, {c}")).unwrap_err().contains("ring:r has 3 ends"));
    for more in [r#", "mtu": 9000"#, r#", "queues": 2"#] {
        let other = port("b", more);
        assert!(with(&format!("{a}, {other}")).unwrap_err().contains("the same mtu and queues"));
    }
}
