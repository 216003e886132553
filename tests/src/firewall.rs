//! What a kernel does to packets on their way: loses some, marks some. By nft, in a namespace of its own.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::command::run;
use crate::namespace::Namespace;

/// Matches one packet and no more.
pub const ONCE: &str = "limit rate 1/day burst 1 packets";

/// Where frames go that are lost. Who sends would be told of a drop, and try again as if nothing had happened.
pub const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// The rules of an interface.
pub struct Firewall<'a> {
    namespace: &'a Namespace,
    interface: &'a str,
}

impl<'a> Firewall<'a> {
    /// Without a rule. Those of an earlier one are gone.
    #[must_use]
    pub fn new(namespace: &'a Namespace, interface: &'a str) -> Self {
        let firewall = Self { namespace, interface };
        firewall.clear();
        firewall
    }

    /// Takes all rules away, and their counts.
    pub fn clear(&self) {
        let Self { interface, .. } = self;
        // As soon as packets come, before they are tracked or routed; and as late as they go.
        self.nft(&format!(
            "table inet coming
            delete table inet coming
            table inet coming {{
                counter matched {{ }}
                chain rules {{ type filter hook prerouting priority -150; }}
            }}
            table netdev going
            delete table netdev going
            table netdev going {{
                counter matched {{ }}
                chain rules {{ type filter hook egress device {interface} priority 0; }}
            }}",
        ));
    }

    /// Adds a rule for what comes. What it does is counted.
    pub fn incoming(&self, matches: &str, does: &str) {
        self.nft(&format!("add rule inet coming rules {matches} counter name matched {does}"));
    }

    /// Adds a rule for what goes. What it does is counted.
    pub fn outgoing(&self, matches: &str, does: &str) {
        self.nft(&format!("add rule netdev going rules {matches} counter name matched {does}"));
    }

    /// Loses what comes.
    pub fn lose_incoming(&self, matches: &str) {
        self.incoming(matches, "drop");
    }

    /// Loses what goes.
    pub fn lose_outgoing(&self, matches: &str) {
        let [a, b, c, d, e, f] = NOBODY;
        let nobody = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        self.outgoing(matches, &format!("ether daddr set {nobody}"));
    }

    /// How many packets rules had to do with: of those that came, and that went.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let count = |table: [&str; 2]| {
            let mut nft = self.namespace.command("nft");
            let text = run(nft.args(["-j", "list", "counter"]).args(table).arg("matched"));
            let found: Value = serde_json::from_str(&text).expect("nft prints JSON");
            found["nftables"][1]["counter"]["packets"].as_u64().expect("nft prints counts")
        };
        (count(["inet", "coming"]), count(["netdev", "going"]))
    }

    fn nft(&self, rules: &str) {
        let mut command = self.namespace.command("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped());
        let mut nft = command.spawn().expect("scripts/setup installed it");
        let mut stdin = nft.stdin.take().expect("it is piped");
        stdin.write_all(rules.as_bytes()).expect("it reads them");
        drop(stdin);
        let status = nft.wait().expect("it is ours");
        assert!(status.success(), "nft refuses {rules:?}");
    }
}
