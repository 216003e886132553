//! Receive-side scaling: whether a device spreads flows as [`crate::flow`] says it does.
//!
//! Called by `configure`. Must never: believe a capability that cannot be read back.

use dpdk_sys as dpdk;

use crate::flow::{INDIRECTION_ENTRIES, RSS_KEY};

/// Drivers read the key at start, through a pointer that outlives the call.
static KEY: [u8; 40] = RSS_KEY;

/// The kinds of packet that the stacks' flows are of.
const NEEDED: u64 = dpdk::RTE_ETH_RSS_NONFRAG_IPV4_TCP
    | dpdk::RTE_ETH_RSS_NONFRAG_IPV4_UDP
    | dpdk::RTE_ETH_RSS_NONFRAG_IPV6_TCP
    | dpdk::RTE_ETH_RSS_NONFRAG_IPV6_UDP;

/// Kinds that are hashed by address alone, where the device can.
const WELCOME: u64 = dpdk::RTE_ETH_RSS_IPV4
    | dpdk::RTE_ETH_RSS_FRAG_IPV4
    | dpdk::RTE_ETH_RSS_NONFRAG_IPV4_OTHER
    | dpdk::RTE_ETH_RSS_IPV6
    | dpdk::RTE_ETH_RSS_FRAG_IPV6
    | dpdk::RTE_ETH_RSS_NONFRAG_IPV6_OTHER;

/// The configuration with which a device may spread flows over `queues` as needed; `None` if it
/// cannot. `net_tap` has no indirection table that could be told the spread, `net_null`
/// no key.
pub(super) fn wanted(info: &dpdk::rte_eth_dev_info, queues: u16) -> Option<dpdk::rte_eth_rss_conf> {
    let able = queues > 1
        && usize::from(info.hash_key_size) == KEY.len()
        && info.flow_type_rss_offloads & NEEDED == NEEDED
        && table_suits(u32::from(info.reta_size), u32::from(queues));
    able.then(|| conf(NEEDED | WELCOME & info.flow_type_rss_offloads))
}

/// Whether a table of `entries`, indexed by the hash's low bits, can act like the 128-entry one.
const fn table_suits(entries: u32, queues: u32) -> bool {
    let divides = entries.is_multiple_of(queues) && INDIRECTION_ENTRIES.is_multiple_of(queues);
    entries != 0 && entries.is_power_of_two() && (entries >= INDIRECTION_ENTRIES || divides)
}

const fn conf(rss_hf: u64) -> dpdk::rte_eth_rss_conf {
    dpdk::rte_eth_rss_conf {
        rss_key: KEY.as_ptr().cast_mut(),
        rss_key_len: KEY.len() as u8,
        rss_hf,
    }
}

/// Fills the table of a started port, and reads the key back: whether the port now spreads flows
/// as [`crate::flow::shard_of`] has it.
pub(super) fn program(port: u16, entries: u16, queues: u16) -> bool {
    fill_table(port, entries, queues) && key_is_ours(port)
}

fn fill_table(port: u16, entries: u16, queues: u16) -> bool {
    let group = dpdk::RTE_ETH_RETA_GROUP_SIZE as u16;
    let queue_of = |entry: u16| entry % INDIRECTION_ENTRIES as u16 % queues;
    let mut groups: Vec<dpdk::rte_eth_rss_reta_entry64> = (0..entries.div_ceil(group))
        .map(|number| {
            let mut reta = dpdk::rte_eth_rss_reta_entry64 { mask: u64::MAX, ..Default::default() };
            for (at, queue) in (number * group..).zip(reta.reta.iter_mut()) {
                *queue = queue_of(at);
            }
            reta
        })
        .collect();
    // SAFETY: as many groups as `entries` need.
    unsafe { dpdk::rte_eth_dev_rss_reta_update(port, groups.as_mut_ptr(), entries) == 0 }
}

fn key_is_ours(port: u16) -> bool {
    let mut key = [0; KEY.len()];
    let mut conf = dpdk::rte_eth_rss_conf {
        rss_key: key.as_mut_ptr(),
        rss_key_len: key.len() as u8,
        rss_hf: 0,
    };
    // SAFETY: the key's room and its length are in `conf`.
    let returned = unsafe { dpdk::rte_eth_dev_rss_hash_conf_get(port, &raw mut conf) };
    returned == 0 && key == KEY && conf.rss_hf & NEEDED == NEEDED
}

#[cfg(test)]
mod tests {
    use super::table_suits;
    use crate::flow::shard_of;

    #[test]
    fn suitable_tables_spread_as_the_software_does() {
        for entries in [16_u32, 64, 128, 512, 2048] {
            for queues in 2..=16_u32 {
                let spreads_alike = (0..4096_u32).all(|hash| {
                    let queue = hash % entries % 128 % queues;
                    queue as usize == shard_of(hash, queues as usize)
                });
                assert_eq!(table_suits(entries, queues), spreads_alike, "{entries}, {queues}");
            }
        }
        assert!(!table_suits(0, 2));
    }
}
