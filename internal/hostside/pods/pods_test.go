package pods

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
)

// here is a pod whose network is this one's own.
func here(t *testing.T) *trialPod {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("entering a network namespace needs root")
	}
	ns, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	p := &trialPod{ns: ns, detach: func() error { return nil }}
	if err := p.inside(func() (err error) {
		p.listen, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	}); err != nil {
		ns.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestPodsReachEachOther(t *testing.T) {
	p := here(t)
	go echo(p.listen)
	if err := p.reach(t.Context(), p.listen.Addr().String()); err != nil {
		t.Error(err)
	}
}

func TestPodsThatCannotReach(t *testing.T) {
	p := here(t)
	// It takes a few packets and no more, like a way that lets only small ones pass.
	go func() {
		for {
			c, err := p.listen.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	if err := p.reach(t.Context(), p.listen.Addr().String()); err == nil || !strings.Contains(err.Error(), "only 0 came back") || !strings.Contains(err.Error(), "MTU") {
		t.Errorf("got %v", err)
	}
	gone, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	if err := p.reach(t.Context(), gone.Addr().String()); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
}

func TestTheFirstNetworkCounts(t *testing.T) {
	dir := t.TempDir()
	if _, err := firstNetwork(dir); err == nil || !strings.Contains(err.Error(), "no CNI configuration") {
		t.Errorf("got %v", err)
	}
	for name, content := range map[string]string{
		"10-first.conflist": `{"cniVersion": "1.1.0", "name": "first", "plugins": [{"type": "bridge"}]}`,
		"20-second.conf":    `{"cniVersion": "1.0.0", "name": "second", "type": "ptp"}`,
		"00-other.txt":      "no",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := firstNetwork(dir); err != nil || n.Name != "first" {
		t.Errorf("%v, %+v", err, n)
	}
	if err := os.Remove(filepath.Join(dir, "10-first.conflist")); err != nil {
		t.Fatal(err)
	}
	if n, err := firstNetwork(dir); err != nil || n.Name != "second" {
		t.Errorf("%v, %+v", err, n)
	}
}
