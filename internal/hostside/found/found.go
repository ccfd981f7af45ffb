// Package found remembers how a host was before Quorate changed it, so that a reset can restore that.
//
// Operations that change a host for the first time note what they are about to change. What is noted once stays: a second run
// of the same operation finds what Quorate made, and not what was there before.
package found

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Record is how a host was found.
type Record struct {
	// Whole says that the record was begun before Quorate changed anything. Without it, an earlier version of Quorate set the host
	// up and noted nothing: what is there may be its own.
	Whole bool `json:"whole"`
	// Files are those that Quorate replaced; nil for a path at which there was none.
	Files map[string]*File `json:"files,omitempty"`
	// Directories are the names in each of Directories; nil for one that did not exist.
	Directories map[string][]string `json:"directories,omitempty"`
	// Sysctls are the values of kernel settings.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Units are those that Quorate enables.
	Units map[string]Unit `json:"units,omitempty"`
	// Modules says of kernel modules whether they were loaded.
	Modules map[string]bool `json:"modules,omitempty"`
}

// File is a file that Quorate replaced.
type File struct {
	Content []byte      `json:"content"`
	Mode    fs.FileMode `json:"mode"`
	UID     int         `json:"uid"`
	GID     int         `json:"gid"`
}

// Unit is a systemd unit before Quorate configured it.
type Unit struct {
	Exists  bool `json:"exists"`
	Enabled bool `json:"enabled"`
	Active  bool `json:"active"`
}

// Directories may exist before Quorate comes, and hold what is not Quorate's.
var Directories = []string{"/opt/cni/bin", "/etc/cni/net.d", "/var/lib/cni", "/etc/containerd", "/etc/containerd/certs.d", "/etc/etcd", "/var/log/pods", "/var/log/containers", "/var/log/kubernetes",
	"/var/lib/etcd", "/var/lib/kubelet", "/var/lib/containerd", "/etc/kubernetes"}

// Sysctls are kernel settings that the programs of a node change when they start: the kubelet and kube-proxy.
var Sysctls = []string{"vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops", "kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes",
	"net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_tcp_timeout_established", "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
	"net.ipv4.conf.all.route_localnet", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"}

// Host is a host whose files are below Root: empty for the host itself, a directory in tests.
type Host struct {
	Root string
	// Units asks systemd.
	Units func(context.Context, ...string) (map[string]system.Unit, error)
}

// Local is this host.
var Local = Host{Units: system.Units}

var mu sync.Mutex

func (h Host) at(path string) string { return filepath.Join(h.Root, path) }

// Read returns the record; it is empty if nothing was noted. A record that cannot be read is an error: what it says would be
// lost.
func (h Host) Read() (Record, error) {
	var r Record
	data, err := os.ReadFile(h.at(facts.FoundFile))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("reading how this host was found: %w; remove %s if it is damaged: a reset then restores the defaults of the system", err, facts.FoundFile)
	}
	for _, m := range []func(){
		func() { r.Files = orEmpty(r.Files) }, func() { r.Directories = orEmpty(r.Directories) }, func() { r.Sysctls = orEmpty(r.Sysctls) },
		func() { r.Units = orEmpty(r.Units) }, func() { r.Modules = orEmpty(r.Modules) },
	} {
		m()
	}
	return r, nil
}

func orEmpty[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

// note changes the record and stores it.
func (h Host) note(add func(*Record) error) error {
	mu.Lock()
	defer mu.Unlock()
	r, err := h.Read()
	if err != nil {
		return err
	}
	before, err := json.Marshal(r)
	if err != nil {
		return err
	}
	r.Whole = r.Whole || !system.Exists(h.at(facts.FoundFile)) && !h.touched()
	if err := add(&r); err != nil {
		return fmt.Errorf("noting how this host was found: %w", err)
	}
	data, err := json.Marshal(r)
	if err != nil || bytes.Equal(data, before) {
		return err
	}
	return durable.WriteFile(h.at(facts.FoundFile), data, 0o600)
}

// NotePrograms is called before programs of packages are installed: their units did not exist.
func (h Host) NotePrograms(programs []string) error {
	return h.note(func(r *Record) error {
		for _, p := range programs {
			if unit := p + ".service"; !has(r.Units, unit) {
				r.Units[unit] = Unit{}
			}
		}
		return nil
	})
}

// NoteDirectories is called before programs are unpacked.
func (h Host) NoteDirectories() error {
	return h.note(func(r *Record) error { h.directories(r); return nil })
}

func (h Host) directories(r *Record) {
	for _, d := range Directories {
		if !has(r.Directories, d) && r.Whole {
			r.Directories[d] = h.names(d)
		}
	}
}

// names are those in a directory; nil if it does not exist.
func (h Host) names(dir string) []string {
	entries, err := os.ReadDir(h.at(dir))
	if err != nil {
		return nil
	}
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// NoteDesired is called before a host is brought to what is desired.
func (h Host) NoteDesired(ctx context.Context, d facts.Desired) error {
	var units map[string]system.Unit
	if len(d.Enable) > 0 {
		var err error
		if units, err = h.Units(ctx, d.Enable...); err != nil {
			return err
		}
	}
	return h.note(func(r *Record) error {
		h.directories(r)
		for _, f := range d.Files {
			if f.Block != "" || has(r.Files, f.Path) {
				continue
			}
			before, err := h.file(r, f.Path)
			if err != nil {
				return err
			}
			r.Files[f.Path] = before
		}
		names := []string{}
		for name := range d.Sysctls {
			names = append(names, name)
		}
		if len(d.Modules) > 0 { // a node
			names = append(names, Sysctls...)
		}
		for _, name := range names {
			value, err := os.ReadFile(h.at(facts.SysctlFile(name)))
			if err == nil && !has(r.Sysctls, name) && r.Whole {
				r.Sysctls[name] = strings.Join(strings.Fields(string(value)), " ")
			}
		}
		for _, m := range d.Modules {
			if !has(r.Modules, m) && r.Whole {
				r.Modules[m] = system.Exists(h.at("/sys/module/" + m))
			}
		}
		for name, u := range units {
			if !has(r.Units, name) && r.Whole && !h.ours(name) {
				r.Units[name] = Unit{Exists: u.Exists, Enabled: u.Enabled == "enabled", Active: u.Active == "active"}
			}
		}
		return nil
	})
}

func has[V any](m map[string]V, key string) bool { _, ok := m[key]; return ok }

// touched says that Quorate changed the host before anything was noted: an earlier version of it, which noted nothing.
func (h Host) touched() bool {
	for _, mark := range []string{facts.BegunFile, facts.EstablishedFile, facts.AdoptedFile} {
		if system.Exists(h.at(mark)) {
			return true
		}
	}
	return false
}

// ours says that Quorate configured a unit of a package before.
func (h Host) ours(unit string) bool {
	return system.Exists(h.at("/etc/systemd/system/" + unit + ".d/quorate.conf"))
}

// file is what is at a path; nil if there is nothing, or what Quorate wrote.
func (h Host) file(r *Record, path string) (*File, error) {
	info, err := os.Lstat(h.at(path))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(h.at(path))
	if err != nil {
		return nil, err
	}
	if filepath.Dir(filepath.Dir(path)) == hostconfig.RegistriesDir { // settings may come long after the host was set up; the first line says whose it is
		if bytes.HasPrefix(content, []byte(hostconfig.WrittenRegistry+"\n")) {
			return nil, nil
		}
	} else if bytes.Contains(bytes.ToLower(append([]byte(path), content...)), []byte("quorate")) || !r.Whole {
		return nil, nil
	}
	f := &File{Content: content, Mode: info.Mode().Perm()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.UID, f.GID = int(st.Uid), int(st.Gid)
	}
	return f, nil
}

// Restore writes the file again as it was.
func (f *File) Restore(path string) error {
	if err := durable.WriteFile(path, f.Content, f.Mode); err != nil {
		return err
	}
	if err := os.Chmod(path, f.Mode); err != nil || os.Geteuid() != 0 {
		return err
	}
	return os.Lchown(path, f.UID, f.GID)
}

// Forget removes what a record has from what is stored: it was restored, and may become different before Quorate changes it again.
func (h Host) Forget(what Record) error {
	return h.note(func(r *Record) error {
		for path := range what.Files {
			delete(r.Files, path)
		}
		for name := range what.Sysctls {
			delete(r.Sysctls, name)
		}
		for name := range what.Units {
			delete(r.Units, name)
		}
		return nil
	})
}

// NoteFile records that the file at path was like the one at kept, unless something else is recorded.
func (h Host) NoteFile(path, kept string) error {
	return h.note(func(r *Record) error {
		if r.Files[path] != nil {
			return nil
		}
		content, err := os.ReadFile(kept)
		if err != nil {
			return err
		}
		r.Files[path] = &File{Content: content, Mode: 0o644}
		return nil
	})
}
