/*
 * What the bindings are generated from: the DPDK headers, and the few things in them that no
 * binding generator can reach (a thread-local macro, an mbuf's fields under names that do not move
 * from one DPDK release to the next).
 */
#ifndef DPDK_SYS_SHIM_H
#define DPDK_SYS_SHIM_H

#include <rte_bus.h>
#include <rte_common.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_interrupts.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_version.h>

/* The calling thread's rte_errno, a macro over a thread-local variable. */
static inline int
dpdk_sys_errno(void)
{
	return rte_errno;
}

/* What a receiver wants to know of one mbuf, in one call per burst. */
struct dpdk_sys_rx_view {
	const uint8_t *data; /* first segment */
	uint32_t data_len;   /* bytes in the first segment */
	uint32_t pkt_len;    /* bytes in all segments */
	uint64_t ol_flags;
	uint32_t rss_hash; /* valid with RTE_MBUF_F_RX_RSS_HASH */
	uint32_t nb_segs;
};

/* Describes `count` received mbufs. */
static inline void
dpdk_sys_rx_view(struct rte_mbuf *const *mbufs, struct dpdk_sys_rx_view *views, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct rte_mbuf *mbuf = mbufs[i];
		views[i].data = rte_pktmbuf_mtod(mbuf, const uint8_t *);
		views[i].data_len = mbuf->data_len;
		views[i].pkt_len = mbuf->pkt_len;
		views[i].ol_flags = mbuf->ol_flags;
		views[i].rss_hash = mbuf->hash.rss;
		views[i].nb_segs = mbuf->nb_segs;
	}
}

/* Where an empty mbuf's data goes, and how much fits behind its headroom. */
static inline uint8_t *
dpdk_sys_tx_room(struct rte_mbuf *mbuf, uint32_t *capacity)
{
	*capacity = rte_pktmbuf_tailroom(mbuf);
	return rte_pktmbuf_mtod(mbuf, uint8_t *);
}

/* Makes a freshly allocated mbuf a frame of `len` bytes that were written at its data pointer. */
static inline void
dpdk_sys_tx_set(struct rte_mbuf *mbuf, uint16_t len, uint64_t ol_flags, uint8_t l2_len,
		uint16_t l3_len, uint8_t l4_len)
{
	mbuf->data_len = len;
	mbuf->pkt_len = len;
	mbuf->ol_flags = ol_flags;
	mbuf->tx_offload = 0;
	mbuf->l2_len = l2_len;
	mbuf->l3_len = l3_len;
	mbuf->l4_len = l4_len;
}

/* Frees a ring of mbufs, with those that are in it. */
static inline void
dpdk_sys_ring_free(struct rte_ring *ring)
{
	void *mbuf;

	while (rte_ring_sc_dequeue(ring, &mbuf) == 0)
		rte_pktmbuf_free(mbuf);
	rte_ring_free(ring);
}

#endif
