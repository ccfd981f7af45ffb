package withdrawal

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const pod = `apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, labels: {tier: control-plane}}
spec:
  containers: [{name: kube-apiserver, image: x}]
status: {}
`

func ended(context.Context, string) (int, error) { return 0, nil }

func TestWithdraw(t *testing.T) {
	h := Host{Root: t.TempDir()}
	const name = "kube-apiserver"
	write := func(path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	exists := func(path string) bool { _, err := os.Stat(path); return err == nil }
	state := func(running, aside bool) {
		t.Helper()
		if exists(h.manifest(name)) != running || slices.Contains(h.Withdrawn(), name) != aside {
			t.Fatalf("in its place %t, withdrawn %v", exists(h.manifest(name)), h.Withdrawn())
		}
	}
	if err := h.Withdraw(t.Context(), name, ended); err != nil { // a host that does not have it
		t.Fatal(err)
	}
	write(h.manifest(name), pod)
	state(true, false)

	// It waits until the pod has ended, and can be cut short and repeated.
	left := 2
	count := func(context.Context, string) (int, error) { left--; return max(left, 0), nil }
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("the time is over"))
	defer cancel()
	err := h.Withdraw(ctx, name, func(context.Context, string) (int, error) { return 1, nil })
	if err == nil || !strings.Contains(err.Error(), "it still runs") {
		t.Fatal(err)
	}
	state(false, true)
	for range 2 {
		if err := h.Withdraw(t.Context(), name, count); err != nil {
			t.Fatal(err)
		}
		state(false, true)
	}
	for range 2 {
		if err := h.Return(name); err != nil {
			t.Fatal(err)
		}
		state(true, false)
	}
	// A return that was cut short left both. One that somebody wrote meanwhile stays.
	write(h.aside(name), pod)
	write(h.manifest(name), pod+"# newer\n")
	state(true, false)
	if err := h.Return(name); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(h.manifest(name)); !strings.Contains(string(data), "newer") || exists(h.aside(name)) {
		t.Error("the newer manifest is gone, or the older one is still there")
	}
	// A manifest that is damaged is not kept as the only copy.
	write(h.manifest(name), "kind: Pod\n")
	if err := h.Withdraw(t.Context(), name, ended); err == nil {
		t.Error("a damaged manifest was set aside")
	}
}

// TestHalfAManifest: a program that was killed while it wrote one has left the beginning of it, in the place of the manifest or beside it.
func TestHalfAManifest(t *testing.T) {
	h := Host{Root: t.TempDir()}
	const name = "kube-apiserver"
	half := pod[:len(pod)-len("status: {}\n")]
	write := func(path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path string) string { data, _ := os.ReadFile(path); return string(data) }
	fine := func(*corev1.Pod) error { return nil }
	if err := h.Clear(name, fine); err != nil { // a host that does not have it
		t.Fatal(err)
	}
	write(h.manifest(name), pod)
	if err := h.Clear(name, fine); err != nil || read(h.manifest(name)) != pod {
		t.Errorf("a complete manifest was moved, or %v", err)
	}
	if err := h.Clear(name, func(*corev1.Pod) error { return errors.New("a flag is missing") }); err != nil || read(h.manifest(name)) != "" || read(h.aside(name)+incomplete) != pod {
		t.Errorf("a manifest that lacks something: %v", err)
	}
	write(h.manifest(name), half)
	write(h.aside(name), pod)
	if got := h.Withdrawn(); !slices.Equal(got, []string{name}) {
		t.Errorf("half a manifest counts as one: %v", got)
	}
	for range 2 {
		if err := h.Clear(name, fine); err != nil {
			t.Fatal(err)
		}
	}
	if read(h.manifest(name)) != "" || read(h.aside(name)+incomplete) != half || read(h.aside(name)) != pod || !slices.Equal(h.Withdrawn(), []string{name}) {
		t.Errorf("in its place %q, aside %q, kept %q, withdrawn %v", read(h.manifest(name)), read(h.aside(name)), read(h.aside(name)+incomplete), h.Withdrawn())
	}
	if data, err := h.Manifest(name); err != nil || string(data) != pod {
		t.Errorf("the manifest that was set aside: %q, %v", data, err)
	}
	// What was set aside returns only if it is complete.
	write(h.aside(name), half)
	if data, err := h.Manifest(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no complete manifest: %q, %v", data, err)
	}
	if err := h.Return(name); err == nil || read(h.manifest(name)) != "" {
		t.Errorf("half a manifest returned: %v", err)
	}
	write(h.manifest(name), half)
	write(h.aside(name), pod)
	if err := h.Return(name); err != nil || read(h.manifest(name)) != pod {
		t.Errorf("in place of half a manifest: %v", err)
	}
	if data, err := h.Manifest(name); err != nil || string(data) != pod {
		t.Errorf("the manifest in its place: %q, %v", data, err)
	}
}
