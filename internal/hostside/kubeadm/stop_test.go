package kubeadm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/withdrawal"
	"quorate.dev/quorate/internal/staticpod"
)

// TestSetEtcdServers: an API server never runs with other members than its manifest names, wherever the change is interrupted.
func TestSetEtcdServers(t *testing.T) {
	const before = `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, labels: {tier: control-plane}}
spec:
  containers:
  - name: kube-apiserver
    command:
    - kube-apiserver
    - --etcd-servers=https://10.0.0.41:2379,https://10.0.0.42:2379
status: {}
`
	servers := []string{"https://10.0.0.42:2379"}
	after := strings.ReplaceAll(before, "https://10.0.0.41:2379,", "")
	h := withdrawal.Host{Root: t.TempDir()}
	path := filepath.Join(h.Root, staticpod.Dir, facts.APIServer+".yaml")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	is := func(want string) {
		t.Helper()
		if got, _ := os.ReadFile(path); string(got) != want {
			t.Errorf("the manifest is %q, want %q", got, want)
		}
	}
	// running is what the API server was started with; empty if none runs.
	running := before
	ended := func(context.Context, string) (int, error) {
		is("")
		running = ""
		return 0, nil
	}
	started := func(context.Context, string) (bool, error) {
		data, err := os.ReadFile(path)
		if running == "" {
			running = string(data)
		}
		return true, err
	}
	hangs := func(context.Context, string) (int, error) { return 1, nil }
	over, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the time is over"))

	if err := setEtcdServers(t.Context(), h, nil, ended, started); err == nil {
		t.Error("without members")
	}
	if err := setEtcdServers(over, h, servers, hangs, started); err == nil || running != before {
		t.Errorf("it does not end: %v", err)
	}
	is(before)
	// The process was killed when the API server had ended.
	if err := h.Withdraw(t.Context(), facts.APIServer, ended); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := setEtcdServers(t.Context(), h, servers, ended, started); err != nil {
			t.Fatal(err)
		}
		is(after)
		if running != after || len(h.Withdrawn()) > 0 {
			t.Errorf("the API server was started with %q, and is withdrawn: %v", running, h.Withdrawn())
		}
	}
}
