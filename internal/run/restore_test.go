package run

import (
	"errors"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// TestAClusterThatMayStillRun: its CA may have been replaced after the backup was taken, and nobody who answers says so.
func TestAClusterThatMayStillRun(t *testing.T) {
	for _, tc := range []struct {
		ours, others []string
		want         []string
		noCA         bool
	}{
		{nil, nil, nil, false},
		{[]string{"cp-a (10.0.0.11)"}, nil, []string{"still runs: its API answers on cp-a (10.0.0.11)"}, false},
		{nil, []string{"cp-b (10.0.0.12): a certificate of kube-apiserver"}, []string{"may still run", "cp-b (10.0.0.12): a certificate of kube-apiserver", "the CA was replaced", "another cluster has the address"}, false},
		{[]string{"cp-a (10.0.0.11)"}, []string{"cp-b (10.0.0.12): x"}, []string{"still runs: its API answers on cp-a", "may still run"}, false},
		{nil, []string{"cp-b (10.0.0.12): a certificate of kube-apiserver"}, []string{"may still run", "cp-b (10.0.0.12): a certificate of kube-apiserver", "no CA is left"}, true},
		{nil, nil, nil, true},
	} {
		got := stillRuns(tc.ours, tc.others, "backup", !tc.noCA)
		if (got == "") != (len(tc.want) == 0) {
			t.Errorf("%v, %v: %q", tc.ours, tc.others, got)
		}
		for _, want := range tc.want {
			if !strings.Contains(got, want) {
				t.Errorf("%v, %v: %q lacks %q", tc.ours, tc.others, got, want)
			}
		}
	}
}

// TestFormerServers: the cluster of data is asked for also if its spec is lost.
func TestFormerServers(t *testing.T) {
	host := func(name, address string) spec.Host {
		return spec.Host{Name: name, Address: address, Roles: []string{spec.RoleControlPlane}}
	}
	after := &spec.Cluster{Spec: spec.Spec{Hosts: []spec.Host{host("cp-a", "10.0.0.11"), host("new", "10.0.0.99")}}}
	before := &spec.Cluster{Spec: spec.Spec{Hosts: []spec.Host{host("cp-a", "10.0.0.11"), host("cp-b", "10.0.0.12"), {Name: "w-a", Address: "10.0.0.31", Roles: []string{spec.RoleWorker}}}}}
	members := []backup.Member{{ID: "a1", Name: "cp-a", PeerURLs: []string{"https://10.0.0.11:2380"}}, {ID: "b2", Name: "cp-b", PeerURLs: []string{"https://10.0.0.12:2380"}},
		{ID: "c3", PeerURLs: []string{"https://10.0.0.13:2380", "unix:///p"}}}
	for name, tc := range map[string]struct {
		before  *spec.Cluster
		members []backup.Member
		want    string
	}{
		"nothing is known": {nil, nil, ""},
		"the spec":         {before, nil, "cp-b=10.0.0.12"},
		"the members":      {nil, members, "cp-b=10.0.0.12 c3=10.0.0.13"},
		"both":             {before, members, "cp-b=10.0.0.12 c3=10.0.0.13"},
	} {
		var got []string
		for _, h := range formerServers(tc.before, after, tc.members) {
			got = append(got, h.Name+"="+h.Address)
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: %v, want %s", name, got, tc.want)
		}
	}
}

// TestEveryRestoreIsAnotherEtcd, also of the same backup at the same moment, and a run that goes on is the same one.
func TestEveryRestoreIsAnotherEtcd(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	from := facts.Restore{Backup: "0123", Revision: 4711}
	first, second := begunAs(from, nil, now, newNonce()), begunAs(from, nil, now, newNonce())
	if first.Nonce == "" || first.Nonce == second.Nonce || first.Bump != second.Bump {
		t.Errorf("%+v, %+v", first, second)
	}
	for _, begun := range []facts.Restore{first, {Backup: "0123", Revision: 4711, Bump: 7}} { // the second one by a version without nonces
		if again := begunAs(from, &begun, now.Add(time.Hour), newNonce()); again != begun {
			t.Errorf("%+v goes on as %+v", begun, again)
		}
	}
}

func TestSpecsThatFitABackup(t *testing.T) {
	const etcd = "v3.7.1"
	of := func(kubernetes, etcd, networking string) RestoreOptions {
		return RestoreOptions{Backup: backup.Unpacked{Verified: backup.Verified{Manifest: backup.Manifest{Cluster: backup.Cluster{Name: "prod", Kubernetes: kubernetes}, Etcd: backup.Etcd{Version: etcd}}},
			Parts: map[string][]byte{backup.ConfigMaps + "kubeadm-config.json": []byte(`{"ClusterConfiguration": "networking: {` + networking + `}"}`)}}}
	}
	const same = "podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/12, dnsDomain: cluster.local"
	for name, tc := range map[string]struct {
		change  func(*spec.Cluster)
		backup  RestoreOptions
		lab     bool
		refused string
	}{
		"the same":              {backup: of("v1.37.1", "3.7.0", same)},
		"another patch release": {backup: of("v1.37.9", "3.7.9", same)},
		"other hosts and endpoint": {change: func(c *spec.Cluster) {
			c.Spec.Hosts[0].Name = "new"
			c.Spec.ControlPlane.Endpoint = "new.example.com:6443"
		}, backup: of("v1.37.1", "3.7.0", same)},
		"another topology":             {change: func(c *spec.Cluster) { c.Spec.ControlPlane.Topology = spec.TopologyExternal }, backup: of("v1.37.1", "3.7.0", same)},
		"an older etcd":                {backup: of("v1.37.1", "3.6.5", same)},
		"a newer etcd":                 {backup: of("v1.37.1", "3.8.0", same), refused: "of etcd 3.8.0"},
		"another minor release":        {backup: of("v1.36.3", "3.6.5", same), refused: "of Kubernetes v1.36.3"},
		"another name":                 {change: func(c *spec.Cluster) { c.Metadata.Name = "test" }, backup: of("v1.37.1", "3.7.0", same), refused: "of the cluster prod"},
		"another name in a lab":        {change: func(c *spec.Cluster) { c.Metadata.Name = "test" }, backup: of("v1.37.1", "3.7.0", same), lab: true},
		"other pods":                   {change: func(c *spec.Cluster) { c.Spec.Network.PodCIDR = "10.0.0.0/16" }, backup: of("v1.37.1", "3.7.0", same), refused: "podCIDR"},
		"other pods in kubeadm-config": {backup: of("v1.37.1", "3.7.0", "podSubnet: 10.1.0.0/16"), refused: "network.podCIDR is 10.1.0.0/16"},
		"other Services":               {change: func(c *spec.Cluster) { c.Spec.Network.ServiceCIDR = "10.97.0.0/16" }, backup: of("v1.37.1", "3.7.0", same), refused: "serviceCIDR"},
		"another pod network":          {change: func(c *spec.Cluster) { c.Spec.Network.CNI = spec.CNINone }, backup: of("v1.37.1", "3.7.0", same), refused: "cni"},
		"another domain":               {backup: of("v1.37.1", "3.7.0", "dnsDomain: example.com"), refused: "domain"},
		"an etcd of somebody else": {change: func(c *spec.Cluster) {
			c.Spec.ControlPlane.Topology, c.Spec.Etcd.Endpoints = spec.TopologyExternal, []string{"https://etcd.example.com:2379"}
		}, backup: of("v1.37.1", "3.7.0", same), refused: "etcd of this spec is your own"},
	} {
		before, c := spec.DefaultLab("prod"), spec.DefaultLab("prod")
		c.Spec.Kubernetes.Version = "v1.37.2"
		if tc.change != nil {
			tc.change(c)
		}
		tc.backup.Lab = tc.lab
		err := Fits(c, etcd, tc.backup, before)
		var r *cluster.Refusal
		switch {
		case tc.refused == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.refused != "" && (!errors.As(err, &r) || !strings.Contains(r.Why, tc.refused) || !strings.Contains(r.Fix, "Nothing was changed")):
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestARestoreNeedsTheTime: with a clock that is behind the backup, a second restore would begin at revisions of the first.
func TestARestoreNeedsTheTime(t *testing.T) {
	created := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for name, c := range map[string]struct {
		now  time.Time
		fits bool
	}{
		"later":                     {created.Add(time.Hour), true},
		"clocks that differ little": {created.Add(-time.Minute), true},
		"no clock":                  {time.Unix(0, 0), false},
		"a year behind":             {created.AddDate(-1, 0, 0), false},
	} {
		err := clockFits(c.now, created)
		var refused *cluster.Refusal
		if c.fits != (err == nil) || err != nil && !(errors.As(err, &refused) && refused.Rule == RuleFitsBackup) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
