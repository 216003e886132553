//! What is counted of frames and IP packets, whatever the kind of stack.
#![forbid(unsafe_code)]

use super::groups;
use super::neighbours::Dropped;
use super::reassembly::Losses;
use crate::counters::counters;

counters! {
    /// Frames given to the stack.
    rx_frames = "rx.frames",
    /// Frames written, of all kinds.
    tx_frames = "tx.frames",
    /// Frames with a wrong checksum.
    drop_checksum = "drop.rx_checksum",
    /// TCP and UDP packets whose sender left the checksum to a device that they never passed: turn
    /// that off at the other end (`ethtool -K INTERFACE tx off`).
    drop_checksum_partial = "drop.rx_checksum_partial",
    /// IP packets with inconsistent headers, or with fewer bytes than their headers announce.
    drop_malformed = "drop.ip_malformed",
    /// Fragments whose packet was not complete after 30 seconds.
    drop_fragment_timeout = "drop.fragment_timeout",
    /// Fragments whose packet gave way to a newer one: too many were incomplete.
    drop_fragment_evicted = "drop.fragment_evicted",
    /// Fragments that overlap or contradict others, and those others (RFC 5722).
    drop_fragment_overlap = "drop.fragment_overlap",
    /// Fragments that no packet can have, or more of one than a path makes.
    drop_fragment_malformed = "drop.fragment_malformed",
    /// Frames for other Ethernet addresses, which a port shows that accepts all.
    drop_other_mac = "drop.other_mac",
    /// Frames with a VLAN tag, on a stack that is in none; and with another tag behind the stack's.
    drop_vlan = "drop.vlan",
    /// Frames of other VLANs, or without a tag, on a stack that is in one.
    drop_other_vlan = "drop.other_vlan",
    /// Frames of unknown protocols, or too short to tell.
    drop_unknown = "drop.unknown_protocol",
    /// IP packets, and questions of neighbours, for addresses that are not ours.
    drop_not_ours = "drop.not_ours",
    /// IP packets from addresses that no other station can have: our own, groups, loopback, none.
    drop_source = "drop.impossible_source",
    /// Neighbour messages that contradict a static neighbour.
    drop_neighbour = "drop.static_neighbour_contradicted",
    /// Answers and announcements of neighbours that this instance did not ask for.
    drop_neighbour_unasked = "drop.neighbour_unasked",
    /// ARP and neighbour discovery messages that no station of the link may send.
    drop_neighbour_unsound = "drop.neighbour_unsound",
    /// Messages of others that claim to have one of our addresses.
    drop_conflict = "drop.address_conflict",
    /// Router advertisements, solicitations and redirects, which this kind does not act upon.
    drop_router = "drop.router_message",
    /// Messages of IGMP and MLD that no router or station of the link may send.
    drop_group_unsound = "drop.group_message_unsound",
    /// Messages of IGMP and MLD that concern routers, or groups that no socket is a member of.
    drop_group_other = "drop.group_message_other",
    /// Datagrams to a group that no socket is a member of.
    drop_group = "drop.group_not_joined",
    /// Answers to a station whose Ethernet address was not known yet.
    drop_answer_no_neighbour = "drop.answer_no_neighbour",
    /// ICMP errors about nothing that a socket here sent, or that it does not act upon.
    drop_icmp_error = "drop.icmp_error",
    /// Echo replies that answer no request under way.
    drop_echo_reply = "drop.echo_reply_unasked",
    /// Our own frames to many that found no room on their way back to us.
    drop_loop_full = "drop.loop_full",
    /// Answers that found no transmit slot.
    drop_tx_full = "drop.tx_no_slot",
}

impl Counters {
    /// Adds what the reassembler lost.
    pub(crate) fn add_fragment_losses(&mut self, losses: Losses) {
        self.drop_fragment_timeout += losses.timeout;
        self.drop_fragment_evicted += losses.evicted;
        self.drop_fragment_overlap += losses.overlap;
        self.drop_fragment_malformed += losses.malformed;
    }

    /// Adds what was said in vain of groups.
    pub(crate) fn add_groups_dropped(&mut self, dropped: groups::Dropped) {
        self.drop_group_unsound += dropped.unsound;
        self.drop_group_other += dropped.others;
    }

    /// Adds what the neighbours said in vain.
    pub(crate) fn add_neighbours_dropped(&mut self, dropped: Dropped) {
        self.drop_neighbour += dropped.contradiction;
        self.drop_neighbour_unasked += dropped.unasked;
        self.drop_neighbour_unsound += dropped.unsound;
        self.drop_conflict += dropped.conflict;
        self.drop_router += dropped.router;
        self.drop_not_ours += dropped.not_ours;
    }
}
