package etcd

import (
	"slices"
	"testing"
)

func TestAbandonedClustersAreNeverForgotten(t *testing.T) {
	m := Member{Root: t.TempDir()}
	if got := m.Abandoned(); len(got) > 0 {
		t.Errorf("a new host knows %v", got)
	}
	for _, ids := range [][]string{{"c2"}, {"c1", "c2"}, {}, {"c2"}} {
		if err := m.Abandon(ids...); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.Abandoned(); !slices.Equal(got, []string{"c1", "c2"}) {
		t.Errorf("it knows %v", got)
	}
}
