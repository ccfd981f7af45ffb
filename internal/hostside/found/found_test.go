package found

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
)

func machine(t *testing.T, files map[string]string) Host {
	t.Helper()
	h := Host{Root: t.TempDir(), Units: func(_ context.Context, names ...string) (map[string]system.Unit, error) {
		out := map[string]system.Unit{}
		for _, n := range names {
			out[n] = system.Unit{Exists: true, Enabled: "enabled", Active: "active"}
		}
		return out, nil
	}}
	for path, content := range files {
		put(t, h, path, content)
	}
	return h
}

func put(t *testing.T, h Host, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.at(path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.at(path), []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
}

var desired = facts.Desired{Files: []facts.File{{Path: "/etc/a"}, {Path: "/etc/b"}, {Path: "/etc/hosts", Block: "x"}}, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"},
	Enable: []string{"haproxy.service"}}

// TestTheFirstNoteCounts: a second run of the same operation finds what Quorate made.
func TestTheFirstNoteCounts(t *testing.T) {
	h := machine(t, map[string]string{"/etc/a": "theirs", "/etc/hosts": "x", "/proc/sys/net/ipv4/ip_forward": "0\n", "/opt/cni/bin/mine": ""})
	if err := h.NoteDesired(t.Context(), desired); err != nil {
		t.Fatal(err)
	}
	first, err := h.Read()
	if err != nil {
		t.Fatal(err)
	}
	if f := first.Files["/etc/a"]; f == nil || string(f.Content) != "theirs" || f.Mode != 0o640 {
		t.Errorf("%+v", f)
	}
	if b, noted := first.Files["/etc/b"]; !noted || b != nil {
		t.Errorf("what was not there: %v, %t", b, noted)
	}
	if _, noted := first.Files["/etc/hosts"]; noted {
		t.Error("a file of which only a block is Quorate's was noted")
	}
	if first.Sysctls["net.ipv4.ip_forward"] != "0" || !first.Units["haproxy.service"].Active || !reflect.DeepEqual(first.Directories["/opt/cni/bin"], []string{"mine"}) || first.Directories["/etc/kubernetes"] != nil {
		t.Errorf("%+v", first)
	}
	for _, path := range []string{"/etc/a", "/etc/b", "/proc/sys/net/ipv4/ip_forward", facts.BegunFile} {
		put(t, h, path, "1")
	}
	more := desired
	more.Files = append(more.Files, facts.File{Path: "/etc/c"})
	put(t, h, "/etc/c", "theirs, too")
	if err := h.NoteDesired(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	second, err := h.Read()
	if err != nil {
		t.Fatal(err)
	}
	if c := second.Files["/etc/c"]; c == nil {
		t.Error("what is replaced later is not noted")
	}
	delete(second.Files, "/etc/c")
	if !reflect.DeepEqual(first, second) {
		t.Errorf("the second run noted %+v", second)
	}
}

// TestWhatAnEarlierVersionMadeIsNotTheirs: a version that noted nothing set the host up.
func TestWhatAnEarlierVersionMadeIsNotTheirs(t *testing.T) {
	h := machine(t, map[string]string{"/etc/a": "Quorate's own without a word of that", "/proc/sys/net/ipv4/ip_forward": "1", facts.BegunFile: "prod"})
	for range 2 {
		if err := h.NoteDesired(t.Context(), desired); err != nil {
			t.Fatal(err)
		}
	}
	r, err := h.Read()
	if err != nil {
		t.Fatal(err)
	}
	if r.Whole || r.Files["/etc/a"] != nil || len(r.Sysctls)+len(r.Units) > 0 {
		t.Errorf("%+v", r)
	}
}

// TestProgramsThatAreInstalled had no units before.
func TestProgramsThatAreInstalled(t *testing.T) {
	h := machine(t, nil)
	if err := h.NotePrograms([]string{"haproxy"}); err != nil {
		t.Fatal(err)
	}
	if err := h.NoteDesired(t.Context(), desired); err != nil {
		t.Fatal(err)
	}
	if r, err := h.Read(); err != nil || r.Units["haproxy.service"].Exists {
		t.Errorf("%+v, %v", r, err)
	}
	put(t, h, facts.FoundFile, "{")
	if err := h.NoteDesired(t.Context(), desired); err == nil {
		t.Error("a record that cannot be read was replaced")
	}
}
