package size

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestMachines(t *testing.T) {
	for _, tc := range []struct {
		c                  Cluster
		control, etcd      Machine
		fsync, podCIDRBits int
	}{
		{Cluster{5, 150, 3}, Machine{2, 8 * gib, 20 * gib}, Machine{2, 8 * gib, 20 * gib}, 10, 16},
		{Cluster{11, 330, 3}, Machine{4, 16 * gib, 20 * gib}, Machine{2, 8 * gib, 20 * gib}, 10, 16},
		{Cluster{200, 6000, 3}, Machine{16, 64 * gib, 20 * gib}, Machine{4, 16 * gib, 20 * gib}, 10, 16},
		{Cluster{256, 7680, 3}, Machine{16, 64 * gib, 20 * gib}, Machine{8, 32 * gib, 20 * gib}, 2, 16},
		{Cluster{257, 7710, 3}, Machine{16, 64 * gib, 20 * gib}, Machine{8, 32 * gib, 20 * gib}, 2, 15},
		{Cluster{1000, 30000, 3}, Machine{32, 128 * gib, 100 * gib}, Machine{8, 32 * gib, 100 * gib}, 2, 14},
		{Cluster{5000, 150000, 3}, Machine{32, 128 * gib, 500 * gib}, Machine{16, 64 * gib, 200 * gib}, 2, 11},
		// Many pods on few nodes are as demanding as more nodes.
		{Cluster{100, 11000, 3}, Machine{16, 64 * gib, 20 * gib}, Machine{8, 32 * gib, 20 * gib}, 2, 16},
	} {
		a := Advise(tc.c)
		if a.ControlPlanes.Machine != tc.control || a.Etcd.Machine != tc.etcd || a.EtcdDisk.FsyncMillis != tc.fsync || a.PodCIDRBits != tc.podCIDRBits {
			t.Errorf("%+v: control planes %+v, etcd %+v, disk %+v, range /%d", tc.c, a.ControlPlanes, a.Etcd, a.EtcdDisk, a.PodCIDRBits)
		}
	}
}

// TestLargerIsNeverLess: no figure becomes smaller when a cluster grows.
func TestLargerIsNeverLess(t *testing.T) {
	before, set := Advise(Cluster{1, 30, 3}), SettingsOf(1, 30)
	for nodes := 2; nodes <= MaxNodes; nodes++ {
		a, s := Advise(Cluster{nodes, nodes * PodsPerNode, 3}), SettingsOf(nodes, nodes*PodsPerNode)
		for _, p := range [][2]Role{{before.ControlPlanes, a.ControlPlanes}, {before.Etcd, a.Etcd}, {before.LoadBalancers, a.LoadBalancers}} {
			if p[1].CPUs < p[0].CPUs || p[1].MemoryBytes < p[0].MemoryBytes || p[1].DiskBytes < p[0].DiskBytes {
				t.Fatalf("%d nodes need %+v, one less %+v", nodes, p[1], p[0])
			}
		}
		if s.RequestsInFlight < set.RequestsInFlight || s.MutatingInFlight < set.MutatingInFlight || s.Connections < set.Connections || s.DNSReplicas < set.DNSReplicas || s.StatusReportSeconds < set.StatusReportSeconds || a.PodCIDRBits > before.PodCIDRBits {
			t.Fatalf("%d nodes get %+v, one less %+v", nodes, s, set)
		}
		if s.Connections < 10*nodes {
			t.Fatalf("%d nodes hold more than %d connections", nodes, s.Connections)
		}
		if 1<<(24-a.PodCIDRBits) < nodes {
			t.Fatalf("a /%d has too few ranges for %d nodes", a.PodCIDRBits, nodes)
		}
		before, set = a, s
	}
}

func TestSettings(t *testing.T) {
	for _, tc := range []struct {
		nodes, pods int
		want        Settings
	}{
		{1, 30, Settings{0, 0, 8000, 2, 0}},
		{32, 960, Settings{0, 0, 8000, 2, 0}},
		{33, 990, Settings{0, 0, 8000, 3, 0}},
		{200, 6000, Settings{0, 0, 8000, 13, 300}},
		{400, 12000, Settings{0, 0, 8000, 25, 300}},
		{401, 12030, Settings{0, 0, 16000, 26, 300}},
		{500, 15000, Settings{0, 0, 16000, 32, 300}},
		{501, 15030, Settings{1500, 500, 16000, 32, 300}},
		{200, 22000, Settings{1500, 500, 8000, 13, 300}},
		{1000, 30000, Settings{1500, 500, 32000, 63, 300}},
		{3001, 90030, Settings{3000, 1000, 64000, 188, 300}},
		{5000, 150000, Settings{3000, 1000, 100000, 313, 300}},
	} {
		if got := SettingsOf(tc.nodes, tc.pods); got != tc.want {
			t.Errorf("%d nodes and %d pods: %+v, want %+v", tc.nodes, tc.pods, got, tc.want)
		}
	}
	for _, s := range SettingsOf(5, 150).List() {
		if !s.Default {
			t.Errorf("a small cluster has another setting: %+v", s)
		}
	}
}

func TestRoom(t *testing.T) {
	for _, tc := range []struct {
		c        Cluster
		left     int
		percent  int
		problems []string
	}{
		{Cluster{12, 180, 3}, 6, 66, nil},
		{Cluster{103, 3000, 5}, 78, 79, nil},
		{Cluster{12, 180, 1}, 8, 88, []string{"one zone"}},
		{Cluster{13, 180, 2}, 5, 50, []string{"two zones"}},
		{Cluster{33, 3000, 3}, 20, 66, []string{"150 pods would have to run on each worker", "At least 42 workers are needed for 3000 pods"}},
		{Cluster{4, 30, 3}, 0, 0, []string{"too few workers"}},
		{Cluster{6000, 150000, 3}, 3998, 66, []string{"at most 5000 nodes", "/11"}},
		{Cluster{5000, 150001, 3}, 3331, 66, []string{"at most 150000 pods", "/11"}},
	} {
		a := Advise(tc.c)
		if a.Workers.Left != tc.left || a.Workers.RequestsPercent != tc.percent || len(a.Problems) == 0 != (tc.problems == nil) {
			t.Errorf("%+v: %+v, %q", tc.c, a.Workers, a.Problems)
		}
		for _, part := range tc.problems {
			if !strings.Contains(strings.Join(a.Problems, "\n"), part) {
				t.Errorf("%+v: no %q in %q", tc.c, part, a.Problems)
			}
		}
	}
}

// TestEveryFigureHasASource that exists.
func TestEveryFigureHasASource(t *testing.T) {
	a := Advise(Cluster{200, 6000, 3})
	used := slices.Concat(a.ControlPlanes.Sources, a.Etcd.Sources, a.LoadBalancers.Sources, []string{FromDNS, FromCoreDNS, FromKubeadm})
	for _, s := range a.Settings {
		used = append(used, s.Source)
	}
	for _, name := range used {
		if !slices.ContainsFunc(Sources, func(s Source) bool { return s.Name == name && s.Says != "" }) {
			t.Errorf("there is no source %q", name)
		}
	}
	for _, s := range Sources {
		if !slices.Contains(used, s.Name) {
			t.Errorf("nothing uses the source %s", s.Name)
		}
	}
}

// TestThePage: the table in the documentation has the figures of this package.
func TestThePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/size.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{10, 50, 100, 250, 500, 1000, 3000, 5000} {
		c := Cluster{Nodes: n}
		row := fmt.Sprintf("| %d | %d CPUs, %d GiB | %d CPUs, %d GiB | %d GiB | %d ms |\n", n, c.ControlPlane().CPUs, c.ControlPlane().MemoryBytes/gib,
			c.EtcdHost().CPUs, c.EtcdHost().MemoryBytes/gib, c.EtcdHost().DiskBytes/gib, c.EtcdDisk().FsyncMillis)
		if !strings.Contains(string(page), row) {
			t.Errorf("docs/size.md has no row %q", row)
		}
	}
	for _, s := range Sources {
		if s.URL != "" && s.Name != FromKubeadm && !strings.Contains(string(page), "("+s.URL+")") {
			t.Errorf("docs/size.md does not name %s", s.URL)
		}
	}
}

func TestLoadBalancers(t *testing.T) {
	for connections, want := range map[int]Machine{8000: {1, gib, 10 * gib}, 16000: {2, gib, 10 * gib}, MostConnections: {2, 4 * gib, 10 * gib}} {
		if got := LoadBalancer(connections); got != want {
			t.Errorf("%d connections: %+v", connections, got)
		}
	}
}
