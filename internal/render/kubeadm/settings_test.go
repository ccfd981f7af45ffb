package kubeadm

import (
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
)

func TestStoredArguments(t *testing.T) {
	c := config()
	text, err := documents(c.clusterConfiguration())
	if err != nil {
		t.Fatal(err)
	}
	before := string(text)
	with, err := WithArguments(before, map[string]map[string]string{facts.APIServer: {"v": "4", "audit-log-maxage": "7"}, facts.Scheduler: {"v": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"- name: v\n    value: \"4\"", "- name: audit-log-maxage\n    value: \"7\"", "- name: v\n    value: \"2\"", "name: goaway-chance", "certSANs:", "name: audit-log"} {
		if !strings.Contains(with, part) {
			t.Errorf("no %q in\n%s", part, with)
		}
	}
	back, err := WithArguments(with, map[string]map[string]string{facts.APIServer: {"v": "", "audit-log-maxage": "30"}, facts.Scheduler: {"v": ""}})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(back, "name: v\n") || !strings.Contains(back, "name: audit-log-maxage\n    value: \"30\"") || len(back) != len(before) {
		t.Errorf("what was added is not gone:\n%s", back)
	}
	for _, wrong := range []string{"", "kind: InitConfiguration", "kind: ClusterConfiguration\napiServer: {extraArgs: {v: '1'}}"} {
		if got, err := WithArguments(wrong, nil); err == nil {
			t.Errorf("%q became %q", wrong, got)
		}
	}
}

// TestStoredTimersOfEtcd: they come and go, and everything else of a stacked etcd stays.
func TestStoredTimersOfEtcd(t *testing.T) {
	c := config()
	text, err := documents(c.clusterConfiguration())
	if err != nil {
		t.Fatal(err)
	}
	before, err := WithArguments(string(text), nil) // in the same order
	if err != nil {
		t.Fatal(err)
	}
	change := func(text string, timers facts.EtcdTimers) string {
		t.Helper()
		out, err := WithArguments(text, map[string]map[string]string{facts.Etcd: hostconfig.EtcdArguments(timers)})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	with := change(before, facts.EtcdTimers{Heartbeat: 30, Election: 1000})
	mustContain(t, []byte(with), "- name: heartbeat-interval\n      value: \"30\"", "- name: election-timeout\n      value: \"1000\"", "- name: quota-backend-bytes", "dataDir: /var/lib/etcd")
	if again := change(with, facts.EtcdTimers{Heartbeat: 30, Election: 300}); strings.Count(again, "election-timeout") != 1 || !strings.Contains(again, "- name: election-timeout\n      value: \"300\"") {
		t.Errorf("they do not take the place of the former:\n%s", again)
	}
	if back := change(with, facts.EtcdTimers{}); back != before {
		t.Errorf("what was added is not gone:\n%s", back)
	}
	if _, err := WithArguments("kind: ClusterConfiguration\netcd: {external: {endpoints: []}}", map[string]map[string]string{facts.Etcd: {"election-timeout": "300"}}); err == nil {
		t.Error("an external etcd gets arguments")
	}
}

func TestStoredKubeletFields(t *testing.T) {
	got, err := WithKubeletFields("kind: KubeletConfiguration\nmaxPods: 50\npodPidsLimit: 9\n", map[string]any{"maxPods": nil, "systemReserved": map[string]string{"cpu": "1"}})
	if err != nil || strings.Contains(got, "maxPods") || !strings.Contains(got, "systemReserved:\n  cpu: \"1\"") || !strings.Contains(got, "podPidsLimit: 9") {
		t.Errorf("%v\n%s", err, got)
	}
	if _, err := WithKubeletFields("kind: x", nil); err == nil {
		t.Error("something else is taken for a kubelet's configuration")
	}
}
