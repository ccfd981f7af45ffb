package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/facts"
)

// hashTimeout is how long a member may take to hash its data: it reads all of it.
const hashTimeout = 2 * time.Minute

// hashes is the part of etcd's client that hashing needs.
type hashes interface {
	Status(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error)
	HashKV(ctx context.Context, endpoint string, rev int64) (*clientv3.HashKVResponse, error)
}

// Hashes has all members hash their keys and values at one revision, which is how etcd itself finds out whether their data is the
// same. Members that could not be asked, or that no longer have that revision, are missing in the result, which is by the member's
// ID. The other members are slowed down while they read their data: ask rarely.
func Hashes(ctx context.Context, members []Member) map[string]facts.EtcdHash {
	asked := make([]hashes, len(members))
	endpoints := make([]string, len(members))
	for i, m := range members {
		endpoints[i] = "https://" + m.Address
		client, err := Connect(ctx, m)
		if err != nil {
			continue
		}
		defer client.Close()
		asked[i] = client
	}
	return hashAll(ctx, asked, endpoints)
}

func hashAll(ctx context.Context, members []hashes, endpoints []string) map[string]facts.EtcdHash {
	revisions := make([]int64, len(members))
	each(members, func(i int, c hashes) {
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
		defer cancel()
		if s, err := c.Status(ctx, endpoints[i]); err == nil {
			revisions[i] = s.Header.Revision
		}
	})
	common := int64(0)
	for _, r := range revisions {
		if r > 0 && (common == 0 || r < common) {
			common = r
		}
	}
	out := map[string]facts.EtcdHash{}
	if common == 0 {
		return out
	}
	var mu sync.Mutex
	each(members, func(i int, c hashes) {
		if revisions[i] == 0 {
			return
		}
		ctx, cancel := context.WithTimeoutCause(ctx, hashTimeout, errors.New("the hash took too long"))
		defer cancel()
		h, err := c.HashKV(ctx, endpoints[i], common)
		if err != nil {
			return // it has compacted that revision, or is gone
		}
		mu.Lock()
		defer mu.Unlock()
		out[strconv.FormatUint(h.Header.MemberId, 16)] = facts.EtcdHash{Revision: common, Compacted: h.CompactRevision, Hash: h.Hash}
	})
	return out
}

// each calls f for every member at the same time.
func each(members []hashes, f func(int, hashes)) {
	var wg sync.WaitGroup
	for i, c := range members {
		if c != nil {
			wg.Go(func() { f(i, c) })
		}
	}
	wg.Wait()
}
