package etcd

import (
	"slices"
	"strings"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
)

// Abandoned are the IDs of the etcd clusters that recoveries of the quorum have replaced, as far as this host was told.
func (m Member) Abandoned() (ids []string) {
	return append(ids, strings.Fields(system.ReadTrimmed(m.path(facts.EtcdAbandonedFile)))...)
}

// Abandon notes the IDs of more of them. None is ever forgotten: their members may come back at any time.
func (m Member) Abandon(ids ...string) error {
	have := m.Abandoned()
	all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(have, ids))))
	if slices.Equal(have, all) {
		return nil
	}
	return durable.WriteFile(m.path(facts.EtcdAbandonedFile), []byte(strings.Join(all, "\n")+"\n"), 0o600)
}
